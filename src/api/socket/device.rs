//! The device as its owner sees it: the camera, the pins, the broker, the fleet, the disk, and
//! the addresses.
//!
//! This module reads what changes when it is asked, and takes the rest from the config. It
//! shows no passwords: the camera and the broker are shown without their logins.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;

use super::page_url::PageUrl;
use super::types::ErrorRecord;
use crate::camera::Spec;
use crate::config::Config;
use crate::indicate::pins::{PinDriver, PinFunction};
use crate::platform::disk::DiskSpace;
use crate::platform::text::printable;
use crate::platform::{board, clock, network};

/// What is known about the device when the daemon starts.
#[derive(Debug, Clone)]
pub struct DeviceFacts {
    name: String,
    started: Instant,
    camera: String,
    pins: PinsRecord,
    broker: Option<(String, bool)>,
    fleet: Option<FleetRecord>,
    /// Where the page is.
    page: Option<PageUrl>,
    /// The free space below which the disk of the state directory counts as full, in MiB.
    min_free_mib: u64,
}

impl DeviceFacts {
    /// Collects the facts from a config. `name` is the name of the device, and `on_pi` tells
    /// whether this machine is a Raspberry Pi.
    #[must_use]
    pub fn new(config: &Config, name: String, on_pi: bool, started: Instant) -> DeviceFacts {
        let mqtt = &config.mqtt;
        let broker = mqtt
            .host
            .as_ref()
            .map(|host| (format!("{host}:{}", mqtt.broker_port()), mqtt.tls));
        let fleet = &config.fleet;
        let camera = match config.camera.source.parse::<Spec>() {
            // The path may contain a person's name.
            Ok(Spec::Path(_)) => "pictures".to_owned(),
            Ok(spec) => spec.to_string(),
            Err(_) => "unknown".to_owned(),
        };
        DeviceFacts {
            name,
            started,
            camera,
            pins: PinsRecord::new(config, on_pi),
            page: PageUrl::new(&config.web),
            min_free_mib: config.events.min_free_mib,
            broker,
            fleet: (fleet.share || !fleet.trust.is_empty()).then_some(FleetRecord {
                shares: fleet.share,
                trusted_devices: fleet.trust.len(),
            }),
        }
    }

    fn disk(&self, state: &Path) -> Option<DiskRecord> {
        let disk = DiskSpace::of(state)?;
        Some(DiskRecord {
            free_mib: disk.free_mib,
            total_mib: disk.total_mib,
            min_free_mib: self.min_free_mib,
        })
    }
}

/// The connection to the MQTT broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BrokerConnection {
    /// There was no connection yet.
    #[default]
    Connecting,
    /// There is a connection.
    Connected,
    /// There is no connection, for this reason.
    Lost(String),
}

/// The device, as its owner sees it. This format is stable.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "version": "0.1.0",
    "name": "front-door",
    "board": "Raspberry Pi 4 Model B Rev 1.5",
    "uptime_seconds": 86400,
    "clock_synchronized": true,
    "addresses": ["192.0.2.17"],
    "camera": "rpicam",
    "pins": {
        "driver": "rppal",
        "lines": [{ "line": "17", "function": "green", "active_low": false }]
    },
    "broker": { "address": "broker.example:8883", "tls": true, "connected": true },
    "disk": { "free_mib": 20480, "total_mib": 30720, "min_free_mib": 50 }
}))]
pub struct DeviceRecord {
    /// Version of the daemon.
    pub version: String,
    /// Name of the device in events and in topics.
    pub name: String,
    /// Model of the board; absent if the machine does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// How long the daemon has been running, in seconds.
    pub uptime_seconds: u64,
    /// Whether the clock is synchronized with a time server.
    pub clock_synchronized: bool,
    /// The addresses under which other machines reach this one. Empty if it has no network, or
    /// if the service may not use it.
    pub addresses: Vec<String>,
    /// The address of this page for other machines; absent if they cannot reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// The source of the frames, without passwords. A folder or a file is `pictures`.
    pub camera: String,
    /// The pins.
    pub pins: PinsRecord,
    /// The MQTT broker; absent if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerRecord>,
    /// The exchange of models; absent if the device takes no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetRecord>,
    /// The disk of the state directory; absent if the system does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskRecord>,
}

/// The pins, as part of [`DeviceRecord`]. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinsRecord {
    /// What drives the pins: `rppal`, `gpiocdev`, or `console`, which drives none.
    pub driver: String,
    /// The pins that are configured, if any are driven.
    pub lines: Vec<PinRecord>,
}

impl PinsRecord {
    fn new(config: &Config, on_pi: bool) -> PinsRecord {
        let Some(options) = config.indicate.pins(on_pi) else {
            return PinsRecord {
                driver: "console".to_owned(),
                lines: Vec::new(),
            };
        };
        let driver = match options.driver {
            PinDriver::Rppal { .. } => "rppal",
            PinDriver::Gpiocdev { .. } => "gpiocdev",
        };
        let lines = options.lines.iter().map(|(line, function)| PinRecord {
            line: line.to_string(),
            function: function.to_string().replace(' ', "-"),
            active_low: matches!(
                function,
                PinFunction::Out {
                    active_low: true,
                    ..
                }
            ),
        });
        PinsRecord {
            driver: driver.to_owned(),
            lines: lines.collect(),
        }
    }
}

/// A pin, as part of [`DeviceRecord`]. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinRecord {
    /// Number or name of the line.
    pub line: String,
    /// What the line is for: `green`, `red`, `buzzer`, `relay`, `door-contact`, `exit-button`,
    /// `release-line`, `with-mask-button`, or `without-mask-button`.
    pub function: String,
    /// Whether an output is on while the line is low.
    pub active_low: bool,
}

/// The MQTT broker, as part of [`DeviceRecord`]. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokerRecord {
    /// Host and port.
    pub address: String,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether there is a connection.
    pub connected: bool,
    /// Why there is no connection; absent if there is one, or there was no attempt yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The exchange of models, as part of [`DeviceRecord`]. This format is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetRecord {
    /// Whether this device offers its models to others.
    pub shares: bool,
    /// Number of devices whose models this device evaluates.
    pub trusted_devices: usize,
}

/// The disk of the state directory, as part of [`DeviceRecord`]. This format is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskRecord {
    /// Free space in MiB.
    pub free_mib: u64,
    /// Size in MiB.
    pub total_mib: u64,
    /// The free space below which the disk counts as full, in MiB (`events.min-free-mib`).
    #[serde(default)]
    pub min_free_mib: u64,
}

/// A request to test the LEDs, which the indicator thread handles.
#[derive(Debug)]
pub struct LedTestRequest {
    /// Channel for the test that has begun, or for the reason why it is refused.
    pub(crate) answer: oneshot::Sender<Result<LedTestRecord, ErrorRecord>>,
}

/// A test of the LEDs that has begun. This format is stable.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "duration_ms": 5000, "buzzer_silenced": false }))]
pub struct LedTestRecord {
    /// How long the test takes, in milliseconds.
    pub duration_ms: u64,
    /// Whether the buzzer stays silent, because the config silences it at this time.
    #[serde(default)]
    pub buzzer_silenced: bool,
}

/// What [`DaemonHandle`](super::DaemonHandle) needs for this module.
#[derive(Debug, Clone)]
pub struct DeviceAccess {
    /// What is known since the daemon started.
    pub facts: DeviceFacts,
    /// The connection to the MQTT broker.
    pub broker: watch::Sender<BrokerConnection>,
    /// Sends requests to test the LEDs to the indicator thread.
    pub led_test: mpsc::Sender<LedTestRequest>,
}

impl DeviceAccess {
    /// Creates the access to a device. The receiver is for the indicator thread.
    #[must_use]
    pub fn new(facts: DeviceFacts) -> (DeviceAccess, mpsc::Receiver<LedTestRequest>) {
        let (led_test, requests) = mpsc::channel(1);
        let access = DeviceAccess {
            facts,
            broker: watch::Sender::default(),
            led_test,
        };
        (access, requests)
    }

    /// The address of the page for other machines, or `None` if they cannot reach it.
    pub(crate) fn page(&self) -> Option<String> {
        let page = self.facts.page.as_ref();
        page.filter(|page| !page.is_local())?.url()
    }

    /// The address of the page, or `None` if there is none or this machine has no address.
    pub(super) fn own_page(&self) -> Option<String> {
        self.facts.page.as_ref()?.url()
    }

    /// Publishes the connection to the broker.
    pub(crate) fn set_broker(&self, connection: BrokerConnection) {
        self.broker.send_replace(connection);
    }

    /// Describes the device. `state` is the state directory. Reads files, so it must not be called
    /// on the thread that serves requests.
    pub(super) fn record(&self, state: &Path) -> DeviceRecord {
        let facts = &self.facts;
        DeviceRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: facts.name.clone(),
            board: board::model(),
            uptime_seconds: now().saturating_duration_since(facts.started).as_secs(),
            clock_synchronized: clock::is_synchronized(),
            addresses: network::addresses().iter().map(IpAddr::to_string).collect(),
            page: self.page(),
            camera: facts.camera.clone(),
            pins: facts.pins.clone(),
            broker: self.broker(),
            fleet: facts.fleet,
            disk: facts.disk(state),
        }
    }

    fn broker(&self) -> Option<BrokerRecord> {
        let (address, tls) = self.facts.broker.clone()?;
        let connection = self.broker.borrow().clone();
        Some(BrokerRecord {
            address,
            tls,
            connected: connection == BrokerConnection::Connected,
            problem: match connection {
                BrokerConnection::Lost(why) => Some(printable(&why).into_owned()),
                BrokerConnection::Connecting | BrokerConnection::Connected => None,
            },
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the uptime is the real time since the start"
)]
fn now() -> Instant {
    Instant::now()
}
