/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * xen-glue/shim/pin.c by itself: which pages are pinned, and that they are
 * unpinned. Prints the place of the first failed check, and fails.
 */
#include PIN_C

static struct domain d = { .max_vcpus = 2 };
static struct vcpu vcpus[2] = { { &d, 0, false }, { &d, 1, false } };
static struct p2m_domain p2m = { &d };

#define must(x) \
    do { if (!(x)) { printf("pin.c: line %d: %s\n", __LINE__, #x); exit(1); } } while (0)

/* The running vcpu looks a page up, as Xen does for it, and puts it again. */
static void use(unsigned long mfn)
{
    struct page_info *page = &frames[mfn];

    get_page(page, &d);
    must(mem_paging_get_page(&p2m, mfn, p2m_ram_rw, P2M_ALLOC, page, true) == page);
    put_page(page);
}

static bool pinned(unsigned long mfn) { return frames[mfn].refs == 2; }

static unsigned int dumped(void)
{
    mem_paging_pin_dump(&d);
    return said_pinned;
}

/* Frames of one set: neighbouring frames are in different sets. */
static unsigned long in_one_set(unsigned int n) { return n * SETS; }

/* As guest_remove_page(). */
static void give_back(unsigned long mfn)
{
    must(frames[mfn].count_info & PGC_allocated);
    frames[mfn].count_info = 0;
    mem_paging_page_removed(&d, &frames[mfn]);
}

static void give_6_back(void) { give_back(6); }

int main(void)
{
    unsigned int i;

    for (i = 0; i < PAGES; i++)
        frames[i] = (struct page_info){ 1, PGC_allocated };

    /* Never paged. */
    current = &vcpus[0];
    use(1);
    must(!pinned(1));

    /* Paged once, and no pager is attached. */
    d.mem_paging_vcpu = mem_paging_pin_alloc(&d);
    use(1);
    must(!pinned(1) && dumped() == 0);

    /* A page that a vcpu uses is pinned, once, for that vcpu. */
    mem_paging_pin(&d, true);
    for (i = 0; i < 3; i++)
        use(1);
    xen_shim_pin_page(&d, 1, 2);
    must(pinned(1) && pinned(2) && dumped() == 2);

    /*
     * A page that the guest gives back is unpinned for all vcpus; others stay.
     */
    use(3);
    give_back(1);
    give_back(2);
    must(!pinned(1) && !pinned(2) && pinned(3) && dumped() == 1);

    /* Whether it is given back just before it is pinned, or just after. */
    frames[5].count_info = 0;
    use(5);
    must(!pinned(5));
    frames[5].count_info = PGC_allocated;
    meanwhile = give_6_back;
    use(6);
    meanwhile = NULL;
    must(!pinned(6) && pinned(3) && dumped() == 1);

    /* A vcpu that halts unpins its own pages. */
    current = &vcpus[1];
    use(4);
    mem_paging_halt();
    must(pinned(3) && !pinned(4) && dumped() == 1);

    /* Detached: nothing is pinned, and nothing will be. */
    use(5);
    mem_paging_pin(&d, false);
    must(!pinned(3) && !pinned(5) && dumped() == 0);
    use(5);
    must(!pinned(5));

    /* Of too many pages the one needed longest ago is unpinned. */
    mem_paging_pin(&d, true);
    for (i = 0; i < WAYS; i++)
        use(in_one_set(i));
    use(in_one_set(0));
    use(in_one_set(WAYS));
    must(pinned(in_one_set(0)) && !pinned(in_one_set(1)) && pinned(in_one_set(2)));
    must(dumped() == WAYS);
    mem_paging_pin(&d, false);
    for (i = 0; i < PAGES; i++)
        must(frames[i].refs == 1);

    /* A page that is out is missed, and requested, on the last lookup only. */
    mem_paging_hypercall();
    must(!mem_paging_get_page(&p2m, 9, p2m_ram_paged, P2M_ALLOC, NULL, false) && !mem_paging_page_was_out());
    must(!mem_paging_get_page(&p2m, 9, p2m_ram_paged, P2M_ALLOC, NULL, true) && mem_paging_page_was_out());
    must(asked == 1 && mem_paging_hypercall_again());
    mem_paging_hypercall();
    must(!mem_paging_hypercall_again());

    return 0;
}
