//! `maskd samples`, for the stored face pictures.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::backend::{self, Backend};
use super::output::{SMALL_FILE, can_write, write};
use super::text::{counts, kib, shown};
use super::{Failure, Global, complain, print, print_json};
use crate::frame::names::{Unused, summarize};
use crate::learning::{LearningError, Purge, SampleRecord, UNLABELLED, UnusedRecord};
use crate::platform::text::printable;

/// Maximum length of an answer that is read, in bytes.
const MAX_ANSWER: u64 = 256;

#[derive(Debug, Subcommand)]
pub(super) enum Samples {
    /// List the face pictures
    List {
        /// Only those with this label, or "unlabelled"
        #[arg(long)]
        label: Option<String>,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show what is known about a face picture
    Show {
        /// The id of the face picture
        id: String,
        /// Write the picture to this file
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Count the face pictures by label
    Stats {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy the face pictures to a folder, in the form of "maskd train --dataset"
    ///
    /// If a daemon is running, it writes the files, so its user must have write
    /// access to the folder.
    Export {
        /// The folder; files that are in it are not changed
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Add face pictures from a folder that has one folder for each label
    ///
    /// If a daemon is running, it reads the files, so its user must have read
    /// access to the folder.
    Import {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Delete face pictures and their features permanently
    Purge {
        /// Only those with this label, or "unlabelled" [default: all]
        #[arg(long)]
        label: Option<String>,
        /// Only those that are more than N days old
        #[arg(long, value_name = "N")]
        older_than_days: Option<u32>,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

impl Samples {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        // Options that cannot work are refused before a state directory is opened.
        if let Samples::Show {
            picture: Some(path),
            ..
        } = &self
        {
            can_write(path, SMALL_FILE)?;
        }
        if let Samples::Purge { yes: false, .. } = &self
            && !std::io::stdin().is_terminal()
        {
            let sentence =
                "cannot ask for confirmation without a terminal: confirm the deletion with --yes";
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        let backend = backend::open(global)?;
        let backend = backend.as_ref();
        match self {
            Samples::List { label, json } => list(backend, label.as_deref(), json),
            Samples::Show { id, picture, json } => show(backend, &id, picture, json),
            Samples::Stats { json } => stats(backend, json),
            Samples::Export { folder } => export(backend, &folder),
            Samples::Import { folder } => import(backend, &folder),
            Samples::Purge {
                label,
                older_than_days,
                yes,
            } => {
                let selection = Purge {
                    label,
                    older_than_days,
                };
                purge(backend, &selection, yes)
            }
        }
    }
}

fn list(backend: &dyn Backend, label: Option<&str>, json: bool) -> Result<(), Failure> {
    let samples = backend.samples(label)?;
    complain_about_unused(backend)?;
    if let Some(label) = label.filter(|_| samples.is_empty()) {
        return Err(none_with(label));
    }
    if json {
        return print_json(&samples);
    }
    print(samples.iter().map(line).collect::<String>())
}

fn none_with(label: &str) -> Failure {
    let sentence = match label {
        UNLABELLED => "there are no face pictures without a label".to_owned(),
        label => format!("there are no face pictures labelled {label}"),
    };
    Failure::new(Failure::NO_INPUT, sentence)
}

fn line(sample: &SampleRecord) -> String {
    let label = printable(sample.label.as_deref().unwrap_or("-"));
    let stored = match (sample.picture, sample.features) {
        (true, true) => "picture, features",
        (true, false) => "picture",
        (false, _) => "features",
    };
    format!(
        "{:<36} {label:<16} {} {:<12} {:>9}  {stored}\n",
        printable(&sample.id),
        sample.day,
        printable(&sample.track),
        kib(sample.bytes)
    )
}

fn show(
    backend: &dyn Backend,
    id: &str,
    picture: Option<PathBuf>,
    json: bool,
) -> Result<(), Failure> {
    let samples = backend.samples(None)?;
    let sample = samples.into_iter().find(|sample| sample.id == id);
    let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
    if let Some(path) = picture {
        write(&path, &backend.picture(id)?)?;
    }
    if json {
        print_json(&sample)
    } else {
        print(line(&sample))
    }
}

fn stats(backend: &dyn Backend, json: bool) -> Result<(), Failure> {
    let stats = backend.stats()?;
    complain_about_unused(backend)?;
    if json {
        return print_json(&stats);
    }
    let mut text = format!(
        "{:<24} {:>8} {:>13} {:>12}\n",
        "", "samples", "features only", "size"
    );
    for (label, count) in &stats {
        text += &format!(
            "{:<24} {:>8} {:>13} {:>12}\n",
            printable(label),
            count.samples,
            count.feature_only,
            kib(count.bytes)
        );
    }
    print(&text)
}

fn export(backend: &dyn Backend, folder: &Path) -> Result<(), Failure> {
    let record = backend.export(folder)?;
    let written = record.written.iter().map(|(label, count)| (label, *count));
    let mut text = format!("written: {}\n", counts(written));
    if record.already > 0 {
        text += &format!("{} pictures are already there\n", record.already);
    }
    if record.feature_only > 0 {
        text += &format!("{} samples have no picture\n", record.feature_only);
    }
    for path in &record.taken {
        text += &format!("not changed: {}\n", shown(path));
    }
    print(&text)?;
    if record.taken.is_empty() {
        return Ok(());
    }
    let sentence = format!(
        "{} pictures were not written: there are other files with their names",
        record.taken.len()
    );
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
}

fn import(backend: &dyn Backend, folder: &Path) -> Result<(), Failure> {
    let record = backend.import(folder)?;
    let added = record.added.iter().map(|(label, count)| (label, *count));
    let mut text = format!("added: {}\n", counts(added));
    if record.already > 0 {
        text += &format!("{} pictures are already there\n", record.already);
    }
    for path in &record.other_label {
        text += &format!("already there with another label: {}\n", shown(path));
    }
    for sentence in summaries(record.ignored.clone(), folder) {
        text += &format!("{}\n", printable(&sentence));
    }
    for (path, why) in &record.unreadable {
        text += &format!("cannot be used: {}: {}\n", shown(path), printable(why));
    }
    print(&text)?;
    if !record.unreadable.is_empty() {
        let sentence = format!("{} pictures cannot be used", record.unreadable.len());
        return Err(Failure::new(Failure::DATA, sentence));
    }
    if record.added.is_empty() && record.already == 0 && record.other_label.is_empty() {
        let sentence = match record.ignored.len() {
            0 => format!("{} has no pictures", folder.display()),
            count => format!(
                "{} has no pictures that can be imported, and {count} other files or folders",
                folder.display()
            ),
        };
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    Ok(())
}

fn purge(backend: &dyn Backend, selection: &Purge, yes: bool) -> Result<(), Failure> {
    let is_of = |unused: &UnusedRecord, label: &str| unused.path.starts_with(label);
    if let Some(label) = &selection.label
        && backend.samples(Some(label))?.is_empty()
        && !backend.unused()?.iter().any(|unused| is_of(unused, label))
    {
        return Err(none_with(label));
    }
    if !yes && !confirm(&question(selection))? {
        return Err(Failure::new(Failure::TEMPORARY, "nothing was deleted"));
    }
    let removed = backend.purge(selection)?;
    let mut text = format!(
        "deleted: {} unlabelled and {} labelled face pictures, {}\n",
        removed.unlabelled,
        removed.labelled,
        kib(removed.bytes)
    );
    if removed.by_running_time {
        text += "The clock is not synchronized with a time server, or it jumped within the last \
                 day, so ages counted only the time that the daemon ran.\n";
    }
    print(&text)?;
    if removed.left.is_empty() {
        return Ok(());
    }
    let count = removed.left.len();
    for sentence in summaries(removed.left, Path::new("")) {
        complain(&sentence);
    }
    let sentence = format!(
        "{count} files or folders were not deleted, because they are not face pictures of maskd: \
         look into them, and delete them yourself"
    );
    Err(Failure::new(Failure::DATA, sentence))
}

/// Reports what is in the folders of the samples and is not used.
fn complain_about_unused(backend: &dyn Backend) -> Result<(), Failure> {
    for sentence in summaries(backend.unused()?, Path::new("")) {
        complain(&sentence);
    }
    Ok(())
}

fn summaries(unused: Vec<UnusedRecord>, base: &Path) -> Vec<String> {
    let unused: Vec<Unused> = unused.into_iter().map(Into::into).collect();
    summarize(&unused, base)
}

fn question(selection: &Purge) -> String {
    let mut question = match selection.label.as_deref() {
        None => "Permanently delete ALL face pictures".to_owned(),
        Some(UNLABELLED) => "Permanently delete the face pictures without a label".to_owned(),
        Some(label) => format!("Permanently delete the face pictures labelled {label}"),
    };
    if let Some(days) = selection.older_than_days {
        question += &format!(" that are more than {days} days old");
    }
    question
}

/// Asks a question on the terminal. Any answer except yes counts as no.
fn confirm(question: &str) -> Result<bool, Failure> {
    let mut errors = std::io::stderr();
    let mut line = String::new();
    let asked = write!(errors, "{}? [y/N] ", printable(question)).and_then(|()| errors.flush());
    let answered = asked.and_then(|()| {
        let mut input = std::io::stdin().lock().take(MAX_ANSWER);
        input.read_line(&mut line)
    });
    answered.map_err(|error| {
        let sentence = format!("cannot ask for confirmation: {error}");
        Failure::new(Failure::USAGE, sentence)
    })?;
    let answer = line.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}
