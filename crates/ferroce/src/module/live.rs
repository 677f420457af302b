// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module load`, `unload`, `list` and `log`.

use anyhow::Result;
use ferroce_kmod::kernel::loaded;
use ferroce_kmod::live::{self, KernelLog, LoadError, Record};

use super::args;
use super::text::{bytes, plain, rows, show, show_json, table};

pub fn load(args: &args::Load) -> Result<i32> {
    let params: Vec<String> = args.params.iter().map(|p| quoted(p)).collect();
    let tree = super::running_modules();
    match live::load(&tree, &args.module, &params.join(" ")) {
        Ok(loaded) => {
            for module in loaded {
                show(&format!("loaded {}\n", plain(&module.name)))?;
                show(&log_text(&module.log))?;
            }
            Ok(0)
        }
        Err(error) => {
            eprintln!("ferroce: {error}");
            if let LoadError::Refused { log, .. } = &error {
                match log.is_empty() {
                    true => eprintln!("The kernel logged nothing of it."),
                    false => eprint!("The kernel's log says:\n{}", log_text(log)),
                }
                eprintln!(
                    "For more: ferroce module check {}",
                    shown_path(&error, &args.module)
                );
            }
            Ok(1)
        }
    }
}

/// A parameter as the kernel takes it: with quotes around a value with spaces
/// (next_arg() in lib/cmdline.c).
fn quoted(param: &str) -> String {
    match param.split_once('=') {
        Some((name, value)) if value.contains(char::is_whitespace) => {
            format!("{name}=\"{value}\"")
        }
        _ => param.to_owned(),
    }
}

fn shown_path(error: &LoadError, module: &str) -> String {
    match error {
        LoadError::Refused { path, .. } => path.display().to_string(),
        LoadError::Other(_) => module.to_owned(),
    }
}

fn log_text(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("  {}\n", plain(line)))
        .collect()
}

pub fn unload(args: &args::Unload) -> Result<i32> {
    let mut status = 0;
    for name in &args.names {
        match live::unload(name) {
            Ok(log) => show(&format!("unloaded {}\n{}", plain(name), log_text(&log)))?,
            Err(error) => {
                eprintln!("ferroce: {error}");
                status = 1;
            }
        }
    }
    Ok(status)
}

pub fn list(args: &args::List) -> Result<i32> {
    let modules = loaded()?;
    if args.json {
        show_json(&modules)?;
        return Ok(0);
    }
    let mut all = table(&["module", "memory", "uses", "taints", "state", "used by"]);
    for module in &modules {
        all.add_row([
            plain(&module.name).into_owned(),
            bytes(module.size),
            module.references.map_or("-".to_owned(), |n| n.to_string()),
            module.taints.clone(),
            module.state.to_lowercase(),
            module.users.join(" "),
        ]);
    }
    let total: u64 = modules.iter().map(|m| m.size).sum();
    show(&format!(
        "{}{} modules, {}\n",
        rows(&all),
        modules.len(),
        bytes(total)
    ))?;
    Ok(0)
}

pub fn log(args: &args::Log) -> Result<i32> {
    let mut log = KernelLog::from_start()?;
    loop {
        let records = log.records();
        let ours = records.iter().filter(|r| r.concerns(&args.name));
        let text: String = ours.map(line).collect();
        // Nobody reads any more: there is nobody to follow it for.
        if !write(&text)? || !args.follow {
            return Ok(0);
        }
        log.wait()?;
    }
}

/// Whether there is still somebody who reads.
fn write(text: &str) -> Result<bool> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// As dmesg(1) has it.
fn line(record: &Record) -> String {
    format!(
        "[{:>5}.{:06}] {}\n",
        record.time.as_secs(),
        record.time.subsec_micros(),
        plain(&record.text)
    )
}
