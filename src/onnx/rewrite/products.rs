//! Puts [`Pointwise`] in the place of the convolutions that are products of matrices.

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::Conv;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Add;

use super::{Limits, constant, is_planar, limits, window};
use crate::onnx::ops::depthwise::SIDE;
use crate::onnx::ops::im2col::Im2col;
use crate::onnx::ops::pointwise::{BLOCK, FRONT, LEAST, Pointwise};

/// So many channels that what is unfolded of them is not much.
pub(super) const FEW: usize = 4;

/// Rewrites a decluttered model, whose depthwise convolutions are rewritten: what goes
/// into them in parts is made in parts by tract's own operations alone.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("product", |(), model, node, name, product: &EinSum| {
            self::product(model, node, name, product)
        })
        .with_rule_for("unfold", |(), model, node, name, conv: &Conv| {
            unfold(model, node, name, conv)
        })
        .rewrite(&(), model)
}

/// tract has written a convolution of 1x1 as a product, and its bias as a sum, by now.
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
        && height * width >= LEAST
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
    let limits = limits(model, last)?;
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, input)?;
    let numbers = numbers(&weights, out_channels, &bias, &limits)?;
    let wire = pointwise(&mut patch, name, wire, out_shape, numbers)?;
    patch.shunt_outside(model, limits.last.into(), wire)?;
    Ok(Some(patch))
}

/// What [`Pointwise`] takes beside the planes, of weights `[out channels, channels]`.
fn numbers(
    weights: &[f32],
    out_channels: usize,
    bias: &[f32],
    limits: &Limits,
) -> TractResult<Tensor> {
    let channels = weights.len() / out_channels;
    let [blocks, depth] = [out_channels.div_ceil(BLOCK), FRONT + channels];
    let number = |channel: usize, row: usize| match row {
        _ if channel >= out_channels => 0.0,
        0 => bias[channel % bias.len()],
        1 => limits.low,
        2 => limits.high,
        _ => weights[channel * channels + row - FRONT],
    };
    let mut numbers = Vec::with_capacity(blocks * depth * BLOCK);
    for first in (0..out_channels).step_by(BLOCK) {
        for row in 0..depth {
            numbers.extend((first..first + BLOCK).map(|channel| number(channel, row)));
        }
    }
    Tensor::from_shape(&[blocks, depth, BLOCK], &numbers)
}

fn pointwise(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    out_shape: &[usize],
    numbers: Tensor,
) -> TractResult<OutletId> {
    let numbers = patch.add_const(format!("{name}.numbers"), numbers)?;
    let op = Pointwise {
        shape: out_shape.into(),
    };
    let wire = patch.wire_node(format!("{name}.pointwise"), op, &[wire, numbers])?;
    Ok(wire[0])
}

/// A convolution of few channels with each other: what its taps take becomes channels.
fn unfold(
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
        && spec.input_channels <= FEW;
    let (true, Some(sides), Some(kernel), Some(bias)) = (
        is_known,
        window(conv, dims.hw_dims()),
        constant(model, node.inputs[1])?,
        constant(model, node.inputs[2])?,
    ) else {
        return Ok(None);
    };
    let out_channels = spec.output_channels;
    let is_shaped = !kernel.is_empty()
        && kernel.len() == out_channels * spec.input_channels * SIDE * SIDE
        && matches!(bias.len(), n if n == 1 || n == out_channels);
    if !is_shaped || sides.output[0] * sides.output[1] < LEAST {
        return Ok(None);
    }
    let limits = limits(model, node)?;
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, node.inputs[0])?;
    let wire = patch.wire_node(format!("{name}.unfold"), Im2col(sides), &[wire])?[0];
    let numbers = numbers(&kernel, out_channels, &bias, &limits)?;
    let wire = pointwise(&mut patch, name, wire, out_shape, numbers)?;
    patch.shunt_outside(model, limits.last.into(), wire)?;
    Ok(Some(patch))
}

/// Whether a product is of `[…, channels, height, width]` and `[out channels, channels]`
/// and gives `[…, out channels, height, width]`. It may have lost or got axes of size 1
/// before these.
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

/// The sum that alone follows a node and adds a constant to each channel, and that
/// constant.
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
