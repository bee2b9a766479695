//! Tests a control socket server with real stores. The requests come from the client
//! library and from the binary. Some requests are malformed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use image::{Rgb, RgbImage};
use maskd::api::metrics::{self, Heartbeat};
use maskd::api::socket::{
    Client, ControlError, DaemonHandle, DeviceAccess, DeviceFacts, ErrorRecord, Live,
    LiveInference, RefitRequest, TrainRequest, bind, serve,
};
use maskd::config::Config;
use maskd::config::settings::Settings;
use maskd::events::EventLog;
use maskd::learning::enrollment::Enrollments;
use maskd::learning::{
    Channel, DecisionRecord, FailureKind, InUse, LabelAction, Learning, LearningAccess,
    LearningOptions, Purge, RefusalRecord, SampleFilter, SampleSelector, SwitchCause, SwitchRecord,
};
use maskd::onnx::FEATURES;
use maskd::vision::embed::Feature;
use maskd::vision::pipeline::{SHIPPED_CLASSIFIER, open_model};
use serde_json::Value;
use support::{assert_refused, maskd, text, wait};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A device without pins and without a broker.
fn device() -> DeviceAccess {
    let started = std::time::Instant::now();
    let facts = DeviceFacts::new(&Config::default(), "door".to_owned(), false, started);
    DeviceAccess::new(facts).0
}

/// A control socket server with the same kind of handle as in the daemon. Its refit
/// thread has no backbone.
struct Server {
    folder: tempfile::TempDir,
    enrollments: Arc<Mutex<Enrollments>>,
    head: watch::Receiver<Arc<InUse>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(can_refit: bool) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let (_, base) = open_model(None).unwrap();
        let learning = Learning::open(
            &folder.path().join("state"),
            Arc::new(base),
            LearningOptions::default(),
        )
        .unwrap();
        let learning = LearningAccess::from(learning);
        let (live_out, live) = watch::channel(Live {
            decision: "mask".to_owned(),
            inference: LiveInference {
                frames: 7,
                ..LiveInference::default()
            },
            ..Live::default()
        });
        let head = learning.head();
        let (refit, mut refit_requests) = mpsc::channel::<RefitRequest>(1);
        let enrollments = Arc::default();
        let handle = DaemonHandle {
            learning: learning.clone(),
            live,
            head: head.clone(),
            enrollments: Arc::clone(&enrollments),
            refit,
            judge: mpsc::channel(1).0,
            classify: mpsc::channel(1).0,
            events: EventLog::default(),
            settings: Arc::new(Settings::new(&Config::default(), None)),
            counts: None,
            device: device(),
        };
        let (_, pulse) = watch::channel(Heartbeat {
            // The heartbeat is in the future, so that it does not become too old during
            // the test.
            at: std::time::Instant::now() + Duration::from_hours(1),
            fresh: true,
        });
        let metrics_routes = metrics::routes(Arc::default(), handle.clone(), pulse);
        let stop = CancellationToken::new();
        let socket = bind(&folder.path().join("state/control.sock")).unwrap();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let _live = live_out;
            if !can_refit {
                refit_requests.close();
            }
            let refits = async {
                while let Some(request) = refit_requests.recv().await {
                    let mut embed = |crops: &[maskd::frame::Crop]| {
                        let feature = Feature::from(Box::new([0.5; FEATURES]));
                        Ok(vec![feature; crops.len()])
                    };
                    let learning = learning.get();
                    let trigger = request.trigger;
                    let record =
                        learning.and_then(|open| open.refit(trigger, &mut embed, &|| false));
                    let _ = request.answer.send(record.map_err(ErrorRecord::from));
                }
                std::future::pending::<()>().await;
            };
            runtime.block_on(async {
                tokio::select! {
                    served = serve(socket, handle, metrics_routes, stopped) => served.unwrap(),
                    () = refits => {}
                }
            });
        });
        Server {
            folder,
            enrollments,
            head,
            stop,
            thread: Some(thread),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self) -> Client {
        Client::connect(&self.at("state/control.sock"))
            .unwrap()
            .unwrap()
    }

    /// Makes a folder with three pictures labeled `first` and two labeled `second`.
    fn pictures(&self) -> PathBuf {
        let set = self.at("set");
        for (label, count) in [("first", 3), ("second", 2)] {
            fs::create_dir_all(set.join(label)).unwrap();
            for number in 0..count {
                let shade = Rgb([40 * number, 90, label.len() as u8]);
                RgbImage::from_pixel(32, 32, shade)
                    .save(set.join(label).join(format!("{number}.png")))
                    .unwrap();
            }
        }
        set
    }

    /// Sends a request and returns the status and the body of the response.
    fn exchange(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.at("state/control.sock")).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Sends a request like [`Server::exchange`], and parses the body of the response
    /// as JSON.
    fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.exchange(method, path, body);
        (status, serde_json::from_str(&body).unwrap())
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(
    answer: Result<T, ControlError>,
    expected: FailureKind,
    words: &str,
) {
    match answer {
        Err(ControlError::Refused { sentence, fault }) => {
            assert_eq!(fault, expected, "{sentence}");
            assert!(sentence.contains(words), "{words:?} is not in {sentence}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn samples_are_selected_by_the_values_of_a_query() {
    let server = Server::start(true);
    let client = server.client();
    client.import(&server.pictures()).unwrap();
    let second = SampleFilter::with_label(Some("second"));
    let second = client.samples(&second).unwrap();
    assert_eq!(second.len(), 2);
    for label in ["third", "unlabelled"] {
        let found = client.samples(&SampleFilter::with_label(Some(label)));
        assert_eq!(found.unwrap(), [], "{label}");
    }
    let filter = SampleFilter {
        id: Some(second[0].id.clone()),
        predictions: true,
        ..SampleFilter::with_label(Some("second"))
    };
    assert_eq!(client.samples(&filter).unwrap(), second[..1]);
    let filter = SampleFilter {
        suspect: true,
        track: Some(7),
        day: Some("2026-11-24".to_owned()),
        ..SampleFilter::default()
    };
    assert_eq!(client.samples(&filter).unwrap(), []);
    let filter = SampleFilter {
        day: Some("today".to_owned()),
        ..SampleFilter::default()
    };
    refused(client.samples(&filter), FailureKind::Usage, "is not a day");
    refused(
        client.samples(&SampleFilter::with_label(Some("a/b&c"))),
        FailureKind::Usage,
        "cannot be a label",
    );
    refused(
        client.mark(
            SampleSelector::Ids(vec!["any".to_owned()]),
            &LabelAction::As("Religión".to_owned()),
        ),
        FailureKind::Usage,
        "the religion of people",
    );
}

#[test]
fn actions_are_taken_back_and_discarded_samples_restored() {
    let server = Server::start(true);
    let client = server.client();
    client.import(&server.pictures()).unwrap();
    refused(client.undo(None), FailureKind::Missing, "can be taken back");
    let first = client.samples(&SampleFilter::with_label(Some("first")));
    let ids: Vec<String> = first.unwrap().into_iter().map(|s| s.id).collect();
    // Many ids are sent in several requests, and are still one action.
    let mut many = ids.clone();
    many.splice(1..1, (0..450).map(|number| format!("none-{number}")));
    let marked = client
        .mark(SampleSelector::Ids(many), &LabelAction::Discard)
        .unwrap();
    assert_eq!((&marked.done, marked.action), (&ids, Some(1)));
    let filter = SampleFilter {
        discarded: true,
        ..SampleFilter::with_label(Some("first"))
    };
    assert_eq!(client.samples(&filter).unwrap().len(), 3);
    assert!(
        client.picture(&ids[0]).is_ok(),
        "a person sees what to restore"
    );
    let restored = client.restore(&ids[..1]).unwrap();
    assert_eq!(restored.done, ids[..1]);
    let undone = client.undo(marked.action).unwrap();
    assert_eq!(undone.mark, LabelAction::Discard);
    assert_eq!(
        (undone.done, undone.changed),
        (ids[1..].to_vec(), ids[..1].to_vec())
    );
    refused(
        client.undo(Some(1)),
        FailureKind::Missing,
        "can be taken back",
    );
    let restored = client.restore(&ids[..1]).unwrap();
    assert!(restored.failed[&ids[0]].contains("no such discarded sample"));
    assert_eq!(client.stats().unwrap()["first"].samples, 3);
}

#[test]
fn samples_are_imported_listed_labelled_exported_and_purged() {
    let server = Server::start(true);
    let client = server.client();
    let imported = client.import(&server.pictures()).unwrap();
    assert_eq!(imported.added["first"], 3);
    assert_eq!(imported.added["second"], 2);
    refused(
        client.import(Path::new("set")),
        FailureKind::Usage,
        "absolute",
    );
    refused(
        client.import(&server.at("none")),
        FailureKind::Missing,
        "none",
    );

    let samples = client.samples(&SampleFilter::default()).unwrap();
    assert_eq!(samples.len(), 5);
    let second = client
        .samples(&SampleFilter::with_label(Some("second")))
        .unwrap();
    assert_eq!(second.len(), 2);
    assert_eq!(client.stats().unwrap()["first"].samples, 3);

    let id = second[0].id.clone();
    let picture = image::load_from_memory(&client.picture(&id).unwrap()).unwrap();
    assert_eq!((picture.width(), picture.height()), (224, 224));
    refused(
        client.picture("no such/id"),
        FailureKind::Missing,
        "no such/id",
    );

    let ids = vec![id.clone(), "nobody".to_owned()];
    let mark = LabelAction::As("first".to_owned());
    let marked = client.mark(SampleSelector::Ids(ids), &mark).unwrap();
    assert_eq!(marked.done, std::slice::from_ref(&id));
    assert!(marked.failed["nobody"].contains("no such sample"));
    // This is more than the number of ids that fit into one request.
    let many: Vec<String> = (0..450).map(|number| format!("none-{number}")).collect();
    let marked = client
        .mark(SampleSelector::Ids(many), &LabelAction::Discard)
        .unwrap();
    assert_eq!(marked.failed.len(), 450);
    refused(
        client.mark(
            SampleSelector::Ids(vec![id]),
            &LabelAction::As("discard".to_owned()),
        ),
        FailureKind::Usage,
        "cannot be a label",
    );
    refused(
        client.mark(SampleSelector::Track(3), &LabelAction::Unlabelled),
        FailureKind::Missing,
        "track 3",
    );

    let exported = client.export(&server.at("out")).unwrap();
    assert_eq!(exported.written["first"], 4);
    assert_eq!(fs::read_dir(server.at("out/second")).unwrap().count(), 1);
    refused(
        client.export(Path::new("out")),
        FailureKind::Usage,
        "absolute",
    );
    refused(
        client.export(&server.at("state/samples/out")),
        FailureKind::Usage,
        "inside the folder of the samples",
    );

    let purge = |label: &str, days| Purge {
        label: Some(label.to_owned()),
        older_than_days: days,
        discarded: false,
    };
    let removed = client.purge(&purge("first", Some(1))).unwrap();
    assert_eq!(removed.labelled, 0, "none is a day old");
    let removed = client.purge(&purge("first", None)).unwrap();
    assert_eq!((removed.labelled, removed.unlabelled), (4, 0));
    assert_eq!(client.samples(&SampleFilter::default()).unwrap().len(), 1);
}

/// An import of many pictures must not delay other requests.
#[test]
fn the_health_check_answers_during_an_import() {
    let server = Server::start(true);
    let set = server.at("large/first");
    fs::create_dir_all(&set).unwrap();
    for number in 0..300_u32 {
        let shade = Rgb([(number % 256) as u8, (number / 256) as u8, 90]);
        let path = set.join(format!("{number}.png"));
        RgbImage::from_pixel(800, 600, shade).save(path).unwrap();
    }
    let client = server.client();
    let folder = server.at("large");
    let import = std::thread::spawn(move || client.import(&folder).unwrap());
    let mut answers = 0;
    while !import.is_finished() {
        let start = std::time::Instant::now();
        let (status, _) = server.exchange("GET", "/healthz", "");
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{answers} answers"
        );
        assert_eq!(status, 200);
        answers += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(import.join().unwrap().added["first"], 300);
    assert!(answers > 2, "{answers} answers during the import");
}

#[test]
fn heads_are_imported_shown_exported_and_gone_back_from() {
    let server = Server::start(true);
    let client = server.client();
    let heads = client.heads().unwrap();
    let built_in = (heads[0].number, heads[0].recipe.as_str(), heads[0].current);
    assert_eq!((heads.len(), built_in), (1, (0, "built-in", true)));
    assert_eq!(client.head(0).unwrap(), heads[0]);
    refused(client.head(1), FailureKind::Missing, "no model 1");
    refused(client.rollback(1), FailureKind::Usage, "cannot go back");

    let shipped = server.at("shipped.onnx");
    fs::write(&shipped, SHIPPED_CLASSIFIER).unwrap();
    assert_eq!(client.import_head(&shipped).unwrap().head, Some(1));
    assert_eq!(
        server.head.borrow().number,
        Some(1),
        "the camera path has it"
    );
    let heads = client.heads().unwrap();
    assert!(heads.len() == 2 && heads[1].current, "{heads:?}");
    assert!(!heads[0].current, "{heads:?}");
    assert_eq!(client.head(1).unwrap(), heads[1]);
    let copy = server.at("copy.onnx");
    assert_eq!(client.export_head(1, &copy).unwrap().number, 1);
    assert_eq!(client.import_head(&copy).unwrap().head, Some(2));

    fs::write(&copy, b"nothing").unwrap();
    refused(
        client.import_head(&copy),
        FailureKind::Data,
        "not an ONNX model",
    );
    refused(
        client.import_head(&server.at("gone.onnx")),
        FailureKind::Missing,
        "cannot read the model",
    );
    refused(
        client.export_head(1, Path::new("here.onnx")),
        FailureKind::Usage,
        "absolute",
    );
    assert_eq!(client.rollback(2).unwrap().head, None);
    assert_eq!(server.head.borrow().number, None);
    for (number, head) in [(2, Some(2)), (1, Some(1)), (0, None)] {
        assert_eq!(client.use_head(number).unwrap().head, head);
        assert_eq!(server.head.borrow().number, head);
    }
    refused(client.use_head(3), FailureKind::Missing, "no model 3");
    assert_eq!(server.head.borrow().number, None);
    let history = client.history().unwrap();
    let by_client = |at: &SwitchRecord| at.channel == Some(Channel::CommandLine);
    assert!(history.iter().all(by_client), "{history:?}");
    let heads: Vec<u32> = history.iter().map(|at| at.head).collect();
    assert_eq!(heads, [1, 2, 0, 2, 1, 0]);
    assert_eq!(history[2].cause, SwitchCause::Rollback);
}

#[test]
fn one_enrollment_goes_on_at_a_time_and_can_be_ended() {
    let server = Server::start(true);
    let client = server.client();
    refused(client.enrollment(), FailureKind::Missing, "nobody");
    refused(client.end_enrollment(), FailureKind::Missing, "nobody");
    refused(
        client.enroll("with_mask", 0),
        FailureKind::Usage,
        "1 to 1000",
    );
    refused(
        client.enroll("with_mask", 1001),
        FailureKind::Usage,
        "1 to 1000",
    );
    refused(
        client.enroll("unsure", 3),
        FailureKind::Usage,
        "cannot be a label",
    );
    let started = client.enroll("with_mask", 3).unwrap();
    assert_eq!((started.wanted, started.taken), (3, 0));
    refused(
        client.enroll("with_mask", 3),
        FailureKind::NotNow,
        "is in progress",
    );
    {
        let mut enrollments = server.enrollments.lock().unwrap();
        enrollments.taken(started.id);
        enrollments.taken(started.id);
        enrollments.stored(started.id);
    }
    let now = client.enrollment().unwrap();
    assert_eq!((now.id, now.taken, now.stored), (started.id, 2, 1));
    let ended = client.end_enrollment().unwrap();
    assert!(ended.is_over() && ended.stored == 1, "{ended:?}");
    let next = client.enroll("without_mask", 3).unwrap();
    assert!(next.taken == 0 && next.id != started.id, "{next:?}");
}

#[test]
fn a_refit_is_waited_for_and_remembered() {
    let server = Server::start(true);
    let client = server.client();
    client.import(&server.pictures()).unwrap();
    let before = client.status().unwrap();
    assert_eq!((before.new_labels, before.last_refit), (5, None));
    assert_eq!(
        (before.live.decision.as_str(), before.live.inference.frames),
        ("mask", 7)
    );
    assert_eq!(before.state, server.at("state").canonicalize().unwrap());
    assert_eq!(before.samples["second"].samples, 2);

    let record = client.refit().unwrap();
    assert_eq!(
        record.outcome.ruling,
        DecisionRecord::Refused(RefusalRecord::NoSamples)
    );
    assert_eq!(record.small_classes["first"], 3);
    assert!(!record.outcome.labels_checked);
    let after = client.status().unwrap();
    assert_eq!((after.new_labels, after.last_refit), (0, Some(record)));

    let vouching = TrainRequest {
        labels_checked: true,
    };
    assert!(client.refit_with(&vouching).unwrap().outcome.labels_checked);
    // The body may be absent.
    let (status, record) = server.raw("POST", "/api/v1/refit", "");
    assert_eq!(
        (status, &record["outcome"]["labels_checked"]),
        (200, &Value::Bool(false))
    );

    let server = Server::start(false);
    refused(
        server.client().refit(),
        FailureKind::Unavailable,
        "no longer learning",
    );
}

#[test]
fn a_malformed_request_is_answered_with_a_sentence() {
    let server = Server::start(true);
    let client = server.client();
    client.import(&server.pictures()).unwrap();
    let long = format!("{{\"folder\": \"/{}\"}}", "x".repeat(70_000));
    for (method, path, body, expected) in [
        ("GET", "/", "", 404),
        ("GET", "/api/v1/nothing", "", 404),
        ("POST", "/api/v1/status", "", 405),
        ("POST", "/api/v1/samples/label", "", 400),
        ("POST", "/api/v1/samples/label", "{\"chosen\":", 400),
        // A request with a misspelled key must not purge everything.
        (
            "POST",
            "/api/v1/samples/purge",
            "{\"labels\": \"first\"}",
            400,
        ),
        ("POST", "/api/v1/samples/import", &long, 413),
        ("GET", "/api/v1/samples?lable=first", "", 400),
        ("GET", "/api/v1/samples?label=a%2fb", "", 400),
        ("GET", "/api/v1/samples/none/picture", "", 404),
        ("GET", "/api/v1/heads/one", "", 400),
        ("GET", "/api/v1/heads/1", "", 404),
        ("POST", "/api/v1/heads/rollback", "{\"steps\": -1}", 400),
        ("POST", "/api/v1/refit", "{\"labels_checked\": 1}", 400),
        ("POST", "/api/v1/refit", "{\"checked\": true}", 400),
        ("POST", "/api/v1/heads/-1/use", "", 400),
        ("GET", "/api/v1/heads/1/use", "", 405),
        (
            "POST",
            "/api/v1/enroll",
            "{\"label\": \"a\", \"count\": 0}",
            400,
        ),
    ] {
        let (status, answer) = server.raw(method, path, body);
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let sentence = answer["error"].as_str().unwrap();
        assert!(
            !sentence.is_empty() && answer["fault"].is_string(),
            "{answer}"
        );
    }
    assert_eq!(
        client.samples(&SampleFilter::default()).unwrap().len(),
        5,
        "nothing is lost"
    );
    let (status, list) = server.raw("GET", "/api/v1/samples?label=first", "");
    assert_eq!((status, list.as_array().unwrap().len()), (200, 3));
}

#[test]
fn the_socket_is_created_safely_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    assert!(Client::connect(&path).unwrap().is_none(), "no file");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a killed daemon leaves its socket");
    assert!(Client::connect(&path).unwrap().is_none(), "nobody listens");
    let socket = bind(&path).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::InUse { .. }), "{error}");
    drop(socket);
    assert!(!path.exists());

    fs::write(&path, b"letters").unwrap();
    let error = bind(&path).unwrap_err();
    assert!(matches!(error, ControlError::NoSocket { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"letters");
    let error = bind(&folder.path().join("x".repeat(108))).unwrap_err();
    assert!(matches!(error, ControlError::TooLong { .. }), "{error}");
    let error = bind(&folder.path().join("no/control.sock")).unwrap_err();
    assert!(matches!(error, ControlError::Io { .. }), "{error}");
}

#[test]
fn a_stop_closes_open_connections() {
    let mut server = Server::start(true);
    let client = server.client();
    client.status().unwrap();
    let _silent = UnixStream::connect(server.at("state/control.sock")).unwrap();
    let mut slow = UnixStream::connect(server.at("state/control.sock")).unwrap();
    slow.write_all(b"GET /api/v1/sta").unwrap();
    server.end();
    assert!(!server.at("state/control.sock").exists());
    let error = client.status().unwrap_err();
    assert!(matches!(error, ControlError::Lost { .. }), "{error}");
}

#[expect(clippy::too_many_lines, reason = "one conversation, in its order")]
#[test]
fn the_command_line_uses_the_daemon() {
    let mut server = Server::start(true);
    let state = server.at("state");
    let command = |words: &[&str]| {
        maskd()
            .args(words)
            .arg("--state")
            .arg(&state)
            .output()
            .unwrap()
    };
    let good = |words: &[&str]| {
        let output = command(words);
        assert!(
            output.status.success(),
            "{words:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    let set = server.pictures();
    let set = set.to_str().unwrap();
    assert_eq!(
        good(&["samples", "import", set]),
        "added: first 3, second 2\n"
    );
    let status = good(&["status"]);
    assert!(
        status.contains("samples     first 3, second 2; 5 new labels"),
        "{status}"
    );
    let status: Value = serde_json::from_str(&good(&["status", "--json"])).unwrap();
    assert_eq!(status["live"]["frames"], 7);
    let list: Value = serde_json::from_str(&good(&["samples", "list", "--json"])).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 5);
    let refused = good(&["refit"]);
    let sentence = "There is no new model: there are no labeled face pictures to learn from.\n";
    assert!(refused.starts_with(sentence), "{refused}");
    let status = good(&["status"]);
    let missing = "\nlabeled     0 of 20 people with a mask, 0 of 20 without a mask\n";
    assert!(status.contains(missing), "{status}");
    let last = "\ntraining    There is no new model: ";
    assert!(status.contains(last), "{status}");
    assert_refused(&command(&["rollback"]), 64, "cannot go back");
    assert_refused(&command(&["heads", "show", "4"]), 66, "no model 4");

    // There is no person in front of the camera.
    let nobody = command(&["enroll", "first", "--count", "3", "--seconds", "1"]);
    assert_refused(
        &nobody,
        75,
        "0 of 3 face pictures of first were stored within 1 s; no face is in front of the camera now",
    );
    assert_refused(&command(&["enroll", "unsure"]), 64, "cannot be a label");
    assert_refused(&command(&["enroll", "Happy"]), 64, "the emotion of people");
    // Now there is a person in front of the camera.
    let mut child = maskd()
        .args([
            "enroll",
            "first",
            "--count",
            "2",
            "--seconds",
            "600",
            "--state",
        ])
        .arg(&state)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    loop {
        let mut enrollments = server.enrollments.lock().unwrap();
        let active = enrollments.active().filter(|active| active.wanted == 2);
        if let Some(id) = active.map(|active| active.id) {
            for _ in 0..2 {
                enrollments.taken(id);
                enrollments.stored(id);
            }
            break;
        }
        drop(enrollments);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(wait(&mut child, Duration::from_mins(1)), Some(0));
    let mut output = String::new();
    child.stdout.unwrap().read_to_string(&mut output).unwrap();
    assert!(
        output.ends_with("2 face pictures of first were stored\n"),
        "{output}"
    );

    server.end();
    let alone = command(&["status"]);
    assert_refused(&alone, 69, "no daemon is running");
    assert!(text(&alone.stdout).starts_with("samples     first 3, second 2\n"));
    assert_refused(&command(&["enroll", "first"]), 69, "maskd run");
}
