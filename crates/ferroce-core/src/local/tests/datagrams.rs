// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams, on this host and on the wire.

use super::*;

#[test]
fn a_datagram_comes_with_its_grh_in_front() {
    let (sender, receiver) = (Side::new(64), Side::new(128));
    receiver.post_receive(3, &[sge(0, 39), sge(60, 60)]);
    let entries = entries(&pieces());
    let mut list = RegionList::new();
    let datagram = datagram(&sender, &entries, 1024, &mut list).ok().unwrap();
    assert_eq!(datagram.deliver(&receiver), Delivery::Done);
    assert_eq!(receiver.bytes(0, 39), [0xaa; 39]);
    assert_eq!(receiver.bytes(60, 1), [0xaa]);
    assert_eq!(receiver.bytes(61, 12), gathered());
    let completed = receiver.completed.borrow();
    assert_eq!(
        (completed[0].byte_len, completed[0].source),
        (52, Some(SOURCE))
    );
}

#[test]
fn a_datagram_that_does_not_fit_is_dropped_and_its_receive_stays() {
    let (sender, receiver) = (Side::new(64), Side::new(128));
    let entries = entries(&pieces());
    let mut list = RegionList::new();
    let datagram = datagram(&sender, &entries, 1024, &mut list).ok().unwrap();
    assert_eq!(datagram.deliver(&receiver), Delivery::Dropped, "no receive");
    receiver.post_receive(3, &[sge(0, 51)]);
    assert_eq!(
        datagram.deliver(&receiver),
        Delivery::Dropped,
        "a byte too small"
    );
    assert_eq!(receiver.receives.borrow().len(), 1);
    assert_eq!(receiver.failed.get(), None);
}

#[test]
fn a_datagram_is_one_packet() {
    let entries = entries(&pieces());
    let mut list = RegionList::new();
    let result = datagram(&Side::new(64), &entries, 11, &mut list);
    assert_eq!(result.err(), Some(WcStatus::LocLenErr));
}

#[test]
fn a_datagram_is_the_same_on_the_wire() {
    let (sender, receiver) = (Side::new(64), Side::new(128));
    receiver.post_receive(3, &[sge(0, 128)]);
    let entries = entries(&pieces());
    let request = SendRequest {
        flags: SendFlags::SOLICITED,
        ..request(Operation::SendImm(IMM))
    };
    let mut list = RegionList::new();
    let data = Data::Sges(SgeList::of(&entries));
    let sent = Datagram::new(&request, data, &sender, 1024, SOURCE, &mut list);
    let mut buffer = [0; 64];
    let length = sent.ok().unwrap().emit(9, 0x1111, Psn::new(7), &mut buffer);
    let length = length.unwrap().unwrap();
    // BTH, DETH, immediate data, and twelve bytes.
    assert_eq!(length, 12 + 8 + 4 + 12);

    let packet = Packet::parse(&buffer[..length]).unwrap();
    let deth = Deth {
        qkey: 0x1111,
        src_qp: SOURCE.qpn,
    };
    assert_eq!(packet.headers, Headers::DethImm(deth, IMM));
    assert_eq!((packet.bth.dest_qp, packet.bth.psn), (9, Psn::new(7)));
    assert!(Arrived::new(&packet, SOURCE.grh)
        .unwrap()
        .deliver(&receiver));
    assert_eq!(receiver.bytes(40, 12), gathered());
    let completed = receiver.completed.borrow();
    assert!(completed[0].solicited);
    assert_eq!(completed[0].extra, Extra::Immediate(IMM));
    assert_eq!(completed[0].source, Some(SOURCE));
}
