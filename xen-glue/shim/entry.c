/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory paging for the rest of Xen: replaces mem_paging.c and the paging half
 * of vm_event.c.
 */

#include <xen/event.h>
#include <xen/sched.h>
#include <xen/tasklet.h>
#include <xen/vm_event.h>
#include <xen/xmalloc.h>

#include <asm/hvm/nestedhvm.h>
#include <asm/mem_paging.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m.h>
#include <asm/p2m_rs.h>

#include "../mm-locks.h"

/* Added to XEN_VM_EVENT_ENABLE (ENABLE_TAKE_OVER). */
#define TAKE_OVER 128
/* Added to XEN_VM_EVENT_DISABLE (DISABLE_DETACH). */
#define DETACH 256

/*
 * Whether an entry of each paging type gives the guest the rights that the
 * crate expects, and whether no other type is a paging type.
 */
static bool rights_agree(const struct domain *d)
{
    const struct p2m_domain *p2m = p2m_get_hostp2m(d);
    p2m_type_t t;

    for ( t = p2m_ram_rw; t <= p2m_ram_paging_in_start; t++ )
    {
        uint64_t wanted = p2m_rs_permissions(t, cpu_has_vmx), is;

        if ( wanted == ~0UL && !p2m_is_paging(t) )
            continue;

        is = cpu_has_vmx ? mem_paging_ept_permissions(p2m, t)
                         : mem_paging_npt_permissions(p2m, t);
        if ( is == wanted )
            continue;

        printk(XENLOG_ERR
               "%pd: no memory paging: p2m type %u has permissions %#lx, not %#lx\n",
               d, t, is, wanted);
        return false;
    }

    return true;
}

static void cf_check later(void *data)
{
    const struct domain *d = data;

    p2m_rs_on_event(d->p2m_rs);
}

/* Caller holds: anything. The pager's event is handled again, soon. */
void xen_shim_defer_event(struct domain *d)
{
    tasklet_schedule(d->mem_paging_later);
}

/*
 * Caller holds: the domctl lock; the domain is paused. As p2m_rs_enable(), for
 * a domain that has no state yet. A refusal leaves no state: nobody sees the
 * state before paging is enabled. From then on it stays until the domain is
 * freed.
 */
static int enable_first(struct domain *d)
{
    struct mem_paging_vcpu *vcpus = mem_paging_pin_alloc(d);
    struct tasklet *tasklet = xmalloc(struct tasklet);
    void *state = xzalloc_bytes(p2m_rs_state_size(d->max_vcpus));
    int rc = -ENOMEM;

    if ( vcpus && tasklet && state )
    {
        tasklet_init(tasklet, later, d);
        p2m_rs_state_init(state, d, d->max_vcpus);
        rc = p2m_rs_enable(state);
    }
    if ( rc < 0 )
    {
        xfree(vcpus);
        xfree(tasklet);
        xfree(state);
        return rc;
    }

    smp_wmb();
    d->mem_paging_vcpu = vcpus;
    d->mem_paging_later = tasklet;
    smp_wmb();
    d->p2m_rs = state;

    return rc;
}

/* Caller holds: the domctl lock. */
static int enable(struct domain *d, struct xen_domctl_vm_event_op *vec)
{
    int rc;

    if ( nestedhvm_enabled(d) )
        printk(XENLOG_WARNING
               "%pd: no memory paging beside nested virtualisation: faults of its guests do not reach the pager\n",
               d);
    if ( hap_enabled(d) && !rights_agree(d) )
        return -EOPNOTSUPP;

    /* No vcpu is in the middle of a hypercall whose pages are not pinned. */
    domain_pause(d);
    rc = d->p2m_rs ? p2m_rs_enable(d->p2m_rs) : enable_first(d);
    if ( rc >= 0 )
    {
        vec->u.enable.port = rc;
        vec->u.enable.epoch = p2m_rs_epoch(d->p2m_rs);
        mem_paging_pin(d, true);
        mem_paging_track_access_bits(d);
    }
    domain_unpause(d);

    return min(rc, 0);
}

/*
 * Caller holds: the domctl lock. The pages of running hypercalls are pinned
 * already.
 */
static int take_over(struct domain *d, struct xen_domctl_vm_event_op *vec)
{
    int rc = d->p2m_rs ? p2m_rs_take_over(d->p2m_rs) : -ENOENT;

    if ( rc >= 0 )
    {
        vec->u.enable.port = rc;
        vec->u.enable.epoch = p2m_rs_epoch(d->p2m_rs);
    }

    return min(rc, 0);
}

/* Caller holds: the domctl lock. */
static bool is_attached(const struct domain *d,
                        const struct xen_domctl_vm_event_op *vec)
{
    return d->p2m_rs && vec->u.enable.epoch &&
           vec->u.enable.epoch == p2m_rs_epoch(d->p2m_rs);
}

/* Caller holds: the domctl lock. */
int mem_paging_domctl(struct domain *d, struct xen_domctl_vm_event_op *vec)
{
    int rc = -EINVAL;

    switch ( vec->op )
    {
    case XEN_VM_EVENT_ENABLE:
        return enable(d, vec);

    case XEN_VM_EVENT_ENABLE | TAKE_OVER:
        return take_over(d, vec);

    case XEN_VM_EVENT_DISABLE | DETACH | MEM_PAGING_STATES_EPOCH:
        if ( !is_attached(d, vec) )
            return -ENOTCONN;
        p2m_rs_detach(d->p2m_rs);
        return 0;

    case XEN_VM_EVENT_DISABLE | MEM_PAGING_STATES_EPOCH:
        if ( !is_attached(d, vec) )
            return -ENOTCONN;
        /* Fall through. */
    case XEN_VM_EVENT_DISABLE:
        if ( mem_paging_active(d) )
        {
            domain_pause(d);
            rc = p2m_rs_disable(d->p2m_rs);
            if ( !rc )
            {
                mem_paging_pin(d, false);
                mem_paging_track_access_bits(d);
            }
            domain_unpause(d);
        }
        return rc;

    case XEN_VM_EVENT_RESUME:
        if ( !mem_paging_active(d) )
            return -ENODEV;
        p2m_rs_on_event(d->p2m_rs);
        return 0;

    default:
        return -ENOSYS;
    }
}

/* The guest cannot go on: nobody will bring its page. */
static void no_pager(struct domain *d, unsigned long gfn)
{
    gdprintk(XENLOG_ERR, "%pd paging gfn %"PRI_gfn" yet no ring in place\n",
             d, gfn);
    /* Until the crash takes effect, the vcpu must not fault again and again. */
    if ( current->domain == d )
        vcpu_pause_nosync(current);
    domain_crash(d);
}

/* Caller holds: possibly the p2m lock, and locks that may be held around it. */
void p2m_mem_paging_populate(struct domain *d, gfn_t gfn)
{
    if ( !d->p2m_rs || p2m_rs_populate(d->p2m_rs, gfn_x(gfn)) )
        no_pager(d, gfn_x(gfn));
}

/* Caller holds: nothing. */
void mem_paging_fault(struct domain *d, unsigned long gfn, struct npfec npfec)
{
    if ( !d->p2m_rs || p2m_rs_fault(d->p2m_rs, gfn, npfec.cause, cpu_has_vmx) )
        no_pager(d, gfn);
}

/*
 * Caller holds: anything that may be held around the p2m lock. Somebody looked
 * up a gfn to use it from outside, and found this type, and a frame or none.
 * Whether the caller must try again; the page has been requested then.
 */
bool mem_paging_no_use(struct domain *d, gfn_t gfn, unsigned int t,
                       bool has_frame, bool write)
{
    /* As p2m_rs_map() numbers them. */
    enum { NOT_PAGING, MAP, POPULATE } what = p2m_rs_map(t, has_frame, write);

    if ( what != POPULATE )
        return false;

    p2m_mem_paging_populate(d, gfn);

    return true;
}

/* As mem_paging_no_use(). Puts the page if the caller must try again. */
bool mem_paging_map_refused(struct domain *d, gfn_t gfn, unsigned int t,
                            struct page_info *page, bool write)
{
    if ( !mem_paging_no_use(d, gfn, t, page, write) )
        return false;

    if ( page )
        put_page(page);

    return true;
}

/*
 * Caller holds: possibly the p2m lock. 0: removed. > 0: not of a paging type,
 * or not any more: look again. < 0: -EAGAIN if the pager cannot be told now.
 */
int mem_paging_remove_page(struct domain *d, unsigned long gfn)
{
    /* Without state nothing was ever paged. */
    return d->p2m_rs ? p2m_rs_drop(d->p2m_rs, gfn) : -EINVAL;
}

/*
 * Caller holds: nothing. Responses on the rings of monitor and sharing do not
 * concern paging.
 */
void p2m_mem_paging_resume(struct domain *d, struct vm_event_st *rsp)
{
}

/* Not called: guest_remove_page() goes to mem_paging_remove_page(). */
void p2m_mem_paging_drop_page(struct domain *d, gfn_t gfn, p2m_type_t p2mt)
{
    ASSERT_UNREACHABLE();
}

/* Caller holds: the domain is dying, paused, and still has its vcpus. */
void mem_paging_cleanup(struct domain *d)
{
    if ( !d->p2m_rs )
        return;

    p2m_rs_shut_down(d->p2m_rs);
    /* The scheduler does not run it any more. */
    tasklet_kill(d->mem_paging_later);
    mem_paging_pin(d, false);
}

/* Caller: has dropped the last reference to the domain. */
void mem_paging_free(struct domain *d)
{
    XFREE(d->p2m_rs);
    XFREE(d->mem_paging_later);
    XFREE(d->mem_paging_vcpu);
}

/* Caller holds: the domain list's read lock. */
void mem_paging_dump(const struct domain *d)
{
    struct p2m_domain *p2m = p2m_get_hostp2m(d);
    unsigned int defer_flush;

    if ( !d->p2m_rs )
        return;

    p2m_rs_print(d->p2m_rs);
    mem_paging_pin_dump(d);

    /* No flush is deferred while nobody holds the lock for writing. */
    p2m_read_lock(p2m);
    defer_flush = p2m->defer_flush;
    p2m_read_unlock(p2m);
    printk("    paging: holders of the p2m that defer flushes, defer_flush %u\n",
           defer_flush);
}

bool mem_paging_active(const struct domain *d)
{
    return d->p2m_rs && p2m_rs_is_enabled(d->p2m_rs);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
