// SPDX-License-Identifier: GPL-2.0

//! Packets.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::rdma::{bindings, net::in6, NetDevice};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr::NonNull,
};
use kernel::{
    bindings::{sk_buff, SKB_GSO_UDP_L4, SKB_GSO_UDP_TUNNEL_CSUM},
    ffi::c_int,
};

/// The length of a UDP header.
pub const UDP_HEADER: usize = 8;

/// An `sk_buff`.
///
/// # Invariants
///
/// The pointer is to an `sk_buff` that this owns.
pub(super) struct SkBuff(NonNull<sk_buff>);

// SAFETY: A packet is not tied to a thread.
unsafe impl Send for SkBuff {}

impl SkBuff {
    /// # Safety
    ///
    /// `raw` must point to an `sk_buff` that the caller owns, and gives away.
    pub(super) unsafe fn from_raw(raw: *mut sk_buff) -> Self {
        // INVARIANT: By the function's requirements.
        // SAFETY: It is not null.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    pub(super) fn into_raw(self) -> *mut sk_buff {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }

    fn as_raw(&self) -> *mut sk_buff {
        self.0.as_ptr()
    }
}

impl Drop for SkBuff {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. In any context but interrupts.
        unsafe { bindings::net_helper_kfree_skb(self.as_raw()) };
    }
}

/// An IP header without options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum IpHeader {
    V4([u8; 20]),
    V6([u8; 40]),
}

/// `N` bytes from `at` on, of a header that is longer than that.
fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().unwrap_or([0; N])
}

impl IpHeader {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(header) => header,
            Self::V6(header) => header,
        }
    }

    /// Where the packet comes from.
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => Ipv4Addr::from(field::<4>(header, 12)).into(),
            Self::V6(header) => Ipv6Addr::from(field::<16>(header, 8)).into(),
        }
    }

    /// Where it goes.
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(header) => Ipv4Addr::from(field::<4>(header, 16)).into(),
            Self::V6(header) => Ipv6Addr::from(field::<16>(header, 24)).into(),
        }
    }

    /// The header of one of the packets that have come as one: the length that all but the last have
    /// in common, and of IPv4 an identification that counts up (`inet_gso_segment()`).
    pub fn segment(&self, index: u16, payload: usize) -> Self {
        let mut header = *self;
        let length = (payload + UDP_HEADER) as u16;
        match &mut header {
            Self::V4(header) => {
                let id = u16::from_be_bytes(field(header, 4)).wrapping_add(index);
                header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
                header[4..6].copy_from_slice(&id.to_be_bytes());
            }
            Self::V6(header) => header[4..6].copy_from_slice(&length.to_be_bytes()),
        }
        header
    }
}

/// A UDP datagram that has come in, or several of one length that have come as one.
pub struct Datagram {
    skb: SkBuff,
    ip: IpHeader,
    ports: (u16, u16),
}

impl Datagram {
    /// Of what UDP hands to a socket: its data begin with the UDP header. `None` if there are IP
    /// options or extension headers, which we know nothing of.
    pub(super) fn new(skb: SkBuff) -> Option<Self> {
        let raw = skb.as_raw();
        // SAFETY: A valid packet, of which nobody else has the data. Afterwards they are in one piece.
        // UDP has checked that there is a UDP header, and IP that there is an IP header, of the
        // version that the protocol says, which precedes it.
        unsafe {
            if bindings::net_helper_skb_linearize(raw) != 0 || (*raw).len < UDP_HEADER as u32 {
                return None;
            }
            let data = (*raw).data.cast_const();
            let offset = bindings::net_helper_skb_network_offset(raw);
            let ip = data.offset(offset as isize);
            let ip = match (bindings::net_helper_skb_is_ipv6(raw), offset) {
                (false, -20) => IpHeader::V4(ip.cast::<[u8; 20]>().read()),
                (true, -40) => IpHeader::V6(ip.cast::<[u8; 40]>().read()),
                _ => return None,
            };
            let [a, b, c, d] = data.cast::<[u8; 4]>().read();
            let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            Some(Self { skb, ip, ports })
        }
    }

    /// The device that it has come by; `None` if that is unknown.
    pub fn netdev(&self) -> Option<&NetDevice> {
        // SAFETY: A valid packet, which is in a bottom half, where its device stays in memory.
        unsafe {
            let netdev = bindings::net_helper_skb_dev(self.skb.as_raw());
            (!netdev.is_null()).then(|| NetDevice::from_raw(netdev))
        }
    }

    /// The IP header, of the first if there are several.
    pub fn ip(&self) -> &IpHeader {
        &self.ip
    }

    /// The UDP ports of source and destination.
    pub fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// What follows the UDP header.
    pub fn payload(&self) -> &[u8] {
        let raw = self.skb.as_raw();
        // SAFETY: A valid packet in one piece, no shorter than the UDP header.
        unsafe {
            let len = (*raw).len as usize - UDP_HEADER;
            core::slice::from_raw_parts((*raw).data.add(UDP_HEADER), len)
        }
    }

    /// The length of each payload but the last one; `None` if there is only one.
    pub fn segment_size(&self) -> Option<usize> {
        // SAFETY: A valid packet.
        match unsafe { (*bindings::net_helper_skb_shinfo(self.skb.as_raw())).gso_size } {
            0 => None,
            size => Some(size.into()),
        }
    }
}

/// A packet in the making, with all its headers from IP on. Or several as one, with the headers of the
/// first: who does not take them so cuts them up, in the kernel or in hardware.
pub struct Packet {
    skb: SkBuff,
    room: usize,
    segments: Option<Segments>,
}

/// What packets are in one.
#[derive(Clone, Copy)]
struct Segments {
    /// The length of each payload but the last.
    size: u16,
    count: u16,
    /// The socket that they are for takes them as they are.
    stay: bool,
}

/// What is left in front of a packet, for the headers below IP (`LL_MAX_HEADER`, and more than any
/// device asks for at first).
const HEADROOM: usize = 160;

impl Packet {
    /// An empty one, with room for so many bytes. `None` without memory.
    pub fn new(room: usize) -> Option<Self> {
        let size = u32::try_from(HEADROOM.checked_add(room)?).ok()?;
        // SAFETY: In any context but interrupts. The reserved bytes are part of the size.
        unsafe {
            let raw = NonNull::new(bindings::net_helper_alloc_skb(size))?;
            bindings::net_helper_skb_reserve(raw.as_ptr(), HEADROOM as u32);
            // INVARIANT: Made above.
            let skb = SkBuff(raw);
            let segments = None;
            Some(Self {
                skb,
                room,
                segments,
            })
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        // SAFETY: A valid packet.
        unsafe { (*self.skb.as_raw()).len as usize }
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many more there is room for.
    pub fn room(&self) -> usize {
        self.room - self.len()
    }

    /// The bytes so far.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: A packet in one piece, which is ours.
        unsafe { core::slice::from_raw_parts_mut((*self.skb.as_raw()).data, len) }
    }

    /// Adds as many bytes as `fill` says it has written at the beginning of the room that is left.
    /// That holds what it held before in memory: all that `fill` counts it must have written.
    pub fn extend<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        let len = self.len();
        let left = self.room();
        // SAFETY: A packet in one piece, which is ours, with so much room behind its bytes. That the
        // allocator wrote nothing there is of no concern: any byte is a `u8`.
        let room =
            unsafe { core::slice::from_raw_parts_mut((*self.skb.as_raw()).data.add(len), left) };
        let (filled, result) = fill(room);
        // SAFETY: There is room.
        unsafe { bindings::skb_put(self.skb.as_raw(), filled.min(left) as u32) };
        result
    }

    /// Tells that these are `count` packets, two at least, with payloads of so many bytes each but the
    /// last, which is no longer.
    pub fn set_segments(&mut self, size: u16, count: u16) {
        self.segments = Some(Segments {
            size,
            count,
            stay: false,
        });
    }

    /// Has several packets in one stay so up to the socket that they are for, which has to be a
    /// [`UdpSocket`](super::UdpSocket) too, on no other host.
    pub fn keep_whole(&mut self) {
        if let Some(segments) = &mut self.segments {
            segments.stay = true;
        }
    }

    /// Completes the packet.
    pub(super) fn into_skb(mut self) -> SkBuff {
        let raw = self.skb.as_raw();
        let header = match *self.bytes_mut() {
            [first, ..] if first >> 4 == 6 => {
                self.bytes_mut().first_chunk().map(|h| IpHeader::V6(*h))
            }
            _ => self.bytes_mut().first_chunk().map(|h| IpHeader::V4(*h)),
        };
        let Some(header) = header else {
            return self.skb;
        };
        let network = header.bytes().len();
        let ipv6 = matches!(header, IpHeader::V6(_));
        // SAFETY: A valid packet, with an IP header of this length.
        unsafe { bindings::net_helper_skb_set_udp(raw, network as u32, ipv6) };
        let Some(segments) = self.segments else {
            return self.skb;
        };
        let length = (self.len() - network) as c_int;
        // Segmentation has it that there are UDP checksums (`__udp_gso_segment()`): they are made by
        // whoever has to, which on the way to another namespace is nobody.
        match (header.source(), header.destination()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [source, destination] =
                    [source, destination].map(|a| u32::from_ne_bytes(a.octets()));
                // SAFETY: A valid packet, with a UDP header behind that of IP.
                unsafe { bindings::udp_set_csum(false, raw, source, destination, length) };
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [source, destination] = [source, destination].map(in6);
                // SAFETY: As above.
                unsafe { bindings::udp6_set_csum(false, raw, &source, &destination, length) };
            }
            _ => {}
        }
        // UDP hands several packets in one to a socket like ours if they look as if its own function
        // for received packets had put them together (`udp_unexpected_gso()`, `udp_gro_complete()`).
        let stay = match segments.stay {
            true => SKB_GSO_UDP_TUNNEL_CSUM,
            false => 0,
        };
        // SAFETY: A valid packet, which is ours.
        unsafe {
            let info = bindings::net_helper_skb_shinfo(raw);
            (*info).gso_size = segments.size;
            (*info).gso_segs = segments.count;
            (*info).gso_type = (SKB_GSO_UDP_L4 | stay) as u32;
        }
        self.skb
    }
}
