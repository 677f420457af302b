// SPDX-License-Identifier: MIT OR Apache-2.0
//! What queue pairs of a host share: memory, the keys that name it, shared receive queues, and a multicast
//! group.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ferroce_core::local::AccessError;
use ferroce_core::ring::{BindMw, PostError, Poster, RecvQueue, RecvRequest, Sge, WqGeometry};
use ferroce_core::verbs::AccessFlags;
use ferroce_device::groups::{self, Attach, Member};
use ferroce_device::key::{self, PdId};
use ferroce_device::numbers::{Config, Numbers, Slot, Slots};
use ferroce_device::receive::ReceiveQueue;
use ferroce_device::region::{Part, Region};
use ferroce_device::shared_receive_queue::SharedReceiveQueue;
use ferroce_device::window::{Bind, Bound, Kind, Window};

use crate::rings::Memory;

/// Entries of each work queue.
pub const DEPTH: u32 = 4;
/// Bytes of memory that a host has for regions.
pub const MEMORY: usize = 1024;
/// How many hosts there are, and how many processes each has.
pub const HOSTS: usize = 2;
pub const PROCESSES: usize = 2;

pub type Bytes = Box<[u8]>;

/// What a key names.
#[derive(Clone)]
pub enum Named {
    Region(Rc<Registered>),
    Window(Rc<RefCell<Window<Rc<Registered>>>>),
}

/// A region, and where in the host's memory it begins.
pub struct Registered {
    pub region: RefCell<Region>,
    pub start: usize,
}

struct Segments(Vec<Slot<Named>>);

impl Slots<Named> for Segments {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn get(&self, index: u32) -> Option<&Slot<Named>> {
        self.0.get(index as usize)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<Named>> {
        self.0.get_mut(index as usize)
    }
}

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub host: usize,
    pub number: usize,
}

impl Process {
    /// Its protection domain.
    pub fn pd(self) -> PdId {
        PdId::new(self.number as u64 + 1)
    }
}

/// A shared receive queue, with its process's side of the ring.
pub struct Srq {
    queue: RefCell<(Poster<RecvQueue>, SharedReceiveQueue<Bytes>)>,
    /// How often its limit was reached.
    pub limits: Cell<usize>,
    /// Freed after the queue.
    _ring: Memory,
}

impl Srq {
    fn new() -> Rc<Self> {
        let size = WqGeometry::<RecvQueue>::new(DEPTH, 1).unwrap();
        let ring = Memory::new(size.len());
        let queue = SharedReceiveQueue::new(ReceiveQueue::new(ring.queue(size)), 0);
        Rc::new(Self {
            queue: RefCell::new((ring.poster(size), queue)),
            limits: Cell::new(0),
            _ring: ring,
        })
    }

    pub fn post(&self, wr_id: u64, sge: Sge) -> Result<(), PostError> {
        let (poster, _) = &mut *self.queue.borrow_mut();
        poster.push(&RecvRequest { wr_id }, &[sge])?;
        let _ = poster.publish();
        Ok(())
    }

    /// Uses the device's side. `op` says whether the event of the limit is due.
    pub fn with<R>(&self, op: impl FnOnce(&mut SharedReceiveQueue<Bytes>) -> (R, bool)) -> R {
        let (result, is_due) = op(&mut self.queue.borrow_mut().1);
        self.limits.set(self.limits.get() + usize::from(is_due));
        result
    }
}

pub struct Host {
    pub memory: Rc<RefCell<Vec<u8>>>,
    keys: RefCell<Numbers<Named, Segments>>,
    /// By process.
    srqs: RefCell<[Rc<Srq>; PROCESSES]>,
    /// Who is in the one group that there is, and how often.
    members: RefCell<Vec<(u32, usize)>>,
}

impl Host {
    pub fn new() -> Self {
        let config = Config {
            first: 0,
            count: 64,
            start: 7,
            reuse_after: 16,
            step: 1,
        };
        let slots = Segments((0..64).map(|_| Slot::Unused).collect());
        Self {
            memory: Rc::new(RefCell::new(vec![0; MEMORY])),
            keys: RefCell::new(Numbers::new(slots, config)),
            srqs: RefCell::new(std::array::from_fn(|_| Srq::new())),
            members: RefCell::default(),
        }
    }

    fn reserve_key(&self) -> u32 {
        let reserved = self.keys.borrow_mut().reserve().unwrap();
        key::new(reserved.number, reserved.variant.unwrap_or(0))
    }

    fn put(&self, key: u32, named: Named) {
        self.keys.borrow_mut().put(key::number(key), named);
    }

    pub fn named(&self, key: u32) -> Option<Named> {
        self.keys.borrow().get(key::number(key)).cloned()
    }

    fn give_up(&self, key: u32) {
        let (number, variant) = (key::number(key), key::variant(key));
        self.keys.borrow_mut().give_up(number, variant);
    }

    /// Registers bytes of the memory, whose addresses are their places.
    pub fn register(&self, of: Process, addr: u64, length: u64, access: AccessFlags) -> u32 {
        let key = self.reserve_key();
        let region = Region::registered(key, of.pd(), access, addr, length);
        let registered = Registered {
            region: RefCell::new(region),
            start: addr as usize,
        };
        self.put(key, Named::Region(Rc::new(registered)));
        key
    }

    /// Returns whether the region is gone: it is not if windows are bound to it.
    pub fn deregister(&self, key: u32) -> bool {
        let Some(Named::Region(region)) = self.named(key) else {
            return false;
        };
        // Not another region that has the number by now.
        let is_gone = {
            let mut region = region.region.borrow_mut();
            region.key() == key && region.deregister().is_ok()
        };
        if is_gone {
            self.give_up(key);
        }
        is_gone
    }

    pub fn allocate_window(&self, of: Process, kind: Kind) -> u32 {
        let key = self.reserve_key();
        let window = Window::new(kind, of.pd(), key);
        self.put(key, Named::Window(Rc::new(RefCell::new(window))));
        key
    }

    /// By its number, as its key changes.
    pub fn deallocate_window(&self, number: u32) {
        let Some(Named::Window(window)) = self.named(key::new(number, 0)) else {
            panic!("no window {number}");
        };
        let bound = window.borrow_mut().deallocate();
        unbind(bound);
        let key = window.borrow().key();
        self.give_up(key);
    }

    /// Binds a window for a queue pair.
    pub fn bind(&self, pd: PdId, qpn: u32, request: &BindMw) -> Result<(), AccessError> {
        let Some(Named::Window(window)) = self.named(request.mw_rkey) else {
            return Err(AccessError);
        };
        let bind = window.borrow().check_bind(pd, request)?;
        let bound = match bind {
            Bind::Nothing => None,
            Bind::To(lkey) => {
                let Some(Named::Region(region)) = self.named(lkey) else {
                    return Err(AccessError);
                };
                region.region.borrow_mut().bind(pd, &Part::from(request))?;
                Some(Bound::new(region, request, qpn))
            }
        };
        let (result, unbound) = window.borrow_mut().bind(request, bound);
        unbind(unbound);
        result
    }

    /// Whether nothing is registered, no memory is in use, and nobody is in the group.
    pub fn is_empty(&self) -> bool {
        let keys = self.keys.borrow();
        let has_none = (0..64).all(|number| keys.get(number).is_none());
        let is_unused = Rc::strong_count(&self.memory) == 1;
        has_none && is_unused && self.members.borrow().is_empty()
    }

    /// The shared receive queue of a process.
    pub fn srq(&self, process: usize) -> Rc<Srq> {
        self.srqs.borrow()[process].clone()
    }

    /// Another shared receive queue takes the place of that of a process.
    pub fn renew_srq(&self, process: usize) {
        self.srqs.borrow_mut()[process] = Srq::new();
    }

    /// Adds a queue pair to the group.
    pub fn attach(&self, qpn: u32) {
        let member = |qpn| Member {
            group: (),
            qpn,
            owner: None::<u32>,
        };
        let mut members = self.members.borrow_mut();
        let all = members.iter().map(|(other, _)| member(*other));
        match groups::attach(all, &member(qpn)).unwrap() {
            Attach::Again(at) => members[at].1 += 1,
            Attach::New => members.push((qpn, 1)),
            Attach::Exceeds => panic!("no user is known"),
        }
    }

    /// Takes a queue pair out of the group, as often as it is in it.
    pub fn detach_all(&self, qpn: u32) {
        self.members.borrow_mut().retain(|(other, _)| *other != qpn);
    }

    /// The members of the group.
    pub fn members(&self) -> Vec<u32> {
        self.members.borrow().iter().map(|(qpn, _)| *qpn).collect()
    }
}

pub fn unbind(bound: Option<Bound<Rc<Registered>>>) {
    if let Some(bound) = bound {
        bound.region.region.borrow_mut().unbind();
    }
}
