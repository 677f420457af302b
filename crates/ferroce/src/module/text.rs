// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the reports have in common: width, colour, and texts of others'.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::{presets, ColumnConstraint, ContentArrangement, Table};
use serde::Serialize;

/// What lines are broken at where there is no terminal to ask.
const WIDTH: usize = 80;

/// Writes a report to standard output. A reader that has seen enough is none
/// of our business.
pub fn show(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes a value as JSON.
pub fn show_json(value: &impl Serialize) -> Result<()> {
    show(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A text out of a module's file, which may be anything, for a terminal:
/// control characters are shown, not obeyed.
pub fn plain(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return text.into();
    }
    let escape = |c: char| match harmless(c) {
        true => c.to_string(),
        false => c.escape_default().to_string(),
    };
    text.chars().map(escape).collect::<String>().into()
}

/// A text in colour, if somebody looks at it.
pub fn painted(color: Color, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{}m{text}\x1b[0m", color as u8)
    } else {
        text.to_owned()
    }
}

/// The colours of verdicts (ECMA-48 SGR).
#[derive(Debug, Clone, Copy)]
pub enum Color {
    Bold = 1,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// A paragraph, broken to the width, with an indent for its first line and one
/// for the others.
pub fn paragraph(first: &str, rest: usize, text: &str) -> String {
    let mut out = String::from(first);
    let mut column = first.chars().count();
    let mut empty = true;
    for word in plain(text).split_whitespace() {
        let length = word.chars().count();
        if !empty && column + 1 + length > WIDTH {
            out += "\n";
            out += &" ".repeat(rest);
            column = rest;
            empty = true;
        }
        if !empty {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
        empty = false;
    }
    out.push('\n');
    out
}

/// A table without lines, as wide as it needs to be, up to the width.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH as u16)
        .set_header(header);
    // Names are to be searched for, and so whole.
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// A table's text, with no spaces around it.
pub fn rows(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        // Each cell has a space before it.
        text += line.strip_prefix(' ').unwrap_or(&line).trim_end();
        text.push('\n');
    }
    text
}

/// A number of bytes, for a person.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_the_width_and_indented() {
        let text = paragraph("  a: ", 5, &"word ".repeat(30));
        assert!(text.lines().all(|l| l.len() <= WIDTH), "{text}");
        assert!(text.lines().skip(1).all(|l| l.starts_with("     word")));
    }

    #[test]
    fn a_module_cannot_write_escape_sequences_to_a_terminal() {
        assert_eq!(plain("\x1b[31mred\n"), "\\u{1b}[31mred\n");
    }
}
