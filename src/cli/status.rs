//! `maskd status`, which shows what the daemon is doing or what a state directory
//! contains.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::backend::daemon;
use super::text::{counts, model_name, shown};
use super::{Failure, Global, outcome, print, print_json};
use crate::api::socket::{self, LiveDoor, LiveRetention, LiveTimes, LiveWindow};
use crate::config::Config;
use crate::events::ReceiverRecord;
use crate::indicate::{DoorPosition, UnlockReason};
use crate::learning::heads::Heads;
use crate::learning::samples::{Listing, Store};
use crate::learning::{
    self, CountRecord, Enrollment, LearningError, ProgressRecord, progress_sentence,
};
use crate::platform::text::{counted, printable};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object that `maskd status --json` prints if no daemon is running.
#[derive(Debug, Serialize)]
struct StateRecord {
    version: &'static str,
    state: PathBuf,
    /// Number of the head that a daemon would use; absent if a daemon would use the
    /// built-in head.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<u32>,
    /// Number of learned heads.
    heads: usize,
    /// Number of samples of each label.
    samples: BTreeMap<String, CountRecord>,
    /// The people that are labeled so far.
    progress: Vec<ProgressRecord>,
}

impl Status {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = global.load_config()?;
        let state = global.state_dir()?;
        if let Some(client) = daemon(global, &config, &state)? {
            let status = client.status()?;
            return if self.json {
                print_json(&status)
            } else {
                print(daemon_text(&status))
            };
        }
        learning::check_state(&state)?;
        let samples = Store::read_only(&state).list();
        let samples = samples.map_err(LearningError::from)?;
        let heads = learning::head_records(&Heads::read_only(&state));
        let heads = heads.map_err(LearningError::from)?;
        let record = StateRecord {
            version: env!("CARGO_PKG_VERSION"),
            head: heads
                .iter()
                .find(|head| head.current)
                .map(|head| head.number),
            heads: heads.len(),
            progress: learning::progress_in(&state, &samples, &labels(&config, &samples)),
            samples: learning::counts(&samples),
            state,
        };
        if self.json {
            print_json(&record)?;
        } else {
            let text = format!(
                "samples     {}\n{}models      {} learned; {} in use\n",
                sample_counts(&record.samples),
                progress_text(&record.progress),
                record.heads,
                model_name(record.head)
            );
            print(&text)?;
        }
        let sentence = format!("no daemon is running for {}", record.state.display());
        Err(Failure::new(Failure::UNAVAILABLE, sentence))
    }
}

/// Returns the labels in the config, and all other labels of the samples. The models are not
/// read for this, because that takes long on a small board.
fn labels(config: &Config, samples: &Listing) -> Vec<String> {
    let indicate = &config.indicate;
    let mut labels = vec![
        indicate.with_mask_label.clone(),
        indicate.without_mask_label.clone(),
    ];
    for label in samples.stats().labels.keys().flatten() {
        let label = label.to_string();
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

fn page_text(page: Option<&str>) -> String {
    page.map_or(String::new(), |page| format!("page        {page}\n"))
}

/// Says how many people are labeled so far, and how many help.
fn progress_text(progress: &[ProgressRecord]) -> String {
    match progress_sentence(progress).as_str() {
        "" => String::new(),
        sentence => format!("labeled     {}\n", printable(sentence)),
    }
}

fn sample_counts(samples: &BTreeMap<String, CountRecord>) -> String {
    counts(samples.iter().map(|(label, count)| (label, count.samples)))
}

fn daemon_text(status: &socket::Status) -> String {
    let socket::Status {
        version,
        state,
        page,
        live,
        samples,
        enrollment,
        new_labels,
        progress,
        last_refit,
        receivers,
        passages_today,
    } = status;
    let waits = live.learning.waits_because.as_ref();
    let waits = waits.map_or(String::new(), |why| format!("; training waits: {why}"));
    let decision = decision_text(live);
    let mut text = format!(
        "maskd {version}, state directory {}\n\
         decision    {decision}\n\
         camera      {}; {} frames processed, {} skipped\n\
         board       {}{waits}\n\
         model       {}, labels {}\n\
         capture     {}; {} stored, {} dropped since the start\n\
         samples     {}; {} since the last training\n",
        shown(state),
        camera_text(live),
        live.inference.frames,
        live.inference.skipped,
        live.board,
        model_name(live.learning.head),
        live.learning.labels.join(", "),
        capture_text(live),
        live.capture.stored,
        live.capture.dropped,
        sample_counts(samples),
        counted(*new_labels, "new label"),
    );
    text += &page_text(page.as_deref());
    text += &progress_text(progress);
    if let Some(passages) = passages_today {
        text += &format!("passages    {passages} today\n");
    }
    text += &live.door.as_ref().map_or(String::new(), door_text);
    text += &live.times.as_ref().map_or(String::new(), times_text);
    text += &live
        .retention
        .as_ref()
        .map_or(String::new(), retention_text);
    if let Some(why) = &live.learning.off_because {
        text += &format!("learning    off: the state directory cannot be used: {why}\n");
    }
    if let Some(note) = &live.learning.note {
        text += &format!("note        {note}\n");
    }
    for receiver in receivers {
        text += &receiver_text(receiver);
    }
    for problem in live.problems.values() {
        text += &format!("problem     {problem}\n");
    }
    if let Some(Enrollment {
        id: _,
        label,
        wanted,
        taken,
        stored,
    }) = enrollment
    {
        let end = if taken < wanted { "" } else { ", ended" };
        text += &format!("enrollment  {label}: {stored} of {wanted}{end}\n");
    }
    if live.learning.refitting {
        text += "training    in progress\n";
    } else if let Some(record) = last_refit {
        let first = outcome::refit(record, false);
        let first = first.lines().next().unwrap_or_default();
        text += &format!("training    {first}\n");
    }
    text
}

/// Describes the effects of the limits on age and disk space. The text is empty if the
/// limits have no effect.
fn retention_text(retention: &LiveRetention) -> String {
    let mut text = String::new();
    if let Some(hours) = retention.first_ends_in_hours {
        text += &format!(
            "deletion    {} will soon reach capture.keep-days; the first is \
             deleted in {hours} h; \"maskd samples export\" copies them\n",
            counted(retention.labeled_ending, "labeled face picture")
        );
    }
    if retention.not_counted > 0 {
        text += &format!(
            "large files {} over 1 MiB do not count toward capture.max-mib\n",
            retention.not_counted
        );
    }
    if !retention.clock_synchronized {
        text += "clock       not synchronized with a time server, or it jumped within the \
                 last day; the age of face pictures counts only the time that the daemon runs\n";
    }
    text
}

/// Describes the door on one line, for example `unlocked by the exit button, open`.
fn door_text(door: &LiveDoor) -> String {
    let lock = match door.unlocked_by {
        None => "locked",
        Some(UnlockReason::Mask) => "unlocked by a mask",
        Some(UnlockReason::ExitButton) => "unlocked by the exit button",
        Some(UnlockReason::Release) => "unlocked by the release line",
        Some(UnlockReason::Fault) => "unlocked by a fault",
        Some(UnlockReason::Schedule) => "unlocked outside of times.lock",
    };
    let position = match door.position {
        None => "",
        Some(DoorPosition::Closed) => ", closed",
        Some(DoorPosition::Open) if door.held_open => ", held open: close it",
        Some(DoorPosition::Open) => ", open",
        Some(DoorPosition::Unknown) => ", its contact cannot be read",
    };
    let held_open = match door.held_open_warnings {
        0 => String::new(),
        1 => "; held open once since the start".to_owned(),
        times => format!("; held open {times} times since the start"),
    };
    format!("door        {lock}{position}{held_open}\n")
}

/// Describes what the windows of time allow on one line, for example
/// `lock off until 2026-11-30 08:00`. Leaves out what is always on.
fn times_text(times: &LiveTimes) -> String {
    let mut parts = Vec::new();
    for (name, LiveWindow { on, next_change }) in [
        ("LEDs", &times.indicate),
        ("lock", &times.lock),
        ("capturing", &times.capture),
        ("sound", &times.sound),
    ] {
        let state = if *on { "on" } else { "off" };
        // The date and the time without seconds and offset.
        let time = next_change.as_deref().and_then(|next| next.get(..16));
        match time {
            Some(time) => parts.push(format!("{name} {state} until {}", time.replace('T', " "))),
            None if !on => parts.push(format!("{name} {state}")),
            None => {}
        }
    }
    if !times.time_zone_known {
        parts.push(
            "the windows do not apply, because the time zone of the device is not known".to_owned(),
        );
    } else if !times.clock_synchronized {
        parts.push("the windows do not apply, because the clock is not synchronized".to_owned());
    }
    if parts.is_empty() {
        return String::new();
    }
    format!("times       {}\n", parts.join("; "))
}

/// Describes a receiver of events on one line, for example `home: 3 delivered, 1 waits`.
fn receiver_text(receiver: &ReceiverRecord) -> String {
    let ReceiverRecord {
        name,
        kind: _,
        delivered,
        failed,
        dropped,
        waiting,
        failures_in_a_row: _,
        last_delivered,
        last_failed,
        last_failure,
        not_saved,
    } = receiver;
    let mut text = format!("events      {name}: {delivered} delivered");
    if let Some(time) = last_delivered {
        text += &format!(" (last {time})");
    }
    text += &format!(", {waiting} waiting, {dropped} lost");
    if let (Some(time), Some(why)) = (last_failed, last_failure) {
        let why = printable(why);
        text += &format!("; {}, last {time}: {why}", counted(*failed, "failure"));
    }
    if let Some(why) = not_saved {
        text += &format!("; a restart would lose them: {}", printable(why));
    }
    text + "\n"
}

fn decision_text(live: &socket::Live) -> String {
    if live.statistics_mode {
        "none: statistics mode only counts people".to_owned()
    } else if live.camera.lost {
        // The faces are those of a frame that is no longer current.
        live.decision.clone()
    } else {
        format!("{}, faces: {}", live.decision, live.inference.faces)
    }
}

fn camera_text(live: &socket::Live) -> String {
    let camera = match (live.camera.lost, &live.camera.lost_because) {
        (false, _) => "connected".to_owned(),
        (true, None) => "lost; reconnecting".to_owned(),
        (true, Some(why)) => format!("lost: {}; reconnecting", printable(why)),
    };
    match live.camera.losses {
        0 => camera,
        1 => format!("{camera}; lost once since the start"),
        times => format!("{camera}; lost {times} times since the start"),
    }
}

fn capture_text(live: &socket::Live) -> String {
    match (&live.capture.off_because, live.capture.on) {
        (Some(why), _) => format!("off: {why}"),
        (None, false) => "off".to_owned(),
        (None, true) if live.capture.pictures => "on, pictures and features".to_owned(),
        (None, true) => "on, only features".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ReceiverKind;

    #[test]
    fn a_lost_camera_is_explained() {
        let mut live = socket::Live::default();
        assert_eq!(camera_text(&live), "connected");
        live.camera.lost = true;
        live.camera.lost_because = Some("the camera\nis unplugged".to_owned());
        live.camera.losses = 2;
        let text = camera_text(&live);
        assert!(text.starts_with("lost: the camera") && !text.contains('\n'));
        assert!(text.ends_with("is unplugged; reconnecting; lost 2 times since the start"));
        live.camera.lost = false;
        assert_eq!(
            camera_text(&live),
            "connected; lost 2 times since the start"
        );
    }

    #[test]
    fn a_receiver_is_described_on_one_line() {
        let new = ReceiverRecord::new("home", ReceiverKind::Webhook);
        assert_eq!(
            receiver_text(&new),
            "events      home: 0 delivered, 0 waiting, 0 lost\n"
        );
        let failing = ReceiverRecord {
            delivered: 7,
            failed: 1,
            waiting: 2,
            last_delivered: Some("T1".to_owned()),
            last_failed: Some("T2".to_owned()),
            last_failure: Some("the receiver answers 500".to_owned()),
            not_saved: Some("the disk is full".to_owned()),
            ..new
        };
        assert_eq!(
            receiver_text(&failing),
            "events      home: 7 delivered (last T1), 2 waiting, 0 lost; 1 failure, last T2: the \
             receiver answers 500; a restart would lose them: the disk is full\n"
        );
    }

    #[test]
    fn the_times_are_described_on_one_line() {
        let window = |on, next: Option<&str>| LiveWindow {
            on,
            next_change: next.map(str::to_owned),
        };
        let mut times = LiveTimes {
            clock_synchronized: true,
            time_zone_known: true,
            indicate: window(true, None),
            lock: window(false, Some("2026-11-30T08:00:00+01:00")),
            capture: window(false, None),
            sound: window(true, None),
        };
        assert_eq!(
            times_text(&times),
            "times       lock off until 2026-11-30 08:00; capturing off\n"
        );
        (times.lock, times.capture) = (window(true, None), window(true, None));
        assert_eq!(times_text(&times), "");
        times.clock_synchronized = false;
        assert!(times_text(&times).contains("the clock is not synchronized"));
        times.time_zone_known = false;
        assert!(times_text(&times).contains("the time zone of the device is not known"));
    }

    #[test]
    fn the_door_is_described_on_one_line() {
        let closed = LiveDoor {
            unlocked: false,
            unlocked_by: None,
            position: Some(DoorPosition::Closed),
            released: false,
            held_open: false,
            held_open_warnings: 0,
        };
        assert_eq!(door_text(&closed), "door        locked, closed\n");
        let released = LiveDoor {
            unlocked: true,
            unlocked_by: Some(UnlockReason::Release),
            position: None,
            released: true,
            ..closed
        };
        assert_eq!(
            door_text(&released),
            "door        unlocked by the release line\n"
        );
        let held_open = LiveDoor {
            position: Some(DoorPosition::Open),
            held_open: true,
            held_open_warnings: 2,
            ..closed
        };
        assert_eq!(
            door_text(&held_open),
            "door        locked, held open: close it; held open 2 times since the start\n"
        );
    }
}
