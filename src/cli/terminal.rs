//! Questions on the terminal: reads one line, with or without showing what the user types.
//!
//! Each byte is read on its own, without a buffer. A wait for a byte can therefore be ended
//! by a signal, and the rest of the input stays with the terminal.

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::Failure;
use super::interrupt::Interrupt;

/// Maximum length of a line, in bytes.
pub(super) const MAX_LINE: usize = 4096;
/// The control character that a terminal sends for Ctrl-C.
const INTERRUPT: SpecialCodeIndex = SpecialCodeIndex::VINTR;
/// The exit code of a program that SIGINT ended, which a question has after Ctrl-C.
pub(super) const INTERRUPTED: u8 = 128 + 2;
/// How often a wait for a byte checks whether a signal was caught.
const CHECK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Whether the terminal shows what the user types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    Shown,
    Hidden,
}

/// Prints a prompt to standard error, and reads a line from the terminal. After Ctrl-C, at
/// the end of the input, and after a signal that `interrupt` catches, this function fails
/// with the sentence `unanswered`. A line that cannot be used, for example because it is not
/// UTF-8, leads to [`Failure::DATA`].
pub(super) fn ask(
    prompt: &str,
    echo: Echo,
    unanswered: &str,
    interrupt: Option<&Interrupt>,
) -> Result<String, Failure> {
    let mode = LineMode::start(echo);
    let mut terminal = io::stderr();
    // Errors are ignored: if standard error is closed, the prompt cannot be shown
    // anywhere else.
    let _ = write!(terminal, "{prompt}");
    let _ = terminal.flush();
    let line = mode.line(unanswered, interrupt);
    drop(mode);
    if echo == Echo::Hidden || line.is_err() {
        let _ = writeln!(terminal);
    }
    line
}

/// Makes Ctrl-C end the line instead of the program, until this value is dropped. If Ctrl-C
/// ended the program, an echo that was turned off would stay off.
struct LineMode(Option<Termios>);

impl LineMode {
    fn start(echo: Echo) -> LineMode {
        let input = io::stdin();
        let before = tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut after = before.clone();
            after.local_modes.remove(LocalModes::ISIG);
            if echo == Echo::Hidden {
                after.local_modes.remove(LocalModes::ECHO);
            }
            after.special_codes[SpecialCodeIndex::VEOL] = before.special_codes[INTERRUPT];
            // What was typed before the prompt belongs to no question. If this fails, the
            // terminal shows what the user types.
            let _ = tcsetattr(&input, OptionalActions::Flush, &after);
        }
        LineMode(before)
    }

    fn line(&self, unanswered: &str, interrupt: Option<&Interrupt>) -> Result<String, Failure> {
        let ctrl_c = self
            .0
            .as_ref()
            .map(|before| before.special_codes[INTERRUPT]);
        let none = || Failure::new(INTERRUPTED, unanswered);
        let mut bytes = Vec::new();
        loop {
            match byte(interrupt) {
                Ok(None) if bytes.is_empty() => return Err(none()),
                Ok(None | Some(b'\n')) => break,
                Ok(Some(byte)) if Some(byte) == ctrl_c => return Err(none()),
                Ok(Some(byte)) if bytes.len() < MAX_LINE => bytes.push(byte),
                Ok(Some(_)) => {
                    let sentence = format!("the answer has more than {MAX_LINE} bytes: shorten it");
                    return Err(Failure::new(Failure::DATA, sentence));
                }
                Err(Errno::CANCELED) => return Err(none()),
                Err(error) => {
                    let sentence = format!("the terminal cannot be read: {error}");
                    return Err(Failure::new(Failure::NO_INPUT, sentence));
                }
            }
        }
        String::from_utf8(bytes)
            .map_err(|_| Failure::new(Failure::DATA, "the answer is not valid UTF-8"))
    }
}

impl Drop for LineMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Waits for a byte from standard input, and returns `None` at its end. Fails with
/// [`Errno::CANCELED`] after a signal.
fn byte(interrupt: Option<&Interrupt>) -> Result<Option<u8>, Errno> {
    let input = io::stdin();
    loop {
        if interrupt.is_some_and(Interrupt::is_caught) {
            return Err(Errno::CANCELED);
        }
        let mut polled = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut polled, Some(&CHECK)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut byte = [0];
        match rustix::io::read(&input, &mut byte[..]) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}
