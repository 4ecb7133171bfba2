// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pagers of one process, one for each guest. Either all attach or none does. After that each
//! ends by itself, and the process ends with the last one.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::Context as _;
use p2m_paging::PAGE_SIZE;
use pager_accesses::Recorder;
use pager_core::Pager;
use pager_core::balance::{Balance, Tax};
use pager_core::policy::{PolicyName, eligible_pages};
use pager_shell::console::start_output_thread;
use pager_shell::pressure::{self, BalancedGuest, HostMemory};
use pager_shell::sandbox::{Needs, drop_privileges, protect_memory};
use pager_shell::{GuestInfo, Machine, Options, Ready, ShellError, SystemdService, metrics_server};
use pager_store::PageStore;
use pager_store::areas::Areas;
use pager_store::dedup::Dedup;
use pager_store::index::GuestIdentity;
use pager_store::memory::MemoryStore;
use pager_store::pagefile::Keep;
use pager_uffd::pager_side::EmbeddedMachine;
use pager_xen::{Domain, Host, calls_made};
use uuid::Uuid;

use crate::cli::{Cli, domain_name, embedded_name};
use crate::console::print_error;
use crate::exit::Exit;
use crate::gone_guests;
use crate::guest_files::{GuestFiles, index_of};
use crate::not_started::{NotStarted, WrongStart, is_left};

/// The stack size of a thread that serves or balances. All of it is locked in memory.
const STACK_BYTES: usize = 512 << 10;

/// The pagers that have attached.
pub(crate) struct Pagers {
    all: Vec<AttachedPager>,
    balance: Option<(HostMemory, Balance)>,
    metrics: Option<TcpListener>,
    harden: bool,
}

/// One of these pagers.
struct AttachedPager {
    /// `None`: the guest of an embedded host.
    domain: Option<u16>,
    /// Whether the process has other pagers.
    among_others: bool,
    share: u32,
    /// Pages that cannot be taken from the guest.
    floor: u64,
    /// Pagefile and index, if pages lie in a pagefile.
    files: Option<GuestFiles>,
    /// Whether pages are in swap areas.
    has_areas: bool,
    ready: Ready,
}

impl Pagers {
    /// Finds the guests of the command line and attaches to each. After an error it is attached to
    /// none.
    pub(crate) fn attach(cli: &Cli, record: Option<&Arc<Recorder>>) -> Result<Self, NotStarted> {
        Self::attach_all(cli, record).map_err(|error| {
            let mut indices = cli
                .guests()
                .into_iter()
                .filter_map(|(domain, ..)| index_for(cli, domain));
            NotStarted::new(error, || indices.any(|index| is_left(&index)))
        })
    }

    fn attach_all(cli: &Cli, record: Option<&Arc<Recorder>>) -> anyhow::Result<Self> {
        let found = find_all(cli)?;
        let balance = host_memory(cli)?;
        let metrics = cli
            .metrics
            .map(metrics_server::listen)
            .transpose()
            .context("metrics")?;
        let harden = cli.embedded_host.is_none();
        if harden {
            protect_memory();
        }
        let mut pagers = Self {
            all: Vec::new(),
            balance,
            metrics,
            harden,
        };
        let service = SystemdService::default();
        for ((domain, pagefile, share), machine) in found {
            let options = Options {
                name: domain.filter(|_| !cli.guest.is_empty()).map(name),
                // The embedded host draws its own line.
                live: cli.embedded_host.is_none() && cli.guest.len() < 2,
                service: service.clone(),
                record: record.cloned(),
                control: domain
                    .map(domain_name)
                    .or_else(|| cli.embedded_host.as_deref().map(embedded_name)),
                areas: None,
                index: None,
                on_loss: cli.on_loss,
            };
            match AttachedPager::new(cli, domain, pagefile, share, options, machine) {
                Ok(attached) => pagers.all.push(attached),
                Err(error) => {
                    pagers.all.into_iter().for_each(AttachedPager::detach);
                    return Err(error);
                }
            }
        }
        Ok(pagers)
    }

    /// Serves all guests until the last one is not paged any more. Returns the worst exit code.
    pub(crate) fn serve(self) -> Exit {
        let files = self.all.iter().filter_map(|one| one.files.as_ref());
        let named: Vec<_> = files.flat_map(GuestFiles::names).collect();
        if self.harden
            && let Err(error) = drop_privileges(Needs {
                removed_files: &named,
                ioctls: &pager_xen::IOCTLS,
            })
        {
            tracing::warn!("not all privileges are given up: {error}");
        }
        start_output_thread();
        let balanced: Vec<_> = self.all.iter().map(AttachedPager::balanced_guest).collect();
        if let Some(listener) = self.metrics {
            let labels = |one: &AttachedPager| {
                let label = one.domain.map(|id| format!("{{domain=\"{id}\"}}"));
                (label.unwrap_or_default(), one.ready.handle().clone())
            };
            let guests: Vec<_> = self.all.iter().map(labels).collect();
            beside("metrics", move || metrics_server::serve(&listener, &guests));
        }
        if let Some((memory, balance)) = self.balance {
            beside("balancer", move || pressure::run(memory, balance, balanced));
        }
        let mut all = self.all.into_iter();
        let first = all.next();
        let others: Vec<_> = all.map(AttachedPager::serve_beside).collect();
        let exit = first.map_or(Exit::Done, AttachedPager::serve);
        others.into_iter().fold(exit, |all, other| {
            let exit = match other {
                Ok(thread) => thread.join().unwrap_or(Exit::PagesOut),
                Err(exit) => exit,
            };
            all.worst(exit)
        })
    }
}

fn name(domain: u16) -> String {
    format!("domain {domain}")
}

/// A guest of the command line, with its pagefile and its share.
type Choice<'a> = (Option<u16>, Option<&'a Path>, u32);

/// Finds all guests. If this pager is to take over, guests that are gone meanwhile are left out.
fn find_all(cli: &Cli) -> anyhow::Result<Vec<(Choice<'_>, Box<dyn Machine>)>> {
    let guests = cli.guests().into_iter();
    let found = guests.map(|choice| (choice, find(cli, choice.0)));
    let left = |choice: &Choice<'_>| index_for(cli, choice.0).filter(|index| is_left(index));
    leave_out(
        found.collect(),
        |choice| left(choice).is_some(),
        |choice| {
            if let ((Some(domain), Some(pagefile), _), Some(index)) = (choice, left(&choice))
                && let Err(error) = gone_guests::remove_left(domain, &index, pagefile)
            {
                tracing::warn!(
                    "domain {domain} is gone, and not all its files are removed: {error:#}"
                );
            }
        },
    )
}

/// Leaves out the guests that are gone, if a pager that was killed has left an index of any guest. An
/// error if a guest is gone and none was left, or if no guest remains.
fn leave_out<'a, T>(
    found: Vec<(Choice<'a>, anyhow::Result<T>)>,
    is_left: impl Fn(&Choice<'a>) -> bool,
    remove: impl Fn(Choice<'a>),
) -> anyhow::Result<Vec<(Choice<'a>, T)>> {
    let is_gone =
        |result: &anyhow::Result<T>| result.as_ref().err().is_some_and(gone_guests::is_gone);
    let takes_over =
        found.iter().any(|(_, result)| is_gone(result)) && found.iter().any(|(c, _)| is_left(c));
    let mut remain = Vec::new();
    let mut gone = None;
    for (choice, result) in found {
        match result {
            Ok(found) => remain.push((choice, found)),
            Err(error) if takes_over && gone_guests::is_gone(&error) => {
                tracing::warn!("{error:#} any more: it is left out, and its files are removed");
                remove(choice);
                gone = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match gone {
        Some(error) if remain.is_empty() => Err(error),
        _ => Ok(remain),
    }
}

/// Finds the domain with this number, or the guest of the embedded host.
fn find(cli: &Cli, domain: Option<u16>) -> anyhow::Result<Box<dyn Machine>> {
    match (&cli.embedded_host, domain) {
        (Some(host), _) => Ok(Box::new(EmbeddedMachine::connect(host)?)),
        (None, Some(domain)) => Ok(Box::new(Domain::find(domain)?)),
        (None, None) => anyhow::bail!("no domain is named"),
    }
}

/// What the balancer needs, if the host's memory is to be watched.
fn host_memory(cli: &Cli) -> anyhow::Result<Option<(HostMemory, Balance)>> {
    let Some(marks) = cli.watermarks else {
        return Ok(None);
    };
    let memory = match cli.host_memory {
        Some(bytes) => HostMemory::Fixed(bytes / PAGE_SIZE as u64),
        None => HostMemory::Queried(Box::new(Host::open()?)),
    };
    let (high, total) = (marks.high(), memory.total_pages());
    if high > total {
        let what = format!("--watermarks: {high} pages are never free on a host that has {total}");
        return Err(WrongStart(what).into());
    }
    let tax = Tax::percent(cli.tax).unwrap_or_default();
    Ok(Some((memory, Balance::new(marks, tax))))
}

/// Starts a thread that ends with the process. Without it guests are paged nevertheless.
fn beside(name: &str, work: impl FnOnce() + Send + 'static) {
    let builder = thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES);
    if let Err(error) = builder.spawn(work) {
        tracing::error!("the {name} thread cannot be started: {error}");
    }
}

impl AttachedPager {
    fn new(
        cli: &Cli,
        domain: Option<u16>,
        pagefile: Option<&Path>,
        share: u32,
        mut options: Options,
        machine: Box<dyn Machine>,
    ) -> anyhow::Result<Self> {
        let guest = machine.guest();
        let mut config = cli.config(guest.max_pages, &guest.memory);
        let lost = guest.out_pages;
        config.takes_over = lost > 0;
        if !cli.swap.is_empty() {
            refuse_left_index(domain)?;
        }
        let areas = match &cli.swap[..] {
            [] => None,
            choices => Some(Arc::new(Areas::claim(choices).context("swap area")?)),
        };
        if let Some(areas) = &areas {
            config.areas = areas.ranges();
        }
        options.areas.clone_from(&areas);
        let may_go = eligible_pages(&config.memory, &cli.sweep());
        let floor = guest.max_pages.saturating_sub(may_go);
        let make = |name: PolicyName| name.policy(&config.memory, &cli.sweep());
        let policy = make(cli.policy.unwrap_or(PolicyName::Reuse));
        let blind = cli.policy.is_none().then_some(|| make(PolicyName::Sweep));
        let pager = Pager::new(config.clone(), policy);
        let files = pagefile.map(|path| guest_files(cli, domain, path, guest));
        let files = files.transpose()?;
        options.index = files.as_ref().and_then(GuestFiles::index);
        let takes_over = files.as_ref().is_some_and(GuestFiles::are_left);
        let store: Arc<dyn PageStore> = match (&areas, &files) {
            (Some(areas), _) => Arc::clone(areas) as _,
            (None, Some(files)) => files.store(),
            (None, None) => Arc::new(MemoryStore::new()),
        };
        let store = if cli.dedup {
            Arc::new(Dedup::new(store))
        } else {
            store
        };
        let among_others = options.name.is_some();
        let attached = span(domain, among_others)
            .in_scope(|| Ready::attach(options, pager, blind, store, machine));
        match attached {
            Ok(ready) => {
                // This is not logged earlier: as long as another pager has the guest, the pages are
                // not lost.
                if lost > 0 && !takes_over {
                    tracing::warn!(
                        "{lost} pages are out already: their contents were lost with the pager that paged them out"
                    );
                }
                Ok(Self {
                    domain,
                    among_others,
                    share,
                    floor,
                    files,
                    has_areas: areas.is_some(),
                    ready,
                })
            }
            Err(error) => {
                files.into_iter().for_each(GuestFiles::remove_unless_left);
                Err(error.into())
            }
        }
    }

    fn balanced_guest(&self) -> BalancedGuest {
        BalancedGuest {
            id: self.domain.unwrap_or(0).into(),
            share: self.share,
            floor: self.floor,
            handle: self.ready.handle().clone(),
        }
    }

    /// How the pager ends that cannot serve: another one may have left pages.
    fn not_started(&self) -> Exit {
        if self.files.as_ref().is_some_and(GuestFiles::are_left) {
            Exit::NextTakesOver
        } else {
            Exit::NotStarted
        }
    }

    /// How the pager ends that is gone while paging stays enabled.
    fn leaves_pages(&self) -> Exit {
        let index = self.files.as_ref().and_then(GuestFiles::index);
        index.map_or(Exit::PagesOut, |_| Exit::NextTakesOver)
    }

    /// Detaches. No page is out yet, unless another pager has left some.
    fn detach(self) {
        let name = self.domain.map(name).unwrap_or_default();
        match self.ready.detach() {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!("{name}: paging stays enabled: vcpus are queued for the ring")
            }
            Err(error) => tracing::error!("{name}: paging stays enabled: {error}"),
        }
        self.files
            .into_iter()
            .for_each(GuestFiles::remove_unless_left);
    }

    /// Serves the guest on its own thread. If no thread can be started, the guest is not paged.
    fn serve_beside(self) -> Result<thread::JoinHandle<Exit>, Exit> {
        let builder = thread::Builder::new()
            .name("pager".into())
            .stack_size(STACK_BYTES);
        let (give, taken) = mpsc::channel::<Self>();
        let serve = move || taken.recv().map_or(Exit::NotStarted, Self::serve);
        match builder.spawn(serve) {
            Ok(thread) => {
                // The thread waits for it, so it is received.
                let _ = give.send(self);
                Ok(thread)
            }
            Err(error) => {
                tracing::error!(
                    "a guest is not paged, because its thread cannot be started: {error}"
                );
                let exit = self.not_started();
                self.detach();
                Err(exit)
            }
        }
    }

    fn serve(self) -> Exit {
        let (domain, among_others) = (self.domain, self.among_others);
        let exit = self.leaves_pages();
        outlive(
            &domain.map_or_else(|| "the guest".into(), name),
            exit,
            || span(domain, among_others).in_scope(|| self.serve_in_its_name()),
        )
    }

    fn serve_in_its_name(self) -> Exit {
        let whereabouts = self.whereabouts();
        let (not_started, leaves_pages) = (self.not_started(), self.leaves_pages());
        let ended = match self.ready.start() {
            Ok(shell) => shell.serve(),
            Err(error) => {
                print_shell_error(self.domain, self.among_others, error);
                self.files
                    .into_iter()
                    .for_each(GuestFiles::remove_unless_left);
                return not_started;
            }
        };
        match ended {
            Ok(ended) if ended.given_up_pages > 0 || ended.nominated_pages > 0 => {
                let (pages, nominated) = (ended.given_up_pages, ended.nominated_pages);
                if pages > 0 {
                    tracing::error!(
                        "the pager ends because it was told to, without {pages} pages: the guest \
                         cannot go on. {whereabouts}"
                    );
                }
                if nominated > 0 {
                    tracing::error!(
                        "the pager ends because it was told to, and {nominated} pages stay \
                         nominated: their contents are in the guest"
                    );
                }
                Exit::PagesOut
            }
            Ok(ended) => {
                self.files.into_iter().for_each(GuestFiles::remove);
                let (p, s) = (ended.progress, ended.store);
                let (hypercalls, maps) = calls_made();
                tracing::info!(
                    evicted = p.evicted,
                    written = p.written,
                    clean = p.unchanged,
                    deduplicated = p.deduplicated,
                    zeros = p.zeros,
                    paged_in = p.paged_in,
                    read_ahead = p.read_ahead,
                    read_ahead_hits = p.read_ahead_outcome.hits,
                    read_ahead_misses = p.read_ahead_outcome.wasted,
                    store_reads = s.reads,
                    pages_read = s.pages_read,
                    store_writes = s.writes,
                    hypercalls,
                    maps,
                    "done"
                );
                Exit::Done
            }
            Err(error) => {
                let (keeps, disabled) = match error {
                    // The pager that is attached now may have a pagefile of the same name.
                    ShellError::Replaced { .. } => (Some(Exit::PagesOut), false),
                    ShellError::Disabled { out_pages } if out_pages > 0 => {
                        (Some(Exit::PagesOut), true)
                    }
                    ShellError::StaysEnabled | ShellError::HandedOver { .. } => {
                        (Some(leaves_pages), false)
                    }
                    _ => (None, false),
                };
                if let ShellError::HandedOver { .. } = error {
                    tracing::info!("{error}");
                } else {
                    print_shell_error(self.domain, self.among_others, error);
                }
                if disabled {
                    tracing::error!("the guest cannot go on. {whereabouts}");
                }
                if let Some(exit) = keeps {
                    return exit;
                }
                self.files.into_iter().for_each(GuestFiles::remove);
                Exit::Failed
            }
        }
    }
}

impl AttachedPager {
    /// What becomes of pages that are out.
    fn whereabouts(&self) -> String {
        let named = self.files.as_ref().and_then(GuestFiles::named);
        match named {
            Some(file) => format!("{} keeps their contents", file.display()),
            None if self.has_areas => "The swap areas keep their contents".into(),
            None => "Their contents are lost".into(),
        }
    }
}

/// Serves a guest. A panic leaves pages of this guest out, and ends its pager with this code. The process
/// goes on with its other guests.
fn outlive(guest: &str, after_panic: Exit, serve: impl FnOnce() -> Exit) -> Exit {
    catch_unwind(AssertUnwindSafe(serve)).unwrap_or_else(|_| {
        tracing::error!("{guest} has no pager any more, because its pager has panicked");
        after_panic
    })
}

/// The span that puts the guest's name on log lines if the process has several guests.
fn span(domain: Option<u16>, among_others: bool) -> tracing::Span {
    match domain.filter(|_| among_others) {
        Some(id) => tracing::error_span!("domain", id),
        None => tracing::Span::none(),
    }
}

fn print_shell_error(domain: Option<u16>, among_others: bool, error: ShellError) {
    let error = anyhow::Error::from(error);
    match domain.filter(|_| among_others) {
        Some(domain) => print_error(&error.context(name(domain))),
        None => print_error(&error),
    }
}

/// A pager that does not know of the index of one that was killed would make it outdated.
fn refuse_left_index(domain: Option<u16>) -> anyhow::Result<()> {
    let Some(index) = domain.map(index_of).filter(|index| index.exists()) else {
        return Ok(());
    };
    let what = format!(
        "a pager of domain {} was killed, or runs: {} is there. Start a pager that takes over, with \
         the same pagefile and without options for the index",
        domain.unwrap_or_default(),
        index.display()
    );
    Err(WrongStart(what).into())
}

/// Where the index of a guest is or will be, unless the command line wants none.
fn index_for(cli: &Cli, domain: Option<u16>) -> Option<PathBuf> {
    let usual = || domain.map(index_of);
    let index = cli.index.clone().or_else(usual);
    index.filter(|_| !cli.no_index)
}

/// The pagefile, and an index unless the command line wants none.
fn guest_files(
    cli: &Cli,
    domain: Option<u16>,
    pagefile: &Path,
    guest: &GuestInfo,
) -> anyhow::Result<GuestFiles> {
    if cli.index.is_some() || cli.no_index {
        refuse_left_index(domain)?;
    }
    let Some(index) = index_for(cli, domain) else {
        let keep = if cli.keep_pagefile {
            Keep::Named
        } else {
            Keep::Unlinked
        };
        return GuestFiles::without_index(pagefile, keep);
    };
    let identity = GuestIdentity {
        domain: domain.unwrap_or_default().into(),
        uuid: Uuid::from_bytes(guest.uuid),
    };
    let ends = guest.memory.iter().map(|range| range.end() + 1);
    GuestFiles::open(&index, pagefile, identity, ends.max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use pager_xen::XenError;

    use super::*;

    fn choice(domain: u16) -> Choice<'static> {
        (Some(domain), Some(Path::new("pages")), 100)
    }

    fn found(domain: u16, gone: &[u16]) -> (Choice<'static>, anyhow::Result<u16>) {
        let result = match gone.contains(&domain) {
            true => Err(XenError::NoDomain(domain).into()),
            false => Ok(domain),
        };
        (choice(domain), result)
    }

    #[test]
    fn a_guest_that_is_gone_is_left_out_of_a_take_over_and_refused_at_a_first_start() {
        let removed = RefCell::new(Vec::new());
        let remain = |gone: &[u16], left: &[u16]| {
            removed.borrow_mut().clear();
            let all = [1, 2, 3].map(|domain| found(domain, gone));
            let is_left = |choice: &Choice<'_>| left.contains(&choice.0.unwrap());
            let remove = |choice: Choice<'_>| removed.borrow_mut().extend(choice.0);
            let remain = leave_out(all.into(), is_left, remove)?;
            anyhow::Ok(
                remain
                    .into_iter()
                    .map(|(_, domain)| domain)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(remain(&[], &[1, 2, 3]).unwrap(), [1, 2, 3]);
        assert_eq!(remain(&[2], &[1, 2, 3]).unwrap(), [1, 3]);
        assert_eq!(*removed.borrow(), [2]);
        // The pager has seen its end before it was killed.
        assert_eq!(remain(&[2], &[1, 3]).unwrap(), [1, 3]);
        let error = remain(&[2], &[]).unwrap_err();
        assert_eq!(error.to_string(), "there is no domain 2");
        assert_eq!(*removed.borrow(), [], "another start, with a wrong number");
        remain(&[1, 2, 3], &[3]).unwrap_err();
        assert_eq!(*removed.borrow(), [1, 2, 3]);
    }

    #[test]
    fn the_panic_of_one_guests_pager_is_its_exit_code_and_no_more() {
        for exit in [Exit::PagesOut, Exit::NextTakesOver] {
            let panicked = outlive("domain 1", exit, || panic!("the test wants it"));
            assert_eq!(panicked, exit);
            let other = outlive("domain 2", exit, || Exit::Done);
            assert_eq!(other.worst(panicked), exit);
        }
    }
}
