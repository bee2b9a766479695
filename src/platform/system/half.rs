//! Vectors of half-precision floats, for aarch64 processors that compute with them. The
//! Cortex-A76 of a Raspberry Pi 5 is the first core on a Raspberry Pi that does.
//!
//! A value of [`HalfPrecision`] exists only if the processor has these instructions, and every
//! vector is made from one. Therefore, all functions can be called from safe code. They
//! compile to single instructions only inside of [`HalfPrecision::run`].

#![expect(
    clippy::inline_always,
    reason = "code inside `run` must be inlined to be compiled for its instruction set"
)]

use std::arch::aarch64::{
    float16x8_t, vaddq_f16, vcvt_f16_f32, vcvt_f32_f16, vcvt_high_f16_f32, vcvt_high_f32_f16,
    vdupq_laneq_f16, vfmaq_f16, vget_low_f16, vld1q_f32, vld1q_u16, vmaxq_f16, vminq_f16,
    vreinterpretq_f16_u16, vreinterpretq_u16_f16, vst1q_f32, vst1q_u16,
};
use std::arch::is_aarch64_feature_detected;

/// Proof that the processor can compute with half-precision floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfPrecision(());

impl HalfPrecision {
    /// Asks the system whether the processor can compute with half-precision floats.
    #[must_use]
    pub fn detect() -> Option<HalfPrecision> {
        is_aarch64_feature_detected!("fp16").then_some(HalfPrecision(()))
    }

    /// Calls a function. If the compiler inlines the function, it compiles it with
    /// half-precision instructions.
    #[expect(
        clippy::unused_self,
        reason = "`self` proves that the processor has the instructions"
    )]
    #[inline(always)]
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "neon,fp16")]
        fn run<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `self` proves that the processor has these instructions.
        unsafe { run(work) }
    }
}

/// Eight half-precision floats. In memory, each of them is a `u16` with the same bits.
#[derive(Debug, Clone, Copy)]
pub struct F16x8(float16x8_t);

// These instructions have functions of their own because a function with other target features
// cannot inline an intrinsic that is declared `inline(always)`.

#[inline]
#[target_feature(enable = "neon,fp16")]
fn mul_add(a: float16x8_t, b: float16x8_t, sum: float16x8_t) -> float16x8_t {
    vfmaq_f16(sum, a, b)
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn add(a: float16x8_t, b: float16x8_t) -> float16x8_t {
    vaddq_f16(a, b)
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn max(a: float16x8_t, b: float16x8_t) -> float16x8_t {
    vmaxq_f16(a, b)
}

#[inline]
#[target_feature(enable = "neon,fp16")]
fn min(a: float16x8_t, b: float16x8_t) -> float16x8_t {
    vminq_f16(a, b)
}

// All functions call instructions that the processor may lack, which is why the calls are
// unsafe. Only `load`, `store`, `from_f32`, and `to_f32` access memory.
impl F16x8 {
    /// Reads a vector.
    #[inline(always)]
    #[must_use]
    pub fn load(_: HalfPrecision, values: &[u16; 8]) -> F16x8 {
        // SAFETY: the argument proves that the instructions exist, and the reference is valid
        // for reading eight values.
        F16x8(unsafe { vreinterpretq_f16_u16(vld1q_u16(values.as_ptr())) })
    }

    /// Writes a vector.
    #[inline(always)]
    pub fn store(self, values: &mut [u16; 8]) {
        // SAFETY: a vector exists only if the instructions exist, and the reference is valid
        // for writing eight values.
        unsafe { vst1q_u16(values.as_mut_ptr(), vreinterpretq_u16_f16(self.0)) }
    }

    /// Rounds floats to half precision.
    #[inline(always)]
    #[must_use]
    pub fn from_f32(_: HalfPrecision, values: &[f32; 8]) -> F16x8 {
        // SAFETY: the argument proves that the instructions exist, and the reference is valid
        // for reading two times four values.
        F16x8(unsafe {
            let low = vcvt_f16_f32(vld1q_f32(values.as_ptr()));
            vcvt_high_f16_f32(low, vld1q_f32(values.as_ptr().add(4)))
        })
    }

    /// Converts the vector to single precision, which is exact.
    #[inline(always)]
    #[must_use]
    pub fn to_f32(self) -> [f32; 8] {
        let mut values = [0.0; 8];
        // SAFETY: a vector exists only if the instructions exist, and the array is valid for
        // writing two times four values.
        unsafe {
            vst1q_f32(values.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(self.0)));
            vst1q_f32(values.as_mut_ptr().add(4), vcvt_high_f32_f16(self.0));
        }
        values
    }

    /// Returns a vector in which each value is number `LANE` of this vector. As a factor of
    /// [`mul_add`](F16x8::mul_add), it takes no instruction of its own.
    #[inline(always)]
    #[must_use]
    pub fn broadcast<const LANE: i32>(self) -> F16x8 {
        // SAFETY: a vector exists only if the instructions exist.
        F16x8(unsafe { vdupq_laneq_f16::<LANE>(self.0) })
    }

    /// Returns `self * factor + sum`, rounded once.
    #[inline(always)]
    #[must_use]
    pub fn mul_add(self, factor: F16x8, sum: F16x8) -> F16x8 {
        // SAFETY: a vector exists only if the instructions exist.
        F16x8(unsafe { mul_add(self.0, factor.0, sum.0) })
    }

    /// Returns the sum.
    #[inline(always)]
    #[must_use]
    pub fn plus(self, other: F16x8) -> F16x8 {
        // SAFETY: a vector exists only if the instructions exist.
        F16x8(unsafe { add(self.0, other.0) })
    }

    /// Returns the larger value of each pair.
    #[inline(always)]
    #[must_use]
    pub fn max(self, other: F16x8) -> F16x8 {
        // SAFETY: a vector exists only if the instructions exist.
        F16x8(unsafe { max(self.0, other.0) })
    }

    /// Returns the smaller value of each pair.
    #[inline(always)]
    #[must_use]
    pub fn min(self, other: F16x8) -> F16x8 {
        // SAFETY: a vector exists only if the instructions exist.
        F16x8(unsafe { min(self.0, other.0) })
    }
}
