//! `maskd refit`, which trains on this device.

use clap::Args;

use super::{Failure, Global, backend, outcome, print, print_json};

#[derive(Debug, Args)]
pub(super) struct Refit {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Refit {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let record = backend::open(global)?.refit()?;
        if self.json {
            print_json(&record)
        } else {
            print(outcome::refit(&record))
        }
    }
}
