//! Measures how well passages are counted, on sequences of frames that are made of real
//! photographs with known numbers of people.
//!
//! The faces of the photographs are cut out and moved over a background. The frames then pass
//! through the models, the tracker, and the counter, as in the daemon, but the time is
//! simulated, so the speed of the computer does not matter. `docs/COUNTS.md` has the results:
//!
//! ```text
//! cargo test --release --locked --lib -- --ignored --nocapture how_well_passages_are_counted
//! ```
//!
//! `MASKD_COUNT_FRAMES` names another folder with photographs and Pascal VOC files.

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::counts_worker::sightings;
use super::frame_processor;
use super::frame_processor::{FrameProcessor, Monitor};
use super::now;
use crate::config::Config;
use crate::counts::Outcome;
use crate::counts::passages::PassageCounter;
use crate::decision::confirm::Standing;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::FrameResult;
use crate::frame::{ConnectionId, Frame, Rect, decode};
use crate::vision::pipeline::{Pipeline, Stage};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// Width of a face in the photographs that are used, in pixels.
const MIN_FACE: f32 = 40.0;
/// Width of the surroundings of a face that are cut out with it, as a fraction of the face's width.
const MARGIN: f32 = 0.5;
/// How often each sequence is played, each time with other people.
const TAKES: usize = 3;

/// A person who was cut out of a photograph.
struct Person {
    /// The face with its surroundings.
    picture: RgbImage,
    /// Width of the face as a fraction of the picture's width.
    face: f32,
    is_masked: bool,
}

/// One person's way through a sequence. Times are in seconds, and places are fractions of the
/// frame.
#[derive(Clone, Copy)]
struct Walk {
    from: f32,
    to: f32,
    start: (f32, f32),
    end: (f32, f32),
    /// Width of the face at the start and at the end, in pixels.
    size: (f32, f32),
    /// Times at which the face is hidden.
    hidden: &'static [(f32, f32)],
}

struct Sequence {
    name: &'static str,
    frames_per_second: f32,
    walks: Vec<Walk>,
}

struct SimulatedTime(Cell<Instant>);

impl Monitor for SimulatedTime {
    fn now(&self) -> Instant {
        self.0.get()
    }

    fn progress(&self) {}

    fn stage(&self, _: Stage, _: Duration) {}
}

fn walk(from: f32, to: f32, start: (f32, f32), end: (f32, f32)) -> Walk {
    Walk {
        from,
        to,
        start,
        end,
        size: (70.0, 70.0),
        hidden: &[],
    }
}

/// People who come one after another: each for `stay` seconds, with a pause between them.
fn one_by_one(stay: f32, pause: f32, people: u8, walk: impl Fn(f32, f32) -> Walk) -> Vec<Walk> {
    (0..people)
        .map(|person| {
            let from = 0.5 + f32::from(person) * (stay + pause);
            walk(from, from + stay)
        })
        .collect()
}

#[expect(clippy::too_many_lines, reason = "a list of sequences")]
fn sequences() -> Vec<Sequence> {
    let sequence = |name, frames_per_second, walks| Sequence {
        name,
        frames_per_second,
        walks,
    };
    let (left, right, middle) = ((-0.1, 0.5), (1.1, 0.5), (0.5, 0.5));
    vec![
        sequence(
            "stand for 3 s, 3 s apart",
            6.0,
            one_by_one(3.0, 3.0, 3, |from, to| walk(from, to, middle, (0.53, 0.5))),
        ),
        sequence(
            "walk across in 3 s, 1 s apart",
            6.0,
            one_by_one(3.0, 1.0, 3, |from, to| walk(from, to, left, right)),
        ),
        sequence(
            "walk across in 3 s at 3 frames per second",
            3.0,
            one_by_one(3.0, 1.0, 3, |from, to| walk(from, to, left, right)),
        ),
        sequence(
            "approach in 4 s and leave",
            6.0,
            one_by_one(4.0, 1.0, 3, |from, to| Walk {
                size: (32.0, 120.0),
                ..walk(from, to, (0.45, 0.35), (0.75, 0.6))
            }),
        ),
        sequence(
            "three at the same time",
            6.0,
            vec![
                walk(0.5, 5.0, (0.2, 0.5), (0.25, 0.5)),
                walk(1.0, 6.0, (0.5, 0.45), (0.5, 0.5)),
                walk(1.5, 5.5, (0.8, 0.5), (0.75, 0.45)),
            ],
        ),
        sequence(
            "two pass each other in front of the camera",
            6.0,
            vec![walk(0.5, 5.0, left, right), walk(0.5, 5.0, right, left)],
        ),
        sequence(
            "two pass each other, one hidden for 1.2 s",
            6.0,
            vec![
                Walk {
                    hidden: &[(1.7, 2.9)],
                    ..walk(0.5, 5.0, left, right)
                },
                walk(0.5, 5.0, right, left),
            ],
        ),
        sequence(
            "one overtakes the other",
            6.0,
            vec![walk(0.5, 6.5, left, right), walk(1.5, 5.0, left, right)],
        ),
        sequence(
            "missed for 0.5 s and 1.5 s while standing",
            6.0,
            one_by_one(6.0, 3.0, 2, |from, to| Walk {
                hidden: &[(1.5, 2.0), (3.0, 4.5)],
                ..walk(from, to, middle, (0.53, 0.5))
            }),
        ),
        sequence(
            "missed for 1.2 s while walking",
            6.0,
            one_by_one(5.0, 2.0, 2, |from, to| Walk {
                hidden: &[(1.8, 3.0)],
                ..walk(from, to, left, right)
            }),
        ),
        sequence(
            "stand in line, 1 s apart at the same place",
            6.0,
            one_by_one(3.0, 1.0, 3, |from, to| walk(from, to, middle, (0.53, 0.5))),
        ),
        sequence(
            "away for 4 s, then back",
            6.0,
            vec![Walk {
                hidden: &[(2.5, 6.5)],
                ..walk(0.5, 9.5, middle, middle)
            }],
        ),
    ]
}

fn photographs() -> PathBuf {
    let usual = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/frames");
    std::env::var_os("MASKD_COUNT_FRAMES").map_or_else(usual, PathBuf::from)
}

/// Returns the boxes in a Pascal VOC file, with their labels.
fn boxes(xml: &str) -> Vec<(String, Rect)> {
    let value = |text: &str, tag: &str| -> Option<String> {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once('<')?.0.trim().to_owned())
    };
    let objects = xml.split("<object>").skip(1);
    objects
        .filter_map(|object| {
            let side = |tag| value(object, tag)?.parse::<f32>().ok();
            let (x, y) = (side("xmin")?, side("ymin")?);
            let rect = Rect {
                x,
                y,
                width: side("xmax")? - x,
                height: side("ymax")? - y,
            };
            Some((value(object, "name")?, rect))
        })
        .collect()
}

/// Cuts out the people in the photographs whose faces are large enough, and who have nobody beside
/// them.
fn people() -> Vec<Person> {
    let mut files: Vec<PathBuf> = fs::read_dir(photographs())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    files.sort();
    let mut people = Vec::new();
    for xml in files {
        let photograph = ["jpg", "png"].map(|extension| xml.with_extension(extension));
        let Some(bytes) = photograph.iter().find_map(|path| fs::read(path).ok()) else {
            continue;
        };
        let picture = decode(&bytes).unwrap();
        let boxes = boxes(&fs::read_to_string(&xml).unwrap());
        for (label, rect) in &boxes {
            let Some(region) = rect
                .region(MARGIN, picture.width(), picture.height())
                .filter(|_| rect.width >= MIN_FACE)
            else {
                continue;
            };
            // The faces of other people would be counted as well.
            let surroundings = Rect {
                x: rect.x - MARGIN * rect.width,
                y: rect.y - MARGIN * rect.height,
                width: rect.width * (1.0 + 2.0 * MARGIN),
                height: rect.height * (1.0 + 2.0 * MARGIN),
            };
            let mut others = boxes.iter().filter(|(_, other)| other != rect);
            if others.any(|(_, other)| surroundings.iou(other) > 0.0) {
                continue;
            }
            let [x, y, width, height] = region.as_array();
            people.push(Person {
                picture: imageops::crop_imm(&picture, x, y, width, height).to_image(),
                face: rect.width / width as f32,
                is_masked: label == "with_mask",
            });
        }
    }
    people
}

/// Draws a person with soft edges.
fn draw(frame: &mut RgbImage, person: &Person, center: (f32, f32), face: f32) {
    let width = (face / person.face).round().max(1.0);
    let height = width * person.picture.height() as f32 / person.picture.width() as f32;
    let (width, height) = (width as u32, (height as u32).max(1));
    let scaled = imageops::resize(&person.picture, width, height, FilterType::Triangle);
    let left = (center.0 * WIDTH as f32 - width as f32 / 2.0) as i64;
    let top = (center.1 * HEIGHT as f32 - height as f32 / 2.0) as i64;
    for (x, y, pixel) in scaled.enumerate_pixels() {
        let (to_x, to_y) = (left + i64::from(x), top + i64::from(y));
        if to_x < 0 || to_y < 0 || to_x >= i64::from(WIDTH) || to_y >= i64::from(HEIGHT) {
            continue;
        }
        let edge = |at: u32, length: u32| at.min(length - 1 - at) as f32 / length as f32;
        let weight = (edge(x, width).min(edge(y, height)) * 12.0).min(1.0);
        let below = frame.get_pixel_mut(to_x as u32, to_y as u32);
        for (old, new) in below.0.iter_mut().zip(pixel.0) {
            *old = (f32::from(*old) * (1.0 - weight) + f32::from(new) * weight) as u8;
        }
    }
}

fn background() -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let wall = if y > 330 { 95 } else { 170 };
        let door = if (250..390).contains(&x) && y > 90 {
            25
        } else {
            0
        };
        let noise = ((x * 7919 + y * 104_729) % 7) as u8;
        Rgb([wall - door + noise, wall - door, wall - door - 10 + noise])
    })
}

fn at_time(walk: &Walk, time: f32) -> Option<((f32, f32), f32)> {
    let since = time - walk.from;
    if time < walk.from
        || time >= walk.to
        || walk.hidden.iter().any(|(a, b)| (*a..*b).contains(&since))
    {
        return None;
    }
    let done = since / (walk.to - walk.from);
    let between = |a: f32, b: f32| a + (b - a) * done;
    // A person's head moves a little up and down.
    let bob = 0.006 * (time * 9.0).sin();
    let center = (
        between(walk.start.0, walk.end.0),
        between(walk.start.1, walk.end.1) + bob,
    );
    Some((center, between(walk.size.0, walk.size.1)))
}

/// Processes frames as the daemon does.
struct Film {
    processor: FrameProcessor<Pipeline>,
    start: Instant,
    frames: u64,
}

impl Film {
    fn new(config: &Config) -> Film {
        let threads = config.classify.threads(1);
        let pipeline = Pipeline::open(&config.pipeline_options(), threads).unwrap();
        let options = config.classify.verdict_options();
        let policy = VerdictPolicy::new(options, pipeline.head().labels()).unwrap();
        Film {
            processor: frame_processor(pipeline, policy, config),
            start: now(),
            frames: 0,
        }
    }

    /// Processes a frame that was captured this many seconds after the start.
    fn process(&mut self, pixels: RgbImage, seconds: f32) -> FrameResult {
        let at = self.start + Duration::from_secs_f32(seconds);
        let frame = Frame {
            pixels,
            at,
            seq: self.frames,
            connection: ConnectionId::default(),
        };
        self.frames += 1;
        let time = SimulatedTime(Cell::new(at));
        let processed = self
            .processor
            .process(&frame, Standing::default(), false, &time);
        processed.unwrap().result
    }
}

/// Leaves out the people in whose pictures the models find other faces, which are real, but not
/// labeled. They would be counted as well.
fn alone(people: Vec<Person>) -> Vec<Person> {
    let mut film = Film::new(&Config::default());
    let empty = background();
    let mut seconds = 0.0;
    let mut is_alone = |person: &Person| {
        // The largest faces of the sequences, in which small faces are found best.
        [70.0, 120.0].into_iter().all(|face| {
            let mut pixels = empty.clone();
            draw(&mut pixels, person, (0.5, 0.5), face);
            seconds += 10.0;
            film.process(pixels, seconds).faces.len() <= 1
        })
    };
    people
        .into_iter()
        .filter(|person| is_alone(person))
        .collect()
}

/// Plays a sequence with these people, and returns what was counted.
fn play(sequence: &Sequence, cast: &[&Person]) -> Vec<Outcome> {
    let config = Config::default();
    let mut film = Film::new(&config);
    let mut counter = PassageCounter::new(config.track.options().keep);
    let length = sequence
        .walks
        .iter()
        .map(|walk| walk.to)
        .fold(0.0, f32::max)
        + 3.0;
    let frames = (length * sequence.frames_per_second) as u32;
    let mut outcomes = Vec::new();
    let empty = background();
    for number in 0..frames {
        let seconds = number as f32 / sequence.frames_per_second;
        let mut pixels = empty.clone();
        for (walk, person) in sequence.walks.iter().zip(cast) {
            if let Some((center, face)) = at_time(walk, seconds) {
                draw(&mut pixels, person, center, face);
            }
        }
        let result = film.process(pixels, seconds);
        let passages = counter.observe(result.at, &sightings(&result));
        outcomes.extend(passages.iter().map(|passage| passage.outcome));
    }
    outcomes.extend(counter.finish().iter().map(|passage| passage.outcome));
    outcomes
}

#[test]
#[ignore = "takes minutes; docs/COUNTS.md has the results"]
fn how_well_passages_are_counted() {
    let people = alone(people());
    assert!(people.len() >= 3, "{} people", people.len());
    let report = |line: &str| std::io::stderr().write_all(format!("{line}\n").as_bytes());
    let from = photographs();
    report(&format!("{} people from {}", people.len(), from.display())).unwrap();
    report(
        "| sequence | people | counted | of them masked, unmasked | as masked, unmasked, unsure |",
    )
    .unwrap();
    let (mut all, mut all_counted) = (0, 0);
    for (number, sequence) in sequences().iter().enumerate() {
        let (mut present, mut counted) = ([0; 2], [0; 3]);
        for take in 0..TAKES {
            let first = (number * TAKES + take) * sequence.walks.len();
            let cast: Vec<&Person> = (0..sequence.walks.len())
                .map(|index| &people[(first + index) % people.len()])
                .collect();
            for person in &cast {
                present[usize::from(!person.is_masked)] += 1;
            }
            for outcome in play(sequence, &cast) {
                counted[outcome as usize] += 1;
            }
        }
        let (sum, counted_sum) = (present.iter().sum::<i32>(), counted.iter().sum::<i32>());
        let name = sequence.name;
        let [masked, unmasked] = present;
        let [as_masked, as_unmasked, as_unsure] = counted;
        report(&format!(
            "| {name} | {sum} | {counted_sum} | {masked}, {unmasked} | {as_masked}, {as_unmasked}, {as_unsure} |"
        ))
        .unwrap();
        all += sum;
        all_counted += counted_sum;
    }
    report(&format!("| all | {all} | {all_counted} | | |")).unwrap();
    // The sequences include two in which the rules must fail, so only a large change is an
    // error.
    assert!(
        (all_counted - all).abs() * 5 < all,
        "{all_counted} of {all}"
    );
}
