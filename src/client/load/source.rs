//! Where a value comes from when it is not stored.

use std::error::Error as StdError;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Loader;
use super::loaded::{Failure, IntoLoaded, Loaded};

/// A loader, seen from the read path.
pub(crate) trait Source<T>: Send {
    /// Whether there is a loader at all.
    const LOADS: bool;

    /// Whether a caller can do with nothing.
    fn takes_nothing(&self) -> bool;

    /// Loads. May be called again, after a load that came too late.
    fn load(&mut self) -> impl Future<Output = Loaded<T>> + Send;

    /// A loader that does not need its caller.
    fn detached(&self) -> Option<Detached<T>> {
        None
    }
}

/// No loader: what is stored, or nothing.
pub(crate) struct Nowhere;

impl<T: Send + Sync> Source<T> for Nowhere {
    const LOADS: bool = false;

    fn takes_nothing(&self) -> bool {
        true
    }

    async fn load(&mut self) -> Loaded<T> {
        Loaded::absent()
    }
}

/// A loader that borrows from its caller, and runs there.
pub(crate) struct Borrowed<'a, L>(pub(crate) &'a mut L);

impl<T: Send + Sync, L: Loader<T>> Source<T> for Borrowed<'_, L> {
    const LOADS: bool = true;

    fn takes_nothing(&self) -> bool {
        L::Gives::from_cached(None).is_some()
    }

    fn load(&mut self) -> impl Future<Output = Loaded<T>> + Send {
        self.0.load()
    }
}

/// What a loader's answer comes to.
pub(crate) fn into_loaded<T, L: IntoLoaded<T>, E>(answer: Result<L, E>) -> Loaded<T>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    match answer {
        Ok(loaded) => loaded.into_loaded(),
        Err(error) => Loaded { value: Err(Failure::from(error.into())), ttl: None },
    }
}

/// A loader that does not need its caller: it runs in a task of its own.
pub(crate) struct Detached<T>(Arc<dyn Fn() -> BoxFuture<'static, Loaded<T>> + Send + Sync>);

impl<T> Detached<T> {
    pub(crate) fn new(
        loader: impl Fn() -> BoxFuture<'static, Loaded<T>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(loader))
    }
}

impl<T> Clone for Detached<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + Sync + 'static> Source<T> for Detached<T> {
    const LOADS: bool = true;

    fn takes_nothing(&self) -> bool {
        true
    }

    async fn load(&mut self) -> Loaded<T> {
        (self.0)().await
    }

    fn detached(&self) -> Option<Self> {
        Some(self.clone())
    }
}
