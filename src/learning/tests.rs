//! Tests of changes that fail halfway. The head in use, the state on disk, and the
//! result that the caller received must agree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::frame::Crop;
use crate::onnx::{FEATURES, HeadFile, HeadTensors, ModelError, write_head};
use crate::platform::faults;
use crate::vision::embed::Feature;

const LABELS: [&str; 2] = ["with_mask", "without_mask"];

/// A head that can distinguish the features from [`embed`], but predicts
/// `without_mask` for all of them, so that training improves it. Heads with different
/// values of `size` are different.
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

/// Replaces the backbone. Red crops and blue crops have different features.
#[expect(clippy::unnecessary_wraps, reason = "it has the type of an `Embed`")]
fn embed(crops: &[Crop]) -> Result<Vec<Feature>, ModelError> {
    let embed = |crop: &Crop| {
        let pixel = crop.pixels().get_pixel(100, 100);
        let mut values = [0.1; FEATURES];
        values[usize::from(pixel[2] > pixel[0])] = 2.0;
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
        let options = LearningOptions {
            keep_heads: self.keep_heads,
            ..LearningOptions::default()
        };
        Learning::open(&self.state(), Device::base(), options).unwrap()
    }

    /// Writes a head to a file that can be imported.
    fn file(&self, size: f32) -> PathBuf {
        let path = self.at(&format!("{size}.onnx"));
        fs::write(&path, write_head(&head(size), &[])).unwrap();
        path
    }

    /// The number of the head that another process would use now.
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
    learning.refit(&mut |crops| embed(crops), &|| false)
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
    learning.save_last_refit();
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
        learning.import_head(&device.file(size)).unwrap();
    }
    device.block("heads/000002.onnx");
    let imported = learning.import_head(&device.file(5.0));
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
        learning.import_head(&device.file(2.0)).unwrap();
        device.block(damaged);
        let imported = learning.import_head(&device.file(3.0));
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

/// A change of the head in use. Returns the number of the head that is then in use, or
/// `None` after a refusal.
type Change<'a> = &'a dyn Fn(&Learning) -> Result<Option<u32>, LearningError>;

/// Lets each step on the disk fail in turn while `change` runs, and checks `agree` after
/// each. Returns how often the change succeeded and failed nevertheless.
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
        learning.import_head(&device.file(size)).unwrap();
    }
    // The refused head makes the features of all samples, so that the refits below do not.
    let mut bad = head(9.0);
    bad.head.w2.iter_mut().for_each(|weight| *weight *= -1.0);
    assert_eq!(offer(&learning, &bad, "1").unwrap(), None);
    drop(learning);
    let imported = device.file(5.0);
    let changes: [(&str, Change); 4] = [
        ("import", &|learning| {
            learning.import_head(&imported).map(Some)
        }),
        ("rollback", &|learning| learning.rollback(1)),
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
                assert_eq!(newest, Some(3), "{name}: the new model is left: {result:?}");
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
    let samples = device.open().samples(Some(LABELS[0])).unwrap();
    let ids: Vec<String> = samples.into_iter().map(|sample| sample.id).collect();
    let mark = |action: LabelAction| {
        let chosen = SampleSelector::Ids(ids[..3].to_vec());
        move |learning: &Learning| learning.label(chosen.clone(), &action)
    };
    let state_of = |learning: &Learning, id: &str| {
        let samples = learning.samples(None).unwrap();
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

/// What a person does while a refit is running.
fn meanwhile(change: impl Fn(&Learning, &Device)) -> (Device, Learning, String) {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0)).unwrap();
    learning.import_head(&device.file(3.0)).unwrap();
    let mut changed = false;
    let mut embed_and_change = |crops: &[Crop]| {
        if !std::mem::replace(&mut changed, true) {
            change(&learning, &device);
        }
        embed(crops)
    };
    let refit = learning.refit(&mut embed_and_change, &|| false);
    let error = refit.unwrap_err();
    assert_eq!(error.kind(), FailureKind::NotNow);
    let error = error.to_string();
    (device, learning, error)
}

#[test]
fn a_refit_replaces_only_the_model_that_it_was_compared_with() {
    let (device, learning, error) = meanwhile(|learning, _| {
        assert_eq!(learning.rollback(1).unwrap(), Some(1));
    });
    assert!(error.contains("changed"), "{error}");
    assert_eq!((used(&learning), device.on_disk()), (Some(1), Some(1)));
    assert_eq!(
        learning.head_records().unwrap().len(),
        2,
        "nothing is stored"
    );
    assert!(
        learning.new_labels().unwrap() > 0,
        "the labels are still new"
    );

    let (device, learning, _) = meanwhile(|learning, device| {
        learning.import_head(&device.file(4.0)).unwrap();
    });
    assert_eq!((used(&learning), device.on_disk()), (Some(3), Some(3)));

    // Switching to another head and back also counts as a change, because the user
    // made a choice.
    let (device, learning, _) = meanwhile(|learning, device| {
        learning.import_head(&device.file(4.0)).unwrap();
        learning.rollback(1).unwrap();
    });
    assert_eq!((used(&learning), device.on_disk()), (Some(2), Some(2)));
    let again = refit(&learning).unwrap();
    assert_eq!((again.head, used(&learning)), (Some(4), Some(4)));
}

#[test]
fn a_foreign_model_replaces_only_the_one_that_it_was_compared_with() {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0)).unwrap();
    let good = write_head(&good(1.5), &[]);
    let mut changed = false;
    let mut embed_and_change = |crops: &[Crop]| {
        if !std::mem::replace(&mut changed, true) {
            learning.rollback(1).unwrap();
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

/// A head that classifies the features from [`embed`] correctly.
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
    assert_eq!(learning.rollback(1).unwrap(), None);
    let is_rejected = |learning: &Learning, size: f32| {
        let tried = offer(learning, &good(size), "2");
        matches!(tried, Err(LearningError::KnownHead))
    };
    assert!(is_rejected(&learning, 1.5), "even with other metadata");
    // Another head is put into use in between.
    assert_eq!(offer(&learning, &good(2.5), "1").unwrap(), Some(2));
    assert!(is_rejected(&learning, 1.5));
    assert!(is_rejected(&learning, 2.5), "it is in use already");
    assert_eq!(learning.rollback(1).unwrap(), None);
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
    assert_eq!(learning.rollback(1).unwrap(), None);
    assert!(is_rejected(&learning, 3.5));
    drop(learning);
    let learning = device.open();
    assert!(is_rejected(&learning, 3.5), "its file is still there");
    let path = device.at("good.onnx");
    fs::write(&path, write_head(&good(3.5), &[])).unwrap();
    assert_eq!(learning.import_head(&path).unwrap(), 4);
}

#[test]
fn a_rollback_to_a_model_that_cannot_be_used_changes_nothing() {
    let device = Device::new();
    let learning = device.open();
    learning.import_head(&device.file(2.0)).unwrap();
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
    assert_eq!(learning.rollback(1).unwrap(), None);
    assert_eq!(used(&learning), None);
    let path = device.at("other.onnx");
    fs::write(&path, write_head(&other, &[])).unwrap();
    assert_eq!(learning.import_head(&path).unwrap(), 2);
    drop(learning);
    let learning = device.open();
    let error = learning.rollback(0).unwrap_err();
    assert!(matches!(
        error,
        LearningError::OtherBackbone { number: 2, .. }
    ));
    assert_eq!(learning.rollback(1).unwrap(), None);
    assert_eq!((used(&learning), device.on_disk()), (None, None));
}

#[test]
fn a_change_behind_the_lock_is_noticed() {
    let device = Device::new();
    let learning = device.open();
    for size in [2.0, 3.0] {
        learning.import_head(&device.file(size)).unwrap();
    }
    let before = learning.in_use().unwrap();
    fs::write(
        device.state().join("heads/current"),
        "current 1, highest 2\n",
    )
    .unwrap();
    let error = learning
        .active
        .replace(&before, &head(4.0), &[])
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
        learning.import_head(&device.file(size)).unwrap();
    }
    let heads = device.state().join("heads");
    // Neither file says which head is in use anymore.
    for name in ["current", "current.backup"] {
        fs::remove_file(heads.join(name)).unwrap();
    }
    let before = learning.head_records().unwrap().len();
    assert_eq!(learning.active.prune(0).unwrap(), [0; 0]);
    assert_eq!(learning.head_records().unwrap().len(), before);
}
