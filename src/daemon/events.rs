//! The threads for events: one that makes events from what other threads report, one for each
//! receiver, and one that measures the free space on the disk.
//!
//! The threads that a frame passes through only put a small value into a bounded queue, and never
//! wait. Each receiver has a thread of its own, so that a receiver or a disk that hangs delays
//! neither the other receivers nor the camera path. `events` owns the format and the delivery.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::mqtt::machine;
use super::threads::{STOP_DEADLINE, Threads, timer_runtime};
use super::{DaemonError, Shared, now, wall_clock};
use crate::api::mqtt::device_name;
use crate::api::problems::{Problems, Topic};
use crate::api::socket::DaemonHandle;
use crate::config::Config;
use crate::events::{
    DiskWatch, EventFactory, EventLog, Exec, Occurrence, ReceiverFeed, ReceiverKind, UnsureTimer,
    Webhook,
};
use crate::learning::InUse;
use crate::platform::disk::DiskSpace;
use crate::platform::{clock, system};

/// Maximum number of reports that wait for the events thread.
const CHANNEL: usize = 256;
/// How often the free space on the disk is measured.
const DISK_INTERVAL: Duration = Duration::from_secs(30);
/// How often the events thread examines the state of the receivers.
const RECEIVERS_INTERVAL: Duration = Duration::from_secs(2);
/// From this number of failures in a row on, a receiver is a problem that needs attention.
const FAILURES: u64 = 3;
/// The folder for the queues in the state directory.
const FOLDER: &str = "events";

/// Reports what happens to the events thread. No function waits.
#[derive(Debug, Clone, Default)]
pub(super) struct EventFeed(Option<mpsc::Sender<(SystemTime, Occurrence)>>);

impl EventFeed {
    /// Returns a feed, and what is reported to it.
    pub(super) fn connect() -> (EventFeed, mpsc::Receiver<(SystemTime, Occurrence)>) {
        let (reports, reports_in) = mpsc::channel(CHANNEL);
        (EventFeed(Some(reports)), reports_in)
    }

    /// Reports that something happened now. If too many reports wait, the report is lost.
    pub(super) fn send(&self, occurrence: Occurrence) {
        let Some(reports) = &self.0 else { return };
        let kind = occurrence.kind().name();
        if reports.try_send((wall_clock(), occurrence)).is_err() {
            warn!(
                kind,
                "an event is lost: too many events happen at the same time"
            );
        }
    }
}

/// Starts the threads, and returns the feed for the other threads. Without a state directory, the
/// events of webhooks wait only in memory.
pub(super) fn start(
    config: &Config,
    handle: Option<&DaemonHandle>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<EventFeed, DaemonError> {
    let (feed, reports_in) = EventFeed::connect();
    let device = device_name(config, &machine());
    let factory =
        EventFactory::new(&device).map_err(|error| std::io::Error::other(error.to_string()))?;
    let worker = EventWorker {
        factory,
        log: shared.events.clone(),
        receivers: start_receivers(config, handle, shared, threads)?,
        unsure: UnsureTimer::new(Duration::from_millis(config.events.unsure_after_ms)),
        problems: shared.problems.clone(),
    };
    let head = handle.map(|handle| handle.head.clone());
    let ending = Ending::of(shared);
    threads.start("events", move || {
        timer_runtime()?.block_on(worker.run(reports_in, head, &ending));
        Ok(())
    })?;
    if let Some(handle) = handle.filter(|_| config.events.min_free_mib > 0) {
        let watch = DiskWatch::new(config.events.min_free_mib);
        let (state, feed) = (handle.learning.state().to_owned(), feed.clone());
        let ending = Ending::of(shared);
        threads.start("disk-space", move || {
            timer_runtime()?.block_on(watch_disk(watch, &state, feed, &ending));
            Ok(())
        })?;
    }
    Ok(feed)
}

/// The signs that the daemon ends.
struct Ending {
    stop: CancellationToken,
    inference_ended: CancellationToken,
}

impl Ending {
    fn of(shared: &Shared) -> Ending {
        Ending {
            stop: shared.stop.clone(),
            inference_ended: shared.inference_ended.clone(),
        }
    }

    /// Waits until the daemon ends.
    async fn begun(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.inference_ended.cancelled() => {}
        }
    }
}

/// Starts a thread for each receiver in the config. The threads end when their feeds are dropped.
fn start_receivers(
    config: &Config,
    handle: Option<&DaemonHandle>,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<Vec<ReceiverFeed>, DaemonError> {
    let mut feeds = Vec::new();
    let log = &shared.events;
    for (number, webhook) in config.events.webhook.iter().enumerate() {
        let Some(options) = webhook.options() else {
            continue;
        };
        let (name, selection) = (options.name.clone(), options.selection.clone());
        let (feed, events, state) =
            ReceiverFeed::connect(&name, ReceiverKind::Webhook, selection, log);
        let learning = handle.map(|handle| handle.learning.clone());
        let folder = move || {
            let learning = learning.as_ref().filter(|learning| learning.is_open())?;
            Some(learning.state().join(FOLDER).join(&name))
        };
        let seed = wall_clock()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64);
        let seed = seed.wrapping_add(number as u64);
        threads.start("webhook", move || {
            lower_priority();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let webhook = Webhook::new(options, state, folder, wall_clock, seed);
            runtime.block_on(webhook.run(events));
            // A pending name lookup must not delay the shutdown.
            runtime.shutdown_background();
            Ok(())
        })?;
        feeds.push(feed);
    }
    for exec in &config.events.exec {
        let options = exec.options();
        if let Err(error) = options.check() {
            warn!(receiver = options.name, "the program {error}");
        }
        let selection = options.selection.clone();
        let (feed, events, state) =
            ReceiverFeed::connect(&options.name, ReceiverKind::Exec, selection, log);
        threads.start("exec", move || {
            // The programs inherit this priority.
            lower_priority();
            timer_runtime()?.block_on(Exec::new(options, state, wall_clock).run(events));
            Ok(())
        })?;
        feeds.push(feed);
    }
    Ok(feeds)
}

fn lower_priority() {
    if let Err(error) = system::low() {
        warn!(%error, "events are delivered at normal priority");
    }
}

/// Measures the free space on the disk of the state directory until the daemon ends.
async fn watch_disk(mut watch: DiskWatch, state: &Path, feed: EventFeed, ending: &Ending) {
    loop {
        // Without an answer, the free space is unknown. Other modules report such a disk.
        if let Some(disk) = DiskSpace::of(state)
            && let Some(occurrence) = watch.observe(disk.free_mib)
        {
            feed.send(occurrence);
        }
        let ended = tokio::time::timeout(DISK_INTERVAL, ending.begun()).await;
        if ended.is_ok() {
            return;
        }
    }
}

/// Makes events from reports, and passes them on.
struct EventWorker {
    factory: EventFactory,
    log: EventLog,
    receivers: Vec<ReceiverFeed>,
    unsure: UnsureTimer,
    problems: Problems,
}

impl EventWorker {
    /// Runs until all feeds are dropped. If one of them is not dropped soon after the daemon is
    /// asked to stop, because its thread hangs, does not wait for it.
    async fn run(
        mut self,
        mut reports: mpsc::Receiver<(SystemTime, Occurrence)>,
        mut head: Option<watch::Receiver<Arc<InUse>>>,
        ending: &Ending,
    ) {
        let mut number = head.as_ref().and_then(|head| head.borrow().number);
        let mut ticks = tokio::time::interval(RECEIVERS_INTERVAL);
        let deadline = async {
            ending.begun().await;
            // The indicator thread ends within half of this time.
            tokio::time::sleep(STOP_DEADLINE * 2 / 3).await;
        };
        let mut deadline = std::pin::pin!(deadline);
        loop {
            let due = self.unsure.due().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                report = reports.recv() => match report {
                    Some((time, occurrence)) => self.handle(time, occurrence),
                    None => return,
                },
                () = &mut deadline => return,
                () = until(due) => {
                    if let Some(occurrence) = self.unsure.expire(now()) {
                        self.handle(wall_clock(), occurrence);
                    }
                }
                changed = changed(&mut head) => match changed {
                    Some(newest) if newest != number => {
                        number = newest;
                        let model = newest.unwrap_or(0);
                        self.handle(wall_clock(), Occurrence::Model { model });
                    }
                    Some(_) => {}
                    None => head = None,
                },
                _ = ticks.tick() => self.report_problems(),
            }
        }
    }

    fn handle(&mut self, time: SystemTime, occurrence: Occurrence) {
        if let Occurrence::Decision { decision, .. } = occurrence {
            self.unsure.observe(now(), decision);
        }
        let event = self
            .factory
            .event(occurrence, time, clock::is_synchronized());
        let event = Arc::new(event);
        self.log.push(now(), Arc::clone(&event));
        for receiver in &self.receivers {
            receiver.send(&event);
        }
    }

    /// Publishes a problem while receivers fail.
    fn report_problems(&self) {
        let failing: Vec<String> = self
            .log
            .receivers()
            .into_iter()
            .filter(|receiver| receiver.failures_in_a_row >= FAILURES)
            .map(|receiver| {
                let why = receiver.last_failure.unwrap_or_default();
                format!("{} ({why})", receiver.name)
            })
            .collect();
        let problem = format!("events do not reach {}", failing.join(", "));
        self.problems
            .set(Topic::Events, (!failing.is_empty()).then_some(problem));
    }
}

/// Waits until a time, or forever.
async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits until another head may be in use, and returns its number. Returns `None` if there will be
/// no other head.
async fn changed(head: &mut Option<watch::Receiver<Arc<InUse>>>) -> Option<Option<u32>> {
    match head {
        Some(head) => {
            head.changed().await.ok()?;
            Some(head.borrow_and_update().number)
        }
        None => std::future::pending().await,
    }
}
