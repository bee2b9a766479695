//! A server that receives webhooks, over HTTP or HTTPS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::text;

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub struct Received {
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|(key, _)| key == name);
        header.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A server that receives webhooks. While it does not answer, it keeps all connections open.
pub struct Receiver {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    pub answers: Arc<AtomicBool>,
    scheme: &'static str,
}

impl Receiver {
    pub fn start(answers: bool) -> Receiver {
        Receiver::start_with(answers, None)
    }

    /// Starts a receiver with the certificate and the key in `folder` that have this name.
    pub fn start_with_tls(folder: &Path, name: &str) -> Receiver {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let certificate = CertificateDer::from_pem_file(file("pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Receiver::start_with(true, Some(Arc::new(config)))
    }

    #[expect(clippy::disallowed_methods, reason = "the receiver needs a thread")]
    fn start_with(answers: bool, tls: Option<Arc<ServerConfig>>) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            port: listener.local_addr().unwrap().port(),
            received: Arc::default(),
            answers: Arc::new(AtomicBool::new(answers)),
            scheme: if tls.is_some() { "https" } else { "http" },
        };
        let (received, answers) = (
            Arc::clone(&receiver.received),
            Arc::clone(&receiver.answers),
        );
        thread::spawn(move || {
            let mut silent: Vec<Box<dyn Send>> = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut stream: Box<dyn Connection> = match &tls {
                    None => Box::new(stream),
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                        Box::new(StreamOwned::new(connection, stream))
                    }
                };
                // A connection without a request is a check, or the client refuses the
                // certificate.
                let Some(request) = read_request(&mut stream) else {
                    continue;
                };
                received.lock().unwrap().push(request);
                if answers.load(Ordering::Relaxed) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    let _ = stream.flush();
                } else {
                    silent.push(Box::new(stream));
                }
            }
        });
        receiver
    }

    pub fn url(&self) -> String {
        let (scheme, port) = (self.scheme, self.port);
        format!("{scheme}://127.0.0.1:{port}/hook?token=Qx7Z9")
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

/// A connection with or without encryption.
trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

fn read_request(stream: &mut impl Read) -> Option<Received> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut headers = Vec::new();
    reader
        .read_line(&mut line)
        .ok()
        .filter(|length| *length > 0)?;
    assert_eq!(line, "POST /hook?token=Qx7Z9 HTTP/1.1\r\n");
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut received = Received {
        headers,
        body: String::new(),
    };
    let mut body = vec![0; received.header("content-length").parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    received.body = text(&body);
    Some(received)
}
