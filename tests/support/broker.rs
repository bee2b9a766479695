//! Provides a mosquitto broker on the loopback interface for one test, and a client
//! that subscribes to all topics of the broker.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, PublishOptions, QoS, SubscribeFilterInput};

const PROGRAMS: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];

fn program() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| {
        let asked = Command::new(program)
            .arg("-h")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok()
    })
}

/// Waits until `found` returns a value.
#[track_caller]
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < Duration::from_mins(2) {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("timed out waiting for {what}");
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Returns the config of a device that is named `door` and uses the broker at this port. Further
/// keys of `[mqtt]` may follow.
pub fn config(port: u16) -> String {
    format!("[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\ndevice = \"door\"\n")
}

/// A running broker, which stops when this value is dropped.
pub struct Broker {
    pub port: u16,
    folder: PathBuf,
    child: Child,
}

impl Broker {
    /// Starts a broker, and adds the lines in `more` to its config. If mosquitto is not
    /// installed, prints a note to standard output and returns `None`.
    pub fn start(folder: &Path, more: &str) -> Option<Broker> {
        Broker::start_at(folder, free_port(), more)
    }

    pub fn start_at(folder: &Path, port: u16, more: &str) -> Option<Broker> {
        let Some(program) = program() else {
            println!("skipped: mosquitto is not installed");
            return None;
        };
        let config = folder.join("mosquitto.conf");
        let anonymous = if more.contains("password_file") {
            "false"
        } else {
            "true"
        };
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous {anonymous}\npersistence false\n{more}\n"
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.join("mosquitto.log")).unwrap();
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut broker = Broker {
            port,
            folder: folder.to_owned(),
            child,
        };
        until("mosquitto listens", || {
            let ended = broker.child.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto ended: {}", broker.log());
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(broker)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("mosquitto.log")).unwrap_or_default()
    }

    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}

/// All received payloads by topic, in the order of arrival. The flag shows whether the
/// broker had retained the message.
type Heard = Arc<Mutex<BTreeMap<String, Vec<(bool, Vec<u8>)>>>>;

/// A client that is subscribed to all topics.
pub struct Ear {
    heard: Heard,
    client: Client,
}

impl Ear {
    #[expect(clippy::disallowed_methods, reason = "the test needs a thread")]
    pub fn listen(port: u16) -> Ear {
        // The client id must be unique, because the broker closes the older of two
        // connections with the same id.
        static EARS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ear-{}", EARS.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(name, ("127.0.0.1", port));
        options.set_max_packet_size(Some(8 * 1024 * 1024));
        options.set_request_channel_capacity(10_000);
        let (client, mut connection) = Client::builder(options).build();
        client
            .subscribe_many([SubscribeFilterInput::new("#", QoS::AtLeastOnce)])
            .unwrap();
        let heard = Heard::default();
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let topic = String::from_utf8(message.topic.to_vec()).unwrap();
                        let mut all = all.lock().unwrap();
                        let of_topic = all.entry(topic).or_default();
                        of_topic.push((message.retain, message.payload.to_vec()));
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        Ear { heard, client }
    }

    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) {
        let options = PublishOptions::at_least_once().retain(retain);
        self.client.publish(topic, payload, options).unwrap();
    }

    pub fn count(&self, topic: &str) -> usize {
        self.heard.lock().unwrap().get(topic).map_or(0, Vec::len)
    }

    pub fn last(&self, topic: &str) -> Option<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        Some(heard.get(topic)?.last()?.1.clone())
    }

    pub fn all(&self, topic: &str) -> Vec<Vec<u8>> {
        let heard = self.heard.lock().unwrap();
        let of_topic = heard.get(topic).into_iter().flatten();
        of_topic.map(|(_, payload)| payload.clone()).collect()
    }

    pub fn text(&self, topic: &str) -> Option<String> {
        Some(String::from_utf8(self.last(topic)?).unwrap())
    }

    pub fn json(&self, topic: &str) -> Option<serde_json::Value> {
        Some(serde_json::from_slice(&self.last(topic)?).unwrap())
    }

    pub fn topics(&self) -> Vec<String> {
        self.heard.lock().unwrap().keys().cloned().collect()
    }
}
