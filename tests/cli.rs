//! Tests the command line with the real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

#[path = "../examples/classify_picture.rs"]
#[expect(dead_code, reason = "the test calls what its `main` calls")]
mod classify_picture;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{assert_refused, frame, maskd, root, run, text};

#[test]
fn help_version_completions_and_man_come_from_the_same_definitions() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = text(&help.stdout);
    let commands = [
        "run",
        "classify",
        "status",
        "label",
        "enroll",
        "samples",
        "refit",
        "heads",
        "rollback",
        "check",
        "bench",
        "completions",
        "man",
    ];
    for command in commands {
        assert!(help.contains(command), "{command}: {help}");
        assert!(run(&[command, "--help"]).status.success());
    }
    let short = text(&run(&["-V"]).stdout);
    assert_eq!(short, format!("maskd {}\n", env!("CARGO_PKG_VERSION")));
    let long = text(&run(&["--version"]).stdout);
    assert!(long.starts_with(&short), "{long}");
    assert!(
        long.contains("\nfeatures: ") && long.contains("\ncommit: "),
        "{long}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let completions = text(&run(&["completions", shell]).stdout);
        assert!(completions.contains("annotate"), "{shell}");
    }
    assert!(text(&run(&["man"]).stdout).contains(".TH maskd"));
    let folder = tempfile::tempdir().unwrap();
    assert!(
        run(&["man", "--out", folder.path().to_str().unwrap()])
            .status
            .success()
    );
    assert!(folder.path().join("maskd-classify.1").exists());
}

#[test]
fn wrong_usage_is_64() {
    for arguments in [
        &["--nonsense"][..],
        &[],
        &["run", "--rate", "fast"],
        &["bench", "--rounds", "0"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(64), "{arguments:?}");
    }
    assert_refused(
        &run(&["run", "--rate", "-1"]),
        64,
        "camera.playback-fps is -1",
    );
    assert_refused(&run(&["check", "--log", "a=b=c"]), 64, "--log");
    assert_refused(&run(&["run", "--source", "ftp://camera/stream"]), 64, "ftp");
}

#[test]
fn classify_prints_the_documented_json() {
    let pictures = [frame("maksssksksss5.jpg"), frame("maksssksksss128.jpg")];
    let output = maskd()
        .arg("classify")
        .args(&pictures)
        .arg("--json")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(output.stderr, b"");
    let lines = text(&output.stdout);
    let records: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 2);

    for (record, picture) in records.iter().zip(&pictures) {
        let keys: Vec<&String> = record.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["faces", "height", "picture", "width"]);
        assert_eq!(record["picture"], picture.to_str().unwrap());
        for face in record["faces"].as_array().unwrap() {
            let mut keys: Vec<&String> = face.as_object().unwrap().keys().collect();
            keys.sort();
            let mut expected = vec!["box", "landmarks", "probabilities", "score", "verdict"];
            if face["verdict"] == "unsure" {
                expected.insert(4, "unsure_reason");
            }
            assert_eq!(keys, expected);
            assert_eq!(face["box"].as_array().unwrap().len(), 4);
            assert_eq!(face["landmarks"].as_array().unwrap().len(), 5);
            let score = face["score"].as_f64().unwrap();
            assert!((0.5..=1.0).contains(&score));
            let p = |label: &str| face["probabilities"][label].as_f64().unwrap();
            assert!((p("with_mask") + p("without_mask") - 1.0).abs() < 1e-3);
            let verdict = face["verdict"].as_str().unwrap();
            assert!(["with_mask", "without_mask", "unsure"].contains(&verdict));
        }
    }
    assert_eq!(
        (&records[0]["width"], &records[0]["height"]),
        (&400.into(), &266.into())
    );
    let verdicts = |record: &Value| -> Vec<String> {
        let faces = record["faces"].as_array().unwrap().iter();
        let mut verdicts: Vec<String> = faces
            .map(|face| face["verdict"].as_str().unwrap().to_owned())
            .collect();
        verdicts.sort();
        verdicts
    };
    assert_eq!(verdicts(&records[1]), ["without_mask"]);
    let crowd = verdicts(&records[0]);
    assert!(
        crowd.iter().any(|verdict| verdict == "with_mask"),
        "{crowd:?}"
    );
    assert!(
        crowd.iter().any(|verdict| verdict == "without_mask"),
        "{crowd:?}"
    );
}

#[test]
fn a_box_is_on_the_labelled_face() {
    let output = maskd()
        .arg("classify")
        .arg(frame("maksssksksss10.jpg"))
        .arg("--json")
        .output();
    let record: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let found: Vec<f64> = record["faces"][0]["box"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    // These are the x, y, width, and height of the labeled face in maksssksksss10.xml.
    for (found, label) in found.iter().zip([97.0, 240.0, 96.0, 116.0]) {
        assert!((found - label).abs() < 15.0, "{found} for {label}");
    }
}

#[test]
fn the_library_example_gives_a_verdict_for_each_face() {
    let lines = classify_picture::classify(&frame("maksssksksss128.jpg")).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("face at ") && lines[0].ends_with(": without_mask"),
        "{lines:?}"
    );
    assert!(classify_picture::classify(Path::new("nowhere.jpg")).is_err());
}

#[test]
fn without_pictures_the_examples_are_classified() {
    let output = run(&["classify", "--json"]);
    assert!(output.status.success());
    let lines = text(&output.stdout);
    assert_eq!(lines.lines().count(), 6);
    assert!(
        lines
            .lines()
            .all(|line| line.contains("\"picture\":\"examples/"))
    );
}

#[test]
fn annotated_pictures_show_the_verdict_and_replace_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    let (one, two) = (inputs.join("a"), inputs.join("b"));
    for inputs in [&one, &two] {
        fs::create_dir_all(inputs).unwrap();
        fs::copy(frame("maksssksksss128.jpg"), inputs.join("face.jpg")).unwrap();
    }
    let out = folder.path().join("out");
    let output = maskd()
        .arg("classify")
        .args([&one, &two])
        .arg("--annotate")
        .arg(&out)
        .output();
    assert!(output.unwrap().status.success());
    let mut names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["face-2.annotated.jpg", "face.annotated.jpg"]);
    let pixels = image::open(out.join("face.annotated.jpg"))
        .unwrap()
        .into_rgb8();
    let red = pixels
        .pixels()
        .filter(|pixel| pixel[0] > 180 && pixel[1] < 60 && pixel[2] < 60);
    assert!(
        red.count() > 1000,
        "an unmasked face has a red box and a red label"
    );
}

#[test]
fn missing_pictures_and_folders_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["classify", folder.path().to_str().unwrap()]);
    assert_refused(&output, 66, "has no pictures");

    let output = maskd()
        .arg("classify")
        .arg("nowhere.jpg")
        .arg(frame("maksssksksss10.jpg"))
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(65));
    let errors = text(&output.stderr);
    assert!(errors.contains("skipped nowhere.jpg: "), "{errors}");
    assert!(
        errors.contains("1 of 2 pictures could not be read"),
        "{errors}"
    );
    assert!(
        text(&output.stdout).contains("1 face"),
        "the other picture is classified"
    );
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    use std::process::{Command, Stdio};
    let binary = env!("CARGO_BIN_EXE_maskd");
    let frames = root().join("assets/frames");
    let script = format!(
        "'{binary}' classify '{}' --json | head -n 1",
        frames.display()
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn check_reports_every_problem_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("maskd.toml");
    fs::write(
        &config,
        "[decide]\nhold-ms = 999999999\nhodl-ms = 3\n[models]\ndetector = 7\n",
    )
    .unwrap();
    let output = maskd()
        .arg("check")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stdout);
    for key in [
        "decide.hold-ms is 999999999",
        "decide.hodl-ms",
        "models.detector",
    ] {
        assert!(report.contains(key), "{key}: {report}");
    }
    // The defaults are not checked in place of a config that cannot be used.
    assert!(
        report.contains(
            "not checked  models, source, pins, mqtt, events, page, sound, times: correct the config"
        ),
        "{report}"
    );
    assert!(
        !report.contains("ok   source") && !report.contains("\\n"),
        "{report}"
    );

    let output = maskd()
        .arg("run")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_refused(&output, 78, "decide.hold-ms is 999999999");
    let sentence = text(&output.stderr);
    assert!(!sentence.contains("\\n"), "{sentence}");
}

#[test]
fn check_reads_the_sounds_and_finds_their_player() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("welcome.wav"), "sound").unwrap();
    fs::write(path("empty.wav"), "").unwrap();
    let check = |sound: &str| {
        fs::write(path("maskd.toml"), format!("[sound]\n{sound}")).unwrap();
        let (config, state) = (path("maskd.toml"), path("state"));
        let output = run(&["check", "--config", &config, "--state", &state]);
        (output.status.code(), text(&output.stdout))
    };
    let (exit, report) = check("");
    assert_eq!(exit, Some(0), "{report}");
    assert!(report.contains("ok   sound        none"), "{report}");
    let player = "program = [\"sh\", \"{file}\"]\n";
    let welcome = format!("mask = \"{}\"\n", path("welcome.wav"));
    let (exit, report) = check(&format!("{welcome}{player}"));
    assert_eq!(exit, Some(0), "{report}");
    let good = format!("ok   sound        mask: {}", path("welcome.wav"));
    assert!(report.contains(&good), "{report}");
    assert!(report.contains("sh plays it"), "{report}");
    for (name, problem) in [
        ("empty.wav", "is empty"),
        ("none.wav", "cannot be read"),
        ("", "is not a file"),
    ] {
        let sound = format!("no-mask = \"{}\"\n{player}", path(name));
        let (exit, report) = check(&sound);
        assert_eq!(exit, Some(66), "{report}");
        assert!(
            report.contains("BAD  sound        the sound for no_mask"),
            "{report}"
        );
        assert!(report.contains(problem), "{report}");
    }
    let missing = "program = [\"no-such-player\", \"{file}\"]\n";
    let (exit, report) = check(&format!("{welcome}{missing}"));
    assert_eq!(exit, Some(69), "{report}");
    assert!(
        report.contains("the player no-such-player is not installed"),
        "{report}"
    );
}

#[test]
fn the_shipped_config_passes_the_check() {
    let config = root().join("config/maskd.toml");
    let folder = tempfile::tempdir().unwrap();
    let output = maskd()
        .arg("--state")
        .arg(folder.path())
        .arg("check")
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    let report = text(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(!report.contains("BAD"), "{report}");
    assert!(report.contains(folder.path().to_str().unwrap()), "{report}");
    for what in [
        "config",
        "models",
        "labels",
        "source",
        "state",
        "board",
        "cameras",
        "GPIO chips",
    ] {
        assert!(
            report.lines().any(|line| line[5..].starts_with(what)),
            "{what}: {report}"
        );
    }
}

#[test]
fn configs_that_cannot_be_read_are_78() {
    assert_refused(
        &run(&["run", "--config", "nowhere.toml"]),
        78,
        "cannot read the config nowhere.toml",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("broken.toml");
    fs::write(&config, "[decide\n").unwrap();
    let output = maskd()
        .arg("run")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_refused(&output, 78, "is not valid TOML: line 1");
    fs::write(&config, [0xff, 0xfe, 0x00]).unwrap();
    let output = maskd()
        .arg("classify")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_refused(&output, 78, "cannot read the config");
}

#[test]
fn masked_labels_that_the_model_lacks_are_78() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("maskd.toml");
    fs::write(&config, "[classify]\nmasked-labels = [\"mask\"]\n").unwrap();
    let output = maskd()
        .arg("run")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_refused(&output, 78, "classify.masked-labels");
}

#[test]
fn bench_prints_a_table_and_the_documented_json() {
    let picture = frame("maksssksksss18.jpg");
    let output = maskd()
        .args(["bench", "--rounds", "2", "--threads", "1", "--json"])
        .arg(&picture)
        .output();
    let output = output.unwrap();
    assert!(output.status.success());
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["threads"], 1);
    assert_eq!(record["frames"][0]["faces"], 4);
    assert!(record.get("while_training").is_none());
    assert!(record["load_ms"].as_f64().unwrap() > 0.0);
    for stage in ["decode_ms", "detect_ms", "crop_ms", "embed_ms", "head_ms"] {
        let spread = &record["stages"][stage];
        let at = |key: &str| spread[key].as_f64().unwrap();
        assert!(at("min") > 0.0 && at("min") <= at("median") && at("median") <= at("max"));
        assert!(at("p99") <= at("max"), "{stage}");
    }
    assert!(
        record["frame_ms"]["median"].as_f64() > record["stages"]["embed_ms"]["median"].as_f64()
    );

    let output = maskd()
        .args(["bench", "--rounds", "1"])
        .arg(&picture)
        .output()
        .unwrap();
    let table = text(&output.stdout);
    assert!(
        table.contains("embed, per face") && table.contains("frames/s"),
        "{table}"
    );
}

#[test]
fn bench_prints_one_line_for_an_issue() {
    let output = maskd()
        .args(["bench", "--line", "--rounds", "1", "--threads", "2"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = text(&output.stdout);
    assert_eq!(line.lines().count(), 1, "{line}");
    let parts: Vec<&str> = line.trim_end().split("; ").collect();
    let version = concat!("maskd ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(parts[0].starts_with(version), "{line}");
    assert_eq!(parts[1], "1 picture of 640x480");
    assert!(parts[2].starts_with("1 thread: decode "), "{line}");
    assert!(parts[3].starts_with("2 threads: frame "), "{line}");
    assert!(parts[4].starts_with("load "), "{line}");

    let output = maskd()
        .args(["bench", "--line", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn bench_while_training_compares_frames_with_and_without_training() {
    let output = maskd()
        .args(["bench", "--while-training", "--rounds", "1", "--json"])
        .arg(frame("maksssksksss18.jpg"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let compared = &record["while_training"];
    assert_eq!(compared["rounds"], 1);
    let positive = [
        "p50_ratio",
        "p99_ratio",
        "throughput_ratio",
        "frames",
        "trainers",
    ];
    for key in positive {
        assert!(compared[key].as_f64().unwrap() > 0.0, "{key}: {compared}");
    }
    // These counts may be zero, because the trainers run at the lowest priority, and
    // their speed depends on the machine.
    for key in ["trainer_steps", "trainer_crops"] {
        assert!(compared[key].is_u64(), "{key}: {compared}");
    }
    let ratio = compared["p99_ratio"].as_f64().unwrap();
    let p99 = |kind: &str| compared[kind]["p99"].as_f64().unwrap();
    let of_times = p99("training_ms") / p99("at_rest_ms");
    assert!((ratio - of_times).abs() < 0.001, "{compared}");
}

#[test]
fn a_picture_comes_from_standard_input() {
    let classify = |input: &[u8]| {
        let mut command = maskd();
        command
            .args(["classify", "--json", "-"])
            .stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let picture = frame("maksssksksss10.jpg");
    let piped = classify(&fs::read(&picture).unwrap());
    assert!(piped.status.success(), "{}", text(&piped.stderr));
    let mut piped: Value = serde_json::from_str(&text(&piped.stdout)).unwrap();
    assert_eq!(piped["picture"].take(), "-");
    let named = run(&["classify", "--json", picture.to_str().unwrap()]);
    let mut named: Value = serde_json::from_str(&text(&named.stdout)).unwrap();
    named["picture"].take();
    assert_eq!(piped, named);
    for broken in [&b"no picture"[..], b""] {
        let refused = classify(broken);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(65), "{said}");
        assert!(said.contains("maskd: skipped -: "), "{said}");
    }
}

#[test]
fn the_environment_names_a_config_and_a_log_filter() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("maskd/maskd.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "[camera]\nsource = \"exec:own\"\n").unwrap();
    let named = folder.path().join("named.toml");
    fs::write(&named, "[camera]\nsource = \"exec:named\"\n").unwrap();
    let given = folder.path().join("given.toml");
    fs::write(&given, "[camera]\nsource = \"exec:given\"\n").unwrap();
    let check = |words: &[&str], variables: &[(&str, &Path)]| {
        let mut command = maskd();
        command
            .args(["check", "--json", "--state"])
            .arg(folder.path());
        command.args(words).envs(variables.iter().copied());
        let output = command.output().unwrap();
        let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        let source = checks.iter().find(|check| check["subject"] == "source");
        (
            output,
            source.unwrap()["found"].as_str().unwrap().to_owned(),
        )
    };
    let xdg = ("XDG_CONFIG_HOME", folder.path());
    let variable = ("MASKD_CONFIG", named.as_path());
    let (_, found) = check(&[], &[xdg]);
    assert!(found.contains("exec:own"), "{found}");
    let (_, found) = check(&[], &[xdg, variable]);
    assert!(found.contains("exec:named"), "{found}");
    let (_, found) = check(&["--config", given.to_str().unwrap()], &[xdg, variable]);
    assert!(found.contains("exec:given"), "{found}");

    let empty = folder.path().join("empty");
    let filter = ("MASKD_LOG", Path::new("a=b=c"));
    let refused = maskd().args(["check"]).envs([filter]).output().unwrap();
    assert_refused(&refused, 64, "MASKD_LOG");
    let (output, _) = check(&["-q"], &[("XDG_CONFIG_HOME", &empty), filter]);
    assert_eq!(output.status.code(), Some(0), "-q overrides MASKD_LOG");
    let missing = ("MASKD_CONFIG", Path::new("/nowhere.toml"));
    let refused = maskd().args(["status"]).envs([missing]).output().unwrap();
    assert_refused(&refused, 78, "/nowhere.toml");
}

#[test]
fn the_check_is_also_json() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("maskd.toml");
    fs::write(&config, "[camera]\nsource = \"exec:no-such-program\"\n").unwrap();
    let state = folder.path().join("state");
    let check = |words: &[&str]| {
        let mut command = maskd();
        command
            .args(["check", "--json", "--state"])
            .arg(&state)
            .args(words);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        (output.status.code(), report)
    };
    let (exit, report) = check(&["--config", config.to_str().unwrap()]);
    assert_eq!((exit, &report["ok"]), (Some(69), &Value::from(false)));
    let checks = report["checks"].as_array().unwrap();
    let bad: Vec<&Value> = checks
        .iter()
        .filter(|check| check["state"] == "bad")
        .collect();
    assert_eq!(bad.len(), 1, "{report}");
    assert_eq!(bad[0]["subject"], "source");
    fs::write(&config, "").unwrap();
    let (exit, report) = check(&["--config", config.to_str().unwrap()]);
    assert_eq!((exit, &report["ok"]), (Some(0), &Value::from(true)));
}

#[test]
fn more_and_less_is_logged() {
    let log = |words: &[&str]| {
        let source = format!("exec:cat '{}'", frame("maksssksksss10.jpg").display());
        let mut all = vec!["run", "--once", "--json", "--source", &source];
        all.extend(words);
        text(&run(&all).stderr)
    };
    let (usual, more, less) = (log(&[]), log(&["-v"]), log(&["-q"]));
    assert!(usual.contains(" INFO "), "{usual}");
    assert!(more.contains("DEBUG") && !usual.contains("DEBUG"), "{more}");
    assert_eq!(less, "");
    assert_eq!(run(&["run", "-q", "-v"]).status.code(), Some(64));
}
