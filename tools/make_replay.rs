//! Creates the replay set. It contains features of the pictures on which the built-in
//! head was trained. Training on a device also uses these features, so that a head does
//! not forget the pictures.
//!
//! ```text
//! cargo run --release --example make_replay -- --dataset faces/train --out models/replay.bin
//! ```
//!
//! The replay set has the same number of pictures for each class, and one row per
//! picture. The seed determines the choice of pictures. There are five kinds of views,
//! which are used in turn, row by row: the whole picture, the whole picture with the
//! tutorial's recipe, the detected face, and the face and the whole picture with the
//! robust recipe. Every fifth picture in a class is held out. The light of held-out
//! pictures is not changed. The same data set, models, and seed give the same bytes on
//! CPUs of the same kind.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use maskd::learning::replay::{Replay, Rows};
use maskd::onnx::{Classifier, ThreadPool};
use maskd::platform::files;
use maskd::training::augment::{Geometry, Robust};
use maskd::training::dataset::{self, Dataset};
use maskd::training::recipe::{Recipe, Worker, mix};
use maskd::vision::detect::{Detector, DetectorOptions};
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Creates a replay set from a data set.
#[derive(Parser)]
struct Arguments {
    /// Folder with one subfolder of pictures per class.
    #[arg(long)]
    dataset: PathBuf,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
    /// Number of rows. A file of 2,000,000 bytes has 1,555 rows.
    #[arg(long, default_value_t = 1500)]
    rows: usize,
    /// Seed for the choice of pictures and for their views.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// One out of this many pictures is held out.
const HOLDOUT: usize = 5;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make_replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dataset = Dataset::open(&arguments.dataset)?;
    let classifier = Classifier::parse("the built-in model", SHIPPED_CLASSIFIER)?;
    let options = DetectorOptions {
        side: 320,
        threshold: 0.5,
    };
    let detector = Detector::new(
        "the built-in model",
        SHIPPED_DETECTOR,
        options,
        ThreadPool::alone(),
    )?;
    let backbone = Backbone::new(classifier.backbone)?;
    let mut embedder = Embedder::new(&backbone, 1, ThreadPool::alone())?;
    // The worker needs an embedder, but does not use it, because this function embeds the
    // views.
    let unused = Embedder::new(&backbone, 1, ThreadPool::alone())?;
    let mut worker = Worker::new(unused, Some(detector));

    let mut replay = Replay {
        backbone_sha256: classifier.backbone_sha256,
        labels: dataset.classes.clone(),
        train: Rows::default(),
        holdout: Rows::default(),
    };
    let share = arguments.rows / dataset.classes.len();
    for class in 0..dataset.classes.len() {
        let of_class = dataset
            .pictures
            .iter()
            .filter(|picture| picture.class == class);
        let mut pictures: Vec<&Path> = of_class.map(|picture| picture.path.as_path()).collect();
        let mut random = ChaCha8Rng::seed_from_u64(mix(arguments.seed, class as u64));
        pictures.shuffle(&mut random);
        if pictures.len() < share {
            bail!("{} has fewer than {share} pictures", dataset.classes[class]);
        }
        for (at, path) in pictures.into_iter().take(share).enumerate() {
            let (pixels, _) = dataset::load(path)
                .map_err(anyhow::Error::msg)
                .with_context(|| path.display().to_string())?;
            // The held-out rows show whether a head forgets pictures in good light.
            let held_out = at % HOLDOUT == 0;
            let turn = at / HOLDOUT;
            let (recipe, view) = kind(if held_out {
                turn % GOOD_KINDS
            } else {
                (turn + at) % KINDS
            });
            let seed = mix(arguments.seed, (class * share + at) as u64);
            let views = worker.views(&recipe, &pixels, view + 1, seed)?;
            let features = embedder.embed(&views[view..])?;
            let rows = if held_out {
                &mut replay.holdout
            } else {
                &mut replay.train
            };
            rows.push(features[0].values(), class);
            if at % 100 == 99 {
                eprintln!("{}: {} of {share}", dataset.classes[class], at + 1);
            }
        }
    }
    let bytes = replay.to_bytes()?;
    files::write(&arguments.out, &bytes)
        .with_context(|| format!("cannot write {}", arguments.out.display()))?;
    println!(
        "{}: {} training rows, {} held-out rows, {} bytes",
        arguments.out.display(),
        replay.train.len(),
        replay.holdout.len(),
        bytes.len()
    );
    Ok(())
}

const KINDS: usize = 5;
/// Number of kinds that do not change the light. They come first.
const GOOD_KINDS: usize = 3;

/// Returns a recipe and the index of the view to use. In the robust recipe, the first
/// view shows the face, and the fifth view shows the whole picture.
fn kind(number: usize) -> (Recipe, usize) {
    let still = Geometry {
        rotation: 0.0,
        zoom: 0.0,
        width_shift: 0.0,
        height_shift: 0.0,
        shear: 0.0,
        horizontal_flip: false,
        ..Geometry::default()
    };
    match number {
        0 => (Recipe::Tutorial(still), 0),
        1 => (Recipe::Tutorial(Geometry::default()), 0),
        2 => {
            let mut plain = Robust {
                geometry: still,
                gray: 0.0,
                margin: (0.15, 0.15),
                ..Robust::default()
            };
            plain.light.probability = 0.0;
            plain.camera.probability = 0.0;
            plain.sharpness.probability = 0.0;
            (Recipe::Robust(plain), 0)
        }
        3 => (Recipe::Robust(Robust::default()), 0),
        _ => (Recipe::Robust(Robust::default()), 4),
    }
}
