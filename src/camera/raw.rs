//! Uncompressed pictures out of a stream of bytes.
//!
//! Each has the same length and nothing stands between them, so that whoever
//! lost the beat could not find it again: the stream must be read from its
//! start. Pure: no clock, no files, no sockets.

use std::time::Instant;

use crate::frame::Frame;
use crate::frame::yuv::YuvFormat;

/// The newest picture of a live stream; what [`Newest`](super::mjpeg::Newest) is
/// to JPEG.
#[derive(Debug)]
pub(super) struct Newest {
    format: YuvFormat,
    /// The picture that has begun: less than a whole one between two calls.
    begun: Vec<u8>,
    /// The newest whole picture, when its last byte was read, its number.
    waiting: Option<(Vec<u8>, Instant, u64)>,
    found: u64,
}

impl Newest {
    pub(super) fn new(format: YuvFormat) -> Newest {
        Newest {
            format,
            begun: Vec::new(),
            waiting: None,
            found: 0,
        }
    }

    /// Takes bytes that were read at `at`. Of all whole pictures that were
    /// pushed since the last [`Newest::decode`] the newest is kept.
    pub(super) fn push(&mut self, mut bytes: &[u8], at: Instant) {
        let whole = self.format.frame_bytes();
        loop {
            let part = bytes.len().min(whole - self.begun.len());
            self.begun.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.begun.len() < whole {
                return;
            }
            // The one that nobody fetched gives its memory to the next.
            let spare = self.waiting.take().map_or(Vec::new(), |(spare, ..)| spare);
            let picture = std::mem::replace(&mut self.begun, spare);
            self.begun.clear();
            self.waiting = Some((picture, at, self.found));
            self.found += 1;
        }
    }

    /// Converts the picture that waits; `None` if none does.
    pub(super) fn decode(&mut self) -> Option<Frame> {
        let (bytes, at, seq) = self.waiting.take()?;
        let pixels = self.format.decode(&bytes).ok()?;
        Some(Frame { pixels, at, seq })
    }

    /// What came instead of a picture since the last one, for an error message.
    pub(super) fn instead(&self) -> String {
        match self.begun.len() {
            0 => "nothing came at all".to_owned(),
            bytes => format!(
                "{bytes} of the {} bytes of a picture came",
                self.format.frame_bytes()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::now;
    use super::*;
    use crate::frame::yuv::{Layout, Range};

    fn newest() -> Newest {
        Newest::new(YuvFormat::new(Layout::I420, Range::Full, 4, 2).unwrap())
    }

    fn picture(gray: u8) -> Vec<u8> {
        [vec![gray; 8], vec![128; 4]].concat()
    }

    #[test]
    fn newest_whole_picture_is_given_once() {
        let mut newest = newest();
        assert_eq!(newest.instead(), "nothing came at all");
        newest.push(
            &[picture(1), picture(2), picture(3)[..5].to_vec()].concat(),
            now(),
        );
        let frame = newest.decode().unwrap();
        assert_eq!((frame.seq, frame.pixels.get_pixel(3, 1).0), (1, [2; 3]));
        assert!(newest.decode().is_none());
        assert_eq!(newest.instead(), "5 of the 12 bytes of a picture came");
        newest.push(&picture(3)[5..], now());
        let frame = newest.decode().unwrap();
        assert_eq!((frame.seq, frame.pixels.get_pixel(0, 0).0), (2, [3; 3]));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            grays in prop::collection::vec(any::<u8>(), 0..6),
            rest in 0usize..12,
            pieces in prop::collection::vec(1usize..40, 1..10),
        ) {
            let mut stream: Vec<u8> = grays.iter().flat_map(|gray| picture(*gray)).collect();
            stream.extend(&picture(9)[..rest]);
            let mut newest = newest();
            let mut seen = Vec::new();
            let mut left = &stream[..];
            let mut lengths = pieces.iter().cycle();
            while !left.is_empty() {
                let (piece, after) = left.split_at(left.len().min(*lengths.next().unwrap()));
                newest.push(piece, now());
                left = after;
                if let Some(frame) = newest.decode() {
                    seen.push((frame.seq, frame.pixels.get_pixel(0, 0).0[0]));
                }
                prop_assert!(newest.begun.len() < 12);
            }
            // Those that are seen are the right ones, and the last is never missed.
            for (seq, gray) in &seen {
                prop_assert_eq!(*gray, grays[*seq as usize]);
            }
            let last = seen.last().map(|(seq, _)| *seq + 1);
            prop_assert_eq!(last.unwrap_or(0), grays.len() as u64);
            prop_assert_eq!(newest.begun.len(), rest);
        }
    }
}
