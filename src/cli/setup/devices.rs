//! Whether the camera and the pins are free for tests, and the daemon that may use them.

use std::cell::RefCell;

use super::plan::Plan;
use crate::cli::backend;
use crate::cli::service::{self, Paused};
use crate::cli::{Failure, Global};

/// The daemon that may use the camera and the pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    None,
    /// The systemd service, which can be stopped for the tests.
    Service,
    /// A daemon that somebody started in another way.
    Other,
}

pub(super) struct Devices<'a> {
    global: &'a Global,
    daemon: Daemon,
    /// The service, while it is stopped.
    paused: RefCell<Option<Paused>>,
}

impl Devices<'_> {
    /// Finds the daemon. `may_stop` tells whether the service may be stopped.
    pub(super) fn new<'a>(global: &'a Global, plan: &Plan, may_stop: bool) -> Devices<'a> {
        let devices = Devices {
            global,
            daemon: Daemon::None,
            paused: RefCell::new(None),
        };
        let daemon = if plan.is_of_service() && service::is_running() {
            if may_stop {
                Daemon::Service
            } else {
                Daemon::Other
            }
        } else if devices.has_daemon(plan) {
            Daemon::Other
        } else {
            Daemon::None
        };
        Devices { daemon, ..devices }
    }

    fn has_daemon(&self, plan: &Plan) -> bool {
        let Ok(state) = self.global.state_dir() else {
            return false;
        };
        // If a daemon does not answer, it may still use the camera.
        !matches!(
            backend::daemon(self.global, plan.config(), &state),
            Ok(None)
        )
    }

    /// Whether a daemon runs that setup cannot restart.
    pub(super) fn has_other_daemon(&self) -> bool {
        self.daemon == Daemon::Other
    }

    /// Whether a daemon runs at the moment.
    pub(super) fn are_in_use(&self) -> bool {
        self.daemon != Daemon::None && self.paused.borrow().is_none()
    }

    /// Makes sure that no daemon with this config uses the camera and the pins. The service is
    /// stopped until the end of setup.
    pub(super) fn free(&self) -> Result<(), Failure> {
        match self.daemon {
            Daemon::None => Ok(()),
            Daemon::Service => {
                let mut paused = self.paused.borrow_mut();
                if paused.is_none() {
                    *paused = Some(Paused::stop()?);
                }
                Ok(())
            }
            Daemon::Other => {
                let sentence = "a daemon is running and may use the camera and the pins: stop it \
                                first, or add --no-tests";
                Err(Failure::new(Failure::TEMPORARY, sentence))
            }
        }
    }
}
