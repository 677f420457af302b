// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events, from when they happen until the program has them.

use std::collections::VecDeque;

use zerocopy::{Immutable, IntoBytes};

use super::abi::{self, event, AhAttr, ConnParam, Ece, EventAnswer, UdParam};
use super::id::Terms;
use super::{Channel, Manager};
use crate::{Errno, Result};

/// An event that waits for the program.
#[derive(Debug)]
pub struct Event {
    /// The id that it is counted for: of a request, the listener.
    pub id: usize,
    /// The id that was made of a request.
    pub request: Option<usize>,
    /// The group that has been joined.
    pub group: Option<usize>,
    pub answer: EventAnswer,
}

/// What an event tells but its kind.
#[derive(Debug)]
pub struct Told {
    pub status: i32,
    pub param: [u8; 304],
    pub ece: Ece,
}

impl Told {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::status(0)
    }

    pub fn status(status: i32) -> Self {
        Self {
            status,
            param: [0; 304],
            ece: abi::zeroed(),
        }
    }

    fn with(param: &(impl IntoBytes + Immutable)) -> Self {
        let mut told = Self::nothing();
        let bytes = param.as_bytes();
        told.param[..bytes.len()].copy_from_slice(bytes);
        told
    }

    /// Private data as long as a message has room for.
    fn padded(data: &[u8], room: usize) -> ([u8; 256], u8) {
        let mut padded = [0; 256];
        let length = data.len().min(room);
        padded[..length].copy_from_slice(&data[..length]);
        (padded, room as u8)
    }

    /// Of a connection.
    pub fn connection(terms: Terms, qp_num: u32, data: &[u8], room: usize) -> Self {
        let (private_data, private_data_len) = Self::padded(data, room);
        Self::with(&ConnParam {
            qp_num,
            private_data,
            private_data_len,
            srq: terms.srq,
            responder_resources: terms.responder_resources,
            initiator_depth: terms.initiator_depth,
            flow_control: terms.flow_control,
            retry_count: terms.retry_count,
            rnr_retry_count: terms.rnr_retry_count,
            ..abi::zeroed()
        })
    }

    /// Of a queue pair that takes datagrams.
    pub fn datagrams(ah_attr: AhAttr, qp_num: u32, qkey: u32, data: &[u8], room: usize) -> Self {
        let (private_data, private_data_len) = Self::padded(data, room);
        Self::with(&UdParam {
            qp_num,
            qkey,
            ah_attr,
            private_data,
            private_data_len,
            ..abi::zeroed()
        })
    }
}

impl Manager {
    /// An event of an id, for its program if that has given it a name.
    pub(super) fn raise(&mut self, number: usize, event: u32, told: Told) {
        let id = &self.ids[number];
        if id.uid != 0 {
            self.add_event(id.channel, number, event, told, |_| {});
        }
    }

    /// A request has come to a listener, and an id was made of it.
    pub(super) fn raise_request(&mut self, listener: usize, request: usize, told: Told) {
        let channel = self.ids[listener].channel;
        self.add_event(channel, listener, event::CONNECT_REQUEST, told, |event| {
            event.request = Some(request);
            event.answer.id = request as u32;
        });
    }

    /// An id is in a group.
    pub(super) fn raise_joined(&mut self, group: usize, told: Told) {
        let Some(joined) = self.groups.get(group) else {
            return;
        };
        let (id, uid) = (joined.id, joined.uid);
        let channel = self.ids[id].channel;
        self.add_event(channel, id, event::MULTICAST_JOIN, told, |event| {
            event.group = Some(group);
            (event.answer.id, event.answer.uid) = (group as u32, uid);
        });
    }

    fn add_event(
        &mut self,
        channel: Channel,
        id: usize,
        event: u32,
        told: Told,
        change: impl FnOnce(&mut Event),
    ) {
        let uid = self.ids[id].uid;
        let Some(file) = self.files.get_mut(&channel) else {
            return;
        };
        let mut event = Event {
            id,
            request: None,
            group: None,
            answer: EventAnswer {
                uid,
                id: id as u32,
                event,
                status: told.status.cast_unsigned(),
                param: told.param,
                ece: told.ece,
                ..abi::zeroed()
            },
        };
        change(&mut event);
        file.events.push_back(event);
        self.woken.push(channel);
    }

    /// Get Event.
    pub(super) fn next_event(&mut self, channel: Channel) -> Result<EventAnswer> {
        let event = self.file(channel)?.events.pop_front();
        let event = event.ok_or(Errno(libc::EAGAIN))?;
        if let Some(id) = self.ids.get_mut(event.id) {
            id.events_reported += 1;
            if event.request.is_some() {
                id.backlog += 1;
            }
        }
        if let Some(group) = event.group.and_then(|group| self.groups.get_mut(group)) {
            group.events_reported += 1;
        }
        if event.request.is_some() {
            self.take_waiting(event.id);
        }
        Ok(event.answer)
    }

    /// Takes away the events of an id. Returns the ids that were made of requests that the program does not
    /// know of.
    pub(super) fn take_events(&mut self, number: usize) -> Vec<usize> {
        let channel = self.ids[number].channel;
        let mut requests = Vec::new();
        if let Some(file) = self.files.get_mut(&channel) {
            file.events.retain(|event| {
                if event.id == number {
                    requests.extend(event.request);
                }
                event.id != number
            });
        }
        requests
    }

    /// Takes away the events of a group.
    pub(super) fn take_group_events(&mut self, number: usize, group: usize) {
        let channel = self.ids[number].channel;
        if let Some(file) = self.files.get_mut(&channel) {
            file.events.retain(|event| event.group != Some(group));
        }
    }

    /// Moves the events of an id, and the ids made of requests among them, to another channel.
    pub(super) fn move_events(&mut self, number: usize, from: Channel, to: Channel) {
        let Some(file) = self.files.get_mut(&from) else {
            return;
        };
        let events = core::mem::take(&mut file.events);
        let is_moved = |event: &Event| event.id == number;
        let (moved, kept): (VecDeque<_>, _) = events.into_iter().partition(is_moved);
        file.events = kept;
        for request in moved.iter().filter_map(|event| event.request) {
            if let Some(id) = self.ids.get_mut(request) {
                id.channel = to;
            }
        }
        if let Some(file) = self.files.get_mut(&to) {
            file.events.extend(moved);
            self.woken.push(to);
        }
    }
}
