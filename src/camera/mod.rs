//! Where frames come from: pictures, folders, webcams, camera modules, network
//! cameras, programs.
//!
//! Owns the opening of a source, its pacing, and getting it back after it was
//! lost. It knows pictures and nothing of what is on them; its numbers come in
//! as [`CameraOptions`]. It reads the clock, in one function, and starts no
//! threads but the one that reads a webcam (`watched`): [`Camera::next`] waits in
//! the thread that calls it, at most 100 ms beyond the stop that it was given.
//!
//! | source | ends | lost |
//! |---|---|---|
//! | [`Spec::Examples`], [`Spec::Path`] | after the last picture, unless `repeat` | a whole round without a readable picture |
//! | [`Spec::Http`] | never | refused, closed, silent |
//! | [`Spec::Webcam`] | never | unplugged, silent |
//! | [`Spec::Rpicam`] | never | any exit, silent |
//! | [`Spec::Command`] | exit status 0 after a picture, unless `repeat` | any other exit, silent |

pub mod child;
pub mod http;
pub mod mjpeg;
pub mod pictures;
mod raw;
#[cfg(feature = "camera")]
mod v4l;
#[cfg(any(feature = "camera", test))]
mod watched;
pub mod webcam;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::frame::yuv::{Layout, Range, YuvFormat};
use crate::frame::{Frame, PictureError};

/// How often a wait looks whether it was asked to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Wait before the first attempt to get a lost source back. It doubles with
/// each attempt up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// With the most that [`wait_before`] adds this is 30 seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(24);

/// A source that gave frames for this long is well again: the next loss starts
/// with the shortest wait.
const STEADY: Duration = Duration::from_secs(5);

/// A source of frames.
pub trait Source: Send {
    /// The next frame; waits for it. `None` at the end of a finite source, or
    /// when stop was asked.
    ///
    /// # Errors
    /// Says why there will be no more frames from this source.
    fn next(&mut self) -> Result<Option<Frame>, SourceError>;
}

/// Which source to open, as written in the configuration.
///
/// ```
/// use maskd::camera::Spec;
/// let spec: Spec = "exec:rpicam-vid -t 0 --codec mjpeg -o -".parse()?;
/// assert!(matches!(spec, Spec::Command(words) if words[0] == "rpicam-vid"));
/// let spec: Spec = "http://me:secret@10.0.0.7/video".parse()?;
/// assert_eq!(spec.to_string(), "http://10.0.0.7/video");
/// # Ok::<(), maskd::camera::SpecError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Spec {
    /// The pictures that are compiled in.
    Examples,
    /// A picture, or a folder of pictures.
    Path(PathBuf),
    /// A webcam, or whatever else gives frames by V4L2.
    Webcam(Choice),
    /// The camera module of a Raspberry Pi, read by `rpicam-vid`.
    Rpicam,
    /// The URL of an MJPEG stream.
    Http(String),
    /// A program with its arguments that writes pictures to its standard output:
    /// JPEG, or with [`Format::Yuv420`] raw ones.
    Command(Vec<String>),
}

/// Which webcam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The first that can be used, by the number in `/dev/videoN`.
    First,
    /// A device file or a link to one.
    Path(PathBuf),
    /// The one with this name, as V4L2 tells it.
    Name(String),
}

/// How a camera is asked to encode its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// What suits the source best: MJPEG wherever it is to be had.
    #[default]
    Auto,
    /// JPEG pictures.
    Mjpeg,
    /// Uncompressed, [`Layout::Yuyv`].
    Yuyv,
    /// Uncompressed, [`Layout::Nv12`].
    Nv12,
    /// Uncompressed, [`Layout::I420`].
    Yuv420,
}

impl fmt::Display for Format {
    /// As written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Format::Auto => "auto",
            Format::Mjpeg => "mjpeg",
            Format::Yuyv => "yuyv",
            Format::Nv12 => "nv12",
            Format::Yuv420 => "yuv420",
        })
    }
}

/// What a camera is asked for. A webcam gives what comes closest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// How pictures are encoded.
    pub format: Format,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Pictures a second.
    pub fps: u32,
}

impl Default for Video {
    fn default() -> Video {
        Video {
            format: Format::Auto,
            width: 640,
            height: 480,
            fps: 15,
        }
    }
}

/// How the bytes of a stream are cut into pictures and decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamFormat {
    /// JPEG pictures, with anything in between.
    Mjpeg,
    /// Uncompressed pictures with nothing in between.
    Raw(YuvFormat),
}

impl StreamFormat {
    /// What a program writes that was asked for `video`.
    fn of_program(video: &Video, range: Range) -> Result<StreamFormat, PictureError> {
        if video.format == Format::Yuv420 {
            let format = YuvFormat::new(Layout::I420, range, video.width, video.height)?;
            return Ok(StreamFormat::Raw(format));
        }
        Ok(StreamFormat::Mjpeg)
    }
}

/// `rpicam-vid` gives raw lines as the image processor wrote them, and that
/// starts each at a multiple of so many bytes.
const RPICAM_ALIGNMENT: u32 = 64;

impl Spec {
    /// Whether the source can be asked for this. Pictures and folders are shown
    /// as they are.
    ///
    /// # Errors
    /// Says which key of the configuration to change.
    pub fn check(&self, video: &Video) -> Result<(), SpecError> {
        use Format::{Auto, Mjpeg, Nv12, Yuv420, Yuyv};
        let (source, formats): (_, &[Format]) = match self {
            Spec::Examples | Spec::Path(_) => return Ok(()),
            Spec::Webcam(_) => ("webcam", &[Auto, Mjpeg, Yuyv, Nv12]),
            Spec::Rpicam => ("rpicam", &[Auto, Mjpeg, Yuv420]),
            Spec::Http(_) => ("http://", &[Auto, Mjpeg]),
            Spec::Command(_) => ("exec:", &[Auto, Mjpeg, Yuv420]),
        };
        if !formats.contains(&video.format) {
            let names: Vec<String> = formats.iter().map(Format::to_string).collect();
            return Err(SpecError::Format {
                source_kind: source,
                format: video.format,
                formats: names.join(", "),
            });
        }
        let padded =
            !video.width.is_multiple_of(RPICAM_ALIGNMENT) || !video.height.is_multiple_of(2);
        if matches!(self, Spec::Rpicam) && video.format == Yuv420 && padded {
            return Err(SpecError::Padded {
                width: video.width,
                height: video.height,
            });
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    /// Takes `examples`, `webcam`, `webcam:/dev/…`, `webcam:NAME`, `rpicam`,
    /// `http://…`, `exec:COMMAND ARGUMENT …` (cut into words as a shell does, but
    /// nothing is expanded) or a path. A folder that is named `examples` is
    /// `./examples`.
    fn from_str(text: &str) -> Result<Spec, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Empty);
        }
        match text {
            "examples" => return Ok(Spec::Examples),
            "webcam" => return Ok(Spec::Webcam(Choice::First)),
            "rpicam" => return Ok(Spec::Rpicam),
            _ => {}
        }
        if let Some(device) = text.strip_prefix("webcam:") {
            return match device.trim() {
                "" => Err(SpecError::NoWebcam),
                path if path.starts_with('/') => Ok(Spec::Webcam(Choice::Path(path.into()))),
                name => Ok(Spec::Webcam(Choice::Name(name.to_owned()))),
            };
        }
        if let Some(command) = text.strip_prefix("exec:") {
            let words = shlex::split(command).ok_or(SpecError::Quotes)?;
            return match words.first() {
                Some(program) if !program.is_empty() => Ok(Spec::Command(words)),
                _ => Err(SpecError::NoCommand),
            };
        }
        match scheme(text) {
            None => Ok(Spec::Path(PathBuf::from(text))),
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => {
                http::check(text)?;
                Ok(Spec::Http(text.to_owned()))
            }
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => Err(SpecError::Tls {
                url: without_secrets(text),
            }),
            Some(scheme) => Err(SpecError::Scheme {
                scheme: scheme.to_owned(),
            }),
        }
    }
}

/// What stands in front of `://`, if it can be the scheme of a URL.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut letters = scheme.chars();
    let valid = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    valid.then_some(scheme)
}

impl fmt::Display for Spec {
    /// Without the users, passwords and queries of URLs, which hold passwords
    /// too for some cameras.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Spec::Examples => f.write_str("examples"),
            Spec::Path(path) => path.display().fmt(f),
            Spec::Webcam(Choice::First) => f.write_str("webcam"),
            Spec::Webcam(Choice::Path(path)) => write!(f, "webcam:{}", path.display()),
            Spec::Webcam(Choice::Name(name)) => write!(f, "webcam:{name}"),
            Spec::Rpicam => f.write_str("rpicam"),
            Spec::Http(url) => f.write_str(&without_secrets(url)),
            Spec::Command(words) => {
                let shown = |word: &String| match scheme(word) {
                    Some(_) => without_secrets(word),
                    None => text_without_secrets(word),
                };
                let words: Vec<String> = words.iter().map(shown).collect();
                match shlex::try_join(words.iter().map(String::as_str)) {
                    Ok(command) => write!(f, "exec:{command}"),
                    // A word with a zero byte, which no program can be given.
                    Err(_) => write!(f, "exec:{}", words.join(" ")),
                }
            }
        }
    }
}

impl fmt::Debug for Spec {
    /// As [`Display`](fmt::Display), so that no password comes into a log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Spec({self})")
    }
}

/// `url` without its user and password, and with an ellipsis for its query.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // A password with an unescaped slash makes a port that is no number.
    let torn = host.rsplit_once(':').is_some_and(|(_, port)| {
        !port.ends_with(']') && port.bytes().any(|byte| !byte.is_ascii_digit())
    });
    let at = host
        .rfind('@')
        .or_else(|| if torn { rest.rfind('@') } else { None });
    let rest = at.map_or(rest, |at| &rest[at + 1..]);
    match rest.split_once('?') {
        Some((path, _)) => format!("{scheme}://{path}?…"),
        None => format!("{scheme}://{rest}"),
    }
}

/// A sentence or a command in which each word that holds a URL is shown
/// [`without_secrets`].
fn text_without_secrets(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| {
            let shown = without_secrets(word.trim_end());
            shown + &word[word.trim_end().len()..]
        })
        .collect()
}

/// Why a text names no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No text at all.
    #[error(
        "the camera source is empty; give examples, a path, webcam, rpicam, an http:// URL, or exec: with a command"
    )]
    Empty,
    /// `exec:` and nothing behind it.
    #[error(
        "the camera source exec: names no command; write the command behind it, as in exec:rpicam-vid -t 0 --codec mjpeg -o -"
    )]
    NoCommand,
    /// `webcam:` and nothing behind it.
    #[error(
        "the camera source webcam: names no device; write its path or name behind it, as in webcam:/dev/video0, or webcam alone for the first"
    )]
    NoWebcam,
    /// An encoding that the source does not have.
    #[error(
        "the camera source {source_kind} cannot give {format} pictures; set camera.format to one of {formats}"
    )]
    Format {
        /// `webcam`, `exec:`.
        source_kind: &'static str,
        /// What was asked for.
        format: Format,
        /// What can be asked for.
        formats: String,
    },
    /// Raw frames of a camera module with gaps between their lines.
    #[error(
        "the camera source rpicam cannot give raw pictures of {width} x {height}, since rpicam-vid pads their lines; make camera.width a multiple of {RPICAM_ALIGNMENT} and camera.height even, or set camera.format to mjpeg"
    )]
    Padded {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A quotation mark that is not closed.
    #[error(
        "the camera source exec: has a quotation mark or backslash without its counterpart; quote the words as for a shell"
    )]
    Quotes,
    /// A camera behind TLS.
    #[error(
        "the camera source {url} cannot be used, since this build has no TLS; use http://, or exec: with ffmpeg"
    )]
    Tls {
        /// The URL, without what is secret in it.
        url: String,
    },
    /// Another kind of stream.
    #[error(
        "the camera source {scheme}:// cannot be used; let ffmpeg fetch it, as in exec:ffmpeg -i {scheme}://HOST/PATH -f mjpeg -"
    )]
    Scheme {
        /// What stood in front of `://`.
        scheme: String,
    },
    /// Not a URL after all.
    #[error("the camera source {url} is no valid URL ({why}); write it as http://HOST:PORT/PATH")]
    Url {
        /// The URL, without what is secret in it.
        url: String,
        /// What the parser found.
        why: String,
    },
}

/// Why a source gives no frames. Each message is a sentence that says what
/// failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The path does not exist, or may not be read.
    #[error(
        "cannot open the picture or folder {path}: {error}; check the path of the camera source"
    )]
    Path {
        /// As configured.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A device, a pipe or a socket.
    #[error("{path} is neither a picture nor a folder; a webcam is named as in webcam:/dev/video0")]
    NoFile {
        /// As configured.
        path: String,
    },
    /// A folder without anything that is named like a picture.
    #[error(
        "the folder {path} holds no pictures; put files into it that end in .jpg, .jpeg, .png, .webp, .bmp, .gif, .tif or .tiff"
    )]
    NoPictures {
        /// As configured.
        path: String,
    },
    /// The one picture cannot be used.
    #[error(
        "cannot use the picture {path}: {why}; give another picture, or play a video by exec:ffmpeg -re -i FILE -f mjpeg -"
    )]
    Picture {
        /// As configured.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not one picture of a folder can be used.
    #[error(
        "none of the {count} pictures of {place} can be used, of the last one: {why}; replace them"
    )]
    Pictures {
        /// The folder as configured, or `examples`.
        place: String,
        /// How many there are.
        count: usize,
        /// What is wrong with the last one.
        why: String,
    },
    /// Webcams are not compiled in.
    #[error(
        "this build of maskd has no webcam support; build it with --features camera after apt install libclang-dev, or let ffmpeg read the webcam, as in exec:ffmpeg -f v4l2 -i /dev/video0 -f mjpeg -"
    )]
    NoWebcamSupport,
    /// No webcam is what was asked for.
    #[error(
        "no {wanted} was found; the video devices are: {there}; plug it in, or change the camera source"
    )]
    WebcamMissing {
        /// `webcam /dev/video0`.
        wanted: String,
        /// The devices that are there.
        there: String,
    },
    /// Several webcams have the name.
    #[error(
        "several webcams have the name {name:?}: {there}; name one by its path, as in webcam:/dev/video0 or one of /dev/v4l/by-id"
    )]
    WebcamAmbiguous {
        /// As configured.
        name: String,
        /// Those that have it.
        there: String,
    },
    /// The webcam cannot be opened or read.
    #[error(
        "cannot use the webcam {webcam}: {why}; check that it is plugged in, used by no other program, and that this user is in the group video"
    )]
    Webcam {
        /// Its path and name, or all that were tried.
        webcam: String,
        /// What the system said.
        why: String,
    },
    /// The thread that reads a webcam cannot be started.
    #[error(
        "cannot start the thread that reads the webcam {webcam}: {error}; check the system's limits"
    )]
    WebcamThread {
        /// As configured.
        webcam: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Neither name of the camera program.
    #[error(
        "neither rpicam-vid nor libcamera-vid was found; install it by apt install rpicam-apps-lite (Raspberry Pi OS), or read the camera by another program with exec:"
    )]
    RpicamMissing,
    /// A size that raw pictures cannot have.
    #[error("cannot read raw pictures: {0}; change camera.width and camera.height")]
    Raw(#[from] PictureError),
    /// There is no such program.
    #[error(
        "camera command {program:?} was not found; install it, or write its whole path behind exec:"
    )]
    CommandMissing {
        /// The first word of the command.
        program: String,
    },
    /// The program cannot be started.
    #[error(
        "camera command {program:?} cannot be started: {error}; check its arguments and permissions"
    )]
    CommandStart {
        /// The first word of the command.
        program: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// What the program writes cannot be read.
    #[error("cannot read what camera command {program:?} writes: {error}; it is started again")]
    CommandRead {
        /// The first word of the command.
        program: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The program ended, and not as a finite video does.
    #[error("camera command {program:?} ended with {status}: {said}")]
    CommandEnded {
        /// The first word of the command.
        program: String,
        /// `exit status 1`, `signal 9`.
        status: String,
        /// The last line that it wrote to its standard error.
        said: String,
    },
    /// The program runs on, but its output is closed.
    #[error(
        "camera command {program:?} closed its output and runs on; it must write pictures to its standard output until it ends"
    )]
    CommandClosed {
        /// The first word of the command.
        program: String,
    },
    /// No picture for as long as is allowed.
    #[error(
        "no picture came from {camera} for {seconds:.1} s: {instead}; check the camera, or allow it more time"
    )]
    Stalled {
        /// URL or command.
        camera: String,
        /// How long, in seconds.
        seconds: f32,
        /// What came instead of pictures.
        instead: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot prepare to read {url}: {why}; check the system's limits")]
    HttpClient {
        /// The URL, without what is secret in it.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The camera cannot be reached, or the connection broke.
    #[error("cannot read {url}: {why}; check that the camera is on and the address is right")]
    Http {
        /// The URL, without what is secret in it.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The camera asks who we are.
    #[error(
        "{url} answered {status}; write user and password into the URL, as in http://USER:PASSWORD@HOST/PATH, and if they are there, let ffmpeg or curl read the camera by exec:, since only Basic authentication is built in"
    )]
    HttpRefused {
        /// The URL, without what is secret in it.
        url: String,
        /// `401 Unauthorized`.
        status: String,
    },
    /// The camera answered with an error.
    #[error(
        "{url} answered {status}, not 200 OK; check the path of the URL in the camera's manual"
    )]
    HttpStatus {
        /// The URL, without what is secret in it.
        url: String,
        /// `404 Not Found`.
        status: String,
    },
    /// A web page instead of a stream.
    #[error(
        "{url} sends {content_type}, not an MJPEG stream; look up the URL of the stream itself in the camera's manual"
    )]
    HttpText {
        /// The URL, without what is secret in it.
        url: String,
        /// The type that the camera names.
        content_type: String,
    },
    /// The camera ended the stream.
    #[error(
        "the stream {url} ended; check the camera, and that the URL is the one of a stream and not of a single picture"
    )]
    HttpEnded {
        /// The URL, without what is secret in it.
        url: String,
    },
}

impl SourceError {
    /// Whether files are missing or of no use (exit code 66); all else is a
    /// device or a program that is not available (69).
    #[must_use]
    pub fn is_missing_input(&self) -> bool {
        matches!(
            self,
            SourceError::Path { .. }
                | SourceError::NoFile { .. }
                | SourceError::NoPictures { .. }
                | SourceError::Picture { .. }
                | SourceError::Pictures { .. }
        )
    }
}

/// The numbers of a [`Camera`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CameraOptions {
    /// Pictures a second for pictures and folders: each is shown for `1 / rate`
    /// seconds. Held within 0.001 to 1,000.
    pub rate: f32,
    /// Whether to start again at the end of a folder or video.
    pub repeat: bool,
    /// A live source that gave no picture for this long is lost.
    pub stall: Duration,
    /// Longest JPEG of a stream in bytes; longer ones are skipped.
    pub max_frame_bytes: usize,
    /// What webcams, camera modules and programs are asked for.
    pub video: Video,
}

/// What [`Camera::next`] has to tell.
#[derive(Debug)]
pub enum Event {
    /// A frame. After [`Event::Lost`] it means that the source is back.
    Frame(Frame),
    /// The source was lost. Told once; the next call tries to get it back.
    Lost(SourceError),
    /// A source that is not to be repeated failed before its first frame: it is
    /// of no use to try again. Nothing comes after it.
    Failed(SourceError),
    /// The source is at its end, or stop was asked. Nothing comes after it.
    End,
}

/// A source that is opened again whenever it is lost.
pub struct Camera {
    spec: Spec,
    options: CameraOptions,
    stop: CancellationToken,
    source: Option<Box<dyn Source>>,
    /// From the loss of the source to the next frame.
    lost: bool,
    /// The source is of no use any more and must be opened again.
    broken: bool,
    ended: bool,
    /// Attempts to get the source back since it was well.
    attempts: u32,
    /// When the source was opened last.
    opened: Instant,
    restarts: u64,
    /// What the frame numbers of the source start from.
    first_seq: u64,
    next_seq: u64,
}

impl Camera {
    /// Opens the source. Frames are waited for by [`Camera::next`] only; so a
    /// network camera that is still off is no error here but an
    /// [`Event::Lost`], and is waited for.
    ///
    /// # Errors
    /// What waiting does not mend: no such file, no readable picture, no such
    /// program, not a URL.
    pub fn open(
        spec: Spec,
        options: CameraOptions,
        stop: CancellationToken,
    ) -> Result<Camera, SourceError> {
        let source = open_source(&spec, &options, &stop)?;
        Ok(Camera {
            spec,
            options,
            stop,
            source: Some(source),
            lost: false,
            broken: false,
            ended: false,
            attempts: 0,
            opened: now(),
            restarts: 0,
            first_seq: 0,
            next_seq: 0,
        })
    }

    /// Waits for the next frame, the loss of the source or its end.
    ///
    /// After a loss it tries to get the source back, with growing waits of 0.5
    /// to 30 seconds in between, and returns when it has a frame, or within
    /// 100 ms of the stop. Frames are numbered on over losses and repeats. Must
    /// not be called within an asynchronous task.
    #[expect(
        clippy::should_implement_trait,
        reason = "what comes are events, and End is one"
    )]
    pub fn next(&mut self) -> Event {
        loop {
            if self.ended || self.stop.is_cancelled() {
                return self.end();
            }
            if self.broken {
                // Only now, since a child may take a while to end, and the loss
                // was to be told at once.
                self.source = None;
                let wait = wait_before(self.attempts, RandomState::new().hash_one(()));
                self.attempts = self.attempts.saturating_add(1);
                if !sleep_until(now() + wait, &self.stop) {
                    return self.end();
                }
                self.restarts += 1;
                if let Err(error) = self.reopen() {
                    tracing::debug!(%error, "camera is still lost");
                    continue;
                }
            }
            let Some(source) = &mut self.source else {
                return self.end();
            };
            let error = match source.next() {
                Ok(Some(frame)) => return self.frame(frame),
                Ok(None) if self.options.repeat && !self.stop.is_cancelled() => {
                    // A command that gives one picture and ends is not started
                    // without a pause.
                    sleep_until(self.opened + FIRST_WAIT, &self.stop);
                    match self.reopen() {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Ok(None) => return self.end(),
                Err(error) => error,
            };
            let ended = matches!(error, SourceError::CommandEnded { .. });
            if ended && !self.options.repeat && self.next_seq == 0 {
                self.ended = true;
                return Event::Failed(error);
            }
            self.broken = true;
            if self.lost {
                tracing::debug!(%error, "camera is still lost");
                continue;
            }
            self.lost = true;
            if error.is_missing_input() {
                // The path of a picture may say whom it shows.
                tracing::warn!(error = "its pictures cannot be used", "camera lost");
                tracing::debug!(%error, "camera lost");
            } else {
                tracing::warn!(%error, "camera lost");
            }
            return Event::Lost(error);
        }
    }

    /// How often it was tried to open the source again after a loss.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn reopen(&mut self) -> Result<(), SourceError> {
        self.source = None;
        self.source = Some(open_source(&self.spec, &self.options, &self.stop)?);
        self.broken = false;
        self.opened = now();
        self.first_seq = self.next_seq;
        Ok(())
    }

    fn frame(&mut self, mut frame: Frame) -> Event {
        frame.seq += self.first_seq;
        self.next_seq = frame.seq + 1;
        // A source that fails right after its first frame is not back for good.
        if now().saturating_duration_since(self.opened) > STEADY {
            self.attempts = 0;
        }
        if self.lost {
            self.lost = false;
            tracing::info!(restarts = self.restarts, "camera back");
        }
        Event::Frame(frame)
    }

    fn end(&mut self) -> Event {
        self.ended = true;
        Event::End
    }
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Camera")
            .field("spec", &self.spec)
            .field("lost", &self.lost)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

fn open_source(
    spec: &Spec,
    options: &CameraOptions,
    stop: &CancellationToken,
) -> Result<Box<dyn Source>, SourceError> {
    spec.check(&options.video)?;
    let stop = stop.clone();
    Ok(match spec {
        Spec::Examples => {
            let pictures = pictures::EXAMPLES.iter().map(|example| example.bytes);
            Box::new(pictures::Stills::from_memory(pictures, options, stop)?)
        }
        Spec::Path(path) => Box::new(pictures::Stills::open(path, options, stop)?),
        Spec::Http(url) => Box::new(http::Http::open(url, options, stop)?),
        #[cfg(feature = "camera")]
        Spec::Webcam(choice) => {
            let (choice, video) = (choice.clone(), options.video);
            let open = move || v4l::open(&choice, &video);
            Box::new(watched::Watched::open(
                &spec.to_string(),
                open,
                options,
                stop,
            )?)
        }
        #[cfg(not(feature = "camera"))]
        Spec::Webcam(_) => return Err(SourceError::NoWebcamSupport),
        Spec::Rpicam => Box::new(child::Child::rpicam(options, &stop)?),
        Spec::Command(words) => Box::new(child::Child::start(words, options, stop)?),
    })
}

/// How long to wait before the attempt number `attempt`, from 0, to get a
/// source back: exponential, with up to a quarter added by `random`, so that a
/// house full of these does not ask one camera in step after a power cut.
fn wait_before(attempt: u32, random: u64) -> Duration {
    let wait = FIRST_WAIT
        .saturating_mul(1 << attempt.min(16))
        .min(LONGEST_WAIT);
    let share = (random % 1024) as f32 / 1024.0;
    wait + wait.mul_f32(share / 4.0)
}

/// Waits; false if stop was asked before the time had come.
fn sleep_until(due: Instant, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() {
        let left = due.saturating_duration_since(now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STOP_CHECK));
    }
    false
}

#[expect(
    clippy::disallowed_methods,
    reason = "frames carry the time of their capture, and sources are paced and given up by time"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec, SpecError> {
        text.parse()
    }

    #[test]
    fn specs_are_told_apart() {
        assert_eq!(parse("examples"), Ok(Spec::Examples));
        assert_eq!(parse("./examples"), Ok(Spec::Path("./examples".into())));
        assert_eq!(parse("a:b/c.jpg"), Ok(Spec::Path("a:b/c.jpg".into())));
        assert_eq!(parse("./odd://name"), Ok(Spec::Path("./odd://name".into())));
        let webcam = |choice| Ok(Spec::Webcam(choice));
        assert_eq!(parse("webcam"), webcam(Choice::First));
        let path = "webcam:/dev/v4l/by-id/usb-a:b";
        assert_eq!(parse(path), webcam(Choice::Path(path[7..].into())));
        let name = Choice::Name("HD Webcam: HD".to_owned());
        assert_eq!(parse("webcam:HD Webcam: HD"), webcam(name));
        assert_eq!(parse("./webcam"), Ok(Spec::Path("./webcam".into())));
        assert_eq!(parse("rpicam"), Ok(Spec::Rpicam));
        for text in ["webcam", path, "webcam:HD Webcam", "rpicam"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("HTTP://cam/"), Ok(Spec::Http("HTTP://cam/".into())));
        let words = ["sh", "-c", "cat 'a b'"].map(str::to_owned).to_vec();
        assert_eq!(parse("exec:sh -c \"cat 'a b'\""), Ok(Spec::Command(words)));
    }

    #[test]
    fn wrong_specs_are_refused_with_a_remedy() {
        for (text, part) in [
            ("", "give examples, a path"),
            ("webcam:", "write its path or name behind it"),
            ("webcam: ", "write its path or name behind it"),
            ("exec:", "write the command behind it"),
            ("exec:  ", "write the command behind it"),
            ("exec:''", "write the command behind it"),
            ("exec:cat 'a", "quote the words"),
            (
                "https://me:secret@cam/video",
                "https://cam/video cannot be used, since this build",
            ),
            (
                "rtsp://me:secret@cam/1",
                "exec:ffmpeg -i rtsp://HOST/PATH -f mjpeg -",
            ),
            ("http://", "is no valid URL"),
            ("http://me:sec/ret@cam:x/video", "is no valid URL"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("sec"), "{text}: {error}");
        }
    }

    #[test]
    fn each_source_has_its_formats() {
        let wrong = |source: &str, format, width, height| {
            let video = Video {
                format,
                width,
                height,
                ..Video::default()
            };
            let refused = parse(source).unwrap().check(&video);
            refused.err().map(|error| error.to_string())
        };
        for (source, allowed) in [
            ("examples", "auto mjpeg yuyv nv12 yuv420"),
            ("door.jpg", "auto mjpeg yuyv nv12 yuv420"),
            ("webcam", "auto mjpeg yuyv nv12"),
            ("rpicam", "auto mjpeg yuv420"),
            ("http://cam/", "auto mjpeg"),
            ("exec:cat", "auto mjpeg yuv420"),
        ] {
            for format in [
                Format::Auto,
                Format::Mjpeg,
                Format::Yuyv,
                Format::Nv12,
                Format::Yuv420,
            ] {
                let error = wrong(source, format, 640, 480);
                let name = format.to_string();
                let right = allowed.split(' ').any(|word| word == name);
                assert_eq!(error.is_none(), right, "{source} {name}: {error:?}");
                if let Some(error) = error {
                    assert!(error.contains(&format!("cannot give {name} pictures")));
                    assert!(error.ends_with(&allowed.replace(' ', ", ")), "{error}");
                }
            }
        }
        for (width, height) in [(650, 480), (640, 481)] {
            let error = wrong("rpicam", Format::Yuv420, width, height).unwrap();
            assert!(
                error.contains("make camera.width a multiple of 64"),
                "{error}"
            );
            assert_eq!(wrong("rpicam", Format::Mjpeg, width, height), None);
            assert_eq!(wrong("exec:cat", Format::Yuv420, width, height), None);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        for (text, shown) in [
            ("http://me:secret@cam:81/video", "http://cam:81/video"),
            ("http://me:sec@ret@cam/a@b", "http://cam/a@b"),
            ("http://me:sec ret'@cam/1", "http://cam/1"),
            ("http://cam/a@b", "http://cam/a@b"),
            ("http://cam:81/a@b", "http://cam:81/a@b"),
            ("http://[::1]:81/a@b", "http://[::1]:81/a@b"),
            ("http://[::1]/a@b", "http://[::1]/a@b"),
            ("http://cam/v?user=me&pwd=secret", "http://cam/v?…"),
        ] {
            let spec = Spec::Http(text.to_owned());
            assert_eq!(spec.to_string(), shown);
            assert_eq!(format!("{spec:?}"), format!("Spec({shown})"));
        }
        let spec = parse("exec:ffmpeg -i 'rtsp://me:secret@cam/1?a=b' -f mjpeg -").unwrap();
        assert_eq!(
            spec.to_string(),
            "exec:ffmpeg -i 'rtsp://cam/1?…' -f mjpeg -"
        );
        assert_eq!(
            text_without_secrets("[x]  http://me:sec/ret@cam/1: no; \"rtsp://a:b@c\" too"),
            "[x]  http://cam/1: no; \"rtsp://c\" too"
        );
        let spec = parse("exec:ffmpeg -i 'rtsp://me:sec ret@cam/1'").unwrap();
        assert_eq!(spec.to_string(), "exec:ffmpeg -i rtsp://cam/1");
        let spec = parse("exec:sh -c 'curl http://me:secret@cam/1 | cat'").unwrap();
        assert_eq!(spec.to_string(), "exec:sh -c 'curl http://cam/1 | cat'");
        assert_eq!(Spec::Path("a b".into()).to_string(), "a b");
    }

    #[test]
    fn waits_grow_and_stay_within_their_bounds() {
        let milliseconds = [0, 1, 2, 5, 6].map(|attempt| wait_before(attempt, 0).as_millis());
        assert_eq!(milliseconds, [500, 1000, 2000, 16_000, 24_000]);
        for attempt in (0..40).chain([u32::MAX]) {
            for random in [0, 1, 1023, u64::MAX] {
                let wait = wait_before(attempt, random);
                assert!(wait >= FIRST_WAIT && wait <= Duration::from_secs(30));
            }
        }
        assert!(wait_before(3, 1023) > wait_before(3, 0));
    }

    #[test]
    fn sleeping_ends_with_the_stop() {
        let stop = CancellationToken::new();
        assert!(sleep_until(now() + Duration::from_millis(5), &stop));
        stop.cancel();
        let start = now();
        assert!(!sleep_until(start + Duration::from_mins(1), &stop));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn missing_input_is_told_from_unavailable_devices() {
        let path = String::new;
        assert!(SourceError::NoPictures { path: path() }.is_missing_input());
        assert!(!SourceError::CommandMissing { program: path() }.is_missing_input());
        assert!(!SourceError::HttpEnded { url: path() }.is_missing_input());
    }
}
