//! The sentence that explains the decision of the gate, and its machine-readable form.

use std::cmp::Ordering;

use super::outcome::{GateDecision, Measurements, Outcome, Refusal};
use crate::platform::text::people;
use crate::platform::text_code::TextCode;

/// Stores the decision and the reason for it in `outcome`.
pub(super) fn decide(outcome: &mut Outcome, decision: GateDecision, measured: &Measurements) {
    let (reason, code) = match &decision {
        GateDecision::Accepted => accepted(measured),
        GateDecision::Refused(refusal) => refused(refusal, measured),
        GateDecision::NothingToGain => (
            format!(
                "the present model was right on all {} face pictures of {} that it was tested on, \
                 and the new one is hardly surer of the right answers",
                measured.before.samples,
                people(measured.groups)
            ),
            Some(
                TextCode::new("nothing-to-gain")
                    .with("samples", measured.before.samples)
                    .with("people", measured.groups),
            ),
        ),
    };
    outcome.reason = reason;
    outcome.reason_code = code;
    outcome.decision = decision;
}

/// Returns the outcome for a refit that was refused before a challenger was measured.
pub(super) fn refuse(outcome: Outcome, refusal: Refusal) -> Outcome {
    Outcome {
        reason: refusal.to_string(),
        reason_code: refusal.code(),
        decision: GateDecision::Refused(refusal),
        ..outcome
    }
}

/// Explains why a challenger is accepted.
fn accepted(measured: &Measurements) -> (String, Option<TextCode>) {
    let sentence = held_out_sentence(measured, "previous");
    let (sentence, code) = match measured.after.right.cmp(&measured.before.right) {
        Ordering::Greater => (sentence, "accepted-more-right"),
        Ordering::Equal => (
            sentence + ", and it was surer of the right answers",
            "accepted-same-right",
        ),
        Ordering::Less => (
            sentence + ", but it was surer of the right answers",
            "accepted-fewer-right",
        ),
    };
    (sentence, Some(held_out_code(code, measured)))
}

/// Explains why a challenger is refused.
fn refused(refusal: &Refusal, measured: &Measurements) -> (String, Option<TextCode>) {
    match refusal {
        Refusal::LessAccurate { .. } => (
            held_out_sentence(measured, "present"),
            Some(held_out_code("fewer-right", measured)),
        ),
        Refusal::NoGain { .. } => {
            let sentence = held_out_sentence(measured, "present");
            let (sentence, code) = match measured.after.right.cmp(&measured.before.right) {
                Ordering::Less => (sentence, "fewer-right"),
                Ordering::Equal => (
                    sentence + ", and it was not clearly surer of the right answers",
                    "same-right",
                ),
                Ordering::Greater => (
                    sentence + ", but it was not clearly surer of the right answers",
                    "more-right",
                ),
            };
            (sentence, Some(held_out_code(code, measured)))
        }
        Refusal::Forgets { before, after } => {
            let rows = measured.replay.map_or(0, |replay| replay.rows);
            let right = |share: &f64| (share * rows as f64).round() as u64;
            let (before, after) = (right(before), right(after));
            (
                format!(
                    "the new model forgets: it was right on {after} of {rows} built-in example \
                     faces, the present one on {before}"
                ),
                Some(
                    TextCode::new("forgets")
                        .with("before", before)
                        .with("after", after)
                        .with("samples", rows),
                ),
            )
        }
        _ => (refusal.to_string(), refusal.code()),
    }
}

/// Compares how many held-out samples both heads classify correctly.
fn held_out_sentence(measured: &Measurements, other: &str) -> String {
    let (before, after) = (&measured.before, &measured.after);
    let new = format!(
        "on face pictures of {} that it had not seen, the new model was right on {} of {}",
        people(measured.groups),
        after.right,
        after.samples
    );
    if after.right == before.right {
        format!("{new}, as many as the {other} one")
    } else {
        format!("{new}, the {other} one on {}", before.right)
    }
}

/// The values of [`held_out_sentence`].
fn held_out_code(code: &str, measured: &Measurements) -> TextCode {
    TextCode::new(code)
        .with("people", measured.groups)
        .with("samples", measured.after.samples)
        .with("before", measured.before.right)
        .with("after", measured.after.right)
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::good;
    use super::*;

    #[test]
    fn reasons_are_sentences_with_counts() {
        let reason = |before: usize, after: usize, refusal: Option<Refusal>| {
            let mut measured = good();
            measured.before.right = before;
            measured.after.right = after;
            let (sentence, code) = match refusal {
                Some(refusal) => refused(&refusal, &measured),
                None => accepted(&measured),
            };
            assert!(code.is_some());
            sentence
        };
        let no_gain = || {
            Some(Refusal::NoGain {
                gain: -0.1,
                needed: 0.0,
            })
        };
        let new = "on face pictures of 12 people that it had not seen, the new model was right on";
        assert_eq!(
            reason(17, 14, no_gain()),
            format!("{new} 14 of 20, the present one on 17")
        );
        assert_eq!(
            reason(17, 17, no_gain()),
            format!(
                "{new} 17 of 20, as many as the present one, and it was not clearly surer of the \
                 right answers"
            )
        );
        assert_eq!(
            reason(17, 18, no_gain()),
            format!(
                "{new} 18 of 20, the present one on 17, but it was not clearly surer of the right \
                 answers"
            )
        );
        assert_eq!(
            reason(14, 18, None),
            format!("{new} 18 of 20, the previous one on 14")
        );
        assert_eq!(
            reason(18, 17, None),
            format!(
                "{new} 17 of 20, the previous one on 18, but it was surer of the right answers"
            )
        );
        let forgets = Refusal::Forgets {
            before: 0.99,
            after: 0.95,
        };
        assert_eq!(
            reason(14, 18, Some(forgets)),
            "the new model forgets: it was right on 285 of 300 built-in example faces, the present \
             one on 297"
        );
    }

    #[test]
    fn codes_have_the_values_of_the_sentence() {
        let mut measured = good();
        let json = |(_, code): (String, Option<TextCode>)| serde_json::to_string(&code).unwrap();
        assert_eq!(
            json(accepted(&measured)),
            r#"{"code":"accepted-more-right","values":{"after":18,"before":14,"people":12,"samples":20}}"#
        );
        let forgets = Refusal::Forgets {
            before: 0.99,
            after: 0.95,
        };
        assert_eq!(
            json(refused(&forgets, &measured)),
            r#"{"code":"forgets","values":{"after":285,"before":297,"samples":300}}"#
        );
        measured.after.right = 14;
        let no_gain = Refusal::NoGain {
            gain: -0.1,
            needed: 0.0,
        };
        assert_eq!(
            json(refused(&no_gain, &measured)),
            r#"{"code":"same-right","values":{"after":14,"before":14,"people":12,"samples":20}}"#
        );
        let few = Refusal::TooFewGroups {
            label: "hat".to_owned(),
            groups: 1,
            needed: 2,
        };
        assert_eq!(
            json(refused(&few, &measured)),
            r#"{"code":"too-few-people","values":{"label":"hat","needed":2,"people":1}}"#
        );
    }
}
