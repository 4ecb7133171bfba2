/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The host p2m: its lock, its entries, its flushes.
 */

#include <xen/ioreq.h>
#include <xen/sched.h>

#include <asm/hvm/nestedhvm.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/p2m_rs.h>
#include <asm/paging.h>

#include "../mm-locks.h"

/* Caller holds: nothing of a higher order; possibly this lock (recursive). */
void xen_shim_p2m_lock(struct domain *d)
{
    gfn_lock(p2m_get_hostp2m(d), _gfn(0), 0);
}

/* Caller holds: the p2m lock. Does a flush that is still owed. */
void xen_shim_p2m_unlock(struct domain *d)
{
    gfn_unlock(p2m_get_hostp2m(d), _gfn(0), 0);
}

/* Caller holds: the p2m lock. */
struct xen_shim_entry xen_shim_get_entry(struct domain *d, uint64_t gfn)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    p2m_type_t t;
    p2m_access_t a;
    mfn_t m = p2m->get_entry(p2m, _gfn(gfn), &t, &a, 0, NULL, NULL);

    BUILD_BUG_ON(p2m_ram_paging_in_start != 16);

    return (struct xen_shim_entry){
        .mfn = mfn_valid(m) ? mfn_x(m) : P2M_RS_NO_MFN,
        .p2mt = t,
        .access = a,
    };
}

/*
 * Caller holds: the p2m lock. An entry that is removed gets the default access
 * rights. Any other entry keeps its access rights.
 */
int xen_shim_set_entry(struct domain *d, uint64_t gfn, uint64_t mfn,
                       uint32_t p2mt, uint32_t access)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);

    if ( p2mt == p2m_invalid )
    {
        access = p2m->default_access;
        ioreq_request_mapcache_invalidate(d);
    }

    BUILD_BUG_ON(P2M_RS_NO_MFN != INVALID_MFN_RAW);

    return p2m_set_entry(p2m, _gfn(gfn), _mfn(mfn), PAGE_ORDER_4K, p2mt,
                         access);
}

/* Caller holds: the p2m lock. */
void xen_shim_flush(struct domain *d)
{
    p2m_tlb_flush_sync(p2m_get_hostp2m(d));
}

/*
 * Caller holds: the p2m lock and the paging lock. An entry of AMD's that was
 * present has been replaced. Whether the flush is left to the next
 * p2m_tlb_flush_sync(), or to the p2m's unlock, as EPT's code does.
 *
 * Only changes that memory paging makes, to or from one of its types, are
 * deferred. Paging frees a frame that it has taken out of an entry only after
 * p2m_tlb_flush_sync() (xen_shim_flush()). A page that is restored keeps its
 * frame and gets more rights. No page table is freed behind a level-1 entry.
 * Whoever replaces an entry of another level flushes at once, and that flush
 * covers the owed one. All other changes are flushed at once. So are those of a
 * domain with nested virtualisation, whose nested p2ms are derived from this
 * one.
 */
bool mem_paging_defer_flush(struct p2m_domain *p2m, unsigned int old_type,
                            mfn_t old_mfn, unsigned int new_type,
                            mfn_t new_mfn, unsigned int level)
{
    if ( level != 1 || !p2m->tlb_flush || !p2m->defer_flush ||
         !p2m_is_hostp2m(p2m) || nestedhvm_enabled(p2m->domain) )
        return false;

    if ( !p2m_is_paging(new_type) &&
         !(p2m_is_paging(old_type) && mfn_eq(old_mfn, new_mfn)) )
        return false;

    p2m->need_flush = 1;

    return true;
}

/* Caller holds: the p2m lock. */
void xen_shim_set_m2p(uint64_t mfn, uint64_t gfn)
{
    set_gpfn_from_mfn(mfn, gfn);
}

/* Caller holds: the p2m lock, and a reference to the frame. */
void xen_shim_clear_m2p(uint64_t mfn)
{
    set_gpfn_from_mfn(mfn, INVALID_M2P_ENTRY);
}

/* Caller holds: the p2m lock. */
bool xen_shim_log_dirty(struct domain *d)
{
    return paging_mode_log_dirty(d);
}

/* Caller holds: the p2m lock. */
void xen_shim_count_out(struct domain *d)
{
    atomic_inc(&d->paged_pages);
}

/* Caller holds: the p2m lock. */
void xen_shim_count_in(struct domain *d)
{
    atomic_dec(&d->paged_pages);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
