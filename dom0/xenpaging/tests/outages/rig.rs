// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest of an embedded host, and a pager in the same process, whose store, machine and threads
//! fail as a test says.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use p2m_paging::platform::{P2m as _, Platform as _};
use p2m_paging::{Errno, Gfn, P2mType, PAGE_SIZE, VcpuId};
use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::{Config, Page, PageError, Pager, Scan};
use pager_shell::{
    AttachMode, Attached, BufferPlace, Calls, Ended, EventChannel, EventPort, Frames, GuestInfo,
    MachineError, MachineEvent, OnLoss, Options, Publish, Ready, ShellError, Watch,
};
use pager_store::faulty::{FaultyStore, Plan};
use pager_store::memory::MemoryStore;
use pager_store::{PageBuf, PageStore as _, Slot};
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::{Machine, MachineOptions, PagerExit};
use pager_uffd::pager_side::EmbeddedMachine;
use rustix::process::{Signal, getpid, kill_process};

pub(super) const PAGES: u64 = 1024;
pub(super) const TARGET: u64 = PAGES / 2;
const VCPUS: u32 = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// Where the pager panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panic {
    BeforeNominate,
    AfterNominate,
    BeforeEvict,
    /// After half of the pages.
    AmidEvict,
    AfterEvict,
    ReadFrames,
    BeforePrep,
    Publish,
}

/// What goes wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    panic: Mutex<Option<Panic>>,
    /// So many calls evict nothing, and so many restore nothing.
    pub(super) evicts: AtomicU32,
    pub(super) restores: AtomicU32,
    /// So many attempts to stop the guest fail.
    pub(super) stops: AtomicU32,
    /// So many waits for events fail.
    pub(super) events: AtomicU32,
    /// The channel of the main thread cannot be duplicated.
    pub(super) wakers: AtomicU32,
    /// The machine says this in place of what it says next.
    says: Mutex<Option<MachineEvent>>,
    /// It has said it.
    pub(super) said: AtomicBool,
    /// No metrics are published any more.
    pub(super) unpublished: AtomicBool,
    /// So many calls have disabled paging.
    pub(super) disables: AtomicU32,
}

fn take(fault: &AtomicU32) -> bool {
    let one_less = |left: u32| left.checked_sub(1);
    fault
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .is_ok()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    pub(super) fn say(&self, event: MachineEvent) {
        *locked(&self.says) = Some(event);
    }

    pub(super) fn panic_once(&self, at: Panic) {
        *locked(&self.panic) = Some(at);
    }

    fn hits(&self, at: Panic) -> bool {
        locked(&self.panic).take_if(|panic| *panic == at).is_some()
    }

    fn may_panic(&self, at: Panic) {
        assert!(!self.hits(at), "the test wants it: {at:?}");
    }

    fn is_pending(&self) -> bool {
        locked(&self.panic).is_some()
    }
}

struct FaultyMachine(EmbeddedMachine, Arc<Faults>);

impl pager_shell::Machine for FaultyMachine {
    fn guest(&self) -> &GuestInfo {
        self.0.guest()
    }

    fn attach(self: Box<Self>, buffers: usize, mode: AttachMode) -> Result<Attached, MachineError> {
        let Self(machine, faults) = *self;
        let attached = Box::new(machine).attach(buffers, mode)?;
        Ok(Attached {
            calls: Box::new(FaultyCalls(attached.calls, Arc::clone(&faults))),
            frames: Box::new(FaultyFrames(attached.frames, Arc::clone(&faults))),
            event_port: Box::new(FaultyPort(attached.event_port, Arc::clone(&faults))),
            watch: Box::new(FaultyWatch(attached.watch, Arc::clone(&faults))),
            publish: Some(Box::new(FaultyPublish(faults))),
            ..attached
        })
    }
}

/// Publishes nothing.
struct FaultyPublish(Arc<Faults>);

impl Publish for FaultyPublish {
    fn publish(&mut self, _line: &str) {
        self.0.may_panic(Panic::Publish);
    }
}

impl Drop for FaultyPublish {
    fn drop(&mut self) {
        self.0.unpublished.store(true, Ordering::Relaxed);
    }
}

struct FaultyCalls(Box<dyn Calls>, Arc<Faults>);

fn refuse(pages: &mut [Page]) {
    for page in pages {
        page.outcome = Err(PageError::Refused(Errno::EAGAIN));
    }
}

impl Calls for FaultyCalls {
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.1.may_panic(Panic::BeforeNominate);
        if self.1.hits(Panic::AfterNominate) {
            self.0.nominate(&mut pages.to_vec())?;
            panic!("the test wants it: after the nominations");
        }
        self.0.nominate(pages)
    }

    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.1.may_panic(Panic::BeforeEvict);
        let half = pages.len() / 2;
        for (at, done) in [(Panic::AmidEvict, half), (Panic::AfterEvict, pages.len())] {
            if self.1.hits(at) {
                self.0.evict(&mut pages[..done].to_vec())?;
                panic!("the test wants it: {at:?}");
            }
        }
        if take(&self.1.evicts) {
            refuse(pages);
            return Ok(());
        }
        self.0.evict(pages)
    }

    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        if take(&self.1.restores) {
            refuse(pages);
            return Ok(());
        }
        self.0.restore(pages)
    }

    fn restores_at_once(&self) -> bool {
        self.0.restores_at_once()
    }

    fn prep(&mut self, pages: &mut [Page], buffers: BufferPlace) -> Result<(), MachineError> {
        self.1.may_panic(Panic::BeforePrep);
        self.0.prep(pages, buffers)
    }

    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
        self.0.scan(scan)
    }

    fn stop_guest(&mut self, how: OnLoss) -> Result<(), MachineError> {
        if take(&self.1.stops) {
            return Err(MachineError::new(io::Error::from(io::ErrorKind::Other)));
        }
        self.0.stop_guest(how)
    }

    fn disable(&mut self) -> Result<bool, MachineError> {
        self.1.disables.fetch_add(1, Ordering::Relaxed);
        self.0.disable()
    }
}

struct FaultyWatch(Box<dyn Watch>, Arc<Faults>);

impl Watch for FaultyWatch {
    fn run(self: Box<Self>, tell: &dyn Fn(MachineEvent)) {
        let Self(watch, faults) = *self;
        watch.run(&|event| {
            let says = *locked(&faults.says);
            tell(says.unwrap_or(event));
            faults.said.store(says.is_some(), Ordering::Relaxed);
        });
    }
}

struct FaultyFrames(Box<dyn Frames>, Arc<Faults>);

impl Frames for FaultyFrames {
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], unread: &mut [Option<Errno>]) {
        self.1.may_panic(Panic::ReadFrames);
        self.0.read(pages, into, unread);
    }
}

struct FaultyPort(Box<dyn EventPort>, Arc<Faults>);

impl EventPort for FaultyPort {
    fn waker(&self) -> io::Result<EventChannel> {
        if take(&self.1.wakers) {
            return Err(io::ErrorKind::Other.into());
        }
        self.0.waker()
    }

    fn wait(&mut self) -> rustix::io::Result<()> {
        if take(&self.1.events) {
            return Err(rustix::io::Errno::BADF);
        }
        self.0.wait()
    }

    fn notify(&mut self) -> rustix::io::Result<()> {
        self.0.notify()
    }
}

/// What the pagers of this process have logged.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&LOG).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn log() -> String {
    String::from_utf8_lossy(&locked(&LOG)).into_owned()
}

/// The number of lines that contain this.
pub(super) fn logged(what: &str) -> usize {
    log().lines().filter(|line| line.contains(what)).count()
}

/// Waits for progress, with a limit far above need.
pub(super) fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(
            began.elapsed() < LIMIT,
            "{what}: nothing happens: {}",
            log()
        );
        thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn signal(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
}

/// A guest and its pager. Signals go to all pagers of a process, so there is one at a time.
pub(super) struct Rig {
    pub(super) machine: &'static Machine,
    pub(super) faults: Arc<Faults>,
    pub(super) store: Arc<FaultyStore<MemoryStore>>,
    pub(super) on_loss: OnLoss,
    name: String,
    pager: Option<JoinHandle<Result<Ended, ShellError>>>,
    _one: MutexGuard<'static, ()>,
}

fn contents(page: u64) -> [u8; PAGE_SIZE] {
    // No page is zeros, and no two are alike.
    let mut contents = [0x5a; PAGE_SIZE];
    contents[..8].copy_from_slice(&page.to_ne_bytes());
    contents
}

impl Rig {
    pub(super) fn new() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        static LOGS: OnceLock<()> = OnceLock::new();
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let one = locked(&ONE);
        LOGS.get_or_init(|| {
            let log = tracing_subscriber::fmt().with_writer(|| Log);
            log.with_ansi(false).init();
        });
        locked(&LOG).clear();
        let memory = GuestMemory::create(PAGES).unwrap();
        for page in 0..PAGES {
            let gfn = Gfn::new_truncate(page);
            memory.store(gfn, &contents(page)).unwrap();
        }
        let nth = RIGS.fetch_add(1, Ordering::Relaxed);
        let name = format!("xenpaging-outages-{}-{nth}", std::process::id());
        let options = MachineOptions {
            vcpus: VCPUS,
            cpu: None,
            name: name.clone(),
        };
        Self {
            machine: Machine::start(memory, &options).unwrap(),
            faults: Arc::default(),
            store: Arc::new(FaultyStore::new(MemoryStore::new(), Plan::default())),
            on_loss: OnLoss::default(),
            name,
            pager: None,
            _one: one,
        }
    }

    /// Attaches a pager, which has no threads yet.
    pub(super) fn attach(&self) -> Result<Ready, ShellError> {
        let machine = EmbeddedMachine::connect(&self.name).unwrap();
        let machine = Box::new(FaultyMachine(machine, Arc::clone(&self.faults)));
        let config = Config::new(PAGES);
        let options = SweepOptions {
            mru_pages: 16,
            ..SweepOptions::default()
        };
        let policy = PolicyName::Sweep.policy(&config.memory, &options);
        let pager = Pager::new(config, policy);
        let blind = None::<fn() -> _>;
        let store = Arc::clone(&self.store) as _;
        let options = Options {
            on_loss: self.on_loss,
            ..Options::default()
        };
        Ready::attach(options, pager, blind, store, machine)
    }

    /// Starts a pager, which pages half of the guest out.
    pub(super) fn start(&mut self) {
        let ready = self.attach().unwrap();
        self.run(ready);
    }

    /// Starts this pager, which pages half of the guest out.
    pub(super) fn run(&mut self, ready: Ready) {
        self.machine.set_target(TARGET.cast_signed());
        self.pager = Some(thread::spawn(|| ready.start()?.serve()));
    }

    /// The same, with half of the guest out.
    pub(super) fn paged() -> Self {
        let mut rig = Self::new();
        rig.start();
        rig.wait_until_paged();
        rig
    }

    pub(super) fn wait_until_paged(&self) {
        wait_for("page-out", || self.machine.counts().resident() <= TARGET);
    }

    /// No slot can be read, or all can.
    pub(super) fn set_unreadable(&self, unreadable: bool) {
        let slots = if unreadable { 0..2 * PAGES } else { 0..0 };
        self.store.set_plan(Plan {
            unreadable: slots
                .map(|slot| Slot(u32::try_from(slot).unwrap()))
                .collect(),
            ..Plan::default()
        });
    }

    /// Every slot has lost its contents, or none has.
    pub(super) fn set_gone(&self, gone: bool) {
        let slots = if gone { 0..2 * PAGES } else { 0..0 };
        self.store.set_plan(Plan {
            gone: slots
                .map(|slot| Slot(u32::try_from(slot).unwrap()))
                .collect(),
            ..Plan::default()
        });
    }

    /// A vcpu reads all pages.
    pub(super) fn touch_all(&self) -> JoinHandle<()> {
        let machine = self.machine;
        thread::spawn(move || {
            machine.become_vcpu(VcpuId(0));
            for page in 0..PAGES {
                let page = machine.memory().page(Gfn::new_truncate(page)).unwrap();
                page[0].load(Ordering::Relaxed);
            }
        })
    }

    /// The pages that are out, with their slots.
    pub(super) fn slots(&self) -> Vec<(u64, Slot)> {
        let slots = 0..2 * u32::try_from(PAGES).unwrap();
        let out = |page: &u64| self.p2m_type(*page) == P2mType::RamPaged;
        let held = slots.filter_map(|slot| {
            let mut page = [PageBuf::ZERO];
            let mut outcome = [None];
            self.store
                .read_at_once(&[Slot(slot)], &mut page, &mut outcome);
            let number = page[0].0[..8].try_into().map(u64::from_ne_bytes).unwrap();
            (outcome == [Some(Ok(()))]).then_some((number, Slot(slot)))
        });
        held.filter(|(page, _)| out(page)).collect()
    }

    /// A vcpu reads a page.
    pub(super) fn touch(&self, vcpu: u32, page: u64) -> JoinHandle<()> {
        let machine = self.machine;
        thread::spawn(move || {
            machine.become_vcpu(VcpuId(vcpu));
            let words = machine.memory().page(Gfn::new_truncate(page)).unwrap();
            assert_eq!(words[0].load(Ordering::Relaxed), page);
        })
    }

    pub(super) fn out(&self) -> u64 {
        self.machine.counts().paged
    }

    fn p2m_type(&self, page: u64) -> P2mType {
        let gfn = Gfn::new_truncate(page);
        self.machine.paging().platform().lock_p2m().get(gfn).p2mt
    }

    pub(super) fn nominated(&self) -> u64 {
        let nominated = |page: &u64| self.p2m_type(*page) == P2mType::RamPagingOut;
        (0..PAGES).filter(nominated).count() as u64
    }

    pub(super) fn has_ended(&self) -> bool {
        self.pager.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the pager's end.
    pub(super) fn end(&mut self) -> Result<Ended, ShellError> {
        wait_for("the pager's end", || self.has_ended());
        assert!(!self.faults.is_pending(), "no panic: {}", log());
        self.pager
            .take()
            .unwrap()
            .join()
            .expect("the pager's thread")
    }

    /// Every page is in place with its contents, none is nominated, and paging is disabled.
    pub(super) fn check(&self) {
        assert_eq!(self.out(), 0, "pages are out: {}", log());
        wait_for("detached", || self.machine.pager_exit().is_some());
        assert_eq!(self.machine.pager_exit(), Some(PagerExit::Detached));
        assert!(!self.machine.paging().is_enabled(), "paging is enabled");
        for page in 0..PAGES {
            let gfn = Gfn::new_truncate(page);
            assert_eq!(self.p2m_type(page), P2mType::RamRw, "{gfn}");
            let mut found = [0; PAGE_SIZE];
            self.machine.memory().load(gfn, &mut found).unwrap();
            assert_eq!(found, contents(page), "{gfn}");
        }
    }
}
