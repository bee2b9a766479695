//! `maskd privacy`, which shows what the config means for the people in front of the camera.

use clap::Args;

use super::{Failure, Global, print, print_json};
use crate::config::privacy::PrivacyRecord;

#[derive(Debug, Args)]
pub(super) struct Privacy {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Privacy {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let record = PrivacyRecord::of(&global.load_config()?);
        if self.json {
            print_json(&record)
        } else {
            print(record.text())
        }
    }
}
