/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Debian's pager leaves version and reason of its responses unset. Xen (since
 * 4.6) therefore drops them, and the first guest vcpu that faults waits for
 * ever. This library is preloaded into that pager and fills the fields in just
 * before Xen is told. With it, the rest of that pager can be tested through a
 * whole cycle of guest faults.
 *
 * ONLY_GFNS="A-B ..." in the environment restricts the pager to these frames,
 * as --only-gfns does ours: nominating any other is refused as Xen refuses a
 * page that is in use, without a call of Xen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#define XC_WANT_COMPAT_MAP_FOREIGN_API
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xen/io/ring.h>
#include <xen/sys/privcmd.h>
#include <xen/vm_event.h>

static vm_event_sring_t *ring;
static RING_IDX done;
static unsigned long fixed, hypercalls, maps;

/* The ring is the only page that the pager maps for writing. */
void *xc_map_foreign_pages(xc_interface *xch, uint32_t domid, int prot, const xen_pfn_t *gfns, int count)
{
    static void *(*real)(xc_interface *, uint32_t, int, const xen_pfn_t *, int);
    void *map;

    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "xc_map_foreign_pages");
    map = real(xch, domid, prot, gfns, count);
    if (map && (prot & PROT_WRITE) && count == 1 && !ring)
        ring = map;
    return map;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    static int (*real)(xenevtchn_handle *, evtchn_port_t);
    unsigned size = __CONST_RING_SIZE(vm_event, 4096);

    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "xenevtchn_notify");
    for (; ring && done != ring->rsp_prod; done++) {
        vm_event_response_t *rsp = &ring->ring[done & (size - 1)].rsp;
        rsp->version = VM_EVENT_INTERFACE_VERSION;
        rsp->reason = VM_EVENT_REASON_MEM_PAGING;
        rsp->u.mem_paging.flags = 0;
        fixed++;
    }
    __sync_synchronize();
    return real(xce, port);
}

static int may_go(uint64_t gfn)
{
    static struct { unsigned long first, last; } run[256];
    static int runs = -1;

    if (runs < 0) {
        char *at = getenv("ONLY_GFNS");
        for (runs = 0; at && runs < 256; runs++) {
            char *end;
            run[runs].first = strtoul(at, &end, 0);
            if (*end != '-')
                break;
            run[runs].last = strtoul(end + 1, &at, 0);
        }
    }
    for (int i = 0; i < runs; i++)
        if (gfn >= run[i].first && gfn <= run[i].last)
            return 1;
    return runs == 0;
}

int xc_mem_paging_nominate(xc_interface *xch, uint32_t domid, uint64_t gfn)
{
    static int (*real)(xc_interface *, uint32_t, uint64_t);

    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "xc_mem_paging_nominate");
    if (may_go(gfn))
        return real(xch, domid, gfn);
    errno = EBUSY;
    return -1;
}

/* The cost of a page: hypercalls, and calls that map frames. */
int ioctl(int fd, unsigned long request, ...)
{
    static int (*real)(int, unsigned long, ...);
    va_list args;
    void *argument;

    va_start(args, request);
    argument = va_arg(args, void *);
    va_end(args);
    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "ioctl");
    hypercalls += request == IOCTL_PRIVCMD_HYPERCALL;
    maps += request == IOCTL_PRIVCMD_MMAPBATCH_V2;
    return real(fd, request, argument);
}

__attribute__((destructor)) static void report(void)
{
    fprintf(stderr, "responses %lu hypercalls=%lu maps=%lu\n", fixed, hypercalls, maps);
}
