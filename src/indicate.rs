//! What shows the decision: lamps, buzzer, console.
//!
//! Owns the patterns, as a pure function of the decision and how long it has
//! stood, and the console. Decides nothing.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::decide::Decision;
use crate::scene::{FaceRecord, Probabilities, Scene};

/// Which outputs are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// Green lamp.
    pub green: bool,
    /// Red lamp.
    pub red: bool,
    /// Buzzer.
    pub buzzer: bool,
}

/// The outputs for a decision that has stood for `elapsed`.
///
/// | decision | green | red | buzzer |
/// |---|---|---|---|
/// | idle | off | off | off |
/// | mask | on | off | off |
/// | no mask | off | on | three chirps of 150 ms, one every 500 ms |
/// | unsure | blinks, 1 a second | blinks, 1 a second | off |
/// | fault | off | blinks, 4 a second | off |
#[must_use]
pub fn levels(decision: Decision, elapsed: Duration) -> Levels {
    let ms = elapsed.as_millis();
    let blink = |period: u128| ms % period < period / 2;
    match decision {
        Decision::Idle => Levels::default(),
        Decision::Mask => Levels {
            green: true,
            ..Levels::default()
        },
        Decision::NoMask => Levels {
            red: true,
            buzzer: ms < 1500 && ms % 500 < 150,
            green: false,
        },
        Decision::Unsure => Levels {
            green: blink(1000),
            red: blink(1000),
            buzzer: false,
        },
        Decision::Fault => Levels {
            red: blink(250),
            ..Levels::default()
        },
    }
}

/// Something with lamps and a buzzer.
pub trait Indicator: Send {
    /// Switches the outputs.
    ///
    /// # Errors
    /// The sentence says which output could not be switched.
    fn set(&mut self, levels: Levels) -> io::Result<()>;
}

/// A change of the decision, as JSON: the documented contract of `maskd run
/// --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Number of the change since the start, from 1, without gaps.
    pub change: u64,
    /// Seconds since 1970, UTC.
    pub time: f64,
    /// The new decision.
    pub decision: Decision,
    /// Number of the frame that the decision was made with; absent for a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
    /// The faces of that frame.
    pub faces: Vec<FaceRecord>,
}

/// How the console shows decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleStyle {
    /// A line that is drawn over and over, on a terminal.
    Live,
    /// A line for each change.
    Lines,
    /// A JSON object on a line for each change.
    Json,
}

/// Standard output as an indicator.
pub struct Console {
    style: ConsoleStyle,
    live: ProgressBar,
    decision: Decision,
    scene: String,
}

impl Console {
    /// A console of this style.
    #[must_use]
    pub fn new(style: ConsoleStyle) -> Console {
        let target = match style {
            ConsoleStyle::Live => ProgressDrawTarget::stdout(),
            ConsoleStyle::Lines | ConsoleStyle::Json => ProgressDrawTarget::hidden(),
        };
        let live = ProgressBar::with_draw_target(None, target);
        // A terminal that cannot move its cursor gets lines.
        let style = match style {
            ConsoleStyle::Live if live.is_hidden() => ConsoleStyle::Lines,
            style => style,
        };
        // `wide_msg` cuts the line to the width of the terminal.
        if let Ok(one_line) = ProgressStyle::with_template("{wide_msg}") {
            live.set_style(one_line);
        }
        Console {
            style,
            live,
            decision: Decision::Idle,
            scene: String::new(),
        }
    }

    /// Takes what the newest frame shows; drawn only on a live console.
    pub fn scene(&mut self, scene: &Scene) {
        if self.style == ConsoleStyle::Live {
            let labels = &scene.labels;
            let faces = scene.faces.iter().map(|face| FaceRecord::new(face, labels));
            let latency = scene.latency.as_millis();
            self.scene = format!("{}  {latency} ms", describe(faces));
        }
    }

    /// Shows a change of the decision.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub fn change(&mut self, change: &Change) -> io::Result<()> {
        self.decision = change.decision;
        match self.style {
            ConsoleStyle::Live => {
                if change.decision == Decision::Fault {
                    "no fresh frames".clone_into(&mut self.scene);
                }
                Ok(())
            }
            ConsoleStyle::Lines => {
                let faces = describe(change.faces.iter().cloned());
                let line = format!("{:<8} {faces}", change.decision.name());
                write_line(line.trim_end())
            }
            ConsoleStyle::Json => write_line(&serde_json::to_string(change)?),
        }
    }
}

impl Indicator for Console {
    fn set(&mut self, levels: Levels) -> io::Result<()> {
        let lamp = |on: bool, name: &str| {
            if on {
                format!("●{name}")
            } else {
                format!("○{name}")
            }
        };
        let Levels { green, red, buzzer } = levels;
        let lamps = format!(
            "{} {} {}",
            lamp(green, "green"),
            lamp(red, "red"),
            lamp(buzzer, "buzzer")
        );
        self.live.set_message(format!(
            "{lamps}  {:<8} {}",
            self.decision.name(),
            self.scene
        ));
        self.live.tick();
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.style == ConsoleStyle::Live {
            self.live.finish();
            // What comes after it on the terminal begins on a line of its own.
            println!();
        }
    }
}

/// The faces in words: `2 faces: with_mask 98 %, unsure 55 %`.
fn describe(faces: impl Iterator<Item = FaceRecord>) -> String {
    let words: Vec<String> = faces
        .map(|face| {
            let mut all = face.probabilities.iter().flat_map(Probabilities::iter);
            match all.find(|(label, _)| *label == face.verdict) {
                Some((_, p)) => format!("{} {:.0} %", face.verdict, p * 100.0),
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
    writeln!(out, "{line}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(decision: Decision, ms: u64) -> Levels {
        levels(decision, Duration::from_millis(ms))
    }

    #[test]
    fn patterns_are_those_of_the_table() {
        assert_eq!(at(Decision::Idle, 10), Levels::default());
        assert_eq!(
            at(Decision::Mask, 99_999),
            Levels {
                green: true,
                red: false,
                buzzer: false
            }
        );
        assert_eq!(
            at(Decision::NoMask, 0),
            Levels {
                green: false,
                red: true,
                buzzer: true
            }
        );
        assert!(at(Decision::NoMask, 149).buzzer);
        assert_eq!(
            at(Decision::NoMask, 150),
            Levels {
                green: false,
                red: true,
                buzzer: false
            }
        );
        assert!(at(Decision::NoMask, 1149).buzzer);
        assert!(
            !at(Decision::NoMask, 1500).buzzer,
            "the buzzer falls silent, the lamp stays"
        );
        assert!(at(Decision::NoMask, 60_000).red);
        assert_eq!(
            at(Decision::Unsure, 499),
            Levels {
                green: true,
                red: true,
                buzzer: false
            }
        );
        assert_eq!(at(Decision::Unsure, 500), Levels::default());
        assert_eq!(
            at(Decision::Fault, 0),
            Levels {
                green: false,
                red: true,
                buzzer: false
            }
        );
        assert_eq!(at(Decision::Fault, 130), Levels::default());
    }

    proptest! {
        #[test]
        fn green_alone_means_mask_and_nothing_else_does(ms in 0_u64..100_000) {
            for decision in [Decision::Idle, Decision::NoMask, Decision::Unsure, Decision::Fault] {
                let levels = at(decision, ms);
                prop_assert!(!levels.green || levels.red, "{decision:?} at {ms} ms: {levels:?}");
            }
        }
    }
}
