//! Reloading the config while the daemon runs.
//!
//! This module owns the list of keys that a reload applies: the settings that may change at any
//! time, and the access rules, host names, and certificates of the page. A change to any other key
//! needs a restart. The daemon reports the changed keys until it is restarted. If the new config
//! cannot be used, nothing changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::api::web::WebOptions;
use crate::config::settings::{Settings, is_setting};
use crate::config::{self, Config};

/// The keys in `[web]` that a reload applies.
const RELOADED: [&str; 5] = [
    "allowed-hosts",
    "password-hash",
    "token-hashes",
    "tls-certificate",
    "tls-key",
];

/// Whether a reload applies a key.
fn is_reloaded(section: &str, key: &str) -> bool {
    is_setting(section, key) || section == "web" && RELOADED.contains(&key)
}

/// The config file, and the config that it contained when the daemon started.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The config in the file, without the options from the command line.
    pub config: Config,
}

/// Reloads the config file.
#[derive(Clone)]
pub(super) struct Reloader {
    pub(super) file: Option<ConfigFile>,
    pub(super) settings: Arc<Settings>,
    /// The options of the page, or `None` if the page is not served.
    pub(super) web: Option<Arc<watch::Sender<WebOptions>>>,
}

impl Reloader {
    /// Applies the changes in the config file, and reads the certificates of the page
    /// again. If some changes need a restart, returns a sentence that names them.
    ///
    /// # Errors
    /// Returns a sentence that says why the config cannot be used. In that case, nothing
    /// changes.
    pub(super) fn reload(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let kept = |why: &dyn std::fmt::Display| {
            format!("the config was not reloaded and the earlier one stays in use: {why}")
        };
        let (config, _) = config::load(&file.path).map_err(|error| kept(&error))?;
        let web = match &self.web {
            Some(web) => {
                let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
                let credentials = credentials.as_deref().map(Path::new);
                let current = web.borrow().clone();
                let options = current.reloaded(&config.web, credentials);
                Some((web, options.map_err(|error| kept(&error))?))
            }
            None => None,
        };
        self.settings
            .reload(&config)
            .map_err(|error| kept(&format!("{} has problems: {error}", file.path.display())))?;
        if let Some((web, options)) = web {
            web.send_replace(options);
        }
        let keys = keys_that_need_a_restart(&file.config, &config);
        Ok((!keys.is_empty()).then(|| {
            format!(
                "the config has changed in {}: restart the daemon to apply this",
                keys.join(", ")
            )
        }))
    }
}

/// Returns the changed keys that a reload does not apply, for example `camera.source`.
fn keys_that_need_a_restart(before: &Config, after: &Config) -> Vec<String> {
    // A config that was parsed from TOML can always be serialized.
    let table = |config: &Config| toml::Table::try_from(config).unwrap_or_default();
    let (before, after) = (table(before), table(after));
    let mut keys = Vec::new();
    for section in before.keys() {
        if !before[section].is_table() {
            if before.get(section) != after.get(section) {
                keys.push(section.clone());
            }
            continue;
        }
        let section_of = |config: &toml::Table| config.get(section)?.as_table().cloned();
        let old = section_of(&before).unwrap_or_default();
        let new = section_of(&after).unwrap_or_default();
        // A key without a value is absent from its table, so the keys of both tables are needed.
        let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            if old.get(name) != new.get(name) && !is_reloaded(section, name) {
                keys.push(format!("{section}.{name}"));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_a_reload_does_not_apply_are_named() {
        let parse = |text: &str| config::parse("any", text).unwrap();
        let before = parse("[camera]\nsource = \"examples\"\n[decide]\nhold-ms = 5\n");
        let after = parse(
            "[camera]\nsource = \"http://camera/\"\n[decide]\nhold-ms = 6\nconfirm-frames = 7\nstale-ms = 7000\n\
             [web]\nlisten = \"127.0.0.1:80\"\nallowed-hosts = [\"door.lan\"]\n",
        );
        let expected = ["camera.source", "decide.stale-ms", "web.listen"];
        assert_eq!(keys_that_need_a_restart(&before, &after), expected);
        assert_eq!(keys_that_need_a_restart(&after, &before), expected);
        assert!(keys_that_need_a_restart(&before, &before).is_empty());
    }

    #[test]
    fn the_reloaded_keys_exist() {
        let full = Config {
            web: config::Web {
                password_hash: Some("hash".to_owned()),
                tls_certificate: Some("c.pem".into()),
                tls_key: Some("k.pem".into()),
                ..config::Web::default()
            },
            ..Config::default()
        };
        let table = toml::Table::try_from(full).unwrap();
        for key in RELOADED {
            assert!(table["web"].get(key).is_some(), "{key}");
        }
    }
}
