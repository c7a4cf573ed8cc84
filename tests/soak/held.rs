//! Who holds a lock, as far as this process knows: no more than may are valid at the same time, and tokens rise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use larder::LockWatcher;

use crate::tally::Promise;
use crate::world::World;

pub(crate) struct Held {
    name: &'static str,
    // Of those who share it.
    most: usize,
    // Whether no failover excuses two holders.
    outlives_failovers: bool,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    next: u64,
    all: HashMap<u64, Holder>,
    last_token: u64,
    // From before it was given.
    token_mark: u64,
}

/// For how long somebody holds a lock.
#[derive(Clone)]
pub(crate) enum Until {
    /// Its guard is not valid any more.
    Lost(LockWatcher),
    /// A lock without a guard, whose lease is over then.
    Over(Instant),
}

impl Until {
    fn holds(&self) -> bool {
        match self {
            Self::Lost(guard) => guard.is_valid(),
            Self::Over(end) => Instant::now() < *end,
        }
    }

    fn token(&self) -> Option<u64> {
        match self {
            Self::Lost(guard) => guard.fencing_token(),
            Self::Over(_) => None,
        }
    }
}

struct Holder {
    until: Until,
    shares: bool,
    mark: u64,
}

/// One holder; not any more when it is dropped.
pub(crate) struct Stay {
    of: Arc<Held>,
    number: u64,
}

impl Held {
    /// A lock that is held alone, or shared by at most so many.
    pub(crate) fn new(name: &'static str, most: usize) -> Arc<Self> {
        Arc::new(Self { name, most, outlives_failovers: false, holders: Mutex::default() })
    }

    /// A lock of which a replica knows that takes over.
    pub(crate) fn that_outlives_failovers(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, most: 1, outlives_failovers: true, holders: Mutex::default() })
    }

    /// Somebody got the lock, who asked for it when the mark was set. What is asked of the others is asked while it is
    /// held itself.
    pub(crate) fn enter(
        self: &Arc<Self>,
        world: &World,
        until: Until,
        shares: bool,
        mark: u64,
    ) -> Stay {
        let mut holders = self.holders.lock().unwrap();
        let valid: Vec<&Holder> = holders.all.values().filter(|one| one.until.holds()).collect();
        let sharing = valid.iter().filter(|one| one.shares).count();
        let alone = valid.len() - sharing;
        let too_many = alone > 0 || (!shares && sharing > 0) || sharing >= self.most.max(1);
        if too_many && until.holds() {
            let marks = valid.iter().map(|one| one.mark).chain([mark]);
            let lost = marks.into_iter().any(|mark| world.lost.since(mark));
            let lost = lost && !self.outlives_failovers;
            let seen = format_args!(
                "{} by {sharing} who share and {alone} alone, and one more",
                self.name
            );
            world.tally.broke(Promise::Overlap, lost, seen);
        }
        if let Some(token) = until.token() {
            // Guards are handed to their callers in any order: who is valid no more may come late.
            if until.holds() && token <= holders.last_token {
                let lost = world.lost.since(holders.token_mark) && !self.outlives_failovers;
                let seen = format_args!("{}: {token} after {}", self.name, holders.last_token);
                world.tally.broke(Promise::Token, lost, seen);
            }
            if token > holders.last_token {
                holders.last_token = token;
                holders.token_mark = mark;
            }
        }
        holders.next += 1;
        let number = holders.next;
        holders.all.insert(number, Holder { until, shares, mark });
        Stay { of: Arc::clone(self), number }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Ok(mut holders) = self.of.holders.lock() {
            holders.all.remove(&self.number);
        }
    }
}
