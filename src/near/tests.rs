use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;
use crate::stats::Recorder;

fn key(name: impl AsRef<[u8]>) -> Key {
    Key::new(name).unwrap()
}

/// A room of `near`, and who counts for it.
fn room(near: &Near, max_bytes: Option<u64>) -> (Room, Recorder) {
    let recorder = Recorder::new(8);
    let room = near.room(max_bytes, recorder.reads(b"n"), true).unwrap();
    (room, recorder)
}

fn for_a_minute() -> Life {
    let now = Instant::now();
    let expires = now + Duration::from_secs(60);
    Life { read: now, age: Duration::ZERO, fresh_until: None, expires }
}

fn keep<T: Send + Sync + 'static>(
    room: &Room,
    key: &Key,
    value: T,
    bytes: usize,
    vouch: &Vouch,
) -> bool {
    room.begin(key).insert(Some(Arc::new(value)), bytes, for_a_minute(), vouch)
}

fn near<T: Copy + Send + Sync + 'static>(room: &Room, key: &Key) -> Option<T> {
    let hit = room.get::<T>(key.as_bytes())?;
    Some(*hit.value.expect("no test remembers that there is nothing"))
}

/// A value that says how many bytes of its kind there are.
struct Blob {
    bytes: Vec<u8>,
    alive: Arc<AtomicU64>,
}

impl Blob {
    fn new(len: usize, alive: &Arc<AtomicU64>) -> Self {
        alive.fetch_add(len as u64, Ordering::Relaxed);
        Self { bytes: vec![b'x'; len], alive: Arc::clone(alive) }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

#[test]
fn entries_of_every_size_stay_within_the_budget() {
    const BUDGET: u64 = 32 << 20;
    // 100 B to 1 MB, and all of them mixed.
    let sizes: [&[usize]; 6] = [
        &[100],
        &[1_000],
        &[10_000],
        &[100_000],
        &[1_000_000],
        &[100, 100, 100, 100, 1_000, 1_000, 10_000, 100_000, 1_000_000],
    ];
    let vouch = Vouch::new();
    for sizes in sizes {
        let near = Near::new(BUDGET);
        let (room, _recorder) = room(&near, None);
        let alive = Arc::new(AtomicU64::new(0));
        let (mut counted, mut held, mut most) = (0, 0, 0);
        let (mut given, mut at) = (0, 0);
        while given < 3 * BUDGET {
            let len = sizes[at % sizes.len()];
            keep(&room, &key(format!("n:{at}")), Blob::new(len, &alive), len, &vouch);
            let (entries, bytes) = near.usage();
            (counted, most) = (bytes.max(counted), entries.max(most));
            held = alive.load(Ordering::Relaxed).max(held);
            given += len as u64 + entry::ENTRY_OVERHEAD;
            at += 1;
        }
        let part = |bytes: u64| bytes as f64 * 100.0 / BUDGET as f64;
        println!(
            "P17: {at} entries of {sizes:?} bytes: {most} at most, peak {counted} of {BUDGET} bytes ({:.1} %), of values alone {held}",
            part(counted)
        );
        assert!(part(counted) <= 105.0 && part(held) <= 105.0, "{counted} counted, {held} held");
        assert!(part(counted) >= 50.0, "of the budget {counted} bytes were used");
        drop(room);
        drop(near);
        assert_eq!(alive.load(Ordering::Relaxed), 0, "values outlive their cache");
    }
    vouch.end();
}

#[test]
fn a_room_of_its_own_keeps_to_its_cap_and_gives_it_back() {
    const BUDGET: u64 = 1 << 20;
    let near = Near::new(BUDGET);
    let vouch = Vouch::new();
    let (shared, _shared) = room(&near, None);
    let (own, _own) = room(&near, Some(BUDGET * 3 / 4));
    let refused = near.room(Some(BUDGET / 2), Recorder::new(8).reads(b"n"), true).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.detail().contains("262144 of the client's 1048576 are left"), "{refused}");
    let fill = |room: &Room| {
        for at in 0..4_000 {
            keep(room, &key(format!("n:{at}")), at, 1_000, &vouch);
        }
        room.table.weight()
    };
    let within = |bytes: u64, cap: u64| (cap * 8 / 10..=cap * 105 / 100).contains(&bytes);
    let (of_shared, of_own) = (fill(&shared), fill(&own));
    println!("caps: {of_shared} of {} and {of_own} of {}", BUDGET / 4, BUDGET * 3 / 4);
    assert!(within(of_shared, BUDGET / 4) && within(of_own, BUDGET * 3 / 4));
    assert_eq!(near.usage().1, of_shared + of_own);
    drop(own);
    assert_eq!(near.usage().1, of_shared, "what was in the room went with it");
    let all = fill(&shared);
    assert!(within(all, BUDGET), "{all}: what the room had is not used");
    let (whole, _whole) = room(&near, Some(BUDGET));
    assert!(within(fill(&whole), BUDGET));
    assert!(near.usage().1 <= BUDGET * 105 / 100, "what was given to one is taken from the others");
    vouch.end();
}

#[test]
fn two_types_under_one_key_are_never_confused() {
    let cache = Near::new(1 << 20);
    let (room, _recorder) = room(&cache, None);
    let vouch = Vouch::new();
    for name in ["n:1", "n:a key too long for the table itself"] {
        let key = key(name);
        assert!(keep(&room, &key, 7_u64, 8, &vouch));
        assert_eq!((near::<i64>(&room, &key), near::<u64>(&room, &key)), (None, Some(7)));
        // The same size and the same bytes, another meaning.
        assert!(keep(&room, &key, -1_i64, 8, &vouch));
        assert_eq!((near::<i64>(&room, &key), near::<u64>(&room, &key)), (Some(-1), None));
    }
    vouch.end();
}

#[test]
fn the_end_of_a_connection_empties_its_own_share_alone() {
    let cache = Near::new(1 << 20);
    let (room, recorder) = room(&cache, None);
    let (one, other) = (Vouch::new(), Vouch::new());
    let keys: Vec<Key> = (0..100).map(|at| key(format!("n:{at}"))).collect();
    for (at, key) in keys.iter().enumerate() {
        assert!(keep(&room, key, at, 8, if at % 2 == 0 { &one } else { &other }));
    }
    one.end();
    cache.all_changed(Sweeping::Lost);
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(near::<usize>(&room, key), (at % 2 == 1).then_some(at));
    }
    assert_eq!(recorder.snapshot().reads["n"].invalidations.lost, 50);
    assert_eq!(cache.usage().0, 50);
    assert!(!keep(&room, &keys[0], 0_usize, 8, &one), "nobody vouches for it");
    other.end();
    cache.all_changed(Sweeping::Flushed);
    assert!(keys.iter().all(|key| near::<usize>(&room, key).is_none()));
    assert_eq!(recorder.snapshot().reads["n"].invalidations.flushed, 50);
    assert_eq!(cache.usage(), (0, 0));
}

#[test]
fn reads_that_are_dropped_leave_no_mark() {
    let cache = Near::new(1 << 20);
    let (room, _recorder) = room(&cache, None);
    let vouch = Vouch::new();
    let keys: Vec<Key> = (0..1_000).map(|at| key(format!("n:{at}"))).collect();
    let marks = || cache.shared.marks.len();
    let reads: Vec<_> = keys.iter().chain(&keys).map(|key| room.begin(key)).collect();
    assert_eq!(marks(), 1_000);
    let writing = cache.writing(&keys[..10]);
    cache.changed(keys[20].as_bytes());
    assert_eq!(marks(), 999, "who changes a key does not remember its reads");
    drop(reads);
    assert_eq!(marks(), 10);
    assert!(!keep(&room, &keys[0], 1_u64, 8, &vouch), "it is being written");
    drop(writing);
    assert_eq!(marks(), 0);
    assert!(keep(&room, &keys[0], 1_u64, 8, &vouch));
    let over = room.begin(&keys[1]);
    cache.all_changed(Sweeping::Lost);
    assert!(!over.insert(Some(Arc::new(1_u64)), 8, for_a_minute(), &vouch), "all have changed");
    assert_eq!(marks(), 0);
    vouch.end();
}
