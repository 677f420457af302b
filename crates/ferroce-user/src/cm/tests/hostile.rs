// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ids of other programs, and input that is no command or is by chance.

use super::*;

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
