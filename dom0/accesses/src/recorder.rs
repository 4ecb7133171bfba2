// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records the accesses of a running guest as a trace.

use std::io;
use std::path::Path;

use p2m_paging::Gfn;
use parking_lot::Mutex;

use super::format::TraceWriter;

/// Records pages from several threads, in the order in which the threads reach it. A write error is
/// reported at the end, so that it does not disturb the recorded guest.
#[derive(Debug)]
pub struct Recorder(Mutex<io::Result<TraceWriter>>);

impl Recorder {
    /// Begins a file. An existing file is replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        TraceWriter::create(path).map(|writer| Self(Mutex::new(Ok(writer))))
    }

    /// Notes that these pages are used now. Pages beyond 16 TiB have no number in a trace.
    pub fn note(&self, gfns: impl IntoIterator<Item = Gfn>) {
        let mut writer = self.0.lock();
        for page in gfns
            .into_iter()
            .filter_map(|gfn| u32::try_from(gfn.get()).ok())
        {
            let Ok(ready) = &mut *writer else { return };
            if let Err(error) = ready.access(page) {
                *writer = Err(error);
            }
        }
    }

    /// Completes the file. Returns the numbers of its pages and accesses. Later notes are not
    /// recorded.
    pub fn finish(&self) -> io::Result<(u32, u64)> {
        let ended = Err(io::Error::other("the trace is complete"));
        std::mem::replace(&mut *self.0.lock(), ended)?.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::format::Trace;

    #[test]
    fn what_several_threads_note_is_all_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let recorder = Recorder::create(file.path()).unwrap();
        let note =
            |from: u64| (from..from + 1000).for_each(|n| recorder.note([Gfn::new_truncate(n)]));
        thread::scope(|scope| {
            scope.spawn(|| note(0));
            scope.spawn(|| note(1000));
        });
        recorder.note([Gfn::MAX]);
        assert_eq!(recorder.finish().unwrap(), (2000, 2000));
        let mut accesses = Trace::read(file.path()).unwrap().accesses;
        accesses.sort_unstable();
        assert_eq!(accesses, (0..2000).collect::<Vec<_>>());
        recorder.note([Gfn::new_truncate(1)]);
        assert!(recorder.finish().is_err());
    }

    #[test]
    fn a_full_disk_is_said_in_the_end() {
        let recorder = Recorder::create(Path::new("/dev/full")).unwrap();
        recorder.note((0..100_000).map(Gfn::new_truncate));
        let error = recorder.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
