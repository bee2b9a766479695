//! Tests of changes that fail halfway. After a failure, the head in use, the state on
//! disk, and the result that the caller receives must still agree.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::frame::Crop;
use crate::learning::refit::Adaptation;
use crate::learning::replay::{Replay, Rows};
use crate::onnx::{FEATURES, HeadFile, HeadTensors, ModelError, write_head};
use crate::platform::clock::ClockReading;
use crate::platform::faults;
use crate::vision::embed::Feature;

const BY: Channel = Channel::CommandLine;

const LABELS: [&str; 2] = ["with_mask", "without_mask"];

/// Returns a head that can distinguish the features from [`embed`], but predicts
/// `without_mask` for all of them, so that training improves the head. Heads with
/// different values of `size` are different.
fn head(size: f32) -> HeadFile {
    let mut w1 = vec![0.0; 2 * FEATURES];
    (w1[0], w1[FEATURES + 1]) = (size, size);
    HeadFile {
        backbone_sha256: [7; 32],
        labels: LABELS.map(str::to_owned).to_vec(),
        head: HeadTensors {
            w1,
            b1: vec![0.0; 2],
            w2: vec![0.05, -0.05, -0.05, 0.05],
            b2: vec![-2.0, 2.0],
        },
    }
}

/// Stands in for the backbone. Computes different features for red crops and for blue
/// crops. Crops of one color are near-duplicates only if they have the same share of green.
#[expect(clippy::unnecessary_wraps, reason = "it has the type of an `Embed`")]
fn embed(crops: &[Crop]) -> Result<Vec<Feature>, ModelError> {
    let embed = |crop: &Crop| {
        let pixel = crop.pixels().get_pixel(100, 100);
        let mut values = [0.1; FEATURES];
        values[usize::from(pixel[2] > pixel[0])] = 2.0;
        values[2 + usize::from(pixel[1] + 5) / 10] = 2.0;
        Feature::from(Box::new(values))
    };
    Ok(crops.iter().map(embed).collect())
}

/// A state directory with twelve labeled samples of each class.
struct Device {
    folder: TempDir,
    keep_heads: usize,
}

impl Device {
    fn new() -> Device {
        let device = Device {
            folder: tempfile::tempdir().unwrap(),
            keep_heads: 10,
        };
        for (label, color) in LABELS.into_iter().zip([[200, 20, 20], [20, 20, 200]]) {
            fs::create_dir_all(device.at("set").join(label)).unwrap();
            for number in 0..12 {
                let Rgb([red, _, blue]) = Rgb(color);
                let picture = RgbImage::from_pixel(224, 224, Rgb([red, 10 * number, blue]));
                let path = device.at("set").join(label).join(format!("{number}.png"));
                picture.save(path).unwrap();
            }
        }
        device.open().import(&device.at("set")).unwrap();
        device
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.at("state")
    }

    fn base() -> Arc<Head> {
        Arc::new(Head::from_file(head(1.0)))
    }

    fn open(&self) -> Learning {
        let mut options = LearningOptions {
            keep_heads: self.keep_heads,
            ..LearningOptions::default()
        };
        // The other adaptations take seconds. It does not matter here how a head is trained.
        options.refit.fit.adaptations = vec![Adaptation::Logits];
        Learning::open(&self.state(), Device::base(), options).unwrap()
    }

    /// Writes a head to a file that can be imported.
    fn file(&self, size: f32) -> PathBuf {
        let path = self.at(&format!("{size}.onnx"));
        fs::write(&path, write_head(&head(size), &[])).unwrap();
        path
    }

    /// Returns the number of the head that another process would use now.
    fn on_disk(&self) -> Option<u32> {
        head_in_use(&self.state(), &Device::base()).unwrap().number
    }

    /// Creates a folder at the path of a file, so that the file cannot be written.
    fn block(&self, name: &str) {
        let path = self.state().join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.join("in the way")).unwrap();
    }
}

fn refit(learning: &Learning) -> Result<RefitRecord, LearningError> {
    learning.refit(RefitTrigger::default(), &mut |crops| embed(crops), &|| {
        false
    })
}

fn used(learning: &Learning) -> Option<u32> {
    learning.in_use().unwrap().number
}

#[test]
fn a_refit_whose_record_cannot_be_written_is_still_accepted() {
    let device = Device::new();
    let learning = device.open();
    device.block("refit.json");
    let record = refit(&learning).unwrap();
    assert_eq!(record.head, Some(1), "{}", record.outcome.reason);
    let warning = record.outcome.warning.unwrap_or_default();
    assert!(warning.contains("refit.json"), "{warning}");
    assert_eq!((used(&learning), device.on_disk()), (Some(1), Some(1)));
    assert_eq!(learning.new_labels().unwrap(), 0, "kept in memory");
    assert_eq!(learning.last_refit().unwrap().head, Some(1));
    // The record is written as soon as the file can be written.
    fs::remove_dir_all(device.state().join("refit.json")).unwrap();
    learning.save_unsaved();
    drop(learning);
    let learning = device.open();
    assert_eq!(learning.new_labels().unwrap(), 0);
    assert_eq!(learning.last_refit().unwrap().head, Some(1));
    assert_eq!(used(&learning), Some(1));
}

#[test]
fn a_model_that_is_in_use_is_reported_even_if_old_ones_cannot_be_deleted() {
    let mut device = Device::new();
    device.keep_heads = 2;
    let learning = device.open();
    for size in [2.0, 3.0, 4.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    device.block("heads/000002.onnx");
    let imported = learning.import_head(&device.file(5.0), BY);
    assert_eq!((used(&learning), device.on_disk()), (Some(4), Some(4)));
    assert_eq!(imported.unwrap(), 4);
    assert_eq!(refit(&learning).unwrap().head, Some(5));
    assert_eq!((used(&learning), device.on_disk()), (Some(5), Some(5)));
}

#[test]
fn an_import_that_fails_has_changed_nothing() {
    for damaged in ["heads/current", "heads/current.backup"] {
        let device = Device::new();
        let learning = device.open();
        learning.import_head(&device.file(2.0), BY).unwrap();
        device.block(damaged);
        let imported = learning.import_head(&device.file(3.0), BY);
        let expected = imported.as_ref().map_or(Some(1), |number| Some(*number));
        let agree = (used(&learning), device.on_disk());
        assert_eq!(agree, (expected, expected), "{damaged}: {imported:?}");
        let files = fs::read_dir(device.state().join("heads")).unwrap();
        let heads = files.filter(|file| {
            let path = file.as_ref().unwrap().path();
            path.extension().is_some_and(|ending| ending == "onnx")
        });
        let stored = 1 + usize::from(imported.is_ok());
        assert_eq!(
            heads.count(),
            stored,
            "{damaged}: a failed import leaves no file"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &copied);
        } else {
            fs::copy(&path, &copied).unwrap();
        }
    }
}

/// A function that tries to change the head in use. Returns the number of the head that
/// is then in use, or `None` if the change was refused.
type Change<'a> = &'a dyn Fn(&Learning) -> Result<Option<u32>, LearningError>;

/// Runs `change` repeatedly, and makes a different disk operation fail each time. Calls
/// `agree` after each run to check the state, and to learn whether the change succeeded.
/// Returns how often the change succeeded, and how often it failed.
fn with_each_step_failing<T>(
    device: &Device,
    change: impl Fn(&Learning) -> T,
    agree: impl Fn(&Learning, &T) -> bool,
) -> (usize, usize) {
    let (mut succeeded, mut failed) = (0, 0);
    let before = device.at("before");
    copy(&device.state(), &before);
    for step in 0.. {
        fs::remove_dir_all(device.state()).unwrap();
        copy(&before, &device.state());
        let learning = device.open();
        faults::fail_at(step);
        let result = change(&learning);
        let has_failed = faults::clear();
        if agree(&learning, &result) {
            succeeded += 1;
        } else {
            failed += 1;
        }
        if !has_failed {
            break;
        }
    }
    fs::remove_dir_all(device.state()).unwrap();
    fs::rename(before, device.state()).unwrap();
    (succeeded, failed)
}

#[test]
fn whichever_step_fails_memory_disk_and_answer_agree_on_the_model() {
    let mut device = Device::new();
    device.keep_heads = 2;
    let learning = device.open();
    for size in [2.0, 3.0, 4.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    // This head is refused, but evaluating it stores the features of all samples. The
    // refits below then do not have to store them.
    let mut bad = head(9.0);
    bad.head.w2.iter_mut().for_each(|weight| *weight *= -1.0);
    assert_eq!(offer(&learning, &bad, "1").unwrap(), None);
    drop(learning);
    let imported = device.file(5.0);
    let changes: [(&str, Change); 5] = [
        ("import", &|learning| {
            learning.import_head(&imported, BY).map(Some)
        }),
        ("rollback", &|learning| learning.rollback(1, BY)),
        ("use", &|learning| learning.use_head(2, BY)),
        ("refit", &|learning| {
            refit(learning).map(|record| record.head)
        }),
        ("offer", &|learning| offer(learning, &good(1.5), "1")),
    ];
    for (name, change) in changes {
        let agree = |learning: &Learning, result: &Result<Option<u32>, LearningError>| {
            let expected = match result {
                Ok(Some(number)) => Some(*number),
                Ok(None) | Err(_) => Some(3),
            };
            let agree = [
                used(learning),
                learning.subscribe().borrow().number,
                device.on_disk(),
            ];
            assert_eq!(agree, [expected; 3], "{name}: {result:?}");
            if result.is_err() {
                let heads = learning.head_records().unwrap();
                let newest = heads.last().map(|head| head.number);
                assert_eq!(
                    newest,
                    Some(3),
                    "{name}: the new model is left behind: {result:?}"
                );
            }
            matches!(result, Ok(Some(_)))
        };
        let (succeeded, failed) = with_each_step_failing(&device, change, agree);
        assert!(succeeded > 1 && failed > 1, "{name}: {succeeded} {failed}");
    }
}

#[test]
fn whichever_step_fails_disk_and_answer_agree_on_the_labels() {
    let device = Device::new();
    let samples = device
        .open()
        .samples(&SampleFilter::with_label(Some(LABELS[0])))
        .unwrap();
    let ids: Vec<String> = samples.into_iter().map(|sample| sample.id).collect();
    let mark = |action: LabelAction| {
        let chosen = SampleSelector::Ids(ids[..3].to_vec());
        move |learning: &Learning| learning.label(chosen.clone(), &action)
    };
    let state_of = |learning: &Learning, id: &str| {
        let samples = learning.samples(&SampleFilter::default()).unwrap();
        let sample = samples.into_iter().find(|sample| sample.id == id);
        let label = sample.map(|sample| sample.label.unwrap_or("unlabelled".to_owned()));
        label.unwrap_or("gone".to_owned())
    };
    for (action, expected) in [
        (LabelAction::As("chin".to_owned()), "chin"),
        (LabelAction::Unlabelled, "unlabelled"),
        (LabelAction::Discard, "gone"),
    ] {
        let agree = |learning: &Learning, result: &Result<LabelResult, LearningError>| {
            for id in &ids[..3] {
                let is_done = result.as_ref().is_ok_and(|result| result.done.contains(id));
                let expected = if is_done { expected } else { LABELS[0] };
                assert_eq!(state_of(learning, id), expected, "{id}: {result:?}");
            }
            result.as_ref().is_ok_and(|result| result.failed.is_empty())
        };
        let (succeeded, failed) = with_each_step_failing(&device, mark(action), agree);
        assert!(
            succeeded > 1 && failed > 1,
            "{expected}: {succeeded} {failed}"
        );
    }
}

/// Returns the ids of the samples with the first label, and a function that returns the
/// label of a sample.
fn ids_and_labels(learning: &Learning) -> (Vec<String>, impl Fn(&str) -> String) {
    let samples = learning.samples(&SampleFilter::with_label(Some(LABELS[0])));
    let ids = samples
        .unwrap()
        .into_iter()
        .map(|sample| sample.id)
        .collect();
    let label_of = |id: &str| {
        let samples = learning.samples(&SampleFilter::default()).unwrap();
        let sample = samples.into_iter().find(|sample| sample.id == id);
        let label = sample.map(|sample| sample.label.unwrap_or("unlabelled".to_owned()));
        label.unwrap_or("gone".to_owned())
    };
    (ids, label_of)
}

fn chin() -> LabelAction {
    LabelAction::As("chin".to_owned())
}

#[test]
fn actions_are_taken_back_one_after_another_even_after_a_restart() {
    let device = Device::new();
    let learning = device.open();
    let (ids, _) = ids_and_labels(&learning);
    let three = || SampleSelector::Ids(ids[..3].to_vec());
    assert!(matches!(
        learning.undo(None),
        Err(LearningError::NothingToUndo)
    ));
    let first = learning.label(three(), &chin()).unwrap();
    assert_eq!(first.action, Some(1));
    let again = learning.label(three(), &chin()).unwrap();
    assert_eq!((again.done.len(), again.action), (0, None));
    learning.label(three(), &LabelAction::Unlabelled).unwrap();
    let discarded = learning.label(three(), &LabelAction::Discard).unwrap();
    assert_eq!(discarded.action, Some(3));
    drop(learning);
    let learning = device.open();
    let (_, label_of) = ids_and_labels(&learning);
    for (mark, expected) in [
        (LabelAction::Discard, "unlabelled"),
        (LabelAction::Unlabelled, "chin"),
        (chin(), LABELS[0]),
    ] {
        let undone = learning.undo(None).unwrap();
        assert_eq!(undone.mark, mark);
        assert_eq!(undone.done, ids[..3]);
        assert_eq!((undone.changed.len(), undone.failed.len()), (0, 0));
        assert!(ids[..3].iter().all(|id| label_of(id) == expected));
    }
    assert!(matches!(
        learning.undo(None),
        Err(LearningError::NothingToUndo)
    ));
}

#[test]
fn what_has_changed_since_an_action_is_not_taken_back() {
    let device = Device::new();
    let learning = device.open();
    let (ids, label_of) = ids_and_labels(&learning);
    let chosen = |range: std::ops::Range<usize>| SampleSelector::Ids(ids[range].to_vec());
    let first = learning.label(chosen(0..4), &chin()).unwrap().action;
    let other = LabelAction::As(LABELS[1].to_owned());
    learning.label(chosen(1..2), &other).unwrap();
    learning.label(chosen(2..3), &LabelAction::Discard).unwrap();
    // The action is named by its number, although it is not the last one.
    let undone = learning.undo(first).unwrap();
    assert_eq!(undone.done, [ids[0].clone(), ids[3].clone()]);
    assert_eq!(undone.changed, ids[1..3]);
    assert_eq!(label_of(&ids[0]), LABELS[0]);
    assert_eq!(label_of(&ids[1]), LABELS[1]);
    assert_eq!(label_of(&ids[2]), "gone");
    assert!(matches!(
        learning.undo(first),
        Err(LearningError::NothingToUndo)
    ));

    // A restored sample that was labeled differently since stays as it is.
    assert_eq!(learning.undo(None).unwrap().done, ids[2..3]);
    learning.label(chosen(3..5), &LabelAction::Discard).unwrap();
    learning.restore(ids[3..4].to_vec()).unwrap();
    let undone = learning.undo(None).unwrap();
    assert_eq!(
        (undone.done, undone.changed),
        (ids[4..5].to_vec(), ids[3..4].to_vec())
    );
}

#[test]
fn an_action_that_a_kill_interrupted_is_taken_back_as_far_as_it_came() {
    let device = Device::new();
    let learning = device.open();
    let (ids, label_of) = ids_and_labels(&learning);
    learning
        .label(SampleSelector::Ids(ids[..2].to_vec()), &chin())
        .unwrap();
    // The log is written before the samples are moved.
    learning
        .store()
        .label(&ids[1..2], Some(&onnx::Label::new(LABELS[0]).unwrap()))
        .unwrap();
    let undone = learning.undo(None).unwrap();
    assert_eq!(
        (undone.done, undone.changed),
        (ids[..1].to_vec(), ids[1..2].to_vec())
    );
    assert!(ids.iter().all(|id| label_of(id) == LABELS[0]));
}

#[test]
fn whichever_step_fails_an_undo_loses_no_label() {
    let device = Device::new();
    let ids = {
        let learning = device.open();
        let (ids, _) = ids_and_labels(&learning);
        let chosen = || SampleSelector::Ids(ids[..2].to_vec());
        learning.label(chosen(), &chin()).unwrap();
        learning.label(chosen(), &LabelAction::Discard).unwrap();
        ids
    };
    let undo = |learning: &Learning| learning.undo(None);
    let agree = |learning: &Learning, result: &Result<UndoRecord, LearningError>| {
        let (_, label_of) = ids_and_labels(learning);
        let trash = learning.store().trash().list().unwrap().samples;
        for id in &ids[..2] {
            let is_done = result.as_ref().is_ok_and(|result| result.done.contains(id));
            let expected = if is_done { "chin" } else { "gone" };
            assert_eq!(label_of(id), expected, "{id}: {result:?}");
            assert_eq!(trash.iter().any(|sample| sample.id == *id), !is_done);
        }
        let is_complete = result.as_ref().is_ok_and(|result| result.failed.is_empty());
        if !is_complete {
            // The rest can be taken back later.
            learning.undo(None).unwrap();
            assert!(ids[..2].iter().all(|id| label_of(id) == "chin"));
        }
        is_complete
    };
    let (succeeded, failed) = with_each_step_failing(&device, undo, agree);
    assert!(succeeded > 1 && failed > 0, "{succeeded} {failed}");
}

#[test]
fn purging_forgets_actions_and_discarded_samples() {
    let device = Device::new();
    let learning = device.open();
    let (ids, _) = ids_and_labels(&learning);
    let chosen = |range: std::ops::Range<usize>| SampleSelector::Ids(ids[range].to_vec());
    learning.label(chosen(0..2), &LabelAction::Discard).unwrap();
    learning.label(chosen(2..4), &chin()).unwrap();
    let purge = Purge {
        label: Some("chin".to_owned()),
        older_than_days: None,
        discarded: false,
    };
    let reading = ClockReading::now();
    learning.purge(&purge, reading).unwrap();
    assert_eq!(learning.undo(None).unwrap().mark, LabelAction::Discard);
    learning.label(chosen(0..2), &LabelAction::Discard).unwrap();
    let purge = Purge {
        label: None,
        older_than_days: None,
        discarded: true,
    };
    let removed = learning.purge(&purge, reading).unwrap();
    assert_eq!((removed.discarded, removed.labelled), (2, 0));
    assert!(matches!(
        learning.undo(None),
        Err(LearningError::NothingToUndo)
    ));
    let text = fs::read_to_string(device.state().join("undo.json")).unwrap();
    assert!(ids.iter().all(|id| !text.contains(id)), "{text}");
    let text = fs::read_to_string(device.state().join("ages.json")).unwrap();
    assert!(ids[..4].iter().all(|id| !text.contains(id)), "{text}");
}

/// A reading of a clock that is synchronized, `hours` after a day in November 2026.
fn hours_later(hours: u64) -> ClockReading {
    let since_1970 = Duration::from_secs(1_795_515_330) + Duration::from_hours(hours);
    ClockReading {
        synchronized: Some(SystemTime::UNIX_EPOCH + since_1970),
        ..ClockReading::now()
    }
}

fn discarded(learning: &Learning) -> usize {
    learning.store().trash().list().unwrap().samples.len()
}

#[test]
fn without_a_daemon_the_trash_expires_after_a_day_however_rarely_maskd_is_used() {
    let device = Device::new();
    // Each command opens the directory, and the last one was long ago.
    let command = |hours| {
        let learning = device.open();
        learning.tidy_trash(hours_later(hours)).unwrap();
        learning
    };
    command(0);
    let learning = command(500);
    let (ids, _) = ids_and_labels(&learning);
    let chosen = || SampleSelector::Ids(ids[..2].to_vec());
    // The process is killed before it saves when it discarded the pictures.
    learning.label(chosen(), &LabelAction::Discard).unwrap();
    drop(learning);
    assert_eq!(discarded(&command(501)), 2);
    assert_eq!(discarded(&command(524)), 2);
    assert_eq!(discarded(&command(526)), 0);
}

/// Checks that the files `names` in the state directory name no samples but the existing
/// and the discarded ones.
fn assert_forgotten(device: &Device, learning: &Learning, ids: &[String], names: &[&str]) {
    let store = learning.store();
    let mut present = store.list().unwrap().samples;
    present.extend(store.trash().list().unwrap().samples);
    for name in names {
        let text = fs::read_to_string(device.state().join(name)).unwrap_or_default();
        for id in ids {
            let is_present = present.iter().any(|sample| sample.id == *id);
            assert!(is_present || !text.contains(id), "{name}: {id} in {text}");
        }
    }
}

#[test]
fn what_the_limits_delete_is_forgotten() {
    let device = Device::new();
    let learning = device.open();
    let (ids, _) = ids_and_labels(&learning);
    let chosen = |range: std::ops::Range<usize>| SampleSelector::Ids(ids[range].to_vec());
    learning.label(chosen(0..4), &chin()).unwrap();
    learning
        .label(chosen(1..3), &LabelAction::Unlabelled)
        .unwrap();
    learning.label(chosen(3..5), &LabelAction::Discard).unwrap();
    let limits = Limits {
        max_age: Duration::from_hours(24 * 30),
        max_bytes: 0,
    };
    let upkeep = learning.apply_limits(limits, hours_later(0)).unwrap();
    let removed = upkeep.removed;
    assert_eq!((removed.unlabelled, removed.discarded), (2, 2));
    learning.save_ages(hours_later(0), true).unwrap();
    assert_forgotten(&device, &learning, &ids, &["undo.json", "ages.json"]);
    let undone = learning.undo(None).unwrap();
    assert_eq!((undone.action, undone.done), (1, ids[..1].to_vec()));
}

#[test]
fn what_expires_in_the_trash_is_forgotten() {
    let device = Device::new();
    let learning = device.open();
    learning.tidy_trash(hours_later(0)).unwrap();
    let (ids, _) = ids_and_labels(&learning);
    let chosen = |range: std::ops::Range<usize>| SampleSelector::Ids(ids[range].to_vec());
    learning.label(chosen(0..2), &LabelAction::Discard).unwrap();
    learning.label(chosen(2..3), &chin()).unwrap();
    learning.tidy_trash(hours_later(25)).unwrap();
    assert_eq!(discarded(&learning), 0);
    assert_forgotten(&device, &learning, &ids, &["undo.json", "ages.json"]);
    assert_eq!(learning.undo(None).unwrap().done, ids[2..3]);
    assert!(matches!(
        learning.undo(None),
        Err(LearningError::NothingToUndo)
    ));
}

#[test]
fn a_picture_that_is_too_large_for_the_trash_cannot_be_taken_back() {
    let device = Device::new();
    let learning = device.open();
    let large = device.state().join("samples/unlabelled/large.png");
    fs::write(&large, vec![1; 17 << 20]).unwrap();
    let chosen = SampleSelector::Ids(vec!["large".to_owned()]);
    let result = learning.label(chosen, &LabelAction::Discard).unwrap();
    assert_eq!((result.done.len(), result.action), (1, None));
    let names = ["undo.json", "ages.json"];
    learning.save_ages(ClockReading::now(), true).unwrap();
    assert_forgotten(&device, &learning, &result.done, &names);
}

#[test]
fn a_purge_that_fails_forgets_what_it_deleted() {
    let device = Device::new();
    let learning = device.open();
    let (ids, _) = ids_and_labels(&learning);
    let chosen = |range: std::ops::Range<usize>| SampleSelector::Ids(ids[range].to_vec());
    learning.label(chosen(0..3), &chin()).unwrap();
    learning.label(chosen(3..5), &LabelAction::Discard).unwrap();
    learning.save_ages(hours_later(0), true).unwrap();
    drop(learning);
    let purge = |learning: &Learning| {
        let everything = Purge {
            label: None,
            older_than_days: None,
            discarded: false,
        };
        learning.purge(&everything, hours_later(0))
    };
    let agree = |learning: &Learning, result: &Result<RemovedRecord, LearningError>| {
        assert_forgotten(&device, learning, &ids, &["undo.json"]);
        if result.is_err() {
            assert_forgotten(&device, learning, &ids, &["ages.json"]);
        }
        result.is_ok()
    };
    let (succeeded, failed) = with_each_step_failing(&device, purge, agree);
    assert!(succeeded > 1 && failed > 5, "{succeeded} {failed}");
}

#[test]
fn undo_restores_the_picture_that_was_discarded_and_not_its_namesake() {
    let device = Device::new();
    let learning = device.open();
    let put = |label: &str, content: &[u8]| {
        let folder = device.state().join("samples").join(label);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("1.png"), content).unwrap();
    };
    let discard = || {
        let chosen = SampleSelector::Ids(vec!["1".to_owned()]);
        learning.label(chosen, &LabelAction::Discard).unwrap()
    };
    let content = || {
        let samples = learning.store().list().unwrap().samples;
        let sample = samples.into_iter().find(|sample| sample.id == "1")?;
        let label = sample.label.as_ref().map(ToString::to_string);
        Some((learning.store().read(&sample).unwrap(), label))
    };
    put("chin", b"first");
    let first = discard().action;
    put("with_mask", b"second");
    let second = discard().action;
    put("with_mask", b"third");
    // A third picture would replace the second one in the trash.
    let refused = discard();
    assert!(
        refused.failed["1"].contains("another discarded picture"),
        "{refused:?}"
    );
    assert_eq!((refused.done.len(), refused.action), (0, None));
    fs::remove_file(device.state().join("samples/with_mask/1.png")).unwrap();

    assert_eq!(learning.undo(first).unwrap().done, ["1"]);
    assert_eq!(
        content(),
        Some((b"first".to_vec(), Some("chin".to_owned())))
    );
    assert!(learning.undo(second).unwrap().failed.contains_key("1"));
    // Undo does not restore another picture in place of one that is gone.
    let third = discard().action;
    fs::remove_file(device.state().join("samples/.trash/chin/1.png")).unwrap();
    put("other", b"fourth");
    assert_eq!(discard().done, ["1"]);
    let undone = learning.undo(third).unwrap();
    assert_eq!(
        (undone.done.len(), undone.changed),
        (0, vec!["1".to_owned()])
    );
    assert_eq!(content(), None);
}

/// Makes a change while a refit is running. Returns the error that the refit then
/// reports.
fn meanwhile(change: impl Fn(&Learning, &Device)) -> (Device, Learning, String) {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0), BY).unwrap();
    learning.import_head(&device.file(3.0), BY).unwrap();
    let mut changed = false;
    let mut embed_and_change = |crops: &[Crop]| {
        if !std::mem::replace(&mut changed, true) {
            change(&learning, &device);
        }
        embed(crops)
    };
    let refit = learning.refit(RefitTrigger::default(), &mut embed_and_change, &|| false);
    let error = refit.unwrap_err();
    assert_eq!(error.kind(), FailureKind::NotNow);
    let error = error.to_string();
    (device, learning, error)
}

#[test]
fn a_refit_replaces_only_the_model_that_it_was_compared_with() {
    let (device, learning, error) = meanwhile(|learning, _| {
        assert_eq!(learning.rollback(1, BY).unwrap(), Some(1));
    });
    assert!(error.contains("changed"), "{error}");
    assert_eq!((used(&learning), device.on_disk()), (Some(1), Some(1)));
    assert_eq!(
        learning.head_records().unwrap().len(),
        3,
        "nothing is stored"
    );
    assert!(
        learning.new_labels().unwrap() > 0,
        "the labels are still new"
    );

    let (device, learning, _) = meanwhile(|learning, device| {
        learning.import_head(&device.file(4.0), BY).unwrap();
    });
    assert_eq!((used(&learning), device.on_disk()), (Some(3), Some(3)));

    // Switching to another head and back also counts as a change, because the user
    // made a choice.
    let (device, learning, _) = meanwhile(|learning, device| {
        learning.import_head(&device.file(4.0), BY).unwrap();
        learning.rollback(1, BY).unwrap();
    });
    assert_eq!((used(&learning), device.on_disk()), (Some(2), Some(2)));
    let again = refit(&learning).unwrap();
    assert_eq!((again.head, used(&learning)), (Some(4), Some(4)));
}

#[test]
fn a_foreign_model_replaces_only_the_one_that_it_was_compared_with() {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0), BY).unwrap();
    let good = write_head(&good(1.5), &[]);
    let mut changed = false;
    let mut embed_and_change = |crops: &[Crop]| {
        if !std::mem::replace(&mut changed, true) {
            learning.rollback(1, BY).unwrap();
        }
        embed(crops)
    };
    let tried = learning.try_foreign_head("x", &good, "00", &mut embed_and_change, &|| false);
    assert_eq!(tried.unwrap_err().kind(), FailureKind::NotNow);
    assert_eq!((used(&learning), device.on_disk()), (None, None));
    let tried = learning.try_foreign_head("x", &good, "00", &mut |crops| embed(crops), &|| false);
    assert_eq!(tried.unwrap().head, Some(2));
    assert_eq!((used(&learning), device.on_disk()), (Some(2), Some(2)));
}

/// Returns a head that classifies the features from [`embed`] correctly.
fn good(size: f32) -> HeadFile {
    let mut good = head(size);
    good.head.w2 = vec![1.0, -1.0, -1.0, 1.0];
    good.head.b2 = vec![0.0; 2];
    good
}

fn offer(
    learning: &Learning,
    head: &HeadFile,
    version: &str,
) -> Result<Option<u32>, LearningError> {
    let bytes = write_head(head, &[("version", version.to_owned())]);
    let tried = learning.try_foreign_head("x", &bytes, "00", &mut |crops| embed(crops), &|| false);
    tried.map(|record| record.head)
}

#[test]
fn an_offer_that_was_rolled_back_stays_rejected() {
    let device = Device::new();
    let learning = device.open();
    assert_eq!(offer(&learning, &good(1.5), "1").unwrap(), Some(1));
    assert_eq!(learning.rollback(1, BY).unwrap(), None);
    let is_rejected = |learning: &Learning, size: f32| {
        let tried = offer(learning, &good(size), "2");
        matches!(tried, Err(LearningError::KnownHead))
    };
    assert!(is_rejected(&learning, 1.5), "even with other metadata");
    // The head stays rejected after another head is put into use.
    assert_eq!(offer(&learning, &good(2.5), "1").unwrap(), Some(2));
    assert!(is_rejected(&learning, 1.5));
    assert!(is_rejected(&learning, 2.5), "it is in use already");
    assert_eq!(learning.rollback(1, BY).unwrap(), None);
    assert!(is_rejected(&learning, 2.5) && is_rejected(&learning, 1.5));
    // The heads stay rejected even if their files are deleted and the daemon is
    // restarted.
    drop(learning);
    for name in ["heads/000001.onnx", "heads/000002.onnx"] {
        fs::remove_file(device.state().join(name)).unwrap();
    }
    let learning = device.open();
    assert!(is_rejected(&learning, 2.5) && is_rejected(&learning, 1.5));
    assert_eq!(offer(&learning, &good(3.5), "1").unwrap(), Some(3));

    // A user can roll back even if the rejection cannot be recorded, and can import
    // the head again.
    device.block("rejected.json");
    assert_eq!(learning.rollback(1, BY).unwrap(), None);
    assert!(is_rejected(&learning, 3.5));
    drop(learning);
    let learning = device.open();
    assert!(is_rejected(&learning, 3.5), "its file is still there");
    let path = device.at("good.onnx");
    fs::write(&path, write_head(&good(3.5), &[])).unwrap();
    assert_eq!(learning.import_head(&path, BY).unwrap(), 4);
}

#[test]
fn any_model_can_be_used_forward_and_back() {
    let device = Device::new();
    let learning = device.open();
    for size in [2.0, 3.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    let current = |learning: &Learning| -> Vec<u32> {
        let heads = learning.head_records().unwrap().into_iter();
        let current = heads.filter(|head| head.current);
        current.map(|head| head.number).collect()
    };
    for (number, expected) in [(1, Some(1)), (2, Some(2)), (0, None), (2, Some(2))] {
        assert_eq!(learning.use_head(number, BY).unwrap(), expected);
        assert_eq!((used(&learning), device.on_disk()), (expected, expected));
        assert_eq!(learning.subscribe().borrow().number, expected);
        assert_eq!(current(&learning), [number]);
    }
    // The model in use is not sent again, because a refit may have been compared with it.
    let before = learning.in_use().unwrap();
    learning.use_head(2, BY).unwrap();
    assert!(Arc::ptr_eq(&before, &learning.in_use().unwrap()));
    // However, the file that names the model in use is repaired.
    fs::remove_file(device.state().join("heads/current")).unwrap();
    learning.use_head(2, BY).unwrap();
    assert!(device.state().join("heads/current").exists());
    drop(learning);
    let learning = device.open();
    assert_eq!((used(&learning), current(&learning)), (Some(2), vec![2]));
}

#[test]
fn a_model_that_does_not_fit_is_not_used() {
    let device = Device::new();
    let learning = device.open();
    for size in [2.0, 3.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    let refused = |learning: &Learning, number: u32, kind: FailureKind, words: &str| {
        let error = learning.use_head(number, BY).unwrap_err();
        assert!(
            error.kind() == kind && error.to_string().contains(words),
            "{error}"
        );
        assert_eq!((used(learning), device.on_disk()), (Some(2), Some(2)));
    };
    refused(&learning, 9, FailureKind::Missing, "no model 9");
    let path = device.state().join("heads/000001.onnx");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    refused(&learning, 1, FailureKind::Data, "000001.onnx");
    // Another process stores heads, without knowledge of the classifier.
    drop(learning);
    let mut heads = Heads::open(&device.state()).unwrap();
    let mut other = head(4.0);
    other.backbone_sha256 = [8; 32];
    assert_eq!(heads.add(&other, &[]).unwrap(), 3);
    let mut renamed = head(4.0);
    renamed.labels[1] = "bare".to_owned();
    assert_eq!(heads.add(&renamed, &[]).unwrap(), 4);
    let mut more = head(4.0);
    more.labels.insert(0, "chin".to_owned());
    more.head.w2 = vec![0.0; 6];
    more.head.b2 = vec![0.0; 3];
    assert_eq!(heads.add(&more, &[]).unwrap(), 5);
    drop(heads);
    let learning = device.open();
    refused(&learning, 3, FailureKind::Data, "another backbone");
    refused(&learning, 4, FailureKind::Data, "no class for without_mask");
    // A model with an additional class fits.
    assert_eq!(learning.use_head(5, BY).unwrap(), Some(5));
    // A damaged model in use can be left.
    fs::write(device.state().join("heads/000005.onnx"), b"").unwrap();
    drop(learning);
    let learning = device.open();
    assert!(learning.in_use().unwrap().note.is_some());
    assert_eq!(learning.use_head(2, BY).unwrap(), Some(2));
    assert_eq!(learning.in_use().unwrap().note, None);
}

#[test]
fn an_offer_that_was_left_for_another_model_stays_rejected() {
    let device = Device::new();
    let learning = device.open();
    assert_eq!(offer(&learning, &good(1.5), "1").unwrap(), Some(1));
    learning.import_head(&device.file(2.0), BY).unwrap();
    assert_eq!(learning.use_head(0, BY).unwrap(), None);
    // The files are deleted later, as when there are too many.
    drop(learning);
    for name in ["heads/000001.onnx", "heads/000002.onnx"] {
        fs::remove_file(device.state().join(name)).unwrap();
    }
    let learning = device.open();
    let again = offer(&learning, &good(1.5), "2");
    assert!(matches!(again, Err(LearningError::KnownHead)), "{again:?}");
}

/// Swaps the labels of ten samples of each class. With fewer, the samples could be classified in
/// more than one way with nearly the same loss, and rounding would decide.
fn swap_labels(learning: &Learning) {
    let ids = LABELS.map(|label| {
        let filter = SampleFilter::with_label(Some(label));
        let samples = learning.samples(&filter).unwrap().into_iter();
        let ids = samples.map(|sample| sample.id);
        ids.take(10).collect::<Vec<String>>()
    });
    for (ids, label) in ids.into_iter().zip([LABELS[1], LABELS[0]]) {
        let action = LabelAction::As(label.to_owned());
        let result = learning.label(SampleSelector::Ids(ids), &action).unwrap();
        assert_eq!(result.done.len(), 10);
    }
}

#[test]
fn labels_that_the_owner_vouches_for_only_cause_a_warning() {
    let device = Device::new();
    let learning = device.open();
    swap_labels(&learning);
    let refused = refit(&learning).unwrap().outcome;
    let is_doubt = matches!(
        refused.ruling,
        DecisionRecord::Refused(RefusalRecord::LabelsDisagree { .. })
    );
    assert!(is_doubt && !refused.labels_checked, "{refused:?}");
    let trigger = RefitTrigger::requested(Channel::Page, true);
    let record = learning.refit(trigger, &mut |crops| embed(crops), &|| false);
    let record = record.unwrap();
    assert_eq!(record.head, Some(1), "{}", record.outcome.reason);
    assert!(record.outcome.labels_checked);
    let warning = record.outcome.warning.clone().unwrap();
    assert!(warning.contains(&refused.reason), "{warning}");
    // The model and the record of the last refit keep both.
    let last = learning.last_refit().unwrap().outcome;
    let stored = learning.head(1).unwrap().outcome.unwrap();
    for outcome in [last, stored] {
        assert!(outcome.labels_checked);
        assert_eq!(outcome.warning, record.outcome.warning);
    }
}

#[test]
fn each_switch_is_recorded_with_its_cause() {
    let device = Device::new();
    let learning = device.open();
    assert_eq!(learning.history(), []);
    let automatic = RefitTrigger::default();
    let record = learning.refit(automatic, &mut |crops| embed(crops), &|| false);
    assert_eq!(record.unwrap().head, Some(1));
    learning
        .import_head(&device.file(2.0), Channel::CommandLine)
        .unwrap();
    learning.use_head(2, BY).unwrap();
    learning.use_head(1, Channel::Page).unwrap();
    learning.rollback(1, Channel::Page).unwrap();
    offer(&learning, &good(1.5), "1").unwrap();
    let history = |learning: &Learning| -> Vec<(u64, u32, u32, SwitchCause, Option<Channel>)> {
        let records = learning.history().into_iter();
        records
            .map(|at| (at.sequence, at.before, at.head, at.cause, at.channel))
            .collect()
    };
    let (line, page) = (Some(Channel::CommandLine), Some(Channel::Page));
    let mut expected = vec![
        (1, 0, 1, SwitchCause::Refit, None),
        (2, 1, 2, SwitchCause::Import, line),
        (3, 2, 1, SwitchCause::Use, page),
        (4, 1, 0, SwitchCause::Rollback, page),
        (5, 0, 3, SwitchCause::Fleet, None),
    ];
    assert_eq!(history(&learning), expected);
    // maskd was killed after the switch and before the record.
    let file = device.state().join("history.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    fs::write(&file, lines[..4].join("\n")).unwrap();
    drop(learning);
    let learning = device.open();
    expected[4].3 = SwitchCause::Found;
    assert_eq!(history(&learning), expected);
    // The model in use is damaged.
    drop(learning);
    fs::write(device.state().join("heads/000003.onnx"), b"").unwrap();
    let learning = device.open();
    expected.push((6, 3, 2, SwitchCause::Fallback, None));
    assert_eq!(history(&learning), expected);
    let note = learning.history()[5].note.clone().unwrap();
    assert!(note.starts_with("model 3 is damaged"), "{note}");
    // Nothing is recorded twice.
    drop(learning);
    let learning = device.open();
    assert_eq!(history(&learning), expected);
}

#[test]
fn a_damaged_history_stops_nothing() {
    let device = Device::new();
    for content in [&b""[..], b"\xff\xfe\x00", b"{\"sequence\": 1}\n[]\n"] {
        fs::write(device.state().join("history.jsonl"), content).unwrap();
        let learning = device.open();
        assert_eq!(learning.use_head(0, BY).unwrap(), None);
        learning.import_head(&device.file(2.0), BY).unwrap();
        assert_eq!(
            learning.history().last().unwrap().cause,
            SwitchCause::Import
        );
    }
    device.block("history.jsonl");
    let learning = device.open();
    assert_eq!(learning.history().len(), 1, "the model in use was found");
    learning.use_head(0, BY).unwrap();
    assert_eq!((used(&learning), device.on_disk()), (None, None));
    assert_eq!(learning.history().last().unwrap().cause, SwitchCause::Use);
    fs::remove_dir_all(device.state().join("history.jsonl")).unwrap();
    learning.save_unsaved();
    drop(learning);
    assert_eq!(device.open().history().len(), 2);
}

#[test]
fn the_built_in_model_can_be_exported() {
    let device = Device::new();
    let learning = device.open();
    let path = device.at("built-in.onnx");
    learning.export_head(0, &path).unwrap();
    assert_eq!(learning.import_head(&path, BY).unwrap(), 1);
    let head = learning.in_use().unwrap().head.to_file();
    assert_eq!(head, Device::base().to_file());
    let within = learning.export_head(0, &device.state().join("heads/x.onnx"));
    assert!(within.is_err());
}

#[test]
fn a_rollback_to_a_model_that_cannot_be_used_changes_nothing() {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0), BY).unwrap();
    drop(learning);
    // The device gets a classifier with another backbone.
    let mut other = head(1.0);
    other.backbone_sha256 = [8; 32];
    let base = Arc::new(Head::from_file(other.clone()));
    let options = LearningOptions::default();
    let learning = Learning::open(&device.state(), base, options).unwrap();
    let error = learning.in_use().unwrap_err();
    assert!(matches!(
        error,
        LearningError::OtherBackbone { number: 1, .. }
    ));
    let published = learning.subscribe();
    assert_eq!(
        published.borrow().number,
        None,
        "the built-in model is used"
    );
    assert!(published.borrow().note.is_some());
    assert_eq!(learning.rollback(1, BY).unwrap(), None);
    assert_eq!(used(&learning), None);
    let path = device.at("other.onnx");
    fs::write(&path, write_head(&other, &[])).unwrap();
    assert_eq!(learning.import_head(&path, BY).unwrap(), 2);
    drop(learning);
    let learning = device.open();
    let error = learning.rollback(0, BY).unwrap_err();
    assert!(matches!(
        error,
        LearningError::OtherBackbone { number: 2, .. }
    ));
    assert_eq!(learning.rollback(1, BY).unwrap(), None);
    assert_eq!((used(&learning), device.on_disk()), (None, None));
}

#[test]
fn a_change_behind_the_lock_is_noticed() {
    let device = Device::new();
    let learning = device.open();
    for size in [2.0, 3.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    let before = learning.in_use().unwrap();
    fs::write(
        device.state().join("heads/current"),
        "current 1, highest 2\n",
    )
    .unwrap();
    let error = learning
        .active
        .replace(&before, &head(4.0), &[], (SwitchCause::Refit, None))
        .unwrap_err();
    assert!(matches!(error, LearningError::HeadChanged), "{error}");
    assert_eq!((used(&learning), device.on_disk()), (Some(1), Some(1)));
    assert_eq!(learning.subscribe().borrow().number, Some(1));
}

#[test]
fn what_a_kill_left_in_the_directory_is_deleted() {
    let device = Device::new();
    let leftover = device.state().join(".maskd-0123456789abcdef.part");
    fs::write(&leftover, b"half a refit.json").unwrap();
    device.open();
    assert!(!leftover.exists());
}

#[test]
fn heads_are_not_deleted_while_they_cannot_be_read() {
    let mut device = Device::new();
    device.keep_heads = 2;
    let learning = device.open();
    for size in [2.0, 3.0, 4.0] {
        learning.import_head(&device.file(size), BY).unwrap();
    }
    let heads = device.state().join("heads");
    // Delete both files that say which head is in use.
    for name in ["current", "current.backup"] {
        fs::remove_file(heads.join(name)).unwrap();
    }
    let before = learning.head_records().unwrap().len();
    assert_eq!(learning.active.prune(0).unwrap(), [0; 0]);
    assert_eq!(learning.head_records().unwrap().len(), before);
}

#[test]
fn near_duplicates_in_several_tracks_are_one_person() {
    let device = Device::new();
    let mut rows = Rows::default();
    for row in 0..120 {
        // The two halves are from the two classes.
        let label = row / 60;
        let mut features = [0.1; FEATURES];
        features[label] = 2.0;
        rows.push(&features, label);
    }
    let replay = Replay {
        backbone_sha256: [7; 32],
        labels: LABELS.map(str::to_owned).to_vec(),
        train: rows.clone(),
        holdout: rows,
    };
    fs::write(device.at("replay.bin"), replay.to_bytes().unwrap()).unwrap();
    let options = LearningOptions {
        replay_file: Some(device.at("replay.bin")),
        ..LearningOptions::default()
    };
    let learning = Learning::open(&device.state(), Device::base(), options).unwrap();
    assert_eq!(learning.summary().unwrap().progress[0].tracks, 12);
    // Copies of one picture with changes too small to see, under other names.
    let copies = device.at("copies");
    fs::create_dir_all(copies.join("with_mask")).unwrap();
    for number in 0..40 {
        let picture = RgbImage::from_pixel(224, 224, Rgb([199, 0, number]));
        let path = copies.join("with_mask").join(format!("{number}.png"));
        picture.save(path).unwrap();
    }
    learning.import(&copies).unwrap();
    assert_eq!(learning.summary().unwrap().progress[0].tracks, 52);
    let record = refit(&learning).unwrap();
    let counts = &record.outcome.counts;
    assert_eq!((counts[0].samples, counts[0].groups), (52, 12));
    assert_eq!((counts[1].samples, counts[1].groups), (12, 12));
    let reason = &record.outcome.reason;
    assert!(reason.contains("of 24 people"), "{reason}");
    assert_eq!(record.progress[0].tracks, 12);
    assert_eq!(learning.summary().unwrap().progress[0].tracks, 12);
    drop(learning);
    let progress = device.open().summary().unwrap().progress;
    assert_eq!(progress[0].tracks, 12, "it is stored");
}

#[test]
fn new_pictures_are_embedded_once_and_stay_waiting_if_they_cannot_be_read() {
    let device = Device::new();
    let learning = device.open();
    fs::write(device.state().join("samples/with_mask/broken.jpg"), "no").unwrap();
    let has_prediction = || {
        let filter = SampleFilter {
            predictions: true,
            ..SampleFilter::default()
        };
        let samples = learning.samples(&filter).unwrap();
        let predicted = samples.iter().filter(|sample| sample.predicted.is_some());
        (predicted.count(), samples.len())
    };
    assert_eq!(has_prediction(), (0, 25));
    let embedded = Cell::new(0);
    let mut count = |crops: &[Crop]| {
        embedded.set(embedded.get() + crops.len());
        embed(crops)
    };
    let mut checked = HashSet::new();
    let after_ten = || embedded.get() == 10;
    let all = learning.embed_new(&mut checked, &mut count, &after_ten);
    assert!(!all.unwrap(), "it was canceled");
    assert_eq!(has_prediction(), (10, 25));
    let never = || false;
    let all = learning.embed_new(&mut checked, &mut count, &never);
    assert!(all.unwrap());
    assert_eq!((has_prediction(), embedded.get()), ((24, 25), 24));
    // A process that starts later embeds nothing again.
    let all = learning.embed_new(&mut HashSet::new(), &mut count, &never);
    assert!(all.unwrap());
    assert_eq!(embedded.get(), 24);
}
