//! `xenpaging mkswap` and `xenpaging swaps`.

use std::path::{Path, PathBuf};

use p2m_paging::PAGE_SIZE;

use crate::cli::Exit;
use crate::store::area::{self, AreaError, Header};

/// Makes a swap area.
pub(crate) fn make(path: &Path, bytes: Option<u64>) -> Exit {
    match area::make(path, bytes) {
        Ok(header) => {
            println!("{}", line(path, header));
            Exit::Done
        }
        Err(error) => complain(&error),
    }
}

/// Shows what areas say of themselves.
pub(crate) fn show(paths: &[PathBuf]) -> Exit {
    let mut exit = Exit::Done;
    for path in paths {
        match area::look(path) {
            Ok((header, is_used)) => {
                let used = if is_used { "in use" } else { "free" };
                println!("{}, {used}", line(path, header));
            }
            Err(error) => exit = complain(&error),
        }
    }
    exit
}

fn complain(error: &AreaError) -> Exit {
    eprintln!("xenpaging: {error}");
    Exit::NotStarted
}

fn line(path: &Path, header: Header) -> String {
    let mib = (u64::from(header.slots) * PAGE_SIZE as u64) >> 20;
    let (slots, uuid) = (header.slots, header.uuid);
    format!("{}: {slots} pages ({mib} MiB), UUID {uuid}", path.display())
}
