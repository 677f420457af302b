// SPDX-License-Identifier: MIT OR Apache-2.0
//! Joins the guest's streams to ours, until something ends that.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use super::hosts::Member;
use super::streams::{pass, pass_input, pass_size, tell, Credit};
use super::{Session, BOOT_LIMIT};
use crate::boot::Channel;
use crate::channel::{self, ToGuest, ToHost};
use crate::error::{Error, Result};
use crate::terminal;

/// What a session waits for.
pub enum Event {
    Message(ToHost),
    Signal(i32),
    ChannelClosed,
    /// With the channel, so that the guest is ended before that is: a line that hangs up is something
    /// User-Mode Linux may warn of.
    OutputClosed(UnixStream),
    /// All hosts are up.
    AllUp,
    /// The commands of all hosts have ended.
    AllEnded,
    /// Another host failed.
    OtherFailed,
}

/// How a guest ended.
pub enum End {
    /// The command ended.
    Command { status: i32, taint: u64 },
    /// It could not be run.
    Failed { what: String, status: i32 },
    /// The kernel refused one of the module files.
    Refused { file: usize, what: String },
    /// A signal to this process ended the guest.
    Signal(i32),
    /// The guest ended without a word.
    Died,
    /// It did not come up in time.
    NoBoot,
    /// The time-out came first.
    Timeout,
    /// Nobody reads the output any more.
    OutputClosed(UnixStream),
    /// Another host failed.
    OtherFailed,
}

impl Session {
    /// Joins the streams until something ends the conversation.
    pub(super) fn converse(
        &self,
        channel: Channel,
        outputs: (impl Write + Send + 'static, impl Write + Send + 'static),
        events: Sender<Event>,
        inbox: &mpsc::Receiver<Event>,
        member: Option<&Member>,
    ) -> Result<End> {
        let started = Instant::now();
        let limit = self.timeout.map(|t| started + t);
        let boot_limit = started + BOOT_LIMIT;
        let (connected, connection) = mpsc::channel();
        let credit = Arc::new(Credit::default());
        let returned = credit.clone();
        thread::spawn(move || listen(channel, outputs, &connected, &events, &returned));

        let mut raw = None;
        let mut up = false;
        // Of a host: the channel, and how its command ended.
        let mut to_host = None;
        let mut ended = None;
        loop {
            let next = [limit, (!up).then_some(boot_limit)]
                .into_iter()
                .flatten()
                .min();
            let event = match next {
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Message(ToHost::Ready)) => {
                    up = true;
                    let Ok(stream) = connection.recv() else {
                        return Ok(End::Died);
                    };
                    if self.terminal {
                        raw = Some(terminal::Raw::enter());
                    }
                    let stream = Arc::new(Mutex::new(stream));
                    if self.terminal {
                        let stream = stream.clone();
                        thread::spawn(move || pass_size(&stream));
                    }
                    match member {
                        Some(_) => to_host = Some(stream),
                        None => {
                            let credit = credit.clone();
                            thread::spawn(move || pass_input(&stream, &credit));
                        }
                    }
                }
                Ok(Event::Message(ToHost::Prepared)) => {
                    if let Some(member) = member {
                        member.is_up();
                    }
                }
                Ok(Event::AllUp) => {
                    for message in [ToGuest::Begin, ToGuest::StdinEnd] {
                        // If it fails, the guest has ended, which is an event of its own.
                        let _ = to_host.as_deref().map(|stream| tell(stream, &message));
                    }
                }
                Ok(Event::Message(ToHost::Ended { status, taint })) => {
                    let end = End::Command { status, taint };
                    match member {
                        Some(member) if status == 0 => {
                            ended = Some(end);
                            member.has_ended();
                        }
                        _ => return Ok(end),
                    }
                }
                Ok(Event::AllEnded) => {
                    let _ = to_host.as_deref().map(|stream| tell(stream, &ToGuest::End));
                    return Ok(ended.unwrap_or(End::Died));
                }
                Ok(Event::OtherFailed) => return Ok(End::OtherFailed),
                Ok(Event::Message(ToHost::Failed { what, status })) => {
                    return Ok(End::Failed { what, status });
                }
                Ok(Event::Message(ToHost::Refused { file, what })) => {
                    let file = file as usize;
                    return Ok(End::Refused { file, what });
                }
                Ok(Event::Message(_)) => {}
                Ok(Event::Signal(signal)) => return Ok(End::Signal(signal)),
                Ok(Event::OutputClosed(channel)) => return Ok(End::OutputClosed(channel)),
                Ok(Event::ChannelClosed) => return Ok(End::Died),
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Died),
                Err(RecvTimeoutError::Timeout) if limit.is_some_and(|l| l <= Instant::now()) => {
                    return Ok(End::Timeout);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(End::NoBoot),
            }
            let _ = &raw;
        }
    }
}

/// Makes events of the signals that end this process.
pub fn watch_signals(events: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(Error::file("watch", "signals"))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let _ = events.send(Event::Signal(signal));
        }
    });
    Ok(())
}

/// Passes what the guest says on: output to where it belongs, the rest as events.
fn listen(
    channel: Channel,
    (mut output, mut errors): (impl Write, impl Write),
    connected: &Sender<UnixStream>,
    events: &Sender<Event>,
    credit: &Credit,
) {
    let stream = match channel {
        Channel::Open(stream) => Ok(stream),
        Channel::Listening(listener) => listener.accept().map(|(stream, _)| stream),
    };
    let Ok(mut stream) = stream else {
        let _ = events.send(Event::ChannelClosed);
        return;
    };
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let _ = connected.send(writer);
    loop {
        let event = match channel::receive(&mut stream) {
            Ok(Some(ToHost::Stdout(bytes))) => match pass(&mut output, &bytes) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Ok(Some(ToHost::Stderr(bytes))) => match pass(&mut errors, &bytes) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Ok(Some(ToHost::Consumed(bytes))) => {
                credit.give(bytes as usize);
                continue;
            }
            Ok(Some(message)) => Event::Message(message),
            Ok(None) | Err(_) => Event::ChannelClosed,
        };
        let last = matches!(event, Event::ChannelClosed);
        if events.send(event).is_err() || last {
            return;
        }
    }
    let _ = events.send(Event::OutputClosed(stream));
}
