//! The face check, which tells from the features of a crop whether the crop shows a face.
//!
//! Owns which boxes of the detector need this second opinion, and the check itself. The
//! detector gives low scores to some faces, such as masked faces that are tilted back, and
//! also to boxes that show no face. The face check separates the two. It belongs to the
//! backbone, so that training another head does not change it. Knows nothing about masks.

use crate::frame::Face;
use crate::onnx::FaceCheckTensors;
use crate::vision::embed::Feature;
use crate::vision::head::dot;

/// Options for boxes that the detector scores low.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceCheckOptions {
    /// Minimum score of a box, between 0 and 1. If it is not below the detector's threshold,
    /// no box gets a second opinion.
    pub low_threshold: f32,
    /// The verdict on a face with a lower score depends on the face check.
    pub certain_from: f32,
    /// The face check accepts a box if its probability of a face is at least this value.
    pub min_probability: f32,
    /// Minimum length of the shorter side of a box in pixels of the frame.
    pub min_side: f32,
}

/// Maximum number of boxes that [`Pipeline::recognize`] checks in a frame. The boxes with
/// the best scores are checked.
///
/// [`Pipeline::recognize`]: crate::vision::pipeline::Pipeline::recognize
pub const MAX_CANDIDATES: usize = 3;

/// A box belongs to a face with a better score if this fraction of the smaller box is
/// inside the larger box.
const SAME_PLACE: f32 = 0.4;

/// The boxes that the detector found in a frame, each list with the best score first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detections {
    /// The boxes that are faces because of their scores.
    pub faces: Vec<Face>,
    /// The boxes with lower scores. Such a box is a face only if the face check accepts it.
    pub candidates: Vec<Face>,
}

impl Detections {
    /// Separates the faces, which have at least the score `threshold`, from the candidates.
    /// `found` are all boxes, with the best score first. Without options, there are no
    /// candidates.
    pub(crate) fn new(
        mut found: Vec<Face>,
        threshold: f32,
        options: Option<&FaceCheckOptions>,
    ) -> Detections {
        let faces = found.partition_point(|face| face.score >= threshold);
        let mut candidates = found.split_off(faces);
        match options {
            Some(options) => candidates.retain(|candidate| {
                let is_free = |face: &Face| !is_same_place(face, candidate);
                candidate.rect.short_side() >= options.min_side && found.iter().all(is_free)
            }),
            None => candidates.clear(),
        }
        Detections {
            faces: found,
            candidates,
        }
    }

    /// Returns the faces and after them the candidates with the best scores, of which
    /// [`Pipeline::recognize`] checks up to [`MAX_CANDIDATES`].
    ///
    /// [`Pipeline::recognize`]: crate::vision::pipeline::Pipeline::recognize
    pub(crate) fn in_one_picture(self) -> Vec<Face> {
        let Detections {
            mut faces,
            candidates,
        } = self;
        faces.extend(candidates.into_iter().take(MAX_CANDIDATES));
        faces
    }
}

/// Whether two boxes overlap so much that they cannot be two faces. In contrast to the
/// intersection over union, this measure does not depend on the sizes of the boxes. The
/// detector often finds a part of a face, or a face with the body, with a low score.
#[must_use]
pub fn is_same_place(a: &Face, b: &Face) -> bool {
    let smaller = a.rect.area().min(b.rect.area());
    a.rect.intersection(&b.rect) >= SAME_PLACE * smaller
}

/// The opinion of the face check on a crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceOpinion {
    /// The probability that the crop shows a face, between 0 and 1.
    pub probability: f32,
    /// Whether the probability is high enough.
    pub is_face: bool,
}

/// A logistic regression on the features of a crop.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceCheck {
    tensors: FaceCheckTensors,
    options: FaceCheckOptions,
}

impl FaceCheck {
    /// Creates the face check from the weights in a classifier file, whose shapes were
    /// checked when the file was parsed.
    #[must_use]
    pub fn new(tensors: FaceCheckTensors, options: FaceCheckOptions) -> FaceCheck {
        FaceCheck { tensors, options }
    }

    /// The options of the check.
    #[must_use]
    pub fn options(&self) -> &FaceCheckOptions {
        &self.options
    }

    /// Computes the opinion on the crop with this feature vector.
    #[must_use]
    pub fn opinion(&self, feature: &Feature) -> FaceOpinion {
        let logit = dot(&self.tensors.weight, feature.values()) + self.tensors.bias;
        let probability = 1.0 / (1.0 + (-logit).exp());
        FaceOpinion {
            probability,
            is_face: probability >= self.options.min_probability,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Rect;
    use crate::onnx::FEATURES;

    const OPTIONS: FaceCheckOptions = FaceCheckOptions {
        low_threshold: 0.2,
        certain_from: 0.55,
        min_probability: 0.5,
        min_side: 24.0,
    };

    fn face([x, y, width, height]: [f32; 4], score: f32) -> Face {
        Face {
            rect: Rect {
                x,
                y,
                width,
                height,
            },
            score,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        }
    }

    #[test]
    fn boxes_of_low_score_are_candidates_unless_they_are_small_or_a_part_of_a_face() {
        let clear = face([0.0, 0.0, 100.0, 100.0], 0.9);
        let at_threshold = face([500.0, 0.0, 20.0, 20.0], 0.52);
        let apart = face([200.0, 0.0, 40.0, 40.0], 0.51);
        // The intersection over union with the face is only 0.16.
        let inside = face([30.0, 30.0, 40.0, 40.0], 0.5);
        let around = face([450.0, 0.0, 150.0, 150.0], 0.4);
        let partly_inside = face([85.0, 0.0, 40.0, 40.0], 0.3);
        let small = face([300.0, 0.0, 23.9, 40.0], 0.3);
        let found = vec![
            clear,
            at_threshold,
            apart,
            inside,
            around,
            partly_inside,
            small,
        ];
        let detections = Detections::new(found.clone(), 0.52, Some(&OPTIONS));
        assert_eq!(detections.faces, [clear, at_threshold]);
        assert_eq!(detections.candidates, [apart, partly_inside]);
        let without = Detections::new(found, 0.52, None);
        assert_eq!(without.faces, [clear, at_threshold]);
        assert_eq!(without.candidates, []);
    }

    #[test]
    fn only_the_candidates_with_the_best_scores_are_checked_in_one_picture() {
        let at = |x: f32, score| face([x, 0.0, 40.0, 40.0], score);
        let candidates = [
            (0.0, 0.9),
            (100.0, 0.5),
            (200.0, 0.4),
            (300.0, 0.3),
            (400.0, 0.2),
        ];
        let found = candidates.map(|(x, score)| at(x, score)).to_vec();
        let checked = Detections::new(found.clone(), 0.52, Some(&OPTIONS)).in_one_picture();
        assert_eq!(checked, found[..4]);
    }

    #[test]
    fn the_opinion_is_a_logistic_regression() {
        let mut weight = vec![0.0; FEATURES];
        (weight[0], weight[FEATURES - 1]) = (2.0, -1.0);
        let check = FaceCheck::new(FaceCheckTensors { weight, bias: 0.5 }, OPTIONS);
        let opinion = |first: f32, last: f32| {
            let mut feature = Box::new([0.0; FEATURES]);
            (feature[0], feature[FEATURES - 1]) = (first, last);
            check.opinion(&feature.into())
        };
        // The logits are 0.5, 0, and -0.5.
        assert!((opinion(0.0, 0.0).probability - 0.622_459_3).abs() < 1e-6);
        assert!(opinion(0.0, 0.5).is_face, "it is exactly the limit");
        let below = opinion(0.0, 1.0);
        assert!((below.probability - 0.377_540_7).abs() < 1e-6 && !below.is_face);
        assert_eq!(opinion(1e4, 0.0).probability, 1.0);
        assert_eq!(opinion(0.0, 1e4).probability, 0.0);
    }
}
