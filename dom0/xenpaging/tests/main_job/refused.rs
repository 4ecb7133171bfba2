// SPDX-License-Identifier: MIT OR Apache-2.0
//! A refusal is one line.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use super::{Finished, host, run};

const NOBODY: u32 = 65534;

#[test]
fn options_that_make_no_sense() {
    run(&["--size", "0"]).refused(2, "--size");
    run(&["--size", "1000000G"]).refused(2, "--size");
    run(&["--size", "12Q"]).refused(2, "12Q");
    run(&["--target", "17M"]).refused(2, "--target");
    run(&["--vcpus", "0"]).refused(2, "--vcpus");
    run(&["--workload", "none"]).refused(2, "--workload");
    run(&["--gfns", "9-1"]).refused(2, "--gfns");
    run(&["--no-such-option"]).refused(2, "--no-such-option");
}

#[test]
fn files_that_are_not_there() {
    run(&["--load", "/nonexistent"]).refused(1, "/nonexistent cannot be read");
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    run(&["--load", empty]).refused(1, "no readable file");
    run(&["--store", "/nonexistent/pages"]).refused(1, "/nonexistent/pages");
}

#[test]
fn a_pagefile_that_exists_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pages");
    fs::write(&file, "somebody's").unwrap();
    run(&["--store", file.to_str().unwrap()]).refused(1, "exists already");
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's");
}

#[test]
fn a_pager_without_a_host_to_serve_says_so() {
    let mut pager = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    pager.args(["--embedded-host", "nobody-listens-here"]);
    Finished::from(pager.output().unwrap()).refused(3, "nobody-listens-here");
    let mut pager = Command::new(env!("CARGO_BIN_EXE_xenpaging"));
    Finished::from(pager.output().unwrap()).refused(2, "--domain");
}

/// Copies the host to a place where every user may run it, to run it as a user without permissions.
fn unprivileged() -> (tempfile::TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), open.clone()).unwrap();
    let program: PathBuf = dir.path().join("embedded-host");
    fs::copy(env!("CARGO_BIN_EXE_embedded-host"), &program).unwrap();
    fs::set_permissions(&program, open).unwrap();
    let memory = dir.path().join("memory");
    fs::write(&memory, vec![7; 100_000]).unwrap();
    let mut command = Command::new(program);
    for arg in host(&[]).get_args() {
        command.arg(arg);
    }
    command.arg("--load").arg(memory).current_dir("/");
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    (dir, command)
}

/// Runs the command. A file that has just been written cannot be executed while a process that
/// another test has just forked still has it open for writing.
fn output(mut command: Command) -> Finished {
    loop {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            output => return output.unwrap().into(),
        }
    }
}

#[test]
fn no_permission_is_needed() {
    let (_dir, command) = unprivileged();
    output(command).nothing_was_lost();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_refused_userfaultfd_is_one_line_that_names_the_permission_and_exit_code_2() {
    let (_dir, mut command) = unprivileged();
    // SAFETY: between fork and exec only two system calls are made.
    unsafe { command.pre_exec(seccomp::refuse_userfaultfd) };
    let finished = output(command);
    finished.refused(2, "userfaultfd is refused");
    assert!(
        finished.err.contains("/dev/userfaultfd"),
        "{}",
        finished.err
    );
}

/// A filter that refuses one system call, as containers have.
#[cfg(target_arch = "x86_64")]
mod seccomp {
    use std::ffi::{c_int, c_ulong, c_ushort};
    use std::io;

    const PR_SET_SECCOMP: c_int = 22;
    const PR_SET_NO_NEW_PRIVS: c_int = 38;
    const SECCOMP_MODE_FILTER: c_ulong = 2;
    const SYS_USERFAULTFD: u32 = 323;
    const EPERM: u32 = 1;
    const RET_ERRNO: u32 = 0x0005_0000;
    const RET_ALLOW: u32 = 0x7fff_0000;

    /// `struct sock_filter`.
    #[repr(C)]
    struct Instruction(u16, u8, u8, u32);

    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        len: c_ushort,
        instructions: *const Instruction,
    }

    static FILTER: [Instruction; 4] = [
        Instruction(0x20, 0, 0, 0),               // load the system call's number
        Instruction(0x15, 0, 1, SYS_USERFAULTFD), // skip one unless equal
        Instruction(0x06, 0, 0, RET_ERRNO | EPERM),
        Instruction(0x06, 0, 0, RET_ALLOW),
    ];

    unsafe extern "C" {
        fn prctl(option: c_int, ...) -> c_int;
    }

    pub(super) fn refuse_userfaultfd() -> io::Result<()> {
        let (one, none): (c_ulong, c_ulong) = (1, 0);
        // SAFETY: the call takes numbers only.
        if unsafe { prctl(PR_SET_NO_NEW_PRIVS, one, none, none, none) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let program = Program {
            len: 4,
            instructions: FILTER.as_ptr(),
        };
        // SAFETY: the program and its instructions live until the call returns.
        if unsafe { prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
