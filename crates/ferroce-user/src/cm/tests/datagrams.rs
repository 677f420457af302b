// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs for datagrams, and their groups.

use super::*;

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
