//! Uses pictures as a camera: a file, a folder, or the built-in examples.
//!
//! This module determines the pace. A decision needs several frames that agree. Therefore,
//! each picture is returned as several frames in a row, just as a camera would show a
//! person who stands at the door.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::RgbImage;
use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::options::CameraOptions;
use super::source::{Source, now, sleep_until};
use crate::frame::decoding::{decode, list, read};
use crate::frame::{ConnectionId, Frame};

/// Frames per second while a picture is shown.
const FRAMES_PER_SECOND: f64 = 10.0;

/// A built-in picture.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// The file name, which is used in messages.
    pub name: &'static str,
    /// The content of the JPEG file.
    pub bytes: &'static [u8],
}

/// The built-in pictures, which are photographs of people with and without masks.
pub static EXAMPLES: [Example; 6] = [
    Example {
        name: "maksssksksss5.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss5.jpg"),
    },
    Example {
        name: "maksssksksss128.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss128.jpg"),
    },
    Example {
        name: "maksssksksss18.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss18.jpg"),
    },
    Example {
        name: "maksssksksss249.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss249.jpg"),
    },
    Example {
        name: "maksssksksss120.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss120.jpg"),
    },
    Example {
        name: "maksssksksss39.jpg",
        bytes: include_bytes!("../../assets/frames/maksssksksss39.jpg"),
    },
];

/// A source that shows pictures one after another.
pub struct PictureSource {
    origin: Origin,
    pictures: Vec<Picture>,
    /// Index in `pictures` of the next picture.
    next: usize,
    repeat: bool,
    stop: CancellationToken,

    frames_per_picture: u32,
    interval: Duration,
    /// The time at which the next frame is due; `None` before the first frame.
    due: Option<Instant>,
    current: Option<RgbImage>,
    /// Number of times that `current` will still be returned as a frame.
    frames_left: u32,
    seq: u64,

    first_round: bool,
    /// Number of pictures in the current round that could be read.
    readable: usize,
}

enum Origin {
    Memory,
    File(PathBuf),
    Folder(PathBuf),
}

#[derive(Clone)]
enum Picture {
    Memory(&'static [u8]),
    File(PathBuf),
}

impl Picture {
    fn load(&self) -> Result<RgbImage, String> {
        let decode = |bytes: &[u8]| decode(bytes).map_err(|error| error.to_string());
        match self {
            Picture::Memory(bytes) => decode(bytes),
            Picture::File(path) => decode(&read(path).map_err(|error| error.to_string())?),
        }
    }
}

impl PictureSource {
    /// Opens the picture at `path` or, if `path` is a folder, the pictures in it.
    ///
    /// # Errors
    /// Returns an error if the path does not exist, or if there is no readable picture.
    pub fn open(
        path: &Path,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<PictureSource, SourceError> {
        let metadata = path.metadata().map_err(|error| path_error(path, error))?;
        let origin = if metadata.is_dir() {
            Origin::Folder(path.to_owned())
        } else if metadata.is_file() {
            Origin::File(path.to_owned())
        } else {
            return Err(SourceError::NoFile {
                path: path.display().to_string(),
            });
        };
        PictureSource::new(origin, Vec::new(), options, stop)
    }

    /// Opens picture files that are in memory.
    ///
    /// # Errors
    /// Returns an error if none of the pictures is readable.
    pub fn from_memory(
        pictures: impl IntoIterator<Item = &'static [u8]>,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<PictureSource, SourceError> {
        let pictures = pictures.into_iter().map(Picture::Memory).collect();
        PictureSource::new(Origin::Memory, pictures, options, stop)
    }

    fn new(
        origin: Origin,
        pictures: Vec<Picture>,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<PictureSource, SourceError> {
        let (frames_per_picture, interval) = pace(options.rate);
        let mut source = PictureSource {
            origin,
            pictures,
            next: 0,
            repeat: options.repeat,
            stop,
            frames_per_picture,
            interval,
            due: None,
            current: None,
            frames_left: 0,
            seq: 0,
            first_round: true,
            readable: 0,
        };
        source.start_round()?;
        source.advance()?;
        Ok(source)
    }

    /// Starts a round with the pictures that exist now.
    fn start_round(&mut self) -> Result<(), SourceError> {
        match &self.origin {
            Origin::Memory => {}
            Origin::File(path) => self.pictures = vec![Picture::File(path.clone())],
            Origin::Folder(folder) => {
                let pictures = list(folder).map_err(|error| path_error(folder, error))?;
                if pictures.is_empty() {
                    return Err(SourceError::NoPictures {
                        path: folder.display().to_string(),
                    });
                }
                self.pictures = pictures.into_iter().map(Picture::File).collect();
            }
        }
        self.next = 0;
        self.readable = 0;
        Ok(())
    }

    /// Loads the next readable picture. Returns false if no picture is left or a stop was
    /// requested.
    fn advance(&mut self) -> Result<bool, SourceError> {
        loop {
            let mut last_error = String::new();
            while let Some(picture) = self.pictures.get(self.next) {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                self.next += 1;
                match picture.load() {
                    Ok(pixels) => {
                        self.current = Some(pixels);
                        self.frames_left = self.frames_per_picture;
                        self.readable += 1;
                        return Ok(true);
                    }
                    Err(error) => {
                        self.log_skipped(picture, &error);
                        last_error = error;
                    }
                }
            }
            if self.readable == 0 {
                return Err(self.none_readable(last_error));
            }
            if !self.repeat {
                return Ok(false);
            }
            self.first_round = false;
            self.start_round()?;
        }
    }

    /// Logs that a picture was skipped. The path is logged only at the debug level,
    /// because pictures are often named after the people in them.
    fn log_skipped(&self, picture: &Picture, error: &str) {
        let (number, of) = (self.next, self.pictures.len());
        if let Picture::File(path) = picture {
            tracing::debug!(number, path = %path.display(), error, "picture skipped");
        }
        // If there is only one picture and it fails, the failure is returned as an error.
        if self.first_round && of > 1 {
            tracing::warn!(number, of, error, "picture of the folder skipped");
        }
    }

    fn none_readable(&self, why: String) -> SourceError {
        let count = self.pictures.len();
        match &self.origin {
            Origin::Memory => SourceError::Pictures {
                source_name: "examples".to_owned(),
                count,
                why,
            },
            Origin::File(path) => SourceError::Picture {
                path: path.display().to_string(),
                why,
            },
            Origin::Folder(path) => SourceError::Pictures {
                source_name: path.display().to_string(),
                count,
                why,
            },
        }
    }
}

impl Source for PictureSource {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        // The next picture is decoded before the wait, so that decoding does not delay
        // the frame.
        let more = self.frames_left > 0 || self.advance()?;
        // This function also waits after the last frame, so that the last frame is shown
        // as long as the other frames.
        let due = self.due.unwrap_or_else(now);
        if !sleep_until(due, &self.stop) || !more {
            return Ok(None);
        }
        let at = now();
        self.due = Some(next_due(due, at, self.interval));
        self.frames_left -= 1;
        let pixels = if self.frames_left == 0 {
            self.current.take()
        } else {
            self.current.clone()
        };
        let seq = self.seq;
        self.seq += 1;
        Ok(pixels.map(|pixels| Frame {
            pixels,
            at,
            seq,
            connection: ConnectionId::default(),
        }))
    }
}

fn path_error(path: &Path, error: io::Error) -> SourceError {
    SourceError::Path {
        path: path.display().to_string(),
        error,
    }
}

/// Returns the number of frames per picture and the time between frames for `rate`
/// pictures per second.
fn pace(rate: f32) -> (u32, Duration) {
    let rate = if rate.is_nan() {
        1.0
    } else {
        f64::from(rate).clamp(0.001, 1000.0)
    };
    // In binary floating point, a rate such as 0.1 is slightly too high, so the quotient
    // may be slightly below a whole number. The added fraction prevents rounding it down
    // to one frame fewer.
    let frames = (FRAMES_PER_SECOND / rate + 1e-3).floor().max(1.0);
    (frames as u32, Duration::from_secs_f64(1.0 / rate / frames))
}

/// Returns the time at which the next frame is due. The previous frame was due at `due`
/// and was returned at `at`.
///
/// Normally, the result is `due` plus `interval`, so that small delays do not add up. If
/// the previous frame was late by `interval` or more, the schedule starts over at `at`,
/// so that no burst of frames follows.
fn next_due(due: Instant, at: Instant, interval: Duration) -> Instant {
    let on_time = at.saturating_duration_since(due) < interval;
    if on_time {
        due + interval
    } else {
        at + interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rate: f32, repeat: bool) -> CameraOptions {
        CameraOptions {
            rate,
            repeat,
            stall: Duration::from_secs(1),
            max_frame_bytes: 1 << 20,
            max_frame_pixels: 9_000_000,
            video: crate::camera::VideoOptions::default(),
            tls: crate::camera::TlsTrust::default(),
        }
    }

    fn stop() -> CancellationToken {
        CancellationToken::new()
    }

    fn write_png(path: &Path, side: u32) {
        RgbImage::new(side, side)
            .save_with_format(path, image::ImageFormat::Png)
            .unwrap();
    }

    #[test]
    fn rate_becomes_frames_and_interval() {
        for (rate, frames, milliseconds) in [
            (1.0, 10, 100),
            (0.1, 100, 100),
            (3.0, 3, 111),
            (10.0, 1, 100),
            (20.0, 1, 50),
            (f32::INFINITY, 1, 1),
            (f32::NAN, 10, 100),
            (0.0, 10_000, 100),
            (-1.0, 10_000, 100),
        ] {
            let (each, interval) = pace(rate);
            let rounded = (interval.as_micros() + 500) / 1000;
            assert_eq!((each, rounded), (frames, milliseconds), "{rate}");
        }
    }

    #[test]
    fn examples_are_readable_and_come_in_order() {
        let pictures = EXAMPLES.iter().map(|example| example.bytes);
        let mut source =
            PictureSource::from_memory(pictures, &options(1000.0, false), stop()).unwrap();
        for (seq, example) in EXAMPLES.iter().enumerate() {
            let frame = source.next().unwrap().unwrap();
            assert_eq!(frame.seq, seq as u64);
            assert_eq!(
                frame.pixels,
                decode(example.bytes).unwrap(),
                "{}",
                example.name
            );
        }
        assert!(source.next().unwrap().is_none());
        assert!(source.next().unwrap().is_none());
    }

    #[test]
    fn unreadable_pictures_are_skipped_and_the_rest_shown_again() {
        let folder = tempfile::tempdir().unwrap();
        write_png(&folder.path().join("1.png"), 3);
        std::fs::write(folder.path().join("2.jpg"), b"no picture").unwrap();
        std::fs::write(folder.path().join("3.jpg"), b"").unwrap();
        write_png(&folder.path().join("4.png"), 5);
        let mut source =
            PictureSource::open(folder.path(), &options(1000.0, true), stop()).unwrap();
        let mut side = || source.next().unwrap().unwrap().pixels.width();
        assert_eq!([side(), side(), side(), side()], [3, 5, 3, 5]);
        // A new file is shown from the next round onward.
        write_png(&folder.path().join("5.png"), 7);
        assert_eq!([side(), side(), side(), side()], [3, 5, 7, 3]);
        drop(folder);
        let error = loop {
            if let Err(error) = source.next() {
                break error;
            }
        };
        assert!(error.is_missing_input(), "{error}");
    }

    #[test]
    fn unusable_paths_are_errors_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = folder.path().join(name);
            let error = PictureSource::open(&path, &options(1.0, true), stop())
                .err()
                .unwrap();
            assert!(error.is_missing_input());
            error.to_string()
        };
        assert!(open("none.jpg").starts_with("cannot open the picture or folder /"));
        assert!(open("").contains("holds no pictures"));
        std::fs::write(folder.path().join("video.mp4"), b"not a picture").unwrap();
        assert!(open("video.mp4").contains("it is not a JPEG"));
        std::fs::write(folder.path().join("1.jpg"), b"not a picture").unwrap();
        std::fs::write(folder.path().join("2.jpg"), b"").unwrap();
        let error = open("");
        assert!(error.contains("none of the 2 pictures in"), "{error}");
        assert!(
            error.contains("(the last one: it is empty); replace"),
            "{error}"
        );
        let error = PictureSource::open(Path::new("/dev/null"), &options(1.0, true), stop()).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("neither a picture nor a folder")
        );
        let error = PictureSource::from_memory([&b"x"[..]], &options(1.0, true), stop()).err();
        assert!(error.unwrap().to_string().contains("pictures in examples"));
    }

    #[test]
    fn pace_does_not_drift() {
        let milliseconds = Duration::from_millis;
        let start = now();
        let mut due = start;
        // The frames are often late, but never by a whole interval.
        for late in (0..100).map(|number| number % 50) {
            due = next_due(due, due + milliseconds(late), milliseconds(50));
        }
        assert_eq!(due, start + milliseconds(100 * 50));
        let late = due + milliseconds(50);
        assert_eq!(
            next_due(due, late, milliseconds(50)),
            late + milliseconds(50)
        );
    }

    #[test]
    fn frames_do_not_come_before_their_time() {
        let pictures = EXAMPLES[..2].iter().map(|example| example.bytes);
        let mut source =
            PictureSource::from_memory(pictures, &options(20.0, true), stop()).unwrap();
        let start = source.next().unwrap().unwrap().at;
        for number in 1..=10u32 {
            let at = source.next().unwrap().unwrap().at;
            assert!(at >= start + Duration::from_millis(50) * number);
        }
    }

    #[test]
    fn each_picture_is_several_frames_and_a_stop_ends_the_wait() {
        let pictures = EXAMPLES[..1].iter().map(|example| example.bytes);
        let stop = stop();
        let mut source =
            PictureSource::from_memory(pictures, &options(4.0, false), stop.clone()).unwrap();
        let start = source.next().unwrap().unwrap().at;
        assert!(source.next().unwrap().is_some());
        assert!(start.elapsed() >= Duration::from_millis(125));
        assert!(source.next().unwrap().is_none());
        assert!(
            start.elapsed() >= Duration::from_millis(250),
            "the last frame lasts as long as the others"
        );

        let pictures = EXAMPLES[..1].iter().map(|example| example.bytes);
        let mut source =
            PictureSource::from_memory(pictures, &options(4.0, true), stop.clone()).unwrap();
        assert!(source.next().unwrap().is_some());
        stop.cancel();
        assert!(source.next().unwrap().is_none());
    }
}
