// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads that hang: the device does not answer, and reports no error.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use pager_shell::pressure::PagerHandle;
use pager_shell::{MachineEvent, ShellError};
use pager_store::Slot;
use rustix::process::Signal;

use super::rig::{Rig, TARGET, log, logged, signal, wait_for};

/// A guest with half of its pages out. The first of these pages are cold, and reads of them hang.
struct Hangs {
    rig: Rig,
    handle: PagerHandle,
    cold: Vec<u64>,
    /// Far from the cold pages.
    warm: Vec<u64>,
}

impl Hangs {
    fn new() -> Self {
        let mut rig = Rig::new();
        let ready = rig.attach().unwrap();
        let handle = ready.handle().clone();
        rig.run(ready);
        rig.wait_until_paged();
        let slots = rig.slots();
        assert_eq!(slots.len() as u64, TARGET);
        let (cold, warm) = slots.split_at(slots.len() / 2);
        rig.store.set_cold(cold.iter().map(|(_, slot)| *slot));
        rig.store.hang_reads(true);
        // No two are neighbours, so read-ahead is not asked for others.
        let pages =
            |slots: &[(u64, Slot)]| slots.iter().step_by(9).map(|(page, _)| *page).collect();
        Self {
            cold: pages(cold),
            warm: pages(&warm[32..]),
            handle,
            rig,
        }
    }

    /// Vcpus need cold pages, each another one, and one after the other: each read is one batch.
    fn need(&self, vcpus: std::ops::Range<u32>) -> Vec<JoinHandle<()>> {
        let need = |(vcpu, page): (u32, &u64)| {
            let before = self.waiting();
            let needs = self.rig.touch(vcpu, *page);
            wait_for("a request", || self.waiting() == before + 1);
            needs
        };
        vcpus.zip(&self.cold).map(need).collect()
    }

    fn waiting(&self) -> u64 {
        self.handle.metrics().progress.waiting_requests
    }

    /// The main thread goes on: the watchdog is told when ticks grow.
    fn ticks_grow(&self) {
        let before = self.handle.metrics().ticks;
        wait_for("ticks", || self.handle.metrics().ticks > before + 3);
    }

    /// The device answers again, everybody gets their page, and everything comes back.
    fn goes_on(mut self, vcpus: Vec<JoinHandle<()>>) {
        self.rig.store.hang_reads(false);
        vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
        signal(Signal::TERM);
        assert_eq!(self.rig.end().unwrap().given_up_pages, 0);
        self.rig.check();
    }
}

fn done(vcpu: JoinHandle<()>) {
    wait_for("a warm page", || vcpu.is_finished());
    vcpu.join().unwrap();
}

#[test]
fn b8_a_read_that_hangs_holds_up_no_other_fault() {
    let hangs = Hangs::new();
    let vcpus = hangs.need(0..1);
    for page in &hangs.warm[..20] {
        done(hangs.rig.touch(1, *page));
    }
    hangs.ticks_grow();
    let says = "the page store has not answered a read for 2.0 s";
    wait_for("a line", || logged(says) > 0);
    assert!(!vcpus[0].is_finished());
    hangs.rig.store.hang_reads(false);
    let over = "no read of the page store hangs any more, after ";
    wait_for("the end", || logged(over) > 0);
    assert_eq!((logged(says), logged(over)), (1, 1), "{}", log());
    hangs.goes_on(vcpus);
}

#[test]
fn b8_when_every_reader_hangs_warm_pages_come_in_and_it_is_said_once() {
    let hangs = Hangs::new();
    let vcpus = hangs.need(0..5);
    for page in &hangs.warm[..20] {
        done(hangs.rig.touch(7, *page));
    }
    let all = "all 4 readers have waited for the page store";
    wait_for("a line", || logged(all) > 0);
    hangs.ticks_grow();
    assert!(vcpus.iter().all(|vcpu| !vcpu.is_finished()));
    assert_eq!(logged(all), 1, "{}", log());
    hangs.goes_on(vcpus);
}

#[test]
fn b3_sigterm_is_answered_while_a_read_hangs() {
    let mut hangs = Hangs::new();
    let vcpus = hangs.need(0..1);
    signal(Signal::TERM);
    let stops = "stopping: everything is paged back in";
    wait_for("an answer", || logged(stops) > 0);
    let why = "1 are being read, and the page store does not answer";
    wait_for("what is waited for", || logged(why) > 0);
    hangs.ticks_grow();
    assert!(!hangs.rig.has_ended());
    hangs.rig.store.hang_reads(false);
    vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
    assert_eq!(hangs.rig.end().unwrap().given_up_pages, 0);
    hangs.rig.check();
    assert_eq!((logged(stops), logged(why)), (1, 1), "{}", log());
}

#[test]
fn b3_an_operator_who_insists_ends_a_pager_whose_read_hangs() {
    let mut hangs = Hangs::new();
    let _waits = hangs.need(0..1);
    wait_for("the end", || {
        signal(Signal::TERM);
        signal(Signal::INT);
        thread::sleep(Duration::from_millis(50));
        hangs.rig.has_ended()
    });
    assert!(hangs.rig.end().unwrap().given_up_pages > 0);
    hangs.rig.store.hang_reads(false);
}

/// No page of the guest is needed any more.
#[test]
fn b5_a_pager_whose_read_hangs_ends_with_its_guest() {
    let mut hangs = Hangs::new();
    let _waits = hangs.need(0..5);
    hangs.rig.faults.say(MachineEvent::DomainGone);
    // The machine says something.
    hangs.rig.machine.set_target(0);
    let ended = hangs.rig.end().unwrap();
    assert!(!ended.summary.domain_alive);
    hangs.rig.store.hang_reads(false);
}

#[test]
fn a_panic_of_a_reader_brings_everything_back() {
    let mut hangs = Hangs::new();
    let vcpus = hangs.need(0..1);
    hangs.rig.store.panic_in_read();
    hangs.rig.store.hang_reads(false);
    assert!(matches!(hangs.rig.end(), Err(ShellError::Panicked)));
    vcpus.into_iter().for_each(|vcpu| vcpu.join().unwrap());
    hangs.rig.check();
}

/// Linux says each time that it would have to wait.
#[test]
fn b8_a_store_without_a_cache_serves_all_faults() {
    let hangs = Hangs::new();
    hangs.rig.store.set_cold((0..4096).map(Slot));
    hangs.rig.store.hang_reads(false);
    let pages: Vec<_> = hangs.cold.iter().chain(&hangs.warm).copied().collect();
    for pages in pages.chunks(8) {
        let vcpus: Vec<_> = (0..)
            .zip(pages)
            .map(|(vcpu, page)| hangs.rig.touch(vcpu, *page))
            .collect();
        vcpus.into_iter().for_each(done);
    }
    hangs.goes_on(Vec::new());
}
