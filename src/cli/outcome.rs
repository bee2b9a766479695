//! Formats the outcome of training on this device as text for the owner.

use std::fmt::Write;

use crate::learning::{
    DecisionRecord, HardExampleRecord, InitialHeadRecord, MeasuredRecord, OutcomeRecord,
    RefitRecord, ScoresRecord, SkipReasonRecord, ValidationRecord,
};

/// Formats the outcome of a refit. The text ends with advice on what to do next.
pub(super) fn refit(record: &RefitRecord) -> String {
    let mut text = match record.head {
        Some(number) => format!("accepted: model {number} is in use now\n"),
        None => "refused: the model in use stays\n".to_owned(),
    };
    text += &outcome(&record.outcome);
    for (id, why) in &record.unusable {
        let _ = writeln!(text, "not usable    {id}: {why}");
    }
    for (label, samples) in &record.small_classes {
        let _ = writeln!(
            text,
            "left out      {label}: {samples} face pictures are too few for a class"
        );
    }
    text
}

/// Formats the outcome of the training that produced a model.
pub(super) fn outcome(outcome: &OutcomeRecord) -> String {
    let mut text = String::new();
    if !outcome.reason.is_empty() {
        let _ = writeln!(text, "reason        {}", outcome.reason);
    }
    if let Some(warning) = &outcome.warning {
        let _ = writeln!(text, "warning       {warning}");
    }
    let counts = outcome.counts.iter().map(|count| {
        format!(
            "{} {} in {} tracks",
            count.label, count.samples, count.groups
        )
    });
    let counts: Vec<String> = counts.collect();
    if !counts.is_empty() {
        let _ = writeln!(text, "samples       {}", counts.join(", "));
    }
    if let Some(measured) = &outcome.measured {
        text += &figures(measured, &outcome.labels, &outcome.ruling);
    }
    for sample in &outcome.left_out {
        let why = match sample.why {
            SkipReasonRecord::Size => "it has the wrong number of features",
            SkipReasonRecord::NotFinite => "a feature is not a finite number",
            SkipReasonRecord::Label => "the model has no class for its label",
        };
        let _ = writeln!(text, "left out      {}: {why}", sample.id);
    }
    for advice in &outcome.advice {
        let _ = writeln!(text, "next          {advice}");
    }
    text
}

fn figures(measured: &MeasuredRecord, labels: &[String], ruling: &DecisionRecord) -> String {
    let MeasuredRecord {
        method,
        start,
        steps,
        before,
        after,
        gain,
        standard_error,
        agreement,
        agreement_error,
        replay_before,
        replay_after,
        replay_samples,
        temperature,
        shift,
        worst: _,
        suspects,
        curve: _,
    } = measured;
    let method = match method {
        ValidationRecord::HoldOut { groups } => {
            format!("a permanent hold-out set of {groups} tracks")
        }
        ValidationRecord::CrossValidation { folds } => {
            format!("cross-validation in {folds} folds by track")
        }
    };
    let start = match start {
        InitialHeadRecord::Champion => "the model that was in use",
        InitialHeadRecord::Base => "the built-in model",
        InitialHeadRecord::Elsewhere => "the model of another device",
    };
    let shift: Vec<String> = shift.iter().map(|shift| format!("{shift:+.2}")).collect();
    let mut text = format!(
        "evaluated by  {method}\n\
         started from  {start}, {steps} steps\n\
         before        {}\n\
         after         {}\n\
         loss change   {:+.3}, standard error {standard_error:.3}\n\
         labels        agreement {agreement:.2} with a model that was trained without them (chance \
         is 0.50 ± {agreement_error:.2})\n",
        scores(before),
        scores(after),
        -gain,
    );
    if let (Some(before), Some(after)) = (replay_before, replay_after) {
        let _ = writeln!(
            text,
            "replay        {:.1} % right before, {:.1} % after, of {replay_samples} built-in samples",
            100.0 * before,
            100.0 * after
        );
    }
    let _ = writeln!(
        text,
        "calibration   temperature {temperature:.2}, shift {}",
        shift.join(" ")
    );
    text += &confusion("before", labels, &before.confusion);
    text += &confusion("after", labels, &after.confusion);
    for suspect in suspects {
        text += &suspicion(suspect, labels);
    }
    if *ruling != DecisionRecord::Accepted && !suspects.is_empty() {
        text +=
            "              \"maskd samples show ID --picture FILE\" writes one of them to a file\n";
    }
    text
}

fn scores(scores: &ScoresRecord) -> String {
    let [low, high] = scores.interval.map(|share| 100.0 * share);
    format!(
        "{} of {} right, {:.1} % (95 % interval {low:.1} to {high:.1}), loss {:.3}",
        scores.right,
        scores.samples,
        100.0 * scores.accuracy,
        scores.loss
    )
}

fn suspicion(suspect: &HardExampleRecord, labels: &[String]) -> String {
    let label = labels.get(suspect.label).map_or("?", String::as_str);
    format!(
        "suspect       {}: is it really {label}? probability {:.1} %, {} of {} similar face pictures \
         have another label\n",
        suspect.id,
        100.0 * suspect.probability,
        suspect.disagreeing,
        suspect.neighbors
    )
}

/// Formats a confusion matrix. Rows are the true labels, and columns are the predicted
/// labels.
fn confusion(when: &str, labels: &[String], rows: &[Vec<usize>]) -> String {
    let width = labels.iter().map(String::len).max().unwrap_or(0).max(6);
    let mut text = format!("\n{when:<width$}");
    for label in labels {
        let _ = write!(text, "  {label:>width$}");
    }
    text.push('\n');
    for (label, row) in labels.iter().zip(rows) {
        let _ = write!(text, "{label:<width$}");
        for count in row {
            let _ = write!(text, "  {count:>width$}");
        }
        text.push('\n');
    }
    text
}
