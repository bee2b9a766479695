//! JPEG pictures out of a stream of bytes.
//!
//! [`Splitter`] cuts a byte stream into whole JPEG files by walking their
//! structure. Whatever lies between two pictures is skipped, so that the same
//! splitter serves bare concatenated JPEG files (`rpicam-vid`, `ffmpeg -f
//! mjpeg`) and the `multipart/x-mixed-replace` of network cameras, whose part
//! headers are just such bytes. Pure: no clock, no files, no sockets.

use std::time::Instant;

use crate::frame::{self, Frame};

/// Most marker segments of one picture, tables and scans together. Progressive
/// pictures with a color profile in many pieces stay below 100.
const MAX_SEGMENTS: usize = 256;

/// How many bytes may be looked at for each byte of the stream, on average,
/// before a failed picture is no longer searched for another one within it.
const LOOKS_PER_BYTE: u64 = 8;

const FILL: u8 = 0xff;
const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;

/// Cuts a byte stream into JPEG pictures.
///
/// How the stream was cut into pushes makes no difference to the pictures. It
/// holds the picture that has begun and what was pushed last: at most
/// `max_frame_bytes` and one push, as long as [`Splitter::next_frame`] is called
/// until it gives `None` between two pushes.
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
    /// Start in `buffer` of the picture, or of what is still to be searched for
    /// one; all before it was given out or skipped.
    begin: usize,
    /// The next byte to look at within a picture. A segment that is skipped by
    /// its length can lie beyond what has been pushed.
    at: usize,
    place: Place,
    segments: usize,
    /// Whether the picture has a scan yet: without one it is no picture.
    scanned: bool,

    skipped_bytes: u64,
    oversized_frames: u64,

    // The bound on work, see `within_bounds`.
    /// Place in the stream of the buffer's first byte.
    origin: u64,
    /// Furthest place in the stream that was looked at.
    reached: u64,
    credit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Between pictures.
    Outside,
    /// In front of a marker.
    Marker,
    /// Within entropy-coded data.
    Scan,
}

/// Why a walk through a picture stops.
enum ScanEnd {
    /// The next byte has not been pushed yet.
    Starved,
    /// The picture ends in front of `at`.
    Complete,
    /// This cannot be a picture.
    Broken,
    /// The header says that the picture is longer than the cap.
    TooLongByHeader,
    /// The data of a scan has gone on beyond the cap.
    TooLong,
    /// Another picture starts at `at`, in the middle of this one.
    Restart,
}

impl Splitter {
    /// A splitter that gives up each picture of more than `max_frame_bytes`.
    #[must_use]
    pub fn new(max_frame_bytes: usize) -> Splitter {
        Splitter {
            max_frame_bytes,
            buffer: Vec::new(),
            begin: 0,
            at: 0,
            place: Place::Outside,
            segments: 0,
            scanned: false,
            skipped_bytes: 0,
            oversized_frames: 0,
            origin: 0,
            reached: 0,
            credit: LOOKS_PER_BYTE.saturating_mul(max_frame_bytes as u64),
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.begin);
        self.origin += self.begin as u64;
        self.at = self.at.saturating_sub(self.begin);
        self.begin = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole picture, from its start-of-image to its end-of-image
    /// marker; `None` until more bytes are pushed.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            let stop = match self.place {
                Place::Outside => self.find_start(),
                Place::Marker => self.marker(),
                Place::Scan => self.scan(),
            };
            let Err(stop) = stop else { continue };
            if matches!(stop, ScanEnd::Starved) {
                return None;
            }
            let within_bounds = self.within_bounds();
            match stop {
                ScanEnd::Starved => {}
                ScanEnd::Complete => {
                    let frame = self.buffer[self.begin..self.at].to_vec();
                    self.begin = self.at;
                    self.place = Place::Outside;
                    return Some(frame);
                }
                ScanEnd::Restart => self.skip_to(self.at),
                ScanEnd::TooLong => {
                    // Pictures that were cut short show up as a start within
                    // the scan. This one is simply long: what its header holds
                    // (a thumbnail) must not pass for a picture of the stream.
                    self.oversized_frames += 1;
                    self.skip_to(self.at);
                }
                ScanEnd::Broken | ScanEnd::TooLongByHeader => {
                    if matches!(stop, ScanEnd::TooLongByHeader) {
                        self.oversized_frames += 1;
                    }
                    // A picture that was cut short may have swallowed the start
                    // of a good one as the rest of a segment.
                    self.skip_to(if within_bounds {
                        self.begin + 1
                    } else {
                        self.at
                    });
                }
            }
        }
    }

    /// Bytes that were no part of a picture that was given out.
    #[must_use]
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// Pictures that were given up since they are longer than the cap.
    #[must_use]
    pub fn oversized_frames(&self) -> u64 {
        self.oversized_frames
    }

    /// Bytes that are held for a picture that is not complete, or not searched
    /// yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.len() - self.begin
    }

    /// Gives up the bytes in front of `index` and searches from there.
    fn skip_to(&mut self, index: usize) {
        self.skipped_bytes += (index - self.begin) as u64;
        self.begin = index;
        self.place = Place::Outside;
    }

    /// Goes to the next start of a picture.
    fn find_start(&mut self) -> Result<(), ScanEnd> {
        let rest = &self.buffer[self.begin..];
        let start = rest
            .windows(2)
            .position(|pair| pair == [FILL, START_OF_IMAGE]);
        if let Some(start) = start {
            self.skip_to(self.begin + start);
            self.at = self.begin + 2;
            self.place = Place::Marker;
            self.segments = 0;
            self.scanned = false;
            return Ok(());
        }
        // The last byte may be the first half of a start.
        let half = usize::from(rest.last() == Some(&FILL));
        self.skip_to(self.buffer.len() - half);
        Err(ScanEnd::Starved)
    }

    /// The byte at `index` of the buffer. The cap is noticed only when the byte
    /// beyond it has come: else it would depend on the pushes which of two
    /// reasons to stop comes first.
    fn byte(&self, index: usize) -> Result<u8, ScanEnd> {
        let byte = *self.buffer.get(index).ok_or(ScanEnd::Starved)?;
        if index - self.begin < self.max_frame_bytes {
            Ok(byte)
        } else {
            Err(ScanEnd::TooLong)
        }
    }

    /// Walks over one marker and, except for a scan's data, what belongs to it.
    fn marker(&mut self) -> Result<(), ScanEnd> {
        if self.byte(self.at)? != FILL {
            return Err(ScanEnd::Broken);
        }
        // Any number of fill bytes may precede a marker.
        while self.byte(self.at + 1)? == FILL {
            self.at += 1;
        }
        let code = self.byte(self.at + 1)?;
        match code {
            END_OF_IMAGE if self.scanned => {
                self.at += 2;
                return Err(ScanEnd::Complete);
            }
            // Everything with a length. Start and end of an image, restarts and
            // the reserved codes have no place here.
            0xc0..=0xcf | START_OF_SCAN..=0xfe => {}
            _ => return Err(ScanEnd::Broken),
        }
        let length = [self.byte(self.at + 2)?, self.byte(self.at + 3)?];
        let length = usize::from(u16::from_be_bytes(length));
        self.segments += 1;
        if length < 2 || self.segments > MAX_SEGMENTS {
            return Err(ScanEnd::Broken);
        }
        // A scan's header tells of 1 to 4 colors, 2 bytes each. What follows it
        // may be any data, so that a wrong length would pass unseen.
        if code == START_OF_SCAN && !matches!(length, 8 | 10 | 12 | 14) {
            return Err(ScanEnd::Broken);
        }
        let end = self.at + 2 + length;
        if end - self.begin > self.max_frame_bytes {
            return Err(ScanEnd::TooLongByHeader);
        }
        self.at = end;
        if code == START_OF_SCAN {
            self.scanned = true;
            self.place = Place::Scan;
        }
        Ok(())
    }

    /// Walks over entropy-coded data to the marker behind it.
    fn scan(&mut self) -> Result<(), ScanEnd> {
        let limit = self.buffer.len().min(self.begin + self.max_frame_bytes);
        loop {
            let rest = self.buffer.get(self.at..limit).ok_or(ScanEnd::Starved)?;
            let Some(next) = rest.iter().position(|byte| *byte == FILL) else {
                self.at = limit;
                return Err(if limit < self.buffer.len() {
                    ScanEnd::TooLong
                } else {
                    ScanEnd::Starved
                });
            };
            self.at += next;
            match self.byte(self.at + 1)? {
                // A stuffed FF, or a restart marker.
                0x00 | 0xd0..=0xd7 => self.at += 2,
                FILL => self.at += 1,
                START_OF_IMAGE => return Err(ScanEnd::Restart),
                _ => {
                    self.place = Place::Marker;
                    return Ok(());
                }
            }
        }
    }

    /// Books the walk that ends at `at`; false once the walks looked at far more
    /// bytes than the stream has.
    ///
    /// Hostile bytes can hold thousands of starts whose headers all lead to the
    /// same megabytes of data. Each byte that is reached for the first time
    /// gives credit for [`LOOKS_PER_BYTE`] looks, and each walk costs its
    /// length. It is booked when a walk ends and at no other time, for where
    /// walks end does not depend on how the stream was cut into pushes.
    fn within_bounds(&mut self) -> bool {
        let here = self.origin + self.at as u64;
        let gained = LOOKS_PER_BYTE.saturating_mul(here.saturating_sub(self.reached));
        let most = LOOKS_PER_BYTE.saturating_mul(self.max_frame_bytes as u64);
        let credit = self.credit.saturating_add(gained).min(most);
        let cost = (self.at - self.begin + 4 * self.segments) as u64;
        self.reached = self.reached.max(here);
        self.credit = credit.saturating_sub(cost);
        credit >= cost
    }
}

/// The newest picture of a live stream: what the live sources read into.
#[derive(Debug)]
pub(super) struct Newest {
    splitter: Splitter,
    /// Pictures that the splitter found so far.
    found: u64,
    waiting: Option<Waiting>,

    // Since the last picture that could be decoded, to explain a stall.
    bytes: u64,
    undecodable: u64,
    oversized_before: u64,
    last_error: String,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    at: Instant,
    seq: u64,
}

impl Newest {
    pub(super) fn new(max_frame_bytes: usize) -> Newest {
        Newest {
            splitter: Splitter::new(max_frame_bytes),
            found: 0,
            waiting: None,
            bytes: 0,
            undecodable: 0,
            oversized_before: 0,
            last_error: String::new(),
        }
    }

    /// Takes bytes that were read at `at`. Of all whole pictures that were
    /// pushed since the last [`Newest::decode`] the newest is kept.
    pub(super) fn push(&mut self, bytes: &[u8], at: Instant) {
        self.bytes += bytes.len() as u64;
        self.splitter.push(bytes);
        while let Some(bytes) = self.splitter.next_frame() {
            self.waiting = Some(Waiting {
                bytes,
                at,
                seq: self.found,
            });
            self.found += 1;
        }
    }

    /// Whether a whole picture waits to be decoded.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Decodes the picture that waits; `None` if none does, or if it cannot be
    /// decoded.
    pub(super) fn decode(&mut self) -> Option<Frame> {
        let Waiting { bytes, at, seq } = self.waiting.take()?;
        match frame::decode(&bytes) {
            Ok(pixels) => {
                self.bytes = 0;
                self.undecodable = 0;
                self.oversized_before = self.splitter.oversized_frames();
                Some(Frame { pixels, at, seq })
            }
            Err(error) => {
                tracing::debug!(seq, bytes = bytes.len(), %error, "picture of the stream skipped");
                self.undecodable += 1;
                self.last_error = error.to_string();
                None
            }
        }
    }

    /// What came instead of a picture since the last one, for an error message.
    pub(super) fn instead(&self) -> String {
        let oversized = self.splitter.oversized_frames() - self.oversized_before;
        if self.bytes == 0 {
            "nothing came at all".to_owned()
        } else if self.undecodable > 0 {
            format!(
                "{} could not be decoded, of the last one: {}",
                pictures(self.undecodable),
                self.last_error
            )
        } else if oversized > 0 {
            format!(
                "{} had more than the {} bytes allowed",
                pictures(oversized),
                self.splitter.max_frame_bytes
            )
        } else {
            format!(
                "{} bytes came without a whole JPEG picture in them",
                self.bytes
            )
        }
    }
}

fn pictures(count: u64) -> String {
    if count == 1 {
        "1 picture".to_owned()
    } else {
        format!("{count} pictures")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A made-up picture: its structure is right, its content means nothing.
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

    /// Frames of `stream` pushed in pieces of the given lengths, in turn.
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
    fn picture_cut_short_anywhere_does_not_take_the_next_one_along() {
        let exif = picture(&[], &[b"thumb".to_vec()]);
        let cut = picture(
            &[(0xe1, exif), (0xdb, vec![1; 64])],
            &[vec![7; 40], vec![8; 40]],
        );
        // A length that was cut short can be up to 64 KiB, which come before
        // what is wrong can be seen; then nothing of them is lost, but for one
        // picture whose markers may by chance go on where the cut one ended.
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
    fn thumbnail_of_a_picture_beyond_the_cap_is_not_given_out() {
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
    fn segments_without_end_are_given_up() {
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
        // 8,000 starts within a comment, each with a header that leads behind
        // the comment, into the same 9 MB of data: 72 GB of looks if every
        // start was followed.
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
        stream.extend([0xff, 0x02]);
        let good = simple(b"good");
        stream.extend(&good);
        let mut splitter = Splitter::new(1 << 30);
        splitter.credit = 0;
        let start = super::super::now();
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

    /// Bytes between pictures that may hold anything but the start of one.
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

    /// Bytes that are rich in what a JPEG is made of.
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
        fn garbage_with_false_starts_costs_no_picture_for_good(
            garbage in hostile(),
            good in good_picture(),
        ) {
            // A false start can swallow pictures, but none for ever: its
            // segments end within the cap, and a start within a scan begins
            // anew.
            let mut stream = garbage;
            for _ in 0..400 {
                stream.extend(&good);
            }
            let frames = split_with(&mut Splitter::new(4096), &stream, &[usize::MAX]);
            prop_assert_eq!(frames.last(), Some(&good));
        }
    }

    #[test]
    fn newest_counts_the_pictures_it_passes_over() {
        let mut jpeg = Vec::new();
        image::RgbImage::new(8, 8)
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut jpeg))
            .unwrap();
        let bad = simple(b"means nothing");
        let at = super::super::now();
        let mut newest = Newest::new(100_000);
        assert_eq!(newest.instead(), "nothing came at all");
        newest.push(b"nothing yet", at);
        assert!(newest.decode().is_none());
        assert_eq!(
            newest.instead(),
            "11 bytes came without a whole JPEG picture in them"
        );
        newest.push(&[&jpeg[..], &bad, &jpeg].concat(), at);
        assert_eq!(newest.decode().unwrap().seq, 2);
        newest.push(&bad, at);
        assert!(newest.is_waiting());
        assert!(newest.decode().is_none());
        assert!(
            newest
                .instead()
                .starts_with("1 picture could not be decoded")
        );
        newest.push(&jpeg, at);
        assert_eq!(newest.decode().unwrap().seq, 4);
        assert_eq!(newest.instead(), "nothing came at all");
    }
}
