//! Tests access to the web page and the attacks described in `docs/SECURITY.md`, with the
//! real binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use serde_json::Value;
use support::{assert_refused, interrupt, maskd, root, text, wait};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const PASSWORD: &str = "correct horse battery staple";

/// A daemon with a page.
struct Door {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
    token: String,
}

/// A parsed HTTP response.
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        let mut pairs = lines.filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Returns the value for a `cookie` header that sends the cookie from this response back
    /// to the server.
    fn cookie(&self) -> String {
        let set = self.header("set-cookie").unwrap();
        set.split(';').next().unwrap().to_owned()
    }
}

impl Door {
    fn open(web: &str) -> Door {
        Door::open_with(web, |_| ())
    }

    /// Opens a door whose state directory is prepared before the daemon starts.
    fn open_with(web: &str, prepare: impl FnOnce(&Path)) -> Door {
        let folder = tempfile::tempdir().unwrap();
        prepare(&folder.path().join("state"));
        let words = text(&maskd().args(["passwd", "--token"]).output().unwrap().stdout);
        let words: Vec<&str> = words.split_whitespace().collect();
        let hash = maskd::api::web::hash_password(PASSWORD).unwrap();
        let config = format!(
            "# mine\n[camera]\nplayback-fps = 5.0\n[decide]\nhold-ms = 700 # short\n[web]\n\
             listen = \"127.0.0.1:0\"\npassword-hash = '{hash}'\ntoken-hashes = [\"{}\"]\n{web}",
            words[3]
        );
        let file = folder.path().join("maskd.toml");
        fs::write(&file, config).unwrap();
        let mut command = maskd();
        command.args(["run", "--json", "--config"]).arg(&file);
        command.arg("--state").arg(folder.path().join("state"));
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, address)) = line.split_once("the page is at ") {
                break address.trim().rsplit(':').next().unwrap().parse().unwrap();
            }
        };
        // This thread keeps reading, so that the daemon never blocks on writing its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Door {
            folder,
            child,
            port,
            token: words[1].to_owned(),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let patience = Some(Duration::from_mins(1));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    /// Sends a request with these header lines and a body.
    fn ask(&self, request: &str, lines: &[&str], body: &str) -> Response {
        let head: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let mut host = format!("host: 127.0.0.1:{}\r\n", self.port);
        if head.to_lowercase().contains("host: ") {
            host.clear();
        }
        let length = body.len();
        let all = format!(
            "{request} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{head}\r\n{body}"
        );
        let mut stream = self.connect();
        // The server may refuse the request before it has read all of it.
        let _ = stream.write_all(all.as_bytes());
        read_response(stream)
    }

    fn with_token(&self, request: &str, body: &str) -> Response {
        let token = format!("authorization: Bearer {}", self.token);
        self.ask(request, &[&token], body)
    }

    /// Sends a picture to be classified, with these header lines.
    fn classify(&self, lines: &[&str], picture: &[u8]) -> Response {
        self.send_picture("classify", lines, picture)
    }

    /// Sends a picture whose faces become samples.
    fn upload(&self, picture: &[u8]) -> Response {
        let token = format!("authorization: Bearer {}", self.token);
        self.send_picture("samples/upload", &[&token], picture)
    }

    fn send_picture(&self, path: &str, lines: &[&str], picture: &[u8]) -> Response {
        let mut stream = self.connect();
        // On a busy machine, a thread with a low priority may take a long time.
        let patience = Some(Duration::from_mins(5));
        stream.set_read_timeout(patience).unwrap();
        // The server may refuse the request before it has read all of it.
        let _ = stream.write_all(&self.picture_head(path, lines, picture.len()));
        let _ = stream.write_all(picture);
        read_response(stream)
    }

    fn picture_head(&self, path: &str, lines: &[&str], length: usize) -> Vec<u8> {
        let head: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let port = self.port;
        let request = format!(
            "POST /api/v1/{path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\
             content-length: {length}\r\n{head}\r\n"
        );
        request.into_bytes()
    }

    fn log_in(&self, password: &str) -> Response {
        let body = serde_json::json!({ "password": password }).to_string();
        self.ask("POST /api/v1/session", &[], &body)
    }

    fn end(mut self) {
        interrupt(&self.child, "-TERM");
        // On a busy machine, threads with the lowest priority may take a long time to end.
        assert_eq!(wait(&mut self.child, Duration::from_mins(5)), Some(0));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_response(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    // The connection may be reset after an early response.
    let _ = stream.read_to_end(&mut bytes);
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let at = at.unwrap_or_else(|| panic!("no response: {}", String::from_utf8_lossy(&bytes)));
    let head = text(&bytes[..at]);
    Response {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head,
        body: bytes.split_off(at + 4),
    }
}

#[test]
fn the_daemon_does_not_start_without_access_control() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maskd.toml");
    let run = |config: &str| {
        fs::write(&file, config).unwrap();
        let mut command = maskd();
        command
            .args(["run", "--log", "error", "--config"])
            .arg(&file);
        command.arg("--state").arg(folder.path().join("state"));
        command.output().unwrap()
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let output = run(&format!("[web]\nlisten = \"{listen}\"\n"));
        assert_refused(&output, 78, "set web.password-hash to what");
    }
    let output = run("[web]\nlisten = \"127.0.0.1:0\"\npassword-hash = \"secret\"\n");
    assert_eq!(output.status.code(), Some(78));
    assert!(!text(&output.stderr).contains("secret"));
    let certificate = root().join("tests/web/tls/certificate.pem");
    let tls = format!("[web]\nlisten = \"127.0.0.1:0\"\ntls-certificate = {certificate:?}\n");
    assert_refused(&run(&tls), 78, "web.tls-key is missing");
    let wrong = format!("{tls}tls-key = {certificate:?}\n");
    assert_refused(&run(&wrong), 78, "web.tls-key");
}

#[test]
fn every_operation_needs_access() {
    let door = Door::open("allowed-hosts = [\"door.lan\"]\n");
    let api: Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/openapi.json")).unwrap())
            .unwrap();
    let mut tried = 0;
    for (path, methods) in api["paths"].as_object().unwrap() {
        if path == "/api/v1/session" {
            continue;
        }
        let path = path.replace("{id}", "x").replace("{number}", "1");
        for method in methods.as_object().unwrap().keys() {
            let request = format!("{} {path}", method.to_uppercase());
            let unknown = "authorization: Bearer maskd_0000";
            for lines in [&[][..], &[unknown], &["cookie: maskd=0000"]] {
                assert_eq!(door.ask(&request, lines, "{}").status, 401, "{request}");
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
    let page = door.ask("GET /", &[], "");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));

    // DNS rebinding: another site's host name resolves to this device.
    let token = format!("authorization: Bearer {}", door.token);
    let host = |host: &str| {
        let line = format!("host: {host}");
        let api = door.ask("GET /api/v1/status", &[&token, &line], "").status;
        assert_eq!(api == 421, door.ask("GET /", &[&line], "").status == 421);
        api
    };
    assert_eq!(host("evil.example"), 421);
    assert_eq!(host("127.0.0.1.evil.example"), 421);
    assert_eq!(host("door.lan:8080"), 200);
    assert_eq!(host("localhost"), 200);
    let twice = ["host: localhost", "host: evil.example", &token];
    assert_ne!(door.ask("GET /api/v1/status", &twice, "").status, 200);
    let absolute = "GET http://evil.example/api/v1/status";
    assert_eq!(door.ask(absolute, &[&token], "").status, 421);

    // CSRF: another site's page sends requests with the visitor's session.
    let cookie = format!("cookie: {}", door.log_in(PASSWORD).cookie());
    let ours = format!("origin: http://127.0.0.1:{}", door.port);
    let post = |line: &str| {
        door.ask("DELETE /api/v1/enroll", &[&cookie, line], "")
            .status
    };
    assert_eq!(post(&ours), 404, "nobody is enrolled");
    for line in [
        "origin: http://evil.example",
        "origin: null",
        "origin: http://127.0.0.1:1",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        assert_eq!(post(line), 403, "{line}");
    }
    let foreign = "sec-fetch-site: cross-site";
    let picture = door.ask("GET /api/v1/live/picture", &[&cookie, foreign], "");
    assert_eq!(
        picture.status, 403,
        "pictures are not for other sites' pages"
    );
    door.end();
}

#[test]
fn a_sent_picture_gets_the_answer_of_the_command_line() {
    let door = Door::open("");
    let token = format!("authorization: Bearer {}", door.token);
    let frame = fs::read(support::frame("maksssksksss161.jpg")).unwrap();
    let pixels = image::load_from_memory(&frame).unwrap();
    let mut webp = Vec::new();
    image::codecs::webp::WebPEncoder::new_lossless(&mut webp)
        .encode(
            &pixels.to_rgb8(),
            pixels.width(),
            pixels.height(),
            image::ExtendedColorType::Rgb8,
        )
        .unwrap();
    for picture in [&frame, &webp] {
        let mut command = maskd();
        command.args(["classify", "--json", "-", "--config"]);
        command.arg(door.folder.path().join("maskd.toml"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(picture).unwrap();
        let line = child.wait_with_output().unwrap().stdout;
        let answer = door.classify(&[&token], picture);
        assert_eq!(answer.status, 200, "{}", text(&answer.body));
        assert_eq!(text(&answer.body), text(&line).trim_end());
        assert!(!answer.json()["faces"].as_array().unwrap().is_empty());
    }
    let stats = door.with_token("GET /api/v1/samples/stats", "").json();
    assert!(
        stats
            .as_object()
            .unwrap()
            .values()
            .all(|count| count["samples"] == 0),
        "{stats}"
    );

    assert_eq!(door.classify(&[], &frame).status, 401);
    let cut = door.classify(&[&token], &frame[..frame.len() / 2]);
    assert_eq!(
        (cut.status, &cut.json()["fault"]),
        (422, &Value::from("data"))
    );
    let bomb = door.classify(&[&token], &support::bomb());
    assert_eq!(bomb.status, 422, "{}", text(&bomb.body));
    for other in [&b""[..], b"GIF89a", b"{\"picture\": 1}"] {
        assert_eq!(door.classify(&[&token], other).status, 415);
    }
    let large = vec![0xff; 8 * 1024 * 1024 + 1];
    assert_eq!(door.classify(&[&token], &large).status, 413);
    door.end();
}

#[test]
fn faces_in_uploaded_pictures_become_samples_to_label() {
    let door = Door::open("");
    let one = fs::read(support::frame("maksssksksss128.jpg")).unwrap();
    let answer = door.upload(&one);
    assert_eq!(answer.status, 200, "{}", text(&answer.body));
    let record = answer.json();
    let [face] = &record["faces"].as_array().unwrap()[..] else {
        panic!("{record}");
    };
    assert_eq!(face["new"], true);
    assert_eq!(face["face"]["verdict"], "without_mask");
    let id = face["id"].as_str().unwrap();
    let samples = |query: &str| {
        let answer = door.with_token(&format!("GET /api/v1/samples?{query}"), "");
        answer.json()
    };
    // The sample is embedded at once: the model predicts its label. It has no label yet.
    let sample = samples("label=unlabelled&predictions=true")[0].clone();
    assert_eq!(sample["id"], id);
    assert_eq!(sample["predicted"], "without_mask", "{sample}");
    assert!(sample["face_side"].as_u64().unwrap() > 20, "{sample}");
    let picture = door.with_token(&format!("GET /api/v1/samples/{id}/picture"), "");
    assert_eq!(picture.header("content-type"), Some("image/jpeg"));
    let label = format!(r#"{{"chosen": {{"ids": ["{id}"]}}, "mark": {{"as": "without_mask"}}}}"#);
    let labeled = door.with_token("POST /api/v1/samples/label", &label);
    assert_eq!(labeled.status, 200, "{}", text(&labeled.body));

    // The same picture again adds nothing, and keeps the label.
    let again = door.upload(&one).json();
    assert_eq!(
        (&again["faces"][0]["id"], &again["faces"][0]["new"]),
        (&Value::from(id), &Value::from(false))
    );
    assert_eq!(samples("label=without_mask").as_array().unwrap().len(), 1);
    assert!(samples("label=unlabelled").as_array().unwrap().is_empty());

    // Each of several faces is a sample, and a picture without a face adds none.
    let several = support::frame("maksssksksss39.jpg");
    let record = door.upload(&fs::read(&several).unwrap()).json();
    let faces = record["faces"].as_array().unwrap().len();
    assert!(faces >= 2, "{record}");
    assert_eq!(samples("label=unlabelled").as_array().unwrap().len(), faces);
    let nobody = RgbImage::from_pixel(320, 240, image::Rgb([90, 120, 150]));
    let mut png = std::io::Cursor::new(Vec::new());
    nobody.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let record = door.upload(&png.into_inner()).json();
    assert_eq!(record["faces"], serde_json::json!([]));
    door.end();
}

#[test]
fn uploads_need_access_room_and_a_picture() {
    let door = Door::open("[capture]\nkeep = \"features\"\n");
    let frame = fs::read(support::frame("maksssksksss128.jpg")).unwrap();
    let path = "samples/upload";
    assert_eq!(door.send_picture(path, &[], &frame).status, 401);
    let refused = door.upload(&frame);
    assert_eq!(refused.status, 409);
    let sentence = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(sentence.contains("capture.keep"), "{sentence}");
    door.end();

    let door = Door::open("");
    for other in [&b""[..], b"GIF89a", b"{\"picture\": 1}"] {
        assert_eq!(door.upload(other).status, 415);
    }
    let cut = door.upload(&frame[..frame.len() / 2]);
    assert_eq!(
        (cut.status, &cut.json()["fault"]),
        (422, &Value::from("data"))
    );
    assert_eq!(door.upload(&support::bomb()).status, 422);
    assert_eq!(door.upload(&vec![0xff; 8 * 1024 * 1024 + 1]).status, 413);
    let stats = door.with_token("GET /api/v1/samples/stats", "").json();
    let mut counts = stats.as_object().unwrap().values();
    assert!(counts.all(|count| count["samples"] == 0), "{stats}");
    door.end();
}

#[test]
fn the_device_is_described_without_secrets() {
    let config = "[indicate]\nbackend = \"console\"\ngreen-pin = 17\n[mqtt]\nhost = \"127.0.0.1\"\n\
                  port = 9\nuser = \"me\"\npassword = \"sesame\"\ndevice = \"front\"\n[fleet]\n\
                  share = true\n";
    let door = Door::open(config);
    assert_eq!(door.ask("GET /api/v1/device", &[], "").status, 401);
    let answer = door.with_token("GET /api/v1/device", "");
    let device = answer.json();
    assert_eq!(device["name"], "front");
    assert_eq!(device["camera"], "examples");
    assert_eq!(device["pins"]["driver"], "console");
    assert_eq!(device["fleet"]["shares"], true);
    assert!(device["disk"]["total_mib"].as_u64().unwrap() > 0);
    assert_eq!(device.get("page"), None, "only this machine reaches it");
    assert!(!text(&answer.body).contains("sesame"), "{device}");
    let lost = support::wait_for("the broker is lost", || {
        let device = door.with_token("GET /api/v1/device", "").json();
        let broker = device["broker"].clone();
        broker["problem"].is_string().then_some(broker)
    });
    assert_eq!(lost["connected"], false);
    assert_eq!(lost["address"], "127.0.0.1:9");
    // No pins are driven, so there are no LEDs to test.
    let refused = door.with_token("POST /api/v1/device/led-test", "");
    assert_eq!(refused.status, 409);
    let sentence = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(
        sentence.contains("no LED or buzzer is connected"),
        "{sentence}"
    );
    door.end();
}

#[test]
fn pictures_beyond_the_limit_are_refused_until_a_place_is_free() {
    let door = Door::open("");
    let token = format!("authorization: Bearer {}", door.token);
    let frame = fs::read(support::frame("maksssksksss161.jpg")).unwrap();
    // Three pictures that are still being sent take all places.
    let mut sending: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        let mut stream = door.connect();
        stream
            .set_read_timeout(Some(Duration::from_mins(5)))
            .unwrap();
        let head = door.picture_head("classify", &[&token], frame.len());
        stream.write_all(&head).unwrap();
        stream.write_all(&frame[..100]).unwrap();
        sending.push(stream);
    }
    let refused = support::wait_for("a refusal", || {
        let answer = door.classify(&[&token], b"no picture");
        (answer.status == 503).then_some(answer)
    });
    let wait = refused.header("retry-after").unwrap();
    assert!(wait.parse::<u64>().unwrap() > 0);
    assert_eq!(door.with_token("GET /api/v1/status", "").status, 200);
    for stream in &mut sending {
        stream.write_all(&frame[100..]).unwrap();
    }
    for stream in sending {
        assert_eq!(read_response(stream).status, 200);
    }
    assert_eq!(door.classify(&[&token], b"no picture").status, 415);
    door.end();
}

#[test]
fn sessions_start_at_log_in_and_end_at_log_out() {
    let door = Door::open("");
    let wrong = door.log_in("guess");
    assert_eq!(wrong.status, 401);
    assert!(wrong.header("set-cookie").is_none());
    assert_eq!(door.ask("POST /api/v1/session", &[], "{}").status, 400);
    let right = door.log_in(PASSWORD);
    assert_eq!(right.status, 200);
    let set = right.header("set-cookie").unwrap();
    assert!(set.contains("; HttpOnly; SameSite=Strict") && !set.contains("Secure"));
    let line = format!("cookie: other=1; {}", right.cookie());
    let status = || door.ask("GET /api/v1/status", &[&line], "").status;
    assert_eq!(status(), 200);
    let again = door.ask("GET /api/v1/session", &[&line], "").json();
    assert_eq!(again["session"], true);

    // A running stream ends when the visitor logs out.
    let mut stream = door.connect();
    let request = format!("GET /api/v1/live/stream HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut some = vec![0; 20_000];
    stream.read_exact(&mut some).unwrap();
    let head = String::from_utf8_lossy(&some).into_owned();
    assert!(head.contains("multipart/x-mixed-replace") && head.contains("\r\n--frame\r\n"));
    let out = door.ask("DELETE /api/v1/session", &[&line], "");
    assert_eq!(out.status, 200);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(status(), 401, "a replayed cookie is refused");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();

    // Guessing passwords: the daemon allows five attempts, and then one every 20
    // seconds. If the machine is so slow that each attempt takes 20 seconds, no attempt
    // is refused.
    let start = Instant::now();
    let answers: Vec<Response> = (0..12).map(|_| door.log_in("guess")).collect();
    let looked_at = answers.iter().filter(|answer| answer.status == 401).count();
    let allowed = 6 + start.elapsed().as_secs() / 20;
    assert!(looked_at as u64 <= allowed, "{looked_at} of {allowed}");
    for answer in answers.iter().filter(|answer| answer.status != 401) {
        assert_eq!(answer.status, 429);
        let wait = answer.header("retry-after").unwrap();
        assert!(wait.parse::<u64>().unwrap() > 0);
    }
    door.end();
}

#[test]
fn the_page_cannot_reach_files_of_the_device() {
    let door = Door::open("");
    for id in [
        "..%2F..%2Fmaskd.toml",
        "..",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "..%5C..%5Cx",
        "%FF",
    ] {
        let answer = door.with_token(&format!("GET /api/v1/samples/{id}/picture"), "");
        assert!(
            [400, 404].contains(&answer.status),
            "{id}: {}",
            answer.status
        );
        assert!(!String::from_utf8_lossy(&answer.body).contains("password"));
    }
    for path in [
        "/../../../etc/passwd",
        "/page/../maskd.toml",
        "/%2e%2e/maskd.toml",
        "//etc/passwd",
    ] {
        assert_eq!(
            door.with_token(&format!("GET {path}"), "").status,
            404,
            "{path}"
        );
    }
    let folder = serde_json::json!({ "folder": door.folder.path() }).to_string();
    for path in [
        "samples/import",
        "samples/export",
        "heads/import",
        "heads/1/export",
    ] {
        let answer = door.with_token(&format!("POST /api/v1/{path}"), &folder);
        assert!(
            [404, 405].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }
    let ids = r#"{"chosen":{"ids":["../../maskd.toml"]},"mark":"discard"}"#;
    let marked = door.with_token("POST /api/v1/samples/label", ids);
    assert!(marked.json()["failed"]["../../maskd.toml"].is_string());
    let ids = r#"{"ids":["../../maskd.toml"]}"#;
    let restored = door.with_token("POST /api/v1/samples/restore", ids);
    assert!(restored.json()["failed"]["../../maskd.toml"].is_string());
    assert!(door.folder.path().join("maskd.toml").exists());
    door.end();
}

#[test]
fn large_and_slow_requests_block_nobody() {
    let door = Door::open("");
    // This client sends an endless request head.
    let mut slow = door.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
        .unwrap();
    // This client sends an endless body.
    let mut body = door.connect();
    let head = "POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000\r\n\r\n{";
    body.write_all(head.as_bytes()).unwrap();
    // These clients connect and stay silent.
    let silent: Vec<TcpStream> = (0..40).map(|_| door.connect()).collect();

    assert_eq!(door.with_token("GET /api/v1/status", "").status, 200);
    let long = format!("x-long: {}", "x".repeat(40_000));
    assert_eq!(door.ask("GET /", &[&long], "").status, 431);
    let big = "x".repeat(200_000);
    assert_eq!(door.ask("POST /api/v1/session", &[], &big).status, 413);
    let chunked = "POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nfffffff0\r\n";
    let mut stream = door.connect();
    stream.write_all(chunked.as_bytes()).unwrap();
    let _ = stream.write_all(big.as_bytes());
    assert_eq!(read_response(stream).status, 413);

    let start = Instant::now();
    assert_eq!(read_response(body).status, 408);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "it is closed");
    }
    assert!(start.elapsed() < Duration::from_secs(50));
    // Excess connections are closed, and the server keeps working.
    let many: Vec<TcpStream> = (0..300).map(|_| door.connect()).collect();
    drop(many);
    let found = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", door.port)) else {
            return false;
        };
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes.starts_with(b"HTTP/1.1 200")
    });
    assert!(found);
    door.end();
}

#[test]
fn settings_are_checked_applied_and_saved_with_comments() {
    let door = Door::open("");
    let refused = door.with_token("PATCH /api/v1/settings", r#"{"unmasked_threshold":0.9}"#);
    assert_eq!(refused.status, 400);
    assert!(
        refused.json()["error"]
            .as_str()
            .unwrap()
            .contains("classify.unmasked-threshold")
    );
    let fields = serde_json::json!({ "unmasked_threshold": "is 0.9, allowed is 0 to 0.4" });
    assert_eq!(refused.json()["fields"], fields);
    let many = r#"{"confirm_frames":1,"hold_ms":600001}"#;
    let refused = door.with_token("PATCH /api/v1/settings", many).json();
    let names: Vec<&String> = refused["fields"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["confirm_frames", "hold_ms"]);
    let unknown = door.with_token("PATCH /api/v1/settings", r#"{"source":"exec:sh"}"#);
    assert_eq!(unknown.status, 400, "nothing else can be changed");
    let before = fs::read_to_string(door.folder.path().join("maskd.toml")).unwrap();
    let changed = door.with_token(
        "PATCH /api/v1/settings",
        r#"{"hold_ms":900,"capture":true}"#,
    );
    assert_eq!(changed.status, 200);
    assert_eq!(changed.json()["now"]["hold_ms"], 900);
    assert!(changed.json()["not_saved"].is_null());
    let after = fs::read_to_string(door.folder.path().join("maskd.toml")).unwrap();
    let expected = before.replace("hold-ms = 700 # short", "hold-ms = 900 # short");
    assert_eq!(after, expected + "\n[capture]\nenabled = true\n");
    let is_on = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        door.with_token("GET /api/v1/live", "").json()["capture"]["on"] == true
    });
    assert!(is_on);
    door.end();
}

#[test]
fn samples_are_listed_in_parts() {
    let door = Door::open_with("[capture]\nkeep-days = 3650\n", |state| {
        let pixels = RgbImage::new(224, 224);
        for (label, name) in [
            ("with_mask", "20261124T101530.123Z-t000017-01"),
            ("with_mask", "20261125T101530.123Z-t000018-01"),
            ("unlabelled", "20261123T101530.123Z-t000001-01"),
            ("without_mask", "20261127T101530.123Z-t000020-01"),
            ("unlabelled", "20261126T101530.123Z-t000002-01"),
        ] {
            let folder = state.join("samples").join(label);
            fs::create_dir_all(&folder).unwrap();
            pixels.save(folder.join(format!("{name}.png"))).unwrap();
        }
    });
    let list = |query: &str| {
        let answer = door.with_token(&format!("GET /api/v1/samples?{query}"), "");
        assert_eq!(answer.status, 200, "{query}");
        let total: usize = answer.header("x-total").unwrap().parse().unwrap();
        let samples = answer.json();
        let days = samples.as_array().unwrap().iter();
        let days: Vec<String> = days
            .map(|sample| sample["time"].as_str().unwrap()[8..10].to_owned())
            .collect();
        (total, days.join(" "))
    };
    let expect = |query: &str, total: usize, days: &str| {
        assert_eq!(list(query), (total, days.to_owned()), "{query}");
    };
    expect("", 5, "23 24 25 26 27");
    expect("order=label", 5, "26 23 25 24 27");
    expect("order=label&offset=1&limit=2", 5, "23 25");
    expect("order=label&offset=4&limit=2", 5, "27");
    expect("offset=5", 5, "");
    expect("limit=0", 5, "");
    expect("label=with_mask&limit=1", 2, "24");
    // Black pictures are bad.
    expect("quality=bad&order=label&offset=3", 5, "24 27");
    expect("quality=good&limit=1", 0, "");
    let sample = &door.with_token("GET /api/v1/samples?limit=1", "").json()[0];
    assert_eq!(sample["time"], "2026-11-23T10:15:30Z");
    assert!(sample.get("face_side").is_none(), "{sample}");
    for query in ["order=size", "limit=-1", "offset=x"] {
        let answer = door.with_token(&format!("GET /api/v1/samples?{query}"), "");
        assert_eq!(answer.status, 400, "{query}");
    }
    door.end();
}

#[test]
fn tls_uses_the_configured_certificate() {
    let tls = root().join("tests/web/tls");
    let door = Door::open(&format!(
        "tls-certificate = {:?}\ntls-key = {:?}\n",
        tls.join("certificate.pem"),
        tls.join("key.pem")
    ));
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(tls.join("certificate.pem")).unwrap();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, door.connect());
    let body = serde_json::json!({ "password": PASSWORD }).to_string();
    let length = body.len();
    write!(
        stream,
        "POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let answer = read_response(stream);
    assert_eq!(answer.status, 200);
    let set = answer.header("set-cookie").unwrap();
    assert!(
        set.starts_with("__Host-maskd=") && set.ends_with("; Secure"),
        "{set}"
    );
    // A client without TLS gets no response and does no harm.
    let mut plain = door.connect();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut bytes = Vec::new();
    let _ = plain.read_to_end(&mut bytes);
    assert!(!bytes.starts_with(b"HTTP"));
    door.end();
}

#[test]
fn the_documented_api_description_is_current() {
    let printed = text(&maskd().arg("openapi").output().unwrap().stdout);
    let golden = fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    assert_eq!(printed, golden, "maskd openapi > docs/openapi.json");
    let api: Value = serde_json::from_str(&golden).unwrap();
    let paths = api["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/live") && paths.contains_key("/api/v1/samples/label"));
    // Requests that name a path on the device are accepted only on the socket.
    let is_local = |path: &String| path.contains("import") || path.contains("export");
    assert!(!paths.keys().any(is_local), "{:?}", paths.keys());
}

#[test]
fn a_password_comes_from_a_pipe() {
    let hash = |input: &[u8]| {
        let mut command = maskd();
        let command = command.arg("passwd").stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = hash(b"with a space \r\n");
    let web = maskd::config::Web {
        password_hash: Some(text(&output.stdout).trim_end().to_owned()),
        ..maskd::config::Web::default()
    };
    let access = maskd::api::web::Access::from_config(&web, None).unwrap();
    assert!(access.is_password("with a space "));
    assert_refused(&hash(b"\n"), 64, "at least 8 characters");
    assert_refused(&hash(b"raspberry1\n"), 64, "easy to guess");
}

#[test]
fn ctrl_c_at_a_password_leaves_the_terminal_as_it_was() {
    let inside = format!(
        "{} passwd; echo status $?; stty -a",
        env!("CARGO_BIN_EXE_maskd")
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &inside, "/dev/null"]);
    let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut script) = script else {
        eprintln!("skipped: there is no script(1) to make a terminal");
        return;
    };
    let mut keys = script.stdin.take().unwrap();
    let mut shown = BufReader::new(script.stdout.take().unwrap());
    let mut before = Vec::new();
    while !before.ends_with(b"Password: ") {
        assert_ne!(shown.read_until(b' ', &mut before).unwrap(), 0);
    }
    keys.write_all(b"half a pass\x03").unwrap();
    let mut after = String::new();
    shown.read_to_string(&mut after).unwrap();
    script.wait().unwrap();
    assert!(!after.contains("half a pass"), "{after}");
    assert!(after.contains("no password was given"), "{after}");
    assert!(after.contains("status 130"), "{after}");
    let words: Vec<&str> = after.split([' ', ';', '\r', '\n']).collect();
    assert!(
        words.contains(&"echo") && words.contains(&"isig"),
        "{after}"
    );
}
