//! Im2col turns a 3x3 convolution with few input channels into a 1x1 convolution. For
//! each kernel element, Im2col copies the values that the element reads into a separate
//! channel.

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::buffer_pool;
use super::depthwise::{ConvGeometry, DepthwiseConv3x3, KERNEL_SIDE};

/// Replaces each channel with nine channels, which hold the values that the nine kernel
/// elements read. The input is `[…, channels, height, width]`, and the output is
/// `[…, 9 channels, out height, out width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct Im2col(pub(in crate::onnx) ConvGeometry);

impl Im2col {
    /// Processes pairs of an input plane and its nine output planes.
    fn unfold<'a>(&self, planes: impl Iterator<Item = (&'a [f32], &'a mut [f32])>) {
        let taps = DepthwiseConv3x3(self.0);
        let [height, width] = taps.phase_size();
        let [out_height, out_width] = self.0.output;
        let mut phases = vec![0.0; self.0.stride * self.0.stride * height * width];
        for (plane, out) in planes {
            taps.split_phases(plane, &mut phases);
            for (tap, out) in out.chunks_exact_mut(out_height * out_width).enumerate() {
                let values = taps.values(
                    &phases,
                    tap / KERNEL_SIDE,
                    tap % KERNEL_SIDE,
                    taps.run_length(),
                );
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
        "Im2col".into()
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
        shape[rank - 3] *= KERNEL_SIDE * KERNEL_SIDE;
        let input = input.try_as_plain_ram()?;
        let input = input.as_slice::<f32>()?;
        let [from, to] = [self.0.input, self.0.output].map(|side| side[0] * side[1]);
        let mut output = buffer_pool::tensor::<f32>(&shape)?;
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            KERNEL_SIDE * KERNEL_SIDE * to,
            total,
            |first, planes| {
                let inputs = input.chunks_exact(from).skip(first);
                self.unfold(inputs.zip(planes.chunks_exact_mut(KERNEL_SIDE * KERNEL_SIDE * to)));
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
        let channels = fact.shape[axis].clone() * (KERNEL_SIDE * KERNEL_SIDE);
        fact.shape.set(axis, channels);
        Ok(tvec!(fact))
    }

    as_op!();
}
