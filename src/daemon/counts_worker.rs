//! The counts thread, which keeps the counts of passages on the disk, and the part of the
//! inference thread that counts.
//!
//! The inference thread only adds to a ledger in memory, so it never waits for the disk. The
//! counts thread stores the days that have changed once per minute and when the daemon ends,
//! so a power cut loses at most a minute. In statistics mode, it stores an hour only when it
//! is over, so a power cut loses the hour.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::threads::{Threads, timer_runtime};
use super::{DaemonError, Shared, now};
use crate::api::socket::Live;
use crate::config::{Config, Mode};
use crate::counts::ledger::{FileDay, Ledger, Precision, SharedLedger};
use crate::counts::passages::{Passage, PassageCounter, Sighting};
use crate::counts::store::CountStore;
use crate::decision::frame_result::FrameResult;
use crate::platform::clock::{self, ClockReading};

/// How often changed days are stored.
const SAVE_INTERVAL: Duration = Duration::from_mins(1);
/// How often old days are deleted.
const DELETE_INTERVAL: Duration = Duration::from_hours(1);
/// An hour is closed this many seconds after it is over, because a person may leave at its
/// end, and a passage counts only when the person has been gone for a while.
const GRACE_SECONDS: i64 = 90;

/// Counts the passages in the inference thread.
pub(super) struct PassageSink {
    counter: PassageCounter,
    ledger: SharedLedger,
}

impl PassageSink {
    pub(super) fn new(config: &Config, ledger: SharedLedger) -> PassageSink {
        let keep = config.track.options().keep;
        PassageSink {
            counter: PassageCounter::new(keep),
            ledger,
        }
    }

    /// Takes the faces of a frame.
    pub(super) fn observe(&mut self, result: &FrameResult) {
        let passages = self.counter.observe(result.at, &sightings(result));
        self.count(&passages);
    }

    /// Counts the people who are still in view, because there will be no more frames.
    pub(super) fn finish(&mut self) {
        let passages = self.counter.finish();
        self.count(&passages);
    }

    fn count(&self, passages: &[Passage]) {
        if passages.is_empty() {
            return;
        }
        let (at, seconds) = (now(), clock::shown_seconds());
        let mut ledger = self.ledger.lock();
        for passage in passages {
            let ago = at.saturating_duration_since(passage.last_seen).as_secs();
            let seconds = seconds.map(|seconds| seconds.saturating_sub_unsigned(ago));
            ledger.count(seconds, passage.outcome);
        }
    }
}

/// Returns the faces of a frame that belong to tracks.
pub(super) fn sightings(result: &FrameResult) -> Vec<Sighting> {
    let faces = result.faces.iter();
    faces
        .filter_map(|face| {
            Some(Sighting {
                track: face.track?,
                rect: face.face.rect,
                outcome: face.verdict.into(),
            })
        })
        .collect()
}

/// Starts the counts thread, and returns the ledger. Returns `None` if nothing is counted.
/// The thread ends when the inference thread has ended.
pub(super) fn start(
    config: &Config,
    state: &Path,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<Option<SharedLedger>, DaemonError> {
    if !config.counts_passages() {
        return Ok(None);
    }
    let precision = match config.mode {
        Mode::Door => Precision::Exact,
        Mode::Count => Precision::Rounded,
    };
    let ledger = SharedLedger::new(Ledger::new(precision, clock::time_zone()));
    let worker = CountsWorker {
        state: state.to_owned(),
        keep_days: config.counts.keep_days,
        ledger: ledger.clone(),
        live: Arc::clone(&shared.live),
        store: None,
        failed: false,
        deleted_at: None,
    };
    let ended = shared.inference_ended.clone();
    threads.start("counts", move || worker.run(&ended))?;
    Ok(Some(ledger))
}

/// The state of the counts thread.
struct CountsWorker {
    state: PathBuf,
    keep_days: u32,
    ledger: SharedLedger,
    live: Arc<watch::Sender<Live>>,
    /// The files, or `None` as long as they cannot be opened.
    store: Option<CountStore>,
    /// Whether the last attempt to use the files failed. Only the first failure is logged.
    failed: bool,
    /// When old days were last deleted.
    deleted_at: Option<Instant>,
}

impl CountsWorker {
    fn run(mut self, ended: &CancellationToken) -> Result<(), DaemonError> {
        let runtime = timer_runtime()?;
        loop {
            let is_over = ended.is_cancelled();
            self.turn(is_over);
            if is_over {
                return Ok(());
            }
            runtime.block_on(async {
                let _ = tokio::time::timeout(SAVE_INTERVAL, ended.cancelled()).await;
            });
        }
    }

    /// Closes hours, stores what has changed, and deletes what is too old.
    fn turn(&mut self, is_over: bool) {
        // The time zone of a device may change while the daemon runs.
        let zone = clock::time_zone();
        let seconds = clock::shown_seconds();
        {
            let mut ledger = self.ledger.lock();
            ledger.set_zone(zone);
            if is_over {
                ledger.close(None);
            } else if let Some(seconds) = seconds {
                ledger.close(Some(seconds - GRACE_SECONDS));
            }
        }
        let problem = self.save().err();
        match (&problem, self.failed) {
            (Some(problem), false) => {
                warn!(problem, "the counts are not stored; it is tried again");
            }
            (None, true) => info!("the counts are stored again"),
            _ => {}
        }
        self.failed = problem.is_some();
    }

    /// Opens the files if they are not open, and stores the days that have changed.
    fn save(&mut self) -> Result<(), String> {
        if self.store.is_none() {
            self.store = Some(self.open()?);
        }
        let Some(store) = &self.store else {
            return Ok(());
        };
        let changed = self.ledger.lock().take_changed();
        let mut result = Ok(());
        for (day, hours) in changed {
            if let Err(error) = store.write(day, &hours) {
                self.ledger.lock().not_stored(day);
                result = Err(error.to_string());
            }
        }
        result?;
        self.delete_old()
    }

    fn open(&self) -> Result<CountStore, String> {
        // A state directory that cannot be used yet must not be created or changed here.
        if let Some(why) = self.live.borrow().learning.off_because.clone() {
            return Err(why);
        }
        let opened = CountStore::open(&self.state).map_err(|error| error.to_string())?;
        let Some((store, stored)) = opened else {
            return Err("another process uses the counts".to_owned());
        };
        for path in &stored.damaged {
            let path = path.display();
            warn!(%path, "a file with counts is damaged: it is kept under another name, and its hours are lost");
        }
        self.ledger.lock().load(stored.hours);
        Ok(store)
    }

    /// Deletes the days that are too old. The clock must have been trusted for a day, as for
    /// the deletion of face pictures.
    fn delete_old(&mut self) -> Result<(), String> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let is_due = |last: Instant| now().saturating_duration_since(last) >= DELETE_INTERVAL;
        let is_trusted = self
            .live
            .borrow()
            .retention
            .is_some_and(|told| told.clock_synchronized);
        if !is_trusted || !self.deleted_at.is_none_or(is_due) {
            return Ok(());
        }
        let Some(seconds) = ClockReading::now().unix_seconds() else {
            return Ok(());
        };
        let today = FileDay::of(seconds);
        let deleted = store.delete_old(self.keep_days, today);
        let deleted = deleted.map_err(|error| error.to_string())?;
        let mut ledger = self.ledger.lock();
        for day in deleted {
            ledger.forget(day);
        }
        self.deleted_at = Some(now());
        Ok(())
    }
}
