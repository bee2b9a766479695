//! Sources of frames: pictures, folders, webcams, camera modules, network cameras and
//! programs.
//!
//! Owns the opening of a source, its pacing, and reconnecting after a loss. It decodes
//! pictures and knows nothing about their content. It receives its settings as
//! [`CameraOptions`]. Only one function reads the clock. This module starts one thread,
//! which reads a webcam (`device_reader`). [`Camera::next`] blocks its caller, and
//! returns within 100 ms of a stop.
//!
//! | source | ends | is lost |
//! |---|---|---|
//! | [`Spec::Examples`], [`Spec::Path`] | after the last picture, unless `repeat` | when no picture of a whole round is readable |
//! | [`Spec::Http`], a stream | never | when refused, closed, or silent |
//! | [`Spec::Http`], single pictures | never | when refused, or no picture comes |
//! | [`Spec::Webcam`] | never | when unplugged or silent |
//! | [`Spec::Rpicam`] | never | on any exit, or when silent |
//! | [`Spec::Command`] | with exit status 0 after a picture, unless `repeat` | on any other exit, or when silent |

mod address;
pub mod command;
#[cfg(any(feature = "camera", test))]
mod device_reader;
mod error;
pub mod http;
pub mod mjpeg;
mod options;
pub mod pictures;
pub mod processes;
mod raw;
mod reconnecting;
mod redact;
mod source;
mod spec;
#[cfg(feature = "camera")]
mod v4l;
pub mod webcam;

pub use address::{AddressError, CameraUrl};
pub use error::SourceError;
pub use options::{CameraOptions, TlsTrust, VideoFormat, VideoOptions};
pub use reconnecting::{Camera, CameraEvent};
pub use redact::text_without_secrets;
pub use source::Source;
pub use spec::{Spec, SpecError, WebcamSelector};
#[cfg(feature = "camera")]
pub use v4l::describe as describe_webcam;
