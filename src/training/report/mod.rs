//! Reports on a model and its training, with scores, the confusion matrix, the
//! calibration, and a plot of the history.
//!
//! Owns the definitions of the scores ([`Report`]), their layout as text and as
//! JSON, the threshold sweep ([`threshold_sweep`]), and the look of the plot
//! ([`plot_history`]). It is pure. It takes numbers and returns text and the content
//! of a plot file, and knows nothing about models, pictures or files.

mod plot;
mod scores;
mod sweep;

pub use plot::{HistoryPoint, PlotError, PlotFormat, history_csv, plot_history};
pub use scores::{CALIBRATION_BINS, Report, ReportError, Scores, calibration_error, wilson};
pub use sweep::{SweepRow, sweep_table, threshold_sweep};
