//! Lists pictures that are sorted into folders by label and camera, for `maskd eval
//! --faces`.
//!
//! This module defines which folder layouts are recognized. It lists files but does not
//! read them.

use std::io;
use std::path::{Path, PathBuf};

use super::truth::{Truth, Truths, UNKNOWN_LABEL};
use crate::frame::decoding::{list, list_unread};
use crate::frame::names::{Unused, is_clutter};

/// A picture whose largest face has a known label.
#[derive(Debug)]
pub(super) struct LabeledPicture {
    pub(super) path: PathBuf,
    /// The name of the camera's folder; `None` if the picture is not in the folder of a
    /// camera.
    pub(super) camera: Option<String>,
    /// The name of the label's folder.
    pub(super) label: String,
    pub(super) truth: Truth,
}

/// The pictures of a data set.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The pictures, sorted by path.
    pub(super) pictures: Vec<LabeledPicture>,
    /// The files and folders that are not used, although the user may expect that they
    /// are.
    pub(super) unused: Vec<Unused>,
}

impl Listing {
    /// Lists the pictures in the folders `LABEL`, `CAMERA/LABEL`, and `LABEL/CAMERA` in
    /// `top`.
    pub(super) fn read(top: &Path, truths: &Truths) -> io::Result<Listing> {
        let mut listing = Listing::default();
        listing.leave_out_pictures(top)?;
        for (folder, name) in folders(top)? {
            if let Some(truth) = truths.of(&name) {
                listing.add(&folder, None, &name, truth)?;
                for (below, camera) in folders(&folder)? {
                    listing.add(&below, Some(&camera), &name, truth)?;
                    listing.leave_out_folders(&below)?;
                }
            } else {
                listing.add_camera(&folder, &name, truths)?;
            }
        }
        listing.pictures.sort_by(|a, b| a.path.cmp(&b.path));
        listing.unused.sort();
        Ok(listing)
    }

    /// Adds the pictures of a camera, whose folder contains one folder per label.
    fn add_camera(&mut self, folder: &Path, camera: &str, truths: &Truths) -> io::Result<()> {
        let labels = folders(folder)?;
        let is_camera = labels.iter().any(|(_, label)| truths.of(label).is_some());
        if !is_camera {
            // The folder contains no known label, so its own name is probably an unknown
            // label.
            self.leave_out(folder, UNKNOWN_LABEL);
            return Ok(());
        }
        self.leave_out_pictures(folder)?;
        for (below, label) in labels {
            match truths.of(&label) {
                Some(truth) => {
                    self.add(&below, Some(camera), &label, truth)?;
                    self.leave_out_folders(&below)?;
                }
                None => self.leave_out(&below, UNKNOWN_LABEL),
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        folder: &Path,
        camera: Option<&str>,
        label: &str,
        truth: Truth,
    ) -> io::Result<()> {
        self.unused.extend(list_unread(folder)?);
        let pictures = list(folder)?.into_iter().map(|path| LabeledPicture {
            path,
            camera: camera.map(ToOwned::to_owned),
            label: label.to_owned(),
            truth,
        });
        self.pictures.extend(pictures);
        Ok(())
    }

    /// Leaves out the pictures that are directly in `folder`, beside the folders of
    /// labels.
    fn leave_out_pictures(&mut self, folder: &Path) -> io::Result<()> {
        for picture in list(folder)? {
            self.leave_out(&picture, "it is not in the folder of a label");
        }
        Ok(())
    }

    /// Leaves out the folders in `folder`, which is already the folder of a label and a
    /// camera.
    fn leave_out_folders(&mut self, folder: &Path) -> io::Result<()> {
        for (below, _) in folders(folder)? {
            self.leave_out(
                &below,
                "folders below a label and a camera are not searched",
            );
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.unused.push(Unused {
            path: path.to_owned(),
            why: why.to_owned(),
        });
    }
}

/// Returns the paths and names of the folders in `folder`, sorted by path.
fn folders(folder: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut folders = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && !is_clutter(&name) {
            folders.push((path, name.to_string_lossy().into_owned()));
        }
    }
    folders.sort();
    Ok(folders)
}
