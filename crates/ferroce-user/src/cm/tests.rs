// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two programs at the manager, in virtual time.

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

#[test]
fn a_connection_is_made_and_ended() {
    let mut host = Host::new();
    let listener = host.listener(7000, 5);
    let client = host.connecting(7000);
    let request = host.expect(SERVER, event::CONNECT_REQUEST);
    assert_eq!(request.uid, 1);
    // As long as the message has room for: 92 bytes, 36 of them for addresses.
    assert_eq!(request.param.private_data_len, 56);
    assert!(request.param.private_data.starts_with(b"hello\0"));
    assert_eq!(request.param.qp_num, 0x123);
    // What the one starts the other answers.
    assert_eq!(request.param.responder_resources, 7);
    assert_eq!(request.param.initiator_depth, 4);
    let server = request.id;
    assert_eq!(host.accept(server, 3), 0);
    let response = host.expect(CLIENT, event::CONNECT_RESPONSE);
    assert_eq!(response.param.private_data_len, 196);
    assert!(response.param.private_data.starts_with(b"welcome\0"));
    assert_eq!(response.param.qp_num, 0x456);
    host.ready(client);
    assert_eq!(host.expect(SERVER, event::ESTABLISHED).uid, 3);

    assert_eq!(host.by_id(CLIENT, command::DISCONNECT, client), 0);
    host.expect(SERVER, event::DISCONNECTED);
    host.expect_none(CLIENT);
    assert_eq!(host.by_id(SERVER, command::DISCONNECT, server), 0);
    host.expect(CLIENT, event::DISCONNECTED);
    // 4.096 µs · 2^17, as Linux rounds it.
    host.pass(Duration::from_millis(511));
    host.expect_none(CLIENT);
    host.pass(Duration::from_millis(1));
    host.expect(CLIENT, event::TIMEWAIT_EXIT);
    host.expect(SERVER, event::TIMEWAIT_EXIT);

    // Address, route, response, end, timewait.
    assert_eq!(host.destroy(CLIENT, client), 5);
    assert_eq!(host.destroy(SERVER, server), 3);
    assert_eq!(host.destroy(SERVER, listener), 1);
    assert_eq!(host.manager.leftovers(), (0, 0, 2));
}

#[test]
fn attributes_of_both_ends_fit() {
    const INIT: u32 = 1;
    const RTR: u32 = 2;
    const RTS: u32 = 3;
    let mut host = Host::new();
    host.listener(7000, 5);
    let (client, server) = host.connected(7000);
    let [client, server] = [(CLIENT, client), (SERVER, server)].map(|(channel, id)| {
        [INIT, RTR, RTS].map(|state| host.qp_attr(channel, id, state).unwrap())
    });
    let gid = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    for ([_, rtr, rts], [_, peer_rtr, _], qp_num) in
        [(client, server, 0x456), (server, client, 0x123)]
    {
        assert_eq!(rts.sq_psn, peer_rtr.rq_psn);
        assert_eq!(rtr.dest_qp_num, qp_num);
        assert_eq!((rtr.ah_attr.dgid, rtr.ah_attr.sgid_index), (gid, 0));
        assert_eq!((rtr.ah_attr.is_global, rtr.ah_attr.port_num), (1, 1));
        assert_eq!(rtr.ah_attr.flow_label, peer_rtr.ah_attr.flow_label);
        assert_eq!(rtr.path_mtu, 5);
        assert_eq!(rts.timeout, 17);
        assert_eq!((rts.retry_cnt, rts.rnr_retry), (5, 6));
        assert_eq!(rtr.qp_attr_mask, 0x12_9181 & !(1 << 13) | 1 << 17);
        assert_eq!(
            rts.qp_attr_mask,
            1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 16
        );
    }
    // The client starts 7 and answers 4; the server has said the same of itself, which counts.
    assert_eq!(client[2].max_rd_atomic, 4);
    assert_eq!(client[1].max_dest_rd_atomic, 7);
    assert_eq!(server[2].max_rd_atomic, 7);
    assert_eq!(server[1].max_dest_rd_atomic, 4);
    assert_ne!(client[0].qp_access_flags & 1 << 2, 0);
}

#[test]
fn attributes_need_a_connection_that_is_far_enough() {
    let mut host = Host::new();
    host.listener(7000, 5);
    let id = host.create(CLIENT, 2, ps::TCP);
    assert_eq!(host.qp_attr(CLIENT, id, 1).unwrap_err(), 22);
    host.resolve(id, v4(7000));
    // Before it asks, all that is known is the port.
    assert_eq!(host.qp_attr(CLIENT, id, 3).unwrap().qp_attr_mask, 0x39);
    assert_eq!(host.connect(id, b""), 0);
    assert!(host.qp_attr(CLIENT, id, 1).is_ok());
    assert_eq!(host.qp_attr(CLIENT, id, 2).unwrap_err(), 22);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    assert!(host.qp_attr(SERVER, server, 3).is_ok());
    assert_eq!(host.qp_attr(SERVER, server, 7).unwrap_err(), 22);
}

#[test]
fn requests_are_refused() {
    let mut host = Host::new();
    // Nobody listens.
    let id = host.connecting(7000);
    let refused = host.expect(CLIENT, event::REJECTED);
    assert_eq!((refused.id, refused.status), (id, 8));
    assert_eq!(refused.param.private_data_len, 148);

    host.listener(7000, 5);
    host.connecting(7000);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    let mut cmd = abi::Reject {
        id: server,
        private_data_len: 3,
        ..zeroed()
    };
    cmd.private_data[..3].copy_from_slice(b"no!");
    cmd.reason = 7;
    assert_eq!(host.errno(SERVER, command::REJECT, cmd.as_bytes()), 22);
    cmd.reason = 0;
    host.run(SERVER, command::REJECT, cmd.as_bytes());
    assert_eq!(host.errno(SERVER, command::REJECT, cmd.as_bytes()), 22);
    let refused = host.expect(CLIENT, event::REJECTED);
    assert_eq!(refused.status, rej::CONSUMER_DEFINED.into());
    assert!(refused.param.private_data.starts_with(b"no!\0"));
    // It is too late to accept.
    assert_eq!(host.accept(server, 3), 22);
}

#[test]
fn private_data_has_the_room_of_its_message() {
    let mut host = Host::new();
    host.listener(7000, 5);
    let id = host.create(CLIENT, 2, ps::TCP);
    host.resolve(id, v4(7000));
    assert_eq!(host.connect(id, &[1; 57]), 22);
    assert_eq!(host.connect(id, &[1; 56]), 0);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    let accept = |length| abi::Accept {
        uid: 3,
        conn_param: param(1, &vec![2; length]),
        id: server,
        ..zeroed()
    };
    // A request that could not be accepted is refused.
    assert_eq!(
        host.errno(SERVER, command::ACCEPT, accept(197).as_bytes()),
        22
    );
    host.expect(CLIENT, event::REJECTED);
    assert_eq!(
        host.errno(SERVER, command::ACCEPT, accept(196).as_bytes()),
        22
    );
}

#[test]
fn a_request_waits_while_the_backlog_is_full() {
    let mut host = Host::new();
    let listener = host.listener(7000, 1);
    let clients = [(); 3].map(|()| host.connecting(7000));
    let first = host.expect(SERVER, event::CONNECT_REQUEST);
    let second = host.expect(SERVER, event::CONNECT_REQUEST);
    assert_ne!(first.id, second.id);
    // The third one is not waited for any more when its time has come.
    host.destroy(CLIENT, clients[1]);
    host.expect(SERVER, event::CONNECT_REQUEST);
    host.expect_none(SERVER);
    let late = [(); 2].map(|()| host.connecting(7000));
    host.pass(Duration::from_secs(74));
    let given_up = host.expect(CLIENT, event::UNREACHABLE);
    assert_eq!((given_up.id, given_up.status), (late[1], -110));
    // Who waits when the listener goes is told that there is none.
    host.destroy(SERVER, listener);
    let told = host.expect(CLIENT, event::REJECTED);
    assert_eq!((told.id, told.status), (late[0], 28));
}

#[test]
fn who_goes_is_missed_in_each_state() {
    // A client that has asked.
    let mut host = Host::new();
    host.listener(7000, 5);
    let client = host.connecting(7000);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    host.destroy(CLIENT, client);
    assert_eq!(host.accept(server, 3), 22);
    // One that is answered.
    let client = host.connecting(7000);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    assert_eq!(host.accept(server, 3), 0);
    host.destroy(CLIENT, client);
    assert_eq!(host.expect(SERVER, event::REJECTED).status, 28);
    // A server that has been asked, and one that has answered.
    for accepts in [false, true] {
        host.connecting(7000);
        let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
        if accepts {
            assert_eq!(host.accept(server, 3), 0);
            host.expect(CLIENT, event::CONNECT_RESPONSE);
        }
        host.destroy(SERVER, server);
        assert_eq!(host.expect(CLIENT, event::REJECTED).status, 28);
    }
    // Both ends of a connection, by the end of their programs.
    for (channel, other) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        host.connected(7000);
        host.manager.close(channel, host.now);
        assert_eq!(host.expect(other, event::DISCONNECTED).status, 0);
        host.open(channel);
        if channel == SERVER {
            host.listener(7000, 5);
        }
    }
}

#[test]
fn an_end_that_is_not_confirmed_is_one() {
    let mut host = Host::new();
    host.listener(7000, 5);
    let (client, _) = host.connected(7000);
    assert_eq!(host.by_id(CLIENT, command::DISCONNECT, client), 0);
    host.expect_none(CLIENT);
    host.pass(Duration::from_secs(74));
    assert_eq!(host.expect(CLIENT, event::DISCONNECTED).status, -110);
    host.pass(Duration::from_secs(1));
    host.expect(CLIENT, event::TIMEWAIT_EXIT);
}

#[test]
fn ports_are_one_listeners() {
    let mut host = Host::new();
    let first = host.listener(7000, 5);
    let id = host.create(SERVER, 1, ps::TCP);
    assert_eq!(host.bind(SERVER, id, v4(7000)), libc::EADDRINUSE);
    assert_eq!(host.bind(SERVER, id, any_v6(7000)), libc::EADDRNOTAVAIL);
    // Another port space has ports of its own.
    let datagrams = host.create(SERVER, 1, ps::UDP);
    assert_eq!(host.bind(SERVER, datagrams, v4(7000)), 0);
    host.destroy(SERVER, first);
    assert_eq!(host.bind(SERVER, id, v4(7000)), 0);
    assert_eq!(host.bind(SERVER, id, v4(7001)), 22);
    // One is chosen.
    let chosen = host.create(SERVER, 1, ps::TCP);
    assert_eq!(host.bind(SERVER, chosen, v4(0)), 0);
    let cmd = abi::Query {
        id: chosen,
        ..zeroed()
    };
    let answer = host.send(SERVER, command::QUERY, cmd.as_bytes(), 280);
    let answer: abi::QueryAddrAnswer = parse(&answer.bytes);
    assert_ne!(answer.src_addr[2..4], [0, 0]);
    assert_eq!((answer.src_size, answer.port_num), (16, 1));
    assert_eq!(answer.node_guid, GUID.to_be());
}

#[test]
fn the_wildcard_of_ipv6_is_that_of_ipv4_too() {
    let mut host = Host::new();
    let id = host.create(SERVER, 1, ps::TCP);
    assert_eq!(host.bind(SERVER, id, any_v6(7000)), 0);
    assert_eq!(host.listen(id, 5), 0);
    host.connecting(7000);
    host.expect(SERVER, event::CONNECT_REQUEST);
}

#[test]
fn other_addresses_are_not_answered_at() {
    let mut host = Host::new();
    let id = host.create(CLIENT, 2, ps::TCP);
    let unknown = Address::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 7000));
    assert_eq!(host.bind(CLIENT, id, unknown), libc::EADDRNOTAVAIL);
    let (dst_addr, dst_size) = unknown.write();
    let (src_addr, src_size) = v4(0).write();
    let cmd = abi::ResolveAddr {
        id,
        timeout_ms: 1000,
        src_size,
        dst_size,
        src_addr,
        dst_addr,
        ..zeroed()
    };
    let errno = host.errno(CLIENT, command::RESOLVE_ADDR, cmd.as_bytes());
    // Where this host has no way to it, that is said at once.
    if errno == 0 {
        host.pass(Duration::from_millis(999));
        host.expect_none(CLIENT);
        host.pass(Duration::from_millis(1));
        assert_eq!(host.expect(CLIENT, event::ADDR_ERROR).status, -110);
    } else {
        assert_eq!(errno, libc::ENETUNREACH);
    }
    // It may try again.
    let (dst_addr, dst_size) = v4(7000).write();
    let cmd = abi::ResolveAddr {
        dst_addr,
        dst_size,
        ..cmd
    };
    host.run(CLIENT, command::RESOLVE_ADDR, cmd.as_bytes());
    host.expect(CLIENT, event::ADDR_RESOLVED);
}

#[test]
fn a_queue_pair_for_datagrams_is_found() {
    let mut host = Host::new();
    let listener = host.create(SERVER, 1, ps::UDP);
    assert_eq!(host.bind(SERVER, listener, v4(7000)), 0);
    let id = host.create(CLIENT, 2, ps::UDP);
    host.resolve(id, v4(7000));
    assert_eq!(host.connect(id, &[1; 181]), 22);
    assert_eq!(host.connect(id, &[1; 180]), 0);
    // It does not listen yet.
    assert_eq!(host.expect(CLIENT, event::UNREACHABLE).status, 1);
    assert_eq!(host.listen(listener, 5), 0);

    let id = host.create(CLIENT, 2, ps::UDP);
    host.resolve(id, v4(7000));
    assert_eq!(host.connect(id, b"hello"), 0);
    let server = host.expect(SERVER, event::CONNECT_REQUEST).id;
    assert_eq!(host.accept(server, 3), 0);
    let cmd: abi::GetEvent = zeroed();
    let answer = host.send(CLIENT, command::GET_EVENT, cmd.as_bytes(), 336);
    let answer: abi::EventAnswer = parse(&answer.bytes);
    assert_eq!(answer.event, event::ESTABLISHED);
    let param: abi::UdParam = parse(&answer.param);
    assert_eq!((param.qp_num, param.qkey), (0x456, 0x0123_4567));
    assert_eq!(param.private_data_len, 136);
    assert!(param.private_data.starts_with(b"welcome\0"));
    assert_eq!(param.ah_attr.is_global, 1);
    host.expect_none(SERVER);
}

#[test]
fn groups_are_joined_and_left() {
    let mut host = Host::new();
    let id = host.create(CLIENT, 2, ps::UDP);
    let (addr, addr_size) = Address::V4(SocketAddrV4::new(Ipv4Addr::new(239, 1, 1, 1), 0)).write();
    let cmd = abi::JoinMulticast {
        uid: 9,
        id,
        addr_size,
        addr,
        ..zeroed()
    };
    assert_eq!(host.errno(CLIENT, command::JOIN_MCAST, cmd.as_bytes()), 22);
    assert_eq!(host.bind(CLIENT, id, v4(0)), 0);
    host.run(CLIENT, command::JOIN_MCAST, cmd.as_bytes());
    let joined = host.expect(CLIENT, event::MULTICAST_JOIN);
    assert_eq!(joined.uid, 9);
    let leave = abi::DestroyId {
        id: joined.id,
        ..zeroed()
    };
    let answer = host.send(CLIENT, command::LEAVE_MCAST, leave.as_bytes(), 4);
    assert_eq!(parse::<u32>(&answer.bytes), 1);
    assert_eq!(
        host.errno(CLIENT, command::LEAVE_MCAST, leave.as_bytes()),
        2
    );
    // Events of a group go with it, and with the id.
    host.run(CLIENT, command::JOIN_MCAST, cmd.as_bytes());
    host.destroy(CLIENT, id);
    host.expect_none(CLIENT);
    assert_eq!(host.manager.leftovers(), (0, 0, 2));
}

#[test]
fn an_id_moves_with_its_events() {
    let mut host = Host::new();
    let listener = host.listener(7000, 5);
    host.connecting(7000);
    let cmd = abi::MigrateId {
        id: listener,
        ..zeroed()
    };
    let header = abi::Header {
        cmd: command::MIGRATE_ID,
        input: 16,
        output: 4,
    };
    let bytes = [header.as_bytes(), cmd.as_bytes()].concat();
    let other: Channel = 12;
    host.open(other);
    let mut migrate = |from| {
        let command = Command {
            other: from,
            count: bytes.len() as u64,
            bytes: &bytes,
            option: &[],
        };
        host.manager.command(other, &command, host.now)
    };
    assert_eq!(migrate(None).status, 22);
    assert_eq!(migrate(Some(CLIENT)).status, 22);
    assert_eq!(migrate(Some(SERVER)).status, 0);
    host.expect_none(SERVER);
    let request = host.expect(other, event::CONNECT_REQUEST);
    assert_eq!(host.by_id(SERVER, command::DESTROY_ID, request.id), 22);
}

#[test]
fn what_is_no_command_is_refused() {
    let mut host = Host::new();
    let mut send = |count: u64, bytes: &[u8]| {
        let command = Command {
            other: None,
            count,
            bytes,
            option: &[],
        };
        host.manager.command(CLIENT, &command, host.now).status
    };
    assert_eq!(send(4, &[0; 4]), 22);
    // It says that it is longer than it is.
    let header = |cmd, input| abi::Header {
        cmd,
        input,
        output: 512,
    };
    assert_eq!(send(8, header(0, 1).as_bytes()), 22);
    assert_eq!(send(8, header(25, 0).as_bytes()), 22);
    assert_eq!(send(8, header(command::CONNECT, 0).as_bytes()), 22);
    assert_eq!(send(8, header(13, 0).as_bytes()), 38);
    assert_eq!(send(8, header(command::DISCONNECT, 0).as_bytes()), 2);
    let mut no_room = header(0, 0);
    no_room.output = 3;
    assert_eq!(send(8, no_room.as_bytes()), 28);
}

/// Commands by chance, mostly ones that mean something, from three programs.
#[test]
fn anything_is_survived_and_nothing_is_left() {
    let channels = [SERVER, CLIENT, 12];
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut host = Host::new();
        host.open(12);
        for _ in 0..300 {
            let channel = channels[random.usize(..3)];
            let kind = random.u32(..26);
            let mut input = vec![0; random.usize(..400)];
            random.fill(&mut input[..]);
            let id = random.u32(..8);
            let port = 7000 + random.u16(..3);
            let address = if random.bool() {
                v4(port)
            } else {
                any_v6(port)
            };
            let is_placed = random.u8(..10) > 0;
            let place = |input: &mut Vec<u8>, bytes: &[u8]| {
                if is_placed {
                    input.clear();
                    input.extend_from_slice(bytes);
                }
            };
            let (addr, addr_size) = address.write();
            match kind {
                command::CREATE_ID => {
                    let ps = [ps::TCP, ps::UDP, ps::IB, ps::IPOIB][random.usize(..4)];
                    let cmd = abi::CreateId {
                        uid: 1 + u64::from(id),
                        ps,
                        qp_type: qp_type::RC,
                        ..zeroed()
                    };
                    place(&mut input, cmd.as_bytes());
                }
                command::BIND => place(
                    &mut input,
                    abi::Bind {
                        id,
                        addr_size,
                        addr,
                        reserved: 0,
                    }
                    .as_bytes(),
                ),
                command::RESOLVE_ADDR => place(
                    &mut input,
                    abi::ResolveAddr {
                        id,
                        timeout_ms: 10,
                        dst_size: addr_size,
                        dst_addr: addr,
                        ..zeroed()
                    }
                    .as_bytes(),
                ),
                command::CONNECT => place(
                    &mut input,
                    abi::Connect {
                        conn_param: param(1, b"x"),
                        id,
                        ..zeroed()
                    }
                    .as_bytes(),
                ),
                command::ACCEPT => place(
                    &mut input,
                    abi::Accept {
                        uid: 100,
                        conn_param: abi::ConnParam {
                            valid: random.u8(..2),
                            ..param(1, b"y")
                        },
                        id,
                        ..zeroed()
                    }
                    .as_bytes(),
                ),
                command::JOIN_MCAST => {
                    let group = Ipv4Addr::new(239, 0, 0, 1);
                    let (addr, addr_size) = Address::V4(SocketAddrV4::new(group, 0)).write();
                    let cmd = abi::JoinMulticast {
                        uid: 5,
                        id,
                        addr_size,
                        addr,
                        ..zeroed()
                    };
                    place(&mut input, cmd.as_bytes());
                }
                // The id comes first, or after the response.
                command::DESTROY_ID | command::LEAVE_MCAST | command::MIGRATE_ID => {
                    let cmd = abi::DestroyId { id, ..zeroed() };
                    place(&mut input, cmd.as_bytes());
                }
                _ => place(&mut input, [id, random.u32(..6)].as_bytes()),
            }
            let header = abi::Header {
                cmd: kind,
                input: input.len() as u16,
                output: random.u16(..600),
            };
            let bytes = [header.as_bytes(), &input].concat();
            let command = Command {
                other: Some(channels[random.usize(..3)]),
                count: bytes.len() as u64,
                bytes: &bytes,
                option: &input[..random.usize(..=input.len())],
            };
            host.manager.command(channel, &command, host.now);
            if random.u8(..20) == 0 {
                host.pass(Duration::from_secs(random.u64(..80)));
            }
            if random.u8(..60) == 0 {
                host.manager.close(channel, host.now);
                host.open(channel);
            }
        }
        for channel in channels {
            host.manager.close(channel, host.now);
        }
        assert_eq!(host.manager.leftovers(), (0, 0, 0), "seed {seed}");
    }
}
