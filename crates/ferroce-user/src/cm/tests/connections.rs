// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections: how they are made, refused and ended.

use super::*;

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
