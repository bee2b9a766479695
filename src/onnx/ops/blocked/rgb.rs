//! A full 3x3 convolution of a picture with three channels, fused with its bias and a clamp.
//! The input has the planar layout, and the output has the blocked layout.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, dispatch, f32x4};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::pointwise::{BLOCK, Product, add_products, biases, store};
use super::{LANES, Lanes, PRODUCTS_PER_VALUE, Size, broadcast, threads, vectors};
use crate::onnx::ops::buffer_pool;
use crate::onnx::ops::depthwise::{ConvGeometry, DepthwiseConv3x3, KERNEL_SIDE};

/// Number of channels of the input.
pub(in crate::onnx) const RGB: usize = 3;
/// Number of weights for each output channel.
const TAPS: usize = RGB * KERNEL_SIDE * KERNEL_SIDE;

/// Number of adjacent pixels in a row that are computed together. They are two vectors of
/// the input. With [`BLOCK`] vectors of output channels, the sums, the input, and the
/// weights fit in the 32 registers of aarch64.
const TILE: usize = 8;

/// The values that each kernel element reads for the pixels of a tile.
type Panel = [[f32; TILE]; TAPS];

/// The operator has two inputs: a single picture `[1, 3, height, width]`, and the parameters
/// of a product with [`TAPS`] input channels (see
/// [`product_params`](super::product_params)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedRgbConv {
    pub(in crate::onnx) geometry: ConvGeometry,
    /// Number of output channels, divided by four and rounded up.
    pub(in crate::onnx) groups: usize,
    pub(in crate::onnx) is_clamped: bool,
}

/// The picture, for each kernel element as one long row. The values for adjacent pixels are
/// adjacent.
struct Runs<'a> {
    runs: Vec<&'a [f32]>,
    /// Number of values between the beginnings of two rows.
    width: usize,
}

impl Runs<'_> {
    /// Writes the values of a row.
    fn fill(&self, y: usize, panels: &mut [Panel]) {
        for (tap, run) in self.runs.iter().enumerate() {
            let (values, _) = run[y * self.width..].as_chunks::<TILE>();
            for (panel, values) in panels.iter_mut().zip(values) {
                panel[tap] = *values;
            }
        }
    }

    /// Computes rows of the output, starting at row `first`. A row contains `width` vectors
    /// for each group.
    #[inline(always)]
    fn convolve_rows<'a, S: Simd>(
        &self,
        simd: S,
        first: usize,
        product: Product,
        rows: impl Iterator<Item = &'a mut [Lanes]>,
        width: usize,
    ) {
        let mut panels = vec![[[0.0; TILE]; TAPS]; width.div_ceil(TILE)];
        for (y, row) in (first..).zip(rows) {
            self.fill(y, &mut panels);
            for (params, out) in product.blocks().zip(row.chunks_mut(BLOCK * width)) {
                let clamp = product.clamp();
                match out.len() / width {
                    BLOCK => block::<S, BLOCK>(simd, &panels, params, clamp, out, width),
                    2 => block::<S, 2>(simd, &panels, params, clamp, out, width),
                    _ => block::<S, 1>(simd, &panels, params, clamp, out, width),
                }
            }
        }
    }
}

/// Computes a block of output channels for a row.
#[inline(always)]
fn block<S: Simd, const GROUPS: usize>(
    simd: S,
    panels: &[Panel],
    params: &[Lanes],
    clamp: Option<[f32; 2]>,
    out: &mut [Lanes],
    width: usize,
) {
    let (params, _) = params.as_chunks::<GROUPS>();
    let Some((bias, weights)) = params.split_first() else {
        return;
    };
    for (x, panel) in (0..width).step_by(TILE).zip(panels) {
        let mut sums = biases::<S, TILE, GROUPS>(simd, bias);
        for (values, weights) in panel.iter().zip(weights) {
            let (halves, _) = values.as_chunks::<LANES>();
            let halves: [f32x4<S>; TILE / LANES] =
                from_fn(|half| f32x4::from_slice(simd, &halves[half]));
            let pixel = |x: usize| broadcast(halves[x / LANES], x % LANES);
            add_products(simd, pixel, weights, &mut sums);
        }
        if x + TILE <= width {
            store(simd, &mut sums, clamp, out.chunks_exact_mut(width), x);
            continue;
        }
        // The remaining pixels of the tile are not stored.
        let mut whole = [[[0.0; LANES]; TILE]; GROUPS];
        let rows = whole.iter_mut().map(|row| &mut row[..]);
        store(simd, &mut sums, clamp, rows, 0);
        for (out, whole) in out.chunks_exact_mut(width).zip(&whole) {
            out[x..].copy_from_slice(&whole[..width - x]);
        }
    }
}

impl Op for BlockedRgbConv {
    fn name(&self) -> StaticName {
        "BlockedRgbConv".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for BlockedRgbConv {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (input, params) = args_2!(inputs);
        let [from, output] = [self.geometry.input, self.geometry.output];
        ensure!(input.shape() == [1, RGB, from[0], from[1]]);
        let to = Size {
            height: output[0],
            groups: self.groups,
            width: output[1],
        };
        let params = params.try_as_plain_ram()?;
        let in_groups = TAPS.div_ceil(LANES);
        let product = Product::new(vectors(&params)?, in_groups, to.groups, self.is_clamped)?;
        let taps = DepthwiseConv3x3(self.geometry);
        let [height, width] = taps.phase_size();
        // A tile may read after the end of the last row.
        let plane = self.geometry.stride.pow(2) * height * width + TILE;
        let mut phases = vec![0.0; RGB * plane];
        let input = input.try_as_plain_ram()?;
        let planes = input.as_slice::<f32>()?.chunks_exact(from[0] * from[1]);
        for (from, phases) in planes.zip(phases.chunks_exact_mut(plane)) {
            taps.split_phases(from, phases);
        }
        let runs = phases.chunks_exact(plane).flat_map(|phases| {
            (0..KERNEL_SIDE * KERNEL_SIDE).map(|tap| {
                let count = taps.run_length() + TILE;
                taps.values(phases, tap / KERNEL_SIDE, tap % KERNEL_SIDE, count)
            })
        });
        let runs = Runs {
            runs: runs.collect(),
            width,
        };
        let mut output = buffer_pool::tensor(&to.shape())?;
        let products = output.len() * TAPS;
        let share = to.height.div_ceil(threads());
        let mut plain = output.try_as_plain_ram_mut()?;
        let (out, _) = plain.as_slice_mut::<f32>()?.as_chunks_mut::<LANES>();
        let mut shares: Vec<&mut [Lanes]> = out.chunks_mut(share * to.row()).collect();
        par_chunks_mut(
            &mut shares,
            1,
            products / PRODUCTS_PER_VALUE,
            |first, shares| {
                for (index, out) in (first..).zip(shares) {
                    let rows = out.chunks_exact_mut(to.row());
                    dispatch!(Level::new(), simd => {
                        runs.convolve_rows(simd, index * share, product, rows, to.width);
                    });
                }
                Ok(())
            },
        )?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for BlockedRgbConv {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [height, width] = self.geometry.output;
        let size = Size {
            height,
            groups: self.groups,
            width,
        };
        Ok(tvec!(inputs[0].datum_type.fact(size.shape())))
    }

    as_op!();
}
