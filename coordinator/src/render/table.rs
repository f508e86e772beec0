//! Tables: columns padded with spaces, so that `awk` and `grep` can read them too.

use comfy_table::{Table, presets::NOTHING};

/// A table with a header.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = empty();
    table.set_header(header);
    finish(table, rows)
}

/// Names and values, a line each.
pub(crate) fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    finish(empty(), rows.into_iter().map(|(name, value)| [name.to_owned(), value]))
}

/// A table with a header, below a heading of its own.
pub(crate) fn indented<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table(header, rows).lines().map(|line| format!("  {line}\n")).collect()
}

fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn finish<const N: usize>(mut table: Table, rows: impl IntoIterator<Item = [String; N]>) -> String {
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}
