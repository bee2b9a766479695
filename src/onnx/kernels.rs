//! Chooses tract's kernel for a matrix product on aarch64. To find a kernel, tract goes
//! through a list of tiers in order; this module adds one tier to the list.
//!
//! For the in-order Cortex-A53 and A55, tract chooses a kernel based on measured times,
//! so the added tier does not apply. For all other cores, tract by itself would always
//! choose the 8x8 kernel. The added tier instead chooses the kernel that needs the
//! fewest instructions.

#![expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "tract passes its instruction sets by reference"
)]

use tract_linalg::arm64::Kind;
use tract_linalg::isa::{Arch, IsaSet};
use tract_linalg::mmm::{Query, Suitable};
use tract_linalg::mmm_tiers::MmmTier;
use tract_onnx::prelude::DatumType;

/// One of tract's kernels. A kernel computes the product tile by tile.
struct Kernel {
    name: &'static str,
    /// Number of rows and columns in a tile.
    tile: [usize; 2],
    /// Number of load instructions for one column of the left matrix and the matching row
    /// of the right matrix.
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

/// Number of instructions per tile, and number of instructions per four values of a
/// tile, in addition to the loads and the multiplications. These instructions handle
/// the bias, the clamp, the store, and the calls around the kernel. The numbers were
/// measured with `benches/arm` on the backbone.
const TILE_OVERHEAD: usize = 365;
const VECTOR_OVERHEAD: usize = 5;

impl Kernel {
    /// Estimates the number of instructions for the product of `[m, k]` and `[k, n]`.
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
        // tract consults this tier after the tiers for specific cores, and before the tiers
        // for other instruction sets.
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
        // tract has separate kernels for the product of a matrix and a vector.
        assert_eq!(kernel(1280, 320, 1), None);
        assert_eq!(
            preferred(&isa, DatumType::F16, &query(96, 96, 96), &[]),
            None
        );
    }
}
