//! The command line with its subcommands, logs, and exit codes.
//!
//! This module handles everything that a user types and reads. It reports every failure
//! as one sentence on standard error and an exit code from `sysexits.h`.

mod backend;
mod bench;
mod check;
mod classify;
mod counts;
mod enroll;
mod eval;
mod failure;
mod fleet;
mod global;
mod heads;
mod help;
mod ids;
mod interrupt;
mod label;
mod log_thread;
mod logs;
mod outcome;
mod output;
mod passwd;
mod pictures;
mod pins_off;
mod privacy;
mod progress;
mod recognizer;
mod refit;
mod run;
mod samples;
mod service;
mod setup;
mod status;
mod terminal;
mod text;
mod train;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};
use serde::Serialize;

use crate::api::web;
use crate::camera::text_without_secrets;
use crate::indicate::ConsoleStyle;
use crate::platform::text::{printable, printable_json, printable_lines};

use failure::Failure;
use global::{Global, socket_path};

/// Finds the faces in camera frames, determines whether each one wears a mask, and
/// controls LEDs, a buzzer, and a door.
#[derive(Debug, Parser)]
#[command(
    name = "maskd",
    version,
    long_version = help::LONG_VERSION.as_str(),
    max_term_width = 100,
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon, which watches a camera and shows decisions
    ///
    /// Runs until SIGINT or SIGTERM, or until the source ends if it does not
    /// repeat. Without hardware, decisions are shown on the console.
    Run(run::Run),
    /// Classify the faces in pictures
    Classify(classify::Classify),
    /// Train a model on a folder of pictures
    Train(Box<train::Train>),
    /// Evaluate a model on a data set, or all of maskd on photographs
    Eval(eval::Eval),
    /// Show what the daemon is doing, and which face pictures and models there are
    ///
    /// If no daemon is running, this shows what the state directory contains, and
    /// the exit code is 69.
    Status(status::Status),
    /// Show how many people passed with and without a mask, by hour or day
    ///
    /// Passages are counted if counts.enabled is true. The hours are those of the local
    /// time. If no daemon is running, this shows what the state directory contains.
    Counts(counts::Counts),
    /// Show what the config stores, for how long, and who can see it
    ///
    /// Also prints a text for a sign at the door. All of it follows from the config.
    Privacy(privacy::Privacy),
    /// Label face pictures, or delete them
    Label(label::Label),
    /// Have the daemon label the face that it sees now
    ///
    /// Stores face pictures with the label until there are enough. If the time runs
    /// out first, the exit code is 75, and the pictures stored so far are kept.
    Enroll(enroll::Enroll),
    /// List, count, copy, and delete face pictures
    #[command(subcommand)]
    Samples(samples::Samples),
    /// Train on this device with the labeled face pictures
    ///
    /// The new model is used only if it passes a test: it must be clearly better
    /// on face pictures that it was not trained on, and must not forget what the
    /// built-in model can do. The exit code is 0 in either case.
    Refit(refit::Refit),
    /// List, show, copy, and switch between the models of this device
    #[command(subcommand)]
    Heads(heads::Heads),
    /// Go back to the model that the present one was trained from
    ///
    /// "maskd heads use" switches to any model.
    Rollback(heads::Rollback),
    /// Share models with other devices through their broker
    #[command(subcommand)]
    Fleet(fleet::Fleet),
    /// Set up the camera, the pins, the page, and the broker
    ///
    /// Asks for each of them, tests it, and writes the config, whose comments are kept.
    /// With options, it asks only for what they do not set, and without a terminal, it asks
    /// nothing. For the config of the service, it also gives the service access to the
    /// network if the page, the broker, or the camera needs it, and restarts the service.
    Setup(Box<setup::Setup>),
    /// Check the config and the models, and show the hardware
    Check(check::Check),
    /// Create a password hash or a token for the web page
    ///
    /// Reads the password from the terminal without showing it, or as a line from
    /// standard input. The hash is the value for web.password-hash.
    Passwd(passwd::Passwd),
    /// Print the description of the HTTP API in OpenAPI's JSON format
    Openapi,
    /// Switch off all output pins after a daemon was killed
    ///
    /// The service does this whenever it ends (ExecStopPost=). The daemon records which
    /// pins it uses, so this also works if the config has since been changed or broken.
    PinsOff,
    /// Measure load time, time per stage, frames per second, and memory
    Bench(bench::Bench),
    /// Print the completion script for a shell
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each subcommand
    Man {
        /// Write maskd.1, maskd-run.1 and so on to this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Parses the command line, runs the command, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // clap returns the help and version texts as errors, but prints them to
            // standard output.
            let is_usage = error.use_stderr();
            let printed = if is_usage {
                write!(std::io::stderr(), "{}", usage_error(&error))
            } else {
                error.print()
            };
            return match (is_usage, printed) {
                (false, Ok(())) => ExitCode::SUCCESS,
                (false, Err(error)) => Failure::output(&error).exit.into(),
                (true, _) => Failure::USAGE.into(),
            };
        }
    };
    let outcome = std::panic::catch_unwind(|| run(cli));
    log_thread::flush();
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Failure { exit, sentence })) => {
            if !sentence.is_empty() {
                complain(&sentence);
            }
            exit.into()
        }
        // The panic hook has already printed a message.
        Err(_) => Failure::INTERNAL.into(),
    }
}

fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Cli, clap::Error> {
    let matches = help::command().try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

/// Returns the message about incorrect usage. The message quotes arguments, which may
/// contain control characters. The arguments are therefore parsed again with these
/// characters escaped.
fn usage_error(error: &clap::Error) -> String {
    let arguments = std::env::args_os().map(|argument| {
        let argument = argument.to_string_lossy().into_owned();
        printable(&argument).into_owned()
    });
    let text = match parse(arguments) {
        Err(escaped) if escaped.kind() == error.kind() => escaped.render().to_string(),
        _ => error.render().to_string(),
    };
    // The arguments may also contain the address of a camera with its password.
    printable_lines(&text_without_secrets(&text)).into_owned()
}

/// Prints one sentence to standard error. Escapes control characters, and hides secrets
/// such as the login in an address. If standard error is closed, the error is ignored,
/// because there is nowhere else to report it.
fn complain(sentence: &str) {
    let sentence = text_without_secrets(sentence);
    let sentence = printable(&sentence);
    let _ = writeln!(std::io::stderr(), "maskd: {sentence}");
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, global } = cli;
    let live = matches!(&command, Command::Run(run) if run.style() == ConsoleStyle::Live);
    // A live console already shows on its status line what is happening.
    let quiet = live || !matches!(command, Command::Run(_));
    let is_daemon = matches!(command, Command::Run(_));
    logs::start(global.log_filter().as_deref(), quiet, live, is_daemon)?;
    match command {
        Command::Run(run) => run.run(&global),
        Command::Classify(classify) => classify.run(&global),
        Command::Train(train) => train.run(&global.load_config()?),
        Command::Eval(eval) => eval.run(&global),
        Command::Status(status) => status.run(&global),
        Command::Counts(counts) => counts.run(&global),
        Command::Privacy(privacy) => privacy.run(&global),
        Command::Label(label) => label.run(&global),
        Command::Enroll(enroll) => enroll.run(&global),
        Command::Samples(samples) => samples.run(&global),
        Command::Refit(refit) => refit.run(&global),
        Command::Heads(heads) => heads.run(&global),
        Command::Rollback(rollback) => rollback.run(&global),
        Command::Fleet(fleet) => fleet.run(&global),
        Command::Setup(setup) => setup.run(&global),
        Command::Check(check) => check.run(&global),
        Command::Passwd(passwd) => passwd.run(),
        Command::Openapi => print(web::description()),
        Command::PinsOff => pins_off::pins_off(&global),
        Command::Bench(bench) => bench.run(&global.load_config()?),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut help::command(), "maskd", &mut text);
            print_bytes(&text)
        }
        Command::Man { out } => man(out.as_deref()),
    }
}

/// Writes text to standard output and keeps its line breaks. Names in the text must
/// therefore already have been escaped by [`printable`].
fn print(text: impl AsRef<str>) -> Result<(), Failure> {
    print_bytes(printable_lines(text.as_ref()).as_bytes())
}

fn print_bytes(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.map_err(|error| Failure::output(&error))
}

/// Writes one line of JSON to standard output.
fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value).map_err(|error| {
        let sentence = format!("cannot write JSON: {error}");
        Failure::new(Failure::INTERNAL, sentence)
    })?;
    print_bytes((printable_json(&json) + "\n").as_bytes())
}

fn man(out: Option<&Path>) -> Result<(), Failure> {
    let command = help::command();
    let Some(folder) = out else {
        let mut page = Vec::new();
        help::man_page(command, &mut page).map_err(|error| Failure::output(&error))?;
        return print_bytes(&page);
    };
    output::make_folder(folder)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    man_pages(command, folder)
}

/// Writes the manual page of a command and the manual pages of its subcommands.
fn man_pages(command: clap::Command, folder: &Path) -> Result<(), Failure> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        man_pages(sub.clone(), folder)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    help::man_page(command, &mut page).map_err(|error| Failure::output(&error))?;
    output::write(&file, &page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_valid() {
        help::command().debug_assert();
    }

    #[test]
    fn state_may_precede_or_follow_the_subcommand() {
        for line in [
            ["maskd", "--state", "s", "check"],
            ["maskd", "check", "--state", "s"],
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.state_dir().unwrap(), Path::new("s"));
        }
    }
}
