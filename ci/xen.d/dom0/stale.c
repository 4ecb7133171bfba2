/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Checks that a vcpu cannot write a page any more that was taken from it. One
 * vcpu writes without a pause, on a CPU of its own, while this program, in
 * dom0, takes the page or the right to write it. When that hypercall has
 * returned, every CPU must have forgotten the old translation. The domain has
 * been paged for thousands of operations before: Xen counts who defers the
 * flush of a p2m, and if a p2m lock is not taken and released in the same way,
 * the count becomes wrong.
 *
 *   stale PAGES ROUNDS
 *
 * PAGES pages go out and in (three operations each), then there are ROUNDS
 * rounds of each way of taking. One line a way.
 */
#include "dummy.h"
#include "tiny.h"

enum { PAGED_GFN = 32, PAGED_GFNS = 256, WRITTEN_GFN = 400 };

static struct dummy dom;
static unsigned char *buffer;
static volatile uint32_t *word;

/* Gives the page back to the vcpu, and waits until the vcpu writes it again. */
static void wait_for_writes(const char *what)
{
    uint32_t before = *word;

    if (!within(60, *word - before > 1000))
        stop("%s: the vcpu does not write gfn %#x", what, WRITTEN_GFN);
}

/*
 * Whether a write reaches the page from now on: checked for as long as Xen's
 * timers may leave a vcpu alone on its CPU.
 */
static int is_written(void)
{
    uint32_t at_return = *word;
    double end = seconds() + 0.005;

    while (seconds() < end)
        if (*word != at_return)
            return 1;
    return 0;
}

static void map_word(void) { word = must_map(dom.id, WRITTEN_GFN); }

static int set_type(uint16_t type) { return xendevicemodel_set_mem_type(xdm, dom.id, type, WRITTEN_GFN, 1) ? errno : 0; }

/* The page becomes read-only: the vcpu's writes are dropped. */
static int take_right(void) { return set_type(HVMMEM_ram_ro); }
static void give_right(void)
{
    if ((errno = set_type(HVMMEM_ram_rw)))
        stop("cannot make the page writable");
}

/*
 * The page is taken from the guest. The map here keeps the frame, so that
 * nobody else gets it.
 */
static int take_page(void)
{
    xen_pfn_t gfn = WRITTEN_GFN;

    return xc_domain_decrease_reservation_exact(xch, dom.id, 1, 0, &gfn) ? errno : 0;
}
static void give_page(void)
{
    munmap((void *)word, XC_PAGE_SIZE);
    populate(dom.id, WRITTEN_GFN, 1, 0);
    map_word();
}

static void taken(const char *how, unsigned rounds, int (*take)(void), void (*give)(void))
{
    unsigned written = 0;

    for (unsigned round = 0; round < rounds; round++) {
        wait_for_writes(how);
        if ((errno = take()))
            stop("%s", how);
        written += is_written();
        give();
    }
    printf("%s = writes after it in %u of %u rounds\n", how, written, rounds);
}

/* One page at a time, PAGES times, while the vcpu writes another page. */
static void page_out_and_in(unsigned pages)
{
    for (unsigned n = 0; n < pages; n++) {
        uint64_t gfn = PAGED_GFN + n % PAGED_GFNS;

        if ((errno = memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL)) ||
            (errno = memop(dom.id, XENMEM_paging_op_evict, gfn, NULL)) ||
            (errno = memop(dom.id, XENMEM_paging_op_prep, gfn, buffer)))
            stop("cannot page gfn %#" PRIx64, gfn);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_everything();
    if (xc_get_online_cpus(xch) < 2)
        stop("this takes a machine with two CPUs");
    buffer = xencall_alloc_buffer(xcall, XC_PAGE_SIZE);
    memset(buffer, 0, XC_PAGE_SIZE);
    attach(&dom);
    start_vcpus(dom.id);
    /*
     * The vcpu that writes has the CPU for itself: otherwise a switch to the
     * other vcpu would flush the translation.
     */
    tell(1, LEAVE, 0, 0);
    if (!within(60, stands(dom.id, 1)))
        stop("vcpu 1 does not halt");
    map_word();
    tell(0, LOOP, WRITTEN_GFN, 0);
    taken("write right taken before paging", strtoul(argv[2], NULL, 0), take_right, give_right);
    page_out_and_in(strtoul(argv[1], NULL, 0));
    taken("write right taken", strtoul(argv[2], NULL, 0), take_right, give_right);
    taken("page taken", strtoul(argv[2], NULL, 0), take_page, give_page);
    wait_for_writes("at the end");
    munmap((void *)word, XC_PAGE_SIZE);
    unmap_mailboxes();
    return detach(&dom) != 0;
}
