// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that end, panic, or run out of stack.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use tests_host::scheduler::TaskId;
use tests_host::tasks::Exit;

use super::{CPU, Said, boot, spawn};

struct SaysSo(Said, &'static str);

impl Drop for SaysSo {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

#[test]
fn d2_tasks_that_have_not_ended_are_unwound() {
    let said = Said::default();
    let kernel = boot(1);
    for (name, yields) in [("trapped", false), ("switched from", true), ("fresh", true)] {
        let holds = SaysSo(said.clone(), name);
        spawn(&kernel, move |kernel| {
            let _holds = holds;
            if yields {
                kernel.yield_now();
            }
            kernel.trap("host");
            unreachable!("it is not run again");
        });
        if name == "switched from" {
            assert_eq!(kernel.run(CPU), Exit::Trap(TaskId(0), "host"));
        }
    }
    drop(kernel);
    let mut said = said.take();
    said.sort_unstable();
    assert_eq!(said, ["fresh", "switched from", "trapped"]);
}

#[test]
fn d2_a_panic_ends_at_the_host_with_everybody_unwound() {
    let said = Said::default();
    let kernel = boot(1);
    let holds = SaysSo(said.clone(), "bystander");
    spawn(&kernel, move |kernel| {
        let _holds = holds;
        kernel.yield_now();
        unreachable!();
    });
    let holds = SaysSo(said.clone(), "panicked");
    spawn(&kernel, move |kernel| {
        let _holds = holds;
        assert!(kernel.port(0x80).is_ok(), "no such port");
    });
    let ran = catch_unwind(AssertUnwindSafe(|| kernel.run(CPU)));
    let panic = ran.expect_err("it panics");
    assert!(
        panic
            .downcast_ref::<&str>()
            .is_some_and(|said| said.contains("no such port"))
    );
    assert_eq!(said.borrow()[..], ["panicked"]);
    drop(kernel);
    assert_eq!(said.take(), ["panicked", "bystander"]);
}

#[test]
fn d2_a_host_that_panics_has_its_tasks_unwound_on_the_way() {
    let said = Said::default();
    let holds = SaysSo(said.clone(), "task");
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let kernel = boot(1);
        spawn(&kernel, move |kernel| {
            let _holds = holds;
            kernel.trap("host");
        });
        kernel.run(CPU);
        panic!("the host's own");
    }));
    assert!(ran.is_err());
    assert_eq!(said.take(), ["task"]);
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn overflows() {
    #[expect(unconditional_recursion)]
    fn deeper(n: u64) -> u64 {
        std::hint::black_box(deeper(n + 1)) + std::hint::black_box(n)
    }
    let kernel = boot(1);
    spawn(&kernel, |_| {
        deeper(0);
    });
    kernel.run(CPU);
}

#[test]
fn d1_a_stack_that_overflows_ends_the_process_and_says_why() {
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    command.args(["--ignored", "--exact", "ends::overflows", "--nocapture"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("a task has overflowed its stack"), "{said}");
    assert_eq!(output.status.signal(), Some(6));
}
