//! Uses a program as a camera. This can be `rpicam-vid`, `ffmpeg`, or any other program
//! that writes JPEG or raw pictures to its standard output.
//!
//! Owns the child process from start to end. When a [`CommandSource`] is dropped, the
//! child process and all processes that it started are ended (see `processes.rs`).

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::options::{CameraOptions, StreamFormat, VideoFormat, VideoOptions};
use super::processes::Family;
use super::redact::Secrets;
use super::source::{STOP_CHECK, Source, now};
use super::spec::shown_program;
use super::{mjpeg, raw};
use crate::frame::Frame;
use crate::frame::yuv::Range;
use crate::platform::text::printable;

/// Maximum time for a program to exit after it receives SIGTERM or closes its output.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// Capacity of a pipe on Linux. With a buffer of this size, one read empties the pipe, so
/// that old pictures do not pile up in the pipe.
const PIPE_BYTES: usize = 64 * 1024;

/// Maximum number of lines that an error message quotes from the end of standard error.
const MAX_LINES: usize = 5;

/// Maximum number of characters that a message quotes from each line of standard error.
const MAX_LINE: usize = 300;

/// Maximum number of bytes that are kept from each line of standard error. This limit is
/// larger than [`MAX_LINE`], so that passwords are recognized before the line is cut for
/// a message.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// How often the exit statuses of orphaned processes are collected.
const COLLECT_INTERVAL: Duration = Duration::from_secs(10);

/// A running program that writes pictures to its standard output.
pub struct CommandSource {
    /// The first word of the command, which identifies the program in messages.
    program: String,
    process: Child,
    family: Family,
    /// The last time at which the exit statuses of orphaned processes were collected.
    collected_at: Instant,
    output: ChildStdout,
    /// The program's standard error, or `None` once it is closed.
    errors: Option<ChildStderr>,
    error_lines: ErrorLines,
    latest: LatestPicture,
    clean_exit: CleanExit,
    buffer: Vec<u8>,
    stall: Duration,
    stop: CancellationToken,
    /// Whether the program has yielded a picture.
    gave_picture: bool,
    /// Whether the program's exit status was collected. Once it is collected, the system
    /// may reuse the program's process ID.
    reaped: bool,
}

/// The meaning of exit status 0 after the program has yielded a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CleanExit {
    /// The video has ended.
    EndOfVideo,
    /// The camera was lost. The video of a live camera never ends on its own.
    CameraLost,
}

/// The latest picture of the stream, either JPEG or raw.
enum LatestPicture {
    Mjpeg(mjpeg::LatestJpeg),
    Raw(raw::LatestRaw),
}

impl LatestPicture {
    fn push(&mut self, bytes: &[u8], at: Instant) {
        match self {
            LatestPicture::Mjpeg(latest) => latest.push(bytes, at),
            LatestPicture::Raw(latest) => latest.push(bytes, at),
        }
    }

    /// Called when the output has ended. Takes the last picture if it is complete.
    fn finish(&mut self, at: Instant) {
        match self {
            LatestPicture::Mjpeg(latest) => latest.finish(at),
            // The length of a raw picture is known, so a complete raw picture was already
            // taken.
            LatestPicture::Raw(_) => {}
        }
    }

    fn decode(&mut self) -> Option<Frame> {
        match self {
            LatestPicture::Mjpeg(latest) => latest.decode(),
            LatestPicture::Raw(latest) => latest.decode(),
        }
    }

    fn received(&self) -> String {
        match self {
            LatestPicture::Mjpeg(latest) => latest.received(),
            LatestPicture::Raw(latest) => latest.received(),
        }
    }

    /// Describes what a program that exited cleanly without a picture should have done.
    fn expected(&self) -> &'static str {
        match self {
            LatestPicture::Mjpeg(_) => {
                "no picture was received; it must write JPEG pictures to its standard output (with \
                 ffmpeg, end the command with -f mjpeg -)"
            }
            LatestPicture::Raw(_) => {
                "no complete picture was received; it must write raw yuv420 pictures of camera.width x \
                 camera.height to its standard output (with ffmpeg, end the command with -pix_fmt \
                 yuv420p -f rawvideo -)"
            }
        }
    }
}

impl CommandSource {
    /// Starts a program, `words[0]`, with its arguments.
    ///
    /// The standard input of the program is empty. The program leads its own process
    /// group, so Ctrl-C in the terminal does not interrupt it. When this value is
    /// dropped, the whole group is killed.
    ///
    /// # Errors
    /// Returns an error if the program does not exist or cannot be started.
    pub fn start(
        words: &[String],
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<CommandSource, SourceError> {
        CommandSource::spawn(words, Range::Limited, CleanExit::EndOfVideo, options, stop)
    }

    /// Starts `rpicam-vid`, which reads the camera module of a Raspberry Pi. If
    /// `rpicam-vid` does not exist, this function starts `libcamera-vid`. The program has
    /// this older name in the first releases of Raspberry Pi OS Bookworm and in earlier
    /// versions.
    ///
    /// # Errors
    /// Returns an error if neither program exists, or if the program cannot be started.
    pub fn rpicam(
        options: &CameraOptions,
        stop: &CancellationToken,
    ) -> Result<CommandSource, SourceError> {
        for program in RPICAM_PROGRAMS {
            let words = rpicam_words(program, &options.video);
            match CommandSource::spawn(
                &words,
                Range::Full,
                CleanExit::CameraLost,
                options,
                stop.clone(),
            ) {
                Err(SourceError::CommandMissing { .. }) => {}
                other => return other,
            }
        }
        Err(SourceError::RpicamMissing)
    }

    fn spawn(
        words: &[String],
        range: Range,
        clean_exit: CleanExit,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<CommandSource, SourceError> {
        let latest = match StreamFormat::of_program(&options.video, range)? {
            StreamFormat::Mjpeg => LatestPicture::Mjpeg(mjpeg::LatestJpeg::new(options)),
            StreamFormat::Raw(format) => LatestPicture::Raw(raw::LatestRaw::new(format)),
        };
        let word = words.first().map_or("", String::as_str);
        let program = shown_program(word);
        let spawned = Command::new(word)
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
        Ok(CommandSource {
            program,
            output,
            errors: process.stderr.take(),
            family: Family::of(Pid::from_child(&process)),
            collected_at: now(),
            process,
            error_lines: ErrorLines::new(Secrets::of_command(words)),
            latest,
            clean_exit,
            buffer: vec![0; PIPE_BYTES],
            stall: options.stall,
            stop,
            gave_picture: false,
            reaped: false,
        })
    }

    /// Waits briefly for output and reads the available bytes. Returns true once standard
    /// output is closed.
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
                self.latest.push(&self.buffer[..length], now());
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

    /// Reads the bytes that are available on standard error.
    fn read_errors(&mut self) {
        let Some(errors) = &mut self.errors else {
            return;
        };
        match errors.read(&mut self.buffer) {
            Ok(length) if length > 0 => {
                for line in self.error_lines.push(&self.buffer[..length]) {
                    tracing::debug!(program = self.program, line, "camera command");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Standard error is closed or unreadable. The program may still work, so it
            // is not ended.
            _ => self.errors = None,
        }
    }

    /// Returns the last lines of standard error, worded as the end of a sentence.
    fn quoted_errors(&mut self) -> String {
        match self.error_lines.last().as_str() {
            "" => String::new(),
            lines => format!(", and it wrote: {lines}"),
        }
    }

    /// Determines what the end of the output means: either the video has ended, or the
    /// camera is lost.
    fn end(&mut self) -> Result<Option<Frame>, SourceError> {
        let program = self.program.clone();
        let Some(status) = self.exit_status().map_err(|error| self.read_error(error))? else {
            return if self.stop.is_cancelled() {
                Ok(None)
            } else {
                let errors = self.quoted_errors();
                Err(SourceError::CommandClosed { program, errors })
            };
        };
        if status.success() && self.gave_picture && self.clean_exit == CleanExit::EndOfVideo {
            return Ok(None);
        }
        let lines = self.error_lines.last();
        let reason = match lines.as_str() {
            "" if status.success() && !self.gave_picture => self.latest.expected(),
            "" => "it wrote nothing to its standard error; try it in a shell",
            lines => lines,
        };
        let reason = reason.to_owned();
        Err(SourceError::CommandEnded {
            program,
            status: describe(status),
            reason,
        })
    }

    /// Reads the rest of standard error and waits up to [`EXIT_GRACE`] for the exit
    /// status. Returns `None` if the program keeps running.
    fn exit_status(&mut self) -> io::Result<Option<ExitStatus>> {
        let start = now();
        let mut status = None;
        loop {
            let late = now().duration_since(start) >= EXIT_GRACE;
            if status.is_none() && has_ended(&self.process) {
                status = Some(self.reap()?);
            }
            // A process that the program started may still hold standard error open.
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

impl CommandSource {
    /// Kills the remaining processes of the process group and the processes that the
    /// program started. Then collects the exit status. This must come last, because the
    /// system may reuse the group's ID once the status is collected.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let group = Pid::from_child(&self.process);
        // The children must be killed before the program, because they lose their parent
        // when the program is killed.
        self.family.kill();
        let _ = kill_process_group(group, Signal::KILL);
        self.family.kill();
        let status = self.process.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

/// Whether the program has exited. The exit status is not collected.
fn has_ended(process: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error means that the child no longer exists.
    !matches!(
        waitid(WaitId::Pid(Pid::from_child(process)), options),
        Ok(None)
    )
}

/// The current and the former name of the program that reads a Raspberry Pi's camera
/// module.
pub const RPICAM_PROGRAMS: [&str; 2] = ["rpicam-vid", "libcamera-vid"];

/// Returns the command line for the camera program. Its arguments turn off the time limit
/// and the preview, and make the program write each picture immediately.
fn rpicam_words(program: &str, video: &VideoOptions) -> Vec<String> {
    let codec = match video.format {
        VideoFormat::Yuv420 => "yuv420",
        _ => "mjpeg",
    };
    let VideoOptions {
        width, height, fps, ..
    } = video;
    let command = format!(
        "{program} -t 0 -n --codec {codec} --width {width} --height {height} --framerate {fps} \
         --flush -o -"
    );
    command.split(' ').map(str::to_owned).collect()
}

impl Source for CommandSource {
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
                    received: self.latest.received() + &self.quoted_errors(),
                });
            }
            let ended = self.read()?;
            if ended {
                self.latest.finish(now());
            }
            if now().duration_since(self.collected_at) >= COLLECT_INTERVAL {
                self.collected_at = now();
                self.family.collect();
            }
            if let Some(frame) = self.latest.decode() {
                self.gave_picture = true;
                return Ok(Some(frame));
            }
            if ended {
                return self.end();
            }
        }
    }
}

impl Drop for CommandSource {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let group = Pid::from_child(&self.process);
        self.family.signal(Signal::TERM);
        // An error means that the group no longer exists.
        let _ = kill_process_group(group, Signal::TERM);
        let start = now();
        while now().duration_since(start) < EXIT_GRACE && !has_ended(&self.process) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.reap();
    }
}

/// Waits briefly. Returns one value for each stream, which is true if bytes are available
/// or if the stream has ended.
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

/// Splits standard error into lines, hides the passwords of the command, and keeps the
/// last lines that are not blank.
#[derive(Debug)]
struct ErrorLines {
    secrets: Secrets,
    /// The start of a line whose end has not arrived yet.
    partial: Vec<u8>,
    /// The last lines, each with a flag that is true if the line ended with a carriage
    /// return. Such a line is replaced by the next one, as on a terminal.
    last: VecDeque<(String, bool)>,
}

impl ErrorLines {
    fn new(secrets: Secrets) -> ErrorLines {
        ErrorLines {
            secrets,
            partial: Vec::new(),
            last: VecDeque::new(),
        }
    }

    /// Adds bytes and returns the lines that they complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' if self.partial.is_empty() => {
                    if let Some((_, replaced)) = self.last.back_mut() {
                        *replaced = false;
                    }
                }
                // ffmpeg ends its progress lines with a carriage return.
                b'\n' | b'\r' => lines.extend(self.take(*byte == b'\r')),
                _ if self.partial.len() < MAX_LINE_BYTES => self.partial.push(*byte),
                _ => {}
            }
        }
        lines
    }

    fn take(&mut self, replaced: bool) -> Option<String> {
        let text = String::from_utf8_lossy(&self.partial);
        let line = self.secrets.redact(text.trim());
        let line = printable(&line).into_owned();
        self.partial.clear();
        if line.is_empty() {
            return None;
        }
        let line: String = line.chars().take(MAX_LINE).collect();
        if self
            .last
            .back()
            .is_some_and(|(last, replaced)| *replaced || *last == line)
        {
            self.last.pop_back();
        }
        self.last.push_back((line.clone(), replaced));
        if self.last.len() > MAX_LINES {
            self.last.pop_front();
        }
        Some(line)
    }

    /// Returns the last lines, including an incomplete one, or an empty string if there
    /// are no lines.
    fn last(&mut self) -> String {
        self.take(false);
        let lines: Vec<&str> = self.last.iter().map(|(line, _)| line.as_str()).collect();
        lines.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::TlsTrust;
    use super::*;

    fn start(script: &str, stall: Duration) -> (CommandSource, CancellationToken) {
        let words = ["sh", "-c", script].map(str::to_owned);
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall,
            max_frame_bytes: 1 << 20,
            max_frame_pixels: 9_000_000,
            video: VideoOptions::default(),
            tls: TlsTrust::default(),
        };
        let stop = CancellationToken::new();
        (
            CommandSource::start(&words, &options, stop.clone()).unwrap(),
            stop,
        )
    }

    fn error_of(script: &str, stall: Duration) -> String {
        start(script, stall).0.next().unwrap_err().to_string()
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn error_lines_are_joined_and_cleaned() {
        let words = ["ffmpeg", "-i", "rtsp://me:se cret@cam/1"].map(str::to_owned);
        let new = || ErrorLines::new(Secrets::of_command(&words));
        let mut lines = new();
        assert_eq!(lines.last(), "");
        assert_eq!(lines.push(b"fi"), [] as [String; 0]);
        assert_eq!(
            lines.push(b"rst\n\n  \nframe=1\rframe=2\r"),
            ["first", "frame=1", "frame=2"]
        );
        assert_eq!(lines.last(), "first | frame=2");
        lines.push(b"\x1b[31mrtsp://me:secret@cam/1: se cret\r\n");
        assert_eq!(lines.last(), "first | \\u{1b}[31mrtsp://cam/1: …");
        lines.push(b"second\nsecond\nsecond\n");
        assert_eq!(lines.last(), "first | \\u{1b}[31mrtsp://cam/1: … | second");
        lines.push(b"3\n4\n5\n6\n\xff\n");
        assert_eq!(lines.last(), "3 | 4 | 5 | 6 | \u{fffd}");

        let mut lines = new();
        // The line is cut in the middle of a password.
        let long = format!("{} me:se cret@cam", "x".repeat(MAX_LINE - 6));
        lines.push(long.as_bytes());
        lines.push(&vec![b'x'; 100_000]);
        assert_eq!(lines.partial.len(), MAX_LINE_BYTES);
        let shown = lines.last();
        assert!(
            shown.chars().count() <= MAX_LINE && !shown.contains("se"),
            "{shown}"
        );
    }

    #[test]
    fn error_names_program_status_and_last_error_line() {
        let error = error_of("echo one >&2; printf two >&2; exit 3", LONG);
        assert_eq!(
            error,
            "camera command \"sh\" ended with exit status 3: one | two"
        );
        let error = error_of("kill -9 $$", LONG);
        assert!(
            error.starts_with("camera command \"sh\" ended with signal 9: it wrote"),
            "{error}"
        );
        let error = error_of("printf 'no picture'", LONG);
        assert!(
            error.contains("exit status 0: no picture was received; it must"),
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
            max_frame_pixels: 9_000_000,
            video: VideoOptions::default(),
            tls: TlsTrust::default(),
        };
        let error = CommandSource::start(&words, &options, CancellationToken::new())
            .err()
            .unwrap();
        assert!(!error.is_missing_input());
        assert_eq!(
            error.to_string(),
            "camera command \"no-such-program-of-maskd\" was not found; install it, or write its \
             full path after exec:"
        );
    }

    #[test]
    fn silence_and_noise_are_stalls() {
        let error = error_of("exec sleep 60", Duration::from_millis(200));
        assert!(
            error.contains("for 0.2 s: nothing was received; check"),
            "{error}"
        );
        let error = error_of("printf abc; exec sleep 60", Duration::from_secs(1));
        assert!(
            error.contains("received 3 bytes, but no complete JPEG"),
            "{error}"
        );
    }

    #[test]
    fn program_that_hangs_is_quoted() {
        let script = "echo connecting >&2; printf 'no answer' >&2; exec sleep 60";
        let error = error_of(script, Duration::from_millis(500));
        assert!(
            error.contains("nothing was received, and it wrote: connecting | no answer; check"),
            "{error}"
        );
        let error = error_of("echo why >&2; exec >&-; sleep 60", LONG);
        assert!(
            error.contains("keeps running, and it wrote: why; it must"),
            "{error}"
        );
    }

    #[test]
    fn closed_output_of_a_running_program_is_a_loss() {
        let error = error_of("exec >&-; sleep 60", LONG);
        assert!(
            error.contains("closed its output but keeps running"),
            "{error}"
        );
    }

    #[test]
    fn background_process_does_not_delay_the_error() {
        let begin = now();
        let error = error_of("sleep 5 >&- & echo gone >&2; exit 2", LONG);
        assert!(error.ends_with("exit status 2: gone"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    /// Reads until the program writes to its standard error, and returns what it wrote.
    fn first_error_line(child: &mut CommandSource) -> String {
        while child.error_lines.last().is_empty() {
            assert!(!child.read().unwrap());
        }
        child.error_lines.last()
    }

    /// Checks that the process `grandchild` runs until `child` is dropped.
    fn assert_ends_with(child: CommandSource, grandchild: &str) {
        let runs = || {
            // The process that adopted the grandchild may not have collected its exit
            // status yet.
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
    fn stop_is_noticed_and_the_whole_group_ends() {
        let script = "trap '' TERM; sleep 60 & echo $! >&2; sleep 60; sleep 60";
        let (mut child, stop) = start(script, LONG);
        let grandchild = first_error_line(&mut child);
        stop.cancel();
        assert!(child.next().unwrap().is_none());
        assert_ends_with(child, &grandchild);
    }

    #[test]
    fn descendants_in_sessions_of_their_own_end_too() {
        let script = "setsid sh -c 'trap \"\" TERM HUP; sleep 60 & echo $! >&2; wait; sleep 60' & \
                      wait";
        let (mut child, _) = start(script, LONG);
        let grandchild = first_error_line(&mut child);
        assert_ends_with(child, &grandchild);
    }

    #[test]
    fn address_in_place_of_a_program_is_not_shown() {
        let words = ["rtsp://me:secret@cam/1".to_owned()];
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall: LONG,
            max_frame_bytes: 1 << 20,
            max_frame_pixels: 9_000_000,
            video: VideoOptions::default(),
            tls: TlsTrust::default(),
        };
        let error = CommandSource::start(&words, &options, CancellationToken::new())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("\"rtsp://…\" was not found"), "{error}");
    }

    #[test]
    fn program_has_time_to_exit() {
        let folder = tempfile::tempdir().unwrap();
        let goodbye = folder.path().join("goodbye");
        let script = format!(
            "trap 'echo x > {}; exit 0' TERM; echo ready >&2; while :; do sleep 0.01; done",
            goodbye.display()
        );
        let (mut child, _) = start(&script, LONG);
        assert_eq!(first_error_line(&mut child), "ready");
        drop(child);
        assert!(goodbye.exists());
    }
}
