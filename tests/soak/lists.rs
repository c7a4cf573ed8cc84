//! Lists: one that a worker alone uses is what the worker says; of one that all push to, every acknowledged element stands
//! there once; and a counter is what was counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Direction, Result};
use tokio::task::JoinSet;

use crate::place::Place;
use crate::tally::Promise;
use crate::world::{Ended, World, breathe, patience};

const PUSHERS: usize = 4;
const ELEMENTS: &str = "elements";

/// What the pushers wrote, for the check at the end.
#[derive(Default)]
pub(crate) struct Ledgers([Mutex<Ledger>; PUSHERS]);

#[derive(Default)]
struct Ledger {
    // How each push and each increment ended, by their number, and a mark from before it.
    pushes: Vec<(Ended, u64)>,
    counts: Vec<(Ended, u64)>,
}

pub(crate) fn spawn(world: &Arc<World>, ledgers: &Arc<Ledgers>, workers: &mut JoinSet<()>) {
    for worker in 0..PUSHERS {
        workers.spawn(push_and_count(Arc::clone(world), Arc::clone(ledgers), worker));
    }
    for worker in 0..3 {
        workers.spawn(queue(Arc::clone(world), worker));
    }
}

fn counter(worker: usize) -> String {
    format!("counter:{worker}")
}

async fn push_and_count(world: Arc<World>, ledgers: Arc<Ledgers>, worker: usize) {
    let (cache, mut random) = (world.client(worker as u64), world.random(11, worker as u64));
    let counter = counter(worker);
    for number in 0_u64.. {
        if world.is_over() {
            return;
        }
        let patience = patience(&mut random);
        let push = cache.push_to_list(ELEMENTS, format!("{worker}:{number}"), Direction::Right);
        let mark = world.lost.now();
        let ended = world.write_or_drop("push_to_list", push, patience).await;
        ledgers.0[worker].lock().unwrap().pushes.push((ended, mark));
        world.tally.did("elements pushed");
        let mark = world.lost.now();
        let ended = world.write("incr_by", cache.incr_by(&counter, 1)).await;
        ledgers.0[worker].lock().unwrap().counts.push((ended, mark));
        tokio::time::sleep(Duration::from_millis(random.u64(1..8))).await;
    }
}

/// Compares the servers with what was written down.
///
/// # Panics
/// If something is lost that cannot have been, doubled, or there though it was refused.
pub(crate) async fn check(world: &World, ledgers: &Ledgers, place: &Place) {
    let ledgers: Vec<_> = ledgers.0.iter().map(|ledger| ledger.lock().unwrap()).collect();
    let mut seen: Vec<Vec<u8>> =
        ledgers.iter().map(|ledger| vec![0; ledger.pushes.len()]).collect();
    for from in (0_u64..).step_by(1_000) {
        let range = ["LRANGE", ELEMENTS, &from.to_string(), &(from + 999).to_string()];
        let page = place.command(ELEMENTS, &range).await;
        if page.items().is_empty() {
            break;
        }
        for element in page.items() {
            let element = element.text().unwrap();
            let (worker, number) = element.split_once(':').unwrap();
            seen[worker.parse::<usize>().unwrap()][number.parse::<usize>().unwrap()] += 1;
        }
    }
    let (mut acked, mut lost, mut failed_over, mut doubled, mut refused) = (0, 0, 0, 0, 0);
    let (mut unknown, mut applied) = (0, 0);
    for (ledger, seen) in ledgers.iter().zip(&seen) {
        for ((ended, mark), times) in ledger.pushes.iter().zip(seen) {
            doubled += u64::from(*times > 1);
            match ended {
                Ended::Acked => {
                    acked += 1;
                    let is_lost = *times == 0;
                    failed_over += u64::from(is_lost && world.lost.since(*mark));
                    lost += u64::from(is_lost && !world.lost.since(*mark));
                }
                Ended::Refused => refused += u64::from(*times > 0),
                Ended::Unknown => {
                    unknown += 1;
                    applied += u64::from(*times > 0);
                }
            }
        }
    }
    println!(
        "soak: {acked} pushes acknowledged, {lost} lost (and {failed_over} by failovers), {doubled} doubled; {unknown} of \
         unknown outcome, {applied} of them applied; applied though refused: {refused}"
    );
    assert!(acked > 0);
    assert_eq!((lost, doubled, refused), (0, 0, 0));
    for (worker, ledger) in ledgers.iter().enumerate() {
        let counted = world.clients[0].get_value(counter(worker)).await.unwrap();
        let counted: usize = counted.map_or(0, |counted| counted.parse().unwrap());
        let all = |which: &dyn Fn(Ended, u64) -> bool| {
            ledger.counts.iter().filter(|(ended, mark)| which(*ended, *mark)).count()
        };
        // What was acknowledged after the last failover is there, and nothing that was refused is.
        let least = all(&|ended, mark| ended == Ended::Acked && !world.lost.since(mark));
        let most = all(&|ended, _| ended != Ended::Refused);
        assert!((least..=most).contains(&counted), "{least} <= {counted} <= {most}");
    }
}

/// A list that is known to the element.
struct Queue {
    name: String,
    elements: VecDeque<String>,
    // From before it was begun.
    mark: u64,
}

impl Queue {
    fn new(world: &World, name: String) -> Self {
        Self { name, elements: VecDeque::new(), mark: world.lost.now() }
    }

    fn holds(&self, world: &World, holds: bool, what: &str) {
        if !holds {
            let seen = format_args!("{}: {what}", self.name);
            world.broke_or_lost(Promise::Wrong, self.mark, seen);
        }
    }

    /// One call, and what its answer has to be.
    async fn step(&mut self, world: &World, worker: u64, random: &mut fastrand::Rng) -> Result<()> {
        let cache = world.client(worker);
        // Some are equal, so that there is something to remove.
        let element = format!("{}|{}", self.name, random.u32(..8));
        match random.u32(..10) {
            side @ 0..4 => {
                let side = if side % 2 == 0 { Direction::Left } else { Direction::Right };
                let push = cache.push_to_list(&self.name, &*element, side);
                let length = world.call("push_to_list", push).await?;
                match side {
                    Direction::Left => self.elements.push_front(element),
                    Direction::Right => self.elements.push_back(element),
                }
                self.holds(world, length == self.elements.len() as u64, "the length after a push");
            }
            4 => {
                let popped = world.call("left_pop_list", cache.left_pop_list(&self.name)).await?;
                let expected = self.elements.pop_front();
                self.holds(world, popped == expected, "what was taken from the left");
            }
            5 => {
                let popped = world.call("right_pop_list", cache.right_pop_list(&self.name)).await?;
                let expected = self.elements.pop_back();
                self.holds(world, popped == expected, "what was taken from the right");
            }
            6 => {
                let removed = cache.remove_from_list(&self.name, &*element);
                let removed = world.call("remove_from_list", removed).await?;
                let before = self.elements.len();
                self.elements.retain(|one| *one != element);
                let expected = (before - self.elements.len()) as u64;
                self.holds(world, removed == expected, "how many were removed");
            }
            7 => {
                let (start, stop) = (random.i64(0..20), random.i64(0..20));
                let range = cache.get_list_range(&self.name, start, stop);
                let range = world.call("get_list_range", range).await?;
                let most = (stop - start + 1).max(0) as usize;
                let expected = self.elements.iter().skip(start as usize).take(most);
                self.holds(world, range.iter().eq(expected), "a range");
            }
            _ => {
                let all = world.call("get_list", cache.get_list(&self.name)).await?;
                self.holds(world, all.iter().eq(&self.elements), "all of it");
            }
        }
        Ok(())
    }
}

/// Pushes, pops and removals, each with the one answer that it can have. What is not answered, and a failover that may have
/// lost something, ends the list, and another one begins.
async fn queue(world: Arc<World>, worker: u64) {
    let mut random = world.random(12, worker);
    let mut number = 0;
    let mut queue = Queue::new(&world, format!("queue:{worker}:{number}"));
    while !world.is_over() {
        let ended = Ended::from(&queue.step(&world, worker, &mut random).await);
        if ended == Ended::Unknown || world.lost.since(queue.mark) || queue.elements.len() > 200 {
            _ = world.write("delete_key", world.client(worker).delete_key(&queue.name)).await;
            number += 1;
            queue = Queue::new(&world, format!("queue:{worker}:{number}"));
        }
        breathe(&mut random).await;
    }
}
