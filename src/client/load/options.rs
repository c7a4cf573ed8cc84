//! How a value is read and loaded: the same options for a namespace and for one call.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::ttl::Expiry;

/// A load that takes longer is given up: long enough for a slow query, short enough that nobody hangs.
const HARD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a loader that died keeps others waiting. It is renewed at a third, so that two renewals may be lost
/// before a living loader loses it.
const LEASE: Duration = Duration::from_secs(3);

/// Values that were filled together shall not expire together.
const JITTER: f64 = 0.05;

/// How long an entry stays near although the server vouches for it: a bound on what a mistake could do.
const NEAR_TTL: Duration = Duration::from_secs(300);

/// No wait and no entry is meant to be for ever, and no clock can count for ever: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How a value is read and, where there is none, loaded. A duration stands for options with that time to live.
///
/// A [`Namespace`](crate::Namespace) has these options for all its calls, and takes others for one call by
/// [`with`](crate::Namespace::with).
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct LoadOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) jitter: f64,
    pub(crate) early_refresh: f64,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) soft_timeout: Duration,
    pub(crate) hard_timeout: Duration,
    pub(crate) lease: Duration,
    pub(crate) near_ttl: Duration,
    pub(crate) bypass_near: bool,
    pub(crate) peek: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            ttl: None,
            grace: Duration::ZERO,
            jitter: JITTER,
            early_refresh: 1.0,
            negative_ttl: None,
            soft_timeout: Duration::ZERO,
            hard_timeout: HARD_TIMEOUT,
            lease: LEASE,
            near_ttl: NEAR_TTL,
            bypass_near: false,
            peek: false,
        }
    }
}

impl From<Duration> for LoadOptions {
    fn from(ttl: Duration) -> Self {
        Self::default().ttl(ttl)
    }
}

impl LoadOptions {
    /// Options with every default: a value that is loaded stays for ever.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a value is fresh. Defaults to for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// For how long after its time to live a value is still served while one caller loads it again, and if that
    /// load fails. Values are stored for the time to live and the grace. Defaults to none: most data is
    /// wanted fresh or not at all.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The part of the time to live, from 0 to 1, by which a loaded value's life is shortened at random, so that
    /// values that were loaded together do not expire together. Values that are written keep their exact time.
    /// Defaults to 0.05.
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// How eagerly a value is loaded again before it expires (XFetch, Vattani, Chierichetti and Lowenstein
    /// 2015): one caller does so about this many load times before. 0 switches it off. Defaults to 1, which its
    /// authors found best.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = beta;
        self
    }

    /// For how long it is remembered that the loader found nothing, as JSON `null`. Defaults to not at
    /// all: a row that is inserted is then seen at once.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// How long a caller waits for a value that is being loaded again before it takes the stale one. The load
    /// goes on if its loader can outlive the call. Who comes after a change of the key, or more than 100 ms after a load
    /// began of whose changes nobody tells, does not wait. Defaults to zero: the stale value at once. The one caller whose
    /// own loader runs, a borrowed one, then waits for it up to the hard timeout. In a call for many keys the same holds for
    /// each that has a stale value; as long as another one is missing, all are waited for.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = timeout;
        self
    }

    /// How long a load may take, and how long a caller waits for one: ten years at most, so that every wait ends.
    /// Defaults to 30 seconds.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.hard_timeout = timeout;
        self
    }

    /// After which time others load the value if the process that loads it has died; a living one renews its
    /// lease at a third of it. Defaults to 3 seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a value stays in the near cache at most. More than ten years is a mistake, and none stays longer than
    /// 30 days. Defaults to 5 minutes.
    pub fn near_ttl(mut self, ttl: Duration) -> Self {
        self.near_ttl = ttl;
        self
    }

    /// Asks the store although the value may be near. Defaults to false.
    pub fn bypass_near(mut self) -> Self {
        self.bypass_near = true;
        self
    }

    /// Reads what is there, near or stored, stale or fresh, and loads nothing. Defaults to false.
    pub fn peek(mut self) -> Self {
        self.peek = true;
        self
    }

    /// How long a value is stored. Nothing for ever.
    pub(crate) fn stored_for(&self, ttl: Option<Duration>) -> Result<Option<Expiry>> {
        Expiry::optional(ttl.map(|ttl| ttl.saturating_add(self.grace)))
    }

    /// What is wrong with these options, each in a few words.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for ttl in [self.ttl, self.negative_ttl].into_iter().flatten() {
            if let Err(error) = Expiry::new(ttl).and_then(|_| self.stored_for(Some(ttl))) {
                mistakes.push(error.detail().to_owned());
            }
        }
        if !self.grace.is_zero() && self.ttl.is_none() {
            mistakes.push("a grace needs a time to live; set a ttl as well".to_owned());
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            mistakes.push("the jitter is a part of the time to live, from 0 to 1".to_owned());
        }
        if !(0.0..=1000.0).contains(&self.early_refresh) {
            mistakes.push("early_refresh is a factor from 0 to 1000".to_owned());
        }
        if self.hard_timeout.is_zero() {
            mistakes.push("the hard timeout is zero".to_owned());
        }
        if self.soft_timeout > self.hard_timeout {
            mistakes.push("the soft timeout is longer than the hard timeout".to_owned());
        }
        if self.lease < Duration::from_millis(10) {
            mistakes
                .push("the lease is shorter than 10 ms, less than a few round trips".to_owned());
        }
        if let Err(error) = Expiry::new(self.lease) {
            mistakes.push(format!("the lease: {}", error.detail()));
        }
        for (name, time) in [("hard timeout", self.hard_timeout), ("near_ttl", self.near_ttl)] {
            if time > LONGEST {
                mistakes.push(format!("the {name} is longer than {LONGEST:?}"));
            }
        }
        if self.near_ttl.is_zero() {
            mistakes.push("the near_ttl is zero; leave the near cache off instead".to_owned());
        }
        mistakes
    }

    pub(crate) fn check(&self) -> Result<()> {
        let mistakes = self.mistakes();
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, mistakes.join("; ")))
    }
}
