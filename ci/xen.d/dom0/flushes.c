/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts the interrupts that Xen sends to other CPUs while pages are nominated
 * and evicted under a running guest, so that these CPUs flush their
 * translations. Xen counts them in its debug build (CONFIG_PERF_COUNTERS):
 *
 *   OPERATION, CALLS = N pages, N interrupts
 */
#include "dummy.h"
#include "tiny.h"

enum { FIRST = 32, SECOND = 256, PAGES = 192, MANY = 16 };

static struct dummy dom;

/* Interrupts that other CPUs got so far; -1: this Xen does not count. */
static long interrupts(void)
{
    static char text[1 << 18];
    static const char word[] = "#IPIs";
    unsigned bytes = sizeof text - 1;
    char *at, *last = NULL;

    if (xc_send_debug_keys(xch, "p") || xc_readconsolering(xch, text, &bytes, 0, 0, NULL))
        stop("cannot read Xen's console");
    text[bytes] = 0;
    for (at = text; (at = strstr(at, word)); at++)
        last = at;
    return last && (last = strstr(last, "TOTAL[")) ? atol(last + strlen("TOTAL[")) : -1;
}

static void must(int error, const char *what)
{
    if ((errno = error))
        stop("%s", what);
}

static void one_by_one(const char *name, unsigned op)
{
    long before = interrupts();

    for (unsigned i = 0; i < PAGES; i++)
        must(memop(dom.id, op, FIRST + i, NULL), name);
    printf("%s, one by one = %u pages, %ld interrupts\n", name, PAGES, interrupts() - before);
}

/* 0, or ENOSYS if this Xen takes only one page at a time. */
static int together(const char *name, unsigned op, uint64_t first)
{
    uint64_t (*items)[2] = xencall_alloc_buffer(xcall, PAGES * sizeof *items);
    long before = interrupts();

    for (unsigned i = 0; i < PAGES; i++) {
        items[i][0] = first + i;
        items[i][1] = 0;
    }
    int error = memop(dom.id, MANY + op, PAGES, items);
    if (error != ENOSYS) {
        must(error, name);
        for (unsigned i = 0; i < PAGES; i++)
            must(-(int)items[i][1], name);
        printf("%s, together = %u pages, %ld interrupts\n", name, PAGES, interrupts() - before);
    }
    xencall_free_buffer(xcall, items);
    return error;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_everything();
    if (interrupts() < 0) {
        printf("not counted\n");
        return 0;
    }
    attach(&dom);
    start_vcpus(dom.id);
    tell(0, READ, FIRST, 0);
    if (!within(60, is_done(0)))
        stop("the guest does not run");
    one_by_one("nominate", XENMEM_paging_op_nominate);
    one_by_one("evict", XENMEM_paging_op_evict);
    if (!together("nominate", XENMEM_paging_op_nominate, SECOND))
        together("evict", XENMEM_paging_op_evict, SECOND);
    unmap_mailboxes();
    must(detach(&dom), "destroy");
    return 0;
}
