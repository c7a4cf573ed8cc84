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
use std::path::Path;

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

/// The names of the methods of the client and of namespaces, from their sources, so that a new one
/// cannot be forgotten here.
fn methods() -> BTreeSet<String> {
    // They touch no key.
    const NO_DATA: [&str; 6] = ["connect", "ping", "session", "close", "run", "stats"];
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    let client = std::fs::read_dir(src.join("client"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .chain([src.join("client/load/mod.rs")]);
    for (file, of) in
        client.map(|file| (file, "")).chain([(src.join("namespace.rs"), "namespace.")])
    {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            let line = line.trim_start();
            let name = line.strip_prefix("pub async fn ").or_else(|| {
                let name = line.strip_prefix("pub fn ")?;
                ["scan", "pipeline", "transaction"]
                    .iter()
                    .any(|is| name.starts_with(is))
                    .then_some(name)
            });
            let end = |name: &str| name.find(|c: char| !c.is_alphanumeric() && c != '_');
            let name = name.and_then(|name| Some(&name[..end(name)?]));
            if let Some(name) = name.filter(|name| !NO_DATA.contains(name)) {
                found.insert(format!("{of}{name}"));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}
