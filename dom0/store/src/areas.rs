// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several swap areas as one store (row C5).
//!
//! Each area has its own range of slot numbers, so one number names both the area and the place in
//! it. The core chooses the area for a page, by priority. Areas can be added and removed while the
//! store is in use. An area that is removed stays open until the calls in flight have ended.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use uuid::Uuid;

use super::area::{self, Header, SwapAreaError};
use super::pagefile::Pagefile;
use super::{
    Fill, IoCounts, Outcome, PageBuf, PageStore, SLOTS_END, SaveOutcome, Slot, SlotRange,
    StoreError, Write,
};

/// The most areas of one store (`MAX_SWAPFILES`): the area of a slot is found by a search through
/// all.
const MAX_AREAS: usize = 32;
/// The first slot of each area is a multiple of this.
const ALIGN: u32 = 64;

/// An area as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaChoice {
    /// The file or device.
    pub path: PathBuf,
    /// Areas of a higher priority are filled first. Areas of the same priority take turns.
    pub priority: i32,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Areas {
    list: RwLock<List>,
}

#[derive(Debug, Default)]
struct List {
    /// Ordered by their slots.
    areas: Vec<Arc<Area>>,
    /// The counts of areas that have been removed.
    past: IoCounts,
}

#[derive(Debug)]
struct Area {
    range: SlotRange,
    uuid: Uuid,
    pages: Pagefile,
}

impl Areas {
    /// Claims all areas for this process alone.
    pub fn claim(choices: &[AreaChoice]) -> Result<Self, SwapAreaError> {
        let areas = Self::default();
        for choice in choices {
            let (file, header) = area::claim(&choice.path)?;
            areas.add(file, header, choice)?;
        }
        Ok(areas)
    }

    /// Adds an area that has been claimed, and returns its slots. If the area is larger than the
    /// slot numbers that are left, its end is not used.
    pub fn add(
        &self,
        file: File,
        header: Header,
        choice: &AreaChoice,
    ) -> Result<SlotRange, SwapAreaError> {
        let mut list = self.list.write();
        let place = list.place_for(header.slots);
        let (at, first, slots) = place.ok_or_else(|| SwapAreaError::TooMany {
            path: choice.path.clone(),
        })?;
        let range = SlotRange {
            first,
            slots,
            priority: choice.priority,
        };
        let area = Area {
            range,
            uuid: header.uuid,
            pages: Pagefile::in_area(file, choice.path.clone(), first),
        };
        list.areas.insert(at, Arc::new(area));
        Ok(range)
    }

    /// Removes an area, none of whose slots may be in use. Its lock is released once no call is in
    /// flight in it.
    pub fn remove(&self, range: SlotRange) {
        let list = &mut *self.list.write();
        let gone = |area: &mut Arc<Area>| area.range.first == range.first;
        for area in list.areas.extract_if(.., gone) {
            list.past = list.past + area.pages.counts();
        }
    }

    /// The slots of the area with this UUID.
    pub fn find(&self, uuid: Uuid) -> Option<SlotRange> {
        let list = self.list.read();
        let mut areas = list.areas.iter();
        areas.find(|area| area.uuid == uuid).map(|area| area.range)
    }

    /// The slots of each area.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let list = self.list.read();
        list.areas.iter().map(|area| area.range).collect()
    }

    /// The path of the area in which a slot lies, as the command line named it.
    pub fn path(&self, slot: Slot) -> Option<PathBuf> {
        self.area(slot).map(|area| area.pages.path().to_owned())
    }

    fn area(&self, slot: Slot) -> Option<Arc<Area>> {
        let list = self.list.read();
        let mut areas = list.areas.iter();
        areas.find(|area| area.range.contains(slot)).cloned()
    }

    /// The areas in which these writes are. No other area is kept open: one that has been removed is free
    /// for others at once.
    fn written(&self, writes: &[Write]) -> Vec<Arc<Area>> {
        let list = self.list.read();
        let is_written = |area: &&Arc<Area>| {
            let mut slots = writes.iter().map(|write| write.slot);
            slots.any(|slot| area.range.contains(slot))
        };
        list.areas.iter().filter(is_written).cloned().collect()
    }

    /// Splits a list into the stretches that lie in one area each, or in no area.
    fn runs(
        &self,
        slot: impl Fn(usize) -> Slot,
        count: usize,
        mut each: impl FnMut(Option<&Pagefile>, std::ops::Range<usize>),
    ) {
        let mut first = 0;
        while first < count {
            let area = self.area(slot(first));
            let is_in = |n: &usize| match &area {
                Some(area) => area.range.contains(slot(*n)),
                None => false,
            };
            let end = first + 1 + (first + 1..count).take_while(is_in).count();
            each(area.as_ref().map(|area| &area.pages), first..end);
            first = end;
        }
    }
}

impl List {
    /// The first gap for this many slots, else the numbers behind the last area. Returns the index
    /// in the list, the first slot, and the number of slots.
    fn place_for(&self, slots: u32) -> Option<(usize, Slot, u32)> {
        if self.areas.len() == MAX_AREAS {
            return None;
        }
        let mut first = 0_u32;
        for (at, area) in self.areas.iter().enumerate() {
            if area.range.first.0 - first >= slots {
                return Some((at, Slot(first), slots));
            }
            first = area.range.end().next_multiple_of(ALIGN);
        }
        let left = SLOTS_END.saturating_sub(first).min(slots);
        (left > 0).then_some((self.areas.len(), Slot(first), left))
    }
}

impl PageStore for Areas {
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]) {
        let slot = |n: usize| writes[n].slot;
        self.runs(slot, writes.len(), |area, run| {
            let outcomes = &mut outcomes[run.clone()];
            let mut fill = |n: usize, pages: &mut [PageBuf]| fill(run.start + n, pages);
            match area {
                Some(area) => area.write(&writes[run.clone()], &mut fill, outcomes),
                None => outcomes.fill(Err(StoreError::Full)),
            }
        });
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        let slot = |n: usize| slots[n];
        self.runs(slot, slots.len(), |area, run| {
            let (slots, outcomes) = (&slots[run.clone()], &mut outcomes[run.clone()]);
            match area {
                Some(area) => area.read(slots, &mut pages[run], outcomes),
                None => outcomes.fill(Err(StoreError::Empty { slot: slots[0] })),
            }
        });
    }

    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        let slot = |n: usize| slots[n];
        self.runs(slot, slots.len(), |area, run| {
            let (slots, outcomes) = (&slots[run.clone()], &mut outcomes[run.clone()]);
            match area {
                Some(area) => area.read_at_once(slots, &mut pages[run], outcomes),
                None => outcomes.fill(None),
            }
        });
    }

    fn free(&self, slot: Slot) {
        if let Some(area) = self.area(slot) {
            area.pages.free(slot);
        }
    }

    /// Each area is flushed once. Linux reports an error of writing back only once for each open file:
    /// a second flush would succeed, and its pages be taken for saved.
    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]) {
        // No lock is held while a device is waited for.
        for area in self.written(writes) {
            let is_in = |n: &usize| area.range.contains(writes[*n].slot);
            let places: Vec<_> = (0..writes.len()).filter(is_in).collect();
            let writes: Vec<_> = places.iter().map(|n| writes[*n]).collect();
            let mut flushed: Vec<_> = places.iter().map(|n| outcomes[*n]).collect();
            area.pages.flush(&writes, &mut flushed);
            for (n, outcome) in places.into_iter().zip(flushed) {
                outcomes[n] = outcome;
            }
        }
    }

    fn counts(&self) -> IoCounts {
        let list = self.list.read();
        let areas = list.areas.iter().map(|area| area.pages.counts());
        areas.fold(list.past, |sum, counts| sum + counts)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Saved;
    use crate::testing::{page, read, round_trips, write, writes};
    use p2m_paging::PAGE_SIZE;
    use rustix::io::Errno;
    use std::sync::atomic::Ordering;

    fn choice(dir: &Path, n: i32, pages: u64) -> AreaChoice {
        let path = dir.join(format!("area{n}"));
        area::make(&path, Some((pages + 1) * PAGE_SIZE as u64)).unwrap();
        AreaChoice { path, priority: n }
    }

    fn areas(pages: &[u64]) -> (tempfile::TempDir, Areas) {
        let dir = tempfile::tempdir().unwrap();
        let choices: Vec<_> = (0..)
            .zip(pages)
            .map(|(n, pages)| choice(dir.path(), n, *pages))
            .collect();
        let areas = Areas::claim(&choices).unwrap();
        (dir, areas)
    }

    #[test]
    fn c5_pages_come_back_as_they_were_written() {
        let (_dir, areas) = areas(&[3000, 600_000]);
        round_trips(&areas);
    }

    #[test]
    fn c5_a_slot_says_which_area_and_where_in_it() {
        let (_dir, areas) = areas(&[64, 70, 5]);
        let ranges = areas.ranges();
        let firsts: Vec<_> = ranges.iter().map(|r| (r.first.0, r.slots)).collect();
        assert_eq!(firsts, [(0, 64), (64, 70), (192, 5)]);
        // One call crosses all borders between areas.
        let slots: Vec<_> = (192..197).chain((0..134).rev()).map(Slot).collect();
        let outcomes = write(&areas, &slots);
        assert_eq!(outcomes, vec![Ok(Saved::Written); slots.len()]);
        let (pages, outcomes) = read(&areas, &slots);
        for ((slot, found), outcome) in slots.iter().zip(pages).zip(outcomes) {
            assert!(outcome == Ok(()) && found.0 == page(slot.0).0, "{slot:?}");
        }
        areas.free(Slot(64));
        let empty = |slot| Err(StoreError::Empty { slot });
        let (_, outcomes) = read(&areas, &[63, 64, 65, 150].map(Slot));
        assert_eq!(
            outcomes,
            [Ok(()), empty(Slot(64)), Ok(()), empty(Slot(150))]
        );
        assert_eq!(write(&areas, &[Slot(150)]), [Err(StoreError::Full)]);
        assert_eq!(areas.counts().pages_written, 139);
        assert!(areas.path(Slot(192)).unwrap().ends_with("area2"));
        assert_eq!(areas.path(Slot(197)), None);
    }

    #[test]
    fn c5_an_area_that_is_gone_makes_room_for_another() {
        let (dir, areas) = areas(&[64, 70, 5]);
        let [_, second, third] = areas.ranges()[..] else {
            panic!("three")
        };
        write(&areas, &[Slot(64), Slot(192)]);
        areas.remove(second);
        assert_eq!(areas.ranges().len(), 2);
        assert_eq!(areas.counts().pages_written, 2, "what was is not forgotten");
        let path = dir.path().join("area1");
        let (_, used) = area::look(&path).unwrap();
        assert!(!used, "the lock went with it");
        let choice = choice(dir.path(), 7, 100);
        let (file, header) = area::claim(&choice.path).unwrap();
        assert_eq!(areas.find(header.uuid), None);
        let range = areas.add(file, header, &choice).unwrap();
        assert_eq!((range.first, range.slots), (Slot(64), 100));
        assert_eq!(areas.find(header.uuid), Some(range));
        let empty = |slot| Err(StoreError::Empty { slot });
        let (pages, outcomes) = read(&areas, &[Slot(64), Slot(192)]);
        assert_eq!(outcomes, [empty(Slot(64)), Ok(())]);
        assert!(pages[1].0 == page(192).0);
        assert_eq!(areas.ranges()[2], third);
    }

    /// Linux reports an error of writing back once for each open file. A batch goes to and fro between
    /// areas; whatever the device lost, no page of its area may be said to be saved.
    #[test]
    fn c5_an_area_is_flushed_once_and_its_failure_fails_all_its_pages() {
        let (_dir, areas) = areas(&[64, 64, 64]);
        let slots: Vec<_> = [0, 1, 64, 65, 2, 66, 3].map(Slot).into();
        let mut outcomes = write(&areas, &slots);
        let lost = Slot(2);
        areas.area(lost).unwrap().pages.lose(&[lost], Errno::IO);
        areas.flush(&writes(&slots), &mut outcomes);
        let (_, found) = read(&areas, &slots);
        for ((slot, outcome), found) in slots.iter().zip(outcomes).zip(found) {
            if outcome.is_ok() {
                assert_eq!(found, Ok(()), "{slot:?} is said to be saved");
            }
            assert_eq!(outcome.is_err(), slot.0 < 64, "{slot:?}: {outcome:?}");
        }
        let list = areas.list.read();
        let syncs = list.areas.iter().map(|area| &area.pages.device.syncs);
        let syncs: Vec<_> = syncs.map(|syncs| syncs.load(Ordering::Relaxed)).collect();
        assert_eq!(syncs, [1, 1, 0]);
    }

    /// The store worker flushes another area, which may take long, while an area is removed.
    #[test]
    fn c5_a_removed_area_is_free_while_another_is_flushed() {
        let (dir, areas) = areas(&[64, 64]);
        let [first, _] = areas.ranges()[..] else {
            panic!("two")
        };
        let flushed = areas.written(&writes(&[Slot(64), Slot(65)]));
        areas.remove(first);
        let (_, used) = area::look(&dir.path().join("area0")).unwrap();
        assert!(!used, "the area that was removed is in use");
        assert_eq!(flushed.len(), 1);
    }

    /// The headers must be intact, and the files no longer than they were made.
    #[test]
    fn c5_slots_stay_between_header_and_end() {
        let (dir, areas) = areas(&[3, 3]);
        write(&areas, &[0, 1, 2, 64, 65, 66].map(Slot));
        drop(areas);
        for name in ["area0", "area1"] {
            let path = dir.path().join(name);
            assert_eq!(path.metadata().unwrap().len(), 4 * PAGE_SIZE as u64);
            assert_eq!(area::claim(&path).unwrap().1.slots, 3);
        }
    }

    #[test]
    fn c5_the_same_area_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let choice = choice(dir.path(), 0, 3);
        let error = Areas::claim(&[choice.clone(), choice]).unwrap_err();
        assert!(matches!(error, SwapAreaError::InUse { .. }), "{error}");
    }

    #[test]
    fn c5_there_is_an_end_to_areas_and_to_slots() {
        let dir = tempfile::tempdir().unwrap();
        let max = i32::try_from(MAX_AREAS).unwrap();
        let choices: Vec<_> = (0..=max).map(|n| choice(dir.path(), n, 3)).collect();
        assert_eq!(Areas::claim(&choices[1..]).unwrap().ranges().len(), 32);
        let error = Areas::claim(&choices).unwrap_err();
        assert!(matches!(error, SwapAreaError::TooMany { .. }), "{error}");
        // Of an area that has more pages than there are numbers left, only a part is used.
        let areas = Areas::claim(&choices[..1]).unwrap();
        let claimed = |n: usize| {
            let (file, header) = area::claim(&choices[n].path).unwrap();
            let slots = u32::MAX;
            (file, Header { slots, ..header })
        };
        let (file, header) = claimed(1);
        let range = areas.add(file, header, &choices[1]).unwrap();
        assert_eq!((range.first, range.end()), (Slot(64), SLOTS_END));
        let (file, header) = claimed(2);
        let error = areas.add(file, header, &choices[2]).unwrap_err();
        assert!(matches!(error, SwapAreaError::TooMany { .. }), "{error}");
    }
}
