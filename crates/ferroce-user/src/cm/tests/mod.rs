// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two programs at the manager, in virtual time.

mod addresses;
mod connections;
mod datagrams;
mod hostile;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::abi::{self, command, event, parse, ps, qp_type, rej, zeroed};
use super::address::Address;
use super::commands::{Answer, Command};
use super::devices::Device;
use super::{Channel, Manager};

const GUID: u64 = 0x0211_2233_4455_6677;
const SERVER: Channel = 10;
const CLIENT: Channel = 11;

struct Host {
    manager: Manager,
    now: Instant,
}

/// What an event tells, of a connection.
struct Event {
    kind: u32,
    id: u32,
    uid: u64,
    status: i32,
    param: abi::ConnParam,
}

impl Host {
    fn new() -> Self {
        let now = Instant::now();
        let mut host = Self {
            manager: Manager::new(now),
            now,
        };
        for channel in [SERVER, CLIENT] {
            host.open(channel);
        }
        host
    }

    fn open(&mut self, channel: Channel) {
        let gids = [Ipv4Addr::LOCALHOST.to_ipv6_mapped(), Ipv6Addr::LOCALHOST];
        let devices = Device::with(GUID, &gids);
        self.manager.open(channel, devices.into());
    }

    fn send(&mut self, channel: Channel, command: u32, input: &[u8], room: u16) -> Answer {
        let header = abi::Header {
            cmd: command,
            input: input.len() as u16,
            output: room,
        };
        let bytes = [header.as_bytes(), input].concat();
        let command = Command {
            other: None,
            count: bytes.len() as u64,
            bytes: &bytes,
            option: &[],
        };
        self.manager.command(channel, &command, self.now)
    }

    #[track_caller]
    fn run(&mut self, channel: Channel, command: u32, input: &[u8]) {
        let answer = self.send(channel, command, input, 512);
        assert_eq!(answer.status, 0, "command {command}");
    }

    fn errno(&mut self, channel: Channel, command: u32, input: &[u8]) -> i32 {
        self.send(channel, command, input, 512).status.cast_signed()
    }

    fn create(&mut self, channel: Channel, uid: u64, ps: u16) -> u32 {
        let cmd = abi::CreateId {
            uid,
            ps,
            ..zeroed()
        };
        let answer = self.send(channel, command::CREATE_ID, cmd.as_bytes(), 4);
        parse(&answer.bytes)
    }

    fn bind(&mut self, channel: Channel, id: u32, address: Address) -> i32 {
        let (addr, addr_size) = address.write();
        let cmd = abi::Bind {
            id,
            addr_size,
            reserved: 0,
            addr,
        };
        self.errno(channel, command::BIND, cmd.as_bytes())
    }

    fn listen(&mut self, id: u32, backlog: u32) -> i32 {
        let cmd = abi::Listen { id, backlog };
        self.errno(SERVER, command::LISTEN, cmd.as_bytes())
    }

    fn listener(&mut self, port: u16, backlog: u32) -> u32 {
        let id = self.create(SERVER, 1, ps::TCP);
        assert_eq!(self.bind(SERVER, id, v4(port)), 0);
        assert_eq!(self.listen(id, backlog), 0);
        id
    }

    fn resolve(&mut self, id: u32, to: Address) {
        let (dst_addr, dst_size) = to.write();
        let cmd = abi::ResolveAddr {
            id,
            timeout_ms: 1000,
            dst_size,
            dst_addr,
            ..zeroed()
        };
        self.run(CLIENT, command::RESOLVE_ADDR, cmd.as_bytes());
        self.expect(CLIENT, event::ADDR_RESOLVED);
        let cmd = abi::ResolveRoute {
            id,
            timeout_ms: 1000,
        };
        self.run(CLIENT, command::RESOLVE_ROUTE, cmd.as_bytes());
        self.expect(CLIENT, event::ROUTE_RESOLVED);
    }

    fn connect(&mut self, id: u32, data: &[u8]) -> i32 {
        let cmd = abi::Connect {
            conn_param: param(0x123, data),
            id,
            ..zeroed()
        };
        self.errno(CLIENT, command::CONNECT, cmd.as_bytes())
    }

    /// An id of the client's that has asked a port.
    fn connecting(&mut self, port: u16) -> u32 {
        let id = self.create(CLIENT, 2, ps::TCP);
        self.resolve(id, v4(port));
        assert_eq!(self.connect(id, b"hello"), 0);
        id
    }

    fn accept(&mut self, id: u32, uid: u64) -> i32 {
        let cmd = abi::Accept {
            uid,
            conn_param: param(0x456, b"welcome"),
            id,
            ..zeroed()
        };
        self.errno(SERVER, command::ACCEPT, cmd.as_bytes())
    }

    fn ready(&mut self, id: u32) {
        let cmd = abi::Accept { id, ..zeroed() };
        self.run(CLIENT, command::ACCEPT, cmd.as_bytes());
    }

    /// A connection of both, and the ids of its ends.
    fn connected(&mut self, port: u16) -> (u32, u32) {
        let client = self.connecting(port);
        let server = self.expect(SERVER, event::CONNECT_REQUEST).id;
        assert_eq!(self.accept(server, 3), 0);
        self.expect(CLIENT, event::CONNECT_RESPONSE);
        self.ready(client);
        self.expect(SERVER, event::ESTABLISHED);
        (client, server)
    }

    fn by_id(&mut self, channel: Channel, command: u32, id: u32) -> i32 {
        let cmd = abi::Disconnect { id };
        self.errno(channel, command, cmd.as_bytes())
    }

    fn destroy(&mut self, channel: Channel, id: u32) -> u32 {
        let cmd = abi::DestroyId { id, ..zeroed() };
        let answer = self.send(channel, command::DESTROY_ID, cmd.as_bytes(), 4);
        assert_eq!(answer.status, 0);
        parse(&answer.bytes)
    }

    fn event(&mut self, channel: Channel) -> Option<Event> {
        let cmd: abi::GetEvent = zeroed();
        let answer = self.send(channel, command::GET_EVENT, cmd.as_bytes(), 336);
        if answer.status == libc::EAGAIN.cast_unsigned() {
            return None;
        }
        assert_eq!(answer.status, 0);
        let answer: abi::EventAnswer = parse(&answer.bytes);
        Some(Event {
            kind: answer.event,
            id: answer.id,
            uid: answer.uid,
            status: answer.status.cast_signed(),
            param: parse(&answer.param),
        })
    }

    #[track_caller]
    fn expect(&mut self, channel: Channel, kind: u32) -> Event {
        let event = self.event(channel).expect("there is no event");
        assert_eq!(event.kind, kind);
        event
    }

    #[track_caller]
    fn expect_none(&mut self, channel: Channel) {
        assert_eq!(self.event(channel).map(|event| event.kind), None);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.manager.ring(self.now);
    }

    fn qp_attr(&mut self, channel: Channel, id: u32, qp_state: u32) -> Result<abi::QpAttr, u32> {
        let cmd = abi::InitQpAttr {
            response: 0,
            id,
            qp_state,
        };
        let answer = self.send(channel, command::INIT_QP_ATTR, cmd.as_bytes(), 144);
        match answer.status {
            0 => Ok(parse(&answer.bytes)),
            errno => Err(errno),
        }
    }
}

fn v4(port: u16) -> Address {
    Address::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn any_v6(port: u16) -> Address {
    Address::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))
}

fn param(qp_num: u32, data: &[u8]) -> abi::ConnParam {
    let mut private_data = [0; 256];
    private_data[..data.len()].copy_from_slice(data);
    abi::ConnParam {
        qp_num,
        private_data,
        private_data_len: data.len() as u8,
        responder_resources: 4,
        initiator_depth: 7,
        retry_count: 5,
        rnr_retry_count: 6,
        valid: 1,
        ..zeroed()
    }
}
