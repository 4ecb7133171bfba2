// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filling a guest's memory from files.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use p2m_paging::{Gfn, PAGE_SIZE};

use crate::host::guest_memory::GuestMemory;

/// The directories of programs and shared libraries.
pub const USUAL_PLACES: [&str; 2] = ["/usr/lib", "/usr/bin"];

/// Why memory was not filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// A path cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The path that was given.
        path: PathBuf,
        /// The error.
        error: std::io::Error,
    },
    /// The paths contain no readable data.
    #[error("no readable file with anything in it in {paths:?}")]
    Empty {
        /// The paths that were given.
        paths: Vec<PathBuf>,
    },
}

/// What the memory was filled with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// The number of files that were read, whole or in part.
    pub files: u64,
    /// How often all of them were read: more than once if they are smaller than the guest.
    pub rounds: u64,
}

/// Fills memory with the files below `paths` (or with those files), in the order of their names,
/// and repeats them until it is full. `progress` gets the number of pages filled. Files that cannot
/// be read are skipped. Links are not followed, except `paths` themselves.
pub fn fill(
    memory: &GuestMemory,
    paths: &[PathBuf],
    progress: &mut dyn FnMut(u64),
) -> Result<Filled, FillError> {
    let mut filler = Filler {
        memory,
        next: 0,
        page: [0; PAGE_SIZE],
        used: 0,
        filled: Filled::default(),
        progress,
    };
    while !filler.is_full() {
        let before = (filler.next, filler.used);
        for path in paths {
            filler.add(path).map_err(|error| FillError::Unreadable {
                path: path.clone(),
                error,
            })?;
        }
        filler.filled.rounds += 1;
        if before == (filler.next, filler.used) && !filler.is_full() {
            return Err(FillError::Empty {
                paths: paths.to_owned(),
            });
        }
    }
    Ok(filler.filled)
}

/// The most directories inside one another.
const MAX_DEPTH: usize = 32;

struct Filler<'a> {
    memory: &'a GuestMemory,
    /// The page that is being filled.
    next: u64,
    page: [u8; PAGE_SIZE],
    /// The number of its bytes that are filled.
    used: usize,
    filled: Filled,
    progress: &'a mut dyn FnMut(u64),
}

impl Filler<'_> {
    fn is_full(&self) -> bool {
        self.next >= self.memory.size_pages()
    }

    fn add(&mut self, path: &Path) -> std::io::Result<()> {
        if fs::metadata(path)?.is_dir() {
            self.add_directory(fs::read_dir(path)?, 0);
            Ok(())
        } else {
            self.add_file(path)
        }
    }

    fn add_directory(&mut self, entries: fs::ReadDir, depth: usize) {
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.is_full() {
                return;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && depth < MAX_DEPTH {
                if let Ok(entries) = fs::read_dir(entry.path()) {
                    self.add_directory(entries, depth + 1);
                }
            } else if kind.is_file() {
                // An error is ignored: the other files fill the memory too.
                let _ = self.add_file(&entry.path());
            }
        }
    }

    fn add_file(&mut self, path: &Path) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let mut any = false;
        while !self.is_full() {
            let read = file.read(&mut self.page[self.used..])?;
            if read == 0 {
                break;
            }
            any = true;
            self.used += read;
            if self.used == PAGE_SIZE {
                self.finish_page();
            }
        }
        self.filled.files += u64::from(any);
        Ok(())
    }

    fn finish_page(&mut self) {
        // The memory is not full, so this is one of its frames.
        let _ = self.memory.store(Gfn::new_truncate(self.next), &self.page);
        self.next += 1;
        self.used = 0;
        (self.progress)(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_fill_a_large_guest_over_and_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("a"), [1; 100]).unwrap();
        fs::write(dir.path().join("inner/b"), vec![2; 5000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let memory = GuestMemory::create(8).unwrap();
        let filled = fill(&memory, &[dir.path().into()], &mut |_| {}).unwrap();
        assert_eq!(filled.rounds, 7);
        assert_eq!(memory.resident_pages(), Ok(8));
        let mut page = [0; PAGE_SIZE];
        memory.load(Gfn::new_truncate(1), &mut page).unwrap();
        assert_eq!((page[1003], page[1004], page[1104]), (2, 1, 2));
    }

    #[test]
    fn what_cannot_be_read_or_is_empty_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let memory = GuestMemory::create(1).unwrap();
        let missing = dir.path().join("missing");
        let error = fill(&memory, &[missing], &mut |_| {}).unwrap_err();
        assert!(
            error.to_string().contains("missing cannot be read"),
            "{error}"
        );
        let error = fill(&memory, &[dir.path().into()], &mut |_| {}).unwrap_err();
        assert!(matches!(error, FillError::Empty { .. }), "{error}");
    }
}
