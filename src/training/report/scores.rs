//! The scores of a classifier.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::vision::head::argmax;

/// Number of bins used by [`Report::calibration_error`].
pub const CALIBRATION_BINS: usize = 15;

/// The quantile of the standard normal distribution for a 95% interval.
const Z: f64 = 1.959_963_984_540_054;

/// The scores of a model on pictures whose classes are known.
///
/// In JSON, the format that `--report` writes, a report is one object with these
/// fields. Scores are between 0 and 1. `classes` is an object with one member per
/// class, keyed by name, in the order of `labels`.
///
/// ```
/// use maskd::training::report::Report;
/// let names = ["mask".to_owned(), "bare".to_owned()];
/// let probabilities = [0.9, 0.1, 0.4, 0.6, 0.7, 0.3, 0.2, 0.8];
/// let report = Report::new(&[0, 0, 0, 1], &probabilities, &names, None)?;
/// assert_eq!(report.accuracy, 0.75);
/// let json = serde_json::to_value(&report)?;
/// assert_eq!(json["classes"]["mask"]["precision"], 1.0);
/// assert_eq!(json["confusion"], serde_json::json!([[2, 1], [0, 1]]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Fraction of the pictures that are classified correctly, between 0 and 1.
    pub accuracy: f64,
    /// Lower and upper ends of the 95% confidence interval for the accuracy, between
    /// 0 and 1. See [`wilson`].
    pub interval: [f64; 2],
    /// Expected calibration error, between 0 (the probabilities equal the accuracy)
    /// and 1. See [`calibration_error`].
    pub calibration_error: f64,
    /// Names of the classes, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// Scores for each class, in the order of `labels`.
    pub classes: Vec<Scores>,
    /// Unweighted mean of the scores over the classes.
    pub macro_avg: Scores,
    /// Mean of the scores over the classes, weighted by support.
    pub weighted_avg: Scores,
    /// Number of pictures by true class (row) and predicted class (column), in the
    /// order of `labels`.
    pub confusion: Vec<Vec<usize>>,
}

/// Scores for one class, or their mean over all classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Of the pictures that are predicted as this class, the fraction that belongs to
    /// the class, between 0 and 1. The precision is 0 if no pictures are predicted as
    /// this class.
    pub precision: f64,
    /// Fraction of the pictures in this class that are predicted correctly, between
    /// 0 and 1. It is 0 if the class has no pictures.
    pub recall: f64,
    /// Harmonic mean of precision and recall, between 0 and 1. It is 0 if both of
    /// them are 0.
    pub f1: f64,
    /// Number of pictures in the class.
    pub support: usize,
}

/// The reason why the report could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// There are no pictures, or no classes.
    #[error("there are no pictures to evaluate on")]
    Empty,
    /// The lengths of the arguments do not match.
    #[error("{pictures} pictures of {classes} classes do not match {found} {what}")]
    Length {
        /// Number of pictures with a known class.
        pictures: usize,
        /// Number of classes.
        classes: usize,
        /// Number of values of the kind that `what` names.
        found: usize,
        /// "probabilities" or "predictions".
        what: &'static str,
    },
    /// There is no class with this index.
    #[error("there is no class {0}")]
    Class(usize),
    /// The picture with this index has a probability that is NaN or is not between 0 and
    /// 1.
    #[error("picture {0} has a probability that is not between 0 and 1")]
    Probability(usize),
    /// A threshold sweep needs two classes.
    #[error("a threshold sweep needs a model with two classes, but this one has {0}")]
    NotTwoClasses(usize),
}

impl Report {
    /// Computes the scores of predictions.
    ///
    /// `truth` is the true class of each picture, `probabilities` are the model's
    /// outputs, [pictures, classes] in row-major order, and `names` are the names of the
    /// classes. Pass `predicted` if the predicted class may differ from the class with
    /// the largest probability. The calibration is always computed from the
    /// probabilities.
    ///
    /// # Errors
    /// [`ReportError`] if there are no pictures or the arguments do not match.
    pub fn new(
        truth: &[usize],
        probabilities: &[f32],
        names: &[String],
        predicted: Option<&[usize]>,
    ) -> Result<Report, ReportError> {
        check(truth, probabilities, names.len())?;
        let largest = largest(probabilities, names.len());
        let predicted = match predicted {
            Some(predicted) => {
                check_length(
                    truth,
                    names.len(),
                    predicted.len(),
                    truth.len(),
                    "predictions",
                )?;
                check_classes(predicted, names.len())?;
                predicted.to_vec()
            }
            None => largest.iter().map(|&(class, _)| class).collect(),
        };

        let mut confusion = vec![vec![0; names.len()]; names.len()];
        for (&truth, &predicted) in truth.iter().zip(&predicted) {
            confusion[truth][predicted] += 1;
        }
        let classes: Vec<Scores> = (0..names.len())
            .map(|class| Scores::of(&confusion, class))
            .collect();
        let right = (0..names.len()).map(|class| confusion[class][class]).sum();
        let tops: Vec<(f64, bool)> = largest
            .iter()
            .zip(truth)
            .map(|(&(class, probability), &truth)| (probability, class == truth))
            .collect();
        Ok(Report {
            accuracy: right as f64 / truth.len() as f64,
            interval: wilson(right, truth.len()),
            calibration_error: calibration_error(&tops),
            labels: names.to_vec(),
            macro_avg: Scores::mean(&classes, |_| 1.0),
            weighted_avg: Scores::mean(&classes, |scores| scores.support as f64),
            classes,
            confusion,
        })
    }

    /// Formats the scores like scikit-learn's `classification_report` with two
    /// digits and `zero_division=0`.
    #[must_use]
    pub fn table(&self) -> String {
        let heading = "weighted avg";
        let names = self.labels.iter().map(String::as_str);
        let width = longest(names.chain([heading]));
        let line = |name: &str, scores: &Scores| {
            format!(
                "{name:>width$}  {:>9.2} {:>9.2} {:>9.2} {:>9}\n",
                scores.precision, scores.recall, scores.f1, scores.support
            )
        };
        let mut table = format!(
            "{:>width$}  {:>9} {:>9} {:>9} {:>9}\n\n",
            "", "precision", "recall", "f1-score", "support"
        );
        for (name, scores) in self.labels.iter().zip(&self.classes) {
            table += &line(name, scores);
        }
        let all = self.macro_avg.support;
        table += &format!(
            "\n{:>width$}  {:>9} {:>9} {:>9.2} {all:>9}\n",
            "accuracy", "", "", self.accuracy
        );
        table += &line("macro avg", &self.macro_avg);
        table += &line(heading, &self.weighted_avg);
        table
    }

    /// Formats the confusion matrix as text, with the names of the classes.
    #[must_use]
    pub fn confusion_table(&self) -> String {
        let corner = "true \\ predicted";
        let names = self.labels.iter().map(String::as_str);
        let first = longest(names.chain([corner]));
        let largest = self.confusion.iter().flatten().max().copied();
        let digits = largest.unwrap_or_default().to_string().len();
        let widths: Vec<usize> = self
            .labels
            .iter()
            .map(|name| name.chars().count().max(digits))
            .collect();
        let mut table = format!("{corner:>first$}");
        for (name, width) in self.labels.iter().zip(&widths) {
            table += &format!("  {name:>width$}");
        }
        table.push('\n');
        for (name, row) in self.labels.iter().zip(&self.confusion) {
            table += &format!("{name:>first$}");
            for (count, width) in row.iter().zip(&widths) {
                table += &format!("  {count:>width$}");
            }
            table.push('\n');
        }
        table
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let classes = Classes(self);
        let mut map = serializer.serialize_map(Some(8))?;
        map.serialize_entry("accuracy", &self.accuracy)?;
        map.serialize_entry("interval", &self.interval)?;
        map.serialize_entry("calibration_error", &self.calibration_error)?;
        map.serialize_entry("labels", &self.labels)?;
        map.serialize_entry("classes", &classes)?;
        map.serialize_entry("macro_avg", &self.macro_avg)?;
        map.serialize_entry("weighted_avg", &self.weighted_avg)?;
        map.serialize_entry("confusion", &self.confusion)?;
        map.end()
    }
}

/// The scores in a report, keyed by class name.
struct Classes<'a>(&'a Report);

impl Serialize for Classes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.labels.iter().zip(&self.0.classes))
    }
}

/// Formats the whole report as text.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = self.interval.map(|end| end * 100.0);
        writeln!(f, "{}", self.table())?;
        writeln!(f, "{}", self.confusion_table())?;
        writeln!(
            f,
            "accuracy {:.2}% (95% interval {low:.2} to {high:.2}%), calibration error {:.3}",
            self.accuracy * 100.0,
            self.calibration_error
        )
    }
}

impl Scores {
    fn of(confusion: &[Vec<usize>], class: usize) -> Scores {
        let right = confusion[class][class];
        let support: usize = confusion[class].iter().sum();
        let predicted: usize = confusion.iter().map(|row| row[class]).sum();
        Scores {
            precision: ratio(right as f64, predicted as f64),
            recall: ratio(right as f64, support as f64),
            f1: ratio(2.0 * right as f64, (support + predicted) as f64),
            support,
        }
    }

    fn mean(classes: &[Scores], weight: impl Fn(&Scores) -> f64) -> Scores {
        let all: f64 = classes.iter().map(&weight).sum();
        let mean = |score: fn(&Scores) -> f64| {
            let sum: f64 = classes.iter().map(|c| score(c) * weight(c)).sum();
            ratio(sum, all)
        };
        Scores {
            precision: mean(|scores| scores.precision),
            recall: mean(|scores| scores.recall),
            f1: mean(|scores| scores.f1),
            support: classes.iter().map(|scores| scores.support).sum(),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

fn longest<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0)
}

fn check(truth: &[usize], probabilities: &[f32], classes: usize) -> Result<(), ReportError> {
    if truth.is_empty() || classes == 0 {
        return Err(ReportError::Empty);
    }
    let (found, expected) = (probabilities.len(), truth.len() * classes);
    check_length(truth, classes, found, expected, "probabilities")?;
    check_classes(truth, classes)?;
    // The softmax of another runtime may be rounded to slightly more than 1.
    let rounded = -0.001..=1.001;
    match probabilities.iter().position(|p| !rounded.contains(p)) {
        Some(index) => Err(ReportError::Probability(index / classes)),
        None => Ok(()),
    }
}

fn check_length(
    truth: &[usize],
    classes: usize,
    found: usize,
    expected: usize,
    what: &'static str,
) -> Result<(), ReportError> {
    if found == expected {
        return Ok(());
    }
    Err(ReportError::Length {
        pictures: truth.len(),
        classes,
        found,
        what,
    })
}

pub(super) fn check_classes(given: &[usize], classes: usize) -> Result<(), ReportError> {
    match given.iter().find(|&&class| class >= classes) {
        Some(&class) => Err(ReportError::Class(class)),
        None => Ok(()),
    }
}

/// Returns the class with the largest probability for each picture, and that
/// probability. In a tie, the first class wins, as in numpy's `argmax`.
fn largest(probabilities: &[f32], classes: usize) -> Vec<(usize, f64)> {
    let largest = |row: &[f32]| {
        let class = argmax(row).unwrap_or_default();
        (class, f64::from(row[class]).clamp(0.0, 1.0))
    };
    probabilities.chunks_exact(classes).map(largest).collect()
}

/// Computes the 95% Wilson score interval for the proportion of `right` in `all`
/// (Wilson 1927, <https://doi.org/10.1080/01621459.1927.10502953>). Unlike the usual
/// interval of the mean ± 1.96 standard deviations, the Wilson interval remains valid
/// near 100% and for few pictures.
///
/// `right` must be at most `all`. If `all` is 0, the interval is [0, 1].
///
/// ```
/// let [low, high] = maskd::training::report::wilson(49, 50);
/// assert!((low - 0.895).abs() < 0.001 && (high - 0.996).abs() < 0.001);
/// ```
#[must_use]
pub fn wilson(right: usize, all: usize) -> [f64; 2] {
    if all == 0 {
        return [0.0, 1.0];
    }
    let n = all as f64;
    let share = right as f64 / n;
    let center = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let spread = (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let half = Z / (1.0 + Z * Z / n) * spread;
    // For a proportion of 0 or 1, one end is exactly 0 or 1, but the computed value
    // may differ because of rounding.
    let (low, high) = (center - half, center + half);
    [low.clamp(0.0, share), high.clamp(share, 1.0)]
}

/// Computes the expected calibration error (Guo et al. 2017, "On Calibration of
/// Modern Neural Networks", <https://arxiv.org/abs/1706.04599>, equation 3). The
/// pictures are sorted into [`CALIBRATION_BINS`] bins of equal width by their
/// largest probability. The error is the mean, over the pictures, of the absolute
/// difference between the mean probability and the accuracy in their bin.
///
/// For each picture, `tops` contains the largest probability, between 0 and 1, and
/// whether the predicted class is the true class.
#[must_use]
pub fn calibration_error(tops: &[(f64, bool)]) -> f64 {
    // Each bin holds the sum of the probabilities and the number of correct
    // pictures.
    let mut bins = [(0.0, 0.0); CALIBRATION_BINS];
    for &(probability, right) in tops {
        // The bins are (0, 1/15], (1/15, 2/15], ... as in the paper.
        let bin = (probability * CALIBRATION_BINS as f64).ceil() as usize;
        let (sum, hits) = &mut bins[bin.clamp(1, CALIBRATION_BINS) - 1];
        *sum += probability;
        *hits += f64::from(u8::from(right));
    }
    let off: f64 = bins.iter().map(|(sum, hits)| f64::abs(sum - hits)).sum();
    ratio(off, tops.len() as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    fn arguments_that_do_not_match_are_refused() {
        let two = names(2);
        let report = |truth: &[usize], probabilities: &[f32], predicted: Option<&[usize]>| {
            let report = Report::new(truth, probabilities, &two, predicted);
            report.unwrap_err().to_string()
        };
        assert_eq!(
            report(&[], &[], None),
            "there are no pictures to evaluate on"
        );
        assert_eq!(
            report(&[0, 1], &[0.5; 3], None),
            "2 pictures of 2 classes do not match 3 probabilities"
        );
        assert_eq!(
            report(&[0, 1], &[0.5; 4], Some(&[0])),
            "2 pictures of 2 classes do not match 1 predictions"
        );
        assert_eq!(report(&[2], &[0.5; 2], None), "there is no class 2");
        assert_eq!(report(&[0], &[0.5; 2], Some(&[7])), "there is no class 7");
        for odd in [f32::NAN, f32::INFINITY, -0.1, 1.1] {
            let error = report(&[0, 1], &[0.5, 0.5, odd, 0.5], None);
            assert!(error.starts_with("picture 1 has a probability"), "{error}");
        }
        assert!(Report::new(&[0], &[1.000_001, 0.0], &two, None).is_ok());
        assert_eq!(
            Report::new(&[0], &[], &[], None),
            Err(ReportError::Empty),
            "no classes"
        );
    }

    #[test]
    fn the_confusion_matrix_has_names_and_columns() {
        let names = ["with_mask".to_owned(), "bare".to_owned()];
        let report = Report::new(&[0, 0, 1], &[0.9, 0.1, 0.2, 0.8, 0.3, 0.7], &names, None);
        let report = report.unwrap();
        assert_eq!(
            report.confusion_table(),
            "true \\ predicted  with_mask  bare\n       \
             with_mask          1     1\n            \
             bare          0     1\n"
        );
        let text = report.to_string();
        assert!(text.starts_with(&report.table()));
        assert!(text.ends_with(
            "\naccuracy 66.67% (95% interval 20.77 to 93.85%), calibration error 0.400\n"
        ));
    }

    #[test]
    fn calibrated_probabilities_have_no_calibration_error() {
        let tops = [(0.75, true), (0.75, true), (0.75, true), (0.75, false)];
        assert_eq!(calibration_error(&tops), 0.0);
        assert_eq!(calibration_error(&[(1.0, false)]), 1.0);
        assert_eq!(calibration_error(&[(0.0, true)]), 1.0);
        assert_eq!(calibration_error(&[]), 0.0);
    }

    proptest! {
        #[test]
        fn reports_are_consistent(
            classes in 2_usize..5,
            rows in prop::collection::vec((0_usize..100, prop::collection::vec(0.0_f32..=1.0, 5)), 1..60),
        ) {
            let truth: Vec<usize> = rows.iter().map(|(class, _)| class % classes).collect();
            let probabilities: Vec<f32> = rows.iter().flat_map(|(_, row)| row[..classes].to_vec()).collect();
            let report = Report::new(&truth, &probabilities, &names(classes), None).unwrap();
            let [low, high] = report.interval;
            prop_assert!(0.0 <= low && low <= report.accuracy);
            prop_assert!(report.accuracy <= high && high <= 1.0);
            prop_assert!((0.0..=1.0).contains(&report.calibration_error));
            prop_assert_eq!(report.confusion.iter().flatten().sum::<usize>(), truth.len());
            for (row, scores) in report.confusion.iter().zip(&report.classes) {
                prop_assert_eq!(row.iter().sum::<usize>(), scores.support);
                prop_assert!((0.0..=1.0).contains(&scores.f1));
            }
            prop_assert!((report.weighted_avg.recall - report.accuracy).abs() < 1e-12);
            prop_assert_eq!(report.macro_avg.support, truth.len());
        }

        #[test]
        fn intervals_narrow_with_more_pictures(right in 0_usize..100, more in 0_usize..100) {
            let all = right + more;
            let [low, high] = wilson(right, all);
            let [lower, higher] = wilson(right * 4, all * 4);
            prop_assert!(all == 0 || higher - lower < high - low);
        }
    }
}
