//! Reading through: near cache, flight, store, lease, loader, in this order.

use std::error::Error as StdError;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheClient;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::op::Lane;
use crate::stats::NO_PREFIX;

mod frames;
mod loaded;
mod many;
mod options;
mod path;
mod read;
mod recent;
mod source;
mod target;
mod work;

pub use loaded::{IntoLoaded, Loaded};
pub(crate) use many::ManyLoader;
pub use options::LoadOptions;
pub(crate) use path::{Bounds, MAX_LOADS, ReadPath};
pub use recent::ReadFrom;
use source::Borrowed;
pub(crate) use source::{Detached, Nowhere, into_loaded};
pub(crate) use target::{Family, Seen};

/// A loader: an async closure that gives a `T`, an `Option<T>` or a [`Loaded<T>`], or an error of any kind.
/// Every closure of that shape is one.
///
/// It borrows what it likes, runs in its caller and ends with it; then another caller who waited runs its own.
/// It is called once, and a second time only if the key was invalidated meanwhile.
pub trait Loader<T>: Send {
    /// What the loader gives.
    type Gives: IntoLoaded<T>;

    /// Loads.
    fn load(&mut self) -> impl Future<Output = Loaded<T>> + Send;
}

impl<T, F, Fut, L, E> Loader<T> for F
where
    T: Send + Sync,
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<L, E>> + Send,
    L: IntoLoaded<T>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Gives = L;

    async fn load(&mut self) -> Loaded<T> {
        let loading = self();
        into_loaded(loading.await)
    }
}

/// What a caller of `get_or_load` gets: an `Arc<T>` from a loader of `T`, an `Option<Arc<T>>` from one
/// that may find nothing.
pub type Given<T, L> = <<L as Loader<T>>::Gives as IntoLoaded<T>>::Value;

impl CacheClient {
    /// Reads JSON under a key and, if there is none, loads it: once, whoever asks for it meanwhile, in this process or
    /// in another. A duration stands for [`LoadOptions`] with that time to live.
    ///
    /// A value that is stored costs one round trip; a miss two more beside the load. A
    /// [`Namespace`](crate::Namespace) does the same for typed keys, and can keep values near.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use std::time::Duration;
    /// # let cache = larder::CacheClient::memory();
    /// let answer = cache
    ///     .get_or_load("answer", Duration::from_secs(60), || async { Ok::<u32, larder::Error>(42) })
    ///     .await?;
    /// assert_eq!(*answer, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Load`](crate::ErrorKind::Load) if the loader fails, panics, takes too long or asks for its own
    /// key; its own error is [`Error::loader_error`], the same for all who waited. A failing
    /// store is none: the loader answers then. Stored bytes that are no `T` are
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode), and a loaded value of more than
    /// [`MAX_BYTES`](crate::MAX_BYTES) as JSON is [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
    pub async fn get_or_load<T, L>(
        &self,
        key: impl AsRef<[u8]>,
        options: impl Into<LoadOptions>,
        loader: L,
    ) -> Result<Given<T, L>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        L: Loader<T>,
    {
        let key = super::key("get_or_load", key)?;
        let family = self.family("get_or_load", key.prefix(), options.into())?;
        family.given(&key, loader).await
    }

    /// Reads JSON under many keys, and loads those that are missing with one call of the loader, which is told
    /// exactly the keys that this call has to load, and gives pairs of a key and what it found. What it leaves out is
    /// not there.
    ///
    /// One answer for each key, in order. Costs one round trip, and two more if something is missing. The
    /// statistics count it under the first part that all keys share. What is due to be loaded again is loaded in the
    /// same call of the loader; the [soft timeout](LoadOptions::soft_timeout) says for how long that is waited for if
    /// nothing is missing.
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load); those of a single key stand in its place.
    pub async fn get_or_load_many<'k, T, Q, F, Fut, I, L, E>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        options: impl Into<LoadOptions>,
        mut loader: F,
    ) -> Result<Vec<Result<Option<Arc<T>>>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        Q: AsRef<[u8]> + ?Sized + Sync + 'k,
        F: FnMut(Vec<&'k Q>) -> Fut + Send,
        Fut: Future<Output = Result<I, E>> + Send,
        I: IntoIterator<Item = (&'k Q, L)>,
        L: IntoLoaded<T>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let asked: Vec<&Q> = keys.into_iter().collect();
        let keys = super::keys("get_or_load_many", asked.iter())?;
        let mut prefixes = keys.iter().map(Key::prefix);
        let prefix =
            prefixes.next().flatten().filter(|first| prefixes.all(|one| one == Some(first)));
        let family = self.family("get_or_load_many", prefix, options.into())?;
        let mut source = ManyLoader {
            loader: |places: Vec<usize>| loader(places.into_iter().map(|at| asked[at]).collect()),
            named: named::<Q>,
            own: |_| None::<Detached<T>>,
        };
        family.many(&keys, &mut source).await
    }

    /// How the last read of a key by this client came to its value; about the last thousand keys
    /// of each thread are remembered. Costs no round trip.
    pub fn explain(&self, key: impl AsRef<[u8]>) -> Option<ReadFrom> {
        self.settled().ok()?.path().recent.look(key.as_ref())
    }

    /// How keys are read through, which are counted under `prefix`.
    fn family(
        &self,
        name: &'static str,
        prefix: Option<&[u8]>,
        options: LoadOptions,
    ) -> Result<Family> {
        options.check().map_err(|error| error.with_op(name))?;
        let client = self.settled().map_err(|error| error.with_op(name))?;
        let path = client.path();
        Ok(Family {
            path: Arc::clone(path),
            name,
            label: None,
            reads: path.reads(prefix.unwrap_or(NO_PREFIX.as_bytes())),
            room: None,
            lane: Lane::Data,
            options,
            undecodable_as_miss: false,
            json_limit: path.json_limit(),
        })
    }
}

/// The key that a loader of many names. A function, which is good for every lifetime: with a closure the compiler refuses
/// to spawn a call whose keys are borrowed from its own task.
fn named<Q: AsRef<[u8]> + ?Sized>(key: &&Q) -> Result<Key> {
    Key::new(*key)
}

impl Family {
    /// Reads a key through a loader that borrows from its caller.
    pub(crate) async fn given<T, L>(&self, key: &Key, mut loader: L) -> Result<Given<T, L>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        L: Loader<T>,
    {
        let mut source = Borrowed(&mut loader);
        let answer = self.read(key, &mut source).await?;
        <L::Gives as IntoLoaded<T>>::from_cached(answer.value).ok_or_else(|| self.nothing(key))
    }

    /// Reads keys, of which some may be the same, and counts how.
    pub(crate) async fn many<T, S>(
        &self,
        keys: &[Key],
        source: &mut S,
    ) -> Result<Vec<Result<Option<Arc<T>>>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: many::ManySource<T>,
    {
        let found = self.read_many(keys, source).await?.into_iter().zip(keys);
        let values = found.map(|(found, key)| {
            let answer = found.inspect_err(|error| self.note_failed(error))?.answer;
            self.note(key.as_bytes(), answer.from);
            Ok(answer.value)
        });
        Ok(values.collect())
    }

    /// Who peeks may find nothing.
    fn nothing(&self, key: &Key) -> Error {
        self.error(key, "there is nothing, and a peek loads nothing; let the loader give an Option")
    }
}
