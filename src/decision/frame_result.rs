//! The result of one frame, which consists of its faces and their verdicts.
//!
//! This module owns the contribution of the faces to the decision for a frame and to the
//! confirmation of a mask. It also owns the JSON format of a face, which `classify`, `run`, and the
//! daemon's APIs share. It does no I/O.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::decision::confirm::{Evidence, Sighting};
use crate::decision::decide::{Decision, Observation, UnsureReason, Verdict};
use crate::frame::Face;

/// A face in a frame and the verdict on it.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceResult {
    /// The face's position, score, and landmarks.
    pub face: Face,
    /// The id of the face's track, or `None` for a single picture.
    pub track: Option<u64>,
    /// The probability of each label, or `None` if the face was not classified.
    pub probabilities: Option<Vec<f32>>,
    /// The verdict on the face.
    pub verdict: Verdict,
    /// The verdict according to the classification in this frame alone, without the votes
    /// from earlier frames, or `None` if the face was not classified in this frame.
    pub verdict_alone: Option<Verdict>,
}

impl FaceResult {
    /// Whether the face counts toward the decision for the frame. A masked face that the detector
    /// scores low does not count, because such a face must not help to open a door. All other faces
    /// count.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.face.face_check.is_none() || !is_masked(self.verdict)
    }

    /// Whether the face was classified in this frame, and this classification alone gives a verdict
    /// other than masked.
    fn contradicts_mask(&self) -> bool {
        self.verdict_alone
            .is_some_and(|verdict| !is_masked(verdict))
    }
}

fn is_masked(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Masked(_))
}

/// Returns the decision for a frame with these faces.
#[must_use]
pub fn decision(faces: &[FaceResult]) -> Decision {
    let counted = faces.iter().filter(|face| face.counts());
    let verdicts: Vec<Verdict> = counted.map(|face| face.verdict).collect();
    Decision::of_frame(&verdicts)
}

/// Returns what a frame with these faces contributes to the confirmation of a mask.
/// `is_detected` tells whether the detector ran on this frame.
///
/// A frame that shows only masked faces with low scores counts like a frame without faces. A face
/// with a low score never confirms a mask. Any face that is not masked prevents the confirmation,
/// even if its score is low.
#[must_use]
pub fn sighting(faces: &[FaceResult], is_detected: bool) -> Sighting {
    let is_contradicted = faces.iter().any(FaceResult::contradicts_mask);
    let mut counted = faces.iter().filter(|face| face.counts());
    let is_anew = counted.all(|face| face.verdict_alone.is_some());
    match decision(faces) {
        Decision::Idle if !is_contradicted => Sighting::Nobody,
        Decision::Mask if is_detected && is_anew && !is_contradicted => Sighting::MaskedAnew,
        Decision::Mask => Sighting::Masked,
        Decision::Idle | Decision::NoMask | Decision::Unsure | Decision::Fault => Sighting::Other,
    }
}

/// The faces in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameResult {
    /// Sequence number of the frame since startup.
    pub seq: u64,
    /// Capture time of the frame.
    pub at: Instant,
    /// The time from the capture of the frame to the verdicts.
    pub latency: Duration,
    /// The labels of the head, in the order of the probabilities.
    pub labels: Arc<[String]>,
    /// The faces, with the best detector score first.
    pub faces: Vec<FaceResult>,
    /// The extent to which this frame and the frames before it confirm a mask.
    pub evidence: Evidence,
}

impl FrameResult {
    /// Returns the decision for this frame alone.
    #[must_use]
    pub fn decision(&self) -> Decision {
        decision(&self.faces)
    }

    /// Returns the same frame as if nobody were in view. The decision is then idle.
    #[must_use]
    pub fn without_faces(self) -> FrameResult {
        FrameResult {
            latency: Duration::ZERO,
            faces: Vec::new(),
            evidence: Evidence {
                run: None,
                ..self.evidence
            },
            ..self
        }
    }

    /// Returns what the frame contributes to the decision over time.
    #[must_use]
    pub fn observation(&self) -> Observation {
        Observation {
            at: self.at,
            decision: self.decision(),
            evidence: self.evidence,
        }
    }
}

/// A face as JSON. This is the documented output format of `maskd classify --json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct FaceRecord {
    /// Left edge, top edge, width and height of the face's box, in pixels of the picture
    /// as displayed. The box may extend beyond the picture.
    #[serde(rename = "box")]
    pub rect: [f64; 4],
    /// The detector's score, between 0 and 1.
    pub score: f64,
    /// The probability of a face according to the face check. Present only if the face
    /// check accepted the face and the detector's score alone is too low for a verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub face_check: Option<f64>,
    /// Positions (x, y) of the left eye, the right eye, the nose, and the left and right
    /// corners of the mouth, in pixels of the picture. Left and right are as seen in the
    /// picture.
    pub landmarks: [[f64; 2]; 5],
    /// The id of the face's track. Only the daemon tracks faces; otherwise, the id is
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<u64>,
    /// A label of the head, or `unsure`.
    pub verdict: String,
    /// The reason the verdict is `unsure`. Absent for any other verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsure_reason: Option<UnsureReason>,
    /// The probability of each label. Absent if the face was not classified.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, f64>>)]
    pub probabilities: Option<Probabilities>,
}

/// A picture and the verdicts on its faces, as JSON. This is the documented output format
/// of `maskd classify --json` and of the API.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PictureRecord {
    /// The path of the picture, `examples/NAME` for a built-in example, or `-` for
    /// standard input and for a picture that was sent to the API.
    pub picture: String,
    /// Width of the picture as displayed, in pixels.
    pub width: u32,
    /// Height of the picture as displayed, in pixels.
    pub height: u32,
    /// Faces in descending order of their detector scores.
    pub faces: Vec<FaceRecord>,
}

impl FaceRecord {
    /// Creates the record of a face. `labels` contains the label of each probability, in the order
    /// of the probabilities.
    #[must_use]
    pub fn new(result: &FaceResult, labels: &[String]) -> FaceRecord {
        let FaceResult {
            face,
            track,
            probabilities,
            verdict,
            verdict_alone: _,
        } = result;
        let rect = [face.rect.x, face.rect.y, face.rect.width, face.rect.height];
        FaceRecord {
            rect: rect.map(|length| round(length, 10.0)),
            score: round(face.score, 1e4),
            face_check: face.face_check.map(|probability| round(probability, 1e4)),
            landmarks: face
                .landmarks
                .map(|(x, y)| [round(x, 10.0), round(y, 10.0)]),
            track: *track,
            verdict: verdict.name(labels).to_owned(),
            unsure_reason: match *verdict {
                Verdict::Unsure(reason) => Some(reason),
                Verdict::Masked(_) | Verdict::Unmasked(_) => None,
            },
            probabilities: probabilities
                .as_ref()
                .map(|all| Probabilities::new(labels, all, 1e4)),
        }
    }
}

/// Rounds to a multiple of 1 / `steps`, so that only meaningful digits remain, such as
/// tenths of a pixel or hundredths of a percent.
fn round(value: f32, steps: f64) -> f64 {
    (f64::from(value) * steps).round() / steps
}

/// The probability of each label, between 0 and 1. Serialized as a JSON object in the order of the
/// head's labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Probabilities(Vec<(String, f64)>);

impl Probabilities {
    /// Pairs each label with its probability, rounded to a multiple of 1 / `steps`.
    #[must_use]
    pub fn new(labels: &[String], probabilities: &[f32], steps: f64) -> Probabilities {
        let name = |(label, p): (&String, &f32)| (label.clone(), round(*p, steps));
        Probabilities(labels.iter().zip(probabilities).map(name).collect())
    }

    /// Iterates over the labels and their probabilities, in the order of the head's labels.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(label, p)| (label.as_str(), *p))
    }
}

impl Serialize for Probabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Rect;

    #[test]
    fn the_record_of_a_face_is_the_documented_json() {
        let rect = Rect {
            x: -1.26,
            y: 2.0,
            width: 30.04,
            height: 40.0,
        };
        let face = Face {
            rect,
            score: 0.930_04,
            landmarks: [(1.0, 2.5); 5],
            face_check: None,
        };
        let labels = ["with_mask".to_owned(), "without_mask".to_owned()];
        let mut result = FaceResult {
            face,
            track: None,
            probabilities: Some(vec![0.97, 0.03]),
            verdict: Verdict::Masked(0),
            verdict_alone: None,
        };
        let json = serde_json::to_string(&FaceRecord::new(&result, &labels)).unwrap();
        let landmarks = "[1.0,2.5],[1.0,2.5],[1.0,2.5],[1.0,2.5],[1.0,2.5]";
        assert_eq!(
            json,
            format!(
                "{{\"box\":[-1.3,2.0,30.0,40.0],\"score\":0.93,\"landmarks\":[{landmarks}],\
                 \"verdict\":\"with_mask\",\
                 \"probabilities\":{{\"with_mask\":0.97,\"without_mask\":0.03}}}}"
            )
        );
        result.probabilities = None;
        result.track = Some(7);
        let json = serde_json::to_string(&FaceRecord::new(&result, &labels)).unwrap();
        assert!(
            json.contains("\"track\":7") && !json.contains("probabilities"),
            "{json}"
        );
        for (reason, name) in [
            (UnsureReason::TooSmall, "too_small"),
            (UnsureReason::LowScore, "low_score"),
            (UnsureReason::Unfamiliar, "unfamiliar"),
            (UnsureReason::Undecided, "undecided"),
            (UnsureReason::Overload, "overload"),
        ] {
            result.verdict = Verdict::Unsure(reason);
            let json = serde_json::to_string(&FaceRecord::new(&result, &labels)).unwrap();
            let expected = format!("\"verdict\":\"unsure\",\"unsure_reason\":\"{name}\"}}");
            assert!(json.ends_with(&expected), "{json}");
        }
    }

    const MASKED: Verdict = Verdict::Masked(0);
    const UNMASKED: Verdict = Verdict::Unmasked(1);
    const UNSURE: Verdict = Verdict::Unsure(UnsureReason::Undecided);

    fn with_verdicts(is_low: bool, verdict: Verdict, alone: Option<Verdict>) -> FaceResult {
        let face = Face {
            rect: Rect::default(),
            score: if is_low { 0.3 } else { 0.9 },
            landmarks: [(0.0, 0.0); 5],
            face_check: is_low.then_some(0.95),
        };
        FaceResult {
            face,
            track: Some(1),
            probabilities: None,
            verdict,
            verdict_alone: alone,
        }
    }

    #[test]
    fn only_faces_that_were_classified_anew_confirm_a_mask() {
        let high = |verdict, alone| with_verdicts(false, verdict, alone);
        let of = |faces: &[FaceResult]| (decision(faces), sighting(faces, true));
        let anew = high(MASKED, Some(MASKED));
        assert_eq!(of(&[]), (Decision::Idle, Sighting::Nobody));
        assert_eq!(
            of(&[anew.clone(), anew.clone()]),
            (Decision::Mask, Sighting::MaskedAnew)
        );
        let faces = [anew.clone()];
        assert_eq!(sighting(&faces, false), Sighting::Masked, "not detected");
        for alone in [None, Some(UNMASKED), Some(UNSURE)] {
            let faces = [anew.clone(), high(MASKED, alone)];
            assert_eq!(of(&faces), (Decision::Mask, Sighting::Masked), "{alone:?}");
        }
        let faces = [anew.clone(), high(UNSURE, Some(MASKED))];
        assert_eq!(of(&faces), (Decision::Unsure, Sighting::Other));
        let faces = [anew, high(UNMASKED, Some(MASKED))];
        assert_eq!(of(&faces), (Decision::NoMask, Sighting::Other));
    }

    #[test]
    fn a_face_of_low_score_never_confirms_a_mask_but_may_prevent_it() {
        let anew = with_verdicts(false, MASKED, Some(MASKED));
        let low = |verdict, alone| with_verdicts(true, verdict, alone);
        let of = |faces: &[FaceResult]| (decision(faces), sighting(faces, true));
        for alone in [None, Some(MASKED)] {
            let masked = low(MASKED, alone);
            let alone = [masked.clone()];
            assert_eq!(of(&alone), (Decision::Idle, Sighting::Nobody));
            let both = [anew.clone(), masked];
            assert_eq!(of(&both), (Decision::Mask, Sighting::MaskedAnew));
        }
        // The vote says masked, but the picture in this frame does not.
        for alone in [UNMASKED, UNSURE] {
            let doubtful = low(MASKED, Some(alone));
            assert_eq!(
                of(std::slice::from_ref(&doubtful)),
                (Decision::Idle, Sighting::Other)
            );
            let both = [anew.clone(), doubtful];
            assert_eq!(of(&both), (Decision::Mask, Sighting::Masked));
        }
        for (verdict, decision) in [(UNMASKED, Decision::NoMask), (UNSURE, Decision::Unsure)] {
            for alone in [None, Some(MASKED), Some(verdict)] {
                let faces = [anew.clone(), low(verdict, alone)];
                assert_eq!(of(&faces), (decision, Sighting::Other));
                assert_eq!(of(&faces[1..]), (decision, Sighting::Other));
            }
        }
    }
}
