/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What Xen reports of the pages that a guest uses
 * (MemPagingOp::OP_ACCESS_BITS). Prints a table on standard output, one line a
 * case; ci/xen.d/tests/uses.table has the expected one. The guest's two vcpus
 * touch the pages that they are told to. With an argument: the cases in which
 * accessed bits are not available because of another user (uses-beside.table).
 */
#include "dummy.h"
#include "tiny.h"

enum { OP_ACCESS_BITS = 32, CALL_GFNS = 16384, WORDS = CALL_GFNS / 64, LARGE_GFN = 1024, LARGE = 512 };
/* The pages of a case: read, written, executed, left alone. */
enum { READ_GFN = 65, WRITTEN_GFN = 70, RUN_GFN = 127, ALONE_GFN = 90 };

static struct dummy dom;
static uint64_t *words;

static const char *yes(int holds) { return holds ? "yes" : "no"; }

/* The buffer's old contents must not be mistaken for results. */
static int take(uint64_t gfn)
{
    memset(words, 0x55, XC_PAGE_SIZE);
    return memop(dom.id, OP_ACCESS_BITS, gfn, words);
}

static int used(uint64_t gfn) { return words[gfn / 64] >> (gfn % 64) & 1; }

static void touch(unsigned vcpu, enum touch how, uint64_t gfn)
{
    tell(vcpu, how, gfn, 0x1234);
    if (!within(60, is_done(vcpu)))
        stop("vcpu %u does not come back from gfn %#" PRIx64, vcpu, gfn);
}

static void show(const char *name)
{
    int error = take(0);

    printf("%s = %s, read %s, written %s, run %s, left alone %s\n", name, errno_name(error), yes(used(READ_GFN)),
           yes(used(WRITTEN_GFN)), yes(used(RUN_GFN)), yes(used(ALONE_GFN)));
}

/*
 * A large page: calls that begin in it or end in it may tell its words apart.
 */
static void show_large(const char *name)
{
    unsigned all = 0, error = take(0);

    for (unsigned gfn = LARGE_GFN; gfn < LARGE_GFN + LARGE; gfn++)
        all += used(gfn);
    printf("%s = %s, %u of %u\n", name, errno_name(error), all, LARGE);
}

static int done(int failed) { return failed ? errno : 0; }

/*
 * Intel: users beside whom accessed bits are not turned on, and users beside
 * whom there can be no pager.
 */
static int beside_others(void)
{
    uint32_t port;
    void *ring;

    if (xc_hvm_param_set(xch, dom.id, HVM_PARAM_MONITOR_RING_PFN, GFNS - 1) || !(ring = xc_monitor_enable(xch, dom.id, &port)))
        stop("no monitor");
    printf("a monitor comes = %s\n", errno_name(take(0)));
    if (xc_monitor_disable(xch, dom.id))
        stop("the monitor stays");
    munmap(ring, XC_PAGE_SIZE);
    printf("the monitor has gone = %s\n", errno_name(take(0)));
    if (xc_hvm_param_set(xch, dom.id, HVM_PARAM_ALTP2M, 1))
        stop("no alternate p2ms");
    printf("alternate p2ms beside a pager = %s\n", errno_name(done(xc_altp2m_set_domain_state(xch, dom.id, true))));
    vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL);
    printf("alternate p2ms without one = %s\n", errno_name(done(xc_altp2m_set_domain_state(xch, dom.id, true))));
    printf("a pager beside alternate p2ms = %s\n", errno_name(vm_event(dom.id, XEN_VM_EVENT_ENABLE, NULL)));
    return detach(&dom) != 0;
}

int main(int argc, char **argv)
{
    xen_pfn_t large = LARGE_GFN;
    void *code;

    (void)argv;
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_everything();
    words = xencall_alloc_buffer(xcall, XC_PAGE_SIZE);
    attach(&dom);
    if (argc > 1)
        return beside_others();
    if (xc_domain_setmaxmem(xch, dom.id, (GFNS + LARGE + 256) * 4) ||
        xc_domain_populate_physmap_exact(xch, dom.id, 1, 9, 0, &large))
        stop("no large page");
    start_vcpus(dom.id);
    code = must_map(dom.id, RUN_GFN);
    ((uint8_t *)code)[RUN_AT] = 0xc3;
    munmap(code, XC_PAGE_SIZE);
    int error = take(0);
    printf("asked = %s\n", errno_name(error));
    if (error == ENOSYS)
        return 0;
    show("not used since they were cleared");
    touch(0, READ, READ_GFN);
    touch(0, WRITE, WRITTEN_GFN);
    touch(1, RUN, RUN_GFN);
    show("used by vcpus");
    show("and not again");
    /*
     * Translations that the CPUs remember from before must not hide a second
     * use.
     */
    unsigned hidden = 0;
    for (unsigned n = 0; n < 20; n++) {
        touch(n & 1, READ, READ_GFN);
        hidden += take(0) || !used(READ_GFN) || used(ALONE_GFN);
    }
    printf("used over and over = hidden %u of 20\n", hidden);
    if (memop(dom.id, XENMEM_paging_op_nominate, WRITTEN_GFN, NULL) || memop(dom.id, XENMEM_paging_op_evict, WRITTEN_GFN, NULL))
        stop("cannot page out");
    touch(0, READ, READ_GFN);
    show("with a page out");
    touch(0, READ, LARGE_GFN + 3);
    show_large("a large page, used");
    show_large("the large page, not used again");
    touch(0, WRITE, LARGE_GFN + 500);
    printf("a large page, written, from its middle on = %s", errno_name(take(LARGE_GFN + 256)));
    printf(", words %s and beyond %s\n", yes(words[0] == ~0ull && words[3] == ~0ull), yes(words[4] != 0));
    show_large("the large page, its end having been asked for");
    printf("unaligned = %s\n", errno_name(take(1)));
    printf("the last gfns of a call = %s", errno_name(take(CALL_GFNS - 64)));
    printf(", one word %s\n", yes(words[0] == 0 && words[1] == 0x5555555555555555));
    printf("beyond the guest = %s", errno_name(take(1ull << 39)));
    printf(", used %s\n", yes(words[0] || words[WORDS - 1]));
    printf("beyond everything = %s\n", errno_name(take(1ull << 41)));
    printf("no memory for the words = %s\n", errno_name(memop(dom.id, OP_ACCESS_BITS, 0, (void *)0x10000)));
    vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL);
    printf("no pager = %s\n", errno_name(take(0)));
    unmap_mailboxes();
    return detach(&dom) != 0;
}
