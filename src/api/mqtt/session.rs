//! The connection: one after the other, each with its own queue, so that what is
//! told after a gap is what holds then.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rumqttc::{
    AsyncClient, ConnectionError, Event, Packet, Publish, PublishOptions, QoS, RetainForwardRule,
    SubscribeFilterInput,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::discovery::{self, Offers};
use super::exchange::Exchange;
use super::state::StateRecord;
use super::{MqttError, Plan, describe};
use crate::api::socket::{DaemonHandle, ErrorRecord, Live};
use crate::config::settings::Change;
use crate::learning::fleet::{Key, Unopened};
use crate::learning::{RefitRecord, UNLABELLED};

/// How often it is looked whether there is something new to tell.
const LOOK: Duration = Duration::from_millis(250);
/// How often samples are counted.
const COUNT: Duration = Duration::from_secs(5);
/// Messages of a second that are read; others wait at the broker. So many cost
/// some milliseconds, and a flood is over soon after its end.
const MOST: u32 = 500;
/// The span that [`MOST`] counts for.
const SPAN: Duration = Duration::from_secs(1);
/// A connection that held for so long was a good one.
const STEADY: Duration = Duration::from_secs(30);
/// The first and the longest wait before another attempt.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(500);
/// Least time between two discoveries that Home Assistant's birth asks for.
const BIRTHS: Duration = Duration::from_secs(2);

/// What the connection works with.
#[derive(Debug)]
pub struct MqttContext {
    /// What the daemon is doing.
    pub live: watch::Receiver<Live>,
    /// Samples and heads; none if nothing is learned.
    pub handle: Option<DaemonHandle>,
    /// Whether the config has crops kept: only then they may be asked for, since
    /// nobody but the owner of the device may begin to keep faces.
    pub captures: bool,
    /// The key of this device, if it is in a fleet.
    pub key: Option<Key>,
}

/// How long to wait before the next attempt: twice as long each time, and not at
/// the same time as all other devices of a house in which the power was off.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    random: ChaCha8Rng,
}

impl Backoff {
    fn new(seed: u64) -> Backoff {
        Backoff {
            next: WAITS.0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// From half of the wait to all of it.
    fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(self.random.random_range(0.5..=1.0));
        self.next = (2 * self.next).min(WAITS.1);
        wait
    }

    fn reset(&mut self) {
        self.next = WAITS.0;
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Refit,
    Capture(bool),
    Announce,
    /// A head of another device is to be looked at.
    Offer,
}

/// Why a message is no wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RejectReason {
    /// A topic that is none of ours.
    Topic,
    /// A command that the broker kept: it was meant for another time.
    Retained,
    /// Another payload than there are.
    Payload,
    /// Capturing is not for MQTT to begin.
    Capture,
    /// No head that may be looked at.
    Head(Unopened),
}

impl RejectReason {
    fn sentence(self) -> &'static str {
        match self {
            RejectReason::Topic => "a message on a topic that was not asked for is ignored",
            RejectReason::Retained => {
                "a retained command is ignored: publish commands without retain"
            }
            RejectReason::Payload => "a command that means nothing is ignored",
            RejectReason::Capture => {
                "capturing is off in the config, and cannot be turned on by MQTT"
            }
            RejectReason::Head(Unopened::Untrusted) => {
                "a head of a device that is not in fleet.trust is ignored"
            }
            RejectReason::Head(Unopened::Forged) => {
                "a head with a forged signature is ignored: somebody at the broker pretends to be \
                 a trusted device"
            }
            RejectReason::Head(Unopened::Malformed | Unopened::Own) => {
                "a message on a topic of the fleet is no head, and is ignored"
            }
        }
    }
}

impl Plan {
    fn understand(&self, message: &Publish) -> Result<Option<Command>, RejectReason> {
        let topic = message.topic.as_ref();
        let is = |ours: &String| topic == ours.as_bytes();
        if self.discovery && is(&self.topics.birth) {
            // Home Assistant also says when it goes.
            return Ok((message.payload.as_ref() == b"online").then_some(Command::Announce));
        }
        if !self.trusted.is_empty() && topic.starts_with(self.topics.fleet.as_bytes()) {
            return Ok(Some(Command::Offer));
        }
        let is_command = is(&self.topics.refit) || is(&self.topics.capture);
        if !(self.commands && is_command) {
            return Err(RejectReason::Topic);
        }
        if message.retain {
            return Err(RejectReason::Retained);
        }
        match (is(&self.topics.refit), message.payload.as_ref()) {
            (true, b"PRESS") => Ok(Some(Command::Refit)),
            (false, b"ON") => Ok(Some(Command::Capture(true))),
            (false, b"OFF") => Ok(Some(Command::Capture(false))),
            _ => Err(RejectReason::Payload),
        }
    }

    fn filters(&self) -> Vec<SubscribeFilterInput> {
        let mut filters = Vec::new();
        if self.commands {
            for topic in [&self.topics.refit, &self.topics.capture] {
                // What was asked for before this connection is over.
                let filter = SubscribeFilterInput::new(topic, QoS::AtMostOnce);
                filters.push(filter.retain_forward_rule(RetainForwardRule::Never));
            }
        }
        if self.discovery {
            let birth = SubscribeFilterInput::new(&self.topics.birth, QoS::AtMostOnce);
            filters.push(birth.retain_forward_rule(RetainForwardRule::Never));
        }
        if !self.trusted.is_empty() {
            let heads = format!("{}+", self.topics.fleet);
            filters.push(SubscribeFilterInput::new(heads, QoS::AtLeastOnce).no_local(true));
        }
        filters
    }
}

/// How a connection ended.
enum End {
    /// As asked.
    Stopped,
    /// After it was up for so long, if ever.
    Lost(MqttError, Option<Duration>),
}

/// Tells the broker of the daemon until `stop`, and connects anew whenever the
/// connection is lost. Must be called within a tokio runtime of its own thread.
pub async fn serve(plan: &Plan, house: MqttContext, seed: u64, stop: &CancellationToken) {
    let mut backoff = Backoff::new(seed);
    let mut talk = Session::new(plan, house);
    let mut complained = false;
    loop {
        match connection(plan, &mut talk, &mut complained, stop).await {
            End::Stopped => return,
            End::Lost(error, up) => {
                if up.is_some_and(|up| up >= STEADY) {
                    backoff.reset();
                }
                if complained {
                    debug!(%error, "still no MQTT broker");
                } else {
                    warn!(%error, "no MQTT broker; tried again until there is one");
                    complained = true;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.wait()) => {}
        }
    }
}

/// Looks whether the broker can be reached and takes the login.
///
/// # Errors
/// [`MqttError::Broker`], [`MqttError::System`].
pub fn reach(plan: &Plan) -> Result<(), MqttError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Another name than the daemon's, which would be thrown out.
    let built = AsyncClient::builder(plan.options("-check")).try_build();
    let (client, mut events) = built.map_err(|error| plan.fail(error.to_string()))?;
    let reached = runtime.block_on(async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => break,
                Ok(_) => {}
                Err(error) => return Err(plan.fail(describe(&error))),
            }
        }
        let _ = client.try_disconnect_now();
        // The broker notices either way.
        let _ =
            tokio::time::timeout(FAREWELL, async { while events.poll().await.is_ok() {} }).await;
        Ok(())
    });
    // A look-up of the name may still be waiting.
    runtime.shutdown_background();
    reached
}

/// From the network to the talk.
enum Heard {
    /// With the size of the largest packet that the broker takes, in bytes.
    Up(Option<u32>),
    Message(Box<Publish>),
}

async fn connection(
    plan: &Plan,
    talk: &mut Session<'_>,
    complained: &mut bool,
    stop: &CancellationToken,
) -> End {
    let built = AsyncClient::builder(plan.options_with_will()).try_build();
    let (client, mut events) = match built {
        Ok(built) => built,
        Err(error) => return End::Lost(plan.fail(error.to_string()), None),
    };
    let (heard_out, mut heard) = mpsc::channel(1);
    // Polled by itself, and never dropped in the midst of a packet. When nobody
    // takes what was heard, nothing more is read: the broker has to wait.
    let network = async {
        loop {
            let sent = match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(up))) => {
                    let most = up.properties.and_then(|its| its.max_packet_size);
                    heard_out.send(Heard::Up(most)).await
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    heard_out.send(Heard::Message(Box::new(message))).await
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
        error = &mut network => return End::Lost(plan.fail(describe(&error)), None),
        up = heard.recv() => match up {
            Some(Heard::Up(most)) => {
                talk.largest = most.map_or(usize::MAX, |most| most as usize);
                Instant::now()
            }
            Some(Heard::Message(_)) | None => {
                return End::Lost(plan.fail("speaks before it has answered"), None);
            }
        },
        () = stop.cancelled() => return End::Stopped,
    };
    info!(
        broker = plan.broker(),
        device = plan.device,
        "MQTT connected"
    );
    *complained = false;
    let lost = tokio::select! {
        error = &mut network => Some(error),
        () = talk.go_on(&client, &mut heard, stop) => None,
    };
    if let Some(error) = lost {
        return End::Lost(plan.fail(describe(&error)), Some(up_since.elapsed()));
    }
    // Broken off, and not ended with a word: the broker then tells the last will,
    // "offline", itself, and nothing that is still on its way can keep it back.
    End::Stopped
}

/// Of [`MOST`]: a large one counts as several.
fn cost(message: &Publish) -> u32 {
    1 + (message.payload.len() / 4096) as u32
}

/// What is told and asked for, whatever connection there is.
struct Session<'a> {
    plan: &'a Plan,
    house: MqttContext,
    /// Samples without a label, when they were counted.
    unlabelled: Option<usize>,
    /// What the broker was told last.
    told: Option<StateRecord>,
    /// A refit that was asked for here.
    refit: Option<oneshot::Receiver<Result<RefitRecord, ErrorRecord>>>,
    /// What was complained about already.
    complaints: BTreeSet<RejectReason>,
    has_warned_of_flood: bool,
    counted: Option<Instant>,
    announced: Option<Instant>,
    /// Heads of and for other devices.
    exchange: Option<Exchange>,
    /// Largest packet that the broker takes, in bytes.
    largest: usize,
}

impl<'a> Session<'a> {
    fn new(plan: &'a Plan, house: MqttContext) -> Session<'a> {
        let exchange = house.key.clone().zip(house.handle.clone());
        let exchange = exchange.map(|(key, handle)| {
            let trusted = plan.trusted.clone();
            Exchange::new(key, handle, trusted, plan.share)
        });
        Session {
            exchange,
            largest: usize::MAX,
            plan,
            house,
            unlabelled: None,
            told: None,
            refit: None,
            complaints: BTreeSet::new(),
            has_warned_of_flood: false,
            counted: None,
            announced: None,
        }
    }

    /// Until `stop`.
    async fn go_on(
        &mut self,
        client: &AsyncClient,
        heard: &mut mpsc::Receiver<Heard>,
        stop: &CancellationToken,
    ) {
        (self.told, self.announced) = (None, None);
        if let Some(exchange) = &mut self.exchange {
            exchange.begin();
        }
        let filters = self.plan.filters();
        if !filters.is_empty() && client.try_subscribe_many(filters).is_err() {
            debug!("the broker was not asked for messages");
        }
        Self::publish(client, &self.plan.topics.status, "online");
        self.announce(client);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut began, mut messages) = (Instant::now(), 0);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = looks.tick() => self.look(client),
                message = heard.recv(), if messages < MOST || began.elapsed() >= SPAN => {
                    let Some(message) = message else { return };
                    if began.elapsed() >= SPAN {
                        (began, messages) = (Instant::now(), 0);
                    }
                    if let Heard::Message(message) = message {
                        messages += cost(&message);
                        if messages >= MOST && !self.has_warned_of_flood {
                            warn!("a flood of MQTT messages: the rest has to wait");
                            self.has_warned_of_flood = true;
                        }
                        self.hear(client, &message);
                    }
                }
            }
        }
    }

    /// Tells what is new.
    fn look(&mut self, client: &AsyncClient) {
        if self.counted.is_none_or(|at| at.elapsed() >= COUNT) {
            self.counted = Some(Instant::now());
            self.count();
        }
        let record = StateRecord::of(&self.house.live.borrow(), self.unlabelled);
        // Before the first decision there is nothing to tell.
        if !record.decision.is_empty() && self.told.as_ref() != Some(&record) {
            let json = serde_json::to_string(&record).unwrap_or_default();
            if Self::publish(client, &self.plan.topics.state, json) {
                self.told = Some(record);
            }
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.look();
            if let Some(offer) = exchange.offer(&self.plan.device) {
                // With topic and properties.
                if offer.len() + 1024 > self.largest {
                    warn!(
                        bytes = offer.len(),
                        "the broker does not take packets as large as a head"
                    );
                } else {
                    let topic = format!("{}{}", self.plan.topics.fleet, self.plan.device);
                    Self::publish(client, &topic, offer);
                }
            }
        }
        if let Some(refit) = &mut self.refit {
            match refit.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {}
                Ok(Err(refused)) => {
                    info!(
                        reason = refused.error,
                        "the refit that was asked for is not done"
                    );
                    self.refit = None;
                }
                // The trainer has told the log.
                Ok(Ok(_)) | Err(oneshot::error::TryRecvError::Closed) => self.refit = None,
            }
        }
    }

    fn count(&mut self) {
        let Some(handle) = &self.house.handle else {
            return;
        };
        match handle.learning.stats() {
            Ok(counts) => {
                let waiting = counts.get(UNLABELLED).map_or(0, |count| count.samples);
                self.unlabelled = Some(waiting);
            }
            Err(error) => debug!(%error, "the samples cannot be counted"),
        }
    }

    /// Retained; whether it is on its way.
    fn publish(
        client: &AsyncClient,
        topic: &str,
        payload: impl rumqttc::IntoPublishPayload,
    ) -> bool {
        let options = PublishOptions::at_least_once().retained();
        let sent = client.try_publish(topic, payload, options);
        if let Err(error) = &sent {
            debug!(%error, "told later");
        }
        sent.is_ok()
    }

    fn announce(&mut self, client: &AsyncClient) {
        let now = Instant::now();
        let is_soon = |at: Instant| now.duration_since(at) < BIRTHS;
        if !self.plan.discovery || self.announced.is_some_and(is_soon) {
            return;
        }
        let handle = self.house.handle.is_some();
        let offers = Offers {
            refit: self.plan.commands && handle,
            capture: self.plan.commands && handle && self.house.captures,
            samples: handle,
        };
        let payload = discovery::payload(&self.plan.device, &self.plan.topics, offers);
        if Self::publish(client, &self.plan.topics.discovery, payload.to_string()) {
            self.announced = Some(now);
        }
    }

    fn hear(&mut self, client: &AsyncClient, message: &Publish) {
        match (self.plan.understand(message), &mut self.exchange) {
            (Ok(Some(Command::Offer)), Some(exchange)) => {
                if let Err(unopened) = exchange.hear(&message.payload) {
                    self.complain(RejectReason::Head(unopened));
                }
            }
            (Ok(Some(wish)), _) => self.grant(client, wish),
            (Ok(None), _) => {}
            (Err(nonsense), _) => self.complain(nonsense),
        }
    }

    /// Once: whoever sends nonsense sends more of it.
    fn complain(&mut self, nonsense: RejectReason) {
        if self.complaints.insert(nonsense) {
            warn!("{}", nonsense.sentence());
        }
    }

    fn grant(&mut self, client: &AsyncClient, wish: Command) {
        match wish {
            Command::Announce => {
                self.announce(client);
                // Home Assistant has forgotten what it knew.
                self.told = None;
            }
            // Without a state directory there is nothing to judge it by.
            Command::Offer => {}
            Command::Refit if self.refit.is_some() => {
                debug!("a refit has been asked for already");
            }
            Command::Refit => {
                let Some(handle) = &self.house.handle else {
                    return;
                };
                let (call, answer) = oneshot::channel();
                if handle.refit.try_send(call).is_ok() {
                    info!("a refit is asked for by MQTT");
                    self.refit = Some(answer);
                }
            }
            Command::Capture(on) => {
                let Some(handle) = &self.house.handle else {
                    return;
                };
                if !self.house.captures {
                    self.complain(RejectReason::Capture);
                } else if handle.settings.record().now.capture != on {
                    // Not in the file: capturing that it leaves off cannot be
                    // turned on from here.
                    let change = Change {
                        capture: Some(on),
                        ..Change::default()
                    };
                    if let Err(error) = handle.settings.change_for_now(change) {
                        debug!(%error, "capturing stays as it is");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config;

    #[test]
    fn waits_grow_and_differ() {
        let mut backoff = Backoff::new(7);
        let mut expected = WAITS.0;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(wait >= expected / 2 && wait <= expected, "{wait:?}");
            expected = (2 * expected).min(WAITS.1);
        }
        backoff.reset();
        assert!(backoff.wait() <= WAITS.0);
        assert_ne!(Backoff::new(2).wait(), Backoff::new(5).wait());
    }

    fn plan(more: &str) -> Plan {
        let text = format!("[mqtt]\nhost = \"h\"\ndevice = \"door\"\n{more}");
        let config = config::parse("any", &text).unwrap();
        Plan::of(&config, None, "").unwrap().unwrap()
    }

    fn message(topic: &str, payload: &[u8]) -> Publish {
        Publish::new(topic, QoS::AtMostOnce, payload.to_vec(), None)
    }

    #[test]
    fn only_what_is_meant_is_understood() {
        let plan = plan("");
        let heard = |topic: &str, payload: &[u8]| plan.understand(&message(topic, payload));
        assert_eq!(
            heard("maskd/door/refit/set", b"PRESS"),
            Ok(Some(Command::Refit))
        );
        let off = Ok(Some(Command::Capture(false)));
        assert_eq!(heard("maskd/door/capture/set", b"OFF"), off);
        assert_eq!(
            heard("homeassistant/status", b"online"),
            Ok(Some(Command::Announce))
        );
        assert_eq!(heard("homeassistant/status", b"offline"), Ok(None));
        for (topic, payload, why) in [
            ("maskd/door/refit/set", &b"ON"[..], RejectReason::Payload),
            (
                "maskd/door/refit/set",
                b"{\"press\":",
                RejectReason::Payload,
            ),
            ("maskd/door/capture/set", b"PRESS", RejectReason::Payload),
            ("maskd/door/capture/set", b"\xff\xfe", RejectReason::Payload),
            ("maskd/other/refit/set", b"PRESS", RejectReason::Topic),
            ("maskd/door/refit/set/", b"PRESS", RejectReason::Topic),
        ] {
            assert_eq!(heard(topic, payload), Err(why), "{topic}");
        }
        let mut kept = message("maskd/door/refit/set", b"PRESS");
        kept.retain = true;
        assert_eq!(plan.understand(&kept), Err(RejectReason::Retained));
    }

    #[test]
    fn heads_are_taken_if_somebody_is_trusted() {
        let offer = message("maskd/fleet/other", b"x");
        assert_eq!(plan("").understand(&offer), Err(RejectReason::Topic));
        let trusting = format!("[fleet]\ntrust = [\"{}\"]\n", "0".repeat(64));
        let trusting = plan(&trusting);
        assert_eq!(trusting.understand(&offer), Ok(Some(Command::Offer)));
        assert_eq!(trusting.filters().len(), 4);
    }

    #[test]
    fn what_the_config_forbids_is_not_understood() {
        let plan = plan("commands = false\ndiscovery-prefix = \"\"\n");
        for topic in ["maskd/door/refit/set", "homeassistant/status", "/status"] {
            let heard = plan.understand(&message(topic, b"PRESS"));
            assert_eq!(heard, Err(RejectReason::Topic), "{topic}");
        }
        assert!(plan.filters().is_empty());
    }

    proptest! {
        #[test]
        fn any_message_is_understood_or_not(topic in "\\PC{0,40}", payload in any::<Vec<u8>>()) {
            let plan = plan("");
            prop_assert!(plan.understand(&message(&topic, &payload)).is_err());
        }
    }
}
