//! The backend of the commands for face pictures and models. If a daemon has the state
//! directory open, the backend is a client of that daemon. If no daemon is running, the
//! backend opens the state directory itself.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::Interrupt;
use super::{Failure, Global, socket_path};
use crate::api::socket::{Client, TrainRequest};
use crate::config::Config;
use crate::frame::Crop;
use crate::learning::{
    Channel, CountRecord, Embed, ExportRecord, HeadRecord, ImportRecord, LabelAction, LabelResult,
    Learning, LearningError, Purge, RefitRecord, RefitTrigger, RemovedRecord, SampleFilter,
    SampleRecord, SampleSelector, SwitchRecord, UndoRecord, UnusedRecord,
};
use crate::onnx::{Graph, ThreadPool};
use crate::platform::clock::ClockReading;
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::open_model;

/// Maximum number of retries to open a state directory while another process has it open.
/// With a pause of [`RETRY_INTERVAL`] before each retry, all retries together take ten
/// seconds.
const RETRIES: u32 = 50;
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Access to the face pictures ("samples") and models ("heads") in a state directory.
pub(super) trait Backend {
    /// Returns the samples that a filter selects.
    fn samples(&self, filter: &SampleFilter) -> Result<Vec<SampleRecord>, Failure>;
    /// Returns the number of samples of each label.
    fn stats(&self) -> Result<BTreeMap<String, CountRecord>, Failure>;
    /// Returns the files and folders that are in the sample folders but are not used as
    /// samples.
    fn unused(&self) -> Result<Vec<UnusedRecord>, Failure>;
    /// Returns the JPEG file of a sample.
    fn picture(&self, id: &str) -> Result<Vec<u8>, Failure>;
    fn label(&self, selector: SampleSelector, action: &LabelAction)
    -> Result<LabelResult, Failure>;
    /// Takes the last labeling action back.
    fn undo(&self) -> Result<UndoRecord, Failure>;
    /// Restores discarded samples.
    fn restore(&self, ids: Vec<String>) -> Result<LabelResult, Failure>;
    fn import(&self, folder: &Path) -> Result<ImportRecord, Failure>;
    fn export(&self, folder: &Path) -> Result<ExportRecord, Failure>;
    fn purge(&self, purge: &Purge) -> Result<RemovedRecord, Failure>;
    /// Trains a new head, and returns when training is complete.
    fn refit(&self, labels_checked: bool) -> Result<RefitRecord, Failure>;
    /// Returns the recorded switches to other heads, oldest first.
    fn history(&self) -> Result<Vec<SwitchRecord>, Failure>;
    fn heads(&self) -> Result<Vec<HeadRecord>, Failure>;
    fn head(&self, number: u32) -> Result<HeadRecord, Failure>;
    fn export_head(&self, number: u32, path: &Path) -> Result<(), Failure>;
    /// Imports a head from a file. Returns the number of the head that is in use
    /// afterward; `None` stands for the built-in head.
    fn import_head(&self, path: &Path) -> Result<Option<u32>, Failure>;
    /// Uses the head with this number; 0 stands for the built-in head. Returns the number
    /// of the head that is in use afterward; `None` stands for the built-in head.
    fn use_head(&self, number: u32) -> Result<Option<u32>, Failure>;
    /// Goes back by `steps` heads. Returns the number of the head that is in use
    /// afterward; `None` stands for the built-in head.
    fn rollback(&self, steps: u32) -> Result<Option<u32>, Failure>;
}

/// Returns a client of the daemon that uses the state directory. If no daemon is running,
/// opens the directory itself.
pub(super) fn open(global: &Global) -> Result<Box<dyn Backend>, Failure> {
    let config = global.load_config()?;
    let state = global.state_dir()?;
    if let Some(client) = daemon(global, &config, &state)? {
        return Ok(Box::new(client));
    }
    let (backbone, head) = open_model(config.models.classifier.as_deref())?;
    let features = head.features();
    let base = Arc::new(head);
    let mut retries = 0;
    let learning = loop {
        match Learning::open(&state, Arc::clone(&base), config.learning_options()) {
            Err(error) if error.is_busy() && retries < RETRIES => {
                retries += 1;
                std::thread::sleep(RETRY_INTERVAL);
                // The process that has the directory open may be a daemon that is
                // just starting.
                if let Some(client) = daemon(global, &config, &state)? {
                    return Ok(Box::new(client));
                }
            }
            opened => break opened?,
        }
    };
    // Without a daemon, each command deletes what was discarded too long ago.
    if let Err(error) = learning.tidy_trash(ClockReading::now()) {
        tracing::warn!(%error, "discarded face pictures cannot be deleted");
    }
    Ok(Box::new(StateDirectory {
        learning,
        backbone,
        features,
        threads: config.classify.threads(0),
    }))
}

/// Connects to the daemon that uses a state directory, if one is running.
pub(super) fn daemon(
    global: &Global,
    config: &Config,
    state: &Path,
) -> Result<Option<Client>, Failure> {
    let Some(client) = Client::connect(&socket_path(config, state))? else {
        return Ok(None);
    };
    // The configured socket may belong to a daemon that uses another state directory.
    if global.state.is_some() {
        let ours = state.canonicalize().or_else(|_| std::path::absolute(state));
        let theirs = client.status()?.state;
        if ours.is_ok_and(|ours| ours != theirs) {
            return Ok(None);
        }
    }
    Ok(Some(client))
}

impl Backend for Client {
    fn samples(&self, filter: &SampleFilter) -> Result<Vec<SampleRecord>, Failure> {
        Ok(Client::samples(self, filter)?)
    }

    fn stats(&self) -> Result<BTreeMap<String, CountRecord>, Failure> {
        Ok(Client::stats(self)?)
    }

    fn unused(&self) -> Result<Vec<UnusedRecord>, Failure> {
        Ok(Client::unused(self)?)
    }

    fn picture(&self, id: &str) -> Result<Vec<u8>, Failure> {
        Ok(Client::picture(self, id)?)
    }

    fn label(
        &self,
        selector: SampleSelector,
        action: &LabelAction,
    ) -> Result<LabelResult, Failure> {
        Ok(Client::mark(self, selector, action)?)
    }

    fn undo(&self) -> Result<UndoRecord, Failure> {
        Ok(Client::undo(self, None)?)
    }

    fn restore(&self, ids: Vec<String>) -> Result<LabelResult, Failure> {
        Ok(Client::restore(self, &ids)?)
    }

    fn import(&self, folder: &Path) -> Result<ImportRecord, Failure> {
        Ok(Client::import(self, &absolute(folder)?)?)
    }

    fn export(&self, folder: &Path) -> Result<ExportRecord, Failure> {
        Ok(Client::export(self, &absolute(folder)?)?)
    }

    fn purge(&self, purge: &Purge) -> Result<RemovedRecord, Failure> {
        Ok(Client::purge(self, purge)?)
    }

    fn refit(&self, labels_checked: bool) -> Result<RefitRecord, Failure> {
        Ok(self.refit_with(&TrainRequest { labels_checked })?)
    }

    fn history(&self) -> Result<Vec<SwitchRecord>, Failure> {
        Ok(Client::history(self)?)
    }

    fn heads(&self) -> Result<Vec<HeadRecord>, Failure> {
        Ok(Client::heads(self)?)
    }

    fn head(&self, number: u32) -> Result<HeadRecord, Failure> {
        Ok(Client::head(self, number)?)
    }

    fn export_head(&self, number: u32, path: &Path) -> Result<(), Failure> {
        Client::export_head(self, number, &absolute(path)?)?;
        Ok(())
    }

    fn import_head(&self, path: &Path) -> Result<Option<u32>, Failure> {
        Ok(Client::import_head(self, &absolute(path)?)?.head)
    }

    fn use_head(&self, number: u32) -> Result<Option<u32>, Failure> {
        Ok(Client::use_head(self, number)?.head)
    }

    fn rollback(&self, steps: u32) -> Result<Option<u32>, Failure> {
        Ok(Client::rollback(self, steps)?.head)
    }
}

/// Makes a path absolute, because the daemon has a different working directory.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let path = path.display();
        Failure::new(Failure::NO_INPUT, format!("cannot find {path}: {error}"))
    })
}

/// A state directory that this process has open.
struct StateDirectory {
    learning: Learning,
    backbone: Graph,
    /// Length of the backbone's feature vectors.
    features: usize,
    threads: usize,
}

impl StateDirectory {
    /// Saves when samples were discarded. If this fails, they are kept for longer.
    fn save_ages(&self) {
        if let Err(error) = self.learning.save_ages(ClockReading::now(), true) {
            tracing::warn!(%error, "the ages of face pictures cannot be saved");
        }
    }

    /// Calls `work` with a function that embeds crops and shows how many, and with a function
    /// that tells whether Ctrl-C was pressed.
    fn with_backbone<T>(
        &self,
        work: impl FnOnce(&mut Embed, &dyn Fn() -> bool) -> Result<T, LearningError>,
    ) -> Result<T, Failure> {
        let interrupt = Interrupt::catch()?;
        let progress = ProgressBar::new_spinner();
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {pos} new face pictures embedded")
        {
            progress.set_style(style);
        }
        // The embedder is created only when needed, because there is nothing to embed
        // if there are no new samples.
        let mut embedder = None;
        let mut embed = |crops: &[Crop]| {
            let embedder = match &mut embedder {
                Some(embedder) => embedder,
                None => embedder.insert(Embedder::new(
                    &Backbone::new(self.backbone.clone(), self.features)?,
                    self.threads,
                    ThreadPool::of(self.threads),
                )?),
            };
            let features = embedder.embed(crops)?;
            progress.inc(crops.len() as u64);
            Ok(features)
        };
        let result = work(&mut embed, &|| interrupt.is_caught());
        progress.finish_and_clear();
        Ok(result?)
    }
}

impl Backend for StateDirectory {
    fn samples(&self, filter: &SampleFilter) -> Result<Vec<SampleRecord>, Failure> {
        Ok(self.learning.samples(filter)?)
    }

    fn stats(&self) -> Result<BTreeMap<String, CountRecord>, Failure> {
        Ok(self.learning.stats()?)
    }

    fn unused(&self) -> Result<Vec<UnusedRecord>, Failure> {
        Ok(self.learning.unused()?)
    }

    fn picture(&self, id: &str) -> Result<Vec<u8>, Failure> {
        Ok(self.learning.picture(id)?)
    }

    fn label(
        &self,
        selector: SampleSelector,
        action: &LabelAction,
    ) -> Result<LabelResult, Failure> {
        let result = self.learning.label(selector, action)?;
        self.save_ages();
        Ok(result)
    }

    fn undo(&self) -> Result<UndoRecord, Failure> {
        let record = self.learning.undo(None)?;
        self.save_ages();
        Ok(record)
    }

    fn restore(&self, ids: Vec<String>) -> Result<LabelResult, Failure> {
        let result = self.learning.restore(ids)?;
        self.save_ages();
        Ok(result)
    }

    /// Also embeds the pictures, which the daemon would do by itself. Ctrl-C stops this without
    /// harm, since a refit embeds what is left.
    fn import(&self, folder: &Path) -> Result<ImportRecord, Failure> {
        let record = self.learning.import(folder)?;
        let embedded = self.with_backbone(|embed, is_canceled| {
            let mut checked = HashSet::new();
            self.learning.embed_new(&mut checked, embed, is_canceled)
        });
        if let Err(failure) = embedded {
            tracing::warn!(
                error = failure.sentence,
                "the new face pictures are not embedded"
            );
        }
        Ok(record)
    }

    fn export(&self, folder: &Path) -> Result<ExportRecord, Failure> {
        Ok(self.learning.export(folder)?)
    }

    fn purge(&self, purge: &Purge) -> Result<RemovedRecord, Failure> {
        Ok(self.learning.purge(purge, ClockReading::now())?)
    }

    /// Ctrl-C stops the refit without changing anything.
    fn refit(&self, labels_checked: bool) -> Result<RefitRecord, Failure> {
        let trigger = RefitTrigger::requested(Channel::CommandLine, labels_checked);
        self.with_backbone(|embed, is_canceled| self.learning.refit(trigger, embed, is_canceled))
    }

    fn history(&self) -> Result<Vec<SwitchRecord>, Failure> {
        Ok(self.learning.history())
    }

    fn heads(&self) -> Result<Vec<HeadRecord>, Failure> {
        Ok(self.learning.head_records()?)
    }

    fn head(&self, number: u32) -> Result<HeadRecord, Failure> {
        Ok(self.learning.head(number)?)
    }

    fn export_head(&self, number: u32, path: &Path) -> Result<(), Failure> {
        self.learning.export_head(number, path)?;
        Ok(())
    }

    fn import_head(&self, path: &Path) -> Result<Option<u32>, Failure> {
        Ok(Some(self.learning.import_head(path, Channel::CommandLine)?))
    }

    fn use_head(&self, number: u32) -> Result<Option<u32>, Failure> {
        Ok(self.learning.use_head(number, Channel::CommandLine)?)
    }

    fn rollback(&self, steps: u32) -> Result<Option<u32>, Failure> {
        Ok(self.learning.rollback(steps, Channel::CommandLine)?)
    }
}
