//! Tests that an incomplete picture is rejected, and that a complete picture is decoded
//! even if a camera adds unusual bytes to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use image::{DynamicImage, ImageFormat, RgbImage};
use maskd::camera::{Camera, CameraEvent, CameraOptions, Spec, TlsTrust, VideoOptions};
use maskd::frame::{self, MAX_PIXELS, PictureError, decode};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

const END: [u8; 2] = [0xff, 0xd9];

fn data(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::read(folder.join(name)).unwrap()
}

/// Returns the names and contents of the complete JPEGs that can be decoded.
fn jpegs() -> Vec<(String, Vec<u8>)> {
    let names = [
        "baseline-411",
        "baseline-420",
        "baseline-422-optimized",
        "baseline-444-restarts",
        "baseline-cmyk",
        "baseline-flat",
        "baseline-gray",
        "progressive-420",
        "progressive-420-restarts",
        "progressive-444",
        "progressive-flat",
        "progressive-gray",
        "progressive-spectral",
        "separate-422",
    ];
    names
        .iter()
        .map(|name| ((*name).to_owned(), data(&format!("jpeg/{name}.jpg"))))
        .collect()
}

fn pixels(bytes: &[u8]) -> RgbImage {
    decode(bytes).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    decode(bytes).unwrap_err().to_string()
}

/// Returns the position and the code of each marker in a JPEG, ignoring the contents of
/// segments.
fn markers(jpeg: &[u8]) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 1 < jpeg.len() {
        match (jpeg[at], jpeg[at + 1]) {
            (0xff, 0 | 0xff) => at += 1,
            (0xff, code) => {
                found.push((at, code));
                at += 2;
                if !matches!(code, 0xd0..=0xd9) {
                    at += usize::from(u16::from_be_bytes([jpeg[at], jpeg[at + 1]]));
                }
            }
            _ => at += 1,
        }
    }
    found
}

/// Returns the JPEG with `bytes` inserted before the marker at `at`.
fn with(jpeg: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&jpeg[..at], bytes, &jpeg[at..]].concat()
}

/// Returns the JPEG without its segments of this kind.
fn without(jpeg: &[u8], kind: u8) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    for (at, code) in markers(jpeg).into_iter().rev() {
        if code == kind {
            let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
            bytes.drain(at..at + 2 + length);
        }
    }
    bytes
}

#[test]
fn jpeg_cut_anywhere_is_refused_or_decoded_like_the_whole() {
    for (name, jpeg) in jpegs() {
        let whole = pixels(&jpeg);
        let scan = markers(&jpeg).into_iter().find(|(_, code)| *code == 0xda);
        let data = scan.unwrap().0 + 2;
        let mut refused = 0;
        for length in 0..jpeg.len() {
            let cut = &jpeg[..length];
            // The truncated JPEG is tested unchanged, with an end marker, with two end
            // markers, and followed by another picture. The last case is left out if
            // the start of the other picture could complete the truncated header.
            let ends = [&[][..], &END, &[0xff, 0xff, 0xd9, 0xff, 0xd9], &jpeg[..]];
            let ends = &ends[..if length < data { 3 } else { 4 }];
            for end in ends {
                match decode(&[cut, end].concat()) {
                    Ok(found) => assert!(
                        found == whole,
                        "{name}, cut at {length} of {}, followed by {} bytes",
                        jpeg.len(),
                        end.len()
                    ),
                    Err(error) => {
                        assert!(!error.to_string().contains('\n'));
                        refused += 1;
                    }
                }
            }
        }
        // Almost all truncated pictures are rejected. The few exceptions lack only padding
        // or the end marker.
        assert!(refused + 16 + data > 4 * jpeg.len(), "{name}: {refused}");
    }
}

#[test]
fn jpeg_without_some_of_its_scans_is_refused() {
    for name in ["progressive-420", "progressive-spectral", "separate-422"] {
        let jpeg = data(&format!("jpeg/{name}.jpg"));
        let scans: Vec<usize> = markers(&jpeg)
            .into_iter()
            .filter_map(|(at, code)| (code == 0xda).then_some(at))
            .collect();
        assert!(scans.len() > 2);
        for scan in &scans[1..] {
            let cut = [&jpeg[..*scan], &END].concat();
            assert_eq!(
                refusal(&cut),
                "it is damaged, since some of its data is missing or invalid",
                "{name}"
            );
            assert_eq!(refusal(&jpeg[..*scan]), "it is cut off before its end");
        }
    }
}

#[test]
fn restart_intervals_that_are_missing_or_out_of_order_are_refused() {
    for name in ["baseline-444-restarts", "progressive-420-restarts"] {
        let jpeg = data(&format!("jpeg/{name}.jpg"));
        let all = markers(&jpeg);
        let is_restart = |code: u8| (0xd0..=0xd7).contains(&code);
        let pairs: Vec<(usize, usize, usize)> = all
            .windows(3)
            .filter(|three| is_restart(three[0].1) && is_restart(three[1].1))
            .map(|three| (three[0].0, three[1].0, three[2].0))
            .collect();
        assert!(!pairs.is_empty());
        for (first, second, third) in pairs {
            let mut missing = jpeg.clone();
            missing.drain(first..second);
            assert!(decode(&missing).is_err(), "{name} without {first}");
            let swapped = [
                &jpeg[..first],
                &jpeg[second..third],
                &jpeg[first..second],
                &jpeg[third..],
            ]
            .concat();
            assert!(decode(&swapped).is_err(), "{name} swapped at {first}");
        }
    }
}

#[test]
fn what_cameras_add_is_accepted() {
    let additions: [&[u8]; 8] = [
        b"",
        b"\0\0\0",
        b"\xff",
        b"\xff\xff\xff",
        b"\xff\x00",
        b"text",
        &[0x55; 300],
        &[0; 1000],
    ];
    for (name, jpeg) in jpegs() {
        let whole = pixels(&jpeg);
        let start = 2;
        let markers = markers(&jpeg);
        for bytes in additions {
            // The bytes are inserted before each marker except the first marker.
            for (at, code) in markers.iter().filter(|(at, _)| *at > start) {
                let changed = with(&jpeg, *at, bytes);
                let found = decode(&changed).map_err(|error| error.to_string());
                assert!(
                    found.as_ref() == Ok(&whole),
                    "{name}: {bytes:?} before {code:02x} at {at}: {:?}",
                    found.map(|_| ())
                );
            }
            // The bytes are added after the end.
            assert_eq!(pixels(&[&jpeg[..], bytes].concat()), whole, "{name}");
            // The bytes replace the end marker.
            let unmarked = [&jpeg[..jpeg.len() - 2], bytes].concat();
            assert_eq!(pixels(&unmarked), whole, "{name}");
        }
        for (at, code) in markers {
            // Markers without content may be sent twice, including those at the start and
            // the end.
            if matches!(code, 0xd0..=0xd9) {
                let doubled = with(&jpeg, at, &[0xff, code]);
                assert_eq!(pixels(&doubled), whole, "{name}: {code:02x} twice");
            }
        }
        assert_eq!(pixels(&[&jpeg[..], &END, &END].concat()), whole);
        // A restart marker is inserted after the last interval.
        let last = jpeg.len() - 2;
        assert_eq!(pixels(&with(&jpeg, last, b"\xff\xd3")), whole);
    }
}

#[test]
fn segments_that_the_decoder_does_not_know_are_left_out() {
    let unknown: [&[u8]; 5] = [
        // These are a reserved segment, a repeated height, an extension, a comment, and an
        // application segment.
        b"\xff\x17\0\x05abc",
        b"\xff\xdc\0\x04\0\x2d",
        b"\xff\xf3\0\x02",
        b"\xff\xfe\0\x06text",
        b"\xff\xe7\0\x06text",
    ];
    for (name, jpeg) in jpegs() {
        for (at, code) in markers(&jpeg) {
            if at == 0 || (0xd0..=0xd7).contains(&code) {
                continue;
            }
            for segment in unknown {
                let changed = with(&jpeg, at, segment);
                assert_eq!(pixels(&changed), pixels(&jpeg), "{name} at {at}");
            }
        }
    }
}

#[test]
fn thumbnail_in_the_header_is_no_part_of_the_data() {
    let small = data("jpeg/baseline-gray.jpg");
    for (name, jpeg) in jpegs() {
        let mut exif = b"Exif\0\0MM\0*".to_vec();
        exif.extend_from_slice(&small);
        let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
        let segment = [&[0xff, 0xe1], &length[..], &exif].concat();
        let changed = with(&jpeg, 2, &segment);
        assert_eq!(pixels(&changed), pixels(&jpeg), "{name}");
        // Only the thumbnail in this picture is complete.
        let cut = [&changed[..changed.len() - 60], &END].concat();
        assert!(decode(&cut).is_err(), "{name}");
    }
}

#[test]
fn standard_tables_are_added_where_they_are_missing() {
    for name in ["baseline-420", "baseline-gray", "baseline-411"] {
        let jpeg = data(&format!("jpeg/{name}.jpg"));
        let bare = without(&jpeg, 0xc4);
        assert!(bare.len() + 150 < jpeg.len());
        assert_eq!(pixels(&bare), pixels(&jpeg), "{name}");
        let avi = with(&bare, 2, b"\xff\xe0\0\x10AVI1\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(pixels(&avi), pixels(&jpeg), "{name}");
        assert!(decode(&avi[..avi.len() - 8]).is_err());
        // In this picture, only some of the tables are missing.
        let (at, _) = *markers(&jpeg)
            .iter()
            .find(|(_, code)| *code == 0xc4)
            .unwrap();
        let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        let mut partial = jpeg.clone();
        partial.drain(at..at + 2 + length);
        assert_eq!(pixels(&partial), pixels(&jpeg), "{name}");
    }
    // If a picture has its own tables, they are used. This picture's tables differ from
    // the standard tables.
    let optimized = data("jpeg/baseline-422-optimized.jpg");
    let bare = without(&optimized, 0xc4);
    assert!(decode(&bare).map_or(true, |found| found != pixels(&optimized)));
}

#[test]
fn shipped_examples_of_damage_are_refused() {
    let missing = "it is damaged, since some of its data is missing or invalid";
    assert_eq!(refusal(&data("jpeg/cut-short.jpg")), missing);
    assert_eq!(refusal(&data("jpeg/bytes-missing.jpg")), missing);
    assert!(decode(&data("jpeg/no-huffman-tables.jpg")).is_ok());
}

#[test]
fn codings_that_are_not_supported_are_named() {
    assert_eq!(
        refusal(&data("jpeg/arithmetic.jpg")),
        "it is a JPEG with arithmetic coding, which is not supported"
    );
    // The decoder would produce wrong colors for these pictures without reporting an
    // error.
    for name in ["separate-420", "separate-444-restarts"] {
        assert_eq!(
            refusal(&data(&format!("jpeg/{name}.jpg"))),
            "it is a JPEG with a scan for each color, which is not supported"
        );
    }
    let jpeg = data("jpeg/baseline-420.jpg");
    let (frame, _) = *markers(&jpeg)
        .iter()
        .find(|(_, code)| *code == 0xc0)
        .unwrap();
    for (changes, coding) in [
        (&[(1, 0xc3)][..], "lossless coding"),
        (&[(1, 0xc6)], "hierarchical coding"),
        (&[(4, 12)], "12 bits per sample"),
        (&[(5, 0), (6, 0)], "its height after its data"),
    ] {
        let mut changed = jpeg.clone();
        for (offset, byte) in changes {
            changed[frame + offset] = *byte;
        }
        assert_eq!(
            refusal(&changed),
            format!("it is a JPEG with {coding}, which is not supported")
        );
    }
}

/// Returns a picture with this size in its header.
fn claiming(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = data(&format!("jpeg/{name}.jpg"));
    let all = markers(&jpeg);
    let (frame, _) = *all
        .iter()
        .find(|(_, code)| matches!(code, 0xc0..=0xc2))
        .unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

#[test]
fn pixels_are_counted_before_anything_is_decoded() {
    let baseline = claiming("baseline-420", 4000, 3000);
    let refused = |bytes: &[u8], limit| frame::decode_within(bytes, limit).unwrap_err();
    // Within the limit, decoding fails only because data is missing.
    assert!(matches!(
        refused(&baseline, 12_000_000),
        PictureError::Damaged
    ));
    assert_eq!(
        refused(&baseline, 11_000_000).to_string(),
        "it has 4000 x 3000 pixels, more than 11 million"
    );
    for name in ["progressive-420", "separate-422"] {
        let several = claiming(name, 4000, 3000);
        assert!(matches!(
            refused(&several, 36_000_000),
            PictureError::Damaged
        ));
        assert_eq!(
            refused(&several, 35_000_000).to_string(),
            "it has 4000 x 3000 pixels, which count three times in a JPEG with several \
             scans, more than 35 million"
        );
    }
    let huge = claiming("progressive-420", 8000, 8000);
    assert!(matches!(
        decode(&huge).unwrap_err(),
        PictureError::TooLarge {
            max_pixels: MAX_PIXELS,
            ..
        }
    ));
    let png = encoded(&RgbImage::new(100, 101), ImageFormat::Png);
    assert!(frame::decode_within(&png, 10_100).is_ok());
    assert!(matches!(
        refused(&png, 10_099),
        PictureError::TooLarge { weight: 1, .. }
    ));
}

fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(picture.clone())
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

#[test]
fn other_formats_cut_anywhere_are_refused_or_decoded_like_the_whole() {
    let picture = pixels(&data("jpeg/baseline-420.jpg"));
    let mut whole = vec![
        ("lossy.webp".to_owned(), data("lossy.webp")),
        ("colors.gif".to_owned(), data("colors.gif")),
    ];
    for format in [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Tiff,
    ] {
        whole.push((format!("{format:?}"), encoded(&picture, format)));
    }
    for (name, bytes) in whole {
        let expected = pixels(&bytes);
        let mut wrong = Vec::new();
        for length in 0..bytes.len() {
            if decode(&bytes[..length]).is_ok_and(|found| found != expected) {
                wrong.push(length);
            }
        }
        assert_eq!(wrong, [0; 0], "{name} of {} bytes", bytes.len());
    }
}

// Streams

fn options() -> CameraOptions {
    CameraOptions {
        rate: 1000.0,
        repeat: false,
        stall: Duration::from_secs(20),
        max_frame_bytes: 1 << 20,
        max_frame_pixels: 1_000_000,
        video: VideoOptions::default(),
        tls: TlsTrust::default(),
    }
}

/// Returns the pixels of the first frame from a program with this output, or `None`.
fn first_of_program(bytes: &[u8]) -> Option<RgbImage> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    std::fs::write(&path, bytes).unwrap();
    let spec: Spec = format!("exec:cat {}", path.display()).parse().unwrap();
    first(spec)
}

/// Returns the pixels of the first frame from a network camera that responds with these
/// bytes and then closes the connection, or `None`.
fn first_of_http(bytes: &[u8]) -> Option<RgbImage> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n";
    let answer = [head.as_bytes(), bytes].concat();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = client.read(&mut request);
        let _ = client.write_all(&answer);
    });
    let spec: Spec = format!("http://127.0.0.1:{port}/stream").parse().unwrap();
    let pixels = first(spec);
    server.join().unwrap();
    pixels
}

fn first(spec: Spec) -> Option<RgbImage> {
    let mut camera = Camera::open(spec, options(), CancellationToken::new()).unwrap();
    match camera.next() {
        CameraEvent::Frame(frame) => Some(frame.pixels),
        _ => None,
    }
}

#[test]
fn streams_give_whole_frames_only() {
    let whole = data("jpeg/baseline-420.jpg");
    let expected = pixels(&whole);
    let cut = [&whole[..whole.len() - 60], &END].concat();
    let part = |frame: &[u8]| {
        let head = format!("--frame\r\nContent-Length: {}\r\n\r\n", frame.len());
        [head.as_bytes(), frame, b"\r\n"].concat()
    };
    let unmarked = &whole[..whole.len() - 2];
    let bare = without(&whole, 0xc4);
    let large = claiming("baseline-420", 4000, 3000);
    for (name, frames, comes) in [
        ("cut, with an end marker", &[&cut[..]][..], false),
        (
            "cut, without an end marker",
            &[&cut[..cut.len() - 2]],
            false,
        ),
        (
            "cut twice, then whole",
            &[&cut, &cut[..cut.len() - 2], &whole],
            true,
        ),
        ("without end markers", &[unmarked, unmarked], true),
        ("one without an end marker", &[unmarked], true),
        ("without Huffman tables", &[&bare], true),
        ("too large", &[&large], false),
    ] {
        let stream: Vec<u8> = frames.iter().flat_map(|frame| part(frame)).collect();
        for (source, found) in [
            ("program", first_of_program(&stream)),
            ("HTTP", first_of_http(&stream)),
        ] {
            let wanted = comes.then_some(&expected);
            assert!(found.as_ref() == wanted, "{name}, by {source}");
        }
    }
}

proptest! {
    /// Changed or missing bytes never cause a panic. If a picture is rejected, the error
    /// message is a single line.
    #[test]
    fn changed_bytes_never_panic_and_give_one_sentence(
        index in 0..14usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        lost in prop::option::of((any::<prop::sample::Index>(), 1..40usize)),
    ) {
        let (_, mut jpeg) = jpegs().swap_remove(index);
        for (at, byte) in changes {
            let at = at.index(jpeg.len());
            jpeg[at] = byte;
        }
        if let Some((at, length)) = lost {
            let at = at.index(jpeg.len());
            jpeg.drain(at..jpeg.len().min(at + length));
        }
        if let Err(error) = frame::decode_within(&jpeg, 1_000_000) {
            let text = error.to_string();
            prop_assert!(!text.is_empty() && !text.contains('\n'));
        }
    }
}
