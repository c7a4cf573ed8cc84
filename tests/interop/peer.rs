//! The Python process on the other side, and what counts the comparisons.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use larder::json::{Object, Value};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A running `peer.py`: redis-py and orjson on the given server.
pub(crate) struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

const ENDED: &str = "the Python side ended (see above): run ./check for its requirements";

/// The Python that has `requirements.txt`. A test without it fails: it would prove nothing.
pub(crate) fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = match std::env::var_os("LARDER_PYTHON") {
        Some(path) => root.join(path),
        None => root.join(".venv/bin/python"),
    };
    assert!(
        python.exists(),
        "there is no Python at {}: run ./check, which makes one with tests/interop/requirements.txt",
        python.display()
    );
    python
}

impl Peer {
    pub(crate) async fn start(port: u16) -> Self {
        Self::with(&[&port.to_string()])
    }

    /// On a cluster: `redis.RedisCluster`, which finds the other nodes.
    pub(crate) async fn on_cluster(port: u16) -> Self {
        Self::with(&[&port.to_string(), "cluster"])
    }

    fn with(args: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");
        let mut process = Command::new(python())
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the Python process starts");
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, requests, answers }
    }

    async fn ask(&mut self, request: Value) -> Result<Value, String> {
        self.tell(request).await;
        self.hear().await
    }

    /// Sends a line, and waits for nothing.
    pub(crate) async fn tell(&mut self, request: Value) {
        let line = serde_json::to_string(&request).unwrap() + "\n";
        self.requests.write_all(line.as_bytes()).await.expect(ENDED);
    }

    /// The next line of the other side; an error is the name of its exception.
    pub(crate) async fn hear(&mut self) -> Result<Value, String> {
        let answer = tokio::time::timeout(Duration::from_secs(30), self.answers.next_line());
        let Ok(Ok(Some(line))) = answer.await else { panic!("{ENDED}") };
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer.get("error") {
            None => Ok(answer.get("ok").unwrap().clone()),
            Some(error) => Err(error.as_str().unwrap().to_owned()),
        }
    }

    /// A method of `redis.Redis`; an error is the name of its exception.
    pub(crate) async fn try_call(
        &mut self,
        method: &str,
        args: Vec<Value>,
        kwargs: Value,
    ) -> Result<Value, String> {
        self.ask(object([
            ("do", "call".into()),
            ("method", method.into()),
            ("args", args.into()),
            ("kwargs", kwargs),
        ]))
        .await
    }

    pub(crate) async fn call(&mut self, method: &str, args: Vec<Value>) -> Value {
        self.call_with(method, args, Object::new().into()).await
    }

    pub(crate) async fn call_with(
        &mut self,
        method: &str,
        args: Vec<Value>,
        kwargs: Value,
    ) -> Value {
        self.try_call(method, args, kwargs).await.unwrap()
    }

    /// The bytes under a key, as redis-py gets them.
    pub(crate) async fn get(&mut self, key: &str) -> Option<Bytes> {
        bytes_of(&self.call("get", vec![key.into()]).await)
    }

    /// `SET` of what orjson makes of the value.
    pub(crate) async fn write(&mut self, key: &str, value: Value, ex: Option<u64>) {
        let request = [("do", "write".into()), ("key", key.into()), ("value", value)];
        let request = request.into_iter().chain([("ex", ex.into())]);
        assert_eq!(self.ask(request.collect()).await, Ok(true.into()));
    }

    /// What orjson makes of the value under the key.
    pub(crate) async fn read(&mut self, key: &str) -> Value {
        self.ask(object([("do", "read".into()), ("key", key.into())])).await.unwrap()
    }

    /// `Lock.acquire` of redis-py; it waits for so many seconds.
    pub(crate) async fn lock(&mut self, name: &str, timeout: f64, wait: f64) -> bool {
        let request = [
            ("do", "lock".into()),
            ("name", name.into()),
            ("timeout", timeout.into()),
            ("wait", wait.into()),
        ];
        self.ask(object(request)).await.unwrap().as_bool().unwrap()
    }

    /// A function of `docs/interop.md`.
    pub(crate) async fn recipe(&mut self, name: &str, args: Vec<Value>) -> Value {
        let request = [("do", "recipe".into()), ("name", name.into()), ("args", args.into())];
        self.ask(object(request)).await.unwrap()
    }

    /// What `docs/interop.md` has beside each of many keys: their `lease`, `lock` (the record), `fenced` (the mark).
    pub(crate) async fn beside(&mut self, kind: &str, keys: &[Vec<u8>]) -> Vec<Bytes> {
        let keys: Vec<Value> = keys.iter().map(bytes).collect();
        let request = [("do", "beside".into()), ("kind", kind.into()), ("keys", keys.into())];
        let found = self.ask(object(request)).await.unwrap();
        found.as_array().unwrap().iter().map(|lease| bytes_of(lease).unwrap()).collect()
    }

    /// Begins a `get_or_load` of `docs/interop.md` that tells how it goes: the lines are "waiting", "loading" (it waits
    /// for [`loads`](Self::loads) then) and, at last, what it answers.
    pub(crate) async fn begin(&mut self, key: &str, lease: Duration) {
        let lease = lease.as_secs_f64().into();
        self.tell(object([("do", "held".into()), ("key", key.into()), ("lease", lease)])).await;
    }

    /// What the loader gives that it has begun; nothing fails it.
    pub(crate) async fn loads(&mut self, value: Option<Value>) {
        self.tell(value.map(|value| ("value", value)).into_iter().collect()).await;
    }

    /// What a `get_or_load` answers in the end, after any number of "waiting".
    pub(crate) async fn answers(&mut self) -> Result<Value, String> {
        loop {
            let line = self.hear().await?;
            if let Some(value) = line.get("value") {
                return Ok(value.clone());
            }
            assert_eq!(line, Value::from("waiting"), "it answers, or waits");
        }
    }

    /// A `get_or_load` of `docs/interop.md`; its loader gives the value, and counts itself in the key `loads:...`.
    pub(crate) async fn get_or_load(&mut self, key: &str, value: Value) -> Value {
        let request = [("do", "counted".into()), ("key", key.into()), ("value", value)];
        self.ask(object(request)).await.unwrap()
    }

    /// SIGKILL, by the recorded pid.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    pub(crate) async fn unlock(&mut self, name: &str) -> Result<Value, String> {
        self.ask(object([("do", "unlock".into()), ("name", name.into())])).await
    }

    /// `Lock.extend` of redis-py to so many seconds, or `Lock.reacquire`.
    pub(crate) async fn prolong(&mut self, name: &str, by: Option<f64>) -> Result<Value, String> {
        let request = [("do", "prolong".into()), ("name", name.into()), ("by", by.into())];
        self.ask(object(request)).await
    }

    pub(crate) async fn owned(&mut self, name: &str) -> bool {
        let request = object([("do", "owned".into()), ("name", name.into())]);
        self.ask(request).await.unwrap().as_bool().unwrap()
    }
}

pub(crate) fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    pairs.into_iter().collect()
}

/// Bytes for the peer.
pub(crate) fn bytes(bytes: impl AsRef<[u8]>) -> Value {
    let digits: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    object([("$bytes", digits.into())])
}

/// Bytes of the peer.
pub(crate) fn bytes_of(value: &Value) -> Option<Bytes> {
    let digits = value.get("$bytes")?.as_str()?;
    let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
    Some(pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect())
}

/// Counts what was compared, by larder's method.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) compared: BTreeMap<&'static str, usize>,
    pub(crate) differences: Vec<String>,
}

impl Tally {
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, method: &'static str, left: T, right: T) {
        *self.compared.entry(method).or_default() += 1;
        if left != right {
            self.differences.push(format!("{method}: {left:?} and {right:?}"));
        }
    }

    pub(crate) fn holds(&mut self, method: &'static str, yes: bool) {
        self.same(method, yes, true);
    }
}
