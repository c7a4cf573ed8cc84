//! larder beside its peers: speed, loads in a stampede, staleness, memory and locks. See `README.md`.

mod cli;
mod compare;
mod contenders;
mod data;
mod embedded;
mod locks;
mod measure;
mod memory;
mod near;
mod report;
mod safety;
mod staleness;
mod stampede;
mod through;
mod workers;
mod workloads;

use std::error::Error;

use crate::cli::{Command, Options};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Threads of the runtime that all contenders share.
const WORKERS: usize = 2;

/// More threads than most machines have cores for: one that is put aside in an unlucky moment is what the
/// search for stale values needs.
const STALENESS_WORKERS: usize = 4;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|first| first == workers::COMMAND).is_some() {
        return on_runtime(WORKERS, workers::serve(args.collect()));
    }
    let options = Options::parse(args)?;
    match options.command {
        Command::Compare => on_runtime(WORKERS, compare::run(options)),
        Command::Stampede => on_runtime(WORKERS, stampede::run(options)),
        Command::Staleness => on_runtime(STALENESS_WORKERS, staleness::run(options)),
        Command::Memory => on_runtime(WORKERS, memory::run(options)),
        Command::Locks => on_runtime(WORKERS, locks::run(options)),
    }
}

/// Spawned, so that the work runs on the workers and this thread only waits.
fn on_runtime(
    workers: usize,
    work: impl Future<Output = Result<()>> + Send + 'static,
) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async move { tokio::spawn(work).await? })
}
