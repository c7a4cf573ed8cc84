//! Tables in Markdown, raw rows in a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::Result;
use crate::measure::{Sample, median};

/// Cargo's lock file says which versions were compiled in.
const LOCK: &str = include_str!("../../Cargo.lock");

/// Rows as tab separated values, in a file if one is wanted.
pub(crate) struct Raw(Option<BufWriter<File>>);

impl Raw {
    /// Creates the file, and the folder that it is to lie in.
    pub(crate) fn create(out: Option<&Path>, columns: &[&str]) -> Result<Self> {
        let Some(path) = out else { return Ok(Self(None)) };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let mut raw = Self(Some(BufWriter::new(File::create(path)?)));
        raw.row(columns)?;
        Ok(raw)
    }

    pub(crate) fn row(&mut self, values: &[impl AsRef<str>]) -> Result<()> {
        if let Some(file) = &mut self.0 {
            let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
            writeln!(file, "{}", values.join("\t"))?;
            file.flush()?;
        }
        Ok(())
    }
}

/// What the figures depend on.
pub(crate) fn facts(redis: &str, workers: usize) -> Result<()> {
    let cores = std::thread::available_parallelism()?;
    println!("- machine: {cores} cores ({}), which the server shares", cpu_model());
    println!("- redis-server {redis}, loopback TCP; runtime: tokio, {workers} workers");
    let versions = [
        "larder",
        "redis",
        "fred",
        "rustis",
        "deadpool-redis",
        "bb8-redis",
        "moka",
        "quick_cache",
        "cached",
        "rslock",
        "tokio",
    ]
    .map(|name| format!("{name} {}", version(name)));
    println!("- crates: {}", versions.join(", "));
    Ok(())
}

struct Row {
    trial: String,
    contender: &'static str,
    round: usize,
    sample: Sample,
}

/// Collects samples.
pub(crate) struct Report {
    rows: Vec<Row>,
    raw: Raw,
}

impl Report {
    pub(crate) fn new(out: Option<&Path>) -> Result<Self> {
        let columns =
            ["trial", "contender", "round", "operations", "wall_ns", "cpu_ns", "commands_per_read"];
        Ok(Self { rows: Vec::new(), raw: Raw::create(out, &columns)? })
    }

    pub(crate) fn row(
        &mut self,
        trial: &str,
        contender: &'static str,
        round: usize,
        sample: &Sample,
    ) -> Result<()> {
        self.raw.row(&[
            trial,
            contender,
            &round.to_string(),
            &sample.operations.to_string(),
            &sample.wall.as_nanos().to_string(),
            &sample.cpu.as_nanos().to_string(),
            &format!("{:.2}", sample.commands_per_read),
        ])?;
        self.rows.push(Row { trial: trial.to_owned(), contender, round, sample: *sample });
        Ok(())
    }

    /// The table of one trial. Ratios are medians of the ratios within a round, so that what disturbs a
    /// whole round disturbs both sides.
    pub(crate) fn table(&self, trial: &str, baseline: &str) {
        println!("\n**{trial}**\n");
        println!(
            "| contender | calls/s | of {baseline} | CPU µs/call | of {baseline} | commands/read |"
        );
        println!("|---|---:|---:|---:|---:|---:|");
        for contender in self.contenders(trial) {
            let rate = self.median_of(trial, contender, Sample::per_second);
            let cpu = self.median_of(trial, contender, Sample::cpu_micros);
            let grouped = self.median_of(trial, contender, |sample| sample.commands_per_read);
            let grouped = if grouped > 0.0 { format!("{grouped:.1}") } else { "-".to_owned() };
            let rate_ratio = self.ratio(trial, contender, baseline, Sample::per_second);
            let cpu_ratio = self.ratio(trial, contender, baseline, Sample::cpu_micros);
            println!(
                "| {contender} | {rate:.0} | {rate_ratio} | {cpu:.2} | {cpu_ratio} | {grouped} |"
            );
        }
    }

    /// The table of hits by so many tasks, each of which takes the time that is shown.
    pub(crate) fn hits(&self, trial: &str, tasks: usize, baseline: &str) {
        println!("\n**{trial}**\n");
        println!("| contender | ns/hit | of {baseline} | {baseline} of it | CPU ns/hit | hits/s |");
        println!("|---|---:|---:|---:|---:|---:|");
        for contender in self.contenders(trial) {
            let nanos = self.median_of(trial, contender, Sample::nanos) * tasks as f64;
            let cpu = self.median_of(trial, contender, Sample::cpu_micros) * 1e3;
            let rate = self.median_of(trial, contender, Sample::per_second);
            let dearer = self.ratio(trial, contender, baseline, Sample::nanos);
            let cheaper = self.ratio(trial, baseline, contender, Sample::nanos);
            println!("| {contender} | {nanos:.0} | {dearer} | {cheaper} | {cpu:.0} | {rate:.0} |");
        }
    }

    /// How many times as many calls a second there are in one trial as in another, by contender.
    pub(crate) fn scaling(&self, many: &str, one: &str) {
        println!("\n| contender | {many}, of {one} |\n|---|---:|");
        for contender in self.contenders(many) {
            let partner = |round| self.of(one, contender).find(|row| row.round == round);
            let times: Vec<f64> = self
                .of(many, contender)
                .filter_map(|row| {
                    Some(row.sample.per_second() / partner(row.round)?.sample.per_second())
                })
                .collect();
            if !times.is_empty() {
                println!("| {contender} | {:.2} |", median(times));
            }
        }
    }

    /// What a call of one contender costs, as a multiple of what it costs with another.
    pub(crate) fn cost(&self, trial: &str, one: &str, other: &str) {
        println!(
            "\n{one} takes {} times as long as {other}, and {} times its CPU time",
            self.ratio(trial, one, other, Sample::nanos),
            self.ratio(trial, one, other, Sample::cpu_micros)
        );
    }

    /// What one call costs more in `dear` than in `cheap`.
    pub(crate) fn difference(&self, trial: &str, dear: &str, cheap: &str, what: &str) {
        let more = self.paired(trial, dear, cheap, |dear, cheap| dear.nanos() - cheap.nanos());
        println!("\n{what}: {:.0} ns a call", median(more));
    }

    fn contenders(&self, trial: &str) -> Vec<&'static str> {
        let mut contenders = Vec::new();
        for row in self.rows.iter().filter(|row| row.trial == trial) {
            if !contenders.contains(&row.contender) {
                contenders.push(row.contender);
            }
        }
        contenders
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
