//! Maintains the connection to the broker. Each connection starts with an empty queue, so
//! that after an outage the broker receives the current state rather than a backlog.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, Packet, Publish, PublishOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::command::{Command, RejectReason};
use super::discovery::{self, Features};
use super::exchange::HeadExchange;
use super::state::StateRecord;
use super::{BrokerOptions, MqttError, identity};
use crate::api::socket::{BrokerConnection, DaemonHandle, ErrorRecord, Live, RefitRequest};
use crate::config::settings::Change;
use crate::events::EventLog;
use crate::learning::fleet::Key;
use crate::learning::{Channel, Learning, RefitRecord, RefitTrigger};
use crate::onnx::UNLABELLED;
use crate::platform::backoff::Backoff;

/// How often the daemon's state is compared with the last published state.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How often the samples without a label are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of messages read within [`RATE_WINDOW`]; further messages wait at the
/// broker. Handling this many messages takes only a few milliseconds. The limit is high
/// enough for the broker's queue to drain soon after a flood of messages.
const MAX_MESSAGES: u32 = 500;
/// The period to which [`MAX_MESSAGES`] applies.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// How long a connection must last to reset the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// The first delay before reconnecting.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest delay before reconnecting.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(1);
/// The longest wait after another device with the same name has taken over the connection.
const MAX_NAME_DELAY: Duration = Duration::from_mins(10);
/// Maximum number of times to check whether the other device is still online. After that,
/// this device connects anyway, because a broker that has failed may keep reporting the
/// other device as online forever.
const MAX_LOOKS: u32 = 6;
/// How long the broker may take to send the discovery message that it retained.
const ANNOUNCE_DELAY: Duration = Duration::from_secs(1);
/// Maximum age of an event when it is published. Home automation must not react to old events after
/// an outage of the broker.
const MAX_EVENT_AGE: Duration = Duration::from_mins(1);
/// Minimum time between two discovery messages. Home Assistant triggers a discovery
/// message each time it starts.
const MIN_ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// The parts of the daemon that the connection uses.
#[derive(Debug)]
pub struct MqttContext {
    /// The live state of the daemon.
    pub live: watch::Receiver<Live>,
    /// Access to samples and heads; absent without a state directory.
    pub handle: Option<DaemonHandle>,
    /// Whether the config turns capturing on. If not, MQTT must not turn capturing on,
    /// because only the owner of the device may decide to store faces.
    pub captures: bool,
    /// The newest events.
    pub events: EventLog,
}

/// How a connection ended.
enum End {
    /// The daemon is stopping.
    Stopped,
    /// The connection failed. Holds the error. If the connection had been established,
    /// also holds how long it lasted.
    Lost(MqttError, Option<Duration>),
    /// Another client connected with the client ID of this device.
    TakenOver,
    /// The broker closed an established connection without giving a reason. Brokers also
    /// do this when another client connects with the same client ID.
    Closed(MqttError, Duration),
}

/// Publishes the daemon's state until `stop` is triggered, and reconnects whenever the
/// connection is lost. Must be called within a tokio runtime on its own thread.
pub async fn serve(
    options: &BrokerOptions,
    context: MqttContext,
    seed: u64,
    stop: &CancellationToken,
) {
    let mut backoff = Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY, seed);
    let run_id = options.machine.run_id(seed);
    let mut session = Session::new(options, context, run_id);
    let mut has_warned = false;
    loop {
        let mut end = connect(options, &mut session, &mut has_warned, stop).await;
        if let End::Closed(error, uptime) = end {
            // The delay gives the other device time to publish its ID.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            let retained = tokio::select! {
                () = stop.cancelled() => return,
                retained = identity::look(options) => retained,
            };
            end = match retained {
                Ok(retained) if retained.is_other_run(&session.run_id) => End::TakenOver,
                _ => End::Lost(error, Some(uptime)),
            };
        }
        match end {
            End::Stopped | End::Closed(..) => return,
            End::TakenOver => {
                let error = options.name_taken();
                session.report(BrokerConnection::Lost(error.to_string()));
                warn!(%error, "MQTT is paused");
                let run_id = &session.run_id;
                if wait_for_name(options, run_id, &mut backoff, stop)
                    .await
                    .is_none()
                {
                    return;
                }
                continue;
            }
            End::Lost(error, uptime) => {
                session.report(BrokerConnection::Lost(error.to_string()));
                if uptime.is_some_and(|uptime| uptime >= STABLE_AFTER) {
                    backoff.reset();
                }
                if has_warned {
                    debug!(%error, "still not connected to the MQTT broker");
                } else {
                    warn!(%error, "not connected to the MQTT broker; retrying");
                    has_warned = true;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// Waits until the other device with the same name is offline. If both devices reconnected
/// immediately, they would keep ending each other's connections forever. Returns `None` if
/// `stop` is triggered.
async fn wait_for_name(
    options: &BrokerOptions,
    run_id: &str,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Option<()> {
    for _ in 0..MAX_LOOKS {
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(backoff.up_to(MAX_NAME_DELAY)) => {}
        }
        let retained = tokio::select! {
            () = stop.cancelled() => return None,
            retained = identity::look(options) => retained,
        };
        match retained {
            Ok(retained) if retained.is_other_run(run_id) => {
                debug!("the other device is still connected to the MQTT broker");
            }
            _ => return Some(()),
        }
    }
    Some(())
}

/// Connects once to check whether the broker can be reached and accepts the login. Returns
/// whether another device with the same name is online.
///
/// # Errors
/// Returns [`MqttError::Broker`] if the broker cannot be reached or refuses the
/// connection, and [`MqttError::System`] if the system cannot provide a timer or a
/// socket.
pub fn test_connection(options: &BrokerOptions) -> Result<bool, MqttError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The client ID has a suffix because a second client with the daemon's client ID would
    // disconnect the daemon.
    let looked = runtime.block_on(identity::look(options));
    // This call does not wait for blocking threads, because a name lookup may still be
    // running.
    runtime.shutdown_background();
    Ok(looked?.is_other(&options.machine))
}

/// An event that the network task passes to the session.
enum Incoming {
    /// The connection is up. Holds the maximum packet size that the broker accepts, in
    /// bytes, if it has a limit.
    Connected(Option<u32>),
    Message(Box<Publish>),
}

async fn connect(
    options: &BrokerOptions,
    session: &mut Session<'_>,
    has_warned: &mut bool,
    stop: &CancellationToken,
) -> End {
    let built = AsyncClient::builder(options.client_options_with_will()).try_build();
    let (client, mut events) = match built {
        Ok(built) => built,
        Err(error) => return End::Lost(options.fail(error.to_string()), None),
    };
    let (sender, mut incoming) = mpsc::channel(1);
    // `network` is polled as a single future, so that it is never dropped in the middle
    // of a packet. It reads the next message only after the session has taken the
    // previous one. Until then, the broker has to wait.
    let network = async {
        loop {
            let sent = match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    let max = ack
                        .properties
                        .and_then(|properties| properties.max_packet_size);
                    sender.send(Incoming::Connected(max)).await
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    sender.send(Incoming::Message(Box::new(message))).await
                }
                Ok(_) => Ok(()),
                Err(error) => return error,
            };
            if sent.is_err() {
                return ConnectionError::RequestsDone;
            }
        }
    };
    let mut network = pin!(network);
    let up_since = tokio::select! {
        error = &mut network => {
            return End::Lost(options.fail(options.describe(&error, false)), None);
        }
        first = incoming.recv() => match first {
            Some(Incoming::Connected(max)) => {
                session.max_packet_size = max.map_or(usize::MAX, |max| max as usize);
                Instant::now()
            }
            Some(Incoming::Message(_)) | None => {
                return End::Lost(options.fail("sent a message before it accepted the connection"), None);
            }
        },
        () = stop.cancelled() => return End::Stopped,
    };
    info!(
        broker = options.broker(),
        device = options.device,
        "MQTT connected"
    );
    session.report(BrokerConnection::Connected);
    *has_warned = false;
    let lost = tokio::select! {
        error = &mut network => Some(error),
        () = session.run(&client, &mut incoming, stop) => None,
    };
    if let Some(error) = lost {
        if identity::is_taken_over(&error) {
            return End::TakenOver;
        }
        let is_closed = super::is_end(&error);
        let error = options.fail(options.describe(&error, true));
        if is_closed {
            return End::Closed(error, up_since.elapsed());
        }
        return End::Lost(error, Some(up_since.elapsed()));
    }
    // The connection is closed without a DISCONNECT packet, so that the broker publishes
    // the last will, "offline". No queued message can delay the last will.
    End::Stopped
}

/// Returns how much a message counts toward [`MAX_MESSAGES`]. A large message counts as
/// several messages.
fn cost(message: &Publish) -> u32 {
    1 + (message.payload.len() / 4096) as u32
}

/// The state that persists across connections.
struct Session<'a> {
    options: &'a BrokerOptions,
    context: MqttContext,
    /// The ID that this run of the daemon publishes.
    run_id: String,
    /// When the first discovery message of this connection is due.
    announce_at: Option<Instant>,
    /// Number of samples without a label at the last count.
    unlabelled: Option<usize>,
    /// Number of a model and its accuracy in percent, if it was measured.
    accuracy: Option<(u32, Option<f64>)>,
    /// The last state published on this connection.
    published: Option<StateRecord>,
    /// Place of the next event to publish in the log of events.
    next_event: u64,
    /// The channel that receives the result of a refit that was requested over MQTT.
    refit: Option<oneshot::Receiver<Result<RefitRecord, ErrorRecord>>>,
    /// The rejection reasons that have already been logged.
    logged_rejections: BTreeSet<RejectReason>,
    has_warned_of_flood: bool,
    counted_at: Option<Instant>,
    announced_at: Option<Instant>,
    /// The exchange of heads with other devices, if this device is in a fleet and its
    /// state directory can be used.
    exchange: Option<HeadExchange>,
    has_warned_of_key: bool,
    /// Maximum packet size that the broker accepts, in bytes.
    max_packet_size: usize,
}

impl<'a> Session<'a> {
    /// Tells the owner whether there is a connection.
    fn report(&self, connection: BrokerConnection) {
        if let Some(handle) = &self.context.handle {
            handle.device.set_broker(connection);
        }
    }

    fn new(options: &'a BrokerOptions, context: MqttContext, run_id: String) -> Session<'a> {
        Session {
            exchange: None,
            has_warned_of_key: false,
            max_packet_size: usize::MAX,
            options,
            context,
            run_id,
            announce_at: None,
            unlabelled: None,
            accuracy: None,
            published: None,
            next_event: 0,
            refit: None,
            logged_rejections: BTreeSet::new(),
            has_warned_of_flood: false,
            counted_at: None,
            announced_at: None,
        }
    }

    /// Serves one connection until it ends or `stop` is triggered.
    async fn run(
        &mut self,
        client: &AsyncClient,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) {
        (self.published, self.announced_at) = (None, None);
        self.join_fleet();
        if let Some(exchange) = &mut self.exchange {
            exchange.on_connect();
        }
        let subscriptions = self.options.subscriptions();
        if !subscriptions.is_empty() && client.try_subscribe_many(subscriptions).is_err() {
            debug!("cannot subscribe: the request queue is full");
        }
        publish(client, &self.options.topics.status, "online");
        publish(client, &self.options.topics.id, self.run_id.clone());
        // The retained message of an earlier version must arrive before this device
        // overwrites it.
        self.announce_at = Some(Instant::now() + ANNOUNCE_DELAY);
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut window_start, mut messages) = (Instant::now(), 0);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.poll(client),
                next = incoming.recv(),
                    if messages < MAX_MESSAGES || window_start.elapsed() >= RATE_WINDOW =>
                {
                    let Some(next) = next else { return };
                    if window_start.elapsed() >= RATE_WINDOW {
                        (window_start, messages) = (Instant::now(), 0);
                    }
                    if let Incoming::Message(message) = next {
                        messages += cost(&message);
                        if messages >= MAX_MESSAGES && !self.has_warned_of_flood {
                            warn!("too many MQTT messages; the rest wait at the broker");
                            self.has_warned_of_flood = true;
                        }
                        self.handle_message(client, &message);
                    }
                }
            }
        }
    }

    /// Publishes the state if it has changed. Then continues the exchange of heads, and
    /// checks whether a requested refit has ended.
    fn poll(&mut self, client: &AsyncClient) {
        if self
            .counted_at
            .is_none_or(|at| at.elapsed() >= COUNT_INTERVAL)
        {
            self.counted_at = Some(Instant::now());
            self.count_unlabelled();
            if self.join_fleet() {
                // After a new subscription, the broker sends the retained offers again.
                let subscriptions = self.options.subscriptions();
                if client.try_subscribe_many(subscriptions).is_err() {
                    debug!("cannot subscribe: the request queue is full");
                }
            }
        }
        if self.announce_at.is_some_and(|at| at <= Instant::now()) {
            self.announce_at = None;
            self.announce(client);
        }
        let accuracy = self.accuracy();
        let record = StateRecord::new(&self.context.live.borrow(), self.unlabelled, accuracy);
        // There is no state to publish before the first decision.
        if !record.decision.is_empty() && self.published.as_ref() != Some(&record) {
            let json = serde_json::to_string(&record).unwrap_or_default();
            if publish(client, &self.options.topics.state, json) {
                self.published = Some(record);
            }
        }
        self.publish_events(client);
        self.exchange_heads(client);
        self.check_refit();
    }

    /// Publishes the events that happened since the last call. The messages are not retained,
    /// because an event is not a state.
    fn publish_events(&mut self, client: &AsyncClient) {
        for logged in self.context.events.since(self.next_event) {
            if logged.at.elapsed() <= MAX_EVENT_AGE {
                let options = PublishOptions::at_least_once();
                let topic = &self.options.topics.event;
                if let Err(error) = client.try_publish(topic, logged.event.json(), options) {
                    debug!(%error, topic, "cannot publish yet");
                    return;
                }
            }
            self.next_event = logged.place + 1;
        }
    }

    /// Starts exchanging heads with other devices if this device is in a fleet and its
    /// state directory can be used. Returns whether this call started the exchange.
    fn join_fleet(&mut self) -> bool {
        let handle = self.context.handle.as_ref();
        let handle = handle.filter(|handle| handle.learning.is_open());
        let Some(handle) = handle.filter(|_| self.options.is_in_fleet()) else {
            return false;
        };
        if self.exchange.is_some() {
            return false;
        }
        match Key::open(handle.learning.state()) {
            Ok(key) => {
                let trusted = self.options.trusted.clone();
                let exchange = HeadExchange::new(key, handle.clone(), trusted, self.options.share);
                self.exchange = Some(exchange);
                true
            }
            Err(error) => {
                if !self.has_warned_of_key {
                    warn!(%error, "models are not exchanged with other devices");
                    self.has_warned_of_key = true;
                }
                false
            }
        }
    }

    fn exchange_heads(&mut self, client: &AsyncClient) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        exchange.poll();
        if let Some(offer) = exchange.next_offer(&self.options.device) {
            // The topic and the properties also take up space in the packet.
            if offer.len() + 1024 > self.max_packet_size {
                warn!(
                    bytes = offer.len(),
                    limit = self.max_packet_size,
                    "cannot share the model: the broker's packet limit is too small"
                );
            } else {
                let topic = format!("{}{}", self.options.topics.fleet, self.options.device);
                publish(client, &topic, offer);
            }
        }
    }

    fn check_refit(&mut self) {
        let Some(refit) = &mut self.refit else {
            return;
        };
        match refit.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => {}
            Ok(Err(refused)) => {
                info!(
                    reason = refused.error,
                    "the training requested over MQTT did not run"
                );
                self.refit = None;
            }
            // The refit worker has already logged the result.
            Ok(Ok(_)) | Err(oneshot::error::TryRecvError::Closed) => self.refit = None,
        }
    }

    fn count_unlabelled(&mut self) {
        let Some(handle) = &self.context.handle else {
            return;
        };
        match handle.learning().and_then(Learning::stats) {
            Ok(counts) => {
                let unlabelled = counts.get(UNLABELLED).map_or(0, |count| count.samples);
                self.unlabelled = Some(unlabelled);
            }
            Err(error) => debug!(%error, "cannot count the samples"),
        }
    }

    /// Returns the accuracy of the model in use in percent, if it was measured. Reads its file
    /// only when another model comes into use.
    fn accuracy(&mut self) -> Option<f64> {
        let number = self.context.live.borrow().learning.head?;
        if let Some((known, accuracy)) = self.accuracy
            && known == number
        {
            return accuracy;
        }
        let learning = self.context.handle.as_ref()?.learning().ok()?;
        let outcome = learning.head(number).ok()?.outcome;
        let measured = outcome.and_then(|outcome| outcome.measured);
        let percent = |ratio: f64| (ratio * 1000.0).round() / 10.0;
        let accuracy = measured.map(|measured| percent(measured.after.accuracy));
        self.accuracy = Some((number, accuracy));
        accuracy
    }

    fn announce(&mut self, client: &AsyncClient) {
        let now = Instant::now();
        let is_recent = |at: Instant| now.duration_since(at) < MIN_ANNOUNCE_INTERVAL;
        if !self.options.discovery || self.announced_at.is_some_and(is_recent) {
            return;
        }
        let learns = self.context.handle.is_some();
        let features = Features {
            refit: self.options.commands && learns,
            capture: self.options.commands && learns && self.context.captures,
            samples: learns,
            door: self.options.door,
        };
        let handle = self.context.handle.as_ref();
        let page = handle.and_then(|handle| handle.device.page());
        let (device, topics) = (&self.options.device, &self.options.topics);
        let payload = discovery::payload(device, topics, features, page.as_deref());
        if publish(client, &self.options.topics.discovery, payload.to_string()) {
            self.announced_at = Some(now);
        }
    }

    fn handle_message(&mut self, client: &AsyncClient, message: &Publish) {
        match (self.options.parse_command(message), &mut self.exchange) {
            (Ok(Some(Command::HeadOffer)), Some(exchange)) => {
                if let Err(unopened) = exchange.receive(&message.payload) {
                    self.log_rejection(RejectReason::Head(unopened));
                }
            }
            (Ok(Some(command)), _) => self.execute(client, command),
            (Ok(None), _) => {}
            (Err(reason), _) => self.log_rejection(reason),
        }
    }

    /// Logs a rejection. Each reason is logged only once, because a client that sends one
    /// bad message usually sends more.
    fn log_rejection(&mut self, reason: RejectReason) {
        if self.logged_rejections.insert(reason) {
            warn!("{}", reason.sentence());
        }
    }

    fn execute(&mut self, client: &AsyncClient, command: Command) {
        match command {
            Command::Announce => {
                self.announce(client);
                // A restarted Home Assistant needs the state again.
                self.published = None;
            }
            Command::ReplaceDiscovery => {
                // Home Assistant keeps the entities of the old message unless they are
                // removed before the new ones are announced.
                info!("the Home Assistant discovery of an earlier version is replaced");
                publish(client, &self.options.topics.discovery, "");
                self.announced_at = None;
                self.announce(client);
            }
            Command::RemoveOldDevice => {
                info!("the topics under the old default name of this device are removed");
                for topic in self.options.old_device_topics() {
                    publish(client, topic, "");
                }
            }
            // Without a state directory, there are no samples with which the head could
            // be judged.
            Command::HeadOffer => {}
            Command::Refit if self.refit.is_some() => {
                debug!("training was already requested over MQTT");
            }
            Command::Refit => {
                let Some(handle) = &self.context.handle else {
                    return;
                };
                let (answer, result) = oneshot::channel();
                let trigger = RefitTrigger::requested(Channel::Mqtt, false);
                let request = RefitRequest { trigger, answer };
                if handle.refit.try_send(request).is_ok() {
                    info!("training was requested over MQTT");
                    self.refit = Some(result);
                }
            }
            Command::Capture(on) => self.set_capture(on),
        }
    }

    fn set_capture(&mut self, on: bool) {
        let Some(handle) = &self.context.handle else {
            return;
        };
        if !self.context.captures {
            self.log_rejection(RejectReason::Capture);
        } else if handle.settings.record().now.capture != on {
            // The change is not saved to the config file. If the file turned capturing
            // off, MQTT could not turn it on again after a restart.
            let change = Change {
                capture: Some(on),
                ..Change::default()
            };
            if let Err(error) = handle.settings.change_for_now(change) {
                debug!(%error, "capturing was not changed");
            }
        }
    }
}

/// Publishes a retained message and returns whether it was queued. If it was not queued,
/// the caller retries at the next poll.
fn publish(client: &AsyncClient, topic: &str, payload: impl rumqttc::IntoPublishPayload) -> bool {
    let options = PublishOptions::at_least_once().retained();
    let queued = client.try_publish(topic, payload, options);
    if let Err(error) = &queued {
        debug!(%error, topic, "cannot publish yet");
    }
    queued.is_ok()
}
