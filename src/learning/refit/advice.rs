//! Advice on what to capture and label next, based on the counts and
//! measurements of a refit.

use std::collections::BTreeSet;

use super::input::GroupedSample;
use super::outcome::{Advice, ClassCount, HardExample, Measurements};

/// Number of tracks per class beyond which additional tracks help little.
pub(crate) const MANY_GROUPS: usize = 20;

pub(super) fn advice(
    counts: &[ClassCount],
    samples: &[GroupedSample],
    measured: Option<&Measurements>,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    if let Some(measured) = measured {
        if !measured.suspects.is_empty() {
            advice.push(Advice::CheckLabels {
                suspects: measured.suspects.len(),
            });
        }
        let confusion = &measured.after.confusion;
        advice.extend(worst_class(counts, confusion, &measured.suspects));
    }
    for (label, count) in counts.iter().enumerate() {
        if count.groups < MANY_GROUPS {
            advice.push(Advice::MoreTracks {
                label: count.label.clone(),
                groups: count.groups,
                wanted: MANY_GROUPS,
            });
        }
        let of_class = samples.iter().filter(|sample| sample.label() == label);
        let days: BTreeSet<&str> = of_class.map(|sample| sample.sample.day.as_str()).collect();
        if days.len() == 1 {
            advice.push(Advice::AnotherDay {
                label: count.label.clone(),
            });
        }
    }
    advice
}

/// Returns advice about the class with the largest fraction of misclassified samples, or
/// `None` if at most one sample of each class is misclassified, because one mistake says little.
fn worst_class(
    counts: &[ClassCount],
    confusion: &[Vec<usize>],
    suspects: &[HardExample],
) -> Option<Advice> {
    let rows = confusion.iter().enumerate();
    let (label, wrong, samples) = rows
        .map(|(label, row)| {
            let samples: usize = row.iter().sum();
            // A sample whose label is probably wrong is no reason to label more of its class.
            let suspects = suspects.iter().filter(|suspect| suspect.label == label);
            let wrong = samples - row[label];
            (label, wrong.saturating_sub(suspects.count()), samples)
        })
        .filter(|(_, wrong, _)| *wrong > 1)
        .max_by(|a, b| (a.1 * b.2).cmp(&(b.1 * a.2)))?;
    Some(Advice::MoreOf {
        label: counts[label].label.clone(),
        wrong,
        samples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_labels_and_single_mistakes_are_no_reason_to_label_more() {
        let counts = ["with_mask", "without_mask"].map(|label| ClassCount {
            label: label.to_owned(),
            samples: 40,
            groups: 40,
        });
        let suspect = HardExample {
            id: "a".to_owned(),
            label: 1,
            probability: 0.01,
            loss: 4.0,
            disagreeing: 5,
            neighbors: 5,
        };
        let suspects = vec![suspect; 3];
        let confusion = [vec![39, 1], vec![3, 37]];
        assert_eq!(worst_class(&counts, &confusion, &suspects), None);
        let more = |wrong| {
            Some(Advice::MoreOf {
                label: "without_mask".to_owned(),
                wrong,
                samples: 40,
            })
        };
        assert_eq!(worst_class(&counts, &confusion, &[]), more(3));
        let confusion = [vec![39, 1], vec![5, 35]];
        assert_eq!(worst_class(&counts, &confusion, &suspects), more(2));
    }
}
