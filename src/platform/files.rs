//! Files that are there as a whole or not at all.
//!
//! Owns how bytes reach a disk so that they survive a kill or a power cut at
//! any moment, how long a file may be that is read, and how two programs are
//! kept out of one folder. Knows nothing of what is in the files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How the name of a temporary file begins.
const TEMPORARY_PREFIX: &str = ".maskd-";
/// And how it ends.
const TEMPORARY_SUFFIX: &str = ".part";
/// Bytes of a mebibyte.
const MIB: u64 = 1024 * 1024;

/// What the system refuses to do with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// A verb, and what it needs before the path: "read", "make the folder".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

impl FileError {
    /// Makes the error of one attempt out of what the system says, for
    /// `map_err`.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there is no such file or folder.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk, or somebody's share of it, is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether nothing may be written there: a read-only file system, or no
    /// permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), ReadOnlyFilesystem | PermissionDenied)
    }
}

/// A file that is written and synced under a temporary name. Dropped before it
/// is placed, it is deleted.
#[derive(Debug)]
#[must_use]
pub(crate) struct PendingFile {
    /// `None` once it is in its place.
    temporary: Option<PathBuf>,
}

impl PendingFile {
    /// Writes `content` into `folder`, under a hidden name that
    /// [`remove_leftovers`] knows.
    pub(crate) fn write(folder: &Path, content: &[u8]) -> Result<PendingFile, FileError> {
        PendingFile::with_mode(folder, content, None).map_err(FileError::of("write to", folder))
    }

    fn with_mode(
        folder: &Path,
        content: &[u8],
        mode: Option<Permissions>,
    ) -> io::Result<PendingFile> {
        // Nobody can guess the name and put a link there, and no two threads or
        // processes share one. It is short: the length of the final name may be
        // all that the system takes.
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let random = u64::from_ne_bytes(random);
        let path = folder.join(format!("{TEMPORARY_PREFIX}{random:016x}{TEMPORARY_SUFFIX}"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        if mode.is_some() {
            // What is kept from others must not be readable for a moment either.
            options.mode(0o600);
        }
        let mut file = options.open(&path)?;
        let pending = PendingFile {
            temporary: Some(path),
        };
        file.write_all(content)?;
        if let Some(mode) = mode {
            file.set_permissions(mode)?;
        }
        file.sync_all()?;
        Ok(pending)
    }

    /// Gives the file its name, in one step; a file that has the name is
    /// replaced. It takes a [`sync_folder`] for the name to survive a power cut.
    pub(crate) fn place(mut self, path: &Path) -> Result<(), FileError> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, path).map_err(FileError::of("write", path))?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // The error that matters is the one that led here.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file so that whoever opens `path`, even after a power cut, sees the
/// old content or the new one: under a temporary name, synced, renamed, and the
/// folder synced.
///
/// # Errors
/// [`FileError`]; `path` is then as it was, or, if only the folder could not be
/// synced, new.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, None)
}

/// As [`write()`], readable by nobody but the file's owner (mode 0600).
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, Some(Permissions::from_mode(0o600)))
}

/// As [`write()`], for a file that is there: it keeps its mode, and a link to it
/// stays one.
pub(crate) fn rewrite(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let file = path.canonicalize();
    let file = file.and_then(|file| Ok((file.metadata()?.permissions(), file)));
    let (mode, file) = file.map_err(FileError::of("write", path))?;
    replace(&file, content, Some(mode))
}

fn replace(path: &Path, content: &[u8], mode: Option<Permissions>) -> Result<(), FileError> {
    let folder = folder_of(path)?;
    PendingFile::with_mode(folder, content, mode)
        .map_err(FileError::of("write", path))?
        .place(path)?;
    sync_folder(folder)
}

/// Whether [`write()`] could write so many bytes to `path` now: writes as many
/// to a temporary file, and deletes it.
pub(crate) fn probe(path: &Path, bytes: usize) -> Result<(), FileError> {
    let folder = folder_of(path)?;
    PendingFile::with_mode(folder, &vec![0; bytes], None)
        .map(drop)
        .map_err(FileError::of("write", path))
}

fn folder_of(path: &Path) -> Result<&Path, FileError> {
    if path.file_name().is_none() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
        return Err(FileError::of("write", path)(source));
    }
    Ok(match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    })
}

/// Makes the names in a folder survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(FileError::of("sync the folder", folder))
}

/// Makes a folder, and those above it, for nobody but their owner (mode 0700).
/// One that is there stays as it is.
pub(crate) fn make_folder(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(FileError::of("make the folder", folder))?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => Ok(()),
    }
}

/// Deletes temporary files that a kill or a power cut left behind, and returns
/// how many there were. Only for a folder that nobody else writes to.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<usize, FileError> {
    let remove = || {
        let mut removed = 0;
        for entry in folder.read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(TEMPORARY_PREFIX.as_bytes())
                && name.ends_with(TEMPORARY_SUFFIX.as_bytes())
            {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    };
    remove().map_err(FileError::of("clean up the folder", folder))
}

/// Reads a file of at most `limit` bytes; a longer one is an error of the kind
/// [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let mut content = Vec::new();
        // What `metadata` says may be old, and a device or a pipe has length 0.
        File::open(path)?
            .take(limit + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            let problem = match (limit / MIB, limit % MIB) {
                (mib, 0) => format!("it has more than {mib} MiB"),
                _ => format!("it has more than {limit} bytes"),
            };
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        Ok(content)
    };
    read().map_err(FileError::of("read", path))
}

/// The right to change a folder. It ends with this value, and with the process,
/// however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the [`Lock`] on `folder`, by a file `.lock` in it; `None` if another
/// process, or another place in this one, holds it.
pub(crate) fn lock(folder: &Path) -> Result<Option<Lock>, FileError> {
    let failed = FileError::of("lock the folder", folder);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(".lock"));
    let locked = file.map_err(TryLockError::Error).and_then(|file| {
        file.try_lock()?;
        Ok(Lock { _file: file })
    });
    match locked {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
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
        assert_eq!(read_bounded(&path, 10).unwrap(), [7; 10]);
        let error = read_bounded(&path, 9).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::FileTooLarge);
        let sentence = format!("cannot read {}: it has more than 9 bytes", path.display());
        assert_eq!(error.to_string(), sentence);
    }

    #[test]
    fn full_and_read_only_are_told_apart() {
        // ENOSPC, EDQUOT, EROFS, EACCES
        let errors = [28, 122, 30, 13].map(|code| {
            let source = io::Error::from_raw_os_error(code);
            FileError::of("write", Path::new("a"))(source)
        });
        assert_eq!(
            errors.each_ref().map(FileError::is_no_space),
            [true, true, false, false]
        );
        assert_eq!(
            errors.each_ref().map(FileError::is_read_only),
            [false, false, true, true]
        );
    }

    #[test]
    fn temporary_files_are_new_and_have_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let pending: Vec<PendingFile> = (0..3)
            .map(|_| PendingFile::write(folder.path(), b"x").unwrap())
            .collect();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
        drop(pending);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
