//! The log thread of the daemon. The program that reads the log may be slow or may hang,
//! but it must not delay the door, the watchdog, or a shutdown.
//!
//! Lines go through a bounded queue to the thread that writes them. While the queue is
//! full, new lines are dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use crate::platform::text::counted;

/// Maximum number of lines in the queue.
const CAPACITY: usize = 1024;
/// When the process ends, it waits at most this long until the lines in the queue have
/// been written.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

enum Entry {
    Line(Vec<u8>),
    /// A request to send a message when all lines that were queued before the request
    /// have been written.
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
/// Number of lines that have been dropped since the last line was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Starts the log thread. Before this call, or if the thread cannot be started, [`write`]
/// writes each line directly.
#[expect(
    clippy::disallowed_methods,
    reason = "the log has to work before the daemon starts its threads and after they have ended"
)]
pub(super) fn start() {
    let (queue, entries) = mpsc::sync_channel(CAPACITY);
    let started = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || run(&entries));
    if started.is_ok() {
        // This cannot fail, because the thread is started only once.
        let _ = QUEUE.set(queue);
    }
}

fn run(entries: &Receiver<Entry>) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                write_now(&line);
                let lost = LOST.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    // The journal reads the level from the prefix.
                    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
                    let prefix = if is_journal { "<4>" } else { " WARN " };
                    let note = format!(
                        "{prefix}lost {} because the reader of the log was too slow\n",
                        counted(lost, "log line")
                    );
                    write_now(note.as_bytes());
                }
            }
            Entry::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Writes a line to standard error. Write errors are ignored because a daemon must keep
/// running when the reader of its log has ended, and there is nowhere else to report the
/// errors.
fn write_now(line: &[u8]) {
    let _ = io::stderr().lock().write_all(line);
}

/// Passes a line to the thread or, if there is no thread, writes it directly.
pub(super) fn write(line: Vec<u8>) {
    let Some(queue) = QUEUE.get() else {
        return write_now(&line);
    };
    if queue.try_send(Entry::Line(line)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until all lines in the queue have been written, but at most for [`FLUSH_LIMIT`].
pub(super) fn flush() {
    let Some(queue) = QUEUE.get() else {
        return;
    };
    let (done, is_done) = mpsc::sync_channel(1);
    // If the queue is full, the thread is blocked, so waiting would be pointless.
    if queue.try_send(Entry::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(FLUSH_LIMIT);
    }
}
