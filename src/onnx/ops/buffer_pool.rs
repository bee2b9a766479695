//! Reuses the memory of freed tensors. Without reuse, each new tensor is first filled
//! with zeros, which took an eighth of the time per face on x86.
//!
//! Each thread keeps one buffer, which it reuses only for a tensor of the same type with
//! exactly the same number of values. One buffer is enough because the blocks of a MobileNet
//! alternate between the same sizes. Keeping three buffers was not faster.

use std::cell::Cell;

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

thread_local! {
    static FREE: Cell<Option<Tensor>> = const { Cell::new(None) };
    static SCRATCH: Cell<Option<Tensor>> = const { Cell::new(None) };
}

/// Returns a tensor of at least `len` arbitrary values, in which an operator keeps intermediate
/// results.
pub(in crate::onnx) fn scratch<T: Datum>(len: usize) -> TractResult<Tensor> {
    match SCRATCH.take() {
        Some(free) if free.datum_type() == T::datum_type() && free.len() >= len => Ok(free),
        _ => Tensor::zero_dt(T::datum_type(), &[len]),
    }
}

/// Returns the memory of [`scratch`] to the pool.
pub(in crate::onnx) fn recycle_scratch(values: Tensor) {
    SCRATCH.set(Some(values));
}

/// Returns a tensor whose values are arbitrary.
pub(in crate::onnx) fn tensor<T: Datum>(shape: &[usize]) -> TractResult<Tensor> {
    let fits = |free: &Tensor| {
        free.datum_type() == T::datum_type() && free.len() == shape.iter().product::<usize>()
    };
    match FREE.take() {
        Some(free) if fits(&free) => free.into_shape(shape),
        other => {
            FREE.set(other);
            Tensor::zero_dt(T::datum_type(), shape)
        }
    }
}

/// Returns the memory of a tensor to the pool, unless the tensor is shared.
pub(in crate::onnx) fn recycle(values: TValue) {
    if values.is_exclusive() {
        FREE.set(Some(values.into_tensor()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], value: f32) -> TValue {
        let mut tensor = Tensor::zero::<f32>(shape).unwrap();
        tensor.fill_t(value).unwrap();
        tensor.into_tvalue()
    }

    fn first(tensor: &Tensor) -> f32 {
        tensor
            .try_as_plain_ram()
            .unwrap()
            .as_slice::<f32>()
            .unwrap()[0]
    }

    #[test]
    fn the_last_buffer_is_reused_once_if_its_size_matches() {
        recycle(floats(&[3, 2], 1.0));
        recycle(floats(&[2, 5], 2.0));
        let shared = floats(&[7], 3.0);
        recycle(shared.clone());
        let halves = tensor::<u16>(&[5, 2]).unwrap();
        assert_eq!(halves.datum_type(), u16::datum_type());
        for (shape, value) in [([3, 2], 0.0), ([5, 2], 2.0), ([5, 2], 0.0)] {
            let taken = tensor::<f32>(&shape).unwrap();
            assert_eq!((taken.shape(), first(&taken)), (&shape[..], value));
        }
        assert_eq!(first(&shared), 3.0);
    }

    #[test]
    fn scratch_memory_grows() {
        for len in [5, 3, 9] {
            let values = scratch::<f32>(len).unwrap();
            assert!(values.len() >= len);
            recycle_scratch(values);
        }
        let values = scratch::<f32>(2).unwrap();
        assert_eq!(values.len(), 9);
        assert_eq!(scratch::<u16>(2).unwrap().len(), 2);
    }
}
