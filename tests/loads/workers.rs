//! Other processes: this test binary again, as a worker that does what it is told on its standard input.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::{CacheClient, ReadFrom};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::Loaded;

const URL: &str = "LARDER_WORKER_URL";

/// A worker process. Killed when it is dropped.
pub(crate) struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    pub(crate) async fn start(url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::a_worker_does_what_it_is_told", "--nocapture"])
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut worker = Self { child, input, output };
        worker.answer("ready").await;
        worker
    }

    pub(crate) async fn tell(&mut self, what: &str) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    /// The rest of the next line that begins with `word`.
    pub(crate) async fn answer(&mut self, word: &str) -> String {
        super::ends("a worker", async {
            loop {
                let line = self.output.next_line().await.unwrap().expect("the worker ended");
                // The test harness does not end its line before the test prints.
                if let Some(at) = line.find(&format!("> {word}")) {
                    return line[at + 2 + word.len()..].trim().to_owned();
                }
            }
        })
        .await
    }

    /// SIGKILL, by the recorded pid.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Nanoseconds by the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The other side; in a test run of its own it has nobody to serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_what_it_is_told() {
    let Ok(url) = std::env::var(URL) else { return };
    let cache = CacheClient::connect(url).await.unwrap();
    let hot = cache
        .namespace::<str, u64>("hot")
        .ttl(Duration::from_secs(600))
        .early_refresh(0.0)
        .lease(Duration::from_millis(400))
        .build()
        .unwrap();
    println!("> ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // Many tasks want one key at once; each load is counted at the origin, and takes a while.
            ["stampede", key, tasks, millis] => {
                let (key, pause) =
                    (Arc::<str>::from(key), Duration::from_millis(millis.parse().unwrap()));
                let begun = Instant::now();
                let all = (0..tasks.parse().unwrap()).map(|_| {
                    let (hot, cache, key) = (hot.clone(), cache.clone(), Arc::clone(&key));
                    tokio::spawn(async move {
                        let loader = || async {
                            let loads = cache.incr_by(format!("loads:{key}"), 1).await;
                            tokio::time::sleep(pause).await;
                            loads.map(|_| now())
                        };
                        hot.get_or_load(&key, loader).await.map(|value| *value)
                    })
                });
                let mut values = Vec::new();
                for one in all.collect::<Vec<_>>() {
                    values.push(one.await.unwrap());
                }
                let failed = values.iter().filter(|value| value.is_err()).count();
                values.retain(Result::is_ok);
                values.dedup_by_key(|value| *value.as_ref().unwrap());
                println!("> done {failed} {} {:?}", values.len(), begun.elapsed().as_millis());
            }
            // One load, from which others are woken.
            ["load", key, millis] => {
                println!("> loading");
                let pause = Duration::from_millis(millis.parse().unwrap());
                let loader = || async {
                    cache.incr_by(format!("loads:{key}"), 1).await.unwrap();
                    println!("> loader runs");
                    tokio::time::sleep(pause).await;
                    Loaded::Ok(now())
                };
                let value = hot.get_or_load(key, loader).await.unwrap();
                let took = now() - *value;
                println!("> got {took} {}", hot.explain(key) == Some(ReadFrom::Waited));
            }
            // The round trip of a plain read after a pause like that of a load, in nanoseconds: threads that
            // have slept wake up later than those that are at it.
            ["measure", millis] => {
                tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
                let from = Instant::now();
                cache.get_value("nothing").await.unwrap();
                println!("> trip {}", from.elapsed().as_nanos());
            }
            _ => panic!("a worker was told something that it does not know"),
        }
    }
}
