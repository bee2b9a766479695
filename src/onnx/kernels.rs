//! Which of tract's kernels multiplies two matrices on aarch64, where another one takes
//! less than the one that tract would choose. tract asks each of its tiers in order; here
//! is one more.
//!
//! For the in-order Cortex-A53 and A55 tract weighs its kernels by times that were
//! measured there, and is not asked otherwise. For all other cores it takes the one
//! of 8x8 whatever the matrices are; here that is the one of the fewest
//! instructions.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "tract gives its instruction sets by reference"
)]

use tract_linalg::arm64::Kind;
use tract_linalg::isa::{Arch, IsaSet};
use tract_linalg::mmm::{Query, Suitable};
use tract_linalg::mmm_tiers::MmmTier;
use tract_onnx::prelude::DatumType;

/// A kernel of tract's: it makes a tile of the product at a time.
struct Kernel {
    name: &'static str,
    /// Rows and columns of a tile.
    tile: [usize; 2],
    /// Loads for each column of the left matrix and row of the right one.
    loads: usize,
}

const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "arm64simd_mmm_f32_8x8_gen",
        tile: [8, 8],
        loads: 2,
    },
    Kernel {
        name: "arm64simd_mmm_f32_12x8_gen",
        tile: [12, 8],
        loads: 2,
    },
    Kernel {
        name: "arm64simd_mmm_f32_16x4_gen",
        tile: [16, 4],
        loads: 2,
    },
    Kernel {
        name: "arm64simd_mmm_f32_24x4_gen",
        tile: [24, 4],
        loads: 3,
    },
];

/// Instructions for a tile beside the multiplications, and for each four values of it
/// (counted by `benches/arm` for the backbone: bias, limits, store and what calls the
/// kernel).
const OF_A_TILE: usize = 365;
const OF_A_VECTOR: usize = 5;

impl Kernel {
    /// About how many instructions the product of `m` rows, `n` columns and `k` between
    /// takes.
    fn instructions(&self, m: usize, k: usize, n: usize) -> usize {
        let [rows, columns] = self.tile;
        let vectors = rows * columns / 4;
        let tile = k * (vectors + self.loads) + OF_A_TILE + vectors * OF_A_VECTOR;
        m.div_ceil(rows) * n.div_ceil(columns) * tile
    }
}

fn preferred(
    _: &IsaSet,
    accumulator: DatumType,
    query: &Query,
    _: &[Suitable],
) -> Option<&'static str> {
    let (Some(m), Some(k), Some(n)) = (query.m, query.k, query.n) else {
        return None;
    };
    if accumulator != DatumType::F32 || n == 1 {
        return None;
    }
    let kernels = KERNELS.iter();
    let least = kernels.min_by_key(|kernel| kernel.instructions(m, k, n))?;
    Some(least.name)
}

tract_onnx::tract_core::internal::inventory::submit! {
    MmmTier {
        arch: Some(Arch::Aarch64),
        // Above those of each core's own, below those of further instruction sets.
        precedence: 2,
        name: "maskd",
        applies: |_| !matches!(Kind::choose(), Kind::CortexA53 | Kind::CortexA55),
        preferred,
    }
}

#[cfg(test)]
mod tests {
    use tract_linalg::MmmDispatch;

    use super::*;

    fn query(m: usize, k: usize, n: usize) -> Query {
        Query::plain(DatumType::F32, Some(m), Some(k), Some(n))
    }

    #[test]
    fn tract_has_each_kernel() {
        let query = query(96, 96, 96);
        let suitable = MmmDispatch::native().suitable(&query);
        for kernel in &KERNELS {
            let found = suitable.iter().find(|(mmm, ..)| mmm.name() == kernel.name);
            let (mmm, ..) = found.unwrap_or_else(|| panic!("there is no {}", kernel.name));
            assert_eq!([mmm.mr(), mmm.nr()], kernel.tile);
        }
    }

    #[test]
    fn tract_asks_for_the_kernel() {
        assert!(tract_linalg::mmm_tiers::declared().any(|tier| tier.name == "maskd"));
    }

    #[test]
    fn the_kernel_fits_the_matrices() {
        let isa = tract_linalg::isa::native();
        let kernel = |m, k, n| preferred(&isa, DatumType::F32, &query(m, k, n), &[]);
        assert_eq!(kernel(12544, 16, 96), Some("arm64simd_mmm_f32_12x8_gen"));
        assert_eq!(kernel(16, 32, 12544), Some("arm64simd_mmm_f32_8x8_gen"));
        assert_eq!(kernel(960, 160, 4), Some("arm64simd_mmm_f32_24x4_gen"));
        // A vector has kernels of its own.
        assert_eq!(kernel(1280, 320, 1), None);
        assert_eq!(
            preferred(&isa, DatumType::F16, &query(96, 96, 96), &[]),
            None
        );
    }
}
