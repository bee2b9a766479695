//! What is told about a model and its training: scores, confusion,
//! calibration, and the plot of its history.
//!
//! Owns the definitions of the scores, the layout of the report, its JSON
//! contract and the look of the plot. Pure: it knows no models, pictures or
//! files; numbers come in, text and the bytes of a picture come out.

use std::error::Error;
use std::fmt;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage, imageops};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::vision::head::argmax;

/// Bins of [`Report::calibration_error`].
pub const CALIBRATION_BINS: usize = 15;

/// The standard normal quantile of a 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

/// How a model did on pictures whose classes are known.
///
/// As JSON (the contract of `--report`): one object with these fields, the
/// scores as numbers from 0 to 1; `classes` is an object with one member a
/// class, by name, in the order of `labels`.
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
    /// Share of the pictures that were told right, 0 to 1.
    pub accuracy: f64,
    /// The 95 % interval of the accuracy, low and high end, 0 to 1; see
    /// [`wilson`].
    pub interval: [f64; 2],
    /// Expected calibration error, 0 (probabilities mean what they say) to 1;
    /// see [`calibration_error`].
    pub calibration_error: f64,
    /// Names of the classes, in the model's order.
    pub labels: Vec<String>,
    /// Scores of each class, in the order of `labels`.
    pub classes: Vec<Scores>,
    /// Mean of the scores over the classes, each counted alike.
    pub macro_avg: Scores,
    /// Mean of the scores over the classes, weighted by their support.
    pub weighted_avg: Scores,
    /// Pictures by true class (row) and predicted class (column), in the order
    /// of `labels`.
    pub confusion: Vec<Vec<usize>>,
}

/// Scores of a class, or means of those of all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Share of the pictures predicted to be of the class that are, 0 to 1; 0
    /// if there are none.
    pub precision: f64,
    /// Share of the pictures of the class that are predicted to be, 0 to 1; 0
    /// if there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall, 0 to 1; 0 if both are.
    pub f1: f64,
    /// Pictures of the class.
    pub support: usize,
}

/// Why there is nothing to report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// No pictures, or no classes.
    #[error("there are no pictures to judge by")]
    Empty,
    /// Lengths that do not belong together.
    #[error("{pictures} pictures of {classes} classes do not go with {found} {what}")]
    Length {
        /// Pictures with a known class.
        pictures: usize,
        /// Classes.
        classes: usize,
        /// How many there are of `what`.
        found: usize,
        /// Probabilities or predictions.
        what: &'static str,
    },
    /// A class that has no name.
    #[error("there is no class {0}")]
    Class(usize),
    /// Not a number, or not from 0 to 1.
    #[error("picture {0} has a probability that is not from 0 to 1")]
    Probability(usize),
    /// A sweep of thresholds divides two classes.
    #[error("thresholds can be tried for two classes, this model has {0}")]
    NotTwoClasses(usize),
}

impl Report {
    /// Judges predictions.
    ///
    /// `truth` is the class of each picture, `probabilities` what the model
    /// said, [pictures, classes] row by row, and `names` are those of the
    /// classes. `predicted` is for those who decide otherwise than by the
    /// largest probability; calibration is that of the probabilities in any
    /// case.
    ///
    /// # Errors
    /// If there are no pictures, or what is given does not belong together.
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

    /// The scores in the layout of scikit-learn's `classification_report` with
    /// two digits and `zero_division=0`.
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

    /// The confusion matrix as text, with its names.
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

/// The scores of a report by the names of their classes.
struct Classes<'a>(&'a Report);

impl Serialize for Classes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.labels.iter().zip(&self.0.classes))
    }
}

/// The whole report as people read it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = self.interval.map(|end| end * 100.0);
        writeln!(f, "{}", self.table())?;
        writeln!(f, "{}", self.confusion_table())?;
        writeln!(
            f,
            "accuracy {:.2} % (95 % interval {low:.2} to {high:.2} %), calibration error {:.3}",
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
    // Other runtimes' softmax may round to a little more than 1.
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

fn check_classes(given: &[usize], classes: usize) -> Result<(), ReportError> {
    match given.iter().find(|&&class| class >= classes) {
        Some(&class) => Err(ReportError::Class(class)),
        None => Ok(()),
    }
}

/// The class of the largest probability of each picture (the first of equal
/// ones, as numpy's `argmax`), with that probability.
fn largest(probabilities: &[f32], classes: usize) -> Vec<(usize, f64)> {
    let largest = |row: &[f32]| {
        let class = argmax(row).unwrap_or_default();
        (class, f64::from(row[class]).clamp(0.0, 1.0))
    };
    probabilities.chunks_exact(classes).map(largest).collect()
}

/// The 95 % interval of a share of which `right` of `all` were seen, by
/// Wilson's score (Wilson 1927,
/// <https://doi.org/10.1080/01621459.1927.10502953>): unlike the usual
/// mean +- 1.96 deviations, it holds near 100 % and for few pictures.
///
/// `right` is at most `all`; of nothing, anything may be: [0, 1].
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
    // At 0 and at 1 the ends are those exactly; rounding may miss them.
    let (low, high) = (center - half, center + half);
    [low.clamp(0.0, share), high.clamp(share, 1.0)]
}

/// Expected calibration error (Guo et al. 2017, "On Calibration of Modern
/// Neural Networks", <https://arxiv.org/abs/1706.04599>, equation 3): the
/// pictures are sorted into [`CALIBRATION_BINS`] bins of equal width by their
/// largest probability; it is the mean over the pictures of the difference
/// between their bin's mean probability and their bin's accuracy.
///
/// `tops` holds the largest probability of each picture, 0 to 1, and whether
/// its class is the true one.
#[must_use]
pub fn calibration_error(tops: &[(f64, bool)]) -> f64 {
    // Sum of the probabilities, and pictures told right.
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

/// What would come out at one threshold; a row of [`threshold_sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SweepRow {
    /// From this probability on a picture is of the class.
    pub threshold: f32,
    /// Share of the pictures told right, 0 to 1.
    pub accuracy: f64,
    /// Share of each class that is told right, 0 to 1, in the model's order.
    pub recall: [f64; 2],
}

/// Tries thresholds on the probability of `class` (0 or 1), of a model of two
/// classes: pictures with at least that probability count as `class`, all
/// others as the other one. `probabilities` are [pictures, 2] row by row.
///
/// # Errors
/// If the model has other than two classes, or as [`Report::new`].
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

/// A sweep as text: threshold, accuracy, and the recall of each class in per
/// cent. `names` are those of the two classes.
#[must_use]
pub fn sweep_table(names: &[String], rows: &[SweepRow]) -> String {
    let headings: Vec<String> = names.iter().map(|name| format!("recall {name}")).collect();
    let mut table = "threshold  accuracy".to_owned();
    for heading in &headings {
        table += &format!("  {heading}");
    }
    table.push('\n');
    for row in rows {
        table += &format!("{:>9.2}  {:>6.2} %", row.threshold, row.accuracy * 100.0);
        for (heading, recall) in headings.iter().zip(row.recall) {
            let width = heading.chars().count() - 2;
            table += &format!("  {:>width$.2} %", recall * 100.0);
        }
        table.push('\n');
    }
    table
}

/// One epoch of a training. NaN stands for what was not measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistoryPoint {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean loss on the pictures learned from, 0 or more.
    pub loss: f64,
    /// Accuracy on the pictures learned from, 0 to 1.
    pub accuracy: f64,
    /// Mean loss on the pictures to check by, 0 or more.
    pub val_loss: f64,
    /// Accuracy on the pictures to check by, 0 to 1.
    pub val_accuracy: f64,
}

/// The history as CSV with a line of headings (the names that Keras'
/// `CSVLogger` uses); a cell is empty if its number was not measured.
#[must_use]
pub fn history_csv(points: &[HistoryPoint]) -> String {
    let mut csv = "epoch,loss,accuracy,val_loss,val_accuracy\n".to_owned();
    for point in points {
        csv += &point.epoch.to_string();
        for number in [
            point.loss,
            point.accuracy,
            point.val_loss,
            point.val_accuracy,
        ] {
            csv.push(',');
            if !number.is_nan() {
                csv += &number.to_string();
            }
        }
        csv.push('\n');
    }
    csv
}

/// Kind of picture that a plot can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlotFormat {
    /// Pixels.
    Png,
    /// Lines and text.
    Svg,
}

/// Why there is no plot.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// A name that ends otherwise than `.png` and `.svg`.
    #[error("the plot {path} must end in .png or .svg")]
    Ending {
        /// As it was given.
        path: String,
    },
    /// Not one epoch.
    #[error("there are no epochs to plot")]
    Empty,
    /// The drawing failed.
    #[error("cannot draw the plot ({0})")]
    Draw(Box<dyn Error + Send + Sync>),
}

impl PlotFormat {
    /// The format that a file's name asks for by its ending, in large or small
    /// letters. Worth asking before a training, not after.
    ///
    /// # Errors
    /// [`PlotError::Ending`] for other endings, or none.
    pub fn of(path: &Path) -> Result<PlotFormat, PlotError> {
        let extension = path.extension().unwrap_or_default();
        if extension.eq_ignore_ascii_case("png") {
            Ok(PlotFormat::Png)
        } else if extension.eq_ignore_ascii_case("svg") {
            Ok(PlotFormat::Svg)
        } else {
            let path = path.display().to_string();
            Err(PlotError::Ending { path })
        }
    }
}

/// Latin letters of DejaVu Sans Bold; its license lies beside it.
const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans-Bold.ttf");

/// Under this name the font is known to plotters, and stands in an SVG, where
/// the viewer takes the first one of the list that it has.
const FONT_NAME: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";

/// Size of a plot in pixels.
const PLOT_SIZE: (u32, u32) = (1200, 500);

/// Where a plot is drawn.
#[derive(Debug, Clone, Copy)]
struct Canvas {
    /// How many times larger than [`PLOT_SIZE`] it is drawn.
    scale: u32,
    /// How far text has to be moved down to stand in the middle of where it was
    /// wanted, as a share of its size.
    drop: f64,
}

/// For a PNG, which is scaled down once it is drawn: plotters sets letters at
/// whole pixels and draws some edges unsmoothed, which shows at the final size
/// and not after the scaling. It also sets text too high with `ab_glyph`.
const PIXELS: Canvas = Canvas {
    scale: 4,
    drop: 0.21,
};

/// For an SVG, whose viewer sets the text.
const LINES: Canvas = Canvas {
    scale: 1,
    drop: 0.0,
};

impl Canvas {
    /// Pixels drawn, for a length in final ones.
    fn pixels(self, length: u32) -> i32 {
        (length * self.scale) as i32
    }

    /// `size` is the height of a letter from ascent to descent, in final
    /// pixels: about 1.2 times what others call the size of a font.
    fn font(self, size: u32) -> TextStyle<'static> {
        (FONT_NAME, self.pixels(size)).into_font().color(&INK)
    }

    /// How far down text of this size has to be moved.
    fn drop(self, size: u32) -> i32 {
        (self.drop * f64::from(self.pixels(size))).round() as i32
    }
}

/// Matplotlib's first two colors (Tableau's blue and orange), which also those
/// tell apart who see few colors.
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(255, 127, 14);
const INK: RGBColor = RGBColor(38, 38, 38);
const GRID: RGBColor = RGBColor(221, 221, 221);
const FRAME: RGBColor = RGBColor(204, 204, 204);

/// Plots loss and accuracy, of training and validation, over the epochs: two
/// panels, for the two have different scales. Gives the bytes of a picture
/// file.
///
/// # Errors
/// If there are no points.
pub fn plot_history(
    points: &[HistoryPoint],
    title: &str,
    format: PlotFormat,
) -> Result<Vec<u8>, PlotError> {
    if points.is_empty() {
        return Err(PlotError::Empty);
    }
    register_font(FONT_NAME, FontStyle::Normal, FONT)
        .map_err(|_| PlotError::Draw("the font that is compiled in is broken".into()))?;
    match format {
        PlotFormat::Svg => {
            let mut svg = String::new();
            let root = SVGBackend::with_string(&mut svg, PLOT_SIZE).into_drawing_area();
            draw(&root, LINES, points, title)?;
            drop(root);
            Ok(svg.into_bytes())
        }
        PlotFormat::Png => {
            let (width, height) = PLOT_SIZE;
            let mut large = RgbImage::new(width * PIXELS.scale, height * PIXELS.scale);
            let size = large.dimensions();
            let root = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
            draw(&root, PIXELS, points, title)?;
            drop(root);
            let small = imageops::thumbnail(&large, width, height);
            let mut png = Cursor::new(Vec::new());
            small
                .write_to(&mut png, ImageFormat::Png)
                .map_err(draw_error)?;
            Ok(png.into_inner())
        }
    }
}

fn draw_error(error: impl Error + Send + Sync + 'static) -> PlotError {
    PlotError::Draw(Box::new(error))
}

fn draw<B>(
    root: &DrawingArea<B, Shift>,
    canvas: Canvas,
    points: &[HistoryPoint],
    title: &str,
) -> Result<(), PlotError>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    root.fill(&WHITE).map_err(draw_error)?;
    let (width, _) = root.dim_in_pixel();
    let (head, panels) = root.split_vertically(canvas.pixels(48));
    let style = canvas.font(20).pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (width as i32 / 2, canvas.pixels(28) + canvas.drop(20));
    head.draw_text(title, &style, middle).map_err(draw_error)?;

    let (left, right) = panels.split_horizontally(width / 2);
    let series = |train: fn(&HistoryPoint) -> f64, validation: fn(&HistoryPoint) -> f64| {
        [train, validation].map(|value| {
            let points = points.iter();
            points
                .map(|point| (f64::from(point.epoch), value(point)))
                .collect::<Vec<_>>()
        })
    };
    let loss = series(|point| point.loss, |point| point.val_loss);
    let accuracy = series(|point| point.accuracy, |point| point.val_accuracy);
    panel(&left, canvas, "Loss", &loss)?;
    panel(&right, canvas, "Accuracy", &accuracy)?;
    root.present().map_err(draw_error)
}

/// Draws one panel: training and validation over the epochs.
fn panel<B>(
    area: &DrawingArea<B, Shift>,
    canvas: Canvas,
    quantity: &str,
    series: &[Vec<(f64, f64)>; 2],
) -> Result<(), PlotError>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let measured: Vec<(f64, f64)> = series
        .iter()
        .flatten()
        .copied()
        .filter(|(_, y)| y.is_finite())
        .collect();
    let xs = Axis::new(series[0].iter().map(|(x, _)| *x), 12, 1.0);
    let ys = Axis::new(measured.iter().map(|(_, y)| *y), 7, 0.0);
    let mut chart = ChartBuilder::on(area)
        .margin(canvas.pixels(10))
        .margin_left(canvas.pixels(16))
        .margin_right(canvas.pixels(24))
        .x_label_area_size(canvas.pixels(48))
        .y_label_area_size(canvas.pixels(72))
        .build_cartesian_2d(xs.clone(), ys.clone())
        .map_err(draw_error)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(canvas.scale))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.stroke_width(canvas.scale))
        .set_all_tick_mark_size(canvas.pixels(5))
        .label_style(canvas.font(16))
        .y_label_offset(canvas.drop(16))
        .axis_desc_style(canvas.font(18))
        .x_desc("Epoch")
        .y_desc(quantity)
        .draw()
        .map_err(draw_error)?;

    let styles = [TRAIN, VALIDATION].map(|color| SeriesStyle {
        line: color.stroke_width(2 * canvas.scale),
        dot: color.filled(),
        // Few epochs are seen one by one, many as a line.
        radius: canvas.pixels(if series[0].len() <= 50 { 3 } else { 0 }),
    });
    for (style, points) in styles.iter().zip(series) {
        // A gap where nothing was measured.
        let runs = points.split(|(_, y)| !y.is_finite());
        let lines = runs.map(|run| PathElement::new(run, style.line));
        chart.draw_series(lines).map_err(draw_error)?;
        let points = points.iter().filter(|(_, y)| y.is_finite());
        let dots = points.map(|point| Circle::new(*point, style.radius, style.dot));
        chart.draw_series(dots).map_err(draw_error)?;
    }
    let corner = free_corner(&measured, &xs, &ys);
    let plot = chart.plotting_area().strip_coord_spec();
    legend(&plot, canvas, corner, &styles)
}

/// How the training, or the validation, is drawn.
struct SeriesStyle {
    line: ShapeStyle,
    dot: ShapeStyle,
    radius: i32,
}

/// Draws the legend into a corner of a panel.
fn legend<B>(
    plot: &DrawingArea<B, Shift>,
    canvas: Canvas,
    corner: Corner,
    styles: &[SeriesStyle; 2],
) -> Result<(), PlotError>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let (width, height) = plot.dim_in_pixel();
    let (legend_width, legend_height) = (canvas.pixels(136), canvas.pixels(52));
    let gap = canvas.pixels(8);
    let left = if corner.right {
        width as i32 - legend_width - gap
    } else {
        gap
    };
    let top = if corner.top {
        gap
    } else {
        height as i32 - legend_height - gap
    };
    let edges = [(left, top), (left + legend_width, top + legend_height)];
    for style in [WHITE.mix(0.85).filled(), FRAME.stroke_width(canvas.scale)] {
        let edges = Rectangle::new(edges, style);
        plot.draw(&edges).map_err(draw_error)?;
    }
    let font = canvas.font(16).pos(Pos::new(HPos::Left, VPos::Center));
    let rows = [("training", 16), ("validation", 36)];
    for ((name, row), style) in rows.into_iter().zip(styles) {
        let (x, y) = (left + canvas.pixels(10), top + canvas.pixels(row));
        let (half, length) = (canvas.pixels(14), canvas.pixels(28));
        let line = PathElement::new([(x, y), (x + length, y)], style.line);
        plot.draw(&line).map_err(draw_error)?;
        let dot = Circle::new((x + half, y), style.radius, style.dot);
        plot.draw(&dot).map_err(draw_error)?;
        let place = (x + length + gap, y + canvas.drop(16));
        plot.draw_text(name, &font, place).map_err(draw_error)?;
    }
    Ok(())
}

/// A corner of a panel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Corner {
    right: bool,
    top: bool,
}

/// The corner of a panel that holds the fewest points, of equal ones the first
/// in the order below.
fn free_corner(points: &[(f64, f64)], xs: &Axis, ys: &Axis) -> Corner {
    // About the share of a panel that the legend takes.
    let (width, height) = (0.35, 0.2);
    let points_in = |corner: &Corner| {
        let is_in = |(x, y): &&(f64, f64)| {
            let x = (x - xs.from) / (xs.to - xs.from);
            let y = (y - ys.from) / (ys.to - ys.from);
            let x = if corner.right { 1.0 - x } else { x };
            let y = if corner.top { 1.0 - y } else { y };
            x < width && y < height
        };
        points.iter().filter(is_in).count()
    };
    let first = Corner {
        right: true,
        top: true,
    };
    let corners = [(true, true), (true, false), (false, true), (false, false)];
    let corners = corners.map(|(right, top)| Corner { right, top });
    corners.into_iter().min_by_key(points_in).unwrap_or(first)
}

/// The range of an axis and the round numbers on it.
#[derive(Debug, Clone)]
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    decimals: usize,
}

impl Axis {
    /// An axis that holds all `values` with a little room at its ends, and has
    /// at most about `most` ticks, not closer than `least_step`.
    fn new(values: impl Iterator<Item = f64>, most: u32, least_step: f64) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // A single value gets some room, too; and no range is so narrow that
        // its ticks could not be told apart.
        let room = if high - low > 1e-6 * high.abs().max(1e-3) {
            0.05 * (high - low)
        } else {
            (0.05 * high.abs()).max(0.5 * least_step).max(0.01)
        };
        let (from, to) = (low - room, high + room);

        let rough = ((to - from) / f64::from(most)).max(least_step);
        let power = rough.log10().floor();
        let unit = 10_f64.powf(power);
        let factors = [1.0, 2.0, 5.0, 10.0];
        let factor = factors.into_iter().find(|f| f * unit >= rough * 0.999);
        let step = factor.unwrap_or(10.0) * unit;
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        // Bounded whatever the numbers: rounding may play tricks with wild ones.
        let ticks = (first..=last).take(50).map(|tick| tick as f64 * step);
        Axis {
            from,
            to,
            ticks: ticks.collect(),
            decimals: (-step.log10().floor()).clamp(0.0, 12.0) as usize,
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        start + (share * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        // Adding 0 makes 0 of -0, or it would read "-0.0".
        format!("{:.*}", self.decimals, value + 0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class}")).collect()
    }

    fn history(epochs: u32) -> Vec<HistoryPoint> {
        let point = |epoch| {
            let age = f64::from(epoch);
            HistoryPoint {
                epoch,
                loss: 0.6 * (-age / 4.0).exp() + 0.03,
                accuracy: 0.99 - 0.3 * (-age / 3.0).exp(),
                val_loss: 0.5 * (-age / 3.0).exp() + 0.035 + 0.002 * age,
                val_accuracy: 0.985 - 0.15 * (-age / 2.0).exp(),
            }
        };
        (1..=epochs).map(point).collect()
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let two = names(2);
        let report = |truth: &[usize], probabilities: &[f32], predicted: Option<&[usize]>| {
            let report = Report::new(truth, probabilities, &two, predicted);
            report.unwrap_err().to_string()
        };
        assert_eq!(report(&[], &[], None), "there are no pictures to judge by");
        assert_eq!(
            report(&[0, 1], &[0.5; 3], None),
            "2 pictures of 2 classes do not go with 3 probabilities"
        );
        assert_eq!(
            report(&[0, 1], &[0.5; 4], Some(&[0])),
            "2 pictures of 2 classes do not go with 1 predictions"
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
    fn the_confusion_matrix_is_readable() {
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
            "\naccuracy 66.67 % (95 % interval 20.77 to 93.85 %), calibration error 0.400\n"
        ));
    }

    #[test]
    fn probabilities_that_mean_what_they_say_have_no_calibration_error() {
        let tops = [(0.75, true), (0.75, true), (0.75, true), (0.75, false)];
        assert_eq!(calibration_error(&tops), 0.0);
        assert_eq!(calibration_error(&[(1.0, false)]), 1.0);
        assert_eq!(calibration_error(&[(0.0, true)]), 1.0);
        assert_eq!(calibration_error(&[]), 0.0);
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
             0.50   75.00 %        100.00 %         50.00 %\n     \
             0.75  100.00 %        100.00 %        100.00 %\n"
        );
        assert_eq!(sweep(2, &[0.5]), Err(ReportError::Class(2)));
        let short = threshold_sweep(&[0, 1], &[0.5; 3], &names, 0, &[0.5]);
        assert!(matches!(short, Err(ReportError::Length { found: 3, .. })));
        let three = threshold_sweep(&[0], &[0.3; 3], &three, 0, &[0.5]);
        assert_eq!(three, Err(ReportError::NotTwoClasses(3)));
    }

    #[test]
    fn csv_has_the_names_of_keras_and_empty_cells() {
        let mut points = history(2);
        points[0].val_loss = f64::NAN;
        points[1].loss = 0.25;
        points[1].accuracy = 1.0;
        let csv = history_csv(&points);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "epoch,loss,accuracy,val_loss,val_accuracy");
        assert_eq!(lines[1].split(',').nth(3), Some(""));
        assert!(lines[2].starts_with("2,0.25,1,0."));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn the_ending_of_the_name_chooses_the_format() {
        let of = |name: &str| PlotFormat::of(Path::new(name));
        assert_eq!(of("a/plot.PNG").unwrap(), PlotFormat::Png);
        assert_eq!(of("plot.svg").unwrap(), PlotFormat::Svg);
        for odd in ["plot.pdf", "plot", ".png", "a.png/b"] {
            let error = of(odd).unwrap_err().to_string();
            assert_eq!(error, format!("the plot {odd} must end in .png or .svg"));
        }
    }

    #[test]
    fn plots_show_all_that_a_reader_needs() {
        let svg = plot_history(&history(20), "a < title & more", PlotFormat::Svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for text in ["a &lt; title &amp; more", "Epoch", "Loss", "Accuracy", "20"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
        for text in ["\ntraining\n", "\nvalidation\n"] {
            assert_eq!(svg.matches(text).count(), 2, "one legend a panel");
        }
        let png = plot_history(&history(20), "title", PlotFormat::Png).unwrap();
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), PLOT_SIZE);
        for color in [TRAIN, VALIDATION] {
            let color = image::Rgb([color.0, color.1, color.2]);
            let count = picture.pixels().filter(|pixel| **pixel == color).count();
            assert!(count > 300, "{count} pixels of {color:?}");
        }
    }

    #[test]
    fn odd_histories_are_plotted_too() {
        let plot = |points: &[HistoryPoint]| {
            for format in [PlotFormat::Svg, PlotFormat::Png] {
                plot_history(points, "", format).unwrap();
            }
        };
        plot(&history(1));
        plot(&history(2));
        plot(&history(500));
        let flat = HistoryPoint {
            epoch: 7,
            loss: 0.0,
            accuracy: 1.0,
            val_loss: f64::NAN,
            val_accuracy: f64::NAN,
        };
        plot(&[flat; 3]);
        let wild = HistoryPoint {
            loss: f64::INFINITY,
            val_loss: 1e300,
            accuracy: f64::NAN,
            epoch: u32::MAX,
            ..flat
        };
        plot(&[flat, wild]);
        plot(&[wild]);
        let error = plot_history(&[], "", PlotFormat::Svg).unwrap_err();
        assert_eq!(error.to_string(), "there are no epochs to plot");
    }

    #[test]
    fn axes_have_round_numbers() {
        let ticks = |values: &[f64], most, least| {
            let axis = Axis::new(values.iter().copied(), most, least);
            let labels: Vec<String> = axis
                .ticks
                .iter()
                .map(|tick| axis.format_ext(tick))
                .collect();
            labels.join(" ")
        };
        assert_eq!(ticks(&[1.0, 5.0], 10, 1.0), "1 2 3 4 5");
        assert_eq!(ticks(&[1.0, 20.0], 12, 1.0), "2 4 6 8 10 12 14 16 18 20");
        assert_eq!(ticks(&[1.0, 1.0], 10, 1.0), "1");
        assert_eq!(ticks(&[0.0, 0.72], 7, 0.0), "0.0 0.2 0.4 0.6");
        assert_eq!(ticks(&[0.981, 0.999], 7, 0.0), "0.985 0.990 0.995");
    }

    #[test]
    fn the_legend_stands_where_there_is_room() {
        let corner = |points: &[(f64, f64)]| {
            let axis = || Axis::new([0.0, 1.0].into_iter(), 5, 0.0);
            let Corner { right, top } = free_corner(points, &axis(), &axis());
            (right, top)
        };
        assert_eq!(corner(&[]), (true, true));
        assert_eq!(corner(&[(0.0, 0.0), (1.0, 1.0)]), (true, false));
        assert_eq!(corner(&[(1.0, 0.0), (1.0, 1.0)]), (false, true));
        let three = [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)];
        assert_eq!(corner(&three), (false, false));
    }

    proptest! {
        #[test]
        fn reports_hold_together(
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

        #[test]
        fn any_axis_is_bounded(values in prop::collection::vec(prop::num::f64::NORMAL, 1..5)) {
            let values = values.into_iter().map(|value| value.clamp(-1e300, 1e300));
            let axis = Axis::new(values, 7, 0.0);
            prop_assert!(axis.ticks.len() <= 50);
            prop_assert!(axis.from < axis.to);
        }
    }
}
