//! Pictures as a camera: one file, a folder, or those that are compiled in.
//!
//! Owns the pace at which they are shown. Each picture is shown like a person who stands at the door for a
//! while, as several frames, for a decision needs some that agree.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::RgbImage;
use tokio_util::sync::CancellationToken;

use super::{CameraOptions, Source, SourceError, now, sleep_until};
use crate::frame::Frame;
use crate::frame::decoding::{decode, list, read};

/// Frames a second of a picture that is shown for longer than one.
const FRAMES_A_SECOND: f64 = 10.0;

/// A picture that is compiled in.
#[derive(Debug, Clone, Copy)]
pub struct Example {
    /// Name of its file.
    pub name: &'static str,
    /// The JPEG file.
    pub bytes: &'static [u8],
}

/// The pictures that are compiled in: photographs of people with and without
/// masks.
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

/// Shows pictures one after the other.
pub struct Stills {
    place: Place,
    pictures: Vec<Picture>,
    /// The next one of `pictures`.
    next: usize,
    repeat: bool,
    stop: CancellationToken,

    frames_each: u32,
    interval: Duration,
    /// When the next frame is due; none before the first one.
    due: Option<Instant>,
    shown: Option<RgbImage>,
    /// Frames that `shown` is still good for.
    left: u32,
    seq: u64,

    first_round: bool,
    /// Pictures of this round that could be read.
    readable: usize,
}

enum Place {
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

impl Stills {
    /// Shows the picture at `path`, or those of the folder there.
    ///
    /// # Errors
    /// If there is no such path, or no readable picture.
    pub fn open(
        path: &Path,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Stills, SourceError> {
        let metadata = path.metadata().map_err(|error| path_error(path, error))?;
        let place = if metadata.is_dir() {
            Place::Folder(path.to_owned())
        } else if metadata.is_file() {
            Place::File(path.to_owned())
        } else {
            return Err(SourceError::NoFile {
                path: path.display().to_string(),
            });
        };
        Stills::new(place, Vec::new(), options, stop)
    }

    /// Shows picture files that are in memory.
    ///
    /// # Errors
    /// If none of them is readable.
    pub fn from_memory(
        pictures: impl IntoIterator<Item = &'static [u8]>,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Stills, SourceError> {
        let pictures = pictures.into_iter().map(Picture::Memory).collect();
        Stills::new(Place::Memory, pictures, options, stop)
    }

    fn new(
        place: Place,
        pictures: Vec<Picture>,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Stills, SourceError> {
        let (frames_each, interval) = pace(options.rate);
        let mut stills = Stills {
            place,
            pictures,
            next: 0,
            repeat: options.repeat,
            stop,
            frames_each,
            interval,
            due: None,
            shown: None,
            left: 0,
            seq: 0,
            first_round: true,
            readable: 0,
        };
        stills.list()?;
        stills.turn()?;
        Ok(stills)
    }

    /// Begins a round with the pictures that are there now.
    fn list(&mut self) -> Result<(), SourceError> {
        match &self.place {
            Place::Memory => {}
            Place::File(path) => self.pictures = vec![Picture::File(path.clone())],
            Place::Folder(folder) => {
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

    /// Turns to the next readable picture; false if there is none, or stop was
    /// asked.
    fn turn(&mut self) -> Result<bool, SourceError> {
        loop {
            let mut why = String::new();
            while let Some(picture) = self.pictures.get(self.next) {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                self.next += 1;
                match picture.load() {
                    Ok(pixels) => {
                        self.shown = Some(pixels);
                        self.left = self.frames_each;
                        self.readable += 1;
                        return Ok(true);
                    }
                    Err(error) => {
                        self.tell_skipped(picture, &error);
                        why = error;
                    }
                }
            }
            if self.readable == 0 {
                return Err(self.none_readable(why));
            }
            if !self.repeat {
                return Ok(false);
            }
            self.first_round = false;
            self.list()?;
        }
    }

    /// Names no path above the debug level, for pictures show people and are
    /// often named after them.
    fn tell_skipped(&self, picture: &Picture, error: &str) {
        let (number, of) = (self.next, self.pictures.len());
        if let Picture::File(path) = picture {
            tracing::debug!(number, path = %path.display(), error, "picture skipped");
        }
        // A lone picture that fails is an error, and told as one.
        if self.first_round && of > 1 {
            tracing::warn!(number, of, error, "picture of the folder skipped");
        }
    }

    fn none_readable(&self, why: String) -> SourceError {
        let count = self.pictures.len();
        match &self.place {
            Place::Memory => SourceError::Pictures {
                place: "examples".to_owned(),
                count,
                why,
            },
            Place::File(path) => SourceError::Picture {
                path: path.display().to_string(),
                why,
            },
            Place::Folder(path) => SourceError::Pictures {
                place: path.display().to_string(),
                count,
                why,
            },
        }
    }
}

impl Source for Stills {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        // Before the wait, so that decoding does not come on top of it.
        let more = self.left > 0 || self.turn()?;
        // At the end this waits until the last picture was shown in full.
        let due = self.due.unwrap_or_else(now);
        if !sleep_until(due, &self.stop) || !more {
            return Ok(None);
        }
        let at = now();
        self.due = Some(next_due(due, at, self.interval));
        self.left -= 1;
        let pixels = if self.left == 0 {
            self.shown.take()
        } else {
            self.shown.clone()
        };
        let seq = self.seq;
        self.seq += 1;
        Ok(pixels.map(|pixels| Frame { pixels, at, seq }))
    }
}

fn path_error(path: &Path, error: io::Error) -> SourceError {
    SourceError::Path {
        path: path.display().to_string(),
        error,
    }
}

/// Frames of each picture and the time between them, for `rate` pictures a
/// second.
fn pace(rate: f32) -> (u32, Duration) {
    let rate = if rate.is_nan() {
        1.0
    } else {
        f64::from(rate).clamp(0.001, 1000.0)
    };
    // A rate such as 0.1 is a little more than that in binary; it shall not
    // cost a frame.
    let frames = (FRAMES_A_SECOND / rate + 1e-3).floor().max(1.0);
    (frames as u32, Duration::from_secs_f64(1.0 / rate / frames))
}

/// When the frame after the one is due that was due at `due` and came at `at`.
///
/// That goes by the plan and not by when this one came, or the delays would add
/// up. Who is a whole frame late starts a new plan: a burst of frames helps
/// nobody.
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
            video: crate::camera::Video::default(),
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
    fn paces() {
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
    fn examples_are_readable_and_shown_in_turn() {
        let pictures = EXAMPLES.iter().map(|example| example.bytes);
        let mut stills = Stills::from_memory(pictures, &options(1000.0, false), stop()).unwrap();
        for (seq, example) in EXAMPLES.iter().enumerate() {
            let frame = stills.next().unwrap().unwrap();
            assert_eq!(frame.seq, seq as u64);
            assert_eq!(
                frame.pixels,
                decode(example.bytes).unwrap(),
                "{}",
                example.name
            );
        }
        assert!(stills.next().unwrap().is_none());
        assert!(stills.next().unwrap().is_none());
    }

    #[test]
    fn unreadable_pictures_are_skipped_and_the_rest_shown_again() {
        let folder = tempfile::tempdir().unwrap();
        write_png(&folder.path().join("1.png"), 3);
        std::fs::write(folder.path().join("2.jpg"), b"no picture").unwrap();
        std::fs::write(folder.path().join("3.jpg"), b"").unwrap();
        write_png(&folder.path().join("4.png"), 5);
        let mut stills = Stills::open(folder.path(), &options(1000.0, true), stop()).unwrap();
        let mut side = || stills.next().unwrap().unwrap().pixels.width();
        assert_eq!([side(), side(), side(), side()], [3, 5, 3, 5]);
        // What is in the folder now counts from the next round on.
        write_png(&folder.path().join("5.png"), 7);
        assert_eq!([side(), side(), side(), side()], [3, 5, 7, 3]);
        drop(folder);
        let error = loop {
            if let Err(error) = stills.next() {
                break error;
            }
        };
        assert!(error.is_missing_input(), "{error}");
    }

    #[test]
    fn what_cannot_be_shown_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = folder.path().join(name);
            let error = Stills::open(&path, &options(1.0, true), stop())
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
        assert!(error.contains("none of the 2 pictures of"), "{error}");
        assert!(
            error.contains("of the last one: it is empty; replace"),
            "{error}"
        );
        let error = Stills::open(Path::new("/dev/null"), &options(1.0, true), stop()).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("neither a picture nor a folder")
        );
        let error = Stills::from_memory([&b"x"[..]], &options(1.0, true), stop()).err();
        assert!(error.unwrap().to_string().contains("pictures of examples"));
    }

    #[test]
    fn pace_does_not_drift() {
        let milliseconds = Duration::from_millis;
        let start = now();
        let mut due = start;
        // Always late, but never by a frame.
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
        let mut stills = Stills::from_memory(pictures, &options(20.0, true), stop()).unwrap();
        let start = stills.next().unwrap().unwrap().at;
        for number in 1..=10u32 {
            let at = stills.next().unwrap().unwrap().at;
            assert!(at >= start + Duration::from_millis(50) * number);
        }
    }

    #[test]
    fn each_picture_is_several_frames_and_a_stop_ends_the_wait() {
        let pictures = EXAMPLES[..1].iter().map(|example| example.bytes);
        let stop = stop();
        let mut stills = Stills::from_memory(pictures, &options(4.0, false), stop.clone()).unwrap();
        let start = stills.next().unwrap().unwrap().at;
        assert!(stills.next().unwrap().is_some());
        assert!(start.elapsed() >= Duration::from_millis(125));
        assert!(stills.next().unwrap().is_none());
        assert!(
            start.elapsed() >= Duration::from_millis(250),
            "the last frame stands too"
        );

        let pictures = EXAMPLES[..1].iter().map(|example| example.bytes);
        let mut stills = Stills::from_memory(pictures, &options(4.0, true), stop.clone()).unwrap();
        assert!(stills.next().unwrap().is_some());
        stop.cancel();
        assert!(stills.next().unwrap().is_none());
    }
}
