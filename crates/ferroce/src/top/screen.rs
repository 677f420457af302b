// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live view.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line as ScreenLine;
use ratatui::widgets::{Block, Clear, List, ListState, Paragraph};
use ratatui::Frame;

use super::model::{self, DeviceRow, ProgramRow, QpRow, Snapshot};
use super::text::{self, Line, Of};
use super::Sort;

const HELP: &str = " q quit   arrows select   Enter details   s sort by";

/// What is on the screen.
struct View {
    rows: Vec<DeviceRow>,
    lines: Vec<Line>,
    list: ListState,
    sort: Sort,
    has_details: bool,
    /// Why the last look failed.
    trouble: Option<String>,
}

/// Looks and shows until the user has it end.
pub fn run(look: impl Fn() -> Result<Snapshot>, interval: Duration, sort: Sort) -> Result<()> {
    let mut before = look()?;
    let mut view = View {
        rows: Vec::new(),
        lines: Vec::new(),
        list: ListState::default(),
        sort,
        has_details: false,
        trouble: None,
    };
    // Without rates yet.
    view.show(model::rows(&before, &before));
    // From here on the terminal is in another mode, which a panic ends as well.
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        let mut next = Instant::now() + interval;
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = next.saturating_duration_since(Instant::now());
            if event::poll(left)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release && view.key(key) => {
                        return Ok(());
                    }
                    _ => {}
                }
                continue;
            }
            next = Instant::now() + interval;
            match look() {
                Ok(now) => {
                    view.trouble = None;
                    view.show(model::rows(&before, &now));
                    before = now;
                }
                // A device may be gone, and come again.
                Err(error) => view.trouble = Some(format!("{error:#}")),
            }
        }
    })();
    ratatui::restore();
    result
}

impl View {
    fn show(&mut self, rows: Vec<DeviceRow>) {
        let selected = self.selected();
        self.rows = rows;
        self.sort.apply(&mut self.rows);
        self.lines = text::lines(&self.rows);
        let place = |of: &Of| self.lines.iter().position(|line| is_same(&line.of, of));
        let place = selected.as_ref().and_then(place);
        self.list.select(place.or_else(|| self.step(None, 1)));
    }

    /// What is selected, which is a queue pair.
    fn selected(&self) -> Option<Of> {
        Some(self.lines.get(self.list.selected()?)?.of.clone())
    }

    /// The next line of a queue pair, in one direction or the other.
    fn step(&self, from: Option<usize>, by: isize) -> Option<usize> {
        let is_qp = |at: &usize| matches!(self.lines[*at].of, Of::Qp { .. });
        match by {
            1 => {
                let start = from.map_or(0, |from| from + 1);
                (start..self.lines.len()).find(is_qp)
            }
            _ => (0..from?).rev().find(is_qp),
        }
    }

    /// Returns whether the user has it end.
    fn key(&mut self, key: KeyEvent) -> bool {
        let at = self.list.selected();
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Esc if self.has_details => self.has_details = false,
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Down | KeyCode::Char('j') => {
                self.list.select(self.step(at, 1).or(at));
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.list.select(self.step(at, -1).or(at));
            }
            KeyCode::Enter => self.has_details = !self.has_details && at.is_some(),
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                let rows = std::mem::take(&mut self.rows);
                self.show(rows);
            }
            _ => {}
        }
        false
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [body, foot] =
            Layout::vertical([Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
        let lines = self.lines.iter().map(styled);
        let list = List::new(lines).highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(list, body, &mut self.list);
        let foot_text = match &self.trouble {
            Some(trouble) => ScreenLine::from(format!(" {trouble}")).fg(Color::Red),
            None => {
                let sort = format!("{:?}", self.sort).to_lowercase();
                ScreenLine::from(format!("{HELP} {sort}")).dim()
            }
        };
        frame.render_widget(foot_text, foot);
        if self.has_details {
            self.draw_details(frame);
        }
    }

    fn draw_details(&self, frame: &mut Frame<'_>) {
        let lines = match self.find_selected() {
            Some((device, program, qp)) => text::details(&device.name, program, qp),
            None => vec!["it is gone".to_owned()],
        };
        let title = match self.selected() {
            Some(Of::Qp { number, .. }) => format!(" queue pair {number} "),
            _ => String::new(),
        };
        let area = frame.area();
        let height = u16::try_from(lines.len())
            .unwrap_or(u16::MAX)
            .saturating_add(2);
        let [area] = Layout::vertical([Constraint::Length(height)])
            .flex(ratatui::layout::Flex::Center)
            .areas(area);
        let [area] = Layout::horizontal([Constraint::Length(64)])
            .flex(ratatui::layout::Flex::Center)
            .areas(area);
        frame.render_widget(Clear, area);
        let lines: Vec<ScreenLine<'_>> = lines.into_iter().map(ScreenLine::from).collect();
        frame.render_widget(
            Paragraph::new(lines).block(Block::bordered().title(title)),
            area,
        );
    }

    fn find_selected(&self) -> Option<(&DeviceRow, &ProgramRow, &QpRow)> {
        let Some(Of::Qp { device, number, .. }) = self.selected() else {
            return None;
        };
        let device = self.rows.iter().find(|row| row.name == device)?;
        device.programs.iter().find_map(|program| {
            let qp = program.qps.iter().find(|qp| qp.number == number)?;
            Some((device, program, qp))
        })
    }
}

/// Whether two lines are of one queue pair.
fn is_same(one: &Of, other: &Of) -> bool {
    match (one, other) {
        (
            Of::Qp { device, number, .. },
            Of::Qp {
                device: other_device,
                number: other_number,
                ..
            },
        ) => (device, number) == (other_device, other_number),
        _ => false,
    }
}

fn styled(line: &Line) -> ScreenLine<'_> {
    let text = ScreenLine::from(line.text.as_str());
    match line.of {
        Of::Device => text.bold(),
        Of::Program => text.fg(Color::Cyan),
        Of::Header => text.dim(),
        Of::Qp {
            is_waiting: true, ..
        } => text.fg(Color::Yellow),
        Of::Qp { .. } | Of::Nothing => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;

    fn qp(number: u32, messages: f64) -> QpRow {
        QpRow {
            number,
            kind: "RC".to_owned(),
            state: "RTS".to_owned(),
            peer: Some(number + 1),
            messages: Some(messages),
            received: None,
            packets: None,
            send_pending: Some(4),
            receives: Some(0),
            rnr_tries: 2,
            ack_tries: 0,
            waits_for: None,
        }
    }

    fn view() -> View {
        let program = ProgramRow {
            pid: Some(1),
            name: "a".to_owned(),
            messages: None,
            completions: None,
            is_overrun: false,
            qps: vec![qp(17, 1.0), qp(19, 2000.0)],
        };
        let device = DeviceRow {
            name: "fr0".to_owned(),
            state: "ACTIVE".to_owned(),
            netdev: None,
            messages: None,
            sent: None,
            received: None,
            unit: "bytes",
            rnr: None,
            retransmissions: None,
            programs: vec![program],
        };
        let mut view = View {
            rows: Vec::new(),
            lines: Vec::new(),
            list: ListState::default(),
            sort: Sort::Number,
            has_details: false,
            trouble: None,
        };
        view.show(vec![device]);
        view
    }

    fn drawn(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn keys_select_sort_and_show_details() {
        let mut view = view();
        let press = |view: &mut View, code| view.key(KeyEvent::from(code));
        let number = |view: &View| view.find_selected().map(|(_, _, qp)| qp.number);
        assert_eq!(number(&view), Some(17));
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Down);
        assert_eq!(number(&view), Some(19));
        // What is selected stays so where it is sorted to.
        press(&mut view, KeyCode::Char('s'));
        assert_eq!(number(&view), Some(19));
        let screen = drawn(&mut view);
        assert!(screen.find("19 ") < screen.find("17 "), "{screen}");
        assert!(screen.contains("sort by messages"), "{screen}");

        press(&mut view, KeyCode::Enter);
        let screen = drawn(&mut view);
        assert!(
            screen.contains("queue pair 19") && screen.contains("RNR tries"),
            "{screen}"
        );
        assert!(
            !press(&mut view, KeyCode::Esc),
            "Esc closes the details first"
        );
        assert!(press(&mut view, KeyCode::Esc));
    }

    #[test]
    fn what_is_selected_may_go() {
        let mut view = view();
        view.has_details = true;
        view.show(Vec::new());
        let screen = drawn(&mut view);
        assert!(
            screen.contains("no RDMA devices") && screen.contains("it is gone"),
            "{screen}"
        );
        view.trouble = Some("the RDMA core is gone".to_owned());
        assert!(drawn(&mut view).contains("the RDMA core is gone"));
    }
}
