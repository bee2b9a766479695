//! The listening socket and its file.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::ControlError;

/// Mode of the socket file. It lets the file's owner and group connect.
const MODE: u32 = 0o660;

/// A listening socket. Dropping this value removes the socket file.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The file of a socket, which another program may remove or replace.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl SocketFile {
    /// Whether the path still refers to this socket.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // If the file cannot be removed, the next daemon replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A folder that other users cannot enter. It holds a socket whose mode has not been set
/// yet.
struct PendingSocket(PathBuf);

impl PendingSocket {
    fn beside(path: &Path) -> std::io::Result<PendingSocket> {
        // The name is short because a socket's path can have at most 107 bytes.
        let pending = PendingSocket(path.with_file_name(format!(".{}", std::process::id())));
        // A killed process with the same ID may have left the folder behind.
        pending.remove();
        DirBuilder::new().mode(0o700).create(&pending.0)?;
        Ok(pending)
    }

    fn path(&self) -> PathBuf {
        self.0.join("s")
    }

    fn remove(&self) {
        let _ = fs::remove_file(self.path());
        let _ = fs::remove_dir(&self.0);
    }
}

impl Drop for PendingSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Creates a socket that only its owner and group can access (mode 0660), and listens on
/// this socket. If a socket file already exists but no process listens on it, the file is
/// replaced.
///
/// The socket is moved to its path only after its mode has been set, so that no other
/// user can connect while the mode is still being set.
///
/// # Errors
/// Returns [`ControlError::InUse`], [`ControlError::NoSocket`],
/// [`ControlError::TooLong`], or [`ControlError::Io`] if the socket cannot be created.
pub fn bind(path: &Path) -> Result<Socket, ControlError> {
    let shown = || path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        // The only cause of this error is a path that is too long.
        ErrorKind::InvalidInput => ControlError::TooLong { path: shown() },
        _ => ControlError::io("create", path)(error),
    };
    match UnixStream::connect(path) {
        Ok(_) => return Err(ControlError::InUse { path: shown() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            let file = fs::symlink_metadata(path);
            if !file.is_ok_and(|file| file.file_type().is_socket()) {
                return Err(ControlError::NoSocket { path: shown() });
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let pending = PendingSocket::beside(path).map_err(failed)?;
    let listener = UnixListener::bind(pending.path()).map_err(failed)?;
    fs::set_permissions(pending.path(), Permissions::from_mode(MODE)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let identity = identity(&pending.path()).map_err(failed)?;
    fs::rename(pending.path(), path).map_err(failed)?;
    Ok(Socket {
        listener,
        file: SocketFile {
            path: path.to_owned(),
            identity,
        },
    })
}
