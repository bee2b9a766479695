//! A 1x1 convolution of a picture in the blocked layout, fused with its bias, a clamp, and
//! the sum with another picture.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x4};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::{LANES, Lanes, PRODUCTS_PER_VALUE, Size, broadcast, threads, vectors};
use crate::onnx::ops::buffer_pool;

/// Maximum number of vectors of output channels in a tile, and maximum number of adjacent
/// pixels in a tile. The sums (21 vectors), seven pixels, and the weights fit in the 32
/// registers of aarch64, and the widths of the layers of a MobileNet on 224x224 pixels are
/// multiples of seven.
pub(super) const BLOCK: usize = 3;
const TILE: usize = 7;
/// Number of pixels in a narrower tile, for the end of a row.
const NARROW_TILE: usize = 3;

/// Number of vectors at the end of the parameters: the lower and upper bounds of the clamp.
const CLAMP_ROWS: usize = 2;

/// Number of vectors of the input after which the weights are read again. These vectors
/// take 256 KB, which fits in the L2 cache. For fewer vectors, the weights, which may not
/// fit in any cache, would be read more often.
const CHUNK: usize = 16 << 10;

/// The operator has two or three inputs: a picture, the parameters (see
/// [`product_params`]), and optionally a picture that is added to the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedPointwise {
    /// Number of output channels, divided by four and rounded up.
    pub(in crate::onnx) groups: usize,
    /// Whether the result is clamped.
    pub(in crate::onnx) is_clamped: bool,
}

/// Returns the parameters of a product, of shape `[rows, 4]`. `weights` is `[out channels,
/// channels]`, and `bias` has one value or one for each output channel. The result is
/// divided into blocks of up to [`BLOCK`] vectors of output channels. For each block, the
/// parameters contain the biases, and then the weights for each input channel. They end with
/// the bounds of the clamp.
pub(in crate::onnx) fn product_params(
    weights: &[f32],
    out_channels: usize,
    bias: &[f32],
    clamp: [f32; 2],
) -> TractResult<Tensor> {
    let channels = weights.len() / out_channels;
    let depth = 1 + channels.next_multiple_of(LANES);
    let groups = out_channels.div_ceil(LANES);
    let value = |channel: usize, row: usize| match row {
        _ if channel >= out_channels || row > channels => 0.0,
        0 => bias[channel % bias.len()],
        _ => weights[channel * channels + row - 1],
    };
    let mut params = Vec::with_capacity((groups * depth + CLAMP_ROWS) * LANES);
    for first in (0..groups).step_by(BLOCK) {
        let count = BLOCK.min(groups - first);
        for row in 0..depth {
            let channels = LANES * first..LANES * (first + count);
            params.extend(channels.map(|channel| value(channel, row)));
        }
    }
    params.extend(clamp.into_iter().flat_map(|bound| [bound; LANES]));
    Tensor::from_shape(&[groups * depth + CLAMP_ROWS, LANES], &params)
}

/// The weights and bounds of a product.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    params: &'a [Lanes],
    /// Number of vectors for each vector of output channels: one of biases, and the weights.
    depth: usize,
    clamp: Option<[f32; 2]>,
}

/// Part of a picture into which a product is written.
pub(super) struct Target<'a> {
    /// Rows of the picture. Each row contains `stride` vectors for each group.
    pub(super) rows: &'a mut [&'a mut [Lanes]],
    pub(super) stride: usize,
    /// Index of the first pixel.
    pub(super) left: usize,
}

impl<'a> Product<'a> {
    /// Reads the parameters of a product of pictures with `in_groups` vectors per pixel.
    pub(super) fn new(
        params: &'a [Lanes],
        in_groups: usize,
        groups: usize,
        is_clamped: bool,
    ) -> TractResult<Product<'a>> {
        let depth = 1 + LANES * in_groups;
        let Some((params, &[low, high])) = params.split_last_chunk::<CLAMP_ROWS>() else {
            bail!("the product has no parameters");
        };
        ensure!(params.len() == groups * depth);
        Ok(Product {
            params,
            depth,
            clamp: is_clamped.then_some([low[0], high[0]]),
        })
    }

    /// Returns the product for some of the output channels. `first` must be a multiple of
    /// [`BLOCK`].
    pub(super) fn groups(self, first: usize, count: usize) -> Product<'a> {
        Product {
            params: &self.params[first * self.depth..][..count * self.depth],
            ..self
        }
    }

    /// Returns the parameters of each block.
    pub(super) fn blocks(self) -> impl Iterator<Item = &'a [Lanes]> {
        self.params.chunks(BLOCK * self.depth)
    }

    pub(super) fn clamp(self) -> Option<[f32; 2]> {
        self.clamp
    }

    /// Computes the product for each row of `input`. Each row of `added` is added to the
    /// corresponding row of the result; if there are no rows, nothing is added.
    #[inline(always)]
    pub(super) fn rows<S: Simd>(
        self,
        simd: S,
        input: &[Lanes],
        width: usize,
        added: &[Lanes],
        out: &mut Target,
    ) {
        let row = (self.depth - 1) / LANES * width;
        let added_row = self.params.len() / self.depth * width;
        for (block, params) in self.blocks().enumerate() {
            let groups = params.len() / self.depth;
            let mut added = added.chunks_exact(added_row);
            for (input, to) in input.chunks_exact(row).zip(out.rows.iter_mut()) {
                let to = &mut to[block * BLOCK * out.stride..][..groups * out.stride];
                let mut row = Row {
                    input,
                    width,
                    added: added
                        .next()
                        .map(|row| &row[block * BLOCK * width..][..groups * width]),
                    clamp: self.clamp,
                    out: to,
                    stride: out.stride,
                    left: out.left,
                };
                match groups {
                    BLOCK => row.block::<S, BLOCK>(simd, params.as_chunks().0),
                    2 => row.block::<S, 2>(simd, params.as_chunks().0),
                    _ => row.block::<S, 1>(simd, params.as_chunks().0),
                }
            }
        }
    }
}

/// A row of a picture and its product with a block of weights.
struct Row<'a> {
    input: &'a [Lanes],
    width: usize,
    added: Option<&'a [Lanes]>,
    clamp: Option<[f32; 2]>,
    out: &'a mut [Lanes],
    stride: usize,
    left: usize,
}

impl Row<'_> {
    #[inline(always)]
    fn block<S: Simd, const GROUPS: usize>(&mut self, simd: S, params: &[[Lanes; GROUPS]]) {
        let mut x = 0;
        while x + TILE <= self.width {
            self.tile::<S, TILE, GROUPS>(simd, x, params);
            x += TILE;
        }
        while x + NARROW_TILE <= self.width {
            self.tile::<S, NARROW_TILE, GROUPS>(simd, x, params);
            x += NARROW_TILE;
        }
        while x < self.width {
            self.tile::<S, 1, GROUPS>(simd, x, params);
            x += 1;
        }
    }

    /// Computes the product for `PIXELS` pixels, starting at the pixel `x`.
    #[inline(always)]
    fn tile<S: Simd, const PIXELS: usize, const GROUPS: usize>(
        &mut self,
        simd: S,
        x: usize,
        params: &[[Lanes; GROUPS]],
    ) {
        let Some((bias, weights)) = params.split_first() else {
            return;
        };
        let mut sums = biases::<S, PIXELS, GROUPS>(simd, bias);
        if let Some(added) = self.added {
            for (sums, added) in sums.iter_mut().zip(added.chunks_exact(self.width)) {
                let added = &added[x..x + PIXELS];
                for (sum, added) in sums.iter_mut().zip(added) {
                    *sum += f32x4::from_slice(simd, added);
                }
            }
        }
        let (weights, _) = weights.as_chunks::<LANES>();
        for (pixels, weights) in self.input.chunks_exact(self.width).zip(weights) {
            let pixels = &pixels[x..x + PIXELS];
            let pixels: [f32x4<S>; PIXELS] = from_fn(|x| f32x4::from_slice(simd, &pixels[x]));
            for (lane, weights) in weights.iter().enumerate() {
                add_products(simd, |x| broadcast(pixels[x], lane), weights, &mut sums);
            }
        }
        let out = self.out.chunks_exact_mut(self.stride);
        store(simd, &mut sums, self.clamp, out, self.left + x);
    }
}

/// Returns the biases of a block for each pixel of a tile.
#[inline(always)]
pub(super) fn biases<S: Simd, const PIXELS: usize, const GROUPS: usize>(
    simd: S,
    bias: &[Lanes; GROUPS],
) -> [[f32x4<S>; PIXELS]; GROUPS] {
    from_fn(|group| [f32x4::from_slice(simd, &bias[group]); PIXELS])
}

/// Multiplies a channel of the input by the weights of a block. `pixel` returns vectors in
/// which all values are equal.
#[inline(always)]
pub(super) fn add_products<S: Simd, const PIXELS: usize, const GROUPS: usize>(
    simd: S,
    pixel: impl Fn(usize) -> f32x4<S>,
    weights: &[Lanes; GROUPS],
    sums: &mut [[f32x4<S>; PIXELS]; GROUPS],
) {
    for (sums, weight) in sums.iter_mut().zip(weights) {
        let weight = f32x4::from_slice(simd, weight);
        for (x, sum) in sums.iter_mut().enumerate() {
            *sum = weight.mul_add(pixel(x), *sum);
        }
    }
}

/// Clamps the result of a tile, and stores the vectors of each group in the corresponding
/// row of `out`, beginning at `x`.
#[inline(always)]
pub(super) fn store<'a, S: Simd, const PIXELS: usize, const GROUPS: usize>(
    simd: S,
    sums: &mut [[f32x4<S>; PIXELS]; GROUPS],
    clamp: Option<[f32; 2]>,
    out: impl Iterator<Item = &'a mut [Lanes]>,
    x: usize,
) {
    if let Some(clamp) = clamp {
        let [low, high] = clamp.map(|bound| f32x4::splat(simd, bound));
        for sum in sums.as_flattened_mut() {
            *sum = sum.max(low).min(high);
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        let out = &mut out[x..x + PIXELS];
        for (out, sum) in out.iter_mut().zip(sums) {
            sum.store_slice(out);
        }
    }
}

impl Op for BlockedPointwise {
    fn name(&self) -> StaticName {
        "BlockedPointwise".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    op_as_typed_op!();
}

impl EvalOp for BlockedPointwise {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let added = (inputs.len() == 3).then(|| inputs.pop()).flatten();
        let (input, params) = args_2!(inputs);
        let from = Size::of(input.shape())?;
        let to = Size {
            groups: self.groups,
            ..from
        };
        let params = params.try_as_plain_ram()?;
        let product = Product::new(vectors(&params)?, from.groups, to.groups, self.is_clamped)?;
        let mut output = buffer_pool::tensor(&to.shape())?;
        {
            let plain = input.try_as_plain_ram()?;
            let input = vectors(&plain)?;
            let added = match &added {
                Some(added) => Some(added.try_as_plain_ram()?),
                None => None,
            };
            let added = match &added {
                Some(added) => vectors(added)?,
                None => &[],
            };
            ensure!(added.is_empty() || added.len() == to.height * to.row());
            let products = output.len() * LANES * from.groups;
            let share = to.height.div_ceil(threads());
            let mut plain = output.try_as_plain_ram_mut()?;
            let (out, _) = plain.as_slice_mut::<f32>()?.as_chunks_mut::<LANES>();
            let mut shares: Vec<&mut [Lanes]> = out.chunks_mut(share * to.row()).collect();
            let chunk = (CHUNK / from.row()).max(1);
            par_chunks_mut(
                &mut shares,
                1,
                products / PRODUCTS_PER_VALUE,
                |first, shares| {
                    let inputs = input.chunks(share * from.row()).skip(first);
                    let mut added = added.chunks(share * to.row()).skip(first);
                    for (out, input) in shares.iter_mut().zip(inputs) {
                        let mut added = added.next().unwrap_or_default().chunks(chunk * to.row());
                        let inputs = input.chunks(chunk * from.row());
                        for (out, input) in out.chunks_mut(chunk * to.row()).zip(inputs) {
                            let added = added.next().unwrap_or_default();
                            let mut rows: Vec<_> = out.chunks_exact_mut(to.row()).collect();
                            let mut out = Target {
                                rows: &mut rows,
                                stride: to.width,
                                left: 0,
                            };
                            dispatch!(Level::new(), simd => {
                                product.rows(simd, input, to.width, added, &mut out);
                            });
                        }
                    }
                    Ok(())
                },
            )?;
        }
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for BlockedPointwise {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        fact.shape.set(1, self.groups.to_dim());
        Ok(tvec!(fact))
    }

    as_op!();
}
