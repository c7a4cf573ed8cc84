//! A worker: takes and gives back a lock as it is told, and says when, by a clock that all processes share.

use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use super::contenders::{self, Contender};
use super::log::Cycle;
use super::{NUMBER, TASKS};
use crate::Result;
use crate::workers::Orders;

/// Nanoseconds of the machine's monotonic clock, which is one for all processes; Python's `monotonic_ns`.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn sleep_until(at: u64) {
    tokio::time::sleep(Duration::from_nanos(at.saturating_sub(now()))).await;
}

/// The orders stand in `redis_py.py` as well, which takes the same.
pub(crate) async fn serve(name: &str, url: &str) -> Result<()> {
    let (_, kind) =
        contenders::ALL.into_iter().find(|(known, _)| *known == name).ok_or("no such contender")?;
    let contender = kind.connect(url).await?;
    let client = redis::Client::open(url)?;
    let work = Work { connection: client.get_multiplexed_async_connection().await? };
    let mut held = None;
    let mut orders = Orders::ready();
    while let Some(order) = orders.next().await? {
        match order.split(' ').collect::<Vec<_>>()[..] {
            // For so many nanoseconds, with nobody else and nothing to do under the lock.
            ["alone", span] => {
                let begun = now();
                let end = begun + span.parse::<u64>()?;
                let mut cycles = 0;
                while now() < end {
                    contender.give(contender.take().await?).await?;
                    cycles += 1;
                }
                println!("{cycles} {}", now() - begun);
            }
            ["take"] => {
                let begun = now();
                held = Some(contender.take().await?);
                println!("{begun} {}", now());
            }
            ["give"] => {
                let given = now();
                contender.give(held.take().ok_or("nothing is held")?).await?;
                println!("{given}");
            }
            // From a moment on, with many tasks that do work under the lock: until another moment, each at least once.
            ["contend", from, until] => {
                let (from, until) = (from.parse()?, until.parse()?);
                let mut tasks = JoinSet::new();
                for _ in 0..TASKS {
                    tasks.spawn(contend(contender.clone(), work.clone(), from, until));
                }
                let mut lines = Vec::new();
                while let Some(cycles) = tasks.join_next().await {
                    lines.push(Cycle::line(&cycles??));
                }
                println!("{}", lines.join(";"));
            }
            _ => return Err("a worker was told something that it does not know".into()),
        }
    }
    Ok(())
}

async fn contend(
    contender: Contender,
    mut work: Work,
    from: u64,
    until: u64,
) -> Result<Vec<Cycle>> {
    sleep_until(from).await;
    let mut cycles = Vec::new();
    loop {
        let begun = now();
        let held = contender.take().await?;
        let taken = now();
        work.once().await?;
        let given = now();
        contender.give(held).await?;
        cycles.push(Cycle { begun, taken, given });
        if now() >= until {
            return Ok(cycles);
        }
    }
}

/// What is done under the lock: a number is read, and the next one written. If two do so at once, one of them is lost.
#[derive(Clone)]
struct Work {
    connection: MultiplexedConnection,
}

impl Work {
    async fn once(&mut self) -> Result<()> {
        let number: Option<u64> = self.connection.get(NUMBER).await?;
        Ok(self.connection.set(NUMBER, number.unwrap_or(0) + 1).await?)
    }
}
