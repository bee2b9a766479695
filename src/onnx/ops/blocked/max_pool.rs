//! 2x2 max pooling with a stride of 2, of a picture in the blocked layout.

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::{LANES, Lanes, Size, vectors};
use crate::onnx::ops::buffer_pool;
use crate::onnx::ops::depthwise::max;

/// The height and the width of the input must be even. The output has half the height and
/// half the width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct BlockedMaxPool;

impl BlockedMaxPool {
    fn sizes(shape: &[usize]) -> TractResult<(Size, Size)> {
        let from = Size::of(shape)?;
        ensure!(from.height % 2 == 0 && from.width % 2 == 0);
        let to = Size {
            height: from.height / 2,
            width: from.width / 2,
            ..from
        };
        Ok((from, to))
    }
}

fn max_of(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|lane| max(a[lane], b[lane]))
}

impl Op for BlockedMaxPool {
    fn name(&self) -> StaticName {
        "BlockedMaxPool".into()
    }

    op_as_typed_op!();
}

impl EvalOp for BlockedMaxPool {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (from, to) = Self::sizes(input.shape())?;
        let mut output = buffer_pool::tensor(&to.shape())?;
        let total = output.len();
        {
            let plain = input.try_as_plain_ram()?;
            let input = vectors(&plain)?;
            par_chunks_mut(
                output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
                to.row() * LANES,
                total,
                |first, rows| {
                    let (rows, _) = rows.as_chunks_mut::<LANES>();
                    // Each row of the output comes from two rows of the input.
                    let pairs = input.chunks_exact(2 * from.row()).skip(first);
                    for (out, pair) in rows.chunks_exact_mut(to.row()).zip(pairs) {
                        let (upper, lower) = pair.split_at(from.row());
                        let (upper, _) = upper.as_chunks::<2>();
                        let (lower, _) = lower.as_chunks::<2>();
                        for (out, ([a, b], [c, d])) in out.iter_mut().zip(upper.iter().zip(lower)) {
                            *out = max_of(max_of(*a, *b), max_of(*c, *d));
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

impl TypedOp for BlockedMaxPool {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let (_, to) = Self::sizes(shape)?;
        Ok(tvec!(inputs[0].datum_type.fact(to.shape())))
    }

    as_op!();
}
