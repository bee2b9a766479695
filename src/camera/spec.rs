//! Camera sources as they are written in the configuration.
//!
//! Owns their syntax, and which formats each supports.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

use super::options::{VideoFormat, VideoOptions};
use super::redact::{text_without_secrets, without_secrets};

/// A camera source, as written in the configuration.
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
    /// A webcam, or any other V4L2 capture device.
    Webcam(WebcamSelector),
    /// The camera module of a Raspberry Pi, read by `rpicam-vid`.
    Rpicam,
    /// The URL of an MJPEG stream.
    Http(String),
    /// A program and its arguments. It writes pictures to its standard output:
    /// JPEG, or raw ones with [`VideoFormat::Yuv420`].
    Command(Vec<String>),
}

/// Which webcam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebcamSelector {
    /// The first usable one, in the order of the numbers in `/dev/videoN`.
    First,
    /// The device file, or a link to it.
    Path(PathBuf),
    /// The one that V4L2 reports under this name.
    Name(String),
}

/// Alignment of raw lines in bytes: `rpicam-vid` passes them on as the image
/// processor wrote them, padded to a multiple of this.
const RPICAM_ALIGNMENT: u32 = 64;

impl Spec {
    /// Checks that the source supports this format and size. Pictures and
    /// folders ignore both.
    ///
    /// # Errors
    /// [`SpecError`], which names the config key to change.
    pub fn check(&self, video: &VideoOptions) -> Result<(), SpecError> {
        use VideoFormat::{Auto, Mjpeg, Nv12, Yuv420, Yuyv};
        let (source, formats): (_, &[VideoFormat]) = match self {
            Spec::Examples | Spec::Path(_) => return Ok(()),
            Spec::Webcam(_) => ("webcam", &[Auto, Mjpeg, Yuyv, Nv12]),
            Spec::Rpicam => ("rpicam", &[Auto, Mjpeg, Yuv420]),
            Spec::Http(_) => ("http://", &[Auto, Mjpeg]),
            Spec::Command(_) => ("exec:", &[Auto, Mjpeg, Yuv420]),
        };
        if !formats.contains(&video.format) {
            let names: Vec<String> = formats.iter().map(VideoFormat::to_string).collect();
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
    /// `http://…`, `exec:COMMAND ARGUMENT …` (split into words as a shell does, but
    /// without expansion) or a path. A folder named `examples` is written
    /// `./examples`.
    fn from_str(text: &str) -> Result<Spec, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Empty);
        }
        match text {
            "examples" => return Ok(Spec::Examples),
            "webcam" => return Ok(Spec::Webcam(WebcamSelector::First)),
            "rpicam" => return Ok(Spec::Rpicam),
            _ => {}
        }
        if let Some(device) = text.strip_prefix("webcam:") {
            return match device.trim() {
                "" => Err(SpecError::NoWebcam),
                path if path.starts_with('/') => {
                    Ok(Spec::Webcam(WebcamSelector::Path(path.into())))
                }
                name => Ok(Spec::Webcam(WebcamSelector::Name(name.to_owned()))),
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
                check_url(text)?;
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

/// The part before `://`, if it has the form of a URL scheme.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut letters = scheme.chars();
    let valid = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    valid.then_some(scheme)
}

/// Checks that `url` is an `http` URL with a host.
pub(super) fn check_url(url: &str) -> Result<(), SpecError> {
    let invalid = |why: String| SpecError::Url {
        url: without_secrets(url),
        why,
    };
    let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
    match parsed.scheme() {
        "http" if parsed.has_host() => Ok(()),
        _ => Err(invalid("it is not an http URL with a host".to_owned())),
    }
}

impl fmt::Display for Spec {
    /// Without the users, passwords and queries of URLs: some cameras take the
    /// password in the query.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Spec::Examples => f.write_str("examples"),
            Spec::Path(path) => path.display().fmt(f),
            Spec::Webcam(WebcamSelector::First) => f.write_str("webcam"),
            Spec::Webcam(WebcamSelector::Path(path)) => write!(f, "webcam:{}", path.display()),
            Spec::Webcam(WebcamSelector::Name(name)) => write!(f, "webcam:{name}"),
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
                    // A word with a NUL byte, which no program can be started with.
                    Err(_) => write!(f, "exec:{}", words.join(" ")),
                }
            }
        }
    }
}

impl fmt::Debug for Spec {
    /// Like [`Display`](fmt::Display), so that no password gets into a log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Spec({self})")
    }
}

/// Why a text does not name a usable source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The text is empty.
    #[error(
        "the camera source is empty; set it to examples, a path, webcam, rpicam, an http:// URL, or exec: with a command"
    )]
    Empty,
    /// `exec:` without a command.
    #[error(
        "the camera source exec: names no command; write the command after it, as in exec:rpicam-vid -t 0 --codec mjpeg -o -"
    )]
    NoCommand,
    /// `webcam:` without a device.
    #[error(
        "the camera source webcam: names no device; write its path or name after it, as in webcam:/dev/video0, or webcam alone for the first one"
    )]
    NoWebcam,
    /// A format that the source does not support.
    #[error(
        "the camera source {source_kind} does not support {format} pictures; set camera.format to one of {formats}"
    )]
    Format {
        /// The source's prefix: `webcam`, `exec:` and so on.
        source_kind: &'static str,
        /// The configured format.
        format: VideoFormat,
        /// The formats that it supports, separated by commas.
        formats: String,
    },
    /// A size at which `rpicam-vid` pads the lines of raw pictures.
    #[error(
        "the camera source rpicam does not support raw pictures of {width} x {height}, since rpicam-vid pads their lines; make camera.width a multiple of {RPICAM_ALIGNMENT} and camera.height even, or set camera.format to mjpeg"
    )]
    Padded {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// An unclosed quotation mark or a trailing backslash.
    #[error(
        "the camera source exec: has an unclosed quotation mark or a trailing backslash; quote the words as for a shell"
    )]
    Quotes,
    /// An `https` URL.
    #[error(
        "the camera source {url} cannot be used, since camera streams over TLS are not supported; use http://, or exec: with ffmpeg"
    )]
    Tls {
        /// The URL, redacted.
        url: String,
    },
    /// A URL of another scheme.
    #[error(
        "the camera source {scheme}:// is not supported; read it with ffmpeg, as in exec:ffmpeg -i {scheme}://HOST/PATH -f mjpeg -"
    )]
    Scheme {
        /// The part before `://`.
        scheme: String,
    },
    /// An invalid URL.
    #[error(
        "the camera source {url} is not a valid URL ({why}); write it as http://HOST:PORT/PATH"
    )]
    Url {
        /// The URL, redacted.
        url: String,
        /// The parser's error.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Spec, SpecError> {
        text.parse()
    }

    #[test]
    fn each_kind_of_source_is_parsed() {
        assert_eq!(parse("examples"), Ok(Spec::Examples));
        assert_eq!(parse("./examples"), Ok(Spec::Path("./examples".into())));
        assert_eq!(parse("a:b/c.jpg"), Ok(Spec::Path("a:b/c.jpg".into())));
        assert_eq!(parse("./odd://name"), Ok(Spec::Path("./odd://name".into())));
        let webcam = |choice| Ok(Spec::Webcam(choice));
        assert_eq!(parse("webcam"), webcam(WebcamSelector::First));
        let path = "webcam:/dev/v4l/by-id/usb-a:b";
        assert_eq!(parse(path), webcam(WebcamSelector::Path(path[7..].into())));
        let name = WebcamSelector::Name("HD Webcam: HD".to_owned());
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
    fn errors_say_what_to_write() {
        for (text, part) in [
            ("", "set it to examples, a path"),
            ("webcam:", "write its path or name after it"),
            ("webcam: ", "write its path or name after it"),
            ("exec:", "write the command after it"),
            ("exec:  ", "write the command after it"),
            ("exec:''", "write the command after it"),
            ("exec:cat 'a", "quote the words"),
            (
                "https://me:secret@cam/video",
                "https://cam/video cannot be used, since camera",
            ),
            (
                "rtsp://me:secret@cam/1",
                "exec:ffmpeg -i rtsp://HOST/PATH -f mjpeg -",
            ),
            ("http://", "is not a valid URL"),
            ("http://me:sec/ret@cam:x/video", "is not a valid URL"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("sec"), "{text}: {error}");
        }
    }

    #[test]
    fn each_source_supports_its_formats() {
        let wrong = |source: &str, format, width, height| {
            let video = VideoOptions {
                format,
                width,
                height,
                ..VideoOptions::default()
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
                VideoFormat::Auto,
                VideoFormat::Mjpeg,
                VideoFormat::Yuyv,
                VideoFormat::Nv12,
                VideoFormat::Yuv420,
            ] {
                let error = wrong(source, format, 640, 480);
                let name = format.to_string();
                let right = allowed.split(' ').any(|word| word == name);
                assert_eq!(error.is_none(), right, "{source} {name}: {error:?}");
                if let Some(error) = error {
                    assert!(error.contains(&format!("does not support {name} pictures")));
                    assert!(error.ends_with(&allowed.replace(' ', ", ")), "{error}");
                }
            }
        }
        for (width, height) in [(650, 480), (640, 481)] {
            let error = wrong("rpicam", VideoFormat::Yuv420, width, height).unwrap();
            assert!(
                error.contains("make camera.width a multiple of 64"),
                "{error}"
            );
            assert_eq!(wrong("rpicam", VideoFormat::Mjpeg, width, height), None);
            assert_eq!(wrong("exec:cat", VideoFormat::Yuv420, width, height), None);
        }
    }

    #[test]
    fn no_secret_is_shown() {
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
    fn urls_are_checked() {
        for good in [
            "http://cam/",
            "http://me:secret@[::1]:81/a?b",
            "http://10.0.0.7",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "http://",
            "http:///",
            "http://cam:99999/",
            "file:///x",
            "cam/video",
        ] {
            assert!(
                matches!(check_url(bad), Err(SpecError::Url { .. })),
                "{bad}"
            );
        }
    }
}
