//! Times to live: what the server says of one, and which ones it takes.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// The longest TTL in milliseconds. Redis adds a TTL to its clock and refuses a sum beyond `i64`;
/// 2^43 ms leaves room for its clock until the year 2248.
const MAX_MILLIS: u128 = (i64::MAX - (1 << 43)) as u128;

/// What has no end is looked at again after so long, if nobody tells of it before.
const ENDLESS: Duration = Duration::from_secs(3600);

/// The remaining time of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ttl {
    /// There is no such key (Redis: -2).
    Missing,
    /// The key has no expiry (Redis: -1).
    Persistent,
    /// The key expires after this time.
    Remaining(Duration),
}

impl Ttl {
    /// The number that Redis' `TTL` gives: seconds, rounded to the nearest; -1 and -2 as above.
    pub fn as_secs(&self) -> i64 {
        match self {
            Self::Missing => -2,
            Self::Persistent => -1,
            Self::Remaining(left) => {
                i64::try_from((left.as_millis() + 500) / 1000).unwrap_or(i64::MAX)
            }
        }
    }

    /// The remaining time, if the key exists and expires.
    pub fn remaining(&self) -> Option<Duration> {
        match self {
            Self::Remaining(left) => Some(*left),
            _ => None,
        }
    }

    /// How long a lock or a lease with this remaining time keeps others out, unless it is renewed: an hour if another program
    /// took it without an end, which is looked at again then.
    pub(crate) fn keeps_out(self) -> Duration {
        match self {
            Self::Remaining(time) => time,
            Self::Missing => Duration::ZERO,
            Self::Persistent => ENDLESS,
        }
    }

    /// From the number that Redis' `PTTL` gives.
    pub fn from_millis(millis: i64) -> Self {
        match millis {
            -2 => Self::Missing,
            ..0 => Self::Persistent,
            left => Self::Remaining(Duration::from_millis(left.unsigned_abs())),
        }
    }
}

/// An expiry that Redis takes: whole milliseconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expiry(u64);

impl Expiry {
    /// Checks an expiry. A part of a millisecond counts as a whole one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is zero or beyond Redis' range.
    pub fn new(ttl: Duration) -> Result<Self> {
        if ttl.is_zero() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a TTL of zero is not a TTL; pass none for a value that stays, or delete the key",
            ));
        }
        let millis = ttl.as_nanos().div_ceil(1_000_000);
        if millis > MAX_MILLIS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the TTL is beyond Redis' range; pass none for a value that stays",
            ));
        }
        Ok(Self(millis as u64))
    }

    /// Checks an optional expiry.
    ///
    /// # Errors
    /// As [`Expiry::new`].
    pub fn optional(ttl: Option<Duration>) -> Result<Option<Self>> {
        ttl.map(Self::new).transpose()
    }

    /// An expiry of so many milliseconds: at least one, and no more than Redis takes.
    pub(crate) fn of_millis(millis: u64) -> Self {
        Self(millis.clamp(1, MAX_MILLIS as u64))
    }

    /// The expiry in milliseconds.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// The expiry as a duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_as_redis_rounds_them() {
        for (millis, secs) in [(-2, -2), (-1, -1), (0, 0), (499, 0), (500, 1), (1499, 1), (1500, 2)]
        {
            assert_eq!(Ttl::from_millis(millis).as_secs(), secs, "{millis} ms");
        }
    }

    #[test]
    fn zero_and_endless_ttls_are_refused_and_fractions_round_up() {
        assert!(Expiry::new(Duration::ZERO).is_err());
        assert!(Expiry::new(Duration::MAX).is_err());
        assert_eq!(Expiry::new(Duration::from_nanos(1)).unwrap().as_millis(), 1);
        assert_eq!(Expiry::new(Duration::from_micros(1001)).unwrap().as_millis(), 2);
        assert_eq!(
            Expiry::new(Duration::from_secs(3)).unwrap().as_duration(),
            Duration::from_secs(3)
        );
    }
}
