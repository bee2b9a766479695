//! `maskd enroll`, which has the daemon label the face that it sees now.

use std::time::{Duration, Instant};

use clap::Args;

use super::backend::daemon;
use super::interrupt::Interrupt;
use super::progress::bar;
use super::{Failure, Global, print};
use crate::api::socket::{Client, MAX_ENROLLED};

/// How often the command polls the daemon for the progress of an enrollment.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Maximum number of polls after the end of an enrollment. By then, the crops that
/// were taken before the end are on disk.
const POLLS_AFTER_END: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// The label of the face that the daemon sees now
    label: String,

    /// How many face pictures to store
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
        // From here on, Ctrl-C must end the enrollment, not just this command.
        let interrupt = Interrupt::catch()?;
        client.enroll(&self.label, self.count)?;
        let waited = self.wait(&client, &interrupt);
        let enrollment = client.end_enrollment();
        let ended = waited?;
        let mut enrollment = enrollment?;
        for _ in 0..POLLS_AFTER_END {
            if enrollment.stored >= enrollment.taken {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
            enrollment = client.enrollment()?;
        }
        let Enroll {
            label,
            count,
            seconds,
        } = self;
        let stored = enrollment.stored;
        if stored >= count {
            return print(format!("{stored} face pictures of {label} were stored\n").as_bytes());
        }
        let mut sentence = format!("{stored} of {count} face pictures of {label} were stored");
        match ended {
            Ended::Interrupted => sentence = format!("interrupted: {sentence}"),
            Ended::Complete | Ended::TimeOut => sentence += &format!(" within {seconds} s"),
        }
        if let Some(why) = client.status()?.live.capture.off_because {
            sentence += &format!("; capture is off: {why}");
        }
        Err(Failure::new(Failure::TEMPORARY, sentence))
    }

    /// Waits until there are enough face pictures, the time is over, or the wait is
    /// interrupted.
    fn wait(&self, client: &Client, interrupt: &Interrupt) -> Result<Ended, Failure> {
        let bar = bar(
            u64::from(self.count),
            "{wide_bar} {pos}/{len} face pictures, {msg}",
        );
        let limit = Duration::from_secs(u64::from(self.seconds));
        let start = now();
        let mut printed = None;
        let ended = loop {
            let stored = client.enrollment()?.stored;
            let left = limit.saturating_sub(now().duration_since(start));
            if bar.is_hidden() && printed != Some(stored) {
                print(format!("{stored} of {}\n", self.count).as_bytes())?;
                printed = Some(stored);
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
            std::thread::sleep(POLL_INTERVAL);
        };
        bar.finish_and_clear();
        Ok(ended)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a person waits for the end of the enrollment"
)]
fn now() -> Instant {
    Instant::now()
}
