//! One error type: what failed, on which key, what to do, and whether it may have been applied.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::key::Key;

/// What went wrong, in terms a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument was refused before anything was sent: an empty key, a TTL of zero.
    InvalidInput,
    /// The configuration or URL is wrong; the message lists every mistake.
    Config,
    /// The global client was used before [`init`](crate::init).
    NotInitialized,
    /// The client was closed.
    Closed,
    /// The server refused the credentials, or wants some.
    Auth,
    /// The server cannot be trusted: its certificate is not good, or it does not speak TLS. Nothing was sent to it.
    Tls,
    /// The server's ACL forbids the command or the key.
    Permission,
    /// The deadline of the call passed.
    Timeout,
    /// The server cannot be reached, or cannot serve at the moment.
    Unavailable,
    /// More calls or bytes are in flight than [`Builder::max_in_flight`](crate::Builder::max_in_flight) and
    /// [`Builder::max_in_flight_bytes`](crate::Builder::max_in_flight_bytes) allow. Said at once, and nothing was sent.
    Overloaded,
    /// The key holds another type than the operation works on.
    WrongType,
    /// A number is out of range, or the stored value is not a number.
    OutOfRange,
    /// The store has no memory left for the write.
    OutOfMemory,
    /// The server accepts no writes.
    ReadOnly,
    /// The server refused the command for another reason; see [`Error::code`].
    Server,
    /// A transaction was refused as a whole because one of its commands was.
    Aborted,
    /// The value cannot be written in the wire format.
    Encode,
    /// The stored bytes are not what the call expects.
    Decode,
    /// The server answered something that is no answer to this operation.
    Protocol,
    /// The lock was held by somebody else for longer than the call was willing to wait.
    LockTimeout,
    /// The lock was lost while work was done under it.
    LockLost,
    /// The loader failed, panicked, asked for the key that it loads, or took too long; its own error is the
    /// [`source`](std::error::Error::source).
    Load,
    /// The store, or this version of larder, cannot do this.
    Unsupported,
}

impl ErrorKind {
    /// What to do about it, said at the end of the message.
    fn advice(self) -> &'static str {
        match self {
            Self::InvalidInput | Self::Config | Self::Unsupported | Self::Load => "",
            Self::NotInitialized => "call larder::init(config).await first",
            Self::Closed => "create a new client",
            Self::Tls => "check the certificates of both sides, and the port",
            Self::Auth => "check the username and the password",
            Self::Permission => "grant the ACL user this command and key",
            Self::Timeout => "check the server's load, or raise the deadline",
            Self::Unavailable => "check that the server runs and can be reached",
            Self::Overloaded => "send less at once, or raise the budget if there is memory for it",
            Self::WrongType => "use the methods of the type that the key holds, or another key",
            Self::OutOfRange => "the value was left unchanged",
            Self::OutOfMemory => "raise the memory limit, or choose an eviction policy",
            Self::ReadOnly => "write to the primary",
            Self::Server => "see the server's log",
            Self::Aborted => "no command of the transaction was applied",
            Self::Encode => "see the wire format in docs/interop.md",
            Self::Decode => "check who wrote the key",
            Self::Protocol => "check that the other side is a Redis or Valkey server",
            Self::LockTimeout => "wait longer, or hold the lock for a shorter time",
            Self::LockLost => "check what was done before it, and take the lock again",
        }
    }

    /// The outcome that this kind has unless its maker knows better.
    fn usual_outcome(self) -> Outcome {
        match self {
            Self::InvalidInput
            | Self::Config
            | Self::NotInitialized
            | Self::Closed
            | Self::Tls
            | Self::Overloaded
            | Self::Encode
            | Self::Load
            | Self::Unsupported => Outcome::NotSent,
            Self::Auth
            | Self::Permission
            | Self::WrongType
            | Self::OutOfRange
            | Self::OutOfMemory
            | Self::ReadOnly
            | Self::Server
            | Self::Aborted
            | Self::LockTimeout => Outcome::Rejected,
            Self::LockLost | Self::Timeout | Self::Unavailable | Self::Decode | Self::Protocol => {
                Outcome::Unknown
            }
        }
    }
}

/// Whether a failed operation can have changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was never written to a connection: not applied.
    NotSent,
    /// The server refused it: not applied.
    Rejected,
    /// It was sent and no answer came, or the answer could not be read: it may have been applied.
    Unknown,
    /// An invalidation that could not be sent and is kept in this process: it is sent before the store, or the node of a
    /// cluster that it is for, is read again by this client, unless the process ends first. Only
    /// [`Namespace::invalidate`](crate::Namespace::invalidate) and [`invalidate_many`](crate::Namespace::invalidate_many) give it.
    Deferred,
}

/// The error of every larder call.
///
/// [`Display`](fmt::Display) names the operation, the key (its first part and a short hash: keys
/// can be secrets), what went wrong and what to do. It never contains a value, a password or a
/// lock token.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let cache = larder::CacheClient::memory();
/// let error = cache.get_value("").await.unwrap_err();
/// assert_eq!(error.kind(), larder::ErrorKind::InvalidInput);
/// assert_eq!(error.outcome(), larder::Outcome::NotSent);
/// assert_eq!(error.to_string(), "get_value: the key is empty");
/// # }
/// ```
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone)]
struct Repr {
    kind: ErrorKind,
    outcome: Outcome,
    op: &'static str,
    key: Option<Key>,
    detail: Cow<'static, str>,
    code: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    undecoded: Option<Bytes>,
}

impl Error {
    /// An error of `kind`. `detail` says what went wrong, in lower case and without a full stop;
    /// it must not contain values or credentials.
    pub fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Repr {
            kind,
            outcome: kind.usual_outcome(),
            op: "",
            key: None,
            detail: detail.into(),
            code: None,
            source: None,
            undecoded: None,
        }))
    }

    /// The same error with another outcome than its kind usually has.
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Names the operation, unless it is named already.
    pub fn with_op(mut self, op: &'static str) -> Self {
        if self.0.op.is_empty() {
            self.0.op = op;
        }
        self
    }

    /// Names the key, unless it is named already.
    pub fn with_key(mut self, key: &Key) -> Self {
        if self.0.key.is_none() {
            self.0.key = Some(key.clone());
        }
        self
    }

    /// Adds the server's error code (`WRONGTYPE`). Only the code: the text behind it can repeat
    /// arguments.
    pub fn with_code(mut self, code: &str) -> Self {
        self.0.code = Some(code.to_owned());
        self
    }

    /// Adds the cause. It must not print values or credentials.
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Adds a cause that others share.
    pub(crate) fn with_shared_source(mut self, source: Arc<dyn StdError + Send + Sync>) -> Self {
        self.0.source = Some(source);
        self
    }

    /// Hands back bytes that were taken out of the store and could not be decoded.
    pub(crate) fn with_undecoded(mut self, bytes: Bytes) -> Self {
        self.0.undecoded = Some(bytes);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the operation can have been applied.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// What went wrong, without the operation and the key.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The operation that failed, as the method is called (`"get_value"`).
    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// The whole key, if the operation has one. Mind that keys can be secrets.
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// The server's error code (`WRONGTYPE`, `OOM`), if the server refused.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The element that a pop took off a list and that is not text, so that nothing is lost.
    pub fn undecoded(&self) -> Option<&Bytes> {
        self.0.undecoded.as_ref()
    }

    /// The deadline passed.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }

    /// The server cannot be reached or cannot serve at the moment.
    pub fn is_unavailable(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }

    /// The stored bytes are not what the call expects.
    pub fn is_decode(&self) -> bool {
        self.0.kind == ErrorKind::Decode
    }

    /// The key holds another type than the operation works on.
    pub fn is_wrong_type(&self) -> bool {
        self.0.kind == ErrorKind::WrongType
    }

    /// An argument was refused before anything was sent.
    pub fn is_invalid_input(&self) -> bool {
        self.0.kind == ErrorKind::InvalidInput
    }

    /// The loader failed; [`loader_error`](Self::loader_error) has its own error.
    pub fn is_load(&self) -> bool {
        self.0.kind == ErrorKind::Load
    }

    /// What the loader failed with, if it is an `E`: every caller that waited for the load gets the same one.
    pub fn loader_error<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref()?.downcast_ref()
    }

    /// The lock was held by somebody else for the whole wait.
    pub fn is_lock_timeout(&self) -> bool {
        self.0.kind == ErrorKind::LockTimeout
    }

    /// The global client was used before it was initialised.
    pub fn is_not_initialized(&self) -> bool {
        self.0.kind == ErrorKind::NotInitialized
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = &*self.0;
        if !repr.op.is_empty() {
            f.write_str(repr.op)?;
            if let Some(key) = &repr.key {
                write!(f, " {key}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&repr.detail)?;
        if let Some(code) = &repr.code {
            write!(f, " ({code})")?;
        }
        let advice = repr.kind.advice();
        if !advice.is_empty() {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = &*self.0;
        let mut out = f.debug_struct("Error");
        out.field("kind", &repr.kind)
            .field("outcome", &repr.outcome)
            .field("op", &repr.op)
            .field("key", &repr.key)
            .field("detail", &repr.detail);
        if let Some(code) = &repr.code {
            out.field("code", code);
        }
        if let Some(source) = &repr.source {
            out.field("source", &format_args!("{source}"));
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// What every larder call returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
