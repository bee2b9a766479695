//! Custom operators for tract, named after the usual operators of this kind, and the pool
//! of buffers that they share.

#[cfg(any(test, target_arch = "aarch64"))]
pub(in crate::onnx) mod blocked;
pub(in crate::onnx) mod buffer_pool;
pub(in crate::onnx) mod depthwise;
#[cfg(target_arch = "x86_64")]
pub(in crate::onnx) mod im2col;
pub(in crate::onnx) mod max_pool;
#[cfg(target_arch = "x86_64")]
pub(in crate::onnx) mod pointwise;
