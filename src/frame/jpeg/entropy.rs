//! Reads the entropy-coded data of a JPEG, which consists of bits, Huffman codes, and
//! blocks.
//!
//! This module determines how many bits each block takes. It reads the codes and skips the values,
//! so it computes no coefficients. About markers, it knows only that a marker ends the data.

/// The reason the data of a scan is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data ends, or a marker follows, before the end of the block.
    Ended,
    /// The bits match no code, or the code is not allowed at this position.
    Invalid,
}

/// Maximum length, in bits, of the codes that `Table::lookup` contains.
const LOOKUP_BITS: u32 = 9;

/// A code has at most 16 bits, and at most 15 additional bits follow it.
const MAX_BITS: u32 = 16 + 15;

/// A Huffman code (ITU T.81, annex C).
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// For each possible value of the next [`LOOKUP_BITS`] bits, the symbol and the length of the
    /// code that these bits start with. The length is 0 if that code has more than [`LOOKUP_BITS`]
    /// bits or does not exist.
    lookup: [Code; 1 << LOOKUP_BITS],
    /// For each code length from 1 to 16, the first value after the codes of that length, shifted
    /// left to 16 bits.
    ends: [u32; 16],
    /// For each code length, the number to add to a code to get the index of its symbol in
    /// `symbols`.
    offsets: [i32; 16],
    symbols: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Code {
    symbol: u8,
    length: u8,
}

impl Table {
    /// Creates a table. `counts` contains the number of codes of each length from 1 to 16, and
    /// `symbols` contains the symbols in the order of their codes. Returns `None` if the number of
    /// symbols is wrong, or if the lengths do not form a valid code.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Table> {
        let mut table = Table {
            lookup: [Code::default(); 1 << LOOKUP_BITS],
            ends: [0; 16],
            offsets: [0; 16],
            symbols: symbols.to_vec(),
        };
        let mut code: u32 = 0;
        let mut index = 0;
        for (at, count) in counts.iter().enumerate() {
            let length = at as u32 + 1;
            table.offsets[at] = index as i32 - code as i32;
            for _ in 0..*count {
                let symbol = *symbols.get(index)?;
                if length <= LOOKUP_BITS {
                    let first = (code << (LOOKUP_BITS - length)) as usize;
                    let entry = Code {
                        symbol,
                        length: length as u8,
                    };
                    table
                        .lookup
                        .get_mut(first..first + (1 << (LOOKUP_BITS - length)))?
                        .fill(entry);
                }
                code += 1;
                index += 1;
            }
            // No code may consist only of ones.
            if code >= 1 << length {
                return None;
            }
            table.ends[at] = code << (16 - length);
            code <<= 1;
        }
        (index == symbols.len()).then_some(table)
    }

    /// Finds a code of more than [`LOOKUP_BITS`] bits at the start of the next 16 bits,
    /// and returns its symbol and length.
    #[cold]
    fn find(&self, bits: u32) -> Option<Code> {
        let at = (LOOKUP_BITS as usize..16).find(|at| bits < self.ends[*at])?;
        let code = (bits >> (15 - at)) as i32;
        let index = usize::try_from(code + self.offsets[at]).ok()?;
        Some(Code {
            symbol: *self.symbols.get(index)?,
            length: at as u8 + 1,
        })
    }
}

/// The bits of entropy-coded data, up to the next marker.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Index of the next byte to move into `buffer`.
    at: usize,
    /// The next bits, starting at the most significant bit of this number. The unused bits are
    /// zero.
    buffer: u64,
    /// Number of bits in `buffer`.
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Bits<'a> {
        Bits {
            data,
            at,
            buffer: 0,
            count: 0,
        }
    }

    /// Moves bytes into the buffer until it contains at least [`MAX_BITS`] bits or the
    /// data ends.
    #[inline]
    fn refill(&mut self) {
        if self.count >= MAX_BITS {
            return;
        }
        let next = self.data.get(self.at..self.at + 4);
        if let Some(next) = next.and_then(|next| <[u8; 4]>::try_from(next).ok())
            && !next.contains(&0xff)
        {
            self.buffer |= u64::from(u32::from_be_bytes(next)) << (32 - self.count);
            self.count += 32;
            self.at += 4;
            return;
        }
        self.refill_slowly();
    }

    /// Moves bytes into the buffer one by one, without the zero that follows each FF byte.
    #[inline(never)]
    fn refill_slowly(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.data.get(self.at) else {
                return;
            };
            let mut end = self.at + 1;
            if byte == 0xff {
                while self.data.get(end) == Some(&0xff) {
                    end += 1;
                }
                if self.data.get(end) != Some(&0) {
                    return;
                }
                end += 1;
            }
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            self.at = end;
        }
    }

    #[inline]
    fn skip(&mut self, bits: u32) -> Result<(), Fault> {
        if bits > self.count {
            return Err(Fault::Ended);
        }
        self.buffer <<= bits;
        self.count -= bits;
        Ok(())
    }

    /// Reads the next 0 to 15 bits and returns their value.
    fn take(&mut self, bits: u32) -> Result<u32, Fault> {
        self.refill();
        let value = self.buffer.checked_shr(64 - bits).unwrap_or(0);
        self.skip(bits)?;
        Ok(value as u32)
    }

    /// Skips any number of bits.
    fn skip_many(&mut self, mut bits: u32) -> Result<(), Fault> {
        while bits > 0 {
            self.refill();
            let part = bits.min(MAX_BITS);
            self.skip(part)?;
            bits -= part;
        }
        Ok(())
    }

    /// Reads the next symbol. Afterward, the buffer contains at least the next 15 bits, unless the
    /// data ends earlier.
    #[inline]
    fn symbol(&mut self, table: &Table) -> Result<u8, Fault> {
        self.refill();
        let mut code = table.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        if code.length == 0 {
            // After the end of the data, the buffer contains zeros, which may not be a valid code.
            code = table
                .find((self.buffer >> 48) as u32)
                .ok_or(if self.count < 16 {
                    Fault::Ended
                } else {
                    Fault::Invalid
                })?;
        }
        self.skip(u32::from(code.length))?;
        Ok(code.symbol)
    }

    /// Returns the bytes from which the bits are read.
    pub(super) fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Returns the index of the next byte that has not been moved into the buffer.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Returns the index of the byte after the one that contains the last bit read.
    pub(super) fn end(&self) -> usize {
        let mut end = self.at;
        for _ in 0..self.count / 8 {
            end -= 1;
            // The zero after an FF belongs to that FF, and so do any additional FFs before it.
            if self.data[end] == 0 && end > 0 && self.data[end - 1] == 0xff {
                end -= 1;
                while end > 0 && self.data[end - 1] == 0xff {
                    end -= 1;
                }
            }
        }
        end
    }

    /// Reads a DC difference.
    #[inline]
    pub(super) fn dc(&mut self, table: &Table) -> Result<(), Fault> {
        match self.symbol(table)? {
            bits @ 0..=15 => self.skip(u32::from(bits)),
            _ => Err(Fault::Invalid),
        }
    }

    /// Reads the AC coefficients of one block in a sequential picture.
    #[inline]
    pub(super) fn ac(&mut self, table: &Table) -> Result<(), Fault> {
        let mut next = 1;
        while next < 64 {
            let symbol = self.symbol(table)?;
            let (zeros, bits) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (zeros, bits) {
                (0, 0) => return Ok(()),
                (0..=14, 0) => return Err(Fault::Invalid),
                _ => next += zeros + 1,
            }
            self.skip(bits)?;
        }
        if next == 64 {
            Ok(())
        } else {
            Err(Fault::Invalid)
        }
    }

    /// Reads one bit, which refines a DC coefficient.
    pub(super) fn dc_refinement(&mut self) -> Result<(), Fault> {
        self.take(1).map(|_| ())
    }
}

/// A band of AC coefficients in one scan of a progressive picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// Index of the first coefficient, at least 1.
    pub(super) first: u32,
    /// Index of the last coefficient, at most 63.
    pub(super) last: u32,
    /// Whether the scan adds one bit of precision to coefficients from earlier scans.
    pub(super) refines: bool,
    /// Number of remaining blocks in a run of blocks without new nonzero coefficients.
    pub(super) run: u32,
}

impl Band {
    /// Reads one block. `nonzero` has one bit per coefficient. The bit is set if the
    /// coefficient is not zero.
    pub(super) fn block(
        &mut self,
        bits: &mut Bits,
        table: &Table,
        nonzero: &mut u64,
    ) -> Result<(), Fault> {
        if self.refines {
            self.refine(bits, table, nonzero)
        } else {
            self.begin(bits, table, nonzero)
        }
    }

    fn begin(&mut self, bits: &mut Bits, table: &Table, nonzero: &mut u64) -> Result<(), Fault> {
        if self.run > 0 {
            self.run -= 1;
            return Ok(());
        }
        let mut next = self.first;
        while next <= self.last {
            let symbol = bits.symbol(table)?;
            let (zeros, length) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (zeros, length) {
                (15, 0) => next += 16,
                (exponent, 0) => {
                    self.run = (1 << exponent) + bits.take(exponent)? - 1;
                    return Ok(());
                }
                _ => {
                    next += zeros;
                    if next > self.last {
                        return Err(Fault::Invalid);
                    }
                    *nonzero |= 1 << next;
                    bits.skip(length)?;
                    next += 1;
                }
            }
        }
        Ok(())
    }

    fn refine(&mut self, bits: &mut Bits, table: &Table, nonzero: &mut u64) -> Result<(), Fault> {
        let mut next = self.first;
        while self.run == 0 && next <= self.last {
            let symbol = bits.symbol(table)?;
            let (mut zeros, length) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            match (zeros, length) {
                // This bit is the sign of a coefficient that becomes nonzero.
                (_, 1) => bits.skip(1)?,
                (15, 0) => {}
                (exponent, 0) => {
                    self.run = (1 << exponent) + bits.take(exponent)?;
                    break;
                }
                _ => return Err(Fault::Invalid),
            }
            // Each nonzero coefficient that is skipped here has one correction bit.
            let mut corrections = 0;
            loop {
                if next > self.last {
                    break;
                }
                if *nonzero >> next & 1 == 1 {
                    corrections += 1;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                next += 1;
            }
            bits.skip_many(corrections)?;
            if length == 1 {
                if next > self.last {
                    return Err(Fault::Invalid);
                }
                *nonzero |= 1 << next;
            }
            next += 1;
        }
        if self.run > 0 {
            if next <= self.last {
                let rest = *nonzero & (u64::MAX << next) & (u64::MAX >> (63 - self.last));
                bits.skip_many(rest.count_ones())?;
            }
            self.run -= 1;
        }
        Ok(())
    }
}
