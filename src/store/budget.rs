//! The budget of a client: how many calls may be in flight, and how many bytes they may hold.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::op::{Batch, Op};

/// Calls in flight. 512 tasks are far below it; more than that wait for a server that does not answer.
pub(crate) const MAX_IN_FLIGHT: u64 = 1 << 16;

/// Bytes that calls in flight hold: 512 tasks that write 128 KiB each stay within, and so do 65,536 small calls.
pub(crate) const MAX_IN_FLIGHT_BYTES: u64 = 256 << 20;

/// What may be set: a call and its bytes are counted in one number (see [`Load`]).
pub(crate) const CALLS_RANGE: RangeInclusive<u64> = 1..=1 << 20;
pub(crate) const BYTES_RANGE: RangeInclusive<u64> = 1 << 16..=1 << 36;

/// While it waits, each byte of a request is there as what the caller gave, as an argument of its command, and in the
/// queue of its connection.
const COPIES: u64 = 3;

/// What a call holds beside: its futures, which are bounded to about 2.5 KiB (see the tests of the client), its operation,
/// its command and the place for its answer.
const EACH_CALL: u64 = 3 << 10;

/// The same of each operation after the first.
const EACH_OPERATION: u64 = 512;

/// What a call that was given up leaves in the queue of its connection is not counted below this size: with a queue
/// of 1,024 that is at most 4 MiB a connection.
const LITTLE: usize = 4 << 10;

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
}

impl Limits {
    /// For a store that nobody waits for.
    pub(crate) const NONE: Self = Self { calls: u64::MAX, bytes: u64::MAX };
}

/// Calls, and the bytes that they hold: 24 bits for the calls over 40 bits for the bytes, so that one addition counts
/// both. 2^20 calls and, of each of 16 threads that is about to be refused, 2^36 bytes beyond the limit fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load(pub(super) u64);

impl Load {
    const BYTES: u32 = 40;

    /// A call whose bytes nobody asks for.
    pub(super) const CALL: Self = Self(1 << Self::BYTES);

    /// What a call holds while it waits.
    pub(super) fn of(batch: &Batch) -> Self {
        let request = request_bytes(batch) as u64;
        let more = batch.ops().len().saturating_sub(1) as u64;
        let bytes = EACH_CALL + more * EACH_OPERATION + request.saturating_mul(COPIES);
        Self::with(1, bytes.min(*BYTES_RANGE.end() + 1))
    }

    pub(super) fn with(calls: u64, bytes: u64) -> Self {
        Self(calls << Self::BYTES | bytes)
    }

    pub(super) fn calls(self) -> u64 {
        self.0 >> Self::BYTES
    }

    pub(super) fn bytes(self) -> u64 {
        self.0 & ((1 << Self::BYTES) - 1)
    }
}

/// About how many bytes are sent for a batch.
pub(crate) fn request_bytes(batch: &Batch) -> usize {
    batch.ops().iter().map(Op::bytes).sum()
}

/// Bytes that calls left in the queues of connections when they were given up. A driver frees them when it gets there,
/// which is when the server reads on.
#[derive(Debug, Default)]
pub(crate) struct Backlog(AtomicUsize);

impl Backlog {
    /// Whether a request is large enough to be counted.
    pub(super) fn counts(bytes: usize) -> bool {
        bytes > LITTLE
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst) as u64
    }
}
