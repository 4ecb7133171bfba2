/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * xen-glue/shim/hold.c by itself: what is held, and that it is let go. Prints the
 * place of the first thing that is not so, and fails.
 */
#include HOLD_C

static struct domain d = { .max_vcpus = 2 };
static struct vcpu vcpus[2] = { { &d, 0, false }, { &d, 1, false } };
static struct p2m_domain p2m = { &d };

#define must(x) \
    do { if (!(x)) { printf("hold.c: line %d: %s\n", __LINE__, #x); exit(1); } } while (0)

/* The running vcpu looks a page up, as Xen does for it, and is done with it. */
static void use(unsigned long mfn)
{
    struct page_info *page = &frames[mfn];

    get_page(page, &d);
    must(mem_paging_get_page(&p2m, mfn, p2m_ram_rw, P2M_ALLOC, page, true) == page);
    put_page(page);
}

static bool held(unsigned long mfn) { return frames[mfn].refs == 2; }

static unsigned int dumped(void)
{
    mem_paging_hold_dump(&d);
    return said_held;
}

/* Frames of one set: neighbours are in different ones. */
static unsigned long in_one_set(unsigned int n) { return n * SETS; }

/* As guest_remove_page(). */
static void give_back(unsigned long mfn)
{
    must(frames[mfn].count_info & PGC_allocated);
    frames[mfn].count_info = 0;
    mem_paging_given_back(&d, &frames[mfn]);
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
    must(!held(1));

    /* Paged once, and no pager is attached. */
    d.mem_paging_vcpu = mem_paging_hold_alloc(&d);
    use(1);
    must(!held(1) && dumped() == 0);

    /* A page used is held, once, by whoever used it. */
    mem_paging_hold(&d, true);
    for (i = 0; i < 3; i++)
        use(1);
    p2mx_vcpu_hold(&d, 1, 2);
    must(held(1) && held(2) && dumped() == 2);

    /* A page that the guest gives back is let go, whoever holds it, and no other. */
    use(3);
    give_back(1);
    give_back(2);
    must(!held(1) && !held(2) && held(3) && dumped() == 1);

    /* Whether it is given back just before it comes to be held, or just after. */
    frames[5].count_info = 0;
    use(5);
    must(!held(5));
    frames[5].count_info = PGC_allocated;
    meanwhile = give_6_back;
    use(6);
    meanwhile = NULL;
    must(!held(6) && held(3) && dumped() == 1);

    /* A vcpu that halts lets its own go. */
    current = &vcpus[1];
    use(4);
    mem_paging_halt();
    must(held(3) && !held(4) && dumped() == 1);

    /* Detached: nothing is held, and nothing will be. */
    use(5);
    mem_paging_hold(&d, false);
    must(!held(3) && !held(5) && dumped() == 0);
    use(5);
    must(!held(5));

    /* Of too many the one needed longest ago goes; what is needed again does not. */
    mem_paging_hold(&d, true);
    for (i = 0; i < WAYS; i++)
        use(in_one_set(i));
    use(in_one_set(0));
    use(in_one_set(WAYS));
    must(held(in_one_set(0)) && !held(in_one_set(1)) && held(in_one_set(2)));
    must(dumped() == WAYS);
    mem_paging_hold(&d, false);
    for (i = 0; i < PAGES; i++)
        must(frames[i].refs == 1);

    /* A page that is out is missed, and asked for, on the last look only. */
    mem_paging_hypercall();
    must(!mem_paging_get_page(&p2m, 9, p2m_ram_paged, P2M_ALLOC, NULL, false) && !mem_paging_missed());
    must(!mem_paging_get_page(&p2m, 9, p2m_ram_paged, P2M_ALLOC, NULL, true) && mem_paging_missed());
    must(asked == 1 && mem_paging_hypercall_again());
    mem_paging_hypercall();
    must(!mem_paging_hypercall_again());

    return 0;
}
