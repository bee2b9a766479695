//! Weekly windows of time, and what they allow at a moment.
//!
//! This module owns the format of windows and holidays, and finds the next change. It is
//! pure: the time and the time zone are passed in. It does not know what a window is for.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// The names of the days of a week, in the order of [`Days`].
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// Minutes in a day without a change to or from summer time.
const DAY: u16 = 24 * 60;
/// How many days ahead the next change is searched for.
const HORIZON_DAYS: i64 = 14;

/// A local time of day, such as `22:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(Time);

impl TimeOfDay {
    /// Minutes since midnight on the clock.
    fn minutes(self) -> u16 {
        minute_of(self.0)
    }
}

/// Minutes since midnight on the clock; at most 1439.
fn minute_of(time: Time) -> u16 {
    // A time of day has an hour from 0 to 23 and a minute from 0 to 59.
    time.hour() as u16 * 60 + time.minute() as u16
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(text: String) -> Result<TimeOfDay, String> {
        let time = Time::strptime("%H:%M", &text);
        // `%H` accepts both 7:00 and 07:00.
        time.map(TimeOfDay)
            .map_err(|_| format!("{text:?} is not a time such as \"22:30\""))
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> String {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

/// A set of days of the week. Bit 0 is Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Days(u8);

impl Days {
    const ALL: Days = Days(0x7f);

    fn has(self, date: Date) -> bool {
        let day = date.weekday().to_monday_zero_offset();
        self.0 & (1 << day) != 0
    }

    /// Parses days such as `Mon-Fri` or `Mon,Wed,Sat-Sun`.
    fn parse(text: &str) -> Option<Days> {
        let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        let mut days = Days(0);
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            // A range may span the end of the week, such as Fri-Mon.
            let length = (last + 7 - first) % 7;
            for offset in 0..=length {
                days.0 |= 1 << ((first + offset) % 7);
            }
        }
        Some(days)
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let listed = (0..7).filter(|day| self.0 & (1 << day) != 0);
        let names: Vec<&str> = listed.map(|day| DAYS[day]).collect();
        f.write_str(&names.join(","))
    }
}

/// A window of time on some days of the week, such as `Mon-Fri 07:00-19:00`. The times are
/// local. If the end is not after the start, the window ends on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    days: Days,
    /// Start, in minutes since midnight; inclusive, 0 to 1439.
    from: u16,
    /// End, in minutes since midnight; exclusive, 0 to 1440, not equal to `from`.
    to: u16,
}

impl Window {
    /// Creates a window on every day. Returns `None` if both times are the same.
    #[must_use]
    pub fn daily(from: TimeOfDay, to: TimeOfDay) -> Option<Window> {
        let (from, to) = (from.minutes(), to.minutes());
        (from != to).then_some(Window {
            days: Days::ALL,
            from,
            to,
        })
    }

    /// Whether a local time is within the window. A window belongs to the day on which it
    /// starts, and does not start on a holiday.
    #[must_use]
    pub fn covers(&self, local: DateTime, holidays: &[Holiday]) -> bool {
        let minute = minute_of(local.time());
        let starts = |date: Date| self.days.has(date) && !holidays.contains(&Holiday(date));
        let today = local.date();
        if self.from < self.to {
            return self.from <= minute && minute < self.to && starts(today);
        }
        self.from <= minute && starts(today)
            || minute < self.to && today.yesterday().is_ok_and(starts)
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Window, String> {
        let wrong = || {
            format!(
                "{text:?} is not a window such as \"Mon-Fri 07:00-19:00\", \"Sat,Sun \
                 22:00-06:00\", or \"00:00-24:00\""
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times) = match words[..] {
            [times] => (Days::ALL, times),
            [days, times] => (Days::parse(days).ok_or_else(wrong)?, times),
            _ => return Err(wrong()),
        };
        let (from, to) = times.split_once('-').ok_or_else(wrong)?;
        let minutes = |time: &str| {
            let time = TimeOfDay::try_from(time.to_owned());
            time.map(TimeOfDay::minutes).map_err(|_| wrong())
        };
        let from = minutes(from)?;
        let to = if to == "24:00" { DAY } else { minutes(to)? };
        if from == to {
            return Err(format!(
                "{text:?} is empty, because it ends when it starts: use \"00:00-24:00\" for a \
                 whole day"
            ));
        }
        Ok(Window { days, from, to })
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.days != Days::ALL {
            write!(f, "{} ", self.days)?;
        }
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

/// A date on which no window starts, such as `2026-12-25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Holiday(Date);

impl TryFrom<String> for Holiday {
    type Error = String;

    fn try_from(text: String) -> Result<Holiday, String> {
        let date = Date::strptime("%Y-%m-%d", &text);
        date.map(Holiday)
            .map_err(|_| format!("{text:?} is not a date such as \"2026-12-25\""))
    }
}

impl From<Holiday> for String {
    fn from(holiday: Holiday) -> String {
        holiday.0.to_string()
    }
}

/// Whether an activity is on, and when this changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowState {
    /// Whether the activity is on.
    pub is_on: bool,
    /// When the windows change `is_on` next; `None` if not within two weeks.
    pub next_change: Option<Timestamp>,
}

impl WindowState {
    /// The state of an activity without windows.
    pub const ALWAYS_ON: WindowState = WindowState {
        is_on: true,
        next_change: None,
    };
}

/// When an activity is on.
#[derive(Debug, Clone, Copy)]
pub struct Schedule<'a> {
    /// The activity is on during these windows. Without windows, it is always on.
    pub windows: &'a [Window],
    /// Dates on which no window starts.
    pub holidays: &'a [Holiday],
    /// The activity is off during this window, also on a holiday.
    pub except: Option<Window>,
}

impl Schedule<'_> {
    /// Returns whether the activity is on at a moment, and when this changes.
    #[must_use]
    pub fn state(&self, zone: &TimeZone, at: Timestamp) -> WindowState {
        if self.windows.is_empty() && self.except.is_none() {
            return WindowState::ALWAYS_ON;
        }
        let is_on_at = |at: Timestamp| self.is_on(zone.to_datetime(at));
        let is_on = is_on_at(at);
        let mut moments = self.moments(zone, at);
        moments.sort();
        WindowState {
            is_on,
            next_change: moments
                .into_iter()
                .find(|moment| is_on_at(*moment) != is_on),
        }
    }

    fn is_on(&self, local: DateTime) -> bool {
        let mut windows = self.windows.iter();
        let is_within = windows.any(|window| window.covers(local, self.holidays));
        let is_excepted = self.except.is_some_and(|except| except.covers(local, &[]));
        (is_within || self.windows.is_empty()) && !is_excepted
    }

    /// Returns all moments after `at`, up to the horizon, at which a window can start or
    /// end: the times of the windows on each day, and the changes to and from summer time,
    /// which can skip or repeat such a time.
    fn moments(&self, zone: &TimeZone, at: Timestamp) -> Vec<Timestamp> {
        let windows = self.windows.iter().chain(&self.except);
        let mut minutes: Vec<u16> = windows
            .flat_map(|window| [window.from, window.to % DAY])
            .collect();
        minutes.sort_unstable();
        minutes.dedup();
        let mut moments = Vec::new();
        let today = zone.to_datetime(at).date();
        for days in -1..=HORIZON_DAYS {
            // At the end of jiff's calendar, there are no more days.
            let Ok(date) = today.checked_add(days.days()) else {
                continue;
            };
            for minute in &minutes {
                // Hours are at most 23 and minutes at most 59, so both fit.
                let local = date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
                let moment = zone.to_ambiguous_timestamp(local);
                let both = [moment.earlier(), moment.later()];
                moments.extend(both.into_iter().flatten());
            }
        }
        if let Ok(horizon) = at.checked_add((HORIZON_DAYS * 24).hours()) {
            let changes = zone.following(at).map(|change| change.timestamp());
            moments.extend(changes.take_while(|change| *change <= horizon));
        }
        moments.retain(|moment| *moment > at);
        moments
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> TimeOfDay {
        TimeOfDay::try_from(text.to_owned()).unwrap()
    }

    fn window(text: &str) -> Window {
        Window::try_from(text.to_owned()).unwrap()
    }

    fn holiday(text: &str) -> Holiday {
        Holiday::try_from(text.to_owned()).unwrap()
    }

    fn local(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    /// Germany: summer time from the last Sunday in March to the last Sunday in October.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    /// Lord Howe Island, where summer time is half an hour.
    fn lord_howe() -> TimeZone {
        TimeZone::posix("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0").unwrap()
    }

    #[test]
    fn a_daily_window_may_span_midnight() {
        let night = Window::daily(time("22:00"), time("7:00")).unwrap();
        for (at, covered) in [
            ("21:59", false),
            ("22:00", true),
            ("00:00", true),
            ("06:59", true),
            ("07:00", false),
            ("12:00", false),
        ] {
            let at = local(&format!("2026-11-30T{at}:00"));
            assert_eq!(night.covers(at, &[]), covered, "{at}");
        }
        let lunch = window("12:00-13:00");
        assert!(!lunch.covers(local("2026-11-30T11:59:59"), &[]));
        assert!(lunch.covers(local("2026-11-30T12:59:59"), &[]));
        assert!(!lunch.covers(local("2026-11-30T13:00:00"), &[]));
        assert_eq!(Window::daily(time("12:00"), time("12:00")), None);
    }

    #[test]
    fn a_window_belongs_to_the_day_on_which_it_starts() {
        // 2026-11-27 is a Friday.
        let weekend = window("Fri-Sat 22:00-06:00");
        for (at, covered) in [
            ("2026-11-26T23:00:00", false),
            ("2026-11-27T05:00:00", false),
            ("2026-11-27T22:00:00", true),
            ("2026-11-28T05:59:59", true),
            ("2026-11-28T06:00:00", false),
            ("2026-11-29T05:00:00", true),
            ("2026-11-29T22:00:00", false),
        ] {
            assert_eq!(weekend.covers(local(at), &[]), covered, "{at}");
        }
        let friday_off = [holiday("2026-11-27")];
        assert!(!weekend.covers(local("2026-11-27T23:00:00"), &friday_off));
        assert!(!weekend.covers(local("2026-11-28T05:00:00"), &friday_off));
        assert!(weekend.covers(local("2026-11-28T23:00:00"), &friday_off));
        let saturday_off = [holiday("2026-11-28")];
        assert!(
            weekend.covers(local("2026-11-28T05:00:00"), &saturday_off),
            "the window of Friday goes on"
        );
    }

    #[test]
    fn windows_and_holidays_are_parsed_or_refused() {
        for (text, written) in [
            ("Mon-Fri 07:00-19:00", "Mon,Tue,Wed,Thu,Fri 07:00-19:00"),
            ("fri-MON  7:00-0:00", "Mon,Fri,Sat,Sun 07:00-00:00"),
            ("Wed,Mon 22:00-06:00", "Mon,Wed 22:00-06:00"),
            ("00:00-24:00", "00:00-24:00"),
            ("Mon-Sun 08:00-09:00", "08:00-09:00"),
        ] {
            assert_eq!(window(text).to_string(), written);
            assert_eq!(window(written), window(text));
        }
        for text in [
            "",
            "Mon",
            "Mon 7-19",
            "Montag 07:00-19:00",
            "Mon- 07:00-19:00",
            "07:00",
            "07:00-",
            "24:00-07:00",
            "07:00-24:01",
            "Mon 07:00-19:00 Tue",
            "Mon Tue 07:00-19:00",
            "07:00 - 19:00",
            ", 07:00-19:00",
        ] {
            let error = Window::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains("is not a window such as"), "{error}");
        }
        let empty = Window::try_from("Mon 07:00-07:00".to_owned()).unwrap_err();
        assert!(empty.contains("ends when it starts"), "{empty}");
        assert_eq!(String::from(holiday("2026-12-25")), "2026-12-25");
        for text in ["", "25.12.2026", "2026-13-01", "2026-02-30", "12-25"] {
            assert!(Holiday::try_from(text.to_owned()).is_err(), "{text}");
        }
        for text in [
            "", "25:00", "22", "22:60", "22.30", "noon", "-1:00", "22:30:00",
        ] {
            assert!(TimeOfDay::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_next_change_is_exact_when_summer_time_starts_and_ends() {
        let state = |windows: &[&str], at: &str| {
            let windows: Vec<Window> = windows.iter().map(|text| window(text)).collect();
            let schedule = Schedule {
                windows: &windows,
                holidays: &[],
                except: None,
            };
            schedule.state(&berlin(), at.parse().unwrap())
        };
        let changes = |windows: &[&str], at: &str| {
            let state = state(windows, at);
            let next = state.next_change.map(|at| at.to_string());
            (state.is_on, next.unwrap_or_default())
        };
        // Germany skips 02:00 to 03:00 on 2026-03-29, which is 01:00 UTC.
        let night = ["22:00-02:30"];
        assert_eq!(
            changes(&night, "2026-03-29T00:30:00Z"),
            (true, "2026-03-29T01:00:00Z".to_owned())
        );
        let skipped = ["Sun 02:15-02:45"];
        assert_eq!(
            changes(&skipped, "2026-03-29T00:00:00Z"),
            (false, "2026-04-05T00:15:00Z".to_owned())
        );
        // Germany repeats 02:00 to 03:00 on 2026-10-25, from 00:00 UTC to 02:00 UTC.
        let repeated = ["02:15-02:45"];
        for (at, is_on, next) in [
            ("2026-10-25T00:00:00Z", false, "2026-10-25T00:15:00Z"),
            ("2026-10-25T00:15:00Z", true, "2026-10-25T00:45:00Z"),
            ("2026-10-25T00:45:00Z", false, "2026-10-25T01:15:00Z"),
            ("2026-10-25T01:15:00Z", true, "2026-10-25T01:45:00Z"),
        ] {
            assert_eq!(changes(&repeated, at), (is_on, next.to_owned()), "{at}");
        }
        assert_eq!(
            changes(&["00:00-24:00"], "2026-10-24T00:00:00Z"),
            (true, String::new())
        );
        assert_eq!(state(&[], "2026-10-24T00:00:00Z"), WindowState::ALWAYS_ON);
    }

    /// The same as [`Schedule::state`], but simple and slow: tries each minute until the
    /// state changes.
    fn slow(schedule: &Schedule, zone: &TimeZone, at: Timestamp) -> (bool, Option<Timestamp>) {
        let is_on = |at: Timestamp| {
            let now = zone.to_datetime(at);
            let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
            let is_within = |window: &Window, holidays: &[Holiday]| {
                let (from, to) = (i32::from(window.from), i32::from(window.to));
                let to = if to <= from { to + 1440 } else { to };
                // The minutes of a window are counted from its own day.
                [
                    (now.date(), minute),
                    (now.date().yesterday().unwrap(), minute + 1440),
                ]
                .into_iter()
                .any(|(day, minute)| {
                    let name = day.strftime("%a").to_string();
                    let names = window.days.to_string();
                    let is_holiday = holidays.iter().any(|holiday| holiday.0 == day);
                    names.contains(&name) && !is_holiday && (from..to).contains(&minute)
                })
            };
            let mut windows = schedule.windows.iter();
            let is_on = schedule.windows.is_empty()
                || windows.any(|window| is_within(window, schedule.holidays));
            is_on && !schedule.except.iter().any(|window| is_within(window, &[]))
        };
        let now = is_on(at);
        let minutes = 1..HORIZON_DAYS * 1440;
        let mut later = minutes.map(|minutes| at + minutes.minutes());
        (now, later.find(|later| is_on(*later) != now))
    }

    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let window = (1..0x80_u8, 0..DAY, 0..=DAY);
        let window = window.prop_filter_map("empty", |(days, from, to)| {
            // Many windows are near the hours that are skipped or repeated.
            let near = |minute: u16| {
                if minute.is_multiple_of(2) {
                    60 + minute % 180
                } else {
                    minute
                }
            };
            let (from, to) = (near(from).min(DAY - 1), near(to));
            let days = Days(days);
            (from != to).then_some(Window { days, from, to })
        });
        prop::collection::vec(window, 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_state_is_that_of_a_slow_search(
            windows in windows(),
            except in prop::option::weighted(0.3, windows()),
            // Around the changes of summer time in 2026, as days of the year.
            day in prop_oneof![80_i64..100, 270_i64..305, 0_i64..365],
            minute in 0_i64..1440,
            off in prop::collection::vec(-2_i64..3, 0..3),
            is_lord_howe: bool,
        ) {
            let zone = if is_lord_howe { lord_howe() } else { berlin() };
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let at = start + (day * 1440 + minute).minutes();
            let today = zone.to_datetime(at).date();
            let holidays = off.iter().map(|day| Holiday(today + day.days()));
            let holidays: Vec<Holiday> = holidays.collect();
            let schedule = Schedule {
                windows: &windows,
                holidays: &holidays,
                except: except.map(|windows| windows[0]),
            };
            let found = schedule.state(&zone, at);
            let (is_on, next) = slow(&schedule, &zone, at);
            prop_assert_eq!(found.is_on, is_on);
            let horizon = at + ((HORIZON_DAYS - 1) * 24).hours();
            let in_time = |next: &Timestamp| *next < horizon;
            prop_assert_eq!(found.next_change.filter(in_time), next.filter(in_time));
        }
    }

    proptest! {
        #[test]
        fn every_window_is_read_as_it_is_written(windows in windows()) {
            for window in windows {
                prop_assert_eq!(Window::try_from(window.to_string()), Ok(window));
            }
        }

        #[test]
        fn any_text_is_a_window_that_reads_back_or_is_refused(text in "[MonTueSat, -]{0,9} ?[ 0-9:-]{0,12}|.*") {
            if let Ok(window) = Window::try_from(text.clone()) {
                prop_assert_eq!(Window::try_from(window.to_string()), Ok(window));
            }
            if let Ok(time) = TimeOfDay::try_from(text.clone()) {
                prop_assert_eq!(TimeOfDay::try_from(time.to_string()), Ok(time));
            }
            let _ = Holiday::try_from(text);
        }
    }
}
