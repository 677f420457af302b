// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers for objects: of queue pairs, keys, address handles.

/// Which numbers are in use, and what is at each.
///
/// A number is [reserved](Self::reserve) first, so that an object can know its own before it is
/// complete, and the object is [put](Self::put) there later. A number that was given up is not used
/// again before `reuse_after` other numbers were reserved: what is still sent to its former owner finds
/// nobody. Only where every number was used already is it used again earlier.
///
/// The first number is never reserved: it is for one object that everybody knows by it, or for none. Which
/// of the others comes first is a matter of `start`: a random one keeps the numbers of one device from
/// being those of another.
#[derive(Debug)]
pub struct Numbers<T, S> {
    slots: S,
    /// The slot of the first number.
    first_slot: Slot<T>,
    config: Config,
    /// How many slots were used at least once: those at the beginning.
    used: u32,
    /// The first and the last of the slots that were given up, in the order in which they were.
    free: Option<(u32, u32)>,
    /// How many numbers were reserved so far, modulo 2^32.
    reserved: u32,
}

// What is in a slot may be moved: nobody gets a pinned reference to it.
impl<T, S: Unpin> Unpin for Numbers<T, S> {}

/// The numbers of a table.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The first number.
    pub first: u32,
    /// How many numbers come after it.
    pub count: u32,
    /// Which of those, from zero on, is reserved first; below `count`.
    pub start: u32,
    /// How many other numbers are reserved before one is used again.
    pub reuse_after: u32,
    /// What is added to the variant of a number at each use: odd, so that all 256 come before one comes
    /// again.
    pub step: u8,
}

/// The [step](Config::step) that comes of a random byte: 4 n + 1, and far from going a few back. The owner of a
/// window changes the variant by one each time that it is bound, and those who come after are not to come to the
/// same key by that: of windows that are bound once each, 128 in a row do not.
pub const fn step(random: u8) -> u8 {
    (random & 0x7c) + 65
}

/// The memory of a table.
pub trait Slots<T> {
    /// How many slots there are. That may grow.
    fn count(&self) -> u32;

    /// One of them.
    fn get(&self, index: u32) -> Option<&Slot<T>>;

    /// One of them, to be changed.
    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>>;
}

/// The place of a number.
#[derive(Debug, Default)]
pub enum Slot<T> {
    /// It was never used.
    #[default]
    Unused,
    /// It was given up.
    Free {
        /// The slot that was given up after this one.
        next: Option<u32>,
        /// How many numbers had been reserved at the time, modulo 2^32.
        since: u32,
        /// The variant of the last use.
        variant: u8,
    },
    /// It is in use, and nothing is there.
    Reserved,
    /// It is in use.
    Taken(T),
}

/// A number that was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The number.
    pub number: u32,
    /// A byte that is another one at each use of the number, for a name that consists of both; `None` at
    /// the first use, for which any will do.
    pub variant: Option<u8>,
}

/// Why no number can be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are no slots left, of this many: with more there would be.
    Slots(u32),
    /// All numbers are in use.
    Numbers,
}

/// Where a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the place of the first number.
    First,
    /// In a slot.
    At(u32),
}

impl Config {
    /// The place of a number, which it has for good; `None` if it is none of these numbers.
    pub fn place(&self, number: u32) -> Option<Place> {
        let Some(after_first) = number.checked_sub(self.first)?.checked_sub(1) else {
            return Some(Place::First);
        };
        if after_first >= self.count {
            return None;
        }
        Some(Place::At(match after_first.checked_sub(self.start) {
            Some(index) => index,
            None => after_first + (self.count - self.start),
        }))
    }
}

impl<T, S: Slots<T>> Numbers<T, S> {
    /// A table in which all numbers are free.
    pub const fn new(slots: S, config: Config) -> Self {
        Self {
            slots,
            first_slot: Slot::Reserved,
            config,
            used: 0,
            free: None,
            reserved: 0,
        }
    }

    /// The slots, for the host to add to them.
    pub fn slots_mut(&mut self) -> &mut S {
        &mut self.slots
    }

    /// How many slots there may be: as many as there are numbers after the first.
    pub const fn max_len(&self) -> u32 {
        self.config.count
    }

    /// Reserves a number.
    pub fn reserve(&mut self) -> Result<Reserved, Full> {
        let (index, last) = if self.used == self.config.count || self.has_old() {
            self.take_free().ok_or(Full::Numbers)?
        } else {
            let (index, len) = (self.used, self.slots.count());
            match self.slots.get_mut(index) {
                Some(slot) if index < len => *slot = Slot::Reserved,
                _ => return Err(Full::Slots(len)),
            }
            self.used += 1;
            (index, None)
        };
        self.reserved = self.reserved.wrapping_add(1);
        Ok(Reserved {
            number: self.number(index),
            variant: last.map(|last| last.wrapping_add(self.config.step)),
        })
    }

    /// What is at a number.
    pub fn get(&self, number: u32) -> Option<&T> {
        match self.slot(self.config.place(number)?)? {
            Slot::Taken(object) => Some(object),
            _ => None,
        }
    }

    /// All objects.
    pub fn objects(&self) -> impl Iterator<Item = &T> {
        let others = (0..self.used).filter_map(|index| self.slots.get(index));
        let slots = core::iter::once(&self.first_slot).chain(others);
        slots.filter_map(|slot| match slot {
            Slot::Taken(object) => Some(object),
            _ => None,
        })
    }

    /// Puts an object at a number that is reserved. Returns what was there before, or the object if the
    /// number is not reserved.
    pub fn put(&mut self, number: u32, object: T) -> Option<T> {
        match self.config.place(number).and_then(|at| self.slot_mut(at)) {
            Some(slot @ (Slot::Reserved | Slot::Taken(_))) => {
                match core::mem::replace(slot, Slot::Taken(object)) {
                    Slot::Taken(before) => Some(before),
                    _ => None,
                }
            }
            _ => Some(object),
        }
    }

    /// Takes away what is at a number, which stays reserved.
    pub fn take(&mut self, number: u32) -> Option<T> {
        match self.config.place(number).and_then(|at| self.slot_mut(at))? {
            slot @ Slot::Taken(_) => match core::mem::replace(slot, Slot::Reserved) {
                Slot::Taken(object) => Some(object),
                _ => None,
            },
            _ => None,
        }
    }

    /// Gives a number up, whose last use had this variant. Returns what was there.
    pub fn give_up(&mut self, number: u32, variant: u8) -> Option<T> {
        let Some(Place::At(index)) = self.config.place(number) else {
            return None;
        };
        let since = self.reserved;
        let before = match self.slots.get_mut(index)? {
            slot @ (Slot::Reserved | Slot::Taken(_)) => core::mem::replace(
                slot,
                Slot::Free {
                    next: None,
                    since,
                    variant,
                },
            ),
            Slot::Unused | Slot::Free { .. } => return None,
        };
        let first = match self.free {
            Some((first, last)) => {
                if let Some(Slot::Free { next, .. }) = self.slots.get_mut(last) {
                    *next = Some(index);
                }
                first
            }
            None => index,
        };
        self.free = Some((first, index));
        match before {
            Slot::Taken(object) => Some(object),
            _ => None,
        }
    }

    /// Whether enough numbers were reserved since the first of the free slots was given up.
    fn has_old(&self) -> bool {
        let first = self.free.and_then(|(first, _)| self.slots.get(first));
        match first {
            Some(Slot::Free { since, .. }) => {
                self.reserved.wrapping_sub(*since) >= self.config.reuse_after
            }
            _ => false,
        }
    }

    /// Takes the slot that was given up first. Returns its index and the variant of its last use.
    fn take_free(&mut self) -> Option<(u32, Option<u8>)> {
        let (index, last) = self.free?;
        match core::mem::replace(self.slots.get_mut(index)?, Slot::Reserved) {
            Slot::Free { next, variant, .. } => {
                self.free = next.map(|next| (next, last));
                Some((index, Some(variant)))
            }
            _ => None,
        }
    }

    fn slot(&self, at: Place) -> Option<&Slot<T>> {
        match at {
            Place::First => Some(&self.first_slot),
            Place::At(index) => self.slots.get(index),
        }
    }

    fn slot_mut(&mut self, at: Place) -> Option<&mut Slot<T>> {
        match at {
            Place::First => Some(&mut self.first_slot),
            Place::At(index) => self.slots.get_mut(index),
        }
    }

    /// The number of a slot.
    fn number(&self, index: u32) -> u32 {
        let Config {
            first,
            count,
            start,
            ..
        } = self.config;
        let to_end = count - start;
        let after_first = match index < to_end {
            true => start + index,
            false => index - to_end,
        };
        first + 1 + after_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, VecDeque};
    use std::vec::Vec;

    impl<T> Slots<T> for Vec<Slot<T>> {
        fn count(&self) -> u32 {
            self.len() as u32
        }

        fn get(&self, index: u32) -> Option<&Slot<T>> {
            self.as_slice().get(index as usize)
        }

        fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
            self.as_mut_slice().get_mut(index as usize)
        }
    }

    fn table(config: Config, len: usize) -> Numbers<u32, Vec<Slot<u32>>> {
        let slots = (0..len).map(|_| Slot::Unused).collect();
        Numbers::new(slots, config)
    }

    const CONFIG: Config = Config {
        first: 1,
        count: 40,
        start: 17,
        reuse_after: 8,
        step: 3,
    };

    #[test]
    fn a_step_keeps_keys_apart_whether_they_are_changed_or_not() {
        for random in 0..=u8::MAX {
            let step = step(random);
            for (changes, apart) in [(0, 256), (1, 128), (2, 256)] {
                let variants = (0..apart)
                    .map(|use_| use_ as u8)
                    .map(|use_| use_.wrapping_mul(step + changes));
                let different: std::collections::HashSet<u8> = variants.collect();
                assert_eq!(different.len(), apart, "{step}, {changes}");
            }
        }
    }

    #[test]
    fn a_table_without_slots_asks_for_more() {
        let mut table = table(CONFIG, 1);
        table.reserve().unwrap();
        assert_eq!(table.reserve(), Err(Full::Slots(1)));
        table.slots_mut().push(Slot::Unused);
        assert_eq!(table.reserve().unwrap().number, CONFIG.first + 1 + 18);
    }

    #[test]
    fn the_first_number_is_known_to_everybody_and_never_given_up() {
        let mut table = table(CONFIG, 4);
        assert_eq!(table.put(1, 7), None);
        assert_eq!(table.get(1), Some(&7));
        assert_eq!(table.give_up(1, 0), None);
        assert_eq!(table.take(1), Some(7));
        assert_eq!(table.get(1), None);
    }

    #[test]
    fn a_number_out_of_range_names_nothing() {
        let mut table = table(CONFIG, 40);
        for number in [0, 42, u32::MAX] {
            assert_eq!(table.get(number), None);
            assert_eq!(table.put(number, 7), Some(7));
            assert_eq!(table.give_up(number, 0), None);
        }
        // Nor does one that was not reserved.
        assert_eq!(table.put(5, 7), Some(7));
        assert_eq!(table.get(5), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 })
        })]

        /// Whatever is reserved and given up: no number is reserved twice, none comes again before enough
        /// others did unless all were used, and its variant is another one each time.
        #[test]
        fn numbers_come_again_late(
            count in 1_u32..60,
            start in 0_u32..60,
            reuse_after in 0_u32..30,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..400),
        ) {
            let config = Config { count, start: start % count, reuse_after, ..CONFIG };
            let mut table = table(config, count as usize);
            let mut held: Vec<(u32, u8)> = Vec::new();
            let mut last: HashMap<u32, (u32, u8)> = HashMap::new();
            let mut given_up = VecDeque::new();
            let mut reserved = 0_u32;
            for (reserves, which) in steps {
                if reserves {
                    match table.reserve() {
                        Ok(got) => {
                            prop_assert!((2..2 + count).contains(&got.number));
                            prop_assert!(!held.iter().any(|(number, _)| *number == got.number));
                            let variant = match (last.get(&got.number), got.variant) {
                                (None, None) => 0,
                                (Some((since, before)), Some(variant)) => {
                                    let all_used = last.len() + held.iter()
                                        .filter(|(n, _)| !last.contains_key(n)).count() == count as usize;
                                    prop_assert!(all_used || reserved - since >= reuse_after);
                                    prop_assert_eq!(variant, before.wrapping_add(3));
                                    prop_assert_eq!(given_up.pop_front(), Some(got.number));
                                    variant
                                }
                                other => return Err(TestCaseError::fail(std::format!("{other:?}"))),
                            };
                            table.put(got.number, got.number);
                            held.push((got.number, variant));
                            reserved += 1;
                        }
                        Err(full) => {
                            prop_assert_eq!(full, Full::Numbers);
                            prop_assert_eq!(held.len(), count as usize);
                        }
                    }
                } else if !held.is_empty() {
                    let (number, variant) = held.swap_remove(which.index(held.len()));
                    prop_assert_eq!(table.give_up(number, variant), Some(number));
                    prop_assert_eq!(table.give_up(number, variant), None);
                    last.insert(number, (reserved, variant));
                    given_up.push_back(number);
                }
                for (number, _) in &held {
                    prop_assert_eq!(table.get(*number), Some(number));
                }
            }
        }
    }
}
