//! The record of a switch to another model, and its cause.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The way on which a person requested something. It never identifies the person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// The command line, or another program that uses the control socket.
    CommandLine,
    /// The web page, or another program that uses its API.
    Page,
    /// MQTT.
    Mqtt,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Channel::CommandLine => "on the command line",
            Channel::Page => "on the page",
            Channel::Mqtt => "over MQTT",
        })
    }
}

/// Why another model came into use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchCause {
    /// This device trained the model.
    Refit,
    /// A person imported the model from a file.
    Import,
    /// Another device offered the model.
    Fleet,
    /// A person rolled back.
    Rollback,
    /// A person chose the model by its number.
    Use,
    /// The intended model cannot be used.
    Fallback,
    /// Unknown: maskd found the model in use. Another program has changed the state
    /// directory, maskd was interrupted before it recorded the switch, or the switch is older
    /// than this history.
    Found,
}

/// A switch to another model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchRecord {
    /// Number of the switch, starting at 1. The numbers give the order of the switches, even
    /// if the clock was wrong.
    pub sequence: u64,
    /// The time that the clock showed, in UTC, such as `2026-11-29T08:15:00Z`.
    pub time: String,
    /// Whether the clock was synchronized with a time server. Otherwise, the time may be
    /// wrong.
    pub clock_synchronized: bool,
    /// Number of the model that came into use; 0 is the built-in model.
    pub head: u32,
    /// Number of the model that was in use before; 0 is the built-in model.
    pub before: u32,
    /// Why the model came into use.
    pub cause: SwitchCause,
    /// How a person requested the switch. Absent if maskd switched on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// Why the intended model cannot be used, as a sentence. Absent for every cause except
    /// `fallback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Formats the cause as a phrase.
impl fmt::Display for SwitchRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.cause, &self.note) {
            (SwitchCause::Refit, _) => "trained on this device",
            (SwitchCause::Import, _) => "imported",
            (SwitchCause::Fleet, _) => "offered by another device",
            (SwitchCause::Rollback, _) => "rolled back",
            (SwitchCause::Use, _) => "chosen",
            (SwitchCause::Fallback, Some(note)) => note,
            (SwitchCause::Fallback, None) => "used in place of a model that cannot be used",
            (SwitchCause::Found, _) => "found in use, for an unknown reason",
        })?;
        match self.channel {
            Some(channel) => write!(f, ", requested {channel}"),
            None if self.cause == SwitchCause::Refit => f.write_str(", started automatically"),
            None => Ok(()),
        }
    }
}
