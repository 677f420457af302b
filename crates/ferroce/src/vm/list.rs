// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce vm list`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use comfy_table::{presets, Table};
use ferroce_lab::progress::bytes;
use ferroce_lab::vm::{Vm, Vms};
use serde::Serialize;

/// What is told of a machine.
#[derive(Serialize)]
struct Row {
    name: String,
    running: bool,
    ssh_port: u16,
    cpus: u32,
    memory: u64,
    disk: u64,
    /// What the disk takes here, in bytes.
    disk_used: u64,
    share: Option<PathBuf>,
    image: PathBuf,
    folder: PathBuf,
    ssh_config: PathBuf,
}

impl From<Vm> for Row {
    fn from(vm: Vm) -> Self {
        Self {
            running: vm.is_running(),
            ssh_port: vm.settings.port,
            cpus: vm.settings.cpus,
            memory: vm.settings.memory,
            disk: vm.settings.disk,
            disk_used: vm.disk_used(),
            folder: vm.folder().to_owned(),
            ssh_config: vm.ssh_config(),
            share: vm.settings.share,
            image: vm.settings.base.file,
            name: vm.name,
        }
    }
}

pub fn run(vms: &Vms, json: bool) -> Result<i32> {
    let rows: Vec<Row> = vms.all()?.into_iter().map(Row::from).collect();
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(0);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NAME", "STATE", "SSH PORT", "CPUS", "MEMORY", "DISK", "WRITTEN", "SHARE",
    ]);
    for row in &rows {
        let share = row.share.as_ref().map(|share| share.display().to_string());
        table.add_row([
            row.name.clone(),
            if row.running { "running" } else { "stopped" }.to_owned(),
            row.ssh_port.to_string(),
            row.cpus.to_string(),
            bytes(row.memory),
            bytes(row.disk),
            bytes(row.disk_used),
            share.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(0)
}
