//! `maskd eval`, which measures how good a model is.

mod dataset;
mod error_sheet;
mod faces;
mod frames;
mod labeled;
mod truth;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::{can_write, write};
use super::recognizer;
use super::text::shown;
use super::{Failure, Global, print};
use crate::config::Config;
use crate::training::report::Report;
use error_sheet::ErrorSheet;
use truth::Truths;

/// Upper limit on the size of a report, in bytes. A report has about 500 bytes for each
/// picture.
const MAX_REPORT: usize = 16 << 20;

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// Evaluate the classifier alone on the whole pictures in this folder, which
    /// has one subfolder per class
    #[arg(long, value_name = "DIR", required_unless_present_any = ["frames", "faces"])]
    dataset: Option<PathBuf>,

    /// Evaluate everything from detection to verdict on the photographs in this folder,
    /// each with a Pascal VOC .xml file of the same name
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,

    /// Evaluate everything from detection to verdict on the pictures in this folder,
    /// which are in LABEL, CAMERA/LABEL, or LABEL/CAMERA; the largest face of a picture
    /// counts
    #[arg(long, value_name = "DIR")]
    faces: Option<PathBuf>,

    /// Also draw all pictures of --faces whose result is not right, on the pages of a
    /// contact sheet in this folder
    #[arg(long, value_name = "DIR", requires = "faces")]
    errors: Option<PathBuf>,

    /// With --faces and --frames: a label, unknown to the model, for masked faces; may be
    /// repeated
    #[arg(long, value_name = "LABEL")]
    masked_label: Vec<String>,

    /// With --faces and --frames: a label, unknown to the model, for faces without a mask
    /// or with an improperly worn mask; may be repeated
    #[arg(long, value_name = "LABEL")]
    unmasked_label: Vec<String>,

    /// The model to evaluate, which is a classifier or a head [default: the
    /// configured one, or the one in use in the --state DIR]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Also show the scores at other thresholds
    #[arg(long)]
    threshold: bool,

    /// Write the report to this JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The object that `maskd eval --report` writes.
#[derive(Debug, Default, Serialize)]
struct Record {
    /// The report of `--dataset`, with the same keys as `maskd train --report`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    dataset: Option<Report>,
    /// The pictures of `--dataset`, sorted by class and then by file name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pictures: Vec<dataset::PictureRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<frames::FramesRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    faces: Option<faces::FacesRecord>,
}

impl Eval {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut config = global.load_config()?;
        if let Some(model) = &self.model {
            if global.state.is_some() {
                let sentence = "name --model or --state, not both: one model is evaluated";
                return Err(Failure::new(Failure::USAGE, sentence));
            }
            config.models.classifier = Some(model.clone());
        }
        if let Some(path) = &self.report {
            can_write(path, MAX_REPORT)?;
        }
        let mut record = Record::default();
        if let Some(folder) = &self.dataset {
            let evaluation = dataset::evaluate(folder, &config, global)?;
            print(evaluation.text(&config, self.threshold)?)?;
            record.pictures = evaluation.pictures();
            record.dataset = Some(evaluation.report);
        }
        if self.frames.is_some() || self.faces.is_some() {
            self.evaluate_whole_system(&config, global, &mut record)?;
        }
        if let Some(path) = &self.report {
            let json = serde_json::to_string(&record)
                .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
            write(path, (json + "\n").as_bytes())?;
        }
        Ok(())
    }

    /// Evaluates everything from detection to verdict.
    fn evaluate_whole_system(
        &self,
        config: &Config,
        global: &Global,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let sheet = self.errors.as_deref().map(ErrorSheet::open).transpose()?;
        let mut recognizer = recognizer::open(config, global)?;
        let truths = Truths::new(
            recognizer.labels(),
            &config.classify.masked_labels,
            &self.masked_label,
            &self.unmasked_label,
        )?;
        if let Some(folder) = &self.frames {
            let frames = frames::evaluate(folder, &mut recognizer, &truths)?;
            print(frames.table())?;
            record.frames = Some(frames);
        }
        if let Some(folder) = &self.faces {
            let (faces, wrong) = faces::evaluate(folder, &mut recognizer, &truths)?;
            print(faces.table())?;
            record.faces = Some(faces);
            if let (Some(sheet), Some(folder)) = (sheet, &self.errors) {
                let pages = sheet.write(&wrong, recognizer.labels())?;
                let count = |count: usize, one: &str| match count {
                    1 => format!("1 {one}"),
                    count => format!("{count} {one}s"),
                };
                print(format!(
                    "{} on {} in {}\n",
                    count(wrong.len(), "error"),
                    count(pages, "page"),
                    shown(folder)
                ))?;
            }
        }
        Ok(())
    }
}
