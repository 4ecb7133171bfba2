/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A domain that never runs: enough to try every paging operation on it from
 * dom0, without a guest image. The program that includes this file is the
 * domain's pager: it sees each request on the ring. If anything cannot be set
 * up, the program ends.
 */
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xencall.h>
#include <xenctrl.h>
#include <xendevicemodel.h>
#include <xenevtchn.h>
#include <xen/hvm/params.h>
#include <xen/io/ring.h>
#include <xen/sys/privcmd.h>
#include <xen/vm_event.h>

enum { GFNS = 512, RING_GFN = GFNS, OP_NONE = 99 };

static xc_interface *xch;
static xencall_handle *xcall;
static xendevicemodel_handle *xdm;
static int privcmd;

struct dummy {
    uint32_t id;
    vm_event_sring_t *sring;
    vm_event_back_ring_t ring;
    xenevtchn_handle *events;
    uint32_t remote_port;
    int port;
    uint32_t epoch; /* of the crate; 0: Xen knows none */
};

static inline void __attribute__((noreturn, format(printf, 1, 2))) stop(const char *format, ...)
{
    int error = errno;
    va_list args;

    va_start(args, format);
    printf("reason: ");
    vprintf(format, args);
    printf(": %s\n", strerror(error));
    exit(1);
}

static inline const char *errno_name(int error)
{
    static char number[16];

    switch (error) {
#define NAME(e) case e: return #e
        NAME(EPERM); NAME(ENOENT); NAME(ESRCH); NAME(EIO); NAME(E2BIG); NAME(EAGAIN); NAME(ENOMEM); NAME(EACCES);
        NAME(EFAULT); NAME(EBUSY); NAME(EEXIST); NAME(EXDEV); NAME(ENODEV); NAME(EINVAL); NAME(ENOSPC); NAME(ENOSYS);
        NAME(EMLINK); NAME(EOPNOTSUPP); NAME(EILSEQ); NAME(ENXIO); NAME(ENODATA); NAME(EADDRNOTAVAIL); NAME(ENOTCONN);
#undef NAME
    case 0: return "ok";
    }
    snprintf(number, sizeof number, "%d", error);
    return number;
}

static inline void open_everything(void)
{
    xch = xc_interface_open(NULL, NULL, 0);
    xcall = xencall_open(NULL, 0);
    xdm = xendevicemodel_open(NULL, 0);
    privcmd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);
    if (!xch || !xcall || !xdm || privcmd < 0)
        stop("cannot talk to Xen");
}

/* Each of these returns 0 or an errno. */

/* As a pager that knows epochs: behind the port, where Xen's C writes nothing. */
static inline int vm_event_by(uint32_t *epoch, uint32_t id, uint32_t op, uint32_t *port)
{
    struct xen_domctl *c = xencall_alloc_buffer(xcall, sizeof *c);
    int error;

    memset(c, 0, sizeof *c);
    c->cmd = XEN_DOMCTL_vm_event_op;
    c->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    c->domain = id;
    c->u.vm_event_op.op = op;
    c->u.vm_event_op.mode = XEN_DOMCTL_VM_EVENT_OP_PAGING;
    memcpy(&c->u.vm_event_op.u.enable.port + 1, epoch, sizeof *epoch);
    error = xencall1(xcall, __HYPERVISOR_domctl, (uintptr_t)c) < 0 ? errno : 0;
    if (port)
        *port = c->u.vm_event_op.u.enable.port;
    memcpy(epoch, &c->u.vm_event_op.u.enable.port + 1, sizeof *epoch);
    xencall_free_buffer(xcall, c);
    return error;
}

static inline int vm_event(uint32_t id, uint32_t op, uint32_t *port)
{
    uint32_t none = 0;

    return vm_event_by(&none, id, op, port);
}

/* As a pager that states its epoch, in padding of Xen's own structure. */
static inline int memop_by(uint32_t epoch, uint32_t id, unsigned op, uint64_t gfn, void *buffer)
{
    xen_mem_paging_op_t *o = xencall_alloc_buffer(xcall, sizeof *o);
    int error;

    memset(o, 0, sizeof *o);
    o->op = op;
    o->domain = id;
    o->gfn = gfn;
    memcpy((char *)o + 4, &epoch, sizeof epoch);
    set_xen_guest_handle_raw(o->buffer, buffer);
    error = xencall2(xcall, __HYPERVISOR_memory_op, XENMEM_paging_op, (uintptr_t)o) < 0 ? errno : 0;
    xencall_free_buffer(xcall, o);
    return error;
}

static inline int memop(uint32_t id, unsigned op, uint64_t gfn, void *buffer) { return memop_by(0, id, op, gfn, buffer); }

/*
 * Maps one page with the kernel's batch call, without the library's retries.
 * Yields the error of that one page.
 */
static inline int map_page_for(uint32_t id, uint64_t gfn, int rights, void **at)
{
    xen_pfn_t frame = gfn;
    int error = 0;
    privcmd_mmapbatch_v2_t batch = { .num = 1, .dom = id, .arr = &frame, .err = &error };
    void *map = mmap(NULL, XC_PAGE_SIZE, rights, MAP_SHARED, privcmd, 0);

    if (map == MAP_FAILED)
        stop("mmap of privcmd");
    batch.addr = (uintptr_t)map;
    if (ioctl(privcmd, IOCTL_PRIVCMD_MMAPBATCH_V2, &batch) && errno != ENOENT)
        error = error ? error : -errno;
    if (error || !at)
        munmap(map, XC_PAGE_SIZE);
    if (at)
        *at = error ? NULL : map;
    return -error;
}

static inline int map_page(uint32_t id, uint64_t gfn, void **at) { return map_page_for(id, gfn, PROT_READ | PROT_WRITE, at); }

/*
 * Asks for a page as a device model does: in any paging state Xen makes a
 * request and returns EAGAIN.
 */
static inline int ask_for(uint32_t id, uint64_t gfn)
{
    return xendevicemodel_set_mem_type(xdm, id, HVMMEM_ram_rw, gfn, 1) ? errno : 0;
}

enum { WITH_HAP = 1, WITHOUT_VCPU = 2, IS_PV = 4, NESTED = 8 };

static inline uint32_t create_domain(unsigned how)
{
    struct xen_domctl_createdomain config = {
        .flags = how & IS_PV ? 0 : XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_oos_off | (how & WITH_HAP ? XEN_DOMCTL_CDF_hap : 0) |
                                                       (how & NESTED ? XEN_DOMCTL_CDF_nested_virt : 0),
        .max_vcpus = 2,
        .max_evtchn_port = 255,
        .max_grant_frames = 4,
        .max_maptrack_frames = 4,
        .grant_opts = XEN_DOMCTL_GRANT_version(1),
        .arch.emulation_flags = how & IS_PV ? 0 : XEN_X86_EMU_LAPIC,
    };
    uint32_t id = 0;

    if (xc_domain_create(xch, &id, &config))
        stop("cannot create a domain (%#x)", how);
    if (xc_domain_setmaxmem(xch, id, (GFNS + 256) * 4))
        stop("cannot set the memory limit");
    if (!(how & IS_PV) && xc_set_paging_mempool_size(xch, id, 4 << 20))
        stop("cannot set the paging pool");
    if (!(how & WITHOUT_VCPU) && xc_domain_max_vcpus(xch, id, 2))
        stop("cannot make vcpus");
    return id;
}

static inline void populate(uint32_t id, uint64_t first, unsigned count, unsigned flags)
{
    for (unsigned i = 0; i < count; i++) {
        xen_pfn_t gfn = first + i;
        if (xc_domain_populate_physmap_exact(xch, id, 1, 0, flags, &gfn))
            stop("cannot populate gfn %#" PRIx64, first + i);
    }
}

/*
 * Enables paging for a domain, with the ring at this gfn. The ring's page is
 * then out of the guest's reach, as with any pager.
 */
static inline void attach_to(struct dummy *d, xen_pfn_t gfn)
{
    void *page;

    if (map_page(d->id, gfn, &page))
        stop("cannot map the ring");
    if ((errno = vm_event_by(&d->epoch, d->id, XEN_VM_EVENT_ENABLE, &d->remote_port)))
        stop("cannot enable paging");
    d->sring = page;
    SHARED_RING_INIT(d->sring);
    BACK_RING_INIT(&d->ring, d->sring, XC_PAGE_SIZE);
    d->events = xenevtchn_open(NULL, 0);
    if (!d->events || (d->port = xenevtchn_bind_interdomain(d->events, d->id, d->remote_port)) < 0)
        stop("cannot bind the event channel");
    if (xc_domain_decrease_reservation_exact(xch, d->id, 1, 0, &gfn))
        stop("cannot take the ring out of the physmap");
}

/* A domain with GFNS pages and paging on. */
static inline void attach(struct dummy *d)
{
    d->id = create_domain(WITH_HAP);
    populate(d->id, 0, GFNS, 0);
    populate(d->id, RING_GFN, 1, 0);
    if (xc_hvm_param_set(xch, d->id, HVM_PARAM_PAGING_RING_PFN, RING_GFN))
        stop("cannot name the ring's gfn");
    attach_to(d, RING_GFN);
}

/*
 * Destroys it, and releases everything of it that this program has: 0 or an
 * errno.
 */
static inline int detach(struct dummy *d)
{
    munmap(d->sring, XC_PAGE_SIZE);
    xenevtchn_close(d->events);
    return xc_domain_destroy(xch, d->id) ? errno : 0;
}

static inline int get_request(struct dummy *d, vm_event_request_t *req)
{
    if (!RING_HAS_UNCONSUMED_REQUESTS(&d->ring))
        return 0;
    xen_rmb();
    memcpy(req, RING_GET_REQUEST(&d->ring, d->ring.req_cons), sizeof *req);
    d->ring.req_cons++;
    return 1;
}

static inline void respond(struct dummy *d, const vm_event_response_t *rsp)
{
    memcpy(RING_GET_RESPONSE(&d->ring, d->ring.rsp_prod_pvt), rsp, sizeof *rsp);
    d->ring.rsp_prod_pvt++;
    RING_PUSH_RESPONSES(&d->ring);
    if (xenevtchn_notify(d->events, d->port))
        stop("cannot notify Xen");
}

static inline void counts(uint32_t id, long *total, long *paged)
{
    xc_domaininfo_t info;

    if (xc_domain_getinfolist(xch, id, 1, &info) != 1 || info.domain != id)
        stop("domain %u is gone", id);
    *total = info.tot_pages;
    *paged = info.paged_pages;
}

/*
 * One of the crate's counters of this domain, as `xl debug-keys q` prints them;
 * -1: the hypervisor has none.
 */
static inline long counter(uint32_t id, const char *name)
{
    static char text[65536];
    unsigned bytes = sizeof text - 1;
    char *at, *next, head[64], word[64];

    if (xc_send_debug_keys(xch, "q") || xc_readconsolering(xch, text, &bytes, 0, 0, NULL))
        stop("cannot read Xen's console");
    text[bytes] = 0;
    snprintf(head, sizeof head, "General information for domain %u:", id);
    at = NULL;
    for (next = text; (next = strstr(next, head)); next++)
        at = next;
    if (!at)
        stop("domain %u is not on Xen's console", id);
    next = strstr(at + 1, "General information for domain");
    if (next)
        *next = 0;
    snprintf(word, sizeof word, ", %s ", name);
    at = strstr(at, word);
    return at ? atol(at + strlen(word)) : -1;
}
