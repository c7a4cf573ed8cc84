//! Tables of what was seen.

use super::{ALONE, BURST, HAND_OVER, LARDER, PROCESSES, Pace, Seen, TASKS, median};

/// The table of a trial, and what the issue of locks asks of it.
pub(super) fn print(trial: &str, rows: &[Seen], pace: &Pace) {
    let rows: Vec<&Seen> = rows.iter().filter(|seen| seen.trial == trial).collect();
    match trial {
        ALONE => alone(&rows),
        HAND_OVER => hand_over(&rows),
        BURST => {
            println!(
                "\n**{BURST}**: {PROCESSES} processes of {TASKS} contenders, each wants the lock once, at one moment\n"
            );
            contention(&rows);
        }
        _ => {
            println!(
                "\n**{trial}**: {PROCESSES} processes of {TASKS} contenders, each wants the lock again as soon as it gave it back, for {:?}\n",
                pace.steady
            );
            contention(&rows);
        }
    }
}

fn alone(rows: &[&Seen]) {
    println!("\n**{ALONE}**: one contender, nobody else, nothing to do under the lock\n");
    println!(
        "| contender | µs to take and give back | of {LARDER} | requests |\n|---|---:|---:|---:|"
    );
    let micros = |seen: &Seen| seen.wall as f64 / seen.cycles as f64 / 1e3;
    for name in contenders(rows) {
        let time = of(rows, name, micros);
        let requests = of(rows, name, |seen| seen.requests as f64 / seen.cycles as f64);
        println!(
            "| {name} | {time:.0} | {} | {requests:.2} |",
            ratio(time, of(rows, LARDER, micros))
        );
    }
}

fn hand_over(rows: &[&Seen]) {
    println!(
        "\n**{HAND_OVER}** between two processes: from just before the lock is given back in one to when it is got in the other\n"
    );
    println!(
        "| contender | hand-overs | median ms | p90 | worst | two holders |\n|---|---:|---:|---:|---:|---:|"
    );
    for name in contenders(rows) {
        let mut times: Vec<f64> = rows
            .iter()
            .filter(|seen| seen.contender == name)
            .map(|seen| millis(seen.wall))
            .collect();
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        let overlaps =
            rows.iter().filter(|seen| seen.contender == name && seen.overlaps > 0).count();
        println!(
            "| {name} | {} | {:.2} | {:.2} | {:.2} | {overlaps} |",
            times.len(),
            median(times.clone()),
            at(0.9),
            at(1.0)
        );
    }
}

fn contention(rows: &[&Seen]) {
    println!(
        "| contender | cycles/s | {LARDER} of it | worst wait, ms | of {LARDER} | fewest cycles of one | two holders | lost updates |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let rate = |seen: &Seen| seen.cycles as f64 * 1e9 / seen.wall as f64;
    let wait = |seen: &Seen| millis(seen.worst_wait);
    for name in contenders(rows) {
        let sum = |what: fn(&Seen) -> u64| -> u64 {
            rows.iter().filter(|seen| seen.contender == name).map(|seen| what(seen)).sum()
        };
        let (fast, slow) = (of(rows, name, rate), of(rows, name, wait));
        println!(
            "| {name} | {fast:.0} | {} | {slow:.1} | {} | {:.0} | {} | {} |",
            ratio(of(rows, LARDER, rate), fast),
            ratio(slow, of(rows, LARDER, wait)),
            of(rows, name, |seen| seen.fewest as f64),
            sum(|seen| seen.overlaps),
            sum(|seen| seen.lost_updates),
        );
    }
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

fn contenders(rows: &[&Seen]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for seen in rows {
        if !names.contains(&seen.contender) {
            names.push(seen.contender);
        }
    }
    names
}

/// The median over the rounds, of a contender that took part.
fn of(rows: &[&Seen], name: &str, what: impl Fn(&Seen) -> f64) -> f64 {
    let all: Vec<f64> =
        rows.iter().filter(|seen| seen.contender == name).map(|seen| what(seen)).collect();
    if all.is_empty() { f64::NAN } else { median(all) }
}

/// Larder may have been left out.
fn ratio(one: f64, other: f64) -> String {
    let ratio = one / other;
    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
}
