// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDMA core's netlink interface, as far as links go: what `rdma link`
//! speaks (include/uapi/rdma/rdma_netlink.h, drivers/infiniband/core/nldev.c).

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{
    parse_string, parse_u32, parse_u64, parse_u8, DecodeError, DefaultNla, Emitable, ErrorMessage,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
};
use netlink_sys::{protocols::NETLINK_RDMA, Socket, SocketAddr};

/// `RDMA_NL_NLDEV`, the part of the interface that is about devices; a message's
/// type has it above the command.
const NLDEV: u16 = 5 << 10;

/// `enum rdma_nldev_command`.
mod command {
    pub const GET: u16 = 1;
    pub const NEWLINK: u16 = 3;
    pub const DELLINK: u16 = 4;
    pub const PORT_GET: u16 = 5;
    pub const RES_QP_GET: u16 = 10;
    pub const RES_CQ_GET: u16 = 12;
    pub const STAT_GET: u16 = 17;
}

/// `enum rdma_nldev_attr`.
mod attribute {
    pub const DEV_INDEX: u16 = 1;
    pub const DEV_NAME: u16 = 2;
    pub const PORT_INDEX: u16 = 3;
    pub const PORT_STATE: u16 = 12;
    pub const PORT_PHYS_STATE: u16 = 13;
    pub const RES_QP: u16 = 19;
    pub const RES_LQPN: u16 = 21;
    pub const RES_RQPN: u16 = 22;
    pub const RES_SQ_PSN: u16 = 24;
    pub const RES_TYPE: u16 = 26;
    pub const RES_STATE: u16 = 27;
    pub const RES_PID: u16 = 28;
    pub const RES_KERN_NAME: u16 = 29;
    pub const RES_CQ: u16 = 35;
    pub const RES_CQE: u16 = 37;
    pub const NDEV_NAME: u16 = 51;
    pub const DRIVER: u16 = 52;
    pub const DRIVER_STRING: u16 = 54;
    pub const DRIVER_U32: u16 = 57;
    pub const DRIVER_U64: u16 = 59;
    pub const RES_CQN: u16 = 61;
    pub const LINK_TYPE: u16 = 65;
    pub const STAT_HWCOUNTERS: u16 = 80;
    pub const STAT_HWCOUNTER_ENTRY_NAME: u16 = 82;
    pub const STAT_HWCOUNTER_ENTRY_VALUE: u16 = 83;
    pub const DRIVER_DETAILS: u16 = 97;
}

/// The attribute of an error with the kernel's words (enum nlmsgerr_attrs).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// What a driver without counters answers.
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// The length of a message's header in bytes.
const HEADER_LEN: usize = 16;

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number of it.
    pub index: u32,
    pub name: String,
}

/// A port of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// From 1.
    pub number: u32,
    /// `enum ib_port_state`.
    pub state: u8,
    /// `enum ib_port_phys_state`.
    pub physical_state: u8,
    /// The network interface, if it is in this network namespace.
    pub netdev: Option<String>,
}

/// Whose an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A process, by its number.
    Process(u32),
    /// A module of the kernel's, by its name.
    Kernel(String),
    /// A process that has ended, and whose objects are about to go.
    Gone,
}

/// What a driver tells of an object beside what all drivers do, by its names for it (`rdma resource -dd`).
pub type Details = BTreeMap<String, u64>;

/// A queue pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qp {
    pub number: u32,
    /// Of the peer, where the queue pair has one.
    pub peer: Option<u32>,
    /// `enum ib_qp_type`.
    pub kind: u8,
    /// `enum ib_qp_state`.
    pub state: u8,
    /// The PSN of the next packet that is sent, if the driver tells it.
    pub send_psn: u32,
    pub owner: Owner,
    pub details: Details,
}

/// A completion queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cq {
    pub number: u32,
    /// How many entries it has.
    pub entries: u32,
    pub owner: Owner,
    pub details: Details,
}

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub struct Refusal {
    pub reason: io::Error,
    /// What it said about it, which is often nothing.
    pub message: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(reason: io::Error) -> Self {
        Self {
            reason,
            message: None,
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error).into()
    }
}

/// A connection to the RDMA core.
pub struct Nldev(Socket);

impl Nldev {
    /// Fails with EPROTONOSUPPORT if the kernel has no RDMA core.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_RDMA)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors come with the kernel's words, and without our own.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self(socket))
    }

    /// Adds a link of type `kind`, over a network interface.
    pub fn new_link(&self, name: &str, kind: &str, netdev: &str) -> Result<(), Refusal> {
        let attributes = [
            string(attribute::DEV_NAME, name),
            string(attribute::LINK_TYPE, kind),
            string(attribute::NDEV_NAME, netdev),
        ];
        self.ask(command::NEWLINK, &attributes, NLM_F_ACK).map(drop)
    }

    /// Removes a link.
    pub fn del_link(&self, device: u32) -> Result<(), Refusal> {
        let attributes = [number(attribute::DEV_INDEX, device)];
        self.ask(command::DELLINK, &attributes, NLM_F_ACK).map(drop)
    }

    /// All devices.
    pub fn devices(&self) -> Result<Vec<Device>, Refusal> {
        let answers = self.ask(command::GET, &[], NLM_F_DUMP)?;
        answers
            .iter()
            .map(|answer| {
                let answer = answer.attributes();
                Ok(Device {
                    index: answer.number(attribute::DEV_INDEX)?,
                    name: answer.string(attribute::DEV_NAME)?,
                })
            })
            .collect()
    }

    /// The ports of a device.
    pub fn ports(&self, device: u32) -> Result<Vec<Port>, Refusal> {
        let attributes = [number(attribute::DEV_INDEX, device)];
        let answers = self.ask(command::PORT_GET, &attributes, NLM_F_DUMP)?;
        answers
            .iter()
            .map(|answer| {
                let answer = answer.attributes();
                Ok(Port {
                    number: answer.number(attribute::PORT_INDEX)?,
                    state: answer.byte(attribute::PORT_STATE)?,
                    physical_state: answer.byte(attribute::PORT_PHYS_STATE)?,
                    netdev: answer.string(attribute::NDEV_NAME).ok(),
                })
            })
            .collect()
    }

    /// The queue pairs of a device, those that its driver counts.
    pub fn qps(&self, device: u32) -> Result<Vec<Qp>, Refusal> {
        self.objects(command::RES_QP_GET, attribute::RES_QP, device, |entry| {
            Ok(Qp {
                number: entry.number(attribute::RES_LQPN)?,
                peer: entry.number(attribute::RES_RQPN).ok(),
                kind: entry.byte(attribute::RES_TYPE)?,
                state: entry.byte(attribute::RES_STATE)?,
                send_psn: entry.number(attribute::RES_SQ_PSN)?,
                owner: entry.owner(),
                details: entry.details()?,
            })
        })
    }

    /// The completion queues of a device.
    pub fn cqs(&self, device: u32) -> Result<Vec<Cq>, Refusal> {
        self.objects(command::RES_CQ_GET, attribute::RES_CQ, device, |entry| {
            Ok(Cq {
                number: entry.number(attribute::RES_CQN)?,
                entries: entry.number(attribute::RES_CQE)?,
                owner: entry.owner(),
                details: entry.details()?,
            })
        })
    }

    /// The counters of a port, by their names; none, if its driver has none.
    pub fn counters(&self, device: u32, port: u32) -> Result<Details, Refusal> {
        let attributes = [
            number(attribute::DEV_INDEX, device),
            number(attribute::PORT_INDEX, port),
        ];
        let answers = match self.ask(command::STAT_GET, &attributes, NLM_F_ACK) {
            Ok(answers) => answers,
            // A driver without counters.
            Err(refusal) if refusal.reason.raw_os_error() == Some(EINVAL) => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        let mut counters = Details::new();
        for answer in &answers {
            let Ok(entries) = answer.attributes().nested(attribute::STAT_HWCOUNTERS) else {
                continue;
            };
            for entry in entries.entries()? {
                let name = entry.string(attribute::STAT_HWCOUNTER_ENTRY_NAME)?;
                let value = entry.long(attribute::STAT_HWCOUNTER_ENTRY_VALUE)?;
                counters.insert(name, value);
            }
        }
        Ok(counters)
    }

    /// The objects of one kind that a device has. `parse` is given the entry of each.
    fn objects<T>(
        &self,
        command: u16,
        table: u16,
        device: u32,
        parse: impl Fn(&Attributes) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, Refusal> {
        let attributes = [
            number(attribute::DEV_INDEX, device),
            DefaultNla::new(attribute::DRIVER_DETAILS, vec![1]),
        ];
        let answers = self.ask(command, &attributes, NLM_F_DUMP)?;
        let mut objects = Vec::new();
        for answer in &answers {
            for entry in answer.attributes().nested(table)?.entries()? {
                objects.push(parse(&entry)?);
            }
        }
        Ok(objects)
    }

    /// Sends one request, and collects the answers up to the last.
    fn ask(
        &self,
        command: u16,
        attributes: &[DefaultNla],
        flags: u16,
    ) -> Result<Vec<Message>, Refusal> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = Message {
            command,
            attributes: vec![0; attributes.buffer_len()],
        };
        attributes.emit(&mut request.attributes);
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(refusal(&error));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
                // Each begins at a multiple of four bytes (NLMSG_ALIGN).
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

fn refusal(error: &ErrorMessage) -> Refusal {
    // Behind the header of the request, the only part of it that comes back.
    let attributes = error.header.get(HEADER_LEN..).unwrap_or_default();
    let message = NlasIterator::new(attributes)
        .flatten()
        .find(|a| a.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|a| parse_string(a.value()).ok());
    Refusal {
        reason: error.to_io(),
        message,
    }
}

/// A command or an answer: its attributes, encoded.
#[derive(Debug)]
struct Message {
    command: u16,
    attributes: Vec<u8>,
}

impl Message {
    fn attributes(&self) -> Attributes {
        Attributes(self.attributes.clone())
    }
}

/// Encoded attributes: those of a message, or of an attribute that is a list of them.
struct Attributes(Vec<u8>);

impl Attributes {
    fn find<T>(
        &self,
        kind: u16,
        parse: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        for attribute in NlasIterator::new(self.0.as_slice()) {
            let attribute = attribute?;
            if attribute.kind() == kind {
                return parse(attribute.value());
            }
        }
        Err(format!("the RDMA core's answer has no attribute {kind}").into())
    }

    fn number(&self, kind: u16) -> Result<u32, DecodeError> {
        self.find(kind, parse_u32)
    }

    fn long(&self, kind: u16) -> Result<u64, DecodeError> {
        self.find(kind, parse_u64)
    }

    fn byte(&self, kind: u16) -> Result<u8, DecodeError> {
        self.find(kind, parse_u8)
    }

    fn string(&self, kind: u16) -> Result<String, DecodeError> {
        self.find(kind, parse_string)
    }

    /// Those within an attribute.
    fn nested(&self, kind: u16) -> Result<Self, DecodeError> {
        self.find(kind, |value| Ok(Self(value.to_vec())))
    }

    /// Where all are lists: what is in each.
    fn entries(&self) -> Result<Vec<Self>, DecodeError> {
        NlasIterator::new(self.0.as_slice())
            .map(|entry| Ok(Self(entry?.value().to_vec())))
            .collect()
    }

    /// `fill_res_name_pid()` in nldev.c: the name, or the number, or none of the two.
    fn owner(&self) -> Owner {
        match self.string(attribute::RES_KERN_NAME) {
            Ok(name) => Owner::Kernel(name),
            Err(_) => self
                .number(attribute::RES_PID)
                .map_or(Owner::Gone, Owner::Process),
        }
    }

    /// The numbers that the driver tells, each behind its name. Texts are left out.
    fn details(&self) -> Result<Details, DecodeError> {
        let mut details = Details::new();
        let Ok(entries) = self.nested(attribute::DRIVER) else {
            return Ok(details);
        };
        let mut name = None;
        for attribute in NlasIterator::new(entries.0.as_slice()) {
            let attribute = attribute?;
            let value = match attribute.kind() {
                attribute::DRIVER_STRING => {
                    name = Some(parse_string(attribute.value())?);
                    continue;
                }
                attribute::DRIVER_U32 => u64::from(parse_u32(attribute.value())?),
                attribute::DRIVER_U64 => parse_u64(attribute.value())?,
                // How to print it; and signed numbers, which neither ferroce nor rdma_rxe has.
                _ => continue,
            };
            if let Some(name) = name.take() {
                details.insert(name, value);
            }
        }
        Ok(details)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        NLDEV | self.command
    }

    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.message_type & !NLDEV,
            attributes: payload.to_vec(),
        })
    }
}

fn string(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), b"\0"].concat())
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}
