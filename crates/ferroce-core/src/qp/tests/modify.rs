// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::qp::*;
use crate::verbs::{AccessFlags, Errno, Mtu, QpState, QpType};

const LIMITS: DeviceLimits = DeviceLimits::with_active_mtu(Mtu::B1024);

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

/// Asserts that `edit` makes the way from `from` to `to` fail with `error`, and leaves it open if
/// the attribute is not named.
fn refused(
    from: QpState,
    to_state: QpState,
    bit: AttrMask,
    error: ModifyError,
    edit: impl Fn(&mut RequestedAttr),
) {
    let attr = at(QpType::Rc, from);
    let mut requested = to(to_state);
    edit(&mut requested);
    let required = mask(QpType::Rc, from, to_state);
    let mut attr_drained = attr;
    attr_drained.drained();
    let named = required | bit;
    assert_eq!(
        modify(QpType::Rc, &attr_drained, named, &requested, &LIMITS),
        Err(error)
    );
    assert_eq!(error.errno(), Errno::Invalid);
    if !required.contains(bit) {
        assert!(modify(QpType::Rc, &attr_drained, required, &requested, &LIMITS).is_ok());
    }
}

#[test]
fn each_attribute_is_held_to_its_range() {
    use QpState::{Init, Reset, Rtr, Rts};
    refused(Reset, Init, AttrMask::PORT, ModifyError::Port(0), |r| {
        r.port_num = 0
    });
    refused(Reset, Init, AttrMask::PORT, ModifyError::Port(2), |r| {
        r.port_num = 2
    });
    refused(
        Reset,
        Init,
        AttrMask::PKEY_INDEX,
        ModifyError::PkeyIndex(1),
        |r| r.pkey_index = 1,
    );
    // ZERO_BASED is no right of a QP; bit 10 is nothing at all; a hint is let through.
    for bits in [1 << 5, 1 << 10] {
        refused(
            Reset,
            Init,
            AttrMask::ACCESS_FLAGS,
            ModifyError::AccessFlags(bits),
            |r| r.qp_access_flags = bits,
        );
    }
    let hint = RequestedAttr {
        qp_access_flags: 1 << 20,
        ..to(Init)
    };
    let names = mask(QpType::Rc, Reset, Init);
    assert!(modify(QpType::Rc, &QpAttr::new(), names, &hint, &LIMITS).is_ok());

    refused(
        Init,
        Rtr,
        AttrMask::PATH_MTU,
        ModifyError::PathMtu {
            requested: Mtu::B2048,
            active: Mtu::B1024,
        },
        |r| r.path_mtu = 4,
    );
    refused(
        Init,
        Rtr,
        AttrMask::PATH_MTU,
        ModifyError::Value(Mtu::try_from(0).unwrap_err()),
        |r| r.path_mtu = 0,
    );
    refused(
        Init,
        Rtr,
        AttrMask::DEST_QPN,
        ModifyError::DestQpn(1 << 24),
        |r| r.dest_qp_num = 1 << 24,
    );
    refused(
        Init,
        Rtr,
        AttrMask::RQ_PSN,
        ModifyError::Psn(1 << 24),
        |r| r.rq_psn = 1 << 24,
    );
    refused(
        Init,
        Rtr,
        AttrMask::MAX_DEST_RD_ATOMIC,
        ModifyError::MaxDestRdAtomic(129),
        |r| r.max_dest_rd_atomic = 129,
    );
    refused(Init, Rtr, AttrMask::AV, ModifyError::Port(0), |r| {
        r.ah_attr.port_num = 0
    });
    refused(Init, Rtr, AttrMask::AV, ModifyError::SgidIndex(1024), |r| {
        r.ah_attr.sgid_index = 1024
    });
    refused(
        Init,
        Rtr,
        AttrMask::AV,
        ModifyError::FlowLabel(1 << 20),
        |r| r.ah_attr.flow_label = 1 << 20,
    );
    refused(
        Init,
        Rtr,
        AttrMask::ALT_PATH,
        ModifyError::PathMigration,
        |_| (),
    );
    refused(
        Init,
        Rtr,
        AttrMask::MIN_RNR_TIMER,
        ModifyError::Value(crate::verbs::RnrTimer::try_from(32).unwrap_err()),
        |r| r.min_rnr_timer = 32,
    );
    refused(Rtr, Rts, AttrMask::SQ_PSN, ModifyError::Psn(!0), |r| {
        r.sq_psn = !0
    });
    refused(
        Rtr,
        Rts,
        AttrMask::TIMEOUT,
        ModifyError::Value(crate::verbs::AckTimeout::try_from(32).unwrap_err()),
        |r| r.timeout = 32,
    );
    refused(
        Rtr,
        Rts,
        AttrMask::RETRY_CNT,
        ModifyError::RetryCnt(8),
        |r| r.retry_cnt = 8,
    );
    refused(
        Rtr,
        Rts,
        AttrMask::RNR_RETRY,
        ModifyError::RnrRetry(8),
        |r| r.rnr_retry = 8,
    );
    refused(
        Rtr,
        Rts,
        AttrMask::MAX_QP_RD_ATOMIC,
        ModifyError::MaxRdAtomic(200),
        |r| r.max_rd_atomic = 200,
    );
    refused(
        Rts,
        Rts,
        AttrMask::PATH_MIG_STATE,
        ModifyError::PathMigration,
        |r| r.path_mig_state = 1,
    );
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
            path_mig_state: next() as u32 % 4,
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
            assert!(new.path_mtu <= LIMITS.active_mtu);
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
