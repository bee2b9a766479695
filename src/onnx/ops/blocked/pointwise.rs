//! A 1x1 convolution of a picture in the blocked layout, fused with its bias, a clamp, and
//! the sum with another picture.

#![expect(
    clippy::inline_always,
    reason = "code for an instruction set must be inlined to be compiled for it"
)]

use std::array::from_fn;
use std::iter;

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::precision::{Kernel, Lanes, Precision, Vector};
use super::{PRODUCTS_PER_VALUE, Size, threads, vectors};
use crate::onnx::ops::buffer_pool;

/// Maximum number of adjacent pixels in a tile if there are 32 registers. The sums of three
/// vectors of output channels (21 vectors), seven pixels, and the weights fit in the 32 registers
/// of aarch64, and the widths of the layers of a MobileNet on 224x224 pixels are multiples of
/// seven.
const TILE: usize = 7;
/// Number of pixels in a narrower tile, for the end of a row.
const NARROW_TILE: usize = 3;
/// Maximum number of adjacent pixels in a tile if there are 16 registers. The sums of two vectors
/// of output channels (12 vectors), one pixel, and the weights take 15 registers. If they took 16,
/// the compiler would keep a sum in memory.
const SMALL_TILE: usize = 6;

/// Number of vectors at the end of the parameters: the lower and upper bounds of the clamp.
const CLAMP_ROWS: usize = 2;

/// Number of bytes of the input after which the weights are read again. They fit in the L2
/// cache. For fewer bytes, the weights, which may not fit in any cache, would be read more
/// often.
const CHUNK: usize = 256 << 10;

/// The operator has two or three inputs: a picture, the parameters (see
/// [`product_params`]), and optionally a picture that is added to the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedPointwise<P> {
    pub(in crate::onnx) precision: P,
    /// Number of vectors of output channels.
    pub(in crate::onnx) groups: usize,
    /// Whether the result is clamped.
    pub(in crate::onnx) is_clamped: bool,
}

/// Returns the parameters of a product, of shape `[rows, lanes]`. `weights` is `[out channels,
/// channels]`, and `bias` has one value or one for each output channel. The result is
/// divided into blocks of up to [`Precision::BLOCK`] vectors of output channels. For each
/// block, the parameters contain the biases, and then the weights for each input channel.
/// They end with the bounds of the clamp.
pub(in crate::onnx) fn product_params<P: Precision>(
    weights: &[f32],
    out_channels: usize,
    bias: &[f32],
    clamp: [f32; 2],
) -> TractResult<Tensor> {
    let channels = weights.len() / out_channels;
    let depth = 1 + channels.next_multiple_of(P::LANES);
    let groups = out_channels.div_ceil(P::LANES);
    let value = |channel: usize, row: usize| match row {
        _ if channel >= out_channels || row > channels => 0.0,
        0 => bias[channel % bias.len()],
        _ => weights[channel * channels + row - 1],
    };
    let mut params = Vec::with_capacity((groups * depth + CLAMP_ROWS) * P::LANES);
    for first in (0..groups).step_by(P::BLOCK) {
        let count = P::BLOCK.min(groups - first);
        for row in 0..depth {
            let channels = P::LANES * first..P::LANES * (first + count);
            params.extend(channels.map(|channel| P::value(value(channel, row))));
        }
    }
    for bound in clamp {
        params.extend(iter::repeat_n(P::value(bound), P::LANES));
    }
    Tensor::from_shape(&[groups * depth + CLAMP_ROWS, P::LANES], &params)
}

/// The weights and bounds of a product.
#[derive(Clone, Copy)]
pub(super) struct Product<'a, P: Precision> {
    params: &'a [P::Lanes],
    /// Number of vectors for each vector of output channels: one of biases, and the weights.
    depth: usize,
    clamp: Option<[P::Lanes; 2]>,
}

/// Part of a picture into which a product is written.
pub(super) struct Target<'a, P: Precision> {
    /// Rows of the picture. Each row contains `stride` vectors for each group.
    pub(super) rows: &'a mut [&'a mut [P::Lanes]],
    pub(super) stride: usize,
    /// Index of the first pixel.
    pub(super) left: usize,
}

impl<'a, P: Precision> Product<'a, P> {
    /// Reads the parameters of a product of pictures with `in_groups` vectors per pixel.
    pub(super) fn new(
        params: &'a [P::Lanes],
        in_groups: usize,
        groups: usize,
        is_clamped: bool,
    ) -> TractResult<Product<'a, P>> {
        let depth = 1 + P::LANES * in_groups;
        let Some((params, &[low, high])) = params.split_last_chunk::<CLAMP_ROWS>() else {
            bail!("the product has no parameters");
        };
        ensure!(params.len() == groups * depth);
        Ok(Product {
            params,
            depth,
            clamp: is_clamped.then_some([low, high]),
        })
    }

    /// Returns the product for some of the output channels. `first` must be a multiple of
    /// [`Precision::BLOCK`].
    pub(super) fn groups(self, first: usize, count: usize) -> Product<'a, P> {
        Product {
            params: &self.params[first * self.depth..][..count * self.depth],
            ..self
        }
    }

    /// Returns the parameters of each block.
    pub(super) fn blocks(self) -> impl Iterator<Item = &'a [P::Lanes]> {
        self.params.chunks(P::BLOCK * self.depth)
    }

    pub(super) fn clamp(self) -> Option<[P::Lanes; 2]> {
        self.clamp
    }

    /// Computes the product for each row of `input`.
    #[inline(always)]
    pub(super) fn rows<V: Vector<Precision = P>>(
        self,
        token: V::Token,
        input: &[P::Lanes],
        width: usize,
        out: &mut Target<P>,
    ) {
        let row = (self.depth - 1) / P::LANES * width;
        for (block, params) in self.blocks().enumerate() {
            let groups = params.len() / self.depth;
            for (input, to) in input.chunks_exact(row).zip(out.rows.iter_mut()) {
                let mut row = Row {
                    input,
                    width,
                    added: None,
                    clamp: self.clamp,
                    out: &mut to[block * P::BLOCK * out.stride..][..groups * out.stride],
                    stride: out.stride,
                    left: out.left,
                };
                row.multiply::<V, false>(token, params, groups);
            }
        }
    }
}

/// A row of a picture and its product with a block of weights.
struct Row<'a, P: Precision> {
    input: &'a [P::Lanes],
    width: usize,
    added: Option<&'a [P::Lanes]>,
    clamp: Option<[P::Lanes; 2]>,
    out: &'a mut [P::Lanes],
    stride: usize,
    left: usize,
}

impl<P: Precision> Row<'_, P> {
    /// Computes the product with the parameters of a block of `groups` vectors of output
    /// channels. If `IN_PARTS` is true, the sums are computed in parts (see [`Precision::PART`]).
    #[inline(always)]
    fn multiply<V: Vector<Precision = P>, const IN_PARTS: bool>(
        &mut self,
        token: V::Token,
        params: &[P::Lanes],
        groups: usize,
    ) {
        match groups {
            3 if P::BLOCK == 3 => self.block::<V, 3, IN_PARTS>(token, params.as_chunks().0),
            2 => self.block::<V, 2, IN_PARTS>(token, params.as_chunks().0),
            _ => self.block::<V, 1, IN_PARTS>(token, params.as_chunks().0),
        }
    }

    #[inline(always)]
    fn block<V: Vector<Precision = P>, const GROUPS: usize, const IN_PARTS: bool>(
        &mut self,
        token: V::Token,
        params: &[[P::Lanes; GROUPS]],
    ) {
        let mut x = 0;
        if P::HAS_32_REGISTERS {
            while x + TILE <= self.width {
                self.tile::<V, TILE, GROUPS, IN_PARTS>(token, x, params);
                x += TILE;
            }
            while x + NARROW_TILE <= self.width {
                self.tile::<V, NARROW_TILE, GROUPS, IN_PARTS>(token, x, params);
                x += NARROW_TILE;
            }
            while x < self.width {
                self.tile::<V, 1, GROUPS, IN_PARTS>(token, x, params);
                x += 1;
            }
            return;
        }
        // The widths of the tiles of a row differ by at most one.
        let count = self.width.div_ceil(SMALL_TILE);
        for tile in 0..count {
            let end = (tile + 1) * self.width / count;
            match end - x {
                6 => self.tile::<V, 6, GROUPS, IN_PARTS>(token, x, params),
                5 => self.tile::<V, 5, GROUPS, IN_PARTS>(token, x, params),
                4 => self.tile::<V, 4, GROUPS, IN_PARTS>(token, x, params),
                3 => self.tile::<V, 3, GROUPS, IN_PARTS>(token, x, params),
                2 => self.tile::<V, 2, GROUPS, IN_PARTS>(token, x, params),
                _ => self.tile::<V, 1, GROUPS, IN_PARTS>(token, x, params),
            }
            x = end;
        }
    }

    /// Computes the product for `PIXELS` pixels, starting at the pixel `x`.
    #[inline(always)]
    fn tile<
        V: Vector<Precision = P>,
        const PIXELS: usize,
        const GROUPS: usize,
        const IN_PARTS: bool,
    >(
        &mut self,
        token: V::Token,
        x: usize,
        params: &[[P::Lanes; GROUPS]],
    ) {
        let Some((bias, weights)) = params.split_first() else {
            return;
        };
        if !IN_PARTS || P::PART == usize::MAX {
            let sums = biases::<V, PIXELS, GROUPS>(token, bias);
            let sums = plus(token, sums, self.added, self.width, x);
            let sums = self.plus_products(token, sums, self.input, weights, x);
            self.store(token, sums, self.clamp, x);
            return;
        }
        let inputs = self.input.chunks(P::PART * self.width);
        let parts = inputs.zip(weights.chunks(P::PART * P::LANES));
        let count = parts.len();
        for (index, (input, weights)) in parts.enumerate() {
            let init = if index == 0 { bias } else { &[P::ZERO; GROUPS] };
            let sums = biases::<V, PIXELS, GROUPS>(token, init);
            let mut sums = self.plus_products(token, sums, input, weights, x);
            if index == 0 {
                sums = plus(token, sums, self.added, self.width, x);
            } else {
                // The sum of the parts before is where the result will be.
                sums = plus(token, sums, Some(self.out), self.stride, self.left + x);
            }
            let clamp = self.clamp.filter(|_| index + 1 == count);
            self.store(token, sums, clamp, x);
        }
    }

    /// Adds the products of some channels of the input.
    #[inline(always)]
    fn plus_products<V: Vector<Precision = P>, const PIXELS: usize, const GROUPS: usize>(
        &self,
        token: V::Token,
        mut sums: [[V; PIXELS]; GROUPS],
        input: &[P::Lanes],
        weights: &[[P::Lanes; GROUPS]],
        x: usize,
    ) -> [[V; PIXELS]; GROUPS] {
        let pixels = input.chunks_exact(self.width).map(
            #[inline(always)]
            |pixels| &pixels[x..x + PIXELS].as_chunks::<PIXELS>().0[0],
        );
        V::add_products::<PIXELS, GROUPS>(token, pixels, weights, &mut sums);
        sums
    }

    /// Clamps and stores the result of a tile.
    #[inline(always)]
    fn store<V: Vector<Precision = P>, const PIXELS: usize, const GROUPS: usize>(
        &mut self,
        token: V::Token,
        mut sums: [[V; PIXELS]; GROUPS],
        clamp: Option<[P::Lanes; 2]>,
        x: usize,
    ) {
        let out = self.out.chunks_exact_mut(self.stride);
        store(token, &mut sums, clamp, out, self.left + x);
    }
}

/// Returns the biases of a block for each pixel of a tile.
#[inline(always)]
pub(super) fn biases<V: Vector, const PIXELS: usize, const GROUPS: usize>(
    token: V::Token,
    bias: &[Lanes<V>; GROUPS],
) -> [[V; PIXELS]; GROUPS] {
    from_fn(|group| [V::load(token, &bias[group]); PIXELS])
}

/// Adds pixels of another picture, if there is one. `stride` is the number of its vectors in
/// each row of a group.
#[inline(always)]
fn plus<V: Vector, const PIXELS: usize, const GROUPS: usize>(
    token: V::Token,
    mut sums: [[V; PIXELS]; GROUPS],
    added: Option<&[Lanes<V>]>,
    stride: usize,
    x: usize,
) -> [[V; PIXELS]; GROUPS] {
    if let Some(added) = added {
        for (sums, added) in sums.iter_mut().zip(added.chunks_exact(stride)) {
            let added = &added[x..x + PIXELS];
            for (sum, added) in sums.iter_mut().zip(added) {
                *sum = sum.plus(V::load(token, added));
            }
        }
    }
    sums
}

/// Clamps the result of a tile, and stores the vectors of each group in the corresponding
/// row of `out`, beginning at `x`.
#[inline(always)]
pub(super) fn store<'a, V: Vector, const PIXELS: usize, const GROUPS: usize>(
    token: V::Token,
    sums: &mut [[V; PIXELS]; GROUPS],
    clamp: Option<[Lanes<V>; 2]>,
    mut out: impl Iterator<Item = &'a mut [Lanes<V>]>,
    x: usize,
) where
    Lanes<V>: 'a,
{
    if let Some([low, high]) = clamp {
        let (low, high) = (V::load(token, &low), V::load(token, &high));
        for sum in sums.as_flattened_mut() {
            *sum = sum.max(low).min(high);
        }
    }
    // The number of iterations is known when this is compiled. Otherwise, the compiler would not
    // unroll the loop, and would keep all sums in memory.
    for sums in sums {
        let Some(out) = out.next() else {
            return;
        };
        let out = &mut out[x..x + PIXELS];
        for (out, sum) in out.iter_mut().zip(sums) {
            sum.store(out);
        }
    }
}

/// The part of a row of the output that is the product with one block of weights.
struct Part<'a, P: Precision> {
    y: usize,
    block: usize,
    out: &'a mut [P::Lanes],
}

/// Divides the output into parts. The parts of up to `chunk` rows that use the same weights
/// follow each other.
fn parts<P: Precision>(out: &mut [P::Lanes], size: Size, chunk: usize) -> Vec<Part<'_, P>> {
    let block = P::BLOCK * size.width;
    let blocks = size.groups.div_ceil(P::BLOCK);
    let mut parts = Vec::with_capacity(size.height * blocks);
    for (index, rows) in out.chunks_mut(chunk * size.row()).enumerate() {
        let rows = rows.chunks_exact_mut(size.row());
        let mut rows: Vec<_> = rows.map(|row| row.chunks_mut(block)).collect();
        for block in 0..blocks {
            for (y, out) in (index * chunk..).zip(&mut rows) {
                parts.extend(out.next().map(|out| Part { y, block, out }));
            }
        }
    }
    parts
}

/// Divides the parts of a picture of `total` vectors among threads.
fn shares<P: Precision>(
    parts: Vec<Part<'_, P>>,
    total: usize,
    threads: usize,
) -> Vec<Vec<Part<'_, P>>> {
    let share = total.div_ceil(threads);
    let mut shares: Vec<Vec<Part<P>>> = (0..threads).map(|_| Vec::new()).collect();
    let mut done = 0;
    for part in parts {
        let middle = done + part.out.len() / 2;
        done += part.out.len();
        shares[middle / share].push(part);
    }
    shares
}

/// The product of some parts of a picture.
struct PartsKernel<'a, 'b, P: Precision> {
    product: Product<'a, P>,
    input: &'a [P::Lanes],
    size: Size,
    /// A picture that is added to the result. If it is empty, nothing is added.
    added: &'a [P::Lanes],
    parts: &'a mut [Part<'b, P>],
}

impl<P: Precision> Kernel<P> for PartsKernel<'_, '_, P> {
    #[inline(always)]
    fn run<V: Vector<Precision = P>>(self, token: V::Token) {
        let Product {
            params,
            depth,
            clamp,
        } = self.product;
        let width = self.size.width;
        let row = (depth - 1) / P::LANES * width;
        for part in self.parts {
            let count = part.out.len();
            let groups = count / width;
            let added = (part.y * self.size.groups + part.block * P::BLOCK) * width;
            let mut row = Row {
                input: &self.input[part.y * row..][..row],
                width,
                added: self.added.get(added..added + count),
                clamp,
                out: part.out,
                stride: width,
                left: 0,
            };
            let params = &params[part.block * P::BLOCK * depth..][..groups * depth];
            row.multiply::<V, true>(token, params, groups);
        }
    }
}

impl<P: Precision> Op for BlockedPointwise<P> {
    fn name(&self) -> StaticName {
        "BlockedPointwise".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl<P: Precision> EvalOp for BlockedPointwise<P> {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let added = (inputs.len() == 3).then(|| inputs.pop()).flatten();
        let (input, params) = args_2!(inputs);
        let from = Size::of::<P>(input.shape())?;
        let to = Size {
            groups: self.groups,
            ..from
        };
        let params = params.try_as_plain_ram()?;
        let product = Product::<P>::new(
            vectors::<P>(&params)?,
            from.groups,
            to.groups,
            self.is_clamped,
        )?;
        let mut output = buffer_pool::tensor::<P::Value>(&to.shape::<P>())?;
        {
            let plain = input.try_as_plain_ram()?;
            let input = vectors::<P>(&plain)?;
            let added = match &added {
                Some(added) => Some(added.try_as_plain_ram()?),
                None => None,
            };
            let added = match &added {
                Some(added) => vectors::<P>(added)?,
                None => &[],
            };
            ensure!(added.is_empty() || added.len() == to.height * to.row());
            let products = output.len() * P::LANES * from.groups;
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
            let chunk = (CHUNK / (from.row() * size_of::<P::Lanes>())).max(1);
            let total = out.len();
            let mut shares = shares(parts::<P>(out, to, chunk), total, threads());
            par_chunks_mut(
                &mut shares,
                1,
                products / PRODUCTS_PER_VALUE,
                |_, shares| {
                    for parts in shares {
                        self.precision.run(PartsKernel {
                            product,
                            input,
                            size: to,
                            added,
                            parts,
                        });
                    }
                    Ok(())
                },
            )?;
        }
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for BlockedPointwise<P> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        fact.shape.set(1, self.groups.to_dim());
        Ok(tvec!(fact))
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::super::half::Half;
    use super::*;

    #[test]
    fn shares_contain_each_part_once_and_are_equal_up_to_one_part() {
        for (height, groups, width, chunk) in [(7, 10, 7, 7), (56, 2, 56, 9), (1, 1, 5, 1)] {
            let size = Size {
                height,
                groups,
                width,
            };
            let total = height * size.row();
            for threads in 1..=5 {
                let mut out = vec![Half::ZERO; total];
                let shares = shares(parts::<Half>(&mut out, size, chunk), total, threads);
                assert_eq!(shares.len(), threads);
                let sums = shares
                    .iter()
                    .map(|parts| parts.iter().map(|part| part.out.len()).sum::<usize>());
                for sum in sums {
                    let difference = sum.abs_diff(total / threads);
                    assert!(difference <= Half::BLOCK * width, "{difference}");
                }
                let mut found: Vec<_> = shares.iter().flatten().collect();
                assert_eq!(
                    found.iter().map(|part| part.out.len()).sum::<usize>(),
                    total
                );
                found.sort_by_key(|part| (part.y, part.block));
                found.dedup_by_key(|part| (part.y, part.block));
                assert_eq!(found.len(), height * groups.div_ceil(Half::BLOCK));
            }
        }
    }
}
