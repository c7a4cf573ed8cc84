//! Tables in Markdown, raw rows in a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::Result;
use crate::measure::{Pace, Sample, median};

/// Cargo's lock file says which versions were compiled in.
const LOCK: &str = include_str!("../../Cargo.lock");

struct Row {
    trial: String,
    contender: &'static str,
    round: usize,
    sample: Sample,
}

/// Collects samples.
pub(crate) struct Report {
    rows: Vec<Row>,
    raw: Option<BufWriter<File>>,
}

impl Report {
    pub(crate) fn new(out: Option<&Path>) -> Result<Self> {
        let mut raw = out.map(File::create).transpose()?.map(BufWriter::new);
        if let Some(raw) = &mut raw {
            writeln!(
                raw,
                "trial\tcontender\tround\toperations\twall_ns\tcpu_ns\tcommands_per_read"
            )?;
        }
        Ok(Self { rows: Vec::new(), raw })
    }

    /// What the figures depend on.
    pub(crate) fn facts(&self, redis: &str, pace: &Pace, rounds: usize) -> Result<()> {
        let cores = std::thread::available_parallelism()?;
        println!("- machine: {cores} cores ({}), which the server shares", cpu_model());
        println!(
            "- redis-server {redis}, loopback TCP; runtime: tokio, {} workers",
            crate::WORKERS
        );
        let versions =
            ["larder", "redis", "fred", "rustis", "deadpool-redis", "bb8-redis", "tokio"]
                .map(|name| format!("{name} {}", version(name)));
        println!("- crates: {}", versions.join(", "));
        println!(
            "- {rounds} rounds of {:?} after {:?} of warm-up; medians",
            pace.span, pace.warm_up
        );
        Ok(())
    }

    pub(crate) fn row(
        &mut self,
        trial: &str,
        contender: &'static str,
        round: usize,
        sample: &Sample,
    ) -> Result<()> {
        if let Some(raw) = &mut self.raw {
            let (wall, cpu) = (sample.wall.as_nanos(), sample.cpu.as_nanos());
            let operations = sample.operations;
            let grouped = sample.commands_per_read;
            writeln!(
                raw,
                "{trial}\t{contender}\t{round}\t{operations}\t{wall}\t{cpu}\t{grouped:.2}"
            )?;
            raw.flush()?;
        }
        self.rows.push(Row { trial: trial.to_owned(), contender, round, sample: *sample });
        Ok(())
    }

    /// The table of one trial. Ratios are medians of the ratios within a round, so that what disturbs a
    /// whole round disturbs both sides.
    pub(crate) fn table(&self, trial: &str, baseline: &str) {
        let mut contenders: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.trial == trial) {
            if !contenders.contains(&row.contender) {
                contenders.push(row.contender);
            }
        }
        println!("\n**{trial}**\n");
        println!(
            "| contender | calls/s | of {baseline} | CPU µs/call | of {baseline} | commands/read |"
        );
        println!("|---|---:|---:|---:|---:|---:|");
        for contender in contenders {
            let rate = self.median_of(trial, contender, Sample::per_second);
            let cpu = self.median_of(trial, contender, Sample::cpu_micros);
            let grouped = self.median_of(trial, contender, |sample| sample.commands_per_read);
            let rate_ratio = self.ratio(trial, contender, baseline, Sample::per_second);
            let cpu_ratio = self.ratio(trial, contender, baseline, Sample::cpu_micros);
            println!(
                "| {contender} | {rate:.0} | {rate_ratio} | {cpu:.2} | {cpu_ratio} | {grouped:.1} |"
            );
        }
    }

    /// What one call costs more in `dear` than in `cheap`.
    pub(crate) fn difference(&self, trial: &str, dear: &str, cheap: &str, what: &str) {
        let nanos = |sample: &Sample| 1e9 / sample.per_second();
        let more = self.paired(trial, dear, cheap, |dear, cheap| nanos(dear) - nanos(cheap));
        println!("\n{what}: {:.0} ns a call", median(more));
    }

    fn median_of(&self, trial: &str, contender: &str, of: fn(&Sample) -> f64) -> f64 {
        median(self.of(trial, contender).map(|row| of(&row.sample)).collect())
    }

    fn ratio(&self, trial: &str, one: &str, other: &str, of: fn(&Sample) -> f64) -> String {
        let ratios = self.paired(trial, one, other, |one, other| of(one) / of(other));
        if ratios.is_empty() { "-".to_owned() } else { format!("{:.2}", median(ratios)) }
    }

    fn paired(
        &self,
        trial: &str,
        one: &str,
        other: &str,
        compare: impl Fn(&Sample, &Sample) -> f64,
    ) -> Vec<f64> {
        let partner = |round| self.of(trial, other).find(|row| row.round == round);
        self.of(trial, one)
            .filter_map(|row| Some(compare(&row.sample, &partner(row.round)?.sample)))
            .collect()
    }

    fn of<'a>(&'a self, trial: &'a str, contender: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.trial == trial && row.contender == contender)
    }
}

/// The version of a crate in the lock file; the newest, if there are several.
fn version(name: &str) -> &'static str {
    let wanted = format!("name = \"{name}\"");
    let mut lines = LOCK.lines();
    let mut found = "?";
    while let Some(line) = lines.next() {
        if line == wanted {
            let line = lines.next().unwrap_or_default();
            found = line.trim_start_matches("version = ").trim_matches('"');
        }
    }
    found
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown CPU".to_owned(), |line| {
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    })
}
