//! Degrades a folder of good pictures as a poor camera would, so that recipes and
//! thresholds can be chosen without such a camera.
//!
//! ```text
//! cargo run --release --example simulate_camera -- --preset dim --seed 1 IN OUT
//! ```
//!
//! The folder structure is kept, so a data set with one folder per class remains a
//! data set. Pascal VOC `.xml` files are copied with their pictures, and the boxes
//! are scaled to the new size. The same seed gives the same pictures.
//!
//! This tool deliberately shares no code with `maskd::training::augment`, so that a
//! recipe is evaluated on changes that it was not trained on. The camera is modeled from
//! the scene to the file, in linear light. The model includes exposure and optics, sensor
//! noise that grows with the light, the firmware's tone curve and smoothing, and JPEG
//! compression with halved color resolution.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use maskd::frame::{Face, Rect, decode};
use maskd::onnx::ThreadPool;
use maskd::vision::detect::{Detector, DetectorOptions};
use maskd::vision::pipeline::SHIPPED_DETECTOR;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Degrades the pictures in a folder as a poor camera would.
#[derive(Parser)]
struct Arguments {
    /// The problem with the camera or its position.
    #[arg(long)]
    preset: Preset,
    /// Seed of the random numbers. The same seed gives the same pictures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Give all pictures in a subfolder of IN the same light, lens, and firmware, as if one
    /// camera had taken them. Without this option, each picture comes from another camera.
    #[arg(long)]
    per_folder: bool,
    /// Folder of pictures. The structure of its subfolders is kept.
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// Folder for the results. It is created if necessary, and existing files with
    /// the same names are replaced.
    #[arg(value_name = "OUT")]
    to: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    /// A cheap camera in a dim corridor. Pictures are dark, low in contrast, tinted, and
    /// noisy, and have 240 pixels along their longer side.
    Dim,
    /// A bright window or doorway behind the face.
    Backlight,
    /// A long exposure while the face or the camera moves.
    Motion,
    /// A night camera with infrared lamps. Pictures are gray, with glare in the
    /// middle.
    Infrared,
    /// A camera whose white balance does not match the lamps. Pictures have a strong tint.
    Cast,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulate_camera: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { from, to, .. } = arguments;
    if !from.is_dir() {
        bail!("{} is not a folder of pictures", from.display());
    }
    if to.exists() && !to.is_dir() {
        bail!("{} is a file; OUT must be a folder", to.display());
    }
    // This check comes before anything is written. Without this check, pictures could
    // be degraded twice, or the originals could be replaced.
    let (whole_from, whole_to) = (canonical(from)?, canonical(to)?);
    if whole_to.starts_with(&whole_from) || whole_from.starts_with(&whole_to) {
        bail!("IN and OUT must be different folders, and neither may be inside the other");
    }

    let mut pictures = Vec::new();
    find_pictures(from, Path::new(""), &mut pictures)?;
    if pictures.is_empty() {
        bail!("there are no pictures in {}", from.display());
    }
    pictures.sort();
    let mut results = BTreeMap::new();
    for name in &pictures {
        if let Some(other) = results.insert(result_name(name), name) {
            bail!(
                "{} and {} would become the same file, {}",
                other.display(),
                name.display(),
                result_name(name).display()
            );
        }
    }
    // The folder is created before the pictures are processed, so that an unwritable
    // disk is not reported for each picture.
    fs::create_dir_all(to).with_context(|| format!("cannot create the folder {}", to.display()))?;
    let options = DetectorOptions {
        side: 320,
        threshold: 0.5,
    };
    let mut detector = Detector::new(
        "the built-in face detector",
        SHIPPED_DETECTOR,
        options,
        ThreadPool::alone(),
    )?;
    let mut made = 0;
    for (result, name) in &results {
        match simulate(arguments, &mut detector, name, result) {
            Ok(()) => made += 1,
            Err(error) => eprintln!("skipped {}: {error:#}", from.join(name).display()),
        }
    }
    println!(
        "wrote {made} of {} pictures to {}",
        pictures.len(),
        to.display()
    );
    if made < pictures.len() {
        bail!("the pictures named above were skipped");
    }
    Ok(())
}

/// Returns the absolute path, without symbolic links, of a folder that may not exist
/// yet.
fn canonical(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(folder)
        .with_context(|| format!("{} is not a usable path", folder.display()))?;
    for there in folder.ancestors() {
        if let Ok(real) = there.canonicalize() {
            return Ok(real.join(folder.strip_prefix(there)?));
        }
    }
    Ok(folder)
}

/// Finds the names of all pictures below `root`, relative to it.
fn find_pictures(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let extensions = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];
    let folder = root.join(below);
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = below.join(entry.file_name());
        let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
        if root.join(&name).is_dir() {
            find_pictures(root, &name, found)?;
        } else if extensions.iter().any(|known| extension == *known) {
            found.push(name);
        }
    }
    Ok(())
}

/// Returns the name of the result. All results are JPEG files and are named
/// accordingly.
fn result_name(name: &Path) -> PathBuf {
    let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
    if extension == "jpg" || extension == "jpeg" {
        name.to_owned()
    } else {
        name.with_extension("jpg")
    }
}

fn simulate(
    arguments: &Arguments,
    detector: &mut Detector,
    name: &Path,
    result: &Path,
) -> anyhow::Result<()> {
    let source = arguments.from.join(name);
    let bytes = fs::read(&source).context("cannot be read")?;
    let picture = decode(&bytes)?;
    let labels = source.with_extension("xml");
    let labels = match fs::read_to_string(&labels) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => bail!("{}: {error}", labels.display()),
    };
    let faces = match &labels {
        Some(text) => boxes(text),
        None if arguments.preset == Preset::Backlight => detected(detector, &picture)?,
        None => Vec::new(),
    };

    // The name includes the class folder, so pictures with the same file name in
    // different classes get different random numbers.
    let mut dice = Dice::of(arguments.seed, name);
    if arguments.per_folder {
        let folder: PathBuf = name.components().take(1).collect();
        dice.share_conditions(arguments.seed, &folder);
    }
    let (width, height) = picture.dimensions();
    let (jpeg, size) = match arguments.preset {
        Preset::Dim => dim(&picture, &mut dice),
        Preset::Backlight => backlight(&picture, &faces, &mut dice),
        Preset::Motion => motion(&picture, &mut dice),
        Preset::Infrared => infrared(&picture, &mut dice),
        Preset::Cast => cast(&picture, &mut dice),
    }?;

    let target = arguments.to.join(result);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
    }
    fs::write(&target, jpeg).with_context(|| format!("cannot write {}", target.display()))?;
    if let Some(text) = labels {
        let target = target.with_extension("xml");
        fs::write(&target, scaled_labels(&text, (width, height), size))
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------
// Labels: Pascal VOC, edited as text so that the rest of the file is kept.

/// Returns the byte ranges of the texts between `<tag>` and `</tag>`.
fn tagged(text: &str, tag: &str) -> Vec<std::ops::Range<usize>> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = text[at..].find(&open).map(|start| at + start + open.len()) {
        let Some(length) = text[start..].find(&close) else {
            break;
        };
        found.push(start..start + length);
        at = start + length;
    }
    found
}

/// Returns the left, top, right, and lower edges of the labeled faces, in pixels.
fn boxes(text: &str) -> Vec<[f32; 4]> {
    let corners = ["xmin", "ymin", "xmax", "ymax"];
    let number = |object: &str, tag: &str| {
        let range = tagged(object, tag).into_iter().next()?;
        object[range].trim().parse::<f32>().ok()
    };
    tagged(text, "object")
        .into_iter()
        .filter_map(|range| {
            let object = &text[range];
            let [x1, y1, x2, y2] = corners.map(|tag| number(object, tag));
            Some([x1?, y1?, x2?, y2?])
        })
        .collect()
}

/// Returns the edges of the faces that the detector finds in the good picture. The preset
/// `backlight` depends on the positions of the people, and uses these edges if there are
/// no labels.
fn detected(detector: &mut Detector, picture: &RgbImage) -> anyhow::Result<Vec<[f32; 4]>> {
    let faces = detector.detect(picture)?;
    let corners = |face: Face| {
        let Rect {
            x,
            y,
            width,
            height,
        } = face.rect;
        [x, y, x + width, y + height]
    };
    Ok(faces.into_iter().map(corners).collect())
}

/// Scales the labels of a picture from size `from` to size `to`.
fn scaled_labels(text: &str, from: (u32, u32), to: (u32, u32)) -> String {
    if from == to {
        return text.to_owned();
    }
    let x = f64::from(to.0) / f64::from(from.0);
    let y = f64::from(to.1) / f64::from(from.1);
    let scaled = [
        ("width", x),
        ("height", y),
        ("xmin", x),
        ("ymin", y),
        ("xmax", x),
        ("ymax", y),
    ];
    let mut changes = BTreeMap::new();
    for (tag, factor) in scaled {
        for range in tagged(text, tag) {
            if let Ok(value) = text[range.clone()].trim().parse::<f64>() {
                let value = (value * factor).round();
                changes.insert(range.start, (range.end, value.to_string()));
            }
        }
    }
    let mut result = String::new();
    let mut at = 0;
    for (start, (end, value)) in changes {
        result.push_str(&text[at..start]);
        result.push_str(&value);
        at = end;
    }
    result + &text[at..]
}

// ---------------------------------------------------------------------------
// Random numbers.

struct Dice {
    /// Decides the light, the lens, and the firmware.
    conditions: ChaCha8Rng,
    /// Decides the noise, if several pictures share their conditions.
    noise: Option<ChaCha8Rng>,
}

impl Dice {
    /// Creates random numbers for a picture. They do not depend on the other pictures.
    fn of(seed: u64, name: &Path) -> Dice {
        Dice {
            conditions: Dice::generator(seed, name),
            noise: None,
        }
    }

    /// Draws the conditions from now on as for every other picture of this folder. The
    /// noise remains that of the picture.
    fn share_conditions(&mut self, seed: u64, folder: &Path) {
        let own = std::mem::replace(&mut self.conditions, Dice::generator(seed, folder));
        self.noise = Some(own);
    }

    /// Seeds a generator with the FNV-1a hash of the name.
    fn generator(seed: u64, name: &Path) -> ChaCha8Rng {
        let hash = name
            .to_string_lossy()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        ChaCha8Rng::seed_from_u64(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn between(&mut self, from: f32, to: f32) -> f32 {
        from + (to - from) * self.conditions.random::<f32>()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.conditions.random_range(0..choices.len())]
    }

    /// Draws a standard normal number (Box and Muller 1958).
    fn normal(&mut self) -> f32 {
        let generator = self.noise.as_mut().unwrap_or(&mut self.conditions);
        let radius = (-2.0 * (1.0 - generator.random::<f32>()).ln()).sqrt();
        radius * (std::f32::consts::TAU * generator.random::<f32>()).cos()
    }
}

// ---------------------------------------------------------------------------
// Light on the sensor: linear, where 1 is the brightest.

struct Light {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 3]>,
}

/// Converts sRGB to linear light (IEC 61966-2-1). Both values are between 0 and 1.
fn linear(value: f32) -> f32 {
    if value <= 0.04045 {
        value / 12.92
    } else {
        ((value + 0.055) / 1.055).powf(2.4)
    }
}

fn encoded(light: f32) -> f32 {
    let light = light.clamp(0.0, 1.0);
    if light <= 0.003_130_8 {
        light * 12.92
    } else {
        1.055 * light.powf(1.0 / 2.4) - 0.055
    }
}

fn brightness([r, g, b]: [f32; 3]) -> f32 {
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

/// Returns a value that rises smoothly from 0 at `from` to 1 at `to`. Beyond these
/// limits, the result is exactly 0 or 1.
fn smooth(from: f32, to: f32, value: f32) -> f32 {
    let share = ((value - from) / (to - from)).clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}

impl Light {
    /// Projects the scene in the picture onto a sensor with `longest` pixels along
    /// its longer side. Smaller pictures keep their size.
    fn from(picture: &RgbImage, longest: u32) -> Light {
        let (width, height) = picture.dimensions();
        let factor = f64::from(longest) / f64::from(width.max(height));
        let small;
        let picture = if factor < 1.0 {
            let side = |side: u32| ((f64::from(side) * factor).round() as u32).max(1);
            small =
                image::imageops::resize(picture, side(width), side(height), FilterType::Triangle);
            &small
        } else {
            picture
        };
        Light {
            width: picture.width() as usize,
            height: picture.height() as usize,
            pixels: picture
                .pixels()
                .map(|pixel| pixel.0.map(|value| linear(f32::from(value) / 255.0)))
                .collect(),
        }
    }

    fn longest(&self) -> f32 {
        self.width.max(self.height) as f32
    }

    fn each(&mut self, change: impl Fn([f32; 3]) -> [f32; 3]) {
        for pixel in &mut self.pixels {
            *pixel = change(*pixel);
        }
    }

    /// Changes each pixel depending on its position. x and y are between -1 and 1.
    fn each_at(&mut self, change: impl Fn([f32; 3], f32, f32) -> [f32; 3]) {
        let (width, height) = (self.width as f32, self.height as f32);
        for (at, pixel) in self.pixels.iter_mut().enumerate() {
            let x = 2.0 * ((at % self.width) as f32 + 0.5) / width - 1.0;
            let y = 2.0 * ((at / self.width) as f32 + 0.5) / height - 1.0;
            *pixel = change(*pixel, x, y);
        }
    }

    /// Returns a quantile of the brightness. The fraction `share` of the pixels are darker
    /// than this value.
    fn quantile(&self, share: f32) -> f32 {
        let mut all: Vec<f32> = self.pixels.iter().map(|pixel| brightness(*pixel)).collect();
        all.sort_by(f32::total_cmp);
        all[((all.len() - 1) as f32 * share) as usize]
    }

    /// Convolves with a kernel of points, each given as (x, y, weight).
    fn spread(&self, points: &[(f32, f32, f32)]) -> Light {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..self.height {
            for x in 0..self.width {
                let mut sum = [0.0; 3];
                for (dx, dy, share) in points {
                    let value = self.at(x as f32 + dx, y as f32 + dy);
                    for (sum, value) in sum.iter_mut().zip(value) {
                        *sum += share * value;
                    }
                }
                pixels.push(sum);
            }
        }
        Light { pixels, ..*self }
    }

    /// Interpolates between four pixels. Outside the picture, the edge pixels are
    /// repeated.
    fn at(&self, x: f32, y: f32) -> [f32; 3] {
        let x = x.clamp(0.0, (self.width - 1) as f32);
        let y = y.clamp(0.0, (self.height - 1) as f32);
        let (x0, y0) = (x as usize, y as usize);
        let (x1, y1) = ((x0 + 1).min(self.width - 1), (y0 + 1).min(self.height - 1));
        let (right, down) = (x - x0 as f32, y - y0 as f32);
        let pixel = |x: usize, y: usize| self.pixels[y * self.width + x];
        let mut mixed = [0.0; 3];
        for (c, value) in mixed.iter_mut().enumerate() {
            let upper = pixel(x0, y0)[c] * (1.0 - right) + pixel(x1, y0)[c] * right;
            let lower = pixel(x0, y1)[c] * (1.0 - right) + pixel(x1, y1)[c] * right;
            *value = upper * (1.0 - down) + lower * down;
        }
        mixed
    }

    /// Applies defocus with a uniform disc of this radius in pixels.
    fn defocused(&self, radius: f32) -> Light {
        let reach = radius.ceil() as i32;
        let mut points = Vec::new();
        for y in -reach..=reach {
            for x in -reach..=reach {
                let distance = ((x * x + y * y) as f32).sqrt();
                let share = (radius + 0.5 - distance).clamp(0.0, 1.0);
                if share > 0.0 {
                    points.push((x as f32, y as f32, share));
                }
            }
        }
        let sum: f32 = points.iter().map(|point| point.2).sum();
        for point in &mut points {
            point.2 /= sum;
        }
        self.spread(&points)
    }

    /// Averages over squares with a side length of 2 * `reach` + 1 pixels, using running
    /// sums. This is done twice to create wide blooms.
    fn bloomed(&self, reach: usize) -> Light {
        let once = self.averaged_across(reach).turned();
        let once = once.averaged_across(reach);
        let twice = once.averaged_across(reach).turned();
        twice.averaged_across(reach)
    }

    /// Aligns the first channel with the edges in `guide` by using the guided filter (He,
    /// Sun, Tang 2010), so that a matte ends at the edge of the hair.
    fn along_edges_of(&self, guide: &Light) -> Light {
        let gray: Vec<f32> = guide
            .pixels
            .iter()
            .map(|pixel| encoded(brightness(*pixel)))
            .collect();
        let zipped = gray.iter().zip(&self.pixels);
        let with = |pixels| Light { pixels, ..*self };
        let reach = (0.04 * self.longest()).ceil() as usize;
        let means = with(zipped.map(|(gray, p)| [*gray, p[0], gray * p[0]]).collect());
        let means = means.bloomed(reach);
        let squares = with(gray.iter().map(|gray| [gray * gray; 3]).collect()).bloomed(reach);
        let fits = means.pixels.iter().zip(&squares.pixels);
        let fits = fits.map(|([gray, own, both], [square, ..])| {
            let slope = (both - gray * own) / ((square - gray * gray).max(0.0) + 0.004);
            [slope, own - slope * gray, 0.0]
        });
        let fits = with(fits.collect()).bloomed(reach);
        let fitted = fits.pixels.iter().zip(&gray);
        let fitted =
            fitted.map(|([slope, base, _], gray)| [smooth(0.2, 0.8, slope * gray + base); 3]);
        with(fitted.collect())
    }

    fn averaged_across(&self, reach: usize) -> Light {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        let share = 1.0 / (2 * reach + 1) as f32;
        for row in self.pixels.chunks_exact(self.width) {
            let get = |at: usize| row[at.saturating_sub(reach).min(self.width - 1)];
            let mut sum = [0.0_f32; 3];
            for at in 0..=2 * reach {
                for (sum, value) in sum.iter_mut().zip(get(at)) {
                    *sum += value;
                }
            }
            for x in 0..self.width {
                pixels.push(sum.map(|sum| sum * share));
                let (old, new) = (get(x), get(x + 2 * reach + 1));
                for c in 0..3 {
                    sum[c] += new[c] - old[c];
                }
            }
        }
        Light { pixels, ..*self }
    }

    /// Swaps rows and columns.
    fn turned(&self) -> Light {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for x in 0..self.width {
            pixels.extend((0..self.height).map(|y| self.pixels[y * self.width + x]));
        }
        Light {
            width: self.height,
            height: self.width,
            pixels,
        }
    }

    /// Adds sensor noise. The shot noise grows with the square root of the light, and
    /// the read noise is constant. `shot` and `read` are the standard deviations of the
    /// two kinds of noise at full light.
    fn add_noise(&mut self, shot: f32, read: f32, dice: &mut Dice) {
        for pixel in &mut self.pixels {
            for value in pixel {
                let deviation = (shot * shot * value.max(0.0) + read * read).sqrt();
                *value += deviation * dice.normal();
            }
        }
    }

    /// Converts to values between 0 and 255 with the sRGB curve. `black` and `white`
    /// are the darkest and the brightest possible result.
    fn developed(&self, black: f32, white: f32) -> Vec<[f32; 3]> {
        let level = |light: f32| black + (white - black) * encoded(light);
        self.pixels.iter().map(|pixel| pixel.map(level)).collect()
    }
}

/// Applies the firmware's last steps to values between 0 and 255. They halve the
/// resolution of the colors and smooth them, apply an unsharp mask of strength `sharpen`,
/// and compress the picture as JPEG.
fn filed(
    pixels: &[[f32; 3]],
    (width, height): (usize, usize),
    sharpen: f32,
    quality: u8,
) -> anyhow::Result<(Vec<u8>, (u32, u32))> {
    let luma = |[r, g, b]: [f32; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    let light: Vec<f32> = pixels.iter().map(|pixel| luma(*pixel)).collect();
    let clamped = |x: isize, y: isize| {
        let x = x.clamp(0, width as isize - 1) as usize;
        let y = y.clamp(0, height as isize - 1) as usize;
        y * width + x
    };
    let mut picture = RgbImage::new(width as u32, height as u32);
    for (x, y, to) in picture.enumerate_pixels_mut() {
        let (x, y) = (x as isize, y as isize);
        // The differences between the colors and the brightness are averaged over
        // blocks of 2x2 pixels, as in 4:2:0 subsampling.
        let (left, top) = (x & !1, y & !1);
        let mut color = [0.0; 3];
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let at = clamped(left + dx, top + dy);
            for (sum, value) in color.iter_mut().zip(pixels[at]) {
                *sum += 0.25 * (value - light[at]);
            }
        }
        let own = light[clamped(x, y)];
        let around: f32 = [(-1, 0), (1, 0), (0, -1), (0, 1)]
            .iter()
            .map(|(dx, dy)| 0.25 * light[clamped(x + dx, y + dy)])
            .sum();
        let base = own + sharpen * (own - around);
        to.0 = color.map(|color| (base + color).round() as u8);
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode_image(&picture)
        .context("cannot be encoded as JPEG")?;
    Ok((bytes, picture.dimensions()))
}

type Filed = anyhow::Result<(Vec<u8>, (u32, u32))>;

// ---------------------------------------------------------------------------
// The presets.

/// The light from various lamps in a dim room, as red, green, and blue.
const LAMPS: [[f32; 3]; 4] = [
    [1.45, 0.98, 0.52], // incandescent, white balance too weak
    [0.92, 1.14, 0.80], // old fluorescent tube
    [0.78, 0.98, 1.32], // blue evening light
    [1.18, 0.86, 1.10], // magenta tint from a camera without an infrared filter
];

fn dim(picture: &RgbImage, dice: &mut Dice) -> Filed {
    let mut light = Light::from(picture, 240);
    light = light.defocused(dice.between(0.4, 1.0));
    // The automatic exposure reaches its limit, so even the bright parts of the picture use
    // only about a fifth of the range. The factor depends on the brightness of the picture.
    let exposure = dice.between(0.10, 0.24) / light.quantile(0.92).max(0.05);
    let lamp = dice.one_of(&LAMPS);
    let strength = dice.between(0.5, 1.0);
    let lamp = lamp.map(|factor| factor.powf(strength));
    // Stray light in a cheap lens adds a veil. Its brightness is a fraction of the mean
    // brightness of the picture.
    let veil = dice.between(0.02, 0.06);
    light.each(|pixel| {
        let mut lit = [0.0; 3];
        for c in 0..3 {
            lit[c] = (pixel[c] * exposure + veil) * lamp[c];
        }
        lit
    });
    let gain = dice.between(0.4, 1.3);
    light.add_noise(0.050 * gain, 0.010 * gain, dice);
    // Noise reduction turns grain into blotches.
    light = light.defocused(dice.between(0.3, 0.7));
    let mut pixels = light.developed(dice.between(8.0, 26.0), dice.between(205.0, 245.0));
    // In the dark, firmware produces weak colors.
    let colorful = dice.between(0.55, 0.9);
    for pixel in &mut pixels {
        let gray = pixel.iter().sum::<f32>() / 3.0;
        *pixel = pixel.map(|value| gray + colorful * (value - gray));
    }
    let size = (light.width, light.height);
    filed(&pixels, size, dice.between(0.0, 0.6), 40)
}

fn backlight(picture: &RgbImage, faces: &[[f32; 4]], dice: &mut Dice) -> Filed {
    let mut light = Light::from(picture, 400);
    let scale = light.width as f32 / picture.width() as f32;
    let mut people: Vec<[f32; 4]> = faces
        .iter()
        .map(|face| face.map(|value| value * scale))
        .collect();
    let (width, height) = (light.width as f32, light.height as f32);
    if people.is_empty() {
        // There are no labels, and the detector found no face. Most likely, the face is so
        // close that it fills the picture.
        people.push([0.05 * width, 0.05 * height, 0.95 * width, height]);
    }

    // The window is brighter toward one upper corner or the top.
    let lean = dice.between(-0.6, 0.6);
    let window = dice.between(0.9, 1.8);
    let tint = dice.one_of(&[[1.0, 1.0, 1.0], [0.93, 1.0, 1.10], [1.06, 1.0, 0.90]]);
    let mut behind = Light {
        pixels: vec![[0.0; 3]; light.pixels.len()],
        ..light
    };
    behind.each_at(|_, x, y| {
        let bright = window * (0.75 + 0.25 * lean * x - 0.2 * y);
        tint.map(|tint| tint * bright)
    });
    // The matte covers the people in front of the window. It includes their heads, and
    // their shoulders down to the lower edge of the picture.
    let mut matte = Light {
        pixels: vec![[0.0; 3]; light.pixels.len()],
        ..light
    };
    matte.each_at(|_, x, y| {
        let (x, y) = (x.midpoint(1.0) * width, y.midpoint(1.0) * height);
        let covered = people.iter().map(|face| person(face, x, y));
        [covered.fold(0.0, f32::max); 3]
    });
    let matte = matte.along_edges_of(&light);
    // The camera exposes for the window, so the light in the room is weak.
    let room = dice.between(0.05, 0.15) / light.quantile(0.8).clamp(0.35, 1.0);
    let detail = dice.between(0.25, 0.6);
    let mut scene = Light {
        pixels: Vec::new(),
        ..light
    };
    for ((own, behind), matte) in light.pixels.iter().zip(&behind.pixels).zip(&matte.pixels) {
        let mut mixed = [0.0; 3];
        for c in 0..3 {
            let person = own[c] * room;
            // The background remains visible in the bright area.
            let background = behind[c] * (1.0 - detail + detail * own[c]);
            mixed[c] = matte[c] * person + (1.0 - matte[c]) * background;
        }
        scene.pixels.push(mixed);
    }
    // The light from the window is scattered over everything, strongly near edges
    // and slightly everywhere else.
    let near = scene.bloomed((0.02 * scene.longest()).ceil() as usize);
    let wide = scene.bloomed((0.16 * scene.longest()).ceil() as usize);
    let (near_share, wide_share) = (dice.between(0.05, 0.14), dice.between(0.03, 0.09));
    // Some of the light comes from outside the picture.
    let veil = tint.map(|tint| 0.02 * tint * window);
    for ((pixel, near), wide) in scene.pixels.iter_mut().zip(&near.pixels).zip(&wide.pixels) {
        for c in 0..3 {
            pixel[c] = (1.0 - near_share) * pixel[c]
                + near_share * near[c]
                + wide_share * wide[c]
                + veil[c];
        }
    }
    light = scene;
    let gain = dice.between(0.6, 1.3);
    light.add_noise(0.022 * gain, 0.004 * gain, dice);
    let pixels = light.developed(dice.between(0.0, 10.0), 255.0);
    let size = (light.width, light.height);
    let quality = dice.between(60.0, 80.0) as u8;
    filed(&pixels, size, dice.between(0.2, 0.9), quality)
}

/// Returns how much the person with this face covers the point (`x`, `y`), from 0 (not
/// at all) to 1 (completely).
fn person(&[x1, y1, x2, y2]: &[f32; 4], x: f32, y: f32) -> f32 {
    let (width, height) = ((x2 - x1).max(1.0), (y2 - y1).max(1.0));
    let (center_x, center_y) = (x1.midpoint(x2), y1.midpoint(y2));
    // The head is wider and taller than the box of the face.
    let across = (x - center_x) / (0.69 * width);
    let up = (y - center_y + 0.08 * height) / (0.74 * height);
    let head = (across * across + up * up).sqrt();
    let head = 1.0 - smooth(0.82, 1.18, head);
    // The neck widens into shoulders.
    let below = (y - (y2 - 0.1 * height)) / height;
    let half_width = width * (0.45 + 1.1 * smooth(0.1, 0.9, below));
    let beside = (x - center_x).abs() / half_width;
    let body = smooth(-0.1, 0.1, below) * (1.0 - smooth(0.88, 1.12, beside));
    head.max(body)
}

fn motion(picture: &RgbImage, dice: &mut Dice) -> Filed {
    let mut light = Light::from(picture, 320);
    // In most pictures, people walk across the picture or toward the camera. In a third of
    // the pictures, the camera shakes on its arm, in any direction and along a curve.
    let length = dice.between(0.022, 0.062) * light.longest();
    let shakes = dice.between(0.0, 1.0) < 0.33;
    let angle: f32 = if shakes {
        dice.between(-1.57, 1.57)
    } else {
        dice.between(-0.35, 0.35)
    };
    let bend = if shakes {
        dice.between(-0.8, 0.8)
    } else {
        dice.between(-0.15, 0.15)
    };
    let steps = (2.0 * length).ceil().max(4.0) as u32;
    let share = 1.0 / (steps + 1) as f32;
    let points: Vec<(f32, f32, f32)> = (0..=steps)
        .map(|step| {
            // `along` goes from -0.5 to 0.5 along the path, which is a parabola.
            let along = step as f32 * (1.0 / steps as f32) - 0.5;
            let (forth, side) = (along * length, bend * length * (along * along - 0.08));
            (
                forth * angle.cos() - side * angle.sin(),
                forth * angle.sin() + side * angle.cos(),
                share,
            )
        })
        .collect();
    light = light.spread(&points);
    // The exposure is long because there is little light.
    let exposure = dice.between(0.5, 0.95);
    let warm = dice.between(-0.12, 0.18);
    light.each(|[r, g, b]| {
        [
            r * exposure * (1.0 + warm),
            g * exposure,
            b * exposure * (1.0 - warm),
        ]
    });
    light.add_noise(0.02, 0.004, dice);
    let pixels = light.developed(dice.between(2.0, 14.0), 250.0);
    let size = (light.width, light.height);
    let quality = dice.between(55.0, 75.0) as u8;
    filed(&pixels, size, dice.between(0.2, 0.8), quality)
}

fn infrared(picture: &RgbImage, dice: &mut Dice) -> Filed {
    let mut light = Light::from(picture, 320);
    light = light.defocused(dice.between(0.5, 1.1));
    // Near infrared is next to red in the spectrum. Skin and most dyed cloth reflect
    // near infrared well, so colorful things look bright, and lips and blemishes
    // disappear.
    let dye = dice.between(0.35, 0.75);
    light.each(|[r, g, b]| {
        let brightest = r.max(g).max(b);
        let red = 0.8 * r + 0.2 * g;
        [red + dye * (brightest - red); 3]
    });
    // The lamps surround the lens, so the center is too bright and the corners are
    // black.
    let (x0, y0) = (dice.between(-0.25, 0.25), dice.between(-0.25, 0.25));
    let reach = dice.between(0.75, 1.25);
    let power = dice.between(0.9, 1.9);
    light.each_at(|pixel, x, y| {
        let distance = ((x - x0).powi(2) + (y - y0).powi(2)) / (reach * reach);
        let lamp = power * (0.12 + 0.88 * (-0.9 * distance).exp());
        pixel.map(|value| value * lamp)
    });
    // Saturated pixels spill over into their neighbors.
    let spill = light.bloomed((0.025 * light.longest()).ceil() as usize);
    for (pixel, spill) in light.pixels.iter_mut().zip(&spill.pixels) {
        let value = 0.85 * pixel[0] + 0.15 * spill[0];
        // This shoulder curve compresses bright values before they clip.
        *pixel = [1.12 * value / (1.0 + 0.25 * value); 3];
    }
    // The noise is gray, which means that it has the same value in all channels.
    let gain = dice.between(0.6, 1.4);
    for pixel in &mut light.pixels {
        let deviation = gain * (0.0012 * pixel[0].max(0.0) + 0.000_06).sqrt();
        *pixel = [pixel[0] + deviation * dice.normal(); 3];
    }
    let pixels = light.developed(dice.between(0.0, 16.0), 248.0);
    let size = (light.width, light.height);
    let quality = dice.between(50.0, 70.0) as u8;
    filed(&pixels, size, dice.between(0.4, 1.2), quality)
}

fn cast(picture: &RgbImage, dice: &mut Dice) -> Filed {
    let mut light = Light::from(picture, 400);
    light = light.defocused(dice.between(0.3, 0.6));
    let exposure = dice.between(0.6, 1.0);
    let lamp = dice.one_of(&LAMPS);
    let strength = dice.between(0.7, 1.3);
    let lamp = lamp.map(|factor| exposure * factor.powf(strength));
    light.each(|[r, g, b]| [r * lamp[0], g * lamp[1], b * lamp[2]]);
    let gain = dice.between(0.6, 1.3);
    light.add_noise(0.018 * gain, 0.003 * gain, dice);
    let pixels = light.developed(dice.between(0.0, 14.0), dice.between(235.0, 255.0));
    let size = (light.width, light.height);
    let quality = dice.between(55.0, 75.0) as u8;
    filed(&pixels, size, dice.between(0.2, 0.8), quality)
}
