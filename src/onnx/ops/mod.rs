//! Custom operators for tract, named after the usual operators of this kind, and the pool
//! of buffers that they share.

pub(in crate::onnx) mod blocked;
pub(in crate::onnx) mod buffer_pool;
pub(in crate::onnx) mod depthwise;
pub(in crate::onnx) mod max_pool;
