// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole system, and its steps.

use std::cell::RefCell;
use std::ops::Range;

use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{Attachment, Paging};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Back, Epoch};
use tests_host::plain::{PAGEABLE_DOMAIN, RingPage};

use crate::config::Config;
use crate::fiber::Fiber;
use crate::lock::FINE;
use crate::machine::{Machine, Place, Translation, VCPUS, contents};
use crate::ops::Pager;
use crate::outside::{Known, Outside, TAKEN, Todo};
use crate::steps::{ACTORS, Act, LATER, PAGER, REPLACED, STRANGER, Step, TOOLS};

pub(crate) struct World {
    pub(crate) paging: Paging<'static, Machine>,
    pub(crate) page: &'static RingPage,
    pub(crate) back: RefCell<Option<Back>>,
    pub(crate) outside: RefCell<Outside>,
    pub(crate) config: Config,
}

/// A world and the operations that have begun in it. It is made anew in the same place.
pub(crate) struct Stage {
    pub(crate) world: &'static mut World,
    cells: &'static mut [VcpuCell; VCPUS],
    pub(crate) fibers: [Fiber; ACTORS],
    /// The operation of each actor, and what the actor knew of the page when it began.
    pub(crate) doing: [Option<Act>; ACTORS],
    pub(crate) carried: [(Known, Option<Todo>); ACTORS],
}

impl World {
    pub(crate) fn machine(&self) -> &Machine {
        self.paging.platform()
    }

    pub(crate) fn platform(&self) -> &Machine {
        self.paging.platform()
    }

    fn new(config: Config, cells: &'static [VcpuCell], page: &'static RingPage) -> Self {
        let world = Self {
            paging: Paging::new(Machine::new(config), cells),
            page,
            back: RefCell::new(None),
            outside: RefCell::new(Outside::new()),
            config,
        };
        let attached = world.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
        attached.expect("nothing speaks against it");
        *world.back.borrow_mut() = Some(Back::new(page.map()));
        world.occupy();
        world
    }

    /// A vcpu makes an access; `false`: its entry does not allow it.
    fn access(&self, v: usize, page: usize, write: bool) -> bool {
        let mut core = self.machine().core.borrow_mut();
        let core = &mut *core;
        let remembered = core.tlb[v][page].filter(|t| t.writable || !write);
        let translation = remembered.or_else(|| {
            let (p2mt, frame) = core.entries[page];
            let allowed = p2mt.paging_access().unwrap_or(match p2mt {
                P2mType::RamRw => Access::READ | Access::WRITE,
                _ => Access::empty(),
            });
            let wanted = if write { Access::WRITE } else { Access::READ };
            Some(Translation {
                frame: frame.filter(|_| allowed.contains(wanted))?,
                writable: allowed.contains(Access::WRITE),
            })
        });
        let Some(translation) = translation else {
            return false;
        };
        if self.config.tlb {
            core.tlb[v][page] = Some(translation);
        }
        let frame = &mut core.frames[usize::from(translation.frame)];
        let own = frame.place == Place::Mapped(u8::try_from(page).expect("few pages"));
        self.machine()
            .require(own, "a vcpu uses a frame that is not its page's");
        let truth = &mut self.outside.borrow_mut().truth[page];
        if write {
            *truth = !*truth;
            frame.contents = contents(page, *truth);
        } else {
            let right = frame.contents == contents(page, *truth);
            self.machine()
                .require(right, "a vcpu reads what was not written last");
        }
        true
    }
}

impl Stage {
    pub(crate) fn new(config: Config) -> Self {
        let cells = Box::leak(Box::new([const { VcpuCell::new() }; VCPUS]));
        let page = Box::leak(Box::new(RingPage::new()));
        FINE.set(config.fine);
        let seen: &'static [VcpuCell] = lasting(cells);
        let world = Box::leak(Box::new(World::new(config, seen, page)));
        Self {
            world,
            cells,
            fibers: std::array::from_fn(|_| Fiber::new()),
            doing: [None; ACTORS],
            carried: [(Known::Nothing, None); ACTORS],
        }
    }

    /// Back to the beginning.
    pub(crate) fn reset(&mut self) {
        self.fibers.iter_mut().for_each(Fiber::abandon);
        self.doing = [None; ACTORS];
        self.carried = [(Known::Nothing, None); ACTORS];
        *self.cells = [const { VcpuCell::new() }; VCPUS];
        let (config, page) = (self.world.config, self.world.page);
        let cells: &'static [VcpuCell] = lasting(self.cells);
        *self.world = World::new(config, cells, page);
    }

    /// All steps that can be taken now.
    pub(crate) fn steps(&self, out: &mut Vec<Step>) {
        out.clear();
        let world = &*self.world;
        let config = world.config;
        for actor in 0..ACTORS as u8 {
            if self.fibers[usize::from(actor)].is_busy() {
                out.push(Step {
                    actor,
                    act: Act::GoOn,
                });
                continue;
            }
            let mut add = |act| out.push(Step { actor, act });
            let outside = world.outside.borrow();
            let core = world.machine().core.borrow();
            match actor {
                0 | 1 if usize::from(actor) < config.vcpus => {
                    let v = usize::from(actor);
                    if core.stopped[v] != 0 {
                        continue;
                    }
                    if outside.pending[v].is_some() {
                        if !outside.stalled[v] || world.paging.is_enabled() {
                            add(Act::Retry);
                        }
                        continue;
                    }
                    for page in pages(config) {
                        add(Act::Access(page, false));
                        if v < config.writers {
                            add(Act::Access(page, true));
                        }
                    }
                    if config.drops {
                        let last = pages(config).end - 1;
                        if core.entries[usize::from(last)].0 == P2mType::Invalid {
                            let free = |f: &crate::machine::FrameRecord| f.place == Place::Free;
                            if core.frames.iter().take(config.gfns).any(free) {
                                add(Act::GetBack(last));
                            }
                        } else {
                            add(Act::GiveAway(last));
                        }
                    }
                }
                PAGER if outside.poked => add(Act::Mend),
                PAGER if outside.attached && !outside.listed => add(Act::List),
                PAGER if outside.attached => {
                    for page in pages(config) {
                        match outside.known[usize::from(page)] {
                            Known::Nothing => add(Act::Nominate(page)),
                            Known::Copied(_) => add(Act::Evict(page)),
                            Known::Out(_) if config.prefetch => add(Act::Prefetch(page)),
                            Known::Out(_) => {}
                        }
                    }
                    if core.notified {
                        add(Act::Take);
                    }
                    for nth in (0..TAKEN as u8).filter(|n| outside.todo[usize::from(*n)].is_some())
                    {
                        add(Act::Serve(nth));
                    }
                    if config.hostile {
                        add(Act::Poke);
                    }
                }
                STRANGER if config.foreign => match outside.mapping {
                    None => {
                        for page in pages(config) {
                            add(Act::Map(page, false));
                            add(Act::Map(page, true));
                        }
                    }
                    Some(mapping) => {
                        if mapping.writer {
                            add(Act::Write);
                        }
                        add(Act::Unmap);
                    }
                },
                TOOLS if outside.attached => {
                    // If pagers are killed, only a pager that is gone is given up.
                    if outside.died < config.dies {
                        add(Act::Die);
                    } else if config.dies == 0 && outside.replaced < config.replaced {
                        add(Act::Detach);
                    }
                }
                TOOLS if world.paging.is_enabled() => {
                    add(Act::TakeOver);
                    if config.noticed && world.paging.attachment() == Attachment::Attached {
                        add(Act::NoticeDeath);
                    }
                    if outside.replaced < config.replaced {
                        add(Act::Detach);
                    }
                }
                // The next pager comes once no operation of the last one is left.
                TOOLS if !self.fibers[usize::from(PAGER)].is_busy() => add(Act::Attach),
                LATER if core.deferred => add(Act::Event),
                REPLACED if outside.attached || config.dies == 0 => {
                    for page in pages(config) {
                        match outside.late.map(|(_, known)| known[usize::from(page)]) {
                            Some(Known::Copied(_)) => add(Act::LateEvict(page)),
                            Some(Known::Out(_)) => add(Act::LatePrep(page)),
                            Some(Known::Nothing) | None => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes a step.
    pub(crate) fn step(&mut self, step: Step) {
        let actor = usize::from(step.actor);
        if step.act == Act::GoOn {
            self.fibers[actor].resume();
        } else {
            self.start(actor, step.act);
        }
        if !self.fibers[actor].is_busy() {
            let attached = self.world.outside.borrow().attached;
            if attached && matches!(self.doing[actor], Some(Act::Attach | Act::TakeOver)) {
                self.world.occupy();
            }
            self.doing[actor] = None;
            self.carried[actor] = (Known::Nothing, None);
        }
    }

    /// Begins an operation that takes locks, and does one that takes none.
    fn start(&mut self, actor: usize, act: Act) {
        let world: &'static World = lasting(self.world);
        let mut outside = world.outside.borrow_mut();
        match act {
            Act::GoOn => {}
            Act::Access(page, write) => {
                outside.pending[actor] = Some((page, write));
                drop(outside);
                self.attempt(actor);
            }
            Act::Retry => {
                drop(outside);
                self.attempt(actor);
            }
            Act::GetBack(page) => {
                let p = usize::from(page);
                outside.truth[p] = !outside.truth[p];
                let new = contents(p, outside.truth[p]);
                let frame = world.machine().take_free(new, Place::Mapped(page));
                world.machine().core.borrow_mut().entries[p] = (P2mType::RamRw, frame);
            }
            Act::Take => {
                let mut back = world.back.borrow_mut();
                match back.as_mut().expect("attached").take() {
                    Ok(Some(Ok(request))) => {
                        let room = outside.todo.iter_mut().find(|t| t.is_none());
                        *room.expect("a slot's worth of room") = Some(request.into());
                    }
                    Ok(None) => world.machine().core.borrow_mut().notified = false,
                    _ => world
                        .machine()
                        .breach("the pager finds nonsense on the ring"),
                }
            }
            Act::Write => {
                let mapping = outside.mapping.expect("mapped");
                let p = usize::from(mapping.gfn);
                let frame =
                    &mut world.machine().core.borrow_mut().frames[usize::from(mapping.frame)];
                if frame.place == Place::Mapped(mapping.gfn) {
                    outside.truth[p] = !outside.truth[p];
                    frame.contents = contents(p, outside.truth[p]);
                }
            }
            Act::Die => {
                drop(outside);
                world.die();
            }
            Act::Unmap => {
                let mapping = outside.mapping.take().expect("mapped");
                world.machine().put(mapping.frame);
            }
            _ => {
                let mut epoch = world.paging.epoch();
                let copy = match act {
                    Act::Evict(page) | Act::Prefetch(page) => outside.known[usize::from(page)],
                    Act::LateEvict(page) | Act::LatePrep(page) => {
                        let (of, known) = outside.late.as_mut().expect("replaced");
                        epoch = Epoch::from_raw(*of);
                        std::mem::replace(&mut known[usize::from(page)], Known::Nothing)
                    }
                    _ => Known::Nothing,
                };
                let todo = match act {
                    Act::Serve(nth) => outside.todo[usize::from(nth)],
                    _ => None,
                };
                let by = Pager {
                    epoch,
                    life: outside.died,
                    // The next pager has buffers.
                    fills: world.config.empty && outside.died == 0,
                };
                drop(outside);
                self.doing[actor] = Some(act);
                self.carried[actor] = (copy, todo);
                let at_once = !matches!(act, Act::GiveAway(_));
                self.fibers[actor].begin(at_once, move || match act {
                    Act::GiveAway(page) => world.give_away(actor, page.into()),
                    Act::Nominate(page) => world.nominate(by, page.into()),
                    Act::Evict(page) | Act::Prefetch(page) => match copy {
                        Known::Copied(copy) => world.evict(by, page.into(), copy),
                        Known::Out(copy) => drop(world.bring(by, page.into(), copy)),
                        Known::Nothing => {}
                    },
                    Act::LateEvict(page) => world.late_evict(epoch, page.into()),
                    Act::LatePrep(page) => match copy {
                        Known::Copied(copy) | Known::Out(copy) => {
                            world.late_prep(epoch, page.into(), copy);
                        }
                        Known::Nothing => {}
                    },
                    Act::Serve(nth) => world.serve(by, nth.into(), todo.expect("taken")),
                    Act::Map(page, writer) => world.map(page.into(), writer),
                    Act::Detach => world.detach(),
                    Act::Attach => world.attach(),
                    Act::NoticeDeath => world.notice_death(),
                    Act::TakeOver => world.take_over(),
                    Act::List => world.list(by),
                    Act::Poke => world.poke(),
                    Act::Mend => world.mend(),
                    _ => {
                        world.machine().core.borrow_mut().deferred = false;
                        world.event();
                    }
                });
            }
        }
    }

    /// A vcpu makes the access that it has begun, or faults.
    fn attempt(&mut self, v: usize) {
        let world: &'static World = lasting(self.world);
        let pending = world.outside.borrow().pending[v];
        let (page, write) = pending.expect("begun");
        world.outside.borrow_mut().stalled[v] = false;
        if world.access(v, page.into(), write) {
            world.outside.borrow_mut().pending[v] = None;
        } else {
            self.doing[v] = Some(Act::Access(page, write));
            self.fibers[v].begin(false, move || world.fault(v, page.into(), write));
        }
    }
}

fn pages(config: Config) -> Range<u8> {
    0..u8::try_from(config.gfns).expect("few pages")
}

#[allow(unsafe_code)]
fn lasting<T: ?Sized>(of: &T) -> &'static T {
    // SAFETY: leaked, so it exists for ever. `Stage` writes to it in `reset` only, when no
    // operation is left that uses it.
    unsafe { &*std::ptr::from_ref(of) }
}
