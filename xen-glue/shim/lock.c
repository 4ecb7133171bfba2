/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ring lock: one of Xen's spinlocks, in memory that Rust has set aside.
 */

#include <xen/spinlock.h>

#include <asm/p2mp.h>

/* Caller: nobody else knows the lock yet. */
void p2mx_lock_init(void *lock)
{
    BUILD_BUG_ON(sizeof(spinlock_t) > P2MP_LOCK_BYTES);
    spin_lock_init((spinlock_t *)lock);
}

/* Caller holds: possibly the p2m lock, of somebody further up; never this one. */
void p2mx_lock(void *lock)
{
    spin_lock((spinlock_t *)lock);
}

/* Caller holds: as p2mx_lock(). */
bool p2mx_trylock(void *lock)
{
    return spin_trylock((spinlock_t *)lock);
}

/* Caller holds: this lock. */
void p2mx_unlock(void *lock)
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
