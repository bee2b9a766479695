//! The inputs of a door: its contact, its exit button, and its release line.
//!
//! This module owns what a reading of a circuit means, and the debouncing of readings. Each input
//! is a circuit between a pin with a pull-up resistor and ground.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decision::confirm::apart;
use crate::indicate::button::DEBOUNCE;

/// An input of a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorInput {
    /// The contact that tells whether the door is open.
    Contact,
    /// The button inside that lets people leave.
    ExitButton,
    /// The line with which a fire alarm or an emergency release unlocks the door.
    Release,
}

/// How a contact is wired. The circuit is in its normal state while the door is closed, the exit
/// button is not pressed, and the door is not released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContactType {
    /// The circuit is normally open. A broken wire looks like the normal state.
    NormallyOpen,
    /// The circuit is normally closed. A broken wire looks like an open door, a pressed button, or
    /// a release.
    NormallyClosed,
}

/// The reading of an input's circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Circuit {
    /// The circuit cannot be read.
    #[default]
    Unknown,
    /// No current can flow.
    Open,
    /// Current can flow.
    Closed,
}

/// One reading of each input. The readings of inputs that the door does not have are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DoorReadings {
    /// The door contact.
    pub contact: Circuit,
    /// The exit button.
    pub exit_button: Circuit,
    /// The release line.
    pub release: Circuit,
}

/// Whether the door is open, according to its contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DoorPosition {
    /// The contact cannot be read.
    Unknown,
    /// The door is closed.
    Closed,
    /// The door is open.
    Open,
}

/// What demands that people can leave, regardless of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Egress {
    /// The exit button is pressed.
    ExitButton,
    /// The release line is active, or it cannot be read.
    Release,
}

impl ContactType {
    /// Whether the circuit is in its normal state, or `None` if it cannot be read.
    fn is_normal(self, circuit: Circuit) -> Option<bool> {
        match circuit {
            Circuit::Unknown => None,
            Circuit::Open => Some(self == ContactType::NormallyOpen),
            Circuit::Closed => Some(self == ContactType::NormallyClosed),
        }
    }
}

/// A value that changes only after readings have differed from it, and agreed with each other, for
/// some time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Debounced<T> {
    value: T,
    /// The readings that differ from `value`, and the time of the first of them.
    pending: Option<(T, Instant)>,
}

impl<T: Copy + PartialEq> Debounced<T> {
    fn new(value: T) -> Debounced<T> {
        Debounced {
            value,
            pending: None,
        }
    }

    /// Adds a reading, and returns the value. The value changes if the reading has been stable for
    /// `delay`.
    fn sample(&mut self, at: Instant, reading: T, delay: Duration) -> T {
        if reading == self.value {
            self.pending = None;
            return self.value;
        }
        let pending = self.pending.filter(|(pending, _)| *pending == reading);
        let (_, since) = *self.pending.insert(pending.unwrap_or((reading, at)));
        if apart(at, since) >= delay {
            *self = Debounced::new(reading);
        }
        self.value
    }
}

/// The release line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ReleaseLine {
    /// The line has not been read yet.
    Unread,
    /// Whether the line demands a release.
    Read(Debounced<bool>),
}

/// The inputs that a door has, after debouncing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Inputs {
    contact: Option<(ContactType, Debounced<DoorPosition>)>,
    exit_button: Option<(ContactType, Debounced<bool>)>,
    release: Option<(ContactType, ReleaseLine)>,
}

impl Inputs {
    pub(super) fn new(
        contact: Option<ContactType>,
        exit_button: Option<ContactType>,
        release: Option<ContactType>,
    ) -> Inputs {
        let position = Debounced::new(DoorPosition::Unknown);
        Inputs {
            contact: contact.map(|contact| (contact, position)),
            exit_button: exit_button.map(|contact| (contact, Debounced::new(false))),
            release: release.map(|contact| (contact, ReleaseLine::Unread)),
        }
    }

    /// Adds a reading of each input, and returns what demands that people can leave. A release
    /// takes precedence over the exit button.
    pub(super) fn sample(&mut self, at: Instant, readings: DoorReadings) -> Option<Egress> {
        if let Some((contact, position)) = &mut self.contact {
            let reading = match contact.is_normal(readings.contact) {
                None => DoorPosition::Unknown,
                Some(true) => DoorPosition::Closed,
                Some(false) => DoorPosition::Open,
            };
            position.sample(at, reading, DEBOUNCE);
        }
        let is_pressed = self.exit_button.as_mut().is_some_and(|(contact, pressed)| {
            let reading = contact.is_normal(readings.exit_button) == Some(false);
            pressed.sample(at, reading, DEBOUNCE)
        });
        let is_released = self.release.as_mut().is_some_and(|(contact, line)| {
            let reading = contact.is_normal(readings.release) != Some(true);
            line.sample(at, reading)
        });
        match (is_released, is_pressed) {
            (true, _) => Some(Egress::Release),
            (false, true) => Some(Egress::ExitButton),
            (false, false) => None,
        }
    }

    /// The position of the door, or `None` if the door has no contact.
    pub(super) fn position(&self) -> Option<DoorPosition> {
        self.contact.as_ref().map(|(_, position)| position.value)
    }
}

impl ReleaseLine {
    /// Adds a reading, and returns whether the door is released. A release begins at once and ends
    /// only after the line has been normal for a while.
    fn sample(&mut self, at: Instant, is_released: bool) -> bool {
        let delay = if is_released {
            Duration::ZERO
        } else {
            DEBOUNCE
        };
        match self {
            ReleaseLine::Unread => {
                *self = ReleaseLine::Read(Debounced::new(is_released));
                is_released
            }
            ReleaseLine::Read(line) => line.sample(at, is_released, delay),
        }
    }
}

#[cfg(test)]
impl Inputs {
    /// Replaces each time by `f` of it.
    pub(super) fn map_times(&mut self, f: impl Fn(Instant) -> Instant) {
        fn map<T>(value: &mut Debounced<T>, f: impl Fn(Instant) -> Instant) {
            if let Some((_, since)) = &mut value.pending {
                *since = f(*since);
            }
        }
        if let Some((_, position)) = &mut self.contact {
            map(position, &f);
        }
        if let Some((_, pressed)) = &mut self.exit_button {
            map(pressed, &f);
        }
        if let Some((_, ReleaseLine::Read(line))) = &mut self.release {
            map(line, &f);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;
    use ContactType::{NormallyClosed, NormallyOpen};
    use DoorPosition::{Closed, Open, Unknown};

    /// Returns what demands that people can leave after each step, and the position of the door.
    /// Each step is given as (time in ms, readings). All inputs are wired as `contact` says.
    fn run(
        contact: ContactType,
        steps: &[(u64, DoorReadings)],
    ) -> Vec<(Option<Egress>, DoorPosition)> {
        let start = Instant::now();
        let mut inputs = Inputs::new(Some(contact), Some(contact), Some(contact));
        let mut sample = |&(ms, readings): &(u64, DoorReadings)| {
            let egress = inputs.sample(start + Duration::from_millis(ms), readings);
            (egress, inputs.position().unwrap())
        };
        steps.iter().map(&mut sample).collect()
    }

    fn all(circuit: Circuit) -> DoorReadings {
        DoorReadings {
            contact: circuit,
            exit_button: circuit,
            release: circuit,
        }
    }

    const NORMAL: DoorReadings = DoorReadings {
        contact: Circuit::Closed,
        exit_button: Circuit::Closed,
        release: Circuit::Closed,
    };

    #[test]
    fn the_wiring_says_what_a_circuit_means() {
        for (contact, normal, other) in [
            (NormallyOpen, Circuit::Open, Circuit::Closed),
            (NormallyClosed, Circuit::Closed, Circuit::Open),
        ] {
            let steps = [0, 40, 80].map(|ms| (ms, all(normal)));
            assert_eq!(run(contact, &steps)[2], (None, Closed));
            let steps = [0, 40, 80].map(|ms| (ms, all(other)));
            let released = (Some(Egress::Release), Open);
            assert_eq!(run(contact, &steps)[2], released);
        }
    }

    #[test]
    fn a_cut_cable_releases_a_door_that_is_wired_normally_closed() {
        let cut = all(Circuit::Open);
        let seen = run(NormallyClosed, &[(0, NORMAL), (15, cut)]);
        assert_eq!(seen[0].0, None);
        assert_eq!(seen[1].0, Some(Egress::Release), "at the first reading");
    }

    #[test]
    fn a_release_line_that_cannot_be_read_releases_and_an_exit_button_does_not() {
        let seen = run(NormallyOpen, &[(0, all(Circuit::Unknown))]);
        assert_eq!(seen, [(Some(Egress::Release), Unknown)]);
        let no_button = DoorReadings {
            exit_button: Circuit::Unknown,
            ..NORMAL
        };
        let steps = [0, 100, 200].map(|ms| (ms, no_button));
        assert_eq!(run(NormallyClosed, &steps)[2].0, None);
    }

    #[test]
    fn a_release_that_bounces_does_not_end() {
        let release = |circuit| DoorReadings {
            release: circuit,
            ..NORMAL
        };
        let (off, on) = (release(Circuit::Closed), release(Circuit::Open));
        let steps = [
            (0, off),
            (15, on),
            (30, off),
            (45, on),
            (60, off),
            (75, off),
            (90, off),
        ];
        let released: Vec<bool> = run(NormallyClosed, &steps)
            .iter()
            .map(|(egress, _)| egress.is_some())
            .collect();
        assert_eq!(released, [false, true, true, true, true, true, false]);
    }

    #[test]
    fn a_contact_with_readings_that_contradict_each_other_keeps_its_position() {
        let contact = |circuit| DoorReadings {
            contact: circuit,
            ..NORMAL
        };
        let mut steps = vec![(0, NORMAL), (30, NORMAL)];
        for index in 0..20 {
            let circuit = [Circuit::Open, Circuit::Unknown][index % 2];
            steps.push((45 + 15 * index as u64, contact(circuit)));
        }
        let seen = run(NormallyClosed, &steps);
        assert_eq!(seen[1..], [(None, Closed); 21]);
    }

    #[test]
    fn an_exit_button_and_a_contact_are_debounced() {
        let open = DoorReadings {
            contact: Circuit::Open,
            exit_button: Circuit::Open,
            ..NORMAL
        };
        let steps = [
            (0, NORMAL),
            (30, NORMAL),
            (45, open),
            (60, NORMAL),
            (75, open),
            (104, open),
            (105, open),
            (120, NORMAL),
            (149, NORMAL),
            (150, NORMAL),
        ];
        let exit = Some(Egress::ExitButton);
        assert_eq!(
            run(NormallyClosed, &steps),
            [
                (None, Unknown),
                (None, Closed),
                (None, Closed),
                (None, Closed),
                (None, Closed),
                (None, Closed),
                (exit, Open),
                (exit, Open),
                (exit, Open),
                (None, Closed),
            ]
        );
    }
}
