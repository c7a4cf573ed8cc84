//! The command line.

use std::path::PathBuf;

use crate::Result;

const USAGE: &str = "\
larder-bench [--quick] [--rounds N] [--only PATTERN]... [--contender NAME]... [--out FILE]
  --quick           short rounds; for trying out, not for figures
  --rounds N        rounds of each trial (5)
  --only PATTERN    trials whose name contains PATTERN; several widen the choice
  --contender NAME  contenders of exactly this name; several widen the choice
  --out FILE        write every row as tab separated values to FILE";

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) out: Option<PathBuf>,
    only: Vec<String>,
    contenders: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options =
            Self { quick: false, rounds: 5, out: None, only: Vec::new(), contenders: Vec::new() };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = value()?.parse()?,
                "--only" => options.only.push(value()?),
                "--contender" => options.contenders.push(value()?),
                "--out" => options.out = Some(value()?.into()),
                _ => return Err(format!("unknown argument {arg}\n{USAGE}").into()),
            }
        }
        if options.rounds == 0 {
            return Err("--rounds is at least 1".into());
        }
        Ok(options)
    }

    pub(crate) fn wants(&self, trial: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|pattern| trial.contains(pattern.as_str()))
    }

    pub(crate) fn wants_contender(&self, name: &str) -> bool {
        self.contenders.is_empty() || self.contenders.iter().any(|wanted| wanted == name)
    }
}
