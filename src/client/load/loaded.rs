//! What loaders give.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An error of a loader, shared by all who waited for it.
pub(crate) type Failure = Arc<dyn StdError + Send + Sync>;

/// What a loader gives: a value, nothing, or a failure, with a time to live of its own if it wants.
///
/// ```
/// use std::time::Duration;
/// use larder::Loaded;
/// let rate = Loaded::value(1.08).ttl(Duration::from_secs(60)); // the origin knows how long it holds
/// let gone = Loaded::<f64>::absent();
/// # drop((rate, gone));
/// ```
pub struct Loaded<T> {
    pub(crate) value: Result<Option<T>, Failure>,
    pub(crate) ttl: Option<Duration>,
}

impl<T> Loaded<T> {
    /// A value.
    pub fn value(value: T) -> Self {
        Self { value: Ok(Some(value)), ttl: None }
    }

    /// There is nothing.
    pub fn absent() -> Self {
        Self { value: Ok(None), ttl: None }
    }

    /// This key could not be loaded: for a loader of many keys, of which the others could.
    pub fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { value: Err(Arc::from(error.into())), ttl: None }
    }

    /// How long it lives, in place of the time to live of the namespace or the call. Of nothing, how long that is
    /// remembered.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

impl<T> fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.value {
            Ok(Some(_)) => "a value",
            Ok(None) => "nothing",
            Err(_) => "a failure",
        };
        f.debug_tuple("Loaded").field(&format_args!("{what}")).field(&self.ttl).finish()
    }
}

/// What a loader may give: a `T`, which a caller gets as `Arc<T>`; or an `Option<T>` or [`Loaded<T>`], which it
/// gets as `Option<Arc<T>>`.
pub trait IntoLoaded<T>: Send {
    /// What the caller gets.
    type Value: Send;

    /// As what the cache stores.
    fn into_loaded(self) -> Loaded<T>;

    /// From what the cache holds. Nothing if a value is needed and there is none: then it is loaded.
    fn from_cached(value: Option<Arc<T>>) -> Option<Self::Value>;
}

impl<T: Send + Sync> IntoLoaded<T> for T {
    type Value = Arc<T>;

    fn into_loaded(self) -> Loaded<T> {
        Loaded::value(self)
    }

    fn from_cached(value: Option<Arc<T>>) -> Option<Arc<T>> {
        value
    }
}

impl<T: Send + Sync> IntoLoaded<T> for Option<T> {
    type Value = Option<Arc<T>>;

    fn into_loaded(self) -> Loaded<T> {
        Loaded { value: Ok(self), ttl: None }
    }

    fn from_cached(value: Option<Arc<T>>) -> Option<Option<Arc<T>>> {
        Some(value)
    }
}

impl<T: Send + Sync> IntoLoaded<T> for Loaded<T> {
    type Value = Option<Arc<T>>;

    fn into_loaded(self) -> Loaded<T> {
        self
    }

    fn from_cached(value: Option<Arc<T>>) -> Option<Option<Arc<T>>> {
        Some(value)
    }
}
