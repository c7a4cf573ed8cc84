//! What adds up: every element that was acknowledged stands in the list once, and a counter is what was counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder::Direction;
use larder::testing::RedisServer;
use tokio::task::JoinSet;

use crate::world::{Ended, World, count};

const WORKERS: usize = 4;
const LIST: &str = "elements";

/// What each worker wrote, for the check at the end.
#[derive(Default)]
pub(crate) struct Ledger {
    // How each push ended, by its number.
    pushes: Vec<Ended>,
    acked: i64,
    unknown: i64,
}

static LEDGERS: [Mutex<Ledger>; WORKERS] = [const { Mutex::new(Ledger::new()) }; WORKERS];

impl Ledger {
    const fn new() -> Self {
        Self { pushes: Vec::new(), acked: 0, unknown: 0 }
    }

    fn counted(&mut self, ended: Ended) {
        match ended {
            Ended::Acked => self.acked += 1,
            Ended::Unknown => self.unknown += 1,
            Ended::Refused => {}
        }
    }

    fn of(worker: usize) -> std::sync::MutexGuard<'static, Self> {
        LEDGERS[worker].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for worker in 0..WORKERS {
        workers.spawn(push_and_count(Arc::clone(world), worker));
    }
}

fn counter(worker: usize) -> String {
    format!("counter:{worker}")
}

async fn push_and_count(world: Arc<World>, worker: usize) {
    let (cache, mut random) = (&world.clients[worker % 2], world.random(6, worker as u64));
    let counter = counter(worker);
    for number in 0_u64.. {
        if world.is_over() {
            return;
        }
        let patience = (random.u32(..10) == 0).then(|| Duration::from_micros(random.u64(..3_000)));
        let push = cache.push_to_list(LIST, format!("{worker}:{number}"), Direction::Right);
        let ended = world.write_or_drop(push, patience).await;
        Ledger::of(worker).pushes.push(ended);
        count(&world.tally.pushed);
        let counted = world.write(cache.incr_by(&counter, 1)).await;
        Ledger::of(worker).counted(counted);
        tokio::time::sleep(Duration::from_millis(random.u64(1..8))).await;
    }
}

/// Compares the server with what was written down.
///
/// # Panics
/// If something is lost, doubled, or there though it was refused.
pub(crate) async fn check(world: &World, server: &RedisServer) {
    let mut seen: Vec<Vec<u8>> =
        (0..WORKERS).map(|worker| vec![0; Ledger::of(worker).pushes.len()]).collect();
    let mut connection = server.connect().await;
    for from in (0_u64..).step_by(1_000) {
        let range =
            ["LRANGE".to_owned(), LIST.to_owned(), from.to_string(), (from + 999).to_string()];
        let page = connection.command(&range).await.unwrap();
        if page.items().is_empty() {
            break;
        }
        for element in page.items() {
            let element = element.text().unwrap();
            let (worker, number) = element.split_once(':').unwrap();
            seen[worker.parse::<usize>().unwrap()][number.parse::<usize>().unwrap()] += 1;
        }
    }
    let (mut acked, mut lost, mut doubled, mut refused, mut unknown, mut applied) =
        (0, 0, 0, 0, 0, 0);
    for (worker, seen) in seen.iter().enumerate() {
        for (times, ended) in seen.iter().zip(&Ledger::of(worker).pushes) {
            doubled += u64::from(*times > 1);
            match ended {
                Ended::Acked => {
                    acked += 1;
                    lost += u64::from(*times == 0);
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
        "soak: {acked} pushes acknowledged, {lost} lost, {doubled} doubled; {unknown} of unknown outcome, {applied} of them \
         applied; applied though refused: {refused}"
    );
    assert!(acked > 0);
    assert_eq!((lost, doubled, refused), (0, 0, 0));
    for worker in 0..WORKERS {
        let counted = world.clients[0].get_value(counter(worker)).await.unwrap();
        let counted: i64 = counted.map_or(0, |counted| counted.parse().unwrap());
        let ledger = Ledger::of(worker);
        let (acked, most) = (ledger.acked, ledger.acked + ledger.unknown);
        assert!((acked..=most).contains(&counted), "{acked} <= {counted} <= {most}");
    }
}
