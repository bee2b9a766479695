//! The indicate thread: scenes and time into decisions, decisions into outputs,
//! presses of buttons into enrollments.
//!
//! Owns the console and the pins. Pins that fail while the daemon runs are told
//! of once, and tried again: a daemon without lamps still opens its API.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{DaemonError, Latest, STOP_DEADLINE, TICK, now, timer_runtime, wall_clock};
use crate::api::metrics::{Heartbeat, Metrics};
use crate::api::socket::{DaemonHandle, Live};
use crate::config::settings::Tuning;
use crate::config::{self, Config};
use crate::decision::decide::{Decider, Decision};
use crate::decision::frame_result::{FaceRecord, FrameResult};
use crate::frame::Frame;
use crate::indicate::pins::{PinError, Pins};
use crate::indicate::{Button, Change, Console, Debouncer, Door, Levels, Notice, Quiet, levels};
use crate::learning::Enrollment;

/// Whoever pressed a button has left after this long: crops that are still
/// missing then are not taken of the next one.
const BUTTON_TIME: Duration = Duration::from_secs(5);

/// How often contacts are looked at: a press of 60 ms, shorter than anybody's, is
/// then seen by three looks at least, over the 30 ms that a contact must be steady.
const BUTTON_TICK: Duration = Duration::from_millis(15);

/// What the indicate thread works with.
pub(super) struct IndicatorWorker {
    console: Console,
    decider: Decider,
    door: Option<Door>,
    quiet: Option<Quiet>,
    outputs: Option<Outputs>,
    buttons: Buttons,
    tick: Duration,
    tuning: watch::Receiver<Tuning>,
    /// How the decider works but for what the tuning says.
    decide: config::Decide,
}

impl IndicatorWorker {
    pub(super) fn new(
        config: &Config,
        console: Console,
        pins: Option<Box<dyn Pins>>,
        handle: Option<DaemonHandle>,
        tuning: watch::Receiver<Tuning>,
    ) -> IndicatorWorker {
        let indicate = &config.indicate;
        let hold = Duration::from_millis(indicate.relay_hold_ms);
        let has_relay = indicate.relay_pin.is_some();
        let has_buttons = pins.is_some() && indicate.has_buttons();
        IndicatorWorker {
            tick: if has_buttons { BUTTON_TICK } else { TICK },
            tuning,
            decide: config.decide.clone(),
            console,
            decider: Decider::new(config.decide.options(), now()),
            door: has_relay.then(|| Door::new(indicate.relay, hold)),
            quiet: indicate.quiet(),
            outputs: pins.map(Outputs::new),
            buttons: Buttons {
                options: indicate.clone(),
                contacts: Button::ALL.map(|button| (button, Debouncer::default())),
                handle,
                until: None,
                notice: None,
            },
        }
    }

    pub(super) fn run(
        mut self,
        mut sight: watch::Receiver<Latest<FrameResult>>,
        feed: &watch::Receiver<Latest<Frame>>,
        heartbeat: &watch::Sender<Heartbeat>,
        live: &watch::Sender<Live>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<(), DaemonError> {
        let waiting = timer_runtime()?;
        live.send_modify(|live| Decision::Idle.name().clone_into(&mut live.decision));
        let mut shown = Decision::Idle;
        let mut since = now();
        let mut changes = 0;
        let mut stopping: Option<Instant> = None;
        let result = loop {
            let tick = self.tick;
            let news =
                waiting.block_on(async { tokio::time::timeout(tick, sight.changed()).await });
            self.take_tuning();
            let mut seen = None;
            let decision = match news {
                Ok(Err(_closed)) => break Ok(()),
                Ok(Ok(())) => match sight.borrow_and_update().clone() {
                    Latest::Waiting => self.decider.tick(now()),
                    Latest::Lost => self.decider.fault(),
                    Latest::Newest(scene) => {
                        self.console.scene(&scene);
                        let decision = self.decider.observe(now(), scene.at, scene.decision());
                        seen = Some(scene);
                        decision
                    }
                },
                Err(_no_news) => self.decider.tick(now()),
            };
            // A camera that is being opened anew is no reason to restart the
            // service; an infer thread that hangs is one, whatever it saw before.
            let known = matches!(*feed.borrow(), Latest::Lost);
            heartbeat.send_replace(Heartbeat {
                at: now(),
                fresh: decision != Decision::Fault || known,
            });
            if decision != shown {
                changes += 1;
                let change = describe(changes, decision, seen.as_deref());
                log_change(&change, shown);
                metrics.decision(decision);
                live.send_modify(|live| decision.name().clone_into(&mut live.decision));
                if let Err(error) = self.console.change(&change) {
                    break Err(DaemonError::Console(error));
                }
                shown = decision;
                since = now();
            }
            self.show(shown, since);
            let somebody = shown != Decision::Fault && live.borrow().faces > 0;
            self.press(somebody);
            // An infer thread that hangs must not keep the outputs on.
            if stop.is_cancelled() {
                let asked = *stopping.get_or_insert_with(now);
                if now().saturating_duration_since(asked) > STOP_DEADLINE / 2 {
                    break Ok(());
                }
            }
        };
        info!(decisions = changes, "no more decisions");
        let door = self.door.is_some().then_some(false);
        self.console.set(Levels {
            relay: door,
            ..Levels::default()
        });
        result
    }

    /// Goes by other settings from now on.
    fn take_tuning(&mut self) {
        if self.tuning.has_changed().unwrap_or(false) {
            let tuning = *self.tuning.borrow_and_update();
            self.decide.confirm_ms = tuning.confirm_ms;
            self.decide.hold_ms = tuning.hold_ms;
            self.decider.set_options(self.decide.options());
        }
    }

    /// Switches the outputs for a decision that stands since then.
    fn show(&mut self, decision: Decision, since: Instant) {
        let at = now();
        let mut levels = levels(decision, at.saturating_duration_since(since));
        levels.relay = self.door.as_mut().map(|door| door.relay(at, decision));
        if levels.buzzer && self.quiet.is_some_and(|quiet| quiet.covers(local_time())) {
            levels.buzzer = false;
        }
        if let Some(lamps) = self.buttons.lamps(at) {
            (levels.green, levels.red) = lamps;
        }
        self.console.set(levels);
        if let Some(outputs) = &mut self.outputs {
            outputs.set(levels);
        }
    }

    /// Looks at the buttons. `somebody`: whether a face is seen now.
    fn press(&mut self, somebody: bool) {
        let Some(outputs) = &mut self.outputs else {
            return;
        };
        let at = now();
        for button in Button::ALL {
            let closed = outputs.closed(button);
            self.buttons.take(at, button, closed, somebody);
        }
        self.buttons.end_in_time(at);
    }
}

/// The pins, and what was said of them.
struct Outputs {
    pins: Box<dyn Pins>,
    /// What they are, unless that is unknown.
    shown: Option<Levels>,
    /// Whether they failed the last time.
    failing: bool,
}

impl Outputs {
    fn new(pins: Box<dyn Pins>) -> Outputs {
        Outputs {
            pins,
            shown: None,
            failing: false,
        }
    }

    fn set(&mut self, levels: Levels) {
        if self.shown == Some(levels) {
            return;
        }
        let set = self.pins.set(levels);
        self.shown = set.is_ok().then_some(levels);
        self.tell(set.err());
    }

    fn closed(&mut self, button: Button) -> bool {
        match self.pins.closed(button) {
            Ok(closed) => closed,
            Err(error) => {
                self.tell(Some(error));
                false
            }
        }
    }

    /// Once for each change.
    fn tell(&mut self, error: Option<PinError>) {
        match error {
            Some(error) if !self.failing => {
                warn!(%error, "the pins fail; they are tried again");
                self.failing = true;
            }
            None if self.failing => {
                info!("the pins work again");
                self.failing = false;
            }
            _ => {}
        }
    }
}

/// The push buttons, and the enrollment of the last press.
struct Buttons {
    options: config::Indicate,
    contacts: [(Button, Debouncer); 2],
    handle: Option<DaemonHandle>,
    /// When the enrollment of a press ends, whatever it has.
    until: Option<Instant>,
    notice: Option<(Instant, Notice)>,
}

impl Buttons {
    /// Takes what a contact is now.
    fn take(&mut self, at: Instant, button: Button, closed: bool, somebody: bool) {
        let contact = self.contacts.iter_mut().find(|(name, _)| *name == button);
        let Some((_, contact)) = contact else { return };
        if !contact.pressed(at, closed) {
            return;
        }
        let label = self.options.label(button);
        let notice = match self.enroll(label, somebody) {
            Ok(()) => {
                info!(label, "a button labels who stands before the camera");
                self.until = at.checked_add(BUTTON_TIME);
                Notice::Accepted
            }
            Err(reason) => {
                info!(label, reason, "a button is of no effect");
                Notice::Refused
            }
        };
        self.notice = Some((at, notice));
    }

    fn enroll(&self, label: &str, somebody: bool) -> Result<(), String> {
        let Some(handle) = &self.handle else {
            return Err("nothing is learned: there is no state directory".to_owned());
        };
        if !somebody {
            return Err("there is no face before the camera".to_owned());
        }
        let enrolled = handle.enroll(label, self.options.button_crops);
        enrolled.map(|_| ()).map_err(|refused| refused.error)
    }

    /// Whoever comes next is somebody else.
    fn end_in_time(&mut self, at: Instant) {
        let (Some(until), Some(handle)) = (self.until, &self.handle) else {
            return;
        };
        let is_over = |enrollment: &Enrollment| enrollment.is_over();
        if handle.enrollment().as_ref().is_none_or(is_over) {
            self.until = None;
        } else if at >= until {
            self.until = None;
            let taken = handle.end_enrollment().map(|enrollment| enrollment.taken);
            info!(taken, "the time of a button is over");
        }
    }

    /// The lamps, while they answer a press.
    fn lamps(&self, at: Instant) -> Option<(bool, bool)> {
        let (given, notice) = self.notice?;
        notice.lamps(at.saturating_duration_since(given))
    }
}

fn describe(number: u64, decision: Decision, scene: Option<&FrameResult>) -> Change {
    let scene = scene.filter(|_| decision != Decision::Fault);
    let faces = scene.iter().flat_map(|scene| {
        let record = |face| FaceRecord::new(face, &scene.labels);
        scene.faces.iter().map(record)
    });
    Change {
        change: number,
        time: unix_time(),
        decision,
        frame: scene.map(|scene| scene.seq),
        faces: faces.collect(),
    }
}

fn log_change(change: &Change, before: Decision) {
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

/// Of the clock on the wall.
fn local_time() -> jiff::civil::Time {
    jiff::ZonedDateTime::now().time()
}

fn unix_time() -> f64 {
    let since_1970 = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    // Rounded to milliseconds.
    since_1970.map_or(0.0, |time| time.as_millis() as f64 / 1000.0)
}
