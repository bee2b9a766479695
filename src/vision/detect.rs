//! The face detector, YuNet, which finds the faces in a frame.
//!
//! This module owns the detector's input layout, decodes its outputs, and applies
//! non-maximum suppression. The weights come from `ShiqiYu/libfacedetection`; see
//! `models/README.md` for their exact source.

use std::collections::VecDeque;

use image::RgbImage;

use crate::frame::{Face, Rect, Scaler};
use crate::onnx::{
    self, DETECTOR_CHANNELS, DETECTOR_STRIDES, Graph, ModelError, Runner, ThreadPool,
};

/// A detection whose IoU with a better detection exceeds this value is the same face.
const NMS_IOU: f32 = 0.45;

/// Maximum number of detections that are passed to non-maximum suppression. If there
/// are more, only the detections with the best scores are used.
const MAX_DETECTIONS: usize = 1000;

/// The width and height of the network's input must be multiples of its largest stride.
const ALIGN: u32 = 32;

/// Maximum number of input sizes whose plans are cached. All frames from a camera have
/// the same size, but the pictures in a folder may have many sizes. Making a plan takes
/// about as long as running the plan.
const MAX_CACHED_PLANS: usize = 8;

/// Indices of the channels of a detector output.
mod channel {
    pub const CLASS: usize = 0;
    pub const OBJECT: usize = 1;
    pub const BOX: usize = 2;
    pub const LANDMARKS: usize = 6;
}

/// Options of the face detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectorOptions {
    /// The frame is scaled down until its longest side has this many pixels. A smaller
    /// frame is never scaled up.
    pub side: u32,
    /// Minimum score of a detection, between 0 and 1. Detections with a lower score are
    /// discarded.
    pub threshold: f32,
}

/// Detects faces in frames. Each thread needs its own detector.
#[derive(Debug)]
pub struct Detector {
    graph: Graph,
    options: DetectorOptions,
    scaler: Scaler,
    pool: ThreadPool,
    /// Cached runners with their input sizes (width, height), from the least recently
    /// used to the most recently used.
    runners: VecDeque<((u32, u32), Runner)>,
}

impl Detector {
    /// Loads a detector from the bytes of an ONNX file. `name` is the name of the file in
    /// error messages. The threads in `pool` share the work of each run.
    ///
    /// # Errors
    /// [`ModelError`] if the file is not a detector, or if the model does not run.
    pub fn new(
        name: &str,
        model: &[u8],
        options: DetectorOptions,
        pool: ThreadPool,
    ) -> Result<Detector, ModelError> {
        let graph = onnx::parse_detector(name, model)?;
        let mut detector = Detector {
            graph,
            options,
            scaler: Scaler::default(),
            pool,
            runners: VecDeque::new(),
        };
        // Create the first runner now, so that a model that cannot run fails here rather
        // than at the first frame. Most cameras have an aspect ratio of 4:3.
        let side = aligned(options.side);
        let size = (side, aligned(options.side * 3 / 4));
        runner(&detector.graph, &mut detector.runners, size)?;
        Ok(detector)
    }

    /// Detects the faces in a frame and returns them with the best score first.
    ///
    /// # Errors
    /// [`DetectError`] if the model fails or the frame is empty.
    pub fn detect(&mut self, pixels: &RgbImage) -> Result<Vec<Face>, DetectError> {
        let small = self.scaler.shrink(pixels, self.options.side)?;
        let (width, height) = small.dimensions();
        // A tall frame is padded with zeros on the right until it is square. Without the
        // padding, the detector found a false face in one more of 40 photographs.
        let size = (aligned(width.max(height)), aligned(height));
        let threshold = self.options.threshold;
        let runner = runner(&self.graph, &mut self.runners, size)?;
        let outputs = runner.run(&self.pool, |input| fill_bgr(input, small, size))?;
        let mut detections = Vec::new();
        for (index, stride) in DETECTOR_STRIDES.into_iter().enumerate() {
            let columns = size.0 as usize / stride;
            decode(
                &outputs.get(index)?,
                columns,
                stride as f32,
                threshold,
                &mut detections,
            );
        }
        let scale = (
            pixels.width() as f32 / width as f32,
            pixels.height() as f32 / height as f32,
        );
        let mut faces = suppress(detections);
        for face in &mut faces {
            scale_to_frame(face, scale);
        }
        // Detections in the padding are not faces.
        let (width, height) = pixels.dimensions();
        faces.retain(|face| face.rect.region(0.0, width, height).is_some());
        Ok(faces)
    }
}

/// Returns the cached runner for an input of `size` = (width, height), or creates a
/// runner if the cache has none for this size.
fn runner<'a>(
    graph: &Graph,
    runners: &'a mut VecDeque<((u32, u32), Runner)>,
    size: (u32, u32),
) -> Result<&'a mut Runner, ModelError> {
    let known = runners.iter().position(|(known, _)| *known == size);
    if let Some(used) = known.and_then(|index| runners.remove(index)) {
        runners.push_back(used);
    } else {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let shapes =
            DETECTOR_STRIDES.map(|stride| [1, DETECTOR_CHANNELS, height / stride, width / stride]);
        let shapes = shapes.each_ref().map(|shape| &shape[..]);
        let runner = graph
            .clone()
            .into_plan([1, 3, height, width], shapes)?
            .runner()?;
        if runners.len() == MAX_CACHED_PLANS {
            runners.pop_front();
        }
        runners.push_back((size, runner));
    }
    // The runner at the front was used least recently, so it is evicted first.
    let newest = runners.len() - 1;
    Ok(&mut runners[newest].1)
}

/// The reason the detector could not process a frame.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The frame cannot be scaled.
    #[error(transparent)]
    Picture(#[from] crate::frame::PictureError),
}

fn aligned(length: u32) -> u32 {
    length.max(1).next_multiple_of(ALIGN)
}

/// Writes the input as planar BGR `[3, height, width]` with values between 0 and 255. The
/// picture is at the top left; the areas to its right and below it remain zero.
fn fill_bgr(input: &mut [f32], pixels: &RgbImage, size: (u32, u32)) {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (blue, rest) = input.split_at_mut(width * height);
    let (green, red) = rest.split_at_mut(width * height);
    for (y, row) in pixels.rows().enumerate() {
        let start = y * width;
        for (x, pixel) in row.enumerate() {
            let [r, g, b] = pixel.0;
            blue[start + x] = f32::from(b);
            green[start + x] = f32::from(g);
            red[start + x] = f32::from(r);
        }
    }
}

/// Decodes one output of shape `[1, 16, rows, columns]`. The prior of a cell is its
/// top-left corner; other detectors add an offset of half a cell.
fn decode(output: &[f32], columns: usize, stride: f32, threshold: f32, detections: &mut Vec<Face>) {
    let cells = output.len() / DETECTOR_CHANNELS;
    let value = |channel: usize, cell: usize| output[channel * cells + cell];
    for cell in 0..cells {
        let class = sigmoid(value(channel::CLASS, cell));
        let object = sigmoid(value(channel::OBJECT, cell));
        let score = (class * object).sqrt();
        if score < threshold {
            continue;
        }
        let column = (cell % columns) as f32;
        let row = (cell / columns) as f32;
        let center_x = (column + value(channel::BOX, cell)) * stride;
        let center_y = (row + value(channel::BOX + 1, cell)) * stride;
        let width = value(channel::BOX + 2, cell).exp() * stride;
        let height = value(channel::BOX + 3, cell).exp() * stride;
        let rect = Rect {
            x: center_x - width / 2.0,
            y: center_y - height / 2.0,
            width,
            height,
        };
        // A damaged model can output any number, so boxes that are not finite are
        // discarded.
        if ![rect.x, rect.y, width, height, score]
            .iter()
            .all(|number| number.is_finite())
        {
            continue;
        }
        let landmarks = std::array::from_fn(|point| {
            let x = value(channel::LANDMARKS + 2 * point, cell);
            let y = value(channel::LANDMARKS + 2 * point + 1, cell);
            ((column + x) * stride, (row + y) * stride)
        });
        detections.push(Face {
            rect,
            score,
            landmarks,
            face_check: None,
        });
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Greedy non-maximum suppression, best score first.
fn suppress(mut detections: Vec<Face>) -> Vec<Face> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    detections.truncate(MAX_DETECTIONS);
    let mut kept: Vec<Face> = Vec::new();
    for face in detections {
        if kept
            .iter()
            .all(|better| better.rect.iou(&face.rect) <= NMS_IOU)
        {
            kept.push(face);
        }
    }
    kept
}

/// Scales a face from pixels of the network's input to pixels of the frame.
fn scale_to_frame(face: &mut Face, (x, y): (f32, f32)) {
    face.rect.x *= x;
    face.rect.width *= x;
    face.rect.y *= y;
    face.rect.height *= y;
    for landmark in &mut face.landmarks {
        landmark.0 *= x;
        landmark.1 *= y;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn face(x: f32, score: f32) -> Face {
        let rect = Rect {
            x,
            y: 0.0,
            width: 10.0,
            height: 10.0,
        };
        Face {
            rect,
            score,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        }
    }

    #[test]
    fn decodes_a_cell_without_half_a_cell() {
        // There are 2 x 2 cells with a stride of 8. Only the score of cell 3 is not near 0.
        let mut output = vec![-20.0; DETECTOR_CHANNELS * 4];
        let mut set = |channel: usize, value: f32| output[channel * 4 + 3] = value;
        set(channel::CLASS, 20.0);
        set(channel::OBJECT, 20.0);
        set(channel::BOX, 0.25);
        set(channel::BOX + 1, 0.5);
        set(channel::BOX + 2, 0.0);
        set(channel::BOX + 3, 2.0_f32.ln());
        set(channel::LANDMARKS, 0.5);
        set(channel::LANDMARKS + 1, -0.5);
        let mut detections = Vec::new();
        decode(&output, 2, 8.0, 0.5, &mut detections);
        let [found] = detections.as_slice() else {
            panic!("{detections:?}")
        };
        // The center is at (1.25, 1.5) cells = (10, 12) px, and the size is 8 x 16 px.
        assert_eq!(
            found.rect,
            Rect {
                x: 6.0,
                y: 4.0,
                width: 8.0,
                height: 16.0
            }
        );
        assert_eq!(found.landmarks[0], (12.0, 4.0));
        assert!(found.score > 0.99);
    }

    #[test]
    fn suppression_keeps_the_better_of_two_detections_of_one_face() {
        let kept = suppress(vec![face(1.0, 0.6), face(0.0, 0.9), face(30.0, 0.7)]);
        let scores: Vec<f32> = kept.iter().map(|face| face.score).collect();
        assert_eq!(scores, [0.9, 0.7]);
    }

    #[test]
    fn input_is_bgr_at_the_top_left_of_zeros() {
        let pixels = RgbImage::from_pixel(1, 1, image::Rgb([1, 2, 3]));
        let mut input = vec![0.0; 3 * 4];
        fill_bgr(&mut input, &pixels, (2, 2));
        assert_eq!(
            input,
            [3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
        );
    }

    proptest! {
        #[test]
        fn what_is_kept_does_not_overlap(boxes in prop::collection::vec(
            (0.0_f32..100.0, 0.0_f32..100.0, 1.0_f32..50.0, 1.0_f32..50.0, 0.0_f32..1.0), 0..40)
        ) {
            let detections: Vec<Face> = boxes.iter().map(|&(x, y, width, height, score)| Face {
                rect: Rect { x, y, width, height }, score, landmarks: [(0.0, 0.0); 5], face_check: None,
            }).collect();
            let best = detections.iter().map(|face| face.score).fold(f32::MIN, f32::max);
            let kept = suppress(detections);
            for (index, face) in kept.iter().enumerate() {
                for other in &kept[..index] {
                    prop_assert!(face.rect.iou(&other.rect) <= NMS_IOU);
                    prop_assert!(face.score <= other.score);
                }
            }
            if let Some(first) = kept.first() {
                prop_assert_eq!(first.score, best);
            }
        }

        #[test]
        fn any_output_decodes_to_finite_boxes(values in prop::collection::vec(
            prop_oneof![any::<f32>(), -3.0_f32..3.0], DETECTOR_CHANNELS * 6)
        ) {
            let mut detections = Vec::new();
            decode(&values, 3, 8.0, 0.0, &mut detections);
            for face in detections {
                prop_assert!(face.rect.area() >= 0.0);
                prop_assert!((0.0..=1.0).contains(&face.score));
            }
        }
    }
}
