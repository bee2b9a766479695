//! `maskd classify`, which gives verdicts on the faces in pictures.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use indicatif::ProgressBar;
use serde::Serialize;

use super::output::{make_folder, write};
use super::pictures::{Picture, expand};
use super::progress::bar;
use super::{Failure, Global, complain, print, print_json};
use crate::decision::annotate;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::{FaceRecord, FaceResult, Probabilities};
use crate::platform::text::printable;
use crate::vision::pipeline::{Pipeline, PipelineError};

/// Minimum number of pictures for which a progress bar is shown.
const MIN_PROGRESS: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Classify {
    /// Pictures, or folders of pictures; without any, the built-in examples
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,

    /// Print one JSON object per picture, each on a line
    #[arg(long)]
    json: bool,

    /// Write each picture with boxes and labels to this folder, as
    /// NAME.annotated.jpg
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
}

/// A line of the output of `maskd classify --json`, whose format is documented.
#[derive(Debug, Serialize)]
struct PictureRecord {
    /// The path as given on the command line.
    picture: String,
    /// Width of the picture as displayed, in pixels.
    width: u32,
    /// Height of the picture as displayed, in pixels.
    height: u32,
    /// Faces in descending order of their detector scores.
    faces: Vec<FaceRecord>,
}

impl Classify {
    /// Classifies the pictures with the configured head or, with `--state`, with the
    /// head that is in use in that directory.
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = global.load_config()?;
        let pictures = expand(&self.pictures)?;
        let mut pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(0))?;
        if let Some(head) = global.learned_head(pipeline.head())? {
            pipeline.set_head(head);
        }
        let labels = pipeline.head().labels().to_vec();
        let policy = VerdictPolicy::new(config.classify.verdict_options(), &labels)
            .map_err(|error| Failure::new(Failure::CONFIG, error))?;
        let annotated = self.annotate.as_deref().map(AnnotatedFolder::open);
        let mut annotated = annotated.transpose()?;
        let progress = progress(pictures.len());
        let mut unreadable = 0_usize;
        for picture in &pictures {
            match picture.pixels() {
                Ok(pixels) => {
                    let faces = classify(&mut pipeline, &policy, &pixels)?;
                    let record = PictureRecord {
                        picture: picture.name(),
                        width: pixels.width(),
                        height: pixels.height(),
                        faces: faces
                            .iter()
                            .map(|face| FaceRecord::new(face, &labels))
                            .collect(),
                    };
                    progress.suspend(|| {
                        if self.json {
                            print_json(&record)
                        } else {
                            print(record.text())
                        }
                    })?;
                    if let Some(annotated) = &mut annotated {
                        annotated.add(picture, pixels, &faces, &labels)?;
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

/// Classifies every face, even if its size or score makes the verdict unsure, so that
/// every record contains probabilities.
fn classify(
    pipeline: &mut Pipeline,
    policy: &VerdictPolicy,
    pixels: &RgbImage,
) -> Result<Vec<FaceResult>, PipelineError> {
    let faces = pipeline.detect(pixels)?;
    let classified = pipeline.classify(pixels, &faces)?;
    let results = faces.into_iter().zip(classified);
    let results = results.map(|(face, class)| FaceResult {
        face,
        track: None,
        verdict: policy.verdict(&face, &class.probabilities),
        probabilities: Some(class.probabilities),
    });
    Ok(results.collect())
}

fn progress(pictures: usize) -> ProgressBar {
    if pictures < MIN_PROGRESS {
        return ProgressBar::hidden();
    }
    bar(
        pictures as u64,
        "{wide_bar} {pos}/{len} pictures, {eta} left",
    )
}

impl PictureRecord {
    fn text(&self) -> String {
        let faces = match self.faces.len() {
            0 => "no face".to_owned(),
            1 => "1 face".to_owned(),
            count => format!("{count} faces"),
        };
        let mut text = format!("{}: {faces}\n", printable(&self.picture));
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

/// The folder that annotated pictures are written to.
struct AnnotatedFolder<'a> {
    folder: &'a Path,
    taken: HashSet<String>,
}

impl AnnotatedFolder<'_> {
    fn open(folder: &Path) -> Result<AnnotatedFolder<'_>, Failure> {
        make_folder(folder)?;
        Ok(AnnotatedFolder {
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
        write(&path, bytes.get_ref())
    }

    /// Returns a file name that is not taken yet, because pictures from different
    /// folders may have the same name.
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
