// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows as lines, for a file and for the screen.

use super::model::{DeviceRow, ProgramRow, QpRow};

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub of: Of,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    Device,
    Program,
    /// The names of the columns below.
    Header,
    /// The queue pair of that number, of the device of that name.
    Qp {
        device: String,
        number: u32,
        is_waiting: bool,
    },
    Nothing,
}

pub fn lines(devices: &[DeviceRow]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |text: String, of: Of| lines.push(Line { text, of });
    if devices.is_empty() {
        add("There are no RDMA devices.".to_owned(), Of::Nothing);
    }
    for device in devices {
        add(describe_device(device), Of::Device);
        add(format!("  {}", describe_traffic(device)), Of::Nothing);
        for program in &device.programs {
            add(format!("  {}", describe_program(program)), Of::Program);
            if program.qps.is_empty() {
                continue;
            }
            add(HEADER.to_owned(), Of::Header);
            for qp in &program.qps {
                let of = Of::Qp {
                    device: device.name.clone(),
                    number: qp.number,
                    is_waiting: qp.waits_for.is_some(),
                };
                add(describe_qp(qp), of);
            }
        }
    }
    lines
}

fn describe_device(device: &DeviceRow) -> String {
    let netdev = device.netdev.as_deref().unwrap_or("-");
    let qps: usize = device
        .programs
        .iter()
        .map(|program| program.qps.len())
        .sum();
    format!(
        "{}  {}  {netdev}  {} programs, {qps} queue pairs",
        device.name,
        device.state,
        device.programs.len()
    )
}

fn describe_traffic(device: &DeviceRow) -> String {
    let unit = match device.unit {
        "bytes" => "B/s",
        _ => "packets/s",
    };
    let parts = [
        part(device.messages, "msg/s"),
        part(device.sent, &format!("{unit} out")),
        part(device.received, &format!("{unit} in")),
        part(device.rnr, "RNR/s"),
        part(device.retransmissions, "retransmissions/s"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "it has no counters".to_owned(),
        false => parts.join(", "),
    }
}

fn part(rate: Option<f64>, unit: &str) -> Option<String> {
    Some(format!("{} {unit}", short(rate?)))
}

fn describe_program(program: &ProgramRow) -> String {
    let mut text = match program.pid {
        Some(pid) => format!("{pid} {}", program.name),
        None => program.name.clone(),
    };
    if let Some(completions) = program.completions {
        text += &format!(": {completions} completions to be polled");
    }
    if program.is_overrun {
        text += ", a completion queue was too small and has LOST some";
    }
    text
}

const HEADER: &str = "    QP       TYPE STATE PEER      OUT/S   IN/S  SEND  RECV  WAITS FOR";

fn describe_qp(qp: &QpRow) -> String {
    fn or_dash<T: ToString>(value: Option<T>) -> String {
        value.map_or("-".to_owned(), |value| value.to_string())
    }
    let rate = qp.messages.or(qp.packets).map(short);
    let text = format!(
        "    {:<8} {:<4} {:<5} {:<8} {:>6} {:>6} {:>5} {:>5}  {}",
        qp.number,
        qp.kind,
        qp.state,
        or_dash(qp.peer),
        or_dash(rate),
        or_dash(qp.received.map(short)),
        or_dash(qp.send_pending),
        or_dash(qp.receives),
        qp.waits_for.as_deref().unwrap_or_default()
    );
    text.trim_end().to_owned()
}

/// All that is known of a queue pair, a line each.
pub fn details(device: &str, program: &ProgramRow, qp: &QpRow) -> Vec<String> {
    let known = |name: &str, value: Option<String>| Some(format!("{name:<22}{}", value?));
    let count = |value: Option<u32>| value.map(|value| value.to_string());
    let pid = program.pid.map(|pid| format!(" (process {pid})"));
    [
        known("device", Some(device.to_owned())),
        known(
            "program",
            Some(format!("{}{}", program.name, pid.unwrap_or_default())),
        ),
        known("transport", Some(qp.kind.clone())),
        known("state", Some(qp.state.clone())),
        known("peer", count(qp.peer)),
        known("messages a second", qp.messages.map(short)),
        known("packets a second", qp.packets.map(short)),
        known("received a second", qp.received.map(short)),
        known("requests not done", count(qp.send_pending)),
        known("receives to be taken", count(qp.receives)),
        known("RNR tries", Some(qp.rnr_tries.to_string())),
        known("tries without answer", Some(qp.ack_tries.to_string())),
        known("waits for", qp.waits_for.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A number in four characters or so: 999, 12.3k, 4.56M.
pub fn short(number: f64) -> String {
    let (number, unit) = match number {
        ..1e3 => return format!("{number:.0}"),
        ..1e6 => (number / 1e3, "k"),
        ..1e9 => (number / 1e6, "M"),
        _ => (number / 1e9, "G"),
    };
    match number {
        ..10.0 => format!("{number:.2}{unit}"),
        ..100.0 => format!("{number:.1}{unit}"),
        _ => format!("{number:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> DeviceRow {
        let qp = QpRow {
            number: 16_777_215,
            kind: "RC".to_owned(),
            state: "RTS".to_owned(),
            peer: Some(16_777_214),
            messages: Some(0.0),
            received: Some(12_300.0),
            packets: None,
            send_pending: Some(65_535),
            receives: Some(65_535),
            rnr_tries: 3,
            ack_tries: 0,
            waits_for: Some("no receive at peer".to_owned()),
        };
        let program = ProgramRow {
            pid: Some(1234),
            name: "ib_send_bw".to_owned(),
            messages: Some(0.0),
            completions: Some(3),
            is_overrun: false,
            qps: vec![qp],
        };
        DeviceRow {
            name: "fr0".to_owned(),
            state: "ACTIVE".to_owned(),
            netdev: Some("eth0".to_owned()),
            messages: Some(11_234_567.0),
            sent: Some(90_100_000.0),
            received: Some(0.0),
            unit: "bytes",
            rnr: Some(12.0),
            retransmissions: Some(0.0),
            programs: vec![program],
        }
    }

    #[test]
    fn the_largest_numbers_fit_into_80_columns() {
        let lines = lines(&[row()]);
        let text: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
        assert_eq!(
            text,
            [
                "fr0  ACTIVE  eth0  1 programs, 1 queue pairs",
                "  11.2M msg/s, 90.1M B/s out, 0 B/s in, 12 RNR/s, 0 retransmissions/s",
                "  1234 ib_send_bw: 3 completions to be polled",
                "    QP       TYPE STATE PEER      OUT/S   IN/S  SEND  RECV  WAITS FOR",
                "    16777215 RC   RTS   16777214      0  12.3k 65535 65535  no receive at peer",
            ]
        );
        assert!(text.iter().all(|line| line.len() <= 80));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1.00k"),
            (12_345.0, "12.3k"),
            (999_000.0, "999k"),
            (4_560_000.0, "4.56M"),
            (6e10, "60.0G"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
