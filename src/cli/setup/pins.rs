//! The step for the LEDs, the buzzer, and the relay: asks for their pins, and switches each of
//! them on, so that the user can tell whether the right one is on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use toml_edit::{Array, Value};

use super::dialogue::Dialogue;
use super::{OrNone, Session};
use crate::cli::Failure;
use crate::cli::global::SERVICE_RUNTIME;
use crate::cli::text::document;
use crate::config::Indicate;
use crate::config::edit::ConfigEdit;
use crate::indicate::Levels;
use crate::indicate::pins::{self, Line, Output, PinFunction, PinOptions, Pins, PinsInUse};

/// Something that a pin switches.
struct Part {
    output: Output,
    /// The key of the pin in the config.
    key: &'static str,
    name: &'static str,
    /// The GPIO number in the drawing of the wiring, if most devices have this part.
    usual: Option<u32>,
    /// Asks whether the part is on.
    is_on: &'static str,
}

/// The parts, in the order of the options.
const PARTS: [Part; 4] = [
    Part {
        output: Output::Green,
        key: "green-pin",
        name: "green LED",
        usual: Some(17),
        is_on: "Is the green LED on?",
    },
    Part {
        output: Output::Red,
        key: "red-pin",
        name: "red LED",
        usual: Some(27),
        is_on: "Is the red LED on?",
    },
    Part {
        output: Output::Buzzer,
        key: "buzzer-pin",
        name: "buzzer",
        usual: None,
        is_on: "Does the buzzer sound?",
    },
    Part {
        output: Output::Relay,
        key: "relay-pin",
        name: "relay of the door",
        usual: None,
        is_on: "Is the relay on?",
    },
];

impl Part {
    fn pin<'a>(&self, indicate: &'a Indicate) -> Option<&'a Line> {
        match self.output {
            Output::Green => indicate.green_pin.as_ref(),
            Output::Red => indicate.red_pin.as_ref(),
            Output::Buzzer => indicate.buzzer_pin.as_ref(),
            Output::Relay => indicate.relay_pin.as_ref(),
        }
    }

    /// The levels with only this part on.
    fn on(&self) -> Levels {
        let off = Levels::default();
        match self.output {
            Output::Green => Levels { green: true, ..off },
            Output::Red => Levels { red: true, ..off },
            Output::Buzzer => Levels {
                buzzer: true,
                ..off
            },
            Output::Relay => Levels {
                relay: Some(true),
                ..off
            },
        }
    }

    fn edit(&self, pin: Option<&Line>) -> ConfigEdit {
        let value = pin.map(|line| match line {
            Line::Number(number) => Value::from(i64::from(*number)),
            Line::Name(name) => Value::from(name.as_str()),
        });
        ConfigEdit::set_or_unset("indicate", self.key, value)
    }
}

/// Outputs, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outputs(Vec<Output>);

impl FromStr for Outputs {
    type Err = String;

    fn from_str(text: &str) -> Result<Outputs, String> {
        let output = |word: &str| {
            let found = PARTS
                .iter()
                .find(|part| name_of(part.output) == word.trim());
            found.map(|part| part.output).ok_or_else(|| {
                format!("{word:?} is no output: use green, red, buzzer, and relay, or none")
            })
        };
        text.split(',')
            .map(output)
            .collect::<Result<_, _>>()
            .map(Outputs)
    }
}

/// Returns the name of an output in the config.
fn name_of(output: Output) -> &'static str {
    match output {
        Output::Green => "green",
        Output::Red => "red",
        Output::Buzzer => "buzzer",
        Output::Relay => "relay",
    }
}

fn active_low_edit(outputs: &[Output]) -> ConfigEdit {
    let names: Array = outputs.iter().map(|output| name_of(*output)).collect();
    // The config does not write out its defaults.
    let names = Some(names).filter(|names| !names.is_empty());
    ConfigEdit::set_or_unset("indicate", "active-low", names)
}

/// Sets the pins to `choices`, which are in the order of [`PARTS`], or asks for them.
pub(super) fn step(
    session: &mut Session,
    choices: [Option<&OrNone<Line>>; 4],
    active_low: Option<&OrNone<Outputs>>,
) -> Result<(), Failure> {
    let chosen = PARTS.iter().zip(choices);
    let mut edits: Vec<ConfigEdit> = chosen
        .filter_map(|(part, choice)| Some(part.edit(choice?.as_option())))
        .collect();
    edits.extend(active_low.map(|outputs| {
        let outputs = outputs.as_option().map(|Outputs(outputs)| &outputs[..]);
        active_low_edit(outputs.unwrap_or_default())
    }));
    if !edits.is_empty() {
        session.plan.change(edits)?;
        return test_without_asking(session);
    }
    let Some(dialogue) = &session.dialogue else {
        return Ok(());
    };
    dialogue.say("\nLEDs, buzzer, and relay");
    let is_used = session.plan.config().indicate.has_pins() || pins::is_pi();
    if !dialogue.yes("Are LEDs, a buzzer, or a relay connected?", is_used)? {
        return session
            .plan
            .change(PARTS.iter().map(|part| part.edit(None)));
    }
    dialogue.say(&format!(
        "  Pins have GPIO numbers, which are not their positions in the header. Both are in\n  \
         {}.\n  Answer \"none\" for a part that is not connected.",
        document("HARDWARE.md")
    ));
    // The numbers in the drawing are only for an owner who starts.
    let is_new = !session.plan.config().indicate.has_pins();
    for part in &PARTS {
        let usual = part.usual.filter(|_| is_new).map(Line::Number);
        ask(session, part, usual.as_ref())?;
    }
    if session.plan.config().indicate.pins(pins::is_pi()).is_none() {
        session.say(NOT_DRIVEN)?;
    }
    Ok(())
}

const NOT_DRIVEN: &str = "  The pins are not tested: maskd drives no pins on this machine, and \
                          shows the decision on the console.";

/// Checks that the pins can be used. Their outputs are off during the test.
fn test_without_asking(session: &Session) -> Result<(), Failure> {
    let indicate = &session.plan.config().indicate;
    if !session.is_tested || !indicate.has_pins() {
        return Ok(());
    }
    let Some(options) = indicate.pins(pins::is_pi()) else {
        return session.say(NOT_DRIVEN);
    };
    session.devices.free()?;
    drop(pins::open(&options)?);
    session.say(&format!(
        "  The pins can be used: {}.",
        pins::describe(&options)?
    ))
}

/// Asks for the pin of a part until its test succeeds, or until the user gives up. `usual` is
/// offered if no pin is configured.
fn ask(session: &mut Session, part: &Part, usual: Option<&Line>) -> Result<(), Failure> {
    loop {
        let Some(dialogue) = &session.dialogue else {
            return Ok(());
        };
        let indicate = &session.plan.config().indicate;
        let default = part.pin(indicate).or(usual);
        let default = default.map_or("none".to_owned(), Line::to_string);
        let answer = dialogue.ask(&format!("GPIO number of the {}", part.name), &default)?;
        let OrNone::Some(line) = or_none(&answer) else {
            return session.plan.change([part.edit(None)]);
        };
        let changed = session.plan.change([part.edit(Some(&line))]);
        let tested = changed.and_then(|()| test(session, part));
        let Some(dialogue) = &session.dialogue else {
            return Ok(());
        };
        match session.unless_interrupted(tested) {
            Ok(true) => return Ok(()),
            Ok(false) => dialogue.say(
                "  Then check the wiring, the direction of the LED, and the number of the pin.",
            ),
            Err(failure) => dialogue.refuse(failure)?,
        }
        session.plan.change([part.edit(None)])?;
    }
}

fn or_none(answer: &str) -> OrNone<Line> {
    // The error type has no values.
    answer.parse().unwrap_or(OrNone::None)
}

/// Switches a part on while the user is asked whether it is on. Returns whether it works. A part
/// that is on while its pin is low is added to `active-low`.
fn test(session: &mut Session, part: &Part) -> Result<bool, Failure> {
    let Some(mut options) = options_of(&session.plan.config().indicate, part) else {
        return Ok(true);
    };
    if !session.is_tested {
        return Ok(true);
    }
    session.devices.free()?;
    let folder = record_folder(session);
    let is_low = {
        let Some(dialogue) = &session.dialogue else {
            return Ok(true);
        };
        let question = "Test the relay now? The door may open.";
        if part.output == Output::Relay && !dialogue.yes(question, false)? {
            return Ok(true);
        }
        if is_on(dialogue, part, &options, folder.clone(), (part.is_on, true))? {
            return Ok(true);
        }
        invert(&mut options);
        let question = "  Its input may work the other way round. Is it on now?";
        if !is_on(dialogue, part, &options, folder, (question, false))? {
            return Ok(false);
        }
        options.lines.iter().any(
            |(_, function)| matches!(function, PinFunction::Out { active_low, .. } if *active_low),
        )
    };
    let mut outputs = session.plan.config().indicate.active_low.clone();
    outputs.retain(|output| *output != part.output);
    outputs.extend(is_low.then_some(part.output));
    session.plan.change([active_low_edit(&outputs)])?;
    Ok(true)
}

/// Switches a part on, asks whether it is on, and switches it off.
fn is_on(
    dialogue: &Dialogue,
    part: &Part,
    options: &PinOptions,
    folder: Option<PathBuf>,
    (question, default): (&str, bool),
) -> Result<bool, Failure> {
    let mut pins = open(options, folder)?;
    pins.set(part.on())?;
    let is_on = dialogue.yes(question, default);
    pins.set(Levels::default())?;
    is_on
}

/// Returns the options for the pin of one part, or `None` if maskd drives no pins.
fn options_of(indicate: &Indicate, part: &Part) -> Option<PinOptions> {
    let mut options = indicate.pins(pins::is_pi())?;
    options.lines.retain(
        |(_, function)| matches!(function, PinFunction::Out { output, .. } if *output == part.output),
    );
    Some(options)
}

fn invert(options: &mut PinOptions) {
    for (_, function) in &mut options.lines {
        if let PinFunction::Out { active_low, .. } = function {
            *active_low = !*active_low;
        }
    }
}

/// Returns the folder for the record of the pins in use, with which `maskd pins-off` switches
/// them off after setup was killed.
fn record_folder(session: &Session) -> Option<PathBuf> {
    let folder = PathBuf::from(SERVICE_RUNTIME);
    let may = session.plan.is_of_service() && rustix::process::geteuid().is_root();
    // A record that is already there is that of a killed daemon, and has all its pins.
    (may && matches!(pins::in_use(&folder), Ok(None))).then_some(folder)
}

fn open(options: &PinOptions, folder: Option<PathBuf>) -> Result<Box<dyn Pins>, Failure> {
    let record = folder.and_then(|folder| PinsInUse::write(&folder, options).ok());
    let pins = pins::open(options)?;
    Ok(match record {
        Some(record) => record.until_dropped(pins),
        None => pins,
    })
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::config::edit::edited;

    #[test]
    fn each_part_has_its_key_its_name_and_its_level() {
        for part in &PARTS {
            let line = Line::Number(5);
            let edits = [part.edit(Some(&line)), active_low_edit(&[part.output])];
            let text = edited(config::SHIPPED, &edits).unwrap();
            let indicate = config::parse("any", &text).unwrap().indicate;
            assert_eq!(part.pin(&indicate), Some(&line), "{part:?}");
            assert_eq!(indicate.active_low, [part.output]);
            assert_ne!(part.on(), Levels::default());
            let outputs: Outputs = name_of(part.output).parse().unwrap();
            assert_eq!(outputs, Outputs(vec![part.output]));
            let without = edited(&text, &[part.edit(None)]).unwrap();
            let indicate = config::parse("any", &without).unwrap().indicate;
            assert_eq!(part.pin(&indicate), None);
        }
    }

    #[test]
    fn only_the_tested_part_is_switched() {
        let text = "[indicate]\nbackend = \"gpiocdev\"\ngreen-pin = 1\nrelay-pin = 4\n\
                    exit-button-pin = 9\nactive-low = [\"relay\"]\n";
        let indicate = config::parse("any", text).unwrap().indicate;
        let [green, _, buzzer, relay] = &PARTS;
        let lines = |part| options_of(&indicate, part).unwrap().lines;
        assert_eq!(lines(green).len(), 1);
        assert_eq!(lines(green)[0].0, Line::Number(1));
        assert!(lines(buzzer).is_empty());
        let mut options = options_of(&indicate, relay).unwrap();
        let out = |active_low| PinFunction::Out {
            output: Output::Relay,
            active_low,
        };
        assert_eq!(options.lines, [(Line::Number(4), out(true))]);
        invert(&mut options);
        assert_eq!(options.lines, [(Line::Number(4), out(false))]);
    }

    #[test]
    fn outputs_and_pins_are_read_from_options() {
        assert_eq!(
            "red, relay".parse(),
            Ok(Outputs(vec![Output::Red, Output::Relay]))
        );
        let refused = "red,blue".parse::<Outputs>().unwrap_err();
        assert!(refused.contains("\"blue\" is no output"), "{refused}");
        assert_eq!(or_none("none"), OrNone::None);
        assert_eq!(or_none("17"), OrNone::Some(Line::Number(17)));
        let name = Line::Name("GPIO17".to_owned());
        assert_eq!(or_none("GPIO17"), OrNone::Some(name));
    }
}
