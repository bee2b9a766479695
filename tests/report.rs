//! Compares the report with results from scikit-learn, scipy, and numpy, and tests its
//! JSON format. `tests/golden/make_report_golden.py` generates the reference values. Also
//! tests that a viewer can open the plot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use maskd::training::dataset::class_weights;
use maskd::training::report::{Report, threshold_sweep};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    truth: Vec<usize>,
    probabilities: Vec<f32>,
    names: Vec<String>,
    predicted: Option<Vec<usize>>,
    text: String,
    accuracy: f64,
    interval: [f64; 2],
    calibration_error: f64,
    confusion: Vec<Vec<usize>>,
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
    support: Vec<usize>,
    class_weights: Option<Vec<f64>>,
}

impl Case {
    fn report(&self) -> Report {
        let predicted = self.predicted.as_deref();
        Report::new(&self.truth, &self.probabilities, &self.names, predicted).unwrap()
    }
}

fn cases() -> BTreeMap<String, Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report.json");
    let cases: BTreeMap<String, Case> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 12);
    cases
}

fn assert_near(ours: f64, theirs: f64, what: &str) {
    assert!((ours - theirs).abs() < 1e-9, "{what}: {ours}, {theirs}");
}

#[test]
fn the_table_is_that_of_scikit_learn_to_the_letter() {
    for (name, case) in cases() {
        let table = case.report().table();
        assert_eq!(table, case.text, "{name}\n{table}\n{}", case.text);
    }
}

#[test]
fn every_score_is_that_of_the_references() {
    for (name, case) in cases() {
        let report = case.report();
        assert_eq!(report.confusion, case.confusion, "{name}");
        assert_near(report.accuracy, case.accuracy, &name);
        assert_near(report.interval[0], case.interval[0], &name);
        assert_near(report.interval[1], case.interval[1], &name);
        assert_near(report.calibration_error, case.calibration_error, &name);
        for (class, scores) in report.classes.iter().enumerate() {
            assert_near(scores.precision, case.precision[class], &name);
            assert_near(scores.recall, case.recall[class], &name);
            assert_near(scores.f1, case.f1[class], &name);
            assert_eq!(scores.support, case.support[class], "{name}");
        }
        if let Some(theirs) = case.class_weights {
            for (ours, theirs) in class_weights(&case.support).into_iter().zip(theirs) {
                assert_near(ours, theirs, &name);
            }
        }
    }
}

#[test]
fn the_json_keeps_its_contract() {
    let report = cases()["a class never predicted"].report();
    let text = serde_json::to_string(&report).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "accuracy",
            "calibration_error",
            "classes",
            "confusion",
            "interval",
            "labels",
            "macro_avg",
            "weighted_avg"
        ]
    );
    assert_eq!(value["labels"], json!(["a", "b", "c"]));
    assert_eq!(value["confusion"], json!([[1, 1, 0], [0, 1, 0], [1, 0, 0]]));
    assert_eq!(
        value["classes"]["b"],
        json!({"precision": 0.5, "recall": 1.0, "f1": 2.0 / 3.0, "support": 1})
    );
    assert_eq!(value["macro_avg"]["support"], json!(4));
    assert_eq!(value["weighted_avg"]["recall"], json!(0.5));
    let places = ["\"a\":{", "\"b\":{", "\"c\":{"].map(|name| text.find(name).unwrap());
    assert!(places.is_sorted(), "classes stand in the order of labels");
}

#[test]
fn a_sweep_at_half_is_the_report() {
    let case = &cases()["two classes"];
    let report = case.report();
    for class in 0..2 {
        let sweep =
            threshold_sweep(&case.truth, &case.probabilities, &case.names, class, &[0.5]).unwrap();
        assert_eq!(sweep[0].accuracy, report.accuracy);
        assert_eq!(sweep[0].recall[0], report.classes[0].recall);
        assert_eq!(sweep[0].recall[1], report.classes[1].recall);
    }
}
