// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans by chance.

use ferroce_core::verbs::{AccessFlags, QpType};
use proptest::prelude::*;

use crate::host::{Process, DEPTH, HOSTS, MEMORY, PROCESSES};
use crate::network::Conditions;
use crate::plan::{all_rights, Kinds, Pick, Plan, Range, Send, Step};

fn pick() -> impl Strategy<Value = Pick> {
    any::<u8>().prop_map(Pick)
}

fn range() -> impl Strategy<Value = Range> {
    (0..MEMORY as u64 - 64, 0_u32..64).prop_map(|(addr, length)| Range { addr, length })
}

fn access() -> impl Strategy<Value = AccessFlags> {
    let consistent = |bits: u32| {
        let access = AccessFlags::try_from(bits).unwrap();
        access.is_consistent().then_some(access)
    };
    prop_oneof![
        4 => Just(all_rights()),
        1 => (0_u32..32).prop_filter_map("inconsistent", consistent),
    ]
}

fn send() -> impl Strategy<Value = Send> {
    let kind = prop_oneof![
        3 => Just(Kinds::Send),
        1 => Just(Kinds::SendInvalidate),
        3 => Just(Kinds::Write),
        2 => Just(Kinds::WriteImm),
        3 => Just(Kinds::Read),
        2 => Just(Kinds::FetchAdd),
        4 => Just(Kinds::Bind),
        1 => Just(Kinds::Invalidate),
    ];
    let keys = (pick(), pick());
    let to = (pick(), prop::bool::weighted(0.2));
    (kind, any::<bool>(), range(), keys, 0..600_u64, to).prop_map(
        |(kind, signaled, range, (own, other), addr, (to, to_group))| Send {
            kind,
            signaled,
            own,
            range,
            other,
            addr,
            to,
            to_group,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let process = (0..HOSTS, 0..PROCESSES).prop_map(|(host, number)| Process { host, number });
    let large = (0_u64..64, 512_u32..900).prop_map(|(addr, length)| Range { addr, length });
    let index = pick;
    let qp_type = prop_oneof![Just(QpType::Rc), Just(QpType::Uc), Just(QpType::Ud)];
    prop_oneof![
        4 => (process.clone(), prop_oneof![3 => large, 1 => range()], access())
            .prop_map(|(of, range, access)| Step::Register { of, range, access }),
        2 => (process.clone(), index()).prop_map(|(of, key)| Step::Deregister { of, key }),
        2 => (process.clone(), any::<bool>())
            .prop_map(|(of, belongs_to_qp)| Step::AllocateWindow { of, belongs_to_qp }),
        2 => (process.clone(), qp_type, any::<bool>())
            .prop_map(|(of, qp_type, has_srq)| Step::Create { of, qp_type, has_srq }),
        4 => (index(), index()).prop_map(|(one, other)| Step::Connect(one, other)),
        2 => index().prop_map(Step::Drain),
        4 => index().prop_map(Step::Resume),
        2 => (process.clone(), 0..=DEPTH).prop_map(|(of, limit)| Step::Limit(of, limit)),
        1 => index().prop_map(Step::Attach),
        1 => index().prop_map(Step::Detach),
        1 => index().prop_map(Step::Reset),
        1 => index().prop_map(Step::Flush),
        1 => index().prop_map(Step::Destroy),
        1 => process.prop_map(Step::Die),
        24 => (index(), index(), range())
            .prop_map(|(qp, key, range)| Step::Receive { qp, key, range }),
        48 => (index(), send()).prop_map(|(qp, send)| Step::Send { qp, send }),
        32 => index().prop_map(Step::Run),
    ]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let bad = (0_u32..30, 0_u32..20, 0_u32..30, 0_u32..20).prop_map(
        |(drop, duplicate, reorder, keep)| Conditions {
            drop,
            duplicate,
            reorder,
            keep,
        },
    );
    let good = Conditions {
        drop: 0,
        duplicate: 0,
        reorder: 0,
        keep: 0,
    };
    prop_oneof![1 => Just(good), 3 => bad]
}

pub fn plan() -> impl Strategy<Value = Plan> {
    (
        conditions(),
        any::<u64>(),
        prop::collection::vec(step(), 1..160),
    )
        .prop_map(|(conditions, seed, steps)| Plan {
            conditions,
            seed,
            steps,
        })
}
