//! Reads the system's clocks, and determines whether the wall clock can be trusted.
//!
//! This module asks the system whether the wall clock is synchronized with a time server.
//! It knows nothing about what the time is used for.

use std::path::Path;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use jiff::tz::{TimeZone, reset_system_time_zone_cache};

use super::system;

/// The file that systemd-timesyncd creates or touches when it has synchronized the
/// clock (systemd-timesyncd.service(8)).
const TIMESYNCD_FLAG: &str = "/run/systemd/timesync/synchronized";
/// The earliest trusted time, 2026-01-01, in seconds since 1970. A clock that has never
/// been set shows an earlier time.
const EARLIEST: u64 = 1_767_225_600;
/// The first time that is too late to be trusted, 2100-01-01, in seconds since 1970.
const TOO_LATE: u64 = 4_102_444_800;

/// The readings of the clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The monotonic clock, which cannot be set.
    pub monotonic: Instant,
    /// The wall clock, or `None` if it is not synchronized with a time server.
    pub synchronized: Option<SystemTime>,
}

impl ClockReading {
    /// Reads the clocks.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place that reads the clocks for decisions that cannot be undone"
    )]
    pub fn now() -> ClockReading {
        ClockReading {
            monotonic: Instant::now(),
            synchronized: is_synchronized().then(SystemTime::now),
        }
    }

    /// Returns the synchronized time in seconds since 1970. Returns `None` if the clock
    /// is not synchronized, or if it shows a time that no time server can provide: a time
    /// before this program was written or after the year 2099.
    #[must_use]
    pub fn unix_seconds(&self) -> Option<i64> {
        believable(self.synchronized?)
    }
}

/// Returns a time in seconds since 1970, or `None` if it is before 2026 or after 2099.
#[must_use]
pub fn believable(time: SystemTime) -> Option<i64> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = since_1970.as_secs();
    (EARLIEST..TOO_LATE)
        .contains(&seconds)
        .then_some(seconds as i64)
}

/// Whether the wall clock is synchronized with a time server, according to the kernel or
/// to systemd-timesyncd.
///
/// The kernel's status covers every time service. systemd-timesyncd's file covers two
/// more cases: a device that does not allow this program to ask the kernel, and a
/// device that lost its network after its clock was set. In the second case, the
/// kernel's bound on the clock error exceeds 16 seconds within hours, although the clock
/// drifts by only seconds a day.
#[must_use]
pub fn is_synchronized() -> bool {
    system::is_clock_synchronized().unwrap_or(false) || Path::new(TIMESYNCD_FLAG).exists()
}

/// Returns the time that the wall clock shows, in UTC, such as `2026-11-29T08:15:00Z`. The
/// clock may be wrong, so this is only for people to read.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the time is shown, and decides nothing"
)]
pub(crate) fn shown_now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the time that the wall clock shows, in seconds since 1970. The clock may not be
/// synchronized, so nothing that cannot be undone may depend on this time. Returns `None` for
/// a time that cannot be right: before 2026 or after 2099.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the hour that a passage is counted in; nothing is deleted because of it"
)]
pub(crate) fn shown_seconds() -> Option<i64> {
    believable(SystemTime::now())
}

/// Finds the time zone of the device: the one in the environment variable `TZ`, or else the one
/// of `/etc/localtime`. Returns an unknown time zone, which shows UTC, if there is none or if it
/// cannot be read. This reads files, so that a change of the time zone takes effect at once.
#[must_use]
pub(crate) fn time_zone() -> TimeZone {
    // jiff would otherwise use a time zone for five minutes.
    reset_system_time_zone_cache();
    TimeZone::system()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_times_that_a_time_server_can_give_are_believed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, seconds) in [
            (at(0), None),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), None),
            // The next three times are the output of `date -u -d 2025-12-31T23:59:59
            // +%s`, the time one second later, and 2036-02-07.
            (at(1_767_225_599), None),
            (at(1_767_225_600), Some(1_767_225_600)),
            (at(2_085_978_496), Some(2_085_978_496)),
            (at(4_102_444_800), None),
            (at(u64::from(u32::MAX) * 1000), None),
        ] {
            assert_eq!(believable(time), seconds, "{time:?}");
        }
    }

    #[test]
    fn the_kernel_answers_without_any_privilege() {
        let answer = system::is_clock_synchronized();
        // A sandbox may forbid the call, which then fails with this error.
        if let Err(error) = &answer {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
        if answer.unwrap_or(false) {
            assert!(ClockReading::now().synchronized.is_some());
        } else if !Path::new(TIMESYNCD_FLAG).exists() {
            assert!(ClockReading::now().synchronized.is_none());
        }
    }
}
