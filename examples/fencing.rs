//! A lock cannot stop a holder who stands still and then goes on: a table that looks at fencing tokens can.
//!
//! ```sh
//! cargo run --example fencing                              # the embedded store: two threads
//! cargo run --example fencing -- redis://127.0.0.1:6379    # a server: two processes, one of them stopped
//! ```
//!
//! Two workers settle the same account under a lock of 300 ms. The first one checks that it holds the lock, and stands
//! still before it writes: its process is stopped (SIGSTOP), or its thread. Its lease runs out, and the second worker
//! settles the account. Then the first one goes on. It has checked the lock already, so nothing stops its write but the
//! row, which remembers the token of its last writer:
//!
//! ```sql
//! UPDATE accounts SET settled_by = ?, token = ? WHERE id = 1 AND token <= ?
//! ```
//!
//! It prints the following; the tokens differ from run to run, and the second is larger:
//!
//! ```text
//! first worker: holds the lock, and is about to write
//!   its token is 1795624597441853
//! first worker: stands still for longer than its lease
//! second worker: holds the lock
//!   its token is 1795624597758144
//! second worker: the table took its write: true, the cache: true
//! first worker: goes on, and writes with its old token
//! first worker: the table took its write: false, the cache: false
//! first worker: is told of the loss, too late for that write
//! the account was settled by: second worker, says the cache: second worker
//! ```

use std::error::Error;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use larder::store::MemoryStore;
use larder::{CacheClient, LockBuilder};
use rusqlite::{Connection, params};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

type Failure = Box<dyn Error + Send + Sync>;

const LEASE: Duration = Duration::from_millis(300);
const SETTLED: &str = "account:1:settled_by";

/// How the stopped process is told of the store and the file: not by arguments, which every user of the machine can see.
const URL: &str = "FENCING_URL";
const FILE: &str = "FENCING_FILE";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arg = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    if arg == "first-worker" {
        let cache = CacheClient::connect(std::env::var(URL)?).await?;
        let file = std::env::var_os(FILE).ok_or("no file is named")?;
        // Until this line comes it could be anywhere between its check and its write.
        let pause = || std::io::stdin().lock().read_line(&mut String::new()).map(drop);
        return first_worker(&cache, Path::new(&file), pause).await;
    }
    let home = Home::new()?;
    let file = home.0.join("accounts.sqlite");
    Connection::open(&file)?.execute_batch(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, settled_by TEXT, token INTEGER NOT NULL);
         INSERT INTO accounts VALUES (1, NULL, 0);",
    )?;
    let cache = if arg == "memory://" {
        // Two clients, as two processes would have them: within one client, the second worker would wait in line
        // behind the first, who does not know yet that it has lost the lock.
        let store = Arc::new(MemoryStore::new());
        let client = || CacheClient::builder().store(Arc::clone(&store)).build();
        let cache = client()?;
        stop_a_thread(client()?, &cache, &file).await?;
        cache
    } else {
        let cache = CacheClient::connect(&arg).await?;
        stop_a_process(&cache, &arg, &file).await?;
        cache
    };
    let by: String = Connection::open(&file)?.query_row(
        "SELECT settled_by FROM accounts WHERE id = 1",
        [],
        |row| row.get(0),
    )?;
    let cached = cache.get_value(SETTLED).await?.unwrap_or_default();
    println!("the account was settled by: {by}, says the cache: {cached}");

    // The marks of the tokens live for a day; an example leaves nothing behind.
    let (lock, settled) = (larder::Key::new("lock:account:1")?, larder::Key::new(SETTLED)?);
    let keys = [settled.fence(), settled, lock.lock_record()];
    cache.batch_delete_keys(keys.iter().map(larder::Key::as_bytes)).await?;
    cache.close().await;
    Ok(())
}

fn account(cache: &CacheClient) -> LockBuilder {
    cache.lock("account:1").lease(LEASE)
}

/// The one that stands still. `pause` ends when the other is done.
async fn first_worker(
    cache: &CacheClient,
    file: &Path,
    pause: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Failure> {
    let guard = account(cache).acquire().await?;
    let token = guard.fencing_token().ok_or("a lock that is held alone has a token")?;
    if !guard.is_valid() {
        return Err("it was lost at once".into());
    }
    println!("first worker: holds the lock, and is about to write");
    println!("  its token is {token}");
    pause()?;
    println!("first worker: goes on, and writes with its old token");
    let table = settle(file, "first worker", token)?;
    let cached = cache.fenced_set(SETTLED, "first worker", token, None).await?;
    println!("first worker: the table took its write: {table}, the cache: {cached}");
    guard.lost().await;
    println!("first worker: is told of the loss, too late for that write");
    Ok(())
}

async fn second_worker(cache: &CacheClient, file: &Path) -> Result<(), Failure> {
    println!("first worker: stands still for longer than its lease");
    let guard = account(cache).acquire().await?;
    let token = guard.fencing_token().ok_or("a lock that is held alone has a token")?;
    println!("second worker: holds the lock");
    println!("  its token is {token}");
    let table = settle(file, "second worker", token)?;
    let cached = cache.fenced_set(SETTLED, "second worker", token, None).await?;
    println!("second worker: the table took its write: {table}, the cache: {cached}");
    guard.release().await?;
    Ok(())
}

/// Whether the row took the write: not if somebody with a larger token wrote before.
fn settle(file: &Path, who: &str, token: u64) -> Result<bool, Failure> {
    let changed = Connection::open(file)?.execute(
        "UPDATE accounts SET settled_by = ?1, token = ?2 WHERE id = 1 AND token <= ?2",
        params![who, token],
    )?;
    Ok(changed == 1)
}

/// On a server: the first worker is a process, which is stopped.
async fn stop_a_process(cache: &CacheClient, url: &str, file: &Path) -> Result<(), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("first-worker")
        .env(URL, url)
        .env(FILE, file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = child.stdin.take().ok_or("it has no standard input")?;
    let mut output =
        BufReader::new(child.stdout.take().ok_or("it has no standard output")?).lines();
    for _ in 0..2 {
        println!("{}", output.next_line().await?.ok_or("it ended")?);
    }
    let pid = child.id().ok_or("it ended")?.to_string();
    signal("-STOP", &pid).await?;
    second_worker(cache, file).await?;
    input.write_all(b"go on\n").await?;
    signal("-CONT", &pid).await?;
    while let Some(line) = output.next_line().await? {
        println!("{line}");
    }
    if child.wait().await?.success() { Ok(()) } else { Err("the first worker failed".into()) }
}

async fn signal(signal: &str, pid: &str) -> Result<(), Failure> {
    let sent = Command::new("kill").args([signal, pid]).status().await?;
    if sent.success() { Ok(()) } else { Err("the signal could not be sent".into()) }
}

/// On the embedded store, which other processes do not share: the first worker has a thread and a runtime of its own,
/// which stand still together, so that nobody renews the lock.
async fn stop_a_thread(
    firsts: CacheClient,
    cache: &CacheClient,
    file: &Path,
) -> Result<(), Failure> {
    let (holds, held) = tokio::sync::oneshot::channel();
    let (go_on, told) = mpsc::channel::<()>();
    let first_file = file.to_owned();
    let first = std::thread::spawn(move || {
        let pause = || {
            _ = holds.send(());
            told.recv().map_err(std::io::Error::other)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(first_worker(&firsts, &first_file, pause))
    });
    held.await?;
    second_worker(cache, file).await?;
    go_on.send(())?;
    tokio::task::spawn_blocking(move || first.join())
        .await?
        .map_err(|_| "the first worker panicked")?
}

/// A directory that is removed in the end.
struct Home(PathBuf);

impl Home {
    fn new() -> std::io::Result<Self> {
        let home = std::env::temp_dir().join(format!("larder-fencing-{}", std::process::id()));
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
