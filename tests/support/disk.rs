//! Simulates what a power cut leaves of a folder: it follows the system calls of a program, as
//! `strace` reports them, and returns the folder as a file system may have it after a cut.
//!
//! - The content of a file survives as it was at its last `fsync`. Of what was written later,
//!   nothing, everything, or a part survives.
//! - Names are kept in an ordered journal. A `fsync` of a folder makes all names durable that
//!   were changed up to the last change in this folder. Of the later changes, a random number
//!   survives, in their order. A `fsync` of a file does not make its name durable.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The system calls that `strace` must report.
pub const CALLS: &str = "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,\
                         unlink,unlinkat,rmdir,mkdir,mkdirat,ftruncate,linkat,link";

/// A change of a file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// A file was opened.
    Open {
        path: PathBuf,
        creates: bool,
        empties: bool,
    },
    Write {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    Sync(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Delete(PathBuf),
    MakeFolder(PathBuf),
    /// A system call that this simulation does not know.
    Other {
        name: String,
        path: PathBuf,
    },
}

/// The changes that a program made in a folder, in their order.
pub struct Trace {
    /// Each change with the time at which it began, in seconds since 1970.
    changes: Vec<(f64, Change)>,
}

/// The arguments of a system call.
struct Call<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    result: &'a str,
}

impl<'a> Call<'a> {
    /// Parses `name(argument, argument) = result`. Strings and paths have only hexadecimal
    /// escapes, so that they contain no commas.
    fn parse(line: &'a str) -> Option<Call<'a>> {
        let (name, rest) = line.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        Some(Call {
            name,
            arguments: arguments.split(", ").collect(),
            result,
        })
    }

    /// The string in an argument, such as `"\x61"`.
    fn bytes(&self, index: usize) -> Option<Vec<u8>> {
        let (_, rest) = self.arguments.get(index)?.split_once('"')?;
        unescape(rest.split('"').next()?)
    }

    /// The path of a file descriptor, such as `3<\x61>`.
    fn descriptor(&self, index: usize) -> Option<PathBuf> {
        let (_, rest) = self.arguments.get(index)?.split_once('<')?;
        Some(path(unescape(rest.split('>').next()?)?))
    }

    /// A path that is relative to a file descriptor.
    fn at(&self, index: usize) -> Option<PathBuf> {
        let name = path(self.bytes(index + 1)?);
        Some(match self.descriptor(index) {
            Some(folder) => folder.join(name),
            None => name,
        })
    }

    fn change(&self) -> Option<Change> {
        if self.result.starts_with('-') {
            return None;
        }
        Some(match self.name {
            "openat" if self.arguments.get(2)?.contains("O_DIRECTORY") => return None,
            "openat" => Change::Open {
                path: self.at(0)?,
                creates: self.arguments[2].contains("O_CREAT"),
                empties: self.arguments[2].contains("O_TRUNC"),
            },
            "write" => Change::Write {
                path: self.descriptor(0)?,
                bytes: self.bytes(1)?,
            },
            "ftruncate" => Change::Truncate {
                path: self.descriptor(0)?,
                length: self.arguments[1].parse().ok()?,
            },
            "fsync" | "fdatasync" => Change::Sync(self.descriptor(0)?),
            "rename" => Change::Rename {
                from: path(self.bytes(0)?),
                to: path(self.bytes(1)?),
            },
            "renameat" | "renameat2" => Change::Rename {
                from: self.at(0)?,
                to: self.at(2)?,
            },
            "unlink" | "rmdir" => Change::Delete(path(self.bytes(0)?)),
            "unlinkat" => Change::Delete(self.at(0)?),
            "mkdir" => Change::MakeFolder(path(self.bytes(0)?)),
            "mkdirat" => Change::MakeFolder(self.at(0)?),
            other => Change::Other {
                name: other.to_owned(),
                path: self.descriptor(0).or_else(|| self.at(0))?,
            },
        })
    }
}

impl Change {
    /// Whether the change is in a folder.
    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Change::Open { path, .. }
            | Change::Write { path, .. }
            | Change::Truncate { path, .. }
            | Change::Sync(path)
            | Change::Delete(path)
            | Change::MakeFolder(path)
            | Change::Other { path, .. } => path.starts_with(folder),
            Change::Rename { from, to } => from.starts_with(folder) || to.starts_with(folder),
        }
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let digits = text.split("\\x").skip(1);
    digits
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}

impl Trace {
    /// Reads what `strace -f -ttt -y -xx` wrote about the changes in a folder. A call that had not
    /// ended when the program was killed is left out.
    pub fn read(file: &Path, folder: &Path) -> Trace {
        let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        let mut begun: HashMap<&str, (f64, &str)> = HashMap::new();
        let mut changes = Vec::new();
        for line in text.lines() {
            let Some((process, rest)) = line.split_once(' ') else {
                continue;
            };
            let Some((time, call)) = rest.trim_start().split_once(' ') else {
                continue;
            };
            let time: f64 = time.parse().unwrap();
            let whole;
            let (time, call) = if let Some(start) = call.strip_suffix(" <unfinished ...>") {
                begun.insert(process, (time, start));
                continue;
            } else if let Some((_, end)) = call.split_once(" resumed>") {
                let Some((time, start)) = begun.remove(process) else {
                    continue;
                };
                whole = format!("{start}{end}");
                (time, whole.as_str())
            } else {
                (time, call)
            };
            let change = Call::parse(call).and_then(|call| call.change());
            if let Some(change) = change.filter(|change| change.is_in(folder)) {
                changes.push((time, change));
            }
        }
        Trace { changes }
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// When the change with this index began.
    pub fn time(&self, index: usize) -> f64 {
        self.changes[index].0
    }
}

/// The content of a file.
#[derive(Debug, Clone, Default)]
struct Content {
    /// What the last `fsync` made durable.
    durable: Vec<u8>,
    current: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Folder,
}

/// A change of the names.
#[derive(Debug, Clone)]
enum NameChange {
    Add(PathBuf, Node),
    Move(PathBuf, PathBuf),
    Delete(PathBuf),
}

impl NameChange {
    fn touches(&self, folder: &Path) -> bool {
        let is_in = |path: &Path| path.parent() == Some(folder);
        match self {
            NameChange::Add(path, _) | NameChange::Delete(path) => is_in(path),
            NameChange::Move(from, to) => is_in(from) || is_in(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Delete(path) => {
                names.remove(path);
            }
            NameChange::Move(from, to) => {
                let moved: Vec<PathBuf> = names
                    .keys()
                    .filter(|path| path.starts_with(from))
                    .cloned()
                    .collect();
                for path in moved {
                    let node = names.remove(&path).unwrap();
                    let rest = path.strip_prefix(from).unwrap();
                    let path = if rest.as_os_str().is_empty() {
                        to.clone()
                    } else {
                        to.join(rest)
                    };
                    names.insert(path, node);
                }
            }
        }
    }
}

/// A folder on a simulated disk.
#[derive(Clone)]
pub struct Disk {
    folder: PathBuf,
    files: Vec<Content>,
    /// The names that are durable before the journal begins.
    base: BTreeMap<PathBuf, Node>,
    names: BTreeMap<PathBuf, Node>,
    journal: Vec<NameChange>,
    /// Number of changes in the journal that are durable.
    durable: usize,
}

impl Disk {
    /// Reads a folder. Everything in it is durable.
    pub fn read(folder: &Path) -> Disk {
        let mut disk = Disk {
            folder: folder.to_owned(),
            files: Vec::new(),
            base: BTreeMap::new(),
            names: BTreeMap::new(),
            journal: Vec::new(),
            durable: 0,
        };
        if folder.exists() {
            disk.base.insert(folder.to_owned(), Node::Folder);
            disk.read_folder(folder);
        }
        disk.names.clone_from(&disk.base);
        disk
    }

    fn read_folder(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                self.base.insert(path.clone(), Node::Folder);
                self.read_folder(&path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                self.files.push(Content {
                    durable: bytes.clone(),
                    current: bytes,
                });
                self.base.insert(path, Node::File(self.files.len() - 1));
            }
        }
    }

    /// Makes the changes with these indices.
    pub fn run(&mut self, trace: &Trace, indices: std::ops::Range<usize>) {
        for (_, change) in &trace.changes[indices] {
            self.change(change);
        }
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.journal.push(change);
    }

    fn file(&mut self, path: &Path) -> Option<&mut Content> {
        match self.names.get(path) {
            Some(Node::File(file)) => Some(&mut self.files[*file]),
            // A file without a name is lost anyway.
            _ => None,
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Open {
                path,
                creates,
                empties,
            } => {
                if !self.names.contains_key(path) {
                    // Another thread may have moved a file that was opened for reading.
                    if *creates {
                        self.files.push(Content::default());
                        let node = Node::File(self.files.len() - 1);
                        self.name(NameChange::Add(path.clone(), node));
                    }
                } else if *empties && let Some(file) = self.file(path) {
                    file.current.clear();
                }
            }
            Change::Write { path, bytes } => {
                if let Some(file) = self.file(path) {
                    file.current.extend(bytes);
                }
            }
            Change::Truncate { path, length } => {
                if let Some(file) = self.file(path) {
                    file.current.resize(*length, 0);
                }
            }
            Change::Sync(path) => {
                if let Some(file) = self.file(path) {
                    file.durable.clone_from(&file.current);
                } else if let Some(last) = self.journal.iter().rposition(|c| c.touches(path)) {
                    self.durable = self.durable.max(last + 1);
                }
            }
            Change::Rename { from, to } => {
                if self.names.contains_key(from) {
                    self.name(NameChange::Move(from.clone(), to.clone()));
                }
            }
            Change::Delete(path) => {
                if self.names.contains_key(path) {
                    self.name(NameChange::Delete(path.clone()));
                }
            }
            Change::MakeFolder(path) => {
                self.name(NameChange::Add(path.clone(), Node::Folder));
            }
            Change::Other { name, path } => {
                panic!("{name} is not simulated: {}", path.display());
            }
        }
    }

    /// Writes to `target` what a power cut may leave of the folder.
    pub fn cut(&self, rng: &mut ChaCha8Rng, target: &Path) {
        let mut names = self.base.clone();
        let survive = rng.random_range(self.durable..=self.journal.len());
        for change in &self.journal[..survive] {
            change.apply(&mut names);
        }
        fs::create_dir_all(target).unwrap();
        for (path, node) in names {
            let Ok(name) = path.strip_prefix(&self.folder) else {
                continue;
            };
            let path = target.join(name);
            match node {
                Node::Folder => fs::create_dir_all(&path).unwrap(),
                Node::File(file) => {
                    let Content { durable, current } = &self.files[file];
                    let content = match rng.random_range(0..3) {
                        0 => &durable[..],
                        1 => &current[..],
                        _ if durable == current => &durable[..],
                        _ => &current[..rng.random_range(0..=current.len())],
                    };
                    // Without its folder, the file is lost.
                    let _ = fs::write(&path, content);
                }
            }
        }
    }
}
