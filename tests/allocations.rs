//! Tests how often the frame processing code allocates memory after a warm-up. Buffers
//! are reused from frame to frame. Data that is passed on, such as the pixels of a frame
//! or a crop, is allocated each time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

use std::hint::black_box;
use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use maskd::frame::yuv::{Layout, Range, YuvFormat};
use maskd::frame::{Rect, Scaler, decode};
use maskd::vision::motion::MotionDetector;

/// Returns the number of allocations in each call to `fast_image_resize` that scales to
/// this size. The allocations hold the weights for each column and row of the result,
/// and a few tables.
fn weights(width: u64, height: u64) -> u64 {
    width + height + 8
}

/// Counts the allocations during one run of `work`, after a few warm-up runs.
fn allocations<T>(mut work: impl FnMut() -> T) -> u64 {
    for _ in 0..3 {
        black_box(work());
    }
    let counted = allocation_counter::measure(|| {
        black_box(work());
    });
    counted.count_total
}

fn frame() -> RgbImage {
    RgbImage::from_fn(640, 480, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]))
}

#[test]
fn nothing_but_the_pixels_of_an_uncompressed_frame_is_allocated() {
    for layout in [Layout::Yuyv, Layout::Nv12, Layout::I420] {
        let format = YuvFormat::new(layout, Range::Full, 640, 480).unwrap();
        let bytes = vec![100; format.frame_bytes()];
        let count = allocations(|| format.decode(&bytes).unwrap());
        assert_eq!(count, 1, "{layout:?}");
    }
}

#[test]
fn motion_allocates_nothing() {
    let frame = frame();
    let mut motion = MotionDetector::default();
    motion.set_reference(&frame);
    assert_eq!(allocations(|| motion.moved(&frame)), 0);
    assert_eq!(allocations(|| motion.set_reference(&frame)), 0);
}

#[test]
fn scaling_allocates_weights_and_the_crop() {
    let frame = frame();
    let mut scaler = Scaler::default();
    let count = allocations(|| scaler.shrink(&frame, 320).unwrap().width());
    assert!(count <= weights(320, 240), "{count}");
    let count = allocations(|| scaler.shrink(&frame, 640).unwrap().width());
    assert_eq!(count, 0, "it is small enough");

    let rect = Rect {
        x: 100.0,
        y: 100.0,
        width: 120.0,
        height: 150.0,
    };
    let region = rect.region(0.2, 640, 480).unwrap();
    let count = allocations(|| scaler.crop(&frame, region).unwrap());
    assert!(count <= weights(224, 224) + 1, "{count}");
}

#[test]
fn a_jpeg_allocates_little_beside_its_pixels() {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 85);
    frame().write_with_encoder(encoder).unwrap();
    let bytes = bytes.into_inner();
    let count = allocations(|| decode(&bytes).unwrap());
    assert!(count <= 20, "{count}");
}
