//! Names of samples: their ids, and the tracks and times that ids contain.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::sha256;
use crate::platform::hex;

/// A key for samples that show the same face within a few seconds. Such samples are
/// near-duplicates, so they must stay together when samples are split.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackKey {
    /// A track on a given day. Track numbers restart with each run, so two tracks on the
    /// same day may share a key. A split then keeps more samples together than necessary,
    /// which is harmless.
    Day {
        /// UTC day, in the format of [`Sample::day`](super::Sample::day).
        day: String,
        /// The track number in the name.
        track: u64,
    },
    /// A track whose number is in a name without a time. Holds the track number.
    Undated(u64),
    /// A file that a person added, which forms its own track. Holds the id of the file.
    Alone(String),
}

impl TrackKey {
    /// Returns the number of the track, or `None` for a file that a person added.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            TrackKey::Day { track, .. } | TrackKey::Undated(track) => Some(*track),
            TrackKey::Alone(_) => None,
        }
    }
}

/// The beginning of the id of a picture that a person added.
pub(super) const IMPORT: &str = "import-";
/// Number of hexadecimal digits that follow [`IMPORT`].
pub(super) const DIGITS: usize = 16;

/// Returns an id that is derived from the content of a picture.
pub(super) fn content_id(bytes: &[u8]) -> String {
    let hash = hex::encode(&sha256(bytes));
    format!("{IMPORT}{}", &hash[..DIGITS])
}

/// What a name contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// Time of capture. Only names that [`id`] created contain a time.
    pub at: Option<SystemTime>,
    pub track: Option<u64>,
}

/// Returns the id of a capture, such as `20261124T101530.123Z-t000017-03`. Times before
/// 1970 and after the year 9999 are clamped to the nearest time that an id can contain.
pub(super) fn id(at: SystemTime, track: u64, number: u64) -> String {
    let at = civil(at);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}.{:03}Z-t{track:06}-{number:02}",
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// Whether a text is a day in the form that [`day`] returns.
pub(crate) fn is_day(text: &str) -> bool {
    // Parsing also accepts other forms, such as `20261124`.
    let date = text.parse::<Date>();
    date.is_ok_and(|date| date.to_string() == text)
}

/// Returns the UTC day of a time, such as `2026-11-24`.
pub(super) fn day(at: SystemTime) -> String {
    civil(at).date().to_string()
}

/// Returns a time in UTC, such as `2026-11-24T10:15:30Z`.
pub(super) fn utc(at: SystemTime) -> String {
    civil(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Extracts the time and the track number from any id.
pub(super) fn parse(id: &str) -> Name {
    let track = track(id);
    Name {
        at: time(id).filter(|_| is_own(id)),
        track: track.and_then(|digits| digits.parse().ok()),
    }
}

/// Whether an id has the form that [`id`] creates. Such an id is complete, so it is never
/// meant as the beginning of another one.
pub(crate) fn is_own(id: &str) -> bool {
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

/// Returns the digits of the first `-tNNNNNN` that is followed by a `-` or the end of the
/// id.
fn track(id: &str) -> Option<&str> {
    id.match_indices("-t").find_map(|(start, _)| {
        let rest = &id[start + 2..];
        let end = rest.find('-').unwrap_or(rest.len());
        let digits = &rest[..end];
        let plain = digits.len() >= 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
        plain.then_some(digits)
    })
}

/// Parses the time at the beginning of a name, such as `20261124T101530.123Z`.
fn time(id: &str) -> Option<SystemTime> {
    let text = id.get(..20)?;
    let number = |from: usize, to: usize| -> Option<i16> {
        let digits = text.get(from..to)?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
        plain.then(|| digits.parse().ok())?
    };
    let two = |from: usize| -> Option<i8> { number(from, from + 2)?.try_into().ok() };
    let marks = [(8, b'T'), (15, b'.'), (19, b'Z')];
    if marks.iter().any(|(at, mark)| text.as_bytes()[*at] != *mark) {
        return None;
    }
    let nanoseconds = i32::from(number(16, 19)?) * 1_000_000;
    // `DateTime::new` rejects a day that the month does not have.
    let at = DateTime::new(
        number(0, 4)?,
        two(4)?,
        two(6)?,
        two(9)?,
        two(11)?,
        two(13)?,
        nanoseconds,
    );
    let at = TimeZone::UTC.to_timestamp(at.ok()?).ok()?;
    let at = SystemTime::try_from(at).ok()?;
    (at >= SystemTime::UNIX_EPOCH).then_some(at)
}

/// Converts a time to a date and time of day in UTC, clamped to the nearest time that
/// an id can contain.
fn civil(at: SystemTime) -> DateTime {
    let at = at.max(SystemTime::UNIX_EPOCH);
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
    TimeZone::UTC.to_datetime(at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// The last millisecond that an id can contain, 9999-12-30T22:00:00.999Z, which is the
    /// end of jiff's calendar.
    const LAST_MILLI: u64 = 253_402_207_200_999;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn an_id_tells_time_track_and_number() {
        // `date -u -d @1795515330.123`
        let when = at(1_795_515_330_123);
        assert_eq!(id(when, 17, 3), "20261124T101530.123Z-t000017-03");
        assert_eq!(day(when), "2026-11-24");
        assert_eq!(utc(when), "2026-11-24T10:15:30Z");
        let name = parse("20261124T101530.123Z-t000017-03");
        assert_eq!((name.at, name.track), (Some(when), Some(17)));
    }

    #[test]
    fn a_day_has_one_form() {
        for text in ["2026-11-24", "2028-02-29", "1970-01-01"] {
            assert!(is_day(text), "{text}");
        }
        for text in [
            "",
            "20261124",
            "2026-11-31",
            "2026-1-1",
            "2026-11-24T10",
            "today",
        ] {
            assert!(!is_day(text), "{text}");
        }
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
        assert_eq!(id(far, 0, 0), "99991230T220000.999Z-t000000-00");
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
