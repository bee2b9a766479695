use std::fs;

use tempfile::TempDir;

use super::*;
use crate::onnx::{FEATURES, HeadTensors};

/// A head with one hidden neuron, so that its file is small.
fn head(bias: f32) -> HeadFile {
    HeadFile {
        backbone_sha256: [5; 32],
        labels: vec!["with_mask".to_owned(), "without_mask".to_owned()],
        head: HeadTensors {
            w1: vec![0.25; FEATURES],
            b1: vec![bias],
            w2: vec![1.0, -1.0],
            b2: vec![0.0, bias],
        },
    }
}

fn open() -> (TempDir, Heads) {
    let state = tempfile::tempdir().unwrap();
    let heads = Heads::open(state.path()).unwrap();
    (state, heads)
}

fn add(heads: &mut Heads, parent: Option<u32>) -> u32 {
    let last = heads.numbers().unwrap().last().copied().unwrap_or(0);
    let mut metadata = vec![("scores", format!("{{\"accuracy\":{last}}}"))];
    metadata.extend(parent.map(|parent| (PARENT, parent.to_string())));
    heads.add(&head(last as f32 + 1.0), &metadata).unwrap()
}

/// Creates heads 1 to `count`. Each head is the child of the previous one, and the last
/// head is in use.
fn line(count: u32) -> (TempDir, Heads) {
    let (state, mut heads) = open();
    for number in 1..=count {
        let parent = (number > 1).then_some(number - 1);
        assert_eq!(add(&mut heads, parent), number);
    }
    heads.switch(Some(count)).unwrap();
    (state, heads)
}

/// Rolls back in the same way as the module `active`.
fn rollback(heads: &mut Heads, steps: u32) -> Result<Option<u32>, HeadsError> {
    let from = used(heads).0;
    let (skipped, number) = heads.way_back(from, steps)?;
    assert_eq!(skipped.len(), steps as usize);
    heads.switch(number)?;
    Ok(number)
}

/// Creates the head that a device with this backbone starts with.
fn base(backbone_sha256: [u8; 32]) -> Head {
    Head::from_file(HeadFile {
        backbone_sha256,
        ..head(0.0)
    })
}

/// Imports a head in the same way as the module `active`, but without putting it into use.
fn import(
    heads: &mut Heads,
    path: &Path,
    backbone: &[u8; 32],
    labels: &[String],
) -> Result<u32, HeadsError> {
    let imported = read_foreign(path, &base(*backbone), labels, used(heads).0)?;
    let metadata = imported.metadata.iter();
    let metadata: Vec<(&str, String)> = metadata
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    heads.add(&imported.file, &metadata)
}

fn used(heads: &Reader) -> (Option<u32>, Option<Fallback>) {
    let HeadInUse { current, fallback } = heads.current().unwrap();
    (current.map(|current| current.number), fallback)
}

fn cut(heads: &Reader, file: &str) {
    fs::write(heads.root.join(file), b"").unwrap();
}

#[test]
fn a_head_is_in_use_only_when_switched_to() {
    let (state, mut heads) = open();
    assert_eq!(used(&heads), (None, None));
    assert_eq!(
        used(&Heads::read_only(&state.path().join("nowhere"))),
        (None, None)
    );
    assert_eq!(add(&mut heads, None), 1);
    assert_eq!(used(&heads), (None, None));
    heads.switch(Some(1)).unwrap();
    assert_eq!(add(&mut heads, Some(1)), 2);
    let current = heads.current().unwrap().current.unwrap();
    assert_eq!(current.number, 1);
    assert_eq!(current.head, Head::from_file(head(1.0)));
    assert_eq!(current.metadata["scores"], "{\"accuracy\":0}");
    assert_eq!(
        current.metadata.len(),
        1,
        "the format's own keys are left out"
    );

    let list = heads.list().unwrap();
    let listed: Vec<(u32, bool)> = list.iter().map(|h| (h.number, h.is_current)).collect();
    assert_eq!(listed, [(1, true), (2, false)]);
    let second = list[1].stored.as_ref().unwrap();
    assert_eq!((second.parent(), &second.file), (Some(1), &head(2.0)));
    let error = heads.switch(Some(3)).unwrap_err();
    assert!(
        matches!(error, HeadsError::Missing { number: 3 }),
        "{error}"
    );
    heads.switch(None).unwrap();
    assert_eq!(used(&heads), (None, None));
}

#[test]
fn one_process_changes_heads_and_anybody_reads_them() {
    let (state, heads) = line(1);
    let error = Heads::open(state.path()).unwrap_err();
    assert!(matches!(error, HeadsError::Busy { .. }), "{error}");
    assert_eq!(used(&Heads::read_only(state.path())), (Some(1), None));
    fs::write(heads.root.join(".maskd-1-1.part"), b"half").unwrap();
    drop(heads);
    let heads = Heads::open(state.path()).unwrap();
    assert!(!heads.root.join(".maskd-1-1.part").exists());
}

#[test]
fn a_head_that_cannot_be_read_again_is_not_stored() {
    let (_state, mut heads) = open();
    let error = heads.add(&head(f32::NAN), &[]).unwrap_err();
    assert!(matches!(error, HeadsError::Damaged(_)), "{error}");
    assert!(heads.list().unwrap().is_empty());
}

/// A head with finite weights whose outputs are not finite.
fn overflowing() -> HeadFile {
    let mut head = head(1.0);
    head.head.w1.fill(1e37);
    head
}

#[test]
fn a_head_whose_outputs_overflow_is_neither_stored_nor_used() {
    let (state, mut heads) = line(2);
    let error = heads.add(&overflowing(), &[]).unwrap_err();
    assert!(error.to_string().contains("overflow"), "{error}");
    let path = state.path().join("overflowing.onnx");
    fs::write(&path, onnx::write_head(&overflowing(), &[])).unwrap();
    let labels = head(0.0).labels;
    let error = import(&mut heads, &path, &[5; 32], &labels).unwrap_err();
    assert!(error.to_string().contains("overflow"), "{error}");
    let foreign = fs::read(&path).unwrap();
    assert!(parse_foreign("x", &foreign, &base([5; 32]), &labels).is_err());
    // Simulate an older maskd that stored the head and put it into use.
    let sealed = onnx::write_sealed_head(&overflowing(), &[(PARENT, "2".to_owned())]);
    fs::write(heads.path(2), sealed).unwrap();
    let fallback = Fallback::LostHead {
        damaged: 2,
        used: Some(1),
    };
    assert_eq!(used(&heads), (Some(1), Some(fallback)));
    assert!(heads.switch(Some(2)).is_err());
}

#[test]
fn a_number_is_not_given_again() {
    let (state, mut heads) = line(3);
    heads.switch(Some(1)).unwrap();
    fs::remove_file(heads.path(3)).unwrap();
    fs::remove_file(heads.path(2)).unwrap();
    drop(heads);
    let mut heads = Heads::open(state.path()).unwrap();
    assert_eq!(add(&mut heads, None), 4);
    // The number is not reused even if one of the two files that record it is damaged.
    for file in [CURRENT, BACKUP] {
        let last = heads.numbers().unwrap().last().copied().unwrap();
        fs::remove_file(heads.path(last)).unwrap();
        cut(&heads, file);
        assert_eq!(add(&mut heads, None), last + 1);
    }
    // A file whose name does not have the expected format is ignored. A file with a
    // correct name counts, even if a user created it.
    fs::copy(heads.path(1), heads.root.join("7.onnx")).unwrap();
    assert_eq!(add(&mut heads, None), 7);
    fs::copy(heads.path(1), heads.path(40)).unwrap();
    assert_eq!(add(&mut heads, None), 41);
    fs::copy(heads.path(1), heads.path(u32::MAX)).unwrap();
    let error = heads.add(&head(0.0), &[]).unwrap_err();
    assert!(matches!(error, HeadsError::Numbers { .. }), "{error}");
}

#[test]
fn going_back_follows_the_parents_and_keeps_what_is_left_behind() {
    let (state, mut heads) = line(4);
    assert_eq!(rollback(&mut heads, 1).unwrap(), Some(3));
    assert_eq!(used(&heads), (Some(3), None));
    assert_eq!(rollback(&mut heads, 0).unwrap(), Some(3));
    assert_eq!(heads.list().unwrap().len(), 4);
    // Add a child of head 3. Head 4, which was rolled back, is not an ancestor of this child.
    let fifth = add(&mut heads, Some(3));
    heads.switch(Some(fifth)).unwrap();
    assert_eq!(rollback(&mut heads, 2).unwrap(), Some(2));
    let error = rollback(&mut heads, 3).unwrap_err();
    let sentence = "cannot go back 3 models: the built-in model is already reached after 2";
    assert_eq!(error.to_string(), sentence);
    assert_eq!(used(&heads), (Some(2), None), "nothing changed");
    drop(heads);
    let mut heads = Heads::open(state.path()).unwrap();
    assert_eq!(rollback(&mut heads, 2).unwrap(), None);
    assert_eq!(used(&heads), (None, None));
    let error = rollback(&mut heads, 1).unwrap_err();
    let sentence = "cannot go back: the built-in model is in use, and no model was before it";
    assert_eq!(error.to_string(), sentence);
    assert_eq!(heads.list().unwrap().len(), 5);
}

#[test]
fn going_back_to_a_head_that_is_gone_changes_nothing() {
    let (_state, mut heads) = line(3);
    fs::remove_file(heads.path(2)).unwrap();
    let error = rollback(&mut heads, 1).unwrap_err();
    assert!(
        matches!(error, HeadsError::Missing { number: 2 }),
        "{error}"
    );
    assert_eq!(used(&heads), (Some(3), None));
}

#[test]
fn a_switch_leaves_the_newer_ancestors() {
    let (_state, mut heads) = line(3);
    // Head 4 is a child of head 2, and head 5 is a child of head 4.
    add(&mut heads, Some(2));
    add(&mut heads, Some(4));
    let left = |heads: &Heads, from, to| -> Vec<f32> {
        let left = heads.left_by_switch(from, to);
        left.iter().map(|stored| stored.file.head.b1[0]).collect()
    };
    assert_eq!(left(&heads, Some(5), Some(3)), [5.0, 4.0]);
    assert_eq!(left(&heads, Some(5), Some(1)), [5.0, 4.0, 2.0]);
    assert_eq!(left(&heads, Some(5), None), [5.0, 4.0, 2.0, 1.0]);
    assert_eq!(left(&heads, Some(3), Some(5)), [3.0], "forward");
    assert_eq!(left(&heads, Some(3), Some(3)), [0.0; 0]);
    assert_eq!(left(&heads, None, Some(3)), [0.0; 0]);
    // The ancestors of a head that is gone are unknown.
    fs::remove_file(heads.path(4)).unwrap();
    assert_eq!(left(&heads, Some(5), None), [5.0]);
    fs::remove_file(heads.path(5)).unwrap();
    assert_eq!(left(&heads, Some(5), None), [0.0; 0]);
}

#[test]
fn a_damaged_head_gives_way_to_the_one_before() {
    let (_state, mut heads) = line(4);
    cut(&heads, "000003.onnx");
    assert_eq!(used(&heads), (Some(4), None));
    cut(&heads, "000004.onnx");
    let fallback = Fallback::LostHead {
        damaged: 4,
        used: Some(2),
    };
    assert_eq!(
        fallback.to_string(),
        "model 4 is damaged or missing; model 2 is used instead"
    );
    assert_eq!(used(&heads), (Some(2), Some(fallback)));
    let whole: Vec<bool> = heads
        .list()
        .unwrap()
        .iter()
        .map(|h| h.stored.is_ok())
        .collect();
    assert_eq!(whole, [true, true, false, false]);
    assert!(heads.switch(Some(3)).is_err());

    // The fallback is never a newer head, because a newer head may have been rolled back
    // for a reason.
    heads.switch(Some(1)).unwrap();
    fs::remove_file(heads.path(1)).unwrap();
    let fallback = Fallback::LostHead {
        damaged: 1,
        used: None,
    };
    assert_eq!(used(&heads), (None, Some(fallback)));
}

#[test]
fn cut_off_anywhere_a_head_is_damaged() {
    let (_state, heads) = line(2);
    let whole = fs::read(heads.path(2)).unwrap();
    for length in 0..whole.len() {
        assert!(parse_sealed("cut", &whole[..length]).is_err(), "{length}");
    }
    // A changed byte is also detected.
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 1;
        assert!(parse_sealed("changed", &changed).is_err(), "{index}");
    }
    let fallback = Some(Fallback::LostHead {
        damaged: 2,
        used: Some(1),
    });
    for length in (0..whole.len()).step_by(211).chain([whole.len() - 1]) {
        fs::write(heads.path(2), &whole[..length]).unwrap();
        assert_eq!(used(&heads), (Some(1), fallback.clone()), "{length}");
    }
    fs::write(heads.path(2), &whole).unwrap();
    assert_eq!(used(&heads), (Some(2), None));
}

#[test]
fn cut_off_anywhere_current_is_got_around() {
    let (_state, mut heads) = line(12);
    heads.switch(Some(11)).unwrap();
    let [current, backup] = [CURRENT, BACKUP].map(|file| heads.root.join(file));
    let whole = fs::read(&current).unwrap();
    assert_eq!(whole, b"current 11, highest 12\n");
    for length in 0..whole.len() {
        fs::write(&current, &whole[..length]).unwrap();
        let expected = (Some(11), Some(Fallback::Backup { used: 11 }));
        assert_eq!(used(&heads), expected, "{length}");
        fs::write(&backup, &whole[..length]).unwrap();
        let expected = (Some(12), Some(Fallback::LostCurrent { used: Some(12) }));
        assert_eq!(used(&heads), expected, "{length}");
        fs::write(&backup, &whole).unwrap();
    }
    // After a power cut, blocks that were never written contain zeros.
    fs::write(&current, vec![0; whole.len()]).unwrap();
    assert_eq!(used(&heads).0, Some(11));
    fs::write(&current, &whole).unwrap();
    cut(&heads, BACKUP);
    assert_eq!(used(&heads), (Some(11), None));
    fs::remove_file(&current).unwrap();
    fs::remove_file(&backup).unwrap();
    assert_eq!(used(&heads).0, Some(12));
    heads.switch(Some(11)).unwrap();
    assert_eq!(used(&heads), (Some(11), None));
}

#[test]
fn a_head_goes_out_and_comes_in() {
    let (state, mut heads) = line(2);
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("out.onnx");
    fs::write(&path, heads.file(2).unwrap()).unwrap();
    let labels = head(0.0).labels;
    assert_eq!(import(&mut heads, &path, &[5; 32], &labels).unwrap(), 3);
    let stored = heads.get(3).unwrap();
    assert_eq!(stored.file, head(2.0));
    assert_eq!(stored.metadata["scores"], "{\"accuracy\":1}");
    assert_eq!(stored.parent(), Some(2), "the one in use here");
    assert_eq!(used(&heads), (Some(2), None));

    let error = import(&mut heads, &path, &[6; 32], &labels)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&"05".repeat(32)), "{error}");
    assert!(error.contains(&"06".repeat(32)), "{error}");
    let other = ["hat".to_owned(), "no_hat".to_owned()];
    let error = import(&mut heads, &path, &[5; 32], &other)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("with_mask") && error.contains("no_hat"),
        "{error}"
    );
    let missing = state.path().join("missing.onnx");
    assert!(import(&mut heads, &missing, &[5; 32], &labels).is_err());
    assert_eq!(heads.list().unwrap().len(), 3);

    cut(&heads, "000002.onnx");
    assert!(heads.file(2).is_err());
    let error = heads.file(9).unwrap_err();
    assert!(
        matches!(error, HeadsError::Missing { number: 9 }),
        "{error}"
    );
}

#[test]
fn a_head_that_was_not_written_here_must_be_imported() {
    let (state, mut heads) = line(1);
    let bytes = onnx::write_head(&head(3.0), &[("seed", "7".to_owned())]);
    fs::write(heads.path(2), &bytes).unwrap();
    let error = heads.get(2).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    let path = state.path().join("trained.onnx");
    fs::write(&path, &bytes).unwrap();
    let number = import(&mut heads, &path, &[5; 32], &head(0.0).labels).unwrap();
    assert_eq!(heads.get(number).unwrap().metadata["seed"], "7");
}

#[test]
fn pruning_keeps_the_newest_the_current_and_its_parent() {
    let (_state, mut heads) = line(9);
    heads.switch(Some(4)).unwrap();
    assert_eq!(heads.prune(2).unwrap(), [1, 2, 5, 6, 7]);
    let numbers = |heads: &Heads| -> Vec<u32> {
        heads
            .list()
            .unwrap()
            .iter()
            .map(|head| head.number)
            .collect()
    };
    assert_eq!(numbers(&heads), [3, 4, 8, 9]);
    assert_eq!(heads.prune(2).unwrap(), [0; 0]);
    // Damaged heads do not count toward the number to keep.
    cut(&heads, "000009.onnx");
    assert_eq!(heads.prune(1).unwrap(), [0; 0]);
    assert_eq!(numbers(&heads), [3, 4, 8, 9]);
    assert_eq!(heads.prune(0).unwrap(), [8, 9]);
    assert_eq!(add(&mut heads, None), 10);
    assert_eq!(used(&heads), (Some(4), None));
}

#[test]
fn pruning_spares_a_damaged_current_and_what_replaces_it() {
    let (_state, mut heads) = line(5);
    cut(&heads, "000005.onnx");
    assert_eq!(heads.prune(0).unwrap(), [1, 2]);
    assert_eq!(used(&heads).0, Some(4));
}
