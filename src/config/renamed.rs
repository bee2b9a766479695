//! Keys that were renamed. A config file may still use an old name. The daemon then tells
//! the user the new name.

use super::Problem;

/// The section, old key, and new key of each renamed key.
const RENAMED: [(&str, &str, &str); 15] = [
    ("camera", "rate", "playback-fps"),
    ("detect", "side", "input-size"),
    ("detect", "still-ms", "idle-interval-ms"),
    ("classify", "mask-from", "masked-threshold"),
    ("classify", "no-mask-to", "unmasked-threshold"),
    ("classify", "min-face", "min-face-pixels"),
    ("classify", "min-score", "min-detector-score"),
    ("track", "keep-ms", "max-lost-ms"),
    ("track", "votes", "vote-window"),
    ("track", "settled-ms", "reclassify-interval-ms"),
    ("capture", "per-track", "max-per-track"),
    ("capture", "per-hour", "max-per-hour"),
    ("capture", "near-duplicate", "near-duplicate-distance"),
    ("refit", "min-new", "min-new-labels"),
    ("mqtt", "topic", "topic-prefix"),
];

/// A key that appears in a config file under its old name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenamedKey {
    section: &'static str,
    old: &'static str,
    new: &'static str,
}

impl std::fmt::Display for RenamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RenamedKey { section, old, new } = self;
        write!(
            f,
            "{section}.{old} has a new name: write {new} in its place"
        )
    }
}

/// Returns the former name of the key `section.new`, or `None` if the key was not
/// renamed.
pub(super) fn old_name(section: &str, new: &str) -> Option<&'static str> {
    let entry = RENAMED.iter().find(|(s, _, n)| *s == section && *n == new);
    entry.map(|(_, old, _)| *old)
}

/// Changes every old key in `table` to its new name, and returns the changed keys. If a
/// key appears under both names, this function reports a problem and keeps the value
/// under the new name.
pub(super) fn rename(table: &mut toml::Table, problems: &mut Vec<Problem>) -> Vec<RenamedKey> {
    let mut renamed = Vec::new();
    for (section, old, new) in RENAMED {
        let content = table.get_mut(section).and_then(toml::Value::as_table_mut);
        let Some((content, value)) =
            content.and_then(|content| content.remove(old).map(|value| (content, value)))
        else {
            continue;
        };
        if content.contains_key(new) {
            problems.push(Problem {
                key: format!("{section}.{old}"),
                problem: format!("has a new name, {new}, which is set too: remove {old}"),
            });
        } else {
            content.insert(new.to_owned(), value);
            renamed.push(RenamedKey { section, old, new });
        }
    }
    renamed
}

/// If `problem` is about a renamed key, adds the old name that the file contains, so that
/// the user can find the key in the file.
pub(super) fn name_as_written(problem: &mut Problem, renamed: &[RenamedKey]) {
    let key = renamed.iter().find(|key| {
        let RenamedKey { section, new, .. } = key;
        problem.key == format!("{section}.{new}")
    });
    if let Some(RenamedKey { section, old, new }) = key {
        problem.key = format!("{section}.{old} (now {new})");
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::{Config, ConfigError, parse_with_renames};

    #[test]
    fn every_old_name_leads_to_a_key_of_today() {
        let today = toml::Table::try_from(Config::default()).unwrap();
        for (section, old, new) in RENAMED {
            let section_today = today[section].as_table().unwrap();
            assert!(section_today.contains_key(new), "{section}.{new}");
            assert!(!section_today.contains_key(old), "{section}.{old}");
            let value = section_today[new].clone();
            let old_file = toml::Table::from_iter([(
                section.to_owned(),
                toml::Table::from_iter([(old.to_owned(), value)]).into(),
            )]);
            assert!(Config::deserialize(old_file.clone()).is_err());
            let (config, renamed) = parse_with_renames("old", &old_file.to_string()).unwrap();
            assert_eq!(config, Config::default());
            assert_eq!(renamed, [RenamedKey { section, old, new }]);
        }
    }

    #[test]
    fn an_old_name_sets_the_value_and_names_the_new_one() {
        let text = "[classify]\nmask-from = 0.7\n";
        let (config, renamed) = parse_with_renames("old", text).unwrap();
        assert_eq!(config.classify.masked_threshold, 0.7);
        assert_eq!(
            renamed[0].to_string(),
            "classify.mask-from has a new name: write masked-threshold in its place"
        );
    }

    #[test]
    fn both_names_are_a_problem_and_others_are_named_as_written() {
        let text = "[classify]\nmask-from = 0.7\nmasked-threshold = 0.8\n\
                    [track]\nvotes = 0\nkeep-ms = \"long\"\n";
        let Err(ConfigError::Invalid { problems, .. }) = parse_with_renames("old", text) else {
            panic!("two names and two bad values are accepted");
        };
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:#?}");
        for start in [
            "classify.mask-from has a new name, masked-threshold, which is set too: remove mask-from",
            "track.votes (now vote-window) is 0, allowed is 1 to 100",
            "track.keep-ms (now max-lost-ms) is wrong: ",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(start)),
                "{start:?} is not in {problems:#?}"
            );
        }
    }
}
