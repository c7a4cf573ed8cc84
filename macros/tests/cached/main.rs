//! What a `#[cached]` function does, on both stores.

mod failures;
mod functions;
mod reads;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::CacheClient;
use larder::testing::RedisServer;
use serde::{Deserialize, Serialize};

/// A server of its own, and both stores by name. The server lives as long as what is given.
async fn both() -> (RedisServer, [(&'static str, CacheClient); 2]) {
    let server = RedisServer::start().await;
    let redis = CacheClient::connect(server.url()).await.unwrap();
    (server, [("Redis", redis), ("embedded", CacheClient::memory())])
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
}

/// An origin that counts how often it is asked.
#[derive(Debug, Clone, Default)]
struct Db(Arc<AtomicU64>);

impl Db {
    fn asked(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    async fn find(&self, id: u64) -> Result<User, DbError> {
        let asked = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::task::yield_now().await;
        match id {
            0 => Err(DbError::NoSuchUser),
            id => Ok(User { id, name: format!("user {asked}") }),
        }
    }
}

#[derive(Debug, Clone)]
enum DbError {
    NoSuchUser,
    Cache(larder::Error),
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchUser => f.write_str("no such user"),
            Self::Cache(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DbError {}

impl From<larder::Error> for DbError {
    fn from(error: larder::Error) -> Self {
        Self::Cache(error)
    }
}
