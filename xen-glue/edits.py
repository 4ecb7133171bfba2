# SPDX-License-Identifier: GPL-2.0-only
"""The changes to Xen 4.17's own files, as few as possible. Paths are below xen/.

An edit finds a few words (the first match behind its scope). It replaces them, or puts lines before
or after the line that contains them. The edits that make Xen wait for pages of the guest that it
runs for are in own_guest_edits.py.
"""
from edit import ELSE, ON, Edit, also, include, instead
from own_guest_edits import RETRY_EDITS

KCONFIG = """
choice
	prompt "Memory paging implementation"
	depends on MEM_PAGING
	default MEM_PAGING_RUST

config MEM_PAGING_RUST
	bool "Rust (the p2m-paging crate)"
	help
	  The state machine, the fault decision, vcpu pauses and the paging ring
	  come from the p2m-paging crate. Needs cargo and a Rust with the source
	  of its library to build.

config MEM_PAGING_C
	bool "C (mem_paging.c)"

endchoice
"""

P2M_TYPES = """
/* Requested; it has a frame only if it was not evicted yet. */
#ifdef CONFIG_MEM_PAGING_RUST
#define P2M_IN_START_TYPES p2m_to_mask(p2m_ram_paging_in_start)
#else
#define P2M_IN_START_TYPES 0
#endif
"""

FRAMELESS = """/* RAM of a paging type that has no frame now */
#ifdef CONFIG_MEM_PAGING_RUST
#define p2m_is_frameless(_t, _m) (p2m_is_paging(_t) && !mfn_valid(_m))
#else
#define p2m_is_frameless(_t, _m) p2m_is_paged(_t)
#endif
"""

# The level-1 entry of one page is replaced. No page table is freed with it.
DEFER = """        if ( !(oflags & _PAGE_PRESENT) ||
             !mem_paging_defer_flush(p2m, p2m_flags_to_type(oflags), omfn,
                                     p2m_flags_to_type(l1e_get_flags(new)),
                                     l1e_get_mfn(new), level) )
"""
HAP_FLUSH = """static void cf_check hap_tlb_flush(struct p2m_domain *p2m)
{
    guest_flush_tlb_mask(p2m->domain, p2m->domain->dirty_cpumask);
}

"""
EPT_RIGHTS = """uint64_t mem_paging_ept_permissions(const struct p2m_domain *p2m,
                                    unsigned int type)
{
    ept_entry_t entry = { .sa_p2mt = type, .access = p2m_access_rwx };

    ept_p2m_type_to_flags(p2m, &entry);

    return entry.epte & 7;
}

"""
NPT_RIGHTS = """uint64_t mem_paging_npt_permissions(const struct p2m_domain *p2m,
                                    unsigned int type)
{
    l1_pgentry_t entry =
        p2m_l1e_from_pfn(0, p2m_type_to_flags(p2m, type, INVALID_MFN, 0));

    if ( !(l1e_get_flags(entry) & _PAGE_PRESENT) )
        return 0;

    return entry.l1 & (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | (1UL << 63));
}

"""
EPT_AD = """/* The domain is paused. PML needs the bits, too. */
void mem_paging_ept_ad(struct domain *d)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    p2m_lock(p2m);
    ept_set_ad_sync(d, mem_paging_wants_ad(d) || vmx_domain_pml_enabled(d));
    vmx_domain_update_eptp(d);
    p2m_unlock(p2m);
}

"""

REMOVE = """    if ( unlikely(p2m_is_paging(p2mt)) )
    {
        put_gfn(d, gmfn);
        rc = mem_paging_remove_page(d, gmfn);
        if ( rc <= 0 )
            return rc;

        /* It became resident meanwhile: it is removed like any other page. */
        goto again;
    }
"""

AGAIN = """            case -EAGAIN:
                /*
                 * The pager cannot be told now, because the vcpu is already
                 * being paused for it: continue when the vcpu runs again.
                 */
                if ( !j && a->domain == current->domain )
                    a->preempted = 1;
                goto out;
"""

NO_MAP_PV = """            if ( mem_paging_map_refused(pg_dom, gfn, p2mt, page,
                                        q & P2M_UNSHARE) )
                return -ENOENT;

"""
NO_MAP = """    if ( mem_paging_map_refused(d, gfn, p2mt, page, !readonly) )
        return -EAGAIN;
"""

# Without a pager a page that is out counts as absent, as in C. A nominated page becomes resident
# when a debugger asks for it.
DEBUGGER = """    if ( (mfn_valid(mfn) || mem_paging_active(dp)) &&
         mem_paging_no_use(dp, *gfn, gfntype, mfn_valid(mfn), toaddr) )
    {
        put_gfn(dp, gfn_x(*gfn));
        mfn = get_gfn(dp, gfn_x(*gfn), &gfntype);
    }
    if ( p2m_is_paging(gfntype) && (toaddr || !mfn_valid(mfn)) )
        mfn = INVALID_MFN;
"""
ALTP2M = """        /* One view could still write a frame that is nominated in another. */
        if ( a.u.domain_state.state && mem_paging_active(d) )
        {
            domain_unpause_except_self(d);
            rc = -EBUSY;
            break;
        }

"""

P2M_H = "arch/x86/include/asm/p2m.h"
HVM = "arch/x86/hvm/hvm.c"
FAULT = "int hvm_hap_nested_page_fault("
HAP = "arch/x86/mm/hap/hap.c"
EPT, EPT_FLAGS = "arch/x86/mm/p2m-ept.c", "switch ( entry->sa_p2mt )"
NPT, NPT_FLAGS = "arch/x86/mm/p2m-pt.c", "p2m_type_to_flags("
OUT = "case p2m_ram_paging_out:"
VM_EVENT = "common/vm_event.c"

EDITS = [
    Edit("arch/x86/Kconfig", "config MEM_PAGING\n", "depends on HVM", "after", KCONFIG),
    Edit("arch/x86/mm/Makefile", "", "CONFIG_MEM_PAGING)", "replace", "CONFIG_MEM_PAGING_C)"),
    Edit("arch/x86/mm/Makefile", "", "mem_paging.o", "after", "obj-$(CONFIG_MEM_PAGING_RUST) += p2m_rs/\n"),

    # The new type, and the sets of types that it belongs to.
    Edit(P2M_H, "", "p2m_ioreq_server = 15,", "after",
         "    p2m_ram_paging_in_start = 16, /* MEM_PAGING_RUST: requested */\n"),
    Edit(P2M_H, "", "#define p2m_to_mask(_t)", "after", P2M_TYPES),
    Edit(P2M_H, "", "P2M_RAM_TYPES (", "replace", "P2M_RAM_TYPES (P2M_IN_START_TYPES | "),
    Edit(P2M_H, "", "P2M_HOLE_TYPES (", "replace", "P2M_HOLE_TYPES (P2M_IN_START_TYPES | "),
    Edit(P2M_H, "", "P2M_PAGING_TYPES (", "replace", "P2M_PAGING_TYPES (P2M_IN_START_TYPES | "),
    Edit(P2M_H, "", "P2M_PAGED_TYPES (", "replace", "P2M_PAGED_TYPES (P2M_IN_START_TYPES | "),
    Edit(P2M_H, "", "#define p2m_is_paged(_t)", "after", FRAMELESS),
    *[Edit("arch/x86/mm/p2m.c", "", "!p2m_is_paged(ot)", "replace", "!p2m_is_frameless(ot, omfn)")] * 3,

    # A nominated page can be read and executed.
    also(EPT, EPT_FLAGS, "case p2m_ram_ro:", "after", "        case p2m_ram_paging_out:\n"),
    Edit(EPT, EPT_FLAGS, OUT, "before", "#ifndef CONFIG_MEM_PAGING_RUST\n"),
    Edit(EPT, EPT_FLAGS, OUT, "after", "#endif /* !MEM_PAGING_RUST */\n"),
    also(NPT, NPT_FLAGS, "case p2m_ram_ro:", "after", "    case p2m_ram_paging_out:\n"),
    Edit(NPT, NPT_FLAGS, OUT, "before", "#ifndef CONFIG_MEM_PAGING_RUST\n"),
    Edit(NPT, NPT_FLAGS, OUT, "after", "#endif /* !MEM_PAGING_RUST */\n"),
    include(EPT, "#include <xen/softirq.h>"),
    also(EPT, "", "#define GUEST_TABLE_MAP_FAILED", "before", EPT_RIGHTS),
    also(NPT, "", "/* Reconstruct a fake p2m_access_t", "before", NPT_RIGHTS),

    # AMD's entries: one flush for the entries that paging changes together, as Intel's code does.
    include(NPT, "#include <asm/mem_sharing.h>"),
    also(NPT, "static int write_p2m_entry(", "if ( p2m->write_p2m_entry_post )", "before", DEFER),
    also(HAP, "", "void hap_p2m_init(", "before", HAP_FLUSH),
    also(HAP, "void hap_p2m_init(", "p2m->write_p2m_entry_post", "after", "    p2m->tlb_flush = hap_tlb_flush;\n"),

    # Accessed bits of Intel's entries.
    also(EPT, "", "static void ept_enable_pml(", "before", EPT_AD),
    *instead(EPT, "static void ept_disable_pml(", "ept_set_ad_sync(p2m->domain, false);",
             "    ept_set_ad_sync(p2m->domain, mem_paging_wants_ad(p2m->domain));\n"),
    also(VM_EVENT, "case XEN_DOMCTL_VM_EVENT_OP_MONITOR:", "monitor_notification);", "after",
         "            if ( !rc )\n                mem_paging_track_access_bits(d);\n"),
    also(VM_EVENT, "case XEN_DOMCTL_VM_EVENT_OP_MONITOR:", "arch_monitor_cleanup_domain(d);", "after",
         "                mem_paging_track_access_bits(d);\n"),
    also(HVM, "case HVMOP_altp2m_get_domain_state:\n        a.u", "ostate = d->arch.altp2m_active;", "before", ALTP2M),

    # The domain's state.
    # In a union that is larger than this structure.
    Edit("include/public/domctl.h", "struct xen_domctl_vm_event_op {", "uint32_t port;", "after",
         "                /* OUT: for the pager to state (MemPagingOp::STATES_EPOCH) */\n                uint32_t epoch;\n"),
    # Padding until now: the structure keeps its size.
    Edit("include/public/memory.h", "struct xen_mem_paging_op {", "domid_t     domain;", "after",
         "    /* IN: the caller's epoch, if op states one (MemPagingOp::STATES_EPOCH) */\n    uint32_t    epoch;\n"),
    also("include/xen/sched.h", "", "vm_event_domain *vm_event_paging;", "after", "    struct p2m_rs *p2m_rs;\n    struct mem_paging_vcpu *mem_paging_vcpu;\n"
         "    struct tasklet *mem_paging_later;\n"),
    include("common/domain.c", "#include <xen/vm_event.h>"),
    also("common/domain.c", "", "xfree(d->vm_event_paging);", "after", "    mem_paging_free(d);\n"),
    include("common/keyhandler.c", "#include <asm/div64.h>"),
    also("common/keyhandler.c", "static void cf_check dump_domains(", 'printk("    handle=', "before",
         "        mem_paging_dump(d);\n"),

    # The ring and its pager.
    include(VM_EVENT, "#include <xsm/xsm.h>"),
    also(VM_EVENT, "int vm_event_domctl(", "case XEN_DOMCTL_VM_EVENT_OP_PAGING:", "after",
         "        return mem_paging_domctl(d, vec);\n"),
    also(VM_EVENT, "void vm_event_cleanup(", "#ifdef CONFIG_MEM_PAGING", "before", "    mem_paging_cleanup(d);\n"),
    Edit("arch/x86/include/asm/mem_paging.h", "", "#ifdef CONFIG_MEM_PAGING", "replace",
         "#ifdef CONFIG_MEM_PAGING_RUST\n# include <asm/mem_paging_rust.h>\n"
         "# define mem_paging_enabled(d) mem_paging_active(d)\n#elif defined(CONFIG_MEM_PAGING)"),

    # The nested page fault.
    include(HVM, "#include <asm/vm_event.h>"),
    *instead(HVM, FAULT, "if ( p2m_is_paged(p2mt) ||", "    if ( p2m_is_paging(p2mt) )\n"),
    *instead(HVM, FAULT, "p2m_mem_paging_populate(currd,", "        mem_paging_fault(currd, gfn, npfec);\n"),

    # The cause that the hardware reports.
    also("include/xen/mm.h", "struct npfec {", "npfec_kind_t", "after", "    uint64_t cause:57; /* Exit qualification, or error code: the low bits */\n"),
    also("arch/x86/hvm/vmx/vmx.c", "static void ept_handle_violation(", ".present =", "after", "        .cause = q.raw,\n"),
    also("arch/x86/hvm/svm/svm.c", "static void svm_do_nested_pgfault(", ".present =", "after", "        .cause = pfec,\n"),

    # A page that a foreign caller maps, or copies from or to.
    include("arch/x86/mm.c", "#include <asm/mem_sharing.h>"),
    Edit("arch/x86/mm.c", "/* Translate foreign guest address. */", "if ( p2m_is_paged(p2mt) )", "before", ON + NO_MAP_PV + ELSE),
    Edit("arch/x86/mm.c", "if ( p2mt == p2m_ram_paging_in && !page )", "return -ENOENT;", "after", "#endif /* !MEM_PAGING_RUST */\n"),
    Edit("common/memory.c", "int check_get_page_from_gfn(", "if ( p2m_is_paging(p2mt) )", "before", ON + NO_MAP + ELSE),
    Edit("common/memory.c", "int check_get_page_from_gfn(", "#endif\n#ifdef CONFIG_MEM_SHARING", "before", "#endif /* !MEM_PAGING_RUST */\n"),

    # A page that is out has contents. Who saves the domain maps the page, and waits for it.
    *instead("arch/x86/domctl.c", "case XEN_DOMCTL_getpageframeinfo3:", "type = XEN_DOMCTL_PFINFO_XTAB;",
             "                    type = p2m_is_paging(t) && mem_paging_active(d)\n"
             "                           ? XEN_DOMCTL_PFINFO_NOTAB : XEN_DOMCTL_PFINFO_XTAB;\n"),
    # Nobody can bring it any more.
    also("arch/x86/domctl.c", "case XEN_DOMCTL_getpageframeinfo3:", "put_page(page);", "after",
         "            if ( type == XEN_DOMCTL_PFINFO_XTAB && p2m_is_paging(t) )\n"
         "            {\n                ret = -ENODATA;\n                break;\n            }\n"),
    include("arch/x86/domctl.c", "#include <asm/mem_sharing.h>"),

    include("arch/x86/gdbsx.c", "#include <asm/p2m.h>"),
    also("arch/x86/gdbsx.c", "dbg_hvm_va2mfn(", "if ( p2m_is_readonly(gfntype) && toaddr )", "before", DEBUGGER),

    # A page that the guest gives back.
    include("common/memory.c", "#include <xsm/xsm.h>"),
    also("common/memory.c", "int guest_remove_page(", "mfn = get_gfn_query(d, gmfn, &p2mt);", "before", " again:\n"),
    also("common/memory.c", "int guest_remove_page(", "if ( unlikely(p2m_is_paging(p2mt)) )", "before", REMOVE),
    also("common/memory.c", "if ( !rc && !is_domain_direct_mapped(d) )", "put_page_alloc_ref(page);", "after",
         "    if ( !rc )\n        mem_paging_page_removed(d, page);\n"),
    also("common/memory.c", "static void decrease_reservation(", "case -ENOENT:", "before", AGAIN),

    *RETRY_EDITS,
]
