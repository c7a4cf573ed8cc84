//! Sentinels, as a URL names them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Address, RedisTarget};
use crate::store::AnyCredentials;

/// A group of sentinels, and the name of the primary that they watch.
pub(crate) struct Sentinels {
    /// Each as a server of its own, with the credentials that it wants.
    pub(crate) targets: Vec<Arc<RedisTarget>>,
    pub(crate) primary: String,
    /// The primary that was replaced last, and when they said so.
    pub(crate) replaced: watch::Sender<Option<(Address, Instant)>>,
    /// The task that listens to them.
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Sentinels {
    pub(super) fn new(targets: Vec<Arc<RedisTarget>>, primary: String) -> Self {
        Self { targets, primary, replaced: watch::Sender::new(None), listening: Mutex::new(None) }
    }

    pub(crate) fn listening(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        // Nothing that can panic runs under this lock.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        if let Some(task) = self.listening().take() {
            task.abort();
        }
    }
}

impl Sentinels {
    /// Who we are at the sentinels, whom the servers' credentials do not concern.
    pub(crate) fn with_credentials(&mut self, credentials: &Arc<dyn AnyCredentials>) {
        for target in &mut self.targets {
            if let Some(target) = Arc::get_mut(target) {
                target.credentials = Some(Arc::clone(credentials));
            }
        }
    }
}

impl PartialEq for Sentinels {
    fn eq(&self, other: &Self) -> bool {
        let addresses = |one: &Self| -> Vec<String> {
            one.targets.iter().map(|target| target.address.to_string()).collect()
        };
        self.primary == other.primary && addresses(self) == addresses(other)
    }
}

impl Eq for Sentinels {}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, target) in self.targets.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { "," } else { "" }, target.address)?;
        }
        write!(f, "/{}", self.primary)
    }
}
