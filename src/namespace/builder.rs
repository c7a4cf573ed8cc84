//! Settings of a namespace.

use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Namespace, NamespaceLoader};
use crate::client::{CacheClient, Detached, IntoLoaded, LoadOptions, into_loaded};
use crate::codec::JsonLimit;
use crate::error::{Error, ErrorKind, Result};
use crate::key_part::KeyParts;
use crate::op::Lane;

/// Settings of a [`Namespace`]. Setters never fail; [`build`](Self::build) names every mistake at once.
#[must_use]
pub struct NamespaceBuilder<K: ?Sized, T> {
    client: CacheClient,
    name: String,
    options: LoadOptions,
    near: bool,
    near_max_bytes: Option<u64>,
    broadcast: bool,
    undecodable_as_miss: bool,
    max_json_bytes: Option<u64>,
    loader: Option<NamespaceLoader<K, T>>,
    types: PhantomData<fn(&K) -> T>,
}

impl CacheClient {
    /// A typed view of the keys that start with `name:`. A name may have a `:` in it, for a layout that other
    /// programs share; no name should then be the beginning of another one, as `app` is of `app:user`.
    pub fn namespace<K: ?Sized, T>(&self, name: impl Into<String>) -> NamespaceBuilder<K, T> {
        NamespaceBuilder {
            client: self.clone(),
            name: name.into(),
            options: LoadOptions::default(),
            near: false,
            near_max_bytes: None,
            broadcast: false,
            undecodable_as_miss: false,
            max_json_bytes: None,
            loader: None,
            types: PhantomData,
        }
    }
}

impl<K: KeyParts + ?Sized, T> NamespaceBuilder<K, T> {
    /// How long a value lives. Defaults to for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.ttl(ttl);
        self
    }

    /// All options of reading and loading at once: see [`LoadOptions`]. Those that have a setter here can be set
    /// one by one as well.
    pub fn options(mut self, options: LoadOptions) -> Self {
        self.options = options;
        self
    }

    /// For how long after its time to live a value is still served, while it is loaded again or cannot be:
    /// [`LoadOptions::grace`]. Defaults to none.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options = self.options.grace(grace);
        self
    }

    /// By which part a loaded value's life is shortened at random: [`LoadOptions::jitter`]. Defaults to 0.05.
    pub fn jitter(mut self, part: f64) -> Self {
        self.options = self.options.jitter(part);
        self
    }

    /// How eagerly a value is loaded again before it expires: [`LoadOptions::early_refresh`]. Defaults to 1.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.options = self.options.early_refresh(beta);
        self
    }

    /// For how long it is remembered that the loader found nothing: [`LoadOptions::negative_ttl`]. Defaults to not
    /// at all.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.negative_ttl(ttl);
        self
    }

    /// How long a caller waits for a refresh before it takes the stale value: [`LoadOptions::soft_timeout`].
    /// Defaults to zero.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.options = self.options.soft_timeout(timeout);
        self
    }

    /// How long a load may take: [`LoadOptions::hard_timeout`]. Defaults to 30 seconds.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.options = self.options.hard_timeout(timeout);
        self
    }

    /// After which time others load in the place of a process that died: [`LoadOptions::lease`]. Defaults to 3
    /// seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options = self.options.lease(lease);
        self
    }

    /// Keeps decoded values in this process, for as long as the store tells of every change to them. A hit
    /// costs no round trip, decodes nothing and copies nothing. Defaults to false: see `docs/near-cache.md` for
    /// when it pays.
    pub fn near(mut self, yes: bool) -> Self {
        self.near = yes;
        self
    }

    /// How long a value stays near at most: [`LoadOptions::near_ttl`]. Defaults to 5 minutes.
    pub fn near_ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.near_ttl(ttl);
        self
    }

    /// A part of the client's near budget for this namespace alone: it takes no more, and others take none of it.
    /// Defaults to sharing what is left with the other namespaces.
    pub fn near_max_bytes(mut self, bytes: u64) -> Self {
        self.near_max_bytes = Some(bytes);
        self
    }

    /// Has the server tell of every change under this prefix, over a connection of its own, in place of remembering
    /// which keys were read: for many readers of few keys that seldom change. Defaults to false.
    pub fn broadcast(mut self, yes: bool) -> Self {
        self.broadcast = yes;
        self
    }

    /// Reads a value that cannot be decoded (an older schema, another codec) as missing, and counts it as an
    /// error; a loader writes over it. Defaults to false: it is an error.
    pub fn undecodable_as_miss(mut self, yes: bool) -> Self {
        self.undecodable_as_miss = yes;
        self
    }

    /// How many bytes a value may have as JSON, at most 512 MiB. A larger one is neither written nor decoded. Worth
    /// setting where others than this program write, since a value takes more memory decoded than as text. Defaults to
    /// the client's [`max_json_bytes`](crate::Builder::max_json_bytes).
    pub fn max_json_bytes(mut self, bytes: u64) -> Self {
        self.max_json_bytes = Some(bytes);
        self
    }

    /// Where values come from: [`get`](Namespace::get) then loads what is missing. It gives a `T`, an `Option<T>`
    /// or a [`Loaded<T>`](crate::Loaded), and borrows nothing: a load goes on when its caller is gone, and a stale value is
    /// loaded again in the background. Defaults to none.
    pub fn loader<F, Fut, L, E>(mut self, loader: F) -> Self
    where
        K: Sized + Clone + Send + Sync + 'static,
        T: Send + Sync + 'static,
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let loader = Arc::new(loader);
        self.loader = Some(Arc::new(move |key: &K| {
            let (loader, key) = (Arc::clone(&loader), key.clone());
            Detached::new(move || {
                let loading = loader(key.clone());
                Box::pin(async move { into_loaded(loading.await) })
            })
        }));
        self
    }

    /// The namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an empty name, one with control characters, one that ends in `:`, or options
    /// that are wrong; all of it at once.
    pub fn build(self) -> Result<Namespace<K, T>> {
        let mut mistakes = self.options.mistakes();
        if self.name.is_empty() {
            mistakes.push("the namespace has no name".to_owned());
        }
        if self.name.chars().any(char::is_control) {
            mistakes.push("the namespace's name has control characters".to_owned());
        }
        if self.name.ends_with(':') {
            mistakes.push("the namespace's name ends in `:`, which is added by itself".to_owned());
        }
        if !self.near {
            for (name, is_set) in
                [("near_max_bytes", self.near_max_bytes.is_some()), ("broadcast", self.broadcast)]
            {
                if is_set {
                    mistakes.push(format!("{name} has no effect without near(true)"));
                }
            }
        }
        if self.near_max_bytes == Some(0) {
            mistakes.push("near_max_bytes is 0; leave near off instead".to_owned());
        }
        mistakes.extend(self.max_json_bytes.and_then(JsonLimit::mistake));
        if !mistakes.is_empty() {
            return Err(Error::new(ErrorKind::Config, mistakes.join("; ")).with_op("namespace"));
        }
        let name: Arc<str> = self.name.into();
        let lane = match (self.broadcast, self.near) {
            (true, _) => Lane::Broadcast(format!("{name}:").into()),
            (false, true) => Lane::Tracked,
            // Nothing is kept: the server need not remember who read it.
            (false, false) => Lane::Data,
        };
        let namespace = Namespace {
            client: self.client,
            name,
            options: self.options,
            near: self.near,
            near_max_bytes: self.near_max_bytes,
            lane,
            undecodable_as_miss: self.undecodable_as_miss,
            json_limit: self.max_json_bytes.map(JsonLimit::of),
            loader: self.loader,
            family: OnceLock::new(),
            types: PhantomData,
        };
        namespace.bind().map_err(|error| error.with_op("namespace"))?;
        Ok(namespace)
    }
}

impl<K: ?Sized, T> fmt::Debug for NamespaceBuilder<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceBuilder")
            .field("name", &self.name)
            .field("options", &self.options)
            .field("near", &self.near)
            .finish_non_exhaustive()
    }
}
