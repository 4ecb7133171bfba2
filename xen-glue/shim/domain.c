/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The domain, its vcpus, and its way to the pager.
 */

#include <xen/event.h>
#include <xen/iommu.h>
#include <xen/mm.h>
#include <xen/sched.h>
#include <xen/vm_event.h>

#include <asm/altp2m.h>
#include <asm/hvm/ioreq.h>
#include <asm/hvm/nestedhvm.h>
#include <asm/p2m.h>
#include <asm/p2m_rs.h>
#include <asm/mem_paging_rust.h>
#include <asm/paging.h>

#include <public/hvm/params.h>

/* Caller holds: anything. Yields the number of the running vcpu. */
uint32_t xen_shim_caller(struct domain *d, bool *own)
{
    const struct vcpu *curr = current;

    *own = curr->domain == d;

    return curr->vcpu_id;
}

/*
 * Caller holds: possibly the p2m lock. The vcpu stops before it next enters the
 * guest.
 */
void xen_shim_vcpu_pause(struct domain *d, uint32_t vcpu)
{
    struct vcpu *v = domain_vcpu(d, vcpu);

    if ( v )
        vcpu_pause_nosync(v);
}

/* Caller holds: nothing of its own; the p2m lock may be held further up. */
void xen_shim_vcpu_unpause(struct domain *d, uint32_t vcpu)
{
    struct vcpu *v = domain_vcpu(d, vcpu);

    if ( v )
        vcpu_unpause(v);
}

/* Caller holds: the domctl lock. Bits: see exports.rs, DomainProperties. */
uint32_t xen_shim_domain_properties(struct domain *d)
{
    return (is_hvm_domain(hardware_domain) ? 1 : 0) |
           (hap_enabled(d) ? 2 : 0) |
           (is_iommu_enabled(d) ? 4 : 0) |
           /* A domain that is not translated has no p2m. */
           ((hap_enabled(d) && p2m_pod_active(d)) ? 8 : 0) |
           /* Faults of its own nested guests do not reach paging. */
           (nestedhvm_enabled(d) ? 16 : 0) |
           /* One view could write a frame that is nominated in another. */
           (altp2m_active(d) ? 32 : 0);
}

/* Caller holds: the domctl lock. */
bool xen_shim_has_ring_gfn(struct domain *d)
{
    return d->arch.hvm.params[HVM_PARAM_PAGING_RING_PFN] != 0;
}

/* Caller holds: the domctl lock. */
int xen_shim_ring_map(struct domain *d, struct page_info **page, void **va)
{
    return prepare_ring_for_helper(
        d, d->arch.hvm.params[HVM_PARAM_PAGING_RING_PFN], page, va);
}

/* Caller holds: the domctl lock, or the domain is dying. */
void xen_shim_ring_unmap(struct page_info *page, void *va)
{
    destroy_ring_for_helper(&va, page);
}

static void cf_check paging_event(struct vcpu *v, unsigned int port)
{
    if ( v->domain->p2m_rs )
        p2m_rs_on_event(v->domain->p2m_rs);
}

/* Caller holds: the domctl lock. Yields a port, or a negative errno. */
int xen_shim_channel_open(struct domain *d)
{
    return alloc_unbound_xen_event_channel(d, 0, current->domain->domain_id,
                                           paging_event);
}

/* Caller holds: the domctl lock, or the domain is dying. */
void xen_shim_channel_close(struct domain *d, uint32_t port)
{
    free_xen_event_channel(d, port);
}

/* Caller holds: nothing of its own; the p2m lock may be held further up. */
void xen_shim_notify(struct domain *d, uint32_t port)
{
    notify_via_xen_event_channel(d, port);
}

/* Caller holds: anything. */
void xen_shim_print(const uint8_t *text, uint32_t len)
{
    printk("%.*s", (int)len, (const char *)text);
}

/*
 * Caller holds: possibly the p2m lock. A vcpu of the domain itself must not hit
 * the same fault again and again until the crash takes effect.
 */
void xen_shim_crash(struct domain *d)
{
    if ( current->domain == d )
        vcpu_pause_nosync(current);
    domain_crash(d);
}

/* Caller holds: any locks, so it cannot return. */
void xen_shim_panic(void)
{
    BUG();
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
