// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each test gives up the privileges of one thread, which has seccomp filter, Landlock rules and
//! capabilities of its own.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Signal, getpid};
use rustix::thread::CapabilitySet;

use super::{Needs, drop_privileges};

/// A device's ioctl that the pager is said to need. `FIONREAD` works on every pipe.
const NEEDED: u32 = 0x541b;
/// An ioctl of files that nobody needs.
const FIGETBSZ: u64 = 2;

/// What a thread can do after it has given up its privileges.
fn in_sandbox<T: Send>(removed_files: &[&Path], run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            drop_privileges(Needs {
                removed_files,
                ioctls: &[NEEDED],
            })
            .unwrap();
            run()
        });
        thread.join().unwrap()
    })
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

fn ioctl(file: &impl AsRawFd, number: u64) -> Result<(), Errno> {
    let mut out = [0_u64; 16];
    // SAFETY: none of the numbers that the tests use writes more than 128 bytes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), number, out.as_mut_ptr()) };
    if result < 0 {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap())
    } else {
        Ok(())
    }
}

fn map(rights: ProtFlags) -> Result<*mut c_void, Errno> {
    // SAFETY: a new mapping; nobody else knows its address.
    unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4096, rights, MapFlags::PRIVATE) }
}

#[test]
fn no_file_is_opened_and_only_its_own_are_removed() {
    let own = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = [&own, &other].map(|dir| dir.path().join("file")).to_vec();
    for file in &files {
        File::create(file).unwrap();
    }
    let denied = Some(io::ErrorKind::PermissionDenied);
    in_sandbox(&[&files[0]], || {
        assert_eq!(kind(File::open(&files[0])), denied);
        assert_eq!(kind(File::open("/proc/self/mem")), denied);
        assert_eq!(kind(std::fs::remove_file(&files[1])), denied);
        assert_eq!(kind(std::fs::remove_file(&files[0])), None);
    });
    assert!(!files[0].exists() && files[1].exists());
}

#[test]
fn no_ioctl_but_those_that_are_needed() {
    let (pipe, _writer) = io::pipe().unwrap();
    let ioctl = |number| ioctl(&pipe, number);
    in_sandbox(&[], || {
        assert_eq!(ioctl(NEEDED.into()), Ok(()));
        // A pipe is no terminal, but the question is allowed.
        assert_eq!(ioctl(libc::TCGETS), Err(Errno::NOTTY));
        assert_eq!(ioctl(libc::TIOCSTI), Err(Errno::PERM));
        assert_eq!(ioctl(FIGETBSZ), Err(Errno::PERM));
    });
}

#[test]
fn no_memory_becomes_executable() {
    in_sandbox(&[], || {
        let rw = ProtFlags::READ | ProtFlags::WRITE;
        assert_eq!(map(rw | ProtFlags::EXEC), Err(Errno::PERM));
        let page = map(rw).unwrap();
        // SAFETY: the page is this test's own.
        let made = unsafe { rustix::mm::mprotect(page, 4096, MprotectFlags::EXEC) };
        assert_eq!(made, Err(Errno::PERM));
        // SAFETY: as above.
        let made = unsafe { rustix::mm::mprotect(page, 4096, MprotectFlags::READ) };
        assert_eq!(made, Ok(()));
        // SAFETY: as above; it is not used afterwards.
        unsafe { rustix::mm::munmap(page, 4096) }.unwrap();
    });
}

#[test]
fn no_socket_but_unix() {
    in_sandbox(&[], || {
        let socket = |family| rustix::net::socket(family, SocketType::STREAM, None).err();
        assert_eq!(socket(AddressFamily::UNIX), None);
        for family in [
            AddressFamily::INET,
            AddressFamily::INET6,
            AddressFamily::NETLINK,
            AddressFamily::PACKET,
        ] {
            assert_eq!(socket(family), Some(Errno::PERM), "{family:?}");
        }
    });
}

/// Sockets with a name are xenstore's and systemd's. Those in the abstract namespace are other
/// pagers'.
#[test]
fn only_sockets_with_a_name_outside_are_reached() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _named = UnixListener::bind(&path).unwrap();
    let abstract_name =
        SocketAddr::from_abstract_name(path.as_os_str().as_encoded_bytes()).unwrap();
    let _abstract = UnixListener::bind_addr(&abstract_name).unwrap();
    let has_scopes = landlock_abi() >= 6;
    in_sandbox(&[], || {
        assert_eq!(kind(UnixStream::connect(&path)), None);
        let denied = has_scopes.then_some(io::ErrorKind::PermissionDenied);
        assert_eq!(kind(UnixStream::connect_addr(&abstract_name)), denied);
    });
}

fn landlock_abi() -> i64 {
    const VERSION: u32 = 1;
    // SAFETY: asks for the version; nothing is written.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            VERSION,
        )
    }
}

#[test]
fn no_capability_but_to_lock_memory() {
    let own = tempfile::tempdir().unwrap();
    let file = own.path().join("file");
    in_sandbox(&[&file], || {
        // Asking is not among the calls of a pager.
        assert_eq!(rustix::thread::capabilities(None), Err(Errno::PERM));
    });
    let kept = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            super::keep_capabilities(&[own.path()]).unwrap();
            rustix::thread::capabilities(None).unwrap()
        });
        thread.join().unwrap()
    });
    assert!(
        (kept.permitted | kept.effective | kept.inheritable)
            .difference(CapabilitySet::IPC_LOCK)
            .is_empty(),
        "{kept:?}"
    );
}

#[test]
fn no_signal_and_no_other_call() {
    in_sandbox(&[], || {
        let kill = rustix::process::kill_process(getpid(), Signal::CONT);
        assert_eq!(kill, Err(Errno::PERM));
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map(drop);
        assert_eq!(eventfd, Err(Errno::PERM));
    });
}
