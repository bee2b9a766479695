//! The types of numbers with which the operators compute: single precision with vectors of four
//! values, and half precision with vectors of eight values.

#![expect(
    clippy::inline_always,
    reason = "code inside `dispatch!` must be inlined to be compiled for its instruction set"
)]

use std::array::from_fn;
use std::borrow::Cow;
use std::fmt::Debug;

use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x4};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

#[cfg(not(target_arch = "aarch64"))]
use super::emulated::{F16x8, HalfPrecision};
#[cfg(target_arch = "aarch64")]
use crate::platform::system::half::{F16x8, HalfPrecision};

/// Number of values that [`Vector::spread`] spreads.
pub(in crate::onnx) const SPREAD: usize = 8;

/// The type of the numbers in a picture in the blocked layout.
pub(in crate::onnx) trait Precision:
    Debug + Clone + Copy + PartialEq + Eq + Send + Sync + 'static
{
    /// A number in memory.
    type Value: Datum + Copy;
    /// The values of [`LANES`](Precision::LANES) channels of one pixel.
    type Lanes: Copy + Send + Sync;
    /// Number of channels per vector.
    const LANES: usize;
    /// Maximum number of vectors of input channels whose products are added up before the sum is
    /// added to a total, if the sum must be accurate. Shorter sums are smaller, so they are
    /// rounded less.
    const PART: usize;
    const ZERO: Self::Lanes;

    /// Rounds a number to this precision.
    fn value(value: f32) -> Self::Value;

    /// Rounds numbers to this precision.
    fn values(self, values: &[f32]) -> Cow<'_, [Self::Value]>;

    /// Returns numbers as vectors. Numbers after the last whole vector are left out.
    fn vectors(values: &[Self::Value]) -> &[Self::Lanes];

    /// Returns numbers as vectors. Numbers after the last whole vector are left out.
    fn vectors_mut(values: &mut [Self::Value]) -> &mut [Self::Lanes];

    /// Writes planes as vectors. There are up to [`LANES`](Precision::LANES) planes, all of the
    /// same length as `to`. The values of missing planes are zero.
    fn interleave(self, planes: &[&[f32]], to: &mut [Self::Lanes]);

    /// Writes vectors to up to [`LANES`](Precision::LANES) planes, all of the same length as
    /// `from`.
    fn deinterleave(self, from: &[Self::Lanes], planes: &mut [&mut [f32]]);

    /// Runs code that is compiled for the vectors of this precision.
    fn run(self, kernel: impl Kernel<Self>);
}

/// Code that works with the vectors of a precision.
pub(in crate::onnx) trait Kernel<P: Precision> {
    /// This function must be inlined to be compiled for the instruction set of the vectors.
    fn run<V: Vector<Precision = P>>(self, token: V::Token);
}

/// A vector in memory, such as `[f32; 4]`.
pub(in crate::onnx) type Lanes<V> = <<V as Vector>::Precision as Precision>::Lanes;

/// The values of some channels of a pixel, in a register.
pub(in crate::onnx) trait Vector: Copy {
    type Precision: Precision;
    /// Proof that the processor has the instructions for this vector.
    type Token: Copy;

    fn load(token: Self::Token, values: &Lanes<Self>) -> Self;
    fn store(self, values: &mut Lanes<Self>);
    fn plus(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    /// Returns `self * factor + sum`.
    fn mul_add(self, factor: Self, sum: Self) -> Self;

    /// Returns a vector for each value. All values of the vector are equal to it.
    fn spread(
        token: Self::Token,
        values: &[<Self::Precision as Precision>::Value; SPREAD],
    ) -> [Self; SPREAD];

    /// Multiplies pixels of the input by the weights of a block. `pixels` returns the vectors
    /// of each group of channels of the input.
    fn add_products<const PIXELS: usize, const GROUPS: usize>(
        token: Self::Token,
        pixels: impl Iterator<Item = [Self; PIXELS]>,
        weights: &[[Lanes<Self>; GROUPS]],
        sums: &mut [[Self; PIXELS]; GROUPS],
    );
}

/// Multiplies a channel of the input by the weights of a block. `pixel` returns vectors in
/// which all values are equal.
#[inline(always)]
pub(super) fn add_channel<V: Vector, const PIXELS: usize, const GROUPS: usize>(
    token: V::Token,
    pixel: impl Fn(usize) -> V,
    weights: &[Lanes<V>; GROUPS],
    sums: &mut [[V; PIXELS]; GROUPS],
) {
    for (sums, weight) in sums.iter_mut().zip(weights) {
        let weight = V::load(token, weight);
        for (x, sum) in sums.iter_mut().enumerate() {
            *sum = weight.mul_add(pixel(x), *sum);
        }
    }
}

/// 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) struct Single;

impl Precision for Single {
    type Value = f32;
    type Lanes = [f32; Single::LANES];
    const LANES: usize = 4;
    const PART: usize = usize::MAX;
    const ZERO: Self::Lanes = [0.0; Single::LANES];

    fn value(value: f32) -> f32 {
        value
    }

    fn values(self, values: &[f32]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }

    fn vectors(values: &[f32]) -> &[Self::Lanes] {
        values.as_chunks().0
    }

    fn vectors_mut(values: &mut [f32]) -> &mut [Self::Lanes] {
        values.as_chunks_mut().0
    }

    fn interleave(self, planes: &[&[f32]], to: &mut [Self::Lanes]) {
        // The compiler vectorizes this case.
        if let [a, b, c, d] = planes {
            for (to, (((a, b), c), d)) in to.iter_mut().zip(a.iter().zip(*b).zip(*c).zip(*d)) {
                *to = [*a, *b, *c, *d];
            }
            return;
        }
        to.fill(Single::ZERO);
        for (lane, plane) in planes.iter().enumerate() {
            for (to, value) in to.iter_mut().zip(*plane) {
                to[lane] = *value;
            }
        }
    }

    fn deinterleave(self, from: &[Self::Lanes], planes: &mut [&mut [f32]]) {
        // The compiler vectorizes this case.
        if let [a, b, c, d] = planes {
            let planes = a.iter_mut().zip(&mut **b).zip(&mut **c).zip(&mut **d);
            for (from, (((a, b), c), d)) in from.iter().zip(planes) {
                [*a, *b, *c, *d] = *from;
            }
            return;
        }
        for (lane, plane) in planes.iter_mut().enumerate() {
            for (to, from) in plane.iter_mut().zip(from) {
                *to = from[lane];
            }
        }
    }

    #[inline(always)]
    fn run(self, kernel: impl Kernel<Single>) {
        dispatch!(Level::new(), simd => run_single(simd, kernel));
    }
}

/// `f32x4` is a type of an instruction set, which the macro `dispatch!` cannot name.
#[inline(always)]
fn run_single<S: Simd>(simd: S, kernel: impl Kernel<Single>) {
    kernel.run::<f32x4<S>>(simd);
}

impl<S: Simd> Vector for f32x4<S> {
    type Precision = Single;
    type Token = S;

    #[inline(always)]
    fn load(simd: S, values: &[f32; 4]) -> Self {
        f32x4::from_slice(simd, values)
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; 4]) {
        self.store_slice(values);
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        <Self as SimdBase<S>>::max(self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        <Self as SimdBase<S>>::min(self, other)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        <Self as SimdFloat<S>>::mul_add(self, factor, sum)
    }

    #[inline(always)]
    fn spread(simd: S, values: &[f32; SPREAD]) -> [Self; SPREAD] {
        let (halves, _) = values.as_chunks::<{ Single::LANES }>();
        let halves: [Self; SPREAD / Single::LANES] =
            from_fn(|half| f32x4::from_slice(simd, &halves[half]));
        from_fn(|x| broadcast(halves[x / Single::LANES], x % Single::LANES))
    }

    #[inline(always)]
    fn add_products<const PIXELS: usize, const GROUPS: usize>(
        simd: S,
        pixels: impl Iterator<Item = [Self; PIXELS]>,
        weights: &[[[f32; 4]; GROUPS]],
        sums: &mut [[Self; PIXELS]; GROUPS],
    ) {
        let (weights, _) = weights.as_chunks::<{ Single::LANES }>();
        for (pixels, weights) in pixels.zip(weights) {
            for (lane, weights) in weights.iter().enumerate() {
                add_channel(simd, |x| broadcast(pixels[x], lane), weights, sums);
            }
        }
    }
}

/// Returns a vector in which each value is number `lane` of `vector`. On aarch64, this
/// compiles to no instruction, because a multiplication can select one value of a vector.
/// The other way to select a value, an index, would compile to separate loads.
#[inline(always)]
fn broadcast<S: Simd>(vector: f32x4<S>, lane: usize) -> f32x4<S> {
    let pair = if lane < Single::LANES / 2 {
        vector.zip_low(vector)
    } else {
        vector.zip_high(vector)
    };
    if lane.is_multiple_of(2) {
        pair.zip_low(pair)
    } else {
        pair.zip_high(pair)
    }
}

/// 16-bit floats. In memory, each of them is a `u16` with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::onnx) struct Half(HalfPrecision);

impl Half {
    /// Returns `None` if the processor cannot compute with 16-bit floats.
    pub(in crate::onnx) fn detect() -> Option<Half> {
        HalfPrecision::detect().map(Half)
    }
}

impl Precision for Half {
    type Value = u16;
    type Lanes = [u16; Half::LANES];
    const LANES: usize = 8;
    const PART: usize = 4;
    const ZERO: Self::Lanes = [0; Half::LANES];

    fn value(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }

    fn values(self, values: &[f32]) -> Cow<'_, [u16]> {
        let mut rounded = vec![0; values.len()];
        let (whole, rest) = values.as_chunks::<{ Half::LANES }>();
        let (to, rest_to) = rounded.as_chunks_mut::<{ Half::LANES }>();
        self.0.run(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(whole) {
                    F16x8::from_f32(self.0, from).store(to);
                }
            },
        );
        for (to, from) in rest_to.iter_mut().zip(rest) {
            *to = Half::value(*from);
        }
        Cow::Owned(rounded)
    }

    fn vectors(values: &[u16]) -> &[Self::Lanes] {
        values.as_chunks().0
    }

    fn vectors_mut(values: &mut [u16]) -> &mut [Self::Lanes] {
        values.as_chunks_mut().0
    }

    fn interleave(self, planes: &[&[f32]], to: &mut [Self::Lanes]) {
        let count = to.len();
        self.0.run(
            #[inline(always)]
            || {
                // Without bounds checks, this case takes a third of the instructions.
                if let Ok(planes) = <[&[f32]; Half::LANES]>::try_from(planes) {
                    let planes = planes.map(|plane| &plane[..count]);
                    for (x, to) in to.iter_mut().enumerate() {
                        let values = from_fn(|lane| planes[lane][x]);
                        F16x8::from_f32(self.0, &values).store(to);
                    }
                    return;
                }
                for (x, to) in to.iter_mut().enumerate() {
                    let value = |lane: usize| planes.get(lane).map_or(0.0, |plane| plane[x]);
                    F16x8::from_f32(self.0, &from_fn(value)).store(to);
                }
            },
        );
    }

    fn deinterleave(self, from: &[Self::Lanes], planes: &mut [&mut [f32]]) {
        let count = from.len();
        self.0.run(
            #[inline(always)]
            || {
                if let Ok(planes) = <&mut [&mut [f32]; Half::LANES]>::try_from(&mut *planes) {
                    let mut planes = planes.each_mut().map(|plane| &mut plane[..count]);
                    for (x, from) in from.iter().enumerate() {
                        let values = F16x8::load(self.0, from).to_f32();
                        for (plane, value) in planes.iter_mut().zip(values) {
                            plane[x] = value;
                        }
                    }
                    return;
                }
                for (x, from) in from.iter().enumerate() {
                    let values = F16x8::load(self.0, from).to_f32();
                    for (plane, value) in planes.iter_mut().zip(values) {
                        plane[x] = value;
                    }
                }
            },
        );
    }

    #[inline(always)]
    fn run(self, kernel: impl Kernel<Half>) {
        self.0.run(
            #[inline(always)]
            || kernel.run::<F16x8>(self.0),
        );
    }
}

impl Vector for F16x8 {
    type Precision = Half;
    type Token = HalfPrecision;

    #[inline(always)]
    fn load(token: HalfPrecision, values: &[u16; 8]) -> Self {
        F16x8::load(token, values)
    }

    #[inline(always)]
    fn store(self, values: &mut [u16; 8]) {
        self.store(values);
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self.plus(other)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.max(other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.min(other)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        self.mul_add(factor, sum)
    }

    #[inline(always)]
    fn spread(token: HalfPrecision, values: &[u16; SPREAD]) -> [Self; SPREAD] {
        let all = F16x8::load(token, values);
        [
            all.broadcast::<0>(),
            all.broadcast::<1>(),
            all.broadcast::<2>(),
            all.broadcast::<3>(),
            all.broadcast::<4>(),
            all.broadcast::<5>(),
            all.broadcast::<6>(),
            all.broadcast::<7>(),
        ]
    }

    // The channels are written out because the compiler would not unroll a loop of this size.
    #[inline(always)]
    fn add_products<const PIXELS: usize, const GROUPS: usize>(
        token: HalfPrecision,
        pixels: impl Iterator<Item = [Self; PIXELS]>,
        weights: &[[[u16; 8]; GROUPS]],
        sums: &mut [[Self; PIXELS]; GROUPS],
    ) {
        let (weights, _) = weights.as_chunks::<{ Half::LANES }>();
        for (pixels, [a, b, c, d, e, f, g, h]) in pixels.zip(weights) {
            add_channel(token, |x| pixels[x].broadcast::<0>(), a, sums);
            add_channel(token, |x| pixels[x].broadcast::<1>(), b, sums);
            add_channel(token, |x| pixels[x].broadcast::<2>(), c, sums);
            add_channel(token, |x| pixels[x].broadcast::<3>(), d, sums);
            add_channel(token, |x| pixels[x].broadcast::<4>(), e, sums);
            add_channel(token, |x| pixels[x].broadcast::<5>(), f, sums);
            add_channel(token, |x| pixels[x].broadcast::<6>(), g, sums);
            add_channel(token, |x| pixels[x].broadcast::<7>(), h, sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::emulated::{F16x8 as EmulatedF16x8, HalfPrecision as Emulation};
    use super::*;

    /// Values of which some become subnormal numbers or zero when they are rounded, and whose
    /// products are not too large for half precision.
    fn values() -> impl Strategy<Value = [f32; 8]> {
        let value = (-1.0..1.0_f32, -30..7_i32);
        let value = value.prop_map(|(part, exponent)| part * (exponent as f32).exp2());
        proptest::array::uniform8(value)
    }

    proptest! {
        /// `emulated` converts with the crate `half`.
        #[test]
        fn half_precision_is_rounded_as_by_the_crate_half(a in values(), b in values(), c in values()) {
            let Some(Half(token)) = Half::detect() else {
                return Ok(());
            };
            let ours = [a, b, c].map(|values| F16x8::from_f32(token, &values));
            let theirs = [a, b, c]
                .map(|values| EmulatedF16x8::from_f32(Emulation, &values));
            let [a, b, c] = ours;
            let [x, y, z] = theirs;
            for (ours, theirs) in [
                (a, x),
                (a.plus(b), x.plus(y)),
                (a.max(b), x.max(y)),
                (a.min(b), x.min(y)),
                (a.broadcast::<5>(), x.broadcast::<5>()),
            ] {
                prop_assert_eq!(ours.to_f32(), theirs.to_f32());
                let (mut bits, mut expected) = ([0; 8], [0; 8]);
                ours.store(&mut bits);
                theirs.store(&mut expected);
                prop_assert_eq!(bits, expected);
                prop_assert_eq!(F16x8::load(token, &bits).to_f32(), ours.to_f32());
            }
            // The emulation rounds twice, which in rare cases changes the last bit.
            let (ours, theirs) = (a.mul_add(b, c).to_f32(), x.mul_add(y, z).to_f32());
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                let bit = theirs.abs() / 1024.0 + 1e-7;
                prop_assert!(ours == theirs || (ours - theirs).abs() <= bit, "{ours}, {theirs}");
            }
        }
    }
}
