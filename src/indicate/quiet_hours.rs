//! The hours during which the buzzer is silent.

use std::fmt;

use jiff::civil::Time;
use serde::{Deserialize, Serialize};

/// A local time of day, such as `22:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay(Time);

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

/// A daily interval that may span midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// Start of the interval, inclusive.
    pub from: TimeOfDay,
    /// End of the interval, exclusive.
    pub to: TimeOfDay,
}

impl QuietHours {
    /// Whether this local time is within the interval.
    #[must_use]
    pub fn covers(&self, now: Time) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        if from <= to {
            from <= now && now < to
        } else {
            from <= now || now < to
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> TimeOfDay {
        TimeOfDay::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn it_may_span_midnight() {
        let night = QuietHours {
            from: time("22:00"),
            to: time("07:00"),
        };
        for (at, quiet) in [
            ("21:59", false),
            ("22:00", true),
            ("00:00", true),
            ("06:59", true),
            ("07:00", false),
            ("12:00", false),
        ] {
            assert_eq!(night.covers(time(at).0), quiet, "{at}");
        }
        let lunch = QuietHours {
            from: time("12:00"),
            to: time("13:00"),
        };
        assert!(!lunch.covers(time("11:59").0));
        assert!(lunch.covers(time("12:59").0));
        assert!(!lunch.covers(time("13:00").0));
    }

    #[test]
    fn invalid_times_are_refused() {
        for text in [
            "", "25:00", "22", "22:60", "22.30", "noon", "-1:00", "22:30:00",
        ] {
            assert!(TimeOfDay::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_is_written_as_it_is_read(hour in 0..24, minute in 0..60) {
            let text = format!("{hour:02}:{minute:02}");
            prop_assert_eq!(String::from(time(&text)), text);
        }

        #[test]
        fn any_accepted_text_is_a_time_that_reads_back(text in "[ 0-9:]{0,6}|.*") {
            if let Ok(time) = TimeOfDay::try_from(text) {
                prop_assert_eq!(TimeOfDay::try_from(time.to_string()), Ok(time));
            }
        }
    }
}
