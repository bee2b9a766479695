//! A depthwise 3x3 convolution of a picture in the blocked layout, fused with a clamp and,
//! optionally, with the 1x1 convolution that computes its input.

#![expect(
    clippy::inline_always,
    reason = "code for an instruction set must be inlined to be compiled for it"
)]

use std::array::from_fn;

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::pointwise::{Product, Target};
use super::precision::{Kernel, Lanes, Precision, Vector};
use super::{PRODUCTS_PER_VALUE, Size, threads, vectors};
use crate::onnx::ops::buffer_pool;
use crate::onnx::ops::depthwise::{ConvGeometry, KERNEL_SIDE, PARAMS};

/// The [`PARAMS`] of the channels of a vector.
type GroupParams<P> = [<P as Precision>::Lanes; PARAMS];

/// Number of adjacent pixels in a row that are computed together if there are 32 registers.
/// Their sums and inputs fit in these registers, and the widths of the layers of a MobileNet
/// on 224x224 pixels are multiples of this number.
const TILE: usize = 7;
/// The same if there are 16 registers.
const SMALL_TILE: usize = 4;

/// Returns the number of columns that a tile reads.
const fn window(tile: usize, stride: usize) -> usize {
    (tile - 1) * stride + KERNEL_SIDE
}

/// Number of bytes in the buffer for rows of the input. They fit in the L2 cache. With a
/// larger buffer, the weights of the 1x1 convolution would be read less often, but the rows
/// would be read from memory.
const BUFFER: usize = 320 << 10;

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
    /// Number of columns of the input in the buffer, with the padding.
    fn stored_width(&self) -> usize {
        let ConvGeometry {
            input,
            output,
            before,
            stride,
        } = self.geometry;
        ((output[1] - 1) * stride + KERNEL_SIDE).max(before[1] + input[1])
    }

    /// Number of vectors in the buffer for some groups of channels.
    fn buffer_len(&self, groups: usize) -> usize {
        let row = groups * self.stored_width();
        let most = self.geometry.input[0] + KERNEL_SIDE - 1;
        (BUFFER / (row * size_of::<P::Lanes>())).clamp(KERNEL_SIDE, most) * row
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

    /// Computes some rows of the output for some groups of channels. `input` returns these
    /// groups of a range of rows.
    #[inline(always)]
    fn convolve<V: Vector<Precision = P>>(
        &self,
        token: V::Token,
        input: &Input<P>,
        params: &[GroupParams<P>],
        buffer: &mut [P::Lanes],
        Share {
            first_row, rows, ..
        }: &mut Share<P>,
    ) {
        let ConvGeometry {
            input: [height, width],
            before: [top, left],
            stride,
            ..
        } = self.geometry;
        let stored_width = self.stored_width();
        let stored_row = params.len() * stored_width;
        // The buffer is a ring. Row `y` of the input is in row `y % count` of the buffer.
        let count = buffer.len() / stored_row;
        let at_once = (count - KERNEL_SIDE) / stride + 1;
        for row in buffer.chunks_exact_mut(stored_width) {
            row[..left].fill(P::ZERO);
            row[left + width..].fill(P::ZERO);
        }
        let zeros = vec![P::ZERO; stored_row];
        let mut next = (*first_row * stride).saturating_sub(top);
        for (index, out) in rows.chunks_mut(at_once).enumerate() {
            let first = *first_row + index * at_once;
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
                match (stride, P::HAS_32_REGISTERS) {
                    (1, true) => convolve_row::<V, 1, TILE, { window(TILE, 1) }>(
                        token, rows, params, out, width,
                    ),
                    (1, false) => convolve_row::<V, 1, SMALL_TILE, { window(SMALL_TILE, 1) }>(
                        token, rows, params, out, width,
                    ),
                    (_, true) => convolve_row::<V, 2, TILE, { window(TILE, 2) }>(
                        token, rows, params, out, width,
                    ),
                    (_, false) => convolve_row::<V, 2, SMALL_TILE, { window(SMALL_TILE, 2) }>(
                        token, rows, params, out, width,
                    ),
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
                product.rows::<V>(token, values, width, out);
            }
        }
    }
}

/// Computes a row of the output. Each row of the input contains all columns of the first
/// group, then all columns of the next group, and so on.
#[inline(always)]
fn convolve_row<V: Vector, const STRIDE: usize, const COLUMNS: usize, const WINDOW: usize>(
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
        if width < COLUMNS {
            for (x, out) in out.iter_mut().enumerate() {
                let windows = rows.map(|row| &row[x * STRIDE..][..KERNEL_SIDE]);
                let out = std::slice::from_mut(out);
                convolve_tile::<V, STRIDE, 1, KERNEL_SIDE>(token, windows, params, out);
            }
            continue;
        }
        let last = width - COLUMNS;
        let mut x = 0;
        loop {
            let windows = rows.map(|row| &row[x * STRIDE..x * STRIDE + WINDOW]);
            let out = &mut out[x..x + COLUMNS];
            convolve_tile::<V, STRIDE, COLUMNS, WINDOW>(token, windows, params, out);
            if x == last {
                break;
            }
            // The last tile may overlap the previous tile, so some pixels are computed twice.
            x = (x + COLUMNS).min(last);
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
    buffer: &'a mut [P::Lanes],
    share: &'a mut Share<'b, P>,
}

impl<P: Precision> Kernel<P> for ConvolveKernel<'_, '_, P> {
    #[inline(always)]
    fn run<V: Vector<Precision = P>>(self, token: V::Token) {
        self.op
            .convolve::<V>(token, &self.input, self.params, self.buffer, self.share);
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

/// The part of the output that a thread computes: some groups of channels of some rows.
struct Share<'a, P: Precision> {
    first_group: usize,
    first_row: usize,
    rows: Vec<&'a mut [P::Lanes]>,
}

/// Divides a picture into parts of up to `groups` groups and `rows` rows.
fn shares<P: Precision>(
    out: &mut [P::Lanes],
    size: Size,
    [groups, rows]: [usize; 2],
) -> Vec<Share<'_, P>> {
    let mut shares = Vec::new();
    for (index, chunk) in out.chunks_mut(rows * size.row()).enumerate() {
        let first = shares.len();
        shares.extend((0..size.groups).step_by(groups).map(|first_group| Share {
            first_group,
            first_row: index * rows,
            rows: Vec::with_capacity(rows),
        }));
        for row in chunk.chunks_exact_mut(size.row()) {
            let parts = row.chunks_mut(groups * size.width);
            for (share, part) in shares[first..].iter_mut().zip(parts) {
                share.rows.push(part);
            }
        }
    }
    shares
}

/// Returns the maximum numbers of groups and of rows of a thread's share. Either the groups or
/// the rows are divided, whichever makes the largest share smaller. If the rows are divided,
/// two threads compute the rows of the input that both need. `groups` must be a multiple of
/// `block`.
fn largest_share(size: Size, threads: usize, block: usize) -> [usize; 2] {
    let groups = size.groups.div_ceil(threads).next_multiple_of(block);
    let rows = size.height.div_ceil(threads);
    if groups.min(size.groups) * size.height <= size.groups * (rows + KERNEL_SIDE - 1) {
        [groups, size.height]
    } else {
        [size.groups, rows]
    }
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
            let block = if product.is_some() { P::BLOCK } else { 1 };
            let largest = largest_share(to, threads(), block);
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
            let mut shares = shares::<P>(out, to, largest);
            par_chunks_mut(&mut shares, 1, total, |_, shares| {
                for share in shares {
                    let first = share.first_group;
                    let count = largest[0].min(to.groups - first);
                    let input = match product {
                        Some(product) => Input::Product {
                            values,
                            groups: from.groups,
                            product: product.groups(first, count),
                        },
                        None => Input::Picture {
                            values,
                            groups: from.groups,
                            first,
                        },
                    };
                    let len = self.buffer_len(count);
                    let mut scratch = buffer_pool::scratch::<P::Value>(len * P::LANES)?;
                    let mut plain = scratch.try_as_plain_ram_mut()?;
                    let buffer = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
                    self.precision.run(ConvolveKernel {
                        op: self,
                        input,
                        params: &params[first..][..count],
                        buffer: &mut buffer[..len],
                        share,
                    });
                    buffer_pool::recycle_scratch(scratch);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_channels_unless_their_blocks_cannot_be_divided_evenly() {
        let size = |side: usize, groups: usize| Size {
            height: side,
            groups,
            width: side,
        };
        assert_eq!(largest_share(size(56, 9), 1, 3), [9, 56]);
        assert_eq!(largest_share(size(56, 6), 2, 3), [3, 56]);
        assert_eq!(largest_share(size(56, 9), 2, 3), [9, 28]);
        assert_eq!(largest_share(size(7, 10), 2, 3), [6, 7]);
        assert_eq!(largest_share(size(112, 2), 2, 3), [2, 56]);
        assert_eq!(largest_share(size(112, 2), 2, 1), [1, 112]);
    }
}
