//! `maskd heads` and `maskd rollback`, for the models that this device trained.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::text::{model_name, shown};
use super::{Failure, Global, backend, outcome, print, print_json};
use crate::learning::HeadRecord;

#[derive(Debug, Subcommand)]
pub(super) enum Heads {
    /// List the learned models, and show which one is in use
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a learned model and the training that made it
    Show {
        /// The number of the model
        number: u32,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy a learned model to an ONNX file
    Export {
        /// The number of the model
        number: u32,
        /// The file to write
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Use the model of an ONNX file
    ///
    /// It must have the same labels and the same backbone as the model in use.
    Import {
        /// The file: a head, or a classifier of backbone and head
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// How many models to go back
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

impl Heads {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let backend = backend::open(global)?;
        match self {
            Heads::List { json } => {
                let heads = backend.heads()?;
                if json {
                    return print_json(&heads);
                }
                let mut text = String::new();
                if !heads.iter().any(|head| head.current) {
                    text += "the built-in model is in use\n";
                }
                text += &heads.iter().map(head_line).collect::<String>();
                print(&text)
            }
            Heads::Show { number, json } => {
                let head = backend.head(number)?;
                if json {
                    return print_json(&head);
                }
                let mut text = head_line(&head);
                if let Some(outcome) = &head.outcome {
                    text += &outcome::outcome(outcome);
                }
                print(&text)
            }
            Heads::Export { number, path } => {
                backend.export_head(number, &path)?;
                print(format!("model {number} is written to {}\n", shown(&path)))
            }
            Heads::Import { path } => print_in_use(backend.import_head(&path)?),
        }
    }
}

impl Rollback {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        print_in_use(backend::open(global)?.rollback(self.steps)?)
    }
}

fn print_in_use(number: Option<u32>) -> Result<(), Failure> {
    print(format!("{} is in use now\n", model_name(number)))
}

/// Formats a line of the list of models. An asterisk marks the model in use.
fn head_line(head: &HeadRecord) -> String {
    let mark = if head.current { '*' } else { ' ' };
    if let Some(damage) = &head.damage {
        return format!("{mark} model {}  damaged: {damage}\n", head.number);
    }
    let measured = head.outcome.as_ref().and_then(|o| o.measured.as_ref());
    let accuracy = measured.map_or(String::new(), |measured| {
        format!(", accuracy {:.1} %", 100.0 * measured.after.accuracy)
    });
    format!(
        "{mark} model {}  from {}, recipe {}, labels {}{accuracy}\n",
        head.number,
        model_name(head.parent),
        if head.recipe.is_empty() {
            "unknown"
        } else {
            &head.recipe
        },
        head.labels.join(", ")
    )
}
