//! A 3x3 convolution of each channel on its own, with what limits its values, as
//! one operation: rows of a padded plane, nine taps wide.

#![expect(
    clippy::inline_always,
    reason = "what is compiled for a kind of processor must not be a call of what is not"
)]

use fearless_simd::{Level, Simd, SimdBase, dispatch};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;

/// Numbers of a channel in the second input: nine taps row by row, the bias, and
/// the lowest and highest value that comes out.
pub(in crate::onnx) const NUMBERS: usize = 12;
/// Height and width of what the taps cover.
pub(in crate::onnx) const SIDE: usize = 3;

/// How a window of taps goes over a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) struct ConvGeometry {
    /// Height and width that come in.
    pub(in crate::onnx) input: [usize; 2],
    /// Height and width that come out.
    pub(in crate::onnx) output: [usize; 2],
    /// Rows of zeroes above the input, and columns left of it; below and to the
    /// right are as many as the output takes.
    pub(in crate::onnx) before: [usize; 2],
    /// Of rows and columns alike: 1 or 2.
    pub(in crate::onnx) stride: usize,
}

impl ConvGeometry {
    /// The shape that comes out where that of `input` has height and width from `axis`
    /// on.
    pub(in crate::onnx) fn out_shape(&self, input: &[usize], axis: usize) -> TVec<usize> {
        let mut shape: TVec<usize> = input.into();
        shape[axis..axis + 2].copy_from_slice(&self.output);
        shape
    }

    /// What is known of what comes out, likewise.
    pub(in crate::onnx) fn out_fact(&self, input: &TypedFact, axis: usize) -> TypedFact {
        let mut fact = input.without_value();
        for (axis, size) in (axis..).zip(self.output) {
            fact.shape.set(axis, size.to_dim());
        }
        fact
    }
}

/// Inputs are `[…, channels, height, width]` and `[channels, 12]` (see
/// [`NUMBERS`]); the output is `[…, channels, out height, out width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct DepthwiseConv3x3(pub(in crate::onnx) ConvGeometry);

impl DepthwiseConv3x3 {
    /// Height and width of the planes that the padded input is dealt into: with a
    /// stride of 2, even and odd columns of even and odd rows each have their own,
    /// so that all values of a tap lie one after the other.
    pub(in crate::onnx) fn dealt(&self) -> [usize; 2] {
        self.0.output.map(|side| side + (SIDE - 1) / self.0.stride)
    }

    /// How many values a plane's convolution has, with those between the rows of
    /// the output, which are none of it: without them each row would end in steps
    /// of one value.
    pub(in crate::onnx) fn run(&self) -> usize {
        let [_, width] = self.dealt();
        (self.0.output[0] - 1) * width + self.0.output[1]
    }

    /// Deals the input's plane into `dealt`, whose zeroes are there already.
    #[inline(always)]
    pub(in crate::onnx) fn deal(&self, plane: &[f32], dealt: &mut [f32]) {
        let [height, width] = self.dealt();
        let [top, left] = self.0.before;
        for (y, values) in plane.chunks_exact(self.0.input[1]).enumerate() {
            // A division by 1 or 2 that is none.
            let shift = self.0.stride - 1;
            let (row, phase) = ((y + top) >> shift, (y + top) & shift);
            if row == height {
                break;
            }
            let start = |column| ((phase * self.0.stride + column) * height + row) * width;
            if self.0.stride == 1 {
                let count = values.len().min(width - left);
                let start = start(0) + left;
                dealt[start..start + count].copy_from_slice(&values[..count]);
                continue;
            }
            // The input's even columns are odd ones of the padded input if one
            // column of zeroes stands before them.
            let (pairs, last) = values.as_chunks::<2>();
            let evens = &mut dealt[start(left)..start(left) + width];
            for (to, pair) in evens.iter_mut().zip(pairs) {
                *to = pair[0];
            }
            if let (Some(to), [last]) = (evens.get_mut(pairs.len()), last) {
                *to = *last;
            }
            let odds = start(1 - left) + left..start(1 - left) + width;
            for (to, pair) in dealt[odds].iter_mut().zip(pairs) {
                *to = pair[1];
            }
        }
    }

    /// The first `count` values that the tap in `row` and `column` takes.
    #[inline(always)]
    pub(in crate::onnx) fn values<'a>(
        &self,
        dealt: &'a [f32],
        row: usize,
        column: usize,
        count: usize,
    ) -> &'a [f32] {
        let [height, width] = self.dealt();
        let plane = row % self.0.stride * self.0.stride + column % self.0.stride;
        let start = (plane * height + row / self.0.stride) * width + column / self.0.stride;
        &dealt[start..start + count]
    }

    /// Convolves planes one after the other: of each the input, if that is not what the
    /// output goes over, its numbers and where the output goes.
    #[inline(always)]
    fn convolve_planes<'a, S: Simd>(
        &self,
        simd: S,
        planes: impl Iterator<Item = (Option<&'a [f32]>, &'a [f32; NUMBERS], &'a mut [f32])>,
    ) {
        let [height, width] = self.dealt();
        // Whole vectors, so that no run ends in steps of one value.
        let count = self.run().next_multiple_of(S::f32s::LEN);
        let mut dealt = vec![0.0; self.0.stride * self.0.stride * height * width + S::f32s::LEN];
        let mut sums = vec![0.0; count];
        for (plane, numbers, out) in planes {
            self.deal(plane.unwrap_or(out), &mut dealt);
            let mut values: [[&[f32]; SIDE]; SIDE] = [[&[]; SIDE]; SIDE];
            for (row, values) in values.iter_mut().enumerate() {
                for (column, values) in values.iter_mut().enumerate() {
                    *values = self.values(&dealt, row, column, count);
                }
            }
            convolve(simd, values, numbers, &mut sums);
            let rows = out.chunks_exact_mut(self.0.output[1]);
            for (row, sums) in rows.zip(sums.chunks(width)) {
                row.copy_from_slice(&sums[..self.0.output[1]]);
            }
        }
    }
}

/// The convolution of a plane. `values` hold, for each tap, what it is multiplied
/// with.
#[inline(always)]
fn convolve<S: Simd>(
    _: S,
    values: [[&[f32]; SIDE]; SIDE],
    numbers: &[f32; NUMBERS],
    out: &mut [f32],
) {
    let count = out.len();
    // So many of each, or the compiler keeps nine checks in the loop.
    let [[a, b, c], [d, e, f], [g, h, i]] = values;
    let (a, b, c) = (&a[..count], &b[..count], &c[..count]);
    let (d, e, f) = (&d[..count], &e[..count], &f[..count]);
    let (g, h, i) = (&g[..count], &h[..count], &i[..count]);
    let [ka, kb, kc, kd, ke, kf, kg, kh, ki, bias, low, high] = *numbers;
    for x in 0..count {
        let mut sum = bias;
        sum = add_product::<S>(sum, a[x], ka);
        sum = add_product::<S>(sum, b[x], kb);
        sum = add_product::<S>(sum, c[x], kc);
        sum = add_product::<S>(sum, d[x], kd);
        sum = add_product::<S>(sum, e[x], ke);
        sum = add_product::<S>(sum, f[x], kf);
        sum = add_product::<S>(sum, g[x], kg);
        sum = add_product::<S>(sum, h[x], kh);
        sum = add_product::<S>(sum, i[x], ki);
        out[x] = smaller(larger(sum, low), high);
    }
}

/// `mul_add` is a call of a function where the processor is not known to have it:
/// those of x86 with vectors of eight values do.
#[inline(always)]
fn add_product<S: Simd>(sum: f32, a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") || S::f32s::LEN >= 8 {
        a.mul_add(b, sum)
    } else {
        sum + a * b
    }
}

/// The larger one, in the form that is one instruction here.
#[inline(always)]
pub(in crate::onnx) fn larger(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.max(b)
    } else if a > b {
        a
    } else {
        b
    }
}

/// The smaller one, like [`larger`].
#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.min(b)
    } else if a < b {
        a
    } else {
        b
    }
}

impl Op for DepthwiseConv3x3 {
    fn name(&self) -> StaticName {
        "Taps".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwiseConv3x3 {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, numbers) = args_2!(inputs);
        let rank = input.rank();
        ensure!(rank >= 3 && input.shape()[rank - 2..] == self.0.input);
        let shape = self.0.out_shape(input.shape(), rank - 2);
        let numbers = numbers.try_as_plain_ram()?;
        let (numbers, _) = numbers.as_slice::<f32>()?.as_chunks::<NUMBERS>();
        let [from, to] = [self.0.input, self.0.output].map(|side| side[0] * side[1]);
        // Each plane is read before it is written.
        let (input, mut output) = if input.is_exclusive() && from == to {
            (None, input.into_tensor().into_shape(&shape)?)
        } else {
            (Some(input), buffer_pool::tensor(&shape)?)
        };
        let plain = match &input {
            Some(input) => Some(input.try_as_plain_ram()?),
            None => None,
        };
        let values = match &plain {
            Some(plain) => Some(plain.as_slice::<f32>()?),
            None => None,
        };
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            to,
            total,
            |first, out| {
                let numbers = numbers.iter().cycle().skip(first);
                let out = out.chunks_exact_mut(to).zip(numbers);
                let planes = out.enumerate().map(|(index, (out, numbers))| {
                    let plane = values.map(|values| &values[(first + index) * from..][..from]);
                    (plane, numbers, out)
                });
                dispatch!(Level::new(), simd => self.convolve_planes(simd, planes));
                Ok(())
            },
        )?;
        if let Some(input) = input {
            buffer_pool::keep(input);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for DepthwiseConv3x3 {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.0.out_fact(inputs[0], inputs[0].rank() - 2)))
    }

    as_op!();
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn convolved(simd: impl Simd, taps: &DepthwiseConv3x3, plane: &[f32]) -> Vec<f32> {
        let numbers = [
            0.3, -0.2, 0.1, 0.7, -0.9, 0.4, -0.6, 0.5, 0.8, 0.05, -0.5, 0.9,
        ];
        let mut out = vec![f32::NAN; taps.0.output[0] * taps.0.output[1]];
        taps.convolve_planes(simd, std::iter::once((Some(plane), &numbers, &mut out[..])));
        out
    }

    /// The property in `rewrite` sees the vectors of one machine.
    #[test]
    fn all_kinds_of_vectors_compute_the_same() {
        let level = Level::new();
        for (height, width, stride) in [(1, 1, 1), (7, 7, 1), (14, 14, 2), (9, 35, 1), (40, 23, 2)]
        {
            let taps = DepthwiseConv3x3(ConvGeometry {
                input: [height, width],
                output: [height, width].map(|side: usize| (side - 1) / stride + 1),
                before: [1, 1],
                stride,
            });
            let plane: Vec<f32> = (0..height * width)
                .map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0)
                .collect();
            let plain = convolved(level.as_sse2().unwrap(), &taps, &plane);
            let others = [
                level.as_sse4_2().map(|simd| convolved(simd, &taps, &plane)),
                level.as_avx2().map(|simd| convolved(simd, &taps, &plane)),
                level.as_avx512().map(|simd| convolved(simd, &taps, &plane)),
            ];
            for other in others.iter().flatten() {
                for (plain, other) in plain.iter().zip(other) {
                    assert!((plain - other).abs() < 1e-6, "{plain} and {other}");
                }
            }
        }
    }
}
