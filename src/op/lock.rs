//! What the operations of a lock are asked and answer.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::ttl::{Expiry, Ttl};

/// How a lock is taken.
#[derive(Clone, PartialEq, Eq)]
pub enum LockMode {
    /// By one holder, whom plain locks exclude and who excludes them.
    Exclusive {
        /// A name of the holder's that others may read.
        label: Option<Bytes>,
        /// Whether those who waited before go first.
        fair: bool,
        /// How long somebody who waits counts, so that others can wait for it: for its turn, or behind holders who
        /// share. A try renews that when half of it is over, so it is to try at least twice in this time. Who does
        /// not count any more has lost its turn. Without it a refused try leaves no trace.
        waits: Option<Expiry>,
    },
    /// By holders who share it, at most so many of them. Together they exclude one who does not share, and
    /// no more are let in while one waits.
    Shared {
        /// How many may hold it at once.
        most: u32,
    },
}

impl LockMode {
    /// Whether the holder shares it.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }
}

impl fmt::Debug for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exclusive { fair: true, .. } => f.write_str("Exclusive(fair)"),
            Self::Exclusive { .. } => f.write_str("Exclusive"),
            Self::Shared { most } => write!(f, "Shared({most})"),
        }
    }
}

/// What became of a lock that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// The identifier holds it.
    Taken {
        /// Larger than that of every earlier holder; none if the lock is shared.
        token: Option<u64>,
    },
    /// It is not free, or not for this one yet.
    Held {
        /// After this time it is worth asking again, if nothing is told before; an hour if the lock has no end.
        remaining: Duration,
    },
}

impl Locked {
    /// Somebody else's lock, by what remains of it.
    pub fn held(ttl: Ttl) -> Self {
        Self::Held { remaining: ttl.keeps_out() }
    }
}
