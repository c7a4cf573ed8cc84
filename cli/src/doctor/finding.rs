//! What was found: how it stands, what was seen, and what to change.

use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::{Output, escaped};

/// How it stands with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Good,
    /// It works, and could be better.
    Advice,
    /// Something of larder will fail.
    Problem,
    /// It could not be found out.
    Unknown,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Advice => "advice",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
        }
    }
}

/// What came of one check. The names of checks and the fields of `details` are promised to scripts.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    pub(super) advice: Option<String>,
    pub(super) details: Map<String, Value>,
}

impl Finding {
    fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self { check, state, found: found.into(), advice: None, details: Map::new() }
    }

    pub(super) fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Good, found)
    }

    pub(super) fn advice(
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, State::Advice, found) }
    }

    pub(super) fn problem(
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(check, State::Problem, found) }
    }

    /// `since` is the reason.
    pub(super) fn unknown(check: &'static str, since: &str) -> Self {
        Self::new(check, State::Unknown, format!("not known, since {since}"))
    }

    /// Adds a field of the details.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

/// What all findings come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    good: usize,
    advice: usize,
    problems: usize,
    unknown: usize,
}

impl Tally {
    pub(super) fn has_problems(&self) -> bool {
        self.problems > 0
    }

    /// Writes the findings about one server.
    pub(super) fn show(
        &mut self,
        server: &str,
        findings: &[Finding],
        out: &mut Output,
    ) -> Result<(), Failure> {
        for finding in findings {
            match finding.state {
                State::Good => self.good += 1,
                State::Advice => self.advice += 1,
                State::Problem => self.problems += 1,
                State::Unknown => self.unknown += 1,
            }
        }
        if out.is_json() {
            for finding in findings {
                out.json(&json!({
                    "server": server,
                    "check": finding.check,
                    "state": finding.state.name(),
                    "found": finding.found,
                    "advice": finding.advice,
                    "details": finding.details,
                }))?;
            }
            return out.flush();
        }
        // A server chooses some of this text, and it is read by people wherever it goes.
        out.say(&escaped(server.as_bytes()))?;
        for Finding { check, state, found, advice, .. } in findings {
            let line = format!("  {:<8} {check:<14} {found}", state.name());
            out.say(&escaped(line.as_bytes()))?;
            if let Some(advice) = advice {
                out.say(&escaped(format!("{:>25} {advice}", "->").as_bytes()))?;
            }
        }
        Ok(())
    }

    /// Writes what it comes to; for scripts the exit code says it.
    pub(super) fn sum_up(&self, out: &mut Output) -> Result<(), Failure> {
        if out.is_json() {
            return Ok(());
        }
        out.say(&format!(
            "problems: {}, advice: {}, unknown: {}, ok: {}",
            self.problems, self.advice, self.unknown, self.good
        ))
    }
}
