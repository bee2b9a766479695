//! `maskd classify`: pictures in, verdicts out, once.

use std::collections::HashSet;
use std::fmt::Write;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::pictures::{Picture, expand};
use super::{Failure, Global, complain, print};
use crate::decision::annotate;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::{FaceRecord, FaceResult, Probabilities};
use crate::platform::files;
use crate::vision::pipeline::{Pipeline, PipelineError};

/// A list of at least so many pictures has a progress bar.
const LONG_LIST: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Classify {
    /// Pictures, or folders of pictures; without any, the built-in examples
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,

    /// Print one JSON object a line and picture
    #[arg(long)]
    json: bool,

    /// Write each picture with boxes and labels drawn to DIR, as
    /// NAME.annotated.jpg
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
}

/// One line of `maskd classify --json`: a documented contract.
#[derive(Debug, Serialize)]
struct PictureRecord {
    /// As it was named.
    picture: String,
    /// In pixels, as displayed.
    width: u32,
    /// In pixels, as displayed.
    height: u32,
    /// Best detector score first.
    faces: Vec<FaceRecord>,
}

impl Classify {
    /// By the config's head, or by what a state directory has learned.
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = global.load_config()?;
        let pictures = expand(&self.pictures)?;
        let mut pipeline = Pipeline::open(&config, config.classify.threads(0))?;
        if let Some(head) = global.learned_head(pipeline.head())? {
            pipeline.set_head(head);
        }
        let labels = pipeline.head().labels().to_vec();
        let judge = VerdictPolicy::new(config.classify.judge_options(), &labels)
            .map_err(|error| Failure::new(Failure::CONFIG, error))?;
        let mut album = self.annotate.as_deref().map(Album::open).transpose()?;
        let progress = progress(pictures.len());
        let mut unreadable = 0_usize;
        for picture in &pictures {
            match picture.pixels() {
                Ok(pixels) => {
                    let faces = look(&mut pipeline, &judge, &pixels)?;
                    let record = PictureRecord {
                        picture: picture.name(),
                        width: pixels.width(),
                        height: pixels.height(),
                        faces: faces
                            .iter()
                            .map(|face| FaceRecord::new(face, &labels))
                            .collect(),
                    };
                    let text = if self.json {
                        record.json()
                    } else {
                        record.words()
                    };
                    progress.suspend(|| print(text.as_bytes()))?;
                    if let Some(album) = &mut album {
                        album.add(picture, pixels, &faces, &labels)?;
                    }
                }
                Err(problem) => {
                    unreadable += 1;
                    let sentence = format!("skipped {}: {problem}", picture.name());
                    progress.suspend(|| complain(&sentence));
                }
            }
            progress.inc(1);
        }
        progress.finish_and_clear();
        if unreadable > 0 {
            let sentence = format!(
                "{unreadable} of {} pictures could not be read",
                pictures.len()
            );
            return Err(Failure::new(Failure::DATA, sentence));
        }
        Ok(())
    }
}

/// Every face is classified, also those whose verdict is unsure for their size
/// or score, so that a record always says what the head makes of them.
fn look(
    pipeline: &mut Pipeline,
    judge: &VerdictPolicy,
    pixels: &RgbImage,
) -> Result<Vec<FaceResult>, PipelineError> {
    let faces = pipeline.detect(pixels)?;
    let looks = pipeline.classify(pixels, &faces)?;
    let seen = faces.into_iter().zip(looks).map(|(face, look)| FaceResult {
        face,
        track: None,
        verdict: judge.judge(&face, &look.probabilities),
        probabilities: Some(look.probabilities),
    });
    Ok(seen.collect())
}

fn progress(pictures: usize) -> ProgressBar {
    if pictures < LONG_LIST {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(pictures as u64);
    match ProgressStyle::with_template("{wide_bar} {pos}/{len} pictures, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl PictureRecord {
    fn json(&self) -> String {
        // Only a map with other keys than strings could fail here.
        serde_json::to_string(self)
            .map(|line| line + "\n")
            .unwrap_or_default()
    }

    fn words(&self) -> String {
        let faces = match self.faces.len() {
            0 => "no face".to_owned(),
            1 => "1 face".to_owned(),
            count => format!("{count} faces"),
        };
        let mut text = format!("{}: {faces}\n", self.picture);
        for face in &self.faces {
            let [x, y, width, height] = face.rect.map(f64::round);
            let probabilities: Vec<String> = face
                .probabilities
                .iter()
                .flat_map(Probabilities::iter)
                .map(|(label, p)| format!("{label} {:.1} %", p * 100.0))
                .collect();
            let _ = writeln!(
                text,
                "  {:<12}  {}  at {x},{y} size {width}x{height}",
                face.verdict,
                probabilities.join(", "),
            );
        }
        text
    }
}

/// The folder of annotated pictures.
struct Album<'a> {
    folder: &'a Path,
    taken: HashSet<String>,
}

impl Album<'_> {
    fn open(folder: &Path) -> Result<Album<'_>, Failure> {
        std::fs::create_dir_all(folder).map_err(|error| {
            let folder = folder.display();
            Failure::new(
                Failure::CANNOT_WRITE,
                format!("cannot make the folder {folder}: {error}"),
            )
        })?;
        Ok(Album {
            folder,
            taken: HashSet::new(),
        })
    }

    fn add(
        &mut self,
        picture: &Picture,
        mut pixels: RgbImage,
        faces: &[FaceResult],
        labels: &[String],
    ) -> Result<(), Failure> {
        let internal = |error: &dyn std::fmt::Display| {
            Failure::new(
                Failure::INTERNAL,
                format!("cannot annotate {}: {error}", picture.name()),
            )
        };
        annotate::draw(&mut pixels, faces, labels).map_err(|error| internal(&error))?;
        let mut bytes = Cursor::new(Vec::new());
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        pixels
            .write_with_encoder(encoder)
            .map_err(|error| internal(&error))?;
        let path = self.folder.join(self.name(&picture.stem()));
        files::write(&path, bytes.get_ref()).map_err(|error| {
            let path = path.display();
            Failure::new(
                Failure::CANNOT_WRITE,
                format!("cannot write {path}: {error}"),
            )
        })
    }

    /// Pictures of several folders may share a name; none replaces another.
    fn name(&mut self, stem: &str) -> String {
        let mut name = format!("{stem}.annotated.jpg");
        let mut number = 1;
        while !self.taken.insert(name.clone()) {
            number += 1;
            name = format!("{stem}-{number}.annotated.jpg");
        }
        name
    }
}
