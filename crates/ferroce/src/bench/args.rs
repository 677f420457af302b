// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ferroce bench`.

use std::path::PathBuf;

use ferroce_lab::backend::Flavor;

use super::plan::Topic;
use crate::args::Setup;
use crate::lab::args::{Clock, Which};

#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(flatten)]
    which: Which,
    /// How many times each is measured [default: 5; quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Measure fewer sizes, and fewer times
    #[arg(long)]
    pub quick: bool,
    /// Measure the device of `ferroce run` beside UCX, without a guest
    ///
    /// Runs perftest's programs on this machine by `ferroce run`, and in the same
    /// round ucx_perftest with UCX_TLS=posix,cma, which passes messages by shared
    /// memory. The latencies are of 8 B: ib_send_lat beside UCX's tag_lat,
    /// ib_write_lat beside ucp_put_lat. Bandwidths (64 KiB) and the message rate
    /// (8 B) are compared with tag_bw, and many queue pairs with one. The table
    /// has a goal for each. --only takes latency, write, read and queue-pairs.
    #[arg(long, conflicts_with_all = ["wire", "icount", "backend", "debug", "mtu"])]
    pub native: bool,
    /// Measure between two hosts, by packets, and not within one
    ///
    /// The guest has two network namespaces with a pair of virtual Ethernet
    /// devices between them, and a device of the same kind in each.
    #[arg(long)]
    pub wire: bool,
    #[command(flatten)]
    pub clock: Clock,
    /// Measure these only, separated by commas
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    pub only: Vec<Topic>,
    /// The MTU of the network interface below the devices
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(576..=65535))]
    pub mtu: u32,
    /// Write the table into this file, as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw charts into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    #[command(flatten)]
    pub setup: Setup,
}

impl Bench {
    pub fn flavor(&self) -> Flavor {
        self.which.flavor()
    }
}
