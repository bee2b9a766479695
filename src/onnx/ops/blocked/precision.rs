//! The types of numbers with which the operators compute: single precision with vectors of 4 to
//! 16 values, and half precision with vectors of eight values.

#![expect(
    clippy::inline_always,
    reason = "code for an instruction set must be inlined to be compiled for it"
)]

use std::array::from_fn;
use std::borrow::Cow;
use std::fmt::Debug;

use fearless_simd::{Simd, SimdBase, SimdFloat};
#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

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
    /// Whether the processor has 32 registers for vectors. Otherwise, it has 16.
    const HAS_32_REGISTERS: bool;
    /// Maximum number of vectors of output channels that a product computes together.
    const BLOCK: usize = if Self::HAS_32_REGISTERS { 3 } else { 2 };

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
    fn spread<const COUNT: usize>(
        token: Self::Token,
        values: &[<Self::Precision as Precision>::Value; COUNT],
    ) -> [Self; COUNT];

    /// Multiplies pixels of the input by the weights of a block. `pixels` returns the vectors
    /// of each group of channels of the input.
    fn add_products<'a, const PIXELS: usize, const GROUPS: usize>(
        token: Self::Token,
        pixels: impl Iterator<Item = &'a [Lanes<Self>; PIXELS]>,
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

/// 32-bit floats. A vector has the `N` values that fit in the longest register of the
/// instruction set `S`.
#[derive(Debug, Clone, Copy)]
pub(in crate::onnx) struct Single<S, const N: usize>(pub(in crate::onnx) S);

/// There is only one value of each type.
impl<S, const N: usize> PartialEq for Single<S, N> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<S, const N: usize> Eq for Single<S, N> {}

impl<S: Simd, const N: usize> Precision for Single<S, N>
where
    S::f32s: SimdBase<S, Array = [f32; N]>,
{
    type Value = f32;
    type Lanes = [f32; N];
    const LANES: usize = N;
    const PART: usize = usize::MAX;
    const ZERO: Self::Lanes = [0.0; N];
    // x86 processors with vectors of 16 values have 32 registers.
    const HAS_32_REGISTERS: bool = cfg!(target_arch = "aarch64") || N == 16;

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
        if let Ok(planes) = <[&[f32]; N]>::try_from(planes) {
            let planes = planes.map(|plane| &plane[..to.len()]);
            for (x, to) in to.iter_mut().enumerate() {
                *to = planes.map(|plane| plane[x]);
            }
            return;
        }
        to.fill(Self::ZERO);
        for (lane, plane) in planes.iter().enumerate() {
            for (to, value) in to.iter_mut().zip(*plane) {
                to[lane] = *value;
            }
        }
    }

    fn deinterleave(self, from: &[Self::Lanes], planes: &mut [&mut [f32]]) {
        // The compiler vectorizes this case.
        if let [a, b, c, d] = planes
            && N == 4
        {
            let planes = a.iter_mut().zip(&mut **b).zip(&mut **c).zip(&mut **d);
            for (from, (((a, b), c), d)) in from.iter().zip(planes) {
                [*a, *b, *c, *d] = [from[0], from[1], from[2], from[3]];
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
    fn run(self, kernel: impl Kernel<Self>) {
        self.0.vectorize(
            #[inline(always)]
            || kernel.run::<Floats<S, N>>(self.0),
        );
    }
}

/// A vector of 32-bit floats.
#[derive(Clone, Copy)]
pub(in crate::onnx) struct Floats<S: Simd, const N: usize>(S::f32s);

impl<S: Simd, const N: usize> Vector for Floats<S, N>
where
    S::f32s: SimdBase<S, Array = [f32; N]>,
{
    type Precision = Single<S, N>;
    type Token = S;

    #[inline(always)]
    fn load(simd: S, values: &[f32; N]) -> Self {
        Self(S::f32s::load_array_ref(simd, values))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32; N]) {
        self.0.store_array(values);
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, sum: Self) -> Self {
        Self(self.0.mul_add(factor.0, sum.0))
    }

    #[inline(always)]
    fn spread<const COUNT: usize>(simd: S, values: &[f32; COUNT]) -> [Self; COUNT] {
        if cfg!(target_arch = "aarch64") {
            let (vectors, _) = values.as_chunks::<N>();
            return from_fn(|x| broadcast(Self::load(simd, &vectors[x / N]), x % N));
        }
        from_fn(|x| Self(S::f32s::splat(simd, values[x])))
    }

    #[inline(always)]
    fn add_products<'a, const PIXELS: usize, const GROUPS: usize>(
        simd: S,
        pixels: impl Iterator<Item = &'a [[f32; N]; PIXELS]>,
        weights: &[[[f32; N]; GROUPS]],
        sums: &mut [[Self; PIXELS]; GROUPS],
    ) {
        if cfg!(target_arch = "aarch64") {
            let (weights, _) = weights.as_chunks::<N>();
            for (pixels, weights) in pixels.zip(weights) {
                let pixels: [Self; PIXELS] = from_fn(|x| Self::load(simd, &pixels[x]));
                for (lane, weights) in weights.iter().enumerate() {
                    add_channel(simd, |x| broadcast(pixels[x], lane), weights, sums);
                }
            }
            return;
        }
        // The length of `chunks` is not known when this is compiled, so the compiler does not
        // unroll the loop. Otherwise, it would run out of registers.
        for (pixels, weights) in pixels.zip(weights.chunks(N)) {
            for (lane, weights) in weights.iter().enumerate() {
                let weights = weights.each_ref().map(|weight| Self::load(simd, weight));
                for (x, pixel) in pixels.iter().enumerate() {
                    // A load can copy a value to a whole register.
                    let pixel = Self(S::f32s::splat(simd, pixel[lane % N]));
                    for (sums, weight) in sums.iter_mut().zip(weights) {
                        sums[x] = weight.mul_add(pixel, sums[x]);
                    }
                }
            }
        }
    }
}

/// Returns a vector in which each value is number `lane` of `vector`, which has four values. On
/// aarch64, this compiles to no instruction, because a multiplication can select one value of a
/// vector. The other way to select a value, an index, would compile to separate loads.
#[inline(always)]
fn broadcast<S: Simd, const N: usize>(vector: Floats<S, N>, lane: usize) -> Floats<S, N> {
    let Floats(vector) = vector;
    let pair = if lane < N / 2 {
        vector.zip_low(vector)
    } else {
        vector.zip_high(vector)
    };
    Floats(if lane.is_multiple_of(2) {
        pair.zip_low(pair)
    } else {
        pair.zip_high(pair)
    })
}
