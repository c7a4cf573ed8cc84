//! The conformance suite on the stores of larder.

use std::sync::Arc;

use larder::store::{MemoryStore, RedisStore, Store};
use larder::testing::RedisServer;
use larder::testing::conformance::run_all;

fn report(done: Result<usize, Vec<larder::testing::conformance::Failure>>) {
    match done {
        Ok(cases) => assert!(cases > 30, "only {cases} cases ran"),
        Err(failures) => {
            let lines: Vec<_> = failures.iter().map(ToString::to_string).collect();
            panic!("{} cases failed:\n{}", lines.len(), lines.join("\n"));
        }
    }
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    report(run_all("conformance:", async || Arc::clone(&store)).await);
}

#[tokio::test(start_paused = true)]
async fn the_embedded_store_keeps_the_contract_while_time_is_paused() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    report(run_all("conformance:", async || Arc::clone(&store)).await);
}

#[tokio::test]
async fn the_suite_leaves_nothing_behind() {
    let memory = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = memory.clone();
    report(run_all(b"\xff\0binary:", async || Arc::clone(&store)).await);
    assert_eq!((memory.len(), memory.bytes()), (0, 0));
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract() {
    let server = RedisServer::start().await;
    let make = async || Arc::new(RedisStore::open(&server.url()).unwrap()) as Arc<dyn Store>;
    report(run_all("conformance:", make).await);
    let left = server.command(&["DBSIZE"]).await.int();
    assert_eq!(left, Some(0), "keys were left behind");
}

#[tokio::test]
async fn the_redis_store_keeps_the_contract_over_several_connections() {
    let server = RedisServer::start().await;
    let url = format!("{}?connections=4", server.url());
    let store: Arc<dyn Store> = Arc::new(RedisStore::open(&url).unwrap());
    report(run_all("conformance:", async || Arc::clone(&store)).await);
}
