//! Where loaders load from: versions that rise, when each was replaced, and which were acknowledged as the oldest that is
//! valid.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::through::{KEYS, OTHERS};
use crate::world::World;

/// For longer than any value is served.
const KEPT: Duration = Duration::from_secs(30);

pub(crate) struct Origin {
    versions: Vec<AtomicU64>,
    valid: Vec<Mutex<VecDeque<Acked>>>,
    // Which versions were replaced, and when.
    replaced: Vec<Mutex<VecDeque<(u64, Instant)>>>,
}

/// A version that no read may go behind.
#[derive(Clone, Copy)]
struct Acked {
    at: Instant,
    version: u64,
    // A mark from before the call.
    mark: u64,
}

/// The oldest version that a read may give, and since when a failover excuses an older one.
#[derive(Clone, Copy)]
pub(crate) struct Oldest {
    pub(crate) version: u64,
    pub(crate) mark: u64,
}

impl Origin {
    pub(crate) fn new() -> Self {
        Self {
            versions: (0..KEYS).map(|_| AtomicU64::new(1)).collect(),
            valid: (0..KEYS).map(|_| Mutex::default()).collect(),
            replaced: (0..KEYS).map(|_| Mutex::default()).collect(),
        }
    }

    /// A new version, of the one who writes this key.
    pub(crate) fn change(&self, key: u64) -> u64 {
        let old = self.versions[key as usize].fetch_add(1, Ordering::SeqCst);
        let mut replaced = self.replaced[key as usize].lock().unwrap();
        replaced.push_back((old, Instant::now()));
        while replaced.front().is_some_and(|(_, at)| at.elapsed() > KEPT) {
            replaced.pop_front();
        }
        old + 1
    }

    /// For how long a version is not the newest any more, if that is remembered.
    pub(crate) fn old_for(&self, key: u64, version: u64, at: Instant) -> Duration {
        let replaced = self.replaced[key as usize].lock().unwrap();
        match replaced.iter().find(|(old, _)| *old == version) {
            Some((_, since)) => at.saturating_duration_since(*since),
            None if replaced.front().is_some_and(|(first, _)| version < *first) => KEPT,
            None => Duration::ZERO,
        }
    }

    pub(crate) fn acked(&self, key: u64, version: u64, mark: u64) {
        let mut valid = self.valid[key as usize].lock().unwrap();
        valid.push_back(Acked { at: Instant::now(), version, mark });
        // One that is older than the bound has to stand.
        while valid.len() > 1 && valid[1].at.elapsed() > OTHERS * 2 {
            valid.pop_front();
        }
    }

    /// What a read may give at least which begins now.
    pub(crate) fn oldest(&self, world: &World, key: u64, own: bool) -> Oldest {
        let valid = self.valid[key as usize].lock().unwrap();
        let mut acked = valid.iter().rev().filter(|acked| own || acked.at.elapsed() > OTHERS);
        // The newest one that no failover touched, else the newest.
        let sure = acked.clone().find(|acked| !world.lost.since(acked.mark));
        let oldest = sure.or_else(|| acked.next());
        oldest.map_or(Oldest { version: 0, mark: 0 }, |acked| Oldest {
            version: acked.version,
            mark: acked.mark,
        })
    }

    /// What a loader does: some are slow, some fail.
    pub(crate) async fn load(&self, key: u64, chance: u32) -> Result<u64, std::io::Error> {
        let version = self.versions[key as usize].load(Ordering::SeqCst);
        match chance {
            0..3 => Err(std::io::Error::other("the origin is away")),
            // Without the message and the trace that a panic prints.
            3..6 => std::panic::resume_unwind(Box::new("as the test wants")),
            6..30 => {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok(version)
            }
            _ => Ok(version),
        }
    }
}
