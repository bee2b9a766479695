//! The step for the camera: lists the cameras of this machine, and reads a frame.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use image::codecs::jpeg::JpegEncoder;
use tokio_util::sync::CancellationToken;

use super::{Session, interrupted};
use crate::camera::command::RPICAM_PROGRAMS;
use crate::camera::{Spec, read_frame};
use crate::cli::check::is_program;
use crate::cli::interrupt::Interrupt;
use crate::cli::terminal::INTERRUPTED;
use crate::cli::text::document;
use crate::cli::{Failure, output, service};
use crate::config::Config;
use crate::config::edit::ConfigEdit;
use crate::frame::Frame;

/// How often the test checks whether it is interrupted.
const CHECK: Duration = Duration::from_millis(50);
/// Quality of the test picture.
const JPEG_QUALITY: u8 = 90;

/// Sets the camera to `choice`, or asks for it.
pub(super) fn step(
    session: &mut Session,
    choice: Option<&str>,
    test_picture: Option<&Path>,
) -> Result<(), Failure> {
    if let Some(source) = choice {
        choose(session, source)?;
        return test(session, test_picture);
    }
    if session.dialogue.is_none() {
        return match test_picture {
            Some(_) => test(session, test_picture),
            None => Ok(()),
        };
    }
    let configured = session.plan.config().camera.source.clone();
    // An owner who starts has the built-in pictures, and wants a camera.
    let examples = Spec::Examples.to_string();
    let is_new = configured == examples;
    let found = found();
    let mut refused = BTreeSet::new();
    let mut text = "\nCamera\n".to_owned();
    for (index, (spec, words)) in found.iter().enumerate() {
        text += &format!("  {}  {spec}: {words}\n", index + 1);
        if is_new && let Some(why) = why_refused(session, spec)? {
            text += &format!("     cannot be used: {why}\n");
            refused.insert(spec.clone());
        }
    }
    if !cfg!(feature = "camera") {
        text += "  -  USB cameras: this build has no webcam support\n";
    }
    text += &format!(
        "  -  a network camera: type its address, http://…\n\
         \x20 -  any other source: type it, or examples for built-in pictures\n  \
         {} lists the sources.",
        document("CAMERAS.md")
    );
    session.say(&text)?;
    // The source as text without its password.
    let shown = configured
        .parse()
        .map_or(configured.clone(), |spec: Spec| spec.to_string());
    loop {
        let Some(dialogue) = &session.dialogue else {
            return Ok(());
        };
        let specs = found.iter().map(|(spec, _)| spec);
        let mut cameras = specs.filter(|spec| !refused.contains(*spec));
        let default = if is_new || refused.contains(&configured) {
            cameras.next().unwrap_or(&examples)
        } else {
            &shown
        };
        let answer = dialogue.ask("Camera: a number or a source", default)?;
        let number = answer.parse::<usize>().ok();
        let listed = number.and_then(|number| found.get(number.checked_sub(1)?));
        let source = match listed {
            Some((spec, _)) => spec.clone(),
            None if answer == shown => configured.clone(),
            None => answer,
        };
        let chosen = choose(session, &source);
        let is_chosen = chosen.is_ok();
        let tested = chosen.and_then(|()| test(session, test_picture));
        let Some(dialogue) = &session.dialogue else {
            return tested;
        };
        match tested {
            Ok(()) => return Ok(()),
            Err(failure) => dialogue.refuse(failure)?,
        }
        if is_chosen && dialogue.yes("Use this camera anyway?", false)? {
            return Ok(());
        }
        refused.insert(source);
    }
}

/// Tests a camera of this machine before it is offered. Returns why it cannot be used, or `None`
/// if it can, or if it cannot be tested now.
fn why_refused(session: &Session, source: &str) -> Result<Option<String>, Failure> {
    let Ok(spec) = source.parse::<Spec>() else {
        return Ok(None);
    };
    if !session.is_tested || session.devices.free().is_err() {
        return Ok(None);
    }
    if let Some(dialogue) = &session.dialogue {
        dialogue.say(&format!("  Waiting for a picture from {spec} …"));
    }
    let config = session.plan.config();
    let frame = session.unless_interrupted(frame(&spec, config, session.interrupt));
    match frame {
        Err(failure) if failure.exit == INTERRUPTED => Err(failure),
        Err(failure) => Ok(Some(failure.sentence)),
        Ok(_) => Ok(None),
    }
}

/// Returns the cameras of this machine as sources, each with a description.
fn found() -> Vec<(String, String)> {
    let mut found = Vec::new();
    if RPICAM_PROGRAMS.iter().any(|name| is_program(name)) {
        let words = "the camera module of a Raspberry Pi".to_owned();
        found.push(("rpicam".to_owned(), words));
    }
    found.extend(webcams());
    found
}

#[cfg(feature = "camera")]
fn webcams() -> Vec<(String, String)> {
    let nodes = crate::camera::webcam::devices();
    let has_own_name = |name: &str| {
        let same = nodes
            .iter()
            .filter(|node| node.name == name && node.index == 0);
        same.count() == 1
    };
    // The image processor of a Raspberry Pi has device files too, which are no cameras.
    let usable = nodes.iter().filter_map(|node| {
        let formats = crate::camera::describe_webcam(node).ok()?;
        let spec = if has_own_name(&node.name) {
            format!("webcam:{}", node.name)
        } else {
            format!("webcam:{}", node.path().display())
        };
        Some((spec, formats))
    });
    usable.collect()
}

#[cfg(not(feature = "camera"))]
fn webcams() -> Vec<(String, String)> {
    Vec::new()
}

/// Adds the source to the plan. The service has another working directory, so the path of a
/// folder becomes absolute.
fn choose(session: &mut Session, source: &str) -> Result<(), Failure> {
    let absolute = match source.parse::<Spec>() {
        Ok(Spec::Path(path)) => std::path::absolute(&path).ok(),
        _ => None,
    };
    let source = match absolute.as_ref().map(|path| path.to_str()) {
        Some(Some(path)) => path,
        Some(None) => {
            let sentence =
                "the path of the pictures is not UTF-8, which a config must be: rename it";
            return Err(Failure::new(Failure::USAGE, sentence));
        }
        None => source,
    };
    session
        .plan
        .change([ConfigEdit::set("camera", "source", source)])
}

/// Reads a frame of the planned camera, and says its size.
fn test(session: &Session, test_picture: Option<&Path>) -> Result<(), Failure> {
    if !session.is_tested {
        return Ok(());
    }
    if let Some(path) = test_picture {
        output::can_write(path, output::SMALL_FILE)?;
    }
    let config = session.plan.config();
    let spec: Spec = config
        .camera
        .source
        .parse()
        .map_err(|error| Failure::new(Failure::CONFIG, error))?;
    if matches!(spec, Spec::Webcam(_) | Spec::Rpicam | Spec::Command(_)) {
        session.devices.free()?;
    }
    if let Some(dialogue) = &session.dialogue {
        dialogue.say("  Waiting for a picture …");
    }
    let frame = session.unless_interrupted(frame(&spec, config, session.interrupt))?;
    let (width, height) = frame.pixels.dimensions();
    session.say(&format!(
        "  A picture of {width}x{height} pixels arrived from {spec}."
    ))?;
    if let Some(path) = test_picture {
        output::write(path, &jpeg(&frame)?)?;
        session.say(&format!("  The test picture is {}.", path.display()))?;
    }
    if let Spec::Path(path) = &spec
        && session.plan.is_of_service()
        && let Some(why) = service::why_unreadable(path)
    {
        let sentence = format!("{} {why}", path.display());
        return Err(Failure::new(Failure::NO_INPUT, sentence));
    }
    Ok(())
}

/// Waits for the first frame. The wait ends early after a signal.
fn frame(spec: &Spec, config: &Config, interrupt: &Interrupt) -> Result<Frame, Failure> {
    let (options, stop) = (config.camera.options(), CancellationToken::new());
    let read = std::thread::scope(|scope| {
        let camera = scope.spawn(|| read_frame(spec, &options, &stop));
        while !camera.is_finished() {
            if interrupt.is_caught() {
                stop.cancel();
            }
            std::thread::sleep(CHECK);
        }
        camera.join()
    });
    match read {
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(Ok(None)) if stop.is_cancelled() => Err(interrupted()),
        Ok(Ok(None)) => {
            let sentence = format!("{spec} ended without a picture");
            Err(Failure::new(Failure::UNAVAILABLE, sentence))
        }
        Ok(Err(error)) => Err(error.into()),
        // The panic hook has already printed a message.
        Err(_) => Err(Failure::new(
            Failure::INTERNAL,
            "the test of the camera failed",
        )),
    }
}

fn jpeg(frame: &Frame) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(&frame.pixels)
        .map_err(|error| {
            let sentence = format!("the test picture cannot be encoded: {error}");
            Failure::new(Failure::INTERNAL, sentence)
        })?;
    Ok(bytes)
}
