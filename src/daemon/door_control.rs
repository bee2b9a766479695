//! The door at the indicator thread: reads its inputs, steps its state machine, publishes its
//! state, and reports its events.

use std::time::Instant;

use tokio::sync::watch;
use tracing::{info, warn};

use super::events::EventFeed;
use crate::api::socket::{Live, LiveDoor};
use crate::config;
use crate::events::Occurrence;
use crate::indicate::pins::Input;
use crate::indicate::{
    Circuit, Door, DoorDecision, DoorInput, DoorOptions, DoorReadings, DoorState, Egress,
};

/// The door, and what has been published about it.
pub(super) struct DoorControl {
    door: Door,
    options: DoorOptions,
    /// The state after the latest step.
    state: Option<DoorState>,
    /// Number of warnings that the door is held open since the daemon started.
    held_open_warnings: u64,
    events: EventFeed,
}

impl DoorControl {
    /// Returns the door in the config, or `None` if there is no relay. `has_pins` tells whether the
    /// pins are used.
    pub(super) fn new(config: &config::Indicate, has_pins: bool) -> Option<DoorControl> {
        let options = config.door(has_pins)?;
        Some(DoorControl {
            door: Door::new(options),
            options,
            state: None,
            held_open_warnings: 0,
            events: EventFeed::default(),
        })
    }

    /// Makes the door report its events.
    pub(super) fn set_events(&mut self, events: EventFeed) {
        self.events = events;
    }

    /// Whether the door has any input.
    pub(super) fn has_inputs(&self) -> bool {
        self.options.inputs().next().is_some()
    }

    /// Reads the inputs of the door with `is_closed`, which returns `None` if an input cannot be
    /// read.
    pub(super) fn read(&self, mut is_closed: impl FnMut(Input) -> Option<bool>) -> DoorReadings {
        let mut readings = DoorReadings::default();
        for input in self.options.inputs() {
            let circuit = match is_closed(Input::Door(input)) {
                None => Circuit::Unknown,
                Some(false) => Circuit::Open,
                Some(true) => Circuit::Closed,
            };
            match input {
                DoorInput::Contact => readings.contact = circuit,
                DoorInput::ExitButton => readings.exit_button = circuit,
                DoorInput::Release => readings.release = circuit,
            }
        }
        readings
    }

    /// Returns the state of the door at time `at`. Logs changes of the state, and publishes them
    /// in `live`.
    pub(super) fn step(
        &mut self,
        at: Instant,
        decision: DoorDecision,
        readings: DoorReadings,
        live: &watch::Sender<Live>,
    ) -> DoorState {
        let state = self.door.step(at, decision, readings);
        let before = self.state.replace(state);
        if before != Some(state) {
            self.log(before, &state);
            let record = LiveDoor {
                unlocked: state.unlocked.is_some(),
                unlocked_by: state.unlocked,
                position: state.position,
                released: state.egress == Some(Egress::Release),
                held_open: state.held_open_since.is_some(),
                held_open_warnings: self.held_open_warnings,
            };
            live.send_if_modified(|live| {
                let has_changed = live.door.as_ref() != Some(&record);
                live.door = Some(record);
                has_changed
            });
        }
        state
    }

    fn log(&mut self, before: Option<DoorState>, state: &DoorState) {
        let egress = before.and_then(|before| before.egress);
        match (egress, state.egress) {
            (before, now) if before == now => {}
            (_, Some(Egress::Release)) => {
                warn!("the release line is active or cannot be read: the door is unlocked");
                self.events.send(Occurrence::DoorRelease);
            }
            (_, Some(Egress::ExitButton)) => {
                info!("the exit button is pressed: the door is unlocked");
                self.events.send(Occurrence::DoorExitButton);
            }
            (Some(Egress::Release), None) => {
                info!("the release has ended: the door locks in the usual way");
            }
            (_, None) => {}
        }
        let warned = before.and_then(|before| before.held_open_since);
        match (warned, state.held_open_since) {
            (None, Some(_)) => {
                self.held_open_warnings += 1;
                let limit_s = self.options.held_open_after.unwrap_or_default().as_secs();
                warn!(limit_s, "the door is held open: close it");
                let seconds = limit_s;
                self.events.send(Occurrence::DoorHeldOpen { seconds });
            }
            (Some(_), None) => {
                info!("the door is no longer held open");
                self.events.send(Occurrence::DoorHeldOpenEnded);
            }
            _ => {}
        }
    }
}
