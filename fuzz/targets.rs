//! The fuzz targets. Each target takes arbitrary bytes and checks how the code handles
//! them. The fuzzer calls these functions with bytes that it generates, and
//! `tests/fuzz.rs` calls them with the files in the corpora.

use maskd::camera::http::answer::{AnswerError, AnswerReader, Head, MAX_HEAD};
use maskd::camera::mjpeg::Splitter;
use maskd::learning::{fleet, samples};
use maskd::onnx::Classifier;
use maskd::{config, frame, onnx};

#[path = "decision_property.rs"]
mod decision_property;
#[allow(unused_imports, reason = "each target calls one of them")]
pub use decision_property::decision;

const MAX_FRAME_BYTES: usize = 1000;

fn frames<'a>(splitter: &mut Splitter, pushes: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for push in pushes {
        splitter.push(push);
        while let Some(frame) = splitter.next_frame() {
            assert!(frame.len() <= MAX_FRAME_BYTES);
            frames.push(frame);
        }
        assert!(splitter.held_bytes() <= MAX_FRAME_BYTES);
    }
    frames
}

/// Treats arbitrary bytes as a camera stream. The pictures must not depend on how the
/// bytes are split across `push` calls, and no picture may exceed the limit.
pub fn mjpeg(data: &[u8]) {
    let mut whole = Splitter::new(MAX_FRAME_BYTES);
    let expected = frames(&mut whole, std::iter::once(data));

    // The bytes themselves determine where the stream is split.
    let mut cut = Splitter::new(MAX_FRAME_BYTES);
    let mut rest = data;
    let pushes = std::iter::from_fn(|| {
        let length = 1 + usize::from(*rest.first()? % 16);
        let (push, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        Some(push)
    });
    assert_eq!(frames(&mut cut, pushes), expected);

    assert_eq!(cut.skipped_bytes(), whole.skipped_bytes());
    assert_eq!(cut.oversized_frames(), whole.oversized_frames());
    let given: usize = expected.iter().map(Vec::len).sum();
    assert_eq!(
        whole.skipped_bytes() as usize + given + whole.held_bytes(),
        data.len()
    );
}

/// Treats arbitrary bytes as the HTTP response of a network camera. The head and the body
/// must not depend on how the bytes are split across `push` calls, and the reader must
/// not hold more bytes than the maximum size of a head.
pub fn http(data: &[u8]) {
    let expected = answer(std::iter::once(data));
    // The bytes themselves determine where the response is split.
    let mut rest = data;
    let pushes = std::iter::from_fn(|| {
        let length = 1 + usize::from(*rest.first()? % 16);
        let (push, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        Some(push)
    });
    assert_eq!(answer(pushes), expected);
}

type Answer = (Head, Vec<u8>, bool);

fn answer<'a>(pushes: impl Iterator<Item = &'a [u8]>) -> Result<Answer, AnswerError> {
    let mut reader = AnswerReader::new();
    let mut body = Vec::new();
    let mut came = 0;
    for push in pushes {
        came += push.len();
        reader.push(push, &mut body)?;
        assert!(reader.held_bytes() <= MAX_HEAD);
        assert!(body.len() <= came);
    }
    let complete = reader.is_complete();
    reader.close(&mut body)?;
    assert!(body.len() <= came);
    let head = reader.head().cloned().unwrap_or_default();
    assert!((200..1000).contains(&head.status));
    Ok((head, body, complete))
}

/// Treats arbitrary bytes as a config. Accepted values must be within their ranges, and
/// an error must have a message.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse("fuzz", text) {
        Ok(config) => assert_eq!(config.check().len(), 0),
        Err(error) => assert_ne!(error.to_string(), ""),
    }
}

/// Treats arbitrary bytes as a model. The head of an accepted model must match its labels,
/// and its face check must have one finite weight for each feature.
pub fn model(data: &[u8]) {
    if let Ok(classifier) = Classifier::parse("fuzz", data) {
        let head = &classifier.head;
        assert!(classifier.labels.len() >= 2);
        assert_eq!(head.b2.len(), classifier.labels.len());
        assert_eq!(head.w2.len(), head.b1.len() * head.b2.len());
        assert_eq!(head.w1.len(), head.b1.len() * head.features());
        assert!((onnx::MIN_FEATURES..=onnx::MAX_FEATURES).contains(&head.features()));
        if let Some(check) = &classifier.face_check {
            assert_eq!(check.weight.len(), head.features());
            let largest: f32 = check.weight.iter().map(|weight| weight.abs()).sum();
            assert!((largest + check.bias).is_finite());
        }
    }
    // The bytes may be accepted or rejected, but must not cause a panic.
    let _ = onnx::parse_detector("fuzz", data);
}

/// Treats arbitrary bytes as a picture. A decoded picture must be within the limit.
pub fn picture(data: &[u8]) {
    if let Ok(pixels) = frame::decode(data) {
        let (width, height) = pixels.dimensions();
        assert!(u64::from(width) * u64::from(height) <= frame::MAX_PIXELS);
    }
}

/// Treats arbitrary bytes as a JPEG without its first three bytes. If the JPEG is
/// accepted, it must still be accepted and decode to the same pixels when an end marker
/// and other bytes follow. The limit keeps the memory use of each run low.
pub fn jpeg(data: &[u8]) {
    const MAX_PIXELS: u64 = 100_000;
    let bytes = [b"\xff\xd8\xff", data].concat();
    if let Ok(pixels) = frame::decode_within(&bytes, MAX_PIXELS) {
        let (width, height) = pixels.dimensions();
        assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS);
        let followed = [&bytes[..], b"\xff\xd9\0more\xff\xd8"].concat();
        let again = frame::decode_within(&followed, MAX_PIXELS);
        assert!(again.is_ok_and(|again| again == pixels));
    }
}

/// Treats arbitrary bytes as a feature file. An accepted file must have at least one row,
/// and all numbers in its rows must be finite.
pub fn features(data: &[u8]) {
    match samples::parse_features(data) {
        Ok(file) => {
            assert!((1..=samples::MAX_ROWS).contains(&file.rows.len()));
            let mut values = file
                .rows
                .iter()
                .flat_map(maskd::vision::embed::Feature::values);
            assert!(values.all(|value| value.is_finite()));
        }
        Err(error) => assert_ne!(error.to_string(), ""),
    }
}

/// Treats arbitrary bytes as an offer of a head, and also as the content that follows a
/// signature. The key that verifies the signature is also read from the bytes.
pub fn offer(data: &[u8]) {
    let key = data.get(8..40).and_then(|key| key.try_into().ok());
    let _ = fleet::open(data, &[key.unwrap_or_default()], &[1; 32]);
    let _ = fleet::content(data);
}
