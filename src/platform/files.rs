//! Files that are written either completely or not at all.
//!
//! This module writes bytes to disk so that they survive a kill or a power cut at any
//! moment, limits the size of the files that are read, and prevents two programs from
//! changing the same folder. It knows nothing about the contents of the files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Prefix of the names of temporary files.
const TEMPORARY_PREFIX: &str = ".maskd-";
/// Suffix of the names of temporary files.
const TEMPORARY_SUFFIX: &str = ".part";
/// Number of bytes in a mebibyte.
const MIB: u64 = 1024 * 1024;

/// A failed operation on a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// A verb and the words between it and the path: "read", "make the folder".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The error that the system returned.
    pub source: io::Error,
}

impl FileError {
    /// Returns a function for `map_err` that wraps the system's error together with the
    /// attempted action and the path.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file or folder does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk is full or a disk quota is used up.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether writing is not allowed because the file system is read-only or the
    /// process lacks permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), ReadOnlyFilesystem | PermissionDenied)
    }
}

/// A file that is written and synced under a temporary name. If it is dropped before
/// [`place`](PendingFile::place) renames it, the file is deleted.
#[derive(Debug)]
#[must_use]
pub(crate) struct PendingFile {
    /// The temporary path; `None` once the file has its final name.
    temporary: Option<PathBuf>,
}

impl PendingFile {
    /// Writes `content` to a file in `folder`, under a hidden name that
    /// [`remove_leftovers`] recognizes.
    pub(crate) fn write(folder: &Path, content: &[u8]) -> Result<PendingFile, FileError> {
        PendingFile::with_mode(folder, content, None).map_err(FileError::of("write to", folder))
    }

    fn with_mode(
        folder: &Path,
        content: &[u8],
        mode: Option<Permissions>,
    ) -> io::Result<PendingFile> {
        // The name is random, so that nobody can guess it and create a link there, and
        // so that no two threads or processes use the same one. It is short and
        // independent of the final name, which may already have the maximum length that
        // the system allows.
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let random = u64::from_ne_bytes(random);
        let path = folder.join(format!("{TEMPORARY_PREFIX}{random:016x}{TEMPORARY_SUFFIX}"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        if mode.is_some() {
            // Secret content must not be readable by others even for a moment.
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

    /// Gives the file its final name in one atomic step and replaces any existing file
    /// with that name. The name survives a power cut only after a call to [`sync_folder`].
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
            // Ignore this error, because only the error that led here matters.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file so that any program that opens `path`, even after a power cut, sees
/// either the old content or the new content. To do so, it writes a temporary file, syncs
/// and renames it, and syncs the folder.
///
/// # Errors
/// [`FileError`]. `path` then has its old content, or the new content if only syncing the
/// folder failed.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, None)
}

/// Same as [`write()`], but only the file's owner can read the file (mode 0600).
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, Some(Permissions::from_mode(0o600)))
}

/// Same as [`write()`], but for an existing file. The file keeps its mode, and if `path`
/// is a link, it stays a link.
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

/// Checks whether [`write()`] could write this number of bytes to `path` now, by writing
/// them to a temporary file and deleting it.
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

/// Syncs a folder, so that the names in it survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    let sync = || File::open(folder)?.sync_all();
    sync().map_err(FileError::of("sync the folder", folder))
}

/// Creates a folder and its missing parents so that only the owner has access (mode 0700).
/// An existing folder is left unchanged.
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
/// how many there were. Call it only for a folder that no other thread or process writes
/// to.
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

/// Reads a file of at most `limit` bytes; a longer file causes an error of the kind
/// [`io::ErrorKind::FileTooLarge`].
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let read = || {
        let mut content = Vec::new();
        // Do not rely on the length in `metadata`: it may be outdated, and it is 0 for a
        // device or a pipe.
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

/// The right to change a folder. It is released when this value is dropped or when the
/// process ends for any reason.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the [`Lock`] on `folder` by locking the file `.lock` in it; `None` if another
/// process, or another part of this one, holds the lock.
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
        // A kill does not run `drop`, so skip it here.
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
