//! Locks over several servers, made of a client for each.

use std::sync::Arc;

use super::CacheClient;
use crate::error::Result;
use crate::lock::QuorumLock;

impl QuorumLock {
    /// A lock over the servers of `clients`, by its name, under the key `lock:` and the name at each of them. Three
    /// servers or more, each once, and an odd number of them; everybody has to name the same ones. They must not be
    /// replicas of each other, and not run on one machine.
    ///
    /// Two clients of one address are found out when the lock is acquired; two names of one server, and sessions
    /// from a provider, are not.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use larder::{CacheClient, QuorumLock};
    /// let mut servers = Vec::new();
    /// for host in ["a.example", "b.example", "c.example"] {
    ///     // Not `connect`, which fails if a server is down.
    ///     servers.push(CacheClient::builder().url(format!("redis://{host}")).build()?);
    /// }
    /// let guard = QuorumLock::new(&servers, "report").acquire().await?;
    /// # guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn new<'c>(
        clients: impl IntoIterator<Item = &'c CacheClient>,
        name: impl AsRef<str>,
    ) -> Self {
        let servers: Result<Vec<CacheClient>> =
            clients.into_iter().map(CacheClient::settled).collect();
        let same = servers.as_ref().ok().and_then(|servers| same(servers));
        let locks = servers
            .map(|servers| servers.iter().map(|client| Arc::clone(&client.0.locks)).collect());
        Self::over(locks, same, name.as_ref())
    }
}

/// The first two that certainly ask one server.
fn same(clients: &[CacheClient]) -> Option<(usize, usize)> {
    let address = |client: &CacheClient| client.0.redis.as_ref()?.address();
    let addresses: Vec<_> = clients.iter().map(address).collect();
    let pairs = (0..clients.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
    pairs.into_iter().find(|&(one, other)| {
        Arc::ptr_eq(&clients[one].0, &clients[other].0)
            || (addresses[one].is_some() && addresses[one] == addresses[other])
    })
}
