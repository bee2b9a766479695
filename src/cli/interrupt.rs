//! Catches Ctrl-C for commands that stop in an orderly way.

use std::cell::RefCell;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Catches SIGINT and SIGTERM until this value is dropped.
pub(super) struct Interrupt {
    runtime: Runtime,
    signals: RefCell<(Signal, Signal, bool)>,
}

impl Interrupt {
    pub(super) fn catch() -> Result<Interrupt, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Failure::INTERNAL, format!("cannot catch signals: {error}"))
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let signals = runtime.block_on(async {
            Ok::<_, std::io::Error>((
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ))
        });
        let (interrupt, terminate) = signals.map_err(failed)?;
        Ok(Interrupt {
            runtime,
            signals: RefCell::new((interrupt, terminate, false)),
        })
    }

    /// Whether a signal has been received since [`Interrupt::catch`].
    pub(super) fn is_caught(&self) -> bool {
        let (interrupt, terminate, caught) = &mut *self.signals.borrow_mut();
        if !*caught {
            *caught = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    // Yielding lets the runtime run one iteration, in which it receives
                    // signals. A sleep of zero would take up to 1 ms, because a sleep
                    // ends at a tick of the timer.
                    () = tokio::task::yield_now() => false,
                }
            });
        }
        *caught
    }
}
