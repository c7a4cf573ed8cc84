//! What the operations of a load are asked and answer.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::ttl::Ttl;

/// A string and its remaining time.
#[derive(Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The value, if there is one.
    pub value: Option<Bytes>,
    /// Its remaining time.
    pub ttl: Ttl,
}

impl Fetched {
    /// What a key that does not exist gives.
    pub const MISSING: Self = Self { value: None, ttl: Ttl::Missing };
}

/// Of what a [`Lease`](super::Op::Lease) finds, when it takes the lease. A missing key's lease is always asked
/// for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Only if the key is missing.
    Missing,
    /// If the key is missing, or expires within this time.
    Within(Duration),
    /// Whatever is found.
    Always,
}

impl Ask {
    /// Whether it asks for the lease of a key with this remaining time.
    pub fn wants(self, ttl: Ttl) -> bool {
        match (self, ttl) {
            (_, Ttl::Missing) | (Self::Always, _) => true,
            (Self::Within(time), Ttl::Remaining(left)) => left <= time,
            (Self::Missing | Self::Within(_), _) => false,
        }
    }
}

/// What a [`Lease`](super::Op::Lease) found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// What stands under the key.
    pub found: Fetched,
    /// What became of the lease.
    pub lease: LeaseState,
}

/// What became of a lease that was asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// It was not asked for.
    NotAsked,
    /// The token holds it. `digest` stands for the value that was found, if one was.
    Granted {
        /// Only the store that gave it can read it.
        digest: Option<Bytes>,
    },
    /// Somebody else holds it, for so long unless it is renewed.
    Held {
        /// The remaining time of the lease; an hour if it has no end.
        remaining: Duration,
    },
}

impl LeaseState {
    /// Somebody else's lease, by what remains of it.
    pub fn held(ttl: Ttl) -> Self {
        Self::Held { remaining: ttl.keeps_out() }
    }
}

/// What a load replaces: a value that was found when its lease was granted.
#[derive(Clone, PartialEq, Eq)]
pub struct Replaced {
    /// What stood for the value then.
    pub digest: Bytes,
    /// Its remaining time then.
    pub ttl: Ttl,
    /// Whether that time has surely passed, so that an absent key is one that expired, not one that was deleted.
    pub expired: bool,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "Fetched({} bytes, {:?})", value.len(), self.ttl),
            None => f.write_str("Fetched(none)"),
        }
    }
}

impl fmt::Debug for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("NotAsked"),
            Self::Granted { .. } => f.write_str("Granted"),
            Self::Held { remaining } => write!(f, "Held({remaining:?})"),
        }
    }
}

impl fmt::Debug for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replaced")
            .field("ttl", &self.ttl)
            .field("expired", &self.expired)
            .finish_non_exhaustive()
    }
}
