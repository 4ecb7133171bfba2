// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xenpaging mkswap`, `swaps`, `swapon` and `swapoff`.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use p2m_paging::PAGE_SIZE;
use pager_shell::control::{LIST, OFF, ON, packet};
use pager_store::area::{self, Header};
use pager_store::areas::AreaChoice;

use crate::ask::{ask, said};
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

fn line(path: &Path, header: Header) -> String {
    let mib = (u64::from(header.slots) * PAGE_SIZE as u64) >> 20;
    let (slots, uuid) = (header.slots, header.uuid);
    format!("{}: {slots} pages ({mib} MiB), UUID {uuid}", path.display())
}
