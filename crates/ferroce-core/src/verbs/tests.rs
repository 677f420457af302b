// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::verbs::*;

#[test]
fn the_rnr_table_is_that_of_the_specification() {
    // IBTA table 45, in milliseconds times 100, as printed.
    let printed: [u64; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    for (code, hundredths) in (0u32..).zip(printed) {
        let timer = RnrTimer::try_from(code).unwrap();
        assert_eq!(timer.nanos(), hundredths * 10_000, "code {code}");
        assert_eq!(u32::from(timer.code()), code);
    }
    assert!(RnrTimer::try_from(32).is_err());
    assert!(RnrTimer::try_from(256).is_err());
}

#[test]
fn an_ack_timeout_doubles_and_zero_is_for_ever() {
    assert_eq!(AckTimeout::from_low_bits(0).nanos(), None);
    assert_eq!(AckTimeout::from_low_bits(1).nanos(), Some(8_192));
    // The default of perftest and rdma_cm: 67.1 ms.
    assert_eq!(AckTimeout::from_low_bits(14).nanos(), Some(67_108_864));
    assert_eq!(AckTimeout::from_low_bits(31).nanos(), Some(4096 << 31));
    assert_eq!(AckTimeout::from_low_bits(32 | 14).code(), 14);
}

#[test]
fn numbers_convert_to_values_and_back_or_say_what_they_are_not() {
    for &state in QpState::ALL {
        assert_eq!(QpState::try_from(u32::from(state)), Ok(state));
    }
    for &opcode in SendOpcode::ALL {
        assert_eq!(SendOpcode::try_from(u32::from(opcode)), Ok(opcode));
    }
    for &status in WcStatus::ALL {
        assert_eq!(WcStatus::try_from(u32::from(status)), Ok(status));
    }
    // TSO, READ with invalidate and the masked atomics have numbers in Linux, and none here.
    for number in [10, 11, 12, 13, 16, 33] {
        let error = SendOpcode::try_from(number).unwrap_err();
        assert_eq!((error.what, error.value), ("send opcode", number));
        assert_eq!(error.errno().number(), 22);
    }
    assert_eq!(
        std::format!("{}", QpState::try_from(7).unwrap_err()),
        "0x7 is not a valid QP state"
    );
    // SMI and raw packet QPs exist in Linux, not here.
    assert!(QpType::try_from(0).is_err());
    assert!(QpType::try_from(8).is_err());
}

#[test]
fn the_last_status_and_event_have_linux_numbers() {
    assert_eq!(WcStatus::GeneralErr.number(), 21);
    assert_eq!(WcStatus::ALL.len(), 22);
    assert_eq!(EventType::DeviceSpeedChange.number(), 20);
    assert_eq!(EventType::ALL.len(), 21);
}

#[test]
fn mtus_are_powers_of_two() {
    let bytes = [256, 512, 1024, 2048, 4096];
    for (&mtu, bytes) in Mtu::ALL.iter().zip(bytes) {
        assert_eq!(mtu.bytes(), bytes);
        assert_eq!(Mtu::largest_within(bytes), Some(mtu));
        assert_ne!(Mtu::largest_within(bytes - 1), Some(mtu));
    }
    assert_eq!(Mtu::largest_within(255), None);
    assert_eq!(Mtu::largest_within(u32::MAX), Some(Mtu::B4096));
    assert!(Mtu::B256 < Mtu::B4096);
}

#[test]
fn each_transport_permits_what_the_specification_says() {
    use QpType::{Gsi, Rc, Uc, Ud};
    use SendOpcode::*;
    let table: [(SendOpcode, &[QpType]); 13] = [
        (Send, &[Gsi, Rc, Uc, Ud]),
        (SendImm, &[Gsi, Rc, Uc, Ud]),
        (SendInvalidate, &[Rc]),
        (RdmaWrite, &[Rc, Uc]),
        (RdmaWriteImm, &[Rc, Uc]),
        (RdmaRead, &[Rc]),
        (CompareSwap, &[Rc]),
        (FetchAdd, &[Rc]),
        (LocalInvalidate, &[Rc, Uc]),
        (BindMw, &[Rc, Uc]),
        (Flush, &[Rc]),
        (AtomicWrite, &[Rc]),
        (RegMr, &[Rc, Uc]),
    ];
    assert_eq!(table.len(), SendOpcode::ALL.len());
    for (opcode, types) in table {
        for qp_type in QpType::ALL {
            assert_eq!(
                opcode.permitted_on(*qp_type),
                types.contains(qp_type),
                "{opcode:?} on {qp_type:?}"
            );
        }
    }
}

#[test]
fn a_receive_is_told_from_a_send_by_one_bit() {
    for opcode in SendOpcode::ALL {
        assert!(!opcode.completion().is_receive());
    }
    assert!(WcOpcode::Recv.is_receive());
    assert!(WcOpcode::RecvRdmaWithImm.is_receive());
}

#[test]
fn unknown_bits_are_refused_and_hints_are_not() {
    assert!(AccessFlags::try_from(1 << 10).is_err());
    assert!(AccessFlags::try_from(1 << 30).is_err());
    let hint = AccessFlags::try_from(1 << 27).unwrap();
    assert!(AccessFlags::OPTIONAL.contains(hint));
    assert!(SendFlags::try_from(1 << 4).is_err());
    let low = SendFlags::from_bits_truncate(0xf3);
    assert_eq!(low, SendFlags::FENCE | SendFlags::SIGNALED);
    assert_eq!(
        std::format!("{:?}", SendFlags::FENCE | SendFlags::INLINE),
        "SendFlags(0x9 FENCE INLINE)"
    );
}

#[test]
fn remote_writes_need_local_write() {
    assert!(!AccessFlags::REMOTE_WRITE.is_consistent());
    assert!(!AccessFlags::REMOTE_ATOMIC.is_consistent());
    assert!(AccessFlags::REMOTE_READ.is_consistent());
    assert!((AccessFlags::REMOTE_WRITE | AccessFlags::LOCAL_WRITE).is_consistent());
}

#[test]
fn a_controlled_q_key_is_the_qps() {
    assert_eq!(limits::datagram_qkey(0x1111, 0x2222), 0x1111);
    assert_eq!(limits::datagram_qkey(0x8000_0000, 0x2222), 0x2222);
}
