//! Finds the faces in a picture and decides whether each face wears a mask:
//!
//! ```text
//! cargo run --release --example classify_picture -- PICTURE
//! ```

use std::error::Error;
use std::path::Path;

use maskd::config::Config;
use maskd::decision::decide::VerdictPolicy;
use maskd::frame::decode;
use maskd::vision::pipeline::Pipeline;

fn main() -> Result<(), Box<dyn Error>> {
    let picture = std::env::args_os().nth(1).ok_or("name a picture")?;
    for line in classify(Path::new(&picture))? {
        println!("{line}");
    }
    Ok(())
}

/// Returns one line per face, with the face's position and the verdict.
pub(crate) fn classify(picture: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let config = Config::default();
    let mut pipeline = Pipeline::open(&config.pipeline_options(), 1)?;
    let labels = pipeline.head().labels().to_vec();
    let policy = VerdictPolicy::new(config.classify.verdict_options(), &labels)?;

    let pixels = decode(&std::fs::read(picture)?)?;
    let mut lines = Vec::new();
    for recognized in pipeline.recognize(&pixels)? {
        let face = &recognized.face;
        let classification = &recognized.classification;
        let face_probability = classification.face.map(|opinion| opinion.probability);
        let verdict = policy.verdict(face, &classification.probabilities, face_probability);
        let (x, y) = (face.rect.x, face.rect.y);
        lines.push(format!("face at {x:.0},{y:.0}: {}", verdict.name(&labels)));
    }
    Ok(lines)
}
