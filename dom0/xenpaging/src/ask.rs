// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands to a running pager, and what it answers. `xenpaging upgrade` is one of them.

use std::fmt::Display;
use std::os::fd::BorrowedFd;

use pager_shell::console::{print_error, print_line};
use pager_shell::control::{HAND_OVER, packet, text};
use pager_shell::socket::{Connection, PACKET_WORDS};
use pager_store::index;

use crate::cli::PagerOf;
use crate::exit::Exit;

/// Ends a pager, so that the next one takes over: a newer version of this program.
pub(crate) fn upgrade(pager: &PagerOf) -> Exit {
    let request = packet(&[HAND_OVER, index::VERSION.into()], "");
    said(ask(pager, &request, &[]))
}

/// Sends a request to a pager and waits for its answer.
pub(crate) fn ask(
    pager: &PagerOf,
    request: &[u64],
    fds: &[BorrowedFd<'_>],
) -> Result<String, String> {
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

/// Prints what came of a command.
pub(crate) fn said(line: Result<String, impl Display>) -> Exit {
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
