//! 2x2 max pooling with a stride of 2, of a picture in the blocked layout.

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

use super::precision::{Kernel, Precision, Vector};
use super::{Size, vectors};
use crate::onnx::ops::buffer_pool;

/// The height and the width of the input must be even. The output has half the height and
/// half the width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedMaxPool<P> {
    pub(in crate::onnx) precision: P,
}

impl<P: Precision> BlockedMaxPool<P> {
    fn sizes(shape: &[usize]) -> TractResult<(Size, Size)> {
        let from = Size::of::<P>(shape)?;
        ensure!(from.height % 2 == 0 && from.width % 2 == 0);
        let to = Size {
            height: from.height / 2,
            width: from.width / 2,
            ..from
        };
        Ok((from, to))
    }
}

/// The maxima of the rows of a picture, each of which has `row` vectors.
struct RowsKernel<'a, P: Precision> {
    input: &'a [P::Lanes],
    row: usize,
    out: &'a mut [P::Lanes],
}

impl<P: Precision> Kernel<P> for RowsKernel<'_, P> {
    #[inline(always)]
    fn run<V: Vector<Precision = P>>(self, token: V::Token) {
        // Each row of the output comes from two rows of the input.
        let pairs = self.input.chunks_exact(4 * self.row);
        for (out, pair) in self.out.chunks_exact_mut(self.row).zip(pairs) {
            let (upper, lower) = pair.split_at(2 * self.row);
            let (upper, _) = upper.as_chunks::<2>();
            let (lower, _) = lower.as_chunks::<2>();
            for (out, (upper, lower)) in out.iter_mut().zip(upper.iter().zip(lower)) {
                let [[a, b], [c, d]] =
                    [upper, lower].map(|pair| [V::load(token, &pair[0]), V::load(token, &pair[1])]);
                a.max(b).max(c.max(d)).store(out);
            }
        }
    }
}

impl<P: Precision> Op for BlockedMaxPool<P> {
    fn name(&self) -> StaticName {
        "BlockedMaxPool".into()
    }

    op_as_typed_op!();
}

impl<P: Precision> EvalOp for BlockedMaxPool<P> {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (from, to) = Self::sizes(input.shape())?;
        let mut output = buffer_pool::tensor::<P::Value>(&to.shape::<P>())?;
        let total = output.len();
        {
            let plain = input.try_as_plain_ram()?;
            let input = vectors::<P>(&plain)?;
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
            par_chunks_mut(out, to.row(), total, |first, out| {
                self.precision.run(RowsKernel {
                    input: &input[first * 2 * from.row()..],
                    row: to.row(),
                    out,
                });
                Ok(())
            })?;
        }
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for BlockedMaxPool<P> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let (_, to) = Self::sizes(shape)?;
        Ok(tvec!(inputs[0].datum_type.fact(to.shape::<P>())))
    }

    as_op!();
}
