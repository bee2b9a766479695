//! Half precision: vectors of eight 16-bit floats.

#![expect(
    clippy::inline_always,
    reason = "code for an instruction set must be inlined to be compiled for it"
)]

use std::array::from_fn;
use std::borrow::Cow;

use tract_onnx::prelude::f16;

#[cfg(not(target_arch = "aarch64"))]
use super::emulated::{F16x8, HalfPrecision};
use super::precision::{Kernel, Precision, Vector, add_channel};
#[cfg(target_arch = "aarch64")]
use crate::platform::system::half::{F16x8, HalfPrecision};

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
    const HAS_32_REGISTERS: bool = true;

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
    fn spread<const COUNT: usize>(token: HalfPrecision, values: &[u16; COUNT]) -> [Self; COUNT] {
        let (vectors, _) = values.as_chunks::<{ Half::LANES }>();
        from_fn(|x| {
            let all = F16x8::load(token, &vectors[x / Half::LANES]);
            let all = [
                all.broadcast::<0>(),
                all.broadcast::<1>(),
                all.broadcast::<2>(),
                all.broadcast::<3>(),
                all.broadcast::<4>(),
                all.broadcast::<5>(),
                all.broadcast::<6>(),
                all.broadcast::<7>(),
            ];
            all[x % Half::LANES]
        })
    }

    // The channels are written out because the compiler would not unroll a loop of this size.
    #[inline(always)]
    fn add_products<'a, const PIXELS: usize, const GROUPS: usize>(
        token: HalfPrecision,
        pixels: impl Iterator<Item = &'a [[u16; 8]; PIXELS]>,
        weights: &[[[u16; 8]; GROUPS]],
        sums: &mut [[Self; PIXELS]; GROUPS],
    ) {
        let (weights, _) = weights.as_chunks::<{ Half::LANES }>();
        for (pixels, [a, b, c, d, e, f, g, h]) in pixels.zip(weights) {
            let pixels: [Self; PIXELS] = from_fn(|x| Self::load(token, &pixels[x]));
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
