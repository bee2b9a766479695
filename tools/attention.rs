//! Measures the benefits and the costs of skipping work. For several settings of
//! `detect.idle-interval-ms` and `track.reclassify-interval-ms`, the tool reports how
//! often the detector and the classifier run, how many verdicts are right, and how long
//! it takes until a change is noticed.
//!
//! ```text
//! cargo run --release --example attention
//! ```
//!
//! The sequences are composed from the faces in `assets/frames` and show a hall at ten
//! frames per second. A person arrives, and later puts a mask on or takes it off. To
//! show this, the sequence replaces the face with a different photographed face. In
//! every second sequence, the person sways by 3 pixels. In the other sequences, the
//! person does not move at all, which is the hard case for motion detection. Each
//! sequence is rendered in good light, and again with 30% of the light and the same
//! noise. Time is simulated, so the results do not depend on the clock.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use image::imageops;
use image::{Rgb, RgbImage};
use maskd::config::Config;
use maskd::decision::decide::{Verdict, VerdictPolicy};
use maskd::frame::{Face, Rect, Scaler, decode};
use maskd::vision::motion::MotionDetector;
use maskd::vision::pipeline::Pipeline;
use maskd::vision::track::Tracker;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The size of every frame, in pixels.
const SIZE: (u32, u32) = (640, 480);
/// The time between two consecutive frames.
const PERIOD: Duration = Duration::from_millis(100);
/// Number of frames in a sequence.
const FRAMES: usize = 50;
/// Index of the first frame that shows a person.
const ARRIVAL: usize = 8;
/// Standard deviation of the camera's noise, in levels.
const NOISE: f32 = 5.0;
/// Minimum size of a face, in pixels of the original photograph. Smaller faces are not
/// used.
const MIN_FACE: f32 = 40.0;
const PAIRS: usize = 8;

/// Pairs of `detect.idle-interval-ms` and `track.reclassify-interval-ms`. The first
/// pair skips nothing.
const SETTINGS: [(u64, u64); 7] = [
    (0, 0),
    (0, 500),
    (1000, 0),
    (1000, 500),
    (1000, 1000),
    (3000, 500),
    (3000, 2000),
];

/// The head of a person and its surroundings, scaled to the size of a crop.
struct Person {
    head: RgbImage,
    masked: bool,
}

/// The frames of a sequence and the correct verdicts.
struct Sequence {
    frames: Vec<RgbImage>,
    /// Index of the first frame that shows the second face.
    changes: usize,
    masked: (bool, bool),
}

/// The counts for one setting over all sequences.
#[derive(Default)]
struct Counts {
    frames: usize,
    detections: usize,
    with_person: usize,
    classified: usize,
    right: usize,
    /// For each sequence, the number of frames from the arrival of the person to the
    /// first correct verdict, or `None` if there was no correct verdict. `changes`
    /// holds the number of frames from the change in the face to the first correct
    /// verdict.
    arrivals: Vec<Option<usize>>,
    changes: Vec<Option<usize>>,
}

fn people() -> anyhow::Result<Vec<Person>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/frames");
    let mut files: Vec<_> = fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    files.sort();
    let mut people = Vec::new();
    for path in files {
        let picture = decode(&fs::read(&path)?)?;
        let text = fs::read_to_string(path.with_extension("xml"))?;
        let document = roxmltree::Document::parse(&text)?;
        let objects = document.descendants();
        for object in objects.filter(|node| node.has_tag_name("object")) {
            let value = |tag: &str| {
                let found = object.descendants().find(|node| node.has_tag_name(tag));
                found
                    .and_then(|node| node.text())
                    .with_context(|| format!("{}: no {tag}", path.display()))
            };
            let edge = |tag| -> anyhow::Result<f32> { Ok(value(tag)?.parse()?) };
            let (x, y) = (edge("xmin")?, edge("ymin")?);
            let (width, height) = (edge("xmax")? - x, edge("ymax")? - y);
            let rect = Rect {
                x,
                y,
                width,
                height,
            };
            let masked = match value("name")? {
                "with_mask" => true,
                "without_mask" => false,
                _ => continue,
            };
            let inside = x > 0.3 * width && y > 0.3 * height;
            let region = rect.region(0.5, picture.width(), picture.height());
            if let Some(region) = region.filter(|_| inside && rect.short_side() >= MIN_FACE) {
                let head = Scaler::default().crop(&picture, region)?.pixels().clone();
                people.push(Person { head, masked });
            }
        }
    }
    Ok(people)
}

/// Renders a sequence. The brightness is multiplied by `light`.
fn sequence(before: &Person, after: &Person, number: usize, light: f32) -> Sequence {
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    // The background is a hall lit from above.
    let hall = RgbImage::from_fn(SIZE.0, SIZE.1, |_, y| Rgb([150 - (y / 8) as u8; 3]));
    let sway = if number.is_multiple_of(2) { 3.0 } else { 0.0 };
    // The time of the change varies, so that the sequences together cover every phase
    // between two classifications of a settled track.
    let changes = 27 + number % 5;
    let frames = (0..FRAMES).map(|index| {
        let mut frame = hall.clone();
        if index >= ARRIVAL {
            let person = if index < changes { before } else { after };
            let x = 208.0 + sway * (index as f32 * 0.7).sin();
            imageops::replace(&mut frame, &person.head, x.round() as i64, 150);
        }
        for value in frame.iter_mut() {
            // The sum of twelve uniform numbers has a variance of 1.
            let normal: f32 = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            *value = (f32::from(*value) * light + NOISE * normal).clamp(0.0, 255.0) as u8;
        }
        frame
    });
    Sequence {
        frames: frames.collect(),
        changes,
        masked: (before.masked, after.masked),
    }
}

/// The models, and a cache of their results. The results are the same for all settings.
struct CachedModels {
    pipeline: Pipeline,
    faces: HashMap<(usize, usize), Vec<Face>>,
    probabilities: HashMap<(usize, usize, [u32; 4]), Vec<f32>>,
}

impl CachedModels {
    fn detect(&mut self, at: (usize, usize), frame: &RgbImage) -> anyhow::Result<Vec<Face>> {
        if let Some(faces) = self.faces.get(&at) {
            return Ok(faces.clone());
        }
        let faces = self.pipeline.detect(frame)?.faces;
        self.faces.insert(at, faces.clone());
        Ok(faces)
    }

    fn classify(
        &mut self,
        at: (usize, usize),
        frame: &RgbImage,
        face: &Face,
    ) -> anyhow::Result<Vec<f32>> {
        let Rect {
            x,
            y,
            width,
            height,
        } = face.rect;
        let key = (at.0, at.1, [x, y, width, height].map(f32::to_bits));
        if let Some(probabilities) = self.probabilities.get(&key) {
            return Ok(probabilities.clone());
        }
        let classified = self.pipeline.classify(frame, std::slice::from_ref(face))?;
        let probabilities = classified[0].probabilities.clone();
        self.probabilities.insert(key, probabilities.clone());
        Ok(probabilities)
    }
}

/// Processes the frames of a sequence in the same way as the daemon.
fn process(
    models: &mut CachedModels,
    config: &Config,
    policy: &VerdictPolicy,
    number: usize,
    sequence: &Sequence,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "time is simulated, and starts somewhere"
    )]
    let start = Instant::now();
    let max_interval = Duration::from_millis(config.detect.idle_interval_ms);
    let mut motion = MotionDetector::default();
    let mut last: Option<(Instant, Vec<Face>)> = None;
    let mut tracker = Tracker::new(config.track.options());
    let (mut arrival, mut change) = (None, None);
    for (index, frame) in sequence.frames.iter().enumerate() {
        let at = start + PERIOD * index as u32;
        counts.frames += 1;
        let still = last
            .as_ref()
            .filter(|(then, _)| at - *then < max_interval && !motion.moved(frame));
        let faces = if let Some((_, faces)) = still {
            faces.clone()
        } else {
            counts.detections += 1;
            let faces = models.detect((number, index), frame)?;
            motion.set_reference(frame);
            last = Some((at, faces.clone()));
            faces
        };
        let (tracks, _) = tracker.assign(at, &faces, &[]);
        let mut verdicts = Vec::new();
        for (face, track) in faces.iter().zip(tracks) {
            if policy.unsure_reason(face).is_some() {
                continue;
            }
            let vote = if let Some(vote) = tracker.settled(at, track) {
                vote
            } else {
                counts.classified += 1;
                let probabilities = models.classify((number, index), frame, face)?;
                tracker.vote(at, track, &probabilities, None)
            };
            verdicts.push(policy.verdict(face, &vote, None));
        }
        if index < ARRIVAL {
            continue;
        }
        counts.with_person += 1;
        let truth = if index < sequence.changes {
            sequence.masked.0
        } else {
            sequence.masked.1
        };
        let right = match verdicts.as_slice() {
            [Verdict::Masked(_)] => truth,
            [Verdict::Unmasked(_)] => !truth,
            _ => false,
        };
        counts.right += usize::from(right);
        if right && index < sequence.changes {
            arrival = arrival.or(Some(index - ARRIVAL));
        } else if right {
            change = change.or(Some(index - sequence.changes));
        }
    }
    counts.arrivals.push(arrival);
    counts.changes.push(change);
    Ok(())
}

/// Formats the median and the maximum of the delays in ms, and the number of changes
/// that were not noticed.
fn delays(frames: &[Option<usize>]) -> String {
    let mut seen: Vec<usize> = frames.iter().flatten().copied().collect();
    seen.sort_unstable();
    let ms = |frames: usize| frames as u128 * PERIOD.as_millis();
    match (seen.get(seen.len() / 2), seen.last()) {
        (Some(median), Some(largest)) => format!(
            "{:>5} {:>5} {:>5}",
            ms(*median),
            ms(*largest),
            frames.len() - seen.len()
        ),
        _ => "  none".to_owned(),
    }
}

fn main() -> anyhow::Result<()> {
    let people = people()?;
    let (masked, bare): (Vec<_>, Vec<_>) = people.iter().partition(|person| person.masked);
    if masked.is_empty() || bare.is_empty() {
        return Err(anyhow!(
            "assets/frames must contain both masked and unmasked large faces"
        ));
    }
    let mut config = Config::default();
    let pipeline = Pipeline::open(&config.pipeline_options(), 1)?;
    let policy = VerdictPolicy::new(config.classify.verdict_options(), pipeline.head().labels())?;
    println!(
        "{} masked and {} unmasked faces; {} sequences of {FRAMES} frames in each light\n",
        masked.len(),
        bare.len(),
        2 * PAIRS
    );
    let mut models = CachedModels {
        pipeline,
        faces: HashMap::new(),
        probabilities: HashMap::new(),
    };
    for (light, share) in [("good light", 1.0), ("30% of it", 0.3)] {
        let mut all_counts: Vec<Counts> = SETTINGS.iter().map(|_| Counts::default()).collect();
        for number in 0..2 * PAIRS {
            let (mask, face) = (
                masked[number / 2 % masked.len()],
                bare[number / 2 % bare.len()],
            );
            let (before, after) = if number % 2 == number / 2 % 2 {
                (mask, face)
            } else {
                (face, mask)
            };
            let sequence = sequence(before, after, number, share);
            for ((still_ms, settled_ms), counts) in SETTINGS.iter().zip(&mut all_counts) {
                config.detect.idle_interval_ms = *still_ms;
                config.track.reclassify_interval_ms = *settled_ms;
                process(&mut models, &config, &policy, number, &sequence, counts)?;
            }
            models.faces.clear();
            models.probabilities.clear();
        }
        println!(
            "{light:<10}                                 ms until right: after arrival  after the change"
        );
        println!(
            "idle-ms   reclass-ms  detected  classified  right  median   max  never   median   max  never"
        );
        for ((still_ms, settled_ms), counts) in SETTINGS.iter().zip(&all_counts) {
            let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
            println!(
                "{still_ms:>8} {settled_ms:>11} {:>8.1}% {:>10.1}% {:>5.1}%   {}     {}",
                percent(counts.detections, counts.frames),
                percent(counts.classified, counts.with_person),
                percent(counts.right, counts.with_person),
                delays(&counts.arrivals),
                delays(&counts.changes),
            );
        }
        println!();
    }
    Ok(())
}
