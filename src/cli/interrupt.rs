//! Catches Ctrl-C for commands that stop in an orderly way.

use std::cell::RefCell;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Catches SIGINT and SIGTERM, and perhaps SIGHUP, until this value is dropped.
pub(super) struct Interrupt {
    runtime: Runtime,
    signals: RefCell<Signals>,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    is_caught: bool,
}

impl Interrupt {
    pub(super) fn catch() -> Result<Interrupt, Failure> {
        Interrupt::of(false)
    }

    /// Also catches SIGHUP, which a process gets when its terminal is closed.
    pub(super) fn catch_with_hangup() -> Result<Interrupt, Failure> {
        Interrupt::of(true)
    }

    fn of(with_hangup: bool) -> Result<Interrupt, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(Failure::INTERNAL, format!("cannot catch signals: {error}"))
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let signals = runtime.block_on(async {
            let hangup = with_hangup.then(|| signal(SignalKind::hangup()));
            Ok::<_, std::io::Error>(Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: hangup.transpose()?,
                is_caught: false,
            })
        });
        Ok(Interrupt {
            runtime,
            signals: RefCell::new(signals.map_err(failed)?),
        })
    }

    /// Whether a signal has been received since [`Interrupt::catch`].
    pub(super) fn is_caught(&self) -> bool {
        let signals = &mut *self.signals.borrow_mut();
        if !signals.is_caught {
            let Signals {
                interrupt,
                terminate,
                hangup,
                is_caught,
            } = signals;
            let hung_up = async {
                match hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            *is_caught = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => true,
                    _ = terminate.recv() => true,
                    _ = hung_up => true,
                    // Yielding lets the runtime run one iteration, in which it receives
                    // signals. A sleep of zero would take up to 1 ms, because a sleep
                    // ends at a tick of the timer.
                    () = tokio::task::yield_now() => false,
                }
            });
        }
        signals.is_caught
    }
}
