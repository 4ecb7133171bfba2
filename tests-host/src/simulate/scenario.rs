// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parameters of one run: a seed and a number for each knob, all drawn from the seed.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

macro_rules! knobs {
    ($($(#[$doc:meta])* $name:ident = $label:literal, quiet $quiet:literal, $draw:expr;)*) => {
        /// The parameters. Each has a value at which it injects no fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Knob { $($(#[$doc])* $name,)* }

        /// All knobs.
        pub const KNOBS: &[Knob] = &[$(Knob::$name,)*];

        impl Knob {
            /// The name in a scenario's text.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The value that a shrunk scenario tries.
            pub const fn quiet(self) -> u32 {
                match self { $(Self::$name => $quiet,)* }
            }

            fn draw(self, rng: &mut Rng) -> u32 {
                match self { $(Self::$name => { let draw: fn(&mut Rng) -> u32 = $draw; draw(rng) })* }
            }
        }
    };
}

/// A chance in a thousand that is 0 in two runs out of three: a run with all injected faults at
/// once makes hardly any progress.
fn sometimes(rng: &mut Rng, most: u32) -> u32 {
    if rng.u32(0..3) == 0 {
        rng.u32(1..=most)
    } else {
        0
    }
}

knobs! {
    /// Events until the end, when everything quiesces.
    Steps = "steps", quiet 100, |rng| rng.u32(300..2500);
    /// Pages of the guest.
    Gfns = "gfns", quiet 4, |rng| rng.u32(4..48);
    /// Of these, pages above the hole below 4 GiB.
    High = "high", quiet 0, |rng| sometimes(rng, 8);
    /// Virtual CPUs of the guest.
    Vcpus = "vcpus", quiet 1, |rng| {
        // Sometimes far more than the ring has slots, so that vcpus stay in the wait queue for
        // long.
        let crowd = sometimes(&mut apart(rng, 0x1c), 80).saturating_sub(16);
        let few = if rng.bool() { rng.u32(1..5) } else { rng.u32(5..17) };
        few.max(crowd)
    };
    /// Frames beside those of the guest.
    Spare = "spare", quiet 64, |rng| rng.u32(2..16);
    /// Nested page tables instead of extended ones.
    Npt = "npt", quiet 0, |rng| rng.u32(0..2);
    /// Per cent of the guest that the target leaves resident, at first.
    Target = "target", quiet 50, |rng| rng.u32(5..90);
    /// Pages that the policy spares because they came in lately.
    Mru = "mru", quiet 0, |rng| sometimes(rng, 6);
    /// Which policy, by number.
    Policy = "policy", quiet 0, |rng| rng.u32(0..3);
    /// Reading accessed bits fails, in a thousand parts.
    Unseen = "unseen", quiet 0, |rng| sometimes(rng, 100);
    /// Pages that go out together.
    Batch = "batch", quiet 1, |rng| rng.u32(1..12);
    /// Writes, in a thousand accesses.
    Writes = "writes", quiet 500, |rng| rng.u32(50..900);
    /// Accesses to one of the first two pages, in a thousand.
    Hot = "hot", quiet 0, |rng| sometimes(rng, 900);
    /// Back ends that map pages from outside.
    Mappers = "mappers", quiet 0, |rng| sometimes(rng, 4);
    /// The guest gives pages back and takes others, in a thousand actions.
    Balloon = "balloon", quiet 0, |rng| sometimes(rng, 200);
    /// The toolstack changes something (target, log of writes, pauses), every so many ticks at
    /// most.
    Tools = "tools", quiet 0, |rng| sometimes(rng, 8);
    /// Other domains take the frames that are free.
    Others = "others", quiet 0, |rng| sometimes(rng, 1);
    /// How many times slower the pager is.
    Slow = "slow", quiet 0, |rng| sometimes(rng, 20);
    /// Notifications lost, in a thousand.
    Lost = "lost", quiet 0, |rng| sometimes(rng, 400);
    /// Notifications doubled, in a thousand.
    Doubled = "doubled", quiet 0, |rng| sometimes(rng, 300);
    /// Disk errors, in a thousand.
    Disk = "disk", quiet 0, |rng| sometimes(rng, 200);
    /// Writes that reach the disk only in part, though it reports otherwise, in a thousand.
    Torn = "torn", quiet 0, |rng| sometimes(rng, 30);
    /// Writes that stop short, and are reported so, in a thousand.
    Short = "short", quiet 0, |rng| sometimes(rng, 100);
    /// Pages that the disk holds, in per cent of the guest; 0: all.
    Room = "room", quiet 0, |rng| sometimes(rng, 60);
    /// The hypervisor fails to change an entry or to allocate, in a thousand operations.
    Fails = "fails", quiet 0, |rng| sometimes(rng, 100);
    /// The pager reads from a buffer that faults, in a thousand preps.
    Buffers = "buffers", quiet 0, |rng| sometimes(rng, 200);
    /// How often the pager is killed.
    Kills = "kills", quiet 0, |rng| sometimes(rng, 2);
    /// The guest is destroyed.
    Destroy = "destroy", quiet 0, |rng| sometimes(rng, 1);
    /// Responses that are garbage, in a thousand.
    Hostile = "hostile", quiet 0, |rng| sometimes(rng, 300);
    /// Somebody calls the pager's operations at random.
    Rogue = "rogue", quiet 0, |rng| sometimes(rng, 1);
    /// The pager asks for frames and fills them itself, as in Xen 4.1, in a thousand preps.
    Empty = "empty", quiet 0, |rng| sometimes(rng, 1000);
    /// Another CPU runs where a lock is released, in a thousand.
    Races = "races", quiet 0, |rng| if rng.bool() { rng.u32(10..500) } else { 0 };
    /// What the guest writes is zeros, in a thousand writes.
    Zeros = "zeros", quiet 0, |rng| sometimes(rng, 500);
    /// One of the store's two areas is drained, or added again, once in this many ticks; 0: there
    /// is one area, for good.
    Areas = "areas", quiet 0, |rng| sometimes(&mut apart(rng, 0xa2), 4);
    /// CPUs that the vcpus share; 0: each has its own.
    Cpus = "cpus", quiet 0, |rng| sometimes(&mut apart(rng, 0xc0), 4);
    /// Tasks that the guest's vcpus run; 0: vcpus have no tasks.
    Tasks = "tasks", quiet 0, |rng| sometimes(&mut apart(rng, 0x7a), 12);
    /// The guest has a kernel that pages by itself, with this many processes; 0: its vcpus access
    /// pages at random, or run tasks.
    Kernel = "kernel", quiet 0, |rng| {
        let rng = &mut apart(rng, 0xc9);
        if rng.u32(0..4) == 0 { rng.u32(1..4) } else { 0 }
    };
    /// Writes of the guest whose contents other pages have, too, in a thousand; the store
    /// deduplicates.
    Alike = "alike", quiet 0, |rng| sometimes(&mut apart(rng, 0xa1), 900);
    /// The pager has an index that survives it. If it is killed, another one takes over.
    Index = "index", quiet 0, |rng| u32::from(sometimes(&mut apart(rng, 0x1d), 1) > 0);
    /// With an index: the pager is killed after an action, in ten thousand of its actions.
    Deaths = "deaths", quiet 0, |rng| apart(rng, 0xde).u32(5..60);
    /// With an index: the pager is killed after the action of this number; 0: after none.
    Death = "death", quiet 0, |_| 0;
}

/// Later knobs are drawn apart, so that the rest of a seed's scenario stays the same.
fn apart(rng: &Rng, knob: u64) -> Rng {
    Rng::with_seed(rng.get_seed() ^ knob)
}

/// The knobs that make somebody wait for longer than until its turn.
const TROUBLES: &[Knob] = &[
    Knob::Tools,
    Knob::Others,
    Knob::Slow,
    Knob::Lost,
    Knob::Disk,
    Knob::Torn,
    Knob::Short,
    Knob::Fails,
    Knob::Buffers,
    Knob::Kills,
    Knob::Deaths,
    Knob::Death,
    Knob::Hostile,
    Knob::Rogue,
    Knob::Empty,
];

/// Pages that a kernel needs, and pages for each process.
const KERNEL_GFNS: u32 = 16;
const PROCESS_GFNS: u32 = 12;
/// Vcpus that a kernel with a few processes can keep busy.
const KERNEL_VCPUS: u32 = 4;

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The seed of its random choices.
    pub seed: u64,
    values: [u32; KNOBS.len()],
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5ca1_ab1e);
        let mut scenario = Self {
            seed,
            values: [0; KNOBS.len()],
        };
        for knob in KNOBS {
            scenario.set(*knob, knob.draw(&mut rng));
        }
        if rng.u32(0..4) == 0 {
            TROUBLES
                .iter()
                .for_each(|knob| scenario.set(*knob, knob.quiet()));
        }
        scenario.made_possible()
    }

    /// Separates what cannot be together: if a pager is killed, or answers with garbage, between
    /// taking an empty frame and filling it, it loses the page, and nobody can know. A pager with an
    /// index has a pager that takes over.
    fn made_possible(mut self) -> Self {
        if self.get(Knob::Index) > 0 {
            self.set(Knob::Kills, 0);
            self.set(Knob::Empty, 0);
        } else {
            self.set(Knob::Deaths, 0);
            self.set(Knob::Death, 0);
        }
        if self.get(Knob::Kills) + self.get(Knob::Hostile) > 0 {
            self.set(Knob::Empty, 0);
        }
        let processes = self.get(Knob::Kernel);
        if processes > 0 {
            let least = KERNEL_GFNS + PROCESS_GFNS * processes;
            self.set(Knob::Gfns, self.get(Knob::Gfns).max(least));
            self.set(Knob::Vcpus, self.get(Knob::Vcpus).min(KERNEL_VCPUS));
            // Its processes are its tasks.
            self.set(Knob::Tasks, 0);
        }
        let high = self.get(Knob::High).min(self.get(Knob::Gfns) - 1);
        self.set(Knob::High, high);
        self
    }

    /// A small scenario of a seed, with an index and without deaths.
    pub fn to_kill_everywhere(seed: u64) -> Self {
        let mut scenario = Self::of_seed(seed);
        let mut rng = Rng::with_seed(seed ^ 0x0dea_d1e5);
        scenario.set(Knob::Index, 1);
        for knob in [Knob::Deaths, Knob::Destroy, Knob::Kernel] {
            scenario.set(knob, 0);
        }
        for (knob, most) in [
            (Knob::Steps, rng.u32(60..200)),
            (Knob::Gfns, rng.u32(4..12)),
            // Sometimes more than the ring has slots.
            (Knob::Vcpus, rng.u32(1..14)),
            (Knob::Tasks, 3),
            (Knob::Slow, 2),
        ] {
            scenario.set(knob, scenario.get(knob).min(most));
        }
        scenario.made_possible()
    }

    /// A knob's value.
    pub fn get(&self, knob: Knob) -> u32 {
        self.values[knob as usize]
    }

    /// Sets a knob.
    pub fn set(&mut self, knob: Knob, value: u32) {
        self.values[knob as usize] = value;
    }

    /// Whether nothing delays the pager's service, except the number of those who wait.
    pub fn is_healthy(&self) -> bool {
        TROUBLES.iter().all(|knob| self.get(*knob) == knob.quiet())
    }

    /// Scenarios that are simpler than this one, simplest first.
    pub fn simpler(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for knob in KNOBS {
            let (value, quiet) = (self.get(*knob), knob.quiet());
            // To its quiet value at once, half of the way, one step.
            let towards = [
                quiet,
                value.midpoint(quiet),
                if value > quiet { value - 1 } else { value },
            ];
            for to in towards {
                let mut simpler = *self;
                simpler.set(*knob, to);
                let simpler = simpler.made_possible();
                if simpler != *self && !all.contains(&simpler) {
                    all.push(simpler);
                }
            }
        }
        all
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        for knob in KNOBS {
            if self.get(*knob) != knob.quiet() {
                write!(f, ",{}={}", knob.label(), self.get(*knob))?;
            }
        }
        Ok(())
    }
}

/// The reason why a text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not NAME=NUMBER with one of the names that a failure prints")]
pub struct NoScenario(String);

impl FromStr for Scenario {
    type Err = NoScenario;

    fn from_str(text: &str) -> Result<Self, NoScenario> {
        let mut scenario = Self {
            seed: 0,
            values: [0; KNOBS.len()],
        };
        for knob in KNOBS {
            scenario.set(*knob, knob.quiet());
        }
        for part in text.split(',') {
            let wrong = || NoScenario(part.into());
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            if name == "seed" {
                scenario.seed = value.parse().map_err(|_| wrong())?;
                continue;
            }
            let knob = KNOBS
                .iter()
                .find(|knob| knob.label() == name)
                .ok_or_else(wrong)?;
            scenario.set(*knob, value.parse().map_err(|_| wrong())?);
        }
        if scenario.get(Knob::Gfns) == 0 || !(1..=64).contains(&scenario.get(Knob::Vcpus)) {
            return Err(NoScenario(text.into()));
        }
        Ok(scenario.made_possible())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_its_text() {
        for seed in 0..500 {
            let scenario = Scenario::of_seed(seed);
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
        }
        for wrong in [
            "",
            "seed",
            "seed=x",
            "seed=1,speed=2",
            "seed=1,vcpus=0",
            "seed=1,gfns=0",
        ] {
            assert!(wrong.parse::<Scenario>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shrinking_ends() {
        let mut scenario = Scenario::of_seed(3);
        let mut rounds = 0;
        while let Some(simpler) = scenario.simpler().into_iter().next() {
            scenario = simpler;
            rounds += 1;
            assert!(rounds < 10_000);
        }
        assert!(KNOBS.iter().all(|knob| scenario.get(*knob) == knob.quiet()));
    }
}
