// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory windows: a part of a region that a peer may reach for a while (IBTA 10.6.7).

use crate::key::{self, Access, PdId};
use crate::local::AccessError;
use crate::region::{halves, whole, Part};
use crate::ring::BindMw;
use crate::verbs::AccessFlags;

/// The types of windows (IBTA 10.6.7.1; `enum ib_mw_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Belongs to a protection domain.
    Type1,
    /// Belongs to the queue pair that bound it (type 2B).
    Type2,
}

/// A window. `R` is how the host refers to a region that a window is bound to.
#[derive(Debug)]
pub struct Window<R> {
    kind: Kind,
    pd: PdId,
    key: u32,
    bound: Option<Bound<R>>,
    /// It is being deallocated.
    is_gone: bool,
}

/// What a window is bound to. The region [counts](crate::region::Region::bind) it.
#[derive(Debug)]
pub struct Bound<R> {
    /// The region.
    pub region: R,
    addr: u64,
    length: u64,
    access: AccessFlags,
    qpn: u32,
}

impl<R> Bound<R> {
    /// As a work request of a queue pair asks.
    pub const fn new(region: R, request: &BindMw, qpn: u32) -> Self {
        Self {
            region,
            addr: request.addr,
            length: request.length,
            access: request.access,
            qpn,
        }
    }

    /// What a peer calls the first byte.
    fn start(&self) -> u64 {
        match self.access.contains(AccessFlags::ZERO_BASED) {
            true => 0,
            false => self.addr,
        }
    }
}

/// What a bind does to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// It is bound to a part of the region with this local key, if that [allows](crate::region::Region::bind)
    /// it.
    To(u32),
    /// It is not bound to anything afterwards.
    Nothing,
}

impl<R> Window<R> {
    /// A window that is not bound.
    pub const fn new(kind: Kind, pd: PdId, key: u32) -> Self {
        Self {
            kind,
            pd,
            key,
            bound: None,
            is_gone: false,
        }
    }

    /// Its key.
    pub const fn key(&self) -> u32 {
        self.key
    }

    /// The region that it is bound to.
    pub fn region(&self) -> Option<&R> {
        self.bound.as_ref().map(|bound| &bound.region)
    }

    /// Checks a request to bind the window (IBTA 10.6.7.2, 11.4.1.1), of a queue pair of that protection
    /// domain. Says what the window is to be bound to.
    pub fn check_bind(&self, pd: PdId, request: &BindMw) -> Result<Bind, AccessError> {
        if self.pd != pd {
            return Err(AccessError);
        }
        // What only one of the types can do: be unbound by this (IBTA 11.4.1.1; the other is invalidated),
        // and begin at zero (o10-36.2.2, as rdma_rxe quotes it).
        match self.kind {
            Kind::Type1 if request.length == 0 => Ok(Bind::Nothing),
            Kind::Type1 if request.access.contains(AccessFlags::ZERO_BASED) => Err(AccessError),
            Kind::Type2 if request.length == 0 => Err(AccessError),
            _ => Ok(Bind::To(request.mr_lkey)),
        }
    }

    /// Binds the window, if it still has the key that the request has it have, and may be bound. Returns
    /// what is to be [unbound](crate::region::Region::unbind) too: what it was bound to before, or what it
    /// could not be bound to.
    pub fn bind(
        &mut self,
        request: &BindMw,
        bound: Option<Bound<R>>,
    ) -> (Result<(), AccessError>, Option<Bound<R>>) {
        // One of type 2 is invalidated first (o10-37.2.30, as rdma_rxe quotes it).
        let is_invalid = self.kind == Kind::Type1 || self.bound.is_none();
        if self.is_gone || self.key != request.mw_rkey || !is_invalid {
            return (Err(AccessError), bound);
        }
        self.key = key::new(key::number(self.key), key::variant(request.new_rkey));
        (Ok(()), core::mem::replace(&mut self.bound, bound))
    }

    /// Whether its key allows an access, wherever in the window (IBTA 10.6.7.2).
    pub fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        self.bound(access).map(|_| ())
    }

    /// Checks an access. Returns the region, and the first byte as that one numbers it.
    pub fn check(&self, access: &Access) -> Result<(&R, u64), AccessError> {
        let bound = self.bound(access)?;
        let offset = key::offset(
            access.addr,
            access.length.into(),
            bound.start(),
            bound.length,
        )?;
        // Within the region, as was checked when it was bound.
        let addr = bound.addr.checked_add(offset).ok_or(AccessError)?;
        Ok((&bound.region, addr))
    }

    fn bound(&self, access: &Access) -> Result<&Bound<R>, AccessError> {
        let bound = self.bound.as_ref().ok_or(AccessError)?;
        let is_owner = self.kind == Kind::Type1 || bound.qpn == access.qpn;
        let is_allowed = self.key == access.key
            && self.pd == access.pd
            && is_owner
            && bound.access.contains(access.rights);
        is_allowed.then_some(bound).ok_or(AccessError)
    }

    /// Ends the access by its key, as the queue pair that bound it asks, or that one's peer (IBTA
    /// 10.6.7.2.6). Only a window of type 2 knows this. Returns what is to be
    /// [unbound](crate::region::Region::unbind).
    pub fn invalidate(&mut self, key: u32, qpn: u32) -> Result<Option<Bound<R>>, AccessError> {
        let is_owner = self.bound.as_ref().is_some_and(|bound| bound.qpn == qpn);
        if self.kind != Kind::Type2 || self.key != key || !is_owner {
            return Err(AccessError);
        }
        Ok(self.bound.take())
    }

    /// Deallocates the window: it cannot be bound any more. Returns what is to be
    /// [unbound](crate::region::Region::unbind).
    pub fn deallocate(&mut self) -> Option<Bound<R>> {
        self.is_gone = true;
        self.bound.take()
    }
}

/// How many [words](Window::words) a window has.
pub const WORDS: usize = 11;

impl<R> Window<R> {
    /// As plain numbers, for others to look at. `key` says which number there is of the region.
    pub fn words(&self, key: impl FnOnce(&R) -> u32) -> [u32; WORDS] {
        let pd = halves(self.pd.number());
        let mut words = [0; WORDS];
        words[0] = match self.kind {
            Kind::Type1 => 1,
            Kind::Type2 => 2,
        } | u32::from(self.is_gone) << 2
            | u32::from(self.bound.is_some()) << 3;
        words[1..4].copy_from_slice(&[self.key, pd[0], pd[1]]);
        if let Some(bound) = &self.bound {
            let (addr, length) = (halves(bound.addr), halves(bound.length));
            words[4..].copy_from_slice(&[
                key(&bound.region),
                addr[0],
                addr[1],
                length[0],
                length[1],
                bound.access.bits(),
                bound.qpn,
            ]);
        }
        words
    }
}

impl Window<u32> {
    /// From [words](Self::words) that may be anything.
    pub fn from_words(words: &[u32; WORDS]) -> Self {
        let [bits, key, pd0, pd1, region, addr0, addr1, length0, length1, access, qpn] = *words;
        let bound = Bound {
            region,
            addr: whole([addr0, addr1]),
            length: whole([length0, length1]),
            access: AccessFlags::from_bits_truncate(access),
            qpn,
        };
        Self {
            kind: match bits & 3 {
                1 => Kind::Type1,
                _ => Kind::Type2,
            },
            pd: PdId::new(whole([pd0, pd1])),
            key,
            bound: (bits >> 3 & 1 != 0).then_some(bound),
            is_gone: bits >> 2 & 1 != 0,
        }
    }
}

/// The part of a region that a request wants for a window.
impl From<&BindMw> for Part {
    fn from(request: &BindMw) -> Self {
        Self {
            lkey: request.mr_lkey,
            addr: request.addr,
            length: request.length,
            access: request.access,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Remote;

    const PD: PdId = PdId::new(7);
    const KEY: u32 = key::new(5, 3);
    const REQUEST: BindMw = BindMw {
        addr: 0x1000,
        length: 0x100,
        mr_lkey: key::new(9, 0),
        mw_rkey: KEY,
        new_rkey: 0x44,
        access: AccessFlags::REMOTE_READ,
    };
    const QPN: u32 = 17;

    fn access(key: u32, qpn: u32, addr: u64, length: u32) -> Access {
        let remote = Remote { addr, rkey: key };
        Access::remote(PD, qpn, remote, length, AccessFlags::REMOTE_READ)
    }

    fn bound(kind: Kind, request: &BindMw) -> Window<&'static str> {
        let mut window = Window::new(kind, PD, KEY);
        let (result, before) = window.bind(request, Some(Bound::new("region", request, QPN)));
        assert_eq!(result, Ok(()));
        assert!(before.is_none());
        window
    }

    #[test]
    fn a_bind_changes_the_owners_part_of_the_key() {
        let window = bound(Kind::Type2, &REQUEST);
        assert_eq!(window.key(), key::new(5, 0x44));
        assert!(window.check(&access(KEY, QPN, 0x1000, 1)).is_err());
        let (region, addr) = window.check(&access(window.key(), QPN, 0x10ff, 1)).unwrap();
        assert_eq!((*region, addr), ("region", 0x10ff));
        for (addr, length) in [(0xfff, 1), (0x1100, 1), (0x1000, 0x101), (u64::MAX, 2)] {
            assert!(window
                .check(&access(window.key(), QPN, addr, length))
                .is_err());
        }
    }

    #[test]
    fn a_window_of_type_2_is_its_queue_pairs_alone() {
        for (kind, reaches) in [(Kind::Type1, true), (Kind::Type2, false)] {
            let window = bound(kind, &REQUEST);
            let other = access(window.key(), QPN + 1, 0x1000, 1);
            assert_eq!(window.check(&other).is_ok(), reaches);
            assert_eq!(window.check_key(&other).is_ok(), reaches);
        }
    }

    #[test]
    fn each_type_ends_in_its_own_way() {
        let unbind = BindMw {
            length: 0,
            ..REQUEST
        };
        let mut first = bound(Kind::Type1, &REQUEST);
        assert!(first.invalidate(first.key(), QPN).is_err());
        assert_eq!(first.check_bind(PD, &unbind), Ok(Bind::Nothing));
        let again = BindMw {
            mw_rkey: first.key(),
            ..unbind
        };
        let (result, before) = first.bind(&again, None);
        assert_eq!(result, Ok(()));
        assert_eq!(before.unwrap().region, "region");

        let mut second = bound(Kind::Type2, &REQUEST);
        assert_eq!(second.check_bind(PD, &unbind), Err(AccessError));
        let again = BindMw {
            mw_rkey: second.key(),
            ..REQUEST
        };
        let (result, left) = second.bind(&again, Some(Bound::new("other", &again, QPN)));
        assert_eq!(result, Err(AccessError));
        assert_eq!(left.unwrap().region, "other");
        assert!(second.invalidate(second.key(), QPN + 1).is_err());
        assert!(second.invalidate(second.key(), QPN).unwrap().is_some());
        assert!(second.invalidate(second.key(), QPN).is_err());
        let (result, _) = second.bind(&again, Some(Bound::new("other", &again, QPN)));
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn only_a_window_of_type_2_begins_at_zero() {
        let request = BindMw {
            access: REQUEST.access.union(AccessFlags::ZERO_BASED),
            ..REQUEST
        };
        let first = Window::<()>::new(Kind::Type1, PD, KEY);
        assert_eq!(first.check_bind(PD, &request), Err(AccessError));
        let second = bound(Kind::Type2, &request);
        assert_eq!(
            second.check_bind(PD, &request),
            Ok(Bind::To(REQUEST.mr_lkey))
        );
        let (_, addr) = second.check(&access(second.key(), QPN, 0x20, 1)).unwrap();
        assert_eq!(addr, 0x1020);
    }

    #[test]
    fn a_window_that_goes_is_not_bound_any_more() {
        let mut window = bound(Kind::Type1, &REQUEST);
        assert!(window.deallocate().is_some());
        let again = BindMw {
            mw_rkey: window.key(),
            ..REQUEST
        };
        let (result, left) = window.bind(&again, Some(Bound::new("late", &again, QPN)));
        assert_eq!(result, Err(AccessError));
        assert!(left.is_some());
        assert!(window
            .check_key(&access(window.key(), QPN, 0x1000, 1))
            .is_err());
    }

    #[test]
    fn a_request_of_another_domain_is_refused() {
        let window = Window::<()>::new(Kind::Type1, PD, KEY);
        assert_eq!(window.check_bind(PdId::new(8), &REQUEST), Err(AccessError));
    }
}
