//! Operators for aarch64, which use a layout of their own, the *blocked layout*:
//! `[height, channels / 4, width, 4]`. The values of four channels of a pixel form a
//! vector, and the vectors of adjacent pixels in a row are adjacent in memory. If the
//! number of channels is not a multiple of four, the picture has additional channels, whose
//! values are arbitrary but finite.
//!
//! With this layout, neither a matrix product nor a depthwise convolution has to rearrange
//! its input. An operator reads and writes whole vectors, and each row of a picture is
//! contiguous, so a tile reads from few places in memory.

mod conversions;
mod depthwise;
mod max_pool;
mod pointwise;
mod rgb;

use fearless_simd::{Simd, SimdBase, f32x4};
use tract_linalg::multithread::{Executor, current_tract_executor};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

pub(in crate::onnx) use conversions::{FromBlocked, ToBlocked};
pub(in crate::onnx) use depthwise::BlockedDepthwise;
pub(in crate::onnx) use max_pool::BlockedMaxPool;
pub(in crate::onnx) use pointwise::{BlockedPointwise, product_params};
pub(in crate::onnx) use rgb::{BlockedRgbConv, RGB};

/// Number of channels per vector.
pub(in crate::onnx) const LANES: usize = 4;
/// The values of [`LANES`] channels of one pixel.
type Lanes = [f32; LANES];

/// tract shares work among threads only if the work consists of a minimum number of
/// values. This many multiplications count as one value.
const PRODUCTS_PER_VALUE: usize = 16;

/// The size of a picture in the blocked layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    height: usize,
    /// Number of groups of [`LANES`] channels.
    groups: usize,
    width: usize,
}

impl Size {
    /// Returns the size of a picture of shape `[height, channels / 4, width, 4]`.
    fn of(shape: &[usize]) -> TractResult<Size> {
        let &[height, groups, width, LANES] = shape else {
            bail!("{shape:?} is not a picture in the blocked layout");
        };
        ensure!(height > 0 && groups > 0 && width > 0);
        Ok(Size {
            height,
            groups,
            width,
        })
    }

    fn shape(self) -> [usize; 4] {
        [self.height, self.groups, self.width, LANES]
    }

    /// Number of vectors in a row.
    fn row(self) -> usize {
        self.groups * self.width
    }
}

/// Returns the vectors of a tensor.
fn vectors<'a>(plain: &'a PlainView<'_>) -> TractResult<&'a [Lanes]> {
    Ok(plain.as_slice::<f32>()?.as_chunks().0)
}

/// Number of threads that may share the work of an operator.
fn threads() -> usize {
    match current_tract_executor() {
        Executor::MultiThread(pool) => pool.current_num_threads().max(1),
        _ => 1,
    }
}

/// Returns a vector in which each value is number `lane` of `vector`. On aarch64, this
/// compiles to no instruction, because a multiplication can select one value of a vector.
/// The other way to select a value, an index, would compile to separate loads.
#[expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]
#[inline(always)]
fn broadcast<S: Simd>(vector: f32x4<S>, lane: usize) -> f32x4<S> {
    let pair = if lane < LANES / 2 {
        vector.zip_low(vector)
    } else {
        vector.zip_high(vector)
    };
    if lane.is_multiple_of(2) {
        pair.zip_low(pair)
    } else {
        pair.zip_high(pair)
    }
}
