//! What stands in the table: keys and entries that are looked at where they are, without going through pointers. A hit
//! is one lookup, and what it costs is memory that is not in the processor's caches.

use std::any::Any;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use quick_cache::{DefaultHashBuilder, Equivalent, Weighter};
use tokio::time::Instant;

use crate::op::Vouch;

/// What an entry takes beside its key and its encoded value: a slot in the table (88 bytes, in which a short key
/// stands) and its place in the index (8), and what the decoded value's allocations cost (some 50). Decoded values are
/// counted by the length of their encoding, which is about what structs of numbers and texts take.
pub(super) const ENTRY_OVERHEAD: u64 = 144;

/// The longest key that stands in the table itself.
const SHORT: usize = 22;

/// A key in the table.
#[derive(Clone)]
pub(super) enum Name {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Name {
    pub(super) fn new(key: &[u8]) -> Self {
        if key.len() > SHORT {
            return Self::Long(key.into());
        }
        let mut bytes = [0; SHORT];
        bytes[..key.len()].copy_from_slice(key);
        Self::Short(key.len() as u8, bytes)
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.bytes());
    }
}

/// A key that is looked for, with its hash: it is hashed once for all that is done with it.
pub(super) struct Sought<'a> {
    pub(super) hash: u64,
    pub(super) key: &'a [u8],
}

impl Hash for Sought<'_> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<Name> for Sought<'_> {
    #[inline]
    fn equivalent(&self, name: &Name) -> bool {
        self.key == name.bytes()
    }
}

/// Hashes keys, by a seed of its own.
#[derive(Clone, Default)]
pub(crate) struct Hashes(DefaultHashBuilder);

impl Hashes {
    #[inline]
    pub(crate) fn of(&self, key: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(key);
        hasher.finish()
    }
}

impl BuildHasher for Hashes {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher { bytes: self.0.build_hasher(), hash: 0 }
    }
}

/// Hashes the bytes of a key, or takes the hash of one that was hashed before.
pub(crate) struct KeyHasher {
    bytes: <DefaultHashBuilder as BuildHasher>::Hasher,
    hash: u64,
}

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.bytes.write(bytes);
        self.hash = self.bytes.finish();
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.hash = hash;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

/// The times of a value.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    /// When it was read.
    pub(crate) read: Instant,
    /// How old it was then, as far as that is known.
    pub(crate) age: Duration,
    /// Until when it is fresh; nothing for ever.
    pub(crate) fresh_until: Option<Instant>,
    /// Until when it may be kept.
    pub(crate) expires: Instant,
}

/// An entry of the table. Copying it copies one counted pointer.
#[derive(Clone)]
pub(super) struct Entry {
    /// Nothing: it is remembered that there is nothing.
    pub(super) value: Option<Arc<dyn Any + Send + Sync>>,
    // The parts of its vouch.
    cell: &'static AtomicU32,
    generation: u32,
    // On the cache's clock.
    pub(super) expires: u64,
    // Milliseconds from then back to when it stops to be fresh, and to when it was made. Both are rounded towards the
    // safe side: less fresh, and older.
    unfresh: u32,
    lifetime: u32,
    // Of the encoded value.
    bytes: Size,
    /// The number of the room that it came through.
    pub(super) room: u16,
}

/// No entry stays longer: its times fit.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Of an entry that is fresh for as long as it is here.
const ALWAYS: u32 = u32::MAX;

/// How many nanoseconds a millisecond has.
const MILLI: u64 = 1_000_000;

/// What lasts longer need not be asked for by the exact time. A tick is 10 ms at most, and late where a hypervisor lets the
/// core wait that counts them.
const STEADY: u64 = 1_000 * MILLI;

impl Entry {
    pub(super) fn new(
        value: Option<Arc<dyn Any + Send + Sync>>,
        bytes: usize,
        life: Life,
        vouch: Vouch,
        room: u16,
        clock: Clock,
    ) -> Self {
        let back = |from: Duration| {
            let millis = from.as_nanos().div_ceil(u128::from(MILLI));
            u32::try_from(millis).unwrap_or(ALWAYS).min(ALWAYS - 1)
        };
        let (cell, generation) = vouch.parts();
        let ends = life.expires.min(life.read + LONGEST);
        Self {
            value,
            cell,
            generation,
            expires: clock.at(ends),
            unfresh: match life.fresh_until {
                Some(until) if until <= ends => back(ends - until),
                _ => ALWAYS,
            },
            lifetime: back(ends.saturating_duration_since(life.read) + life.age),
            bytes: Size::new(bytes as u64),
            room,
        }
    }

    #[inline]
    pub(super) fn vouch(&self) -> Vouch {
        Vouch::of_parts(self.cell, self.generation)
    }

    /// How old the value is, and for how long it is fresh. Nothing: for as long as it is here.
    #[inline]
    pub(super) fn times(&self, now: u64) -> (u64, Option<u64>) {
        let left = self.expires.saturating_sub(now);
        let age = (u64::from(self.lifetime) * MILLI).saturating_sub(left);
        let fresh = match self.unfresh {
            ALWAYS => None,
            back => Some(left.saturating_sub(u64::from(back) * MILLI)),
        };
        (age, fresh)
    }

    /// Whether it stays as it is for much longer than a tick: here, and fresh or not.
    #[inline]
    pub(super) fn is_steady(&self, now: u64) -> bool {
        let left = self.expires.saturating_sub(now);
        // Not steady at the edge: at `unfresh` before its end.
        let fresh = match self.unfresh {
            ALWAYS => STEADY,
            back => left.saturating_sub(u64::from(back) * MILLI),
        };
        left > STEADY && (fresh == 0 || fresh >= STEADY)
    }

    /// Whether both are the same, and not one put in the other's place.
    pub(super) fn is(&self, other: &Self) -> bool {
        let same = match (&self.value, &other.value) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same && self.expires == other.expires && self.vouch().is(&other.vouch())
    }
}

/// A number of bytes in two of them: eleven bits, and how many zeros follow. It is rounded up, by a thousandth at most.
#[derive(Clone, Copy)]
struct Size(u16);

impl Size {
    const BITS: u32 = 11;

    fn new(bytes: u64) -> Self {
        let zeros = (u64::BITS - bytes.leading_zeros()).saturating_sub(Self::BITS);
        let head = bytes.div_ceil(1 << zeros);
        // Rounding up may have made it longer.
        let (head, zeros) =
            if head >> Self::BITS > 0 { (head >> 1, zeros + 1) } else { (head, zeros) };
        // A value has 2^29 bytes at most: 18 zeros.
        Self(((zeros as u16) << Self::BITS) | head as u16)
    }

    fn get(self) -> u64 {
        let head = self.0 & ((1 << Self::BITS) - 1);
        u64::from(head) << (self.0 >> Self::BITS)
    }
}

/// Counts the nanoseconds since the cache was made.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    made: Instant,
    // The same by the kernel's ticks, where there are any.
    made_by_ticks: Option<u64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { made: Instant::now(), made_by_ticks: ticks() }
    }

    #[inline]
    pub(super) fn at(self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.made).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Now, about a tick late or early. The exact time takes three times as long, and the processor waits in it for what
    /// it has not finished.
    #[inline]
    pub(super) fn ticks(self) -> Option<u64> {
        Some(ticks()?.saturating_sub(self.made_by_ticks?))
    }
}

/// The time at the last tick of the kernel.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn ticks() -> Option<u64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let nanos = time.tv_sec.checked_mul(1_000_000_000)?.checked_add(time.tv_nsec)?;
    u64::try_from(nanos).ok()
}

/// Other systems have no such clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ticks() -> Option<u64> {
    None
}

/// What entries count in the budget.
#[derive(Clone)]
pub(super) struct Weight;

impl Weighter<Name, Entry> for Weight {
    fn weight(&self, key: &Name, entry: &Entry) -> u64 {
        ENTRY_OVERHEAD + key.bytes().len() as u64 + entry.bytes.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(life: Life, clock: Clock) -> Entry {
        Entry::new(None, 100, life, Vouch::new(), 0, clock)
    }

    #[test]
    fn the_times_of_an_entry_are_never_later_than_they_are() {
        let clock = Clock::new();
        let read = clock.made + Duration::from_micros(123_456);
        let at = |micros: u64| clock.at(read + Duration::from_micros(micros));
        let life = Life {
            read,
            age: Duration::from_micros(10_500),
            fresh_until: Some(read + Duration::from_micros(2_700_300)),
            expires: read + Duration::from_micros(5_000_100),
        };
        let kept = entry(life, clock);
        for micros in [0, 1, 1_000_000, 2_600_000, 2_700_299, 2_700_300, 4_000_000, 5_000_099] {
            let (age, fresh) = kept.times(at(micros));
            let true_age = (10_500 + micros) * 1_000;
            assert!((true_age..true_age + 2 * MILLI).contains(&age), "{age} after {micros}");
            let true_fresh = 2_700_300_u64.saturating_sub(micros) * 1_000;
            let fresh = fresh.expect("it ends to be fresh while it is here");
            assert!(fresh <= true_fresh && fresh + MILLI >= true_fresh, "{fresh} after {micros}");
        }
        assert_eq!(kept.expires, at(5_000_100));
        let always = Life { fresh_until: None, ..life };
        assert_eq!(entry(always, clock).times(at(4_000_000)).1, None);
        let outlived = Life { fresh_until: Some(read + Duration::from_secs(60)), ..life };
        assert_eq!(entry(outlived, clock).times(at(4_000_000)).1, None);
        let long = Life { expires: read + Duration::from_secs(100 * 24 * 3600), ..life };
        assert_eq!(entry(long, clock).times(at(2_700_300)).1, Some(0), "for as long as it is here");
        assert_eq!(entry(long, clock).expires, clock.at(read + LONGEST));
        let to_the_end = Life { fresh_until: Some(life.expires), ..life };
        assert_eq!(entry(to_the_end, clock).times(at(5_000_000)).1, Some(100_000));
    }

    #[test]
    fn an_entry_is_steady_unless_it_is_about_to_change() {
        let clock = Clock::new();
        let read = Instant::now();
        let after = |seconds: u64| read + Duration::from_secs(seconds);
        let life = Life { read, age: Duration::ZERO, fresh_until: None, expires: after(10) };
        let steady = |life: Life| {
            let kept = entry(life, clock);
            (0..12).map(|second| kept.is_steady(clock.at(after(second)))).collect::<Vec<_>>()
        };
        let until = |end: usize| (0..12).map(|second| second < end).collect::<Vec<_>>();
        assert_eq!(steady(life), until(9));
        // From fresh to stale after five seconds and a half; for a second before nothing is sure.
        let mixed = Life { fresh_until: Some(read + Duration::from_millis(5_500)), ..life };
        let mut expected = until(9);
        expected[5] = false;
        assert_eq!(steady(mixed), expected);
        assert_eq!(steady(Life { expires: after(1), ..life }), until(0));
        // Steady or not, by ticks no time passes twice.
        if let (Some(one), Some(other)) = (clock.ticks(), clock.ticks()) {
            assert!(one <= other);
        }
    }

    #[test]
    fn sizes_are_rounded_up_by_a_thousandth_at_most() {
        let some = (0..30).flat_map(|power| [(1_u64 << power) - 1, 1 << power, (1 << power) + 1]);
        for bytes in (0..5_000).chain(some) {
            let size = Size::new(bytes).get();
            assert!(size >= bytes && size - bytes <= bytes / 1_000, "{bytes} became {size}");
        }
    }

    #[test]
    fn names_of_every_length_are_found_by_their_bytes() {
        let hashes = Hashes::default();
        for len in 1..40_u8 {
            let key: Vec<u8> = (0..len).collect();
            let name = Name::new(&key);
            assert_eq!(name.bytes(), key);
            assert!(name == Name::new(&key) && name != Name::new(&key[1..]));
            let sought = Sought { hash: hashes.of(&key), key: &key };
            assert!(sought.equivalent(&name) && !sought.equivalent(&Name::new(&key[1..])));
            assert_eq!(
                (hashes.hash_one(&name), hashes.hash_one(&sought)),
                (sought.hash, sought.hash)
            );
        }
    }

    #[test]
    fn a_slot_of_the_table_is_as_large_as_its_overhead_says() {
        // The table adds two links, two words of state and their padding.
        assert_eq!((size_of::<Name>(), size_of::<Entry>()), (24, 48));
    }
}
