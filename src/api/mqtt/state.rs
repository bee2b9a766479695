//! The state record that is published over MQTT.

use serde::{Deserialize, Serialize};

use crate::api::socket::{Live, LiveDoor};
use crate::decision::decide::Decision;
use crate::indicate::{DoorPosition, UnlockReason};

/// The published state of a device. The format is stable. The state contains no personal
/// data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The current decision, such as `mask`.
    pub decision: String,
    /// Number of faces in the newest frame.
    pub faces: usize,
    /// `ON` while something needs attention, and `OFF` otherwise.
    pub problem: String,
    /// What needs attention; absent if there is no problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of samples without a label; absent if learning is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<usize>,
    /// Whether crops of faces are kept: `ON` or `OFF`.
    pub capture: String,
    /// Whether a head is being trained: `ON` or `OFF`.
    pub refitting: String,
    /// Number of the head in use; 0 is the built-in one.
    pub head: u32,
    /// How often the model in use was right on held-out face pictures of this device, in
    /// percent; absent for the built-in model and for models that were not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Processor temperature in degrees Celsius; absent if the board has no sensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f32>,
    /// The state of the door; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<DoorRecord>,
}

/// The published state of a door. The format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorRecord {
    /// Why the door is unlocked; absent if it is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlocked_by: Option<UnlockReason>,
    /// Whether the door is open; absent if it has no contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<DoorPosition>,
    /// `ON` while the door is open for too long, and `OFF` otherwise.
    pub held_open: String,
}

impl From<&LiveDoor> for DoorRecord {
    fn from(door: &LiveDoor) -> DoorRecord {
        DoorRecord {
            unlocked_by: door.unlocked_by,
            position: door.position,
            held_open: on_off(door.held_open),
        }
    }
}

fn on_off(on: bool) -> String {
    if on { "ON" } else { "OFF" }.to_owned()
}

impl StateRecord {
    /// Creates the record from the live state. `unlabelled` and `accuracy` are the values of
    /// [`StateRecord::unlabelled`] and [`StateRecord::accuracy`].
    #[must_use]
    pub fn new(live: &Live, unlabelled: Option<usize>, accuracy: Option<f64>) -> StateRecord {
        let off = live.capture.off_because.as_ref();
        // If the camera reconnects before the decision becomes a fault, no problem is
        // reported.
        let is_fault = live.decision == Decision::Fault.name();
        let reason = if is_fault && live.camera.lost {
            Some("the camera is lost; reconnecting".to_owned())
        } else if is_fault {
            Some("the camera sends no new frames".to_owned())
        } else if let Some(why) = &live.learning.off_because {
            Some(format!("nothing is learned: {why}"))
        } else if let Some(why) = off {
            Some(format!("face pictures are not kept: {why}"))
        } else if let Some(problem) = live.problems.values().next() {
            Some(problem.clone())
        } else {
            let reason = live.learning.waits_because.as_ref();
            reason.map(|why| format!("training waits: {why}"))
        };
        StateRecord {
            decision: live.decision.clone(),
            faces: live.inference.faces,
            problem: on_off(reason.is_some()),
            reason,
            unlabelled,
            capture: on_off(live.capture.on),
            refitting: on_off(live.learning.refitting),
            head: live.learning.head.unwrap_or(0),
            accuracy,
            // The value is rounded so that changes of a few tenths of a degree are not
            // published.
            temperature_c: live.board.temperature_c.map(f32::round),
            door: live.door.as_ref().map(DoorRecord::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_published_with_the_reason_why_it_is_unlocked() {
        let json = |live: &Live| serde_json::to_value(StateRecord::new(live, None, None)).unwrap();
        let mut live = Live::default();
        assert_eq!(json(&live).get("door"), None);
        let mut door = LiveDoor {
            unlocked: false,
            unlocked_by: None,
            position: None,
            released: false,
            held_open: false,
            held_open_warnings: 0,
        };
        live.door = Some(door.clone());
        assert_eq!(json(&live)["door"], serde_json::json!({"held_open": "OFF"}));
        door = LiveDoor {
            unlocked: true,
            unlocked_by: Some(UnlockReason::ExitButton),
            position: Some(DoorPosition::Open),
            held_open: true,
            ..door
        };
        live.door = Some(door);
        let expected = serde_json::json!({
            "unlocked_by": "exit-button", "position": "open", "held_open": "ON"
        });
        assert_eq!(json(&live)["door"], expected);
    }

    #[test]
    fn the_most_urgent_problem_is_the_reason() {
        let mut live = Live {
            decision: "mask".to_owned(),
            ..Live::default()
        };
        let record = |live: &Live| StateRecord::new(live, Some(3), None);
        assert_eq!(record(&live).problem, "OFF");
        assert_eq!(record(&live).unlabelled, Some(3));
        live.learning.waits_because = Some("the board is throttled".to_owned());
        assert_eq!(
            record(&live).reason.as_deref(),
            Some("training waits: the board is throttled")
        );
        let problem = "the page is not available".to_owned();
        live.problems.insert("page".to_owned(), problem.clone());
        assert_eq!(record(&live).reason, Some(problem));
        live.capture.off_because = Some("the disk is full".to_owned());
        assert_eq!(
            record(&live).reason.as_deref(),
            Some("face pictures are not kept: the disk is full")
        );
        live.learning.off_because = Some("the disk is read-only".to_owned());
        assert_eq!(
            record(&live).reason.as_deref(),
            Some("nothing is learned: the disk is read-only")
        );
        live.decision = "fault".to_owned();
        assert_eq!(
            record(&live).reason.as_deref(),
            Some("the camera sends no new frames")
        );
        live.camera.lost = true;
        assert_eq!(
            record(&live).reason.as_deref(),
            Some("the camera is lost; reconnecting")
        );
        live = Live {
            decision: "mask".to_owned(),
            ..Live::default()
        };
        live.camera.lost = true;
        assert_eq!(record(&live).problem, "OFF", "it may soon be back");
    }
}
