//! What is read and written: keys, values, documents.

use std::time::Duration;

use larder::CacheClient;
use larder::testing::RedisServer;
use serde::{Deserialize, Serialize};

use crate::Result;

/// How many keys each kind of value is spread over.
pub(crate) const KEYS: usize = 1024;

/// Keys of a pipeline or of a call for many keys.
pub(crate) const MANY: usize = 100;

/// A document whose JSON has about 1 KB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    id: u64,
    name: String,
    email: String,
    active: bool,
    score: f64,
    tags: Vec<String>,
    addresses: Vec<Address>,
    about: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Address {
    street: String,
    city: String,
    postcode: String,
    country: String,
}

impl Profile {
    pub(crate) fn example() -> Self {
        Self::numbered(18_151_210)
    }

    /// One of many, which can be told apart.
    pub(crate) fn numbered(id: u64) -> Self {
        let address = |city: &str| Address {
            street: "12 St James's Square".to_owned(),
            city: city.to_owned(),
            postcode: "SW1Y 4JH".to_owned(),
            country: "United Kingdom".to_owned(),
        };
        Self {
            id,
            name: "Ada Lovelace".to_owned(),
            email: "ada.lovelace@example.com".to_owned(),
            active: true,
            score: 99.5,
            tags: ["mathematics", "engines", "poetry", "translation", "flight", "music"]
                .map(str::to_owned)
                .to_vec(),
            addresses: ["London", "Ockham", "Kirkby Mallory"].map(address).to_vec(),
            about: "The Analytical Engine has no pretensions whatever to originate anything. "
                .repeat(6),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

/// A value of 100 bytes.
pub(crate) fn value() -> String {
    "v".repeat(100)
}

/// The keys of strings.
pub(crate) fn key(number: usize) -> String {
    format!("bench:value:{:04}", number % KEYS)
}

/// The keys of documents.
pub(crate) fn document_key(number: usize) -> String {
    format!("bench:document:{:04}", number % KEYS)
}

/// Longer than any run: nothing expires while it is measured.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 3600);

/// How many documents near caches hold.
pub(crate) const NEAR: u64 = 10_000;

/// The namespace of the documents that are kept near. The key of document 7 is `doc:7`.
pub(crate) const NEAR_NAME: &str = "doc";

/// Writes every document that is to be near.
pub(crate) async fn fill_near(server: &RedisServer) -> Result<()> {
    let cache = CacheClient::connect(server.url()).await?;
    let documents = cache.namespace::<u64, Profile>(NEAR_NAME).ttl(LIFE).build()?;
    let numbers: Vec<u64> = (0..NEAR).collect();
    for some in numbers.chunks(1000) {
        documents.set_many(some.iter().map(|id| (*id, Profile::numbered(*id)))).await?;
    }
    cache.close().await;
    Ok(())
}

/// Writes every key once, so that every read finds something.
pub(crate) async fn fill(server: &RedisServer) -> Result<()> {
    let cache = CacheClient::connect(server.url()).await?;
    let (value, profile) = (value(), Profile::example());
    let mut group = cache.pipeline();
    for number in 0..KEYS {
        group = group.set_value(key(number), value.as_str(), None);
        group = group.set_dict(document_key(number), &profile, None);
    }
    for result in group.run().await? {
        result?;
    }
    cache.close().await;
    Ok(())
}
