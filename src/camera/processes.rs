//! Finds and ends the processes that a camera program has started. The program may leave
//! such processes behind in sessions or process groups of their own.
//!
//! This module also collects the exit statuses of these processes. It knows nothing about
//! pictures.
//!
//! While the program is running, its descendants are found through their parents. If the
//! parent of a process ends, the process becomes an orphan. The kernel passes an orphan
//! to the nearest ancestor that has requested orphans. Without such an ancestor, the
//! kernel passes the orphan to the system's first process, and the origin of the orphan
//! can no longer be determined. The daemon therefore requests orphans with
//! [`adopt_orphans`]. A program that uses a camera without calling this function leaves
//! orphans behind. Under systemd, orphans end with the service.
//!
//! All of this needs Linux and its `/proc`. On other systems, no members are found, and only the
//! process group of the program is ended.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, waitpid};

use crate::platform::{files, programs, system};

/// Maximum number of rounds in which [`Family::kill`] lists and kills the members.
/// [`PAUSE`] is the pause between two rounds.
const ROUNDS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Requests that the kernel pass orphaned descendants to this process. This process can
/// then end the orphans of a camera program together with the program.
///
/// # Errors
/// Returns the system's error. In that case, orphans keep running after the camera
/// program has ended.
pub fn adopt_orphans() -> io::Result<()> {
    system::adopt_orphans()
}

/// The state of a process as shown by `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    id: Pid,
    parent: Option<Pid>,
    group: Option<Pid>,
    has_ended: bool,
    /// The start time of the process, in clock ticks since the system was booted.
    started: u64,
}

/// The processes that belong to one camera program.
#[derive(Debug)]
pub(super) struct Family {
    program: Pid,
    /// The start time of the program. Processes that were started earlier are not
    /// descendants of the program.
    since: u64,
    /// Whether the kernel passes orphans to this process.
    adopts: bool,
    /// The members that have been found so far and may still be running.
    known: Vec<Process>,
}

impl Family {
    /// Creates the family of a program that was just started as a child of this process.
    pub(super) fn of(program: Pid) -> Family {
        Family {
            program,
            since: read(program).map_or(u64::MAX, |process| process.started),
            adopts: system::adopts_orphans(),
            known: Vec::new(),
        }
    }

    /// Sends a signal to all members except the program.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.remember();
        for member in &self.known {
            // An error means that the process has ended.
            let _ = kill_process(member.id, signal);
        }
    }

    /// Kills all members except the program, including members that are started in the
    /// meantime. Also collects the exit statuses of orphans. Call this function before
    /// collecting the exit status of the program, because the members are found as
    /// descendants of the program.
    pub(super) fn kill(&mut self) {
        for round in 0..ROUNDS {
            if round > 0 {
                std::thread::sleep(PAUSE);
            }
            self.remember();
            for process in &self.known {
                let _ = kill_process(process.id, Signal::KILL);
            }
            self.collect();
            if self.known.is_empty() {
                return;
            }
        }
    }

    /// Updates the list of members. Known members that are still running stay in the
    /// list: after the parent of a process has ended, nothing else shows which program
    /// started the process.
    fn remember(&mut self) {
        let runs = |process: &Process| {
            let now = read(process.id);
            now.is_some_and(|now| now.started == process.started && !now.has_ended)
        };
        let mut members = self.members();
        members.append(&mut self.known);
        members.retain(runs);
        members.sort_by_key(|member| member.id.as_raw_nonzero());
        members.dedup_by_key(|member| member.id);
        self.known = members;
    }

    /// Collects the exit statuses of orphans that have ended.
    pub(super) fn collect(&self) {
        if !self.adopts {
            return;
        }
        for orphan in self.orphans(&list()) {
            if orphan.has_ended {
                let _ = waitpid(Some(orphan.id), WaitOptions::NOHANG);
            }
        }
    }

    /// Returns the orphans, and the descendants of the program and of the orphans.
    fn members(&self) -> Vec<Process> {
        let processes = list();
        let mut members = self.orphans(&processes);
        let mut parents: Vec<Pid> = members.iter().map(|member| member.id).collect();
        parents.push(self.program);
        while let Some(parent) = parents.pop() {
            for process in &processes {
                if process.parent == Some(parent) && !members.contains(process) {
                    members.push(*process);
                    parents.push(process.id);
                }
            }
        }
        members
    }

    /// Returns the orphans, which are children that this process did not start itself.
    /// They are recognized by their process groups: except for the camera program and the
    /// programs of `platform::programs`, the children that this process started are in its
    /// own process group.
    fn orphans(&self, processes: &[Process]) -> Vec<Process> {
        let (own, group) = (getpid(), getpgrp());
        let is_orphan = |process: &&Process| {
            self.adopts
                && process.parent == Some(own)
                && process.id != self.program
                && process.group != Some(group)
                && !process.group.is_some_and(programs::is_program)
                && process.started >= self.since
        };
        processes.iter().filter(is_orphan).copied().collect()
    }
}

/// Lists all processes that the current user is allowed to see.
fn list() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            read(Pid::from_raw(id)?)
        })
        .collect()
}

fn read(id: Pid) -> Option<Process> {
    let path = format!("/proc/{}/stat", id.as_raw_nonzero());
    let text = files::read_bounded(Path::new(&path), files::MAX_PROC_BYTES).ok()?;
    parse(id, &String::from_utf8_lossy(&text))
}

/// Parses `/proc/PID/stat`, whose format is described in proc_pid_stat(5).
fn parse(id: Pid, stat: &str) -> Option<Process> {
    // The program's name is in parentheses and may contain any characters.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let id_at = |index: usize| fields.get(index)?.parse().ok().and_then(Pid::from_raw);
    Some(Process {
        id,
        parent: id_at(1),
        group: id_at(2),
        has_ended: matches!(*fields.first()?, "Z" | "X"),
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_name() {
        let id = Pid::from_raw(7).unwrap();
        let rest = "S 3 5 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 10";
        for name in ["cat", "a) Z 1 (b", "a b"] {
            let process = parse(id, &format!("7 ({name}) {rest}")).unwrap();
            assert_eq!(process.parent, Pid::from_raw(3));
            assert_eq!(process.group, Pid::from_raw(5));
            assert_eq!((process.has_ended, process.started), (false, 99));
        }
        for nonsense in ["", "7 (cat", "7 (cat) S 3", "7 (cat) S 3 5 x"] {
            assert_eq!(parse(id, nonsense), None);
        }
        let own = read(getpid()).unwrap();
        assert_eq!(own.group, Some(getpgrp()));
        assert!(list().contains(&own) && !own.has_ended);
    }
}
