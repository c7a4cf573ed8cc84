//! What an entry of 100 bytes costs in the process, by the resident memory that the kernel counts.

use larder::CacheClient;
use larder::testing::RedisServer;

use crate::Result;
use crate::cli::Options;
use crate::report::{self, Raw};
use crate::workers::{Orders, Worker};

/// Key and encoded value of an entry together: `m:` and 8 digits, a text of 88 letters in its quotes.
const PAYLOAD: usize = 100;
const NAME: &str = "m";
const LETTERS: usize = PAYLOAD - 10 - 2;

/// Entries, for figures: enough that what the process needs without them does not count.
const ENTRIES: u64 = 1_000_000;

/// How many keys are asked for at once.
const AT_ONCE: usize = 1_000;

/// Where the overhead stands that the near cache's budget reckons with.
const SOURCE: &str = include_str!("../../src/near/entry.rs");

const ALL: [&str; 3] = ["larder", "moka, sync", "quick_cache"];

pub(crate) async fn run(options: Options) -> Result<()> {
    let entries = if options.quick { ENTRIES / 10 } else { ENTRIES };
    let columns = ["contender", "entries", "payload_bytes", "resident_bytes", "kept"];
    let mut raw = Raw::create(options.out.as_deref(), &columns)?;
    // By default the server forgets whom to tell of more than a million keys.
    let server = RedisServer::builder().arg("--tracking-table-max-keys").arg("0").start().await;
    report::facts(&server.info("redis_version").await, crate::WORKERS)?;
    let stated = stated_overhead();
    println!("- {entries} entries of {PAYLOAD} bytes: a key of 10, a text of {LETTERS} in quotes");
    println!("- larder's budget reckons with {stated} bytes beside the payload of an entry\n");
    println!("| contender | resident bytes per entry | beside the payload |\n|---|---:|---:|");
    fill(&server, entries).await?;
    for name in ALL.into_iter().filter(|name| options.wants_contender(name)) {
        let mut worker = Worker::start("memory", name, &server.url()).await?;
        worker.tell(&entries.to_string()).await?;
        let answer = worker.answer().await?;
        let (resident, kept) = answer.split_once(' ').ok_or("a worker answered nonsense")?;
        let (resident, kept): (u64, u64) = (resident.parse()?, kept.parse()?);
        raw.row(&[
            name.to_owned(),
            entries.to_string(),
            PAYLOAD.to_string(),
            resident.to_string(),
            kept.to_string(),
        ])?;
        if kept != entries {
            return Err(format!("{name} kept {kept} of {entries} entries").into());
        }
        let each = resident as f64 / entries as f64;
        println!("| {name} | {each:.0} | {:.0} |", each - PAYLOAD as f64);
    }
    Ok(())
}

/// The constant in the source.
fn stated_overhead() -> &'static str {
    let line = SOURCE.lines().find_map(|line| line.split_once("const ENTRY_OVERHEAD: u64 = "));
    line.expect("the constant stands in the source").1.trim_end_matches(';')
}

fn value() -> String {
    "v".repeat(LETTERS)
}

/// Numbers of 8 digits, so that all keys have one length.
fn numbers(entries: u64) -> Vec<u64> {
    (10_000_000..10_000_000 + entries).collect()
}

async fn fill(server: &RedisServer, entries: u64) -> Result<()> {
    let cache = CacheClient::connect(server.url()).await?;
    let values = cache.namespace::<u64, String>(NAME).build()?;
    let value = value();
    for some in numbers(entries).chunks(AT_ONCE) {
        values.set_many(some.iter().map(|number| (*number, &value))).await?;
    }
    cache.close().await;
    Ok(())
}

/// A worker: fills one cache and says by how much the process grew, and how many entries are in it.
pub(crate) async fn serve(contender: &str, url: &str) -> Result<()> {
    let mut orders = Orders::ready();
    let entries: u64 = orders.next().await?.ok_or("a worker was told nothing")?.parse()?;
    let (grown, kept) = match contender {
        "larder" => larder(url, entries).await?,
        "moka, sync" => moka(entries)?,
        "quick_cache" => quick(entries)?,
        _ => return Err("no such contender".into()),
    };
    println!("{grown} {kept}");
    Ok(())
}

async fn larder(url: &str, entries: u64) -> Result<(u64, u64)> {
    // More than the entries are reckoned with: nothing is evicted.
    let builder = CacheClient::builder().url(url).near_max_bytes(entries * 640);
    let cache = builder.build()?;
    let values = cache.namespace::<u64, String>(NAME).near(true).build()?;
    let numbers = numbers(entries);
    // What reading takes once, and not for each entry.
    values.get_many(&numbers[..AT_ONCE]).await?;
    let before = resident()?;
    for some in numbers[AT_ONCE..].chunks(AT_ONCE) {
        values.get_many(some).await?;
    }
    let grown = resident()? - before;
    let scaled = grown as f64 * entries as f64 / (entries - AT_ONCE as u64) as f64;
    let hits = || cache.stats().reads[NAME].near_hits;
    let earlier = hits();
    for some in numbers.chunks(AT_ONCE) {
        values.get_many(some).await?;
    }
    Ok((scaled as u64, hits() - earlier))
}

fn moka(entries: u64) -> Result<(u64, u64)> {
    let before = resident()?;
    let cache = moka::sync::Cache::<String, std::sync::Arc<String>>::new(entries * 2);
    for number in numbers(entries) {
        cache.insert(format!("{NAME}:{number}"), value().into());
    }
    cache.run_pending_tasks();
    Ok((resident()? - before, cache.entry_count()))
}

fn quick(entries: u64) -> Result<(u64, u64)> {
    let before = resident()?;
    let cache =
        quick_cache::sync::Cache::<String, std::sync::Arc<String>>::new(entries as usize * 2);
    for number in numbers(entries) {
        cache.insert(format!("{NAME}:{number}"), value().into());
    }
    Ok((resident()? - before, cache.len() as u64))
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = pages.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
