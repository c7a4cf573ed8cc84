//! Is anybody there? A connection that is quiet is asked, so that one whose peer is gone without a word is left.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::gather::Pulse;
use crate::store::url::UrlOptions;

/// How patient the connections to a server are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long one attempt to connect may take, with the handshake.
    pub(crate) connect: Duration,
    /// For how long nothing may arrive before the peer is asked.
    pub(crate) ping_interval: Duration,
    /// How long it may take to answer.
    pub(crate) ping_timeout: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            // Their sum is for how long what is near may be older than it is told to be, when a peer goes without a word,
            // so both are short. A PING costs a server some microseconds: a thousand idle clients are 2,000 a
            // second.
            ping_interval: Duration::from_secs(1),
            // Longer than most commands keep a server busy, and no call with the default deadline waits longer.
            ping_timeout: Duration::from_secs(1),
        }
    }
}

impl Patience {
    /// What a URL says, and what it does not say by default.
    pub(crate) fn of(options: &UrlOptions) -> Self {
        let default = Self::default();
        Self {
            connect: options.connect_timeout.unwrap_or(default.connect),
            ping_interval: options.ping_interval.unwrap_or(default.ping_interval),
            ping_timeout: options.ping_timeout.unwrap_or(default.ping_timeout),
        }
    }

    /// Ends when a peer was silent: nothing arrived for the interval, and nothing within the timeout after it was asked,
    /// not even a part of an answer. One that answers calls is not asked. Ends as well when it answers something else.
    pub(super) async fn silent(self, connection: MultiplexedConnection, pulse: &Pulse) {
        let ping = redis::cmd("PING");
        loop {
            let due = later(pulse.heard(), self.ping_interval);
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            let asked = Instant::now();
            let mut connection = connection.clone();
            let mut answer = std::pin::pin!(connection.send_packed_command(&ping));
            let answer = loop {
                let end = later(asked.max(pulse.heard()), self.ping_timeout);
                match timeout_at(end, answer.as_mut()).await {
                    Ok(answer) => break answer,
                    Err(_) if later(pulse.heard(), self.ping_timeout) <= Instant::now() => return,
                    Err(_) => {}
                }
            };
            // Else it was the driver that answered: the connection is over.
            if pulse.heard() < asked || answer.is_ok_and(|answer| !fits(&answer)) {
                return;
            }
            pulse.answer_ping();
        }
    }

    /// Ends when a PING was not answered in time, or by something else, whatever arrives besides: for a connection on which
    /// what is told behind an answer that never ends would never come.
    pub(super) async fn unanswered(self, connection: MultiplexedConnection) {
        let ping = redis::cmd("PING");
        loop {
            sleep(self.ping_interval).await;
            let mut connection = connection.clone();
            let answer = connection.send_packed_command(&ping);
            if !matches!(timeout(self.ping_timeout, answer).await, Ok(Ok(answer)) if fits(&answer))
            {
                return;
            }
        }
    }
}

/// Whether a PING can have been answered so. On a connection where it was not, somebody said more than was asked for, and each
/// answer is that to another call.
fn fits(answer: &Value) -> bool {
    match answer {
        Value::SimpleString(text) => text == "PONG",
        Value::BulkString(text) => text == b"PONG",
        // It is busy, or forbids to ask.
        Value::ServerError(_) => true,
        _ => false,
    }
}

/// A moment that the clock cannot say is none that anybody waits for: in a year it is looked at again.
fn later(moment: Instant, time: Duration) -> Instant {
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    moment.checked_add(time).unwrap_or_else(|| moment + A_YEAR)
}
