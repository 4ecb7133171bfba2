/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which pages a guest uses: accessed and dirty bits of the host p2m's entries.
 * AMD's nested paging sets them always. Intel's EPT sets them if the CPU can
 * and Xen has turned it on. Xen does so while a domain logs dirty pages (PML),
 * and while a domain has a pager.
 *
 * With EPT's bits on, the CPU's walks of the guest's page tables count as
 * writes of the tables. A nominated page that is a table in use is thus
 * written, as if the guest had set accessed bits itself: the page is restored,
 * and its evict is refused. A table that is read-only for another reason
 * (p2m_ram_ro) causes violations of writes, as it does under PML.
 */

#include <xen/domain_page.h>
#include <xen/event.h>
#include <xen/sched.h>
#include <xen/vm_event.h>

#include <asm/altp2m.h>
#include <asm/flushtlb.h>
#include <asm/hvm/vmx/vmx.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/p2m_rs.h>
#include <asm/page.h>

/* Gfns of a word. */
#define WORD_GFNS 64

#define TOP_ORDER (3 * PAGETABLE_ORDER)

/* Same frame, same superpage bit. An entry without rights counts as none. */
struct format {
    uint64_t present, accessed, dirty;
};

static const struct format npt = { _PAGE_PRESENT, _PAGE_ACCESSED, _PAGE_DIRTY };
static const struct format ept = { 7, 1u << 8, 1u << 9 };

/*
 * Caller holds: the p2m lock. Maps the entry that maps the gfn; the entry
 * covers 2^order gfns. Entries of all levels have these bits in one place.
 */
static uint64_t *map_entry(const struct p2m_domain *p2m,
                           const struct format *format, uint64_t gfn,
                           unsigned int *order)
{
    mfn_t mfn = pagetable_get_mfn(p2m_get_pagetable(p2m));

    for ( *order = TOP_ORDER; ; *order -= PAGETABLE_ORDER )
    {
        uint64_t *entry = map_domain_page(mfn);
        uint64_t now;

        entry += (gfn >> *order) & (L1_PAGETABLE_ENTRIES - 1);
        now = read_atomic(entry);

        if ( !*order || !(now & format->present) ||
             (*order < TOP_ORDER && (now & _PAGE_PSE)) )
            return entry;

        mfn = maddr_to_mfn(now & PADDR_MASK & PAGE_MASK);
        unmap_domain_page(entry);
    }
}

/* Caller holds: the p2m lock. Yields which bits are set, and clears `clear`. */
static uint64_t take_bits(const struct format *format, uint64_t *entry,
                          uint64_t clear)
{
    uint64_t now = read_atomic(entry);

    if ( !(now & format->present) )
        return 0;

    /* Hardware may set them at the same time. */
    if ( now & clear )
        asm volatile ( "lock andq %1, %0" : "+m" (*entry) : "r" (~clear) );

    return now & (format->accessed | format->dirty);
}

/*
 * Caller holds: the p2m lock. Writes two words, which must be zero before, for
 * each 64 gfns from `gfn` on, a multiple of 64: accessed, dirty. 0 or a
 * negative errno. Afterwards no CPU uses a translation from before the bits
 * were cleared.
 */
int xen_shim_read_clear_access_bits(struct domain *d, uint64_t gfn,
                                    uint64_t *uses, uint32_t count,
                                    bool both)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    const struct format *format = cpu_has_vmx ? &ept : &npt;
    uint64_t clear = format->accessed, seen = 0;

    if ( !hap_enabled(d) || (cpu_has_vmx && !p2m->ept.ad) )
        return -EOPNOTSUPP;

    /* Dirty bits that PML has logged stay set: else it would log them again. */
    if ( both && !(cpu_has_vmx && vmx_domain_pml_enabled(d)) )
        clear |= format->dirty;

    while ( count && gfn <= p2m->max_mapped_pfn )
    {
        unsigned int order, words = 1, i;
        uint64_t *entry = map_entry(p2m, format, gfn, &order);

        if ( order )
        {
            /*
             * A large page, or a hole as large, is used as a whole. If only a
             * part of it is asked about, only the part with its last gfn clears
             * the bits: the earlier parts must not lose them.
             */
            uint64_t end = (gfn | ((1UL << order) - 1)) + 1;
            uint64_t bits;

            words = min_t(uint64_t, count, (end - gfn) / WORD_GFNS);
            bits = take_bits(format, entry,
                             gfn + words * WORD_GFNS == end ? clear : 0);
            for ( i = 0; i < words; i++ )
            {
                uses[2 * i] = bits & format->accessed ? ~0UL : 0;
                uses[2 * i + 1] = bits & format->dirty ? ~0UL : 0;
            }
            seen |= bits;
        }
        else
            for ( i = 0; i < WORD_GFNS; i++ )
            {
                uint64_t bits = take_bits(format, entry + i, clear);

                uses[0] |= (uint64_t)!!(bits & format->accessed) << i;
                uses[1] |= (uint64_t)!!(bits & format->dirty) << i;
                seen |= bits;
            }

        unmap_domain_page(entry);
        gfn += words * WORD_GFNS;
        uses += 2 * words;
        count -= words;
    }

    /*
     * A CPU that remembers the old entry would not note the next use. Nobody
     * but us knows that bits were cleared.
     */
    if ( seen & clear )
    {
        if ( cpu_has_vmx )
        {
            ept_sync_domain(p2m);
            p2m_tlb_flush_sync(p2m);
        }
        else
            guest_flush_tlb_mask(d, d->dirty_cpumask);
    }

    return 0;
}

/*
 * Caller holds: the domctl lock. Whether EPT's accessed bits are wanted. They
 * are not where a monitor watches the guest's memory: the CPU's walk of a table
 * that the monitor has made read-only would be reported as a write.
 */
bool mem_paging_wants_ad(const struct domain *d)
{
    return mem_paging_active(d) && !vm_event_check_ring(d->vm_event_monitor);
}

/* Caller holds: the domctl lock. A pager or a monitor is attached or gone. */
void mem_paging_track_access_bits(struct domain *d)
{
    if ( !cpu_has_vmx || !cpu_has_vmx_ept_ad || !is_hvm_domain(d) ||
         !hap_enabled(d) )
        return;

    domain_pause(d);
    mem_paging_ept_ad(d);
    domain_unpause(d);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
