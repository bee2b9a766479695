//! Why a source gives no frames.

use super::spec::SpecError;
use crate::frame::PictureError;

/// Why a source yields no frames. Each message is one sentence that says what
/// failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The configured text names no usable source.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The path does not exist, or may not be read.
    #[error(
        "cannot open the picture or folder {path}: {error}; check the path of the camera source, or write http:// before it if it is the address of a camera"
    )]
    Path {
        /// As configured.
        path: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The path is a device, a pipe or a socket.
    #[error("{path} is neither a picture nor a folder; to use a webcam, write webcam:/dev/video0")]
    NoFile {
        /// As configured.
        path: String,
    },
    /// A folder without a file that is named like a picture.
    #[error(
        "the folder {path} holds no pictures; add files that end in .jpg, .jpeg, .png, .webp, .bmp, .gif, .tif or .tiff"
    )]
    NoPictures {
        /// As configured.
        path: String,
    },
    /// The one picture cannot be used.
    #[error(
        "cannot use the picture {path}: {why}; choose another picture, or play a video with exec:ffmpeg -re -i FILE -f mjpeg -"
    )]
    Picture {
        /// As configured.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// No picture of a folder can be used.
    #[error(
        "none of the {count} pictures of {source_name} can be used (the last one: {why}); replace them"
    )]
    Pictures {
        /// The folder as configured, or `examples`.
        source_name: String,
        /// Number of pictures.
        count: usize,
        /// What is wrong with the last one.
        why: String,
    },
    /// Webcams are not compiled in.
    #[error(
        "this build of maskd has no webcam support; install libclang-dev and build with --features camera, or read the webcam with ffmpeg, as in exec:ffmpeg -f v4l2 -i /dev/video0 -f mjpeg -"
    )]
    NoWebcamSupport,
    /// No webcam matches the configured one.
    #[error(
        "no {wanted} was found; the video devices are: {found}; plug it in, or change the camera source"
    )]
    WebcamMissing {
        /// `webcam /dev/video0`.
        wanted: String,
        /// The devices that were found.
        found: String,
    },
    /// Several webcams have the configured name.
    #[error(
        "several webcams are named {name:?}: {matches}; choose one by its path, such as webcam:/dev/video0 or one of /dev/v4l/by-id"
    )]
    WebcamAmbiguous {
        /// As configured.
        name: String,
        /// The webcams with that name.
        matches: String,
    },
    /// The webcam cannot be opened or read.
    #[error(
        "cannot use the webcam {webcam}: {why}; check that it is plugged in, that no other program uses it, and that this user is in the group video"
    )]
    Webcam {
        /// Its path and name.
        webcam: String,
        /// What the driver or the system reported.
        why: String,
    },
    /// The thread that reads a webcam cannot be started.
    #[error(
        "cannot start the thread that reads the webcam {webcam}: {error}; check the system's limit on threads"
    )]
    WebcamThread {
        /// As configured.
        webcam: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The camera program is installed under neither of its names.
    #[error(
        "neither rpicam-vid nor libcamera-vid was found; install rpicam-apps-lite (Raspberry Pi OS), or read the camera with another program through exec:"
    )]
    RpicamMissing,
    /// Raw pictures cannot have the configured size.
    #[error("cannot read raw pictures: {0}; change camera.width and camera.height")]
    Raw(#[from] PictureError),
    /// The program was not found.
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
        /// The system's error.
        error: std::io::Error,
    },
    /// The program's output cannot be read.
    #[error("cannot read the output of camera command {program:?}: {error}; it is restarted")]
    CommandRead {
        /// The first word of the command.
        program: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// The program ended otherwise than at the end of a video.
    #[error("camera command {program:?} ended with {status}: {reason}")]
    CommandEnded {
        /// The first word of the command.
        program: String,
        /// `exit status 1`, `signal 9`.
        status: String,
        /// The last lines of its standard error, or what to do if there are none.
        reason: String,
    },
    /// The program closed its output without ending.
    #[error(
        "camera command {program:?} closed its output but keeps running{errors}; it must write pictures to its standard output until it ends"
    )]
    CommandClosed {
        /// The first word of the command.
        program: String,
        /// The last lines of its standard error, as the end of a sentence.
        errors: String,
    },
    /// No picture came within the allowed time.
    #[error(
        "no picture came from {camera} for {seconds:.1} s: {received}; check the camera, or raise camera.stall-ms"
    )]
    Stalled {
        /// URL or command.
        camera: String,
        /// How long, in seconds.
        seconds: f32,
        /// What came instead.
        received: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the connection to {url}: {why}; check the system's limits")]
    HttpClient {
        /// The URL, redacted.
        url: String,
        /// The system's error.
        why: String,
    },
    /// The camera cannot be reached, or the connection broke.
    #[error("cannot read {url}: {why}; check that the camera is on and that the address is right")]
    Http {
        /// The URL, redacted.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The certificate of the camera is not accepted.
    #[error(
        "the certificate of {url} {why}; if the camera itself shows the SHA-256 fingerprint {fingerprint}, set camera.tls-fingerprint to it, or name the camera's certificate or its authority in camera.ca-file"
    )]
    Certificate {
        /// The address, redacted.
        url: String,
        /// Why, as the rest of a sentence about the certificate.
        why: String,
        /// The SHA-256 of the certificate, in hexadecimal.
        fingerprint: String,
    },
    /// The file with trusted certificates cannot be used.
    #[error("cannot use the certificates in {path}: {why}; check camera.ca-file")]
    CaFile {
        /// As configured.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The camera requires a login, and none is configured.
    #[error(
        "{url} answered {status}; write user and password into the address, as in http://USER:PASSWORD@HOST/PATH, with / in a password as %2F, : as %3A, @ as %40 and % as %25"
    )]
    HttpLogin {
        /// The address, redacted.
        url: String,
        /// `401 Unauthorized`.
        status: String,
    },
    /// The camera refuses the login.
    #[error(
        "{url} answered {status} to the user name and password; check both, and that the camera allows this user to see its pictures; write letters other than those of ASCII in the camera's own encoding, such as %E4 or %C3%A4"
    )]
    HttpRefused {
        /// The address, redacted.
        url: String,
        /// `401 Unauthorized`.
        status: String,
    },
    /// The camera requires a login of a kind that is not supported.
    #[error(
        "{url} asks for a login of a kind that maskd does not support ({methods}); set the camera to Digest or Basic authentication, or read it with ffmpeg or curl through exec:"
    )]
    HttpLoginMethod {
        /// The address, redacted.
        url: String,
        /// The kinds that the camera offers.
        methods: String,
    },
    /// Another host asks for a login.
    #[error(
        "{url}, and the login is not sent there; if that host is the camera, write its address into camera.source"
    )]
    HttpOtherHost {
        /// The address and that of the redirect, redacted.
        url: String,
    },
    /// The camera answered with an error.
    #[error(
        "{url} answered {status}, not 200 OK; check the path of the address in the camera's manual"
    )]
    HttpStatus {
        /// The URL, redacted.
        url: String,
        /// `404 Not Found`.
        status: String,
    },
    /// The camera cannot answer now.
    #[error(
        "{url} answered {status}; check whether other programs use the camera, because many serve only a few at a time, or restart the camera"
    )]
    HttpBusy {
        /// The address, redacted.
        url: String,
        /// `503 Service Unavailable`.
        status: String,
    },
    /// The camera sent something other than a picture.
    #[error(
        "{url} sends {content_type} without a JPEG picture ({received}); find the address of the MJPEG stream or of a JPEG picture in the camera's manual"
    )]
    HttpNoPicture {
        /// The address, redacted.
        url: String,
        /// The `Content-Type` of the answer.
        content_type: String,
        /// What came.
        received: String,
    },
    /// The camera ended the stream.
    #[error("the stream {url} ended ({received}); check the camera and the network")]
    HttpEnded {
        /// The address, redacted.
        url: String,
        /// What came before.
        received: String,
    },
}

impl SourceError {
    /// Whether files are missing or unusable (exit code 66); any other error is a
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
}
