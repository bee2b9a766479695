//! Questions and answers on the terminal. They go to standard error, so that standard output
//! has only what was done.

use std::io::{self, Write};

use crate::camera::text_without_secrets;
use crate::cli::Failure;
use crate::cli::interrupt::Interrupt;
use crate::cli::terminal::{self, Echo, INTERRUPTED};
use crate::platform::text::printable_lines;

/// The user at the terminal.
pub(super) struct Dialogue<'a> {
    screen: io::Stderr,
    interrupt: &'a Interrupt,
}

impl Dialogue<'_> {
    pub(super) fn new(interrupt: &Interrupt) -> Dialogue<'_> {
        Dialogue {
            screen: io::stderr(),
            interrupt,
        }
    }

    /// Shows text, with a line end after it.
    pub(super) fn say(&self, text: &str) {
        let text = text_without_secrets(text);
        // An error is ignored: without a terminal, the next question fails.
        let _ = writeln!(self.screen.lock(), "{}", printable_lines(&text));
    }

    /// Says why an answer cannot be used. Fails if the user does not want to answer anymore,
    /// which is not a reason to ask again.
    pub(super) fn refuse(&self, failure: Failure) -> Result<(), Failure> {
        if failure.exit == INTERRUPTED {
            return Err(failure);
        }
        self.say(&format!("  {}", failure.sentence));
        Ok(())
    }

    /// Asks for a line. An empty answer stands for `default`.
    pub(super) fn ask(&self, question: &str, default: &str) -> Result<String, Failure> {
        let prompt = text_without_secrets(&format!("{question} [{default}]: "));
        let answer = self.line(&prompt, Echo::Shown)?;
        let answer = answer.trim();
        Ok(if answer.is_empty() { default } else { answer }.to_owned())
    }

    /// Asks until the answer is yes or no. An empty answer stands for `default`.
    pub(super) fn yes(&self, question: &str, default: bool) -> Result<bool, Failure> {
        let choices = if default { "Y/n" } else { "y/N" };
        loop {
            let answer = self.line(&format!("{question} [{choices}] "), Echo::Shown)?;
            match answer.trim().to_ascii_lowercase().as_str() {
                "" => return Ok(default),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => self.say("  Answer y or n."),
            }
        }
    }

    /// Asks for a line that the terminal does not show.
    pub(super) fn secret(&self, question: &str) -> Result<String, Failure> {
        self.line(&format!("{question}: "), Echo::Hidden)
    }

    /// Asks until the answer is a usable line, because one wrong key must not cost the user all
    /// answers before it.
    fn line(&self, prompt: &str, echo: Echo) -> Result<String, Failure> {
        let unanswered = super::interrupted().sentence;
        let prompt = printable_lines(prompt);
        loop {
            match terminal::ask(&prompt, echo, &unanswered, Some(self.interrupt)) {
                Err(failure) if failure.exit == Failure::DATA => self.refuse(failure)?,
                answer => return answer,
            }
        }
    }
}
