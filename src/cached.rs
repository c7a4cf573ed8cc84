//! What `#[cached]` writes its functions with.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{CacheClient, IntoLoaded};
use crate::error::{Error, Result};
use crate::key_part::{KeyParts, KeyWriter};
pub use crate::namespace::CachedFn;
use crate::namespace::Namespace;

/// The key of a call, written part by part.
pub struct Parts<F>(pub F);

impl<F: Fn(&mut KeyWriter)> KeyParts for Parts<F> {
    fn write(&self, key: &mut KeyWriter) {
        (self.0)(key);
    }
}

impl<F> fmt::Debug for Parts<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// What a function returns, `R`, beside what is stored for it.
pub trait Shape<R> {
    /// What is stored.
    type Stored: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the body gives as a loader.
    type Gives: IntoLoaded<Self::Stored>;

    /// From the body to the cache.
    fn give(returned: R) -> Self::Gives;

    /// From the cache to the caller.
    fn take(given: <Self::Gives as IntoLoaded<Self::Stored>>::Value) -> R;
}

/// A `T`.
#[derive(Debug)]
pub struct Owned;

/// An `Arc<T>`.
#[derive(Debug)]
pub struct Shared;

/// What may be there, of another shape.
#[derive(Debug)]
pub struct Maybe<S>(pub S);

impl<T: Value> Shape<T> for Owned {
    type Stored = T;
    type Gives = T;

    fn give(returned: T) -> T {
        returned
    }

    fn take(given: Arc<T>) -> T {
        Arc::unwrap_or_clone(given)
    }
}

impl<T: Value> Shape<Arc<T>> for Shared {
    type Stored = T;
    type Gives = T;

    fn give(returned: Arc<T>) -> T {
        Arc::unwrap_or_clone(returned)
    }

    fn take(given: Arc<T>) -> Arc<T> {
        given
    }
}

impl<T: Value> Shape<Option<T>> for Maybe<Owned> {
    type Stored = T;
    type Gives = Option<T>;

    fn give(returned: Option<T>) -> Option<T> {
        returned
    }

    fn take(given: Option<Arc<T>>) -> Option<T> {
        given.map(Arc::unwrap_or_clone)
    }
}

impl<T: Value> Shape<Option<Arc<T>>> for Maybe<Shared> {
    type Stored = T;
    type Gives = Option<T>;

    fn give(returned: Option<Arc<T>>) -> Option<T> {
        returned.map(Arc::unwrap_or_clone)
    }

    fn take(given: Option<Arc<T>>) -> Option<Arc<T>> {
        given
    }
}

/// A value that can be cached.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be what a `#[cached]` function gives",
    label = "this cannot be cached",
    note = "it is stored as JSON and shared by its readers: it has to be `serde::Serialize`, \
            `serde::de::DeserializeOwned`, `Clone`, `Send`, `Sync` and `'static`"
)]
pub trait Value: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Value for T {}

/// Checks what a function gives, where its type is written.
pub const fn value<T: Value>() {}

/// An error that can tell of a cache that failed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a `#[cached]` function",
    label = "this cannot tell of a cache that failed",
    note = "implement `From<larder::Error>` for it; it also has to be `std::error::Error + Send + Sync + 'static`, or \
            `Into<Box<dyn std::error::Error + Send + Sync>>` as `anyhow::Error` is"
)]
pub trait Failure: From<Error> + Into<Box<dyn StdError + Send + Sync>> {}

#[diagnostic::do_not_recommend]
impl<E: From<Error> + Into<Box<dyn StdError + Send + Sync>>> Failure for E {}

/// Checks a function's error, where its type is written.
pub const fn failure<E: Failure>() {}

/// An argument that the body can have as often as it runs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a `#[cached]` function",
    label = "this cannot be given to the body more than once",
    note = "the body gets a clone each time it runs, twice if the key is invalidated meanwhile: pass a reference, or \
            implement `Clone`; it also has to be `Send` and `Sync`"
)]
pub trait Argument: Clone + Send + Sync {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync> Argument for T {}

/// Another one for the body.
pub fn argument<T: Argument>(argument: &T) -> T {
    argument.clone()
}

/// The type of a function's body, which nothing else tells before its first `?`.
pub fn returns<R>() -> R {
    unreachable!("it only stands where nothing runs")
}

/// Where a function's `Result` has its error.
pub trait Fallible {
    /// The error.
    type Error;
}

impl<T, E> Fallible for Result<T, E> {
    type Error = E;
}

/// Whether a type is a `Result`, under whatever name: found before [`NoResult`] if it is one.
#[derive(Debug)]
pub struct Probe<R>(PhantomData<R>);

impl<T, E> Probe<Result<T, E>> {
    /// It is.
    pub const IS_RESULT: bool = true;
}

/// Every other type.
pub trait NoResult {
    /// It is not.
    const IS_RESULT: bool = false;
}

impl<R> NoResult for Probe<R> {}

/// How an error of larder becomes one of the function.
pub struct Errors<E>(PhantomData<E>);

impl<E> Errors<E> {
    /// For any function.
    pub const NEW: Self = Self(PhantomData);
}

impl<E> fmt::Debug for Errors<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Errors")
    }
}

/// The body's own error comes back as itself where it can be cloned: others may have waited for it. The compiler
/// finds this one first, where it holds.
pub trait Cloned<E> {
    /// The function's error.
    fn error(&self, error: Error) -> E;
}

impl<E: StdError + Clone + From<Error> + 'static> Cloned<E> for Errors<E> {
    fn error(&self, error: Error) -> E {
        match error.loader_error::<E>() {
            Some(own) if error.is_load() => own.clone(),
            _ => E::from(error),
        }
    }
}

/// Else it comes as an error of larder.
pub trait Wrapped<E> {
    /// The function's error. The bound stands here and not at the trait, so that the compiler names it where it does
    /// not hold.
    fn error(&self, error: Error) -> E
    where
        E: Failure;
}

impl<E> Wrapped<E> for &Errors<E> {
    fn error(&self, error: Error) -> E
    where
        E: Failure,
    {
        E::from(error)
    }
}

/// A function that may fail.
pub async fn fallible<S, R, E, K, F, Fut>(
    _shape: S,
    function: &CachedFn,
    client: &CacheClient,
    key: K,
    mut body: F,
    failed: impl FnOnce(Error) -> E,
) -> Result<R, E>
where
    S: Shape<R>,
    K: KeyParts,
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<R, E>> + Send,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let namespace: Namespace<K, S::Stored> = match function.namespace(client) {
        Ok(namespace) => namespace,
        Err(error) => return Err(failed(error)),
    };
    let loader = || {
        let running = body();
        async move { running.await.map(S::give) }
    };
    namespace.get_or_load(&key, loader).await.map(S::take).map_err(failed)
}

/// A function that cannot fail: what cannot be had from the cache is what its body gives.
pub async fn infallible<S, R, K, F, Fut>(
    _shape: S,
    function: &CachedFn,
    client: &CacheClient,
    key: K,
    mut body: F,
) -> R
where
    S: Shape<R>,
    K: KeyParts,
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = R> + Send,
{
    let loaded = match function.namespace::<K, S::Stored>(client) {
        Ok(namespace) => {
            let loader = || {
                let running = body();
                async move { Ok::<_, Error>(S::give(running.await)) }
            };
            namespace.get_or_load(&key, loader).await
        }
        Err(error) => Err(error),
    };
    match loaded {
        Ok(given) => S::take(given),
        Err(error) => {
            tracing::debug!(target: "larder", %error, "the cache failed, the function answers");
            body().await
        }
    }
}

/// Says that what a function gave is not true any more.
///
/// # Errors
/// As [`Namespace::invalidate`].
pub async fn invalidate<K: KeyParts>(
    function: &CachedFn,
    client: &CacheClient,
    key: K,
) -> Result<()> {
    function.namespace::<K, ()>(client)?.invalidate(&key).await
}
