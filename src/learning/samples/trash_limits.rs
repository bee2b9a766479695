//! The limits on the trash, which determine which discarded samples must be deleted.

use std::collections::HashSet;

use super::sample::Sample;

/// Maximum number of samples in the trash.
const MAX_SAMPLES: usize = 500;
/// Maximum disk space of the trash, in bytes. A larger file is not kept at all.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Divides discarded samples, which are sorted from oldest to newest, into those that must
/// be deleted now and the others.
pub(super) fn select<'a>(
    discarded: Vec<&'a Sample>,
    expired: &HashSet<String>,
) -> (Vec<&'a Sample>, Vec<&'a Sample>) {
    let (mut deleted, kept): (Vec<_>, Vec<_>) = discarded
        .into_iter()
        .partition(|sample| expired.contains(&sample.id) || sample.disk_bytes > MAX_BYTES);
    let mut bytes: u64 = kept.iter().map(|sample| sample.disk_bytes).sum();
    let mut kept = kept.into_iter();
    while kept.len() > MAX_SAMPLES || bytes > MAX_BYTES {
        let Some(oldest) = kept.next() else { break };
        bytes = bytes.saturating_sub(oldest.disk_bytes);
        deleted.push(oldest);
    }
    (deleted, kept.collect())
}
