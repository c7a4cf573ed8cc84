//! Running the built command as a shell would.

#![allow(dead_code, reason = "each test file uses its share")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// The command, in a clean environment and in a directory without a `.env`.
pub(crate) fn larder(args: &[&str]) -> Command {
    // Whoever runs the tests may have been started with signals ignored, as a job in the background is.
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_larder")]);
    command.args(args).current_dir(env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    for name in
        ["URL", "HOST", "PORT", "USERNAME", "PASSWORD", "DB", "MAX_CONNECTIONS", "DEADLINE_MS"]
    {
        command.env_remove(format!("REDIS_{name}"));
    }
    command
}

/// What a run of the command came to.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        command.output().expect("the built command starts").into()
    }

    /// Runs a command to its end, with something to read.
    pub(crate) fn fed(command: &mut Command, input: &[u8]) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built command starts");
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Checks the exit code and the output, and that nothing was complained about.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, out: &str) {
        assert_eq!((self.code, self.out.as_str(), self.err.as_str()), (code, out, ""));
    }

    /// Checks that it worked, and complained about nothing.
    #[track_caller]
    pub(crate) fn code_is_zero(&self) {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
    }

    /// Checks that it failed with exit code 2, said nothing but one line of error, and that this has each of
    /// `parts` in it.
    #[track_caller]
    pub(crate) fn fails_with(&self, parts: &[&str]) {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{self:?}");
        assert!(self.err.starts_with("larder: ") && self.err.lines().count() == 1, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part} is missing in {self:?}");
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).expect("the output is text"),
            err: String::from_utf8(output.stderr).expect("the errors are text"),
        }
    }
}
