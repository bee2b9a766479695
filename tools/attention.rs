//! What the work that is not done costs: how often faces are looked for and
//! classified under several settings of `detect.idle-interval-ms` and `track.reclassify-interval-ms`,
//! how many verdicts are right, and how late a change is seen.
//!
//! ```text
//! cargo run --release --example attention
//! ```
//!
//! The sequences are made up of the faces in `assets/frames`: ten frames a second
//! of a hall; somebody comes, and later puts a mask on or takes it off, that is,
//! becomes another photographed face. Every other person sways by 3 pixels, and
//! the others stand as still as a picture, which is where a gate could miss
//! something. Each sequence is seen in good light, and with 30 % of it by a camera
//! with the same noise. Time is simulated: the figures depend on no clock.

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
use maskd::vision::motion::Motion;
use maskd::vision::pipeline::Pipeline;
use maskd::vision::track::Tracker;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Of all frames, in pixels.
const SIZE: (u32, u32) = (640, 480);
/// Between two frames.
const PERIOD: Duration = Duration::from_millis(100);
/// Number of frames, and of the first one that shows somebody.
const FRAMES: usize = 50;
const COMES: usize = 8;
/// Standard deviation of the camera's noise, in levels.
const NOISE: f32 = 5.0;
/// Smaller faces are left out, in pixels of their photograph.
const SMALLEST: f32 = 40.0;
const PAIRS: usize = 8;

/// `detect.idle-interval-ms` and `track.reclassify-interval-ms`; the first looks at everything.
const SETTINGS: [(u64, u64); 7] = [
    (0, 0),
    (0, 500),
    (1000, 0),
    (1000, 500),
    (1000, 1000),
    (3000, 500),
    (3000, 2000),
];

/// A head with what is around it, of the size of a crop.
struct Person {
    head: RgbImage,
    masked: bool,
}

/// What is shown, and what is true of it.
struct Sequence {
    frames: Vec<RgbImage>,
    /// Number of the frame from which on the person is another.
    changes: usize,
    masked: (bool, bool),
}

/// What a setting did, over all sequences.
#[derive(Default)]
struct Tally {
    frames: usize,
    detections: usize,
    with_person: usize,
    looks: usize,
    right: usize,
    /// From coming to the first right verdict, and from the change to it, in
    /// frames; `None` if there was none.
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
            if let Some(region) = region.filter(|_| inside && rect.short_side() >= SMALLEST) {
                let head = Scaler::default().crop(&picture, region)?.pixels().clone();
                people.push(Person { head, masked });
            }
        }
    }
    Ok(people)
}

/// `light` is the share of it that is left.
fn sequence(before: &Person, after: &Person, number: usize, light: f32) -> Sequence {
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    // A hall with light from above.
    let hall = RgbImage::from_fn(SIZE.0, SIZE.1, |_, y| Rgb([150 - (y / 8) as u8; 3]));
    let sway = if number.is_multiple_of(2) { 3.0 } else { 0.0 };
    // Between two looks at a settled track, at every phase.
    let changes = 27 + number % 5;
    let frames = (0..FRAMES).map(|index| {
        let mut frame = hall.clone();
        if index >= COMES {
            let person = if index < changes { before } else { after };
            let x = 208.0 + sway * (index as f32 * 0.7).sin();
            imageops::replace(&mut frame, &person.head, x.round() as i64, 150);
        }
        for value in frame.iter_mut() {
            // Twelve uniform numbers have a variance of 1.
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

/// The models, with what they said before: settings ask for the same again.
struct InferenceWorker {
    pipeline: Pipeline,
    faces: HashMap<(usize, usize), Vec<Face>>,
    looks: HashMap<(usize, usize, [u32; 4]), Vec<f32>>,
}

impl InferenceWorker {
    fn detect(&mut self, at: (usize, usize), frame: &RgbImage) -> anyhow::Result<Vec<Face>> {
        if let Some(faces) = self.faces.get(&at) {
            return Ok(faces.clone());
        }
        let faces = self.pipeline.detect(frame)?;
        self.faces.insert(at, faces.clone());
        Ok(faces)
    }

    fn look(
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
        if let Some(probabilities) = self.looks.get(&key) {
            return Ok(probabilities.clone());
        }
        let looks = self.pipeline.classify(frame, std::slice::from_ref(face))?;
        let probabilities = looks[0].probabilities.clone();
        self.looks.insert(key, probabilities.clone());
        Ok(probabilities)
    }
}

/// What the daemon does with the frames of a sequence.
fn watch(
    eyes: &mut InferenceWorker,
    config: &Config,
    judge: &VerdictPolicy,
    number: usize,
    sequence: &Sequence,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    #[expect(
        clippy::disallowed_methods,
        reason = "time is simulated, and starts somewhere"
    )]
    let start = Instant::now();
    let at_most = Duration::from_millis(config.detect.idle_interval_ms);
    let mut motion = Motion::default();
    let mut last: Option<(Instant, Vec<Face>)> = None;
    let mut tracker = Tracker::new(config.track.options());
    let (mut arrival, mut change) = (None, None);
    for (index, frame) in sequence.frames.iter().enumerate() {
        let at = start + PERIOD * index as u32;
        tally.frames += 1;
        let still = last
            .as_ref()
            .filter(|(then, _)| at - *then < at_most && !motion.moved(frame));
        let faces = if let Some((_, faces)) = still {
            faces.clone()
        } else {
            tally.detections += 1;
            let faces = eyes.detect((number, index), frame)?;
            motion.look(frame);
            last = Some((at, faces.clone()));
            faces
        };
        let tracks = tracker.assign(at, &faces);
        let mut verdicts = Vec::new();
        for (face, track) in faces.iter().zip(tracks) {
            if judge.doubt(face).is_some() {
                continue;
            }
            let vote = if let Some(vote) = tracker.settled(at, track) {
                vote
            } else {
                tally.looks += 1;
                let probabilities = eyes.look((number, index), frame, face)?;
                tracker.vote(at, track, &probabilities)
            };
            verdicts.push(judge.judge(face, &vote));
        }
        if index < COMES {
            continue;
        }
        tally.with_person += 1;
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
        tally.right += usize::from(right);
        if right && index < sequence.changes {
            arrival = arrival.or(Some(index - COMES));
        } else if right {
            change = change.or(Some(index - sequence.changes));
        }
    }
    tally.arrivals.push(arrival);
    tally.changes.push(change);
    Ok(())
}

/// Median and largest of those that were seen, in ms, and how many were not.
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
        return Err(anyhow!("assets/frames lacks large faces of one kind"));
    }
    let mut config = Config::default();
    let pipeline = Pipeline::open(&config.pipeline_options(), 1)?;
    let judge = VerdictPolicy::new(config.classify.judge_options(), pipeline.head().labels())?;
    println!(
        "{} masked and {} bare faces; {} sequences of {FRAMES} frames in each light\n",
        masked.len(),
        bare.len(),
        2 * PAIRS
    );
    let mut eyes = InferenceWorker {
        pipeline,
        faces: HashMap::new(),
        looks: HashMap::new(),
    };
    for (light, share) in [("good light", 1.0), ("30 % of it", 0.3)] {
        let mut tallies: Vec<Tally> = SETTINGS.iter().map(|_| Tally::default()).collect();
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
            for ((still_ms, settled_ms), tally) in SETTINGS.iter().zip(&mut tallies) {
                config.detect.idle_interval_ms = *still_ms;
                config.track.reclassify_interval_ms = *settled_ms;
                watch(&mut eyes, &config, &judge, number, &sequence, tally)?;
            }
            eyes.faces.clear();
            eyes.looks.clear();
        }
        println!(
            "{light:<10}                                 ms until right: after coming   after the change"
        );
        println!(
            "idle-ms   reclass-ms  detected  classified  right  median   max  never   median   max  never"
        );
        for ((still_ms, settled_ms), tally) in SETTINGS.iter().zip(&tallies) {
            let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
            println!(
                "{still_ms:>8} {settled_ms:>11} {:>7.1} % {:>9.1} % {:>4.1} %   {}     {}",
                percent(tally.detections, tally.frames),
                percent(tally.looks, tally.with_person),
                percent(tally.right, tally.with_person),
                delays(&tally.arrivals),
                delays(&tally.changes),
            );
        }
        println!();
    }
    Ok(())
}
