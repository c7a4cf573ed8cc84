//! A command of somebody else's: how it is started, told of signals, and stopped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::pending;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, kill_process, kill_process_group};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

/// Where the command finds the fencing token.
const TOKEN: &str = "LARDER_FENCING_TOKEN";

/// A command under way.
pub(crate) struct Running {
    child: Child,
    pid: Pid,
    // Whether everything that it starts can be told at once.
    group: bool,
}

impl Running {
    /// Starts a command with the streams of this one.
    ///
    /// At a terminal, in the foreground, it stays in this program's process group: it may read from the terminal, which
    /// sends Ctrl-C and Ctrl-\ to both. Else it gets a group of its own, so that all that it started is told and stopped
    /// with it.
    pub(crate) fn start(command: &[OsString], token: Option<u64>) -> io::Result<Self> {
        let [program, args @ ..] = command else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no command"));
        };
        let group = !in_foreground();
        let mut command = Command::new(program);
        command.args(args).env_remove(TOKEN);
        if let Some(token) = token {
            command.env(TOKEN, token.to_string());
        }
        if group {
            command.process_group(0);
        }
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok(Self { child, pid, group })
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Hands a signal on that this program got.
    pub(crate) fn forward(&self, signal: Signal) {
        let from_terminal = matches!(signal, Signal::INT | Signal::QUIT);
        // The terminal sent it to the command as well: twice, it would say something else to many programs.
        if from_terminal && !self.group && in_foreground() {
            return;
        }
        self.send(signal);
    }

    /// Ends it: asks, and insists after the grace. What is left of its group is killed then.
    pub(crate) async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.send(Signal::TERM);
        let ended = tokio::time::timeout(grace, self.ended()).await;
        // Its group may go on without it.
        if self.group || ended.is_err() {
            self.send(Signal::KILL);
        }
        match ended {
            Ok(status) => status,
            Err(_) => self.ended().await,
        }
    }

    fn send(&self, signal: Signal) {
        // Whoever has ended already is not to be told.
        _ = if self.group {
            kill_process_group(self.pid, signal)
        } else if self.child.id().is_some() {
            kill_process(self.pid, signal)
        } else {
            Ok(())
        };
    }
}

/// Whether this program is in the foreground of a terminal.
fn in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// The exit code that says how a command ended, as shells have it: its own, or 128 and the signal that ended it.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::ERROR)
}

/// The signals that are handed on.
const HANDED_ON: [(Signal, SignalKind); 4] = [
    (Signal::INT, SignalKind::interrupt()),
    (Signal::TERM, SignalKind::terminate()),
    (Signal::HUP, SignalKind::hangup()),
    (Signal::QUIT, SignalKind::quit()),
];

/// What this program is told. From when this is made, none of these signals ends it.
pub(crate) struct Signals([Option<unix::Signal>; 4]);

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let mut signals = [const { None }; 4];
        for (slot, (signal, kind)) in signals.iter_mut().zip(HANDED_ON) {
            // What was ignored stays ignored, in the command too: `nohup` and the shell's `&` rely on it.
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                *slot = Some(unix::signal(kind)?);
            }
        }
        Ok(Self(signals))
    }

    /// The next one that comes.
    pub(crate) async fn next(&mut self) -> Signal {
        async fn one(signal: &mut Option<unix::Signal>) {
            let told = match signal {
                Some(signal) => signal.recv().await,
                None => None,
            };
            if told.is_none() {
                pending().await
            }
        }
        let [interrupt, terminate, hang_up, quit] = &mut self.0;
        tokio::select! {
            () = one(terminate) => Signal::TERM,
            () = one(hang_up) => Signal::HUP,
            () = one(interrupt) => Signal::INT,
            () = one(quit) => Signal::QUIT,
        }
    }
}

/// The signals that this program was started to ignore, the first in the lowest bit. Known on Linux; elsewhere none.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
