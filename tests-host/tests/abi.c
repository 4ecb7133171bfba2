/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What Xen's own public headers say about all that a pager uses, one name and
 * number a line.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define __XEN_TOOLS__ 1 /* vm_event.h is for the hypervisor and its tools only */
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()

#include <xen/xen.h>
#include <xen/errno.h>
#include <xen/memory.h>
#include <xen/sched.h>
#include <xen/vm_event.h>
#include <xen/domctl.h>
#include <xen/sysctl.h>
#include <xen/hvm/dm_op.h>
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/params.h>
#include <xen/io/xs_wire.h>
#include <xen/sys/evtchn.h>
#include <xen/sys/privcmd.h>

#define N(name, value) printf(name " %llu\n", (unsigned long long)(value))

int main(void)
{
    N("version", VM_EVENT_INTERFACE_VERSION);
    N("reason_mem_paging", VM_EVENT_REASON_MEM_PAGING);
    N("flag_vcpu_paused", VM_EVENT_FLAG_VCPU_PAUSED);
    N("flag_foreign", VM_EVENT_FLAG_FOREIGN);
    N("drop_page", MEM_PAGING_DROP_PAGE);
    N("evict_fail", MEM_PAGING_EVICT_FAIL);

    N("entry_size", sizeof(vm_event_request_t));
    N("response_size", sizeof(vm_event_response_t));
    N("entry_version", offsetof(vm_event_request_t, version));
    N("entry_flags", offsetof(vm_event_request_t, flags));
    N("entry_reason", offsetof(vm_event_request_t, reason));
    N("entry_vcpu_id", offsetof(vm_event_request_t, vcpu_id));
    N("entry_altp2m_idx", offsetof(vm_event_request_t, altp2m_idx));
    N("entry_paging", offsetof(vm_event_request_t, u.mem_paging));
    N("paging_size", sizeof(struct vm_event_paging));
    N("paging_gfn", offsetof(struct vm_event_paging, gfn));
    N("paging_p2mt", offsetof(struct vm_event_paging, p2mt));
    N("paging_flags", offsetof(struct vm_event_paging, flags));

    N("ring_header", offsetof(vm_event_sring_t, ring));
    N("ring_req_prod", offsetof(vm_event_sring_t, req_prod));
    N("ring_req_event", offsetof(vm_event_sring_t, req_event));
    N("ring_rsp_prod", offsetof(vm_event_sring_t, rsp_prod));
    N("ring_rsp_event", offsetof(vm_event_sring_t, rsp_event));
    N("ring_slots", __RING_SIZE((vm_event_sring_t *)0, 4096));

    N("op_size", sizeof(xen_mem_paging_op_t));
    N("op_op", offsetof(xen_mem_paging_op_t, op));
    N("op_domain", offsetof(xen_mem_paging_op_t, domain));
    N("op_buffer", offsetof(xen_mem_paging_op_t, buffer));
    N("op_gfn", offsetof(xen_mem_paging_op_t, gfn));
    N("op_nominate", XENMEM_paging_op_nominate);
    N("op_evict", XENMEM_paging_op_evict);
    N("op_prep", XENMEM_paging_op_prep);

    N("memory_op", __HYPERVISOR_memory_op);
    N("xen_version", __HYPERVISOR_xen_version);
    N("sched_op", __HYPERVISOR_sched_op);
    N("remote_shutdown", SCHEDOP_remote_shutdown);
    N("shutdown_crash", SHUTDOWN_crash);
    N("hvm_op", __HYPERVISOR_hvm_op);
    N("domctl", __HYPERVISOR_domctl);
    N("sysctl", __HYPERVISOR_sysctl);
    N("physinfo", XEN_SYSCTL_physinfo);
    N("decrease_reservation", XENMEM_decrease_reservation);
    N("populate_physmap", XENMEM_populate_physmap);
    N("maximum_gpfn", XENMEM_maximum_gpfn);
    N("paging_op", XENMEM_paging_op);
    N("hvmop_get_param", HVMOP_get_param);
    N("param_paging_ring_pfn", HVM_PARAM_PAGING_RING_PFN);
    N("pause_domain", XEN_DOMCTL_pausedomain);
    N("get_domain_info", XEN_DOMCTL_getdomaininfo);
    N("vm_event_op", XEN_DOMCTL_vm_event_op);
    N("vm_event_enable", XEN_VM_EVENT_ENABLE);
    N("vm_event_disable", XEN_VM_EVENT_DISABLE);
    N("vm_event_paging", XEN_DOMCTL_VM_EVENT_OP_PAGING);
    N("dominf_dying", XEN_DOMINF_dying);
    N("dominf_hvm_guest", XEN_DOMINF_hvm_guest);
    N("dominf_paused", XEN_DOMINF_paused);
    N("dmop_set_mem_type", XEN_DMOP_set_mem_type);
    N("hvmmem_ram_rw", HVMMEM_ram_rw);

    N("domctl_size", sizeof(struct xen_domctl));
    N("domctl_interface_version", offsetof(struct xen_domctl, interface_version));
    N("domctl_domain", offsetof(struct xen_domctl, domain));
    N("domctl_u", offsetof(struct xen_domctl, u));
    N("info_flags", offsetof(struct xen_domctl_getdomaininfo, flags));
    N("info_tot_pages", offsetof(struct xen_domctl_getdomaininfo, tot_pages));
    N("info_max_pages", offsetof(struct xen_domctl_getdomaininfo, max_pages));
    N("info_paged_pages", offsetof(struct xen_domctl_getdomaininfo, paged_pages));
    N("sysctl_size", sizeof(struct xen_sysctl));
    N("sysctl_interface_version", offsetof(struct xen_sysctl, interface_version));
    N("sysctl_u", offsetof(struct xen_sysctl, u));
    N("phys_total_pages", offsetof(struct xen_sysctl_physinfo, total_pages));
    N("phys_free_pages", offsetof(struct xen_sysctl_physinfo, free_pages));
    N("phys_outstanding_pages", offsetof(struct xen_sysctl_physinfo, outstanding_pages));
    N("vm_event_size", sizeof(struct xen_domctl_vm_event_op));
    N("vm_event_mode", offsetof(struct xen_domctl_vm_event_op, mode));
    N("vm_event_port", offsetof(struct xen_domctl_vm_event_op, u.enable.port));
    N("shutdown_size", sizeof(sched_remote_shutdown_t));
    N("shutdown_reason", offsetof(sched_remote_shutdown_t, reason));
    N("param_size", sizeof(struct xen_hvm_param));
    N("param_index", offsetof(struct xen_hvm_param, index));
    N("param_value", offsetof(struct xen_hvm_param, value));
    N("reservation_size", sizeof(struct xen_memory_reservation));
    N("reservation_nr_extents", offsetof(struct xen_memory_reservation, nr_extents));
    N("reservation_extent_order", offsetof(struct xen_memory_reservation, extent_order));
    N("reservation_mem_flags", offsetof(struct xen_memory_reservation, mem_flags));
    N("reservation_domid", offsetof(struct xen_memory_reservation, domid));
    N("dm_op_size", sizeof(struct xen_dm_op));
    N("set_mem_type_nr", offsetof(struct xen_dm_op, u.set_mem_type.nr));
    N("set_mem_type_mem_type", offsetof(struct xen_dm_op, u.set_mem_type.mem_type));
    N("set_mem_type_first_pfn", offsetof(struct xen_dm_op, u.set_mem_type.first_pfn));
    N("xs_read", XS_READ);
    N("xs_watch", XS_WATCH);
    N("xs_write", XS_WRITE);
    N("xs_rm", XS_RM);
    N("xs_watch_event", XS_WATCH_EVENT);
    N("xs_error", XS_ERROR);
    N("xs_header", sizeof(struct xsd_sockmsg));
    N("xs_len", offsetof(struct xsd_sockmsg, len));
    N("xs_payload_max", XENSTORE_PAYLOAD_MAX);

    N("privcmd_hypercall", IOCTL_PRIVCMD_HYPERCALL);
    N("privcmd_mmapbatch_v2", IOCTL_PRIVCMD_MMAPBATCH_V2);
    N("mmapbatch_dom", offsetof(privcmd_mmapbatch_v2_t, dom));
    N("mmapbatch_addr", offsetof(privcmd_mmapbatch_v2_t, addr));
    N("mmapbatch_arr", offsetof(privcmd_mmapbatch_v2_t, arr));
    N("mmapbatch_err", offsetof(privcmd_mmapbatch_v2_t, err));
    N("privcmd_dm_op", IOCTL_PRIVCMD_DM_OP);
    N("privcmd_dm_op_ubufs", offsetof(privcmd_dm_op_t, ubufs));
    N("privcmd_dm_op_buf_size", offsetof(privcmd_dm_op_buf_t, size));
    N("evtchn_bind_interdomain", IOCTL_EVTCHN_BIND_INTERDOMAIN);
    N("evtchn_remote_port", offsetof(struct ioctl_evtchn_bind_interdomain, remote_port));
    N("evtchn_notify", IOCTL_EVTCHN_NOTIFY);

    N("ENOENT", XEN_ENOENT);
    N("ESRCH", XEN_ESRCH);
    N("EIO", XEN_EIO);
    N("EAGAIN", XEN_EAGAIN);
    N("ENOMEM", XEN_ENOMEM);
    N("EACCES", XEN_EACCES);
    N("EFAULT", XEN_EFAULT);
    N("EBUSY", XEN_EBUSY);
    N("EXDEV", XEN_EXDEV);
    N("ENODEV", XEN_ENODEV);
    N("EINVAL", XEN_EINVAL);
    N("EMLINK", XEN_EMLINK);
    N("ENOSYS", XEN_ENOSYS);
    N("EOPNOTSUPP", XEN_EOPNOTSUPP);
    return 0;
}
