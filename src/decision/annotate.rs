//! Draws boxes and labels on pictures.
//!
//! This module owns the colors, the sizes, and the font. It does no I/O.

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, ScaleFont};
use image::{Rgb, RgbImage};

use crate::decision::decide::Verdict;
use crate::decision::frame_result::FaceResult;

/// The Latin letters of DejaVu Sans Bold. The license file is in the same folder as the font.
const FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans-Bold.ttf");

const GREEN: Rgb<u8> = Rgb([0, 140, 60]);
const RED: Rgb<u8> = Rgb([205, 30, 30]);
const AMBER: Rgb<u8> = Rgb([190, 120, 0]);
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);
const BLACK: Rgb<u8> = Rgb([0, 0, 0]);

/// Draws the box of each face in the color of its verdict. Draws the verdict and its probability
/// above the box, or elsewhere if there is no room above the box.
///
/// # Errors
/// [`InvalidFont`] if the font is invalid, which never happens with the built-in font.
pub fn draw(
    pixels: &mut RgbImage,
    faces: &[FaceResult],
    labels: &[String],
) -> Result<(), InvalidFont> {
    let font = FontRef::try_from_slice(FONT)?;
    let longest = pixels.width().max(pixels.height()) as f32;
    let line = (longest / 250.0).round().max(1.0) as i64;
    let scale = PxScale::from((longest / 28.0).clamp(12.0, 64.0));
    // All boxes are drawn first, so that no box is drawn over a label.
    for face in faces {
        outline(pixels, face, line);
    }
    let mut taken = Vec::new();
    for face in faces {
        let drawn = label(pixels, &font, scale, face, labels, &taken);
        taken.push(drawn);
    }
    Ok(())
}

fn color(verdict: Verdict) -> Rgb<u8> {
    match verdict {
        Verdict::Masked(_) => GREEN,
        Verdict::Unmasked(_) => RED,
        Verdict::Unsure(_) => AMBER,
    }
}

fn outline(pixels: &mut RgbImage, face: &FaceResult, line: i64) {
    let color = color(face.verdict);
    let rect = face.face.rect;
    let (left, top) = (rect.x as i64, rect.y as i64);
    let (right, bottom) = ((rect.x + rect.width) as i64, (rect.y + rect.height) as i64);
    fill(pixels, (left, top), (right, top + line), color);
    fill(pixels, (left, bottom - line), (right, bottom), color);
    fill(pixels, (left, top), (left + line, bottom), color);
    fill(pixels, (right - line, top), (right, bottom), color);
}

/// The left, top, right, and bottom edges of a label. Right and bottom are exclusive.
type LabelBox = [i64; 4];

/// Draws the label of a face and returns the label's box. If possible, the box overlaps no box in
/// `taken`.
fn label(
    pixels: &mut RgbImage,
    font: &FontRef,
    scale: PxScale,
    face: &FaceResult,
    labels: &[String],
    taken: &[LabelBox],
) -> LabelBox {
    let text = caption(face, labels);
    let scaled = font.as_scaled(scale);
    let text_width: f32 = text
        .chars()
        .map(|letter| scaled.h_advance(scaled.glyph_id(letter)))
        .sum();
    let pad = (scale.y / 6.0).ceil() as i64;
    let width = text_width.ceil() as i64 + 2 * pad;
    let height = scaled.height().ceil() as i64 + pad;

    let rect = face.face.rect;
    let room = i64::from(pixels.width()) - width;
    let left = (rect.x as i64).min(room).max(0);
    let top = rect.y as i64;
    let bottom = (rect.y + rect.height) as i64;
    let tops = [top - height, bottom, top, bottom - height, top - 2 * height];
    let candidates = tops.map(|top| [left, top, left + width, top + height]);
    let is_free = |candidate: &&LabelBox| {
        let within = candidate[1] >= 0 && candidate[3] <= i64::from(pixels.height());
        within && !taken.iter().any(|other| overlap(candidate, other))
    };
    let fallback = [left, top.max(0), left + width, top.max(0) + height];
    let label_box = *candidates.iter().find(is_free).unwrap_or(&fallback);
    let [left, top, right, bottom] = label_box;
    fill(pixels, (left, top), (right, bottom), color(face.verdict));

    let baseline = top as f32 + pad as f32 / 2.0 + scaled.ascent();
    let start = ((left + pad) as f32, baseline);
    letters(pixels, font, scale, start, &text, WHITE);
    label_box
}

/// Writes a line of black text. `at` is the top left corner of the text, and `height` is its height
/// in pixels. The part of the text that is outside the picture is not drawn.
///
/// # Errors
/// [`InvalidFont`] if the font is invalid, which never happens with the built-in font.
pub(crate) fn write_line(
    pixels: &mut RgbImage,
    at: (i64, i64),
    height: f32,
    text: &str,
) -> Result<(), InvalidFont> {
    let font = FontRef::try_from_slice(FONT)?;
    let scale = PxScale::from(height);
    let baseline = at.1 as f32 + font.as_scaled(scale).ascent();
    letters(pixels, &font, scale, (at.0 as f32, baseline), text, BLACK);
    Ok(())
}

/// Draws `text`. `start` is the left end of its baseline.
fn letters(
    pixels: &mut RgbImage,
    font: &FontRef,
    scale: PxScale,
    start: (f32, f32),
    text: &str,
    color: Rgb<u8>,
) {
    let scaled = font.as_scaled(scale);
    let (mut x, baseline) = start;
    for letter in text.chars() {
        let mut glyph = scaled.scaled_glyph(letter);
        glyph.position = ab_glyph::point(x, baseline);
        x += scaled.h_advance(glyph.id);
        if let Some(shape) = font.outline_glyph(glyph) {
            let origin = shape.px_bounds().min;
            shape.draw(|dx, dy, coverage| {
                let at = (
                    origin.x as i64 + i64::from(dx),
                    origin.y as i64 + i64::from(dy),
                );
                blend(pixels, at, color, coverage);
            });
        }
    }
}

fn overlap(a: &LabelBox, b: &LabelBox) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// Returns the text of a label, for example `with mask 97%`.
fn caption(face: &FaceResult, labels: &[String]) -> String {
    let name = face.verdict.name(labels).replace('_', " ");
    let probability = match (face.verdict, &face.probabilities) {
        (Verdict::Masked(label) | Verdict::Unmasked(label), Some(all)) => all.get(label),
        _ => None,
    };
    match probability {
        Some(p) => format!("{name} {:.0}%", p * 100.0),
        None => name,
    }
}

/// Fills the rectangle between `from` (inclusive) and `to` (exclusive), clipped to the
/// picture.
fn fill(pixels: &mut RgbImage, from: (i64, i64), to: (i64, i64), color: Rgb<u8>) {
    let (width, height) = (i64::from(pixels.width()), i64::from(pixels.height()));
    for y in from.1.clamp(0, height)..to.1.clamp(0, height) {
        for x in from.0.clamp(0, width)..to.0.clamp(0, width) {
            pixels.put_pixel(x as u32, y as u32, color);
        }
    }
}

fn blend(pixels: &mut RgbImage, at: (i64, i64), color: Rgb<u8>, share: f32) {
    let (Ok(x), Ok(y)) = (u32::try_from(at.0), u32::try_from(at.1)) else {
        return;
    };
    if let Some(pixel) = pixels.get_pixel_mut_checked(x, y) {
        for (old, new) in pixel.0.iter_mut().zip(color.0) {
            *old = (f32::from(*old) * (1.0 - share) + f32::from(new) * share) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::decide::UnsureReason;
    use crate::frame::{Face, Rect};

    fn result(rect: Rect, verdict: Verdict) -> FaceResult {
        let face = Face {
            rect,
            score: 0.9,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        };
        FaceResult {
            face,
            track: None,
            probabilities: Some(vec![0.97, 0.03]),
            verdict,
            verdict_alone: Some(verdict),
        }
    }

    fn labels() -> Vec<String> {
        vec!["with_mask".into(), "without_mask".into()]
    }

    #[test]
    fn captions_have_the_verdict_and_its_probability() {
        let rect = Rect {
            x: 0.0,
            y: 0.0,
            width: 10.0,
            height: 10.0,
        };
        let caption = |verdict| caption(&result(rect, verdict), &labels());
        assert_eq!(caption(Verdict::Masked(0)), "with mask 97%");
        assert_eq!(caption(Verdict::Unmasked(1)), "without mask 3%");
        assert_eq!(caption(Verdict::Unsure(UnsureReason::TooSmall)), "unsure");
    }

    #[test]
    fn the_box_has_the_color_of_the_verdict() {
        let mut pixels = RgbImage::new(200, 200);
        let rect = Rect {
            x: 50.0,
            y: 100.0,
            width: 60.0,
            height: 70.0,
        };
        draw(
            &mut pixels,
            &[result(rect, Verdict::Unmasked(1))],
            &labels(),
        )
        .unwrap();
        assert_eq!(*pixels.get_pixel(50, 150), RED);
        assert_eq!(
            *pixels.get_pixel(80, 150),
            Rgb([0, 0, 0]),
            "the face itself is not drawn over"
        );
        let white = pixels.pixels().filter(|pixel| **pixel == WHITE).count();
        assert!(white > 50, "the caption is drawn");
    }

    proptest! {
        #[test]
        fn any_box_can_be_drawn(x in -500.0_f32..500.0, y in -500.0_f32..500.0, width in 0.0_f32..900.0, height in 0.0_f32..900.0, side in 1_u32..60) {
            let mut pixels = RgbImage::new(side, side);
            let rect = Rect { x, y, width, height };
            draw(&mut pixels, &[result(rect, Verdict::Masked(0))], &labels()).unwrap();
            prop_assert_eq!(pixels.dimensions(), (side, side));
            // Only green and mixtures of white and green are drawn on the black picture.
            let drawn = pixels.pixels().filter(|pixel| pixel.0 != [0; 3]);
            for Rgb([red, green, blue]) in drawn {
                prop_assert!(green >= red && green >= blue, "{red} {green} {blue}");
            }
        }
    }
}
