//! Loaders of many keys.

use std::error::Error as StdError;

use crate::client::load::loaded::{Failure, IntoLoaded, Loaded};
use crate::client::load::source::{Detached, Nowhere};
use crate::error::Result;
use crate::key::Key;

/// A loader of many keys, seen from the read path. Keys go by their places in the call.
pub(crate) trait ManySource<T>: Send {
    /// Whether there is a loader at all.
    const LOADS: bool;

    /// Loads some keys. May be called again, for keys whose load came too late or that others gave up.
    fn load(
        &mut self,
        missing: Vec<usize>,
    ) -> impl Future<Output = Result<Vec<(Key, Loaded<T>)>, Failure>> + Send;

    /// A loader of one of the keys that does not need its caller: what is due is loaded again by it.
    fn detached(&self, _at: usize) -> Option<Detached<T>> {
        None
    }
}

impl<T: Send> ManySource<T> for Nowhere {
    const LOADS: bool = false;

    async fn load(&mut self, _missing: Vec<usize>) -> Result<Vec<(Key, Loaded<T>)>, Failure> {
        Ok(Vec::new())
    }
}

/// A loader of the caller's, with what it takes and how what it gives is named; and the loader of the namespace, if it
/// has one, for what need not be waited for.
pub(crate) struct ManyLoader<F, N, O> {
    pub(crate) loader: F,
    pub(crate) named: N,
    pub(crate) own: O,
}

impl<T, F, N, O, Fut, I, Q, L, E> ManySource<T> for ManyLoader<F, N, O>
where
    T: Send + Sync,
    F: FnMut(Vec<usize>) -> Fut + Send,
    N: Fn(&Q) -> Result<Key> + Send,
    O: Fn(usize) -> Option<Detached<T>> + Send,
    Fut: Future<Output = Result<I, E>> + Send,
    I: IntoIterator<Item = (Q, L)>,
    L: IntoLoaded<T>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    const LOADS: bool = true;

    async fn load(&mut self, missing: Vec<usize>) -> Result<Vec<(Key, Loaded<T>)>, Failure> {
        let loading = (self.loader)(missing);
        let loaded = loading.await.map_err(|error| Failure::from(error.into()))?;
        let named =
            loaded.into_iter().map(|(key, value)| Ok(((self.named)(&key)?, value.into_loaded())));
        named.collect::<Result<_>>().map_err(|error| Failure::from(Box::from(error)))
    }

    fn detached(&self, at: usize) -> Option<Detached<T>> {
        (self.own)(at)
    }
}
