//! `maskd refit`, which trains on this device.

use clap::Args;

use super::{Failure, Global, backend, outcome, print, print_json};

#[derive(Debug, Args)]
pub(super) struct Refit {
    /// Vouch for the labels
    ///
    /// Labels that do not match what the faces look like, or that look wrong, then only
    /// cause a warning. The new model must still pass the other tests. Check the labels
    /// before you use this.
    #[arg(long)]
    labels_checked: bool,
    /// Also print the figures of the comparison
    #[arg(long)]
    details: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Refit {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let record = backend::open(global)?.refit(self.labels_checked)?;
        if self.json {
            print_json(&record)
        } else {
            print(outcome::refit(&record, self.details))
        }
    }
}
