//! The free space of a disk.

use std::path::Path;

use rustix::fs::StatVfsMountFlags;

const MIB: u64 = 1024 * 1024;

/// The disk of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskSpace {
    /// Space that programs other than those of root can use, in MiB.
    pub(crate) free_mib: u64,
    /// Size in MiB.
    pub(crate) total_mib: u64,
    /// Whether nothing can be written.
    pub(crate) is_read_only: bool,
}

impl DiskSpace {
    /// Asks the system about the disk of an existing file or folder. Returns `None` if the system
    /// does not tell.
    pub(crate) fn of(path: &Path) -> Option<DiskSpace> {
        let disk = rustix::fs::statvfs(path).ok()?;
        let mib = |blocks: u64| blocks.saturating_mul(disk.f_frsize) / MIB;
        Some(DiskSpace {
            free_mib: mib(disk.f_bavail),
            total_mib: mib(disk.f_blocks),
            is_read_only: disk.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_at_most_its_size_free() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskSpace::of(folder.path()).unwrap();
        assert!(disk.free_mib <= disk.total_mib && disk.total_mib > 0);
        assert!(!disk.is_read_only);
        assert_eq!(DiskSpace::of(&folder.path().join("missing")), None);
    }
}
