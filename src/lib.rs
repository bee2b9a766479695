//! `maskd` finds the faces in camera frames, classifies each face as masked or
//! unmasked, and drives the LEDs, buzzer, and relay of a door. It trains on labeled
//! face pictures on the same device.
//!
//! A frame travels `camera -> vision -> decision -> indicate`; a crop travels
//! `vision -> learning -> vision`. Each folder owns one capability and may use
//! only the folders listed below it in this table:
//!
//! | folder | owns |
//! |---|---|
//! | [`cli`] | subcommands, logs, exit codes |
//! | [`daemon`] | threads, channels, shutdown, watchdog |
//! | [`api`] | how users and programs reach the daemon: control socket, web page, MQTT, metrics |
//! | [`config`] | the TOML file: keys, defaults, checks, settings that can change at run time |
//! | [`events`] | events at the door, and their delivery to webhooks and programs |
//! | [`learning`] | learning on the device: capture, samples, labels, refit, gate, heads, fleets |
//! | [`training`] | learning from a folder of pictures: data sets, augmentation, optimizer, report |
//! | [`indicate`] | what people at the door see, hear, and press |
//! | [`decision`] | verdicts, the decision for the door, and how both are shown |
//! | [`vision`] | turning a frame into faces, tracks, features, and probabilities |
//! | [`camera`] | sources of frames |
//! | [`frame`] | pictures in memory: pixels, geometry, decoding |
//! | [`onnx`] | reading, checking, and running models; the only user of tract |
//! | [`platform`] | durable files, system calls, memory, board sensors; all `unsafe` code |
//!
//! [`training`] uses neither [`indicate`] nor [`decision`].
//! `docs/ARCHITECTURE.md` describes the threads and the channels, and maps each
//! kind of change to the file to edit. `tests/architecture.rs` checks that the
//! code follows the rules on this page and in that document.

pub mod api;
pub mod camera;
pub mod cli;
pub mod config;
pub mod counts;
pub mod daemon;
pub mod decision;
pub mod events;
pub mod frame;
pub mod indicate;
pub mod learning;
pub mod onnx;
pub mod platform;
pub mod training;
pub mod vision;
