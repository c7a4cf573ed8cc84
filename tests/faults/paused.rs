//! P6 once more: a client that does not go on reading, while it is told of more than it may hold.

use std::io::{Stdin, Write, stdin};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use larder::redis1::ConnectionLike;
use larder::testing::{RawConnection, RedisServer};
use larder::{CacheClient, ErrorKind, Namespace, Outcome};
use tokio::runtime;

use crate::common::process::{self, Process};
use crate::common::{Peak, word_of};
use crate::{alone, full, ms, quantile, until};

const MIB: u64 = 1 << 20;

/// What calls in flight may hold, and what may be near.
const BUDGET: u64 = 4 * MIB;
const NEAR: u64 = 4 * MIB;

/// What may come on top of both.
const SLACK: u64 = 16 * MIB;

/// Keys so long that the news of all of them is more than a client may hold.
const LENGTH: usize = 16 << 10;

fn keys() -> u64 {
    if full() { 6_000 } else { 2_400 }
}

fn key(number: u64) -> String {
    format!("{}{number}", "k".repeat(LENGTH))
}

/// Large values of the same namespace, a megabyte each.
const LARGE: u64 = 10;

fn large(number: u64) -> String {
    format!("large-{number}")
}

/// How many calls there may be, where the test holds them all.
const CALLS: u64 = 32;

fn values(cache: &CacheClient, broadcast: bool) -> Namespace<str, String> {
    cache.namespace("v").near(true).broadcast(broadcast).build().unwrap()
}

async fn client(url: &str, calls: u64) -> CacheClient {
    CacheClient::builder()
        .url(url)
        .connections(1)
        .near_max_bytes(NEAR)
        .max_in_flight(calls)
        .max_in_flight_bytes(BUDGET)
        .deadline(Duration::from_secs(60))
        // What stands still is not to be left.
        .ping_timeout(Duration::from_secs(60))
        .connect()
        .await
        .unwrap()
}

/// Says that everything is as it has to be, and stands still until it is told to go on: nothing of this thread's runtime runs.
fn stands_still(input: &Stdin) {
    println!("> ready");
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    input.read_line(&mut line).unwrap();
    assert_eq!(line, "go on\n");
}

/// The other process; in a test run of its own it has nobody to serve.
#[test]
fn a_client_that_can_stand_still() {
    let Some(url) = process::told_url() else { return };
    let input = stdin();
    let mut how = String::new();
    input.read_line(&mut how).unwrap();
    let memory = match how.trim_end() {
        "by key" => reader_stands_still(&input, &url, false),
        "by prefix" => reader_stands_still(&input, &url, true),
        "subscribed" => subscriber_stands_still(&input, &url),
        "unpolled" => tasks_stand_still(&input, &url),
        other => panic!("{other:?}"),
    };
    let (start, peak) = memory.ends();
    println!("> memory {start} {peak}");
}

fn one_thread() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn reader_stands_still(input: &Stdin, url: &str, broadcast: bool) -> Peak {
    let runtime = one_thread();
    let cache = runtime.block_on(client(url, 1_000));
    let values = values(&cache, broadcast);
    let all: Vec<u64> = (0..keys()).collect();
    runtime.block_on(async {
        // The connection that tells is there, and has read everything.
        until("something is near", async || {
            values.get(&key(0)).await.unwrap();
            cache.stats().near_entries > 0
        })
        .await;
        for some in all.chunks(50) {
            let some: Vec<String> = some.iter().map(|number| key(*number)).collect();
            values.get_many(some.iter().map(String::as_str)).await.unwrap();
        }
    });
    let memory = Peak::watch();
    stands_still(input);
    runtime.block_on(async {
        let mut old = 0;
        // What was told is read before an answer to what is asked now; a near value could be old until then.
        let asking = values.with(|options| options.bypass_near());
        asking.get(&key(0)).await.unwrap();
        for number in all.iter().step_by(10) {
            old += u64::from(values.get(&key(*number)).await.unwrap().unwrap().as_str() != "new");
        }
        for number in 0..LARGE {
            let value = values.get(&large(number)).await.unwrap().unwrap();
            assert_eq!(value.len() as u64, MIB);
        }
        println!("> old {old}");
    });
    memory
}

/// Nobody takes what is published: larder has no subscriptions, and a session of the caller's own can have them.
fn subscriber_stands_still(input: &Stdin, url: &str) -> Peak {
    let runtime = one_thread();
    let cache = runtime.block_on(client(url, 1_000));
    runtime.block_on(async {
        let mut session = cache.session().await.unwrap();
        let mut subscribe = redis::cmd("SUBSCRIBE");
        subscribe.arg("news");
        session.req_packed_command(&subscribe).await.unwrap();
    });
    let memory = Peak::watch();
    stands_still(input);
    // Over the same connection, behind all that was published.
    runtime.block_on(cache.set_value("after", "it", None)).unwrap();
    memory
}

/// The runtime runs, and tasks that wait for answers are not polled any more.
fn tasks_stand_still(input: &Stdin, url: &str) -> Peak {
    let threads = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = threads.unwrap();
    let (cache, values) = runtime.block_on(async {
        let cache = client(url, CALLS).await;
        let values = values(&cache, true);
        until("something is near", async || {
            values.get(&key(0)).await.unwrap();
            cache.stats().near_entries > 0
        })
        .await;
        (cache, values)
    });
    let memory = Peak::watch();
    // Nobody answers until they all have asked.
    println!("> asks");
    input.read_line(&mut String::new()).unwrap();
    let read: Vec<String> = (1..=CALLS).map(key).collect();
    let mut waiting: Vec<_> = read.iter().map(|key| Box::pin(values.get(key))).collect();
    {
        let _entered = runtime.enter();
        for call in &mut waiting {
            assert!(call.now_or_never().is_none(), "it did not wait");
        }
    }
    stands_still(input);
    let mut took = Vec::new();
    {
        let _entered = runtime.enter();
        for number in 0..1_000 {
            let started = Instant::now();
            let refused = match number % 2 {
                0 => cache.set_value("refused", "1", None).now_or_never().unwrap().unwrap_err(),
                _ => values.get("refused").now_or_never().unwrap().unwrap_err(),
            };
            took.push(started.elapsed());
            assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
            assert_eq!(refused.outcome(), Outcome::NotSent);
        }
    }
    took.sort();
    println!(
        "> P6 {} calls beside {CALLS} whose tasks are not polled: refused in {:.3} ms (median), {:.1} ms (max)",
        took.len(),
        ms(quantile(&took, 0.5)),
        ms(quantile(&took, 1.0)),
    );
    runtime.block_on(async {
        for call in waiting {
            let value = call.await.unwrap().unwrap();
            assert!(["old", "new"].contains(&value.as_str()));
        }
        let mut old = 0;
        for key in &read {
            old += u64::from(values.get(key).await.unwrap().unwrap().as_str() != "new");
        }
        println!("> old {old}");
    });
    memory
}

/// How many bytes the server keeps for others than who asks.
async fn kept_back(writer: &mut RawConnection) -> u64 {
    let list = writer.command(&["CLIENT", "LIST"]).await.unwrap().text().unwrap();
    let others = list.lines().filter(|line| word_of(line, "cmd=") != Some("client|list"));
    others.filter_map(|line| word_of(line, "omem=")?.parse::<u64>().ok()).sum()
}

async fn write(writer: &mut RawConnection, value: &str) {
    for number in 0..keys() {
        let set = ["SET", &format!("v:{}", key(number)), &format!("\"{value}\"")];
        assert!(!writer.command(&set).await.unwrap().is_error());
    }
}

async fn stands(how: &str) {
    // Nobody is given up for what is kept back, so that all of it comes.
    let limit = ["--client-output-buffer-limit", "pubsub", "0", "0", "0"];
    let server = limit.iter().fold(RedisServer::builder(), |server, word| server.arg(*word));
    let server = server.start().await;
    let mut writer = server.connect().await;
    write(&mut writer, "old").await;
    let mut child = Process::measured("paused::a_client_that_can_stand_still", &server.url());
    child.tell(how).await;
    if how == "unpolled" {
        child.answer("asks").await;
        server.pause().await;
        child.tell("ask").await;
        child.answer("ready").await;
        server.resume().await;
    } else {
        child.answer("ready").await;
    }
    let (mut sent, mut most) = (0, 0);
    if how == "subscribed" {
        let news = "x".repeat(MIB as usize);
        while sent < keys() * LENGTH as u64 {
            let heard = writer.command(&["PUBLISH", "news", &news]).await.unwrap();
            assert_eq!(heard.int(), Some(1), "nobody listens");
            sent += MIB;
        }
    } else {
        write(&mut writer, "new").await;
        let value = format!("\"{}\"", "l".repeat(MIB as usize));
        for number in 0..LARGE {
            let set = ["SET", &format!("v:{}", large(number)), &value];
            assert!(!writer.command(&set).await.unwrap().is_error());
        }
        sent += keys() * LENGTH as u64;
    }
    let bound = BUDGET + NEAR + SLACK;
    if how == "unpolled" {
        // The connection itself is read all the time.
        until("all of it was taken in", async || kept_back(&mut writer).await == 0).await;
        assert!(sent > bound);
    } else {
        most = kept_back(&mut writer).await;
        assert!(most > bound, "the client read on, or was told too little: {most}");
    }
    child.tell("go on").await;
    let memory = async {
        // Nothing that a subscriber gets can be old.
        let mut was_read = how == "subscribed";
        loop {
            let said = child.next().await.expect("the other process failed");
            match said.split_once(' ') {
                Some(("P6", _)) => println!("{said}"),
                Some(("old", count)) => {
                    assert_eq!(count, "0", "{how}: served what was old");
                    was_read = true;
                }
                Some(("memory", numbers)) => {
                    assert!(was_read, "{how}: nothing was read afterwards");
                    let numbers: Vec<u64> =
                        numbers.split(' ').map(|number| number.parse().unwrap()).collect();
                    return (numbers[0], numbers[1]);
                }
                _ => panic!("{said}"),
            }
        }
    };
    let patience = Duration::from_secs(if full() { 300 } else { 60 });
    let (start, peak) = tokio::time::timeout(patience, memory).await.expect("it hung");
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    println!(
        "P6 a client that stands still, {how}: told {:.0} MiB, {:.0} kept back by the server; RSS start {:.1} MiB, peak {:.1} \
         MiB (calls {} MiB, near {} MiB)",
        mib(sent),
        mib(most),
        mib(start),
        mib(peak),
        BUDGET / MIB,
        NEAR / MIB,
    );
    assert!(peak <= start + bound, "{how}: {:.1} MiB on top", mib(peak - start));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_near_reader_whose_runtime_stands_still_during_a_flood_holds_no_more_than_it_may() {
    let _turn = alone().await;
    stands("by key").await;
    stands("by prefix").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_whose_tasks_are_not_polled_during_a_flood_hold_no_more_than_they_may() {
    let _turn = alone().await;
    stands("unpolled").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stands_still_during_a_flood_holds_no_more_than_it_may() {
    let _turn = alone().await;
    stands("subscribed").await;
}
