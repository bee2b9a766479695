//! Drives the pins of a Raspberry Pi through its registers, with the crate rppal.

use rppal::gpio::{Error, Gpio, InputPin, Level, OutputPin};

use super::{Input, Levels, Line, Output, PinError, PinFunction, Pins};

/// The lines that were requested.
pub(super) struct RppalPins {
    outputs: Vec<OutputLine>,
    inputs: Vec<(Input, InputPin)>,
    /// Frequency in hertz of the tone for a passive buzzer.
    tone: Option<f64>,
}

struct OutputLine {
    output: Output,
    active_low: bool,
    pin: OutputPin,
    /// Whether PWM is on, which produces the tone of a passive buzzer.
    is_pwm: bool,
}

impl OutputLine {
    fn level(&self, on: bool) -> Level {
        Level::from(on != self.active_low)
    }

    fn set(&mut self, on: bool, tone: Option<f64>) -> Result<(), Error> {
        let tone = tone.filter(|_| self.output == Output::Buzzer);
        match tone {
            Some(_) if on && self.is_pwm => {}
            Some(hertz) if on => {
                self.pin.set_pwm_frequency(hertz, 0.5)?;
                self.is_pwm = true;
            }
            _ => {
                if std::mem::take(&mut self.is_pwm) {
                    self.pin.clear_pwm()?;
                }
                let level = self.level(on);
                self.pin.write(level);
            }
        }
        Ok(())
    }
}

impl RppalPins {
    pub(super) fn open(
        lines: &[(Line, PinFunction)],
        tone: Option<f64>,
    ) -> Result<RppalPins, PinError> {
        let gpio = Gpio::new().map_err(|error| match error {
            Error::UnknownModel => PinError::NoPi,
            Error::PermissionDenied(path) => PinError::Permission { path },
            error => PinError::System(error.to_string()),
        })?;
        let mut pi = RppalPins {
            outputs: Vec::new(),
            inputs: Vec::new(),
            tone,
        };
        for (line, function) in lines {
            let no_line = || PinError::NoLine {
                chip: "a Raspberry Pi's header".to_owned(),
                line: line.clone(),
                function: *function,
            };
            let Line::Number(number) = line else {
                return Err(no_line());
            };
            let pin = gpio.get(u8::try_from(*number).map_err(|_| no_line())?);
            let pin = pin.map_err(|error| match error {
                Error::PinNotAvailable(_) => no_line(),
                error => PinError::Line {
                    action: "request",
                    line: line.clone(),
                    function: *function,
                    why: error.to_string(),
                },
            })?;
            match *function {
                PinFunction::Out { output, active_low } => {
                    // The inactive level is set before the line becomes an output.
                    let mut pin = if active_low {
                        pin.into_output_high()
                    } else {
                        pin.into_output_low()
                    };
                    // By default, rppal turns the line back into an input when the pin is dropped,
                    // and an input could float.
                    pin.set_reset_on_drop(false);
                    pi.outputs.push(OutputLine {
                        output,
                        active_low,
                        pin,
                        is_pwm: false,
                    });
                }
                PinFunction::In(input) => pi.inputs.push((input, pin.into_input_pullup())),
            }
        }
        Ok(pi)
    }
}

impl Pins for RppalPins {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        let mut result = Ok(());
        for output in &mut self.outputs {
            let set = output.set(output.output.level(levels), self.tone);
            let set = set.map_err(|error| PinError::Line {
                action: "switch",
                line: Line::Number(output.pin.pin().into()),
                function: PinFunction::Out {
                    output: output.output,
                    active_low: output.active_low,
                },
                why: error.to_string(),
            });
            result = result.and(set);
        }
        result
    }

    fn closed(&mut self, input: Input) -> Result<bool, PinError> {
        let wired = self.inputs.iter().find(|(wired, _)| *wired == input);
        Ok(wired.is_some_and(|(_, pin)| pin.is_low()))
    }
}

impl Drop for RppalPins {
    fn drop(&mut self) {
        // An error is ignored because a destructor cannot return it.
        let _ = self.set(Levels::default());
    }
}

pub(super) fn describe(lines: &[(Line, PinFunction)]) -> Result<Vec<String>, PinError> {
    if !super::is_pi() {
        return Err(PinError::NoPi);
    }
    let words = |(line, function): &(Line, PinFunction)| format!("{function} GPIO{line}");
    Ok(lines.iter().map(words).collect())
}
