//! The indicator thread. It makes decisions from frame results and elapsed time, sets the
//! outputs according to the decisions, and starts enrollments when buttons are pressed.
//!
//! The thread owns the decider and the pins, and passes the output for the console to the
//! console thread. If the pins fail while the daemon runs, the thread logs the failure
//! once and keeps trying, because a daemon without LEDs still serves its API.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::console_worker::ConsoleFeed;
use super::door_control::DoorControl;
use super::events::EventFeed;
use super::led_tester::{LedTestRules, LedTester};
use super::threads::{STOP_DEADLINE, timer_runtime};
use super::times::Allowed;
use super::{DaemonError, Latest, now, wall_clock};
use crate::api::metrics::{Heartbeat, Metrics};
use crate::api::socket::{DaemonHandle, LedTestRequest, Live};
use crate::config::settings::Tuning;
use crate::config::{self, Config};
use crate::decision::confirm::Standing;
use crate::decision::decide::{Decider, Decision, Loss, Progress};
use crate::decision::frame_result::{FaceRecord, FrameResult};
use crate::events::{FaceCounts, Occurrence};
use crate::frame::Frame;
use crate::indicate::pins::{Input, PinError, Pins};
use crate::indicate::{
    Button, ButtonFeedback, Debouncer, DecisionChange, DoorDecision, DoorReadings, Levels, levels,
    warn_held_open,
};

/// The interval at which blink patterns are updated and the age of frames is checked.
const TICK: Duration = Duration::from_millis(50);

/// The interval that replaces [`TICK`] if there are buttons or inputs of a door. For a press
/// to count, the contact of the button must be steady for 30 ms. With this interval, the
/// contact is sampled three times within the 30 ms. The shortest press that a person makes
/// lasts 60 ms.
const INPUT_TICK: Duration = Duration::from_millis(15);

/// Time limit of an enrollment that a button press started. After this time, the person
/// is assumed to have left, and the next face must not get the label.
const BUTTON_ENROLLMENT: Duration = Duration::from_secs(5);

/// The state of the indicator thread.
pub(super) struct IndicatorWorker {
    console: ConsoleFeed,
    decider: Decider,
    /// Sends the part of the decider's state that the inference thread needs to confirm a
    /// mask.
    standing: watch::Sender<Standing>,
    upstream: Upstream,
    door: Option<DoorControl>,
    /// What the time of day allows.
    allowed: watch::Receiver<Allowed>,
    /// Sends the decision to the sound thread, if any decision has a sound.
    sounds: Option<watch::Sender<Decision>>,
    outputs: Option<Outputs>,
    led_tester: LedTester,
    /// Whether the LED test has something to switch.
    has_leds: bool,
    has_buzzer: bool,
    buttons: Buttons,
    tick: Duration,
    tuning: watch::Receiver<Tuning>,
    /// Options of the decider. The settings in `tuning` override some of these options.
    decide: config::Decide,
    shown: Shown,
    events: EventFeed,
}

/// The other ends of the indicator thread's channels.
pub(super) struct IndicatorLinks {
    pub(super) tuning: watch::Receiver<Tuning>,
    pub(super) allowed: watch::Receiver<Allowed>,
    pub(super) upstream: Upstream,
    pub(super) standing: watch::Sender<Standing>,
    pub(super) sounds: Option<watch::Sender<Decision>>,
    pub(super) led_tests: mpsc::Receiver<LedTestRequest>,
}

/// The decision that is currently shown.
struct Shown {
    decision: Decision,
    since: Instant,
    /// Number of changes in the decision since the daemon started.
    changes: u64,
}

impl IndicatorWorker {
    pub(super) fn new(
        config: &Config,
        console: ConsoleFeed,
        pins: Option<Box<dyn Pins>>,
        handle: Option<DaemonHandle>,
        links: IndicatorLinks,
    ) -> IndicatorWorker {
        let IndicatorLinks {
            tuning,
            allowed,
            upstream,
            standing,
            sounds,
            led_tests,
        } = links;
        let indicate = &config.indicate;
        let door = DoorControl::new(indicate, pins.is_some());
        let has_inputs = pins.is_some() && indicate.has_buttons()
            || door.as_ref().is_some_and(DoorControl::has_inputs);
        IndicatorWorker {
            tick: if has_inputs { INPUT_TICK } else { TICK },
            tuning,
            decide: config.decide.clone(),
            shown: Shown {
                decision: Decision::Idle,
                since: now(),
                changes: 0,
            },
            console,
            decider: Decider::new(config.decide.options(), now()),
            standing,
            upstream,
            door,
            allowed,
            sounds,
            has_leds: pins.is_some() && indicate.has_leds(),
            has_buzzer: pins.is_some() && indicate.buzzer_pin.is_some(),
            outputs: pins.map(Outputs::new),
            led_tester: LedTester::new(led_tests),
            buttons: Buttons {
                options: indicate.clone(),
                contacts: Button::ALL.map(|button| (button, Debouncer::default())),
                handle,
                notice: None,
            },
            events: EventFeed::default(),
        }
    }

    /// Makes the thread report changes in the decision, and the events of the door.
    pub(super) fn with_events(mut self, events: &EventFeed) -> IndicatorWorker {
        self.events = events.clone();
        if let Some(door) = &mut self.door {
            door.set_events(events.clone());
        }
        self
    }

    /// Runs until the inference thread closes `results`. After the token `stop` is
    /// triggered, this function returns within half of [`STOP_DEADLINE`], even if
    /// `results` is still open.
    pub(super) fn run(
        mut self,
        mut results: watch::Receiver<Latest<FrameResult>>,
        heartbeat: &watch::Sender<Heartbeat>,
        live: &watch::Sender<Live>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<(), DaemonError> {
        let runtime = timer_runtime()?;
        live.send_modify(|live| Decision::Idle.name().clone_into(&mut live.decision));
        let mut stop_seen: Option<Instant> = None;
        loop {
            let tick = self.tick;
            let changed =
                runtime.block_on(async { tokio::time::timeout(tick, results.changed()).await });
            self.take_tuning();
            let (decision, result) = match changed {
                Ok(Err(_closed)) => break,
                Ok(Ok(())) => {
                    let latest = results.borrow_and_update().clone();
                    self.decide(latest)
                }
                Err(_timeout) => (self.tick(), None),
            };
            self.share_standing();
            // A lost camera alone must not cause a restart of the service. A hang of the
            // inference thread must cause a restart, even if the camera was lost before
            // the hang.
            let camera_lost = self.upstream.is_camera_lost();
            heartbeat.send_replace(Heartbeat {
                at: now(),
                fresh: decision != Decision::Fault || camera_lost,
            });
            if decision != self.shown.decision {
                self.change(decision, result.as_deref(), live, metrics);
            }
            self.set_outputs(live);
            let has_face =
                decision != Decision::Fault && !camera_lost && live.borrow().inference.faces > 0;
            self.read_buttons(has_face);
            // The outputs must be turned off even if the inference thread hangs.
            if stop.is_cancelled() {
                let since = *stop_seen.get_or_insert_with(now);
                if now().saturating_duration_since(since) > STOP_DEADLINE / 2 {
                    break;
                }
            }
        }
        info!(decisions = self.shown.changes, "no more decisions");
        let door = self.door.is_some().then_some(false);
        self.console.set_levels(Levels {
            relay: door,
            ..Levels::default()
        });
        Ok(())
    }

    /// Returns the decision that results from a new value from the inference thread. If
    /// the value contains a frame result, also returns the frame result.
    fn decide(&mut self, latest: Latest<FrameResult>) -> (Decision, Option<Arc<FrameResult>>) {
        match latest {
            Latest::Waiting => (self.tick(), None),
            Latest::Lost(loss) => (self.decider.lose_camera(now(), loss), None),
            Latest::Newest(result) => {
                self.console.set_faces(&result);
                let (now, stale) = (now(), self.decide.options().stale);
                let progress = self.upstream.progress(now, stale);
                let decision = self.decider.observe(now, result.observation(), progress);
                (decision, Some(result))
            }
        }
    }

    /// Returns the decision when there is no new value from the inference thread.
    fn tick(&mut self) -> Decision {
        let now = now();
        if let Some(loss) = self.upstream.camera_loss() {
            return self.decider.lose_camera(now, loss);
        }
        let progress = self.upstream.progress(now, self.decide.options().stale);
        self.decider.tick(now, progress)
    }

    fn share_standing(&self) {
        let standing = self.decider.standing();
        self.standing.send_if_modified(|shared| {
            let has_changed = *shared != standing;
            *shared = standing;
            has_changed
        });
    }

    /// Shows a new decision on the console, in the logs, in the metrics, and in the live
    /// status.
    fn change(
        &mut self,
        decision: Decision,
        result: Option<&FrameResult>,
        live: &watch::Sender<Live>,
        metrics: &Metrics,
    ) {
        let changes = self.shown.changes + 1;
        let change = describe(changes, decision, result);
        log_change(&change, self.shown.decision);
        self.events.send(Occurrence::Decision {
            decision,
            before: self.shown.decision,
            faces: result
                .filter(|_| decision != Decision::Fault)
                .map(|result| FaceCounts::of(result.faces.iter().map(|face| face.verdict))),
        });
        metrics.decision(decision);
        live.send_modify(|live| decision.name().clone_into(&mut live.decision));
        self.console.change(change);
        if let Some(sounds) = &self.sounds {
            sounds.send_replace(decision);
        }
        self.shown = Shown {
            decision,
            since: now(),
            changes,
        };
    }

    /// Applies settings that have changed.
    fn take_tuning(&mut self) {
        if self.tuning.has_changed().unwrap_or(false) {
            let tuning = *self.tuning.borrow_and_update();
            self.decide.confirm_ms = tuning.confirm_ms;
            self.decide.confirm_frames = tuning.confirm_frames;
            self.decide.hold_ms = tuning.hold_ms;
            self.decider.set_options(self.decide.options());
        }
    }

    /// Sets the outputs for the decision that is shown and for the inputs of the door.
    fn set_outputs(&mut self, live: &watch::Sender<Live>) {
        let at = now();
        let Shown {
            decision, since, ..
        } = self.shown;
        let allowed = self.allowed.borrow().at(at);
        let mut levels = levels(decision, at.saturating_duration_since(since));
        if !allowed.indicate {
            (levels.green, levels.red) = (false, false);
        }
        let mut is_unlocked = false;
        if let Some(door) = &mut self.door {
            let readings = match &mut self.outputs {
                Some(outputs) => door.read(|input| outputs.is_closed(input)),
                None => DoorReadings::default(),
            };
            let decision = DoorDecision {
                decision,
                mask_hold: self.decider.mask_hold(),
                locks: allowed.lock,
            };
            let state = door.step(at, decision, readings, live);
            levels.relay = Some(state.is_energized);
            is_unlocked = state.unlocked.is_some();
            if let Some(since) = state.held_open_since {
                levels = warn_held_open(levels, at.saturating_duration_since(since));
            }
        }
        levels.buzzer &= allowed.sound;
        if let Some(leds) = self.buttons.leds(at) {
            (levels.green, levels.red) = leds;
        }
        let rules = LedTestRules {
            has_leds: self.has_leds,
            is_silenced: self.has_buzzer && !allowed.sound,
            is_unlocked,
        };
        levels = self.led_tester.step(at, rules, levels);
        self.console.set_levels(levels);
        if let Some(outputs) = &mut self.outputs {
            outputs.set(levels);
        }
    }

    /// Samples the buttons. `has_face` tells whether the newest frame shows a face.
    fn read_buttons(&mut self, has_face: bool) {
        let Some(outputs) = &mut self.outputs else {
            return;
        };
        let at = now();
        for button in Button::ALL {
            let is_closed = outputs.is_closed(Input::Button(button)).unwrap_or(false);
            self.buttons.sample(at, button, is_closed, has_face);
        }
    }
}

/// The state of the camera thread and the inference thread, which produce the results.
pub(super) struct Upstream {
    /// The latest frame that the camera thread has sent to the inference thread.
    pub(super) frames: watch::Receiver<Latest<Frame>>,
    /// When the inference thread last finished a part of its work.
    pub(super) worked: watch::Receiver<Instant>,
}

impl Upstream {
    fn is_camera_lost(&self) -> bool {
        self.camera_loss().is_some()
    }

    /// Returns how the camera was lost, or `None` if it is not lost.
    fn camera_loss(&self) -> Option<Loss> {
        match *self.frames.borrow() {
            Latest::Lost(loss) => Some(loss),
            Latest::Waiting | Latest::Newest(_) => None,
        }
    }

    /// Returns whether new results can be expected. They can if the newest frame is at
    /// most `stale` old and the inference thread finished a part of its work at most
    /// `stale` ago.
    fn progress(&self, now: Instant, stale: Duration) -> Progress {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) <= stale;
        let has_frames =
            matches!(&*self.frames.borrow(), Latest::Newest(frame) if is_fresh(frame.at));
        if has_frames && is_fresh(*self.worked.borrow()) {
            Progress::Working
        } else {
            Progress::Stuck
        }
    }
}

/// The pins, and whether they work.
struct Outputs {
    pins: Box<dyn Pins>,
    /// The levels that were set most recently, or `None` if setting them failed.
    current: Option<Levels>,
    /// Whether the outputs could not be set the last time.
    is_failing: bool,
    /// The inputs that could not be read the last time.
    unreadable: Vec<Input>,
}

impl Outputs {
    fn new(pins: Box<dyn Pins>) -> Outputs {
        Outputs {
            pins,
            current: None,
            is_failing: false,
            unreadable: Vec::new(),
        }
    }

    fn set(&mut self, levels: Levels) {
        if self.current == Some(levels) {
            return;
        }
        let set = self.pins.set(levels);
        self.current = set.is_ok().then_some(levels);
        self.log(set.err());
    }

    /// Returns whether the contact of an input is closed, or `None` if the input cannot be read.
    /// Logs when the input starts to fail and when it works again.
    fn is_closed(&mut self, input: Input) -> Option<bool> {
        let known = self.unreadable.iter().position(|other| *other == input);
        match (self.pins.closed(input), known) {
            (Ok(is_closed), known) => {
                if let Some(index) = known {
                    self.unreadable.swap_remove(index);
                    info!(%input, "the input can be read again");
                }
                Some(is_closed)
            }
            (Err(error), known) => {
                if known.is_none() {
                    self.unreadable.push(input);
                    warn!(%error, "an input fails; the daemon keeps trying");
                }
                None
            }
        }
    }

    /// Logs when the outputs start to fail and when they work again.
    fn log(&mut self, error: Option<PinError>) {
        match error {
            Some(error) if !self.is_failing => {
                warn!(%error, "the pins fail; the daemon keeps trying");
                self.is_failing = true;
            }
            None if self.is_failing => {
                info!("the pins work again");
                self.is_failing = false;
            }
            _ => {}
        }
    }
}

/// The push buttons, and the feedback to the last press.
struct Buttons {
    options: config::Indicate,
    contacts: [(Button, Debouncer); 2],
    handle: Option<DaemonHandle>,
    notice: Option<(Instant, ButtonFeedback)>,
}

impl Buttons {
    /// Processes a sample of a button's contact. A press starts an enrollment.
    fn sample(&mut self, at: Instant, button: Button, is_closed: bool, has_face: bool) {
        let contact = self.contacts.iter_mut().find(|(name, _)| *name == button);
        let Some((_, contact)) = contact else { return };
        if !contact.pressed(at, is_closed) {
            return;
        }
        let label = self.options.label(button);
        let notice = match self.enroll(label, has_face) {
            Ok(()) => {
                info!(
                    label,
                    "a button press labels the person in front of the camera"
                );
                ButtonFeedback::Accepted
            }
            Err(reason) => {
                info!(label, reason, "a button press is ignored");
                ButtonFeedback::Refused
            }
        };
        self.notice = Some((at, notice));
    }

    fn enroll(&self, label: &str, has_face: bool) -> Result<(), String> {
        let Some(handle) = &self.handle else {
            return Err("nothing is learned: there is no state directory".to_owned());
        };
        if !has_face {
            return Err("there is no face in front of the camera".to_owned());
        }
        let crops = self.options.button_crops;
        let enrolled = handle.enroll(label, crops, BUTTON_ENROLLMENT, None);
        enrolled.map(|_| ()).map_err(|refused| refused.error)
    }

    /// Returns the levels of the green and the red LED while the LEDs show the feedback
    /// to a press.
    fn leds(&self, at: Instant) -> Option<(bool, bool)> {
        let (start, notice) = self.notice?;
        notice.leds(at.saturating_duration_since(start))
    }
}

fn describe(number: u64, decision: Decision, result: Option<&FrameResult>) -> DecisionChange {
    let result = result.filter(|_| decision != Decision::Fault);
    let faces = result.iter().flat_map(|result| {
        let record = |face| FaceRecord::new(face, &result.labels);
        result.faces.iter().map(record)
    });
    DecisionChange {
        change: number,
        time: unix_time(),
        decision,
        frame: result.map(|result| result.seq),
        faces: faces.collect(),
    }
}

fn log_change(change: &DecisionChange, before: Decision) {
    let (decision, before) = (change.decision.name(), before.name());
    if change.decision == Decision::Fault {
        warn!(
            decision,
            before, "decision changed: there are no fresh frames"
        );
    } else {
        info!(
            decision,
            before,
            faces = change.faces.len(),
            "decision changed"
        );
    }
}

fn unix_time() -> f64 {
    let since_1970 = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    // The time is rounded down to milliseconds.
    since_1970.map_or(0.0, |time| time.as_millis() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard};
    use std::thread;

    use image::RgbImage;
    use tokio::sync::oneshot;

    use super::*;
    use crate::api::socket::LiveDoor;
    use crate::config::settings::Settings;
    use crate::daemon::console_worker;
    use crate::frame::ConnectionId;
    use crate::indicate::pins::{Line, PinFunction};
    use crate::indicate::{
        Circuit, Console, ConsoleStyle, DoorInput, DoorPosition, LockType, UnlockReason,
    };

    /// The wires at the pins of a door, as the test and the worker see them.
    #[derive(Default)]
    struct Wires {
        circuits: DoorReadings,
        /// The number of further readings of the door contact that bounce.
        bounces: u32,
        /// Whether the next access panics.
        panics: bool,
        levels: Levels,
        /// Whether the relay has been energized at any time.
        was_energized: bool,
        /// The number of readings of the input under test that differed from its normal state
        /// before the relay changed.
        active_readings: u32,
        /// The input under test, and its normal state.
        counted: Option<(DoorInput, Circuit)>,
    }

    /// Pins that are wired to [`Wires`].
    struct FakePins(Arc<Mutex<Wires>>);

    impl FakePins {
        fn wires(&self) -> MutexGuard<'_, Wires> {
            self.0.lock().unwrap()
        }
    }

    impl Pins for FakePins {
        fn set(&mut self, levels: Levels) -> Result<(), PinError> {
            let mut wires = self.wires();
            if wires.levels.relay != levels.relay {
                wires.counted = None;
            }
            wires.levels = levels;
            wires.was_energized |= levels.relay == Some(true);
            Ok(())
        }

        fn closed(&mut self, input: Input) -> Result<bool, PinError> {
            let panics = self.wires().panics;
            assert!(!panics, "a bug");
            let mut wires = self.wires();
            let Input::Door(door) = input else {
                return Ok(false);
            };
            let circuit = match door {
                DoorInput::Contact => wires.circuits.contact,
                DoorInput::ExitButton => wires.circuits.exit_button,
                DoorInput::Release => wires.circuits.release,
            };
            if wires
                .counted
                .is_some_and(|(counted, normal)| counted == door && normal != circuit)
            {
                wires.active_readings += 1;
            }
            let bounces = door == DoorInput::Contact && wires.bounces > 0;
            if bounces {
                wires.bounces -= 1;
            }
            match circuit {
                Circuit::Unknown => Err(PinError::Line {
                    action: "read",
                    line: Line::Number(13),
                    function: PinFunction::In(input),
                    why: "the chip is gone".to_owned(),
                }),
                circuit => Ok((circuit == Circuit::Closed) != (bounces && wires.bounces % 2 == 1)),
            }
        }
    }

    impl Drop for FakePins {
        fn drop(&mut self) {
            let _ = self.set(Levels::default());
        }
    }

    /// A door with all inputs, in its normal state.
    fn door_config(lock: LockType) -> Config {
        let mut config = Config::default();
        let indicate = &mut config.indicate;
        indicate.relay = lock;
        indicate.relay_hold_ms = 200;
        indicate.relay_pin = Some(Line::Number(23));
        indicate.door_contact_pin = Some(Line::Number(12));
        indicate.exit_button_pin = Some(Line::Number(16));
        indicate.release_pin = Some(Line::Number(13));
        indicate.held_open_ms = Some(300);
        config
    }

    const NORMAL: DoorReadings = DoorReadings {
        contact: Circuit::Closed,
        exit_button: Circuit::Open,
        release: Circuit::Closed,
    };

    /// An indicator worker whose pins are wired to [`Wires`], and the other ends of its channels.
    struct Rig {
        worker: Option<IndicatorWorker>,
        wires: Arc<Mutex<Wires>>,
        live: Arc<watch::Sender<Live>>,
        results: watch::Sender<Latest<FrameResult>>,
        results_in: watch::Receiver<Latest<FrameResult>>,
        frames: watch::Sender<Latest<Frame>>,
        allowed: watch::Sender<Allowed>,
        led_tests: mpsc::Sender<LedTestRequest>,
        stop: CancellationToken,
    }

    impl Rig {
        fn new(lock: LockType, circuits: DoorReadings) -> Rig {
            Rig::with_config(&door_config(lock), circuits)
        }

        fn with_config(config: &Config, circuits: DoorReadings) -> Rig {
            let wires = Arc::new(Mutex::new(Wires {
                circuits,
                ..Wires::default()
            }));
            let (console, _worker) = console_worker::connect(Console::new(ConsoleStyle::Json));
            let (frames, frames_in) = watch::channel(Latest::Waiting);
            let (results, results_in) = watch::channel(Latest::Waiting);
            let allowed = watch::Sender::new(Allowed::ALL);
            let (led_tests, led_tests_in) = mpsc::channel(1);
            let worker = IndicatorWorker::new(
                config,
                console,
                Some(Box::new(FakePins(Arc::clone(&wires)))),
                None,
                IndicatorLinks {
                    tuning: Settings::new(config, None).subscribe(),
                    allowed: allowed.subscribe(),
                    upstream: Upstream {
                        frames: frames_in,
                        worked: watch::channel(now()).1,
                    },
                    standing: watch::channel(Standing::default()).0,
                    sounds: None,
                    led_tests: led_tests_in,
                },
            );
            Rig {
                worker: Some(worker),
                wires,
                live: Arc::new(watch::Sender::new(Live::default())),
                results,
                results_in,
                frames,
                allowed,
                led_tests,
                stop: CancellationToken::new(),
            }
        }

        #[expect(clippy::disallowed_methods, reason = "the worker needs a thread")]
        fn start(&mut self) -> thread::JoinHandle<()> {
            let worker = self.worker.take().unwrap();
            let (results, live) = (self.results_in.clone(), Arc::clone(&self.live));
            let stop = self.stop.clone();
            thread::spawn(move || {
                let heartbeat = watch::Sender::new(Heartbeat {
                    at: now(),
                    fresh: true,
                });
                let metrics = Metrics::new();
                worker
                    .run(results, &heartbeat, &live, &metrics, &stop)
                    .unwrap();
            })
        }

        fn wires(&self) -> MutexGuard<'_, Wires> {
            // A worker that panicked poisons the lock.
            self.wires
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        fn door(&self) -> Option<LiveDoor> {
            self.live.borrow().door.clone()
        }

        fn wait_for(&self, what: &str, holds: impl Fn(&LiveDoor) -> bool) -> LiveDoor {
            let end = now() + Duration::from_secs(20);
            loop {
                match self.door() {
                    Some(door) if holds(&door) => return door,
                    door => assert!(now() < end, "not {what}: {door:?}"),
                }
                thread::sleep(Duration::from_millis(2));
            }
        }

        fn wait_for_reason(&self, reason: Option<UnlockReason>) -> LiveDoor {
            self.wait_for(&format!("{reason:?}"), |door| door.unlocked_by == reason)
        }

        fn relay(&self) -> Option<bool> {
            self.wires().levels.relay
        }
    }

    #[test]
    fn a_release_wins_over_a_fault_at_the_first_reading() {
        for lock in [LockType::FailSecure, LockType::FailSafe] {
            let mut rig = Rig::new(lock, NORMAL);
            let worker = rig.start();
            rig.wait_for_reason(None);
            let unplugged = Latest::Lost(Loss::Unplugged);
            rig.frames.send_replace(Latest::Lost(Loss::Unplugged));
            rig.results.send_replace(unplugged);
            let fault = (lock == LockType::FailSafe).then_some(UnlockReason::Fault);
            rig.wait_for("a fault", |_| rig.live.borrow().decision == "fault");
            rig.wait_for_reason(fault);
            {
                // A cut wire.
                let mut wires = rig.wires();
                wires.counted = Some((DoorInput::Release, Circuit::Closed));
                wires.circuits.release = Circuit::Open;
            }
            let door = rig.wait_for_reason(Some(UnlockReason::Release));
            assert!(door.unlocked && door.released);
            if lock == LockType::FailSecure {
                rig.wait_for("energized", |_| rig.relay() == Some(true));
                assert_eq!(rig.wires().active_readings, 1, "at the first reading");
            } else {
                assert_eq!(rig.relay(), Some(false));
            }
            // A wire that makes contact now and then.
            rig.wires().circuits.release = Circuit::Closed;
            rig.wait_for("not released", |door| !door.released);
            rig.wires().circuits.release = Circuit::Unknown;
            rig.wait_for("released", |door| door.released);
            rig.wires().circuits.release = Circuit::Closed;
            rig.wait_for_reason(fault);
            rig.stop.cancel();
            drop(std::mem::replace(
                &mut rig.results,
                watch::channel(Latest::Waiting).0,
            ));
            worker.join().unwrap();
            assert_eq!(rig.relay(), None, "the outputs are inactive");
        }
    }

    #[test]
    fn the_exit_button_unlocks_and_the_door_locks_behind_the_person() {
        let mut rig = Rig::new(LockType::FailSecure, NORMAL);
        let (events, mut reports) = EventFeed::connect();
        rig.worker = rig.worker.take().map(|worker| worker.with_events(&events));
        let worker = rig.start();
        rig.wait_for("closed", |door| door.position == Some(DoorPosition::Closed));
        assert!(
            !rig.wires().was_energized,
            "it does not unlock at the start"
        );
        {
            let mut wires = rig.wires();
            wires.counted = Some((DoorInput::ExitButton, Circuit::Open));
            wires.circuits.exit_button = Circuit::Closed;
        }
        rig.wait_for_reason(Some(UnlockReason::ExitButton));
        rig.wait_for("energized", |_| rig.relay() == Some(true));
        let readings = rig.wires().active_readings;
        assert!((2..=4).contains(&readings), "{readings} readings");
        {
            let mut wires = rig.wires();
            wires.circuits.contact = Circuit::Open;
            wires.bounces = 5;
        }
        rig.wait_for("open", |door| door.position == Some(DoorPosition::Open));
        let door = rig.wait_for("held open", |door| door.held_open);
        assert_eq!(door.held_open_warnings, 1);
        rig.wait_for("a signal", |_| {
            rig.wires().levels.buzzer && rig.wires().levels.red
        });
        rig.wires().circuits.exit_button = Circuit::Open;
        {
            let mut wires = rig.wires();
            wires.circuits.contact = Circuit::Closed;
            wires.bounces = 5;
        }
        let door = rig.wait_for_reason(None);
        assert!(!door.held_open && door.held_open_warnings == 1);
        assert_eq!(door.position, Some(DoorPosition::Closed));
        rig.wires().circuits.release = Circuit::Open;
        rig.wait_for_reason(Some(UnlockReason::Release));
        rig.stop.cancel();
        drop(std::mem::replace(
            &mut rig.results,
            watch::channel(Latest::Waiting).0,
        ));
        worker.join().unwrap();
        drop(events);
        let mut told = Vec::new();
        while let Ok((_, occurrence)) = reports.try_recv() {
            told.push(occurrence);
        }
        told.retain(|occurrence| !matches!(occurrence, Occurrence::Decision { .. }));
        let expected = [
            Occurrence::DoorExitButton,
            Occurrence::DoorHeldOpen { seconds: 0 },
            Occurrence::DoorHeldOpenEnded,
            Occurrence::DoorRelease,
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_panic_leaves_the_outputs_inactive() {
        for lock in [LockType::FailSecure, LockType::FailSafe] {
            let mut rig = Rig::new(lock, NORMAL);
            rig.wires().circuits.exit_button = Circuit::Closed;
            let worker = rig.start();
            rig.wait_for_reason(Some(UnlockReason::ExitButton));
            rig.wires().panics = true;
            assert!(worker.join().is_err());
            assert_eq!(rig.wires().levels, Levels::default());
        }
    }

    #[test]
    fn a_test_of_the_leds_leaves_out_a_buzzer_in_the_quiet_hours() {
        let mut config = door_config(LockType::FailSecure);
        config.indicate.buzzer_pin = Some(Line::Number(22));
        let mut rig = Rig::with_config(&config, NORMAL);
        rig.allowed.send_modify(|allowed| allowed.sound = false);
        let mut worker = rig.worker.take().unwrap();
        let (answer, mut result) = oneshot::channel();
        rig.led_tests.try_send(LedTestRequest { answer }).unwrap();
        worker.set_outputs(&rig.live);
        let test = result.try_recv().unwrap().unwrap();
        assert!(test.buzzer_silenced, "{test:?}");
    }

    #[test]
    fn a_relay_without_leds_has_nothing_to_test() {
        for green in [None, Some(Line::Number(17))] {
            let mut config = door_config(LockType::FailSecure);
            config.indicate.green_pin.clone_from(&green);
            let mut rig = Rig::with_config(&config, NORMAL);
            let mut worker = rig.worker.take().unwrap();
            let (answer, mut result) = oneshot::channel();
            rig.led_tests.try_send(LedTestRequest { answer }).unwrap();
            worker.set_outputs(&rig.live);
            let result = result.try_recv().unwrap();
            assert_eq!(result.is_ok(), green.is_some(), "{result:?}");
        }
    }

    #[test]
    fn a_mask_does_not_lock_out_a_release_and_a_door_without_inputs_is_published() {
        let mut rig = Rig::new(LockType::FailSecure, NORMAL);
        let mut worker = rig.worker.take().unwrap();
        worker.shown.decision = Decision::Mask;
        worker.set_outputs(&rig.live);
        assert_eq!(rig.door().unwrap().unlocked_by, Some(UnlockReason::Mask));
        worker.shown.decision = Decision::NoMask;
        rig.wires().circuits.release = Circuit::Open;
        worker.set_outputs(&rig.live);
        assert_eq!(rig.door().unwrap().unlocked_by, Some(UnlockReason::Release));
        assert_eq!(rig.relay(), Some(true));

        let mut config = door_config(LockType::FailSecure);
        config.indicate.door_contact_pin = None;
        config.indicate.exit_button_pin = None;
        config.indicate.release_pin = None;
        let without_inputs = DoorControl::new(&config.indicate, true);
        worker.door = without_inputs;
        let live = watch::Sender::new(Live::default());
        worker.shown.decision = Decision::Mask;
        worker.set_outputs(&live);
        assert_eq!(rig.relay(), Some(true));
        let published = live.borrow().door.clone().unwrap();
        assert_eq!(published.unlocked_by, Some(UnlockReason::Mask));
        assert_eq!((published.position, published.released), (None, false));
    }

    #[test]
    fn the_time_of_day_limits_the_leds_the_buzzer_and_the_lock() {
        let mut rig = Rig::new(LockType::FailSecure, NORMAL);
        let mut worker = rig.worker.take().unwrap();
        worker.shown.decision = Decision::NoMask;
        worker.shown.since = now();
        let off = Allowed {
            indicate: false,
            lock: false,
            sound: false,
            ..Allowed::ALL
        };
        rig.allowed.send_replace(off);
        worker.set_outputs(&rig.live);
        let unlocked = Levels {
            relay: Some(true),
            ..Levels::default()
        };
        assert_eq!(rig.wires().levels, unlocked);
        assert_eq!(
            rig.door().unwrap().unlocked_by,
            Some(UnlockReason::Schedule)
        );
        rig.wires().circuits.release = Circuit::Open;
        worker.set_outputs(&rig.live);
        assert_eq!(rig.door().unwrap().unlocked_by, Some(UnlockReason::Release));
        rig.wires().circuits.release = Circuit::Closed;
        // The thread that watches the time hangs, so the windows do not apply.
        let long_ago = now().checked_sub(Duration::from_mins(2));
        rig.allowed.send_replace(Allowed {
            at: long_ago,
            ..off
        });
        worker.shown.since = now();
        worker.set_outputs(&rig.live);
        let levels = rig.wires().levels;
        assert!(
            long_ago.is_none() || levels.red && levels.buzzer,
            "{levels:?}"
        );
    }

    #[test]
    fn work_goes_on_while_frames_come_and_parts_of_it_get_done() {
        let start = now();
        let stale = Duration::from_secs(5);
        let later = |seconds| start + Duration::from_secs(seconds);
        let (frames, frames_in) = watch::channel(Latest::Waiting);
        let (worked, worked_in) = watch::channel(start);
        let upstream = Upstream {
            frames: frames_in,
            worked: worked_in,
        };
        let frame = |at| {
            Latest::Newest(Arc::new(Frame {
                pixels: RgbImage::new(1, 1),
                at,
                seq: 0,
                connection: ConnectionId::default(),
            }))
        };
        let progress = |seconds| upstream.progress(later(seconds), stale);
        assert_eq!(progress(1), Progress::Stuck, "no frame has come");
        frames.send_replace(frame(start));
        assert_eq!(progress(5), Progress::Working);
        assert_eq!(progress(6), Progress::Stuck, "no new frame has come");
        frames.send_replace(frame(later(6)));
        assert_eq!(progress(6), Progress::Stuck, "the work hangs");
        worked.send_replace(later(4));
        assert_eq!(progress(9), Progress::Working);
        frames.send_replace(Latest::Lost(Loss::Reconnecting));
        assert_eq!(progress(9), Progress::Stuck);
        assert!(upstream.is_camera_lost());
    }
}
