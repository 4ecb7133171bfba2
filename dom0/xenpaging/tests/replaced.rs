// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager that learns that the guest has another pager now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2m_paging::Gfn;
use p2m_paging::PAGE_SIZE;
use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::{Config, Page, Pager, Scan};
use pager_shell::{
    Attached, BufferPlace, Calls, GuestInfo, Machine as _, MachineError, MachineEvent, Options,
    Ready, ShellError, Watch,
};
use pager_store::memory::MemoryStore;
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::machine::{Machine, MachineOptions};
use pager_uffd::pager_side::EmbeddedMachine;

const PAGES: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(120);

/// What the test and the pager share.
#[derive(Debug, Default)]
struct Shared {
    replaced: AtomicBool,
    disabled: AtomicBool,
}

/// A machine that says that the pager was replaced once the test wants it.
struct Replacing(EmbeddedMachine, Arc<Shared>);

impl pager_shell::Machine for Replacing {
    fn guest(&self) -> &GuestInfo {
        self.0.guest()
    }

    fn attach(self: Box<Self>, buffers: usize) -> Result<Attached, MachineError> {
        let Self(machine, shared) = *self;
        let attached = Box::new(machine).attach(buffers)?;
        Ok(Attached {
            calls: Box::new(Recorded(attached.calls, Arc::clone(&shared))),
            watch: Box::new(ReplacedWatch(shared)),
            ..attached
        })
    }
}

struct ReplacedWatch(Arc<Shared>);

impl Watch for ReplacedWatch {
    fn run(self: Box<Self>, tell: &dyn Fn(MachineEvent)) {
        tell(MachineEvent::Target((PAGES / 2).cast_signed()));
        while !self.0.replaced.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(2));
        }
        tell(MachineEvent::Replaced);
    }
}

struct Recorded(Box<dyn Calls>, Arc<Shared>);

impl Calls for Recorded {
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
        self.0.restores_at_once()
    }

    fn prep(&mut self, pages: &mut [Page], buffers: BufferPlace) -> Result<(), MachineError> {
        self.0.prep(pages, buffers)
    }

    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
        self.0.scan(scan)
    }

    fn disable(&mut self) -> Result<bool, MachineError> {
        self.1.disabled.store(true, Ordering::Relaxed);
        self.0.disable()
    }
}

#[test]
fn a_pager_that_was_replaced_ends_with_an_error_and_never_disables_paging() {
    let memory = GuestMemory::create(PAGES).unwrap();
    for page in 0..PAGES {
        let mut contents = [0x5a; PAGE_SIZE];
        contents[..8].copy_from_slice(&page.to_ne_bytes());
        memory.store(Gfn::new_truncate(page), &contents).unwrap();
    }
    let options = MachineOptions {
        vcpus: 1,
        cpu: None,
        name: format!("xenpaging-replaced-{}", std::process::id()),
    };
    let machine = Machine::start(memory, &options).unwrap();
    let shared = Arc::<Shared>::default();
    let embedded = EmbeddedMachine::connect(&options.name).unwrap();
    let replacing = Box::new(Replacing(embedded, Arc::clone(&shared)));
    assert_eq!(replacing.guest().max_pages, PAGES);
    let config = Config::new(PAGES);
    let options = SweepOptions {
        mru_pages: 16,
        ..SweepOptions::default()
    };
    let policy = PolicyName::Sweep.policy(&config.memory, &options);
    let pager = Pager::new(config, policy);
    let store = Arc::new(MemoryStore::new());
    let blind = None::<fn() -> _>;
    let ready = Ready::attach(Options::default(), pager, blind, store, replacing).unwrap();
    let handle = ready.handle().clone();
    let pager = thread::spawn(|| ready.start()?.serve());
    let begun = Instant::now();
    while handle.metrics().progress.out_pages < PAGES / 2 {
        assert!(begun.elapsed() < LIMIT, "{:?}", machine.counts());
        thread::sleep(Duration::from_millis(2));
    }
    shared.replaced.store(true, Ordering::Relaxed);
    let ended = pager.join().unwrap();
    let Err(ShellError::Replaced { out_pages }) = ended else {
        panic!("{ended:?}");
    };
    assert_eq!(out_pages, PAGES / 2);
    assert!(
        !shared.disabled.load(Ordering::Relaxed),
        "paging was disabled"
    );
}
