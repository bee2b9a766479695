//! The history of heads on disk.
//!
//! This module owns the folder `heads` in the state directory: which heads exist, which one is in
//! use, and how to roll back. The module knows nothing about how a head is trained or evaluated.
//!
//! ```text
//! heads/000012.onnx      a head with its metadata, sealed by a checksum
//! heads/current          "current 12, highest 14": the head in use, the last number assigned
//! heads/current.backup   a copy, used if `current` is damaged
//! ```
//!
//! Head files are written once and never changed. Numbers increase and are never reused, even after
//! a file is deleted. A head is put into use by an atomic rename of `current`, so readers see
//! either the old head or the new one. Every step that can fail comes before this rename, so if a
//! caller gets an error, the previous head is still in use. A process must hold a lock to open the
//! heads for changes, so only one process can change them at a time. When the heads are opened for
//! changes, temporary files that a killed process left behind are deleted.
//!
//! The metadata of a head file states its format (`format` = `maskd-head-1`) and ends
//! with the checksum. A head in a newer format counts as damaged, so an older head is
//! used instead.
//!
//! Before the first head is stored, and after a rollback from the first head, no stored
//! head is in use. The caller then uses the built-in head.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::onnx::{self, HeadFile, ModelError, ModelFile};
use crate::platform::files::{self, FileError, Lock};
use crate::platform::hex;
use crate::platform::text::counted;
use crate::vision::head::Head;

/// Metadata key for the number of the parent. The parent is the head from which this head
/// was trained, or the head that it replaced. If the key is missing, the parent is the
/// built-in head.
pub const PARENT: &str = "parent";

const CURRENT: &str = "current";
const BACKUP: &str = "current.backup";
/// Maximum size of a `current` file that is read, in bytes.
const MAX_CURRENT_BYTES: u64 = 100;

/// Why an operation on the heads failed.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// A file operation failed, either in the folder `heads` or on a path that the caller passed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the heads open for changes.
    #[error("another maskd is changing {path}; let it do this, or stop it first")]
    Busy {
        /// The folder that contains the heads.
        path: String,
    },
    /// There is no head with this number.
    #[error("there is no model {number}: \"maskd heads list\" shows those that exist")]
    Missing {
        /// The requested number.
        number: u32,
    },
    /// The file of a head is damaged or has an unknown format.
    #[error(transparent)]
    Damaged(#[from] ModelError),
    /// The requested rollback goes back past the first head.
    #[error("{}", no_parent(*steps, *possible))]
    NoParent {
        /// Number of steps requested.
        steps: u32,
        /// Number of steps that are possible.
        possible: u32,
    },
    /// The head was trained for another backbone.
    #[error(
        "the model {name} was made for the backbone {theirs}, and this one is {ours}: \
         train it on the features of this backbone"
    )]
    OtherBackbone {
        /// Name of the head in the message.
        name: String,
        /// SHA-256 of the backbone that the head was trained for, in hexadecimal.
        theirs: String,
        /// SHA-256 of the backbone in use, in hexadecimal.
        ours: String,
    },
    /// The labels of the head, or their order, differ from the expected ones.
    #[error(
        "the model {name} has the labels {theirs:?} instead of {ours:?}: \
         use a model with these labels in this order"
    )]
    OtherLabels {
        /// Name of the head in the message.
        name: String,
        /// The labels of the head.
        theirs: Vec<String>,
        /// The expected labels.
        ours: Vec<String>,
    },
    /// No number is left, because the highest number, 4,294,967,295, is already used.
    #[error(
        "there are no numbers left for models in {path}: delete the file of the highest number"
    )]
    Numbers {
        /// The folder that contains the heads.
        path: String,
    },
}

/// Says why it is not possible to go back by `steps`.
fn no_parent(steps: u32, possible: u32) -> String {
    match possible {
        0 => "cannot go back: the built-in model is in use, and no model was before it".to_owned(),
        _ => format!(
            "cannot go back {}: the built-in model is already reached after {possible}",
            counted(steps, "model")
        ),
    }
}

impl HeadsError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, HeadsError::File(error) if error.is_no_space())
    }

    /// Whether writing is not allowed because the file system is read-only or the
    /// process lacks permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, HeadsError::File(error) if error.is_read_only())
    }
}

/// The contents of a head's file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The head.
    pub file: HeadFile,
    /// The metadata stored with the head, such as its scores and its parent.
    pub metadata: BTreeMap<String, String>,
}

impl Stored {
    /// Returns the number of the parent (see [`PARENT`]). `None` stands for the built-in
    /// head.
    #[must_use]
    pub fn parent(&self) -> Option<u32> {
        self.metadata.get(PARENT)?.parse().ok()
    }
}

/// The head in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// Number of the head.
    pub number: u32,
    /// The head itself, ready to classify.
    pub head: Head,
    /// The metadata stored with the head.
    pub metadata: BTreeMap<String, String>,
}

/// The head that `heads/current` names, or the head used in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadInUse {
    /// The head; `None` stands for the built-in head.
    pub current: Option<Current>,
    /// The reason why another head is used instead of the intended one, or `None` if the
    /// intended head is in use.
    pub fallback: Option<Fallback>,
}

/// Why a head other than the intended one is used. Each message is a complete sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fallback {
    /// `current` is damaged or missing, but its backup is intact.
    #[error("the file heads/current is damaged or missing; its backup names model {used}")]
    Backup {
        /// The number of the head in use.
        used: u32,
    },
    /// Both `current` and its backup are damaged or missing.
    #[error("the file heads/current is damaged or missing; {} is used, the newest intact model", name_of(*used))]
    LostCurrent {
        /// The head in use; `None` stands for the built-in head.
        used: Option<u32>,
    },
    /// The head that should be in use is damaged or missing.
    #[error("model {damaged} is damaged or missing; {} is used instead", name_of(*used))]
    LostHead {
        /// The number that `current` names.
        damaged: u32,
        /// The newest intact head with a lower number; `None` stands for the built-in head.
        used: Option<u32>,
    },
}

fn name_of(number: Option<u32>) -> String {
    number.map_or("the built-in model".to_owned(), |number| {
        format!("model {number}")
    })
}

/// One entry in the list of heads.
#[derive(Debug)]
pub struct HeadInfo {
    /// Number of the head.
    pub number: u32,
    /// Whether `current` names this head.
    pub is_current: bool,
    /// The contents of the file, or the error that says what is wrong with it.
    pub stored: Result<Stored, HeadsError>,
}

/// The content of `current`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CurrentFile {
    /// The number of the head in use; `None` stands for the built-in head.
    current: Option<u32>,
    /// The highest number that was ever used, or 0 before the first head is stored.
    highest: u32,
}

impl CurrentFile {
    /// Formats the content of the file. The text ends with a line feed, so that
    /// truncation is detected.
    fn to_text(self) -> String {
        let current = self.current.map_or("none".to_owned(), |n| n.to_string());
        format!("current {current}, highest {}\n", self.highest)
    }

    fn parse(bytes: &[u8]) -> Option<CurrentFile> {
        let text = std::str::from_utf8(bytes).ok()?;
        let rest = text.strip_prefix("current ")?.strip_suffix('\n')?;
        let (current, highest) = rest.split_once(", highest ")?;
        let current = match current {
            "none" => None,
            number => Some(number.parse().ok()?),
        };
        let highest = highest.parse().ok()?;
        Some(CurrentFile { current, highest })
    }
}

/// The number of the head that `current` names; `None` stands for the built-in head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamedHead(pub(super) Option<u32>);

/// Read access to the heads. It needs no lock.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
}

impl Reader {
    /// Loads and checks the head in use. If the head or the file that names it is damaged,
    /// this function returns another head and gives the reason in
    /// [`fallback`](HeadInUse::fallback). It changes nothing on disk.
    ///
    /// # Errors
    /// Returns [`HeadsError::File`] if the folder cannot be read.
    pub fn current(&self) -> Result<HeadInUse, HeadsError> {
        loop {
            let before = self.current_and_highest();
            let in_use = self.in_use()?;
            // In the meantime, another process may have put another head into use and
            // pruned this one. That does not count as damage.
            if in_use.fallback.is_none() || self.current_and_highest() == before {
                return Ok(in_use);
            }
        }
    }

    /// Returns the head that `current` names, or `None` if `current` cannot be read or is
    /// damaged.
    pub(super) fn named(&self) -> Option<NamedHead> {
        let named = self.read_current(CURRENT);
        named.map(|named| NamedHead(named.current))
    }

    fn in_use(&self) -> Result<HeadInUse, HeadsError> {
        let named = self.read_current(CURRENT);
        let backup = self.read_current(BACKUP);
        let numbers = self.numbers()?;
        let Some(CurrentFile { current, .. }) = named.or(backup) else {
            if numbers.is_empty() {
                return Ok(HeadInUse {
                    current: None,
                    fallback: None,
                });
            }
            let current = self.newest(&numbers, u32::MAX);
            let used = current.as_ref().map(|current| current.number);
            let fallback = Some(Fallback::LostCurrent { used });
            return Ok(HeadInUse { current, fallback });
        };
        // If the process is killed during the very first `add`, only one of the two files exists,
        // and that file names no head. This state does not count as damage.
        let Some(number) = current else {
            return Ok(HeadInUse {
                current: None,
                fallback: None,
            });
        };
        let mut fallback = named.is_none().then_some(Fallback::Backup { used: number });
        let mut found = self.load(number).ok();
        if found.is_none() {
            let before = number.saturating_sub(1);
            found = self.newest(&numbers, before);
            fallback = Some(Fallback::LostHead {
                damaged: number,
                used: found.as_ref().map(|current| current.number),
            });
        }
        Ok(HeadInUse {
            current: found,
            fallback,
        })
    }

    /// Returns all heads, sorted by number.
    ///
    /// # Errors
    /// Returns [`HeadsError::File`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<HeadInfo>, HeadsError> {
        let named = self.current_and_highest().0.and_then(|named| named.current);
        let info = |number| HeadInfo {
            number,
            is_current: named == Some(number),
            stored: self.get(number),
        };
        Ok(self.numbers()?.into_iter().map(info).collect())
    }

    /// Reads the head with the given number.
    ///
    /// # Errors
    /// Returns [`HeadsError::Missing`] if there is no such head, [`HeadsError::Damaged`] if the
    /// head is damaged, and [`HeadsError::File`] if its file cannot be read.
    pub fn get(&self, number: u32) -> Result<Stored, HeadsError> {
        parse_sealed(&name(number), &self.bytes(number)?)
    }

    /// Returns the bytes of a head's file after checking that it is intact.
    ///
    /// # Errors
    /// Returns the errors of [`get`](Reader::get).
    pub fn file(&self, number: u32) -> Result<Vec<u8>, HeadsError> {
        let bytes = self.bytes(number)?;
        parse_sealed(&name(number), &bytes)?;
        Ok(bytes)
    }

    fn bytes(&self, number: u32) -> Result<Vec<u8>, HeadsError> {
        let path = self.path(number);
        match files::read_own(&path, onnx::MAX_MODEL_BYTES) {
            Err(error) if error.is_missing() => Err(HeadsError::Missing { number }),
            bytes => Ok(bytes?),
        }
    }

    fn load(&self, number: u32) -> Result<Current, HeadsError> {
        let Stored { file, metadata } = self.get(number)?;
        Ok(Current {
            number,
            head: Head::from_file(file),
            metadata,
        })
    }

    /// Returns the newest intact head with a number of at most `last`.
    fn newest(&self, numbers: &BTreeSet<u32>, last: u32) -> Option<Current> {
        let mut numbers = numbers.range(..=last).rev();
        numbers.find_map(|number| self.load(*number).ok())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.root.join(name(number))
    }

    fn read_current(&self, file: &str) -> Option<CurrentFile> {
        let bytes = files::read_own(&self.root.join(file), MAX_CURRENT_BYTES).ok()?;
        CurrentFile::parse(&bytes)
    }

    /// Returns the content of `current`, or of its backup if `current` is damaged. Also returns the
    /// highest number in either file.
    fn current_and_highest(&self) -> (Option<CurrentFile>, u32) {
        let (current, backup) = (self.read_current(CURRENT), self.read_current(BACKUP));
        let highest = [current, backup]
            .into_iter()
            .flatten()
            .map(|named| named.highest)
            .max();
        (current.or(backup), highest.unwrap_or(0))
    }

    fn numbers(&self) -> Result<BTreeSet<u32>, HeadsError> {
        let read = || -> io::Result<BTreeSet<u32>> {
            let mut numbers = BTreeSet::new();
            for entry in self.root.read_dir()? {
                let file = entry?.file_name();
                let number = file.to_str().and_then(|file| file.strip_suffix(".onnx"));
                let number = number.and_then(|number| number.parse().ok());
                numbers.extend(number.filter(|number| *name(*number) == *file));
            }
            Ok(numbers)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            numbers => Ok(numbers.map_err(FileError::of("read the folder", &self.root))?),
        }
    }
}

/// Write access to the heads for one process at a time. It also provides everything that a
/// [`Reader`] provides.
#[derive(Debug)]
pub struct Heads {
    reader: Reader,
    _lock: Lock,
}

impl Deref for Heads {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Heads {
    /// Opens the heads in a state directory for changes. Creates the folder if it does not
    /// exist (mode 0700), and removes partially written files.
    ///
    /// # Errors
    /// Returns [`HeadsError::Busy`] if another process has the heads open for changes, and
    /// [`HeadsError::File`] if the folder cannot be used.
    pub fn open(state: &Path) -> Result<Heads, HeadsError> {
        let reader = Heads::read_only(state);
        let root = &reader.root;
        files::make_folder(root)?;
        let lock = files::lock(root)?;
        let Some(lock) = lock else {
            let path = root.display().to_string();
            return Err(HeadsError::Busy { path });
        };
        files::remove_leftovers(root)?;
        Ok(Heads {
            reader,
            _lock: lock,
        })
    }

    /// Opens the heads in a state directory for reading. This works even if there are no
    /// heads or another process has them open for changes.
    #[must_use]
    pub fn read_only(state: &Path) -> Reader {
        Reader {
            root: state.join("heads"),
        }
    }

    /// Stores a head under the next number, and returns that number. The head is then durable on
    /// disk but not yet in use. `metadata` should contain the head's [`PARENT`].
    ///
    /// # Errors
    /// Returns [`HeadsError::Damaged`] if the stored head could not be read back, for example
    /// because a weight is not finite. Returns [`HeadsError::File`] if the head cannot be written,
    /// and [`HeadsError::Numbers`] if no number is left.
    pub fn add(&mut self, head: &HeadFile, metadata: &[(&str, String)]) -> Result<u32, HeadsError> {
        let bytes = onnx::write_sealed_head(head, metadata);
        parse_sealed("that was made", &bytes)?;
        let (named, highest) = self.current_and_highest();
        let last = self.numbers()?.last().copied().unwrap_or(0);
        let number = highest.max(last).checked_add(1);
        let number = number.ok_or_else(|| HeadsError::Numbers {
            path: self.root.display().to_string(),
        })?;
        // The number is recorded before the file is written, so that the number is never reused. A
        // damaged file `current` is kept rather than replaced by a guess, so that the method
        // `current` can report the damage.
        if named.is_some() || last == 0 {
            self.write_current(CurrentFile {
                current: named.unwrap_or_default().current,
                highest: number,
            })?;
        }
        let path = self.path(number);
        files::write(&path, &bytes)?;
        Ok(number)
    }

    /// Puts a head into use; `None` stands for the built-in head. Readers see either the
    /// previous head or this one.
    ///
    /// # Errors
    /// Returns the errors of [`Reader::get`], because a damaged head is not put into use. Also
    /// returns [`HeadsError::File`] if `current` cannot be written. After an error, the previous
    /// head stays in use.
    pub fn switch(&mut self, number: Option<u32>) -> Result<(), HeadsError> {
        if let Some(number) = number {
            self.get(number)?;
        }
        let last = self.numbers()?.last().copied().unwrap_or(0);
        let named = CurrentFile {
            current: number,
            highest: self.current_and_highest().1.max(last),
        };
        self.write(CURRENT, named)?;
        // The head is already in use, so a failure to write the backup must not be reported as an
        // error. An outdated backup names the head that was in use before.
        if let Err(error) = self.write(BACKUP, named) {
            warn!(%error, "the backup of heads/current is outdated");
        }
        Ok(())
    }

    /// Stores a head in the same way as [`add`](Heads::add), puts it into use in the same
    /// way as [`switch`](Heads::switch), and returns its number.
    ///
    /// # Errors
    /// Returns the errors of [`add`](Heads::add) and [`switch`](Heads::switch). After an error, the
    /// new head is not stored, and the previous head stays in use.
    pub(super) fn add_and_switch(
        &mut self,
        head: &HeadFile,
        metadata: &[(&str, String)],
    ) -> Result<u32, HeadsError> {
        let number = self.add(head, metadata)?;
        if let Err(error) = self.switch(Some(number)) {
            let path = self.path(number);
            // The file is deleted so that repeated attempts on a full disk do not use up
            // more space.
            if let Err(error) = files::delete(&path) {
                warn!(%error, model = number, "a model that is not in use cannot be deleted");
            }
            return Err(error);
        }
        Ok(number)
    }

    /// Determines the effect of `steps` rollbacks from the head `from`. Returns the contents of the
    /// heads that would no longer be in use, and the number of the head that would then be in use,
    /// or `None` for the built-in head.
    ///
    /// # Errors
    /// Returns [`HeadsError::NoParent`] if there are fewer than `steps` parents. Returns the errors
    /// of [`Reader::get`] if one of these heads is missing or damaged.
    pub(super) fn way_back(
        &self,
        from: Option<u32>,
        steps: u32,
    ) -> Result<(Vec<Stored>, Option<u32>), HeadsError> {
        let mut number = from;
        let mut skipped = Vec::new();
        for possible in 0..steps {
            let from = number.ok_or(HeadsError::NoParent { steps, possible })?;
            let stored = self.get(from)?;
            number = stored.parent();
            skipped.push(stored);
        }
        Ok((skipped, number))
    }

    /// Returns the contents of the heads that a switch from the head `from` to the head `to`
    /// leaves: `from`, and its ancestors with higher numbers than `to`. `None` stands for the
    /// built-in head. The list ends at a head that cannot be read, because the parent of that
    /// head is unknown.
    pub(super) fn left_by_switch(&self, from: Option<u32>, to: Option<u32>) -> Vec<Stored> {
        let mut left = Vec::new();
        let mut number = from.filter(|from| Some(*from) != to);
        while let Some(stored) = number.and_then(|number| self.get(number).ok()) {
            // A parent always has a lower number. Anything else is damage that must not
            // make this loop endless.
            let parent = stored.parent();
            number = parent.filter(|parent| Some(*parent) < number && Some(*parent) > to);
            left.push(stored);
        }
        left
    }

    /// Deletes old heads and returns their numbers. Keeps the newest `keep` intact heads, and all
    /// files with higher numbers than the oldest of these heads. Also keeps the head in use, its
    /// parent, and the head that `current` names. Deletes nothing if `current` is missing or
    /// damaged.
    ///
    /// # Errors
    /// Returns [`HeadsError::File`] if a head cannot be read for a reason other than damage. If
    /// some heads cannot be deleted, this function deletes the others and then returns the first
    /// error.
    pub fn prune(&mut self, keep: usize) -> Result<Vec<u32>, HeadsError> {
        let numbers = self.numbers()?;
        let Some(NamedHead(named)) = self.named() else {
            return Ok(Vec::new());
        };
        let mut kept = BTreeSet::new();
        kept.extend(named);
        if let Some(current) = self.current()?.current {
            kept.insert(current.number);
            kept.extend(self.get(current.number)?.parent());
        }
        let mut whole = Vec::new();
        for number in numbers.iter().rev() {
            match self.get(*number) {
                Ok(_) => whole.push(*number),
                Err(HeadsError::Damaged(_) | HeadsError::Missing { .. }) => {}
                // A head that cannot be read at the moment, for example because too many
                // files are open, may be intact.
                Err(error) => return Err(error),
            }
        }
        whole.truncate(keep);
        let oldest = whole.last().copied().unwrap_or(u32::MAX);
        kept.extend(numbers.range(oldest..));
        let mut gone = Vec::new();
        let mut failed = None;
        for number in numbers.difference(&kept) {
            let path = self.path(*number);
            match files::delete(&path).map_err(FileError::of("delete", &path)) {
                Ok(()) => gone.push(*number),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)?;
        files::settle(&self.root);
        Ok(gone)
    }

    /// Writes the backup, and then `current`, which determines the head in use. If the disk is
    /// full, this function fails before it changes `current`.
    fn write_current(&self, named: CurrentFile) -> Result<(), HeadsError> {
        self.write(BACKUP, named)?;
        self.write(CURRENT, named)
    }

    fn write(&self, file: &str, named: CurrentFile) -> Result<(), HeadsError> {
        let path = self.root.join(file);
        Ok(files::write(&path, named.to_text().as_bytes())?)
    }
}

/// A head that a user imports, and the metadata to store with it.
pub(super) struct Imported {
    pub(super) file: HeadFile,
    pub(super) metadata: Vec<(String, String)>,
}

/// Reads a head from a head file or a classifier file. The returned metadata names the head
/// `parent` as its parent.
///
/// # Errors
/// Returns [`HeadsError::OtherBackbone`] if the head was made for another backbone than `base`,
/// [`HeadsError::OtherLabels`] if its labels differ from `labels`, and [`HeadsError::Damaged`] if
/// the file cannot be read.
pub(super) fn read_foreign(
    path: &Path,
    base: &Head,
    labels: &[String],
    parent: Option<u32>,
) -> Result<Imported, HeadsError> {
    let name = path.display().to_string();
    let bytes = onnx::read_file(path)?;
    let mut metadata = onnx::read_metadata(&name, &bytes)?;
    let file = parse_foreign(&name, &bytes, base, labels)?;
    // The parent's number in the file is discarded, because it refers to a head on the
    // device from which the file came.
    metadata.remove(PARENT);
    metadata.extend(parent.map(|parent| (PARENT.to_owned(), parent.to_string())));
    Ok(Imported {
        file,
        metadata: metadata.into_iter().collect(),
    })
}

fn name(number: u32) -> String {
    format!("{number:06}.onnx")
}

/// Parses a head file from another device, with the same checks as for an imported
/// file.
///
/// # Errors
/// Returns [`HeadsError::OtherBackbone`] if the head was made for another backbone than `base`,
/// [`HeadsError::OtherLabels`] if its labels differ from `labels`, and [`HeadsError::Damaged`] if
/// the file is invalid.
pub fn parse_foreign(
    name: &str,
    bytes: &[u8],
    base: &Head,
    labels: &[String],
) -> Result<HeadFile, HeadsError> {
    let file = head_of(name, bytes)?;
    if !base.is_for(&file.backbone_sha256, file.head.features()) {
        return Err(HeadsError::OtherBackbone {
            name: name.to_owned(),
            theirs: hex::encode(&file.backbone_sha256),
            ours: hex::encode(base.backbone()),
        });
    }
    if file.labels != labels {
        return Err(HeadsError::OtherLabels {
            name: name.to_owned(),
            theirs: file.labels,
            ours: labels.to_owned(),
        });
    }
    Ok(file)
}

fn parse_sealed(name: &str, bytes: &[u8]) -> Result<Stored, HeadsError> {
    onnx::check_seal(name, bytes)?;
    Ok(Stored {
        file: head_of(name, bytes)?,
        metadata: onnx::read_metadata(name, bytes)?,
    })
}

fn head_of(name: &str, bytes: &[u8]) -> Result<HeadFile, HeadsError> {
    Ok(match ModelFile::parse(name, bytes)? {
        ModelFile::Head(file) => file,
        ModelFile::Classifier(classifier) => HeadFile {
            backbone_sha256: classifier.backbone_sha256,
            labels: classifier.labels,
            head: classifier.head,
        },
    })
}

#[cfg(test)]
mod tests;
