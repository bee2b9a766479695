//! Programs that get an event as JSON on their standard input.
//!
//! This module owns the limits on the time and the number of programs. A program is started
//! without a shell, in a process group of its own, with nothing from the environment of the daemon
//! but what it needs to find other programs. It knows nothing about what a program does.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::event::{Event, utc};
use super::log::ReceiverState;
use super::receiver::{Selection, warn_dropped};
use crate::platform::files;
use crate::platform::programs::ProgramGroup;

/// Maximum number of events that wait until a program may start.
const MAX_WAITING: usize = 100;
/// How often running programs are examined.
const TICK: Duration = Duration::from_millis(20);
/// How long running programs may continue after the daemon is asked to stop.
const GRACE: Duration = Duration::from_millis(500);
/// The environment variables that a program gets.
const ENVIRONMENT: [&str; 4] = ["HOME", "LANG", "PATH", "TZ"];
/// The file that maps user names to numbers (passwd(5)).
const USERS: &str = "/etc/passwd";
/// Maximum size of [`USERS`], in bytes.
const MAX_USERS: u64 = 1024 * 1024;

/// The options of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// Name of the receiver.
    pub name: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments of the program.
    pub arguments: Vec<String>,
    /// The kinds of events for which the program is started.
    pub selection: Selection,
    /// Name of the user as which the program runs. Without one, it is the user of the daemon.
    pub user: Option<String>,
    /// A program that runs for longer is killed, with its whole process group.
    pub time_limit: Duration,
    /// Maximum number of these programs that run at the same time.
    pub max_running: usize,
}

/// Why a program did not handle an event. Each message continues a sentence about the program.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program does not exist or is not executable.
    #[error("{} cannot be started: {source}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The list of users cannot be read.
    #[error("cannot run as the user {user}: {why}")]
    Users {
        /// Name of the user.
        user: String,
        /// Why the list cannot be read.
        why: String,
    },
    /// There is no such user.
    #[error("cannot run as the user {user}: there is no such user on this device")]
    NoUser {
        /// Name of the user.
        user: String,
    },
    /// Only root may start programs as another user.
    #[error(
        "cannot run as the user {user}: only root may start programs as another user, and maskd \
         does not run as root: remove the key user"
    )]
    NotRoot {
        /// Name of the user.
        user: String,
    },
    /// The program ended with an error.
    #[error("ended with {0}")]
    Ended(String),
    /// The program was killed.
    #[error("was killed because it ran for longer than {} ms", .0.as_millis())]
    Killed(Duration),
}

/// The user as which a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct User {
    id: u32,
    group: u32,
}

/// Returns the user with this name in the text of passwd(5).
fn find_user(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [first, _, id, group, ..] = fields.as_slice() else {
            return None;
        };
        if *first != name {
            return None;
        }
        Some(User {
            id: id.parse().ok()?,
            group: group.parse().ok()?,
        })
    })
}

impl ExecOptions {
    /// Returns the user to change to, or `None` if the program runs as the user of the daemon.
    fn user(&self) -> Result<Option<User>, ExecError> {
        let Some(user) = self.user.clone() else {
            return Ok(None);
        };
        let users = match files::read_text(Path::new(USERS), MAX_USERS) {
            Ok(users) => users,
            Err(error) => {
                let why = error.to_string();
                return Err(ExecError::Users { user, why });
            }
        };
        let Some(found) = find_user(&users, &user) else {
            return Err(ExecError::NoUser { user });
        };
        let own = geteuid();
        if own.as_raw() == found.id {
            return Ok(None);
        }
        if !own.is_root() {
            return Err(ExecError::NotRoot { user });
        }
        Ok(Some(found))
    }

    /// Checks whether the program can be started, without starting it.
    ///
    /// # Errors
    /// Returns an [`ExecError`].
    pub fn check(&self) -> Result<(), ExecError> {
        use std::os::unix::fs::PermissionsExt;
        self.user()?;
        let failed = |source| ExecError::Start {
            program: self.program.clone(),
            source,
        };
        let metadata = self.program.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is not a file")));
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(failed(io::Error::other("it is not executable")));
        }
        Ok(())
    }

    fn start(&self, event: &Event) -> Result<ProgramGroup, ExecError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .current_dir("/")
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| {
                let value = std::env::var_os(name)?;
                Some((name, value))
            }))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = self.user()? {
            command.uid(user.id).gid(user.group);
        }
        let started = ProgramGroup::start(&mut command);
        let mut program = started.map_err(|source| ExecError::Start {
            program: self.program.clone(),
            source,
        })?;
        if let Some(mut input) = program.take_input() {
            // The event fits into an empty pipe, so this does not wait. An error means that the
            // program does not read its input.
            let _ = input.write_all((event.json() + "\n").as_bytes());
        }
        Ok(program)
    }
}

struct Running {
    group: ProgramGroup,
    since: Instant,
    id: String,
}

/// Starts a program for each event.
pub struct Exec {
    options: ExecOptions,
    state: ReceiverState,
    clock: fn() -> SystemTime,
    waiting: VecDeque<Arc<Event>>,
    running: Vec<Running>,
    is_failing: bool,
}

impl Exec {
    /// Creates the receiver. `clock` returns the time.
    #[must_use]
    pub fn new(options: ExecOptions, state: ReceiverState, clock: fn() -> SystemTime) -> Exec {
        Exec {
            options,
            state,
            clock,
            waiting: VecDeque::new(),
            running: Vec::new(),
            is_failing: false,
        }
    }

    /// Starts programs until `events` is closed. Running programs then have half a second to end.
    /// Must be called within a tokio runtime with timers on a thread of its own.
    pub async fn run(mut self, mut events: mpsc::Receiver<Arc<Event>>) {
        loop {
            self.step();
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.push(event),
                    None => break,
                },
                () = tokio::time::sleep(TICK), if !self.running.is_empty() => {}
            }
        }
        let end = Instant::now() + GRACE;
        while !(self.running.is_empty() && self.waiting.is_empty()) && Instant::now() < end {
            self.step();
            tokio::time::sleep(TICK).await;
        }
        for _ in &self.waiting {
            let dropped = self.state.count_dropped();
            warn_dropped(&self.options.name, dropped, "the daemon stops");
        }
        // The programs that still run are killed when they are dropped.
    }

    fn push(&mut self, event: Arc<Event>) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            let dropped = self.state.count_dropped();
            let why = "too many events wait for programs that still run";
            warn_dropped(&self.options.name, dropped, why);
        }
        self.waiting.push_back(event);
    }

    /// Ends programs that have ended or run for too long, and starts those that may start.
    fn step(&mut self) {
        let mut still_running = Vec::new();
        for mut running in std::mem::take(&mut self.running) {
            let limit = self.options.time_limit;
            if running.group.has_ended() {
                let status = running.group.end();
                self.finish(&running.id, result(status));
            } else if running.since.elapsed() >= limit {
                let _ = running.group.end();
                self.finish(&running.id, Err(ExecError::Killed(limit)));
            } else {
                still_running.push(running);
            }
        }
        self.running = still_running;
        while self.running.len() < self.options.max_running
            && let Some(event) = self.waiting.pop_front()
        {
            match self.options.start(&event) {
                Ok(group) => self.running.push(Running {
                    group,
                    since: Instant::now(),
                    id: event.id.clone(),
                }),
                Err(error) => self.finish(&event.id, Err(error)),
            }
        }
        let waiting = self.waiting.len() + self.running.len();
        self.state.change(|record| record.waiting = waiting);
    }

    fn finish(&mut self, id: &str, result: Result<(), ExecError>) {
        let receiver = &self.options.name;
        let time = utc((self.clock)());
        match result {
            Ok(()) => {
                debug!(receiver, id, "a program handled an event");
                self.is_failing = false;
                self.state.count_delivered(time);
            }
            Err(error) => {
                if !self.is_failing {
                    warn!(receiver, id, %error, "a program did not handle an event");
                }
                self.is_failing = true;
                self.state
                    .count_failed(time, format!("the program {error}"));
            }
        }
    }
}

fn result(status: io::Result<ExitStatus>) -> Result<(), ExecError> {
    let status = status.map_err(|error| ExecError::Ended(error.to_string()))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(ExecError::Ended(format!("the exit status {code}"))),
        (None, Some(signal)) => Err(ExecError::Ended(format!("the signal {signal}"))),
        (None, None) => Err(ExecError::Ended("an unknown status".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\ndoor:x:1001:1002::/:/bin/false\n\
                     bad:x:one:2::/:\n";
        let user = |name| find_user(users, name).map(|user| (user.id, user.group));
        assert_eq!(user("root"), Some((0, 0)));
        assert_eq!(user("door"), Some((1001, 1002)));
        for name in ["", "x", "broken", "bad", "doo"] {
            assert_eq!(user(name), None, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_told_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let options = ExecOptions {
            name: "lamp".to_owned(),
            program: folder.path().to_owned(),
            arguments: Vec::new(),
            selection: Selection::default(),
            user: None,
            time_limit: Duration::from_secs(1),
            max_running: 1,
        };
        let problem = |options: &ExecOptions| options.check().unwrap_err().to_string();
        assert!(problem(&options).ends_with("it is not a file"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let program = |program| ExecOptions {
            program,
            ..options.clone()
        };
        assert!(problem(&program(file)).ends_with("it is not executable"));
        assert!(problem(&program("/no/such/program".into())).contains("cannot be started"));
        let nobody = ExecOptions {
            user: Some("no such user".to_owned()),
            ..program("/bin/sh".into())
        };
        assert!(problem(&nobody).contains("there is no such user"));
        program("/bin/sh".into()).check().unwrap();
    }
}
