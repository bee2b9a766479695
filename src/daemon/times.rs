//! What `[times]` and the quiet hours allow at the moment.
//!
//! The control thread updates this, because finding the local time can read files. The
//! other threads only read the latest result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Shared, wall_clock};
use crate::api::socket::{Live, LiveTimes, LiveWindow};
use crate::config::{self, Config};
use crate::indicate::{Schedule, Window, WindowState};
use crate::platform::clock::{self, ClockReading};

/// The longest time between two updates. After a jump of the clock or a change of the time
/// zone, the outputs are right again after this time.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The shortest time between two updates.
const MIN_WAIT: Duration = Duration::from_millis(50);
/// How old the latest result may be. An older one is not used, because the thread that
/// updates it hangs.
const MAX_AGE: Duration = Duration::from_mins(1);

/// Which activities are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the activities are independent of each other"
)]
pub(super) struct Allowed {
    /// Whether the LEDs show the decision.
    pub(super) indicate: bool,
    /// Whether the door locks.
    pub(super) lock: bool,
    /// Whether crops are captured.
    pub(super) capture: bool,
    /// Whether the buzzer and sounds are on.
    pub(super) sound: bool,
    /// Whether sounds have the low volume.
    pub(super) low_volume: bool,
    /// When this was found. `None` if it never changes.
    pub(super) at: Option<Instant>,
}

impl Allowed {
    /// What is allowed without any windows.
    pub(super) const ALL: Allowed = Allowed {
        indicate: true,
        lock: true,
        capture: true,
        sound: true,
        low_volume: false,
        at: None,
    };

    /// Returns this value if it is recent enough at time `now`, and otherwise what is
    /// allowed without any windows.
    pub(super) fn at(self, now: Instant) -> Allowed {
        let is_old = |at: Instant| now.saturating_duration_since(at) > MAX_AGE;
        if self.at.is_some_and(is_old) {
            Allowed::ALL
        } else {
            self
        }
    }
}

/// What is allowed at a moment, and when this changes.
struct Found {
    allowed: Allowed,
    record: LiveTimes,
    /// The next change of any activity or of the volume.
    next_change: Option<Timestamp>,
}

/// Publishes what is allowed, and when this changes.
pub(super) struct Times {
    options: config::Times,
    quiet: Option<Window>,
    has_windows: bool,
    low_volume: Vec<Window>,
    allowed: Arc<watch::Sender<Allowed>>,
    live: Arc<watch::Sender<Live>>,
}

impl Times {
    pub(super) fn new(config: &Config, shared: &Shared) -> Times {
        Times {
            options: config.times.clone(),
            quiet: config.indicate.quiet(),
            has_windows: config.depends_on_time_of_day(),
            low_volume: config.sound.low_volume_times.clone(),
            allowed: Arc::clone(&shared.allowed),
            live: Arc::clone(&shared.live),
        }
    }

    /// Whether anything depends on the time.
    pub(super) fn has_windows(&self) -> bool {
        self.has_windows
    }

    /// Publishes what is allowed now. Returns how long to wait until the next update.
    pub(super) fn update(&self) -> Duration {
        // A clock that shows no valid date is not synchronized either.
        let at = Timestamp::try_from(wall_clock()).unwrap_or_default();
        let Found {
            allowed,
            record,
            next_change,
        } = self.find(&clock::time_zone(), ClockReading::now(), at);
        let before = self.allowed.send_replace(allowed);
        for (activity, before, now) in [
            ("indicate", before.indicate, allowed.indicate),
            ("lock", before.lock, allowed.lock),
            ("capture", before.capture, allowed.capture),
            ("sound", before.sound, allowed.sound),
        ] {
            if before != now {
                info!(activity, on = now, "a window of time has started or ended");
            }
        }
        let mut before = None;
        self.live.send_if_modified(|live| {
            before = live.times.replace(record.clone());
            before.as_ref() != Some(&record)
        });
        self.log_reason(before.as_ref(), &record);
        let wait = next_change.map(|next| Duration::try_from(next.duration_since(at)));
        let wait = wait.and_then(Result::ok).unwrap_or(MAX_WAIT);
        wait.clamp(MIN_WAIT, MAX_WAIT)
    }

    /// Logs why the windows apply or do not apply, if this differs from what was found before.
    fn log_reason(&self, before: Option<&LiveTimes>, now: &LiveTimes) {
        let reason = |times: &LiveTimes| (times.clock_synchronized, times.time_zone_known);
        let is_new = before.map(reason) != Some(reason(now));
        if is_new && self.has_windows() && !now.time_zone_known {
            warn!(
                "the time zone of the device is not known, so the windows in [times] do not apply \
                 and the quiet hours are in UTC: set it with \"timedatectl set-timezone\", or \
                 correct the environment variable TZ"
            );
        }
        if is_new && self.options.has_windows() {
            if !now.clock_synchronized {
                warn!("the clock is not synchronized: the windows in [times] do not apply");
            } else if now.time_zone_known {
                info!("the clock is synchronized: the windows in [times] apply");
            }
        }
    }

    /// Returns what is allowed at the time `at` of the wall clock. The windows apply only
    /// if the clock is synchronized and the time zone is known. The quiet hours always apply,
    /// because a wrong clock can then only silence the buzzer.
    fn find(&self, zone: &TimeZone, clock: ClockReading, at: Timestamp) -> Found {
        let clock_synchronized = clock.unix_seconds().is_some();
        let time_zone_known = !zone.is_unknown();
        let is_certain = clock_synchronized && time_zone_known;
        let state = |windows: &[Window], except| {
            let windows = if is_certain { windows } else { &[] };
            let schedule = Schedule {
                windows,
                holidays: &self.options.holidays,
                except,
            };
            schedule.state(zone, at)
        };
        let indicate = state(&self.options.indicate, None);
        let lock = state(&self.options.lock, None);
        let capture = state(&self.options.capture, None);
        let sound = state(&self.options.sound, self.quiet);
        let low_volume = match self.low_volume[..] {
            [] => None,
            _ if !is_certain => None,
            ref windows => Some(state(windows, None)),
        };
        let record = |state: WindowState| LiveWindow {
            on: state.is_on,
            next_change: state.next_change.map(|next| {
                let next = next.to_zoned_datetime(zone.clone());
                next.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
            }),
        };
        let changes = [
            Some(indicate),
            Some(lock),
            Some(capture),
            Some(sound),
            low_volume,
        ];
        Found {
            allowed: Allowed {
                indicate: indicate.is_on,
                lock: lock.is_on,
                capture: capture.is_on,
                sound: sound.is_on,
                low_volume: low_volume.is_some_and(|state| state.is_on),
                at: Some(clock.monotonic),
            },
            record: LiveTimes {
                clock_synchronized,
                time_zone_known,
                indicate: record(indicate),
                lock: record(lock),
                capture: record(capture),
                sound: record(sound),
            },
            next_change: changes
                .into_iter()
                .flatten()
                .filter_map(|state| state.next_change)
                .min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::parse;
    use crate::config::settings::Settings;

    const CONFIG: &str = "[indicate]\nrelay-pin = 23\nquiet-from = \"22:00\"\nquiet-to = \"07:00\"\n\
                          [times]\nlock = [\"Mon-Fri 08:00-18:00\"]\ncapture = [\"09:00-10:00\"]\n\
                          holidays = [\"2026-12-25\"]\n\
                          [sound]\nlow-volume-times = [\"12:00-13:00\"]\n";

    fn find(at: &str, is_synchronized: bool) -> Found {
        find_in(&TimeZone::posix("CET-1").unwrap(), at, is_synchronized)
    }

    fn find_in(zone: &TimeZone, at: &str, is_synchronized: bool) -> Found {
        let config = parse("test", CONFIG).unwrap();
        let settings = Arc::new(Settings::new(&config, None));
        let times = Times::new(&config, &Shared::new(&settings));
        assert!(times.has_windows());
        let at: Timestamp = at.parse().unwrap();
        let clock = ClockReading {
            monotonic: super::super::now(),
            synchronized: is_synchronized.then(|| SystemTime::try_from(at).unwrap()),
        };
        times.find(zone, clock, at)
    }

    #[test]
    fn the_windows_apply_while_the_clock_is_synchronized() {
        // A Monday, 07:30 in the morning at the door.
        let early = find("2026-11-30T06:30:00Z", true);
        assert!(!early.allowed.lock && !early.allowed.capture);
        assert!(early.allowed.indicate && early.allowed.sound);
        let lock = early.record.lock.next_change.unwrap();
        assert_eq!(lock, "2026-11-30T08:00:00+01:00");
        assert_eq!(early.next_change, "2026-11-30T07:00:00Z".parse().ok());
        let noon = find("2026-11-30T11:30:00Z", true).allowed;
        assert!(noon.lock && noon.low_volume);
        assert!(
            !find("2026-12-25T11:30:00Z", true).allowed.lock,
            "a holiday"
        );
        let doubtful = find("2026-11-30T06:30:00Z", false);
        let allowed = Allowed {
            at: None,
            ..doubtful.allowed
        };
        assert_eq!(allowed, Allowed::ALL);
        assert!(!doubtful.record.clock_synchronized);
        // The clock of a board that was never set starts in 1970.
        assert!(find("1970-01-01T12:00:00Z", true).allowed.lock);
        for is_synchronized in [true, false] {
            let night = find("2026-11-30T22:30:00Z", is_synchronized);
            assert!(!night.allowed.sound, "the quiet hours always apply");
        }
    }

    #[test]
    fn the_windows_do_not_apply_in_an_unknown_time_zone() {
        // A Monday, before the door locks in any time zone that shows this time.
        let unknown = find_in(&TimeZone::unknown(), "2026-11-30T06:30:00Z", true);
        assert!(unknown.record.clock_synchronized && !unknown.record.time_zone_known);
        assert!(unknown.allowed.lock && unknown.allowed.capture);
        let noon = find_in(&TimeZone::unknown(), "2026-11-30T12:30:00Z", true);
        assert!(!noon.allowed.low_volume);
        let night = find_in(&TimeZone::unknown(), "2026-11-30T22:30:00Z", true);
        assert!(!night.allowed.sound, "the quiet hours always apply");
        assert!(
            !find_in(&TimeZone::UTC, "2026-11-30T06:30:00Z", true)
                .allowed
                .lock
        );
    }

    #[test]
    fn an_old_result_is_not_used() {
        let allowed = find("2026-11-30T06:30:00Z", true).allowed;
        let at = allowed.at.unwrap();
        assert_eq!(allowed.at(at + MAX_AGE), allowed);
        let later = at + MAX_AGE + Duration::from_millis(1);
        assert_eq!(allowed.at(later), Allowed::ALL);
        assert_eq!(Allowed::ALL.at(later), Allowed::ALL);
    }
}
