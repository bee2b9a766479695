//! Conditions that need the owner's attention. Each one is reported in the status, on the
//! page, over MQTT, and in the metrics for as long as it lasts. The log records when the
//! condition begins, changes, and ends.
//!
//! This module defines the topics and publishes the problems. It knows nothing about the
//! causes of the problems.

use std::sync::Arc;

use tokio::sync::watch;

use super::socket::Live;
use crate::platform::text::printable;

/// What a problem is about. There is at most one problem for each topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// The config file that was reloaded.
    Config,
    /// The control socket.
    Control,
    /// The receivers of events.
    Events,
    /// The files that are needed to connect to the MQTT broker.
    Mqtt,
    /// The listener of the page.
    Page,
    /// Settings that could not be saved to the config file.
    Settings,
    /// The program that plays sounds.
    Sound,
}

impl Topic {
    /// All topics.
    pub const ALL: [Topic; 7] = [
        Topic::Config,
        Topic::Control,
        Topic::Events,
        Topic::Mqtt,
        Topic::Page,
        Topic::Settings,
        Topic::Sound,
    ];

    /// The name of the topic in [`Live::problems`] and in the metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Topic::Config => "config",
            Topic::Control => "control",
            Topic::Events => "events",
            Topic::Mqtt => "mqtt",
            Topic::Page => "page",
            Topic::Settings => "settings",
            Topic::Sound => "sound",
        }
    }
}

/// Publishes problems in the live state of the daemon.
#[derive(Debug, Clone)]
pub struct Problems {
    live: Arc<watch::Sender<Live>>,
}

impl Problems {
    /// Creates a publisher that changes `live`.
    #[must_use]
    pub fn new(live: Arc<watch::Sender<Live>>) -> Problems {
        Problems { live }
    }

    /// Publishes `problem`, which is a sentence about the topic. If `problem` is `None`,
    /// clears the problem with this topic.
    pub fn set(&self, topic: Topic, problem: Option<String>) {
        let name = topic.name();
        let problem = problem.map(|sentence| {
            let words: Vec<&str> = sentence.split_whitespace().collect();
            printable(&words.join(" ")).into_owned()
        });
        let changed = self.live.send_if_modified(|live| {
            let before = match &problem {
                Some(sentence) => live.problems.insert(name.to_owned(), sentence.clone()),
                None => live.problems.remove(name),
            };
            before != problem
        });
        if !changed {
            return;
        }
        if let Some(problem) = problem {
            tracing::warn!(topic = name, "{problem}");
        } else {
            tracing::info!(topic = name, "the problem is solved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_until_it_is_solved() {
        let live = Arc::new(watch::Sender::new(Live::default()));
        let mut seen = live.subscribe();
        let problems = Problems::new(Arc::clone(&live));
        let told = || live.borrow().problems.get("page").cloned();
        problems.set(Topic::Page, None);
        assert!(!seen.has_changed().unwrap());
        problems.set(Topic::Page, Some("the port is in use".to_owned()));
        assert_eq!(told().as_deref(), Some("the port is in use"));
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        problems.set(Topic::Page, Some("the port is in use".to_owned()));
        assert!(!seen.has_changed().unwrap(), "nothing is new");
        problems.set(Topic::Settings, Some("not saved".to_owned()));
        problems.set(Topic::Page, None);
        assert_eq!(told(), None);
        assert_eq!(live.borrow().problems.len(), 1);
    }
}
