use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::feature;
use super::store::jpeg;
use super::*;
use crate::frame::quality::{Placement, Quality};
use crate::frame::{CROP_SIDE, Crop, Scaler};
use crate::onnx::Label;
use crate::platform::hex;
use crate::vision::embed::{FEATURES, Feature};

const BACKBONE: [u8; 32] = [7; 32];

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn crop(shade: u8) -> Crop {
    let pixels = RgbImage::from_fn(CROP_SIDE, CROP_SIDE, |x, y| {
        Rgb([shade, (x / 2) as u8, (y / 2) as u8])
    });
    Crop::from_image(pixels).unwrap()
}

fn feature(value: f32) -> Feature {
    Feature::from(Box::new([value; FEATURES]))
}

fn label(name: &str) -> Label {
    Label::new(name).unwrap()
}

fn open() -> (TempDir, Store) {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    (state, store)
}

/// Captures a picture with the features `[shade; 1280]`.
fn capture(store: &Store, seconds: u64, shade: u8) -> String {
    let new = NewSample {
        at: at(seconds),
        track: 1,
        number: 0,
        label: None,
        crop: Some(&crop(shade)),
        quality: None,
        feature: &feature(f32::from(shade)),
        backbone: BACKBONE,
    };
    store.capture(&[new]).unwrap().remove(0)
}

fn capture_features(store: &Store, seconds: u64) -> String {
    let new = NewSample {
        at: at(seconds),
        track: 2,
        number: 0,
        label: None,
        crop: None,
        quality: None,
        feature: &feature(0.5),
        backbone: BACKBONE,
    };
    store.capture(&[new]).unwrap().remove(0)
}

fn put(store: &Store, path: &str, content: &[u8]) -> PathBuf {
    let path = store.folder().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

fn only(store: &Reader) -> Sample {
    let mut samples = store.list().unwrap().samples;
    assert_eq!(samples.len(), 1);
    samples.remove(0)
}

fn ids(store: &Reader) -> Vec<String> {
    let samples = store.list().unwrap().samples;
    samples.into_iter().map(|sample| sample.id).collect()
}

/// Returns the relative paths of all files below a folder, except for the lock, sorted.
fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if !path.ends_with(".lock") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(folder, &mut files);
    let name = |path: PathBuf| {
        let path = path.strip_prefix(folder).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mut names: Vec<String> = files.into_iter().map(name).collect();
    names.sort();
    names
}

#[test]
fn a_captured_crop_comes_back_with_its_features() {
    let (state, store) = open();
    let id = capture(&store, 0, 100);
    assert_eq!(id, "20231114T221320.000Z-t000001-00");
    let sample = only(&store);
    assert_eq!(sample.id, id);
    assert_eq!(sample.label, None);
    assert_eq!(
        (sample.at, sample.day.as_str()),
        (Some(at(0)), "2023-11-14")
    );
    let track = TrackKey::Day {
        day: "2023-11-14".to_owned(),
        track: 1,
    };
    assert_eq!(sample.track, track);
    assert_eq!(sample.kind, SampleKind::Picture);
    assert_eq!(
        sample.path,
        state.path().join(format!("samples/unlabelled/{id}.jpg"))
    );
    assert_eq!(sample.bytes, fs::metadata(&sample.path).unwrap().len());
    assert_eq!(
        store.features(&sample, &BACKBONE).unwrap(),
        [feature(100.0)]
    );

    let back = store.crop(&sample, &mut Scaler::default()).unwrap();
    let differs = |(a, b): (&u8, &u8)| a.abs_diff(*b);
    let original = crop(100);
    let pairs = back
        .pixels()
        .as_raw()
        .iter()
        .zip(original.pixels().as_raw());
    assert!(pairs.map(differs).max().unwrap() < 24);
    let mode = fs::metadata(store.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn features_alone_leave_no_picture() {
    let (_state, store) = open();
    let id = capture_features(&store, 0);
    assert_eq!(tree(store.folder()), [format!("unlabelled/{id}.feature")]);
    let sample = only(&store);
    assert_eq!(
        (sample.kind, sample.feature_bytes),
        (SampleKind::FeatureOnly, 0)
    );
    assert!(sample.has_features());
    assert_eq!(store.features(&sample, &BACKBONE).unwrap(), [feature(0.5)]);
    let scaler = &mut Scaler::default();
    assert!(matches!(
        store.crop(&sample, scaler),
        Err(StoreError::NoPicture { .. })
    ));
    let put = store.put_features(&sample, &BACKBONE, &[feature(1.0)]);
    assert!(matches!(put, Err(StoreError::NoPicture { .. })));
    assert!(matches!(
        store.features(&sample, &[8; 32]),
        Err(FeatureError::OtherBackbone)
    ));
}

#[test]
fn an_id_is_never_given_twice_whatever_the_clock_says() {
    let (_state, store) = open();
    let first = capture(&store, 0, 1);
    store
        .label(std::slice::from_ref(&first), Some(&label("with_mask")))
        .unwrap();
    // The clock jumped back, so the time and the numbers are the same again.
    let second = capture(&store, 0, 2);
    let third = capture(&store, 0, 3);
    assert_eq!(second, first.replace("-00", "-01"));
    assert_eq!(third, first.replace("-00", "-02"));
    assert_eq!(ids(&store), [first, second, third]);
    for sample in store.list().unwrap().samples {
        assert_eq!(store.features(&sample, &BACKBONE).unwrap().len(), 1);
    }
}

#[test]
fn a_crop_of_a_known_label_has_it_from_the_first_moment_on() {
    let (_state, store) = open();
    let (masked, crop, feature) = (label("with_mask"), crop(9), feature(1.0));
    let new = |label| NewSample {
        at: at(5),
        track: 3,
        number: 0,
        label,
        crop: Some(&crop),
        quality: None,
        feature: &feature,
        backbone: BACKBONE,
    };
    let given = store.capture(&[new(Some(&masked)), new(None)]).unwrap();
    let samples = store.list().unwrap().samples;
    let labels = given.iter().map(|id| {
        let sample = samples.iter().find(|sample| sample.id == *id).unwrap();
        sample.label.as_ref().map(Label::as_str)
    });
    assert_eq!(labels.collect::<Vec<_>>(), [Some("with_mask"), None]);
    let features = store.features(&samples[0], &BACKBONE).unwrap();
    assert_eq!(features.len(), 1);
}

#[test]
fn a_batch_keeps_its_order_and_refuses_what_is_not_finite() {
    let (_state, store) = open();
    let (crop, fine, broken) = (crop(9), feature(1.0), feature(f32::NAN));
    let new = |number, feature| NewSample {
        at: at(5),
        track: 3,
        number,
        label: None,
        crop: Some(&crop),
        quality: None,
        feature,
        backbone: BACKBONE,
    };
    let given = store.capture(&[new(1, &fine), new(0, &fine)]).unwrap();
    let numbers: Vec<&str> = given.iter().map(|id| &id[id.len() - 2..]).collect();
    assert_eq!(numbers, ["01", "00"]);
    let error = store
        .capture(&[new(2, &fine), new(3, &broken)])
        .unwrap_err();
    assert!(matches!(error, StoreError::Rows { .. }), "{error}");
    assert_eq!(ids(&store).len(), 3);
    assert_eq!(store.capture(&[]).unwrap().len(), 0);
}

#[test]
fn one_process_changes_a_store_and_anybody_reads_it() {
    let (state, store) = open();
    capture(&store, 0, 1);
    let error = Store::open(state.path()).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    assert_eq!(
        Store::read_only(state.path()).list().unwrap().samples.len(),
        1
    );
    drop(store);
    Store::open(state.path()).unwrap();

    let nothing = Store::read_only(&state.path().join("not-there"));
    assert_eq!(nothing.list().unwrap(), Listing::default());
    assert_eq!(nothing.stats().unwrap(), Stats::default());
    nothing.fingerprint().unwrap();
}

#[test]
fn opening_removes_what_a_kill_left() {
    let (state, store) = open();
    let id = capture(&store, 0, 1);
    for path in [
        ".maskd-1-0.part",
        ".features/.maskd-1-1.part",
        "unlabelled/.maskd-1-2.part",
        "with_mask/.maskd-1-3.part",
        ".features/gone.feature",
    ] {
        put(&store, path, b"half");
    }
    assert_eq!(ids(&store), std::slice::from_ref(&id));
    drop(store);
    let store = Store::open(state.path()).unwrap();
    let left = [
        format!(".features/{id}.feature"),
        format!("unlabelled/{id}.jpg"),
    ];
    assert_eq!(tree(store.folder()), left);
}

#[test]
fn labelling_moves_the_file_and_keeps_the_features() {
    let (_state, store) = open();
    let picture = capture(&store, 0, 1);
    let features = capture_features(&store, 1);
    let asked = [
        picture.clone(),
        "../../etc/passwd".to_owned(),
        features.clone(),
    ];
    let with_mask = label("with_mask");
    let outcomes = store.label(&asked, Some(&with_mask)).unwrap();
    assert!(matches!(
        outcomes[..],
        [Labelled::Done, Labelled::Missing, Labelled::Done]
    ));
    for sample in store.list().unwrap().samples {
        assert_eq!(sample.label.as_ref(), Some(&with_mask));
        assert!(sample.path.starts_with(store.folder().join("with_mask")));
        assert_eq!(store.features(&sample, &BACKBONE).unwrap().len(), 1);
    }
    let again = store
        .label(&[picture.clone(), picture.clone()], Some(&with_mask))
        .unwrap();
    assert!(matches!(again[..], [Labelled::Already, Labelled::Already]));
    // Pass the id twice, and remove the label again.
    let twice = store
        .label(&[picture.clone(), picture.clone()], None)
        .unwrap();
    assert!(matches!(twice[..], [Labelled::Done, Labelled::Already]));
    assert_eq!(store.list().unwrap().samples[0].label, None);
}

#[test]
fn a_file_that_somebody_moves_or_puts_there_is_a_sample() {
    let (_state, store) = open();
    let id = capture(&store, 0, 1);
    let listed = only(&store);
    fs::create_dir(store.folder().join("no-chin")).unwrap();
    let moved = store.folder().join(format!("no-chin/{id}.jpg"));
    fs::rename(&listed.path, &moved).unwrap();
    let sample = only(&store);
    assert_eq!(sample.label, Some(label("no-chin")));
    assert_eq!(store.features(&sample, &BACKBONE).unwrap(), [feature(1.0)]);
    // A reader that listed the sample before the move still finds it.
    assert_eq!(store.read(&listed).unwrap(), fs::read(&moved).unwrap());
    assert_eq!(store.features(&listed, &BACKBONE).unwrap(), [feature(1.0)]);
    store
        .put_features(&listed, &BACKBONE, &[feature(2.0)])
        .unwrap();
    assert_eq!(store.features(&sample, &BACKBONE).unwrap(), [feature(2.0)]);

    let odd = put(&store, "no-chin/Me on the.beach-t000044-1.PNG", b"");
    set_modified(&odd, at(86_400));
    let listing = store.list().unwrap();
    let odd = &listing.samples[1];
    assert_eq!(odd.id, "Me on the.beach-t000044-1");
    assert_eq!((odd.at, odd.day.as_str()), (None, "2023-11-15"));
    assert_eq!(odd.track, TrackKey::Undated(44));
    assert!(matches!(
        store.features(odd, &BACKBONE),
        Err(FeatureError::Missing)
    ));
}

#[test]
fn what_is_no_sample_is_named_and_left_alone() {
    let (_state, store) = open();
    let mut others = [
        put(&store, "with_mask/notes.txt", b"x"),
        put(&store, "with_mask/deeper/a.jpg", b"x")
            .parent()
            .unwrap()
            .to_owned(),
        put(&store, "bad name /a.jpg", b"x")
            .parent()
            .unwrap()
            .to_owned(),
        put(&store, "discard/a.jpg", b"x")
            .parent()
            .unwrap()
            .to_owned(),
        put(&store, "loose.jpg", b"x"),
        store.folder().join("with_mask/link.jpg"),
        store.folder().join("link"),
    ];
    std::os::unix::fs::symlink(&others[0], &others[5]).unwrap();
    std::os::unix::fs::symlink(store.folder().join("with_mask"), &others[6]).unwrap();
    put(&store, "with_mask/.hidden.jpg", b"x");
    others.sort();
    let listing = store.list().unwrap();
    assert_eq!(listing.samples, []);
    assert_eq!(listing.ignored, others);
    let before = tree(store.folder());
    assert_eq!(
        store
            .purge(&LabelFilter::All, &|_| true, &|| false)
            .unwrap(),
        Removed::default()
    );
    assert_eq!(tree(store.folder()), before);
}

#[test]
fn a_canceled_purge_is_continued_by_the_next_one() {
    let (_state, store) = open();
    for number in 0..5 {
        capture(&store, number, number as u8);
    }
    let calls = std::cell::Cell::new(0);
    let is_canceled = || {
        calls.set(calls.get() + 1);
        calls.get() > 3
    };
    let all = &LabelFilter::All;
    let removed = store.purge(all, &|_| true, &is_canceled).unwrap();
    assert_eq!(removed.unlabelled, 3);
    let left = store.list().unwrap().samples;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(Sample::has_features), "they are intact");
    let removed = store.purge(all, &|_| true, &|| false).unwrap();
    assert_eq!(removed.unlabelled, 2);
    assert!(store.list().unwrap().samples.is_empty());
}

#[test]
fn the_size_of_samples_is_the_disk_space_that_they_take_up() {
    let (_state, store) = open();
    let id = capture(&store, 0, 1);
    let sparse = put(&store, "with_mask/sparse.jpg", b"x");
    let file = File::options().write(true).open(&sparse).unwrap();
    file.set_len(1 << 40).unwrap();
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
    let folder = store.folder();
    let picture = folder.join(format!("unlabelled/{id}.jpg"));
    let expected = blocks(&sparse) + blocks(&picture) + blocks(&store.cache(&id));
    assert_eq!(store.stats().unwrap().total().bytes, expected);
    let removed = store
        .purge(&LabelFilter::All, &|_| true, &|| false)
        .unwrap();
    assert_eq!(removed.bytes, expected, "the space that is free now");
}

#[test]
fn of_two_files_of_one_id_the_newest_counts() {
    let (_state, store) = open();
    let old = put(&store, "with_mask/1.jpg", b"old");
    let new = put(&store, "without_mask/1.jpg", b"new!");
    set_modified(&old, at(0));
    set_modified(&new, at(1));
    let listing = store.list().unwrap();
    assert_eq!(listing.samples[0].path, new);
    let double = DuplicateId {
        id: "1".to_owned(),
        used: new.clone(),
        passed_over: vec![old.clone()],
    };
    assert_eq!(listing.duplicates, [double]);
    // If all files were changed at the same time, the files with a label take
    // precedence. The first labeled file in sort order is used.
    put(&store, "unlabelled/1.jpg", b"third");
    for path in [&old, &new, &store.folder().join("unlabelled/1.jpg")] {
        set_modified(path, at(2));
    }
    assert_eq!(only(&store).path, old);
}

#[test]
fn labelling_never_overwrites_another_picture_and_joins_copies() {
    let (_state, store) = open();
    let one = ["1".to_owned()];
    let old = put(&store, "with_mask/1.jpg", b"one person");
    let new = put(&store, "without_mask/1.jpg", b"another");
    set_modified(&old, at(0));
    let outcome = store.label(&one, Some(&label("with_mask"))).unwrap();
    assert!(matches!(outcome[..], [Labelled::Taken]));
    assert_eq!(fs::read(&old).unwrap(), b"one person");
    assert_eq!(fs::read(&new).unwrap(), b"another");

    // An exact copy does not count as another picture.
    fs::write(&old, b"another").unwrap();
    put(&store, "unlabelled/1.png", b"another");
    let outcome = store.label(&one, Some(&label("third"))).unwrap();
    assert!(matches!(outcome[..], [Labelled::Done]), "{outcome:?}");
    let left = tree(store.folder());
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("third/1."));
}

#[test]
fn discarding_moves_the_picture_and_deletes_copies_and_features() {
    let (_state, store) = open();
    let id = capture(&store, 0, 1);
    let other = capture_features(&store, 1);
    let moved = [
        format!(".trash/unlabelled/{other}.feature"),
        format!(".trash/with_mask/{id}.jpg"),
    ];
    let copy = format!("with_mask/{id}.jpg");
    put(
        &store,
        &copy,
        &fs::read(&store.list().unwrap().samples[0].path).unwrap(),
    );
    let asked = [id.clone(), id, "nobody".to_owned(), other];
    let outcomes = store.discard(&asked).unwrap();
    assert!(matches!(
        outcomes[..],
        [
            Discarded::Done,
            Discarded::Missing,
            Discarded::Missing,
            Discarded::Done
        ]
    ));
    assert_eq!(tree(store.folder()), moved);
    assert_eq!(store.trash().list().unwrap().samples.len(), 2);
}

#[test]
fn discarded_samples_are_restored_with_their_labels() {
    let (_state, store) = open();
    let all: Vec<String> = (0..3).map(|n| capture(&store, n, n as u8)).collect();
    store.label(&all[..1], Some(&label("with_mask"))).unwrap();
    let before = store.list().unwrap();
    let picture = store.read(&before.samples[0]).unwrap();
    store.discard(&all).unwrap();
    assert_eq!(ids(&store), [""; 0]);
    // A new capture at the same time does not get the id of a discarded sample.
    let new = capture(&store, 0, 9);
    assert!(!all.contains(&new), "{new}");
    // Neither does a file that a person adds replace one.
    let path = put(&store, &format!("chin/{}.jpg", all[1]), b"another");
    let asked = [
        all[0].clone(),
        all[1].clone(),
        "nobody".to_owned(),
        all[0].clone(),
    ];
    let outcomes = store.restore(&asked).unwrap();
    assert!(
        matches!(
            outcomes[..],
            [
                Restored::Done,
                Restored::Taken,
                Restored::Missing,
                Restored::Taken
            ]
        ),
        "{outcomes:?}"
    );
    fs::remove_file(path).unwrap();
    let outcomes = store.restore(&all[1..]).unwrap();
    assert!(matches!(outcomes[..], [Restored::Done, Restored::Done]));
    let mut after = store.list().unwrap();
    after.samples.retain(|sample| sample.id != new);
    let labels = |listing: &Listing| -> Vec<(String, Option<Label>)> {
        let samples = listing.samples.iter();
        samples.map(|s| (s.id.clone(), s.label.clone())).collect()
    };
    assert_eq!(labels(&after), labels(&before));
    assert_eq!(store.read(&after.samples[0]).unwrap(), picture);
    assert_eq!(store.trash().list().unwrap().samples, []);
}

#[test]
fn pictures_with_one_name_do_not_replace_each_other_in_the_trash() {
    let (_state, store) = open();
    let one = ["1".to_owned()];
    let content_in_trash = |path: &str| fs::read(store.trash().folder().join(path)).ok();
    put(&store, "with_mask/1.png", b"one person");
    store.discard(&one).unwrap();
    for (path, content) in [
        ("with_mask/1.png", &b"another"[..]),
        ("with_mask/1.jpg", b"another"),
    ] {
        let path = put(&store, path, content);
        let outcomes = store.discard(&one).unwrap();
        assert!(matches!(outcomes[..], [Discarded::Taken]), "{outcomes:?}");
        assert_eq!(fs::read(&path).unwrap(), content);
        fs::remove_file(path).unwrap();
    }
    // An exact copy may go, and another label is another folder.
    put(&store, "with_mask/1.png", b"one person");
    assert!(matches!(
        store.discard(&one).unwrap()[..],
        [Discarded::Done]
    ));
    put(&store, "chin/1.png", b"another");
    assert!(matches!(
        store.discard(&one).unwrap()[..],
        [Discarded::Done]
    ));
    assert_eq!(tree(store.folder()).len(), 2);
    assert_eq!(content_in_trash("with_mask/1.png").unwrap(), b"one person");
    assert_eq!(content_in_trash("chin/1.png").unwrap(), b"another");

    // Each is restored to where it was.
    let with = |label: Option<Label>| [(one[0].clone(), label)];
    let chin = with(Some(label("chin")));
    for (wanted, expected) in [
        (with(None), "Missing"),
        (with(Some(label("with_mask"))), "Done"),
        (chin.clone(), "Taken"),
    ] {
        let outcomes = store.restore_to(&wanted).unwrap();
        assert_eq!(format!("{:?}", outcomes[0]), expected);
    }
    let restored = store.folder().join("with_mask/1.png");
    assert_eq!(fs::read(&restored).unwrap(), b"one person");
    fs::remove_file(restored).unwrap();
    // Nothing is replaced, not even a link.
    let link = store.folder().join("chin/1.png");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    assert!(matches!(
        store.restore_to(&chin).unwrap()[..],
        [Restored::Taken]
    ));
    assert!(link.is_symlink());
    fs::remove_file(link).unwrap();
    assert!(matches!(store.restore(&one).unwrap()[..], [Restored::Done]));
    assert_eq!(tree(store.folder()), ["chin/1.png"]);
}

#[test]
fn the_trash_is_bounded_and_gives_way_to_samples() {
    let (_state, store) = open();
    let all: Vec<String> = (0..6).map(|n| capture(&store, n * 100, 50)).collect();
    store.label(&all[..2], Some(&label("with_mask"))).unwrap();
    let each = prune(&store, u64::MAX, &[]).bytes / 6;
    store.discard(&all[..4]).unwrap();
    let pruned = prune(&store, u64::MAX, &[]);
    assert_eq!(pruned.removed, Removed::default());
    // The discarded samples count, but not as labeled ones.
    assert!(
        pruned.bytes > 3 * each && pruned.bytes <= 6 * each,
        "{pruned:?}"
    );
    assert_eq!(pruned.labelled_bytes, 0);
    let pruned = prune(&store, 3 * each, &[]);
    let removed = pruned.removed;
    assert_eq!((removed.unlabelled, removed.labelled), (0, 0));
    assert!(removed.discarded >= 2, "{removed:?}");
    assert_eq!(ids(&store), all[4..]);
    let newest = store.trash().list().unwrap().samples.pop().unwrap();
    assert_eq!(newest.id, all[3], "the oldest ones are deleted first");
    let left = 4 - removed.discarded;
    let removed = prune(&store, 0, &[]).removed;
    assert_eq!((removed.unlabelled, removed.discarded), (2, left));

    // A large file is not kept, and it displaces nothing.
    let kept = capture(&store, 900, 1);
    put(&store, "with_mask/photo.jpg", &vec![1; 17 << 20]);
    store.discard(&[kept.clone(), "photo".to_owned()]).unwrap();
    let oldest_first = |discarded: &mut Vec<&Sample>| {
        discarded.sort_by_key(|sample| sample.when());
        HashSet::new()
    };
    assert_eq!(store.prune_trash(oldest_first).unwrap().discarded, 1);
    assert_eq!(ids(&store.trash()), [kept]);
    for number in 0..510 {
        put(&store, &format!(".trash/chin/{number}.jpg"), b"x");
    }
    assert_eq!(store.prune_trash(oldest_first).unwrap().discarded, 11);
    assert_eq!(ids(&store.trash()).len(), 500);
}

#[test]
fn purging_deletes_discarded_samples_too() {
    let (_state, store) = open();
    let all: Vec<String> = (0..4).map(|n| capture(&store, n, n as u8)).collect();
    store.label(&all[..2], Some(&label("with_mask"))).unwrap();
    store.discard(&all[1..3]).unwrap();
    let with_mask = LabelFilter::Labelled(label("with_mask"));
    let removed = store.purge(&with_mask, &|_| true, &|| false).unwrap();
    assert_eq!((removed.labelled, removed.discarded), (1, 1));
    let discarded = &LabelFilter::Discarded;
    let removed = store.purge(discarded, &|_| true, &|| false).unwrap();
    assert_eq!((removed.unlabelled, removed.discarded), (0, 1));
    store.discard(&all[3..]).unwrap();
    store
        .purge(&LabelFilter::All, &|_| true, &|| false)
        .unwrap();
    assert_eq!(tree(store.folder()), [""; 0]);
}

#[test]
fn a_label_is_given_back_only_to_samples_that_still_have_the_later_one() {
    let (_state, store) = open();
    let all: Vec<String> = (0..3).map(|n| capture(&store, n, n as u8)).collect();
    let (mask, chin) = (label("with_mask"), label("chin"));
    store.label(&all[..1], Some(&chin)).unwrap();
    let mut noted = Vec::new();
    store
        .label_noting(&all, Some(&mask), |before| noted = before)
        .unwrap();
    let expected = [Some(chin.clone()), None, None];
    let expected: Vec<_> = all.iter().cloned().zip(expected).collect();
    assert_eq!(noted, expected);
    store.label(&all[1..2], Some(&chin)).unwrap();
    let outcomes = store.label_back(&noted, Some(&mask)).unwrap();
    assert!(
        matches!(
            outcomes[..],
            [Labelled::Done, Labelled::Changed, Labelled::Done]
        ),
        "{outcomes:?}"
    );
    let outcomes = store.label_back(&noted, Some(&mask)).unwrap();
    assert!(matches!(
        outcomes[..],
        [Labelled::Already, Labelled::Changed, Labelled::Already]
    ));
}

#[test]
fn the_quality_of_a_capture_is_stored_and_other_pictures_are_measured() {
    let (_state, store) = open();
    let mut scaler = Scaler::default();
    let (crop, feature) = (crop(1), feature(1.0));
    let known = Quality {
        placement: Some(Placement {
            side: 87.5,
            outside: 0.25,
        }),
        face: Some(0.5),
        ..Quality::of(&crop)
    };
    let new = NewSample {
        at: at(0),
        track: 1,
        number: 0,
        label: None,
        crop: Some(&crop),
        quality: Some(&known),
        feature: &feature,
        backbone: BACKBONE,
    };
    let id = store.capture(&[new]).unwrap().remove(0);
    let stored = store.quality(&only(&store), &mut scaler).unwrap();
    assert_eq!(stored.placement, known.placement);
    assert!((stored.appearance.light - known.appearance.light).abs() < 1e-4);
    // The features belong to the file with the comment.
    assert_eq!(store.features(&only(&store), &BACKBONE).unwrap().len(), 1);
    // The quality stays with the picture.
    store
        .label(std::slice::from_ref(&id), Some(&label("with_mask")))
        .unwrap();
    assert_eq!(store.quality(&only(&store), &mut scaler), Some(stored));
    store.discard(&[id]).unwrap();

    let plain = jpeg(&crop).unwrap();
    put(&store, "with_mask/old.jpg", &plain);
    let measured = store.quality(&only(&store), &mut scaler).unwrap();
    assert_eq!((measured.placement, measured.face), (None, None));
    assert!((measured.appearance.light - known.appearance.light).abs() < 0.01);
    put(&store, "with_mask/old.jpg", b"no picture");
    assert_eq!(store.quality(&only(&store), &mut scaler), None);
}

#[test]
fn discarding_leaves_another_picture_of_the_same_name() {
    let (_state, store) = open();
    let old = put(&store, "with_mask/1.jpg", b"one person");
    let new = put(&store, "without_mask/1.jpg", b"another");
    set_modified(&old, at(0));
    store.discard(&["1".to_owned()]).unwrap();
    assert!(old.exists() && !new.exists());
}

#[test]
fn purging_takes_a_label_an_age_or_everything() {
    let (_state, store) = open();
    let all: Vec<String> = (0..4).map(|n| capture(&store, n * 100, n as u8)).collect();
    store.label(&all[..2], Some(&label("with_mask"))).unwrap();
    let before = |seconds| move |sample: &Sample| sample.when() < at(seconds);
    let removed = store
        .purge(&LabelFilter::Unlabelled, &before(250), &|| false)
        .unwrap();
    assert_eq!((removed.unlabelled, removed.labelled), (1, 0));
    assert!(removed.bytes > 5000);
    assert_eq!(ids(&store), [&all[0][..], &all[1], &all[3]]);
    let removed = store
        .purge(
            &LabelFilter::Labelled(label("with_mask")),
            &before(50),
            &|| false,
        )
        .unwrap();
    assert_eq!((removed.unlabelled, removed.labelled), (0, 1));
    put(&store, ".features/stray.feature", b"x");
    store
        .purge(&LabelFilter::All, &|_| true, &|| false)
        .unwrap();
    assert_eq!(tree(store.folder()), [""; 0]);
}

/// Prunes the store to a limit on disk space, and deletes the samples in `ended` as if
/// they were too old.
fn prune(store: &Store, max_bytes: u64, ended: &[&str]) -> Pruned {
    let by_age = |samples: &mut Vec<&Sample>, discarded: &mut Vec<&Sample>| {
        samples.sort_by_key(|sample| sample.when());
        discarded.sort_by_key(|sample| sample.when());
        Expired {
            samples: ended.iter().map(|id| (*id).to_owned()).collect(),
            discarded: HashSet::new(),
        }
    };
    store.prune(max_bytes, by_age).unwrap()
}

#[test]
fn a_size_ends_the_oldest_without_a_label_and_never_a_labelled_one() {
    let (_state, store) = open();
    let all: Vec<String> = (0..6).map(|n| capture(&store, n * 100, 50)).collect();
    store.label(&all[..2], Some(&label("with_mask"))).unwrap();
    let pruned = prune(&store, u64::MAX, &[]);
    assert_eq!(pruned.removed, Removed::default());
    let each = pruned.bytes / 6;
    assert!(each >= 512 && pruned.labelled_bytes == 2 * each);
    assert_eq!(prune(&store, pruned.bytes, &[]), pruned);

    let pruned = prune(&store, 4 * each, &[]);
    assert_eq!((pruned.removed.unlabelled, pruned.removed.labelled), (2, 0));
    assert_eq!(ids(&store), [&all[0][..], &all[1], &all[4], &all[5]]);
    for (max_bytes, gone) in [(each, 2), (0, 0)] {
        let pruned = prune(&store, max_bytes, &[]);
        let removed = pruned.removed;
        assert_eq!((removed.unlabelled, removed.labelled), (gone, 0));
        assert_eq!(pruned.bytes, 2 * each);
    }
    assert_eq!(ids(&store), [&all[0][..], &all[1]]);
    let pruned = prune(&store, u64::MAX, &[&all[0], "no such sample"]);
    assert_eq!((pruned.removed.unlabelled, pruned.removed.labelled), (0, 1));
    assert_eq!(ids(&store), [&all[1][..]]);
}

#[test]
fn allocated_blocks_count_and_large_files_do_not() {
    let (_state, store) = open();
    let crop = capture(&store, 0, 1);
    let bytes = prune(&store, u64::MAX, &[]).bytes;
    for (name, length) in [
        ("with_mask/tebibyte.jpg", 1 << 40),
        ("unlabelled/exbibytes.jpg", i64::MAX as u64),
        ("unlabelled/features.feature", 1 << 40),
        ("with_mask/sparse.png", MAX_COUNTED_BYTES),
    ] {
        let file = File::create(put(&store, name, b"")).unwrap();
        // Not every file system supports files of this length.
        if file.set_len(length).is_err() {
            file.set_len(1 << 30).unwrap();
        }
    }
    put(&store, "with_mask/photo.jpg", &vec![1; 3 << 20]);
    put(&store, "unlabelled/photo-2.jpg", &vec![1; 3 << 20]);
    let pruned = prune(&store, bytes + 4096, &[]);
    assert_eq!(pruned.removed, Removed::default());
    assert_eq!(pruned.not_counted, 5);
    assert_eq!(pruned.labelled_bytes, 4096, "the sparse file of 1 MiB");
    assert_eq!(pruned.bytes, bytes + pruned.labelled_bytes);
    let total = store.stats().unwrap().total();
    assert_eq!(
        total.samples, 7,
        "and adding their lengths overflows nothing"
    );
    let pruned = prune(&store, 4096, &[]);
    assert_eq!((pruned.removed.unlabelled, pruned.removed.labelled), (1, 0));
    assert!(!ids(&store).contains(&crop));
}

#[test]
fn the_fingerprint_changes_with_every_change_of_a_label() {
    let (_state, store) = open();
    let mut seen = vec![store.fingerprint().unwrap()];
    let mut changed = |store: &Store| {
        let fingerprint = store.fingerprint().unwrap();
        assert_eq!(fingerprint, store.fingerprint().unwrap());
        assert!(!seen.contains(&fingerprint));
        seen.push(fingerprint);
    };
    let id = capture(&store, 0, 1);
    changed(&store);
    store
        .label(std::slice::from_ref(&id), Some(&label("with_mask")))
        .unwrap();
    changed(&store);
    let path = only(&store).path;
    fs::rename(&path, store.folder().join("by-hand.jpg")).unwrap();
    put(&store, "without_mask/by-hand.jpg", b"x");
    changed(&store);
    store
        .put_features(
            &store.list().unwrap().samples[0],
            &BACKBONE,
            &[feature(1.0)],
        )
        .unwrap();
    let fingerprint = store.fingerprint().unwrap();
    assert_eq!(seen.last(), Some(&fingerprint), "features are no labels");
}

#[test]
fn features_are_those_of_this_picture_by_this_backbone() {
    let (_state, store) = open();
    capture(&store, 0, 1);
    let sample = only(&store);
    let rows = [feature(1.0), feature(2.0), feature(3.0)];
    store.put_features(&sample, &BACKBONE, &rows).unwrap();
    assert_eq!(store.features(&sample, &BACKBONE).unwrap(), rows);
    assert!(matches!(
        store.features(&sample, &[8; 32]),
        Err(FeatureError::OtherBackbone)
    ));
    for rows in [
        vec![],
        vec![feature(f32::NAN)],
        vec![feature(0.0); MAX_ROWS + 1],
    ] {
        let error = store.put_features(&sample, &BACKBONE, &rows).unwrap_err();
        assert!(matches!(error, StoreError::Rows { .. }), "{error}");
    }
    // Replace the picture with another face under the same name.
    fs::write(&sample.path, jpeg(&crop(200)).unwrap()).unwrap();
    assert!(matches!(
        store.features(&sample, &BACKBONE),
        Err(FeatureError::OtherPicture)
    ));
    store.discard(std::slice::from_ref(&sample.id)).unwrap();
    let error = store.put_features(&sample, &BACKBONE, &rows).unwrap_err();
    assert!(matches!(error, StoreError::Gone { .. }), "{error}");
    let discarded = format!(".trash/unlabelled/{}.jpg", sample.id);
    assert_eq!(tree(store.folder()), [discarded]);
}

#[test]
fn a_name_as_long_as_names_can_be_has_features_too() {
    let (state, store) = open();
    let id = "x".repeat(251);
    put(&store, &format!("with_mask/{id}.jpg"), b"x");
    let sample = only(&store);
    store
        .put_features(&sample, &BACKBONE, &[feature(1.0)])
        .unwrap();
    drop(store);
    let store = Store::open(state.path()).unwrap();
    assert!(only(&store).has_features());
    assert_eq!(store.features(&sample, &BACKBONE).unwrap().len(), 1);
}

#[test]
fn cut_off_at_any_length_files_are_reported_and_never_believed() {
    let (state, store) = open();
    let picture = capture(&store, 0, 1);
    capture_features(&store, 1);
    let listing = store.list().unwrap();
    let [first, second] = &listing.samples[..] else {
        panic!("two samples");
    };
    assert_eq!(first.id, picture);
    let cache = store.folder().join(format!(".features/{picture}.feature"));
    for (sample, path) in [(first, &cache), (second, &second.path)] {
        let whole = fs::read(path).unwrap();
        for length in (0..whole.len()).step_by(37).chain([whole.len() - 1]) {
            fs::write(path, &whole[..length]).unwrap();
            let error = store.features(sample, &BACKBONE).unwrap_err();
            assert!(
                matches!(error, FeatureError::Damaged(_)),
                "{length}: {error}"
            );
            assert_eq!(store.list().unwrap().samples.len(), 2);
        }
        fs::write(path, &whole).unwrap();
        assert!(store.features(sample, &BACKBONE).is_ok());
    }
    let whole = fs::read(&first.path).unwrap();
    let scaler = &mut Scaler::default();
    // The last two bytes are the end marker. A picture without an end marker counts as
    // complete.
    let end = whole.len() - 2;
    let crop = store.crop(first, scaler).unwrap();
    fs::write(&first.path, &whole[..end]).unwrap();
    assert!(store.crop(first, scaler).unwrap().pixels() == crop.pixels());
    for length in (0..end).step_by(97).chain([end - 1]) {
        fs::write(&first.path, &whole[..length]).unwrap();
        let error = store.crop(first, scaler).unwrap_err();
        assert!(
            matches!(error, StoreError::Picture { .. }),
            "{length}: {error}"
        );
        let error = store.features(first, &BACKBONE).unwrap_err();
        assert!(
            matches!(error, FeatureError::OtherPicture),
            "{length}: {error}"
        );
    }
    // Write a file that is longer than any valid feature file.
    fs::write(&cache, vec![0; feature::MAX_BYTES as usize + 1]).unwrap();
    let error = store.features(first, &BACKBONE).unwrap_err();
    assert!(matches!(error, FeatureError::Damaged(_)), "{error}");
    drop(store);
    Store::open(state.path()).unwrap();
}

fn picture(folder: &Path, name: &str, side: u32, shade: u8) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(side, side + 10, Rgb([shade, 10, 20]))
        .save(&path)
        .unwrap();
    path
}

#[test]
fn a_folder_is_imported_once() {
    let (state, store) = open();
    let source = state.path().join("mine");
    let original = picture(&source, "with_mask/a.png", 300, 1);
    picture(&source, "with_mask/b-t000031-x.jpg", 100, 2);
    picture(&source, "without_mask/c.webp", 50, 3);
    picture(&source, "unlabelled/d.bmp", 50, 4);
    picture(&source, "e.jpg", 50, 5);
    let own = "20261124T101530.123Z-t000017-03";
    picture(&source, &format!("with_mask/{own}.png"), 60, 6);
    fs::copy(&original, source.join("with_mask/copy.png")).unwrap();
    fs::copy(&original, source.join("without_mask/other.png")).unwrap();
    let as_it_is = jpeg(&crop(77)).unwrap();
    fs::write(source.join("with_mask/z.jpg"), &as_it_is).unwrap();
    let broken = source.join("with_mask/broken.jpg");
    fs::write(&broken, &as_it_is[..as_it_is.len() / 2]).unwrap();
    let ended = source.join("with_mask/ended.jpg");
    let end = [0xff, 0xd9];
    fs::write(&ended, [&as_it_is[..as_it_is.len() / 2], &end].concat()).unwrap();
    fs::create_dir_all(source.join("unsure")).unwrap();
    fs::write(source.join("with_mask/notes.txt"), "x").unwrap();

    let imported = store.import(&source).unwrap();
    let added = BTreeMap::from([
        (None, 2),
        (Some(label("with_mask")), 4),
        (Some(label("without_mask")), 1),
    ]);
    assert_eq!(imported.added, added);
    assert_eq!(imported.already, 1);
    assert_eq!(
        imported.other_label,
        [source.join("without_mask/other.png")]
    );
    let [(first, why), (second, why_not)] = &imported.unreadable[..] else {
        panic!("{:?}", imported.unreadable);
    };
    assert_eq!((first, second), (&broken, &ended));
    assert!(why.contains("cut off"), "{why}");
    assert!(why_not.contains("damaged"), "{why_not}");
    let [unsure, notes] = &imported.ignored[..] else {
        panic!("{:?}", imported.ignored);
    };
    assert_eq!(unsure.path, source.join("unsure"));
    assert!(
        unsure
            .why
            .starts_with("its pictures (0) have no label, because \"unsure\" cannot")
    );
    assert_eq!(notes.path, source.join("with_mask/notes.txt"));
    assert_eq!(notes.why, "files that end with .txt are not read");

    let samples = store.list().unwrap().samples;
    let scaler = &mut Scaler::default();
    for sample in &samples {
        store.crop(sample, scaler).unwrap();
        let size = image::image_dimensions(&sample.path).unwrap();
        assert_eq!(size, (CROP_SIDE, CROP_SIDE));
    }
    let has = |id: &str| samples.iter().find(|sample| sample.id == id);
    assert_eq!(has(own).unwrap().label, Some(label("with_mask")));
    let hash = |bytes: &[u8]| format!("import-{}", &hex::encode(&sha256(bytes))[..16]);
    let kept = has(&hash(&as_it_is)).unwrap();
    assert_eq!(fs::read(&kept.path).unwrap(), as_it_is);
    let tracked = fs::read(source.join("with_mask/b-t000031-x.jpg")).unwrap();
    let tracked = has(&format!("{}-t000031", hash(&tracked))).unwrap();
    assert_eq!(tracked.track, TrackKey::Undated(31));

    let again = store.import(&source).unwrap();
    assert!(again.added.is_empty());
    assert_eq!((again.already, again.other_label.len()), (8, 1));
    assert_eq!(store.list().unwrap().samples, samples);
    assert!(matches!(
        store.import(&state.path().join("nothing")),
        Err(StoreError::File(_))
    ));
}

#[test]
fn an_export_is_a_data_set_and_comes_back() {
    let (state, store) = open();
    let first = capture(&store, 0, 1);
    let second = capture(&store, 1, 2);
    capture_features(&store, 2);
    let mine = state.path().join("mine");
    picture(&mine, "without_mask/x.png", 40, 9);
    store.import(&mine).unwrap();
    store
        .label(std::slice::from_ref(&first), Some(&label("with_mask")))
        .unwrap();

    let within = store.export(&state.path().join("out")).unwrap_err();
    assert!(matches!(within, StoreError::WithinState { .. }));
    assert!(!state.path().join("out").exists());
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("out");
    let exported = store.export(&target).unwrap();
    let written = BTreeMap::from([
        (None, 1),
        (Some(label("with_mask")), 1),
        (Some(label("without_mask")), 1),
    ]);
    assert_eq!(exported.written, written);
    assert_eq!((exported.feature_only, exported.already), (1, 0));
    let files = tree(&target);
    assert_eq!(files.len(), 3);
    assert!(files.contains(&format!("unlabelled/{second}.jpg")));

    let taken = target.join(format!("unlabelled/{second}.jpg"));
    fs::write(&taken, b"of somebody").unwrap();
    let again = store.export(&target).unwrap();
    assert!(again.written.is_empty());
    assert_eq!((again.already, &again.taken), (2, &vec![taken.clone()]));
    assert_eq!(fs::read(&taken).unwrap(), b"of somebody");
    fs::remove_file(&taken).unwrap();
    store.export(&target).unwrap();

    // This store already contains the pictures. Another store imports all of them.
    assert_eq!(store.import(&target).unwrap().already, 3);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Store::open(elsewhere.path()).unwrap();
    assert_eq!(other.import(&target).unwrap().added, written);
    assert_eq!(store.import(&target).unwrap().already, 3);
    for sample in other.list().unwrap().samples {
        let original = store.list().unwrap().samples.into_iter();
        let original = original.into_iter().find(|s| s.id == sample.id).unwrap();
        assert_eq!(
            (&original.label, &original.track),
            (&sample.label, &sample.track)
        );
        assert_eq!(store.read(&original).unwrap(), other.read(&sample).unwrap());
    }
    for folder in [store.folder().to_owned(), store.folder().join("with_mask")] {
        assert!(matches!(
            store.export(&folder),
            Err(StoreError::Within { .. })
        ));
        assert!(matches!(
            store.import(&folder),
            Err(StoreError::Within { .. })
        ));
    }
}

#[test]
fn stats_count_labels_bytes_and_features() {
    let (_state, store) = open();
    let first = capture(&store, 10, 1);
    capture_features(&store, 5);
    put(&store, "with_mask/hand.jpg", b"12345");
    set_modified(&store.folder().join("with_mask/hand.jpg"), at(99));
    store.label(&[first], Some(&label("without_mask"))).unwrap();
    let stats = store.stats().unwrap();
    assert_eq!((stats.oldest, stats.newest), (Some(at(5)), Some(at(99))));
    let disk_space = |name: &str| fs::metadata(store.folder().join(name)).unwrap().blocks() * 512;
    let hand = Count {
        samples: 1,
        bytes: disk_space("with_mask/hand.jpg"),
        with_features: 0,
        feature_only: 0,
    };
    assert_eq!(stats.labels[&Some(label("with_mask"))], hand);
    let count = stats.labels[&None];
    assert_eq!(
        (count.samples, count.with_features, count.feature_only),
        (1, 1, 1)
    );
    let total: u64 = tree(store.folder())
        .iter()
        .map(|name| disk_space(name))
        .sum();
    assert_eq!(stats.total().bytes, total);
}

#[test]
fn folders_that_somebody_removed_are_made_again() {
    let (state, store) = open();
    fs::remove_dir_all(store.folder().join("unlabelled")).unwrap();
    fs::remove_dir_all(store.folder().join(".features")).unwrap();
    let id = capture(&store, 0, 1);
    store.label(&[id], Some(&label("with_mask"))).unwrap();
    assert_eq!(store.features(&only(&store), &BACKBONE).unwrap().len(), 1);
    drop(store);
    // A file where the folder should be causes an error, and no data is lost.
    fs::rename(state.path().join("samples"), state.path().join("moved")).unwrap();
    fs::write(state.path().join("samples"), b"").unwrap();
    let error = Store::open(state.path()).unwrap_err();
    assert!(!error.is_no_space() && !error.is_read_only(), "{error}");
}

#[test]
fn captures_of_two_starts_at_the_same_moment_are_both_kept() {
    let (state, store) = open();
    let capture_at = |store: &Store, millis: u64, shade: u8, label: Option<&Label>| {
        let new = NewSample {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            track: 1,
            number: 0,
            label,
            crop: Some(&crop(shade)),
            quality: None,
            feature: &feature(f32::from(shade)),
            backbone: BACKBONE,
        };
        store.capture(&[new]).unwrap().remove(0)
    };
    // After each start, a device without a clock battery has the same time and the same
    // track numbers again.
    let first = capture_at(&store, 31_417, 1, None);
    assert_eq!(first, "19700101T000031.417Z-t000001-00");
    let mask = label("with_mask");
    store
        .label(std::slice::from_ref(&first), Some(&mask))
        .unwrap();
    drop(store);
    let store = Store::open(state.path()).unwrap();
    let second = capture_at(&store, 31_417, 2, None);
    drop(store);
    // The third crop is an enrollment, so it is stored in the folder of the first crop.
    let store = Store::open(state.path()).unwrap();
    let third = capture_at(&store, 31_417, 3, Some(&mask));
    assert_eq!(second, "19700101T000031.417Z-t000001-01");
    assert_eq!(third, "19700101T000031.417Z-t000001-02");
    let samples = store.list().unwrap();
    assert!(samples.duplicates.is_empty(), "{:?}", samples.duplicates);
    for (id, shade, label) in [
        (first, 1, Some(&mask)),
        (second, 2, None),
        (third, 3, Some(&mask)),
    ] {
        let sample = samples.samples.iter().find(|sample| sample.id == id);
        let sample = sample.unwrap();
        assert_eq!(sample.label.as_ref(), label, "{id}");
        assert_eq!(store.read(sample).unwrap(), jpeg(&crop(shade)).unwrap());
        let rows = store.features(sample, &BACKBONE).unwrap();
        assert_eq!(rows, [feature(f32::from(shade))], "{id}");
    }
}
