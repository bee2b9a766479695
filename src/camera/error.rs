//! The reasons a source yields no frames.

use super::spec::SpecError;
use crate::frame::PictureError;
use crate::platform::text_code::TextCode;

/// How to use a webcam with a build without webcam support.
const WEBCAM_ADVICE: &str = if cfg!(target_os = "linux") {
    "install libclang-dev and build with --features camera, or read the webcam with ffmpeg, as in \
     exec:ffmpeg -f v4l2 -i /dev/video0 -f mjpeg -"
} else {
    "read the webcam with ffmpeg, as in exec:ffmpeg -f avfoundation -framerate 30 -i 0 -f mjpeg -"
};

/// The reason a source yields no frames. Each message is one sentence that says what
/// failed, where it failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configured text does not name a usable source.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The path does not exist or cannot be read.
    #[error(
        "cannot open the picture or folder {path}: {error}; check the path of the camera source, or write http:// before it if it is the address of a camera"
    )]
    Path {
        /// The path as configured.
        path: String,
        /// The error from the system.
        error: std::io::Error,
    },
    /// The path is a device, a pipe, or a socket.
    #[error("{path} is neither a picture nor a folder; to use a webcam, write webcam:/dev/video0")]
    NoFile {
        /// The path as configured.
        path: String,
    },
    /// The folder contains no file with the extension of a picture.
    #[error(
        "the folder {path} holds no pictures; add files that end in .jpg, .jpeg, .png, .webp, .bmp, .gif, .tif, or .tiff"
    )]
    NoPictures {
        /// The path as configured.
        path: String,
    },
    /// The source is a single picture, and this picture cannot be used.
    #[error(
        "cannot use the picture {path}: {why}; choose another picture, or play a video with exec:ffmpeg -re -i FILE -f mjpeg -"
    )]
    Picture {
        /// The path as configured.
        path: String,
        /// The problem with the picture.
        why: String,
    },
    /// None of the pictures in a folder can be used.
    #[error(
        "none of the {count} pictures in {source_name} can be used (the last one: {why}); replace them"
    )]
    Pictures {
        /// The folder as configured, or `examples`.
        source_name: String,
        /// Number of pictures.
        count: usize,
        /// The problem with the last picture.
        why: String,
    },
    /// This build has no webcam support.
    #[error("this build of maskd has no webcam support; {}", WEBCAM_ADVICE)]
    NoWebcamSupport,
    /// No webcam matches the configuration.
    #[error(
        "no {wanted} was found; the video devices are: {found}; plug it in, or change the camera source"
    )]
    WebcamMissing {
        /// Description of the configured webcam, such as `webcam /dev/video0`.
        wanted: String,
        /// Description of the devices that were found.
        found: String,
    },
    /// The webcam was unplugged while it was read.
    #[error("the webcam {webcam} was unplugged: {why}")]
    WebcamUnplugged {
        /// Description of the webcam.
        webcam: String,
        /// The error message of the last read.
        why: String,
    },
    /// Several webcams have the configured name.
    #[error(
        "several webcams are named {name:?}: {matches}; choose one by its path, such as webcam:/dev/video0 or one of /dev/v4l/by-id"
    )]
    WebcamAmbiguous {
        /// The name as configured.
        name: String,
        /// Description of the webcams with that name.
        matches: String,
    },
    /// The webcam cannot be opened or read.
    #[error(
        "cannot use the webcam {webcam}: {why}; check that it is plugged in, that no other program uses it, and that this user is in the group video"
    )]
    Webcam {
        /// Path and name of the webcam.
        webcam: String,
        /// The error from the driver or the system.
        why: String,
    },
    /// The thread that reads a webcam cannot be started.
    #[error(
        "cannot start the thread that reads the webcam {webcam}: {error}; check the system's limit on threads"
    )]
    WebcamThread {
        /// The webcam as configured.
        webcam: String,
        /// The error from the system.
        error: std::io::Error,
    },
    /// The camera program is not installed under either of its names.
    #[error(
        "neither rpicam-vid nor libcamera-vid was found; install rpicam-apps-lite (Raspberry Pi OS), or read the camera with another program through exec:"
    )]
    RpicamMissing,
    /// Raw pictures cannot have the configured size.
    #[error("cannot read raw pictures: {0}; change camera.width and camera.height")]
    Raw(#[from] PictureError),
    /// The program does not exist.
    #[error(
        "camera command {program:?} was not found; install it, or write its full path after exec:"
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
        /// The error from the system.
        error: std::io::Error,
    },
    /// The program's output cannot be read.
    #[error("cannot read the output of camera command {program:?}: {error}; it is restarted")]
    CommandRead {
        /// The first word of the command.
        program: String,
        /// The error from the system.
        error: std::io::Error,
    },
    /// The program ended, but not at the end of a video.
    #[error("camera command {program:?} ended with {status}: {reason}")]
    CommandEnded {
        /// The first word of the command.
        program: String,
        /// How the program ended, such as `exit status 1` or `signal 9`.
        status: String,
        /// The last lines of the program's standard error. If there are none, advice on
        /// what to do.
        reason: String,
    },
    /// The program closed its output but did not exit.
    #[error(
        "camera command {program:?} closed its output but keeps running{errors}; it must write pictures to its standard output until it ends"
    )]
    CommandClosed {
        /// The first word of the command.
        program: String,
        /// The last lines of the program's standard error, worded as the end of a
        /// sentence.
        errors: String,
    },
    /// No picture arrived within the allowed time.
    #[error(
        "no picture was received from {camera} for {seconds:.1} s: {received}; check the camera, or raise camera.stall-ms"
    )]
    Stalled {
        /// The camera's redacted URL, its command, or its device.
        camera: String,
        /// The allowed time in seconds.
        seconds: f32,
        /// Description of what was received instead of a picture.
        received: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the connection to {url}: {why}; check the system's limits")]
    HttpClient {
        /// The redacted URL.
        url: String,
        /// The error from the system.
        why: String,
    },
    /// The camera cannot be reached, or the connection broke.
    #[error("cannot read {url}: {why}; check that the camera is on and that the address is right")]
    Http {
        /// The redacted URL.
        url: String,
        /// The reason for the failure.
        why: String,
    },
    /// The certificate of the camera was rejected.
    #[error(
        "the certificate of {url} {why}; if the camera itself shows the SHA-256 fingerprint {fingerprint}, set camera.tls-fingerprint to it, or name the camera's certificate or its authority in camera.ca-file"
    )]
    Certificate {
        /// The redacted URL.
        url: String,
        /// The reason, worded as the rest of a sentence about the certificate.
        why: String,
        /// The SHA-256 of the certificate in hexadecimal digits.
        fingerprint: String,
    },
    /// The file with trusted certificates cannot be used.
    #[error("cannot use the certificates in {path}: {why}; check camera.ca-file")]
    CaFile {
        /// The path as configured.
        path: String,
        /// The problem with the file.
        why: String,
    },
    /// The camera requires a login, but none is configured.
    #[error(
        "{url} answered {status}; write user and password into the address, as in http://USER:PASSWORD@HOST/PATH, with / in a password as %2F, : as %3A, @ as %40, and % as %25"
    )]
    HttpLogin {
        /// The redacted URL.
        url: String,
        /// The HTTP status, such as `401 Unauthorized`.
        status: String,
    },
    /// The camera rejected the login.
    #[error(
        "{url} answered {status} to the user name and password; check both, and that the camera allows this user to see its pictures; write non-ASCII characters in the camera's own encoding, such as %E4 or %C3%A4"
    )]
    HttpRefused {
        /// The redacted URL.
        url: String,
        /// The HTTP status, such as `401 Unauthorized`.
        status: String,
    },
    /// The camera requires a login method that is not supported.
    #[error(
        "{url} asks for a login of a kind that maskd does not support ({methods}); set the camera to Digest or Basic authentication, or read it with ffmpeg or curl through exec:"
    )]
    HttpLoginMethod {
        /// The redacted URL.
        url: String,
        /// The login methods that the camera offers.
        methods: String,
    },
    /// A host to which the camera redirects requires a login.
    #[error(
        "{url}, and the login is not sent there; if that host is the camera, write its address into camera.source"
    )]
    HttpOtherHost {
        /// The camera's URL and the URL of the redirect, both redacted.
        url: String,
    },
    /// The camera responded with an error status.
    #[error(
        "{url} answered {status}, not 200 OK; check the path of the address in the camera's manual"
    )]
    HttpStatus {
        /// The redacted URL.
        url: String,
        /// The HTTP status, such as `404 Not Found`.
        status: String,
    },
    /// The camera is temporarily unable to respond.
    #[error(
        "{url} answered {status}; check whether other programs use the camera, because many serve only a few at a time, or restart the camera"
    )]
    HttpBusy {
        /// The redacted URL.
        url: String,
        /// The HTTP status, such as `503 Service Unavailable`.
        status: String,
    },
    /// The camera sent something other than a picture.
    #[error(
        "{url} sends {content_type} without a JPEG picture ({received}); find the address of the MJPEG stream or of a JPEG picture in the camera's manual"
    )]
    HttpNoPicture {
        /// The redacted URL.
        url: String,
        /// The `Content-Type` of the response.
        content_type: String,
        /// Description of what was received.
        received: String,
    },
    /// The camera ended the stream.
    #[error("the stream {url} ended ({received}); check the camera and the network")]
    HttpEnded {
        /// The redacted URL.
        url: String,
        /// Description of what was received before the end.
        received: String,
    },
}

impl SourceError {
    /// Whether the cause is a missing or unusable file (exit code 66). Any other error
    /// means that a device or a program is not available (exit code 69).
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

    /// Returns the error without the paths of pictures, because pictures are often named after
    /// the people in them.
    pub(crate) fn without_paths(&self) -> String {
        if self.is_missing_input() {
            "its pictures cannot be read; \"maskd check\" says why".to_owned()
        } else {
            self.to_string()
        }
    }

    /// The machine-readable form of [`without_paths`](SourceError::without_paths), or `None` for
    /// errors that a running daemon rarely sees.
    pub(crate) fn code(&self) -> Option<TextCode> {
        let code = TextCode::new;
        let of_url = |name, url: &str| TextCode::new(name).with("url", url);
        let of_program = |name, program: &str| TextCode::new(name).with("program", program);
        Some(match self {
            error if error.is_missing_input() => code("pictures-unreadable"),
            SourceError::WebcamMissing { wanted, .. } => {
                code("webcam-missing").with("webcam", wanted.as_str())
            }
            SourceError::WebcamUnplugged { webcam, .. } => {
                code("webcam-unplugged").with("webcam", webcam.as_str())
            }
            SourceError::Webcam { webcam, why } => code("webcam-unusable")
                .with("webcam", webcam.as_str())
                .with("error", why.as_str()),
            SourceError::RpicamMissing => code("rpicam-missing"),
            SourceError::CommandMissing { program } => of_program("command-missing", program),
            SourceError::CommandEnded {
                program,
                status,
                reason,
            } => of_program("command-ended", program)
                .with("status", status.as_str())
                .with("error", reason.as_str()),
            SourceError::CommandClosed { program, .. } => of_program("command-closed", program),
            SourceError::Stalled {
                camera, seconds, ..
            } => code("stalled").with("camera", camera.as_str()).with(
                "milliseconds",
                (f64::from(*seconds) * 1000.0).round() as u64,
            ),
            SourceError::Http { url, why } => of_url("http", url).with("error", why.as_str()),
            SourceError::Certificate {
                url, fingerprint, ..
            } => of_url("certificate", url).with("fingerprint", fingerprint.as_str()),
            SourceError::HttpLogin { url, status } => {
                of_url("http-login", url).with("status", status.as_str())
            }
            SourceError::HttpRefused { url, status } => {
                of_url("http-refused", url).with("status", status.as_str())
            }
            SourceError::HttpStatus { url, status } => {
                of_url("http-status", url).with("status", status.as_str())
            }
            SourceError::HttpBusy { url, status } => {
                of_url("http-busy", url).with("status", status.as_str())
            }
            SourceError::HttpNoPicture {
                url, content_type, ..
            } => of_url("http-no-picture", url).with("content_type", content_type.as_str()),
            SourceError::HttpEnded { url, .. } => of_url("http-ended", url),
            _ => return None,
        })
    }

    /// Whether the camera is known to be unplugged, in which case reopening it
    /// cannot succeed until a person has plugged it in.
    #[must_use]
    pub fn is_unplugged(&self) -> bool {
        matches!(
            self,
            SourceError::WebcamUnplugged { .. } | SourceError::WebcamMissing { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_input_differs_from_unavailable_devices() {
        let path = String::new;
        assert!(SourceError::NoPictures { path: path() }.is_missing_input());
        assert!(!SourceError::CommandMissing { program: path() }.is_missing_input());
        let (url, received) = (path(), path());
        assert!(!SourceError::HttpEnded { url, received }.is_missing_input());
    }

    #[test]
    fn codes_have_no_paths_of_pictures() {
        let path = || "/home/pat/portrait-of-pat.jpg".to_owned();
        let missing = SourceError::NoFile { path: path() };
        assert_eq!(missing.code(), Some(TextCode::new("pictures-unreadable")));
        let stalled = SourceError::Stalled {
            camera: "http://cam/mjpeg".to_owned(),
            seconds: 2.5,
            received: "nothing".to_owned(),
        };
        let json = serde_json::to_string(&stalled.code()).unwrap();
        assert_eq!(
            json,
            r#"{"code":"stalled","values":{"camera":"http://cam/mjpeg","milliseconds":2500}}"#
        );
    }
}
