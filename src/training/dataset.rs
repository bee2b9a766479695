//! Data sets: pictures in one folder a class.
//!
//! Owns what counts as a data set, how copies of a picture are told, how
//! pictures are divided into those to learn from and those to check by, and
//! what is said about a set's flaws. It reads and never writes: a data set is
//! somebody's work. Knows nothing of models, threads or the command line; the
//! seed of a split comes in as an argument, and [`load`] is called from
//! whichever threads the caller has.
//!
//! The way through:
//!
//! 1. [`Dataset::open`] lists the files and refuses what cannot be trained on.
//! 2. [`load`] reads, decodes and fingerprints each picture.
//! 3. [`Findings::new`] tells from the fingerprints what is wrong;
//!    [`Findings::left_out`] are the pictures that must not be learned from.
//! 4. [`near_duplicate_groups`] and [`Dataset::split`] divide the rest.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::frame;
use crate::frame::decoding;

/// Fewest pictures of a class that can be trained on: at the usual share of
/// 0.2, one to check by and four to learn from.
pub const MIN_PICTURES: usize = 5;

/// Most classes: what a classifier's file may hold.
pub const MAX_CLASSES: usize = 64;

/// Longest class name in bytes: what a classifier's file may hold.
pub const MAX_CLASS_BYTES: usize = 64;

/// Largest [`distance`](Look::distance) of two looks, in bits of 128, that
/// still makes their pictures near-duplicates.
///
/// Measured on 2,613 photographs and face crops: of copies at JPEG quality 30 to
/// 85 and 0.5 to 1 times the size, 99 % were within 5 to 11 bits. The nearest
/// pictures of a masked and a bare face are 18 bits apart. It makes 118 groups,
/// of which 117 are copies by the look of them; one bit more and beyond, they
/// are more and more often different portraits of one kind. Copies that are
/// turned by some degrees or cut otherwise are not found. (With the 64 bits of
/// the rows alone, copies reached into the range of different faces.)
pub const NEAR: u32 = 12;

/// Ratio of the largest to the smallest class above which [`imbalance_note`]
/// has something to say.
pub const IMBALANCE: f64 = 1.5;

/// The folder of pictures without a label in a store of samples: never a class.
const UNLABELLED: &str = "unlabelled";

/// One picture file of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it is: begins with the path that the data set was opened by.
    pub path: PathBuf,
    /// Index of its class.
    pub class: usize,
}

/// Pictures with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Where it was opened.
    pub folder: PathBuf,
    /// Names of the classes, sorted; they become the labels.
    pub classes: Vec<String>,
    /// The pictures, by class and then by path.
    pub pictures: Vec<Picture>,
    /// What was passed over without being opened, sorted: files beside the
    /// class folders, what is in them and not a file named like a picture, and the
    /// folder `unlabelled` of a store of samples. Hidden files and folders are
    /// not even listed here.
    pub ignored: Vec<PathBuf>,
    /// Fewest pictures that each class must have, for what it was opened for.
    least: usize,
}

/// Why a folder is no data set to work on.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Nothing is there.
    #[error("there is no folder {path}; name one that holds a folder a class")]
    Missing {
        /// As it was given.
        path: String,
    },
    /// A file, most often.
    #[error("{path} is not a folder; name one that holds a folder a class")]
    NotFolder {
        /// As it was given.
        path: String,
    },
    /// The system refuses.
    #[error("cannot read the folder {path} ({error})")]
    Read {
        /// The folder, which may be one within.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Nothing to tell apart.
    #[error(
        "{path} holds {found} class folders, at least {least} are needed: put the pictures of each class into a folder of its own"
    )]
    TooFewClasses {
        /// The data set.
        path: String,
        /// Folders that count as classes.
        found: usize,
        /// How many are needed.
        least: usize,
    },
    /// More than [`MAX_CLASSES`].
    #[error("{path} holds {found} class folders, at most {MAX_CLASSES} are possible")]
    TooManyClasses {
        /// The data set.
        path: String,
        /// Folders that count as classes.
        found: usize,
    },
    /// A folder's name that cannot be a label.
    #[error(
        "the class folder {name:?} cannot be a label; rename it: a label is UTF-8 of at most {MAX_CLASS_BYTES} bytes, without control characters, and not \"unsure\", which is what a verdict says in doubt"
    )]
    ClassName {
        /// The name, odd bytes replaced.
        name: String,
    },
    /// A class folder without pictures.
    #[error(
        "the class folder {path} holds no pictures (JPEG, PNG, WebP, BMP, GIF or TIFF); fill or remove it"
    )]
    EmptyClass {
        /// The class folder.
        path: String,
    },
    /// Fewer than [`MIN_PICTURES`], or none to judge by.
    #[error(
        "the class \"{class}\" has only {found} usable pictures, at least {least} are needed: add some or remove its folder"
    )]
    TooFewPictures {
        /// The class.
        class: String,
        /// How many it has.
        found: usize,
        /// How many are needed.
        least: usize,
    },
    /// All pictures of a class are near-duplicates of one another.
    #[error(
        "the pictures of the class \"{class}\" cannot be split: they are near-duplicates of one another; add different ones, or name other pictures to check by"
    )]
    Inseparable {
        /// The class.
        class: String,
    },
}

impl Dataset {
    /// Lists the data set in `folder`, to train on it.
    ///
    /// Each folder in it is a class. Files named like pictures count, also
    /// those of folders within a class folder; links are followed.
    ///
    /// # Errors
    /// If it cannot be trained on: see [`DatasetError`].
    pub fn open(folder: &Path) -> Result<Dataset, DatasetError> {
        let dataset = Dataset::list(folder, 2, MIN_PICTURES)?;
        dataset.check_sizes()?;
        Ok(dataset)
    }

    /// Lists the data set in `folder`, to judge a model by it: one class is
    /// enough then, and one picture a class.
    ///
    /// # Errors
    /// If there is nothing to judge by: see [`DatasetError`].
    pub fn open_to_judge(folder: &Path) -> Result<Dataset, DatasetError> {
        Dataset::list(folder, 1, 1)
    }

    fn list(
        folder: &Path,
        least_classes: usize,
        least_pictures: usize,
    ) -> Result<Dataset, DatasetError> {
        let path = || folder.display().to_string();
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(DatasetError::NotFolder { path: path() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatasetError::Missing { path: path() });
            }
            Err(error) => return Err(read_error(folder, error)),
        }
        let mut ignored = Vec::new();
        let mut folders = Vec::new();
        for entry in entries(folder)? {
            if !entry.is_dir() || entry.ends_with(UNLABELLED) {
                ignored.push(entry);
            } else {
                folders.push((class_name(&entry)?, entry));
            }
        }
        // As names and not as paths: what counts is the order of the labels.
        folders.sort();
        let found = folders.len();
        if found < least_classes {
            return Err(DatasetError::TooFewClasses {
                path: path(),
                found,
                least: least_classes,
            });
        }
        if found > MAX_CLASSES {
            let path = path();
            return Err(DatasetError::TooManyClasses { path, found });
        }

        let mut classes = Vec::new();
        let mut pictures = Vec::new();
        for (class, (name, folder)) in folders.into_iter().enumerate() {
            let mut files = Vec::new();
            walk(&folder, &mut HashSet::new(), &mut files, &mut ignored)?;
            if files.is_empty() {
                let path = folder.display().to_string();
                return Err(DatasetError::EmptyClass { path });
            }
            files.sort();
            pictures.extend(files.into_iter().map(|path| Picture { path, class }));
            classes.push(name);
        }
        ignored.sort();
        Ok(Dataset {
            folder: folder.to_owned(),
            classes,
            pictures,
            ignored,
            least: least_pictures,
        })
    }

    fn check_sizes(&self) -> Result<(), DatasetError> {
        for (class, found) in self.classes.iter().zip(self.counts()) {
            if found < self.least {
                return Err(DatasetError::TooFewPictures {
                    class: class.clone(),
                    found,
                    least: self.least,
                });
            }
        }
        Ok(())
    }

    /// Pictures of each class.
    #[must_use]
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for picture in &self.pictures {
            counts[picture.class] += 1;
        }
        counts
    }

    /// The class of each picture.
    #[must_use]
    pub fn labels(&self) -> Vec<usize> {
        self.pictures.iter().map(|picture| picture.class).collect()
    }

    /// The path of a picture as it is told to people: from the data set's
    /// folder on. Empty if there is no such picture.
    #[must_use]
    pub fn name(&self, picture: usize) -> String {
        let Some(Picture { path, .. }) = self.pictures.get(picture) else {
            return String::new();
        };
        let path = path.strip_prefix(&self.folder).unwrap_or(path);
        path.display().to_string()
    }

    /// The data set without the pictures that are `left_out` (indices in any
    /// order), for what it was opened for. What lies beside the pictures (fingerprints,
    /// features) must be left out likewise: [`without`] does.
    ///
    /// # Errors
    /// [`DatasetError::TooFewPictures`] if a class has too few left.
    pub fn without(&self, left_out: &[usize]) -> Result<Dataset, DatasetError> {
        let dataset = Dataset {
            pictures: without(self.pictures.clone(), left_out),
            ..self.clone()
        };
        dataset.check_sizes()?;
        Ok(dataset)
    }

    /// Divides the pictures: see [`split`].
    ///
    /// # Errors
    /// [`DatasetError::Inseparable`], with the class.
    pub fn split(&self, groups: &[usize], share: f64, seed: u64) -> Result<Split, DatasetError> {
        split(groups, &self.labels(), share, seed).map_err(|Inseparable { class }| {
            let class = self.classes.get(class).cloned().unwrap_or_default();
            DatasetError::Inseparable { class }
        })
    }

    /// What the data set is, wherever it lies and however its files are named:
    /// SHA-256 over one line `class/SHA-256 of the file` a picture, sorted.
    ///
    /// `fingerprints` are those of [`Dataset::pictures`], in their order. The
    /// same by the shell, in the data set's folder:
    ///
    /// ```text
    /// for c in */; do find "$c" -type f -exec sha256sum {} + | sed "s|^\([0-9a-f]*\).*|$c\1|"; done |
    ///     LC_ALL=C sort | sha256sum
    /// ```
    #[must_use]
    pub fn digest(&self, fingerprints: &[Fingerprint]) -> [u8; 32] {
        let mut lines: Vec<String> = self
            .pictures
            .iter()
            .zip(fingerprints)
            .map(|(picture, fingerprint)| {
                let class = &self.classes[picture.class];
                format!("{class}/{}\n", hex(&fingerprint.file))
            })
            .collect();
        lines.sort();
        Sha256::digest(lines.concat()).into()
    }
}

/// `items` without those whose indices are `left_out` (in any order): keeps
/// what lies beside the pictures of a data set in step with
/// [`Dataset::without`].
#[must_use]
pub fn without<T>(items: Vec<T>, left_out: &[usize]) -> Vec<T> {
    let left_out: HashSet<usize> = left_out.iter().copied().collect();
    let numbered = items.into_iter().enumerate();
    numbered
        .filter(|(index, _)| !left_out.contains(index))
        .map(|(_, item)| item)
        .collect()
}

fn read_error(folder: &Path, error: io::Error) -> DatasetError {
    DatasetError::Read {
        path: folder.display().to_string(),
        error,
    }
}

/// What lies in a folder, but for what is hidden.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let all = folder.read_dir()?.map(|entry| entry.map(|e| e.path()));
        all.collect()
    };
    let mut entries = read().map_err(|error| read_error(folder, error))?;
    entries.retain(|path| {
        path.file_name()
            .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
    });
    Ok(entries)
}

fn class_name(folder: &Path) -> Result<String, DatasetError> {
    let name = folder.file_name().unwrap_or_default();
    match name.to_str() {
        Some(name)
            if name != "unsure"
                && name.len() <= MAX_CLASS_BYTES
                && !name.contains(char::is_control) =>
        {
            Ok(name.to_owned())
        }
        _ => Err(DatasetError::ClassName {
            name: name.to_string_lossy().into_owned(),
        }),
    }
}

/// Collects the files in a folder and the folders within. `seen` are the
/// folders where it has been, for a link may lead back up.
fn walk(
    folder: &Path,
    seen: &mut HashSet<PathBuf>,
    files: &mut Vec<PathBuf>,
    ignored: &mut Vec<PathBuf>,
) -> Result<(), DatasetError> {
    let place = fs::canonicalize(folder).map_err(|error| read_error(folder, error))?;
    if !seen.insert(place) {
        return Ok(());
    }
    for entry in entries(folder)? {
        if entry.is_dir() {
            walk(&entry, seen, files, ignored)?;
        } else if decoding::is_named_like_a_picture(&entry)
            // A pipe could block for ever. A link that leads nowhere counts: it
            // fails to load and is told.
            && entry.metadata().map_or(true, |there| there.is_file())
        {
            files.push(entry);
        } else {
            ignored.push(entry);
        }
    }
    Ok(())
}

/// What a picture looks like: pictures that look alike, or like each other's
/// mirror image, have a small [`distance`](Look::distance).
///
/// It is the difference hash of Neal Krawetz ("Kind of Like That", 2013,
/// <https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html>)
/// taken twice: of the picture as 9 x 8 gray cells, whether each is brighter
/// than the one to its left (64 bits), and of 8 x 9 cells, whether each is
/// brighter than the one above (64 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PerceptualHash {
    /// The bits of the picture: the rows of the first kind, then the second.
    pub upright: u128,
    /// The bits of the picture with left and right swapped. Data sets hold
    /// such copies, and a training that mirrors pictures makes them the same.
    pub mirrored: u128,
}

/// Bits of a picture's look.
const LOOK_BITS: u32 = u128::BITS;

/// Side of the small picture that a look is taken of: both 8 and 9 divide it.
const LOOK_SIDE: u32 = 72;

impl PerceptualHash {
    /// The look of a picture.
    #[must_use]
    pub fn of(pixels: &RgbImage) -> PerceptualHash {
        if pixels.width() == 0 || pixels.height() == 0 {
            return PerceptualHash::default();
        }
        let small = imageops::thumbnail(pixels, LOOK_SIDE, LOOK_SIDE);
        let mut across = [[0_u64; 9]; 8];
        let mut down = [[0_u64; 8]; 9];
        for (x, y, pixel) in small.enumerate_pixels() {
            // ITU-R BT.601 luma, times 1000. Only cells of one size are
            // compared, so that their sums do as well as their means.
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

    /// In how many bits, 0 to 128, two pictures differ as they are, or when one
    /// of them is mirrored, if these are fewer.
    #[must_use]
    pub fn distance(&self, other: &PerceptualHash) -> u32 {
        let as_they_are = self.upright ^ other.upright;
        let mirrored = [self.upright ^ other.mirrored, self.mirrored ^ other.upright];
        let mirrored = mirrored.map(u128::count_ones);
        as_they_are.count_ones().min(mirrored[0]).min(mirrored[1])
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

/// What tells pictures apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// SHA-256 of width, height (32 bits each, little-endian) and the decoded
    /// RGB pixels: the same for a PNG and a BMP of one picture.
    pub pixels: [u8; 32],
    /// What it looks like.
    pub look: PerceptualHash,
}

/// The fingerprint of a picture file that is read and decoded already.
#[must_use]
pub fn fingerprint(bytes: &[u8], pixels: &RgbImage) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(pixels.width().to_le_bytes());
    hash.update(pixels.height().to_le_bytes());
    hash.update(pixels.as_raw());
    Fingerprint {
        file: Sha256::digest(bytes).into(),
        pixels: hash.finalize().into(),
        look: PerceptualHash::of(pixels),
    }
}

/// Reads and decodes a picture file, and takes its fingerprint.
///
/// # Errors
/// Why it cannot be used, as the end of a sentence such as
/// `a.jpg: it is empty`.
pub fn load(path: &Path) -> Result<(RgbImage, Fingerprint), String> {
    let bytes = decoding::read(path).map_err(|error| error.to_string())?;
    let pixels = frame::decode(&bytes).map_err(|error| error.to_string())?;
    let fingerprint = fingerprint(&bytes, &pixels);
    Ok((pixels, fingerprint))
}

/// Groups of pictures that look alike: for each picture the index of the first
/// one of its group; a picture like no other is its own group.
///
/// Two pictures are in one group if the distance of their looks is at most
/// `max_distance` ([`NEAR`] is the measured choice), or if a chain of such
/// pictures links them.
#[must_use]
pub fn near_duplicate_groups(looks: &[PerceptualHash], max_distance: u32) -> Vec<usize> {
    let mut first_with: HashMap<PerceptualHash, usize> = HashMap::new();
    let mut groups: Vec<usize> = (0..looks.len())
        .map(|index| *first_with.entry(looks[index]).or_insert(index))
        .collect();
    if max_distance >= LOOK_BITS {
        return vec![0; looks.len()];
    }
    // (bits, picture, whether they are its mirrored ones)
    let mut entries: Vec<(u128, usize, bool)> = first_with
        .into_iter()
        .flat_map(|(look, index)| [(look.upright, index, false), (look.mirrored, index, true)])
        .collect();

    // Bits within a distance d of each other agree in at least one of d + 1
    // bands, so only those with an equal band need comparing.
    let bands = (max_distance + 1).min(LOOK_BITS);
    for band in 0..bands {
        let (from, to) = (band * LOOK_BITS / bands, (band + 1) * LOOK_BITS / bands);
        let mask = u128::MAX >> (LOOK_BITS - (to - from)) << from;
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
        // A parent comes before its children, and is final by now.
        groups[index] = groups[groups[index]];
    }
    groups
}

/// Links the groups of `a` and `b`: the smaller root becomes the parent.
fn unite(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b)] = a.min(b);
}

fn root(parents: &mut [usize], mut of: usize) -> usize {
    while parents[of] != of {
        // Halves the path for whoever comes next.
        parents[of] = parents[parents[of]];
        of = parents[of];
    }
    of
}

/// What is wrong with the pictures of a data set. Pictures are told by their
/// index in [`Dataset::pictures`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Pictures that cannot be used, each with the reason.
    pub unreadable: Vec<(usize, String)>,
    /// The same picture, by file or pixels, under two classes or more: all of
    /// its places.
    pub contradictions: Vec<Vec<usize>>,
    /// The same picture, by file or pixels, several times in one class.
    pub duplicates: Vec<Vec<usize>>,
    /// Pictures that look alike ([`NEAR`]) under two classes or more, without
    /// being the same. That can be a wrong label, and can be right: of a bare
    /// face and the same photograph with a mask painted on it.
    pub lookalikes: Vec<Vec<usize>>,
}

impl Findings {
    /// Compares the pictures of a data set, given what [`load`] said of each.
    #[must_use]
    pub fn new(dataset: &Dataset, loaded: &[Result<Fingerprint, String>]) -> Findings {
        let mut findings = Findings::default();
        let mut readable = Vec::new();
        for (index, loaded) in loaded.iter().enumerate() {
            match loaded {
                Ok(fingerprint) => readable.push((index, fingerprint)),
                Err(why) => findings.unreadable.push((index, why.clone())),
            }
        }
        let class = |index: usize| dataset.pictures.get(index).map(|picture| picture.class);
        let is_mixed = |group: &[usize]| group.iter().any(|&i| class(i) != class(group[0]));

        // The same file has the same pixels.
        let mut same: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (index, fingerprint) in &readable {
            same.entry(fingerprint.pixels).or_default().push(*index);
        }
        let mut same: Vec<Vec<usize>> = same.into_values().collect();
        same.retain(|group| group.len() > 1);
        same.sort();
        (findings.contradictions, findings.duplicates) =
            same.into_iter().partition(|group| is_mixed(group));

        let looks: Vec<PerceptualHash> = readable.iter().map(|(_, print)| print.look).collect();
        let mut alike: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for ((index, _), group) in readable.iter().zip(near_duplicate_groups(&looks, NEAR)) {
            alike.entry(group).or_default().push(*index);
        }
        findings.lookalikes = alike
            .into_values()
            .filter(|group| is_mixed(group) && !findings.contradictions.contains(group))
            .collect();
        findings
    }

    /// The pictures that must not be learned from, in order: the unreadable
    /// ones, and those with two labels, for nobody knows which one is right.
    #[must_use]
    pub fn left_out(&self) -> Vec<usize> {
        let unreadable = self.unreadable.iter().map(|(index, _)| *index);
        let mut all: Vec<usize> = unreadable
            .chain(self.contradictions.iter().flatten().copied())
            .collect();
        all.sort_unstable();
        all
    }

    /// One sentence a finding, with the names of the pictures.
    #[must_use]
    pub fn sentences(&self, dataset: &Dataset) -> Vec<String> {
        let names = |group: &[usize]| {
            let names: Vec<String> = group.iter().map(|&index| dataset.name(index)).collect();
            names.join(", ")
        };
        let mut sentences = Vec::new();
        for (index, why) in &self.unreadable {
            sentences.push(format!("left out: {}: {why}", dataset.name(*index)));
        }
        for group in &self.contradictions {
            let names = names(group);
            sentences.push(format!(
                "left out: the same picture under several classes: {names}"
            ));
        }
        for group in &self.lookalikes {
            let names = names(group);
            sentences.push(format!(
                "check the labels of pictures that look alike: {names}"
            ));
        }
        for group in &self.duplicates {
            sentences.push(format!("the same picture several times: {}", names(group)));
        }
        sentences
    }
}

/// The two sides of a data set: indices of pictures, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// To learn from.
    pub train: Vec<usize>,
    /// To check by.
    pub val: Vec<usize>,
}

/// A class cannot be on both sides of a split: it has a single group, or its
/// groups are tied to those of other classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pictures of class {class} cannot be split: they are all alike")]
pub struct Inseparable {
    /// Index of the class.
    pub class: usize,
}

/// Divides pictures, given the group and the class of each, so that about
/// `share` (0 to 1) of each class is to check by, each class is on both sides,
/// and no group is on both.
///
/// Groups (numbers without a meaning) may hold pictures of several classes. The
/// share is met to the picture as long as a class has lone pictures enough, and
/// else as near as its groups allow. The same `seed` gives the same split on
/// every machine.
///
/// # Errors
/// If a class cannot be on both sides.
pub fn split(
    groups: &[usize],
    classes: &[usize],
    share: f64,
    seed: u64,
) -> Result<Split, Inseparable> {
    let class_count = classes.iter().max().map_or(0, |max| max + 1);
    let mut sizes = vec![0; class_count];
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, (&group, &class)) in groups.iter().zip(classes).enumerate() {
        sizes[class] += 1;
        members.entry(group).or_default().push(index);
    }
    let present: Vec<usize> = (0..class_count).filter(|&class| sizes[class] > 0).collect();
    if let Some(&class) = present.iter().find(|&&class| sizes[class] < 2) {
        return Err(Inseparable { class });
    }
    let targets: Vec<usize> = sizes
        .iter()
        .map(|&size| ((size as f64 * share).round() as usize).clamp(1, size.max(2) - 1))
        .collect();

    // By first member, and not by number: the split depends on the pictures.
    let mut order: Vec<Vec<usize>> = members.into_values().collect();
    order.sort_by_key(|group| group[0]);
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut filler = Filler {
        classes,
        sizes,
        targets,
        taken: vec![0; class_count],
        is_val: vec![false; order.len()],
    };
    // First what fits, then what brings a class nearer to its target though it
    // goes beyond it.
    for fill in [Fill::Within, Fill::Nearer] {
        for (number, group) in order.iter().enumerate() {
            filler.offer(number, group, fill);
        }
    }
    // A class of few large groups may have got none: it gets its smallest.
    let mut by_size: Vec<usize> = (0..order.len()).collect();
    by_size.sort_by_key(|&number| order[number].len());
    for &class in &present {
        for &number in &by_size {
            let has_class = order[number].iter().any(|&index| classes[index] == class);
            if filler.taken[class] == 0 && has_class {
                filler.offer(number, &order[number], Fill::Anyway);
            }
        }
        if filler.taken[class] == 0 {
            return Err(Inseparable { class });
        }
    }

    let mut split = Split {
        train: Vec::new(),
        val: Vec::new(),
    };
    for (group, is_val) in order.iter().zip(&filler.is_val) {
        let side = if *is_val {
            &mut split.val
        } else {
            &mut split.train
        };
        side.extend(group);
    }
    split.train.sort_unstable();
    split.val.sort_unstable();
    Ok(split)
}

#[derive(Clone, Copy, PartialEq)]
enum Fill {
    /// Only if no class goes beyond its target.
    Within,
    /// Only if the classes come nearer to their targets, all in all.
    Nearer,
    Anyway,
}

/// Fills the side to check by.
struct Filler<'a> {
    /// Class of each picture.
    classes: &'a [usize],
    /// Pictures of each class: all, wanted and taken.
    sizes: Vec<usize>,
    targets: Vec<usize>,
    taken: Vec<usize>,
    /// Whether each group was taken.
    is_val: Vec<bool>,
}

impl Filler<'_> {
    /// Takes a group if `fill` allows it, and never the last of a class.
    fn offer(&mut self, number: usize, group: &[usize], fill: Fill) {
        if self.is_val[number] {
            return;
        }
        let mut after: BTreeMap<usize, usize> = BTreeMap::new();
        for &index in group {
            let class = self.classes[index];
            *after.entry(class).or_insert(self.taken[class]) += 1;
        }
        let off = |class: usize, taken: usize| self.targets[class].abs_diff(taken);
        let before: usize = after.keys().map(|&c| off(c, self.taken[c])).sum();
        let then: usize = after.iter().map(|(&c, &taken)| off(c, taken)).sum();
        let fits = match fill {
            Fill::Within => after.iter().all(|(&c, &taken)| taken <= self.targets[c]),
            Fill::Nearer => then < before,
            Fill::Anyway => true,
        };
        if fits && after.iter().all(|(&c, &taken)| taken < self.sizes[c]) {
            self.is_val[number] = true;
            for (class, taken) in after {
                self.taken[class] = taken;
            }
        }
    }
}

/// Weight of each class in the loss, so that all count alike: n / (k n_class)
/// for n pictures of k classes, as scikit-learn's `class_weight="balanced"`
/// (<https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html>).
///
/// `counts` are the pictures of each class; an empty class weighs 0.
///
/// ```
/// use maskd::training::dataset::class_weights;
/// assert_eq!(class_weights(&[30, 10]), [40.0 / 60.0, 2.0]);
/// ```
#[must_use]
pub fn class_weights(counts: &[usize]) -> Vec<f64> {
    let all: usize = counts.iter().sum();
    let weight = |count: usize| match count {
        0 => 0.0,
        count => all as f64 / (counts.len() as f64 * count as f64),
    };
    counts.iter().copied().map(weight).collect()
}

/// A sentence about classes of very different sizes (more than [`IMBALANCE`]),
/// else none. `counts` are the pictures of each of the `classes`.
#[must_use]
pub fn imbalance_note(classes: &[String], counts: &[usize]) -> Option<String> {
    let sizes = || classes.iter().zip(counts);
    let (largest, most) = sizes().max_by_key(|(name, count)| (**count, Reverse(*name)))?;
    let (smallest, fewest) = sizes().min_by_key(|(_, count)| **count)?;
    let ratio = *most as f64 / *fewest as f64;
    (ratio > IMBALANCE).then(|| {
        format!(
            "the classes are of different sizes: {most} pictures of \"{largest}\", {fewest} of \"{smallest}\" ({ratio:.1} times)"
        )
    })
}

/// A hash as people write it: in small hexadecimal digits.
#[must_use]
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::jpeg::JpegEncoder;
    use image::imageops::FilterType;
    use image::{ImageFormat, Rgb};
    use proptest::prelude::*;
    use rand::RngExt;
    use tempfile::TempDir;

    use super::*;
    use crate::camera::pictures::EXAMPLES;

    /// A picture of soft blobs, different for each number.
    fn picture(number: u64, width: u32, height: u32) -> RgbImage {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let coarse = RgbImage::from_fn(7, 7, |_, _| Rgb(random.random()));
        imageops::resize(&coarse, width, height, FilterType::CatmullRom)
    }

    fn encoded(pixels: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn jpeg(pixels: &RgbImage, quality: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode_image(pixels)
            .unwrap();
        bytes
    }

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A good set: five different pictures in each class.
    fn set(classes: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (class, name) in classes.iter().enumerate() {
            for number in 0..5 {
                let pixels = picture(class as u64 * 100 + number, 40, 30);
                let png = encoded(&pixels, ImageFormat::Png);
                write(folder.path(), &format!("{name}/{number}.png"), &png);
            }
        }
        folder
    }

    fn refusal(folder: &Path) -> String {
        let error = Dataset::open(folder).unwrap_err().to_string();
        assert!(!error.contains('\n'), "one sentence: {error}");
        error
    }

    fn fingerprints(dataset: &Dataset) -> Vec<Result<Fingerprint, String>> {
        let pictures = dataset.pictures.iter();
        pictures
            .map(|picture| load(&picture.path).map(|(_, fingerprint)| fingerprint))
            .collect()
    }

    fn findings(folder: &Path) -> (Dataset, Findings) {
        let dataset = Dataset::open(folder).unwrap();
        let findings = Findings::new(&dataset, &fingerprints(&dataset));
        (dataset, findings)
    }

    #[test]
    fn a_folder_a_class() {
        let folder = set(&["without_mask", "with_mask", "mask_on_chin"]);
        let path = folder.path();
        write(path, "with_mask/deeper/still/a.JPG", b"x");
        write(path, "with_mask/.hidden/a.jpg", b"x");
        write(path, "with_mask/.copying.jpg", b"x");
        write(path, "with_mask/notes.txt", b"x");
        write(path, ".git/a.jpg", b"x");
        write(path, "lost.jpg", b"x");
        write(path, "unlabelled/a.jpg", b"x");
        let dataset = Dataset::open(path).unwrap();
        assert_eq!(
            dataset.classes,
            ["mask_on_chin", "with_mask", "without_mask"]
        );
        assert_eq!(dataset.counts(), [5, 6, 5]);
        assert_eq!(
            dataset.labels(),
            [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
        );
        assert_eq!(dataset.name(0), "mask_on_chin/0.png");
        assert_eq!(dataset.name(10), "with_mask/deeper/still/a.JPG");
        assert_eq!(dataset.name(99), "");
        let ignored = ["lost.jpg", "unlabelled", "with_mask/notes.txt"];
        assert_eq!(dataset.ignored, ignored.map(|name| path.join(name)));
    }

    #[test]
    fn what_is_no_data_set_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let place = path.display();
        assert_eq!(
            refusal(&path.join("none")),
            format!("there is no folder {place}/none; name one that holds a folder a class")
        );
        write(path, "file", b"x");
        assert_eq!(
            refusal(&path.join("file")),
            format!("{place}/file is not a folder; name one that holds a folder a class")
        );
        assert!(refusal(path).contains("holds 0 class folders, at least 2"));

        let folder = set(&["with_mask"]);
        let path = folder.path();
        assert!(refusal(path).contains("holds 1 class folders, at least 2"));
        fs::create_dir(path.join("bare")).unwrap();
        write(path, "bare/notes.txt", b"x");
        let error = refusal(path);
        assert!(error.contains("/bare holds no pictures"), "{error}");
        for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
            write(path, &format!("bare/{name}"), b"x");
        }
        assert!(refusal(path).contains("class \"bare\" has only 4 usable pictures"));
        write(path, "bare/e.jpg", b"x");
        assert_eq!(Dataset::open(path).unwrap().counts(), [5, 5]);

        for name in ["unsure", "line\nbreak", &"x".repeat(65)] {
            fs::rename(path.join("bare"), path.join(name)).unwrap();
            assert!(refusal(path).contains("cannot be a label"), "{name:?}");
            fs::rename(path.join(name), path.join("bare")).unwrap();
        }
        for number in 0..63 {
            fs::create_dir(path.join(number.to_string())).unwrap();
        }
        assert!(refusal(path).contains("holds 65 class folders, at most 64"));
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_no_text_and_links_that_lead_back() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::symlink;

        let folder = set(&["with_mask", "bare"]);
        let path = folder.path();
        symlink("..", path.join("bare/round")).unwrap();
        symlink("nowhere.jpg", path.join("bare/broken.jpg")).unwrap();
        let elsewhere = set(&["mask"]);
        symlink(elsewhere.path().join("mask"), path.join("linked")).unwrap();
        let dataset = Dataset::open(path).unwrap();
        assert_eq!(dataset.classes, ["bare", "linked", "with_mask"]);
        // "bare" sees all of the set through its link, but once.
        assert_eq!(dataset.counts(), [5 + 1 + 5 + 5, 5, 5]);
        fs::remove_file(path.join("bare/round")).unwrap();
        let (dataset, findings) = findings(path);
        let broken = findings.sentences(&dataset);
        assert!(broken[0].starts_with("left out: bare/broken.jpg: No such file"));

        fs::create_dir(path.join(OsStr::from_bytes(b"\xff"))).unwrap();
        assert!(refusal(path).contains("class folder \"\u{fffd}\" cannot be"));
    }

    #[test]
    fn to_judge_by_little_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Dataset::open_to_judge(folder.path()).is_err());
        write(folder.path(), "with_mask/a.jpg", b"x");
        write(folder.path(), "with_mask/b.jpg", b"x");
        let dataset = Dataset::open_to_judge(folder.path()).unwrap();
        assert_eq!(dataset.counts(), [2]);
        let less = dataset.without(&[1]).unwrap();
        assert_eq!(less.counts(), [1]);
        let error = less.without(&[0]).unwrap_err().to_string();
        assert!(error.contains("has only 0 usable pictures, at least 1"));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = set(&["bare", "mask"]);
        let pipe = folder.path().join("bare/pipe.jpg");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let dataset = Dataset::open(folder.path()).unwrap();
        assert_eq!(dataset.counts(), [5, 5]);
        assert_eq!(dataset.ignored, [pipe]);
    }

    #[test]
    fn copies_are_never_both_learned_from_and_checked_by() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for number in 0..5 {
            for (class, name) in ["bare", "mask"].into_iter().enumerate() {
                let original = picture(class as u64 * 100 + number, 144, 144);
                let mirrored = imageops::flip_horizontal(&original);
                let png = |pixels| encoded(pixels, ImageFormat::Png);
                let copies = [png(&original), png(&mirrored), jpeg(&original, 95)];
                for (copy, bytes) in copies.iter().enumerate() {
                    write(path, &format!("{name}/{number}-{copy}.jpg"), bytes);
                }
            }
        }
        let dataset = Dataset::open(path).unwrap();
        let prints = fingerprints(&dataset).into_iter();
        let looks: Vec<PerceptualHash> = prints.map(|print| print.unwrap().look).collect();
        let groups = near_duplicate_groups(&looks, NEAR);
        for seed in 0..20 {
            let sides = dataset.split(&groups, 0.2, seed).unwrap();
            // Of "bare/0-1.jpg": "bare/0".
            let originals = |side: &[usize]| -> HashSet<String> {
                let names = side.iter().map(|&index| dataset.name(index));
                names.map(|name| name[..6].to_owned()).collect()
            };
            let (train, val) = (originals(&sides.train), originals(&sides.val));
            assert!(train.is_disjoint(&val), "{seed}: {train:?} {val:?}");
            assert_eq!((train.len(), val.len()), (8, 2));
        }
    }

    #[test]
    fn flaws_are_found_and_told() {
        let folder = set(&["bare", "mask"]);
        let path = folder.path();
        let copy = fs::read(path.join("bare/0.png")).unwrap();
        write(path, "mask/same file.png", &copy);
        // The same pixels in another format, under the other class.
        let bmp = encoded(&picture(101, 40, 30), ImageFormat::Bmp);
        write(path, "bare/same pixels.bmp", &bmp);
        write(
            path,
            "mask/twice.png",
            &fs::read(path.join("mask/3.png")).unwrap(),
        );
        write(path, "bare/similar.jpg", &jpeg(&picture(102, 40, 30), 70));
        write(path, "mask/empty.jpg", b"");
        write(path, "mask/text.png", b"no picture");
        write(
            path,
            "mask/cut.jpg",
            &jpeg(&picture(7, 200, 200), 80)[..2000],
        );
        let (dataset, findings) = findings(path);
        assert_eq!(
            findings.sentences(&dataset),
            [
                "left out: mask/cut.jpg: it is cut off before its end",
                "left out: mask/empty.jpg: it is empty",
                "left out: mask/text.png: it is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture",
                "left out: the same picture under several classes: bare/0.png, mask/same file.png",
                "left out: the same picture under several classes: bare/same pixels.bmp, mask/1.png",
                "check the labels of pictures that look alike: bare/similar.jpg, mask/2.png",
                "the same picture several times: mask/3.png, mask/twice.png",
            ]
        );

        let left_out = findings.left_out();
        let loaded = without(fingerprints(&dataset), &left_out);
        let left = dataset.without(&left_out).unwrap();
        assert_eq!((left.counts(), loaded.len()), (vec![5, 5], 10));
        let again = Findings::new(&left, &loaded);
        assert!(again.unreadable.is_empty() && again.contradictions.is_empty());
        let error = left.without(&[0]).unwrap_err().to_string();
        assert!(error.contains("class \"bare\" has only 4"), "{error}");
    }

    #[test]
    fn copies_are_recognised_and_other_pictures_are_not() {
        let mut looks = Vec::new();
        for example in EXAMPLES {
            let original = frame::decode(example.bytes).unwrap();
            let (width, height) = original.dimensions();
            let own = PerceptualHash::of(&original);
            let resized = |width: u32, height: u32| {
                imageops::resize(&original, width, height, FilterType::Triangle)
            };
            let copies = [
                original.clone(),
                resized(width / 2, height / 2),
                resized(224, 224),
                resized(width * 2, height * 2),
                resized(width * 7 / 10, height * 7 / 10),
                imageops::flip_horizontal(&resized(width / 2, height / 2)),
            ];
            for (copy, quality) in copies.iter().zip([50, 85, 85, 90, 40, 70]) {
                let again = frame::decode(&jpeg(copy, quality)).unwrap();
                let look = PerceptualHash::of(&again);
                let distance = own.distance(&look);
                assert!(distance <= NEAR, "{}: {distance}", example.name);
                looks.push(look);
            }
        }
        let groups = near_duplicate_groups(&looks, NEAR);
        let expected: Vec<usize> = (0..looks.len()).map(|index| index / 6 * 6).collect();
        assert_eq!(groups, expected);
    }

    #[test]
    fn a_look_is_what_krawetz_describes() {
        // Brighter to the right: each cell of a row beats the one to its left.
        let right = RgbImage::from_fn(90, 80, |x, _| Rgb([x as u8 * 2; 3]));
        assert_eq!(PerceptualHash::of(&right).upright, u128::MAX << 64);
        assert_eq!(PerceptualHash::of(&right).mirrored, 0);
        let down = RgbImage::from_fn(80, 90, |_, y| Rgb([y as u8 * 2; 3]));
        let down = PerceptualHash::of(&down);
        assert_eq!([down.upright, down.mirrored], [u128::MAX >> 64; 2]);
        assert_eq!(
            PerceptualHash::of(&RgbImage::new(50, 50)),
            PerceptualHash::default()
        );
        let one = picture(1, 144, 144);
        let (look, mirrored) = (
            PerceptualHash::of(&one),
            PerceptualHash::of(&imageops::flip_horizontal(&one)),
        );
        assert_eq!(
            [look.upright, look.mirrored],
            [mirrored.mirrored, mirrored.upright]
        );
        for (width, height) in [(0, 0), (1, 1), (1, 500), (500, 1), (3, 2)] {
            let _ = PerceptualHash::of(&picture(1, width.max(1), height.max(1)));
            assert_eq!(
                PerceptualHash::of(&RgbImage::new(width, height)),
                PerceptualHash::default()
            );
        }
    }

    #[test]
    fn the_digest_goes_by_classes_and_contents() {
        let digest = |folder: &Path| {
            let dataset = Dataset::open(folder).unwrap();
            let loaded: Result<Vec<_>, _> = fingerprints(&dataset).into_iter().collect();
            hex(&dataset.digest(&loaded.unwrap()))
        };
        let (one, two) = (set(&["bare", "mask"]), set(&["bare", "mask"]));
        let first = digest(one.path());
        assert_eq!(first, digest(two.path()), "wherever it lies");
        let old = two.path().join("mask/0.png");
        write(two.path(), "mask/deeper/z.png", &fs::read(&old).unwrap());
        fs::remove_file(&old).unwrap();
        assert_eq!(first, digest(two.path()), "however the files are named");
        let third = two.path().join("third");
        fs::rename(two.path().join("mask"), &third).unwrap();
        assert_ne!(first, digest(two.path()), "another class");
        fs::rename(third, two.path().join("mask")).unwrap();
        write(two.path(), "mask/1.png", &jpeg(&picture(1, 9, 9), 90));
        assert_ne!(first, digest(two.path()), "another picture");
    }

    #[test]
    fn imbalance_is_told_from_a_half_more_on() {
        let classes = ["bare".to_owned(), "mask".to_owned()];
        assert_eq!(imbalance_note(&classes, &[100, 150]), None);
        assert_eq!(
            imbalance_note(&classes, &[100, 151]).unwrap(),
            "the classes are of different sizes: 151 pictures of \"mask\", 100 of \"bare\" (1.5 times)"
        );
        assert_eq!(imbalance_note(&[], &[]), None);
        assert_eq!(class_weights(&[2, 0]), [0.5, 0.0]);
    }

    #[test]
    fn splits_that_cannot_be_name_the_class() {
        let folder = set(&["bare", "mask"]);
        let dataset = Dataset::open(folder.path()).unwrap();
        let groups = [0, 1, 2, 3, 4, 5, 5, 5, 5, 5];
        let error = dataset.split(&groups, 0.2, 1).unwrap_err().to_string();
        assert!(error.contains("class \"mask\" cannot be split"), "{error}");
        assert_eq!(split(&[0], &[0], 0.2, 1), Err(Inseparable { class: 0 }));
        let none = split(&[], &[], 0.2, 1).unwrap();
        assert!(none.train.is_empty() && none.val.is_empty());
        // Two groups of ten: half is the nearest to a fifth that is possible.
        let groups: Vec<usize> = (0..40).map(|index| index / 10).collect();
        let classes: Vec<usize> = (0..40).map(|index| index / 20).collect();
        assert_eq!(split(&groups, &classes, 0.2, 1).unwrap().val.len(), 20);
    }

    #[test]
    fn lone_pictures_are_split_to_the_picture() {
        let groups: Vec<usize> = (0..1000).collect();
        let classes: Vec<usize> = (0..1000).map(|index| usize::from(index >= 300)).collect();
        let of = |seed| split(&groups, &classes, 0.2, seed).unwrap();
        let val = of(1).val;
        assert_eq!(val.len(), 200);
        assert_eq!(val.iter().filter(|&&index| index < 300).count(), 60);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        // The same on every machine, and in every version.
        assert_eq!(val[..6], [7, 8, 17, 26, 28, 29]);
    }

    proptest! {
        #[test]
        fn splits_are_fair(
            sizes in prop::collection::vec((0_usize..4, 1_usize..6), 10..60),
            share in 0.05_f64..0.6,
            seed: u64,
        ) {
            // Each group lies within one class.
            let mut groups = Vec::new();
            let mut classes = Vec::new();
            for (group, &(class, size)) in sizes.iter().enumerate() {
                groups.extend(vec![group * 7; size]);
                classes.extend(vec![class; size]);
            }
            let per_class = |class| sizes.iter().filter(move |(c, _)| *c == class);
            let lone = (0..4).find(|&class| per_class(class).count() == 1);
            let result = split(&groups, &classes, share, seed);
            let Ok(sides) = result else {
                prop_assert!(lone.is_some(), "only a class of one group is refused");
                return Ok(());
            };
            prop_assert!(lone.is_none());
            check_sides(&sides, &groups)?;
            for class in 0..4 {
                let all: usize = per_class(class).map(|(_, size)| size).sum();
                let largest = per_class(class).map(|(_, size)| *size).max().unwrap_or(0);
                let val = sides.val.iter().filter(|&&index| classes[index] == class).count();
                let wanted = all as f64 * share;
                prop_assert!((val as f64 - wanted).abs() <= largest as f64 + 0.5);
                prop_assert!(all == 0 || (0 < val && val < all));
            }
            prop_assert_eq!(split(&groups, &classes, share, seed).unwrap(), sides);
        }

        #[test]
        fn groups_over_classes_are_kept_together(
            pictures in prop::collection::vec((0_usize..40, 0_usize..3), 2..120),
            seed: u64,
        ) {
            let (groups, classes): (Vec<usize>, Vec<usize>) = pictures.into_iter().unzip();
            if let Ok(sides) = split(&groups, &classes, 0.2, seed) {
                check_sides(&sides, &groups)?;
            }
        }

        #[test]
        fn groups_are_those_of_comparing_all_with_all(
            seeds in prop::collection::vec((0_u128..12, 0_u128..12, prop::collection::vec(0_u32..128, 0..8)), 0..40),
            distance in 0_u32..20,
        ) {
            // Few looks, each with some bits flipped: plenty of near ones.
            let bits = |base: u128, flips: &[u32]| {
                let base = base.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                flips.iter().fold(base, |bits, flip| bits ^ (1 << flip))
            };
            let looks: Vec<PerceptualHash> = seeds
                .iter()
                .map(|(base, mirrored, flips)| PerceptualHash {
                    upright: bits(*base, flips),
                    mirrored: bits(*mirrored, &flips[flips.len() / 2..]),
                })
                .collect();
            let mut expected: Vec<usize> = (0..looks.len()).collect();
            for a in 0..looks.len() {
                for b in 0..a {
                    if looks[a].distance(&looks[b]) <= distance {
                        let (from, to) = (expected[a].max(expected[b]), expected[a].min(expected[b]));
                        expected.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
                    }
                }
            }
            prop_assert_eq!(near_duplicate_groups(&looks, distance), expected);
        }
    }

    /// Disjoint, complete, and no group on both sides.
    fn check_sides(sides: &Split, groups: &[usize]) -> Result<(), TestCaseError> {
        let mut all = [sides.train.clone(), sides.val.clone()].concat();
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..groups.len()));
        let of = |side: &[usize]| -> HashSet<usize> { side.iter().map(|&i| groups[i]).collect() };
        prop_assert!(of(&sides.train).is_disjoint(&of(&sides.val)));
        prop_assert!(sides.train.is_sorted() && sides.val.is_sorted());
        Ok(())
    }

    #[test]
    fn wide_distances_make_one_group() {
        let look = |upright| PerceptualHash {
            upright,
            mirrored: upright,
        };
        let looks = [0, u128::MAX, 5, 0].map(look);
        assert_eq!(near_duplicate_groups(&looks, 128), [0, 0, 0, 0]);
        assert_eq!(near_duplicate_groups(&looks, 127), [0, 0, 0, 0]);
        assert_eq!(near_duplicate_groups(&looks, 125), [0, 1, 0, 0]);
        assert_eq!(near_duplicate_groups(&looks, 0), [0, 1, 2, 0]);
        assert_eq!(near_duplicate_groups(&[], NEAR).len(), 0);
    }
}
