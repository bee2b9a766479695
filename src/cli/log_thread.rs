//! The log thread of the daemon. Whoever reads the log may be slow or may hang, and must
//! not delay the door, the watchdog or a stop.
//!
//! Lines go through a bounded queue to the thread that writes them. Lines that find the
//! queue full are lost and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

/// Maximum number of lines that wait to be written.
const CAPACITY: usize = 1024;
/// How long the end of the process waits for the lines that are still in the queue.
const FLUSH_LIMIT: Duration = Duration::from_millis(300);

enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();
/// Number of lines that were lost since the last one that was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Starts the thread. Until then, and if that fails, lines are written at once.
#[expect(
    clippy::disallowed_methods,
    reason = "the log has to work before the daemon starts its threads, and after they ended"
)]
pub(super) fn start() {
    let (queue, entries) = mpsc::sync_channel(CAPACITY);
    let started = thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || run(&entries));
    if started.is_ok() {
        // The thread is started only once.
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
                        "{prefix}{lost} lines of the log were lost, because its reader was too slow\n"
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

/// Writing never fails, because a daemon must keep running when the reader of its log is
/// gone, and there is nowhere else to report the error.
fn write_now(line: &[u8]) {
    let _ = io::stderr().lock().write_all(line);
}

/// Writes a line, or has the thread write it.
pub(super) fn write(line: &[u8]) {
    let Some(queue) = QUEUE.get() else {
        return write_now(line);
    };
    if queue.try_send(Entry::Line(line.to_vec())).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for a short time until all lines are written.
pub(super) fn flush() {
    let Some(queue) = QUEUE.get() else {
        return;
    };
    let (done, is_done) = mpsc::sync_channel(1);
    // If the queue is full, its reader hangs.
    if queue.try_send(Entry::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(FLUSH_LIMIT);
    }
}
