// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports, and the addresses that are bound and resolved.

use super::*;

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
