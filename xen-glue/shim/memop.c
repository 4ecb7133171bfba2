/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XENMEM_paging_op: the pager's operations on pages. An operation on many pages
 * is done in parts, and may be preempted between two parts.
 */

#include <xen/event.h>
#include <xen/guest_access.h>
#include <xen/hypercall.h>
#include <xen/sched.h>

#include <asm/mem_paging.h>
#include <asm/mem_paging_rust.h>
#include <asm/p2m_rs.h>

#include <xsm/xsm.h>

/* Added to an operation: for many pages (MemPagingOp::MANY). */
#define MANY 16
/* For many pages only: reads their contents (MemPagingOp::OP_READ). */
#define READ 8
/* For many pages only: makes them resident again (MemPagingOp::OP_RESTORE). */
#define RESTORE 9
/* Another operation: accessed bits (MemPagingOp::OP_ACCESS_BITS). */
#define ACCESS_BITS 32
/* Another operation: which pages are out (MemPagingOp::OP_PAGING_STATES). */
#define PAGING_STATES 33
/* Gfns of one unit of both, and of one call, at most. */
#define UNIT_GFNS 64
#define CALL_GFNS 16384
/* Pages between two checks whether somebody else wants the CPU. */
#define CHUNK 64

/*
 * Caller holds: a reference to the domain. mpo->gfn items, each of two words,
 * are at mpo->buffer. op is without the epoch mark. Both fields advance by what
 * has been done. -ERESTART: call again for what is left.
 */
static int memop_many(struct domain *d, xen_mem_paging_op_t *mpo, uint8_t op,
                      uint32_t epoch)
{
    uint64_t items[2 * CHUNK];
    XEN_GUEST_HANDLE_PARAM(uint64_t) at;

    if ( !mem_paging_active(d) )
        return -ENODEV;

    while ( mpo->gfn )
    {
        unsigned int n = min_t(uint64_t, mpo->gfn, CHUNK);
        int rc;

        at = guest_handle_from_ptr((void *)mpo->buffer.p, uint64_t);
        /* Results that cannot be copied out would be lost: try it before. */
        if ( copy_from_guest(items, at, 2 * n) ||
             copy_to_guest(at, items, 2 * n) )
            return -EFAULT;

        rc = p2m_rs_memop_many(d->p2m_rs, op - MANY, epoch, items, n);
        if ( rc )
            return rc;

        if ( copy_to_guest(at, items, 2 * n) )
            return -EFAULT;

        mpo->buffer.p += 2 * n * sizeof(*items);
        mpo->gfn -= n;

        if ( mpo->gfn && hypercall_preempt_check() )
            return -ERESTART;
    }

    return 0;
}

/*
 * Caller holds: a reference to the domain. For every 64 gfns from mpo->gfn to
 * the next multiple of CALL_GFNS, copies to mpo->buffer one word (op is
 * ACCESS_BITS) or two (PAGING_STATES). Both fields advance by what has been
 * done. -ERESTART: call again for what is left.
 */
static int memop_range(struct domain *d, xen_mem_paging_op_t *mpo, uint8_t op,
                       uint32_t epoch)
{
    unsigned int unit = op == PAGING_STATES ? 2 : 1;
    uint64_t words[2 * CHUNK];

    if ( !mem_paging_active(d) )
        return -ENODEV;

    for ( ; ; )
    {
        uint64_t left = CALL_GFNS - mpo->gfn % CALL_GFNS;
        unsigned int n = min_t(uint64_t, left / UNIT_GFNS, CHUNK);
        int rc = op == PAGING_STATES
                 ? p2m_rs_paging_states(d->p2m_rs, epoch, mpo->gfn, words, n)
                 : p2m_rs_access_bits(d->p2m_rs, mpo->gfn, words, n);

        if ( rc )
            return rc;

        if ( copy_to_guest(guest_handle_from_ptr((void *)mpo->buffer.p,
                                                 uint64_t), words, unit * n) )
            return -EFAULT;

        if ( left == n * UNIT_GFNS )
            return 0;

        mpo->gfn += n * UNIT_GFNS;
        mpo->buffer.p += unit * n * sizeof(*words);

        if ( hypercall_preempt_check() )
            return -ERESTART;
    }
}

/* Caller holds: a reference to the domain. Operations that may be preempted. */
static int memop_long(struct domain *d, xen_mem_paging_op_t *mpo, uint8_t op,
                      uint32_t epoch,
                      XEN_GUEST_HANDLE_PARAM(xen_mem_paging_op_t) arg)
{
    int rc = op == ACCESS_BITS || op == PAGING_STATES
             ? memop_range(d, mpo, op, epoch)
             : memop_many(d, mpo, op, epoch);

    if ( rc != -ERESTART )
        return rc;

    /* The argument says how far it got. */
    if ( copy_to_guest(arg, mpo, 1) )
        return -EFAULT;

    return hypercall_create_continuation(__HYPERVISOR_memory_op, "lh",
                                         XENMEM_paging_op, arg);
}

/* Caller holds: nothing. */
int mem_paging_memop(XEN_GUEST_HANDLE_PARAM(xen_mem_paging_op_t) arg)
{
    xen_mem_paging_op_t mpo;
    struct domain *d;
    uint32_t epoch;
    uint8_t op;
    int rc;

    if ( copy_from_guest(&mpo, arg, 1) )
        return -EFAULT;

    rc = rcu_lock_live_remote_domain_by_id(mpo.domain, &d);
    if ( rc )
        return rc;

    rc = xsm_mem_paging(XSM_DM_PRIV, d);
    if ( !rc && unlikely(!d->p2m_rs) )
        rc = -ENODEV;
    if ( rc )
        goto out;

    rc = -ENOTCONN;
    op = mpo.op & ~MEM_PAGING_STATES_EPOCH;
    if ( op != mpo.op && !mpo.epoch )
        goto out;
    epoch = p2m_rs_caller_epoch(d->p2m_rs, op != mpo.op ? mpo.epoch : 0);
    if ( !epoch && mem_paging_active(d) )
        goto out;

    if ( op >= MANY &&
         (op <= MANY + XENMEM_paging_op_prep || op == MANY + READ ||
          op == MANY + RESTORE || op == ACCESS_BITS || op == PAGING_STATES) )
        rc = memop_long(d, &mpo, op, epoch, arg);
    else
        rc = p2m_rs_memop(d->p2m_rs, op, epoch, mpo.gfn,
                          (uint64_t)mpo.buffer.p);

 out:

    rcu_unlock_domain(d);

    return rc;
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
