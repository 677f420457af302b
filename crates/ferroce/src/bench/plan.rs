// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: the steps that a guest goes through, or this machine, and
//! the quantities that come out of them.

use std::fmt;

use anyhow::{bail, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A part of the benchmark, to be chosen on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Topic {
    /// ib_write_bw over message sizes, and a memcpy beside the largest
    Write,
    /// ib_read_bw over message sizes
    Read,
    /// Message rate of ib_write_bw as the queue pairs grow
    QueuePairs,
    /// ib_write_lat and ib_send_lat
    Latency,
    /// ibv_rc_pingpong
    Pingpong,
    /// What a queue pair costs: time to create it, and memory
    Cost,
    /// Where the time goes; with --backend qemu, and perf installed, by function
    Time,
}

/// What can be measured on this machine, without a guest.
pub const NATIVE_TOPICS: [Topic; 4] =
    [Topic::Latency, Topic::Write, Topic::Read, Topic::QueuePairs];

impl Topic {
    /// As on the command line.
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What is measured: a kind of RDMA device, or UCX with shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Driver {
    Ferroce,
    Rxe,
    Ucx,
}

impl Driver {
    /// The two that a guest has.
    pub const GUEST: [Self; 2] = [Self::Ferroce, Self::Rxe];
    /// The two that this machine has, without a kernel module.
    pub const NATIVE: [Self; 2] = [Self::Ferroce, Self::Ucx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ferroce => "ferroce",
            Self::Rxe => "rdma_rxe",
            Self::Ucx => "UCX",
        }
    }

    /// The type of its links; UCX has none.
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Self::Ferroce => Some("ferroce"),
            Self::Rxe => Some("rxe"),
            Self::Ucx => None,
        }
    }

    /// Two drivers in the order of a round: each is the first one in turn, so that
    /// what changes with time changes for both.
    pub fn in_turn(mut both: [Self; 2], round: u32) -> [Self; 2] {
        both.rotate_left(round as usize % 2);
        both
    }
}

/// A one-sided operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OneSided {
    Write,
    Read,
}

/// What is sent back and forth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Exchange {
    Write,
    Send,
}

/// One run of a program, or of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// perftest's bandwidth test, with messages of `size` bytes.
    Bandwidth { operation: OneSided, size: u64 },
    /// The same, with small messages on that many queue pairs.
    QueuePairs { count: u32 },
    /// perftest's latency test.
    Latency { exchange: Exchange },
    /// `ibv_rc_pingpong`.
    Pingpong,
    /// A copy in memory, of `size` bytes.
    Memcpy { size: u64 },
    /// That many queue pairs are created.
    Create { count: u32 },
    /// A bandwidth test that is looked at from outside while it runs.
    Time { operation: OneSided, size: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bandwidth { operation, size } => {
                write!(f, "{}, {}", operation.program(), bytes(*size))
            }
            Self::QueuePairs { count } => write!(f, "ib_write_bw, {}", queue_pairs(*count)),
            Self::Latency { exchange } => f.write_str(exchange.program()),
            Self::Pingpong => f.write_str("ibv_rc_pingpong"),
            Self::Memcpy { size } => write!(f, "memcpy, {}", bytes(*size)),
            Self::Create { count } => write!(f, "creating {}", queue_pairs(*count)),
            Self::Time { operation, size } => {
                write!(f, "looking at {}, {}", operation.program(), bytes(*size))
            }
        }
    }
}

/// What is done in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub rounds: u32,
    /// Of the network interface, in bytes.
    pub mtu: u32,
    /// Between two hosts.
    pub wire: bool,
}

/// The length of small messages, in bytes.
pub const SMALL: u64 = 8;
const LARGE: u64 = 64 << 10;
/// What is compared with a memcpy.
pub const LARGEST: u64 = 1 << 20;

/// The numbers of queue pairs that are compared on this machine.
fn native_counts(quick: bool) -> [u32; 2] {
    if quick {
        [1, 100]
    } else {
        [1, 1000]
    }
}

/// The steps on this machine, without a guest. Fails on a topic that needs one.
pub fn native_steps(topics: &[Topic], quick: bool) -> Result<Vec<Step>> {
    let bandwidth = |operation, size| Step::Bandwidth { operation, size };
    let mut steps = Vec::new();
    for topic in topics {
        match topic {
            Topic::Latency => steps.extend(
                [Exchange::Send, Exchange::Write].map(|exchange| Step::Latency { exchange }),
            ),
            Topic::Write => {
                steps.extend([LARGE, SMALL].map(|size| bandwidth(OneSided::Write, size)));
            }
            Topic::Read => steps.push(bandwidth(OneSided::Read, LARGE)),
            Topic::QueuePairs => {
                steps.extend(native_counts(quick).map(|count| Step::QueuePairs { count }));
            }
            Topic::Pingpong | Topic::Cost | Topic::Time => {
                let names = NATIVE_TOPICS.map(Topic::name).join(", ");
                bail!("--native does not measure {}, but {names}", topic.name())
            }
        }
    }
    Ok(steps)
}

impl Plan {
    pub fn steps(topics: &[Topic], quick: bool) -> Vec<Step> {
        let of = |full: &[u64], few: &[u64]| if quick { few.to_vec() } else { full.to_vec() };
        let sizes = of(&[SMALL, 64, 512, 4 << 10, LARGE, LARGEST], &[SMALL, LARGE]);
        let counts: &[u32] = if quick {
            &[1, 100]
        } else {
            &[1, 10, 100, 1000]
        };
        let mut steps = Vec::new();
        for topic in topics {
            match topic {
                Topic::Write => {
                    steps.extend(sizes.iter().map(|&size| Step::Bandwidth {
                        operation: OneSided::Write,
                        size,
                    }));
                    if !quick {
                        steps.push(Step::Memcpy { size: LARGEST });
                    }
                }
                Topic::Read => steps.extend(sizes.iter().map(|&size| Step::Bandwidth {
                    operation: OneSided::Read,
                    size,
                })),
                Topic::QueuePairs => {
                    steps.extend(counts.iter().map(|&count| Step::QueuePairs { count }));
                }
                Topic::Latency => steps.extend(
                    [Exchange::Write, Exchange::Send].map(|exchange| Step::Latency { exchange }),
                ),
                Topic::Pingpong => steps.push(Step::Pingpong),
                Topic::Cost => steps.push(Step::Create {
                    count: if quick { 1000 } else { 10_000 },
                }),
                Topic::Time => {
                    steps.extend(
                        of(&[SMALL, LARGE], &[SMALL])
                            .iter()
                            .map(|&size| Step::Time {
                                operation: OneSided::Write,
                                size,
                            }),
                    )
                }
            }
        }
        steps
    }

    /// How many times a step is done.
    pub fn runs(&self) -> u64 {
        self.steps.len() as u64 * u64::from(self.rounds) * Driver::GUEST.len() as u64
    }
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Quantity {
    /// Of payload, in MiB/s.
    Bandwidth { operation: OneSided, size: u64 },
    /// Of [`SMALL`] writes, in thousands a second.
    MessageRate,
    /// The same over that many queue pairs.
    QueuePairRate { count: u32 },
    /// Of a copy in memory, in MiB/s.
    Memcpy { size: u64 },
    /// One way, in µs.
    Latency { exchange: Exchange, which: Which },
    /// There and back, in µs.
    Pingpong,
    /// To create that many queue pairs, in s.
    CreationTime { count: u32 },
    /// A queue pair's, in KiB, of the kernel and of the process.
    QueuePairMemory,
    /// The bandwidth of writes in percent of a memcpy's.
    OfMemcpy { size: u64 },
    /// The message rate over many queue pairs, in percent of that over one.
    OfOneQueuePair { count: u32 },
    /// How long the sender of messages of `size` bytes is on a processor, in
    /// percent.
    Running { size: u64 },
    /// What was counted, for each message of `size` bytes.
    PerMessage { size: u64, what: String },
    /// What a module or a library has of the time in which the processors are
    /// not idle, in percent.
    Place { size: u64, name: String },
    /// And what a function of the kernel's has.
    Function { size: u64, name: String },
}

/// Which of the latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Which {
    Typical,
    Average,
    Percentile99,
}

/// What it means if a quantity is higher than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// It is there to explain others.
    Neither,
}

impl Quantity {
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Bandwidth { .. } | Self::Memcpy { .. } => "MiB/s",
            Self::MessageRate | Self::QueuePairRate { .. } => "k/s",
            Self::Latency { .. } | Self::Pingpong => "µs",
            Self::CreationTime { .. } => "s",
            Self::QueuePairMemory => "KiB",
            Self::OfMemcpy { .. }
            | Self::OfOneQueuePair { .. }
            | Self::Running { .. }
            | Self::Place { .. }
            | Self::Function { .. } => "%",
            Self::PerMessage { .. } => "",
        }
    }

    pub fn better(&self) -> Better {
        match self {
            Self::Bandwidth { .. }
            | Self::MessageRate
            | Self::QueuePairRate { .. }
            | Self::OfMemcpy { .. }
            | Self::OfOneQueuePair { .. } => Better::Higher,
            Self::Latency { .. }
            | Self::Pingpong
            | Self::CreationTime { .. }
            | Self::QueuePairMemory => Better::Lower,
            Self::Memcpy { .. } | Self::Running { .. } => Better::Neither,
            Self::PerMessage { .. } | Self::Place { .. } | Self::Function { .. } => Better::Neither,
        }
    }

    /// The ratio to UCX, or for many queue pairs to one, that ferroce has to reach on
    /// this machine, without a kernel module.
    pub fn native_goal(&self) -> Option<f64> {
        match self {
            Self::Latency { exchange, which } if *which == Which::Typical => match exchange {
                Exchange::Send => Some(1.0 / 1.5),
                Exchange::Write => Some(1.0 / 4.0),
            },
            Self::Bandwidth { size: LARGE, .. } => Some(0.9),
            Self::MessageRate => Some(0.7),
            Self::OfOneQueuePair { .. } => Some(0.8),
            _ => None,
        }
    }

    /// Whether it is of the second table, that of where the time goes: with
    /// messages of which size, in which part of the table, and its name there.
    pub fn explains(&self) -> Option<(u64, usize, String)> {
        match self {
            Self::Running { size } => Some((*size, 0, "the sender runs".to_owned())),
            Self::PerMessage { size, what } => Some((*size, 0, format!("{what} per message"))),
            Self::Place { size, name } => Some((*size, 1, name.clone())),
            Self::Function { size, name } => Some((*size, 2, name.clone())),
            _ => None,
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bandwidth { operation, size } => {
                write!(f, "{}, {}", operation.program(), bytes(*size))
            }
            Self::MessageRate => write!(f, "messages of {}", bytes(SMALL)),
            Self::QueuePairRate { count } => write!(f, "messages on {}", queue_pairs(*count)),
            Self::Memcpy { size } => write!(f, "memcpy, {}", bytes(*size)),
            Self::Latency { exchange, which } => {
                let which = match which {
                    Which::Typical => "typical",
                    Which::Average => "average",
                    Which::Percentile99 => "99%",
                };
                write!(f, "{}, {which}", exchange.program())
            }
            Self::Pingpong => f.write_str("ibv_rc_pingpong, 4 KiB"),
            Self::CreationTime { count } => write!(f, "{} created", queue_pairs(*count)),
            Self::QueuePairMemory => f.write_str("memory of a QP"),
            Self::OfMemcpy { size } => write!(f, "write/memcpy, {}", bytes(*size)),
            Self::OfOneQueuePair { count } => write!(f, "{}/1 QP", queue_pairs(*count)),
            Self::Running { .. }
            | Self::PerMessage { .. }
            | Self::Place { .. }
            | Self::Function { .. } => {
                let (size, _, name) = self.explains().unwrap_or_default();
                write!(f, "{}: {name}", bytes(size))
            }
        }
    }
}

impl OneSided {
    /// perftest's program that measures its bandwidth.
    pub fn program(self) -> &'static str {
        match self {
            Self::Write => "ib_write_bw",
            Self::Read => "ib_read_bw",
        }
    }
}

impl Exchange {
    /// perftest's program that measures its latency.
    pub fn program(self) -> &'static str {
        match self {
            Self::Write => "ib_write_lat",
            Self::Send => "ib_send_lat",
        }
    }
}

/// A size as a person reads it: "64 KiB".
pub fn bytes(size: u64) -> String {
    match size {
        0x10_0000.. if size.is_multiple_of(0x10_0000) => format!("{} MiB", size >> 20),
        1024.. if size.is_multiple_of(1024) => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}

fn queue_pairs(count: u32) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} QP{s}", grouped(count))
}

/// A number with a comma between thousands.
pub fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// A value that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub quantity: Quantity,
    pub driver: Driver,
    pub round: u32,
    pub value: f64,
}

/// What a guest tells, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A step begins.
    Step(String),
    Sample(Sample),
    /// All steps were taken.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_run_takes_one_step_for_each_goal_and_one_to_compare_queue_pairs_with() {
        let steps = native_steps(&NATIVE_TOPICS, false).unwrap();
        let texts: Vec<String> = steps.iter().map(Step::to_string).collect();
        let expected = [
            "ib_send_lat",
            "ib_write_lat",
            "ib_write_bw, 64 KiB",
            "ib_write_bw, 8 B",
            "ib_read_bw, 64 KiB",
            "ib_write_bw, 1 QP",
            "ib_write_bw, 1,000 QPs",
        ];
        assert_eq!(texts, expected);
        let quick = native_steps(&[Topic::QueuePairs], true).unwrap();
        assert_eq!(quick[1], Step::QueuePairs { count: 100 });
    }

    #[test]
    fn a_topic_that_needs_a_guest_is_refused_with_those_that_do_not() {
        let error = native_steps(&[Topic::Read, Topic::Cost], false).unwrap_err();
        let text = "--native does not measure cost, but latency, write, read, queue-pairs";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn each_driver_of_a_pair_is_the_first_one_in_turn() {
        let [first, second] = Driver::NATIVE;
        assert_eq!(Driver::in_turn(Driver::NATIVE, 0), [first, second]);
        assert_eq!(Driver::in_turn(Driver::NATIVE, 1), [second, first]);
    }
}
