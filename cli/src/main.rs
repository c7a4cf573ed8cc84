//! The `larder` command: the cache client at the prompt and in scripts.
//!
//! Exit codes: 0 found or done, 1 missing, 2 error. Results go to standard output, errors to standard
//! error.

use std::process::ExitCode;

mod args;
mod commands;
mod demo;
mod failure;
mod output;
mod report;
mod server;

use args::Args;
use failure::Failure;
use output::Output;

const MISSING: u8 = 1;
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let (args, command) = match args::parse() {
        Ok(parsed) => parsed,
        Err(error) => return args::explain(&error),
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(MISSING),
        // `larder scan user: | head -1`: the reader has what it wanted.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.explain(&command));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whether what was asked for was found or done.
fn run(args: &Args) -> Result<bool, Failure> {
    // One command at a time needs no second thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("the runtime did not start: {error}")))?;
    runtime.block_on(async {
        let mut out = Output::new(args.json);
        let cache = server::client(args)?;
        let found = commands::run(&cache, &args.command, &mut out).await;
        // What was found before a failure is shown all the same.
        let flushed = out.flush();
        found.and_then(|found| flushed.map(|()| found))
    })
}
