//! Measures the quality of the face pictures in folders, and counts the flaws that
//! `frame::quality` finds in them.
//!
//! ```text
//! cargo run --release --example crop_quality -- FOLDER… > faces.csv
//! ```
//!
//! Prints a line for each face that the pipeline finds, and for each picture without a face
//! that is small enough to be a face picture itself. Afterward, prints the counts and the
//! quantiles for each folder to standard error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context;
use maskd::config::Config;
use maskd::frame::quality::{Appearance, Placement, Quality};
use maskd::frame::{Rect, Scaler, decode};
use maskd::vision::pipeline::Pipeline;

/// A picture without a detected face counts as a face picture if its longer side is at
/// most this long, in pixels.
const MAX_CROP_SIDE: u32 = 230;

fn pictures(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            pictures(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending != "xml") {
            found.push(path);
        }
    }
    Ok(())
}

/// Returns the qualities of the faces in a picture, each with a word that says how the face
/// was found.
fn faces(pipeline: &mut Pipeline, path: &Path) -> anyhow::Result<Vec<(&'static str, Quality)>> {
    let Ok(pixels) = decode(&fs::read(path)?) else {
        return Ok(Vec::new());
    };
    let (width, height) = pixels.dimensions();
    let mut faces = Vec::new();
    for face in pipeline.recognize(&pixels)? {
        let quality = Quality {
            appearance: Appearance::of(&face.classification.crop),
            placement: Some(Placement::of(&face.face.rect, width, height)),
            face: face.classification.face.map(|opinion| opinion.probability),
        };
        faces.push(("detected", quality));
    }
    let whole = Rect {
        x: 0.0,
        y: 0.0,
        width: width as f32,
        height: height as f32,
    };
    let region = whole.region(0.0, width, height);
    if faces.is_empty()
        && width.max(height) <= MAX_CROP_SIDE
        && let Some(region) = region
    {
        let crop = Scaler::default().crop(&pixels, region)?;
        faces.push(("whole", Quality::of(&crop)));
    }
    Ok(faces)
}

fn quantiles(mut values: Vec<f32>) -> String {
    values.sort_by(f32::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = |share: f32| values.get((share * last as f32) as usize).copied();
    let quantiles = [0.0, 0.01, 0.05, 0.5, 1.0].map(|share| at(share).unwrap_or(f32::NAN));
    quantiles.map(|value| format!("{value:.4}")).join(" ")
}

fn main() -> anyhow::Result<()> {
    let mut pipeline = Pipeline::open(&Config::default().pipeline_options(), 1)?;
    println!("folder,picture,found,side,outside,sharpness,light,face,flaws");
    for folder in env::args().skip(1).map(PathBuf::from) {
        let mut paths = Vec::new();
        pictures(&folder, &mut paths)?;
        let mut flaws: BTreeMap<String, usize> = BTreeMap::new();
        let mut all = Vec::new();
        for path in &paths {
            for (found, quality) in faces(&mut pipeline, path)? {
                let names: Vec<String> = quality
                    .flaws()
                    .iter()
                    .map(|flaw| format!("{flaw:?}"))
                    .collect();
                for name in &names {
                    *flaws.entry(name.clone()).or_default() += 1;
                }
                let Appearance { sharpness, light } = quality.appearance;
                let side = quality
                    .placement
                    .map_or(f32::NAN, |placement| placement.side);
                let outside = quality
                    .placement
                    .map_or(f32::NAN, |placement| placement.outside);
                println!(
                    "{},{},{found},{side:.1},{outside:.3},{sharpness:.4},{light:.4},{:.4},{}",
                    folder.display(),
                    path.strip_prefix(&folder)?.display(),
                    quality.face.unwrap_or(f32::NAN),
                    names.join("+")
                );
                all.push(quality);
            }
        }
        let of =
            |value: fn(&Quality) -> Option<f32>| quantiles(all.iter().filter_map(value).collect());
        eprintln!(
            "{}: {} pictures, {} faces, bad {}, {flaws:?}\n  (0, 1, 5, 50, 100%)  side {}  outside {}\n  sharpness {}  light {}\n  face {}",
            folder.display(),
            paths.len(),
            all.len(),
            all.iter()
                .filter(|quality| !quality.flaws().is_empty())
                .count(),
            of(|quality| Some(quality.placement?.side)),
            of(|quality| Some(quality.placement?.outside)),
            of(|quality| Some(quality.appearance.sharpness)),
            of(|quality| Some(quality.appearance.light)),
            of(|quality| quality.face),
        );
    }
    Ok(())
}
