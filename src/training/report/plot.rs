//! The history of a training run as CSV and as a plot.

use std::error::Error;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage, imageops};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

/// One epoch of a training run. NaN means that a number was not measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistoryPoint {
    /// Number of the epoch, counted from 1.
    pub epoch: u32,
    /// Mean loss on the training pictures, at least 0.
    pub loss: f64,
    /// Accuracy on the training pictures, between 0 and 1.
    pub accuracy: f64,
    /// Mean loss on the validation pictures, at least 0.
    pub val_loss: f64,
    /// Accuracy on the validation pictures, between 0 and 1.
    pub val_accuracy: f64,
}

/// Formats the history as CSV with the headings of Keras's `CSVLogger`. If a number
/// was not measured, its cell is empty.
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

/// The file format of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlotFormat {
    /// A picture of 1200 x 500 pixels.
    Png,
    /// Vector graphics.
    Svg,
}

/// The reason why the plot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The file name does not end in `.png` or `.svg`.
    #[error("the plot {path} must end in .png or .svg")]
    Extension {
        /// The path, as passed by the caller.
        path: String,
    },
    /// The history is empty.
    #[error("there are no epochs to plot")]
    Empty,
    /// Drawing failed.
    #[error("cannot draw the plot ({0})")]
    Draw(Box<dyn Error + Send + Sync>),
}

impl PlotFormat {
    /// Determines the format from a file name's extension, in upper or lower case. This
    /// function should be called before training, so that no work is lost if the name
    /// is wrong.
    ///
    /// # Errors
    /// [`PlotError::Extension`] if the file name has another extension or none.
    pub fn of(path: &Path) -> Result<PlotFormat, PlotError> {
        let extension = path.extension().unwrap_or_default();
        if extension.eq_ignore_ascii_case("png") {
            Ok(PlotFormat::Png)
        } else if extension.eq_ignore_ascii_case("svg") {
            Ok(PlotFormat::Svg)
        } else {
            let path = path.display().to_string();
            Err(PlotError::Extension { path })
        }
    }
}

/// The Latin letters of DejaVu Sans Bold. The license is next to the font file.
const FONT: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans-Bold.ttf");

/// The name under which plotters finds the font. The name also appears in SVG files,
/// whose viewers use the first available font in the list.
const FONT_NAME: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";

/// Size of a plot in pixels.
const PLOT_SIZE: (u32, u32) = (1200, 500);

/// The properties of a format that affect drawing.
#[derive(Debug, Clone, Copy)]
struct Canvas {
    /// Factor by which the drawn plot is larger than [`PLOT_SIZE`].
    scale: u32,
    /// Distance by which text must be moved down to be centered vertically, as a
    /// fraction of the text size.
    text_offset: f64,
}

/// A PNG is drawn larger and then scaled down, because plotters places letters at whole
/// pixels and draws some edges without anti-aliasing. Both effects would be visible at
/// the final size. With `ab_glyph`, plotters also places text too high.
const PNG_CANVAS: Canvas = Canvas {
    scale: 4,
    text_offset: 0.21,
};

/// An SVG needs no correction, because its viewer places the text.
const SVG_CANVAS: Canvas = Canvas {
    scale: 1,
    text_offset: 0.0,
};

impl Canvas {
    /// Converts a length from final pixels to drawn pixels.
    fn pixels(self, length: u32) -> i32 {
        (length * self.scale) as i32
    }

    /// Returns the text style. `size` is the height from ascender to descender in final
    /// pixels, which is about 1.2 times the usual font size.
    fn font(self, size: u32) -> TextStyle<'static> {
        (FONT_NAME, self.pixels(size)).into_font().color(&INK)
    }

    /// Returns the distance in drawn pixels by which text of this size must be moved
    /// down.
    fn text_offset(self, size: u32) -> i32 {
        (self.text_offset * f64::from(self.pixels(size))).round() as i32
    }
}

/// Matplotlib's first two colors (Tableau's blue and orange), which color-blind people
/// can also distinguish.
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const VALIDATION: RGBColor = RGBColor(255, 127, 14);
const INK: RGBColor = RGBColor(38, 38, 38);
const GRID: RGBColor = RGBColor(221, 221, 221);
const FRAME: RGBColor = RGBColor(204, 204, 204);

/// Plots the loss and the accuracy for training and validation over the epochs, in
/// two panels because their scales differ. Returns the content of a file.
///
/// # Errors
/// [`PlotError`] if there are no points or drawing fails.
pub fn plot_history(
    points: &[HistoryPoint],
    title: &str,
    format: PlotFormat,
) -> Result<Vec<u8>, PlotError> {
    if points.is_empty() {
        return Err(PlotError::Empty);
    }
    register_font(FONT_NAME, FontStyle::Normal, FONT)
        .map_err(|_| PlotError::Draw("the built-in font is invalid".into()))?;
    match format {
        PlotFormat::Svg => {
            let mut svg = String::new();
            let root = SVGBackend::with_string(&mut svg, PLOT_SIZE).into_drawing_area();
            draw(&root, SVG_CANVAS, points, title)?;
            drop(root);
            Ok(svg.into_bytes())
        }
        PlotFormat::Png => {
            let (width, height) = PLOT_SIZE;
            let mut large = RgbImage::new(width * PNG_CANVAS.scale, height * PNG_CANVAS.scale);
            let size = large.dimensions();
            let root = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
            draw(&root, PNG_CANVAS, points, title)?;
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
    let (header, panels) = root.split_vertically(canvas.pixels(48));
    let style = canvas.font(20).pos(Pos::new(HPos::Center, VPos::Center));
    let middle = (width as i32 / 2, canvas.pixels(28) + canvas.text_offset(20));
    header
        .draw_text(title, &style, middle)
        .map_err(draw_error)?;

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

/// Draws training and validation over the epochs in one panel.
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
        .y_label_offset(canvas.text_offset(16))
        .axis_desc_style(canvas.font(18))
        .x_desc("Epoch")
        .y_desc(quantity)
        .draw()
        .map_err(draw_error)?;

    let styles = [TRAIN, VALIDATION].map(|color| SeriesStyle {
        line: color.stroke_width(2 * canvas.scale),
        dot: color.filled(),
        // If there are few epochs, each epoch gets a dot. If there are many, only the
        // line is drawn.
        radius: canvas.pixels(if series[0].len() <= 50 { 3 } else { 0 }),
    });
    for (style, points) in styles.iter().zip(series) {
        // A number that was not measured leaves a gap.
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

/// The style in which the training or the validation series is drawn.
struct SeriesStyle {
    line: ShapeStyle,
    dot: ShapeStyle,
    radius: i32,
}

/// Draws the legend in a corner of a panel.
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
        let position = (x + length + gap, y + canvas.text_offset(16));
        plot.draw_text(name, &font, position).map_err(draw_error)?;
    }
    Ok(())
}

/// A corner of a panel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Corner {
    right: bool,
    top: bool,
}

/// Finds the corner of a panel with the fewest points. In a tie, the corner that comes
/// first in the list below is used.
fn free_corner(points: &[(f64, f64)], xs: &Axis, ys: &Axis) -> Corner {
    // The approximate fractions of a panel's width and height that the legend covers.
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

/// The range of an axis and the round numbers marked on it.
#[derive(Debug, Clone)]
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    decimals: usize,
}

impl Axis {
    /// Makes an axis that contains all `values`, with some padding at its ends. It
    /// has at most about `max_ticks` ticks, spaced at least `min_step` apart.
    fn new(values: impl Iterator<Item = f64>, max_ticks: u32, min_step: f64) -> Axis {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        // Even a single value gets padding, so that the range is wide enough for the
        // ticks to have different labels.
        let padding = if high - low > 1e-6 * high.abs().max(1e-3) {
            0.05 * (high - low)
        } else {
            (0.05 * high.abs()).max(0.5 * min_step).max(0.01)
        };
        let (from, to) = (low - padding, high + padding);

        let rough = ((to - from) / f64::from(max_ticks)).max(min_step);
        let power = rough.log10().floor();
        let unit = 10_f64.powf(power);
        let factors = [1.0, 2.0, 5.0, 10.0];
        let factor = factors.into_iter().find(|f| f * unit >= rough * 0.999);
        let step = factor.unwrap_or(10.0) * unit;
        let (first, last) = ((from / step).ceil() as i64, (to / step).floor() as i64);
        // The number of ticks is limited because, for extreme values, rounding may give a
        // step that is too small.
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
        // Adding 0 turns -0 into 0. Otherwise, the label would be "-0.0".
        format!("{:.*}", self.decimals, value + 0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn csv_has_the_headings_of_keras_and_empty_cells() {
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
    fn the_extension_chooses_the_format() {
        let of = |name: &str| PlotFormat::of(Path::new(name));
        assert_eq!(of("a/plot.PNG").unwrap(), PlotFormat::Png);
        assert_eq!(of("plot.svg").unwrap(), PlotFormat::Svg);
        for odd in ["plot.pdf", "plot", ".png", "a.png/b"] {
            let error = of(odd).unwrap_err().to_string();
            assert_eq!(error, format!("the plot {odd} must end in .png or .svg"));
        }
    }

    #[test]
    fn plots_show_title_axes_legend_and_curves() {
        let svg = plot_history(&history(20), "a < title & more", PlotFormat::Svg).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        for text in ["a &lt; title &amp; more", "Epoch", "Loss", "Accuracy", "20"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
        for text in ["\ntraining\n", "\nvalidation\n"] {
            assert_eq!(svg.matches(text).count(), 2, "one legend per panel");
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
    fn unusual_histories_are_plotted() {
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
        let ticks = |values: &[f64], max_ticks, min_step| {
            let axis = Axis::new(values.iter().copied(), max_ticks, min_step);
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
    fn the_legend_is_in_the_emptiest_corner() {
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
        fn axes_of_any_values_are_bounded(values in prop::collection::vec(prop::num::f64::NORMAL, 1..5)) {
            let values = values.into_iter().map(|value| value.clamp(-1e300, 1e300));
            let axis = Axis::new(values, 7, 0.0);
            prop_assert!(axis.ticks.len() <= 50);
            prop_assert!(axis.from < axis.to);
        }
    }
}
