/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ring lock: one of Xen's spinlocks, in memory that Rust has set aside.
 */

#include <xen/spinlock.h>

#include <asm/p2m_rs.h>

/* Caller: nobody else knows the lock yet. */
void xen_shim_lock_init(void *lock)
{
    BUILD_BUG_ON(sizeof(spinlock_t) > P2M_RS_LOCK_BYTES);
    spin_lock_init((spinlock_t *)lock);
}

/* Caller holds: possibly the p2m lock, taken further up; never this one. */
void xen_shim_lock(void *lock)
{
    spin_lock((spinlock_t *)lock);
}

/* Caller holds: as xen_shim_lock(). */
bool xen_shim_trylock(void *lock)
{
    return spin_trylock((spinlock_t *)lock);
}

/* Caller holds: this lock. */
void xen_shim_unlock(void *lock)
{
    spin_unlock((spinlock_t *)lock);
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
