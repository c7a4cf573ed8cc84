//! As much HTTP as a load needs: one connection, one request after the other.

use std::io::Error;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection that is kept.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The body of the answer; any other status than 200 is an error.
    pub(crate) async fn request(&mut self, method: &str, path: &str) -> Result<Vec<u8>, Error> {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n");
        self.0.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        let mut status = None;
        let mut length = 0;
        loop {
            line.clear();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(Error::other("the service hung up"));
            }
            let head = line.trim_end();
            if head.is_empty() {
                break;
            }
            match head.split_once(": ") {
                None if status.is_none() => status = head.split(' ').nth(1).map(str::to_owned),
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().map_err(Error::other)?;
                }
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        match status.as_deref() {
            Some("200") => Ok(body),
            status => Err(Error::other(format!("{method} {path}: {status:?}"))),
        }
    }
}
