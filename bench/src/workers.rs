//! Other processes: this program again, as a worker that does what it is told on its standard input.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::{Result, locks, memory, stampede};

/// The first argument of a worker.
pub(crate) const COMMAND: &str = "worker";

/// A worker process. Killed when it is dropped.
pub(crate) struct Worker {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker of a kind for a contender, and waits until it is ready.
    pub(crate) async fn start(kind: &str, contender: &str, url: &str) -> Result<Self> {
        let mut program = Command::new(std::env::current_exe()?);
        program.args([COMMAND, kind, contender, url]);
        Self::start_program(program).await
    }

    /// Starts another program that takes orders as a worker does, and waits until it is ready.
    pub(crate) async fn start_program(mut program: Command) -> Result<Self> {
        let mut child =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let input = child.stdin.take().ok_or("a worker has no input")?;
        let output = child.stdout.take().ok_or("a worker has no output")?;
        let mut worker = Self { _child: child, input, output: BufReader::new(output).lines() };
        worker.answer().await?;
        Ok(worker)
    }

    pub(crate) async fn tell(&mut self, what: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{what}\n").as_bytes()).await?)
    }

    pub(crate) async fn answer(&mut self) -> Result<String> {
        Ok(self.output.next_line().await?.ok_or("a worker ended too soon")?)
    }
}

/// What a worker is told, line by line.
pub(crate) struct Orders(Lines<BufReader<Stdin>>);

impl Orders {
    /// Says that the worker is ready.
    pub(crate) fn ready() -> Self {
        println!("ready");
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        Ok(self.0.next_line().await?)
    }
}

/// The life of a worker.
pub(crate) async fn serve(args: Vec<String>) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["stampede", contender, url] => stampede::serve(contender, url).await,
        ["memory", contender, url] => memory::serve(contender, url).await,
        ["locks", contender, url] => locks::serve(contender, url).await,
        _ => Err("a worker is started by this program alone".into()),
    }
}
