// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operations on a [`Lockstep`], and how a byte string encodes them.

use p2m_paging::Errno;
use p2m_paging::platform::AllocError;

use super::Lockstep;
use crate::plain::Buffer;

/// How the pager responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As requested.
    Honest,
    /// As requested, and it will answer this request again; another request then gets no response.
    Twice,
    /// For another page.
    WrongGfn,
    /// For a vcpu that does not exist.
    WrongVcpu,
    /// As if the page had been dropped.
    Dropped,
}

/// The call of the platform that fails next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Named after the calls that fail.
pub enum Failure {
    SetType,
    Take,
    Install,
    Alloc,
}

/// One operation. Numbers are taken modulo the number of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The pager nominates a page and copies it.
    Nominate(u8),
    /// The pager evicts a page.
    Evict(u8),
    /// The pager takes a nomination back.
    Restore(u8),
    /// A vcpu reads a page.
    Read(u8, u8),
    /// A vcpu writes a page.
    Write(u8, u8),
    /// Somebody else needs a page.
    Foreign(u8),
    /// The pager takes a request.
    Take,
    /// The pager fills a page.
    PrepFilled(u8),
    /// The pager gets an empty frame and fills it through a mapping.
    PrepEmpty(u8),
    /// The pager names a buffer that cannot be read.
    PrepBad(u8),
    /// The pager answers the nth request that it has taken.
    Answer(u8, Manner),
    /// The hypervisor takes the responses.
    Event,
    /// A vcpu gives a page back.
    Drop(u8, u8),
    /// Somebody else gives a page back for the guest.
    DropForeign(u8),
    /// The guest gets a new page where it gave one back.
    Give(u8),
    /// Somebody else uses the frame of a page.
    GetFrame(u8),
    /// They release it.
    PutFrame,
    /// A vcpu is paused for another reason.
    Pause(u8),
    /// One such pause is undone.
    Unpause,
    /// The pager detaches.
    Disable,
    /// The ring is torn down, even if vcpus are in the wait queue.
    ShutDown,
    /// A pager attaches.
    Enable,
    /// The pager is gone, and another one will take over.
    Detach,
    /// Another pager takes over.
    TakeOver,
    /// The domain begins or ends to log its writes.
    LogDirty(bool),
    /// The next such call on the platform fails.
    Fail(Failure),
}

impl Op {
    /// Takes an operation off the front of a byte string. Every string is valid.
    pub fn decode(bytes: &mut impl Iterator<Item = u8>) -> Option<Self> {
        let what = bytes.next()?;
        let mut arg = || bytes.next().unwrap_or(0);
        Some(match what % 33 {
            0 | 1 => Self::Nominate(arg()),
            2 | 3 => Self::Evict(arg()),
            4 | 5 => Self::Read(arg(), arg()),
            6..=9 => Self::Write(arg(), arg()),
            10 => Self::Foreign(arg()),
            11 | 12 => Self::Take,
            13 | 14 => Self::PrepFilled(arg()),
            15 => Self::PrepEmpty(arg()),
            16 => Self::PrepBad(arg()),
            17 | 18 => Self::Answer(arg(), Manner::Honest),
            19 => Self::Answer(arg(), Manner::decode(arg())),
            20 | 21 => Self::Event,
            22 | 23 => Self::Drop(arg(), arg()),
            24 => Self::DropForeign(arg()),
            25 => Self::Give(arg()),
            26 => Self::GetFrame(arg()),
            27 => Self::PutFrame,
            28 => match arg() % 3 {
                0 => Self::Unpause,
                _ => Self::Pause(arg()),
            },
            29 => match arg() % 8 {
                0 | 1 => Self::Disable,
                2 => Self::ShutDown,
                3 => Self::Detach,
                4 | 5 => Self::TakeOver,
                _ => Self::Enable,
            },
            30 => Self::LogDirty(arg() % 2 == 0),
            32 => Self::Restore(arg()),
            _ => Self::Fail(match arg() % 4 {
                0 => Failure::SetType,
                1 => Failure::Take,
                2 => Failure::Install,
                _ => Failure::Alloc,
            }),
        })
    }

    /// Whether an honest pager might do this.
    pub fn is_honest(self) -> bool {
        match self {
            Self::Answer(_, manner) => manner == Manner::Honest,
            _ => true,
        }
    }
}

impl Manner {
    fn decode(byte: u8) -> Self {
        match byte % 4 {
            0 => Self::Twice,
            1 => Self::WrongGfn,
            2 => Self::WrongVcpu,
            _ => Self::Dropped,
        }
    }
}

impl Lockstep<'_> {
    /// Makes an operation on the crate and on the model, and compares.
    pub fn apply(&mut self, op: Op) {
        let gfns = self.model.pages.len();
        let vcpus = self.model.waits.len();
        let gfn = |raw: u8| usize::from(raw) % gfns;
        let vcpu = |raw: u8| usize::from(raw) % vcpus;
        match op {
            Op::Nominate(g) => self.nominate(gfn(g)),
            Op::Evict(g) => self.evict(gfn(g)),
            Op::Restore(g) => self.restore(gfn(g)),
            Op::Read(v, g) => self.read(vcpu(v), gfn(g)),
            Op::Write(v, g) => self.write(vcpu(v), gfn(g)),
            Op::Foreign(g) => self.foreign(gfn(g)),
            Op::Take => self.take(),
            Op::PrepFilled(g) => {
                let copy = self.copy_of(gfn(g));
                let _ = self.prep_believing(gfn(g), Some(Buffer::Page(copy)));
            }
            Op::PrepEmpty(g) => {
                let _ = self.prep_believing(gfn(g), None);
            }
            Op::PrepBad(g) => {
                for bad in [Buffer::Invalid, Buffer::Faulting] {
                    let _ = self.prep_believing(gfn(g), Some(bad));
                }
            }
            Op::Answer(nth, manner) => self.answer(nth.into(), manner),
            Op::Event => self.event(),
            Op::Drop(v, g) => self.drop_page(gfn(g), Some(vcpu(v))),
            Op::DropForeign(g) => self.drop_page(gfn(g), None),
            Op::Give(g) => self.give(gfn(g)),
            Op::GetFrame(g) => self.get_frame(gfn(g)),
            Op::PutFrame => self.put_frame(),
            Op::Pause(v) => self.pause(vcpu(v)),
            Op::Unpause => self.unpause(),
            Op::Disable => self.disable(false),
            Op::ShutDown => self.disable(true),
            Op::Enable => self.enable(),
            Op::Detach => self.detach(),
            Op::TakeOver => self.take_over(),
            Op::LogDirty(on) => {
                self.model.log_dirty = on;
                self.machine().with(|core| core.log_dirty = on);
            }
            Op::Fail(failure) => self.fail(failure),
        }
        self.check();
    }

    fn fail(&mut self, failure: Failure) {
        let failures = &mut self.model.failures;
        match failure {
            Failure::SetType => failures.set_type = Some(Errno::ENOMEM),
            Failure::Take => failures.take = Some(Errno::ENOMEM),
            Failure::Install => failures.install = Some(Errno::ENOMEM),
            Failure::Alloc => failures.alloc = Some(AllocError::NoMemory),
        }
        let failures = *failures;
        self.machine().with(|core| core.failures = failures);
    }
}
