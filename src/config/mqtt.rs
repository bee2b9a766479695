//! `[mqtt]` and `[fleet]`: the MQTT broker, and the heads that devices share through it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::platform::hex;

/// `[mqtt]`. If `host` is absent, MQTT is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Mqtt {
    /// Host name or IPv4 address of the broker. If absent, MQTT is off.
    pub host: Option<String>,
    /// Port of the broker. If absent, the port is 8883 with TLS and 1883 without TLS.
    pub port: Option<u16>,
    /// Whether the connection is encrypted and the broker must present a certificate for
    /// its name.
    pub tls: bool,
    /// PEM file with the certificate authorities to trust. If absent, the system's
    /// certificate authorities are trusted.
    pub ca_file: Option<PathBuf>,
    /// User name for the login.
    pub user: Option<String>,
    /// Password for the login, in plain text.
    pub password: Option<Secret>,
    /// File that contains the password. If absent, the systemd credential `mqtt-password`
    /// is used if it exists.
    pub password_file: Option<PathBuf>,
    /// Name of this device in topics. If absent, the name is `maskd-`, the host name, and
    /// six digits that differ from machine to machine.
    pub device: Option<String>,
    /// Prefix of all topics.
    pub topic_prefix: String,
    /// Whether training can be started and capturing can be paused over MQTT.
    pub commands: bool,
    /// Prefix of the topics for Home Assistant discovery. If empty, discovery is off.
    pub discovery_prefix: String,
}

impl Default for Mqtt {
    fn default() -> Mqtt {
        Mqtt {
            host: None,
            port: None,
            tls: false,
            ca_file: None,
            user: None,
            password: None,
            password_file: None,
            device: None,
            topic_prefix: "maskd".to_owned(),
            commands: true,
            discovery_prefix: "homeassistant".to_owned(),
        }
    }
}

/// `[fleet]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fleet {
    /// Whether heads that were trained on this device are signed and published.
    pub share: bool,
    /// Public keys, in hexadecimal, of the devices whose heads this device evaluates.
    pub trust: Vec<String>,
}

/// A password that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Fleet {
    /// Returns the valid keys in `trust`.
    #[must_use]
    pub fn keys(&self) -> Vec<[u8; 32]> {
        self.trust
            .iter()
            .filter_map(|key| hex::decode(key))
            .collect()
    }
}

/// Whether a name can be used as a level in a topic and as an ID in Home Assistant.
pub(crate) fn is_device_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

fn is_topic(topic: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !"+#$ ".contains(c);
    topic.len() <= 200
        && topic.chars().all(is_plain)
        && topic.split('/').all(|level| !level.is_empty())
}

impl Mqtt {
    /// Returns the port of the broker, which depends on `tls` if none is set.
    pub(crate) fn broker_port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 8883 } else { 1883 })
    }

    pub(super) fn check(&self, check: &mut Check) {
        let fail = |check: &mut Check, key: &str, problem: &str| {
            check.fail(&format!("mqtt.{key}"), problem.to_owned());
        };
        let is_host = |host: &str| {
            (1..=253).contains(&host.len())
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        if self.host.as_deref().is_some_and(|host| !is_host(host)) {
            fail(
                check,
                "host",
                "is not a name or IPv4 address: leave out \"mqtt://\" and the port",
            );
        }
        if self.port == Some(0) {
            fail(check, "port", "is 0, allowed is 1 to 65535");
        }
        if self.ca_file.is_some() && !self.tls {
            fail(
                check,
                "ca-file",
                "requires tls = true: set it, or remove ca-file",
            );
        }
        if self.password.is_some() && self.password_file.is_some() {
            fail(
                check,
                "password-file",
                "and password are both set: remove one",
            );
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        if has_password && self.user.is_none() {
            fail(check, "user", "is missing: a password belongs to a user");
        }
        let name = self.device.as_deref();
        if name.is_some_and(|name| !is_device_name(name)) {
            fail(
                check,
                "device",
                "is wrong: use 1 to 64 letters, digits, -, and _",
            );
        }
        if !is_topic(&self.topic_prefix) {
            fail(
                check,
                "topic-prefix",
                "is not a topic: use levels separated by slashes, without + # $ and spaces",
            );
        }
        if !self.discovery_prefix.is_empty() && !is_topic(&self.discovery_prefix) {
            fail(
                check,
                "discovery-prefix",
                "is not a topic: use \"homeassistant\", or \"\" to turn discovery off",
            );
        }
    }
}

impl Fleet {
    pub(super) fn check(&self, mqtt: &Mqtt, check: &mut Check) {
        for key in &self.trust {
            if hex::decode(key).is_none() {
                let problem = "contains an invalid key: use the output of \"maskd fleet key\" on the other device";
                check.fail("fleet.trust", problem.to_owned());
            }
        }
        let is_on = self.share || !self.trust.is_empty();
        if is_on && mqtt.host.is_none() {
            let key = if self.share {
                "fleet.share"
            } else {
                "fleet.trust"
            };
            check.fail(key, "needs a broker: set mqtt.host".to_owned());
        }
    }
}
