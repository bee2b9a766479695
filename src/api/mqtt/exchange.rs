//! Exchanges heads with other devices.
//!
//! Keeps track of which offers wait for the refit worker and which were judged. Keeps at
//! most one offer per key, so that not even a trusted device can fill the memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::api::socket::{DaemonHandle, ErrorRecord, JudgeRequest};
use crate::config::is_device_name;
use crate::learning::fleet::{self, Key, Offer, OfferError, OfferInfo};
use crate::learning::{DecisionRecord, FailureKind, RefitRecord, RefusalRecord};
use crate::platform::files;
use crate::platform::hex;

/// How long to wait before retrying an offer that could not be judged because there are
/// too few samples or the board is too hot.
const RETRY_AFTER: Duration = Duration::from_mins(10);
/// The file in the state directory that lists which offers were judged.
const JUDGED_FILE: &str = "fleet.json";
/// Maximum size of [`JUDGED_FILE`], in bytes.
const MAX_JUDGED_FILE: u64 = 1024 * 1024;

type Answer = oneshot::Receiver<Result<RefitRecord, ErrorRecord>>;

/// An offer that waits to be judged.
struct PendingOffer {
    offer: Offer,
    digest: String,
    tried_at: Option<Instant>,
}

/// Publishes the heads trained on this device and has the heads from other devices
/// judged.
pub(super) struct HeadExchange {
    key: Key,
    handle: DaemonHandle,
    trusted: Vec<[u8; 32]>,
    share: bool,
    /// The head that was in use when sharing was last considered.
    last_considered: Option<u32>,
    pending: BTreeMap<[u8; 32], PendingOffer>,
    /// The key and digest of the offer that is being judged, and the channel on which its
    /// result will arrive.
    judging: Option<([u8; 32], String, Answer)>,
    /// The digest of the last judged offer from each key. It survives a restart: if the
    /// owner rolled back to another head, the same offer must not replace that head.
    judged: BTreeMap<String, String>,
}

impl HeadExchange {
    pub(super) fn new(
        key: Key,
        handle: DaemonHandle,
        trusted: Vec<[u8; 32]>,
        share: bool,
    ) -> HeadExchange {
        let bytes =
            files::read_bounded(&handle.learning.state().join(JUDGED_FILE), MAX_JUDGED_FILE);
        // If the file cannot be read, offers are judged once more.
        let judged = serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default();
        HeadExchange {
            key,
            handle,
            trusted,
            share,
            last_considered: None,
            pending: BTreeMap::new(),
            judging: None,
            judged,
        }
    }

    /// Causes the head in use to be published again on a new connection.
    pub(super) fn on_connect(&mut self) {
        self.last_considered = None;
    }

    /// Accepts a message from a fleet topic.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), OfferError> {
        // An empty message means that the retained offer was deleted.
        if bytes.is_empty() {
            return Ok(());
        }
        let offer = match fleet::open(bytes, &self.trusted, &self.key.public()) {
            Err(OfferError::Own) => return Ok(()),
            offer => offer?,
        };
        // The device name is checked because it appears in logs.
        if !is_device_name(&offer.info.device) {
            return Err(OfferError::Malformed);
        }
        let digest = hex::encode(&Sha256::digest(bytes));
        let key = offer.key;
        let is_known = self.judged.get(&hex::encode(&key)) == Some(&digest);
        let pending = self.pending.get(&key);
        if !is_known && pending.is_none_or(|pending| pending.digest != digest) {
            let pending = PendingOffer {
                offer,
                digest,
                tried_at: None,
            };
            self.pending.insert(key, pending);
        }
        Ok(())
    }

    /// Returns an offer to publish if the head in use has changed and was trained on this
    /// device.
    pub(super) fn next_offer(&mut self, device: &str) -> Option<Vec<u8>> {
        let number = self.handle.head.borrow().number;
        if !self.share || number == self.last_considered {
            return None;
        }
        self.last_considered = number;
        let head = number?;
        let shareable = match self.handle.learning.shared_head(head) {
            Ok(shareable) => shareable?,
            Err(error) => {
                warn!(%error, head, "cannot share the model");
                return None;
            }
        };
        let info = OfferInfo {
            device: device.to_owned(),
            head,
            labels: shareable.labels,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            samples: shareable.samples,
            right: shareable.right,
        };
        info!(head, "the model is shared with other devices");
        Some(self.key.seal(&info, &shareable.bytes))
    }

    /// Collects the result of the last offer and has the next one judged.
    pub(super) fn poll(&mut self) {
        if let Some((key, digest, answer)) = &mut self.judging {
            let (key, digest) = (*key, digest.clone());
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => self.judging = None,
                Ok(answer) => {
                    self.judging = None;
                    self.finish(key, digest, &answer);
                }
            }
        }
        let is_due = |pending: &PendingOffer| {
            pending
                .tried_at
                .is_none_or(|at| at.elapsed() >= RETRY_AFTER)
        };
        let Some(pending) = self.pending.values_mut().find(|pending| is_due(pending)) else {
            return;
        };
        pending.tried_at = Some(Instant::now());
        let Offer { key, info, head } = pending.offer.clone();
        let (sender, answer) = oneshot::channel();
        let request = JudgeRequest {
            name: format!("of the device {}", info.device),
            origin: hex::encode(&key),
            head,
            answer: sender,
        };
        if self.handle.judge.try_send(request).is_ok() {
            debug!(
                device = info.device,
                head = info.head,
                "judging a model from another device"
            );
            self.judging = Some((key, pending.digest.clone(), answer));
        }
    }

    fn finish(&mut self, key: [u8; 32], digest: String, answer: &Result<RefitRecord, ErrorRecord>) {
        let newest = self.pending.get(&key);
        let Some(pending) = newest.filter(|pending| pending.digest == digest) else {
            // The device has offered another head in the meantime.
            return;
        };
        let OfferInfo { device, head, .. } = &pending.offer.info;
        let is_final = match answer {
            Ok(record) => {
                let reason = &record.outcome.reason;
                match (&record.outcome.ruling, record.head) {
                    (DecisionRecord::Accepted, number) => info!(
                        device,
                        theirs = head,
                        head = number,
                        reason,
                        "a model from another device is in use now"
                    ),
                    (DecisionRecord::Refused(_), _) => info!(
                        device,
                        theirs = head,
                        reason,
                        "a model from another device was refused"
                    ),
                }
                !matches!(
                    record.outcome.ruling,
                    DecisionRecord::Refused(
                        RefusalRecord::NoSamples
                            | RefusalRecord::OneClass { .. }
                            | RefusalRecord::TooFewGroups { .. }
                    )
                )
            }
            Err(ErrorRecord { error, fault }) => {
                info!(
                    device,
                    theirs = head,
                    reason = error,
                    "a model from another device could not be judged"
                );
                *fault == FailureKind::Data
            }
        };
        if is_final {
            self.pending.remove(&key);
            self.judged.insert(hex::encode(&key), digest);
            // Forget devices that are no longer trusted.
            let trusted: Vec<String> = self.trusted.iter().map(|key| hex::encode(key)).collect();
            self.judged.retain(|key, _| trusted.contains(key));
            self.save_judged();
        }
    }

    fn save_judged(&self) {
        let path: PathBuf = self.handle.learning.state().join(JUDGED_FILE);
        let json = serde_json::to_vec(&self.judged).unwrap_or_default();
        if let Err(error) = files::write(&path, &json) {
            warn!(%error, "cannot save which models were judged");
        }
    }
}
