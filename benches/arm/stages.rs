//! Runs the stages of frame processing so that `benches/arm/run` can count their
//! instructions. Each stage runs between two markers that the QEMU plugin (`count.c`)
//! recognizes.
//!
//! The program prints one line for each section between markers, in order. Without the
//! plugin, the markers do nothing.

use std::hint::black_box;
use std::io::Cursor;

use anyhow::ensure;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use maskd::camera::pictures::EXAMPLES;
use maskd::config::Config;
use maskd::frame::decode;
use maskd::frame::yuv::{Layout, Range, YuvFormat};
use maskd::vision::motion::MotionDetector;
use maskd::vision::pipeline::Pipeline;
use rustix::process::{Pid, getpgid};

/// Marks the beginning of a section. No process can have this ID. `count.c` uses the
/// same IDs.
const BEGIN: i32 = 0x4d41_534b;
/// Marks the end of a section. No process can have this ID.
const END: i32 = 0x4d41_534c;

/// Number of counted runs of each stage. Before these runs, the stage runs once without
/// being counted.
const ROUNDS: usize = 3;

/// The frame size that most webcams use.
const SIZE: (u32, u32) = (640, 480);

fn mark(number: i32) {
    let answer = getpgid(Pid::from_raw(number));
    assert!(answer.is_err(), "no process can have the ID {number}");
}

fn count<T, E>(stage: &str, mut work: impl FnMut() -> Result<T, E>) -> Result<(), E> {
    black_box(work()?);
    for _ in 0..ROUNDS {
        mark(BEGIN);
        let result = work();
        mark(END);
        black_box(result?);
        println!("{stage}");
    }
    Ok(())
}

/// Encodes the picture as JPEG, which is the format that many cameras send.
fn jpeg(pixels: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(pixels)?;
    Ok(bytes.into_inner())
}

fn with_side(side: u32) -> anyhow::Result<Pipeline> {
    let mut config = Config::default();
    config.detect.input_size = side;
    Ok(Pipeline::open(&config.pipeline_options(), 1)?)
}

fn main() -> anyhow::Result<()> {
    let example = decode(EXAMPLES[0].bytes)?;
    let frame = imageops::resize(&example, SIZE.0, SIZE.1, FilterType::Triangle);
    let bytes = jpeg(&frame)?;
    let yuyv = YuvFormat::new(Layout::Yuyv, Range::Limited, SIZE.0, SIZE.1)?;
    let raw: Vec<u8> = (0..yuyv.frame_bytes()).map(|at| (at % 251) as u8).collect();
    let mut motion = MotionDetector::default();
    motion.set_reference(&frame);

    count("decode", || decode(&bytes))?;
    count("yuyv", || yuyv.decode(&raw))?;
    count("motion", || anyhow::Ok(motion.moved(&frame)))?;

    let mut small = with_side(160)?;
    count("detect-160", || small.detect(&frame))?;
    let mut pipeline = with_side(320)?;
    count("detect-320", || pipeline.detect(&frame))?;

    let mut faces = pipeline.detect(&frame)?.faces;
    ensure!(!faces.is_empty(), "the example shows no face");
    faces.truncate(1);
    count("crop", || pipeline.cut(&frame, &faces))?;
    let crops = pipeline.cut(&frame, &faces)?;
    count("embed", || pipeline.embed(&crops))?;
    let features = pipeline.embed(&crops)?;
    count("head", || {
        anyhow::Ok(pipeline.head().probabilities(&features[0]))
    })
}
