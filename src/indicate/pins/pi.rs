//! A Raspberry Pi's pins by its registers.

use rppal::gpio::{Error, Gpio, InputPin, Level, OutputPin};

use super::{Button, Levels, Line, Output, PinError, Pins, Use};

/// Lines that are held.
pub(super) struct Pi {
    outputs: Vec<Wire>,
    buttons: Vec<(Button, InputPin)>,
    /// Of a passive buzzer, in hertz.
    tone: Option<f64>,
}

struct Wire {
    output: Output,
    active_low: bool,
    pin: OutputPin,
    /// Whether it is driven with the buzzer's tone now.
    sounds: bool,
}

impl Wire {
    fn level(&self, on: bool) -> Level {
        Level::from(on != self.active_low)
    }

    fn set(&mut self, on: bool, tone: Option<f64>) -> Result<(), Error> {
        let tone = tone.filter(|_| self.output == Output::Buzzer);
        match tone {
            Some(_) if on && self.sounds => {}
            Some(hertz) if on => {
                self.pin.set_pwm_frequency(hertz, 0.5)?;
                self.sounds = true;
            }
            _ => {
                if std::mem::take(&mut self.sounds) {
                    self.pin.clear_pwm()?;
                }
                let level = self.level(on);
                self.pin.write(level);
            }
        }
        Ok(())
    }
}

impl Pi {
    pub(super) fn open(lines: &[(Line, Use)], tone: Option<f64>) -> Result<Pi, PinError> {
        let gpio = Gpio::new().map_err(|error| match error {
            Error::UnknownModel => PinError::NoPi,
            Error::PermissionDenied(path) => PinError::Permission { path },
            error => PinError::System(error.to_string()),
        })?;
        let mut pi = Pi {
            outputs: Vec::new(),
            buttons: Vec::new(),
            tone,
        };
        for (line, purpose) in lines {
            let none = || PinError::NoLine {
                chip: "a Raspberry Pi's header".to_owned(),
                line: line.clone(),
                purpose: *purpose,
            };
            let Line::Number(number) = line else {
                return Err(none());
            };
            let pin = gpio.get(u8::try_from(*number).map_err(|_| none())?);
            let pin = pin.map_err(|error| match error {
                Error::PinNotAvailable(_) => none(),
                error => PinError::Line {
                    action: "take",
                    line: line.clone(),
                    purpose: *purpose,
                    why: error.to_string(),
                },
            })?;
            match *purpose {
                Use::Out { output, active_low } => {
                    // The level is there before the line is an output.
                    let mut pin = if active_low {
                        pin.into_output_high()
                    } else {
                        pin.into_output_low()
                    };
                    // As an input, what it was before, an output may float.
                    pin.set_reset_on_drop(false);
                    pi.outputs.push(Wire {
                        output,
                        active_low,
                        pin,
                        sounds: false,
                    });
                }
                Use::In(button) => pi.buttons.push((button, pin.into_input_pullup())),
            }
        }
        Ok(pi)
    }
}

impl Pins for Pi {
    fn set(&mut self, levels: Levels) -> Result<(), PinError> {
        let mut result = Ok(());
        for wire in &mut self.outputs {
            let set = wire.set(wire.output.level(levels), self.tone);
            let set = set.map_err(|error| PinError::Line {
                action: "switch",
                line: Line::Number(wire.pin.pin().into()),
                purpose: Use::Out {
                    output: wire.output,
                    active_low: wire.active_low,
                },
                why: error.to_string(),
            });
            result = result.and(set);
        }
        result
    }

    fn closed(&mut self, button: Button) -> Result<bool, PinError> {
        let wired = self.buttons.iter().find(|(wired, _)| *wired == button);
        Ok(wired.is_some_and(|(_, pin)| pin.is_low()))
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.set(Levels::default());
    }
}

pub(super) fn describe(lines: &[(Line, Use)]) -> Result<Vec<String>, PinError> {
    if !super::is_pi() {
        return Err(PinError::NoPi);
    }
    let words = |(line, purpose): &(Line, Use)| format!("{purpose} GPIO{line}");
    Ok(lines.iter().map(words).collect())
}
