// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce trace`: what an RDMA device sends and receives, as pcap.

mod segment;
mod socket;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use crate::args::Trace;
use crate::link;
use socket::{Frame, Socket};

/// The signals that end it.
const ENDS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// More than any packet has (tcpdump's and Wireshark's MAXIMUM_SNAPLEN).
const WHOLE: u32 = 262_144;

pub fn run(args: &Trace) -> Result<i32> {
    let interface = link::netdev(&args.device)?;
    let mut socket = open(&args.device, &interface)?;
    let output = Output::create(&args.output)?;
    let mut pcap = Pcap::begin(&output, args)?;

    // Before the message below, on which a reader may send one at once.
    let signals: SigSet = ENDS.into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    eprintln!(
        "ferroce: tracing {} on {interface}; Ctrl-C ends it",
        args.device
    );
    let deadline = args.duration.and_then(|d| Instant::now().checked_add(d));
    let ended = capture(&mut socket, &mut pcap, &signals, deadline);
    // What has come until now belongs to it.
    let ended = ended.and_then(|end| {
        socket.close()?;
        pcap.take(&mut socket, usize::MAX)?;
        Ok(end)
    });
    eprintln!("ferroce: {}", pcap.summary(socket.dropped()?));
    match ended {
        Ok(End::Asked) => Ok(0),
        Ok(End::InterfaceGone) => bail!("the network interface {interface} is gone"),
        // Nobody wants to read the rest.
        Err(error) if is_closed_pipe(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

fn open(device: &str, interface: &str) -> Result<Socket> {
    match Socket::open(interface) {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => bail!("{device} is not over Ethernet: {interface} has packets of another kind"),
        Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => {
            bail!("cannot trace {device}: {}", link::permission())
        }
        Err(error) => Err(anyhow!(error).context(format!("cannot trace {interface}"))),
    }
}

/// Why it ended.
#[derive(Debug)]
enum End {
    /// By a signal, the time, or the number of packets.
    Asked,
    InterfaceGone,
}

/// How many packets are taken before signals are looked for.
const BATCH: usize = 256;

/// How often is looked whether an interface that is down is there.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

fn capture(
    socket: &mut Socket,
    pcap: &mut Pcap<'_>,
    signals: &SignalFd,
    deadline: Option<Instant>,
) -> Result<End> {
    let mut is_up = true;
    while !pcap.is_full() {
        // The socket tells when its interface goes down, but not when that is gone afterwards.
        let look_again = (!is_up).then(|| Instant::now() + LOOK_AGAIN);
        let until = deadline.into_iter().chain(look_again).min();
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, timeout(until)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [signalled, received] = ready.map(|fd| fd.any().unwrap_or(false));
        if signalled || deadline.is_some_and(|d| d <= Instant::now()) {
            break;
        }
        if received {
            is_up = match pcap.take(socket, BATCH) {
                Ok(()) => true,
                Err(error) if is_down(&error) => false,
                Err(error) => return Err(error),
            };
        }
        if !is_up && !socket.has_interface() {
            return Ok(End::InterfaceGone);
        }
    }
    Ok(End::Asked)
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    // Rounded up to a millisecond; what is longer than can be waited is waited for in turns.
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// Where it is written to, a batch at a time.
struct Output {
    name: String,
    writer: RefCell<BufWriter<Box<dyn Write>>>,
}

impl Output {
    fn create(path: &Path) -> Result<Self> {
        let (name, output): (_, Box<dyn Write>) = if path == Path::new("-") {
            if io::stdout().is_terminal() {
                bail!("pcap is not for a terminal: -o is to be a file, or lead to a program");
            }
            ("the standard output".to_owned(), Box::new(io::stdout()))
        } else {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("cannot create {name}"))?;
            (name, Box::new(file))
        };
        Ok(Self {
            name,
            writer: RefCell::new(BufWriter::with_capacity(1 << 20, output)),
        })
    }
}

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.borrow_mut().flush()
    }
}

/// The packets that are written.
struct Pcap<'a> {
    output: &'a Output,
    writer: PcapWriter<&'a Output>,
    /// How many packets are wanted at most.
    count: u64,
    packets: u64,
    /// How many of them are not there whole.
    cut: u64,
}

impl<'a> Pcap<'a> {
    fn begin(output: &'a Output, args: &Trace) -> Result<Self> {
        let header = PcapHeader {
            snaplen: args.snap_length.unwrap_or(WHOLE).min(WHOLE),
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(output, header);
        let mut pcap = Self {
            output,
            writer: writer.with_context(|| cannot_write(output))?,
            count: args.count.unwrap_or(u64::MAX),
            packets: 0,
            cut: 0,
        };
        // Who reads from a pipe is told at once what it is.
        pcap.flush()?;
        Ok(pcap)
    }

    fn flush(&mut self) -> Result<()> {
        self.output
            .flush()
            .with_context(|| cannot_write(self.output))
    }

    fn is_full(&self) -> bool {
        self.packets >= self.count
    }

    /// Writes what has come, up to so many frames.
    fn take(&mut self, socket: &mut Socket, frames: usize) -> Result<()> {
        let mut received = Ok(());
        for _ in 0..frames {
            match socket.receive() {
                Ok(Some(frame)) => self
                    .write(&frame)
                    .with_context(|| cannot_write(self.output))?,
                Ok(None) => break,
                Err(error) => {
                    received = Err(error).context("cannot receive");
                    break;
                }
            }
        }
        self.flush().and(received)
    }

    fn write(&mut self, frame: &Frame<'_>) -> Result<(), PcapError> {
        for packet in frame.offload.packets(frame.bytes) {
            if self.is_full() {
                break;
            }
            let length = packet.len();
            let kept = length.min(self.writer.snaplen() as usize);
            let packet = PcapPacket::new(frame.time, length as u32, &packet[..kept]);
            self.writer.write_packet(&packet)?;
            self.packets += 1;
            self.cut += u64::from(kept < length);
        }
        Ok(())
    }

    fn summary(&self, dropped: u32) -> String {
        let plural = if self.packets == 1 { "" } else { "s" };
        let mut text = format!("{} packet{plural}", self.packets);
        if self.cut > 0 {
            text += &format!(", {} of them cut short", self.cut);
        }
        text + &format!("; {dropped} dropped by the kernel")
    }
}

fn cannot_write(output: &Output) -> String {
    format!("cannot write {}", output.name)
}

fn io_error(error: &anyhow::Error) -> Option<&io::Error> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(PcapError::IoError(error)) => Some(error),
        _ => cause.downcast_ref(),
    })
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    io_error(error).is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn is_down(error: &anyhow::Error) -> bool {
    io_error(error).is_some_and(|error| error.kind() == io::ErrorKind::NetworkDown)
}
