/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The times that a vcpu spent in each state: a record in the guest's memory
 * that the guest reads without a hypercall. Xen writes it whenever the vcpu is
 * put on a CPU or taken off it. The record is written whole or not at all. If
 * it was not written, it is written when the vcpu next runs. The guest's page
 * table is walked once for it, because each table is a page that is looked up
 * and pinned.
 */

#include <xen/domain_page.h>
#include <xen/guest_access.h>
#include <xen/mm.h>
#include <xen/sched.h>

#include <asm/hvm/support.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/paging.h>

#include <compat/vcpu.h>

/*
 * As Xen's update_runstate_area() does: a reader that sees the flag before or
 * after its read reads again.
 */
static void write_record(const struct vcpu *v, struct vcpu_runstate_info *to)
{
    struct vcpu_runstate_info runstate = v->runstate;
    uint8_t *flag = (uint8_t *)(&to->state_entry_time + 1) - 1;

    if ( VM_ASSIST(v->domain, runstate_update_flag) )
    {
        runstate.state_entry_time |= XEN_RUNSTATE_UPDATE;
        write_atomic(flag, runstate.state_entry_time >> 56);
        smp_wmb();
    }

    memcpy(to, &runstate, sizeof(runstate));

    if ( VM_ASSIST(v->domain, runstate_update_flag) )
    {
        runstate.state_entry_time &= ~XEN_RUNSTATE_UPDATE;
        smp_wmb();
        write_atomic(flag, runstate.state_entry_time >> 56);
    }
}

/*
 * Caller: the running vcpu has such a record, and is put on a CPU or taken off.
 * True if nothing is left to do: the record has been written, or cannot be
 * written now. If false, the record can be written piece by piece.
 */
bool mem_paging_runstate(struct vcpu *v)
{
    const struct domain *d = v->domain;
    unsigned long at = (unsigned long)runstate_guest(v).p;
    struct page_info *page;
    p2m_type_t t;
    gfn_t gfn;

    if ( !d->mem_paging_vcpu )
        return false;

    /* A 32-bit guest's, in two pages, or somebody wants to see each access. */
    if ( has_32bit_shinfo(d) || v->arch.vm_event ||
         (at & ~PAGE_MASK) > PAGE_SIZE - sizeof(v->runstate) )
    {
        struct vcpu_runstate_info there;

        return raw_copy_from_guest(&there, (void *)at,
                                   has_32bit_shinfo(d)
                                   ? sizeof(struct compat_vcpu_runstate_info)
                                   : sizeof(there));
    }

    if ( hvm_translate_get_page(v, at, true,
                                PFEC_page_present | PFEC_write_access,
                                NULL, &page, &gfn, &t) != HVMTRANS_okay )
        return true;

    if ( !p2m_is_discard_write(t) && t != p2m_ioreq_server )
    {
        void *map = __map_domain_page(page);

        write_record(v, map + (at & ~PAGE_MASK));
        unmap_domain_page(map);
        paging_mark_pfn_dirty(v->domain, _pfn(gfn_x(gfn)));
    }

    put_page(page);

    return true;
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
