//! Any board's pins by the kernel's GPIO character devices. Chips are found by
//! their label: their numbers differ from board to board, and from one kernel to
//! the next.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gpiocdev::line::{Bias, Info, Offset, Value};
use gpiocdev::{Request, chip};

use super::{Button, Levels, Line, PinError, Pins, Use};

/// What other programs see as the user of a line.
const CONSUMER: &str = "maskd";

/// The chips behind the header of a Raspberry Pi: up to 3, 4, and 5.
const PI_CHIPS: [&str; 3] = ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"];

/// Lines that are held.
pub(super) struct Chip {
    wires: Vec<Wire>,
}

struct Wire {
    line: Line,
    purpose: Use,
    request: Request,
}

impl Wire {
    fn failed(&self, action: &'static str) -> impl FnOnce(gpiocdev::Error) -> PinError {
        let (line, purpose) = (self.line.clone(), self.purpose);
        move |error| PinError::Line {
            action,
            line,
            purpose,
            why: error.to_string(),
        }
    }
}

impl Chip {
    pub(super) fn open(label: Option<&str>, lines: &[(Line, Use)]) -> Result<Chip, PinError> {
        // As it is filled, what was taken before a failure is left inactive.
        let mut chip = Chip { wires: Vec::new() };
        for (found, (line, purpose)) in find(label, lines)?.into_iter().zip(lines) {
            if found.info.used {
                return Err(PinError::InUse {
                    line: line.clone(),
                    purpose: *purpose,
                    by: found.user(),
                });
            }
            let mut request = Request::builder();
            request
                .on_chip(&found.path)
                .with_consumer(CONSUMER)
                .with_line(found.info.offset);
            match purpose {
                Use::Out { active_low, .. } => {
                    request.as_output(Value::Inactive);
                    if *active_low {
                        request.as_active_low();
                    }
                }
                Use::In(_) => {
                    request.as_input().with_bias(Bias::PullUp).as_active_low();
                }
            }
            let request = request.request().map_err(|error| PinError::Line {
                action: "take",
                line: line.clone(),
                purpose: *purpose,
                why: error.to_string(),
            })?;
            chip.wires.push(Wire {
                line: line.clone(),
                purpose: *purpose,
                request,
            });
        }
        Ok(chip)
    }
}

impl Pins for Chip {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        let mut result = Ok(());
        for wire in &self.wires {
            if let Use::Out { output, .. } = wire.purpose {
                let value = if output.level(levels) {
                    Value::Active
                } else {
                    Value::Inactive
                };
                let set = wire.request.set_lone_value(value);
                result = result.and(set.map_err(wire.failed("switch")));
            }
        }
        result
    }

    fn closed(&mut self, button: Button) -> Result<bool, PinError> {
        let is_it = |wire: &&Wire| matches!(wire.purpose, Use::In(wired) if wired == button);
        let Some(wire) = self.wires.iter().find(is_it) else {
            return Ok(false);
        };
        let value = wire.request.lone_value().map_err(wire.failed("read"))?;
        Ok(value == Value::Active)
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.set(Levels::default());
    }
}

/// A line that is there.
struct Found {
    path: PathBuf,
    chip: String,
    info: Info,
}

impl Found {
    fn user(&self) -> String {
        if self.info.consumer.is_empty() {
            "the kernel".to_owned()
        } else {
            self.info.consumer.clone()
        }
    }
}

/// A chip that can be opened.
struct Candidate {
    path: PathBuf,
    label: String,
    lines: u32,
    chip: chip::Chip,
}

/// Where the lines are, in their order.
fn find(label: Option<&str>, lines: &[(Line, Use)]) -> Result<Vec<Found>, PinError> {
    let mut refused = None;
    let mut all = Vec::new();
    let paths = match chip::chips() {
        Ok(paths) => paths,
        Err(gpiocdev::Error::NoGpioChips()) => Vec::new(),
        Err(error) => return Err(PinError::System(error.to_string())),
    };
    for path in paths {
        if !may_use(&path) {
            refused = Some(path.display().to_string());
            continue;
        }
        let system = |error: gpiocdev::Error| PinError::System(error.to_string());
        let chip = chip::Chip::from_path(&path).map_err(system)?;
        let info = chip.info().map_err(system)?;
        all.push(Candidate {
            path,
            label: info.label,
            lines: info.num_lines,
            chip,
        });
    }
    let is_meant = |candidate: &&Candidate| match label {
        Some(label) => candidate.label == label,
        None => PI_CHIPS.contains(&candidate.label.as_str()),
    };
    lines
        .iter()
        .map(|(line, purpose)| {
            // A name says by itself on which chip it is.
            let by_name_alone = label.is_none() && matches!(line, Line::Name(_));
            let meant: Vec<_> = all
                .iter()
                .filter(|candidate| by_name_alone || is_meant(candidate))
                .collect();
            if let Some(found) = meant.iter().find_map(|candidate| locate(candidate, line)) {
                return Ok(found);
            }
            if let Some(path) = refused.clone() {
                return Err(PinError::Permission { path });
            }
            let no_line = |chip: String| PinError::NoLine {
                chip,
                line: line.clone(),
                purpose: *purpose,
            };
            Err(match meant.first() {
                _ if by_name_alone => no_line("this machine".to_owned()),
                Some(candidate) => no_line(format!("the GPIO chip {}", candidate.label)),
                None => PinError::NoChip {
                    wanted: match label {
                        Some(label) => vec![label.to_owned()],
                        None => PI_CHIPS.map(str::to_owned).to_vec(),
                    },
                    found: all.iter().map(|other| other.label.clone()).collect(),
                },
            })
        })
        .collect()
}

fn may_use(path: &Path) -> bool {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    !opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

fn locate(candidate: &Candidate, line: &Line) -> Option<Found> {
    let info = match line {
        Line::Number(number) if *number < candidate.lines => {
            candidate.chip.line_info(Offset::from(*number)).ok()?
        }
        Line::Number(_) => return None,
        Line::Name(name) => candidate.chip.find_line_info(name)?,
    };
    Some(Found {
        path: candidate.path.clone(),
        chip: candidate.label.clone(),
        info,
    })
}

pub(super) fn describe(
    label: Option<&str>,
    lines: &[(Line, Use)],
) -> Result<Vec<String>, PinError> {
    let found = find(label, lines)?;
    let words = found.iter().zip(lines).map(|(found, (line, purpose))| {
        let mut words = format!("{purpose} {line} on {}", found.chip);
        if found.info.used {
            words += &format!(" (in use by {})", found.user());
        }
        words
    });
    Ok(words.collect())
}

pub(super) fn all() -> Vec<String> {
    let paths = chip::chips().unwrap_or_default();
    let words = |path: &PathBuf| {
        let device = path.display();
        let info = chip::Chip::from_path(path).and_then(|chip| chip.info());
        match info {
            Ok(info) => format!("{} ({device}, {} lines)", info.label, info.num_lines),
            Err(error) => format!("{device} ({error})"),
        }
    };
    paths.iter().map(words).collect()
}
