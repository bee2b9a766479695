//! Opens the models for the commands that need verdicts but no tracks.

use super::{Failure, Global};
use crate::config::Config;
use crate::decision::decide::VerdictPolicy;
use crate::decision::recognizer::Recognizer;
use crate::vision::pipeline::Pipeline;

/// Opens the configured models. With `--state`, the head is the one that is in use in that
/// directory.
pub(super) fn open(config: &Config, global: &Global) -> Result<Recognizer, Failure> {
    let mut pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(0))?;
    if let Some(head) = global.learned_head(pipeline.head())? {
        pipeline.set_head(head);
    }
    let policy = VerdictPolicy::new(config.classify.verdict_options(), pipeline.head().labels())
        .map_err(|error| Failure::new(Failure::CONFIG, error))?;
    Ok(Recognizer::new(pipeline, policy))
}
