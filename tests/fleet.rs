//! Tests three devices on one broker. Each device tries out the heads that the other
//! devices have trained.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use broker::{Broker, Ear, free_port, until};
use maskd::onnx::{Classifier, HeadFile, write_head};
use maskd::vision::pipeline::SHIPPED_CLASSIFIER;
use serde_json::Value;
use support::{assert_refused, frame, golden_crops, interrupt, maskd, text, wait};

struct Device {
    name: &'static str,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Device {
    /// Creates a device with a bad head, which predicts the opposite of the shipped head.
    fn new(name: &'static str) -> Device {
        let device = Device {
            name,
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        let shipped = Classifier::parse("shipped", SHIPPED_CLASSIFIER).unwrap();
        let mut file = HeadFile {
            backbone_sha256: shipped.backbone_sha256,
            labels: shipped.labels.clone(),
            head: shipped.head.clone(),
        };
        for weight in file.head.w2.iter_mut().chain(&mut file.head.b2) {
            *weight *= -0.2;
        }
        fs::write(device.at("bad.onnx"), write_head(&file, &[])).unwrap();
        device
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, port: u16, fleet: &str) {
        let config = format!(
            "[models]\nclassifier = \"{}\"\n[refit]\nenabled = false\n[decide]\nstale-ms = 60000\n\
             [mqtt]\nhost = \"127.0.0.1\"\nport = {port}\ndevice = \"{}\"\n[fleet]\n{fleet}\n",
            self.at("bad.onnx").display(),
            self.name
        );
        fs::write(self.at("maskd.toml"), config).unwrap();
    }

    fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.at("log"))
            .unwrap();
        let child = maskd()
            .args(["run", "--config"])
            .arg(self.at("maskd.toml"))
            .arg("--state")
            .arg(self.at("state"))
            .arg("--source")
            .arg(frame("maksssksksss120.jpg"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let socket = self.at("state/control.sock");
        until("the daemon answers", || socket.exists().then_some(()));
        self.says("MQTT connected", 1);
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        interrupt(&child, "-TERM");
        assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn says(&self, words: &str, times: usize) {
        let what = format!("{} says {words:?}", self.name);
        until(&what, || {
            let log = self.log();
            // After a panic, the test fails immediately instead of waiting for two minutes.
            assert!(!log.contains("panicked"), "{log}");
            (log.matches(words).count() >= times).then_some(())
        });
    }

    fn maskd(&self, words: &[&str]) -> Output {
        let mut command = maskd();
        command.args(words).arg("--state").arg(self.at("state"));
        command.output().unwrap()
    }

    #[track_caller]
    fn good(&self, words: &[&str]) -> String {
        let output = self.maskd(words);
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        text(&output.stdout)
    }

    fn key(&self) -> String {
        self.good(&["fleet", "key"]).trim().to_owned()
    }

    fn heads(&self) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.good(&["heads", "list", "--json"])).unwrap();
        // The first row is the built-in model.
        list.as_array().unwrap()[1..].to_vec()
    }

    /// Imports twelve labeled samples of each class, cropped differently on each device.
    fn label(&self, shift: u32) {
        let set = self.at("set");
        pictures(&set, shift);
        let imported = self.good(&["samples", "import", set.to_str().unwrap()]);
        assert_eq!(imported, "added: with_mask 12, without_mask 12\n");
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("== {}\n{}", self.name, self.log());
        }
    }
}

/// Writes pieces of the golden crops.
fn pictures(set: &Path, shift: u32) {
    for (label, prefix) in [("without_mask", "bare_"), ("with_mask", "mask_")] {
        let class = set.join(label);
        fs::create_dir_all(&class).unwrap();
        for (name, pixels) in golden_crops(prefix) {
            for piece in 0..4 {
                let inset = 5 * piece + shift;
                let (width, height) = (pixels.width() - 2 * inset, pixels.height() - inset);
                let part = image::imageops::crop_imm(&pixels, inset, inset / 2, width, height);
                let path = class.join(format!("{piece}_{name}"));
                part.to_image().save(path).unwrap();
            }
        }
    }
}

#[test]
fn what_one_door_has_learned_the_others_try_by_their_own_samples() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let Some(broker) = Broker::start_at(folder.path(), port, "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    let (mut north, mut south, mut new) = (
        Device::new("north"),
        Device::new("south"),
        Device::new("new"),
    );
    let key = north.key();
    assert_eq!((key.len(), north.key()), (64, key.clone()));
    north.configure(port, "share = true");
    // A device that trusts no other device receives no heads. These two devices trust the
    // device `north`, and also share their own heads.
    let trusting = format!("share = true\ntrust = [\"{key}\"]");
    south.configure(port, &trusting);
    new.configure(port, &trusting);
    for device in [&mut north, &mut south, &mut new] {
        device.start();
    }
    south.label(2);
    north.label(0);
    ear.publish("maskd/north/refit/set", b"PRESS", false);
    north.says("the model is shared with other devices", 1);
    let offer = until("the offer", || ear.last("maskd/fleet/north"));
    assert!(offer.starts_with(b"maskdh1\n"));
    // Neither the ids of samples nor the results for them leave the device.
    let clear = String::from_utf8_lossy(&offer);
    let samples: Value = serde_json::from_str(&north.good(&["samples", "list", "--json"])).unwrap();
    for sample in samples.as_array().unwrap() {
        let id = sample["id"].as_str().unwrap();
        assert!(!clear.contains(id), "{id} has left");
    }
    assert!(!clear.contains("learned"));

    south.says("a model from another device is in use now", 1);
    let heads = south.heads();
    assert_eq!(
        (heads.len(), &heads[0]["recipe"]),
        (1, &Value::from("fleet"))
    );
    assert_eq!(heads[0]["current"], true);
    new.says("a model from another device was refused", 1);
    assert!(
        new.log().contains("there are no labeled face pictures"),
        "{}",
        new.log()
    );
    assert_eq!(new.heads().len(), 0);
    // A device does not offer a head that it received from another device.
    std::thread::sleep(Duration::from_secs(1));
    let topics = ear.topics();
    let offers = topics
        .iter()
        .filter(|topic| topic.starts_with("maskd/fleet/"));
    assert_eq!(offers.collect::<Vec<_>>(), ["maskd/fleet/north"]);

    // An attacker on the broker alters a head, sends a head from an unknown device, and
    // sends random bytes.
    let mut forged = offer.clone();
    let last = forged.len() - 9;
    forged[last] ^= 1;
    ear.publish("maskd/fleet/north", &forged, false);
    south.says("a model with a forged signature", 1);
    let mut stranger = offer.clone();
    stranger[8..40].fill(7);
    ear.publish("maskd/fleet/stranger", &stranger, false);
    south.says("a model from a device that is not in fleet.trust", 1);
    ear.publish("maskd/fleet/north", &vec![b'x'; 1_500_000], false);
    south.says("a message on a fleet topic that is not a model", 1);

    // A device that has rolled back keeps its head, even when the offer arrives again.
    south.good(&["rollback"]);
    south.stop();
    south.start();
    south.says("MQTT connected", 2);
    std::thread::sleep(Duration::from_secs(3));
    let in_use = south
        .heads()
        .into_iter()
        .filter(|head| head["current"] == true);
    assert_eq!(in_use.count(), 0, "{}", south.log());
    let times = south.log().matches("is in use now").count();
    assert_eq!(times, 1, "{}", south.log());
    for mut device in [north, south, new] {
        device.stop();
    }
}

#[test]
fn a_damaged_key_is_said() {
    let device = Device::new("north");
    device.key();
    fs::write(device.at("state/fleet.key"), b"").unwrap();
    assert_refused(&device.maskd(&["fleet", "key"]), 65, "holds no key");
}
