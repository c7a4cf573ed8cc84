//! Invalidations that are kept for a node of a cluster that is away: they go before whatever reads from it again, and hold up
//! nobody else.

use std::time::{Duration, Instant};

use larder::testing::{Cut, RedisCluster};
use larder::{CacheClient, Outcome};

use crate::common::place::{Place, plain};
use crate::{alone, ms, until};

const DEADLINE: Duration = Duration::from_millis(500);

/// How long the node is away: for longer than the breaker takes to open.
const AWAY: Duration = Duration::from_secs(3);

/// A number whose key is in some slots.
pub(crate) fn number(prefix: &str, slots: std::ops::Range<u16>) -> u64 {
    let is_there = |n: &u64| slots.contains(&RedisCluster::slot(format!("{prefix}:{n}")));
    (0..).find(is_there).expect("every slot has keys")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_is_kept_for_a_node_holds_up_calls_to_that_node_alone() {
    let _turn = alone().await;
    // What is sent to the node is lost on the way: it does not come after all, as it would if the node stood still.
    let place = Place::primaries(plain).await.behind_proxies().await;
    let builder = CacheClient::builder().url(place.url()).deadline(DEADLINE);
    let cache = builder.connect().await.unwrap();
    let values = cache.namespace::<u64, u64>("v").build().unwrap();
    let [first, second] = [0..5_000, 6_000..10_000].map(|slots| number("v", slots));
    let name = number("lock", 6_000..10_000).to_string();
    let lock = cache.lock(&name).lease(Duration::from_secs(2));
    let guard = lock.renew_every(Duration::from_millis(200)).acquire().await.unwrap();
    let (node, proxy) = (&place.nodes()[0], &place.proxies()[0]);
    let key = format!("v:{first}");
    for reads in [false, true] {
        for key in [first, second] {
            values.set(&key, &1).await.unwrap();
        }
        proxy.to_server().swallow(true);
        let error = values.invalidate(&first).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Deferred, "{error}");
        let (kept, mut calls, mut longest) = (Instant::now(), 0, Duration::ZERO);
        while kept.elapsed() < AWAY {
            let asked = Instant::now();
            assert_eq!(values.get(&second).await.unwrap().as_deref(), Some(&1));
            longest = longest.max(asked.elapsed());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(2)).await; // a pace
        }
        // It would read what is to be gone.
        assert!(values.get(&first).await.is_err());
        assert!(guard.is_valid(), "a lock on another node was lost");
        assert_eq!(
            node.command(&["EXISTS", &key]).await.int(),
            Some(1),
            "it is not kept, but sent"
        );
        proxy.cut(Cut::Reset);
        proxy.to_server().swallow(false);
        let back = Instant::now();
        if reads {
            let value = loop {
                match values.get(&first).await {
                    Ok(value) => break value,
                    Err(error) => assert!(error.is_unavailable() || error.is_timeout(), "{error}"),
                }
            };
            assert_eq!(value, None, "it was read before the invalidation was sent");
        } else {
            until("it is sent though nobody calls", async || {
                node.command(&["EXISTS", &key]).await.int() == Some(0)
            })
            .await;
        }
        println!(
            "deferred, cluster: a node out of reach for {AWAY:?} with an invalidation to be sent: {calls} calls to another node, none failed, \
             the longest took {:.1} ms; sent {:.0} ms after it was back",
            ms(longest),
            ms(back.elapsed())
        );
        assert!(calls > 100);
    }
    assert!(guard.release().await.unwrap());
}
