// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens a userfaultfd: permissions first, then features.

use std::ffi::c_void;
use std::fmt;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::mm::UserfaultfdFlags;
use thiserror::Error;

use super::Userfaultfd;
use super::abi::{self, Features};

const DEVICE: &str = "/dev/userfaultfd";
const SYSCTL: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// The options with which a userfaultfd is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The features that it must have.
    pub features: Features,
    /// Whether system calls that access the memory (such as a `read` into it) wait for missing
    /// pages. Otherwise they fail with EFAULT, and opening needs no permission.
    pub kernel_faults: bool,
    /// Whether a read returns at once when there is no fault. `poll` works only then.
    pub nonblocking: bool,
}

impl Options {
    /// What guest memory in a memfd needs if its vcpus are threads that handle their own faults. No
    /// permission is needed.
    pub const GUEST: Self = Self {
        features: Features::WRITE_PROTECT
            .union(Features::MISSING_SHARED)
            .union(Features::SIGBUS)
            .union(Features::WRITE_PROTECT_SHARED),
        kernel_faults: false,
        nonblocking: false,
    };
    /// The same, but faults are messages that another thread reads. A read waits for one.
    pub const MESSAGES: Self = Self {
        features: Self::GUEST
            .features
            .difference(Features::SIGBUS)
            .union(Features::THREAD_ID),
        ..Self::GUEST
    };
}

/// Why a userfaultfd could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// This process has no permission.
    #[error("{0}")]
    Refused(Refusal),
    /// The kernel is built without userfaultfd, or a seccomp filter pretends so.
    #[error("userfaultfd: this kernel does not have it (CONFIG_USERFAULTFD)")]
    NotBuilt,
    /// The kernel is too old.
    #[error("userfaultfd: this kernel lacks {missing:?}")]
    MissingFeatures {
        /// The required features that are missing.
        missing: Features,
    },
    /// A system call failed for another reason.
    #[error("{step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// The permissions that were tried, and what is known about them. Displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether faults of system calls were requested too; only these need a permission.
    pub kernel_faults: bool,
    /// The sysctl `vm.unprivileged_userfaultfd`, if it can be read.
    pub unprivileged: Option<bool>,
    /// The error of opening `/dev/userfaultfd` for reading and writing.
    pub device: Errno,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.kernel_faults || self.unprivileged == Some(true) {
            return write!(
                f,
                "userfaultfd is refused, though it takes no permission here: a seccomp filter or security \
                 module (containers have one) forbids it; access to {DEVICE} would do ({})",
                self.device
            );
        }
        let now = if self.unprivileged.is_some() {
            " (it is 0)"
        } else {
            ""
        };
        write!(
            f,
            "userfaultfd is refused: it needs the capability CAP_SYS_PTRACE, or sysctl \
             vm.unprivileged_userfaultfd=1{now}, or read and write access to {DEVICE} ({})",
            self.device
        )
    }
}

impl Userfaultfd {
    /// Opens a userfaultfd by the system call, or through the device if the call is not permitted.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        // A descriptor reports its features only once, so one is used for the query alone.
        let offered = shake_hands(&new(options)?, Features::empty())?;
        let missing = options.features.difference(offered);
        if !missing.is_empty() {
            return Err(OpenError::MissingFeatures { missing });
        }
        let fd = new(options)?;
        shake_hands(&fd, options.features)?;
        Ok(Self {
            fd,
            features: options.features,
        })
    }
}

fn new(options: Options) -> Result<OwnedFd, OpenError> {
    let mut flags = UserfaultfdFlags::CLOEXEC;
    flags.set(UserfaultfdFlags::NONBLOCK, options.nonblocking);
    let user_only = UserfaultfdFlags::from_bits_retain(abi::USER_MODE_ONLY);
    flags.set(user_only, !options.kernel_faults);
    // SAFETY: the descriptor is used on guest memory only, which is accessed as atomics: no
    // reference to ordinary memory sees its contents change.
    match unsafe { rustix::mm::userfaultfd(flags) } {
        Ok(fd) => Ok(fd),
        Err(Errno::PERM) => new_from_device(flags).map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::NXIO => {
                let unprivileged = std::fs::read_to_string(SYSCTL)
                    .ok()
                    .map(|value| value.trim() == "1");
                let kernel_faults = options.kernel_faults;
                OpenError::Refused(Refusal {
                    kernel_faults,
                    unprivileged,
                    device: errno,
                })
            }
            errno => OpenError::System {
                step: "USERFAULTFD_IOC_NEW",
                errno,
            },
        }),
        Err(Errno::NOSYS) => Err(OpenError::NotBuilt),
        Err(errno) => Err(OpenError::System {
            step: "userfaultfd",
            errno,
        }),
    }
}

/// Every user who may open the device may create userfaultfds (Linux 6.1).
fn new_from_device(flags: UserfaultfdFlags) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: `New` is the ioctl that its name says, on a device that supports it.
    unsafe { rustix::ioctl::ioctl(device, New(flags)) }
}

/// `USERFAULTFD_IOC_NEW`: takes flags by value, returns a descriptor.
struct New(UserfaultfdFlags);

// SAFETY: the argument is a number, not memory, and the result is a new descriptor that the caller
// owns.
unsafe impl Ioctl for New {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        abi::NEW
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::without_provenance_mut(self.0.bits() as usize)
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the kernel has just created this descriptor, and nothing else uses it.
        Ok(unsafe { OwnedFd::from_raw_fd(output) })
    }
}

fn shake_hands(fd: &OwnedFd, features: Features) -> Result<Features, OpenError> {
    let mut argument = abi::ApiArgument {
        api: abi::API,
        features: features.bits(),
        ioctls: 0,
    };
    super::call::<{ abi::UFFDIO_API }, _>(fd, &mut argument).map_err(|errno| {
        OpenError::System {
            step: "UFFDIO_API",
            errno,
        }
    })?;
    Ok(Features::from_bits_retain(argument.features))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_feature_that_no_kernel_has_is_named() {
        let unknown = Features::from_bits_retain(1 << 63);
        let options = Options {
            features: Options::GUEST.features | unknown,
            ..Options::GUEST
        };
        let error = Userfaultfd::open(options).expect_err("no such feature");
        assert_eq!(error, OpenError::MissingFeatures { missing: unknown });
        assert!(error.to_string().contains("0x8000000000000000"), "{error}");
    }

    /// Opens in a thread without any permission.
    fn without_permissions(options: Options) -> Result<(), OpenError> {
        thread::spawn(move || {
            // Changes this thread only. Root's capabilities are lost with the user id.
            let nobody = rustix::process::Uid::from_raw(65534);
            if rustix::process::getuid().is_root() {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("setresuid");
            }
            Userfaultfd::open(options).map(drop)
        })
        .join()
        .expect("no panic")
    }

    #[test]
    fn faults_of_vcpus_take_no_permission() {
        assert_eq!(without_permissions(Options::GUEST), Ok(()));
    }

    #[test]
    fn faults_of_system_calls_take_a_permission_and_a_refusal_names_it() {
        let opened = without_permissions(Options {
            kernel_faults: true,
            ..Options::GUEST
        });
        let sysctl = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
        if sysctl.is_ok_and(|value| value.trim() == "1") {
            assert_eq!(opened, Ok(()));
            return;
        }
        let Err(error @ OpenError::Refused(_)) = opened else {
            panic!("opened without permission: {opened:?}");
        };
        let line = error.to_string();
        for named in [
            "CAP_SYS_PTRACE",
            "vm.unprivileged_userfaultfd=1 (it is 0)",
            "/dev/userfaultfd",
        ] {
            assert!(line.contains(named), "{named} is not in: {line}");
        }
        assert_eq!(line.lines().count(), 1);
    }
}
