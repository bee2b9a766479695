//! The result of one frame, which consists of its faces and their verdicts.
//!
//! Owns the JSON format of a face, which `classify`, `run` and the daemon's APIs share.
//! Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::decision::confirm::Evidence;
use crate::decision::decide::{Decision, Observation, Verdict};
use crate::frame::Face;

/// A face in a frame and the verdict on it.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceResult {
    /// The face's position, score and landmarks.
    pub face: Face,
    /// The id of the face's track, or `None` for a single picture.
    pub track: Option<u64>,
    /// The probability of each label, or `None` if the face was not classified.
    pub probabilities: Option<Vec<f32>>,
    /// The verdict on the face.
    pub verdict: Verdict,
}

/// The faces in one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameResult {
    /// Number of the frame since the start.
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
        let verdicts: Vec<Verdict> = self.faces.iter().map(|face| face.verdict).collect();
        Decision::of_frame(&verdicts)
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
    /// The probability of each label. Absent if the face was not classified.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, f64>>)]
    pub probabilities: Option<Probabilities>,
}

impl FaceRecord {
    /// Creates the record of a face. `labels` are the labels of its probabilities, in the
    /// same order.
    #[must_use]
    pub fn new(result: &FaceResult, labels: &[String]) -> FaceRecord {
        let FaceResult {
            face,
            track,
            probabilities,
            verdict,
        } = result;
        let rect = [face.rect.x, face.rect.y, face.rect.width, face.rect.height];
        FaceRecord {
            rect: rect.map(|length| round(length, 10.0)),
            score: round(face.score, 1e4),
            landmarks: face
                .landmarks
                .map(|(x, y)| [round(x, 10.0), round(y, 10.0)]),
            track: *track,
            verdict: verdict.name(labels).to_owned(),
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

/// The probability of each label, between 0 and 1. It is serialized as a JSON object in
/// the order of the head's labels.
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
        };
        let labels = ["with_mask".to_owned(), "without_mask".to_owned()];
        let mut result = FaceResult {
            face,
            track: None,
            probabilities: Some(vec![0.97, 0.03]),
            verdict: Verdict::Masked(0),
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
    }
}
