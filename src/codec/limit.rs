//! How large a JSON document may be.

use crate::error::{Error, ErrorKind, Result};
use crate::key::MAX_BYTES;

/// What a client writes and decodes unless it is told otherwise: 64 MiB, as much as all its near caches and an embedded
/// store hold together. A document takes more memory decoded than as text: a small one that is made for it forty
/// times as much.
const USUAL: usize = 64 << 20;

/// The most bytes of a JSON document that is written or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonLimit(usize);

impl Default for JsonLimit {
    fn default() -> Self {
        Self(USUAL)
    }
}

impl JsonLimit {
    /// At most so many bytes; no store takes more than [`MAX_BYTES`], and [`mistake`](Self::mistake) says so.
    pub(crate) fn of(bytes: u64) -> Self {
        Self(usize::try_from(bytes).unwrap_or(MAX_BYTES).min(MAX_BYTES))
    }

    /// What is wrong with a limit of so many bytes.
    pub(crate) fn mistake(bytes: u64) -> Option<String> {
        let range = 1..=MAX_BYTES as u64;
        (!range.contains(&bytes))
            .then(|| format!("max_json_bytes is {bytes}; it is from 1 to {MAX_BYTES}"))
    }

    pub(super) fn bytes(self) -> usize {
        self.0
    }

    /// Refuses a document before anything is made of it.
    pub(super) fn check(self, json: &[u8]) -> Result<()> {
        if json.len() <= self.0 {
            return Ok(());
        }
        let (len, most) = (json.len(), self.0);
        Err(Error::new(
            ErrorKind::Decode,
            format!(
                "the stored value has {len} bytes, more than the {most} that are decoded; read it by \
                 get_bytes, or raise max_json_bytes"
            ),
        ))
    }
}
