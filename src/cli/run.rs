//! `maskd run`, which runs the daemon.

use std::io::IsTerminal;

use clap::Args;

use super::{Failure, Global};
use crate::daemon;
use crate::indicate::{Console, ConsoleStyle};

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Source of the frames, instead of the configured one: "examples", a
    /// picture, a folder, http://…, or "exec:COMMAND ARG …" for a program that
    /// writes MJPEG to its standard output
    #[arg(long, value_name = "SPEC")]
    source: Option<String>,

    /// Pictures per second, if the source is a picture or a folder
    #[arg(long, value_name = "PICTURES", allow_negative_numbers = true)]
    rate: Option<f32>,

    /// Stop at the end of the pictures or of the video
    #[arg(long)]
    once: bool,

    /// Print a JSON object each time the decision changes
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn style(&self) -> ConsoleStyle {
        if self.json {
            ConsoleStyle::Json
        } else if std::io::stdout().is_terminal() {
            ConsoleStyle::Live
        } else {
            ConsoleStyle::Lines
        }
    }

    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let style = self.style();
        let mut config = global.load_config()?;
        let file = global.config_file().map(|path| daemon::ConfigFile {
            path,
            config: config.clone(),
        });
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
        // The config file was checked when it was loaded. The config is checked again
        // here because the command-line options have changed it.
        if let Some(problem) = config.check().first() {
            return Err(Failure::new(Failure::USAGE, problem));
        }
        let state = global.daemon_state(&config)?;
        Ok(daemon::run(&config, Console::new(style), state, file)?)
    }
}
