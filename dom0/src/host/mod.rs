//! The embedded host: a machine whose guest memory is real and paged through userfaultfd.

pub mod frame_run;
pub mod guest_memory;
pub mod uffd;
