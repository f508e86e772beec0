//! Runs the programs that do storage's work: Ceph's, open-iscsi's, QEMU's. Arguments, which every user of the host can read,
//! never hold a secret; a program that needs one gets it in its environment, by a pipe or by an open file.

use std::{
    io,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// How long a program may take that says nothing else.
const LIMIT: Duration = Duration::from_secs(30);

/// A program about to be run.
#[derive(Debug)]
pub struct Tool {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, SecretString)>,
    input: Option<SecretString>,
    limit: Duration,
}

/// A program that did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{command}` {how}")]
pub struct Failed {
    /// The program and its arguments.
    pub command: String,
    /// Its exit status, if it ended by itself.
    pub code: Option<i32>,
    /// What became of it: its own last words, where it has any.
    pub how: String,
}

impl Tool {
    /// A program, looked for in `PATH`.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), environment: Vec::new(), input: None, limit: LIMIT }
    }

    /// Adds arguments. None of them is a secret.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment, which only root and the program itself can read.
    #[must_use]
    pub fn secret_env(mut self, name: &str, value: SecretString) -> Self {
        self.environment.push((name.to_owned(), value));
        self
    }

    /// What it reads from its standard input when it is [run](Self::run).
    #[must_use]
    pub fn secret_input(mut self, input: SecretString) -> Self {
        self.input = Some(input);
        self
    }

    /// How long it may take; then it is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The program and its arguments, for people.
    pub fn command_line(&self) -> String {
        std::iter::once(&self.program).chain(&self.arguments).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The same as a command that can be started; it dies with its handle.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        for (name, value) in &self.environment {
            command.env(name, value.expose_secret());
        }
        command
    }

    /// Runs it to its end. Returns what it wrote to its standard output.
    pub async fn run(self) -> Result<String, Failed> {
        let output = match timeout(self.limit, self.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(self.failed(None, format!("cannot be run: {error}"))),
            Err(_) => return Err(self.failed(None, format!("gave no answer within {:?} and was killed", self.limit))),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failed::ended(&self.command_line(), output.status, &said))
    }

    async fn output(&self) -> io::Result<Output> {
        let Some(input) = &self.input else { return self.command().output().await };
        let mut child = self.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // It may end without having read all: what it says then tells more than that.
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(input.expose_secret().as_bytes()).await;
        }
        child.wait_with_output().await
    }

    fn failed(&self, code: Option<i32>, how: String) -> Failed {
        Failed { command: self.command_line(), code, how }
    }
}

impl Failed {
    /// A program that ended as it should not; `said` is all that it wrote to its standard error.
    pub(super) fn ended(command: &str, status: ExitStatus, said: &str) -> Self {
        let last_words = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("without a word");
        Self { command: command.to_owned(), code: status.code(), how: format!("failed ({status}): {last_words}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn what_a_program_says_at_its_end_is_told_with_its_status() {
        assert_eq!(sh("echo yes").run().await.as_deref(), Ok("yes\n"));
        let failed =
            sh("echo first >&2; echo no such target >&2; echo >&2; exit 21").run().await.expect_err("it fails");
        assert_eq!(failed.code, Some(21));
        assert_eq!(failed.how, "failed (exit status: 21): no such target");
        let failed = Tool::new("no-such-program").run().await.expect_err("it is not there");
        assert!(failed.to_string().starts_with("`no-such-program` cannot be run: No such file"), "{failed}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let failed = sh("sleep 60").limit(Duration::from_millis(50)).run().await.expect_err("it hangs");
        assert_eq!((failed.code, failed.how.as_str()), (None, "gave no answer within 50ms and was killed"));
    }

    #[tokio::test]
    async fn a_secret_reaches_the_program_and_nobody_else() {
        let tool = sh("test ${#PASSWORD} = 7 || exit 1; exit 3").secret_env("PASSWORD", "hunter2".into());
        assert!(!format!("{tool:?} {}", tool.command_line()).contains("hunter2"));
        let failed = tool.run().await.expect_err("it exits with 3");
        assert_eq!(failed.code, Some(3));
        assert!(!format!("{failed:?}").contains("hunter2"));
        let tool = || sh("cat; exit $(tail -c 0 | wc -c)").secret_input("hunter2".into());
        assert!(!format!("{:?}", tool()).contains("hunter2"));
        assert_eq!(tool().run().await.as_deref(), Ok("hunter2"));
        let deaf =
            sh("exit 3").secret_input("hunter2".repeat(100_000).into()).run().await.expect_err("it exits with 3");
        assert_eq!(deaf.code, Some(3));
    }
}
