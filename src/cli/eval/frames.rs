//! `maskd eval --frames`, which evaluates everything from detection to verdict on
//! photographs with labeled faces.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::truth::{
    Outcome, Outcomes, SkippedRecord, Truths, UNKNOWN_LABEL, percent, pixels, skipped,
};
use crate::cli::progress::picture_bar;
use crate::cli::{Failure, complain};
use crate::decision::decide::Verdict;
use crate::decision::recognizer::Recognizer;
use crate::frame::Rect;
use crate::frame::decoding::{list, list_unread};
use crate::frame::names::{Unused, summarize};
use crate::platform::text::counted;
use crate::training::dataset::read_voc;
use crate::training::report;

/// Minimum intersection over union for a detection and a labeled box to count as the
/// same face.
const SAME_FACE: f32 = 0.4;

/// Limits that divide faces into three groups by the longer side of their labeled box,
/// in pixels: below the first limit, between the two, and at or above the second.
const SIZE_LIMITS: [f32; 2] = [30.0, 60.0];

/// The scores of the whole system.
#[derive(Debug, Serialize)]
pub(super) struct FramesRecord {
    frames: usize,
    /// Number of labeled faces.
    faces: usize,
    /// Number of labeled faces that were detected.
    found: usize,
    /// Number of labeled faces that were detected and got the right verdict.
    right: usize,
    /// Number of labeled faces that were detected and got the verdict `unsure`.
    unsure: usize,
    /// Mean number of detections per frame that match no labeled face.
    false_detections_per_frame: f64,
    /// 95% confidence interval of `right / faces`, between 0 and 1.
    interval: [f64; 2],
    /// Counts per label.
    classes: BTreeMap<String, Counts>,
    /// Counts per size group. The size of a face is the longer side of its labeled box
    /// in pixels.
    sizes: BTreeMap<String, Counts>,
    /// Pictures that were skipped because they or their labels cannot be used.
    skipped: Vec<SkippedRecord>,
}

#[derive(Debug, Serialize)]
struct Counts {
    faces: usize,
    found: usize,
    right: usize,
}

impl From<Outcomes> for Counts {
    fn from(outcomes: Outcomes) -> Counts {
        Counts {
            faces: outcomes.all,
            found: outcomes.found,
            right: outcomes.right,
        }
    }
}

/// Counts over the frames that have been evaluated so far.
#[derive(Debug, Default)]
struct Tally {
    frames: usize,
    all: Outcomes,
    classes: BTreeMap<String, Outcomes>,
    sizes: BTreeMap<String, Outcomes>,
    false_detections: usize,
}

pub(super) fn evaluate(
    folder: &Path,
    recognizer: &mut Recognizer,
    truths: &Truths,
) -> Result<FramesRecord, Failure> {
    let failed = |error: std::io::Error| {
        let sentence = format!("cannot read {}: {error}", folder.display());
        Failure::new(Failure::NO_INPUT, sentence)
    };
    let pictures = list(folder).map_err(failed)?;
    let mut unused = list_unread(folder).map_err(failed)?;
    let mut damaged = Vec::new();
    let mut tally = Tally::default();
    let progress = picture_bar(pictures.len());
    for picture in &pictures {
        progress.inc(1);
        let annotation = picture.with_extension("xml");
        if !annotation.exists() {
            unused.push(Unused {
                path: picture.clone(),
                why: "there is no Pascal VOC .xml of the same name".to_owned(),
            });
            continue;
        }
        let labelled = read_voc(&annotation)
            .map_err(|error| format!("the .xml beside it cannot be used: {error}"));
        match labelled.and_then(|labelled| Ok((labelled, pixels(picture)?))) {
            Ok((labelled, pixels)) => {
                let faces = recognizer.faces(&pixels)?;
                let detections = faces.iter().map(|face| (face.face.rect, face.verdict));
                tally.add(labelled, detections.collect(), truths);
            }
            Err(why) => damaged.push(skipped(picture, why)),
        }
    }
    progress.finish_and_clear();
    let records = damaged.iter();
    let records = records.map(|skipped| SkippedRecord::new(skipped, folder));
    let records = records.collect();
    for sentence in summarize(&[unused, damaged].concat(), folder) {
        complain(&sentence);
    }
    for label in tally.classes.keys() {
        if truths.of(label).is_none() {
            complain(&format!(
                "faces with the label {label:?} count as wrong: {UNKNOWN_LABEL}"
            ));
        }
    }
    if tally.frames == 0 {
        let sentence = format!(
            "{} holds no usable picture with a Pascal VOC .xml of the same name",
            folder.display()
        );
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    Ok(tally.record(records))
}

impl Tally {
    /// Adds the results of a frame. A detection that matches no labeled face is a false
    /// detection.
    fn add(
        &mut self,
        labelled: Vec<(String, Rect)>,
        mut detections: Vec<(Rect, Verdict)>,
        truths: &Truths,
    ) {
        self.frames += 1;
        for (label, rect) in labelled {
            let overlap = |index: &usize| detections[*index].0.iou(&rect);
            let best = (0..detections.len())
                .max_by(|a, b| overlap(a).total_cmp(&overlap(b)))
                .filter(|best| overlap(best) >= SAME_FACE);
            let verdict = best.map(|best| detections.swap_remove(best).1);
            let outcome = Outcome::new(truths.of(&label), verdict);
            self.all.add(outcome);
            self.classes.entry(label).or_default().add(outcome);
            self.sizes
                .entry(size_group(&rect))
                .or_default()
                .add(outcome);
        }
        self.false_detections += detections.len();
    }

    fn record(self, skipped: Vec<SkippedRecord>) -> FramesRecord {
        let Outcomes {
            all,
            found,
            right,
            unsure,
        } = self.all;
        let counts = |groups: BTreeMap<String, Outcomes>| {
            let groups = groups.into_iter();
            groups.map(|(name, group)| (name, group.into())).collect()
        };
        FramesRecord {
            frames: self.frames,
            faces: all,
            found,
            right,
            unsure,
            false_detections_per_frame: self.false_detections as f64 / self.frames.max(1) as f64,
            interval: report::wilson(right, all),
            classes: counts(self.classes),
            sizes: counts(self.sizes),
            skipped,
        }
    }
}

impl FramesRecord {
    pub(super) fn table(&self) -> String {
        let [low, high] = self.interval.map(|end| end * 100.0);
        let skipped = match self.skipped.len() {
            0 => String::new(),
            pictures => format!(", {pictures} skipped"),
        };
        let mut text = format!(
            "{}{skipped}, {}: {} found, {} right end to end ({:.1}%, 95% interval {low:.1} to {high:.1}), \
             {} unsure, {:.3} false detections per frame\n\n{:<24} {:>6} {:>6} {:>6} {:>8}\n",
            counted(self.frames, "frame"),
            counted(self.faces, "face"),
            self.found,
            self.right,
            percent(self.right, self.faces),
            self.unsure,
            self.false_detections_per_frame,
            "",
            "faces",
            "found",
            "right",
            "right",
        );
        for (name, counts) in self.classes.iter().chain(&self.sizes) {
            let Counts {
                faces,
                found,
                right,
            } = counts;
            text += &format!(
                "{name:<24} {faces:>6} {found:>6} {right:>6} {:>7.1}%\n",
                percent(*right, *faces)
            );
        }
        text
    }
}

fn size_group(rect: &Rect) -> String {
    let [first, second] = SIZE_LIMITS;
    let side = rect.width.max(rect.height);
    if side < first {
        format!("below {first} px")
    } else if side < second {
        format!("{first} to {second} px")
    } else {
        format!("from {second} px")
    }
}
