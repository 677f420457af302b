// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transitions, stated a second time and in another form: one line each, nothing shared.

use std::collections::HashMap;
use std::vec::Vec;

use crate::qp::{rule, AttrMask};
use crate::verbs::{QpState, QpType};

/// `from to types : required / optional` (IBTA 11.2.5.2, as Linux has it).
const TABLE: &str = "
RESET RESET RC,UC,UD,GSI : /
INIT  RESET RC,UC,UD,GSI : /
RTR   RESET RC,UC,UD,GSI : /
RTS   RESET RC,UC,UD,GSI : /
SQD   RESET RC,UC,UD,GSI : /
SQE   RESET RC,UC,UD,GSI : /
ERR   RESET RC,UC,UD,GSI : /

INIT  ERR   RC,UC,UD,GSI : /
RTR   ERR   RC,UC,UD,GSI : /
RTS   ERR   RC,UC,UD,GSI : /
SQD   ERR   RC,UC,UD,GSI : /
SQE   ERR   RC,UC,UD,GSI : /
ERR   ERR   RC,UC,UD,GSI : /

RESET INIT  RC           : pkey_index port access_flags /
RESET INIT  UC           : pkey_index port access_flags /
RESET INIT  UD           : pkey_index port qkey /
RESET INIT  GSI          : pkey_index qkey /

INIT  INIT  RC           : / pkey_index port access_flags
INIT  INIT  UC           : / pkey_index port access_flags
INIT  INIT  UD           : / pkey_index port qkey
INIT  INIT  GSI          : / pkey_index qkey

INIT  RTR   RC           : av path_mtu dest_qpn rq_psn max_dest_rd_atomic min_rnr_timer / alt_path access_flags pkey_index
INIT  RTR   UC           : av path_mtu dest_qpn rq_psn / alt_path access_flags pkey_index
INIT  RTR   UD           : / pkey_index qkey
INIT  RTR   GSI          : / pkey_index qkey

RTR   RTS   RC           : sq_psn timeout retry_cnt rnr_retry max_qp_rd_atomic / cur_state access_flags min_rnr_timer alt_path path_mig_state
RTR   RTS   UC           : sq_psn / cur_state access_flags alt_path path_mig_state
RTR   RTS   UD           : sq_psn / cur_state qkey
RTR   RTS   GSI          : sq_psn / cur_state qkey

RTS   RTS   RC           : / cur_state access_flags min_rnr_timer alt_path path_mig_state
RTS   RTS   UC           : / cur_state access_flags alt_path path_mig_state
RTS   RTS   UD           : / cur_state qkey
RTS   RTS   GSI          : / cur_state qkey

RTS   SQD   RC,UC,UD,GSI : / en_sqd_async_notify

SQD   RTS   RC           : / cur_state access_flags min_rnr_timer alt_path path_mig_state
SQD   RTS   UC           : / cur_state access_flags alt_path path_mig_state
SQD   RTS   UD           : / cur_state qkey
SQD   RTS   GSI          : / cur_state qkey

SQD   SQD   RC           : / av port timeout retry_cnt rnr_retry max_qp_rd_atomic max_dest_rd_atomic alt_path access_flags pkey_index min_rnr_timer path_mig_state
SQD   SQD   UC           : / av alt_path access_flags pkey_index path_mig_state
SQD   SQD   UD           : / pkey_index qkey
SQD   SQD   GSI          : / pkey_index qkey

SQE   RTS   RC           : /
SQE   RTS   UC           : / cur_state access_flags
SQE   RTS   UD           : / cur_state qkey
SQE   RTS   GSI          : / cur_state qkey
";

const STATES: [&str; 7] = ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"];
const BITS: [&str; 21] = [
    "state",
    "cur_state",
    "en_sqd_async_notify",
    "access_flags",
    "pkey_index",
    "port",
    "qkey",
    "av",
    "path_mtu",
    "timeout",
    "retry_cnt",
    "rnr_retry",
    "rq_psn",
    "max_qp_rd_atomic",
    "alt_path",
    "min_rnr_timer",
    "sq_psn",
    "max_dest_rd_atomic",
    "path_mig_state",
    "cap",
    "dest_qpn",
];

type Key = (QpType, QpState, QpState);

fn stated() -> HashMap<Key, (u32, u32)> {
    let state = |name: &str| {
        let number = STATES.iter().position(|&s| s == name).expect(name);
        QpState::try_from(number as u32).unwrap()
    };
    let bits = |names: &str| -> u32 {
        names
            .split_whitespace()
            .map(|name| 1 << BITS.iter().position(|&b| b == name).expect(name))
            .sum()
    };
    let mut table = HashMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (transition, attributes) = line.split_once(':').unwrap();
        let (required, optional) = attributes.split_once('/').unwrap();
        let words: Vec<&str> = transition.split_whitespace().collect();
        let [from, to, types] = words[..] else {
            panic!("{line}")
        };
        for name in types.split(',') {
            let qp_type = match name {
                "RC" => QpType::Rc,
                "UC" => QpType::Uc,
                "UD" => QpType::Ud,
                "GSI" => QpType::Gsi,
                _ => panic!("{line}"),
            };
            let before = table.insert(
                (qp_type, state(from), state(to)),
                (bits(required), bits(optional)),
            );
            assert!(before.is_none(), "stated twice: {line}");
        }
    }
    table
}

/// All masks of the standard attributes, in steps: every one in an optimised build.
fn masks() -> impl Iterator<Item = u32> {
    let step = if cfg!(miri) {
        104_729
    } else if cfg!(debug_assertions) {
        101
    } else {
        1
    };
    (0..1u32 << 21).step_by(step)
}

/// Masks that differ from `mask` in at most two bits: where a wrong rule would show.
fn neighbours(mask: u32) -> impl Iterator<Item = u32> {
    (0..32u32).flat_map(move |a| (0..32u32).map(move |b| mask ^ (1 << a) ^ (1 << b)))
}

#[test]
#[cfg_attr(miri, ignore = "millions of masks, and no unsafe code")]
fn every_mask_on_every_transition_is_judged_as_stated() {
    let stated = stated();
    for &qp_type in QpType::ALL {
        for &from in QpState::ALL {
            for &to in QpState::ALL {
                let rule = rule(qp_type, from, to);
                let Some(&(required, optional)) = stated.get(&(qp_type, from, to)) else {
                    assert_eq!(rule, None, "{qp_type:?} {from:?} -> {to:?}");
                    continue;
                };
                let rule = rule.unwrap_or_else(|| panic!("{qp_type:?} {from:?} -> {to:?}"));
                let always = AttrMask::STATE.bits() | AttrMask::RATE_LIMIT.bits();
                for mask in masks().chain(neighbours(required)) {
                    let expected =
                        mask & required == required && mask & !(required | optional | always) == 0;
                    assert_eq!(
                        rule.check(AttrMask::from_bits_retain(mask)).is_ok(),
                        expected,
                        "{qp_type:?} {from:?} -> {to:?} {mask:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_bits_are_numbered_as_in_linux() {
    for (bit, name) in BITS.iter().enumerate() {
        let debug = std::format!("{:?}", AttrMask::from_bits_retain(1 << bit));
        assert!(debug.to_lowercase().contains(&std::format!(" {name})")));
    }
    assert_eq!(AttrMask::RATE_LIMIT.bits(), 1 << 25);
}
