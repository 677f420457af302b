// SPDX-License-Identifier: GPL-2.0

//! Attributes of queue pairs: as asked for at creation, to be changed, and to be filled in.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    ah::{AddressVector, AhAttr},
    bindings, eopnotsupp, qp,
    types::Mtu,
    verbs::{AccessFlags, MigState, QpAttrMask, QpState, QpType},
    Qp,
};
use kernel::prelude::*;

/// How much fits into the queues of a queue pair: plain numbers.
pub use super::bindings::ib_qp_cap as QpCap;

/// What is asked for when a queue pair is created, `struct ib_qp_init_attr`.
#[repr(transparent)]
pub struct QpInitAttr(bindings::ib_qp_init_attr);

impl QpInitAttr {
    /// # Safety
    ///
    /// `raw` must point to valid attributes that nobody else uses for `'a`, of a type of queue pair
    /// that is known here.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::ib_qp_init_attr) -> &'a mut Self {
        // SAFETY: By the function's requirements; the type is transparent.
        unsafe { &mut *raw.cast() }
    }

    /// The type.
    pub fn qp_type(&self) -> QpType {
        // `from_raw` requires it to be one that is known.
        self.0.qp_type.try_into().unwrap_or(QpType::Rc)
    }

    /// How much is wanted at least.
    pub fn caps(&self) -> &QpCap {
        &self.0.cap
    }

    /// The same, to be set to what there is.
    pub fn caps_mut(&mut self) -> &mut QpCap {
        &mut self.0.cap
    }

    /// Whether each work request of the send queue makes a completion, and not only those with
    /// [`SendFlags::SIGNALED`](super::SendFlags::SIGNALED).
    pub fn signal_all(&self) -> bool {
        self.0.sq_sig_type == bindings::ib_sig_type_IB_SIGNAL_ALL_WR
    }

    /// `IB_QP_CREATE_*`. A driver refuses those it does not know, with `EOPNOTSUPP`.
    pub fn create_flags(&self) -> u32 {
        self.0.create_flags
    }

    /// The port, for queue pairs that belong to one from the beginning.
    pub fn port(&self) -> u32 {
        self.0.port_num
    }
}

/// Attributes to be changed, `struct ib_qp_attr` and a mask that says which.
///
/// Each function gives `None` if its attribute is not to be changed.
///
/// # Invariants
///
/// The attributes that the mask names are valid values of their types.
pub struct QpAttr<'a> {
    raw: &'a bindings::ib_qp_attr,
    mask: QpAttrMask,
}

macro_rules! attrs {
    ($($(#[$meta:meta])* $name:ident: $type:ty = $mask:ident, $field:ident;)*) => {
        $($(#[$meta])*
        pub fn $name(&self) -> Option<$type> {
            self.mask.contains(QpAttrMask::$mask).then_some(self.raw.$field)
        })*
    };
}

impl<'a> QpAttr<'a> {
    /// `EINVAL` if an attribute has no valid value, `EOPNOTSUPP` for attributes that not all drivers
    /// have.
    ///
    /// # Safety
    ///
    /// With [`QpAttrMask::AV`], `ah_attr` must be as `ib_core` passes it to drivers.
    pub(super) unsafe fn from_raw(raw: &'a bindings::ib_qp_attr, mask: QpAttrMask) -> Result<Self> {
        if !QpAttrMask::STANDARD.contains(mask) {
            return Err(eopnotsupp());
        }
        if mask.contains(QpAttrMask::STATE) {
            QpState::try_from(raw.qp_state)?;
        }
        if mask.contains(QpAttrMask::CUR_STATE) {
            QpState::try_from(raw.cur_qp_state)?;
        }
        if mask.contains(QpAttrMask::PATH_MTU) {
            Mtu::try_from(raw.path_mtu)?;
        }
        if mask.contains(QpAttrMask::PATH_MIG_STATE) {
            MigState::try_from(raw.path_mig_state)?;
        }
        // INVARIANT: Checked above; with the others any value of the field is a valid one.
        Ok(Self { raw, mask })
    }

    /// Which attributes are to be changed.
    pub fn mask(&self) -> QpAttrMask {
        self.mask
    }

    fn checked<R, V: TryFrom<R>>(&self, mask: QpAttrMask, raw: R) -> Option<V> {
        // By the type invariants the conversion succeeds.
        self.mask.contains(mask).then(|| raw.try_into().ok())?
    }

    /// The state to go to.
    pub fn state(&self) -> Option<QpState> {
        self.checked(QpAttrMask::STATE, self.raw.qp_state)
    }

    /// The state that the user takes it to be in; if it is not, nothing is to be changed.
    pub fn cur_state(&self) -> Option<QpState> {
        self.checked(QpAttrMask::CUR_STATE, self.raw.cur_qp_state)
    }

    /// How large packets may be.
    pub fn path_mtu(&self) -> Option<Mtu> {
        self.checked(QpAttrMask::PATH_MTU, self.raw.path_mtu)
    }

    /// State of path migration.
    pub fn path_mig_state(&self) -> Option<MigState> {
        self.checked(QpAttrMask::PATH_MIG_STATE, self.raw.path_mig_state)
    }

    /// What the other side may do.
    pub fn access(&self) -> Option<AccessFlags> {
        self.mask
            .contains(QpAttrMask::ACCESS_FLAGS)
            .then(|| AccessFlags::from_bits(self.raw.qp_access_flags as u32))
    }

    /// The address of the other side.
    pub fn av(&self) -> Option<&'a AhAttr> {
        // SAFETY: By the requirements of `from_raw`.
        (self.mask.contains(QpAttrMask::AV)).then(|| unsafe { AhAttr::from_raw(&self.raw.ah_attr) })
    }

    /// How much the queues are to hold.
    pub fn caps(&self) -> Option<&'a QpCap> {
        self.mask.contains(QpAttrMask::CAP).then_some(&self.raw.cap)
    }

    attrs! {
        /// The key that datagrams must have.
        qkey: u32 = QKEY, qkey;
        /// Number of the first packet to be received, 24 bits.
        rq_psn: u32 = RQ_PSN, rq_psn;
        /// Number of the first packet to be sent, 24 bits.
        sq_psn: u32 = SQ_PSN, sq_psn;
        /// Number of the other side's queue pair, 24 bits.
        dest_qpn: u32 = DEST_QPN, dest_qp_num;
        /// Index of the partition key.
        pkey_index: u16 = PKEY_INDEX, pkey_index;
        /// Whether to tell when the send queue is drained.
        sqd_async_notify: u8 = EN_SQD_ASYNC_NOTIFY, en_sqd_async_notify;
        /// How many reads and atomic operations there can be on their way to the other side.
        max_rd_atomic: u8 = MAX_QP_RD_ATOMIC, max_rd_atomic;
        /// How many reads and atomic operations there can be on their way from the other side.
        max_dest_rd_atomic: u8 = MAX_DEST_RD_ATOMIC, max_dest_rd_atomic;
        /// What to tell the other side to wait if there is no receive request: 5 bits (IBTA table 45).
        min_rnr_timer: u8 = MIN_RNR_TIMER, min_rnr_timer;
        /// The port.
        port: u32 = PORT, port_num;
        /// How long to wait for an acknowledgement: 5 bits, 4.096 µs · 2^n, for ever if zero (IBTA
        /// 9.7.6.1.3).
        timeout: u8 = TIMEOUT, timeout;
        /// How often to try again, 3 bits.
        retry_cnt: u8 = RETRY_CNT, retry_cnt;
        /// How often to try again if the other side has no receive request: 3 bits, 7 is for ever.
        rnr_retry: u8 = RNR_RETRY, rnr_retry;
    }
}

/// Attributes to be filled in. They are zero to begin with.
pub struct QpAttrOut<'a> {
    attr: &'a mut bindings::ib_qp_attr,
    init: &'a mut bindings::ib_qp_init_attr,
}

macro_rules! setters {
    ($($name:ident: $type:ty = $field:ident;)*) => {
        $(#[allow(missing_docs)] // See the function of the same name of `QpAttr`.
        pub fn $name(&mut self, value: $type) -> &mut Self {
            self.attr.$field = value;
            self
        })*
    };
}

impl<'a> QpAttrOut<'a> {
    /// # Safety
    ///
    /// Both pointers must be valid for writes, and nobody else may use what they point to for `'a`.
    pub(super) unsafe fn from_raw<T: qp::Operations>(
        qp: &Qp<T>,
        attr: *mut bindings::ib_qp_attr,
        init: *mut bindings::ib_qp_init_attr,
    ) -> Self {
        // SAFETY: By the function's requirements. The queue pair is a valid one, whose fields `ib_core`
        // has set before it called the driver.
        unsafe {
            attr.write(pin_init::zeroed());
            init.write(pin_init::zeroed());
            let qp = qp.as_raw();
            (*init).event_handler = (*qp).registered_event_handler;
            (*init).qp_context = (*qp).qp_context;
            (*init).send_cq = (*qp).send_cq;
            (*init).recv_cq = (*qp).recv_cq;
            (*init).srq = (*qp).srq;
            (*init).qp_type = (*qp).qp_type;
            Self {
                attr: &mut *attr,
                init: &mut *init,
            }
        }
    }

    /// The state, which is also what "current state" gives.
    pub fn state(&mut self, state: QpState) -> &mut Self {
        self.attr.qp_state = state.as_raw();
        self.attr.cur_qp_state = state.as_raw();
        self
    }

    /// How large packets may be.
    pub fn path_mtu(&mut self, mtu: Mtu) -> &mut Self {
        self.attr.path_mtu = mtu.as_raw();
        self
    }

    /// State of path migration.
    pub fn path_mig_state(&mut self, state: MigState) -> &mut Self {
        self.attr.path_mig_state = state.as_raw();
        self
    }

    /// What the other side may do.
    pub fn access(&mut self, access: AccessFlags) -> &mut Self {
        self.attr.qp_access_flags = access.bits() as c_int;
        self
    }

    /// The address of the other side.
    pub fn av(&mut self, av: AddressVector) -> &mut Self {
        self.attr.ah_attr = av.into_raw();
        self
    }

    /// How much the queues hold.
    pub fn caps(&mut self, caps: QpCap) -> &mut Self {
        self.attr.cap = caps;
        self.init.cap = caps;
        self
    }

    /// See [`QpInitAttr::signal_all`].
    pub fn signal_all(&mut self, all: bool) -> &mut Self {
        self.init.sq_sig_type = if all {
            bindings::ib_sig_type_IB_SIGNAL_ALL_WR
        } else {
            bindings::ib_sig_type_IB_SIGNAL_REQ_WR
        };
        self
    }

    setters! {
        qkey: u32 = qkey;
        rq_psn: u32 = rq_psn;
        sq_psn: u32 = sq_psn;
        dest_qpn: u32 = dest_qp_num;
        pkey_index: u16 = pkey_index;
        sq_draining: u8 = sq_draining;
        max_rd_atomic: u8 = max_rd_atomic;
        max_dest_rd_atomic: u8 = max_dest_rd_atomic;
        min_rnr_timer: u8 = min_rnr_timer;
        port: u32 = port_num;
        timeout: u8 = timeout;
        retry_cnt: u8 = retry_cnt;
        rnr_retry: u8 = rnr_retry;
    }
}
