//! The driver's errors as larder's. Of what a server says only the code is kept: the text behind it
//! can repeat arguments and values.

use redis::{RedisError, ServerError};

use crate::error::{Error, ErrorKind, Outcome};

/// The codes that are passed on. Any other is not: a script can put into its code what it likes.
const CODES: [&str; 24] = [
    "ASK",
    "BUSY",
    "BUSYKEY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "ERR",
    "EXECABORT",
    "INPROG",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "STALE",
    "TRYAGAIN",
    "UNBLOCKED",
    "WRONGPASS",
    "WRONGTYPE",
];

const LOST: &str = "the connection was lost before the answer came";

/// The server refused one command.
pub(super) fn refused(error: &ServerError) -> Error {
    by_code(error.code(), error.details().unwrap_or_default())
}

/// A request that got no answers. `sent` says whether it may have left the process.
pub(super) fn failed(error: &RedisError, sent: bool) -> Error {
    let outcome = if sent { Outcome::Unknown } else { Outcome::NotSent };
    match error.kind() {
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => aborted_or_refused(error),
        redis::ErrorKind::AuthenticationFailed => auth(),
        redis::ErrorKind::RESP3NotSupported => {
            Error::new(ErrorKind::Unsupported, "the server does not speak RESP3")
                .with_outcome(Outcome::Rejected)
        }
        // A connection that ends within a reply: the driver calls what arrived unreadable.
        redis::ErrorKind::Parse if error.detail().is_some_and(ends_too_soon) => {
            Error::new(ErrorKind::Unavailable, LOST).with_outcome(outcome)
        }
        redis::ErrorKind::Parse => {
            Error::new(ErrorKind::Protocol, "the server's answer cannot be read")
                .with_outcome(outcome)
        }
        redis::ErrorKind::InvalidClientConfig => {
            Error::new(ErrorKind::Config, "the driver refuses the connection's settings")
        }
        // The driver's client-side refusal: nothing was written.
        redis::ErrorKind::Client => {
            Error::new(ErrorKind::Unsupported, "the session refuses this command")
                .with_outcome(outcome)
        }
        _ if error.is_timeout() => {
            Error::new(ErrorKind::Timeout, "the session's own timeout passed").with_outcome(outcome)
        }
        _ => {
            let text = if sent { LOST } else { "the connection is lost" };
            Error::new(ErrorKind::Unavailable, text).with_outcome(outcome)
        }
    }
}

fn ends_too_soon(parse_error: &str) -> bool {
    parse_error.contains("Unexpected end of input")
}

/// A handshake that went wrong: nothing of the caller's was sent yet, whatever it was.
pub(super) fn handshake(error: &RedisError) -> Error {
    let refusals = error.clone().into_server_errors();
    match refusals.as_deref() {
        Some([(_, first), ..]) => refused(first),
        _ => failed(error, false),
    }
    .with_outcome(Outcome::NotSent)
}

/// Whether a handshake got as far as the choice of the database. The driver has no other word for it than
/// its text, in which the server's follows.
pub(super) fn is_wrong_database(error: &RedisError) -> bool {
    error.to_string().contains("server refused to switch database")
}

/// A transaction in which commands were refused while they were queued has several errors: the
/// first says why.
fn aborted_or_refused(error: &RedisError) -> Error {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first)]) if error.code() != Some("EXECABORT") => refused(first),
        Some([(at, first), ..]) => {
            // The driver counts MULTI as the command before the first.
            match at.checked_add(1) {
                Some(number) => aborted(number, first),
                None => without_multi(first),
            }
        }
        _ => by_code(error.code().unwrap_or("ERR"), error.detail().unwrap_or_default()),
    }
}

/// A transaction was refused because this command of it was, counted from 1.
pub(super) fn aborted(number: usize, why: &ServerError) -> Error {
    let cause = refused(why);
    let kind = match cause.kind() {
        ErrorKind::Server => ErrorKind::Aborted,
        kind => kind,
    };
    Error::new(kind, format!("the server refused command {number} of the transaction"))
        .with_outcome(Outcome::Rejected)
        .with_code(cause.code().unwrap_or("EXECABORT"))
}

/// MULTI itself was refused: the server ran what stood behind it, a command at a time. Only who is not
/// let in at all can be sure that nothing was run.
pub(super) fn without_multi(why: &ServerError) -> Error {
    let cause = refused(why);
    if cause.kind() == ErrorKind::Auth {
        return cause;
    }
    Error::new(cause.kind(), "the server refused MULTI, and may have run the commands one by one")
        .with_outcome(Outcome::Unknown)
        .with_code(cause.code().unwrap_or("ERR"))
}

pub(super) fn auth() -> Error {
    Error::new(ErrorKind::Auth, "the server refused the credentials")
}

pub(super) fn by_code(code: &str, text: &str) -> Error {
    let (kind, what) = match code {
        "WRONGTYPE" => (ErrorKind::WrongType, "the key holds another type"),
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Auth, "the server wants other credentials"),
        "NOPERM" => (ErrorKind::Permission, "the server's ACL forbids this"),
        "OOM" => (ErrorKind::OutOfMemory, "the server's memory limit is reached"),
        "READONLY" => (ErrorKind::ReadOnly, "the server is a read-only replica"),
        "LOADING" => (ErrorKind::Unavailable, "the server is loading its data"),
        "BUSY" => (ErrorKind::Unavailable, "the server is busy with a script"),
        "TRYAGAIN" => (ErrorKind::Unavailable, "the keys are moving between cluster nodes"),
        "CLUSTERDOWN" => (ErrorKind::Unavailable, "the cluster is down"),
        "MASTERDOWN" => (ErrorKind::Unavailable, "the replica has lost its primary"),
        "UNBLOCKED" => (ErrorKind::Unavailable, "the server was made a replica while it waited"),
        "NOREPLICAS" => (ErrorKind::Unavailable, "the primary has too few replicas to write"),
        "EXECABORT" => (ErrorKind::Aborted, "the server refused the transaction"),
        "ERR" if text.contains("is not an integer or out of range") => {
            (ErrorKind::OutOfRange, "the stored value is not a 64-bit integer")
        }
        "ERR" if text.contains("would overflow") => {
            (ErrorKind::OutOfRange, "the result does not fit 64 bits")
        }
        _ => (ErrorKind::Server, "the server refused the command"),
    };
    let code = if CODES.contains(&code) { code } else { "ERR" };
    Error::new(kind, what).with_outcome(Outcome::Rejected).with_code(code)
}
