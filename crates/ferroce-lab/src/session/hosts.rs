// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several guests that run the same command, with a network between them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread;

use super::conversation::Event;
use super::streams::Prefixed;
use super::{status, Session};
use crate::boot::Network;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::job::Host;
use crate::provider::Provider;

/// The most hosts that a run has.
pub const MOST: u32 = 8;

/// One of the hosts, as its session sees itself.
pub struct Member {
    pub(super) host: Host,
    pub(super) network: Network,
    group: Arc<Mutex<Group>>,
}

/// How far all of them are.
#[derive(Default)]
struct Group {
    events: Vec<Sender<Event>>,
    up: u32,
    ended: u32,
    /// The number of the first that failed.
    failed: Option<u32>,
}

impl Group {
    fn tell(&self, event: fn() -> Event) {
        for events in &self.events {
            // One that has ended does not listen any more.
            let _ = events.send(event());
        }
    }
}

impl Member {
    fn change(&self, change: impl FnOnce(&mut Group)) {
        change(&mut self.group.lock().unwrap_or_else(|e| e.into_inner()));
    }

    /// Has events go to this session.
    pub(super) fn join(&self, events: Sender<Event>) {
        self.change(|group| {
            if group.failed.is_some() {
                let _ = events.send(Event::OtherFailed);
            }
            group.events.push(events);
        });
    }

    /// It is ready to run its command. When all are, all begin.
    pub(super) fn is_up(&self) {
        self.change(|group| {
            group.up += 1;
            if group.up == self.host.count {
                group.tell(|| Event::AllUp);
            }
        });
    }

    /// Its command has ended, and well. When all have, all power off.
    pub(super) fn has_ended(&self) {
        self.change(|group| {
            group.ended += 1;
            if group.ended == self.host.count {
                group.tell(|| Event::AllEnded);
            }
        });
    }

    /// It failed, which ends the others.
    fn has_failed(&self) {
        self.change(|group| {
            if group.failed.is_none() {
                group.failed = Some(self.host.number);
                group.tell(|| Event::OtherFailed);
            }
        });
    }
}

/// Runs the session's command on each of `count` hosts, and returns the exit status of the first that failed.
/// All begin when all are up. One whose command has ended stays there until all have; one that fails ends the
/// others. Each line of output has its host's name in front, and standard input is empty.
pub fn run(
    session: &Session,
    count: u32,
    cache: &Cache,
    image: &Image,
    provider: Option<&Provider>,
) -> Result<i32> {
    let group = Arc::<Mutex<Group>>::default();
    let members = (1..).zip(networks(count)?).map(|(number, network)| Member {
        host: Host { number, count },
        network,
        group: group.clone(),
    });
    let members: Vec<Member> = members.collect();
    let one = |member: &Member| {
        let name = Host::name(member.host.number);
        let output = Prefixed::new(io::stdout(), &name);
        let errors = || Prefixed::new(io::stderr(), &name);
        let result = session.run_as(cache, image, provider, output, errors, Some(member));
        if !matches!(result, Ok(0)) {
            member.has_failed();
        }
        result.map_err(|error| Error::Host {
            name,
            error: Box::new(error),
        })
    };
    let mut results: Vec<Option<Result<i32>>> = thread::scope(|scope| {
        let one = &one;
        let start = |member| scope.spawn(move || one(member));
        let threads: Vec<_> = members.iter().map(start).collect();
        let ends = threads.into_iter().map(|thread| thread.join().ok());
        ends.collect()
    });
    let failed = group.lock().unwrap_or_else(|e| e.into_inner()).failed;
    let Some(first) = failed else { return Ok(0) };
    let result = results.get_mut(first as usize - 1).and_then(Option::take);
    result.unwrap_or(Ok(status::LAB))
}

/// The ends of sockets that join `count` machines: two by one socket, more by the first one's hub.
fn networks(count: u32) -> Result<Vec<Network>> {
    let mut networks = vec![Network::default()];
    for _ in 1..count {
        let (first, other) = UnixStream::pair().map_err(Error::file("create", "a socket"))?;
        networks[0].sockets.push(OwnedFd::from(first));
        let sockets = vec![OwnedFd::from(other)];
        networks.push(Network { sockets, number: 0 });
    }
    for (number, network) in (1..).zip(&mut networks) {
        network.number = number;
    }
    Ok(networks)
}
