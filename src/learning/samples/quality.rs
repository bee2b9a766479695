//! The quality of a face picture, as it is stored in the comment of its JPEG file.
//!
//! Only the capture knows the place of the face in its frame. In the file itself, this
//! information cannot get lost or be mixed up: it is written together with the picture, and
//! it stays with the picture when a person moves, exports, or imports it. Pictures without
//! the comment are measured again.
//!
//! The comment (the segment COM) is a line of text. Values that are not known are absent.
//!
//! ```text
//! maskd-quality-1 sharpness=0.0712 light=0.4410 side=87.5 outside=0.0000 face=0.9981
//! ```

use std::ops::RangeInclusive;

use crate::frame::quality::{Appearance, Placement, Quality};

const NAME: &str = "maskd-quality-1";
/// The marker at the beginning of a JPEG file.
const START: [u8; 2] = [0xFF, 0xD8];
/// The marker of a comment.
const COMMENT: [u8; 2] = [0xFF, 0xFE];
/// The marker of the segment that begins a JFIF file.
const JFIF: [u8; 2] = [0xFF, 0xE0];
/// Number of bytes at the beginning of a file that contain the comment, if there is one.
pub(super) const HEAD_BYTES: usize = 512;

/// Adds the comment to a JPEG file. The segment that begins a JFIF file stays first, as
/// JFIF requires.
pub(super) fn add(jpeg: &[u8], quality: &Quality) -> Vec<u8> {
    let comment = format(quality).into_bytes();
    let Ok(length) = u16::try_from(comment.len() + 2) else {
        return jpeg.to_vec();
    };
    let at = match segments(jpeg).next() {
        Some((JFIF, content)) => START.len() + JFIF.len() + 2 + content.len(),
        Some(_) => START.len(),
        None => return jpeg.to_vec(),
    };
    let (before, after) = jpeg.split_at(at);
    [before, &COMMENT, &length.to_be_bytes(), &comment, after].concat()
}

/// Returns the quality from the comment at the beginning of a JPEG file, or `None` if there
/// is no valid comment. Any other program may have written the file, so every value is
/// checked.
pub(super) fn find(jpeg: &[u8]) -> Option<Quality> {
    let mut comments = segments(jpeg).filter(|(marker, _)| *marker == COMMENT);
    comments.find_map(|(_, content)| parse(std::str::from_utf8(content).ok()?))
}

/// Returns the markers and the contents of the complete segments at the beginning of a
/// JPEG file, up to the first one that has no length.
fn segments(jpeg: &[u8]) -> impl Iterator<Item = ([u8; 2], &[u8])> {
    let mut rest = jpeg.strip_prefix(&START);
    std::iter::from_fn(move || {
        let (marker, after) = rest?.split_first_chunk::<2>()?;
        // These markers have no length, and the start of the scan ends the header.
        let has_length = marker[0] == 0xFF && !matches!(marker[1], 0x00..=0x01 | 0xD0..=0xDA);
        let (length, after) = after.split_first_chunk::<2>().filter(|_| has_length)?;
        let length = usize::from(u16::from_be_bytes(*length)).checked_sub(2)?;
        let (content, after) = after.split_at_checked(length)?;
        rest = Some(after);
        Some((*marker, content))
    })
}

fn format(quality: &Quality) -> String {
    let Appearance { sharpness, light } = quality.appearance;
    let mut text = format!("{NAME} sharpness={sharpness:.4} light={light:.4}");
    if let Some(Placement { side, outside }) = quality.placement {
        text += &format!(" side={side:.1} outside={outside:.4}");
    }
    if let Some(face) = quality.face {
        text += &format!(" face={face:.4}");
    }
    text
}

fn parse(text: &str) -> Option<Quality> {
    let mut words = text.split(' ');
    if words.next() != Some(NAME) {
        return None;
    }
    let words: Vec<(&str, &str)> = words
        .map(|word| word.split_once('='))
        .collect::<Option<_>>()?;
    let value = |name: &str, range: RangeInclusive<f32>| -> Option<f32> {
        let (_, value) = words.iter().find(|(word, _)| *word == name)?;
        value.parse().ok().filter(|value| range.contains(value))
    };
    let placement = value("side", 0.0..=1e6).zip(value("outside", 0.0..=1.0));
    Some(Quality {
        appearance: Appearance {
            sharpness: value("sharpness", 0.0..=1.0)?,
            light: value("light", 0.0..=1.0)?,
        },
        placement: placement.map(|(side, outside)| Placement { side, outside }),
        face: value("face", 0.0..=1.0),
    })
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use proptest::prelude::*;

    use super::super::store::jpeg;
    use super::*;
    use crate::frame::{CROP_SIDE, Crop, decode};

    fn quality(side: f32, share: f32, is_complete: bool) -> Quality {
        Quality {
            appearance: Appearance {
                sharpness: share,
                light: 1.0 - share,
            },
            placement: is_complete.then_some(Placement {
                side,
                outside: share,
            }),
            face: is_complete.then_some(share),
        }
    }

    #[test]
    fn a_comment_changes_no_pixel_and_comes_back() {
        let pixels = RgbImage::from_fn(CROP_SIDE, CROP_SIDE, |x, y| {
            image::Rgb([x as u8, y as u8, (x * y) as u8])
        });
        let plain = jpeg(&Crop::from_image(pixels).unwrap()).unwrap();
        assert_eq!(find(&plain), None);
        let quality = quality(87.5, 0.25, true);
        let with_comment = add(&plain, &quality);
        assert_eq!(find(&with_comment), Some(quality));
        assert_eq!(find(&with_comment[..HEAD_BYTES]), Some(quality));
        assert_eq!(decode(&with_comment).unwrap(), decode(&plain).unwrap());
        // JFIF requires that its segment is first.
        assert_eq!(with_comment[..20], plain[..20]);
    }

    #[test]
    fn comments_of_other_programs_are_ignored() {
        for text in [
            "",
            "Lavc60.31.102",
            "maskd-quality-1",
            "maskd-quality-2 sharpness=0.1 light=0.1",
            "maskd-quality-1 sharpness=0.1",
            "maskd-quality-1 sharpness=0.1 light=1.1",
            "maskd-quality-1 sharpness=NaN light=0.1",
            "maskd-quality-1 sharpness=0.1 light=0.1 x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        let parsed = parse("maskd-quality-1 sharpness=0.1 light=0.2 side=-1 outside=0 face=2");
        let parsed = parsed.unwrap();
        assert_eq!((parsed.placement, parsed.face), (None, None));
    }

    proptest! {
        #[test]
        fn any_values_come_back(side in 0.0_f32..4000.0, share in 0.0_f32..=1.0, is_complete: bool) {
            let quality = quality(side, share, is_complete);
            let parsed = parse(&format(&quality)).unwrap();
            let near = |a: f32, b: f32, tolerance: f32| (a - b).abs() <= tolerance;
            prop_assert!(near(parsed.appearance.light, 1.0 - share, 1e-4));
            prop_assert!(near(parsed.appearance.sharpness, share, 1e-4));
            prop_assert_eq!(parsed.placement.is_some(), is_complete);
            prop_assert_eq!(parsed.face.is_some(), is_complete);
            prop_assert!(parsed.placement.is_none_or(|place| near(place.side, side, 0.1)));
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            find(&bytes);
            find(&[&START[..], &bytes].concat());
            find(&[&START[..], &COMMENT, &bytes].concat());
            add(&bytes, &quality(1.0, 0.5, true));
        }
    }
}
