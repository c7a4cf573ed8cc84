//! Nothing that larder says contains a password, a username, a value, the rest of a key, or a lock
//! token: canaries are put wherever secrets go, every error path is walked at the level TRACE, and
//! everything that comes out is searched.

use std::io::Write;

use larder::ErrorKind;
use metrics_util::debugging::DebuggingRecorder;
use tracing_subscriber::fmt::format::FmtSpan;

mod methods;
mod refusals;
mod said;
mod servers;
mod types;

use said::{Log, Said};

const PASSWORD: &str = "canary/pass@1:x";
const PASSWORD_ENCODED: &str = "canary%2Fpass%401%3Ax";
const USER: &str = "canaryuser";
const VALUE: &str = "canary-value";
const FIELD: &str = "canary-field";
const KEY: &str = "user:canary-key";
/// A key without a first part that could be shown.
const BARE_KEY: &str = "canary-key";
const TOKEN: &str = "c0ffeec0ffeec0ffeec0ffeec0ffee42";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_said_contains_a_secret() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    log::set_boxed_logger(Box::new(log.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let metrics = DebuggingRecorder::new();
    let snapshotter = metrics.snapshotter();
    metrics.install().unwrap();

    // A panic's message is an output as well. Those of the driver are expected: a build with overflow
    // checks trips over a MULTI that the server refuses (redis 1.8.1, `send_result`).
    let panics = Log::default();
    let (caught, usual) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if place.contains("multiplexed_connection.rs") {
            let _ = writeln!(caught.clone(), "{panic}");
        } else {
            usual(panic);
        }
    }));

    let mut said = Said::default();
    refusals::config_errors(&mut said);
    refusals::wrong_credentials(&mut said).await;
    refusals::forbidden(&mut said).await;
    refusals::of_servers(&mut said).await;
    servers::no_answer(&mut said).await;
    servers::echoes(&mut said).await;
    servers::talkative_session(&mut said).await;
    types::public_types(&mut said).await;

    for (name, _, _, _) in snapshotter.snapshot().into_vec() {
        said.debug("metric", &name);
    }
    let lines = log.lines();
    let ours = lines.iter().filter(|line| line.contains("larder")).count();
    lines.iter().for_each(|line| said.text("log", line.as_str()));
    panics.lines().into_iter().for_each(|line| said.text("panic", line));

    // The search finds what it looks for, and there was something to search.
    let mut control = Said::default();
    control.text("control", format!("a {VALUE}"));
    control.debug("control", &VALUE.as_bytes());
    control.text("control", TOKEN.to_uppercase());
    assert_eq!(control.leaks().len(), 4, "the byte list is printed twice");
    assert!(ours > 1000, "{ours} lines of larder in the log");
    for kind in [
        ErrorKind::InvalidInput,
        ErrorKind::Config,
        ErrorKind::Unsupported,
        ErrorKind::NotInitialized,
        ErrorKind::Closed,
        ErrorKind::Auth,
        ErrorKind::Permission,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::WrongType,
        ErrorKind::OutOfRange,
        ErrorKind::OutOfMemory,
        ErrorKind::Server,
        ErrorKind::Aborted,
        ErrorKind::Encode,
        ErrorKind::Decode,
        ErrorKind::Protocol,
        ErrorKind::LockTimeout,
        ErrorKind::LockLost,
    ] {
        assert!(said.kinds.contains(&kind), "no path led to {kind:?}");
    }
    let leaks = said.leaks();
    println!(
        "canary: {} outputs scanned ({} errors of {} kinds, {} log lines), {} canaries found",
        said.outputs.len(),
        said.errors,
        said.kinds.len(),
        lines.len(),
        leaks.len(),
    );
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}
