// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong when a guest that pages by itself (row C9) is paged. Each case shows its effect,
//! and does not show it when the guest's balloon gives the memory.

use tests_host::pathologies::{CASES, Host};
use tests_host::simulate::Counts;

fn counts(name: &str, host: Host) -> Counts {
    let mut cases = CASES.iter().filter(|case| case.name.starts_with(name));
    let case = cases.next().expect("a case of this name");
    case.measure(host)
}

fn pages(name: &str) -> Counts {
    counts(name, Host::Pages)
}

#[test]
fn c9_silent_writes() {
    let paged = pages("silent writes");
    assert!(paged.known_to_guest > 100, "{paged:?}");
}

#[test]
fn c9_stale_reads() {
    let paged = pages("stale reads");
    // Read-ahead brings some in before they are requested.
    assert!(paged.stale_reads > 40, "{paged:?}");
}

#[test]
fn c9_false_reads() {
    let paged = pages("false reads");
    assert_eq!(paged.guest.zeroed, 80);
    // All but the few pages of zeros, which need no read.
    assert!(paged.host_reads > 60, "{paged:?}");
}

#[test]
fn c9_sequence_decays() {
    let in_order = |counts: Counts| counts.host_next * 100 / counts.host_reads;
    let both = |host| ["sequence, fresh", "sequence, decayed"].map(|name| counts(name, host));
    // With pages taken in turn, copies that keep their slots may keep most of the order.
    let [fresh, decayed] = both(Host::PagesByUse);
    assert!(in_order(fresh) > 80, "{fresh:?}");
    assert!(in_order(decayed) < in_order(fresh) - 20, "{decayed:?}");
    for host in [Host::Pages, Host::PagesByUse] {
        let [fresh, decayed] = both(host).map(|counts| counts.nested_faults);
        assert!(decayed > fresh, "{decayed} faults after {fresh}");
    }
}

#[test]
fn c9_false_anonymity() {
    let paged = pages("false anonymity");
    assert!(paged.host_reads >= 40, "{paged:?}");
    let ballooned = counts("false anonymity", Host::Balloons);
    assert_eq!(ballooned.guest.faults, 0, "the guest knows what it needs");
}

#[test]
fn c9_pages_are_written_twice() {
    let paged = pages("paged twice");
    assert!(paged.written_twice > 50, "{paged:?}");
}

#[test]
fn c9_a_balloon_spares_the_host_all_of_it() {
    for case in CASES {
        let counts = case.measure(Host::Balloons);
        let host = (counts.host_writes, counts.host_reads, counts.nested_faults);
        assert_eq!(host, (0, 0, 0), "{}", case.name);
    }
}

#[test]
fn c9_figures_are_the_same_in_every_run() {
    for case in CASES {
        assert_eq!(case.measure(Host::Pages), case.measure(Host::Pages));
    }
}
