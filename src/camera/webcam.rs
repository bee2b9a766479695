//! Which video devices there are, which of them is meant, and which of its
//! formats comes closest to what was asked for.
//!
//! Owns the choice; reading a device is up to `v4l`. It reads `/dev` and `/sys`
//! and nothing of the devices themselves, so that it works in builds without
//! webcams too.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Choice, SourceError};
#[cfg(any(feature = "camera", test))]
use super::{Format, Video};

/// A file of a video device. A webcam often has two: its pictures, and data about
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// N in `/dev/videoN`.
    pub number: u32,
    /// What the device is called; the same for all its files.
    pub name: String,
    /// Which of the device's files this is, from 0; pictures come first.
    pub part: u32,
}

impl Node {
    /// `/dev/videoN`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/video{}", self.number))
    }
}

impl fmt::Display for Node {
    /// `/dev/video0 (HD Webcam)`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "/dev/video{} ({})", self.number, self.name)
    }
}

/// The video devices that are there, in the order of their numbers.
#[must_use]
pub fn nodes() -> Vec<Node> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| number(Path::new(&entry.file_name())))
        .collect();
    numbers.sort_unstable();
    numbers.into_iter().map(node).collect()
}

/// N of `videoN`, with or without folders in front.
fn number(path: &Path) -> Option<u32> {
    let digits = path.file_name()?.to_str()?.strip_prefix("video")?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit());
    if canonical { digits.parse().ok() } else { None }
}

fn node(number: u32) -> Node {
    let read = |file: &str| {
        let path = format!("/sys/class/video4linux/video{number}/{file}");
        std::fs::read_to_string(path).ok()
    };
    let name = read("name").map(|name| name.trim().to_owned());
    let part = read("index").and_then(|index| index.trim().parse().ok());
    Node {
        number,
        name: name.unwrap_or_else(|| "no name".to_owned()),
        part: part.unwrap_or(0),
    }
}

/// All of `nodes` in a sentence.
#[must_use]
pub fn list(nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = nodes.iter().map(Node::to_string).collect();
    names.join(", ")
}

/// Those of the devices that may be meant, in the order to try them; never none.
/// They are not opened.
///
/// # Errors
/// If there is no such webcam, if several have the name, or if this build cannot
/// read webcams.
pub fn find(choice: &Choice) -> Result<Vec<Node>, SourceError> {
    #[cfg(feature = "camera")]
    return choose(choice, &nodes());
    #[cfg(not(feature = "camera"))]
    {
        let _ = choice;
        Err(SourceError::NoWebcamSupport)
    }
}

/// The formats and sizes of a device in a few words. It is opened for a moment.
///
/// # Errors
/// Why it is no webcam that can be used.
#[cfg(feature = "camera")]
pub fn describe(node: &Node) -> Result<String, String> {
    super::v4l::describe(node)
}

#[cfg(any(feature = "camera", test))]
pub(super) fn choose(choice: &Choice, nodes: &[Node]) -> Result<Vec<Node>, SourceError> {
    let missing = |wanted: String| SourceError::WebcamMissing {
        wanted,
        there: list(nodes),
    };
    match choice {
        Choice::First if nodes.is_empty() => Err(missing("webcam".to_owned())),
        Choice::First => Ok(nodes.to_vec()),
        Choice::Path(path) => {
            let wanted = || missing(format!("webcam {}", path.display()));
            // A link is followed anew at each opening.
            let device = path.canonicalize().map_err(|_| wanted())?;
            let number = number(&device).ok_or_else(wanted)?;
            let known = nodes.iter().find(|node| node.number == number);
            Ok(vec![known.cloned().ok_or_else(wanted)?])
        }
        Choice::Name(name) => {
            let named = nodes.iter().filter(|node| node.name == *name);
            let first = named.clone().filter(|node| node.part == 0);
            let (named, first): (Vec<Node>, Vec<Node>) =
                (named.cloned().collect(), first.cloned().collect());
            match (&named[..], &first[..]) {
                ([], _) => Err(missing(format!("webcam {name:?}"))),
                ([one], _) | (_, [one]) => Ok(vec![one.clone()]),
                _ => Err(SourceError::WebcamAmbiguous {
                    name: name.clone(),
                    there: list(&named),
                }),
            }
        }
    }
}

/// One way in which a webcam can give its pictures.
#[cfg(any(feature = "camera", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) format: Format,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) fps: u32,
}

/// What to ask a webcam for, best first: the format counts most, then the size,
/// then the rate. What was asked for is tried even if it is not offered, since
/// not every device lists all that it can do.
#[cfg(any(feature = "camera", test))]
pub(super) fn rank(offers: &[Offer], video: &Video) -> Vec<Offer> {
    let formats: &[Format] = match &video.format {
        // Much less to carry over USB; the others cost less to decode.
        Format::Auto => &[Format::Mjpeg, Format::Yuyv, Format::Nv12],
        one => std::slice::from_ref(one),
    };
    let mut ranked = Vec::new();
    for format in formats {
        let mut offers: Vec<Offer> = offers
            .iter()
            .filter(|offer| offer.format == *format)
            .copied()
            .collect();
        if offers.is_empty() {
            continue;
        }
        offers.push(Offer {
            format: *format,
            width: video.width,
            height: video.height,
            fps: video.fps,
        });
        offers.sort_by_key(|offer| {
            let size = offer.width.abs_diff(video.width) + offer.height.abs_diff(video.height);
            // Of two that are as close the larger is the better.
            let smaller = u64::from(u32::MAX) - u64::from(offer.width);
            (
                size,
                offer.fps.abs_diff(video.fps),
                smaller,
                u32::MAX - offer.fps,
            )
        });
        offers.dedup();
        ranked.extend(offers);
    }
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_node(number: u32, name: &str, part: u32) -> Node {
        Node {
            number,
            name: name.to_owned(),
            part,
        }
    }

    fn numbers(choice: &Choice, nodes: &[Node]) -> Result<Vec<u32>, String> {
        choose(choice, nodes)
            .map(|nodes| nodes.iter().map(|node| node.number).collect())
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
    fn webcam_is_chosen_by_name_or_told_what_is_there() {
        let nodes = [
            a_node(0, "HD Webcam", 0),
            a_node(1, "HD Webcam", 1),
            a_node(2, "Twin", 0),
            a_node(4, "Twin", 0),
        ];
        let name = |name: &str| Choice::Name(name.to_owned());
        assert_eq!(numbers(&Choice::First, &nodes), Ok(vec![0, 1, 2, 4]));
        assert_eq!(numbers(&name("HD Webcam"), &nodes), Ok(vec![0]));
        let error = numbers(&name("Twin"), &nodes).unwrap_err();
        assert!(
            error.contains("\"Twin\": /dev/video2 (Twin), /dev/video4 (Twin); name one"),
            "{error}"
        );
        let error = numbers(&name("Twi"), &nodes).unwrap_err();
        assert!(
            error.starts_with(
                "no webcam \"Twi\" was found; the video devices are: /dev/video0 (HD Webcam), /dev/video1"
            ),
            "{error}"
        );
        let error = numbers(&Choice::First, &[]).unwrap_err();
        assert!(
            error.starts_with("no webcam was found; the video devices are: none; plug it in"),
            "{error}"
        );
    }

    #[test]
    fn webcam_is_chosen_by_a_link_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("video3"), b"").unwrap();
        std::fs::write(path("other"), b"").unwrap();
        std::os::unix::fs::symlink(path("video3"), path("usb-door")).unwrap();
        let nodes = [a_node(3, "Door", 0)];
        let of = |name| numbers(&Choice::Path(path(name)), &nodes);
        assert_eq!(of("video3"), Ok(vec![3]));
        assert_eq!(of("usb-door"), Ok(vec![3]));
        for name in ["other", "none"] {
            let error = of(name).unwrap_err();
            assert!(error.contains("devices are: /dev/video3 (Door)"), "{error}");
        }
        assert!(numbers(&Choice::Path(path("video3")), &[]).is_err());
    }

    #[test]
    fn closest_offer_comes_first() {
        let offer = |format, width, height, fps| Offer {
            format,
            width,
            height,
            fps,
        };
        let offers = [
            offer(Format::Yuyv, 640, 480, 15),
            offer(Format::Mjpeg, 1920, 1080, 30),
            offer(Format::Mjpeg, 640, 360, 30),
            offer(Format::Mjpeg, 640, 360, 10),
        ];
        let video = Video::default();
        let wanted = |format| offer(format, 640, 480, 15);
        assert_eq!(
            rank(&offers, &video),
            [
                wanted(Format::Mjpeg),
                offers[3],
                offers[2],
                offers[1],
                offers[0],
            ],
        );
        let yuyv = Video {
            format: Format::Yuyv,
            ..video
        };
        assert_eq!(rank(&offers, &yuyv), [offers[0]]);
        let nv12 = Video {
            format: Format::Nv12,
            ..video
        };
        assert_eq!(rank(&offers, &nv12), []);
        // 20 and 10 are as close to 15.
        let twins = [
            offer(Format::Yuyv, 640, 480, 10),
            offer(Format::Yuyv, 640, 480, 20),
        ];
        assert_eq!(rank(&twins, &yuyv)[1..], [twins[1], twins[0]]);
    }
}
