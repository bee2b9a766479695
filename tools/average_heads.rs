//! Averages the logits of several heads into one head, and stores it in a classifier file.
//!
//! ```text
//! cargo run --release --example average_heads -- --val faces/val \
//!     --out models/mask_classifier.onnx seed-42.onnx seed-1.onnx seed-2.onnx
//! ```
//!
//! The arguments are classifier files that `maskd train` made from the same data set with
//! different seeds. The hidden units of all heads become the hidden units of the new head, and
//! the weights of its output layer are divided by the number of heads. The backbone and the
//! face check come from the first file. The scores in the new file are those on whole
//! validation pictures, as `maskd train` computes them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use maskd::frame::Scaler;
use maskd::onnx::{Classifier, HeadFile, ThreadPool, read_file, read_metadata, write_classifier};
use maskd::platform::files;
use maskd::training::augment::whole;
use maskd::training::dataset::{self, Dataset};
use maskd::training::report::Report;
use maskd::training::train::average_logits;
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::head::Head;

/// Averages the logits of several heads into one head, and stores it in a classifier file.
#[derive(Parser)]
struct Arguments {
    /// Classifier files with the same backbone and the same labels.
    #[arg(required = true, num_args = 2..)]
    classifiers: Vec<PathBuf>,
    /// Folder of validation pictures, in one subfolder per label.
    #[arg(long)]
    val: PathBuf,
    /// Classifier file to write.
    #[arg(long)]
    out: PathBuf,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("average_heads: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut heads = Vec::new();
    let mut metadata = Vec::new();
    let mut first: Option<(Vec<u8>, Classifier)> = None;
    for path in &arguments.classifiers {
        let name = path.display().to_string();
        let bytes = read_file(path)?;
        let classifier = Classifier::parse(&name, &bytes)?;
        metadata.push(read_metadata(&name, &bytes)?);
        heads.push(classifier.head.clone());
        if let Some((_, first)) = &first {
            ensure!(
                classifier.backbone_sha256 == first.backbone_sha256
                    && classifier.labels == first.labels,
                "{name} has another backbone or other labels than {}",
                arguments.classifiers[0].display()
            );
        } else {
            first = Some((bytes, classifier));
        }
    }
    let (base, classifier) = first.context("no classifier is named")?;
    let head = HeadFile {
        backbone_sha256: classifier.backbone_sha256,
        labels: classifier.labels.clone(),
        head: average_logits(&heads)?,
    };
    let report = evaluate(arguments, classifier, &head)?;
    print!("{}", report.table());

    let seeds: Vec<&str> = metadata
        .iter()
        .filter_map(|entries| entries.get("seed").map(String::as_str))
        .collect();
    let mut entries = vec![("seed", seeds.join(" "))];
    for key in ["recipe", "dataset_sha256", "version"] {
        let values = metadata.iter().map(|entries| entries.get(key));
        let mut values = values.collect::<Vec<_>>();
        values.dedup();
        let [value] = values[..] else {
            bail!("the classifiers have different values of {key:?}");
        };
        entries.extend(value.map(|value| (key, value.clone())));
    }
    entries.push(("scores", serde_json::to_string(&report)?));
    let bytes = write_classifier(&base, &head, &entries)?;
    let out = &arguments.out;
    files::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {} bytes", out.display(), bytes.len());
    Ok(())
}

/// Classifies the whole validation pictures.
fn evaluate(
    arguments: &Arguments,
    classifier: Classifier,
    head: &HeadFile,
) -> anyhow::Result<Report> {
    let pictures = Dataset::open_for_evaluation(&arguments.val)?;
    ensure!(
        pictures.classes == head.labels,
        "{} has the classes {}, and the heads have {}",
        arguments.val.display(),
        pictures.classes.join(", "),
        head.labels.join(", ")
    );
    let backbone = Backbone::new(classifier.backbone, head.head.features())?;
    let pool = ThreadPool::of(arguments.threads);
    let mut embedder = Embedder::new(&backbone, arguments.threads, pool)?;
    let mut scaler = Scaler::default();
    let head = Head::from_file(head.clone());
    let mut probabilities = Vec::new();
    for picture in &pictures.pictures {
        let (pixels, _) = dataset::load(&picture.path).map_err(anyhow::Error::msg)?;
        let region = whole(&pixels).context("the picture is empty")?;
        let crop = scaler.crop(&pixels, region)?;
        for feature in embedder.embed(&[crop])? {
            probabilities.extend(head.probabilities(&feature));
        }
    }
    let report = Report::new(&pictures.labels(), &probabilities, &pictures.classes, None)?;
    Ok(report)
}
