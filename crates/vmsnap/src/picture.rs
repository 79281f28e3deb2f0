//! Memory as people see it: a character or a square for each cell.

use std::fmt::Write;

use snapshot_store::{Picture, PictureCell};

/// Cells in a line of a terminal.
const LINE_CELLS: usize = 64;

/// Cells of a picture in a terminal.
pub(crate) const TERMINAL_CELLS: u64 = 64 * 16;

/// Cells of a picture in a file.
pub(crate) const FILE_CELLS: u64 = 128 * 64;

/// Squares in a line of a file, and how wide each is.
const LINE_SQUARES: usize = 128;
const SQUARE: usize = 6;

/// A line for each 64 cells, and what the characters mean.
pub(crate) fn draw(picture: &Picture) -> String {
    let characters: Vec<char> = picture.cells.iter().map(character).collect();
    let mut text: String = characters
        .chunks(LINE_CELLS)
        .map(|line| line.iter().collect::<String>() + "\n")
        .collect();
    let pages = picture.cell_pages;
    let _ = writeln!(
        text,
        ". zero, # its own, 1 to 9 and + generations older; {pages} pages each"
    );
    let touched: u64 = picture.cells.iter().map(|cell| cell.working_set).sum();
    if touched > 0 {
        let cells = picture
            .cells
            .iter()
            .filter(|cell| cell.working_set > 0)
            .count();
        let _ = writeln!(
            text,
            "the working set has {touched} pages, in {cells} cells"
        );
    }
    text
}

fn character(cell: &PictureCell) -> char {
    match cell.most() {
        None => '.',
        Some(0) => '#',
        Some(generation) => char::from_digit(generation, 10).unwrap_or('+'),
    }
}

/// The picture as one SVG document. `title` may hold anything.
pub(crate) fn svg(picture: &Picture, title: &str) -> String {
    let lines = picture.cells.len().div_ceil(LINE_SQUARES);
    let (width, height) = (LINE_SQUARES * SQUARE, lines * SQUARE);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<title>{}</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#f4f4f4\"/>\n",
        escaped(title)
    );
    for (at, cell) in picture.cells.iter().enumerate() {
        let (x, y) = (at % LINE_SQUARES * SQUARE, at / LINE_SQUARES * SQUARE);
        let side = SQUARE - 1;
        if let Some(generation) = cell.most() {
            let fill = colour(generation);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"{fill}\"/>"
            );
        }
        if cell.working_set > 0 {
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"none\" \
                 stroke=\"#c62828\"/>"
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

/// Darker, the younger.
fn colour(generation: u32) -> String {
    let light = 96 + generation.min(10) * 14;
    format!("rgb({},{},{light})", light - 80, light - 40)
}

/// A text with nothing in it that is markup, or that a document must not hold.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: ANA-05
    #[test]
    fn a_name_cannot_leave_its_place_in_the_document() {
        let text = escaped("</title><script href=\"x\">&\u{7}");
        assert!(
            !text.contains(['<', '>', '"']) && !text.chars().any(char::is_control),
            "{text}"
        );
        assert_eq!(escaped("web/base"), "web/base");
    }

    #[test]
    fn every_generation_has_a_colour() {
        let colours: Vec<_> = [0, 1, 10, 11, u32::MAX].map(colour).to_vec();
        assert_eq!(colours[0], "rgb(16,56,96)");
        assert_ne!(colours[0], colours[1]);
        assert_eq!(colours[2], colours[4]);
    }
}
