//! Files that a command writes. Before the work starts, the command checks that it
//! can write them. When the command ends, each file is either complete or absent.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::platform::files;

/// Upper limit on the size of a head, a report, a plot or a contact sheet, in bytes.
pub(super) const SMALL_FILE: usize = 2 << 20;

/// Checks whether a file of `bytes` bytes can be written at `path`, so that a problem
/// is found before the work starts.
pub(super) fn can_write(path: &Path, bytes: usize) -> Result<(), Failure> {
    let has_folder = path
        .parent()
        .is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    let problem = match path.metadata() {
        Ok(there) if there.is_dir() => "it is a folder".to_owned(),
        // Writing replaces the file at the path, and replacing a device would do
        // harm.
        Ok(there) if !there.is_file() => "it is not a regular file".to_owned(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => error.to_string(),
        _ if !has_folder => "its folder does not exist".to_owned(),
        _ => match files::probe(path, bytes) {
            Ok(()) => return Ok(()),
            Err(error) => error.source.to_string(),
        },
    };
    Err(cannot_write(path, problem))
}

pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    files::write(path, content).map_err(|error| cannot_write(path, error.source))
}

fn cannot_write(path: &Path, problem: impl std::fmt::Display) -> Failure {
    let sentence = format!("cannot write {}: {problem}", path.display());
    Failure::new(Failure::CANNOT_WRITE, sentence)
}

/// Whether two paths name the same file. Both parent folders must exist.
pub(super) fn is_same_file(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok();
        (folder, path.file_name().map(ToOwned::to_owned))
    };
    place(a) == place(b)
}

/// Appends `suffix` to the file name in `path`. For example, `plot.svg` becomes
/// `plot.svg.csv`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}
