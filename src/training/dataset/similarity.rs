//! Determines which pictures are identical, and which look alike.

use std::collections::HashMap;
use std::path::Path;

use image::{RgbImage, imageops};
use sha2::{Digest, Sha256};

use crate::frame::decoding::{decode, read};

/// Maximum [`distance`](PerceptualHash::distance) between the hashes of
/// near-duplicates, in bits (out of 128).
///
/// The limit was measured on 2,613 photographs and face crops. Copies were made at JPEG
/// quality 30 to 85 and at 0.5 to 1 times the size. Depending on the quality and the
/// size, 99% of the copies were within 5 to 11 bits of the original. The nearest
/// pictures of a masked and an unmasked face are 18 bits apart. This limit gives 118
/// groups, of which 117 look like copies. With each additional bit, more and more
/// groups consist of different portraits that look similar. Copies that are rotated by
/// a few degrees or cropped differently are not found. When only the 64 row bits were
/// used, the distances between copies overlapped with the distances between different
/// faces.
pub const MAX_DUPLICATE_DISTANCE: u32 = 12;

/// A perceptual hash. Pictures that look alike, or like each other's mirror
/// image, have a small [`distance`](PerceptualHash::distance).
///
/// The hash applies the difference hash of Neal Krawetz ("Kind of Like That", 2013,
/// <https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html>)
/// twice. First, the picture is reduced to 9 x 8 gray cells, and 64 bits record whether
/// each cell is brighter than the cell to its left. Then the picture is reduced to 8 x
/// 9 cells, and 64 bits record whether each cell is brighter than the cell above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PerceptualHash {
    /// The hash of the picture: the horizontal bits, then the vertical bits.
    pub upright: u128,
    /// The hash of the mirrored picture. It is needed because data sets contain mirrored
    /// copies, which become identical to the originals when training mirrors pictures.
    pub mirrored: u128,
}

/// Length of a hash.
const HASH_BITS: u32 = u128::BITS;

/// Side in pixels of the reduced picture that is hashed, a multiple of 8 and 9.
const HASH_SIDE: u32 = 72;

impl PerceptualHash {
    /// Hashes a picture. An empty picture has the default hash.
    #[must_use]
    pub fn of(pixels: &RgbImage) -> PerceptualHash {
        if pixels.width() == 0 || pixels.height() == 0 {
            return PerceptualHash::default();
        }
        let small = imageops::thumbnail(pixels, HASH_SIDE, HASH_SIDE);
        let mut across = [[0_u64; 9]; 8];
        let mut down = [[0_u64; 8]; 9];
        for (x, y, pixel) in small.enumerate_pixels() {
            // ITU-R BT.601 luma, times 1000. Only cells of equal size are compared, so
            // sums can be used instead of means.
            let [red, green, blue] = pixel.0.map(u64::from);
            let gray = 299 * red + 587 * green + 114 * blue;
            let (x, y) = (x as usize, y as usize);
            across[y / 9][x / 8] += gray;
            down[y / 8][x / 9] += gray;
        }
        let upright = bits(&across, &down);
        across = across.map(reversed);
        down = down.map(reversed);
        PerceptualHash {
            upright,
            mirrored: bits(&across, &down),
        }
    }

    /// Compares the hash of this picture with the hash of the other picture, and with
    /// the hash of the other picture's mirror image. Returns the smaller number of
    /// different bits, 0 to 128.
    #[must_use]
    pub fn distance(&self, other: &PerceptualHash) -> u32 {
        let upright = self.upright ^ other.upright;
        let mirrored = [self.upright ^ other.mirrored, self.mirrored ^ other.upright];
        let mirrored = mirrored.map(u128::count_ones);
        upright.count_ones().min(mirrored[0]).min(mirrored[1])
    }
}

fn reversed<const N: usize>(mut row: [u64; N]) -> [u64; N] {
    row.reverse();
    row
}

fn bits(across: &[[u64; 9]; 8], down: &[[u64; 8]; 9]) -> u128 {
    let cells = || (0..8).flat_map(|row| (0..8).map(move |column| (row, column)));
    let rights = cells().map(|(row, column)| across[row][column + 1] > across[row][column]);
    let belows = cells().map(|(row, column)| down[row + 1][column] > down[row][column]);
    rights
        .chain(belows)
        .fold(0, |bits, bit| bits << 1 | u128::from(bit))
}

/// Fingerprint that identifies a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// SHA-256 of the width, the height (32 bits each, little-endian), and the decoded
    /// RGB pixels. The hash is the same for a PNG and a BMP of one picture.
    pub pixels: [u8; 32],
    /// Perceptual hash for finding pictures that look alike.
    pub hash: PerceptualHash,
}

/// Computes the fingerprint of a picture file with these `bytes` and decoded
/// `pixels`.
#[must_use]
pub fn fingerprint(bytes: &[u8], pixels: &RgbImage) -> Fingerprint {
    let mut sha256 = Sha256::new();
    sha256.update(pixels.width().to_le_bytes());
    sha256.update(pixels.height().to_le_bytes());
    sha256.update(pixels.as_raw());
    Fingerprint {
        file: Sha256::digest(bytes).into(),
        pixels: sha256.finalize().into(),
        hash: PerceptualHash::of(pixels),
    }
}

/// Reads and decodes a picture file, and computes its fingerprint.
///
/// # Errors
/// Returns the reason why the file cannot be used, worded to follow the file's name:
/// `a.jpg: it is empty`.
pub fn load(path: &Path) -> Result<(RgbImage, Fingerprint), String> {
    let bytes = read(path).map_err(|error| error.to_string())?;
    let pixels = decode(&bytes).map_err(|error| error.to_string())?;
    let fingerprint = fingerprint(&bytes, &pixels);
    Ok((pixels, fingerprint))
}

/// Groups pictures that look alike. For each picture, returns the index of the first
/// picture in its group. A picture that looks like no other picture is alone in its
/// group.
///
/// Two pictures are in the same group if the distance between their hashes is at most
/// `max_distance` (usually [`MAX_DUPLICATE_DISTANCE`], which was measured), or if a
/// chain of such pairs connects them.
#[must_use]
pub fn near_duplicate_groups(hashes: &[PerceptualHash], max_distance: u32) -> Vec<usize> {
    let mut first_with: HashMap<PerceptualHash, usize> = HashMap::new();
    let mut groups: Vec<usize> = (0..hashes.len())
        .map(|index| *first_with.entry(hashes[index]).or_insert(index))
        .collect();
    if max_distance >= HASH_BITS {
        return vec![0; hashes.len()];
    }
    // Each entry is (bits, picture, whether the bits belong to the mirrored
    // picture).
    let mut entries: Vec<(u128, usize, bool)> = first_with
        .into_iter()
        .flat_map(|(hash, index)| [(hash.upright, index, false), (hash.mirrored, index, true)])
        .collect();

    // Hashes within a distance d are equal in at least one of d + 1 bands, so only
    // hashes with an equal band are compared.
    let bands = (max_distance + 1).min(HASH_BITS);
    for band in 0..bands {
        let (from, to) = (band * HASH_BITS / bands, (band + 1) * HASH_BITS / bands);
        let mask = u128::MAX >> (HASH_BITS - (to - from)) << from;
        entries.sort_unstable_by_key(|(bits, ..)| bits & mask);
        for bucket in entries.chunk_by(|a, b| a.0 & mask == b.0 & mask) {
            for (position, (a_bits, a, a_mirrored)) in bucket.iter().enumerate() {
                for (b_bits, b, b_mirrored) in &bucket[position + 1..] {
                    let both_mirrored = *a_mirrored && *b_mirrored;
                    if !both_mirrored && (a_bits ^ b_bits).count_ones() <= max_distance {
                        unite(&mut groups, *a, *b);
                    }
                }
            }
        }
    }
    for index in 0..groups.len() {
        // A parent comes before its children, so the parent's group is already final.
        groups[index] = groups[groups[index]];
    }
    groups
}

/// Joins the groups of `a` and `b`. The smaller root becomes the parent.
fn unite(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b)] = a.min(b);
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        // Path halving makes later calls faster.
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}
