//! Extracts uncompressed pictures from a stream of bytes.
//!
//! All pictures have the same length, and no marker separates them, so the stream must be
//! read from its start. A reader that loses its position in the stream cannot find the
//! start of the next picture. This module uses no clock, files, or sockets.

use std::time::Instant;

use crate::frame::yuv::YuvFormat;
use crate::frame::{ConnectionId, Frame};

/// The latest picture of a live stream. [`LatestJpeg`](super::mjpeg::LatestJpeg) is its
/// counterpart for JPEG.
#[derive(Debug)]
pub(super) struct LatestRaw {
    format: YuvFormat,
    /// The incomplete picture at the end of the stream.
    partial: Vec<u8>,
    /// The latest complete picture: its bytes, the time at which its last byte was read,
    /// and its number.
    waiting: Option<(Vec<u8>, Instant, u64)>,
    /// Number of complete pictures so far.
    count: u64,
}

impl LatestRaw {
    pub(super) fn new(format: YuvFormat) -> LatestRaw {
        LatestRaw {
            format,
            partial: Vec::new(),
            waiting: None,
            count: 0,
        }
    }

    /// Adds bytes that were read at time `at`. Only the latest complete picture since the
    /// last call to [`LatestRaw::decode`] is kept.
    pub(super) fn push(&mut self, mut bytes: &[u8], at: Instant) {
        let length = self.format.frame_bytes();
        loop {
            let part = bytes.len().min(length - self.partial.len());
            self.partial.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.partial.len() < length {
                return;
            }
            // If the previous picture was not taken, its memory is reused.
            let unused = self.waiting.take().map_or(Vec::new(), |(bytes, ..)| bytes);
            let picture = std::mem::replace(&mut self.partial, unused);
            self.partial.clear();
            self.waiting = Some((picture, at, self.count));
            self.count += 1;
        }
    }

    /// Takes the latest picture and converts it to RGB. Returns `None` if there is no
    /// picture.
    pub(super) fn decode(&mut self) -> Option<Frame> {
        let (bytes, at, seq) = self.waiting.take()?;
        let pixels = self.format.decode(&bytes).ok()?;
        Some(Frame {
            pixels,
            at,
            seq,
            connection: ConnectionId::default(),
        })
    }

    /// Describes what was received since the last picture, for an error message.
    pub(super) fn received(&self) -> String {
        match self.partial.len() {
            0 => "nothing was received".to_owned(),
            bytes => format!(
                "received only {bytes} of the {} bytes of a picture",
                self.format.frame_bytes()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::source::now;
    use super::*;
    use crate::frame::yuv::{Layout, Range};

    fn latest() -> LatestRaw {
        LatestRaw::new(YuvFormat::new(Layout::I420, Range::Full, 4, 2).unwrap())
    }

    fn picture(gray: u8) -> Vec<u8> {
        [vec![gray; 8], vec![128; 4]].concat()
    }

    #[test]
    fn latest_complete_picture_is_returned_once() {
        let mut latest = latest();
        assert_eq!(latest.received(), "nothing was received");
        latest.push(
            &[picture(1), picture(2), picture(3)[..5].to_vec()].concat(),
            now(),
        );
        let frame = latest.decode().unwrap();
        assert_eq!((frame.seq, frame.pixels.get_pixel(3, 1).0), (1, [2; 3]));
        assert!(latest.decode().is_none());
        assert_eq!(
            latest.received(),
            "received only 5 of the 12 bytes of a picture"
        );
        latest.push(&picture(3)[5..], now());
        let frame = latest.decode().unwrap();
        assert_eq!((frame.seq, frame.pixels.get_pixel(0, 0).0), (2, [3; 3]));
    }

    proptest! {
        #[test]
        fn the_cut_of_the_stream_makes_no_difference(
            grays in prop::collection::vec(any::<u8>(), 0..6),
            rest in 0usize..12,
            pieces in prop::collection::vec(1usize..40, 1..10),
        ) {
            let mut stream: Vec<u8> = grays.iter().flat_map(|gray| picture(*gray)).collect();
            stream.extend(&picture(9)[..rest]);
            let mut latest = latest();
            let mut seen = Vec::new();
            let mut left = &stream[..];
            let mut lengths = pieces.iter().cycle();
            while !left.is_empty() {
                let (piece, after) = left.split_at(left.len().min(*lengths.next().unwrap()));
                latest.push(piece, now());
                left = after;
                if let Some(frame) = latest.decode() {
                    seen.push((frame.seq, frame.pixels.get_pixel(0, 0).0[0]));
                }
                prop_assert!(latest.partial.len() < 12);
            }
            // Each picture has the right number, and the last picture is never missed.
            for (seq, gray) in &seen {
                prop_assert_eq!(*gray, grays[*seq as usize]);
            }
            let last = seen.last().map(|(seq, _)| *seq + 1);
            prop_assert_eq!(last.unwrap_or(0), grays.len() as u64);
            prop_assert_eq!(latest.partial.len(), rest);
        }
    }
}
