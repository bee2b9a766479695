//! Names of samples: ids, tracks, and the time in them.

use std::time::{Duration, SystemTime};

/// Samples with the same key show the same face within seconds: near-copies,
/// which a split must keep together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKey {
    /// A track of a day. Track numbers begin anew with each run, so two tracks
    /// of one day may share a key: a split then keeps more together than it
    /// must, which does no harm.
    Day {
        /// As [`Sample::day`](super::Sample::day).
        day: String,
        /// The number in the name.
        track: u64,
    },
    /// A name with a track, but without a time.
    Undated(u64),
    /// A file that somebody put there: the only one of its track. Holds its id.
    Alone(String),
}

/// What a name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// Time of capture; only names of our own making have it.
    pub at: Option<SystemTime>,
    pub track: Option<u64>,
}

/// The id of a capture: `20261124T101530.123Z-t000017-03`. Times before 1970 and
/// after 9999 become the nearest that can be written.
pub(super) fn id(at: SystemTime, track: u64, number: u64) -> String {
    let Civil {
        year,
        month,
        day,
        millis,
    } = Civil::of(at);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millis:03}Z\
         -t{track:06}-{number:02}"
    )
}

/// The UTC day of a time: `2026-11-24`.
pub(super) fn day(at: SystemTime) -> String {
    let Civil {
        year, month, day, ..
    } = Civil::of(at);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Takes an id apart, of whoever's making.
pub(super) fn parse(id: &str) -> Name {
    let track = track(id);
    Name {
        at: time(id).filter(|_| is_own(id)),
        track: track.and_then(|digits| digits.parse().ok()),
    }
}

/// Whether an id is one that [`id`] makes.
fn is_own(id: &str) -> bool {
    let Some((_, rest)) = id.split_once("Z-t") else {
        return false;
    };
    let Some((track, number)) = rest.split_once('-') else {
        return false;
    };
    let digits = |text: &str, least: usize| {
        (least..=20).contains(&text.len())
            && text.bytes().all(|digit| digit.is_ascii_digit())
            && text.parse::<u64>().is_ok()
    };
    time(id).is_some() && digits(track, 6) && digits(number, 2)
}

/// The digits of the first `-tNNNNNN` that a `-` or the end follows.
fn track(id: &str) -> Option<&str> {
    id.match_indices("-t").find_map(|(start, _)| {
        let rest = &id[start + 2..];
        let end = rest.find('-').unwrap_or(rest.len());
        let digits = &rest[..end];
        let plain = digits.len() >= 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
        plain.then_some(digits)
    })
}

/// The time that a name begins with, `20261124T101530.123Z`.
fn time(id: &str) -> Option<SystemTime> {
    let text = id.get(..20)?;
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    };
    let marks = [(8, b'T'), (15, b'.'), (19, b'Z')];
    if marks.iter().any(|(at, mark)| text.as_bytes()[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let civil = Civil {
        year,
        month,
        day,
        millis: ((hour * 60 + minute) * 60 + second) * 1000 + number(16, 19)?,
    };
    // A day that the month does not have comes back as another one.
    let at = civil.time()?;
    (Civil::of(at) == civil).then_some(at)
}

/// A moment of the Gregorian calendar, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Civil {
    /// 1970 to 9999
    year: u64,
    month: u64,
    day: u64,
    /// Since midnight.
    millis: u64,
}

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// 9999-12-31T23:59:59.999Z
const LAST_MILLI: u64 = 253_402_300_799_999;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;
/// Days of 400 years.
const ERA: u64 = 146_097;

impl Civil {
    /// Howard Hinnant, "chrono-compatible low-level date algorithms",
    /// `civil_from_days`: years begin in March, so that the leap day is last.
    fn of(at: SystemTime) -> Civil {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default().as_millis();
        let since = u64::try_from(since).unwrap_or(LAST_MILLI).min(LAST_MILLI);
        let days = since / DAY_MILLIS + DAYS_TO_1970;
        let (era, of_era) = (days / ERA, days % ERA);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Civil {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            millis: since % DAY_MILLIS,
        }
    }

    /// `days_from_civil` of the same; `None` before 1970.
    fn time(&self) -> Option<SystemTime> {
        let year = self.year.checked_sub(u64::from(self.month <= 2))?;
        let (era, year_of_era) = (year / 400, year % 400);
        let from_march = (self.month + 9) % 12;
        let of_year = ((153 * from_march + 2) / 5 + self.day).checked_sub(1)?;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = (era * ERA + of_era).checked_sub(DAYS_TO_1970)?;
        let millis = days * DAY_MILLIS + self.millis;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn an_id_tells_time_track_and_number() {
        // `date -u -d @1795515330.123`
        let when = at(1_795_515_330_123);
        assert_eq!(id(when, 17, 3), "20261124T101530.123Z-t000017-03");
        assert_eq!(day(when), "2026-11-24");
        let name = parse("20261124T101530.123Z-t000017-03");
        assert_eq!((name.at, name.track), (Some(when), Some(17)));
    }

    #[test]
    fn leap_days_and_the_ends_of_time() {
        // `date -u -d 2028-02-29 +%s`
        assert_eq!(day(at(1_835_395_200_000)), "2028-02-29");
        assert_eq!(
            day(SystemTime::UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01"
        );
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 1000);
        assert_eq!(id(far, 0, 0), "99991231T235959.999Z-t000000-00");
    }

    #[test]
    fn other_names_may_carry_a_track_and_no_time() {
        for (name, track) in [
            ("IMG_1234", None),
            ("import-0123456789abcdef-t000017", Some(17)),
            ("a-t000018-b", Some(18)),
            ("a-test-t123456-", Some(123_456)),
            ("a-t00001-b", None),
            ("a-t000001b", None),
            ("a-t99999999999999999999-b", None),
            ("20261124T101530.123Z-t000017-03 (copy)", Some(17)),
            ("20261324T101530.123Z-t000017-03", Some(17)),
            ("20260230T101530.123Z-t000017-03", Some(17)),
            ("20261124T241530.123Z-t000017-03", Some(17)),
            ("20261124T101530.123Z-t000017", Some(17)),
            ("ääääääääää-t000017-é", Some(17)),
            ("", None),
        ] {
            assert_eq!(parse(name), Name { at: None, track }, "{name}");
        }
    }

    proptest! {
        #[test]
        fn ids_come_back(millis in 0..=LAST_MILLI, track: u64, number: u64) {
            let id = id(at(millis), track, number);
            prop_assert_eq!(parse(&id), Name { at: Some(at(millis)), track: Some(track) });
        }

        #[test]
        fn ids_of_one_track_sort_by_time(a in 0..=LAST_MILLI, b in 0..=LAST_MILLI) {
            prop_assert_eq!(id(at(a), 1, 1).cmp(&id(at(b), 1, 1)), a.cmp(&b));
        }

        #[test]
        fn any_name_is_taken_apart(name in ".{0,60}") {
            parse(&name);
        }

        #[test]
        fn names_like_ours_are_taken_apart(name in "[0-9]{8}T[0-9]{6}[.][0-9]{3}Z-t[0-9]{6,21}-[0-9]{2,21}") {
            if let Some(at) = parse(&name).at {
                prop_assert_eq!(&id(at, 0, 0)[..20], &name[..20]);
            }
        }
    }
}
