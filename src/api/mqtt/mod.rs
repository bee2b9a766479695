//! The daemon's state on an MQTT broker, and what may be asked for there.
//!
//! Owns topics, payloads, Home Assistant's discovery and the connection. Knows
//! the daemon by its live state and its desk alone, and works on a thread of its
//! own: a broker that is slow, silent or hostile costs that thread its time and
//! nobody else's. No pictures and no crops go this way. `docs/MQTT.md` says what
//! is done against attacks.
//!
//! | topic | | payload |
//! |---|---|---|
//! | `maskd/DEVICE/status` | retained, last will | `online`, `offline` |
//! | `maskd/DEVICE/state` | retained | [`StateRecord`] as JSON |
//! | `maskd/DEVICE/refit/set` | taken | `PRESS` |
//! | `maskd/DEVICE/capture/set` | taken, if the config captures | `ON`, `OFF` |
//! | `homeassistant/device/DEVICE/config` | retained | discovery |
//! | `homeassistant/status` | taken | `online` has the discovery sent again |
//! | `maskd/fleet/DEVICE` | retained, given and taken if `[fleet]` says so | a head ([`fleet`]) |
//!
//! MQTT 5, since only there a broker can be told how large a packet may be.

mod discovery;
mod exchange;
mod session;
mod state;

use std::path::Path;
use std::time::Duration;

use rumqttc::{
    ConnectReturnCode, ConnectionError, LastWill, MqttOptions, QoS, TlsConfiguration, Transport,
};

use crate::config::{self, Config, Secret};
use crate::learning::fleet;

pub use session::{MqttContext, reach, serve};
pub use state::StateRecord;

/// Largest packet that a broker may send, in bytes, when no heads are taken.
const MAX_PACKET: u32 = 4096;
/// Longest password, in bytes.
const MAX_PASSWORD: u64 = 4096;
/// Largest file of authorities, in bytes.
const MAX_CA: u64 = 1024 * 1024;
/// A broker that hears nothing for one and a half times this tells others that
/// the device is gone, in seconds.
const KEEP_ALIVE_S: u16 = 30;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The credential of systemd that holds the password.
const CREDENTIAL: &str = "mqtt-password";

/// Why there is no connection to a broker. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    /// A file of the config.
    #[error("cannot read {what} {path}: {source}")]
    File {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that holds something else.
    #[error("{path} holds no {what}")]
    Content {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: String,
    },
    /// The authorities of the system.
    #[error(
        "the system's certificate authorities cannot be read ({0}): set mqtt.ca-file, or install \
         ca-certificates"
    )]
    Authorities(String),
    /// It is not there, or it refuses.
    #[error("the MQTT broker {broker} {why}")]
    Broker {
        /// Host and port.
        broker: String,
        /// What it does, such as "does not answer".
        why: String,
    },
    /// The system refuses a timer or a socket.
    #[error("cannot connect: {0}")]
    System(#[from] std::io::Error),
}

/// How a broker is to be reached, with all that has to be read first.
#[derive(Debug, Clone)]
pub struct Plan {
    host: String,
    port: u16,
    tls: Option<TlsConfiguration>,
    login: Option<(String, Option<Secret>)>,
    device: String,
    topics: Topics,
    commands: bool,
    discovery: bool,
    /// Whether heads are offered.
    share: bool,
    /// Whose heads are tried.
    trusted: Vec<[u8; 32]>,
}

/// The topics of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Topics {
    status: String,
    state: String,
    refit: String,
    capture: String,
    /// What the topics of all devices' heads begin with.
    fleet: String,
    /// Of Home Assistant.
    discovery: String,
    /// Where Home Assistant says that it has started.
    birth: String,
}

impl Topics {
    fn new(topic: &str, prefix: &str, device: &str) -> Topics {
        let own = |name: &str| format!("{topic}/{device}/{name}");
        Topics {
            status: own("status"),
            state: own("state"),
            refit: own("refit/set"),
            capture: own("capture/set"),
            fleet: format!("{topic}/fleet/"),
            discovery: format!("{prefix}/device/{device}/config"),
            birth: format!("{prefix}/status"),
        }
    }
}

impl Plan {
    /// What a config says; `None` if it names no broker. `credentials` is the
    /// folder of systemd's credentials, `hostname` the machine's.
    ///
    /// # Errors
    /// [`MqttError::File`], [`MqttError::Content`], [`MqttError::Authorities`].
    pub fn of(
        config: &Config,
        credentials: Option<&Path>,
        hostname: &str,
    ) -> Result<Option<Plan>, MqttError> {
        let mqtt = &config.mqtt;
        let Some(host) = mqtt.host.clone() else {
            return Ok(None);
        };
        let login = match mqtt.user.clone() {
            Some(user) => Some((user, password(mqtt, credentials)?)),
            None => None,
        };
        let device = mqtt.device.clone().unwrap_or_else(|| usual_name(hostname));
        let port = mqtt.port.unwrap_or(if mqtt.tls { 8883 } else { 1883 });
        Ok(Some(Plan {
            tls: mqtt.tls.then(|| tls(mqtt)).transpose()?,
            topics: Topics::new(&mqtt.topic_prefix, &mqtt.discovery_prefix, &device),
            commands: mqtt.commands,
            discovery: !mqtt.discovery_prefix.is_empty(),
            share: config.fleet.share,
            trusted: config.fleet.keys(),
            host,
            port,
            login,
            device,
        }))
    }

    /// Host and port, as messages name them.
    #[must_use]
    pub fn broker(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What this device is called.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether others on the network can read the password.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        let is_here = matches!(self.host.as_str(), "localhost" | "127.0.0.1");
        self.login.is_some() && self.tls.is_none() && !is_here
    }

    /// Whether heads are offered, or those of others tried.
    #[must_use]
    pub fn is_in_fleet(&self) -> bool {
        self.share || !self.trusted.is_empty()
    }

    /// The options of a connection; `role` tells apart those of one device.
    fn options(&self, role: &str) -> MqttOptions {
        let client = format!("maskd-{}{role}", self.device);
        let mut options = MqttOptions::new(client, (self.host.clone(), self.port));
        options.set_keep_alive(KEEP_ALIVE_S);
        options.set_connect_timeout(CONNECT);
        let offers = if self.trusted.is_empty() {
            0
        } else {
            fleet::MAX_OFFER as u32
        };
        options.set_max_packet_size(Some(MAX_PACKET + offers));
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

    /// As [`options`](Plan::options), and the broker tells when the device goes.
    fn options_with_will(&self) -> MqttOptions {
        let mut options = self.options("");
        let status = self.topics.status.clone();
        let will = LastWill::new(status, "offline", QoS::AtLeastOnce, true, None);
        options.set_last_will(will);
        options
    }

    fn fail(&self, why: impl Into<String>) -> MqttError {
        MqttError::Broker {
            broker: self.broker(),
            why: why.into(),
        }
    }
}

/// `maskd-` and the machine's name, as far as it can stand in a topic.
fn usual_name(hostname: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
    let name: String = hostname.chars().filter(is_plain).take(58).collect();
    if name.is_empty() {
        "maskd".to_owned()
    } else {
        format!("maskd-{name}")
    }
}

fn read(what: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, MqttError> {
    crate::platform::files::read(path, most).map_err(|source| MqttError::File {
        what,
        path: path.display().to_string(),
        source,
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
    let text = String::from_utf8(read(what, &path, MAX_PASSWORD)?);
    let text = text.map_err(|_| MqttError::Content {
        what: "password of UTF-8",
        path: path.display().to_string(),
    })?;
    // An editor ends a line.
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
    let ca = read("the certificate authorities in", path, MAX_CA)?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if !ca.windows(marker.len()).any(|window| window == marker) {
        return Err(MqttError::Content {
            what: "certificates in PEM form",
            path: path.display().to_string(),
        });
    }
    Ok(TlsConfiguration::Simple {
        ca,
        alpn: None,
        client_auth: None,
    })
}

/// What a broker does, in words that go on after its name.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "refuses user and password: look at mqtt.user and the password".to_owned(),
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::RefusedProtocolVersion
            | ConnectReturnCode::UnsupportedProtocolVersion,
        ) => "does not know MQTT 5: take a newer broker".to_owned(),
        ConnectionError::ConnectionRefused(code) => format!("refuses the connection ({code:?})"),
        ConnectionError::Timeout(_) => "does not answer".to_owned(),
        ConnectionError::Tls(error) => format!("cannot be trusted: {error}"),
        ConnectionError::Io(error) => format!("cannot be reached: {error}"),
        error => format!("has ended the connection: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Option<Plan>, MqttError> {
        let config = config::parse("any", text).unwrap();
        Plan::of(&config, None, "door.lan")
    }

    #[test]
    fn without_a_host_there_is_no_broker() {
        assert!(plan("").unwrap().is_none());
    }

    #[test]
    fn names_and_ports_follow_from_what_is_given() {
        let usual = plan("[mqtt]\nhost = \"broker\"\n").unwrap().unwrap();
        assert_eq!(
            (usual.broker().as_str(), usual.device()),
            ("broker:1883", "maskd-doorlan")
        );
        assert_eq!(usual.topics.state, "maskd/maskd-doorlan/state");
        assert_eq!(usual.topics.birth, "homeassistant/status");
        assert_eq!(usual_name("日本"), "maskd");
    }

    #[test]
    fn a_password_comes_from_the_config_a_file_or_a_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CREDENTIAL);
        std::fs::write(&path, "pass word\r\n").unwrap();
        let text = "[mqtt]\nhost = \"h\"\nuser = \"u\"\n";
        let login = |text: &str, credentials: Option<&Path>| {
            let config = config::parse("any", text).unwrap();
            let plan = Plan::of(&config, credentials, "h")?.unwrap();
            Ok::<_, MqttError>(plan.login.unwrap().1.map(|Secret(password)| password))
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
        assert!(error.ends_with("holds no password"), "{error}");
        let config = config::parse("any", &own).unwrap();
        assert!(!format!("{config:?}").contains("\"x\""), "it is not shown");
    }

    #[test]
    fn authorities_must_be_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let text = format!("[mqtt]\nhost = \"h\"\ntls = true\nca-file = {path:?}\n");
        let error = plan(&text).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read the certificate authorities in"),
            "{error}"
        );
        std::fs::write(&path, "letters").unwrap();
        let error = plan(&text).unwrap_err().to_string();
        assert!(
            error.ends_with("holds no certificates in PEM form"),
            "{error}"
        );
    }
}
