// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pagers of one process, one for each guest. Either all attach or none does. After that each
//! ends by itself, and the process ends with the last one.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use p2m_paging::PAGE_SIZE;
use pager_accesses::Recorder;
use pager_core::balance::{Balance, Tax};
use pager_shell::console::start_output_thread;
use pager_shell::pressure::{self, HostMemory};
use pager_shell::sandbox::{Needs, drop_privileges, protect_memory};
use pager_shell::{Machine, Options, SystemdService, metrics_server};
use pager_uffd::pager_side::EmbeddedMachine;
use pager_xen::{Domain, Host};

use crate::attached_pager::{AttachedPager, STACK_BYTES, index_for, name};
use crate::cli::{Cli, domain_name, embedded_name};
use crate::exit::Exit;
use crate::gone_guests;
use crate::guest_files::GuestFiles;
use crate::not_started::{NotStarted, WrongStart, is_left};

/// The pagers that have attached.
pub(crate) struct Pagers {
    all: Vec<AttachedPager>,
    balance: Option<(HostMemory, Balance)>,
    metrics: Option<TcpListener>,
    harden: bool,
}

impl Pagers {
    /// Finds the guests of the command line and attaches to each. After an error it is attached to
    /// none.
    pub(crate) fn attach(cli: &Cli, record: Option<&Arc<Recorder>>) -> Result<Self, NotStarted> {
        Self::attach_all(cli, record).map_err(|error| NotStarted::new(error, || takes_over(cli)))
    }

    fn attach_all(cli: &Cli, record: Option<&Arc<Recorder>>) -> anyhow::Result<Self> {
        let found = find_all(cli)?;
        let balance = host_memory(cli)?;
        let metrics = match cli.metrics.map(metrics_server::listen).transpose() {
            // Whoever has the port must not keep guests waiting.
            Err(error) if takes_over(cli) => {
                tracing::warn!("no metrics: {error}");
                None
            }
            listener => listener.context("metrics")?,
        };
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
                left_files: None,
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

/// Whether a pager that was killed has left the index of one of these guests.
pub(crate) fn takes_over(cli: &Cli) -> bool {
    let guests = cli.guests().into_iter();
    guests
        .filter_map(|(domain, ..)| index_for(cli, domain))
        .any(|index| is_left(&index))
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
}
