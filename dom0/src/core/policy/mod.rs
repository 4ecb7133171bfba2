//! Which pages go out.

mod sweep;

use p2m_paging::Gfn;

pub use sweep::{DEFAULT_MRU_PAGES, Sweep, SweepOptions};

/// Chooses victims, and is told what became of them.
///
/// A gfn that [`choose`](Self::choose) returned is the pager's until one of
/// [`paged_out`](Self::paged_out), [`refused`](Self::refused), [`abandoned`](Self::abandoned) or
/// [`dropped`](Self::dropped) follows, exactly once. After `paged_out` it is not to be chosen until
/// [`paged_in`](Self::paged_in) or `dropped`.
///
/// `paged_in` and `dropped` are called while a vcpu waits: they allocate nothing.
pub trait Policy: std::fmt::Debug + Send {
    /// The next page to go out, `None` if there is none at present.
    fn choose(&mut self) -> Option<Gfn>;

    /// It went out.
    fn paged_out(&mut self, gfn: Gfn);

    /// It came home; `asked` if somebody wanted it, false if it was brought ahead of need.
    fn paged_in(&mut self, gfn: Gfn, asked: bool);

    /// The hypervisor would not let it go, or the guest took it back on its way.
    fn refused(&mut self, gfn: Gfn);

    /// It was not tried after all (no room, nothing to be paged out any more): as good as before.
    fn abandoned(&mut self, gfn: Gfn);

    /// The guest gave it back. It may be memory again one day.
    fn dropped(&mut self, gfn: Gfn);

    /// Some time passed (about ten times a second).
    fn tick(&mut self);

    /// Memory in use, in bytes.
    fn table_bytes(&self) -> usize;
}
