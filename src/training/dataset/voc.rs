//! Reads the labeled boxes of a photograph from a Pascal VOC file.

use std::path::Path;

use crate::frame::Rect;
use crate::platform::files;

/// Maximum size of a file with the labels of a photograph, in bytes.
const MAX_VOC_BYTES: u64 = 1 << 20;

/// Reads the name and the box of each object in a Pascal VOC file, with boxes in pixels.
///
/// # Errors
/// A sentence fragment that says what is wrong with the file.
pub fn read_voc(path: &Path) -> Result<Vec<(String, Rect)>, String> {
    let text = files::read_text(path, MAX_VOC_BYTES).map_err(|error| error.source.to_string())?;
    let document = roxmltree::Document::parse(&text).map_err(|error| error.to_string())?;
    let child = |node: roxmltree::Node, name: &str| -> Result<String, String> {
        let found = node.descendants().find(|node| node.has_tag_name(name));
        let text = found.and_then(|node| node.text());
        text.map(|text| text.trim().to_owned())
            .ok_or_else(|| format!("an object has no <{name}>"))
    };
    let mut faces = Vec::new();
    for object in document
        .descendants()
        .filter(|node| node.has_tag_name("object"))
    {
        let edge = |name: &str| -> Result<f32, String> {
            let text = child(object, name)?;
            text.parse()
                .map_err(|_| format!("<{name}> is {text:?}, not a number"))
        };
        let (x, y) = (edge("xmin")?, edge("ymin")?);
        let rect = Rect {
            x,
            y,
            width: edge("xmax")? - x,
            height: edge("ymax")? - y,
        };
        faces.push((child(object, "name")?, rect));
    }
    Ok(faces)
}
