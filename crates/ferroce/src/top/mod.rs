// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce top`: RDMA devices, the programs on them and their queue pairs, as they go.

mod kernel;
mod model;
mod screen;
mod text;
mod user;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{bail, Result};
use clap::ValueEnum;

use crate::link::{self, Nldev};
use model::{DeviceRow, Snapshot};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this device
    device: Option<String>,
    /// Seconds from one look to the next
    #[arg(short, long, value_name = "S", default_value = "1", value_parser = crate::args::seconds)]
    interval: Duration,
    /// By what queue pairs are sorted
    #[arg(short, long, value_name = "KEY", default_value = "number")]
    sort: Sort,
    /// Print what has happened in one interval, and end
    #[arg(long)]
    once: bool,
    /// With --once: as JSON
    #[arg(long, requires = "once")]
    json: bool,
}

/// By what queue pairs are sorted; programs and devices keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Their number
    Number,
    /// Messages a second, most first
    Messages,
    /// Requests that are not done, most first
    Pending,
    /// Those that wait for something, first
    Waiting,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Sort::Number => Sort::Messages,
            Sort::Messages => Sort::Pending,
            Sort::Pending => Sort::Waiting,
            Sort::Waiting => Sort::Number,
        }
    }

    fn apply(self, devices: &mut [DeviceRow]) {
        let programs = devices.iter_mut().flat_map(|device| &mut device.programs);
        for program in programs {
            program.qps.sort_by(|a, b| match self {
                Sort::Number => a.number.cmp(&b.number),
                Sort::Messages => b.rate().total_cmp(&a.rate()),
                Sort::Pending => b.send_pending.cmp(&a.send_pending),
                Sort::Waiting => b.waits_for.is_some().cmp(&a.waits_for.is_some()),
            });
        }
    }
}

/// Where the devices are.
enum Source {
    Kernel(Nldev),
    /// In user space, under `ferroce run`.
    User,
}

impl Source {
    fn open() -> Result<Self> {
        Ok(match link::is_user_space() {
            true => Source::User,
            false => Source::Kernel(link::open()?),
        })
    }

    /// All devices, or the one of that name.
    fn look(&self, name: Option<&str>) -> Result<Snapshot> {
        let mut snapshot = match self {
            Source::Kernel(nldev) => kernel::snapshot(nldev)?,
            Source::User => user::snapshot()?,
        };
        if let Some(name) = name {
            let devices = &mut snapshot.devices;
            if !devices.iter().any(|device| device.name == name) {
                let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
                bail!("there is no RDMA device {name}, but {}", names.join(", "));
            }
            devices.retain(|device| device.name == name);
        }
        Ok(snapshot)
    }
}

pub fn run(args: &Args) -> Result<i32> {
    let source = Source::open()?;
    let look = || source.look(args.device.as_deref());
    if !args.once {
        screen::run(look, args.interval, args.sort)?;
        return Ok(0);
    }
    let before = look()?;
    std::thread::sleep(args.interval);
    let mut rows = model::rows(&before, &look()?);
    args.sort.apply(&mut rows);
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
        false => {
            for line in text::lines(&rows) {
                writeln!(out, "{}", line.text)?;
            }
        }
    }
    Ok(0)
}
