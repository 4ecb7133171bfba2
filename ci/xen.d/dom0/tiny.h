/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A guest of two vcpus and no operating system: each vcpu does what its mailbox
 * says. A program in dom0 thus decides which vcpu touches which page when, and
 * is the domain's pager. Include after dummy.h.
 */
#include <time.h>
#include <xen/hvm/save.h>

/*
 * LOOP: adds 1 over and over until it gets another command. LEAVE: halts for
 * good.
 */
enum touch { READ = 1, WRITE, RUN, LOOP, LEAVE };
enum { CODE_GFN = 8, MAILBOX_GFN = 16, RUN_AT = 16 };

struct mailbox {
    uint32_t asked, touch, address, value; /* written by dom0; a new number in `asked` last */
    uint32_t done, result;                 /* written by the vcpu; the number of `asked` last */
};

static volatile struct mailbox *mailbox[2];

/*
 * ebx: the vcpu's mailbox, esp: the end of its page. No paging: an address is a
 * guest-physical one.
 */
__asm__(".pushsection .rodata\n"
        ".code32\n"
        "tiny_start:\n"
        "1: pause\n"
        "   movl (%ebx), %eax\n"
        "   cmpl %eax, 16(%ebx)\n"
        "   je 1b\n"
        "   movl 8(%ebx), %edx\n"
        "   cmpl $1, 4(%ebx)\n"
        "   je 2f\n"
        "   cmpl $2, 4(%ebx)\n"
        "   je 3f\n"
        "   cmpl $4, 4(%ebx)\n"
        "   je 5f\n"
        "   cmpl $5, 4(%ebx)\n"
        "   je 6f\n"
        "   call *%edx\n"
        "   jmp 4f\n"
        "2: movl (%edx), %esi\n"
        "   movl %esi, 20(%ebx)\n"
        "   jmp 4f\n"
        "3: movl 12(%ebx), %esi\n"
        "   movl %esi, (%edx)\n"
        "4: movl %eax, 16(%ebx)\n"
        "   jmp 1b\n"
        "5: incl (%edx)\n"
        "   cmpl %eax, (%ebx)\n"
        "   je 5b\n"
        "   jmp 4b\n"
        "6: hlt\n"
        "   jmp 6b\n"
        "tiny_end:\n"
        ".code64\n"
        ".popsection\n");
extern const char tiny_start[], tiny_end[];

static inline void *must_map(uint32_t id, uint64_t gfn)
{
    void *map;

    if ((errno = map_page(id, gfn, &map)))
        stop("cannot map gfn %#" PRIx64, gfn);
    return map;
}

/* Both at once: loading stops every vcpu that is not in the loaded state. */
static inline void set_registers(uint32_t id, const void *header, size_t header_bytes)
{
    struct {
        struct hvm_save_descriptor header_d;
        HVM_SAVE_TYPE(HEADER) header;
        struct {
            struct hvm_save_descriptor d;
            HVM_SAVE_TYPE(CPU) cpu;
        } vcpu[2];
        struct hvm_save_descriptor end_d;
        HVM_SAVE_TYPE(END) end;
    } context;

    memset(&context, 0, sizeof context);
    memcpy(&context, header, header_bytes);
    for (unsigned n = 0; n < 2; n++) {
        HVM_SAVE_TYPE(CPU) *cpu = &context.vcpu[n].cpu;

        context.vcpu[n].d = (struct hvm_save_descriptor){ HVM_SAVE_CODE(CPU), n, HVM_SAVE_LENGTH(CPU) };
        cpu->cs_limit = cpu->ds_limit = cpu->es_limit = cpu->ss_limit = ~0u;
        cpu->tr_limit = 0x67;
        cpu->cs_arbytes = 0xc9b;
        cpu->ds_arbytes = cpu->es_arbytes = cpu->ss_arbytes = 0xc93;
        cpu->tr_arbytes = 0x8b;
        cpu->cr0 = 0x11; /* PE, ET */
        cpu->dr6 = 0xffff0ff0;
        cpu->dr7 = 0x400;
        /*
         * Interrupts are on: with them off Bochs does not leave the guest for
         * Xen's interrupts. The guest has none of its own.
         */
        cpu->rflags = 0x202;
        cpu->rip = (uint64_t)CODE_GFN << XC_PAGE_SHIFT;
        cpu->rbx = (uint64_t)(MAILBOX_GFN + n) << XC_PAGE_SHIFT;
        cpu->rsp = cpu->rbx + XC_PAGE_SIZE;
    }
    context.end_d = (struct hvm_save_descriptor){ HVM_SAVE_CODE(END), 0, HVM_SAVE_LENGTH(END) };
    if (xc_domain_hvm_setcontext(xch, id, (void *)&context, sizeof context))
        stop("cannot set the vcpus' registers");
}

/*
 * Starts the vcpus of a domain of dummy.h. They run on the last CPU, as every
 * guest here (ci/xen.d/machine-qemu.sh says why).
 */
static inline void start_vcpus(uint32_t id)
{
    int bytes = xc_domain_hvm_getcontext(xch, id, NULL, 0);
    uint8_t *context = bytes > 0 ? malloc(bytes) : NULL;
    xc_cpumap_t cpus = xc_cpumap_alloc(xch);
    void *code = must_map(id, CODE_GFN);

    if (!context || !cpus || xc_domain_hvm_getcontext(xch, id, context, bytes) <= 0)
        stop("cannot read the guest's registers");
    memcpy(code, tiny_start, tiny_end - tiny_start);
    munmap(code, XC_PAGE_SIZE);
    cpus[0] = 1 << (xc_get_online_cpus(xch) - 1);
    for (unsigned vcpu = 0; vcpu < 2; vcpu++) {
        mailbox[vcpu] = must_map(id, MAILBOX_GFN + vcpu);
        memset((void *)mailbox[vcpu], 0, XC_PAGE_SIZE);
        if (xc_vcpu_setaffinity(xch, id, vcpu, cpus, NULL, XEN_VCPUAFFINITY_HARD))
            stop("cannot set the affinity of vcpu %u", vcpu);
    }
    set_registers(id, context, sizeof(struct hvm_save_descriptor) + HVM_SAVE_LENGTH(HEADER));
    free(context);
    free(cpus);
    if (xc_domain_unpause(xch, id))
        stop("cannot let the guest run");
}

/* Called before the domain is destroyed: maps of its frames would keep it. */
static inline void unmap_mailboxes(void)
{
    for (unsigned vcpu = 0; vcpu < 2; vcpu++)
        munmap((void *)mailbox[vcpu], XC_PAGE_SIZE);
}

static inline double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/*
 * Waits until the condition holds, or the time is over; yields whether it
 * holds.
 */
#define within(limit, condition) ({ \
    double end_ = seconds() + (limit); \
    int holds_; \
    while (!(holds_ = !!(condition)) && seconds() < end_) \
        usleep(1000); \
    holds_; })

/* Starts a command; a page that is to be executed has code at RUN_AT. */
static inline void tell(unsigned vcpu, enum touch touch, uint64_t gfn, uint32_t value)
{
    volatile struct mailbox *box = mailbox[vcpu];

    box->touch = touch;
    box->address = (gfn << XC_PAGE_SHIFT) + (touch == RUN ? RUN_AT : 0);
    box->value = value;
    __sync_synchronize();
    box->asked++;
}

static inline int is_done(unsigned vcpu) { return mailbox[vcpu]->done == mailbox[vcpu]->asked; }

/*
 * Whether the vcpu is off its CPU and uses no time: it neither polls its
 * mailbox nor faults again and again.
 */
static inline int stands(uint32_t id, unsigned vcpu)
{
    xc_vcpuinfo_t before, after;

    if (xc_vcpu_getinfo(xch, id, vcpu, &before))
        stop("no vcpu %u", vcpu);
    usleep(100000);
    if (xc_vcpu_getinfo(xch, id, vcpu, &after))
        stop("no vcpu %u", vcpu);
    return !is_done(vcpu) && !after.running && before.cpu_time == after.cpu_time;
}
