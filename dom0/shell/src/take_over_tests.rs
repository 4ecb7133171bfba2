// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager is killed, and the next one takes over: with a real index and a real pagefile, and a host
//! that is a list of pages.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2m_paging::ring::abi::{EntryFlags, PagingFlags, Request};
use p2m_paging::{Errno, P2mType, PAGE_SIZE, VcpuId};
use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::{
    Action, Actions, Batch, Config, Event, Loss, LossCause, Need, Page, PageError, Scan, Step,
    Summary,
};
use pager_store::dedup::Dedup;
use pager_store::index::{GuestIdentity, Identity};
use pager_store::memory::MemoryStore;
use pager_store::pagefile::{Keep, Pagefile};
use pager_store::{PageBuf, Slot};
use uuid::Uuid;

use super::*;
use crate::buffers::{BufferPlace, BufferSet, buffer_sets, buffers};
use crate::indexed::{Indexed, clear_resident};
use crate::machine::{Frames, OnLoss};
use crate::pages::{Scratch, load, save, write_back};
use crate::repeated::Repeated;

const PAGES: usize = 96;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resident,
    Nominated,
    Out,
}

struct Host {
    states: Vec<State>,
    memory: Vec<PageBuf>,
    /// Why the guest was stopped.
    stopped: Vec<Loss>,
}

/// How long a process lives that is not killed.
fn for_ever() -> u64 {
    u64::MAX
}

fn number(page: &Page) -> usize {
    usize::try_from(page.gfn().get()).unwrap()
}

/// Every fifth page is zeros, and some are alike.
fn contents(n: usize) -> PageBuf {
    let mut page = PageBuf::ZERO;
    if !n.is_multiple_of(5) {
        page.0[7..15].copy_from_slice(&(n % 67).to_ne_bytes());
        page.0[PAGE_SIZE - 1] = 1;
    }
    page
}

impl Host {
    fn new() -> Self {
        Self {
            states: vec![State::Resident; PAGES],
            memory: (0..PAGES).map(contents).collect(),
            stopped: Vec::new(),
        }
    }

    fn count(&self, state: State) -> u64 {
        let states = self.states.iter();
        states.filter(|other| **other == state).count() as u64
    }

    fn change(&mut self, pages: &mut [Page], from: State, to: State) {
        for page in pages {
            let state = &mut self.states[number(page)];
            page.outcome = match *state == from {
                true => Ok(()),
                false => Err(PageError::Refused(Errno::EBUSY)),
            };
            if *state == from {
                *state = to;
            }
        }
    }

    /// Whoever is resident has the right contents.
    fn check(&self) {
        for (n, state) in self.states.iter().enumerate() {
            let is_right = self.memory[n].0 == contents(n).0;
            assert!(is_right || *state == State::Out, "page {n} is wrong");
        }
    }
}

impl Calls for Host {
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.change(pages, State::Resident, State::Nominated);
        Ok(())
    }

    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.change(pages, State::Nominated, State::Out);
        for page in pages.iter().filter(|page| page.outcome.is_ok()) {
            self.memory[number(page)].0.fill(0xdb);
        }
        Ok(())
    }

    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.change(pages, State::Nominated, State::Resident);
        Ok(())
    }

    fn restores_at_once(&self) -> bool {
        true
    }

    fn prep(&mut self, _: &mut [Page], _: BufferPlace) -> Result<(), MachineError> {
        Ok(())
    }

    fn scan(&mut self, _: &mut Scan) -> Result<(), MachineError> {
        Ok(())
    }

    fn paging_states(
        &mut self,
        first: Gfn,
        states: &mut [PagingStates],
    ) -> Result<(), MachineError> {
        let first = usize::try_from(first.get()).unwrap();
        for (n, state) in self.states.iter().enumerate().skip(first) {
            let Some(word) = states.get_mut((n - first) / 64) else {
                break;
            };
            let bit = 1 << (n % 64);
            match state {
                State::Out => word.out |= bit,
                State::Nominated => word.nominated |= bit,
                State::Resident => {}
            }
        }
        Ok(())
    }

    fn stop_guest(&mut self, _: OnLoss) -> Result<(), MachineError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<bool, MachineError> {
        Ok(true)
    }
}

struct Memory<'a>(&'a [PageBuf]);

impl Frames for Memory<'_> {
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], _: &mut [Option<Errno>]) {
        for (page, into) in pages.iter().zip(into) {
            *into = self.0[number(page)];
        }
    }
}

/// A pager's process, until it is dropped.
struct Process {
    pager: Pager,
    actions: Actions,
    index: Arc<Index>,
    store: Arc<dyn PageStore>,
    indexed: Indexed,
    sets: Vec<BufferSet>,
    scratch: Scratch,
    finished: Option<Summary>,
}

impl Process {
    fn new(pager: Pager, index: Index, store: Arc<dyn PageStore>) -> Self {
        let index = Arc::new(index);
        let memory = vec![PageBuf::ZERO; buffers(&pager)].leak();
        Self {
            actions: pager.actions(),
            sets: buffer_sets(&pager, memory),
            pager,
            indexed: Indexed {
                index: Arc::clone(&index),
                store: Arc::clone(&store),
                failures: Repeated::default(),
            },
            index,
            store,
            scratch: Scratch::default(),
            finished: None,
        }
    }

    /// Does what the core wants about this, until nothing is left, or the process is killed: then it
    /// has done so many things.
    fn run(&mut self, host: &mut Host, event: Event<'_>, left: &mut u64) {
        self.pager.handle(event, &mut self.actions);
        let mut todo: VecDeque<_> = self.actions.drain().collect();
        while let Some(action) = todo.pop_front() {
            let Some(less) = left.checked_sub(1) else {
                return;
            };
            *left = less;
            match action {
                Action::Run(batch) => {
                    let batch = self.step(host, batch);
                    host.check();
                    self.pager.handle(Event::Done(batch), &mut self.actions);
                    todo.extend(self.actions.drain());
                }
                Action::Moved(gfn, location) => self.index.move_to(gfn, location).unwrap(),
                Action::Free(slot) => self.store.free(slot),
                Action::Finished(summary) => self.finished = Some(summary),
                Action::Scan(_) | Action::Respond(_) | Action::Drained(..) => {}
                Action::StopGuest(loss) => host.stopped.push(loss),
                Action::Report(report) => println!("{report}"),
            }
        }
    }

    fn step(&mut self, host: &mut Host, mut batch: Batch) -> Batch {
        let set = &mut self.sets[batch.index()];
        let (store, scratch) = (&*self.store, &mut self.scratch);
        match batch.step() {
            Step::Nominate | Step::Probe => host.nominate(batch.pages_mut()).unwrap(),
            Step::Save => save(store, &mut Memory(&host.memory), &mut batch, scratch),
            Step::Evict => self.indexed.evict(host, batch.pages_mut()).unwrap(),
            Step::Restore => host.restore(batch.pages_mut()).unwrap(),
            Step::Load => load(store, batch.pages_mut(), set, scratch),
            Step::Move => write_back(store, &mut batch, set, scratch),
            Step::Prep => {
                host.change(batch.pages_mut(), State::Out, State::Resident);
                for page in batch.pages().iter().filter(|page| page.outcome.is_ok()) {
                    host.memory[number(page)] = set.pages[page.buffer()];
                }
                clear_resident(Some(&self.index), batch.pages());
            }
        }
        batch
    }
}

fn pager() -> Pager {
    pager_for(PAGES as u64)
}

fn pager_for(pages: u64) -> Pager {
    let config = Config {
        out_batch: 16,
        prefetch_batch: 8,
        ..Config::new(pages)
    };
    let options = SweepOptions {
        mru_pages: 4,
        ..SweepOptions::default()
    };
    let policy = PolicyName::Sweep.policy(&config.memory, &options);
    Pager::new(config, policy)
}

/// What survives a process.
struct Left {
    dir: tempfile::TempDir,
    identity: Option<Identity>,
}

impl Left {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            identity: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("pages")
    }

    fn index_file(&self) -> File {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o600);
        options.open(self.dir.path().join("index")).unwrap()
    }

    /// The first pager, whose index has room for so many gfns.
    fn first(&mut self, gfns: u64) -> Process {
        let pagefile = Pagefile::create(&self.path(), Keep::Named).unwrap();
        let store: Arc<dyn PageStore> = Arc::new(Dedup::new(Arc::new(pagefile)));
        let guest = GuestIdentity {
            domain: 3,
            uuid: Uuid::from_u128(5),
        };
        let identity = Identity {
            guest,
            store: store.identity().unwrap(),
        };
        self.identity = Some(identity);
        let index = Index::create(self.index_file(), identity, gfns).unwrap();
        Process::new(pager(), index, store)
    }

    fn open(&self) -> (Index, Arc<dyn PageStore>) {
        let pagefile = Pagefile::open_again(&self.path()).unwrap();
        let store: Arc<dyn PageStore> = Arc::new(Dedup::new(Arc::new(pagefile)));
        let index = Index::open(self.index_file(), self.identity.unwrap()).unwrap();
        (index, store)
    }

    /// The next pager.
    fn next(&self, host: &mut Host) -> Process {
        self.next_for(host, PAGES as u64)
    }

    fn next_for(&self, host: &mut Host, pages: u64) -> Process {
        let (index, store) = self.open();
        let pager = take_over(pager_for(pages), host, &index, &*store).unwrap();
        Process::new(pager, index, store)
    }
}

fn request(gfn: u64) -> Request {
    Request {
        gfn: Gfn::new_truncate(gfn),
        vcpu: VcpuId(0),
        flags: EntryFlags::empty(),
        p2mt: P2mType::RamPaged,
        paging: PagingFlags::empty(),
    }
}

/// Pages go out and come in, some of them because they are needed.
fn work(process: &mut Process, host: &mut Host, left: &mut u64) {
    for resident in [40, 20, 90, 10] {
        process.run(host, Event::Target(resident), left);
        process.run(host, Event::Tick, left);
        let out = host.states.iter().position(|state| *state == State::Out);
        if let Some(out) = out {
            process.run(host, Event::Requests(&[request(out as u64)]), left);
        }
    }
}

/// Brings everything back.
fn stop(process: &mut Process, host: &mut Host) -> Summary {
    process.run(host, Event::Stop, &mut for_ever());
    for _ in 0..100 {
        if let Some(summary) = process.finished {
            return summary;
        }
        process.run(host, Event::Tick, &mut for_ever());
    }
    panic!("it never finishes: {:?}", process.pager.progress());
}

#[test]
fn wherever_a_pager_is_killed_the_next_one_has_every_page() {
    let mut kills = 0;
    for kill_after in 0.. {
        let (mut host, mut survives, mut left) = (Host::new(), Left::new(), kill_after);
        let mut process = survives.first(PAGES as u64);
        work(&mut process, &mut host, &mut left);
        drop(process);
        let out_pages = host.count(State::Out);
        let nominated_pages = host.count(State::Nominated);
        let mut process = survives.next(&mut host);
        let progress = process.pager.progress();
        assert_eq!((progress.adopted, progress.lost_pages), (out_pages, 0));
        assert_eq!(progress.nominated_pages, nominated_pages);
        work(&mut process, &mut host, &mut for_ever());
        assert_eq!(stop(&mut process, &mut host).unreadable_pages, 0);
        assert_eq!(host.count(State::Resident), PAGES as u64);
        assert_eq!(
            process.index.entries().count(),
            0,
            "entries of resident pages"
        );
        host.check();
        if left > 0 {
            break;
        }
        kills += 1;
    }
    assert!(kills > 50, "{kills}");
}

#[test]
fn a_page_that_cannot_be_noted_stays() {
    let (mut host, mut survives) = (Host::new(), Left::new());
    let mut process = survives.first(30);
    let mut left = for_ever();
    work(&mut process, &mut host, &mut left);
    let out = |n: usize| host.states[n] == State::Out;
    assert!((0..30).filter(|n| out(*n)).count() > 10);
    assert!(!(30..PAGES).any(out), "evicted without an entry");
    assert_eq!(stop(&mut process, &mut host).unreadable_pages, 0);
    assert_eq!(host.count(State::Resident), PAGES as u64);
}

/// Entries that are missing, or that say what cannot be: their pages are lost or do not read back, and
/// no page gets the contents of another.
#[test]
fn a_wrong_entry_costs_its_page_and_no_other() {
    let (mut host, mut survives) = (Host::new(), Left::new());
    let mut process = survives.first(PAGES as u64);
    process.run(&mut host, Event::Target(0), &mut for_ever());
    process.run(&mut host, Event::Tick, &mut for_ever());
    assert_eq!(host.count(State::Out), PAGES as u64);
    let gfn = Gfn::new_truncate;
    let entry = |n| process.index.get(gfn(n)).unwrap();
    // None of these is zeros, or like another.
    let (own, other) = (entry(41), entry(42));
    process
        .index
        .set(gfn(41), other.location, own.checksum)
        .unwrap();
    process
        .index
        .set(gfn(43), Location::Slot(Slot(9999)), 1)
        .unwrap();
    process.index.clear(gfn(44));
    let unknown = entry(46).location;
    process.index.set(gfn(46), unknown, 1 << 40).unwrap();
    drop(process);
    let mut process = survives.next(&mut host);
    // The first of the two that name a slot counts, and it is the wrong one.
    let lost: Vec<_> = process.pager.lost().map(Gfn::get).collect();
    assert_eq!(lost, [42, 43, 44, 46]);
    let summary = stop(&mut process, &mut host);
    assert_eq!(summary.unreadable_pages, 5);
    assert_eq!(
        process.pager.unreadable().map(Gfn::get).collect::<Vec<_>>(),
        [41]
    );
    host.check();
    assert_eq!(host.count(State::Resident), PAGES as u64 - 5);
}

/// A real index without an entry, and a real pagefile with something else in a slot: the guest is stopped
/// when it needs such a page, and is given nothing.
#[test]
fn a_guest_that_needs_a_lost_page_is_stopped_and_others_are_not_missed() {
    for without_entry in [true, false] {
        let (mut host, mut survives) = (Host::new(), Left::new());
        let mut process = survives.first(PAGES as u64);
        process.run(&mut host, Event::Target(0), &mut for_ever());
        process.run(&mut host, Event::Tick, &mut for_ever());
        // None of these is zeros, or like another.
        let [first, second] = [41, 42].map(Gfn::new_truncate);
        for gfn in [first, second] {
            let entry = process.index.get(gfn).unwrap();
            if without_entry {
                process.index.clear(gfn);
            } else if let Location::Slot(Slot(slot)) = entry.location {
                let file = File::options().write(true).open(survives.path()).unwrap();
                file.write_all_at(b"something else", u64::from(slot) * PAGE_SIZE as u64)
                    .unwrap();
            }
        }
        drop(process);
        let mut process = survives.next(&mut host);
        let ticks = |process: &mut Process, host: &mut Host| {
            for _ in 0..20 {
                process.run(host, Event::Tick, &mut for_ever());
            }
        };
        ticks(&mut process, &mut host);
        assert_eq!(host.stopped, [], "nobody needs them");
        for gfn in [second, first] {
            let requests = [request(gfn.get())];
            process.run(&mut host, Event::Requests(&requests), &mut for_ever());
            ticks(&mut process, &mut host);
        }
        let [Loss { gfn, cause, need }] = host.stopped[..] else {
            panic!("{:?}", host.stopped);
        };
        assert_eq!((gfn, need), (second, Need::Requested));
        assert_eq!(cause == LossCause::NoEntry, without_entry, "{cause}");
        assert_eq!(host.count(State::Out), 2);
        assert_eq!(stop(&mut process, &mut host).unreadable_pages, 2);
        host.check();
    }
}

/// The toolstack has lowered the guest's maximum since, or the next pager was started for a part of the
/// guest.
#[test]
fn pages_beyond_the_next_pagers_memory_are_adopted_too() {
    let (mut host, mut survives) = (Host::new(), Left::new());
    let mut process = survives.first(PAGES as u64);
    process.run(&mut host, Event::Target(0), &mut for_ever());
    process.run(&mut host, Event::Tick, &mut for_ever());
    assert_eq!(host.count(State::Out), PAGES as u64);
    drop(process);
    let mut process = survives.next_for(&mut host, PAGES as u64 / 2);
    assert_eq!(process.pager.progress().adopted, PAGES as u64);
    let summary = stop(&mut process, &mut host);
    assert_eq!(summary.unreadable_pages, 0);
    host.check();
    assert_eq!(host.count(State::Resident), PAGES as u64);
}

#[test]
fn a_machine_that_lists_no_states_cannot_be_taken_over() {
    struct Silent(Host);
    impl Calls for Silent {
        fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
            self.0.nominate(pages)
        }
        fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
            self.0.evict(pages)
        }
        fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
            self.0.restore(pages)
        }
        fn restores_at_once(&self) -> bool {
            false
        }
        fn prep(&mut self, pages: &mut [Page], set: BufferPlace) -> Result<(), MachineError> {
            self.0.prep(pages, set)
        }
        fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
            self.0.scan(scan)
        }
        fn stop_guest(&mut self, how: OnLoss) -> Result<(), MachineError> {
            self.0.stop_guest(how)
        }
        fn disable(&mut self) -> Result<bool, MachineError> {
            self.0.disable()
        }
    }
    let mut survives = Left::new();
    drop(survives.first(10));
    let (index, store) = survives.open();
    let error = take_over(pager(), &mut Silent(Host::new()), &index, &*store).unwrap_err();
    assert!(error.to_string().contains("does not list"), "{error}");
}

#[test]
fn an_index_is_about_one_store() {
    use crate::start::check_store;

    let mut survives = Left::new();
    let process = survives.first(10);
    assert!(check_store(&process.index, &*process.store).is_ok());
    let other = Pagefile::create(&survives.dir.path().join("other"), Keep::Unlinked).unwrap();
    for store in [&other as &dyn PageStore, &MemoryStore::new()] {
        let error = check_store(&process.index, store).unwrap_err();
        assert!(error.to_string().contains("another store"), "{error}");
    }
    assert!(Path::exists(&survives.path()));
}
