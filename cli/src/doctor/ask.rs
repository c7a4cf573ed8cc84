//! Asking a server: every question has an end, and an answer or a reason why there is none.

use std::time::Duration;

use larder::redis1::{Cmd, ConnectionLike, Pipeline, RedisError, Session, Value, cmd};
use larder::{CacheClient, Error};

/// How long a server may take to answer one question. A call of the client has a second by default.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why something is not known.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Why {
    /// The server refused the command: its error code, and whether it was for a key.
    Refused { command: String, code: String, for_key: bool },
    /// The server does not know the command, or it was renamed.
    NoCommand(String),
    /// No answer came, to this question or to one before it.
    Silent,
    /// An answer that is none.
    Unreadable(String),
}

impl Why {
    /// The reason, to stand behind "since".
    pub(super) fn text(&self) -> String {
        match self {
            Self::Refused { command, code, .. } if code == "NOPERM" => {
                format!("the user may not use {command}")
            }
            Self::Refused { command, code, .. } => format!("the server refuses {command} ({code})"),
            Self::NoCommand(command) => {
                format!("the server does not know {command}, or it was renamed")
            }
            Self::Silent => "the server does not answer any more".to_owned(),
            Self::Unreadable(command) => format!("the answer to {command} cannot be read"),
        }
    }
}

/// What is known, or why it is not.
pub(super) type Fact<T> = Result<T, Why>;

/// One server that is asked.
pub(super) struct Server {
    session: Session,
    // Nothing more is asked of who did not answer once.
    silent: bool,
}

impl Server {
    /// Connects to the server of a URL.
    pub(super) async fn connect(url: &str) -> Result<Self, Error> {
        let cache = CacheClient::builder().url(url).build()?;
        let session = cache.session().await?;
        Ok(Self { session, silent: false })
    }

    /// Asks with a command of some words, the first one or two of which are its name.
    pub(super) async fn ask(&mut self, words: &[&str]) -> Fact<Value> {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        self.ask_with(&command, &name(words)).await
    }

    async fn ask_with(&mut self, command: &Cmd, name: &str) -> Fact<Value> {
        if self.silent {
            return Err(Why::Silent);
        }
        let answer = self.session.req_packed_command(command);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(value)) => read(value, name),
            Ok(Err(error)) => Err(self.failed(&error, name)),
            Err(_) => {
                self.silent = true;
                Err(Why::Silent)
            }
        }
    }

    /// Has commands queued, each by its words, and throws them away: what the server would refuse is refused now, and
    /// nothing is done. None of them may be one that begins or ends a transaction.
    pub(super) async fn queue(&mut self, commands: &[Vec<String>]) -> Fact<Vec<Fact<()>>> {
        // Who may not throw a transaction away must not open one. Without one it is refused, for that reason.
        match self.ask(&["DISCARD"]).await {
            Err(Why::Refused { code, .. }) if code == "ERR" => {}
            Err(why) => return Err(why),
            Ok(_) => return Err(Why::Unreadable("DISCARD".to_owned())),
        }
        // A question of its own: without a transaction the commands would be done.
        self.ask(&["MULTI"]).await?;
        let mut pipeline = Pipeline::new();
        for words in commands {
            pipeline.cmd(&words[0]).arg(&words[1..]);
        }
        pipeline.cmd("DISCARD");
        let count = commands.len() + 1;
        let answers = self.session.req_packed_commands(&pipeline, 0, count);
        let why = match tokio::time::timeout(PATIENCE, answers).await {
            Ok(Ok(answers)) if answers.len() == count && answers.last() == Some(&Value::Okay) => {
                let each = commands.iter().zip(answers);
                return Ok(each.map(|(words, answer)| read(answer, &words[0]).map(drop)).collect());
            }
            Ok(Ok(_)) => Why::Unreadable("MULTI".to_owned()),
            Ok(Err(error)) => self.failed(&error, "MULTI"),
            Err(_) => Why::Silent,
        };
        // The transaction may be open still, and would take in what is asked next.
        self.silent = true;
        Err(why)
    }

    fn failed(&mut self, error: &RedisError, name: &str) -> Why {
        let Some(code) = error.code() else {
            self.silent = true;
            return Why::Silent;
        };
        refusal(name, code, error.detail().unwrap_or_default())
    }
}

/// The name of a command, as a person knows it: two words where the first one says nothing.
fn name(words: &[&str]) -> String {
    let containers = ["ACL", "CLIENT", "CLUSTER", "CONFIG", "SENTINEL"];
    match words {
        [first, second, ..] if containers.contains(first) => format!("{first} {second}"),
        [first, ..] => (*first).to_owned(),
        [] => String::new(),
    }
}

fn read(value: Value, name: &str) -> Fact<Value> {
    match value {
        Value::ServerError(error) => {
            Err(refusal(name, error.code(), error.details().unwrap_or_default()))
        }
        value => Ok(value),
    }
}

fn refusal(name: &str, code: &str, text: &str) -> Why {
    let text = text.to_ascii_lowercase();
    if text.contains("unknown command") || text.contains("unknown subcommand") {
        return Why::NoCommand(name.to_owned());
    }
    // What stands there may be anything; a code is one word in capitals.
    let is_code = code.len() <= 20 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = if is_code { code } else { "ERR" };
    let for_key = text.contains("access a key") || text.contains("access one of the keys");
    Why::Refused { command: name.to_owned(), code: code.to_owned(), for_key }
}

/// A text out of an answer.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The elements of an array.
pub(super) fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => &[],
    }
}

/// Names and values, as RESP3 gives them or as RESP2 does.
pub(super) fn pairs(value: &Value) -> Vec<(String, &Value)> {
    match value {
        Value::Map(pairs) => {
            pairs.iter().filter_map(|(name, value)| Some((text(name)?, value))).collect()
        }
        flat => items(flat)
            .chunks_exact(2)
            .filter_map(|pair| Some((text(&pair[0])?, &pair[1])))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_may_not_be_used_and_repeats_nothing() {
        let why =
            refusal("INFO", "NOPERM", "User ada has no permissions to run the 'info' command");
        assert_eq!(why.text(), "the user may not use INFO");
        let why =
            refusal("CONFIG GET", "ERR", "unknown command 'CONFIG', with args beginning with:");
        assert_eq!(why, Why::NoCommand("CONFIG GET".to_owned()));
        for text in [
            "No permissions to access a key",
            "this user has no permissions to access one of the keys used as arguments",
        ] {
            assert!(matches!(refusal("GET", "NOPERM", text), Why::Refused { for_key: true, .. }));
        }
        let why = refusal("GET", "\x1b[2Jcanary", "");
        assert_eq!(why.text(), "the server refuses GET (ERR)");
    }
}
