//! Averages the logits of several heads into one head.

use super::TrainError;
use crate::onnx::HeadTensors;

/// Returns the head whose logits are the mean of the logits of `heads`. Its hidden layer has
/// the units of all of them.
///
/// # Errors
/// [`TrainError::Tensors`] if there are no heads, or if they do not have the same number of
/// features and classes.
pub fn average_logits(heads: &[HeadTensors]) -> Result<HeadTensors, TrainError> {
    let first = heads
        .first()
        .ok_or_else(|| TrainError::Tensors("there are no heads".to_owned()))?;
    let classes = first.b2.len();
    let matches = |head: &HeadTensors| {
        head.features() == first.features()
            && head.b2.len() == classes
            && head.w2.len() == classes * head.b1.len()
    };
    if !heads.iter().all(matches) {
        let sentence = "the heads differ in their numbers of features or classes";
        return Err(TrainError::Tensors(sentence.to_owned()));
    }
    let share = 1.0 / heads.len() as f32;
    let mut average = HeadTensors {
        w1: Vec::new(),
        b1: Vec::new(),
        w2: Vec::new(),
        b2: vec![0.0; classes],
    };
    for head in heads {
        average.w1.extend_from_slice(&head.w1);
        average.b1.extend_from_slice(&head.b1);
        for (sum, bias) in average.b2.iter_mut().zip(&head.b2) {
            *sum += bias * share;
        }
    }
    for class in 0..classes {
        for head in heads {
            let hidden = head.b1.len();
            let row = &head.w2[class * hidden..(class + 1) * hidden];
            average.w2.extend(row.iter().map(|weight| weight * share));
        }
    }
    Ok(average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::HeadFile;
    use crate::vision::head::Head;

    /// A head with different weights for each seed.
    fn head(seed: usize, features: usize, hidden: usize, classes: usize) -> HeadTensors {
        let values = |count: usize, from: usize| {
            let value = |index| (((index + from) * 37 + seed * 101) % 41) as f32 / 20.0 - 1.0;
            (0..count).map(value).collect::<Vec<f32>>()
        };
        HeadTensors {
            w1: values(features * hidden, 1),
            b1: values(hidden, 2),
            w2: values(hidden * classes, 3),
            b2: values(classes, 4),
        }
    }

    fn logits(head: HeadTensors, feature: &[f32]) -> Vec<f32> {
        let labels = (0..head.b2.len()).map(|class| class.to_string());
        let head = Head::from_file(HeadFile {
            backbone_sha256: [0; 32],
            labels: labels.collect(),
            head,
        });
        let probabilities = head.probabilities_of(feature);
        probabilities.iter().map(|value| value.ln()).collect()
    }

    #[test]
    fn the_logits_are_the_mean() {
        let feature = [0.3, 1.2, 0.0, 2.5];
        let heads = [head(1, 4, 3, 2), head(2, 4, 5, 2), head(3, 4, 2, 2)];
        let average = average_logits(&heads).unwrap();
        assert_eq!(average.b1.len(), 10);
        // With two classes, the difference of the logits is that of the logarithms.
        let margin = |head: &HeadTensors| {
            let logits = logits(head.clone(), &feature);
            logits[0] - logits[1]
        };
        let mean = heads.iter().map(margin).sum::<f32>() / 3.0;
        assert!((margin(&average) - mean).abs() < 1e-5, "{mean}");
        assert_ne!(margin(&heads[0]), margin(&heads[1]));
    }

    #[test]
    fn one_head_stays_as_it_is() {
        let one = head(7, 6, 4, 3);
        assert_eq!(average_logits(std::slice::from_ref(&one)).unwrap(), one);
    }

    #[test]
    fn heads_that_differ_in_shape_are_refused() {
        for other in [head(2, 5, 3, 2), head(2, 4, 3, 3)] {
            let heads = [head(1, 4, 3, 2), other];
            let error = average_logits(&heads).unwrap_err();
            assert!(matches!(error, TrainError::Tensors(_)), "{error}");
        }
        assert!(average_logits(&[]).is_err());
    }
}
