//! A depthwise 3x3 convolution fused with a clamp, for pictures in the channels-last
//! layout (NHWC), which tract uses on aarch64.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x4};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::depthwise::{ConvGeometry, KERNEL_SIDE, PARAMS};

/// Number of channels per vector.
pub(in crate::onnx) const LANES: usize = 4;
/// The values of [`LANES`] channels in one pixel.
type Lanes = [f32; LANES];
/// The [`PARAMS`] of [`LANES`] channels.
type GroupParams = [Lanes; PARAMS];

/// Number of adjacent pixels in a row that form a block. The sums and inputs of a block
/// fit in the 32 registers of aarch64, and the widths of the layers of a MobileNet on
/// 224x224 pixels are multiples of this number.
const BLOCK: usize = 7;
/// Number of columns that a block reads, with a stride of 1 and with a stride of 2.
const WINDOW: usize = BLOCK - 1 + KERNEL_SIDE;
const WIDE_WINDOW: usize = 2 * (BLOCK - 1) + KERNEL_SIDE;

/// The operator has two inputs: a single picture `[…, height, width, channels]`, and
/// parameters `[channels / 4, 12, 4]`, which are interleaved for each group of four
/// channels. The output is `[…, out height, out width, channels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct DepthwiseConv3x3Nhwc(pub(in crate::onnx) ConvGeometry);

impl DepthwiseConv3x3Nhwc {
    /// Number of columns of the padded input.
    fn width(&self) -> usize {
        let ConvGeometry { output, stride, .. } = self.0;
        (output[1] - 1) * stride + KERNEL_SIDE
    }

    /// Returns the input row that the kernel row `row` covers for the output row `y`, or
    /// `None` if the input row is padding.
    fn source(&self, y: usize, row: usize) -> Option<usize> {
        let ConvGeometry {
            input,
            before,
            stride,
            ..
        } = self.0;
        let source = (y * stride + row).checked_sub(before[0])?;
        (source < input[0]).then_some(source)
    }

    /// Writes an input row into a padded row. The padded row has all columns of the first
    /// four channels, then all columns of the next four channels, and so on, so the values
    /// of a window are adjacent.
    #[inline(always)]
    fn pad(&self, row: &[Lanes], groups: usize, padded: &mut [Lanes]) {
        let width = self.width();
        let left = self.0.before[1];
        let count = self.0.input[1].min(width - left);
        let mut blocks = row[..count * groups].chunks_exact(BLOCK * groups);
        let mut x = left;
        for block in &mut blocks {
            transpose::<BLOCK>(block, groups, &mut padded[x..], width);
            x += BLOCK;
        }
        for pixel in blocks.remainder().chunks_exact(groups) {
            transpose::<1>(pixel, groups, &mut padded[x..], width);
            x += 1;
        }
    }

    /// Computes the rows of the output, starting at row `first`.
    #[inline(always)]
    fn convolve_rows<S: Simd>(
        &self,
        simd: S,
        first: usize,
        input: &[Lanes],
        params: &[GroupParams],
        out: &mut [Lanes],
    ) {
        let groups = params.len();
        let width = self.width();
        // The buffers have `width` extra elements because a window may start at any column
        // of the last group.
        let zeroes = vec![[0.0; LANES]; width * groups + width];
        let mut padded: [Vec<Lanes>; KERNEL_SIDE] = from_fn(|_| zeroes.clone());
        let mut next = 0;
        let rows = out.chunks_exact_mut(self.0.output[1] * groups);
        for (y, out) in (first..).zip(rows) {
            for source in (0..KERNEL_SIDE).filter_map(|row| self.source(y, row)) {
                if source >= next {
                    let count = self.0.input[1] * groups;
                    let row = &input[source * count..][..count];
                    self.pad(row, groups, &mut padded[source % KERNEL_SIDE]);
                    next = source + 1;
                }
            }
            let rows = from_fn(|row| match self.source(y, row) {
                Some(source) => &padded[source % KERNEL_SIDE][..],
                None => &zeroes,
            });
            match self.0.stride {
                1 => convolve_row::<S, 1, WINDOW, KERNEL_SIDE>(simd, rows, width, params, out),
                _ => convolve_row::<S, 2, WIDE_WINDOW, KERNEL_SIDE>(simd, rows, width, params, out),
            }
        }
    }
}

/// Transposes `COLUMNS` columns for [`DepthwiseConv3x3Nhwc::pad`].
#[inline(always)]
fn transpose<const COLUMNS: usize>(
    pixels: &[Lanes],
    groups: usize,
    padded: &mut [Lanes],
    width: usize,
) {
    let columns: [&[Lanes]; COLUMNS] = from_fn(|x| &pixels[x * groups..][..groups]);
    for (group, run) in (0..groups).zip(padded.chunks_exact_mut(width)) {
        if let Some(run) = run.first_chunk_mut::<COLUMNS>() {
            // This is a loop because the compiler does not inline `columns.map`.
            for (to, column) in run.iter_mut().zip(&columns) {
                *to = column[group];
            }
        }
    }
}

/// Computes a row of the output: first the whole blocks, then the remaining pixels one by
/// one. A block reads `WINDOW` columns, and a single pixel reads `NARROW` columns.
#[inline(always)]
fn convolve_row<S: Simd, const STRIDE: usize, const WINDOW: usize, const NARROW: usize>(
    simd: S,
    rows: [&[Lanes]; KERNEL_SIDE],
    width: usize,
    params: &[GroupParams],
    out: &mut [Lanes],
) {
    let groups = params.len();
    let from = |x: usize| rows.map(|row| row[x * STRIDE..].chunks_exact(width));
    let mut x = 0;
    let mut blocks = out.chunks_exact_mut(BLOCK * groups);
    for block in &mut blocks {
        convolve::<S, STRIDE, BLOCK, WINDOW>(simd, from(x), params, block);
        x += BLOCK;
    }
    for pixel in blocks.into_remainder().chunks_exact_mut(groups) {
        convolve::<S, STRIDE, 1, NARROW>(simd, from(x), params, pixel);
        x += 1;
    }
}

/// Computes the output of `COLUMNS` adjacent pixels, four channels at a time.
#[inline(always)]
fn convolve<'a, S: Simd, const STRIDE: usize, const COLUMNS: usize, const WINDOW: usize>(
    simd: S,
    rows: [impl ExactSizeIterator<Item = &'a [Lanes]>; KERNEL_SIDE],
    params: &[GroupParams],
    out: &mut [Lanes],
) {
    let groups = params.len();
    let mut pixels = out.chunks_exact_mut(groups);
    // All slices get the same length; otherwise, the compiler keeps a bounds check per
    // pixel in the loop.
    let mut out: [&mut [Lanes]; COLUMNS] =
        from_fn(|_| &mut pixels.next().unwrap_or_default()[..groups]);
    let [above, middle, below] = rows;
    let windows = above.zip(middle).zip(below);
    for (group, (params, ((above, middle), below))) in params.iter().zip(windows).enumerate() {
        let number = |index: usize| f32x4::from_slice(simd, &params[index]);
        let mut sums = [number(KERNEL_SIDE * KERNEL_SIDE); COLUMNS];
        for (row, window) in [above, middle, below].into_iter().enumerate() {
            let Some(window) = window.first_chunk::<WINDOW>() else {
                return;
            };
            let window: [f32x4<S>; WINDOW] = from_fn(|x| f32x4::from_slice(simd, &window[x]));
            for column in 0..KERNEL_SIDE {
                let tap = number(row * KERNEL_SIDE + column);
                for (x, sum) in sums.iter_mut().enumerate() {
                    *sum = window[x * STRIDE + column].mul_add(tap, *sum);
                }
            }
        }
        let [low, high] = [PARAMS - 2, PARAMS - 1].map(number);
        for (out, sum) in out.iter_mut().zip(sums) {
            sum.max(low).min(high).store_slice(&mut out[group]);
        }
    }
}

impl Op for DepthwiseConv3x3Nhwc {
    fn name(&self) -> StaticName {
        "DepthwiseConv3x3Nhwc".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwiseConv3x3Nhwc {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, params) = args_2!(inputs);
        let params = params.try_as_plain_ram()?;
        let (params, _) = params.as_slice::<f32>()?.as_chunks::<LANES>();
        let (params, _) = params.as_chunks::<PARAMS>();
        let ConvGeometry {
            input: from,
            output: to,
            ..
        } = self.0;
        let channels = LANES * params.len();
        let rank = input.rank();
        ensure!(rank >= 3 && input.shape()[rank - 3..] == [from[0], from[1], channels]);
        ensure!(input.len() == from[0] * from[1] * channels);
        let shape = self.0.out_shape(input.shape(), rank - 3);
        let input = input.try_as_plain_ram()?;
        let (input, _) = input.as_slice::<f32>()?.as_chunks::<LANES>();
        let mut output = Tensor::zero::<f32>(&shape)?;
        let total = output.len();
        let row = to[1] * channels;
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            row,
            total,
            |first, rows| {
                let (rows, _) = rows.as_chunks_mut::<LANES>();
                dispatch!(Level::new(), simd => self.convolve_rows(simd, first, input, params, rows));
                Ok(())
            },
        )?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for DepthwiseConv3x3Nhwc {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.0.out_fact(inputs[0], inputs[0].rank() - 3)))
    }

    as_op!();
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Convolves a picture with eight channels.
    fn convolved(simd: impl Simd, geometry: ConvGeometry) -> Vec<Lanes> {
        let [height, width] = geometry.input;
        let value = |at: usize| (at * 37 % 101) as f32 / 50.0 - 1.0;
        let input: Vec<Lanes> = (0..height * width * 2)
            .map(|quad| from_fn(|lane| value(quad * LANES + lane)))
            .collect();
        let params: [GroupParams; 2] = from_fn(|group| {
            from_fn(|index| match index {
                10 => [-0.5; LANES],
                11 => [0.9; LANES],
                _ => from_fn(|lane| value(index * 13 + group * LANES + lane)),
            })
        });
        let mut out = vec![[f32::NAN; LANES]; geometry.output[0] * geometry.output[1] * 2];
        DepthwiseConv3x3Nhwc(geometry).convolve_rows(simd, 0, &input, &params, &mut out);
        out
    }

    /// The property test in `rewrite` covers only the vector length of the machine that
    /// runs the test.
    #[test]
    fn all_kinds_of_vectors_compute_the_same() {
        let level = Level::new();
        for (height, width, stride) in [(1, 1, 1), (7, 7, 1), (14, 14, 2), (9, 35, 1), (40, 23, 2)]
        {
            let geometry = ConvGeometry {
                input: [height, width],
                output: [height, width].map(|side: usize| (side - 1) / stride + 1),
                before: [1, 1],
                stride,
            };
            let plain = convolved(level.as_sse2().unwrap(), geometry);
            let others = [
                level.as_sse4_2().map(|simd| convolved(simd, geometry)),
                level.as_avx2().map(|simd| convolved(simd, geometry)),
                level.as_avx512().map(|simd| convolved(simd, geometry)),
            ];
            for other in others.iter().flatten() {
                for (plain, other) in plain.iter().flatten().zip(other.iter().flatten()) {
                    assert!((plain - other).abs() < 1e-5, "{plain} and {other}");
                }
            }
        }
    }
}
