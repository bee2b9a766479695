//! `maskd label`, which labels face pictures.

use std::collections::BTreeMap;

use clap::Args;

use super::{Failure, Global, backend, complain, ids, print};
use crate::learning::{CountRecord, LabelAction, SampleSelector, UNLABELLED, UndoRecord};
use crate::platform::text::counted;

#[derive(Debug, Args)]
#[command(
    override_usage = "maskd label [OPTIONS] ID… LABEL\n       maskd label [OPTIONS] --track N LABEL\n       maskd label [OPTIONS] --undo"
)]
pub(super) struct Label {
    /// The IDs of face pictures, or at least their first four characters,
    /// followed by their label: any name, "unlabelled" to remove the label, or
    /// "discard" to throw the pictures away ("maskd samples restore" brings
    /// them back for a day)
    #[arg(value_name = "ID… LABEL", required_unless_present = "undo")]
    words: Vec<String>,

    /// Instead of IDs: label the unlabeled face pictures of the newest track
    /// with this number
    #[arg(long, value_name = "N")]
    track: Option<u64>,

    /// Take the last labeling back. Face pictures that were labeled again
    /// since are not changed. Each use goes one labeling further back
    #[arg(long, conflicts_with_all = ["words", "track"])]
    undo: bool,
}

impl Label {
    pub(super) fn run(mut self, global: &Global) -> Result<(), Failure> {
        if self.undo {
            let record = backend::open(global)?.undo()?;
            print(undone(&record) + "\n")?;
            return report(&record.failed);
        }
        let label = self.words.pop().unwrap_or_default();
        let selector = match (self.track, self.words.is_empty()) {
            (Some(track), true) => SampleSelector::Track(track),
            (None, false) => SampleSelector::Ids(self.words),
            (Some(_), false) => {
                let sentence = "name ids or a track, not both: label --track N LABEL";
                return Err(Failure::new(Failure::USAGE, sentence));
            }
            (None, true) => {
                let sentence = "name at least one id before the label: label ID… LABEL";
                return Err(Failure::new(Failure::USAGE, sentence));
            }
        };
        let action = match label.as_str() {
            "discard" => LabelAction::Discard,
            UNLABELLED => LabelAction::Unlabelled,
            name => LabelAction::As(name.to_owned()),
        };
        let backend = backend::open(global)?;
        let before = backend.stats()?;
        let selector = match selector {
            SampleSelector::Ids(words) => {
                SampleSelector::Ids(ids::resolve(backend.as_ref(), words, false)?)
            }
            track @ SampleSelector::Track(_) => track,
        };
        let result = backend.label(selector, &action)?;
        let count = result.done.len();
        let mut text = format!("{count} {}", outcome(&action));
        if !result.already.is_empty() {
            text += &format!(", {} already had this label", result.already.len());
        }
        print(text + "\n")?;
        if let LabelAction::As(label) = &action
            && !result.done.is_empty()
        {
            tell_side(global, &before, [label])?;
        }
        report(&result.failed)
    }
}

/// Says that faces with these labels count as not masked, unless that is known: some face pictures
/// had the label before, or the config names it. `before` are the labels before the action.
pub(super) fn tell_side<'a>(
    global: &Global,
    before: &BTreeMap<String, CountRecord>,
    labels: impl IntoIterator<Item = &'a String>,
) -> Result<(), Failure> {
    let config = global.load_config()?;
    let named = [
        &config.indicate.with_mask_label,
        &config.indicate.without_mask_label,
    ];
    for label in labels {
        let is_known = before.contains_key(label)
            || label == UNLABELLED
            || named.contains(&label)
            || config.classify.masked_labels.contains(label);
        if !is_known {
            complain(&format!(
                "faces with the new label {label} count as not masked (classify.masked-labels in \
                 the config)"
            ));
        }
    }
    Ok(())
}

/// Describes what an action did to face pictures.
fn outcome(action: &LabelAction) -> String {
    match action {
        LabelAction::Discard => "discarded".to_owned(),
        LabelAction::Unlabelled => "without a label now".to_owned(),
        LabelAction::As(label) => format!("labeled {label}"),
    }
}

fn undone(record: &UndoRecord) -> String {
    let action = match &record.mark {
        LabelAction::Discard => "discarded".to_owned(),
        LabelAction::Unlabelled => "without a label".to_owned(),
        LabelAction::As(label) => format!("labeled {label}"),
    };
    let mut text = format!("taken back: {} {action}", record.done.len());
    if !record.changed.is_empty() {
        let changed = counted(record.changed.len(), "other");
        text += &format!(" ({changed} changed since)");
    }
    text
}

/// Reports the face pictures that were not changed.
pub(super) fn report(failed: &BTreeMap<String, String>) -> Result<(), Failure> {
    let failed: Vec<_> = failed.iter().collect();
    let sentence = match failed.as_slice() {
        [] => return Ok(()),
        [(id, why)] => format!("{id}: {why}"),
        several => {
            for (id, why) in several {
                complain(&format!("{id}: {why}"));
            }
            format!("{} face pictures were not changed", several.len())
        }
    };
    Err(Failure::new(Failure::NO_INPUT, sentence))
}
