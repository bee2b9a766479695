//! `[events]`: which events there are, and who receives them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::camera::fingerprint;
use super::{Check, Secret, is_device_name};
use crate::camera::TlsTrust;
use crate::events::{EventKind, ExecOptions, Selection, Template, WebhookOptions};

/// Maximum number of receivers. Each one has a thread.
const MAX_RECEIVERS: usize = 16;

/// `[events]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Events {
    /// How long the decision must be unsure for the event `unsure`, in milliseconds; 0 to
    /// 3600000. With 0, there is no such event.
    pub unsure_after_ms: u64,
    /// If the disk of the state directory has less free space than this, in MiB, there is the event
    /// `disk_full`, and `maskd check` and the page say that the disk is full; 0 to 100000. With 0,
    /// no disk is full.
    pub min_free_mib: u64,
    /// Receivers of HTTP requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<Webhook>,
    /// Programs that are started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<Exec>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            unsure_after_ms: 30_000,
            min_free_mib: 50,
            webhook: Vec::new(),
            exec: Vec::new(),
        }
    }
}

/// `[[events.webhook]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Webhook {
    /// Name of the receiver in messages, metrics, and the names of files.
    pub name: String,
    /// The address. `Debug` does not show it, because it may contain a token.
    pub url: Secret,
    /// The kinds of events that are sent. If empty, all are sent.
    #[serde(default)]
    pub events: Vec<EventKind>,
    /// Template of the body. If absent, the body is the event as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// File with the key for signatures. If absent, requests are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// File with a token that is sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust, or with the certificate of the receiver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the only certificate that is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// Maximum time for an attempt, in milliseconds; 100 to 120000.
    #[serde(default = "webhook_time_limit")]
    pub time_limit_ms: u64,
    /// Longest wait between two attempts, in milliseconds; 1000 to 86400000.
    #[serde(default = "max_retry")]
    pub max_retry_ms: u64,
    /// Maximum number of events that wait on disk; 1 to 10000.
    #[serde(default = "max_waiting")]
    pub max_waiting: usize,
}

fn webhook_time_limit() -> u64 {
    10_000
}

fn max_retry() -> u64 {
    600_000
}

fn max_waiting() -> usize {
    1000
}

/// `[[events.exec]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Exec {
    /// Name of the receiver in messages and metrics.
    pub name: String,
    /// Absolute path of the program, and its arguments.
    pub command: Vec<String>,
    /// The kinds of events for which the program is started. If empty, it is started for all.
    #[serde(default)]
    pub events: Vec<EventKind>,
    /// User as which the program runs. If absent, it runs as the user of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Maximum time that the program may run, in milliseconds; 100 to 600000.
    #[serde(default = "exec_time_limit")]
    pub time_limit_ms: u64,
    /// Maximum number of these programs that run at the same time; 1 to 16.
    #[serde(default = "max_running")]
    pub max_running: usize,
}

fn exec_time_limit() -> u64 {
    10_000
}

fn max_running() -> usize {
    1
}

/// Parses the address of a receiver. The error continues a sentence that begins with the key, and
/// repeats no part of the address.
fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not an address: write http://HOST:PORT/PATH")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("does not begin with http:// or https://");
    }
    if !url.has_host() || url.port() == Some(0) {
        return Err("has no host, or the port 0");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a login: use token-file instead");
    }
    if url.fragment().is_some() {
        return Err("contains a #: write it as %23");
    }
    Ok(url)
}

impl Webhook {
    /// Returns the options, or `None` if the address or the template is not valid, which
    /// [`Config::check`](super::Config::check) reports.
    #[must_use]
    pub fn options(&self) -> Option<WebhookOptions> {
        let template = self.template.as_deref().map(Template::parse).transpose();
        let pinned = self.tls_fingerprint.as_deref().and_then(fingerprint);
        Some(WebhookOptions {
            name: self.name.clone(),
            url: parse_url(&self.url.0).ok()?,
            selection: Selection(self.events.clone()),
            template: template.ok()?,
            key_file: self.key_file.clone(),
            token_file: self.token_file.clone(),
            trust: match (pinned, &self.ca_file) {
                (Some(fingerprint), _) => TlsTrust::Fingerprint(fingerprint),
                (None, Some(file)) => TlsTrust::File(file.clone()),
                (None, None) => TlsTrust::System,
            },
            time_limit: Duration::from_millis(self.time_limit_ms),
            max_retry: Duration::from_millis(self.max_retry_ms),
            capacity: self.max_waiting,
        })
    }

    fn check(&self, check: &mut Check) {
        let key = |key: &str| format!("events.webhook.{key}");
        let of = format!("of {:?}", self.name);
        match parse_url(&self.url.0) {
            Err(problem) => check.fail(&key("url"), format!("{of} {problem}")),
            Ok(url) => {
                let has_tls = self.ca_file.is_some() || self.tls_fingerprint.is_some();
                if has_tls && url.scheme() != "https" {
                    let problem = format!("{of} requires an address that begins with https://");
                    let name = if self.ca_file.is_some() {
                        "ca-file"
                    } else {
                        "tls-fingerprint"
                    };
                    check.fail(&key(name), problem);
                }
            }
        }
        if let Some(Err(error)) = self.template.as_deref().map(Template::parse) {
            check.fail(&key("template"), format!("{of} {error}"));
        }
        if let Some(text) = &self.tls_fingerprint {
            if fingerprint(text).is_none() {
                let problem = format!("{of} is not a SHA-256: use 64 hexadecimal digits");
                check.fail(&key("tls-fingerprint"), problem);
            }
            if self.ca_file.is_some() {
                let problem = format!("{of} and ca-file are both set: remove one");
                check.fail(&key("tls-fingerprint"), problem);
            }
        }
        for (name, path) in [
            ("key-file", &self.key_file),
            ("token-file", &self.token_file),
            ("ca-file", &self.ca_file),
        ] {
            check.not_empty(&key(name), path.as_deref());
        }
        check.within(&key("time-limit-ms"), self.time_limit_ms, 100, 120_000);
        check.within(&key("max-retry-ms"), self.max_retry_ms, 1000, 86_400_000);
        check.within(&key("max-waiting"), self.max_waiting, 1, 10_000);
    }
}

impl Exec {
    /// Returns the options.
    #[must_use]
    pub fn options(&self) -> ExecOptions {
        let mut words = self.command.iter().cloned();
        ExecOptions {
            name: self.name.clone(),
            program: words.next().unwrap_or_default().into(),
            arguments: words.collect(),
            selection: Selection(self.events.clone()),
            user: self.user.clone(),
            time_limit: Duration::from_millis(self.time_limit_ms),
            max_running: self.max_running,
        }
    }

    fn check(&self, check: &mut Check) {
        let key = |key: &str| format!("events.exec.{key}");
        let program = self.command.first();
        if !program.is_some_and(|program| program.starts_with('/')) {
            let problem = format!(
                "of {:?} does not begin with the absolute path of a program, such as \
                 [\"/usr/local/bin/lamp\", \"on\"]",
                self.name
            );
            check.fail(&key("command"), problem);
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            let problem = format!("of {:?} contains a null character", self.name);
            check.fail(&key("command"), problem);
        }
        if self.user.as_deref() == Some("") {
            check.fail(&key("user"), format!("of {:?} is empty", self.name));
        }
        check.within(&key("time-limit-ms"), self.time_limit_ms, 100, 600_000);
        check.within(&key("max-running"), self.max_running, 1, 16);
    }
}

impl Events {
    pub(super) fn check(&self, check: &mut Check) {
        let unsure = self.unsure_after_ms;
        check.within("events.unsure-after-ms", unsure, 0, 3_600_000);
        check.within("events.min-free-mib", self.min_free_mib, 0, 100_000);
        let webhooks = self.webhook.iter();
        let webhooks = webhooks.map(|webhook| ("events.webhook.name", &webhook.name));
        let programs = self.exec.iter();
        let programs = programs.map(|exec| ("events.exec.name", &exec.name));
        let mut names = BTreeSet::new();
        for (key, name) in webhooks.chain(programs) {
            if !is_device_name(name) {
                let problem = format!("is {name:?}: use 1 to 64 letters, digits, -, and _");
                check.fail(key, problem);
            } else if !names.insert(name) {
                let problem = format!("is {name:?} twice: give each receiver a name of its own");
                check.fail(key, problem);
            }
        }
        let receivers = self.webhook.len() + self.exec.len();
        if receivers > MAX_RECEIVERS {
            let problem = format!("has {receivers} receivers, allowed are {MAX_RECEIVERS}");
            check.fail("events", problem);
        }
        for webhook in &self.webhook {
            webhook.check(check);
        }
        for exec in &self.exec {
            exec.check(check);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::super::tests::problems;
    use super::*;

    #[test]
    fn receivers_have_defaults() {
        let text = "[[events.webhook]]\nname = \"home\"\nurl = \"https://home.lan:8123/hook?Qx7Z9\"\n\
                    events = [\"decision\", \"door_held_open\"]\n\
                    [[events.exec]]\nname = \"lamp\"\ncommand = [\"/bin/lamp\", \"on\"]\n";
        let config = parse("test.toml", text).unwrap();
        assert!(!format!("{config:?}").contains("Qx7Z9"), "Debug hides it");
        let webhook = config.events.webhook[0].options().unwrap();
        assert_eq!(webhook.receiver(), "home.lan:8123");
        assert_eq!(webhook.capacity, 1000);
        assert_eq!(webhook.max_retry, Duration::from_mins(10));
        assert_eq!(
            webhook.selection,
            Selection(vec![EventKind::Decision, EventKind::DoorHeldOpen])
        );
        let exec = config.events.exec[0].options();
        assert_eq!(exec.program, PathBuf::from("/bin/lamp"));
        assert_eq!((exec.arguments.len(), exec.max_running), (1, 1));
    }

    #[test]
    fn the_documented_examples_are_valid() {
        let text = include_str!("../../docs/EVENTS.md");
        let mut count = 0;
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let config = parse("EVENTS.md", block).unwrap();
            count += config.events.webhook.len() + config.events.exec.len();
        }
        assert!(count >= 3, "{count}");
        let shipped = include_str!("../../config/maskd.toml");
        let (_, section) = shipped.split_once("\n[events]\n").unwrap();
        let section = section.split("\n[").next().unwrap();
        let on = section.replace("\n# ", "\n").replace("\n#", "\n");
        let keys = on.lines().filter(|line| {
            let is_key = |(key, _): (&str, &str)| key.bytes().all(|byte| byte != b' ');
            line.starts_with("[[") || line.split_once(" = ").is_some_and(is_key)
        });
        let text: String = keys.map(|line| format!("{line}\n")).collect();
        let config = parse("maskd.toml", &format!("[events]\n{text}")).unwrap();
        let [webhook] = config.events.webhook.try_into().unwrap();
        let [exec] = config.events.exec.try_into().unwrap();
        assert!(webhook.options().is_some());
        // The example names every key.
        let count = |table: toml::Table| table.len();
        assert_eq!(count(toml::Table::try_from(webhook).unwrap()), 10);
        assert_eq!(count(toml::Table::try_from(exec).unwrap()), 6);
    }

    #[test]
    fn wrong_receivers_are_refused() {
        let webhook = |more: &str| {
            problems(&format!("[[events.webhook]]\nname = \"home\"\n{more}\n")).concat()
        };
        for (more, words) in [
            (
                "url = \"Qx7Z9\"",
                "events.webhook.url of \"home\" is not an address",
            ),
            ("url = \"ftp://Qx7Z9/\"", "does not begin with http://"),
            ("url = \"http://me:Qx7Z9@home/\"", "use token-file"),
            ("url = \"http://home/#Qx7Z9\"", "%23"),
            ("url = 3", "events.webhook is wrong"),
            (
                "url = \"http://home/\"\nevents = [\"tea\"]",
                "unknown variant tea",
            ),
            ("url = \"http://home/\"\ntea = 1", "unknown field `tea`"),
            (
                "url = \"http://home/\"\nca-file = \"a.pem\"",
                "requires an address",
            ),
            (
                "url = \"https://home/\"\ntls-fingerprint = \"0a\"",
                "is not a SHA-256",
            ),
            (
                "url = \"http://home/\"\ntemplate = \"{{tea}}\"",
                "unknown placeholder {{tea}}",
            ),
            (
                "url = \"http://home/\"\nmax-waiting = 0",
                "max-waiting is 0, allowed is 1 to",
            ),
            (
                "url = \"http://home/\"\ntime-limit-ms = 1",
                "time-limit-ms is 1",
            ),
        ] {
            let found = webhook(more);
            assert!(found.contains(words), "{words:?} is not in {found:?}");
            assert!(!found.contains("Qx7Z9"), "{found}");
        }
        let found = problems(
            "[events]\nunsure-after-ms = 9999999\n[[events.exec]]\nname = \"a b\"\ncommand = []\n\
             [[events.exec]]\nname = \"a\"\ncommand = [\"lamp\"]\nmax-running = 0\n\
             [[events.webhook]]\nname = \"a\"\nurl = \"http://home/\"\n",
        );
        for words in [
            "events.unsure-after-ms is 9999999",
            "events.exec.name is \"a b\"",
            "events.exec.name is \"a\" twice",
            "events.exec.command of \"a\" does not begin with the absolute path",
            "events.exec.max-running is 0",
        ] {
            let has = found.iter().any(|problem| problem.contains(words));
            assert!(has, "{words:?} is not in {found:#?}");
        }
    }
}
