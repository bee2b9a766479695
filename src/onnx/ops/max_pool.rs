//! Vectorized 2x2 max pooling with a stride of 2. tract's own max pooling is not
//! vectorized.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use fearless_simd::{Level, Simd, dispatch};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;
use super::depthwise::max;

/// The input is `[…, height, width]`, and both its height and its width must be even. The
/// output has half the height and half the width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct MaxPool2x2;

/// Computes one output row from each pair of adjacent input rows.
#[inline(always)]
fn halve_rows<'a, S: Simd>(_: S, rows: impl Iterator<Item = (&'a mut [f32], &'a [f32])>) {
    for (out, pair) in rows {
        let (upper, lower) = pair.split_at(2 * out.len());
        let (upper, _) = upper.as_chunks::<2>();
        let (lower, _) = lower.as_chunks::<2>();
        for (out, (a, b)) in out.iter_mut().zip(upper.iter().zip(lower)) {
            *out = max(max(a[0], a[1]), max(b[0], b[1]));
        }
    }
}

impl Op for MaxPool2x2 {
    fn name(&self) -> StaticName {
        "MaxPool2x2".into()
    }

    op_as_typed_op!();
}

impl EvalOp for MaxPool2x2 {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut shape: TVec<usize> = input.shape().into();
        let rank = shape.len();
        ensure!(rank >= 2);
        shape[rank - 2] /= 2;
        shape[rank - 1] /= 2;
        let width = shape[rank - 1];
        let plain = input.try_as_plain_ram()?;
        let values = plain.as_slice::<f32>()?;
        let mut output = buffer_pool::tensor::<f32>(&shape)?;
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            width,
            total,
            |first, rows| {
                // Each row of the output comes from two rows of the input.
                let pairs = values.chunks_exact(4 * width).skip(first);
                let rows = rows.chunks_exact_mut(width).zip(pairs);
                dispatch!(Level::new(), simd => halve_rows(simd, rows));
                Ok(())
            },
        )?;
        buffer_pool::recycle(input);
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for MaxPool2x2 {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut fact = inputs[0].without_value();
        for axis in [fact.rank() - 2, fact.rank() - 1] {
            let half = fact.shape[axis].clone() / 2;
            fact.shape.set(axis, half);
        }
        Ok(tvec!(fact))
    }

    as_op!();
}
