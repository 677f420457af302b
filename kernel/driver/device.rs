// SPDX-License-Identifier: GPL-2.0

//! The device: its attributes, and how it comes and goes.

use super::{
    ah::Ah,
    counters::{self, Counters},
    cq::Cq,
    dm::Dm,
    mr::{Keys, Mr, MAX_FAST_REG_PAGES},
    multicast::Groups,
    mw::Mw,
    place::Place,
    port,
    queue_pair::{self, Qp, QpRef, SqPoller},
    quota::{Counted, Kind, Quota, MAX_AH},
    roce::{
        self,
        port::{Port, Share},
    },
    srq::Srq,
    table::Table,
};
use crate::{
    address::Address,
    groups::{MAX_GROUP_MEMBERS, MAX_MEMBERS},
    key,
    net::SpinLockBh,
    rdma::{self, rcu::RcuSlot, workqueue::WorkQueue, *},
    ring, uapi,
    verbs::limits,
};
use core::{
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use kernel::{
    fmt, new_mutex,
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc, Mutex},
};

/// The driver's data for one device.
#[pin_data]
pub(crate) struct Ferroce {
    guid: [u8; 8],
    pub(crate) counters: Counters,
    pub(crate) quota: Arc<Quota>,
    pub(crate) port: port::Port,
    pub(crate) sq_poller: thread::Thread<SqPoller>,
    /// Does the deferred work of kernel users' queue pairs.
    pub(crate) queue: Arc<WorkQueue>,
    /// Whether its addresses are in a network namespace that it is not in itself, see [`Self::update_netns`].
    netns_mismatch: AtomicBool,
    /// See [`Ferroce::is_removed`].
    is_removed: AtomicBool,
    /// See [`Ferroce::gids_removed`].
    gids_removed: AtomicU32,
    /// The memory on board, of a card.
    pub(crate) board: Option<Arc<BarMemory>>,
    #[pin]
    settling: Mutex<Place>,
    /// There is a queue pair for general services.
    has_gsi: AtomicBool,
    /// The UDP port of the namespace that its addresses are in.
    #[pin]
    share: SpinLockBh<Option<Share>>,
    /// How often that has changed: see [`KnownPort`].
    moves: AtomicU32,
    #[pin]
    pub(crate) qps: Table<RcuSlot<QpRef>>,
    #[pin]
    pub(crate) keys: Keys,
    #[pin]
    /// The kernel makes its own in any context.
    pub(crate) ahs: Table<RcuSlot<Address>, lock::IrqSave>,
    #[pin]
    pub(crate) groups: Groups,
}

impl Ferroce {
    fn new(
        guid: [u8; 8],
        place: Place,
        share: Share,
        board: Option<Arc<BarMemory>>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            guid,
            counters: Counters::new()?,
            quota: Quota::new()?,
            port: port::Port::new(),
            sq_poller: SqPoller::start()?,
            queue: Arc::new(WorkQueue::with_rescuer(c"ferroce", 0)?, GFP_KERNEL)?,
            netns_mismatch: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            gids_removed: AtomicU32::new(0),
            board,
            settling <- new_mutex!(place, "ferroce::Ferroce::settling"),
            has_gsi: AtomicBool::new(false),
            share <- SpinLockBh::new(Some(share), c"ferroce::Ferroce::share", static_lock_class!()),
            moves: AtomicU32::new(0),
            // The first number is that of the queue pair for general services.
            qps <- Table::new(
                queue_pair::NUMBERS, REUSE_AFTER, c"ferroce::qps", static_lock_class!()
            ),
            // Keys of number zero are for nobody: programs take key zero for none.
            keys <- Table::new((0, key::COUNT), REUSE_AFTER, c"ferroce::keys", static_lock_class!()),
            // A number at once: only the owner's own work requests name an address handle.
            ahs <- Table::new((0, MAX_AH + 1), 0, c"ferroce::ahs", static_lock_class!()),
            groups <- Groups::new(),
        })
    }
}

/// General services, which are on a queue pair with a number of its own.
impl Ferroce {
    /// Its number, unless there is one already.
    pub(crate) fn claim_gsi(&self) -> Result<u32> {
        match self.has_gsi.swap(true, Ordering::Relaxed) {
            false => Ok(limits::GSI_QPN),
            true => Err(EBUSY),
        }
    }

    /// Makes room for another. What was at the number must have been taken away.
    pub(crate) fn release_gsi(&self) {
        self.has_gsi.store(false, Ordering::Relaxed);
    }
}

/// Namespaces.
///
/// A device has its addresses from its network device, and with them a place in the network: it
/// reaches those that the network device's namespace reaches. Who may open it is decided by the
/// namespace that the RDMA device itself is in. The administrator may move either
/// (`ip link set NETDEV netns`, `rdma dev set DEVICE netns`); as long as the two are not in the same,
/// programs in the one must not be heard in the other, and the port is down.
///
/// Where RDMA devices are shared by all namespaces (`rdma system show`) there is no such difference.
impl Ferroce {
    /// Whether the device reaches, and is reached by, nobody.
    pub(crate) fn netns_mismatch(&self) -> bool {
        self.netns_mismatch.load(Ordering::Relaxed)
    }

    /// Whether the device is being taken away from its users.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Relaxed)
    }

    /// The UDP port by which its packets go, if the device reaches anybody.
    pub(crate) fn port<'a>(&self, known: &'a mut KnownPort) -> Option<&'a Port> {
        if self.netns_mismatch() {
            return None;
        }
        // Pairs with the addition in `set_share`: a thread that sees this number finds what it counted.
        let moves = self.moves.load(Ordering::Acquire);
        if known.as_of != Some(moves) {
            known.port = self.share.lock().as_ref().map(Share::port);
            known.as_of = Some(moves);
        }
        known.port.as_deref()
    }

    /// Whether an address is one of its own.
    pub(crate) fn has_address(device: &Device<Self>, address: IpAddr) -> bool {
        let gid = Gid::of(address);
        device.find_gid(&gid, GidType::RoceV2, 1).is_some()
    }

    /// How many addresses the device has lost: as long as this is the same, it still has those that it was
    /// found to have.
    pub(crate) fn gids_removed(&self) -> u32 {
        self.gids_removed.load(Ordering::Acquire)
    }

    fn set_share(&self, share: Option<Share>) {
        let before = core::mem::replace(&mut *self.share.lock(), share);
        self.moves.fetch_add(1, Ordering::Release);
        // Dropped with the lock released.
        drop(before);
    }

    /// To be called when the network device is about to move; [`Self::update_netns`] is to follow.
    fn leave(&self) {
        let _guard = self.settling.lock();
        self.netns_mismatch.store(true, Ordering::Relaxed);
        self.set_share(None);
    }

    /// Looks at where the device and its network device are. To be called when one of them has moved, or
    /// has another name.
    fn update_netns(device: &Device<Self>) {
        // So that who comes last has seen both moves.
        let mut place = device.settling.lock();
        let netdev = device.netdev(1);
        let netdev = netdev.as_deref();
        place.show(netdev);
        let together = netdev.is_some_and(|netdev| device.shares_netns(netdev));
        device.netns_mismatch.store(!together, Ordering::Relaxed);
        let Some(netdev) = netdev else { return };
        let is_there = device
            .share
            .lock()
            .as_ref()
            .is_some_and(|share| share.is_of(netdev));
        if !is_there {
            let name = device.name();
            let share = Share::of(netdev).inspect_err(|error| warn_port(&name, *error));
            device.set_share(share.ok());
        }
    }
}

/// A device's UDP port as it was found, by one who asks for it with every packet.
#[derive(Default)]
pub(crate) struct KnownPort {
    /// As of so many moves of the device.
    as_of: Option<u32>,
    port: Option<Arc<Port>>,
}

/// "FER" in ASCII, where a vendor would have its OUI.
const VENDOR_ID: u32 = u32::from_be_bytes(*b"\0FER");

/// The release, in the words and numbers of a firmware's version.
const VERSION: &str = env!("FERROCE_VERSION");

/// The release as a number: 16 bits for each of its three parts.
const VERSION_NUMBER: u64 = {
    let text = VERSION.as_bytes();
    let (mut parts, mut part, mut i) = (0, 0, 0);
    while i < text.len() {
        match text[i] {
            b'.' => {
                parts = parts << 16 | part;
                part = 0;
            }
            digit => part = 10 * part + (digit - b'0') as u64,
        }
        i += 1;
    }
    parts << 16 | part
};

/// How long an acknowledgement may take that the device itself holds up: 4.096 µs · 2^15, 134 ms, for
/// which a thread that executes requests may have to wait for a CPU (as rdma_rxe has it).
const ACK_DELAY: u8 = 15;

/// How many numbers of queue pairs, or of keys, come between two uses of the same: what a peer still
/// sends to a former owner is not taken for the next one's.
const REUSE_AFTER: u32 = 1 << 10;

#[vtable]
impl rdma::Operations for Ferroce {
    const MODULE: &'static ThisModule = this_module!();
    const DRIVER_ID: u32 = uapi::DRIVER_ID;
    const ABI_VERSION: u32 = uapi::UVERBS_ABI;
    const NODE_DESC: &'static str = "ferroce";
    const USER_COMMANDS: &'static [UserCommand] = &[
        UserCommand::ReqNotifyCq,
        UserCommand::PostSend,
        UserCommand::PostRecv,
        UserCommand::PostSrqRecv,
    ];

    const DEVICE_COUNTERS: &'static [CounterDesc] = counters::HostCounter::DESCS;
    const PORT_COUNTERS: &'static [CounterDesc] = &counters::PORT_DESCS;

    type Ucontext = Ucontext;
    type Pd = Pd;
    type Ah = Ah;
    type Cq = Cq;
    type Srq = Srq;
    type Qp = Qp;
    type Mr = Mr;
    type Mw = Mw;
    type Dm = Dm;

    fn query_device(device: &Device<Self>, attr: &mut DeviceAttr) -> Result {
        attr.fw_ver = VERSION_NUMBER;
        attr.sys_image_guid = u64::from_ne_bytes(device.guid);
        let caps = DeviceCaps::MEM_WINDOW
            | DeviceCaps::MEM_WINDOW_TYPE_2B
            | DeviceCaps::MEM_MGT_EXTENSIONS
            | DeviceCaps::SRQ_RESIZE
            | DeviceCaps::ATOMIC_WRITE
            // Not FLUSH_PERSISTENT: of no memory is it known that it survives a loss of power.
            | DeviceCaps::FLUSH_GLOBAL;
        attr.device_cap_flags = caps.bits();
        let unreg = match &device.board {
            // It goes with the card.
            Some(_) => KernelCaps::NONE,
            None => KernelCaps::ALLOW_USER_UNREG,
        };
        attr.kernel_cap_flags = (KernelCaps::ON_DEMAND_PAGING | unreg).bits().into();
        attr.max_mr_size = u64::MAX;
        // No vendor has assigned these: they are this driver's own, and not zero, which programs take
        // for "unknown".
        attr.vendor_id = VENDOR_ID;
        attr.vendor_part_id = 1;
        attr.hw_ver = 1;
        attr.page_size_cap = 0xffff_f000;
        Quota::fill(attr);
        attr.max_pkeys = limits::PKEY_TABLE_LEN;
        attr.max_qp_wr = limits::MAX_QP_WR as Count;
        attr.max_send_sge = limits::MAX_SEND_SGE as Count;
        attr.max_recv_sge = limits::MAX_RECV_SGE as Count;
        attr.max_sge_rd = limits::MAX_SEND_SGE as Count;
        attr.max_fast_reg_page_list_len = MAX_FAST_REG_PAGES;
        attr.max_cqe = limits::MAX_CQE as Count;
        attr.max_mcast_grp = MAX_MEMBERS as Count;
        attr.max_mcast_qp_attach = MAX_GROUP_MEMBERS as Count;
        attr.max_total_mcast_qp_attach = MAX_MEMBERS as Count;
        attr.max_srq_wr = limits::MAX_QP_WR as Count;
        attr.max_srq_sge = limits::MAX_RECV_SGE as Count;
        attr.max_qp_rd_atom = limits::MAX_RD_ATOMIC.into();
        attr.max_qp_init_rd_atom = limits::MAX_RD_ATOMIC.into();
        attr.max_res_rd_atom = Count::from(limits::MAX_RD_ATOMIC) * attr.max_qp;
        attr.atomic_cap = AtomicCap::Hca.as_raw();
        attr.local_ca_ack_delay = ACK_DELAY;
        attr.max_dm_size = match &device.board {
            Some(board) => limits::MAX_DM_SIZE.min(board.available() as u64),
            None => limits::MAX_DM_SIZE,
        };
        // Of `rdma::clock`: all bits count, and 1,000,000 kHz are nanoseconds.
        attr.timestamp_mask = u64::MAX;
        attr.hca_core_clock = 1_000_000;
        let receive = OdpTransportCaps::SEND | OdpTransportCaps::RECV | OdpTransportCaps::SRQ_RECV;
        let connected = receive | OdpTransportCaps::WRITE;
        let reliable = connected
            | OdpTransportCaps::READ
            | OdpTransportCaps::ATOMIC
            | OdpTransportCaps::FLUSH
            | OdpTransportCaps::ATOMIC_WRITE;
        attr.odp_caps.general_caps = OdpCaps::SUPPORT.bits().into();
        let by_transport = &mut attr.odp_caps.per_transport_caps;
        by_transport.rc_odp_caps = reliable.bits();
        by_transport.uc_odp_caps = connected.bits();
        by_transport.ud_odp_caps = receive.bits();
        Ok(())
    }

    fn query_port(device: &Device<Self>, _port: u32, attr: &mut PortAttr) -> Result {
        port::query(device, attr)
    }

    fn modify_port(device: &Device<Self>, _port: u32, change: &PortModify) -> Result {
        device.port.modify(&device.counters, change)
    }

    fn port_immutable(_: &Device<Self>, _port: u32, immutable: &mut PortImmutable) -> Result {
        port::immutable(immutable);
        Ok(())
    }

    fn link_layer(_device: &Device<Self>, _port: u32) -> LinkLayer {
        LinkLayer::Ethernet
    }

    fn query_pkey(_device: &Device<Self>, _port: u32, index: u16) -> Result<u16> {
        // The default partition, with full membership. RoCE has no other (IBTA A17.7).
        (index == 0).then_some(0xffff).ok_or(EINVAL)
    }

    fn read_counters(device: &Device<Self>, port: Option<u32>, values: &mut [u64]) -> Result {
        match port {
            Some(_) => device.counters.read_port(values),
            None => device.counters.read_host(values),
        }
        Ok(())
    }

    fn enable(device: &Device<Self>) -> Result {
        Self::update_netns(device);
        Ok(())
    }

    fn unregistering(device: &Device<Self>) {
        device.is_removed.store(true, Ordering::Relaxed);
    }

    fn gid_removed(device: &Device<Self>, _port: u32) {
        // Pairs with the load in `gids_removed`: a thread that sees this number does not find the GID.
        device.gids_removed.fetch_add(1, Ordering::Release);
    }

    fn firmware_version(_device: &Device<Self>) -> &'static str {
        VERSION
    }
}

kernel::sync::global_lock! {
    // SAFETY: The module's `init` initialises it before it registers `Link`, which uses it.
    /// Only one device at a time is made, so that no two are made over one network device.
    pub(crate) unsafe(uninit) static NEWLINK: Mutex<()> = ();
}

/// Says why a device has no UDP port.
fn warn_port(name: &dyn fmt::Display, error: Error) {
    if error.to_errno() == -(kernel::bindings::EADDRINUSE as i32) {
        pr_err!(
            "{name}: UDP port {} of this network namespace is somebody else's (rdma_rxe's?)\n",
            roce::UDP_PORT
        );
    } else {
        pr_err!(
            "{name}: cannot open UDP port {}: {error:?}\n",
            roce::UDP_PORT
        );
    }
}

/// `rdma link add NAME type ferroce netdev NETDEV`
pub(crate) struct Link;

impl LinkOps for Link {
    const TYPE: &'static CStr = c"ferroce";

    fn newlink(name: &CStr, netdev: &NetDevice) -> Result {
        if netdev.is_vlan() {
            pr_err!(
                "{name}: not over a VLAN; over the device below it, VLANs have GIDs of their own\n"
            );
            return Err(EINVAL);
        }
        add(name, netdev, None).map(|_| ())
    }
}

/// Makes a device over a network device: that of a card on a PCI bus, with the memory on board, or one that is
/// nothing but software.
pub(crate) fn add(
    name: &CStr,
    netdev: &NetDevice,
    card: Option<(&kernel::device::Device, Arc<BarMemory>)>,
) -> Result<WeakDevice<Ferroce>> {
    let mac = match netdev.mac() {
        Some(mac) => mac,
        // It has the same address everywhere, which no two devices can have their GUIDs from.
        None if netdev.is_loopback() => local_mac(),
        None => {
            pr_err!("{name}: only over Ethernet, or the loopback device\n");
            return Err(EINVAL);
        }
    };
    if netdev.is_loopback() && !netdev.is_up() {
        pr_err!("{name}: the loopback device must be up, and have its addresses, before\n");
        return Err(Error::from_errno(-(kernel::bindings::ENETDOWN as i32)));
    }
    let _guard = NEWLINK.lock();
    if let Some(other) = Device::<Ferroce>::from_netdev(netdev) {
        pr_err!(
            "{name}: there is {} over this network device\n",
            other.name()
        );
        return Err(EEXIST);
    }
    let guid = eui64(mac);
    let share = Share::of(netdev).inspect_err(|error| warn_port(&name, *error))?;

    let (function, board) = card.unzip();
    let place = match function {
        Some(function) => Place::of_card(function)?,
        None => Place::new()?,
    };
    let parent = ARef::from(place.parent());
    let mut device = NewDevice::new(netdev, Ferroce::new(guid, place, share, board))?;
    device.set_parent(&parent);
    device.set_node_guid(guid);
    device.set_comp_vectors(kernel::cpu::nr_cpu_ids());
    device.set_netdev(1, netdev)?;
    let weak = device.downgrade();
    device.register(name).map_err(|error| match error {
        // "Too many open files" is how `ib_core` says that.
        ENFILE => {
            pr_err!("{name}: there is an RDMA device of that name\n");
            EEXIST
        }
        error => error,
    })?;
    Ok(weak)
}

/// An Ethernet address that nobody else has, for all anyone knows.
fn local_mac() -> [u8; 6] {
    let [a, rest @ ..]: [u8; 6] = rdma::random();
    let [b, c, d, e, f] = rest;
    // Locally administered, and not of a group.
    [a & !1 | 2, b, c, d, e, f]
}

/// An EUI-64 of an Ethernet address, with the bit inverted that tells of global ones (RFC 4291 2.5.1).
fn eui64(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// A device goes with its network device, and follows it.
pub(crate) struct NetEvents;

impl rdma::NetEvents for NetEvents {
    fn event(event: NetEvent, netdev: &NetDevice, rtnl: &Rtnl) {
        let Some(device) = Device::<Ferroce>::from_netdev(netdev) else {
            return;
        };
        match event {
            NetEvent::Unregister => {
                Ferroce::update_netns(&device);
                device.unregister_queued();
            }
            NetEvent::Leave => device.leave(),
            NetEvent::Register | NetEvent::ChangeName => Ferroce::update_netns(&device),
            NetEvent::Up | NetEvent::Down | NetEvent::Change => device.dispatch_port_state(netdev),
            _ => {}
        }
        Groups::rejoin(&device, netdev, rtnl);
    }
}

/// The driver's data for user contexts.
pub(crate) struct Ucontext {
    /// Does the deferred work of the queue pairs of this user alone: that may wait for memory which
    /// the process has, and which somebody else, a file system in user space say, may never deliver.
    pub(crate) queue: Arc<WorkQueue>,
}

/// How many works of a user context may be executed, or wait for memory, at the same time.
const MAX_ACTIVE: c_int = 16;

#[vtable]
impl ucontext::Operations for Ucontext {
    type Device = Ferroce;

    fn alloc(
        _ucontext: &NewUcontext<'_, Self>,
        udata: &Udata<'_>,
    ) -> Result<impl PinInit<Self, Error>> {
        udata.respond(&uapi::UcontextResponse {
            features: 0,
            ring_abi: ring::ABI_VERSION,
            reserved: 0,
        })?;
        // Nobody who frees memory for the kernel waits for a process: no rescuer.
        let queue = WorkQueue::new(c"ferroce_user", MAX_ACTIVE)?;
        let queue = Arc::new(queue, GFP_KERNEL)?;
        Ok(try_init!(Ucontext { queue }))
    }
}

/// The driver's data for protection domains.
pub(crate) struct Pd {
    _counted: Counted,
}

#[vtable]
impl pd::Operations for Pd {
    type Device = Ferroce;

    fn alloc(
        pd: &NewPd<'_, Self>,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        if let Some(call) = call {
            call.none()?;
        }
        let counted = pd.device().quota.add(Kind::Pd)?;
        Ok(try_init!(Pd { _counted: counted }))
    }
}
