//! The `larder` command: the cache client at the prompt and in scripts.
//!
//! Exit codes: 0 found or done, 1 missing, 2 error; of a command that ran under a lock, the command's, or 3 if the lock
//! was lost; of `doctor`, 1 if it found problems. Results go to standard output, errors to standard
//! error.

use std::process::ExitCode;

mod args;
mod child;
mod commands;
mod demo;
mod doctor;
mod failure;
mod lock;
mod locks;
mod output;
mod report;
mod server;

use args::{Args, Command};
use failure::Failure;
use output::Output;

const DONE: u8 = 0;
const MISSING: u8 = 1;
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let (args, command) = match args::parse() {
        Ok(parsed) => parsed,
        Err(error) => return args::explain(&error),
    };
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        // `larder scan user: | head -1`: the reader has what it wanted.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.explain(&command));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Does what was asked for. Answers the exit code.
fn run(args: &Args) -> Result<u8, Failure> {
    // One command at a time needs no second thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("the runtime did not start: {error}")))?;
    runtime.block_on(async {
        if let Command::Doctor(doctor) = &args.command {
            return doctor::run(args, doctor).await;
        }
        let mut out = Output::new(args.json);
        let cache = server::client(args)?;
        if let Command::Lock(lock) = &args.command
            && !lock.command.is_empty()
        {
            return lock::run(&cache, lock).await;
        }
        let found = commands::run(&cache, &args.command, &mut out).await;
        // What was found before a failure is shown all the same.
        let flushed = out.flush();
        let found = found.and_then(|found| flushed.map(|()| found))?;
        Ok(if found { DONE } else { MISSING })
    })
}
