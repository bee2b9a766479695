//! Shows the progress of a command on the terminal, and stops a training run on Ctrl-C.

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use super::{Failure, complain};
use crate::training::run::{Progress, Stage};
use crate::training::train::EpochRecord;

/// Minimum number of pictures for which a progress bar is shown.
const MIN_PICTURES: usize = 10;

/// Creates a progress bar with `length` steps.
pub(super) fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Creates a progress bar for processing pictures. The bar is hidden if there are only a
/// few pictures.
pub(super) fn picture_bar(pictures: usize) -> ProgressBar {
    if pictures < MIN_PICTURES {
        return ProgressBar::hidden();
    }
    bar(
        pictures as u64,
        "{wide_bar} {pos}/{len} pictures, {eta} left",
    )
}

/// Shows the progress of a run as bars on standard error.
pub(super) struct TerminalProgress {
    interrupt: Interrupt,
    bar: ProgressBar,
}

impl TerminalProgress {
    /// Starts catching Ctrl-C, so that it stops the run in an orderly way.
    pub(super) fn new() -> Result<TerminalProgress, Failure> {
        Ok(TerminalProgress {
            interrupt: Interrupt::catch()?,
            bar: ProgressBar::hidden(),
        })
    }
}

impl Progress for TerminalProgress {
    fn start(&mut self, stage: Stage, total: usize) {
        let template = match stage {
            Stage::ReadPictures => "{wide_bar} {pos}/{len} pictures read, {eta} left",
            Stage::EmbedTraining => "{wide_bar} {pos}/{len} training pictures, {eta} left",
            Stage::EmbedReplay => "{wide_bar} {pos}/{len} replay pictures, {eta} left",
            Stage::EmbedEvaluation => "{wide_bar} {pos}/{len} evaluation pictures, {eta} left",
            Stage::Train => "{wide_bar} epoch {pos}/{len} {msg}, {eta} left",
        };
        self.bar = bar(total as u64, template);
    }

    fn advance(&mut self, done: usize) -> bool {
        self.bar.set_position(done as u64);
        !self.interrupt.is_caught()
    }

    fn epoch(&mut self, record: &EpochRecord) {
        let EpochRecord {
            epoch,
            learning_rate: _,
            loss,
            accuracy,
            val_loss,
            val_accuracy,
        } = *record;
        self.bar.set_message(format!(
            "loss {loss:.4}, accuracy {accuracy:.4}, validation {val_loss:.4}, {val_accuracy:.4}"
        ));
        tracing::debug!(epoch, loss, accuracy, val_loss, val_accuracy, "epoch done");
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn warn(&mut self, sentence: &str) {
        complain(sentence);
    }
}
