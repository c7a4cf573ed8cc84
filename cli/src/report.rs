//! How the demo looks: its steps, and the tables of what the client counted.

use std::time::Duration;

use larder::{NamespaceStats, OperationStats, Stats};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;

/// One step that was done.
pub(crate) fn step(
    out: &mut Output,
    title: &str,
    took: Duration,
    said: &str,
) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(&json!({ "step": title, "took_us": micros(took), "said": said }));
    }
    out.say(&format!("{title:<13} {:>9}  {said}", time(took)))
}

/// What the client counted, by namespace and by operation. `prefix` stands before every namespace and is
/// left out.
pub(crate) fn stats(
    out: &mut Output,
    stats: &Stats,
    prefix: &str,
    took: Duration,
) -> Result<(), Failure> {
    let name = |namespace: &str| namespace.strip_prefix(prefix).unwrap_or(namespace).to_owned();
    // Locks, counters and the clean-up read nothing, so they have no hit rate.
    let read = stats.namespaces.iter().filter(|(_, stats)| stats.hit_rate().is_some());
    if out.is_json() {
        let namespaces = read.map(|(namespace, stats)| (name(namespace), namespace_json(stats)));
        let operations = stats
            .operations
            .iter()
            .map(|(name, stats)| ((*name).to_owned(), operation_json(stats)));
        return out.json(&json!({
            "took_us": micros(took),
            "namespaces": namespaces.collect::<serde_json::Map<_, _>>(),
            "operations": operations.collect::<serde_json::Map<_, _>>(),
        }));
    }
    out.say("")?;
    out.say(&format!(
        "{:<14} {:>6} {:>6} {:>8} {:>8} {:>8}",
        "namespace", "hits", "misses", "hit rate", "read", "written"
    ))?;
    for (namespace, stats) in read {
        out.say(&format!(
            "{:<14} {:>6} {:>6} {:>7.1}% {:>6} B {:>6} B",
            name(namespace),
            stats.hits,
            stats.misses,
            stats.hit_rate().unwrap_or(0.0) * 100.0,
            stats.bytes_read,
            stats.bytes_written,
        ))?;
    }
    out.say("")?;
    out.say(&format!(
        "{:<14} {:>6} {:>6} {:>9} {:>9} {:>9}",
        "operation", "calls", "errors", "mean", "p99", "max"
    ))?;
    for (operation, stats) in &stats.operations {
        out.say(&format!(
            "{operation:<14} {:>6} {:>6} {:>9} {:>9} {:>9}",
            stats.calls,
            stats.errors,
            time(stats.latency.mean()),
            time(stats.latency.quantile(0.99)),
            time(stats.latency.max()),
        ))?;
    }
    out.say("")?;
    out.say(&format!("done in {}", time(took)))
}

fn namespace_json(stats: &NamespaceStats) -> serde_json::Value {
    json!({
        "hits": stats.hits,
        "misses": stats.misses,
        "hit_rate": stats.hit_rate(),
        "errors": stats.errors,
        "bytes_read": stats.bytes_read,
        "bytes_written": stats.bytes_written,
    })
}

fn operation_json(stats: &OperationStats) -> serde_json::Value {
    json!({
        "calls": stats.calls,
        "errors": stats.errors,
        "mean_us": micros(stats.latency.mean()),
        "p99_us": micros(stats.latency.quantile(0.99)),
        "max_us": micros(stats.latency.max()),
    })
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

/// A time in the unit that suits it, to one digit behind the point.
fn time(time: Duration) -> String {
    format!("{time:.1?}")
}
