//! A convolution of single pixels (1x1), with a bias and what limits its values, as
//! one operation: the matrix product of weights and planes, whose vectors run along
//! the planes, so that they are loaded and stored as they lie there.

#![expect(
    clippy::inline_always,
    reason = "what is compiled for a kind of processor must not be a call of what is not"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch};
use tract_linalg::multithread::{Executor, current_tract_executor, par_chunks_mut};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;

/// Channels of the output that are made at once, whose numbers lie side by side. Six
/// with two vectors of pixels each keep their sums, what is multiplied and a weight in
/// 16 registers; with four vectors, in 32.
pub(in crate::onnx) const BLOCK: usize = 6;
/// Numbers of an output's channel before its weights: the bias, and the lowest and
/// highest value that comes out.
pub(in crate::onnx) const FRONT: usize = 3;
/// The fewest pixels of a plane: one vector of the longest.
pub(in crate::onnx) const LEAST: usize = 16;

/// Values of the input that are made ready at once, if a panel is not more: 24 KB, which
/// stay in the first cache. The more pixels, the longer are the runs that are written.
const READY: usize = 6 << 10;
/// So many multiplications count as one value, of which tract has a least number that
/// threads share.
const PRODUCTS_A_VALUE: usize = 16;

/// Inputs are `[…, channels, height, width]`, of one picture, and
/// `[out channels / 6, 3 + channels, 6]` (see [`FRONT`]), with zeroes where there are
/// no more channels; the output is `[…, out channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct Pointwise {
    /// That of the output.
    pub(in crate::onnx) shape: TVec<usize>,
}

/// The numbers of [`BLOCK`] channels.
type Numbers = [f32; BLOCK];

/// Planes of `area` pixels, one after the other.
#[derive(Clone, Copy)]
struct Planes<'a> {
    values: &'a [f32],
    area: usize,
}

impl Planes<'_> {
    /// Convolves blocks of channels one after the other.
    #[inline(always)]
    fn convolve<S: Simd>(self, simd: S, numbers: &[Numbers], out: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let mut ready = Vec::new();
        let mut start = 0;
        // With vectors this long come 32 registers.
        if lanes >= LEAST {
            start = self.panels::<S, 4>(simd, start, numbers, &mut ready, out);
        }
        start = self.panels::<S, 2>(simd, start, numbers, &mut ready, out);
        start = self.panels::<S, 1>(simd, start, numbers, &mut ready, out);
        if start < self.area {
            // Some pixels are made again.
            let last = self.area - lanes;
            self.panels::<S, 1>(simd, last, numbers, &mut ready, out);
        }
    }

    /// Convolves as many panels, of so many vectors of pixels each, as there are from
    /// `start` on, and gives where the next one would start. `ready` is for the values
    /// of panels as they are read: in each, those of a channel follow those of the
    /// channel before.
    #[inline(always)]
    fn panels<S: Simd, const VECTORS: usize>(
        self,
        simd: S,
        start: usize,
        numbers: &[Numbers],
        ready: &mut Vec<f32>,
        out: &mut [f32],
    ) -> usize {
        let channels = self.values.len() / self.area;
        let width = VECTORS * S::f32s::LEN;
        let panel = channels * width;
        let at_once = (READY / panel).max(1) * width;
        let end = self.area - (self.area - start) % width;
        for start in (start..end).step_by(at_once) {
            let count = at_once.min(end - start);
            ready.resize(count * channels, 0.0);
            for (channel, plane) in self.values.chunks_exact(self.area).enumerate() {
                let from = plane[start..][..count].chunks_exact(width);
                for (panel, from) in ready.chunks_exact_mut(panel).zip(from) {
                    panel[channel * width..][..width].copy_from_slice(from);
                }
            }
            let blocks = numbers.chunks_exact(FRONT + channels);
            for (numbers, out) in blocks.zip(out.chunks_mut(BLOCK * self.area)) {
                for (index, panel) in ready.chunks_exact(panel).enumerate() {
                    let sums = sums::<S, VECTORS>(simd, panel, numbers);
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

/// The values of a block of channels in a panel.
#[inline(always)]
fn sums<S: Simd, const VECTORS: usize>(
    simd: S,
    panel: &[f32],
    numbers: &[Numbers],
) -> [[S::f32s; VECTORS]; BLOCK] {
    let splat = |value| S::f32s::splat(simd, value);
    let mut sums = [[splat(0.0); VECTORS]; BLOCK];
    let Some(([bias, low, high], weights)) = numbers.split_first_chunk::<FRONT>() else {
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
        let (input, numbers) = args_2!(inputs);
        let (Some([channels, height, width]), Some([out_channels, ..])) = (
            input.shape().last_chunk::<3>(),
            self.shape.last_chunk::<3>(),
        ) else {
            bail!("no planes");
        };
        let area = height * width;
        ensure!(area >= LEAST && input.len() == channels * area);
        let blocks = out_channels.div_ceil(BLOCK);
        ensure!(numbers.shape() == [blocks, FRONT + channels, BLOCK]);
        let plain = input.try_as_plain_ram()?;
        let planes = Planes {
            values: plain.as_slice::<f32>()?,
            area,
        };
        let numbers = numbers.try_as_plain_ram()?;
        let (numbers, _) = numbers.as_slice::<f32>()?.as_chunks::<BLOCK>();
        let mut output = buffer_pool::tensor(&self.shape)?;
        // Each thread makes the input ready for itself.
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
            products / PRODUCTS_A_VALUE,
            |first, shares| {
                let numbers = numbers.chunks(share * (FRONT + channels)).skip(first);
                for (out, numbers) in shares.iter_mut().zip(numbers) {
                    dispatch!(Level::new(), simd => planes.convolve(simd, numbers, out));
                }
                Ok(())
            },
        )?;
        buffer_pool::keep(input);
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
        let depth = FRONT + channels;
        let numbers: Vec<Numbers> = (0..out_channels.div_ceil(BLOCK) * depth)
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
        planes.convolve(simd, &numbers, &mut out);
        out
    }

    /// The property in `rewrite` sees the vectors of one machine.
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
        let numbers = tensor(&[out_channels.div_ceil(BLOCK), FRONT + input[1], BLOCK]);
        let numbers = model.add_const("numbers", numbers).unwrap();
        let op = Pointwise {
            shape: tvec!(1, out_channels, side, side),
        };
        let wire = model.wire_node("product", op, &[wire, numbers]).unwrap();
        model.select_output_outlets(&wire).unwrap();
        let plan = model.into_runnable().unwrap();
        let run = || plan.run(tvec!(tensor(&input).into_tvalue())).unwrap();
        let one = run();
        for threads in 2..=5 {
            let team = Executor::multithread(threads);
            assert_eq!(multithread_tract_scope(team, run), one);
        }
    }
}
