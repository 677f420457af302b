// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many packets are of one length, for who sends them as one.

use super::*;

impl Pair {
    /// The lengths of the packets that are sent, by row. Those that are not as it was told begin another.
    fn rows(&mut self) -> Vec<Vec<usize>> {
        let mut rows = Vec::new();
        let mut buffer = [0; 2 * MTU as usize];
        loop {
            let (now, queues) = (self.now, &self.own.queues);
            let requester = &mut self.own.requester;
            let Transmit::NeedsRoom(room) = requester.poll_transmit(now, queues, &mut []) else {
                return rows;
            };
            let mut row = Vec::new();
            for _ in 0..requester.batch_len() {
                match requester.poll_transmit(now, queues, &mut buffer[..room]) {
                    Transmit::Packet(length) => row.push(length),
                    _ => break,
                }
                if row.last() < Some(&room) {
                    break;
                }
            }
            rows.push(row);
        }
    }
}

const FULL: usize = Bth::LEN + MTU as usize;
const RETH: usize = 16;

#[test]
fn the_first_packet_of_a_write_is_longer_than_the_others() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 4 * MTU - 8);
    let rows = [vec![FULL + RETH, FULL], vec![FULL, FULL - 8]];
    assert_eq!(pair.rows(), rows);
}

#[test]
fn a_message_without_an_address_is_one_row() {
    let mut pair = Pair::rc();
    pair.post(Operation::Send, 4 * MTU);
    assert_eq!(pair.rows(), [vec![FULL; 4]]);
}

#[test]
fn short_requests_are_one_row() {
    let mut pair = Pair::rc();
    for length in [8, 8, 4] {
        pair.post(Operation::RdmaWrite(TARGET), length);
    }
    pair.post(Operation::RdmaRead(TARGET), MTU);
    pair.post(Operation::RdmaRead(TARGET), 3 * MTU);
    let write = Bth::LEN + RETH + 8;
    let rows = [vec![write, write, write - 4], vec![Bth::LEN + RETH; 2]];
    assert_eq!(pair.rows(), rows);
}

#[test]
fn the_answers_to_a_read_are_a_row_after_the_first_which_has_an_aeth() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaRead(TARGET), 5 * MTU);
    let request = pair.requests().pop_front().unwrap();
    assert_eq!(pair.peer.responder.batch_len(), None);
    pair.give(&request);
    let mut rows = Vec::new();
    while let Some(row) = pair.peer.responder.batch_len() {
        rows.push(row);
        pair.peer.respond().unwrap();
    }
    // The last one, which has an AETH too, could be longer: that nobody looks into.
    assert_eq!(rows, [2, 4, 3, 2, 1]);
}
