//! What Home Assistant is told of a device, by its [discovery].
//!
//! [discovery]: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload

use serde_json::{Value, json};

use super::Topics;
use crate::decision::decide::Decision;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offers {
    /// A refit.
    pub(super) refit: bool,
    /// A pause of capturing.
    pub(super) capture: bool,
    /// Samples can be told of.
    pub(super) samples: bool,
}

/// The payload of the discovery topic: one device and its entities. What is not
/// offered is named without more, which has Home Assistant remove it.
#[expect(clippy::too_many_lines, reason = "a list of entities")]
pub(super) fn payload(device: &str, topics: &Topics, offers: Offers) -> Value {
    let entity = |id: &str, platform: &str, offered: bool, more: Value| {
        let mut entity = json!({ "platform": platform });
        if offered && let (Value::Object(entity), Value::Object(more)) = (&mut entity, more) {
            entity.insert("unique_id".to_owned(), json!(format!("{device}_{id}")));
            entity.extend(more);
        }
        (id.to_owned(), entity)
    };
    let of_state = |name: &str| format!("{{{{ value_json.{name} }}}}");
    let decisions: Vec<&str> = Decision::ALL.iter().map(|d| d.name()).collect();
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
                "value_template": of_state("decision"),
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
            "unlabelled",
            "sensor",
            offers.samples,
            json!({
                "name": "Samples without a label",
                "state_class": "measurement",
                "icon": "mdi:label-off-outline",
                "state_topic": topics.state,
                "value_template": of_state("unlabelled"),
            }),
        ),
        entity(
            "refit",
            "button",
            offers.refit,
            json!({
                "name": "Refit",
                "entity_category": "config",
                "icon": "mdi:school",
                "command_topic": topics.refit,
                "payload_press": "PRESS",
            }),
        ),
        entity(
            "capture",
            "switch",
            offers.capture,
            json!({
                "name": "Capture",
                "entity_category": "config",
                "icon": "mdi:camera-plus",
                "command_topic": topics.capture,
                "state_topic": topics.state,
                "value_template": of_state("capture"),
            }),
        ),
    ];
    json!({
        "device": {
            "identifiers": [device],
            "name": device,
            "manufacturer": "maskd",
            "model": "Mask detector at a door",
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": {
            "name": "maskd",
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "availability_topic": topics.status,
        "components": Value::Object(entities.into_iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_entities_and_what_is_not_offered_is_removed() {
        let topics = Topics::new("maskd", "homeassistant", "door");
        let all = Offers {
            refit: true,
            capture: true,
            samples: true,
        };
        let told = payload("door", &topics, all);
        let entities = told["components"].as_object().unwrap();
        assert_eq!(entities.len(), 6);
        for (id, entity) in entities {
            assert!(entity["platform"].is_string(), "{id}");
            assert_eq!(entity["unique_id"], format!("door_{id}"));
            assert!(
                entity["state_topic"] == "maskd/door/state" || id == "refit",
                "{entity}"
            );
        }
        assert_eq!(entities["refit"]["command_topic"], "maskd/door/refit/set");
        assert_eq!(told["availability_topic"], "maskd/door/status");
        let none = Offers {
            refit: false,
            capture: false,
            samples: false,
        };
        let told = payload("door", &topics, none);
        assert_eq!(told["components"]["refit"], json!({"platform": "button"}));
        assert_eq!(told["components"]["capture"], json!({"platform": "switch"}));
    }
}
