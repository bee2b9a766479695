//! The reasons a model cannot be used, and the guard that catches tract's panics.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::{TractError, TractResult};

use super::MAX_MODEL_BYTES;

/// The reason a model cannot be used. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read the model {model}: {source}")]
    Read {
        /// Path or name of the file.
        model: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_MODEL_BYTES`].
    #[error(
        "the model {model} has more than {} MiB, the limit for models",
        MAX_MODEL_BYTES / (1024 * 1024)
    )]
    TooLarge {
        /// Path or name of the file.
        model: String,
    },
    /// The bytes are not an ONNX model.
    #[error("{model} is not an ONNX model, or it is cut off: download or create it again")]
    NotOnnx {
        /// Path or name of the file.
        model: String,
    },
    /// The file is an ONNX model, but not of the expected kind.
    #[error("the model {model} is not a {kind} for maskd: {problem}")]
    Unexpected {
        /// Path or name of the file.
        model: String,
        /// The expected kind: "classifier", "head", or "face detector".
        kind: &'static str,
        /// What is wrong with the file.
        problem: String,
    },
    /// The model passed the checks but failed to run.
    #[error("the model {model} does not run: {problem}")]
    Run {
        /// Path or name of the file.
        model: String,
        /// tract's error message, on one line.
        problem: String,
    },
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is running tract. If so, a panic is caught and reported as a
/// [`ModelError`], so a panic hook must not report the same panic.
#[must_use]
pub fn panics_are_caught() -> bool {
    GUARDED.get()
}

/// Runs tract and catches its panics. tract may panic on a graph that is valid ONNX but
/// inconsistent. After a panic, the state of the model may be inconsistent, so every
/// caller must drop the model.
pub(super) fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&error)),
        Err(_) => Err("its graph is inconsistent".to_owned()),
    }
}

/// Formats a tract error and all of its causes on one line. The line is truncated
/// because some error messages list every node of a graph.
pub(super) fn one_line(error: &TractError) -> String {
    const MAX_CHARS: usize = 300;
    let line = format!("{error:#}");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}
