// SPDX-License-Identifier: MIT OR Apache-2.0
//! A packet socket (packet(7)) for RoCE v2 on one network interface.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{
    bind, getsockopt, recvmsg, setsockopt, socket, sockopt, AddressFamily, ControlMessageOwned,
    LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use rustix::net::netdevice::index_to_name;
use socket2::{SockFilter, SockRef};

use super::segment::Offload;

sockopt_impl!(
    /// Has each packet preceded by what its sender left to the hardware to do.
    PacketVnetHdr,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    bool
);
sockopt_impl!(
    /// How many packets there were, and how many of them there was no room for, since the last time.
    PacketStatistics,
    GetOnly,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats
);

/// The port that RoCE v2 goes to (IBTA annex A17, A17.4.4).
const ROCE_V2_PORT: u32 = 4791;

/// For packets that have come and have not been looked at yet, in bytes.
const ROOM: usize = 64 << 20;

/// The largest packet that there can be: with offloads, of IPv6 with a payload of 64 KiB.
const LARGEST: usize = 1 << 17;

/// The hardware types of interfaces whose packets begin with an Ethernet header, the loopback one's
/// too.
const ETHERNET_LIKE: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];

pub struct Socket {
    socket: OwnedFd,
    interface: LinkAddr,
    buffer: Vec<u8>,
    control: Vec<u8>,
}

/// What the kernel handed over at once.
pub struct Frame<'a> {
    /// When, since 1970.
    pub time: Duration,
    pub offload: Offload,
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
}

impl Socket {
    /// Captures from now on. `None` if the interface is of another kind than Ethernet.
    pub fn open(interface: &str) -> io::Result<Option<Self>> {
        let link_address = |address: nix::ifaddrs::InterfaceAddress| {
            (address.interface_name == interface)
                .then(|| address.address?.as_link_addr().copied())?
        };
        let found = getifaddrs()?.find_map(link_address);
        let interface = found.ok_or(Errno::ENODEV)?;
        if !ETHERNET_LIKE.contains(&interface.hatype()) {
            return Ok(None);
        }
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )?;
        SockRef::from(&socket).attach_filter(&roce_v2())?;
        setsockopt(&socket, PacketVnetHdr, &true)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
        // What has come from other interfaces until now is passed over by `receive`.
        bind(socket.as_raw_fd(), &interface)?;
        Ok(Some(Self {
            socket,
            interface,
            buffer: vec![0; LARGEST],
            control: nix::cmsg_space!(libc::timespec),
        }))
    }

    /// The next packet, if one has come.
    pub fn receive(&mut self) -> io::Result<Option<Frame<'_>>> {
        let (time, length) = loop {
            let mut buffer = [IoSliceMut::new(&mut self.buffer)];
            let received = recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut buffer,
                Some(&mut self.control),
                MsgFlags::empty(),
            );
            let received = match received {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let time = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            let (from, length) = (received.address, received.bytes);
            if from.is_some_and(|from| self.is_wanted(&from)) {
                break (time.unwrap_or_else(now), length);
            }
        };
        let bytes = self.buffer.get(..length).unwrap_or(&self.buffer);
        let (offload, bytes) = Offload::split_from(bytes);
        Ok(Some(Frame {
            time,
            offload,
            bytes,
        }))
    }

    fn is_wanted(&self, from: &LinkAddr) -> bool {
        // What leaves by the loopback interface comes in again.
        let twice =
            from.hatype() == libc::ARPHRD_LOOPBACK && from.pkttype() == libc::PACKET_OUTGOING;
        from.ifindex() == self.interface.ifindex() && !twice
    }

    /// Lets no more packets in; those that have come can still be received.
    pub fn close(&self) -> io::Result<()> {
        let nothing = statement(libc::BPF_RET | libc::BPF_K, 0);
        SockRef::from(&self.socket).attach_filter(&[nothing])
    }

    /// How many packets the kernel had no room for, since this was called for the last time.
    pub fn dropped(&self) -> io::Result<u32> {
        Ok(getsockopt(&self.socket, PacketStatistics)?.tp_drops)
    }

    /// Whether the interface is still there.
    pub fn has_interface(&self) -> bool {
        u32::try_from(self.interface.ifindex())
            .is_ok_and(|index| index_to_name(&self.socket, index).is_ok())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default()
}

fn statement(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

/// What the kernel is to hand over (Documentation/networking/filter.rst): UDP to the port of RoCE v2,
/// over IPv4 or IPv6. RoCE v2 has neither fragments nor extension headers (IBTA A17.4.5). The tags of
/// VLANs are no longer in the packet when a filter sees it.
fn roce_v2() -> [SockFilter; 16] {
    use libc::{
        BPF_ABS, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
        BPF_LDX, BPF_MSH, BPF_RET,
    };
    const ETHERTYPE: u32 = 12;
    const IP: u32 = 14;
    const UDP: u32 = libc::IPPROTO_UDP as u32;
    let load = |size, at| statement(BPF_LD | size | BPF_ABS, at);
    let jump = |test, k, yes, no| SockFilter::new((BPF_JMP | test | BPF_K) as u16, yes, no, k);
    [
        load(BPF_H, ETHERTYPE),
        jump(BPF_JEQ, libc::ETH_P_IPV6 as u32, 7, 0),
        jump(BPF_JEQ, libc::ETH_P_IP as u32, 0, 11),
        // IPv4: protocol, fragment offset, and behind the header the destination port.
        load(BPF_B, IP + 9),
        jump(BPF_JEQ, UDP, 0, 9),
        load(BPF_H, IP + 6),
        jump(BPF_JSET, 0x1fff, 7, 0),
        statement(BPF_LDX | BPF_B | BPF_MSH, IP),
        jump(BPF_JA, 3, 0, 0),
        // IPv6: next header, and the destination port.
        load(BPF_B, IP + 6),
        jump(BPF_JEQ, UDP, 0, 3),
        statement(BPF_LDX | BPF_IMM, 40),
        statement(BPF_LD | BPF_H | BPF_IND, IP + 2),
        jump(BPF_JEQ, ROCE_V2_PORT, 1, 0),
        statement(BPF_RET | BPF_K, 0),
        statement(BPF_RET | BPF_K, u32::MAX),
    ]
}
