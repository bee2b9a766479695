//! Tests with the real binary how maskd handles the paths in its arguments and folders.
//! The paths lead to links, devices, pipes, and state directories, or contain unusual
//! characters.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::{Device, assert_refused, frame, head, maskd, run, text, wait};

/// Runs a command, which must exit within 30 seconds.
#[track_caller]
fn ends(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let code = wait(&mut child, Duration::from_secs(30));
    assert!(code.is_some(), "it did not end: {command:?}");
    child.wait_with_output().unwrap()
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Creates a device with one learned model.
fn device_with_model() -> Device {
    let device = Device::new();
    let file = head(&device.at("head.onnx"), |_| {});
    device.stdout(&["heads", "import", &file]);
    device
}

/// Returns all commands that write a file, each without its last argument, which is the
/// path of that file.
fn writers(device: &Device) -> Vec<Vec<String>> {
    let set = device.pictures().display().to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    vec![
        words(&["heads", "export", "1"]),
        words(&["eval", "--dataset", &set, "--report"]),
        words(&["eval", "--faces", &set, "--report"]),
        words(&["train", "--dataset", &set, "--model"]),
        words(&["train", "--dataset", &set, "--head-only"]),
        words(&["train", "--dataset", &set, "--report"]),
        words(&["samples", "show", "none", "--picture"]),
    ]
}

#[test]
fn a_written_file_replaces_a_regular_file_and_nothing_else() {
    let device = device_with_model();
    let victim = device.at("victim");
    fs::write(&victim, "precious").unwrap();
    let link = device.at("link");
    symlink(&victim, &link).unwrap();
    let dangling = device.at("dangling");
    symlink(device.at("nothing-yet"), &dangling).unwrap();
    let fifo = device.at("fifo");
    pipe(&fifo);
    let folder = device.at("folder");
    fs::create_dir(&folder).unwrap();
    let mut targets = vec![
        (link.clone(), "it is a symbolic link"),
        (dangling.clone(), "it is a symbolic link"),
        (fifo.clone(), "it is not a regular file"),
        (folder, "it is a folder"),
    ];
    // Only root may create a device node, and some containers do not even allow root to do
    // so.
    let node = device.at("node");
    let mut mknod = Command::new("mknod");
    mknod.arg(&node).args(["c", "1", "3"]);
    if mknod.output().unwrap().status.success() {
        targets.push((node.clone(), "it is not a regular file"));
    }
    for writer in writers(&device) {
        for (target, why) in &targets {
            let mut command = maskd();
            command.args(&writer).arg(target);
            command.arg("--state").arg(device.at("state"));
            let output = ends(command);
            assert_refused(&output, 74, why);
            let sentence = text(&output.stderr);
            assert!(sentence.contains(target.to_str().unwrap()), "{sentence}");
        }
    }
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert!(link.is_symlink() && dangling.is_symlink());
    assert!(!device.at("nothing-yet").exists());
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    if let Ok(node) = fs::symlink_metadata(&node) {
        assert!(node.file_type().is_char_device());
        assert_eq!(node.rdev(), 0x103);
    }
    let left = fs::read_dir(device.folder.path()).unwrap();
    let left = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        Path::new(&name).extension() == Some("part".as_ref())
    });
    assert_eq!(left.count(), 0);
    // A regular file is replaced.
    device.stdout(&["heads", "export", "1", victim.to_str().unwrap()]);
    assert_ne!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn nothing_is_exported_into_a_state_directory() {
    let device = device_with_model();
    symlink(device.at("state"), device.at("innocent")).unwrap();
    let current = device.at("state/heads/current");
    let before = fs::read(&current).unwrap();
    let targets = [
        "state/heads/current",
        "state/heads/000001.onnx",
        "state/samples/x.jpg",
        "state/new.onnx",
        "innocent/heads/current",
        "state/heads/../format",
    ];
    for target in targets {
        for writer in writers(&device) {
            let mut command = maskd();
            command.args(&writer).arg(device.at(target));
            command.arg("--state").arg(device.at("state"));
            assert_refused(&ends(command), 74, "it lies in a state directory of maskd");
        }
    }
    for target in ["state", "state/samples", "innocent/heads"] {
        let target = device.at(target);
        let refused = device.maskd(&["samples", "export", target.to_str().unwrap()]);
        assert_refused(&refused, 64, "is inside");
        let annotated = target.to_str().unwrap();
        let picture = frame("maksssksksss10.jpg");
        let words = [
            "classify",
            picture.to_str().unwrap(),
            "--annotate",
            annotated,
        ];
        assert_refused(&device.maskd(&words), 74, "it lies in a state directory");
    }
    // The directory is also recognized without --state.
    let other = Device::new();
    let set = other.pictures();
    let words = ["train", "--dataset", set.to_str().unwrap(), "--model"];
    let mut command = maskd();
    command.args(words).arg(&current);
    assert_refused(&ends(command), 74, "it lies in a state directory of maskd");
    assert_eq!(fs::read(&current).unwrap(), before);
    assert!(device.stdout(&["heads", "list"]).contains("* model 1"));
}

#[test]
fn planted_links_in_output_folders_are_not_followed() {
    let device = device_with_model();
    let victim = device.at("victim");
    fs::write(&victim, "precious").unwrap();
    let picture = frame("maksssksksss10.jpg");
    let out = device.at("out");
    fs::create_dir(&out).unwrap();
    symlink(&victim, out.join("maksssksksss10.annotated.jpg")).unwrap();
    let words = ["classify", picture.to_str().unwrap(), "--annotate"];
    let mut command = maskd();
    command.args(words).arg(&out);
    let output = ends(command);
    assert_eq!(output.status.code(), Some(74));
    assert!(text(&output.stderr).contains("it is a symbolic link"));

    symlink(&victim, out.join("maskd-heads.1")).unwrap();
    let mut command = maskd();
    command.args(["man", "--out"]).arg(&out);
    assert_refused(&ends(command), 74, "it is a symbolic link");

    // In an export, the folder for a label must not be a link.
    let elsewhere = device.at("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    device.stdout(&["samples", "import", device.pictures().to_str().unwrap()]);
    symlink(&elsewhere, out.join("with_mask")).unwrap();
    let refused = device.maskd(&["samples", "export", out.to_str().unwrap()]);
    assert_refused(&refused, 74, "it is a symbolic link");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    // The folder itself may be a link, because the user named it.
    let linked = device.at("linked");
    let whole = device.at("whole");
    fs::create_dir(&whole).unwrap();
    symlink(&whole, &linked).unwrap();
    device.stdout(&["samples", "export", linked.to_str().unwrap()]);
    assert!(whole.join("with_mask").is_dir());
}

#[test]
fn samples_behind_a_link_are_neither_written_nor_forgotten() {
    let device = Device::new();
    device.stdout(&["samples", "import", device.pictures().to_str().unwrap()]);
    let samples = device.at("state/samples");
    let elsewhere = device.at("elsewhere");
    fs::rename(samples.join("with_mask"), &elsewhere).unwrap();
    symlink(&elsewhere, samples.join("with_mask")).unwrap();
    let faces = || fs::read_dir(&elsewhere).unwrap().count();
    let before = faces();
    assert!(before > 0);

    let stats = device.maskd(&["samples", "stats"]);
    let note = text(&stats.stderr);
    assert!(
        note.contains("not used (1): with_mask: links are not followed here"),
        "{note}"
    );
    let id = device.json(&["samples", "list"])[0]["id"].clone();
    let labelled = device.maskd(&["label", id.as_str().unwrap(), "with_mask"]);
    assert_eq!(labelled.status.code(), Some(74));
    let sentence = text(&labelled.stderr);
    assert!(sentence.contains("it is a symbolic link"), "{sentence}");
    let more = device.maskd(&["samples", "import", device.pictures().to_str().unwrap()]);
    assert_refused(&more, 74, "it is a symbolic link");
    assert_eq!(faces(), before);

    for words in [
        &["samples", "purge", "--yes", "--label", "with_mask"][..],
        &["samples", "purge", "--yes"],
    ] {
        let purged = device.maskd(words);
        assert_eq!(purged.status.code(), Some(65), "{words:?}");
        let note = text(&purged.stderr);
        assert!(note.contains("with_mask: links are not followed"), "{note}");
        assert!(
            note.contains("some files or folders were not deleted (1)"),
            "{note}"
        );
    }
    assert_eq!(faces(), before);
    fs::remove_file(samples.join("with_mask")).unwrap();
    let purged = device.stdout(&["samples", "purge", "--yes"]);
    assert!(
        purged.starts_with("deleted face pictures: 0 unlabeled, 0 labeled"),
        "{purged}"
    );
    // The folder for unlabeled pictures must not be a link either.
    fs::remove_dir(samples.join("unlabelled")).unwrap();
    symlink(&elsewhere, samples.join("unlabelled")).unwrap();
    let refused = device.maskd(&["samples", "purge", "--yes"]);
    assert_refused(&refused, 74, "it is a symbolic link");
}

#[test]
fn a_pipe_is_never_waited_for() {
    let device = device_with_model();
    let set = device.pictures();
    let fifo = device.at("fifo.jpg");
    pipe(&fifo);
    let fifo = fifo.to_str().unwrap();
    let frames = device.at("frames");
    fs::create_dir(&frames).unwrap();
    fs::copy(frame("maksssksksss10.jpg"), frames.join("a.jpg")).unwrap();
    pipe(&frames.join("a.xml"));
    let frames = frames.to_str().unwrap();
    let set = set.to_str().unwrap();
    let model = device.at("model.onnx");
    let model = model.to_str().unwrap();
    pipe(&device.at("model.onnx.resume"));
    for words in [
        &["heads", "import", fifo][..],
        &["classify", fifo],
        &["check", "--config", fifo],
        &["eval", "--frames", frames],
        &["eval", "--dataset", set, "--model", fifo],
        &["train", "--dataset", set, "--model", model, "--resume"],
    ] {
        let mut command = maskd();
        command.args(words);
        if words[0] != "eval" {
            command.arg("--state").arg(device.at("state"));
        }
        let output = ends(command);
        let errors = text(&output.stderr) + &text(&output.stdout);
        assert!(!output.status.success(), "{words:?}: {errors}");
        assert!(errors.contains("not a regular file"), "{words:?}: {errors}");
    }
    // Replace each file in the state directory, first with a pipe and then with a link.
    let config = device.at("maskd.toml");
    fs::write(&config, "[refit]\nenabled = false\n").unwrap();
    for file in [
        "heads/current",
        "heads/000001.onnx",
        "heads/.lock",
        "samples/.lock",
        "format",
        "refit.json",
    ] {
        let path = device.at("state").join(file);
        let kept = fs::read(&path).unwrap_or_default();
        for plant in [pipe, |path: &Path| symlink("/etc/hostname", path).unwrap()] {
            let _ = fs::remove_file(&path);
            plant(&path);
            let mut command = maskd();
            command
                .args(["heads", "list", "--state"])
                .arg(device.at("state"));
            ends(command);
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            assert!(!kind.is_file(), "{file} is still what it was");
        }
        fs::remove_file(&path).unwrap();
        if !kept.is_empty() {
            fs::write(&path, kept).unwrap();
        }
    }
    assert!(device.stdout(&["heads", "list"]).contains("* model 1"));
}

#[test]
fn what_is_read_has_a_limit() {
    let device = Device::new();
    let set = device.pictures();
    let model = device.at("model.onnx");
    let checkpoint = device.at("model.onnx.resume");
    fs::write(&checkpoint, vec![b'0'; (38 << 20) + 1]).unwrap();
    let words = [
        "train",
        "--dataset",
        set.to_str().unwrap(),
        "--model",
        model.to_str().unwrap(),
        "--resume",
    ];
    assert_refused(&device.maskd(&words), 66, "it has more than 38 MiB");

    let mut command = maskd();
    command.arg("passwd").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // The program may exit before it has read the whole input.
    let _ = input.write_all(&[b'x'; 5000]);
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_refused(&output, 65, "more than 4096 bytes");
}

/// Writes small pictures to `folder`. Each picture is different.
fn pictures(folder: &Path, count: u8) {
    fs::create_dir_all(folder).unwrap();
    let seed = folder
        .to_str()
        .unwrap()
        .bytes()
        .fold(7_u8, u8::wrapping_add);
    for number in 0..count {
        let pixels = image::RgbImage::from_fn(64, 64, |x, y| {
            let value = (x as u8 / 8).wrapping_mul(31 + number) ^ (y as u8 / 8).wrapping_mul(57);
            image::Rgb([
                value.wrapping_mul(seed | 1),
                value,
                value.wrapping_add(seed),
            ])
        });
        pixels.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

/// The message about the HEIC pictures in the data set from [`set_with_unused_files`].
const HEIC: &str = "not used (8): with_mask/0.HEIC, with_mask/1.HEIC, with_mask/2.HEIC, \
                    with_mask/3.HEIC, with_mask/4.HEIC and 3 more: HEIC pictures are not read; \
                    convert them to JPEG or PNG";

/// Creates a data set that contains pictures, other files, and links.
fn set_with_unused_files(device: &Device) -> PathBuf {
    let set = device.at("set");
    for class in ["with_mask", "without_mask"] {
        pictures(&set.join(class), 6);
    }
    let whole = fs::read(frame("maksssksksss10.jpg")).unwrap();
    for name in ["a.jfif", "b.JPE"] {
        fs::write(set.join("with_mask").join(name), &whole).unwrap();
    }
    for number in 0..8 {
        let name = format!("with_mask/{number}.HEIC");
        fs::write(set.join(name), "x").unwrap();
    }
    for clutter in [
        "@eaDir/a.jpg",
        "__MACOSX/with_mask/a.jpg",
        "with_mask/@eaDir/b.jpg",
    ] {
        let path = set.join(clutter);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &whole).unwrap();
    }
    for clutter in [
        ".DS_Store",
        "Thumbs.db",
        "with_mask/Thumbs.db",
        "with_mask/desktop.ini",
    ] {
        fs::write(set.join(clutter), "x").unwrap();
    }
    fs::write(set.join("lost.jpg"), &whole).unwrap();
    fs::write(set.join("with_mask/clip.avif"), "x").unwrap();
    symlink("..", set.join("with_mask/up")).unwrap();
    symlink(".", set.join("again")).unwrap();
    set
}

#[test]
fn files_that_are_not_read_are_counted_and_named() {
    let device = Device::new();
    let set = set_with_unused_files(&device);
    let path = set.to_str().unwrap();
    let report = device.at("report.json");
    let evaluated = run(&["eval", "--dataset", path]);
    let trained = device.maskd(&[
        "train",
        "--dataset",
        path,
        "--recipe",
        "tutorial",
        "--epochs",
        "1",
        "--report",
        report.to_str().unwrap(),
    ]);
    for output in [&evaluated, &trained] {
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains(HEIC), "{errors}");
        assert!(
            errors.contains("with_mask/clip.avif: AVIF pictures are not read"),
            "{errors}"
        );
        assert!(
            errors.contains("lost.jpg: pictures outside the class folders"),
            "{errors}"
        );
        let links = "not used (2): again, with_mask/up: links back to a folder above";
        assert!(errors.contains(links), "{errors}");
        for clutter in ["eaDir", "MACOSX", "DS_Store", "Thumbs", "desktop"] {
            assert!(!errors.contains(clutter), "{clutter} in {errors}");
        }
    }
    let tested = text(&evaluated.stdout);
    assert!(tested.contains("14"), "a.jfif and b.JPE count: {tested}");

    // None of the pictures in this class can be read.
    let phone = device.at("phone");
    pictures(&phone.join("without_mask"), 5);
    fs::create_dir(phone.join("with_mask")).unwrap();
    fs::write(phone.join("with_mask/1.heic"), "x").unwrap();
    let refused = device.maskd(&["eval", "--dataset", phone.to_str().unwrap()]);
    assert_refused(
        &refused,
        65,
        "1.heic: HEIC pictures are not read; convert them",
    );
}

#[test]
fn samples_that_are_not_used_are_counted_and_named() {
    let device = Device::new();
    let set = set_with_unused_files(&device);
    let path = set.to_str().unwrap();
    // This folder contains pictures, but its name is not a valid label.
    pictures(&set.join("unsure"), 3);
    let imported = device.maskd(&["samples", "import", path]);
    let out = text(&imported.stdout);
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    assert!(out.contains(HEIC), "{out}");
    let unsure = "unsure: its pictures (3) have no label, because \"unsure\" cannot be a label";
    assert!(out.contains(unsure), "{out}");
    assert!(
        out.contains("not used (1): again: links back to a folder above"),
        "{out}"
    );
    assert!(!out.contains("eaDir") && !out.contains("Thumbs"), "{out}");

    // The store itself also contains unused files.
    let samples = device.at("state/samples");
    fs::write(samples.join("with_mask/phone.heic"), "x").unwrap();
    pictures(&samples.join("features"), 2);
    fs::create_dir(samples.join("with_mask/@eaDir")).unwrap();
    for words in [["samples", "list"], ["samples", "stats"]] {
        let output = device.maskd(&words);
        assert!(output.status.success());
        let errors = text(&output.stderr);
        assert!(
            errors.contains("with_mask/phone.heic: HEIC pictures are not read"),
            "{errors}"
        );
        assert!(
            errors.contains("features: its pictures (2) have no label"),
            "{errors}"
        );
        assert!(!errors.contains("eaDir"), "{errors}");
    }
    let json: serde_json::Value = device.json(&["samples", "stats"]);
    assert!(json.is_object());
}

#[test]
fn photographs_that_are_not_used_are_counted_and_named() {
    let device = Device::new();
    let photos = device.at("photos");
    fs::create_dir(&photos).unwrap();
    fs::copy(frame("maksssksksss10.jpg"), photos.join("a.jpg")).unwrap();
    fs::copy(frame("maksssksksss10.jpg"), photos.join("alone.jpg")).unwrap();
    fs::copy(frame("maksssksksss10.xml"), photos.join("a.xml")).unwrap();
    fs::write(photos.join("b.avif"), "x").unwrap();
    fs::write(photos.join("Thumbs.db"), "x").unwrap();
    let folder = photos.to_str().unwrap();
    for words in [&["classify", folder][..], &["eval", "--frames", folder]] {
        let output = run(words);
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(
            errors.contains("not used (1): b.avif: AVIF pictures are not read"),
            "{errors}"
        );
        let is_told = errors.contains("alone.jpg: there is no Pascal VOC .xml of the same name");
        assert_eq!(is_told, words[0] == "eval", "{errors}");
        assert!(!errors.contains("Thumbs"), "{errors}");
    }
}

#[test]
fn parts_of_a_data_set_are_recognized() {
    let device = Device::new();
    let set = device.at("set");
    for part in ["train", "Test", "validation"] {
        for class in ["with_mask", "without_mask"] {
            pictures(&set.join(part).join(class), 5);
        }
    }
    let path = set.to_str().unwrap();
    let model = device.at("model.onnx");
    let model = model.to_str().unwrap();
    let refused = device.maskd(&["train", "--dataset", path, "--model", model]);
    let advice = format!(
        "train with --dataset {path}/train --val {path}/validation, and evaluate with \
         \"maskd eval --dataset {path}/Test\""
    );
    assert_refused(&refused, 65, &advice);
    assert_refused(&device.maskd(&["eval", "--dataset", path]), 65, &advice);
    let imported = device.maskd(&["samples", "import", path]);
    assert_eq!(imported.status.code(), Some(66));
    let out = text(&imported.stdout);
    let why = format!("import {path}/train instead");
    assert!(out.contains(&why), "{out}");

    // This data set is inside an extra folder, like the folder that some archives
    // create when they are unpacked.
    let outer = device.at("outer");
    fs::create_dir(&outer).unwrap();
    fs::rename(set.join("train"), outer.join("masks-v2")).unwrap();
    let outer = outer.to_str().unwrap();
    let refused = device.maskd(&["train", "--dataset", outer, "--model", model]);
    assert_refused(&refused, 65, &format!("name {outer}/masks-v2 instead"));
}

/// A name with terminal control characters, a line break, and a character that reverses
/// the text.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\n\u{9b}31m\u{202e}gpj";

/// Commands whose arguments or folders contain the name [`EVIL`]. Each word in capital
/// letters is a placeholder for a path or a name.
const COMMANDS: [&str; 34] = [
    "classify FOLDER",
    "classify --json FOLDER",
    "classify FACE nowhere/EVIL",
    "classify FACE --annotate FACE/x",
    "eval --dataset SET",
    "eval --dataset FOLDER",
    "eval --frames FOLDER",
    "eval --faces FOLDER --masked-label EVIL --errors FOLDER/sheet",
    "eval --faces SET --errors FACE/x",
    "train --dataset FOLDER --model OUT",
    "train --dataset SET --recipe tutorial --epochs 1 --model OUT",
    "samples import FOLDER",
    "samples list",
    "samples list --json",
    "samples stats",
    "samples stats --json",
    "samples show EVIL",
    "samples export FOLDER/copy",
    "samples purge --yes --label EVIL",
    "label EVIL with_mask",
    "label x EVIL",
    "heads export 1 OUT",
    "heads export 7 OUT",
    "heads import FACE",
    "heads list EVIL",
    "refit",
    "status",
    "status --json",
    "check",
    "check --config CONFIG",
    "run --once --source FOLDER",
    "run --once --json --source FOLDER --log trace",
    "run --once --source http://127.0.0.1:1/EVIL",
    "bench FOLDER --log EVIL=x",
];

fn commands_on(paths: &[(&str, &str)]) -> Vec<Vec<String>> {
    let word = |word: &str| {
        let replaced = paths.iter();
        replaced.fold(word.to_owned(), |word, (name, path)| {
            // A word in which a placeholder was already replaced must stay unchanged.
            if word.contains('\u{1b}') {
                word
            } else {
                word.replace(*name, path)
            }
        })
    };
    let words = |line: &&str| line.split(' ').map(word).collect();
    COMMANDS.iter().map(words).collect()
}

#[track_caller]
fn expect_plain(what: &str, bytes: &[u8]) {
    let shown = String::from_utf8_lossy(bytes);
    let is_evil = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    assert!(!shown.contains(is_evil), "{what}: {shown:?}");
    // The line break in the name must not break the line in the output.
    let broken = shown.lines().any(|line| line.starts_with("\\u{9b}31m"));
    assert!(!broken, "{what}: {shown:?}");
}

#[test]
fn file_names_reach_no_terminal_raw() {
    let device = device_with_model();
    let set = device.at("set");
    for class in ["with_mask", "without_mask"] {
        pictures(&set.join(class), 6);
    }
    let evil = device.at(EVIL);
    fs::create_dir(&evil).unwrap();
    let face = frame("maksssksksss10.jpg");
    let named = |folder: &Path, ending: &str| folder.join(format!("{EVIL}{ending}"));
    for folder in [&evil, &set.join("with_mask")] {
        fs::copy(&face, named(folder, ".jpg")).unwrap();
        fs::write(named(folder, "broken.jpg"), "x").unwrap();
        fs::write(named(folder, ".heic"), "x").unwrap();
    }
    // A label may contain characters that reverse the text, but no control characters.
    pictures(&evil.join("masks\u{202e}on"), 5);
    pictures(&evil.join(EVIL), 5);
    let evil_text = evil.to_str().unwrap();
    let set_text = set.to_str().unwrap();
    let face_text = named(&evil, ".jpg");
    let face_text = face_text.to_str().unwrap();
    let out = named(&device.at("state").join(".."), ".onnx");
    let out = out.to_str().unwrap();
    let config = named(device.folder.path(), ".toml");
    fs::write(
        &config,
        format!("[decide]\nconfirm-ms = {EVIL:?}\n\"\\u001b\" = 1\n"),
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let commands = commands_on(&[
        ("EVIL", EVIL),
        ("FOLDER", evil_text),
        ("SET", set_text),
        ("FACE", face_text),
        ("OUT", out),
        ("CONFIG", config),
    ]);
    for words in commands {
        let mut command = maskd();
        command.args(&words).arg("--state").arg(device.at("state"));
        command.env("RUST_BACKTRACE", "0");
        let output = ends(command);
        expect_plain(&format!("{words:?}"), &output.stdout);
        expect_plain(&format!("{words:?}"), &output.stderr);
    }
    // JSON contains the original names, with escapes.
    let output = run(&["classify", "--json", face_text]);
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["picture"], face_text);
    // Put a file with the name [`EVIL`] into the store.
    let stored = device.at("state/samples/with_mask");
    fs::create_dir_all(&stored).unwrap();
    fs::copy(&face, named(&stored, ".jpg")).unwrap();
    for words in [
        ["samples", "list"],
        ["samples", "stats"],
        ["refit", "--json"],
    ] {
        let output = device.maskd(&words);
        expect_plain(&format!("{words:?}"), &output.stdout);
        expect_plain(&format!("{words:?}"), &output.stderr);
    }
}
