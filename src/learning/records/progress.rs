//! How many people are labeled so far, and how many help.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::learning::refit::MANY_GROUPS;
use crate::learning::samples::{Listing, Sample, TrackKey};
use crate::onnx::Label;

/// The people that are labeled with a label so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgressRecord {
    /// The label.
    pub label: String,
    /// Number of tracks with face pictures that have the label. A track is a person in front
    /// of the camera; the same person forms another track later. Tracks for which the last
    /// training found near-duplicates count once.
    pub tracks: usize,
    /// Number of tracks beyond which additional tracks help little.
    pub wanted: usize,
    /// The UTC day of all these face pictures. Absent if they are from several days, or if
    /// there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_day: Option<String>,
}

/// What counts as one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Person<'a> {
    /// The group with this number in the last refit.
    Group(usize),
    /// A track on one day, of which the last refit knew nothing.
    Track(&'a str, &'a TrackKey),
}

/// Counts the people and days of each of these labels. `groups` are the groups of the last refit
/// by the ids of its samples.
pub(crate) fn progress(
    listing: &Listing,
    labels: &[String],
    groups: &BTreeMap<String, usize>,
) -> Vec<ProgressRecord> {
    // Samples of a track that came after the last refit belong to the group of that track.
    let group_of_track: BTreeMap<Person, usize> = listing
        .samples
        .iter()
        .filter_map(|sample| Some((track(sample), *groups.get(&sample.id)?)))
        .collect();
    let person = |sample| {
        let track = track(sample);
        let group = group_of_track.get(&track);
        group.map_or(track, |group| Person::Group(*group))
    };
    let record = |name: &String| {
        let label = Label::new(name).ok();
        let is_labeled = |sample: &&Sample| sample.label.is_some() && sample.label == label;
        let samples = || listing.samples.iter().filter(is_labeled);
        let tracks: BTreeSet<Person> = samples().map(person).collect();
        let days: BTreeSet<&str> = samples().map(|sample| sample.day.as_str()).collect();
        ProgressRecord {
            label: name.clone(),
            tracks: tracks.len(),
            wanted: MANY_GROUPS,
            only_day: match days.first() {
                Some(day) if days.len() == 1 => Some((*day).to_owned()),
                _ => None,
            },
        }
    };
    labels.iter().map(record).collect()
}

fn track(sample: &Sample) -> Person<'_> {
    Person::Track(&sample.day, &sample.track)
}

/// Returns a phrase such as "12 of 20 people with a mask, 3 of 20 without a mask, all on one
/// day", or an empty text if there are no labels.
pub(crate) fn progress_sentence(progress: &[ProgressRecord]) -> String {
    let mut parts = Vec::new();
    for record in progress {
        let (tracks, wanted) = (record.tracks, record.wanted);
        let mut part = if tracks < wanted {
            format!("{tracks} of {wanted}")
        } else {
            tracks.to_string()
        };
        if parts.is_empty() {
            part += " people";
        }
        parts.push(part + " " + &labeled(&record.label));
    }
    let present: Vec<&ProgressRecord> = progress.iter().filter(|at| at.tracks > 0).collect();
    let days: BTreeSet<Option<&str>> = present.iter().map(|at| at.only_day.as_deref()).collect();
    if days.len() == 1 && !days.contains(&None) {
        parts.push("all on one day".to_owned());
    } else if !days.contains(&None) && !days.is_empty() {
        parts.push("each on one day only".to_owned());
    } else {
        let single = present.iter().filter(|at| at.only_day.is_some());
        parts.extend(single.map(|at| format!("those {} on one day only", labeled(&at.label))));
    }
    parts.join(", ")
}

/// Returns the words that follow "people" for a label.
fn labeled(label: &str) -> String {
    match label {
        "with_mask" => "with a mask".to_owned(),
        "without_mask" => "without a mask".to_owned(),
        label => format!("labeled {label}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::learning::samples::SampleKind;

    fn sample(id: &str, label: Option<&str>, track: u64) -> Sample {
        Sample {
            id: id.to_owned(),
            label: label.map(|label| Label::new(label).unwrap()),
            track: TrackKey::Undated(track),
            day: "2026-11-23".to_owned(),
            at: None,
            modified: SystemTime::UNIX_EPOCH,
            kind: SampleKind::Picture,
            path: id.into(),
            bytes: 1,
            feature_bytes: 0,
            disk_bytes: 1,
        }
    }

    #[test]
    fn tracks_that_a_refit_joined_count_once() {
        let mask = Some("with_mask");
        let samples = vec![
            sample("a", mask, 1),
            sample("b", mask, 2),
            sample("c", mask, 3),
            sample("d", mask, 4),
            // This picture came after the refit.
            sample("e", mask, 2),
            sample("f", None, 5),
        ];
        let listing = Listing {
            samples,
            ..Listing::default()
        };
        let labels = ["with_mask".to_owned(), "without_mask".to_owned()];
        let tracks = |groups: &[(&str, usize)]| {
            let groups = groups.iter().map(|(id, group)| ((*id).to_owned(), *group));
            let progress = progress(&listing, &labels, &groups.collect());
            progress.iter().map(|at| at.tracks).collect::<Vec<usize>>()
        };
        assert_eq!(tracks(&[]), [4, 0]);
        assert_eq!(tracks(&[("a", 0), ("b", 0), ("c", 1)]), [3, 0]);
        assert_eq!(tracks(&[("a", 0), ("b", 0), ("c", 0), ("gone", 1)]), [2, 0]);
    }

    fn sentence(records: &[(&str, usize, Option<&str>)]) -> String {
        let records = records.iter().map(|(label, tracks, day)| ProgressRecord {
            label: (*label).to_owned(),
            tracks: *tracks,
            wanted: 20,
            only_day: day.map(str::to_owned),
        });
        progress_sentence(&records.collect::<Vec<_>>())
    }

    #[test]
    fn what_is_missing_is_a_sentence() {
        let (monday, tuesday) = (Some("2026-11-23"), Some("2026-11-24"));
        assert_eq!(
            sentence(&[("with_mask", 12, monday), ("without_mask", 3, monday)]),
            "12 of 20 people with a mask, 3 of 20 without a mask, all on one day"
        );
        assert_eq!(
            sentence(&[("with_mask", 12, monday), ("without_mask", 3, tuesday)]),
            "12 of 20 people with a mask, 3 of 20 without a mask, each on one day only"
        );
        assert_eq!(
            sentence(&[("with_mask", 31, None), ("chin", 4, tuesday)]),
            "31 people with a mask, 4 of 20 labeled chin, those labeled chin on one day only"
        );
        assert_eq!(
            sentence(&[("with_mask", 1, monday), ("without_mask", 0, None)]),
            "1 of 20 people with a mask, 0 of 20 without a mask, all on one day"
        );
        assert_eq!(
            sentence(&[("with_mask", 0, None), ("without_mask", 0, None)]),
            "0 of 20 people with a mask, 0 of 20 without a mask"
        );
        assert_eq!(
            sentence(&[("with_mask", 20, None), ("without_mask", 25, None)]),
            "20 people with a mask, 25 without a mask"
        );
        assert_eq!(sentence(&[]), "");
    }
}
