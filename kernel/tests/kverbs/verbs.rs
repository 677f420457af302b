// SPDX-License-Identifier: GPL-2.0

//! The kernel's verbs, as far as the tests use them: objects that go with their scope, and work
//! requests.

use crate::bindings::{self, *};
use core::{
    marker::PhantomData,
    ptr,
    sync::atomic::{AtomicU8, Ordering},
};
use kernel::{
    bindings::{net_device, scatterlist},
    error::{from_err_ptr, to_result},
    prelude::*,
    time::{Instant, Monotonic},
};

/// How long is waited for what has to come at once, in seconds: no test passes or fails by time.
const PATIENCE: i64 = 30;

/// Waits until `ready` has something.
pub(crate) fn wait<T>(mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::<Monotonic>::now();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if begin.elapsed().as_millis() > PATIENCE * 1000 {
            return Err(ETIMEDOUT);
        }
        // SAFETY: No test waits where it must not sleep.
        unsafe { bindings::rdma_helper_cond_resched() };
    }
}

/// Does something with interrupts off.
pub(crate) fn atomically<T>(op: impl FnOnce() -> T) -> T {
    // SAFETY: They are on again below, as they were.
    let flags = unsafe { bindings::rdma_helper_local_irq_save() };
    let result = op();
    // SAFETY: As saved above.
    unsafe { bindings::rdma_helper_local_irq_restore(flags) };
    result
}

/// Whether this runs in a bottom half.
pub(crate) fn in_softirq() -> bool {
    // SAFETY: It may be asked anywhere.
    unsafe { bindings::rdma_helper_in_softirq() }
}

/// A device, and one of its GIDs.
pub(crate) struct Device {
    raw: *mut ib_device,
    gid_index: u32,
    gid: ib_gid,
    mac: [u8; 6],
}

impl Device {
    /// # Safety
    ///
    /// `raw` must be a device that stays registered as long as this exists.
    pub(crate) unsafe fn new(raw: *mut ib_device, gid_index: u32) -> Result<Self> {
        // SAFETY: A valid device; the function checks the port and the index. There is a reference to
        // the result until it is put. A GID of RoCE is of a network device, which stays while it is
        // registered, and has an address of this length.
        unsafe {
            let attr = rdma_get_gid_attr(raw, 1, gid_index as c_int);
            let attr = from_err_ptr(attr.cast_mut())?;
            let netdev: *const net_device = (*attr).ndev.cast();
            let mac = rdma_helper_dev_addr(netdev).cast::<[u8; 6]>().read();
            let gid = (*attr).gid;
            rdma_put_gid_attr(attr);
            Ok(Self {
                raw,
                gid_index,
                gid,
                mac,
            })
        }
    }

    pub(crate) fn raw(&self) -> *mut ib_device {
        self.raw
    }

    pub(crate) fn attrs(&self) -> &ib_device_attr {
        // SAFETY: A valid device, whose attributes do not change.
        unsafe { &(*self.raw).attrs }
    }

    /// The address of the device itself.
    pub(crate) fn address(&self) -> rdma_ah_attr {
        let mut attr = rdma_ah_attr::default();
        attr.grh.dgid = self.gid;
        attr.grh.sgid_index = self.gid_index as u8;
        attr.grh.hop_limit = 64;
        attr.port_num = 1;
        attr.__bindgen_anon_1.roce.dmac = self.mac;
        attr.ah_flags = ib_ah_flags_IB_AH_GRH as u8;
        attr.type_ = rdma_ah_attr_type_RDMA_AH_ATTR_TYPE_ROCE;
        attr
    }
}

/// A protection domain.
pub(crate) struct Pd<'a> {
    raw: *mut ib_pd,
    pub(crate) device: &'a Device,
}

impl<'a> Pd<'a> {
    pub(crate) fn new(device: &'a Device) -> Result<Self> {
        // SAFETY: A valid device.
        let raw = from_err_ptr(unsafe { rdma_helper_ib_alloc_pd(device.raw, 0) })?;
        Ok(Self { raw, device })
    }

    /// The key for all memory.
    pub(crate) fn lkey(&self) -> u32 {
        // SAFETY: A valid domain.
        unsafe { (*self.raw).local_dma_lkey }
    }
}

impl Drop for Pd<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever is in it borrows it, and so has gone.
        unsafe { rdma_helper_ib_dealloc_pd(self.raw) };
    }
}

/// Memory that a device reaches while others look at it.
pub(crate) struct Buffer<'a> {
    bytes: KVec<AtomicU8>,
    address: u64,
    pd: &'a Pd<'a>,
}

impl<'a> Buffer<'a> {
    /// Memory with a pattern of its own, see [`pattern`].
    pub(crate) fn new(pd: &'a Pd<'a>, len: usize, seed: u8) -> Result<Self> {
        let mut bytes = KVec::with_capacity(len, GFP_KERNEL)?;
        for i in 0..len {
            bytes.push(AtomicU8::new(pattern(seed, i)), GFP_KERNEL)?;
        }
        // SAFETY: Valid memory, which is unmapped before it goes.
        let address = unsafe {
            rdma_helper_ib_dma_map(pd.device.raw, bytes.as_mut_ptr().cast(), bytes.len())
        };
        Ok(Self { bytes, address, pd })
    }

    pub(crate) fn address(&self, at: usize) -> u64 {
        self.address + at as u64
    }

    pub(crate) fn sge(&self, at: usize, len: usize) -> ib_sge {
        self.sge_by(self.pd.lkey(), at, len)
    }

    pub(crate) fn sge_by(&self, lkey: u32, at: usize, len: usize) -> ib_sge {
        ib_sge {
            addr: self.address(at),
            length: len as u32,
            lkey,
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<u8> {
        Some(self.bytes.get(at)?.load(Ordering::Relaxed))
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(core::array::from_fn(|i| self.get(at + i).unwrap_or(0)))
    }

    pub(crate) fn set_word(&self, at: usize, word: u64) {
        let bytes = self.bytes.iter().skip(at).zip(word.to_ne_bytes());
        bytes.for_each(|(to, from)| to.store(from, Ordering::Relaxed));
    }

    /// Checks that each byte is what `must` says.
    pub(crate) fn check(&self, must: impl Fn(usize) -> u8) -> Result {
        for i in 0..self.bytes.len() {
            let is = self.get(i);
            check!(is == Some(must(i)), "byte {i} is {is:?}, not {}", must(i));
        }
        Ok(())
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: As mapped.
        unsafe { rdma_helper_ib_dma_unmap(self.pd.device.raw, self.address, self.bytes.len()) };
    }
}

/// The byte at `i` of a buffer that was made with `seed`: pages and buffers differ.
pub(crate) fn pattern(seed: u8, i: usize) -> u8 {
    (i as u8)
        .wrapping_mul(7)
        .wrapping_add((i >> 8) as u8)
        .wrapping_add(seed.wrapping_mul(31))
}

/// A completion queue that is polled.
pub(crate) struct Cq<'a> {
    raw: *mut ib_cq,
    _device: PhantomData<&'a Device>,
}

impl<'a> Cq<'a> {
    pub(crate) fn new(device: &'a Device, entries: u32) -> Result<Self> {
        // SAFETY: Without handlers nothing refers to the context.
        unsafe { Self::with_handlers(device, entries, None, None, ptr::null_mut()) }
    }

    /// # Safety
    ///
    /// The handlers must be functions to be called with `context`, as long as the queue exists.
    pub(crate) unsafe fn with_handlers(
        device: &'a Device,
        entries: u32,
        completion: ib_comp_handler,
        event: Option<unsafe extern "C" fn(*mut ib_event, *mut c_void)>,
        context: *mut c_void,
    ) -> Result<Self> {
        let attr = ib_cq_init_attr {
            cqe: entries,
            ..Default::default()
        };
        // SAFETY: A valid device and valid attributes, and by the function's requirements.
        let raw = from_err_ptr(unsafe {
            rdma_helper_ib_create_cq(device.raw, completion, event, context, &attr)
        })?;
        Ok(Self {
            raw,
            _device: PhantomData,
        })
    }

    pub(crate) fn raw(&self) -> *mut ib_cq {
        self.raw
    }

    /// Takes a completion, if there is one.
    pub(crate) fn poll(&self) -> Result<Option<ib_wc>> {
        let mut wc = ib_wc::default();
        // SAFETY: A valid queue, and room for one.
        match atomically(|| unsafe { rdma_helper_ib_poll_cq(self.raw, 1, &mut wc) }) {
            0 => Ok(None),
            1 => Ok(Some(wc)),
            errno => Err(Error::from_errno(errno)),
        }
    }

    /// Waits for a completion.
    pub(crate) fn next(&self) -> Result<ib_wc> {
        wait(|| self.poll().transpose())?
    }

    /// Waits for a completion, and checks what is in any.
    pub(crate) fn expect(&self, qp: &Qp<'_>, id: u64, status: ib_wc_status) -> Result<ib_wc> {
        let wc = self.next()?;
        // SAFETY: All of the union's fields are 64 bits, or are used as such.
        check_eq!(unsafe { wc.__bindgen_anon_1.wr_id }, id);
        check!(
            wc.status == status,
            "request {id} has status {}, not {status}",
            wc.status
        );
        check!(wc.qp == qp.raw, "request {id} is of another queue pair");
        Ok(wc)
    }

    /// As [`Self::expect`], of a success.
    pub(crate) fn success(&self, qp: &Qp<'_>, id: u64, opcode: ib_wc_opcode) -> Result<ib_wc> {
        let wc = self.expect(qp, id, ib_wc_status_IB_WC_SUCCESS)?;
        check_eq!(wc.opcode, opcode);
        Ok(wc)
    }

    /// Asks for an event. Returns whether there are completions already, if `flags` say so.
    pub(crate) fn arm(&self, flags: ib_cq_notify_flags) -> Result<bool> {
        // SAFETY: A valid queue.
        match atomically(|| unsafe { rdma_helper_ib_req_notify_cq(self.raw, flags) }) {
            0 => Ok(false),
            missed if missed > 0 => Ok(true),
            errno => Err(Error::from_errno(errno)),
        }
    }
}

impl Drop for Cq<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever uses it borrows it, and so has gone.
        unsafe { rdma_helper_ib_destroy_cq(self.raw) };
    }
}

/// Whether a completion has immediate data, or an invalidated key: of `enum ib_wc_flags`.
pub(crate) fn extra(wc: &ib_wc) -> ib_wc_flags {
    let either = ib_wc_flags_IB_WC_WITH_IMM | ib_wc_flags_IB_WC_WITH_INVALIDATE;
    wc.wc_flags as ib_wc_flags & either
}

/// A shared receive queue.
pub(crate) struct Srq<'a> {
    raw: *mut ib_srq,
    _pd: PhantomData<&'a Pd<'a>>,
}

impl<'a> Srq<'a> {
    /// # Safety
    ///
    /// The handler must be a function to be called with `context`, as long as the queue exists.
    pub(crate) unsafe fn new(
        pd: &'a Pd<'a>,
        max_wr: u32,
        event: Option<unsafe extern "C" fn(*mut ib_event, *mut c_void)>,
        context: *mut c_void,
    ) -> Result<Self> {
        let mut attr = ib_srq_init_attr {
            event_handler: event,
            srq_context: context,
            ..Default::default()
        };
        attr.attr.max_wr = max_wr;
        attr.attr.max_sge = 2;
        // SAFETY: Valid attributes, and by the function's requirements.
        let raw = from_err_ptr(unsafe { rdma_helper_ib_create_srq(pd.raw, &mut attr) })?;
        Ok(Self {
            raw,
            _pd: PhantomData,
        })
    }

    pub(crate) fn set_limit(&self, limit: u32) -> Result {
        let mut attr = ib_srq_attr {
            srq_limit: limit,
            ..Default::default()
        };
        // SAFETY: A valid queue and valid attributes.
        to_result(unsafe { ib_modify_srq(self.raw, &mut attr, ib_srq_attr_mask_IB_SRQ_LIMIT) })
    }

    pub(crate) fn receive(&self, id: u64, sges: &[ib_sge]) -> Result {
        let wr = receive_wr(id, sges);
        // SAFETY: A valid queue and a valid request.
        to_result(atomically(|| unsafe {
            rdma_helper_ib_post_srq_recv(self.raw, &wr, &mut ptr::null())
        }))
    }
}

impl Drop for Srq<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever uses it borrows it, and so has gone.
        unsafe { rdma_helper_ib_destroy_srq(self.raw) };
    }
}

/// A queue pair.
pub(crate) struct Qp<'a> {
    raw: *mut ib_qp,
    pd: &'a Pd<'a>,
}

/// What there is to say of a queue pair to be made.
pub(crate) struct QpParts<'a> {
    pub(crate) send_cq: *mut ib_cq,
    pub(crate) recv_cq: *mut ib_cq,
    pub(crate) srq: Option<&'a Srq<'a>>,
}

/// How many work requests a queue pair of the tests holds at least, and elements each has.
pub(crate) const DEPTH: u32 = 16;
pub(crate) const MAX_SGE: u32 = 4;
pub(crate) const MAX_INLINE: u32 = 200;

impl<'a> Qp<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, qp_type: ib_qp_type, parts: QpParts<'_>) -> Result<Self> {
        let mut attr = ib_qp_init_attr {
            send_cq: parts.send_cq,
            recv_cq: parts.recv_cq,
            srq: parts.srq.map_or(ptr::null_mut(), |srq| srq.raw),
            sq_sig_type: ib_sig_type_IB_SIGNAL_REQ_WR,
            qp_type,
            ..Default::default()
        };
        attr.cap.max_send_wr = DEPTH;
        attr.cap.max_recv_wr = DEPTH;
        attr.cap.max_send_sge = MAX_SGE;
        attr.cap.max_recv_sge = MAX_SGE;
        attr.cap.max_inline_data = MAX_INLINE;
        // SAFETY: Valid attributes of objects that exist.
        let raw = from_err_ptr(unsafe { rdma_helper_ib_create_qp(pd.raw, &mut attr) })?;
        Ok(Self { raw, pd })
    }

    pub(crate) fn raw(&self) -> *mut ib_qp {
        self.raw
    }

    pub(crate) fn number(&self) -> u32 {
        // SAFETY: A valid queue pair.
        unsafe { (*self.raw).qp_num }
    }

    fn modify(&self, mut attr: ib_qp_attr, mask: u32) -> Result {
        // SAFETY: A valid queue pair and valid attributes.
        to_result(unsafe { ib_modify_qp(self.raw, &mut attr, mask as c_int) })
    }

    fn initialise(&self, attr: ib_qp_attr, mask: u32) -> Result {
        let attr = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_INIT,
            port_num: 1,
            ..attr
        };
        let common = ib_qp_attr_mask_IB_QP_STATE
            | ib_qp_attr_mask_IB_QP_PKEY_INDEX
            | ib_qp_attr_mask_IB_QP_PORT;
        self.modify(attr, common | mask)
    }

    /// Brings a reliable connection to the state in which it receives, and then sends.
    pub(crate) fn connect(&self, peer: u32) -> Result {
        let remote = ib_access_flags_IB_ACCESS_REMOTE_WRITE
            | ib_access_flags_IB_ACCESS_REMOTE_READ
            | ib_access_flags_IB_ACCESS_REMOTE_ATOMIC;
        let init = ib_qp_attr {
            qp_access_flags: (ib_access_flags_IB_ACCESS_LOCAL_WRITE | remote) as c_int,
            ..Default::default()
        };
        self.initialise(init, ib_qp_attr_mask_IB_QP_ACCESS_FLAGS)?;
        let receive = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTR,
            path_mtu: ib_mtu_IB_MTU_1024,
            ah_attr: self.pd.device.address(),
            dest_qp_num: peer,
            max_dest_rd_atomic: 4,
            min_rnr_timer: 1,
            ..Default::default()
        };
        self.modify(
            receive,
            ib_qp_attr_mask_IB_QP_STATE
                | ib_qp_attr_mask_IB_QP_AV
                | ib_qp_attr_mask_IB_QP_PATH_MTU
                | ib_qp_attr_mask_IB_QP_DEST_QPN
                | ib_qp_attr_mask_IB_QP_RQ_PSN
                | ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC
                | ib_qp_attr_mask_IB_QP_MIN_RNR_TIMER,
        )?;
        let send = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTS,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 4,
            ..Default::default()
        };
        self.modify(
            send,
            ib_qp_attr_mask_IB_QP_STATE
                | ib_qp_attr_mask_IB_QP_TIMEOUT
                | ib_qp_attr_mask_IB_QP_RETRY_CNT
                | ib_qp_attr_mask_IB_QP_RNR_RETRY
                | ib_qp_attr_mask_IB_QP_SQ_PSN
                | ib_qp_attr_mask_IB_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// Brings a datagram queue pair to the state in which it sends and receives.
    pub(crate) fn open(&self, qkey: u32) -> Result {
        let init = ib_qp_attr {
            qkey,
            ..Default::default()
        };
        self.initialise(init, ib_qp_attr_mask_IB_QP_QKEY)?;
        self.to(ib_qp_state_IB_QPS_RTR)?;
        let send = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTS,
            ..Default::default()
        };
        self.modify(
            send,
            ib_qp_attr_mask_IB_QP_STATE | ib_qp_attr_mask_IB_QP_SQ_PSN,
        )
    }

    pub(crate) fn to(&self, state: ib_qp_state) -> Result {
        let attr = ib_qp_attr {
            qp_state: state,
            ..Default::default()
        };
        self.modify(attr, ib_qp_attr_mask_IB_QP_STATE)
    }

    /// Posts a signaled request.
    pub(crate) fn send(&self, id: u64, op: Op<'_>, sges: &[ib_sge]) -> Result {
        self.send_with(id, op, sges, ib_send_flags_IB_SEND_SIGNALED)
    }

    pub(crate) fn send_with(
        &self,
        id: u64,
        op: Op<'_>,
        sges: &[ib_sge],
        flags: ib_send_flags,
    ) -> Result {
        let wr = op.wr(id, sges, flags);
        let mut bad = ptr::null();
        // SAFETY: A valid queue pair and a valid request.
        let result = to_result(atomically(|| unsafe {
            rdma_helper_ib_post_send(self.raw, &wr.plain, &mut bad)
        }));
        if result.is_err() {
            // SAFETY: A field of the union that is always valid, being the first of all others.
            let posted = unsafe { &wr.plain };
            check!(ptr::eq(bad, posted), "the bad request is another");
        }
        result
    }

    /// Posts several requests at once, as [`Self::send`]. If it fails, says which is the bad one.
    pub(crate) fn send_list(&self, ids: core::ops::Range<u64>, sges: &[ib_sge]) -> (Result, u64) {
        let mut wrs = KVec::new();
        for id in ids {
            let wr = Op::Send.wr(id, sges, ib_send_flags_IB_SEND_SIGNALED);
            if let Err(error) = wrs.push(wr, GFP_KERNEL) {
                return (Err(error.into()), id);
            }
        }
        let mut next: *const ib_send_wr = ptr::null();
        for wr in wrs.iter_mut().rev() {
            wr.plain.next = next.cast_mut();
            // SAFETY: See `send_with`.
            next = unsafe { &wr.plain };
        }
        let mut bad: *const ib_send_wr = ptr::null();
        // SAFETY: A valid queue pair and a list of valid requests.
        let result = to_result(atomically(|| unsafe {
            rdma_helper_ib_post_send(self.raw, next, &mut bad)
        }));
        // SAFETY: If there is one, it is one of the list.
        let bad = unsafe { bad.as_ref().map_or(0, |wr| wr.__bindgen_anon_1.wr_id) };
        (result, bad)
    }

    pub(crate) fn receive(&self, id: u64, sges: &[ib_sge]) -> Result {
        let wr = receive_wr(id, sges);
        // SAFETY: A valid queue pair and a valid request.
        to_result(atomically(|| unsafe {
            rdma_helper_ib_post_recv(self.raw, &wr, &mut ptr::null())
        }))
    }
}

impl Drop for Qp<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        unsafe { rdma_helper_ib_destroy_qp(self.raw) };
    }
}

/// Two reliable connections to each other, with a completion queue each.
pub(crate) struct Pair<'a> {
    pub(crate) a: Qp<'a>,
    pub(crate) b: Qp<'a>,
    pub(crate) a_cq: &'a Cq<'a>,
    pub(crate) b_cq: &'a Cq<'a>,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, a_cq: &'a Cq<'a>, b_cq: &'a Cq<'a>) -> Result<Self> {
        let make = |cq: &Cq<'_>| {
            let parts = QpParts {
                send_cq: cq.raw,
                recv_cq: cq.raw,
                srq: None,
            };
            Qp::new(pd, ib_qp_type_IB_QPT_RC, parts)
        };
        let (a, b) = (make(a_cq)?, make(b_cq)?);
        a.connect(b.number())?;
        b.connect(a.number())?;
        Ok(Self { a, b, a_cq, b_cq })
    }
}

/// A place in the peer's memory.
#[derive(Clone, Copy)]
pub(crate) struct Remote {
    pub(crate) addr: u64,
    pub(crate) rkey: u32,
}

/// What a send work request asks for.
pub(crate) enum Op<'a> {
    Send,
    SendImm([u8; 4]),
    SendInv(u32),
    Write(Remote),
    WriteImm(Remote, [u8; 4]),
    Read(Remote),
    CompareSwap(Remote, u64, u64),
    FetchAdd(Remote, u64),
    Register(&'a Mr<'a>, u32),
    LocalInv(u32),
    Datagram(&'a Ah<'a>, u32, u32),
}

/// A send work request of any kind. Each has the `ib_send_wr` first.
#[repr(C)]
pub(crate) union Wr {
    pub(crate) plain: ib_send_wr,
    rdma: ib_rdma_wr,
    atomic: ib_atomic_wr,
    datagram: ib_ud_wr,
    register: ib_reg_wr,
}

impl Op<'_> {
    pub(crate) fn wr(self, id: u64, sges: &[ib_sge], flags: ib_send_flags) -> Wr {
        let mut plain = ib_send_wr {
            sg_list: sges.as_ptr().cast_mut(),
            num_sge: sges.len() as c_int,
            send_flags: flags as c_int,
            ..Default::default()
        };
        plain.__bindgen_anon_1.wr_id = id;
        let rdma = |plain, remote: Remote| Wr {
            rdma: ib_rdma_wr {
                wr: plain,
                remote_addr: remote.addr,
                rkey: remote.rkey,
            },
        };
        let atomic = |plain, remote: Remote, compare_add, swap| Wr {
            atomic: ib_atomic_wr {
                wr: plain,
                remote_addr: remote.addr,
                compare_add,
                swap,
                rkey: remote.rkey,
                ..Default::default()
            },
        };
        match self {
            Self::Send => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND;
                Wr { plain }
            }
            Self::SendImm(data) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND_WITH_IMM;
                plain.ex.imm_data = u32::from_ne_bytes(data);
                Wr { plain }
            }
            Self::SendInv(rkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND_WITH_INV;
                plain.ex.invalidate_rkey = rkey;
                Wr { plain }
            }
            Self::LocalInv(rkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_LOCAL_INV;
                plain.ex.invalidate_rkey = rkey;
                Wr { plain }
            }
            Self::Write(remote) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_WRITE;
                rdma(plain, remote)
            }
            Self::WriteImm(remote, data) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM;
                plain.ex.imm_data = u32::from_ne_bytes(data);
                rdma(plain, remote)
            }
            Self::Read(remote) => {
                plain.opcode = ib_wr_opcode_IB_WR_RDMA_READ;
                rdma(plain, remote)
            }
            Self::CompareSwap(remote, compare, swap) => {
                plain.opcode = ib_wr_opcode_IB_WR_ATOMIC_CMP_AND_SWP;
                atomic(plain, remote, compare, swap)
            }
            Self::FetchAdd(remote, add) => {
                plain.opcode = ib_wr_opcode_IB_WR_ATOMIC_FETCH_AND_ADD;
                atomic(plain, remote, add, 0)
            }
            Self::Register(mr, access) => {
                plain.opcode = ib_wr_opcode_IB_WR_REG_MR;
                Wr {
                    register: ib_reg_wr {
                        wr: plain,
                        mr: mr.raw,
                        key: mr.key(),
                        access: access as c_int,
                    },
                }
            }
            Self::Datagram(ah, remote_qpn, remote_qkey) => {
                plain.opcode = ib_wr_opcode_IB_WR_SEND;
                Wr {
                    datagram: ib_ud_wr {
                        wr: plain,
                        ah: ah.raw,
                        remote_qpn,
                        remote_qkey,
                        ..Default::default()
                    },
                }
            }
        }
    }
}

/// A receive work request. It is valid as long as `sges`.
pub(crate) fn receive_wr(id: u64, sges: &[ib_sge]) -> ib_recv_wr {
    let mut wr = ib_recv_wr {
        sg_list: sges.as_ptr().cast_mut(),
        num_sge: sges.len() as c_int,
        ..Default::default()
    };
    wr.__bindgen_anon_1.wr_id = id;
    wr
}

/// A memory region that work requests register memory in.
pub(crate) struct Mr<'a> {
    raw: *mut ib_mr,
    mapped: KVec<scatterlist>,
    pd: &'a Pd<'a>,
}

impl<'a> Mr<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, max_pages: u32) -> Result<Self> {
        // SAFETY: A valid domain.
        let raw =
            from_err_ptr(unsafe { ib_alloc_mr(pd.raw, ib_mr_type_IB_MR_TYPE_MEM_REG, max_pages) })?;
        Ok(Self {
            raw,
            mapped: KVec::new(),
            pd,
        })
    }

    /// Maps pieces of buffers: each a buffer, where in it, and the length. Returns how many of them.
    pub(crate) fn map(&mut self, pieces: &[(&Buffer<'_>, usize, usize)]) -> Result<usize> {
        self.unmap();
        let mut list = KVec::new();
        list.resize(pieces.len(), scatterlist::default(), GFP_KERNEL)?;
        // SAFETY: A list of that many entries, each set to valid memory, which the caller keeps as long
        // as it wants it reached. The region is not registered, so nobody uses its list.
        unsafe {
            kernel::bindings::sg_init_table(list.as_mut_ptr(), list.len() as u32);
            for (entry, (buffer, at, len)) in list.iter_mut().zip(pieces) {
                let start = buffer.bytes.as_ptr().add(*at);
                rdma_helper_sg_set_buf(entry, start.cast(), *len as u32);
            }
            let count = rdma_helper_ib_dma_map_sg(
                self.pd.device.raw,
                list.as_mut_ptr(),
                list.len() as c_int,
            );
            self.mapped = list;
            let mapped = atomically(|| {
                ib_map_mr_sg(
                    self.raw,
                    self.mapped.as_mut_ptr(),
                    count,
                    ptr::null_mut(),
                    4096,
                )
            });
            usize::try_from(mapped).map_err(|_| Error::from_errno(mapped))
        }
    }

    fn unmap(&mut self) {
        let len = self.mapped.len() as c_int;
        if len > 0 {
            // SAFETY: As mapped in `map`.
            unsafe {
                rdma_helper_ib_dma_unmap_sg(self.pd.device.raw, self.mapped.as_mut_ptr(), len)
            };
        }
    }

    /// Changes the part of the key that is the user's.
    pub(crate) fn set_key(&mut self, key: u8) {
        // SAFETY: A valid region.
        unsafe { rdma_helper_ib_update_fast_reg_key(self.raw, key) };
    }

    pub(crate) fn key(&self) -> u32 {
        // SAFETY: A valid region.
        unsafe { (*self.raw).rkey }
    }

    /// The place of a byte of the region.
    pub(crate) fn remote(&self, at: u64) -> Remote {
        // SAFETY: A valid region.
        let start = unsafe { (*self.raw).iova };
        Remote {
            addr: start + at,
            rkey: self.key(),
        }
    }

    /// A part of the region for work requests of one's own.
    pub(crate) fn sge(&self, at: u64, len: u32) -> ib_sge {
        let Remote { addr, rkey } = self.remote(at);
        ib_sge {
            addr,
            length: len,
            lkey: rkey,
        }
    }
}

impl Drop for Mr<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        if unsafe { rdma_helper_ib_dereg_mr(self.raw) } != 0 {
            pr_err!("a region cannot be deregistered\n");
        }
        self.unmap();
    }
}

/// An address handle, made and destroyed where nothing may sleep.
pub(crate) struct Ah<'a> {
    raw: *mut ib_ah,
    _pd: PhantomData<&'a Pd<'a>>,
}

impl<'a> Ah<'a> {
    /// To the device itself.
    pub(crate) fn new(pd: &'a Pd<'a>) -> Result<Self> {
        let mut attr = pd.device.address();
        // SAFETY: A valid domain and a valid address.
        let raw = atomically(|| unsafe { rdma_helper_create_ah(pd.raw, &mut attr, 0) });
        Ok(Self {
            raw: from_err_ptr(raw)?,
            _pd: PhantomData,
        })
    }
}

impl Drop for Ah<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        atomically(|| unsafe { rdma_helper_destroy_ah(self.raw, 0) });
    }
}
