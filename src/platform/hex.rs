//! Converts bytes to and from hexadecimal digits.

/// Encodes each byte as two lowercase digits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes the 32 bytes of a key or a SHA-256. Returns `None` unless `text` consists of
/// 64 hexadecimal digits, in upper or lower case.
pub(crate) fn decode(text: &str) -> Option<[u8; 32]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8))
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_64_digits_are_a_key() {
        assert_eq!(decode(&"0A".repeat(32)), Some([10; 32]));
        for text in [
            "",
            &"0".repeat(63),
            &"0".repeat(66),
            &"+f".repeat(32),
            &"ä".repeat(32),
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: [u8; 32]) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
