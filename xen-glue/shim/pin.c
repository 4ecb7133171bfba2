/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pins the pages that a vcpu needs to make progress.
 *
 * One step of a vcpu (an instruction, the delivery of an event, a hypercall)
 * may need many pages at once: code, data, stack, and the page tables of each.
 * The vcpu waits for one page that is out after the other, and then begins the
 * step again. So that the step completes, the pages that the vcpu has waited
 * for and those that Xen has used for it are pinned: the pager does not
 * nominate a page to which there is another reference. Pages are unpinned when
 * the vcpu halts, when the guest gives one back and when the pager is detached.
 * If there are too many, one whose last use is longest ago is unpinned. The end
 * of a hypercall unpins nothing: the hypercall may belong to an interrupt that
 * came while another hypercall waits.
 *
 * A hypercall that misses a page does not fail: it is executed again when the
 * page is resident (hvm_hypercall()). Before a hypercall has read its
 * arguments, it does nothing that cannot be done twice. What it writes
 * afterwards goes to pages that it has read, which are pinned. Hypercalls that
 * process a list are continued where they missed a page.
 */

#include <xen/mm.h>
#include <xen/sched.h>
#include <xen/spinlock.h>
#include <xen/xmalloc.h>

#include <asm/mem_paging.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/p2m_rs.h>

/*
 * More than one step of a hypercall and the interrupts during it need. A frame
 * can be in one set only, so that few pointers have to be compared.
 */
#define SETS 8
#define WAYS 16

struct mem_paging_vcpu {
    /* Taken by the vcpu, to add pages, and by whoever wakes it. A leaf. */
    spinlock_t lock;
    /* A pager is attached; without one nothing is pinned. */
    bool on;
    /* In each set the page that was needed last is the first. */
    struct page_info *pinned[SETS][WAYS];
    /* Used by the vcpu only: it missed a page and is paused for it. */
    bool missed;
    unsigned long again;
};

/*
 * Caller holds: nothing. For all vcpus of a domain; to be freed with xfree().
 */
struct mem_paging_vcpu *mem_paging_pin_alloc(const struct domain *d)
{
    struct mem_paging_vcpu *pv =
        xzalloc_array(struct mem_paging_vcpu, d->max_vcpus);
    unsigned int i;

    for ( i = 0; pv && i < d->max_vcpus; i++ )
        spin_lock_init(&pv[i].lock);

    return pv;
}

/* NULL: the domain was never paged. */
static struct mem_paging_vcpu *paged_vcpu(const struct vcpu *v)
{
    struct mem_paging_vcpu *pv = v->domain->mem_paging_vcpu;

    return pv ? &pv[v->vcpu_id] : NULL;
}

static struct page_info **set_of(struct mem_paging_vcpu *pv,
                                 const struct page_info *page)
{
    unsigned long mfn = mfn_x(page_to_mfn(page));

    /* Neighbouring frames are in different sets. */
    return pv->pinned[(mfn ^ (mfn >> PAGETABLE_ORDER)) % SETS];
}

/*
 * Caller holds: a reference to the page. Takes a reference of its own, unless
 * the page is pinned already.
 */
static void pin_page(struct domain *d, struct mem_paging_vcpu *pv,
                     struct page_info *page)
{
    struct page_info **set = set_of(pv, page), *last = NULL;
    unsigned int i;

    /* It is needed last, too. If it is unpinned just now, it stays so. */
    if ( !read_atomic(&pv->on) || read_atomic(&set[0]) == page )
        return;

    spin_lock(&pv->lock);

    for ( i = 0; i < WAYS - 1; i++ )
        if ( !set[i] || set[i] == page )
            break;

    if ( !pv->on || (set[i] != page && !get_page(page, d)) )
    {
        spin_unlock(&pv->lock);
        return;
    }

    if ( set[i] != page )
        last = set[i];

    memmove(&set[1], &set[0], i * sizeof(set[0]));
    write_atomic(&set[0], page);

    spin_unlock(&pv->lock);

    if ( last )
        put_page(last);

    /*
     * The guest may have given the page back meanwhile. Either
     * mem_paging_page_removed() has seen it in the set, or this check sees that
     * it is not allocated any more.
     */
    smp_mb();
    if ( unlikely(!(read_atomic(&page->count_info) & PGC_allocated)) )
        mem_paging_page_removed(d, page);
}

/* Unpins all pages, set by set. */
static void unpin_all(struct mem_paging_vcpu *pv)
{
    struct page_info *pinned[WAYS];
    unsigned int s, i;

    for ( s = 0; s < SETS; s++ )
    {
        if ( !read_atomic(&pv->pinned[s][0]) )
            continue;

        spin_lock(&pv->lock);
        memcpy(pinned, pv->pinned[s], sizeof(pinned));
        memset(pv->pinned[s], 0, sizeof(pinned));
        spin_unlock(&pv->lock);

        for ( i = 0; i < WAYS && pinned[i]; i++ )
            put_page(pinned[i]);
    }
}

/*
 * Caller holds: the domctl lock, or the domain is dying. A pager is attached,
 * or has been detached: without one nothing is pinned.
 */
void mem_paging_pin(struct domain *d, bool on)
{
    unsigned int i;

    for ( i = 0; d->mem_paging_vcpu && i < d->max_vcpus; i++ )
    {
        struct mem_paging_vcpu *pv = &d->mem_paging_vcpu[i];

        spin_lock(&pv->lock);
        pv->on = on;
        spin_unlock(&pv->lock);

        if ( !on )
            unpin_all(pv);
    }
}

/*
 * Caller holds: a reference to the page, which has left the physmap and is not
 * allocated any more (PGC_allocated); possibly the p2m lock. Unpins the page,
 * so that the domain is not charged for it.
 */
void mem_paging_page_removed(struct domain *d, struct page_info *page)
{
    unsigned int v, i;

    for ( v = 0; d->mem_paging_vcpu && v < d->max_vcpus; v++ )
    {
        struct mem_paging_vcpu *pv = &d->mem_paging_vcpu[v];
        struct page_info **set = set_of(pv, page);

        if ( !read_atomic(&set[0]) )
            continue;

        spin_lock(&pv->lock);
        for ( i = 0; i < WAYS && set[i] != page; i++ )
            ;
        if ( i < WAYS )
        {
            memmove(&set[i], &set[i + 1], (WAYS - 1 - i) * sizeof(set[0]));
            set[WAYS - 1] = NULL;
        }
        spin_unlock(&pv->lock);

        if ( i < WAYS )
            put_page(page);
    }
}

/* Caller holds: nothing. The page that the vcpu has waited for is resident. */
void xen_shim_pin_page(struct domain *d, uint32_t vcpu, uint64_t gfn)
{
    struct page_info *page;
    p2m_type_t t;

    if ( !d->mem_paging_vcpu || vcpu >= d->max_vcpus )
        return;

    page = get_page_from_gfn(d, gfn, &t, 0);
    if ( !page )
        return;

    if ( !p2m_is_paging(t) )
        pin_page(d, &d->mem_paging_vcpu[vcpu], page);
    put_page(page);
}

/*
 * Caller holds: anything that may be held around the p2m lock. Xen has looked
 * up a gfn with this query, and found this type and perhaps a page. If the
 * caller runs for a vcpu of the domain and the page is out or in flight, the
 * page is missed: the lookup yields NULL, and the vcpu waits as soon as it is
 * back in the scheduler. A page that the vcpu gets is pinned. Only the last
 * lookup decides that a page is missed: if the page becomes resident before
 * that lookup, the operation goes on and must not be executed again.
 */
struct page_info *mem_paging_get_page(struct p2m_domain *p2m, gfn_t gfn,
                                      unsigned int type, unsigned int query,
                                      struct page_info *page, bool last)
{
    struct domain *d = p2m->domain;
    struct mem_paging_vcpu *pv;

    if ( d != current->domain || !p2m_is_hostp2m(p2m) ||
         !(query & (P2M_ALLOC | P2M_UNSHARE)) )
        return page;

    pv = paged_vcpu(current);
    if ( !pv )
        return page;

    if ( p2m_is_paging(type) )
    {
        if ( page )
            put_page(page);
        if ( last )
        {
            pv->missed = true;
            p2m_mem_paging_populate(d, gfn);
        }

        return NULL;
    }

    if ( page && !p2m_is_foreign(type) )
        pin_page(d, pv, page);

    return page;
}

/* Caller: the running vcpu. Whether it missed a page in this hypercall. */
bool mem_paging_page_was_out(void)
{
    const struct mem_paging_vcpu *pv = paged_vcpu(current);

    return unlikely(pv) && pv->missed;
}

/* Caller: the running vcpu begins a hypercall, or begins one again. */
void mem_paging_hypercall(void)
{
    struct mem_paging_vcpu *pv = paged_vcpu(current);

    if ( unlikely(pv) )
        pv->missed = false;
}

/*
 * Caller: the running vcpu has done a hypercall, as far as it got. Whether the
 * hypercall is to be executed again with the same arguments.
 */
bool mem_paging_hypercall_again(void)
{
    struct mem_paging_vcpu *pv = paged_vcpu(current);

    if ( likely(!pv) || !pv->missed )
        return false;

    pv->again++;

    /* Not if it is to be continued at the point that it has reached. */
    return !current->hcall_preempted;
}

/* Caller: the running vcpu halts. */
void mem_paging_halt(void)
{
    struct mem_paging_vcpu *pv = paged_vcpu(current);

    if ( unlikely(pv) )
        unpin_all(pv);
}

/* Caller holds: the domain list's read lock. */
void mem_paging_pin_dump(const struct domain *d)
{
    unsigned long again = 0;
    unsigned int i, j, pinned = 0;

    for ( i = 0; d->mem_paging_vcpu && i < d->max_vcpus; i++ )
    {
        again += d->mem_paging_vcpu[i].again;
        for ( j = 0; j < SETS * WAYS; j++ )
            pinned += d->mem_paging_vcpu[i].pinned[j / WAYS][j % WAYS] != NULL;
    }

    printk("    paging: hypercalls executed again %lu, pages pinned %u\n",
           again, pinned);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
