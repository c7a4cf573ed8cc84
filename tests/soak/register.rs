//! A value that one worker alone writes: what is read is what was acknowledged last, or what may still have come about.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::tally::Promise;
use crate::world::{Ended, World};

/// For how long a write that nobody heard of may still be applied: longer than any server stands still.
const PENDING: Duration = Duration::from_secs(15);

/// Writes are numbered; zero is none.
pub(crate) struct Register {
    pub(crate) name: String,
    next: u64,
    acked: u64,
    // Writes that were not acknowledged: a server that stood still may take them later. When they were made.
    maybe: HashMap<u64, Instant>,
    // Before the call that was acknowledged, and before the one that is under way.
    acked_at: u64,
    asked_at: u64,
}

impl Register {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let maybe = HashMap::new();
        Self { name: name.into(), next: 0, acked: 0, maybe, acked_at: 0, asked_at: 0 }
    }

    /// Before each call: a failover from here on may lose what it is answered.
    pub(crate) fn ask(&mut self, world: &World) {
        self.asked_at = world.lost.now();
    }

    /// The number of the next write.
    pub(crate) fn number(&mut self, world: &World) -> u64 {
        self.ask(world);
        self.next += 1;
        self.next
    }

    /// The next value, with its number. Most are small; some do not fit into one packet.
    pub(crate) fn value(&mut self, world: &World, random: &mut fastrand::Rng) -> (u64, String) {
        let number = self.number(world);
        let more = match random.u32(..400) {
            0 => 300_000,
            1..20 => random.usize(..20_000),
            _ => random.usize(..200),
        };
        (number, format!("{}|{number}|{}", self.name, "x".repeat(more)))
    }

    /// A write of this number, zero for a deletion, ended.
    pub(crate) fn wrote(&mut self, number: u64, ended: Ended) {
        match ended {
            Ended::Acked => {
                self.acked = number;
                self.acked_at = self.asked_at;
                self.maybe.retain(|_, made| made.elapsed() < PENDING);
            }
            Ended::Unknown => _ = self.maybe.insert(number, Instant::now()),
            Ended::Refused => {}
        }
    }

    /// Judges text that was read.
    pub(crate) fn saw(&mut self, world: &World, value: Option<&str>) {
        match value {
            None => self.saw_number(world, None),
            Some(value) => match value.split('|').collect::<Vec<_>>()[..] {
                [name, number, _] => match number.parse() {
                    Ok(number) => self.saw_number(world, Some((name, number))),
                    Err(_) => self.is_foreign(world, name),
                },
                _ => self.is_foreign(world, "something else"),
            },
        }
    }

    fn is_foreign(&self, world: &World, name: &str) {
        world.broke(Promise::Foreign, format_args!("{} was asked for, {name} came", self.name));
    }

    /// Judges the name and the number of what was read.
    pub(crate) fn saw_number(&mut self, world: &World, seen: Option<(&str, u64)>) {
        let number = match seen {
            None => 0,
            Some((name, number)) if name == self.name => number,
            Some((name, _)) => return self.is_foreign(world, name),
        };
        if number == self.acked {
            // Confirmed: nothing before it was lost.
            self.acked_at = self.acked_at.max(self.asked_at);
        } else if !self.maybe.contains_key(&number) {
            let (name, acked) = (&self.name, self.acked);
            let seen = format_args!("{name} was {number} after {acked} was acknowledged");
            let lost = number <= self.next && world.lost.since(self.acked_at);
            world.tally.broke(Promise::Impossible, lost, seen);
            // What a failover left is what there is now.
            self.acked = number;
            self.acked_at = self.asked_at;
        }
    }

    /// What the value may be at the moment: whether there is one, if that is certain.
    pub(crate) fn is_there(&self) -> Option<bool> {
        let there = self.acked != 0;
        self.maybe.keys().all(|number| (*number != 0) == there).then_some(there)
    }

    /// Whether no failover can have lost what was acknowledged, to this moment.
    pub(crate) fn is_certain(&self, world: &World) -> bool {
        !world.lost.since(self.acked_at)
    }

    /// Judges an answer that says whether there is a value.
    pub(crate) fn saw_whether(&mut self, world: &World, there: bool) {
        if self.is_there() == Some(!there) {
            world.broke_or_lost(
                Promise::Wrong,
                self.acked_at,
                format_args!("{} was said to be there: {there}", self.name),
            );
        }
    }
}
