//! `[indicate]`: the LEDs, the buzzer, the door, and the buttons.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::indicate::pins::{Backend, Input, Line, Output, PinDriver, PinFunction, PinOptions};
use crate::indicate::{
    Button, ContactType, DoorInput, DoorOptions, LockType, Opening, TimeOfDay, Window,
};
use crate::onnx::Label;

/// `[indicate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Indicate {
    /// The backend that drives the pins. If absent, `rppal` is used on a Raspberry Pi,
    /// and `console` on other machines.
    pub backend: Option<Backend>,
    /// Label of the GPIO chip for gpiocdev. If absent, the chip of a Raspberry Pi is used.
    pub gpio_chip: Option<String>,
    /// Pin for the green LED.
    pub green_pin: Option<Line>,
    /// Pin for the red LED.
    pub red_pin: Option<Line>,
    /// Pin for the buzzer.
    pub buzzer_pin: Option<Line>,
    /// Pin for the door's relay.
    pub relay_pin: Option<Line>,
    /// Outputs that are active when their pin is low.
    pub active_low: Vec<Output>,
    /// Type of the buzzer.
    pub buzzer: Buzzer,
    /// Tone of a passive buzzer, in hertz; 50 to 10,000.
    pub buzzer_hz: u32,
    /// Start of the quiet hours, in local time.
    pub quiet_from: Option<TimeOfDay>,
    /// End of the quiet hours, in local time.
    pub quiet_to: Option<TimeOfDay>,
    /// Whether the door is locked or open while its lock has no power.
    pub relay: LockType,
    /// How long the door stays open after a mask was seen, in ms; 0 to 600,000.
    pub relay_hold_ms: u64,
    /// How long the relay is switched when the decision becomes mask, in ms; 50 to 60,000. If
    /// absent, the door stays open as `relay_hold_ms` says.
    pub relay_pulse_ms: Option<u64>,
    /// Pin for the contact that tells whether the door is open.
    pub door_contact_pin: Option<Line>,
    /// Type of the door contact. Its normal state is that of a closed door.
    pub door_contact: ContactType,
    /// How long the door may be open before a warning, in ms; 1000 to 86,400,000. If absent, there
    /// is no warning.
    pub held_open_ms: Option<u64>,
    /// Pin for the button that lets people leave.
    pub exit_button_pin: Option<Line>,
    /// Type of the exit button. Its normal state is that of a button that is not pressed.
    pub exit_button: ContactType,
    /// Pin for the line with which a fire alarm or an emergency release unlocks the door.
    pub release_pin: Option<Line>,
    /// Type of the contact in the release line. Its normal state is that without an alarm.
    pub release: ContactType,
    /// Pin for the button that labels people as masked.
    pub with_mask_button_pin: Option<Line>,
    /// Pin for the button that labels people as unmasked.
    pub without_mask_button_pin: Option<Line>,
    /// Label that the button for masked people assigns.
    pub with_mask_label: String,
    /// Label that the button for unmasked people assigns.
    pub without_mask_label: String,
    /// Number of crops that one button press labels; 1 to 100.
    pub button_crops: u32,
}

/// The type of a buzzer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Buzzer {
    /// Sounds whenever it is powered.
    Active,
    /// Sounds only when driven with a signal at the frequency of the tone.
    Passive,
}

impl Default for Indicate {
    fn default() -> Indicate {
        Indicate {
            backend: None,
            gpio_chip: None,
            green_pin: None,
            red_pin: None,
            buzzer_pin: None,
            relay_pin: None,
            active_low: Vec::new(),
            buzzer: Buzzer::Active,
            buzzer_hz: 2000,
            quiet_from: None,
            quiet_to: None,
            relay: LockType::FailSecure,
            relay_hold_ms: 3000,
            relay_pulse_ms: None,
            door_contact_pin: None,
            door_contact: ContactType::NormallyClosed,
            held_open_ms: None,
            exit_button_pin: None,
            exit_button: ContactType::NormallyOpen,
            release_pin: None,
            release: ContactType::NormallyClosed,
            with_mask_button_pin: None,
            without_mask_button_pin: None,
            with_mask_label: "with_mask".to_owned(),
            without_mask_label: "without_mask".to_owned(),
            button_crops: 3,
        }
    }
}

impl Indicate {
    /// Returns the key, the line, and the function of each configured pin.
    fn lines(&self) -> Vec<(&'static str, Line, PinFunction)> {
        let out = |output| PinFunction::Out {
            output,
            active_low: self.active_low.contains(&output),
        };
        let input = |input| PinFunction::In(Input::Door(input));
        let all = [
            ("green-pin", &self.green_pin, out(Output::Green)),
            ("red-pin", &self.red_pin, out(Output::Red)),
            ("buzzer-pin", &self.buzzer_pin, out(Output::Buzzer)),
            ("relay-pin", &self.relay_pin, out(Output::Relay)),
            (
                "door-contact-pin",
                &self.door_contact_pin,
                input(DoorInput::Contact),
            ),
            (
                "exit-button-pin",
                &self.exit_button_pin,
                input(DoorInput::ExitButton),
            ),
            ("release-pin", &self.release_pin, input(DoorInput::Release)),
            (
                "with-mask-button-pin",
                &self.with_mask_button_pin,
                PinFunction::In(Input::Button(Button::WithMask)),
            ),
            (
                "without-mask-button-pin",
                &self.without_mask_button_pin,
                PinFunction::In(Input::Button(Button::WithoutMask)),
            ),
        ];
        all.into_iter()
            .filter_map(|(key, line, purpose)| Some((key, line.clone()?, purpose)))
            .collect()
    }

    /// Whether any pin is configured.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        !self.lines().is_empty()
    }

    /// Whether an LED or a buzzer is configured.
    #[must_use]
    pub fn has_leds(&self) -> bool {
        let pins = [&self.green_pin, &self.red_pin, &self.buzzer_pin];
        pins.iter().any(|pin| pin.is_some())
    }

    /// Whether any button is configured.
    #[must_use]
    pub fn has_buttons(&self) -> bool {
        self.with_mask_button_pin.is_some() || self.without_mask_button_pin.is_some()
    }

    /// Returns the options for [`crate::indicate::pins::open`], or `None` if decisions
    /// are shown only on the console. `on_pi` tells whether this machine is a Raspberry
    /// Pi.
    #[must_use]
    pub fn pins(&self, on_pi: bool) -> Option<PinOptions> {
        let default = if on_pi {
            Backend::Rppal
        } else {
            Backend::Console
        };
        let driver = match self.backend.unwrap_or(default) {
            Backend::Console => return None,
            Backend::Rppal => PinDriver::Rppal {
                tone: (self.buzzer == Buzzer::Passive).then_some(self.buzzer_hz.into()),
            },
            Backend::Gpiocdev => PinDriver::Gpiocdev {
                chip: self.gpio_chip.clone(),
            },
        };
        let lines = self.lines();
        let lines = lines.into_iter().map(|(_, line, purpose)| (line, purpose));
        let options = PinOptions {
            driver,
            lines: lines.collect(),
        };
        (!options.lines.is_empty()).then_some(options)
    }

    /// Returns the options of the door, or `None` if there is no relay. `has_pins` tells whether
    /// the pins are used. Without them, the door has no inputs.
    #[must_use]
    pub fn door(&self, has_pins: bool) -> Option<DoorOptions> {
        self.relay_pin.as_ref()?;
        let opening = match self.relay_pulse_ms {
            Some(ms) => Opening::Pulse(Duration::from_millis(ms)),
            None => Opening::Hold(Duration::from_millis(self.relay_hold_ms)),
        };
        let without_inputs = DoorOptions::without_inputs(self.relay, opening);
        if !has_pins {
            return Some(without_inputs);
        }
        let wired = |pin: &Option<Line>, contact| pin.as_ref().map(|_| contact);
        Some(DoorOptions {
            contact: wired(&self.door_contact_pin, self.door_contact),
            exit_button: wired(&self.exit_button_pin, self.exit_button),
            release: wired(&self.release_pin, self.release),
            held_open_after: self.held_open_ms.map(Duration::from_millis),
            ..without_inputs
        })
    }

    /// Returns the quiet hours for the buzzer, or `None` if they are not configured.
    #[must_use]
    pub fn quiet(&self) -> Option<Window> {
        Window::daily(self.quiet_from?, self.quiet_to?)
    }

    /// Returns the label that a button assigns.
    #[must_use]
    pub fn label(&self, button: Button) -> &str {
        match button {
            Button::WithMask => &self.with_mask_label,
            Button::WithoutMask => &self.without_mask_label,
        }
    }

    pub(super) fn check(&self, check: &mut Check) {
        let lines = self.lines();
        let by_number = self.backend.is_none_or(|backend| backend == Backend::Rppal);
        for (index, (key, line, _)) in lines.iter().enumerate() {
            let key = format!("indicate.{key}");
            let twin = lines[..index].iter().find(|(_, other, _)| other == line);
            if let Some((other, _, _)) = twin {
                check.fail(
                    &key,
                    format!("is {line}, the same as {other}: use another pin"),
                );
            }
            match line {
                // Pins with higher numbers are connected to parts of the board, such as
                // the SD card.
                Line::Number(number) if by_number && *number > LAST_HEADER_GPIO => check.fail(
                    &key,
                    format!("is {line}, allowed is 0 to {LAST_HEADER_GPIO} with rppal"),
                ),
                Line::Name(name) if by_number && name.parse::<u32>().is_ok() => check.fail(
                    &key,
                    format!("is a text: write the number {name} without quotes"),
                ),
                Line::Name(_) if by_number => check.fail(
                    &key,
                    format!(
                        "is {line}, but names require the backend \"gpiocdev\": set backend, or \
                         use a number"
                    ),
                ),
                Line::Name(name) if name.is_empty() => check.fail(&key, "is empty".to_owned()),
                _ => {}
            }
        }
        let gpiocdev = self.backend == Some(Backend::Gpiocdev);
        if self.gpio_chip.is_some() && !gpiocdev {
            let problem = "requires the backend \"gpiocdev\": set backend, or remove gpio-chip";
            check.fail("indicate.gpio-chip", problem.to_owned());
        }
        if self.buzzer == Buzzer::Passive && gpiocdev {
            let problem = "is passive, which requires the backend \"rppal\": use an active buzzer";
            check.fail("indicate.buzzer", problem.to_owned());
        }
        check.within("indicate.buzzer-hz", self.buzzer_hz, 50, 10_000);
        match (self.quiet_from, self.quiet_to) {
            (Some(from), Some(to)) if from == to => {
                check.fail(
                    "indicate.quiet-to",
                    format!("is {to}, the same as quiet-from"),
                );
            }
            (Some(_), None) => check.fail("indicate.quiet-to", "is missing".to_owned()),
            (None, Some(_)) => check.fail("indicate.quiet-from", "is missing".to_owned()),
            _ => {}
        }
        self.check_door(check);
        for (key, label) in [
            ("indicate.with-mask-label", &self.with_mask_label),
            ("indicate.without-mask-label", &self.without_mask_label),
        ] {
            if let Err(error) = Label::new(label) {
                check.fail(key, format!("is wrong: {error}"));
            }
        }
        check.within("indicate.button-crops", self.button_crops, 1, 100);
    }

    fn check_door(&self, check: &mut Check) {
        check.within("indicate.relay-hold-ms", self.relay_hold_ms, 0, 600_000);
        if let Some(ms) = self.relay_pulse_ms {
            check.within("indicate.relay-pulse-ms", ms, 50, 60_000);
        }
        if let Some(ms) = self.held_open_ms {
            check.within("indicate.held-open-ms", ms, 1000, 86_400_000);
            if self.door_contact_pin.is_none() {
                let problem =
                    "requires a door contact: set door-contact-pin, or remove held-open-ms";
                check.fail("indicate.held-open-ms", problem.to_owned());
            }
        }
        for (key, is_set) in [
            ("relay-pulse-ms", self.relay_pulse_ms.is_some()),
            ("door-contact-pin", self.door_contact_pin.is_some()),
            ("exit-button-pin", self.exit_button_pin.is_some()),
            ("release-pin", self.release_pin.is_some()),
        ] {
            if is_set && self.relay_pin.is_none() {
                let problem =
                    format!("requires the relay of a door: set relay-pin, or remove {key}");
                check.fail(&format!("indicate.{key}"), problem);
            }
        }
    }
}

/// The highest GPIO number on a Raspberry Pi's header.
const LAST_HEADER_GPIO: u32 = 27;
