//! Puts our own operations where they take less than tract's.
//!
//! Knows how tract writes down what they replace. Whatever it does not know stays
//! as it is.

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool, PoolSpec};
use tract_onnx::tract_core::ops::math::{Max, Min};
use tract_onnx::tract_core::ops::nn::DataFormat;

#[cfg(target_arch = "x86_64")]
mod products;

use super::ops::depthwise::{ConvGeometry, DepthwiseConv3x3, NUMBERS, SIDE};
use super::ops::depthwise_nhwc::{DepthwiseConv3x3Nhwc, LANES};
use super::ops::max_pool::MaxPool2x2;

/// Rewrites a decluttered model.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("taps", |(), model, node, name, conv: &Conv| {
            taps(model, node, name, conv)
        })
        .with_rule_for("halve", |(), model, node, _, pool: &MaxPool| {
            halve(model, node, pool)
        })
        .rewrite(&(), model)?;
    // Has what makes the planes make each part by itself, and what takes them take
    // part after part.
    model.declutter()?;
    #[cfg(target_arch = "x86_64")]
    products::rewrite(model)?;
    Ok(())
}

/// Whether planes lie one after the other, row by row.
fn is_planar(pool: &PoolSpec) -> bool {
    matches!(pool.data_format, DataFormat::NCHW | DataFormat::CHW)
}

fn halve(
    model: &TypedModel,
    node: &TypedNode,
    pool: &MaxPool,
) -> TractResult<Option<TypedModelPatch>> {
    let fact = model.outlet_fact(node.inputs[0])?;
    let Some(shape) = fact.shape.as_concrete() else {
        return Ok(None);
    };
    let spec = &pool.pool_spec;
    let sides = &shape[shape.len().saturating_sub(2)..];
    let padding = spec.computed_padding(sides);
    let is_known = is_planar(spec)
        && fact.datum_type == f32::datum_type()
        && pool.with_index_outputs.is_none()
        && *spec.kernel_shape == [2, 2]
        && *spec.strides() == [2, 2]
        && *spec.dilations() == [1, 1]
        && sides.iter().all(|side| side % 2 == 0)
        && padding
            .iter()
            .all(|axis| axis.pad_before == 0 && axis.pad_after == 0);
    if !is_known {
        return Ok(None);
    }
    TypedModelPatch::replace_single_op(model, node, &node.inputs, MaxPool2x2).map(Some)
}

fn taps(
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
    let is_laid_out =
        is_planar(spec) || (dims.n().is_none_or(|n| *n == 1) && channels.is_multiple_of(LANES));
    let is_known = is_laid_out
        && fact.datum_type == f32::datum_type()
        && conv.group == channels
        && spec.output_channels == channels;
    let (true, Some(sides)) = (is_known, window(conv, dims.hw_dims())) else {
        return Ok(None);
    };
    let (Some(kernel), Some(bias)) = (
        constant(model, node.inputs[1])?,
        constant(model, node.inputs[2])?,
    ) else {
        return Ok(None);
    };
    let is_shaped = kernel.len() == SIDE * SIDE * channels
        && matches!(bias.len(), n if n == 1 || n == channels);
    if !is_shaped {
        return Ok(None);
    }
    let limits = limits(model, node)?;
    let mut numbers = Vec::with_capacity(NUMBERS * channels);
    for (channel, taps) in kernel.as_chunks::<{ SIDE * SIDE }>().0.iter().enumerate() {
        numbers.extend_from_slice(taps);
        numbers.extend([bias[channel % bias.len()], limits.low, limits.high]);
    }
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, node.inputs[0])?;
    let wire = if is_planar(spec) {
        planes(&mut patch, name, wire, sides, dims.c_axis(), &numbers)?
    } else {
        pixels(&mut patch, name, wire, sides, &numbers)?
    };
    patch.shunt_outside(model, limits.last.into(), wire)?;
    Ok(Some(patch))
}

/// How a convolution's windows go over a picture, if they are of 3x3 and as [`ConvGeometry`] can
/// say it.
fn window(conv: &Conv, input: &[usize]) -> Option<ConvGeometry> {
    let spec = &conv.pool_spec;
    let stride = spec.stride(0);
    let input = <[usize; 2]>::try_from(input).ok()?;
    let padding = spec.computed_padding(&input);
    let sides = ConvGeometry {
        input,
        output: [padding[0].convoluted, padding[1].convoluted],
        before: [padding[0].pad_before, padding[1].pad_before],
        stride,
    };
    let is_known = conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW
        && *spec.kernel_shape == [SIDE, SIDE]
        && *spec.dilations() == [1, 1]
        && *spec.strides() == [stride, stride]
        && matches!(stride, 1 | 2)
        && !sides.output.contains(&0)
        && sides.before.iter().all(|pad| *pad <= 1);
    is_known.then_some(sides)
}

/// Wires [`DepthwiseConv3x3`], whose channels are those of an axis, in parts of them.
fn planes(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    sides: ConvGeometry,
    axis: usize,
    numbers: &[f32],
) -> TractResult<OutletId> {
    let channels = numbers.len() / NUMBERS;
    let parts = parts(channels, 4 * sides.input[0] * sides.input[1]);
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
        let numbers = &numbers[NUMBERS * start..NUMBERS * end];
        let numbers = Tensor::from_shape(&[end - start, NUMBERS], numbers)?;
        let numbers = patch.add_const(format!("{name}.numbers"), numbers)?;
        let taps = patch.wire_node(
            format!("{name}.taps"),
            DepthwiseConv3x3(sides),
            &[wire, numbers],
        )?;
        outputs.extend(taps);
    }
    if let [whole] = outputs[..] {
        return Ok(whole);
    }
    let whole = patch.wire_node(format!("{name}.parts"), TypedConcat { axis }, &outputs)?;
    Ok(whole[0])
}

/// Wires [`DepthwiseConv3x3Nhwc`].
fn pixels(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    sides: ConvGeometry,
    numbers: &[f32],
) -> TractResult<OutletId> {
    let groups = numbers.len() / (NUMBERS * LANES);
    let turned: Vec<f32> = numbers
        .chunks(NUMBERS * LANES)
        .flat_map(|group| {
            (0..NUMBERS).flat_map(move |index| group.iter().skip(index).step_by(NUMBERS))
        })
        .copied()
        .collect();
    let numbers = Tensor::from_shape(&[groups, NUMBERS, LANES], &turned)?;
    let numbers = patch.add_const(format!("{name}.numbers"), numbers)?;
    let taps = patch.wire_node(
        format!("{name}.taps"),
        DepthwiseConv3x3Nhwc(sides),
        &[wire, numbers],
    )?;
    Ok(taps[0])
}

/// The most bytes that go into a convolution at once. The backbone has one tensor of
/// 4.8 MB, 96 channels of 112x112, and none of the others is larger than this: in
/// parts it takes as long, and the largest need of memory is what is between.
const LARGEST: usize = 2 << 20;

/// In how many parts a convolution of so many channels, of so many bytes each, is
/// made.
fn parts(channels: usize, bytes: usize) -> usize {
    let least = (channels * bytes).div_ceil(LARGEST).min(channels).max(1);
    (least..=channels)
        .find(|parts| channels.is_multiple_of(*parts))
        .unwrap_or(1)
}

/// What the values of a node are limited to, by nodes that follow it alone.
struct Limits {
    /// The last of these nodes, or the node itself.
    last: usize,
    low: f32,
    high: f32,
}

fn limits(model: &TypedModel, node: &TypedNode) -> TractResult<Limits> {
    let mut limits = Limits {
        last: node.id,
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    };
    loop {
        let last = model.node(limits.last);
        // What the model puts out itself stays as it is.
        if model.output_outlets()?.contains(&last.id.into()) {
            return Ok(limits);
        }
        let [next] = &*last.outputs[0].successors else {
            return Ok(limits);
        };
        let next = model.node(next.node);
        let Some(op) = next.op_as::<TypedBinOp>() else {
            return Ok(limits);
        };
        let by = match next.inputs[..] {
            [one, other] if one == last.id.into() => constant(model, other)?,
            [other, one] if one == last.id.into() => constant(model, other)?,
            _ => None,
        };
        let same_shape = next.outputs[0].fact.shape == last.outputs[0].fact.shape;
        let by = by.filter(|values| same_shape && values.iter().all(|value| *value == values[0]));
        let Some(&[by, ..]) = by.as_deref() else {
            return Ok(limits);
        };
        // A `Max` after a `Min` would have to win where they cross.
        if op.0.is::<Max>() && limits.high == f32::INFINITY {
            limits.low = limits.low.max(by);
        } else if op.0.is::<Min>() {
            limits.high = limits.high.min(by);
        } else {
            return Ok(limits);
        }
        limits.last = next.id;
    }
}

/// The values of an outlet that is a constant of floats.
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

    /// Values that look like chance, from -1 to 1.
    fn noise(shape: &[usize], seed: u32) -> Tensor {
        let count = shape.iter().product::<usize>() as u32;
        let value = |index: u32| {
            let mixed = (index ^ seed.rotate_left(16)).wrapping_mul(0x9e37_79b1);
            f64::from(mixed) / f64::from(u32::MAX) * 2.0 - 1.0
        };
        let values: Vec<f32> = (0..count).map(|index| value(index) as f32).collect();
        Tensor::from_shape(shape, &values).unwrap()
    }

    fn pool_spec(channels: usize, side: usize, stride: usize, padding: PaddingSpec) -> PoolSpec {
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

    fn run(model: &TypedModel, input: &Tensor) -> Tensor {
        let plan = model.clone().into_optimized().unwrap();
        let plan = plan.into_runnable().unwrap();
        let mut outputs = plan.run(tvec!(input.clone().into_tvalue())).unwrap();
        outputs.remove(0).into_tensor()
    }

    fn count(model: &TypedModel, name: &str) -> usize {
        let named = |node: &&TypedNode| node.op.name() == name;
        model.nodes().iter().filter(named).count()
    }

    /// Rewrites, and holds the outcome to tract's own: each value at most so far from
    /// it.
    fn compare(mut model: TypedModel, input: &Tensor, name: &str, farthest: f32) {
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
            assert!((before - after).abs() <= farthest, "{before}, ours {after}");
        }
    }

    /// A depthwise convolution of 3x3, and what its values are limited to.
    #[derive(Debug)]
    struct Window {
        input: [usize; 2],
        stride: usize,
        before: [usize; 2],
        after: [usize; 2],
        low: Option<f32>,
        high: Option<f32>,
    }

    prop_compose! {
        fn window()(
            input in [1..20_usize, 1..20],
            stride in 1..=2_usize,
            before in [0..=1_usize, 0..=1],
            after in [0..=1_usize, 0..=1],
            low in proptest::option::of(-0.5..0.0_f32),
            high in proptest::option::of(0.1..0.5_f32),
        ) -> Window {
            let padded = |axis: usize| input[axis].max(3 - before[axis] - after[axis]);
            Window { input: [padded(0), padded(1)], stride, before, after, low, high }
        }
    }

    fn convolution(
        window: &Window,
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
        let padding = PaddingSpec::Explicit(window.before[..].into(), window.after[..].into());
        let conv = Conv {
            pool_spec: PoolSpec {
                data_format,
                input_channels: in_channels,
                ..pool_spec(channels, 3, window.stride, padding)
            },
            kernel_fmt: KernelFormat::OIHW,
            group,
            q_params: None,
        };
        wire = model
            .wire_node("conv", conv, &[wire, kernel, bias])
            .unwrap()[0];
        wire = limited(&mut model, wire, window.low, window.high);
        model.select_output_outlets(&[wire]).unwrap();
        model
    }

    fn limited(
        model: &mut TypedModel,
        mut wire: OutletId,
        low: Option<f32>,
        high: Option<f32>,
    ) -> OutletId {
        if let Some(low) = low {
            let low = model.add_const("low", tensor4(&[[[[low]]]])).unwrap();
            let max = TypedBinOp(Box::new(Max), None);
            wire = model.wire_node("max", max, &[wire, low]).unwrap()[0];
        }
        if let Some(high) = high {
            let high = model.add_const("high", tensor4(&[[[[high]]]])).unwrap();
            let min = TypedBinOp(Box::new(Min), None);
            wire = model.wire_node("min", min, &[wire, high]).unwrap()[0];
        }
        wire
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn taps_are_what_tract_computes(window in window(), channels in 2..6_usize, seed: u32) {
            let shape = [1, channels, window.input[0], window.input[1]];
            let model = convolution(&window, DataFormat::NCHW, &shape, channels, channels, seed);
            compare(model, &noise(&shape, seed), "Taps", 1e-4);
        }

        #[test]
        fn taps_by_pixel_are_what_tract_computes(
            window in window(),
            quads in 1..5_usize,
            seed: u32,
        ) {
            let channels = LANES * quads;
            let shape = [1, window.input[0], window.input[1], channels];
            let model = convolution(&window, DataFormat::NHWC, &shape, channels, channels, seed);
            compare(model, &noise(&shape, seed), "PixelTaps", 1e-4);
        }

        #[cfg(target_arch = "x86_64")]
        #[test]
        fn products_are_what_tract_computes(
            channels in 2..40_usize,
            out_channels in 2..40_usize,
            sides in [1..20_usize, 16..20],
            has_bias: bool,
            low in proptest::option::of(-0.5..0.0_f32),
            high in proptest::option::of(0.1..0.5_f32),
            seed: u32,
        ) {
            let shape = [1, channels, sides[0], sides[1]];
            let mut model = TypedModel::default();
            let wire = model.add_source("x", f32::fact(shape)).unwrap();
            let kernel = noise(&[out_channels, channels, 1, 1], seed.wrapping_add(1));
            let kernel = model.add_const("kernel", kernel).unwrap();
            let bias = if has_bias {
                noise(&[out_channels], seed.wrapping_add(2))
            } else {
                Tensor::zero::<f32>(&[out_channels]).unwrap()
            };
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
            let wire = limited(&mut model, wire, low, high);
            model.select_output_outlets(&[wire]).unwrap();
            compare(model, &noise(&shape, seed), "Pointwise", 1e-4);
        }

        #[cfg(target_arch = "x86_64")]
        #[test]
        fn what_is_unfolded_is_what_tract_computes(
            window in window(),
            channels in 2..=products::FEW,
            out_channels in 2..20_usize,
            seed: u32,
        ) {
            let shape = [1, channels, window.input[0] + 16, window.input[1] + 16];
            let window = Window { input: [shape[2], shape[3]], ..window };
            let model = convolution(&window, DataFormat::NCHW, &shape, out_channels, 1, seed);
            compare(model, &noise(&shape, seed), "Unfold", 1e-4);
        }

        #[test]
        fn halves_are_what_tract_computes(
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
            compare(model, &noise(&shape, seed), "Halve", 0.0);
        }
    }

    #[test]
    fn parts_are_equal_and_small_enough_if_a_plane_is() {
        assert_eq!(parts(16, 4 * 128 * 160), 1);
        assert_eq!(parts(96, 4 * 112 * 112), 3);
        assert_eq!(parts(7, LARGEST / 2), 7);
        assert_eq!(parts(16, 2 * LARGEST), 16);
    }

    #[test]
    fn a_large_tensor_is_never_there_as_a_whole() {
        let (channels, side) = (6, 400);
        let shape = [1, 2, side, side];
        assert!(channels * side * side * 4 > LARGEST);
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
        assert_eq!(count(&model, "Taps"), 2);
        assert_eq!(count(&model, "Slice"), 0);
        let after = run(&model, &input);
        before
            .close_enough(&after, Approximation::Approximate)
            .unwrap();
    }

    #[test]
    fn what_is_not_known_stays() {
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact([1, 2, 5, 6])).unwrap();
        let pool = MaxPool {
            pool_spec: pool_spec(2, 2, 2, PaddingSpec::Valid),
            with_index_outputs: None,
        };
        // An odd height, and a square of another size.
        let odd = model.wire_node("odd", pool.clone(), &[wire]).unwrap()[0];
        let pool = MaxPool {
            pool_spec: pool_spec(2, 3, 2, PaddingSpec::Valid),
            ..pool
        };
        let large = model.wire_node("large", pool, &[wire]).unwrap()[0];
        model.select_output_outlets(&[odd, large]).unwrap();
        rewrite(&mut model).unwrap();
        assert_eq!(count(&model, "Halve"), 0);
    }

    #[test]
    fn what_the_model_puts_out_itself_is_not_limited() {
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
        assert_eq!(count(&model, "Taps"), 1);
        let after = run(&model, &input);
        before
            .close_enough(&after, Approximation::Approximate)
            .unwrap();
    }
}
