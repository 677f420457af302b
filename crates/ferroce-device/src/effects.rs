// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a change of a queue pair's state leads to, and in which order it is done.
//!
//! [`Attrs`](crate::attrs::Attrs) changes the state, under the host's lock, and returns a set of effects. The
//! host carries them out when it has released the lock, in the order in which they come out of the set:
//! each of them relies on those before it.

use crate::verbs::EventType;

/// Something that the host does for a queue pair whose state has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An asynchronous event is raised.
    Event(EventType),
    /// A connection to another host takes over the attributes: what comes by it from here on finds the
    /// state of now.
    Configure,
    /// The caller waits for all who have found the queue pair in the state of before, and write to its
    /// memory or use its receives.
    WaitForPeers,
    /// Both queues are emptied without completions, and what is known of the peer is forgotten (IBTA 10.3.1,
    /// Reset). Completions that nobody has polled are no one's any more.
    Reset,
    /// The receive that a message by the wire is in the middle of completes as flushed.
    FlushHeldReceive,
    /// All posted receives complete as flushed, but not those of a shared receive queue (IBTA 10.2.9).
    FlushReceives,
    /// What a peer on another host sends finds a responder.
    Respond,
    /// The send queue is executed as far as its state says: requests are sent, or flushed. A Modify QP
    /// returns after that; who may not wait has a thread do it.
    Execute,
}

/// A set of [`Effect`]s, in their order. In [numbers](Self::bits) several of them can be joined, for another
/// process to carry out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the state has changed: this is what it leads to"]
pub struct Effects(u32);

/// All effects, in the order in which they are carried out; an effect's place is its bit.
///
/// - Why something happened is told before what follows from it.
/// - Nobody uses the queue pair in its former state when it is reset, or when its receives are flushed: a
///   message that has taken one completes it before.
/// - The receive that is in use is older than those that are posted.
/// - After the event that the last receive is taken, nothing is taken from the shared receive queue (IBTA
///   11.6.3.2, C11-45): a receive is taken only when its message is delivered, so none is under way.
/// - Requests are flushed after receives: that may take a while.
const ORDER: [Effect; 13] = [
    Effect::Event(EventType::QpFatal),
    Effect::Event(EventType::QpReqErr),
    Effect::Event(EventType::QpAccessErr),
    Effect::Event(EventType::CommEst),
    Effect::Event(EventType::SqDrained),
    Effect::Configure,
    Effect::WaitForPeers,
    Effect::Reset,
    Effect::FlushHeldReceive,
    Effect::FlushReceives,
    Effect::Event(EventType::QpLastWqeReached),
    Effect::Respond,
    Effect::Execute,
];

impl Effect {
    const fn bit(self) -> u32 {
        1 << match self {
            Self::Event(EventType::QpFatal) => 0,
            Self::Event(EventType::QpReqErr) => 1,
            Self::Event(EventType::QpAccessErr) => 2,
            Self::Event(EventType::CommEst) => 3,
            Self::Event(EventType::SqDrained) => 4,
            Self::Configure => 5,
            Self::WaitForPeers => 6,
            Self::Reset => 7,
            Self::FlushHeldReceive => 8,
            Self::FlushReceives => 9,
            Self::Event(EventType::QpLastWqeReached) => 10,
            Self::Respond => 11,
            Self::Execute => 12,
            // None of a queue pair's.
            Self::Event(_) => return 0,
        }
    }
}

impl Effects {
    /// None.
    pub const NONE: Self = Self(0);

    /// One.
    pub const fn of(effect: Effect) -> Self {
        Self(effect.bit())
    }

    /// One more.
    pub const fn and(self, effect: Effect) -> Self {
        Self(self.0 | effect.bit())
    }

    /// These, if `is_so`.
    pub const fn only_if(self, is_so: bool) -> Self {
        match is_so {
            true => self,
            false => Self::NONE,
        }
    }

    /// All but one, which somebody else sees to.
    pub const fn without(self, effect: Effect) -> Self {
        Self(self.0 & !effect.bit())
    }

    /// These and others.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of them is there.
    pub const fn has(self, effect: Effect) -> bool {
        self.0 & effect.bit() != 0
    }

    /// The events that a queue pair can have.
    pub fn events() -> impl Iterator<Item = EventType> {
        ORDER.into_iter().filter_map(|effect| match effect {
            Effect::Event(event) => Some(event),
            _ => None,
        })
    }

    /// As a number.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// From [bits](Self::bits) that somebody else has left, and that may be anything: those of what only a
    /// call of the owner's does are left out.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & ((1 << ORDER.len()) - 1))
            .without(Effect::Configure)
            .without(Effect::WaitForPeers)
            .without(Effect::Reset)
            .without(Effect::Respond)
    }
}

impl IntoIterator for Effects {
    type Item = Effect;
    type IntoIter = InOrder;

    fn into_iter(self) -> InOrder {
        InOrder(self)
    }
}

/// The effects that are left to be carried out.
#[derive(Clone, Debug)]
pub struct InOrder(Effects);

impl Iterator for InOrder {
    type Item = Effect;

    fn next(&mut self) -> Option<Effect> {
        let effect = *ORDER.get(self.0 .0.trailing_zeros() as usize)?;
        self.0 = self.0.without(effect);
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::{Attrs, QpKind};
    use crate::verbs::{QpState, QpType};

    const RC: QpKind = QpKind {
        qp_type: QpType::Rc,
        has_srq: true,
    };

    fn ready() -> Attrs {
        let mut attrs = Attrs::new();
        attrs.attr.state = QpState::Rts;
        attrs
    }

    #[test]
    fn a_queue_pair_fails_once() {
        let mut attrs = ready();
        let effects = attrs.fail_receive(RC, Some(EventType::QpReqErr));
        assert!(effects.into_iter().eq([
            Effect::Event(EventType::QpReqErr),
            Effect::FlushReceives,
            Effect::Event(EventType::QpLastWqeReached),
            Effect::Execute,
        ]));
        assert!(attrs.fail_receive(RC, None).is_empty());
        assert!(attrs.fail_send(RC).is_empty());
        assert!(attrs.fail_fatally(RC).is_empty());
        let (mut unreliable, uc) = (ready(), QpType::Uc);
        let effects = unreliable.fail_send(QpKind { qp_type: uc, ..RC });
        assert!(effects.into_iter().eq([Effect::Execute]), "to SQE");
    }

    #[test]
    fn effects_come_out_in_their_order() {
        let all = ORDER.into_iter().rev().fold(Effects::NONE, Effects::and);
        assert!(all.into_iter().eq(ORDER));
        let failing = [
            Attrs::new().fail_receive(RC, Some(EventType::QpReqErr)),
            ready().fail_receive(RC, Some(EventType::QpAccessErr)),
            ready().fail_send(RC),
            ready().fail_fatally(RC),
        ];
        for effects in failing {
            assert_eq!(Effects::from_bits(effects.bits()), effects);
        }
        assert!(!Effects::from_bits(u32::MAX).has(Effect::Reset));
        for effect in ORDER {
            let one = Effects::of(effect);
            assert!(one.into_iter().eq([effect]));
            assert!(!all.without(effect).has(effect));
        }
        assert!(Effects::NONE.is_empty());
        assert!(Effects::of(Effect::Event(EventType::SqDrained)) == Effects::of(ORDER[4]));
        assert!(Effects::of(Effect::Event(EventType::PortActive)).is_empty());
    }
}
