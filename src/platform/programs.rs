//! Runs a program with a time limit, and ends everything that it leaves behind in its
//! process group.
//!
//! This module also knows the process groups of the programs that it runs, so that the
//! camera does not take them for processes of its own program. It knows nothing about
//! what the programs do.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpgid,
};

use super::text::printable;

/// How often a running program is checked.
const CHECK: Duration = Duration::from_millis(20);
/// Maximum number of checks whether the killed processes of a group have ended.
const KILL_CHECKS: u32 = 50;
/// How much of the error output of a program is read, in bytes.
const MAX_ERRORS: u64 = 4096;
/// Maximum length of the line of the error output that is shown, in characters.
const MAX_LINE: usize = 200;

/// The process groups of the running programs.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Why a program failed. Each message is a clause such as "it was not found".
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program does not exist.
    #[error("it was not found: install it, or name another program")]
    Missing,
    /// The system refused to start or to watch the program.
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    /// The program reported a failure.
    #[error("it failed ({status}){}", .line.as_ref().map_or(String::new(), |line| format!(": {line}")))]
    Failed {
        /// How the program ended.
        status: ExitStatus,
        /// The first line of its error output.
        line: Option<String>,
    },
    /// The program ran for too long, and was killed.
    #[error("it was killed because it ran for more than {} ms", .0.as_millis())]
    TooLong(Duration),
}

/// Returns whether a process group belongs to a program that this module runs.
#[must_use]
pub fn is_program(group: Pid) -> bool {
    groups().contains(&group)
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    // A poisoned lock is safe to use because entries are added and removed as a whole.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running program with the processes in its process group. When this value is dropped, the
/// whole group is killed.
#[derive(Debug)]
pub struct ProgramGroup {
    program: Child,
    group: Pid,
    is_reaped: bool,
}

impl ProgramGroup {
    /// Starts a program in a process group of its own.
    ///
    /// # Errors
    /// Returns the error of the system if the program cannot be started.
    pub fn start(command: &mut Command) -> io::Result<ProgramGroup> {
        // The lock is held until the group is listed, so that nobody sees the process before.
        let mut groups = groups();
        let program = command.process_group(0).spawn()?;
        let group = Pid::from_child(&program);
        groups.push(group);
        Ok(ProgramGroup {
            program,
            group,
            is_reaped: false,
        })
    }

    /// Returns the standard input of the program, if it is a pipe and was not taken before.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.program.stdin.take()
    }

    /// Whether the program itself has ended. Its exit status is not collected, so its process
    /// group cannot become that of another program.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error means that the process no longer exists.
        !matches!(waitid(WaitId::Pid(self.group), options), Ok(None))
    }

    /// Kills what is left of the process group, and collects the exit status of the program.
    ///
    /// # Errors
    /// Returns the error of the system if the exit status cannot be collected.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(self.group, Signal::KILL);
        self.is_reaped = true;
        let status = self.program.wait();
        // The kernel passes orphans of the program to this process, which has to collect
        // their exit statuses. An error means that there are no more of them.
        for _ in 0..KILL_CHECKS {
            match waitpgid(self.group, WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => std::thread::sleep(CHECK),
                Err(_) => break,
            }
        }
        groups().retain(|group| *group != self.group);
        status
    }
}

impl Drop for ProgramGroup {
    fn drop(&mut self) {
        if !self.is_reaped {
            let _ = self.end();
        }
    }
}

/// Runs a program, whose first word is its name or path, until it ends. When it has run
/// for `limit`, or when `is_stopped` returns true, it is killed with its process group.
/// `is_stopped` is called every 20 ms. Its standard input is empty, and its standard output
/// is dropped.
///
/// # Errors
/// Returns a [`ProgramError`] unless the program succeeds or is stopped.
pub fn run(
    words: &[String],
    limit: Duration,
    mut is_stopped: impl FnMut() -> bool,
) -> Result<(), ProgramError> {
    let (word, arguments) = words.split_first().ok_or(ProgramError::Missing)?;
    let mut command = Command::new(word);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let started = ProgramGroup::start(&mut command);
    let mut program = started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProgramError::Missing,
        _ => ProgramError::Start(error),
    })?;
    let mut errors = program.program.stderr.take();
    let checks = limit.as_millis().div_ceil(CHECK.as_millis());
    let mut check = 0;
    while !program.has_ended() {
        if is_stopped() {
            return Ok(());
        }
        if check >= checks {
            return Err(ProgramError::TooLong(limit));
        }
        check += 1;
        std::thread::sleep(CHECK);
    }
    let status = program.end().map_err(ProgramError::Start)?;
    if status.success() {
        return Ok(());
    }
    let line = errors.as_mut().and_then(first_line);
    Err(ProgramError::Failed { status, line })
}

/// Returns the first line of the error output. Does not wait for more output, because a
/// process that left the group may still hold the pipe.
fn first_line(errors: &mut ChildStderr) -> Option<String> {
    fcntl_setfl(&*errors, OFlags::NONBLOCK).ok()?;
    let mut bytes = Vec::new();
    // An error means that there is no more output now; what was read before is kept.
    let _ = errors.take(MAX_ERRORS).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let line: String = line.chars().take(MAX_LINE).collect();
    Some(printable(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_mins(5);

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn error_of(words: &[String], limit: Duration) -> String {
        run(words, limit, || false).unwrap_err().to_string()
    }

    #[test]
    fn a_program_succeeds_or_says_why_not() {
        assert!(run(&shell("exit 0"), LONG, || false).is_ok());
        let failed = error_of(&shell("echo; echo 'no \u{7}card' >&2; exit 3"), LONG);
        assert_eq!(failed, "it failed (exit status: 3): no \\u{7}card");
        let silent = error_of(&shell("exit 4"), LONG);
        assert_eq!(silent, "it failed (exit status: 4)");
        let missing = error_of(&["/no/such/program".to_owned()], LONG);
        assert!(missing.starts_with("it was not found"), "{missing}");
        let folder = error_of(&["/".to_owned()], LONG);
        assert!(folder.starts_with("it cannot be started"), "{folder}");
        assert!(run(&[], LONG, || false).is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test waits for processes")]
    fn a_program_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        let script = format!("sleep 600 & echo $$ $! > {}; wait", file.display());
        let ids = || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let ids: Vec<i32> = text.split_whitespace().flat_map(str::parse).collect();
            ids
        };
        let is_running = |id: &i32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        let mut group = None;
        let stopped = run(&shell(&script), LONG, || {
            let ids = ids();
            if ids.len() == 2 {
                group = Pid::from_raw(ids[0]);
                assert!(group.is_some_and(is_program));
            }
            ids.len() == 2
        });
        assert!(stopped.is_ok());
        assert!(!group.is_some_and(is_program));
        // The kernel removes a killed process a moment later.
        let start = Instant::now();
        while ids().iter().any(is_running) {
            assert!(start.elapsed() < LONG, "{:?}", ids());
            std::thread::sleep(CHECK);
        }
        let limit = Duration::from_millis(50);
        let killed = error_of(&shell("sleep 600"), limit);
        assert_eq!(killed, "it was killed because it ran for more than 50 ms");
    }
}
