//! A broken network between a client and its server, in this process.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::acl;
use super::frames::Frames;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In good order, after what was sent: the other side reads an end of file.
    Fin,
    /// At once: the other side meets an error (`ECONNRESET`).
    Reset,
}

/// A command that the client sent, in the order in which the proxy read them.
#[derive(Debug, Clone)]
pub struct SentCommand {
    /// Which connection it came over, counted from 1 in the order of their arrival.
    pub connection: u64,
    /// The command and its arguments, each shortened to 1 KiB.
    pub args: Vec<Bytes>,
    /// When the proxy had read all of it.
    pub at: Instant,
    /// Whether the server had answered it with an error when the log was taken. Answers are told by their order: on a
    /// connection that subscribes, or of which commands were swallowed, they are another command's.
    pub refused: bool,
}

/// A command that was written down, and whether it was refused since.
#[derive(Debug)]
struct Noted {
    command: SentCommand,
    refused: Arc<AtomicBool>,
}

/// The commands of a connection that are not answered yet: where to note a refusal, if they were written down.
type Unanswered = Mutex<VecDeque<Option<Arc<AtomicBool>>>>;

/// A TCP proxy on loopback that breaks connections as a test wants it. All settings act at once
/// and on every connection; [`FaultProxy::to_server`] and [`FaultProxy::to_client`] have those of
/// one direction. Dropping it resets every connection.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use larder::testing::{Cut, FaultProxy, RawConnection, RedisServer};
///
/// let server = RedisServer::start().await;
/// let proxy = FaultProxy::start(server.addr()).await;
/// let mut connection = RawConnection::connect(proxy.addr()).await?;
/// proxy.cut_before_reply_of("INCR", Cut::Reset);
/// assert!(connection.command(&["INCR", "visits"]).await.is_err());
///
/// // The server has seen it all the same: this is what "outcome unknown" means.
/// let mut connection = RawConnection::connect(proxy.addr()).await?;
/// assert_eq!(connection.command(&["INCR", "visits"]).await?.int(), Some(2));
/// assert_eq!(proxy.accepts(), 2);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    to_server: Link,
    to_client: Link,
    cut: watch::Sender<Cut>,
    cut_before_reply_of: Mutex<Option<(String, Cut)>>,
    refusing: AtomicBool,
    // The connections up to this one are swallowed.
    forgotten: AtomicU64,
    logging: AtomicBool,
    log: Mutex<Vec<Noted>>,
    accepts: AtomicU64,
    open: AtomicUsize,
    cuts: AtomicU64,
}

/// One direction of a [`FaultProxy`].
#[derive(Debug)]
pub struct Link {
    controls: Mutex<Controls>,
    inject: broadcast::Sender<Bytes>,
    bytes: AtomicU64,
    frames: AtomicU64,
    swallowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Controls {
    delay: Option<Range<Duration>>,
    swallow: bool,
    swallow_pushes: bool,
    slice: Option<usize>,
    flip: Option<usize>,
    cut_after: Option<(usize, Cut)>,
}

/// What each side of a connection is to see.
struct End {
    client: Cut,
    server: Cut,
}

impl From<Cut> for End {
    fn from(cut: Cut) -> Self {
        Self { client: cut, server: cut }
    }
}

impl FaultProxy {
    /// Starts a proxy in front of `upstream`, on a free port.
    ///
    /// # Panics
    /// If no port of loopback can be opened.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("the proxy cannot open a port on loopback");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            upstream,
            to_server: Link::new(),
            to_client: Link::new(),
            cut: watch::Sender::new(Cut::Fin),
            cut_before_reply_of: Mutex::default(),
            refusing: AtomicBool::new(false),
            forgotten: AtomicU64::new(0),
            logging: AtomicBool::new(false),
            log: Mutex::default(),
            accepts: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            cuts: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(Arc::clone(&shared).accept(listener));
        Self { addr, shared, accepting }
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL for a client, of the user with the least rights if all servers have one (`LARDER_TEST_ACL`).
    pub fn url(&self) -> String {
        let login = if acl::is_asked_for() { acl::login() } else { String::new() };
        format!("redis://{login}{}", self.addr)
    }

    /// What clients send.
    pub fn to_server(&self) -> &Link {
        &self.shared.to_server
    }

    /// What the server sends.
    pub fn to_client(&self) -> &Link {
        &self.shared.to_client
    }

    /// Ends every connection now.
    pub fn cut(&self, cut: Cut) {
        self.shared.cut.send_replace(cut);
    }

    /// Ends the connection over which the next such command comes, after the command was
    /// forwarded and before its reply can be. The server's side ends in good order, so that the
    /// server reads the command.
    pub fn cut_before_reply_of(&self, command: impl Into<String>, cut: Cut) {
        *lock(&self.shared.cut_before_reply_of) = Some((command.into(), cut));
    }

    /// Swallows from now on what either side sends over the connections that are open, as a firewall does that has forgotten
    /// them: neither side hears of an end. Connections that are made later work.
    pub fn forget(&self) {
        self.shared.forgotten.store(self.accepts(), Ordering::SeqCst);
    }

    /// Whether new connections are reset as soon as they are accepted. They still count as
    /// accepted. Defaults to no.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
    }

    /// How many connections were accepted, refused ones included.
    pub fn accepts(&self) -> u64 {
        self.shared.accepts.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many connections the proxy itself ended because it was told to.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Whether the commands of clients are written down for [`FaultProxy::take_log`]. Defaults to
    /// no.
    pub fn log_commands(&self, log: bool) {
        self.shared.logging.store(log, Ordering::SeqCst);
    }

    /// Takes the commands that were written down.
    pub fn take_log(&self) -> Vec<SentCommand> {
        let log = std::mem::take(&mut *lock(&self.shared.log));
        let refused = |noted: Noted| SentCommand {
            refused: noted.refused.load(Ordering::SeqCst),
            ..noted.command
        };
        log.into_iter().map(refused).collect()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut(Cut::Reset);
    }
}

impl Link {
    fn new() -> Self {
        Self {
            controls: Mutex::default(),
            inject: broadcast::Sender::new(16),
            bytes: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        }
    }

    /// Holds back what arrives for a time drawn from `range`, in order; nothing for no delay.
    pub fn delay(&self, range: impl Into<Option<Range<Duration>>>) {
        lock(&self.controls).delay = range.into();
    }

    /// Whether bytes are read and dropped: the connection looks alive and is not. The end of the
    /// connection is not passed on either.
    pub fn swallow(&self, swallow: bool) {
        lock(&self.controls).swallow = swallow;
    }

    /// Whether pushes (RESP3) are dropped, each as a whole, and replies go on: a word of the server that is lost.
    pub fn swallow_pushes(&self, swallow: bool) {
        lock(&self.controls).swallow_pushes = swallow;
    }

    /// Writes pieces of this many bytes; nothing for as many as arrive.
    pub fn slice(&self, bytes: impl Into<Option<usize>>) {
        lock(&self.controls).slice = bytes.into();
    }

    /// Flips every bit of one byte, `after` that many more.
    pub fn flip(&self, after: usize) {
        lock(&self.controls).flip = Some(after);
    }

    /// Ends the connection that carries the byte which comes `after` that many more.
    pub fn cut_after(&self, after: usize, cut: Cut) {
        lock(&self.controls).cut_after = Some((after, cut));
    }

    /// Writes bytes into every open connection, between two reads of what the other side sends.
    pub fn inject(&self, bytes: impl Into<Bytes>) {
        // Without a connection there is no receiver, and nothing to inject into.
        let _ = self.inject.send(bytes.into());
    }

    /// How many bytes arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// How many frames (commands, replies, pushes) arrived whole.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::SeqCst)
    }

    /// How many bytes were swallowed.
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::SeqCst)
    }

    /// Takes pushes out of a piece, if they are swallowed. `inside`: whether it begins inside of a frame; `ends`: where frames
    /// end in it; `dropping`: whether the frame that it begins in is swallowed, and then the one that it ends in.
    fn drop_pushes(&self, piece: &mut Vec<u8>, inside: bool, ends: &[usize], dropping: &mut bool) {
        let swallows = lock(&self.controls).swallow_pushes;
        *dropping &= inside;
        if !swallows && !*dropping {
            return;
        }
        let (mut kept, mut from) = (Vec::new(), 0);
        for &end in ends.iter().chain([&piece.len()]) {
            let part = &piece[from..end];
            let Some(first) = part.first() else { continue };
            if from > 0 || !inside {
                *dropping = swallows && *first == b'>';
            }
            if *dropping {
                self.swallowed.fetch_add(part.len() as u64, Ordering::SeqCst);
            } else {
                kept.extend_from_slice(part);
            }
            from = end;
        }
        *piece = kept;
    }

    /// Changes a piece as the controls say, and says what to do with it.
    fn treat(&self, piece: &mut Vec<u8>, is_forgotten: bool) -> Treatment {
        let mut controls = lock(&self.controls);
        if controls.swallow || is_forgotten {
            self.swallowed.fetch_add(piece.len() as u64, Ordering::SeqCst);
            piece.clear();
            return Treatment { delay: None, slice: usize::MAX, cut: None };
        }
        if let Some(after) = controls.flip {
            controls.flip = match piece.get_mut(after) {
                Some(byte) => {
                    *byte = !*byte;
                    None
                }
                None => Some(after - piece.len()),
            };
        }
        let mut cut = None;
        if let Some((after, how)) = controls.cut_after {
            if after < piece.len() {
                piece.truncate(after);
                cut = Some(how);
                controls.cut_after = None;
            } else {
                controls.cut_after = Some((after - piece.len(), how));
            }
        }
        let delay = controls.delay.as_ref().map(|range| {
            let width = range.end.saturating_sub(range.start);
            range.start + width.mul_f64(fastrand::f64())
        });
        Treatment { delay, slice: controls.slice.unwrap_or(usize::MAX).max(1), cut }
    }

    fn swallows(&self) -> bool {
        lock(&self.controls).swallow
    }
}

struct Treatment {
    delay: Option<Duration>,
    slice: usize,
    cut: Option<Cut>,
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                // Out of file descriptors: they come back when connections end.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let connection = self.accepts.fetch_add(1, Ordering::SeqCst) + 1;
            if self.refusing.load(Ordering::SeqCst) {
                reset(&client);
                continue;
            }
            // Subscribed here, so that no cut can fall between accepting and serving.
            let cut = self.cut.subscribe();
            tokio::spawn(Arc::clone(&self).serve(client, connection, cut));
        }
    }

    async fn serve(
        self: Arc<Self>,
        mut client: TcpStream,
        connection: u64,
        mut cut: watch::Receiver<Cut>,
    ) {
        let Ok(mut server) = TcpStream::connect(self.upstream).await else {
            return reset(&client);
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        self.open.fetch_add(1, Ordering::SeqCst);
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let unanswered = Unanswered::default();
            let requests =
                self.pump(&self.to_server, from_client, to_server, connection, true, &unanswered);
            let replies =
                self.pump(&self.to_client, from_server, to_client, connection, false, &unanswered);
            tokio::select! {
                _ = cut.changed() => {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                    End::from(*cut.borrow())
                }
                end = requests => end,
                end = replies => end,
            }
        };
        self.open.fetch_sub(1, Ordering::SeqCst);
        tokio::join!(finish(client, end.client), finish(server, end.server));
    }

    /// Carries one direction of one connection: what the client sends, or what it is answered.
    async fn pump(
        &self,
        link: &Link,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        connection: u64,
        is_sent: bool,
        unanswered: &Unanswered,
    ) -> End {
        let is_forgotten = || connection <= self.forgotten.load(Ordering::SeqCst);
        let mut scanner = Frames::new(is_sent);
        let mut injected = link.inject.subscribe();
        let mut buffer = vec![0; 64 * 1024];
        let mut dropping = false;
        // Of the frame that has begun and not ended.
        let mut first = None;
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                Ok(bytes) = injected.recv() => {
                    if to.write_all(&bytes).await.is_err() {
                        return Cut::Reset.into();
                    }
                    continue;
                }
            };
            let mut piece = match read {
                Ok(len) if len > 0 => buffer[..len].to_vec(),
                ended => {
                    if link.swallows() || is_forgotten() {
                        std::future::pending::<()>().await;
                    }
                    return if ended.is_ok() { Cut::Fin } else { Cut::Reset }.into();
                }
            };
            link.bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
            let (mut end, mut ends) = (None, Vec::new());
            let inside = !scanner.is_between();
            scanner.feed(&piece, |args, at| {
                ends.push(at);
                link.frames.fetch_add(1, Ordering::SeqCst);
                if is_sent {
                    end = end.take().or(self.note(connection, args, unanswered));
                }
            });
            if !is_sent {
                let mut from = 0;
                for &end in &ends {
                    heard(first.take().unwrap_or(piece[from]), unanswered);
                    from = end;
                }
                first = first.or(piece.get(from).copied());
            }
            link.drop_pushes(&mut piece, inside, &ends, &mut dropping);
            let treatment = link.treat(&mut piece, is_forgotten());
            if let Some(delay) = treatment.delay {
                tokio::time::sleep(delay).await; // the fault itself
            }
            for part in piece.chunks(treatment.slice) {
                if to.write_all(part).await.is_err() {
                    return Cut::Reset.into();
                }
                if treatment.slice < piece.len() {
                    // Lets the other side read this part before the next is written.
                    tokio::task::yield_now().await;
                }
            }
            if let Some(end) = treatment.cut.map(End::from).or(end) {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return end;
            }
        }
    }

    /// Writes a command down, and says whether the connection has to end after it.
    fn note(&self, connection: u64, args: Vec<Bytes>, unanswered: &Unanswered) -> Option<End> {
        let mut armed = lock(&self.cut_before_reply_of);
        let end = match (&*armed, args.first()) {
            (Some((command, cut)), Some(name)) if name.eq_ignore_ascii_case(command.as_bytes()) => {
                Some(End { client: *cut, server: Cut::Fin })
            }
            _ => None,
        };
        if end.is_some() {
            *armed = None;
        }
        drop(armed);
        let mut refused = None;
        if self.logging.load(Ordering::SeqCst) {
            let refused = Arc::clone(refused.insert(Arc::default()));
            let command = SentCommand { connection, args, at: Instant::now(), refused: false };
            lock(&self.log).push(Noted { command, refused });
        }
        lock(unanswered).push_back(refused);
        end
    }
}

/// Takes an answer that begins with this byte: to the oldest command that has none, unless it is a push.
fn heard(first: u8, unanswered: &Unanswered) {
    if first == b'>' {
        return;
    }
    let command = lock(unanswered).pop_front().flatten();
    if let (b'-' | b'!', Some(refused)) = (first, command) {
        refused.store(true, Ordering::SeqCst);
    }
}

/// Makes the close that follows send a reset.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn finish(mut stream: TcpStream, cut: Cut) {
    if cut == Cut::Reset {
        return reset(&stream);
    }
    // To close a socket that has unread bytes sends a reset: read them, for a while.
    let drained = pin!(async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    });
    let _: Result<io::Result<u64>, _> = tokio::time::timeout(Duration::from_secs(1), drained).await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
