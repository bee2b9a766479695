//! The replay set that belongs to the base head: the configured file, or the built-in one.

use std::path::Path;

use crate::learning::LearningError;
use crate::learning::replay::{self, Replay};
use crate::platform::files;
use crate::vision::head::Head;

/// Features of the base training set, compiled into the program.
/// `models/README.md` describes how they were made.
pub static SHIPPED_REPLAY: &[u8] = include_bytes!("../../models/replay.bin");

/// Returns the replay set in `file`, which must fit `base`. Without a file, returns the
/// built-in replay set, or `None` if it does not fit.
///
/// # Errors
/// Returns [`LearningError::ReplayFile`] if the file cannot be read, or cannot be used with
/// `base`.
pub(crate) fn open_replay(
    file: Option<&Path>,
    base: &Head,
) -> Result<Option<Replay>, LearningError> {
    let Some(path) = file else {
        let replay = Replay::parse(SHIPPED_REPLAY)?;
        return Ok(misfit(&replay, base).is_none().then_some(replay));
    };
    let unusable = |problem| LearningError::ReplayFile {
        path: path.display().to_string(),
        problem,
    };
    let bytes = files::read_bounded(path, replay::MAX_BYTES as u64)
        .map_err(|error| unusable(error.source.to_string()))?;
    let replay = Replay::parse(&bytes).map_err(|error| unusable(error.to_string()))?;
    match misfit(&replay, base) {
        Some(problem) => Err(unusable(problem)),
        None => Ok(Some(replay)),
    }
}

/// Returns why a replay set cannot be used with a head, or `None` if it can.
fn misfit(replay: &Replay, base: &Head) -> Option<String> {
    if !base.is_for(&replay.backbone_sha256, replay.features()) {
        return Some("it was made with another backbone than the classifier's".to_owned());
    }
    if replay.train.is_empty() || replay.holdout.is_empty() {
        return Some("it has no rows to train on, or none to hold out".to_owned());
    }
    let mut labels = replay.labels.iter();
    let missing = labels.find(|label| !base.labels().contains(label))?;
    Some(format!(
        "it has the label {missing:?}, which the classifier does not have"
    ))
}
