//! Conversions between the planar layout (NCHW) and the blocked layout.

use std::ops::Range;

use tract_linalg::multithread::par_chunks_mut;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

use super::{LANES, Lanes, Size, vectors};
use crate::onnx::ops::buffer_pool;

/// Converts a single picture `[1, channels, height, width]` to the blocked layout. Missing
/// channels of the last vector are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct ToBlocked;

impl ToBlocked {
    fn size(shape: &[usize]) -> TractResult<Size> {
        let &[1, channels, height, width] = shape else {
            bail!("{shape:?} is not a single picture");
        };
        ensure!(height > 0 && channels > 0 && width > 0);
        Ok(Size {
            height,
            groups: channels.div_ceil(LANES),
            width,
        })
    }
}

/// Writes part of up to four planes as vectors.
fn interleave(planes: &[&[f32]], part: Range<usize>, to: &mut [Lanes]) {
    // The compiler vectorizes this case.
    if let [a, b, c, d] = planes {
        let [a, b, c, d] = [a, b, c, d].map(|plane| &plane[part.clone()]);
        for (to, (((a, b), c), d)) in to.iter_mut().zip(a.iter().zip(b).zip(c).zip(d)) {
            *to = [*a, *b, *c, *d];
        }
        return;
    }
    to.fill([0.0; LANES]);
    for (lane, plane) in planes.iter().enumerate() {
        for (to, value) in to.iter_mut().zip(&plane[part.clone()]) {
            to[lane] = *value;
        }
    }
}

/// Writes vectors to up to four planes, beginning at the pixel `start`.
fn deinterleave(from: &[Lanes], planes: &mut [&mut [f32]], start: usize) {
    let part = start..start + from.len();
    // The compiler vectorizes this case.
    if let [a, b, c, d] = planes {
        let [a, b, c, d] = [a, b, c, d].map(|plane| &mut plane[part.clone()]);
        for (from, (((a, b), c), d)) in from.iter().zip(a.iter_mut().zip(b).zip(c).zip(d)) {
            [*a, *b, *c, *d] = *from;
        }
        return;
    }
    for (lane, plane) in planes.iter_mut().enumerate() {
        for (to, from) in plane[part.clone()].iter_mut().zip(from) {
            *to = from[lane];
        }
    }
}

impl Op for ToBlocked {
    fn name(&self) -> StaticName {
        "ToBlocked".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ToBlocked {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let size = Self::size(input.shape())?;
        let area = size.height * size.width;
        let plain = input.try_as_plain_ram()?;
        let planes: Vec<&[f32]> = plain.as_slice::<f32>()?.chunks_exact(area).collect();
        let mut output = buffer_pool::tensor(&size.shape())?;
        let total = output.len();
        par_chunks_mut(
            output.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?,
            size.row() * LANES,
            total,
            |first, rows| {
                let (rows, _) = rows.as_chunks_mut::<LANES>();
                for (y, row) in (first..).zip(rows.chunks_exact_mut(size.row())) {
                    let groups = planes.chunks(LANES).zip(row.chunks_exact_mut(size.width));
                    for (planes, to) in groups {
                        let row = y * size.width..(y + 1) * size.width;
                        interleave(planes, row, to);
                    }
                }
                Ok(())
            },
        )?;
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for ToBlocked {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let shape = Self::size(shape)?.shape();
        Ok(tvec!(inputs[0].datum_type.fact(shape)))
    }

    as_op!();
}

/// Converts a picture to the planar layout. The output is `[1, channels, height, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::onnx) struct FromBlocked {
    pub(in crate::onnx) channels: usize,
}

impl FromBlocked {
    fn shape(&self, shape: &[usize]) -> TractResult<([usize; 4], Size)> {
        let size = Size::of(shape)?;
        ensure!(self.channels.div_ceil(LANES) == size.groups);
        Ok(([1, self.channels, size.height, size.width], size))
    }
}

impl Op for FromBlocked {
    fn name(&self) -> StaticName {
        "FromBlocked".into()
    }

    op_as_typed_op!();
}

impl EvalOp for FromBlocked {
    op_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (shape, size) = self.shape(input.shape())?;
        let plain = input.try_as_plain_ram()?;
        let input: &[Lanes] = vectors(&plain)?;
        let mut output = Tensor::zero::<f32>(&shape)?;
        let total = output.len();
        let area = size.height * size.width;
        {
            let mut plain = output.try_as_plain_ram_mut()?;
            let groups = plain.as_slice_mut::<f32>()?.chunks_mut(LANES * area);
            let mut groups: Vec<&mut [f32]> = groups.collect();
            par_chunks_mut(&mut groups, 1, total, |first, groups| {
                for (group, planes) in (first..).zip(groups) {
                    let mut planes: TVec<&mut [f32]> = planes.chunks_exact_mut(area).collect();
                    for (y, row) in input.chunks_exact(size.row()).enumerate() {
                        let from = &row[group * size.width..][..size.width];
                        deinterleave(from, &mut planes, y * size.width);
                    }
                }
                Ok(())
            })?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for FromBlocked {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let Some(shape) = inputs[0].shape.as_concrete() else {
            bail!("the size of the picture is not fixed");
        };
        let (shape, _) = self.shape(shape)?;
        Ok(tvec!(inputs[0].datum_type.fact(shape)))
    }

    as_op!();
}
