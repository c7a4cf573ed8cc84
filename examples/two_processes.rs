//! Three processes on one Redis: two read hot products with a near cache each, one changes them in SQLite.
//!
//! ```sh
//! cargo run --release --example two_processes                                   # a Redis of its own
//! cargo run --release --example two_processes -- --url redis://127.0.0.1:6379
//! ```
//!
//! It starts itself three times and tells the others over their standard input what to do:
//!
//! 1. Both readers read 8 products whose time to live is 250 ms. Whenever one has expired, both want it at the
//!    same moment, and one of them loads it. Each load notes its time: one that began before the last value had
//!    expired would be one too many.
//! 2. The writer changes 8 other products, first the row, then `invalidate`, and notes when that returned. The
//!    readers note for each version when they were given it last. The difference is the staleness.
//!
//! It prints the following; the indented lines are figures, which differ from run to run:
//!
//! ```text
//! a writer and 2 readers, 3 processes on one Redis; 10000 products with 100000 reviews in SQLite
//! 8 products that expire every 250 ms: 1.00 loads for each expiry, over both readers
//!   64 loads, 27 by reader 1 and 37 by reader 2
//! 200 changes of 8 products: 0 old rows were given 100 ms after their invalidation had returned
//!   an old row was given for 1.86 ms at most
//!   reader 1: 266520 reads, 261301 near, 94 loads; reader 2: 264424 reads, 258868 near, 106 loads
//! in the end both readers have the last version of each product
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::testing::RedisServer;
use larder::{CacheClient, LoadOptions, Namespace};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::origin::{Failure, Origin, PRODUCTS, Product, REVIEWS};

mod origin;

/// Products with a short life, and products that are changed.
const EXPIRING: std::ops::RangeInclusive<u64> = 1..=8;
const CHANGING: std::ops::RangeInclusive<u64> = 11..=18;

const LIFE: Duration = Duration::from_millis(250);
const EXPIRING_FOR: Duration = Duration::from_secs(2);
const CHANGES: u64 = 200;
/// Readers in a process; each reads every product once a millisecond.
const TASKS: usize = 16;
/// The bound that is promised while all connections are healthy.
const QUIET: Duration = Duration::from_millis(100);
/// Redis counts whole milliseconds, and the clock of the machine may be set meanwhile.
const SLACK: Duration = Duration::from_millis(5);

/// How others are told of the store and the file: not by arguments, which every user of the machine can see.
const URL: &str = "TWO_PROCESSES_URL";
const FILE: &str = "TWO_PROCESSES_FILE";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["reader"] => Shop::from_env().await?.read_as_told().await,
        ["writer"] => Shop::from_env().await?.write_as_told().await,
        ["--url", url] => direct(url).await,
        [] => direct(&RedisServer::start().await.url()).await,
        _ => Err("the only option is --url URL".into()),
    }
}

/// Starts the others, tells them what to do, and puts together what they noted.
async fn direct(url: &str) -> Result<(), Failure> {
    let home = Home::new()?;
    let file = home.0.join("shop.sqlite");
    let origin = Origin::open(&file, Duration::ZERO)?;
    println!(
        "a writer and 2 readers, 3 processes on one Redis; {PRODUCTS} products with {REVIEWS} reviews in SQLite"
    );
    let mut readers =
        [Process::start("reader", url, &file)?, Process::start("reader", url, &file)?];
    let mut writer = Process::start("writer", url, &file)?;

    for reader in &mut readers {
        reader.tell("expiring").await?;
    }
    let mut loads: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut by = Vec::new();
    for reader in &mut readers {
        let noted = reader.notes().await?;
        by.push(noted.len());
        noted.into_iter().for_each(|note| loads.entry(note[0]).or_default().push(note[1]));
    }
    let expiries: usize = loads.values_mut().map(|times| lives(times)).sum();
    let all: usize = by.iter().sum();
    println!(
        "{} products that expire every {} ms: {:.2} loads for each expiry, over both readers",
        loads.len(),
        LIFE.as_millis(),
        all as f64 / expiries as f64
    );
    println!("  {all} loads, {} by reader 1 and {} by reader 2", by[0], by[1]);

    for reader in &mut readers {
        reader.tell("changing").await?;
        reader.notes().await?;
    }
    writer.tell("change").await?;
    let acked: HashMap<(u64, u64), u64> =
        writer.notes().await?.into_iter().map(|note| ((note[0], note[1]), note[2])).collect();
    // What is promised is promised for after this time.
    tokio::time::sleep(QUIET).await;
    let (mut longest, mut old, mut behind) = (Duration::ZERO, 0, 0);
    let mut lines = Vec::new();
    for reader in &mut readers {
        reader.tell("stop").await?;
        for note in reader.notes().await? {
            let Some(acked) = acked.get(&(note[0], note[1] + 1)) else { continue };
            let stale = Duration::from_nanos(note[2].saturating_sub(*acked));
            longest = longest.max(stale);
            old += u64::from(stale > QUIET);
        }
        let [reads, near, loads] = reader.notes().await?.concat()[..] else {
            return Err("a reader noted something else".into());
        };
        let number = lines.len() + 1;
        lines.push(format!("reader {number}: {reads} reads, {near} near, {loads} loads"));
        let end = reader.notes().await?;
        behind += end.iter().filter(|note| acked.contains_key(&(note[0], note[1] + 1))).count();
    }
    println!(
        "{} changes of {} products: {old} old rows were given {} ms after their invalidation had returned",
        acked.len(),
        CHANGING.count(),
        QUIET.as_millis()
    );
    println!("  an old row was given for {:.2} ms at most", longest.as_secs_f64() * 1e3);
    println!("  {}", lines.join("; "));
    match behind {
        0 => println!("in the end both readers have the last version of each product"),
        behind => println!("in the end {behind} products are older than their rows"),
    }

    let cache = CacheClient::connect(url).await?;
    let keys: Vec<u64> = EXPIRING.chain(CHANGING).collect();
    products(&cache)?.invalidate_many(&keys).await?;
    cache.close().await;
    drop(origin);
    Ok(())
}

/// In how many lives these loads were made: one begins when the one before has expired.
fn lives(loads: &mut [u64]) -> usize {
    loads.sort_unstable();
    let life = (LIFE - SLACK).as_nanos() as u64;
    1 + loads.windows(2).filter(|pair| pair[1] - pair[0] >= life).count()
}

fn products(cache: &CacheClient) -> larder::Result<Namespace<u64, Product>> {
    cache.namespace("product").ttl(Duration::from_secs(60)).near(true).build()
}

/// A reader or the writer: what it does when it is told to.
struct Shop {
    products: Namespace<u64, Product>,
    cache: CacheClient,
    origin: Origin,
    told: Lines<BufReader<Stdin>>,
}

impl Shop {
    async fn from_env() -> Result<Self, Failure> {
        // Longer than usual: a machine that stands still for a second shall not look like a store that is away.
        let builder = CacheClient::builder().url(std::env::var(URL)?);
        let cache = builder.deadline(Duration::from_secs(10)).connect().await?;
        let file = std::env::var_os(FILE).ok_or("no file is named")?;
        Ok(Self {
            products: products(&cache)?,
            cache,
            origin: Origin::open(&PathBuf::from(file), Duration::ZERO)?,
            told: BufReader::new(tokio::io::stdin()).lines(),
        })
    }

    async fn read_as_told(mut self) -> Result<(), Failure> {
        let (mut readers, mut before) = (None, self.counts());
        while let Some(line) = self.told.next_line().await? {
            match line.as_str() {
                "expiring" => {
                    // Nothing but the expiry shall cause a load.
                    let short =
                        |options: LoadOptions| options.ttl(LIFE).jitter(0.0).early_refresh(0.0);
                    let readers =
                        Readers::start(&self.products.with(short), &self.origin, EXPIRING);
                    tokio::time::sleep(EXPIRING_FOR).await;
                    let (loads, _) = readers.stop().await?;
                    say(&loads);
                }
                "changing" => {
                    for id in CHANGING {
                        self.read(id).await?;
                    }
                    before = self.counts();
                    readers = Some(Readers::start(&self.products, &self.origin, CHANGING));
                    say(&[]);
                }
                "stop" => {
                    let readers = readers.take().ok_or("nobody reads")?;
                    let (_, given) = readers.stop().await?;
                    say(&given
                        .into_iter()
                        .map(|((id, is), at)| vec![id, is, at])
                        .collect::<Vec<_>>());
                    say(&[self
                        .counts()
                        .iter()
                        .zip(before)
                        .map(|(now, then)| now - then)
                        .collect()]);
                    let mut end = Vec::new();
                    for id in CHANGING {
                        end.push(vec![id, self.read(id).await?]);
                    }
                    say(&end);
                }
                _ => return Err("a reader was told something that it does not know".into()),
            }
        }
        Ok(())
    }

    /// Reads, those of them that were near, and queries.
    fn counts(&self) -> [u64; 3] {
        let stats = self.cache.stats();
        let Some(reads) = stats.reads.get("product") else { return [0; 3] };
        let all = reads.near_hits + reads.shared_hits + reads.stale_hits + reads.misses;
        [all, reads.near_hits, self.origin.queries()]
    }

    /// The version of a product.
    async fn read(&self, id: u64) -> Result<u64, Failure> {
        let product = self.products.get_or_load(&id, || self.origin.find(id)).await?;
        Ok(product.ok_or("a product is missing")?.version)
    }

    async fn write_as_told(mut self) -> Result<(), Failure> {
        while self.told.next_line().await?.is_some() {
            let mut pace = every(Duration::from_millis(10));
            let mut acked = Vec::new();
            for (id, change) in CHANGING.cycle().zip(0..CHANGES) {
                pace.tick().await;
                let version = self.origin.set_price(id, 100 + change).await?;
                self.products.invalidate(&id).await?;
                acked.push(vec![id, version.ok_or("a product is missing")?, now()]);
            }
            say(&acked);
        }
        Ok(())
    }
}

/// When a product was loaded, each time.
type Loads = Vec<Vec<u64>>;
/// When the last read began that gave a version of a product.
type Given = HashMap<(u64, u64), u64>;

/// Tasks that read products over and over, each of them once a millisecond.
struct Readers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<(Loads, Given), Failure>>>,
}

impl Readers {
    fn start(
        products: &Namespace<u64, Product>,
        origin: &Origin,
        ids: std::ops::RangeInclusive<u64>,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let tasks = (0..TASKS).map(|_| {
            let (products, origin, over) = (products.clone(), origin.clone(), Arc::clone(&over));
            let ids = ids.clone();
            tokio::spawn(async move {
                let (mut loads, mut given) = (Loads::new(), Given::new());
                let mut pace = every(Duration::from_millis(1));
                while !over.load(Ordering::Relaxed) {
                    pace.tick().await;
                    for id in ids.clone() {
                        let began = now();
                        let loader = || {
                            loads.push(vec![id, now()]);
                            origin.find(id)
                        };
                        let product = products.get_or_load(&id, loader).await?;
                        let version = product.ok_or("a product is missing")?.version;
                        given.insert((id, version), began);
                    }
                }
                Ok((loads, given))
            })
        });
        Self { tasks: tasks.collect(), over }
    }

    /// Lets them end, each after the read that it is at.
    async fn stop(self) -> Result<(Loads, Given), Failure> {
        self.over.store(true, Ordering::Relaxed);
        let (mut loads, mut given) = (Loads::new(), Given::new());
        for task in self.tasks {
            let (of_task, given_to_task) = task.await??;
            loads.extend(of_task);
            for (what, began) in given_to_task {
                let last = given.entry(what).or_default();
                *last = began.max(*last);
            }
        }
        Ok((loads, given))
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Nanoseconds by the clock that all processes of this machine share.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Says notes to who started this process, and that these were all.
fn say(notes: &[Vec<u64>]) {
    for note in notes {
        println!("{}", note.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));
    }
    println!("done");
}

/// Another process of this example. Ended with its director.
struct Process {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, url: &str, file: &std::path::Path) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .env(URL, url)
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().ok_or("it has no standard input")?;
        let output = child.stdout.take().ok_or("it has no standard output")?;
        Ok(Self { _child: child, input, output: BufReader::new(output).lines() })
    }

    async fn tell(&mut self, what: &str) -> Result<(), Failure> {
        Ok(self.input.write_all(format!("{what}\n").as_bytes()).await?)
    }

    /// What it notes next.
    async fn notes(&mut self) -> Result<Vec<Vec<u64>>, Failure> {
        let mut notes = Vec::new();
        loop {
            let line = self.output.next_line().await?.ok_or("a process ended too early")?;
            if line == "done" {
                return Ok(notes);
            }
            notes.push(line.split(' ').map(str::parse).collect::<Result<_, _>>()?);
        }
    }
}

/// A directory that is removed in the end.
struct Home(PathBuf);

impl Home {
    fn new() -> std::io::Result<Self> {
        let name = format!("larder-two-processes-{}", std::process::id());
        let home = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&home)?;
        Ok(Self(home))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left is in the directory for temporary files.
        _ = std::fs::remove_dir_all(&self.0);
    }
}
