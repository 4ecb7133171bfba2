// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which attachment of a pager something belongs to.

/// One attachment of a pager to a domain: from enable or take-over until another pager takes over, or until
/// detach or disable. The hypervisor tells the
/// pager its epoch, and the pager states it in its calls. So a call of a pager that was replaced, while it
/// was stopped for example, is told from one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u32);

impl Epoch {
    /// No pager is attached. No pager states this epoch.
    pub const NONE: Self = Self(0);

    /// The number that somebody states. Any number is a claim: comparison with the current epoch decides.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number on the wire. It is 0 only for [`Self::NONE`].
    pub const fn as_raw(self) -> u32 {
        self.0
    }

    /// The epoch of the next pager.
    pub(crate) const fn next(self) -> Self {
        match self.0.wrapping_add(1) {
            0 => Self(1),
            next => Self(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_of_a_pager_is_never_zero() {
        assert_eq!(Epoch::NONE.next().as_raw(), 1);
        assert_eq!(Epoch::from_raw(u32::MAX).next().as_raw(), 1);
    }
}
