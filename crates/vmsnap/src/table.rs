//! Tables for people: columns, no lines.

use unicode_width::UnicodeWidthStr;

/// A table of columns as wide as their widest cell. The cells stand in one text, as a list may have ten
/// thousands of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    text: String,
    /// Of each cell, row by row: where it ends in the text, and how many columns of a terminal it takes.
    cells: Vec<(usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    width: usize,
    is_right: bool,
}

/// A table with these column titles; a title that starts with `>` sets its column to the right.
pub(crate) fn table(titles: &[&str]) -> Table {
    let columns = titles.iter().map(|title| Column {
        width: 0,
        is_right: title.starts_with('>'),
    });
    let mut table = Table {
        columns: columns.collect(),
        ..Table::default()
    };
    table.add_row(titles.iter().map(|title| title.trim_start_matches('>')));
    table
}

impl Table {
    /// Adds a row: a cell for each column. Those that are missing are empty, and those beyond are left
    /// out.
    pub(crate) fn add_row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut cells = cells.into_iter();
        for column in &mut self.columns {
            let cell = cells.next();
            let cell = cell.as_ref().map_or("", AsRef::as_ref);
            let width = cell.width();
            column.width = column.width.max(width);
            self.text.push_str(cell);
            self.cells.push((self.text.len(), width));
        }
    }
}

/// The table as text, without blanks at the ends of its lines.
pub(crate) fn draw(table: &Table) -> String {
    let line = table.columns.iter().map(|column| column.width + GAP);
    let lines = table.cells.len() / table.columns.len().max(1);
    let mut text = String::with_capacity(lines * (line.sum::<usize>() + 1));
    let mut start = 0;
    for row in table.cells.chunks(table.columns.len().max(1)) {
        for (column, (end, width)) in table.columns.iter().zip(row) {
            let blanks = column.width.saturating_sub(*width);
            let (before, after) = if column.is_right {
                (blanks, GAP)
            } else {
                (0, blanks + GAP)
            };
            text.extend(std::iter::repeat_n(' ', before));
            text.push_str(table.text.get(start..*end).unwrap_or_default());
            text.extend(std::iter::repeat_n(' ', after));
            start = *end;
        }
        let blanks = text.len() - text.trim_end_matches(' ').len();
        text.truncate(text.len() - blanks);
        text.push('\n');
    }
    text
}

/// Blanks between two columns.
const GAP: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_columns_of_text() {
        let mut table = table(&["NAME", ">BYTES"]);
        table.add_row(["a", "1"]);
        table.add_row(["long", "4096"]);
        assert_eq!(draw(&table), "NAME  BYTES\na         1\nlong   4096\n");
    }

    #[test]
    fn cells_are_as_wide_as_a_terminal_shows_them() {
        let mut table = table(&["NAME", "A"]);
        table.add_row(["日本語", "1"]);
        table.add_row(["é", "2"]);
        assert_eq!(draw(&table), "NAME    A\n日本語  1\né       2\n");
    }

    #[test]
    fn rows_may_be_short_or_long() {
        let mut table = table(&["A", ">B"]);
        table.add_row(["1"]);
        table.add_row(["1", "2", "3"]);
        table.add_row([""; 0]);
        assert_eq!(draw(&table), "A  B\n1\n1  2\n\n");
        assert_eq!(draw(&super::table(&[])), "");
    }
}
