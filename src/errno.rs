// SPDX-License-Identifier: MIT OR Apache-2.0
//! The error numbers that Xen's callers see.
//!
//! Each operation has an error enum of its own. Its `errno` method alone decides the number. The values
//! are Xen's public ones (`public/errno.h`), which are also Linux's.

/// A positive error number of Xen's public interface.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the documentation: they are Xen's.
pub enum Errno {
    ENOENT = 2,
    ESRCH = 3,
    EIO = 5,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EXDEV = 18,
    ENODEV = 19,
    EINVAL = 22,
    EMLINK = 31,
    ENOSYS = 38,
    EOPNOTSUPP = 95,
    ENOTCONN = 107,
}

impl Errno {
    const ALL: [Self; 15] = [
        Self::ENOENT,
        Self::ESRCH,
        Self::EIO,
        Self::EAGAIN,
        Self::ENOMEM,
        Self::EACCES,
        Self::EFAULT,
        Self::EBUSY,
        Self::EXDEV,
        Self::ENODEV,
        Self::EINVAL,
        Self::EMLINK,
        Self::ENOSYS,
        Self::EOPNOTSUPP,
        Self::ENOTCONN,
    ];

    /// The number as hypercalls return it: negative.
    pub const fn as_return(self) -> i32 {
        -(self as i32)
    }

    /// The error behind a hypercall's return value; `EIO` for a negative value not listed here,
    /// `None` for zero and above.
    pub fn from_return(value: i32) -> Option<Self> {
        (value < 0).then(|| {
            Self::ALL
                .into_iter()
                .find(|e| e.as_return() == value)
                .unwrap_or(Self::EIO)
        })
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_value_round_trips() {
        for errno in Errno::ALL {
            assert_eq!(Errno::from_return(errno.as_return()), Some(errno));
        }
        assert_eq!(Errno::from_return(0), None);
        assert_eq!(Errno::from_return(-4095), Some(Errno::EIO));
        assert_eq!(Errno::from_return(i32::MIN), Some(Errno::EIO));
    }
}
