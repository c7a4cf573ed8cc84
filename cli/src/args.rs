//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const AFTER_HELP: &str = "\
The server is the one of --url, else the one that the environment names: REDIS_URL, or REDIS_HOST with
REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD and REDIS_DB (a file .env in the current directory counts as
environment). With --url, REDIS_USERNAME and REDIS_PASSWORD of the environment are used as well.

Exit codes: 0 found or done, 1 missing (or a lock that somebody else holds), 2 error; of `lock` with a command,
the command's, or 3 if the lock was lost; of `doctor` 1 if it found problems.

On a terminal, control characters in keys and values are shown as \\n, \\u{1b}; a pipe gets the bytes as they
are. Keys or elements with line breaks in them are told apart with --json.";

/// The cache client at the prompt: one operation a call, on a Redis or Valkey server.
#[derive(Debug, Parser)]
#[command(name = "larder", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// The server: redis://[USER@]HOST[:PORT][/DB] or redis+unix://[USER:@]/PATH. No password: set REDIS_PASSWORD
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// A file whose only line is the password
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Print results as JSON; bytes that are not text are {"hex": "..."}
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what the client does, with timings
    ///
    /// It runs on the embedded store, or on the server of --url, where it uses keys of its own and deletes
    /// them afterwards.
    Demo,
    /// Print the value of a key
    Get { key: OsString },
    /// Write a value; `-` reads it from standard input, byte for byte
    Set {
        key: OsString,
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        /// Time to live; without it, the value stays
        #[arg(long, value_name = "SECS")]
        ex: Option<u64>,
    },
    /// Delete keys and print how many there were
    Del {
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<OsString>,
    },
    /// Print 1 if a key exists, else 0
    Exists { key: OsString },
    /// Print the remaining seconds of a key; -1 if it stays, -2 if it is missing
    Ttl { key: OsString },
    /// Give a key a new time to live
    Expire { key: OsString, secs: u64 },
    /// Add to a number and print it
    Incr {
        key: OsString,
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Print a field of a hash
    Hget { name: OsString, field: OsString },
    /// Write a field of a hash; prints 1 if it is new, 0 if it was updated
    Hset {
        name: OsString,
        field: OsString,
        /// `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: OsString,
    },
    /// Print a hash: a field, a tab and its value on each line, in the order of the fields
    Hgetall { name: OsString },
    /// Add an element at the right end of a list and print the new length
    Push {
        name: OsString,
        /// `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        /// At the left end
        #[arg(long)]
        left: bool,
    },
    /// Print a list, an element a line
    List { name: OsString },
    /// Take the leftmost element off a list and print it
    Lpop { name: OsString },
    /// Take the rightmost element off a list and print it
    Rpop { name: OsString },
    /// Print the keys that start with a prefix as they are found; an empty prefix lists all
    Scan { prefix: OsString },
    /// Run a command while holding a lock, or take a lock and print its identifier, which `unlock` wants
    Lock(LockArgs),
    /// List the locks that are held: key, kind, remaining time, since when, and who says to have it
    ///
    /// Every string under a key that starts with `lock:` is a lock. Since when and by whom is known of locks that were taken
    /// with a guard, as `larder lock NAME -- COMMAND` does; the identifiers, which could release them, are not shown.
    Locks {
        /// Only those whose names start with this
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: OsString,
    },
    /// Give a lock back; exit code 1 if it is not held under this identifier any more
    Unlock { key: OsString, id: String },
    /// Ask the server whether it answers
    Ping,
    /// Look whether the server is set up for what larder does with it, and say what to change
    Doctor(DoctorArgs),
}

/// What `doctor` is told of the service.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_DOCTOR)]
pub(crate) struct DoctorArgs {
    /// What the keys of the service begin with: then it is also checked whether the user reaches them
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
}

const AFTER_DOCTOR: &str = "\
Each finding is ok, advice (it works, and could be better), problem (something of larder will fail) or unknown (the user
may not ask for it). Nothing is written to the server and no setting is changed; of a cluster and of sentinels, every node
is asked. With --json, each finding is one line: server, check, state, found, advice, details.

Exit codes: 0 no problem was found, 1 there are problems (a server that cannot be reached is one), 2 the command line
or the settings are wrong. docs/doctor.md says what each check means.";

/// How a lock is taken, and for which command.
#[derive(Debug, clap::Args)]
#[command(override_usage = "larder lock [--ttl TIME] [--wait TIME] [--owner LABEL] NAME -- COMMAND...
       larder lock [--expire-ms N] [--timeout-ms N] KEY", after_help = AFTER_LOCK)]
pub(crate) struct LockArgs {
    /// The lock: with a command its name, without one its key (the lock NAME has the key lock:NAME)
    #[arg(value_name = "NAME")]
    pub(crate) key: OsString,
    /// For how long the lock outlives this program if that is killed; renewed at a third. 30, 500ms, 2m, 1h [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "command")]
    pub(crate) ttl: Option<Duration>,
    /// How long to wait while somebody else holds it; 0 tries once [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "command")]
    wait: Option<Duration>,
    /// A name that `larder locks` shows to everybody
    #[arg(long, value_name = "LABEL", requires = "command")]
    pub(crate) owner: Option<String>,
    /// How long the command has between SIGTERM and SIGKILL when the lock is lost [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "command")]
    grace: Option<Duration>,
    /// Without a command: the lock is free again after this time, whatever happens
    #[arg(long, value_name = "N", default_value_t = 10_000, conflicts_with = "command")]
    pub(crate) expire_ms: u64,
    /// Without a command: how long to wait while somebody else holds it; 0 tries once
    #[arg(long, value_name = "N", default_value_t = 5_000, conflicts_with = "command")]
    pub(crate) timeout_ms: u64,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl LockArgs {
    /// How long to wait for the lock.
    pub(crate) fn wait(&self) -> Duration {
        self.wait.unwrap_or(Duration::from_secs(5))
    }

    /// How long a command has to end by itself.
    pub(crate) fn grace(&self) -> Duration {
        self.grace.unwrap_or(Duration::from_secs(5))
    }
}

const AFTER_LOCK: &str = "\
The command gets this program's standard streams, and LARDER_FENCING_TOKEN in its environment: a number that is
larger than that of every earlier holder. SIGINT, SIGTERM, SIGHUP and SIGQUIT are handed on to it; at a terminal, Ctrl-C
reaches it from there alone. If the lock is lost, it gets SIGTERM, and after the grace SIGKILL.

Exit codes: the command's own, or 128 and the number of the signal that ended it; 1 if somebody else holds the lock
(nothing was run), 2 error, 3 if the lock was lost before the command had ended. A message on standard error says
which it was.";

/// A time: seconds, or a number with a unit.
fn time(text: &str) -> Result<Duration, String> {
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err("write 30, 500ms, 2m, 1h or 1d".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "write 30, 500ms, 2m, 1h or 1d".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| "it is too long".to_owned())
}

/// Reads the command line: what it says, and the command as it is typed.
pub(crate) fn parse() -> Result<(Args, String), clap::Error> {
    let matches = Args::command().try_get_matches()?;
    let command = matches.subcommand_name().unwrap_or_default().to_owned();
    Ok((Args::from_arg_matches(&matches)?, command))
}

/// Help and version as they are; mistakes as this program's own errors.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is no reason to complain.
        _ = error.print();
        return ExitCode::SUCCESS;
    }
    // The message repeats arguments, of which one may be a URL with a password in the wrong place.
    let secret = std::env::args_os().any(|arg| {
        let arg = arg.to_string_lossy();
        arg.contains("://") && arg.contains('@')
    });
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        _ = error.print();
    } else if secret {
        crate::output::complain("the arguments are wrong; see larder --help");
    } else {
        let text = error.to_string();
        // Its first paragraph says what is wrong, over one line or several.
        let said = text.strip_prefix("error: ").unwrap_or(&text);
        let said = said.split("\n\n").next().unwrap_or(said);
        let said: Vec<&str> = said.lines().map(str::trim).collect();
        crate::output::complain(&format!("{}; see larder --help", said.join(" ")));
    }
    ExitCode::from(crate::ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_time_is_seconds_or_has_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("30", 30_000),
            ("1.5", 1_500),
            ("250ms", 250),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("0.5d", 43_200_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "s", "-1", "5 s", "5x", "1.2.3", "1e3", "99999999999999999999999"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
