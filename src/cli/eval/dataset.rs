//! `maskd eval --dataset`, which evaluates the classifier alone on whole pictures.

use std::path::Path;

use serde::Serialize;

use crate::cli::progress::TerminalProgress;
use crate::cli::text::shown;
use crate::cli::{Failure, Global};
use crate::config::Config;
use crate::decision::frame_result::Probabilities;
use crate::training::dataset::Dataset;
use crate::training::recipe::EmbedMode;
use crate::training::report::{self, Report};
use crate::training::run::{LabelledPicture, UsableDataset, embed, workers};
use crate::vision::embed::Backbone;
use crate::vision::pipeline::open_model;

/// Number of pictures in the list of the worst pictures.
const WORST: usize = 10;

/// The classifier's prediction for a picture.
#[derive(Debug, Serialize)]
pub(super) struct PictureRecord {
    /// Path within the data set.
    picture: String,
    /// The name of the picture's folder.
    label: String,
    probabilities: Probabilities,
}

pub(super) struct Evaluation {
    pub(super) report: Report,
    dataset: Dataset,
    pictures: Vec<LabelledPicture>,
    /// Matrix of shape `[pictures, labels]` in row-major order.
    probabilities: Vec<f32>,
}

pub(super) fn evaluate(
    folder: &Path,
    config: &Config,
    global: &Global,
) -> Result<Evaluation, Failure> {
    let mut progress = TerminalProgress::new()?;
    let threads = config.classify.threads(0);
    let usable = UsableDataset::read(
        &Dataset::open_for_evaluation(folder)?,
        threads,
        &mut progress,
    )?;
    let (backbone, base) = open_model(config.models.classifier.as_deref())?;
    let learned = global.learned_head(&base)?;
    let head = learned.as_deref().unwrap_or(&base);
    let pictures = usable.labelled(head.labels())?;
    let mut workers = workers(&Backbone::new(backbone, base.features())?, None, threads)?;
    let set = embed(&mut workers, &pictures, EmbedMode::Plain, &mut progress)?;
    let mut probabilities = Vec::new();
    for feature in set.features.chunks(set.width) {
        probabilities.extend(head.probabilities_of(feature));
    }
    let report = Report::new(&set.labels, &probabilities, head.labels(), None)
        .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
    Ok(Evaluation {
        report,
        dataset: usable.dataset,
        pictures,
        probabilities,
    })
}

impl Evaluation {
    pub(super) fn pictures(&self) -> Vec<PictureRecord> {
        let labels = &self.report.labels;
        let rows = self.probabilities.chunks(labels.len());
        let pictures = self.pictures.iter().zip(rows).enumerate();
        let record = |(index, (picture, row)): (usize, (&LabelledPicture, &[f32]))| PictureRecord {
            picture: self.dataset.name(index),
            label: labels[picture.class].clone(),
            probabilities: Probabilities::new(labels, row, 1e6),
        };
        pictures.map(record).collect()
    }

    /// Formats the report and the worst pictures. If `sweep` is true, also formats the
    /// scores at other thresholds.
    pub(super) fn text(&self, config: &Config, sweep: bool) -> Result<String, Failure> {
        let labels = &self.report.labels;
        let mut text = self.report.to_string();
        text += "\nworst pictures, with the probability of their label\n";
        let rows = self.probabilities.chunks(labels.len());
        let mut worst: Vec<(f32, &LabelledPicture)> = rows
            .zip(&self.pictures)
            .map(|(row, picture)| (row[picture.class], picture))
            .collect();
        worst.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (p, picture) in worst.iter().take(WORST) {
            text += &format!("{:>7.2}%  {}\n", p * 100.0, shown(&picture.path));
        }
        if sweep {
            let masked = &config.classify.masked_labels;
            let class = labels.iter().position(|label| masked.contains(label));
            let class = class.unwrap_or(0);
            let truth: Vec<usize> = self.pictures.iter().map(|picture| picture.class).collect();
            let thresholds: Vec<f32> = (1..20).map(|step| step as f32 / 20.0).collect();
            let rows =
                report::threshold_sweep(&truth, &self.probabilities, labels, class, &thresholds)
                    .map_err(|error| Failure::new(Failure::USAGE, error))?;
            text += &format!("\nscores by the threshold for {}\n", labels[class]);
            text += &report::sweep_table(labels, &rows);
        }
        Ok(text)
    }
}
