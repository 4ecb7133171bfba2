// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entry of one gfn.

use pager_core::Location;

use crate::{SLOTS_END, Slot};

/// The bits of a location. Slots are below [`SLOTS_END`], which stands for zeros.
const LOCATION: u64 = (1 << 28) - 1;
const ZEROS: u32 = SLOTS_END;
const VALID: u64 = 1 << 28;
const GENERATION_SHIFT: u32 = 29;

/// Where the contents of a page lie that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where they lie.
    pub location: Location,
    /// Grows with each page-out of this gfn.
    pub generation: u64,
    /// The store's checksum of the slot. It means nothing for zeros.
    pub checksum: u64,
}

/// The first word of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// `None`: it is not valid, or names no slot that exists.
    pub(super) fn location(self) -> Option<Location> {
        let value = u32::try_from(self.0 & LOCATION).ok()?;
        match value {
            _ if self.0 & VALID == 0 => None,
            ZEROS => Some(Location::Zeros),
            slot if slot < SLOTS_END => Some(Location::Slot(Slot(slot))),
            _ => None,
        }
    }

    pub(super) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// There is no location; the generation stays.
    pub(super) fn cleared(self) -> Self {
        Self(self.0 & !VALID)
    }

    /// The same page-out, elsewhere.
    pub(super) fn moved(self, location: Location) -> Self {
        let value = location.slot().map_or(ZEROS, |slot| slot.0);
        Self(self.0 & !LOCATION | u64::from(value) & LOCATION)
    }

    /// The next page-out, to this location.
    pub(super) fn next(self, location: Location) -> Self {
        let generation = self.generation().wrapping_add(1) << GENERATION_SHIFT;
        Self(generation | VALID).moved(location)
    }
}
