//! Parses the camera sources in the configuration.
//!
//! This module defines the syntax of sources, except for the syntax of addresses. It also
//! defines which formats each source supports.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::{AddressError, CameraUrl};
use super::options::{VideoFormat, VideoOptions};
use super::redact::is_blank;

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
    /// The built-in pictures.
    Examples,
    /// A picture, or a folder of pictures.
    Path(PathBuf),
    /// A webcam, or any other V4L2 capture device.
    Webcam(WebcamSelector),
    /// The camera module of a Raspberry Pi, read by `rpicam-vid`.
    Rpicam,
    /// A network camera, given by the address of an MJPEG stream or of single JPEG
    /// pictures.
    Http(CameraUrl),
    /// A program and its arguments. The program writes pictures to its standard output,
    /// either JPEG or, with [`VideoFormat::Yuv420`], raw pictures.
    Command(Vec<String>),
}

/// Selects a webcam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebcamSelector {
    /// The first usable webcam, in the order of the numbers in `/dev/videoN`.
    First,
    /// The webcam with this device file. The path may be a link to the device file.
    Path(PathBuf),
    /// The webcam that V4L2 reports under this name.
    Name(String),
}

/// Alignment of the lines of raw pictures, in bytes. The image processor pads each line
/// to a multiple of this number, and `rpicam-vid` does not remove the padding.
const RPICAM_ALIGNMENT: u32 = 64;

impl Spec {
    /// Checks that the source supports the format and the size in `video`. Pictures and
    /// folders ignore the format and the size.
    ///
    /// # Errors
    /// Returns a [`SpecError`] whose message names the config key to change.
    pub fn check(&self, video: &VideoOptions) -> Result<(), SpecError> {
        use VideoFormat::{Auto, Mjpeg, Nv12, Yuv420, Yuyv};
        let (source, formats): (_, &[VideoFormat]) = match self {
            Spec::Examples | Spec::Path(_) => return Ok(()),
            Spec::Webcam(_) => ("webcam", &[Auto, Mjpeg, Yuyv, Nv12]),
            Spec::Rpicam => ("rpicam", &[Auto, Mjpeg, Yuv420]),
            Spec::Http(url) if url.is_https() => ("https://", &[Auto, Mjpeg]),
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

    /// Parses `examples`, `webcam`, `webcam:/dev/…`, `webcam:NAME`, `rpicam`, `http://…`,
    /// `https://…`, `exec:COMMAND ARGUMENT …`, or a path. A command is split into words
    /// as in a shell, but without expansion. Write `./` before a path that looks like an
    /// address, and before a folder named `examples`.
    fn from_str(text: &str) -> Result<Spec, SpecError> {
        if text.trim().is_empty() {
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
        if text.starts_with(is_blank) || text.ends_with(is_blank) {
            return Err(SpecError::Blanks);
        }
        match scheme(text) {
            Some(scheme) if ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) => {
                Ok(Spec::Http(text.parse()?))
            }
            Some(scheme) => Err(SpecError::Scheme {
                scheme: scheme.to_owned(),
            }),
            None if is_bare_address(text) => Err(SpecError::NoScheme),
            None => Ok(Spec::Path(PathBuf::from(text))),
        }
    }
}

/// Returns the part of `text` before `://` if that part has the form of a URL scheme.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let mut letters = scheme.chars();
    let valid = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    valid.then_some(scheme)
}

/// Whether `text` looks like an address with a missing or wrong `http://`, rather than
/// like a path. Such a text must not be treated as a path: it may contain a password, and
/// messages show paths.
fn is_bare_address(text: &str) -> bool {
    if text.starts_with("//") {
        return true;
    }
    if ["/", "./", "../", "~"]
        .iter()
        .any(|start| text.starts_with(start))
    {
        return false;
    }
    let lower = text.to_ascii_lowercase();
    let first = text.split(['/', '?']).next().unwrap_or(text);
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = first
        .rsplit_once(':')
        .is_some_and(|(_, port)| is_number(port));
    text.contains('@')
        || text.contains("://")
        || ["http:", "https:", "http/", "https/"]
            .iter()
            .any(|start| lower.starts_with(start))
        || has_port
        || first.parse::<std::net::IpAddr>().is_ok()
        || first.starts_with('[')
}

impl fmt::Display for Spec {
    /// Writes the source in the syntax of the configuration, but without the parts that
    /// may contain a password. These are the login and the query of an address, and the
    /// arguments of a command.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Spec::Examples => f.write_str("examples"),
            Spec::Path(path) => path.display().fmt(f),
            Spec::Webcam(WebcamSelector::First) => f.write_str("webcam"),
            Spec::Webcam(WebcamSelector::Path(path)) => write!(f, "webcam:{}", path.display()),
            Spec::Webcam(WebcamSelector::Name(name)) => write!(f, "webcam:{name}"),
            Spec::Rpicam => f.write_str("rpicam"),
            Spec::Http(url) => url.fmt(f),
            Spec::Command(words) => {
                let program = words.first().map_or("", String::as_str);
                let arguments = if words.len() > 1 { " …" } else { "" };
                write!(f, "exec:{}{arguments}", shown_program(program))
            }
        }
    }
}

/// Returns the first word of a command in a form that messages can show. If the word is
/// an address or a variable assignment, the user wrote it there by mistake, and it may
/// contain a password.
pub(super) fn shown_program(word: &str) -> String {
    if let Some((scheme, _)) = word.split_once("://") {
        return format!("{scheme}://…");
    }
    if let Some((variable, _)) = word.split_once('=') {
        return format!("{variable}=…");
    }
    match word.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => word.to_owned(),
    }
}

impl fmt::Debug for Spec {
    /// Writes the same text as [`Display`](fmt::Display), so that no password gets into a
    /// log.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Spec({self})")
    }
}

/// The reason that a string does not name a usable source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The string is empty.
    #[error(
        "the camera source is empty; set it to examples, a path, webcam, rpicam, an http:// or https:// address, or exec: with a command"
    )]
    Empty,
    /// There is no command after `exec:`.
    #[error(
        "the camera source exec: names no command; write the command after it, as in exec:rpicam-vid -t 0 --codec mjpeg -o -"
    )]
    NoCommand,
    /// There is no device after `webcam:`.
    #[error(
        "the camera source webcam: names no device; write its path or name after it, as in webcam:/dev/video0, or webcam alone for the first one"
    )]
    NoWebcam,
    /// The source does not support the format.
    #[error(
        "the camera source {source_kind} does not support {format} pictures; set camera.format to one of {formats}"
    )]
    Format {
        /// The prefix of the source, such as `webcam` or `exec`.
        source_kind: &'static str,
        /// The configured format.
        format: VideoFormat,
        /// The formats that the source supports, separated by commas.
        formats: String,
    },
    /// At this size, `rpicam-vid` pads the lines of raw pictures.
    #[error(
        "the camera source rpicam does not support raw pictures of {width} x {height}, since rpicam-vid pads their lines; make camera.width a multiple of {RPICAM_ALIGNMENT} and camera.height even, or set camera.format to mjpeg"
    )]
    Padded {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The command contains an unclosed quotation mark or a trailing backslash.
    #[error(
        "the camera source exec: has an unclosed quotation mark or a trailing backslash; quote the words as for a shell"
    )]
    Quotes,
    /// There are blanks before or after the source.
    #[error("the camera source begins or ends with a blank or an invisible character; remove it")]
    Blanks,
    /// The address does not start with `http://`.
    #[error(
        "the camera source looks like an address without http:// before it; write http://HOST:PORT/PATH (or https://), or ./ before the path of a picture or folder"
    )]
    NoScheme,
    /// The scheme of the URL is not supported.
    #[error(
        "the camera source {scheme}:// is not supported; write http:// or https:// before the address of an MJPEG stream or picture, or read it with ffmpeg, as in exec:ffmpeg -i {scheme}://HOST/PATH -f mjpeg -"
    )]
    Scheme {
        /// The part before `://`.
        scheme: String,
    },
    /// The address is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        for text in ["http://cam/", "HTTPS://cam/"] {
            assert_eq!(parse(text), Ok(Spec::Http(text.parse().unwrap())));
        }
        for path in [
            "/a@b",
            "./a@b",
            "../10.0.0.7",
            "a b.jpg",
            "door",
            "cam.lan/1.jpg",
        ] {
            assert_eq!(parse(path), Ok(Spec::Path(path.into())));
        }
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
                "rtsp://me:secret@cam/1",
                "exec:ffmpeg -i rtsp://HOST/PATH -f mjpeg -",
            ),
            (
                "htp://me:secret@cam/1",
                "write http:// or https:// before the address",
            ),
            ("http://", "it has no host"),
            ("http://me:sec/ret@cam:x/video", "write / as %2F"),
            (" ", "set it to examples"),
            (" http://me:secret@cam/", "begins or ends with a blank"),
            ("http://me:secret@cam/ ", "begins or ends with a blank"),
            (
                "\u{feff}http://me:secret@cam/",
                "begins or ends with a blank",
            ),
            ("me:secret@cam/video", "write http://HOST:PORT/PATH"),
            ("secret@cam", "write http://HOST:PORT/PATH"),
            ("//me:secret@cam/video", "write http://HOST:PORT/PATH"),
            ("http:/me:secret@cam/", "write http://HOST:PORT/PATH"),
            ("HTTP//me:secret@cam/", "write http://HOST:PORT/PATH"),
            ("me:sec://ret@cam/", "write http://HOST:PORT/PATH"),
            ("10.0.0.7/video?pwd=secret", "write http://HOST:PORT/PATH"),
            ("cam:8080/secret", "write http://HOST:PORT/PATH"),
            ("[::1]/secret", "write http://HOST:PORT/PATH"),
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
            ("http://me:sec@ret@cam/", "http://cam/"),
            ("https://me:secret@[::1]:81/a", "https://[::1]:81/a"),
            ("http://cam/v?user=me&pwd=secret", "http://cam/v?…"),
            (
                "exec:ffmpeg -i rtsp://me:secret@cam/1 -f mjpeg -",
                "exec:ffmpeg …",
            ),
            ("exec:curl -u me:secret cam", "exec:curl …"),
            ("exec:rtsp://me:secret@cam/1", "exec:rtsp://…"),
            ("exec:PASSWORD=secret ffmpeg", "exec:PASSWORD=… …"),
            ("exec:me:secret@cam", "exec:…@cam"),
            ("exec:/usr/bin/camera", "exec:/usr/bin/camera"),
        ] {
            let spec = parse(text).unwrap();
            assert_eq!(spec.to_string(), shown);
            assert_eq!(format!("{spec:?}"), format!("Spec({shown})"));
        }
        assert_eq!(Spec::Path("a b".into()).to_string(), "a b");
    }

    proptest! {
        #[test]
        fn no_password_is_shown(
            scheme in "(https?://|rtsp://|http:/|htp://|//|)",
            before in "[ \\t]{0,1}",
            left in "[!-~ äß]{0,5}",
            right in "[!-~ äß]{0,5}",
            host in "(camera|10\\.0\\.0\\.7|\\[::1\\])(:81)?",
            path in "[a-z/]{0,5}",
        ) {
            let text = format!("{before}{scheme}me:{left}Qx7Z9{right}@{host}{path}");
            let output = match parse(&text) {
                Ok(spec) => format!("{spec} {spec:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!output.contains("Qx7Z9"), "{}: {}", text, output);
        }
    }
}
