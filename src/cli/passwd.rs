//! `maskd passwd`, which creates password hashes and tokens for the page.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use clap::Args;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::{Failure, print};
use crate::api::web;

/// Maximum length of a line, in bytes.
const MAX_LINE: u64 = 4096;
/// The control character that a terminal sends for Ctrl-C.
const INTERRUPT: SpecialCodeIndex = SpecialCodeIndex::VINTR;
/// The number of the SIGINT signal.
const SIGINT: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// Create a token for a program instead, and print it with its hash for
    /// web.token-hashes
    #[arg(long)]
    token: bool,
}

impl Passwd {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.token {
            let token = web::new_token()?;
            let text = format!("token  {}\nhash   {}\n", token.token, token.hash);
            return print(&text);
        }
        let hash = web::hash_password(&password()?)?;
        print(format!("{hash}\n"))
    }
}

fn password() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let first = hidden("Password: ")?;
    if hidden("Repeat the password: ")? != first {
        return Err(Failure::new(Failure::USAGE, "the two passwords differ"));
    }
    Ok(first)
}

fn line() -> Result<String, Failure> {
    let mut line = String::new();
    let mut input = io::stdin().lock().take(MAX_LINE + 1);
    input
        .read_line(&mut line)
        .map_err(|error| unreadable(&error))?;
    check_length(line.len())?;
    // Spaces at the end belong to the password; the line ending does not.
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(line)
}

/// Rejects a line that is too long, because the beginning of the line would be a
/// different password.
fn check_length(bytes: usize) -> Result<(), Failure> {
    if bytes as u64 <= MAX_LINE {
        return Ok(());
    }
    let sentence = format!("the password has more than {MAX_LINE} bytes: choose a shorter one");
    Err(Failure::new(Failure::DATA, sentence))
}

fn unreadable(error: &io::Error) -> Failure {
    let sentence = format!("the password cannot be read: {error}");
    Failure::new(Failure::DATA, sentence)
}

/// Reads a line from the terminal without showing it. After Ctrl-C, this function fails
/// with the exit code of a program that was ended by SIGINT.
fn hidden(prompt: &str) -> Result<String, Failure> {
    let no_echo = NoEcho::start();
    let mut terminal = io::stderr();
    // Errors are ignored: if standard error is closed, the prompt cannot be shown
    // anywhere else.
    let _ = write!(terminal, "{prompt}");
    let _ = terminal.flush();
    let line = no_echo.line();
    drop(no_echo);
    let _ = writeln!(terminal);
    line
}

/// Turns off the terminal's echo until this value is dropped. Until then, Ctrl-C ends the
/// line instead of the program. If Ctrl-C ended the program, the echo would stay off.
struct NoEcho(Option<Termios>);

impl NoEcho {
    fn start() -> NoEcho {
        let input = io::stdin();
        let before = tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut after = before.clone();
            after
                .local_modes
                .remove(LocalModes::ECHO | LocalModes::ISIG);
            after.special_codes[SpecialCodeIndex::VEOL] = before.special_codes[INTERRUPT];
            // If this fails, the terminal shows what the user types.
            let _ = tcsetattr(&input, OptionalActions::Flush, &after);
        }
        NoEcho(before)
    }

    fn line(&self) -> Result<String, Failure> {
        let ctrl_c = self
            .0
            .as_ref()
            .map(|before| before.special_codes[INTERRUPT]);
        let mut bytes = Vec::new();
        for byte in io::stdin().lock().take(MAX_LINE + 1).bytes() {
            match byte.map_err(|error| unreadable(&error))? {
                b'\n' => break,
                byte if Some(byte) == ctrl_c => {
                    return Err(Failure::new(128 + SIGINT, "no password was given"));
                }
                byte => bytes.push(byte),
            }
        }
        check_length(bytes.len())?;
        String::from_utf8(bytes)
            .map_err(|_| Failure::new(Failure::DATA, "the password is not valid UTF-8"))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
