/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Hypercalls whose arguments are in pages that the guest has not used for a
 * while. Each argument is written, then left alone for a time in which it may
 * be paged out. After that only Xen touches it. Each hypercall must be carried
 * out, and only once: an event channel allocated twice leaves a port behind, a
 * page given back twice is not there the second time.
 */
#include "asks.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, ROOM = 4 * PAGE, EXTENTS = 200, CALLS = 100, SELF = 0x7ff0 };
enum { MEMORY_OP = 12, MULTICALL = 13, XEN_VERSION = 17, VCPU_OP = 24, SCHED_OP = 29, EVENT_CHANNEL_OP = 32 };
/* Far above the guest's memory. */
static const uint64_t hole = 0x200000;

struct hypercall { uint64_t op, arg[5]; };
struct reservation { uint64_t extents, count; uint32_t order, flags; uint16_t domid; };
struct port_alloc { uint16_t dom, remote; uint32_t port; };
struct call { uint64_t op; int64_t result; uint64_t arg[6]; };
struct poll { uint64_t ports; uint32_t count; uint64_t timeout; };

static int privcmd;
static unsigned char *room;
unsigned long asks;

static long hypercall(uint64_t op, uint64_t a, uint64_t b, uint64_t c)
{
    struct hypercall call = { op, { a, b, c } };
    long rc = ioctl(privcmd, _IOC(_IOC_NONE, 'P', 0, sizeof call), &call);

    return rc < 0 ? -errno : rc;
}

static void nap(long ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

static void expect(const char *what, long got, long wanted)
{
    if (got != wanted)
        printf("pattern error: %s yields %ld, not %ld\n", what, got, wanted);
    asks++;
}

/* Across the border of two pages. */
static void *at_border(unsigned before) { return room + PAGE - before; }

static void ask_version(void)
{
    memset(at_border(8), 0, 16);
    nap(300);
    expect("xen_version", hypercall(XEN_VERSION, 1, (uintptr_t)at_border(8), 0), 0);
    if (!memchr(at_border(8), '.', 16))
        printf("pattern error: xen_version has written nothing\n");
}

static void ask_port(void)
{
    static unsigned moves;
    static uint32_t free_port;
    struct port_alloc *alloc = at_border(4);

    *alloc = (struct port_alloc){ SELF, 0, 0 };
    nap(300);
    expect("alloc_unbound", hypercall(EVENT_CHANNEL_OP, 6, (uintptr_t)alloc, 0), 0);
    /*
     * The pager's event channel may take the free port once, and frees it
     * again.
     */
    if (!free_port || alloc->port < free_port || (alloc->port == free_port + 1 && !moves++))
        free_port = alloc->port;
    expect("the port allocated", alloc->port, free_port);
    memcpy(room, &alloc->port, sizeof alloc->port);
    nap(300);
    expect("close", hypercall(EVENT_CHANNEL_OP, 3, (uintptr_t)room, 0), 0);
}

/*
 * A list of pages, across a border of two pages: they are taken, then given
 * back.
 */
static void ask_pages(void)
{
    uint64_t *list = at_border(EXTENTS / 2 * 8);
    struct reservation *r = (void *)(room + 2 * PAGE);

    for (unsigned i = 0; i < EXTENTS; i++)
        list[i] = hole + i;
    *r = (struct reservation){ (uintptr_t)list, EXTENTS, 0, 0, SELF };
    nap(300);
    expect("populate_physmap", hypercall(MEMORY_OP, 6, (uintptr_t)r, 0), EXTENTS);
    nap(300);
    expect("decrease_reservation", hypercall(MEMORY_OP, 1, (uintptr_t)r, 0), EXTENTS);
}

static void ask_many(void)
{
    struct call *call = at_border(CALLS / 2 * sizeof *call);
    int64_t version;

    for (unsigned i = 0; i < CALLS; i++)
        call[i] = (struct call){ .op = XEN_VERSION };
    nap(300);
    expect("multicall", hypercall(MULTICALL, (uintptr_t)call, CALLS, 0), 0);
    version = call[0].result;
    for (unsigned i = 0; i < CALLS; i++)
        if (call[i].result != version || version < 0x40000)
            printf("pattern error: call %u of a multicall yields %ld\n", i, (long)call[i].result);
}

static void ask_poll(void)
{
    uint32_t *port = (void *)room;
    struct poll *poll = (void *)(room + 2 * PAGE);

    *port = 1;
    *poll = (struct poll){ (uintptr_t)port, 1, 1 };
    nap(300);
    expect("poll", hypercall(SCHED_OP, 3, (uintptr_t)poll, 0), 0);
}

static void ask_runstate(void)
{
    memset(at_border(24), 0xff, 48);
    nap(300);
    expect("get_runstate_info", hypercall(VCPU_OP, 4, 0, (uintptr_t)at_border(24)), 0);
    if (*(int *)at_border(24) != 0)
        printf("pattern error: a vcpu that asks does not run\n");
}

/* Where the arguments are, so that a pager can page them out. */
static void print_gfns(void)
{
    int map = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0;

    printf("asks gfns");
    for (unsigned i = 0; i < ROOM / PAGE; i++)
        if (pread(map, &entry, sizeof entry, ((uintptr_t)room / PAGE + i) * sizeof entry) == sizeof entry)
            printf(" %#llx", (unsigned long long)(entry & ((1ull << 55) - 1)));
    printf("\n");
    close(map);
}

void *ask(void *arg)
{
    int module = open("/xen-privcmd.ko", O_RDONLY);

    if (module < 0 || syscall(SYS_finit_module, module, "unrestricted=1", 0) || (privcmd = open("/dev/xen/privcmd", O_RDWR)) < 0) {
        printf("pattern error: no privcmd\n");
        return arg;
    }
    room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    print_gfns();
    for (;;) {
        ask_version();
        ask_port();
        ask_pages();
        ask_many();
        ask_poll();
        ask_runstate();
    }
}
