//! Functions over the client of the process: one for the process, so this is one test.

use std::sync::atomic::{AtomicU64, Ordering};

use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, cached};

static RUNS: AtomicU64 = AtomicU64::new(0);

#[cached(namespace = "double", key = "{number}", ttl = "5m", near, invalidate)]
async fn double(number: u64) -> larder::Result<u64> {
    RUNS.fetch_add(1, Ordering::SeqCst);
    Ok(number * 2)
}

#[cached(namespace = "half", key = "{number}", ttl = "5m")]
async fn half(number: u64) -> u64 {
    RUNS.fetch_add(1, Ordering::SeqCst);
    number / 2
}

fn runs() -> u64 {
    RUNS.swap(0, Ordering::SeqCst)
}

#[tokio::test]
async fn without_a_cache_of_its_own_a_function_uses_the_one_of_the_process_at_each_call() {
    let error = double(4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotInitialized);
    assert!(error.to_string().contains("call larder::init"), "{error}");
    assert!(double_invalidate(4).await.unwrap_err().is_not_initialized());
    assert_eq!(runs(), 0);
    // What cannot fail answers itself.
    assert_eq!((half(4).await, half(4).await), (2, 2));
    assert_eq!(runs(), 2);

    let server = RedisServer::start().await;
    larder::init(server.url()).await.unwrap();
    for _ in 0..5 {
        assert_eq!((double(4).await.unwrap(), half(4).await), (8, 2));
    }
    assert_eq!(runs(), 2);
    assert_eq!(server.command(&["GET", "double:4"]).await.text().as_deref(), Some("8"));
    double_invalidate(4).await.unwrap();
    assert_eq!(double(4).await.unwrap(), 8);
    assert_eq!(runs(), 1);

    // The functions let go of a client that the process has let go.
    let clients = || async {
        let list = server.command(&["CLIENT", "LIST"]).await.text().unwrap_or_default();
        list.lines().filter(|line| line.contains("resp=3")).count()
    };
    assert!(clients().await > 0);
    larder::reset();
    let gone = async {
        while clients().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("still connected");
    larder::init_with(CacheClient::memory()).await.unwrap();
    assert_eq!((double(4).await.unwrap(), half(4).await), (8, 2));
    assert_eq!(runs(), 2);
}
