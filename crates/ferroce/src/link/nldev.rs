// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDMA core's netlink interface, as far as links go: what `rdma link`
//! speaks (include/uapi/rdma/rdma_netlink.h, drivers/infiniband/core/nldev.c).

use std::io;

use netlink_packet_core::{
    parse_string, parse_u32, parse_u8, DecodeError, DefaultNla, Emitable, ErrorMessage,
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
}

/// `enum rdma_nldev_attr`.
mod attribute {
    pub const DEV_INDEX: u16 = 1;
    pub const DEV_NAME: u16 = 2;
    pub const PORT_INDEX: u16 = 3;
    pub const PORT_STATE: u16 = 12;
    pub const PORT_PHYS_STATE: u16 = 13;
    pub const NDEV_NAME: u16 = 51;
    pub const LINK_TYPE: u16 = 65;
}

/// The attribute of an error with the kernel's words (enum nlmsgerr_attrs).
const NLMSGERR_ATTR_MSG: u16 = 1;

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
                Ok(Port {
                    number: answer.number(attribute::PORT_INDEX)?,
                    state: answer.byte(attribute::PORT_STATE)?,
                    physical_state: answer.byte(attribute::PORT_PHYS_STATE)?,
                    netdev: answer.string(attribute::NDEV_NAME).ok(),
                })
            })
            .collect()
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
    fn find<T>(
        &self,
        kind: u16,
        parse: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let mut attributes = NlasIterator::new(self.attributes.as_slice()).flatten();
        match attributes.find(|a| a.kind() == kind) {
            Some(attribute) => parse(attribute.value()),
            None => Err(format!("the RDMA core's answer has no attribute {kind}").into()),
        }
    }

    fn number(&self, kind: u16) -> Result<u32, DecodeError> {
        self.find(kind, parse_u32)
    }

    fn byte(&self, kind: u16) -> Result<u8, DecodeError> {
        self.find(kind, parse_u8)
    }

    fn string(&self, kind: u16) -> Result<String, DecodeError> {
        self.find(kind, parse_string)
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
