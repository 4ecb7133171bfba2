// SPDX-License-Identifier: MIT OR Apache-2.0
//! The domain's device model. It keeps frames mapped that it has used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2m_paging::Errno;
use pager_core::{Page, PageError};

use super::xenstore::Link;

/// The shortest time between two requests to drop mappings.
const FLUSH_PAUSE: Duration = Duration::from_secs(1);

/// The xenstore thread passes the requests on, so that the hypercall worker does not wait for
/// xenstore.
#[derive(Debug)]
pub(super) struct DeviceModel {
    link: Arc<Link>,
    flushed: Option<Instant>,
}

impl DeviceModel {
    pub(super) fn new(link: Arc<Link>) -> Self {
        let flushed = None;
        Self { link, flushed }
    }

    /// Makes the device model drop its mappings if pages are refused because they are in use: it
    /// may have them mapped.
    pub(super) fn flush_if_in_use(&mut self, pages: &[Page]) {
        let in_use = Err(PageError::Refused(Errno::EBUSY));
        let lately = |at: Instant| at.elapsed() < FLUSH_PAUSE;
        if self.flushed.is_some_and(lately) || pages.iter().all(|page| page.outcome != in_use) {
            return;
        }
        self.flushed = Some(Instant::now());
        self.link.flush_cache();
    }
}
