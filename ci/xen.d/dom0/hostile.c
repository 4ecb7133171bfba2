/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A hostile pager: garbage indices, and torn and replayed responses, for vcpus
 * and pages that do not exist or are in another state, between memops in any
 * order, while the guest's two vcpus touch the same pages on another CPU. The
 * pager may harm its own guest. The host must stay up.
 *
 *   hostile ROUNDS [SEED]
 */
#include "dummy.h"
#include "tiny.h"

/* The gfns below are the guest's code and mailboxes. */
enum { FIRST_GFN = 32 };

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
    return any() % 8 ? FIRST_GFN + any() % (GFNS - FIRST_GFN) : any() >> (any() % 64);
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
        ask_for(d->id, FIRST_GFN + any() % (GFNS - FIRST_GFN));
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
        if (any() % 4 == 0 && is_done(vcpu))
            tell(vcpu, any() % 2 ? READ : WRITE, FIRST_GFN + any() % (GFNS - FIRST_GFN), any());
    for (unsigned n = any() % 9; n > 0; n--)
        any_entry(d, any());
    RING_IDX req_prod = d->sring->req_prod, rsp_prod = d->sring->rsp_prod;

    switch (any() % 8) {
    case 0: d->sring->rsp_prod = any(); break;
    case 1: d->sring->rsp_prod += any() % 16; break;
    case 2: d->sring->req_prod = any(); break;
    case 3: d->sring->req_event = any(); break;
    case 4: d->sring->rsp_event = any(); break;
    /* As many responses as there are requests. */
    default: d->sring->rsp_prod = rsp_prod = req_prod; break;
    }
    xen_wmb();
    if (xenevtchn_notify(d->events, d->port))
        stop("cannot notify Xen");
    /* Usually the ring is repaired, so that there is a ring to attack. */
    if (any() % 8) {
        if (d->sring->req_prod - req_prod > 8)
            d->sring->req_prod = req_prod;
        d->sring->rsp_prod = rsp_prod;
    }
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
    double worst = 0, began, took;
    struct dummy d;
    unsigned char *buffer;
    xc_domaininfo_t info;
    int error;

    state = argc > 2 ? strtoull(argv[2], NULL, 0) | 1 : 0x9e3779b97f4a7c15;
    open_everything();
    buffer = mmap(NULL, XC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    attach(&d);
    start_vcpus(d.id);
    began = seconds();
    for (unsigned long i = 0; i < rounds; i++) {
        double before = seconds();
        one_round(&d, buffer);
        took = seconds() - before;
        if (took > worst)
            worst = took;
    }
    took = seconds() - began;
    if (xc_domain_getinfolist(xch, d.id, 1, &info) != 1 || info.domain != d.id)
        stop("the domain is gone");
    printf("hostile: %lu rounds in %.0f s, worst %.1f ms; guest's touches %u and %u, %s", rounds, took, worst * 1e3,
           mailbox[0]->done, mailbox[1]->done, info.flags & XEN_DOMINF_shutdown ? "crashed" : "alive");
    static const char *const names[] = { "requests", "responses", "responses-ignored", "ring-overruns", "nominated", "evicted",
                                         "prepped" };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        printf(", %s %ld", names[i], counter(d.id, names[i]));
    printf("\n");
    /* Xen must not have taken more off the ring than was put there. */
    if (counter(d.id, "responses") > counter(d.id, "requests"))
        stop("more responses than requests");
    /* Vcpus in the wait queue keep a pager attached, but no domain alive. */
    error = vm_event(d.id, XEN_VM_EVENT_DISABLE, NULL);
    if ((errno = error) && error != EBUSY)
        stop("cannot disable paging");
    unmap_mailboxes();
    if ((errno = detach(&d)))
        stop("cannot destroy the domain");
    if (!within(120, xc_domain_getinfolist(xch, d.id, 1, &info) != 1 || info.domain != d.id))
        stop("the domain is not gone");
    return 0;
}
