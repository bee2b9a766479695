//! What a config means for the people in front of the camera: what is stored and for how
//! long, who can see it, what leaves the device, and a text for a sign at the door.
//!
//! Everything here follows from the config. Each section has a function that names all its
//! keys, so that a new key cannot be forgotten. Anything that the config cannot know, such as
//! the disks and the backups of the device, is not covered.

use std::net::IpAddr;

use reqwest::Url;
use serde::Serialize;

use super::events::Webhook;
use super::{Capture, Config, Control, Counts, Fleet, Indicate, Keep, Mode, Mqtt, Refit, Web};
use crate::camera::Spec;
use crate::counts::rounding;
use crate::events::EventKind;

/// What a config means for people in front of the camera. This format is stable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PrivacyRecord {
    /// What is stored on the device.
    pub stored: Vec<Stored>,
    /// Who can see what.
    pub seen_by: Vec<SeenBy>,
    /// What leaves the device or reaches it over a network, as sentences.
    pub leaves_device: Vec<String>,
    /// A text for a sign at the door. Words in capitals must be filled in.
    pub sign: String,
}

/// Something that is stored. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// What is stored.
    pub what: String,
    /// For how long.
    pub kept: String,
}

/// People or programs that can see something. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenBy {
    /// The way on which they see it.
    pub through: String,
    /// Who they are.
    pub who: String,
    /// What they can see.
    pub what: String,
}

impl PrivacyRecord {
    /// Derives everything from a config.
    #[must_use]
    pub fn of(config: &Config) -> PrivacyRecord {
        // Every section is named, so that a new one cannot be forgotten. The sections
        // without a function of their own neither store nor publish anything.
        let Config {
            mode,
            camera,
            models: _,
            detect: _,
            classify: _,
            track: _,
            decide: _,
            indicate,
            times: _,
            sound: _,
            capture,
            refit,
            counts,
            control,
            web,
            mqtt,
            events: _,
            fleet,
        } = config;
        let mode = *mode;
        let mut record = PrivacyRecord {
            leaves_device: frames(&camera.source).into_iter().collect(),
            ..PrivacyRecord::default()
        };
        record.stored.extend(face_pictures(capture, indicate, mode));
        record.stored.extend(passages(counts, mode));
        record.stored.extend(models(refit, mode));
        record.stored.push(decisions(indicate, mode));
        record.stored.extend(waiting_events(config));
        record.seen_by.push(socket(control, mode));
        record.seen_by.extend(page(web, mode));
        record.seen_by.extend(broker(mqtt, indicate, mode));
        record.seen_by.extend(receivers(config));
        record.leaves_device.extend(network(web, mqtt, mode));
        record.leaves_device.extend(events_over_network(config));
        record.leaves_device.extend(shared_models(fleet));
        record.sign = sign(config);
        record
    }

    /// Writes the record as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "Stored on this device\n".to_owned();
        for Stored { what, kept } in &self.stored {
            text += &format!("  - {what}: {kept}\n");
        }
        text += "\nWho can see it\n";
        for SeenBy { through, who, what } in &self.seen_by {
            text += &format!("  - {through}, {who}: {what}\n");
        }
        text += "\nWhat crosses a network\n";
        if self.leaves_device.is_empty() {
            text += "  - nothing\n";
        }
        for sentence in &self.leaves_device {
            text += &format!("  - {sentence}\n");
        }
        text + "\nText for a sign at the door\n\n" + &self.sign
    }
}

/// How the pictures of the camera reach the device, if they cross a network.
fn frames(source: &str) -> Option<String> {
    match source.parse::<Spec>() {
        Ok(Spec::Http(_)) if is_loopback(source.trim()) => Some(
            "a program on this device sends the pictures of the camera; maskd does not know where \
             it gets them"
                .to_owned(),
        ),
        Ok(Spec::Http(_)) if source.trim().starts_with("https:") => Some(
            "the camera sends its pictures to this device over the network, encrypted".to_owned(),
        ),
        Ok(Spec::Http(_)) => Some(
            "the camera sends its pictures to this device over the network, not encrypted"
                .to_owned(),
        ),
        Ok(Spec::Command(_)) => Some(
            "a program from the config reads the camera; maskd does not know what else it does \
             with the pictures"
                .to_owned(),
        ),
        _ => None,
    }
}

fn days(days: u32) -> String {
    if days == 1 {
        "1 day".to_owned()
    } else {
        format!("{days} days")
    }
}

/// Face pictures, or what is kept in their place.
fn face_pictures(capture: &Capture, indicate: &Indicate, mode: Mode) -> Vec<Stored> {
    let Capture {
        enabled,
        keep,
        keep_days,
        max_mib,
        uncertain_below: _,
        confident_share: _,
        max_per_track: _,
        max_per_hour: _,
        near_duplicate_distance: _,
    } = capture;
    if mode == Mode::Count {
        return vec![Stored {
            what: "face pictures".to_owned(),
            kept: format!(
                "none; pictures from before statistics mode was turned on stay for up to {} \
                 unless \"maskd samples purge\" deletes them",
                days(*keep_days)
            ),
        }];
    }
    let what = match keep {
        Keep::Pictures => "pictures of faces, and numbers that describe each face",
        Keep::Features => "numbers that describe each face, but no pictures",
    };
    let discarded = match keep {
        Keep::Pictures => "; a picture that is discarded stays for a day",
        Keep::Features => "",
    };
    let mut when = vec![if *enabled {
        "of people who pass"
    } else {
        "only when somebody asks for it with \"maskd enroll\" or on the page"
    }];
    if indicate.with_mask_button_pin.is_some() || indicate.without_mask_button_pin.is_some() {
        when.push("when a button is pressed");
    }
    vec![Stored {
        what: format!("{what} ({})", when.join(", and ")),
        kept: format!(
            "{}; at most {max_mib} MiB, for which the oldest without a label are deleted{discarded}",
            days(*keep_days)
        ),
    }]
}

/// The models that were trained on this device.
fn models(refit: &Refit, mode: Mode) -> Option<Stored> {
    (mode == Mode::Door).then(|| Stored {
        what: "models that are trained on stored faces; they contain no pictures".to_owned(),
        kept: format!(
            "the last {}, even if the faces are deleted earlier",
            refit.keep_heads
        ),
    })
}

/// The counts of passages.
fn passages(counts: &Counts, mode: Mode) -> Vec<Stored> {
    let Counts { enabled, keep_days } = counts;
    let what = match mode {
        Mode::Count => format!(
            "number of people per hour with a mask, without a mask, and unsure; {}",
            rounding::rule()
        ),
        Mode::Door if *enabled => {
            "number of people per hour with a mask, without a mask, and unsure; the numbers are \
             exact, so a quiet hour can tell about one person"
                .to_owned()
        }
        Mode::Door => return Vec::new(),
    };
    vec![Stored {
        what,
        kept: days(*keep_days),
    }]
}

/// The log and standard output.
fn decisions(indicate: &Indicate, mode: Mode) -> Stored {
    let what = match mode {
        Mode::Count => "log: the state of the device, and nothing about people".to_owned(),
        Mode::Door => {
            let door = if has_door_inputs(indicate) {
                format!("; {DOOR_INPUTS}")
            } else {
                String::new()
            };
            format!(
                "log and standard output: each change of the decision with its time, the number \
                 of faces, and their verdicts{door}; no pictures"
            )
        }
    };
    Stored {
        what,
        kept: "as long as the system keeps its log".to_owned(),
    }
}

/// What the events of these kinds tell. No kinds stand for all of them.
fn event_text(config: &Config, kinds: &[EventKind]) -> String {
    if config.mode == Mode::Count {
        return "the state of the device, and nothing about people".to_owned();
    }
    let has = |listed: &[EventKind]| kinds.is_empty() || kinds.iter().any(|k| listed.contains(k));
    let mut parts = Vec::new();
    if has(&[EventKind::Decision]) {
        parts.push("each change of the decision with its time and the number of faces");
    }
    if has(&[EventKind::Unsure]) {
        parts.push("the times at which the decision is unsure for long");
    }
    let door = [
        EventKind::DoorRelease,
        EventKind::DoorExitButton,
        EventKind::DoorHeldOpen,
        EventKind::DoorHeldOpenEnded,
    ];
    if has(&door) && has_door_inputs(&config.indicate) {
        parts.push(DOOR_INPUTS);
    }
    let device = [
        EventKind::CameraLost,
        EventKind::CameraBack,
        EventKind::Model,
        EventKind::DiskFull,
        EventKind::DiskFree,
    ];
    if has(&device) {
        parts.push("the state of the device");
    }
    parts.push("no pictures");
    parts.join("; ")
}

/// What the inputs of a door tell.
const DOOR_INPUTS: &str = "the times at which somebody presses the exit button, the door is \
                           released, or it is held open";

/// Whether people who leave can be noticed without a camera.
fn has_door_inputs(indicate: &Indicate) -> bool {
    indicate.exit_button_pin.is_some()
        || indicate.release_pin.is_some()
        || indicate.door_contact_pin.is_some()
}

/// Events that wait on disk for webhooks.
fn waiting_events(config: &Config) -> Vec<Stored> {
    let stored = |webhook: &Webhook| Stored {
        what: format!(
            "events for the webhook \"{}\": {}",
            webhook.name,
            event_text(config, &webhook.events)
        ),
        kept: "until the webhook has received them, or newer events take their place".to_owned(),
    };
    config.events.webhook.iter().map(stored).collect()
}

/// The webhooks and programs that receive events.
fn receivers(config: &Config) -> Vec<SeenBy> {
    let seen_by = |through: String, who: &str, kinds: &[EventKind]| SeenBy {
        through,
        who: who.to_owned(),
        what: event_text(config, kinds),
    };
    let webhooks = config.events.webhook.iter().map(|webhook| {
        let through = format!("the webhook \"{}\"", webhook.name);
        let who = "whoever runs the server at its address";
        seen_by(through, who, &webhook.events)
    });
    let programs = config.events.exec.iter().map(|program| {
        let through = format!("the program of the receiver \"{}\"", program.name);
        seen_by(
            through,
            "the program, and whoever it tells",
            &program.events,
        )
    });
    webhooks.chain(programs).collect()
}

/// What webhooks and programs may send over a network.
fn events_over_network(config: &Config) -> Vec<String> {
    let sent = |webhook: &Webhook| {
        let is_encrypted = webhook.url.0.starts_with("https:");
        let how = if is_loopback(&webhook.url.0) {
            "on this device, which may send them on"
        } else if is_encrypted {
            "encrypted"
        } else {
            "not encrypted"
        };
        format!(
            "events are sent to the webhook \"{}\" ({}), {how}",
            webhook.name,
            event_text(config, &webhook.events)
        )
    };
    let webhooks = config.events.webhook.iter().map(sent);
    let programs = config.events.exec.iter().map(|program| {
        format!(
            "the program of the receiver \"{}\" gets events; maskd does not know whether it sends \
             them on",
            program.name
        )
    });
    webhooks.chain(programs).collect()
}

/// Whether an address names this device.
fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url);
    let host = url.as_ref().ok().and_then(Url::host_str);
    // The host of an IPv6 address has brackets.
    host.is_some_and(|host| is_loopback_name(host.trim_matches(['[', ']'])))
}

/// Whether a host name or an IP address names this device.
fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What the API offers.
fn api(mode: Mode) -> &'static str {
    match mode {
        Mode::Count => "the published counts, the settings, and the state of the device",
        Mode::Door => {
            "the decision, the last events with their times, stored face pictures and their \
             labels, the counts if they are turned on, the settings, which can turn capturing \
             on, and the state of the device"
        }
    }
}

fn socket(control: &Control, mode: Mode) -> SeenBy {
    let Control { socket } = control;
    let place = match socket {
        Some(path) => format!("the socket {}", path.display()),
        None => "the socket control.sock".to_owned(),
    };
    SeenBy {
        through: format!("{place} and the command line"),
        who: "the user and the group of the service, and root".to_owned(),
        what: format!("{}; metrics", api(mode)),
    }
}

fn page(web: &Web, mode: Mode) -> Option<SeenBy> {
    let Web {
        listen,
        password_hash,
        token_hashes,
        allowed_hosts: _,
        tls_certificate: _,
        tls_key: _,
        live_fps: _,
    } = web;
    let listen = (*listen)?;
    let mut who = Vec::new();
    if password_hash.is_some() {
        who.push("anyone with the password");
    }
    if !token_hashes.is_empty() {
        who.push("programs with a token");
    }
    let who = match (who.is_empty(), listen.ip().is_loopback()) {
        (false, _) => who.join(" and "),
        (true, true) => {
            "anyone who can use this device, unless a systemd credential sets a password".to_owned()
        }
        (true, false) => "anyone with the password or a token in a systemd credential".to_owned(),
    };
    let live = match mode {
        Mode::Count => "",
        Mode::Door => "the live picture with the faces, ",
    };
    Some(SeenBy {
        through: format!("the page at {listen}"),
        who,
        what: format!("{live}{}; metrics", api(mode)),
    })
}

fn broker(mqtt: &Mqtt, indicate: &Indicate, mode: Mode) -> Option<SeenBy> {
    let Mqtt {
        host,
        commands,
        topic_prefix,
        discovery_prefix: _,
        port: _,
        tls: _,
        ca_file: _,
        user: _,
        password: _,
        password_file: _,
        device: _,
    } = mqtt;
    let host = host.as_deref()?;
    let what = match mode {
        Mode::Count => "the state of the device, and nothing about people",
        Mode::Door => {
            "each change of the decision at once, the number of faces, the number of stored face \
             pictures without a label, and the state of the device; no pictures"
        }
    };
    let door = if mode == Mode::Door && indicate.relay_pin.is_some() {
        "; whether the door is locked, and why it is not"
    } else {
        ""
    };
    let commands = match mode {
        _ if !*commands => "",
        Mode::Count => "; anyone whom it lets write them can start training",
        Mode::Door => {
            "; anyone whom it lets write them can start training, and pause and resume capturing"
        }
    };
    Some(SeenBy {
        through: format!("the MQTT broker {host}, topics under {topic_prefix}/"),
        who: "anyone whom the broker lets read these topics".to_owned(),
        what: format!("{what}{door}{commands}"),
    })
}

/// What the page and MQTT send over a network.
fn network(web: &Web, mqtt: &Mqtt, mode: Mode) -> Vec<String> {
    let encrypted = |is: bool| if is { "encrypted" } else { "not encrypted" };
    let mut sentences = Vec::new();
    if let Some(listen) = web.listen.filter(|listen| !listen.ip().is_loopback()) {
        let what = match mode {
            Mode::Count => "counts",
            Mode::Door => "pictures of people",
        };
        sentences.push(format!(
            "the page at {listen} sends {what} to visitors who have access, {}",
            encrypted(web.tls_certificate.is_some())
        ));
    }
    if let Some(host) = &mqtt.host {
        let what = match mode {
            Mode::Count => "the state of the device is",
            Mode::Door => "decisions and the number of faces are",
        };
        let how = if is_loopback_name(host) {
            "on this device, which may send them on"
        } else {
            encrypted(mqtt.tls)
        };
        sentences.push(format!("{what} sent to the MQTT broker {host}, {how}"));
    }
    sentences
}

fn shared_models(fleet: &Fleet) -> Vec<String> {
    let Fleet { share, trust } = fleet;
    let mut sentences = Vec::new();
    if *share {
        sentences.push(
            "models that were trained on this device are sent to the MQTT broker; they contain \
             no pictures, but were trained on stored faces"
                .to_owned(),
        );
    }
    if !trust.is_empty() {
        sentences.push("models of other devices are received from the MQTT broker".to_owned());
    }
    sentences
}

/// The text for a sign at the door.
fn sign(config: &Config) -> String {
    let mut text = "CAMERA IN USE\n\n".to_owned();
    text += match config.mode {
        Mode::Count => {
            "A computer counts how many people pass with and without a mask, for statistics. It \
             does not recognize anybody. Pictures are evaluated at once on the device and are \
             not stored. Only rounded numbers per hour are kept, "
        }
        Mode::Door => {
            "A computer checks whether faces in front of this door wear a mask. It does not \
             recognize anybody. Pictures are evaluated at once on the device. "
        }
    };
    let Capture {
        enabled,
        keep,
        keep_days,
        ..
    } = &config.capture;
    match (config.mode, enabled) {
        (Mode::Count, _) => text += &format!("for {}.\n", days(config.counts.keep_days)),
        (Mode::Door, true) => {
            let what = match keep {
                Keep::Pictures => "Pictures of some faces",
                Keep::Features => "Measurements of some faces, but no pictures,",
            };
            text += &format!(
                "{what} are stored for up to {} to improve the check.\n",
                days(*keep_days)
            );
        }
        (Mode::Door, false) => {
            text += &format!(
                "They are not stored, unless somebody agrees to help train the device; then they \
                 are kept for up to {}.\n",
                days(*keep_days)
            );
        }
    }
    if config.mode == Mode::Door && config.web.listen.is_some() {
        text += "Authorized people can watch the pictures while they are taken.\n";
    }
    if config.mode == Mode::Door && config.counts.enabled {
        text += &format!(
            "The number of people per hour is kept for {}.\n",
            days(config.counts.keep_days)
        );
    }
    text + "\nResponsible: NAME AND CONTACT\nPurpose and legal basis: FILL IN\n\
            Your rights and more information: ADDRESS OR LINK\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn of(text: &str) -> PrivacyRecord {
        PrivacyRecord::of(&parse("test.toml", text).unwrap())
    }

    fn all(record: &PrivacyRecord) -> String {
        record.text()
    }

    #[test]
    fn the_default_config_stores_and_sends_little() {
        let record = of("");
        assert_eq!(record.stored.len(), 3, "{record:#?}");
        assert!(record.stored[0].what.contains("only when somebody asks"));
        assert_eq!(record.seen_by.len(), 1);
        assert!(record.leaves_device.is_empty());
        assert!(all(&record).contains("What crosses a network\n  - nothing"));
        assert!(record.sign.contains("not stored, unless"));
        assert!(!record.sign.contains("per hour"));
    }

    #[test]
    fn frames_from_a_network_are_named_without_the_login() {
        let record = of("[camera]\nsource = \"http://me:Qx7Z9@cam/\"");
        assert!(record.leaves_device[0].contains("not encrypted"));
        assert!(!all(&record).contains("Qx7Z9"));
        assert!(frames("https://cam/").unwrap().ends_with(", encrypted"));
        assert!(frames("exec:cat a.jpg").unwrap().contains("a program"));
        assert_eq!(frames("rpicam"), None);
    }

    #[test]
    fn face_pictures_follow_capture() {
        let record = of("[capture]\nenabled = true\nkeep-days = 1\nmax-mib = 7");
        assert!(record.stored[0].what.contains("(of people who pass)"));
        assert!(record.stored[0].kept.contains("1 day; at most 7 MiB"));
        assert!(
            record
                .sign
                .contains("Pictures of some faces are stored for up to 1 day")
        );
        let discarded = "a picture that is discarded";
        assert!(record.stored[0].kept.contains(discarded));
        let record = of("[capture]\nenabled = true\nkeep = \"features\"");
        assert!(record.stored[0].what.contains("but no pictures"));
        assert!(!record.stored[0].kept.contains(discarded));
        assert!(
            record
                .sign
                .contains("no pictures, are stored for up to 30 days")
        );
        let record = of("[indicate]\nwith-mask-button-pin = 5");
        assert!(record.stored[0].what.contains("when a button is pressed"));
    }

    #[test]
    fn counts_are_exact_or_rounded() {
        let record = of("[counts]\nenabled = true\nkeep-days = 90");
        assert!(record.stored[1].what.contains("exact"));
        assert_eq!(record.stored[1].kept, "90 days");
        assert!(record.sign.contains("kept for 90 days"));
        let record = of("mode = \"count\"");
        assert!(record.stored[1].what.contains("withheld"));
        assert!(
            record
                .sign
                .contains("rounded numbers per hour are kept, for 365 days")
        );
    }

    #[test]
    fn statistics_mode_shows_nothing_about_people() {
        let record =
            of("mode = \"count\"\n[web]\nlisten = \"127.0.0.1:8080\"\n[mqtt]\nhost = \"broker\"\n");
        let seen = format!("{:?}{:?}", record.seen_by, record.leaves_device);
        for word in ["live picture", "faces", "decision", "label"] {
            assert!(!seen.contains(word), "{word}: {seen}");
        }
        assert!(record.stored[0].kept.starts_with("none"));
        assert!(record.stored[2].what.contains("nothing about people"));
    }

    #[test]
    fn the_page_is_for_those_who_have_access() {
        let page = |text: &str| {
            let record = of(&format!("[web]\n{text}"));
            let page = record
                .seen_by
                .into_iter()
                .find(|seen| seen.through.contains("page"));
            (page, record.leaves_device)
        };
        assert_eq!(page("").0, None);
        let (local, leaves) = page("listen = \"127.0.0.1:8080\"");
        assert!(
            local
                .unwrap()
                .who
                .starts_with("anyone who can use this device")
        );
        assert!(leaves.is_empty());
        let token = "ab".repeat(32);
        let (open, leaves) = page(&format!(
            "listen = \"0.0.0.0:8080\"\ntoken-hashes = [\"{token}\"]"
        ));
        let open = open.unwrap();
        assert_eq!(open.who, "programs with a token");
        assert!(open.what.contains("live picture"));
        assert!(leaves[0].ends_with("not encrypted"));
        let (_, leaves) =
            page("listen = \"0.0.0.0:8080\"\ntls-certificate = \"c.pem\"\ntls-key = \"k.pem\"");
        assert!(leaves[0].ends_with(", encrypted"));
    }

    #[test]
    fn the_broker_and_the_fleet_are_named() {
        let record = of("[mqtt]\nhost = \"broker.lan\"\ncommands = false\n[fleet]\nshare = true");
        let broker = &record.seen_by[1];
        assert!(broker.through.contains("broker.lan"));
        assert!(!broker.what.contains("training"));
        assert_eq!(record.leaves_device.len(), 2);
        assert!(record.leaves_device[0].ends_with("not encrypted"));
        assert!(record.leaves_device[1].contains("models"));
        let key = "ab".repeat(32);
        let record = of(&format!(
            "[mqtt]\nhost = \"b\"\ntls = true\n[fleet]\ntrust = [\"{key}\"]"
        ));
        assert!(record.leaves_device[0].ends_with(", encrypted"));
        assert!(record.leaves_device[1].contains("received"));
    }

    #[test]
    fn receivers_get_only_the_kinds_of_events_that_they_select() {
        let of_kinds = |kinds: &str, indicate: &str| {
            let text = format!(
                "[indicate]\n{indicate}\n[[events.webhook]]\nname = \"w\"\nurl = \
                 \"https://a.lan/\"\nevents = [{kinds}]\n[[events.exec]]\nname = \"e\"\n\
                 command = [\"/bin/true\"]\nevents = [{kinds}]\n"
            );
            let record = of(&text);
            let webhook = record.seen_by[1].what.clone();
            assert_eq!(record.seen_by[2].what, webhook);
            assert!(record.stored[3].what.ends_with(&webhook), "{record:#?}");
            assert!(record.leaves_device[0].contains(&webhook), "{record:#?}");
            assert!(record.leaves_device[1].contains("does not know whether"));
            webhook
        };
        let device = "the state of the device; no pictures";
        assert_eq!(of_kinds("\"camera_lost\"", ""), device);
        let button = "relay-pin = 23\nexit-button-pin = 19";
        assert_eq!(of_kinds("\"disk_full\"", button), device);
        let door = of_kinds("\"door_exit_button\"", button);
        assert_eq!(door, format!("{DOOR_INPUTS}; no pictures"));
        let all = of_kinds("", button);
        for part in ["each change of the decision", DOOR_INPUTS, device] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(!of_kinds("", "").contains(DOOR_INPUTS));
    }

    #[test]
    fn the_inputs_of_the_door_are_in_the_log_and_on_the_broker() {
        let text = "[mqtt]\nhost = \"b\"\n";
        let without = of(text);
        assert!(!all(&without).contains("door is locked"));
        let door = of(&format!(
            "{text}[indicate]\nrelay-pin = 23\nrelease-pin = 13\n"
        ));
        assert!(door.stored[2].what.contains(DOOR_INPUTS), "{door:#?}");
        assert!(door.seen_by[1].what.contains("whether the door is locked"));
    }

    #[test]
    fn what_stays_on_the_device_crosses_no_network() {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let record = of(&format!(
                "[camera]\nsource = \"http://{host}:1/a\"\n[mqtt]\nhost = \"127.0.0.1\"\n\
                 [[events.webhook]]\nname = \"w\"\nurl = \"http://{host}:8/\"\n"
            ));
            for sentence in &record.leaves_device {
                assert!(sentence.contains("on this device"), "{sentence}");
                assert!(!sentence.contains("encrypted"), "{sentence}");
            }
        }
    }

    #[test]
    fn the_sign_tells_that_people_can_be_watched() {
        let watched = "Authorized people can watch";
        assert!(!of("").sign.contains(watched));
        assert!(of("[web]\nlisten = \"127.0.0.1:1\"").sign.contains(watched));
        let count = of("mode = \"count\"\n[web]\nlisten = \"127.0.0.1:1\"");
        assert!(!count.sign.contains(watched));
    }

    #[test]
    fn the_socket_is_the_configured_one() {
        let record = of("[control]\nsocket = \"/run/door.sock\"");
        assert!(record.seen_by[0].through.contains("/run/door.sock"));
    }

    #[test]
    fn receivers_of_events_are_named_without_their_address() {
        let text = "[[events.webhook]]\nname = \"home\"\nurl = \"http://home.lan/hook?Qx7Z9\"\n\
                    [[events.exec]]\nname = \"bell\"\ncommand = [\"/usr/bin/bell\"]\n";
        let door = all(&of(text));
        assert!(door.contains("the webhook \"home\""), "{door}");
        assert!(door.contains("the receiver \"bell\""), "{door}");
        assert!(door.contains("not encrypted"), "{door}");
        assert!(door.contains("each change of the decision"), "{door}");
        assert!(!door.contains("Qx7Z9"), "{door}");
        let count = all(&of(&format!("mode = \"count\"\n{text}")));
        assert!(!count.contains("each change of the decision"), "{count}");
    }
}
