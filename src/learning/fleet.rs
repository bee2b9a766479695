//! Signed heads that devices exchange.
//!
//! This module owns the key of this device and the format of an offer. An offer records that a
//! device signed a head. An offer that can be opened is authentic, but its head may still be worse
//! than the head in use. The gate therefore evaluates an offered head on the samples of this
//! device.
//!
//! ```text
//! magic 8 | public key 32 | signature 64 | length of the JSON 4 (big-endian) | JSON | head
//! ```
//!
//! The signature (Ed25519) covers a string that names the purpose, then the public key, and then
//! everything that follows the signature.

use std::fmt;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::learning::state_format::{self, StateFormatError};
use crate::platform::files::{self, FileError};
use crate::platform::hex;

const MAGIC: &[u8; 8] = b"maskdh1\n";
/// Prefix of the signed bytes. Because of this prefix, a signature that was made for another
/// purpose is not accepted for an offer.
const PURPOSE: &[u8] = b"maskd head offer 1\0";
const KEY: usize = 32;
const SIGNATURE: usize = 64;
const FIXED: usize = MAGIC.len() + KEY + SIGNATURE + 4;
/// Maximum size of the JSON in an offer, in bytes.
const MAX_JSON: usize = 4096;
/// Maximum size of an offer, in bytes. The offer of a head that was refitted from the built-in one
/// is about half as large.
pub const MAX_OFFER: usize = 4 * 1024 * 1024;
/// The key file in the state directory.
const FILE: &str = "fleet.key";
/// Maximum size of a key file to read, in bytes. A valid key file has [`KEY`]
/// bytes.
const MAX_KEY_FILE: u64 = 1024;

/// The reason why the key of this device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system reported an error for the key file.
    #[error("cannot use the key of this device: {0}")]
    File(#[from] FileError),
    /// The state directory was used by a newer maskd, or its format cannot be read.
    #[error(transparent)]
    StateFormat(#[from] StateFormatError),
    /// The system cannot provide random numbers for a new key.
    #[error("cannot make the key of this device: {0}")]
    Random(getrandom::Error),
    /// The file does not hold a key.
    #[error("{path} holds no key: delete it; the other devices must then trust the new key")]
    Damaged {
        /// The key file.
        path: PathBuf,
    },
}

/// The key of this device, which is stored in the state directory.
#[derive(Clone)]
pub struct Key(SigningKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", hex::encode(&self.public()))
    }
}

impl Key {
    /// Reads the key from a state directory, or creates one if there is none.
    /// Only the owner of the directory has access to the new key.
    ///
    /// # Errors
    /// Returns a [`KeyError`] if the key cannot be read or created.
    pub fn open(state: &Path) -> Result<Key, KeyError> {
        state_format::check(state)?;
        let path = state.join(FILE);
        match files::read_own(&path, MAX_KEY_FILE) {
            Ok(bytes) => match <[u8; KEY]>::try_from(bytes) {
                Ok(secret) => Ok(Key(SigningKey::from_bytes(&secret))),
                Err(_) => Err(KeyError::Damaged { path }),
            },
            Err(error) if error.is_missing() => Key::make(state, &path),
            Err(error) => Err(error.into()),
        }
    }

    fn make(state: &Path, path: &Path) -> Result<Key, KeyError> {
        let mut secret = [0; KEY];
        getrandom::fill(&mut secret).map_err(KeyError::Random)?;
        files::make_folder(state)?;
        files::write_secret(path, &secret)?;
        Ok(Key(SigningKey::from_bytes(&secret)))
    }

    /// Returns the public key, by which other devices identify this device.
    #[must_use]
    pub fn public(&self) -> [u8; KEY] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs a head and returns the bytes of the offer.
    #[must_use]
    pub fn seal(&self, info: &OfferInfo, head: &[u8]) -> Vec<u8> {
        let json = serde_json::to_vec(info).unwrap_or_default();
        let mut rest = (json.len() as u32).to_be_bytes().to_vec();
        rest.extend(json);
        rest.extend(head);
        let public = self.public();
        let signature = self.0.sign(&[PURPOSE, &public, &rest].concat());
        [&MAGIC[..], &public, &signature.to_bytes(), &rest].concat()
    }
}

/// What an offer says about its head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferInfo {
    /// Name of the device that trained the head.
    pub device: String,
    /// Number of the head on that device.
    pub head: u32,
    /// Labels of the head.
    pub labels: Vec<String>,
    /// Version of maskd that trained the head.
    pub version: String,
    /// Number of samples on which that device evaluated the head.
    pub samples: usize,
    /// Number of these samples that the head classified correctly.
    pub right: usize,
}

/// An offer from a trusted device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The public key of the device.
    pub key: [u8; KEY],
    /// What the offer says about the head.
    pub info: OfferInfo,
    /// The bytes of the head file. They have not been parsed yet.
    pub head: Vec<u8>,
}

/// The reason why an offer cannot be opened or is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OfferError {
    /// The offer comes from this device itself.
    Own,
    /// The bytes do not have the format of an offer.
    Malformed,
    /// The key of the offer is not in `fleet.trust`.
    Untrusted,
    /// The signature does not match the key.
    Forged,
}

/// Opens an offer if it is signed with one of the `trusted` keys and does not
/// come from this device.
///
/// # Errors
/// Returns an [`OfferError`] if the offer cannot be opened or is not accepted.
pub fn open(bytes: &[u8], trusted: &[[u8; KEY]], own: &[u8; KEY]) -> Result<Offer, OfferError> {
    if bytes.len() > MAX_OFFER || bytes.len() < FIXED {
        return Err(OfferError::Malformed);
    }
    let rest = bytes.strip_prefix(MAGIC).ok_or(OfferError::Malformed)?;
    let (key, rest) = rest.split_first_chunk().ok_or(OfferError::Malformed)?;
    let (signature, rest) = rest
        .split_first_chunk::<SIGNATURE>()
        .ok_or(OfferError::Malformed)?;
    if key == own {
        return Err(OfferError::Own);
    }
    // Trust is checked before the expensive steps, so that an untrusted offer
    // costs little time.
    if !trusted.contains(key) {
        return Err(OfferError::Untrusted);
    }
    let verifying = VerifyingKey::from_bytes(key).map_err(|_| OfferError::Forged)?;
    let signed = [PURPOSE, key, rest].concat();
    verifying
        .verify_strict(&signed, &Signature::from_bytes(signature))
        .map_err(|_| OfferError::Forged)?;
    let (info, head) = content(rest)?;
    Ok(Offer {
        key: *key,
        info,
        head: head.to_vec(),
    })
}

/// Parses the part of an offer after the signature. Returns the info and the bytes of the
/// head.
///
/// # Errors
/// Returns [`OfferError::Malformed`] if the bytes do not have the format of an offer.
pub fn content(rest: &[u8]) -> Result<(OfferInfo, &[u8]), OfferError> {
    let (length, rest) = rest.split_first_chunk().ok_or(OfferError::Malformed)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (json, head) = rest
        .split_at_checked(length)
        .filter(|(json, _)| json.len() <= MAX_JSON)
        .ok_or(OfferError::Malformed)?;
    let info = serde_json::from_slice(json).map_err(|_| OfferError::Malformed)?;
    Ok((info, head))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn info() -> OfferInfo {
        OfferInfo {
            device: "door".to_owned(),
            head: 3,
            labels: vec!["a".to_owned(), "b".to_owned()],
            version: "1".to_owned(),
            samples: 10,
            right: 9,
        }
    }

    fn key(seed: u8) -> Key {
        Key(SigningKey::from_bytes(&[seed; 32]))
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let made = Key::open(&state).unwrap();
        assert_eq!(Key::open(&state).unwrap().public(), made.public());
        let mode = fs::metadata(state.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        let other = Key::open(&folder.path().join("other")).unwrap();
        assert_ne!(other.public(), made.public());
        assert!(!format!("{made:?}").contains(&hex::encode(&made.0.to_bytes())));
        fs::write(state.join(FILE), b"short").unwrap();
        let error = Key::open(&state).unwrap_err().to_string();
        assert!(error.contains("holds no key"), "{error}");
    }

    #[test]
    fn only_what_a_trusted_key_signed_is_opened() {
        let (theirs, ours) = (key(1), key(2));
        let sealed = theirs.seal(&info(), b"weights");
        let trusted = [theirs.public()];
        let opened = open(&sealed, &trusted, &ours.public()).unwrap();
        assert_eq!((opened.info, opened.head), (info(), b"weights".to_vec()));
        assert_eq!(opened.key, theirs.public());
        let refused = |bytes: &[u8], own: &Key| open(bytes, &trusted, &own.public()).unwrap_err();
        assert_eq!(refused(&sealed, &theirs), OfferError::Own);
        let stranger = key(3).seal(&info(), b"weights");
        assert_eq!(refused(&stranger, &ours), OfferError::Untrusted);
        // An attacker puts a trusted key in front of bytes that another key
        // signed.
        let mut forged = stranger;
        forged[8..40].copy_from_slice(&theirs.public());
        assert_eq!(refused(&forged, &ours), OfferError::Forged);
        // The changed length makes the JSON extend beyond the end of the head.
        let mut longer = sealed.clone();
        longer[104] = 0x7f;
        assert_eq!(refused(&longer, &ours), OfferError::Forged);
        assert_eq!(refused(b"", &ours), OfferError::Malformed);
        assert_eq!(
            refused(&vec![0; MAX_OFFER + 1], &ours),
            OfferError::Malformed
        );
    }

    #[test]
    fn a_trusted_key_may_sign_nonsense_too() {
        let (theirs, ours) = (key(1), key(2));
        for rest in [
            &b""[..],
            b"\xff\xff\xff\xff{}",
            b"\0\0\0\x02{}weights",
            b"\0\0\0\x09weights",
        ] {
            let public = theirs.public();
            let signature = theirs.0.sign(&[PURPOSE, &public, rest].concat());
            let bytes = [&MAGIC[..], &public, &signature.to_bytes(), rest].concat();
            let refused = open(&bytes, &[public], &ours.public());
            assert_eq!(refused, Err(OfferError::Malformed), "{rest:?}");
        }
    }

    proptest! {
        #[test]
        fn any_change_is_noticed(at in 0_usize..200, by in 1_u8..) {
            let (theirs, ours) = (key(1), key(2));
            let mut sealed = theirs.seal(&info(), &[7; 100]);
            prop_assume!(at < sealed.len());
            sealed[at] ^= by;
            prop_assert!(open(&sealed, &[theirs.public()], &ours.public()).is_err());
        }

        #[test]
        fn any_bytes_are_refused(bytes in any::<Vec<u8>>()) {
            let trusted = [key(1).public()];
            prop_assert!(open(&bytes, &trusted, &key(2).public()).is_err());
        }
    }
}
