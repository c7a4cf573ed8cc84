use larder::cached;
use serde::{Deserialize, Serialize};

#[derive(Debug)]
struct DbError;

impl std::fmt::Display for DbError {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl std::error::Error for DbError {}

#[derive(Serialize, Deserialize)]
struct NotClone;

struct Handle;

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn error_without_from(id: u64) -> Result<u64, DbError> {
    Ok(id)
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn value_without_clone(id: u64) -> Option<NotClone> {
    (id > 0).then_some(NotClone)
}

#[cached(namespace = "user", key = "{id}", ttl = "5m")]
async fn argument_without_clone(handle: Handle, id: u64) -> u64 {
    drop(handle);
    id
}

fn main() {}
