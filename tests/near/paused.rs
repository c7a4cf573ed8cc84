//! P16 once more: a reader that stands still while it is told of more changes than anybody holds for it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::testing::{RedisServer, RedisServerBuilder};
use larder::{CacheClient, Namespace};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{alone, times, until};
use crate::common::place::{Place, plain};
use crate::common::process::{self, Process, now};
use crate::common::{tracked, word_of};

/// Enough keys of such a length that the news of them is more than two sockets and the server's limit hold together.
const KEYS: u64 = 8_000;
const LENGTH: usize = 1_000;

/// Of one node, if it is a cluster: what one call reads is near, and what one command writes is told, all at once.
const FAMILY: &str = "{v}";

/// What the server keeps for a connection that does not read.
const LIMIT: [&str; 4] = ["normal", "1mb", "0", "0"];

fn key(number: u64) -> String {
    format!("{number:0LENGTH$}")
}

fn values(cache: &CacheClient, broadcast: bool) -> Namespace<str, u64> {
    cache.namespace(FAMILY).near(true).broadcast(broadcast).build().unwrap()
}

/// Another process that reads all the time.
async fn reader(url: &str, broadcast: bool) -> Process {
    let mut reader = Process::begin("paused::a_reader_that_can_be_stopped", url);
    reader.tell(if broadcast { "by prefix" } else { "by key" }).await;
    reader.answer("ready").await;
    reader
}

/// Tells it something, and gives the numbers of its answer.
async fn ask(reader: &mut Process, what: &str) -> Vec<u64> {
    reader.tell(what).await;
    let numbers = reader.answer(what.split(' ').next().unwrap()).await;
    numbers.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// The other side; in a test run of its own it has nobody to serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_can_be_stopped() {
    let Some(url) = process::told_url() else { return };
    let cache = CacheClient::connect(url).await.unwrap();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let how = input.next_line().await.unwrap();
    let values = values(&cache, how.as_deref() == Some("by prefix"));
    let keys: Arc<Vec<String>> = Arc::new((0..KEYS).map(key).collect());
    // When each read began, and what it gave.
    let log: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    tokio::spawn({
        let (values, keys, log) = (values.clone(), Arc::clone(&keys), Arc::clone(&log));
        async move {
            for key in keys.iter().cycle() {
                let began = now();
                if let Ok(Some(value)) = values.get(key).await {
                    log.lock().unwrap().push((began, *value));
                }
                tokio::task::yield_now().await;
            }
        }
    });
    println!("> ready");
    while let Some(line) = input.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // Brings everything near.
            ["fill"] => {
                until("everything is near", async || {
                    for some in keys.chunks(1_000) {
                        values.get_many(some.iter().map(String::as_str)).await.unwrap();
                    }
                    cache.stats().near_entries == KEYS
                })
                .await;
                log.lock().unwrap().clear();
                println!("> fill");
            }
            // Waits for an answer over the tracked connection: what was told before it has been read.
            ["answered"] => {
                let asking = values.with(|options| options.bypass_near());
                until("an answer", async || asking.get(&keys[0]).await.is_ok()).await;
                println!("> answered {}", now());
            }
            // Reads everything; and says what was old in it, and when the last read began that gave something old.
            ["check", wanted] => {
                let wanted: u64 = wanted.parse().unwrap();
                let mut old = 0;
                for key in keys.iter() {
                    let value = values.get(key).await.unwrap();
                    old += u64::from(value.as_deref().is_none_or(|value| *value != wanted));
                }
                let log = log.lock().unwrap();
                let last = log.iter().filter(|(_, value)| *value != wanted).map(|(at, _)| *at);
                println!("> check {old} {} {}", last.max().unwrap_or(0), log.len());
            }
            _ => panic!("a reader was told something that it does not know"),
        }
    }
}

/// Sets every key.
async fn write(server: &RedisServer, value: u64) {
    let mut writer = server.connect().await;
    for first in (0..KEYS).step_by(500) {
        let mut set = vec!["MSET".to_owned()];
        for number in first..(first + 500).min(KEYS) {
            set.extend([format!("{FAMILY}:{}", key(number)), value.to_string()]);
        }
        assert!(!writer.command(&set).await.unwrap().is_error());
    }
}

/// How often the server gave up a connection that did not read.
fn given_up(server: &RedisServer) -> u64 {
    let log = std::fs::read_to_string(server.dir().join("redis.log")).unwrap();
    log.lines().filter(|line| line.contains("for overcoming of output buffer limits")).count()
        as u64
}

/// How many bytes the server keeps for the connections that track.
async fn kept_back(server: &RedisServer) -> u64 {
    let lines = tracked(server).await;
    lines.iter().filter_map(|line| word_of(line, "omem=")?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stood_still_during_a_flood_serves_nothing_old_when_it_goes_on() {
    let _turn = alone().await;
    for (how, broadcast) in [("by key", false), ("by prefix", true)] {
        a_reader_stands_still(Place::one(limited).await, how, broadcast, true).await;
    }
    a_reader_stands_still(Place::one(plain).await, "by key", false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_cluster_that_stood_still_during_a_flood_serves_nothing_old() {
    let _turn = alone().await;
    a_reader_stands_still(Place::primaries(limited).await, "by key", false, true).await;
}

fn limited(server: RedisServerBuilder) -> RedisServerBuilder {
    let server = server.arg("--client-output-buffer-limit");
    LIMIT.iter().fold(server, |server, word| server.arg(*word))
}

async fn a_reader_stands_still(place: Place, how: &str, broadcast: bool, limited: bool) {
    let rounds = times(10);
    let server = &place.nodes()[place.at(FAMILY)];
    write(server, 0).await;
    let mut reader = reader(&place.url(), broadcast).await;
    let (mut longest, mut stale, mut most, mut reads) = (Duration::ZERO, 0, 0, 0);
    for round in 1..=rounds {
        ask(&mut reader, "fill").await;
        reader.stop().await;
        write(server, 2 * round).await;
        if limited {
            until("the server gives the reader up", async || {
                given_up(server) == round && tracked(server).await.is_empty()
            })
            .await;
        }
        most = most.max(kept_back(server).await);
        // With a limit nobody is left to tell of this one.
        write(server, 2 * round + 1).await;
        let from = now();
        reader.go_on().await;
        let answered = ask(&mut reader, "answered").await[0];
        let check = format!("check {}", 2 * round + 1);
        let [old, last, count] = ask(&mut reader, &check).await[..] else {
            panic!("a check has three numbers");
        };
        stale += old + u64::from(last > answered);
        reads += count;
        longest = longest.max(Duration::from_nanos(last.saturating_sub(from)));
    }
    let limit = if limited { LIMIT.join(" ") } else { "none".to_owned() };
    println!(
        "P16{}: flood of {} changes at a paused reader, told {how}, limit {limit}: {rounds} times, {} connections given up by the server, {most} bytes kept back, {reads} reads, the last old one {longest:?} after it went on, {stale} stale",
        place.name(),
        2 * KEYS,
        given_up(server)
    );
    assert_eq!(given_up(server), if limited { rounds } else { 0 });
    assert!(limited || most > 1_000_000, "the reader had room for everything");
    assert_eq!(stale, 0);
}
