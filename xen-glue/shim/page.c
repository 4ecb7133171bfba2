/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Frames: their users, their allocation and their release.
 */

#include <xen/domain_page.h>
#include <xen/guest_access.h>
#include <xen/mm.h>
#include <xen/sched.h>

#include <asm/p2m.h>
#include <asm/p2m_rs.h>

#include "../mm-locks.h"

/*
 * A frame whose allocation has been given up lives on only because somebody
 * else refers to it: it counts as used, however few references it has.
 */
static uint32_t references(const struct page_info *page)
{
    unsigned long count = read_atomic(&page->count_info);

    return min(count & PGC_count_mask, 0xffffUL) +
           ((count & PGC_allocated) ? 0 : 2);
}

static uint32_t typed(const struct page_info *page)
{
    return min(read_atomic(&page->u.inuse.type_info) & PGT_count_mask,
               0xffffUL);
}

/* Caller holds: the p2m lock; the frame is valid, and in an entry. */
struct xen_shim_users xen_shim_page_users(uint64_t mfn)
{
    const struct page_info *page = mfn_to_page(_mfn(mfn));

    return (struct xen_shim_users){
        .references = references(page),
        .typed = typed(page),
        .mmio = page_get_owner(page) == dom_io,
    };
}

/* Caller holds: the p2m lock. NULL: not a frame of the domain any more. */
struct xen_shim_page_ref xen_shim_page_get(struct domain *d, uint64_t mfn)
{
    struct page_info *page = mfn_to_page(_mfn(mfn));
    bool ours = get_page(page, d);

    return (struct xen_shim_page_ref){
        .page = ours ? page : NULL,
        .references = references(page) - ours,
        .typed = typed(page),
    };
}

/* Caller holds: a reference; possibly the p2m lock. */
void xen_shim_page_put(struct page_info *page)
{
    put_page(page);
}

/*
 * Caller holds: a reference; possibly the p2m lock. No entry refers to the
 * frame. If one did, the flush has been done. A frame that is to be scrubbed
 * has no other user.
 */
void xen_shim_page_release(struct page_info *page, bool scrub)
{
    if ( scrub )
        scrub_one_page(page);
    put_page_alloc_ref(page);
    put_page(page);
}

/* Caller holds: nothing. */
uint64_t xen_shim_page_mfn(struct page_info *page)
{
    return mfn_x(page_to_mfn(page));
}

/*
 * Caller holds: the p2m lock, nothing of a higher order. Yields a frame, with a
 * reference beside the allocation.
 */
struct page_info *xen_shim_page_alloc(struct domain *d)
{
    struct page_info *page;

    page_alloc_mm_pre_lock(d);
    page = alloc_domheap_page(d, 0);
    if ( unlikely(!page) )
        return NULL;

    if ( unlikely(!get_page(page, d)) )
    {
        /* Nobody else can know the frame yet, so an invariant is broken. */
        gprintk(XENLOG_ERR, "%pd: fresh page in unexpected state\n", d);
        domain_crash(d);
        return NULL;
    }

    return page;
}

/* Caller holds: the p2m lock; nobody else knows the frame. */
void xen_shim_page_clear(struct page_info *page)
{
    clear_domain_page(page_to_mfn(page));
}

static XEN_GUEST_HANDLE_64(const_uint8) buffer_handle(uint64_t buffer)
{
    xen_mem_paging_op_t mpo;

    mpo.buffer.p = (void *)buffer;

    return mpo.buffer;
}

/*
 * Caller holds: the p2m lock of a domain that is not the current one. The
 * current domain is the control domain, and PV. A copy from it may fault. It
 * takes none of the locks that its own p2m would need, and does not sleep.
 */
bool xen_shim_page_fill(struct page_info *page, uint64_t buffer)
{
    void *map = map_domain_page(page_to_mfn(page));
    bool filled = !copy_from_guest(map, buffer_handle(buffer), PAGE_SIZE);

    unmap_domain_page(map);

    return filled;
}

/*
 * Caller holds: nothing. Copies the contents of a page of a paging type that
 * has its frame. The guest does not write it meanwhile. 0 or a negative errno.
 */
int xen_shim_page_read(struct domain *d, uint64_t gfn, uint64_t buffer)
{
    XEN_GUEST_HANDLE_PARAM(char) to =
        guest_handle_from_ptr((void *)buffer, char);
    p2m_type_t t;
    struct page_info *page = get_page_from_gfn(d, gfn, &t, 0);
    int rc = -EBUSY;

    if ( !page )
        return -ENOENT;

    if ( p2m_is_paging(t) )
    {
        void *map = __map_domain_page(page);

        rc = copy_to_guest(to, (char *)map, PAGE_SIZE) ? -EFAULT : 0;
        unmap_domain_page(map);
    }

    put_page(page);

    return rc;
}

/* Caller holds: nothing. */
bool xen_shim_buffer_okay(uint64_t buffer)
{
    return guest_handle_okay(buffer_handle(buffer), PAGE_SIZE);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
