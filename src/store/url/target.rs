//! A server, and who we are there.

use std::fmt;
use std::sync::Arc;

use secrecy::SecretString;

use super::{Address, Hidden, UrlOptions};
#[cfg(feature = "tls")]
use crate::store::tls::{Connector, Tls};
use crate::store::{AnyCredentials, Backlog};

/// A Redis or Valkey server, and who we are there. `Debug` hides the credentials.
pub(crate) struct RedisTarget {
    pub(crate) address: Address,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<SecretString>,
    pub(crate) db: i64,
    pub(crate) options: UrlOptions,
    /// Gives other credentials than those above, for each connection.
    pub(crate) credentials: Option<Arc<dyn AnyCredentials>>,
    /// What calls that were given up have left in the queues of all connections to it.
    pub(crate) backlog: Arc<Backlog>,
    /// Whether it is a replica that is to answer reads.
    pub(crate) is_replica: bool,
    /// The settings of TLS, if it is to be used.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    /// What they come to.
    #[cfg(feature = "tls")]
    pub(crate) connector: Option<Connector>,
}

impl RedisTarget {
    pub(super) fn new(
        address: Address,
        (username, password): super::Credentials,
        db: i64,
        options: UrlOptions,
    ) -> Self {
        Self {
            address,
            username,
            password,
            db,
            options,
            credentials: None,
            backlog: Arc::default(),
            is_replica: false,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            connector: None,
        }
    }

    /// The same at another address. Over TLS its certificate has to be good for that host.
    pub(crate) fn at(&self, address: &Address) -> Self {
        Self {
            address: address.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            db: self.db,
            options: self.options.clone(),
            credentials: self.credentials.clone(),
            backlog: Arc::clone(&self.backlog),
            is_replica: self.is_replica,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            #[cfg(feature = "tls")]
            connector: self.connector.clone(),
        }
    }

    /// Reads the files that TLS needs, if it is to be used. To be called before anything is connected.
    ///
    /// # Errors
    /// Every mistake.
    #[cfg(feature = "tls")]
    pub(crate) fn secure(&mut self) -> Result<(), Vec<String>> {
        let Some(tls) = &self.tls else { return Ok(()) };
        match &mut self.address {
            Address::Tcp { host, .. } => self.connector = Some(tls.connector([host.as_str()])?),
            Address::Sentinels(sentinels) => {
                // Nobody else has them yet; if somebody had, nothing would be dialled: see `is_secured`.
                if let Some(sentinels) = Arc::get_mut(sentinels) {
                    self.connector = Some(sentinels.secure(tls)?);
                }
            }
            Address::Unix(_) => {}
        }
        Ok(())
    }

    /// Whether it can be dialled as it is to be: nothing is ever sent in plain text to whom TLS is wanted with.
    #[cfg(feature = "tls")]
    pub(crate) fn is_secured(&self) -> bool {
        self.tls.is_none() || self.connector.is_some()
    }

    /// Without the feature `tls` no URL asks for it.
    #[cfg(not(feature = "tls"))]
    pub(crate) fn secure(&mut self) -> Result<(), Vec<String>> {
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn is_secured(&self) -> bool {
        true
    }
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTarget")
            .field("address", &self.address)
            .field("username", &self.username.as_ref().map(|_| Hidden))
            .field("password", &self.password.as_ref().map(|_| Hidden))
            .field("db", &self.db)
            .field("options", &self.options)
            .finish()
    }
}
