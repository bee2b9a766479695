//! The largest value of each 2x2 square, as tract's own pooling takes it one
//! value at a time.

#![expect(
    clippy::inline_always,
    reason = "what is compiled for a kind of processor must not be a call of what is not"
)]

use fearless_simd::{Level, Simd, dispatch};
use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;
use super::depthwise::larger;

/// The input is `[…, height, width]`, both even; the output half as high and
/// half as wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct MaxPool2x2;

/// Makes one row of each two, which lie one after the other.
#[inline(always)]
fn halve_rows<'a, S: Simd>(_: S, rows: impl Iterator<Item = (&'a mut [f32], &'a [f32])>) {
    for (out, pair) in rows {
        let (upper, lower) = pair.split_at(2 * out.len());
        let (upper, _) = upper.as_chunks::<2>();
        let (lower, _) = lower.as_chunks::<2>();
        for (out, (a, b)) in out.iter_mut().zip(upper.iter().zip(lower)) {
            *out = larger(larger(a[0], a[1]), larger(b[0], b[1]));
        }
    }
}

impl Op for MaxPool2x2 {
    fn name(&self) -> StaticName {
        "Halve".into()
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
        let mut output = buffer_pool::tensor(&shape)?;
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            width,
            total,
            |first, rows| {
                // Two rows of the input make one.
                let pairs = values.chunks_exact(4 * width).skip(first);
                let rows = rows.chunks_exact_mut(width).zip(pairs);
                dispatch!(Level::new(), simd => halve_rows(simd, rows));
                Ok(())
            },
        )?;
        buffer_pool::keep(input);
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
