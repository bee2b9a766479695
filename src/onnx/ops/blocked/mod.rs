//! Operators that use a layout of their own, the *blocked layout*:
//! `[height, channels / lanes, width, lanes]`. The values of a few channels of a pixel form
//! a vector, and the vectors of adjacent pixels in a row are adjacent in memory. A vector
//! has 4 to 16 lanes (see [`Precision`]). If the number of channels is not a multiple of the
//! number of lanes, the picture has additional channels, whose values are arbitrary but
//! finite.
//!
//! With this layout, neither a matrix product nor a depthwise convolution has to rearrange
//! its input. An operator reads and writes whole vectors, and each row of a picture is
//! contiguous, so a tile reads from few places in memory.

mod conversions;
mod depthwise;
#[cfg(test)]
mod emulated;
#[cfg(any(test, target_arch = "aarch64"))]
mod half;
mod max_pool;
mod pointwise;
mod precision;
mod rgb;

use tract_linalg::multithread::{Executor, current_tract_executor};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

pub(in crate::onnx) use conversions::{FromBlocked, ToBlocked};
pub(in crate::onnx) use depthwise::BlockedDepthwise;
#[cfg(any(test, target_arch = "aarch64"))]
pub(in crate::onnx) use half::Half;
pub(in crate::onnx) use max_pool::BlockedMaxPool;
pub(in crate::onnx) use pointwise::{BlockedPointwise, product_params};
pub(in crate::onnx) use precision::{Precision, Single};
pub(in crate::onnx) use rgb::{BlockedRgbConv, RGB};

/// tract shares work among threads only if the work consists of a minimum number of
/// values. This many multiplications count as one value.
const PRODUCTS_PER_VALUE: usize = 16;

/// The size of a picture in the blocked layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    height: usize,
    /// Number of vectors per pixel.
    groups: usize,
    width: usize,
}

impl Size {
    /// Returns the size of a picture of shape `[height, channels / lanes, width, lanes]`.
    fn of<P: Precision>(shape: &[usize]) -> TractResult<Size> {
        let &[height, groups, width, lanes] = shape else {
            bail!("{shape:?} is not a picture in the blocked layout");
        };
        ensure!(height > 0 && groups > 0 && width > 0 && lanes == P::LANES);
        Ok(Size {
            height,
            groups,
            width,
        })
    }

    fn shape<P: Precision>(self) -> [usize; 4] {
        [self.height, self.groups, self.width, P::LANES]
    }

    /// Number of vectors in a row.
    fn row(self) -> usize {
        self.groups * self.width
    }
}

/// Returns the vectors of a tensor.
fn vectors<'a, P: Precision>(plain: &'a PlainView<'_>) -> TractResult<&'a [P::Lanes]> {
    Ok(P::vectors(plain.as_slice::<P::Value>()?))
}

/// Number of threads that may share the work of an operator.
fn threads() -> usize {
    match current_tract_executor() {
        Executor::MultiThread(pool) => pool.current_num_threads().max(1),
        _ => 1,
    }
}
