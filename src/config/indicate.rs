//! `[indicate]`: the lamps, the buzzer, the relay and the buttons.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::indicate::pins::{Backend, By, Line, Output, PinOptions, Use};
use crate::indicate::{Button, Quiet, Relay, TimeOfDay};
use crate::learning::samples::Label;

/// `[indicate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Indicate {
    /// How pins are reached; absent is rppal on a Raspberry Pi, else the console.
    pub backend: Option<Backend>,
    /// The label of the chip, for gpiocdev; absent is that of a Raspberry Pi.
    pub gpio_chip: Option<String>,
    /// The green lamp.
    pub green_pin: Option<Line>,
    /// The red lamp.
    pub red_pin: Option<Line>,
    /// The buzzer.
    pub buzzer_pin: Option<Line>,
    /// The relay of a door.
    pub relay_pin: Option<Line>,
    /// The outputs that are on when their pin is low.
    pub active_low: Vec<Output>,
    /// Whether the buzzer makes its tone itself.
    pub buzzer: Buzzer,
    /// The tone of a passive buzzer, in hertz; 50 to 10,000.
    pub buzzer_hz: u32,
    /// From here the buzzer is silent, in local time.
    pub quiet_from: Option<TimeOfDay>,
    /// Up to here.
    pub quiet_to: Option<TimeOfDay>,
    /// What the door does without current.
    pub relay: Relay,
    /// The door stays open for this long after a mask was seen, in ms; 0 to
    /// 600,000.
    pub relay_hold_ms: u64,
    /// A button that labels whoever stands before the camera as masked.
    pub with_mask_button_pin: Option<Line>,
    /// One that labels them as unmasked.
    pub without_mask_button_pin: Option<Line>,
    /// The label that the first gives.
    pub with_mask_label: String,
    /// The label that the second gives.
    pub without_mask_label: String,
    /// Crops that are taken for a press; 1 to 100.
    pub button_crops: u32,
}

/// What sort of buzzer there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Buzzer {
    /// It sounds when it has current.
    Active,
    /// It has to be driven with the frequency of its tone.
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
            relay: Relay::FailSecure,
            relay_hold_ms: 3000,
            with_mask_button_pin: None,
            without_mask_button_pin: None,
            with_mask_label: "with_mask".to_owned(),
            without_mask_label: "without_mask".to_owned(),
            button_crops: 3,
        }
    }
}

impl Indicate {
    /// The keys of the pins that are set, with line and use.
    fn lines(&self) -> Vec<(&'static str, Line, Use)> {
        let out = |output| Use::Out {
            output,
            active_low: self.active_low.contains(&output),
        };
        let all = [
            ("green-pin", &self.green_pin, out(Output::Green)),
            ("red-pin", &self.red_pin, out(Output::Red)),
            ("buzzer-pin", &self.buzzer_pin, out(Output::Buzzer)),
            ("relay-pin", &self.relay_pin, out(Output::Relay)),
            (
                "with-mask-button-pin",
                &self.with_mask_button_pin,
                Use::In(Button::WithMask),
            ),
            (
                "without-mask-button-pin",
                &self.without_mask_button_pin,
                Use::In(Button::WithoutMask),
            ),
        ];
        all.into_iter()
            .filter_map(|(key, line, purpose)| Some((key, line.clone()?, purpose)))
            .collect()
    }

    /// Whether any pin is set.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        !self.lines().is_empty()
    }

    /// Whether a button is set.
    #[must_use]
    pub fn has_buttons(&self) -> bool {
        self.with_mask_button_pin.is_some() || self.without_mask_button_pin.is_some()
    }

    /// The options of [`crate::indicate::pins::open`]; none if the console alone
    /// shows decisions. `on_pi`: whether this is a Raspberry Pi.
    #[must_use]
    pub fn pins(&self, on_pi: bool) -> Option<PinOptions> {
        let usual = if on_pi {
            Backend::Rppal
        } else {
            Backend::Console
        };
        let by = match self.backend.unwrap_or(usual) {
            Backend::Console => return None,
            Backend::Rppal => By::Rppal {
                tone: (self.buzzer == Buzzer::Passive).then_some(self.buzzer_hz.into()),
            },
            Backend::Gpiocdev => By::Gpiocdev {
                chip: self.gpio_chip.clone(),
            },
        };
        let lines = self.lines();
        let lines = lines.into_iter().map(|(_, line, purpose)| (line, purpose));
        let options = PinOptions {
            by,
            lines: lines.collect(),
        };
        (!options.lines.is_empty()).then_some(options)
    }

    /// When the buzzer is silent, if ever.
    #[must_use]
    pub fn quiet(&self) -> Option<Quiet> {
        let (from, to) = (self.quiet_from?, self.quiet_to?);
        Some(Quiet { from, to })
    }

    /// The label that a button gives.
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
                check.fail(&key, format!("is {line}, as {other} is: take another pin"));
            }
            match line {
                // Those above are the board's own: its card, its network.
                Line::Number(number) if by_number && *number > LAST_HEADER_GPIO => check.fail(
                    &key,
                    format!("is {line}, allowed is 0 to {LAST_HEADER_GPIO} with rppal"),
                ),
                Line::Name(_) if by_number => check.fail(
                    &key,
                    format!("is {line}, a name: set backend to \"gpiocdev\", or give a number"),
                ),
                Line::Name(name) if name.is_empty() => check.fail(&key, "is empty".to_owned()),
                _ => {}
            }
        }
        let gpiocdev = self.backend == Some(Backend::Gpiocdev);
        if self.gpio_chip.is_some() && !gpiocdev {
            let problem = "is for the backend \"gpiocdev\" alone: set backend, or leave it out";
            check.fail("indicate.gpio-chip", problem.to_owned());
        }
        if self.buzzer == Buzzer::Passive && gpiocdev {
            let problem = "is passive, which needs the backend \"rppal\"; take an active buzzer";
            check.fail("indicate.buzzer", problem.to_owned());
        }
        check.within("indicate.buzzer-hz", self.buzzer_hz, 50, 10_000);
        match (self.quiet_from, self.quiet_to) {
            (Some(from), Some(to)) if from == to => {
                check.fail("indicate.quiet-to", format!("is {to}, as quiet-from is"));
            }
            (Some(_), None) => check.fail("indicate.quiet-to", "is missing".to_owned()),
            (None, Some(_)) => check.fail("indicate.quiet-from", "is missing".to_owned()),
            _ => {}
        }
        check.within("indicate.relay-hold-ms", self.relay_hold_ms, 0, 600_000);
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
}

/// The highest GPIO number on a Raspberry Pi's header.
const LAST_HEADER_GPIO: u32 = 27;
