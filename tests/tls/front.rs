//! TLS in front of a server that a test wrote down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use larder::testing::{Scripted, ScriptedServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Identity;

/// What a server says to the commands of a handshake.
pub(crate) fn handshake(args: &[Bytes]) -> Scripted {
    match &*args[0] {
        b"HELLO" => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
        b"PING" => Scripted::answer("+PONG\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    }
}

/// A server behind TLS, and what it was told.
pub(crate) struct Front {
    pub(crate) port: u16,
    came: Arc<AtomicU64>,
    heard: Arc<Mutex<Vec<Vec<Bytes>>>>,
    accepting: JoinHandle<()>,
    _server: ScriptedServer,
}

impl Front {
    /// Shows this certificate, and answers who takes it by what the script says of the connection and of the command.
    pub(crate) async fn start(
        identity: &Identity,
        script: impl Fn(u64, &[Bytes]) -> Scripted + Send + Sync + 'static,
    ) -> Self {
        let heard: Arc<Mutex<Vec<Vec<Bytes>>>> = Arc::default();
        let said = Arc::clone(&heard);
        let server = ScriptedServer::start(move |connection, args| {
            said.lock().unwrap().push(args.to_vec());
            script(connection, args)
        })
        .await;
        let acceptor = acceptor(identity);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let came = Arc::<AtomicU64>::default();
        let (count, behind) = (Arc::clone(&came), server.addr());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(acceptor.clone(), stream, behind));
            }
        });
        Self { port, came, heard, accepting, _server: server }
    }

    /// How many connections were made to it, whatever became of them.
    pub(crate) fn came(&self) -> u64 {
        self.came.load(Ordering::SeqCst)
    }

    /// The commands that it was told, each with its arguments.
    pub(crate) fn heard(&self) -> Vec<Vec<Bytes>> {
        self.heard.lock().unwrap().clone()
    }

    /// Whether it was told a command, or an argument.
    pub(crate) fn has_heard(&self, word: &str) -> bool {
        self.heard().iter().flatten().any(|arg| &**arg == word.as_bytes())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn acceptor(identity: &Identity) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn pass(acceptor: TlsAcceptor, stream: TcpStream, behind: SocketAddr) {
    // Who does not trust us ends here.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    // Nor does what comes once the server behind has gone.
    let Ok(mut behind) = TcpStream::connect(behind).await else { return };
    _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
}
