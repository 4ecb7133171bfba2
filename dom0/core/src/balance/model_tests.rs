// SPDX-License-Identifier: MIT OR Apache-2.0
//! The balance in a loop: a host, guests that follow their targets as fast as a pager does, and others that take memory and go.

use proptest::prelude::*;

use super::*;

const MARKS: Watermarks = Watermarks {
    min: 2000,
    low: 4000,
    high: 8000,
};

struct Host {
    /// All but what others have.
    memory: u64,
    guests: Vec<Guest>,
    /// Pages that a guest's pager moves from one look to the next.
    rate: u64,
    balance: Balance,
    allocation: Allocation,
}

impl Host {
    fn new(memory: u64, guests: Vec<Guest>) -> Self {
        let balance = Balance::new(MARKS, Tax::default());
        Self {
            memory,
            guests,
            rate: 3000,
            balance,
            allocation: Allocation::default(),
        }
    }

    fn free(&self) -> u64 {
        let held: u64 = self.guests.iter().map(|guest| guest.resident).sum();
        self.memory.saturating_sub(held)
    }

    fn update(&mut self) {
        self.allocation = self.balance.update(self.free(), &self.guests);
        for n in 0..self.guests.len() {
            let free = self.free();
            let guest = &mut self.guests[n];
            let goal = self.allocation.resident[n]
                .unwrap_or(u64::MAX)
                .min(guest.demand_pages());
            let down = guest.resident.saturating_sub(goal).min(self.rate);
            // What cannot go stays.
            let down = down.min(guest.resident.saturating_sub(guest.floor));
            let up = goal.saturating_sub(guest.resident).min(self.rate).min(free);
            guest.resident = guest.resident - down + up;
            // Idle pages go first.
            guest.used = guest.used.map(|used| used.min(guest.resident));
        }
    }

    fn looks(&mut self, count: u32) {
        for _ in 0..count {
            self.update();
        }
    }

    fn resident(&self) -> Vec<u64> {
        self.guests.iter().map(|guest| guest.resident).collect()
    }
}

fn guest(id: u32, pages: u64, used: u64) -> Guest {
    Guest {
        id,
        size: pages,
        resident: pages,
        target: None,
        share: 100,
        used: Some(used),
        floor: pages / 100,
    }
}

#[test]
fn a_newcomer_is_made_room_for_by_the_idle_one_and_its_memory_comes_back_when_it_goes() {
    let mut host = Host::new(
        110_000,
        vec![guest(1, 50_000, 45_000), guest(2, 50_000, 5000)],
    );
    host.looks(20);
    assert_eq!(
        host.resident(),
        [50_000, 50_000],
        "10,000 are free: nobody is asked"
    );
    host.memory -= 9000;
    host.looks(200);
    assert_eq!(
        (host.resident()[0], host.free()),
        (50_000, 8000),
        "the idle one made room"
    );
    host.memory -= 20_000;
    host.looks(400);
    assert_eq!((host.resident()[0], host.free()), (50_000, 8000));
    host.memory += 29_000;
    host.looks(400);
    assert_eq!(host.resident(), [50_000, 50_000]);
    assert_eq!(host.allocation.resident, [None, None], "nobody is held");
}

#[test]
fn equals_end_equal_whoever_was_there_first() {
    let mut host = Host::new(70_000, vec![guest(1, 40_000, 40_000)]);
    host.looks(10);
    host.guests.push(Guest {
        resident: 29_000,
        ..guest(2, 40_000, 40_000)
    });
    host.looks(2000);
    let resident = host.resident();
    assert!(
        resident[0] * 4 <= resident[1] * 5 && resident[1] * 4 <= resident[0] * 5,
        "{resident:?}"
    );
    assert!(
        (MARKS.low..=MARKS.high).contains(&host.free()),
        "{}",
        host.free()
    );
}

#[test]
fn who_becomes_busy_gets_memory_from_who_has_become_idle() {
    let mut host = Host::new(
        70_000,
        vec![guest(1, 40_000, 36_000), guest(2, 40_000, 2000)],
    );
    host.looks(500);
    let before = host.resident();
    assert!(before[0] > before[1], "{before:?}");
    host.guests[0].used = Some(2000);
    host.guests[1].used = Some(before[1]);
    for _ in 0..2000 {
        host.update();
        let busy = &mut host.guests[1];
        busy.used = Some(busy.resident);
    }
    let after = host.resident();
    assert!(after[1] > after[0], "{before:?} -> {after:?}");
    host.looks(100);
    assert_eq!(host.resident(), after, "and then it stays");
}

#[test]
fn one_pays_with_its_reserve_when_there_is_nothing_else() {
    let mut host = Host::new(
        110_000,
        vec![guest(1, 50_000, 40_000), guest(2, 50_000, 100)],
    );
    host.memory = 13_000;
    let mut notices = Vec::new();
    for _ in 0..300 {
        host.update();
        notices.extend(host.allocation.event);
    }
    assert!(
        matches!(
            notices[..],
            [BalanceEvent::VictimChosen(Victim { id: 2, .. })]
        ),
        "{notices:?}"
    );
    assert_eq!(host.resident()[1], host.guests[1].floor);
    assert!(
        host.resident()[0] >= 6000,
        "the other one keeps its reserve: {:?}",
        host.resident()
    );
}

#[derive(Clone, Debug)]
enum Change {
    Memory(u64),
    Comes(u64),
    Goes(usize),
    Uses(usize, u64),
    Target(usize, Option<u64>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0_u64..400_000).prop_map(Change::Memory),
        (100_u64..60_000).prop_map(Change::Comes),
        (0_usize..8).prop_map(Change::Goes),
        (0_usize..8, 0_u64..60_000).prop_map(|(n, used)| Change::Uses(n, used)),
        (0_usize..8, proptest::option::of(0_u64..60_000))
            .prop_map(|(n, pages)| Change::Target(n, pages)),
    ]
}

proptest! {
    #[test]
    fn whoever_comes_and_goes_it_settles_as_it_should(
        changes in proptest::collection::vec((change(), 1_u32..200), 1..12), rate in 33_u64..5000
    ) {
        let mut host = Host::new(200_000, vec![guest(1, 30_000, 10_000)]);
        host.rate = rate;
        for (id, (change, looks)) in (2..).zip(changes) {
            let count = host.guests.len();
            match change {
                Change::Memory(pages) => host.memory = pages,
                Change::Comes(pages) if count < 8 => {
                    let resident = pages.min(host.free());
                    host.guests.push(Guest { resident, ..guest(id, pages, resident / 2) });
                }
                Change::Goes(n) if n < count && count > 1 => drop(host.guests.remove(n)),
                Change::Uses(n, used) if n < count => host.guests[n].used = Some(used),
                Change::Target(n, target) if n < count => host.guests[n].target = target,
                _ => {}
            }
            host.looks(looks);
            for guest in &host.guests {
                prop_assert!(guest.resident >= guest.floor.min(guest.size) || guest.resident < guest.size);
            }
        }
        host.looks(6000);
        let (settled, free) = (host.resident(), host.free());
        for _ in 0..50 {
            host.update();
            prop_assert_eq!(host.resident(), settled.clone());
        }
        let all_home = host.guests.iter().all(|guest| guest.resident >= guest.demand_pages());
        let reserves: u64 = host.guests.iter().map(|guest| guest.resident.saturating_sub(reserved_pages(guest, false))).sum();
        prop_assert!(free >= MARKS.low || reserves == 0, "{free} free, {reserves} could be had");
        prop_assert!(free <= MARKS.high || all_home, "{free} free, and somebody is short");
    }
}
