//! Opening one connection: address, socket options, handshake.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, PushKind, RedisConnectionInfo, Value};
use secrecy::ExposeSecret;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::gather::{Gather, Pulse};
use super::track::{self, Tracker, Tracking};
use super::{failure, sentinel};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::url::{Address, RedisTarget};

/// A peer that is gone without a word is noticed after about 10 s + 3 times 3 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// How many requests may wait for the connection's writer before callers wait in line. With the
/// driver's 50, 512 tasks got the same rate for 5 % more CPU time a call: 110 instead of 250
/// requests shared a write. Measured with `bench`, on 2 cores.
const WRITER_QUEUE: usize = 1024;

/// The part of a connection that moves bytes; it has to be polled for as long as the connection lives.
pub(super) type Driver = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that was opened.
pub(super) struct Dialled {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: Driver,
    pub(super) pulse: Arc<Pulse>,
    /// What it vouches for, if it tells of changes.
    pub(super) tracker: Option<Arc<Tracker>>,
    /// Where it leads, if sentinels said so.
    pub(super) found: Option<Address>,
}

/// What a connection tells besides answers.
#[derive(Clone, Copy)]
enum Told<'a> {
    Nothing,
    Changes(&'a Tracking),
    Messages(&'a Arc<Hook>),
}

impl<'a> Told<'a> {
    fn by(tracking: Option<&'a Tracking>) -> Self {
        tracking.map_or(Self::Nothing, Self::Changes)
    }
}

/// Hears what is pushed, in the order of the wire. It must not block.
type Hook = dyn Fn(&PushKind, &[Value]) + Send + Sync;

/// Connects with RESP3 and subscribes to a channel, of whose messages `hook` is told.
pub(super) async fn subscribed(
    target: &RedisTarget,
    channel: &str,
    hook: impl Fn(&PushKind, &[Value]) + Send + Sync + 'static,
) -> Result<Dialled> {
    let hook: Arc<Hook> = Arc::new(hook);
    let told = Told::Messages(&hook);
    let mut dialled = open(target, ProtocolVersion::RESP3, told).await?;
    let mut command = redis::cmd("SUBSCRIBE");
    command.arg(channel);
    exchange(&mut dialled, &command).await?;
    Ok(dialled)
}

/// Connects and shakes hands: RESP3 if the server speaks it, else RESP2.
pub(super) async fn dial(target: &RedisTarget, tracking: Option<&Tracking>) -> Result<Dialled> {
    let dialled = negotiate(target, tracking).await;
    if let Some(tracking) = tracking {
        tracking.sinks.asked(&dialled);
    }
    let mut dialled = dialled?;
    if target.is_replica {
        // Else it sends every read on to its primary.
        exchange(&mut dialled, &redis::cmd("READONLY")).await?;
    }
    Ok(dialled)
}

async fn negotiate(target: &RedisTarget, tracking: Option<&Tracking>) -> Result<Dialled> {
    match open(target, ProtocolVersion::RESP3, Told::by(tracking)).await {
        // Only RESP3 can tell of changes.
        Err(error) if tracking.is_some() && !is_final(&error) => Err(match error.kind() {
            ErrorKind::Unsupported => error,
            _ => track::refused("the server does not speak RESP3"),
        }),
        // A server or proxy that does not know HELLO says so, or answers what is no answer to it.
        Err(error) if !is_final(&error) => {
            tracing::debug!(target: "larder", "RESP3 refused, trying RESP2");
            open(target, ProtocolVersion::RESP2, Told::Nothing).await
        }
        opened => opened,
    }
}

/// Whether another protocol would meet the same.
fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Auth | ErrorKind::Unavailable | ErrorKind::Tls | ErrorKind::Config
    )
}

async fn open(target: &RedisTarget, protocol: ProtocolVersion, told: Told<'_>) -> Result<Dialled> {
    if !target.is_secured() {
        return Err(Error::new(ErrorKind::Config, "TLS is wanted, and its settings were not read"));
    }
    match &target.address {
        Address::Tcp { .. } => open_tcp(target, &target.address, protocol, told).await,
        Address::Sentinels(sentinels) => {
            // Boxed: it dials as well.
            let primary = Box::pin(sentinel::primary(sentinels)).await?;
            let mut dialled = open_tcp(target, &primary, protocol, told).await?;
            sentinel::check_role(&mut dialled, &primary).await?;
            dialled.found = Some(primary);
            Ok(dialled)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| unreachable(&target.address, error))?;
            shake_hands(target, protocol, told, stream).await
        }
    }
}

async fn open_tcp(
    target: &RedisTarget,
    address: &Address,
    protocol: ProtocolVersion,
    told: Told<'_>,
) -> Result<Dialled> {
    let Address::Tcp { host, port } = address else {
        return Err(Error::new(ErrorKind::Config, "the address is no host and port"));
    };
    let stream = TcpStream::connect((host.as_str(), *port))
        .await
        .map_err(|error| unreachable(address, error))?;
    set_options(&stream).map_err(|error| unreachable(address, error))?;
    #[cfg(feature = "tls")]
    if let Some(connector) = &target.connector {
        let stream = connector
            .config
            .connect(connector.name_of(host)?, stream)
            .await
            .map_err(|error| untrusted(address, error))?;
        return shake_hands(target, protocol, told, stream).await;
    }
    shake_hands(target, protocol, told, stream).await
}

/// Says once more who we are. Where a server's AUTH takes other arguments than ours, the driver leaves out the name and lets us
/// be whom the password alone belongs to, and takes a second refusal for a success.
async fn log_in(dialled: &mut Dialled, login: &Cmd) -> Result<()> {
    match exchange(dialled, login).await {
        Ok(Value::Okay) => Ok(()),
        // Nobody answered, or nothing that can be read.
        Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Protocol) => {
            Err(error)
        }
        Ok(_) | Err(_) => Err(failure::auth().with_outcome(Outcome::NotSent)),
    }
}

/// Sends a command over a connection whose driver nobody polls yet, and gives its answer.
///
/// # Errors
/// That it was lost, or what the server refused; nothing of a caller's was sent.
pub(super) async fn exchange(dialled: &mut Dialled, command: &Cmd) -> Result<Value> {
    let answer = std::pin::pin!(dialled.connection.send_packed_command(command));
    match select(&mut dialled.driver, answer).await {
        Either::Left(_) => {
            Err(Error::new(ErrorKind::Unavailable, "the connection was lost within the handshake"))
        }
        Either::Right((Ok(Value::ServerError(error)), _)) => Err(failure::refused(&error)),
        Either::Right((Ok(value), _)) => Ok(value),
        Either::Right((Err(error), _)) => Err(failure::handshake(&error)),
    }
    .map_err(|error| error.with_outcome(Outcome::NotSent))
}

fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

async fn shake_hands<S>(
    target: &RedisTarget,
    protocol: ProtocolVersion,
    told: Told<'_>,
    stream: S,
) -> Result<Dialled>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut info = RedisConnectionInfo::default()
        .set_db(target.db)
        .set_protocol(protocol)
        .set_lib_name("larder", env!("CARGO_PKG_VERSION"));
    let asked = match &target.credentials {
        Some(provider) => Some(provider.ask().await?),
        None => None,
    };
    let (username, password) = match &asked {
        Some(asked) => (asked.username.as_ref(), Some(&asked.password)),
        None => (target.username.as_ref(), target.password.as_ref()),
    };
    if let Some(username) = username {
        info = info.set_username(username);
    }
    if let Some(password) = password {
        info = info.set_password(password.expose_secret());
    }
    // The driver's own timeouts are off: one deadline is kept, above.
    let mut config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(WRITER_QUEUE);
    let tracker = match told {
        Told::Nothing => None,
        Told::Changes(tracking) => {
            let tracker = Arc::new(Tracker::new(Arc::clone(&tracking.sinks)));
            let told = Arc::clone(&tracker);
            config = config.set_push_sender(move |info| {
                told.pushed(&info);
                Ok::<(), ()>(())
            });
            Some(tracker)
        }
        Told::Messages(hook) => {
            let hook = Arc::clone(hook);
            config = config.set_push_sender(move |info: redis::PushInfo| {
                hook(&info.kind, &info.data);
                Ok::<(), ()>(())
            });
            None
        }
    };
    let pulse = Arc::new(Pulse::new(Arc::clone(&target.backlog)));
    let stream = Gather::new(stream, Arc::clone(&pulse));
    match MultiplexedConnection::new_with_config(&info, stream, config).await {
        Ok((mut connection, driver)) => {
            let mut driver: Driver = Box::pin(driver);
            if let Told::Changes(tracking) = told {
                // Published only after that: what is read before is not tracked.
                track::switch_on(tracking, &mut connection, &mut driver).await?;
            }
            let mut dialled = Dialled { connection, driver, pulse, tracker, found: None };
            if let (ProtocolVersion::RESP2, Some(password)) = (protocol, password) {
                let login = redis::cmd("AUTH").arg(username).arg(password.expose_secret()).take();
                log_in(&mut dialled, &login).await?;
            }
            Ok(dialled)
        }
        Err(error) if failure::is_wrong_database(&error) => Err(Error::new(
            ErrorKind::Config,
            format!(
                "the server refused database {}; check the number, and that the user may SELECT",
                target.db
            ),
        )),
        Err(error) => Err(failure::handshake(&error)),
    }
}

/// The TLS handshake failed: the other side is not whom we trust, does not speak TLS, or is gone. Nothing was sent that
/// is a secret.
#[cfg(feature = "tls")]
fn untrusted(address: &Address, error: std::io::Error) -> Error {
    use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as Tls};

    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        // Not of TLS: the connection was lost.
        None => return unreachable(address, error),
        Some(Tls::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::UnknownIssuer => "its certificate is by nobody whom we trust",
            CertificateError::Revoked => "its certificate was revoked",
            _ => "its certificate is not good",
        },
        Some(Tls::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA,
        )) => "it refuses us; it may want a certificate of ours",
        Some(Tls::InvalidMessage(_)) => "it does not speak TLS; check the port",
        Some(_) => "the TLS handshake failed",
    };
    Error::new(ErrorKind::Tls, format!("{address} is not to be trusted: {why}"))
        .with_outcome(Outcome::NotSent)
}

fn unreachable(address: &Address, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot connect to {address}: {}", error.kind()))
        .with_outcome(Outcome::NotSent)
        .with_source(error)
}
