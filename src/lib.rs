//! `maskd` finds the faces in camera frames, tells for each whether it wears a
//! mask, and drives lamps and a buzzer.
//!
//! Data flows one way:
//!
//! ```text
//! camera - frame -> detect - faces -> track - crops -> embed - features -> head - probabilities
//!                                                                                      |
//!                    indicate <- decision - decide <---------------- verdicts ---------+
//! ```
//!
//! | module | owns | may use |
//! |---|---|---|
//! | [`frame`] | pictures and the geometry on them | - |
//! | [`files`] | files that are whole or not there | - |
//! | [`onnx`] | the only user of tract | - |
//! | [`camera`] | sources of frames | frame |
//! | [`detect`] | the face detector | frame, onnx |
//! | [`track`] | faces over time, votes | frame |
//! | [`embed`] | the backbone | frame, onnx |
//! | [`head`] | labels, weights, forward pass | embed, onnx |
//! | [`decide`] | verdicts and decisions | frame |
//! | [`scene`] | what a frame showed; the JSON of a face | frame, decide |
//! | [`indicate`] | patterns, console | decide, scene |
//! | [`capture`] | which crops are worth keeping | embed |
//! | [`config`] | keys, defaults, checks | camera, capture, decide, track |
//! | [`pipeline`] | the stages in their order | frame, onnx, config, detect, embed, head |
//! | [`augment`] | seeded picture transforms | frame |
//! | [`train`] | backward pass, Adam, history of the head | embed, head, onnx |
//! | [`replay`] | features that must not be forgotten | onnx |
//! | [`refit`] | learning on the device, the gate | frame, onnx, augment, replay, report, train |
//! | [`dataset`] | pictures in one folder a class; duplicates; splits | frame, camera |
//! | [`recipe`] | the views of a picture, their features | frame, onnx, detect, embed, augment |
//! | [`samples`] | captured and labelled crops on disk, their features | frame, files, embed, onnx |
//! | [`heads`] | history of heads on disk | files, head, onnx |
//! | [`report`] | classification report, calibration, plots | - |
//! | [`annotate`] | boxes and labels drawn on pictures | decide, scene |
//! | [`learning`] | samples, heads and refits together | frame, files, config, embed, head, heads, onnx, refit, replay, samples |
//! | [`control`] | the daemon's HTTP API: requests, answers, server, client | capture, learning, samples |
//! | [`priority`] | the lowest priority for a thread; all `unsafe` code | - |
//! | [`daemon`] | threads, channels, shutdown | all but cli |
//! | [`cli`] | subcommands, exit codes | all |
//!
//! A test holds every module to this table (`tests/architecture.rs`).
pub mod annotate;
pub mod augment;
pub mod camera;
pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataset;
pub mod decide;
pub mod detect;
pub mod embed;
pub mod files;
pub mod frame;
pub mod head;
pub mod heads;
pub mod indicate;
pub mod learning;
pub mod onnx;
pub mod pipeline;
pub mod priority;
pub mod recipe;
pub mod refit;
pub mod replay;
pub mod report;
pub mod samples;
pub mod scene;
pub mod track;
pub mod train;
