//! Advice on what to capture and label next, based on the counts and
//! measurements of a refit.

use std::collections::BTreeSet;

use super::input::GroupedSample;
use super::outcome::{Advice, ClassCount, Measurements};

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
        advice.extend(worst_class(counts, measured));
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
/// `None` if no sample is misclassified.
fn worst_class(counts: &[ClassCount], measured: &Measurements) -> Option<Advice> {
    let rows = measured.after.confusion.iter().enumerate();
    let (label, wrong, samples) = rows
        .map(|(label, row)| {
            let samples: usize = row.iter().sum();
            (label, samples - row[label], samples)
        })
        .filter(|(_, wrong, _)| *wrong > 0)
        .max_by(|a, b| (a.1 * b.2).cmp(&(b.1 * a.2)))?;
    Some(Advice::MoreOf {
        label: counts[label].label.clone(),
        wrong,
        samples,
    })
}
