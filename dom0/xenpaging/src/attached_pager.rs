// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager of one guest: how it attaches, serves, and ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::Context as _;
use pager_core::Pager;
use pager_core::policy::{PolicyName, eligible_pages};
use pager_shell::pressure::BalancedGuest;
use pager_shell::{GuestInfo, Machine, Options, Ready, ShellError};
use pager_store::PageStore;
use pager_store::areas::Areas;
use pager_store::dedup::Dedup;
use pager_store::index::GuestIdentity;
use pager_store::memory::MemoryStore;
use pager_store::pagefile::Keep;
use pager_xen::calls_made;
use uuid::Uuid;

use crate::cli::Cli;
use crate::console::print_error;
use crate::exit::Exit;
use crate::guest_files::{GuestFiles, index_of};
use crate::not_started::WrongStart;

/// The stack size of a thread that serves or balances. All of it is locked in memory.
pub(crate) const STACK_BYTES: usize = 512 << 10;

/// A pager that has attached.
pub(crate) struct AttachedPager {
    /// `None`: the guest of an embedded host.
    pub(crate) domain: Option<u16>,
    /// Whether the process has other pagers.
    among_others: bool,
    share: u32,
    /// Pages that cannot be taken from the guest.
    floor: u64,
    /// Pagefile and index, if pages lie in a pagefile.
    pub(crate) files: Option<GuestFiles>,
    /// Whether pages are in swap areas.
    has_areas: bool,
    pub(crate) ready: Ready,
}

impl AttachedPager {
    pub(crate) fn new(
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
        options.left_files = files.as_ref().and_then(GuestFiles::left_files);
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

    pub(crate) fn balanced_guest(&self) -> BalancedGuest {
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
    pub(crate) fn detach(self) {
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
    pub(crate) fn serve_beside(self) -> Result<thread::JoinHandle<Exit>, Exit> {
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

    pub(crate) fn serve(self) -> Exit {
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
                    // Paging could not be disabled.
                    ShellError::Machine(_)
                    | ShellError::StaysEnabled
                    | ShellError::HandedOver { .. } => (Some(leaves_pages), false),
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

pub(crate) fn name(domain: u16) -> String {
    format!("domain {domain}")
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
pub(crate) fn index_for(cli: &Cli, domain: Option<u16>) -> Option<PathBuf> {
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
    use super::*;

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
