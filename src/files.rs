//! Files that are there as a whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file so that whoever opens `path`, even after a power cut, sees the
/// old content or the new one: aside, synced, renamed, folder synced.
///
/// # Errors
/// What the system says; `path` is then as it was, or, if only the folder could
/// not be synced, new.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let (folder, aside) = places(path)?;
    let written = File::create(&aside)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        // It may not have been made; what matters is the first error.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

/// Whether [`write`] could write so many bytes to `path` now: writes as many
/// aside, and removes them.
///
/// # Errors
/// What the system says.
pub fn probe(path: &Path, bytes: usize) -> io::Result<()> {
    let (_, aside) = places(path)?;
    let written = File::create(&aside).and_then(|mut file| file.write_all(&vec![0; bytes]));
    // As in `write`: the first error is the one that matters.
    let removed = fs::remove_file(&aside);
    written.and(removed)
}

/// The folder of a file, and where it is written before it gets its name.
fn places(path: &Path) -> io::Result<(&Path, PathBuf)> {
    if path.file_name().is_none() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Not longer than `name`, whose length may be all that the system takes.
    let aside = folder.join(format!(".maskd-{}.part", std::process::id()));
    Ok((folder, aside))
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
        probe(&path, 100_000).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(probe(&folder.path().join("no/a.txt"), 1).is_err());
        assert!(probe(&folder.path().join(".."), 1).is_err());
    }
}
