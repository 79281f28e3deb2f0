//! Tables for people: columns, no lines.

use comfy_table::{CellAlignment, ColumnConstraint, Table, Width, presets};

/// A table with these column titles; a title that starts with `>` sets its column to the right.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
    for (column, title) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(1)));
    }
    table
}

/// The table as text, without blanks at the ends of its lines.
pub(crate) fn draw(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

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
}
