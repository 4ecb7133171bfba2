// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every state with every event: the reviewed table, and the crate compared with it.

mod common;

use std::fmt::Write;

use common::{Domain, gfn};
use p2m_paging::VcpuId;
use p2m_paging::p2m::Access;
use p2m_paging::p2m::table::{Event, Matrix, Outcome, State, mermaid, transition};
use p2m_paging::paging::{Caller, Populated};
use p2m_paging::ring::{PagingFlags, Response};
use tests_host::plain::Buffer;

/// The page under test, and one whose request gives the pager something to answer.
const PAGE: u64 = 1;
const OTHER: u64 = 2;

#[test]
fn the_table_is_the_one_that_was_reviewed() {
    insta::assert_snapshot!("matrix", Matrix { log_dirty: false });
    insta::assert_snapshot!("matrix_log_dirty", Matrix { log_dirty: true });
}

/// A domain whose page is in this state, by valid operations.
fn domain_in(state: State, log_dirty: bool) -> Domain {
    let d = Domain::new(4, 4);
    let log = |on| d.machine().with(|core| core.log_dirty = on);
    match state {
        State::RamRw => {}
        State::RamLogDirty => {
            log(true);
            d.out([PAGE]);
            d.prep(PAGE, Some(Buffer::Page(PAGE))).unwrap();
        }
        State::PagingOut => d.nominate(PAGE).unwrap(),
        State::Paged => d.out([PAGE]),
        State::PagingInStart => {
            d.out([PAGE]);
            assert_eq!(d.fault(3, PAGE), Ok(Populated::Paused));
        }
        State::PagingIn => {
            d.out([PAGE]);
            d.prep(PAGE, None).unwrap();
        }
        State::Invalid => {
            d.out([PAGE]);
            let dropped = d.paging.drop_page(gfn(PAGE), Caller::Foreign(VcpuId(0)));
            assert_eq!(dropped, Ok(()));
        }
    }
    log(log_dirty);
    d
}

fn state_of(d: &Domain) -> State {
    let entry = d.machine().with(|core| core.entry(gfn(PAGE)));
    State::of(entry.p2mt).expect("a state of paging's")
}

/// Makes the event happen. Yields whether the caller was refused, if there is a caller.
fn make(d: &mut Domain, event: Event) -> Option<bool> {
    let user = |d: &Domain| d.machine().get_frame(gfn(PAGE));
    let ignored = |got: Populated| (got != Populated::NotPaging).then_some(false);
    match event {
        Event::Nominate => Some(d.nominate(PAGE).is_err()),
        Event::NominateInUse => {
            let mfn = user(d);
            let refused = d.nominate(PAGE).is_err();
            mfn.into_iter().for_each(|mfn| d.machine().put_frame(mfn));
            Some(refused)
        }
        Event::Evict => Some(d.evict(PAGE).is_err()),
        Event::EvictInUse => {
            let mfn = user(d);
            let refused = d.evict(PAGE).is_err();
            mfn.into_iter().for_each(|mfn| d.machine().put_frame(mfn));
            Some(refused)
        }
        Event::Restore => Some(d.restore(PAGE).is_err()),
        Event::GuestRead => ignored(d.paging.fault(VcpuId(0), gfn(PAGE), Access::READ).unwrap()),
        Event::GuestWrite => ignored(d.fault(0, PAGE).unwrap()),
        Event::ForeignPopulate => {
            let foreign = Caller::Foreign(VcpuId(9));
            ignored(d.paging.populate(gfn(PAGE), foreign).unwrap())
        }
        Event::PrepFilled => Some(d.prep(PAGE, Some(Buffer::Page(PAGE))).is_err()),
        Event::PrepEmpty => Some(d.prep(PAGE, None).is_err()),
        Event::Respond | Event::RespondDropped => {
            d.out([OTHER]);
            let foreign = Caller::Foreign(VcpuId(9));
            assert_eq!(
                d.paging.populate(gfn(OTHER), foreign),
                Ok(Populated::InFlight)
            );
            let mut request = d.take().unwrap();
            while request.gfn != gfn(OTHER) {
                request = d.take().unwrap();
            }
            let mut paging = PagingFlags::empty();
            paging.set(PagingFlags::DROP_PAGE, event == Event::RespondDropped);
            d.respond(&Response {
                gfn: gfn(PAGE),
                paging,
                ..Response::to(&request)
            });
            None
        }
        Event::Drop => {
            let dropped = d.paging.drop_page(gfn(PAGE), Caller::Guest(VcpuId(1)));
            Some(dropped.is_err())
        }
    }
}

#[test]
fn the_crate_does_what_the_table_says() {
    let mut cells = 0;
    for log_dirty in [false, true] {
        for state in State::ALL {
            for event in Event::ALL {
                let mut d = domain_in(state, log_dirty);
                assert_eq!(state_of(&d), state);
                let entry = d.machine().with(|core| core.entry(gfn(PAGE)));
                assert_eq!(state.p2mt(), entry.p2mt);
                assert_eq!(state.has_frame(), entry.mfn.is_some(), "{state:?}");
                let contents = d.machine().contents(gfn(PAGE));
                let refused = make(&mut d, event);
                let at = format!("{state:?} + {event:?}, log-dirty {log_dirty}");
                match transition(state, event, log_dirty) {
                    Outcome::To(to) => {
                        assert_eq!(state_of(&d), to, "{at}");
                        assert_ne!(refused, Some(true), "{at}");
                    }
                    Outcome::Refused => {
                        assert_eq!(refused, Some(true), "{at}");
                        assert_eq!(state_of(&d), state, "{at}");
                    }
                    Outcome::Ignored => {
                        assert_ne!(refused, Some(true), "{at}");
                        assert_eq!(state_of(&d), state, "{at}");
                    }
                }
                if state_of(&d) == state {
                    assert_eq!(d.machine().contents(gfn(PAGE)), contents, "{at}");
                }
                d.machine().check();
                cells += 1;
            }
        }
    }
    assert_eq!(cells, 2 * 7 * 13);
}

/// The picture in the README is drawn from the table. `UPDATE=1` draws it anew.
#[test]
fn the_readme_shows_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).expect("README.md");
    let (begin, end) = ("<!-- states -->\n", "<!-- /states -->");
    let mut picture = String::from("```mermaid\n");
    mermaid(&mut picture).unwrap();
    writeln!(picture, "```").unwrap();
    let (head, rest) = readme.split_once(begin).expect("a line `<!-- states -->`");
    let (shown, tail) = rest.split_once(end).expect("a line `<!-- /states -->`");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, format!("{head}{begin}{picture}{end}{tail}")).unwrap();
    } else {
        assert_eq!(
            shown, picture,
            "README.md is out of date: run this test with UPDATE=1"
        );
    }
}
