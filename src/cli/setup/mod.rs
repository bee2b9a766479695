//! `maskd setup`, which takes a new owner from an installed program to a working device. It
//! asks for the camera, the pins, the page, and the broker, tests them, and writes the config.
//!
//! Each part is a step in a file of its own. A step changes only the [`Plan`]. The files are
//! written after the last question. Until then, an interrupted setup leaves everything as it
//! was: the pins are switched off, and a service that was stopped for the tests is started
//! again.

mod broker;
mod camera;
mod devices;
mod dialogue;
mod page;
mod pins;
mod plan;
mod qr_code;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::interrupt::Interrupt;
use super::service::{self, NetworkAccess};
use super::terminal::INTERRUPTED;
use super::{Failure, Global, print, print_bytes};
use crate::api::socket::PageUrl;
use crate::indicate::pins::Line;
use devices::Devices;
use dialogue::Dialogue;
use plan::{Plan, Written};

#[derive(Debug, Args)]
pub(super) struct Setup {
    /// The camera: rpicam, webcam, webcam:NAME, http://…, a folder, or another value of
    /// camera.source
    #[arg(long, value_name = "SPEC")]
    camera: Option<String>,

    /// Save the picture with which the camera is tested to this file, as a JPEG
    #[arg(long, value_name = "FILE")]
    test_picture: Option<PathBuf>,

    /// GPIO number of the green LED, or "none"
    #[arg(long, value_name = "PIN")]
    green_pin: Option<OrNone<Line>>,

    /// GPIO number of the red LED, or "none"
    #[arg(long, value_name = "PIN")]
    red_pin: Option<OrNone<Line>>,

    /// GPIO number of the buzzer, or "none"
    #[arg(long, value_name = "PIN")]
    buzzer_pin: Option<OrNone<Line>>,

    /// GPIO number of the relay that opens the door, or "none"
    #[arg(long, value_name = "PIN")]
    relay_pin: Option<OrNone<Line>>,

    /// Outputs that are on while their pin is low, such as red,relay, or "none"
    #[arg(long, value_name = "OUTPUTS")]
    active_low: Option<OrNone<pins::Outputs>>,

    #[command(flatten)]
    page: page::Flags,

    #[command(flatten)]
    broker: broker::Flags,

    /// Ask nothing: what no option sets stays as it is
    #[arg(short, long)]
    yes: bool,

    /// Write the config without testing the camera, the pins, and the broker
    #[arg(long)]
    no_tests: bool,

    /// Write only the config, and leave the service as it is
    #[arg(long)]
    no_service: bool,
}

/// A value of an option, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrNone<T> {
    None,
    Some(T),
}

impl<T> OrNone<T> {
    fn as_option(&self) -> Option<&T> {
        match self {
            OrNone::None => None,
            OrNone::Some(value) => Some(value),
        }
    }
}

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<OrNone<T>, T::Err> {
        if text == "none" {
            return Ok(OrNone::None);
        }
        text.parse().map(OrNone::Some)
    }
}

/// What the steps share.
struct Session<'a> {
    plan: Plan,
    /// The terminal, or `None` if nothing is asked.
    dialogue: Option<Dialogue<'a>>,
    devices: Devices<'a>,
    interrupt: &'a Interrupt,
    is_tested: bool,
}

impl Session<'_> {
    /// Tells the user something: in the dialogue, or else on standard output.
    fn say(&self, text: &str) -> Result<(), Failure> {
        match &self.dialogue {
            Some(dialogue) => {
                dialogue.say(text);
                Ok(())
            }
            None => print(format!("{text}\n")),
        }
    }

    /// Returns `result` unless a signal was caught.
    fn unless_interrupted<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        if self.interrupt.is_caught() {
            return Err(interrupted());
        }
        result
    }
}

fn interrupted() -> Failure {
    Failure::new(INTERRUPTED, "interrupted: nothing was changed")
}

impl Setup {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let asks = !self.yes && !self.page.takes_input() && io::stdin().is_terminal();
        if !asks && !self.yes && !self.sets_something() {
            let sentence = "there is no terminal on which setup could ask: name what to set, such \
                            as --camera rpicam (\"maskd help setup\" lists all options)";
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        let interrupt = Interrupt::catch_with_hangup()?;
        let plan = Plan::open(global)?;
        let mut session = Session {
            devices: Devices::new(global, &plan, !self.no_service),
            dialogue: asks.then(|| Dialogue::new(&interrupt)),
            is_tested: !self.no_tests,
            interrupt: &interrupt,
            plan,
        };
        self.steps(&mut session)?;
        if let Some(dialogue) = &session.dialogue {
            let question = format!("\nWrite {}?", session.plan.file().display());
            if !dialogue.yes(&question, true)? {
                dialogue.say("Nothing was changed.");
                return Ok(());
            }
        }
        session.unless_interrupted(Ok(()))?;
        // If one of the files cannot be written, the others stay as they were.
        let network = self.allow_network(&session)?;
        let written = session.plan.write().inspect_err(|_| {
            if let Some(NetworkAccess::Given(file)) = &network {
                // Without this file, the service is as it was. An error would hide the first one.
                let _ = std::fs::remove_file(file);
            }
        })?;
        print(match written {
            Written::Changed => format!("wrote {}\n", session.plan.file().display()),
            Written::Unchanged => format!("{} stays as it is\n", session.plan.file().display()),
        })?;
        if let Some(network) = &network {
            print_network(&session, network)?;
        }
        self.apply(&session)?;
        drop(session);
        Ok(())
    }

    fn sets_something(&self) -> bool {
        let pins = [
            &self.green_pin,
            &self.red_pin,
            &self.buzzer_pin,
            &self.relay_pin,
        ];
        self.camera.is_some()
            || self.test_picture.is_some()
            || pins.iter().any(|pin| pin.is_some())
            || self.active_low.is_some()
            || self.page.are_given()
            || self.broker.are_given()
    }

    fn steps(&self, session: &mut Session) -> Result<(), Failure> {
        if let Some(dialogue) = &session.dialogue {
            dialogue.say(&format!(
                "This sets up {}. Press Enter to accept the value in brackets. Ctrl-C leaves\n\
                 everything as it was.",
                session.plan.file().display()
            ));
        }
        camera::step(
            session,
            self.camera.as_deref(),
            self.test_picture.as_deref(),
        )?;
        pins::step(
            session,
            [
                self.green_pin.as_ref(),
                self.red_pin.as_ref(),
                self.buzzer_pin.as_ref(),
                self.relay_pin.as_ref(),
            ],
            self.active_low.as_ref(),
        )?;
        page::step(session, &self.page)?;
        broker::step(session, &self.broker)
    }

    /// Gives the service access to the network if the config needs it.
    fn allow_network(&self, session: &Session) -> Result<Option<NetworkAccess>, Failure> {
        let plan = &session.plan;
        let is_needed =
            plan.is_of_service() && !self.no_service && !plan.config().network_users().is_empty();
        is_needed.then(service::allow_network).transpose()
    }

    /// Applies the written config, and prints the address of the page.
    fn apply(&self, session: &Session) -> Result<(), Failure> {
        let config = session.plan.config();
        let file = session.plan.file().display();
        if session.plan.is_of_service() && !self.no_service {
            apply_to_service(session)?;
        } else if session.devices.has_other_daemon() {
            print("restart the daemon, so that it uses the new config\n")?;
        } else if !self.no_service {
            print(format!("start maskd with: maskd run --config {file}\n"))?;
        }
        let Some(page) = PageUrl::new(&config.web) else {
            return Ok(());
        };
        // "hostname -I" prints the address once there is one.
        let address = page.url().unwrap_or_else(|| page.with_host("ADDRESS"));
        print(format!("the page: {address}\n"))?;
        let code = qr_code::lines(&address).filter(|_| io::stdout().is_terminal());
        code.map_or(Ok(()), |code| print_bytes(code.as_bytes()))
    }
}

/// Prints what was done about the access of the service to the network.
fn print_network(session: &Session, network: &NetworkAccess) -> Result<(), Failure> {
    let users = session.plan.config().network_users().join(" and ");
    match network {
        NetworkAccess::Present => Ok(()),
        NetworkAccess::Given(file) => print(format!(
            "wrote {}, which is needed for {users}\n",
            file.display()
        )),
        NetworkAccess::Refused(file) => print(format!(
            "{} gives no access to the network, which is needed for {users}: remove it, and run \
             setup again\n",
            file.display()
        )),
    }
}

/// Restarts the service.
fn apply_to_service(session: &Session) -> Result<(), Failure> {
    if !service::has_manager() {
        return print(
            "systemd does not run here: apply the config with \"systemctl restart maskd\"\n",
        );
    }
    if let Some(dialogue) = &session.dialogue {
        dialogue.say("The service starts …");
    }
    service::restart()?;
    print("the service runs with this config\n")
}
