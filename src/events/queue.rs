//! The queue of a webhook: events that were not delivered yet, in memory and on disk.
//!
//! Each event is a file in the folder of the queue. The file is written completely or not at all,
//! and is deleted when the event is delivered. The queue therefore survives a restart, a kill, and a
//! power cut. An event whose deletion was lost is delivered again, with the same id. If the disk
//! refuses a write, the events wait in memory. This module knows nothing about how events are
//! delivered.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::event::MAX_JSON;
use crate::platform::files::{self, FileError};
use crate::platform::hex;

/// First bytes of a file, before the SHA-256 of the JSON in hexadecimal digits, a line feed, and
/// the JSON.
const MAGIC: &[u8] = b"maskd-event-1 ";
/// Number of digits of a SHA-256.
const DIGITS: usize = 64;
/// Maximum size of a file, in bytes.
const MAX_FILE: u64 = (MAGIC.len() + DIGITS + 1 + MAX_JSON) as u64;
/// Extension of the files.
const EXTENSION: &str = "event";

/// An event that waits in a queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    /// The fields of the event.
    pub(super) event: Map<String, Value>,
    /// The event as JSON.
    pub(super) json: String,
}

impl Waiting {
    /// Returns the event in this JSON, or `None` if it is not an event.
    pub(super) fn parse(json: &str) -> Option<Waiting> {
        let event: Map<String, Value> = serde_json::from_str(json).ok()?;
        event.get("id")?.as_str()?;
        Some(Waiting {
            event,
            json: json.to_owned(),
        })
    }

    /// The id of the event.
    pub(super) fn id(&self) -> &str {
        let id = self.event.get("id").and_then(Value::as_str);
        id.unwrap_or_default()
    }
}

/// Returns the content of the file of an event.
fn encode(json: &str) -> Vec<u8> {
    let digest = hex::encode(&Sha256::digest(json));
    [MAGIC, digest.as_bytes(), b"\n", json.as_bytes()].concat()
}

/// Returns the event in the content of a file, or `None` if the file is damaged.
fn decode(bytes: &[u8]) -> Option<Waiting> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (digest, rest) = rest.split_at_checked(DIGITS)?;
    let json = rest.strip_prefix(b"\n")?;
    if hex::encode(&Sha256::digest(json)).as_bytes() != digest {
        return None;
    }
    Waiting::parse(std::str::from_utf8(json).ok()?)
}

struct Entry {
    waiting: Waiting,
    /// Number of the event. Numbers increase, and name the files.
    number: u64,
    is_saved: bool,
}

/// How many events were lost when a queue was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Opened {
    /// Events that were on disk and wait again.
    pub(super) restored: u64,
    /// Files that were damaged and are deleted.
    pub(super) damaged: u64,
    /// Events that no longer fit.
    pub(super) dropped: u64,
}

/// A bounded queue.
pub(super) struct Queue {
    capacity: usize,
    entries: VecDeque<Entry>,
    next: u64,
    /// The folder, or `None` as long as there is none.
    folder: Option<PathBuf>,
}

impl Queue {
    /// Creates an empty queue that is only in memory.
    pub(super) fn new(capacity: usize) -> Queue {
        Queue {
            capacity: capacity.max(1),
            entries: VecDeque::new(),
            next: 0,
            folder: None,
        }
    }

    /// Whether the queue has a folder.
    pub(super) fn has_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// Opens the folder of the queue, and makes it if it does not exist. The events in the folder
    /// wait before those in memory.
    pub(super) fn open(&mut self, folder: &Path) -> Result<Opened, FileError> {
        files::make_real_folder(folder)?;
        files::remove_leftovers(folder)?;
        let list = || -> std::io::Result<Vec<u64>> {
            let mut numbers = Vec::new();
            for entry in folder.read_dir()? {
                numbers.extend(number(&entry?.path()));
            }
            numbers.sort_unstable();
            Ok(numbers)
        };
        let numbers = list().map_err(FileError::of("read the folder", folder))?;
        let mut opened = Opened::default();
        let mut restored = VecDeque::new();
        for number in numbers {
            let path = path(folder, number);
            self.next = self.next.max(number + 1);
            // Reading may fail for a moment. The file is then kept for the next start.
            let waiting = match files::read_own(&path, MAX_FILE) {
                Ok(bytes) => decode(&bytes),
                Err(error) if error.source.kind() == std::io::ErrorKind::FileTooLarge => None,
                Err(error) => return Err(error),
            };
            if let Some(waiting) = waiting {
                opened.restored += 1;
                restored.push_back(Entry {
                    waiting,
                    number,
                    is_saved: true,
                });
            } else {
                opened.damaged += 1;
                let _ = files::delete(&path);
            }
        }
        for entry in self.entries.drain(..) {
            restored.push_back(Entry {
                number: self.next,
                ..entry
            });
            self.next += 1;
        }
        self.entries = restored;
        self.folder = Some(folder.to_owned());
        while self.entries.len() > self.capacity {
            self.drop_at(0);
            opened.dropped += 1;
        }
        Ok(opened)
    }

    /// Adds an event. If the queue is full, drops the oldest event and returns true. If
    /// `keeps_first` is set, drops the second oldest event instead, because the oldest one is
    /// being delivered. The event is not on disk until [`save`](Queue::save) is called.
    pub(super) fn push(&mut self, waiting: Waiting, keeps_first: bool) -> bool {
        let is_full = self.entries.len() >= self.capacity;
        if is_full {
            let index = usize::from(keeps_first && self.entries.len() > 1);
            self.drop_at(index);
        }
        self.entries.push_back(Entry {
            waiting,
            number: self.next,
            is_saved: false,
        });
        self.next += 1;
        is_full
    }

    /// Writes the events that are only in memory to the disk. If a write fails, the others are
    /// not tried.
    pub(super) fn save(&mut self) -> Result<(), FileError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        for entry in &mut self.entries {
            if !entry.is_saved {
                files::write(&path(folder, entry.number), &encode(&entry.waiting.json))?;
                entry.is_saved = true;
            }
        }
        Ok(())
    }

    /// Returns the oldest event.
    pub(super) fn first(&self) -> Option<&Waiting> {
        self.entries.front().map(|entry| &entry.waiting)
    }

    /// Removes the event with this id, because it was delivered or refused.
    pub(super) fn remove(&mut self, id: &str) {
        let index = self
            .entries
            .iter()
            .position(|entry| entry.waiting.id() == id);
        if let Some(index) = index {
            self.drop_at(index);
        }
    }

    /// Number of events in the queue.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of events that are only in memory.
    pub(super) fn unsaved(&self) -> usize {
        let unsaved = self.entries.iter().filter(|entry| !entry.is_saved);
        unsaved.count()
    }

    fn drop_at(&mut self, index: usize) {
        let Some(entry) = self.entries.remove(index) else {
            return;
        };
        if let (Some(folder), true) = (&self.folder, entry.is_saved) {
            // If the file remains, the event is delivered again after a restart.
            let _ = files::delete(&path(folder, entry.number));
        }
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.{EXTENSION}"))
}

/// Returns the number in the name of a file, or `None` if it is not the file of an event.
fn number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".event")?;
    let is_digits = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // The last number is left out, so that there is always a next one.
    let number = u64::from_str_radix(digits, 16).ok();
    number.filter(|number| is_digits && *number < u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn waiting(number: usize) -> Waiting {
        Waiting::parse(&format!(
            "{{\"id\":\"run-{number}\",\"kind\":\"decision\"}}"
        ))
        .unwrap()
    }

    fn ids(queue: &Queue) -> Vec<String> {
        let ids = queue.entries.iter().map(|entry| entry.waiting.id());
        ids.map(str::to_owned).collect()
    }

    fn filled(folder: &Path, capacity: usize, count: usize) -> Queue {
        let mut queue = Queue::new(capacity);
        queue.open(folder).unwrap();
        for number in 0..count {
            queue.push(waiting(number), false);
        }
        queue.save().unwrap();
        queue
    }

    #[test]
    fn events_survive_a_kill_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("queue");
        let mut queue = filled(&folder, 10, 3);
        queue.remove("run-1");
        drop(queue);
        let mut queue = Queue::new(10);
        // These events happened before the disk could be used.
        queue.push(waiting(7), false);
        let opened = queue.open(&folder).unwrap();
        assert_eq!((opened.restored, opened.damaged), (2, 0));
        assert_eq!(ids(&queue), ["run-0", "run-2", "run-7"]);
        assert_eq!(queue.unsaved(), 1);
        queue.save().unwrap();
        queue.push(waiting(8), false);
        queue.save().unwrap();
        drop(queue);
        let mut queue = Queue::new(2);
        let opened = queue.open(&folder).unwrap();
        assert_eq!((opened.restored, opened.dropped), (4, 2));
        assert_eq!(ids(&queue), ["run-7", "run-8"]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_event() {
        let folder = tempfile::tempdir().unwrap();
        let mut queue = filled(folder.path(), 3, 3);
        assert!(queue.push(waiting(3), false));
        assert_eq!(ids(&queue), ["run-1", "run-2", "run-3"]);
        assert!(queue.push(waiting(4), true), "the first one is in flight");
        assert_eq!(ids(&queue), ["run-1", "run-3", "run-4"]);
        queue.save().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn events_wait_in_memory_while_the_disk_fails() {
        let folder = tempfile::tempdir().unwrap();
        let queue_folder = folder.path().join("queue");
        let mut queue = filled(&queue_folder, 10, 1);
        fs::remove_dir_all(&queue_folder).unwrap();
        queue.push(waiting(1), false);
        assert!(queue.save().is_err());
        assert_eq!(ids(&queue), ["run-0", "run-1"]);
        fs::create_dir(&queue_folder).unwrap();
        queue.save().unwrap();
        assert_eq!(queue.unsaved(), 0);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&queue_folder, &link).unwrap();
        assert!(Queue::new(1).open(&link).is_err());
    }

    #[test]
    fn damaged_and_foreign_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 10, 3));
        let damaged = path(folder.path(), 1);
        let mut bytes = fs::read(&damaged).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&damaged, bytes).unwrap();
        fs::write(path(folder.path(), 2), vec![b'x'; 10_000]).unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let mut queue = Queue::new(10);
        let opened = queue.open(folder.path()).unwrap();
        assert_eq!((opened.restored, opened.damaged), (1, 2));
        assert!(folder.path().join("notes.txt").exists());
        assert!(!damaged.exists());
    }

    proptest! {
        #[test]
        fn any_change_of_a_file_is_noticed(
            text in any::<String>(),
            at in any::<prop::sample::Index>(),
            change in 1_u8..=255,
            length in any::<prop::sample::Index>(),
        ) {
            let json = serde_json::json!({"id": "run-1", "message": text}).to_string();
            let good = encode(&json);
            prop_assert_eq!(decode(&good).unwrap().json, json);
            let mut changed = good.clone();
            changed[at.index(good.len())] ^= change;
            prop_assert!(decode(&changed).is_none());
            prop_assert!(decode(&good[..length.index(good.len())]).is_none());
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            prop_assert!(decode(&bytes).is_none());
        }
    }
}
