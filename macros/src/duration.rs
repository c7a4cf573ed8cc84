//! Durations as people write them: `300s`, `5m`, `1h30m`.

/// The units, in milliseconds.
const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Redis adds a TTL to its clock and refuses a sum beyond `i64`: the library's own bound.
pub(crate) const MAX_MILLIS: u64 = (i64::MAX - (1 << 43)) as u64;

/// The milliseconds of a duration, or what is wrong with it.
pub(crate) fn millis(text: &str) -> Result<u64, String> {
    const SHAPE: &str = "whole numbers with units, as in \"250ms\", \"300s\", \"5m\" or \"1h30m\"";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("an empty duration; write {SHAPE}"));
    }
    let (mut sum, mut smallest) = (0_u64, u64::MAX);
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let after = after.trim_start();
        let end = after.find(|one: char| !one.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        rest = after.trim_start();
        if number.is_empty() {
            return Err(format!("`{text}` is no duration; write {SHAPE}"));
        }
        if unit.is_empty() && rest.is_empty() {
            return Err(format!("`{text}` has no unit; write {SHAPE}"));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(match unit {
                "" => format!("`{text}` is no duration; write {SHAPE}"),
                _ => format!("`{unit}` is no unit of time; there are ms, s, m, h and d"),
            });
        };
        if *factor >= smallest {
            return Err(format!("`{text}` is not in order: days, hours, minutes, seconds, ms"));
        }
        smallest = *factor;
        sum = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor))
            .and_then(|part| sum.checked_add(part))
            .filter(|sum| *sum <= MAX_MILLIS)
            .ok_or_else(|| format!("`{text}` is longer than Redis keeps anything"))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, wanted) in [
            ("250ms", 250),
            ("300s", 300_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            (" 2 s ", 2_000),
            ("0s", 0),
        ] {
            assert_eq!(millis(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_what_is_wrong() {
        for (text, wanted) in [
            ("", "an empty duration"),
            ("300", "has no unit"),
            ("5 min", "`min` is no unit"),
            ("1.5s", "is no duration"),
            ("-5s", "is no duration"),
            ("s", "is no duration"),
            ("5s5s", "is not in order"),
            ("5s1m", "is not in order"),
            ("99999999999999999999s", "longer than Redis keeps"),
            ("999999999999d", "longer than Redis keeps"),
        ] {
            let error = millis(text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
