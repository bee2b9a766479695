//! Chooses tract's kernel for a matrix product on aarch64. tract asks its tiers in order;
//! this adds one.
//!
//! For the in-order Cortex-A53 and A55, tract chooses by measured times, and this tier
//! does not apply. For all other cores tract always takes the kernel of 8x8; this tier
//! takes the one with the fewest instructions.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "tract passes its instruction sets by reference"
)]

use tract_linalg::arm64::Kind;
use tract_linalg::isa::{Arch, IsaSet};
use tract_linalg::mmm::{Query, Suitable};
use tract_linalg::mmm_tiers::MmmTier;
use tract_onnx::prelude::DatumType;

/// A kernel of tract, which computes the product tile by tile.
struct Kernel {
    name: &'static str,
    /// Rows and columns of a tile.
    tile: [usize; 2],
    /// Loads per column of the left matrix and row of the right one.
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

/// Instructions per tile, and per four of its values, in addition to the multiplications
/// (counted by `benches/arm` for the backbone: bias, clamp, store and the calls around
/// the kernel).
const TILE_OVERHEAD: usize = 365;
const VECTOR_OVERHEAD: usize = 5;

impl Kernel {
    /// Approximate number of instructions of a product of `[m, k]` and `[k, n]`.
    fn instructions(&self, m: usize, k: usize, n: usize) -> usize {
        let [rows, columns] = self.tile;
        let vectors = rows * columns / 4;
        let tile = k * (vectors + self.loads) + TILE_OVERHEAD + vectors * VECTOR_OVERHEAD;
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
    let best = kernels.min_by_key(|kernel| kernel.instructions(m, k, n))?;
    Some(best.name)
}

tract_onnx::tract_core::internal::inventory::submit! {
    MmmTier {
        arch: Some(Arch::Aarch64),
        // After the tiers of specific cores, before those of other instruction sets.
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
        // Products with a vector have kernels of their own.
        assert_eq!(kernel(1280, 320, 1), None);
        assert_eq!(
            preferred(&isa, DatumType::F16, &query(96, 96, 96), &[]),
            None
        );
    }
}
