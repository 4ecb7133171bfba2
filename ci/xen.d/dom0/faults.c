/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What happens when a guest's vcpus touch pages that are out or in flight while
 * somebody else uses the same page. Prints a table on standard output, one line
 * a case; ci/xen.d/tests/faults.table has the expected one.
 */
#include "dummy.h"
#include "tiny.h"

static struct dummy dom;
static uint64_t next_gfn = 32;
static unsigned char *buffer;
static vm_event_request_t request[8];
static unsigned requests;
static unsigned long requests_seen;

static void must(int error, const char *what)
{
    if ((errno = error))
        stop("%s", what);
}

static unsigned take_requests(void)
{
    while (requests < 8 && get_request(&dom, &request[requests])) {
        requests++;
        requests_seen++;
    }
    return requests;
}

/* Responds to all requests that have been taken. */
static void answer(void)
{
    take_requests();
    for (unsigned i = 0; i < requests; i++)
        respond(&dom, &request[i]);
    requests = 0;
}

/*
 * A value at the page's start, and a return instruction where the page is
 * executed.
 */
static void fill(uint8_t *page, uint32_t value)
{
    memset(page, 0, XC_PAGE_SIZE);
    memcpy(page, &value, sizeof value);
    page[RUN_AT] = 0xc3;
}

static uint64_t page(uint32_t value)
{
    uint64_t gfn = next_gfn++;
    void *map = must_map(dom.id, gfn);

    fill(map, value);
    munmap(map, XC_PAGE_SIZE);
    return gfn;
}

static uint64_t nominated(uint32_t value)
{
    uint64_t gfn = page(value);

    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), "nominate");
    return gfn;
}

static uint64_t out(uint32_t value)
{
    uint64_t gfn = nominated(value);

    must(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL), "evict");
    return gfn;
}

static int prep(uint64_t gfn, uint32_t value)
{
    fill(buffer, value);
    return memop(dom.id, XENMEM_paging_op_prep, gfn, buffer);
}

static const char *yes(int holds) { return holds ? "yes" : "no"; }

static const char *finished(unsigned vcpu, uint32_t value)
{
    if (!within(60, is_done(vcpu)))
        return "never";
    return mailbox[vcpu]->result == value ? "right" : "WRONG";
}

/* Cleans up after a case: every request is answered, both vcpus are idle. */
static void settle(const char *what, uint64_t gfn)
{
    for (int tries = 0; !is_done(0) || !is_done(1); tries++) {
        if (tries == 50)
            stop("%s: a vcpu stays behind", what);
        if (within(0.1, take_requests()))
            prep(gfn, 0);
        answer();
    }
}

static void nominated_page(const char *name, enum touch how)
{
    uint64_t gfn = nominated(0x1111);

    tell(0, how, gfn, 0x2222);
    int asked = within(60, take_requests() || is_done(0)) && take_requests();
    printf("nominated page, %s = request %s%s, evict %s", name, yes(asked),
           asked && request[0].u.mem_paging.flags & MEM_PAGING_EVICT_FAIL ? " (evict will fail)" : "",
           errno_name(asked ? memop(dom.id, XENMEM_paging_op_evict, gfn, NULL) : 0));
    answer();
    printf(", done %s\n", yes(within(60, is_done(0))));
    settle(name, gfn);
}

/*
 * A vcpu writes a page that the pager is about to copy. A pager that does one
 * thing at a time must be able to map the page: otherwise it never gets to its
 * responses.
 */
static void written_before_copied(void)
{
    uint64_t gfn = nominated(0xbbbb);
    void *map;

    tell(0, WRITE, gfn, 0xcccc);
    int waits = within(20, is_done(0) || stands(dom.id, 0)) && !is_done(0);
    int mapped = map_page_for(dom.id, gfn, PROT_READ, &map);
    printf("written before it is copied = vcpu waits %s, map %s", yes(waits), errno_name(mapped));
    if (!mapped)
        munmap(map, XC_PAGE_SIZE);
    printf(", evict %s", errno_name(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL)));
    answer();
    printf(", done %s", yes(within(60, is_done(0))));
    tell(0, READ, gfn, 0);
    printf(", then %s\n", finished(0, 0xcccc));
    settle("written before it is copied", gfn);
}

static void both_vcpus(void)
{
    uint64_t gfn = out(0x3333);

    tell(0, READ, gfn, 0);
    int first = within(20, stands(dom.id, 0));
    tell(1, READ, gfn, 0);
    int second = within(5, stands(dom.id, 1));
    take_requests();
    printf("both vcpus on one page = first waits %s, second waits %s, requests %u", yes(first), yes(second), requests);
    printf(", prep %s", errno_name(prep(gfn, 0x3333)));
    answer();
    printf(", first %s, second %s\n", finished(0, 0x3333), finished(1, 0x3333));
    settle("both vcpus", gfn);
}

static void map_during_fault(void)
{
    uint64_t gfn = out(0x4444);
    void *map;

    tell(0, READ, gfn, 0);
    int waits = within(20, stands(dom.id, 0));
    take_requests();
    printf("mapped during a fault = vcpu waits %s, requests %u, map %s", yes(waits), requests, errno_name(map_page(dom.id, gfn, NULL)));
    unsigned before = requests;
    printf(", more requests %u, prep %s", take_requests() - before, errno_name(prep(gfn, 0x4444)));
    int mapped = map_page(dom.id, gfn, &map);
    printf(", map before the answer %s", errno_name(mapped));
    if (!mapped) {
        printf(" %s", *(uint32_t *)map == 0x4444 ? "right" : "WRONG");
        munmap(map, XC_PAGE_SIZE);
    }
    answer();
    printf(", vcpu %s\n", finished(0, 0x4444));
    settle("mapped during a fault", gfn);
}

static void fault_during_map(void)
{
    uint64_t gfn = out(0x5555);

    printf("fault during a map = map %s", errno_name(map_page(dom.id, gfn, NULL)));
    take_requests();
    printf(", requests %u", requests);
    unsigned before = requests;
    tell(0, READ, gfn, 0);
    int waits = within(5, stands(dom.id, 0));
    printf(", vcpu waits %s, more requests %u, prep %s", yes(waits), take_requests() - before, errno_name(prep(gfn, 0x5555)));
    answer();
    printf(", vcpu %s\n", finished(0, 0x5555));
    settle("fault during a map", gfn);
}

/*
 * The page is given back while a vcpu waits for it: the vcpu goes on, and finds
 * no memory there.
 */
static void released_during_fault(void)
{
    uint64_t gfn = out(0x6666);
    xen_pfn_t frame = gfn;

    tell(0, READ, gfn, 0);
    int waits = within(20, stands(dom.id, 0));
    printf("released during a fault = vcpu waits %s", yes(waits));
    int released = xc_domain_decrease_reservation(xch, dom.id, 1, 0, &frame);
    printf(", released %s, drop told %s", yes(released == 1),
           yes(take_requests() && request[requests - 1].u.mem_paging.flags & MEM_PAGING_DROP_PAGE));
    if (released != 1)
        prep(gfn, 0x6666);
    answer();
    printf(", vcpu %s\n", finished(0, ~0u));
    settle("released during a fault", gfn);
}

/*
 * A second response for a page that is resident frees nothing, requests nothing
 * and wakes nobody.
 */
static void answered_twice(void)
{
    uint64_t gfn = out(0x7777), other = out(0x8888);
    vm_event_request_t first;

    tell(0, READ, gfn, 0);
    if (!within(60, take_requests()))
        stop("no request");
    first = request[0];
    prep(gfn, 0x7777);
    answer();
    printf("answered twice = vcpu %s", finished(0, 0x7777));
    tell(0, READ, other, 0);
    if (!within(60, take_requests()))
        stop("no request");
    respond(&dom, &first);
    printf(", second vcpu is woken by it %s", yes(within(1, is_done(0))));
    requests = 0;
    /*
     * The false response has used up the vcpu's own request: the vcpu must
     * request the page again, or it never goes on.
     */
    int again = within(10, take_requests());
    printf(", asks again %s", yes(again));
    if (!again)
        requests = 0;
    prep(other, 0x8888);
    answer();
    printf(", vcpu %s\n", finished(0, 0x8888));
}

/*
 * A page that a vcpu has waited for is pinned until the guest gives it back or
 * the vcpu halts, which these vcpus do not.
 */
static void held(void)
{
    uint64_t gfn = out(0xdddd);
    xen_pfn_t frame = gfn;

    tell(0, READ, gfn, 0);
    if (!within(60, take_requests()))
        stop("no request");
    must(prep(gfn, 0xdddd), "prep");
    answer();
    printf("a page waited for = vcpu %s", finished(0, 0xdddd));
    long before = counter(dom.id, "pages pinned");
    int released = xc_domain_decrease_reservation(xch, dom.id, 1, 0, &frame);
    long after = counter(dom.id, "pages pinned");
    if (before < 0)
        printf(", no counters\n");
    else
        printf(", held %s, let go with the page %s\n", yes(before > 0), yes(released == 1 && after == before - 1));
}

/* Foreign requests for eight pages fill the ring. Then a vcpu needs a page. */
static void disabling(void)
{
    uint64_t gfn[9], waits;

    for (unsigned i = 0; i < 9; i++)
        gfn[i] = out(0x9999);
    for (unsigned i = 0; i < 8; i++)
        if (ask_for(dom.id, gfn[i]) != EAGAIN)
            stop("ask for a page");
    tell(0, READ, gfn[8], 0);
    waits = within(20, stands(dom.id, 0));
    take_requests();
    printf("disable, a vcpu in line = requests %u, vcpu waits %s, disable %s", requests, yes(waits),
           errno_name(vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL)));
    for (unsigned i = 0; i < 8; i++)
        must(prep(gfn[i], 0x9999), "prep");
    answer();
    int asked = within(60, take_requests());
    printf(", asks in turn %s", yes(asked));
    must(prep(gfn[8], 0x9999), "prep");
    answer();
    printf(", vcpu %s\n", finished(0, 0x9999));
}

/* A domain dies while a vcpu waits and pages are out. */
static void destroying(void)
{
    uint64_t gfn = out(0xaaaa);
    xc_domaininfo_t info;

    tell(0, READ, gfn, 0);
    int waits = within(20, stands(dom.id, 0));
    long before = counter(dom.id, "pages pinned");
    printf("disable, a vcpu waiting = vcpu waits %s, disable %s", yes(waits), errno_name(vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL)));
    printf(", enable again %s\n", errno_name(vm_event(dom.id, XEN_VM_EVENT_ENABLE, NULL)));
    long after = counter(dom.id, "pages pinned");
    if (before < 0)
        printf("pages pinned = no counters\n");
    else
        printf("pages pinned = %s, %s once it is disabled\n", before ? "some" : "none", after ? "some" : "none");
    unmap_mailboxes();
    printf("destroy with pages out = %s", errno_name(detach(&dom)));
    printf(", gone %s\n", yes(within(60, xc_domain_getinfolist(xch, dom.id, 1, &info) != 1 || info.domain != dom.id)));
}

static uint64_t free_pages(void)
{
    xc_physinfo_t info = { 0 };

    if (xc_physinfo(xch, &info))
        stop("no information about the host");
    return info.free_pages;
}

/*
 * A domain's last pages are freed some time after it is gone. Yields the number
 * once it has stayed the same for a second.
 */
static uint64_t settled_free_pages(void)
{
    uint64_t last;

    do
        last = free_pages();
    while (within(1, free_pages() != last));
    return last;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_everything();
    buffer = xencall_alloc_buffer(xcall, XC_PAGE_SIZE);
    uint64_t before = settled_free_pages();
    attach(&dom);
    start_vcpus(dom.id);
    tell(0, READ, page(0x1234), 0);
    printf("the guest works = %s\n", finished(0, 0x1234));
    nominated_page("read", READ);
    nominated_page("run", RUN);
    nominated_page("write", WRITE);
    written_before_copied();
    both_vcpus();
    map_during_fault();
    fault_during_map();
    released_during_fault();
    answered_twice();
    held();
    disabling();
    long counted = counter(dom.id, "requests");
    printf("requests counted = %s\n", counted < 0 ? "no counters" : (unsigned long)counted == requests_seen ? "as seen" : "WRONG");
    /* Each lock of the p2m defers flushes until its unlock. */
    long deferred = counter(dom.id, "defer_flush");
    if (deferred > 0)
        printf("flushes deferred by an unlocked p2m = WRONG, %d\n", (int)deferred);
    else
        printf("flushes deferred by an unlocked p2m = %s\n", deferred ? "no counters" : "none");
    destroying();
    long missing = before - settled_free_pages();
    if (missing)
        printf("memory is as before = no, %ld pages are missing\n", missing);
    else
        printf("memory is as before = yes\n");
    return 0;
}
