//! What `taps` does, for pictures whose pixels hold all channels one after the
//! other, as tract lays them out on aarch64.

#![expect(
    clippy::inline_always,
    reason = "what is compiled for a kind of processor must not be a call of what is not"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x4};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

use super::depthwise::{ConvGeometry, NUMBERS, SIDE};

/// Channels that are convolved at once.
pub(in crate::onnx) const LANES: usize = 4;
/// The values of as many channels in one pixel.
type Quad = [f32; LANES];
/// What [`NUMBERS`] says, of as many channels.
type Numbers = [Quad; NUMBERS];

/// Pixels of a row that are convolved at once: their sums and what they need stay in
/// the 32 registers of aarch64, and the widths of a MobileNet on 224x224 pixels are
/// multiples of it.
const BLOCK: usize = 7;
/// How many columns a block takes with a stride of 1 and of 2.
const WINDOW: usize = BLOCK - 1 + SIDE;
const WIDE_WINDOW: usize = 2 * (BLOCK - 1) + SIDE;

/// Inputs are `[…, height, width, channels]`, of one picture, and
/// `[channels / 4, 12, 4]`, the numbers of each four channels side by side; the
/// output is `[…, out height, out width, channels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct DepthwiseConv3x3Nhwc(pub(in crate::onnx) ConvGeometry);

impl DepthwiseConv3x3Nhwc {
    /// How many columns the padded input has.
    fn width(&self) -> usize {
        let ConvGeometry { output, stride, .. } = self.0;
        (output[1] - 1) * stride + SIDE
    }

    /// The row of the input that the window of an output's row has in its `row`, if
    /// that is none of zeroes.
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

    /// Writes a row of the input into a padded one. That has the columns of the first
    /// four channels side by side, then those of the next: the values of a window are
    /// neighbors.
    #[inline(always)]
    fn pad(&self, row: &[Quad], groups: usize, padded: &mut [Quad]) {
        let width = self.width();
        let left = self.0.before[1];
        let count = self.0.input[1].min(width - left);
        let mut blocks = row[..count * groups].chunks_exact(BLOCK * groups);
        let mut x = left;
        for block in &mut blocks {
            turn::<BLOCK>(block, groups, &mut padded[x..], width);
            x += BLOCK;
        }
        for pixel in blocks.remainder().chunks_exact(groups) {
            turn::<1>(pixel, groups, &mut padded[x..], width);
            x += 1;
        }
    }

    /// Convolves rows of the output from the `first` on.
    #[inline(always)]
    fn convolve_rows<S: Simd>(
        &self,
        simd: S,
        first: usize,
        input: &[Quad],
        numbers: &[Numbers],
        out: &mut [Quad],
    ) {
        let groups = numbers.len();
        let width = self.width();
        // A window may start anywhere in the last run of columns.
        let zeroes = vec![[0.0; LANES]; width * groups + width];
        let mut padded: [Vec<Quad>; SIDE] = from_fn(|_| zeroes.clone());
        let mut next = 0;
        let rows = out.chunks_exact_mut(self.0.output[1] * groups);
        for (y, out) in (first..).zip(rows) {
            for source in (0..SIDE).filter_map(|row| self.source(y, row)) {
                if source >= next {
                    let count = self.0.input[1] * groups;
                    let row = &input[source * count..][..count];
                    self.pad(row, groups, &mut padded[source % SIDE]);
                    next = source + 1;
                }
            }
            let rows = from_fn(|row| match self.source(y, row) {
                Some(source) => &padded[source % SIDE][..],
                None => &zeroes,
            });
            match self.0.stride {
                1 => convolve_row::<S, 1, WINDOW, SIDE>(simd, rows, width, numbers, out),
                _ => convolve_row::<S, 2, WIDE_WINDOW, SIDE>(simd, rows, width, numbers, out),
            }
        }
    }
}

/// Puts the pixels of some columns where [`DepthwiseConv3x3Nhwc::pad`] wants them.
#[inline(always)]
fn turn<const COLUMNS: usize>(pixels: &[Quad], groups: usize, padded: &mut [Quad], width: usize) {
    let columns: [&[Quad]; COLUMNS] = from_fn(|x| &pixels[x * groups..][..groups]);
    for (group, run) in (0..groups).zip(padded.chunks_exact_mut(width)) {
        if let Some(run) = run.first_chunk_mut::<COLUMNS>() {
            // Not `columns.map`, which becomes a call.
            for (to, column) in run.iter_mut().zip(&columns) {
                *to = column[group];
            }
        }
    }
}

/// A row of the output, a block at a time and then what is left a pixel at a time.
/// `WINDOW` columns are what a block takes, and `NARROW` a pixel.
#[inline(always)]
fn convolve_row<S: Simd, const STRIDE: usize, const WINDOW: usize, const NARROW: usize>(
    simd: S,
    rows: [&[Quad]; SIDE],
    width: usize,
    numbers: &[Numbers],
    out: &mut [Quad],
) {
    let groups = numbers.len();
    let from = |x: usize| rows.map(|row| row[x * STRIDE..].chunks_exact(width));
    let mut x = 0;
    let mut blocks = out.chunks_exact_mut(BLOCK * groups);
    for block in &mut blocks {
        convolve::<S, STRIDE, BLOCK, WINDOW>(simd, from(x), numbers, block);
        x += BLOCK;
    }
    for pixel in blocks.into_remainder().chunks_exact_mut(groups) {
        convolve::<S, STRIDE, 1, NARROW>(simd, from(x), numbers, pixel);
        x += 1;
    }
}

/// The sums of neighboring pixels, four channels at a time.
#[inline(always)]
fn convolve<'a, S: Simd, const STRIDE: usize, const COLUMNS: usize, const WINDOW: usize>(
    simd: S,
    rows: [impl ExactSizeIterator<Item = &'a [Quad]>; SIDE],
    numbers: &[Numbers],
    out: &mut [Quad],
) {
    let groups = numbers.len();
    let mut pixels = out.chunks_exact_mut(groups);
    // So many of each, or the compiler keeps a check for each pixel in the loop.
    let mut out: [&mut [Quad]; COLUMNS] =
        from_fn(|_| &mut pixels.next().unwrap_or_default()[..groups]);
    let [above, middle, below] = rows;
    let windows = above.zip(middle).zip(below);
    for (group, (numbers, ((above, middle), below))) in numbers.iter().zip(windows).enumerate() {
        let number = |index: usize| f32x4::from_slice(simd, &numbers[index]);
        let mut sums = [number(SIDE * SIDE); COLUMNS];
        for (row, window) in [above, middle, below].into_iter().enumerate() {
            let Some(window) = window.first_chunk::<WINDOW>() else {
                return;
            };
            let window: [f32x4<S>; WINDOW] = from_fn(|x| f32x4::from_slice(simd, &window[x]));
            for column in 0..SIDE {
                let tap = number(row * SIDE + column);
                for (x, sum) in sums.iter_mut().enumerate() {
                    *sum = window[x * STRIDE + column].mul_add(tap, *sum);
                }
            }
        }
        let [low, high] = [NUMBERS - 2, NUMBERS - 1].map(number);
        for (out, sum) in out.iter_mut().zip(sums) {
            sum.max(low).min(high).store_slice(&mut out[group]);
        }
    }
}

impl Op for DepthwiseConv3x3Nhwc {
    fn name(&self) -> StaticName {
        "PixelTaps".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwiseConv3x3Nhwc {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, numbers) = args_2!(inputs);
        let numbers = numbers.try_as_plain_ram()?;
        let (numbers, _) = numbers.as_slice::<f32>()?.as_chunks::<LANES>();
        let (numbers, _) = numbers.as_chunks::<NUMBERS>();
        let ConvGeometry {
            input: from,
            output: to,
            ..
        } = self.0;
        let channels = LANES * numbers.len();
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
                dispatch!(Level::new(), simd => self.convolve_rows(simd, first, input, numbers, rows));
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

    /// Of pixels of eight channels.
    fn convolved(simd: impl Simd, sides: ConvGeometry) -> Vec<Quad> {
        let [height, width] = sides.input;
        let value = |at: usize| (at * 37 % 101) as f32 / 50.0 - 1.0;
        let input: Vec<Quad> = (0..height * width * 2)
            .map(|quad| from_fn(|lane| value(quad * LANES + lane)))
            .collect();
        let numbers: [Numbers; 2] = from_fn(|group| {
            from_fn(|index| match index {
                10 => [-0.5; LANES],
                11 => [0.9; LANES],
                _ => from_fn(|lane| value(index * 13 + group * LANES + lane)),
            })
        });
        let mut out = vec![[f32::NAN; LANES]; sides.output[0] * sides.output[1] * 2];
        DepthwiseConv3x3Nhwc(sides).convolve_rows(simd, 0, &input, &numbers, &mut out);
        out
    }

    /// The property in `rewrite` sees the vectors of one machine.
    #[test]
    fn all_kinds_of_vectors_compute_the_same() {
        let level = Level::new();
        for (height, width, stride) in [(1, 1, 1), (7, 7, 1), (14, 14, 2), (9, 35, 1), (40, 23, 2)]
        {
            let sides = ConvGeometry {
                input: [height, width],
                output: [height, width].map(|side: usize| (side - 1) / stride + 1),
                before: [1, 1],
                stride,
            };
            let plain = convolved(level.as_sse2().unwrap(), sides);
            let others = [
                level.as_sse4_2().map(|simd| convolved(simd, sides)),
                level.as_avx2().map(|simd| convolved(simd, sides)),
                level.as_avx512().map(|simd| convolved(simd, sides)),
            ];
            for other in others.iter().flatten() {
                for (plain, other) in plain.iter().flatten().zip(other.iter().flatten()) {
                    assert!((plain - other).abs() < 1e-5, "{plain} and {other}");
                }
            }
        }
    }
}
