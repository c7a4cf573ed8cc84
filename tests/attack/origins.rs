//! Reading through stores that refuse, stall, or hold what nobody expects, and clients that end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, ErrorKind, Outcome};

use super::loads::{Given, both, ends, numbers};

const DEADLINE: Duration = Duration::from_millis(200);

async fn quick(url: String) -> CacheClient {
    CacheClient::builder().url(url).deadline(DEADLINE).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loaders_of_many_keys_may_give_anything() {
    let (server, stores) = both().await;
    for (at, cache) in stores.iter().enumerate() {
        let values = numbers(cache);
        let nobody = |_: Vec<&u64>| async { Given::Ok([(1_u64, 1_u64)]) };
        assert!(values.get_or_load_many([], nobody).await.unwrap().is_empty());
        // Twice the same, one that nobody asked for, one left out, one that failed.
        let odd = |_: Vec<&u64>| async {
            let failed = || larder::Loaded::failed("the origin's row is broken");
            Given::Ok([
                (1, larder::Loaded::value(1)),
                (1, larder::Loaded::value(1)),
                (99, failed()),
            ])
        };
        let got = ends("odd", values.get_or_load_many(&[1, 2, 1], odd)).await.unwrap();
        let got: Vec<_> = got.into_iter().map(|one| one.unwrap().as_deref().copied()).collect();
        assert_eq!(got, [Some(1), None, Some(1)]);
        assert!(values.get(&99).await.unwrap().is_none(), "what nobody asked for is not stored");
        let all: Vec<u64> = (1_000..11_000).collect();
        let load = |keys: Vec<&u64>| {
            let found: Vec<_> = keys.into_iter().map(|key| (*key, *key)).collect();
            async { Given::Ok(found) }
        };
        let begun = Instant::now();
        let got = ends("10,000", values.get_or_load_many(&all, load)).await.unwrap();
        let took = begun.elapsed();
        assert!(all.iter().zip(got).all(|(key, one)| one.unwrap().as_deref() == Some(key)));
        let stored = values.with(|options| options.peek()).get_many(&all).await.unwrap();
        let stored = stored.into_iter().flatten().count();
        if at == 0 {
            server.command(&["RPUSH", "n:50", "x"]).await;
        } else {
            cache.push_to_list("n:50", 1, larder::Direction::Right).await.unwrap();
        }
        let got = ends("a list", values.get_or_load_many(&[49, 50, 51], load)).await.unwrap();
        let kinds: Vec<_> =
            got.into_iter().map(|one| one.err().map(|error| error.kind())).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::WrongType), None], "store {at}");
        println!(
            "store {at}: 10,000 keys in {took:?}, {stored} of them stored; a list among strings"
        );
    }
}

#[tokio::test]
async fn what_others_left_under_a_key_or_its_lease_is_an_error_or_loaded_over() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let strict = cache.namespace::<u64, u64>("n").near(true).ttl(Duration::from_secs(60));
    let strict = strict.hard_timeout(Duration::from_millis(300)).build().unwrap();
    let lenient = cache.namespace::<u64, u64>("n").near(true).undecodable_as_miss(true);
    let lenient = lenient.build().unwrap();
    let (deep, large) =
        ("[".repeat(129) + &"]".repeat(129), format!("\"{}\"", "x".repeat(20 << 20)));
    let odd = ["{\"id\":", "\"text\"", "", "18446744073709551616", &deep, &large, "\u{1}gz"];
    for value in odd {
        server.command(&["SET", "n:1", value]).await;
        let stored = strict.with(|options| options.bypass_near());
        let error = ends("odd", stored.get_or_load(&1, || async { Given::Ok(1) })).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Decode);
        let lenient = lenient.with(|options| options.bypass_near());
        let loaded = ends("odd", lenient.get_or_load(&1, || async { Given::Ok(1) })).await;
        assert_eq!(*loaded.unwrap(), 1);
        assert_eq!(strict.get(&1).await.unwrap().as_deref(), Some(&1));
    }
    server.command(&["SET", "n:2", "null"]).await;
    assert!(strict.get(&2).await.unwrap().is_none());
    assert_eq!(*strict.get_or_load(&2, || async { Given::Ok(2) }).await.unwrap(), 2);
    // A list in the lease's place, and a lease that never ends.
    server.command(&["RPUSH", "larder:lease:{n:3}", "x"]).await;
    server.command(&["SET", "larder:lease:{n:4}", "x"]).await;
    let begun = Instant::now();
    let list = ends("a list", strict.get_or_load(&3, || async { Given::Ok(3) })).await;
    let endless = ends("for ever", strict.get_or_load(&4, || async { Given::Ok(4) })).await;
    let took = begun.elapsed();
    assert_eq!(endless.unwrap_err().kind(), ErrorKind::Load);
    assert!(took < Duration::from_millis(800), "{took:?}");
    println!(
        "under a key: {} oddities; a list as lease: {:?}",
        odd.len(),
        list.map_err(|e| e.kind())
    );
}

/// Two keys in one call, whose loader gives each its own number.
async fn load_two(what: &str, values: &larder::Namespace<u64, u64>) -> [u64; 2] {
    let load = |_: Vec<&u64>| async { Given::Ok([(1, 1), (2, 2)]) };
    let found = ends(what, values.get_or_load_many(&[1, 2], load)).await.unwrap();
    let found: Vec<u64> = found.into_iter().map(|value| *value.unwrap().unwrap()).collect();
    found.try_into().unwrap()
}

#[tokio::test]
async fn a_server_that_refuses_what_the_read_path_needs_is_read_through_all_the_same() {
    let server = RedisServer::start().await;
    for rule in ["-client|tracking", "-eval", "-mget", "-pttl", "-get"] {
        let rules = ["ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", rule];
        assert!(!server.command(&rules).await.is_error());
        for near in [true, false] {
            let cache = quick(format!("redis://app:pw@{}", server.addr())).await;
            let values = cache.namespace::<u64, u64>("n").near(near).build().unwrap();
            for round in 0..2 {
                let value = ends(rule, values.get_or_load(&1, || async { Given::Ok(1) })).await;
                assert_eq!(*value.unwrap(), 1, "{rule} in round {round}, near {near}");
                assert_eq!(load_two(rule, &values).await, [1, 2], "{rule}, near {near}");
            }
        }
    }
    let refusals =
        ["READONLY x", "OOM x", "MISCONF x", "LOADING x", "BUSY x", "ERR x", "MASTERDOWN x"];
    for resp3 in [true, false] {
        for refusal in refusals {
            let server = ScriptedServer::start(move |_, args| match &*args[0] {
                b"HELLO" if resp3 => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
                b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
                b"EVAL" => Scripted::answer(format!("-{refusal}\r\n")),
                b"GET" if resp3 => Scripted::answer("_\r\n"),
                b"GET" => Scripted::answer("$-1\r\n"),
                b"PTTL" => Scripted::answer(":-2\r\n"),
                b"PING" => Scripted::answer("+PONG\r\n"),
                _ => Scripted::answer("+OK\r\n"),
            })
            .await;
            let cache = quick(server.url()).await;
            let values = cache.namespace::<u64, u64>("n").near(true).build().unwrap();
            let begun = Instant::now();
            let value = ends(refusal, values.get_or_load(&1, || async { Given::Ok(1) })).await;
            assert_eq!(*value.unwrap(), 1, "{refusal}");
            assert_eq!(load_two(refusal, &values).await, [1, 2], "{refusal}");
            let error = ends(refusal, values.invalidate(&1)).await.unwrap_err();
            assert_ne!(error.outcome(), Outcome::NotSent, "{refusal}: {error}");
            assert!(begun.elapsed() < DEADLINE * 6, "{refusal}: {:?}", begun.elapsed());
        }
    }
    println!(
        "refusals: 5 by ACL, {} of scripts in RESP2 and RESP3: the loader answered each",
        refusals.len()
    );
}

#[tokio::test]
async fn a_server_that_stops_holds_up_a_load_for_the_deadline_only() {
    let server = RedisServer::start().await;
    let cache = quick(server.url()).await;
    let values = numbers(&cache);
    values.set(&1, &1).await.unwrap();
    let mut longest = Duration::ZERO;
    for during in 0..2 {
        if during == 0 {
            server.pause().await;
        }
        let begun = Instant::now();
        let key = 10 + during;
        let value = values.get_or_load(&key, || async {
            server.pause().await;
            Given::Ok(5)
        });
        assert_eq!(*ends("a load", value).await.unwrap(), 5);
        longest = longest.max(begun.elapsed());
        let begun = Instant::now();
        let error = ends("an invalidation", values.invalidate(&1)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Deferred, "{error}");
        longest = longest.max(begun.elapsed());
        server.resume().await;
        ends("until it is sent", async { while values.get(&1).await.is_err() {} }).await;
        assert!(values.get(&1).await.unwrap().is_none(), "it was sent before the read");
        values.set(&1, &1).await.unwrap();
    }
    assert!(longest < DEADLINE * 3, "{longest:?}");
    println!("a stopped server: longest call {longest:?} at a deadline of {DEADLINE:?}");
}

/// Every call of the client failed from then on, for ever: what was kept is sent before anything else.
#[tokio::test]
async fn an_invalidation_that_is_forbidden_when_the_server_is_back_does_not_stop_the_client() {
    let server = RedisServer::start().await;
    let user = ["ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all"];
    server.command(&user).await;
    let cache = quick(format!("redis://app:pw@{}", server.addr())).await;
    let values = numbers(&cache);
    values.set_many([(1, 1), (2, 2), (3, 3)]).await.unwrap();
    let narrow = ["ACL", "SETUSER", "app", "resetkeys", "~n:1", "~n:3", "~larder:*", "~other"];
    server.command(&narrow).await;
    server.pause().await;
    for key in [1, 2, 3] {
        let error = ends("an invalidation", values.invalidate(&key)).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Deferred, "{error}");
    }
    server.resume().await;
    ends("the client", async { while cache.get_value("other").await.is_err() {} }).await;
    assert!(values.get(&1).await.unwrap().is_none() && values.get(&3).await.unwrap().is_none());
    println!("3 invalidations kept, 1 forbidden since: 2 sent, the client goes on");
}

#[test]
fn a_runtime_or_a_client_that_ends_ends_its_loads() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (first, second) = (runtime().unwrap(), runtime().unwrap());
    let (_server, stores) = second.block_on(both());
    for cache in stores {
        let values = cache
            .namespace::<u64, u64>("n")
            .hard_timeout(Duration::from_secs(5))
            .loader(|key| async move {
                if key < 100 { std::future::pending().await } else { Given::Ok(key) }
            })
            .build()
            .unwrap();
        let tasks: Vec<_> = (0..10)
            .map(|key| {
                let values = values.clone();
                first.spawn(async move { values.get(&key).await.map(drop) })
            })
            .collect();
        let waits = values.clone();
        let waiting =
            second.spawn(async move { waits.get(&101).await.unwrap().as_deref().copied() });
        assert_eq!(second.block_on(ends("another key", waiting)).unwrap(), Some(101));
        let begun = Instant::now();
        second.block_on(ends("close", cache.close()));
        let error = second.block_on(ends("after", values.get(&200))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        tasks.into_iter().for_each(|task| task.abort());
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    first.shutdown_timeout(Duration::from_secs(1));
    println!("loads that never end: 10 on each store, closed and shut down");
}

#[tokio::test]
async fn namespaces_of_one_name_share_what_is_near_and_never_each_others_types() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let texts = cache.namespace::<u64, String>("n").near(true).build().unwrap();
    for round in 0..10_000_u64 {
        let budget = (1 << 20) + round;
        let one = cache.namespace::<u64, u64>("o").near(true).near_max_bytes(budget);
        assert!(one.build().is_ok(), "round {round}");
    }
    let numbers = cache.namespace::<u64, u64>("n").near(true).build().unwrap();
    for round in 0..50 {
        texts.set(&1, &round.to_string()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(texts.get(&1).await.unwrap().as_deref(), Some(&round.to_string()));
            assert_eq!(numbers.get(&1).await.unwrap_err().kind(), ErrorKind::Decode);
        }
        numbers.set(&1, &round).await.unwrap();
        assert_eq!(numbers.get(&1).await.unwrap().as_deref(), Some(&round));
        assert_eq!(texts.get(&1).await.unwrap_err().kind(), ErrorKind::Decode);
    }
    let told = |name: &str| cache.namespace::<u64, u64>(name).near(true).broadcast(true).build();
    assert!(told("foo:b").is_ok() && told("foob").is_ok() && told("foo:b").is_ok());
    assert_eq!(told("foo").unwrap_err().kind(), ErrorKind::Config);
    println!("near: 10,000 times built, 100 changes of type, overlapping prefixes refused");
}

#[tokio::test]
async fn clients_with_other_settings_share_the_keys_leases_and_locks_of_a_namespace() {
    const SECOND: Duration = Duration::from_secs(1);
    let server = RedisServer::start().await;
    let one = CacheClient::connect(server.url()).await.unwrap();
    let other = CacheClient::connect(server.url()).await.unwrap();
    let near = one.namespace::<u64, u64>("n").near(true).ttl(SECOND * 60).grace(SECOND * 30);
    let near = near.build().unwrap();
    let told = one.namespace::<u64, u64>("n").near(true).broadcast(true).build().unwrap();
    let plain = other.namespace::<u64, u64>("n").ttl(SECOND * 120).build().unwrap();
    for version in 1..=200 {
        near.get(&1).await.unwrap();
        plain.set(&1, &version).await.unwrap();
        for view in [&near, &told] {
            ends("a change", async {
                while view.get(&1).await.unwrap().as_deref() != Some(&version) {
                    // Near hits do not wait for anything.
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        near.set(&1, &(version + 1_000)).await.unwrap();
        assert_eq!(plain.get(&1).await.unwrap().as_deref(), Some(&(version + 1_000)));
    }
    let loads = AtomicU64::new(0);
    for key in 100..150 {
        let load = || async {
            loads.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await; // a loader's work
            Given::Ok(key)
        };
        // Who comes later waits for a lease of other length than its own.
        let longer = plain.with(|options| options.lease(SECOND * 20));
        let (one, other) =
            tokio::join!(near.get_or_load(&key, load), longer.get_or_load(&key, load));
        assert_eq!((*one.unwrap(), *other.unwrap()), (key, key));
    }
    assert_eq!(loads.into_inner(), 50);
    for round in 0..20 {
        let (short, long) = (one.lock("l").lease(SECOND), other.lock("l").lease(SECOND * 30));
        let (first, second) = if round % 2 == 0 { (&short, &long) } else { (&long, &short) };
        let held = first.try_acquire().await.unwrap().expect("nobody has it");
        assert!(second.try_acquire().await.unwrap().is_none());
        let token = held.fencing_token();
        assert!(held.release().await.unwrap());
        let next = second.try_acquire().await.unwrap().expect("it was given back");
        assert!(next.fencing_token() > token);
        assert!(next.release().await.unwrap());
    }
    println!("settings that differ: 400 changes seen, 50 loads for 100 reads, 40 locks in turn");
}
