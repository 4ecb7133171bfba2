/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory paging in Rust, for the rest of Xen. Locks: see the definitions.
 */
#ifndef __ASM_X86_MEM_PAGING_RUST_H__
#define __ASM_X86_MEM_PAGING_RUST_H__

#include <xen/mm-frame.h>
#include <xen/types.h>

struct domain;
struct mem_paging_vcpu;
struct npfec;
struct p2m_domain;
struct page_info;
struct vcpu;
struct vm_event_st;
struct xen_domctl_vm_event_op;

/* Added to an operation whose epoch is set (MemPagingOp::STATES_EPOCH). */
#define MEM_PAGING_STATES_EPOCH 64

int mem_paging_domctl(struct domain *d, struct xen_domctl_vm_event_op *vec);
void mem_paging_fault(struct domain *d, unsigned long gfn, struct npfec npfec);
bool mem_paging_no_use(struct domain *d, gfn_t gfn, unsigned int type,
                       bool has_frame, bool write);
bool mem_paging_map_refused(struct domain *d, gfn_t gfn, unsigned int type,
                            struct page_info *page, bool write);
int mem_paging_remove_page(struct domain *d, unsigned long gfn);
void mem_paging_cleanup(struct domain *d);
void mem_paging_free(struct domain *d);
void mem_paging_dump(const struct domain *d);
bool mem_paging_active(const struct domain *d);

/* The rights of an entry: in Xen's own p2m-ept.c and p2m-pt.c. */
uint64_t mem_paging_ept_permissions(const struct p2m_domain *p2m,
                                    unsigned int type);
uint64_t mem_paging_npt_permissions(const struct p2m_domain *p2m,
                                    unsigned int type);

/* One flush for many entries: p2m.c. */
bool mem_paging_defer_flush(struct p2m_domain *p2m, unsigned int old_type,
                            mfn_t old_mfn, unsigned int new_type,
                            mfn_t new_mfn, unsigned int level);

/* Which pages have been used: access_bits.c, and Xen's own p2m-ept.c. */
void mem_paging_track_access_bits(struct domain *d);
bool mem_paging_wants_ad(const struct domain *d);
void mem_paging_ept_ad(struct domain *d);

/* A record that the guest reads without a hypercall: runstate.c. */
bool mem_paging_runstate(struct vcpu *v);

/* Pages that the running vcpu misses, or needs to make progress: pin.c. */
struct page_info *mem_paging_get_page(struct p2m_domain *p2m, gfn_t gfn,
                                      unsigned int type, unsigned int query,
                                      struct page_info *page, bool last);
bool mem_paging_page_was_out(void);
void mem_paging_hypercall(void);
bool mem_paging_hypercall_again(void);
void mem_paging_halt(void);
struct mem_paging_vcpu *mem_paging_pin_alloc(const struct domain *d);
void mem_paging_pin(struct domain *d, bool on);
void mem_paging_page_removed(struct domain *d, struct page_info *page);
void mem_paging_pin_dump(const struct domain *d);

#endif /* __ASM_X86_MEM_PAGING_RUST_H__ */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
