//! The step for the page: its address and its password.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use clap::Args;

use super::{OrNone, Session};
use crate::api::web;
use crate::cli::{Failure, passwd};
use crate::config::edit::ConfigEdit;

/// The address that is offered to an owner who has none.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
/// The first port that a program without special permissions may use.
const FIRST_FREE_PORT: u16 = 1024;

/// Address and port of the page. A port alone stands for all addresses of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageAddress(SocketAddr);

impl FromStr for PageAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<PageAddress, &'static str> {
        let port = text.parse::<u16>().ok();
        let address = match port {
            Some(port) => Some(SocketAddr::new(USUAL.ip(), port)),
            None => text.parse().ok(),
        };
        address
            .filter(|address| address.port() != 0)
            .map(PageAddress)
            .ok_or("write an IP address and a port, such as 0.0.0.0:8080, or none")
    }
}

/// The options of the command line for the page.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Address and port of the page, such as 0.0.0.0:8080, or "none"
    #[arg(long, value_name = "ADDRESS")]
    page: Option<OrNone<PageAddress>>,

    /// Read the password of the page as a line from standard input
    #[arg(long)]
    password_stdin: bool,
}

impl Flags {
    /// Whether any option is given.
    pub(super) fn are_given(&self) -> bool {
        self.page.is_some() || self.password_stdin
    }

    /// Whether standard input is read, so that it cannot answer questions.
    pub(super) fn takes_input(&self) -> bool {
        self.password_stdin
    }
}

/// Sets the page to the one that `flags` name, or asks for it.
pub(super) fn step(session: &mut Session, flags: &Flags) -> Result<(), Failure> {
    let password = flags.password_stdin.then(passwd::line).transpose()?;
    let password = password.as_deref().map(password_edit).transpose()?;
    if let Some(choice) = flags.page {
        set_address(session, choice)?;
    } else {
        ask_for_address(session)?;
    }
    if let Some(password) = password {
        session.plan.change([password])?;
    } else {
        ask_for_password(session)?;
    }
    // What this step did not set may rest on credentials of systemd, which setup cannot see.
    if flags.are_given() || session.dialogue.is_some() {
        let options = web::WebOptions::from_config(&session.plan.config().web, None);
        options.map_err(|error| match error {
            web::WebError::Open(listen) => {
                let sentence = format!(
                    "other machines can reach {listen}, so the page needs a password: add \
                     --password-stdin, or use 127.0.0.1"
                );
                Failure::new(Failure::USAGE, sentence)
            }
            error => error.into(),
        })?;
    }
    Ok(())
}

fn set_address(session: &mut Session, choice: OrNone<PageAddress>) -> Result<(), Failure> {
    let before = session.plan.config().web.listen;
    let listen = choice.as_option().map(|PageAddress(listen)| *listen);
    if let Some(listen) = listen {
        if session.plan.is_of_service() && listen.port() < FIRST_FREE_PORT {
            let sentence = format!(
                "the service may not use the port {}: choose one from {FIRST_FREE_PORT} up, such \
                 as 8080",
                listen.port()
            );
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        // A daemon that runs may serve the page at this address.
        if session.is_tested && (before != Some(listen) || !session.devices.are_in_use()) {
            web::test_port(listen)?;
        }
    }
    let listen = listen.map(|listen| listen.to_string());
    session
        .plan
        .change([ConfigEdit::set_or_unset("web", "listen", listen)])
}

fn ask_for_address(session: &mut Session) -> Result<(), Failure> {
    if let Some(dialogue) = &session.dialogue {
        dialogue.say(
            "\nPage\n  On the page, you see what the camera sees, and label face pictures. With the\n  \
             address 0.0.0.0, other devices in your network can open it.",
        );
    }
    while let Some(dialogue) = &session.dialogue {
        let present = session.plan.config().web.listen.unwrap_or(USUAL);
        let answer = dialogue.ask(
            "Address and port of the page, or none",
            &present.to_string(),
        )?;
        let parsed = answer
            .parse()
            .map_err(|problem| Failure::new(Failure::USAGE, problem));
        match parsed.and_then(|choice| set_address(session, choice)) {
            Ok(()) => break,
            Err(failure) => {
                if let Some(dialogue) = &session.dialogue {
                    dialogue.refuse(failure)?;
                }
            }
        }
    }
    Ok(())
}

fn ask_for_password(session: &mut Session) -> Result<(), Failure> {
    let web = &session.plan.config().web;
    let Some(listen) = web.listen else {
        return Ok(());
    };
    let has_password = web.password_hash.is_some();
    // Only users of this device reach a page on the loopback address.
    let needs_one = !has_password && web.token_hashes.is_empty() && !listen.ip().is_loopback();
    while let Some(dialogue) = &session.dialogue {
        if has_password && dialogue.yes("Keep the present password of the page?", true)? {
            return Ok(());
        }
        if !has_password && !needs_one && !dialogue.yes("Set a password for the page?", false)? {
            return Ok(());
        }
        let first = dialogue.secret("Password of the page, at least 8 characters")?;
        // The rules come first, so that a bad password is not typed twice.
        let edit = password_edit(&first).and_then(|edit| {
            if dialogue.secret("Repeat the password")? == first {
                Ok(edit)
            } else {
                Err(Failure::new(Failure::USAGE, "the two passwords differ"))
            }
        });
        match edit {
            Ok(edit) => return session.plan.change([edit]),
            Err(failure) => dialogue.refuse(failure)?,
        }
    }
    Ok(())
}

fn password_edit(password: &str) -> Result<ConfigEdit, Failure> {
    let hash = web::hash_password(password)?;
    Ok(ConfigEdit::set("web", "password-hash", hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_port_and_a_port_no_address() {
        let parse = |text: &str| text.parse::<OrNone<PageAddress>>();
        let all = PageAddress("0.0.0.0:8080".parse().unwrap());
        assert_eq!(parse("8080"), Ok(OrNone::Some(all)));
        assert_eq!(parse("0.0.0.0:8080"), Ok(OrNone::Some(all)));
        let six = PageAddress("[::1]:8080".parse().unwrap());
        assert_eq!(parse("[::1]:8080"), Ok(OrNone::Some(six)));
        assert_eq!(parse("none"), Ok(OrNone::None));
        for text in [
            "",
            "0",
            "127.0.0.1",
            "localhost:8080",
            "127.0.0.1:0",
            "70000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
