//! Files that are written either completely or not at all.
//!
//! This module writes bytes to disk so that they survive a kill or a power cut at any
//! moment, limits the size of the files that are read, and prevents two programs from
//! changing the same folder. It knows nothing about the contents of the files.
//!
//! Everything that maskd writes goes through this module. A new file is written under a
//! random name that did not exist before. It may replace a regular file, but not a
//! device, a pipe, or a link. Every file that maskd reads into memory must be a regular
//! file, because reading a pipe could wait forever for a program that does not write.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tracing::warn;

#[cfg(test)]
use super::faults::step;

/// Called before each disk operation, so that a test can make the operation fail.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails only in tests")]
fn step() -> io::Result<()> {
    Ok(())
}

/// Prefix of the names of temporary files.
const TEMPORARY_PREFIX: &str = ".maskd-";
/// Suffix of the names of temporary files.
const TEMPORARY_SUFFIX: &str = ".part";
/// Maximum size in bytes of a file that is read from /proc or /sys. The largest such file
/// is the list of a process's mappings.
pub(crate) const MAX_PROC_BYTES: u64 = 4 * MIB;
/// Number of bytes in a mebibyte.
const MIB: u64 = 1024 * 1024;

/// A failed operation on a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// A verb and any words between the verb and the path, such as "read" or "make the
    /// folder".
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

/// A function that decides whether a file may be written to a folder. It receives the
/// path of the folder, without links. It returns the reason that nothing may be written
/// there, or `None` if writing is allowed.
type Refuse<'a> = &'a dyn Fn(&Path) -> Option<&'static str>;

/// Returns the reason that a file of this type may not be written, worded as the end of a
/// sentence, or `None` for a regular file.
fn refusal(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("it is a folder"),
        FileType::Symlink => Some("it is a symbolic link: name the file that it points to"),
        _ => Some("it is not a regular file"),
    }
}

fn refused(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// An open folder. Files are written relative to the open folder, so that they end up
/// there even if another program replaces a part of the path with a link in the
/// meantime.
#[derive(Debug)]
struct OpenFolder {
    file: File,
    path: PathBuf,
}

impl OpenFolder {
    fn open(path: &Path, flags: OFlags) -> io::Result<OpenFolder> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(OpenFolder {
            file: file.into(),
            path: path.to_owned(),
        })
    }

    /// Returns the path of the folder without links.
    fn real_path(&self) -> io::Result<PathBuf> {
        // Ask the kernel for the path of the open folder, because the folder may have
        // been moved in the meantime.
        fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .or_else(|_| self.path.canonicalize())
    }

    /// Checks that `name` is a regular file or does not exist.
    fn check_target(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => match refusal(FileType::from_raw_mode(there.st_mode)) {
                None => Ok(()),
                Some(problem) => Err(refused(problem)),
            },
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who may read a new file.
#[derive(Debug, Clone)]
enum Access {
    /// Every user that the process's umask allows.
    Usual,
    /// Only the owner of the folder. The owner of the folder also becomes the owner of
    /// the file.
    Secret,
    /// The owner of the file and the group with this number.
    Group(u32),
    /// The users who may read the file that is replaced. The new file gets the
    /// permissions of the old file.
    Like(Permissions),
}

/// A file that is written and synced under a temporary name. If this value is dropped
/// before [`place`](PendingFile::place) renames the file, the file is deleted.
#[derive(Debug)]
#[must_use]
pub(crate) struct PendingFile {
    folder: OpenFolder,
    /// The temporary name, or `None` once the file has its final name.
    temporary: Option<OsString>,
}

impl PendingFile {
    /// Writes `content` to a file in `folder`, under a hidden name that
    /// [`remove_leftovers`] recognizes. Returns an error if `folder` is a link.
    pub(crate) fn write(folder: &Path, content: &[u8]) -> Result<PendingFile, FileError> {
        check_no_link(folder)?;
        OpenFolder::open(folder, OFlags::NOFOLLOW)
            .and_then(|open| PendingFile::in_folder(open, content, &Access::Usual))
            .map_err(FileError::of("write to", folder))
    }

    fn in_folder(folder: OpenFolder, content: &[u8], access: &Access) -> io::Result<PendingFile> {
        // The name is random, so that an attacker cannot guess the name and create a
        // link with this name, and so that two threads or processes never choose the
        // same name. It is short and independent of the final name, which may already
        // have the maximum length that the system allows.
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let random = u64::from_ne_bytes(random);
        let name = format!("{TEMPORARY_PREFIX}{random:016x}{TEMPORARY_SUFFIX}");
        // Secret content must not be readable by others even for a moment.
        let mode = match access {
            Access::Usual => Mode::from_raw_mode(0o666),
            Access::Secret | Access::Group(_) | Access::Like(_) => Mode::from_raw_mode(0o600),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        step()?;
        let file = rustix::fs::openat(&folder.file, &name, flags | OFlags::CLOEXEC, mode)?;
        let mut file = File::from(file);
        let pending = PendingFile {
            folder,
            temporary: Some(name.into()),
        };
        step()?;
        file.write_all(content)?;
        match access {
            Access::Usual => {}
            Access::Secret => {
                // Even if root writes the file, the file must belong to the owner of
                // the folder, because the daemon runs as the owner of the folder.
                let owner = pending.folder.file.metadata()?;
                if file.metadata()?.uid() != owner.uid() {
                    fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
                }
            }
            Access::Group(group) => {
                fchown(&file, None, Some(*group))?;
                file.set_permissions(Permissions::from_mode(0o640))?;
            }
            Access::Like(mode) => file.set_permissions(mode.clone())?,
        }
        step()?;
        file.sync_all()?;
        Ok(pending)
    }

    /// Gives the file its final name in one atomic step and replaces any existing regular
    /// file with that name. `path` must name a file in the folder that the file was
    /// written to. The name survives a power cut only after a call to [`sync_folder`].
    pub(crate) fn place(self, path: &Path) -> Result<(), FileError> {
        let placed = match path.file_name() {
            Some(name) if path.parent() == Some(&self.folder.path) => self.rename(name),
            _ => Err(refused(
                "it does not name a file in the folder of its temporary file",
            )),
        };
        placed.map(drop).map_err(FileError::of("write", path))
    }

    /// Gives the file its final name, and returns the folder that contains the file.
    fn rename(mut self, name: &OsStr) -> io::Result<File> {
        self.folder.check_target(name)?;
        let folder = self.folder.file.try_clone()?;
        if let Some(temporary) = &self.temporary {
            step()?;
            rustix::fs::renameat(&folder, temporary, &folder, name)?;
            self.temporary = None;
        }
        Ok(folder)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // Ignore this error, because only the error that made the write fail
            // matters.
            let _ = rustix::fs::unlinkat(&self.folder.file, name, AtFlags::empty());
        }
    }
}

/// Replaces the content of a file. Any program that opens `path`, even after a power
/// cut, sees either the old content or the new content. To achieve this, the function
/// writes a temporary file, syncs it, renames it, and syncs the folder.
///
/// # Errors
/// [`FileError`] if writing fails, or if `path` is something other than a regular file,
/// such as a link or a device. `path` then keeps its old content. If only the sync of
/// the folder fails, `path` already has the new content, so this failure is logged but
/// not returned.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, &Access::Usual, None)
}

/// Writes a file like [`write()`], but to a path that a user specified. `refuse`
/// receives the path of the folder without links, and returns the reason that nothing
/// may be written there.
pub(crate) fn write_unless(
    path: &Path,
    content: &[u8],
    refuse: Refuse<'_>,
) -> Result<(), FileError> {
    replace(path, content, &Access::Usual, Some(refuse))
}

/// Writes a file like [`write()`], but only the owner of the folder can read the file
/// (mode 0600). The owner of the folder also becomes the owner of the file.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, &Access::Secret, None)
}

/// Writes a file like [`write()`], but only the user of this process and the group with this
/// number can read the file (mode 0640).
pub(crate) fn write_group_secret(path: &Path, content: &[u8], group: u32) -> Result<(), FileError> {
    replace(path, content, &Access::Group(group), None)
}

/// Writes an existing file like [`write()`]. The file keeps its mode. If `path` is a
/// link, it stays a link, and the file that it points to is written.
pub(crate) fn rewrite(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let file = path.canonicalize();
    let file = file.and_then(|file| Ok((file.metadata()?.permissions(), file)));
    let (mode, file) = file.map_err(FileError::of("write", path))?;
    replace(&file, content, &Access::Like(mode), None)
}

fn replace(
    path: &Path,
    content: &[u8],
    access: &Access,
    refuse: Option<Refuse<'_>>,
) -> Result<(), FileError> {
    let write = || {
        let (folder, name) = target(path, refuse)?;
        PendingFile::in_folder(folder, content, access)?.rename(name)
    };
    let folder = write().map_err(FileError::of("write", path))?;
    if let Err(error) = step().and_then(|()| folder.sync_all()) {
        let error = FileError::of("sync the folder of", path)(error);
        warn!(%error, "a change may not survive a power cut");
    }
    Ok(())
}

/// Checks whether [`write_unless`] could currently write this number of bytes to
/// `path`. To do so, writes the same number of bytes to a temporary file and deletes
/// the file.
pub(crate) fn probe(path: &Path, bytes: usize, refuse: Refuse<'_>) -> Result<(), FileError> {
    target(path, Some(refuse))
        .and_then(|(folder, _)| PendingFile::in_folder(folder, &vec![0; bytes], &Access::Usual))
        .map(drop)
        .map_err(FileError::of("write", path))
}

/// Opens the folder of a file that is to be written, and checks that the file may be
/// written. Returns the folder and the name of the file in the folder.
fn target<'a>(path: &'a Path, refuse: Option<Refuse<'_>>) -> io::Result<(OpenFolder, &'a OsStr)> {
    let name = path.file_name().ok_or(refused("it does not name a file"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = OpenFolder::open(folder, OFlags::empty()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(io::ErrorKind::NotFound, "its folder does not exist")
        }
        _ => error,
    })?;
    if let Some(refuse) = refuse
        && let Some(problem) = refuse(&folder.real_path()?)
    {
        return Err(refused(problem));
    }
    folder.check_target(name)?;
    Ok((folder, name))
}

/// Syncs a folder, so that the names in it survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    let sync = || {
        step()?;
        File::open(folder)?.sync_all()
    };
    sync().map_err(FileError::of("sync the folder", folder))
}

/// Syncs a folder like [`sync_folder`], but only logs a failure. Call this function
/// after renaming files in the folder: the new names are already visible, so it is too
/// late to report an error.
pub(crate) fn settle(folder: &Path) {
    if let Err(error) = sync_folder(folder) {
        warn!(%error, "a change may not survive a power cut");
    }
}

/// Renames a file or folder.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::rename(from, to)
}

/// Deletes a file.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    step()?;
    fs::remove_file(path)
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

/// Creates a folder like [`make_folder`], but refuses a link to a folder.
pub(crate) fn make_real_folder(folder: &Path) -> Result<(), FileError> {
    check_no_link(folder)?;
    make_folder(folder)
}

/// Checks that a folder is not a link. maskd neither writes nor deletes through links in its
/// own folders. A link is reported as an error rather than skipped, so that no files are
/// overlooked.
pub(crate) fn check_no_link(folder: &Path) -> Result<(), FileError> {
    if folder.is_symlink() {
        let source = refused("it is a symbolic link: put a real folder in its place");
        return Err(FileError::of("use the folder", folder)(source));
    }
    Ok(())
}

/// Returns `folder` if it exists, and otherwise the nearest existing folder above it.
/// The returned path contains no links.
pub(crate) fn nearest_folder(folder: &Path) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut existing = folder.ancestors();
    let existing = existing.find_map(|folder| folder.canonicalize().ok());
    existing.unwrap_or(folder)
}

/// Whether `entry`, which is somewhere below the folder `top`, is a link to `top` or to a
/// folder that contains `top`. `top` must be a path without links.
pub(crate) fn leads_up(entry: &Path, top: &Path) -> bool {
    entry.is_symlink()
        && entry
            .canonicalize()
            .is_ok_and(|target| top.starts_with(target))
}

/// Deletes temporary files that a kill or a power cut left behind, and returns the
/// number of deleted files. Call this function only for a folder that no other thread
/// or process writes to.
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

/// Reads a regular file of at most `limit` bytes, and follows links. If the file is
/// longer, the error has the kind [`io::ErrorKind::FileTooLarge`]. For a pipe, a
/// device, or a folder, the error has the kind [`io::ErrorKind::InvalidInput`].
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read(path, limit, OFlags::empty()).map_err(FileError::of("read", path))
}

/// Reads a file like [`read_bounded`], but refuses a link. Use this function for files
/// that maskd wrote itself, because maskd never writes its own files through links.
pub(crate) fn read_own(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read(path, limit, OFlags::NOFOLLOW).map_err(FileError::of("read", path))
}

/// Reads at most `length` bytes from the beginning of a file, and refuses a link like
/// [`read_own`].
pub(crate) fn read_head(path: &Path, length: usize) -> Result<Vec<u8>, FileError> {
    let read = || {
        step()?;
        let (file, _) = open_regular(path, OpenOptions::new().read(true), OFlags::NOFOLLOW)?;
        let mut content = Vec::with_capacity(length);
        file.take(length as u64).read_to_end(&mut content)?;
        Ok(content)
    };
    read().map_err(FileError::of("read", path))
}

/// Reads a text file like [`read_bounded`].
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let bytes = read_bounded(path, limit)?;
    String::from_utf8(bytes).map_err(|_| {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
        FileError::of("read", path)(source)
    })
}

fn read(path: &Path, limit: u64, flags: OFlags) -> io::Result<Vec<u8>> {
    step()?;
    let (file, _) = open_regular(path, OpenOptions::new().read(true), flags)?;
    let mut content = Vec::new();
    // Do not rely on the length in `metadata`: it may be outdated, and it is 0 for a
    // file in /proc.
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let problem = match (limit / MIB, limit % MIB) {
            (mib, 0) => format!("it has more than {mib} MiB"),
            _ => format!("it has more than {limit} bytes"),
        };
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(content)
}

/// Opens a regular file. Unlike the usual way to open a file, this function never waits
/// for another program to open the other end of a pipe.
fn open_regular(
    path: &Path,
    options: &mut OpenOptions,
    flags: OFlags,
) -> io::Result<(File, Metadata)> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let no_follow = flags.contains(OFlags::NOFOLLOW);
    let opened = options.custom_flags(flags.bits() as i32).open(path);
    let file = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) if no_follow => {
            refused("it is a symbolic link: put the file itself in its place")
        }
        // The file is a socket, or a pipe that no program reads from.
        Some(rustix::io::Errno::NXIO) => refused("it is not a regular file"),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    match refusal(FileType::from_raw_mode(metadata.mode())) {
        None => Ok((file, metadata)),
        Some(problem) => Err(refused(problem)),
    }
}

/// The right to change a folder. The lock is released when this value is dropped or
/// when the process ends for any reason.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the [`Lock`] on `folder` by locking the file `.lock` in the folder. Returns
/// `None` if another process, or another part of this process, holds the lock.
pub(crate) fn lock(folder: &Path) -> Result<Option<Lock>, FileError> {
    let failed = FileError::of("lock the folder", folder);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let file = open_regular(&folder.join(".lock"), &mut options, OFlags::NOFOLLOW);
    let locked = file.map_err(TryLockError::Error).and_then(|(file, _)| {
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
        probe(&path, 100_000, &|_| None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(probe(&folder.path().join("no/a.txt"), 1, &|_| None).is_err());
        assert!(probe(&folder.path().join(".."), 1, &|_| None).is_err());
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
    fn the_beginning_of_a_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_head(&path, 4).unwrap(), [7; 4]);
        assert_eq!(read_head(&path, 40).unwrap(), [7; 10]);
        assert!(read_head(folder.path(), 4).is_err());
    }

    #[test]
    fn files_that_maskd_wrote_are_not_read_through_links() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_own(&file, 10).unwrap(), b"x");
        assert_eq!(read_bounded(&link, 10).unwrap(), b"x");
        let error = read_own(&link, 10).unwrap_err().to_string();
        assert!(error.contains("it is a symbolic link"), "{error}");
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
