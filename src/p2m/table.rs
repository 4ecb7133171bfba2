// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every transition of the state machine, and every refusal, in one table.
//!
//! [`transition`] says what an event does to a page in a state. Tests compare the operations in
//! [`crate::paging`] with it. The diagram of the states is drawn from it ([`mermaid`]).
//!
//! The table has seven states: the five of a page that is paged, resident memory that is log-dirty, and
//! "no page".
//!
//! ```
//! use p2m_paging::p2m::table::{Event, Outcome, State, transition};
//!
//! assert_eq!(transition(State::PagingOut, Event::Evict, false), Outcome::To(State::Paged));
//! // A page that the guest wrote meanwhile is resident: the evict is refused.
//! assert_eq!(transition(State::PagingOut, Event::GuestWrite, false), Outcome::To(State::RamRw));
//! assert_eq!(transition(State::RamRw, Event::Evict, false), Outcome::Refused);
//! ```

use core::fmt;

use super::P2mType;

/// The state of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Resident.
    RamRw,
    /// Resident, and its writes are logged.
    RamLogDirty,
    /// Nominated.
    PagingOut,
    /// Paged out.
    Paged,
    /// Requested.
    PagingInStart,
    /// Has an empty frame, which the pager fills.
    PagingIn,
    /// Removed, or never there.
    Invalid,
}

/// What can happen to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// The pager nominates it; nobody else uses the frame.
    Nominate,
    /// The pager nominates it while somebody uses the frame.
    NominateInUse,
    /// The pager evicts it.
    Evict,
    /// The pager evicts it while somebody uses the frame.
    EvictInUse,
    /// The pager takes its nomination back.
    Restore,
    /// A vcpu of the guest reads it or runs code in it.
    GuestRead,
    /// A vcpu of the guest writes it.
    GuestWrite,
    /// Somebody outside the guest needs it.
    ForeignPopulate,
    /// The pager brings it back with its contents.
    PrepFilled,
    /// The pager wants a frame to fill.
    PrepEmpty,
    /// The pager answers a request for it.
    Respond,
    /// The pager answers that it has forgotten it.
    RespondDropped,
    /// The guest gives it back.
    Drop,
}

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The page is in this state afterwards, which may be the same one.
    To(State),
    /// The caller gets an error, and the state does not change.
    Refused,
    /// Not for paging, or a response to no request: no error, and the state does not change.
    Ignored,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::RamRw,
        Self::RamLogDirty,
        Self::PagingOut,
        Self::Paged,
        Self::PagingInStart,
        Self::PagingIn,
        Self::Invalid,
    ];

    /// The state of a gfn of this type; `None` for types that paging leaves alone.
    pub const fn of(p2mt: P2mType) -> Option<Self> {
        Some(match p2mt {
            P2mType::RamRw => Self::RamRw,
            P2mType::RamLogDirty => Self::RamLogDirty,
            P2mType::RamPagingOut => Self::PagingOut,
            P2mType::RamPaged => Self::Paged,
            P2mType::RamPagingInStart => Self::PagingInStart,
            P2mType::RamPagingIn => Self::PagingIn,
            P2mType::Invalid => Self::Invalid,
            _ => return None,
        })
    }

    /// Whether the gfn has a frame.
    pub const fn has_frame(self) -> bool {
        !matches!(self, Self::Paged | Self::PagingInStart | Self::Invalid)
    }

    /// The type of a gfn in this state.
    pub const fn p2mt(self) -> P2mType {
        match self {
            Self::RamRw => P2mType::RamRw,
            Self::RamLogDirty => P2mType::RamLogDirty,
            Self::PagingOut => P2mType::RamPagingOut,
            Self::Paged => P2mType::RamPaged,
            Self::PagingInStart => P2mType::RamPagingInStart,
            Self::PagingIn => P2mType::RamPagingIn,
            Self::Invalid => P2mType::Invalid,
        }
    }
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Nominate,
        Self::NominateInUse,
        Self::Evict,
        Self::EvictInUse,
        Self::Restore,
        Self::GuestRead,
        Self::GuestWrite,
        Self::ForeignPopulate,
        Self::PrepFilled,
        Self::PrepEmpty,
        Self::Respond,
        Self::RespondDropped,
        Self::Drop,
    ];
}

/// What `event` does to a page in `state`. `log_dirty`: the domain logs its writes, so a page becomes
/// [`State::RamLogDirty`] where it would become [`State::RamRw`].
pub const fn transition(state: State, event: Event, log_dirty: bool) -> Outcome {
    use Event as E;
    use Outcome::{Ignored, Refused, To};
    use State as S;
    let resident = if log_dirty { S::RamLogDirty } else { S::RamRw };
    match (state, event) {
        // Row A1.
        (S::RamRw | S::RamLogDirty, E::Nominate) => To(S::PagingOut),
        (_, E::Nominate | E::NominateInUse) => Refused,
        // Row A2.
        (S::PagingOut, E::Evict) => To(S::Paged),
        (_, E::Evict | E::EvictInUse) => Refused,
        (S::PagingOut, E::Restore) => To(resident),
        (_, E::Restore) => Refused,
        // Rows A3 and A7. A nominated page may be read. Any other access makes it resident.
        (S::PagingOut, E::GuestRead) => To(S::PagingOut),
        (S::PagingOut, E::GuestWrite | E::ForeignPopulate) => To(resident),
        (S::Paged, E::GuestRead | E::GuestWrite | E::ForeignPopulate) => To(S::PagingInStart),
        (S::PagingInStart | S::PagingIn, E::GuestRead | E::GuestWrite | E::ForeignPopulate) => {
            To(state)
        }
        (_, E::GuestRead | E::GuestWrite | E::ForeignPopulate) => Ignored,
        // Row A4.
        (S::Paged | S::PagingInStart | S::PagingIn, E::PrepFilled) => To(resident),
        (S::Paged | S::PagingInStart, E::PrepEmpty) => To(S::PagingIn),
        (_, E::PrepFilled | E::PrepEmpty) => Refused,
        // Row A5.
        (S::PagingIn, E::Respond) => To(resident),
        (_, E::Respond | E::RespondDropped) => Ignored,
        // Row A6.
        (S::PagingOut | S::Paged | S::PagingInStart | S::PagingIn, E::Drop) => To(S::Invalid),
        (_, E::Drop) => Refused,
    }
}

/// The whole table: one line for each state and event.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// As in [`transition`].
    pub log_dirty: bool,
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for state in State::ALL {
            for event in Event::ALL {
                writeln!(
                    f,
                    "{state:?} + {event:?} => {:?}",
                    transition(state, event, self.log_dirty)
                )?;
            }
        }
        Ok(())
    }
}

/// The transitions as a Mermaid state diagram.
pub fn mermaid(out: &mut impl fmt::Write) -> fmt::Result {
    writeln!(out, "stateDiagram-v2")?;
    for from in State::ALL {
        for to in State::ALL {
            let leads =
                |event: &Event| from != to && transition(from, *event, false) == Outcome::To(to);
            let mut events = Event::ALL.into_iter().filter(leads);
            let Some(first) = events.next() else { continue };
            write!(out, "    {from:?} --> {to:?}: {first:?}")?;
            for event in events {
                write!(out, ", {event:?}")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}
