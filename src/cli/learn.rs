//! Learning on the device: `status`, `label`, `enroll`, `samples`, `refit`,
//! `heads` and `rollback`.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::backend::{Backend, daemon};
use super::interrupt::Interrupt;
use super::outcome;
use super::output::{SMALL_FILE, can_write, write};
use super::{Failure, Global, complain, print};
use crate::api::socket::{self, Client, MAX_ENROLLED};
use crate::learning::heads::Heads;
use crate::learning::samples::Store;
use crate::learning::{
    self, CountRecord, Enrollment, HeadRecord, LabelAction, LearningError, Purge, SampleRecord,
    SampleSelector, UNLABELLED,
};

/// How often the daemon is asked how an enrollment goes on.
const POLL: Duration = Duration::from_millis(200);
/// Crops that were taken when an enrollment ends are on disk after so many polls.
const LAST_POLLS: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "maskd label [OPTIONS] ID… LABEL\n       maskd label [OPTIONS] --track N LABEL"
)]
pub(super) struct Label {
    /// Ids of samples, and last the label that they get: a name of your own,
    /// "unlabelled" to take theirs away, or "discard" to delete picture and
    /// features
    #[arg(value_name = "ID… LABEL", required = true)]
    words: Vec<String>,

    /// In place of ids: the samples without a label of the newest track of this
    /// number
    #[arg(long, value_name = "N")]
    track: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// What the daemon sees now: a label
    label: String,

    /// How many crops to take
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ENROLLED)))]
    count: u32,

    /// How long to try
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
}

#[derive(Debug, Subcommand)]
pub(super) enum Samples {
    /// List the samples
    List {
        /// Those of this label, or "unlabelled"
        #[arg(long)]
        label: Option<String>,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a sample
    Show {
        /// Its id
        id: String,
        /// Write its picture to this file
        #[arg(long, value_name = "FILE")]
        picture: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Count the samples of each label
    Stats {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy the pictures to a folder, as "maskd train --dataset" takes it
    ///
    /// A running daemon does it, so its user must be allowed to write there.
    Export {
        /// The folder; what is in it is left as it is
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Copy face crops from a folder with one folder of pictures a label
    ///
    /// A running daemon does it, so its user must be allowed to read them.
    Import {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Delete samples with their features for good
    Purge {
        /// Those of this label, or "unlabelled" [default: all]
        #[arg(long)]
        label: Option<String>,
        /// Those older than this
        #[arg(long, value_name = "N")]
        older_than_days: Option<u32>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Refit {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum HeadsCommand {
    /// List the heads, and which is in use
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a head and the refit that made it
    Show {
        /// Its number
        number: u32,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy a head to a file
    Export {
        /// Its number
        number: u32,
        /// The file
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Put the head of a file into use
    ///
    /// It must have the labels of the head in use, and the same backbone.
    Import {
        /// The file: a head, or a classifier
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// How many heads to go back
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

/// What `maskd status --json` prints without a daemon.
#[derive(Debug, Serialize)]
struct AtRest {
    version: &'static str,
    state: PathBuf,
    /// Number of the head that a daemon would use; absent is the shipped one.
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<u32>,
    /// How many there are.
    heads: usize,
    /// Counts by label.
    samples: BTreeMap<String, CountRecord>,
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string(value)
        .map_err(|error| Failure::new(Failure::INTERNAL, format!("no JSON: {error}")))?;
    print((json + "\n").as_bytes())
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

/// "with_mask 3, without_mask 4".
fn tally<'a>(counts: impl Iterator<Item = (&'a String, usize)>) -> String {
    let counts: Vec<String> = counts
        .map(|(label, count)| format!("{label} {count}"))
        .collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

fn of_samples(counts: &BTreeMap<String, CountRecord>) -> String {
    tally(counts.iter().map(|(label, count)| (label, count.samples)))
}

fn head_name(number: Option<u32>) -> String {
    number.map_or("the shipped head".to_owned(), |n| format!("head {n}"))
}

impl Status {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let config = global.load_config()?;
        let state = global.state_dir()?;
        if let Some(client) = daemon(global, &config, &state)? {
            let status = client.status()?;
            return if self.json {
                print_json(&status)
            } else {
                print(words(&status).as_bytes())
            };
        }
        let listing = Store::read_only(&state).list();
        let heads = learning::head_records(&Heads::read_only(&state));
        let heads = heads.map_err(LearningError::from)?;
        let at_rest = AtRest {
            version: env!("CARGO_PKG_VERSION"),
            head: heads
                .iter()
                .find(|head| head.current)
                .map(|head| head.number),
            heads: heads.len(),
            samples: learning::counts(&listing.map_err(LearningError::from)?),
            state,
        };
        if self.json {
            print_json(&at_rest)?;
        } else {
            let text = format!(
                "samples     {}\nheads       {}, {} in use\n",
                of_samples(&at_rest.samples),
                at_rest.heads,
                head_name(at_rest.head)
            );
            print(text.as_bytes())?;
        }
        let sentence = format!("no daemon is running for {}", at_rest.state.display());
        Err(Failure::new(Failure::UNAVAILABLE, sentence))
    }
}

fn words(status: &socket::Status) -> String {
    let socket::Status {
        version,
        state,
        live,
        samples,
        enrollment,
        new_labels,
        last_refit,
    } = status;
    let camera = if live.camera_lost {
        "lost, being opened anew"
    } else {
        "there"
    };
    let camera = match live.camera_losses {
        0 => camera.to_owned(),
        1 => format!("{camera}, lost once since the start"),
        times => format!("{camera}, lost {times} times since the start"),
    };
    let capture = match (&live.capture.off_because, live.capture.on) {
        (Some(why), _) => format!("off, because {why}"),
        (None, false) => "off".to_owned(),
        (None, true) if live.capture.pictures => "on, pictures and features".to_owned(),
        (None, true) => "on, features alone".to_owned(),
    };
    let waits = live.learning_waits.as_ref();
    let waits = waits.map_or(String::new(), |why| {
        format!("; learning waits, since {why}")
    });
    let mut text = format!(
        "maskd {version}, state directory {}\n\
         decision    {}, faces: {}\n\
         camera      {camera}; {} frames looked at, {} skipped\n\
         board       {}{waits}\n\
         head        {}, labels {}\n\
         capture     {capture}; {} stored, {} dropped since the start\n\
         samples     {}; {new_labels} labels are new since the last refit\n",
        state.display(),
        live.decision,
        live.faces,
        live.frames,
        live.skipped,
        live.board,
        head_name(live.head),
        live.labels.join(", "),
        live.capture.stored,
        live.capture.dropped,
        of_samples(samples),
    );
    if let Some(Enrollment {
        label,
        wanted,
        taken: _,
        stored,
    }) = enrollment
    {
        text += &format!("enrollment   {label}: {stored} of {wanted}\n");
    }
    if live.refitting {
        text += "refit       going on\n";
    } else if let Some(record) = last_refit {
        let first = outcome::refit(record);
        let first = first.lines().next().unwrap_or_default();
        text += &format!("last refit  {first}\n");
    }
    text
}

impl Label {
    pub(super) fn run(mut self, global: &Global) -> Result<(), Failure> {
        let label = self.words.pop().unwrap_or_default();
        let chosen = match (self.track, self.words.is_empty()) {
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
        let mark = match label.as_str() {
            "discard" => LabelAction::Discard,
            UNLABELLED => LabelAction::Unlabelled,
            name => LabelAction::As(name.to_owned()),
        };
        let marked = Backend::open(global)?.mark(chosen, &mark)?;
        let done = marked.done.len();
        let mut text = match mark {
            LabelAction::Discard => format!("{done} deleted"),
            LabelAction::Unlabelled => format!("{done} without a label now"),
            LabelAction::As(_) => format!("{done} labelled {label}"),
        };
        if !marked.already.is_empty() {
            text += &format!(", {} were so before", marked.already.len());
        }
        let mut failed = marked.failed.iter();
        let Some((id, why)) = failed.next() else {
            return print((text + "\n").as_bytes());
        };
        print((text + "\n").as_bytes())?;
        let sentence = if failed.len() == 0 {
            format!("{id}: {why}")
        } else {
            for (id, why) in &marked.failed {
                complain(&format!("{id}: {why}"));
            }
            format!("{} samples stay as they were", marked.failed.len())
        };
        Err(Failure::new(Failure::NO_INPUT, sentence))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a person waits for the end of the enrollment"
)]
fn now() -> Instant {
    Instant::now()
}

impl Enroll {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let state = global.state_dir()?;
        let Some(client) = daemon(global, &global.load_config()?, &state)? else {
            let sentence = format!(
                "no daemon is running for {}: start \"maskd run\" to enroll what it sees",
                state.display()
            );
            return Err(Failure::new(Failure::UNAVAILABLE, sentence));
        };
        // From here on Ctrl-C must end the enrollment.
        let interrupt = Interrupt::catch()?;
        client.enroll(&self.label, self.count)?;
        let watched = self.watch(&client, &interrupt);
        let ended = client.end_enrollment();
        let was_interrupted = watched?;
        let mut enrollment = ended?;
        for _ in 0..LAST_POLLS {
            if enrollment.stored >= enrollment.taken {
                break;
            }
            std::thread::sleep(POLL);
            enrollment = client.enrollment()?;
        }
        let Enroll {
            label,
            count,
            seconds,
        } = self;
        let stored = enrollment.stored;
        if stored >= count {
            return print(format!("{stored} crops of {label} were kept\n").as_bytes());
        }
        let mut sentence = if was_interrupted {
            format!("interrupted: {stored} of {count} crops of {label} were kept")
        } else {
            format!("{stored} of {count} crops of {label} were kept within {seconds} s")
        };
        if let Some(why) = client.status()?.live.capture.off_because {
            sentence += &format!("; capturing is off, because {why}");
        }
        Err(Failure::new(Failure::TEMPORARY, sentence))
    }

    /// Waits until there are crops enough, or no time is left; tells whether it
    /// was interrupted.
    fn watch(&self, client: &Client, interrupt: &Interrupt) -> Result<bool, Failure> {
        let bar = ProgressBar::new(u64::from(self.count));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} crops, {msg}") {
            bar.set_style(style);
        }
        let limit = Duration::from_secs(u64::from(self.seconds));
        let start = now();
        let mut told = None;
        let was_interrupted = loop {
            let stored = client.enrollment()?.stored;
            let left = limit.saturating_sub(now().duration_since(start));
            if bar.is_hidden() && told != Some(stored) {
                print(format!("{stored} of {}\n", self.count).as_bytes())?;
                told = Some(stored);
            }
            bar.set_position(u64::from(stored));
            bar.set_message(format!("{} s left", left.as_secs()));
            if interrupt.is_caught() {
                break true;
            }
            if stored >= self.count || left.is_zero() {
                break false;
            }
            std::thread::sleep(POLL);
        };
        bar.finish_and_clear();
        Ok(was_interrupted)
    }
}

impl Samples {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
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
            let sentence = "nobody can be asked whether to delete samples: confirm by --yes";
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        let reach = Backend::open(global)?;
        match self {
            Samples::List { label, json } => {
                let samples = reach.samples(label.as_deref())?;
                if let Some(label) = label.filter(|_| samples.is_empty()) {
                    return Err(none_of(&label));
                }
                if json {
                    return print_json(&samples);
                }
                print(samples.iter().map(line).collect::<String>().as_bytes())
            }
            Samples::Show { id, picture, json } => show(&reach, &id, picture, json),
            Samples::Stats { json } => {
                let stats = reach.stats()?;
                if json {
                    return print_json(&stats);
                }
                let mut text = format!(
                    "{:<24} {:>8} {:>13} {:>12}\n",
                    "", "samples", "features only", "size"
                );
                for (label, count) in &stats {
                    text += &format!(
                        "{label:<24} {:>8} {:>13} {:>12}\n",
                        count.samples,
                        count.feature_only,
                        kib(count.bytes)
                    );
                }
                print(text.as_bytes())
            }
            Samples::Export { folder } => export(&reach, &folder),
            Samples::Import { folder } => import(&reach, &folder),
            Samples::Purge {
                label,
                older_than_days,
                yes,
            } => {
                let purge = Purge {
                    label,
                    older_than_days,
                };
                self::purge(&reach, &purge, yes)
            }
        }
    }
}

fn none_of(label: &str) -> Failure {
    let sentence = match label {
        UNLABELLED => "there are no samples without a label".to_owned(),
        label => format!("there are no samples labelled {label}"),
    };
    Failure::new(Failure::NO_INPUT, sentence)
}

fn line(sample: &SampleRecord) -> String {
    let label = sample.label.as_deref().unwrap_or("-");
    let kept = match (sample.picture, sample.features) {
        (true, true) => "picture, features",
        (true, false) => "picture",
        (false, _) => "features",
    };
    format!(
        "{:<36} {label:<16} {} {:<12} {:>9}  {kept}\n",
        sample.id,
        sample.day,
        sample.track,
        kib(sample.bytes)
    )
}

fn show(reach: &Backend, id: &str, picture: Option<PathBuf>, json: bool) -> Result<(), Failure> {
    let samples = reach.samples(None)?;
    let sample = samples.into_iter().find(|sample| sample.id == id);
    let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
    if let Some(path) = picture {
        write(&path, &reach.picture(id)?)?;
    }
    if json {
        print_json(&sample)
    } else {
        print(line(&sample).as_bytes())
    }
}

fn export(reach: &Backend, folder: &std::path::Path) -> Result<(), Failure> {
    let record = reach.export(folder)?;
    let written = record.written.iter().map(|(label, count)| (label, *count));
    let mut text = format!("written: {}\n", tally(written));
    if record.already > 0 {
        text += &format!("{} pictures were there already\n", record.already);
    }
    if record.feature_only > 0 {
        text += &format!("{} samples have no picture\n", record.feature_only);
    }
    for path in &record.taken {
        text += &format!("left as it is: {}\n", path.display());
    }
    print(text.as_bytes())?;
    if record.taken.is_empty() {
        return Ok(());
    }
    let sentence = format!(
        "{} pictures could not be written: other files have their names",
        record.taken.len()
    );
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
}

fn import(reach: &Backend, folder: &std::path::Path) -> Result<(), Failure> {
    let record = reach.import(folder)?;
    let added = record.added.iter().map(|(label, count)| (label, *count));
    let mut text = format!("added: {}\n", tally(added));
    if record.already > 0 {
        text += &format!("{} pictures were there already\n", record.already);
    }
    for path in &record.other_label {
        text += &format!("has another label, and keeps it: {}\n", path.display());
    }
    for path in &record.ignored {
        text += &format!("passed over: {}\n", path.display());
    }
    for (path, why) in &record.unreadable {
        text += &format!("cannot be used: {}: {why}\n", path.display());
    }
    print(text.as_bytes())?;
    if !record.unreadable.is_empty() {
        let sentence = format!("{} pictures cannot be used", record.unreadable.len());
        return Err(Failure::new(Failure::DATA, sentence));
    }
    if record.added.is_empty() && record.already == 0 && record.other_label.is_empty() {
        let sentence = format!("{} holds no pictures", folder.display());
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    Ok(())
}

fn purge(reach: &Backend, purge: &Purge, yes: bool) -> Result<(), Failure> {
    if let Some(label) = &purge.label
        && reach.samples(Some(label))?.is_empty()
    {
        return Err(none_of(label));
    }
    if !yes {
        let mut question = "Delete for good ".to_owned();
        question += &match purge.label.as_deref() {
            None => "ALL samples".to_owned(),
            Some(UNLABELLED) => "the samples without a label".to_owned(),
            Some(label) => format!("the samples labelled {label}"),
        };
        if let Some(days) = purge.older_than_days {
            question += &format!(" older than {days} days");
        }
        if !confirmed(&question)? {
            return Err(Failure::new(Failure::TEMPORARY, "nothing was deleted"));
        }
    }
    let removed = reach.purge(purge)?;
    let text = format!(
        "deleted: {} samples without a label and {} with one, {}\n",
        removed.unlabelled,
        removed.labelled,
        kib(removed.bytes)
    );
    print(text.as_bytes())
}

/// Asks on the terminal; everything but a yes is a no.
fn confirmed(question: &str) -> Result<bool, Failure> {
    let mut errors = std::io::stderr();
    let mut line = String::new();
    let asked = write!(errors, "{question}? [y/N] ").and_then(|()| errors.flush());
    let answered = asked.and_then(|()| std::io::stdin().lock().read_line(&mut line));
    answered.map_err(|error| Failure::new(Failure::USAGE, format!("cannot ask: {error}")))?;
    let answer = line.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}

impl Refit {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let record = Backend::open(global)?.refit()?;
        if self.json {
            print_json(&record)
        } else {
            print(outcome::refit(&record).as_bytes())
        }
    }
}

impl HeadsCommand {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let reach = Backend::open(global)?;
        match self {
            HeadsCommand::List { json } => {
                let heads = reach.heads()?;
                if json {
                    return print_json(&heads);
                }
                let mut text = String::new();
                if !heads.iter().any(|head| head.current) {
                    text += "the shipped head is in use\n";
                }
                text += &heads.iter().map(head_line).collect::<String>();
                print(text.as_bytes())
            }
            HeadsCommand::Show { number, json } => {
                let head = reach.head(number)?;
                if json {
                    return print_json(&head);
                }
                let mut text = head_line(&head);
                if let Some(outcome) = &head.outcome {
                    text += &outcome::outcome(outcome);
                }
                print(text.as_bytes())
            }
            HeadsCommand::Export { number, path } => {
                reach.export_head(number, &path)?;
                print(format!("head {number} is in {}\n", path.display()).as_bytes())
            }
            HeadsCommand::Import { path } => in_use(reach.import_head(&path)?),
        }
    }
}

fn in_use(number: Option<u32>) -> Result<(), Failure> {
    print(format!("{} is in use now\n", head_name(number)).as_bytes())
}

fn head_line(head: &HeadRecord) -> String {
    let mark = if head.current { '*' } else { ' ' };
    if let Some(damage) = &head.damage {
        return format!("{mark} head {}  damaged: {damage}\n", head.number);
    }
    let measured = head.outcome.as_ref().and_then(|o| o.measured.as_ref());
    let accuracy = measured.map_or(String::new(), |measured| {
        format!(", {:.1} % right", 100.0 * measured.after.accuracy)
    });
    format!(
        "{mark} head {}  from {}, by {}, labels {}{accuracy}\n",
        head.number,
        head_name(head.parent),
        if head.recipe.is_empty() {
            "an unknown recipe"
        } else {
            &head.recipe
        },
        head.labels.join(", ")
    )
}

impl Rollback {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        in_use(Backend::open(global)?.rollback(self.steps)?)
    }
}
