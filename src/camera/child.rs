//! A program as a camera: `rpicam-vid`, `ffmpeg`, or anything else that writes
//! JPEG or raw pictures to its standard output.
//!
//! Owns the child process from its start to its end: whatever happens, none is
//! left behind.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child as Process, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio_util::sync::CancellationToken;

use super::{
    CameraOptions, STOP_CHECK, Source, SourceError, StreamFormat, Video, mjpeg, now, raw,
    text_without_secrets,
};
use crate::frame::Frame;
use crate::frame::yuv::Range;

/// How long a program may take to end, once it was asked to, or once it has
/// closed its output.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a pipe holds: one read empties it, so that what is decoded is new.
const PIPE_BYTES: usize = 64 * 1024;

/// Longest line of the standard error that is kept, in bytes.
const MAX_LINE: usize = 300;

/// A program that runs and whose pictures are read.
pub struct Child {
    program: String,
    process: Process,
    output: ChildStdout,
    /// None once it is closed.
    errors: Option<ChildStderr>,
    said: LastLine,
    newest: Newest,
    good_end: GoodEnd,
    buffer: Vec<u8>,
    stall: Duration,
    stop: CancellationToken,
    /// Whether a picture came.
    gave: bool,
    /// Whether its exit status was fetched, and with it its process id given
    /// back to the system.
    ended: bool,
}

/// What it means that a program ends with exit status 0 after a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoodEnd {
    /// The video is over.
    Video,
    /// A camera has no end: it is lost.
    Loss,
}

/// The newest picture of the stream, whatever its encoding.
enum Newest {
    Mjpeg(mjpeg::Newest),
    Raw(raw::Newest),
}

impl Newest {
    fn push(&mut self, bytes: &[u8], at: Instant) {
        match self {
            Newest::Mjpeg(newest) => newest.push(bytes, at),
            Newest::Raw(newest) => newest.push(bytes, at),
        }
    }

    fn decode(&mut self) -> Option<Frame> {
        match self {
            Newest::Mjpeg(newest) => newest.decode(),
            Newest::Raw(newest) => newest.decode(),
        }
    }

    fn instead(&self) -> String {
        match self {
            Newest::Mjpeg(newest) => newest.instead(),
            Newest::Raw(newest) => newest.instead(),
        }
    }

    /// What to say of a program that ended well without a picture.
    fn expected(&self) -> &'static str {
        match self {
            Newest::Mjpeg(_) => {
                "no picture came; it must write JPEG pictures to its standard output (with \
                 ffmpeg, end it with -f mjpeg -)"
            }
            Newest::Raw(_) => {
                "no whole picture came; it must write raw yuv420 pictures of camera.width x \
                 camera.height to its standard output (with ffmpeg, end it with -pix_fmt \
                 yuv420p -f rawvideo -)"
            }
        }
    }
}

impl Child {
    /// Starts a program, `words[0]`, with its arguments.
    ///
    /// It reads nothing, leads a process group of its own, which is ended as a
    /// whole, and does not get the terminal's interrupt: ending it is up to its
    /// owner.
    ///
    /// # Errors
    /// If there is no such program, or it cannot be started.
    pub fn start(
        words: &[String],
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Child, SourceError> {
        Child::spawn(words, Range::Limited, GoodEnd::Video, options, stop)
    }

    /// Starts `rpicam-vid` on the camera module of a Raspberry Pi, or
    /// `libcamera-vid`, as it was called up to Raspberry Pi OS Bookworm's first
    /// releases.
    ///
    /// # Errors
    /// If there is neither, or it cannot be started.
    pub fn rpicam(options: &CameraOptions, stop: &CancellationToken) -> Result<Child, SourceError> {
        for program in RPICAM_PROGRAMS {
            let words = rpicam_words(program, &options.video);
            match Child::spawn(&words, Range::Full, GoodEnd::Loss, options, stop.clone()) {
                Err(SourceError::CommandMissing { .. }) => {}
                other => return other,
            }
        }
        Err(SourceError::RpicamMissing)
    }

    fn spawn(
        words: &[String],
        range: Range,
        good_end: GoodEnd,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Child, SourceError> {
        let newest = match StreamFormat::of_program(&options.video, range)? {
            StreamFormat::Mjpeg => Newest::Mjpeg(mjpeg::Newest::new(options.max_frame_bytes)),
            StreamFormat::Raw(format) => Newest::Raw(raw::Newest::new(format)),
        };
        let program = words.first().cloned().unwrap_or_default();
        let spawned = Command::new(&program)
            .args(words.iter().skip(1))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::CommandMissing { program });
            }
            Err(error) => return Err(SourceError::CommandStart { program, error }),
        };
        tracing::debug!(program, id = process.id(), "camera command started");
        let Some(output) = process.stdout.take() else {
            let error = io::Error::other("it has no standard output");
            return Err(SourceError::CommandStart { program, error });
        };
        Ok(Child {
            program,
            output,
            errors: process.stderr.take(),
            process,
            said: LastLine::default(),
            newest,
            good_end,
            buffer: vec![0; PIPE_BYTES],
            stall: options.stall,
            stop,
            gave: false,
            ended: false,
        })
    }

    /// Waits a moment for output and takes in what is there; true once the
    /// standard output is closed.
    fn read(&mut self) -> Result<bool, SourceError> {
        let (output, errors) = wait(&self.output, self.errors.as_ref())
            .map_err(|error| self.read_error(error.into()))?;
        if errors {
            self.read_errors();
        }
        if !output {
            return Ok(false);
        }
        match self.output.read(&mut self.buffer) {
            Ok(0) => Ok(true),
            Ok(length) => {
                self.newest.push(&self.buffer[..length], now());
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(self.read_error(error)),
        }
    }

    fn read_error(&self, error: io::Error) -> SourceError {
        SourceError::CommandRead {
            program: self.program.clone(),
            error,
        }
    }

    /// Reads what is there of the standard error.
    fn read_errors(&mut self) {
        let Some(errors) = &mut self.errors else {
            return;
        };
        match errors.read(&mut self.buffer) {
            Ok(length) if length > 0 => {
                for line in self.said.push(&self.buffer[..length]) {
                    tracing::debug!(program = self.program, line, "camera command");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Closed, or broken: what it says is not worth ending it for.
            _ => self.errors = None,
        }
    }

    /// The end of the output: of a video, or of a camera that is lost.
    fn end(&mut self) -> Result<Option<Frame>, SourceError> {
        let program = self.program.clone();
        let Some(status) = self.exit_status().map_err(|error| self.read_error(error))? else {
            return if self.stop.is_cancelled() {
                Ok(None)
            } else {
                Err(SourceError::CommandClosed { program })
            };
        };
        if status.success() && self.gave && self.good_end == GoodEnd::Video {
            return Ok(None);
        }
        let said = match self.said.last() {
            "" if status.success() && !self.gave => self.newest.expected(),
            "" => "it said nothing on its standard error; try it in a shell",
            said => said,
        };
        let said = said.to_owned();
        Err(SourceError::CommandEnded {
            program,
            status: describe(status),
            said,
        })
    }

    /// Reads the rest of the standard error and gives the program a little time
    /// to end; none if it does not.
    fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        let start = now();
        let mut status = None;
        loop {
            let late = now().duration_since(start) >= PATIENCE;
            if status.is_none() && has_ended(&self.process) {
                status = Some(self.reap()?);
            }
            // A process that it left behind may hold the standard error open.
            if late || self.stop.is_cancelled() || (status.is_some() && self.errors.is_none()) {
                return Ok(status);
            }
            match &self.errors {
                Some(errors) => {
                    if ready(&mut [PollFd::new(errors, PollFlags::IN)])? {
                        self.read_errors();
                    } else if status.is_some() {
                        return Ok(status);
                    }
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Child {
    /// Ends what the program may have left behind in its group, and takes its
    /// exit status. Not the other way round: once the status is taken, the
    /// group's number may be given to somebody else.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let status = self.process.wait()?;
        self.ended = true;
        Ok(status)
    }
}

/// Whether the program has ended, without taking its exit status.
fn has_ended(process: &Process) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error means that there is no such child any more.
    !matches!(
        waitid(WaitId::Pid(Pid::from_child(process)), options),
        Ok(None)
    )
}

/// The program that reads a Raspberry Pi's camera module, by its present and its
/// former name.
pub const RPICAM_PROGRAMS: [&str; 2] = ["rpicam-vid", "libcamera-vid"];

/// For ever, without a preview, and each picture as soon as it is there.
fn rpicam_words(program: &str, video: &Video) -> Vec<String> {
    let codec = match video.format {
        super::Format::Yuv420 => "yuv420",
        _ => "mjpeg",
    };
    let Video {
        width, height, fps, ..
    } = video;
    let command = format!(
        "{program} -t 0 -n --codec {codec} --width {width} --height {height} --framerate {fps} \
         --flush -o -"
    );
    command.split(' ').map(str::to_owned).collect()
}

impl Source for Child {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let start = now();
        loop {
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            if now().duration_since(start) >= self.stall {
                return Err(SourceError::Stalled {
                    camera: format!("camera command {:?}", self.program),
                    seconds: self.stall.as_secs_f32(),
                    instead: self.newest.instead(),
                });
            }
            if self.read()? {
                return self.end();
            }
            if let Some(frame) = self.newest.decode() {
                self.gave = true;
                return Ok(Some(frame));
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let group = Pid::from_child(&self.process);
        // An error means that the group is gone already.
        let _ = kill_process_group(group, Signal::TERM);
        let start = now();
        while now().duration_since(start) < PATIENCE && !has_ended(&self.process) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.reap();
    }
}

/// Waits a moment; whether there is something to read (or the end) on each.
fn wait(output: &impl AsFd, errors: Option<&ChildStderr>) -> Result<(bool, bool), Errno> {
    let Some(errors) = errors else {
        return Ok((ready(&mut [PollFd::new(output, PollFlags::IN)])?, false));
    };
    let mut both = [
        PollFd::new(output, PollFlags::IN),
        PollFd::new(errors, PollFlags::IN),
    ];
    ready(&mut both)?;
    let [output, errors] = both.map(|polled| !polled.revents().is_empty());
    Ok((output, errors))
}

fn ready(polled: &mut [PollFd]) -> Result<bool, Errno> {
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(STOP_CHECK.subsec_nanos()),
    };
    match poll(polled, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last line that was not empty, of bytes that come in pieces.
#[derive(Debug, Default)]
struct LastLine {
    begun: Vec<u8>,
    last: String,
}

impl LastLine {
    /// Takes bytes in, and gives the lines that they completed.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                // ffmpeg ends the lines that show its progress with the latter.
                b'\n' | b'\r' => lines.extend(self.take()),
                _ if self.begun.len() < MAX_LINE => self.begun.push(*byte),
                _ => {}
            }
        }
        lines
    }

    fn take(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.begun);
        // Control codes that color a terminal would garble a log.
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        let line = text_without_secrets(text.trim());
        self.begun.clear();
        if line.is_empty() {
            return None;
        }
        self.last.clone_from(&line);
        Some(line)
    }

    /// The last line, finished or not.
    fn last(&mut self) -> &str {
        self.take();
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, stall: Duration) -> (Child, CancellationToken) {
        let words = ["sh", "-c", script].map(str::to_owned);
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall,
            max_frame_bytes: 1 << 20,
            video: Video::default(),
        };
        let stop = CancellationToken::new();
        (Child::start(&words, &options, stop.clone()).unwrap(), stop)
    }

    fn error_of(script: &str, stall: Duration) -> String {
        start(script, stall).0.next().unwrap_err().to_string()
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn last_line_is_put_together_and_cleaned() {
        let mut said = LastLine::default();
        assert_eq!(said.last(), "");
        assert_eq!(said.push(b"fi"), [] as [String; 0]);
        assert_eq!(
            said.push(b"rst\n\n  \nframe=1\rframe=2\r"),
            ["first", "frame=1", "frame=2"]
        );
        assert_eq!(said.last(), "frame=2");
        said.push(b"\x1b[31mrtsp://me:secret@cam/1: refused");
        assert_eq!(said.last(), "[31mrtsp://cam/1: refused");
        said.push(&[b'x'; 10_000]);
        assert_eq!(said.last().len(), MAX_LINE);
        said.push(b"\xff\n");
        assert_eq!(said.last(), "\u{fffd}");
    }

    #[test]
    fn error_names_program_status_and_last_words() {
        let error = error_of("echo one >&2; printf two >&2; exit 3", LONG);
        assert_eq!(error, "camera command \"sh\" ended with exit status 3: two");
        let error = error_of("kill -9 $$", LONG);
        assert!(
            error.starts_with("camera command \"sh\" ended with signal 9: it said"),
            "{error}"
        );
        let error = error_of("printf 'no picture'", LONG);
        assert!(
            error.contains("exit status 0: no picture came; it must"),
            "{error}"
        );
    }

    #[test]
    fn missing_program_is_named() {
        let words = ["no-such-program-of-maskd".to_owned()];
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall: LONG,
            max_frame_bytes: 1 << 20,
            video: Video::default(),
        };
        let error = Child::start(&words, &options, CancellationToken::new())
            .err()
            .unwrap();
        assert!(!error.is_missing_input());
        assert_eq!(
            error.to_string(),
            "camera command \"no-such-program-of-maskd\" was not found; install it, or write its \
             whole path behind exec:"
        );
    }

    #[test]
    fn silence_and_noise_are_stalls() {
        let error = error_of("exec sleep 60", Duration::from_millis(200));
        assert!(
            error.contains("for 0.2 s: nothing came at all; check"),
            "{error}"
        );
        let error = error_of("printf abc; exec sleep 60", Duration::from_secs(1));
        assert!(
            error.contains("3 bytes came without a whole JPEG"),
            "{error}"
        );
    }

    #[test]
    fn closed_output_of_a_program_that_runs_on_is_a_loss() {
        let error = error_of("exec >&-; sleep 60", LONG);
        assert!(error.contains("closed its output and runs on"), "{error}");
    }

    #[test]
    fn process_left_behind_does_not_delay_the_error() {
        let begin = now();
        let error = error_of("sleep 5 >&- & echo gone >&2; exit 2", LONG);
        assert!(error.ends_with("exit status 2: gone"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    /// Reads until the program has said something, and gives that.
    fn said(child: &mut Child) -> String {
        while child.said.last().is_empty() {
            assert!(!child.read().unwrap());
        }
        child.said.last().to_owned()
    }

    #[test]
    fn stop_is_noticed_and_the_whole_group_ends() {
        let script = "trap '' TERM; sleep 60 & echo $! >&2; sleep 60; sleep 60";
        let (mut child, stop) = start(script, LONG);
        let grandchild = said(&mut child);
        stop.cancel();
        assert!(child.next().unwrap().is_none());
        let runs = || {
            // Whoever adopted it may not have fetched its exit status yet.
            let status = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            status.is_ok_and(|status| !status.contains(") Z "))
        };
        assert!(runs());
        drop(child);
        let begin = now();
        while runs() {
            assert!(begin.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn program_is_given_time_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let goodbye = folder.path().join("goodbye");
        let script = format!(
            "trap 'echo x > {}; exit 0' TERM; echo ready >&2; while :; do sleep 0.01; done",
            goodbye.display()
        );
        let (mut child, _) = start(&script, LONG);
        assert_eq!(said(&mut child), "ready");
        drop(child);
        assert!(goodbye.exists());
    }
}
