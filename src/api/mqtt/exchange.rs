//! Exchanges heads with other devices.
//!
//! This module tracks which offers are waiting for the refit worker and which offers have
//! been judged. It stores at most one offer per key, so that not even a trusted device
//! can exhaust the memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
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

/// If an offer could not be judged because there were too few samples or the board was
/// too hot, the offer is retried after this time.
const RETRY_AFTER: Duration = Duration::from_mins(10);
/// The file in the state directory that lists the offers that have been judged.
const JUDGED_FILE: &str = "fleet.json";
/// Maximum size of [`JUDGED_FILE`], in bytes.
const MAX_JUDGED_FILE: u64 = 1024 * 1024;

/// Maximum number of judged offers that are remembered for each key. Heads that were
/// rolled back are stored elsewhere and are never forgotten.
const MAX_JUDGED: usize = 100;

type Answer = oneshot::Receiver<Result<RefitRecord, ErrorRecord>>;

/// The digests of judged offers. Older versions of maskd stored only the newest digest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Digests {
    All(Vec<String>),
    Newest(String),
}

impl Default for Digests {
    fn default() -> Digests {
        Digests::All(Vec::new())
    }
}

impl Digests {
    fn contains(&self, digest: &String) -> bool {
        match self {
            Digests::All(digests) => digests.contains(digest),
            Digests::Newest(newest) => newest == digest,
        }
    }

    fn push(&mut self, digest: String) {
        let mut digests = match std::mem::take(self) {
            Digests::All(digests) => digests,
            Digests::Newest(newest) => vec![newest],
        };
        digests.retain(|known| *known != digest);
        digests.push(digest);
        let excess = digests.len().saturating_sub(MAX_JUDGED);
        digests.drain(..excess);
        *self = Digests::All(digests);
    }
}

/// An offer that is waiting to be judged.
struct PendingOffer {
    offer: Offer,
    digest: String,
    tried_at: Option<Instant>,
}

/// Publishes the heads trained on this device, and submits the heads from other devices
/// to the refit worker.
pub(super) struct HeadExchange {
    key: Key,
    handle: DaemonHandle,
    trusted: Vec<[u8; 32]>,
    share: bool,
    /// Number of the head that was last considered for sharing.
    last_considered: Option<u32>,
    pending: BTreeMap<[u8; 32], PendingOffer>,
    /// The key and digest of the offer that is being judged, and the channel on which its
    /// result will arrive.
    judging: Option<([u8; 32], String, Answer)>,
    /// The digests of the judged offers from each key, from oldest to newest. The digests
    /// are saved to disk, so that no offer is judged twice, not even after a restart or
    /// after other offers have been judged. Otherwise, an offer that was already judged
    /// could replace a head to which the owner has rolled back.
    judged: BTreeMap<String, Digests>,
}

impl HeadExchange {
    pub(super) fn new(
        key: Key,
        handle: DaemonHandle,
        trusted: Vec<[u8; 32]>,
        share: bool,
    ) -> HeadExchange {
        let bytes = files::read_own(&handle.learning.state().join(JUDGED_FILE), MAX_JUDGED_FILE);
        // If the file cannot be read, offers are judged again.
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

    /// Makes the exchange publish the head in use again, because the connection is new.
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
        let judged = self.judged.get(&hex::encode(&key));
        let is_known = judged.is_some_and(|judged| judged.contains(&digest));
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
        let learning = self.handle.learning();
        let shareable = match learning.and_then(|learning| learning.shared_head(head)) {
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

    /// Collects the result of the last offer, and submits the next one to the refit
    /// worker.
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
                    (DecisionRecord::NothingToGain, _) => info!(
                        device,
                        theirs = head,
                        reason,
                        "a model from another device was not needed"
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
            Err(ErrorRecord { error, fault, .. }) => {
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
            let judged = self.judged.entry(hex::encode(&key)).or_default();
            judged.push(digest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judged_offers_are_remembered_in_any_order() {
        let mut digests = Digests::default();
        for number in 0..MAX_JUDGED {
            digests.push(number.to_string());
        }
        assert!((0..MAX_JUDGED).all(|number| digests.contains(&number.to_string())));
        digests.push("0".to_owned());
        digests.push("new".to_owned());
        assert!(digests.contains(&"0".to_owned()), "it was judged again");
        assert!(
            !digests.contains(&"1".to_owned()),
            "the oldest is forgotten"
        );
    }

    #[test]
    fn the_file_of_an_older_version_is_read() {
        let json = "{\"aa\":\"1\",\"bb\":[\"2\",\"3\"]}";
        let mut judged: BTreeMap<String, Digests> = serde_json::from_str(json).unwrap();
        let known = |judged: &BTreeMap<String, Digests>, key: &str, digest: &str| {
            judged[key].contains(&digest.to_owned())
        };
        assert!(known(&judged, "aa", "1") && known(&judged, "bb", "2"));
        judged
            .entry("aa".to_owned())
            .or_default()
            .push("4".to_owned());
        assert!(known(&judged, "aa", "1") && known(&judged, "aa", "4"));
        let json = serde_json::to_string(&judged).unwrap();
        assert_eq!(json, "{\"aa\":[\"1\",\"4\"],\"bb\":[\"2\",\"3\"]}");
    }
}
