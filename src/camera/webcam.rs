//! Finds the video devices of the machine, and selects a device and the mode that is
//! closest to the configured one.
//!
//! Owns the selection; `v4l` reads the device. This module reads `/dev` and `/sys` but
//! opens no device, so that it also works in builds without webcam support.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::SourceError;
#[cfg(any(feature = "camera", test))]
use super::options::{VideoFormat, VideoOptions};
use super::spec::WebcamSelector;
use crate::platform::files;

/// A device file of a video device. A webcam often has two of them: one for pictures and
/// one for metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoDevice {
    /// The number N in `/dev/videoN`.
    pub number: u32,
    /// The name of the device, which is the same for all its files.
    pub name: String,
    /// Index of this file among the files of the device, starting at 0. The file for
    /// pictures has the lowest index.
    pub index: u32,
}

impl VideoDevice {
    /// Returns the path of the file, `/dev/videoN`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/video{}", self.number))
    }
}

impl fmt::Display for VideoDevice {
    /// Writes the path and the name, such as `/dev/video0 (HD Webcam)`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "/dev/video{} ({})", self.number, self.name)
    }
}

/// Lists the video devices of this machine, in the order of their numbers.
#[must_use]
pub fn devices() -> Vec<VideoDevice> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| number(Path::new(&entry.file_name())))
        .collect();
    numbers.sort_unstable();
    numbers.into_iter().map(device).collect()
}

/// Returns the number N in `videoN`, with or without a folder before it.
fn number(path: &Path) -> Option<u32> {
    let digits = path.file_name()?.to_str()?.strip_prefix("video")?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit());
    if canonical { digits.parse().ok() } else { None }
}

fn device(number: u32) -> VideoDevice {
    let read = |file: &str| {
        let path = format!("/sys/class/video4linux/video{number}/{file}");
        files::read_text(Path::new(&path), files::MAX_PROC_BYTES).ok()
    };
    let name = read("name").map(|name| name.trim().to_owned());
    let index = read("index").and_then(|index| index.trim().parse().ok());
    VideoDevice {
        number,
        name: name.unwrap_or_else(|| "no name".to_owned()),
        index: index.unwrap_or(0),
    }
}

/// Describes the devices as part of a sentence.
#[must_use]
pub fn list(devices: &[VideoDevice]) -> String {
    if devices.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = devices.iter().map(VideoDevice::to_string).collect();
    names.join(", ")
}

/// Returns the matching devices in the order in which to try them. The list is never empty.
/// This function opens no device.
///
/// # Errors
/// Returns an error if there is no such webcam, if several webcams have the name, or if
/// this build has no webcam support.
pub fn find(selector: &WebcamSelector) -> Result<Vec<VideoDevice>, SourceError> {
    #[cfg(feature = "camera")]
    return select(selector, &devices());
    #[cfg(not(feature = "camera"))]
    {
        let _ = selector;
        Err(SourceError::NoWebcamSupport)
    }
}

#[cfg(any(feature = "camera", test))]
pub(super) fn select(
    selector: &WebcamSelector,
    devices: &[VideoDevice],
) -> Result<Vec<VideoDevice>, SourceError> {
    let missing = |wanted: String| SourceError::WebcamMissing {
        wanted,
        found: list(devices),
    };
    match selector {
        WebcamSelector::First if devices.is_empty() => Err(missing("webcam".to_owned())),
        WebcamSelector::First => Ok(devices.to_vec()),
        WebcamSelector::Path(path) => {
            let wanted = || missing(format!("webcam {}", path.display()));
            // The path is resolved each time, because a link may point to another device
            // by now.
            let device = path.canonicalize().map_err(|_| wanted())?;
            let number = number(&device).ok_or_else(wanted)?;
            let known = devices.iter().find(|device| device.number == number);
            Ok(vec![known.cloned().ok_or_else(wanted)?])
        }
        WebcamSelector::Name(name) => {
            let named = devices.iter().filter(|device| device.name == *name);
            let first = named.clone().filter(|device| device.index == 0);
            let (named, first): (Vec<VideoDevice>, Vec<VideoDevice>) =
                (named.cloned().collect(), first.cloned().collect());
            match (&named[..], &first[..]) {
                ([], _) => Err(missing(format!("webcam {name:?}"))),
                ([one], _) | (_, [one]) => Ok(vec![one.clone()]),
                _ => Err(SourceError::WebcamAmbiguous {
                    name: name.clone(),
                    matches: list(&named),
                }),
            }
        }
    }
}

/// Returns the error for a read from a webcam that failed with the message `why`.
#[cfg(any(feature = "camera", test))]
pub(super) fn read_error(device: &VideoDevice, why: String) -> SourceError {
    let webcam = device.to_string();
    // ENODEV, the error with which the kernel fails reads from an unplugged device. The
    // file of the device disappears at about the same time.
    let is_gone = why.contains("(os error 19)") || !device.path().exists();
    if is_gone {
        SourceError::WebcamUnplugged { webcam, why }
    } else {
        SourceError::Webcam { webcam, why }
    }
}

/// A mode of a webcam, which is a combination of format, size, and rate that it supports.
#[cfg(any(feature = "camera", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CaptureMode {
    pub(super) format: VideoFormat,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) fps: u32,
}

/// Ranks the modes to try, best first. The format matters most, followed by the size and
/// the rate. The configured mode is tried even if the device does not list it, because
/// some devices do not list all their modes.
#[cfg(any(feature = "camera", test))]
pub(super) fn rank(modes: &[CaptureMode], video: &VideoOptions) -> Vec<CaptureMode> {
    let formats: &[VideoFormat] = match &video.format {
        // MJPEG needs far less USB bandwidth, although the other formats are cheaper to
        // decode.
        VideoFormat::Auto => &[VideoFormat::Mjpeg, VideoFormat::Yuyv, VideoFormat::Nv12],
        one => std::slice::from_ref(one),
    };
    let mut ranked = Vec::new();
    for format in formats {
        let mut modes: Vec<CaptureMode> = modes
            .iter()
            .filter(|mode| mode.format == *format)
            .copied()
            .collect();
        if modes.is_empty() {
            continue;
        }
        modes.push(CaptureMode {
            format: *format,
            width: video.width,
            height: video.height,
            fps: video.fps,
        });
        modes.sort_by_key(|mode| {
            let size = mode.width.abs_diff(video.width) + mode.height.abs_diff(video.height);
            // If two sizes are equally close, the larger one is better.
            let smaller = u64::from(u32::MAX) - u64::from(mode.width);
            (
                size,
                mode.fps.abs_diff(video.fps),
                smaller,
                u32::MAX - mode.fps,
            )
        });
        modes.dedup();
        ranked.extend(modes);
    }
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u32, name: &str, index: u32) -> VideoDevice {
        VideoDevice {
            number,
            name: name.to_owned(),
            index,
        }
    }

    fn numbers(selector: &WebcamSelector, devices: &[VideoDevice]) -> Result<Vec<u32>, String> {
        select(selector, devices)
            .map(|devices| devices.iter().map(|device| device.number).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_video_devices_have_a_number() {
        for (path, expected) in [
            ("/dev/video0", Some(0)),
            ("video12", Some(12)),
            ("video", None),
            ("videocodec", None),
            ("video+1", None),
            ("/dev/video99999999999", None),
            ("/", None),
        ] {
            assert_eq!(number(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn webcam_is_found_by_name_or_the_error_lists_the_devices() {
        let devices = [
            device(0, "HD Webcam", 0),
            device(1, "HD Webcam", 1),
            device(2, "Twin", 0),
            device(4, "Twin", 0),
        ];
        let name = |name: &str| WebcamSelector::Name(name.to_owned());
        assert_eq!(
            numbers(&WebcamSelector::First, &devices),
            Ok(vec![0, 1, 2, 4])
        );
        assert_eq!(numbers(&name("HD Webcam"), &devices), Ok(vec![0]));
        let error = numbers(&name("Twin"), &devices).unwrap_err();
        assert!(
            error.contains("\"Twin\": /dev/video2 (Twin), /dev/video4 (Twin); choose one"),
            "{error}"
        );
        let error = numbers(&name("Twi"), &devices).unwrap_err();
        assert!(
            error.starts_with(
                "no webcam \"Twi\" was found; the video devices are: /dev/video0 (HD Webcam), /dev/video1"
            ),
            "{error}"
        );
        let error = numbers(&WebcamSelector::First, &[]).unwrap_err();
        assert!(
            error.starts_with("no webcam was found; the video devices are: none; plug it in"),
            "{error}"
        );
    }

    #[test]
    fn webcam_is_found_by_a_link_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("video3"), b"").unwrap();
        std::fs::write(path("other"), b"").unwrap();
        std::os::unix::fs::symlink(path("video3"), path("usb-door")).unwrap();
        let devices = [device(3, "Door", 0)];
        let of = |name| numbers(&WebcamSelector::Path(path(name)), &devices);
        assert_eq!(of("video3"), Ok(vec![3]));
        assert_eq!(of("usb-door"), Ok(vec![3]));
        for name in ["other", "none"] {
            let error = of(name).unwrap_err();
            assert!(error.contains("devices are: /dev/video3 (Door)"), "{error}");
        }
        assert!(numbers(&WebcamSelector::Path(path("video3")), &[]).is_err());
    }

    #[test]
    fn a_webcam_that_is_gone_is_told_from_one_that_fails() {
        let none = device(99_999, "HD Webcam", 0);
        let error = read_error(&none, "VIDIOC_DQBUF: timed out".to_owned());
        assert!(error.is_unplugged());
        assert_eq!(
            error.to_string(),
            "the webcam /dev/video99999 (HD Webcam) was unplugged: VIDIOC_DQBUF: timed out"
        );
        let gone = "Failed to capture frame: No such device (os error 19)".to_owned();
        assert!(read_error(&none, gone).is_unplugged());
        let error = select(&WebcamSelector::First, &[]).unwrap_err();
        assert!(error.is_unplugged(), "it was not plugged in again");
        let webcam = none.to_string();
        let why = "it sends nothing".to_owned();
        assert!(!SourceError::Webcam { webcam, why }.is_unplugged());
    }

    #[test]
    fn closest_mode_comes_first() {
        let mode = |format, width, height, fps| CaptureMode {
            format,
            width,
            height,
            fps,
        };
        let modes = [
            mode(VideoFormat::Yuyv, 640, 480, 15),
            mode(VideoFormat::Mjpeg, 1920, 1080, 30),
            mode(VideoFormat::Mjpeg, 640, 360, 30),
            mode(VideoFormat::Mjpeg, 640, 360, 10),
        ];
        let video = VideoOptions::default();
        let wanted = |format| mode(format, 640, 480, 15);
        assert_eq!(
            rank(&modes, &video),
            [
                wanted(VideoFormat::Mjpeg),
                modes[3],
                modes[2],
                modes[1],
                modes[0],
            ],
        );
        let yuyv = VideoOptions {
            format: VideoFormat::Yuyv,
            ..video
        };
        assert_eq!(rank(&modes, &yuyv), [modes[0]]);
        let nv12 = VideoOptions {
            format: VideoFormat::Nv12,
            ..video
        };
        assert_eq!(rank(&modes, &nv12), []);
        // The rates 20 and 10 are equally close to 15.
        let twins = [
            mode(VideoFormat::Yuyv, 640, 480, 10),
            mode(VideoFormat::Yuyv, 640, 480, 20),
        ];
        assert_eq!(rank(&twins, &yuyv)[1..], [twins[1], twins[0]]);
    }
}
