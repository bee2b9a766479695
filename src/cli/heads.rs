//! `maskd heads` and `maskd rollback`, which manage the models that this device has
//! trained.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::text::{model_name, shown};
use super::{Failure, Global, backend, outcome, print, print_json};
use crate::learning::{HeadRecord, SwitchRecord};
use crate::platform::text::printable;

#[derive(Debug, Subcommand)]
pub(super) enum Heads {
    /// List the models, and show which one is in use
    ///
    /// The built-in model has the number 0. An asterisk marks the model in use.
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a model and the training that produced it
    Show {
        /// The number of the model
        number: u32,
        /// Also print the figures of the comparison
        #[arg(long)]
        details: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show which model came into use when, and why
    ///
    /// The switches are shown in their order, oldest first. The times are those that the
    /// clock showed.
    History {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Copy a model to an ONNX file
    Export {
        /// The number of the model
        number: u32,
        /// The file to write
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Use the model with this number
    ///
    /// This works forward and back. 0 is the built-in model. A damaged model, or one that
    /// does not fit the classifier, is refused, and the model in use stays.
    Use {
        /// The number of the model
        number: u32,
    },
    /// Use the model in an ONNX file
    ///
    /// The model must have the same labels and the same backbone as the model in use.
    Import {
        /// The file with a head, or with a classifier that consists of backbone and head
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// Number of models to go back
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
                print(heads.iter().map(head_line).collect::<String>())
            }
            Heads::Show {
                number,
                details,
                json,
            } => {
                let head = backend.head(number)?;
                if json {
                    return print_json(&head);
                }
                let mut text = head_line(&head);
                if let Some(outcome) = &head.outcome {
                    text += &outcome::outcome(outcome, details);
                }
                print(&text)
            }
            Heads::History { json } => {
                let history = backend.history()?;
                if json {
                    return print_json(&history);
                }
                if history.is_empty() {
                    return print("the built-in model has been in use since the start\n");
                }
                print(history.iter().map(switch_line).collect::<String>())
            }
            Heads::Export { number, path } => {
                backend.export_head(number, &path)?;
                print(format!("model {number} was written to {}\n", shown(&path)))
            }
            Heads::Use { number } => print_in_use(backend.use_head(number)?),
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

/// Formats a line of the history.
fn switch_line(switch: &SwitchRecord) -> String {
    let time = printable(&switch.time).replace(['T', 'Z'], " ");
    let clock = if switch.clock_synchronized {
        "UTC"
    } else {
        "UTC, clock not synchronized"
    };
    let name = model_name((switch.head > 0).then_some(switch.head));
    format!(
        "{:>3}  {} {clock}  {name}: {}\n",
        switch.sequence,
        time.trim_end(),
        printable(&switch.to_string())
    )
}

/// Formats a line of the list of models. An asterisk marks the model in use.
fn head_line(head: &HeadRecord) -> String {
    let mark = if head.current { '*' } else { ' ' };
    if let Some(damage) = &head.damage {
        return format!("{mark} model {}  damaged: {damage}\n", head.number);
    }
    if head.number == 0 {
        let labels = head.labels.join(", ");
        return format!("{mark} model 0  the built-in model, labels {labels}\n");
    }
    let measured = head.outcome.as_ref().and_then(|o| o.measured.as_ref());
    let accuracy = measured.map_or(String::new(), |measured| {
        format!(", accuracy {:.1}%", 100.0 * measured.after.accuracy)
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
