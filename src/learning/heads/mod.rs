//! The history of heads on disk.
//!
//! Owns the folder `heads` of the state directory: which heads there are, which
//! is in use, and how to roll back. Knows nothing of how a head is trained or
//! evaluated.
//!
//! ```text
//! heads/000012.onnx      a head with its metadata, sealed by a checksum
//! heads/current          "current 12, highest 14": the one in use, the last number given
//! heads/current.backup   a copy, used if `current` is damaged
//! ```
//!
//! Head files are written once and never changed. Numbers increase and are never
//! reused, even when the file is gone. A head comes into use by an atomic rename
//! of `current`: readers see the old head or the new one. Temporary files that a
//! kill leaves behind are deleted when the heads are next opened for changes,
//! which one process at a time can do (it holds a lock).
//!
//! The format of a head file is in its metadata, `format` = `maskd-head-1`; the
//! checksum is the last entry. A head of a newer format counts as damaged, and an
//! older one comes into use.
//!
//! Before the first head, and after rolling back from it, none is current: the
//! caller then uses its own head, the built-in one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::onnx::{self, HeadFile, ModelError, ModelFile};
use crate::platform::files::{self, FileError, Lock};
use crate::platform::hex;
use crate::vision::head::Head;

/// Metadata key: the number of the head that this one was trained from or
/// replaced. Without it, that is the built-in head.
pub const PARENT: &str = "parent";

const CURRENT: &str = "current";
const BACKUP: &str = "current.backup";
/// Longest `current` file that is read.
const MAX_CURRENT_BYTES: u64 = 100;

/// Why heads cannot be kept or used as asked.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// A file or folder of the heads, or one that was named.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the heads open for changes.
    #[error("another maskd is changing {path}; let it do this, or stop it first")]
    Busy {
        /// The folder.
        path: String,
    },
    /// There is no head of this number.
    #[error("there is no model {number}: \"maskd heads list\" shows those that exist")]
    Missing {
        /// The number.
        number: u32,
    },
    /// The file of a head is damaged, or of an unknown format.
    #[error(transparent)]
    Damaged(#[from] ModelError),
    /// A rollback beyond the first head.
    #[error("cannot go back {steps} models: after {possible} the built-in model is in use")]
    NoParent {
        /// Steps that were asked for.
        steps: u32,
        /// Steps that are possible.
        possible: u32,
    },
    /// A head for another backbone.
    #[error(
        "the model {name} was made for the backbone {theirs}, and this one is {ours}: \
         train it on the features of this backbone"
    )]
    OtherBackbone {
        /// What the head is called.
        name: String,
        /// SHA-256 that it names, hexadecimal.
        theirs: String,
        /// SHA-256 of the backbone in use.
        ours: String,
    },
    /// A head with other labels.
    #[error(
        "the model {name} has the labels {theirs:?} instead of {ours:?}: \
         use a model with these labels in this order"
    )]
    OtherLabels {
        /// What the head is called.
        name: String,
        /// Its labels.
        theirs: Vec<String>,
        /// Those expected.
        ours: Vec<String>,
    },
    /// The highest number, 4,294,967,295, is taken.
    #[error(
        "there are no numbers left for models in {path}: delete the file of the highest number"
    )]
    Numbers {
        /// The folder.
        path: String,
    },
}

impl HeadsError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, HeadsError::File(error) if error.is_no_space())
    }

    /// Whether nothing may be written there: a read-only file system, or no
    /// permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, HeadsError::File(error) if error.is_read_only())
    }
}

/// What is in a head's file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The head.
    pub file: HeadFile,
    /// What was written beside it: scores, parent and so on.
    pub metadata: BTreeMap<String, String>,
}

impl Stored {
    /// The head that it was made from; `None` is the built-in one.
    #[must_use]
    pub fn parent(&self) -> Option<u32> {
        self.metadata.get(PARENT)?.parse().ok()
    }
}

/// The head in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// Its number.
    pub number: u32,
    /// The head itself, ready to classify.
    pub head: Head,
    /// What was written beside it.
    pub metadata: BTreeMap<String, String>,
}

/// The head that `heads/current` names, or the one that replaces it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadInUse {
    /// `None` is the built-in head.
    pub current: Option<Current>,
    /// Why it is not the head that should be in use; `None` if it is.
    pub fallback: Option<Fallback>,
}

/// Why another head is used than the one that should be: a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fallback {
    /// `current` is damaged or gone, and its backup is whole.
    #[error("the file heads/current is damaged or gone; its backup names model {used}")]
    Backup {
        /// The head in use.
        used: u32,
    },
    /// `current` and its backup are damaged or gone.
    #[error("the file heads/current is damaged or gone; {} is used, the newest that is whole", name_of(*used))]
    LostCurrent {
        /// The head in use; `None` is the built-in one.
        used: Option<u32>,
    },
    /// The head that should be in use is damaged or gone.
    #[error("model {damaged} is damaged or gone; {} is used instead", name_of(*used))]
    LostHead {
        /// The number that `current` names.
        damaged: u32,
        /// The newest one before it that is whole; `None` is the built-in one.
        used: Option<u32>,
    },
}

fn name_of(number: Option<u32>) -> String {
    number.map_or("the built-in model".to_owned(), |number| {
        format!("model {number}")
    })
}

/// A head of the list.
#[derive(Debug)]
pub struct HeadInfo {
    /// Its number.
    pub number: u32,
    /// Whether `current` names it.
    pub is_current: bool,
    /// What is in its file, or what is wrong with it.
    pub stored: Result<Stored, HeadsError>,
}

/// The content of `current`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CurrentFile {
    /// `None` is the built-in head.
    current: Option<u32>,
    /// The highest number that was ever used, 0 before the first.
    highest: u32,
}

impl CurrentFile {
    /// Ends in a line feed, so that it cannot be cut off without notice.
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

/// Read access to the heads. It needs no lock.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
}

impl Reader {
    /// The head in use, whole and checked. If it is damaged, or the file that
    /// names it, another one is taken, and a fallback says so; nothing on disk is
    /// changed.
    ///
    /// # Errors
    /// [`HeadsError::File`] if the folder cannot be read.
    pub fn current(&self) -> Result<HeadInUse, HeadsError> {
        loop {
            let before = self.current_and_highest();
            let in_use = self.in_use()?;
            // A head may have been switched away from and pruned meanwhile,
            // which is no damage.
            if in_use.fallback.is_none() || self.current_and_highest() == before {
                return Ok(in_use);
            }
        }
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
        // A kill during the very first `add` leaves the backup alone, which names
        // none: no damage.
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

    /// All heads, by number.
    ///
    /// # Errors
    /// [`HeadsError::File`] if the folder cannot be read.
    pub fn list(&self) -> Result<Vec<HeadInfo>, HeadsError> {
        let named = self.current_and_highest().0.and_then(|named| named.current);
        let info = |number| HeadInfo {
            number,
            is_current: named == Some(number),
            stored: self.get(number),
        };
        Ok(self.numbers()?.into_iter().map(info).collect())
    }

    /// A head by its number.
    ///
    /// # Errors
    /// [`HeadsError::Missing`], [`HeadsError::File`], [`HeadsError::Damaged`].
    pub fn get(&self, number: u32) -> Result<Stored, HeadsError> {
        parse_sealed(&name(number), &self.bytes(number)?)
    }

    /// Copies a head to a file.
    ///
    /// # Errors
    /// As [`get`](Reader::get), and [`HeadsError::File`] if the file cannot be
    /// written.
    pub fn export(&self, number: u32, path: &Path) -> Result<(), HeadsError> {
        let bytes = self.file(number)?;
        Ok(files::write(path, &bytes)?)
    }

    /// The bytes of a head's file, which is whole.
    ///
    /// # Errors
    /// As [`get`](Reader::get).
    pub fn file(&self, number: u32) -> Result<Vec<u8>, HeadsError> {
        let bytes = self.bytes(number)?;
        parse_sealed(&name(number), &bytes)?;
        Ok(bytes)
    }

    fn bytes(&self, number: u32) -> Result<Vec<u8>, HeadsError> {
        let path = self.path(number);
        match files::read_bounded(&path, onnx::MAX_MODEL_BYTES) {
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

    /// The newest head that is whole, with a number up to `last`.
    fn newest(&self, numbers: &BTreeSet<u32>, last: u32) -> Option<Current> {
        let mut numbers = numbers.range(..=last).rev();
        numbers.find_map(|number| self.load(*number).ok())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.root.join(name(number))
    }

    fn read_current(&self, file: &str) -> Option<CurrentFile> {
        let bytes = files::read_bounded(&self.root.join(file), MAX_CURRENT_BYTES).ok()?;
        CurrentFile::parse(&bytes)
    }

    /// What counts, and the highest number that either file knows.
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

/// Write access to the heads, for one process at a time. It can do all that a
/// [`Reader`] can.
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
    /// Opens the heads of a state directory to change them; makes the folder if
    /// there is none (mode 0700), and removes files half written.
    ///
    /// # Errors
    /// [`HeadsError::Busy`], [`HeadsError::File`].
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

    /// The heads of a state directory, to read them; there need not be any, and
    /// whoever has them open does not matter.
    #[must_use]
    pub fn read_only(state: &Path) -> Reader {
        Reader {
            root: state.join("heads"),
        }
    }

    /// Stores a head under the next number, which it gives back; the head is on
    /// disk for good then, and not in use. `metadata` should name its
    /// [`PARENT`].
    ///
    /// # Errors
    /// [`HeadsError::Damaged`] if it is none that could be read again (a weight
    /// that is not finite), [`HeadsError::File`], [`HeadsError::Numbers`].
    pub fn add(&mut self, head: &HeadFile, metadata: &[(&str, String)]) -> Result<u32, HeadsError> {
        let bytes = onnx::write_sealed_head(head, metadata);
        parse_sealed("that was made", &bytes)?;
        let (named, highest) = self.current_and_highest();
        let last = self.numbers()?.last().copied().unwrap_or(0);
        let number = highest.max(last).checked_add(1);
        let number = number.ok_or_else(|| HeadsError::Numbers {
            path: self.root.display().to_string(),
        })?;
        // The number is taken before the file is there, and so for good. A
        // damaged `current` is not made whole by a guess: it stays for
        // `current` to speak about.
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

    /// Puts a head into use; `None` is the built-in one. Whoever reads sees the
    /// one before or this one.
    ///
    /// # Errors
    /// As [`Reader::get`]: a head that is damaged is not put into use;
    /// [`HeadsError::File`].
    pub fn switch(&mut self, number: Option<u32>) -> Result<(), HeadsError> {
        if let Some(number) = number {
            self.get(number)?;
        }
        let last = self.numbers()?.last().copied().unwrap_or(0);
        self.write_current(CurrentFile {
            current: number,
            highest: self.current_and_highest().1.max(last),
        })
    }

    /// Goes back from the head in use to its parent, `steps` times, and puts
    /// that one into use: its number, or `None` for the shipped head. The heads
    /// on the way stay where they are.
    ///
    /// # Errors
    /// [`HeadsError::NoParent`] if it is more steps than there are; as
    /// [`Reader::get`] if a head on the way is gone or damaged. Then nothing is
    /// changed.
    pub fn rollback(&mut self, steps: u32) -> Result<Option<u32>, HeadsError> {
        let mut number = self.current()?.current.map(|current| current.number);
        for possible in 0..steps {
            let from = number.ok_or(HeadsError::NoParent { steps, possible })?;
            number = self.get(from)?.parent();
        }
        self.switch(number)?;
        Ok(number)
    }

    /// Stores the head of a file (a head's, or a classifier's) under the next
    /// number, not yet in use; its parent is the head in use.
    ///
    /// # Errors
    /// [`HeadsError::OtherBackbone`], [`HeadsError::OtherLabels`],
    /// [`HeadsError::Damaged`], and those of [`add`](Heads::add).
    pub fn import(
        &mut self,
        path: &Path,
        backbone: &[u8; 32],
        labels: &[String],
    ) -> Result<u32, HeadsError> {
        let name = path.display().to_string();
        let bytes = onnx::read_file(path)?;
        let mut metadata = onnx::read_metadata(&name, &bytes)?;
        let file = parse_foreign(&name, &bytes, backbone, labels)?;
        // Its numbers are those of another place.
        metadata.remove(PARENT);
        if let Some(current) = self.current()?.current {
            metadata.insert(PARENT.to_owned(), current.number.to_string());
        }
        let metadata: Vec<(&str, String)> = metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        self.add(&file, &metadata)
    }

    /// Deletes old heads and gives their numbers: all but the newest `keep` that
    /// are whole and what is newer than those, the one in use (and the one that
    /// should be), and its parent.
    ///
    /// # Errors
    /// [`HeadsError::File`].
    pub fn prune(&mut self, keep: usize) -> Result<Vec<u32>, HeadsError> {
        let numbers = self.numbers()?;
        let mut kept = BTreeSet::new();
        kept.extend(self.current_and_highest().0.and_then(|named| named.current));
        if let Some(current) = self.current()?.current {
            kept.insert(current.number);
            kept.extend(self.get(current.number)?.parent());
        }
        let whole = numbers
            .iter()
            .rev()
            .filter(|number| self.get(**number).is_ok());
        let oldest = whole.take(keep).last().copied().unwrap_or(u32::MAX);
        kept.extend(numbers.range(oldest..));
        let gone: Vec<u32> = numbers.difference(&kept).copied().collect();
        for number in &gone {
            let path = self.path(*number);
            fs::remove_file(&path).map_err(FileError::of("delete", &path))?;
        }
        files::sync_folder(&self.root)?;
        Ok(gone)
    }

    /// Writes `current`, after its backup: one of them is always whole, and if
    /// the disk is full, that shows before anything counts.
    fn write_current(&self, named: CurrentFile) -> Result<(), HeadsError> {
        for file in [BACKUP, CURRENT] {
            let path = self.root.join(file);
            files::write(&path, named.to_text().as_bytes())?;
        }
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("{number:06}.onnx")
}

/// The head of a file that came from elsewhere, as
/// [`import`](Heads::import) takes it.
///
/// # Errors
/// [`HeadsError::OtherBackbone`], [`HeadsError::OtherLabels`],
/// [`HeadsError::Damaged`].
pub fn parse_foreign(
    name: &str,
    bytes: &[u8],
    backbone: &[u8; 32],
    labels: &[String],
) -> Result<HeadFile, HeadsError> {
    let file = head_of(name, bytes)?;
    if file.backbone_sha256 != *backbone {
        return Err(HeadsError::OtherBackbone {
            name: name.to_owned(),
            theirs: hex::encode(&file.backbone_sha256),
            ours: hex::encode(backbone),
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
