//! Larder and a Python process (redis-py, orjson) on one server: what one writes the other reads, by
//! every method, each respects the other's locks and leases, and they share one loader for each key.
//! `LARDER_FULL=1` runs the full counts.

#[path = "../common/mod.rs"]
mod common;
mod guards;
mod leases;
mod locks;
mod peer;
mod sharing;
mod through;
mod values;
mod writers;

use std::collections::BTreeSet;

use common::methods::methods;
use common::{times, until};
use larder::CacheClient;
use larder::testing::RedisServer;
use peer::{Peer, Tally};

#[tokio::test]
async fn a_python_process_and_larder_read_each_other_and_exclude_each_other() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let mut peer = Peer::start(server.port()).await;
    let mut tally = Tally::default();

    values::plain(&cache, &mut peer, &mut tally).await;
    values::expiry_and_deletes(&cache, &mut peer, &mut tally).await;
    values::documents(&cache, &mut peer, &mut tally).await;
    values::namespaces(&cache, &mut peer, &mut tally).await;
    values::hashes(&cache, &mut peer, &mut tally).await;
    values::lists(&cache, &mut peer, &mut tally).await;
    values::groups_and_scans(&cache, &mut peer, &mut tally).await;
    locks::both_ways(&cache, &mut peer, &mut tally).await;
    guards::alone(&cache, &mut peer, &mut tally).await;
    guards::shared(&cache, &mut peer, &mut tally).await;
    guards::records(&cache, &mut peer, &mut tally).await;
    guards::fenced(&server, &mut peer, &mut tally).await;
    through::loaded(&cache, &mut peer, &mut tally).await;
    through::nothing(&cache, &mut peer, &mut tally).await;
    through::graceful(&cache, &mut peer, &mut tally).await;
    through::many(&cache, &mut peer, &mut tally).await;
    through::invalidated(&cache, &mut peer, &mut tally).await;
    through::near(&cache, &mut peer, &mut tally).await;

    println!(
        "interop: {} comparisons over {} methods, {} differences",
        tally.compared.values().sum::<usize>(),
        tally.compared.len(),
        tally.differences.len()
    );
    assert!(tally.differences.is_empty(), "{:#?}", tally.differences);
    let compared: BTreeSet<String> = tally.compared.keys().map(|name| (*name).to_owned()).collect();
    let missing: Vec<_> = methods().difference(&compared).cloned().collect();
    assert!(missing.is_empty(), "compare these as well: {missing:?}");
}

#[test]
fn the_golden_vectors_are_what_redis_py_and_orjson_write() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/make_vectors.py");
    let run =
        std::process::Command::new(peer::python()).args([script, "--check"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    println!("golden vectors: {}", String::from_utf8_lossy(&run.stdout).trim());
}
