//! `maskd passwd`: hashes of passwords and tokens for the page.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Failure, print};
use crate::web;

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// Make a token for a machine instead, and print it with its hash, which is
    /// for web.token-hashes
    #[arg(long)]
    token: bool,
}

impl Passwd {
    pub(super) fn run(&self) -> Result<(), Failure> {
        if self.token {
            let token = web::new_token()?;
            let text = format!("token  {}\nhash   {}\n", token.token, token.hash);
            return print(text.as_bytes());
        }
        let hash = web::hash_password(&password()?)?;
        print(format!("{hash}\n").as_bytes())
    }
}

fn password() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let first = hidden("Password: ")?;
    if hidden("Once more: ")? != first {
        return Err(Failure::new(Failure::USAGE, "these are two passwords"));
    }
    Ok(first)
}

fn line() -> Result<String, Failure> {
    let mut line = String::new();
    let mut input = io::stdin().lock().take(MAX_LINE);
    input.read_line(&mut line).map_err(|error| {
        Failure::new(
            Failure::DATA,
            format!("the password cannot be read: {error}"),
        )
    })?;
    // The end of the line is none of the password, spaces are.
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(line)
}

/// Asks on the terminal, which does not show what is typed.
fn hidden(prompt: &str) -> Result<String, Failure> {
    let mut terminal = io::stderr();
    // Nothing helps if standard error is closed.
    let _ = write!(terminal, "{prompt}");
    let _ = terminal.flush();
    let silent = Silent::begin();
    let line = line();
    drop(silent);
    let _ = writeln!(terminal);
    line
}

/// The terminal shows again what is typed when this is dropped.
struct Silent(Option<Termios>);

impl Silent {
    fn begin() -> Silent {
        let input = io::stdin();
        let before = tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut after = before.clone();
            after.local_modes.remove(LocalModes::ECHO);
            // A terminal that cannot be silent shows what is typed.
            let _ = tcsetattr(&input, OptionalActions::Flush, &after);
        }
        Silent(before)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
