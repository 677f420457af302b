// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of programs.

use std::time::Instant;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::abi::{self, command, emit, event, option, parse, ps, qp_type, rej, room, sidr};
use super::address::{read_long, read_short, Address};
use super::events::Told;
use super::id::{Path, PrivateData, State, Terms};
use super::{Channel, Manager, EVENTS};
use crate::{Errno, Result};

use ferroce_core::user::command::EVENT_ROOM;
use ferroce_core::verbs::QpState;

/// A command that a program has written.
#[derive(Debug)]
pub struct Command<'a> {
    /// The channel that an id is to come from.
    pub other: Option<Channel>,
    /// How many bytes the program has written, and the first of them.
    pub count: u64,
    pub bytes: &'a [u8],
    /// An option's value.
    pub option: &'a [u8],
}

/// What a program gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Zero, or an errno.
    pub status: u32,
    /// Where in its memory the answer goes to.
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// `net.rdma_ucm.max_backlog`.
const MAX_BACKLOG: u32 = 1024;

/// `enum ib_event_type`.
const EVENT_COMM_EST: u32 = 4;

/// A command in the hands of the manager.
struct Call<'a> {
    channel: Channel,
    other: Option<Channel>,
    input: &'a [u8],
    option: &'a [u8],
    /// Room for the answer.
    room: usize,
}

impl Call<'_> {
    fn read<T: FromBytes + IntoBytes>(&self) -> T {
        parse(self.input)
    }

    /// `ENOSPC` if there is no room for an answer of this size.
    fn check_room(&self, size: usize) -> Result<()> {
        match self.room < size {
            true => Err(Errno(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    fn answer(&self, address: u64, answer: &(impl IntoBytes + Immutable)) -> Result<Answer> {
        let bytes = emit(answer, self.room);
        Ok(Answer {
            status: 0,
            address,
            bytes,
        })
    }
}

/// The answer of a command that has none.
fn done() -> Result<Answer> {
    Ok(Answer::default())
}

fn invalid() -> Errno {
    Errno(libc::EINVAL)
}

/// As many bytes as an older structure had, which ended before this field.
macro_rules! room_without {
    ($type:ident, $field:ident) => {
        core::mem::offset_of!(abi::$type, $field)
    };
}

impl Manager {
    /// Carries out a command.
    pub fn command(&mut self, channel: Channel, command: &Command<'_>, now: Instant) -> Answer {
        self.now = now;
        let answer = self.run(channel, command);
        self.deliver();
        answer.unwrap_or_else(|Errno(errno)| Answer {
            status: errno.cast_unsigned(),
            ..Answer::default()
        })
    }

    fn run(&mut self, channel: Channel, command: &Command<'_>) -> Result<Answer> {
        const HEADER: usize = size_of::<abi::Header>();
        if command.bytes.len() < HEADER {
            return Err(invalid());
        }
        let header: abi::Header = parse(command.bytes);
        if header.cmd > command::WRITE_CM_EVENT {
            return Err(invalid());
        }
        if u64::from(header.input) + HEADER as u64 > command.count {
            return Err(invalid());
        }
        let input = command.bytes.get(HEADER..).unwrap_or_default();
        let call = Call {
            channel,
            other: command.other,
            input: &input[..input.len().min(header.input.into())],
            option: command.option,
            room: header.output.into(),
        };
        match header.cmd {
            command::CREATE_ID => self.on_create_id(&call),
            command::DESTROY_ID => self.on_destroy_id(&call),
            command::BIND_IP => self.on_bind_ip(&call),
            command::RESOLVE_IP => self.on_resolve_ip(&call),
            command::RESOLVE_ROUTE => {
                let cmd: abi::ResolveRoute = call.read();
                self.id_with_device(channel, cmd.id)?;
                self.resolve_route(cmd.id as usize, cmd.timeout_ms)?;
                done()
            }
            command::QUERY_ROUTE => {
                call.check_room(room_without!(QueryRouteAnswer, ibdev_index))?;
                let cmd: abi::Query = call.read();
                let answer = self.id_of(channel, cmd.id)?.query_route();
                call.answer(cmd.response, &answer)
            }
            command::CONNECT => self.on_connect(&call),
            command::LISTEN => {
                let cmd: abi::Listen = call.read();
                self.id_of(channel, cmd.id)?;
                let backlog = match cmd.backlog {
                    0 => MAX_BACKLOG,
                    backlog => backlog.min(MAX_BACKLOG),
                };
                self.listen(cmd.id as usize, backlog)?;
                done()
            }
            command::ACCEPT => self.on_accept(&call),
            command::REJECT => self.on_reject(&call),
            command::DISCONNECT => {
                let cmd: abi::Disconnect = call.read();
                let id = self.id_with_device(channel, cmd.id)?;
                id.cm.ok_or_else(invalid)?;
                self.disconnect(cmd.id as usize);
                done()
            }
            command::INIT_QP_ATTR => {
                call.check_room(size_of::<abi::QpAttr>())?;
                let cmd: abi::InitQpAttr = call.read();
                if cmd.qp_state > u32::from(QpState::Err) {
                    return Err(invalid());
                }
                let id = self.id_with_device(channel, cmd.id)?;
                let answer = id.qp_attr(cmd.qp_state)?;
                call.answer(cmd.response, &answer)
            }
            command::GET_EVENT => {
                call.check_room(EVENT_ROOM.into())?;
                let cmd: abi::GetEvent = call.read();
                let answer = self.next_event(channel)?;
                call.answer(cmd.response, &answer)
            }
            command::SET_OPTION => self.on_set_option(&call),
            command::NOTIFY => self.on_notify(&call),
            command::JOIN_IP_MCAST => {
                let cmd: abi::JoinIpMulticast = call.read();
                let address = read_short(&cmd.addr).ok_or_else(invalid)?;
                self.on_join(&call, cmd.id, address, 0, cmd.uid, cmd.response)
            }
            command::JOIN_MCAST => {
                let cmd: abi::JoinMulticast = call.read();
                let address = read_long(&cmd.addr, cmd.addr_size).ok_or_else(invalid)?;
                let flags = cmd.join_flags;
                self.on_join(&call, cmd.id, address, flags, cmd.uid, cmd.response)
            }
            command::LEAVE_MCAST => {
                call.check_room(size_of::<u32>())?;
                let cmd: abi::DestroyId = call.read();
                let reported = self.leave(channel, cmd.id)?;
                call.answer(cmd.response, &reported)
            }
            command::MIGRATE_ID => self.on_migrate_id(&call),
            command::QUERY => self.on_query(&call),
            command::BIND => {
                let cmd: abi::Bind = call.read();
                let address = read_long(&cmd.addr, cmd.addr_size);
                let address = address.filter(|_| cmd.reserved == 0).ok_or_else(invalid)?;
                self.id_of(channel, cmd.id)?;
                self.bind(cmd.id as usize, address)?;
                done()
            }
            command::RESOLVE_ADDR => self.on_resolve_addr(&call),
            command::RESOLVE_IB_SERVICE => {
                let cmd: abi::ResolveIbService = call.read();
                let id = self.id_of(channel, cmd.id)?;
                let is_bound = id.device.is_some() && id.state == State::AddrBound;
                // There is no subnet administrator on RoCE.
                Err(Errno(if is_bound {
                    libc::EOPNOTSUPP
                } else {
                    libc::EINVAL
                }))
            }
            command::WRITE_CM_EVENT => self.on_write_cm_event(&call),
            // Get Option, which no kernel has.
            _ => Err(Errno(libc::ENOSYS)),
        }
    }

    fn on_create_id(&mut self, call: &Call<'_>) -> Result<Answer> {
        call.check_room(size_of::<u32>())?;
        let cmd: abi::CreateId = call.read();
        let qp_type = match cmd.ps {
            ps::TCP => qp_type::RC,
            ps::UDP | ps::IPOIB => qp_type::UD,
            ps::IB => cmd.qp_type,
            _ => return Err(invalid()),
        };
        let number = self.create(call.channel, cmd.uid, cmd.ps, qp_type)?;
        call.answer(cmd.response, &(number as u32))
    }

    fn on_destroy_id(&mut self, call: &Call<'_>) -> Result<Answer> {
        call.check_room(size_of::<u32>())?;
        let cmd: abi::DestroyId = call.read();
        self.id_of(call.channel, cmd.id)?;
        let reported = self.destroy(cmd.id as usize);
        call.answer(cmd.response, &reported)
    }

    fn on_bind_ip(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::BindIp = call.read();
        let address = read_short(&cmd.addr).ok_or_else(invalid)?;
        self.id_of(call.channel, cmd.id)?;
        self.bind(cmd.id as usize, address)?;
        done()
    }

    fn on_resolve_ip(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::ResolveIp = call.read();
        let src = match cmd.src_addr[..2] {
            [0, 0] => None,
            _ => Some(read_short(&cmd.src_addr).ok_or_else(invalid)?),
        };
        let dst = read_short(&cmd.dst_addr).ok_or_else(invalid)?;
        self.id_of(call.channel, cmd.id)?;
        self.resolve_address(cmd.id as usize, src, dst, cmd.timeout_ms)?;
        done()
    }

    fn on_resolve_addr(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::ResolveAddr = call.read();
        let src = match cmd.src_size {
            0 => None,
            size => Some(read_long(&cmd.src_addr, size).ok_or_else(invalid)?),
        };
        let dst = read_long(&cmd.dst_addr, cmd.dst_size);
        let dst = dst.filter(|_| cmd.reserved == 0).ok_or_else(invalid)?;
        self.id_of(call.channel, cmd.id)?;
        self.resolve_address(cmd.id as usize, src, dst, cmd.timeout_ms)?;
        done()
    }

    fn on_query(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::Query = call.read();
        let id = self.id_of(call.channel, cmd.id)?;
        let address_room = room_without!(QueryAddrAnswer, ibdev_index);
        match cmd.option {
            0 => {
                call.check_room(address_room)?;
                call.answer(cmd.response, &id.query_addr())
            }
            1 => {
                call.check_room(2 * size_of::<u32>())?;
                let answer = id.query_path();
                let length = match answer.num_paths {
                    0 => 2 * size_of::<u32>(),
                    // All of it or nothing.
                    _ if call.room < size_of_val(&answer) => 2 * size_of::<u32>(),
                    _ => size_of_val(&answer),
                };
                Ok(Answer {
                    status: 0,
                    address: cmd.response,
                    bytes: emit(&answer, length),
                })
            }
            2 => {
                call.check_room(address_room)?;
                call.answer(cmd.response, &id.query_gid())
            }
            3 => {
                call.check_room(2 * size_of::<u32>())?;
                Err(Errno(libc::ENODATA))
            }
            _ => Err(Errno(libc::ENOSYS)),
        }
    }

    fn on_connect(&mut self, call: &Call<'_>) -> Result<Answer> {
        if call.input.len() < room_without!(Connect, ece) {
            return Err(invalid());
        }
        let mut cmd: abi::Connect = call.read();
        if call.input.len() < size_of_val(&cmd) {
            cmd.ece = abi::zeroed();
        }
        let param = &cmd.conn_param;
        if param.valid == 0 {
            return Err(invalid());
        }
        let number = cmd.id as usize;
        let id = self.id_with_device(call.channel, cmd.id)?;
        id.ece = cmd.ece;
        if id.state != State::RouteResolved {
            return Err(invalid());
        }
        let room = id.request_room(match id.qp_type {
            qp_type::UD => room::SIDR_REQ,
            _ => room::REQ,
        });
        let data = PrivateData::new(&param.private_data, param.private_data_len, room)?;
        id.state = State::Connect;
        id.qp_num = param.qp_num & 0xff_ffff;
        id.terms = Terms::of(param);
        id.srq = id.terms.srq;
        let connected = self.connect(number, data);
        if connected.is_err() {
            self.ids[number].state = State::RouteResolved;
        }
        connected.and_then(|()| done())
    }

    fn on_accept(&mut self, call: &Call<'_>) -> Result<Answer> {
        if call.input.len() < room_without!(Accept, ece) {
            return Err(invalid());
        }
        let mut cmd: abi::Accept = call.read();
        if call.input.len() < size_of_val(&cmd) {
            cmd.ece = abi::zeroed();
        }
        let id = self.id_with_device(call.channel, cmd.id)?;
        id.ece = cmd.ece;
        if id.state != State::Connect {
            return Err(invalid());
        }
        let number = cmd.id as usize;
        let accepted = self.accept(number, &cmd.conn_param);
        if accepted.is_err() {
            // As far as there is anything to refuse.
            let _ = match self.ids[number].qp_type {
                qp_type::UD => self.reply_sidr(number, sidr::REJECT, 0, PrivateData::default()),
                _ => self.reject(number, rej::CONSUMER_DEFINED, PrivateData::default()),
            };
        } else if cmd.conn_param.valid != 0 {
            self.ids[number].uid = cmd.uid;
        }
        accepted.and_then(|()| done())
    }

    fn accept(&mut self, number: usize, param: &abi::ConnParam) -> Result<()> {
        let id = &mut self.ids[number];
        let is_datagram = id.qp_type == qp_type::UD;
        if param.valid == 0 {
            return match is_datagram {
                true => self.reply_sidr(number, sidr::SUCCESS, 0, PrivateData::default()),
                false => self.ready(number),
            };
        }
        id.qp_num = param.qp_num & 0xff_ffff;
        let terms = Terms::of(param);
        id.srq = terms.srq;
        let is_ib = matches!(id.src, Some(Address::Ib(_)));
        let room = if is_datagram {
            room::SIDR_REP
        } else {
            room::REP
        };
        let data = PrivateData::new(&param.private_data, param.private_data_len, room)?;
        match is_datagram {
            true => {
                let qkey = if is_ib { param.qkey } else { 0 };
                self.reply_sidr(number, sidr::SUCCESS, qkey, data)
            }
            false => self.reply(number, terms, data),
        }
    }

    fn on_reject(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::Reject = call.read();
        let reason = match cmd.reason {
            0 => rej::CONSUMER_DEFINED,
            reason @ (rej::CONSUMER_DEFINED | rej::VENDOR_OPTION_NOT_SUPPORTED) => reason,
            _ => return Err(invalid()),
        };
        let id = self.id_with_device(call.channel, cmd.id)?;
        id.cm.ok_or_else(invalid)?;
        let number = cmd.id as usize;
        let is_datagram = id.qp_type == qp_type::UD;
        let room = if is_datagram {
            room::SIDR_REP
        } else {
            room::REJ
        };
        let data = PrivateData::new(&cmd.private_data, cmd.private_data_len, room)?;
        match is_datagram {
            true => self.reply_sidr(number, sidr::REJECT, 0, data)?,
            false => self.reject(number, reason, data)?,
        }
        done()
    }

    fn on_set_option(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::SetOption = call.read();
        let id = self.id_of(call.channel, cmd.id)?;
        if call.option.len() != cmd.optlen as usize {
            return Err(invalid());
        }
        let byte = || match call.option {
            [byte] => Ok(*byte),
            _ => Err(invalid()),
        };
        let flag = || match <[u8; 4]>::try_from(call.option) {
            Ok(bytes) => Ok(bytes != [0; 4]),
            Err(_) => Err(invalid()),
        };
        match (cmd.level, cmd.optname) {
            (option::LEVEL_ID, option::ID_TOS) => id.tos = Some(byte()?),
            (option::LEVEL_ID, option::ID_REUSEADDR) => {
                let reuse = flag()?;
                let may = reuse && id.state != State::Listen || id.state == State::Idle;
                if !may {
                    return Err(invalid());
                }
                id.reuseaddr = reuse;
            }
            (option::LEVEL_ID, option::ID_AFONLY) => {
                let afonly = flag()?;
                if !matches!(id.state, State::Idle | State::AddrBound) {
                    return Err(invalid());
                }
                (id.afonly, id.afonly_set) = (afonly, true);
            }
            (option::LEVEL_ID, option::ID_ACK_TIMEOUT) => {
                let timeout = byte()?;
                if ![qp_type::RC, qp_type::XRC_INI].contains(&id.qp_type) {
                    return Err(invalid());
                }
                id.ack_timeout = Some(timeout);
            }
            (option::LEVEL_IB, option::IB_PATH) => {
                let path = find_path(call.option).ok_or_else(invalid)?;
                self.set_path(cmd.id as usize, path)?;
            }
            _ => return Err(Errno(libc::ENOSYS)),
        }
        done()
    }

    fn on_notify(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::Notify = call.read();
        let id = self.id_with_device(call.channel, cmd.id)?;
        id.cm.ok_or_else(invalid)?;
        match cmd.event {
            EVENT_COMM_EST => self.establish(cmd.id as usize)?,
            // There is no path to migrate to.
            _ => return Err(invalid()),
        }
        done()
    }

    fn on_join(
        &mut self,
        call: &Call<'_>,
        id: u32,
        address: Address,
        flags: u16,
        uid: u64,
        response: u64,
    ) -> Result<Answer> {
        call.check_room(size_of::<u32>())?;
        // A full member, or one that only sends.
        if flags > 1 {
            return Err(invalid());
        }
        self.id_with_device(call.channel, id)?;
        let group = self.join(call.channel, id as usize, address, uid)?;
        call.answer(response, &(group as u32))
    }

    fn on_migrate_id(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::MigrateId = call.read();
        let from = call.other.ok_or_else(invalid)?;
        let id = self.id_of(from, cmd.id)?;
        id.channel = call.channel;
        let reported = id.events_reported;
        self.move_events(cmd.id as usize, from, call.channel);
        call.answer(cmd.response, &reported)
    }

    fn on_write_cm_event(&mut self, call: &Call<'_>) -> Result<Answer> {
        let cmd: abi::WriteCmEvent = call.read();
        if ![event::USER, event::INTERNAL].contains(&cmd.event) {
            return Err(invalid());
        }
        let id = self.id_of(call.channel, cmd.id)?;
        if id.uid == 0 {
            return Err(invalid());
        }
        if self.event_count(call.channel) >= EVENTS {
            return Err(Errno(libc::ENOMEM));
        }
        let mut told = Told::status(cmd.status.cast_signed());
        // One number of 64 bits.
        told.param[..8].copy_from_slice(&cmd.param[..8]);
        self.raise(cmd.id as usize, cmd.event, told);
        done()
    }
}

/// The path among those of an option that goes both ways (`struct ib_path_rec_data`).
fn find_path(option: &[u8]) -> Option<Path> {
    const FLAGS: u32 = 1 | 2 | 8 | 32;
    let (records, rest) = option.as_chunks::<72>();
    if !rest.is_empty() {
        return None;
    }
    let record = records
        .iter()
        .find(|record| parse::<u32>(&record[..4]) == FLAGS)?;
    Some(Path::unpack(&parse(&record[8..])))
}
