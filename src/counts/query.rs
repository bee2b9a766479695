//! Selects hours or days, and turns them into JSON and CSV.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ledger::{Hour, Precision};
use super::{Passages, rounding};

/// The length of the periods that passages are added up for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// Hours of local time.
    #[default]
    Hour,
    /// Days of local time.
    Day,
}

/// The format of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON object.
    Json,
    /// A table with commas, for spreadsheets.
    Csv,
}

/// Which counts a client wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CountsQuery {
    /// Hours that start earlier are left out. Either a date such as `2026-11-30`, a local
    /// time such as `2026-11-30T08:00`, or a time with an offset such as
    /// `2026-11-30T08:00Z`. All hours if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Hours that start at this time or later are left out. A date includes its whole day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether the rows are hours or days.
    #[param(inline)]
    pub by: By,
    /// The format of the response. If absent, the header `Accept` decides, and the default
    /// is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub format: Option<Format>,
}

/// The passages of one hour or one day. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountsRow {
    /// Start of the hour in local time with its offset, such as `2026-11-30T08:00:00+01:00`,
    /// or a date such as `2026-11-30`.
    pub start: String,
    /// Number of passages.
    #[serde(flatten)]
    pub passages: Passages,
}

/// Counts of passages. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountsRecord {
    /// Whether the rows are hours or days.
    pub by: By,
    /// The rule by which numbers are rounded and withheld; absent if they are exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<String>,
    /// The hours or days with passages, oldest first. Others are left out.
    pub rows: Vec<CountsRow>,
    /// Sum of all rows.
    pub total: Passages,
    /// Passages at a time when the clock showed a time that cannot be right. They belong to
    /// no row.
    pub undated: Passages,
}

/// A time in a query that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write a date such as 2026-11-30, or a time such as 2026-11-30T08:00")]
pub struct NotATime(String);

/// Whether a date stands for its start or for its end.
#[derive(Clone, Copy)]
enum End {
    Start,
    End,
}

/// Returns a time in seconds since 1970.
fn seconds(text: &str, end: End, zone: &TimeZone) -> Result<i64, NotATime> {
    let wrong = || NotATime(text.to_owned());
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else if text.contains(['T', 't', ' ', ':']) {
        let local: DateTime = text.parse().map_err(|_| wrong())?;
        zone.to_timestamp(local).map_err(|_| wrong())?
    } else {
        let date: Date = text.parse().map_err(|_| wrong())?;
        let date = match end {
            End::Start => date,
            End::End => date.tomorrow().map_err(|_| wrong())?,
        };
        let start = date.at(0, 0, 0, 0);
        zone.to_timestamp(start).map_err(|_| wrong())?
    };
    Ok(time.as_second())
}

impl CountsQuery {
    /// Selects from published counts, which are sorted by hour.
    ///
    /// # Errors
    /// [`NotATime`] if `from` or `to` cannot be understood.
    pub fn select(
        &self,
        counts: &[(Hour, Passages)],
        precision: Precision,
        zone: &TimeZone,
    ) -> Result<CountsRecord, NotATime> {
        let bound = |text: &Option<String>, end| {
            let text = text.as_deref();
            text.map(|text| seconds(text, end, zone)).transpose()
        };
        let from = bound(&self.from, End::Start)?.unwrap_or(i64::MIN);
        let to = bound(&self.to, End::End)?.unwrap_or(i64::MAX);
        let mut undated = Passages::default();
        let mut total = Passages::default();
        let mut rows: Vec<CountsRow> = Vec::new();
        let mut days: BTreeMap<Date, Passages> = BTreeMap::new();
        for (hour, passages) in counts {
            if *hour == Hour::UNKNOWN {
                undated = undated.plus(*passages);
                continue;
            }
            if hour.0 < from || hour.0 >= to {
                continue;
            }
            total = total.plus(*passages);
            match self.by {
                By::Hour => rows.push(CountsRow {
                    start: shown(*hour, zone),
                    passages: *passages,
                }),
                By::Day => {
                    let day = days.entry(hour.date(zone)).or_default();
                    *day = day.plus(*passages);
                }
            }
        }
        rows.extend(days.into_iter().map(|(date, passages)| CountsRow {
            start: date.to_string(),
            passages,
        }));
        Ok(CountsRecord {
            by: self.by,
            rounding: (precision == Precision::Rounded).then(rounding::rule),
            rows,
            total,
            undated,
        })
    }
}

/// The passages on the local day that contains a time in seconds since 1970.
#[must_use]
pub fn on_day_of(counts: &[(Hour, Passages)], seconds: i64, zone: &TimeZone) -> Passages {
    let today = Hour::of(seconds, zone).date(zone);
    counts
        .iter()
        .filter(|(hour, _)| *hour != Hour::UNKNOWN && hour.date(zone) == today)
        .fold(Passages::default(), |sum, (_, passages)| {
            sum.plus(*passages)
        })
}

/// Formats the start of an hour in local time.
fn shown(hour: Hour, zone: &TimeZone) -> String {
    let offset = zone.to_offset(hour.start()).seconds();
    let (sign, minutes) = (
        if offset < 0 { '-' } else { '+' },
        offset.unsigned_abs() / 60,
    );
    let local = zone.to_datetime(hour.start());
    format!(
        "{}{sign}{:02}:{:02}",
        local.strftime("%Y-%m-%dT%H:%M:%S"),
        minutes / 60,
        minutes % 60
    )
}

impl CountsRecord {
    /// Returns the rows as CSV (RFC 4180) with a header.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv = "start,masked,unmasked,unsure\r\n".to_owned();
        for CountsRow { start, passages } in &self.rows {
            let Passages {
                masked,
                unmasked,
                unsure,
            } = passages;
            csv += &format!("{start},{masked},{unmasked},{unsure}\r\n");
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn masked(masked: u64) -> Passages {
        Passages {
            masked,
            ..Passages::default()
        }
    }

    /// Counts of one passage in each of `hours` hours, beginning with a time in UTC.
    fn hourly(start: &str, hours: i64) -> Vec<(Hour, Passages)> {
        let start: Timestamp = start.parse().unwrap();
        (0..hours)
            .map(|hour| (Hour(start.as_second() + 3600 * hour), masked(1)))
            .collect()
    }

    fn select(query: &CountsQuery, counts: &[(Hour, Passages)]) -> CountsRecord {
        query.select(counts, Precision::Exact, &berlin()).unwrap()
    }

    fn between(from: &str, to: &str, by: By) -> CountsQuery {
        CountsQuery {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            by,
            format: None,
        }
    }

    #[test]
    fn the_days_on_which_the_clock_changes_have_23_and_25_hours() {
        // The local days are 2026-03-28 to 2026-03-30, and 2026-10-24 to 2026-10-26.
        let spring = hourly("2026-03-27T23:00:00Z", 24 + 23 + 24);
        let days = select(&between("2026-03-28", "2026-03-30", By::Day), &spring);
        let rows: Vec<(&str, u64)> = days
            .rows
            .iter()
            .map(|row| (row.start.as_str(), row.passages.masked))
            .collect();
        assert_eq!(
            rows,
            [("2026-03-28", 24), ("2026-03-29", 23), ("2026-03-30", 24)]
        );
        let autumn = hourly("2026-10-23T22:00:00Z", 24 + 25 + 24);
        let day = select(&between("2026-10-25", "2026-10-25", By::Day), &autumn);
        assert_eq!(day.total, masked(25));
        let hours = select(&between("2026-10-25", "2026-10-25", By::Hour), &autumn);
        let starts: Vec<&str> = hours.rows.iter().map(|row| row.start.as_str()).collect();
        assert_eq!(starts.len(), 25);
        assert_eq!(
            starts[2..5],
            [
                "2026-10-25T02:00:00+02:00",
                "2026-10-25T02:00:00+01:00",
                "2026-10-25T03:00:00+01:00"
            ]
        );
    }

    #[test]
    fn times_select_the_hours_that_start_between_them() {
        let counts = hourly("2026-11-30T06:00:00Z", 4);
        for (from, to, hours) in [
            ("2026-11-30T08:00", "2026-11-30T10:00", 2),
            ("2026-11-30T07:00Z", "2026-11-30 10:00", 2),
            ("2026-11-30T08:30", "2026-11-30", 2),
            ("2026-11-30", "2026-11-30", 4),
            ("2026-12-01", "2026-12-31", 0),
        ] {
            let found = select(&between(from, to, By::Hour), &counts);
            assert_eq!(found.rows.len(), hours, "{from} to {to}");
            assert_eq!(found.total, masked(hours as u64));
        }
        for text in ["", "yesterday", "2026-11", "2026-11-31", "8:00", "-1"] {
            let query = between(text, "2026-11-30", By::Hour);
            let error = query.select(&counts, Precision::Exact, &berlin());
            assert_eq!(error, Err(NotATime(text.to_owned())));
        }
    }

    #[test]
    fn passages_without_a_time_belong_to_no_row() {
        let mut counts = vec![(Hour::UNKNOWN, masked(3))];
        counts.extend(hourly("2026-11-30T06:00:00Z", 1));
        let all = select(&CountsQuery::default(), &counts);
        assert_eq!((all.undated, all.total), (masked(3), masked(1)));
        assert_eq!(
            all.csv(),
            "start,masked,unmasked,unsure\r\n2026-11-30T07:00:00+01:00,1,0,0\r\n"
        );
        assert_eq!(all.rounding, None);
        let noon = "2026-11-30T12:00:00Z".parse::<Timestamp>().unwrap();
        let today = on_day_of(&counts, noon.as_second(), &berlin());
        assert_eq!(today, masked(1));
    }

    proptest! {
        #[test]
        fn the_hours_of_a_day_add_up_to_the_day(
            counts in prop::collection::btree_map(
                (1_767_225_600_i64 / 3600..1_830_000_000 / 3600).prop_map(|hour| Hour(hour * 3600)),
                (0_u64..50, 0_u64..50, 0_u64..50),
                0..100,
            ),
        ) {
            let counts: Vec<(Hour, Passages)> = counts
                .into_iter()
                .map(|(hour, (masked, unmasked, unsure))| (hour, Passages { masked, unmasked, unsure }))
                .collect();
            let by = |by| select(&CountsQuery { by, ..CountsQuery::default() }, &counts);
            let (hours, days) = (by(By::Hour), by(By::Day));
            prop_assert_eq!(hours.total, days.total);
            for day in &days.rows {
                let hours = hours.rows.iter().filter(|hour| hour.start.starts_with(&day.start));
                let sum = hours.fold(Passages::default(), |sum, hour| sum.plus(hour.passages));
                prop_assert_eq!(sum, day.passages);
                // A query for the day alone gives the same.
                let query = between(&day.start, &day.start, By::Hour);
                prop_assert_eq!(select(&query, &counts).total, day.passages);
            }
        }

        #[test]
        fn any_text_is_either_a_time_or_refused(text in ".{0,30}") {
            let query = CountsQuery { from: Some(text), ..CountsQuery::default() };
            let _ = query.select(&[], Precision::Exact, &berlin());
        }
    }
}
