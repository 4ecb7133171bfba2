// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps that actors take.

/// The actor of a step. The vcpus come first.
pub(crate) const PAGER: u8 = 2;
pub(crate) const STRANGER: u8 = 3;
pub(crate) const TOOLS: u8 = 4;
/// Some CPU of the hypervisor, which calls `on_event` when it was asked to.
pub(crate) const LATER: u8 = 5;
/// The pager before the last one, which was stopped when it was replaced, and continues now.
pub(crate) const REPLACED: u8 = 6;
pub(crate) const ACTORS: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It continues the operation that it is in.
    GoOn,
    Access(u8, bool),
    /// The access that it could not make.
    Retry,
    GiveAway(u8),
    GetBack(u8),
    Nominate(u8),
    Evict(u8),
    Prefetch(u8),
    Take,
    Serve(u8),
    Map(u8, bool),
    Write,
    Unmap,
    Detach,
    Attach,
    /// The pager is killed. Nobody tells the hypervisor.
    Die,
    /// The toolstack has seen that the pager is gone.
    NoticeDeath,
    /// A pager takes over from one that was killed.
    TakeOver,
    /// A pager that has attached lists the states, and restores what is nominated.
    List,
    Event,
    Poke,
    Mend,
    /// What a replaced pager was about to do.
    LateEvict(u8),
    LatePrep(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) actor: u8,
    pub(crate) act: Act,
}

impl Step {
    /// Taken by actors that only finish what they have begun: an honest pager, a vcpu that still
    /// needs its page, a domain that unmaps what it has mapped.
    pub(crate) fn finishes(self) -> bool {
        matches!(
            self.act,
            Act::GoOn
                | Act::Retry
                | Act::Take
                | Act::Serve(_)
                | Act::Unmap
                | Act::Attach
                | Act::TakeOver
                | Act::List
                | Act::Event
                | Act::Mend
        )
    }
}
