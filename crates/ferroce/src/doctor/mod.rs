// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce doctor`: what this machine has for ferroce and what it lacks, with the remedy.
//!
//! What can be tried is tried: a guest is booted, a process writes into another's memory.

mod kernel;
mod lab;
mod programs;
mod seccomp;

use std::fmt;
use std::io::{self, Write};

use anyhow::Result;
use comfy_table::{presets, ContentArrangement, Table};
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Be the process that tries a seccomp filter on itself.
    #[arg(long, hide = true, exclusive = true)]
    seccomp: bool,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is here, and works as far as that was tried.
    Works,
    /// It is not here, and ferroce gets it when it needs it.
    Gets,
    /// It is not here, or does not work.
    Lacks,
    /// It is not here, and only some commands need it.
    None,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Works => "ok",
            State::Gets => "gets",
            State::Lacks => "LACKS",
            State::None => "-",
        })
    }
}

/// What was found of one thing.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    found: String,
    /// What to do about it, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn new(name: &'static str, state: State, found: impl Into<String>) -> Self {
        Self {
            name,
            state,
            found: found.into(),
            remedy: None,
        }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// What belongs together.
#[derive(Debug, Serialize)]
struct Section {
    title: &'static str,
    /// Whether the demo needs all of it.
    is_for_demo: bool,
    findings: Vec<Finding>,
}

/// Shows everything. Returns the exit status: zero if `ferroce demo` can run.
pub fn run(args: &Args) -> Result<i32> {
    if args.seccomp {
        return seccomp::try_on_self();
    }
    let lab = lab::Lab::look()?;
    let sections = [
        Section {
            title: "The lab: demo, lab, bench",
            is_for_demo: true,
            findings: lab.needs(),
        },
        Section {
            title: "The lab's guests",
            is_for_demo: false,
            findings: lab.others(),
        },
        Section {
            title: "This machine's kernel",
            is_for_demo: false,
            findings: kernel::findings(),
        },
        Section {
            title: "Programs with verbs",
            is_for_demo: false,
            findings: programs::findings(),
        },
    ];
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&sections)?)?,
        false => print(&mut out, &sections)?,
    }
    let can_demo = sections
        .iter()
        .filter(|section| section.is_for_demo)
        .flat_map(|section| &section.findings)
        .all(|finding| finding.state != State::Lacks);
    Ok(i32::from(!can_demo))
}

/// The width of what is printed, in columns.
const WIDTH: u16 = 80;

fn print(out: &mut impl Write, sections: &[Section]) -> io::Result<()> {
    for section in sections {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(WIDTH);
        for finding in &section.findings {
            let remedy = finding.remedy.iter().map(|text| format!("-> {text}"));
            let text: Vec<String> = [finding.found.clone()].into_iter().chain(remedy).collect();
            table.add_row([
                finding.state.to_string(),
                finding.name.to_owned(),
                text.join("\n"),
            ]);
        }
        writeln!(out, "{}", section.title)?;
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out)?;
    }
    Ok(())
}
