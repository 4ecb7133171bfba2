// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fails while pages are out: the store, calls, threads. The pager does not give up, and what it
//! brings back is what went out.

mod hangs;
mod rig;

use std::sync::atomic::Ordering;
use std::thread;

use pager_shell::{MachineEvent, OnLoss, ShellError};
use pager_uffd::host::PagerExit;
use rig::{PAGES, Panic, Rig, TARGET, log, logged, signal, wait_for};
use rustix::process::Signal;

#[test]
fn b3_a_stopped_pager_waits_for_a_store_that_does_not_read() {
    let mut rig = Rig::paged();
    rig.set_unreadable(true);
    let out = rig.out();
    signal(Signal::TERM);
    let waits = "no page has come back for 2.0 s";
    wait_for("a line about what is waited for", || {
        logged(waits) > 0 || rig.has_ended()
    });
    assert!(!rig.has_ended(), "it ended with {} pages out", rig.out());
    assert_eq!(rig.out(), out);
    let why = format!("{out} cannot be read from the page store");
    assert_eq!(logged(&why), 1, "{}", log());
    rig.set_unreadable(false);
    let ended = rig.end().unwrap();
    assert_eq!(ended.given_up_pages, 0);
    rig.check();
    for once in [
        waits,
        "pages come back again, after ",
        "cannot be read back",
    ] {
        assert_eq!(logged(once), 1, "{once}: {}", log());
    }
}

#[test]
fn b3_only_an_operator_who_insists_twice_ends_it() {
    let mut rig = Rig::paged();
    let out = rig.out();
    rig.set_unreadable(true);
    let pair = || {
        signal(Signal::TERM);
        signal(Signal::INT);
    };
    pair();
    wait_for("a first answer", || {
        logged("the pager does not end before") > 0
    });
    wait_for("a stall", || logged("no page has come back for") > 0);
    // A terminal that closes sends more than one signal.
    (0..2).for_each(|_| signal(Signal::HUP));
    pair();
    wait_for("a warning", || {
        logged("send two signals within a second") > 0
    });
    assert!(!rig.has_ended(), "{}", log());
    wait_for("the end", || {
        pair();
        thread::sleep(std::time::Duration::from_millis(50));
        rig.has_ended()
    });
    assert_eq!(rig.end().unwrap().given_up_pages, out);
    assert!(rig.machine.paging().is_enabled() && rig.out() == out);
}

/// Pages that are being saved are nominated, and not out.
#[test]
fn b3_a_stopped_pager_waits_for_a_store_that_hangs_while_pages_are_saved() {
    for insists in [false, true] {
        let mut rig = Rig::new();
        rig.store.hang_writes(true);
        rig.start();
        wait_for("a batch that is saved", || rig.nominated() == TARGET);
        signal(Signal::TERM);
        let waits = "no page has come back for 2.0 s";
        wait_for("a line about what is waited for", || logged(waits) > 0);
        let why = format!("{TARGET} are nominated and on their way to the page store");
        assert_eq!(logged(&why), 1, "{}", log());
        if insists {
            wait_for("the end", || {
                signal(Signal::TERM);
                signal(Signal::INT);
                thread::sleep(std::time::Duration::from_millis(50));
                rig.has_ended()
            });
            let ended = rig.end().unwrap();
            assert_eq!((ended.given_up_pages, ended.nominated_pages), (0, TARGET));
            assert!(rig.machine.paging().is_enabled());
        }
        rig.store.hang_writes(false);
        if !insists {
            assert_eq!(rig.end().unwrap().nominated_pages, 0);
            rig.check();
        }
    }
}

#[test]
fn b7_nothing_is_nominated_when_paging_is_disabled() {
    let mut rig = Rig::new();
    rig.faults.evicts.store(1, Ordering::Relaxed);
    rig.faults.restores.store(3, Ordering::Relaxed);
    rig.start();
    wait_for("a refused restore", || logged("stays nominated:") > 0);
    signal(Signal::TERM);
    rig.end().unwrap();
    rig.check();
    assert_eq!(logged("stays nominated:"), 1, "{}", log());
    assert_eq!(logged("no page stays nominated any more"), 1, "{}", log());
}

#[test]
fn a_panic_in_a_step_brings_everything_back() {
    for panic in [
        Panic::BeforeNominate,
        Panic::AfterNominate,
        Panic::ReadFrames,
        Panic::BeforeEvict,
        Panic::AmidEvict,
        Panic::AfterEvict,
    ] {
        let mut rig = Rig::new();
        rig.faults.panic_once(panic);
        rig.start();
        let ended = rig.end();
        assert!(matches!(ended, Err(ShellError::Panicked)), "{panic:?}");
        rig.check();
    }
    let mut rig = Rig::paged();
    rig.faults.panic_once(Panic::BeforePrep);
    signal(Signal::TERM);
    assert!(matches!(rig.end(), Err(ShellError::Panicked)));
    rig.check();
}

/// The restore that shows whether a page was evicted fails too.
#[test]
fn b7_after_a_panic_amid_an_evict_no_page_stays_nominated() {
    let mut rig = Rig::new();
    rig.faults.panic_once(Panic::AmidEvict);
    let pages = u32::try_from(TARGET).unwrap();
    rig.faults.restores.store(pages + 3, Ordering::Relaxed);
    rig.start();
    assert!(matches!(rig.end(), Err(ShellError::Panicked)));
    rig.check();
    assert_eq!(logged("stays nominated:"), 1, "{}", log());
}

/// With Xen, the thread that publishes metrics shares its link with the thread that watches the domain,
/// and dropping the link ends both.
#[test]
fn after_a_panic_of_the_reporter_the_metrics_stay_published_until_the_end() {
    let mut rig = Rig::paged();
    rig.set_unreadable(true);
    rig.faults.panic_once(Panic::Publish);
    wait_for("a stall", || logged("no page has come back for") > 0);
    let unpublished = |rig: &Rig| rig.faults.unpublished.load(Ordering::Relaxed);
    assert!(!unpublished(&rig), "the watch has ended too");
    rig.set_unreadable(false);
    assert!(matches!(rig.end(), Err(ShellError::Panicked)));
    assert!(unpublished(&rig));
    rig.check();
}

#[test]
fn without_events_from_the_machine_everything_comes_back() {
    let mut rig = Rig::paged();
    rig.faults.events.store(u32::MAX, Ordering::Relaxed);
    assert!(matches!(rig.end(), Err(ShellError::Events(_))));
    rig.check();
    assert_eq!(logged("no more events"), 1, "{}", log());
}

#[test]
fn an_error_after_the_attach_leaves_paging_disabled() {
    let rig = Rig::new();
    rig.faults.wakers.store(1, Ordering::Relaxed);
    assert!(matches!(rig.attach(), Err(ShellError::System { .. })));
    wait_for("detached", || rig.machine.pager_exit().is_some());
    assert_eq!(rig.machine.pager_exit(), Some(PagerExit::Detached));
}

#[test]
fn a_pager_that_lost_its_guest_ends_with_an_error_and_never_disables_paging() {
    assert!(matches!(
        ends_after(MachineEvent::Replaced),
        ShellError::Replaced { out_pages: TARGET }
    ));
    assert!(matches!(
        ends_after(MachineEvent::Disabled),
        ShellError::Disabled { out_pages: TARGET }
    ));
}

/// The first attempts to stop the guest fail.
#[test]
fn a_guest_is_stopped_once_for_pages_that_are_gone_however_often_that_is_tried() {
    let mut rig = Rig::paged();
    rig.set_gone(true);
    rig.faults.stops.store(3, Ordering::Relaxed);
    let vcpu = rig.touch_all();
    wait_for("the pause", || rig.machine.is_guest_paused());
    wait_for("the line", || logged("The guest is paused") == 1);
    assert_eq!(logged("is lost, and somebody needs it"), 1, "{}", log());
    // The page that it needs comes back, and the guest stays as it is until it is unpaused.
    rig.set_gone(false);
    wait_for("the page", || logged("is not lost any more") == 1);
    assert!(rig.machine.is_guest_paused());
    rig.machine.unpause_guest();
    vcpu.join().unwrap();
    assert_eq!(logged("The guest is paused"), 1, "{}", log());
    signal(Signal::TERM);
    rig.end().unwrap();
    rig.check();
}

#[test]
fn a_guest_crashes_for_pages_that_are_gone_if_its_operator_wants_that() {
    let mut rig = Rig::new();
    rig.on_loss = OnLoss::Crash;
    rig.start();
    rig.wait_until_paged();
    rig.set_gone(true);
    // Nobody needs them yet.
    rig.machine.set_target(PAGES.cast_signed());
    wait_for("an attempt", || logged("cannot be read back") == 1);
    assert_eq!((logged("is lost"), rig.machine.crashed()), (0, None));
    // This vcpu waits for ever.
    drop(rig.touch_all());
    wait_for("the crash", || rig.machine.crashed().is_some());
    wait_for("the line", || logged("The guest is crashed") == 1);
    assert!(!rig.machine.is_guest_paused() && !rig.has_ended());
    rig.machine.release_domain();
    rig.end().unwrap();
}

/// Its pages are on their way: an evict that is under way may be carried out, so the pagefile is kept.
#[test]
fn b5_pages_on_their_way_out_count_as_out_when_paging_is_disabled() {
    let mut rig = Rig::new();
    rig.store.hang_writes(true);
    let ready = rig.attach().unwrap();
    let handle = ready.handle().clone();
    rig.run(ready);
    wait_for("a batch that is saved", || rig.nominated() == TARGET);
    assert_eq!(rig.out(), 0);
    rig.faults.say(MachineEvent::Disabled);
    // The machine says something.
    rig.machine.set_target(0);
    wait_for("a notice", || rig.faults.said.load(Ordering::Relaxed));
    let before = handle.metrics().ticks;
    wait_for("ticks", || handle.metrics().ticks > before + 1);
    rig.store.hang_writes(false);
    let error = rig.end().expect_err("the pager lost its guest");
    assert!(
        matches!(error, ShellError::Disabled { out_pages: TARGET }),
        "{error}"
    );
}

/// The error with which a pager ends when the machine has said this.
fn ends_after(event: MachineEvent) -> ShellError {
    let mut rig = Rig::new();
    let ready = rig.attach().unwrap();
    let handle = ready.handle().clone();
    rig.run(ready);
    // A batch in flight is not counted here.
    wait_for("page-out", || handle.metrics().progress.out_pages >= TARGET);
    rig.faults.say(event);
    // The machine says something.
    rig.machine.set_target(0);
    let error = rig.end().expect_err("the pager lost its guest");
    let disables = rig.faults.disables.load(Ordering::Relaxed);
    assert_eq!(disables, 0, "paging was disabled");
    error
}
