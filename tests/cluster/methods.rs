//! What a single server does, a cluster does, and calls on many keys whose slots are anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use larder::store::{RedisStore, Store};
use larder::testing::conformance::run_all;
use larder::testing::{RedisCluster, Resp};
use larder::{CacheClient, Direction, ErrorKind, Outcome, Ttl};

use super::{alone, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_contract_of_a_store() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let make = async || Arc::new(RedisStore::open(&cluster.url()).unwrap()) as Arc<dyn Store>;
    // Keys anywhere, and all of a case in one slot.
    for prefix in ["conformance:", "{conformance}:"] {
        match run_all(prefix, make).await {
            Ok(cases) => assert!(cases > 30, "only {cases} cases ran"),
            Err(failures) => {
                let lines: Vec<_> = failures.iter().map(ToString::to_string).collect();
                panic!("{prefix}: {} cases failed:\n{}", lines.len(), lines.join("\n"));
            }
        }
    }
    for node in &cluster.nodes()[..3] {
        assert_eq!(node.command(&["DBSIZE"]).await.int(), Some(0), "keys were left behind");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_many_keys_go_to_all_nodes_and_come_back_in_order() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let cache = client(&cluster).await;
    let key = |n: u32| format!("k:{n}");
    let values = || (0..300).map(|n| (key(n), n.to_string()));
    cache.set_many(values(), Duration::from_secs(60)).await.unwrap();
    for node in &cluster.nodes()[..3] {
        let keys = node.command(&["DBSIZE"]).await.int().unwrap();
        assert!(keys > 50, "only {keys} of 300 keys on a node");
    }
    // Some that are missing, some twice, one of another type.
    cache.push_to_list("list", "x", Direction::Left).await.unwrap();
    let mut asked: Vec<String> = (0..300).rev().map(key).collect();
    asked.extend(["missing".into(), key(7), "list".into()]);
    let found = cache.get_many(&asked).await.unwrap();
    let mut expected: Vec<Option<String>> = (0..300).rev().map(|n| Some(n.to_string())).collect();
    expected.extend([None, Some("7".into()), None]);
    assert_eq!(found, expected);

    let mut found: Vec<_> = cache.scan("k:").try_collect::<Vec<_>>().await.unwrap();
    found.sort_unstable();
    let found: BTreeSet<String> =
        found.iter().map(|key| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect();
    assert_eq!(found, (0..300).map(key).collect());

    // A pipeline over all nodes: each key's operations in their order, and the answers in that of the pipeline.
    let mut pipeline = cache.pipeline();
    for turn in 0..3 {
        for n in 0..50 {
            pipeline = pipeline.push_to_list(format!("l:{n}"), turn, Direction::Right);
        }
    }
    for n in 0..50 {
        pipeline = pipeline.get_list(format!("l:{n}")).incr_by("list", 1);
    }
    let replies = pipeline.run().await.unwrap();
    assert_eq!(replies.len(), 250);
    for (at, reply) in replies.into_iter().enumerate() {
        match at {
            0..150 => assert_eq!(reply.unwrap().into_int().unwrap(), at as i64 / 50 + 1),
            _ if at % 2 == 0 => {
                let list = reply.unwrap().into_list().unwrap();
                assert_eq!(list, ["0", "1", "2"], "the pushes of a key ran out of order");
            }
            _ => assert_eq!(reply.unwrap_err().kind(), ErrorKind::WrongType),
        }
    }
    let deleted = cache.batch_delete_keys((0..310).map(key).chain([key(1)])).await.unwrap();
    assert_eq!(deleted, 300);
    assert_eq!(cache.get_ttl(key(0)).await.unwrap(), Ttl::Missing);
    println!("cluster: 300 keys written, read, scanned and deleted over 3 nodes, one call each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_of_one_slot_and_says_so() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(2, 0).await;
    let cache = client(&cluster).await;
    let transfer = cache.transaction().incr_by("{user:7}:a", -5).incr_by("{user:7}:b", 5);
    let replies = transfer.run().await.unwrap();
    let numbers: Vec<i64> =
        replies.into_iter().map(|reply| reply.unwrap().into_int().unwrap()).collect();
    assert_eq!(numbers, [-5, 5]);

    for across in [
        cache.transaction().incr_by("user:7:a", 1).incr_by("user:7:b", 1),
        cache.transaction().get_many(["user:7:a", "user:7:b"]),
        cache.transaction().incr_by("user:7:a", 1).batch_delete_keys(["{user:7}:a", "user:7:b"]),
    ] {
        let error = across.run().await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidInput, Outcome::NotSent));
        assert!(error.to_string().contains("hash tag"), "{error}");
    }
    assert!(!cache.key_exists("user:7:a").await.unwrap());

    // A command that the server refuses to queue: nothing of the transaction was applied.
    let user = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-lpush"];
    for node in cluster.nodes() {
        node.command(&user).await;
    }
    let url = cluster.url().replace("://", "://app:pw@");
    let limited = CacheClient::connect(url).await.unwrap();
    let refused = limited
        .transaction()
        .incr_by("{user:7}:a", 1)
        .push_to_list("{user:7}:l", "x", Direction::Left)
        .run()
        .await
        .unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Permission, Outcome::Rejected));
    assert!(refused.to_string().contains("command 2"), "{refused}");
    assert_eq!(limited.get_value("{user:7}:a").await.unwrap().as_deref(), Some("-5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_key_does_not_choose_its_slot() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let cache = client(&cluster).await;
    let users =
        cache.namespace::<String, u64>("user").ttl(Duration::from_secs(60)).build().unwrap();
    let hostile = ["{victim}", "{victim}a", "a{victim}", "{", "}", "{}", "{a}{b}", "x}{victim}"];
    let keys: Vec<String> = hostile.iter().map(|part| (*part).to_owned()).collect();
    for (number, key) in (0..).zip(&keys) {
        users.set(key, &number).await.unwrap();
        let loaded = users.get_or_load(key, async || Ok::<_, std::io::Error>(9)).await.unwrap();
        assert_eq!(*loaded, number);
    }
    let victim = RedisCluster::slot("victim");
    let stored: Vec<_> = cache.scan("user:").try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(stored.len(), hostile.len());
    for key in &stored {
        assert_ne!(RedisCluster::slot(key.as_bytes()), victim, "{:?}", key.as_bytes());
    }
    let found = users.get_many(&keys).await.unwrap();
    assert!((0..).zip(&found).all(|(number, user)| user.as_deref() == Some(&number)));
    for key in &keys {
        assert!(users.delete(key).await.unwrap(), "{key}");
    }
    // A caller who writes keys himself may choose.
    cache
        .transaction()
        .set_value("{victim}a", 1, None)
        .set_value("{victim}b", 2, None)
        .run()
        .await
        .unwrap();
    println!("row 4: {} hostile parts, 0 in the victim's slot", hostile.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_is_loaded_once_by_all_clients_of_a_cluster() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let loads = Arc::new(AtomicU64::new(0));
    const KEYS: u64 = 60;
    let mut tasks = Vec::new();
    for cache in &clients {
        for key in 0..KEYS {
            for _ in 0..8 {
                let (cache, loads) = (cache.clone(), Arc::clone(&loads));
                tasks.push(tokio::spawn(async move {
                    let load = async || {
                        loads.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        Ok::<_, std::io::Error>(key)
                    };
                    let ttl = larder::LoadOptions::new().ttl(Duration::from_secs(60));
                    *cache.get_or_load(format!("load:{key}"), ttl, load).await.unwrap()
                }));
            }
        }
    }
    let count = tasks.len();
    for (at, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), (at as u64 / 8) % KEYS);
    }
    let loads = loads.load(Ordering::SeqCst);
    println!("P18 cluster: {count} misses of {KEYS} keys in two clients, {loads} loader runs");
    assert_eq!(loads, KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locks_exclude_and_count_on_every_node() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let mut acquired = 0;
    let work = (0..12).map(async |name| {
        let (mut last, mut taken) = (0, 0);
        let held = AtomicU64::new(0);
        let turns = (0..10).map(async |turn| {
            let lock = clients[turn % 2].lock(format!("job:{name}"));
            let guard = lock.wait(Duration::from_secs(20)).acquire().await.unwrap();
            assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "two holders at once");
            let token = guard.fencing_token().unwrap();
            tokio::task::yield_now().await;
            held.fetch_sub(1, Ordering::SeqCst);
            assert!(guard.release().await.unwrap());
            token
        });
        let mut tokens = join_all(turns).await;
        tokens.sort_unstable();
        for token in tokens {
            assert!(token > last, "a token came twice");
            last = token;
            taken += 1;
        }
        taken
    });
    for taken in join_all(work).await {
        acquired += taken;
    }
    let plain =
        clients[0].acquire_lock("lock:plain", larder::LockOptions::default()).await.unwrap();
    assert!(clients[1].release_lock("lock:plain", &plain).await.unwrap());
    // One that waits for a copy, on every node.
    for name in 0..9 {
        let lock = clients[0].lock(format!("copied:{name}")).replicas(1, Duration::from_secs(3));
        assert!(lock.acquire().await.unwrap().release().await.unwrap());
    }
    println!(
        "P21 cluster: {acquired} acquisitions of 12 locks by two clients, overlaps 0, tokens grow"
    );
    assert_eq!(acquired, 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_over_all_nodes() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let mut own = Vec::new();
    for node in cluster.nodes() {
        own.push(node.connect().await);
    }
    // All but the one that asks: what a connection is called, older servers do not tell.
    let mut opened = async || {
        let mut count = 0;
        for own in &mut own {
            let list = own.command(&["CLIENT", "LIST"]).await.unwrap().text().unwrap();
            count += list.lines().count() - 1;
        }
        count
    };
    super::until("the test's own connections are closed", async || opened().await == 0).await;
    for (most, each) in [(6, 2), (7, 2), (9, 3), (4, 1)] {
        let url = format!("{}?max_connections={most}&connections={}", cluster.url(), most.min(6));
        let cache = CacheClient::connect(url).await.unwrap();
        let values = cache.namespace::<u64, u64>("v").near(true).build().unwrap();
        let work = (0..300).map(async |key| {
            values.set(&key, &key).await.unwrap();
            assert_eq!(values.get(&key).await.unwrap().as_deref(), Some(&key));
        });
        join_all(work).await;
        let count = opened().await;
        assert!(count <= most && count >= each, "{count} of {most}");
        cache.close().await;
        drop((cache, values));
        super::until("the connections are closed", async || opened().await == 0).await;
    }
    let url = format!("{}?max_connections=2", cluster.url());
    let error = CacheClient::connect(url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("at least 6"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_shown_to_every_node_and_a_wrong_one_is_an_error() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(2, 0).await;
    for node in cluster.nodes() {
        node.command(&["ACL", "SETUSER", "app", "on", ">s3cr3t", "~*", "+@all"]).await;
        node.command(&["ACL", "SETUSER", "default", "-get"]).await;
    }
    let url = |login: &str| cluster.url().replace("://", &format!("://{login}@"));
    let cache = CacheClient::connect(url("app:s3cr3t")).await.unwrap();
    for n in 0..20 {
        cache.set_value(format!("k:{n}"), n, None).await.unwrap();
        assert_eq!(cache.get_value(format!("k:{n}")).await.unwrap(), Some(n.to_string()));
    }
    let error = CacheClient::connect(url("app:wr0ng")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent));
    assert!(!format!("{error:?} {cache:?}").contains("wr0ng"));
    assert!(matches!(cluster.command("k:1", &["GET", "k:1"]).await, Resp::Error(_)));
}
