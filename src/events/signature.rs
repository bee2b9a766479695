//! The signature of a webhook: HMAC-SHA256, as [RFC 2104] and [Standard Webhooks] define it.
//!
//! This module does no I/O.
//!
//! [RFC 2104]: https://www.rfc-editor.org/rfc/rfc2104
//! [Standard Webhooks]: https://www.standardwebhooks.com

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Size of a block of SHA-256, in bytes.
const BLOCK: usize = 64;
/// Prefix of a key that is encoded in base64.
const ENCODED_KEY: &str = "whsec_";

/// A key for signatures. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads a key from the content of its file, without the line end. After the prefix `whsec_`,
    /// the key is encoded in base64. Otherwise, the bytes of the text are the key. Returns `None`
    /// if there is no valid key.
    pub(super) fn parse(text: &str) -> Option<Key> {
        let key = match text.strip_prefix(ENCODED_KEY) {
            Some(encoded) => STANDARD.decode(encoded).ok()?,
            None => text.as_bytes().to_vec(),
        };
        (!key.is_empty()).then_some(Key(key))
    }

    /// Returns the value of the header `webhook-signature` for a request. `timestamp` is in
    /// seconds since 1970.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let text = format!("{id}.{timestamp}.{body}");
        let code = hmac_sha256(&self.0, text.as_bytes());
        format!("v1,{}", STANDARD.encode(code))
    }
}

/// Returns the HMAC-SHA256 of a message.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |byte: u8| block.map(|key| key ^ byte);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize();
    outer.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::hex;

    /// The test cases of RFC 4231 that are not truncated.
    #[test]
    fn codes_are_those_of_rfc_4231() {
        let long_key = vec![0xaa; 131];
        let numbers: Vec<u8> = (1..=25).collect();
        let cases: [(&[u8], &[u8], &str); 6] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 20],
                &[0xdd; 50],
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            ),
            (
                &numbers,
                &[0xcd; 50],
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            ),
            (
                &long_key,
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &long_key,
                b"This is a test using a larger than block-size key and a larger than block-size \
                  data. The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, message, code) in cases {
            assert_eq!(hex::encode(&hmac_sha256(key, message)), code);
        }
    }

    /// The example of the reference libraries of Standard Webhooks.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            key.sign(
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                "{\"test\": 2432232314}"
            ),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn only_a_key_is_a_key() {
        assert_eq!(Key::parse("plain text"), Some(Key(b"plain text".to_vec())));
        assert_eq!(Key::parse("whsec_QQ=="), Some(Key(b"A".to_vec())));
        for text in ["", "whsec_", "whsec_*"] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
        assert_eq!(format!("{:?}", Key::parse("secret")), "Some(Key(…))");
    }
}
