//! `maskd passwd`, which creates password hashes and tokens for the page.

use std::io::{self, BufRead, IsTerminal, Read};

use clap::Args;

use super::terminal::{self, Echo, MAX_LINE};
use super::{Failure, print};
use crate::api::web;

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
    let hidden = |prompt| terminal::ask(prompt, Echo::Hidden, "no password was given", None);
    let first = hidden("Password: ")?;
    if hidden("Repeat the password: ")? != first {
        return Err(Failure::new(Failure::USAGE, "the two passwords differ"));
    }
    Ok(first)
}

/// Reads a password as a line from standard input.
pub(super) fn line() -> Result<String, Failure> {
    let mut line = String::new();
    let mut input = io::stdin().lock().take(MAX_LINE as u64 + 1);
    input.read_line(&mut line).map_err(|error| {
        let sentence = format!("the password cannot be read: {error}");
        Failure::new(Failure::DATA, sentence)
    })?;
    // The beginning of a line that is too long would be a different password.
    if line.len() > MAX_LINE {
        let sentence = format!("the password has more than {MAX_LINE} bytes: choose a shorter one");
        return Err(Failure::new(Failure::DATA, sentence));
    }
    // Spaces at the end belong to the password; the line ending does not.
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(line)
}
