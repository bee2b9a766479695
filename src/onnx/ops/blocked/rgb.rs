//! A full 3x3 convolution of a picture with three channels, fused with its bias and a clamp.
//! The input has the planar layout, and the output has the blocked layout.

#![expect(
    clippy::inline_always,
    reason = "code for an instruction set must be inlined to be compiled for it"
)]

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::pointwise::{Product, biases, store};
use super::precision::{Kernel, Lanes, Precision, Vector, add_channel};
use super::{PRODUCTS_PER_VALUE, Size, threads, vectors};
use crate::onnx::ops::buffer_pool;
use crate::onnx::ops::depthwise::{ConvGeometry, DepthwiseConv3x3, KERNEL_SIDE};

/// Number of channels of the input.
pub(in crate::onnx) const RGB: usize = 3;
/// Number of weights for each output channel.
const TAPS: usize = RGB * KERNEL_SIDE * KERNEL_SIDE;

/// Number of adjacent pixels in a row that are computed together if there are 32 registers.
/// On aarch64, they are one or two vectors of the input. With three vectors of output
/// channels, the sums, the input, and the weights fit in the registers.
const TILE: usize = 8;
/// The same if there are 16 registers, and two vectors of output channels.
const SMALL_TILE: usize = 4;

/// The values that each kernel element reads for the pixels of a tile.
type Panel<P> = [[<P as Precision>::Value; TILE]; TAPS];

/// The operator has two inputs: a single picture `[1, 3, height, width]`, and the parameters
/// of a product with [`TAPS`] input channels (see
/// [`product_params`](super::product_params)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedRgbConv<P> {
    pub(in crate::onnx) precision: P,
    pub(in crate::onnx) geometry: ConvGeometry,
    /// Number of vectors of output channels.
    pub(in crate::onnx) groups: usize,
    pub(in crate::onnx) is_clamped: bool,
}

/// The picture, for each kernel element as one long row. The values for adjacent pixels are
/// adjacent.
struct Runs<'a, P: Precision> {
    runs: Vec<&'a [P::Value]>,
    /// Number of values between the beginnings of two rows.
    width: usize,
}

impl<P: Precision> Runs<'_, P> {
    /// Writes the values of a row.
    fn fill(&self, y: usize, panels: &mut [Panel<P>]) {
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
    fn convolve_rows<'a, V: Vector<Precision = P>>(
        &self,
        token: V::Token,
        first: usize,
        product: Product<P>,
        rows: impl Iterator<Item = &'a mut [P::Lanes]>,
        width: usize,
    ) {
        let mut panels = vec![[[P::value(0.0); TILE]; TAPS]; width.div_ceil(TILE)];
        for (y, row) in (first..).zip(rows) {
            self.fill(y, &mut panels);
            for (params, out) in product.blocks().zip(row.chunks_mut(P::BLOCK * width)) {
                let clamp = product.clamp();
                if P::HAS_32_REGISTERS {
                    block::<V, TILE>(token, &panels, params, clamp, out, width);
                } else {
                    block::<V, SMALL_TILE>(token, &panels, params, clamp, out, width);
                }
            }
        }
    }
}

/// Computes a block of output channels for a row.
#[inline(always)]
fn block<V: Vector, const PIXELS: usize>(
    token: V::Token,
    panels: &[Panel<V::Precision>],
    params: &[Lanes<V>],
    clamp: Option<[Lanes<V>; 2]>,
    out: &mut [Lanes<V>],
    width: usize,
) {
    match out.len() / width {
        3 if V::Precision::BLOCK == 3 => {
            block_of::<V, 3, PIXELS>(token, panels, params, clamp, out, width);
        }
        2 => block_of::<V, 2, PIXELS>(token, panels, params, clamp, out, width),
        _ => block_of::<V, 1, PIXELS>(token, panels, params, clamp, out, width),
    }
}

/// Computes a block of `GROUPS` vectors of output channels for a row.
#[inline(always)]
fn block_of<V: Vector, const GROUPS: usize, const PIXELS: usize>(
    token: V::Token,
    panels: &[Panel<V::Precision>],
    params: &[Lanes<V>],
    clamp: Option<[Lanes<V>; 2]>,
    out: &mut [Lanes<V>],
    width: usize,
) {
    let (params, _) = params.as_chunks::<GROUPS>();
    let Some((bias, weights)) = params.split_first() else {
        return;
    };
    for x in (0..width).step_by(PIXELS) {
        let panel = &panels[x / TILE];
        let mut sums = biases::<V, PIXELS, GROUPS>(token, bias);
        for (values, weights) in panel.iter().zip(weights) {
            let (values, _) = values.as_chunks::<PIXELS>();
            let pixels = V::spread(token, &values[x % TILE / PIXELS]);
            add_channel(token, |x| pixels[x], weights, &mut sums);
        }
        if x + PIXELS <= width {
            store(token, &mut sums, clamp, out.chunks_exact_mut(width), x);
            continue;
        }
        // The remaining pixels of the tile are not stored.
        let mut whole = [[V::Precision::ZERO; PIXELS]; GROUPS];
        let rows = whole.iter_mut().map(|row| &mut row[..]);
        store(token, &mut sums, clamp, rows, 0);
        for (out, whole) in out.chunks_exact_mut(width).zip(&whole) {
            out[x..].copy_from_slice(&whole[..width - x]);
        }
    }
}

/// The convolution of some rows of the output.
struct RowsKernel<'a, P: Precision> {
    runs: &'a Runs<'a, P>,
    first: usize,
    product: Product<'a, P>,
    out: &'a mut [P::Lanes],
    size: Size,
}

impl<P: Precision> Kernel<P> for RowsKernel<'_, P> {
    #[inline(always)]
    fn run<V: Vector<Precision = P>>(self, token: V::Token) {
        let rows = self.out.chunks_exact_mut(self.size.row());
        self.runs
            .convolve_rows::<V>(token, self.first, self.product, rows, self.size.width);
    }
}

impl<P: Precision> Op for BlockedRgbConv<P> {
    fn name(&self) -> StaticName {
        "BlockedRgbConv".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl<P: Precision> EvalOp for BlockedRgbConv<P> {
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
        let in_groups = TAPS.div_ceil(P::LANES);
        let product = Product::<P>::new(
            vectors::<P>(&params)?,
            in_groups,
            to.groups,
            self.is_clamped,
        )?;
        let taps = DepthwiseConv3x3(self.geometry);
        let [height, width] = taps.phase_size();
        // A tile may read after the end of the last row.
        let plane = self.geometry.stride.pow(2) * height * width + TILE;
        let mut phases = vec![P::value(0.0); RGB * plane];
        let input = input.try_as_plain_ram()?;
        let input = self.precision.values(input.as_slice::<f32>()?);
        let planes = input.chunks_exact(from[0] * from[1]);
        for (from, phases) in planes.zip(phases.chunks_exact_mut(plane)) {
            taps.split_phases(from, phases);
        }
        let runs = phases.chunks_exact(plane).flat_map(|phases| {
            (0..KERNEL_SIDE * KERNEL_SIDE).map(|tap| {
                let count = taps.run_length() + TILE;
                taps.values(phases, tap / KERNEL_SIDE, tap % KERNEL_SIDE, count)
            })
        });
        let runs = Runs::<P> {
            runs: runs.collect(),
            width,
        };
        let mut output = buffer_pool::tensor::<P::Value>(&to.shape::<P>())?;
        let products = output.len() * TAPS;
        let share = to.height.div_ceil(threads());
        let mut plain = output.try_as_plain_ram_mut()?;
        let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
        let mut shares: Vec<&mut [P::Lanes]> = out.chunks_mut(share * to.row()).collect();
        par_chunks_mut(
            &mut shares,
            1,
            products / PRODUCTS_PER_VALUE,
            |first, shares| {
                for (index, out) in (first..).zip(shares) {
                    self.precision.run(RowsKernel {
                        runs: &runs,
                        first: index * share,
                        product,
                        out,
                        size: to,
                    });
                }
                Ok(())
            },
        )?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for BlockedRgbConv<P> {
    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [height, width] = self.geometry.output;
        let size = Size {
            height,
            groups: self.groups,
            width,
        };
        Ok(tvec!(P::Value::datum_type().fact(size.shape::<P>())))
    }

    as_op!();
}
