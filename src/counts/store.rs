//! The files with the counts, in the folder `counts` of the state directory.
//!
//! Each day in UTC has a file of a few hundred bytes, which is replaced as a whole. A file has
//! a line for its format, a line for each hour, and a SHA-256 of the lines before it. A file
//! that is damaged is kept under another name, and its hours are lost.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use sha2::{Digest, Sha256};

use super::Passages;
use super::ledger::{FileDay, Hour, HourCounts, Hours};
use crate::platform::files::{self, FileError};
use crate::platform::hex;

/// Name of the folder in the state directory.
pub const FOLDER: &str = "counts";
/// The first line of a file.
const FORMAT: &str = "maskd counts 1";
/// Ending of the files, and of damaged files.
const ENDING: &str = ".counts";
const DAMAGED: &str = ".damaged";
/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// Maximum number of entries of the folder that are looked at.
const MAX_ENTRIES: usize = 20_000;
/// At most one file in this many is deleted at a time because of its age, but at least one.
const DELETED_AT_A_TIME: usize = 10;

/// The files, opened by the only process that may change them.
#[derive(Debug)]
pub struct CountStore {
    folder: PathBuf,
    _lock: files::Lock,
}

/// What the files contain.
#[derive(Debug, Default)]
pub struct Stored {
    /// The hours of all files.
    pub hours: Hours,
    /// The files that are damaged, or that cannot be read.
    pub damaged: Vec<PathBuf>,
}

/// Writes the text of a file.
fn to_text(hours: &Hours) -> String {
    let mut text = format!("{FORMAT}\n");
    for (hour, HourCounts { exact, rounded }) in hours {
        let [a, b, c] = exact.named().map(|(_, number)| number);
        let [d, e, f] = rounded.named().map(|(_, number)| number);
        text += &format!("{} {a} {b} {c} {d} {e} {f}\n", hour.0);
    }
    let hash = hex::encode(&Sha256::digest(&text));
    text + "sha256 " + &hash + "\n"
}

/// Reads the text of a file. Returns `None` if the file is damaged.
fn from_text(text: &[u8], day: FileDay) -> Option<Hours> {
    let text = std::str::from_utf8(text).ok()?;
    let (content, hash) = text.strip_suffix('\n')?.rsplit_once("\nsha256 ")?;
    let content = format!("{content}\n");
    if hex::decode(hash)? != <[u8; 32]>::from(Sha256::digest(&content)) {
        return None;
    }
    let mut lines = content.lines();
    if lines.next()? != FORMAT {
        return None;
    }
    let mut hours = Hours::new();
    for line in lines {
        let (start, numbers) = line.split_once(' ')?;
        let hour = Hour(start.parse().ok()?);
        let numbers: Result<Vec<u64>, _> = numbers.split(' ').map(str::parse).collect();
        let [masked, unmasked, unsure, d, e, f] = numbers.ok()?.try_into().ok()?;
        let counts = HourCounts {
            exact: Passages {
                masked,
                unmasked,
                unsure,
            },
            rounded: Passages {
                masked: d,
                unmasked: e,
                unsure: f,
            },
        };
        if hour.file_day() != day || hours.insert(hour, counts).is_some() {
            return None;
        }
    }
    Some(hours)
}

fn epoch() -> Date {
    Date::constant(1970, 1, 1)
}

fn file_name(day: FileDay) -> Option<String> {
    let date = epoch().checked_add(jiff::Span::new().try_days(day.0).ok()?);
    Some(format!("{}{ENDING}", date.ok()?))
}

/// Returns the day of a file, or `None` if it is not a file with counts.
fn day_of(name: &str) -> Option<FileDay> {
    let date: Date = name.strip_suffix(ENDING)?.parse().ok()?;
    let days = date.duration_since(epoch()).as_secs() / 86_400;
    let day = FileDay(days);
    (file_name(day)? == name).then_some(day)
}

/// Lists the files with counts, oldest first.
fn list(folder: &Path) -> Result<Vec<(FileDay, PathBuf)>, FileError> {
    files::check_no_link(folder)?;
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(FileError::of("read the folder", folder))?,
    };
    let mut days = Vec::new();
    for entry in entries.take(MAX_ENTRIES) {
        let entry = entry.map_err(FileError::of("read the folder", folder))?;
        if let Some(day) = entry.file_name().to_str().and_then(day_of) {
            days.push((day, entry.path()));
        }
    }
    days.sort();
    Ok(days)
}

/// Reads the counts in a state directory without changing anything. There are none if the
/// folder does not exist.
///
/// # Errors
/// [`FileError`] if the folder cannot be read.
pub fn read(state: &Path) -> Result<Stored, FileError> {
    let mut stored = Stored::default();
    for (day, path) in list(&state.join(FOLDER))? {
        let content = files::read_own(&path, MAX_BYTES);
        match content.ok().and_then(|content| from_text(&content, day)) {
            Some(hours) => stored.hours.extend(hours),
            None => stored.damaged.push(path),
        }
    }
    Ok(stored)
}

impl CountStore {
    /// Opens the files in a state directory, and reads them. A damaged file is renamed.
    /// Returns `None` if another process has the files open.
    ///
    /// # Errors
    /// [`FileError`] if the folder cannot be created or read.
    pub fn open(state: &Path) -> Result<Option<(CountStore, Stored)>, FileError> {
        let folder = state.join(FOLDER);
        files::make_real_folder(&folder)?;
        let Some(lock) = files::lock(&folder)? else {
            return Ok(None);
        };
        files::remove_leftovers(&folder)?;
        let stored = read(state)?;
        for path in &stored.damaged {
            let mut name = path.clone().into_os_string();
            name.push(DAMAGED);
            files::rename(path, Path::new(&name)).map_err(FileError::of("rename", path))?;
        }
        Ok(Some((
            CountStore {
                folder,
                _lock: lock,
            },
            stored,
        )))
    }

    /// Replaces the file of a day.
    ///
    /// # Errors
    /// [`FileError`] if the file cannot be written. It then keeps its old content.
    pub fn write(&self, day: FileDay, hours: &Hours) -> Result<(), FileError> {
        // A day that jiff's calendar does not have cannot occur, since times are checked.
        let Some(name) = file_name(day) else {
            return Ok(());
        };
        files::write(&self.folder.join(name), to_text(hours).as_bytes())
    }

    /// Deletes files that are older than `keep_days` days, oldest first, and returns their
    /// days. At most a tenth of the files is deleted at a time, but at least one, so that an
    /// owner who notices a mistake can still act. `today` must come from a clock that can be
    /// trusted. The passages without a time are kept.
    ///
    /// # Errors
    /// [`FileError`] if the folder cannot be read, or a file cannot be deleted.
    pub fn delete_old(&self, keep_days: u32, today: FileDay) -> Result<Vec<FileDay>, FileError> {
        let days = list(&self.folder)?;
        let most = (days.len() / DELETED_AT_A_TIME).max(1);
        let first_kept = today.0 - i64::from(keep_days);
        let is_old = |day: FileDay| day != Hour::UNKNOWN.file_day() && day.0 < first_kept;
        let mut deleted = Vec::new();
        for (day, path) in days.into_iter().filter(|(day, _)| is_old(*day)).take(most) {
            files::delete(&path).map_err(FileError::of("delete", &path))?;
            deleted.push(day);
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const DAY: FileDay = FileDay(20_787);

    fn counts(masked: u64) -> HourCounts {
        HourCounts {
            exact: Passages {
                masked,
                ..Passages::default()
            },
            ..HourCounts::default()
        }
    }

    fn hours(day: FileDay, masked: u64) -> Hours {
        Hours::from([(Hour(day.0 * 86_400 + 3600), counts(masked))])
    }

    #[test]
    fn a_day_has_one_file_name() {
        assert_eq!(file_name(DAY).unwrap(), "2026-11-30.counts");
        assert_eq!(day_of("2026-11-30.counts"), Some(DAY));
        assert_eq!(
            file_name(Hour::UNKNOWN.file_day()).unwrap(),
            "1970-01-01.counts"
        );
        for name in [
            "2026-11-30",
            "20261130.counts",
            "2026-11-31.counts",
            "x.counts",
            ".counts",
        ] {
            assert_eq!(day_of(name), None, "{name}");
        }
    }

    #[test]
    fn counts_survive_a_restart_and_only_one_process_writes() {
        let state = tempfile::tempdir().unwrap();
        let (store, stored) = CountStore::open(state.path()).unwrap().unwrap();
        assert!(stored.hours.is_empty());
        assert!(CountStore::open(state.path()).unwrap().is_none());
        store.write(DAY, &hours(DAY, 3)).unwrap();
        store.write(DAY, &hours(DAY, 4)).unwrap();
        drop(store);
        let (_, stored) = CountStore::open(state.path()).unwrap().unwrap();
        assert_eq!(stored.hours, hours(DAY, 4));
        assert!(stored.damaged.is_empty());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_others_are_used() {
        let state = tempfile::tempdir().unwrap();
        let (store, _) = CountStore::open(state.path()).unwrap().unwrap();
        let next = FileDay(DAY.0 + 1);
        store.write(DAY, &hours(DAY, 3)).unwrap();
        store.write(next, &hours(next, 5)).unwrap();
        drop(store);
        let path = state.path().join(FOLDER).join("2026-11-30.counts");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(" 3 ", " 30 ")).unwrap();
        assert_eq!(
            read(state.path()).unwrap().damaged,
            std::slice::from_ref(&path)
        );
        let (store, stored) = CountStore::open(state.path()).unwrap().unwrap();
        assert_eq!(stored.hours, hours(next, 5));
        assert!(!path.exists());
        assert!(path.with_extension("counts.damaged").exists());
        store.write(DAY, &hours(DAY, 1)).unwrap();
        drop(store);
        assert!(read(state.path()).unwrap().damaged.is_empty());
    }

    #[test]
    fn old_files_are_deleted_few_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let (store, _) = CountStore::open(state.path()).unwrap().unwrap();
        let unknown = Hour::UNKNOWN.file_day();
        let unknown_hours = Hours::from([(Hour::UNKNOWN, counts(1))]);
        store.write(unknown, &unknown_hours).unwrap();
        for ago in 0..30 {
            let day = FileDay(DAY.0 - ago);
            store.write(day, &hours(day, 1)).unwrap();
        }
        let first = store.delete_old(20, DAY).unwrap();
        assert_eq!(first, [29, 28, 27].map(|ago| FileDay(DAY.0 - ago)));
        while !store.delete_old(20, DAY).unwrap().is_empty() {}
        let left = read(state.path()).unwrap().hours;
        assert_eq!(
            left.len(),
            22,
            "today, twenty days, and the passages without a time"
        );
        assert!(left.contains_key(&Hour::UNKNOWN));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::btree_map(0_i64..24, prop::array::uniform6(any::<u64>()), 0..24),
        ) {
            let hours: Hours = rows
                .into_iter()
                .map(|(hour, [masked, unmasked, unsure, d, e, f])| {
                    let exact = Passages { masked, unmasked, unsure };
                    let rounded = Passages { masked: d, unmasked: e, unsure: f };
                    (Hour(DAY.0 * 86_400 + hour * 3600), HourCounts { exact, rounded })
                })
                .collect();
            let text = to_text(&hours);
            prop_assert_eq!(from_text(text.as_bytes(), DAY), Some(hours.clone()));
            prop_assert_eq!(from_text(text.as_bytes(), FileDay(DAY.0 + 1)).is_some(), hours.is_empty());
        }

        #[test]
        fn a_damaged_file_is_never_read(at in 0_usize..200, byte in any::<u8>(), cut in 0_usize..200) {
            let mut text = to_text(&hours(DAY, 12)).into_bytes();
            let at = at % text.len();
            if text[at] != byte {
                // Upper and lower case digits of the checksum mean the same.
                let is_same = text[at].eq_ignore_ascii_case(&byte);
                text[at] = byte;
                prop_assert!(is_same || from_text(&text, DAY).is_none());
            }
            let whole = to_text(&hours(DAY, 12));
            let cut = cut % whole.len();
            prop_assert!(from_text(&whole.as_bytes()[..cut], DAY).is_none());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = from_text(&bytes, DAY);
        }
    }
}
