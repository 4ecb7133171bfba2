/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Xen's result of every paging operation on a page in every state. Prints a
 * table on standard output, one line a case. The table of Xen's own C
 * hypervisor is the reference for other hypervisors
 * (ci/xen.d/tests/memops.table).
 *
 *   STATE OPERATION = ERRNO [pages±N] [paged±N] [request p2mt/flags]...
 *
 * With any argument: only the cases that kill the C hypervisor.
 */
#include "dummy.h"

static struct dummy dom;
static uint64_t next_gfn;
static unsigned char *buffer;

enum state { HOLE, RW, OUT, OUT_MAPPED, PAGED, IN_NO_FRAME, IN_FRAME, HOME, LOGDIRTY, STATES };
static const char *const state_name[STATES] = { "hole", "ram", "nominated", "nominated+mapped", "paged", "asked-for",
                                                "nominated+asked-for", "back-home", "logdirty" };

enum operation { NOMINATE, EVICT, PREP, PREP_NULL, PREP_UNMAPPED, PREP_KERNEL, MAP, MAP_READ, READ, RESTORE, ASK, RESPOND, DROP_RESPONSE, RELEASE, ADD,
                 OPERATIONS };
static const char *const operation_name[OPERATIONS] = { "nominate", "evict", "prep", "prep-no-buffer", "prep-unmapped-buffer",
                                                        "prep-kernel-buffer", "foreign-map", "foreign-map-read", "read", "restore", "ask",
                                                        "response", "drop-response", "release", "add-page" };

static void answer_requests(int print)
{
    vm_event_request_t req;

    while (get_request(&dom, &req)) {
        if (print)
            printf(" request %u/%u%s%s", req.u.mem_paging.p2mt, req.u.mem_paging.flags,
                   req.flags & VM_EVENT_FLAG_FOREIGN ? " foreign" : "", req.flags & VM_EVENT_FLAG_VCPU_PAUSED ? " paused" : "");
        /* A wrong version: uses up the ring slot and changes nothing. */
        vm_event_response_t rsp = req;
        rsp.version = 0;
        respond(&dom, &rsp);
    }
}

static void must(int error, int wanted, const char *what)
{
    if ((errno = error) != wanted)
        stop("%s: wanted %s, got", what, errno_name(wanted));
}

static uint64_t make(enum state state, void **map)
{
    uint64_t gfn = state == HOLE ? GFNS + 64 + next_gfn : next_gfn++;

    *map = NULL;
    if (state == HOLE || state == RW || state == LOGDIRTY)
        return gfn;
    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), 0, "nominate");
    if (state == OUT_MAPPED)
        must(map_page_for(dom.id, gfn, PROT_READ, map), 0, "map of a nominated page");
    if (state == PAGED || state == IN_NO_FRAME || state == HOME)
        must(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL), 0, "evict");
    if (state == IN_NO_FRAME || state == IN_FRAME)
        must(ask_for(dom.id, gfn), EAGAIN, "ask for a page");
    if (state == HOME)
        must(memop(dom.id, XENMEM_paging_op_prep, gfn, buffer), 0, "prep");
    answer_requests(0);
    return gfn;
}

/*
 * An operation that Xen's C does not know. The crate's interface has it for
 * many pages (MemPagingOp::OP_READ, OP_RESTORE).
 */
static int one_of_many_by(uint32_t epoch, int op, uint64_t gfn, void *to)
{
    uint64_t *item = xencall_alloc_buffer(xcall, 2 * sizeof *item);

    item[0] = gfn;
    item[1] = (uintptr_t)to;
    int error = memop_by(epoch, dom.id, 16 + op, 1, item) ?: -(int)item[1];
    xencall_free_buffer(xcall, item);
    return error;
}

static int one_of_many(int op, uint64_t gfn, void *to) { return one_of_many_by(0, op, gfn, to); }

static int carry_out(enum operation operation, uint64_t gfn)
{
    vm_event_response_t rsp = { .version = VM_EVENT_INTERFACE_VERSION, .reason = VM_EVENT_REASON_MEM_PAGING };
    xen_pfn_t frame = gfn;
    int done;

    switch (operation) {
    case NOMINATE: return memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL);
    case EVICT: return memop(dom.id, XENMEM_paging_op_evict, gfn, NULL);
    case PREP: return memop(dom.id, XENMEM_paging_op_prep, gfn, buffer);
    case PREP_NULL: return memop(dom.id, XENMEM_paging_op_prep, gfn, NULL);
    case PREP_UNMAPPED: return memop(dom.id, XENMEM_paging_op_prep, gfn, (void *)0x10000);
    case PREP_KERNEL: return memop(dom.id, XENMEM_paging_op_prep, gfn, (void *)0xffff880000000000);
    case MAP: return map_page(dom.id, gfn, NULL);
    case MAP_READ: return map_page_for(dom.id, gfn, PROT_READ, NULL);
    case READ: return one_of_many(8, gfn, buffer);
    case RESTORE: return one_of_many(9, gfn, NULL);
    case ASK: return ask_for(dom.id, gfn);
    case DROP_RESPONSE: rsp.u.mem_paging.flags = MEM_PAGING_DROP_PAGE; /* fall through */
    case RESPOND:
        rsp.u.mem_paging.gfn = gfn;
        respond(&dom, &rsp);
        return 0;
    case RELEASE:
        done = xc_domain_decrease_reservation(xch, dom.id, 1, 0, &frame);
        return done < 0 ? errno : done == 1 ? 0 : ENODATA; /* ENODATA: Xen took nothing */
    case ADD:
        done = xc_domain_populate_physmap(xch, dom.id, 1, 0, 0, &frame);
        return done < 0 ? errno : done == 1 ? 0 : ENODATA;
    default: return OP_NONE;
    }
}

/*
 * A page is added where one is requested and has no frame. This kills the C
 * hypervisor, so it is a run of its own.
 */
static int deadly(enum state s, enum operation o) { return s == IN_NO_FRAME && o == ADD; }

static void matrix(enum state first, enum state last, int deadly_ones)
{
    for (enum state s = first; s <= last; s++)
        for (enum operation o = 0; o < OPERATIONS; o++) {
            if (deadly(s, o) != deadly_ones)
                continue;
            long total, paged, total_after, paged_after;
            void *map;
            uint64_t gfn = make(s, &map);

            /*
             * A drop is sent as a response, and no request was on the ring
             * before it. There are never more responses than requests, so that
             * the indices stay those of a well-behaved pager.
             */
            if (o == RESPOND || o == DROP_RESPONSE) {
                uint64_t other = next_gfn++;
                vm_event_request_t req;
                must(memop(dom.id, XENMEM_paging_op_nominate, other, NULL), 0, "nominate");
                must(memop(dom.id, XENMEM_paging_op_evict, other, NULL), 0, "evict");
                must(ask_for(dom.id, other), EAGAIN, "ask for a page");
                if (!get_request(&dom, &req))
                    stop("no request for a page that is out");
            }
            counts(dom.id, &total, &paged);
            printf("%s %s = %s", state_name[s], operation_name[o], errno_name(carry_out(o, gfn)));
            counts(dom.id, &total_after, &paged_after);
            if (total_after != total)
                printf(" pages%+ld", total_after - total);
            if (paged_after != paged)
                printf(" paged%+ld", paged_after - paged);
            answer_requests(1);
            printf("\n");
            if (map)
                munmap(map, XC_PAGE_SIZE);
        }
}

static void line(const char *what, int error) { printf("%s = %s\n", what, errno_name(error)); }

/*
 * A page goes out and comes back with contents from the pager. An evicted frame
 * may belong to anybody from then on.
 */
static void contents(void)
{
    void *map;
    uint64_t gfn = next_gfn++;

    must(map_page(dom.id, gfn, &map), 0, "map");
    memset(map, 0x5a, XC_PAGE_SIZE);
    munmap(map, XC_PAGE_SIZE);
    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), 0, "nominate");
    must(map_page_for(dom.id, gfn, PROT_READ, &map), 0, "map of a nominated page");
    int error = one_of_many(8, gfn, buffer);
    line("contents read", error ? error : memcmp(map, buffer, XC_PAGE_SIZE) ? EIO : 0);
    line("contents read to no memory", one_of_many(8, gfn, (void *)0x10000));
    line("contents read to Xen's memory", one_of_many(8, gfn, (void *)0xffff830000000000));
    memcpy(buffer, map, XC_PAGE_SIZE);
    munmap(map, XC_PAGE_SIZE);
    must(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL), 0, "evict");
    must(memop(dom.id, XENMEM_paging_op_prep, gfn, buffer), 0, "prep");
    must(map_page(dom.id, gfn, &map), 0, "map of a page back home");
    line("contents after out and in", memcmp(map, buffer, XC_PAGE_SIZE) || ((char *)map)[77] != 0x5a ? EIO : 0);
    munmap(map, XC_PAGE_SIZE);
    memset(buffer, 0xa5, XC_PAGE_SIZE);
}

/*
 * Many pages in one call, which Xen's C does not know: 16 is added to the
 * operation, and each page has two words.
 */
static void many(void)
{
    uint64_t (*items)[2] = xencall_alloc_buffer(xcall, 200 * sizeof *items);
    uint64_t first = next_gfn, good = 0;
    static const struct { const char *name; unsigned op; } ops[] = {
        { "nominate", XENMEM_paging_op_nominate }, { "evict", XENMEM_paging_op_evict }, { "prep", XENMEM_paging_op_prep } };

    line("many: none", memop(dom.id, 16, 0, NULL));
    for (unsigned o = 0; o < sizeof ops / sizeof *ops; o++) {
        /* The last one is no page of the domain. */
        for (unsigned i = 0; i < 200; i++) {
            items[i][0] = i < 199 ? first + i % 150 : GFNS + 64;
            items[i][1] = ops[o].op == XENMEM_paging_op_prep ? (uintptr_t)buffer : 0;
        }
        int error = memop(dom.id, 16 + ops[o].op, 200, items);
        good = 0;
        for (unsigned i = 0; i < 200; i++)
            good += !items[i][1];
        printf("many: %s = %s, %" PRIu64 " ok, twice: %s, hole: %s\n", ops[o].name, errno_name(error), error ? 0 : good,
               error ? "-" : errno_name(-(int)items[160][1]), error ? "-" : errno_name(-(int)items[199][1]));
    }
    items[0][0] = first;
    items[0][1] = 0xffff830000000000;
    line("many: prep of a buffer of Xen", memop(dom.id, 16 + XENMEM_paging_op_prep, 1, items));
    line("many: unmapped items", memop(dom.id, 16, 1, (void *)0x10000));
    line("many: unknown operation", memop(dom.id, 16 + 3, 1, items));
    xencall_free_buffer(xcall, items);
    next_gfn += 150;
}

/*
 * Items of which only the first 64 can be read, and then items that cannot be
 * written. What was done must be reported, and what cannot be reported must not
 * be done.
 */
static void half_of_many(void)
{
    unsigned done = 0;
    long total, paged, paged_after;
    char *pages = mmap(NULL, 2 * XC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (pages == MAP_FAILED || munmap(pages + XC_PAGE_SIZE, XC_PAGE_SIZE))
        stop("no memory for items");
    uint64_t (*items)[2] = (void *)(pages + XC_PAGE_SIZE - 64 * sizeof *items);

    for (unsigned i = 0; i < 64; i++) {
        items[i][0] = next_gfn++;
        items[i][1] = 1;
    }
    int error = memop(dom.id, 16 + XENMEM_paging_op_nominate, 128, items);
    for (unsigned i = 0; i < 64; i++)
        done += !items[i][1];
    printf("many: nominate, half of the items unmapped = %s, %u ok\n", errno_name(error), done);
    if (mprotect(pages, XC_PAGE_SIZE, PROT_READ))
        stop("items cannot be made read-only");
    counts(dom.id, &total, &paged);
    error = memop(dom.id, 16 + XENMEM_paging_op_evict, 64, items);
    counts(dom.id, &total, &paged_after);
    printf("many: evict, results cannot be told = %s, %ld out\n", errno_name(error), paged_after - paged);
    munmap(pages, XC_PAGE_SIZE);
}

/*
 * The debugger in dom0 reads or writes a page of a vcpu without paging, so that
 * linear addresses are guest-physical ones.
 */
static int debug(uint64_t gfn, int write)
{
    struct xen_domctl *c = xencall_alloc_buffer(xcall, sizeof *c);

    memset(c, 0, sizeof *c);
    c->cmd = XEN_DOMCTL_gdbsx_guestmemio;
    c->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    c->domain = dom.id;
    c->u.gdbsx_guest_memio.gva = gfn << XC_PAGE_SHIFT;
    c->u.gdbsx_guest_memio.uva = (uintptr_t)buffer;
    c->u.gdbsx_guest_memio.len = 8;
    c->u.gdbsx_guest_memio.gwr = write;
    int error = xencall1(xcall, __HYPERVISOR_domctl, (uintptr_t)c) < 0 ? errno : 0;
    xencall_free_buffer(xcall, c);
    return error;
}

static void debugger(void)
{
    uint64_t gfn = next_gfn++;

    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), 0, "nominate");
    line("read of a nominated page", debug(gfn, 0));
    printf("write to a nominated page = %s", errno_name(debug(gfn, 1)));
    printf(", evict: %s", errno_name(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL)));
    printf(", again: %s\n", errno_name(debug(gfn, 1)));
    gfn = next_gfn++;
    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), 0, "nominate");
    must(memop(dom.id, XENMEM_paging_op_evict, gfn, NULL), 0, "evict");
    printf("read of a page that is out = %s", errno_name(debug(gfn, 0)));
    answer_requests(1);
    printf("\n");
    /*
     * The toolstack has detached the pager: a debugger's read must not kill the
     * guest.
     */
    must(vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL), 0, "disable");
    printf("read of a page that is out, without a pager = %s", errno_name(debug(gfn, 0)));
    xc_domaininfo_t info;
    if (xc_domain_getinfolist(xch, dom.id, 1, &info) != 1 || info.domain != dom.id)
        stop("no such domain");
    printf(", the domain %s\n", info.flags & XEN_DOMINF_shutdown ? "has crashed" : "lives");
}

/*
 * A pager that was replaced while it was stopped, and its successor. Each
 * states its epoch (64 is added to the operation).
 */
static void replaced(void)
{
    enum { NOMINATE_OP = 64 + XENMEM_paging_op_nominate, EVICT_OP = 64 + XENMEM_paging_op_evict, PREP_OP = 64 + XENMEM_paging_op_prep };
    const struct dummy kept = dom;
    uint64_t gfn = 1;

    attach(&dom);
    uint32_t old = dom.epoch;
    munmap(dom.sring, XC_PAGE_SIZE);
    xenevtchn_close(dom.events);
    must(memop(dom.id, XENMEM_paging_op_nominate, gfn, NULL), 0, "nominate");
    must(vm_event(dom.id, XEN_VM_EVENT_DISABLE, NULL), 0, "disable");
    populate(dom.id, RING_GFN, 1, 0);
    attach_to(&dom, RING_GFN);
    const uint32_t new = dom.epoch;
    printf("replaced pager: nominate = %s", errno_name(memop_by(old, dom.id, NOMINATE_OP, gfn + 1, NULL)));
    printf(", states 0: %s", errno_name(memop_by(0, dom.id, NOMINATE_OP, gfn + 1, NULL)));
    printf(", states none: %s", errno_name(memop(dom.id, XENMEM_paging_op_nominate, gfn + 1, NULL)));
    printf(", successor: %s", errno_name(memop_by(new, dom.id, NOMINATE_OP, gfn + 2, NULL)));
    printf(", states none now: %s\n", errno_name(memop(dom.id, XENMEM_paging_op_nominate, gfn + 3, NULL)));
    printf("replaced pager: evict = %s", errno_name(memop_by(old, dom.id, EVICT_OP, gfn, NULL)));
    printf(", many: %s", errno_name(one_of_many_by(old, EVICT_OP, gfn, NULL)));
    printf(", restore: %s", errno_name(one_of_many_by(old, 64 + 9, gfn, NULL)));
    printf(", read: %s", errno_name(one_of_many_by(old, 64 + 8, gfn, buffer)));
    printf(", none: %s", errno_name(memop_by(old, dom.id, 64 + 16, 0, NULL)));
    printf(", successor: %s\n", errno_name(memop_by(new, dom.id, EVICT_OP, gfn, NULL)));
    printf("replaced pager: prep = %s", errno_name(memop_by(old, dom.id, PREP_OP, gfn, buffer)));
    printf(", many: %s", errno_name(one_of_many_by(old, PREP_OP, gfn, buffer)));
    printf(", successor, many: %s\n", errno_name(one_of_many_by(new, PREP_OP, gfn, buffer)));
    printf("replaced pager: disable = %s", errno_name(vm_event_by(&old, dom.id, 64 + XEN_VM_EVENT_DISABLE, NULL)));
    uint32_t mine = new;
    printf(", successor: %s\n", errno_name(vm_event_by(&mine, dom.id, 64 + XEN_VM_EVENT_DISABLE, NULL)));
    if ((errno = detach(&dom)))
        stop("cannot destroy the domain");
    dom = kept;
}

static void enabling(void)
{
    uint32_t id = create_domain(WITH_HAP), bare = create_domain(WITH_HAP | WITHOUT_VCPU), shadow = create_domain(0),
             pv = create_domain(IS_PV), pod = create_domain(WITH_HAP), nested = create_domain(WITH_HAP | NESTED);

    line("enable: the caller itself", vm_event(0, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: no such domain", vm_event(30000, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: no vcpu", vm_event(bare, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: without HAP", vm_event(shadow, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: a PV domain", vm_event(pv, XEN_VM_EVENT_ENABLE, NULL));
    populate(pod, 0, 1, XENMEMF_populate_on_demand);
    line("enable: populate-on-demand", vm_event(pod, XEN_VM_EVENT_ENABLE, NULL));
    populate(nested, 7, 1, 0);
    if (xc_hvm_param_set(xch, nested, HVM_PARAM_PAGING_RING_PFN, 7))
        stop("cannot set the ring gfn");
    line("enable: nested virtualisation", vm_event(nested, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: no ring gfn", vm_event(id, XEN_VM_EVENT_ENABLE, NULL));
    if (xc_hvm_param_set(xch, id, HVM_PARAM_PAGING_RING_PFN, 7))
        stop("cannot set the ring gfn");
    line("enable: ring gfn has no page", vm_event(id, XEN_VM_EVENT_ENABLE, NULL));
    line("disable: not enabled", vm_event(id, XEN_VM_EVENT_DISABLE, NULL));
    line("resume: not enabled", vm_event(id, XEN_VM_EVENT_RESUME, NULL));
    line("version", vm_event(id, XEN_VM_EVENT_GET_VERSION, NULL));
    line("unknown operation", vm_event(id, 77, NULL));
    for (unsigned op = 0; op <= 3; op++) {
        printf("no ring: memop %u", op);
        line("", memop(id, op, 0, NULL));
    }
    line("memop: the caller itself", memop(0, XENMEM_paging_op_nominate, 0, NULL));
    line("memop: DOMID_SELF", memop(DOMID_SELF, XENMEM_paging_op_nominate, 0, NULL));
    line("memop: no such domain", memop(30000, XENMEM_paging_op_nominate, 0, NULL));
    populate(id, 7, 1, 0);
    line("enable", vm_event(id, XEN_VM_EVENT_ENABLE, NULL));
    line("enable: twice", vm_event(id, XEN_VM_EVENT_ENABLE, NULL));
    line("memop: unknown operation", memop(id, 3, 0, NULL));
    line("memop: gfn beyond everything", memop(id, XENMEM_paging_op_nominate, ~0ull, NULL));
    line("memop: gfn above the limit", memop(id, XENMEM_paging_op_nominate, 1ull << 40, NULL));
    line("memop: prep of gfn beyond everything", memop(id, XENMEM_paging_op_prep, ~0ull, buffer));
    line("nominate: the ring page", memop(id, XENMEM_paging_op_nominate, 7, NULL));
    line("resume", vm_event(id, XEN_VM_EVENT_RESUME, NULL));
    line("disable", vm_event(id, XEN_VM_EVENT_DISABLE, NULL));
    line("disable: twice", vm_event(id, XEN_VM_EVENT_DISABLE, NULL));
    line("enable: again", vm_event(id, XEN_VM_EVENT_ENABLE, NULL));
    line("disable: again", vm_event(id, XEN_VM_EVENT_DISABLE, NULL));
    uint32_t all[] = { id, bare, shadow, pv, pod, nested };
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (xc_domain_destroy(xch, all[i]))
            stop("cannot destroy domain %u", all[i]);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_everything();
    buffer = xencall_alloc_buffer(xcall, XC_PAGE_SIZE);
    memset(buffer, 0xa5, XC_PAGE_SIZE);
    if (argc > 1) {
        attach(&dom);
        if (strcmp(argv[1], "debugger"))
            matrix(HOLE, HOME, 1);
        else
            debugger();
        return 0;
    }
    enabling();
    replaced();
    attach(&dom);
    contents();
    many();
    half_of_many();
    matrix(HOLE, HOME, 0);
    if (xc_shadow_control(xch, dom.id, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, NULL, 0) < 0)
        stop("cannot turn log-dirty on");
    matrix(LOGDIRTY, LOGDIRTY, 0);
    line("destroy with pages out", xc_domain_destroy(xch, dom.id) ? errno : 0);
    return 0;
}
