// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::qp::*;
use crate::verbs::{AccessFlags, Errno, Mtu, QpState, QpType};

const LIMITS: DeviceLimits = DeviceLimits::FERROCE;

/// What `ibv_rc_pingpong` asks for on its way to RTS.
fn request() -> RequestedAttr {
    RequestedAttr {
        path_mtu: 3,
        rq_psn: 0xabcdef,
        sq_psn: 0x123456,
        dest_qp_num: 17,
        qp_access_flags: AccessFlags::REMOTE_WRITE.bits(),
        ah_attr: AddressVector {
            port_num: 1,
            sgid_index: 1,
            hop_limit: 1,
            ..AddressVector::default()
        },
        max_rd_atomic: 1,
        max_dest_rd_atomic: 1,
        min_rnr_timer: 12,
        port_num: 1,
        timeout: 14,
        retry_cnt: 7,
        rnr_retry: 7,
        qkey: 0x1111_1111,
        ..RequestedAttr::default()
    }
}

fn to(state: QpState) -> RequestedAttr {
    RequestedAttr {
        qp_state: u32::from(state),
        ..request()
    }
}

/// The attributes a transition requires, and the state.
fn mask(qp_type: QpType, from: QpState, to: QpState) -> AttrMask {
    rule(qp_type, from, to).unwrap().required | AttrMask::STATE
}

fn step(qp_type: QpType, attr: &QpAttr, state: QpState) -> Modified {
    modify(
        qp_type,
        attr,
        mask(qp_type, attr.state, state),
        &to(state),
        &LIMITS,
    )
    .unwrap()
}

fn at(qp_type: QpType, state: QpState) -> QpAttr {
    let mut attr = QpAttr::new();
    for next in [QpState::Init, QpState::Rtr, QpState::Rts] {
        if attr.state == state {
            break;
        }
        attr = step(qp_type, &attr, next).attr;
    }
    if attr.state != state {
        attr = step(qp_type, &attr, state).attr;
    }
    attr
}

#[test]
fn a_qp_is_brought_to_rts_step_by_step() {
    let init = step(QpType::Rc, &QpAttr::new(), QpState::Init);
    assert_eq!(init.transition, Transition::Init);
    let rtr = step(QpType::Rc, &init.attr, QpState::Rtr);
    assert_eq!(rtr.transition, Transition::StartReceiving);
    assert_eq!(rtr.attr.path_mtu, Mtu::B1024);
    assert_eq!(rtr.attr.rq_psn, 0xabcdef);
    // What a transition does not name stays.
    assert_eq!(rtr.attr.sq_psn, 0);
    let rts = step(QpType::Rc, &rtr.attr, QpState::Rts);
    assert_eq!(rts.transition, Transition::StartSending);
    assert_eq!(rts.attr.sq_psn, 0x123456);
    assert_eq!(rts.attr.timeout.code(), 14);
    assert_eq!(rts.attr.dest_qp_num, 17);
    for qp_type in [QpType::Uc, QpType::Ud] {
        assert_eq!(at(qp_type, QpState::Rts).state, QpState::Rts);
    }
}

#[test]
fn reset_forgets_everything() {
    let reset = step(QpType::Rc, &at(QpType::Rc, QpState::Rts), QpState::Reset);
    assert_eq!(reset.transition, Transition::Reset);
    assert_eq!(reset.attr, QpAttr::new());
}

#[test]
fn an_error_flushes_once() {
    let err = step(QpType::Ud, &at(QpType::Ud, QpState::Rts), QpState::Err);
    assert_eq!(err.transition, Transition::Flush);
    let again = step(QpType::Ud, &err.attr, QpState::Err);
    assert_eq!(again.transition, Transition::Attributes);
}

#[test]
fn a_draining_queue_can_only_be_given_up() {
    let rts = at(QpType::Rc, QpState::Rts);
    let notify = RequestedAttr {
        en_sqd_async_notify: true,
        ..to(QpState::Sqd)
    };
    let mut sqd = modify(
        QpType::Rc,
        &rts,
        AttrMask::STATE | AttrMask::EN_SQD_ASYNC_NOTIFY,
        &notify,
        &LIMITS,
    )
    .unwrap();
    assert_eq!(sqd.transition, Transition::Drain);
    assert!(sqd.attr.sq_draining);

    let resume = |attr: &QpAttr| {
        modify(
            QpType::Rc,
            attr,
            AttrMask::STATE,
            &to(QpState::Rts),
            &LIMITS,
        )
    };
    let retime = |attr: &QpAttr| modify(QpType::Rc, attr, AttrMask::TIMEOUT, &request(), &LIMITS);
    assert_eq!(resume(&sqd.attr), Err(ModifyError::Draining));
    assert_eq!(retime(&sqd.attr), Err(ModifyError::Draining));
    step(QpType::Rc, &sqd.attr, QpState::Err);
    step(QpType::Rc, &sqd.attr, QpState::Reset);

    // The event is due once.
    assert!(sqd.attr.drained());
    assert!(!sqd.attr.drained());
    assert_eq!(
        retime(&sqd.attr).unwrap().transition,
        Transition::Attributes
    );
    let resumed = resume(&sqd.attr).unwrap();
    assert_eq!(resumed.transition, Transition::ResumeSending);

    // The next transition to SQD does not inherit the wish for an event.
    let mut quiet = step(QpType::Rc, &resumed.attr, QpState::Sqd);
    assert!(!quiet.attr.drained());
}

#[test]
fn a_qp_in_error_is_not_draining() {
    let sqd = at(QpType::Uc, QpState::Sqd);
    assert!(sqd.sq_draining);
    let mut err = step(QpType::Uc, &sqd, QpState::Err).attr;
    assert!(!err.sq_draining);
    assert!(!err.drained());
}

#[test]
fn the_callers_belief_about_the_state_has_to_be_true() {
    let rts = at(QpType::Uc, QpState::Rts);
    let mut sqe = rts;
    sqe.state = QpState::Sqe;
    let believes = |state: QpState| RequestedAttr {
        cur_qp_state: u32::from(state),
        ..to(QpState::Rts)
    };
    let both = AttrMask::STATE | AttrMask::CUR_STATE;
    assert!(modify(QpType::Uc, &sqe, both, &believes(QpState::Sqe), &LIMITS).is_ok());
    assert_eq!(
        modify(QpType::Uc, &sqe, both, &believes(QpState::Rts), &LIMITS),
        Err(ModifyError::CurrentState {
            actual: QpState::Sqe,
            assumed: QpState::Rts
        })
    );
    let nonsense = RequestedAttr {
        cur_qp_state: 99,
        ..request()
    };
    assert!(matches!(
        modify(QpType::Uc, &sqe, both, &nonsense, &LIMITS),
        Err(ModifyError::Value(_))
    ));
}

/// Who refuses it too. What neither of the devices that programs are made for and tried on refuses is
/// accepted (kernel 7.2: `rxe_qp_chk_attr()`, `mlx5_ib_modify_qp()`).
#[derive(Debug)]
enum By {
    /// `ib_core` and `ib_uverbs`, for any device.
    Core,
    /// mlx5, or the firmware of a ConnectX.
    ConnectX,
    Both,
    /// Nobody, but there is no such thing as what the number stands for.
    Nonsense,
}

/// A transition, an attribute, what is wrong with it, and who refuses that.
type Refused = (
    (QpState, QpState),
    AttrMask,
    fn(&mut RequestedAttr),
    ModifyError,
    By,
);

#[test]
fn what_is_refused_is_refused_by_others_too() {
    use QpState::{Init, Reset, Rtr, Rts};
    let no_mtu = |mtu| ModifyError::Value(Mtu::try_from(mtu).unwrap_err());
    let table: [Refused; 12] = [
        (
            (Reset, Init),
            AttrMask::PORT,
            |r| r.port_num = 0,
            ModifyError::Port(0),
            By::Both,
        ),
        (
            (Reset, Init),
            AttrMask::PORT,
            |r| r.port_num = 2,
            ModifyError::Port(2),
            By::Both,
        ),
        (
            (Reset, Init),
            AttrMask::PKEY_INDEX,
            |r| r.pkey_index = 1,
            ModifyError::PkeyIndex(1),
            By::ConnectX,
        ),
        (
            (Init, Rtr),
            AttrMask::PATH_MTU,
            |r| r.path_mtu = 0,
            no_mtu(0),
            By::ConnectX,
        ),
        (
            (Init, Rtr),
            AttrMask::PATH_MTU,
            |r| r.path_mtu = 6,
            no_mtu(6),
            By::Both,
        ),
        (
            (Init, Rtr),
            AttrMask::MAX_DEST_RD_ATOMIC,
            |r| r.max_dest_rd_atomic = 129,
            ModifyError::MaxDestRdAtomic(129),
            By::ConnectX,
        ),
        (
            (Init, Rtr),
            AttrMask::AV,
            |r| r.ah_attr.port_num = 0,
            ModifyError::Port(0),
            By::Core,
        ),
        (
            (Init, Rtr),
            AttrMask::AV,
            |r| r.ah_attr.sgid_index = 1024,
            ModifyError::SgidIndex(1024),
            By::Core,
        ),
        (
            (Init, Rtr),
            AttrMask::ALT_PATH,
            |_| (),
            ModifyError::AlternatePath,
            By::Core,
        ),
        (
            (Rtr, Rts),
            AttrMask::MAX_QP_RD_ATOMIC,
            |r| r.max_rd_atomic = 200,
            ModifyError::MaxRdAtomic(200),
            By::Both,
        ),
        (
            (Rts, Rts),
            AttrMask::CUR_STATE,
            |r| r.cur_qp_state = Init.into(),
            ModifyError::CurrentState {
                actual: Rts,
                assumed: Init,
            },
            By::ConnectX,
        ),
        (
            (Rts, Rts),
            AttrMask::CUR_STATE,
            |r| r.cur_qp_state = 7,
            ModifyError::Value(QpState::try_from(7).unwrap_err()),
            By::Nonsense,
        ),
    ];
    for ((from, to_state), bit, edit, error, by) in table {
        let mut attr = at(QpType::Rc, from);
        attr.drained();
        let mut requested = to(to_state);
        edit(&mut requested);
        let required = mask(QpType::Rc, from, to_state);
        let refused = modify(QpType::Rc, &attr, required | bit, &requested, &LIMITS);
        assert_eq!(refused, Err(error), "by {by:?}");
        assert_eq!(error.errno(), Errno::Invalid);
        if !required.contains(bit) {
            assert!(modify(QpType::Rc, &attr, required, &requested, &LIMITS).is_ok());
        }
    }
}

#[test]
fn of_a_number_that_is_too_large_the_low_bits_count() {
    let init = RequestedAttr {
        // Bit 5, ZERO_BASED, is no right of a queue pair, and bit 10 nothing at all.
        qp_access_flags: 1 << 5 | 1 << 10 | AccessFlags::REMOTE_READ.bits(),
        ..to(QpState::Init)
    };
    let names = mask(QpType::Rc, QpState::Reset, QpState::Init);
    let attr = modify(QpType::Rc, &QpAttr::new(), names, &init, &LIMITS)
        .unwrap()
        .attr;
    assert_eq!(attr.qp_access_flags, AccessFlags::REMOTE_READ);
    let rtr = RequestedAttr {
        // That of the port is 1024 with an ordinary network device.
        path_mtu: 5,
        dest_qp_num: 1 << 24 | 17,
        rq_psn: 1 << 24 | 1,
        min_rnr_timer: 32 | 12,
        ..to(QpState::Rtr)
    };
    let names = mask(QpType::Rc, QpState::Init, QpState::Rtr);
    let attr = modify(QpType::Rc, &attr, names, &rtr, &LIMITS)
        .unwrap()
        .attr;
    assert_eq!(
        (attr.path_mtu, attr.dest_qp_num, attr.rq_psn),
        (Mtu::B4096, 17, 1)
    );
    assert_eq!(attr.min_rnr_timer.code(), 12);
    let rts = RequestedAttr {
        sq_psn: !0,
        timeout: 32 | 14,
        retry_cnt: 8 | 3,
        rnr_retry: 255,
        ..to(QpState::Rts)
    };
    let names = mask(QpType::Rc, QpState::Rtr, QpState::Rts) | AttrMask::PATH_MIG_STATE;
    let attr = modify(QpType::Rc, &attr, names, &rts, &LIMITS)
        .unwrap()
        .attr;
    assert_eq!((attr.sq_psn, attr.timeout.code()), (0xff_ffff, 14));
    assert_eq!((attr.retry_cnt, attr.rnr_retry), (3, 7));
}

#[test]
fn an_address_vector_is_of_the_qps_own_port() {
    let mut limits = LIMITS;
    limits.port_count = 2;
    let init = at(QpType::Rc, QpState::Init);
    let mut requested = to(QpState::Rtr);
    requested.ah_attr.port_num = 2;
    let names = mask(QpType::Rc, QpState::Init, QpState::Rtr);
    assert_eq!(
        modify(QpType::Rc, &init, names, &requested, &limits),
        Err(ModifyError::AddressVectorPort {
            qp: 1,
            address_vector: 2
        })
    );
    // Where both may change, they change together.
    let mut sqd = at(QpType::Rc, QpState::Sqd);
    sqd.drained();
    requested.port_num = 2;
    let both = AttrMask::AV | AttrMask::PORT;
    let moved = modify(QpType::Rc, &sqd, both, &requested, &limits).unwrap();
    assert_eq!((moved.attr.port_num, moved.attr.ah_attr.port_num), (2, 2));
}

#[test]
fn what_the_device_lacks_is_not_supported_rather_than_wrong() {
    let names = mask(QpType::Rc, QpState::Reset, QpState::Init) | AttrMask::RATE_LIMIT;
    let error = modify(
        QpType::Rc,
        &QpAttr::new(),
        names,
        &to(QpState::Init),
        &LIMITS,
    )
    .unwrap_err();
    assert_eq!(error, ModifyError::RateLimit);
    assert_eq!(error.errno(), Errno::NotSupported);
}

#[test]
fn any_numbers_at_all_give_an_answer_and_only_checked_attributes() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut accepted = 0;
    for _ in 0..if cfg!(miri) { 200 } else { 200_000 } {
        let r = next();
        let qp_type = QpType::ALL[r as usize % 4];
        let from = QpState::ALL[(r >> 8) as usize % 5];
        let mut attr = at(qp_type, from);
        if r & (1 << 20) != 0 {
            attr.drained();
        }
        let requested = RequestedAttr {
            qp_state: next() as u32 % 8,
            cur_qp_state: next() as u32 % 8,
            path_mtu: next() as u32 % 8,
            qp_access_flags: next() as u32 & next() as u32 & next() as u32 & 0x3ff,
            rq_psn: next() as u32 >> (next() % 16),
            sq_psn: next() as u32 >> (next() % 16),
            dest_qp_num: next() as u32 >> (next() % 16),
            max_rd_atomic: next() as u8,
            max_dest_rd_atomic: next() as u8,
            min_rnr_timer: next() as u32 % 40,
            timeout: next() as u32 % 40,
            retry_cnt: next() as u8 % 10,
            rnr_retry: next() as u8 % 10,
            port_num: next() as u32 % 3,
            pkey_index: next() as u16 % 2,
            ..request()
        };
        let target = QpState::try_from(requested.qp_state).unwrap_or(from);
        let base = rule(qp_type, from, target).map_or(AttrMask::EMPTY, |r| r.required);
        let extra = AttrMask::from_bits_retain((next() & next() & next() & next()) as u32);
        let names = base | AttrMask::STATE | extra;
        if let Ok(modified) = modify(qp_type, &attr, names, &requested, &LIMITS) {
            accepted += 1;
            let new = modified.attr;
            assert_eq!(new.state, target);
            assert!(new.rq_psn < 1 << 24 && new.sq_psn < 1 << 24 && new.dest_qp_num < 1 << 24);
            assert!(new.retry_cnt <= 7 && new.rnr_retry <= 7);
            assert!(new.max_rd_atomic <= 128 && new.max_dest_rd_atomic <= 128);
            assert!(AccessFlags::QP.contains(new.qp_access_flags));
            assert!(!new.sq_draining || new.state == QpState::Sqd);
        }
    }
    assert!(accepted > 0);
}

#[test]
fn a_connection_is_established_once_and_only_in_rtr() {
    for qp_type in [QpType::Rc, QpType::Uc] {
        let mut rtr = at(qp_type, QpState::Rtr);
        assert!(rtr.awaits_peer);
        assert!(rtr.established());
        assert!(!rtr.established());
        // Only after a RESET is there another one.
        let reset = step(qp_type, &rtr, QpState::Reset).attr;
        let init = step(qp_type, &reset, QpState::Init).attr;
        let mut again = step(qp_type, &init, QpState::Rtr).attr;
        assert!(again.established());

        for state in [QpState::Reset, QpState::Init, QpState::Rts, QpState::Err] {
            let mut attr = at(qp_type, state);
            assert!(!attr.awaits_peer, "{state:?}");
            assert!(!attr.established(), "{state:?}");
        }
        // An error of the driver's own, which is no Modify QP.
        let mut failed = at(qp_type, QpState::Rtr);
        failed.state = QpState::Err;
        assert!(!failed.established());
    }
    assert!(!at(QpType::Ud, QpState::Rtr).established());
}
