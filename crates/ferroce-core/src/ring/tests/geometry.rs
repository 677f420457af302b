// SPDX-License-Identifier: MIT OR Apache-2.0
use core::ptr::NonNull;

use super::Shared;
use crate::ring::*;
use crate::verbs::limits::*;

#[test]
fn what_is_asked_for_fits() {
    for max_wr in [0, 1, 2, 3, 100, 1024, MAX_QP_WR] {
        for max_sge in 0..=MAX_SEND_SGE {
            for max_inline in [0, 1, 15, 16, 17, 64, 65, 200, 511, 512] {
                let geometry = WqGeometry::<SendQueue>::new(max_wr, max_sge, max_inline).unwrap();
                assert!(geometry.entries() >= max_wr && geometry.entries().is_power_of_two());
                assert!(geometry.max_sge() >= max_sge && geometry.max_sge() <= MAX_SEND_SGE);
                assert!(geometry.max_inline() >= max_inline);
                assert!(geometry.max_inline() <= MAX_INLINE_DATA);
                // Room for an ATOMIC WRITE's data, always.
                assert!(geometry.max_inline() >= ATOMIC_LENGTH);
                assert_eq!(geometry.stride() % 64, 0);
                assert!(geometry.stride() <= MAX_SEND_STRIDE);
                assert_eq!(
                    geometry.len(),
                    HEADER_LEN + geometry.entries() as usize * geometry.stride()
                );
            }
            let geometry = WqGeometry::<RecvQueue>::new(max_wr, max_sge).unwrap();
            assert!(geometry.entries() >= max_wr);
            assert_eq!(geometry.max_sge(), max_sge);
            assert_eq!(geometry.max_inline(), 0);
            assert_eq!(geometry.stride(), 16 + 16 * max_sge as usize);
        }
    }
    for cqe in [0, 1, 5, MAX_CQE] {
        assert!(CqGeometry::new(cqe).unwrap().entries() >= cqe);
    }
}

#[test]
fn what_the_device_does_not_have_is_refused() {
    assert_eq!(
        WqGeometry::<SendQueue>::new(MAX_QP_WR + 1, 1, 0),
        Err(GeometryError::Entries(MAX_QP_WR + 1))
    );
    assert!(WqGeometry::<SendQueue>::new(u32::MAX, 1, 0).is_err());
    assert_eq!(
        WqGeometry::<SendQueue>::new(1, MAX_SEND_SGE + 1, 0),
        Err(GeometryError::Sge(MAX_SEND_SGE + 1))
    );
    assert!(WqGeometry::<SendQueue>::new(1, u32::MAX, 0).is_err());
    assert_eq!(
        WqGeometry::<SendQueue>::new(1, 1, MAX_INLINE_DATA + 1),
        Err(GeometryError::Inline(MAX_INLINE_DATA + 1))
    );
    assert!(WqGeometry::<RecvQueue>::new(1, u32::MAX).is_err());
    assert!(CqGeometry::new(MAX_CQE + 1).is_err());
}

#[test]
fn both_sides_compute_the_same_geometry() {
    let send = WqGeometry::<SendQueue>::new(100, 3, 200).unwrap();
    assert_eq!(WqGeometry::from_descriptor(send.descriptor()), Ok(send));
    let recv = WqGeometry::<RecvQueue>::new(100, 3).unwrap();
    assert_eq!(WqGeometry::from_descriptor(recv.descriptor()), Ok(recv));
}

#[test]
fn an_inconsistent_description_is_refused() {
    for (entries, stride) in [
        (0, 128),
        (3, 128),
        (MAX_QP_WR * 2, 128),
        (1, 0),
        (1, 48),
        (1, 100),
        (1, MAX_SEND_STRIDE as u32 + 64),
        (1, u32::MAX),
    ] {
        let descriptor = WqDescriptor { entries, stride };
        assert_eq!(
            WqGeometry::<SendQueue>::from_descriptor(descriptor),
            Err(GeometryError::Descriptor),
            "{descriptor:?}"
        );
    }
    let recv =
        |stride| WqGeometry::<RecvQueue>::from_descriptor(WqDescriptor { entries: 1, stride });
    assert!(recv(16).is_ok());
    assert!(recv(0).is_err());
    assert!(recv(24).is_err());
    assert!(recv(MAX_RECV_STRIDE as u32 + 16).is_err());
}

#[test]
fn the_rings_of_a_qp_do_not_overlap() {
    for max_sge in 0..=MAX_RECV_SGE {
        let send = WqGeometry::<SendQueue>::new(7, max_sge, 0).unwrap();
        let recv = WqGeometry::<RecvQueue>::new(9, max_sge).unwrap();
        let layout = QpLayout::new(send, Some(recv));
        let offset = layout.recv_offset().unwrap();
        assert!(offset >= layout.send_offset() + send.len());
        assert_eq!(offset % RING_ALIGN, 0);
        assert_eq!(layout.len(), offset + recv.len());
        assert_eq!(QpLayout::new(send, None).len(), send.len());
    }
}

#[test]
fn memory_that_does_not_fit_is_refused() {
    let geometry = WqGeometry::<SendQueue>::new(2, 1, 0).unwrap();
    let shared = Shared::new(geometry.len() + 64);
    // SAFETY: Neither reads nor writes the memory.
    let short = unsafe { Poster::new(shared.base(), geometry.len() - 1, geometry) };
    assert_eq!(
        short.err(),
        Some(GeometryError::TooShort {
            needed: geometry.len(),
            len: geometry.len() - 1
        })
    );
    // SAFETY: Within the allocation.
    let odd: NonNull<u8> = unsafe { shared.base().add(32) };
    // SAFETY: Neither reads nor writes the memory.
    let misaligned = unsafe { Executor::new(odd, geometry.len(), geometry) };
    assert_eq!(misaligned.err(), Some(GeometryError::Misaligned));
}
