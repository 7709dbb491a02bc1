//! Tables of text.

use std::fmt;

use unicode_width::UnicodeWidthStr;

/// A table whose columns are as wide as their contents, as displayed by a terminal.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| printable(&cell)));
    }
}

/// Escapes control characters: a registered name must not move the cursor of the terminal that
/// lists it.
pub(super) fn printable(text: &str) -> String {
    let control =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(control, "\u{fffd}")
}

/// Without a final line break, and without spaces at the ends of lines.
impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let headless = widths
            .iter()
            .zip(&self.rows[0])
            .all(|(_, head)| head.is_empty());
        let mut lines = self.rows.iter().skip(usize::from(headless)).map(|row| {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.width() + 2));
            }
            line.truncate(line.trim_end().len());
            line
        });
        if let Some(first) = lines.next() {
            f.write_str(&first)?;
        }
        lines.try_for_each(|line| write!(f, "\n{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_in_every_script() {
        let mut table = Table::new(["KEY", "NAME", "N"]);
        table.row(["orders".into(), "订单".into(), "1".into()]);
        table.row(["a".into(), "x\x1b[2J\n".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "KEY     NAME    N\norders  订单    1\na       x\u{fffd}[2J\u{fffd}"
        );
    }
}
