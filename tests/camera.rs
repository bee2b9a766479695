//! Tests cameras from end to end, with programs, HTTP servers, and folders that behave
//! like the cameras at a door.
#![expect(
    clippy::disallowed_methods,
    reason = "the tests measure time, and simulate the camera in a thread of their own"
)]
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use maskd::camera::{
    Camera, CameraEvent, CameraOptions, SourceError, Spec, TlsTrust, VideoFormat, VideoOptions,
};
use maskd::frame::Frame;
use tokio_util::sync::CancellationToken;

mod support;

/// Time limit for a stop. A waiting thread notices a stop request within 100 ms. The rest
/// of this limit allows for a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(2);

const LONG: Duration = Duration::from_mins(1);

fn options() -> CameraOptions {
    CameraOptions {
        rate: 1000.0,
        repeat: false,
        stall: LONG,
        max_frame_bytes: 1 << 20,
        max_frame_pixels: 9_000_000,
        video: VideoOptions::default(),
        tls: TlsTrust::default(),
    }
}

fn open(spec: Spec, options: CameraOptions) -> (Camera, CancellationToken) {
    let stop = CancellationToken::new();
    (Camera::open(spec, options, stop.clone()).unwrap(), stop)
}

fn shell(script: &str) -> Spec {
    Spec::Command(["sh", "-c", script].map(str::to_owned).to_vec())
}

/// Returns a uniformly gray JPEG. Tests tell such JPEGs apart by their brightness.
fn jpeg(gray: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(32, 24, Rgb([gray; 3]))
        .write_with_encoder(JpegEncoder::new(&mut bytes))
        .unwrap();
    bytes
}

fn gray(frame: &Frame) -> u8 {
    assert_eq!(frame.pixels.dimensions(), (32, 24));
    frame.pixels.get_pixel(16, 12).0[0]
}

/// A picture with a valid structure that no decoder can decode.
const UNDECODABLE: &[u8] = b"\xff\xd8\xff\xda\x00\x08nosofx\xff\xd9";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[track_caller]
fn frame(camera: &mut Camera) -> Frame {
    match camera.next() {
        CameraEvent::Frame(frame) => frame,
        other => panic!("no frame but {other:?}"),
    }
}

#[track_caller]
fn lost(camera: &mut Camera) -> SourceError {
    match camera.next() {
        CameraEvent::Lost(error) => error,
        other => panic!("no loss but {other:?}"),
    }
}

#[track_caller]
fn assert_end(camera: &mut Camera) {
    for _ in 0..2 {
        let event = camera.next();
        assert!(matches!(event, CameraEvent::End), "{event:?}");
    }
}

// Programs

#[test]
fn video_of_a_program_is_read_to_its_end() {
    let folder = Folder::new();
    for number in 0..3 {
        folder.write(&format!("{number}.jpg"), &jpeg(50 * number));
    }
    // Each picture is sent only after the previous one was received.
    let script = format!(
        "cd '{}'; for n in 0 1 2; do until [ -e go$n ]; do sleep 0.01; done; cat $n.jpg; done",
        folder.path().display()
    );
    let (mut camera, _) = open(shell(&script), options());
    let before = Instant::now();
    for number in 0..3u8 {
        folder.write(&format!("go{number}"), b"");
        let frame = frame(&mut camera);
        assert_eq!(frame.seq, u64::from(number));
        assert!(gray(&frame).abs_diff(50 * number) < 4);
        assert!(frame.at > before && frame.at.elapsed() < SOON);
    }
    assert_end(&mut camera);
    assert_eq!(camera.restarts(), 0);
}

#[test]
fn video_of_a_program_is_repeated_and_numbered_on() {
    let folder = Folder::new();
    let path = folder.write("0.jpg", &jpeg(80));
    let spec = Spec::Command(vec!["cat".to_owned(), path.display().to_string()]);
    let (mut camera, stop) = open(
        spec,
        CameraOptions {
            repeat: true,
            ..options()
        },
    );
    let mut connections = HashSet::new();
    for seq in 0..5 {
        let frame = frame(&mut camera);
        assert_eq!(frame.seq, seq);
        connections.insert(frame.connection);
    }
    assert_eq!(camera.restarts(), 0, "a repeat is no loss");
    let count = connections.len();
    assert_eq!(count, 1, "a program that yields one picture is polled");
    stop.cancel();
    assert_end(&mut camera);
}

#[test]
fn each_run_of_a_program_with_several_pictures_is_a_connection() {
    let folder = Folder::new();
    folder.write("0.jpg", &jpeg(80));
    // The script ends like a program whose camera was disconnected. Each picture is sent
    // only after the previous one was received.
    let script = format!(
        "cd '{}'; for n in 1 2; do cat 0.jpg; until rm go; do sleep 0.01; done; done 2>/dev/null",
        folder.path().display()
    );
    let repeated = CameraOptions {
        repeat: true,
        ..options()
    };
    let (mut camera, _) = open(shell(&script), repeated);
    let mut connections = Vec::new();
    for seq in 0..6 {
        let frame = frame(&mut camera);
        assert_eq!(frame.seq, seq);
        connections.push(frame.connection);
        folder.write("go", b"");
    }
    assert_eq!(connections[0], connections[1]);
    assert_ne!(connections[1], connections[2]);
    assert_eq!(connections[2], connections[3]);
    assert_ne!(connections[3], connections[4]);
}

#[test]
fn newest_of_several_pictures_is_taken_and_undecodable_ones_are_skipped() {
    let folder = Folder::new();
    let first = [jpeg(10), jpeg(90), jpeg(200)].concat();
    folder.write("first", &first);
    folder.write("bad", UNDECODABLE);
    folder.write("last", &[&first[..100], &jpeg(120)].concat());
    let script = format!(
        "cd '{}'; cat first; until [ -e go ]; do sleep 0.01; done; cat bad last; exec sleep 60",
        folder.path().display()
    );
    let (mut camera, _) = open(shell(&script), options());
    let newest = frame(&mut camera);
    assert_eq!(newest.seq, 2);
    assert!(gray(&newest) > 190);
    folder.write("go", b"");
    let last = frame(&mut camera);
    assert_eq!(last.seq, 4);
    assert!(gray(&last).abs_diff(120) < 4);
}

#[test]
fn lost_program_is_told_once_and_started_again() {
    let folder = Folder::new();
    folder.write("0.jpg", &jpeg(80));
    // The script fails the first two times that it is started.
    let script = format!(
        "cd '{}'; if [ -e b ]; then cat 0.jpg; exec sleep 60; fi; \
         if [ -e a ]; then touch b; exit 3; fi; \
         touch a; cat 0.jpg; echo no such device >&2; exit 1",
        folder.path().display()
    );
    let (mut camera, stop) = open(shell(&script), options());
    let first = frame(&mut camera);
    assert_eq!(first.seq, 0);
    let error = lost(&mut camera);
    assert!(!error.is_missing_input());
    assert_eq!(
        error.to_string(),
        "camera command \"sh\" ended with exit status 1: no such device"
    );
    let start = Instant::now();
    let second = frame(&mut camera);
    assert_eq!(second.seq, 1);
    assert_ne!(second.connection, first.connection);
    assert!(
        start.elapsed() >= Duration::from_millis(1500),
        "0.5 s and 1 s"
    );
    assert_eq!(camera.restarts(), 2);

    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            stop.cancel();
        });
        assert_end(&mut camera);
    });
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn stop_ends_the_wait_for_a_lost_camera() {
    let repeated = CameraOptions {
        repeat: true,
        ..options()
    };
    let (mut camera, stop) = open(shell("exit 1"), repeated);
    lost(&mut camera);
    thread::scope(|scope| {
        let canceller = scope.spawn(|| {
            // The stop request arrives during the second wait, which takes at least 1
            // second.
            thread::sleep(Duration::from_millis(800));
            stop.cancel();
            Instant::now()
        });
        assert_end(&mut camera);
        assert!(canceller.join().unwrap().elapsed() < SOON);
    });
}

#[test]
fn no_process_is_left_behind() {
    let folder = Folder::new();
    let script = format!("echo $$ > '{}/id'; exec sleep 60", folder.path().display());
    let (mut camera, stop) = open(shell(&script), options());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(400));
            stop.cancel();
        });
        assert_end(&mut camera);
    });
    let id = std::fs::read_to_string(folder.path().join("id")).unwrap();
    let process = Path::new("/proc").join(id.trim());
    assert!(process.exists());
    drop(camera);
    assert!(!process.exists(), "neither running nor a zombie");
}

#[test]
fn program_that_sends_only_undecodable_pictures_is_lost() {
    let folder = Folder::new();
    let path = folder.write("bad", UNDECODABLE);
    let script = format!("while cat '{}'; do sleep 0.1; done", path.display());
    let stall = Duration::from_secs(1);
    let (mut camera, _) = open(shell(&script), CameraOptions { stall, ..options() });
    let error = lost(&mut camera).to_string();
    assert!(
        error.contains("for 1.0 s:") && error.contains("could not be decoded"),
        "{error}"
    );
}

#[test]
fn pictures_beyond_the_cap_are_told_as_such() {
    let folder = Folder::new();
    let path = folder.write("0.jpg", &jpeg(80));
    let script = format!("cat '{0}' '{0}'; exec sleep 60", path.display());
    let options = CameraOptions {
        stall: Duration::from_secs(1),
        max_frame_bytes: 200,
        ..options()
    };
    let (mut camera, _) = open(shell(&script), options);
    let error = lost(&mut camera).to_string();
    assert!(
        error.contains("had more than the 200 bytes allowed"),
        "{error}"
    );
}

#[test]
fn program_that_does_not_exist_is_an_error_at_once() {
    let spec = "exec:no-such-program-of-maskd -x".parse().unwrap();
    let error = Camera::open(spec, options(), CancellationToken::new()).unwrap_err();
    assert!(matches!(error, SourceError::CommandMissing { .. }));
    assert!(!error.is_missing_input());
}

// Raw pictures

/// Returns a gray picture of 32 x 24 pixels in the format yuv420.
fn yuv420(gray: u8) -> Vec<u8> {
    [vec![gray; 32 * 24], vec![128; 32 * 24 / 2]].concat()
}

fn raw_options() -> CameraOptions {
    CameraOptions {
        video: VideoOptions {
            format: VideoFormat::Yuv420,
            width: 32,
            height: 24,
            fps: 15,
        },
        ..options()
    }
}

#[test]
fn raw_pictures_of_a_program_are_put_together_and_the_last_part_is_none() {
    let folder = Folder::new();
    let pictures = [yuv420(16), yuv420(235), yuv420(126)].concat();
    folder.write("a", &pictures[..500]);
    folder.write("b", &pictures[500..2000]);
    folder.write("c", &pictures[2000..]);
    folder.write("d", &pictures[..1151]);
    let script = format!(
        "cd '{}'; cat a; sleep 0.1; cat b; until [ -e go ]; do sleep 0.01; done; cat c d",
        folder.path().display()
    );
    let (mut camera, _) = open(shell(&script), raw_options());
    let first = frame(&mut camera);
    assert_eq!((first.seq, gray(&first)), (0, 0), "16 is black");
    folder.write("go", b"");
    let mut last = frame(&mut camera);
    if last.seq == 1 {
        assert_eq!(gray(&last), 255, "235 is white");
        last = frame(&mut camera);
    }
    assert_eq!((last.seq, gray(&last)), (2, 128));
    assert_end(&mut camera);
}

#[test]
fn program_without_a_whole_raw_picture_is_told_so() {
    let (mut camera, _) = open(shell("printf abc"), raw_options());
    let CameraEvent::Failed(error) = camera.next() else {
        panic!("no failure");
    };
    let error = error.to_string();
    assert!(error.contains("must write raw yuv420 pictures"), "{error}");
    let stall = Duration::from_millis(500);
    let (mut camera, _) = open(
        shell("printf abc; exec sleep 60"),
        CameraOptions {
            stall,
            ..raw_options()
        },
    );
    let error = lost(&mut camera).to_string();
    assert!(
        error.contains("received only 3 of the 1152 bytes of a picture"),
        "{error}"
    );
}

#[test]
fn format_that_a_source_lacks_is_an_error_at_once() {
    for source in ["webcam", "http://127.0.0.1:1/"] {
        let spec: Spec = source.parse().unwrap();
        let error = Camera::open(spec, raw_options(), CancellationToken::new()).unwrap_err();
        assert!(matches!(error, SourceError::Spec(_)), "{error}");
        assert!(
            error.to_string().contains("set camera.format to one of"),
            "{error}"
        );
    }
}

// Camera modules

/// Creates a folder that contains a program with this name and no other program.
fn programs(name: &str, script: &str) -> Folder {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let script = format!("#!/bin/sh\ncd '{}'\n{script}\n", folder.path().display());
    let path = folder.write(name, script.as_bytes());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Returns a command that runs maskd with this folder at the start of its search path.
/// The state directory is in the same folder.
fn maskd_with(programs: &Folder, arguments: &[&str]) -> Command {
    let usual = std::env::var_os("PATH").unwrap();
    let folders = std::iter::once(programs.path().to_owned()).chain(std::env::split_paths(&usual));
    let mut command = support::maskd();
    command
        .env("PATH", std::env::join_paths(folders).unwrap())
        .env("XDG_STATE_HOME", programs.path())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn config(folder: &Folder, camera: &str) -> String {
    let path = folder.write("maskd.toml", format!("[camera]\n{camera}\n").as_bytes());
    path.display().to_string()
}

/// Runs maskd until `until` appears in the log, stops it with a signal, and returns the
/// log.
fn run_until(programs: &Folder, file: &str, until: &str) -> String {
    run_until_and(programs, file, until, || ())
}

/// Runs maskd like [`run_until`], but calls `act` before it stops maskd.
fn run_until_and(programs: &Folder, file: &str, until: &str, act: impl FnOnce()) -> String {
    let logs = programs.path().join("logs");
    let state = programs.path().display().to_string();
    let arguments = ["run", "--log", "debug", "--config", file, "--state", &state];
    let mut command = maskd_with(programs, &arguments);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&logs).unwrap())
        .spawn()
        .unwrap();
    let read = || std::fs::read_to_string(&logs).unwrap();
    let start = Instant::now();
    while !read().contains(until) && start.elapsed() < LONG {
        thread::sleep(Duration::from_millis(20));
    }
    act();
    support::interrupt(&child, "-TERM");
    let status = support::wait(&mut child, LONG);
    assert_eq!(status, Some(0), "{}", read());
    assert!(read().contains(until), "{}", read());
    read()
}

fn rpicam_arguments(programs: &Folder) -> String {
    std::fs::read_to_string(programs.path().join("arguments")).unwrap()
}

#[test]
fn rpicam_is_run_as_configured() {
    for name in ["rpicam-vid", "libcamera-vid"] {
        let programs = programs(name, "echo $@ > arguments\ncat 0.jpg\nexec sleep 60");
        programs.write("0.jpg", &jpeg(80));
        let file = config(
            &programs,
            "source = \"rpicam\"\nwidth = 800\nheight = 600\nfps = 7",
        );
        run_until(&programs, &file, " frame seq=");
        assert_eq!(
            rpicam_arguments(&programs),
            "-t 0 -n --codec mjpeg --width 800 --height 600 --framerate 7 --flush -o -\n"
        );
    }
}

#[test]
fn rpicam_gives_raw_pictures_too() {
    let programs = programs(
        "rpicam-vid",
        "echo $@ > arguments\ncat frames\nexec sleep 60",
    );
    programs.write("frames", &vec![128; 64 * 48 * 3 / 2]);
    let file = config(
        &programs,
        "source = \"rpicam\"\nformat = \"yuv420\"\nwidth = 64\nheight = 48",
    );
    run_until(&programs, &file, " frame seq=");
    assert!(rpicam_arguments(&programs).contains("--codec yuv420 --width 64 --height 48"));
}

#[test]
fn rpicam_that_ends_or_stalls_is_started_again() {
    // On its first start, the program exits cleanly, which a working camera program never
    // does. On its second start, it hangs. After that, it works.
    let script = "echo x >> starts\ncat 0.jpg\n\
                  case $(wc -l < starts) in 1) exit 0;; 2) exec sleep 60;; esac\n\
                  until [ -e enough ]; do cat 0.jpg; sleep 0.1; done";
    let programs = programs("rpicam-vid", script);
    programs.write("0.jpg", &jpeg(80));
    let file = config(
        &programs,
        "source = \"rpicam\"\nstall-ms = 500\nloop = false",
    );
    let errors = run_until_and(&programs, &file, "restarts=2", || {
        let state = programs.path().display().to_string();
        let status = maskd_with(&programs, &["status", "--state", &state])
            .output()
            .unwrap();
        let status = support::text(&status.stdout);
        assert!(status.contains("lost 2 times since the start"), "{status}");
    });
    assert!(errors.contains("ended with exit status 0"), "{errors}");
    assert!(
        errors.contains("no picture was received from camera command"),
        "{errors}"
    );
}

#[test]
fn rpicam_that_is_missing_is_named() {
    let none = programs("other", "");
    let mut command = support::maskd();
    let output = command
        .env("PATH", none.path())
        .env("XDG_STATE_HOME", none.path())
        .args(["run", "--source", "rpicam"])
        .output()
        .unwrap();
    support::assert_refused(
        &output,
        69,
        "neither rpicam-vid nor libcamera-vid was found",
    );
}

#[test]
fn check_tells_of_cameras_and_of_wrong_formats() {
    let programs = programs("libcamera-vid", "exit 1");
    let file = config(&programs, "source = \"rpicam\"");
    let output = maskd_with(&programs, &["check", "--config", &file]).output();
    let text = support::text(&output.unwrap().stdout);
    assert!(text.contains("ok   source       rpicam\n"), "{text}");
    assert!(text.contains(" rpicam       libcamera-vid\n"), "{text}");
    assert!(text.contains(" cameras "), "{text}");

    for (camera, key) in [
        (
            "source = \"rpicam\"\nformat = \"yuyv\"",
            "camera.format is wrong",
        ),
        (
            "source = \"rpicam\"\nformat = \"yuv420\"\nwidth = 650",
            "camera.width is wrong",
        ),
        (
            "source = \"webcam\"\nformat = \"yuv420\"",
            "camera.format is wrong",
        ),
        ("source = \"webcam:\"", "camera.source is wrong"),
        ("format = \"h264\"", "camera.format is wrong"),
        ("width = 8", "camera.width is 8, allowed is 16 to 4096"),
        ("fps = 0", "camera.fps is 0, allowed is 1 to 120"),
        (
            "width = 4096\nheight = 4096",
            "camera.max-frame-megapixels is 9, but camera.width and camera.height ask for \
             4096 x 4096 pixels; raise it to 17, or ask for smaller frames",
        ),
        (
            "max-frame-megapixels = 65",
            "camera.max-frame-megapixels is 65, allowed is 1 to 64",
        ),
    ] {
        let file = config(&programs, camera);
        let output = maskd_with(&programs, &["check", "--config", &file]).output();
        let output = output.unwrap();
        let text = support::text(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{camera}: {text}");
        assert!(text.contains(key), "{camera}: {text}");
    }
}

// Webcams

#[test]
fn webcam_that_is_not_there_is_named() {
    let output = support::run(&["run", "--source", "webcam:no such webcam"]);
    let words = if cfg!(feature = "camera") {
        "no webcam \"no such webcam\" was found; the video devices are: "
    } else {
        "this build of maskd has no webcam support; install libclang-dev and build with --features camera"
    };
    support::assert_refused(&output, 69, words);
}

#[test]
fn real_webcam_gives_frames_and_lets_go() {
    let device = std::env::var("MASKD_TEST_WEBCAM").unwrap_or_else(|_| "/dev/video0".to_owned());
    if !cfg!(feature = "camera") || !Path::new(&device).exists() {
        eprintln!("skipped: needs the feature camera, and a webcam at {device}");
        return;
    }
    let spec: Spec = format!("webcam:{device}").parse().unwrap();
    for format in [VideoFormat::Auto, VideoFormat::Yuyv] {
        let options = CameraOptions {
            stall: Duration::from_secs(10),
            video: VideoOptions {
                format,
                ..VideoOptions::default()
            },
            ..options()
        };
        // The second iteration succeeds only if the first iteration has released the
        // webcam.
        for _ in 0..2 {
            let mut camera = reopened(&spec, &options);
            let first = frame(&mut camera);
            let second = frame(&mut camera);
            assert!(second.seq > first.seq && second.at > first.at);
            assert_eq!(first.pixels.dimensions(), second.pixels.dimensions());
            eprintln!("{format}: {:?}", first.pixels.dimensions());
        }
    }
}

/// Opens the camera, and retries for a while if this fails, like the daemon. Retrying is
/// needed because a webcam is released only after its next picture has arrived.
fn reopened(spec: &Spec, options: &CameraOptions) -> Camera {
    let start = Instant::now();
    loop {
        match Camera::open(spec.clone(), options.clone(), CancellationToken::new()) {
            Ok(camera) => return camera,
            Err(error) if start.elapsed() > Duration::from_secs(10) => panic!("{error}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

// HTTP

/// Runs `test` with a simulated camera. The camera responds to each connection with one
/// of the `answers`, in order. Returns the result of the test and the requests that the
/// camera received.
fn serve<T>(
    answers: &[&(dyn Fn(&mut TcpStream) + Sync)],
    test: impl FnOnce(&str) -> T,
) -> (T, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_nodelay(true).unwrap();
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .unwrap();
                requests.push(read_request(&mut stream));
                answer(&mut stream);
            }
            requests
        });
        let result = test(&host);
        (result, server.join().unwrap())
    })
}

fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    String::from_utf8(request).unwrap()
}

/// Sends the bytes. Ignores errors, because the reader may close the connection before
/// all bytes are written.
fn send(stream: &mut impl Write, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

const MULTIPART: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: \
    multipart/x-mixed-replace;boundary=part\r\n\r\n";

fn part(jpeg: &[u8]) -> Vec<u8> {
    let head = format!(
        "--part\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
        jpeg.len()
    );
    [head.as_bytes(), jpeg, b"\r\n"].concat()
}

/// Waits until the other side closes the connection.
fn until_closed(stream: &mut impl Read) {
    let _ = stream.read(&mut [0]);
}

fn http(host: &str) -> Spec {
    format!("http://{host}/video").parse().unwrap()
}

#[test]
fn stream_is_read_lost_and_read_again() {
    // Each picture is sent only after the previous one was received.
    let seen = AtomicU8::new(0);
    let first = |stream: &mut TcpStream| {
        send(stream, MULTIPART);
        for number in 0..3 {
            while seen.load(Ordering::Relaxed) < number {
                thread::sleep(Duration::from_millis(5));
            }
            let part = part(&jpeg(50 * number));
            // The picture is sent in two parts.
            send(stream, &part[..300]);
            thread::sleep(Duration::from_millis(100));
            send(stream, &part[300..]);
        }
        while seen.load(Ordering::Relaxed) < 3 {
            thread::sleep(Duration::from_millis(5));
        }
    };
    let second = |stream: &mut TcpStream| {
        send(stream, MULTIPART);
        let parts: Vec<u8> = [10, 90, 200].map(|gray| part(&jpeg(gray))).concat();
        send(stream, &parts);
        until_closed(stream);
    };
    let basic = |stream: &mut TcpStream| {
        send(
            stream,
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n\r\n",
        );
    };
    let ((), requests) = serve(&[&basic, &first, &basic, &second], |host| {
        let url = format!("http://me:secret@{host}/video?x=1");
        let (mut camera, _) = open(url.parse().unwrap(), options());
        for number in 0..3u8 {
            let frame = frame(&mut camera);
            assert_eq!(frame.seq, u64::from(number));
            seen.store(number + 1, Ordering::Relaxed);
            assert!(gray(&frame).abs_diff(50 * number) < 4);
        }
        let error = lost(&mut camera).to_string();
        assert!(
            error.starts_with(&format!(
                "the stream http://{host}/video?… ended (it had sent pictures before)"
            )),
            "{error}"
        );
        let newest = frame(&mut camera);
        assert_eq!(newest.seq, 5, "two older ones were passed over");
        assert!(gray(&newest) > 190);
        assert_eq!(camera.restarts(), 1);
    });
    for (number, request) in requests.iter().enumerate() {
        assert!(
            request.starts_with("GET /video?x=1 HTTP/1.1\r\n"),
            "{request}"
        );
        let basic = request.contains("Authorization: Basic bWU6c2VjcmV0\r\n");
        assert_eq!(basic, number % 2 == 1, "only when asked: {request}");
    }
}

#[test]
fn answers_that_are_no_stream_are_told_without_the_password() {
    for (answer, part) in [
        (
            "404 Not Found\r\n",
            "answered 404 Not Found, not 200 OK; check the path",
        ),
        ("204 No Content\r\n", "answered 204 No Content, not 200 OK"),
        (
            "503 secret http://me:secret@cam\r\n",
            "answered 503 … http://cam; check whether other programs",
        ),
        (
            "200 OK\r\nContent-Type: Text/html; charset=utf-8\r\n",
            "sends Text/html; charset=utf-8 without a JPEG picture (nothing was received)",
        ),
        (
            "403 Forbidden\r\n",
            "answered 403 Forbidden to the user name and password; check both",
        ),
        (
            "302 Found\r\nLocation: ftp://me:secret@cam/\r\n",
            "it redirects to ftp:, which is not supported",
        ),
        (
            "302 Found\r\nLocation: http://\r\n",
            "it redirects to an invalid address",
        ),
        (
            "401 No\r\nWWW-Authenticate: NTLM\r\nWWW-Authenticate: Negotiate\r\n",
            "a kind that maskd does not support (NTLM, Negotiate); set the camera to",
        ),
    ] {
        let answer = format!("HTTP/1.1 {answer}Content-Length: 0\r\n\r\n");
        let play = |stream: &mut TcpStream| send(stream, answer.as_bytes());
        serve(&[&play], |host| {
            let url = format!("http://me:secret@{host}/video?pwd=secret");
            let stall = Duration::from_secs(5);
            let (mut camera, _) = open(url.parse().unwrap(), CameraOptions { stall, ..options() });
            let error = lost(&mut camera);
            assert!(!error.is_missing_input());
            let error = error.to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains(&format!("http://{host}/video")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        });
    }
}

#[test]
fn redirect_within_http_is_followed() {
    let redirect = |stream: &mut TcpStream| {
        let head = "HTTP/1.1 302 Found\r\nLocation: /other\r\nConnection: close\r\n";
        send(
            stream,
            format!("{head}Content-Length: 0\r\n\r\n").as_bytes(),
        );
    };
    let picture = |stream: &mut TcpStream| {
        send(stream, &[MULTIPART, &part(&jpeg(80))].concat());
        until_closed(stream);
    };
    let ((), requests) = serve(&[&redirect, &picture], |host| {
        let (mut camera, _) = open(http(host), options());
        frame(&mut camera);
    });
    assert!(requests[1].starts_with("GET /other "));
}

#[test]
fn camera_that_is_off_is_a_loss_and_no_error_of_open() {
    // No program listens on this port anymore.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (mut camera, _) = open(http(&format!("127.0.0.1:{port}")), options());
    let error = lost(&mut camera).to_string();
    assert!(error.contains("Connection refused"), "{error}");
    assert!(
        error.ends_with("check that the camera is on and that the address is right"),
        "{error}"
    );
}

#[test]
fn stream_that_goes_silent_or_sends_noise_is_stalled() {
    let stall = Duration::from_millis(600);
    let mute = |stream: &mut TcpStream| until_closed(stream);
    let half = |stream: &mut TcpStream| {
        send(stream, &[MULTIPART, &jpeg(80)[..100]].concat());
        until_closed(stream);
    };
    // This camera sends a head that never ends.
    let drip = |stream: &mut TcpStream| {
        send(stream, b"HTTP/1.1 200 OK\r\n");
        for _ in 0..30 {
            send(stream, b"A: b\r\n");
            thread::sleep(Duration::from_millis(50));
        }
    };
    let noise = |stream: &mut TcpStream| {
        send(stream, MULTIPART);
        for _ in 0..30 {
            send(stream, b"noise");
            thread::sleep(Duration::from_millis(50));
        }
    };
    let video = |stream: &mut TcpStream| {
        send(stream, MULTIPART);
        send(
            stream,
            b"--part\r\nContent-Type: video/h264\r\n\r\n\0\0\0\x01\x67data",
        );
        until_closed(stream);
    };
    for (play, part) in [
        (
            &mute as &(dyn Fn(&mut TcpStream) + Sync),
            "it did not answer",
        ),
        (&video, "of the type video/h264, so set the camera to MJPEG"),
        (&half, "received 100 bytes, but no complete JPEG picture"),
        (&drip, "it did not answer"),
        (&noise, "bytes, but no complete JPEG picture"),
    ] {
        serve(&[play], |host| {
            let spec = http(host);
            let (mut camera, _) = open(spec, CameraOptions { stall, ..options() });
            let start = Instant::now();
            let error = lost(&mut camera).to_string();
            assert!(start.elapsed() >= stall && start.elapsed() < stall + SOON);
            assert!(
                error.contains("for 0.6 s:") && error.contains(part),
                "{error}"
            );
        });
    }
}

#[test]
fn stop_ends_the_wait_for_a_stream() {
    let play = |stream: &mut TcpStream| {
        send(stream, MULTIPART);
        until_closed(stream);
    };
    serve(&[&play], |host| {
        let (mut camera, stop) = open(http(host), options());
        thread::scope(|scope| {
            let canceller = scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                stop.cancel();
                Instant::now()
            });
            assert_end(&mut camera);
            assert!(canceller.join().unwrap().elapsed() < SOON);
        });
    });
}

#[test]
fn answer_with_an_oddity_gives_frames() {
    let stream: Vec<u8> = [part(&jpeg(80)), part(&jpeg(80))].concat();
    let chunked: Vec<u8> = [
        format!("{:x}\r\n", stream.len()).as_bytes(),
        &stream,
        b"\r\n",
    ]
    .concat();
    let multipart = "Content-Type: multipart/x-mixed-replace;boundary=part\r\n";
    for head in [
        format!("HTTP/1.1 200 OK\r\nServer IPCam\r\n{multipart}\r\n"),
        format!("HTTP/1.1 200 OK\r\nTue, 12 Jun 2012 01:56:34 GMT\r\n{multipart}\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n{multipart}\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{multipart}\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2147483647\r\n{multipart}\r\n"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n{multipart}\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Type: image/jpeg\r\n\r\n".into(),
        "HTTP/1.1 200 OK\nContent-Type : multipart/x-mixed-replace;\n boundary=part\n\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\n".into(),
        "HTTP/1.1 200\r\n\r\n".into(),
        "HTTP/1.0 200 OK\r\n\r\n".into(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".into(),
        "ICY 200 OK\r\n\r\n".into(),
        "Content-Type: multipart/x-mixed-replace\r\n\r\n".into(),
        "\r\nHTTP/1.1 200 OK\r\n\r\n".into(),
        String::new(),
    ] {
        let play = |socket: &mut TcpStream| {
            send(socket, &[head.as_bytes(), &stream].concat());
            until_closed(socket);
        };
        serve(&[&play], |host| {
            let stall = Duration::from_secs(5);
            let (mut camera, _) = open(http(host), CameraOptions { stall, ..options() });
            let event = camera.next();
            assert!(matches!(event, CameraEvent::Frame(_)), "{head}: {event:?}");
        });
    }
    let play = |socket: &mut TcpStream| {
        send(socket, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n");
        send(socket, &[multipart.as_bytes(), b"\r\n", &chunked].concat());
        until_closed(socket);
    };
    serve(&[&play], |host| {
        let (mut camera, _) = open(http(host), options());
        frame(&mut camera);
    });
}

#[test]
fn answer_that_cannot_be_read_is_told() {
    for (answer, part) in [
        (&b""[..], "it closed the connection without an answer"),
        (b"HTTP/1.1 OK\r\n\r\n", "has no HTTP status"),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            "write https:// instead of http://",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nx\r\n",
            "the lengths in its chunked answer are wrong",
        ),
        (
            b"<html>log in</html>",
            "ended (received 19 bytes, but no complete JPEG picture)",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            "sends text/html without a JPEG picture (received 6 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: a\x1b[31mb\r\n\r\n",
            "sends a\\u{1b}[31mb without a JPEG picture (nothing was received",
        ),
    ] {
        let play = |stream: &mut TcpStream| send(stream, answer);
        serve(&[&play], |host| {
            let (mut camera, _) = open(http(host), options());
            let error = lost(&mut camera).to_string();
            assert!(error.contains(part), "{error}");
        });
    }
    let endless = |stream: &mut TcpStream| {
        send(stream, b"HTTP/1.1 200 OK\r\n");
        send(stream, &b"A: b\r\n".repeat(20_000));
    };
    serve(&[&endless], |host| {
        let (mut camera, _) = open(http(host), options());
        let error = lost(&mut camera).to_string();
        assert!(error.contains("has more than 64 KiB"), "{error}");
    });
    let redirect = |stream: &mut TcpStream| {
        send(stream, b"HTTP/1.1 302 Found\r\nLocation: /video\r\n\r\n");
    };
    let redirects = [&redirect as &(dyn Fn(&mut TcpStream) + Sync); 11];
    serve(&redirects, |host| {
        let (mut camera, _) = open(http(host), options());
        let error = lost(&mut camera).to_string();
        assert!(error.contains("it redirects too often"), "{error}");
    });
}

const SNAPSHOT: &str = "Content-Type: image/jpeg\r\n";

fn snapshot(status: &str, gray: u8) -> Vec<u8> {
    let jpeg = jpeg(gray);
    let head = format!(
        "{status}\r\n{SNAPSHOT}Content-Length: {}\r\n\r\n",
        jpeg.len()
    );
    [head.as_bytes(), &jpeg].concat()
}

#[test]
fn snapshots_are_requested_again_and_again_without_a_loss() {
    let kept = |stream: &mut TcpStream| {
        for number in 0..5 {
            if number > 0 {
                read_request(stream);
            }
            send(stream, &snapshot("HTTP/1.1 200 OK", 40 * number));
        }
        // Like a real camera, this camera eventually closes the connection between two
        // requests.
    };
    let closed = |stream: &mut TcpStream| send(stream, &snapshot("HTTP/1.0 200 OK", 200));
    let unsized_picture = |stream: &mut TcpStream| {
        send(
            stream,
            format!("HTTP/1.1 200 OK\r\n{SNAPSHOT}\r\n").as_bytes(),
        );
        send(stream, &jpeg(220));
    };
    let chunked = |stream: &mut TcpStream| {
        let jpeg = jpeg(240);
        let head = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            jpeg.len()
        );
        send(stream, &[head.as_bytes(), &jpeg, b"\r\n0\r\n\r\n"].concat());
        until_closed(stream);
    };
    serve(&[&kept, &closed, &unsized_picture, &chunked], |host| {
        let video = VideoOptions {
            fps: 20,
            ..VideoOptions::default()
        };
        let (mut camera, _) = open(http(host), CameraOptions { video, ..options() });
        let start = Instant::now();
        for (seq, expected) in [0, 40, 80, 120, 160, 200, 220, 240].into_iter().enumerate() {
            let frame = frame(&mut camera);
            assert_eq!(frame.seq, seq as u64);
            assert!(gray(&frame).abs_diff(expected) < 4, "{expected}");
        }
        assert!(
            start.elapsed() >= Duration::from_millis(7 * 50),
            "20 a second at most"
        );
        assert_eq!(camera.restarts(), 0);
    });
}

#[test]
fn stream_of_pictures_that_are_no_parts_is_no_snapshot() {
    let play = |stream: &mut TcpStream| {
        send(
            stream,
            format!("HTTP/1.1 200 OK\r\n{SNAPSHOT}\r\n").as_bytes(),
        );
        send(stream, &[jpeg(10), jpeg(90), jpeg(200)].concat());
    };
    serve(&[&play], |host| {
        let (mut camera, _) = open(http(host), options());
        frame(&mut camera);
        let error = loop {
            match camera.next() {
                CameraEvent::Frame(_) => {}
                CameraEvent::Lost(error) => break error.to_string(),
                other => panic!("{other:?}"),
            }
        };
        assert!(
            error.contains("ended (it had sent pictures before)"),
            "{error}"
        );
    });
}

const DIGEST: &str = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n\
    WWW-Authenticate: Digest realm=\"cam\", nonce=\"NONCE\", qop=\"auth\", opaque=\"o\"STALE\r\n\
    Content-Length: 0\r\n\r\n";

fn digest(nonce: &str, stale: bool) -> String {
    let stale = if stale { ", stale=true" } else { "" };
    DIGEST.replace("NONCE", nonce).replace("STALE", stale)
}

/// Returns whether a request responds to the challenge `nonce` for the user `me` as
/// specified in RFC 7616.
fn answers(request: &str, nonce: &str, password: &str) -> bool {
    use md5::{Digest, Md5};
    let field = |name: &str| {
        let (_, value) = request.split_once(&format!("{name}="))?;
        let value = value.trim_start_matches('"');
        Some(value[..value.find(['"', ',', '\r'])?].to_owned())
    };
    let hash = |text: String| maskd::platform::hex::encode(&Md5::digest(text.as_bytes()));
    let secret = hash(format!("me:cam:{password}"));
    let (Some(count), Some(random), Some(uri)) = (field("nc"), field("cnonce"), field("uri"))
    else {
        return false;
    };
    let covered = hash(format!("GET:{uri}"));
    let response = hash(format!("{secret}:{nonce}:{count}:{random}:auth:{covered}"));
    request.starts_with(&format!("GET {uri} HTTP/1.1\r\n"))
        && field("response") == Some(response)
        && field("nonce").as_deref() == Some(nonce)
        && field("opaque").as_deref() == Some("o")
}

#[test]
fn digest_is_answered_and_a_stale_nonce_is_replaced() {
    let refuse = |stream: &mut TcpStream| send(stream, digest("one", false).as_bytes());
    let stale = |stream: &mut TcpStream| send(stream, digest("two", true).as_bytes());
    let picture = |stream: &mut TcpStream| send(stream, &snapshot("HTTP/1.0 200 OK", 80));
    let ((), requests) = serve(&[&refuse, &picture, &picture, &stale, &picture], |host| {
        let url = format!("http://me:se%2Fcr%40t@{host}/video?x=1");
        let (mut camera, _) = open(url.parse().unwrap(), options());
        for _ in 0..3 {
            frame(&mut camera);
        }
        assert_eq!(camera.restarts(), 0);
    });
    assert!(!requests[0].contains("Authorization"));
    for (number, nonce) in [(1, "one"), (2, "one"), (3, "one"), (4, "two")] {
        let request = &requests[number];
        assert!(answers(request, nonce, "se/cr@t"), "{number}: {request}");
    }
    assert!(requests[2].contains("nc=00000002"), "{}", requests[2]);
    assert!(!requests.concat().contains("Basic"), "{requests:?}");
}

#[test]
fn refused_logins_are_told_and_not_repeated() {
    let refuse = |stream: &mut TcpStream| send(stream, digest("one", false).as_bytes());
    let stale = |stream: &mut TcpStream| send(stream, digest("two", true).as_bytes());
    let basic = |stream: &mut TcpStream| {
        send(
            stream,
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n\r\n",
        );
    };
    let silent = |stream: &mut TcpStream| send(stream, b"HTTP/1.1 401 Unauthorized\r\n\r\n");
    for plays in [
        &[&refuse as &(dyn Fn(&mut TcpStream) + Sync), &refuse][..],
        &[&stale, &stale, &stale],
        &[&basic, &basic],
        &[&silent, &silent],
    ] {
        let ((), requests) = serve(plays, |host| {
            let url = format!("http://me:secret@{host}/video");
            let (mut camera, _) = open(url.parse().unwrap(), options());
            let error = lost(&mut camera).to_string();
            assert!(
                error.contains("to the user name and password; check both"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        });
        assert!(!requests[0].contains("Authorization"));
    }
    serve(&[&silent], |host| {
        let (mut camera, _) = open(http(host), options());
        let error = lost(&mut camera).to_string();
        assert!(
            error.contains("answered 401 Unauthorized; write user and password into the address"),
            "{error}"
        );
    });
}

#[test]
fn login_does_not_follow_a_redirect_to_another_host() {
    // The redirect leads to the same server under a different name.
    let redirect = |stream: &mut TcpStream| {
        let port = stream.local_addr().unwrap().port();
        let location = format!("http://me:other@localhost:{port}/other");
        send(
            stream,
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n").as_bytes(),
        );
    };
    let basic = |stream: &mut TcpStream| {
        send(
            stream,
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n\r\n",
        );
    };
    let ((), requests) = serve(&[&basic, &redirect, &basic], |host| {
        let url = format!("http://me:secret@{host}/video");
        let (mut camera, _) = open(url.parse().unwrap(), options());
        let error = lost(&mut camera).to_string();
        assert!(
            error.contains("(which redirects to http://localhost:"),
            "{error}"
        );
        assert!(error.contains("the login is not sent there"), "{error}");
    });
    assert!(requests[1].contains("Authorization: Basic bWU6c2VjcmV0\r\n"));
    assert!(requests[2].starts_with("GET /other "));
    assert!(!requests[2].contains("Authorization"), "{}", requests[2]);
}

// HTTPS

fn tls_file(name: &str) -> PathBuf {
    support::root().join("tests/data/tls").join(name)
}

/// Accepts the given number of TLS connections with this certificate. Responds to each
/// connection with one snapshot, and returns the requests received.
fn serve_tls(listener: &TcpListener, name: &str, connections: usize) -> Vec<String> {
    let answer = snapshot("HTTP/1.0 200 OK", 80);
    serve_tls_with(listener, (name, name), connections, &answer)
}

/// Same as [`serve_tls`], but with the given answer, and with the given certificate and key,
/// which need not belong together.
fn serve_tls_with(
    listener: &TcpListener,
    (certificate, key): (&str, &str),
    connections: usize,
    answer: &[u8],
) -> Vec<String> {
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
    let certificate = tls_file(&format!("{certificate}.pem"));
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls_file(&format!("{key}.key"))).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    let certified = CertifiedKey::new(vec![certificate], key);
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(std::sync::Arc::new(SingleCertAndKey::from(certified)));
    let config = std::sync::Arc::new(config);
    let mut requests = Vec::new();
    for _ in 0..connections {
        let (stream, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            request.extend(byte);
        }
        requests.push(String::from_utf8(request).unwrap());
        // Like a real camera, the test closes the connection without a TLS close
        // notification.
        send(&mut stream, answer);
    }
    requests
}

/// Simulates an `https` camera with this certificate for one connection, and returns the
/// first event and the request.
fn https(name: &str, tls: TlsTrust) -> (CameraEvent, String) {
    https_with((name, name), tls)
}

/// Same as [`https`], but with the given certificate and the given key.
fn https_with(identity: (&str, &str), tls: TlsTrust) -> (CameraEvent, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://me:secret@{}/video", listener.local_addr().unwrap());
    let answer = snapshot("HTTP/1.0 200 OK", 80);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve_tls_with(&listener, identity, 1, &answer));
        let (mut camera, _) = open(url.parse().unwrap(), CameraOptions { tls, ..options() });
        let event = camera.next();
        (event, server.join().unwrap().concat())
    })
}

const FINGERPRINT: &str = "4c66e22972d6b0fc9b484e6df506c34cd186c49e88fe698e7138fe491988fe83";

fn fingerprint() -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&FINGERPRINT[2 * at..2 * at + 2], 16).unwrap())
}

#[test]
fn https_camera_is_read_if_its_certificate_is_trusted() {
    let pinned = TlsTrust::Fingerprint(fingerprint());
    let file = |name: &str| TlsTrust::File(tls_file(name));
    for (name, trust) in [
        ("self-signed", pinned.clone()),
        ("self-signed", file("self-signed.pem")),
        ("signed", file("signed.pem")),
        ("signed", file("authority.pem")),
    ] {
        let (event, request) = https(name, trust.clone());
        assert!(
            matches!(event, CameraEvent::Frame(_)),
            "{name} {trust:?}: {event:?}"
        );
        assert!(
            request.starts_with("GET /video HTTP/1.1\r\nHost: 127.0.0.1:"),
            "{request}"
        );
    }
    for (name, trust, part) in [
        ("self-signed", TlsTrust::System, "the camera signed itself"),
        (
            "self-signed",
            file("authority.pem"),
            "the camera signed itself",
        ),
        (
            "signed",
            file("self-signed.pem"),
            "is signed by no known certificate authority",
        ),
        (
            "signed",
            pinned,
            "is not the one with the fingerprint in camera.tls-fingerprint",
        ),
    ] {
        let (event, request) = https(name, trust.clone());
        let CameraEvent::Lost(error) = event else {
            panic!("{name} {trust:?}: {event:?}");
        };
        let error = error.to_string();
        assert!(error.contains(part), "{error}");
        if name == "self-signed" {
            let advice = format!("fingerprint {FINGERPRINT}, set camera.tls-fingerprint to it");
            assert!(error.contains(&advice), "{error}");
        }
        assert_eq!(
            request, "",
            "nothing is sent to a camera that is not trusted"
        );
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_certificate_without_its_key_is_not_trusted() {
    // The certificate of a camera is public, so only its key proves that the camera has
    // answered.
    for trust in [
        TlsTrust::Fingerprint(fingerprint()),
        TlsTrust::File(tls_file("self-signed.pem")),
    ] {
        let (event, request) = https_with(("self-signed", "signed"), trust.clone());
        let CameraEvent::Lost(error) = event else {
            panic!("{trust:?}: the server is trusted");
        };
        assert!(error.to_string().contains("TLS failed"), "{error}");
        assert_eq!(request, "", "nothing is sent to this server");
    }
}

#[test]
fn https_and_http_in_the_wrong_place_are_told() {
    let plain = |stream: &mut TcpStream| send(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/video", listener.local_addr().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            plain(&mut stream);
        });
        let (mut camera, _) = open(url.parse().unwrap(), options());
        let error = lost(&mut camera).to_string();
        assert!(
            error.contains("does not use TLS on this port, so write http://"),
            "{error}"
        );
    });
    for file in [tls_file("none.pem"), tls_file("signed.key")] {
        let tls = TlsTrust::File(file);
        let (mut camera, _) = open(url.parse().unwrap(), CameraOptions { tls, ..options() });
        let error = lost(&mut camera).to_string();
        assert!(error.contains("check camera.ca-file"), "{error}");
    }
}

#[test]
fn redirect_to_https_on_the_same_host_keeps_the_login_and_one_back_is_refused() {
    let secure = TcpListener::bind("127.0.0.1:0").unwrap();
    let location = format!("https://{}/video", secure.local_addr().unwrap());
    let redirect = |stream: &mut TcpStream| {
        send(
            stream,
            format!("HTTP/1.1 301 Moved\r\nLocation: {location}\r\n\r\n").as_bytes(),
        );
    };
    let basic = |stream: &mut TcpStream| {
        send(
            stream,
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"cam\"\r\n\r\n",
        );
    };
    let requests = thread::scope(|scope| {
        let server = scope.spawn(|| serve_tls(&secure, "self-signed", 1));
        serve(&[&basic, &redirect], |host| {
            let tls = TlsTrust::File(tls_file("self-signed.pem"));
            let url = format!("http://me:secret@{host}/video");
            let (mut camera, _) = open(url.parse().unwrap(), CameraOptions { tls, ..options() });
            frame(&mut camera);
        });
        server.join().unwrap()
    });
    assert!(
        requests[0].contains("Authorization: Basic bWU6c2VjcmV0\r\n"),
        "{requests:?}"
    );
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    plain.set_nonblocking(true).unwrap();
    let back = format!(
        "HTTP/1.1 301 Moved\r\nLocation: http://{}/video\r\n\r\n",
        plain.local_addr().unwrap()
    );
    let identity = ("self-signed", "self-signed");
    thread::scope(|scope| {
        let server = scope.spawn(|| serve_tls_with(&secure, identity, 1, back.as_bytes()));
        let tls = TlsTrust::File(tls_file("self-signed.pem"));
        let url = format!("https://me:secret@{}/video", secure.local_addr().unwrap());
        let (mut camera, _) = open(url.parse().unwrap(), CameraOptions { tls, ..options() });
        let error = lost(&mut camera).to_string();
        assert!(
            error.contains("redirects from https to http, which is not encrypted"),
            "{error}"
        );
        server.join().unwrap();
    });
    assert!(plain.accept().is_err(), "the camera asks nobody there");
}

#[test]
fn check_requests_a_picture_from_an_http_camera() {
    let folder = Folder::new();
    let check = |host: &str| {
        let source = format!("source = \"http://{host}/picture\"\nstall-ms = 2000");
        let file = config(&folder, &source);
        maskd_with(&folder, &["check", "--config", &file])
            .output()
            .unwrap()
    };
    let ((), _) = serve(
        &[
            &|stream| send(stream, &snapshot("HTTP/1.0 200 OK", 80)),
            &|stream| {
                send(
                    stream,
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                );
            },
        ],
        |host| {
            let text = support::text(&check(host).stdout);
            assert!(
                text.contains("ok   source       http://127.0.0.1:"),
                "{text}"
            );
            assert!(
                text.contains("it sends pictures of 32x24 pixels\n"),
                "{text}"
            );
            let wrong = check(host);
            let text = support::text(&wrong.stdout);
            assert!(
                text.contains("BAD  source") && text.contains("404 Not Found"),
                "{text}"
            );
            assert_eq!(wrong.status.code(), Some(69));
        },
    );
}

#[test]
fn check_prints_the_fingerprint_of_an_https_camera() {
    let folder = Folder::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://me:secret@{}/video", listener.local_addr().unwrap());
    let check = |trust: &str| {
        let file = config(&folder, &format!("source = \"{url}\"\n{trust}"));
        thread::scope(|scope| {
            let server = scope.spawn(|| serve_tls(&listener, "self-signed", 1));
            let output = maskd_with(&folder, &["check", "--config", &file]).output();
            assert_eq!(server.join().unwrap().concat(), "");
            support::text(&output.unwrap().stdout)
        })
    };
    let text = check("");
    assert!(
        text.contains("BAD  source       the certificate of https://127.0.0.1:"),
        "{text}"
    );
    assert!(
        text.contains(FINGERPRINT) && !text.contains("secret"),
        "{text}"
    );
    let text = check(&format!("tls-fingerprint = \"{FINGERPRINT}\""));
    assert!(
        text.contains("ok   source       https://127.0.0.1:"),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "its certificate is accepted; SHA-256 {FINGERPRINT}"
        )),
        "{text}"
    );
}

// Passwords

#[test]
fn no_output_shows_the_password_of_a_camera() {
    let folder = Folder::new();
    let state = folder.path().display().to_string();
    let passwords = [
        "Qx7Z9",
        "12/34Qx7Z9",
        "Qx7Z9#",
        "a?Qx7Z9",
        "Qx7Z9@1",
        "a Qx7Z9",
        "\\\\Qx7Z9",
        "ä%Qx7Z9",
        ":Qx7Z9",
        "x://Qx7Z9",
    ];
    for (number, password) in passwords.into_iter().enumerate() {
        let sources = [
            // Port 9 belongs to the discard service. No program listens on it.
            format!("http://me:{password}@127.0.0.1:9/video"),
            format!(" http://me:{password}@127.0.0.1:9/video"),
            format!("http://127.0.0.1:9/video?user=me&pwd={password}"),
            format!("me:{password}@127.0.0.1:9/video"),
            format!("rtsp://me:{password}@127.0.0.1:9/video"),
            format!("exec:sh -c 'echo rtsp://me:{password}@127.0.0.1:9/: {password} >&2; exit 1'"),
            format!("exec:rtsp://me:{password}@127.0.0.1:9/video"),
        ];
        // Each source takes a second, so each password is tested with only a third of the
        // sources.
        for source in sources.into_iter().skip(number % 3).step_by(3) {
            let file = config(&folder, &format!("source = \"{source}\"\nstall-ms = 500"));
            let check = maskd_with(&folder, &["check", "--config", &file]).output();
            let mut run = maskd_with(
                &folder,
                &[
                    "run",
                    "--log",
                    "warn,maskd=trace,rustls=trace",
                    "--once",
                    "--state",
                    &state,
                ],
            );
            let mut run = run
                .args(["--config", &file, "--source", &source])
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(folder.path().join("logs")).unwrap())
                .spawn()
                .unwrap();
            let start = Instant::now();
            let logs = || std::fs::read_to_string(folder.path().join("logs")).unwrap();
            while run.try_wait().unwrap().is_none() && start.elapsed() < LONG {
                if logs().contains("camera lost") {
                    support::interrupt(&run, "-TERM");
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            support::wait(&mut run, LONG);
            let check = check.unwrap();
            let output = support::text(&check.stdout) + &support::text(&check.stderr) + &logs();
            let line = output.lines().find(|line| line.contains("Qx7Z9"));
            assert_eq!(line, None, "{source}");
            assert!(logs().contains("camera"), "{source}: {}", logs());
        }
    }
    let output = support::run(&["run", "http://me:Qx7Z9@127.0.0.1/"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(!support::text(&output.stderr).contains("Qx7Z9"));
}

// Processes

/// Counts the processes whose command line starts with `text`, and the zombies among the
/// children of `parent`.
fn processes(text: &str, parent: u32) -> (usize, usize) {
    let mut found = (0, 0);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        found.0 += usize::from(line.starts_with(text));
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        found.1 += usize::from(stat.contains(&format!(") Z {parent} ")));
    }
    found
}

#[test]
fn processes_that_a_camera_program_leaves_do_not_pile_up() {
    // Each start leaves three processes behind. The first one runs in its own session. The
    // second one has neither a parent nor an environment, and starts another process
    // before it ends. The third one ends immediately. The sleeping time is
    // different in each run of the test, so that processes of another run are not counted.
    let sleep = format!("sleep {}", 50_000 + std::process::id());
    let script = format!(
        "echo x >> starts\ncat 0.jpg\n\
         setsid {sleep} </dev/null >/dev/null 2>&1 &\n\
         (env -i setsid sh -c '{sleep} & sleep 0.01' </dev/null >/dev/null 2>&1 &)\n\
         (setsid true &)\n\
         sleep 0.2\n\
         [ $(wc -l < starts) -lt 4 ] && exit 1\nexec sleep 60"
    );
    let programs = programs("rpicam-vid", &script);
    programs.write("0.jpg", &jpeg(80));
    let file = config(&programs, "source = \"rpicam\"");
    let logs = programs.path().join("logs");
    let mut command = maskd_with(&programs, &["run", "--config", &file]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&logs).unwrap())
        .spawn()
        .unwrap();
    let starts = || std::fs::read_to_string(programs.path().join("starts")).unwrap_or_default();
    let start = Instant::now();
    while starts().lines().count() < 4 && start.elapsed() < LONG {
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_millis(600));
    let (left, zombies) = processes(&sleep, child.id());
    support::interrupt(&child, "-TERM");
    support::wait(&mut child, LONG);
    assert_eq!(starts().lines().count(), 4);
    assert!(
        (1..=2).contains(&left),
        "those of the last start only: {left}"
    );
    assert!(zombies <= 2, "those of the last start only: {zombies}");
    assert_eq!(processes(&sleep, child.id()).0, 0);
}

// Pictures

#[test]
fn folder_is_shown_once_or_for_ever() {
    let folder = Folder::new();
    for number in 0..3 {
        folder.write(&format!("{number}.jpg"), &jpeg(50 * number));
    }
    let (mut camera, _) = open(Spec::Path(folder.path().to_owned()), options());
    for number in 0..3u8 {
        let frame = frame(&mut camera);
        assert_eq!(frame.seq, u64::from(number));
        assert!(gray(&frame).abs_diff(50 * number) < 4);
    }
    assert_end(&mut camera);

    let spec = Spec::Path(folder.path().to_owned());
    let (mut camera, stop) = open(
        spec,
        CameraOptions {
            repeat: true,
            ..options()
        },
    );
    for seq in 0..10 {
        assert_eq!(frame(&mut camera).seq, seq);
    }
    // The folder disappears and comes back, as may happen on a network share.
    let elsewhere = Folder::new();
    let aside = elsewhere.path().join("aside");
    std::fs::rename(folder.path(), &aside).unwrap();
    let mut seen = 9;
    let error = loop {
        match camera.next() {
            CameraEvent::Frame(frame) => seen = frame.seq,
            CameraEvent::Lost(error) => break error,
            other => panic!("it repeats, and yields {other:?}"),
        }
    };
    assert!(error.is_missing_input(), "{error}");
    std::fs::rename(&aside, folder.path()).unwrap();
    assert!(frame(&mut camera).seq > seen);
    stop.cancel();
    assert_end(&mut camera);
}

#[test]
fn missing_path_is_an_error_at_once() {
    let folder = Folder::new();
    for path in [folder.path().to_owned(), folder.path().join("none.jpg")] {
        let error = Camera::open(Spec::Path(path), options(), CancellationToken::new());
        assert!(error.unwrap_err().is_missing_input());
    }
}

#[test]
fn examples_end_unless_repeated() {
    let (mut camera, _) = open(Spec::Examples, options());
    for _ in &maskd::camera::pictures::EXAMPLES {
        frame(&mut camera);
    }
    assert_end(&mut camera);
}
