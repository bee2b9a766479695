//! Trials on real cameras, as they are and in simulated light.
//!
//! Each *unit* is one camera in one light with a number of labels. The accuracy before and
//! after is pooled over the draws of a unit, because single draws share most of their
//! pictures. A unit gains or loses if the 90% interval of the pooled difference excludes
//! zero.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use maskd::learning::refit::{self, Sample};
use maskd::learning::replay::Rows;
use maskd::onnx::HeadTensors;
use maskd::vision::head::argmax;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{FeatureCache, Trials, accuracy, floats, logits, mislabel};

/// Minimum number of test pictures in each class.
const MIN_TEST: usize = 10;
/// Number of bootstrap samples for an interval.
const RESAMPLES: usize = 2000;
/// Accuracy up to which a camera counts as one that needs help.
const NEEDS_HELP: f64 = 0.93;
/// Name of the class folder whose pictures show faces without a properly worn mask.
const HARD: &str = "hard_nomask";
/// The label for pictures in the folder `hard_nomask`.
const UNMASKED: &str = "without_mask";

/// A camera in one light.
pub(super) struct RealCamera {
    light: String,
    name: String,
    pictures: Vec<Picture>,
    /// Number of pictures in which no face was found.
    without_face: usize,
}

#[derive(Serialize, Deserialize)]
struct Picture {
    label: usize,
    person: String,
    /// The features of the crop, followed by the features of its variants.
    #[serde(skip)]
    features: Vec<f32>,
}

/// The cached part of a camera, apart from the features.
#[derive(Serialize, Deserialize)]
struct CachedPictures {
    pictures: Vec<Picture>,
    without_face: usize,
}

impl CachedPictures {
    /// Computes the features of all pictures of a camera.
    fn compute(
        folder: &Path,
        name: &str,
        labels: &[String],
        features: &mut FeatureCache,
    ) -> anyhow::Result<CachedPictures> {
        let mut computed = CachedPictures {
            pictures: Vec::new(),
            without_face: 0,
        };
        for (label, path) in pictures_of(folder, labels)? {
            // Folders of crops contain only the face.
            let is_crop = name.starts_with("crops-");
            let Some(features) = features.of_picture(&path, is_crop)? else {
                computed.without_face += 1;
                continue;
            };
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            computed.pictures.push(Picture {
                label,
                person: stem.rsplit('-').next().unwrap_or_default().to_owned(),
                features,
            });
        }
        Ok(computed)
    }
}

impl RealCamera {
    /// Reads all cameras of a light. `folder` contains one folder for each camera, which
    /// contains one folder for each class.
    pub(super) fn read_all(
        light: &str,
        folder: &Path,
        labels: &[String],
        features: &mut FeatureCache,
    ) -> anyhow::Result<Vec<RealCamera>> {
        let mut names = Vec::new();
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        let mut cameras = Vec::new();
        for name in names {
            let camera = RealCamera::read(light, folder, &name, labels, features)?;
            cameras.push(camera);
        }
        Ok(cameras)
    }

    fn read(
        light: &str,
        folder: &Path,
        name: &str,
        labels: &[String],
        features: &mut FeatureCache,
    ) -> anyhow::Result<RealCamera> {
        let rows = features.variants + 1;
        let index = features.folder.join(format!("{light}-{name}.json"));
        let values = features.folder.join(format!("{light}-{name}.f32"));
        let cached = if let (Ok(json), Ok(bytes)) = (fs::read(&index), fs::read(&values)) {
            let mut cached: CachedPictures = serde_json::from_slice(&json)?;
            let floats = floats(&bytes);
            if floats.len() != cached.pictures.len() * rows * features.width {
                bail!("{} is incomplete: delete the cache", values.display());
            }
            let all = floats.chunks_exact(rows * features.width);
            for (picture, features) in cached.pictures.iter_mut().zip(all) {
                picture.features = features.to_vec();
            }
            cached
        } else {
            let computed = CachedPictures::compute(&folder.join(name), name, labels, features)?;
            eprintln!("{light} {name}: {} faces", computed.pictures.len());
            let all = computed
                .pictures
                .iter()
                .flat_map(|picture| &picture.features);
            let bytes: Vec<u8> = all.flat_map(|value| value.to_le_bytes()).collect();
            maskd::platform::files::write(&values, &bytes)?;
            maskd::platform::files::write(&index, &serde_json::to_vec(&computed)?)?;
            computed
        };
        Ok(RealCamera {
            light: light.to_owned(),
            name: name.to_owned(),
            pictures: cached.pictures,
            without_face: cached.without_face,
        })
    }

    /// Draws pictures of each class for training, some of which get wrong labels. The rest is
    /// the test set. With `new_people`, only pictures of some of the people are drawn, and the
    /// test set contains only the others. Returns `None` if there are too few pictures or
    /// people.
    fn draw(
        &self,
        Drawing {
            labels,
            mislabeled,
            new_people,
        }: Drawing,
        classes: usize,
        seed: u64,
    ) -> Option<(Vec<Sample>, Vec<usize>)> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let people: BTreeSet<&str> = self.pictures.iter().map(|p| p.person.as_str()).collect();
        let mut people: Vec<&str> = people.into_iter().collect();
        people.shuffle(&mut random);
        let known: BTreeSet<&str> = if new_people {
            people[..people.len() / 2].iter().copied().collect()
        } else {
            people.iter().copied().collect()
        };
        let mut order: Vec<usize> = (0..self.pictures.len()).collect();
        order.shuffle(&mut random);
        let mut samples = Vec::new();
        let mut test = Vec::new();
        for class in 0..classes {
            let of_class = order.iter().filter(|at| self.pictures[**at].label == class);
            let mut left = labels;
            let mut tested = 0;
            for &at in of_class {
                let picture = &self.pictures[at];
                let is_known = known.contains(picture.person.as_str());
                if is_known && left > 0 {
                    left -= 1;
                    samples.push(Sample {
                        id: at.to_string(),
                        label: class,
                        track: at.to_string(),
                        day: String::new(),
                        features: picture.features.clone(),
                        seen: false,
                    });
                } else if !new_people || !is_known {
                    tested += 1;
                    test.push(at);
                }
            }
            if left > 0 || tested < MIN_TEST {
                return None;
            }
        }
        let share = f64::from(mislabeled) / 100.0;
        mislabel(&mut samples, share, classes, &mut random);
        Some((samples, test))
    }

    fn rows(&self, pictures: &[usize]) -> Rows {
        let mut rows = Rows::default();
        for at in pictures {
            let picture = &self.pictures[*at];
            let width = picture.features.len() / (refit::VARIANTS + 1);
            rows.push(&picture.features[..width], picture.label);
        }
        rows
    }
}

/// What is drawn from a camera for training.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Drawing {
    /// Whether the test pictures show other people.
    new_people: bool,
    /// Percentage of the labels that are wrong.
    mislabeled: u32,
    /// Number of pictures of each class.
    labels: usize,
}

impl Drawing {
    /// Returns all combinations for which there are trials.
    fn all(trials: &Trials) -> Vec<Drawing> {
        let mut all = Vec::new();
        for &mislabeled in &trials.arguments.mislabeled {
            // With wrong labels, the people who gave them are enough.
            let people: &[bool] = if mislabeled == 0 {
                &[false, true]
            } else {
                &[false]
            };
            for &labels in &trials.arguments.crops {
                for &new_people in people {
                    all.push(Drawing {
                        new_people,
                        mislabeled,
                        labels,
                    });
                }
            }
        }
        all
    }
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.labels)?;
        if self.mislabeled > 0 {
            write!(f, ", {}% wrong", self.mislabeled)?;
        }
        f.write_str(if self.new_people {
            ", other people"
        } else {
            ""
        })
    }
}

/// Returns the label and the path of each picture of a camera.
fn pictures_of(folder: &Path, labels: &[String]) -> anyhow::Result<Vec<(usize, PathBuf)>> {
    let mut pictures = Vec::new();
    for class in fs::read_dir(folder)? {
        let class = class?;
        let name = class.file_name().to_string_lossy().into_owned();
        let label = if name == HARD { UNMASKED } else { &name };
        let Some(label) = labels.iter().position(|known| known == label) else {
            continue;
        };
        for picture in fs::read_dir(class.path())? {
            pictures.push((label, picture?.path()));
        }
    }
    pictures.sort();
    Ok(pictures)
}

/// The result of one draw.
#[derive(Serialize, Deserialize)]
struct Trial {
    light: String,
    camera: String,
    labels: usize,
    mislabeled: u32,
    new_people: bool,
    draw: u64,
    /// For each test picture, its index, and whether the head before and the head after
    /// classify it correctly.
    test: Vec<(usize, bool, bool)>,
    /// The decision of the gate: `accepted`, or the reason for the refusal.
    decision: String,
    accepted: bool,
    /// Whether the gate found that there is nothing to gain.
    nothing_to_gain: bool,
    /// The adaptation that was chosen.
    adaptation: String,
    /// Accuracy on old pictures after the training, in percent.
    old: f64,
    /// Everything that the gate measured, so that other gates can be evaluated.
    measured: serde_json::Value,
}

impl Trial {
    fn unit(&self) -> Unit {
        Unit {
            drawing: Drawing {
                labels: self.labels,
                mislabeled: self.mislabeled,
                new_people: self.new_people,
            },
            camera: self.camera.clone(),
            light: self.light.clone(),
        }
    }
}

/// The trials of a camera in one light with a number of labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    drawing: Drawing,
    camera: String,
    light: String,
}

/// The pooled result of a unit. Accuracies are between 0 and 1.
struct Pooled {
    camera: String,
    before: f64,
    /// Accuracy if every head is accepted.
    all: f64,
    /// Accuracy with the decisions of the gate.
    gated: f64,
    /// The 90% interval of `all` minus `before`.
    interval: [f64; 2],
    trials: usize,
    accepted: usize,
    nothing_to_gain: usize,
    /// Accuracies on old pictures of the accepted heads, in percent.
    old: Vec<f64>,
}

impl Pooled {
    fn of(trials: &[&Trial]) -> Pooled {
        // For each test picture, one row per draw: right before, right after, accepted.
        let mut pictures: BTreeMap<usize, Vec<(bool, bool, bool)>> = BTreeMap::new();
        for trial in trials {
            for (at, before, after) in &trial.test {
                let rows = pictures.entry(*at).or_default();
                rows.push((*before, *after, trial.accepted));
            }
        }
        let rows = || pictures.values().flatten();
        let share = |right: usize| right as f64 / rows().count().max(1) as f64;
        let before = share(rows().filter(|row| row.0).count());
        let all = share(rows().filter(|row| row.1).count());
        let gated = share(
            rows()
                .filter(|row| if row.2 { row.1 } else { row.0 })
                .count(),
        );
        // The bootstrap resamples pictures and not rows, because a picture is in the test
        // sets of several draws.
        let sums: Vec<(f64, f64)> = pictures
            .values()
            .map(|rows| {
                let difference = |row: &(bool, bool, bool)| {
                    f64::from(u8::from(row.1)) - f64::from(u8::from(row.0))
                };
                (rows.iter().map(difference).sum(), rows.len() as f64)
            })
            .collect();
        let accepted = trials.iter().filter(|trial| trial.accepted);
        Pooled {
            camera: trials[0].camera.clone(),
            before,
            all,
            gated,
            interval: bootstrap(sums.len(), |drawn| {
                let (difference, rows) = drawn
                    .iter()
                    .map(|at| sums[*at])
                    .fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
                difference / rows
            }),
            trials: trials.len(),
            accepted: accepted.clone().count(),
            nothing_to_gain: trials.iter().filter(|trial| trial.nothing_to_gain).count(),
            old: accepted.map(|trial| trial.old).collect(),
        }
    }

    fn gains(&self) -> bool {
        self.interval[0] > 0.0
    }

    fn loses(&self) -> bool {
        self.interval[1] < 0.0
    }
}

/// Returns the 90% interval of a statistic of `number` values by the percentile bootstrap.
fn bootstrap(number: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    if number == 0 {
        return [f64::NAN; 2];
    }
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut drawn = vec![0; number];
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for at in &mut drawn {
                *at = random.random_range(0..number);
            }
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    [
        values[RESAMPLES / 20],
        values[RESAMPLES - 1 - RESAMPLES / 20],
    ]
}

/// Runs the trials whose results are not in the file yet, and prints the tables.
pub(super) fn run(trials: &Trials, cameras: &[RealCamera], results: &Path) -> anyhow::Result<()> {
    let mut done = read(results)?;
    let known: BTreeSet<(Unit, u64)> = done
        .iter()
        .map(|trial| (trial.unit(), trial.draw))
        .collect();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(results)
        .with_context(|| format!("cannot write {}", results.display()))?;
    let classes = trials.head.labels.len();
    let mut left_out: BTreeSet<String> = BTreeSet::new();
    for drawing in Drawing::all(trials) {
        for camera in cameras {
            let mut draws = 0;
            for draw in 0..trials.arguments.seeds {
                let unit = Unit {
                    drawing,
                    camera: camera.name.clone(),
                    light: camera.light.clone(),
                };
                // Lights and numbers of labels share their seeds, so differences between
                // them are not differences between draws.
                let Some((samples, test)) = camera.draw(drawing, classes, draw) else {
                    continue;
                };
                draws += 1;
                if known.contains(&(unit, draw)) {
                    continue;
                }
                let trial = one(trials, camera, (drawing, draw), &samples, &test)?;
                let mut line = serde_json::to_vec(&trial)?;
                line.push(b'\n');
                file.write_all(&line)?;
                done.push(trial);
            }
            if draws == 0 && !drawing.new_people {
                left_out.insert(format!(
                    "{} labels: {} {}",
                    drawing.labels, camera.light, camera.name
                ));
            }
        }
    }
    for camera in cameras.iter().filter(|camera| camera.without_face > 0) {
        eprintln!(
            "{} {}: no face found in {} pictures",
            camera.light, camera.name, camera.without_face
        );
    }
    for line in left_out {
        eprintln!("left out because of too few pictures: {line}");
    }
    print!("{}", tables(trials, &done)?);
    Ok(())
}

fn read(results: &Path) -> anyhow::Result<Vec<Trial>> {
    let Ok(file) = File::open(results) else {
        return Ok(Vec::new());
    };
    let mut trials = Vec::new();
    for line in BufReader::new(file).lines() {
        // The last line is incomplete if the run was interrupted.
        if let Ok(trial) = serde_json::from_str(&line?) {
            trials.push(trial);
        }
    }
    Ok(trials)
}

fn one(
    trials: &Trials,
    camera: &RealCamera,
    (drawing, draw): (Drawing, u64),
    samples: &[Sample],
    test: &[usize],
) -> anyhow::Result<Trial> {
    let rows = camera.rows(test);
    let right = |head: &HeadTensors| -> anyhow::Result<Vec<bool>> {
        let logits = logits(head, &rows)?;
        let predicted = logits.iter().map(argmax);
        let right = predicted.zip(&rows.labels);
        Ok(right.map(|(at, label)| at == Some(*label)).collect())
    };
    let before = right(&trials.head.head)?;
    let judged = trials.judged(samples)?;
    let (after, old) = match &judged.head {
        Some(head) => (right(head)?, accuracy(head, &trials.old)?),
        None => (before.clone(), accuracy(&trials.head.head, &trials.old)?),
    };
    Ok(Trial {
        light: camera.light.clone(),
        camera: camera.name.clone(),
        labels: drawing.labels,
        mislabeled: drawing.mislabeled,
        new_people: drawing.new_people,
        draw,
        test: test
            .iter()
            .zip(before.into_iter().zip(after))
            .map(|(at, (before, after))| (*at, before, after))
            .collect(),
        decision: judged.decision,
        accepted: judged.accepted,
        nothing_to_gain: judged.nothing_to_gain,
        adaptation: judged.adaptation,
        old,
        measured: judged.measured,
    })
}

fn tables(trials: &Trials, done: &[Trial]) -> anyhow::Result<String> {
    let old = accuracy(&trials.head.head, &trials.old)?;
    let mut units: BTreeMap<Unit, Vec<&Trial>> = BTreeMap::new();
    for trial in done {
        units.entry(trial.unit()).or_default().push(trial);
    }
    let mut text = String::new();
    writeln!(
        text,
        "| labels for each class | units | accuracy before, % | with the gate | if all were accepted | gaining units, accepted | losing units, accepted | units below 93%: gain in points, 90% interval | old pictures, mean (worst) change |\n\
         |---|---|---|---|---|---|---|---|---|"
    )?;
    let mut lines = String::new();
    let mut groups: BTreeMap<Drawing, Vec<Pooled>> = BTreeMap::new();
    for (unit, trials) in &units {
        let pooled = Pooled::of(trials);
        writeln!(
            lines,
            "{} {:9} {:14} {:5.1} -> {:5.1} [{:+.1}, {:+.1}], gate {:5.1}, accepted {} of {}, nothing to gain {}",
            unit.drawing,
            unit.light,
            unit.camera,
            100.0 * pooled.before,
            100.0 * pooled.all,
            100.0 * pooled.interval[0],
            100.0 * pooled.interval[1],
            100.0 * pooled.gated,
            pooled.accepted,
            pooled.trials,
            pooled.nothing_to_gain,
        )?;
        groups.entry(unit.drawing).or_default().push(pooled);
    }
    for (drawing, units) in &groups {
        let mean = |value: fn(&Pooled) -> f64| {
            100.0 * units.iter().map(value).sum::<f64>() / units.len() as f64
        };
        let let_through = |chosen: fn(&Pooled) -> bool| {
            let chosen: Vec<&Pooled> = units.iter().filter(|unit| chosen(unit)).collect();
            let accepted: usize = chosen.iter().map(|unit| unit.accepted).sum();
            let trials: usize = chosen.iter().map(|unit| unit.trials).sum();
            format!("{}: {accepted} of {trials}", chosen.len())
        };
        writeln!(
            text,
            "| {drawing} | {} | {:.1} | {:.1} | {:.1} | {} | {} | {} | {} |",
            units.len(),
            mean(|unit| unit.before),
            mean(|unit| unit.gated),
            mean(|unit| unit.all),
            let_through(Pooled::gains),
            let_through(Pooled::loses),
            helped(units),
            forgotten(units, old),
        )?;
    }
    Ok(lines + "\n" + &text)
}

/// Returns the mean and the worst change of the accuracy on old pictures by the accepted heads,
/// compared with the accuracy `before`, in points.
fn forgotten(units: &[Pooled], before: f64) -> String {
    let changes: Vec<f64> = units
        .iter()
        .flat_map(|unit| &unit.old)
        .map(|after| after - before)
        .collect();
    let Some(worst) = changes.iter().copied().reduce(f64::min) else {
        return "-".to_owned();
    };
    let mean = changes.iter().sum::<f64>() / changes.len() as f64;
    format!("{mean:+.2} ({worst:+.2})")
}

/// Returns the mean gain of the units that need help, with an interval over cameras.
fn helped(units: &[Pooled]) -> String {
    let mut cameras: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for unit in units.iter().filter(|unit| unit.before <= NEEDS_HELP) {
        let gain = 100.0 * (unit.gated - unit.before);
        cameras.entry(&unit.camera).or_default().push(gain);
    }
    if cameras.is_empty() {
        return "-".to_owned();
    }
    let cameras: Vec<Vec<f64>> = cameras.into_values().collect();
    let mean = |drawn: &[usize]| {
        let gains = || drawn.iter().flat_map(|at| &cameras[*at]);
        gains().sum::<f64>() / gains().count().max(1) as f64
    };
    let every: Vec<usize> = (0..cameras.len()).collect();
    let [low, high] = bootstrap(cameras.len(), mean);
    let units: usize = cameras.iter().map(Vec::len).sum();
    format!(
        "{:+.1} [{low:+.1}, {high:+.1}] ({units} units)",
        mean(&every)
    )
}
