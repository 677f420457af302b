// SPDX-License-Identifier: GPL-2.0

//! Tests the abstractions with a driver that has one of each object and does next to nothing.
//!
//! `rdma link add NAME type rdmatest netdev NETDEV` makes a device. `test.py` beside this file is the
//! user-space half, and says what is expected:
//!
//! ```text
//! make -C <kernel build folder> M=$PWD MO=/tmp/rdmatest modules
//! ferroce lab run --module /tmp/rdmatest/rdmatest.ko -- ./test.py
//! ```
//!
//! - A completion queue is a page that the process maps. Its word 0 counts completions, and word 1
//!   has the status of the last one.
//! - Of the work requests, RDMA writes are executed, between memory regions. All others complete at
//!   once, and a list without any is a doorbell, which adds one to word 2.

use core::sync::atomic::Ordering;
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        new_mutex, Arc, Mutex,
    },
    transmute::AsBytes,
};
use rdma::*;

#[path = "../mod.rs"]
pub mod rdma;

module! {
    type: Test,
    name: "rdmatest",
    authors: ["The ferroce authors"],
    description: "Tests the RDMA abstractions",
    license: "GPL",
    alias: ["rdma-link-rdmatest"],
}

/// What the module has registered. Public, as a vtable's type names it since Linux 7.3.
#[pin_data]
pub struct Test {
    #[pin]
    link: LinkRegistration<Link>,
    driver: DriverRegistration<Dev>,
    #[pin]
    notifier: NetNotifier<Events>,
}

impl kernel::InPlaceModule for Test {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            notifier <- NetNotifier::register(),
            driver: DriverRegistration::new(),
            link <- LinkRegistration::register(),
        })
    }
}

stats::counters! {
    DeviceCounter {
        /// How many keys and numbers of queue pairs were given.
        Numbers = c"numbers",
        Regions = c"regions",
    }
}

stats::counters! {
    PortCounter {
        QueuePairs = c"queue_pairs",
    }
}

struct Link;

impl LinkOps for Link {
    const TYPE: &'static CStr = c"rdmatest";

    fn newlink(name: &CStr, netdev: &NetDevice) -> Result {
        let mut device = NewDevice::new(
            netdev,
            try_pin_init!(Dev {
                mrs <- new_mutex!(KVec::new()),
                qps <- new_mutex!(KVec::new()),
                last_number: Atomic::new(0),
            }),
        )?;
        device.set_netdev(1, netdev)?;
        device.register(name)
    }
}

struct Events;

impl NetEvents for Events {
    fn event(event: NetEvent, netdev: &NetDevice, _rtnl: &Rtnl) {
        if event == NetEvent::Unregister {
            if let Some(device) = Device::<Dev>::from_netdev(netdev) {
                device.unregister_queued();
            }
        }
    }
}

/// The tables hold references, so that objects in them would not go if they were forgotten there.
#[pin_data]
struct Dev {
    #[pin]
    mrs: Mutex<KVec<ARef<Mr<TestMr>>>>,
    #[pin]
    qps: Mutex<KVec<ARef<Qp<TestQp>>>>,
    last_number: Atomic<u32>,
}

impl Dev {
    fn number(&self) -> u32 {
        self.last_number.fetch_add(1, Relaxed) + 1
    }

    fn mr(&self, key: u32) -> Option<ARef<Mr<TestMr>>> {
        let mrs = self.mrs.lock();
        mrs.iter().find(|mr| mr.rkey() == key).cloned()
    }
}

#[vtable]
impl Operations for Dev {
    const MODULE: &'static ThisModule = this_module!();
    const DRIVER_ID: u32 = u32::from_be_bytes(*b"TEST");
    const ABI_VERSION: u32 = 1;
    const NODE_DESC: &'static str = "test";
    const USER_COMMANDS: &'static [UserCommand] = &[
        UserCommand::PostSend,
        UserCommand::PostRecv,
        UserCommand::PostSrqRecv,
    ];

    const DEVICE_COUNTERS: &'static [CounterDesc] = DeviceCounter::DESCS;
    const PORT_COUNTERS: &'static [CounterDesc] = PortCounter::DESCS;

    type Ucontext = TestUcontext;
    type Pd = TestPd;
    type Ah = TestAh;
    type Cq = TestCq;
    type Srq = TestSrq;
    type Qp = TestQp;
    type Mr = TestMr;
    type Mw = TestMw;
    type Dm = Unsupported<Self>;

    fn query_device(_device: &Device<Self>, attr: &mut DeviceAttr) -> Result {
        attr.kernel_cap_flags = KernelCaps::ALLOW_USER_UNREG.bits().into();
        attr.max_pkeys = 1;
        Ok(())
    }

    fn query_port(device: &Device<Self>, port: u32, attr: &mut PortAttr) -> Result {
        let netdev = device.netdev(port).ok_or(ENODEV)?;
        let (state, phys_state) = netdev.port_state();
        attr.state = state.as_raw();
        attr.phys_state = phys_state.as_raw() as u8;
        attr.max_mtu = Mtu::Mtu4096.as_raw();
        attr.active_mtu = Mtu::Mtu1024.as_raw();
        attr.gid_tbl_len = 16;
        attr.pkey_tbl_len = 1;
        Ok(())
    }

    fn port_immutable(_device: &Device<Self>, _port: u32, immutable: &mut PortImmutable) -> Result {
        immutable.gid_tbl_len = 16;
        immutable.pkey_tbl_len = 1;
        immutable.core_cap_flags = PortCoreCaps::PROT_ROCE_UDP_ENCAP.bits();
        Ok(())
    }

    fn link_layer(_device: &Device<Self>, _port: u32) -> LinkLayer {
        LinkLayer::Ethernet
    }

    fn query_pkey(_device: &Device<Self>, _port: u32, _index: u16) -> Result<u16> {
        Ok(0xffff)
    }

    fn firmware_version(_device: &Device<Self>) -> &'static str {
        "a version of more than 31 bytes is cut off"
    }

    fn read_counters(device: &Device<Self>, port: Option<u32>, values: &mut [u64]) -> Result {
        let mut set = |place: usize, value| values.get_mut(place).map(|to| *to = value);
        let set = match port {
            None => {
                set(
                    DeviceCounter::Numbers as usize,
                    device.last_number.load(Relaxed).into(),
                );
                set(
                    DeviceCounter::Regions as usize,
                    device.mrs.lock().len() as u64,
                )
            }
            Some(_) => set(
                PortCounter::QueuePairs as usize,
                device.qps.lock().len() as u64,
            ),
        };
        set.ok_or(EINVAL)
    }
}

struct TestUcontext;

#[vtable]
impl ucontext::Operations for TestUcontext {
    type Device = Dev;

    fn alloc(
        _ucontext: &NewUcontext<'_, Self>,
        udata: &Udata<'_>,
    ) -> Result<impl PinInit<Self, Error>> {
        // Whatever comes, the response is this.
        udata.respond(b"hello")?;
        Ok(try_init!(TestUcontext {}))
    }
}

struct TestPd;

#[vtable]
impl pd::Operations for TestPd {
    type Device = Dev;

    fn alloc(
        _pd: &NewPd<'_, Self>,
        call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        // A request of 4 to 8 bytes of which the last four have to be zero, if there is one at all.
        if let Some(call) = call.filter(|call| call.request_len() != 0) {
            let [_, zero] = call.request::<[u32; 2]>(4)?;
            if zero != 0 {
                return Err(EINVAL);
            }
        }
        Ok(try_init!(TestPd {}))
    }
}

struct TestAh {
    av: AddressVector,
}

#[vtable]
impl ah::Operations for TestAh {
    type Device = Dev;

    fn create(
        ah: &NewAh<'_, Self>,
        attr: &AhAttr,
        _flags: Flags,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let sgid = attr.sgid().ok_or(EINVAL)?;
        pr_info!(
            "{}: to {:?} by {:?} from {:?}, type {:?}, {}\n",
            ah.device().name(),
            attr.dgid().ip(),
            attr.dmac(),
            sgid.gid().ip(),
            sgid.gid_type()?,
            sgid.netdev().map_or(0, |netdev| netdev.ifindex()),
        );
        let found = ah
            .device()
            .find_gid(&sgid.gid(), GidType::RoceV2, attr.port())
            .ok_or(ENOENT)?;
        if found.index() != sgid.index() {
            return Err(EIO);
        }
        Ok(try_init!(TestAh { av: attr.into() }))
    }
}

struct TestCq {
    pages: Arc<SharedPages>,
    _mapping: Option<UserMapping<TestUcontext>>,
}

/// What a process is told of the page it is to map.
#[repr(C)]
struct Mapping {
    offset: u64,
    len: u64,
}

// SAFETY: Two integers of the same size have no padding.
unsafe impl AsBytes for Mapping {}

impl TestCq {
    fn add(&self, word: usize, value: u32) {
        if let Some(word) = self.pages.words().get(word) {
            word.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn complete(cq: &Cq<Self>, status: WcStatus) {
        if let Some(word) = cq.pages.words().get(1) {
            word.store(status.as_raw(), Ordering::Relaxed);
        }
        cq.add(0, 1);
        cq.notify();
    }
}

#[vtable]
impl cq::Operations for TestCq {
    type Device = Dev;

    fn create(
        cq: &mut NewCq<'_, Self>,
        attr: &CqInitAttr,
        call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let pages = Arc::new(
            SharedPages::new(attr.cqe as usize * 4, GFP_KERNEL)?,
            GFP_KERNEL,
        )?;
        let mut mapping = None;
        if let Some(call) = call {
            let user = UserMapping::new(call.ucontext(), pages.clone())?;
            call.respond(&Mapping {
                offset: user.offset(),
                len: user.pages().len() as u64,
            })?;
            mapping = Some(user);
        }
        cq.set_entries(attr.cqe + 1);
        Ok(try_init!(TestCq {
            pages,
            _mapping: mapping,
        }))
    }

    fn resize(_cq: &Cq<Self>, entries: u32, _call: &UserCall<'_, Dev>) -> Result<u32> {
        Ok(entries + 2)
    }

    fn poll(_cq: &Cq<Self>, _completions: &mut WcBuffer<'_, Dev>) -> Result {
        Ok(())
    }

    fn request_notify(_cq: &Cq<Self>, _flags: NotifyFlags) -> Result<bool> {
        Ok(true)
    }
}

#[pin_data]
struct TestSrq {
    #[pin]
    attr: Mutex<SrqAttr>,
}

#[vtable]
impl srq::Operations for TestSrq {
    type Device = Dev;

    fn create(
        _srq: &mut NewSrq<'_, Self>,
        attr: &mut SrqAttr,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        attr.max_wr += 1;
        Ok(try_pin_init!(TestSrq {
            attr <- new_mutex!(*attr),
        }))
    }

    fn modify(
        srq: &Srq<Self>,
        attr: &SrqAttr,
        mask: SrqAttrMask,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result {
        if mask.contains(SrqAttrMask::LIMIT) {
            srq.attr.lock().srq_limit = attr.srq_limit;
        }
        Ok(())
    }

    fn query(srq: &Srq<Self>, attr: &mut SrqAttr) -> Result {
        *attr = *srq.attr.lock();
        Ok(())
    }

    fn post_recv(srq: &Srq<Self>, wrs: &mut RecvWrs<'_, Dev>) -> Result {
        for wr in wrs {
            if wr.id() == 0xbad {
                return Err(ENOMEM);
            }
        }
        srq.dispatch(SrqEvent::LimitReached);
        Ok(())
    }
}

#[pin_data]
struct TestQp {
    #[pin]
    state: Mutex<QpState>,
}

#[vtable]
impl qp::Operations for TestQp {
    type Device = Dev;

    fn create(
        qp: &mut NewQp<'_, Self>,
        attr: &mut QpInitAttr,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        if qp.send_cq().is_none() || attr.create_flags() != 0 {
            return Err(EINVAL);
        }
        qp.set_number(qp.device().number());
        attr.caps_mut().max_send_wr += 1;
        Ok(try_pin_init!(TestQp {
            state <- new_mutex!(QpState::Reset),
        }))
    }

    fn created(qp: &Qp<Self>) -> Result {
        // So that a failure after the publication is tested as well.
        let result = if qp.qp_type() == QpType::Uc {
            Err(EDOM)
        } else {
            Ok(())
        };
        let mut qps = qp.device().qps.lock();
        qps.push(qp.into(), GFP_KERNEL)?;
        if result.is_err() {
            let _ = qps.pop();
        }
        result
    }

    fn destroy(qp: &Qp<Self>) {
        qp.device()
            .qps
            .lock()
            .retain(|other| other.number() != qp.number());
    }

    fn modify(qp: &Qp<Self>, attr: &QpAttr<'_>, _call: Option<&UserCall<'_, Dev>>) -> Result {
        let mut state = qp.state.lock();
        let to = attr.state().unwrap_or(*state);
        if !attr.mask().allows(qp.qp_type(), *state, to) {
            return Err(EINVAL);
        }
        *state = to;
        Ok(())
    }

    fn query(qp: &Qp<Self>, attr: &mut QpAttrOut<'_>, _mask: QpAttrMask) -> Result {
        attr.state(*qp.state.lock()).port(1).signal_all(true);
        Ok(())
    }

    fn details(_qp: &Qp<Self>, details: &mut Details<'_>) -> Result {
        details
            .u32(c"small", 7)?
            .hex_u32(c"small_hex", 0x7f)?
            .u64(c"large", 1 << 40)?
            .hex_u64(c"large_hex", 1 << 63)?
            .string(c"word", c"hello")?;
        Ok(())
    }

    fn post_send(qp: &Qp<Self>, wrs: &mut SendWrs<'_, Dev>) -> Result {
        let cq = qp.send_cq().ok_or(EINVAL)?;
        if wrs.is_empty() {
            cq.add(2, 1);
        }
        for wr in wrs {
            let status = match wr.opcode()? {
                WrOpcode::RdmaWrite => match write(qp.device(), &wr) {
                    Ok(()) => WcStatus::Success,
                    Err(_) => WcStatus::LocalProtection,
                },
                WrOpcode::SendWithInv => return Err(EINVAL),
                _ => WcStatus::Success,
            };
            TestCq::complete(cq, status);
        }
        Ok(())
    }

    fn post_recv(qp: &Qp<Self>, _wrs: &mut RecvWrs<'_, Dev>) -> Result {
        qp.dispatch(QpEvent::CommEstablished);
        qp.recv_cq().ok_or(EINVAL)?.dispatch_error();
        Ok(())
    }
}

/// Addresses are relative to the beginning of their memory regions.
fn write(device: &Dev, wr: &SendWr<'_, Dev>) -> Result {
    let (to_offset, rkey) = wr.remote().ok_or(EINVAL)?;
    let to = device.mr(rkey).ok_or(ENOENT)?;
    let to = to.umem.as_ref().ok_or(EINVAL)?;
    let mut done = 0;
    for sge in wr.sges() {
        let from = device.mr(sge.lkey).ok_or(ENOENT)?;
        let from = from.umem.as_ref().ok_or(EINVAL)?;
        let len = sge.length as usize;
        let (at, to_at) = (sge.addr as usize, to_offset as usize + done);
        from.prefetch(at, len, false, true)?;
        to.prefetch(to_at, len, true, true)?;
        from.copy_to(at, to, to_at, len)?;
        done += len;
    }
    // What has been written can also be read by the kernel, and counted in the last word.
    let mut first = [0];
    to.read(to_offset as usize, &mut first)?;
    to.with_atomic_u64(to.len() - 8, |word| {
        word.fetch_add(first[0].into(), Ordering::Relaxed)
    })?;
    Ok(())
}

struct TestMr {
    umem: Option<Umem>,
}

impl TestMr {
    fn new(
        mr: &mut NewMr<'_, Self>,
        pd: &Pd<TestPd>,
        umem: Option<Umem>,
    ) -> impl PinInit<Self, Error> {
        let key = pd.device().number();
        mr.set_keys(key, key);
        try_init!(TestMr { umem })
    }
}

#[vtable]
impl mr::Operations for TestMr {
    type Device = Dev;

    fn reg_user(
        mr: &mut NewMr<'_, Self>,
        pd: &Pd<TestPd>,
        memory: UserMemory,
        access: AccessFlags,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result<impl PinInit<Self, Error>> {
        let umem = Umem::get(
            pd.device(),
            memory.start,
            usize::try_from(memory.length)?,
            access,
        )?;
        Ok(Self::new(mr, pd, Some(umem)))
    }

    fn created(mr: &Mr<Self>) -> Result {
        Ok(mr.device().mrs.lock().push(mr.into(), GFP_KERNEL)?)
    }

    fn dereg(mr: &Mr<Self>) -> Result {
        let mut mrs = mr.device().mrs.lock();
        mrs.retain(|other| other.rkey() != mr.rkey());
        Ok(())
    }

    fn rereg_user(
        _mr: &Mr<Self>,
        change: &Rereg<'_, Pd<TestPd>>,
        _call: Option<&UserCall<'_, Dev>>,
    ) -> Result {
        if change.memory.is_some() {
            return Err(eopnotsupp());
        }
        Ok(())
    }

    fn get_dma(
        mr: &mut NewMr<'_, Self>,
        pd: &Pd<TestPd>,
        _access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        Ok(Self::new(mr, pd, None))
    }

    fn alloc(
        mr: &mut NewMr<'_, Self>,
        pd: &Pd<TestPd>,
        _mr_type: MrType,
        _max_pages: u32,
    ) -> Result<impl PinInit<Self, Error>> {
        Ok(Self::new(mr, pd, None))
    }

    fn reg_dm(
        _mr: &mut NewMr<'_, Self>,
        _pd: &Pd<TestPd>,
        _part: &mr::DmPart<'_, Dm<Unsupported<Dev>>>,
        _access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        Err::<Result<Self>, _>(eopnotsupp())
    }
}

struct TestMw;

#[vtable]
impl mw::Operations for TestMw {
    type Device = Dev;

    fn alloc(
        mw: &mut NewMw<'_, Self>,
        mw_type: MwType,
        _call: &UserCall<'_, Dev>,
    ) -> Result<impl PinInit<Self, Error>> {
        mw.set_rkey(mw.device().number() | mw_type.as_raw() << 16);
        Ok(try_init!(TestMw {}))
    }
}
