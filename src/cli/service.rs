//! maskd's systemd service, as `maskd setup` and `maskd check` see it: its config, its user,
//! its drop-ins, and starting and stopping it.
//!
//! Nothing here is needed for other daemons. A service manager other than systemd counts as
//! none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::global::SYSTEM_CONFIG;
use super::{Failure, output};
use crate::platform::files;
use crate::platform::programs::{self, ProgramError};

/// The name of the service, and of its user.
pub(super) const NAME: &str = "maskd";
/// The folders in which the unit can be installed.
const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The folders with drop-ins of the service.
const DROP_INS: [&str; 3] = [
    "/etc/systemd/system/maskd.service.d",
    "/run/systemd/system/maskd.service.d",
    "/usr/lib/systemd/system/maskd.service.d",
];
/// Exists while systemd is the service manager.
const SYSTEMD: &str = "/run/systemd/system";
/// The drop-in that allows network access, as it is shipped.
const NETWORK: &str = include_str!("../../systemd/drop-ins/network.conf");
/// Folders that the service does not see (`ProtectHome=`).
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];
/// Maximum size of a drop-in or of the list of users, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Maximum time for one request to systemd. A start of the service takes at most 90 seconds.
const LIMIT: Duration = Duration::from_mins(2);

/// What a drop-in allows the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    Network,
    Sound,
}

impl Permission {
    /// The name of the shipped drop-in.
    pub(super) fn drop_in(self) -> &'static str {
        match self {
            Permission::Network => "network.conf",
            Permission::Sound => "sound.conf",
        }
    }

    /// Whether the text of a drop-in gives the permission.
    fn is_given_by(self, text: &str) -> bool {
        let mut settings = text.lines().filter_map(|line| line.trim().split_once('='));
        settings.any(|(name, value)| match self {
            Permission::Network => {
                let value = value.trim().to_ascii_lowercase();
                name.trim() == "PrivateNetwork" && ["no", "false", "off", "0"].contains(&&*value)
            }
            Permission::Sound => name.trim() == "DeviceAllow" && value.contains("char-alsa"),
        })
    }
}

/// Whether this is the config file of the installed service.
pub(super) fn uses(config: &Path) -> bool {
    let is_same = config == Path::new(SYSTEM_CONFIG)
        || config.exists() && output::is_same_file(config, Path::new(SYSTEM_CONFIG));
    is_same && is_installed()
}

fn is_installed() -> bool {
    let mut folders = UNIT_FOLDERS.iter();
    folders.any(|folder| Path::new(folder).join("maskd.service").exists())
}

/// Whether a drop-in gives the service a permission.
pub(super) fn has(permission: Permission) -> bool {
    DROP_INS.iter().any(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "conf"));
        files.any(|path| {
            let text = files::read_text(&path, MAX_BYTES).unwrap_or_default();
            permission.is_given_by(&text)
        })
    })
}

/// What was done about the access of the service to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkAccess {
    /// A drop-in already gives it.
    Present,
    /// This drop-in was written.
    Given(PathBuf),
    /// Somebody changed or masked this drop-in, which does not give it.
    Refused(PathBuf),
}

/// Gives the service access to the network, unless it has it. A drop-in that somebody changed is
/// kept.
pub(super) fn allow_network() -> Result<NetworkAccess, Failure> {
    let folder = Path::new(DROP_INS[0]);
    let path = folder.join(Permission::Network.drop_in());
    if has(Permission::Network) {
        return Ok(NetworkAccess::Present);
    }
    if path.exists() {
        return Ok(NetworkAccess::Refused(path));
    }
    output::make_folder(folder)?;
    output::write(&path, NETWORK.as_bytes())?;
    Ok(NetworkAccess::Given(path))
}

/// Whether systemd is the service manager of this machine.
pub(super) fn has_manager() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Whether the service runs, or is being started.
pub(super) fn is_running() -> bool {
    // `systemctl is-active` does not tell a service that systemd is about to start again
    // from one that was stopped.
    let state = "case $(systemctl show --property=ActiveState --value maskd) in \
                 active|activating|reloading) ;; *) exit 1 ;; esac";
    has_manager() && run(&["sh", "-c", state]).is_ok()
}

/// Applies the present config and drop-ins, and waits until the service reports that its
/// models, camera, and pins are open.
pub(super) fn restart() -> Result<(), Failure> {
    systemctl(&["daemon-reload"])?;
    systemctl(&["restart", NAME])
}

/// A service that was stopped. It is started again when this value is dropped.
pub(super) struct Paused(());

impl Paused {
    pub(super) fn stop() -> Result<Paused, Failure> {
        systemctl(&["stop", NAME])?;
        Ok(Paused(()))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // A service that already runs stays as it is. An error cannot be returned, and the
        // journal contains it.
        let _ = systemctl(&["start", NAME]);
    }
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    run(&[&["systemctl"], arguments].concat()).map_err(|error| {
        let request = arguments.join(" ");
        let sentence =
            format!("systemctl {request} failed: {error}; \"journalctl -u {NAME}\" says why");
        Failure::new(Failure::UNAVAILABLE, sentence)
    })
}

fn run(words: &[&str]) -> Result<(), ProgramError> {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    programs::run(&words, LIMIT, || false)
}

/// Returns why the user of the service cannot read a file or folder, as the end of a sentence.
/// Returns `None` if it can, or if this cannot be found out, because only root may ask.
pub(super) fn why_unreadable(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    if let Some(hidden) = HIDDEN.iter().find(|hidden| real.starts_with(hidden)) {
        return Some(format!(
            "is in {hidden}, which the service does not see: put it into /etc/{NAME}"
        ));
    }
    if !rustix::process::geteuid().is_root() || group().is_none() {
        return None;
    }
    let tested = run(&[
        "setpriv",
        &format!("--reuid={NAME}"),
        &format!("--regid={NAME}"),
        "--init-groups",
        "test",
        "-r",
        &real.display().to_string(),
    ]);
    matches!(tested, Err(ProgramError::Failed { .. })).then(|| {
        format!(
            "cannot be read by the user {NAME}: give that user access, for example with \"chgrp {NAME} \
             FILE\" and \"chmod g+r FILE\""
        )
    })
}

/// Returns the number of the group of the service's user, if there is such a group.
pub(super) fn group() -> Option<u32> {
    let groups = files::read_text(Path::new("/etc/group"), MAX_BYTES).ok()?;
    group_in(&groups)
}

fn group_in(groups: &str) -> Option<u32> {
    let line = groups
        .lines()
        .find_map(|line| line.strip_prefix(NAME)?.strip_prefix(':'))?;
    line.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_drop_ins_give_their_permissions() {
        let sound = include_str!("../../systemd/drop-ins/sound.conf");
        let other = include_str!("../../systemd/drop-ins/backoff.conf");
        let unit = include_str!("../../systemd/maskd.service");
        for (permission, own) in [(Permission::Network, NETWORK), (Permission::Sound, sound)] {
            assert!(permission.is_given_by(own), "{permission:?}");
            for text in [NETWORK, sound, other, unit]
                .iter()
                .filter(|text| **text != own)
            {
                assert!(!permission.is_given_by(text), "{permission:?}: {text}");
            }
        }
        assert!(!Permission::Network.is_given_by("# PrivateNetwork=no\n"));
        assert!(Permission::Network.is_given_by("[Service]\nPrivateNetwork = No\n"));
    }

    #[test]
    fn the_group_of_the_service_has_exactly_its_name() {
        let groups = "root:x:0:\nmaskd2:x:5:\nmaskd:x:994:\n";
        assert_eq!(group_in(groups), Some(994));
        assert_eq!(group_in("maskd2:x:5:\n"), None);
        assert_eq!(group_in("maskd\n"), None);
    }

    #[test]
    fn the_service_does_not_see_homes() {
        let home = std::fs::read_dir("/root").is_ok().then_some("/root");
        if let Some(home) = home {
            let why = why_unreadable(Path::new(home)).unwrap();
            assert!(why.contains("does not see"), "{why}");
        }
        assert_eq!(why_unreadable(Path::new("/no/such/file")), None);
    }
}
