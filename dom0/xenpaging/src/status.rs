// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xenpaging status`: prints the metrics of this host's pagers from xenstore.

use pager_shell::console::print_line;
use pager_xen::XenError;
use pager_xen::xenstore::{Xenstore, XenstoreError, status_path};

/// Prints one line for each domain that has a pager, or for this domain only.
pub fn print(domain: Option<u16>) -> Result<(), XenError> {
    let mut store = Xenstore::connect()?;
    let domains = match domain {
        Some(domain) => vec![domain],
        None => domains(&mut store)?,
    };
    let mut any = false;
    for domain in domains {
        if let Some(line) = store.read(&status_path(domain))? {
            print_line(format_args!("domain {domain}: {line}"));
            any = true;
        }
    }
    match domain {
        Some(domain) if !any => Err(XenError::NoPager(domain)),
        _ => Ok(()),
    }
}

fn domains(store: &mut Xenstore) -> Result<Vec<u16>, XenstoreError> {
    let names = store.directory("/local/domain")?;
    let mut domains: Vec<u16> = names.iter().filter_map(|name| name.parse().ok()).collect();
    domains.sort_unstable();
    Ok(domains)
}
