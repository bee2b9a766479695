//! Tests how the daemon handles many clients, and clients that are slow, silent, or dead.
//! All tests use the real binary, its control socket, and its page.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads"
)]

mod support;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use support::{ServiceManager, golden_crops, interrupt, maskd, root, text, wait};

const PASSWORD: &str = "correct horse battery staple";

/// A config in which the camera shows five pictures per second and refits are disabled.
const QUICK: &str = "[camera]\nplayback-fps = 5.0\n[refit]\nenabled = false\n";

/// A daemon, and the folder with its config and state directory.
struct Door {
    folder: tempfile::TempDir,
    child: Option<Child>,
    port: u16,
    token: String,
}

/// A parsed HTTP response.
#[derive(Debug)]
struct Response {
    status: u16,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Waits until `found` returns a value.
#[track_caller]
fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(start.elapsed() < limit, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const PATIENCE: Duration = Duration::from_mins(1);

/// An answer that comes within this time was not held up by the work for other clients,
/// which lasts much longer. The machine may be busy.
const PROMPT: Duration = Duration::from_secs(5);

fn read_response(mut stream: impl Read) -> Option<Response> {
    let mut bytes = Vec::new();
    // The connection may be reset after an early response.
    let _ = stream.read_to_end(&mut bytes);
    let answer = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some(Response {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: body.to_owned(),
    })
}

impl Door {
    /// Creates a folder with a config, but does not start a daemon.
    fn new(config: &str) -> Door {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("maskd.toml"), config).unwrap();
        Door {
            folder,
            child: None,
            port: 0,
            token: String::new(),
        }
    }

    /// Starts a daemon without a page.
    fn open(config: &str) -> Door {
        let mut door = Door::new(config);
        door.start(|_| {});
        door.wait_for_socket();
        door
    }

    /// Starts a daemon with a page. The lines in `web` are added to the config's section
    /// for the page.
    fn with_page(web: &str) -> Door {
        let words = text(&maskd().args(["passwd", "--token"]).output().unwrap().stdout);
        let words: Vec<&str> = words.split_whitespace().collect();
        let hash = maskd::api::web::hash_password(PASSWORD).unwrap();
        let mut door = Door::new(&format!(
            "{QUICK}[web]\nlisten = \"127.0.0.1:0\"\npassword-hash = '{hash}'\n\
             token-hashes = [\"{}\"]\n{web}",
            words[3]
        ));
        words[1].clone_into(&mut door.token);
        door.start(|_| {});
        door.wait_for_socket();
        door.port = until("the page", PATIENCE, || {
            let log = door.log();
            let (_, rest) = log.split_once("the page is at ")?;
            let address = rest.split_whitespace().next()?;
            address.rsplit(':').next()?.parse().ok()
        });
        door
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = maskd();
        command.args(words);
        command.arg("--config").arg(self.at("maskd.toml"));
        command.arg("--state").arg(self.at("state"));
        command
    }

    /// Starts the daemon and waits until it is ready.
    fn start(&mut self, prepare: impl FnOnce(&mut Command)) {
        let mut command = self.command(&["run", "--json"]);
        let log = File::create(self.at("log")).unwrap();
        command.stdout(Stdio::null()).stderr(log);
        prepare(&mut command);
        self.child = Some(command.spawn().unwrap());
        until("the daemon", PATIENCE, || {
            self.log().contains("ready").then_some(())
        });
    }

    fn wait_for_socket(&self) {
        until("the socket", PATIENCE, || {
            UnixStream::connect(self.socket()).ok()
        });
    }

    fn log(&self) -> String {
        let log = fs::read(self.at("log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn signal(&self, name: &str) {
        interrupt(self.child.as_ref().unwrap(), name);
    }

    fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().unwrap();
        child.try_wait().unwrap().is_none()
    }

    /// Stops the daemon, and returns the time that this took.
    fn end(&mut self) -> Duration {
        self.signal("-TERM");
        let start = Instant::now();
        let mut child = self.child.take().unwrap();
        let code = wait(&mut child, Duration::from_secs(20));
        assert_eq!(code, Some(0), "{}", self.log());
        start.elapsed()
    }

    /// Stops the daemon like [`Door::end`], and removes the folder.
    fn stop(mut self) -> Duration {
        self.end()
    }

    fn socket(&self) -> PathBuf {
        self.at("state/control.sock")
    }

    /// Sends a request to the control socket, but does not read the response.
    fn send(&self, request: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    fn ask(&self, request: &str, body: &str) -> Response {
        read_response(self.send(request, body)).unwrap()
    }

    fn status(&self) -> Value {
        self.ask("GET /api/v1/status", "").json()
    }

    /// Connects to the page from an address of the loopback network.
    fn connect_from(&self, last: u8) -> std::io::Result<TcpStream> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            // The buffer is small, so that the daemon soon notices if a client reads
            // nothing.
            socket.set_recv_buffer_size(4096)?;
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)))?;
            let page = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            socket.connect(page).await?.into_std()
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends a request to the page. Returns `None` if the connection is closed without
    /// a response.
    fn ask_page(&self, last: u8, request: &str, line: &str, body: &str) -> Option<Response> {
        let mut stream = self.connect_from(last).ok()?;
        let length = body.len();
        let request = format!(
            "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-length: {length}\r\n{line}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        read_response(stream)
    }

    fn log_in(&self, last: u8, password: &str) -> Option<u16> {
        let body = json!({ "password": password }).to_string();
        let answer = self.ask_page(last, "POST /api/v1/session", "", &body)?;
        Some(answer.status)
    }

    fn with_token(&self, request: &str, body: &str) -> Response {
        let line = format!("authorization: Bearer {}\r\n", self.token);
        self.ask_page(1, request, &line, body).unwrap()
    }

    /// Returns the number of completed refits.
    fn refits(&self) -> u64 {
        let metrics = self.ask("GET /metrics", "").body;
        let counts = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix("maskd_refits_total{")?;
            rest.split_whitespace().last()?.parse::<u64>().ok()
        });
        counts.sum()
    }

    /// Imports labeled pictures, so that a refit takes a while.
    fn import_faces(&self) {
        let set = self.at("faces");
        for (label, prefix) in [("without_mask", "bare_"), ("with_mask", "mask_")] {
            let class = set.join(label);
            fs::create_dir_all(&class).unwrap();
            for (name, picture) in golden_crops(prefix) {
                for piece in 0..4_u32 {
                    let (x, y) = (6 * piece, 3 * piece);
                    let (width, height) = (picture.width() - 2 * x, picture.height() - 2 * y);
                    image::imageops::crop_imm(&picture, x, y, width, height)
                        .to_image()
                        .save(class.join(format!("{piece}_{name}")))
                        .unwrap();
                }
            }
        }
        let body = json!({ "folder": set }).to_string();
        let answer = self.ask("POST /api/v1/samples/import", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

// Imports and refits.

#[test]
fn a_large_import_delays_neither_answers_nor_the_stop() {
    let door = Door::open(QUICK);
    let set = door.at("large/first");
    fs::create_dir_all(&set).unwrap();
    for number in 0..2000_u32 {
        let shade = Rgb([(number % 256) as u8, (number / 256) as u8, 90]);
        let path = set.join(format!("{number}.bmp"));
        RgbImage::from_pixel(100, 100, shade).save(path).unwrap();
    }
    let body = json!({ "folder": door.at("large") }).to_string();
    let imports: Vec<UnixStream> = (0..4)
        .map(|_| door.send("POST /api/v1/samples/import", &body))
        .collect();
    for _ in 0..5 {
        for request in ["GET /healthz", "GET /api/v1/settings"] {
            let start = Instant::now();
            assert_eq!(door.ask(request, "").status, 200);
            assert!(start.elapsed() < PROMPT, "{request}");
        }
    }
    let took = door.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(imports);
}

#[test]
fn an_import_ends_with_its_client() {
    let door = Door::open(QUICK);
    let set = door.at("large/first");
    fs::create_dir_all(&set).unwrap();
    for number in 0..3000_u32 {
        let shade = Rgb([(number % 256) as u8, (number / 256) as u8, 90]);
        let path = set.join(format!("{number:04}.bmp"));
        RgbImage::from_pixel(300, 300, shade).save(path).unwrap();
    }
    let body = json!({ "folder": door.at("large") }).to_string();
    let count = || {
        door.status()["samples"]["first"]["samples"]
            .as_u64()
            .unwrap_or(0)
    };
    let import = door.send("POST /api/v1/samples/import", &body);
    until("some pictures", PATIENCE, || (count() > 0).then_some(()));
    drop(import);
    until("the end of the import", PATIENCE, || {
        let before = count();
        std::thread::sleep(Duration::from_millis(500));
        (count() == before).then_some(())
    });
    assert!(count() < 3000, "{}", count());
    // The pictures copied so far are kept, and repeating the import adds the others.
    let before = count();
    let again = door.ask("POST /api/v1/samples/import", &body).json();
    assert_eq!(again["already"], before, "{again}");
    assert_eq!(count(), 3000);
}

/// Returns the response to a request that trains. Training has the lowest priority and takes a
/// while on a busy machine.
fn after_training(client: UnixStream) -> Response {
    client
        .set_read_timeout(Some(Duration::from_mins(4)))
        .unwrap();
    read_response(client).unwrap()
}

#[test]
fn hundreds_of_refits_run_as_one() {
    let door = Door::open(QUICK);
    door.import_faces();
    let clients: Vec<UnixStream> = (0..300)
        .map(|_| door.send("POST /api/v1/refit", ""))
        .collect();
    let healthy = Instant::now();
    assert_eq!(door.ask("GET /healthz", "").status, 200);
    assert!(healthy.elapsed() < PROMPT);
    let mut reasons = Vec::new();
    for client in clients {
        let answer = after_training(client);
        assert_eq!(answer.status, 200, "{answer:?}");
        reasons.push(answer.json());
    }
    let refits = door.refits();
    assert!(
        (1..=4).contains(&refits),
        "{refits} refits for 300 requests"
    );
    assert!(!door.log().contains("WARN"), "{}", door.log());
    door.stop();
}

#[test]
fn a_refit_that_nobody_waits_for_does_not_start() {
    let door = Door::open(QUICK);
    door.import_faces();
    let first = door.send("POST /api/v1/refit", "");
    until("the first refit", PATIENCE, || {
        (door.status()["live"]["refitting"] == true).then_some(())
    });
    let others: Vec<UnixStream> = (0..3)
        .map(|_| door.send("POST /api/v1/refit", ""))
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(door.refits(), 0, "the first refit is still running");
    drop(others);
    assert_eq!(after_training(first).status, 200);
    // A refit for the other clients would have started immediately.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(door.refits(), 1);
    assert_eq!(door.status()["live"]["refitting"], false);
    // A client that waits gets a response even though another client has disconnected.
    let left = door.send("POST /api/v1/refit", "");
    let waits = door.send("POST /api/v1/refit", "");
    drop(left);
    assert_eq!(after_training(waits).status, 200);
}

#[test]
fn slow_clients_of_the_socket_are_closed_and_others_are_answered() {
    let door = Door::open(QUICK);
    let mut slow: Vec<UnixStream> = Vec::new();
    for number in 0..600 {
        let Ok(mut stream) = UnixStream::connect(door.socket()) else {
            break;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let part: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /api/v1/sta",
            _ => {
                b"POST /api/v1/samples/label HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n{"
            }
        };
        let _ = stream.write_all(part);
        slow.push(stream);
        if number % 100 == 99 {
            let start = Instant::now();
            assert_eq!(door.ask("GET /healthz", "").status, 200);
            assert!(start.elapsed() < PROMPT, "after {number}");
        }
    }
    let start = Instant::now();
    for mut stream in slow {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let is_open = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_open, "a slow client is still connected");
    }
    assert!(start.elapsed() < Duration::from_secs(40));
    let took = door.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_large_upload_is_refused_and_changes_nothing() {
    let door = Door::open(QUICK);
    let mut stream = UnixStream::connect(door.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        "POST /api/v1/samples/label HTTP/1.1\r\nhost: x\r\ncontent-length: 104857600\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let part = vec![b' '; 65536];
    let mut sent = 0;
    while sent < 100 * 1024 * 1024 && stream.write_all(&part).is_ok() {
        sent += 65536;
    }
    assert!(sent < 4 * 1024 * 1024, "{sent} bytes were taken");
    let start = Instant::now();
    assert_eq!(door.ask("GET /healthz", "").status, 200);
    assert!(start.elapsed() < PROMPT);
    door.stop();
}

/// A client that reads nothing must not occupy memory and a connection forever.
#[test]
fn a_client_of_the_socket_that_reads_nothing_is_closed() {
    let door = Door::open(QUICK);
    let mut stream = UnixStream::connect(door.socket()).unwrap();
    let limit = Some(Duration::from_secs(2));
    stream.set_write_timeout(limit).unwrap();
    let request = "GET /api/v1/heads HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    // Requests are sent until the daemon stops reading them, because the client does
    // not read the responses.
    while stream.write_all(request.as_bytes()).is_ok() {}
    let closed = until("the end of the connection", PATIENCE, || {
        match stream.write_all(b"GET / HTTP/1.1\r\n") {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => Some(error.kind()),
            Ok(()) => None,
        }
    });
    assert!(matches!(
        closed,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    ));
}

// The page.

/// Sends requests without reading the responses, until the connection accepts no more
/// data.
fn send_without_reading(stream: &mut TcpStream, request: &str) {
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let many = request.repeat(100);
    for _ in 0..200 {
        if stream.write_all(many.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn clients_that_read_nothing_do_not_close_the_page() {
    let door = Door::with_page("");
    let request = "GET /main.js HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut strangers = Vec::new();
    for number in 0..136 {
        // The connections come from four unknown addresses.
        let Ok(mut stream) = door.connect_from(2 + number % 4) else {
            continue;
        };
        if number < 8 {
            send_without_reading(&mut stream, request);
        } else {
            stream
                .set_write_timeout(Some(Duration::from_millis(10)))
                .unwrap();
            let _ = stream.write_all(request.repeat(60).as_bytes());
        }
        strangers.push(stream);
    }
    for _ in 0..5 {
        let start = Instant::now();
        let answer = door
            .ask_page(1, "GET /", "", "")
            .expect("the page is closed");
        assert_eq!(answer.status, 200);
        assert!(start.elapsed() < PROMPT);
    }
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    // An address that already has too many connections is also accepted, because the
    // daemon closes one of its older connections.
    let answer = door
        .ask_page(2, "GET /", "", "")
        .expect("closed for a stranger");
    assert_eq!(answer.status, 200);
    // After this time, the daemon must have closed all connections that make no
    // progress.
    std::thread::sleep(Duration::from_secs(14));
    let mut open = 0;
    for stream in &mut strangers {
        let limit = Some(Duration::from_millis(10));
        stream.set_write_timeout(limit).unwrap();
        // After the first write to a closed connection, the system reports an error for
        // the next write.
        let _ = stream.write_all(b"x");
        std::thread::sleep(Duration::from_millis(5));
        match stream.write_all(b"x") {
            Ok(()) => open += 1,
            Err(error) => open += usize::from(error.kind() == ErrorKind::WouldBlock),
        }
    }
    assert_eq!(open, 0);
    door.stop();
}

#[test]
fn one_address_cannot_take_all_connections() {
    let door = Door::with_page("");
    let mut silent = Vec::new();
    let start = Instant::now();
    // Slow and silent clients keep connecting from several addresses.
    for round in 0..40 {
        for last in 2..12 {
            if let Ok(mut stream) = door.connect_from(last) {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ");
                silent.push(stream);
            }
        }
        if round % 8 == 7 {
            let answer = door.ask_page(1, "GET /api/v1/session", "", "");
            assert_eq!(answer.expect("the page is closed").status, 200);
        }
    }
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    assert!(
        start.elapsed() < Duration::from_secs(9),
        "the test was too slow"
    );
    door.stop();
}

#[test]
fn a_viewer_who_does_not_read_is_closed() {
    let door = Door::with_page("live-fps = 30.0\n");
    let mut viewer = door.connect_from(2).unwrap();
    let head = format!(
        "GET /api/v1/live/stream HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        door.token
    );
    viewer.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    viewer.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    std::thread::sleep(Duration::from_secs(25));
    // The client can still read the data that was sent before the connection was closed.
    let start = Instant::now();
    let mut bytes = vec![0; 65536];
    let end = loop {
        match viewer.read(&mut bytes) {
            Ok(0) | Err(_) => break true,
            Ok(_) if start.elapsed() > Duration::from_secs(10) => break false,
            Ok(_) => {}
        }
    };
    assert!(end, "the stream goes on");
    door.stop();
}

#[test]
fn a_stranger_cannot_use_up_the_owners_log_in_attempts() {
    let door = Door::with_page("");
    let mut refused = 0;
    for last in 2..30 {
        for _ in 0..6 {
            if door.log_in(last, "guess") == Some(429) {
                refused += 1;
            }
        }
    }
    assert!(refused >= 28, "guessing is limited: {refused}");
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    // An address that has logged in has its own limit for attempts.
    for last in 30..150 {
        door.log_in(last, "guess");
    }
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    door.stop();
}

// Enrollments.

fn enrollment_is_over(door: &Door) -> bool {
    let enrollment = door.ask("GET /api/v1/enroll", "").json();
    enrollment["taken"].as_u64() >= enrollment["wanted"].as_u64()
}

#[test]
fn an_enrollment_ends_with_its_client() {
    let door = Door::open(QUICK);
    let mut client = door
        .command(&["enroll", "chin", "--count", "1000", "--seconds", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the enrollment", PATIENCE, || {
        (door.ask("GET /api/v1/enroll", "").status == 200).then_some(())
    });
    // A client that is alive keeps its enrollment.
    std::thread::sleep(Duration::from_secs(7));
    assert!(!enrollment_is_over(&door));
    client.kill().unwrap();
    client.wait().unwrap();
    until("the end of the enrollment", Duration::from_secs(10), || {
        // Requesting the status does not keep the enrollment alive.
        door.status();
        enrollment_is_over(&door).then_some(())
    });
    until("the line in the log", Duration::from_secs(20), || {
        door.log().contains("enrollment").then_some(())
    });
    door.stop();
}

#[test]
fn an_enrollment_ends_at_its_deadline() {
    let door = Door::open(QUICK);
    let body = json!({ "label": "chin", "count": 1000, "seconds": 2 }).to_string();
    assert_eq!(door.ask("POST /api/v1/enroll", &body).status, 200);
    assert!(!enrollment_is_over(&door));
    let start = Instant::now();
    until("the end", Duration::from_secs(10), || {
        enrollment_is_over(&door).then_some(())
    });
    assert!(start.elapsed() > Duration::from_secs(1));
    // If a request has no deadline, the enrollment gets a default deadline.
    let body = json!({ "label": "chin", "count": 1000 }).to_string();
    let next = door.ask("POST /api/v1/enroll", &body);
    assert_eq!(next.status, 200, "{next:?}");
    for seconds in ["0", "65536", "-1", "1e9"] {
        let body = format!("{{\"label\":\"chin\",\"count\":3,\"seconds\":{seconds}}}");
        assert_eq!(door.ask("POST /api/v1/enroll", &body).status, 400);
    }
    door.stop();
}

#[test]
fn an_enrollment_that_another_client_ends_is_not_taken_for_the_next_one() {
    let door = Door::open(QUICK);
    let mut client = door
        .command(&["enroll", "chin", "--count", "1000", "--seconds", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the enrollment", PATIENCE, || {
        (door.ask("GET /api/v1/enroll", "").status == 200).then_some(())
    });
    // Another client ends this enrollment and starts its own.
    assert_eq!(door.ask("DELETE /api/v1/enroll", "").status, 200);
    let body = json!({ "label": "other", "count": 1000, "seconds": 600 }).to_string();
    let next = door.ask("POST /api/v1/enroll", &body).json();
    let code = wait(&mut client, Duration::from_secs(20));
    let mut errors = String::new();
    let mut pipe = client.stderr.take().unwrap();
    pipe.read_to_string(&mut errors).unwrap();
    assert_eq!(code, Some(75), "{errors}");
    assert!(errors.contains("ended"), "{errors}");
    assert!(errors.contains("chin"), "{errors}");
    let now = door.ask("GET /api/v1/enroll", "").json();
    assert_eq!(now["id"], next["id"]);
    assert_eq!(now["wanted"], 1000, "the first client ended it: {now}");
    door.stop();
}

// Settings.

#[test]
fn a_setting_that_could_not_be_saved_is_told_until_it_is() {
    let door = Door::with_page("");
    let file = door.at("maskd.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "[tea]\n").unwrap();
    let changed = door.with_token("PATCH /api/v1/settings", r#"{"hold_ms":900}"#);
    assert!(changed.json()["not_saved"].is_string(), "{changed:?}");
    let told = |door: &Door| {
        let problems = door.status()["live"]["problems"]["settings"].clone();
        problems.as_str().map(ToOwned::to_owned)
    };
    let sentence = until("the status", Duration::from_secs(5), || told(&door));
    assert!(sentence.contains("decide.hold-ms"), "{sentence}");
    // The command also reads the config, even though the config is invalid at the
    // moment.
    let mut status = maskd();
    status.arg("status").arg("--state").arg(door.at("state"));
    let shown = text(&status.output().unwrap().stdout);
    assert!(shown.contains("decide.hold-ms"), "{shown}");
    let live = door.with_token("GET /api/v1/live", "").json();
    assert!(live["problems"]["settings"].is_string(), "{live}");
    assert!(
        door.ask("GET /metrics", "")
            .body
            .contains("maskd_problem{topic=\"settings\"} 1")
    );
    until("the line in the log", Duration::from_secs(20), || {
        door.log().contains("decide.hold-ms").then_some(())
    });
    // A second change that cannot be saved does not replace the first change.
    door.with_token("PATCH /api/v1/settings", r#"{"confirm_ms":700}"#);
    let both = until("both settings", Duration::from_secs(5), || {
        told(&door).filter(|told| told.contains("confirm-ms"))
    });
    assert!(both.contains("decide.hold-ms"), "{both}");
    // Once the file can be written, a retry or the next change saves everything.
    fs::write(&file, &good).unwrap();
    door.with_token("PATCH /api/v1/settings", r#"{"confirm_ms":800}"#);
    let saved = fs::read_to_string(&file).unwrap();
    assert!(
        saved.contains("hold-ms = 900") && saved.contains("confirm-ms = 800"),
        "{saved}"
    );
    until("the end of the problem", Duration::from_secs(5), || {
        told(&door).is_none().then_some(())
    });
    door.stop();
}

#[test]
fn a_setting_that_could_not_be_saved_is_saved_later() {
    let door = Door::open(QUICK);
    let file = door.at("maskd.toml");
    fs::remove_file(&file).unwrap();
    let changed = door.ask("PATCH /api/v1/settings", r#"{"hold_ms":900}"#);
    assert!(changed.json()["not_saved"].is_string(), "{changed:?}");
    fs::write(&file, QUICK).unwrap();
    until("the setting in the file", Duration::from_mins(1), || {
        fs::read_to_string(&file)
            .unwrap()
            .contains("hold-ms = 900")
            .then_some(())
    });
    until("the end of the problem", Duration::from_secs(5), || {
        door.ask("GET /api/v1/settings", "").json()["not_saved"]
            .is_null()
            .then_some(())
    });
    door.stop();
}

// Signals.

#[test]
fn sighup_reloads_what_may_change_while_running() {
    let mut door = Door::with_page("");
    let file = door.at("maskd.toml");
    let config = fs::read_to_string(&file).unwrap();
    let other = maskd::api::web::hash_password("another password").unwrap();
    let hash = config
        .lines()
        .find(|line| line.starts_with("password-hash"))
        .unwrap();
    let changed = config
        .replace(hash, &format!("password-hash = '{other}'"))
        .replace("[camera]", "[decide]\nhold-ms = 4321\n[camera]")
        .replace("playback-fps = 5.0", "playback-fps = 6.0");
    fs::write(&file, changed).unwrap();
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    door.signal("-HUP");
    until("the new settings", Duration::from_secs(20), || {
        let settings = door.ask("GET /api/v1/settings", "").json();
        (settings["now"]["hold_ms"] == 4321).then_some(())
    });
    assert_eq!(door.log_in(2, "another password"), Some(200));
    assert_eq!(door.log_in(3, PASSWORD), Some(401));
    // Changed settings that require a restart are listed until the restart.
    let problem = door.status()["live"]["problems"]["config"].clone();
    assert!(
        problem.as_str().unwrap().contains("camera.playback-fps"),
        "{problem}"
    );
    assert!(door.is_running());
    door.stop();
}

#[test]
fn a_broken_config_at_sighup_keeps_the_old_one_and_is_told() {
    let mut door = Door::with_page("");
    let file = door.at("maskd.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        config.replace("[camera]", "[decide]\nhold-ms = 1e9\n[camera]"),
    )
    .unwrap();
    door.signal("-HUP");
    let told = |door: &Door| door.status()["live"]["problems"]["config"].clone();
    until("the problem", Duration::from_secs(20), || {
        told(&door).is_string().then_some(())
    });
    assert!(
        told(&door).as_str().unwrap().contains("hold-ms"),
        "{}",
        told(&door)
    );
    // The log has a thread of its own, so a log line may appear later than the
    // response.
    until("the warning in the log", Duration::from_secs(20), || {
        door.log().contains("WARN").then_some(())
    });
    assert_eq!(door.log_in(1, PASSWORD), Some(200));
    // A reload never disables access control.
    fs::write(&file, "[camera]\nplayback-fps = 5.0\n").unwrap();
    door.signal("-HUP");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        door.ask_page(1, "GET /api/v1/status", "", "")
            .unwrap()
            .status,
        401
    );
    fs::write(&file, config).unwrap();
    door.signal("-HUP");
    until("the end of the problem", Duration::from_secs(20), || {
        told(&door).is_null().then_some(())
    });
    assert!(door.is_running());
    door.stop();
}

#[test]
fn many_sighups_at_any_time_do_not_end_the_daemon() {
    let mut door = Door::new(QUICK);
    let mut command = door.command(&["run", "--json"]);
    let log = File::create(door.at("log")).unwrap();
    command.stdout(Stdio::null()).stderr(log);
    door.child = Some(command.spawn().unwrap());
    // The daemon must catch SIGHUP before it loads the models, because loading them takes a
    // while.
    let status = format!("/proc/{}/status", door.child.as_ref().unwrap().id());
    until("the signal handler", Duration::from_secs(20), || {
        let status = fs::read_to_string(&status).unwrap();
        let (_, caught) = status.split_once("SigCgt:").unwrap();
        let caught = caught.split_whitespace().next().unwrap();
        // The lowest bit stands for SIGHUP, whose number is 1.
        (u64::from_str_radix(caught, 16).unwrap() & 1 == 1).then_some(())
    });
    let is_early = !door.log().contains("ready");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        door.signal("-HUP");
        std::thread::sleep(Duration::from_millis(10));
        assert!(door.is_running(), "{}", door.log());
    }
    assert!(is_early, "SIGHUP is caught too late");
    door.wait_for_socket();
    assert_eq!(door.ask("GET /healthz", "").status, 200);
    door.stop();
}

/// A program that stops reading the log must not delay the daemon.
#[test]
fn a_log_that_nobody_reads_delays_neither_the_door_nor_the_stop() {
    let mut door = Door::new(QUICK);
    let manager = ServiceManager::new(door.folder.path());
    let mut command = door.command(&["run", "--json"]);
    command.envs(manager.environment(400_000));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    File::create(door.at("log")).unwrap();
    door.child = Some(command.spawn().unwrap());
    // A thread receives the messages immediately, as a service manager does.
    let (messages_in, messages) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(message) = manager.receive() {
            let _ = messages_in.send(message);
        }
    });
    let message = || {
        messages
            .recv_timeout(Duration::from_secs(20))
            .expect("the watchdog is not fed")
    };
    assert_eq!(message(), "READY=1\n");
    door.wait_for_socket();
    // Each change adds a line to the log, and the pipe holds only 64 KiB.
    for number in 0..700 {
        let mut stream = door.send(
            "PATCH /api/v1/settings",
            &format!("{{\"hold_ms\":{number}}}"),
        );
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("no answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    while messages.try_recv().is_ok() {}
    for _ in 0..3 {
        assert_eq!(message(), "WATCHDOG=1\n");
    }
    let frames = || door.status()["live"]["frames"].as_u64().unwrap();
    let before = frames();
    until("more frames", PATIENCE, || {
        (frames() > before).then_some(())
    });
    let took = door.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

// Sockets.

#[test]
fn a_control_socket_that_is_in_use_is_tried_again() {
    let mut door = Door::new("");
    let path = door.at("door.sock");
    fs::write(
        door.at("maskd.toml"),
        format!("{QUICK}[control]\nsocket = {path:?}\n"),
    )
    .unwrap();
    let other = UnixListener::bind(&path).unwrap();
    door.start(|_| {});
    until("the warning", Duration::from_secs(10), || {
        door.log().contains("door.sock").then_some(())
    });
    drop(other);
    fs::remove_file(&path).unwrap();
    let ask = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream
            .write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .ok()?;
        read_response(stream)
    };
    let status = until("the socket", Duration::from_secs(20), ask).json();
    assert!(status["live"]["problems"]["control"].is_null(), "{status}");
    // If the socket file is removed, the daemon creates it again.
    fs::remove_file(&path).unwrap();
    until("the socket again", Duration::from_secs(20), ask);
    // The daemon removes only its own socket.
    fs::remove_file(&path).unwrap();
    let others = UnixListener::bind(&path).unwrap();
    door.end();
    assert!(path.exists(), "the socket of another program was removed");
    drop(others);
}

#[test]
fn a_control_socket_whose_folder_is_missing_is_made_later() {
    let mut door = Door::new("");
    let folder = door.at("run");
    let path = folder.join("door.sock");
    fs::write(
        door.at("maskd.toml"),
        format!("{QUICK}[control]\nsocket = {path:?}\n"),
    )
    .unwrap();
    door.start(|_| {});
    until("the warning", Duration::from_secs(10), || {
        door.log().contains("door.sock").then_some(())
    });
    fs::create_dir(&folder).unwrap();
    until("the socket", Duration::from_secs(20), || {
        UnixStream::connect(&path).ok()
    });
    door.end();
    assert!(!path.exists());
}

#[test]
fn a_port_of_the_page_that_is_in_use_is_tried_again_and_told() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let door = Door::open(&format!("{QUICK}[web]\nlisten = \"{address}\"\n"));
    let told = || door.status()["live"]["problems"]["page"].clone();
    let problem = until("the problem", Duration::from_secs(10), || {
        told().as_str().map(ToOwned::to_owned)
    });
    assert!(problem.contains(&address.to_string()), "{problem}");
    let shown = text(&door.command(&["status"]).output().unwrap().stdout);
    assert!(shown.contains(&address.to_string()), "{shown}");
    drop(other);
    until("the page", Duration::from_secs(20), || {
        door.log().contains("the page is at").then_some(())
    });
    until("the end of the problem", Duration::from_secs(5), || {
        told().is_null().then_some(())
    });
    door.stop();
}

// Control characters.

#[test]
fn control_characters_of_requests_reach_neither_log_nor_terminal() {
    let door = Door::with_page("");
    let is_raw = |text: &str| {
        text.chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t')
    };
    let escape = "\u{1b}[2J\u{7}\u{9b}31m\r";
    for (request, body) in [
        (
            "POST /api/v1/enroll",
            json!({ "label": escape, "count": 3 }).to_string(),
        ),
        ("POST /api/v1/enroll", json!({ (escape): 3 }).to_string()),
        (
            "POST /api/v1/samples/import",
            json!({ "folder": format!("/{escape}") }).to_string(),
        ),
        (
            "POST /api/v1/heads/import",
            json!({ "path": format!("/{escape}") }).to_string(),
        ),
        ("GET /api/v1/samples/%1b%5b2J/picture", String::new()),
        ("GET /api/v1/samples?label=%1b%5b2J%c2%9b", String::new()),
        ("GET /api/v1/samples?%1b%5b2J=1", String::new()),
        (
            "POST /api/v1/samples/label",
            json!({ "chosen": { "ids": ["1"] }, "mark": { "as": escape } }).to_string(),
        ),
        (
            "POST /api/v1/samples/label",
            json!({ "chosen": { "ids": ["\u{1b}[2J"] }, "mark": "discard" }).to_string(),
        ),
    ] {
        let answer = door.ask(request, &body);
        let record = answer.json();
        if let Some(error) = record["error"].as_str() {
            assert!(!is_raw(error), "{request}: {error:?}");
        }
        assert!(!is_raw(&answer.body), "{request}: {:?}", answer.body);
    }
    let lines = "x-forwarded-for: \u{9b}31m\r\nuser-agent: \u{9b}\r\n";
    door.ask_page(1, "GET /api/v1/status", lines, "");
    for words in [
        &["enroll", "\u{1b}[2J"][..],
        &["samples", "import", "/no\u{1b}[2J\u{9b}m"],
        &["heads", "import", "/no\u{1b}[2J\u{9b}m"],
        &["label", "\u{1b}[2J", "with_mask"],
    ] {
        let output = door.command(words).output().unwrap();
        let shown = text(&output.stderr) + &text(&output.stdout);
        assert!(!is_raw(&shown), "{words:?}: {shown:?}");
    }
    assert!(!is_raw(&door.log()), "{:?}", door.log());
    door.stop();
}

/// Returns the page's certificate as a client receives it.
fn certificate(door: &Door) -> Vec<u8> {
    use std::sync::Arc;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    let mut roots = RootCertStore::empty();
    for name in ["certificate.pem", "renewed.pem"] {
        let path = root().join("tests/web/tls").join(name);
        roots
            .add(CertificateDer::from_pem_file(path).unwrap())
            .unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = door.connect_from(1).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).unwrap();
    }
    connection.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn sighup_reloads_the_certificate() {
    let tls = root().join("tests/web/tls");
    let folder = tempfile::tempdir().unwrap();
    let copy = |certificate: &str, key: &str| {
        fs::copy(tls.join(certificate), folder.path().join("c.pem")).unwrap();
        fs::copy(tls.join(key), folder.path().join("k.pem")).unwrap();
    };
    copy("certificate.pem", "key.pem");
    let door = Door::with_page(&format!(
        "tls-certificate = {:?}\ntls-key = {:?}\n",
        folder.path().join("c.pem"),
        folder.path().join("k.pem")
    ));
    let old = certificate(&door);
    copy("renewed.pem", "renewed-key.pem");
    assert_eq!(certificate(&door), old);
    door.signal("-HUP");
    let new = until("the new certificate", Duration::from_secs(20), || {
        let new = certificate(&door);
        (new != old).then_some(new)
    });
    // A certificate that does not match its key is not used.
    fs::copy(tls.join("certificate.pem"), folder.path().join("c.pem")).unwrap();
    door.signal("-HUP");
    until("the problem", Duration::from_secs(20), || {
        door.status()["live"]["problems"]["config"]
            .is_string()
            .then_some(())
    });
    assert_eq!(certificate(&door), new);
    door.stop();
}
