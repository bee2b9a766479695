//! The history of switches: which head came into use when, and why.
//!
//! This module owns the file `history.jsonl` in the state directory, which has one JSON object
//! per line, oldest first. Only the newest switches are kept. A line that cannot be read is
//! skipped, so that damage costs as little as possible. The history decides nothing, so no
//! failure to read or write it is an error. The module knows nothing about how a switch is
//! made.

use std::path::{Path, PathBuf};

use tracing::warn;

use super::records::{BUILT_IN, Channel, SwitchCause, SwitchRecord};
use crate::platform::clock;
use crate::platform::files;

const FILE: &str = "history.jsonl";
/// Maximum number of switches that are kept.
const MAX_RECORDS: usize = 500;
/// Maximum size of the file that is read, in bytes. A line has about 150 bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Sequence numbers from here on are damage. JSON readers that use floating-point numbers can
/// represent all lower ones.
const TOO_HIGH: u64 = 1 << 53;

/// The switches on this device, oldest first.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    records: Vec<SwitchRecord>,
    /// Whether the file lacks switches because it could not be written.
    is_unsaved: bool,
}

impl History {
    /// Reads the file in a state directory. If the file does not exist or cannot be read,
    /// the history starts over.
    pub(super) fn open(state: &Path) -> History {
        let path = state.join(FILE);
        let records = match files::read_own(&path, MAX_BYTES) {
            Ok(bytes) => parse(&bytes, &path),
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => {
                warn!(%error, "the history of models starts over");
                Vec::new()
            }
        };
        History {
            path,
            records,
            is_unsaved: false,
        }
    }

    /// The switches, oldest first.
    pub(super) fn records(&self) -> &[SwitchRecord] {
        &self.records
    }

    /// Records that a head came into use. `None` stands for the base head.
    pub(super) fn add(&mut self, head: Option<u32>, cause: SwitchCause, channel: Option<Channel>) {
        self.push(head, cause, channel, None);
    }

    /// Records which head is in use, unless the last switch led to the same head. `note` says
    /// why the intended head is not used.
    pub(super) fn found(&mut self, head: Option<u32>, note: Option<&str>) {
        if head.unwrap_or(BUILT_IN) == self.last_head() {
            return;
        }
        let cause = match note {
            Some(_) => SwitchCause::Fallback,
            None => SwitchCause::Found,
        };
        self.push(head, cause, None, note.map(str::to_owned));
    }

    fn last_head(&self) -> u32 {
        self.records.last().map_or(BUILT_IN, |last| last.head)
    }

    fn push(
        &mut self,
        head: Option<u32>,
        cause: SwitchCause,
        channel: Option<Channel>,
        note: Option<String>,
    ) {
        let last = self.records.last();
        self.records.push(SwitchRecord {
            sequence: last.map_or(0, |last| last.sequence) + 1,
            time: clock::shown_now(),
            clock_synchronized: clock::is_synchronized(),
            head: head.unwrap_or(BUILT_IN),
            before: self.last_head(),
            cause,
            channel,
            note,
        });
        let surplus = self.records.len().saturating_sub(MAX_RECORDS);
        self.records.drain(..surplus);
        self.is_unsaved = true;
        self.save();
    }

    /// Writes the file if an earlier attempt failed. If the file cannot be written, the
    /// switches are kept in memory.
    pub(super) fn save(&mut self) {
        if !self.is_unsaved {
            return;
        }
        let mut lines = Vec::new();
        for record in &self.records {
            lines.extend(serde_json::to_vec(record).unwrap_or_default());
            lines.push(b'\n');
        }
        match files::write(&self.path, &lines) {
            Ok(()) => self.is_unsaved = false,
            Err(error) => warn!(%error, "the switch to another model is not recorded yet"),
        }
    }
}

/// Parses the lines of the file. Lines that are damaged, or written by a newer version, are
/// skipped.
fn parse(bytes: &[u8], path: &Path) -> Vec<SwitchRecord> {
    let mut records: Vec<SwitchRecord> = Vec::new();
    let mut skipped = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        match serde_json::from_slice::<SwitchRecord>(line) {
            _ if line.is_empty() => {}
            Ok(record) if (1..TOO_HIGH).contains(&record.sequence) => records.push(record),
            Ok(_) | Err(_) => skipped += 1,
        }
    }
    if skipped > 0 {
        let path = path.display();
        warn!(%path, lines = skipped, "parts of the history of models are damaged");
    }
    records.sort_by_key(|record| record.sequence);
    records.dedup_by_key(|record| record.sequence);
    let surplus = records.len().saturating_sub(MAX_RECORDS);
    records.drain(..surplus);
    records
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn numbers(history: &History) -> Vec<(u64, u32, u32)> {
        let records = history.records().iter();
        records
            .map(|record| (record.sequence, record.before, record.head))
            .collect()
    }

    #[test]
    fn switches_are_kept_in_order_and_bounded() {
        let state = tempfile::tempdir().unwrap();
        let mut history = History::open(state.path());
        history.found(None, None);
        assert_eq!(numbers(&history), [], "the built-in model comes first");
        history.add(Some(1), SwitchCause::Refit, None);
        history.add(Some(2), SwitchCause::Import, Some(Channel::Page));
        history.found(Some(2), None);
        history.add(None, SwitchCause::Use, Some(Channel::CommandLine));
        let expected = [(1, 0, 1), (2, 1, 2), (3, 2, 0)];
        assert_eq!(numbers(&history), expected);
        let mut history = History::open(state.path());
        assert_eq!(numbers(&history), expected);
        history.found(Some(2), Some("model 3 is damaged"));
        let last = history.records().last().unwrap();
        assert_eq!(last.cause, SwitchCause::Fallback);
        assert_eq!(last.to_string(), "model 3 is damaged");
        for head in 0..2 * MAX_RECORDS as u32 {
            history.add(Some(head), SwitchCause::Refit, None);
        }
        let history = History::open(state.path());
        assert_eq!(history.records().len(), MAX_RECORDS);
        let first = &history.records()[0];
        assert_eq!((first.sequence, first.head), (505, 500));
    }

    #[test]
    fn damage_costs_only_the_damaged_lines() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        let mut history = History::open(state.path());
        for head in 1..=3 {
            history.add(Some(head), SwitchCause::Import, None);
        }
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let heads = History::open(state.path()).records().len();
            let lines = whole[..length].iter().filter(|byte| **byte == b'\n');
            let lines = lines.count();
            assert!(heads == lines || heads == lines + 1, "{length}: {heads}");
        }
        let mut lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').collect();
        let far = br#"{"sequence":18446744073709551615,"time":"","clock_synchronized":true,"head":9,"before":0,"cause":"use"}"#;
        lines[1] = b"\xff\x00{";
        lines.push(far);
        fs::write(&path, lines.join(&b'\n')).unwrap();
        let mut history = History::open(state.path());
        assert_eq!(numbers(&history), [(1, 0, 1), (3, 2, 3)]);
        history.add(Some(4), SwitchCause::Import, None);
        assert_eq!(numbers(&history), [(1, 0, 1), (3, 2, 3), (4, 3, 4)]);
    }

    #[test]
    fn switches_that_cannot_be_written_are_written_later() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(FILE);
        fs::create_dir(&path).unwrap();
        let mut history = History::open(state.path());
        history.add(Some(1), SwitchCause::Refit, Some(Channel::Mqtt));
        assert_eq!(numbers(&history), [(1, 0, 1)]);
        fs::remove_dir(&path).unwrap();
        history.save();
        assert_eq!(numbers(&History::open(state.path())), [(1, 0, 1)]);
    }
}
