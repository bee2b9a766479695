//! Heads from and to other devices.
//!
//! Owns which offers wait for the trainer thread, and which were judged: one of
//! each key at most, so that nobody who is trusted can fill the memory either.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::api::socket::{DaemonHandle, ErrorRecord, JudgeRequest};
use crate::config::is_device_name;
use crate::learning::fleet::{self, Key, Note, Offer, Unopened};
use crate::learning::refit::{Refusal, Ruling};
use crate::learning::{Fault, RefitRecord};
use crate::onnx::to_hex;
use crate::platform::files;

/// An offer that could not be judged, for want of samples or because the board
/// is too hot, is tried again after so long.
const AGAIN: Duration = Duration::from_mins(10);
/// What was judged, in the state directory.
const FILE: &str = "fleet.json";
const MAX_FILE: u64 = 1024 * 1024;

type Answer = oneshot::Receiver<Result<RefitRecord, ErrorRecord>>;

/// A head that waits to be judged.
struct Waiting {
    offer: Offer,
    digest: String,
    tried: Option<Instant>,
}

/// What one device does with the heads of others.
pub(super) struct Exchange {
    key: Key,
    handle: DaemonHandle,
    trusted: Vec<[u8; 32]>,
    share: bool,
    /// The head in use when it was last looked whether to share it.
    shared: Option<u32>,
    waiting: BTreeMap<[u8; 32], Waiting>,
    judging: Option<([u8; 32], String, Answer)>,
    /// The digest of the last offer of each key that was judged: after a restart,
    /// too, since the owner may have gone back to another head.
    judged: BTreeMap<String, String>,
}

impl Exchange {
    pub(super) fn new(
        key: Key,
        handle: DaemonHandle,
        trusted: Vec<[u8; 32]>,
        share: bool,
    ) -> Exchange {
        let bytes = files::read(&handle.learning.state().join(FILE), MAX_FILE);
        // Without it offers are judged once more.
        let judged = serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default();
        Exchange {
            key,
            handle,
            trusted,
            share,
            shared: None,
            waiting: BTreeMap::new(),
            judging: None,
            judged,
        }
    }

    /// On a new connection everything is told again.
    pub(super) fn begin(&mut self) {
        self.shared = None;
    }

    /// Takes what came on a topic of the fleet.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(), Unopened> {
        // What is deleted at the broker is an empty message.
        if bytes.is_empty() {
            return Ok(());
        }
        let offer = match fleet::open(bytes, &self.trusted, &self.key.public()) {
            Err(Unopened::Own) => return Ok(()),
            offer => offer?,
        };
        // It goes into logs.
        if !is_device_name(&offer.note.device) {
            return Err(Unopened::Malformed);
        }
        let digest = to_hex(&Sha256::digest(bytes));
        let key = offer.key;
        let is_known = self.judged.get(&to_hex(&key)) == Some(&digest);
        let waits = self.waiting.get(&key);
        if !is_known && waits.is_none_or(|waiting| waiting.digest != digest) {
            let waiting = Waiting {
                offer,
                digest,
                tried: None,
            };
            self.waiting.insert(key, waiting);
        }
        Ok(())
    }

    /// The bytes of an offer, if another head is in use than the last time, which
    /// was learned here.
    pub(super) fn offer(&mut self, device: &str) -> Option<Vec<u8>> {
        let number = self.handle.head.borrow().number;
        if !self.share || number == self.shared {
            return None;
        }
        self.shared = number;
        let head = number?;
        let shareable = match self.handle.learning.shareable(head) {
            Ok(shareable) => shareable?,
            Err(error) => {
                warn!(%error, head, "the head cannot be shared");
                return None;
            }
        };
        let note = Note {
            device: device.to_owned(),
            head,
            labels: shareable.labels,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            samples: shareable.samples,
            right: shareable.right,
        };
        info!(head, "the head is offered to other devices");
        Some(self.key.seal(&note, &shareable.bytes))
    }

    /// Has the next offer judged, and hears what came of the last one.
    pub(super) fn look(&mut self) {
        if let Some((key, digest, answer)) = &mut self.judging {
            let (key, digest) = (*key, digest.clone());
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => self.judging = None,
                Ok(answer) => {
                    self.judging = None;
                    self.settle(key, digest, &answer);
                }
            }
        }
        let is_due = |waiting: &Waiting| waiting.tried.is_none_or(|at| at.elapsed() >= AGAIN);
        let Some(waiting) = self.waiting.values_mut().find(|waiting| is_due(waiting)) else {
            return;
        };
        waiting.tried = Some(Instant::now());
        let Offer { key, note, head } = waiting.offer.clone();
        let (out, answer) = oneshot::channel();
        let call = JudgeRequest {
            name: format!("of the device {}", note.device),
            origin: to_hex(&key),
            head,
            answer: out,
        };
        if self.handle.judge.try_send(call).is_ok() {
            debug!(
                device = note.device,
                head = note.head,
                "a head is being judged"
            );
            self.judging = Some((key, waiting.digest.clone(), answer));
        }
    }

    fn settle(&mut self, key: [u8; 32], digest: String, answer: &Result<RefitRecord, ErrorRecord>) {
        let newest = self.waiting.get(&key);
        let Some(waiting) = newest.filter(|waiting| waiting.digest == digest) else {
            // It has offered another one meanwhile.
            return;
        };
        let Note { device, head, .. } = &waiting.offer.note;
        let is_final = match answer {
            Ok(record) => {
                let reason = &record.outcome.reason;
                match (&record.outcome.ruling, record.head) {
                    (Ruling::Accepted, number) => info!(
                        device,
                        theirs = head,
                        head = number,
                        reason,
                        "a head of another device is in use now"
                    ),
                    (Ruling::Refused(_), _) => info!(
                        device,
                        theirs = head,
                        reason,
                        "a head of another device is refused"
                    ),
                }
                !matches!(
                    record.outcome.ruling,
                    Ruling::Refused(
                        Refusal::NoSamples
                            | Refusal::OneClass { .. }
                            | Refusal::TooFewGroups { .. }
                    )
                )
            }
            Err(ErrorRecord { error, fault }) => {
                info!(
                    device,
                    theirs = head,
                    reason = error,
                    "a head of another device is not judged"
                );
                *fault == Fault::Data
            }
        };
        if is_final {
            self.waiting.remove(&key);
            self.judged.insert(to_hex(&key), digest);
            // Only keys that are trusted now.
            let trusted: Vec<String> = self.trusted.iter().map(|key| to_hex(key)).collect();
            self.judged.retain(|key, _| trusted.contains(key));
            self.remember();
        }
    }

    fn remember(&self) {
        let path: PathBuf = self.handle.learning.state().join(FILE);
        let json = serde_json::to_vec(&self.judged).unwrap_or_default();
        if let Err(error) = files::write(&path, &json) {
            warn!(%error, "it cannot be kept which heads were judged");
        }
    }
}
