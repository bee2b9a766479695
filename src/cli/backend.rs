//! Whom a command about samples and heads speaks to: the daemon that has the
//! state directory open, or, without one, the files themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use super::{Failure, Global, socket_path};
use crate::api::socket::{Client, ControlError};
use crate::config::Config;
use crate::frame::Crop;
use crate::learning::{
    CountRecord, ExportRecord, FailureKind, HeadRecord, ImportRecord, LabelAction, LabelResult,
    Learning, LearningError, Purge, RefitRecord, RemovedRecord, SampleRecord, SampleSelector,
};
use crate::onnx::{Graph, ThreadPool};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::open_model;

/// A state directory that another command has open is waited for: so many
/// pauses of this length.
const PAUSES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

impl From<FailureKind> for u8 {
    fn from(fault: FailureKind) -> u8 {
        match fault {
            FailureKind::Usage => Failure::USAGE,
            FailureKind::Data => Failure::DATA,
            FailureKind::Missing => Failure::NO_INPUT,
            FailureKind::NotNow => Failure::TEMPORARY,
            FailureKind::NoSpace | FailureKind::System => Failure::CANNOT_WRITE,
            FailureKind::Internal => Failure::INTERNAL,
            FailureKind::Unavailable => Failure::UNAVAILABLE,
        }
    }
}

impl From<LearningError> for Failure {
    fn from(error: LearningError) -> Failure {
        Failure::new(error.kind().into(), error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        Failure::new(error.fault().into(), error)
    }
}

/// The daemon of a state directory, if one is running.
pub(super) fn daemon(
    global: &Global,
    config: &Config,
    state: &Path,
) -> Result<Option<Client>, Failure> {
    let Some(client) = Client::connect(&socket_path(config, state))? else {
        return Ok(None);
    };
    // A configured socket may be that of another state directory's daemon.
    if global.state.is_some() {
        let ours = state.canonicalize().or_else(|_| std::path::absolute(state));
        let theirs = client.status()?.state;
        if ours.is_ok_and(|ours| ours != theirs) {
            return Ok(None);
        }
    }
    Ok(Some(client))
}

/// Samples and heads, by whichever way there is.
pub(super) enum Backend {
    Direct(Box<Direct>),
    Daemon(Client),
}

/// The state directory, opened by this process.
pub(super) struct Direct {
    learning: Learning,
    backbone: Graph,
    threads: usize,
}

impl Backend {
    pub(super) fn open(global: &Global) -> Result<Backend, Failure> {
        let config = global.load_config()?;
        let state = global.state_dir()?;
        if let Some(client) = daemon(global, &config, &state)? {
            return Ok(Backend::Daemon(client));
        }
        let (backbone, head) = open_model(&config)?;
        let base = Arc::new(head);
        let mut pauses = 0;
        let learning = loop {
            match Learning::open(&state, Arc::clone(&base), config.refit.options()) {
                Err(error) if error.is_busy() && pauses < PAUSES => {
                    pauses += 1;
                    std::thread::sleep(PAUSE);
                    // It may be a daemon that is starting.
                    if let Some(client) = daemon(global, &config, &state)? {
                        return Ok(Backend::Daemon(client));
                    }
                }
                opened => break opened?,
            }
        };
        Ok(Backend::Direct(Box::new(Direct {
            learning,
            backbone,
            threads: config.classify.threads(0),
        })))
    }

    pub(super) fn samples(&self, label: Option<&str>) -> Result<Vec<SampleRecord>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.samples(label)?,
            Backend::Daemon(client) => client.samples(label)?,
        })
    }

    pub(super) fn stats(&self) -> Result<BTreeMap<String, CountRecord>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.stats()?,
            Backend::Daemon(client) => client.stats()?,
        })
    }

    pub(super) fn picture(&self, id: &str) -> Result<Vec<u8>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.picture(id)?,
            Backend::Daemon(client) => client.picture(id)?,
        })
    }

    pub(super) fn mark(
        &self,
        chosen: SampleSelector,
        mark: &LabelAction,
    ) -> Result<LabelResult, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.label(chosen, mark)?,
            Backend::Daemon(client) => client.mark(chosen, mark)?,
        })
    }

    pub(super) fn import(&self, folder: &Path) -> Result<ImportRecord, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.import(folder)?,
            Backend::Daemon(client) => client.import(&absolute(folder)?)?,
        })
    }

    pub(super) fn export(&self, folder: &Path) -> Result<ExportRecord, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.export(folder)?,
            Backend::Daemon(client) => client.export(&absolute(folder)?)?,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the age of samples is that at the time of the command"
    )]
    pub(super) fn purge(&self, purge: &Purge) -> Result<RemovedRecord, Failure> {
        Ok(match self {
            Backend::Direct(direct) => {
                let now = std::time::SystemTime::now();
                direct.learning.purge(purge, now)?
            }
            Backend::Daemon(client) => client.purge(purge)?,
        })
    }

    pub(super) fn refit(&self) -> Result<RefitRecord, Failure> {
        match self {
            Backend::Direct(direct) => direct.refit(),
            Backend::Daemon(client) => Ok(client.refit()?),
        }
    }

    pub(super) fn heads(&self) -> Result<Vec<HeadRecord>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.head_records()?,
            Backend::Daemon(client) => client.heads()?,
        })
    }

    pub(super) fn head(&self, number: u32) -> Result<HeadRecord, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.head(number)?,
            Backend::Daemon(client) => client.head(number)?,
        })
    }

    pub(super) fn export_head(&self, number: u32, path: &Path) -> Result<(), Failure> {
        match self {
            Backend::Direct(direct) => direct.learning.export_head(number, path)?,
            Backend::Daemon(client) => {
                client.export_head(number, &absolute(path)?)?;
            }
        }
        Ok(())
    }

    /// The number of the head that is in use now.
    pub(super) fn import_head(&self, path: &Path) -> Result<Option<u32>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => Some(direct.learning.import_head(path)?),
            Backend::Daemon(client) => client.import_head(&absolute(path)?)?.head,
        })
    }

    /// The number of the head that is in use now; `None` is the shipped one.
    pub(super) fn rollback(&self, steps: u32) -> Result<Option<u32>, Failure> {
        Ok(match self {
            Backend::Direct(direct) => direct.learning.rollback(steps)?,
            Backend::Daemon(client) => client.rollback(steps)?.head,
        })
    }
}

impl Direct {
    /// Ctrl-C ends it with nothing changed.
    fn refit(&self) -> Result<RefitRecord, Failure> {
        let interrupt = Interrupt::catch()?;
        let progress = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} new crops looked at") {
            progress.set_style(style);
        }
        // Features that are on disk need no backbone.
        let mut embedder = None;
        let mut embed = |crops: &[Crop]| {
            let embedder = match &mut embedder {
                Some(embedder) => embedder,
                None => embedder.insert(Embedder::new(
                    &Backbone::new(self.backbone.clone())?,
                    self.threads,
                    ThreadPool::of(self.threads),
                )?),
            };
            let features = embedder.embed(crops)?;
            progress.inc(crops.len() as u64);
            Ok(features)
        };
        let record = self.learning.refit(&mut embed, &|| interrupt.is_caught());
        progress.finish_and_clear();
        Ok(record?)
    }
}

/// As the daemon needs it, whose working directory is another.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let path = path.display();
        Failure::new(Failure::NO_INPUT, format!("cannot find {path}: {error}"))
    })
}
