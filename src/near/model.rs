//! Schedules of readers against everything that changes a value, explored: P14. What runs is the cache itself, with
//! a lock of which every taking is a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering};
use std::time::Duration;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Mutex as StepMutex;
use shuttle::sync::atomic::AtomicU64;
use shuttle::{Config, Runner, thread};
use tokio::time::Instant;

use super::marks::{Lock, Stripe};
use super::{Life, Near, Room};
use crate::key::Key;
use crate::op::Vouch;
use crate::stats::{Cause, Recorder};
use crate::store::{InvalidationSink, Sweeping};

type Step = StepMutex<Stripe>;

/// How many schedules each of the two schedulers tries of every cast; and how many of them are enough for a mistake to show.
const SCHEDULES: usize = 1_500;
const FEW: usize = 300;

/// What changes the value in a schedule. One change hides what another one does wrong, so each is tried alone too.
const CASTS: [&[Change]; 6] = [
    &[Change::Pushed],
    &[Change::Own],
    &[Change::Flushed],
    &[Change::Lost],
    &[Change::Pushed, Change::Own],
    &[Change::Pushed, Change::Own, Change::Flushed, Change::Lost],
];

/// How many changes of order suffice for the mistakes that PCT looks for.
const DEPTH: usize = 3;

impl<T> Lock<T> for StepMutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock().expect("nothing panics under it"))
    }
}

/// What could be wrong with the cache, or with what it is told.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// A change removes the entry and leaves the reads under way alone.
    NoPoison,
    /// A read is marked only when its answer is there.
    LateMark,
    /// A change does not remove what is kept.
    NoRemoval,
    /// An own write drops the entry once, before it is sent.
    OnceDropped,
    /// What was flushed is told, and the promise that it was kept on goes on.
    EndlessVouch,
}

const PLANTED: [Planted; 5] = [
    Planted::NoPoison,
    Planted::LateMark,
    Planted::NoRemoval,
    Planted::OnceDropped,
    Planted::EndlessVouch,
];

/// How a value changes, and how the cache comes to know.
#[derive(Debug, Clone, Copy)]
enum Change {
    Pushed,
    Own,
    Flushed,
    Lost,
}

/// What was seen in all schedules.
#[derive(Default)]
struct Seen {
    kept: Count,
    refused: Count,
    stale: Count,
}

/// A server with one key, whose value only grows, and a cache of it.
struct World {
    near: Near<Step>,
    room: Room<Step>,
    key: Key,
    value: AtomicU64,
    // The newest version of which the cache has been told.
    told: AtomicU64,
    vouch: StepMutex<Vouch>,
    planted: Planted,
    seen: Arc<Seen>,
}

impl World {
    fn new(planted: Planted, seen: Arc<Seen>) -> Self {
        let near = Near::new(1 << 16);
        let room = near.room(None, Recorder::new(1).reads(b"m"), true).unwrap();
        Self {
            near,
            room,
            key: Key::new("m:1").unwrap(),
            value: AtomicU64::new(1),
            told: AtomicU64::new(1),
            vouch: StepMutex::new(Vouch::new()),
            planted,
            seen,
        }
    }

    fn vouch(&self) -> Vouch {
        *self.vouch.lock().unwrap()
    }

    /// As the read path does: the mark, the promise, the answer.
    fn read(&self) {
        let early = (self.planted != Planted::LateMark).then(|| self.room.begin(&self.key));
        let vouch = self.vouch();
        let value = self.value.load(Ordering::SeqCst);
        let reading = early.unwrap_or_else(|| self.room.begin(&self.key));
        let now = Instant::now();
        let life = Life {
            read: now,
            age: Duration::ZERO,
            fresh_until: None,
            expires: now + Duration::from_secs(3600),
        };
        let kept = reading.insert(Some(Arc::new(value)), 8, life, &vouch);
        let counter = if kept { &self.seen.kept } else { &self.seen.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        self.check(self.told.load(Ordering::SeqCst));
    }

    /// Changes the value, tells the cache as the store would, and looks what is near from then on.
    fn change(&self, how: Change) {
        let write = || self.value.fetch_add(1, Ordering::SeqCst) + 1;
        let version = match how {
            Change::Pushed => {
                let version = write();
                match self.planted {
                    Planted::NoPoison => {
                        self.near.shared.remove(self.key.as_bytes(), Cause::Pushed);
                    }
                    Planted::NoRemoval => {
                        self.near.shared.marks.change(self.key.as_bytes(), || {});
                    }
                    _ => self.near.changed(self.key.as_bytes()),
                }
                version
            }
            Change::Own => {
                let writing = self.near.writing([&self.key]);
                if self.planted == Planted::OnceDropped {
                    drop(writing);
                    write()
                } else {
                    let version = write();
                    drop(writing);
                    version
                }
            }
            Change::Flushed => {
                let version = write();
                let flushed = std::mem::take(&mut *self.vouch.lock().unwrap());
                if self.planted != Planted::EndlessVouch {
                    flushed.end();
                }
                self.near.all_changed(Sweeping::Flushed);
                version
            }
            Change::Lost => {
                // Nobody is left to tell of it; then the loss is noticed.
                let version = write();
                self.vouch().end();
                self.near.all_changed(Sweeping::Lost);
                *self.vouch.lock().unwrap() = Vouch::new();
                version
            }
        };
        self.told.fetch_max(version, Ordering::SeqCst);
        self.check(version);
    }

    /// What is near is no older than `version`.
    fn check(&self, version: u64) {
        let Some(hit) = self.room.get::<u64>(self.key.as_bytes()) else { return };
        let near = *hit.value.unwrap();
        // With the right cache it fails here, so that the schedule is told.
        assert!(near >= version || self.planted != Planted::Nothing, "{near} for {version}");
        self.seen.stale.fetch_add(u64::from(near < version), Ordering::Relaxed);
    }

    /// One schedule.
    fn run(self, changes: &'static [Change]) {
        let world = Arc::new(self);
        let mut threads = Vec::new();
        for _ in 0..2 {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || {
                world.read();
                world.read();
            }));
        }
        for how in changes {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || world.change(*how)));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        world.check(world.value.load(Ordering::SeqCst));
        assert_eq!(world.near.shared.marks.len(), 0, "a mark was left");
        world.vouch().end();
    }
}

/// Runs the model with everything that looks for schedules.
fn explore(planted: Planted, schedules: usize) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let mut config = Config::new();
    // Its own 32 KiB are little for code that is not optimised.
    config.stack_size = 1 << 18;
    for changes in CASTS {
        let schedulers: [Box<dyn Scheduler + Send>; 2] = [
            Box::new(RandomScheduler::new(schedules)),
            Box::new(PctScheduler::new(DEPTH, schedules)),
        ];
        for scheduler in schedulers {
            let seen = Arc::clone(&seen);
            let runs = Runner::new(scheduler, config.clone())
                .run(move || World::new(planted, Arc::clone(&seen)).run(changes));
            assert_eq!(runs, schedules);
        }
    }
    seen
}

#[test]
fn no_schedule_of_reads_and_changes_leaves_a_stale_entry() {
    let seen = explore(Planted::Nothing, SCHEDULES);
    let of = |counter: &Count| counter.load(Ordering::Relaxed);
    let (kept, refused, stale) = (of(&seen.kept), of(&seen.refused), of(&seen.stale));
    println!(
        "P14 model: {} schedules (random and PCT), {kept} reads kept, {refused} refused, stale: {stale}",
        2 * CASTS.len() * SCHEDULES
    );
    assert!(kept > 1_000 && refused > 1_000, "{kept} kept, {refused} refused: nothing was tried");
    assert_eq!(stale, 0);
}

#[test]
fn the_model_finds_every_mistake_that_is_planted() {
    for planted in PLANTED {
        let stale = explore(planted, FEW).stale.load(Ordering::Relaxed);
        println!("P14 model: {planted:?}: stale {stale} times");
        assert!(stale > 0, "{planted:?} was not found");
    }
}
