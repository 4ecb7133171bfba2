/* What Xen's own public headers say about the paging ring, one name and number a line. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define __XEN_TOOLS__ 1 /* vm_event.h is for the hypervisor and its tools only */
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()

#include <xen/xen.h>
#include <xen/errno.h>
#include <xen/memory.h>
#include <xen/vm_event.h>
#include <xen/hvm/params.h>

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
