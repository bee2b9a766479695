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
//! | [`onnx`] | the only user of tract | system |
//! | [`camera`] | sources of frames | frame |
//! | [`detect`] | the face detector | frame, onnx |
//! | [`motion`] | whether anything moved since the last look | - |
//! | [`track`] | faces over time, votes | frame |
//! | [`embed`] | the backbone | frame, onnx |
//! | [`head`] | labels, weights, forward pass | embed, onnx |
//! | [`decide`] | verdicts and decisions | frame |
//! | [`frame_result`] | what a frame showed; the JSON of a face | frame, decide |
//! | [`indicate`] | patterns, console, pins | decide, scene |
//! | [`capture_policy`] | which crops are worth keeping | embed |
//! | [`config`] | keys, defaults, checks | camera, capture, decide, indicate, samples, track |
//! | [`pipeline`] | the stages in their order | frame, onnx, config, detect, embed, head, system |
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
//! | [`label_queue`] | which crops to label first, and together | capture |
//! | [`learning`] | samples, heads and refits together | frame, files, config, embed, head, heads, onnx, queue, refit, replay, samples |
//! | [`fleet`] | heads of other devices on their way, signed | files, onnx |
//! | [`settings`] | what may be changed while the daemon runs | files, config |
//! | [`board`] | temperature and supply of the board | - |
//! | [`socket`] | the daemon's HTTP API: requests, answers, server, client | board, capture, learning, samples, settings |
//! | [`web`] | the page: the API over TCP, who may use it, the live view | annotate, config, control, files, frame, learning, scene |
//! | [`metrics`] | what is counted and measured; whether the daemon is well | control, decide, pipeline, refit |
//! | [`mqtt`] | the state on a broker; Home Assistant; what is asked for there | config, control, decide, files, fleet, learning, onnx, refit, settings |
//! | [`system`] | low priorities for a thread, blocks of memory; all `unsafe` code | - |
//! | [`daemon`] | threads, channels, shutdown | all but cli |
//! | [`cli`] | subcommands, exit codes | all |
//!
//! A test holds every module to this table (`tests/architecture.rs`).
pub mod api;
pub mod camera;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod decision;
pub mod frame;
pub mod indicate;
pub mod learning;
pub mod onnx;
pub mod platform;
pub mod training;
pub mod vision;
