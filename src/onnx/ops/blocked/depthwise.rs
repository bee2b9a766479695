//! A depthwise 3x3 convolution of a picture in the blocked layout, fused with a clamp and,
//! optionally, with the 1x1 convolution that computes its input.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::pointwise::{BLOCK, Product, Target};
use super::precision::{Kernel, Lanes, Precision, Vector};
use super::{PRODUCTS_PER_VALUE, Size, threads, vectors};
use crate::onnx::ops::buffer_pool;
use crate::onnx::ops::depthwise::{ConvGeometry, KERNEL_SIDE, PARAMS};

/// The [`PARAMS`] of the channels of a vector.
type GroupParams<P> = [<P as Precision>::Lanes; PARAMS];

/// Number of adjacent pixels in a row that are computed together. Their sums and inputs
/// fit in the 32 registers of aarch64, and the widths of the layers of a MobileNet on
/// 224x224 pixels are multiples of this number.
const TILE: usize = 7;
/// Number of columns that a tile reads, with a stride of 1 and with a stride of 2.
const WINDOW: usize = TILE - 1 + KERNEL_SIDE;
const WIDE_WINDOW: usize = 2 * (TILE - 1) + KERNEL_SIDE;

/// Number of vectors in the buffer for rows of the input. These vectors take 320 KB, which
/// fits in the L2 cache. With a larger buffer, the weights of the 1x1 convolution would be
/// read less often, but the rows would be read from memory.
const BUFFER: usize = 20 << 10;

/// The operator has two or three inputs: a picture, the parameters of the depthwise
/// convolution `[channels / lanes, 12, lanes]`, and optionally the parameters of the 1x1
/// convolution (see [`product_params`](super::product_params)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedDepthwise<P> {
    pub(in crate::onnx) precision: P,
    pub(in crate::onnx) geometry: ConvGeometry,
    /// Whether the result of the 1x1 convolution is clamped.
    pub(in crate::onnx) is_clamped: bool,
}

impl<P: Precision> BlockedDepthwise<P> {
    /// Number of columns of the padded input.
    fn padded_width(&self) -> usize {
        let ConvGeometry { output, stride, .. } = self.geometry;
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
        } = self.geometry;
        let source = (y * stride + row).checked_sub(before[0])?;
        (source < input[0]).then_some(source)
    }

    /// Computes all rows of the output for some groups of channels. `input` returns these
    /// groups of a range of rows.
    #[inline(always)]
    fn convolve<V: Vector<Precision = P>>(
        &self,
        token: V::Token,
        input: &Input<P>,
        params: &[GroupParams<P>],
        out: &mut [&mut [P::Lanes]],
    ) {
        let ConvGeometry {
            input: [height, width],
            before: [top, left],
            stride,
            ..
        } = self.geometry;
        let stored_width = self.padded_width().max(left + width);
        let stored_row = params.len() * stored_width;
        // The buffer is a ring. Row `y` of the input is in row `y % count` of the buffer.
        let count = (BUFFER / stored_row).clamp(KERNEL_SIDE, height + KERNEL_SIDE - 1);
        let at_once = (count - KERNEL_SIDE) / stride + 1;
        let mut buffer = vec![P::ZERO; count * stored_row];
        let zeros = vec![P::ZERO; stored_row];
        let mut next = 0;
        for (index, out) in out.chunks_mut(at_once).enumerate() {
            let first = index * at_once;
            let last_row = (first + out.len() - 1) * stride + KERNEL_SIDE - 1;
            let end = (last_row + 1).saturating_sub(top).min(height);
            if next < end {
                // The rows of the ring, beginning with the row for `next`.
                let mut rows: Vec<&mut [P::Lanes]> = buffer.chunks_exact_mut(stored_row).collect();
                rows.rotate_left(next % count);
                let mut rows = Target {
                    rows: &mut rows[..end - next],
                    stride: stored_width,
                    left,
                };
                input.write::<V>(token, next, width, &mut rows);
                next = end;
            }
            for (y, out) in (first..).zip(out) {
                let rows = from_fn(|row| match self.source(y, row) {
                    Some(source) => &buffer[source % count * stored_row..][..stored_row],
                    None => &zeros,
                });
                let width = self.geometry.output[1];
                match stride {
                    1 => convolve_row::<V, 1, WINDOW>(token, rows, params, out, width),
                    _ => convolve_row::<V, 2, WIDE_WINDOW>(token, rows, params, out, width),
                }
            }
        }
    }
}

/// Where the input of the depthwise convolution comes from.
enum Input<'a, P: Precision> {
    /// Groups `first..` of a picture with `groups` groups.
    Picture {
        values: &'a [P::Lanes],
        groups: usize,
        first: usize,
    },
    /// The product of a picture with weights.
    Product {
        values: &'a [P::Lanes],
        /// Number of groups of `values`.
        groups: usize,
        product: Product<'a, P>,
    },
}

impl<P: Precision> Input<'_, P> {
    /// Writes rows of the input, beginning with the row `first_row`.
    #[inline(always)]
    fn write<V: Vector<Precision = P>>(
        &self,
        token: V::Token,
        first_row: usize,
        width: usize,
        out: &mut Target<P>,
    ) {
        match self {
            Input::Picture {
                values,
                groups,
                first,
            } => {
                let inputs = values.chunks_exact(groups * width).skip(first_row);
                for (to, from) in out.rows.iter_mut().zip(inputs) {
                    let from = from.chunks_exact(width).skip(*first);
                    for (to, from) in to.chunks_exact_mut(out.stride).zip(from) {
                        to[out.left..][..width].copy_from_slice(from);
                    }
                }
            }
            Input::Product {
                values,
                groups,
                product,
            } => {
                let row = groups * width;
                let values = &values[first_row * row..][..out.rows.len() * row];
                product.rows::<V, false>(token, values, width, &[], out);
            }
        }
    }
}

/// Computes a row of the output. Each row of the input contains all columns of the first
/// group, then all columns of the next group, and so on.
#[inline(always)]
fn convolve_row<V: Vector, const STRIDE: usize, const WINDOW: usize>(
    token: V::Token,
    rows: [&[Lanes<V>]; KERNEL_SIDE],
    params: &[GroupParams<V::Precision>],
    out: &mut [Lanes<V>],
    width: usize,
) {
    let stored_width = rows[0].len() / params.len();
    let [above, middle, below] = rows.map(|row| row.chunks_exact(stored_width));
    let windows = above.zip(middle).zip(below);
    let groups = windows.zip(params).zip(out.chunks_exact_mut(width));
    for ((((above, middle), below), params), out) in groups {
        let rows = [above, middle, below];
        let mut x = 0;
        while x + TILE <= width {
            let windows = rows.map(|row| &row[x * STRIDE..x * STRIDE + WINDOW]);
            convolve_tile::<V, STRIDE, TILE, WINDOW>(token, windows, params, &mut out[x..x + TILE]);
            x += TILE;
        }
        while x < width {
            let windows = rows.map(|row| &row[x * STRIDE..x * STRIDE + KERNEL_SIDE]);
            convolve_tile::<V, STRIDE, 1, KERNEL_SIDE>(token, windows, params, &mut out[x..=x]);
            x += 1;
        }
    }
}

/// Computes the output of `COLUMNS` adjacent pixels, for a group of channels.
#[inline(always)]
fn convolve_tile<V: Vector, const STRIDE: usize, const COLUMNS: usize, const WINDOW: usize>(
    token: V::Token,
    windows: [&[Lanes<V>]; KERNEL_SIDE],
    params: &GroupParams<V::Precision>,
    out: &mut [Lanes<V>],
) {
    let number = |index: usize| V::load(token, &params[index]);
    let mut sums = [number(KERNEL_SIDE * KERNEL_SIDE); COLUMNS];
    for (row, window) in windows.into_iter().enumerate() {
        let window: [V; WINDOW] = from_fn(|x| V::load(token, &window[x]));
        for column in 0..KERNEL_SIDE {
            let tap = number(row * KERNEL_SIDE + column);
            for (x, sum) in sums.iter_mut().enumerate() {
                *sum = window[x * STRIDE + column].mul_add(tap, *sum);
            }
        }
    }
    let [low, high] = [PARAMS - 2, PARAMS - 1].map(number);
    for (out, sum) in out.iter_mut().zip(sums) {
        sum.max(low).min(high).store(out);
    }
}

/// The convolution of some groups of channels.
struct ConvolveKernel<'a, 'b, P: Precision> {
    op: &'a BlockedDepthwise<P>,
    input: Input<'a, P>,
    params: &'a [GroupParams<P>],
    rows: &'a mut [&'b mut [P::Lanes]],
}

impl<P: Precision> Kernel<P> for ConvolveKernel<'_, '_, P> {
    #[inline(always)]
    fn run<V: Vector<Precision = P>>(self, token: V::Token) {
        self.op
            .convolve::<V>(token, &self.input, self.params, self.rows);
    }
}

impl<P: Precision> Op for BlockedDepthwise<P> {
    fn name(&self) -> StaticName {
        "BlockedDepthwise".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

/// The part of the output that a thread computes: its first group, and the vectors in each
/// row.
struct Share<'a, P: Precision> {
    first: usize,
    rows: Vec<&'a mut [P::Lanes]>,
}

/// Divides a picture into parts of `groups` groups.
fn shares<P: Precision>(out: &mut [P::Lanes], size: Size, groups: usize) -> Vec<Share<'_, P>> {
    let mut shares: Vec<Share<P>> = (0..size.groups)
        .step_by(groups)
        .map(|first| Share {
            first,
            rows: Vec::with_capacity(size.height),
        })
        .collect();
    for row in out.chunks_exact_mut(size.row()) {
        for (share, part) in shares.iter_mut().zip(row.chunks_mut(groups * size.width)) {
            share.rows.push(part);
        }
    }
    shares
}

impl<P: Precision> EvalOp for BlockedDepthwise<P> {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let weights = (inputs.len() == 3).then(|| inputs.pop()).flatten();
        let (input, params) = args_2!(inputs);
        let from = Size::of::<P>(input.shape())?;
        ensure!([from.height, from.width] == self.geometry.input);
        let params = params.try_as_plain_ram()?;
        let (params, _) = vectors::<P>(&params)?.as_chunks::<PARAMS>();
        let to = Size {
            height: self.geometry.output[0],
            groups: params.len(),
            width: self.geometry.output[1],
        };
        let weights = match &weights {
            Some(weights) => Some(weights.try_as_plain_ram()?),
            None => None,
        };
        let product = match &weights {
            Some(weights) => Some(Product::<P>::new(
                vectors::<P>(weights)?,
                from.groups,
                to.groups,
                self.is_clamped,
            )?),
            None => None,
        };
        ensure!(product.is_some() || from.groups == to.groups);
        let mut output = buffer_pool::tensor::<P::Value>(&to.shape::<P>())?;
        {
            let plain = input.try_as_plain_ram()?;
            let values = vectors::<P>(&plain)?;
            let products = match product {
                Some(_) => values.len() * P::LANES * to.groups * P::LANES / PRODUCTS_PER_VALUE,
                None => 0,
            };
            let total = output.len() + products;
            let share = to.groups.div_ceil(threads());
            let share = share.next_multiple_of(BLOCK);
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
            let mut shares = shares::<P>(out, to, share);
            par_chunks_mut(&mut shares, 1, total, |_, shares| {
                for Share { first, rows } in shares {
                    let count = share.min(to.groups - *first);
                    let input = match product {
                        Some(product) => Input::Product {
                            values,
                            groups: from.groups,
                            product: product.groups(*first, count),
                        },
                        None => Input::Picture {
                            values,
                            groups: from.groups,
                            first: *first,
                        },
                    };
                    self.precision.run(ConvolveKernel {
                        op: self,
                        input,
                        params: &params[*first..][..count],
                        rows,
                    });
                }
                Ok(())
            })?;
        }
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for BlockedDepthwise<P> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [height, width] = self.geometry.output;
        let mut fact = inputs[0].without_value();
        fact.shape.set(0, height.to_dim());
        fact.shape.set(1, inputs[1].shape[0].clone());
        fact.shape.set(2, width.to_dim());
        Ok(tvec!(fact))
    }

    as_op!();
}
