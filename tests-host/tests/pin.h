/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The part of Xen that xen-glue/shim/pin.c uses, for one CPU: pages count their
 * references, locks know whether they are held.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define likely(x) (x)
#define unlikely(x) (x)
#define read_atomic(p) (*(p))
#define write_atomic(p, x) (*(p) = (x))
#define xzalloc_array(type, n) ((type *)calloc(n, sizeof(type)))
#define PAGETABLE_ORDER 9

typedef struct { bool held; } spinlock_t;
static inline void spin_lock_init(spinlock_t *l) { l->held = false; }
static inline void spin_lock(spinlock_t *l) { assert(!l->held); l->held = true; }
static inline void spin_unlock(spinlock_t *l) { assert(l->held); l->held = false; }

typedef unsigned long mfn_t, gfn_t;
typedef unsigned int p2m_type_t;
enum { p2m_ram_rw, p2m_ram_paged, p2m_map_foreign };
#define P2M_ALLOC 1
#define P2M_UNSHARE 2
#define p2m_is_paging(t) ((t) == p2m_ram_paged)
#define p2m_is_foreign(t) ((t) == p2m_map_foreign)

struct mem_paging_vcpu;
struct domain { struct mem_paging_vcpu *mem_paging_vcpu; unsigned int max_vcpus; };
struct vcpu { struct domain *domain; unsigned int vcpu_id; bool hcall_preempted; };
struct p2m_domain { struct domain *domain; };
#define p2m_is_hostp2m(p2m) true

/*
 * The frame's number is its place in the table. One reference is the domain's.
 */
struct page_info { unsigned long refs, count_info; };
#define PGC_allocated 1UL
#define PAGES 4096
static struct page_info frames[PAGES];
#define page_to_mfn(page) ((mfn_t)((page) - frames))
#define mfn_x(mfn) (mfn)

static inline bool get_page(struct page_info *page, const struct domain *d)
{
    (void)d;
    return page->refs ? ++page->refs : 0;
}

void mem_paging_page_removed(struct domain *d, struct page_info *page);

/* What another CPU does once the page is in a set. */
static void (*meanwhile)(void);
static inline void smp_mb(void) { if (meanwhile) meanwhile(); }

static inline void put_page(struct page_info *page) { assert(page->refs); page->refs--; }

static inline struct page_info *get_page_from_gfn(struct domain *d, unsigned long gfn,
                                                  p2m_type_t *t, unsigned int query)
{
    (void)query;
    *t = p2m_ram_rw;
    return get_page(&frames[gfn], d) ? &frames[gfn] : NULL;
}

static struct vcpu *current;
static unsigned int asked, said_pinned;
static inline void p2m_mem_paging_populate(struct domain *d, gfn_t gfn) { (void)d; (void)gfn; asked++; }

#define printk(format, again, pinned) \
    ((void)sizeof(printf(format, again, pinned)), (void)(again), (void)(said_pinned = (pinned)))
