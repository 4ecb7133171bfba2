//! The embedded host: a machine whose guest memory is real and paged through userfaultfd.
