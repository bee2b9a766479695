//! Half-precision vectors for tests. They compute with 32-bit floats and round each result, so
//! tests of the operators run on any processor.

use std::array::from_fn;

use tract_onnx::prelude::f16;

/// Takes the place of the proof that the processor has half-precision instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HalfPrecision;

// On aarch64, only a test of the conversions needs this module.
#[cfg(not(target_arch = "aarch64"))]
#[expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "the signatures are those of the real type"
)]
impl HalfPrecision {
    pub(super) fn detect() -> Option<HalfPrecision> {
        Some(HalfPrecision)
    }

    pub(super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// Eight values that half precision can represent.
#[derive(Debug, Clone, Copy)]
pub(super) struct F16x8([f32; 8]);

impl F16x8 {
    pub(super) fn load(_: HalfPrecision, values: &[u16; 8]) -> F16x8 {
        F16x8(values.map(|bits| f16::from_bits(bits).to_f32()))
    }

    pub(super) fn store(self, values: &mut [u16; 8]) {
        *values = self.0.map(|value| f16::from_f32(value).to_bits());
    }

    pub(super) fn from_f32(_: HalfPrecision, values: &[f32; 8]) -> F16x8 {
        F16x8(values.map(|value| f16::from_f32(value).to_f32()))
    }

    pub(super) fn to_f32(self) -> [f32; 8] {
        self.0
    }

    pub(super) fn broadcast<const LANE: i32>(self) -> F16x8 {
        F16x8([self.0[LANE as usize]; 8])
    }

    pub(super) fn mul_add(self, factor: F16x8, sum: F16x8) -> F16x8 {
        let exact = |lane: usize| self.0[lane].mul_add(factor.0[lane], sum.0[lane]);
        F16x8::from_f32(HalfPrecision, &from_fn(exact))
    }

    pub(super) fn plus(self, other: F16x8) -> F16x8 {
        let exact = |lane: usize| self.0[lane] + other.0[lane];
        F16x8::from_f32(HalfPrecision, &from_fn(exact))
    }

    pub(super) fn max(self, other: F16x8) -> F16x8 {
        F16x8(from_fn(|lane| self.0[lane].max(other.0[lane])))
    }

    pub(super) fn min(self, other: F16x8) -> F16x8 {
        F16x8(from_fn(|lane| self.0[lane].min(other.0[lane])))
    }
}
