//! Recognizes folders in which the class folders are one level further down.
//!
//! Public data sets often have the layout `DIR/{train,test,validation}/{class}`, and
//! archives are often unpacked into an additional folder.

use std::path::{Path, PathBuf};

use super::{DatasetError, entries};

/// Possible names of the folder with the training pictures.
const TRAINING: [&str; 2] = ["train", "training"];
/// Possible names of the folder with the validation pictures.
const VALIDATION: [&str; 5] = ["val", "valid", "validation", "dev", "eval"];
/// Possible names of the folder with the pictures for the final evaluation.
const TEST: [&str; 3] = ["test", "testing", "tests"];

/// Returns an error if the `folders` in `top` are not classes but parts of a data set,
/// or if there is only one folder and that folder contains the classes. The error says
/// which folders the user must specify instead.
pub(super) fn nested(top: &Path, folders: &[PathBuf]) -> Option<DatasetError> {
    let has_classes = |folder: &PathBuf| {
        let entries = entries(folder).unwrap_or_default();
        entries.iter().any(|entry| entry.is_dir())
    };
    let part = |names: &[&str]| {
        let is_named = |folder: &&PathBuf| {
            let name = folder.file_name().unwrap_or_default();
            names.iter().any(|known| name.eq_ignore_ascii_case(known))
        };
        folders
            .iter()
            .filter(|folder| has_classes(folder))
            .find(is_named)
    };
    let (training, validation, test) = (part(&TRAINING), part(&VALIDATION), part(&TEST));
    let mut advice = Vec::new();
    if let Some(training) = training {
        let validation = validation.map_or(String::new(), |folder| {
            format!(" --val {}", folder.display())
        });
        advice.push(format!(
            "train with --dataset {}{validation}",
            training.display()
        ));
    }
    if let Some(folder) = test.or(validation) {
        advice.push(format!(
            "evaluate with \"maskd eval --dataset {}\"",
            folder.display()
        ));
    }
    if let ([only], true) = (folders, advice.is_empty())
        && has_only_classes(only)
    {
        advice.push(format!("name {} instead", only.display()));
    }
    if advice.is_empty() {
        return None;
    }
    let name = |folder: &PathBuf| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = folders.iter().map(name).collect();
    names.sort();
    Some(DatasetError::Nested {
        path: top.display().to_string(),
        folders: names,
        advice: advice.join(", and "),
    })
}

/// Whether a folder contains at least two folders and no files.
fn has_only_classes(folder: &Path) -> bool {
    let entries = entries(folder).unwrap_or_default();
    entries.len() >= 2 && entries.iter().all(|entry| entry.is_dir())
}
