//! Writes `tracing` events to standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{Failure, log_thread};
use crate::camera::text_without_secrets;
use crate::platform::text::printable;

/// Starts logging with `filter`. If `filter` is `None`, the level depends on `quiet`. If
/// `live` is true, the console keeps a status line on the terminal, which log lines must
/// overwrite. If `daemon` is true, a separate thread writes the log.
pub(super) fn start(
    filter: Option<&str>,
    quiet: bool,
    live: bool,
    daemon: bool,
) -> Result<(), Failure> {
    let default = if quiet { "warn" } else { "warn,maskd=info" };
    let filter = filter.unwrap_or(default);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(
            Failure::USAGE,
            format!("the log filter {filter:?} (--log or MASKD_LOG) is not valid: {error}"),
        )
    })?;
    if daemon {
        log_thread::start();
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(format::debug_fn(write_field).delimited(" "))
        .with_writer(move || Log { live });
    // systemd sets this variable when standard error goes to the journal. The journal
    // adds the time itself and reads the level from a prefix (sd-daemon(3)).
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let format = Format::default()
            .without_time()
            .with_level(false)
            .with_target(false);
        builder
            .with_ansi(false)
            .event_format(Journal(format))
            .init();
    } else {
        builder.with_target(false).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        if !crate::onnx::panics_are_caught() {
            let location = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            let what = text_without_secrets(panic.payload_as_str().unwrap_or("a panic"));
            tracing::error!(location, what, "internal error: please report this");
        }
    }));
    Ok(())
}

/// Writes a field of an event. The value of the field may come from another machine, for
/// example from an HTTP header, so its control characters are escaped.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = printable(&text);
    match field.name() {
        "message" => writer.write_str(&text),
        name => write!(writer, "{name}={text}"),
    }
}

struct Log {
    live: bool,
}

/// Write errors are ignored because a daemon must keep running when the reader of its log
/// has ended, and there is nowhere else to report the errors.
impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut line = Vec::new();
        if self.live && io::stderr().is_terminal() {
            // This clears the status line. The console redraws it below the log line.
            line.extend_from_slice(b"\r\x1b[2K");
        }
        match std::str::from_utf8(bytes) {
            // Libraries may log addresses that contain a login.
            Ok(text) if text.contains("://") => {
                line.extend_from_slice(text_without_secrets(text).as_bytes());
            }
            _ => line.extend_from_slice(bytes),
        }
        log_thread::write(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats an event with its level as a prefix that the journal understands.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })?;
        self.0.format_event(context, writer, event)
    }
}
