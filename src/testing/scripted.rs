//! A server that answers what a test wrote down, for replies that no real server gives on demand.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::frames::Frames;

/// What a [`ScriptedServer`] does with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scripted {
    /// Sends these bytes, whatever they are.
    Answer(Bytes),
    /// Sends nothing.
    Silence,
    /// Closes the connection, after the answers that were given before.
    Close,
}

impl Scripted {
    /// Sends these bytes.
    pub fn answer(bytes: impl Into<Bytes>) -> Self {
        Self::Answer(bytes.into())
    }
}

type Script = dyn Fn(u64, &[Bytes]) -> Scripted + Send + Sync;

/// A server whose every answer is decided by a function of the connection (counted from 1) and of
/// the command with its arguments (each shortened to 1 KiB).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use larder::testing::{RawConnection, Scripted, ScriptedServer};
///
/// let server = ScriptedServer::start(|_, args| match &*args[0] {
///     b"GET" => Scripted::answer("-LOADING the dataset is being loaded\r\n"),
///     _ => Scripted::answer("+OK\r\n"),
/// })
/// .await;
/// let mut connection = RawConnection::connect(server.addr()).await?;
/// assert!(connection.command(&["GET", "a"]).await?.is_error());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ScriptedServer {
    addr: SocketAddr,
    accepts: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl ScriptedServer {
    /// Starts it on a free port of loopback.
    ///
    /// # Panics
    /// If no port can be opened.
    pub async fn start(script: impl Fn(u64, &[Bytes]) -> Scripted + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("the scripted server cannot open a port on loopback");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let accepts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&accepts);
        let script: Arc<Script> = Arc::new(script);
        let accepting = tokio::spawn(async move {
            // Held here, so that its connections end with the server.
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let connection = counted.fetch_add(1, Ordering::SeqCst) + 1;
                serving.spawn(serve(stream, connection, Arc::clone(&script)));
            }
        });
        Self { addr, accepts, accepting }
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL for a client.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// How many connections were accepted.
    pub fn accepts(&self) -> u64 {
        self.accepts.load(Ordering::SeqCst)
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, connection: u64, script: Arc<Script>) {
    let mut scanner = Frames::new(true);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(len @ 1..) = stream.read(&mut buffer).await else { return };
        let mut commands = Vec::new();
        scanner.feed(&buffer[..len], |args, _| commands.push(args));
        let mut answers = Vec::new();
        let mut closes = false;
        for args in commands {
            match script(connection, &args) {
                Scripted::Answer(bytes) => answers.extend_from_slice(&bytes),
                Scripted::Silence => {}
                Scripted::Close => {
                    closes = true;
                    break;
                }
            }
        }
        if stream.write_all(&answers).await.is_err() || closes {
            return;
        }
    }
}
