//! The scores of a two-class classifier at various thresholds.

use serde::Serialize;

use super::scores::{Report, ReportError, check_classes};

/// The scores at one threshold, which form a row in the result of [`threshold_sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SweepRow {
    /// A picture counts as the class if the probability of the class is at least this
    /// threshold.
    pub threshold: f32,
    /// Fraction of the pictures that are classified correctly, between 0 and 1.
    pub accuracy: f64,
    /// Recall for each class, between 0 and 1, in the order of the model's outputs.
    pub recall: [f64; 2],
}

/// Computes the scores of a two-class model for several thresholds on the probability of
/// `class` (0 or 1). Pictures with at least that probability count as `class`, and all
/// others count as the other class. `probabilities` are [pictures, 2] in row-major order.
///
/// # Errors
/// [`ReportError::NotTwoClasses`], or any error of [`Report::new`].
pub fn threshold_sweep(
    truth: &[usize],
    probabilities: &[f32],
    names: &[String],
    class: usize,
    thresholds: &[f32],
) -> Result<Vec<SweepRow>, ReportError> {
    if names.len() != 2 {
        return Err(ReportError::NotTwoClasses(names.len()));
    }
    check_classes(&[class], 2)?;
    thresholds
        .iter()
        .map(|&threshold| {
            let is_class = |row: &[f32]| row[class] >= threshold;
            let predicted: Vec<usize> = probabilities
                .chunks(2)
                .map(|row| {
                    let whole = row.len() == 2;
                    if whole && is_class(row) {
                        class
                    } else {
                        1 - class
                    }
                })
                .collect();
            let report = Report::new(truth, probabilities, names, Some(&predicted))?;
            Ok(SweepRow {
                threshold,
                accuracy: report.accuracy,
                recall: [report.classes[0].recall, report.classes[1].recall],
            })
        })
        .collect()
}

/// Formats a sweep as text, with the threshold, the accuracy, and the recall of each
/// class in percent. `names` are the names of the two classes.
#[must_use]
pub fn sweep_table(names: &[String], rows: &[SweepRow]) -> String {
    let headings: Vec<String> = names.iter().map(|name| format!("recall {name}")).collect();
    let mut table = "threshold  accuracy".to_owned();
    for heading in &headings {
        table += &format!("  {heading}");
    }
    table.push('\n');
    for row in rows {
        table += &format!("{:>9.2}  {:>7.2}%", row.threshold, row.accuracy * 100.0);
        for (heading, recall) in headings.iter().zip(row.recall) {
            let width = heading.chars().count() - 1;
            table += &format!("  {:>width$.2}%", recall * 100.0);
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    #[test]
    fn a_sweep_moves_faces_from_one_class_to_the_other() {
        let (three, names) = (names(3), names(2));
        let probabilities = [0.9, 0.1, 0.75, 0.25, 0.6, 0.4, 0.2, 0.8];
        let sweep = |class, thresholds: &[f32]| {
            threshold_sweep(&[0, 0, 1, 1], &probabilities, &names, class, thresholds)
        };
        let rows = sweep(0, &[0.0, 0.5, 0.75, 0.8, 1.0]).unwrap();
        let recalls: Vec<[f64; 2]> = rows.iter().map(|row| row.recall).collect();
        assert_eq!(
            recalls,
            [[1.0, 0.0], [1.0, 0.5], [1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]
        );
        assert_eq!(rows[1].accuracy, 0.75);
        assert_eq!(sweep(1, &[0.3]).unwrap()[0].recall, [1.0, 1.0]);
        assert_eq!(
            sweep_table(&names, &rows[1..3]),
            "threshold  accuracy  recall class 0  recall class 1\n     \
             0.50    75.00%         100.00%          50.00%\n     \
             0.75   100.00%         100.00%         100.00%\n"
        );
        assert_eq!(sweep(2, &[0.5]), Err(ReportError::Class(2)));
        let short = threshold_sweep(&[0, 1], &[0.5; 3], &names, 0, &[0.5]);
        assert!(matches!(short, Err(ReportError::Length { found: 3, .. })));
        let three = threshold_sweep(&[0], &[0.3; 3], &three, 0, &[0.5]);
        assert_eq!(three, Err(ReportError::NotTwoClasses(3)));
    }
}
