//! The ten lines of the README: connect, write with a time to live, read back, see the hit rate.
//!
//! ```sh
//! cargo run --example quickstart                              # the embedded store
//! cargo run --example quickstart -- redis://127.0.0.1:6379    # a server
//! ```
//!
//! It prints:
//!
//! ```text
//! found: Some(User { id: 7, name: "Ada" })
//! not there: None
//! hit rate of user: 50 %
//! ```

use std::time::Duration;

use larder::CacheClient;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
}

#[tokio::main]
async fn main() -> larder::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let cache = CacheClient::connect(url).await?;

    let users = cache.namespace::<u64, User>("user").ttl(Duration::from_secs(300)).build()?;
    users.set(&7, &User { id: 7, name: "Ada".into() }).await?; // user:7 = {"id":7,"name":"Ada"}
    println!("found: {:?}", users.get(&7).await?);
    println!("not there: {:?}", users.get(&8).await?);

    let hit_rate = cache.stats().namespaces["user"].hit_rate().unwrap_or_default();
    println!("hit rate of user: {:.0} %", hit_rate * 100.0);
    users.delete(&7).await?;
    cache.close().await;
    Ok(())
}
