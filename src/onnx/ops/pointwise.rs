//! A 1x1 convolution fused with its bias and a clamp. It computes the product of the
//! weight matrix and the planes. Vectors run along the planes, so they are loaded and
//! stored without rearrangement.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch};
use tract_linalg::multithread::{Executor, current_tract_executor, par_chunks_mut};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;

/// Number of output channels per block. The parameters of the channels in a block are
/// interleaved. With six channels and two vectors of pixels, the sums, the inputs, and
/// a weight fit in 16 registers; with four vectors, they fit in 32 registers.
pub(in crate::onnx) const BLOCK: usize = 6;
/// Number of rows of parameters before the weights: the bias, and the lower and upper
/// bounds of the clamp.
pub(in crate::onnx) const HEADER_ROWS: usize = 3;
/// Minimum number of pixels in a plane. It equals the number of values in the longest
/// vector.
pub(in crate::onnx) const MIN_AREA: usize = 16;

/// Maximum number of input values that are packed together, unless a single panel has
/// more. This many values take 24 KB, which fits in the L1 cache. As many pixels as
/// possible are packed together, because that makes the contiguous writes longer.
const MAX_PACKED_VALUES: usize = 6 << 10;
/// tract shares work among threads only if the work consists of a minimum number of
/// values. This many multiplications count as one value.
const PRODUCTS_PER_VALUE: usize = 16;

/// The operator has two inputs: a single picture `[…, channels, height, width]`, and
/// parameters `[out channels / 6, 3 + channels, 6]` (see [`HEADER_ROWS`]). The
/// parameters are padded with zeros to a multiple of six channels. The output is
/// `[…, out channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct Pointwise {
    /// Shape of the output.
    pub(in crate::onnx) shape: TVec<usize>,
}

/// One row of a block's parameters.
type BlockParams = [f32; BLOCK];

/// Contiguous planes of `area` pixels.
#[derive(Clone, Copy)]
struct Planes<'a> {
    values: &'a [f32],
    area: usize,
}

impl Planes<'_> {
    /// Convolves all blocks of output channels.
    #[inline(always)]
    fn convolve<S: Simd>(self, simd: S, params: &[BlockParams], out: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let mut packed = Vec::new();
        let mut start = 0;
        // CPUs with vectors this long have 32 registers.
        if lanes >= MIN_AREA {
            start = self.panels::<S, 4>(simd, start, params, &mut packed, out);
        }
        start = self.panels::<S, 2>(simd, start, params, &mut packed, out);
        start = self.panels::<S, 1>(simd, start, params, &mut packed, out);
        if start < self.area {
            // The last vector overlaps the previous vector, so some pixels are computed
            // twice.
            let last = self.area - lanes;
            self.panels::<S, 1>(simd, last, params, &mut packed, out);
        }
    }

    /// Convolves all whole panels of `VECTORS` vectors of pixels, starting at the pixel
    /// `start`, and returns the pixel at which the next panel would start. `packed` is a
    /// buffer for the input of the panels; each panel is stored channel by channel.
    #[inline(always)]
    fn panels<S: Simd, const VECTORS: usize>(
        self,
        simd: S,
        start: usize,
        params: &[BlockParams],
        packed: &mut Vec<f32>,
        out: &mut [f32],
    ) -> usize {
        let channels = self.values.len() / self.area;
        let width = VECTORS * S::f32s::LEN;
        let panel = channels * width;
        let at_once = (MAX_PACKED_VALUES / panel).max(1) * width;
        let end = self.area - (self.area - start) % width;
        for start in (start..end).step_by(at_once) {
            let count = at_once.min(end - start);
            packed.resize(count * channels, 0.0);
            for (channel, plane) in self.values.chunks_exact(self.area).enumerate() {
                let from = plane[start..][..count].chunks_exact(width);
                for (panel, from) in packed.chunks_exact_mut(panel).zip(from) {
                    panel[channel * width..][..width].copy_from_slice(from);
                }
            }
            let blocks = params.chunks_exact(HEADER_ROWS + channels);
            for (params, out) in blocks.zip(out.chunks_mut(BLOCK * self.area)) {
                for (index, panel) in packed.chunks_exact(panel).enumerate() {
                    let sums = sums::<S, VECTORS>(simd, panel, params);
                    for (sums, plane) in sums.iter().zip(out.chunks_exact_mut(self.area)) {
                        let to = &mut plane[start + index * width..][..width];
                        for (to, sum) in to.chunks_exact_mut(S::f32s::LEN).zip(sums) {
                            sum.store_slice(to);
                        }
                    }
                }
            }
        }
        end
    }
}

/// Computes the output of a block of channels for a panel.
#[inline(always)]
fn sums<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    params: &[BlockParams],
) -> [[S::f32s; VECTORS]; BLOCK] {
    let splat = |value| S::f32s::splat(simd, value);
    let mut sums = [[splat(0.0); VECTORS]; BLOCK];
    let Some(([bias, low, high], weights)) = params.split_first_chunk::<HEADER_ROWS>() else {
        return sums;
    };
    for (sums, bias) in sums.iter_mut().zip(bias) {
        *sums = [splat(*bias); VECTORS];
    }
    let panel = panel.chunks_exact(VECTORS * S::f32s::LEN);
    for (weights, values) in weights.iter().zip(panel) {
        let values: [S::f32s; VECTORS] = from_fn(|vector| {
            S::f32s::from_slice(simd, &values[vector * S::f32s::LEN..][..S::f32s::LEN])
        });
        for (sums, weight) in sums.iter_mut().zip(weights) {
            let weight = splat(*weight);
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = value.mul_add(weight, *sum);
            }
        }
    }
    for ((sums, low), high) in sums.iter_mut().zip(low).zip(high) {
        for sum in sums {
            *sum = sum.max(splat(*low)).min(splat(*high));
        }
    }
    sums
}

impl Op for Pointwise {
    fn name(&self) -> StaticName {
        "Pointwise".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for Pointwise {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, params) = args_2!(inputs);
        let (Some([channels, height, width]), Some([out_channels, ..])) = (
            input.shape().last_chunk::<3>(),
            self.shape.last_chunk::<3>(),
        ) else {
            bail!("no planes");
        };
        let area = height * width;
        ensure!(area >= MIN_AREA && input.len() == channels * area);
        let blocks = out_channels.div_ceil(BLOCK);
        ensure!(params.shape() == [blocks, HEADER_ROWS + channels, BLOCK]);
        let plain = input.try_as_plain_ram()?;
        let planes = Planes {
            values: plain.as_slice::<f32>()?,
            area,
        };
        let params = params.try_as_plain_ram()?;
        let (params, _) = params.as_slice::<f32>()?.as_chunks::<BLOCK>();
        let mut output = buffer_pool::tensor::<f32>(&self.shape)?;
        // Each thread packs its own copy of the input.
        let threads = match current_tract_executor() {
            Executor::MultiThread(pool) => pool.current_num_threads(),
            _ => 1,
        };
        let share = blocks.div_ceil(threads);
        let products = output.len() * channels;
        let mut plain = output.try_as_plain_ram_mut()?;
        let mut shares: Vec<&mut [f32]> = plain
            .as_slice_mut::<f32>()?
            .chunks_mut(share * BLOCK * area)
            .collect();
        par_chunks_mut(
            &mut shares,
            1,
            products / PRODUCTS_PER_VALUE,
            |first, shares| {
                let params = params.chunks(share * (HEADER_ROWS + channels)).skip(first);
                for (out, params) in shares.iter_mut().zip(params) {
                    dispatch!(Level::new(), simd => planes.convolve(simd, params, out));
                }
                Ok(())
            },
        )?;
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Pointwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(&*self.shape)))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use tract_linalg::multithread::multithread_tract_scope;

    use super::*;

    fn convolved(simd: impl Simd, [channels, area, out_channels]: [usize; 3]) -> Vec<f32> {
        let value = |at: usize| (at * 37 % 101) as f32 / 50.0 - 1.0;
        let input: Vec<f32> = (0..channels * area).map(value).collect();
        let depth = HEADER_ROWS + channels;
        let params: Vec<BlockParams> = (0..out_channels.div_ceil(BLOCK) * depth)
            .map(|at| match at % depth {
                1 => [-2.0; BLOCK],
                2 => [3.0; BLOCK],
                _ => from_fn(|row| value(at * 13 + row)),
            })
            .collect();
        let mut out = vec![f32::NAN; out_channels * area];
        let planes = Planes {
            values: &input,
            area,
        };
        planes.convolve(simd, &params, &mut out);
        out
    }

    /// The property test in `rewrite` covers only the vector length of the machine that
    /// runs the test.
    #[test]
    fn all_kinds_of_vectors_compute_the_same() {
        let level = Level::new();
        for shape in [[1, 16, 1], [5, 49, 9], [30, 196, 24], [300, 500, 12]] {
            let plain = convolved(level.as_sse2().unwrap(), shape);
            let others = [
                level.as_sse4_2().map(|simd| convolved(simd, shape)),
                level.as_avx2().map(|simd| convolved(simd, shape)),
                level.as_avx512().map(|simd| convolved(simd, shape)),
            ];
            for other in others.iter().flatten() {
                for (plain, other) in plain.iter().zip(other) {
                    assert!((plain - other).abs() < 1e-4, "{plain} and {other}");
                }
            }
        }
    }

    #[test]
    fn threads_share_what_one_computes() {
        let (input, out_channels, side) = ([1, 64, 14, 14], 40_usize, 14);
        let tensor = |shape: &[usize]| {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|at| (at * 37 % 101) as f32 / 50.0).collect();
            Tensor::from_shape(shape, &values).unwrap()
        };
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact(input)).unwrap();
        let params = tensor(&[out_channels.div_ceil(BLOCK), HEADER_ROWS + input[1], BLOCK]);
        let params = model.add_const("params", params).unwrap();
        let op = Pointwise {
            shape: tvec!(1, out_channels, side, side),
        };
        let wire = model.wire_node("product", op, &[wire, params]).unwrap();
        model.select_output_outlets(&wire).unwrap();
        let plan = model.into_runnable().unwrap();
        let run = || plan.run(tvec!(tensor(&input).into_tvalue())).unwrap();
        let one = run();
        for threads in 2..=5 {
            let pool = Executor::multithread(threads);
            assert_eq!(multithread_tract_scope(pool, run), one);
        }
    }
}
