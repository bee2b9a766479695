//! `maskd enroll`, which has the daemon label the face that it sees now.

use std::time::{Duration, Instant};

use clap::Args;

use super::backend::daemon;
use super::interrupt::Interrupt;
use super::label::tell_side;
use super::progress::bar;
use super::{Failure, Global, print};
use crate::api::socket::{Client, ControlError, EnrollRequest, Live, MAX_ENROLLED};
use crate::learning::{Enrollment, FailureKind};
use crate::platform::text::counted;

/// How often the command polls the daemon for the progress of an enrollment.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The daemon ends the enrollment if this command does not poll for this many seconds, for
/// example because the command was killed.
const LEASE_SECONDS: u16 = 5;
/// Maximum number of polls after the end of an enrollment. By the last poll, the crops
/// that were taken before the end have been written to the disk.
const POLLS_AFTER_END: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// The label of the face that the daemon sees now
    label: String,

    /// Number of face pictures to store
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ENROLLED)))]
    count: u32,

    /// Maximum time in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

/// The reason why waiting for face pictures ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Complete,
    TimeOut,
    Interrupted,
    /// Another client ended the enrollment, the daemon was restarted, or the lease
    /// expired because this command was suspended.
    Elsewhere,
}

impl Enroll {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let state = global.state_dir()?;
        let Some(client) = daemon(global, &global.load_config()?, &state)? else {
            let sentence = format!(
                "no daemon is running for {}: start \"maskd run\" to enroll what it sees",
                state.display()
            );
            return Err(Failure::new(Failure::UNAVAILABLE, sentence));
        };
        let before = client.stats()?;
        // From here on, Ctrl-C must end the enrollment, not just this command.
        let interrupt = Interrupt::catch()?;
        let started = client.enroll_with(&EnrollRequest {
            label: self.label.clone(),
            count: self.count,
            seconds: Some(self.seconds),
            lease_seconds: Some(LEASE_SECONDS),
        })?;
        tell_side(global, &before, [&self.label])?;
        let waited = self.wait(&client, &interrupt, started.id);
        let enrollment = of_this_command(client.end_enrollment_of(started.id));
        let (ended, last) = waited?;
        let mut enrollment = enrollment?.unwrap_or(last);
        for _ in 0..POLLS_AFTER_END {
            if enrollment.stored >= enrollment.taken {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
            let Some(now) = of_this_command(client.enrollment_of(started.id))? else {
                break;
            };
            enrollment = now;
        }
        let Enroll {
            label,
            count,
            seconds,
        } = self;
        let stored = enrollment.stored;
        if stored >= count {
            let (pictures, were) = (
                counted(stored, "face picture"),
                if stored == 1 { "was" } else { "were" },
            );
            return print(format!("{pictures} of {label} {were} stored\n"));
        }
        let mut sentence = format!("{stored} of {count} face pictures of {label} were stored");
        match ended {
            Ended::Interrupted => sentence = format!("interrupted: {sentence}"),
            Ended::Elsewhere => {
                sentence += ": another client ended the enrollment, the daemon was restarted, \
                             or this command was suspended";
            }
            Ended::Complete | Ended::TimeOut => sentence += &format!(" within {seconds} s"),
        }
        sentence += &why_too_few(&client.status()?.live);
        Err(Failure::new(Failure::TEMPORARY, sentence))
    }

    /// Waits until there are enough face pictures, time runs out, the wait is
    /// interrupted, or another client ends the enrollment. Returns the reason that the
    /// wait ended, and the last known state of the enrollment.
    fn wait(
        &self,
        client: &Client,
        interrupt: &Interrupt,
        id: u64,
    ) -> Result<(Ended, Enrollment), Failure> {
        let bar = bar(
            u64::from(self.count),
            "{wide_bar} {pos}/{len} face pictures, {msg}",
        );
        let limit = Duration::from_secs(u64::from(self.seconds));
        let start = now();
        let mut last = None;
        let ended = loop {
            let polled = of_this_command(client.enrollment_of(id))?;
            let left = limit.saturating_sub(now().duration_since(start));
            let Some(enrollment) = polled else {
                break Ended::Elsewhere;
            };
            let stored = enrollment.stored;
            let before = last.replace(enrollment.clone());
            let before = before.map(|before| before.stored);
            if bar.is_hidden() && before != Some(stored) {
                print(format!("{stored} of {}\n", self.count))?;
            }
            bar.set_position(u64::from(stored));
            bar.set_message(format!("{} s left", left.as_secs()));
            if interrupt.is_caught() {
                break Ended::Interrupted;
            }
            if stored >= self.count {
                break Ended::Complete;
            }
            if left.is_zero() {
                break Ended::TimeOut;
            }
            if enrollment.is_over() && enrollment.wanted < self.count {
                // The daemon may reach the time limit slightly earlier than this command.
                let is_late = left <= POLL_INTERVAL;
                break if is_late {
                    Ended::TimeOut
                } else {
                    Ended::Elsewhere
                };
            }
            std::thread::sleep(POLL_INTERVAL);
        };
        bar.finish_and_clear();
        let none = Enrollment {
            id,
            label: self.label.clone(),
            wanted: 0,
            taken: 0,
            stored: 0,
        };
        Ok((ended, last.unwrap_or(none)))
    }
}

/// Returns what probably kept an enrollment from storing enough face pictures, and what to do.
fn why_too_few(live: &Live) -> String {
    if let Some(why) = &live.capture.off_because {
        return format!("; capture is off: {why}");
    }
    let why = if live.camera.lost {
        "the camera is lost: \"maskd check\" examines it"
    } else if live.inference.faces == 0 {
        "no face is in front of the camera now: stand in front of it, in the light"
    } else {
        "a face picture is stored only if it differs from those before: move and turn the head"
    };
    format!("; {why}")
}

/// Returns the enrollment in `answer`, or `None` if the daemon's current enrollment is
/// not the one that this command started.
fn of_this_command(
    answer: Result<Enrollment, ControlError>,
) -> Result<Option<Enrollment>, ControlError> {
    match answer {
        Ok(enrollment) => Ok(Some(enrollment)),
        Err(error) if error.fault() == FailureKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a user waits for the end of the enrollment"
)]
fn now() -> Instant {
    Instant::now()
}
