//! `maskd eval`: how good a model is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::interrupt::Interrupt;
use super::train::{SMALL_FILE, can_write, embed_plain, pictures, readable, write};
use super::{Failure, Global, print};
use crate::camera::pictures::{list, read};
use crate::config::Config;
use crate::decision::decide::{Verdict, VerdictPolicy};
use crate::decision::frame_result::Probabilities;
use crate::frame::{Rect, decode};
use crate::onnx::ThreadPool;
use crate::training::dataset::Dataset;
use crate::training::recipe::Worker;
use crate::training::report::{self, Report};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::{Pipeline, open_model};

/// How many of the worst pictures are named.
const WORST: usize = 10;

/// A find and a label are the same face from this overlap on.
const SAME_FACE: f32 = 0.4;

/// Faces are told apart by the longer side of their labelled box, in pixels:
/// below, between, from.
const SIZES: [f32; 2] = [30.0, 60.0];

#[derive(Debug, Args)]
pub(super) struct Eval {
    /// Folder with one folder of pictures a class: the head alone is judged, by
    /// whole pictures
    #[arg(long, value_name = "DIR", required_unless_present = "frames")]
    dataset: Option<PathBuf>,

    /// Folder of whole photographs, each with a Pascal VOC .xml beside it: all of
    /// maskd is judged, from finding faces to verdicts
    #[arg(long, value_name = "DIR")]
    frames: Option<PathBuf>,

    /// The model to judge: a classifier or a head [default: as configured, or
    /// the head in use by --state DIR]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Show what other thresholds would give
    #[arg(long)]
    threshold: bool,

    /// Write the report to this JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What `maskd eval --report` writes.
#[derive(Debug, Default, Serialize)]
struct Record {
    /// That of `--dataset`, with the keys of `maskd train --report`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    dataset: Option<Report>,
    /// The pictures that it is about, in the order of their classes and names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pictures: Vec<Judged>,
    /// That of `--frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<System>,
}

/// What the head makes of a picture of `--dataset`.
#[derive(Debug, Serialize)]
struct Judged {
    /// Its path within the data set.
    picture: String,
    /// Its folder.
    label: String,
    probabilities: Probabilities,
}

/// How good the whole is on photographs with labelled faces.
#[derive(Debug, Default, Serialize)]
struct System {
    frames: usize,
    /// Labelled faces.
    faces: usize,
    found: usize,
    /// Found, and with the right verdict.
    right: usize,
    /// Found, and unsure.
    unsure: usize,
    /// Finds without a label, a frame.
    false_finds_a_frame: f64,
    /// 95 % interval of `right / faces`, 0 to 1.
    interval: [f64; 2],
    /// By the label of a face.
    classes: BTreeMap<String, Tally>,
    /// By the longer side of its labelled box in pixels.
    sizes: BTreeMap<String, Tally>,
}

#[derive(Debug, Default, Serialize)]
struct Tally {
    faces: usize,
    found: usize,
    right: usize,
}

impl Tally {
    fn add(&mut self, found: bool, right: bool) {
        self.faces += 1;
        self.found += usize::from(found);
        self.right += usize::from(right);
    }
}

impl Eval {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let mut config = global.load_config()?;
        if let Some(model) = &self.model {
            if global.state.is_some() {
                let sentence = "name --model or --state, not both: one head is judged";
                return Err(Failure::new(Failure::USAGE, sentence));
            }
            config.models.classifier = Some(model.clone());
        }
        if let Some(path) = &self.report {
            can_write(path, SMALL_FILE)?;
        }
        let mut record = Record::default();
        if let Some(folder) = &self.dataset {
            let (report, pictures) = self.judge_head(folder, &config, global)?;
            record.dataset = Some(report);
            record.pictures = pictures;
        }
        if let Some(folder) = &self.frames {
            let system = judge_system(folder, &config, global)?;
            print(system.table().as_bytes())?;
            record.frames = Some(system);
        }
        if let Some(path) = &self.report {
            let json = serde_json::to_string(&record)
                .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
            write(path, (json + "\n").as_bytes())?;
        }
        Ok(())
    }

    fn judge_head(
        &self,
        folder: &Path,
        config: &Config,
        global: &Global,
    ) -> Result<(Report, Vec<Judged>), Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::new(Failure::INTERNAL, error);
        let interrupt = Interrupt::catch()?;
        let threads = config.classify.threads(0);
        let data = Dataset::open_to_judge(folder)?;
        let (data, prints) = readable(&data, threads, &interrupt)?;
        let (backbone, base) = open_model(config)?;
        let backbone = Backbone::new(backbone)?;
        let learned = global.learned_head(&base)?;
        let head = learned.as_deref().unwrap_or(&base);
        let pictures = pictures(&data, &prints, head.labels())?;
        let mut workers = Vec::new();
        for _ in 0..threads {
            workers.push(Worker::new(
                Embedder::new(&backbone, 1, ThreadPool::alone())?,
                None,
            ));
        }
        let features = embed_plain(&mut workers, &pictures, &interrupt)?;
        let labels: Vec<usize> = pictures.iter().map(|listed| listed.class).collect();
        let mut probabilities = Vec::new();
        for feature in features.chunks(crate::onnx::FEATURES) {
            probabilities.extend(head.probabilities_of(feature));
        }
        let report = Report::new(&labels, &probabilities, head.labels(), None)
            .map_err(|error| internal(&error))?;
        let [low, high] = report.interval.map(|share| share * 100.0);
        print(
            format!(
                "{}\n{}\naccuracy {:.2} % (95 % interval {low:.2} to {high:.2}), calibration error {:.3}\n",
                report.table(),
                report.confusion_table(),
                report.accuracy * 100.0,
                report.calibration_error
            )
            .as_bytes(),
        )?;
        let classes = head.labels().len();
        let mut worst: Vec<(f32, usize)> = labels
            .iter()
            .enumerate()
            .map(|(index, class)| (probabilities[index * classes + class], index))
            .collect();
        worst.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut text = "\nworst pictures, with the probability of their label\n".to_owned();
        for (p, index) in worst.iter().take(WORST) {
            text += &format!(
                "{:>7.2} %  {}\n",
                p * 100.0,
                pictures[*index].path.display()
            );
        }
        if self.threshold {
            let masked = &config.classify.masked_labels;
            let class = head
                .labels()
                .iter()
                .position(|label| masked.contains(label))
                .unwrap_or(0);
            let thresholds: Vec<f32> = (1..20).map(|step| step as f32 / 20.0).collect();
            let rows =
                report::threshold_sweep(&labels, &probabilities, head.labels(), class, &thresholds)
                    .map_err(|error| Failure::new(Failure::USAGE, error))?;
            text += &format!("\nif {} from a threshold on\n", head.labels()[class]);
            text += &report::sweep_table(head.labels(), &rows);
        }
        print(text.as_bytes())?;
        let judged = probabilities.chunks(classes).zip(&labels).enumerate();
        let judged = judged.map(|(index, (probabilities, class))| Judged {
            picture: data.name(index),
            label: head.labels()[*class].clone(),
            probabilities: Probabilities::new(head.labels(), probabilities, 1e6),
        });
        Ok((report, judged.collect()))
    }
}

fn judge_system(folder: &Path, config: &Config, global: &Global) -> Result<System, Failure> {
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(
            Failure::DATA,
            format!("cannot use {}: {error}", path.display()),
        )
    };
    let mut pipeline = Pipeline::open(config, config.classify.threads(0))?;
    if let Some(head) = global.learned_head(pipeline.head())? {
        pipeline.set_head(head);
    }
    let labels = pipeline.head().labels().to_vec();
    let judge = VerdictPolicy::new(config.classify.judge_options(), &labels)
        .map_err(|error| Failure::new(Failure::CONFIG, error))?;
    let paths = list(folder).map_err(|error| {
        Failure::new(
            Failure::NO_INPUT,
            format!("cannot read {}: {error}", folder.display()),
        )
    })?;
    let mut system = System::default();
    let mut false_finds = 0;
    for path in &paths {
        let boxes = path.with_extension("xml");
        if !boxes.exists() {
            continue;
        }
        let faces_there = voc(&boxes).map_err(|error| unreadable(&boxes, &error))?;
        let bytes = read(path).map_err(|error| unreadable(path, &error))?;
        let pixels = decode(&bytes).map_err(|error| unreadable(path, &error))?;
        let faces = pipeline.detect(&pixels)?;
        let looks = pipeline.classify(&pixels, &faces)?;
        let mut finds: Vec<(Rect, Verdict)> = faces
            .iter()
            .zip(&looks)
            .map(|(face, look)| (face.rect, judge.judge(face, &look.probabilities)))
            .collect();
        system.frames += 1;
        for (label, rect) in faces_there {
            let best = (0..finds.len())
                .max_by(|a, b| finds[*a].0.iou(&rect).total_cmp(&finds[*b].0.iou(&rect)))
                .filter(|best| finds[*best].0.iou(&rect) >= SAME_FACE);
            let verdict = best.map(|best| finds.swap_remove(best).1);
            let right = verdict.is_some_and(|verdict| verdict.name(&labels) == label);
            system.faces += 1;
            system.found += usize::from(verdict.is_some());
            system.right += usize::from(right);
            system.unsure += usize::from(matches!(verdict, Some(Verdict::Unsure(_))));
            let longer = rect.width.max(rect.height);
            let size = match longer {
                _ if longer < SIZES[0] => format!("below {} px", SIZES[0]),
                _ if longer < SIZES[1] => format!("{} to {} px", SIZES[0], SIZES[1]),
                _ => format!("from {} px", SIZES[1]),
            };
            system
                .classes
                .entry(label)
                .or_default()
                .add(verdict.is_some(), right);
            system
                .sizes
                .entry(size)
                .or_default()
                .add(verdict.is_some(), right);
        }
        false_finds += finds.len();
    }
    if system.frames == 0 {
        let sentence = format!(
            "{} holds no pictures with a Pascal VOC .xml of the same name beside",
            folder.display()
        );
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    system.false_finds_a_frame = false_finds as f64 / system.frames as f64;
    system.interval = report::wilson(system.right, system.faces);
    Ok(system)
}

impl System {
    fn table(&self) -> String {
        let share = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
        let [low, high] = self.interval.map(|share| share * 100.0);
        let mut text = format!(
            "{} frames, {} faces: {} found, {} right end to end ({:.1} %, 95 % interval {low:.1} to {high:.1}), \
             {} unsure, {:.3} false finds a frame\n\n{:<24} {:>6} {:>6} {:>6} {:>8}\n",
            self.frames,
            self.faces,
            self.found,
            self.right,
            share(self.right, self.faces),
            self.unsure,
            self.false_finds_a_frame,
            "",
            "faces",
            "found",
            "right",
            "right",
        );
        for (
            name,
            Tally {
                faces,
                found,
                right,
            },
        ) in self.classes.iter().chain(&self.sizes)
        {
            text += &format!(
                "{name:<24} {faces:>6} {found:>6} {right:>6} {:>6.1} %\n",
                share(*right, *faces)
            );
        }
        text
    }
}

/// The labelled faces of a Pascal VOC file.
fn voc(path: &Path) -> Result<Vec<(String, Rect)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
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
