//! The memory of tensors that nobody needs any more, for those that come next. A new one
//! is filled with zeroes first, and on x86 that was an eighth of a face's time.
//!
//! Each thread has one, for exactly as many values: the blocks of a MobileNet hand the
//! same sizes to and fro. Three took no less time.

use std::cell::Cell;

#[allow(
    clippy::wildcard_imports,
    reason = "tract's macros name what they need of it without its path"
)]
use tract_onnx::tract_core::internal::*;

thread_local! {
    static SPARE: Cell<Option<Tensor>> = const { Cell::new(None) };
}

/// A tensor of floats, whose values are whatever they were.
pub(in crate::onnx) fn tensor(shape: &[usize]) -> TractResult<Tensor> {
    match SPARE.take() {
        Some(spare) if spare.len() == shape.iter().product::<usize>() => spare.into_shape(shape),
        other => {
            SPARE.set(other);
            Tensor::zero::<f32>(shape)
        }
    }
}

/// Keeps the memory of floats that were read, if nobody else reads them.
pub(in crate::onnx) fn keep(read: TValue) {
    if read.is_exclusive() {
        SPARE.set(Some(read.into_tensor()));
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
    fn the_newest_one_is_taken_by_its_size_and_once() {
        keep(floats(&[3, 2], 1.0));
        keep(floats(&[2, 5], 2.0));
        let read = floats(&[7], 3.0);
        keep(read.clone());
        for (shape, value) in [([3, 2], 0.0), ([5, 2], 2.0), ([5, 2], 0.0)] {
            let taken = tensor(&shape).unwrap();
            assert_eq!((taken.shape(), first(&taken)), (&shape[..], value));
        }
        assert_eq!(first(&read), 3.0);
    }
}
