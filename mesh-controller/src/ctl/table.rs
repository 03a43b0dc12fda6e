//! Tables as istioctl prints them: columns of the width of their widest cell, five spaces apart.

use std::fmt::Write as _;

const GAP: usize = 5;

/// Rows of text under a heading.
#[derive(Debug)]
pub struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    #[must_use]
    pub fn new(heading: [&str; COLUMNS]) -> Self {
        Self { rows: vec![heading.map(str::to_owned)] }
    }

    pub fn push(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
    }

    /// With rows in order, apart from the heading.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.rows[1..].sort();
        self
    }

    #[must_use]
    pub fn print(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                // Writing to a String cannot fail.
                let _ = write!(line, "{cell:width$}{:GAP$}", "");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "PORT"]);
        table.push(["länger".to_owned(), "80".to_owned()]);
        table.push(["a".to_owned(), String::new()]);
        assert_eq!(table.sorted().print(), "NAME       PORT\na\nlänger     80\n");
    }
}
