//! Rectangles and faces in the pixels of a frame.

/// A rectangle in frame pixels, with subpixel precision; it may extend beyond the
/// frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width; never negative.
    pub width: f32,
    /// Height; never negative.
    pub height: f32,
}

impl Rect {
    /// Returns the rectangle that covers a whole frame of `width` x `height` pixels.
    #[must_use]
    pub fn of_frame(width: u32, height: u32) -> Rect {
        Rect {
            x: 0.0,
            y: 0.0,
            width: width as f32,
            height: height as f32,
        }
    }

    /// Area in square pixels.
    #[must_use]
    pub fn area(&self) -> f32 {
        self.width * self.height
    }

    /// The length of the shorter side in pixels.
    #[must_use]
    pub fn short_side(&self) -> f32 {
        self.width.min(self.height)
    }

    /// Intersection over union with `other`, between 0 (no overlap) and 1
    /// (equal).
    ///
    /// ```
    /// use maskd::frame::Rect;
    /// let a = Rect { x: 0.0, y: 0.0, width: 10.0, height: 10.0 };
    /// let b = Rect { x: 5.0, y: 0.0, width: 10.0, height: 10.0 };
    /// assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-6);
    /// ```
    #[must_use]
    pub fn iou(&self, other: &Rect) -> f32 {
        let both = self.intersection(other);
        if both <= 0.0 {
            return 0.0;
        }
        both / (self.area() + other.area() - both)
    }

    /// Area of the intersection with `other` in square pixels.
    #[must_use]
    pub fn intersection(&self, other: &Rect) -> f32 {
        let width = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let height = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        width.max(0.0) * height.max(0.0)
    }

    /// Returns the pixels that this rectangle covers, with a margin around it, in a frame of
    /// `frame_width` x `frame_height` pixels. The margin on the left and on the right is `margin`
    /// times the width. The margin above and below is `margin` times the height.
    ///
    /// Returns `None` if the rectangle with its margin is outside the frame.
    #[must_use]
    pub fn region(&self, margin: f32, frame_width: u32, frame_height: u32) -> Option<Region> {
        let dx = margin * self.width;
        let dy = margin * self.height;
        let (left, right) = span(self.x - dx, self.x + self.width + dx, frame_width)?;
        let (top, bottom) = span(self.y - dy, self.y + self.height + dy, frame_height)?;
        Some(Region {
            left,
            top,
            width: right - left,
            height: bottom - top,
        })
    }
}

/// Returns the pixels from `from` to `to`, rounded outward and clamped to 0..`limit`, or `None` if
/// there are none.
fn span(from: f32, to: f32, limit: u32) -> Option<(u32, u32)> {
    // `as` saturates and maps NaN to 0, so an invalid box becomes empty.
    let from = from.floor().max(0.0) as u32;
    let to = (to.ceil().max(0.0) as u32).min(limit);
    (from < to).then_some((from, to))
}

/// A rectangle of whole pixels within its frame. It is never empty. Created by [`Rect::region`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Region {
    /// Left edge, top edge, width, and height in pixels.
    #[must_use]
    pub fn as_array(&self) -> [u32; 4] {
        [self.left, self.top, self.width, self.height]
    }
}

/// A face found by the detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    /// The face's box in frame pixels.
    pub rect: Rect,
    /// The detector's score, between 0 and 1.
    pub score: f32,
    /// Positions (x, y) of the left eye, the right eye, the nose, and the left
    /// and right corners of the mouth, in frame pixels. Left and right are as
    /// seen in the frame.
    pub landmarks: [(f32, f32); 5],
    /// The probability of a face according to the face check. `None` unless the face check accepted
    /// the box and the score alone is too low for a verdict.
    pub face_check: Option<f32>,
}
