//! Sources of frames: pictures, folders, webcams, camera modules, network cameras, and
//! programs.
//!
//! This module opens sources, paces their frames, and reconnects after a loss. It decodes
//! pictures but knows nothing about what they show. It receives its settings as
//! [`CameraOptions`]. Only the function `source::now` reads the clock. This module starts
//! one thread, which reads a webcam (`device_reader`). [`Camera::next`] blocks its
//! caller, and returns within 100 ms after a stop is requested.
//!
//! | source | ends | is lost |
//! |---|---|---|
//! | [`Spec::Examples`], [`Spec::Path`] | after the last picture, unless `repeat` is set | when a whole round contains no readable picture |
//! | [`Spec::Http`], a stream | never | when the connection is refused, closed, or silent |
//! | [`Spec::Http`], single pictures | never | when the connection is refused, or when no picture arrives |
//! | [`Spec::Webcam`] | never | when the webcam is unplugged or silent |
//! | [`Spec::Rpicam`] | never | when the program exits or is silent |
//! | [`Spec::Command`] | when the program exits with status 0 after a picture, unless `repeat` is set | when the program exits in any other way or is silent |

#[cfg(all(feature = "camera", not(target_os = "linux")))]
compile_error!("the feature `camera` (webcams) needs Linux: build without it");

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
pub use reconnecting::{Camera, CameraEvent, read_frame};
pub use redact::text_without_secrets;
pub use source::Source;
pub use spec::{Spec, SpecError, WebcamSelector};
#[cfg(feature = "camera")]
pub use v4l::describe as describe_webcam;
