//! What a camera program leaves behind: processes that it started, in sessions or process
//! groups of their own.
//!
//! Owns finding, ending and collecting them. Knows nothing of pictures.
//!
//! While the program lives, its descendants are found by their parents. A process whose
//! parent has ended is passed on to the nearest ancestor that has asked for such
//! orphans, and otherwise to the system's first process, where nothing tells whose it
//! was. So the daemon asks for them with [`adopt_orphans`]. Programs that use a camera
//! without it leave orphans behind; under systemd, those end with the service.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, child_subreaper, getpgrp, getpid, kill_process, set_child_subreaper,
    waitpid,
};

use crate::platform::files;

/// How often the processes are listed again until none is left, and the wait between.
const ROUNDS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Has the system pass on to this process the descendants whose parent has ended, so that
/// a camera program's are ended with it.
///
/// # Errors
/// The system's error. Such processes then go on when the program has ended.
pub fn adopt_orphans() -> std::io::Result<()> {
    // Any process id turns it on.
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// A process, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    id: Pid,
    parent: Option<Pid>,
    group: Option<Pid>,
    has_ended: bool,
    /// When it was started, in clock ticks since the system's start.
    started: u64,
}

/// The processes that belong to one camera program.
#[derive(Debug)]
pub(super) struct Family {
    program: Pid,
    /// When the program was started; processes from before are not its descendants.
    since: u64,
    /// Whether orphans are passed on to this process.
    adopts: bool,
    /// The members that were found so far and may still run.
    known: Vec<Process>,
}

impl Family {
    /// The family of a program that has just been started as a child of this process.
    pub(super) fn of(program: Pid) -> Family {
        Family {
            program,
            since: read(program).map_or(u64::MAX, |process| process.started),
            adopts: child_subreaper().is_ok_and(|id| id.is_some()),
            known: Vec::new(),
        }
    }

    /// Sends a signal to all members but the program.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.remember();
        for member in &self.known {
            // An error means that it has ended.
            let _ = kill_process(member.id, signal);
        }
    }

    /// Kills all members but the program, and those that they start meanwhile, and
    /// collects the exit status of orphans. Call it before the program's own exit status
    /// is collected, since it is the root of the family.
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

    /// Lists the members anew. Those that were known before and still run remain members:
    /// once their parent has ended, nothing else tells whose they are.
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

    /// Collects the exit status of orphans that have ended.
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

    /// The descendants of the program, and the orphans.
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

    /// The children of this process that it did not start itself: its own share its
    /// process group, but for the program.
    fn orphans(&self, processes: &[Process]) -> Vec<Process> {
        let (own, group) = (getpid(), getpgrp());
        let is_orphan = |process: &&Process| {
            self.adopts
                && process.parent == Some(own)
                && process.id != self.program
                && process.group != Some(group)
                && process.started >= self.since
        };
        processes.iter().filter(is_orphan).copied().collect()
    }
}

/// All processes that this user may see.
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

/// Parses `/proc/PID/stat`, proc_pid_stat(5).
fn parse(id: Pid, stat: &str) -> Option<Process> {
    // The program's name, in parentheses, may contain anything.
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
