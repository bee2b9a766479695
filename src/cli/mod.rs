//! The command line: subcommands, logs, exit codes.
//!
//! Owns what a user types and reads. Every failure ends here as one sentence on
//! standard error and an exit code of `sysexits.h`.

mod backend;
mod bench;
mod check;
mod classify;
mod eval;
mod interrupt;
mod learn;
mod logs;
mod outcome;
mod output;
mod passwd;
mod pictures;
mod progress;
mod train;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::api::socket;
use crate::api::web::{self, WebError};
use crate::camera::SourceError;
use crate::config::{self, Config, ConfigError, RenamedKey};
use crate::daemon::{self, DaemonError, StateDir};
use crate::indicate::pins::{self, PinError};
use crate::indicate::{Console, ConsoleStyle};
use crate::learning::fleet::{Key, KeyError};
use crate::learning::head_in_use;
use crate::onnx::{ModelError, to_hex};
use crate::vision::head::Head;
use crate::vision::pipeline::PipelineError;

/// The config that is read when `--config` names none and this one exists.
const SYSTEM_CONFIG: &str = "/etc/maskd/maskd.toml";

/// The service's state directory, which its user owns.
const SERVICE_STATE: &str = "/var/lib/maskd";

/// The service's runtime directory, which is there while it runs.
const SERVICE_RUNTIME: &str = "/run/maskd";

/// Finds the faces in camera frames, tells for each whether it wears a mask,
/// and drives lamps and a buzzer.
#[derive(Debug, Parser)]
#[command(name = "maskd", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 64 wrong usage, 65 bad data (a picture, a model), 66 no such input, \
69 a camera or the daemon is not available, 70 internal error, 74 cannot write, 75 interrupted, \
or busy: try again, 78 bad config.";

#[derive(Debug, Args)]
struct Global {
    /// Config file [default: /etc/maskd/maskd.toml if it exists, else the
    /// defaults of config/maskd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// State directory [default: /var/lib/maskd for the service and for whoever
    /// may use its socket, else maskd in the XDG state folder]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,

    /// What to log to standard error: a level, or a filter such as
    /// maskd=debug,warn [default: info for run, else warn]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch a source and show decisions: the daemon
    ///
    /// Runs until SIGINT or SIGTERM, or until a source ends that does not start
    /// again. Without hardware, decisions are shown on the console.
    Run(Run),
    /// Classify pictures once
    Classify(classify::Classify),
    /// Train a classifier on a folder of pictures
    Train(Box<train::Train>),
    /// Judge a model on a data set, or all of maskd on photographs
    Eval(eval::Eval),
    /// Show what the daemon is doing, and what there is to learn from
    ///
    /// Without a daemon: what the state directory holds, and exit code 69.
    Status(learn::Status),
    /// Label captured samples, or delete them
    Label(learn::Label),
    /// Have the daemon learn who stands before the camera now
    ///
    /// Crops are taken with the label until there are enough. Exit code 75 if
    /// fewer came within the time; what came is kept.
    Enroll(learn::Enroll),
    /// List, count, copy and delete samples
    #[command(subcommand)]
    Samples(learn::Samples),
    /// Learn a new head from the labelled samples
    ///
    /// It comes into use only if it passes the gate: clearly better on samples
    /// that it has not learned from, without forgetting. Exit code 0 either way.
    Refit(learn::Refit),
    /// List, show and copy heads
    #[command(subcommand)]
    Heads(learn::HeadsCommand),
    /// Go back to the head before the one in use
    Rollback(learn::Rollback),
    /// Learn from other devices by the broker they share
    #[command(subcommand)]
    Fleet(Fleet),
    /// Check the config and the models, and say what hardware there is
    Check,
    /// Make the hash of a password, or a token, for the page
    ///
    /// Reads the password from the terminal without showing it, or a line from
    /// standard input. The hash is for web.password-hash.
    Passwd(passwd::Passwd),
    /// Print the description of the HTTP API, for programs: OpenAPI as JSON
    Openapi,
    /// Switch the outputs off, for when a daemon ended without doing so
    ///
    /// The service does it whatever way it ends (ExecStopPost=).
    PinsOff,
    /// Measure load time, time per stage, frames per second and memory
    Bench(bench::Bench),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for every subcommand
    Man {
        /// Write maskd.1, maskd-run.1 and so on into this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Fleet {
    /// Print the public key of this device, for fleet.trust of the others
    ///
    /// It is made when it is first asked for, and lies in the state directory.
    Key,
}

#[derive(Debug, Args)]
struct Run {
    /// Where frames come from, in place of the config's: "examples", a picture,
    /// a folder, http://…, or "exec:COMMAND ARG …" for a program that writes
    /// MJPEG to its standard output
    #[arg(long, value_name = "SPEC")]
    source: Option<String>,

    /// Pictures a second, for pictures and folders
    #[arg(long, value_name = "PICTURES", allow_negative_numbers = true)]
    rate: Option<f32>,

    /// Stop at the end of the pictures or of the video
    #[arg(long)]
    once: bool,

    /// Print a JSON object for each change of the decision
    #[arg(long)]
    json: bool,
}

/// Why a command did not do what it was asked: the sentence, and the exit code
/// by `sysexits.h`.
#[derive(Debug)]
struct Failure {
    exit: u8,
    sentence: String,
}

impl Failure {
    const USAGE: u8 = 64;
    const DATA: u8 = 65;
    const NO_INPUT: u8 = 66;
    const UNAVAILABLE: u8 = 69;
    const INTERNAL: u8 = 70;
    const CANNOT_WRITE: u8 = 74;
    const TEMPORARY: u8 = 75;
    const CONFIG: u8 = 78;

    fn new(exit: u8, sentence: impl std::fmt::Display) -> Failure {
        Failure {
            exit,
            sentence: sentence.to_string(),
        }
    }

    /// Standard output is gone or full. A reader that has seen enough, such as
    /// `head`, is no failure worth a word.
    fn output(error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure {
                exit: 0,
                sentence: String::new(),
            };
        }
        Failure::new(
            Self::CANNOT_WRITE,
            format!("cannot write to standard output: {error}"),
        )
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Failure::CONFIG, error)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        let exit = match error {
            ModelError::Read { .. } => Failure::NO_INPUT,
            ModelError::Run { .. } => Failure::INTERNAL,
            ModelError::TooLarge { .. }
            | ModelError::NotOnnx { .. }
            | ModelError::Unexpected { .. } => Failure::DATA,
        };
        Failure::new(exit, error)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        let exit = match &error {
            SourceError::Spec(_) => Failure::CONFIG,
            error if error.is_missing_input() => Failure::NO_INPUT,
            _ => Failure::UNAVAILABLE,
        };
        Failure::new(exit, error)
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Failure {
        match error {
            PipelineError::Model(error) => error.into(),
            PipelineError::Picture(_) => Failure::new(Failure::DATA, error),
        }
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Failure {
        Failure::new(Failure::UNAVAILABLE, error)
    }
}

impl From<WebError> for Failure {
    fn from(error: WebError) -> Failure {
        let exit = match error {
            WebError::Random(_) => Failure::INTERNAL,
            WebError::Password(_) => Failure::USAGE,
            _ => Failure::CONFIG,
        };
        Failure::new(exit, error)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        match error {
            DaemonError::Model(error) => error.into(),
            DaemonError::Source(error) => error.into(),
            DaemonError::Pipeline(error) => error.into(),
            DaemonError::Labels(_) => Failure::new(Failure::CONFIG, error),
            DaemonError::Pins(error) => error.into(),
            DaemonError::Web(error) => error.into(),
            DaemonError::Learning(ref problem) => {
                let busy = problem.is_busy();
                let exit = if busy {
                    Failure::TEMPORARY
                } else {
                    Failure::CANNOT_WRITE
                };
                Failure::new(exit, error)
            }
            // Whoever closes it, a daemon that shows nothing has failed.
            DaemonError::Console(_) => Failure::new(Failure::CANNOT_WRITE, error),
            DaemonError::System(_) | DaemonError::Panicked(_) => {
                Failure::new(Failure::INTERNAL, error)
            }
        }
    }
}

/// Runs what the command line says; the whole of the binary.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to standard output.
            let is_usage = error.use_stderr();
            let printed = error.print();
            return match (is_usage, printed) {
                (false, Ok(())) => ExitCode::SUCCESS,
                (false, Err(error)) => Failure::output(&error).exit.into(),
                (true, _) => Failure::USAGE.into(),
            };
        }
    };
    let outcome = std::panic::catch_unwind(|| run(cli));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Failure { exit, sentence })) => {
            if !sentence.is_empty() {
                complain(&sentence);
            }
            exit.into()
        }
        // The panic hook has told what happened.
        Err(_) => Failure::INTERNAL.into(),
    }
}

/// One sentence on standard error; nothing helps if that is closed.
fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "maskd: {sentence}");
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, global } = cli;
    let live = matches!(&command, Command::Run(run) if run.style() == ConsoleStyle::Live);
    // On a live console the line itself shows what happens.
    let quiet = live || !matches!(command, Command::Run(_));
    logs::start(global.log.as_deref(), quiet, live)?;
    match command {
        Command::Run(run) => run.run(&global),
        Command::Classify(classify) => classify.run(&global),
        Command::Train(train) => train.run(&global.load_config()?),
        Command::Eval(eval) => eval.run(&global),
        Command::Status(status) => status.run(&global),
        Command::Label(label) => label.run(&global),
        Command::Enroll(enroll) => enroll.run(&global),
        Command::Samples(samples) => samples.run(&global),
        Command::Refit(refit) => refit.run(&global),
        Command::Heads(heads) => heads.run(&global),
        Command::Rollback(rollback) => rollback.run(&global),
        Command::Fleet(Fleet::Key) => fleet_key(&global),
        Command::Check => check::check(&global),
        Command::Passwd(passwd) => passwd.run(),
        Command::Openapi => print(web::description().as_bytes()),
        Command::PinsOff => pins_off(&global.load_config()?),
        Command::Bench(bench) => bench.run(&global.load_config()?),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "maskd", &mut text);
            print(&text)
        }
        Command::Man { out } => man(out.as_deref()),
    }
}

impl Run {
    fn style(&self) -> ConsoleStyle {
        if self.json {
            ConsoleStyle::Json
        } else if std::io::stdout().is_terminal() {
            ConsoleStyle::Live
        } else {
            ConsoleStyle::Lines
        }
    }

    fn run(self, global: &Global) -> Result<(), Failure> {
        let style = self.style();
        let mut config = global.load_config()?;
        let Run {
            source,
            rate,
            once,
            json: _,
        } = self;
        if let Some(source) = source {
            config.camera.source = source;
        }
        if let Some(rate) = rate {
            config.camera.playback_fps = rate;
        }
        config.camera.repeat &= !once;
        // What the file says was checked when it was read.
        if let Some(problem) = config.check().first() {
            return Err(Failure::new(Failure::USAGE, problem));
        }
        let state = global.daemon_state(&config)?;
        let file = global.config_file().map(Path::to_owned);
        Ok(daemon::run(&config, Console::new(style), state, file)?)
    }
}

impl Global {
    /// The config file that applies, if any.
    fn config_file(&self) -> Option<&Path> {
        let system = Path::new(SYSTEM_CONFIG);
        let is_there = system.try_exists().unwrap_or(true);
        self.config
            .as_deref()
            .or_else(|| is_there.then_some(system))
    }

    fn load_config(&self) -> Result<Config, ConfigError> {
        let (config, renamed) = self.load_config_with_renames()?;
        for key in renamed {
            tracing::warn!("{key}");
        }
        Ok(config)
    }

    /// The config, and the keys that its file gives by an old name.
    fn load_config_with_renames(&self) -> Result<(Config, Vec<RenamedKey>), ConfigError> {
        self.config_file()
            .map_or_else(|| Ok((Config::default(), Vec::new())), config::load)
    }

    /// The head in use by the state directory that `--state` names, if it is
    /// given; `base` is that of the config.
    fn learned_head(&self, base: &Head) -> Result<Option<Arc<Head>>, Failure> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        if !state.is_dir() {
            let sentence = format!("there is no state directory {}", state.display());
            return Err(Failure::new(Failure::NO_INPUT, sentence));
        }
        let in_use = head_in_use(state, &Arc::new(base.clone()))?;
        if let Some(note) = &in_use.note {
            complain(note);
        }
        Ok(Some(in_use.head))
    }

    /// The state directory of a daemon: one that was named; or the usual one, if
    /// it is there or the config wants crops to be kept.
    fn daemon_state(&self, config: &Config) -> Result<Option<StateDir>, Failure> {
        if self.state.is_some() || std::env::var_os("STATE_DIRECTORY").is_some() {
            return Ok(Some(StateDir::Named(self.state_dir()?)));
        }
        if config.capture.enabled || config.fleet != config::Fleet::default() {
            return Ok(Some(StateDir::Usual(self.state_dir()?)));
        }
        let usual = self.state_dir().ok().filter(|state| state.is_dir());
        Ok(usual.map(StateDir::Usual))
    }

    /// The state directory: the named one; of the service, the one that systemd
    /// names or the service's user owns; else one of the user's own.
    fn state_dir(&self) -> Result<PathBuf, Failure> {
        use etcetera::BaseStrategy;
        use std::os::unix::fs::MetadataExt;
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        if let Some(state) = std::env::var_os("STATE_DIRECTORY") {
            return Ok(state.into());
        }
        let user = rustix::process::geteuid();
        let service = Path::new(SERVICE_STATE);
        let owner = service.metadata().map(|folder| folder.uid());
        // Root has to ask the service: what it wrote itself, the service's user
        // could not change. So may whoever is in its group.
        let is_running = Path::new(SERVICE_RUNTIME).join(socket::SOCKET).exists();
        if is_running || !user.is_root() && owner.is_ok_and(|owner| owner == user.as_raw()) {
            return Ok(service.to_owned());
        }
        let home = etcetera::choose_base_strategy().ok();
        let state = home
            .and_then(|home| home.state_dir())
            .map(|state| state.join("maskd"));
        state.ok_or_else(|| {
            Failure::new(
                Failure::USAGE,
                "there is no home directory: name one by --state DIR",
            )
        })
    }
}

/// The socket of the daemon of a state directory. Only the service itself is told
/// its runtime directory; whoever asks it has to know.
fn socket_path(config: &Config, state: &Path) -> PathBuf {
    let service = Path::new(SERVICE_RUNTIME);
    let is_service = state == Path::new(SERVICE_STATE) && service.is_dir();
    let runtime = std::env::var_os("RUNTIME_DIRECTORY");
    let runtime = runtime.or_else(|| is_service.then(|| service.into()));
    socket::socket_path(config.control.socket.as_deref(), runtime.as_deref(), state)
}

fn fleet_key(global: &Global) -> Result<(), Failure> {
    let key = Key::open(&global.state_dir()?).map_err(|error| {
        let exit = match error {
            KeyError::Damaged { .. } => Failure::DATA,
            KeyError::Io { .. } => Failure::CANNOT_WRITE,
        };
        Failure::new(exit, error)
    })?;
    print(format!("{}\n", to_hex(&key.public())).as_bytes())
}

fn pins_off(config: &Config) -> Result<(), Failure> {
    if let Some(options) = config.indicate.pins(pins::is_pi()) {
        // To take hold of them is to switch them off; so is to let go.
        drop(pins::open(&options)?);
    }
    Ok(())
}

/// Writes to standard output.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    written.map_err(|error| Failure::output(&error))
}

fn man(out: Option<&Path>) -> Result<(), Failure> {
    let command = Cli::command();
    let Some(folder) = out else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.map_err(|error| Failure::output(&error))?;
        return print(&page);
    };
    let written =
        std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    written.map_err(|error| {
        let folder = folder.display();
        Failure::new(
            Failure::CANNOT_WRITE,
            format!("cannot write to {folder}: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn state_may_stand_before_and_after_the_subcommand() {
        for line in [
            ["maskd", "--state", "s", "check"],
            ["maskd", "check", "--state", "s"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.state_dir().unwrap(), Path::new("s"));
        }
    }
}
