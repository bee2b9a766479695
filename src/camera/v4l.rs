//! Webcams: the only user of nokhwa.
//!
//! Owns asking a device for a format and fetching its buffers. It blocks as long
//! as the driver does: `watched` calls it in a thread of its own.

use nokhwa::NokhwaError;
use nokhwa::utils::{
    ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType,
};

use super::watched::{Device, Opened};
use super::webcam::{Node, Offer, find, rank};
use super::{Choice, Format, SourceError, StreamFormat, Video};
use crate::frame::yuv::{Layout, Range, YuvFormat};

/// The formats that can be decoded, best first.
const FORMATS: [(Format, FrameFormat); 3] = [
    (Format::Mjpeg, FrameFormat::MJPEG),
    (Format::Yuyv, FrameFormat::YUYV),
    (Format::Nv12, FrameFormat::NV12),
];

/// A device may refuse what it offers; after so many refusals it is given up.
const MAX_ATTEMPTS: usize = 12;

/// A device that gives pictures.
pub(super) struct Webcam {
    node: Node,
    camera: nokhwa::Camera,
}

/// Opens the webcam that is meant, with the format that comes closest.
pub(super) fn open(choice: &Choice, video: &Video) -> Result<Opened<Webcam>, SourceError> {
    let candidates = find(choice)?;
    let mut refusals = Vec::new();
    for node in &candidates {
        match open_node(node, video) {
            Ok(opened) => return Ok(opened),
            Err(why) => refusals.push((node, why)),
        }
    }
    // The other files of a Raspberry Pi's video hardware refuse each in its own
    // way; the first is most likely the webcam.
    let (webcam, why) = refusals
        .into_iter()
        .next()
        .map_or_else(Default::default, |(node, why)| (node.to_string(), why));
    let more = candidates.len().saturating_sub(1);
    let why = match more {
        0 => why,
        _ => format!("{why}; nor can any of {more} other devices be used"),
    };
    Err(SourceError::Webcam { webcam, why })
}

fn open_node(node: &Node, video: &Video) -> Result<Opened<Webcam>, String> {
    let mut camera = connect(node)?;
    let offers = offers(&mut camera);
    let mut why = match video.format {
        Format::Auto => "it offers no format that maskd can read".to_owned(),
        format => format!("it does not offer {format}"),
    };
    for offer in rank(&offers, video).into_iter().take(MAX_ATTEMPTS) {
        let Some((_, frame_format)) = FORMATS.iter().find(|(format, _)| *format == offer.format)
        else {
            continue;
        };
        let Offer {
            format,
            width,
            height,
            fps,
        } = offer;
        let wanted = CameraFormat::new_from(width, height, *frame_format, fps);
        #[expect(
            deprecated,
            reason = "its successor asks the device for all its formats again, and fails if it \
                      cannot tell the sizes of one that nobody wants"
        )]
        let set = camera.set_camera_format(wanted);
        if let Err(error) = set {
            tracing::debug!(%node, %format, width, height, fps, %error, "webcam refused a format");
            why = sentence(&error);
            continue;
        }
        camera.open_stream().map_err(|error| sentence(&error))?;
        // Limited range is V4L2's default for YUV.
        let raw = |layout| YuvFormat::new(layout, Range::Limited, width, height);
        let stream = match format {
            Format::Yuyv => raw(Layout::Yuyv).map(StreamFormat::Raw),
            Format::Nv12 => raw(Layout::Nv12).map(StreamFormat::Raw),
            Format::Auto | Format::Mjpeg | Format::Yuv420 => Ok(StreamFormat::Mjpeg),
        };
        let stream = stream.map_err(|error| error.to_string())?;
        tracing::info!(webcam = %node, %format, width, height, fps, "webcam opened");
        let node = node.clone();
        return Ok((Webcam { node, camera }, stream));
    }
    Err(why)
}

/// The formats and sizes of a device, in a few words.
///
/// # Errors
/// Why it is no webcam that can be used.
pub(super) fn describe(node: &Node) -> Result<String, String> {
    let offers = offers(&mut connect(node)?);
    let mut parts = Vec::new();
    for (format, _) in FORMATS {
        let mut sizes: Vec<(u32, u32)> = offers
            .iter()
            .filter(|offer| offer.format == format)
            .map(|offer| (offer.width, offer.height))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let sizes: Vec<String> = sizes.iter().map(|(w, h)| format!("{w}x{h}")).collect();
        if !sizes.is_empty() {
            parts.push(format!("{format} {}", sizes.join(" ")));
        }
    }
    if parts.is_empty() {
        return Err("it offers no format that maskd can read".to_owned());
    }
    Ok(parts.join("; "))
}

fn connect(node: &Node) -> Result<nokhwa::Camera, String> {
    let formats = FORMATS.map(|(_, format)| format);
    let any = RequestedFormat::with_formats(RequestedFormatType::None, &formats);
    let index = CameraIndex::Index(node.number);
    nokhwa::Camera::with_backend(index, any, ApiBackend::Video4Linux)
        .map_err(|error| sentence(&error))
}

/// A format that the device cannot tell about is one that it does not offer.
fn offers(camera: &mut nokhwa::Camera) -> Vec<Offer> {
    let mut offers = Vec::new();
    for (format, frame_format) in FORMATS {
        let sizes = camera.compatible_list_by_resolution(frame_format);
        for (size, rates) in sizes.into_iter().flatten() {
            offers.extend(rates.into_iter().map(|fps| Offer {
                format,
                width: size.width(),
                height: size.height(),
                fps,
            }));
        }
    }
    offers
}

/// nokhwa's own words, on one line.
fn sentence(error: &NokhwaError) -> String {
    let words = error.to_string();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Device for Webcam {
    fn read(&mut self) -> Result<Vec<u8>, SourceError> {
        match self.camera.frame_raw() {
            Ok(bytes) => Ok(bytes.into_owned()),
            Err(error) => Err(SourceError::Webcam {
                webcam: self.node.to_string(),
                why: sentence(&error),
            }),
        }
    }
}
