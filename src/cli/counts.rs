//! `maskd counts`, which shows how many people passed.

use clap::Args;
use jiff::tz::TimeZone;

use super::backend::daemon;
use super::{Failure, Global, print, print_bytes, print_json};
use crate::config::Mode;
use crate::counts::ledger::{Hour, Precision, published};
use crate::counts::query::{By, CountsQuery, CountsRecord, CountsRow};
use crate::counts::store;
use crate::learning;
use crate::platform::clock;

#[derive(Debug, Args)]
pub(super) struct Counts {
    /// Whether to add up hours or days
    #[arg(long, value_parser = ["hour", "day"], default_value = "hour")]
    by: String,
    /// Leave out earlier hours: a date, or a local time such as 2026-11-30T08:00
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Leave out hours from this time on; a date includes its whole day
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Print a table with commas, for spreadsheets
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Counts {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let query = CountsQuery {
            from: self.from.clone(),
            to: self.to.clone(),
            by: if self.by == "day" { By::Day } else { By::Hour },
            format: None,
        };
        let record = counts(global, &query)?;
        if self.json {
            print_json(&record)
        } else if self.csv {
            print_bytes(record.csv().as_bytes())
        } else {
            print(table(&record))
        }
    }
}

/// Returns the counts from the daemon, or from the state directory if no daemon is running.
fn counts(global: &Global, query: &CountsQuery) -> Result<CountsRecord, Failure> {
    let config = global.load_config()?;
    let state = global.state_dir()?;
    if let Some(client) = daemon(global, &config, &state)? {
        return Ok(client.counts(query)?);
    }
    learning::check_state(&state)?;
    let stored =
        store::read(&state).map_err(|error| Failure::new(Failure::NO_INPUT, error.to_string()))?;
    for path in &stored.damaged {
        let path = path.display();
        tracing::warn!(%path, "a file with counts is damaged or cannot be read");
    }
    let precision = match config.mode {
        Mode::Door => Precision::Exact,
        Mode::Count => Precision::Rounded,
    };
    let zone = TimeZone::system();
    let current = clock::shown_seconds();
    let current = current.map_or(Hour::UNKNOWN, |seconds| Hour::of(seconds, &zone));
    let counts: Vec<_> = stored
        .hours
        .into_iter()
        .filter_map(|(hour, counts)| Some((hour, published(hour, counts, precision, current)?)))
        .collect();
    query
        .select(&counts, precision, &zone)
        .map_err(|error| Failure::new(Failure::USAGE, error.to_string()))
}

fn table(record: &CountsRecord) -> String {
    let CountsRecord {
        by,
        rounding,
        rows,
        total,
        undated,
    } = record;
    let (name, width) = match by {
        By::Hour => ("hour", 16),
        By::Day => ("day", 10),
    };
    let line = |start: &str, numbers: [&str; 3]| {
        let [masked, unmasked, unsure] = numbers;
        format!("{start:<width$}  {masked:>9}  {unmasked:>9}  {unsure:>9}\n")
    };
    let mut text = line(name, ["masked", "unmasked", "unsure"]);
    let sums = rows
        .iter()
        .map(|CountsRow { start, passages }| {
            // The seconds and the offset would only distract.
            let start = start.get(..width).unwrap_or(start).replace('T', " ");
            (start, *passages)
        })
        .chain([("total".to_owned(), *total)]);
    for (start, passages) in sums {
        let numbers = passages.named().map(|(_, number)| number.to_string());
        text += &line(&start, numbers.each_ref().map(String::as_str));
    }
    if !undated.is_empty() {
        text += &format!("at a time when the clock was wrong: {undated}\n");
    }
    if let Some(rule) = rounding {
        text += &format!("statistics mode: {rule}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::Passages;

    #[test]
    fn the_table_has_a_line_for_each_row_and_the_sum() {
        let passages = Passages {
            masked: 12,
            unmasked: 3,
            unsure: 0,
        };
        let mut record = CountsRecord {
            by: By::Hour,
            rounding: None,
            rows: vec![CountsRow {
                start: "2026-11-30T08:00:00+01:00".to_owned(),
                passages,
            }],
            total: passages,
            undated: Passages::default(),
        };
        let expected = "\
hour                 masked   unmasked     unsure
2026-11-30 08:00         12          3          0
total                    12          3          0
";
        assert_eq!(table(&record), expected);
        record.undated.unsure = 1;
        record.rounding = Some("a rule".to_owned());
        let text = table(&record);
        assert!(text.contains("the clock was wrong: 0 masked, 0 unmasked, 1 unsure\n"));
        assert!(text.ends_with("statistics mode: a rule\n"));
    }
}
