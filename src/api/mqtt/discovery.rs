//! The [discovery] message from which Home Assistant creates a device and its entities.
//!
//! [discovery]: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload

use serde_json::{Value, json};

use super::Topics;
use crate::decision::decide::Decision;
use crate::indicate::{DoorOptions, UnlockReason};

/// Prefix of all identifiers in Home Assistant. The prefix keeps maskd's identifiers
/// distinct from those of other integrations, which may have a device with the same name.
const ID_PREFIX: &str = "maskd_";

/// Where people get help: the repository in `Cargo.toml`, which is empty until there is one.
const SUPPORT_URL: &str = env!("CARGO_PKG_REPOSITORY");

/// Whether a discovery message is from an earlier version, whose identifiers had no prefix.
pub(super) fn is_old(payload: &[u8]) -> bool {
    let message: Option<Value> = serde_json::from_slice(payload).ok();
    let id = message
        .as_ref()
        .and_then(|message| message["device"]["identifiers"][0].as_str());
    id.is_some_and(|id| !id.starts_with(ID_PREFIX))
}

/// Which of the optional entities a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    /// A button that starts training.
    pub(super) refit: bool,
    /// A switch that pauses capturing.
    pub(super) capture: bool,
    /// A count of the unlabeled samples.
    pub(super) samples: bool,
    /// The door, if there is one.
    pub(super) door: Option<DoorOptions>,
}

/// Describes a lock in Home Assistant. [`LOCK_TEMPLATE`] makes the same words.
fn lock_state(unlocked_by: Option<UnlockReason>) -> &'static str {
    match unlocked_by {
        None => "locked",
        Some(UnlockReason::Mask) => "unlocked by mask",
        Some(UnlockReason::ExitButton) => "unlocked by exit button",
        Some(UnlockReason::Release) => "unlocked by release",
        Some(UnlockReason::Fault) => "unlocked by fault",
        Some(UnlockReason::Schedule) => "unlocked by schedule",
    }
}

const LOCK_STATES: [Option<UnlockReason>; 6] = [
    None,
    Some(UnlockReason::Mask),
    Some(UnlockReason::ExitButton),
    Some(UnlockReason::Release),
    Some(UnlockReason::Fault),
    Some(UnlockReason::Schedule),
];
/// The state of the door is missing for a moment while the daemon starts. `None` makes an
/// entity unknown.
const LOCK_TEMPLATE: &str = "{% set door = value_json.door | default(none) %}\
    {{ none if door is none else \
    'unlocked by ' ~ (door.unlocked_by | replace('-', ' ')) if door.unlocked_by is defined \
    else 'locked' }}";
/// A contact that cannot be read makes the entity unknown.
const CONTACT_TEMPLATE: &str = "{{ {'open': 'ON', 'closed': 'OFF'}\
    [(value_json.door | default({})).position | default('unknown')] | default(none) }}";
const HELD_OPEN_TEMPLATE: &str = "{{ (value_json.door | default({})).held_open | default(none) }}";

/// A decision as a person reads it.
fn readable(decision: Decision) -> &'static str {
    match decision {
        Decision::Idle => "Nobody there",
        Decision::Mask => "Everybody wears a mask",
        Decision::NoMask => "Somebody without a mask",
        Decision::Unsure => "Unsure",
        Decision::Fault => "No new frames",
    }
}

/// Returns a template that turns the name of a decision into what a person reads.
fn readable_template() -> String {
    let names =
        Decision::ALL.map(|decision| format!("'{}': '{}'", decision.name(), readable(decision)));
    let names = names.join(", ");
    format!("{{{{ {{{names}}}.get(value_json.decision, value_json.decision) }}}}")
}

/// The payload of the discovery topic, which describes one device and its entities. `page` is
/// the address of the page, if other machines can reach it. If the device does not have an
/// entity, the payload lists only the platform of the entity.
/// This tells Home Assistant to remove the entity.
#[expect(clippy::too_many_lines, reason = "a list of entities")]
pub(super) fn payload(
    device: &str,
    topics: &Topics,
    features: Features,
    page: Option<&str>,
) -> Value {
    let entity = |id: &str, platform: &str, present: bool, more: Value| {
        let mut entity = json!({ "platform": platform });
        if present && let (Value::Object(entity), Value::Object(more)) = (&mut entity, more) {
            let unique = format!("{ID_PREFIX}{device}_{id}");
            entity.insert("unique_id".to_owned(), json!(unique));
            entity.extend(more);
        }
        (id.to_owned(), entity)
    };
    let of_state = |name: &str| format!("{{{{ value_json.{name} }}}}");
    let decisions = Decision::ALL.map(readable);
    let entities = [
        entity(
            "decision",
            "sensor",
            true,
            json!({
                "name": "Decision",
                "device_class": "enum",
                "options": decisions,
                "icon": "mdi:face-mask",
                "state_topic": topics.state,
                "value_template": readable_template(),
            }),
        ),
        entity(
            "no_mask",
            "event",
            true,
            json!({
                "name": "Somebody without a mask",
                "event_types": ["no_mask"],
                "icon": "mdi:account-alert",
                "state_topic": topics.event,
                // Home Assistant ignores an empty result.
                "value_template": "{{ {'event_type': 'no_mask', 'faces': value_json.unmasked_faces | default(0)} | tojson if value_json.kind == 'decision' and value_json.decision == 'no_mask' else '' }}",
            }),
        ),
        entity(
            "faces",
            "sensor",
            true,
            json!({
                "name": "Faces",
                "state_class": "measurement",
                "icon": "mdi:account-multiple",
                "state_topic": topics.state,
                "value_template": of_state("faces"),
            }),
        ),
        entity(
            "problem",
            "binary_sensor",
            true,
            json!({
                "name": "Problem",
                "device_class": "problem",
                "entity_category": "diagnostic",
                "state_topic": topics.state,
                "value_template": of_state("problem"),
                "json_attributes_topic": topics.state,
                "json_attributes_template": "{{ {'reason': value_json.reason | default('')} | tojson }}",
            }),
        ),
        entity(
            "model",
            "sensor",
            true,
            json!({
                "name": "Model",
                "entity_category": "diagnostic",
                "icon": "mdi:brain",
                "state_topic": topics.state,
                "value_template": "{{ 'Built-in model' if value_json.head == 0 else 'Model ' ~ value_json.head }}",
            }),
        ),
        entity(
            "accuracy",
            "sensor",
            features.samples,
            json!({
                "name": "Accuracy",
                "entity_category": "diagnostic",
                "state_class": "measurement",
                "unit_of_measurement": "%",
                "suggested_display_precision": 1,
                "icon": "mdi:target",
                "state_topic": topics.state,
                "value_template": "{{ value_json.accuracy | default(none) }}",
            }),
        ),
        entity(
            "unlabelled",
            "sensor",
            features.samples,
            json!({
                "name": "Face pictures to label",
                "state_class": "measurement",
                "icon": "mdi:label-off-outline",
                "state_topic": topics.state,
                "value_template": of_state("unlabelled"),
            }),
        ),
        entity(
            "refit",
            "button",
            features.refit,
            json!({
                "name": "Train on this device",
                "entity_category": "config",
                "icon": "mdi:school",
                "command_topic": topics.refit,
                "payload_press": "PRESS",
            }),
        ),
        entity(
            "capture",
            "switch",
            features.capture,
            json!({
                "name": "Keep face pictures",
                "entity_category": "config",
                "icon": "mdi:camera-plus",
                "command_topic": topics.capture,
                "state_topic": topics.state,
                "value_template": of_state("capture"),
            }),
        ),
        entity(
            "lock",
            "sensor",
            features.door.is_some(),
            json!({
                "name": "Door lock",
                "device_class": "enum",
                "options": LOCK_STATES.map(lock_state),
                "icon": "mdi:door-closed-lock",
                "state_topic": topics.state,
                "value_template": LOCK_TEMPLATE,
            }),
        ),
        entity(
            "contact",
            "binary_sensor",
            features.door.is_some_and(|door| door.contact.is_some()),
            json!({
                "name": "Door",
                "device_class": "door",
                "state_topic": topics.state,
                "value_template": CONTACT_TEMPLATE,
            }),
        ),
        entity(
            "held_open",
            "binary_sensor",
            features
                .door
                .is_some_and(|door| door.held_open_after.is_some()),
            json!({
                "name": "Door held open",
                "device_class": "problem",
                "state_topic": topics.state,
                "value_template": HELD_OPEN_TEMPLATE,
            }),
        ),
    ];
    let mut about = json!({
        "identifiers": [format!("{ID_PREFIX}{device}")],
        "name": device,
        "manufacturer": "maskd",
        "model": "Face mask detector",
        "sw_version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(page) = page {
        about["configuration_url"] = json!(page);
    }
    let mut origin = json!({ "name": "maskd", "sw_version": env!("CARGO_PKG_VERSION") });
    if !SUPPORT_URL.is_empty() {
        origin["support_url"] = json!(SUPPORT_URL);
    }
    json!({
        "device": about,
        "origin": origin,
        "availability_topic": topics.status,
        "components": Value::Object(entities.into_iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::indicate::{ContactType, LockType, Opening};

    #[test]
    fn absent_entities_are_listed_for_removal() {
        let topics = Topics::new("maskd", "homeassistant", "door");
        let opening = Opening::Hold(Duration::from_secs(3));
        let door = DoorOptions {
            contact: Some(ContactType::NormallyClosed),
            held_open_after: Some(Duration::from_secs(30)),
            ..DoorOptions::without_inputs(LockType::FailSecure, opening)
        };
        let all = Features {
            refit: true,
            capture: true,
            samples: true,
            door: Some(door),
        };
        let page = "http://192.0.2.7:8080/";
        let message = payload("door", &topics, all, Some(page));
        assert_eq!(message["device"]["configuration_url"], page);
        assert_eq!(message["device"]["identifiers"], json!(["maskd_door"]));
        assert!(!is_old(message.to_string().as_bytes()));
        let entities = message["components"].as_object().unwrap();
        assert_eq!(entities.len(), 12);
        for (id, entity) in entities {
            assert!(entity["platform"].is_string(), "{id}");
            assert_eq!(entity["unique_id"], format!("maskd_door_{id}"));
            assert!(
                entity["state_topic"] == "maskd/door/state" || id == "refit" || id == "no_mask",
                "{entity}"
            );
        }
        assert_eq!(entities["no_mask"]["state_topic"], "maskd/door/event");
        let options = entities["decision"]["options"].as_array().unwrap();
        let template = entities["decision"]["value_template"].as_str().unwrap();
        for option in options {
            let option = option.as_str().unwrap();
            assert!(template.contains(&format!("'{option}'")), "{option}");
        }
        assert_eq!(entities["refit"]["command_topic"], "maskd/door/refit/set");
        assert_eq!(message["availability_topic"], "maskd/door/status");
        let none = Features {
            refit: false,
            capture: false,
            samples: false,
            door: Some(DoorOptions {
                contact: None,
                held_open_after: None,
                ..door
            }),
        };
        let message = payload("door", &topics, none, None);
        assert_eq!(message["device"].get("configuration_url"), None);
        assert_eq!(
            message["components"]["refit"],
            json!({"platform": "button"})
        );
        assert_eq!(
            message["components"]["capture"],
            json!({"platform": "switch"})
        );
        // The state of the lock is known without a contact.
        assert!(message["components"]["lock"]["unique_id"].is_string());
        for id in ["contact", "held_open"] {
            let absent = json!({"platform": "binary_sensor"});
            assert_eq!(message["components"][id], absent, "{id}");
        }
    }

    #[test]
    fn nobody_can_unlock_the_door_over_mqtt() {
        let topics = Topics::new("maskd", "homeassistant", "door");
        let opening = Opening::Hold(Duration::from_secs(3));
        let features = Features {
            refit: true,
            capture: true,
            samples: true,
            door: Some(DoorOptions::without_inputs(LockType::FailSafe, opening)),
        };
        let message = payload("door", &topics, features, None);
        let entities = message["components"].as_object().unwrap();
        let with_commands = entities
            .iter()
            .filter(|(_, entity)| entity.get("command_topic").is_some());
        let with_commands: Vec<&String> = with_commands.map(|(id, _)| id).collect();
        assert_eq!(with_commands, ["capture", "refit"]);
    }

    #[test]
    fn the_names_of_the_lock_states_follow_from_the_published_reasons() {
        for reason in LOCK_STATES.into_iter().flatten() {
            let json = serde_json::to_value(reason).unwrap();
            let words = json.as_str().unwrap().replace('-', " ");
            assert_eq!(lock_state(Some(reason)), format!("unlocked by {words}"));
        }
    }
}
