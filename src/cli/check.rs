//! `maskd check`, which reports problems with the config, the models, and the hardware.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::service::{self, Permission};
use super::{Failure, Global, backend, print, print_json};
use crate::api::mqtt;
use crate::api::socket::PageUrl;
use crate::api::web;
use crate::camera::command::RPICAM_PROGRAMS;
use crate::camera::http::{probe_certificate, probe_picture};
use crate::camera::{Camera, SourceError, Spec, webcam};
use crate::config::{Config, Webhook};
use crate::daemon;
use crate::decision::decide::{Decision, VerdictPolicy};
use crate::events::{ExecError, WebhookError};
use crate::indicate::pins;
use crate::learning::heads::Heads;
use crate::learning::{self, LearningError, open_replay};
use crate::platform::disk::DiskSpace;
use crate::platform::text::{counted, printable};
use crate::platform::{board, clock, files, hex};
use crate::vision::pipeline::Pipeline;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Runs all checks, even if one of them fails. The exit code is that of the first
    /// failure.
    pub(super) fn run(&self, global: &Global) -> Result<(), Failure> {
        let report = check(global);
        if self.json {
            print_json(&report.record())?;
        } else {
            print(report.text())?;
        }
        report.failure.map_or(Ok(()), Err)
    }
}

fn check(global: &Global) -> Report {
    let mut report = Report::default();
    let config = match global.load_config_with_renames() {
        Ok((config, renamed)) => {
            let file = global.config_file();
            let file = file.map_or("built-in defaults".to_owned(), |file| {
                file.display().to_string()
            });
            report.good("config", &file);
            for key in renamed {
                report.line(State::Old, "config", &key.to_string());
            }
            Some(config)
        }
        Err(error) => {
            report.bad("config", &error.into());
            None
        }
    };
    if let Some(config) = &config {
        check_models(config, &mut report);
        check_source(config, &mut report);
        check_pins(config, &mut report);
        check_mqtt(config, &mut report);
        let is_of_service = global
            .config_file()
            .is_some_and(|file| service::uses(&file));
        check_events(config, is_of_service, &mut report);
        check_page(global, config, &mut report);
        check_sound(config, is_of_service, &mut report);
        check_times(config, &mut report);
        if is_of_service {
            check_files(config, &mut report);
            check_drop_ins(config, &mut report);
        }
    } else {
        report.line(
            State::Info,
            "not checked",
            "models, source, pins, mqtt, events, page, sound, times: correct the config first",
        );
    }
    check_state(global, config.as_ref(), &mut report);
    report.hardware();
    report
}

/// The state of something that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    Bad,
    Warning,
    /// The config uses an old name.
    Old,
    /// This was found, or was not checked.
    Info,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Bad => "BAD",
            State::Warning => "warn",
            State::Old => "old",
            State::Info => "",
        }
    }
}

/// One result. The format of this record is documented.
#[derive(Debug, Serialize)]
struct CheckRecord {
    state: State,
    /// What was checked. Empty for more about the result before.
    subject: String,
    /// What was found, or what is wrong.
    found: String,
}

/// The object that `maskd check --json` prints.
#[derive(Debug, Serialize)]
struct ReportRecord<'a> {
    /// Whether nothing is wrong.
    ok: bool,
    checks: &'a [CheckRecord],
}

#[derive(Default)]
struct Report {
    checks: Vec<CheckRecord>,
    failure: Option<Failure>,
}

impl Report {
    fn good(&mut self, what: &str, found: &str) {
        self.line(State::Ok, what, found);
    }

    fn bad(&mut self, what: &str, failure: &Failure) {
        self.line(State::Bad, what, &failure.sentence);
        if let Some(first) = &mut self.failure {
            // The report already contains a sentence about each problem.
            "there are several problems, see above".clone_into(&mut first.sentence);
        } else {
            let sentence = format!("there is a problem with the {what}, see above");
            self.failure = Some(Failure::new(failure.exit, sentence));
        }
    }

    fn line(&mut self, state: State, what: &str, found: &str) {
        self.checks.push(CheckRecord {
            state,
            subject: what.to_owned(),
            found: found.to_owned(),
        });
    }

    fn record(&self) -> ReportRecord<'_> {
        ReportRecord {
            ok: self.failure.is_none(),
            checks: &self.checks,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let (state, what) = (check.state.word(), &check.subject);
            let mut lines = check.found.lines();
            let first = printable(lines.next().unwrap_or_default());
            text += &format!("{state:<4} {what:<12} {first}\n");
            for line in lines {
                text += &format!("{:<4} {:<12} {}\n", "", "", printable(line));
            }
        }
        text
    }

    /// Lists the hardware that was found. Missing hardware does not count as a problem.
    fn hardware(&mut self) {
        let board = board::name();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.line(
            State::Info,
            "board",
            &format!("{board}, {}", counted(cores, "core")),
        );
        self.cameras();
        let chips = pins::chips();
        let chips = match chips.as_slice() {
            [] => "none".to_owned(),
            some => some.join(", "),
        };
        self.line(State::Info, "GPIO chips", &chips);
    }

    fn cameras(&mut self) {
        let nodes = webcam::devices();
        if nodes.is_empty() {
            self.line(State::Info, "cameras", "none");
        }
        for node in nodes {
            #[cfg(feature = "camera")]
            let found = match crate::camera::describe_webcam(&node) {
                Ok(formats) => format!("{node}: {formats}"),
                // The additional device files of a webcam often provide no pictures.
                Err(_) if node.index > 0 => continue,
                Err(why) => format!("{node}: not usable as a webcam ({why})"),
            };
            #[cfg(not(feature = "camera"))]
            let found = node.to_string();
            self.line(State::Info, "cameras", &found);
        }
        if !cfg!(feature = "camera") {
            self.line(State::Info, "", "this build has no webcam support");
        }
        let rpicam = RPICAM_PROGRAMS.iter().find(|name| is_program(name));
        let found = rpicam.map_or("not installed", |name| *name);
        self.line(State::Info, "rpicam", found);
    }
}

fn check_models(config: &Config, report: &mut Report) {
    let pipeline = match Pipeline::open(&config.pipeline_options(), 1) {
        Ok(pipeline) => pipeline,
        Err(error) => return report.bad("models", &error.into()),
    };
    let head = pipeline.head();
    let backbone = hex::encode(&head.backbone()[..6]);
    let labels = head.labels().join(", ");
    report.good("models", &format!("labels {labels}; backbone {backbone}"));
    if let Some(file) = &config.models.replay {
        match open_replay(Some(file), head) {
            Ok(_) => report.good("replay set", &file.display().to_string()),
            Err(error) => report.bad("replay set", &error.into()),
        }
    }
    match VerdictPolicy::new(config.classify.verdict_options(), head.labels()) {
        Ok(_) => report.good(
            "labels",
            &format!("masked: {}", config.classify.masked_labels.join(", ")),
        ),
        Err(error) => report.bad("labels", &Failure::new(Failure::CONFIG, error)),
    }
}

/// Checks whether the configured source can work. This function requests a picture from an
/// `http` camera, and checks the certificate of an `https` camera. It starts no program, and
/// opens no other camera.
fn check_source(config: &Config, report: &mut Report) {
    let spec = match config.camera.source.parse::<Spec>() {
        Err(error) => return report.bad("source", &Failure::new(Failure::CONFIG, error)),
        Ok(spec) => spec,
    };
    match &spec {
        Spec::Command(words) if !words.first().is_some_and(|program| is_program(program)) => {
            // The words of the command may contain a password.
            let sentence = format!("the program of the command {spec} is not installed");
            return report.bad("source", &Failure::new(Failure::UNAVAILABLE, sentence));
        }
        Spec::Path(_) => {
            let options = config.camera.options();
            if let Err(error) = Camera::open(spec.clone(), options, CancellationToken::new()) {
                return report.bad("source", &error.into());
            }
        }
        Spec::Webcam(choice) => {
            if let Err(error) = webcam::find(choice) {
                return report.bad("source", &error.into());
            }
        }
        Spec::Rpicam if !RPICAM_PROGRAMS.iter().any(|name| is_program(name)) => {
            return report.bad("source", &SourceError::RpicamMissing.into());
        }
        Spec::Http(url) => {
            let options = config.camera.options();
            let found = if url.is_https() {
                probe_certificate(url, &options).map(|fingerprint| {
                    format!("its certificate is accepted; SHA-256 {fingerprint}")
                })
            } else {
                probe_picture(url, &options)
                    .map(|(width, height)| format!("it sends pictures of {width}x{height} pixels"))
            };
            match found {
                Ok(found) => {
                    report.good("source", &spec.to_string());
                    return report.line(State::Info, "", &found);
                }
                Err(error) => return report.bad("source", &error.into()),
            }
        }
        Spec::Rpicam | Spec::Command(_) | Spec::Examples => {}
    }
    report.good("source", &spec.to_string());
}

/// Checks whether the pins exist, without changing them.
fn check_pins(config: &Config, report: &mut Report) {
    match config
        .indicate
        .pins(pins::is_pi())
        .as_ref()
        .map(pins::describe)
    {
        Some(Ok(words)) => report.good("pins", &words),
        Some(Err(error)) => report.bad("pins", &error.into()),
        None if config.indicate.has_pins() => report.good("pins", "not used: console only"),
        None => report.good("pins", "none: console only"),
    }
}

/// Contacts the broker and checks whether it accepts the login.
fn check_mqtt(config: &Config, report: &mut Report) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let credentials = credentials.as_deref().map(Path::new);
    let plan = match mqtt::BrokerOptions::from_config(config, credentials, &daemon::machine()) {
        Ok(Some(plan)) => plan,
        Ok(None) => return report.good("mqtt", "off: no broker is configured"),
        Err(error) => return report.bad("mqtt", &Failure::new(Failure::NO_INPUT, error)),
    };
    match mqtt::test_connection(&plan) {
        Ok(is_taken) => {
            let (broker, device) = (plan.broker(), plan.device());
            report.good("mqtt", &format!("{broker} accepts the login as {device}"));
            if is_taken {
                let warning =
                    format!("another device is connected as {device}: set a different mqtt.device");
                report.line(State::Warning, "mqtt", &warning);
            }
        }
        Err(error) => report.bad("mqtt", &Failure::new(Failure::UNAVAILABLE, error)),
    }
    if plan.exposes_password() {
        report.line(
            State::Info,
            "",
            "the password is sent unencrypted: set mqtt.tls",
        );
    }
}

/// Contacts the receivers of webhooks, and checks whether the programs can be started. No event is
/// sent, and no program is started.
fn check_events(config: &Config, is_of_service: bool, report: &mut Report) {
    for webhook in config.events.webhook.iter().filter_map(Webhook::options) {
        let receiver = format!("{} at {}", webhook.name, webhook.receiver());
        match webhook.test_connection() {
            Ok(()) => report.good("events", &format!("{receiver} can be reached")),
            Err(error) => {
                let exit = match error {
                    WebhookError::File(_) => Failure::NO_INPUT,
                    _ => Failure::UNAVAILABLE,
                };
                report.bad("events", &Failure::new(exit, format!("{receiver} {error}")));
            }
        }
        if webhook.exposes_token() {
            let warning = "the token is sent unencrypted: use an https address";
            report.line(State::Info, "", warning);
        }
    }
    for exec in &config.events.exec {
        let checked = match &exec.user {
            // The service does not run as root, unlike most people who run this command.
            Some(user) if is_of_service && user != service::NAME => {
                Err(ExecError::NotRoot { user: user.clone() })
            }
            _ => exec.options().check(),
        };
        match checked {
            Ok(()) => report.good("events", &format!("{} can be started", exec.name)),
            Err(error) => {
                let sentence = format!("{}: the program {error}", exec.name);
                report.bad("events", &Failure::new(Failure::UNAVAILABLE, sentence));
            }
        }
    }
}

/// Checks whether the web page can be served. If no daemon serves it, its port is opened for a
/// moment.
fn check_page(global: &Global, config: &Config, report: &mut Report) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
    let credentials = credentials.as_deref().map(Path::new);
    let options = match web::WebOptions::from_config(&config.web, credentials) {
        Ok(Some(options)) => options,
        Ok(None) => return report.good("page", "none"),
        Err(error) => return report.bad("page", &error.into()),
    };
    let url = PageUrl::new(&config.web).and_then(|page| page.url());
    if let Err(error) = web::test_port(options.listen())
        && !(error.may_be_open() && is_served(global, config, url.as_deref()))
    {
        return report.bad("page", &error.into());
    }
    let url = url.unwrap_or_else(|| options.listen().to_string());
    report.good(
        "page",
        &format!("{url}, for anyone with {}", options.needs()),
    );
}

/// Whether a daemon with this config serves the page, or may serve it.
fn is_served(global: &Global, config: &Config, url: Option<&str>) -> bool {
    let Ok(state) = global.state_dir() else {
        return false;
    };
    match backend::daemon(global, config, &state) {
        Ok(Some(client)) => client.status().map_or(true, |status| {
            status.page.as_deref() == url && !status.live.problems.contains_key("page")
        }),
        Ok(None) => false,
        // A daemon runs, but does not answer this user.
        Err(_) => true,
    }
}

/// Checks whether the sound files can be read, and whether their player is installed. No sound
/// is played. With the config of the service, its user must be able to read the files.
fn check_sound(config: &Config, is_of_service: bool, report: &mut Report) {
    let sound = &config.sound;
    let with_file = |decision: Decision| Some((decision, sound.file(decision)?));
    let mut is_used = false;
    for (decision, file) in Decision::ALL.into_iter().filter_map(with_file) {
        is_used = true;
        let name = decision.name();
        let shown = file.display();
        match problem_of_sound(file, is_of_service) {
            None => report.good("sound", &format!("{name}: {shown}")),
            Some(problem) => {
                let sentence = format!("the sound for {name}, {shown}, {problem}");
                report.bad("sound", &Failure::new(Failure::NO_INPUT, sentence));
            }
        }
    }
    if !is_used {
        return report.good("sound", "none");
    }
    let player = sound.program.first().map_or("", String::as_str);
    if is_program(player) {
        report.good("sound", &format!("{player} plays it"));
    } else {
        let sentence = format!(
            "the player {player} is not installed: install it, or name another in sound.program"
        );
        report.bad("sound", &Failure::new(Failure::UNAVAILABLE, sentence));
    }
}

/// Checks whether the device has a time zone, if the config needs it. The service may have
/// another one, if its environment sets `TZ`.
fn check_times(config: &Config, report: &mut Report) {
    if !config.depends_on_time_of_day() {
        return report.good("times", "none");
    }
    let zone = clock::time_zone();
    if zone.is_unknown() {
        let found = "the time zone of the device is not known: set it with \"timedatectl \
                     set-timezone\", or correct the environment variable TZ; until then, windows \
                     do not apply, and quiet hours are in UTC";
        return report.line(State::Warning, "times", found);
    }
    let name = zone.iana_name().unwrap_or("a time zone without a name");
    report.good("times", &format!("in the time zone of the device, {name}"));
}

/// Returns why a sound file cannot be played, as the end of a sentence.
fn problem_of_sound(file: &Path, is_of_service: bool) -> Option<String> {
    if is_of_service && file.is_relative() {
        return Some("needs its whole path, because the service runs in /".to_owned());
    }
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    if !metadata.is_file() {
        return Some("is not a file".to_owned());
    }
    if metadata.len() == 0 {
        return Some("is empty".to_owned());
    }
    if is_of_service && let Some(why) = service::why_unreadable(file) {
        return Some(why);
    }
    let opened = std::fs::File::open(file);
    opened.err().map(|error| format!("cannot be read: {error}"))
}

/// Checks whether the service can read the files that the config names. The other checks read them
/// as the user who runs this command, who is often root.
fn check_files(config: &Config, report: &mut Report) {
    for (key, file) in config.files() {
        if let Some(why) = service::why_unreadable(file) {
            let sentence = format!("the file of {key}, {}, {why}", file.display());
            report.bad("files", &Failure::new(Failure::NO_INPUT, sentence));
        }
    }
}

/// Warns if the service lacks a permission that the config needs.
fn check_drop_ins(config: &Config, report: &mut Report) {
    let users = config.network_users();
    let sounds = config.sound.has_files().then_some("the sound");
    let needed = [
        (Permission::Network, users),
        (Permission::Sound, sounds.into_iter().collect()),
    ];
    for (permission, users) in needed {
        if !users.is_empty() && !service::has(permission) {
            let (users, drop_in) = (users.join(" and "), permission.drop_in());
            let warning = format!("the drop-in {drop_in} is not installed, but needed for {users}");
            report.line(State::Warning, "service", &warning);
        }
    }
}

pub(super) fn is_program(name: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let is_executable = |path: &Path| {
        let metadata = path.metadata();
        metadata.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return is_executable(Path::new(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_executable(&folder.join(name)))
}

/// Checks the format of a state directory, and the model that is in use there.
fn check_learned(state: &Path, report: &mut Report) {
    let read = learning::check_state(state).and_then(|()| {
        Heads::read_only(state)
            .current()
            .map_err(LearningError::from)
    });
    match read.map(|in_use| in_use.fallback) {
        Ok(None) => report.good("state", &state.display().to_string()),
        Ok(Some(fallback)) => report.bad("state", &Failure::new(Failure::DATA, fallback)),
        Err(error) => report.bad("state", &error.into()),
    }
}

/// Returns why nothing can be stored in a state directory, or `None` if there is no reason. The
/// disk is full below `min_free_mib`.
fn why_not_stored(state: &Path, min_free_mib: u64) -> Option<String> {
    let disk = DiskSpace::of(&files::nearest_folder(state))?;
    if disk.is_read_only {
        return Some(format!(
            "the file system of {} is read-only, so nothing can be stored there: mount it writable",
            state.display()
        ));
    }
    (disk.free_mib < min_free_mib).then(|| {
        format!(
            "only {} MiB are free on the disk of {}, and events.min-free-mib is {min_free_mib}: \
             delete files",
            disk.free_mib,
            state.display()
        )
    })
}

/// Checks the state directory. Without a config, no disk is too full.
fn check_state(global: &Global, config: Option<&Config>, report: &mut Report) {
    let min_free_mib = config.map_or(0, |config| config.events.min_free_mib);
    let full = global
        .state_dir()
        .ok()
        .and_then(|state| why_not_stored(&state, min_free_mib));
    if let Some(why) = full {
        return report.bad("state", &Failure::new(Failure::CANNOT_WRITE, why));
    }
    match global.state_dir() {
        Ok(state) if state.is_dir() => check_learned(&state, report),
        Ok(state) if !state.exists() => {
            report.good(
                "state",
                &format!("{} (does not exist yet)", state.display()),
            );
        }
        Ok(state) => {
            let sentence = format!("{} is not a folder", state.display());
            report.bad("state", &Failure::new(Failure::CANNOT_WRITE, sentence));
        }
        Err(failure) => report.bad("state", &failure),
    }
}
