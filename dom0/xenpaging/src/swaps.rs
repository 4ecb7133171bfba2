// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xenpaging mkswap`, `swaps`, `swapon` and `swapoff`.

use std::fmt::Display;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use p2m_paging::PAGE_SIZE;
use pager_shell::console::{print_error, print_line};
use pager_shell::control::{LIST, OFF, ON, packet, text};
use pager_shell::socket::{Connection, PACKET_WORDS};
use pager_store::area::{self, Header};
use pager_store::areas::AreaChoice;

use crate::cli::PagerOf;
use crate::exit::Exit;

/// Makes a swap area.
pub(crate) fn make(path: &Path, bytes: Option<u64>) -> Exit {
    said(area::make(path, bytes).map(|header| line(path, header)))
}

/// Shows the headers of areas, or the areas of a pager.
pub(crate) fn show(pager: &PagerOf, paths: &[PathBuf]) -> Exit {
    let mut exit = Exit::Done;
    if pager.control_name().is_some() {
        exit = said(ask(pager, &packet(&[LIST], ""), &[]));
    }
    for path in paths {
        let line = area::look(path).map(|(header, is_used)| {
            let used = if is_used { "in use" } else { "free" };
            format!("{}, {used}", line(path, header))
        });
        if said(line) != Exit::Done {
            exit = Exit::NotStarted;
        }
    }
    exit
}

/// Locks an area and gives it to a pager, which keeps the lock.
pub(crate) fn on(pager: &PagerOf, area: &AreaChoice) -> Exit {
    let (file, _) = match area::claim(&area.path) {
        Ok(claimed) => claimed,
        Err(error) => return said(Err(error)),
    };
    let path = std::path::absolute(&area.path).unwrap_or_else(|_| area.path.clone());
    let priority = i64::from(area.priority).cast_unsigned();
    let request = packet(&[ON, priority], &path.to_string_lossy());
    said(ask(pager, &request, &[file.as_fd()]))
}

/// Makes a pager drain an area, and waits until that is done.
pub(crate) fn off(pager: &PagerOf, path: &Path) -> Exit {
    let (header, _) = match area::look(path) {
        Ok(looked) => looked,
        Err(error) => return said(Err(error)),
    };
    let (high, low) = header.uuid.as_u64_pair();
    said(ask(pager, &packet(&[OFF, low, high], ""), &[]))
}

/// Sends a request to a pager and waits for its answer.
fn ask(pager: &PagerOf, request: &[u64], fds: &[BorrowedFd<'_>]) -> Result<String, String> {
    let name = pager.control_name().ok_or("no pager is named")?;
    let connection = Connection::connect(&name).map_err(|error| format!("no pager: {error}"))?;
    let gone = |errno| format!("the pager does not answer: {errno}");
    connection.send(request, fds).map_err(gone)?;
    let mut words = Box::new([0; PACKET_WORDS]);
    let received = connection.receive(&mut words).map_err(gone)?;
    let words = received.map(|received| &words[..received.words]);
    let answer = words.and_then(|words| Some((words.first()?, text(words, 1)?)));
    match answer {
        Some((0, text)) => Ok(text),
        Some((_, text)) => Err(text),
        None => Err("the pager ended".to_owned()),
    }
}

fn said(line: Result<String, impl Display>) -> Exit {
    match line {
        Ok(line) => {
            print_line(line);
            Exit::Done
        }
        Err(error) => {
            print_error(format_args!("xenpaging: {error}"));
            Exit::NotStarted
        }
    }
}

fn line(path: &Path, header: Header) -> String {
    let mib = (u64::from(header.slots) * PAGE_SIZE as u64) >> 20;
    let (slots, uuid) = (header.slots, header.uuid);
    format!("{}: {slots} pages ({mib} MiB), UUID {uuid}", path.display())
}
