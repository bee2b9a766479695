//! Replaces convolutions that are matrix products with [`Pointwise`].

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::Conv;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::{Clamp, constant, conv_geometry, fused_clamp, is_planar};
use crate::onnx::ops::depthwise::KERNEL_SIDE;
use crate::onnx::ops::im2col::Im2col;
use crate::onnx::ops::pointwise::{BLOCK, HEADER_ROWS, MIN_AREA, Pointwise};

/// Maximum number of input channels for im2col. Im2col multiplies the number of
/// channels by nine.
pub(super) const MAX_IM2COL_CHANNELS: usize = 4;

/// Rewrites a decluttered model. The depthwise convolutions must already have been
/// rewritten: a large input of a depthwise convolution is computed in parts, and this
/// split is possible only while the operators before the convolution are still tract's
/// own.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("product", |(), model, node, name, product: &EinSum| {
            self::product(model, node, name, product)
        })
        .with_rule_for("im2col", |(), model, node, name, conv: &Conv| {
            im2col(model, node, name, conv)
        })
        .rewrite(&(), model)
}

/// Replaces a 1x1 convolution. At this stage, tract represents the convolution as a
/// product and its bias as a sum.
fn product(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    product: &EinSum,
) -> TractResult<Option<TypedModelPatch>> {
    let [input, weights] = node.inputs[..] else {
        return Ok(None);
    };
    let fact = model.outlet_fact(input)?;
    let (Some(shape), Some(out_shape), Some(weights)) = (
        fact.shape.as_concrete(),
        node.outputs[0].fact.shape.as_concrete(),
        constant(model, weights)?,
    ) else {
        return Ok(None);
    };
    let (Some((pictures, &[channels, height, width])), Some((out_pictures, &[out_channels, ..]))) = (
        shape.split_last_chunk::<3>(),
        out_shape.split_last_chunk::<3>(),
    ) else {
        return Ok(None);
    };
    let is_known = fact.datum_type == f32::datum_type()
        && product.operating_dt == f32::datum_type()
        && product.q_params.is_none()
        && pictures.iter().chain(out_pictures).all(|count| *count == 1)
        && height * width >= MIN_AREA
        && !weights.is_empty()
        && weights.len() == out_channels * channels
        && mixes_channels(&product.axes)?;
    if !is_known {
        return Ok(None);
    }
    let (last, bias) = match bias(model, node, out_channels)? {
        Some((sum, bias)) => (sum, bias),
        None => (node, vec![0.0]),
    };
    let clamp = fused_clamp(model, last)?;
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, input)?;
    let params = params(&weights, out_channels, &bias, &clamp)?;
    let wire = pointwise(&mut patch, name, wire, out_shape, params)?;
    patch.shunt_outside(model, clamp.last.into(), wire)?;
    Ok(Some(patch))
}

/// Builds the parameters of [`Pointwise`] from weights `[out channels, channels]`.
fn params(
    weights: &[f32],
    out_channels: usize,
    bias: &[f32],
    clamp: &Clamp,
) -> TractResult<Tensor> {
    let channels = weights.len() / out_channels;
    let [blocks, depth] = [out_channels.div_ceil(BLOCK), HEADER_ROWS + channels];
    let number = |channel: usize, row: usize| match row {
        _ if channel >= out_channels => 0.0,
        0 => bias[channel % bias.len()],
        1 => clamp.low,
        2 => clamp.high,
        _ => weights[channel * channels + row - HEADER_ROWS],
    };
    let mut params = Vec::with_capacity(blocks * depth * BLOCK);
    for first in (0..out_channels).step_by(BLOCK) {
        for row in 0..depth {
            params.extend((first..first + BLOCK).map(|channel| number(channel, row)));
        }
    }
    Tensor::from_shape(&[blocks, depth, BLOCK], &params)
}

fn pointwise(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    out_shape: &[usize],
    params: Tensor,
) -> TractResult<OutletId> {
    let params = patch.add_const(format!("{name}.params"), params)?;
    let op = Pointwise {
        shape: out_shape.into(),
    };
    let wire = patch.wire_node(format!("{name}.pointwise"), op, &[wire, params])?;
    Ok(wire[0])
}

/// Replaces a full convolution with few input channels by [`Im2col`] and [`Pointwise`].
fn im2col(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let fact = model.outlet_fact(node.inputs[0])?;
    let out_shape = node.outputs[0].fact.shape.as_concrete();
    let (Some(shape), Some(out_shape)) = (fact.shape.as_concrete(), out_shape) else {
        return Ok(None);
    };
    let spec = &conv.pool_spec;
    let dims = spec.data_format.shape(shape)?;
    let is_known = is_planar(spec)
        && dims.n().is_none_or(|n| *n == 1)
        && fact.datum_type == f32::datum_type()
        && conv.group == 1
        && spec.input_channels <= MAX_IM2COL_CHANNELS;
    let (true, Some(geometry), Some(kernel), Some(bias)) = (
        is_known,
        conv_geometry(conv, dims.hw_dims()),
        constant(model, node.inputs[1])?,
        constant(model, node.inputs[2])?,
    ) else {
        return Ok(None);
    };
    let out_channels = spec.output_channels;
    let is_shaped = !kernel.is_empty()
        && kernel.len() == out_channels * spec.input_channels * KERNEL_SIDE * KERNEL_SIDE
        && matches!(bias.len(), n if n == 1 || n == out_channels);
    if !is_shaped || geometry.output[0] * geometry.output[1] < MIN_AREA {
        return Ok(None);
    }
    let clamp = fused_clamp(model, node)?;
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, node.inputs[0])?;
    let wire = patch.wire_node(format!("{name}.im2col"), Im2col(geometry), &[wire])?[0];
    let params = params(&kernel, out_channels, &bias, &clamp)?;
    let wire = pointwise(&mut patch, name, wire, out_shape, params)?;
    patch.shunt_outside(model, clamp.last.into(), wire)?;
    Ok(Some(patch))
}

/// Whether the product multiplies `[…, channels, height, width]` by `[out channels,
/// channels]` to get `[…, out channels, height, width]`. The product may also add or
/// remove leading axes of size 1.
fn mixes_channels(axes: &AxesMapping) -> TractResult<bool> {
    let [rank, out_rank] = [axes.rank(InOut::In(0)), axes.rank(InOut::Out(0))];
    let is = |axis: (usize, usize), input: &[usize], output: &[usize]| -> TractResult<bool> {
        let axis = axes.axis((InOut::In(axis.0), axis.1))?;
        Ok(*axis.inputs[0] == *input && *axis.outputs[0] == *output)
    };
    Ok(axes.rank(InOut::In(1)) == 2
        && is((1, 1), &[rank - 3], &[])?
        && is((1, 0), &[], &[out_rank - 3])?
        && is((0, rank - 2), &[rank - 2], &[out_rank - 2])?
        && is((0, rank - 1), &[rank - 1], &[out_rank - 1])?)
}

/// Returns the node that adds a constant to each channel of `node`'s output, together
/// with the constants. Returns `None` if there is no such node, or if another node uses
/// the output as well.
fn bias<'a>(
    model: &'a TypedModel,
    node: &TypedNode,
    channels: usize,
) -> TractResult<Option<(&'a TypedNode, Vec<f32>)>> {
    let [next] = &*node.outputs[0].successors else {
        return Ok(None);
    };
    let next = model.node(next.node);
    let is_sum = next
        .op_as::<TypedBinOp>()
        .is_some_and(|op| op.0.is::<Add>());
    if !is_sum || model.output_outlets()?.contains(&node.id.into()) {
        return Ok(None);
    }
    let other = usize::from(next.inputs[0] == node.id.into());
    let fact = model.outlet_fact(next.inputs[other])?;
    let rank = fact.rank();
    let by_channel = (0..rank).all(|axis| axis + 3 == rank || fact.shape[axis].is_one());
    let Some(bias) = constant(model, next.inputs[other])? else {
        return Ok(None);
    };
    let is_bias = by_channel
        && (bias.len() == channels || bias.len() == 1)
        && next.outputs[0].fact.shape == node.outputs[0].fact.shape;
    Ok(is_bias.then_some((next, bias)))
}
