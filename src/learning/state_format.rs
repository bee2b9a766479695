//! The format number of a state directory.
//!
//! This module owns the file `format` in the state directory, which holds one decimal
//! number and a line feed. The number identifies the layout of everything in the
//! directory: `samples/`, `undo.json`, `ages.json`, `running-time.json`, `heads/`,
//! `refit.json`, `fleet.json`, `rejected.json`, `fleet.key`, `events/`, and `counts/`. The module
//! itself does not access any of these files.
//!
//! | number | meaning |
//! |---|---|
//! | no file | written before format numbers existed; has the same layout as 1 |
//! | 1 | written by this version of maskd |
//! | higher | written by a newer maskd; nothing is read or changed |
//!
//! A process that opens the directory for changes also accepts a directory without a
//! number. It writes the number into the directory. A process that only reads the
//! directory checks the number and changes nothing. If the layout changes in a way that
//! an older maskd would misread, the number must be increased, and this module must
//! migrate directories with the previous number.
//!
//! In addition, head files and feature files have their own format numbers, so
//! that they can be used outside the directory. A head file has `maskd-head-1`
//! in its metadata, and a feature file has a version number after its first
//! bytes.

use std::path::{Path, PathBuf};

use crate::platform::files::{self, FileError};

const FILE: &str = "format";
const CURRENT: u32 = 1;
/// Maximum size of the file to read, in bytes, which is enough for any number.
const MAX_BYTES: u64 = 32;

/// The reason why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFormatError {
    /// The file with the format number cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is something else than a directory.
    #[error("the state directory {} is not a folder: name another one with --state", .0.display())]
    NoFolder(PathBuf),
    /// The file does not hold a valid number.
    #[error(
        "{} holds no format number: delete it, unless a newer maskd has used this state directory",
        path.display()
    )]
    Damaged {
        /// The file with the format number.
        path: PathBuf,
    },
    /// A newer maskd has changed the directory.
    #[error(
        "the state directory {} has the format {found}, and this maskd knows formats up to \
         {CURRENT}: update maskd, or name another directory with --state",
        state.display()
    )]
    Newer {
        /// The state directory.
        state: PathBuf,
        /// The format number of the directory.
        found: u32,
    },
}

/// Returns an error for a state directory that this version cannot read. A
/// directory that does not exist or has no number is accepted.
pub(crate) fn check(state: &Path) -> Result<(), StateFormatError> {
    number(state).map(drop)
}

/// Writes the format number into a state directory that has none. Only the process that
/// may change the directory may call this function, and only after [`check`].
pub(crate) fn stamp(state: &Path) -> Result<(), StateFormatError> {
    if number(state)?.is_none() {
        files::write(&state.join(FILE), format!("{CURRENT}\n").as_bytes())?;
    }
    Ok(())
}

/// If `folder` is a state directory or inside one, returns the reason why a command must
/// not write to it. `folder` must be a path without links. Without this check, a command
/// could overwrite what the device has learned.
pub(crate) fn refuse_within_state(folder: &Path) -> Option<&'static str> {
    // The lock files exist in every directory that was ever opened for changes.
    let is_state = |folder: &Path| {
        ["heads/.lock", "samples/.lock", "fleet.key"]
            .iter()
            .any(|file| folder.join(file).symlink_metadata().is_ok())
    };
    let within = folder.ancestors().any(is_state);
    within.then_some("it lies in a state directory of maskd: name a file somewhere else")
}

fn number(state: &Path) -> Result<Option<u32>, StateFormatError> {
    if state.metadata().is_ok_and(|state| !state.is_dir()) {
        return Err(StateFormatError::NoFolder(state.to_owned()));
    }
    let path = state.join(FILE);
    let bytes = match files::read_own(&path, MAX_BYTES) {
        Err(error) if error.is_missing() => return Ok(None),
        bytes => bytes?,
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    match text.parse() {
        Ok(0) | Err(_) => Err(StateFormatError::Damaged { path }),
        Ok(found) if found > CURRENT => Err(StateFormatError::Newer {
            state: state.to_owned(),
            found,
        }),
        Ok(found) => Ok(Some(found)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_no_state_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sentence = format!(
            "the state directory {} is not a folder: name another one with --state",
            file.path().display()
        );
        assert_eq!(check(file.path()).unwrap_err().to_string(), sentence);
        assert_eq!(stamp(file.path()).unwrap_err().to_string(), sentence);
    }

    #[test]
    fn a_directory_is_numbered_once_and_a_newer_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        check(&state.join("nowhere")).unwrap();
        check(state).unwrap();
        assert!(!state.join(FILE).exists(), "reading changes nothing");
        stamp(state).unwrap();
        assert_eq!(fs::read(state.join(FILE)).unwrap(), b"1\n");
        check(state).unwrap();

        fs::write(state.join(FILE), b"2\n").unwrap();
        let sentence = format!(
            "the state directory {} has the format 2, and this maskd knows formats up to 1: \
             update maskd, or name another directory with --state",
            state.display()
        );
        assert_eq!(check(state).unwrap_err().to_string(), sentence);
        assert_eq!(stamp(state).unwrap_err().to_string(), sentence);
        assert_eq!(fs::read(state.join(FILE)).unwrap(), b"2\n");
        for damaged in [&b""[..], b"0\n", b"x", b"-1", b"\xff", &[b'1'; 40]] {
            fs::write(state.join(FILE), damaged).unwrap();
            assert!(stamp(state).is_err(), "{damaged:?}");
        }
    }
}
