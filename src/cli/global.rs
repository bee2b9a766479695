//! The options that all commands share: config file, state directory, and log filter.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgAction, Args};

use super::{Failure, complain};
use crate::api::socket;
use crate::config::{self, Config, ConfigError, RenamedKey};
use crate::daemon::StateDir;
use crate::learning::head_in_use;
use crate::vision::head::Head;

/// The config file that is read if it exists and `--config` is not given.
pub(super) const SYSTEM_CONFIG: &str = "/etc/maskd/maskd.toml";

/// The state directory of the service. It belongs to the service's user.
const SERVICE_STATE: &str = "/var/lib/maskd";

/// The runtime directory of the service. It exists while the service runs.
pub(super) const SERVICE_RUNTIME: &str = "/run/maskd";

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Config file [default: $MASKD_CONFIG, or the first of these that exists:
    /// maskd/maskd.toml in the XDG config folder, /etc/maskd/maskd.toml; else
    /// built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// State directory [default: /var/lib/maskd for the service and while it
    /// runs, else maskd in the XDG state folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,

    /// What to log to standard error: a level, or a filter such as
    /// maskd=debug,warn [default: $MASKD_LOG, else info for run and warn for other
    /// commands]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,

    /// Log more: -v logs details, -vv logs everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with_all = ["quiet", "log"])]
    verbose: u8,

    /// Log only errors
    #[arg(short, long, global = true, conflicts_with = "log")]
    quiet: bool,
}

impl Global {
    /// Returns the filter that the user chose for the log, if there is one.
    pub(super) fn log_filter(&self) -> Option<String> {
        match (self.quiet, self.verbose) {
            (true, _) => Some("error".to_owned()),
            (false, 0) => self.log.clone().or_else(|| {
                let filter = variable("MASKD_LOG")?;
                Some(filter.to_string_lossy().into_owned())
            }),
            (false, 1) => Some("info,maskd=debug".to_owned()),
            (false, _) => Some("trace".to_owned()),
        }
    }

    /// Returns the config file to use, if there is one: the file that `--config` or
    /// `MASKD_CONFIG` names, even if it does not exist, or else the user's or the system's
    /// config file.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        use etcetera::BaseStrategy;
        let named = self.config.clone();
        let named = named.or_else(|| variable("MASKD_CONFIG").map(PathBuf::from));
        // A file that cannot be examined is not skipped, because its error helps the user.
        let is_there = |path: &PathBuf| path.try_exists().unwrap_or(true);
        let own = || {
            let home = etcetera::choose_base_strategy().ok()?;
            Some(home.config_dir().join("maskd/maskd.toml"))
        };
        named
            .or_else(|| own().filter(is_there))
            .or_else(|| Some(PathBuf::from(SYSTEM_CONFIG)).filter(is_there))
    }

    /// Loads the config. If the config has several problems, the failure lists them in one
    /// sentence, whereas `maskd check` shows each one on a line of its own.
    pub(super) fn load_config(&self) -> Result<Config, Failure> {
        let loaded = self.load_config_with_renames();
        let (config, renamed) =
            loaded.map_err(|error| Failure::new(Failure::CONFIG, error.in_one_line()))?;
        for key in renamed {
            tracing::warn!("{key}");
        }
        Ok(config)
    }

    /// Loads the config. Also returns the keys for which the file uses an old name.
    pub(super) fn load_config_with_renames(
        &self,
    ) -> Result<(Config, Vec<RenamedKey>), ConfigError> {
        match self.config_file() {
            Some(file) => config::load(&file),
            None => Ok((Config::default(), Vec::new())),
        }
    }

    /// Returns the head that is in use in the `--state` directory, or `None` if that
    /// option is not given. `base` is the configured head.
    pub(super) fn learned_head(&self, base: &Head) -> Result<Option<Arc<Head>>, Failure> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        if !state.is_dir() {
            let sentence = format!("there is no state directory {}", state.display());
            return Err(Failure::new(Failure::NO_INPUT, sentence));
        }
        let in_use = head_in_use(state, &Arc::new(base.clone()))?;
        if let Some(note) = &in_use.note {
            complain(note);
        }
        Ok(Some(in_use.head))
    }

    /// Returns the state directory for a daemon: the directory that the user or systemd
    /// names, or otherwise the default directory. Returns `None` if no directory is
    /// named, the default directory does not exist, and the config requires no state
    /// directory.
    pub(super) fn daemon_state(&self, config: &Config) -> Result<Option<StateDir>, Failure> {
        if self.state.is_some() || std::env::var_os("STATE_DIRECTORY").is_some() {
            return Ok(Some(StateDir::Named(self.state_dir()?)));
        }
        let needs_state = config.capture.enabled
            || config.counts_passages()
            || config.web.listen.is_some()
            || config.fleet != config::Fleet::default()
            || !config.events.webhook.is_empty();
        if needs_state {
            return Ok(Some(StateDir::Usual(self.state_dir()?)));
        }
        let usual = self.state_dir().ok().filter(|state| state.is_dir());
        Ok(usual.map(StateDir::Usual))
    }

    /// Returns the first of these state directories that applies: the directory that
    /// `--state` names, the directory that systemd names, the directory of the service
    /// (if the service is running or its user runs this command), or the directory in the
    /// user's home.
    pub(super) fn state_dir(&self) -> Result<PathBuf, Failure> {
        use etcetera::BaseStrategy;
        use std::os::unix::fs::MetadataExt;
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        if let Some(state) = std::env::var_os("STATE_DIRECTORY") {
            return Ok(state.into());
        }
        let user = rustix::process::geteuid();
        let service = Path::new(SERVICE_STATE);
        let owner = service.metadata().map(|folder| folder.uid());
        // While the service runs, the commands of all users work through its daemon.
        // Root must use the service's directory only through the daemon, because the
        // service's user could not change files that root wrote.
        let is_running = Path::new(SERVICE_RUNTIME).join(socket::SOCKET).exists();
        if is_running || !user.is_root() && owner.is_ok_and(|owner| owner == user.as_raw()) {
            return Ok(service.to_owned());
        }
        let home = etcetera::choose_base_strategy().ok();
        let state = home
            .and_then(|home| home.state_dir())
            .map(|state| state.join("maskd"));
        state.ok_or_else(|| {
            Failure::new(
                Failure::USAGE,
                "there is no home directory: name a state directory with --state DIR",
            )
        })
    }
}

/// Returns the value of an environment variable. An empty value counts as none.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns the socket path of the daemon that uses a state directory. systemd passes the
/// path of the runtime directory only to the service itself. Other processes therefore
/// use the fixed path [`SERVICE_RUNTIME`].
pub(super) fn socket_path(config: &Config, state: &Path) -> PathBuf {
    let service = Path::new(SERVICE_RUNTIME);
    let is_service = state == Path::new(SERVICE_STATE) && service.is_dir();
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let runtime = runtime.or_else(|| is_service.then(|| service.into()));
    socket::socket_path(config.control.socket.as_deref(), runtime.as_deref(), state)
}
