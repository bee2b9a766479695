//! `maskd label`, which labels face pictures.

use clap::Args;

use super::backend;
use super::{Failure, Global, complain, print};
use crate::learning::{LabelAction, SampleSelector, UNLABELLED};

#[derive(Debug, Args)]
#[command(
    override_usage = "maskd label [OPTIONS] ID… LABEL\n       maskd label [OPTIONS] --track N LABEL"
)]
pub(super) struct Label {
    /// The ids of face pictures, followed by their label: any name,
    /// "unlabelled" to remove the label, or "discard" to delete the pictures
    /// with their features
    #[arg(value_name = "ID… LABEL", required = true)]
    words: Vec<String>,

    /// Instead of ids: the unlabelled face pictures of the newest track with
    /// this number
    #[arg(long, value_name = "N")]
    track: Option<u64>,
}

impl Label {
    pub(super) fn run(mut self, global: &Global) -> Result<(), Failure> {
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
        let result = backend::open(global)?.label(selector, &action)?;
        let count = result.done.len();
        let mut text = match action {
            LabelAction::Discard => format!("{count} deleted"),
            LabelAction::Unlabelled => format!("{count} without a label now"),
            LabelAction::As(_) => format!("{count} labelled {label}"),
        };
        if !result.already.is_empty() {
            text += &format!(", {} had this label before", result.already.len());
        }
        print(text + "\n")?;
        let failed: Vec<_> = result.failed.iter().collect();
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
}
