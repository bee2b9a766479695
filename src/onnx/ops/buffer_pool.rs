//! Reuses the memory of freed tensors. Without reuse, each new tensor is first filled
//! with zeros, which took an eighth of the time per face on x86.
//!
//! Each thread keeps one buffer, which it reuses only for a tensor with exactly the same
//! number of values. One buffer is enough because the blocks of a MobileNet alternate
//! between the same sizes. Keeping three buffers was not faster.

use std::cell::Cell;

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

thread_local! {
    static FREE: Cell<Option<Tensor>> = const { Cell::new(None) };
}

/// Returns a tensor of floats whose values are arbitrary.
pub(in crate::onnx) fn tensor(shape: &[usize]) -> TractResult<Tensor> {
    match FREE.take() {
        Some(free) if free.len() == shape.iter().product::<usize>() => free.into_shape(shape),
        other => {
            FREE.set(other);
            Tensor::zero::<f32>(shape)
        }
    }
}

/// Returns the memory of a tensor of floats to the pool, unless the tensor is shared.
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
        for (shape, value) in [([3, 2], 0.0), ([5, 2], 2.0), ([5, 2], 0.0)] {
            let taken = tensor(&shape).unwrap();
            assert_eq!((taken.shape(), first(&taken)), (&shape[..], value));
        }
        assert_eq!(first(&shared), 3.0);
    }
}
