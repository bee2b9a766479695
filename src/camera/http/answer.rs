//! Reads the HTTP response of a camera as leniently as possible without guessing.
//!
//! Owns the syntax of HTTP/1 responses and the limits on their size. Performs no I/O: the
//! caller passes in the bytes that it received, and gets back the head of the response and
//! the bytes of the body. Knows nothing about connections, redirects, or pictures.
//!
//! Some cameras send header lines without a colon, negative lengths, or no head at all,
//! and HTTP libraries reject such responses. This module skips header lines that it does
//! not understand. It does not check what the body contains, because the splitter that
//! reads the body finds pictures among any other bytes.

use crate::platform::text::printable;

/// Maximum size of a head in bytes, including all header lines.
pub const MAX_HEAD: usize = 64 * 1024;

/// Maximum number of interim responses, such as `100 Continue`, before the final one.
const MAX_INTERIM: u32 = 8;

/// Maximum number of login challenges that are kept.
const MAX_CHALLENGES: usize = 16;

/// Maximum length in bytes of the size line before a chunk.
const MAX_CHUNK_LINE: usize = 1024;

/// The parts of a head that matter to maskd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status, such as 200. A response without a status line has status 200.
    pub status: u16,
    /// The text after the status, with control characters escaped.
    pub(super) reason: String,
    /// The `Content-Type` as sent, with control characters escaped.
    pub(super) content_type: Option<String>,
    pub(super) location: Option<String>,
    /// The values of the `WWW-Authenticate` headers.
    pub(super) challenges: Vec<String>,
    /// Whether the connection can be used for another request.
    pub(super) keep_alive: bool,
    /// Size of the body in bytes, or `None` if it is unknown or 0.
    length: Option<u64>,
    chunked: bool,
    /// Whether `length` must be ignored because the head contains several different
    /// lengths.
    contradicts: bool,
}

impl Default for Head {
    /// The head of a response without a status line.
    fn default() -> Head {
        Head {
            status: 200,
            reason: String::new(),
            content_type: None,
            location: None,
            challenges: Vec::new(),
            keep_alive: false,
            length: None,
            chunked: false,
            contradicts: false,
        }
    }
}

impl Head {
    /// Whether the body consists of parts, each of which contains a picture.
    pub(super) fn is_multipart(&self) -> bool {
        self.has_type("multipart/")
    }

    /// Whether the body is declared to be text, such as a web page.
    pub(super) fn is_text(&self) -> bool {
        self.has_type("text/")
    }

    fn has_type(&self, start: &str) -> bool {
        let kind = self.content_type.as_deref().unwrap_or_default();
        kind.get(..start.len())
            .is_some_and(|kind| kind.eq_ignore_ascii_case(start))
    }

    fn framing(&self) -> Framing {
        match self.length {
            _ if self.chunked => Framing::Chunked(Chunk::First(Vec::new())),
            // For streams, cameras declare arbitrary lengths, even 0.
            Some(length) if !self.is_multipart() && !self.contradicts => Framing::Length(length),
            _ => Framing::UntilClosed,
        }
    }

    /// Parses one header line. Skips lines that do not matter to maskd.
    fn header(&mut self, name: &str, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let text = text.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-type" => self.content_type = Some(printable(text).into_owned()),
            "content-length" => self.length(text),
            "transfer-encoding" => {
                self.chunked = text.to_ascii_lowercase().contains("chunked");
            }
            "connection" => {
                let options = text.to_ascii_lowercase();
                if options.contains("close") {
                    self.keep_alive = false;
                } else if options.contains("keep-alive") {
                    self.keep_alive = true;
                }
            }
            "location" => self.location = Some(text.to_owned()),
            "www-authenticate" if self.challenges.len() < MAX_CHALLENGES => {
                self.challenges.push(text.to_owned());
            }
            _ => {}
        }
    }

    /// Parses a `Content-Length`. Negative and other impossible lengths are ignored. The
    /// length 0 is also ignored, because some cameras declare it for their streams.
    fn length(&mut self, text: &str) {
        let Some(length) = text.parse().ok().filter(|length| *length > 0) else {
            return;
        };
        if self.length.is_some_and(|other| other != length) {
            self.contradicts = true;
        }
        self.length = Some(length);
    }
}

/// The reason a response cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The head exceeds the maximum size.
    #[error("the head of its answer has more than 64 KiB")]
    LongHead,
    /// The status line contains no status.
    #[error("the first line of its answer has no HTTP status")]
    Status,
    /// The camera keeps sending interim responses, such as `100 Continue`.
    #[error("it keeps sending interim answers")]
    Interim,
    /// The size of a chunk is invalid.
    #[error("the lengths in its chunked answer are wrong")]
    Chunk,
    /// The camera uses TLS.
    #[error("it expects an encrypted connection, so write https:// instead of http://")]
    Tls,
}

/// Reads a response.
///
/// The result does not depend on how the bytes are divided among calls to
/// [`push`](AnswerReader::push).
#[derive(Debug)]
pub struct AnswerReader {
    state: State,
    head: Head,
    /// Bytes of the head that have not been parsed yet.
    held: Vec<u8>,
    /// Size in bytes of the part of the head that has been parsed.
    head_bytes: usize,
    /// The name and value of the latest header line. A folded line may continue this
    /// line.
    line: Option<(String, Vec<u8>)>,
    interim: u32,
    /// Whether bytes were received after the end of the body.
    surplus: bool,
}

#[derive(Debug)]
enum State {
    /// The status line has not been received yet.
    Start,
    Headers,
    Body(Framing),
    Complete,
}

/// Determines how the end of the body is found.
#[derive(Debug)]
enum Framing {
    UntilClosed,
    /// Number of bytes of the body that have not been received yet.
    Length(u64),
    Chunked(Chunk),
}

#[derive(Debug)]
enum Chunk {
    /// The first size line is being received. The bytes are the part of the line received
    /// so far. If the line does not contain a size, the body is not chunked.
    First(Vec<u8>),
    /// A later size line is being received. The bytes are the part of the line received
    /// so far.
    Size(Vec<u8>),
    /// A chunk is being received. The value is the number of its bytes that have not been
    /// received yet.
    Data(u64),
    /// The lines after the last chunk are being received. The value is true while the
    /// current line is empty.
    Trailer(bool),
}

impl Default for AnswerReader {
    fn default() -> AnswerReader {
        AnswerReader::new()
    }
}

impl AnswerReader {
    /// Creates a reader for the response to a GET request.
    #[must_use]
    pub fn new() -> AnswerReader {
        AnswerReader {
            state: State::Start,
            head: Head::default(),
            held: Vec::new(),
            head_bytes: 0,
            line: None,
            interim: 0,
            surplus: false,
        }
    }

    /// Returns the head once it is complete.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        match self.state {
            State::Start | State::Headers => None,
            State::Body(_) | State::Complete => Some(&self.head),
        }
    }

    /// Whether the body has ended even though the connection is still open.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Whether the connection can be used for another request.
    pub(super) fn can_continue(&self) -> bool {
        self.is_complete() && self.head.keep_alive && !self.surplus
    }

    /// Continues reading until the connection is closed, because the body is longer than
    /// declared.
    pub(super) fn ignore_length(&mut self) {
        self.state = State::Body(Framing::UntilClosed);
        self.surplus = true;
    }

    /// Number of bytes of the head that cannot be parsed until more bytes arrive. This
    /// number is at most [`MAX_HEAD`] plus the length of one push.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Parses the next bytes from the connection, and appends the bytes of the body to
    /// `body`.
    ///
    /// # Errors
    /// Returns an [`AnswerError`] if the response cannot be read. The reader must not be
    /// used afterward.
    pub fn push(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<(), AnswerError> {
        if self.head().is_some() {
            return self.body(bytes, body);
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while self.head().is_none() {
            let Some(length) = self.line(rest)? else {
                if self.head().is_none() {
                    self.held = rest.to_vec();
                }
                break;
            };
            rest = &rest[length..];
            self.head_bytes += length;
            if self.head_bytes > MAX_HEAD {
                return Err(AnswerError::LongHead);
            }
        }
        if self.head().is_some() {
            self.body(rest, body)?;
        }
        Ok(())
    }

    /// Notifies the reader that the connection was closed. The bytes received so far may
    /// be a complete response without a head.
    ///
    /// # Errors
    /// Returns the same errors as [`AnswerReader::push`].
    pub fn close(&mut self, body: &mut Vec<u8>) -> Result<(), AnswerError> {
        let held = std::mem::take(&mut self.held);
        match &mut self.state {
            State::Start => {
                self.state = State::Body(Framing::UntilClosed);
                body.extend(held);
            }
            State::Headers => {
                self.line(&[&held[..], b"\n"].concat())?;
                self.end_of_head()?;
                // The head belongs to an interim response, and no final response followed
                // it.
                if matches!(self.state, State::Start) {
                    self.state = State::Body(Framing::UntilClosed);
                }
            }
            State::Body(Framing::Chunked(Chunk::First(line))) => {
                body.append(line);
                self.state = State::Body(Framing::UntilClosed);
            }
            State::Body(_) | State::Complete => {}
        }
        Ok(())
    }

    /// Parses the line at the start of `text` and returns its length. Returns `None` if
    /// more bytes are needed or if the body starts here.
    fn line(&mut self, text: &[u8]) -> Result<Option<usize>, AnswerError> {
        let starting = matches!(self.state, State::Start);
        match starts_body(text) {
            None => return Ok(None),
            Some(true) => {
                self.end_of_head()?;
                return Ok(None);
            }
            Some(false) if starting && text.starts_with(&TLS_RECORD) => {
                return Err(AnswerError::Tls);
            }
            Some(false) => {}
        }
        let found = find_line(text);
        let (length, used) = found.unwrap_or((text.len(), text.len()));
        if starting && length > MAX_FIRST_LINE && !is_status_line(text) {
            self.state = State::Body(Framing::UntilClosed);
            return Ok(None);
        }
        if self.head_bytes + used > MAX_HEAD {
            return Err(AnswerError::LongHead);
        }
        if found.is_none() {
            return Ok(None);
        }
        let line = &text[..length];
        match self.state {
            State::Start if line.is_empty() => {}
            State::Start => match first_line(line)? {
                FirstLine::Status(head) => {
                    self.head = head;
                    self.state = State::Headers;
                }
                FirstLine::Header => {
                    self.state = State::Headers;
                    self.header_line(line);
                }
                FirstLine::Body => {
                    self.state = State::Body(Framing::UntilClosed);
                    return Ok(None);
                }
            },
            _ if line.is_empty() => self.end_of_head()?,
            _ => self.header_line(line),
        }
        Ok(Some(used))
    }

    /// Stores a header line until the next line arrives, because the next line may
    /// continue it.
    fn header_line(&mut self, line: &[u8]) {
        if let ([b' ' | b'\t', ..], Some((_, value))) = (line, &mut self.line) {
            value.push(b' ');
            value.extend(line.trim_ascii());
            return;
        }
        self.end_of_line();
        let colon = line.iter().position(|byte| *byte == b':');
        self.line = colon.map(|colon| {
            let name = String::from_utf8_lossy(line[..colon].trim_ascii());
            (name.into_owned(), line[colon + 1..].to_vec())
        });
    }

    fn end_of_line(&mut self) {
        if let Some((name, value)) = self.line.take() {
            self.head.header(&name, &value);
        }
    }

    fn end_of_head(&mut self) -> Result<(), AnswerError> {
        self.end_of_line();
        if (100..200).contains(&self.head.status) {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(AnswerError::Interim);
            }
            self.head = Head::default();
            self.state = State::Start;
        } else {
            self.state = State::Body(self.head.framing());
        }
        Ok(())
    }

    fn body(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<(), AnswerError> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Start | State::Headers => return Ok(()),
                State::Complete => {
                    self.surplus = true;
                    body.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Body(Framing::UntilClosed) => {
                    body.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Body(Framing::Length(left)) => {
                    let taken =
                        usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    body.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Complete;
                    }
                }
                State::Body(Framing::Chunked(chunk)) => {
                    let used = chunk.push(bytes, body)?;
                    bytes = &bytes[used.bytes..];
                    match used.next {
                        Next::Continue => {}
                        Next::Complete => self.state = State::Complete,
                        Next::NotChunked => self.state = State::Body(Framing::UntilClosed),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The result of parsing a piece of a chunked body.
struct Used {
    bytes: usize,
    next: Next,
}

enum Next {
    Continue,
    Complete,
    NotChunked,
}

impl Chunk {
    /// Parses bytes of a chunked body. Unless `bytes` is empty, consumes at least one
    /// byte.
    fn push(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<Used, AnswerError> {
        let mut used = Used {
            bytes: 1,
            next: Next::Continue,
        };
        let Some(first) = bytes.first() else {
            used.bytes = 0;
            return Ok(used);
        };
        let is_first = matches!(self, Chunk::First(_));
        match self {
            Chunk::Data(left) => {
                let taken =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                body.extend_from_slice(&bytes[..taken]);
                used.bytes = taken;
                *left -= taken as u64;
                if *left == 0 {
                    *self = Chunk::Size(Vec::new());
                }
            }
            Chunk::Trailer(empty) => match first {
                b'\n' if *empty => used.next = Next::Complete,
                b'\n' => *empty = true,
                b'\r' => {}
                _ => *empty = false,
            },
            // Blank lines before a size line end the previous chunk.
            Chunk::First(line) | Chunk::Size(line)
                if line.is_empty() && b"\r\n".contains(first) => {}
            Chunk::First(line) | Chunk::Size(line) if *first != b'\n' => {
                line.push(*first);
                let is_size = line[0].is_ascii_hexdigit() && line.len() <= MAX_CHUNK_LINE;
                if !is_size && is_first {
                    body.append(line);
                    used.next = Next::NotChunked;
                } else if !is_size {
                    return Err(AnswerError::Chunk);
                }
            }
            Chunk::First(line) | Chunk::Size(line) => match chunk_size(line) {
                Some(0) => *self = Chunk::Trailer(true),
                Some(size) => *self = Chunk::Data(size),
                None if is_first => {
                    body.append(line);
                    body.push(b'\n');
                    used.next = Next::NotChunked;
                }
                None => return Err(AnswerError::Chunk),
            },
        }
        Ok(used)
    }
}

/// Returns the number at the start of the size line before a chunk.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.split(|byte| *byte == b';').next()?;
    let digits = std::str::from_utf8(line.trim_ascii()).ok()?;
    let is_size = (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_size.then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The start of a TLS alert. A server that expects TLS sends such an alert in response to
/// an unencrypted request.
const TLS_RECORD: [u8; 2] = [0x15, 0x03];

/// Maximum length of a first line in bytes. If the first line is longer and is not a
/// status line, it already belongs to the body.
const MAX_FIRST_LINE: usize = 8 * 1024;

/// Whether `text` is the start of a body without a blank line before it. This happens if
/// the response has no head, or if its head does not end with a blank line. Such a body
/// starts with a boundary or a JPEG picture. Returns `None` if another byte is needed to
/// determine this.
fn starts_body(text: &[u8]) -> Option<bool> {
    match text {
        [] | [b'-' | 0xff | 0x15] => None,
        [b'-', b'-', ..] | [0xff, 0xd8, ..] => Some(true),
        _ => Some(false),
    }
}

/// Returns the length of the line at the start of `text`, both without and with its line
/// end. A line ends with a line feed, with carriage returns and a line feed, or with one
/// carriage return. Returns `None` if more bytes are needed.
fn find_line(text: &[u8]) -> Option<(usize, usize)> {
    let length = text.iter().position(|byte| b"\r\n".contains(byte))?;
    if text[length] == b'\n' {
        return Some((length, length + 1));
    }
    let next = text[length..].iter().position(|byte| *byte != b'\r')?;
    let used = if text[length + next] == b'\n' {
        next + 1
    } else {
        1
    };
    Some((length, length + used))
}

enum FirstLine {
    /// A status line. The head has no headers yet.
    Status(Head),
    /// A header line. The status line is missing.
    Header,
    /// Neither a status line nor a header line. The response has no head.
    Body,
}

fn first_line(line: &[u8]) -> Result<FirstLine, AnswerError> {
    if is_status_line(line) {
        return status_line(line).map(FirstLine::Status);
    }
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let name = name.trim_ascii();
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_header = line.contains(&b':') && !name.is_empty() && name.iter().all(is_name);
    Ok(if is_header {
        FirstLine::Header
    } else {
        FirstLine::Body
    })
}

/// Whether a line starts with the name of a protocol. Audio servers and RTSP use the same
/// format as HTTP.
fn is_status_line(line: &[u8]) -> bool {
    ["HTTP/", "HTTP ", "ICY ", "RTSP/"].iter().any(|start| {
        line.get(..start.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(start.as_bytes()))
    })
}

fn status_line(line: &[u8]) -> Result<Head, AnswerError> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.get(..3)?.parse().ok());
    let status = status.filter(|status| (100..1000).contains(status));
    let reason: Vec<&str> = words.collect();
    let version: Option<(&str, &str)> = version.split_once('/');
    Ok(Head {
        status: status.ok_or(AnswerError::Status)?,
        reason: printable(&reason.join(" ")).into_owned(),
        keep_alive: version.is_some_and(|(_, number)| number.starts_with("1.1")),
        ..Head::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Read {
        head: Head,
        body: Vec<u8>,
        complete: bool,
    }

    /// Pushes `bytes` in pieces, whose lengths cycle through `pieces`, and closes the
    /// reader.
    fn read_in(bytes: &[u8], pieces: &[usize]) -> Result<Read, AnswerError> {
        let mut reader = AnswerReader::new();
        let mut body = Vec::new();
        let mut rest = bytes;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((*pieces.next().unwrap()).clamp(1, rest.len()));
            reader.push(piece, &mut body)?;
            assert!(reader.held_bytes() <= MAX_HEAD);
            rest = later;
        }
        let complete = reader.is_complete();
        reader.close(&mut body)?;
        Ok(Read {
            head: reader.head().unwrap().clone(),
            body,
            complete,
        })
    }

    /// Reads the bytes twice, first in one push and then one by one, and checks that the
    /// results are equal.
    fn read(bytes: &[u8]) -> Read {
        let whole = read_in(bytes, &[usize::MAX]).unwrap();
        let single = read_in(bytes, &[1]).unwrap();
        assert_eq!(whole.head, single.head);
        assert_eq!(whole.body, single.body);
        assert_eq!(whole.complete, single.complete);
        whole
    }

    fn text(answer: &str) -> (Head, String) {
        let read = read(answer.as_bytes());
        (read.head, String::from_utf8(read.body).unwrap())
    }

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 data \r\n\r\n \xff\xd9";

    #[test]
    fn head_is_read_as_cameras_write_it() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Type: multipart/x; boundary=a\n\n",
            "HTTP/1.1 200 OK\rContent-Type: multipart/x; boundary=a\r\r",
            "HTTP/1.1 200 OK\r\r\nContent-Type: multipart/x; boundary=a\r\r\n\r\r\n",
            "HTTP/1.0 200\r\ncontent-type:multipart/x; boundary=a\r\n\r\n",
            "http/1.1 200 OK\r\nCONTENT-TYPE : multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 200OK\r\nServer IPCam\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP 200 OK\r\nContent-Type: multipart/x;\r\n boundary=a\r\n\r\n",
            "ICY 200 OK\r\nTue, 12 Jun 2012 01:56:34 GMT\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\n: x\r\n:\r\n\u{e4}: \0\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "Content-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Type: multipart/x; boundary=a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: multipart/x; boundary=a\r\n",
        ] {
            let (head, body) = text(&format!("{head}--a\r\n\r\nbody\r\n"));
            assert_eq!(head.status, 200, "{head:?}");
            assert!(head.is_multipart(), "{head:?}");
            assert_eq!(body, "--a\r\n\r\nbody\r\n", "{head:?}");
        }
    }

    #[test]
    fn answer_without_a_head_is_all_body() {
        for body in [
            JPEG,
            b"--a\r\n\r\nbody",
            b"<html>: x\r\n\r\ny",
            b"-",
            b"\xff",
            b"\r",
            b"",
        ] {
            let read = read(body);
            assert_eq!((read.head.status, read.head.keep_alive), (200, false));
            assert_eq!(read.body, body);
        }
        let long = "x".repeat(2 * MAX_HEAD);
        assert_eq!(text(&long).1, long);
    }

    #[test]
    fn length_ends_the_body_unless_it_is_impossible() {
        for (rest, complete, body) in [
            ("Content-Length: 4\r\n\r\nbody", true, "body"),
            ("Content-Length: 3\r\n\r\nbody", true, "body"),
            ("Content-Length: 5\r\n\r\nbody", false, "body"),
            ("Content-Length: 0\r\n\r\nbody", false, "body"),
            ("Content-Length: -1\r\n\r\nbody", false, "body"),
            ("Content-Length: 2147483647\r\n\r\nbody", false, "body"),
            (
                "Content-Length: 99999999999999999999\r\n\r\nbody",
                false,
                "body",
            ),
            (
                "Content-Length: 3\r\nContent-Length: 4\r\n\r\nbody",
                false,
                "body",
            ),
            // The second line continues the first one, so it is not a length.
            ("A: b\r\n Content-Length: 3\r\n\r\nbody", false, "body"),
            // The body is not chunked, although the head says so.
            ("Transfer-Encoding: chunked\r\n\r\n--body", false, "--body"),
            (
                "Transfer-Encoding: chunked\r\n\r\n5 body\nx",
                false,
                "5 body\nx",
            ),
            ("Transfer-Encoding: chunked\r\n\r\n5", false, "5"),
            (
                "Transfer-Encoding: Chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
                true,
                "body",
            ),
            (
                "Transfer-Encoding: chunked\n\n2 ;x=y\nbo002\ndy0\nA: b\n\n",
                true,
                "body",
            ),
        ] {
            let read = read(format!("HTTP/1.1 200 OK\r\n{rest}").as_bytes());
            assert_eq!(String::from_utf8(read.body).unwrap(), body, "{rest}");
            assert_eq!(read.complete, complete, "{rest}");
        }
    }

    #[test]
    fn connection_is_kept_only_after_a_whole_answer() {
        for (answer, kept) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody!", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbod", false),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
                false,
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", false),
            (
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 4\r\n\r\nbody",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
                true,
            ),
        ] {
            let mut reader = AnswerReader::new();
            reader.push(answer.as_bytes(), &mut Vec::new()).unwrap();
            assert_eq!(reader.can_continue(), kept, "{answer}");
        }
    }

    #[test]
    fn limits_and_nonsense_are_told() {
        let error = |answer: &str| {
            let whole = read_in(answer.as_bytes(), &[usize::MAX]).err();
            assert_eq!(read_in(answer.as_bytes(), &[7]).err(), whole);
            whole
        };
        let long = "a".repeat(MAX_HEAD);
        assert_eq!(
            error(&format!("HTTP/1.1 200 OK\r\nA: {long}")),
            Some(AnswerError::LongHead)
        );
        let many = "A: b\r\n".repeat(MAX_HEAD / 6);
        assert_eq!(
            error(&format!("HTTP/1.1 200 OK\r\n{many}")),
            Some(AnswerError::LongHead)
        );
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(20);
        assert_eq!(error(&interim), Some(AnswerError::Interim));
        assert_eq!(error("HTTP/1.1 OK\r\n\r\n"), Some(AnswerError::Status));
        assert_eq!(error("HTTP/1.1\r\n\r\n"), Some(AnswerError::Status));
        assert_eq!(error("\x15\x03\x01\0\x02\x02\x46"), Some(AnswerError::Tls));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
        assert_eq!(
            error(&format!("{chunked}nonsense")),
            Some(AnswerError::Chunk)
        );
        assert_eq!(
            error(&format!("{chunked}11111111111111111\r\n")),
            Some(AnswerError::Chunk)
        );
    }

    #[test]
    fn control_characters_of_a_head_are_escaped() {
        let (head, _) = text("HTTP/1.1 404 No\x1b[31m\r\nContent-Type: a\x07b\r\n\r\n");
        assert_eq!(head.reason, "No\\u{1b}[31m");
        assert_eq!(head.content_type.as_deref(), Some("a\\u{7}b"));
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_an_answer(
            start in prop::sample::select(vec!["HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 \n\n", "", "A: b\n"]),
            headers in prop::collection::vec(prop::sample::select(vec![
                "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", " folded\n", "x\r\r\n",
                "Content-Type: multipart/x\n", "\r", "--", "\r\n",
            ]), 0..6),
            body in prop::collection::vec(prop::sample::select(vec![
                "\r\n", "5\r\n", "hello", "0\r\n", "a;b\n", "\r", "x", "\n",
            ]), 0..10),
            pieces in prop::collection::vec(1..9_usize, 1..5),
        ) {
            let answer = format!("{start}{}\r\n{}", headers.concat(), body.concat());
            let whole = read_in(answer.as_bytes(), &[usize::MAX]);
            let cut = read_in(answer.as_bytes(), &pieces);
            match (whole, cut) {
                (Ok(whole), Ok(cut)) => {
                    prop_assert_eq!(whole.head, cut.head);
                    prop_assert_eq!(whole.body, cut.body);
                    prop_assert_eq!(whole.complete, cut.complete);
                }
                (whole, cut) => prop_assert_eq!(whole.err(), cut.err()),
            }
        }
    }
}
