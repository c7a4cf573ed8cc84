//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const AFTER_HELP: &str = "\
The server is the one of --url, else the one that the environment names: REDIS_URL, or REDIS_HOST with
REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD and REDIS_DB (a file .env in the current directory counts as
environment). With --url, REDIS_USERNAME and REDIS_PASSWORD of the environment are used as well.

Exit codes: 0 found or done, 1 missing (or a lock that somebody else holds), 2 error.

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
    /// Take a lock and print its identifier, which `unlock` wants
    Lock {
        key: OsString,
        /// The lock is free again after this time, whatever happens
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        expire_ms: u64,
        /// How long to wait while somebody else holds it; 0 tries once
        #[arg(long, value_name = "N", default_value_t = 5_000)]
        timeout_ms: u64,
    },
    /// Give a lock back; exit code 1 if it is not held under this identifier any more
    Unlock { key: OsString, id: String },
    /// Ask the server whether it answers
    Ping,
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
}
