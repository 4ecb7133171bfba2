// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests of an operator to a running pager: use another swap area, drain one, list the areas, or
//! let another pager take over.
//!
//! The pager opens the control socket before it gives up the right to open anything. The client
//! (`xenpaging swapon` and the like) opens and locks the area itself and sends the descriptor, so
//! the pager opens nothing. A request is `[op, …]`, the answer is `[0 or 1, …]`. Both continue with
//! a number of bytes and that many bytes of text.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pager_core::{AreaFigures, DrainError};
use pager_store::area;
use pager_store::areas::{AreaChoice, Areas};
use pager_store::index;
use pager_store::{Slot, SlotRange};
use rustix::io::Errno;
use uuid::Uuid;
use zerocopy::IntoBytes as _;

pub use super::control_request::packet;
use super::control_request::{AreaRequest, ControlClient, Request};
use super::inbox::Inbox;
use super::socket::{Connection, Listener, PACKET_WORDS, Received};

/// The time that a client has for its request after it has connected.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The text of a packet that begins with this many numbers.
pub fn text(words: &[u64], numbers: usize) -> Option<String> {
    let (bytes, text) = words.get(numbers..)?.split_first()?;
    let bytes = text.as_bytes().get(..usize::try_from(*bytes).ok()?)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Adds the area whose descriptor comes with the packet: `[ON, priority]` and its path.
pub const ON: u64 = 1;
/// Drains an area: `[OFF, UUID…]`.
pub const OFF: u64 = 2;
/// Lists the areas: `[LIST]`.
pub const LIST: u64 = 3;
/// Ends the pager, so that another one takes over: `[HAND_OVER, version of its index]`.
pub const HAND_OVER: u64 = 4;

/// Control thread: passes requests to the main thread, which answers them.
pub(super) fn listen(listener: &Listener, inbox: &Inbox) {
    loop {
        let client = match listener.accept() {
            Ok(connection) => ControlClient(connection),
            Err(_) if inbox.is_over() => return,
            Err(errno) => {
                return tracing::error!(%errno, "the control socket accepts no more clients");
            }
        };
        match receive(&client.0) {
            Ok(request) => inbox.push_request(request, client),
            Err(why) => client.answer(Err(why)),
        }
    }
}

fn receive(connection: &Connection) -> Result<Request, String> {
    let mut words = Box::new([0; PACKET_WORDS]);
    let received = connection
        .set_timeout(REQUEST_TIMEOUT)
        .and_then(|()| connection.receive(&mut words))
        .map_err(|errno: Errno| format!("the request was not received: {errno}"))?;
    let no_sense = || "the request is not valid".to_owned();
    let Received { words: used, fds } = received.ok_or_else(no_sense)?;
    match (&words[..used], &mut fds.into_iter()) {
        ([ON, priority, ..], fds) => {
            let choice = AreaChoice {
                path: PathBuf::from(text(&words[..used], 2).ok_or_else(no_sense)?),
                priority: i32::try_from(priority.cast_signed()).map_err(|_| no_sense())?,
            };
            let file = File::from(fds.next().ok_or_else(no_sense)?);
            let header = area::take(&choice.path, &file).map_err(|error| error.to_string())?;
            Ok(Request::Areas(AreaRequest::On {
                file,
                header,
                choice,
            }))
        }
        ([OFF, low, high, ..], _) => {
            let uuid = Uuid::from_u64_pair(*high, *low);
            Ok(Request::Areas(AreaRequest::Off(uuid)))
        }
        ([LIST, ..], _) => Ok(Request::Areas(AreaRequest::List)),
        ([HAND_OVER, version, ..], _) => Ok(Request::HandOver {
            index_version: *version,
        }),
        _ => Err(no_sense()),
    }
}

/// The files that a pager leaves to the next one.
pub trait LeftFiles: std::fmt::Debug + Send + Sync {
    /// Whether each has its name still.
    fn are_found(&self) -> bool;
}

/// Main thread: the areas, and the clients that wait until one is drained.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Why no other pager can take over while this one lives on.
    stays: Option<&'static str>,
    /// What the next pager looks for.
    files: Option<Arc<dyn LeftFiles>>,
    /// `None`: the store is not made of swap areas.
    areas: Option<Arc<Areas>>,
    drains: Vec<(SlotRange, ControlClient)>,
}

/// A change that the core has to learn of.
pub(super) enum Change {
    Added(SlotRange),
    Drain(SlotRange),
    HandOver,
}

impl Control {
    /// `stays`: why no other pager can take over, if none can.
    pub(super) fn new(
        areas: Option<Arc<Areas>>,
        stays: Option<&'static str>,
        files: Option<Arc<dyn LeftFiles>>,
    ) -> Self {
        let drains = Vec::new();
        Self {
            stays,
            files,
            areas,
            drains,
        }
    }

    /// Handles a request. A drain is answered later, everything else at once.
    pub(super) fn asked(
        &mut self,
        request: Request,
        client: ControlClient,
        figures: Vec<AreaFigures>,
    ) -> Option<Change> {
        let request = match request {
            Request::Areas(request) => request,
            Request::HandOver { index_version } => return self.hand_over(index_version, &client),
        };
        let Some(areas) = &self.areas else {
            client.answer(Err("this pager was not started with swap areas".into()));
            return None;
        };
        match request {
            AreaRequest::On {
                file,
                header,
                choice,
            } => match areas.add(file, header, &choice) {
                Ok(range) => {
                    let path = choice.path.display();
                    tracing::info!(priority = choice.priority, "{path} is used from now on");
                    client.answer(Ok(format!("{path}: in use, {} pages", range.slots)));
                    Some(Change::Added(range))
                }
                Err(error) => {
                    client.answer(Err(error.to_string()));
                    None
                }
            },
            AreaRequest::Off(uuid) => match areas.find(uuid) {
                Some(range) => {
                    tracing::info!("{} is drained", self.name(range.first));
                    self.drains.push((range, client));
                    Some(Change::Drain(range))
                }
                None => {
                    client.answer(Err(format!("this pager has no area with UUID {uuid}")));
                    None
                }
            },
            AreaRequest::List => {
                let lines: Vec<_> = figures.iter().map(|area| self.line(area)).collect();
                client.answer(Ok(lines.join("\n")));
                None
            }
        }
    }

    /// Everything is being brought back. The service manager may start no pager after this one.
    pub(super) fn stopping(&mut self) {
        self.stays = Some("this one is being stopped, and brings everything back");
    }

    /// The next pager must be able to find and to read what this one leaves.
    fn hand_over(&self, index_version: u64, client: &ControlClient) -> Option<Change> {
        if let Some(why) = self.stays {
            client.answer(Err(format!("no other pager can take over: {why}")));
            return None;
        }
        if !self.files.as_ref().is_none_or(|files| files.are_found()) {
            let why = "its pagefile or its index is not where the next pager looks for it";
            client.answer(Err(format!("no other pager can take over: {why}")));
            return None;
        }
        if index_version != u64::from(index::VERSION) {
            client.answer(Err(format!(
                "no other pager can take over: the index has version {}, and the next pager knows \
                 version {index_version}. Stop this pager, and start the next one",
                index::VERSION
            )));
            return None;
        }
        client.answer(Ok("the pager ends, and the next one takes over".into()));
        Some(Change::HandOver)
    }

    /// A drain has ended. The client is answered after an empty area has been unlocked.
    pub(super) fn drained(&mut self, range: SlotRange, outcome: Result<(), DrainError>) {
        let name = self.name(range.first);
        let said = match outcome {
            Ok(()) => Ok(format!("{name}: drained")),
            Err(error) => Err(format!("{name} stays in use: {error}")),
        };
        if let (Some(areas), Ok(())) = (&self.areas, outcome) {
            areas.remove(range);
        }
        match &said {
            Ok(line) => tracing::info!("{line}"),
            Err(line) => tracing::error!("{line}"),
        }
        let over = self.drains.extract_if(.., |(other, _)| *other == range);
        over.for_each(|(_, client)| client.answer(said.clone()));
    }

    /// The operator's name for the area in which a slot lies.
    pub(super) fn name(&self, slot: Slot) -> String {
        let path = self.areas.as_ref().and_then(|areas| areas.path(slot));
        path.map_or_else(
            || "the page store".into(),
            |path| path.display().to_string(),
        )
    }

    fn line(&self, area: &AreaFigures) -> String {
        let AreaFigures {
            range,
            taken,
            failed,
            leaving,
        } = area;
        format!(
            "{}: priority {}, {taken} of {} pages in use{}{}",
            self.name(range.first),
            range.priority,
            range.slots,
            if *failed { ", has failed" } else { "" },
            if *leaving { ", being drained" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_request::MAX_TEXT;

    #[test]
    fn packets_carry_numbers_and_a_text() {
        for said in ["", "a", "/dev/vg/swäp", &"x".repeat(5000)] {
            let words = packet(&[ON, 7], said);
            assert_eq!((words[0], words[1]), (ON, 7));
            assert_eq!(text(&words, 2).as_deref(), Some(said));
        }
        let long = "y".repeat(100_000);
        let words = packet(&[0], &long);
        assert!(words.len() <= PACKET_WORDS && text(&words, 1).unwrap().len() == MAX_TEXT);
        for garbage in [&[][..], &[1], &[1, 1], &[1, u64::MAX, 0]] {
            assert_eq!(text(garbage, 1), None, "{garbage:?}");
        }
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() {
        for words in [vec![9], vec![OFF, 1], packet(&[ON, 0], "no descriptor")] {
            let (ours, theirs) = Connection::pair().unwrap();
            ours.send(&words, &[]).unwrap();
            assert!(receive(&theirs).is_err(), "{words:?}");
        }
        // A descriptor that is not a swap area.
        let (ours, theirs) = Connection::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let words = packet(&[ON, 0], "/somewhere");
        ours.send(&words, &[std::os::fd::AsFd::as_fd(&file)])
            .unwrap();
        let refused = receive(&theirs).unwrap_err();
        assert!(refused.starts_with("/somewhere has 0 bytes"), "{refused}");
        // An empty packet, then a closed connection.
        let (ours, theirs) = Connection::pair().unwrap();
        assert!(receive(&theirs).unwrap_err().contains("not received"));
        drop(ours);
        assert!(receive(&theirs).is_err());
    }

    /// Files that are found, or not.
    #[derive(Debug)]
    struct Found(bool);

    impl LeftFiles for Found {
        fn are_found(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn a_pager_ends_for_another_only_if_that_can_take_over() {
        let known = u64::from(index::VERSION);
        let found = |found| -> Option<Arc<dyn LeftFiles>> { Some(Arc::new(Found(found))) };
        for (stays, files, stops, index_version, why) in [
            (None, None, false, known, None),
            (None, found(true), false, known, None),
            (None, found(false), false, known, Some("looks for it")),
            (None, None, true, known, Some("brings everything back")),
            (None, None, false, known + 1, Some("start the next one")),
            (
                Some("it is a test"),
                None,
                false,
                known,
                Some("it is a test"),
            ),
        ] {
            let (ours, theirs) = Connection::pair().unwrap();
            let request = Request::HandOver { index_version };
            let mut control = Control::new(None, stays, files);
            if stops {
                control.stopping();
            }
            let change = control.asked(request, ControlClient(theirs), Vec::new());
            assert_eq!(matches!(change, Some(Change::HandOver)), why.is_none());
            let mut words = Box::new([0; PACKET_WORDS]);
            let received = ours.receive(&mut words).unwrap().unwrap();
            let said = text(&words[..received.words], 1).unwrap();
            assert_eq!(words[0] == 0, why.is_none(), "{said}");
            assert!(why.is_none_or(|why| said.ends_with(why)), "{said}");
        }
    }

    proptest::proptest! {
        /// Whatever the words are, they are a request that this pager knows, or refused.
        #[test]
        fn any_words_are_a_request_or_refused(
            op in 0..5_u64,
            rest in proptest::collection::vec(proptest::prelude::any::<u64>(), 0..12),
        ) {
            let (ours, theirs) = Connection::pair().unwrap();
            let words = [&[op][..], &rest].concat();
            ours.send(&words, &[]).unwrap();
            let is_known = match receive(&theirs) {
                Ok(Request::Areas(AreaRequest::On { .. })) => false,
                Ok(Request::Areas(AreaRequest::Off(_))) => op == OFF && rest.len() >= 2,
                Ok(Request::Areas(AreaRequest::List)) => op == LIST,
                Ok(Request::HandOver { index_version }) => {
                    op == HAND_OVER && rest.first() == Some(&index_version)
                }
                Err(_) => op != LIST,
            };
            proptest::prop_assert!(is_known, "{words:?}");
        }
    }
}
