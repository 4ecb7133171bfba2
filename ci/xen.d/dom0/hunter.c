/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A pager that pages out, over and over, the pages that a guest needs to run at
 * all. Each cycle reads where the guest's vcpus are (instruction, stack,
 * per-cpu data, IDT, GDT, TSS) and walks the guest's page tables to these
 * places. It pages out every page on the way, the tables included, then the
 * GFNs named, the pages that came in lately, and some of all others in turn.
 * Then it responds to the requests. No gfn is excepted: what Xen refuses is
 * tried again in the next cycle.
 *
 *   hunter DOMID GFNS VCPUS CYCLES [GFN...]
 *
 * A cycle counts if a page went out and one was requested. At the end all pages
 * are brought back and paging is disabled.
 */
#include "dummy.h"
#include <poll.h>
#include <time.h>
#include <xen/hvm/save.h>

enum { BATCH = 64, RECENT = 256, SWEEP = 160, QUIET_MS = 10, CYCLE_MS = 400, HALT_MS = 60000 };

static struct dummy d;
static uint64_t gfns;
static unsigned vcpus;
static unsigned char *store, *is_out, *buffer;
static uint64_t recent[RECENT];
static char **named;
static struct { unsigned long out, in, refused, in_place, dropped, tables, worst_ms; } total;

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static int bring_home(uint64_t gfn)
{
    memcpy(buffer, store + gfn * XC_PAGE_SIZE, XC_PAGE_SIZE);
    return memop(d.id, XENMEM_paging_op_prep, gfn, buffer);
}

/*
 * Responds to all requests on the ring; yields how many pages were requested.
 */
static unsigned serve(void)
{
    vm_event_request_t req;
    unsigned asked = 0;

    while (get_request(&d, &req)) {
        vm_event_response_t rsp = { .version = VM_EVENT_INTERFACE_VERSION, .reason = VM_EVENT_REASON_MEM_PAGING,
            .vcpu_id = req.vcpu_id, .flags = req.flags, .u.mem_paging = { .gfn = req.u.mem_paging.gfn } };
        uint64_t gfn = req.u.mem_paging.gfn;

        if (gfn >= gfns)
            stop("Xen asks for gfn %#" PRIx64, gfn);
        if (req.u.mem_paging.flags & MEM_PAGING_DROP_PAGE) {
            is_out[gfn] = 0;
            total.dropped++;
            rsp.u.mem_paging.flags = MEM_PAGING_DROP_PAGE;
        } else if (is_out[gfn]) {
            uint64_t since = now_ms();

            while ((errno = bring_home(gfn)) == ENOMEM && now_ms() - since < HALT_MS)
                usleep(1000);
            if (errno)
                stop("cannot bring gfn %#" PRIx64 " home", gfn);
            is_out[gfn] = 0;
            recent[total.in++ % RECENT] = gfn;
        } else
            total.in_place++;
        respond(&d, &rsp);
        asked++;
    }
    return asked;
}

/*
 * Maps up to BATCH frames for reading. For a frame that cannot be mapped there
 * is an error.
 */
static void *map_frames(xen_pfn_t *frames, unsigned n, int *errors)
{
    privcmd_mmapbatch_v2_t batch = { .num = n, .dom = d.id, .arr = frames, .err = errors };
    void *map = mmap(NULL, n * XC_PAGE_SIZE, PROT_READ, MAP_SHARED, privcmd, 0);

    if (map == MAP_FAILED)
        stop("mmap of privcmd");
    batch.addr = (uintptr_t)map;
    if (ioctl(privcmd, IOCTL_PRIVCMD_MMAPBATCH_V2, &batch) && errno != ENOENT)
        for (unsigned i = 0; i < n; i++)
            errors[i] = errors[i] ? errors[i] : -errno;
    return map;
}

/* Pages out those of the gfns that Xen does not refuse; yields how many. */
static unsigned page_out(const uint64_t *wanted, unsigned n)
{
    xen_pfn_t frames[BATCH];
    int errors[BATCH] = { 0 };
    unsigned nominated = 0, out = 0;
    unsigned char *map;

    for (unsigned i = 0; i < n; i++) {
        if (wanted[i] >= gfns || is_out[wanted[i]])
            continue;
        if (memop(d.id, XENMEM_paging_op_nominate, wanted[i], NULL))
            total.refused++;
        else
            frames[nominated++] = wanted[i];
    }
    if (!nominated)
        return 0;
    map = map_frames(frames, nominated, errors);
    for (unsigned i = 0; i < nominated; i++)
        if (!errors[i])
            memcpy(store + frames[i] * XC_PAGE_SIZE, map + i * XC_PAGE_SIZE, XC_PAGE_SIZE);
    munmap(map, nominated * XC_PAGE_SIZE);
    for (unsigned i = 0; i < nominated; i++)
        if (!errors[i] && !memop(d.id, XENMEM_paging_op_evict, frames[i], NULL)) {
            is_out[frames[i]] = 1;
            out++;
        } else
            total.refused++;
    total.out += out;
    return out;
}

/* Reads a page of the guest, wherever it is. */
static int read_page(uint64_t gfn, void *into)
{
    xen_pfn_t frame = gfn;
    int error = 0;
    void *map;

    if (gfn >= gfns)
        return 0;
    if (is_out[gfn]) {
        memcpy(into, store + gfn * XC_PAGE_SIZE, XC_PAGE_SIZE);
        return 1;
    }
    map = map_frames(&frame, 1, &error);
    if (!error)
        memcpy(into, map, XC_PAGE_SIZE);
    munmap(map, XC_PAGE_SIZE);
    return !error;
}

struct targets { uint64_t gfn[1024]; unsigned n; };

static void add(struct targets *t, uint64_t gfn)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->gfn[i] == gfn)
            return;
    if (t->n < sizeof t->gfn / sizeof *t->gfn)
        t->gfn[t->n++] = gfn;
}

/*
 * The page tables on the way to a linear address, and the page that it names.
 */
static void add_walk(struct targets *t, uint64_t cr3, uint64_t linear)
{
    uint64_t table[512], gfn = (cr3 >> 12) & 0xffffffffff;

    for (int shift = 39; shift >= 12; shift -= 9) {
        uint64_t entry;

        add(t, gfn);
        total.tables++;
        if (!read_page(gfn, table))
            return;
        entry = table[(linear >> shift) & 511];
        if (!(entry & 1))
            return;
        gfn = (entry >> 12) & 0xffffffffff;
        if (shift > 12 && (entry & 0x80)) {
            gfn += (linear >> 12) & ((1ull << (shift - 12)) - 1);
            break;
        }
    }
    add(t, gfn);
}

static void add_vcpu(struct targets *t, unsigned vcpu)
{
    struct hvm_hw_cpu c;

    if (xc_domain_hvm_getcontext_partial(xch, d.id, HVM_SAVE_CODE(CPU), vcpu, &c, sizeof c))
        return;
    add_walk(t, c.cr3, c.rip);
    for (unsigned i = 0; i < 4; i++)
        add_walk(t, c.cr3, (c.rsp & ~0x3fffull) + i * XC_PAGE_SIZE);
    add_walk(t, c.cr3, c.gs_base);
    add_walk(t, c.cr3, c.shadow_gs);
    add_walk(t, c.cr3, c.idtr_base);
    add_walk(t, c.cr3, c.gdtr_base);
    /*
     * In Linux the TSS, the entry stack and the exceptions' stacks are side by
     * side.
     */
    for (int i = -2; i < 8; i++)
        add_walk(t, c.cr3, c.tr_base + i * XC_PAGE_SIZE);
}

/* Runs one cycle; yields whether it counts. */
static int hunt(void)
{
    static uint64_t sweep;
    struct targets t = { .n = 0 };
    uint64_t began = now_ms(), since;
    unsigned out = 0, in = 0;

    for (unsigned v = 0; v < vcpus; v++)
        add_vcpu(&t, v);
    for (char **name = named; *name; name++)
        add(&t, strtoull(*name, NULL, 0));
    for (unsigned i = 0; i < RECENT && i < total.in; i++)
        add(&t, recent[i]);
    for (unsigned i = 0; i < SWEEP; i++)
        add(&t, sweep++ % gfns);
    for (unsigned i = 0; i < t.n; i += BATCH) {
        out += page_out(t.gfn + i, t.n - i < BATCH ? t.n - i : BATCH);
        in += serve();
    }
    do {
        struct pollfd p = { .fd = xenevtchn_fd(d.events), .events = POLLIN };
        unsigned asked;

        since = now_ms();
        if (poll(&p, 1, QUIET_MS) > 0) {
            int port = xenevtchn_pending(d.events);
            if (port >= 0)
                xenevtchn_unmask(d.events, port);
        }
        asked = serve();
        in += asked;
        if (!asked && in && now_ms() - since >= QUIET_MS)
            break;
    } while (now_ms() - began < CYCLE_MS);
    if (now_ms() - began > total.worst_ms)
        total.worst_ms = now_ms() - began;
    return out && in;
}

static void all_home(void)
{
    for (uint64_t gfn = 0; gfn < gfns; gfn++) {
        serve();
        if (is_out[gfn]) {
            if ((errno = bring_home(gfn)))
                stop("cannot bring gfn %#" PRIx64 " home", gfn);
            is_out[gfn] = 0;
            total.in++;
        }
    }
    serve();
}

int main(int argc, char **argv)
{
    unsigned long cycles, done = 0, tried = 0;
    uint64_t gfn = 0, began;

    (void)errno_name, (void)ask_for, (void)counts;
    if (argc < 5)
        return 2;
    named = argv + 5;
    d.id = strtoul(argv[1], NULL, 0);
    gfns = strtoull(argv[2], NULL, 0);
    vcpus = strtoul(argv[3], NULL, 0);
    cycles = strtoul(argv[4], NULL, 0);
    open_everything();
    setvbuf(stdout, NULL, _IOLBF, 0);
    is_out = calloc(gfns, 1);
    store = mmap(NULL, gfns * XC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    buffer = mmap(NULL, XC_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    if (!is_out || store == MAP_FAILED || buffer == MAP_FAILED)
        stop("no memory");
    memset(buffer, 0, XC_PAGE_SIZE);
    if (xc_hvm_param_get(xch, d.id, HVM_PARAM_PAGING_RING_PFN, &gfn))
        stop("cannot find the ring");
    attach_to(&d, gfn);
    began = now_ms();
    while (done < cycles && tried < 4 * cycles) {
        tried++;
        done += hunt();
        if (tried % 20 == 0)
            printf("hunter: cycles %lu of %lu tried, out %lu in %lu\n", done, tried, total.out, total.in);
    }
    all_home();
    if ((errno = vm_event(d.id, XEN_VM_EVENT_DISABLE, NULL)))
        stop("cannot turn paging off");
    printf("hunter: done, cycles %lu of %lu tried, out %lu in %lu in-place %lu dropped %lu refused %lu tables %lu, %lu s, longest cycle %lu ms\n",
           done, tried, total.out, total.in, total.in_place, total.dropped, total.refused, total.tables,
           (unsigned long)(now_ms() - began) / 1000, total.worst_ms);
    return done < cycles;
}
