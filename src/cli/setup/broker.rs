//! The step for the MQTT broker: its address and the login.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::{OrNone, Session};
use crate::api::mqtt::{self, BrokerOptions};
use crate::cli::{Failure, service};
use crate::config::Secret;
use crate::config::edit::ConfigEdit;
use crate::daemon;

/// Host of a broker, perhaps with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokerAddress {
    host: String,
    port: Option<u16>,
}

impl FromStr for BrokerAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<BrokerAddress, &'static str> {
        let Some((host, port)) = text.split_once(':') else {
            return Ok(BrokerAddress {
                host: text.to_owned(),
                port: None,
            });
        };
        let port = port
            .parse()
            .map_err(|_| "write a host name or an IPv4 address, such as broker.lan or broker.lan:8883, or none")?;
        Ok(BrokerAddress {
            host: host.to_owned(),
            port: Some(port),
        })
    }
}

/// The options of the command line for the broker.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// MQTT broker, such as broker.lan or broker.lan:8883, or "none"
    #[arg(long, value_name = "HOST")]
    broker: Option<OrNone<BrokerAddress>>,

    /// Encrypt the connection to the broker, which then needs a certificate
    #[arg(long, requires = "broker")]
    broker_tls: bool,

    /// User name for the broker
    #[arg(long, value_name = "NAME", requires = "broker")]
    broker_user: Option<String>,

    /// File that contains the password for the broker
    #[arg(long, value_name = "FILE", requires = "broker_user")]
    broker_password_file: Option<PathBuf>,
}

impl Flags {
    /// Whether any option is given.
    pub(super) fn are_given(&self) -> bool {
        self.broker.is_some()
    }
}

/// Sets the broker to the one that `flags` name, or asks for it.
pub(super) fn step(session: &mut Session, flags: &Flags) -> Result<(), Failure> {
    let Some(broker) = &flags.broker else {
        return ask(session);
    };
    set_address(session, broker.as_option(), flags.broker_tls)?;
    if let Some(user) = flags.broker_user.as_deref() {
        session
            .plan
            .change([ConfigEdit::set("mqtt", "user", user)])?;
    }
    if let Some(file) = &flags.broker_password_file {
        set_password_file(session, file)?;
    }
    test(session)
}

fn set_address(
    session: &mut Session,
    broker: Option<&BrokerAddress>,
    tls: bool,
) -> Result<(), Failure> {
    let port = broker.and_then(|broker| broker.port).map(i64::from);
    let host = broker.map(|broker| broker.host.as_str());
    session.plan.change([
        ConfigEdit::set_or_unset("mqtt", "host", host),
        ConfigEdit::set_or_unset("mqtt", "port", port),
        ConfigEdit::set_or_unset("mqtt", "tls", tls.then_some(true)),
    ])
}

fn set_password_file(session: &mut Session, file: &Path) -> Result<(), Failure> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    if session.plan.is_of_service()
        && let Some(why) = service::why_unreadable(&file)
    {
        let sentence = format!("{} {why}", file.display());
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    let file = file.display().to_string();
    session.plan.change([
        ConfigEdit::set_or_unset("mqtt", "password", None::<String>),
        ConfigEdit::set("mqtt", "password-file", file),
    ])
}

fn ask(session: &mut Session) -> Result<(), Failure> {
    if let Some(dialogue) = &session.dialogue {
        dialogue.say(
            "\nBroker\n  An MQTT broker gets the state of this device, for example for Home Assistant.",
        );
    }
    while session.dialogue.is_some() {
        let answered = ask_once(session);
        let is_set = matches!(answered, Ok(true));
        let tested = answered.and_then(|_| test(session));
        let Some(dialogue) = &session.dialogue else {
            return tested;
        };
        match session.unless_interrupted(tested) {
            Ok(()) => return Ok(()),
            Err(failure) => dialogue.refuse(failure)?,
        }
        if is_set && dialogue.yes("Use this broker anyway?", false)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Asks for the broker and the login. Returns whether there is a broker.
fn ask_once(session: &mut Session) -> Result<bool, Failure> {
    let Some(dialogue) = &session.dialogue else {
        return Ok(false);
    };
    let mqtt = &session.plan.config().mqtt;
    let present = match (&mqtt.host, mqtt.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.clone(),
        (None, _) => "none".to_owned(),
    };
    let answer = dialogue.ask("Host name or address of the broker, or none", &present)?;
    let broker: OrNone<BrokerAddress> = answer
        .parse()
        .map_err(|problem| Failure::new(Failure::USAGE, problem))?;
    let Some(broker) = broker.as_option() else {
        // Without a broker, the other keys have no effect.
        let none = ConfigEdit::set_or_unset("mqtt", "host", None::<String>);
        session.plan.change([none])?;
        return Ok(false);
    };
    let tls = dialogue.yes("Is the connection encrypted (TLS)?", mqtt.tls)?;
    let user = dialogue.ask("User name", mqtt.user.as_deref().unwrap_or("none"))?;
    let user = Some(user).filter(|user| user != "none");
    let password = match user {
        Some(_) => Some(dialogue.secret("Password (Enter keeps the present one)")?),
        None => None,
    };
    let password = password.filter(|password| !password.is_empty());
    set_address(session, Some(broker), tls)?;
    let mut login = vec![ConfigEdit::set_or_unset("mqtt", "user", user.as_deref())];
    if user.is_none() {
        // A password without a user is a mistake.
        let keys = ["password", "password-file"];
        login.extend(keys.map(|key| ConfigEdit::set_or_unset("mqtt", key, None::<String>)));
    }
    session.plan.change(login)?;
    session.plan.set_broker_password(password)?;
    Ok(true)
}

/// Connects to the planned broker.
fn test(session: &Session) -> Result<(), Failure> {
    if !session.is_tested || session.plan.config().mqtt.host.is_none() {
        return Ok(());
    }
    let mut config = session.plan.config().clone();
    if let Some(password) = session.plan.broker_password() {
        // The file with the password is not written yet.
        config.mqtt.password = Some(Secret(password.to_owned()));
        config.mqtt.password_file = None;
    }
    let unavailable = |error| Failure::new(Failure::UNAVAILABLE, error);
    let options = BrokerOptions::from_config(&config, None, &daemon::machine());
    let options = options.map_err(|error| Failure::new(Failure::NO_INPUT, error))?;
    let Some(options) = options else {
        return Ok(());
    };
    mqtt::test_connection(&options).map_err(unavailable)?;
    session.say(&format!(
        "  {} accepts the login as {}.",
        options.broker(),
        options.device()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_may_have_a_port() {
        let parse = |text: &str| text.parse::<OrNone<BrokerAddress>>();
        let broker = |host: &str, port| {
            Ok(OrNone::Some(BrokerAddress {
                host: host.to_owned(),
                port,
            }))
        };
        assert_eq!(parse("broker.lan"), broker("broker.lan", None));
        assert_eq!(parse("10.0.0.2:8883"), broker("10.0.0.2", Some(8883)));
        assert_eq!(parse("none"), Ok(OrNone::None));
        assert!(parse("broker.lan:mqtt").is_err());
        assert!(parse("mqtt://broker.lan").is_err());
    }
}
