//! The state of the board: its temperature, and whether the supply voltage and the clock
//! are at their normal levels.
//! This module knows where the kernel and the firmware of a Raspberry Pi report this
//! state. It does not know which work must wait while a board is too hot. A board that
//! reports nothing is considered healthy.
//!
//! | what | from |
//! |---|---|
//! | temperature | the hottest of the kernel's thermal zones for the processor |
//! | throttling | `get_throttled` from the firmware's driver or, if there is none, from `vcgencmd`; otherwise the alarm of the kernel's `rpi_volt`, which reports only low voltage |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::files;
use super::text_code::TextCode;

/// Number of degrees Celsius by which a hot board must cool below its limit before work
/// resumes. With a smaller value, work would start and stop all the time.
const HYSTERESIS: f32 = 5.0;

/// The state of a board.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BoardStatus {
    /// Temperature of the processor in degrees Celsius, or `None` if the board does not
    /// measure it.
    pub temperature_c: Option<f32>,
    /// The throttling flags, or `None` on boards that do not report them.
    pub throttling: Option<Throttling>,
}

/// The throttling flags of a Raspberry Pi's firmware. They correspond to the bits of
/// [`vcgencmd get_throttled`].
///
/// [`vcgencmd get_throttled`]: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the bits of the firmware's register"
)]
pub struct Throttling {
    /// The supply voltage is currently too low (bit 0).
    pub under_voltage: bool,
    /// The clock frequency is currently capped (bit 1).
    pub frequency_capped: bool,
    /// The processor is currently throttled (bit 2).
    pub throttled: bool,
    /// The processor is currently above its soft temperature limit (bit 3).
    pub soft_limit: bool,
    /// The supply voltage has been too low at some time since the board was switched on
    /// (bit 16).
    pub under_voltage_since_boot: bool,
    /// The processor has been throttled at some time since the board was switched on (bit
    /// 18).
    pub throttled_since_boot: bool,
}

impl Throttling {
    fn from_bits(bits: u32) -> Throttling {
        let bit = |number: u32| bits & (1 << number) != 0;
        Throttling {
            under_voltage: bit(0),
            frequency_capped: bit(1),
            throttled: bit(2),
            soft_limit: bit(3),
            under_voltage_since_boot: bit(16),
            throttled_since_boot: bit(18),
        }
    }

    /// Parses `throttled=0x50005`, the format that `vcgencmd` prints, and `50005`, the
    /// format of the driver. Both numbers are hexadecimal.
    fn parse(text: &str) -> Option<Throttling> {
        let text = text.trim();
        let digits = text.strip_prefix("throttled=").unwrap_or(text);
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        // Check the digits first, because `from_str_radix` would accept a sign.
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = hexadecimal.then(|| u32::from_str_radix(digits, 16));
        Some(Throttling::from_bits(bits?.ok()?))
    }
}

/// The reason that deferrable work must wait.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ThrottleReason {
    /// The power supply may fail under more load.
    #[error("the voltage of the board's supply is too low")]
    UnderVoltage,
    /// The firmware has lowered the clock.
    #[error("the board is throttled")]
    Throttled,
    /// The temperature is above the configured limit.
    #[error("the board is at {temperature_c:.0} °C")]
    Hot {
        /// Temperature of the processor in degrees Celsius.
        temperature_c: f32,
    },
}

impl ThrottleReason {
    /// The machine-readable form of the reason.
    pub(crate) fn code(self) -> TextCode {
        match self {
            ThrottleReason::UnderVoltage => TextCode::new("under-voltage"),
            ThrottleReason::Throttled => TextCode::new("throttled"),
            ThrottleReason::Hot { temperature_c } => {
                TextCode::new("hot").with("celsius", temperature_c.round() as i64)
            }
        }
    }
}

impl BoardStatus {
    /// Returns the reason that deferrable work must wait, or `None` if it can run. Work
    /// must wait while the temperature is above `limit_c`. If work is already waiting
    /// (`waiting`), it continues to wait until the temperature is 5 °C below the limit.
    #[must_use]
    pub fn throttle_reason(&self, limit_c: f32, waiting: bool) -> Option<ThrottleReason> {
        let throttling = self.throttling.unwrap_or_default();
        if throttling.under_voltage {
            return Some(ThrottleReason::UnderVoltage);
        }
        if throttling.throttled {
            return Some(ThrottleReason::Throttled);
        }
        let limit_c = if waiting {
            limit_c - HYSTERESIS
        } else {
            limit_c
        };
        let hot = |temperature_c: &f32| *temperature_c > limit_c;
        let temperature_c = self.temperature_c.filter(hot)?;
        Some(ThrottleReason::Hot { temperature_c })
    }
}

/// Where this board reports its state.
#[derive(Debug)]
pub struct Board {
    /// Files that hold the temperature in thousandths of a degree Celsius.
    zones: Vec<PathBuf>,
    throttle_source: ThrottleSource,
}

/// The source of a Raspberry Pi's throttling flags.
#[derive(Debug)]
enum ThrottleSource {
    /// A file with the firmware's flags.
    Driver(PathBuf),
    /// The firmware's program `vcgencmd`.
    Vcgencmd,
    /// A file that is 1 while the voltage is too low.
    Alarm(PathBuf),
    /// The board does not report throttling.
    None,
}

impl Board {
    /// Finds the sources of this board's state.
    #[must_use]
    pub fn find() -> Board {
        Board::under(Path::new("/sys"))
    }

    /// Finds the sources like [`find`](Board::find), but in the folder `sys` instead of
    /// `/sys`.
    fn under(sys: &Path) -> Board {
        let zones = folders(&sys.join("class/thermal"));
        let zones = zones.filter(|zone| {
            // A Raspberry Pi has one zone, `cpu-thermal`; other boards have several.
            let kind = read(&zone.join("type")).unwrap_or_default();
            ["cpu", "soc", "x86_pkg_temp"]
                .iter()
                .any(|part| kind.contains(part))
        });
        let zones = zones.map(|zone| zone.join("temp")).collect();
        let driver = sys.join("devices/platform/soc/soc:firmware/get_throttled");
        let alarm = folders(&sys.join("class/hwmon"))
            .find(|monitor| read(&monitor.join("name")).is_some_and(|name| name == "rpi_volt"));
        let throttle_source = if read(&driver).is_some() {
            ThrottleSource::Driver(driver)
        } else if vcgencmd().is_some() {
            ThrottleSource::Vcgencmd
        } else {
            alarm.map_or(ThrottleSource::None, |monitor| {
                ThrottleSource::Alarm(monitor.join("in0_lcrit_alarm"))
            })
        };
        Board {
            zones,
            throttle_source,
        }
    }

    /// Reads the current state. On a Raspberry Pi without the driver, runs `vcgencmd`.
    #[must_use]
    pub fn status(&self) -> BoardStatus {
        let celsius = |zone: &PathBuf| Some(read(zone)?.parse::<f32>().ok()? / 1000.0);
        let throttling = match &self.throttle_source {
            ThrottleSource::Driver(path) => read(path).and_then(|text| Throttling::parse(&text)),
            ThrottleSource::Vcgencmd => vcgencmd(),
            ThrottleSource::Alarm(path) => read(path).map(|alarm| Throttling {
                under_voltage: alarm == "1",
                ..Throttling::default()
            }),
            ThrottleSource::None => None,
        };
        BoardStatus {
            temperature_c: self.zones.iter().filter_map(celsius).max_by(f32::total_cmp),
            throttling,
        }
    }
}

/// Returns the model of the board, or `None` if the firmware does not report it.
#[must_use]
pub fn model() -> Option<String> {
    let model = read(Path::new("/proc/device-tree/model"))?;
    // The firmware ends the name with a zero byte.
    let model = model.trim_end_matches('\0').trim();
    (!model.is_empty()).then(|| model.to_owned())
}

/// Returns the name of the board. If the firmware does not report one, returns the name of
/// the processor or of its architecture.
#[must_use]
pub fn name() -> String {
    let processor = || {
        let text = read(Path::new("/proc/cpuinfo"))?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let (_, name) = lines.find(|(key, _)| key.trim() == "model name")?;
        Some(name.trim().to_owned())
    };
    model()
        .or_else(processor)
        .unwrap_or_else(|| format!("{} machine", std::env::consts::ARCH))
}

/// Returns the highest clock frequency of the first core in MHz, or `None` if the kernel does
/// not report it.
#[must_use]
pub fn max_mhz() -> Option<u32> {
    let path = "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq";
    Some(read(Path::new(path))?.parse::<u32>().ok()? / 1000)
}

/// Returns the entries in `folder`, sorted by name.
fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn read(path: &Path) -> Option<String> {
    Some(
        files::read_text(path, files::MAX_PROC_BYTES)
            .ok()?
            .trim()
            .to_owned(),
    )
}

fn vcgencmd() -> Option<Throttling> {
    let output = Command::new("vcgencmd")
        .arg("get_throttled")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    Throttling::parse(std::str::from_utf8(&output.stdout).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Creates a board whose kernel files are in a temporary folder.
    fn board(files: &[(&str, &str)]) -> (tempfile::TempDir, Board) {
        let sys = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = sys.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let board = Board::under(sys.path());
        (sys, board)
    }

    const DRIVER: &str = "devices/platform/soc/soc:firmware/get_throttled";

    #[test]
    fn a_pi_says_how_hot_it_is_and_what_its_supply_lacks() {
        let (sys, board) = board(&[
            ("class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("class/thermal/thermal_zone0/temp", "54321\n"),
            (DRIVER, "50005\n"),
        ]);
        let status = board.status();
        assert_eq!(status.temperature_c, Some(54.321));
        let throttling = status.throttling.unwrap();
        assert!(throttling.under_voltage && throttling.throttled);
        assert!(throttling.under_voltage_since_boot && throttling.throttled_since_boot);
        assert!(!throttling.frequency_capped && !throttling.soft_limit);
        assert_eq!(
            status.throttle_reason(75.0, false),
            Some(ThrottleReason::UnderVoltage)
        );

        fs::write(sys.path().join(DRIVER), "50000\n").unwrap();
        let status = board.status();
        assert_eq!(status.throttle_reason(75.0, false), None);
    }

    #[test]
    fn the_hottest_zone_of_the_processor_counts_and_no_other_zone_does() {
        let (_sys, board) = board(&[
            ("class/thermal/thermal_zone0/type", "battery\n"),
            ("class/thermal/thermal_zone0/temp", "99000\n"),
            ("class/thermal/thermal_zone1/type", "cpu0-thermal\n"),
            ("class/thermal/thermal_zone1/temp", "40000\n"),
            ("class/thermal/thermal_zone2/type", "soc-thermal\n"),
            ("class/thermal/thermal_zone2/temp", "41000\n"),
            ("class/thermal/thermal_zone3/type", "cpu1-thermal\n"),
            ("class/thermal/thermal_zone3/temp", "nonsense\n"),
        ]);
        assert_eq!(board.status().temperature_c, Some(41.0));
    }

    #[test]
    fn an_alarm_of_the_voltage_is_heard() {
        let alarm = "class/hwmon/hwmon1/in0_lcrit_alarm";
        let (sys, board) = board(&[
            ("class/hwmon/hwmon0/name", "cpu_thermal\n"),
            ("class/hwmon/hwmon1/name", "rpi_volt\n"),
            (alarm, "1\n"),
        ]);
        let reason = |board: &Board| board.status().throttle_reason(75.0, false);
        assert_eq!(reason(&board), Some(ThrottleReason::UnderVoltage));
        fs::write(sys.path().join(alarm), "0\n").unwrap();
        assert_eq!(reason(&board), None);
    }

    #[test]
    fn a_board_that_says_nothing_is_well() {
        let (_sys, board) = board(&[]);
        assert_eq!(board.status(), BoardStatus::default());
        assert_eq!(board.status().throttle_reason(30.0, false), None);
    }

    #[test]
    fn a_hot_board_waits_until_it_has_cooled_down() {
        let at = |temperature_c| BoardStatus {
            temperature_c: Some(temperature_c),
            throttling: None,
        };
        assert_eq!(at(75.0).throttle_reason(75.0, false), None);
        let temperature_c = 75.5;
        let hot = Some(ThrottleReason::Hot { temperature_c });
        assert_eq!(at(temperature_c).throttle_reason(75.0, false), hot);
        assert!(at(70.5).throttle_reason(75.0, true).is_some());
        assert_eq!(at(70.0).throttle_reason(75.0, true), None);
    }

    proptest! {
        #[test]
        fn bits_are_read_as_they_are_printed(bits in any::<u32>(), noise in "\\PC{0,12}") {
            let expected = Throttling::from_bits(bits);
            prop_assert_eq!(Throttling::parse(&format!("throttled=0x{bits:x}\n")), Some(expected));
            prop_assert_eq!(Throttling::parse(&format!("{bits:x}\n")), Some(expected));
            let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
            if !hex(noise.trim()) {
                prop_assert_eq!(Throttling::parse(&format!("-{noise}")), None);
            }
        }
    }
}
