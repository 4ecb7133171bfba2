/*
 * A pager that means harm: garbage indices, torn and replayed responses, for vcpus and pages that do not exist or are in
 * another state, between memops in any order. What it may do to its own guest is its business; the host must stay up.
 *
 *   hostile ROUNDS [SEED]
 */
#include "dummy.h"
#include <time.h>

static uint64_t state;

static uint64_t any(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t any_gfn(void)
{
    return any() % 8 ? any() % GFNS : any() >> (any() % 64);
}

static void any_entry(struct dummy *d, unsigned slot)
{
    vm_event_response_t *rsp = &d->sring->ring[slot % 8].rsp;

    if (any() % 4 == 0) {
        for (unsigned i = 0; i < sizeof *rsp / 8; i++)
            ((uint64_t *)rsp)[i] = any();
        return;
    }
    rsp->version = any() % 8 ? VM_EVENT_INTERFACE_VERSION : any();
    rsp->reason = any() % 8 ? VM_EVENT_REASON_MEM_PAGING : any();
    rsp->flags = any() % 4 ? VM_EVENT_FLAG_VCPU_PAUSED : any();
    rsp->vcpu_id = any() % 4 ? any() % 3 : any();
    rsp->u.mem_paging.gfn = any_gfn();
    rsp->u.mem_paging.flags = any() % 4 ? 0 : any();
}

static void one_round(struct dummy *d, unsigned char *buffer)
{
    static const int op[] = { XENMEM_paging_op_nominate, XENMEM_paging_op_evict, XENMEM_paging_op_prep };

    for (unsigned n = any() % 4; n > 0; n--)
        memop(d->id, op[any() % 3], any_gfn(), any() % 8 ? buffer : any() % 2 ? NULL : (void *)any());
    for (unsigned n = any() % 3; n > 0; n--)
        ask_for(d->id, any() % GFNS);
    for (unsigned n = any() % 9; n > 0; n--)
        any_entry(d, any());
    switch (any() % 8) {
    case 0: d->sring->rsp_prod = any(); break;
    case 1: d->sring->rsp_prod += any() % 16; break;
    case 2: d->sring->req_prod = any(); break;
    case 3: d->sring->req_event = any(); break;
    case 4: d->sring->rsp_event = any(); break;
    /* As many answers as there are questions. */
    default: d->sring->rsp_prod = d->sring->req_prod; break;
    }
    xen_wmb();
    if (xenevtchn_notify(d->events, d->port))
        stop("cannot notify Xen");
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
    struct timespec before, after;
    struct dummy d;
    unsigned char *buffer;
    long worst = 0, total, paged;

    state = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 : 0x9e3779b97f4a7c15;
    open_everything();
    buffer = mmap(NULL, XC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    attach(&d);
    for (unsigned long i = 0; i < rounds; i++) {
        clock_gettime(CLOCK_MONOTONIC, &before);
        one_round(&d, buffer);
        clock_gettime(CLOCK_MONOTONIC, &after);
        long took = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
        if (took > worst)
            worst = took;
    }
    counts(d.id, &total, &paged);
    printf("hostile: %lu rounds, worst %ld us, %ld pages, %ld paged\n", rounds, worst, total, paged);
    if ((errno = vm_event(d.id, XEN_VM_EVENT_DISABLE, NULL)))
        stop("cannot disable paging");
    if (xc_domain_destroy(xch, d.id))
        stop("cannot destroy the domain");
    return 0;
}
