//! The events: their kinds, their fields, and their JSON format.
//!
//! An event holds no picture and nothing that identifies a person. This module does no I/O.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decision::decide::{Decision, Verdict};
use crate::platform::hex;
use crate::platform::text::printable;
use crate::platform::text_code::TextCode;

/// Maximum number of characters in a reason that an event quotes. With this limit, the JSON of an
/// event always fits into [`MAX_JSON`].
const MAX_REASON: usize = 300;

/// Maximum size of the JSON of a reason's code, in bytes. It has the same purpose as [`MAX_REASON`].
const MAX_REASON_CODE: usize = 600;

/// Maximum size of the JSON of an event, in bytes. This is also the smallest size of a pipe, so
/// that an event can be written to a program without waiting.
pub(super) const MAX_JSON: usize = 4096;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The decision has changed.
    Decision,
    /// The decision has been unsure for longer than the configured time.
    Unsure,
    /// The camera is lost and is being reconnected.
    CameraLost,
    /// The lost camera sends frames again.
    CameraBack,
    /// Another model is in use.
    Model,
    /// The disk of the state directory has less free space than the configured minimum.
    DiskFull,
    /// The disk of the state directory has enough free space again.
    DiskFree,
    /// The release line unlocks the door.
    DoorRelease,
    /// The exit button unlocks the door.
    DoorExitButton,
    /// The door has been open for longer than the configured time.
    DoorHeldOpen,
    /// The door is no longer held open.
    DoorHeldOpenEnded,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [EventKind; 11] = [
        EventKind::Decision,
        EventKind::Unsure,
        EventKind::CameraLost,
        EventKind::CameraBack,
        EventKind::Model,
        EventKind::DiskFull,
        EventKind::DiskFree,
        EventKind::DoorRelease,
        EventKind::DoorExitButton,
        EventKind::DoorHeldOpen,
        EventKind::DoorHeldOpenEnded,
    ];

    /// The name of the kind in the config, in JSON, and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Decision => "decision",
            EventKind::Unsure => "unsure",
            EventKind::CameraLost => "camera_lost",
            EventKind::CameraBack => "camera_back",
            EventKind::Model => "model",
            EventKind::DiskFull => "disk_full",
            EventKind::DiskFree => "disk_free",
            EventKind::DoorRelease => "door_release",
            EventKind::DoorExitButton => "door_exit_button",
            EventKind::DoorHeldOpen => "door_held_open",
            EventKind::DoorHeldOpenEnded => "door_held_open_ended",
        }
    }
}

/// The numbers of faces in a frame, by their verdicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct FaceCounts {
    /// Number of masked faces.
    pub masked_faces: usize,
    /// Number of unmasked faces.
    pub unmasked_faces: usize,
    /// Number of faces with an unsure verdict.
    pub unsure_faces: usize,
}

impl FaceCounts {
    /// Counts the verdicts on the faces in a frame.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> FaceCounts {
        let mut counts = FaceCounts::default();
        for verdict in verdicts {
            match verdict {
                Verdict::Masked(_) => counts.masked_faces += 1,
                Verdict::Unmasked(_) => counts.unmasked_faces += 1,
                Verdict::Unsure(_) => counts.unsure_faces += 1,
            }
        }
        counts
    }
}

/// What happened, with the fields of this kind of event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Occurrence {
    /// The decision has changed.
    Decision {
        /// The new decision.
        #[schema(value_type = String)]
        decision: Decision,
        /// The decision before the change.
        #[schema(value_type = String)]
        before: Decision,
        /// The faces in the frame that led to the change; absent if the change is not due to a
        /// frame.
        #[serde(flatten)]
        faces: Option<FaceCounts>,
    },
    /// The decision has been unsure for longer than the configured time.
    Unsure {
        /// The configured time, in seconds.
        seconds: u64,
    },
    /// The camera is lost and is being reconnected.
    CameraLost {
        /// Why the camera is lost.
        reason: String,
        /// The machine-readable form of the reason; absent for rare reasons.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason_code: Option<TextCode>,
    },
    /// The lost camera sends frames again.
    CameraBack {
        /// How long the camera was lost, in seconds.
        seconds: u64,
    },
    /// Another model is in use.
    Model {
        /// Number of the model; 0 is the built-in model.
        model: u32,
    },
    /// The disk of the state directory has less free space than the configured minimum.
    DiskFull {
        /// The free space, in MiB.
        free_mib: u64,
    },
    /// The disk of the state directory has enough free space again.
    DiskFree {
        /// The free space, in MiB.
        free_mib: u64,
    },
    /// The release line unlocks the door: it is active or cannot be read.
    DoorRelease,
    /// The exit button unlocks the door.
    DoorExitButton,
    /// The door has been open for longer than the configured time.
    DoorHeldOpen {
        /// The configured time, in seconds.
        seconds: u64,
    },
    /// The door is no longer held open.
    DoorHeldOpenEnded,
}

impl Occurrence {
    /// Creates the occurrence of a lost camera. A reason that is too long is cut off, and a
    /// code that is too long is left out.
    #[must_use]
    pub fn camera_lost(reason: &str, code: Option<TextCode>) -> Occurrence {
        let reason: String = printable(reason).chars().take(MAX_REASON).collect();
        let fits = |code: &TextCode| {
            serde_json::to_string(code).is_ok_and(|json| json.len() <= MAX_REASON_CODE)
        };
        Occurrence::CameraLost {
            reason,
            reason_code: code.filter(fits),
        }
    }

    /// The kind of the event.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Occurrence::Decision { .. } => EventKind::Decision,
            Occurrence::Unsure { .. } => EventKind::Unsure,
            Occurrence::CameraLost { .. } => EventKind::CameraLost,
            Occurrence::CameraBack { .. } => EventKind::CameraBack,
            Occurrence::Model { .. } => EventKind::Model,
            Occurrence::DiskFull { .. } => EventKind::DiskFull,
            Occurrence::DiskFree { .. } => EventKind::DiskFree,
            Occurrence::DoorRelease => EventKind::DoorRelease,
            Occurrence::DoorExitButton => EventKind::DoorExitButton,
            Occurrence::DoorHeldOpen { .. } => EventKind::DoorHeldOpen,
            Occurrence::DoorHeldOpenEnded => EventKind::DoorHeldOpenEnded,
        }
    }

    /// Returns a sentence for people that says what happened.
    fn message(&self) -> String {
        match self {
            Occurrence::Decision { decision, .. } => match decision {
                Decision::Idle => "Nobody is at the door.",
                Decision::Mask => "Everybody at the door wears a mask.",
                Decision::NoMask => "Somebody at the door wears no mask.",
                Decision::Unsure => "It is unclear whether everybody at the door wears a mask.",
                Decision::Fault => "There are no new frames from the camera.",
            }
            .to_owned(),
            Occurrence::Unsure { seconds } => {
                format!("The decision has been unsure for {seconds} s.")
            }
            Occurrence::CameraLost { reason, .. } => format!("The camera is lost: {reason}."),
            Occurrence::CameraBack { seconds } => {
                format!("The camera is back after {seconds} s.")
            }
            Occurrence::Model { model: 0 } => "The built-in model is in use.".to_owned(),
            Occurrence::Model { model } => format!("Model {model} is in use."),
            Occurrence::DiskFull { free_mib } => {
                format!("The disk of the state directory is full: {free_mib} MiB are free.")
            }
            Occurrence::DiskFree { free_mib } => {
                format!("The disk of the state directory has space again: {free_mib} MiB are free.")
            }
            Occurrence::DoorRelease => {
                "The release line is active or cannot be read: the door is unlocked.".to_owned()
            }
            Occurrence::DoorExitButton => {
                "The exit button is pressed: the door is unlocked.".to_owned()
            }
            Occurrence::DoorHeldOpen { seconds } => {
                format!("The door has been open for {seconds} s: close it.")
            }
            Occurrence::DoorHeldOpenEnded => "The door is no longer held open.".to_owned(),
        }
    }

    /// Returns an occurrence of each kind, with all optional fields.
    pub(super) fn examples() -> [Occurrence; 11] {
        [
            Occurrence::Decision {
                decision: Decision::NoMask,
                before: Decision::Idle,
                faces: Some(FaceCounts {
                    unmasked_faces: 1,
                    ..FaceCounts::default()
                }),
            },
            Occurrence::Unsure { seconds: 30 },
            Occurrence::camera_lost("the camera is unplugged", Some(TextCode::new("unplugged"))),
            Occurrence::CameraBack { seconds: 12 },
            Occurrence::Model { model: 3 },
            Occurrence::DiskFull { free_mib: 41 },
            Occurrence::DiskFree { free_mib: 230 },
            Occurrence::DoorRelease,
            Occurrence::DoorExitButton,
            Occurrence::DoorHeldOpen { seconds: 30 },
            Occurrence::DoorHeldOpenEnded,
        ]
    }
}

/// An event. This format is stable: later versions of maskd may add fields and kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// Identifies the event. No other event of any device has the same id. A receiver that gets an
    /// id twice must ignore the second event.
    pub id: String,
    /// When the event happened, in UTC, such as `2026-11-29T08:15:00.250Z`.
    pub time: String,
    /// Whether the clock of the device is synchronized with a time server. If not, `time` may be
    /// wrong.
    pub clock_synchronized: bool,
    /// Name of the device.
    pub device: String,
    /// A sentence for people that says what happened.
    pub message: String,
    /// What happened.
    #[serde(flatten)]
    pub occurrence: Occurrence,
}

impl Event {
    /// The kind of the event.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        self.occurrence.kind()
    }

    /// Returns the event as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        // Serializing strings and numbers cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the JSON of an event of each kind, with all optional fields.
    pub(super) fn examples() -> impl Iterator<Item = String> {
        Occurrence::examples()
            .into_iter()
            .enumerate()
            .map(|(number, occurrence)| {
                let mut factory = EventFactory {
                    device: "front-door".to_owned(),
                    run: "0f3a9c51d27be846".to_owned(),
                    number: number as u64,
                };
                let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_940_100_250);
                factory.event(occurrence, time, true).json()
            })
    }
}

/// Gives the events of one run of the daemon their ids.
#[derive(Debug)]
pub struct EventFactory {
    device: String,
    /// Digits that differ from run to run.
    run: String,
    number: u64,
}

impl EventFactory {
    /// Creates a factory for the events of a device.
    ///
    /// # Errors
    /// The system's error if it provides no random numbers.
    pub fn new(device: &str) -> Result<EventFactory, getrandom::Error> {
        let mut run = [0; 8];
        getrandom::fill(&mut run)?;
        Ok(EventFactory {
            device: device.to_owned(),
            run: hex::encode(&run),
            number: 0,
        })
    }

    /// Creates the event for something that happened at `time`.
    pub fn event(
        &mut self,
        occurrence: Occurrence,
        time: SystemTime,
        clock_synchronized: bool,
    ) -> Event {
        self.number += 1;
        Event {
            id: format!("{}-{}", self.run, self.number),
            time: utc(time),
            clock_synchronized,
            device: self.device.clone(),
            message: occurrence.message(),
            occurrence,
        }
    }
}

/// Returns a time in UTC with milliseconds.
pub(super) fn utc(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decision::decide::UnsureReason;

    #[test]
    fn the_json_has_the_documented_format() {
        let first: Value = serde_json::from_str(&Event::examples().next().unwrap()).unwrap();
        assert_eq!(
            first,
            json!({
                "id": "0f3a9c51d27be846-1",
                "time": "2026-11-29T08:15:00.250Z",
                "clock_synchronized": true,
                "device": "front-door",
                "message": "Somebody at the door wears no mask.",
                "kind": "decision",
                "decision": "no_mask",
                "before": "idle",
                "masked_faces": 0,
                "unmasked_faces": 1,
                "unsure_faces": 0,
            })
        );
        let without_frame = Occurrence::Decision {
            decision: Decision::Fault,
            before: Decision::Idle,
            faces: None,
        };
        let json = serde_json::to_value(&without_frame).unwrap();
        assert_eq!(
            json,
            json!({"kind": "decision", "decision": "fault", "before": "idle"})
        );
    }

    #[test]
    fn faces_are_counted_by_verdict() {
        let unsure = Verdict::Unsure(UnsureReason::TooSmall);
        let verdicts = [
            Verdict::Masked(0),
            unsure,
            Verdict::Unmasked(1),
            Verdict::Masked(0),
            Verdict::Masked(2),
            unsure,
        ];
        let counts = FaceCounts::of(verdicts);
        assert_eq!(
            (
                counts.masked_faces,
                counts.unmasked_faces,
                counts.unsure_faces
            ),
            (3, 1, 2)
        );
        assert_eq!(FaceCounts::of([]), FaceCounts::default());
    }

    #[test]
    fn kinds_have_one_name() {
        for (kind, occurrence) in EventKind::ALL.into_iter().zip(Occurrence::examples()) {
            assert_eq!(occurrence.kind(), kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(
                serde_json::to_value(occurrence).unwrap()["kind"],
                kind.name()
            );
        }
    }

    #[test]
    fn the_documentation_has_every_example() {
        let text = include_str!("../../docs/EVENTS.md");
        for example in Event::examples() {
            assert!(text.contains(&example), "EVENTS.md lacks {example}");
        }
    }

    #[test]
    fn a_reason_is_cut_off() {
        // This character needs the most bytes in JSON.
        let code = |length| Some(TextCode::new("http").with("error", "x".repeat(length)));
        let lost = Occurrence::camera_lost(&"\u{1b}".repeat(5000), code(5000));
        let no_code = |lost: &Occurrence| {
            matches!(
                lost,
                Occurrence::CameraLost {
                    reason_code: None,
                    ..
                }
            )
        };
        assert!(no_code(&lost));
        let mut factory = EventFactory::new(&"d".repeat(64)).unwrap();
        let event = factory.event(lost, SystemTime::UNIX_EPOCH, false);
        assert!(event.json().len() < MAX_JSON);
        let wide = Occurrence::camera_lost(&"\u{1f6aa}".repeat(5000), code(500));
        assert!(!no_code(&wide));
        let event = factory.event(wide, SystemTime::UNIX_EPOCH, false);
        assert!(event.json().len() < MAX_JSON);
    }
}
