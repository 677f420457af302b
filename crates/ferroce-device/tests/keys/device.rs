// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that has keys alone. What succeeds and what does not is all that is told of it.

use std::cell::RefCell;
use std::rc::Rc;

use ferroce_core::ring::{BindMw, RegMr};
use ferroce_core::verbs::AccessFlags;
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::numbers::{Config, Full, Numbers, Reserved, Slot, Slots};
use ferroce_device::region::{Change, Part, Region};
use ferroce_device::window::{Bind, Bound, Kind, Window};

/// How many keys there are.
pub const COUNT: u32 = 12;
/// How many others are reserved before a number is used again.
pub const REUSE_AFTER: u32 = 4;
/// What is added to the variant of a number.
pub const STEP: u8 = 5;

const CONFIG: Config = Config {
    first: 0,
    count: COUNT,
    start: 7,
    reuse_after: REUSE_AFTER,
    step: STEP,
};

type SharedRegion = Rc<RefCell<Region>>;

#[derive(Clone)]
enum Named {
    Region(SharedRegion),
    Window(Rc<RefCell<Window<SharedRegion>>>),
}

#[derive(Default)]
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

pub struct Device {
    keys: Numbers<Named, Segments>,
}

impl Device {
    pub fn new() -> Self {
        Self {
            keys: Numbers::new(Segments::default(), CONFIG),
        }
    }

    /// Reserves a number. `None` if all are in use.
    pub fn reserve(&mut self) -> Option<Reserved> {
        loop {
            match self.keys.reserve() {
                Ok(reserved) => return Some(reserved),
                Err(Full::Numbers) => return None,
                Err(Full::Slots(count)) => {
                    assert!(count < COUNT);
                    let slots = self.keys.slots_mut();
                    assert_eq!(slots.count(), count);
                    slots.0.push(Slot::Unused);
                }
            }
        }
    }

    fn put(&mut self, key: u32, named: Named) {
        assert!(self.keys.put(key::number(key), named).is_none());
    }

    fn region(&self, key: u32) -> Option<SharedRegion> {
        match self.keys.get(key::number(key))? {
            Named::Region(region) => Some(region.clone()),
            Named::Window(_) => None,
        }
    }

    fn window(&self, key: u32) -> Option<Rc<RefCell<Window<SharedRegion>>>> {
        match self.keys.get(key::number(key))? {
            Named::Window(window) => Some(window.clone()),
            Named::Region(_) => None,
        }
    }

    pub fn register(&mut self, key: u32, pd: PdId, access: AccessFlags, start: u64, length: u64) {
        let region = Region::registered(key, pd, access, start, length);
        self.put(key, Named::Region(Rc::new(RefCell::new(region))));
    }

    pub fn allocate_region(&mut self, key: u32, pd: PdId) {
        let region = Region::free(key, pd);
        self.put(key, Named::Region(Rc::new(RefCell::new(region))));
    }

    pub fn allocate_window(&mut self, key: u32, pd: PdId, kind: Kind) {
        let window = Window::new(kind, pd, key);
        self.put(key, Named::Window(Rc::new(RefCell::new(window))));
    }

    pub fn register_memory(
        &self,
        pd: PdId,
        request: &RegMr,
        range: (u64, u64),
        offset: u64,
    ) -> bool {
        let region = self.region(key::new(request.mr, 0));
        region.is_some_and(|region| {
            let mut region = region.borrow_mut();
            region.register(pd, request, range, offset).is_ok()
        })
    }

    pub fn begin_invalidate(&self, pd: PdId, key: u32) -> bool {
        let region = self.region(key);
        region.is_some_and(|region| region.borrow_mut().begin_invalidate(pd, key).is_ok())
    }

    pub fn end_invalidate(&self, key: u32) {
        if let Some(region) = self.region(key) {
            region.borrow_mut().end_invalidate();
        }
    }

    pub fn reregister(&self, key: u32, change: &Change) -> bool {
        let region = self.region(key);
        region.is_some_and(|region| region.borrow_mut().reregister(change).is_ok())
    }

    pub fn destroy(&mut self, key: u32) -> bool {
        let (key, unbound) = match (self.region(key), self.window(key)) {
            (Some(region), _) => {
                let mut region = region.borrow_mut();
                if region.deregister().is_err() {
                    return false;
                }
                (region.key(), None)
            }
            (_, Some(window)) => {
                let mut window = window.borrow_mut();
                (window.key(), window.deallocate())
            }
            (None, None) => return false,
        };
        if let Some(unbound) = unbound {
            unbound.region.borrow_mut().unbind();
        }
        let (number, variant) = (key::number(key), key::variant(key));
        self.keys.give_up(number, variant).is_some()
    }

    pub fn bind(&self, pd: PdId, qpn: u32, request: &BindMw) -> bool {
        let Some(window) = self.window(request.mw_rkey) else {
            return false;
        };
        let checked = window.borrow().check_bind(pd, request);
        let bound = match checked {
            Err(_) => return false,
            Ok(Bind::Nothing) => None,
            Ok(Bind::To(lkey)) => {
                let Some(region) = self.region(lkey) else {
                    return false;
                };
                if region.borrow_mut().bind(pd, &Part::from(request)).is_err() {
                    return false;
                }
                Some(Bound::new(region, request, qpn))
            }
        };
        let (result, unbound) = window.borrow_mut().bind(request, bound);
        if let Some(unbound) = unbound {
            unbound.region.borrow_mut().unbind();
        }
        result.is_ok()
    }

    pub fn invalidate_window(&self, key: u32, qpn: u32) -> bool {
        let Some(window) = self.window(key) else {
            return false;
        };
        let unbound = window.borrow_mut().invalidate(key, qpn);
        if let Ok(Some(unbound)) = &unbound {
            unbound.region.borrow_mut().unbind();
        }
        unbound.is_ok()
    }

    pub fn check_key(&self, access: &Access) -> bool {
        match self.keys.get(key::number(access.key)) {
            Some(Named::Region(region)) => region.borrow().check_key(access).is_ok(),
            Some(Named::Window(window)) => window.borrow().check_key(access).is_ok(),
            None => false,
        }
    }

    /// Where an access begins in the memory behind the region, if it is allowed.
    pub fn check(&self, access: &Access) -> Option<u64> {
        match self.keys.get(key::number(access.key))? {
            Named::Region(region) => region.borrow().check(access).ok(),
            Named::Window(window) => {
                let window = window.borrow();
                let (region, addr) = window.check(access).ok()?;
                region.borrow().offset_of(addr, access.length).ok()
            }
        }
    }

    /// How many windows are bound to a region.
    pub fn windows(&self, key: u32) -> Option<u32> {
        Some(self.region(key)?.borrow().windows())
    }
}
