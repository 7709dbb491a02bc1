//! Tables of text.

use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{CommandError, print_line};

/// The least width to which a column is cut on a narrow terminal.
const LEAST: usize = 8;

/// A table whose columns are as wide as their contents, as displayed by a terminal.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    hidden: [bool; N],
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
            hidden: [false; N],
        }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| printable(&cell)));
    }

    /// Leaves a column out.
    pub(super) fn hide(&mut self, column: usize) {
        self.hidden[column] = true;
    }

    /// Prints the table; on a terminal within its width, and with colours unless NO_COLOR is set.
    pub(super) fn print(&self) -> Result<(), CommandError> {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        let width = tcgetwinsize(&out).map_or(0, |size| usize::from(size.ws_col));
        let width = (is_terminal && width > 0).then_some(width);
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(print_line(&self.render(width, is_terminal && !no_colour))?)
    }

    /// Returns the lines, without a final line break and without spaces at their ends.
    fn render(&self, width: Option<usize>, is_coloured: bool) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let shown = |column: usize| !self.hidden[column];
        if let Some(most) = width {
            let columns = || (0..N).filter(|column| shown(*column));
            while columns().map(|column| widths[column] + 2).sum::<usize>() > most + 2 {
                let widest = columns().max_by_key(|column| widths[*column]);
                match widest.filter(|column| widths[*column] > LEAST) {
                    Some(column) => widths[column] -= 1,
                    None => break,
                }
            }
        }
        let is_headless = self.rows[0].iter().all(|head| head.is_empty());
        let rows = self.rows.iter().skip(usize::from(is_headless));
        let lines = rows.map(|row| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate().filter(|(column, _)| shown(*column)) {
                let cell = cut(cell, widths[column]);
                let space = " ".repeat(widths[column] - cell.width() + 2);
                match colour(&cell).filter(|_| is_coloured) {
                    Some(code) => line.push_str(&format!("\x1b[{code}m{cell}\x1b[0m{space}")),
                    None => line.push_str(&format!("{cell}{space}")),
                }
            }
            line.truncate(line.trim_end().len());
            line
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Returns the colour of a presence or a status, as a code of ECMA-48.
fn colour(cell: &str) -> Option<u8> {
    match cell {
        "available" => Some(32),
        "suspect" | "held" => Some(33),
        "offline" => Some(31),
        "disabled" => Some(2),
        _ => None,
    }
}

/// Cuts a text to a width, which an ellipsis shows.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    for character in text.chars() {
        if short.width() + character.width().unwrap_or(0) + 1 > width {
            break;
        }
        short.push(character);
    }
    short.push('…');
    short
}

/// Escapes control characters: a registered name must not move the cursor of the terminal that
/// lists it.
pub(super) fn printable(text: &str) -> String {
    let control =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(control, "\u{fffd}")
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
            table.render(None, false),
            "KEY     NAME    N\norders  订单    1\na       x\u{fffd}[2J\u{fffd}"
        );
    }

    #[test]
    fn a_long_cell_is_cut_to_the_width_of_the_terminal() {
        let mut table = Table::new(["KEY", "STATUS"]);
        table.row(["名".repeat(40), "held".into()]);
        let lines = table.render(Some(30), true);
        let row = lines.lines().nth(1).unwrap();
        assert_eq!(row, format!("{}…   \x1b[33mheld\x1b[0m", "名".repeat(10)));
        // A pipe gets everything.
        assert!(table.render(None, false).contains(&"名".repeat(40)));
        table.hide(0);
        assert_eq!(table.render(None, false), "STATUS\nheld");
    }
}
