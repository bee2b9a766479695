//! Checks whether a JPEG is complete.
//!
//! If data is missing, the decoder fills the picture with gray and reports no error, and
//! a verdict on gray pixels is a guess. Before a picture is decoded, [`check`] therefore
//! reads its entropy-coded data and counts the blocks, without computing any pixels.
//!
//! This module owns the structure of JPEG files (ITU T.81), the limit on the memory for decoding
//! them, and the Huffman tables that a camera may omit. It knows nothing about files or streams.

mod entropy;
mod standard_tables;

use std::borrow::Cow;
use std::ops::Range;

use self::entropy::{Band, Bits, Fault, Table};
use super::PictureError;

/// Maximum number of scans in a picture. The decoder has the same limit.
const MAX_SCANS: usize = 100;

/// If the decoder keeps all coefficients of a picture, each pixel counts as this many
/// pixels, because the coefficients take 6 bytes per pixel in addition to 3 bytes of
/// color.
const WEIGHT_OF_KEPT_COEFFICIENTS: u64 = 3;

/// The precision of a coefficient of which no bit has been sent yet.
const UNSENT: u8 = u8::MAX;

mod marker {
    pub(super) const TEMPORARY: u8 = 0x01;
    pub(super) const FRAME_BASELINE: u8 = 0xc0;
    pub(super) const FRAME_PROGRESSIVE: u8 = 0xc2;
    pub(super) const HUFFMAN_TABLES: u8 = 0xc4;
    pub(super) const ARITHMETIC_CONDITIONING: u8 = 0xcc;
    pub(super) const RESTART_0: u8 = 0xd0;
    pub(super) const RESTART_7: u8 = 0xd7;
    pub(super) const START_OF_IMAGE: u8 = 0xd8;
    pub(super) const END_OF_IMAGE: u8 = 0xd9;
    pub(super) const START_OF_SCAN: u8 = 0xda;
    pub(super) const QUANTIZATION_TABLES: u8 = 0xdb;
    pub(super) const RESTART_INTERVAL: u8 = 0xdd;
    pub(super) const APPLICATION_0: u8 = 0xe0;
    pub(super) const APPLICATION_15: u8 = 0xef;
    pub(super) const COMMENT: u8 = 0xfe;
}

/// Checks that a picture has all of its blocks, and returns the bytes to decode.
///
/// The returned bytes are those of the picture up to its end marker. Usually, they are a part of
/// `bytes`. They are a copy if Huffman tables or the end marker had to be added, or if stray bytes
/// had to be removed. Stray bytes are removed because decoders handle them in different ways.
///
/// # Errors
/// Returns [`PictureError::Truncated`] or [`PictureError::Damaged`] if data is missing or invalid,
/// and [`PictureError::UnsupportedJpeg`] if the decoder does not support the coding. Returns
/// [`PictureError::TooLarge`] if there are more than `max_pixels` pixels. A pixel counts as three
/// pixels if the decoder keeps the coefficients of the whole picture.
pub(super) fn check(bytes: &[u8], max_pixels: u64) -> Result<Cow<'_, [u8]>, PictureError> {
    let mut picture = Picture::new(bytes, max_pixels);
    picture.read()?;
    Ok(picture.finish())
}

/// A picture that is being read.
struct Picture<'a> {
    bytes: &'a [u8],
    /// Index of the next byte to read.
    at: usize,
    max_pixels: u64,
    frame: Option<Frame>,
    dc_tables: [Option<Table>; 4],
    ac_tables: [Option<Table>; 4],
    /// Number of MCUs (minimum coded units) between two restart markers, or 0 if there are no
    /// restart markers.
    restart_interval: u32,
    scans: usize,
    /// The parts of the decoder's input.
    pieces: Vec<Piece>,
}

/// A part of the decoder's input.
enum Piece {
    Kept(Range<usize>),
    Inserted(Vec<u8>),
}

/// The header of a frame.
struct Frame {
    progressive: bool,
    width: u32,
    height: u32,
    components: Vec<Component>,
    /// Number of MCUs in an interleaved scan, horizontally and vertically.
    mcus: (u32, u32),
}

/// A color component.
struct Component {
    id: u8,
    /// Number of blocks in an MCU of an interleaved scan, horizontally and vertically.
    sampling: (u32, u32),
    /// Number of blocks in a scan of only this component, horizontally and vertically.
    blocks: (u32, u32),
    /// For each coefficient, the lowest bit that has been sent, or [`UNSENT`].
    precision: [u8; 64],
    /// For each block, row by row, a number with one bit per coefficient. The bit is set
    /// if the coefficient is not zero. The vector is empty until the first scan of AC
    /// coefficients in a progressive picture.
    nonzero: Vec<u64>,
}

/// The header of a scan.
struct Scan {
    components: Vec<ScanComponent>,
    /// Indices of the first and the last coefficient.
    band: (u8, u8),
    /// The lowest bit that earlier scans sent, or `None` if this is the first scan of
    /// these coefficients.
    refines: Option<u8>,
    /// The lowest bit that this scan sends.
    precision: u8,
}

struct ScanComponent {
    /// Index in the frame's list of components.
    index: usize,
    dc_table: usize,
    ac_table: usize,
}

impl<'a> Picture<'a> {
    fn new(bytes: &'a [u8], max_pixels: u64) -> Picture<'a> {
        Picture {
            bytes,
            at: 0,
            max_pixels,
            frame: None,
            dc_tables: [const { None }; 4],
            ac_tables: [const { None }; 4],
            restart_interval: 0,
            scans: 0,
            pieces: Vec::new(),
        }
    }

    /// Reads the picture up to the end of the last scan's data.
    fn read(&mut self) -> Result<(), PictureError> {
        if self.next_marker()? != marker::START_OF_IMAGE {
            return Err(PictureError::Damaged);
        }
        self.keep(self.at - 2..self.at);
        let first = self.at;
        loop {
            let code = self.next_marker()?;
            match code {
                // Some cameras send the first marker twice, and some send stray markers
                // between scans.
                marker::START_OF_IMAGE if self.at == first + 2 => continue,
                marker::TEMPORARY | marker::RESTART_0..=marker::RESTART_7 => continue,
                marker::START_OF_IMAGE | marker::END_OF_IMAGE => return Err(PictureError::Damaged),
                _ => {}
            }
            let start = self.at - 2;
            let segment = self.segment()?;
            let content = &self.bytes[segment];
            match code {
                marker::HUFFMAN_TABLES => self.define_tables(content)?,
                marker::RESTART_INTERVAL => self.restart_interval = restart_interval(content)?,
                marker::FRAME_BASELINE..=marker::FRAME_PROGRESSIVE if self.frame.is_some() => {
                    return Err(PictureError::Damaged);
                }
                marker::FRAME_BASELINE..=marker::FRAME_PROGRESSIVE => {
                    self.frame = Some(Frame::parse(code, content)?);
                }
                marker::START_OF_SCAN => {
                    self.start_scan(content, start)?;
                    if self.frame.as_ref().is_some_and(Frame::is_complete) {
                        return Ok(());
                    }
                    continue;
                }
                marker::QUANTIZATION_TABLES => {}
                marker::APPLICATION_0..=marker::APPLICATION_15 | marker::COMMENT
                    if self.scans == 0 => {}
                _ => {
                    if let Some(coding) = unsupported(code) {
                        return Err(PictureError::UnsupportedJpeg(coding));
                    }
                    // This segment has no effect on the pixels, and the decoder may stop
                    // at it.
                    continue;
                }
            }
            self.keep(start..self.at);
        }
    }

    /// Finds the next marker, moves `at` past it, and returns its code.
    fn next_marker(&mut self) -> Result<u8, PictureError> {
        let code = find_marker(self.bytes, self.at).ok_or(PictureError::Truncated)?;
        self.at = code + 1;
        Ok(self.bytes[code])
    }

    /// Reads the segment at `at`, moves `at` past it, and returns the range of its content.
    fn segment(&mut self) -> Result<Range<usize>, PictureError> {
        let length = self.bytes.get(self.at..self.at + 2);
        let length = u16_of(length.ok_or(PictureError::Truncated)?);
        let range = self.at + 2..self.at + usize::from(length);
        if length < 2 {
            return Err(PictureError::Damaged);
        }
        if range.end > self.bytes.len() {
            return Err(PictureError::Truncated);
        }
        self.at = range.end;
        Ok(range)
    }

    fn define_tables(&mut self, mut content: &[u8]) -> Result<(), PictureError> {
        while let Some((target, rest)) = content.split_first() {
            let (counts, rest) = rest
                .split_first_chunk::<16>()
                .ok_or(PictureError::Damaged)?;
            let length = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(length).ok_or(PictureError::Damaged)?;
            let table = Table::new(counts, symbols).ok_or(PictureError::Damaged)?;
            let tables = match target >> 4 {
                0 => &mut self.dc_tables,
                1 => &mut self.ac_tables,
                _ => return Err(PictureError::Damaged),
            };
            let slot = tables.get_mut(usize::from(target & 15));
            *slot.ok_or(PictureError::Damaged)? = Some(table);
            content = rest;
        }
        Ok(())
    }

    /// Reads a scan. `content` is the content of its header, and `start` is the index of the
    /// header.
    fn start_scan(&mut self, content: &[u8], start: usize) -> Result<(), PictureError> {
        let frame = self.frame.as_mut().ok_or(PictureError::Damaged)?;
        let scan = Scan::parse(content, frame)?;
        self.scans += 1;
        if self.scans > MAX_SCANS {
            return Err(PictureError::Damaged);
        }
        if self.scans == 1 {
            frame.check_size(scan.components.len(), self.max_pixels)?;
        }
        frame.check_layout(scan.components.len(), self.restart_interval > 0)?;
        frame.note(&scan)?;
        self.add_standard_tables(&scan)?;
        self.keep(start..self.at);
        self.read_scan(&scan)
    }

    /// Adds the standard tables that the scan needs and the picture lacks.
    fn add_standard_tables(&mut self, scan: &Scan) -> Result<(), PictureError> {
        for component in &scan.components {
            let needed = [
                (scan.needs_dc(), 0, component.dc_table),
                (scan.needs_ac(), 1, component.ac_table),
            ];
            for (needed, class, id) in needed {
                let (tables, standard) = match class {
                    0 => (&mut self.dc_tables, &standard_tables::DC),
                    _ => (&mut self.ac_tables, &standard_tables::AC),
                };
                let table = tables.get_mut(id).ok_or(PictureError::Damaged)?;
                if !needed || table.is_some() {
                    continue;
                }
                let standard = standard.get(id).ok_or(PictureError::Damaged)?;
                *table = standard.table();
                let segment = standard.segment(class, id as u8);
                self.pieces.push(Piece::Inserted(segment));
            }
        }
        Ok(())
    }

    /// Reads the entropy-coded data at `at`, and moves `at` past it.
    fn read_scan(&mut self, scan: &Scan) -> Result<(), PictureError> {
        let frame = self.frame.as_mut().ok_or(PictureError::Damaged)?;
        let mut tables = Vec::new();
        for component in &scan.components {
            let dc = self.dc_tables[component.dc_table].as_ref();
            let ac = self.ac_tables[component.ac_table].as_ref();
            let (across, down) = frame.components[component.index].sampling;
            let blocks = if scan.components.len() > 1 {
                across * down
            } else {
                1
            };
            tables.push((dc, ac, blocks));
        }
        let mut reader = ScanReader {
            bits: Bits::new(self.bytes, self.at),
            begin: self.at,
            interval: self.restart_interval,
            left: self.restart_interval,
            next_restart: marker::RESTART_0,
            kept: Vec::new(),
        };
        let (across, down) = frame.mcus(scan);
        let read = if frame.progressive && scan.needs_ac() {
            let component = &mut frame.components[scan.components[0].index];
            let table = tables[0].1.ok_or(PictureError::Damaged)?;
            reader.read_band(scan, table, component)
        } else {
            reader.read_mcus(across * down, |bits| {
                for (dc, ac, blocks) in &tables {
                    for _ in 0..*blocks {
                        match dc {
                            Some(table) if scan.refines.is_none() => bits.dc(table)?,
                            _ if scan.refines.is_some() => bits.dc_refinement()?,
                            _ => return Err(Fault::Invalid),
                        }
                        if let (false, Some(table)) = (frame.progressive, ac) {
                            bits.ac(table)?;
                        }
                    }
                }
                Ok(())
            })
        };
        read.map_err(|fault| match fault {
            Fault::Ended if find_marker(self.bytes, reader.bits.position()).is_none() => {
                PictureError::Truncated
            }
            Fault::Ended | Fault::Invalid => PictureError::Damaged,
        })?;
        self.at = reader.bits.end();
        let last = reader.begin..self.at;
        for range in reader.kept {
            self.keep(range);
        }
        self.keep(last);
        Ok(())
    }

    /// Adds these bytes to the decoder's input.
    fn keep(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Kept(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Kept(range)),
        }
    }

    /// Returns the decoder's input, including an end marker.
    fn finish(self) -> Cow<'a, [u8]> {
        let end = [0xff, marker::END_OF_IMAGE];
        if let [Piece::Kept(range)] = &self.pieces[..]
            && self.bytes.get(range.end..range.end + 2) == Some(&end)
        {
            return Cow::Borrowed(&self.bytes[range.start..range.end + 2]);
        }
        let mut copy = Vec::with_capacity(self.bytes.len() + 1024);
        for piece in self.pieces {
            match piece {
                Piece::Kept(range) => copy.extend_from_slice(&self.bytes[range]),
                Piece::Inserted(bytes) => copy.extend_from_slice(&bytes),
            }
        }
        copy.extend_from_slice(&end);
        Cow::Owned(copy)
    }
}

impl Frame {
    fn parse(code: u8, content: &[u8]) -> Result<Frame, PictureError> {
        let Some(([precision, h1, h2, w1, w2, count], rest)) = content.split_first_chunk() else {
            return Err(PictureError::Damaged);
        };
        let height = u32::from(u16::from_be_bytes([*h1, *h2]));
        let width = u32::from(u16::from_be_bytes([*w1, *w2]));
        match (precision, width, height) {
            (_, 0, _) => return Err(PictureError::Damaged),
            (_, _, 0) => return Err(PictureError::UnsupportedJpeg("its height after its data")),
            (8, ..) => {}
            (12, ..) => return Err(PictureError::UnsupportedJpeg("12 bits per sample")),
            _ => return Err(PictureError::Damaged),
        }
        if !(1..=4).contains(count) || rest.len() != 3 * usize::from(*count) {
            return Err(PictureError::Damaged);
        }
        let sampling = |entry: &[u8]| (u32::from(entry[1] >> 4), u32::from(entry[1] & 15));
        let (mut most_across, mut most_down) = (1, 1);
        for entry in rest.chunks_exact(3) {
            let (across, down) = sampling(entry);
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) {
                return Err(PictureError::Damaged);
            }
            most_across = most_across.max(across);
            most_down = most_down.max(down);
        }
        let components = rest.chunks_exact(3).map(|entry| {
            let (across, down) = sampling(entry);
            Component {
                id: entry[0],
                sampling: (across, down),
                blocks: (
                    (width * across).div_ceil(8 * most_across),
                    (height * down).div_ceil(8 * most_down),
                ),
                precision: [UNSENT; 64],
                nonzero: Vec::new(),
            }
        });
        Ok(Frame {
            progressive: code == marker::FRAME_PROGRESSIVE,
            width,
            height,
            components: components.collect(),
            mcus: (
                width.div_ceil(8 * most_across),
                height.div_ceil(8 * most_down),
            ),
        })
    }

    /// Rejects a layout that the decoder misreads without reporting an error. The decoder assumes
    /// that every scan has the same rows of blocks as an interleaved scan, and it counts restart
    /// intervals across scans. Both can be wrong if the first scan of a sequential picture lacks
    /// some of the components.
    fn check_layout(&self, in_first_scan: usize, restarts: bool) -> Result<(), PictureError> {
        if self.progressive || in_first_scan == self.components.len() {
            return Ok(());
        }
        let mut components = self.components.iter();
        if restarts || components.any(|component| component.sampling.1 > 1) {
            return Err(PictureError::UnsupportedJpeg("a scan for each color"));
        }
        Ok(())
    }

    /// Rejects a picture that takes too much memory to decode. The memory depends on the size in
    /// the header and on the number of components in the first scan.
    fn check_size(&self, in_first_scan: usize, max_pixels: u64) -> Result<(), PictureError> {
        let keeps_coefficients = self.progressive || in_first_scan < self.components.len();
        let weight = if keeps_coefficients {
            WEIGHT_OF_KEPT_COEFFICIENTS
        } else {
            1
        };
        if weight * u64::from(self.width) * u64::from(self.height) > max_pixels {
            return Err(PictureError::TooLarge {
                width: self.width,
                height: self.height,
                weight,
                max_pixels,
            });
        }
        Ok(())
    }

    /// Returns the number of MCUs in a scan, horizontally and vertically.
    fn mcus(&self, scan: &Scan) -> (u32, u32) {
        match &scan.components[..] {
            [only] => self.components[only.index].blocks,
            _ => self.mcus,
        }
    }

    /// Records which bits a scan sends. Rejects a scan whose bits do not directly follow those of
    /// earlier scans.
    fn note(&mut self, scan: &Scan) -> Result<(), PictureError> {
        let (first, last) = scan.band;
        for component in &scan.components {
            let sent = &mut self.components[component.index].precision;
            for precision in &mut sent[usize::from(first)..=usize::from(last)] {
                if *precision != scan.refines.unwrap_or(UNSENT) {
                    return Err(PictureError::Damaged);
                }
                *precision = scan.precision;
            }
        }
        Ok(())
    }

    /// Whether all bits of all coefficients have been sent.
    fn is_complete(&self) -> bool {
        let mut components = self.components.iter();
        components.all(|component| component.precision == [0; 64])
    }
}

impl Scan {
    fn parse(content: &[u8], frame: &Frame) -> Result<Scan, PictureError> {
        let (count, rest) = content.split_first().ok_or(PictureError::Damaged)?;
        let count = usize::from(*count);
        if !(1..=4).contains(&count) || rest.len() != 2 * count + 3 {
            return Err(PictureError::Damaged);
        }
        let mut components: Vec<ScanComponent> = Vec::new();
        for entry in rest[..2 * count].chunks_exact(2) {
            let index = frame
                .components
                .iter()
                .position(|known| known.id == entry[0]);
            let index = index.ok_or(PictureError::Damaged)?;
            let (dc_table, ac_table) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            if components.iter().any(|other| other.index == index) || dc_table > 3 || ac_table > 3 {
                return Err(PictureError::Damaged);
            }
            components.push(ScanComponent {
                index,
                dc_table,
                ac_table,
            });
        }
        if !frame.progressive {
            // In a sequential picture, these bytes have only one valid value, but some cameras send
            // other values.
            return Ok(Scan {
                components,
                band: (0, 63),
                refines: None,
                precision: 0,
            });
        }
        let (first, last) = (rest[2 * count], rest[2 * count + 1]);
        let (high, low) = (rest[2 * count + 2] >> 4, rest[2 * count + 2] & 15);
        let is_band = match first {
            0 => last == 0,
            _ => count == 1 && (first..64).contains(&last),
        };
        if !is_band || low > 13 || (high != 0 && high != low + 1) {
            return Err(PictureError::Damaged);
        }
        Ok(Scan {
            components,
            band: (first, last),
            refines: (high != 0).then_some(high),
            precision: low,
        })
    }

    /// Whether the scan needs a DC table. A scan that refines DC coefficients contains no codes,
    /// but the decoder requires a table for such a scan anyway.
    fn needs_dc(&self) -> bool {
        self.band.0 == 0
    }

    fn needs_ac(&self) -> bool {
        self.band.1 > 0
    }
}

/// The data of a scan that is being read.
struct ScanReader<'a> {
    bits: Bits<'a>,
    /// Index of the first byte that is not in `kept` yet.
    begin: usize,
    interval: u32,
    /// Number of MCUs before the next restart marker.
    left: u32,
    next_restart: u8,
    /// The ranges of bytes before `begin` that belong to the data.
    kept: Vec<Range<usize>>,
}

impl ScanReader<'_> {
    /// Reads MCUs that do not depend on earlier scans.
    fn read_mcus(
        &mut self,
        count: u32,
        mut read: impl FnMut(&mut Bits) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for _ in 0..count {
            self.pass_restart()?;
            read(&mut self.bits)?;
        }
        Ok(())
    }

    /// Reads a band of AC coefficients of a progressive picture.
    fn read_band(
        &mut self,
        scan: &Scan,
        table: &Table,
        component: &mut Component,
    ) -> Result<(), Fault> {
        let (across, down) = component.blocks;
        component.nonzero.resize((across * down) as usize, 0);
        let mut band = Band {
            first: u32::from(scan.band.0),
            last: u32::from(scan.band.1),
            refines: scan.refines.is_some(),
            run: 0,
        };
        for nonzero in &mut component.nonzero {
            if self.pass_restart()? && band.run > 0 {
                return Err(Fault::Invalid);
            }
            band.block(&mut self.bits, table, nonzero)?;
        }
        if band.run > 0 {
            Err(Fault::Invalid)
        } else {
            Ok(())
        }
    }

    /// Skips a restart marker if one is expected before the next MCU. Returns whether a marker was
    /// expected.
    fn pass_restart(&mut self) -> Result<bool, Fault> {
        if self.interval == 0 {
            return Ok(false);
        }
        if self.left > 0 {
            self.left -= 1;
            return Ok(false);
        }
        self.left = self.interval - 1;
        let (data, end) = (self.bits.data(), self.bits.end());
        let code = find_marker(data, end).ok_or(Fault::Ended)?;
        // A marker that is out of order shows that other markers are missing.
        if data[code] != self.next_restart {
            return Err(Fault::Invalid);
        }
        let mut after = code + 1;
        // Some cameras send a marker twice.
        while data.get(after..after + 2) == Some(&[0xff, self.next_restart]) {
            after += 2;
        }
        if code - 1 > end || after > code + 1 {
            self.kept.push(self.begin..end);
            self.kept.push(code - 1..code + 1);
            self.begin = after;
        }
        self.next_restart = marker::RESTART_0 + (self.next_restart + 1 - marker::RESTART_0) % 8;
        self.bits = Bits::new(data, after);
        Ok(true)
    }
}

/// Finds the next marker at or after `at`. Returns the index of its code, which is the byte that
/// follows one or more FF bytes.
fn find_marker(bytes: &[u8], at: usize) -> Option<usize> {
    let mut start = at;
    loop {
        start += bytes.get(start..)?.iter().position(|byte| *byte == 0xff)?;
        let fill = bytes[start..]
            .iter()
            .take_while(|byte| **byte == 0xff)
            .count();
        match bytes.get(start + fill)? {
            0 => start += fill + 1,
            _ => return Some(start + fill),
        }
    }
}

fn restart_interval(content: &[u8]) -> Result<u32, PictureError> {
    match content {
        [_, _] => Ok(u32::from(u16_of(content))),
        _ => Err(PictureError::Damaged),
    }
}

/// Returns the first two bytes as a big-endian number.
fn u16_of(bytes: &[u8]) -> u16 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// Returns the name of the coding that a marker announces if the decoder does not support that
/// coding.
fn unsupported(code: u8) -> Option<&'static str> {
    match code {
        0xc3 => Some("lossless coding"),
        0xc5..=0xc7 | 0xde | 0xdf => Some("hierarchical coding"),
        0xc9..=0xcb | marker::ARITHMETIC_CONDITIONING | 0xcd..=0xcf => Some("arithmetic coding"),
        _ => None,
    }
}
