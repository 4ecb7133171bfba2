// SPDX-License-Identifier: MIT OR Apache-2.0
//! A p2m in memory: four levels of 512 entries, walked as hardware walks it.

use p2m_paging::fault::{ExitQualification, NpfErrorCode};
use p2m_paging::p2m::{Access, ClearBits, P2mType};
use p2m_paging::platform::Entry;
use p2m_paging::{Gfn, Mfn};

use super::format::Format;
use super::uses::Followed;

const LEVELS: u32 = 4;
const ENTRIES: usize = 512;

/// The tables. Number 0 is the root.
#[derive(Debug)]
pub struct Tables {
    format: Format,
    tables: Vec<[u64; ENTRIES]>,
    followed: Followed,
}

/// The result of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The frame.
    pub mfn: Mfn,
    /// The rights of all levels together.
    pub allowed: Access,
    /// Whether the dirty bit is set.
    pub dirty: bool,
}

/// The reason why a walk ended, as the hardware reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An EPT violation.
    Ept(ExitQualification),
    /// A nested page fault.
    Npt(NpfErrorCode),
}

impl Fault {
    /// The access that the guest wanted, as the crate reads it.
    pub fn access(self) -> Access {
        match self {
            Self::Ept(qualification) => qualification.access(),
            Self::Npt(code) => code.access(),
        }
    }
}

impl Tables {
    /// Nothing mapped.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            tables: vec![[0; ENTRIES]],
            followed: Followed::default(),
        }
    }

    /// The entry of a gfn.
    pub fn get(&self, gfn: Gfn) -> Entry {
        self.find(gfn)
            .map_or(self.format.entry(0), |(table, slot)| {
                self.format.entry(self.tables[table][slot])
            })
    }

    /// Whether hardware has used the entry since it was last [set](Self::set): for any access, and
    /// for a write.
    pub fn used(&self, gfn: Gfn) -> (bool, bool) {
        let (accessed, dirty) = self.format.used_bits();
        let bits = self
            .find(gfn)
            .map_or(0, |(table, slot)| self.tables[table][slot]);
        (bits & accessed != 0, bits & dirty != 0)
    }

    /// Reads the bits of a gfn as [`Self::used`] does, and clears the accessed bit, or both bits.
    /// Panics if the page was used since they were last cleared and they do not show it.
    pub(super) fn take_used(&mut self, gfn: Gfn, clear: ClearBits) -> (bool, bool) {
        let (used, (accessed, dirty)) = (self.used(gfn), self.format.used_bits());
        if let Some((table, slot)) = self.find(gfn) {
            self.tables[table][slot] &= match clear {
                ClearBits::Accessed => !accessed,
                ClearBits::AccessedAndDirty => !(accessed | dirty),
            };
            self.followed.taken(gfn, used, clear);
        }
        used
    }

    /// A vcpu has made an access, by a walk or with a translation that its CPU remembers.
    pub(super) fn note_use(&mut self, gfn: Gfn, access: Access) {
        self.followed.used(gfn, access);
    }

    /// Writes an entry, and the tables that lead to it.
    pub fn set(&mut self, gfn: Gfn, entry: Entry) {
        self.followed.forget(gfn);
        let mut table = 0;
        for level in (1..LEVELS).rev() {
            let slot = slot(gfn, level);
            table = match self.format.table(self.tables[table][slot]) {
                Some(next) => next,
                None => {
                    let next = self.tables.len();
                    self.tables.push([0; ENTRIES]);
                    self.tables[table][slot] = self.format.branch(next);
                    next
                }
            };
        }
        self.tables[table][slot(gfn, 0)] = self.format.leaf(entry);
    }

    /// Walks as hardware does for this access: permissions of all levels, accessed bits on the way,
    /// the dirty bit for a write.
    pub fn walk(&mut self, gfn: Gfn, access: Access) -> Result<Translation, Fault> {
        let (accessed, dirty) = self.format.used_bits();
        let mut table = 0;
        let mut allowed = Access::all();
        for level in (0..LEVELS).rev() {
            let slot = slot(gfn, level);
            let bits = self.tables[table][slot];
            allowed &= self.format.allows(bits);
            if !allowed.contains(access) {
                return Err(self.fault(access, allowed));
            }
            let write = level == 0 && access.contains(Access::WRITE);
            let used = bits | accessed | if write { dirty } else { 0 };
            self.tables[table][slot] = used;
            if level == 0 {
                let mfn = self
                    .format
                    .entry(bits)
                    .mfn
                    .expect("present without a frame");
                return Ok(Translation {
                    mfn,
                    allowed,
                    dirty: used & dirty != 0,
                });
            }
            table = self
                .format
                .table(bits)
                .expect("a branch that allows something");
        }
        unreachable!("the loop ends at level 0")
    }

    /// Hardware reports a read-modify-write as a write alone.
    fn fault(&self, access: Access, allowed: Access) -> Fault {
        let write = access.contains(Access::WRITE);
        let fetch = access.contains(Access::FETCH);
        match self.format {
            Format::Ept => {
                let mut q = ExitQualification::LINEAR_VALID | ExitQualification::LINEAR_FINAL;
                q.set(ExitQualification::READ, !write && !fetch);
                q.set(ExitQualification::WRITE, write);
                q.set(ExitQualification::FETCH, fetch);
                q.set(
                    ExitQualification::ENTRY_READ,
                    allowed.contains(Access::READ),
                );
                q.set(
                    ExitQualification::ENTRY_WRITE,
                    allowed.contains(Access::WRITE),
                );
                q.set(
                    ExitQualification::ENTRY_EXECUTE,
                    allowed.contains(Access::FETCH),
                );
                Fault::Ept(q)
            }
            Format::Npt => {
                let mut code = NpfErrorCode::USER | NpfErrorCode::FINAL;
                code.set(NpfErrorCode::PRESENT, allowed.contains(Access::READ));
                code.set(NpfErrorCode::WRITE, write);
                code.set(NpfErrorCode::FETCH, fetch);
                Fault::Npt(code)
            }
        }
    }

    fn find(&self, gfn: Gfn) -> Option<(usize, usize)> {
        let mut table = 0;
        for level in (1..LEVELS).rev() {
            table = self.format.table(self.tables[table][slot(gfn, level)])?;
        }
        Some((table, slot(gfn, 0)))
    }
}

fn slot(gfn: Gfn, level: u32) -> usize {
    let slot = (gfn.get() >> (9 * level)) % ENTRIES as u64;
    usize::try_from(slot).expect("below 512")
}

/// An entry without a frame and without a type.
pub(super) const ABSENT: Entry = Entry {
    p2mt: P2mType::Invalid,
    mfn: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sets_the_bits_that_hardware_sets_and_faults_where_it_does() {
        for format in [Format::Ept, Format::Npt] {
            let mut tables = Tables::new(format);
            let (gfn, far) = (Gfn::new_truncate(7), Gfn::new_truncate(0x12_3456_789a));
            let ram = |mfn| Entry {
                p2mt: P2mType::RamRw,
                mfn: Mfn::try_new(mfn),
            };
            assert_eq!(tables.get(gfn), ABSENT);
            assert!(tables.walk(gfn, Access::READ).is_err());
            tables.set(gfn, ram(0));
            tables.set(far, ram(3));
            assert_eq!(tables.used(gfn), (false, false));
            let read = tables.walk(gfn, Access::READ).unwrap();
            assert_eq!((read.mfn, read.dirty), (Mfn::try_new(0).unwrap(), false));
            assert_eq!(tables.used(gfn), (true, false));
            let write = Access::READ | Access::WRITE;
            assert!(tables.walk(far, write).unwrap().dirty);
            assert_eq!(tables.used(far), (true, true));
            tables.set(
                gfn,
                Entry {
                    p2mt: P2mType::RamPagingOut,
                    ..ram(0)
                },
            );
            assert!(tables.walk(gfn, Access::FETCH).is_ok());
            let fault = tables.walk(gfn, write).unwrap_err();
            assert_eq!(fault.access(), write, "{fault:?}");
            assert_eq!(
                tables
                    .walk(Gfn::new_truncate(8), Access::FETCH)
                    .unwrap_err()
                    .access(),
                Access::FETCH
            );
        }
    }
}
