//! Converts uncompressed YUV pictures from webcams and camera programs to RGB.
//!
//! This module owns the layouts and the color conversion. It does not know where the bytes come
//! from. The lines of a picture must not be padded.
//!
//! The conversion is the inverse of ITU-R BT.601-7. Section 2.5.1 defines
//! Y' = 0.299 R' + 0.587 G' + 0.114 B', and section 2.5.2 defines the color
//! differences (B' - Y') / 1.772 and (R' - Y') / 1.402. Section 2.5.3 maps Y' to 219
//! and the color differences to 224 of the 256 levels ([`Range::Limited`]). JFIF
//! (ITU-T T.871, section 7) maps all three values to all 256 levels ([`Range::Full`]).

use image::RgbImage;

use super::{MAX_PIXELS, PictureError};

/// The memory layout of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Packed 4:2:2, called `YUYV` by V4L2. Each pair of adjacent pixels is stored as
    /// Y U Y V.
    Yuyv,
    /// Semiplanar 4:2:0, called `NV12` by V4L2. All Y values are followed by
    /// interleaved U and V values, with one pair for each block of 2 x 2 pixels.
    Nv12,
    /// Planar 4:2:0, called `YU12` by V4L2, `yuv420p` by ffmpeg, and `yuv420` by
    /// rpicam-vid. All Y values are followed by all U values and then all V values, with
    /// one U and one V for each block of 2 x 2 pixels.
    I420,
}

/// The part of the 256 levels that the values use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Y is between 16 and 235; U and V are between 16 and 240. This is V4L2's
    /// default for YUV, and also the range of ffmpeg's `yuv420p`.
    Limited,
    /// All values are between 0 and 255, as in JPEG. This is the range of
    /// rpicam-vid's `yuv420`, which requests libcamera's `Sycc` colors.
    Full,
}

/// The format of an uncompressed picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct YuvFormat {
    layout: Layout,
    range: Range,
    width: u32,
    height: u32,
}

impl YuvFormat {
    /// Creates the format of pictures with `width` x `height` pixels.
    ///
    /// ```
    /// use maskd::frame::yuv::{Layout, Range, YuvFormat};
    /// let format = YuvFormat::new(Layout::I420, Range::Full, 640, 480)?;
    /// assert_eq!(format.frame_bytes(), 640 * 480 * 3 / 2);
    /// let gray = format.decode(&vec![128; format.frame_bytes()])?;
    /// assert_eq!(gray.get_pixel(0, 0).0, [128; 3]);
    /// # Ok::<(), maskd::frame::PictureError>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`PictureError::YuvSize`] if a side is 0, or if a [`Layout::Yuyv`] picture has an
    /// odd width. Returns [`PictureError::TooLarge`] if there are more than [`MAX_PIXELS`] pixels.
    pub fn new(
        layout: Layout,
        range: Range,
        width: u32,
        height: u32,
    ) -> Result<YuvFormat, PictureError> {
        let odd = layout == Layout::Yuyv && width % 2 == 1;
        if width == 0 || height == 0 || odd {
            return Err(PictureError::YuvSize { width, height });
        }
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(PictureError::TooLarge {
                width,
                height,
                weight: 1,
                max_pixels: MAX_PIXELS,
            });
        }
        Ok(YuvFormat {
            layout,
            range,
            width,
            height,
        })
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Size of one picture in bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        match self.layout {
            Layout::Yuyv => 2 * self.pixels(),
            Layout::Nv12 | Layout::I420 => self.pixels() + 2 * self.chroma_pixels(),
        }
    }

    /// Converts the first [`frame_bytes`](Self::frame_bytes) bytes of `bytes` to RGB.
    /// `bytes` may be longer because a camera's buffer may be longer than a frame.
    ///
    /// # Errors
    /// Returns [`PictureError::Truncated`] if `bytes` is shorter than one picture.
    pub fn decode(&self, bytes: &[u8]) -> Result<RgbImage, PictureError> {
        let bytes = bytes
            .get(..self.frame_bytes())
            .ok_or(PictureError::Truncated)?;
        let matrix = match self.range {
            Range::Limited => Matrix::LIMITED,
            Range::Full => Matrix::FULL,
        };
        let mut picture = RgbImage::new(self.width, self.height);
        if self.layout == Layout::Yuyv {
            // The width is even, so no pair of pixels spans two lines.
            let rgb = picture.as_chunks_mut::<6>().0;
            for ([y0, u, y1, v], rgb) in bytes.as_chunks::<4>().0.iter().zip(rgb) {
                *rgb = matrix.pair([*y0, *y1], [*u, *v]);
            }
            return Ok(picture);
        }
        let (luma, chroma) = bytes.split_at(self.pixels());
        let (first, second) = chroma.split_at(self.chroma_pixels());
        let width = self.width as usize;
        let half = width.div_ceil(2);
        let lines = luma
            .chunks_exact(width)
            .zip(picture.chunks_exact_mut(3 * width));
        for (y, (line, rgb)) in lines.enumerate() {
            let from = y / 2 * half;
            if self.layout == Layout::I420 {
                let (first, second) = (&first[from..from + half], &second[from..from + half]);
                let chroma = first.iter().zip(second).map(|(u, v)| [*u, *v]);
                matrix.line(line, chroma, rgb);
            } else {
                let pairs = &chroma[2 * from..2 * (from + half)];
                matrix.line(line, pairs.as_chunks::<2>().0.iter().copied(), rgb);
            }
        }
        Ok(picture)
    }

    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Number of U values in a 4:2:0 layout, which is also the number of V values. If the width is
    /// odd, the last column has its own values. If the height is odd, the last line has its own
    /// values.
    fn chroma_pixels(&self) -> usize {
        self.width.div_ceil(2) as usize * self.height.div_ceil(2) as usize
    }
}

/// The conversion in fixed-point arithmetic. All factors are multiplied by 2^16.
struct Matrix {
    black: i32,
    luma: i32,
    red_of_v: i32,
    green_of_u: i32,
    green_of_v: i32,
    blue_of_u: i32,
}

impl Matrix {
    const LIMITED: Matrix = Matrix::new(16, 219.0, 224.0);
    const FULL: Matrix = Matrix::new(0, 255.0, 255.0);

    const fn new(black: i32, luma_steps: f64, chroma_steps: f64) -> Matrix {
        const ONE: f64 = 65_536.0;
        // Number of 8-bit RGB levels per level of Y, and per level of U or V.
        let luma = 255.0 / luma_steps;
        let chroma = 255.0 / chroma_steps;
        Matrix {
            black,
            luma: round(ONE * luma),
            red_of_v: round(ONE * chroma * 1.402),
            green_of_u: round(-ONE * chroma * 0.114 * 1.772 / 0.587),
            green_of_v: round(-ONE * chroma * 0.299 * 1.402 / 0.587),
            blue_of_u: round(ONE * chroma * 1.772),
        }
    }

    /// Converts a line of pixels to RGB. `chroma` contains one U and one V for each pair of pixels.
    /// The loop runs over pairs because the compiler can vectorize such a loop. On aarch64, it
    /// executes a third as many instructions as a loop over single pixels.
    fn line(&self, luma: &[u8], chroma: impl Iterator<Item = [u8; 2]> + Clone, rgb: &mut [u8]) {
        let (pairs, odd) = luma.as_chunks::<2>();
        let (whole, last) = rgb.as_chunks_mut::<6>();
        for ((luma, rgb), chroma) in pairs.iter().zip(whole).zip(chroma.clone()) {
            *rgb = self.pair(*luma, chroma);
        }
        if let [luma] = odd
            && let Some([u, v]) = chroma.last()
        {
            last.copy_from_slice(&self.rgb(*luma, u, v));
        }
    }

    /// Converts two adjacent pixels, which share U and V.
    fn pair(&self, [left, right]: [u8; 2], [u, v]: [u8; 2]) -> [u8; 6] {
        let [r0, g0, b0] = self.rgb(left, u, v);
        let [r1, g1, b1] = self.rgb(right, u, v);
        [r0, g0, b0, r1, g1, b1]
    }

    fn rgb(&self, y: u8, u: u8, v: u8) -> [u8; 3] {
        let y = self.luma * (i32::from(y) - self.black) + (1 << 15);
        let u = i32::from(u) - 128;
        let v = i32::from(v) - 128;
        [
            y + self.red_of_v * v,
            y + self.green_of_u * u + self.green_of_v * v,
            y + self.blue_of_u * u,
        ]
        .map(|value| (value >> 16).clamp(0, 255) as u8)
    }
}

/// Rounds to the nearest integer. This function exists because `f64::round` is not `const`.
const fn round(value: f64) -> i32 {
    (if value < 0.0 {
        value - 0.5
    } else {
        value + 0.5
    }) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUTS: [Layout; 3] = [Layout::Yuyv, Layout::Nv12, Layout::I420];

    fn one_color(layout: Layout, [y, u, v]: [u8; 3]) -> Vec<u8> {
        match layout {
            Layout::Yuyv => [y, u, y, v].repeat(2),
            Layout::Nv12 | Layout::I420 => vec![y, y, y, y, u, v],
        }
    }

    /// The standard's forward conversion from RGB to YUV in floating point.
    fn encode(range: Range, rgb: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = rgb.map(|value| f64::from(value) / 255.0);
        let y = 0.299 * r + 0.587 * g + 0.114 * b;
        let (cb, cr) = ((b - y) / 1.772, (r - y) / 1.402);
        let values = match range {
            Range::Limited => [219.0 * y + 16.0, 224.0 * cb + 128.0, 224.0 * cr + 128.0],
            Range::Full => [255.0 * y, 255.0 * cb + 128.0, 255.0 * cr + 128.0],
        };
        values.map(|value| value.round() as u8)
    }

    #[test]
    fn colors_are_those_of_the_standard() {
        // The 8-bit values of the 100% color bars in BT.601 and in JFIF.
        let bars = [
            ([255, 255, 255], [235, 128, 128], [255, 128, 128]),
            ([0, 0, 0], [16, 128, 128], [0, 128, 128]),
            ([255, 0, 0], [81, 90, 240], [76, 85, 255]),
            ([0, 255, 0], [145, 54, 34], [150, 44, 21]),
            ([0, 0, 255], [41, 240, 110], [29, 255, 107]),
            ([255, 255, 0], [210, 16, 146], [226, 0, 149]),
        ];
        for (rgb, limited, full) in bars {
            for layout in LAYOUTS {
                for (range, yuv) in [(Range::Limited, limited), (Range::Full, full)] {
                    let format = YuvFormat::new(layout, range, 2, 2).unwrap();
                    let picture = format.decode(&one_color(layout, yuv)).unwrap();
                    for pixel in picture.pixels() {
                        let far = (0..3).map(|at| pixel.0[at].abs_diff(rgb[at])).max();
                        assert!(far <= Some(2), "{layout:?} {range:?} {rgb:?}: {pixel:?}");
                    }
                }
            }
        }
        let format = YuvFormat::new(Layout::Yuyv, Range::Limited, 2, 1).unwrap();
        let picture = format.decode(&[16, 128, 235, 128]).unwrap();
        assert_eq!(picture.into_raw(), [0, 0, 0, 255, 255, 255], "exactly");
    }

    #[test]
    fn each_pixel_takes_its_own_values() {
        // In a 3 x 3 picture, the last column and the last line have their own U and
        // V.
        let format = |layout| YuvFormat::new(layout, Range::Full, 3, 3).unwrap();
        let luma = [10, 20, 30, 40, 50, 60, 70, 80, 90];
        let (u, v) = ([128, 138, 148, 158], [128, 118, 108, 98]);
        let planar = [&luma[..], &u, &v].concat();
        let pairs: Vec<u8> = u.iter().zip(v).flat_map(|(u, v)| [*u, v]).collect();
        let expected: Vec<u8> = (0..9)
            .flat_map(|at| {
                let chroma = at / 3 / 2 * 2 + at % 3 / 2;
                Matrix::FULL.rgb(luma[at], u[chroma], v[chroma])
            })
            .collect();
        let picture = format(Layout::I420).decode(&planar).unwrap();
        assert_eq!(picture.into_raw(), expected);
        let picture = format(Layout::Nv12).decode(&[&luma[..], &pairs].concat());
        assert_eq!(picture.unwrap().into_raw(), expected);
        assert_eq!(expected[..3], [10, 10, 10], "gray stays gray");

        let format = YuvFormat::new(Layout::Yuyv, Range::Full, 2, 2).unwrap();
        let picture = format.decode(&[1, 128, 2, 128, 3, 128, 4, 128]).unwrap();
        assert_eq!(picture.into_raw(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let new = |layout, width, height| YuvFormat::new(layout, Range::Full, width, height);
        for (layout, width, height) in [
            (Layout::Yuyv, 3, 2),
            (Layout::I420, 0, 2),
            (Layout::Nv12, 2, 0),
        ] {
            let error = new(layout, width, height).unwrap_err();
            assert!(matches!(error, PictureError::YuvSize { .. }), "{error}");
        }
        let error = new(Layout::I420, u32::MAX, u32::MAX).unwrap_err();
        assert!(matches!(error, PictureError::TooLarge { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_color_comes_back(rgb in any::<[u8; 3]>(), limited in any::<bool>()) {
            let (range, matrix) = if limited {
                (Range::Limited, Matrix::LIMITED)
            } else {
                (Range::Full, Matrix::FULL)
            };
            let [y, u, v] = encode(range, rgb);
            // Y, U, and V may each be off by half a level, and the result is rounded.
            for (value, original) in matrix.rgb(y, u, v).into_iter().zip(rgb) {
                prop_assert!(value.abs_diff(original) <= 2, "{} for {}", value, original);
            }
        }

        #[test]
        fn any_bytes_are_a_picture_or_too_short(
            layout in prop::sample::select(LAYOUTS.to_vec()),
            width in 0u32..20,
            height in 0u32..20,
            bytes in prop::collection::vec(any::<u8>(), 0..900),
        ) {
            if let Ok(format) = YuvFormat::new(layout, Range::Limited, width, height) {
                match format.decode(&bytes) {
                    Ok(picture) => {
                        prop_assert!(bytes.len() >= format.frame_bytes());
                        prop_assert_eq!(picture.dimensions(), (width, height));
                    }
                    Err(error) => {
                        prop_assert!(bytes.len() < format.frame_bytes());
                        prop_assert!(matches!(error, PictureError::Truncated));
                    }
                }
            }
        }
    }
}
