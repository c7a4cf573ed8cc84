//! `larder locks`: who holds what.

use std::ffi::OsStr;
use std::time::SystemTime;

use futures_util::StreamExt;
use larder::{CacheClient, HeldLock};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{Output, json_bytes};

/// As many as a step of the scan gives are written at once.
const CHUNK: usize = 500;

/// Writes the locks as they come.
pub(crate) async fn run(
    cache: &CacheClient,
    prefix: &OsStr,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut chunks = cache.locks(prefix.as_encoded_bytes()).ready_chunks(CHUNK);
    while let Some(chunk) = chunks.next().await {
        for held in chunk {
            show(&held?, out)?;
        }
        out.flush()?;
    }
    Ok(())
}

fn show(held: &HeldLock, out: &mut Output) -> Result<(), Failure> {
    let since = held.since.map(rfc3339);
    if out.is_json() {
        return out.json(&json!({
            "key": json_bytes(held.key.bytes()),
            "kind": if held.shared { "shared" } else { "exclusive" },
            "holders": held.holders,
            "owner": held.owner,
            "since": since,
            "remaining_ms": held.remaining.map(|left| left.as_millis() as u64),
        }));
    }
    let kind = match held.holders {
        holders if held.shared => format!("shared by {holders}"),
        _ => "exclusive".to_owned(),
    };
    let remaining = match held.remaining {
        Some(left) => format!("{:.1} s", left.as_secs_f64()),
        None => "no end".to_owned(),
    };
    out.row(&[
        held.key.as_bytes(),
        kind.as_bytes(),
        remaining.as_bytes(),
        since.as_deref().unwrap_or("-").as_bytes(),
        held.owner.as_deref().unwrap_or("-").as_bytes(),
    ])
}

/// A time as RFC 3339 has it, in UTC, to the second.
fn rfc3339(time: SystemTime) -> String {
    let secs = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Years begin in March here, so that the leap day is the last one of a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (secs, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)), shown);
        }
    }
}
