// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process's side of the card: what a plug-in and a program do, in short.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferroce_core::qp::{AddressVector, AttrMask, RequestedAttr};
use ferroce_core::ring::{
    CqGeometry, Cqe, Destination, Doorbell, Notify, Operation, Payload, Poller, PostError, Poster,
    QpLayout, RecvQueue, RecvRequest, SendQueue, SendRequest, Sge, WqGeometry,
};
use ferroce_core::verbs::{AccessFlags, QpState, QpType, SendFlags, WcFlags};
use ferroce_user::cq::Cq;
use ferroce_user::device::Context;
use ferroce_user::events::Events;
use ferroce_user::keys::{self, Memory, Pd};
use ferroce_user::qp::{Caps, Init, Qp, LONGEST_LEFT};
use ferroce_user::socket;
use ferroce_user::srq::{Attributes, Srq};

/// The address of this host.
pub const GID: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];

/// The Q_Key of all datagrams.
pub const QKEY: u32 = 0x1234;

/// An open device with a protection domain.
pub struct Device {
    pub context: Arc<Context>,
    pub pd: Arc<Pd>,
    _events: std::os::fd::OwnedFd,
}

impl Device {
    /// Opens the device whose attributes are in a folder.
    pub fn open(folder: &Path) -> Self {
        let (read, write) = socket::pair().unwrap();
        let events = Events::new(read.as_raw_fd(), write);
        let context = Context::open(folder, events).unwrap();
        let pd = Arc::new(Pd::new(context.process));
        Self {
            context,
            pd,
            _events: read,
        }
    }

    /// Registers memory with all rights. Returns its key.
    pub fn register(&self, bytes: &[Cell<u8>]) -> u32 {
        let memory = Memory {
            start: bytes.as_ptr() as u64,
            length: bytes.len() as u64,
            virt_addr: bytes.as_ptr() as u64,
        };
        let access = AccessFlags::LOCAL_WRITE
            .union(AccessFlags::REMOTE_WRITE)
            .union(AccessFlags::REMOTE_READ)
            .union(AccessFlags::REMOTE_ATOMIC);
        keys::register(self.context.process, self.pd.id(), &memory, access.bits()).unwrap()
    }
}

/// A queue pair with a completion queue.
pub struct Endpoint {
    pub qp: Arc<Qp>,
    cq: Arc<Cq>,
    send: RefCell<Poster<SendQueue>>,
    /// Unless they come from a shared queue.
    receive: Option<RefCell<Poster<RecvQueue>>>,
    poller: RefCell<Poller>,
}

impl Endpoint {
    /// A reliable connection with queues of this depth.
    pub fn new(device: &Device, depth: u32) -> Self {
        Self::of_type(device, depth, QpType::Rc)
    }

    /// One of this transport.
    pub fn of_type(device: &Device, depth: u32, qp_type: QpType) -> Self {
        Self::make(device, depth, qp_type, None, None)
    }

    /// A reliable connection whose completions raise events, or whose receives come from a shared queue.
    pub fn with(
        device: &Device,
        depth: u32,
        channel: Option<&Channel>,
        shared: Option<&Shared>,
    ) -> Self {
        Self::make(device, depth, QpType::Rc, channel, shared)
    }

    fn make(
        device: &Device,
        depth: u32,
        qp_type: QpType,
        channel: Option<&Channel>,
        shared: Option<&Shared>,
    ) -> Self {
        let process = device.context.process;
        let events = channel.map(|channel| channel.events.clone());
        let (cq, made) = Cq::create(&device.context, 4 * depth, false, events, 0).unwrap();
        let (base, length) = process.lend(&made.ring).unwrap();
        let geometry = CqGeometry::new(made.entries).unwrap();
        // SAFETY: The ring is the process's as long as the queue, and has no other poller.
        let poller = unsafe { Poller::new(base, length, geometry) }.unwrap();
        let init = Init {
            qp_type,
            pd: device.pd.clone(),
            send_cq: cq.clone(),
            recv_cq: cq.clone(),
            srq: shared.map(|shared| shared.srq.clone()),
            caps: Caps {
                max_send_wr: depth,
                max_recv_wr: depth,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            signal_all: false,
            user_handle: 0,
        };
        let (qp, made) = Qp::create(&device.context, init).unwrap();
        let (base, length) = process.lend(&made.rings).unwrap();
        let send = WqGeometry::<SendQueue>::from_descriptor(made.send).unwrap();
        let recv = WqGeometry::<RecvQueue>::from_descriptor(made.recv).ok();
        let at = QpLayout::new(send, recv).recv_offset();
        // SAFETY: The rings are the process's as long as the queue pair, and have no other posters.
        let (send, receive) = unsafe {
            let receive = recv
                .zip(at)
                .map(|(recv, at)| Poster::new(base.add(at), length - at, recv).unwrap());
            (Poster::new(base, length, send).unwrap(), receive)
        };
        Self {
            qp,
            cq,
            send: RefCell::new(send),
            receive: receive.map(RefCell::new),
            poller: RefCell::new(poller),
        }
    }

    /// Takes it from RESET to RTS.
    pub fn connect(&self, peer: u32) {
        let requested = RequestedAttr {
            qp_access_flags: AccessFlags::REMOTE.bits(),
            port_num: 1,
            path_mtu: 5,
            dest_qp_num: peer,
            max_rd_atomic: 16,
            max_dest_rd_atomic: 16,
            min_rnr_timer: 1,
            ah_attr: AddressVector {
                dgid: GID,
                port_num: 1,
                ..AddressVector::default()
            },
            // 67 ms, four times.
            timeout: 14,
            retry_cnt: 4,
            rnr_retry: 7,
            ..RequestedAttr::default()
        };
        let init = AttrMask::PKEY_INDEX | AttrMask::PORT | AttrMask::ACCESS_FLAGS;
        let rtr = AttrMask::AV
            | AttrMask::PATH_MTU
            | AttrMask::DEST_QPN
            | AttrMask::RQ_PSN
            | AttrMask::MAX_DEST_RD_ATOMIC
            | AttrMask::MIN_RNR_TIMER;
        let rts = AttrMask::TIMEOUT
            | AttrMask::RETRY_CNT
            | AttrMask::RNR_RETRY
            | AttrMask::SQ_PSN
            | AttrMask::MAX_QP_RD_ATOMIC;
        for (state, mask, sgid) in [
            (QpState::Init, init, None),
            (QpState::Rtr, rtr, Some(GID)),
            (QpState::Rts, rts, None),
        ] {
            let requested = RequestedAttr {
                qp_state: state.into(),
                ..requested
            };
            self.qp
                .modify(mask | AttrMask::STATE, &requested, sgid)
                .unwrap();
        }
    }

    /// Takes one for datagrams from RESET to RTS.
    pub fn start(&self) {
        let requested = RequestedAttr {
            port_num: 1,
            qkey: QKEY,
            ..RequestedAttr::default()
        };
        let init = AttrMask::PKEY_INDEX | AttrMask::PORT | AttrMask::QKEY;
        for (state, mask) in [
            (QpState::Init, init),
            (QpState::Rtr, AttrMask::EMPTY),
            (QpState::Rts, AttrMask::SQ_PSN),
        ] {
            let requested = RequestedAttr {
                qp_state: state.into(),
                ..requested
            };
            self.qp
                .modify(mask | AttrMask::STATE, &requested, None)
                .unwrap();
        }
    }

    /// Sends a datagram by an address handle.
    pub fn send_to(&self, ah: u32, number: u32, sge: Sge) {
        let request = SendRequest {
            wr_id: 0,
            flags: SendFlags::SIGNALED,
            operation: Operation::Send,
            destination: Some(Destination {
                ah,
                remote_qpn: number,
                remote_qkey: QKEY,
                pkey_index: 0,
            }),
        };
        let mut send = self.send.borrow_mut();
        send.push(&request, Payload::Sges(&[sge])).unwrap();
        drop(send);
        self.publish();
    }

    pub fn post_receive(&self, wr_id: u64, sge: Sge) {
        let mut receive = self.receive.as_ref().unwrap().borrow_mut();
        receive.push(&RecvRequest { wr_id }, &[sge]).unwrap();
        if receive.publish() == Doorbell::Ring {
            self.qp.kick_receives();
        }
    }

    /// Stages a request, to be posted with others. Returns whether there was room.
    pub fn stage(&self, wr_id: u64, flags: SendFlags, operation: Operation, sge: Sge) -> bool {
        let request = SendRequest {
            wr_id,
            flags,
            operation,
            destination: None,
        };
        let mut send = self.send.borrow_mut();
        match send.push(&request, Payload::Sges(&[sge])) {
            Ok(()) => true,
            Err(PostError::Full) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Posts what is staged.
    pub fn publish(&self) {
        if self.send.borrow_mut().publish_and_ring() {
            self.qp.kick();
        }
    }

    /// Posts a request, as the plug-in does. Returns whether there was room.
    pub fn post(&self, wr_id: u64, operation: Operation, sge: Sge) -> bool {
        self.post_with(wr_id, SendFlags::SIGNALED, operation, sge)
    }

    /// As [`post`](Self::post), with these flags.
    pub fn post_with(&self, wr_id: u64, flags: SendFlags, operation: Operation, sge: Sge) -> bool {
        if !self.stage(wr_id, flags, operation, sge) {
            return false;
        }
        let may_wait = matches!(operation, Operation::RdmaWrite(_) | Operation::RdmaRead(_))
            && u64::from(sge.length) <= LONGEST_LEFT;
        self.send.borrow_mut().publish_and_ring();
        match may_wait {
            false => self.qp.kick(),
            true => self.qp.posted(),
        }
        true
    }

    /// The next completion.
    pub fn poll(&self) -> Option<Cqe> {
        self.cq.look();
        let mut poller = self.poller.borrow_mut();
        let position = poller.position();
        let cqe = poller.poll()?;
        if cqe.flags.contains(WcFlags::WITH_DATA) {
            self.cq.place(position);
        }
        poller.hand_back();
        Some(cqe)
    }

    /// Asks for an event of the next completion, as the plug-in does.
    pub fn arm(&self) {
        self.cq.look();
        self.poller.borrow_mut().arm(Notify::Next);
    }

    /// Destroys it.
    pub fn destroy(self) {
        self.qp.destroy().unwrap();
        self.cq.destroy().unwrap();
    }
}

/// A completion channel.
pub struct Channel {
    events: Arc<Events>,
    read: OwnedFd,
}

impl Channel {
    pub fn new() -> Self {
        let (read, write) = socket::pair().unwrap();
        let events = Arc::new(Events::new(read.as_raw_fd(), write));
        Self { events, read }
    }

    /// Waits for an event, and takes it. Returns whether there was one.
    pub fn wait(&self, patience: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.read.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut event = [0_u8; 8];
        // SAFETY: The structure and the bytes are there to be written.
        unsafe {
            libc::poll(&raw mut poll, 1, patience.as_millis() as i32) == 1
                && libc::recv(poll.fd, event.as_mut_ptr().cast(), event.len(), 0) > 0
        }
    }
}

/// A shared receive queue.
pub struct Shared {
    srq: Arc<Srq>,
    receive: RefCell<Poster<RecvQueue>>,
}

impl Shared {
    pub fn new(device: &Device, depth: u32) -> Self {
        let attributes = Attributes {
            max_wr: depth,
            max_sge: 1,
            limit: 0,
        };
        let (srq, made) = Srq::create(&device.context, &attributes, 0).unwrap();
        let (base, length) = device.context.process.lend(&made.ring).unwrap();
        let recv = WqGeometry::<RecvQueue>::from_descriptor(made.recv).unwrap();
        // SAFETY: The ring is the process's as long as the queue, and has no other poster.
        let receive = unsafe { Poster::new(base, length, recv) }.unwrap();
        let receive = RefCell::new(receive);
        Self { srq, receive }
    }

    pub fn post(&self, wr_id: u64, sge: Sge) {
        let mut receive = self.receive.borrow_mut();
        receive.push(&RecvRequest { wr_id }, &[sge]).unwrap();
        let _ = receive.publish();
    }

    pub fn destroy(self) {
        self.srq.destroy().unwrap();
    }
}
