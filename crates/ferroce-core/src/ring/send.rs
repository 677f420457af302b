// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send work requests, as values and as bytes of a ring.
//!
//! [`SendRequest::decode`] works on a private copy of an entry, and takes any bytes at all.

use core::mem::offset_of;

use crate::ring::layout::{
    get, AtomicArguments, BindMwArguments, DatagramArguments, FlushArguments, RdmaArguments,
    RegMrArguments, SendWqe, Sge, Words, SEND_HEADER_LEN, SGE_LEN,
};
use crate::ring::WqeError;
use crate::verbs::limits::{ATOMIC_LENGTH, MAX_MESSAGE_LENGTH};
use crate::verbs::{
    AccessFlags, FlushPlacement, FlushSelectivity, ImmData, QpType, SendFlags, SendOpcode,
};

/// A place in the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Remote {
    /// Address in the peer's memory region or window.
    pub addr: u64,
    /// Its remote key.
    pub rkey: u32,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Destination {
    /// The kernel's number of the address handle.
    pub ah: u32,
    /// The peer's QP number.
    pub remote_qpn: u32,
    /// The Q_Key; see [`datagram_qkey`](crate::verbs::limits::datagram_qkey).
    pub remote_qkey: u32,
    /// Index into the port's P_Key table: a GSI QP's alone.
    pub pkey_index: u16,
}

/// The bind of a memory window (IBTA 10.6.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindMw {
    /// The window's first byte, an address in the region.
    pub addr: u64,
    /// Length in bytes.
    pub length: u64,
    /// The region's local key.
    pub mr_lkey: u32,
    /// The window's key up to now.
    pub mw_rkey: u32,
    /// Its key from now on.
    pub new_rkey: u32,
    /// What the window allows.
    pub access: AccessFlags,
}

/// A fast registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegMr {
    /// The kernel's number of the region.
    pub mr: u32,
    /// Its keys from now on.
    pub key: u32,
    /// What it allows.
    pub access: AccessFlags,
}

/// What a send work request asks for, with what only this operation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The operations are those of `SendOpcode`.
pub enum Operation {
    Send,
    SendImm(ImmData),
    SendInvalidate {
        rkey: u32,
    },
    RdmaWrite(Remote),
    RdmaWriteImm(Remote, ImmData),
    RdmaRead(Remote),
    CompareSwap {
        remote: Remote,
        compare: u64,
        swap: u64,
    },
    FetchAdd {
        remote: Remote,
        add: u64,
    },
    AtomicWrite(Remote),
    Flush {
        remote: Remote,
        length: u32,
        selectivity: FlushSelectivity,
        placement: FlushPlacement,
    },
    LocalInvalidate {
        rkey: u32,
    },
    BindMw(BindMw),
    RegMr(RegMr),
}

impl Operation {
    /// Its number.
    pub const fn opcode(&self) -> SendOpcode {
        match self {
            Self::Send => SendOpcode::Send,
            Self::SendImm(_) => SendOpcode::SendImm,
            Self::SendInvalidate { .. } => SendOpcode::SendInvalidate,
            Self::RdmaWrite(_) => SendOpcode::RdmaWrite,
            Self::RdmaWriteImm(..) => SendOpcode::RdmaWriteImm,
            Self::RdmaRead(_) => SendOpcode::RdmaRead,
            Self::CompareSwap { .. } => SendOpcode::CompareSwap,
            Self::FetchAdd { .. } => SendOpcode::FetchAdd,
            Self::AtomicWrite(_) => SendOpcode::AtomicWrite,
            Self::Flush { .. } => SendOpcode::Flush,
            Self::LocalInvalidate { .. } => SendOpcode::LocalInvalidate,
            Self::BindMw(_) => SendOpcode::BindMw,
            Self::RegMr(_) => SendOpcode::RegMr,
        }
    }
}

/// A send work request but its data (IBTA 11.4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRequest {
    /// The caller's own number for it.
    pub wr_id: u64,
    /// Its properties. `INLINE` follows from how the data is given, and is neither read nor set
    /// here.
    pub flags: SendFlags,
    /// What it asks for.
    pub operation: Operation,
    /// Where it goes, on a datagram QP.
    pub destination: Option<Destination>,
}

/// Who filled the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process: anything may be in it.
    User,
    /// Kernel verbs, which have operations of their own.
    Kernel,
}

/// The gather or scatter list of a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SgeList<'a>(&'a [u8]);

impl<'a> SgeList<'a> {
    /// A list of entries as they are in a ring.
    pub fn of(entries: &'a [[u8; SGE_LEN]]) -> Self {
        Self(entries.as_flattened())
    }

    /// A list over the bytes of whole entries.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The entries, in order.
    pub fn iter(self) -> impl Iterator<Item = Sge> + 'a {
        let entries = self.0.chunks_exact(SGE_LEN);
        entries.map(|entry| Sge::from_bytes(&get(entry, 0)))
    }

    /// How many there are.
    pub const fn len(self) -> usize {
        self.0.len() / SGE_LEN
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Bytes of all of them.
    pub fn length(self) -> u64 {
        self.iter()
            .fold(0, |sum: u64, sge| sum.saturating_add(u64::from(sge.length)))
    }
}

/// The data of a send work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// In memory regions.
    Sges(SgeList<'a>),
    /// In the work request itself.
    Inline(&'a [u8]),
}

impl Data<'_> {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Sges(list) => list.length(),
            Self::Inline(bytes) => bytes.len() as u64,
        }
    }
}

/// Offset of a field of the header.
macro_rules! header {
    ($field:ident) => {
        offset_of!(SendWqe, $field)
    };
}

/// Offset of a field of the arguments, from the header's start.
macro_rules! argument {
    ($arguments:ident, $field:ident) => {
        offset_of!(SendWqe, arguments) + offset_of!($arguments, $field)
    };
}

/// Bytes of payload an entry claims to have.
pub(super) fn payload_len(header: &[u8]) -> Option<usize> {
    let [flags] = get(header, header!(flags));
    if u32::from(flags) & SendFlags::INLINE.bits() != 0 {
        usize::try_from(u32::from_ne_bytes(get(header, header!(inline_length)))).ok()
    } else {
        let [num_sge] = get(header, header!(num_sge));
        Some(usize::from(num_sge) * SGE_LEN)
    }
}

impl SendRequest {
    /// The caller's number of an entry, whatever else is in it: its completion needs that even if
    /// [`decode`](Self::decode) fails.
    pub fn wr_id(entry: &[u8]) -> u64 {
        u64::from_ne_bytes(get(entry, header!(wr_id)))
    }

    /// Reads and checks an entry that [`Executor::fetch`](crate::ring::Executor::fetch) copied out.
    ///
    /// What is checked is all that can be without the QP's attributes, keys or peer.
    pub fn decode(
        entry: &[u8],
        qp_type: QpType,
        origin: Origin,
    ) -> Result<(Self, Data<'_>), WqeError> {
        let (header, payload) = entry
            .split_first_chunk::<SEND_HEADER_LEN>()
            .ok_or(WqeError::Truncated)?;
        let u32_at = |at| u32::from_ne_bytes(get(header, at));
        let u64_at = |at| u64::from_ne_bytes(get(header, at));

        let [opcode, flags, num_sge, reserved] = get(header, header!(opcode));
        let opcode = SendOpcode::try_from(u32::from(opcode))?;
        let flags = SendFlags::try_from(u32::from(flags))?;
        if reserved != 0 || u32_at(header!(reserved1)) != 0 {
            return Err(WqeError::Reserved);
        }
        if !opcode.permitted_on(qp_type) || (opcode == SendOpcode::RegMr && origin == Origin::User)
        {
            return Err(WqeError::NotPermitted(opcode));
        }

        let inline_length = u32_at(header!(inline_length));
        let claimed = payload_len(header).ok_or(WqeError::TooMuchData)?;
        let payload = payload.get(..claimed).ok_or(WqeError::TooMuchData)?;
        let data = if flags.contains(SendFlags::INLINE) {
            if num_sge != 0 || !opcode.permits_inline() {
                return Err(WqeError::Inline(opcode));
            }
            Data::Inline(payload)
        } else {
            if inline_length != 0 {
                return Err(WqeError::Inline(opcode));
            }
            Data::Sges(SgeList::new(payload))
        };
        check_length(opcode, &data)?;

        let rdma = || Remote {
            addr: u64_at(argument!(RdmaArguments, remote_addr)),
            rkey: u32_at(argument!(RdmaArguments, rkey)),
        };
        let atomic = || Remote {
            addr: u64_at(argument!(AtomicArguments, remote_addr)),
            rkey: u32_at(argument!(AtomicArguments, rkey)),
        };
        let imm = || ImmData(get(header, header!(imm_or_rkey)));
        let rkey = || u32_at(header!(imm_or_rkey));
        let operation = match opcode {
            SendOpcode::Send => Operation::Send,
            SendOpcode::SendImm => Operation::SendImm(imm()),
            SendOpcode::SendInvalidate => Operation::SendInvalidate { rkey: rkey() },
            SendOpcode::RdmaWrite => Operation::RdmaWrite(rdma()),
            SendOpcode::RdmaWriteImm => Operation::RdmaWriteImm(rdma(), imm()),
            SendOpcode::RdmaRead => Operation::RdmaRead(rdma()),
            SendOpcode::CompareSwap => Operation::CompareSwap {
                remote: atomic(),
                compare: u64_at(argument!(AtomicArguments, compare_add)),
                swap: u64_at(argument!(AtomicArguments, swap)),
            },
            SendOpcode::FetchAdd => Operation::FetchAdd {
                remote: atomic(),
                add: u64_at(argument!(AtomicArguments, compare_add)),
            },
            SendOpcode::AtomicWrite => Operation::AtomicWrite(rdma()),
            SendOpcode::Flush => Operation::Flush {
                remote: Remote {
                    addr: u64_at(argument!(FlushArguments, remote_addr)),
                    rkey: u32_at(argument!(FlushArguments, rkey)),
                },
                length: u32_at(argument!(FlushArguments, length)),
                selectivity: u32_at(argument!(FlushArguments, selectivity)).try_into()?,
                placement: u32_at(argument!(FlushArguments, placement)).try_into()?,
            },
            SendOpcode::LocalInvalidate => Operation::LocalInvalidate { rkey: rkey() },
            SendOpcode::BindMw => Operation::BindMw(BindMw {
                addr: u64_at(argument!(BindMwArguments, addr)),
                length: u64_at(argument!(BindMwArguments, length)),
                mr_lkey: u32_at(argument!(BindMwArguments, mr_lkey)),
                mw_rkey: u32_at(argument!(BindMwArguments, mw_rkey)),
                new_rkey: u32_at(argument!(BindMwArguments, new_rkey)),
                access: u32_at(argument!(BindMwArguments, access)).try_into()?,
            }),
            SendOpcode::RegMr => Operation::RegMr(RegMr {
                mr: u32_at(argument!(RegMrArguments, mr)),
                key: u32_at(argument!(RegMrArguments, key)),
                access: u32_at(argument!(RegMrArguments, access)).try_into()?,
            }),
        };
        let destination = qp_type.is_datagram().then(|| Destination {
            ah: u32_at(argument!(DatagramArguments, ah)),
            remote_qpn: u32_at(argument!(DatagramArguments, remote_qpn)),
            remote_qkey: u32_at(argument!(DatagramArguments, remote_qkey)),
            pkey_index: u16::from_ne_bytes(get(header, argument!(DatagramArguments, pkey_index))),
        });
        let request = Self {
            wr_id: Self::wr_id(header),
            flags: flags.without(SendFlags::INLINE),
            operation,
            destination,
        };
        Ok((request, data))
    }

    /// The header of an entry with this much data.
    pub(super) fn encode(
        &self,
        num_sge: u8,
        inline_length: Option<u32>,
    ) -> [u64; SEND_HEADER_LEN / 8] {
        let mut header = Header(Words::new());
        header.u64(header!(wr_id), self.wr_id);
        header.u32(header!(inline_length), inline_length.unwrap_or(0));
        let mut flags = self.flags.without(SendFlags::INLINE);
        if inline_length.is_some() {
            flags |= SendFlags::INLINE;
        }
        let opcode = self.operation.opcode().number();
        // Every flag is in the low four bits.
        let first = [opcode, flags.bits() as u8, num_sge, 0];
        header.0.put(header!(opcode), first);

        match self.operation {
            Operation::Send => {}
            Operation::SendImm(imm) => header.imm(imm),
            Operation::SendInvalidate { rkey } | Operation::LocalInvalidate { rkey } => {
                header.u32(header!(imm_or_rkey), rkey);
            }
            Operation::RdmaWriteImm(remote, imm) => {
                header.rdma(remote);
                header.imm(imm);
            }
            Operation::RdmaWrite(remote)
            | Operation::RdmaRead(remote)
            | Operation::AtomicWrite(remote) => header.rdma(remote),
            Operation::CompareSwap {
                remote,
                compare,
                swap,
            } => {
                header.atomic(remote, compare);
                header.u64(argument!(AtomicArguments, swap), swap);
            }
            Operation::FetchAdd { remote, add } => header.atomic(remote, add),
            Operation::Flush {
                remote,
                length,
                selectivity,
                placement,
            } => {
                header.u64(argument!(FlushArguments, remote_addr), remote.addr);
                header.u32(argument!(FlushArguments, rkey), remote.rkey);
                header.u32(argument!(FlushArguments, length), length);
                header.u32(argument!(FlushArguments, selectivity), selectivity.into());
                header.u32(argument!(FlushArguments, placement), placement.bits());
            }
            Operation::BindMw(bind) => {
                header.u64(argument!(BindMwArguments, addr), bind.addr);
                header.u64(argument!(BindMwArguments, length), bind.length);
                header.u32(argument!(BindMwArguments, mr_lkey), bind.mr_lkey);
                header.u32(argument!(BindMwArguments, mw_rkey), bind.mw_rkey);
                header.u32(argument!(BindMwArguments, new_rkey), bind.new_rkey);
                header.u32(argument!(BindMwArguments, access), bind.access.bits());
            }
            Operation::RegMr(reg) => {
                header.u32(argument!(RegMrArguments, mr), reg.mr);
                header.u32(argument!(RegMrArguments, key), reg.key);
                header.u32(argument!(RegMrArguments, access), reg.access.bits());
            }
        }
        if let Some(to) = self.destination {
            header.u32(argument!(DatagramArguments, ah), to.ah);
            header.u32(argument!(DatagramArguments, remote_qpn), to.remote_qpn);
            header.u32(argument!(DatagramArguments, remote_qkey), to.remote_qkey);
            let pkey_index = to.pkey_index.to_ne_bytes();
            header
                .0
                .put(argument!(DatagramArguments, pkey_index), pkey_index);
        }
        header.0 .0
    }
}

/// A header that is being put together.
struct Header(Words<{ SEND_HEADER_LEN / 8 }>);

impl Header {
    fn u32(&mut self, at: usize, value: u32) {
        self.0.put(at, value.to_ne_bytes());
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.0.put(at, value.to_ne_bytes());
    }

    fn imm(&mut self, ImmData(bytes): ImmData) {
        self.0.put(header!(imm_or_rkey), bytes);
    }

    fn rdma(&mut self, remote: Remote) {
        self.u64(argument!(RdmaArguments, remote_addr), remote.addr);
        self.u32(argument!(RdmaArguments, rkey), remote.rkey);
    }

    fn atomic(&mut self, remote: Remote, compare_add: u64) {
        self.u64(argument!(AtomicArguments, remote_addr), remote.addr);
        self.u64(argument!(AtomicArguments, compare_add), compare_add);
        self.u32(argument!(AtomicArguments, rkey), remote.rkey);
    }
}

fn check_length(opcode: SendOpcode, data: &Data<'_>) -> Result<(), WqeError> {
    let length = data.length();
    if opcode.has_no_data() {
        let is_empty = matches!(data, Data::Sges(list) if list.is_empty());
        return if is_empty {
            Ok(())
        } else {
            Err(WqeError::UnexpectedData(opcode))
        };
    }
    let atomic = u64::from(ATOMIC_LENGTH);
    match opcode {
        // A longer buffer than the answer needs is the caller's own business, as in rdma-core.
        SendOpcode::CompareSwap | SendOpcode::FetchAdd if length < atomic => {
            Err(WqeError::AtomicLength(length))
        }
        SendOpcode::AtomicWrite if length != atomic => Err(WqeError::AtomicLength(length)),
        _ if length > u64::from(MAX_MESSAGE_LENGTH) => Err(WqeError::MessageTooLong(length)),
        _ => Ok(()),
    }
}

const _: () = assert!(SendFlags::ALL.bits() <= 0xf);
