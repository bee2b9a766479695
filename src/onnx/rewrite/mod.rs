//! Replaces tract's operators with our own faster operators.
//!
//! This module knows the forms in which tract represents the operators to replace, and
//! leaves all other operators unchanged.

use fearless_simd::Level;
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PoolSpec};
use tract_onnx::tract_core::ops::math::{Max, Min};
use tract_onnx::tract_core::ops::nn::DataFormat;

mod blocked;

#[cfg(target_arch = "aarch64")]
use super::ops::blocked::Half;
use super::ops::blocked::Single;
use super::ops::depthwise::{ConvGeometry, DepthwiseConv3x3, KERNEL_SIDE, PARAMS};
use super::ops::max_pool::MaxPool2x2;

/// Rewrites a model that is not yet decluttered. Replaces the convolutions of a face detector
/// and of a MobileNet. If `half` is present, the new operators compute with 16-bit floats, except
/// for the first ones. Their number is in `half`.
#[cfg(target_arch = "aarch64")]
pub(super) fn use_blocked_layout(
    mut model: TypedModel,
    half: Option<(Half, usize)>,
) -> TractResult<TypedModel> {
    let Some(neon) = Level::new().as_neon() else {
        return Ok(model);
    };
    match half {
        Some((half, first)) => {
            blocked::rewrite(&mut model, Single(neon), Some(first))?;
            blocked::rewrite(&mut model, half, None)?;
        }
        None => blocked::rewrite(&mut model, Single(neon), None)?,
    }
    Ok(model)
}

/// Rewrites a model that is not yet decluttered. Replaces the convolutions of a face detector
/// and of a MobileNet by operators for the longest vectors of an instruction set.
#[cfg(target_arch = "x86_64")]
pub(super) fn use_blocked_layout(mut model: TypedModel, level: Level) -> TractResult<TypedModel> {
    if let Some(avx512) = level.as_avx512() {
        blocked::rewrite(&mut model, Single(avx512), None)?;
    } else if let Some(avx2) = level.as_avx2() {
        blocked::rewrite(&mut model, Single(avx2), None)?;
    } else if let Some(sse2) = level.as_sse2() {
        blocked::rewrite(&mut model, Single(sse2), None)?;
    }
    Ok(model)
}

/// Rewrites a decluttered model.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("depthwise", |(), model, node, name, conv: &Conv| {
            depthwise(model, node, name, conv)
        })
        .with_rule_for("max pool", |(), model, node, _, pool: &MaxPool| {
            max_pool(model, node, pool)
        })
        .rewrite(&(), model)?;
    // Propagate the split into parts up to the node that produces the planes, and down to
    // the node that consumes them.
    model.declutter()?;
    Ok(())
}

/// Whether the layout is planar (NCHW).
fn is_planar(pool: &PoolSpec) -> bool {
    matches!(pool.data_format, DataFormat::NCHW | DataFormat::CHW)
}

fn max_pool(
    model: &TypedModel,
    node: &TypedNode,
    pool: &MaxPool,
) -> TractResult<Option<TypedModelPatch>> {
    if !is_halving(model, node, pool)? {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &node.inputs, MaxPool2x2).map(Some)
}

/// Whether this is 2x2 max pooling with a stride of 2 in the planar layout, without padding,
/// for an even height and width.
fn is_halving(model: &TypedModel, node: &TypedNode, pool: &MaxPool) -> TractResult<bool> {
    let fact = model.outlet_fact(node.inputs[0])?;
    let Some(shape) = fact.shape.as_concrete() else {
        return Ok(false);
    };
    let spec = &pool.pool_spec;
    let geometry = &shape[shape.len().saturating_sub(2)..];
    let padding = spec.computed_padding(geometry);
    Ok(is_planar(spec)
        && fact.datum_type == f32::datum_type()
        && pool.with_index_outputs.is_none()
        && *spec.kernel_shape == [2, 2]
        && *spec.strides() == [2, 2]
        && *spec.dilations() == [1, 1]
        && geometry.iter().all(|side| side % 2 == 0)
        && padding
            .iter()
            .all(|axis| axis.pad_before == 0 && axis.pad_after == 0))
}

fn depthwise(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let fact = model.outlet_fact(node.inputs[0])?;
    let Some(shape) = fact.shape.as_concrete() else {
        return Ok(None);
    };
    let spec = &conv.pool_spec;
    let channels = spec.input_channels;
    let dims = spec.data_format.shape(shape)?;
    let is_known = is_planar(spec)
        && fact.datum_type == f32::datum_type()
        && conv.group == channels
        && spec.output_channels == channels;
    let (true, Some(geometry)) = (is_known, conv_geometry(conv, dims.hw_dims())) else {
        return Ok(None);
    };
    let (Some(kernel), Some(bias)) = (
        constant(model, node.inputs[1])?,
        constant(model, node.inputs[2])?,
    ) else {
        return Ok(None);
    };
    let is_shaped = kernel.len() == KERNEL_SIDE * KERNEL_SIDE * channels
        && matches!(bias.len(), n if n == 1 || n == channels);
    if !is_shaped {
        return Ok(None);
    }
    let clamp = fused_clamp(model, node)?;
    let mut params = Vec::with_capacity(PARAMS * channels);
    for (channel, taps) in kernel
        .as_chunks::<{ KERNEL_SIDE * KERNEL_SIDE }>()
        .0
        .iter()
        .enumerate()
    {
        params.extend_from_slice(taps);
        params.extend([bias[channel % bias.len()], clamp.low, clamp.high]);
    }
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, node.inputs[0])?;
    let wire = planes(&mut patch, name, wire, geometry, dims.c_axis(), &params)?;
    patch.shunt_outside(model, clamp.last.into(), wire)?;
    Ok(Some(patch))
}

/// Returns the geometry of a 3x3 convolution if [`ConvGeometry`] can express it.
fn conv_geometry(conv: &Conv, input: &[usize]) -> Option<ConvGeometry> {
    let spec = &conv.pool_spec;
    let stride = spec.stride(0);
    let input = <[usize; 2]>::try_from(input).ok()?;
    let padding = spec.computed_padding(&input);
    let geometry = ConvGeometry {
        input,
        output: [padding[0].convoluted, padding[1].convoluted],
        before: [padding[0].pad_before, padding[1].pad_before],
        stride,
    };
    let is_known = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && *spec.kernel_shape == [KERNEL_SIDE, KERNEL_SIDE]
        && *spec.dilations() == [1, 1]
        && *spec.strides() == [stride, stride]
        && matches!(stride, 1 | 2)
        && !geometry.output.contains(&0)
        && geometry.before.iter().all(|pad| *pad <= 1);
    is_known.then_some(geometry)
}

/// Wires one or more [`DepthwiseConv3x3`] operators. Each operator processes a part of
/// the channels, and `axis` is the index of the channels in the shape.
fn planes(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    geometry: ConvGeometry,
    axis: usize,
    params: &[f32],
) -> TractResult<OutletId> {
    let channels = params.len() / PARAMS;
    let parts = parts(channels, 4 * geometry.input[0] * geometry.input[1]);
    let mut outputs: TVec<OutletId> = tvec!();
    for part in 0..parts {
        let name = format!("{name}.{part}");
        let [start, end] = [part, part + 1].map(|part| part * channels / parts);
        let wire = if parts == 1 {
            wire
        } else {
            let slice = Slice::new(axis, start, end);
            patch.wire_node(format!("{name}.slice"), slice, &[wire])?[0]
        };
        let params = &params[PARAMS * start..PARAMS * end];
        let params = Tensor::from_shape(&[end - start, PARAMS], params)?;
        let params = patch.add_const(format!("{name}.params"), params)?;
        let taps = patch.wire_node(
            format!("{name}.taps"),
            DepthwiseConv3x3(geometry),
            &[wire, params],
        )?;
        outputs.extend(taps);
    }
    if let [whole] = outputs[..] {
        return Ok(whole);
    }
    let whole = patch.wire_node(format!("{name}.parts"), TypedConcat { axis }, &outputs)?;
    Ok(whole[0])
}

/// Maximum size of the input to a convolution, in bytes. A larger input is split into
/// parts. The only larger tensor in the backbone has 96 channels of 112x112 pixels, or
/// 4.8 MB. If this tensor were not split, it would determine the peak memory. The split
/// does not make the convolution slower.
const MAX_CONV_INPUT_BYTES: usize = 2 << 20;

/// Returns the number of equal parts into which to split a convolution of `channels`
/// channels of `bytes` bytes each.
fn parts(channels: usize, bytes: usize) -> usize {
    let least = (channels * bytes)
        .div_ceil(MAX_CONV_INPUT_BYTES)
        .min(channels)
        .max(1);
    (least..=channels)
        .find(|parts| channels.is_multiple_of(*parts))
        .unwrap_or(1)
}

/// The `Max` and `Min` nodes that clamp the output of another node. Only these nodes
/// may use this output.
struct Clamp {
    /// The index of the last of the `Max` and `Min` nodes, or of the node itself if there
    /// is no clamp.
    last: usize,
    low: f32,
    high: f32,
}

impl Clamp {
    fn is_bounded(&self) -> bool {
        self.low > f32::NEG_INFINITY || self.high < f32::INFINITY
    }
}

fn fused_clamp(model: &TypedModel, node: &TypedNode) -> TractResult<Clamp> {
    let mut clamp = Clamp {
        last: node.id,
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    };
    loop {
        let last = model.node(clamp.last);
        // The outputs of the model must not change.
        if model.output_outlets()?.contains(&last.id.into()) {
            return Ok(clamp);
        }
        let [next] = &*last.outputs[0].successors else {
            return Ok(clamp);
        };
        let next = model.node(next.node);
        let Some(op) = next.op_as::<TypedBinOp>() else {
            return Ok(clamp);
        };
        let by = match next.inputs[..] {
            [one, other] if one == last.id.into() => constant(model, other)?,
            [other, one] if one == last.id.into() => constant(model, other)?,
            _ => None,
        };
        let same_shape = next.outputs[0].fact.shape == last.outputs[0].fact.shape;
        let by = by.filter(|values| same_shape && values.iter().all(|value| *value == values[0]));
        let Some(&[by, ..]) = by.as_deref() else {
            return Ok(clamp);
        };
        // If the lower bound is above the upper bound, the last node determines the
        // result. `Clamp` cannot express a `Max` after a `Min`.
        if op.0.is::<Max>() && clamp.high == f32::INFINITY {
            clamp.low = clamp.low.max(by);
        } else if op.0.is::<Min>() {
            clamp.high = clamp.high.min(by);
        } else {
            return Ok(clamp);
        }
        clamp.last = next.id;
    }
}

/// Returns the values of an outlet, or `None` if the outlet is not a constant of
/// floats.
fn constant(model: &TypedModel, outlet: OutletId) -> TractResult<Option<Vec<f32>>> {
    let fact = model.outlet_fact(outlet)?;
    match &fact.konst {
        Some(values) if values.datum_type() == f32::datum_type() => {
            let values = values.try_as_plain_ram()?;
            Ok(Some(values.as_slice::<f32>()?.to_vec()))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tract_onnx::tract_core::ops::cnn::PaddingSpec;

    use super::*;

    /// Returns pseudorandom values between -1 and 1.
    pub(super) fn noise(shape: &[usize], seed: u32) -> Tensor {
        let count = shape.iter().product::<usize>() as u32;
        let value = |index: u32| {
            let mixed = (index ^ seed.rotate_left(16)).wrapping_mul(0x9e37_79b1);
            f64::from(mixed) / f64::from(u32::MAX) * 2.0 - 1.0
        };
        let values: Vec<f32> = (0..count).map(|index| value(index) as f32).collect();
        Tensor::from_shape(shape, &values).unwrap()
    }

    pub(super) fn pool_spec(
        channels: usize,
        side: usize,
        stride: usize,
        padding: PaddingSpec,
    ) -> PoolSpec {
        PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec!(side, side),
            padding,
            dilations: None,
            strides: Some(tvec!(stride, stride)),
            input_channels: channels,
            output_channels: channels,
        }
    }

    /// Returns a model of a 1x1 convolution and a clamp between these limits.
    pub(super) fn pointwise(
        shape: &[usize; 4],
        out_channels: usize,
        bias: Tensor,
        [low, high]: [Option<f32>; 2],
        seed: u32,
    ) -> TypedModel {
        let channels = shape[1];
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact(shape)).unwrap();
        let kernel = noise(&[out_channels, channels, 1, 1], seed.wrapping_add(1));
        let kernel = model.add_const("kernel", kernel).unwrap();
        let bias = model.add_const("bias", bias).unwrap();
        let conv = Conv {
            pool_spec: PoolSpec {
                output_channels: out_channels,
                ..pool_spec(channels, 1, 1, PaddingSpec::Valid)
            },
            kernel_fmt: KernelFormat::OIHW,
            group: 1,
            q_params: None,
        };
        let inputs = [wire, kernel, bias];
        let wire = model.wire_node("conv", conv, &inputs).unwrap()[0];
        let wire = limited(&mut model, wire, "limited", low, high);
        model.select_output_outlets(&[wire]).unwrap();
        model
    }

    pub(super) fn run(model: &TypedModel, input: &Tensor) -> Tensor {
        let plan = model.clone().into_optimized().unwrap();
        let plan = plan.into_runnable().unwrap();
        let mut outputs = plan.run(tvec!(input.clone().into_tvalue())).unwrap();
        outputs.remove(0).into_tensor()
    }

    pub(super) fn count(model: &TypedModel, name: &str) -> usize {
        let named = |node: &&TypedNode| node.op.name() == name;
        model.nodes().iter().filter(named).count()
    }

    fn compare(model: TypedModel, input: &Tensor, name: &str, tolerance: f32) {
        compare_rewritten(rewrite, model, input, name, tolerance);
    }

    /// Rewrites the model, and checks that each output differs from tract's own by at most
    /// `tolerance`.
    pub(super) fn compare_rewritten(
        rewrite: fn(&mut TypedModel) -> TractResult<()>,
        mut model: TypedModel,
        input: &Tensor,
        name: &str,
        tolerance: f32,
    ) {
        let before = run(&model, input);
        rewrite(&mut model).unwrap();
        assert_eq!(count(&model, name), 1);
        assert_eq!(
            model
                .nodes()
                .iter()
                .filter(|node| node.op_is::<TypedBinOp>())
                .count(),
            0
        );
        let after = run(&model, input);
        assert_eq!(before.shape(), after.shape());
        let [before, after] = [&before, &after].map(|tensor| {
            let plain = tensor.try_as_plain_ram().unwrap();
            plain.as_slice::<f32>().unwrap().to_vec()
        });
        for (before, after) in before.iter().zip(&after) {
            assert!(
                (before - after).abs() <= tolerance,
                "{before}, ours {after}"
            );
        }
    }

    /// A 3x3 convolution with a clamp.
    #[derive(Debug)]
    pub(super) struct ConvCase {
        pub(super) input: [usize; 2],
        stride: usize,
        before: [usize; 2],
        after: [usize; 2],
        low: Option<f32>,
        high: Option<f32>,
    }

    prop_compose! {
        pub(super) fn case()(
            input in [1..20_usize, 1..20],
            stride in 1..=2_usize,
            before in [0..=1_usize, 0..=1],
            after in [0..=1_usize, 0..=1],
            low in proptest::option::of(-0.5..0.0_f32),
            high in proptest::option::of(0.1..0.5_f32),
        ) -> ConvCase {
            let padded = |axis: usize| input[axis].max(3 - before[axis] - after[axis]);
            ConvCase { input: [padded(0), padded(1)], stride, before, after, low, high }
        }
    }

    pub(super) fn convolution(
        case: &ConvCase,
        data_format: DataFormat,
        shape: &[usize],
        channels: usize,
        group: usize,
        seed: u32,
    ) -> TypedModel {
        let mut model = TypedModel::default();
        let mut wire = model.add_source("x", f32::fact(shape)).unwrap();
        let in_channels = if group == 1 { shape[1] } else { channels };
        let kernel = [channels, in_channels / group, 3, 3];
        let kernel = noise(&kernel, seed.wrapping_add(1));
        let kernel = model.add_const("kernel", kernel).unwrap();
        let bias = model
            .add_const("bias", noise(&[channels], seed.wrapping_add(2)))
            .unwrap();
        let padding = PaddingSpec::Explicit(case.before[..].into(), case.after[..].into());
        let conv = Conv {
            pool_spec: PoolSpec {
                data_format,
                input_channels: in_channels,
                ..pool_spec(channels, 3, case.stride, padding)
            },
            kernel_fmt: KernelFormat::OIHW,
            group,
            q_params: None,
        };
        wire = model
            .wire_node("conv", conv, &[wire, kernel, bias])
            .unwrap()[0];
        wire = limited(&mut model, wire, "limited", case.low, case.high);
        model.select_output_outlets(&[wire]).unwrap();
        model
    }

    pub(super) fn limited(
        model: &mut TypedModel,
        mut wire: OutletId,
        name: &str,
        low: Option<f32>,
        high: Option<f32>,
    ) -> OutletId {
        if let Some(low) = low {
            let low = tensor4(&[[[[low]]]]);
            let low = model.add_const(format!("{name}.low"), low).unwrap();
            let max = TypedBinOp(Box::new(Max), None);
            wire = model
                .wire_node(format!("{name}.max"), max, &[wire, low])
                .unwrap()[0];
        }
        if let Some(high) = high {
            let high = tensor4(&[[[[high]]]]);
            let high = model.add_const(format!("{name}.high"), high).unwrap();
            let min = TypedBinOp(Box::new(Min), None);
            wire = model
                .wire_node(format!("{name}.min"), min, &[wire, high])
                .unwrap()[0];
        }
        wire
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn depthwise_conv_equals_that_of_tract(case in case(), channels in 2..6_usize, seed: u32) {
            let shape = [1, channels, case.input[0], case.input[1]];
            let model = convolution(&case, DataFormat::NCHW, &shape, channels, channels, seed);
            compare(model, &noise(&shape, seed), "DepthwiseConv3x3", 1e-4);
        }

        #[test]
        fn max_pool_equals_that_of_tract(
            channels in 1..6_usize,
            height in 1..12_usize,
            width in 1..12_usize,
            seed: u32,
        ) {
            let shape = [1, channels, 2 * height, 2 * width];
            let mut model = TypedModel::default();
            let wire = model.add_source("x", f32::fact(shape)).unwrap();
            let pool = MaxPool {
                pool_spec: pool_spec(channels, 2, 2, PaddingSpec::Valid),
                with_index_outputs: None,
            };
            let wire = model.wire_node("pool", pool, &[wire]).unwrap()[0];
            model.select_output_outlets(&[wire]).unwrap();
            compare(model, &noise(&shape, seed), "MaxPool2x2", 0.0);
        }
    }

    #[test]
    fn parts_are_equal_and_small_enough_if_a_plane_is() {
        assert_eq!(parts(16, 4 * 128 * 160), 1);
        assert_eq!(parts(96, 4 * 112 * 112), 3);
        assert_eq!(parts(7, MAX_CONV_INPUT_BYTES / 2), 7);
        assert_eq!(parts(16, 2 * MAX_CONV_INPUT_BYTES), 16);
    }

    #[test]
    fn a_large_tensor_is_computed_in_parts() {
        let (channels, side) = (6, 400);
        let shape = [1, 2, side, side];
        assert!(channels * side * side * 4 > MAX_CONV_INPUT_BYTES);
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact(shape)).unwrap();
        let convolve = |model: &mut TypedModel, wire, name: &str, ins: usize, group: usize| {
            let side = if group == 1 { 1 } else { 3 };
            let kernel = noise(&[channels, ins / group, side, side], group as u32);
            let kernel = model.add_const(format!("{name}.kernel"), kernel).unwrap();
            let bias = noise(&[channels], 9);
            let bias = model.add_const(format!("{name}.bias"), bias).unwrap();
            let pool_spec = PoolSpec {
                input_channels: ins,
                ..pool_spec(channels, side, 1, PaddingSpec::SameUpper)
            };
            let conv = Conv {
                pool_spec,
                kernel_fmt: KernelFormat::OIHW,
                group,
                q_params: None,
            };
            model.wire_node(name, conv, &[wire, kernel, bias]).unwrap()[0]
        };
        let wide = convolve(&mut model, wire, "expand", 2, 1);
        let out = convolve(&mut model, wide, "depthwise", channels, channels);
        model.select_output_outlets(&[out]).unwrap();
        let mut model = model.into_decluttered().unwrap();
        let input = noise(&shape, 3);
        let before = run(&model, &input);
        rewrite(&mut model).unwrap();
        assert_eq!(count(&model, "DepthwiseConv3x3"), 2);
        assert_eq!(count(&model, "Slice"), 0);
        let after = run(&model, &input);
        before
            .close_enough(&after, Approximation::Approximate)
            .unwrap();
    }

    #[test]
    fn unsupported_pooling_stays() {
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact([1, 2, 5, 6])).unwrap();
        let pool = MaxPool {
            pool_spec: pool_spec(2, 2, 2, PaddingSpec::Valid),
            with_index_outputs: None,
        };
        // Neither of these operators can be replaced. The first has an input with an odd
        // height, and the second has a kernel of another size.
        let odd = model.wire_node("odd", pool.clone(), &[wire]).unwrap()[0];
        let pool = MaxPool {
            pool_spec: pool_spec(2, 3, 2, PaddingSpec::Valid),
            ..pool
        };
        let large = model.wire_node("large", pool, &[wire]).unwrap()[0];
        model.select_output_outlets(&[odd, large]).unwrap();
        rewrite(&mut model).unwrap();
        assert_eq!(count(&model, "MaxPool2x2"), 0);
    }

    #[test]
    fn a_clamp_is_not_fused_into_an_output_of_the_model() {
        let mut model = TypedModel::default();
        let shape = [1, 2, 5, 6];
        let wire = model.add_source("x", f32::fact(shape)).unwrap();
        let kernel = model.add_const("kernel", noise(&[2, 1, 3, 3], 1)).unwrap();
        let bias = model.add_const("bias", noise(&[2], 2)).unwrap();
        let conv = Conv {
            pool_spec: pool_spec(2, 3, 1, PaddingSpec::Valid),
            kernel_fmt: KernelFormat::OIHW,
            group: 2,
            q_params: None,
        };
        let inputs = [wire, kernel, bias];
        let conv = model.wire_node("conv", conv, &inputs).unwrap()[0];
        let low = model.add_const("low", tensor4(&[[[[0.0_f32]]]])).unwrap();
        let max = TypedBinOp(Box::new(Max), None);
        let max = model.wire_node("max", max, &[conv, low]).unwrap()[0];
        model.select_output_outlets(&[conv, max]).unwrap();
        let input = noise(&shape, 3);
        let before = run(&model, &input);
        rewrite(&mut model).unwrap();
        assert_eq!(count(&model, "DepthwiseConv3x3"), 1);
        let after = run(&model, &input);
        before
            .close_enough(&after, Approximation::Approximate)
            .unwrap();
    }
}
