//! Events at the door, and their delivery to webhooks and programs.
//!
//! This module owns the kinds and the format of events, the newest events in memory, the queues of
//! the webhooks, and the requests and programs that deliver events. It starts no threads; the
//! module `daemon` starts one for each receiver, so that a receiver that hangs delays no other. It
//! knows nothing about where events come from. `docs/EVENTS.md` describes the format.
//!
//! | file | owns |
//! |---|---|
//! | `event.rs` | kinds, fields, and JSON of events |
//! | `watch.rs` | conditions that become events |
//! | `log.rs` | the newest events, and the state of the receivers |
//! | `receiver.rs` | which events a receiver gets |
//! | `webhook.rs` | requests and retries |
//! | `queue.rs` | events on disk |
//! | `template.rs`, `signature.rs` | the body of a request, and its signature |
//! | `exec.rs` | programs |

mod event;
mod exec;
mod log;
mod queue;
mod receiver;
mod signature;
mod template;
mod watch;
mod webhook;

pub use event::{Event, EventFactory, EventKind, FaceCounts, Occurrence};
pub use exec::{Exec, ExecError, ExecOptions};
pub use log::{EventLog, KEPT, LoggedEvent, ReceiverKind, ReceiverRecord, ReceiverState};
pub use receiver::{ReceiverFeed, Selection};
pub use template::{Template, TemplateError};
pub use watch::{DiskWatch, UnsureTimer};
pub use webhook::{Webhook, WebhookError, WebhookOptions};
