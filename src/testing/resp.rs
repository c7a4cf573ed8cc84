//! A RESP2 client of a hundred lines: what tests look at a server with, beside larder.

use std::fmt;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

/// A reply as the server sent it. Its `Display` prints contents: it is for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resp {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`, without the dash.
    Error(String),
    /// `:1`
    Int(i64),
    /// `$3`
    Bulk(Bytes),
    /// `$-1` or `*-1`
    Nil,
    /// `*2`
    Array(Vec<Resp>),
}

impl Resp {
    /// The text of a simple or bulk string, or of an error; nothing for other kinds.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) | Self::Error(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The number of an integer reply; nothing for other kinds.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of an array; none for other kinds.
    pub fn items(&self) -> &[Resp] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// Whether the server refused.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl fmt::Display for Resp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Nil => f.write_str("nil"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            _ => f.write_str(&self.text().unwrap_or_default()),
        }
    }
}

/// A connection that sends commands and reads RESP2 replies, one at a time.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    read: BytesMut,
}

impl RawConnection {
    /// Connects; no handshake.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: BytesMut::new() })
    }

    /// Sends a command and waits for its reply, without a time limit.
    ///
    /// # Errors
    /// When the connection ends, or the other side does not speak RESP2.
    pub async fn command(&mut self, args: &[impl AsRef<[u8]>]) -> io::Result<Resp> {
        self.send(args).await?;
        self.reply().await
    }

    /// Sends a command and does not wait.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn send(&mut self, args: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&request).await
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// As [`RawConnection::command`].
    pub fn reply(&mut self) -> BoxFuture<'_, io::Result<Resp>> {
        Box::pin(async move {
            let line = self.line().await?;
            let (kind, rest) = (line.first().copied(), line.get(1..).unwrap_or_default());
            let text = || String::from_utf8_lossy(rest).into_owned();
            let number = || {
                text().parse::<i64>().map_err(|_| broken("the server sent no number in a reply"))
            };
            match kind {
                Some(b'+') => Ok(Resp::Simple(text())),
                Some(b'-') => Ok(Resp::Error(text())),
                Some(b':') => Ok(Resp::Int(number()?)),
                Some(b'$' | b'*') if number()? < 0 => Ok(Resp::Nil),
                Some(b'$') => {
                    let len = number()?.unsigned_abs() as usize;
                    self.fill(len + 2).await?;
                    let bytes = self.read.split_to(len).freeze();
                    self.read.advance(2);
                    Ok(Resp::Bulk(bytes))
                }
                Some(b'*') => {
                    let mut items = Vec::new();
                    for _ in 0..number()? {
                        items.push(self.reply().await?);
                    }
                    Ok(Resp::Array(items))
                }
                _ => Err(broken("the server does not speak RESP2")),
            }
        })
    }

    async fn line(&mut self) -> io::Result<Bytes> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.read[searched..].windows(2).position(|two| two == b"\r\n") {
                let line = self.read.split_to(searched + at).freeze();
                self.read.advance(2);
                return Ok(line);
            }
            searched = self.read.len().saturating_sub(1);
            self.fill(self.read.len() + 1).await?;
        }
    }

    async fn fill(&mut self, len: usize) -> io::Result<()> {
        while self.read.len() < len {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
