//! The console, which shows decisions as lines of text, as JSON, or on a single line that
//! is redrawn in place.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Levels;
use crate::decision::decide::Decision;
use crate::decision::frame_result::{FaceRecord, FrameResult, Probabilities};
use crate::platform::text::{printable, printable_json};

/// A change in the decision as JSON. This is the documented output format of `maskd run
/// --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecisionChange {
    /// Number of the change since startup, counted from 1. Numbers are missing only if standard
    /// output was not read in time.
    pub change: u64,
    /// Time of the change in seconds since 1970-01-01 00:00 UTC.
    pub time: f64,
    /// The new decision.
    pub decision: Decision,
    /// Number of the frame that led to the decision. Absent for a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
    /// The faces in that frame.
    pub faces: Vec<FaceRecord>,
}

/// The way in which the console shows decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleStyle {
    /// A single line on a terminal, which is redrawn in place.
    Live,
    /// One line of text per change.
    Lines,
    /// One JSON object per change, each on its own line.
    Json,
}

/// An indicator that writes to standard output.
pub struct Console {
    style: ConsoleStyle,
    live: ProgressBar,
    decision: Decision,
    faces: String,
}

impl Console {
    /// Creates a console with this style.
    #[must_use]
    pub fn new(style: ConsoleStyle) -> Console {
        let target = match style {
            ConsoleStyle::Live => ProgressDrawTarget::stdout(),
            ConsoleStyle::Lines | ConsoleStyle::Json => ProgressDrawTarget::hidden(),
        };
        let live = ProgressBar::with_draw_target(None, target);
        // If standard output is not a terminal that can move its cursor, the style is
        // changed to lines.
        let style = match style {
            ConsoleStyle::Live if live.is_hidden() => ConsoleStyle::Lines,
            style => style,
        };
        // `wide_msg` truncates the line to the width of the terminal.
        if let Ok(one_line) = ProgressStyle::with_template("{wide_msg}") {
            live.set_style(one_line);
        }
        Console {
            style,
            live,
            decision: Decision::Idle,
            faces: String::new(),
        }
    }

    /// Whether the console shows every frame and the state of the outputs.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.style == ConsoleStyle::Live
    }

    /// Sets the faces in the latest frame. Only the live style shows them.
    pub fn set_faces(&mut self, frame: &FrameResult) {
        if self.style == ConsoleStyle::Live {
            let labels = &frame.labels;
            let faces = frame.faces.iter().map(|face| FaceRecord::new(face, labels));
            let latency = frame.latency.as_millis();
            self.faces = format!("{}  {latency} ms", describe(faces));
        }
    }

    /// Shows a change in the decision.
    ///
    /// # Errors
    /// [`io::Error`] if standard output cannot be written to, for example because it is
    /// closed or its disk is full.
    pub fn change(&mut self, change: &DecisionChange) -> io::Result<()> {
        self.decision = change.decision;
        match self.style {
            ConsoleStyle::Live => {
                if change.decision == Decision::Fault {
                    "no fresh frames".clone_into(&mut self.faces);
                }
                Ok(())
            }
            ConsoleStyle::Lines => {
                let faces = describe(change.faces.iter().cloned());
                let line = format!("{:<8} {faces}", change.decision.name());
                write_line(line.trim_end())
            }
            ConsoleStyle::Json => write_line(&printable_json(&serde_json::to_string(change)?)),
        }
    }

    /// Shows the state of the outputs, regardless of whether they are connected.
    pub fn set_levels(&mut self, levels: Levels) {
        let led = |on: bool, name: &str| {
            if on {
                format!("●{name}")
            } else {
                format!("○{name}")
            }
        };
        let Levels {
            green,
            red,
            buzzer,
            relay,
        } = levels;
        let mut leds = format!(
            "{} {} {}",
            led(green, "green"),
            led(red, "red"),
            led(buzzer, "buzzer")
        );
        if let Some(on) = relay {
            leds += &format!(" {}", led(on, "relay"));
        }
        self.live.set_message(format!(
            "{leds}  {:<8} {}",
            self.decision.name(),
            printable(&self.faces)
        ));
        self.live.tick();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.style == ConsoleStyle::Live {
            self.live.finish();
            // This makes the next output start on a new line.
            println!();
        }
    }
}

/// Describes the faces as text, for example `2 faces: with_mask 98%, unsure`.
fn describe(faces: impl Iterator<Item = FaceRecord>) -> String {
    let words: Vec<String> = faces
        .map(|face| {
            let mut all = face.probabilities.iter().flat_map(Probabilities::iter);
            match all.find(|(label, _)| *label == face.verdict) {
                Some((_, p)) => format!("{} {:.0}%", face.verdict, p * 100.0),
                None => face.verdict,
            }
        })
        .collect();
    match words.len() {
        0 => String::new(),
        1 => format!("1 face: {}", words[0]),
        count => format!("{count} faces: {}", words.join(", ")),
    }
}

fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", printable(line))?;
    out.flush()
}
