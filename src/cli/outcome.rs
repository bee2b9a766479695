//! Formats the outcome of training on this device as text for the owner.

use std::fmt::Write;

use crate::learning::{
    AdaptationRecord, AdviceRecord, DecisionRecord, HardExampleRecord, InitialHeadRecord,
    MeasuredRecord, OutcomeRecord, RefitRecord, RefusalRecord, ScoresRecord, SkipReasonRecord,
    ValidationRecord, progress_sentence,
};
use crate::platform::text::people;

/// Formats the outcome of a refit. The text ends with advice on what to do next. The first
/// line says what happened and why. `details` adds the figures.
pub(super) fn refit(record: &RefitRecord, details: bool) -> String {
    let outcome = &record.outcome;
    let mut text = headline(record);
    text += &remarks(outcome);
    for (id, why) in &record.unusable {
        let _ = writeln!(text, "Not used: {id}: {why}");
    }
    for (label, samples) in &record.small_classes {
        let _ = writeln!(
            text,
            "Not used: {label} has too few face pictures for a class ({samples})."
        );
    }
    let progress = progress_sentence(&record.progress);
    if !progress.is_empty() {
        let _ = writeln!(text, "Labeled so far: {progress}.");
    }
    for advice in &outcome.advice {
        // The sentence about the progress already says this.
        let is_said = matches!(
            advice,
            AdviceRecord::MoreTracks { .. } | AdviceRecord::AnotherDay { .. }
        );
        if !is_said || progress.is_empty() {
            let _ = writeln!(text, "Next: {advice}.");
        }
    }
    if let DecisionRecord::Refused(
        RefusalRecord::LabelsDisagree { .. } | RefusalRecord::LabelsLookWrong { .. },
    ) = outcome.ruling
    {
        text += "If you have checked every label, vouch for them with \
                 \"maskd refit --labels-checked\".\n";
    }
    if details {
        text += &figures(outcome);
    }
    text
}

/// Says what happened and why, on one line.
fn headline(record: &RefitRecord) -> String {
    let reason = &record.outcome.reason;
    if record.outcome.ruling == DecisionRecord::NothingToGain {
        return format!("There is nothing to gain: {reason}. The present model stays in use.\n");
    }
    match (record.head, &record.outcome.measured) {
        (Some(number), _) => format!("Model {number} came into use: {reason}.\n"),
        (None, Some(_)) => format!("The new model was not used: {reason}.\n"),
        (None, None) => format!("There is no new model: {reason}.\n"),
    }
}

/// Formats the outcome of the training that produced a model. `details` adds the figures.
pub(super) fn outcome(outcome: &OutcomeRecord, details: bool) -> String {
    let mut text = String::new();
    if !outcome.reason.is_empty() {
        let _ = writeln!(
            text,
            "It came into use because of this result: {}.",
            outcome.reason
        );
    }
    text += &remarks(outcome);
    let counts = outcome.counts.iter().map(|count| {
        format!(
            "{} {} of {}",
            count.samples,
            count.label,
            people(count.groups)
        )
    });
    let counts: Vec<String> = counts.collect();
    if !counts.is_empty() {
        let _ = writeln!(
            text,
            "The labeled face pictures at that time: {}.",
            counts.join(", ")
        );
    }
    if details {
        text += &figures(outcome);
    }
    text
}

/// Formats what the owner should know about an outcome, regardless of the decision.
fn remarks(outcome: &OutcomeRecord) -> String {
    let mut text = String::new();
    if outcome.labels_checked {
        text += "The owner vouched for the labels.\n";
    }
    if let Some(warning) = &outcome.warning {
        let _ = writeln!(text, "Warning: {warning}.");
    }
    let suspects = outcome
        .measured
        .iter()
        .flat_map(|measured| &measured.suspects);
    for suspect in suspects {
        text += &suspicion(suspect, &outcome.labels);
    }
    for sample in &outcome.left_out {
        let why = match sample.why {
            SkipReasonRecord::Size => "it has the wrong number of features",
            SkipReasonRecord::NotFinite => "a feature is not a finite number",
            SkipReasonRecord::Label => "the model has no class for its label",
        };
        let _ = writeln!(text, "Not used: {}: {why}.", sample.id);
    }
    text
}

/// Formats the gain on face pictures on which either model is right.
fn of_recognized(gain: f64) -> String {
    format!("; {:+.3} where either model is right", -gain)
}

/// Formats the figures of an outcome. They are for developers.
fn figures(outcome: &OutcomeRecord) -> String {
    let Some(measured) = &outcome.measured else {
        return String::new();
    };
    let labels = &outcome.labels;
    let MeasuredRecord {
        method,
        adaptation,
        start,
        steps,
        before,
        after,
        gain,
        standard_error,
        recognized_gain,
        agreement,
        agreement_error,
        replay_before,
        replay_after,
        groups,
        replay_samples,
        temperature,
        shift,
        worst: _,
        suspects: _,
        curve,
    } = measured;
    let method = match method {
        ValidationRecord::HoldOut { groups } => {
            format!("a permanent hold-out set of {}", people(*groups))
        }
        ValidationRecord::CrossValidation { folds } => {
            format!("cross-validation in {folds} folds by person")
        }
    };
    let start = match start {
        InitialHeadRecord::Champion => "the model that was in use",
        InitialHeadRecord::Base => "the built-in model",
        InitialHeadRecord::Elsewhere => "a model from another device",
    };
    let adaptation = adapted(*adaptation);
    let shift: Vec<String> = shift.iter().map(|shift| format!("{shift:+.2}")).collect();
    let recognized = recognized_gain.map(of_recognized).unwrap_or_default();
    let mut text = format!(
        "evaluated by  {method}\n\
         tested on     {}\n\
         started from  {start}, {steps} steps\n\
         adapted       {adaptation}\n\
         before        {}\n\
         after         {}\n\
         loss change   {:+.3}, standard error {standard_error:.3}{recognized}\n\
         labels        agreement {agreement:.2} with a model that was trained without them (chance \
         is 0.50 ± {agreement_error:.2})\n",
        people(*groups),
        scores(before),
        scores(after),
        -gain,
    );
    if let (Some(before), Some(after)) = (replay_before, replay_after) {
        let _ = writeln!(
            text,
            "replay        {:.1}% right before, {:.1}% after, of {replay_samples} built-in samples",
            100.0 * before,
            100.0 * after
        );
    }
    let _ = writeln!(
        text,
        "calibration   temperature {temperature:.2}, shift {}",
        shift.join(" ")
    );
    if !curve.is_empty() {
        let points = curve.iter();
        let points = points.map(|point| format!("{} {:.3}", point.steps, point.loss));
        let points: Vec<String> = points.collect();
        let _ = writeln!(text, "loss by step  {}", points.join(", "));
    }
    text += &confusion("before", labels, &before.confusion);
    text += &confusion("after", labels, &after.confusion);
    text
}

fn adapted(adaptation: Option<AdaptationRecord>) -> &'static str {
    match adaptation {
        Some(AdaptationRecord::PlainReplay) => "both layers, with the face pictures of this device",
        Some(AdaptationRecord::Logits) => "only the scale and the threshold of the output",
        Some(AdaptationRecord::TranslatedReplay) => {
            "both layers, mostly with built-in samples fitted to this camera"
        }
        Some(AdaptationRecord::NewClasses) => "only the labels that the built-in model lacks",
        None => "unknown",
    }
}

fn scores(scores: &ScoresRecord) -> String {
    let [low, high] = scores.interval.map(|share| 100.0 * share);
    format!(
        "{} of {} right, {:.1}% (95% interval {low:.1} to {high:.1}), loss {:.3}",
        scores.right,
        scores.samples,
        100.0 * scores.accuracy,
        scores.loss
    )
}

fn suspicion(suspect: &HardExampleRecord, labels: &[String]) -> String {
    let label = labels.get(suspect.label).map_or("?", String::as_str);
    let id = &suspect.id;
    format!(
        "Is {id} really {label}? {} of {} similar face pictures have another label. \
         \"maskd samples show {id} --picture FILE\" writes it to a file.\n",
        suspect.disagreeing, suspect.neighbors
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
