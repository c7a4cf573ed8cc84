//! The command line.

use std::path::PathBuf;

use crate::Result;

const USAGE: &str = "\
larder-bench [COMMAND] [--quick] [--rounds N] [--only PATTERN]... [--contender NAME]... [--out FILE]
  COMMAND           compare (the default), stampede, staleness, memory or locks
  --quick           short rounds; for trying out, not for figures
  --rounds N        rounds of each trial (5); of stampede, expiries of the key (20)
  --only PATTERN    trials whose name contains PATTERN; several widen the choice
  --contender NAME  contenders of exactly this name; several widen the choice
  --out FILE        write every row as tab separated values to FILE";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Compare,
    Stampede,
    Staleness,
    Memory,
    Locks,
}

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) command: Command,
    pub(crate) quick: bool,
    rounds: Option<usize>,
    pub(crate) out: Option<PathBuf>,
    only: Vec<String>,
    contenders: Vec<String>,
}

impl Options {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self> {
        let mut args = args.peekable();
        let command = match args.peek().map(String::as_str) {
            Some("compare") => Some(Command::Compare),
            Some("stampede") => Some(Command::Stampede),
            Some("staleness") => Some(Command::Staleness),
            Some("memory") => Some(Command::Memory),
            Some("locks") => Some(Command::Locks),
            _ => None,
        };
        if command.is_some() {
            args.next();
        }
        let mut options = Self {
            command: command.unwrap_or(Command::Compare),
            quick: false,
            rounds: None,
            out: None,
            only: Vec::new(),
            contenders: Vec::new(),
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = Some(value()?.parse()?),
                "--only" => options.only.push(value()?),
                "--contender" => options.contenders.push(value()?),
                "--out" => options.out = Some(value()?.into()),
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
            }
        }
        if options.rounds == Some(0) {
            return Err("--rounds is at least 1".into());
        }
        Ok(options)
    }

    /// How many rounds, where `usual` is the number for figures.
    pub(crate) fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }

    pub(crate) fn wants(&self, trial: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| trial.contains(pattern.as_str()))
    }

    pub(crate) fn wants_contender(&self, name: &str) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|wanted| wanted == name)
    }
}
