//! Extracts JPEG pictures from a stream of bytes.
//!
//! [`Splitter`] splits a byte stream into complete JPEG files by parsing their marker
//! segments. It skips the bytes between two pictures. The splitter can therefore read two
//! kinds of streams: concatenated JPEG files, as written by `rpicam-vid` and `ffmpeg -f
//! mjpeg`, and the `multipart/x-mixed-replace` streams of network cameras, which contain
//! part headers between the pictures. This module uses no clock, files, or sockets.

use std::time::Instant;

use image::RgbImage;

use super::options::CameraOptions;
use crate::frame::decoding::is_whole_jpeg;
use crate::frame::{ConnectionId, Frame, PictureError, decode_within};
use crate::platform::text::counted;

/// Maximum number of marker segments in one picture, including tables and scans. A
/// progressive picture with a color profile in many segments stays below 100.
const MAX_SEGMENTS: usize = 256;

/// Maximum average number of times that each byte of the stream is parsed. If this limit
/// is exceeded, the splitter no longer searches for other pictures inside broken
/// pictures.
const MAX_PARSED_PER_BYTE: u64 = 8;

/// Maximum number of times that a picture without an end marker is checked for
/// completeness while it arrives.
const MAX_CHECKS: u32 = 16;

const FILL: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Splits a byte stream into JPEG pictures.
///
/// The way in which the stream is divided into pushes does not affect which pictures are
/// found. The buffer holds the incomplete picture and the last push. To limit the buffer
/// to `max_frame_bytes` plus one push, call [`Splitter::next_frame`] after each push
/// until it returns `None`.
///
/// ```
/// use maskd::camera::mjpeg::Splitter;
/// let mut splitter = Splitter::new(1024);
/// splitter.push(b"--part\r\n\r\n\xff\xd8\xff\xda\x00\x08headerda");
/// assert_eq!(splitter.next_frame(), None);
/// splitter.push(b"ta\xff\xd9\r\n--part");
/// let frame = splitter.next_frame();
/// assert_eq!(frame.as_deref(), Some(&b"\xff\xd8\xff\xda\x00\x08headerdata\xff\xd9"[..]));
/// ```
#[derive(Debug)]
pub struct Splitter {
    max_frame_bytes: usize,
    buffer: Vec<u8>,
    /// Index in `buffer` of the start of the current picture. Between two pictures, this
    /// is the index of the first byte to search. All bytes before this index were
    /// returned or skipped.
    begin: usize,
    /// Index in `buffer` of the next byte to parse. The index may lie beyond the end of
    /// the buffer, because a segment is skipped by its declared length before all of its
    /// bytes have arrived.
    at: usize,
    state: ParseState,
    segments: usize,
    /// Whether a scan header has been parsed in the current picture. Every valid picture
    /// has at least one scan.
    scanned: bool,

    skipped_bytes: u64,
    oversized_frames: u64,

    // The following fields limit the amount of parsing; see `within_bounds`.
    /// Offset in the stream of the first byte in the buffer.
    origin: u64,
    /// Highest offset in the stream that parsing has reached.
    reached: u64,
    /// Number of bytes that may still be parsed. If a parse exceeds this number, the
    /// splitter does not search inside broken pictures.
    credit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParseState {
    /// The splitter searches for the start of the next picture.
    BetweenPictures,
    /// The splitter expects a marker of the current picture.
    BeforeMarker,
    /// The splitter is inside the entropy-coded data of a scan.
    InScan,
}

/// The reason that parsing pauses or ends.
enum Interruption {
    /// The next byte has not been pushed yet.
    NeedsBytes,
    /// The picture ends before `at`.
    Complete,
    /// The bytes are not a picture.
    Broken,
    /// The declared length of a segment extends past the maximum size of a picture.
    TooLongByHeader,
    /// The data of the picture continues past the maximum size of a picture.
    TooLong,
    /// Another picture starts at `at`, so the current picture ends there.
    NextStarts,
}

impl Splitter {
    /// Creates a splitter that skips pictures larger than `max_frame_bytes`.
    #[must_use]
    pub fn new(max_frame_bytes: usize) -> Splitter {
        Splitter {
            max_frame_bytes,
            buffer: Vec::new(),
            begin: 0,
            at: 0,
            state: ParseState::BetweenPictures,
            segments: 0,
            scanned: false,
            skipped_bytes: 0,
            oversized_frames: 0,
            origin: 0,
            reached: 0,
            credit: MAX_PARSED_PER_BYTE.saturating_mul(max_frame_bytes as u64),
        }
    }

    /// Adds the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.begin);
        self.origin += self.begin as u64;
        self.at = self.at.saturating_sub(self.begin);
        self.begin = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next picture, from its start-of-image marker to its end-of-image
    /// marker. A picture without an end marker extends to the start of the next picture,
    /// so it includes any bytes between the two pictures. Returns `None` if more bytes
    /// are needed.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let result = match self.state {
                ParseState::BetweenPictures => self.find_start(),
                ParseState::BeforeMarker => self.marker(),
                ParseState::InScan => self.scan(),
            };
            let Err(interruption) = result else { continue };
            if matches!(interruption, Interruption::NeedsBytes) {
                return None;
            }
            let within_bounds = self.within_bounds();
            match interruption {
                Interruption::NeedsBytes => {}
                // Some cameras send no end markers. The decoder determines whether the
                // picture is complete.
                Interruption::Complete | Interruption::NextStarts => {
                    let frame = self.buffer[self.begin..self.at].to_vec();
                    self.begin = self.at;
                    self.state = ParseState::BetweenPictures;
                    return Some(frame);
                }
                Interruption::TooLong => {
                    // The picture is not truncated but too large: a truncated picture
                    // would have ended where the next picture starts. The whole picture
                    // is skipped. Otherwise, the thumbnail in its header would be
                    // mistaken for a picture of the stream.
                    self.oversized_frames += 1;
                    self.skip_to(self.at);
                }
                Interruption::Broken | Interruption::TooLongByHeader => {
                    if matches!(interruption, Interruption::TooLongByHeader) {
                        self.oversized_frames += 1;
                    }
                    // The declared length of a segment in a truncated picture may extend
                    // past the start of the next picture. The search therefore continues
                    // at the second byte of the broken picture.
                    self.skip_to(if within_bounds {
                        self.begin + 1
                    } else {
                        self.at
                    });
                }
            }
        }
    }

    /// Returns the last picture of the stream if it has no end marker. Returns `None` if
    /// the stream ends between two pictures, or before the first scan of a picture. Call
    /// this function after the stream has ended and [`Splitter::next_frame`] has returned
    /// `None`.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let frame = self.unfinished()?.to_vec();
        self.begin = self.buffer.len();
        self.at = self.begin;
        self.state = ParseState::BetweenPictures;
        Some(frame)
    }

    /// Returns the bytes that [`Splitter::finish`] would return.
    fn unfinished(&self) -> Option<&[u8]> {
        let frame = &self.buffer[self.begin..];
        let within = self.state != ParseState::BetweenPictures && self.scanned;
        (within && frame.len() <= self.max_frame_bytes).then_some(frame)
    }

    /// Number of skipped bytes, which belong to no returned picture.
    #[must_use]
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// Number of pictures that were skipped because they exceed the maximum size.
    #[must_use]
    pub fn oversized_frames(&self) -> u64 {
        self.oversized_frames
    }

    /// Number of bytes in the buffer that belong to an incomplete picture or have not
    /// been searched yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() - self.begin
    }

    /// Skips the bytes before `index` and continues the search from there.
    fn skip_to(&mut self, index: usize) {
        self.skipped_bytes += (index - self.begin) as u64;
        self.begin = index;
        self.state = ParseState::BetweenPictures;
    }

    /// Searches for the next start of a picture and skips the bytes before it.
    fn find_start(&mut self) -> Result<(), Interruption> {
        let rest = &self.buffer[self.begin..];
        let start = rest
            .windows(2)
            .position(|pair| pair == [FILL, START_OF_IMAGE]);
        if let Some(start) = start {
            self.skip_to(self.begin + start);
            self.at = self.begin + 2;
            self.state = ParseState::BeforeMarker;
            self.segments = 0;
            self.scanned = false;
            return Ok(());
        }
        // The last byte may be the first half of a start-of-image marker.
        let half = usize::from(rest.last() == Some(&FILL));
        self.skip_to(self.buffer.len() - half);
        Err(Interruption::NeedsBytes)
    }

    /// Returns the byte at `index` in the buffer, or [`Interruption::TooLong`] if the
    /// byte lies beyond the maximum size of the picture. The size is checked only after
    /// the byte has arrived. Otherwise, the result would depend on how the stream is
    /// divided into pushes.
    fn byte(&self, index: usize) -> Result<u8, Interruption> {
        let byte = *self.buffer.get(index).ok_or(Interruption::NeedsBytes)?;
        if index - self.begin < self.max_frame_bytes {
            Ok(byte)
        } else {
            Err(Interruption::TooLong)
        }
    }

    /// Parses one marker and skips its segment, except for the data of a scan.
    fn marker(&mut self) -> Result<(), Interruption> {
        if self.byte(self.at)? != FILL {
            return Err(Interruption::Broken);
        }
        // Any number of fill bytes may precede a marker.
        while self.byte(self.at + 1)? == FILL {
            self.at += 1;
        }
        let code = self.byte(self.at + 1)?;
        match code {
            END_OF_IMAGE if self.scanned => {
                self.at += 2;
                return Err(Interruption::Complete);
            }
            // These markers are followed by a length. The start and end of an image,
            // restart markers, and reserved markers are invalid here.
            0xc0..=0xcf | START_OF_SCAN..=0xfe => {}
            _ => return Err(Interruption::Broken),
        }
        let length = [self.byte(self.at + 2)?, self.byte(self.at + 3)?];
        let length = usize::from(u16::from_be_bytes(length));
        self.segments += 1;
        if length < 2 || self.segments > MAX_SEGMENTS {
            return Err(Interruption::Broken);
        }
        // A scan header describes 1 to 4 color components with 2 bytes each. The length
        // is checked here because a wrong length would not be noticed later: any bytes
        // can follow the header.
        if code == START_OF_SCAN && !matches!(length, 8 | 10 | 12 | 14) {
            return Err(Interruption::Broken);
        }
        let end = self.at + 2 + length;
        if end - self.begin > self.max_frame_bytes {
            return Err(Interruption::TooLongByHeader);
        }
        self.at = end;
        if code == START_OF_SCAN {
            self.scanned = true;
            self.state = ParseState::InScan;
        }
        Ok(())
    }

    /// Skips entropy-coded data up to the next marker.
    fn scan(&mut self) -> Result<(), Interruption> {
        let limit = self.buffer.len().min(self.begin + self.max_frame_bytes);
        loop {
            let rest = self
                .buffer
                .get(self.at..limit)
                .ok_or(Interruption::NeedsBytes)?;
            let Some(next) = rest.iter().position(|byte| *byte == FILL) else {
                self.at = limit;
                return Err(if limit < self.buffer.len() {
                    Interruption::TooLong
                } else {
                    Interruption::NeedsBytes
                });
            };
            self.at += next;
            match self.byte(self.at + 1)? {
                // These bytes are a stuffed FF, a restart marker, or no marker at all.
                // The last case occurs if fill bytes and text follow a picture without an
                // end marker.
                0x00..=0xbf | 0xd0..=0xd7 => self.at += 2,
                FILL => self.at += 1,
                START_OF_IMAGE => return Err(Interruption::NextStarts),
                _ => {
                    self.state = ParseState::BeforeMarker;
                    return Ok(());
                }
            }
        }
    }

    /// Deducts the cost of the parse that ends at `at` from the credit. Returns false if
    /// the credit is too low, which means that far more bytes have been parsed than the
    /// stream contains.
    ///
    /// A hostile stream can contain thousands of start markers, each followed by headers
    /// that point into the same megabytes of data. To limit the work, each byte that is
    /// reached for the first time adds [`MAX_PARSED_PER_BYTE`] to the credit, and each
    /// parse costs about as much as the number of bytes that it parsed. The cost is
    /// deducted only where a parse ends, because that position does not depend on how the
    /// stream is divided into pushes.
    fn within_bounds(&mut self) -> bool {
        let here = self.origin + self.at as u64;
        let gained = MAX_PARSED_PER_BYTE.saturating_mul(here.saturating_sub(self.reached));
        let max_credit = MAX_PARSED_PER_BYTE.saturating_mul(self.max_frame_bytes as u64);
        let credit = self.credit.saturating_add(gained).min(max_credit);
        let cost = (self.at - self.begin + 4 * self.segments) as u64;
        self.reached = self.reached.max(here);
        self.credit = credit.saturating_sub(cost);
        credit >= cost
    }
}

/// The latest picture of a live stream.
#[derive(Debug)]
pub(super) struct LatestJpeg {
    splitter: Splitter,
    max_frame_pixels: u64,
    /// Number of complete pictures so far.
    count: u64,
    waiting: Option<Waiting>,
    /// Present once a complete picture without an end marker has been received.
    unmarked: Option<Unmarked>,

    // The following fields describe what was received since the last picture that could
    // be decoded. Messages about a stall use them.
    bytes: u64,
    undecodable: u64,
    oversized_before: u64,
    last_error: String,
}

/// State for a stream whose pictures have no end markers. With this state, the next
/// picture is taken as soon as it is complete. Otherwise, it would be taken only when the
/// following picture starts.
#[derive(Debug)]
struct Unmarked {
    /// Length of the last picture, in bytes. The next picture is checked for completeness
    /// only after more than three quarters of this length have arrived.
    length: usize,
    /// Number of times that the next picture may still be checked for completeness while
    /// it arrives.
    checks_left: u32,
}

impl Unmarked {
    fn after(picture: &[u8]) -> Unmarked {
        Unmarked {
            length: picture.len(),
            checks_left: MAX_CHECKS,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    at: Instant,
    seq: u64,
}

impl LatestJpeg {
    pub(super) fn new(options: &CameraOptions) -> LatestJpeg {
        LatestJpeg {
            splitter: Splitter::new(options.max_frame_bytes),
            max_frame_pixels: options.max_frame_pixels,
            count: 0,
            waiting: None,
            unmarked: None,
            bytes: 0,
            undecodable: 0,
            oversized_before: 0,
            last_error: String::new(),
        }
    }

    /// Adds bytes that were read at time `at`. Only the latest complete picture since the
    /// last call to [`LatestJpeg::decode`] is kept.
    pub(super) fn push(&mut self, bytes: &[u8], at: Instant) {
        self.bytes += bytes.len() as u64;
        self.splitter.push(bytes);
        while let Some(bytes) = self.splitter.next_frame() {
            let marked = bytes.ends_with(&[FILL, END_OF_IMAGE]);
            if self.unmarked.is_some() || (!marked && is_whole_jpeg(&bytes)) {
                self.unmarked = Some(Unmarked::after(&bytes));
            }
            self.keep(bytes, at);
        }
        if let Some(unmarked) = &mut self.unmarked
            && unmarked.checks_left > 0
            && self.splitter.held_bytes() > unmarked.length / 4 * 3
        {
            unmarked.checks_left -= 1;
            self.finish(at);
        }
    }

    /// Number of complete pictures so far.
    pub(super) fn pictures(&self) -> u64 {
        self.count
    }

    /// Takes the picture that is still in the buffer if it is complete except for its end
    /// marker. `at` is the time at which the stream ended or the last bytes were read.
    pub(super) fn finish(&mut self, at: Instant) {
        if self.splitter.unfinished().is_some_and(is_whole_jpeg)
            && let Some(bytes) = self.splitter.finish()
        {
            self.unmarked = Some(Unmarked::after(&bytes));
            self.keep(bytes, at);
        }
    }

    fn keep(&mut self, bytes: Vec<u8>, at: Instant) {
        self.waiting = Some(Waiting {
            bytes,
            at,
            seq: self.count,
        });
        self.count += 1;
    }

    /// Whether a complete picture is waiting to be decoded.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Takes and decodes the latest picture. Returns `None` if there is no picture, or if
    /// it cannot be decoded.
    pub(super) fn decode(&mut self) -> Option<Frame> {
        let Waiting { bytes, at, seq } = self.waiting.take()?;
        match decode(&bytes, self.max_frame_pixels) {
            Ok(pixels) => {
                self.bytes = 0;
                self.undecodable = 0;
                self.oversized_before = self.splitter.oversized_frames();
                Some(Frame {
                    pixels,
                    at,
                    seq,
                    connection: ConnectionId::default(),
                })
            }
            Err(error) => {
                tracing::debug!(
                    seq,
                    bytes = bytes.len(),
                    error,
                    "picture of the stream skipped"
                );
                self.undecodable += 1;
                self.last_error = error;
                None
            }
        }
    }

    /// Describes what was received since the last picture, for an error message.
    pub(super) fn received(&self) -> String {
        let oversized = self.splitter.oversized_frames() - self.oversized_before;
        if self.bytes == 0 {
            "nothing was received".to_owned()
        } else if self.undecodable > 0 {
            format!(
                "{} could not be decoded (the last one: {})",
                counted(self.undecodable, "picture"),
                self.last_error
            )
        } else if oversized > 0 {
            format!(
                "{} had more than the {} bytes allowed by camera.max-frame-kib",
                counted(oversized, "picture"),
                self.splitter.max_frame_bytes
            )
        } else {
            format!(
                "received {}, but no complete JPEG picture",
                counted(self.bytes, "byte")
            )
        }
    }
}

/// Decodes a picture from a live stream.
///
/// # Errors
/// Returns the reason that the picture cannot be used, worded to follow "the last one: "
/// in a message.
pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, String> {
    decode_within(bytes, max_pixels).map_err(|error| match error {
        PictureError::TooLarge { .. } => {
            format!("{error} allowed by camera.max-frame-megapixels")
        }
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Returns a marker segment. A picture made of such segments has a valid structure
    /// but cannot be decoded.
    fn segment(code: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len() + 2).unwrap().to_be_bytes();
        [&[0xff, code], &length[..], payload].concat()
    }

    fn picture(segments: &[(u8, Vec<u8>)], scans: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8];
        for (code, payload) in segments {
            bytes.extend(segment(*code, payload));
        }
        for scan in scans {
            bytes.extend(segment(0xc4, b"table"));
            bytes.extend(segment(0xda, b"header"));
            bytes.extend(scan);
        }
        bytes.extend([0xff, 0xd9]);
        bytes
    }

    fn simple(text: &[u8]) -> Vec<u8> {
        picture(&[(0xe0, b"JFIF".to_vec())], &[text.to_vec()])
    }

    /// Pushes `stream` in pieces, whose lengths cycle through `pieces`, and returns the
    /// frames.
    fn split_with(splitter: &mut Splitter, stream: &[u8], pieces: &[usize]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut rest = stream;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*pieces.next().unwrap()).clamp(1, rest.len()));
            let held = splitter.held_bytes();
            assert!(
                held <= splitter.max_frame_bytes.max(2),
                "a start is 2 bytes"
            );
            splitter.push(piece);
            while let Some(frame) = splitter.next_frame() {
                assert!(frame.len() <= splitter.max_frame_bytes);
                frames.push(frame);
            }
            rest = later;
        }
        frames
    }

    fn split(stream: &[u8]) -> Vec<Vec<u8>> {
        split_with(&mut Splitter::new(1 << 20), stream, &[usize::MAX])
    }

    #[test]
    fn pictures_with_garbage_between_are_found() {
        let one = simple(b"one");
        let two = simple(b"two");
        let stream = [
            b"--b\r\nContent-Length: 9\r\n\r\n\xff",
            &one[..],
            b"\r\n--b\r\n\r\n",
            &two,
            b"\xff",
        ]
        .concat();
        let mut splitter = Splitter::new(1000);
        assert_eq!(
            split_with(&mut splitter, &stream, &[1]),
            [one.clone(), two.clone()]
        );
        let left = splitter.held_bytes() as u64;
        assert_eq!(left, 1, "a lone FF may be half a start");
        let expected = (stream.len() - one.len() - two.len()) as u64;
        assert_eq!(splitter.skipped_bytes() + left, expected);
        assert_eq!(splitter.oversized_frames(), 0);
    }

    #[test]
    fn thumbnail_does_not_end_the_picture() {
        let thumbnail = simple(b"small");
        let exif = [b"Exif\0\0", &thumbnail[..], b"more"].concat();
        let whole = picture(&[(0xe1, exif)], &[b"large".to_vec()]);
        assert_eq!(split(&whole), [whole]);
    }

    #[test]
    fn stuffing_restarts_fill_and_several_scans_belong_to_the_picture() {
        let scan = b"a\xff\x00\xff\xd0b\xff\xd7\xff\xff\x00c\xff\xff\xff".to_vec();
        let whole = picture(&[], &[scan.clone(), b"".to_vec(), scan]);
        assert_eq!(split(&whole), [whole]);
    }

    #[test]
    fn end_without_a_scan_is_no_picture() {
        assert_eq!(split(b"\xff\xd8\xff\xd9"), [] as [Vec<u8>; 0]);
        let good = simple(b"good");
        assert_eq!(split(&[b"\xff\xd8\xff\xd9", &good[..]].concat()), [good]);
    }

    #[test]
    fn picture_truncated_anywhere_does_not_swallow_the_next_one() {
        let exif = picture(&[], &[b"thumb".to_vec()]);
        let cut = picture(
            &[(0xe1, exif), (0xdb, vec![1; 64])],
            &[vec![7; 40], vec![8; 40]],
        );
        // A truncated segment can declare a length of up to 64 KiB, and all of these
        // bytes arrive before the error is noticed. The pictures in these bytes must
        // still be found. One picture may be lost if its markers happen to continue the
        // truncated picture.
        let good = picture(&[(0xe0, vec![2; 200])], &[vec![3; 300]]);
        let many = good.repeat(70_000 / good.len());
        let count = many.len() / good.len();
        for length in 0..cut.len() {
            for between in [&b""[..], b"\r\n--boundary\r\n\r\n"] {
                let frames = split(&[&cut[..length], between, &many].concat());
                let found = frames.iter().filter(|frame| **frame == good).count();
                assert!(
                    found + 1 >= count,
                    "cut at {length}, {found} of {count} found"
                );
                assert_eq!(frames.last(), Some(&good), "cut at {length}");
            }
        }
    }

    #[test]
    fn picture_of_exactly_the_cap_passes_and_one_byte_more_does_not() {
        let whole = simple(&[b'x'; 100]);
        let good = simple(b"good");
        let stream = [&whole[..], &good].concat();
        for pieces in [[usize::MAX], [1]] {
            let mut splitter = Splitter::new(whole.len());
            assert_eq!(
                split_with(&mut splitter, &stream, &pieces),
                [whole.clone(), good.clone()]
            );
            assert_eq!(splitter.oversized_frames(), 0);

            let mut splitter = Splitter::new(whole.len() - 1);
            assert_eq!(
                split_with(&mut splitter, &stream, &pieces),
                std::slice::from_ref(&good)
            );
            assert_eq!(splitter.oversized_frames(), 1);
        }
    }

    #[test]
    fn thumbnail_of_a_picture_beyond_the_cap_is_not_returned() {
        let thumbnail = simple(b"small");
        let large = picture(&[(0xe1, thumbnail)], &[vec![b'x'; 2000]]);
        let mut splitter = Splitter::new(1000);
        let stream = [&large[..], &large].concat();
        assert_eq!(
            split_with(&mut splitter, &stream, &[333]),
            [] as [Vec<u8>; 0]
        );
        assert_eq!(splitter.oversized_frames(), 2);
    }

    #[test]
    fn endless_segments_are_skipped() {
        let mut stream = vec![0xff, 0xd8];
        for _ in 0..MAX_SEGMENTS {
            stream.extend(segment(0xfe, b""));
        }
        let good = simple(b"good");
        let within = [&stream[..], &good[2..]].concat();
        stream.extend(&good);
        assert_eq!(split(&stream), [good]);
        assert_eq!(
            split(&within),
            [] as [Vec<u8>; 0],
            "more than {MAX_SEGMENTS} segments"
        );
    }

    #[test]
    fn hostile_headers_cost_linear_work() {
        // This comment segment contains 8,000 start markers. After each start marker, a
        // header points past the segment into the same 9 MB of data. Following all the
        // headers would mean parsing 72 GB.
        let mut stream = vec![0xff, 0xd8];
        let starts: Vec<u8> = (0..8000u16)
            .flat_map(|number| {
                let length = (63_996 - 8 * number).to_be_bytes();
                [0xff, 0xd8, 0xff, 0xe0, length[0], length[1], 0, 0]
            })
            .collect();
        stream.extend(segment(0xfe, &starts));
        stream.extend(segment(0xda, b"header"));
        stream.resize(9_000_000, 0);
        stream.extend([0xff, 0xc4, 0, 0]);
        let good = simple(b"good");
        stream.extend(&good);
        let mut splitter = Splitter::new(1 << 30);
        splitter.credit = 0;
        let start = super::super::source::now();
        assert_eq!(split_with(&mut splitter, &stream, &[1 << 16]), [good]);
        assert!(start.elapsed().as_secs() < 5);
    }

    fn scan_data() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..60).prop_map(|bytes| {
            let stuffed = |byte| {
                if byte == 0xff {
                    vec![0xff, 0x00]
                } else {
                    vec![byte]
                }
            };
            bytes.into_iter().flat_map(stuffed).collect()
        })
    }

    fn good_picture() -> impl Strategy<Value = Vec<u8>> {
        let codes = prop_oneof![Just(0xe0), Just(0xe1), Just(0xdb), Just(0xc2), Just(0xfe)];
        (
            vec((codes, vec(any::<u8>(), 0..40)), 0..4),
            vec(scan_data(), 1..4),
        )
            .prop_map(|(segments, scans)| picture(&segments, &scans))
    }

    /// Generates bytes to place between pictures. They contain no start-of-image marker.
    fn garbage() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..40).prop_map(|mut bytes| {
            for index in 1..bytes.len() {
                if bytes[index - 1] == 0xff && bytes[index] == 0xd8 {
                    bytes[index] = 0;
                }
            }
            if bytes.last() == Some(&0xff) {
                bytes.push(0);
            }
            bytes
        })
    }

    /// Generates bytes that contain many fragments of JPEGs.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            4 => Just(vec![0xff, 0xd8]),
            4 => Just(vec![0xff, 0xda, 0, 8]),
            3 => Just(vec![0xff, 0xd9]),
            3 => Just(vec![0xff]),
            3 => (0..60u8).prop_map(|length| vec![0xff, 0xe0, 0, length]),
            1 => any::<u8>().prop_map(|code| vec![0xff, code]),
            2 => vec(any::<u8>(), 1..5),
            1 => good_picture(),
        ];
        vec(token, 0..80).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn good_pictures_are_found_however_the_stream_is_cut(
            parts in vec((garbage(), good_picture()), 1..6),
            tail in garbage(),
            pieces in vec(1..50usize, 1..8),
        ) {
            let mut stream: Vec<u8> =
                parts.iter().flat_map(|(garbage, good)| [&garbage[..], good].concat()).collect();
            stream.extend(&tail);
            let expected: Vec<_> = parts.into_iter().map(|(_, good)| good).collect();
            let mut splitter = Splitter::new(4096);
            prop_assert_eq!(&split_with(&mut splitter, &stream, &pieces), &expected);
            prop_assert_eq!(splitter.oversized_frames(), 0);
            let given: usize = expected.iter().map(Vec::len).sum();
            let left = splitter.held_bytes();
            prop_assert_eq!(splitter.skipped_bytes() as usize + given + left, stream.len());
        }

        #[test]
        fn any_bytes_give_the_same_however_they_are_cut(
            stream in prop_oneof![hostile(), vec(any::<u8>(), 0..2000)],
            pieces in vec(1..50usize, 1..8),
            cap in 0..300usize,
        ) {
            let mut whole = Splitter::new(cap);
            let mut cut = Splitter::new(cap);
            let frames = split_with(&mut whole, &stream, &[usize::MAX]);
            prop_assert_eq!(&split_with(&mut cut, &stream, &pieces), &frames);
            prop_assert_eq!(whole.skipped_bytes(), cut.skipped_bytes());
            prop_assert_eq!(whole.oversized_frames(), cut.oversized_frames());
            prop_assert_eq!(whole.credit, cut.credit);
            let given: usize = frames.iter().map(Vec::len).sum();
            prop_assert_eq!(
                whole.skipped_bytes() as usize + given + whole.held_bytes(),
                stream.len()
            );
        }

        #[test]
        fn false_starts_in_garbage_swallow_only_some_pictures(
            garbage in hostile(),
            good in good_picture(),
        ) {
            // A false start can swallow only some of the pictures: its segments must end
            // within the maximum size, and a start marker within a scan begins a new
            // picture.
            let mut stream = garbage;
            for _ in 0..400 {
                stream.extend(&good);
            }
            let frames = split_with(&mut Splitter::new(4096), &stream, &[usize::MAX]);
            prop_assert_eq!(frames.last(), Some(&good));
        }
    }

    fn options() -> CameraOptions {
        CameraOptions {
            rate: 1.0,
            repeat: false,
            stall: std::time::Duration::from_secs(1),
            max_frame_bytes: 100_000,
            max_frame_pixels: 1_000_000,
            video: crate::camera::VideoOptions::default(),
            tls: crate::camera::TlsTrust::default(),
        }
    }

    fn encoded(width: u32, height: u32) -> Vec<u8> {
        let mut jpeg = Vec::new();
        RgbImage::new(width, height)
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut jpeg))
            .unwrap();
        jpeg
    }

    #[test]
    fn frames_without_end_markers_are_decoded() {
        let at = super::super::source::now();
        let whole = encoded(40, 24);
        let unmarked = &whole[..whole.len() - 2];
        let part = |frame: &[u8]| [b"\r\n--frame\r\nContent-Length: 1\r\n\r\n", frame].concat();
        for (name, frame) in [
            ("none", unmarked.to_vec()),
            ("padding", [unmarked, &[0; 777]].concat()),
            ("fill", [unmarked, &[0xff; 777]].concat()),
            ("three", [&whole[..], b"\xff\xd9\xff\xd9\x00\xff"].concat()),
        ] {
            // In two of these streams, every other frame has an end marker.
            for stream in [
                [&frame; 3],
                [&whole, &frame, &whole],
                [&frame, &whole, &frame],
            ] {
                let mut latest = LatestJpeg::new(&options());
                for frame in stream {
                    latest.push(&part(frame), at);
                }
                latest.finish(at);
                assert_eq!(latest.count, 3, "{name}");
                assert!(latest.decode().is_some(), "{name}");

                // The test is repeated with a call to `decode` after each frame.
                let mut latest = LatestJpeg::new(&options());
                for frame in stream {
                    latest.push(&part(frame), at);
                    latest.decode();
                }
                latest.finish(at);
                latest.decode();
                assert_eq!((latest.count, latest.undecodable), (3, 0), "{name}");
            }
        }
    }

    #[test]
    fn frames_without_end_markers_are_taken_as_soon_as_they_are_whole() {
        let at = super::super::source::now();
        let whole = encoded(40, 24);
        let unmarked = &whole[..whole.len() - 2];
        for stream in [[unmarked; 4], [unmarked, &whole, unmarked, &whole]] {
            let mut latest = LatestJpeg::new(&options());
            let mut taken = Vec::new();
            for frame in stream {
                for piece in [b"\r\n--frame\r\n\r\n", frame].concat().chunks(100) {
                    latest.push(piece, at);
                }
                taken.push(latest.decode().map(|frame| frame.seq));
            }
            // Only the second frame shows that the first frame has no end marker.
            assert_eq!(taken, [None, Some(1), Some(2), Some(3)]);
            assert_eq!(latest.undecodable, 0);
        }
        // If a camera sends single bytes, the number of checks is still limited.
        let mut latest = LatestJpeg::new(&options());
        latest.push(&[unmarked, unmarked].concat(), at);
        for byte in &unmarked[..unmarked.len() - 1] {
            latest.push(&[*byte], at);
        }
        assert_eq!(latest.unmarked.unwrap().checks_left, 0);
        // Truncated frames are not mistaken for frames without end markers.
        let mut latest = LatestJpeg::new(&options());
        let cut = &whole[..whole.len() - 9];
        latest.push(&[cut, &whole, cut, &whole].concat(), at);
        assert!(latest.unmarked.is_none());
    }

    #[test]
    fn thumbnail_does_not_end_a_picture_without_end_marker() {
        let thumbnail = simple(b"small");
        let exif = [b"Exif\0\0", &thumbnail[..], b"more"].concat();
        let whole = picture(&[(0xe1, exif)], &[b"large".to_vec()]);
        let unmarked = &whole[..whole.len() - 2];
        let mut splitter = Splitter::new(1000);
        splitter.push(&unmarked.repeat(3));
        let mut frames: Vec<_> = std::iter::from_fn(|| splitter.next_frame()).collect();
        frames.extend(splitter.finish());
        assert_eq!(frames, [unmarked, unmarked, unmarked]);
        assert_eq!((splitter.finish(), splitter.held_bytes()), (None, 0));
    }

    #[test]
    fn stream_that_ends_before_the_data_has_no_last_picture() {
        for end in [
            &b"\xff"[..],
            b"\xff\xd8",
            b"\xff\xd8\xff\xe0\x00\x40header",
            b"text",
        ] {
            let mut splitter = Splitter::new(1000);
            splitter.push(end);
            assert_eq!((splitter.next_frame(), splitter.finish()), (None, None));
        }
    }

    #[test]
    fn frame_of_too_many_pixels_is_explained() {
        let mut latest = LatestJpeg::new(&options());
        let at = super::super::source::now();
        latest.push(&encoded(1250, 801), at);
        assert!(latest.decode().is_none());
        assert_eq!(
            latest.received(),
            "1 picture could not be decoded (the last one: it has 1250 x 801 pixels, more than \
             1 million allowed by camera.max-frame-megapixels)"
        );
        latest.push(&encoded(1250, 800), at);
        assert!(latest.decode().is_some());
    }

    #[test]
    fn skipped_pictures_are_counted() {
        let jpeg = encoded(8, 8);
        let bad = simple(b"means nothing");
        let at = super::super::source::now();
        let mut latest = LatestJpeg::new(&options());
        assert_eq!(latest.received(), "nothing was received");
        latest.push(b"nothing yet", at);
        assert!(latest.decode().is_none());
        assert_eq!(
            latest.received(),
            "received 11 bytes, but no complete JPEG picture"
        );
        latest.push(&[&jpeg[..], &bad, &jpeg].concat(), at);
        assert_eq!(latest.decode().unwrap().seq, 2);
        latest.push(&bad, at);
        assert!(latest.is_waiting());
        assert!(latest.decode().is_none());
        assert!(
            latest
                .received()
                .starts_with("1 picture could not be decoded")
        );
        latest.push(&jpeg, at);
        assert_eq!(latest.decode().unwrap().seq, 4);
        assert_eq!(latest.received(), "nothing was received");
    }
}
