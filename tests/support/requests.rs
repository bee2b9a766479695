//! Sends HTTP requests to a daemon, over its Unix socket or over TCP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::text;

/// A response: its status, its head, and its body.
pub type Answer = (u16, String, Vec<u8>);

/// Returns a request. Each line of `header` ends with a line break.
pub fn request(method: &str, path: &str, header: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends a request over a connection. Returns `None` if no complete response arrives.
pub fn ask(mut stream: impl Read + Write, request: &str) -> Option<Answer> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = text(&answer[..end]);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head, answer[end + 4..].to_vec()))
}

/// Sends a GET request over the socket of a daemon.
pub fn get(socket: &Path, path: &str, header: &str) -> Option<Answer> {
    let request = request("GET", path, header, "");
    ask(UnixStream::connect(socket).ok()?, &request)
}

/// Returns the JSON that a daemon returns, or `None` if it does not respond yet.
pub fn get_json(socket: &Path, path: &str) -> Option<Value> {
    serde_json::from_slice(&get(socket, path, "")?.2).ok()
}
