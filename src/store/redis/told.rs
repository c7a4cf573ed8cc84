//! The connections of one server that tell of changes: one for what is read over it, and one for each prefix.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::link::Link;
use super::ping::Patience;
use super::track::{Sinks, Tracking};
use crate::error::{Error, ErrorKind, Result};
use crate::op::Lane;
use crate::store::url::RedisTarget;

/// The connections that tell of changes. Each is made when it is first used.
pub(super) struct Told {
    pub(super) target: Arc<RedisTarget>,
    patience: Patience,
    pub(super) sinks: Arc<Sinks>,
    // Tells of changes to what is read over it.
    keyed: Link,
    // Each tells of changes under a prefix.
    prefixed: Mutex<Vec<(Arc<str>, Link)>>,
    most_prefixed: usize,
}

impl Told {
    pub(super) fn new(target: Arc<RedisTarget>, patience: Patience, most_prefixed: usize) -> Self {
        Self::telling(Arc::default(), target, patience, most_prefixed)
    }

    pub(super) fn telling(
        sinks: Arc<Sinks>,
        target: Arc<RedisTarget>,
        patience: Patience,
        most_prefixed: usize,
    ) -> Self {
        let tracking = Tracking { sinks: Arc::clone(&sinks), prefix: None };
        let keyed = Link::new(Arc::clone(&target), patience, Some(tracking));
        Self { target, patience, sinks, keyed, prefixed: Mutex::default(), most_prefixed }
    }

    fn prefixed(&self) -> MutexGuard<'_, Vec<(Arc<str>, Link)>> {
        // Nothing that can panic runs under this lock.
        self.prefixed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of a lane.
    pub(super) fn link(&self, lane: &Lane) -> Option<Link> {
        match lane {
            Lane::Data => None,
            Lane::Tracked => Some(self.keyed.clone()),
            Lane::Broadcast(prefix) => {
                let prefixed = self.prefixed();
                prefixed.iter().find(|(of, _)| of == prefix).map(|(_, link)| link.clone())
            }
        }
    }

    pub(super) fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        let mut prefixed = self.prefixed();
        if prefixed.iter().any(|(of, _)| of == prefix) {
            return Ok(());
        }
        check_prefix(prefixed.iter().map(|(of, _)| of), prefix)?;
        if prefixed.len() >= self.most_prefixed {
            return Err(Error::new(
                ErrorKind::Config,
                "broadcast needs one more connection than max_connections allows; raise it",
            ));
        }
        let tracking =
            Tracking { sinks: Arc::clone(&self.sinks), prefix: Some(Arc::clone(prefix)) };
        let link = Link::new(Arc::clone(&self.target), self.patience, Some(tracking));
        prefixed.push((Arc::clone(prefix), link));
        Ok(())
    }

    /// Whether any of them is up.
    pub(super) fn is_up(&self) -> bool {
        self.keyed.current().is_some()
            || self.prefixed().iter().any(|(_, link)| link.current().is_some())
    }

    /// A part of what they told of is told of by another server now.
    pub(super) fn moved(&self) {
        self.keyed.moved();
        // Not under the lock: who is told may take some of its own.
        let prefixed: Vec<Link> = self.prefixed().iter().map(|(_, link)| link.clone()).collect();
        prefixed.iter().for_each(Link::moved);
    }

    pub(super) fn close(&self) {
        self.keyed.close();
        self.prefixed().iter().for_each(|(_, link)| link.close());
    }
}

/// Whether changes under a prefix can be told beside those under others.
pub(super) fn check_prefix<'a>(
    mut others: impl Iterator<Item = &'a Arc<str>>,
    prefix: &str,
) -> Result<()> {
    if others.any(|of| of.starts_with(prefix) || prefix.starts_with(&**of)) {
        return Err(Error::new(
            ErrorKind::Config,
            "the prefix overlaps with that of another namespace that is told by broadcast; rename one of them",
        ));
    }
    Ok(())
}
