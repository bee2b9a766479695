//! What is told of the daemon.

use serde::{Deserialize, Serialize};

use crate::api::socket::Live;
use crate::decision::decide::Decision;

/// The state of a device: a documented contract. Nothing in it shows anybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The decision that is shown.
    pub decision: String,
    /// Faces in the newest frame.
    pub faces: usize,
    /// `ON` while something should be looked after, else `OFF`.
    pub problem: String,
    /// What that is, if it is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Samples that wait for a label; absent if nothing is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<usize>,
    /// Whether crops of faces are kept: `ON` or `OFF`.
    pub capture: String,
    /// Whether a head is being learned: `ON` or `OFF`.
    pub refitting: String,
    /// Number of the head in use; 0 is the shipped one.
    pub head: u32,
    /// Of the board's processor, in degrees Celsius; absent where nothing
    /// measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f32>,
}

fn switch(on: bool) -> String {
    if on { "ON" } else { "OFF" }.to_owned()
}

impl StateRecord {
    /// Of what the daemon is doing; `unlabelled` as above.
    #[must_use]
    pub fn of(live: &Live, unlabelled: Option<usize>) -> StateRecord {
        let off = live.capture.off_because.as_ref();
        let reason = if live.camera_lost {
            Some("the camera is lost and is being opened anew".to_owned())
        } else if live.decision == Decision::Fault.name() {
            Some("there are no fresh frames".to_owned())
        } else if let Some(why) = off {
            Some(format!("crops are not kept: {why}"))
        } else {
            let waits = live.learning_waits.as_ref();
            waits.map(|why| format!("learning waits: {why}"))
        };
        StateRecord {
            decision: live.decision.clone(),
            faces: live.faces,
            problem: switch(reason.is_some()),
            reason,
            unlabelled,
            capture: switch(live.capture.on),
            refitting: switch(live.refitting),
            head: live.head.unwrap_or(0),
            // Tenths come and go without a reason to tell it.
            temperature_c: live.board.temperature_c.map(f32::round),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_to_look_after_is_named() {
        let mut live = Live {
            decision: "mask".to_owned(),
            ..Live::default()
        };
        let told = |live: &Live| StateRecord::of(live, Some(3));
        assert_eq!(told(&live).problem, "OFF");
        assert_eq!(told(&live).unlabelled, Some(3));
        live.learning_waits = Some("the board is throttled".to_owned());
        assert_eq!(
            told(&live).reason.as_deref(),
            Some("learning waits: the board is throttled")
        );
        live.capture.off_because = Some("the disk is full".to_owned());
        assert_eq!(
            told(&live).reason.as_deref(),
            Some("crops are not kept: the disk is full")
        );
        live.decision = "fault".to_owned();
        assert_eq!(
            told(&live).reason.as_deref(),
            Some("there are no fresh frames")
        );
        live.camera_lost = true;
        assert_eq!(told(&live).problem, "ON");
    }
}
