//! Reads webcams through V4L2. This is the only module that uses nokhwa.
//!
//! This module sets the format of a device and reads its pictures. Its functions block
//! for as long as the driver blocks, so `device_reader` calls them in a separate thread.

use nokhwa::NokhwaError;
use nokhwa::utils::{
    ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType,
};

use super::device_reader::{Device, OpenedDevice};
use super::error::SourceError;
use super::options::{StreamFormat, VideoFormat, VideoOptions};
use super::spec::WebcamSelector;
use super::webcam::{CaptureMode, VideoDevice, find, rank, read_error};
use crate::frame::yuv::{Layout, Range, YuvFormat};
use crate::platform::text::counted;

const NO_READABLE_FORMAT: &str = "it offers no format that maskd can read";

/// The formats that can be decoded, best first.
const FORMATS: [(VideoFormat, FrameFormat); 3] = [
    (VideoFormat::Mjpeg, FrameFormat::MJPEG),
    (VideoFormat::Yuyv, FrameFormat::YUYV),
    (VideoFormat::Nv12, FrameFormat::NV12),
];

/// Maximum number of modes to try. A device may refuse modes that it lists, so several
/// modes are tried.
const MAX_ATTEMPTS: usize = 12;

/// An open device.
pub(super) struct Webcam {
    device: VideoDevice,
    camera: nokhwa::Camera,
}

/// Opens the selected webcam in the mode that is closest to the requested mode.
pub(super) fn open(
    selector: &WebcamSelector,
    video: &VideoOptions,
) -> Result<OpenedDevice<Webcam>, SourceError> {
    let candidates = find(selector)?;
    let mut refusals = Vec::new();
    for device in &candidates {
        match open_device(device, video) {
            Ok(opened) => return Ok(opened),
            Err(why) => refusals.push((device, why)),
        }
    }
    // The first candidate is most likely the webcam, so its error is reported. The other
    // candidates, such as the codecs of a Raspberry Pi, fail with different errors.
    let (webcam, why) = refusals
        .into_iter()
        .next()
        .map_or_else(Default::default, |(device, why)| (device.to_string(), why));
    let more = candidates.len().saturating_sub(1);
    let why = match more {
        0 => why,
        _ => format!(
            "{why} (also unusable: {})",
            counted(more, "other video device")
        ),
    };
    Err(SourceError::Webcam { webcam, why })
}

fn open_device(device: &VideoDevice, video: &VideoOptions) -> Result<OpenedDevice<Webcam>, String> {
    let mut camera = connect(device)?;
    let modes = modes(&mut camera);
    let mut why = match video.format {
        VideoFormat::Auto => NO_READABLE_FORMAT.to_owned(),
        format => format!("it does not offer {format}"),
    };
    for mode in rank(&modes, video).into_iter().take(MAX_ATTEMPTS) {
        let Some((_, frame_format)) = FORMATS.iter().find(|(format, _)| *format == mode.format)
        else {
            continue;
        };
        let CaptureMode {
            format,
            width,
            height,
            fps,
        } = mode;
        let wanted = CameraFormat::new_from(width, height, *frame_format, fps);
        #[expect(
            deprecated,
            reason = "its successor queries all formats again, and fails if the device cannot \
                      list the sizes of an unneeded format"
        )]
        let set = camera.set_camera_format(wanted);
        if let Err(error) = set {
            tracing::debug!(%device, %format, width, height, fps, %error, "webcam refused a format");
            why = sentence(&error);
            continue;
        }
        camera.open_stream().map_err(|error| sentence(&error))?;
        // Limited range is the default for YUV in V4L2.
        let raw = |layout| YuvFormat::new(layout, Range::Limited, width, height);
        let stream = match format {
            VideoFormat::Yuyv => raw(Layout::Yuyv).map(StreamFormat::Raw),
            VideoFormat::Nv12 => raw(Layout::Nv12).map(StreamFormat::Raw),
            VideoFormat::Auto | VideoFormat::Mjpeg | VideoFormat::Yuv420 => Ok(StreamFormat::Mjpeg),
        };
        let stream = stream.map_err(|error| error.to_string())?;
        tracing::info!(webcam = %device, %format, width, height, fps, "webcam opened");
        let device = device.clone();
        return Ok((Webcam { device, camera }, stream));
    }
    Err(why)
}

/// Describes the formats and sizes of a device in a few words. This function opens the
/// device briefly.
///
/// # Errors
/// Returns the reason that the device is not a usable webcam.
pub fn describe(device: &VideoDevice) -> Result<String, String> {
    let modes = modes(&mut connect(device)?);
    let mut parts = Vec::new();
    for (format, _) in FORMATS {
        let mut sizes: Vec<(u32, u32)> = modes
            .iter()
            .filter(|mode| mode.format == format)
            .map(|mode| (mode.width, mode.height))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let sizes: Vec<String> = sizes.iter().map(|(w, h)| format!("{w}x{h}")).collect();
        if !sizes.is_empty() {
            parts.push(format!("{format} {}", sizes.join(" ")));
        }
    }
    if parts.is_empty() {
        return Err(NO_READABLE_FORMAT.to_owned());
    }
    Ok(parts.join("; "))
}

fn connect(device: &VideoDevice) -> Result<nokhwa::Camera, String> {
    let formats = FORMATS.map(|(_, format)| format);
    let any = RequestedFormat::with_formats(RequestedFormatType::None, &formats);
    let index = CameraIndex::Index(device.number);
    nokhwa::Camera::with_backend(index, any, ApiBackend::Video4Linux)
        .map_err(|error| sentence(&error))
}

/// Returns the modes of a device. If the device fails to list the sizes of a format, the
/// format is treated as unavailable.
fn modes(camera: &mut nokhwa::Camera) -> Vec<CaptureMode> {
    let mut modes = Vec::new();
    for (format, frame_format) in FORMATS {
        let sizes = camera.compatible_list_by_resolution(frame_format);
        for (size, rates) in sizes.into_iter().flatten() {
            modes.extend(rates.into_iter().map(|fps| CaptureMode {
                format,
                width: size.width(),
                height: size.height(),
                fps,
            }));
        }
    }
    modes
}

/// Returns nokhwa's message on one line.
fn sentence(error: &NokhwaError) -> String {
    let words = error.to_string();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Device for Webcam {
    // nokhwa returns the whole buffer even if the driver has filled only a part of it and
    // has marked it as faulty. If the option `nodrop` of the UVC driver is 0, which was
    // the default before Linux 6.14, the driver drops such pictures itself. Otherwise, an
    // uncompressed picture may end with lines of an earlier picture.
    fn read(&mut self) -> Result<Vec<u8>, SourceError> {
        match self.camera.frame_raw() {
            Ok(bytes) => Ok(bytes.into_owned()),
            Err(error) => Err(read_error(&self.device, sentence(&error))),
        }
    }
}
