//! The MQTT client, which publishes the daemon's state to a broker and accepts commands
//! from it.
//!
//! This module owns the topics, the payloads, Home Assistant discovery, and the
//! connection. The client knows the daemon only through the daemon's live state and a
//! [`DaemonHandle`]. It runs on its own thread, so a slow, silent, or hostile broker
//! delays only that thread. No pictures or crops are sent. `docs/MQTT.md` describes
//! attacks and defenses.
//!
//! | topic | direction | payload |
//! |---|---|---|
//! | `maskd/DEVICE/status` | published, retained, last will | `online`, `offline` |
//! | `maskd/DEVICE/state` | published, retained | [`StateRecord`] as JSON |
//! | `maskd/DEVICE/event` | published | an [`Event`] as JSON |
//! | `maskd/DEVICE/id` | published, retained | digits that are unique to this device |
//! | `maskd/DEVICE/refit/set` | subscribed | `PRESS` |
//! | `maskd/DEVICE/capture/set` | subscribed; obeyed if the config turns capturing on | `ON`, `OFF` |
//! | `homeassistant/device/DEVICE/config` | published, retained; read to replace the message of an earlier version | discovery |
//! | `homeassistant/status` | subscribed | `online` makes the daemon publish discovery and state again |
//! | `maskd/fleet/DEVICE` | published, subscribed, or both, depending on `[fleet]`; retained | a head ([`fleet`]) |
//!
//! The client uses MQTT 5, because earlier versions do not let a client limit the size of
//! the packets that the broker sends.
//!
//! [`Event`]: crate::events::Event
//! [`DaemonHandle`]: crate::api::socket::DaemonHandle

mod command;
mod discovery;
mod exchange;
mod identity;
mod session;
mod state;

use std::path::Path;
use std::time::Duration;

use rumqttc::{
    ConnectReturnCode, ConnectionError, LastWill, MqttOptions, QoS, StateError, TlsConfiguration,
    Transport,
};

use crate::config::{self, Config, Secret};
use crate::indicate::DoorOptions;
use crate::learning::fleet;

pub use identity::Machine;
pub use session::{MqttContext, serve, test_connection};
pub use state::{DoorRecord, StateRecord};

/// Maximum size of a packet that the broker may send, in bytes, if no device is trusted.
const MAX_PACKET: u32 = 4096;
/// Maximum size of the password file, in bytes.
const MAX_PASSWORD_FILE: u64 = 4096;
/// Maximum size of the certificate authorities file, in bytes.
const MAX_CA_FILE: u64 = 1024 * 1024;
/// Keep-alive interval in seconds. If the broker receives no packet for one and a half
/// times this interval, it publishes the last will.
const KEEP_ALIVE_S: u16 = 30;
/// Maximum time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The systemd credential that holds the password.
const CREDENTIAL: &str = "mqtt-password";

/// Why there is no connection to the broker. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// A file named by the config or by systemd cannot be read.
    #[error("cannot read {what} {path}: {source}")]
    File {
        /// The words before the path, such as "the MQTT password in".
        what: &'static str,
        /// Path of the file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file does not have the expected content.
    #[error("{path} contains no {what}")]
    Content {
        /// The expected content, such as "password".
        what: &'static str,
        /// Path of the file.
        path: String,
    },
    /// The certificate authorities of the system cannot be loaded.
    #[error(
        "the system's certificate authorities cannot be read ({0}): set mqtt.ca-file, or install \
         ca-certificates"
    )]
    Authorities(String),
    /// The broker does not answer or refuses the connection.
    #[error("the MQTT broker {broker} {why}")]
    Broker {
        /// Host and port.
        broker: String,
        /// What the broker does, such as "does not answer".
        why: String,
    },
    /// Another client connected with the client ID of this device.
    #[error(
        "another maskd with the name \"{device}\" connected to the MQTT broker {broker}, so the \
         broker ended this connection: set a different mqtt.device on one of them"
    )]
    NameTaken {
        /// Host and port.
        broker: String,
        /// The name that both devices have.
        device: String,
    },
    /// The system cannot provide a timer or a socket.
    #[error("cannot connect: {0}")]
    System(#[from] std::io::Error),
}

/// All options for the connection to the broker, including the contents of the files that
/// the config names.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    host: String,
    port: u16,
    tls: Option<TlsConfiguration>,
    login: Option<(String, Option<Secret>)>,
    device: String,
    machine: Machine,
    topics: Topics,
    /// The topics under the default name that earlier versions used; `None` if this
    /// device did not use that name.
    old_topics: Option<Topics>,
    commands: bool,
    discovery: bool,
    /// The door, if there is one.
    door: Option<DoorOptions>,
    /// Whether heads trained on this device are published.
    share: bool,
    /// Public keys of the devices whose heads are evaluated.
    trusted: Vec<[u8; 32]>,
}

/// Returns the name of this device: `mqtt.device`, or a name that is different on each machine.
#[must_use]
pub fn device_name(config: &Config, machine: &Machine) -> String {
    let device = config.mqtt.device.clone();
    device.unwrap_or_else(|| machine.device_name())
}

/// The topics of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Topics {
    status: String,
    state: String,
    event: String,
    /// Topic for the ID of the device.
    id: String,
    refit: String,
    capture: String,
    /// Prefix of the topics for the heads of all devices.
    fleet: String,
    /// Topic for the Home Assistant discovery message.
    discovery: String,
    /// Topic on which Home Assistant announces that it has started.
    birth: String,
}

impl Topics {
    fn new(prefix: &str, discovery_prefix: &str, device: &str) -> Topics {
        let own = |name: &str| format!("{prefix}/{device}/{name}");
        Topics {
            status: own("status"),
            state: own("state"),
            event: own("event"),
            id: own("id"),
            refit: own("refit/set"),
            capture: own("capture/set"),
            fleet: format!("{prefix}/fleet/"),
            discovery: format!("{discovery_prefix}/device/{device}/config"),
            birth: format!("{discovery_prefix}/status"),
        }
    }
}

impl BrokerOptions {
    /// Returns the options from a config, or `None` if the config names no broker.
    /// `credentials` is systemd's credentials directory.
    ///
    /// # Errors
    /// Returns [`MqttError::File`], [`MqttError::Content`], or [`MqttError::Authorities`]
    /// if a file or the certificate authorities cannot be used.
    pub fn from_config(
        config: &Config,
        credentials: Option<&Path>,
        machine: &Machine,
    ) -> Result<Option<BrokerOptions>, MqttError> {
        let mqtt = &config.mqtt;
        let Some(host) = mqtt.host.clone() else {
            return Ok(None);
        };
        let login = match mqtt.user.clone() {
            Some(user) => Some((user, password(mqtt, credentials)?)),
            None => None,
        };
        let device = device_name(config, machine);
        let topics = |device: &str| Topics::new(&mqtt.topic_prefix, &mqtt.discovery_prefix, device);
        let old_device = Some(machine.old_device_name());
        let old_device = old_device.filter(|old| mqtt.device.is_none() && *old != device);
        let port = mqtt.broker_port();
        Ok(Some(BrokerOptions {
            tls: mqtt.tls.then(|| tls(mqtt)).transpose()?,
            topics: topics(&device),
            old_topics: old_device.map(|old| topics(&old)),
            machine: machine.clone(),
            commands: mqtt.commands,
            discovery: !mqtt.discovery_prefix.is_empty(),
            door: config.indicate.door(true),
            share: config.fleet.share,
            trusted: config.fleet.keys(),
            host,
            port,
            login,
            device,
        }))
    }

    /// The broker's host and port, as shown in messages.
    #[must_use]
    pub fn broker(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The name of this device in topics.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the user name and password cross the network unencrypted.
    #[must_use]
    pub fn exposes_password(&self) -> bool {
        let is_local = matches!(self.host.as_str(), "localhost" | "127.0.0.1");
        self.login.is_some() && self.tls.is_none() && !is_local
    }

    /// Whether this device publishes heads or evaluates heads from other devices.
    #[must_use]
    pub fn is_in_fleet(&self) -> bool {
        self.share || !self.trusted.is_empty()
    }

    /// Returns the options for the MQTT library. `suffix` is appended to the client ID,
    /// which must be different for each connection from the same device.
    fn client_options(&self, suffix: &str) -> MqttOptions {
        let client_id = format!("maskd-{}{suffix}", self.device);
        let mut options = MqttOptions::new(client_id, (self.host.clone(), self.port));
        options.set_keep_alive(KEEP_ALIVE_S);
        options.set_connect_timeout(CONNECT_TIMEOUT);
        let max_offer = if self.trusted.is_empty() {
            0
        } else {
            fleet::MAX_OFFER as u32
        };
        options.set_max_packet_size(Some(MAX_PACKET + max_offer));
        options.set_receive_maximum(Some(16));
        options.set_request_channel_capacity(32);
        if let Some((user, password)) = &self.login {
            match password {
                Some(Secret(password)) => options.set_credentials(user, password.clone()),
                None => options.set_username(user),
            };
        }
        if let Some(tls) = &self.tls {
            options.set_transport(Transport::tls_with_config(tls.clone()));
        }
        options
    }

    /// Returns [`client_options`](Self::client_options) with a last will added. The
    /// broker publishes the last will when the connection is lost. The last will marks
    /// the device as offline.
    fn client_options_with_will(&self) -> MqttOptions {
        let mut options = self.client_options("");
        let status = self.topics.status.clone();
        let will = LastWill::new(status, "offline", QoS::AtLeastOnce, true, None);
        options.set_last_will(will);
        options
    }

    /// Describes the error in words that continue a sentence after the broker's name.
    /// `connected` is true if the broker had already accepted the connection.
    fn describe(&self, error: &ConnectionError, connected: bool) -> String {
        if !connected && self.tls.is_none() && is_end(error) {
            // Either the broker cannot read the first packet, or the other side is not an
            // MQTT broker.
            return "closed the connection before it answered: it does not speak MQTT 5, or it \
                    expects mqtt.tls = true"
                .to_owned();
        }
        match error {
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
            ) => "refuses the user name and password: check mqtt.user and the password".to_owned(),
            ConnectionError::ConnectionRefused(
                ConnectReturnCode::RefusedProtocolVersion
                | ConnectReturnCode::UnsupportedProtocolVersion,
            ) => NO_MQTT_5.to_owned(),
            ConnectionError::MqttState(StateError::Deserialization(_)) if !connected => {
                NO_MQTT_5.to_owned()
            }
            ConnectionError::ConnectionRefused(code) => {
                format!("refuses the connection ({code:?})")
            }
            ConnectionError::Timeout(_) => "does not answer".to_owned(),
            ConnectionError::Tls(error) => format!("cannot be trusted: {error}"),
            ConnectionError::Io(error) if connected => format!("was lost: {error}"),
            ConnectionError::Io(error) => format!("cannot be reached: {error}"),
            error => format!("closed the connection: {error}"),
        }
    }

    fn name_taken(&self) -> MqttError {
        MqttError::NameTaken {
            broker: self.broker(),
            device: self.device.clone(),
        }
    }

    fn fail(&self, why: impl Into<String>) -> MqttError {
        MqttError::Broker {
            broker: self.broker(),
            why: why.into(),
        }
    }
}

/// Describes a broker that supports only MQTT 3.
const NO_MQTT_5: &str = "does not speak MQTT 5: use a broker that does, such as mosquitto 1.6";

/// Whether the other side ended the connection.
fn is_end(error: &ConnectionError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let is_end = |error: &std::io::Error| {
        matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
        )
    };
    match error {
        ConnectionError::MqttState(StateError::ConnectionAborted) => true,
        ConnectionError::MqttState(StateError::Io(error)) | ConnectionError::Io(error) => {
            is_end(error)
        }
        _ => false,
    }
}

fn read(what: &'static str, path: &Path, max_bytes: u64) -> Result<Vec<u8>, MqttError> {
    crate::platform::files::read_bounded(path, max_bytes).map_err(|error| MqttError::File {
        what,
        path: path.display().to_string(),
        source: error.source,
    })
}

fn password(mqtt: &config::Mqtt, credentials: Option<&Path>) -> Result<Option<Secret>, MqttError> {
    if let Some(password) = &mqtt.password {
        return Ok(Some(password.clone()));
    }
    let credential = credentials.map(|folder| folder.join(CREDENTIAL));
    let credential = credential.filter(|path| path.exists());
    let Some(path) = mqtt.password_file.clone().or(credential) else {
        return Ok(None);
    };
    let what = "the MQTT password in";
    let text = String::from_utf8(read(what, &path, MAX_PASSWORD_FILE)?);
    let text = text.map_err(|_| MqttError::Content {
        what: "UTF-8 password",
        path: path.display().to_string(),
    })?;
    // Text editors add a newline at the end.
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(MqttError::Content {
            what: "password",
            path: path.display().to_string(),
        });
    }
    Ok(Some(Secret(password.to_owned())))
}

fn tls(mqtt: &config::Mqtt) -> Result<TlsConfiguration, MqttError> {
    let Some(path) = &mqtt.ca_file else {
        let system = TlsConfiguration::try_default_rustls();
        return system.map_err(|error| MqttError::Authorities(error.to_string()));
    };
    let ca = read("the certificate authorities in", path, MAX_CA_FILE)?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if !ca.windows(marker.len()).any(|window| window == marker) {
        return Err(MqttError::Content {
            what: "certificates in PEM format",
            path: path.display().to_string(),
        });
    }
    Ok(TlsConfiguration::Simple {
        ca,
        alpn: None,
        client_auth: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Option<BrokerOptions>, MqttError> {
        let config = config::parse("any", text).unwrap();
        BrokerOptions::from_config(&config, None, &Machine::new("door.lan", "", ""))
    }

    #[test]
    fn without_a_host_there_is_no_broker() {
        assert!(options("").unwrap().is_none());
    }

    #[test]
    fn device_name_and_port_have_defaults() {
        let options = options("[mqtt]\nhost = \"broker\"\n").unwrap().unwrap();
        assert_eq!(
            (options.broker().as_str(), options.device()),
            ("broker:1883", "maskd-doorlan")
        );
        assert_eq!(options.topics.state, "maskd/maskd-doorlan/state");
        assert_eq!(options.topics.birth, "homeassistant/status");
    }

    #[test]
    fn an_answer_of_a_broker_without_mqtt_5_is_explained() {
        let options = options("[mqtt]\nhost = \"broker\"\n").unwrap().unwrap();
        for code in [
            ConnectReturnCode::RefusedProtocolVersion,
            ConnectReturnCode::UnsupportedProtocolVersion,
        ] {
            let error = ConnectionError::ConnectionRefused(code);
            assert_eq!(options.describe(&error, false), NO_MQTT_5);
        }
        let unreadable = StateError::Deserialization(rumqttc::mqttbytes::Error::ProtocolError);
        let error = ConnectionError::MqttState(unreadable);
        assert_eq!(options.describe(&error, false), NO_MQTT_5);
    }

    #[test]
    fn a_password_comes_from_the_config_a_file_or_a_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CREDENTIAL);
        std::fs::write(&path, "pass word\r\n").unwrap();
        let text = "[mqtt]\nhost = \"h\"\nuser = \"u\"\n";
        let login = |text: &str, credentials: Option<&Path>| {
            let config = config::parse("any", text).unwrap();
            let options =
                BrokerOptions::from_config(&config, credentials, &Machine::default())?.unwrap();
            Ok::<_, MqttError>(options.login.unwrap().1.map(|Secret(password)| password))
        };
        let secret = Some("pass word".to_owned());
        assert_eq!(login(text, None).unwrap(), None);
        assert_eq!(login(text, Some(folder.path())).unwrap(), secret);
        let file = format!("{text}password-file = {path:?}\n");
        assert_eq!(login(&file, None).unwrap(), secret);
        let own = format!("{text}password = \"x\"\n");
        assert_eq!(login(&own, Some(folder.path())).unwrap().unwrap(), "x");
        std::fs::write(&path, "\n").unwrap();
        let error = login(&file, None).unwrap_err().to_string();
        assert!(error.ends_with("contains no password"), "{error}");
        let config = config::parse("any", &own).unwrap();
        assert!(!format!("{config:?}").contains("\"x\""), "Debug hides it");
    }

    #[test]
    fn a_ca_file_must_contain_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let text = format!("[mqtt]\nhost = \"h\"\ntls = true\nca-file = {path:?}\n");
        let error = options(&text).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read the certificate authorities in"),
            "{error}"
        );
        std::fs::write(&path, "text").unwrap();
        let error = options(&text).unwrap_err().to_string();
        assert!(
            error.ends_with("contains no certificates in PEM format"),
            "{error}"
        );
    }
}
