//! The state of the board, as shown by the API.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::platform::board::{BoardStatus, Throttling};

/// The state of the board. This format is stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoardRecord {
    /// Processor temperature in degrees Celsius; absent if the board has no sensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f32>,
    /// The throttling flags; absent on boards that do not report them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttling: Option<ThrottlingRecord>,
}

/// The throttling flags from a Raspberry Pi's firmware. This format is stable. The bit
/// numbers are those of [`vcgencmd get_throttled`].
///
/// [`vcgencmd get_throttled`]: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the bits of the firmware's register"
)]
pub struct ThrottlingRecord {
    /// Whether the supply voltage is too low now (bit 0).
    pub under_voltage: bool,
    /// Whether the clock frequency is capped now (bit 1).
    pub frequency_capped: bool,
    /// Whether the processor is throttled now (bit 2).
    pub throttled: bool,
    /// Whether the processor temperature is above its soft limit now (bit 3).
    pub soft_limit: bool,
    /// Whether the supply voltage has been too low at any time since boot (bit 16).
    pub under_voltage_since_boot: bool,
    /// Whether the processor has been throttled at any time since boot (bit 18).
    pub throttled_since_boot: bool,
}

impl From<BoardStatus> for BoardRecord {
    fn from(status: BoardStatus) -> BoardRecord {
        BoardRecord {
            temperature_c: status.temperature_c,
            throttling: status.throttling.map(ThrottlingRecord::from),
        }
    }
}

impl From<Throttling> for ThrottlingRecord {
    fn from(throttling: Throttling) -> ThrottlingRecord {
        ThrottlingRecord {
            under_voltage: throttling.under_voltage,
            frequency_capped: throttling.frequency_capped,
            throttled: throttling.throttled,
            soft_limit: throttling.soft_limit,
            under_voltage_since_boot: throttling.under_voltage_since_boot,
            throttled_since_boot: throttling.throttled_since_boot,
        }
    }
}

impl fmt::Display for BoardRecord {
    /// Describes the state in words, such as `54 °C, supply and clock are fine`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.temperature_c {
            Some(temperature_c) => write!(f, "{temperature_c:.0} °C")?,
            None => f.write_str("temperature unknown")?,
        }
        let Some(throttling) = self.throttling else {
            return Ok(());
        };
        let now = [
            (throttling.under_voltage, "supply voltage too low"),
            (throttling.throttled, "throttled"),
            (throttling.frequency_capped, "clock capped"),
            (throttling.soft_limit, "above the soft temperature limit"),
        ];
        let now: Vec<&str> = now
            .iter()
            .filter_map(|(holds, words)| holds.then_some(*words))
            .collect();
        if now.is_empty() {
            f.write_str(", supply and clock are fine")?;
        } else {
            write!(f, ", {}", now.join(", "))?;
        }
        if throttling.under_voltage_since_boot && !throttling.under_voltage {
            f.write_str(" (the supply voltage was too low since it was switched on)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_described_in_words() {
        let status = BoardStatus {
            temperature_c: Some(54.2),
            throttling: Some(Throttling {
                under_voltage_since_boot: true,
                ..Throttling::default()
            }),
        };
        assert_eq!(
            BoardRecord::from(status).to_string(),
            "54 °C, supply and clock are fine \
             (the supply voltage was too low since it was switched on)"
        );
        assert_eq!(BoardRecord::default().to_string(), "temperature unknown");
    }
}
