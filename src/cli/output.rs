//! Writes the output files of commands. Before a command starts its work, it checks that
//! it can write its files. A file is written either completely or not at all. A file
//! never replaces a device, a pipe, a link, or a file in a state directory.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::learning::refuse_within_state;
use crate::platform::files;

/// Upper limit on the size of a head, a report, a plot, or a contact sheet, in bytes.
pub(super) const SMALL_FILE: usize = 3 << 20;

/// Checks whether a file of `bytes` bytes can be written at `path`, so that a problem
/// is found before the work starts.
pub(super) fn can_write(path: &Path, bytes: usize) -> Result<(), Failure> {
    files::probe(path, bytes, &refuse_within_state)
        .map_err(|error| cannot_write(path, error.source))
}

/// Creates a folder for output files, unless it exists.
pub(super) fn make_folder(folder: &Path) -> Result<(), Failure> {
    if let Some(problem) = refuse_within_state(&files::nearest_folder(folder)) {
        return Err(cannot_write(folder, problem));
    }
    std::fs::create_dir_all(folder).map_err(|error| {
        let folder = folder.display();
        let sentence = format!("cannot create the folder {folder}: {error}");
        Failure::new(Failure::CANNOT_WRITE, sentence)
    })
}

pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    files::write_unless(path, content, &refuse_within_state)
        .map_err(|error| cannot_write(path, error.source))
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
