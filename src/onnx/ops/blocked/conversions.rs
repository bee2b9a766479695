//! Conversions between the planar layout (NCHW) and the blocked layout.

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::{Precision, Size, vectors};
use crate::onnx::ops::buffer_pool;

/// Converts a single picture `[1, channels, height, width]` to the blocked layout. Missing
/// channels of the last vector are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct ToBlocked<P> {
    pub(in crate::onnx) precision: P,
}

impl<P: Precision> ToBlocked<P> {
    fn size(shape: &[usize]) -> TractResult<Size> {
        let &[1, channels, height, width] = shape else {
            bail!("{shape:?} is not a single picture");
        };
        ensure!(height > 0 && channels > 0 && width > 0);
        Ok(Size {
            height,
            groups: channels.div_ceil(P::LANES),
            width,
        })
    }
}

impl<P: Precision> Op for ToBlocked<P> {
    fn name(&self) -> StaticName {
        "ToBlocked".into()
    }

    op_as_typed_op!();
}

impl<P: Precision> EvalOp for ToBlocked<P> {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let size = Self::size(input.shape())?;
        let area = size.height * size.width;
        let plain = input.try_as_plain_ram()?;
        let planes: Vec<&[f32]> = plain.as_slice::<f32>()?.chunks_exact(area).collect();
        let mut output = buffer_pool::tensor::<P::Value>(&size.shape::<P>())?;
        let total = output.len();
        {
            let mut plain = output.try_as_plain_ram_mut()?;
            let out = P::vectors_mut(plain.as_slice_mut::<P::Value>()?);
            par_chunks_mut(out, size.row(), total, |first, rows| {
                for (y, row) in (first..).zip(rows.chunks_exact_mut(size.row())) {
                    let part = y * size.width..(y + 1) * size.width;
                    let groups = planes
                        .chunks(P::LANES)
                        .zip(row.chunks_exact_mut(size.width));
                    for (planes, to) in groups {
                        let planes: TVec<&[f32]> =
                            planes.iter().map(|plane| &plane[part.clone()]).collect();
                        self.precision.interleave(&planes, to);
                    }
                }
                Ok(())
            })?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for ToBlocked<P> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let shape = Self::size(shape)?.shape::<P>();
        Ok(tvec!(P::Value::datum_type().fact(shape)))
    }

    as_op!();
}

/// Converts a picture to the planar layout. The output is `[1, channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct FromBlocked<P> {
    pub(in crate::onnx) precision: P,
    pub(in crate::onnx) channels: usize,
}

impl<P: Precision> FromBlocked<P> {
    fn shape(&self, shape: &[usize]) -> TractResult<([usize; 4], Size)> {
        let size = Size::of::<P>(shape)?;
        ensure!(self.channels.div_ceil(P::LANES) == size.groups);
        Ok(([1, self.channels, size.height, size.width], size))
    }
}

impl<P: Precision> Op for FromBlocked<P> {
    fn name(&self) -> StaticName {
        "FromBlocked".into()
    }

    op_as_typed_op!();
}

impl<P: Precision> EvalOp for FromBlocked<P> {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (shape, size) = self.shape(input.shape())?;
        let plain = input.try_as_plain_ram()?;
        let input = vectors::<P>(&plain)?;
        let mut output = Tensor::zero::<f32>(&shape)?;
        let total = output.len();
        let area = size.height * size.width;
        {
            let mut plain = output.try_as_plain_ram_mut()?;
            let groups = plain.as_slice_mut::<f32>()?.chunks_mut(P::LANES * area);
            let mut groups: Vec<&mut [f32]> = groups.collect();
            par_chunks_mut(&mut groups, 1, total, |first, groups| {
                for (group, planes) in (first..).zip(groups) {
                    let mut planes: TVec<&mut [f32]> = planes.chunks_exact_mut(area).collect();
                    for (y, row) in input.chunks_exact(size.row()).enumerate() {
                        let from = &row[group * size.width..][..size.width];
                        let part = y * size.width..(y + 1) * size.width;
                        let mut planes: TVec<&mut [f32]> = planes
                            .iter_mut()
                            .map(|plane| &mut plane[part.clone()])
                            .collect();
                        self.precision.deinterleave(from, &mut planes);
                    }
                }
                Ok(())
            })?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl<P: Precision> TypedOp for FromBlocked<P> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let (shape, _) = self.shape(shape)?;
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}
