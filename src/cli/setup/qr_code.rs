//! QR codes for the terminal.

use qrcode::{Color, EcLevel, QrCode};

/// Number of light modules around a code, which cameras need to find it (ISO/IEC 18004).
const QUIET_ZONE: usize = 4;

/// Returns a text as a QR code, with a line for each two rows of modules. Returns `None` if the
/// text is too long for a code.
///
/// The colors are set, because a code that is light on dark cannot be read by every phone.
pub(super) fn lines(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, colors) = (code.width(), code.to_colors());
    let is_dark = |x: usize, y: usize| {
        let (x, y) = (x.checked_sub(QUIET_ZONE), y.checked_sub(QUIET_ZONE));
        let module = x.zip(y).filter(|(x, y)| *x < width && *y < width);
        module.is_some_and(|(x, y)| colors[y * width + x] == Color::Dark)
    };
    let side = width + 2 * QUIET_ZONE;
    let mut lines = String::new();
    for y in (0..side).step_by(2) {
        // Black on white.
        lines += "\x1b[30;47m";
        lines.extend((0..side).map(|x| match (is_dark(x, y), is_dark(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        }));
        lines += "\x1b[0m\n";
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_light_edges_and_three_finder_patterns() {
        let code = lines("http://192.168.100.120:8080").unwrap();
        let rows: Vec<Vec<char>> = code
            .lines()
            .map(|line| {
                let line = line.strip_prefix("\x1b[30;47m").unwrap();
                line.strip_suffix("\x1b[0m").unwrap().chars().collect()
            })
            .collect();
        // Version 2 has 25 modules.
        let side = 25 + 2 * QUIET_ZONE;
        assert_eq!(rows.len(), side.div_ceil(2));
        assert!(rows.iter().all(|row| row.len() == side));
        for row in &rows {
            assert!(row[..QUIET_ZONE].iter().all(|c| *c == ' '));
            assert!(row[side - QUIET_ZONE..].iter().all(|c| *c == ' '));
        }
        assert!(rows[..QUIET_ZONE / 2].iter().flatten().all(|c| *c == ' '));
        // The rows of a finder pattern, which has 7 modules: a full one, and three in one.
        let finder: Vec<String> = (2..6)
            .map(|row| rows[row][4..11].iter().collect())
            .collect();
        assert_eq!(finder, ["█▀▀▀▀▀█", "█ ███ █", "█ ▀▀▀ █", "▀▀▀▀▀▀▀"]);
        let right: String = rows[2][side - 11..side - 4].iter().collect();
        assert_eq!(right, "█▀▀▀▀▀█");
        assert!(lines(&"x".repeat(5000)).is_none());
    }
}
