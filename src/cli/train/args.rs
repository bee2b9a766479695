//! The options of `maskd train`, with their defaults, checks, and output files.

use std::path::{Path, PathBuf};

use clap::Args;
use image::ImageFormat;

use crate::cli::Failure;
use crate::cli::output::{SMALL_FILE, can_write, is_same_file, with_suffix};
use crate::learning::replay;
use crate::onnx::{FEATURES, MAX_FEATURES, MAX_MODEL_BYTES};
use crate::training::augment::{Fill, Geometry, Robust};
use crate::training::recipe::Recipe;
use crate::training::report::PlotFormat;
use crate::training::run::Checkpoint;
use crate::vision::pipeline::SHIPPED_CLASSIFIER;

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a command-line switch"
)]
pub(in crate::cli) struct Train {
    /// Folder with one subfolder of pictures per class; the names of the subfolders
    /// become the labels
    #[arg(long, value_name = "DIR")]
    pub(super) dataset: PathBuf,

    /// Folder with validation pictures, organized in the same way [default: use a
    /// fifth of the data set]
    #[arg(long, value_name = "DIR")]
    pub(super) val: Option<PathBuf>,

    /// Write the model, which consists of backbone and head, to this ONNX file
    #[arg(long, value_name = "FILE")]
    pub(super) model: Option<PathBuf>,

    /// Write a replay set to this file: features of training pictures that keep training on
    /// a device from forgetting them; name the file in the device's configuration
    /// (models.replay)
    #[arg(long, value_name = "FILE")]
    pub(super) replay: Option<PathBuf>,

    /// Use the backbone in this ONNX file, or the backbone of this model, instead of the
    /// built-in one; its input must be RGB pictures of 224 x 224 pixels with values from -1
    /// to 1, and its output a feature vector
    #[arg(long, value_name = "FILE")]
    pub(super) backbone: Option<PathBuf>,

    /// Write the head alone to this ONNX file
    #[arg(long, value_name = "FILE")]
    pub(super) head_only: Option<PathBuf>,

    /// Plot loss and accuracy over the epochs to this PNG or SVG file
    #[arg(long, value_name = "FILE")]
    pub(super) plot: Option<PathBuf>,

    /// Also write the plotted numbers to a file with the name of the plot and .csv
    /// appended
    #[arg(long, requires = "plot")]
    pub(super) history: bool,

    /// Write the classification report to this JSON file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// Write a contact sheet of augmented training pictures to this PNG or JPEG
    /// file
    #[arg(long, value_name = "FILE")]
    pub(super) show_augmented: Option<PathBuf>,

    /// How the training pictures are augmented
    #[arg(long, value_enum, default_value_t = RecipeName::Robust)]
    pub(super) recipe: RecipeName,

    /// Number of augmented views per picture, which the epochs use in turn; 0 means
    /// a new view in every epoch
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub(super) views: usize,

    /// Number of passes over the data set [default: tutorial 20, robust 60]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: Option<u32>,

    /// Number of pictures per training step [default: tutorial 32, robust 64]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: Option<u32>,

    /// Learning rate of the first step; it decays according to Keras's time-based
    /// schedule with a decay of INIT_LR / EPOCHS per step [default: tutorial 1e-4,
    /// robust 1.5e-4]
    #[arg(long, allow_negative_numbers = true)]
    init_lr: Option<f32>,

    /// Seed of all random numbers; the same seed, pictures, and options give the same
    /// files
    #[arg(long, default_value_t = 42)]
    pub(super) seed: u64,

    /// Rotate by up to this many degrees
    #[arg(long, default_value_t = 20.0, allow_negative_numbers = true)]
    rotation: f32,

    /// Zoom in and out by up to this fraction
    #[arg(long, default_value_t = 0.15, allow_negative_numbers = true)]
    zoom: f32,

    /// Shift by up to this fraction of the width
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    width_shift: f32,

    /// Shift by up to this fraction of the height
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    height_shift: f32,

    /// Shear by up to this many degrees
    #[arg(long, default_value_t = 0.15, allow_negative_numbers = true)]
    shear: f32,

    /// Make the picture brighter or darker by up to this many levels out of 255
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    channel_shift: f32,

    /// Mirror half of the views
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    horizontal_flip: bool,

    /// How to fill the parts of a view that lie outside the picture
    #[arg(long, value_enum, default_value_t = FillName::Nearest)]
    fill: FillName,

    /// Run at the lowest priority, so that other programs are not slowed down
    #[arg(long)]
    pub(super) background: bool,

    /// Number of threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(super) threads: u16,

    /// Resume a training run that was interrupted (exit code 75) with the same
    /// pictures and options
    #[arg(long)]
    pub(super) resume: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum RecipeName {
    /// Augment in the same way as the well-known Keras tutorial
    Tutorial,
    /// Train on whole pictures and on the faces cut out of them, with varied light
    /// and sharpness; suited for cameras that are not in the data set
    Robust,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FillName {
    /// Repeat the pixels of the edge
    Nearest,
    /// Fill with black
    Constant,
    /// Mirror the picture at its edge
    Reflect,
    /// Continue with the opposite side
    Wrap,
}

impl Train {
    /// Checks everything that can be checked from the command line alone. All values
    /// must be in range, there must be at least one output file, and all output
    /// files must be writable.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let usage = |sentence: String| Err(Failure::new(Failure::USAGE, sentence));
        if !(self.init_lr() > 0.0 && self.init_lr() <= 1.0) {
            return usage(format!(
                "--init-lr is {}; it must be above 0 and at most 1",
                self.init_lr()
            ));
        }
        let limits = [
            ("rotation", self.rotation, 180.0),
            ("zoom", self.zoom, 0.9),
            ("width-shift", self.width_shift, 1.0),
            ("height-shift", self.height_shift, 1.0),
            ("shear", self.shear, 80.0),
            ("channel-shift", self.channel_shift, 255.0),
        ];
        for (name, value, max) in limits {
            if !(value >= 0.0 && value <= max) {
                return usage(format!("--{name} is {value}; it must be from 0 to {max}"));
            }
        }
        if let Some(plot) = &self.plot {
            PlotFormat::of(plot).map_err(|error| Failure::new(Failure::USAGE, error))?;
        }
        if let Some(sheet) = &self.show_augmented {
            sheet_format(sheet)?;
        }
        let outputs = self.outputs();
        if outputs.is_empty() {
            return usage("there is nothing to write: name at least --model FILE".to_owned());
        }
        for (number, (option, path, bytes)) in outputs.iter().enumerate() {
            can_write(path, *bytes)?;
            let mut before = outputs[..number].iter();
            if let Some((other, ..)) = before.find(|(_, other, _)| is_same_file(other, path)) {
                return usage(format!(
                    "{other} and {option} name the same file, {}",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// Returns all files that may be written, each with its option, its path, and an
    /// upper limit on its size in bytes.
    fn outputs(&self) -> Vec<(&'static str, PathBuf, usize)> {
        let (backbone, features) = match &self.backbone {
            None => (SHIPPED_CLASSIFIER.len(), FEATURES),
            Some(file) => {
                let size = std::fs::metadata(file).map_or(0, |file| file.len());
                (size.min(MAX_MODEL_BYTES) as usize, MAX_FEATURES)
            }
        };
        let classifier = backbone + SMALL_FILE;
        let checkpoint = self.first_output().map(|_| self.checkpoint_file());
        let named = |path: &Option<PathBuf>| path.clone();
        [
            ("--model", named(&self.model), classifier),
            ("--replay", named(&self.replay), replay::MAX_BYTES),
            ("--head-only", named(&self.head_only), SMALL_FILE),
            ("--plot", named(&self.plot), SMALL_FILE),
            ("--history", self.history_file(), SMALL_FILE),
            ("--report", named(&self.report), SMALL_FILE),
            ("--show-augmented", named(&self.show_augmented), SMALL_FILE),
            (
                "the checkpoint",
                checkpoint,
                Checkpoint::max_bytes(features),
            ),
        ]
        .into_iter()
        .filter_map(|(option, path, bytes)| Some((option, path?, bytes)))
        .collect()
    }

    /// Returns the path of the first output that requires training. A contact sheet and a
    /// replay set do not require training.
    pub(super) fn first_output(&self) -> Option<&Path> {
        let outputs = [&self.model, &self.head_only, &self.plot, &self.report];
        outputs.into_iter().flatten().map(PathBuf::as_path).next()
    }

    /// Returns the path of the checkpoint that an interrupted training run writes.
    pub(super) fn checkpoint_file(&self) -> PathBuf {
        with_suffix(self.first_output().unwrap_or(Path::new("")), ".resume")
    }

    /// Returns the path of the file that `--history` writes.
    pub(super) fn history_file(&self) -> Option<PathBuf> {
        let plot = self.plot.as_deref().filter(|_| self.history);
        plot.map(|plot| with_suffix(plot, ".csv"))
    }

    pub(super) fn epochs(&self) -> u32 {
        self.epochs.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 20,
            RecipeName::Robust => 60,
        })
    }

    pub(super) fn batch_size(&self) -> u32 {
        self.batch_size.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 32,
            RecipeName::Robust => 64,
        })
    }

    pub(super) fn init_lr(&self) -> f32 {
        self.init_lr.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 1e-4,
            RecipeName::Robust => 1.5e-4,
        })
    }

    pub(super) fn recipe(&self) -> Recipe {
        let geometry = Geometry {
            rotation: self.rotation,
            zoom: self.zoom,
            width_shift: self.width_shift,
            height_shift: self.height_shift,
            shear: self.shear,
            horizontal_flip: self.horizontal_flip,
            fill: match self.fill {
                FillName::Nearest => Fill::Nearest,
                FillName::Constant => Fill::Constant,
                FillName::Reflect => Fill::Reflect,
                FillName::Wrap => Fill::Wrap,
            },
            channel_shift: self.channel_shift,
        };
        match self.recipe {
            RecipeName::Tutorial => Recipe::Tutorial(geometry),
            RecipeName::Robust => Recipe::Robust(Robust {
                geometry,
                ..Robust::default()
            }),
        }
    }
}

/// Returns the format of a contact sheet according to its file name.
pub(super) fn sheet_format(path: &Path) -> Result<ImageFormat, Failure> {
    if let Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = ImageFormat::from_path(path) {
        return Ok(format);
    }
    let path = path.display();
    let sentence = format!("--show-augmented {path} must end in .png, .jpg or .jpeg");
    Err(Failure::new(Failure::USAGE, sentence))
}
