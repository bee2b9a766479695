//! `maskd samples`, which manages the stored face pictures.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::backend::{self, Backend};
use super::output::{SMALL_FILE, can_write, write};
use super::text::{counts, kib, shown};
use super::{Failure, Global, complain, ids, label, print, print_json};
use crate::frame::names::{Unused, summarize};
use crate::learning::{
    LearningError, Purge, QualityFilter, SampleFilter, SampleRecord, UNLABELLED, UnusedRecord,
};
use crate::platform::text::{counted, printable};

/// Maximum length of the user's answer to a question, in bytes.
const MAX_ANSWER: u64 = 256;

#[derive(Debug, Subcommand)]
pub(super) enum Samples {
    /// List the face pictures
    ///
    /// A face picture is listed if it matches all of the options.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show what is known about a face picture
    Show {
        /// The ID of the face picture, or at least its first four characters
        id: String,
        /// Write the picture to this file
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Bring discarded face pictures back, with the labels that they had
    ///
    /// Discarded face pictures are kept for a day. "maskd samples list
    /// --discarded" lists them.
    Restore {
        /// The IDs of the face pictures, or at least their first four characters
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Count the face pictures by label
    Stats {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy the face pictures to a folder that "maskd train --dataset" can read
    ///
    /// If a daemon is running, it writes the files, so its user must have write
    /// access to the folder.
    Export {
        /// The folder to write to; files that are already in it are not changed
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Add face pictures from a folder with one subfolder per label
    ///
    /// If a daemon is running, it reads the files, so its user must have read
    /// access to the folder.
    Import {
        /// The folder to read from
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Delete face pictures and their features permanently
    ///
    /// Discarded face pictures are deleted too, if they match.
    Purge {
        /// Only pictures with this label; "unlabelled" selects those without a label
        /// [default: all]
        #[arg(long)]
        label: Option<String>,
        /// Only pictures that are more than N days old
        #[arg(long, value_name = "N")]
        older_than_days: Option<u32>,
        /// Only pictures that were discarded
        #[arg(long)]
        discarded: bool,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

/// Selects the face pictures to list.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only pictures with this label; "unlabelled" selects those without a label
    #[arg(long)]
    label: Option<String>,
    /// Only pictures for which the model in use predicts this label
    #[arg(long, value_name = "LABEL")]
    predicted: Option<String>,
    /// Only pictures whose label looked wrong to the last training
    #[arg(long)]
    suspect: bool,
    /// Only the pictures that the last training tested with the worst results
    #[arg(long)]
    worst: bool,
    /// Only pictures of tracks with this number
    #[arg(long, value_name = "N")]
    track: Option<u64>,
    /// Only pictures of this day, in UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    day: Option<String>,
    /// Only pictures of this quality: good, bad, or one flaw, which is small,
    /// blurred, dark, cut-off, or no-face
    #[arg(long)]
    quality: Option<QualityFilter>,
    /// List the discarded pictures that can still be restored, instead of the
    /// others
    #[arg(long)]
    discarded: bool,
}

impl Filter {
    /// Whether the filter selects by label and by nothing else.
    fn label_alone(&self) -> Option<&str> {
        let Filter {
            label,
            predicted: None,
            suspect: false,
            worst: false,
            track: None,
            day: None,
            quality: None,
            discarded: false,
        } = self
        else {
            return None;
        };
        label.as_deref()
    }
}

impl From<Filter> for SampleFilter {
    fn from(filter: Filter) -> SampleFilter {
        SampleFilter {
            label: filter.label,
            predicted: filter.predicted,
            suspect: filter.suspect,
            worst: filter.worst,
            track: filter.track,
            day: filter.day,
            quality: filter.quality,
            discarded: filter.discarded,
            ..SampleFilter::default()
        }
    }
}

impl Samples {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        // Options that cannot work are rejected before the state directory is opened.
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
            Samples::List { filter, json } => list(backend, filter, json),
            Samples::Show { id, picture, json } => show(backend, id, picture, json),
            Samples::Restore { ids } => restore(backend, ids),
            Samples::Stats { json } => stats(backend, json),
            Samples::Export { folder } => export(backend, &folder),
            Samples::Import { folder } => import(global, backend, &folder),
            Samples::Purge {
                label,
                older_than_days,
                discarded,
                yes,
            } => {
                let selection = Purge {
                    label,
                    older_than_days,
                    discarded,
                };
                purge(backend, &selection, yes)
            }
        }
    }
}

fn list(backend: &dyn Backend, filter: Filter, json: bool) -> Result<(), Failure> {
    let label = filter.label_alone().map(str::to_owned);
    let filter = SampleFilter::from(filter);
    let samples = backend.samples(&filter)?;
    complain_about_unused(backend)?;
    if samples.is_empty() {
        if let Some(label) = label {
            return Err(none_with(&label));
        }
        if filter != SampleFilter::default() {
            let sentence = "no face pictures match these options";
            return Err(Failure::new(Failure::NO_INPUT, sentence));
        }
    }
    if json {
        return print_json(&samples);
    }
    print(table(&samples))
}

fn none_with(label: &str) -> Failure {
    let sentence = match label {
        UNLABELLED => "there are no face pictures without a label".to_owned(),
        label => format!("there are no face pictures labeled {label}"),
    };
    Failure::new(Failure::NO_INPUT, sentence)
}

/// Formats face pictures as lines below a header. Without face pictures, there is no
/// header.
fn table(samples: &[SampleRecord]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let has_predictions = samples.iter().any(|sample| sample.predicted.is_some());
    // The tracks of imported pictures have long names.
    let tracks = samples.iter().map(|sample| printable(&sample.track));
    let width = tracks.map(|track| track.chars().count()).max();
    let width = width.unwrap_or_default().max(5);
    let row = |[id, label, day, track, predicted, size, notes]: [&str; 7]| {
        let mut line = format!("{id:<36} {label:<16} {day:<10} {track:<width$} ");
        if has_predictions {
            line += &format!("{predicted:<22} ");
        }
        format!("{line}{size:>9}  {notes}\n")
    };
    let header = ["ID", "LABEL", "DAY", "TRACK", "PREDICTED", "SIZE", "NOTES"];
    let mut text = row(header);
    for sample in samples {
        let predicted = match (&sample.predicted, sample.probability) {
            (Some(label), Some(probability)) => {
                format!("{} {:.0}%", printable(label), 100.0 * probability)
            }
            _ => "-".to_owned(),
        };
        text += &row([
            &printable(&sample.id),
            &printable(sample.label.as_deref().unwrap_or("-")),
            &sample.day,
            &printable(&sample.track),
            &predicted,
            &kib(sample.bytes),
            &notes(sample),
        ]);
    }
    text
}

/// Returns what is special about a face picture, as a list of words.
fn notes(sample: &SampleRecord) -> String {
    let stored = match (sample.picture, sample.features) {
        (true, true) => "picture, features",
        (true, false) => "picture",
        (false, _) => "features",
    };
    let mut notes = vec![stored.to_owned()];
    notes.extend(sample.flaws.iter().map(ToString::to_string));
    if sample.suspect {
        notes.push("suspect".to_owned());
    }
    if sample.worst {
        notes.push("worst".to_owned());
    }
    notes.join(", ")
}

fn show(
    backend: &dyn Backend,
    id: String,
    picture: Option<PathBuf>,
    json: bool,
) -> Result<(), Failure> {
    let id = ids::resolve(backend, vec![id], false)?.remove(0);
    let filter = SampleFilter {
        id: Some(id.clone()),
        predictions: true,
        ..SampleFilter::default()
    };
    let mut samples = backend.samples(&filter)?;
    samples.retain(|sample| sample.id == id);
    let Some(sample) = samples.first() else {
        return Err(LearningError::NoSample(id).into());
    };
    if let Some(path) = picture {
        write(&path, &backend.picture(&id)?)?;
    }
    if json {
        print_json(sample)
    } else {
        print(table(&samples))
    }
}

fn restore(backend: &dyn Backend, words: Vec<String>) -> Result<(), Failure> {
    let ids = ids::resolve(backend, words, true)?;
    let result = backend.restore(ids)?;
    print(format!("{} restored\n", result.done.len()))?;
    label::report(&result.failed)
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
        text += &format!("already there: {}\n", counted(record.already, "picture"));
    }
    if record.feature_only > 0 {
        text += &format!(
            "without a picture: {}\n",
            counted(record.feature_only, "sample")
        );
    }
    for path in &record.taken {
        text += &format!("not changed: {}\n", shown(path));
    }
    print(&text)?;
    if record.taken.is_empty() {
        return Ok(());
    }
    let sentence = format!(
        "cannot write {}, because of other files with the same name",
        counted(record.taken.len(), "picture")
    );
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
}

fn import(global: &Global, backend: &dyn Backend, folder: &Path) -> Result<(), Failure> {
    let before = backend.stats()?;
    let record = backend.import(folder)?;
    let added = record.added.iter().map(|(label, count)| (label, *count));
    let mut text = format!("added: {}\n", counts(added));
    if record.already > 0 {
        text += &format!("already there: {}\n", counted(record.already, "picture"));
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
    label::tell_side(global, &before, record.added.keys())?;
    if !record.unreadable.is_empty() {
        let sentence = format!("cannot use {}", counted(record.unreadable.len(), "picture"));
        return Err(Failure::new(Failure::DATA, sentence));
    }
    if record.added.is_empty() && record.already == 0 && record.other_label.is_empty() {
        let sentence = match record.ignored.len() {
            0 => format!("{} has no pictures", folder.display()),
            count => format!(
                "{} has no pictures that can be imported (other files and folders: {count})",
                folder.display()
            ),
        };
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    Ok(())
}

fn purge(backend: &dyn Backend, selection: &Purge, yes: bool) -> Result<(), Failure> {
    let is_of = |unused: &UnusedRecord, label: &str| unused.path.starts_with(label);
    let of_label = |label: &str, discarded: bool| {
        let filter = SampleFilter {
            discarded,
            ..SampleFilter::with_label(Some(label))
        };
        backend.samples(&filter)
    };
    if let Some(label) = &selection.label
        && of_label(label, true)?.is_empty()
        && (selection.discarded || of_label(label, false)?.is_empty())
        && !backend.unused()?.iter().any(|unused| is_of(unused, label))
    {
        return Err(none_with(label));
    }
    if !yes && !confirm(&question(selection))? {
        return Err(Failure::new(Failure::TEMPORARY, "nothing was deleted"));
    }
    let removed = backend.purge(selection)?;
    let mut text = format!(
        "deleted face pictures: {} unlabeled, {} labeled, {}\n",
        removed.unlabelled,
        removed.labelled,
        kib(removed.bytes)
    );
    if removed.discarded > 0 {
        text += &format!("deleted discarded face pictures: {}\n", removed.discarded);
    }
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
        "some files or folders were not deleted ({count}), because they are not maskd's face \
         pictures: check them, and delete them yourself"
    );
    Err(Failure::new(Failure::DATA, sentence))
}

/// Reports the files and folders that are in the sample folders but are not used.
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
        None if selection.discarded => "Permanently delete the discarded face pictures".to_owned(),
        None => "Permanently delete ALL face pictures".to_owned(),
        Some(UNLABELLED) => "Permanently delete the face pictures without a label".to_owned(),
        Some(label) => format!("Permanently delete the face pictures labeled {label}"),
    };
    if let Some(days) = selection.older_than_days {
        question += &format!(" that are more than {} old", counted(days, "day"));
    }
    question
}

/// Asks a question on the terminal. Any answer except `y` or `yes` counts as no.
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
