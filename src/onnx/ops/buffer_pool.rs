//! Reuses the memory of freed tensors. Without reuse, each new tensor is first filled
//! with zeros, which took an eighth of the time per face on x86.
//!
//! Each thread keeps one buffer, which it reuses only for a tensor of the same type with
//! exactly the same number of values. One buffer is enough within a block of a MobileNet,
//! because the blocks alternate between the same sizes. On x86, all threads together keep
//! further buffers, which the next run reuses.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros expect its names in scope"
)]
use tract_onnx::tract_core::internal::*;

thread_local! {
    static FREE: Cell<Option<Tensor>> = const { Cell::new(None) };
    static SCRATCH: Cell<Option<Tensor>> = const { Cell::new(None) };
}

/// Buffers that all threads share.
static SHARED: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());

/// Maximum size of the shared buffers. A Raspberry Pi has less memory, so it keeps none.
const MAX_SHARED_BYTES: usize = if cfg!(target_arch = "x86_64") {
    8 << 20
} else {
    0
};

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
        Some(free) if fits(&free) => return free.into_shape(shape),
        other => FREE.set(other),
    }
    if MAX_SHARED_BYTES > 0 {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = shared.iter().position(fits) {
            return shared.swap_remove(index).into_shape(shape);
        }
    }
    Tensor::zero_dt(T::datum_type(), shape)
}

/// Returns the memory of a tensor to the pool, unless the tensor is shared.
pub(in crate::onnx) fn recycle(values: TValue) {
    if !values.is_exclusive() {
        return;
    }
    let before = FREE.replace(Some(values.into_tensor()));
    if let Some(before) = before.filter(|_| MAX_SHARED_BYTES > 0) {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.push(before);
        keep_largest(&mut shared);
    }
}

/// Frees the smallest buffers until the others take at most [`MAX_SHARED_BYTES`]. Large buffers
/// take the longest to fill.
fn keep_largest(buffers: &mut Vec<Tensor>) {
    let bytes = |tensor: &Tensor| tensor.len() * tensor.datum_type().size_of();
    while buffers.iter().map(bytes).sum::<usize>() > MAX_SHARED_BYTES {
        let sizes = buffers.iter().map(bytes).enumerate();
        let Some((smallest, _)) = sizes.min_by_key(|(_, size)| *size) else {
            return;
        };
        buffers.swap_remove(smallest);
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

    /// No other test uses tensors of these sizes. Other tests may free the shared buffers.
    #[test]
    fn the_last_buffer_is_reused_once_if_its_size_matches() {
        recycle(floats(&[3, 1009], 1.0));
        recycle(floats(&[2, 1013], 2.0));
        let shared = floats(&[1019], 3.0);
        recycle(shared.clone());
        let halves = tensor::<u16>(&[1013, 2]).unwrap();
        assert_eq!(halves.datum_type(), u16::datum_type());
        for (shape, values) in [
            ([3, 1009], [0.0, 1.0]),
            ([1013, 2], [2.0, 2.0]),
            ([1013, 2], [0.0, 0.0]),
        ] {
            let taken = tensor::<f32>(&shape).unwrap();
            assert_eq!(taken.shape(), shape);
            assert!(values.contains(&first(&taken)));
        }
        assert_eq!(first(&shared), 3.0);
    }

    #[test]
    fn the_largest_buffers_are_kept() {
        let sizes = [1 << 20, 7 << 20, 1 << 19, 1 << 19, 1 << 18, 1];
        let buffers = sizes.map(|size| Tensor::zero::<u8>(&[size]).unwrap());
        let mut buffers = Vec::from(buffers);
        keep_largest(&mut buffers);
        let kept: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        let expected = if MAX_SHARED_BYTES > 0 { 8 << 20 } else { 0 };
        assert_eq!(kept, expected);
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
