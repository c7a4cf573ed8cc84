#![allow(unused_variables)]

use larder::cached;

#[cached(namespace = "user", ttl = "5m")]
async fn missing(tenant: &str, id: u64) -> u64 {
    id
}

#[cached(namespace = "user", ttl = "5m")]
async fn missing_without_arguments() -> u64 {
    7
}

#[cached(namespace = "user", key = "{user_id}", ttl = "5m")]
async fn no_argument(tenant: &str, id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{self.id}", ttl = "5m")]
async fn no_self(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "all", ttl = "5m")]
async fn the_same_for_all(db: &str, id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{a}-{b}", ttl = "5m")]
async fn not_injective(a: &str, b: &str) -> u64 {
    7
}

#[cached(namespace = "user", key = "{id:05}", ttl = "5m")]
async fn formatted(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{}", ttl = "5m")]
async fn positional(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id}::x", ttl = "5m")]
async fn empty_part(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{id", ttl = "5m")]
async fn open_brace(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = "{hash(id)}", ttl = "5m")]
async fn a_call(id: u64) -> u64 {
    id
}

#[cached(namespace = "user", key = id, ttl = "5m")]
async fn no_text(id: u64) -> u64 {
    id
}

fn main() {}
