//! Reports on a model and its training, with scores, the confusion matrix, the
//! calibration, and a plot of the history.
//!
//! This module defines the scores ([`Report`]), their format as text and as JSON, the
//! intervals of shares by group ([`GroupedShare`]), the threshold sweep
//! ([`threshold_sweep`]), and the look of the plot ([`plot_history`]). It is pure, because
//! it takes numbers and returns text and the content of a plot file. It knows nothing
//! about models, pictures, or files.

mod grouped;
mod plot;
mod scores;
mod sweep;

pub use grouped::{DRAWS, GroupedShare, LEVEL, SEED, Tally};
pub use plot::{HistoryPoint, PlotError, PlotFormat, history_csv, plot_history};
pub use scores::{CALIBRATION_BINS, Report, ReportError, Scores, calibration_error, wilson};
pub use sweep::{SweepRow, sweep_table, threshold_sweep};
