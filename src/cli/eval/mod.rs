//! `maskd eval`, which measures how good a model is.

mod dataset;
mod frames;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::{SMALL_FILE, can_write, write};
use super::{Failure, Global, print};
use crate::training::report::Report;

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// Evaluate the classifier alone on the whole pictures in this folder, which
    /// has one subfolder per class
    #[arg(long, value_name = "DIR", required_unless_present = "frames")]
    dataset: Option<PathBuf>,

    /// Evaluate everything from the detection of faces to the verdicts on the
    /// photographs in this folder, each with a Pascal VOC .xml file of the same
    /// name
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,

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

/// What `maskd eval --report` writes.
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
            can_write(path, SMALL_FILE)?;
        }
        let mut record = Record::default();
        if let Some(folder) = &self.dataset {
            let evaluation = dataset::evaluate(folder, &config, global)?;
            print(evaluation.text(&config, self.threshold)?)?;
            record.pictures = evaluation.pictures();
            record.dataset = Some(evaluation.report);
        }
        if let Some(folder) = &self.frames {
            let frames = frames::evaluate(folder, &config, global)?;
            print(frames.table())?;
            record.frames = Some(frames);
        }
        if let Some(path) = &self.report {
            let json = serde_json::to_string(&record)
                .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
            write(path, (json + "\n").as_bytes())?;
        }
        Ok(())
    }
}
