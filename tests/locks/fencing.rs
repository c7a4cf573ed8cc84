//! Fenced writes: who comes late with an older token is refused, and every other reader sees what was written.

use std::time::{Duration, Instant};

use larder::{CacheClient, ErrorKind, ReadFrom, Ttl};

use crate::common::place::Behind;
use crate::{HANGS, Lateness, alone, ends, stores};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_an_older_token_is_refused_and_the_same_token_writes_again() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let value = async || cache.get_value("k").await.unwrap();
        // In this order: the numbers that differ in length, and those that a double cannot tell apart.
        let large = 1 << 53;
        for (token, newer) in [
            (0, 0),
            (9, 9),
            (10, 10),
            (9, 10),
            (10, 10),
            (large, large),
            (large + 1, large + 1),
            (large, large + 1),
            (u64::MAX, u64::MAX),
            (u64::MAX - 1, u64::MAX),
        ] {
            let written = cache.fenced_set("k", token, token, None).await.unwrap();
            assert_eq!(written, token == newer, "{store}: {token} after {newer}");
            assert_eq!(value().await, Some(newer.to_string()), "{store}: {token} after {newer}");
        }
        // A plain write asks nobody, and changes nothing for the next fenced one.
        cache.set_value("k", "plain", None).await.unwrap();
        assert!(!cache.fenced_set("k", "late", 7, None).await.unwrap(), "{store}");
        cache.delete_key("k").await.unwrap();
        assert!(!cache.fenced_set("k", "late", 7, None).await.unwrap(), "{store}: the mark stays");
        assert_eq!(value().await, None, "{store}");
        let error = cache.fenced_set("k", "x", 7, Duration::ZERO).await.unwrap_err();
        assert_eq!((error.kind(), error.op()), (ErrorKind::InvalidInput, "fenced_set"), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_guards_fence_and_the_mark_lives_for_a_day_or_as_long_as_the_value() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    let day = Duration::from_secs(86_400);
    let close = |ttl, to: Duration| matches!(ttl, Ttl::Remaining(left) if left <= to && left > to - Duration::from_secs(5));
    for (store, cache) in stores {
        let lock = cache.lock("report");
        let mut tokens = Vec::new();
        for _ in 0..2 {
            let guard = lock.acquire().await.unwrap();
            tokens.push(guard.fencing_token().unwrap());
            assert!(guard.release().await.unwrap());
        }
        let (mark, short, long) = ("larder:fenced:{r}", Duration::from_secs(60), day * 3);
        assert!(cache.fenced_set("r", "new", tokens[1], short).await.unwrap(), "{store}");
        assert!(!cache.fenced_set("r", "old", tokens[0], short).await.unwrap(), "{store}");
        assert_eq!(cache.get_value("r").await.unwrap().as_deref(), Some("new"), "{store}");
        assert!(close(cache.get_ttl("r").await.unwrap(), short), "{store}");
        assert!(close(cache.get_ttl(mark).await.unwrap(), day), "{store}");
        assert!(cache.fenced_set("r", "new", tokens[1], long).await.unwrap(), "{store}");
        assert!(close(cache.get_ttl(mark).await.unwrap(), long), "{store}");
        assert!(cache.fenced_set("r", "new", tokens[1], None).await.unwrap(), "{store}");
        assert_eq!(cache.get_ttl("r").await.unwrap(), Ttl::Persistent, "{store}");
        assert_eq!(cache.get_ttl(mark).await.unwrap(), Ttl::Persistent, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_namespaces_fence_as_well() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        for group in [cache.pipeline(), cache.transaction()] {
            let replies = group
                .fenced_set("g", "five", 5, None)
                .fenced_set("g", "four", 4, None)
                .get_value("g")
                .delete_key("g")
                .fenced_set("g", "four", 4, None)
                .run()
                .await
                .unwrap();
            let replies: Vec<String> =
                replies.into_iter().map(|reply| format!("{:?}", reply.unwrap())).collect();
            assert_eq!(replies.len(), 5, "{store}");
            for (at, written) in [(0, true), (1, false), (4, false)] {
                assert_eq!(replies[at], format!("Bool({written})"), "{store}: {replies:?}");
            }
        }
        let users = cache
            .namespace::<u64, String>("user")
            .ttl(Duration::from_secs(60))
            .grace(Duration::from_secs(30))
            .build()
            .unwrap();
        assert!(users.fenced_set(&7, &"Ada".into(), 2).await.unwrap(), "{store}");
        assert!(!users.fenced_set(&7, &"Bob".into(), 1).await.unwrap(), "{store}");
        assert_eq!(users.get(&7).await.unwrap().unwrap().as_str(), "Ada", "{store}");
        let kept = cache.get_ttl("user:7").await.unwrap();
        let with_grace = Duration::from_secs(85)..=Duration::from_secs(90);
        assert!(
            matches!(kept, Ttl::Remaining(left) if with_grace.contains(&left)),
            "{store}: {kept:?}"
        );
        assert!(cache.stats().operations["fenced_set"].calls == 2, "{store}");
    }
}

/// Two clients of each store.
async fn pairs() -> (Behind, Vec<(&'static str, CacheClient, CacheClient)>) {
    let (behind, stores) = stores().await;
    let mut pairs = Vec::new();
    for (store, one) in stores {
        let two = behind.another(store, &one).await;
        pairs.push((store, one, two));
    }
    (behind, pairs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_values_follow_a_fenced_write_of_this_client_and_of_others() {
    let _turn = alone().await;
    let (_behind, stores) = pairs().await;
    for (store, mine, other) in stores {
        let near = mine.namespace::<u64, u64>("v").near(true).build().unwrap();
        let others = other.namespace::<u64, u64>("v").build().unwrap();
        let settle = async || {
            let end = Instant::now() + HANGS;
            loop {
                let value = *near.get(&1).await.unwrap().unwrap();
                if near.explain(&1) == Some(ReadFrom::Near) {
                    return value;
                }
                assert!(Instant::now() < end, "{store}: the value never came near");
                tokio::task::yield_now().await;
            }
        };
        near.set(&1, &0).await.unwrap();
        let mut longest = Duration::ZERO;
        for version in 1..=50_u64 {
            assert_eq!(settle().await, version * 2 - 2, "{store}");
            // The writer's own next read sees it.
            assert!(near.fenced_set(&1, &(version * 2 - 1), version * 2 - 1).await.unwrap());
            assert_eq!(*near.get(&1).await.unwrap().unwrap(), version * 2 - 1, "{store}");
            settle().await;
            assert!(others.fenced_set(&1, &(version * 2), version * 2).await.unwrap());
            let (written, machine) = (Instant::now(), Lateness::watch());
            // How long after it the last read began that gave another value.
            let mut last = Duration::ZERO;
            loop {
                let began = written.elapsed();
                if *near.get(&1).await.unwrap().unwrap() == version * 2 {
                    break;
                }
                last = began;
                tokio::task::yield_now().await;
            }
            let machine = machine.most().await;
            assert!(last < Duration::from_millis(100) + machine, "{store}: a stale value");
            longest = longest.max(last);
            // What is refused changes nothing.
            assert!(!near.fenced_set(&1, &0, 1).await.unwrap(), "{store}");
            assert!(!others.fenced_set(&1, &0, 1).await.unwrap(), "{store}");
        }
        println!(
            "fenced writes on {store}: 100 seen through the near cache, the oldest value for {longest:.1?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_under_way_does_not_overwrite_what_was_written_with_a_token() {
    let _turn = alone().await;
    let (_behind, stores) = pairs().await;
    for (store, mine, other) in stores {
        for by in [&mine, &other] {
            let values =
                mine.namespace::<u64, u64>("w").ttl(Duration::from_secs(60)).build().unwrap();
            values.delete(&1).await.unwrap();
            let token = 10 + u64::from(std::ptr::eq(by, &other));
            let loader = || async {
                assert!(by.fenced_set("w:1", "2", token, Duration::from_secs(60)).await.unwrap());
                Ok::<_, larder::Error>(1_u64)
            };
            ends("the load", values.get_or_load(&1, loader)).await.unwrap();
            assert_eq!(*values.get(&1).await.unwrap().unwrap(), 2, "{store}: the load is void");
        }
    }
}
