//! For Intel's processors with AVX-512 tract weighs its kernels by times that were
//! measured on some of them. On a Xeon of 2023 one kernel for all products took 0.87
//! of the backbone's time and 0.86 of the detector's (least of four runs by turns).

use tract_linalg::isa::{Arch, Isa, IsaSet};
use tract_linalg::mmm::{Query, Suitable};
use tract_linalg::mmm_tiers::MmmTier;
use tract_onnx::prelude::DatumType;

const KERNEL: &str = "avx512_mmm_f32_32x6";

fn applies(isa: &IsaSet) -> bool {
    let is_intel = || {
        let processors = std::fs::read_to_string("/proc/cpuinfo");
        processors.is_ok_and(|text| text.contains("GenuineIntel"))
    };
    isa.has(Isa::X86_64Avx512f) && is_intel()
}

fn preferred(
    _: &IsaSet,
    accumulator: DatumType,
    query: &Query,
    _: &[Suitable],
) -> Option<&'static str> {
    // A vector has kernels of its own.
    let is_ours = accumulator == DatumType::F32 && query.n.is_some_and(|n| n > 1);
    is_ours.then_some(KERNEL)
}

tract_onnx::tract_core::internal::inventory::submit! {
    MmmTier {
        arch: Some(Arch::X86_64),
        // Above those of floats.
        precedence: 6,
        name: "maskd",
        applies,
        preferred,
    }
}

#[cfg(test)]
mod tests {
    use tract_linalg::MmmDispatch;

    use super::*;

    #[test]
    fn tract_asks_for_the_kernel_and_has_it() {
        assert!(tract_linalg::mmm_tiers::declared().any(|tier| tier.name == "maskd"));
        let isa = tract_linalg::isa::native();
        let query = Query::plain(DatumType::F32, Some(96), Some(96), Some(96));
        assert_eq!(preferred(&isa, DatumType::F32, &query, &[]), Some(KERNEL));
        assert_eq!(preferred(&isa, DatumType::I32, &query, &[]), None);
        if isa.has(Isa::X86_64Avx512f) {
            let suitable = MmmDispatch::native().suitable(&query);
            assert!(suitable.iter().any(|(mmm, ..)| mmm.name() == KERNEL));
        }
    }
}
