// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that both paths share, and what the peer hears of.

use super::*;

#[test]
fn a_flush_needs_the_rights_of_its_placement_and_a_range_or_the_whole_region() {
    const BOTH: FlushPlacement = FlushPlacement::ALL;
    const GLOBAL: FlushPlacement = FlushPlacement::GLOBAL;
    const PERSISTENT: FlushPlacement = FlushPlacement::PERSISTENT;
    let all = AccessFlags::REMOTE;
    let but = |right| all.without(right);
    let none: fn(&mut Side) = |_| {};
    let anywhere = Remote {
        addr: u64::MAX,
        rkey: RKEY,
    };
    let bad_key = Remote { rkey: 8, ..REMOTE };
    let (range, mr) = (FlushSelectivity::Range, FlushSelectivity::Mr);
    let done = Outcome::Done(0);
    let access = Outcome::Failed(WcStatus::RemAccessErr);
    let invalid = Outcome::Failed(WcStatus::RemInvReqErr);
    let global = (all, all);
    let table = [
        (GLOBAL, range, REMOTE, 64, global, none, done),
        (GLOBAL, range, REMOTE, 0, global, none, done),
        (GLOBAL, range, REMOTE, 65, global, none, access),
        (GLOBAL, range, at(63), 2, global, none, access),
        (GLOBAL, range, REMOTE, u32::MAX, global, none, access),
        (GLOBAL, range, anywhere, 1, global, none, access),
        (GLOBAL, range, bad_key, 1, global, none, access),
        // The whole region: where, and how much, means nothing.
        (GLOBAL, mr, anywhere, u32::MAX, global, none, done),
        (GLOBAL, mr, bad_key, 1, global, none, access),
        // The device has no persistent memory, whatever a key says.
        (PERSISTENT, range, REMOTE, 1, global, none, access),
        (PERSISTENT, mr, REMOTE, 1, global, none, access),
        (BOTH, range, REMOTE, 1, global, none, access),
        (
            FlushPlacement::EMPTY,
            range,
            REMOTE,
            1,
            global,
            none,
            invalid,
        ),
        // Rights of the key, and of the QP.
        (
            GLOBAL,
            range,
            REMOTE,
            1,
            (all, but(AccessFlags::FLUSH_GLOBAL)),
            none,
            access,
        ),
        (
            GLOBAL,
            mr,
            REMOTE,
            1,
            (all, but(AccessFlags::FLUSH_GLOBAL)),
            none,
            access,
        ),
        (
            GLOBAL,
            range,
            REMOTE,
            1,
            (but(AccessFlags::FLUSH_GLOBAL), all),
            none,
            invalid,
        ),
        (
            BOTH,
            range,
            REMOTE,
            1,
            (but(AccessFlags::FLUSH_GLOBAL), all),
            none,
            invalid,
        ),
        (
            PERSISTENT,
            range,
            REMOTE,
            1,
            (but(AccessFlags::FLUSH_PERSISTENT), all),
            none,
            invalid,
        ),
        // It counts as a READ.
        (
            GLOBAL,
            range,
            REMOTE,
            1,
            global,
            |peer| peer.takes_reads = false,
            invalid,
        ),
    ];
    for (number, row) in table.into_iter().enumerate() {
        let (placement, selectivity, remote, length, (qp, key), change, outcome) = row;
        let (requester, mut peer) = (Side::new(0), Side::new(64));
        (peer.access, peer.key_access) = (qp, key);
        change(&mut peer);
        let flush = Operation::Flush {
            remote,
            length,
            selectivity,
            placement,
        };
        assert_eq!(run(flush, &[], &requester, &peer), outcome, "row {number}");
    }
}

#[test]
fn a_requester_of_no_depth_has_no_reads_nor_atomics() {
    let reads = [
        (Operation::RdmaRead(REMOTE), 8),
        (
            Operation::FetchAdd {
                remote: REMOTE,
                add: 1,
            },
            8,
        ),
        (
            Operation::CompareSwap {
                remote: REMOTE,
                compare: 0,
                swap: 1,
            },
            8,
        ),
        (Operation::AtomicWrite(REMOTE), 8),
        (
            Operation::Flush {
                remote: REMOTE,
                length: 1,
                selectivity: FlushSelectivity::Range,
                placement: FlushPlacement::GLOBAL,
            },
            0,
        ),
    ];
    let writes = [(Operation::RdmaWrite(REMOTE), 8), (Operation::Send, 8)];
    for (operation, length) in reads.into_iter().chain(writes) {
        let (requester, peer) = (Side::new(64), Side::new(64));
        peer.post_receive(1, &[sge(0, 64)]);
        let entries = match length {
            0 => Vec::new(),
            _ => entries(&[sge(0, length)]),
        };
        let data = Data::Sges(SgeList::of(&entries));
        let outcome = execute(
            &request(operation),
            data,
            &requester,
            0,
            &peer,
            true,
            &mut Progress::default(),
        );
        let expected = match operation.opcode().is_rd_atomic() {
            true => Outcome::Failed(WcStatus::LocQpOpErr),
            false => Outcome::Done(length),
        };
        assert_eq!(outcome, expected, "{operation:?}");
        // It is no business of the peer's.
        assert_eq!(peer.failed.get(), None);
        let came = !operation.opcode().is_rd_atomic();
        assert_eq!(peer.requests.get(), u32::from(came), "{operation:?}");
    }
}

#[test]
fn the_peer_hears_of_what_reaches_it_and_of_nothing_else() {
    let bad_key = Sge {
        lkey: LKEY + 1,
        ..sge(0, 8)
    };
    for (operation, sge, came) in [
        (Operation::Send, sge(0, 8), 1),
        (Operation::RdmaWrite(REMOTE), sge(0, 8), 1),
        (Operation::RdmaRead(REMOTE), sge(0, 8), 1),
        (Operation::Send, bad_key, 0),
        (Operation::RdmaRead(REMOTE), bad_key, 0),
    ] {
        for reliable in [true, false] {
            let (requester, peer) = (Side::new(64), Side::new(64));
            let entries = entries(&[sge]);
            let data = Data::Sges(SgeList::of(&entries));
            // Without a receive, too: it will come again.
            execute(
                &request(operation),
                data,
                &requester,
                DEPTH,
                &peer,
                reliable,
                &mut Progress::default(),
            );
            assert_eq!(peer.requests.get(), came, "{operation:?}");
        }
    }
}
