//! Who we are at a server, asked anew for every connection.

use std::fmt;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::error::{Error, ErrorKind, Outcome, Result};

/// A name and a password. `Debug` hides both.
#[derive(Clone)]
pub struct Credentials {
    /// The ACL user; without one, the server's default user.
    pub username: Option<String>,
    /// The password, or the token that stands for one.
    pub password: SecretString,
}

impl Credentials {
    /// Those of the server's default user.
    pub fn password(password: impl Into<SecretString>) -> Self {
        Self { username: None, password: password.into() }
    }

    /// Those of an ACL user.
    pub fn user(username: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self { username: Some(username.into()), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// Gives the credentials for a connection: passwords that are rotated, tokens that live for minutes. Any
/// `Fn() -> impl Future<Output = Result<Credentials, E>>` is one.
///
/// It is asked for every connection that is opened, within the time that connecting may take, so it should answer from what
/// it has and refresh that on its own. A connection that the server has let in stays in until the server ends it; when it
/// wants other credentials (`NOAUTH`), the connection is given up and opened again with new ones. A failure counts
/// as an attempt to connect that failed, and is tried again while calls wait.
pub trait CredentialsProvider: Send + Sync + 'static {
    /// The credentials as they are now.
    fn credentials(&self) -> impl Future<Output = Result<Credentials>> + Send;
}

impl<F, Fut, E> CredentialsProvider for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Credentials, E>> + Send,
    E: std::error::Error + Send + Sync + 'static,
{
    async fn credentials(&self) -> Result<Credentials> {
        self().await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the credentials provider failed")
                .with_outcome(Outcome::NotSent)
                .with_source(error)
        })
    }
}

/// A provider whose type is forgotten.
pub(crate) trait AnyCredentials: Send + Sync {
    fn ask(&self) -> BoxFuture<'_, Result<Credentials>>;
}

impl<P: CredentialsProvider> AnyCredentials for P {
    fn ask(&self) -> BoxFuture<'_, Result<Credentials>> {
        self.credentials().boxed()
    }
}
