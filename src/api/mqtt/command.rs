//! Parses MQTT messages. This module turns a topic and a payload into a command or into a
//! reason to ignore the message. It performs no I/O.

use rumqttc::{Publish, QoS, RetainForwardRule, SubscribeFilterInput};

use super::{BrokerOptions, discovery};
use crate::learning::fleet::OfferError;

/// A command that arrived in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Train on this device.
    Refit,
    /// Resume (`true`) or pause capturing.
    Capture(bool),
    /// Publish the discovery message and the state again, because Home Assistant has
    /// started.
    Announce,
    /// Evaluate a head from another device.
    HeadOffer,
    /// Replace the discovery message that an earlier version published.
    ReplaceDiscovery,
    /// Remove the messages that an earlier version published under its default name.
    RemoveOldDevice,
}

/// Why a message is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RejectReason {
    /// The daemon did not subscribe to the message's topic.
    Topic,
    /// The broker retained the command, so it may be out of date.
    Retained,
    /// The payload is not valid for the command.
    Payload,
    /// The config turns capturing off, and MQTT is not allowed to turn it on.
    Capture,
    /// The message is not an acceptable head offer.
    Head(OfferError),
}

impl RejectReason {
    /// Returns the reason as a log message.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            RejectReason::Topic => "ignored a message on a topic without a subscription",
            RejectReason::Retained => {
                "ignored a retained command: publish commands without the retain flag"
            }
            RejectReason::Payload => "ignored a command with an unknown payload",
            RejectReason::Capture => {
                "capturing is off in the config and cannot be turned on over MQTT"
            }
            RejectReason::Head(OfferError::Untrusted) => {
                "ignored a model from a device that is not in fleet.trust"
            }
            RejectReason::Head(OfferError::Forged) => {
                "ignored a model with a forged signature: another client of the broker \
                 impersonates a trusted device"
            }
            RejectReason::Head(OfferError::Malformed | OfferError::Own) => {
                "ignored a message on a fleet topic that is not a model"
            }
        }
    }
}

impl BrokerOptions {
    /// Returns the command in a message, or `None` if the message needs no action.
    pub(super) fn parse_command(&self, message: &Publish) -> Result<Option<Command>, RejectReason> {
        let topic = message.topic.as_ref();
        let is = |own: &String| topic == own.as_bytes();
        if self.discovery && is(&self.topics.birth) {
            // Home Assistant also publishes "offline" when it stops.
            return Ok((message.payload.as_ref() == b"online").then_some(Command::Announce));
        }
        if self.discovery && is(&self.topics.discovery) {
            let is_old = message.retain && discovery::is_old(&message.payload);
            return Ok(is_old.then_some(Command::ReplaceDiscovery));
        }
        if self.old_topics.as_ref().is_some_and(|old| is(&old.status)) {
            // Another device may still use the old name. The messages under that name
            // must not be removed while that device is online.
            let is_unused = message.retain && message.payload.as_ref() == b"offline";
            return Ok(is_unused.then_some(Command::RemoveOldDevice));
        }
        if !self.trusted.is_empty() && topic.starts_with(self.topics.fleet.as_bytes()) {
            return Ok(Some(Command::HeadOffer));
        }
        let is_command = is(&self.topics.refit) || is(&self.topics.capture);
        if !(self.commands && is_command) {
            return Err(RejectReason::Topic);
        }
        if message.retain {
            return Err(RejectReason::Retained);
        }
        match (is(&self.topics.refit), message.payload.as_ref()) {
            (true, b"PRESS") => Ok(Some(Command::Refit)),
            (false, b"ON") => Ok(Some(Command::Capture(true))),
            (false, b"OFF") => Ok(Some(Command::Capture(false))),
            _ => Err(RejectReason::Payload),
        }
    }

    /// The topics that an earlier version published under its default name.
    pub(super) fn old_device_topics(&self) -> impl Iterator<Item = &String> {
        let old = self.old_topics.iter();
        old.flat_map(|old| {
            let discovery = self.discovery.then_some(&old.discovery);
            discovery.into_iter().chain([&old.state, &old.status])
        })
    }

    /// The topics to subscribe to.
    pub(super) fn subscriptions(&self) -> Vec<SubscribeFilterInput> {
        let mut subscriptions = Vec::new();
        if self.commands {
            for topic in [&self.topics.refit, &self.topics.capture] {
                // Commands that were sent before this connection began are out of date.
                let filter = SubscribeFilterInput::new(topic, QoS::AtMostOnce);
                subscriptions.push(filter.retain_forward_rule(RetainForwardRule::Never));
            }
        }
        if self.discovery {
            let birth = SubscribeFilterInput::new(&self.topics.birth, QoS::AtMostOnce);
            subscriptions.push(birth.retain_forward_rule(RetainForwardRule::Never));
            let own = SubscribeFilterInput::new(&self.topics.discovery, QoS::AtMostOnce);
            subscriptions.push(own.no_local(true));
        }
        if let Some(old) = &self.old_topics {
            subscriptions.push(SubscribeFilterInput::new(&old.status, QoS::AtMostOnce));
        }
        if !self.trusted.is_empty() {
            let heads = format!("{}+", self.topics.fleet);
            subscriptions.push(SubscribeFilterInput::new(heads, QoS::AtLeastOnce).no_local(true));
        }
        subscriptions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Machine;
    use super::*;
    use crate::config;

    fn options(more: &str) -> BrokerOptions {
        let text = format!("[mqtt]\nhost = \"h\"\ndevice = \"door\"\n{more}");
        let config = config::parse("any", &text).unwrap();
        BrokerOptions::from_config(&config, None, &Machine::default())
            .unwrap()
            .unwrap()
    }

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish::new(topic, QoS::AtMostOnce, payload.to_vec(), None)
    }

    #[test]
    fn only_exact_commands_are_accepted() {
        let options = options("");
        let parse = |topic: &str, payload: &[u8]| options.parse_command(&message(topic, payload));
        assert_eq!(
            parse("maskd/door/refit/set", b"PRESS"),
            Ok(Some(Command::Refit))
        );
        let off = Ok(Some(Command::Capture(false)));
        assert_eq!(parse("maskd/door/capture/set", b"OFF"), off);
        assert_eq!(
            parse("homeassistant/status", b"online"),
            Ok(Some(Command::Announce))
        );
        assert_eq!(parse("homeassistant/status", b"offline"), Ok(None));
        for (topic, payload, why) in [
            ("maskd/door/refit/set", &b"ON"[..], RejectReason::Payload),
            (
                "maskd/door/refit/set",
                b"{\"press\":",
                RejectReason::Payload,
            ),
            ("maskd/door/capture/set", b"PRESS", RejectReason::Payload),
            ("maskd/door/capture/set", b"\xff\xfe", RejectReason::Payload),
            ("maskd/other/refit/set", b"PRESS", RejectReason::Topic),
            ("maskd/door/refit/set/", b"PRESS", RejectReason::Topic),
        ] {
            assert_eq!(parse(topic, payload), Err(why), "{topic}");
        }
        let mut retained = message("maskd/door/refit/set", b"PRESS");
        retained.retain = true;
        assert_eq!(
            options.parse_command(&retained),
            Err(RejectReason::Retained)
        );
    }

    #[test]
    fn heads_are_accepted_only_with_a_trusted_device() {
        let offer = message("maskd/fleet/other", b"x");
        assert_eq!(options("").parse_command(&offer), Err(RejectReason::Topic));
        let trusting = format!("[fleet]\ntrust = [\"{}\"]\n", "0".repeat(64));
        let trusting = options(&trusting);
        assert_eq!(trusting.parse_command(&offer), Ok(Some(Command::HeadOffer)));
        assert_eq!(trusting.subscriptions().len(), 5);
    }

    #[test]
    fn only_what_an_earlier_version_retained_is_replaced() {
        let retained = |topic: &str, payload: &[u8]| {
            let mut message = message(topic, payload);
            message.retain = true;
            message
        };
        let door = options("");
        let topic = "homeassistant/device/door/config";
        let old = br#"{"device":{"identifiers":["door"]}}"#;
        let new = br#"{"device":{"identifiers":["maskd_door"]}}"#;
        let parsed = door.parse_command(&retained(topic, old));
        assert_eq!(parsed, Ok(Some(Command::ReplaceDiscovery)));
        for payload in [&new[..], b"", b"{", b"[]", b"\xff"] {
            assert_eq!(door.parse_command(&retained(topic, payload)), Ok(None));
        }
        assert_eq!(door.parse_command(&message(topic, old)), Ok(None));
        assert_eq!(
            door.old_device_topics().count(),
            0,
            "the name is configured"
        );

        let config = config::parse("any", "[mqtt]\nhost = \"h\"\n").unwrap();
        let machine = Machine::new("pi", "0123456789abcdef0123456789abcdef", "");
        let named = BrokerOptions::from_config(&config, None, &machine);
        let named = named.unwrap().unwrap();
        let status = "maskd/maskd-pi/status";
        let parse = |message: &Publish| named.parse_command(message);
        assert_eq!(
            parse(&retained(status, b"offline")),
            Ok(Some(Command::RemoveOldDevice))
        );
        assert_eq!(parse(&retained(status, b"online")), Ok(None));
        assert_eq!(parse(&message(status, b"offline")), Ok(None));
        let topics: Vec<&String> = named.old_device_topics().collect();
        assert_eq!(
            topics,
            [
                "homeassistant/device/maskd-pi/config",
                "maskd/maskd-pi/state",
                status
            ]
        );
    }

    #[test]
    fn commands_and_discovery_can_be_turned_off() {
        let options = options("commands = false\ndiscovery-prefix = \"\"\n");
        for topic in ["maskd/door/refit/set", "homeassistant/status", "/status"] {
            let parsed = options.parse_command(&message(topic, b"PRESS"));
            assert_eq!(parsed, Err(RejectReason::Topic), "{topic}");
        }
        assert!(options.subscriptions().is_empty());
    }

    /// Arbitrary bytes, mixed with the payloads of valid commands.
    fn payloads() -> impl Strategy<Value = Vec<u8>> {
        let known = ["PRESS", "ON", "OFF", "online"].map(|known| known.as_bytes().to_vec());
        prop_oneof![prop::sample::select(known.to_vec()), any::<Vec<u8>>()]
    }

    proptest! {
        #[test]
        fn no_payload_but_the_known_ones_is_a_command(
            topic in prop::sample::select(vec![
                "maskd/door/refit/set", "maskd/door/capture/set", "homeassistant/status",
            ]),
            payload in payloads(),
            retain: bool,
        ) {
            let mut message = message(topic, &payload);
            message.retain = retain;
            let expected = match (topic, payload.as_slice()) {
                ("homeassistant/status", b"online") => Ok(Some(Command::Announce)),
                ("homeassistant/status", _) => Ok(None),
                _ if retain => Err(RejectReason::Retained),
                ("maskd/door/refit/set", b"PRESS") => Ok(Some(Command::Refit)),
                ("maskd/door/capture/set", b"ON") => Ok(Some(Command::Capture(true))),
                ("maskd/door/capture/set", b"OFF") => Ok(Some(Command::Capture(false))),
                _ => Err(RejectReason::Payload),
            };
            prop_assert_eq!(options("").parse_command(&message), expected);
        }

        // Random strings rarely resemble one of our topics, so this test assembles topics
        // from fragments.
        #[test]
        fn no_other_topic_is_a_command(
            levels in prop::collection::vec(
                prop::sample::select(vec![
                    "maskd", "door", "other", "refit", "capture", "set", "homeassistant",
                    "status", "fleet", "", "+", "#", "Maskd",
                ]),
                1..6,
            ),
            payload in payloads(),
        ) {
            let topic = levels.join("/");
            let is_own = [
                "maskd/door/refit/set", "maskd/door/capture/set", "homeassistant/status",
            ].contains(&topic.as_str());
            let parsed = options("").parse_command(&message(&topic, &payload));
            prop_assert_eq!(parsed == Err(RejectReason::Topic), !is_own, "{}", topic);
        }
    }
}
