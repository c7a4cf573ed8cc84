//! Real servers: started for one test, stopped with it.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;

use super::acl;
use super::resp::{RawConnection, Resp};
use crate::key::SLOTS;

/// How long a server may take to answer; generous, for machines that run many tests at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a state that announces itself nowhere is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Waits for a state that servers announce nowhere.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await; // polled: no event tells of it
    }
}

/// Below the range from which Linux takes the ports of outgoing connections, so that the port of
/// a killed server is still free when it is restarted.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A `redis-server` of its own for a test: free port, own directory, no persistence unless asked
/// for. Dropping it stops the server and removes the directory.
///
/// The binary is `redis-server` from the `PATH`, or what `LARDER_REDIS_SERVER` names
/// (`valkey-server`).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use larder::testing::RedisServer;
///
/// let server = RedisServer::start().await;
/// server.command(&["SET", "greeting", "hello"]).await;
/// let reply = server.command(&["GET", "greeting"]).await;
/// assert_eq!(reply.text().as_deref(), Some("hello"));
/// # }
/// ```
#[derive(Debug)]
pub struct RedisServer {
    config: RedisServerBuilder,
    port: u16,
    // Zero unless it speaks TLS.
    tls_port: u16,
    // On which the nodes of a cluster speak to each other.
    bus_port: u16,
    // The port that a node of a cluster tells of, if that is another one.
    announced: Option<u16>,
    dir: PathBuf,
    // Empty between `kill` and `restart`.
    child: Option<Child>,
}

/// How a [`RedisServer`] is to be started.
#[derive(Clone, Default)]
pub struct RedisServerBuilder {
    args: Vec<String>,
    password: Option<String>,
    unix_socket: bool,
    cluster: bool,
    // Of a cluster that somebody else puts together.
    member: bool,
    tls: Option<TlsFiles>,
    // Of a user with the least rights: the patterns of its keys.
    least: Option<Vec<String>>,
    // Of a sentinel: the name and the port of the primary that it watches, and how many have to agree.
    watches: Option<(String, u16, usize)>,
}

/// The texts of the files that a server needs for TLS, in PEM.
#[derive(Clone)]
struct TlsFiles {
    certificate: String,
    key: String,
    clients: Option<String>,
}

impl std::fmt::Debug for RedisServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisServerBuilder")
            .field("args", &self.args)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("unix_socket", &self.unix_socket)
            .field("cluster", &self.cluster)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl RedisServerBuilder {
    /// Adds an argument of the command line, as in `.arg("--appendonly").arg("yes")`; later ones
    /// win. Defaults to none beyond those that switch persistence off.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The password of the default user. Defaults to none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Listens on a Unix socket as well, and [`RedisServer::url`] names that one. Defaults to no.
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// A cluster of one node that holds all slots. Defaults to no.
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// A node of a cluster, without slots.
    pub(super) fn member(mut self) -> Self {
        self.cluster = true;
        self.member = true;
        self
    }

    /// Whether it is to speak TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Speaks TLS on a second port, with this certificate and key in PEM; from clients it wants a certificate by
    /// `clients`, if that is given. Nodes of a cluster and sentinels speak it among each other as well, and trust the
    /// certificates by `clients`. Defaults to no.
    pub fn tls(
        mut self,
        certificate: impl Into<String>,
        key: impl Into<String>,
        clients: Option<String>,
    ) -> Self {
        self.tls = Some(TlsFiles { certificate: certificate.into(), key: key.into(), clients });
        self
    }

    /// [`RedisServer::url`] is that of a user who has [the least rights](super::LEAST_PRIVILEGE) that larder needs, and the
    /// keys of these patterns (`~user:*`); what such a user was refused fails the test when the server is dropped. The
    /// test's own connections stay the default user's. Defaults to none, unless the variable `LARDER_TEST_ACL` is set:
    /// then every server has one, for all keys.
    pub fn least_privilege<'k>(mut self, keys: impl IntoIterator<Item = &'k str>) -> Self {
        self.least = Some(keys.into_iter().map(str::to_owned).collect());
        self
    }

    /// A sentinel that watches the primary at `port` of this machine under a name, and begins a failover when `quorum`
    /// sentinels have not seen it for half a second. Defaults to no.
    pub fn sentinel(mut self, name: impl Into<String>, port: u16, quorum: usize) -> Self {
        self.watches = Some((name.into(), port, quorum));
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// If there is no `redis-server`, or if it does not answer within half a minute.
    pub async fn start(mut self) -> RedisServer {
        if self.watches.is_none() && acl::is_asked_for() {
            self.least.get_or_insert_with(|| vec!["~*".to_owned()]);
        }
        let name = format!("larder-test-{}", uuid::Uuid::now_v7().simple());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("the directory for temporary files is not writable");
        let mut server = RedisServer {
            config: self,
            port: 0,
            tls_port: 0,
            bus_port: 0,
            announced: None,
            dir,
            child: None,
        };
        let end = Instant::now() + PATIENCE;
        loop {
            server.port = free_port();
            // The usual one, 10,000 above, may be taken; older servers know no other.
            server.bus_port = if is_redis_7() { free_port() } else { server.port + 10_000 };
            if server.config.tls.is_some() {
                server.tls_port = free_port();
            }
            server.spawn();
            if server.answers(end).await {
                break;
            }
            _ = fs::remove_file(server.dir.join("sentinel.conf"));
            assert!(Instant::now() < end, "redis-server did not start: {}", server.log());
        }
        if server.is_whole_cluster() {
            server.take_slots(0..SLOTS).await;
            server.cluster_is_ok(end).await;
        }
        server
    }
}

impl RedisServer {
    /// Starts a server with the defaults.
    ///
    /// # Panics
    /// As [`RedisServerBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Sets up a server.
    pub fn builder() -> RedisServerBuilder {
        RedisServerBuilder::default()
    }

    /// The URL for a client, with the password if there is one, or of the user with the least rights.
    pub fn url(&self) -> String {
        let login = match &self.config.password {
            _ if self.config.least.is_some() => acl::login(),
            Some(password) => format!(":{}@", utf8_percent_encode(password, NON_ALPHANUMERIC)),
            None => String::new(),
        };
        if self.config.unix_socket {
            format!("redis+unix://{login}{}", self.socket().display())
        } else if self.config.cluster {
            format!("redis+cluster://{login}127.0.0.1:{}", self.port)
        } else {
            format!("redis://{login}127.0.0.1:{}", self.port)
        }
    }

    /// The URL for a client that speaks TLS.
    ///
    /// # Panics
    /// If the server does not.
    pub fn tls_url(&self) -> String {
        assert_ne!(self.tls_port, 0, "this server does not speak TLS");
        self.url()
            .replace("redis://", "rediss://")
            .replace(&format!(":{}", self.port), &format!(":{}", self.tls_port))
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port on which it speaks TLS, if it does.
    pub fn tls_port(&self) -> Option<u16> {
        (self.tls_port != 0).then_some(self.tls_port)
    }

    /// The TCP address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The directory in which it runs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id.
    ///
    /// # Panics
    /// If the server was killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was killed; restart it first").id()
    }

    /// A connection of the test's own, logged in. Unbounded: a paused server answers nothing.
    ///
    /// # Panics
    /// If the server cannot be reached.
    pub async fn connect(&self) -> RawConnection {
        self.try_connect().await.expect("the test's server cannot be reached")
    }

    /// Sends one command over a connection of its own and gives back the reply as it is.
    ///
    /// # Panics
    /// If the server cannot be reached or does not answer within half a minute.
    pub async fn command(&self, args: &[impl AsRef<[u8]>]) -> Resp {
        let exchange = async { self.try_connect().await?.command(args).await };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("the test's server broke the connection: {error}"),
            Err(_) => panic!("the test's server did not answer within {PATIENCE:?}"),
        }
    }

    /// One number or word of `INFO`, as in `server.info("connected_clients")`.
    ///
    /// # Panics
    /// As [`RedisServer::command`], and if there is no such field.
    pub async fn info(&self, field: &str) -> String {
        let info = self.command(&["INFO", "everything"]).await.text().unwrap_or_default();
        field_of(&info, field).unwrap_or_else(|| panic!("INFO has no field {field}")).to_owned()
    }

    /// Stops the process (SIGSTOP): connections stay, nothing is answered.
    ///
    /// # Panics
    /// If the server was killed, or did not stop. Linux only.
    pub async fn pause(&self) {
        self.signal("STOP", |state| state == 'T').await;
    }

    /// Lets a stopped process go on (SIGCONT).
    ///
    /// # Panics
    /// As [`RedisServer::pause`].
    pub async fn resume(&self) {
        self.signal("CONT", |state| state != 'T').await;
    }

    /// Ends the process at once (SIGKILL); what was not on disk is gone.
    ///
    /// # Panics
    /// If it was killed before.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the server was killed before");
        child.kill().expect("the server's process cannot be killed");
        while child.try_wait().expect("the server's process cannot be waited for").is_none() {
            tokio::time::sleep(LOOK).await; // the end of a process is polled
        }
    }

    /// Starts the server again, on the same port and with the same directory; a running one is
    /// killed first.
    ///
    /// # Panics
    /// If it does not answer within half a minute.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.kill().await;
        }
        let end = Instant::now() + PATIENCE;
        self.spawn();
        assert!(self.answers(end).await, "redis-server did not start again: {}", self.log());
        if self.is_whole_cluster() {
            self.cluster_is_ok(end).await;
        }
    }

    /// The port on which the nodes of a cluster speak to each other.
    pub(super) fn bus_port(&self) -> u16 {
        self.bus_port
    }

    /// The port that clients are told of.
    pub(super) fn told_port(&self) -> u16 {
        self.announced.unwrap_or(self.port)
    }

    /// Tells clients of another port than its own, now and when it is started again.
    pub(super) async fn announce(&mut self, port: u16) {
        self.announced = Some(port);
        if !is_redis_7() {
            // It tells the other nodes at once, and its clients after a start.
            self.restart().await;
            return;
        }
        let args = ["CONFIG", "SET", "cluster-announce-port", &port.to_string()];
        let reply = self.command(&args).await;
        assert!(!reply.is_error(), "the port could not be announced: {reply}");
    }

    /// Whether the process runs.
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    fn is_whole_cluster(&self) -> bool {
        self.config.cluster && !self.config.member
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// Makes it serve slots. One by one: ranges are younger than Redis 6.2.
    pub(super) async fn take_slots(&self, slots: std::ops::Range<usize>) {
        let mut command = vec!["CLUSTER".to_owned(), "ADDSLOTS".to_owned()];
        command.extend(slots.map(|slot| slot.to_string()));
        let reply = self.command(&command).await;
        assert!(!reply.is_error(), "the slots could not be assigned: {reply}");
    }

    fn spawn(&mut self) {
        let binary = binary();
        let mut command = Command::new(&binary);
        if self.config.watches.is_some() {
            // A sentinel writes what it learns into its file, which therefore outlives a restart.
            command.arg(self.sentinel_file()).arg("--sentinel");
            self.start_process(command, &binary);
            return;
        }
        // The directory first: older servers open their log where they are.
        command.arg("--dir").arg(&self.dir);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--logfile", "redis.log"]);
        if let Some(password) = &self.config.password {
            command.args(["--requirepass", password]);
        }
        if self.config.unix_socket {
            command.arg("--unixsocket").arg(self.socket());
        }
        if self.config.cluster {
            command.args(["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]);
            if is_redis_7() {
                command.args(["--cluster-port", &self.bus_port.to_string()]);
            }
            if let Some(port) = self.announced {
                command.args(["--cluster-announce-port", &port.to_string()]);
            }
        }
        for (name, value) in self.tls_settings() {
            command.arg(format!("--{name}")).arg(value);
        }
        command.args(&self.config.args);
        if let Some(keys) = &self.config.least {
            command.args(acl::arguments(keys));
        }
        self.start_process(command, &binary);
    }

    /// Its settings of TLS, whose files are written.
    fn tls_settings(&self) -> Vec<(&'static str, String)> {
        let Some(tls) = &self.config.tls else { return Vec::new() };
        let file = |name: &str, text: &str| {
            let path = self.dir.join(name);
            fs::write(&path, text).expect("the server's directory is writable");
            path.display().to_string()
        };
        let wanted = if tls.clients.is_some() { "yes" } else { "no" };
        let clients = tls.clients.as_ref().unwrap_or(&tls.certificate);
        vec![
            ("tls-port", self.tls_port.to_string()),
            ("tls-auth-clients", wanted.to_owned()),
            ("tls-cert-file", file("server.pem", &tls.certificate)),
            ("tls-key-file", file("server.key", &tls.key)),
            ("tls-ca-cert-file", file("clients.pem", clients)),
        ]
    }

    /// What stands before the host in the URL of a node.
    pub(super) fn login(&self) -> String {
        if self.config.least.is_some() { acl::login() } else { String::new() }
    }

    fn sentinel_file(&self) -> PathBuf {
        let path = self.dir.join("sentinel.conf");
        if let (Some((name, watched, quorum)), false) = (&self.config.watches, path.exists()) {
            let mut lines = vec![
                format!("bind 127.0.0.1\nport {}", self.port),
                format!("dir {}\nlogfile redis.log", self.dir.display()),
                format!("sentinel monitor {name} 127.0.0.1 {watched} {quorum}"),
                format!("sentinel down-after-milliseconds {name} 500"),
                format!("sentinel failover-timeout {name} 3000"),
                format!("sentinel parallel-syncs {name} 1\n"),
            ];
            if self.config.tls.is_some() {
                let settings = self.tls_settings().into_iter();
                let settings = settings.map(|(name, value)| format!("{name} {value}"));
                // To the servers and to the other sentinels, too.
                lines.splice(0..0, settings.chain(["tls-replication yes".to_owned()]));
            }
            fs::write(&path, lines.join("\n")).expect("the server's directory is writable");
        }
        path
    }

    fn start_process(&mut self, mut command: Command, binary: &std::ffi::OsStr) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{} cannot be started ({error}); install it (apt-get install redis-server, \
                 brew install redis) or set LARDER_REDIS_SERVER to its path",
                binary.display()
            )
        });
        self.child = Some(child);
    }

    /// Whether our process answers before it ends: another server may have been given the port.
    async fn answers(&mut self, end: Instant) -> bool {
        while Instant::now() < end {
            let child = self.child.as_mut().expect("the process was just started");
            if child.try_wait().expect("the server's process cannot be waited for").is_some() {
                return false;
            }
            if self.process_id().await == Some(self.pid()) {
                return true;
            }
            tokio::time::sleep(LOOK).await; // a port that opens does not announce itself
        }
        false
    }

    /// The id of the process that answers `PING` with `PONG` at our address.
    async fn process_id(&self) -> Option<u32> {
        let exchange = async {
            let mut connection = self.try_connect().await.ok()?;
            let pong = connection.command(&["PING"]).await.ok()?;
            let info = connection.command(&["INFO", "server"]).await.ok()?.text()?;
            let id = field_of(&info, "process_id")?.parse().ok()?;
            (pong == Resp::Simple("PONG".into())).then_some(id)
        };
        tokio::time::timeout(Duration::from_secs(2), exchange).await.ok().flatten()
    }

    async fn try_connect(&self) -> std::io::Result<RawConnection> {
        let mut connection = RawConnection::connect(self.addr()).await?;
        if let Some(password) = &self.config.password {
            connection.command(&["AUTH", password]).await?;
        }
        Ok(connection)
    }

    async fn cluster_is_ok(&self, end: Instant) {
        loop {
            let info = self.command(&["CLUSTER", "INFO"]).await.text().unwrap_or_default();
            if field_of(&info, "cluster_state") == Some("ok") {
                return;
            }
            assert!(Instant::now() < end, "the cluster did not form: {info}");
            tokio::time::sleep(LOOK).await; // a cluster that forms does not announce itself
        }
    }

    async fn signal(&self, signal: &str, reached: impl Fn(char) -> bool) {
        let pid = self.pid();
        let sent = tokio::process::Command::new("sh")
            .args(["-c", &format!("kill -{signal} {pid}")])
            .status()
            .await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} could not be sent");
        let end = Instant::now() + PATIENCE;
        while !process_state(pid).is_some_and(&reached) {
            assert!(Instant::now() < end, "SIG{signal} had no effect");
            tokio::time::sleep(LOOK).await; // the state of a process is polled
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("redis.log")).unwrap_or_else(|_| "it wrote no log".into())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let looks = self.config.least.is_some() && self.child.is_some();
        let refused = if looks && !std::thread::panicking() {
            acl::refusals(self.addr(), self.config.password.as_deref())
        } else {
            Vec::new()
        };
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
        assert!(refused.is_empty(), "the least rights are not enough: {refused:?} was refused");
    }
}

/// What is started.
fn binary() -> OsString {
    std::env::var_os("LARDER_REDIS_SERVER").unwrap_or("redis-server".into())
}

/// Whether it is Redis 7 or later, or Valkey: the port on which the nodes of a cluster speak to each other can be chosen there, and
/// the one that clients are told of can be changed while it runs.
fn is_redis_7() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let said = Command::new(binary()).arg("--version").output();
        let said = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        let major = said
            .ok()
            .and_then(|said| said.split_once("v=")?.1.split('.').next()?.parse::<u32>().ok());
        // One that does not start is complained about elsewhere.
        major.is_none_or(|major| major >= 7)
    });
    *HAS
}

/// A port that nobody listens on at the moment.
fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The letter that the kernel has for the state of a process: `T` for a stopped one.
fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets before it and may itself contain some.
    stat.rsplit_once(") ")?.1.chars().next()
}

pub(super) fn field_of<'a>(info: &'a str, field: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
}
