//! What reads bytes from outside, each by itself: for the targets of `fuzz/`. No part of the API, and changes without
//! notice.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{JsonLimit, Shape, decode_json, decode_text, encode_json};
use crate::error::{Error, Result};
use crate::op::Replies;
use crate::store::InvalidationSink;
use crate::store::redis::readers;
use crate::store::url::{Target, masked};

/// A stored value as JSON.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    decode_json(bytes, Shape::Any, JsonLimit::default())
}

/// A value as it is stored.
pub fn stored<T: Serialize>(value: &T) -> Result<Bytes> {
    encode_json(value, Shape::Any, JsonLimit::default())
}

/// A stored value as text.
pub fn text(bytes: &[u8]) -> Result<String> {
    decode_text(Bytes::copy_from_slice(bytes))
}

/// A store URL; what is shown of it.
pub fn url(url: &str) -> Result<String> {
    Target::parse(url).map(|_| masked(url))
}

/// Whether the driver takes the bytes for one reply.
pub fn is_reply(bytes: &[u8]) -> bool {
    readers::is_reply(bytes)
}

/// A server's reply as the answer to every kind of operation, one after the other.
pub fn replies(bytes: &[u8], answered: impl FnMut(Result<Replies>)) {
    readers::replies(bytes, answered);
}

/// A reply as what nodes and sentinels say of where to go: what was refused.
pub fn topology(bytes: &[u8]) -> Vec<Error> {
    readers::topology(bytes)
}

/// Pushes that are told to `sink`: how many, and whether their connection still vouches for anything.
pub fn pushes(bytes: &[u8], sink: Arc<dyn InvalidationSink>) -> (usize, bool) {
    readers::pushes(bytes, sink)
}
