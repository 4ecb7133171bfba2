/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which pages a guest uses: accessed and dirty bits of the host p2m's entries,
 * which AMD's nested paging sets by itself. Intel's EPT does so only where Xen
 * has turned it on, which it does while a domain logs dirty pages (PML); nothing
 * is read there.
 */

#include <xen/domain_page.h>
#include <xen/event.h>
#include <xen/guest_access.h>
#include <xen/sched.h>

#include <asm/flushtlb.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/p2mp.h>
#include <asm/page.h>

/* Gfns of a word; words under one hold of the p2m lock (USES_CHUNK). */
#define WORD_GFNS 64
#define CHUNK 64
/* Gfns of a call, at most (MemPagingOp::USES_GFNS). */
#define CALL_GFNS 16384

#define TOP_ORDER (3 * PAGETABLE_ORDER)

/*
 * Caller holds: the p2m lock. The entry that maps the gfn, mapped itself: 2^order
 * gfns are behind it. Entries of all levels have these bits in one place.
 */
static l1_pgentry_t *map_entry(const struct p2m_domain *p2m, uint64_t gfn,
                               unsigned int *order)
{
    mfn_t mfn = pagetable_get_mfn(p2m_get_pagetable(p2m));

    for ( *order = TOP_ORDER; ; *order -= PAGETABLE_ORDER )
    {
        l1_pgentry_t *entry = map_domain_page(mfn);
        unsigned int flags;

        entry += (gfn >> *order) & (L1_PAGETABLE_ENTRIES - 1);
        flags = l1e_get_flags(*entry);

        if ( !*order || !(flags & _PAGE_PRESENT) ||
             (*order < TOP_ORDER && (flags & _PAGE_PSE)) )
            return entry;

        mfn = l1e_get_mfn(*entry);
        unmap_domain_page(entry);
    }
}

/* Caller holds: the p2m lock. Those of the flags that are set; `clear` go. */
static unsigned int take_flags(l1_pgentry_t *entry, unsigned int clear)
{
    unsigned int flags = l1e_get_flags(*entry);

    if ( !(flags & _PAGE_PRESENT) )
        return 0;

    /* Hardware may set them at the same time. */
    if ( flags & clear )
        asm volatile ( "lock andq %1, %0"
                       : "+m" (entry->l1) : "r" (~(uint64_t)clear) );

    return flags & (_PAGE_ACCESSED | _PAGE_DIRTY);
}

/*
 * Caller holds: the p2m lock. For each 64 gfns from `gfn` on, a multiple of 64,
 * two words that are zero: accessed, dirty. 0 or a negative errno; no CPU goes
 * on with what was cleared.
 */
int p2mx_take_uses(struct domain *d, uint64_t gfn, uint64_t *uses,
                   uint32_t count, bool both)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    const unsigned int clear = _PAGE_ACCESSED | (both ? _PAGE_DIRTY : 0);
    unsigned int seen = 0;

    if ( !hap_enabled(d) || !cpu_has_svm )
        return -EOPNOTSUPP;

    while ( count && gfn <= p2m->max_mapped_pfn )
    {
        unsigned int order, words = 1, i;
        l1_pgentry_t *entry = map_entry(p2m, gfn, &order);

        if ( order )
        {
            /*
             * A large page, or a hole as large, which is used as a whole. If
             * only a part of it is asked about, then the part that ends it
             * clears the bits: those before must not lose them.
             */
            uint64_t end = (gfn | ((1UL << order) - 1)) + 1;
            unsigned int flags;

            words = min_t(uint64_t, count, (end - gfn) / WORD_GFNS);
            flags = take_flags(entry,
                               gfn + words * WORD_GFNS == end ? clear : 0);
            for ( i = 0; i < words; i++ )
            {
                uses[2 * i] = flags & _PAGE_ACCESSED ? ~0UL : 0;
                uses[2 * i + 1] = flags & _PAGE_DIRTY ? ~0UL : 0;
            }
            seen |= flags;
        }
        else
            for ( i = 0; i < WORD_GFNS; i++ )
            {
                unsigned int flags = take_flags(entry + i, clear);

                uses[0] |= (uint64_t)!!(flags & _PAGE_ACCESSED) << i;
                uses[1] |= (uint64_t)!!(flags & _PAGE_DIRTY) << i;
                seen |= flags;
            }

        unmap_domain_page(entry);
        gfn += words * WORD_GFNS;
        uses += 2 * words;
        count -= words;
    }

    /*
     * A CPU that remembers an entry as it was would not note the next use. That
     * no right was taken away p2m_tlb_flush_sync() cannot know.
     */
    if ( seen & clear )
        guest_flush_tlb_mask(d, d->dirty_cpumask);

    return 0;
}

/*
 * Caller holds: a reference to the domain. A word for every 64 gfns from mpo->gfn
 * to the next multiple of CALL_GFNS goes to mpo->buffer; both move on with what
 * has been done. -ERESTART: to be called again with what is left.
 */
int mem_paging_uses(struct domain *d, xen_mem_paging_op_t *mpo)
{
    uint64_t words[CHUNK];

    if ( !mem_paging_active(d) )
        return -ENODEV;

    for ( ; ; )
    {
        uint64_t left = CALL_GFNS - mpo->gfn % CALL_GFNS;
        unsigned int n = min_t(uint64_t, left / WORD_GFNS, CHUNK);
        int rc = p2mp_uses(d->p2mp, mpo->gfn, words, n);

        if ( rc )
            return rc;

        if ( copy_to_guest(guest_handle_from_ptr((void *)mpo->buffer.p,
                                                 uint64_t), words, n) )
            return -EFAULT;

        if ( left == n * WORD_GFNS )
            return 0;

        mpo->gfn += n * WORD_GFNS;
        mpo->buffer.p += n * sizeof(*words);

        if ( hypercall_preempt_check() )
            return -ERESTART;
    }
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
