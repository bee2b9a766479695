//! Whether Ctrl-C was pressed, for commands that end in their own time.

use std::cell::RefCell;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// SIGINT and SIGTERM, caught.
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

    /// Whether a signal came since the start.
    pub(super) fn is_caught(&self) -> bool {
        let (interrupt, terminate, asked) = &mut *self.signals.borrow_mut();
        if !*asked {
            *asked = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    // One turn of the runtime, in which signals arrive. (A sleep
                    // of no time would take until the next tick, a millisecond.)
                    () = tokio::task::yield_now() => false,
                }
            });
        }
        *asked
    }
}
