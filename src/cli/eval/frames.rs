//! `maskd eval --frames`, which evaluates everything from detection to verdict on
//! photographs with labeled faces.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::cli::{Failure, Global, complain};
use crate::config::Config;
use crate::decision::decide::{Verdict, VerdictPolicy};
use crate::frame::decoding::{list, list_unread, read};
use crate::frame::names::{Unused, summarize};
use crate::frame::{Rect, decode};
use crate::platform::files;
use crate::training::report;
use crate::vision::pipeline::Pipeline;

/// Minimum intersection over union for a detection and a labeled box to count as the
/// same face.
const SAME_FACE: f32 = 0.4;

/// Limits that divide faces into three groups by the longer side of their labeled box,
/// in pixels: below the first limit, between the two, and at or above the second.
const SIZE_LIMITS: [f32; 2] = [30.0, 60.0];
/// Maximum size of a file with the labels of a photograph, in bytes.
const MAX_VOC_BYTES: u64 = 1 << 20;

/// The scores of the whole system.
#[derive(Debug, Default, Serialize)]
pub(super) struct FramesRecord {
    frames: usize,
    /// Number of labeled faces.
    faces: usize,
    /// Number of labeled faces that were detected.
    found: usize,
    /// Number of labeled faces that were detected and got the right verdict.
    right: usize,
    /// Number of labeled faces that were detected and got the verdict unsure.
    unsure: usize,
    /// Mean number of detections per frame that match no label.
    false_detections_per_frame: f64,
    /// 95% confidence interval of `right / faces`, between 0 and 1.
    interval: [f64; 2],
    /// Counts per label.
    classes: BTreeMap<String, Counts>,
    /// Counts per size group. The size of a face is the longer side of its labeled box
    /// in pixels.
    sizes: BTreeMap<String, Counts>,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    faces: usize,
    found: usize,
    right: usize,
}

impl Counts {
    fn add(&mut self, found: bool, right: bool) {
        self.faces += 1;
        self.found += usize::from(found);
        self.right += usize::from(right);
    }
}

pub(super) fn evaluate(
    folder: &Path,
    config: &Config,
    global: &Global,
) -> Result<FramesRecord, Failure> {
    let mut pipeline = Pipeline::open(&config.pipeline_options(), config.classify.threads(0))?;
    if let Some(head) = global.learned_head(pipeline.head())? {
        pipeline.set_head(head);
    }
    let labels = pipeline.head().labels().to_vec();
    let policy = VerdictPolicy::new(config.classify.verdict_options(), &labels)
        .map_err(|error| Failure::new(Failure::CONFIG, error))?;
    let failed = |error: std::io::Error| {
        let sentence = format!("cannot read {}: {error}", folder.display());
        Failure::new(Failure::NO_INPUT, sentence)
    };
    let pictures = list(folder).map_err(failed)?;
    let mut unused = list_unread(folder).map_err(failed)?;
    let mut record = FramesRecord::default();
    let mut false_detections = 0;
    for picture in &pictures {
        let annotation = picture.with_extension("xml");
        if !annotation.exists() {
            unused.push(Unused {
                path: picture.clone(),
                why: "there is no Pascal VOC .xml of the same name".to_owned(),
            });
            continue;
        }
        let labelled = voc(&annotation).map_err(|error| unusable(&annotation, error))?;
        let detections = detections(picture, &mut pipeline, &policy)?;
        false_detections += record.add(labelled, detections, &labels);
    }
    for sentence in summarize(&unused, folder) {
        complain(&sentence);
    }
    if record.frames == 0 {
        let sentence = format!(
            "{} holds no picture with a Pascal VOC .xml of the same name",
            folder.display()
        );
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    record.false_detections_per_frame = false_detections as f64 / record.frames as f64;
    record.interval = report::wilson(record.right, record.faces);
    Ok(record)
}

fn unusable(path: &Path, error: impl std::fmt::Display) -> Failure {
    let sentence = format!("cannot use {}: {error}", path.display());
    Failure::new(Failure::DATA, sentence)
}

/// Detects the faces in a picture and returns them with their verdicts.
fn detections(
    picture: &Path,
    pipeline: &mut Pipeline,
    policy: &VerdictPolicy,
) -> Result<Vec<(Rect, Verdict)>, Failure> {
    let bytes = read(picture).map_err(|error| unusable(picture, error))?;
    let pixels = decode(&bytes).map_err(|error| unusable(picture, error))?;
    let faces = pipeline.detect(&pixels)?;
    let classified = pipeline.classify(&pixels, &faces)?;
    Ok(faces
        .iter()
        .zip(&classified)
        .map(|(face, class)| (face.rect, policy.verdict(face, &class.probabilities)))
        .collect())
}

impl FramesRecord {
    /// Adds a frame to the counts. Returns the number of detections that match no
    /// label.
    fn add(
        &mut self,
        labelled: Vec<(String, Rect)>,
        mut detections: Vec<(Rect, Verdict)>,
        labels: &[String],
    ) -> usize {
        self.frames += 1;
        for (label, rect) in labelled {
            let overlap = |index: &usize| detections[*index].0.iou(&rect);
            let best = (0..detections.len())
                .max_by(|a, b| overlap(a).total_cmp(&overlap(b)))
                .filter(|best| overlap(best) >= SAME_FACE);
            let verdict = best.map(|best| detections.swap_remove(best).1);
            let found = verdict.is_some();
            let right = verdict.is_some_and(|verdict| verdict.name(labels) == label);
            self.faces += 1;
            self.found += usize::from(found);
            self.right += usize::from(right);
            self.unsure += usize::from(matches!(verdict, Some(Verdict::Unsure(_))));
            let size = size_group(&rect);
            self.classes.entry(label).or_default().add(found, right);
            self.sizes.entry(size).or_default().add(found, right);
        }
        detections.len()
    }

    pub(super) fn table(&self) -> String {
        let percent = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
        let [low, high] = self.interval.map(|end| end * 100.0);
        let mut text = format!(
            "{} frames, {} faces: {} found, {} right end to end ({:.1} %, 95 % interval {low:.1} to {high:.1}), \
             {} unsure, {:.3} false detections per frame\n\n{:<24} {:>6} {:>6} {:>6} {:>8}\n",
            self.frames,
            self.faces,
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
                "{name:<24} {faces:>6} {found:>6} {right:>6} {:>6.1} %\n",
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

/// Reads the labeled faces from a Pascal VOC file.
fn voc(path: &Path) -> Result<Vec<(String, Rect)>, String> {
    let text = files::read_text(path, MAX_VOC_BYTES).map_err(|error| error.source.to_string())?;
    let document = roxmltree::Document::parse(&text).map_err(|error| error.to_string())?;
    let child = |node: roxmltree::Node, name: &str| -> Result<String, String> {
        let found = node.descendants().find(|node| node.has_tag_name(name));
        let text = found.and_then(|node| node.text());
        text.map(|text| text.trim().to_owned())
            .ok_or_else(|| format!("an object has no <{name}>"))
    };
    let mut faces = Vec::new();
    for object in document
        .descendants()
        .filter(|node| node.has_tag_name("object"))
    {
        let edge = |name: &str| -> Result<f32, String> {
            let text = child(object, name)?;
            text.parse()
                .map_err(|_| format!("<{name}> is {text:?}, not a number"))
        };
        let (x, y) = (edge("xmin")?, edge("ymin")?);
        let rect = Rect {
            x,
            y,
            width: edge("xmax")? - x,
            height: edge("ymax")? - y,
        };
        faces.push((child(object, "name")?, rect));
    }
    Ok(faces)
}
