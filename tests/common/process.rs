//! Other processes: the test binary again, as one of its tests that does what it is told on its standard input, and says
//! what came of it on lines that begin with `> `.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{ends, until};

/// Where the other process finds its store. A test that is such a process has nobody to serve without it.
const URL: &str = "LARDER_WORKER_URL";

/// The URL that this process was started with, if it is one of them.
pub(crate) fn told_url() -> Option<String> {
    std::env::var(URL).ok()
}

/// Nanoseconds by the clock that all processes of this machine share.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// A process. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a test of this binary with the URL of a store, and waits until it says `ready`.
    pub(crate) async fn start(test: &str, url: &str) -> Self {
        let mut process = Self::begin(test, url);
        process.answer("ready").await;
        process
    }

    /// Starts a test of this binary with the URL of a store.
    pub(crate) fn begin(test: &str, url: &str) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), test, url)
    }

    /// As [`begin`](Self::begin), for a process whose memory is measured: what it frees goes back to the system at once, so that
    /// what is measured is what it holds.
    pub(crate) fn measured(test: &str, url: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("MALLOC_MMAP_THRESHOLD_", "32768");
        Self::spawn(command, test, url)
    }

    fn spawn(mut command: Command, test: &str, url: &str) -> Self {
        let mut child = command
            .args(["--exact", test, "--nocapture"])
            .env(URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    pub(crate) async fn tell(&mut self, what: &str) {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
    }

    /// The rest of the next line that begins with `word`, within half a minute.
    pub(crate) async fn answer(&mut self, word: &str) -> String {
        ends("another process", self.says(word)).await
    }

    /// The rest of the next line that begins with `word`, however long that takes.
    pub(crate) async fn says(&mut self, word: &str) -> String {
        loop {
            let said = self.next().await.expect("the process ended");
            if let Some(rest) = said.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// The next line that it says; nothing when it ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            let line = self.output.next_line().await.unwrap()?;
            // The test harness does not end its line before the test prints.
            if let Some(at) = line.find("> ") {
                return Some(line[at + 2..].to_owned());
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("the process ended")
    }

    /// SIGKILL, by the recorded pid.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGSTOP, by the recorded pid; returns when the process stands still.
    pub(crate) async fn stop(&self) {
        self.signal("STOP").await;
        until("the process stops", async || self.state() == Some('T')).await;
    }

    /// SIGCONT, by the recorded pid.
    pub(crate) async fn go_on(&self) {
        self.signal("CONT").await;
        until("the process goes on", async || self.state() != Some('T')).await;
    }

    async fn signal(&self, signal: &str) {
        let pid = self.pid();
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await;
        assert!(sent.unwrap().success(), "SIG{signal} could not be sent");
    }

    /// The letter that the kernel has for its state.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}
