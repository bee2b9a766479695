//! Lists samples for an owner who looks for wrong labels.
//!
//! This module decides which samples match a [`SampleFilter`], and what a listing says
//! about each of them. It changes nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use super::records::label_of;
use super::samples::{Listing, Sample, SampleKind, StoreError, is_day};
use super::{
    Learning, LearningError, QualityFilter, RefitRecord, SampleFilter, SampleOrder, SamplePage,
    SampleRecord,
};
use crate::frame::Scaler;
use crate::frame::quality::Quality;
use crate::onnx::Label;
use crate::vision::head::{Head, argmax};

/// Maximum number of samples whose quality is kept in memory.
const MAX_QUALITIES: usize = 50_000;

/// The quality of a picture, or `None` if there is no usable picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownQuality {
    /// When the file was last changed, and its length. The quality is valid only for this
    /// version of the file.
    version: (SystemTime, u64),
    quality: Option<Quality>,
}

/// The samples that the last refit had doubts about. Each map holds the label that the
/// sample had in that refit, by id.
#[derive(Debug, Default)]
struct HardExamples {
    suspects: BTreeMap<String, String>,
    worst: BTreeMap<String, String>,
}

impl HardExamples {
    fn of(last: Option<RefitRecord>) -> HardExamples {
        let Some(outcome) = last.map(|record| record.outcome) else {
            return HardExamples::default();
        };
        let Some(measured) = outcome.measured else {
            return HardExamples::default();
        };
        let by_id = |examples: Vec<super::HardExampleRecord>| {
            let examples = examples.into_iter();
            let named = examples.filter_map(|example| {
                Some((example.id, outcome.labels.get(example.label)?.clone()))
            });
            named.collect()
        };
        HardExamples {
            suspects: by_id(measured.suspects),
            worst: by_id(measured.worst),
        }
    }
}

/// Whether a map of [`HardExamples`] names a sample and the label that it has now. A sample
/// that was relabeled since is no longer in doubt.
fn is_named(examples: &BTreeMap<String, String>, sample: &Sample) -> bool {
    let label = examples.get(&sample.id).map(String::as_str);
    label.is_some() && label == sample.label.as_ref().map(Label::as_str)
}

impl Learning {
    /// Returns the samples that a filter selects, in the order that it asks for.
    ///
    /// # Errors
    /// Returns [`LearningError::Label`] or [`LearningError::Day`] if a value of the filter
    /// is invalid, [`LearningError::Store`] if the samples cannot be listed, and the errors
    /// of [`in_use`](Learning::in_use) if predictions are needed.
    pub fn samples(&self, filter: &SampleFilter) -> Result<Vec<SampleRecord>, LearningError> {
        Ok(self.sample_page(filter, &|| false)?.samples)
    }

    /// Lists samples like [`samples`](Learning::samples), and also counts those that are not
    /// on the page that the filter asks for. Calls `is_canceled` before each sample whose
    /// files are read, and stops once `is_canceled` returns true. The files of thousands of
    /// samples take a while to read.
    ///
    /// # Errors
    /// Returns the same errors as [`samples`](Learning::samples).
    pub fn sample_page(
        &self,
        filter: &SampleFilter,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<SamplePage, LearningError> {
        let predicted = filter.predicted.as_deref().map(Label::new).transpose()?;
        let wanted = predicted.as_ref().map(Label::as_str);
        let selected = self.selected(filter)?;
        let needs_head = filter.predictions || wanted.is_some();
        let in_use = needs_head.then(|| self.in_use()).transpose()?;
        let first = filter.offset.unwrap_or(0);
        let last = filter
            .limit
            .map_or(usize::MAX, |limit| first.saturating_add(limit));
        let mut scaler = Scaler::default();
        let mut page = SamplePage::default();
        for (sample, mut record) in selected {
            let is_on_page = (first..last).contains(&page.total);
            // Without these filters, the samples that are not on the page only count.
            if !is_on_page && filter.quality.is_none() && wanted.is_none() {
                page.total += 1;
                continue;
            }
            // The steps from here on read the files of the sample.
            if is_canceled() {
                break;
            }
            record.set_quality(self.quality_of(&sample, &mut scaler).as_ref());
            let is_accepted =
                |quality: QualityFilter| record.picture && quality.accepts(&record.flaws);
            if !filter.quality.is_none_or(is_accepted) {
                continue;
            }
            if let Some((label, probability)) = in_use
                .as_ref()
                .and_then(|in_use| self.predict(&in_use.head, &sample))
            {
                record.predicted = Some(label);
                record.probability = Some(probability);
            }
            if wanted.is_some() && wanted != record.predicted.as_deref() {
                continue;
            }
            page.total += 1;
            if is_on_page {
                page.samples.push(record);
            }
        }
        Ok(page)
    }

    /// Returns the samples that a filter selects without reading their files, in the order
    /// that the filter asks for.
    fn selected(
        &self,
        filter: &SampleFilter,
    ) -> Result<Vec<(Sample, SampleRecord)>, LearningError> {
        let label = filter.label.as_deref().map(label_of).transpose()?;
        if let Some(day) = filter.day.as_ref().filter(|day| !is_day(day)) {
            return Err(LearningError::Day(day.clone()));
        }
        let hard = HardExamples::of(self.last_refit());
        let prefix = filter.id.as_deref().unwrap_or_default();
        let is_selected = |sample: &Sample| {
            sample.id.starts_with(prefix)
                && label.as_ref().is_none_or(|label| *label == sample.label)
                && filter.day.as_ref().is_none_or(|day| *day == sample.day)
                && (filter.track.is_none() || sample.track.number() == filter.track)
        };
        let listing = if filter.discarded {
            self.store().trash().list()?
        } else {
            self.store().list()?
        };
        let mut samples = listing.samples;
        samples.retain(is_selected);
        match filter.order {
            SampleOrder::Id => {}
            SampleOrder::Label => {
                let ages = self.ages();
                samples.sort_by_cached_key(|sample| {
                    (sample.label.clone(), Reverse(ages.order(sample)))
                });
            }
        }
        let records = samples.into_iter().map(|sample| {
            let record = SampleRecord {
                suspect: is_named(&hard.suspects, &sample),
                worst: is_named(&hard.worst, &sample),
                ..SampleRecord::new(&sample)
            };
            (sample, record)
        });
        let is_hard = |record: &SampleRecord| {
            (!filter.suspect || record.suspect) && (!filter.worst || record.worst)
        };
        Ok(records.filter(|(_, record)| is_hard(record)).collect())
    }

    /// Returns the quality of a sample's picture, or `None` if there is no usable picture.
    /// Measuring a picture that does not contain its quality takes some milliseconds, so
    /// the result is kept in memory.
    pub(super) fn quality_of(&self, sample: &Sample, scaler: &mut Scaler) -> Option<Quality> {
        let version = (sample.modified, sample.bytes);
        let known = self.qualities().get(&sample.id).copied();
        let known = known.filter(|known| known.version == version);
        let quality = known.map_or_else(
            || self.store().quality(sample, scaler),
            |known| known.quality,
        );
        let mut qualities = self.qualities();
        if qualities.len() >= MAX_QUALITIES {
            qualities.clear();
        }
        qualities.insert(sample.id.clone(), KnownQuality { version, quality });
        quality
    }

    fn qualities(&self) -> MutexGuard<'_, HashMap<String, KnownQuality>> {
        // A poisoned lock is safe to use because every entry is complete.
        self.qualities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the most probable label of a sample and its probability, or `None` if the
    /// sample has no usable features yet.
    fn predict(&self, head: &Head, sample: &Sample) -> Option<(String, f64)> {
        let rows = self.store().features(sample, head.backbone()).ok()?;
        let probabilities = head.probabilities(rows.first()?);
        let label = argmax(&probabilities)?;
        Some((head.labels()[label].clone(), rounded(probabilities[label])))
    }

    /// Returns the bytes of a sample's picture, even if the sample was discarded. A captured
    /// picture is a JPEG. An imported picture is returned unchanged.
    ///
    /// # Errors
    /// Returns [`LearningError::NoSample`] if there is no such sample, and [`LearningError::Store`]
    /// if the sample has no picture or its picture cannot be read.
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, LearningError> {
        let find = |listing: Listing| listing.samples.into_iter().find(|sample| sample.id == id);
        let sample = match find(self.store().list()?) {
            None => find(self.store().trash().list()?),
            found => found,
        };
        let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
        if sample.kind == SampleKind::FeatureOnly {
            return Err(StoreError::NoPicture { id: sample.id }.into());
        }
        Ok(self.store().read(&sample)?)
    }
}

/// Rounds a probability to four decimal places.
pub(super) fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}
