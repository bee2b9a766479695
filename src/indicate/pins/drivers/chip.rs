//! Drives the pins of any board through the kernel's GPIO character devices. Chips are
//! found by their labels, because their numbers depend on the board and the kernel.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gpiocdev::line::{Bias, Info, Offset, Value};
use gpiocdev::{Request, chip};

use super::{Input, Levels, Line, PinError, PinFunction, Pins};

/// The name that other programs see as the user of a line.
const CONSUMER: &str = "maskd";

/// Labels of the chip that controls a Raspberry Pi's header: on models up to 3, on model
/// 4, and on model 5.
const PI_CHIPS: [&str; 3] = ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"];

/// The lines that were requested.
pub(super) struct GpiochipPins {
    lines: Vec<RequestedLine>,
}

struct RequestedLine {
    line: Line,
    function: PinFunction,
    request: Request,
}

impl RequestedLine {
    fn failed(&self, action: &'static str) -> impl FnOnce(gpiocdev::Error) -> PinError {
        let (line, function) = (self.line.clone(), self.function);
        move |error| PinError::Line {
            action,
            line,
            function,
            why: error.to_string(),
        }
    }
}

impl GpiochipPins {
    pub(super) fn open(
        label: Option<&str>,
        lines: &[(Line, PinFunction)],
    ) -> Result<GpiochipPins, PinError> {
        // The lines are added one by one. If a request fails, the lines before it are dropped,
        // which makes them inactive.
        let mut chip = GpiochipPins { lines: Vec::new() };
        for (found, (line, function)) in find(label, lines)?.into_iter().zip(lines) {
            if found.info.used {
                return Err(PinError::InUse {
                    line: line.clone(),
                    function: *function,
                    by: found.user(),
                });
            }
            let mut request = Request::builder();
            request
                .on_chip(&found.path)
                .with_consumer(CONSUMER)
                .with_line(found.info.offset);
            match function {
                PinFunction::Out { active_low, .. } => {
                    request.as_output(Value::Inactive);
                    if *active_low {
                        request.as_active_low();
                    }
                }
                PinFunction::In(_) => {
                    request.as_input().with_bias(Bias::PullUp).as_active_low();
                }
            }
            let request = request.request().map_err(|error| PinError::Line {
                action: "request",
                line: line.clone(),
                function: *function,
                why: error.to_string(),
            })?;
            chip.lines.push(RequestedLine {
                line: line.clone(),
                function: *function,
                request,
            });
        }
        Ok(chip)
    }
}

impl Pins for GpiochipPins {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        let mut result = Ok(());
        for line in &self.lines {
            if let PinFunction::Out { output, .. } = line.function {
                let value = if output.level(levels) {
                    Value::Active
                } else {
                    Value::Inactive
                };
                let set = line.request.set_lone_value(value);
                result = result.and(set.map_err(line.failed("switch")));
            }
        }
        result
    }

    fn closed(&mut self, input: Input) -> Result<bool, PinError> {
        let is_it = |line: &&RequestedLine| matches!(line.function, PinFunction::In(other) if other == input);
        let Some(line) = self.lines.iter().find(is_it) else {
            return Ok(false);
        };
        let value = line.request.lone_value().map_err(line.failed("read"))?;
        Ok(value == Value::Active)
    }
}

impl Drop for GpiochipPins {
    fn drop(&mut self) {
        // An error is ignored because a destructor cannot return it.
        let _ = self.set(Levels::default());
    }
}

/// Returns the device of a line's chip and the line's offset on the chip, or `None` if
/// the line cannot be found.
pub(super) fn place(
    label: Option<&str>,
    line: &Line,
    function: PinFunction,
) -> Option<(PathBuf, u32)> {
    let found = find(label, &[(line.clone(), function)]).ok()?;
    let found = found.into_iter().next()?;
    Some((found.path, found.info.offset))
}

/// A line that was found on a chip.
struct FoundLine {
    path: PathBuf,
    chip: String,
    info: Info,
}

impl FoundLine {
    fn user(&self) -> String {
        if self.info.consumer.is_empty() {
            "the kernel".to_owned()
        } else {
            self.info.consumer.clone()
        }
    }
}

/// An open chip that may have the lines.
struct Candidate {
    path: PathBuf,
    label: String,
    lines: u32,
    chip: chip::Chip,
}

/// Finds the lines and returns them in the order of `lines`.
fn find(label: Option<&str>, lines: &[(Line, PinFunction)]) -> Result<Vec<FoundLine>, PinError> {
    let mut not_permitted = None;
    let mut all = Vec::new();
    let paths = match chip::chips() {
        Ok(paths) => paths,
        Err(gpiocdev::Error::NoGpioChips()) => Vec::new(),
        Err(error) => return Err(PinError::System(error.to_string())),
    };
    for path in paths {
        if !may_use(&path) {
            not_permitted = Some(path.display().to_string());
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
    let has_label = |candidate: &&Candidate| match label {
        Some(label) => candidate.label == label,
        None => PI_CHIPS.contains(&candidate.label.as_str()),
    };
    lines
        .iter()
        .map(|(line, function)| {
            // If no label is given, a line's name is looked up on all chips.
            let by_name_alone = label.is_none() && matches!(line, Line::Name(_));
            let matching: Vec<_> = all
                .iter()
                .filter(|candidate| by_name_alone || has_label(candidate))
                .collect();
            if let Some(found) = matching
                .iter()
                .find_map(|candidate| locate(candidate, line))
            {
                return Ok(found);
            }
            if let Some(path) = not_permitted.clone() {
                return Err(PinError::Permission { path });
            }
            let no_line = |chip: String| PinError::NoLine {
                chip,
                line: line.clone(),
                function: *function,
            };
            Err(match matching.first() {
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

fn locate(candidate: &Candidate, line: &Line) -> Option<FoundLine> {
    let info = match line {
        Line::Number(number) if *number < candidate.lines => {
            candidate.chip.line_info(Offset::from(*number)).ok()?
        }
        Line::Number(_) => return None,
        Line::Name(name) => candidate.chip.find_line_info(name)?,
    };
    Some(FoundLine {
        path: candidate.path.clone(),
        chip: candidate.label.clone(),
        info,
    })
}

pub(super) fn describe(
    label: Option<&str>,
    lines: &[(Line, PinFunction)],
) -> Result<Vec<String>, PinError> {
    let found = find(label, lines)?;
    let words = found.iter().zip(lines).map(|(found, (line, function))| {
        let mut words = format!("{function} {line} on {}", found.chip);
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
