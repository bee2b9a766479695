//! Replay features, which represent what a head must not forget while it is
//! trained on something new.
//!
//! This module owns the format of the replay file, which contains features of
//! the pictures that the base head was trained on. It knows nothing about
//! pictures or training, and it opens no files.
//!
//! # Format
//! The format is called `maskd-replay-2`. All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `maskd-replay-2` and two zero bytes |
//! | 32 | SHA-256 of the backbone that computed the features |
//! | 2 | number of labels, 1 to 64 |
//! | each 1 + length | a label, as its length in bytes (1 to 255) and its name in UTF-8 |
//! | 4 | number of features, 2 to 4096 |
//! | 4 | number of rows to train on |
//! | 4 | number of rows to hold out |
//! | each 1 + 4 + 4 + features | a row (training rows first): index of the label, offset (32-bit float, at most 0), scale (32-bit float, at least 0), each feature as the number of scales above the offset (0 to 255) |
//! | 32 | SHA-256 of all bytes before it |
//!
//! The offset is the smallest feature of the row, or 0 if no feature is negative, as with the
//! built-in backbone. The scale is the distance from the offset to the largest feature,
//! divided by 255. The rounding error of a feature is therefore at most half the scale,
//! which is 1/510 of this distance.

use sha2::{Digest, Sha256};

use crate::onnx::{LARGEST_FEATURE, MAX_FEATURES, MIN_FEATURES};

/// Maximum size of a replay file, in bytes.
pub const MAX_BYTES: usize = 2_000_000;

const MAGIC: &[u8; 16] = b"maskd-replay-2\0\0";
const MAX_LABELS: usize = 64;
const SHA: usize = 32;
/// Size of a row without its features, in bytes.
const ROW_HEADER: usize = 1 + 4 + 4;
/// Size of a file without its labels and rows, in bytes.
const HEADER: usize = 16 + SHA + 2 + 3 * 4 + SHA;

/// The reason why bytes are not a valid replay set, or why a replay set cannot
/// be written. Each message is a complete sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are not in this format, are cut off, or are followed by extra bytes.
    #[error("the replay set is not a maskd-replay-2 file: {0}")]
    Format(&'static str),
    /// The checksum does not match, so the bytes have changed since they were
    /// written.
    #[error("the replay set is damaged (its SHA-256 does not match): fetch or make it again")]
    Damaged,
    /// The replay set cannot be represented in this format.
    #[error("the replay set cannot be written: {0}")]
    Content(&'static str),
}

/// Rows of features and the class of each row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// Features `[labels.len(), width]` in row-major order. The width is the same for all rows.
    pub features: Vec<f32>,
    /// The class index of each row.
    pub labels: Vec<usize>,
}

impl Rows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the features of the row with this index, or `None` if there is
    /// no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<&[f32]> {
        if index >= self.len() {
            return None;
        }
        let width = self.width();
        self.features.get(index * width..(index + 1) * width)
    }

    /// Returns the length of a row's feature vector, or 0 if there are no rows.
    #[must_use]
    pub fn width(&self) -> usize {
        self.features.len().checked_div(self.len()).unwrap_or(0)
    }

    /// Adds a row, which must have as many features as the other rows.
    pub fn push(&mut self, features: &[f32], label: usize) {
        debug_assert!(self.is_empty() || features.len() == self.width());
        self.features.extend_from_slice(features);
        self.labels.push(label);
    }
}

/// Rows to train on and rows to hold out, with the names of their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// SHA-256 of the backbone that computed the features.
    pub backbone_sha256: [u8; 32],
    /// Names of the classes, in the order of their indices.
    pub labels: Vec<String>,
    /// Rows to train on.
    pub train: Rows,
    /// Rows to evaluate on. Their pictures differ from the pictures of the rows in
    /// `train`.
    pub holdout: Rows,
}

impl Replay {
    /// Returns the length of the rows' feature vectors, or 0 if there are no rows.
    #[must_use]
    pub fn features(&self) -> usize {
        self.train.width().max(self.holdout.width())
    }

    /// Returns the maximum number of rows of a set whose rows have `features` features and
    /// these labels.
    #[must_use]
    pub fn max_rows(labels: &[String], features: usize) -> usize {
        let labels: usize = labels.iter().map(|label| 1 + label.len()).sum();
        MAX_BYTES.saturating_sub(HEADER + labels) / (ROW_HEADER + features)
    }

    /// Parses a replay set. In the result, every label is a valid index into
    /// [`Replay::labels`], and every feature is finite. All rows have
    /// [`Replay::features`] features.
    ///
    /// # Errors
    /// Returns [`ReplayError::Format`] or [`ReplayError::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<Replay, ReplayError> {
        const SHORT: ReplayError = ReplayError::Format("it is cut off");
        let body = bytes.len().checked_sub(SHA).ok_or(SHORT)?;
        let (body, digest) = bytes.split_at(body);
        let mut reader = Reader(body);
        if reader.array::<16>() != Some(*MAGIC) {
            return Err(ReplayError::Format("it does not begin with its name"));
        }
        if Sha256::digest(body).as_slice() != digest {
            return Err(ReplayError::Damaged);
        }
        let backbone_sha256 = reader.array().ok_or(SHORT)?;
        let count = usize::from(u16::from_le_bytes(reader.array().ok_or(SHORT)?));
        if !(1..=MAX_LABELS).contains(&count) {
            return Err(ReplayError::Format("it must have 1 to 64 labels"));
        }
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            let [length] = reader.array().ok_or(SHORT)?;
            let name = reader.take(usize::from(length)).ok_or(SHORT)?;
            match std::str::from_utf8(name) {
                Ok(name) if !name.is_empty() => labels.push(name.to_owned()),
                _ => return Err(ReplayError::Format("a label has no name")),
            }
        }
        let features = u32::from_le_bytes(reader.array().ok_or(SHORT)?) as usize;
        if !(MIN_FEATURES..=MAX_FEATURES).contains(&features) {
            return Err(ReplayError::Format(
                "its number of features is not 2 to 4096",
            ));
        }
        let train = u32::from_le_bytes(reader.array().ok_or(SHORT)?) as usize;
        let holdout = u32::from_le_bytes(reader.array().ok_or(SHORT)?) as usize;
        // The counts come from untrusted input, so they are checked before any
        // memory is allocated for the rows.
        let rows = train.checked_add(holdout).ok_or(SHORT)?;
        if rows.checked_mul(ROW_HEADER + features) != Some(reader.0.len()) {
            return Err(ReplayError::Format(
                "its length does not match its number of rows",
            ));
        }
        let mut read = |rows: usize| {
            let mut set = Rows {
                features: Vec::with_capacity(rows * features),
                labels: Vec::with_capacity(rows),
            };
            for _ in 0..rows {
                let [label] = reader.array().ok_or(SHORT)?;
                let offset = f32::from_le_bytes(reader.array().ok_or(SHORT)?);
                let scale = f32::from_le_bytes(reader.array().ok_or(SHORT)?);
                let steps = reader.take(features).ok_or(SHORT)?;
                if usize::from(label) >= labels.len() {
                    return Err(ReplayError::Format("a row has a label that has no name"));
                }
                let largest = LARGEST_FEATURE as f32;
                if !(-largest..=0.0).contains(&offset) || !(0.0..=largest).contains(&scale) {
                    return Err(ReplayError::Format(
                        "a row's offset or scale is out of range",
                    ));
                }
                let features = steps.iter().map(|step| offset + f32::from(*step) * scale);
                set.features.extend(features);
                set.labels.push(usize::from(label));
            }
            Ok(set)
        };
        let (train, holdout) = (read(train)?, read(holdout)?);
        Ok(Replay {
            backbone_sha256,
            labels,
            train,
            holdout,
        })
    }

    /// Serializes a replay set. Features are rounded to 256 values between the smallest
    /// feature of the row, or 0 if it is positive, and the largest. The same set always gives
    /// the same bytes.
    ///
    /// # Errors
    /// Returns [`ReplayError::Content`] if the set does not fit the format or
    /// would have more than [`MAX_BYTES`] bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReplayError> {
        let content = |problem| Err(ReplayError::Content(problem));
        if !(1..=MAX_LABELS).contains(&self.labels.len()) {
            return content("it must have 1 to 64 labels");
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.backbone_sha256);
        bytes.extend((self.labels.len() as u16).to_le_bytes());
        for label in &self.labels {
            match u8::try_from(label.len()) {
                Ok(length) if length > 0 => bytes.push(length),
                _ => return content("a label must have 1 to 255 bytes"),
            }
            bytes.extend(label.as_bytes());
        }
        let sets = [&self.train, &self.holdout];
        let width = self.features();
        if !(MIN_FEATURES..=MAX_FEATURES).contains(&width) {
            return content("a row must have 2 to 4096 features");
        }
        bytes.extend((width as u32).to_le_bytes());
        for set in sets {
            bytes.extend((set.len() as u32).to_le_bytes());
        }
        for set in sets {
            if set.features.len() != set.len() * width {
                return content("the numbers of features and labels differ");
            }
            for (row, label) in set.features.chunks_exact(width).zip(&set.labels) {
                if *label >= self.labels.len() {
                    return content("a row has a label that has no name");
                }
                let is_in_range = |value: &f32| f64::from(value.abs()) <= LARGEST_FEATURE;
                if !row.iter().all(is_in_range) {
                    return content("a feature is not a number between -10,000 and 10,000");
                }
                let largest = row.iter().copied().fold(0.0, f32::max);
                let offset = row.iter().copied().fold(0.0, f32::min);
                let scale = (largest - offset) / 255.0;
                bytes.push(*label as u8);
                bytes.extend(offset.to_le_bytes());
                bytes.extend(scale.to_le_bytes());
                bytes.extend(row.iter().map(|value| {
                    // The result is at most 255 because the scale is the distance from the
                    // offset to the largest value, divided by 255.
                    let above = value - offset;
                    let steps = if scale > 0.0 { above / scale } else { 0.0 };
                    steps.round().min(255.0) as u8
                }));
            }
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest.as_slice());
        if bytes.len() > MAX_BYTES {
            return content("it would have more than 2,000,000 bytes");
        }
        Ok(bytes)
    }
}

/// Reads from bytes. The field holds the bytes that have not been read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::FEATURES;

    fn set(train: usize, holdout: usize) -> Replay {
        let rows = |count: usize, from: usize| {
            let mut rows = Rows::default();
            for row in 0..count {
                let features: Vec<f32> = (0..FEATURES)
                    .map(|at| ((at * 7 + (row + from) * 13) % 61) as f32 / 10.0)
                    .collect();
                rows.push(&features, (row + from) % 2);
            }
            rows
        };
        Replay {
            backbone_sha256: [7; 32],
            labels: vec!["with_mask".to_owned(), "bare".to_owned()],
            train: rows(train, 0),
            holdout: rows(holdout, train),
        }
    }

    /// Appends a matching checksum to the bytes.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let digest = Sha256::digest(&body);
        body.extend(digest.as_slice());
        body
    }

    #[test]
    fn comes_back_within_half_a_step() {
        let written = set(5, 2);
        let bytes = written.to_bytes().unwrap();
        let read = Replay::parse(&bytes).unwrap();
        assert_eq!(read.labels, written.labels);
        assert_eq!(read.backbone_sha256, written.backbone_sha256);
        for (read, written) in [
            (&read.train, &written.train),
            (&read.holdout, &written.holdout),
        ] {
            assert_eq!(read.labels, written.labels);
            for (read, written) in read.features.iter().zip(&written.features) {
                assert!((read - written).abs() <= 6.0 / 510.0 + 1e-5);
            }
        }
        assert_eq!(
            read.to_bytes().unwrap(),
            bytes,
            "rounding twice changes nothing"
        );
    }

    #[test]
    fn features_of_another_backbone_may_be_negative_and_of_another_number() {
        let mut written = set(0, 0);
        written.train.push(&[-3.0, 0.5, 2.1], 0);
        written.train.push(&[-0.5, -0.25, -0.1], 1);
        written.holdout.push(&[0.0, 0.0, 0.0], 0);
        let bytes = written.to_bytes().unwrap();
        let read = Replay::parse(&bytes).unwrap();
        assert_eq!((read.features(), read.train.width()), (3, 3));
        assert_eq!(read.train.row(1).unwrap().len(), 3);
        assert_eq!(read.train.row(2), None);
        for (read, written) in read.train.features.iter().zip(&written.train.features) {
            assert!(
                (read - written).abs() <= 5.1 / 510.0 + 1e-5,
                "{read} {written}"
            );
        }
        assert_eq!(read.holdout, written.holdout);
        written.holdout.features.push(1.0);
        assert!(matches!(written.to_bytes(), Err(ReplayError::Content(_))));
    }

    #[test]
    fn a_file_of_the_maximum_number_of_rows_is_not_too_large() {
        let labels = set(0, 0).labels;
        let rows = Replay::max_rows(&labels, FEATURES);
        assert!(set(rows, 0).to_bytes().is_ok());
        assert!(set(rows, 1).to_bytes().is_err());
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let mut bytes = set(2, 1).to_bytes().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert_eq!(Replay::parse(&bytes), Err(ReplayError::Damaged));
    }

    #[test]
    fn what_does_not_fit_the_format_is_not_written() {
        let refused = |change: fn(&mut Replay)| {
            let mut replay = set(2, 1);
            change(&mut replay);
            assert!(matches!(replay.to_bytes(), Err(ReplayError::Content(_))));
        };
        refused(|replay| replay.labels.clear());
        refused(|replay| replay.labels[0].clear());
        refused(|replay| replay.train.labels[1] = 2);
        refused(|replay| replay.train.features[3] = f32::NAN);
        refused(|replay| replay.train.features[3] = -1.1e4);
        refused(|replay| replay.holdout.labels.push(0));
        assert!(matches!(
            set(1600, 1).to_bytes(),
            Err(ReplayError::Content(_))
        ));
    }

    proptest! {
        #[test]
        fn never_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Replay::parse(&bytes);
            let named: Vec<u8> = MAGIC.iter().copied().chain(bytes).collect();
            let _ = Replay::parse(&named);
            let _ = Replay::parse(&sealed(named));
        }

        /// Damaged contents must not cause a panic, even if the checksum matches them.
        #[test]
        fn never_panics_on_a_damaged_set(
            at in 0_usize..100, value in any::<u8>(), end in 0_usize..2, cut in 0_usize..3000
        ) {
            let bytes = set(1, 1).to_bytes().unwrap();
            let mut body = bytes[..bytes.len() - SHA].to_vec();
            body[at] = value;
            body.truncate(body.len() - end * cut.min(body.len()));
            if let Ok(replay) = Replay::parse(&sealed(body)) {
                prop_assert!(replay.train.labels.iter().all(|label| *label < replay.labels.len()));
                prop_assert!(replay.train.features.iter().all(|value| value.is_finite()));
            }
        }
    }
}
