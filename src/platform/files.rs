//! Files that are there as a whole or not at all.
//!
//! Owns how bytes get to a disk so that they survive a kill or a power cut at
//! any moment, and how two programs are kept out of one folder. Knows nothing
//! of what is in the files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of files begin that are not yet in their place.
const ASIDE: &str = ".maskd-";
/// And how they end.
const PART: &str = ".part";

/// A file that is written and synced, but does not have its name yet; gone if
/// it is dropped before.
#[derive(Debug)]
#[must_use]
pub struct PendingFile {
    /// `None` once it is in its place.
    path: Option<PathBuf>,
}

impl PendingFile {
    /// Writes `content` beside where it will be: into `folder`, under a hidden
    /// name that [`remove_leftovers`] knows.
    ///
    /// # Errors
    /// What the system says; nothing is left behind then.
    pub fn write(folder: &Path, content: &[u8]) -> io::Result<PendingFile> {
        PendingFile::with(folder, content, None)
    }

    fn with(folder: &Path, content: &[u8], mode: Option<Permissions>) -> io::Result<PendingFile> {
        // Threads write into one folder at the same time.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not longer than the final name, whose length may be all that the
        // system takes.
        let name = format!("{ASIDE}{}-{number}{PART}", std::process::id());
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        if mode.is_some() {
            // What is kept from others must not be open for a moment either.
            options.mode(0o600);
        }
        let mut file = options.open(&path)?;
        let pending = PendingFile { path: Some(path) };
        file.write_all(content)?;
        if let Some(mode) = mode {
            file.set_permissions(mode)?;
        }
        file.sync_all()?;
        Ok(pending)
    }

    /// Gives it its name, in one step; what had the name is replaced. That the
    /// name survives a power cut takes a [`sync_folder`].
    ///
    /// # Errors
    /// What the system says; nothing is left behind then.
    pub fn place(mut self, path: &Path) -> io::Result<()> {
        if let Some(pending) = &self.path {
            fs::rename(pending, path)?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Whoever gave up on it has the error that matters.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file so that whoever opens `path`, even after a power cut, sees the
/// old content or the new one: aside, synced, renamed, folder synced.
///
/// # Errors
/// What the system says; `path` is then as it was, or, if only the folder could
/// not be synced, new.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    PendingFile::write(folder, content)?.place(path)?;
    sync_folder(folder)
}

/// As [`write()`], for nobody but the file's owner (mode 0600).
///
/// # Errors
/// What the system says, as for [`write()`].
pub fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(path)?;
    let mode = Permissions::from_mode(0o600);
    PendingFile::with(folder, content, Some(mode))?.place(path)?;
    sync_folder(folder)
}

/// As [`write()`], for a file that is there: it keeps its mode, and a link to it
/// stays one.
///
/// # Errors
/// What the system says, as for [`write()`].
pub fn rewrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = path.canonicalize()?;
    let folder = folder_of(&path)?;
    let mode = path.metadata()?.permissions();
    PendingFile::with(folder, content, Some(mode))?.place(&path)?;
    sync_folder(folder)
}

/// Whether [`write()`] could write so many bytes to `path` now: writes as many
/// aside, and removes them.
///
/// # Errors
/// What the system says.
pub fn probe(path: &Path, bytes: usize) -> io::Result<()> {
    PendingFile::write(folder_of(path)?, &vec![0; bytes]).map(drop)
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    if path.file_name().is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    })
}

/// Makes the names in a folder survive a power cut.
///
/// # Errors
/// What the system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder, and those above it, for nobody but their owner (mode 0700).
/// One that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Removes what a kill or a power cut left of files that were being written,
/// and says how many there were. Only for a folder that nobody else writes to.
///
/// # Errors
/// What the system says.
pub fn remove_leftovers(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(ASIDE.as_bytes()) && name.ends_with(PART.as_bytes()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// What the system says; [`io::ErrorKind::FileTooLarge`] if it is longer.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // What `metadata` says may be old, and a device or a pipe has length 0.
    File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// The right to change a folder; ends with this value, and with the process,
/// however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the [`Lock`] on `folder`, by a file `.lock` in it; `None` if another
/// process, or another place in this one, has it.
///
/// # Errors
/// What the system says.
pub fn lock(folder: &Path) -> io::Result<Option<Lock>> {
    let path = folder.join(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a disk, or somebody's share of it, is full.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Whether nothing may be written there: a read-only file system, or no
/// permission.
#[must_use]
pub fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), ReadOnlyFilesystem | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_a_file_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("folder");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, b"x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_probe_leaves_everything_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        fs::write(&path, b"old").unwrap();
        probe(&path, 100_000).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(probe(&folder.path().join("no/a.txt"), 1).is_err());
        assert!(probe(&folder.path().join(".."), 1).is_err());
    }

    #[test]
    fn leftovers_are_told_from_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let pending = PendingFile::write(folder.path(), b"half").unwrap();
        // As a kill leaves it: no `drop`.
        std::mem::forget(pending);
        for name in ["picture.jpg", ".maskd-notes", "x.part"] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        assert_eq!(remove_leftovers(folder.path()).unwrap(), 1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    }

    #[test]
    fn a_lock_is_held_once_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(held.is_some());
        assert!(lock(folder.path()).unwrap().is_none());
        drop(held);
        assert!(lock(folder.path()).unwrap().is_some());
    }

    #[test]
    fn folders_are_made_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        make_folder(&deep).unwrap();
        for made in [&deep, deep.parent().unwrap()] {
            let mode = fs::metadata(made).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        make_folder(&deep).unwrap();
    }

    #[test]
    fn reads_up_to_the_limit_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        let error = read(&path, 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn full_and_read_only_are_told_apart() {
        // ENOSPC, EDQUOT, EROFS, EACCES
        let kinds = [28, 122, 30, 13].map(io::Error::from_raw_os_error);
        assert_eq!(
            kinds.each_ref().map(is_no_space),
            [true, true, false, false]
        );
        assert_eq!(
            kinds.each_ref().map(is_read_only),
            [false, false, true, true]
        );
    }
}
