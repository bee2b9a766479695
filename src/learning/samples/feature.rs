//! The file format of features.

use sha2::{Digest, Sha256};

use crate::onnx::{MAX_FEATURES, MIN_FEATURES};
use crate::platform::files::FileError;
use crate::vision::embed::Feature;

/// Maximum number of rows in a feature file: one for the crop itself, and one for each
/// of its variants.
pub const MAX_ROWS: usize = 64;

const MAGIC: [u8; 8] = *b"MASKDFEA";
const VERSION: u32 = 1;
const HASH: usize = 32;
/// Size in bytes of the magic, the version, the number of rows, and the hashes of the
/// backbone and the picture.
pub(super) const HEADER: usize = MAGIC.len() + 4 + 4 + 2 * HASH;

/// Maximum size of a feature file in bytes.
pub(super) const MAX_BYTES: u64 = (HEADER + MAX_ROWS * MAX_FEATURES * 4 + HASH) as u64;

/// The contents of a feature file.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureFile {
    /// SHA-256 of the backbone that computed the features.
    pub backbone: [u8; 32],
    /// SHA-256 of the picture file that the features were computed from, or `None` if
    /// only the features were kept.
    pub picture: Option<[u8; 32]>,
    /// The features of the crop itself, followed by the features of its augmented
    /// variants. There are 1 to [`MAX_ROWS`] rows of finite values.
    pub rows: Vec<Feature>,
}

/// Why a sample has no usable features. In every case, the features can be computed again
/// from the picture, if there is one.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// No features have been computed yet.
    #[error("there are no features of this sample")]
    Missing,
    /// A file operation failed.
    #[error(transparent)]
    File(FileError),
    /// The file is truncated or corrupted.
    #[error("the feature file is damaged: {0}")]
    Damaged(&'static str),
    /// The features were computed by a backbone other than the requested one.
    #[error("the features were made by another backbone")]
    OtherBackbone,
    /// The picture was replaced by another picture with the same name.
    #[error("the features belong to another picture with the same name")]
    OtherPicture,
}

/// Parses a feature file. All numbers are little-endian:
///
/// ```text
/// 8            "MASKDFEA"
/// 4            version, 1
/// 4            rows, 1 to 64
/// 32           SHA-256 of the backbone
/// 32           SHA-256 of the picture file, or zeros
/// rows x 4 F   F 32-bit floats
/// 32           SHA-256 of everything before it
/// ```
///
/// The number F of features depends on the backbone, and follows from the length of the file.
///
/// # Errors
/// Returns [`FeatureError::Damaged`] if the bytes do not have this format.
pub fn parse_features(bytes: &[u8]) -> Result<FeatureFile, FeatureError> {
    let damaged = |what| Err(FeatureError::Damaged(what));
    let Some((content, sum)) = bytes.split_last_chunk::<HASH>() else {
        return damaged("it is cut off");
    };
    let Some(rest) = content.strip_prefix(&MAGIC) else {
        return damaged("it is not a feature file");
    };
    let header = rest
        .split_first_chunk::<4>()
        .and_then(|(version, rest)| Some((version, rest.split_first_chunk::<4>()?)))
        .and_then(|(version, (rows, rest))| {
            let (backbone, rest) = rest.split_first_chunk::<HASH>()?;
            let (picture, rest) = rest.split_first_chunk::<HASH>()?;
            Some((version, rows, backbone, picture, rest))
        });
    let Some((version, rows, backbone, picture, values)) = header else {
        return damaged("it is cut off");
    };
    if u32::from_le_bytes(*version) != VERSION {
        return damaged("its version is unknown");
    }
    let rows = u32::from_le_bytes(*rows) as usize;
    if !(1..=MAX_ROWS).contains(&rows) {
        return damaged("its number of rows is wrong");
    }
    let row = values.len() / rows;
    if !row.is_multiple_of(4)
        || !(MIN_FEATURES..=MAX_FEATURES).contains(&(row / 4))
        || values.len() != rows * row
    {
        return damaged("its length is wrong");
    }
    if *sum != <[u8; HASH]>::from(Sha256::digest(content)) {
        return damaged("its checksum is wrong");
    }
    let rows: Option<Vec<Feature>> = values.chunks_exact(row).map(feature).collect();
    let Some(rows) = rows else {
        return damaged("it holds a number that is not finite");
    };
    Ok(FeatureFile {
        backbone: *backbone,
        picture: (*picture != [0; HASH]).then_some(*picture),
        rows,
    })
}

/// Returns the SHA-256 of the backbone in the first [`HEADER`] bytes of a feature file, or
/// `None` if they are not the header of such a file. The rest of the file may be damaged.
pub(super) fn backbone_of(header: &[u8]) -> Option<[u8; 32]> {
    let rest = header.strip_prefix(&MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let backbone = rest.first_chunk::<HASH>()?;
    (u32::from_le_bytes(*version) == VERSION).then_some(*backbone)
}

/// Parses one row. Returns `None` if any value is not finite.
fn feature(bytes: &[u8]) -> Option<Feature> {
    let values = bytes.as_chunks::<4>().0.iter();
    let values = values.map(|bytes| Some(f32::from_le_bytes(*bytes)).filter(|v| v.is_finite()));
    Some(Feature::from(values.collect::<Option<Vec<f32>>>()?))
}

/// Returns the bytes of a feature file. Returns `None` if there are no rows, too many rows,
/// rows of different or invalid lengths, or values that are not finite.
pub(super) fn encode(
    backbone: &[u8; 32],
    picture: Option<&[u8; 32]>,
    rows: &[&Feature],
) -> Option<Vec<u8>> {
    let finite = |row: &&Feature| row.values().iter().all(|value| value.is_finite());
    let width = rows.first()?.values().len();
    let fits = |row: &&Feature| row.values().len() == width && finite(row);
    if rows.len() > MAX_ROWS
        || !(MIN_FEATURES..=MAX_FEATURES).contains(&width)
        || !rows.iter().all(fits)
    {
        return None;
    }
    let mut bytes = Vec::with_capacity(HEADER + rows.len() * width * 4 + HASH);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((rows.len() as u32).to_le_bytes());
    bytes.extend(backbone);
    bytes.extend(picture.unwrap_or(&[0; HASH]));
    for row in rows {
        bytes.extend(row.values().iter().flat_map(|value| value.to_le_bytes()));
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onnx::FEATURES;

    const ROW: usize = FEATURES * 4;

    fn feature(seed: f32) -> Feature {
        let mut values = Box::new([0.0; FEATURES]);
        for (index, value) in values.iter_mut().enumerate() {
            *value = seed + index as f32 / 1000.0;
        }
        Feature::from(values)
    }

    fn file(rows: &[&Feature]) -> Vec<u8> {
        encode(&[3; 32], Some(&[4; 32]), rows).unwrap()
    }

    /// Appends the correct checksum.
    fn sealed(mut content: Vec<u8>) -> Vec<u8> {
        let sum = Sha256::digest(&content);
        content.extend_from_slice(&sum);
        content
    }

    #[test]
    fn features_come_back() {
        let (one, two) = (feature(0.5), feature(1.5));
        let parsed = parse_features(&file(&[&one, &two])).unwrap();
        assert_eq!(parsed.backbone, [3; 32]);
        assert_eq!(parsed.picture, Some([4; 32]));
        assert_eq!(parsed.rows, [one, two]);
        let alone = encode(&[3; 32], None, &[&feature(0.0)]).unwrap();
        assert_eq!(parse_features(&alone).unwrap().picture, None);
    }

    #[test]
    fn features_of_another_backbone_may_have_another_length() {
        let row = |length: usize| Feature::from(vec![0.25; length]);
        let (short, long) = (row(3), row(MAX_FEATURES));
        for one in [&short, &long] {
            assert_eq!(
                parse_features(&file(&[one, one])).unwrap().rows,
                [(*one).clone(), (*one).clone()]
            );
        }
        let refused: [&[&Feature]; 3] = [&[&short, &long], &[&row(0)], &[&row(MAX_FEATURES + 1)]];
        for rows in refused {
            assert!(encode(&[3; 32], None, rows).is_none());
        }
    }

    #[test]
    fn cut_off_anywhere_it_is_damaged() {
        let bytes = file(&[&feature(0.5)]);
        assert!(parse_features(&bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(parse_features(&bytes[..end]).is_err(), "{end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(parse_features(&longer).is_err());
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let bytes = file(&[&feature(0.5)]);
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 0x10;
            assert!(parse_features(&changed).is_err(), "{index}");
        }
    }

    #[test]
    fn what_is_not_finite_is_neither_written_nor_read() {
        let mut values = Box::new([0.0; FEATURES]);
        values[7] = f32::NAN;
        assert!(encode(&[3; 32], None, &[&Feature::from(values)]).is_none());
        assert!(encode(&[3; 32], None, &[]).is_none());
        let row = feature(0.0);
        assert!(encode(&[3; 32], None, &[&row; MAX_ROWS + 1]).is_none());

        let mut content = file(&[&row]);
        content.truncate(content.len() - HASH);
        content[HEADER + 4..HEADER + 8].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let error = parse_features(&sealed(content)).unwrap_err();
        assert!(error.to_string().contains("not finite"), "{error}");
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        let mut content = file(&[&feature(0.0)]);
        content.truncate(content.len() - HASH);
        content[8] = 2;
        let error = parse_features(&sealed(content)).unwrap_err();
        assert!(error.to_string().contains("version"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse_features(&bytes).is_err());
        }

        /// The checksum is always correct, so that the parser reaches the checks after
        /// it.
        #[test]
        fn any_header_is_read_without_a_panic(
            version in 0_u32..3,
            rows in prop_oneof![0_u32..4, any::<u32>()],
            values in 0_usize..3,
            more in 0_usize..8,
            fill: u8,
        ) {
            let mut content = MAGIC.to_vec();
            content.extend(version.to_le_bytes());
            content.extend(rows.to_le_bytes());
            content.extend(vec![fill; 2 * HASH + values * ROW + more]);
            let parsed = parse_features(&sealed(content));
            let (rows, length) = (rows as usize, values * ROW + more);
            let widths = MIN_FEATURES..=MAX_FEATURES;
            let fits = version == 1
                && (1..=MAX_ROWS).contains(&rows)
                && length.is_multiple_of(4 * rows)
                && widths.contains(&(length / (4 * rows)));
            // Four bytes of 0xff form a NaN, and so do four bytes of 0x7f.
            let finite = f32::from_le_bytes([fill; 4]).is_finite();
            prop_assert_eq!(parsed.is_ok(), fits && finite);
        }
    }
}
