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
    bindings::{sk_buff, PACKET_LOOPBACK, SKB_GSO_UDP_L4, SKB_GSO_UDP_TUNNEL_CSUM},
    ffi::c_int,
    types::NotThreadSafe,
};

/// The protocols of an `sk_buff`, which has them in network byte order.
const ETH_P_IP: u16 = (kernel::bindings::ETH_P_IP as u16).to_be();
const ETH_P_IPV6: u16 = (kernel::bindings::ETH_P_IPV6 as u16).to_be();

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

    /// See [`Datagram::priority`].
    pub(super) fn set_priority(&self, priority: u32) {
        // SAFETY: By the type invariants. This is the only reference to the packet.
        unsafe { (*self.as_raw()).__bindgen_anon_4.headers.as_mut().priority = priority };
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

/// Whether an IPv6 address stands for one of IPv4 (RFC 4291, section 2.5.5.2).
fn maps(address: &[u8; 16], [a, b, c, d]: [u8; 4]) -> bool {
    *address == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

impl IpHeader {
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

    /// Whether an IPv6 address is what the packet comes from. Addresses of IPv4 are mapped into IPv6.
    pub fn is_from(&self, address: &[u8; 16]) -> bool {
        match self {
            Self::V4(header) => maps(address, field(header, 12)),
            Self::V6(header) => field(header, 8) == *address,
        }
    }

    /// Whether it is where it goes.
    pub fn is_to(&self, address: &[u8; 16]) -> bool {
        match self {
            Self::V4(header) => maps(address, field(header, 16)),
            Self::V6(header) => field(header, 24) == *address,
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
                header[2..4].copy_from_slice(&length.saturating_add(20).to_be_bytes());
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
    /// It does not leave the bottom half that it has come in: see [`Self::netdev`].
    _here: NotThreadSafe,
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
            let is_in_pieces = (*raw).data_len > 0;
            if is_in_pieces && bindings::net_helper_skb_linearize(raw) != 0 {
                return None;
            }
            if (*raw).len < UDP_HEADER as u32 {
                return None;
            }
            let data = (*raw).data.cast_const();
            let headers = (*raw).__bindgen_anon_4.headers.as_ref();
            let ip = (*raw).head.add(headers.network_header.into()).cast_const();
            let ip = match (headers.protocol == ETH_P_IPV6, data.offset_from(ip)) {
                (false, 20) => IpHeader::V4(ip.cast::<[u8; 20]>().read()),
                (true, 40) => IpHeader::V6(ip.cast::<[u8; 40]>().read()),
                _ => return None,
            };
            let [a, b, c, d] = data.cast::<[u8; 4]>().read();
            let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            Some(Self {
                skb,
                ip,
                ports,
                _here: NotThreadSafe,
            })
        }
    }

    /// The device that it has come by; `None` if that is unknown.
    pub fn netdev(&self) -> Option<&NetDevice> {
        // SAFETY: A valid packet, in the bottom half that it has come in, where its device stays in memory.
        unsafe {
            let list = &raw const (*self.skb.as_raw()).__bindgen_anon_1.__bindgen_anon_1;
            let netdev = (*list).__bindgen_anon_1.dev;
            (!netdev.is_null()).then(|| NetDevice::from_raw(netdev.cast()))
        }
    }

    /// Whether this network namespace has sent it, as far as its way tells: the loopback device or a VRF
    /// turned it round, or it is the copy that the sender's own host gets of what goes to a group.
    pub fn is_looped_back(&self) -> bool {
        // SAFETY: A valid packet.
        let headers = unsafe { (*self.skb.as_raw()).__bindgen_anon_4.headers.as_ref() };
        u32::from(headers.pkt_type()) == PACKET_LOOPBACK
            || self.netdev().is_some_and(NetDevice::is_loopback)
    }

    /// The priority in the sender's queues. Programs without privileges can have 0 to 6
    /// (`sk_set_prio_allowed()`). It stays with a packet that is looped back, and is not carried by networks.
    pub fn priority(&self) -> u32 {
        // SAFETY: A valid packet.
        unsafe {
            (*self.skb.as_raw())
                .__bindgen_anon_4
                .headers
                .as_ref()
                .priority
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

/// A packet in the making: first what UDP carries, and in the end the headers in front of that. Or several
/// as one, with the headers of the first: who does not take them so cuts them up, in the kernel or in
/// hardware.
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

/// Memory that nobody has written to, as the bytes that are there.
///
/// # Safety
///
/// `start` must be valid for reads and writes of `len` bytes, and nobody else may use them for `'a`.
unsafe fn as_bytes<'a>(start: *mut u8, len: usize) -> &'a mut [u8] {
    // To the compiler this writes anything to any of them, so from here on they are initialised, and have
    // one value. In fact they have that already, and nothing needs to be written.
    // SAFETY: There is no instruction in it.
    unsafe {
        core::arch::asm!("/* {start} */", start = in(reg) start, options(nostack, preserves_flags))
    };
    // SAFETY: By the function's requirements, and they are initialised.
    unsafe { core::slice::from_raw_parts_mut(start, len) }
}

/// What is left in front of a packet, for its headers and for those below IP (`LL_MAX_HEADER`, and more
/// than any device asks for at first).
const HEADROOM: usize = 160 + size_of::<[u8; 40]>() + UDP_HEADER;

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
    fn bytes(&self) -> &[u8] {
        // SAFETY: A packet in one piece, which is ours.
        unsafe { core::slice::from_raw_parts((*self.skb.as_raw()).data, self.len()) }
    }

    /// Adds as many bytes as `fill` says it has written at the beginning of the room that is left.
    /// There are bytes of before in it, which may be anybody's: all that `fill` counts it must have written.
    pub fn extend<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> R {
        let len = self.len();
        let left = self.room();
        // SAFETY: A packet in one piece, which is ours, with so much room behind its bytes.
        let room = unsafe { as_bytes((*self.skb.as_raw()).data.add(len), left) };
        let (filled, result) = fill(room);
        // SAFETY: There is room.
        unsafe { bindings::skb_put(self.skb.as_raw(), filled.min(left) as u32) };
        result
    }

    /// Puts its headers in front of what there is. Once: for more there is no space, and they are left away.
    pub fn set_headers(&mut self, ip: &IpHeader, udp: &[u8; UDP_HEADER]) {
        match ip {
            IpHeader::V4(ip) => self.prepend(&(*ip, *udp)),
            IpHeader::V6(ip) => self.prepend(&(*ip, *udp)),
        }
    }

    fn prepend<const N: usize>(&mut self, headers: &([u8; N], [u8; UDP_HEADER])) {
        let raw = self.skb.as_raw();
        let length = N + UDP_HEADER;
        // SAFETY: A valid packet, which is ours, with more space in front of its data than that, if nothing
        // was put there before.
        unsafe {
            if (*raw).data.offset_from((*raw).head) < HEADROOM as isize {
                return;
            }
            let start = bindings::skb_push(raw, length as u32);
            start.cast::<[u8; N]>().write(headers.0);
            start.add(N).cast::<[u8; UDP_HEADER]>().write(headers.1);
        }
        self.room += length;
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
    pub(super) fn into_skb(self) -> SkBuff {
        let raw = self.skb.as_raw();
        let ipv6 = matches!(self.bytes(), [first, ..] if first >> 4 == 6);
        let network = if ipv6 { 40 } else { 20 };
        // SAFETY: A valid packet, which is ours; its data are in its buffer.
        unsafe {
            let at = (*raw).data.offset_from((*raw).head) as u16;
            let headers = (*raw).__bindgen_anon_4.headers.as_mut();
            headers.network_header = at;
            headers.transport_header = at + network;
            headers.protocol = if ipv6 { ETH_P_IPV6 } else { ETH_P_IP };
        }
        let Some(segments) = self.segments else {
            return self.skb;
        };
        let header = match ipv6 {
            true => self.bytes().first_chunk().map(|h| IpHeader::V6(*h)),
            false => self.bytes().first_chunk().map(|h| IpHeader::V4(*h)),
        };
        let Some(header) = header else {
            return self.skb;
        };
        let length = (self.len() - usize::from(network)) as c_int;
        // Segmentation requires UDP checksums (`__udp_gso_segment()`). They are computed as late as
        // possible: for a packet to another namespace of this machine, never.
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
