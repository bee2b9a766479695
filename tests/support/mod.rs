//! Helpers that the behavior tests share. They run the binary, create pictures and heads,
//! and wait with a time limit.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod door;
pub mod receiver;
pub mod requests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::RgbImage;
use maskd::onnx::{Classifier, HeadFile, write_head};
use maskd::vision::pipeline::SHIPPED_CLASSIFIER;
use serde_json::Value;

/// Environment variables that change what maskd does. A service manager sets most of them.
const OUTER_ENVIRONMENT: [&str; 7] = [
    "MASKD_CONFIG",
    "MASKD_LOG",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "JOURNAL_STREAM",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn frame(name: &str) -> PathBuf {
    root().join("assets/frames").join(name)
}

/// Returns the golden crops with names that start with `prefix`, and their names.
pub fn golden_crops(prefix: &str) -> Vec<(String, RgbImage)> {
    let entries = fs::read_dir(root().join("tests/golden/crops")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = paths.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, path)
    });
    let wanted = named.filter(|(name, _)| name.starts_with(prefix));
    wanted
        .map(|(name, path)| (name, image::open(path).unwrap().into_rgb8()))
        .collect()
}

/// Returns a command that runs the binary without the environment variables of a service
/// manager.
pub fn maskd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maskd"));
    command.stdin(Stdio::null());
    for name in OUTER_ENVIRONMENT {
        command.env_remove(name);
    }
    command
}

pub fn run(arguments: &[&str]) -> Output {
    maskd().args(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Asserts that a command failed correctly, as all commands must. The exit code must be
/// `exit`, and standard error must have exactly one line, which is a sentence rather
/// than a backtrace.
pub fn assert_refused(output: &Output, exit: i32, words: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{errors}");
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), 1, "one sentence: {errors}");
    assert!(lines[0].starts_with("maskd: "), "{errors}");
    assert!(lines[0].contains(words), "{words:?} is not in {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}

/// Waits for a child process, and kills it if it has not ended within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

pub fn interrupt(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .arg(signal)
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(status.success());
}

/// A stand-in for a service manager, which receives the notifications of a daemon.
pub struct ServiceManager {
    address: PathBuf,
    socket: UnixDatagram,
}

impl ServiceManager {
    /// Opens a notification socket in `folder`.
    pub fn new(folder: &Path) -> ServiceManager {
        let address = folder.join("notify");
        let socket = UnixDatagram::bind(&address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        ServiceManager { address, socket }
    }

    /// Returns the environment variables of a service with this watchdog interval in
    /// microseconds.
    pub fn environment(&self, watchdog: u32) -> [(&'static str, OsString); 2] {
        [
            ("NOTIFY_SOCKET", self.address.clone().into()),
            ("WATCHDOG_USEC", watchdog.to_string().into()),
        ]
    }

    /// Waits for the next notification for up to 20 seconds.
    pub fn receive(&self) -> io::Result<String> {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes)?;
        Ok(text(&bytes[..length]))
    }

    /// Returns the next notification that was already sent, or `None` if there is none.
    pub fn already_sent(&self) -> Option<String> {
        self.socket.set_nonblocking(true).unwrap();
        let message = self.receive().ok();
        self.socket.set_nonblocking(false).unwrap();
        message
    }

    /// Waits until the watchdog has been fed `count` times.
    pub fn wait_until_fed(&self, count: usize) {
        let mut fed = 0;
        while fed < count {
            let message = self.receive().unwrap();
            fed += usize::from(message == "WATCHDOG=1\n");
        }
    }
}

/// Creates a PNG of a few bytes that claims to have 50,000 x 50,000 pixels.
pub fn bomb() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    RgbImage::new(1, 1)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    let mut bomb = bytes.into_inner();
    bomb[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    bomb
}

/// Computes the checksum that PNG uses (ISO 3309; see annex D of the PNG
/// specification).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                0xedb8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// Returns a command that runs maskd with a wall clock that `faketime` changes. The
/// monotonic clock stays correct. If `faketime` is not installed, prints a message and
/// returns `None`.
pub fn at_time(time: &str) -> Option<Command> {
    let found = Command::new("faketime").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        eprintln!("SKIPPED: the program faketime is not installed");
        return None;
    }
    let mut command = Command::new("faketime");
    command.args(["-f", time]).arg(env!("CARGO_BIN_EXE_maskd"));
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    for name in OUTER_ENVIRONMENT {
        command.env_remove(name);
    }
    Some(command)
}

/// Waits until `found` returns a value, and fails after 90 seconds.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(90) {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}");
}

/// A running daemon, which is killed at the end of the test unless it has been
/// stopped.
pub struct Running {
    pub child: Child,
    out: PathBuf,
    log: PathBuf,
}

impl Running {
    /// Starts a daemon. Its decisions go to the file `out` in `folder`, and its log goes to
    /// the file `log`.
    pub fn start(mut command: Command, folder: &Path) -> Running {
        let (out, log) = (folder.join("out"), folder.join("log"));
        command.stdout(File::create(&out).unwrap());
        command.stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        Running { child, out, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub fn stop(mut self) -> String {
        interrupt(&self.child, "-TERM");
        let code = wait(&mut self.child, Duration::from_secs(10));
        assert_eq!(code, Some(0), "{}", self.log());
        self.log()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn decisions(&self) -> Vec<String> {
        let lines = fs::read_to_string(&self.out).unwrap();
        // The last line may be incomplete.
        let whole = lines.rfind('\n').map_or("", |end| &lines[..end]);
        let changes = whole.lines().map(serde_json::from_str::<Value>);
        changes
            .map(|change| change.unwrap()["decision"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the daemon with the command `run` through a shell script in a separate mount
/// namespace. In the script, `$0` is the state directory and `"$@"` runs the daemon. The
/// script must write "mounted" to its standard error. Returns `None` if nothing can be
/// mounted on this machine.
pub fn start_with_mounts(
    run: &Command,
    script: &str,
    folder: &Path,
    state: &Path,
) -> Option<Running> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    command.arg(state).stdin(Stdio::null());
    command.arg(run.get_program()).args(run.get_args());
    for (key, value) in run.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let mut running = Running::start(command, folder);
    let mounted = wait_for("the disk", || {
        if running.log().contains("mounted") {
            return Some(true);
        }
        running.child.try_wait().unwrap().map(|_| false)
    });
    if !mounted {
        println!("skipped: no disk can be mounted here without privileges");
        return None;
    }
    Some(running)
}

/// A device with its own state directory.
pub struct Device {
    pub folder: tempfile::TempDir,
}

impl Device {
    pub fn new() -> Device {
        Device {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn maskd(&self, words: &[&str]) -> Output {
        maskd()
            .args(words)
            .arg("--state")
            .arg(self.at("state"))
            .output()
            .unwrap()
    }

    #[track_caller]
    pub fn stdout(&self, words: &[&str]) -> String {
        stdout_of(words, &self.maskd(words))
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(&[words, &["--json"]].concat())).unwrap()
    }

    /// Creates a folder of pictures. See [`pieces`].
    pub fn pictures(&self) -> PathBuf {
        let set = self.at("set");
        pieces(&set);
        set
    }
}

/// Returns the standard output of a command, which must have succeeded.
#[track_caller]
pub fn stdout_of(words: &[&str], output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    text(&output.stdout)
}

/// Creates a folder with pictures cut from the golden crops. There are twelve different
/// pictures for each class.
pub fn pieces(set: &Path) {
    for (label, prefix) in [("without_mask", "bare_"), ("with_mask", "mask_")] {
        let class = set.join(label);
        fs::create_dir_all(&class).unwrap();
        for (name, pixels) in golden_crops(prefix) {
            for piece in 0..4 {
                let inset = 6 * piece;
                let (width, height) = (pixels.width() - 2 * inset, pixels.height() - inset);
                let part = image::imageops::crop_imm(&pixels, inset, inset / 2, width, height);
                let path = class.join(format!("{piece}_{name}"));
                part.to_image().save(path).unwrap();
            }
        }
    }
}

/// Returns the built-in head.
pub fn built_in_head() -> HeadFile {
    let classifier = Classifier::parse("shipped", SHIPPED_CLASSIFIER).unwrap();
    HeadFile {
        backbone_sha256: classifier.backbone_sha256,
        labels: classifier.labels.clone(),
        head: classifier.head.clone(),
    }
}

/// Writes a modified copy of the built-in head to a file.
pub fn head(path: &Path, change: impl FnOnce(&mut HeadFile)) -> String {
    let mut file = built_in_head();
    change(&mut file);
    fs::write(path, write_head(&file, &[])).unwrap();
    path.to_str().unwrap().to_owned()
}
