//! Distinguishes this device from other devices that use the same broker.
//!
//! Owns the default name of the device, the ID that it publishes, and the check for another
//! device with the same name. The caller reads the properties of the machine and passes
//! them in.

use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, DisconnectReasonCode, Event, Packet, QoS, StateError,
    SubscribeFilterInput,
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{BrokerOptions, MqttError};
use crate::platform::hex;

/// Prefix of the text that is hashed. It makes the hash differ from the hashes that other
/// programs compute for the same machine.
const PURPOSE: &str = "maskd device 1\0";
/// Number of digits in the published ID.
const ID_DIGITS: usize = 16;
/// Number of digits of the ID that are part of the device's default name.
const NAME_DIGITS: usize = 6;
/// Maximum length of a device's name.
const MAX_NAME: usize = 64;
/// Maximum length of the host name in the default name of earlier versions.
const MAX_OLD_HOST: usize = 58;
/// How long the broker may take to send the messages that are retained under the device's
/// name.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a clean disconnect may take.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The machine that the daemon runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The host name. It may be empty, and other machines may have the same host name.
    pub hostname: String,
    /// Digits that are unique to this machine; `None` if the machine has no ID.
    id: Option<String>,
}

impl Machine {
    /// `machine_id` is the content of `/etc/machine-id`, and `serial` is the serial number
    /// of the board or an empty string. Both are used because a copied memory card has the
    /// same machine ID as the original but runs on a different board. Only a hash of the
    /// two is published, because a machine ID is confidential (machine-id(5)).
    #[must_use]
    pub fn new(hostname: &str, machine_id: &str, serial: &str) -> Machine {
        let machine_id = machine_id.trim();
        let is_id = machine_id.len() == 32 && machine_id.bytes().all(|b| b.is_ascii_hexdigit());
        let id = is_id.then(|| {
            let text = format!(
                "{PURPOSE}{machine_id}\0{}",
                serial.trim_matches(['\0', '\n'])
            );
            let digits = hex::encode(&Sha256::digest(text));
            digits[..ID_DIGITS].to_owned()
        });
        Machine {
            hostname: hostname.trim().to_owned(),
            id,
        }
    }

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the ID that a run of the daemon publishes. It consists of the machine's ID, a
    /// dot, and digits that differ between two daemons on the same machine.
    pub(super) fn run_id(&self, seed: u64) -> String {
        let run = hex::encode(&Sha256::digest(seed.to_le_bytes()));
        format!(
            "{}.{}",
            self.id().unwrap_or("unknown"),
            &run[..ID_DIGITS / 2]
        )
    }

    /// Returns the default name of the device. It consists of `maskd-`, the host name
    /// without the characters that device names must not contain, and digits that are
    /// different on each machine.
    pub(super) fn device_name(&self) -> String {
        match self.id() {
            None => self.old_device_name(),
            Some(id) => {
                let digits = &id[..NAME_DIGITS];
                let name = plain(&self.hostname, MAX_NAME - NAME_DIGITS - "maskd--".len());
                let parts = ["maskd", name.as_str(), digits];
                let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                parts.join("-")
            }
        }
    }

    /// Returns the default name that earlier versions used. Two machines could have the
    /// same name.
    pub(super) fn old_device_name(&self) -> String {
        let name = plain(&self.hostname, MAX_OLD_HOST);
        if name.is_empty() {
            "maskd".to_owned()
        } else {
            format!("maskd-{name}")
        }
    }
}

fn plain(hostname: &str, most: usize) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
    hostname.chars().filter(is_plain).take(most).collect()
}

/// Whether the broker ended the connection because another client connected with the same
/// client ID. In this case, another device has the same name.
pub(super) fn is_taken_over(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        })
    )
}

/// The messages that the broker retains under the name of this device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Retained {
    /// The payload of the status topic.
    status: Option<String>,
    /// The ID of the device that was the last to connect under this name.
    id: Option<String>,
}

impl Retained {
    fn is_online(&self) -> bool {
        self.status.as_deref() == Some("online")
    }

    /// Whether another run of maskd, here or on another machine, is online under the name
    /// of this device.
    pub(super) fn is_other_run(&self, run_id: &str) -> bool {
        self.is_online() && self.id.as_ref().is_some_and(|id| id != run_id)
    }

    /// Whether another machine is online under the name of this device.
    pub(super) fn is_other(&self, machine: &Machine) -> bool {
        let machine_of = |id: &String| id.split('.').next().unwrap_or_default().to_owned();
        let other = self.id.as_ref().map(machine_of);
        let is_ours = |id: String| machine.id().is_none_or(|own| own == id);
        self.is_online() && other.is_some_and(|id| !is_ours(id))
    }
}

/// Reads the messages that are retained under the name of this device. Connects with a
/// different client ID, so that no other client is disconnected.
///
/// # Errors
/// Returns [`MqttError::Broker`] if the broker does not answer or refuses the connection.
pub(super) async fn look(options: &BrokerOptions) -> Result<Retained, MqttError> {
    let built = AsyncClient::builder(options.client_options("-check")).try_build();
    let (client, mut events) = built.map_err(|error| options.fail(error.to_string()))?;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => break,
            Ok(_) => {}
            Err(error) => return Err(options.fail(options.describe(&error, false))),
        }
    }
    let mut retained = Retained::default();
    let topics = [&options.topics.status, &options.topics.id];
    let filters = topics.map(|topic| SubscribeFilterInput::new(topic, QoS::AtMostOnce));
    // If the broker does not allow the subscription, it sends nothing, which is harmless.
    if client.try_subscribe_many(filters).is_ok() {
        let read = async {
            while retained.status.is_none() || retained.id.is_none() {
                let Ok(event) = events.poll().await else {
                    return;
                };
                if let Event::Incoming(Packet::Publish(message)) = event {
                    let text = String::from_utf8_lossy(&message.payload).into_owned();
                    if message.topic.as_ref() == options.topics.status.as_bytes() {
                        retained.status = Some(text);
                    } else {
                        retained.id = Some(text);
                    }
                }
            }
        };
        let _ = timeout(LOOK_TIMEOUT, read).await;
    }
    // A failure is harmless, because the broker also notices a connection that is closed
    // without a DISCONNECT packet.
    let _ = client.try_disconnect_now();
    let drain = async { while events.poll().await.is_ok() {} };
    let _ = timeout(DISCONNECT_TIMEOUT, drain).await;
    Ok(retained)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::is_device_name;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn names_differ_between_machines_and_hide_their_ids() {
        let one = Machine::new("door.lan\n", ID, "10000000abcdef01\0");
        // `copied` runs a copy of the memory card in another board. `other` has the same host
        // name but a memory card of its own.
        let copied = Machine::new("door.lan", ID, "10000000abcdef02\0");
        let other = Machine::new("door.lan", &ID.replace('0', "1"), "");
        let names = [&one, &copied, &other].map(Machine::device_name);
        for name in &names {
            assert!(
                name.starts_with("maskd-doorlan-") && is_device_name(name),
                "{name}"
            );
        }
        assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2]);
        assert!(!one.id().unwrap().contains(&ID[..6]));
        assert_eq!(
            one,
            Machine::new("door.lan", &format!("{ID}\n"), "10000000abcdef01")
        );
        assert_eq!(one.old_device_name(), "maskd-doorlan");

        let long = Machine::new(&"h".repeat(100), ID, "").device_name();
        assert!(long.len() <= MAX_NAME && is_device_name(&long), "{long}");
        let nameless = Machine::new("日本", ID, "").device_name();
        assert!(
            nameless.starts_with("maskd-") && is_device_name(&nameless),
            "{nameless}"
        );
        for unknown in ["", "uninitialized", "xyz"] {
            let machine = Machine::new("door", unknown, "");
            assert_eq!(
                (machine.id(), machine.device_name().as_str()),
                (None, "maskd-door")
            );
        }
        assert_eq!(Machine::default().device_name(), "maskd");
    }

    #[test]
    fn a_session_that_was_taken_over_is_told_from_other_ends() {
        let ended = |reason_code| {
            let reason_string = None;
            ConnectionError::MqttState(StateError::ServerDisconnect {
                reason_code,
                reason_string,
            })
        };
        assert!(is_taken_over(&ended(
            DisconnectReasonCode::SessionTakenOver
        )));
        assert!(!is_taken_over(&ended(
            DisconnectReasonCode::ServerShuttingDown
        )));
        assert!(!is_taken_over(&ConnectionError::RequestsDone));
    }

    #[test]
    fn another_device_is_one_that_is_online_with_another_id() {
        let machine = Machine::new("door", ID, "");
        let retained = |status: &str, id: Option<&str>| Retained {
            status: Some(status.to_owned()),
            id: id.map(str::to_owned),
        };
        assert!(retained("online", Some("other")).is_other(&machine));
        assert!(!retained("offline", Some("other")).is_other(&machine));
        assert!(!retained("online", None).is_other(&machine));
        let run_id = machine.run_id(7);
        assert!(!retained("online", Some(&run_id)).is_other(&machine));
        assert!(!retained("online", Some(&run_id)).is_other_run(&run_id));
        let second = machine.run_id(8);
        assert!(retained("online", Some(&second)).is_other_run(&run_id));
        assert!(!retained("offline", Some(&second)).is_other_run(&run_id));
        assert!(!retained("online", Some(&second)).is_other(&machine));
        assert!(!retained("online", Some("other")).is_other(&Machine::default()));
        assert!(!Retained::default().is_other(&machine));
    }
}
