//! What is stored: plain text and plain JSON that any language reads (`docs/interop.md`).

mod decode;
mod encode;
pub mod json;
mod limit;
mod text;

pub use text::IntoValue;
pub(crate) use {
    decode::decode_json,
    encode::{Shape, encode_json},
    limit::JsonLimit,
    text::decode_text,
};
