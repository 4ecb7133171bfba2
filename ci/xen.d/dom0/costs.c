/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts the instructions that the hypervisor spends on each paging operation,
 * on a machine whose time stamp counter counts instructions (ci/xen costs).
 * From the count of each call the count of a similar call is subtracted that
 * returns at once: a memory operation on no domain, a request for a gfn that is
 * no memory, an event with nothing on the ring. The result is the median of
 * many pages, so that an interrupt now and then does not change it.
 */
#include "dummy.h"

enum { PAGES = 200 };

static struct dummy dom;
static unsigned char *buffer;
static xen_mem_paging_op_t *memop_argument;

static inline uint64_t instructions(void)
{
    uint32_t low, high;

    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) :: "memory");
    return (uint64_t)high << 32 | low;
}

/*
 * Each yields the count of one call. Only the call is between the two reads of
 * the counter.
 */
static uint64_t memory_operation(uint32_t id, unsigned op, uint64_t gfn, int wanted)
{
    memset(memop_argument, 0, sizeof *memop_argument);
    memop_argument->op = op;
    memop_argument->domain = id;
    memop_argument->gfn = gfn;
    set_xen_guest_handle_raw(memop_argument->buffer, op == XENMEM_paging_op_prep ? buffer : NULL);
    uint64_t began = instructions();
    int done = xencall2(xcall, __HYPERVISOR_memory_op, XENMEM_paging_op, (uintptr_t)memop_argument);
    uint64_t took = instructions() - began;
    if ((done < 0 ? errno : 0) != wanted)
        stop("operation %u on gfn %#" PRIx64, op, gfn);
    return took;
}

static uint64_t question(uint64_t gfn)
{
    uint64_t began = instructions();
    ask_for(dom.id, gfn);
    return instructions() - began;
}

static uint64_t event(void)
{
    uint64_t began = instructions();
    int failed = xenevtchn_notify(dom.events, dom.port);
    uint64_t took = instructions() - began;
    if (failed)
        stop("cannot notify Xen");
    return took;
}

static int smaller(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Prints the difference of the medians. */
static uint64_t print(const char *name, uint64_t *with, uint64_t *without)
{
    qsort(with, PAGES, sizeof *with, smaller);
    qsort(without, PAGES, sizeof *without, smaller);
    uint64_t cost = with[PAGES / 2] - without[PAGES / 2];
    printf("cost: %s %" PRIu64 "\n", name, cost);
    return cost;
}

int main(void)
{
    static uint64_t no_domain[PAGES], no_memory[PAGES], no_answer[PAGES];
    static uint64_t nominate[PAGES], evict[PAGES], ask[PAGES], prep[PAGES], answer[PAGES];
    vm_event_request_t request;

    open_everything();
    buffer = xencall_alloc_buffer(xcall, XC_PAGE_SIZE);
    memop_argument = xencall_alloc_buffer(xcall, sizeof *memop_argument);
    attach(&dom);
    for (unsigned i = 0; i < PAGES; i++) {
        no_domain[i] = memory_operation(30000, XENMEM_paging_op_nominate, i, ESRCH);
        no_memory[i] = question(GFNS + 64 + i);
        no_answer[i] = event();
        nominate[i] = memory_operation(dom.id, XENMEM_paging_op_nominate, i, 0);
        evict[i] = memory_operation(dom.id, XENMEM_paging_op_evict, i, 0);
        ask[i] = question(i);
        if (!get_request(&dom, &request) || request.u.mem_paging.gfn != i)
            stop("no request for gfn %#x", i);
        /* As a pager does that waits for the next request. */
        dom.sring->req_event = dom.ring.req_cons + 1;
        prep[i] = memory_operation(dom.id, XENMEM_paging_op_prep, i, 0);
        memcpy(RING_GET_RESPONSE(&dom.ring, dom.ring.rsp_prod_pvt), &request, sizeof request);
        dom.ring.rsp_prod_pvt++;
        RING_PUSH_RESPONSES(&dom.ring);
        answer[i] = event();
    }
    uint64_t out = print("nominate", nominate, no_domain);
    out += print("evict", evict, no_domain);
    uint64_t in = print("populate", ask, no_memory);
    in += print("prep", prep, no_domain);
    in += print("resume", answer, no_answer);
    printf("cost: out:_nominate_and_evict %" PRIu64 "\ncost: in:_populate_to_resume %" PRIu64 "\n", out, in);
    return detach(&dom);
}
