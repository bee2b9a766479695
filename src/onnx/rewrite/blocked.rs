//! Replaces convolutions with operators that use the blocked layout (see
//! [`ops::blocked`](crate::onnx::ops::blocked)). Each rule puts conversions before and after the
//! operator. Conversions that cancel each other are then removed.

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::model::Rewriter;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, KernelFormat, MaxPool};
use tract_onnx::tract_core::ops::math::Add;

use super::{Clamp, constant, conv_geometry, fused_clamp, is_halving, is_planar};
use crate::onnx::ops::blocked::{
    BlockedDepthwise, BlockedMaxPool, BlockedPointwise, BlockedRgbConv, FromBlocked, Precision,
    RGB, ToBlocked, product_params,
};
use crate::onnx::ops::depthwise::{KERNEL_SIDE, PARAMS};

/// Number of elements of a depthwise kernel.
const TAPS: usize = KERNEL_SIDE * KERNEL_SIDE;

/// Rewrites a model that is not yet decluttered. In this state, the convolutions have the
/// form in which the file describes them. If there is a `limit`, only this number of
/// convolutions is replaced, from the input of the model on.
pub(super) fn rewrite<P: Precision>(
    model: &mut TypedModel,
    precision: P,
    limit: Option<usize>,
) -> TractResult<()> {
    // The rules recognize only constants.
    model.prop_consts()?;
    let nodes = model.eval_order()?.into_iter().map(|id| model.node(id));
    let convolutions = nodes.filter(|node| node.op_is::<Conv>());
    let names: Vec<String> = convolutions
        .take(limit.unwrap_or(usize::MAX))
        .map(|node| node.name.clone())
        .collect();
    Rewriter::<()>::default()
        .with_rule_for("blocked conv", move |(), model, node, name, conv: &Conv| {
            if names.contains(&node.name) {
                convolution(model, node, name, conv, precision)
            } else {
                Ok(None)
            }
        })
        .with_rule_for(
            "blocked max pool",
            |(), model, node, name, pool: &MaxPool| max_pool::<P>(model, node, name, pool),
        )
        .with_rule_for("blocked sum", |(), model, node, name, sum: &TypedBinOp| {
            sum_of_products::<P>(model, node, name, sum)
        })
        .with_rule_for(
            "canceled conversions",
            |(), model, node, _, _: &ToBlocked<P>| canceled::<P>(model, node),
        )
        .with_rule_for(
            "product and depthwise",
            |(), model, node, name, op: &BlockedDepthwise<P>| {
                product_and_depthwise(model, node, name, op)
            },
        )
        .rewrite(&(), model)
}

/// The constants of a convolution.
struct Constants {
    kernel: Vec<f32>,
    bias: Vec<f32>,
    clamp: Clamp,
}

fn convolution<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: &Conv,
    precision: P,
) -> TractResult<Option<TypedModelPatch>> {
    let fact = model.outlet_fact(node.inputs[0])?;
    let (Some(&[pictures, channels, height, width]), Some(&[_, out_channels, ..])) = (
        fact.shape.as_concrete(),
        node.outputs[0].fact.shape.as_concrete(),
    ) else {
        return Ok(None);
    };
    let spec = &conv.pool_spec;
    let is_known = is_planar(spec)
        && pictures == 1
        // tract has separate kernels for the product of a matrix and a vector.
        && height * width > 1
        && fact.datum_type == f32::datum_type()
        && conv.q_params.is_none()
        && conv.kernel_fmt == KernelFormat::OIHW;
    let sizes = [out_channels, channels / conv.group];
    let Some(constants) = constants(model, node, conv, sizes)?.filter(|_| is_known) else {
        return Ok(None);
    };
    let last = constants.clamp.last;
    let geometry = conv_geometry(conv, &[height, width]);
    let is_pointwise = *spec.kernel_shape == [1, 1]
        && conv.group == 1
        && spec.strides().iter().all(|stride| *stride == 1)
        && node.outputs[0].fact.shape.as_concrete() == Some(&[1, out_channels, height, width]);
    let is_depthwise = conv.group == channels && out_channels == channels;
    let mut patch = TypedModelPatch::default();
    let input = patch.tap_model(model, node.inputs[0])?;
    let wire = match geometry {
        _ if is_pointwise => {
            let input = to_blocked(&mut patch, name, input, precision)?;
            let params = wire_params::<P>(&mut patch, name, out_channels, &constants)?;
            let op = BlockedPointwise {
                precision,
                groups: out_channels.div_ceil(P::LANES),
                is_clamped: constants.clamp.is_bounded(),
            };
            patch.wire_node(format!("{name}.product"), op, &[input, params])?
        }
        Some(geometry) if is_depthwise => {
            let input = to_blocked(&mut patch, name, input, precision)?;
            let params = depthwise_params::<P>(channels, &constants)?;
            let params = patch.add_const(format!("{name}.params"), params)?;
            let op = BlockedDepthwise {
                precision,
                geometry,
                is_clamped: false,
            };
            patch.wire_node(format!("{name}.taps"), op, &[input, params])?
        }
        Some(geometry) if conv.group == 1 && channels == RGB => {
            let params = wire_params::<P>(&mut patch, name, out_channels, &constants)?;
            let op = BlockedRgbConv {
                precision,
                geometry,
                groups: out_channels.div_ceil(P::LANES),
                is_clamped: constants.clamp.is_bounded(),
            };
            patch.wire_node(format!("{name}.rgb"), op, &[input, params])?
        }
        _ => return Ok(None),
    };
    let op = FromBlocked {
        precision,
        channels: out_channels,
    };
    from_blocked(&mut patch, model, name, wire[0], op, last)?;
    Ok(Some(patch))
}

/// Returns the constants of a convolution with these numbers of output channels and of input
/// channels of each output channel. Returns `None` if they are not constant or do not have the
/// expected size.
fn constants(
    model: &TypedModel,
    node: &TypedNode,
    conv: &Conv,
    [out_channels, channels]: [usize; 2],
) -> TractResult<Option<Constants>> {
    let (Some(kernel), Some(bias)) = (
        constant(model, node.inputs[1])?,
        constant(model, node.inputs[2])?,
    ) else {
        return Ok(None);
    };
    let side = conv.pool_spec.kernel_shape.iter().product::<usize>();
    let is_shaped = !kernel.is_empty()
        && kernel.len() == out_channels * channels * side
        && matches!(bias.len(), n if n == 1 || n == out_channels);
    if !is_shaped {
        return Ok(None);
    }
    let clamp = fused_clamp(model, node)?;
    Ok(Some(Constants {
        kernel,
        bias,
        clamp,
    }))
}

fn to_blocked<P: Precision>(
    patch: &mut TypedModelPatch,
    name: &str,
    wire: OutletId,
    precision: P,
) -> TractResult<OutletId> {
    let op = ToBlocked { precision };
    Ok(patch.wire_node(format!("{name}.to_blocked"), op, &[wire])?[0])
}

/// Converts the output of an operator to the planar layout. The result replaces the output
/// of the node `last`.
fn from_blocked<P: Precision>(
    patch: &mut TypedModelPatch,
    model: &TypedModel,
    name: &str,
    wire: OutletId,
    op: FromBlocked<P>,
    last: usize,
) -> TractResult<()> {
    let wire = patch.wire_node(format!("{name}.from_blocked"), op, &[wire])?[0];
    patch.shunt_outside(model, last.into(), wire)
}

/// Adds the parameters of a product.
fn wire_params<P: Precision>(
    patch: &mut TypedModelPatch,
    name: &str,
    out_channels: usize,
    constants: &Constants,
) -> TractResult<OutletId> {
    let clamp = [constants.clamp.low, constants.clamp.high];
    let params = product_params::<P>(&constants.kernel, out_channels, &constants.bias, clamp)?;
    patch.add_const(format!("{name}.params"), params)
}

/// Returns the parameters of [`BlockedDepthwise`], `[channels / lanes, 12, lanes]`.
fn depthwise_params<P: Precision>(channels: usize, constants: &Constants) -> TractResult<Tensor> {
    let Constants {
        kernel,
        bias,
        clamp,
    } = constants;
    let value = |channel: usize, index: usize| match index {
        _ if channel >= channels => 0.0,
        TAPS => bias[channel % bias.len()],
        index if index < TAPS => kernel[channel * TAPS + index],
        index if index == TAPS + 1 => clamp.low,
        _ => clamp.high,
    };
    let groups = channels.div_ceil(P::LANES);
    let params: Vec<P::Value> = (0..groups * PARAMS * P::LANES)
        .map(|at| {
            let (row, lane) = (at / P::LANES, at % P::LANES);
            let (group, index) = (row / PARAMS, row % PARAMS);
            P::value(value(group * P::LANES + lane, index))
        })
        .collect();
    Tensor::from_shape(&[groups, PARAMS, P::LANES], &params)
}

/// Replaces max pooling if its input has the blocked layout anyway.
fn max_pool<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    pool: &MaxPool,
) -> TractResult<Option<TypedModelPatch>> {
    let before = model.node(node.inputs[0].node);
    let Some(op) = before.op_as::<FromBlocked<P>>() else {
        return Ok(None);
    };
    if !is_halving(model, node, pool)? {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, before.inputs[0])?;
    let pool = BlockedMaxPool {
        precision: op.precision,
    };
    let wire = patch.wire_node(format!("{name}.halved"), pool, &[wire])?[0];
    from_blocked(&mut patch, model, name, wire, op.clone(), node.id)?;
    Ok(Some(patch))
}

/// Fuses the sum of a product and another picture.
fn sum_of_products<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    sum: &TypedBinOp,
) -> TractResult<Option<TypedModelPatch>> {
    let [one, other] = node.inputs[..] else {
        return Ok(None);
    };
    if !sum.0.is::<Add>() || model.outlet_fact(one)?.shape != model.outlet_fact(other)?.shape {
        return Ok(None);
    }
    for (product, added) in [(one, other), (other, one)] {
        if let Some(patch) = added_product::<P>(model, node, name, product, added)? {
            return Ok(Some(patch));
        }
    }
    Ok(None)
}

fn added_product<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    product: OutletId,
    added: OutletId,
) -> TractResult<Option<TypedModelPatch>> {
    let converted = model.node(product.node);
    let Some(planar) = converted.op_as::<FromBlocked<P>>() else {
        return Ok(None);
    };
    let producer = model.node(converted.inputs[0].node);
    let Some(op) = producer.op_as::<BlockedPointwise<P>>() else {
        return Ok(None);
    };
    let is_alone = is_used_once(model, producer)? && is_used_once(model, converted)?;
    let [input, params] = producer.inputs[..] else {
        return Ok(None);
    };
    if !is_alone || op.is_clamped {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let mut wires = patch.taps(model, &[input, params, added])?;
    wires[2] = to_blocked(&mut patch, name, wires[2], op.precision)?;
    let wire = patch.wire_node(format!("{name}.product"), op.clone(), &wires)?[0];
    from_blocked(&mut patch, model, name, wire, planar.clone(), node.id)?;
    Ok(Some(patch))
}

/// Whether only one node uses the output of a node, and the output is no output of the
/// model.
fn is_used_once(model: &TypedModel, node: &TypedNode) -> TractResult<bool> {
    let is_output = model.output_outlets()?.contains(&node.id.into());
    Ok(!is_output && node.outputs[0].successors.len() == 1)
}

/// Removes a conversion to the blocked layout after one to the planar layout.
fn canceled<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
) -> TractResult<Option<TypedModelPatch>> {
    let before = model.node(node.inputs[0].node);
    if !before.op_is::<FromBlocked<P>>() {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let wire = patch.tap_model(model, before.inputs[0])?;
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// Fuses a product with the depthwise convolution that uses it.
fn product_and_depthwise<P: Precision>(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &BlockedDepthwise<P>,
) -> TractResult<Option<TypedModelPatch>> {
    let &[input, params] = &node.inputs[..] else {
        return Ok(None);
    };
    let producer = model.node(input.node);
    let Some(product) = producer.op_as::<BlockedPointwise<P>>() else {
        return Ok(None);
    };
    let [input, weights] = producer.inputs[..] else {
        return Ok(None);
    };
    if !is_used_once(model, producer)? {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let wires = patch.taps(model, &[input, params, weights])?;
    let op = BlockedDepthwise {
        is_clamped: product.is_clamped,
        ..op.clone()
    };
    let wire = patch.wire_node(format!("{name}.fused"), op, &wires)?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

#[cfg(test)]
mod tests {
    use fearless_simd::Level;
    use proptest::prelude::*;
    use tract_linalg::multithread::{Executor, multithread_tract_scope};
    use tract_onnx::tract_core::ops::cnn::{PaddingSpec, PoolSpec};
    use tract_onnx::tract_core::ops::nn::DataFormat;

    use super::super::tests::{
        case, compare_rewritten, convolution, count, limited, noise, pointwise, pool_spec, run,
    };
    use super::*;
    use crate::onnx::ops::blocked::{Half, Single};

    /// A rewrite in single precision or half precision.
    struct Rewrite {
        apply: fn(&mut TypedModel) -> TractResult<()>,
        /// The largest difference from tract's result that rounding can cause if no value is
        /// much larger than 10.
        tolerance: f32,
        /// The largest difference, as a fraction of the largest value, that rounding can cause in
        /// two blocks of a MobileNet.
        relative_tolerance: f32,
    }

    fn in_single_precision(apply: fn(&mut TypedModel) -> TractResult<()>) -> Rewrite {
        Rewrite {
            apply,
            tolerance: 1e-4,
            relative_tolerance: 1e-4,
        }
    }

    /// Returns the rewrites for the instruction sets in single precision, if this processor has
    /// them.
    #[cfg(target_arch = "x86_64")]
    fn single_precision() -> Vec<Rewrite> {
        let level = Level::new();
        let mut rewrites = vec![in_single_precision(|model| match Level::new().as_sse2() {
            Some(sse2) => rewrite(model, Single(sse2), None),
            None => Ok(()),
        })];
        if level.as_avx2().is_some() {
            rewrites.push(in_single_precision(|model| match Level::new().as_avx2() {
                Some(avx2) => rewrite(model, Single(avx2), None),
                None => Ok(()),
            }));
        }
        if level.as_avx512().is_some() {
            rewrites.push(in_single_precision(|model| {
                match Level::new().as_avx512() {
                    Some(avx512) => rewrite(model, Single(avx512), None),
                    None => Ok(()),
                }
            }));
        }
        rewrites
    }

    #[cfg(target_arch = "aarch64")]
    fn single_precision() -> Vec<Rewrite> {
        vec![in_single_precision(|model| match Level::new().as_neon() {
            Some(neon) => rewrite(model, Single(neon), None),
            None => Ok(()),
        })]
    }

    /// Returns the rewrites for the precisions that this processor has.
    fn rewrites() -> impl Iterator<Item = Rewrite> {
        let half = Half::detect().map(|_| Rewrite {
            apply: |model| match Half::detect() {
                Some(half) => rewrite(model, half, None),
                None => Ok(()),
            },
            tolerance: 0.1,
            relative_tolerance: 0.01,
        });
        single_precision().into_iter().chain(half)
    }

    /// Adds a convolution with a kernel of `side` x `side`, and a clamp from 0 to 6 if
    /// `is_clamped`.
    fn conv(
        model: &mut TypedModel,
        wire: OutletId,
        name: &str,
        out_channels: usize,
        [side, stride, group]: [usize; 3],
        is_clamped: bool,
    ) -> OutletId {
        let channels = model.outlet_fact(wire).unwrap().shape[1]
            .to_usize()
            .unwrap();
        let seed = name.len() as u32;
        let kernel = noise(&[out_channels, channels / group, side, side], seed);
        let kernel = model.add_const(format!("{name}.kernel"), kernel).unwrap();
        let bias = noise(&[out_channels], seed + 1);
        let bias = model.add_const(format!("{name}.bias"), bias).unwrap();
        let before = side / 2;
        let padding = PaddingSpec::Explicit(tvec!(before, before), tvec!(before, before));
        let conv = Conv {
            pool_spec: PoolSpec {
                input_channels: channels,
                ..pool_spec(out_channels, side, stride, padding)
            },
            kernel_fmt: KernelFormat::OIHW,
            group,
            q_params: None,
        };
        let inputs = [wire, kernel, bias];
        let wire = model.wire_node(name, conv, &inputs).unwrap()[0];
        if is_clamped {
            limited(model, wire, name, Some(0.0), Some(6.0))
        } else {
            wire
        }
    }

    /// The blocks of a MobileNet: a convolution with three input channels, and two inverted
    /// residual blocks, the second of which adds its input to its output.
    fn mobile_net(shape: &[usize], [channels, wide]: [usize; 2], stride: usize) -> TypedModel {
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact(shape)).unwrap();
        let mut wire = conv(&mut model, wire, "first", channels, [3, 2, 1], true);
        for (name, stride) in [("one", stride), ("second", 1)] {
            let input = wire;
            wire = conv(
                &mut model,
                wire,
                &format!("{name}.expand"),
                wide,
                [1, 1, 1],
                true,
            );
            wire = conv(
                &mut model,
                wire,
                &format!("{name}.taps"),
                wide,
                [3, stride, wide],
                true,
            );
            wire = conv(
                &mut model,
                wire,
                &format!("{name}.project"),
                channels,
                [1, 1, 1],
                false,
            );
            if name == "second" {
                let add = TypedBinOp(Box::new(Add), None);
                wire = model.wire_node("add", add, &[input, wire]).unwrap()[0];
            }
        }
        model.select_output_outlets(&[wire]).unwrap();
        model
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        let plain = tensor.try_as_plain_ram().unwrap();
        plain.as_slice::<f32>().unwrap().to_vec()
    }

    fn largest_difference(before: &[f32], after: &[f32]) -> f32 {
        assert_eq!(before.len(), after.len());
        let differences = before.iter().zip(after).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    }

    /// Checks that the rewritten model computes the same as the model, and returns it.
    fn compare(model: &TypedModel, input: &Tensor, case: &Rewrite) -> TypedModel {
        let mut rewritten = model.clone();
        (case.apply)(&mut rewritten).unwrap();
        let [before, after] = [model, &rewritten].map(|model| values(&run(model, input)));
        let largest = before
            .iter()
            .fold(1.0_f32, |largest, value| largest.max(value.abs()));
        let difference = largest_difference(&before, &after);
        assert!(
            difference <= case.relative_tolerance * largest,
            "{difference} of {largest}"
        );
        rewritten
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn pointwise_conv_equals_that_of_tract(
            channels in 1..40_usize,
            out_channels in 1..40_usize,
            geometry in [1..20_usize, 2..20],
            has_bias: bool,
            low in proptest::option::of(-0.5..0.0_f32),
            high in proptest::option::of(0.1..0.5_f32),
            seed: u32,
        ) {
            let shape = [1, channels, geometry[0], geometry[1]];
            let bias = if has_bias {
                noise(&[out_channels], seed.wrapping_add(2))
            } else {
                noise(&[1], seed.wrapping_add(2)).into_shape(&[]).unwrap()
            };
            let model = pointwise(&shape, out_channels, bias, [low, high], seed);
            // A depthwise convolution has the same form if there is only one channel.
            for Rewrite { apply, tolerance, .. } in rewrites() {
                let (model, input) = (model.clone(), noise(&shape, seed));
                compare_rewritten(apply, model, &input, "BlockedPointwise", tolerance);
            }
        }

        #[test]
        fn depthwise_conv_equals_that_of_tract(case in case(), channels in 2..30_usize, seed: u32) {
            prop_assume!(case.input != [1, 1]);
            let shape = [1, channels, case.input[0], case.input[1]];
            let model = convolution(&case, DataFormat::NCHW, &shape, channels, channels, seed);
            for Rewrite { apply, tolerance, .. } in rewrites() {
                let (model, input) = (model.clone(), noise(&shape, seed));
                compare_rewritten(apply, model, &input, "BlockedDepthwise", tolerance);
            }
        }

        #[test]
        fn rgb_conv_equals_that_of_tract(case in case(), out_channels in 2..30_usize, seed: u32) {
            prop_assume!(case.input != [1, 1]);
            let shape = [1, RGB, case.input[0], case.input[1]];
            let model = convolution(&case, DataFormat::NCHW, &shape, out_channels, 1, seed);
            for Rewrite { apply, tolerance, .. } in rewrites() {
                let (model, input) = (model.clone(), noise(&shape, seed));
                compare_rewritten(apply, model, &input, "BlockedRgbConv", tolerance);
            }
        }

        #[test]
        fn a_mobile_net_equals_that_of_tract(
            side in [4..40_usize, 4..40],
            channels in 2..20_usize,
            wide in 2..40_usize,
            stride in 1..=2_usize,
        ) {
            let shape = [1, RGB, side[0], side[1]];
            let model = mobile_net(&shape, [channels, wide], stride);
            for case in rewrites() {
                compare(&model, &noise(&shape, 1), &case);
            }
        }
    }

    #[test]
    fn a_mobile_net_stays_in_the_blocked_layout() {
        for Rewrite { apply, .. } in rewrites() {
            let mut model = mobile_net(&[1, RGB, 28, 28], [8, 16], 1);
            apply(&mut model).unwrap();
            for (name, expected) in [
                ("BlockedRgbConv", 1),
                ("BlockedDepthwise", 2),
                ("BlockedPointwise", 2),
                ("FromBlocked", 1),
                ("ToBlocked", 0),
                ("Add", 0),
            ] {
                assert_eq!(count(&model, name), expected, "{name}");
            }
        }
    }

    #[test]
    fn the_first_layers_can_be_in_single_precision() {
        let Some(half) = Half::detect() else {
            return;
        };
        #[cfg(target_arch = "aarch64")]
        let single = Level::new().as_neon().map(Single).unwrap();
        #[cfg(target_arch = "x86_64")]
        let single = Level::new().as_sse2().map(Single).unwrap();
        let model = mobile_net(&[1, RGB, 28, 28], [8, 16], 1);
        let input = noise(&[1, RGB, 28, 28], 1);
        let mut last_difference = f32::INFINITY;
        for (limit, conversions) in [(0, 1), (4, 2), (7, 1)] {
            let mut rewritten = model.clone();
            rewrite(&mut rewritten, single, Some(limit)).unwrap();
            rewrite(&mut rewritten, half, None).unwrap();
            assert_eq!(count(&rewritten, "FromBlocked"), conversions);
            let [before, after] = [&model, &rewritten].map(|model| values(&run(model, &input)));
            let difference = largest_difference(&before, &after);
            assert!(
                difference < last_difference,
                "{difference} with {limit} layers"
            );
            last_difference = difference;
        }
        assert!(last_difference < 1e-4, "{last_difference}");
    }

    /// The rows of these pictures do not fit into the buffers at once.
    #[test]
    fn large_pictures_are_computed_in_parts() {
        for stride in [1, 2] {
            let shape = [1, RGB, 600, 90];
            let model = mobile_net(&shape, [8, 64], stride);
            for case in rewrites() {
                compare(&model, &noise(&shape, 1), &case);
            }
        }
    }

    #[test]
    fn threads_share_what_one_computes() {
        let shape = [1, RGB, 60, 60];
        for Rewrite { apply, .. } in rewrites() {
            let mut model = mobile_net(&shape, [24, 84], 1);
            apply(&mut model).unwrap();
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            let run = || plan.run(tvec!(noise(&shape, 1).into_tvalue())).unwrap();
            let one = run();
            for threads in 2..=5 {
                let pool = Executor::multithread(threads);
                assert_eq!(multithread_tract_scope(pool, run), one);
            }
        }
    }

    #[test]
    fn max_pooling_between_convolutions_equals_that_of_tract() {
        let shape = [1, 10, 12, 18];
        let mut model = TypedModel::default();
        let wire = model.add_source("x", f32::fact(shape)).unwrap();
        let wire = conv(&mut model, wire, "before", 7, [1, 1, 1], true);
        let pool = MaxPool {
            pool_spec: pool_spec(7, 2, 2, PaddingSpec::Valid),
            with_index_outputs: None,
        };
        let wire = model.wire_node("pool", pool, &[wire]).unwrap()[0];
        let wire = conv(&mut model, wire, "after", 6, [1, 1, 1], false);
        model.select_output_outlets(&[wire]).unwrap();
        for case in rewrites() {
            let model = compare(&model, &noise(&shape, 3), &case);
            assert_eq!(count(&model, "BlockedMaxPool"), 1);
            assert_eq!(count(&model, "ToBlocked"), 1);
        }
    }

    /// The sum of two pictures cannot be fused if something else uses both of them, or if
    /// the product is clamped before the sum.
    #[test]
    fn other_sums_stay() {
        for (is_clamped, is_output) in [(true, false), (false, true)] {
            let shape = [1, 8, 6, 6];
            let mut model = TypedModel::default();
            let input = model.add_source("x", f32::fact(shape)).unwrap();
            let wire = conv(&mut model, input, "conv", 8, [1, 1, 1], is_clamped);
            let add = TypedBinOp(Box::new(Add), None);
            let sum = model.wire_node("add", add, &[wire, input]).unwrap()[0];
            let outputs = if is_output {
                vec![sum, wire]
            } else {
                vec![sum]
            };
            model.select_output_outlets(&outputs).unwrap();
            for case in rewrites() {
                let model = compare(&model, &noise(&shape, 3), &case);
                assert_eq!(count(&model, "BlockedPointwise"), 1);
                assert_eq!(count(&model, "Add"), 1);
            }
        }
    }
}
