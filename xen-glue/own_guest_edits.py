# SPDX-License-Identifier: GPL-2.0-only
"""Edits that make Xen wait for pages of the guest that it runs for, instead of failing.

shim/pin.c describes how.
"""
from edit import also, include, instead

GET_PAGE_IN = "struct page_info *p2m_get_page_from_gfn("
GET_PAGE = "page = mem_paging_get_page(p2m, gfn, *t, q, page, %s);\n"

# The first check is whether the page is out: a page that is out has no frame.
TRANSLATE = """    if ( p2m_is_paging(p2mt) )
    {
        if ( page )
            put_page(page);
        p2m_mem_paging_populate(v->domain, gfn);
        return HVMTRANS_gfn_paged_out;
    }
"""

AGAIN = """        if ( mem_paging_hypercall_again() )
        {
            regs->rax = eax;
            curr->hcall_preempted = true;
        }
"""

# A record that the guest reads without a hypercall is written whole or not at all. If it was not
# written, it is written when the vcpu next runs.
RUNSTATE = """    if ( mem_paging_runstate(v) )
    {
        update_guest_memory_policy(v, &policy);
        return true;
    }
"""
TIME = """    if ( mem_paging_active(v->domain) )
    {
        struct vcpu_time_info whole;

        if ( __copy_from_guest(&whole, user_u, 1) )
        {
            update_guest_memory_policy(v, &policy);
            return false;
        }
    }
"""

# A list is continued where it missed a page. What was done before is not done again.
MEMOP = """    if ( mem_paging_page_was_out() )
        a->preempted = 1;
"""
# An error is written after the operation. The page it is written to must be resident before.
BATCH_ERROR = """        if ( __copy_from_guest_offset(&rc, xatpb->errs, extent, 1) )
            return mem_paging_page_was_out() && extent ? extent : -EFAULT;

"""
COPIED = """        if ( mem_paging_page_was_out() )
        {
            rc = i ? count - i : -EFAULT;
            break;
        }
"""
MAPPED = """        if ( mem_paging_page_was_out() )
            return i ?: -EFAULT;
"""
WRITTEN = """            return mem_paging_page_was_out()
                   ? hypercall_create_continuation(
                         __HYPERVISOR_console_io, "iih",
                         CONSOLEIO_write, count, buffer)
                   : -EFAULT;
"""

P2M = "arch/x86/mm/p2m.c"
HVM = "arch/x86/hvm/hvm.c"
DISPATCH, HYPERCALL = "arch/x86/hvm/hypercall.c", "int hvm_hypercall("
VIRIDIAN = "arch/x86/hvm/viridian/viridian.c"
MULTICALL = "common/multicall.c"
MEMORY, BATCH = "common/memory.c", "static int xenmem_add_to_physmap_batch("
GRANT = "common/grant_table.c"
MAP, UNMAP, SWAP = [f"gnttab_{op}_grant_ref(\n    XEN_GUEST_HANDLE_PARAM" for op in ("map", "unmap")] + [
    "gnttab_swap_grant_ref(XEN_GUEST_HANDLE_PARAM"]
COPY = "static long gnttab_copy("


def stop_at(done):
    return f"            return mem_paging_page_was_out() && {done} ? {done} : -EFAULT;\n"


RETRY_EDITS = [
    include("arch/x86/include/asm/guest_access.h", "#include <asm/hvm/guest_access.h>"),
    include(P2M, "#include <asm/vm_event.h>"),
    include(DISPATCH, "#include <asm/multicall.h>"),

    # A page of the running vcpu's own domain is looked up: it is missed, or pinned.
    also(P2M, GET_PAGE_IN, "p2m_read_unlock(p2m);", "after", "        " + GET_PAGE % "false"),
    also(P2M, GET_PAGE_IN, "put_gfn(p2m->domain, gfn_x(gfn));", "after", "    " + GET_PAGE % "true"),
    also(HVM, "enum hvm_translation_result hvm_translate_get_page(", "page = get_page_from_gfn(", "after", TRANSLATE),
    also(HVM, "void hvm_hlt(", "do_sched_op(SCHEDOP_block", "before", "    mem_paging_halt();\n"),
    also("arch/x86/domain.c", "bool update_runstate_area(", "memcpy(&runstate, &v->runstate", "before", RUNSTATE),
    also("arch/x86/time.c", "bool update_secondary_system_time(", "/* 1. Update userspace version. */", "before", TIME),

    # Hypercalls that missed a page are executed again.
    also(DISPATCH, HYPERCALL, "ret = viridian_hypercall(regs);", "before", "        mem_paging_hypercall();\n"),
    also(DISPATCH, HYPERCALL, "ret = viridian_hypercall(regs);", "after", "        mem_paging_hypercall_again();\n"),
    also(DISPATCH, HYPERCALL, "curr->hcall_preempted = false;", "after", "    mem_paging_hypercall();\n"),
    also(DISPATCH, HYPERCALL, "regs->rax != -ENOSYS )", "before", AGAIN),
    also(DISPATCH, HYPERCALL, "regs->eax != -ENOSYS )", "before", AGAIN),
    also(VIRIDIAN, "int viridian_hypercall(", " out:", "after", "    if ( mem_paging_page_was_out() )\n        rc = -ERESTART;\n"),

    # Lists.
    also(MULTICALL, "__copy_from_guest(&mcs->call", "rc = -EFAULT;", "before",
         "            if ( mem_paging_page_was_out() )\n                goto preempted;\n"),
    also(MULTICALL, "trace_multicall_call(&mcs->call);", "arch_do_multicall_call(mcs);", "after",
         "        if ( mem_paging_page_was_out() && !curr->hcall_preempted )\n            goto preempted;\n"),
    also(MEMORY, "static void populate_physmap(", "a->nr_done = i;", "before", MEMOP),
    also(MEMORY, "static void decrease_reservation(", "a->nr_done = i;", "before", MEMOP),
    *instead(MEMORY, "__copy_from_guest_offset(&gpfn, xatpb->gpfns,", "return -EFAULT;", stop_at("extent")),
    also(MEMORY, BATCH, "rc = xenmem_add_to_physmap_one(", "before", BATCH_ERROR),
    *instead(GRANT, MAP, "return -EFAULT;", stop_at("i")),
    also(GRANT, MAP, "map_grant_ref(&op);", "after", MAPPED),
    *instead(GRANT, UNMAP, "return -EFAULT;", "    return mem_paging_page_was_out() && done + partial_done\n"
                                              "           ? done + partial_done : -EFAULT;\n"),
    *instead(GRANT, COPY, "rc = -EFAULT;", "            rc = mem_paging_page_was_out() && i ? count - i : -EFAULT;\n"),
    also(GRANT, COPY, "rc = gnttab_copy_one(", "after", COPIED),
    *instead(GRANT, SWAP, "return -EFAULT;", stop_at("i")),
    *instead("drivers/char/console.c", "static long guest_console_write(", "return -EFAULT;", WRITTEN),
]
