//! `maskd eval --faces`, which evaluates everything from detection to verdict. The
//! pictures are sorted into folders by label. Only the largest face in each picture
//! counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::labeled::{LabeledPicture, Listing};
use super::truth::{
    Outcome, Outcomes, SkippedRecord, Truth, Truths, name_within, percent, pixels, skipped,
};
use crate::cli::progress::picture_bar;
use crate::cli::{Failure, complain};
use crate::decision::frame_result::{FaceRecord, FaceResult};
use crate::decision::recognizer::Recognizer;
use crate::frame::names::summarize;
use crate::platform::text::printable;
use crate::training::report::{DRAWS, GroupedShare, LEVEL, SEED, Tally};

/// The name of the rows for all cameras or all labels.
const ALL: &str = "all";

/// The name of the row for pictures that are not sorted by camera.
const NO_CAMERA: &str = "-";

/// The scores of the whole system on the largest face of each picture.
#[derive(Debug, Serialize)]
pub(super) struct FacesRecord {
    all: Scores,
    /// Scores by label.
    labels: BTreeMap<String, Scores>,
    /// Scores by camera and label.
    cameras: BTreeMap<String, BTreeMap<String, Counts>>,
    bootstrap: BootstrapRecord,
    /// All pictures that could be read, sorted by path.
    pictures: Vec<PictureRecord>,
    skipped: Vec<SkippedRecord>,
}

/// Counts of pictures.
#[derive(Debug, Clone, Copy, Serialize)]
struct Counts {
    pictures: usize,
    /// Number of pictures in which a face was found.
    found: usize,
    /// Number of pictures whose largest face got the right verdict.
    right: usize,
    /// Number of pictures whose largest face got the verdict `unsure`.
    unsure: usize,
    /// `right / pictures`, between 0 and 1.
    share: f64,
    /// Mean number of faces that were found per picture.
    faces_per_picture: f64,
}

/// Counts of pictures from several cameras.
#[derive(Debug, Serialize)]
struct Scores {
    /// Number of cameras. All pictures that are not sorted by camera count as one camera.
    cameras: usize,
    #[serde(flatten)]
    counts: Counts,
    /// Confidence interval of `share`, computed by drawing cameras at random; `None` for
    /// a single camera.
    interval: Option<[f64; 2]>,
    /// Mean over the cameras of each camera's `share`.
    mean_of_cameras: f64,
    /// Confidence interval of `mean_of_cameras`; `None` for a single camera.
    mean_interval: Option<[f64; 2]>,
}

/// How the confidence intervals were computed.
#[derive(Debug, Serialize)]
struct BootstrapRecord {
    level: f64,
    draws: usize,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct PictureRecord {
    /// Path within the data set.
    picture: String,
    camera: Option<String>,
    label: String,
    /// Whether the label counts as masked.
    masked: bool,
    /// Number of faces that were found.
    faces: usize,
    result: Outcome,
    /// The largest face, or `None` if none was found.
    face: Option<FaceRecord>,
}

/// A picture in which no face was found, or whose largest face did not get the right
/// verdict.
pub(super) struct WrongPicture {
    pub(super) path: PathBuf,
    /// Path within the data set.
    pub(super) name: String,
    /// Number of faces that were found.
    pub(super) faces: usize,
    /// The largest face, or `None` if none was found.
    pub(super) face: Option<FaceResult>,
}

/// Evaluates the pictures in a folder. Also returns the pictures whose result is not
/// right, sorted by path.
pub(super) fn evaluate(
    folder: &Path,
    recognizer: &mut Recognizer,
    truths: &Truths,
) -> Result<(FacesRecord, Vec<WrongPicture>), Failure> {
    let listing = Listing::read(folder, truths).map_err(|error| {
        let sentence = format!("cannot read {}: {error}", folder.display());
        Failure::new(Failure::NO_INPUT, sentence)
    })?;
    let progress = picture_bar(listing.pictures.len());
    let (mut pictures, mut wrong, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for picture in listing.pictures {
        match pixels(&picture.path) {
            Ok(pixels) => {
                let faces = recognizer.faces(&pixels)?;
                let largest = largest(&faces);
                let record = record(&picture, folder, &faces, largest, recognizer.labels());
                if record.result != Outcome::Right {
                    wrong.push(WrongPicture {
                        path: picture.path,
                        name: record.picture.clone(),
                        faces: faces.len(),
                        face: largest.cloned(),
                    });
                }
                pictures.push(record);
            }
            Err(why) => damaged.push(skipped(&picture.path, why)),
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let records = damaged.iter();
    let records = records.map(|skipped| SkippedRecord::new(skipped, folder));
    let records = records.collect();
    for sentence in summarize(&[listing.unused, damaged].concat(), folder) {
        complain(&sentence);
    }
    let Some(report) = FacesRecord::new(pictures, records) else {
        let sentence = format!(
            "{} has no usable picture in a folder LABEL, CAMERA/LABEL, or LABEL/CAMERA",
            folder.display()
        );
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    };
    Ok((report, wrong))
}

fn largest(faces: &[FaceResult]) -> Option<&FaceResult> {
    let area = |face: &FaceResult| face.face.rect.area();
    // `max_by` returns the last of several equally large faces. The faces are sorted by
    // descending detector score, so their order is reversed here to prefer the face with
    // the best score.
    let faces = faces.iter().rev();
    faces.max_by(|a, b| area(a).total_cmp(&area(b)))
}

fn record(
    picture: &LabeledPicture,
    folder: &Path,
    faces: &[FaceResult],
    largest: Option<&FaceResult>,
    labels: &[String],
) -> PictureRecord {
    let verdict = largest.map(|face| face.verdict);
    PictureRecord {
        picture: name_within(&picture.path, folder),
        camera: picture.camera.clone(),
        label: picture.label.clone(),
        masked: picture.truth == Truth::Masked,
        faces: faces.len(),
        result: Outcome::new(Some(picture.truth), verdict),
        face: largest.map(|face| FaceRecord::new(face, labels)),
    }
}

impl Counts {
    fn new<'a>(pictures: impl IntoIterator<Item = &'a PictureRecord>) -> Counts {
        let mut outcomes = Outcomes::default();
        let mut faces = 0;
        for picture in pictures {
            outcomes.add(picture.result);
            faces += picture.faces;
        }
        let Outcomes {
            all,
            found,
            right,
            unsure,
        } = outcomes;
        Counts {
            pictures: all,
            found,
            right,
            unsure,
            share: right as f64 / all.max(1) as f64,
            faces_per_picture: faces as f64 / all.max(1) as f64,
        }
    }
}

impl Scores {
    /// Returns `None` if there are no pictures.
    fn new(pictures: &[&PictureRecord]) -> Option<Scores> {
        let mut cameras: BTreeMap<Option<&str>, Tally> = BTreeMap::new();
        for picture in pictures {
            let tally = cameras.entry(picture.camera.as_deref()).or_default();
            tally.all += 1;
            tally.right += usize::from(picture.result == Outcome::Right);
        }
        let cameras: Vec<Tally> = cameras.into_values().collect();
        let share = GroupedShare::new(&cameras)?;
        Some(Scores {
            cameras: cameras.len(),
            counts: Counts::new(pictures.iter().copied()),
            interval: share.interval,
            mean_of_cameras: share.mean,
            mean_interval: share.mean_interval,
        })
    }
}

impl FacesRecord {
    /// Returns `None` if there are no pictures.
    fn new(pictures: Vec<PictureRecord>, skipped: Vec<SkippedRecord>) -> Option<FacesRecord> {
        let all = Scores::new(&pictures.iter().collect::<Vec<_>>())?;
        let mut by_label: BTreeMap<&str, Vec<&PictureRecord>> = BTreeMap::new();
        let mut by_camera: BTreeMap<&str, BTreeMap<&str, Vec<&PictureRecord>>> = BTreeMap::new();
        for picture in &pictures {
            by_label.entry(&picture.label).or_default().push(picture);
            if let Some(camera) = &picture.camera {
                let labels = by_camera.entry(camera).or_default();
                labels.entry(&picture.label).or_default().push(picture);
            }
        }
        let labels = by_label.into_iter();
        let labels = labels
            .filter_map(|(label, pictures)| Some((label.to_owned(), Scores::new(&pictures)?)));
        let labels = labels.collect();
        let counts = |(label, pictures): (&str, Vec<&PictureRecord>)| {
            (label.to_owned(), Counts::new(pictures))
        };
        let cameras = by_camera.into_iter();
        let cameras = cameras
            .map(|(camera, labels)| (camera.to_owned(), labels.into_iter().map(counts).collect()));
        let cameras = cameras.collect();
        Some(FacesRecord {
            all,
            labels,
            cameras,
            bootstrap: BootstrapRecord {
                level: LEVEL,
                draws: DRAWS,
                seed: SEED,
            },
            pictures,
            skipped,
        })
    }

    pub(super) fn table(&self) -> String {
        let names = self
            .cameras
            .keys()
            .map(|name| printable(name).chars().count());
        let camera_width = names.chain([6]).max().unwrap_or(6);
        let labels = self
            .labels
            .keys()
            .map(|name| printable(name).chars().count());
        let label_width = labels.chain([5]).max().unwrap_or(5);
        let name = |camera: &str, label: &str| {
            let (camera, label) = (printable(camera), printable(label));
            format!("{camera:<camera_width$}  {label:<label_width$}")
        };
        let mut text = format!(
            "{}  {:>8}  {:>5}  {:>5}  {:>7}  {:>6}  {:>15}  {:>13}  {:>7}\n",
            name("camera", "label"),
            "pictures",
            "found",
            "right",
            "",
            "unsure",
            "faces a picture",
            "90% interval",
            "mean",
        );
        let cameras = self.cameras.iter();
        let rows = cameras.flat_map(|(camera, labels)| {
            let labels = labels.iter();
            labels.map(|(label, counts)| (camera.as_str(), label.as_str(), counts))
        });
        for (camera, label, counts) in rows {
            let _ = writeln!(text, "{}{}", name(camera, label), counts.columns());
        }
        let camera = if self.cameras.is_empty() {
            NO_CAMERA
        } else {
            ALL
        };
        let labels = self.labels.iter();
        let labels = labels.map(|(label, scores)| (label.as_str(), scores));
        for (label, scores) in labels.chain([(ALL, &self.all)]) {
            let _ = writeln!(text, "{}{}", name(camera, label), scores.columns());
        }
        if self.all.interval.is_some() {
            let _ = write!(
                text,
                "\nThe intervals come from {DRAWS} draws. Each draw randomly selects as many cameras \
                 as there are,\nwith replacement, and uses all pictures of each selected camera. \
                 The mean is the mean of\nthe cameras' shares.\n"
            );
        }
        if !self.skipped.is_empty() {
            let _ = writeln!(text, "skipped pictures: {}", self.skipped.len());
        }
        text
    }
}

impl Counts {
    fn columns(&self) -> String {
        let Counts {
            pictures,
            found,
            right,
            unsure,
            share: _,
            faces_per_picture,
        } = *self;
        format!(
            "  {pictures:>8}  {found:>5}  {right:>5}  {:>6.1}%  {unsure:>6}  {faces_per_picture:>15.2}",
            percent(right, pictures)
        )
    }
}

impl Scores {
    fn columns(&self) -> String {
        let interval = match self.interval {
            Some([low, high]) => format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high),
            None => String::new(),
        };
        let mean = 100.0 * self.mean_of_cameras;
        format!("{}  {interval:>13}  {mean:>6.1}%", self.counts.columns())
    }
}
