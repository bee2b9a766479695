//! Compares augmentation with Keras's own code.
//! `tests/golden/make_augment_golden.py` generates the reference values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::PathBuf;

use image::RgbImage;
use maskd::frame::decode;
use maskd::training::augment::{Fill, GeometryDraw, warp};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    matrices: Vec<GoldenMatrix>,
    pictures: Vec<GoldenPicture>,
}

#[derive(Deserialize)]
struct GoldenMatrix {
    draw: Draw,
    matrix: [[f64; 3]; 3],
}

#[derive(Deserialize)]
struct GoldenPicture {
    picture: String,
    crop: String,
    fill: String,
    stride: u32,
    draw: Draw,
}

/// The randomly drawn parameters, under the names that Keras uses.
#[derive(Deserialize)]
struct Draw {
    theta: f64,
    tx: f64,
    ty: f64,
    shear: f64,
    zx: f64,
    zy: f64,
    flip: bool,
    channel_shift: f32,
}

impl Draw {
    fn ours(&self) -> GeometryDraw {
        GeometryDraw {
            theta: self.theta,
            shift_x: self.tx,
            shift_y: self.ty,
            shear: self.shear,
            zoom_x: self.zx,
            zoom_y: self.zy,
            flip: self.flip,
            channel_shift: self.channel_shift,
        }
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn golden() -> Golden {
    serde_json::from_slice(&fs::read(path("augment.json")).unwrap()).unwrap()
}

fn picture(name: &str) -> RgbImage {
    decode(&fs::read(path(name)).unwrap()).unwrap()
}

/// Returns the mean and the maximum difference over the pixels of `golden`, on a
/// scale from 0 to 255.
fn difference(view: &RgbImage, golden: &RgbImage, stride: u32) -> (f64, u8) {
    let mut sum = 0.0;
    let mut largest = 0;
    for (x, y, pixel) in golden.enumerate_pixels() {
        let found = view.get_pixel(x * stride, y * stride);
        for (a, b) in found.0.iter().zip(pixel.0) {
            sum += f64::from(a.abs_diff(b));
            largest = largest.max(a.abs_diff(b));
        }
    }
    (sum / golden.as_raw().len() as f64, largest)
}

#[test]
fn matrices_are_those_of_keras() {
    for GoldenMatrix { draw, matrix } in golden().matrices {
        let ours = draw.ours();
        for (found, expected) in ours.matrix().iter().flatten().zip(matrix.iter().flatten()) {
            assert!(
                (found - expected).abs() < 1e-9,
                "{ours:?}: {:?} for {matrix:?}",
                ours.matrix()
            );
        }
    }
}

#[test]
fn views_are_those_of_keras() {
    for golden in golden().pictures {
        let fill = match golden.fill.as_str() {
            "nearest" => Fill::Nearest,
            "constant" => Fill::Constant,
            "reflect" => Fill::Reflect,
            "wrap" => Fill::Wrap,
            other => panic!("no fill {other}"),
        };
        let expected = picture(&format!("augment/{}", golden.picture));
        let crop = picture(&format!("crops/{}", golden.crop));
        let view = warp(&crop, &golden.draw.ours(), fill);
        assert_eq!(expected.width(), view.width() / golden.stride);
        let (mean, largest) = difference(&view, &expected, golden.stride);
        println!("{}: mean {mean:.4}, largest {largest}", golden.picture);
        assert!(mean < 0.02, "{}: {mean} levels", golden.picture);
        assert!(largest <= 1, "{}: {largest} levels", golden.picture);

        // Typical mistakes, such as an offset of half a pixel or a rotation in the
        // wrong direction, give larger differences.
        let mut off = golden.draw.ours();
        off.shift_x += 0.5;
        let (mean, _) = difference(&warp(&crop, &off, fill), &expected, golden.stride);
        assert!(mean > 0.5, "{}: half a pixel is {mean}", golden.picture);
    }
}
