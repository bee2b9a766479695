//! `maskd classify`, which gives verdicts on the faces in pictures.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;

use super::output::{make_folder, write};
use super::pictures::{Picture, expand};
use super::progress::picture_bar;
use super::{Failure, Global, complain, print, print_json, recognizer};
use crate::decision::annotate;
use crate::decision::frame_result::{FaceResult, PictureRecord, Probabilities};
use crate::platform::text::printable;

#[derive(Debug, Args)]
pub(super) struct Classify {
    /// Pictures, folders of pictures, or "-" for a picture from standard input
    /// [default: the built-in examples]
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,

    /// Print one JSON object per picture, each on its own line
    #[arg(long)]
    json: bool,

    /// Write each picture with boxes and labels to this folder, as
    /// NAME.annotated.jpg
    #[arg(long, value_name = "DIR")]
    annotate: Option<PathBuf>,
}

impl Classify {
    /// Classifies the pictures with the configured head. If `--state` is given, uses the
    /// head that is in use in that state directory instead.
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = global.load_config()?;
        let pictures = expand(&self.pictures)?;
        let mut recognizer = recognizer::open(&config, global)?;
        let labels = recognizer.labels().to_vec();
        let annotated = self.annotate.as_deref().map(AnnotatedFolder::open);
        let mut annotated = annotated.transpose()?;
        let progress = picture_bar(pictures.len());
        let mut unreadable = 0_usize;
        for picture in &pictures {
            match picture.pixels() {
                Ok(pixels) => {
                    let faces = recognizer.faces(&pixels)?;
                    let record = recognizer.record(picture.name(), &pixels, &faces);
                    progress.suspend(|| {
                        if self.json {
                            print_json(&record)
                        } else {
                            print(as_text(&record))
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

/// Returns the record of a picture as text for people.
fn as_text(record: &PictureRecord) -> String {
    let faces = match record.faces.len() {
        0 => "no face".to_owned(),
        1 => "1 face".to_owned(),
        count => format!("{count} faces"),
    };
    let mut text = format!("{}: {faces}\n", printable(&record.picture));
    for face in &record.faces {
        let [x, y, width, height] = face.rect.map(f64::round);
        let probabilities: Vec<String> = face
            .probabilities
            .iter()
            .flat_map(Probabilities::iter)
            .map(|(label, p)| format!("{label} {:.1}%", p * 100.0))
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
/// The folder for the annotated pictures.
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

    /// Returns a file name that this command has not used yet. Pictures from different
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
