//! A convolution of 3x3 of few channels as one of single pixels: what each tap takes
//! becomes a channel.

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;
use super::depthwise::{ConvGeometry, DepthwiseConv3x3, SIDE};

/// What each of the nine taps takes of each channel, as a channel of its own. The input is
/// `[…, channels, height, width]`; the output is `[…, 9 channels, out height, out width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct Im2col(pub(in crate::onnx) ConvGeometry);

impl Im2col {
    /// Unfolds planes one after the other.
    fn unfold<'a>(&self, planes: impl Iterator<Item = (&'a [f32], &'a mut [f32])>) {
        let taps = DepthwiseConv3x3(self.0);
        let [height, width] = taps.dealt();
        let [out_height, out_width] = self.0.output;
        let mut dealt = vec![0.0; self.0.stride * self.0.stride * height * width];
        for (plane, out) in planes {
            taps.deal(plane, &mut dealt);
            for (tap, out) in out.chunks_exact_mut(out_height * out_width).enumerate() {
                let values = taps.values(&dealt, tap / SIDE, tap % SIDE, taps.run());
                let rows = out.chunks_exact_mut(out_width);
                for (row, values) in rows.zip(values.chunks(width)) {
                    row.copy_from_slice(&values[..out_width]);
                }
            }
        }
    }
}

impl Op for Im2col {
    fn name(&self) -> StaticName {
        "Unfold".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Im2col {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let rank = input.rank();
        ensure!(rank >= 3 && input.shape()[rank - 2..] == self.0.input);
        let mut shape = self.0.out_shape(input.shape(), rank - 2);
        shape[rank - 3] *= SIDE * SIDE;
        let input = input.try_as_plain_ram()?;
        let input = input.as_slice::<f32>()?;
        let [from, to] = [self.0.input, self.0.output].map(|side| side[0] * side[1]);
        let mut output = buffer_pool::tensor(&shape)?;
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            SIDE * SIDE * to,
            total,
            |first, planes| {
                let inputs = input.chunks_exact(from).skip(first);
                self.unfold(inputs.zip(planes.chunks_exact_mut(SIDE * SIDE * to)));
                Ok(())
            },
        )?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Im2col {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let axis = inputs[0].rank() - 3;
        let mut fact = self.0.out_fact(inputs[0], axis + 1);
        let channels = fact.shape[axis].clone() * (SIDE * SIDE);
        fact.shape.set(axis, channels);
        Ok(tvec!(fact))
    }

    as_op!();
}
