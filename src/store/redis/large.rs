//! Large requests and answers, and how small calls get past them: over another connection, since answers come in the order of
//! the requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::link::{Link, Live};
use crate::key::SLOTS;
use crate::op::{Batch, Fetched, Op, Replies, Reply};

/// From here on others do not wait behind it: at 10 Gbit/s it is on its way for about 50 µs, as long as a round trip within
/// a data centre.
pub(super) const LARGE: usize = 64 << 10;

/// Which keys had a large value when they were read or written last, by the slots of a cluster: how large an answer is cannot
/// be known before. Keys that share a slot are taken for each other, which costs nothing but the choice of a connection.
pub(super) struct LargeValues {
    // Most clients never see one.
    any: AtomicBool,
    slots: Box<[AtomicU64]>,
}

impl Default for LargeValues {
    fn default() -> Self {
        let slots = (0..SLOTS / 64).map(|_| AtomicU64::new(0)).collect();
        Self { any: AtomicBool::new(false), slots }
    }
}

impl LargeValues {
    /// Whether a batch whose request has so many bytes is large, or its answer is likely to be.
    pub(super) fn expected(&self, batch: &Batch, bytes: usize) -> bool {
        bytes > LARGE || (self.any.load(Ordering::Relaxed) && self.was_large(batch))
    }

    fn was_large(&self, batch: &Batch) -> bool {
        batch.is_read()
            && batch.sole_key().is_some_and(|key| {
                let (cell, bit) = self.place(key.slot());
                cell.load(Ordering::Relaxed) & bit != 0
            })
    }

    fn place(&self, slot: u16) -> (&AtomicU64, u64) {
        let slot = usize::from(slot);
        (&self.slots[slot / 64], 1 << (slot % 64))
    }

    /// Remembers how large the value of a key was, of which a call has just read or written it.
    pub(super) fn learn(&self, batch: &Batch, replies: &Replies) {
        let [Ok(reply)] = replies.results() else { return };
        let bytes = match (batch.ops(), reply) {
            (_, Reply::Value(Some(value))) => value.len(),
            (_, Reply::Fetched(found)) => match &found[..] {
                [Fetched { value: Some(value), .. }] => value.len(),
                _ => return,
            },
            (_, Reply::List(elements)) => elements.iter().map(|element| element.len()).sum(),
            (_, Reply::Pairs(pairs)) => {
                pairs.iter().map(|(field, value)| field.len() + value.len()).sum()
            }
            ([Op::Set { value, .. } | Op::Overwrite { value, .. }], _)
            | ([Op::Fill { value, .. }], Reply::Filled { accepted: true, .. }) => value.len(),
            _ => return,
        };
        let large = bytes > LARGE;
        if !large && !self.any.load(Ordering::Relaxed) {
            return;
        }
        let Some(key) = batch.sole_key() else { return };
        let (cell, bit) = self.place(key.slot());
        let known = cell.load(Ordering::Relaxed) & bit != 0;
        if large && !known {
            cell.fetch_or(bit, Ordering::Relaxed);
            self.any.store(true, Ordering::Relaxed);
        } else if known && !large {
            cell.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// One of several connections that is up; else the one that is to be waited for.
///
/// What is large goes over the last. Anything else goes over one by chance (a turn would be kept where all threads write), or
/// past it if something large is on its way there and not on another. While it is down and another one is up, that one, and the
/// first is dialled meanwhile: a call waits only if all are down.
pub(super) fn at_hand(links: &[Link], large: bool) -> Result<(&Link, Live), &Link> {
    let link = match links {
        [link] => link,
        [.., last] if large => last,
        several => &several[fastrand::usize(..several.len())],
    };
    match link.current() {
        Some(live) if large || links.len() == 1 || !live.pulse.is_busy() => Ok((link, live)),
        Some(live) => {
            let free =
                |link| Some((link, Link::current(link)?)).filter(|(_, live)| !live.pulse.is_busy());
            Ok(links.iter().find_map(free).unwrap_or((link, live)))
        }
        None => {
            let other = links.iter().find_map(|link| Some((link, link.current()?))).ok_or(link)?;
            link.dial();
            Ok(other)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::key::Key;
    use crate::ttl::Ttl;

    #[test]
    fn a_key_with_a_large_value_is_known_until_its_value_is_small() {
        let answers = LargeValues::default();
        let get = |key| Batch::one("get", Op::Get { key: Key::new(key).unwrap() });
        let set = |bytes: usize| {
            let value = Bytes::from(vec![0; bytes]);
            let key = Key::new("k").unwrap();
            Batch::one("set", Op::Set { key, value, expiry: None, only_if: None })
        };
        let answer = |bytes| Replies::one(Ok(Reply::Value(Some(Bytes::from(vec![0; bytes])))));
        let expected = |batch: &Batch| answers.expected(batch, crate::store::request_bytes(batch));
        assert!(expected(&set(LARGE)) && !expected(&set(LARGE - 1)));
        assert!(!expected(&get("k")));
        answers.learn(&get("k"), &answer(LARGE + 1));
        assert!(expected(&get("k")) && !expected(&get("another")) && !expected(&set(1)));
        answers.learn(&get("k"), &answer(LARGE));
        assert!(!expected(&get("k")));
        let written = Replies::one(Ok(Reply::Bool(true)));
        answers.learn(&set(LARGE + 1), &written);
        assert!(expected(&get("k")));
        answers.learn(&set(1), &written);
        assert!(!expected(&get("k")));
        // Read through: what is not there says nothing of what was.
        let fetch = Batch::one("get", Op::Fetch { keys: vec![Key::new("k").unwrap()] });
        let found =
            |value| Replies::one(Ok(Reply::Fetched(vec![Fetched { value, ttl: Ttl::Persistent }])));
        answers.learn(&fetch, &found(Some(Bytes::from(vec![0; LARGE + 1]))));
        answers.learn(&fetch, &found(None));
        assert!(expected(&get("k")));
        answers.learn(&fetch, &found(Some(Bytes::new())));
        assert!(!expected(&get("k")));
    }
}
