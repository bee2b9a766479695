//! A depthwise 3x3 convolution fused with a clamp, for planar pictures. Each plane is
//! padded and then convolved as one long row.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use fearless_simd::{Level, Simd, SimdBase, dispatch};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;

/// Number of parameters per channel in the second input: the nine kernel elements row by
/// row, the bias, and the lower and upper bounds of the clamp.
pub(in crate::onnx) const PARAMS: usize = 12;
/// Height and width of the kernel.
pub(in crate::onnx) const KERNEL_SIDE: usize = 3;

/// Sizes, padding, and stride of a 3x3 convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) struct ConvGeometry {
    /// Height and width of the input.
    pub(in crate::onnx) input: [usize; 2],
    /// Height and width of the output.
    pub(in crate::onnx) output: [usize; 2],
    /// Number of rows of zero padding above the input, and number of columns of zero
    /// padding to the left of the input. Below and to the right of the input, there is
    /// as much padding as the output needs.
    pub(in crate::onnx) before: [usize; 2],
    /// Stride across rows and columns: 1 or 2.
    pub(in crate::onnx) stride: usize,
}

impl ConvGeometry {
    /// Returns the shape of the output for an input of shape `input`, in which `axis` is the
    /// index of the height.
    pub(in crate::onnx) fn out_shape(&self, input: &[usize], axis: usize) -> TVec<usize> {
        let mut shape: TVec<usize> = input.into();
        shape[axis..axis + 2].copy_from_slice(&self.output);
        shape
    }

    /// Returns the type and shape of the output (tract calls them a fact), where `axis` is
    /// the index of the height in the input's shape.
    pub(in crate::onnx) fn out_fact(&self, input: &TypedFact, axis: usize) -> TypedFact {
        let mut fact = input.without_value();
        for (axis, size) in (axis..).zip(self.output) {
            fact.shape.set(axis, size.to_dim());
        }
        fact
    }
}

/// The operator has two inputs: `[…, channels, height, width]` and the parameters
/// `[channels, 12]` (see [`PARAMS`]). The output is
/// `[…, channels, out height, out width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct DepthwiseConv3x3(pub(in crate::onnx) ConvGeometry);

impl DepthwiseConv3x3 {
    /// Height and width of each phase of the padded input. With a stride of 1, the only
    /// phase is the whole padded input. With a stride of 2, each combination of even or
    /// odd rows with even or odd columns is a phase. Within a phase, the values that a
    /// kernel element reads are contiguous.
    pub(in crate::onnx) fn phase_size(&self) -> [usize; 2] {
        self.0
            .output
            .map(|side| side + (KERNEL_SIDE - 1) / self.0.stride)
    }

    /// Number of values that the convolution of a plane computes. This number includes
    /// unused values between the rows of the output. If these values were skipped, each
    /// row would end in scalar steps.
    pub(in crate::onnx) fn run_length(&self) -> usize {
        let [_, width] = self.phase_size();
        (self.0.output[0] - 1) * width + self.0.output[1]
    }

    /// Copies a plane of the input into its phases, whose padding is already zero.
    #[inline(always)]
    pub(in crate::onnx) fn split_phases<T: Copy>(&self, plane: &[T], phases: &mut [T]) {
        let [height, width] = self.phase_size();
        let [top, left] = self.0.before;
        for (y, values) in plane.chunks_exact(self.0.input[1]).enumerate() {
            // The shift and the mask compute the quotient and the remainder of a division by
            // the stride, which is 1 or 2.
            let shift = self.0.stride - 1;
            let (row, phase) = ((y + top) >> shift, (y + top) & shift);
            if row == height {
                break;
            }
            let start = |column| ((phase * self.0.stride + column) * height + row) * width;
            if self.0.stride == 1 {
                let count = values.len().min(width - left);
                let start = start(0) + left;
                phases[start..start + count].copy_from_slice(&values[..count]);
                continue;
            }
            // With one column of padding on the left, the even columns of the input are the
            // odd columns of the padded input.
            let (pairs, last) = values.as_chunks::<2>();
            let evens = &mut phases[start(left)..start(left) + width];
            for (to, pair) in evens.iter_mut().zip(pairs) {
                *to = pair[0];
            }
            if let (Some(to), [last]) = (evens.get_mut(pairs.len()), last) {
                *to = *last;
            }
            let odds = start(1 - left) + left..start(1 - left) + width;
            for (to, pair) in phases[odds].iter_mut().zip(pairs) {
                *to = pair[1];
            }
        }
    }

    /// Returns the first `count` inputs of the kernel element at `row` and `column`.
    #[inline(always)]
    pub(in crate::onnx) fn values<'a, T>(
        &self,
        phases: &'a [T],
        row: usize,
        column: usize,
        count: usize,
    ) -> &'a [T] {
        let [height, width] = self.phase_size();
        let plane = row % self.0.stride * self.0.stride + column % self.0.stride;
        let start = (plane * height + row / self.0.stride) * width + column / self.0.stride;
        &phases[start..start + count]
    }

    /// Convolves planes. Each item consists of the input (`None` if the memory of the
    /// output holds the input), the parameters, and the output.
    #[inline(always)]
    fn convolve_planes<'a, S: Simd>(
        &self,
        simd: S,
        planes: impl Iterator<Item = (Option<&'a [f32]>, &'a [f32; PARAMS], &'a mut [f32])>,
    ) {
        let [height, width] = self.phase_size();
        // The length is rounded up to whole vectors, so that there are no scalar steps at
        // the end.
        let count = self.run_length().next_multiple_of(S::f32s::LEN);
        let mut phases = vec![0.0; self.0.stride * self.0.stride * height * width + S::f32s::LEN];
        let mut sums = vec![0.0; count];
        for (plane, params, out) in planes {
            self.split_phases(plane.unwrap_or(out), &mut phases);
            let mut values: [[&[f32]; KERNEL_SIDE]; KERNEL_SIDE] =
                [[&[]; KERNEL_SIDE]; KERNEL_SIDE];
            for (row, values) in values.iter_mut().enumerate() {
                for (column, values) in values.iter_mut().enumerate() {
                    *values = self.values(&phases, row, column, count);
                }
            }
            convolve(simd, values, params, &mut sums);
            let rows = out.chunks_exact_mut(self.0.output[1]);
            for (row, sums) in rows.zip(sums.chunks(width)) {
                row.copy_from_slice(&sums[..self.0.output[1]]);
            }
        }
    }
}

/// Convolves a plane. `values` contains the inputs of each kernel element.
#[inline(always)]
fn convolve<S: Simd>(
    _: S,
    values: [[&[f32]; KERNEL_SIDE]; KERNEL_SIDE],
    params: &[f32; PARAMS],
    out: &mut [f32],
) {
    let count = out.len();
    // All slices get the same length; otherwise, the compiler keeps nine bounds checks in
    // the loop.
    let [[a, b, c], [d, e, f], [g, h, i]] = values;
    let (a, b, c) = (&a[..count], &b[..count], &c[..count]);
    let (d, e, f) = (&d[..count], &e[..count], &f[..count]);
    let (g, h, i) = (&g[..count], &h[..count], &i[..count]);
    let [ka, kb, kc, kd, ke, kf, kg, kh, ki, bias, low, high] = *params;
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
        out[x] = min(max(sum, low), high);
    }
}

/// Computes `sum + a * b`. `mul_add` compiles to a function call unless the target is
/// known to have a multiply-add instruction. x86 CPUs with vectors of eight values have
/// this instruction.
#[inline(always)]
fn add_product<S: Simd>(sum: f32, a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") || S::f32s::LEN >= 8 {
        a.mul_add(b, sum)
    } else {
        sum + a * b
    }
}

/// Computes the maximum in a form that compiles to a single instruction.
#[inline(always)]
pub(in crate::onnx) fn max(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.max(b)
    } else if a > b {
        a
    } else {
        b
    }
}

/// Computes the minimum in the same form as [`max`].
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
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
        "DepthwiseConv3x3".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for DepthwiseConv3x3 {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, params) = args_2!(inputs);
        let rank = input.rank();
        ensure!(rank >= 3 && input.shape()[rank - 2..] == self.0.input);
        let shape = self.0.out_shape(input.shape(), rank - 2);
        let params = params.try_as_plain_ram()?;
        let (params, _) = params.as_slice::<f32>()?.as_chunks::<PARAMS>();
        let [from, to] = [self.0.input, self.0.output].map(|side| side[0] * side[1]);
        // If possible, write the output into the memory of the input. This is safe
        // because each input plane is copied before the output plane is written.
        let (input, mut output) = if input.is_exclusive() && from == to {
            (None, input.into_tensor().into_shape(&shape)?)
        } else {
            (Some(input), buffer_pool::tensor::<f32>(&shape)?)
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
                let params = params.iter().cycle().skip(first);
                let out = out.chunks_exact_mut(to).zip(params);
                let planes = out.enumerate().map(|(index, (out, params))| {
                    let plane = values.map(|values| &values[(first + index) * from..][..from]);
                    (plane, params, out)
                });
                dispatch!(Level::new(), simd => self.convolve_planes(simd, planes));
                Ok(())
            },
        )?;
        if let Some(input) = input {
            buffer_pool::recycle(input);
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
        let params = [
            0.3, -0.2, 0.1, 0.7, -0.9, 0.4, -0.6, 0.5, 0.8, 0.05, -0.5, 0.9,
        ];
        let mut out = vec![f32::NAN; taps.0.output[0] * taps.0.output[1]];
        taps.convolve_planes(simd, std::iter::once((Some(plane), &params, &mut out[..])));
        out
    }

    /// The property test in `rewrite` covers only the vector length of the machine that
    /// runs the test.
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
