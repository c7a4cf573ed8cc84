use larder::{CacheClient, cached};

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
fn not_async(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
struct NoFunction;

trait Users {
    #[cached(namespace = "user", key = "{id}", ttl = "5m", cache = larder::cache())]
    async fn no_body(&self, id: u64) -> u64;
}

struct Repo {
    cache: CacheClient,
}

impl Repo {
    #[cached(namespace = "user", key = "{id}", ttl = "5m")]
    async fn self_without_cache(&self, id: u64) -> u64 {
        id
    }

    #[cached(namespace = "user", key = "{id}", ttl = "5m", cache = self.cache)]
    async fn by_value(self, id: u64) -> u64 {
        id
    }

    #[cached(namespace = "user", key = "{id}", ttl = "5m", cache = self.cache)]
    async fn by_mut(&mut self, id: u64) -> u64 {
        id
    }
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", cache = self.cache)]
async fn no_self(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn taken_apart((id, _): (u64, u64)) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn changed(id: u64, seen: &mut Vec<u64>) -> u64 {
    seen.push(id);
    id
}

#[cached(namespace = "user", key = "{id}", ttl = "5m", skip(db, id))]
async fn skipped(id: u64) -> u64 {
    id
}

fn main() {}
