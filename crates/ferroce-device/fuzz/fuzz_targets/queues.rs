// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that writes anything to its rings: its requests end, or are flushed, within a bound, and its
//! keys and rights are kept all the same.
#![no_main]

use std::rc::Rc;

use ferroce_core::ring::{HEADER_LEN, RECV_HEADER_LEN, SEND_HEADER_LEN};
use ferroce_core::verbs::{AccessFlags, QpState, QpType, SendOpcode};
use ferroce_device::window::Kind;
use ferroce_device_fuzz::host::{Process as Owner, DEPTH, MEMORY};
use ferroce_device_fuzz::network::{Conditions, Network};
use ferroce_device_fuzz::queue_pair::Qp;
use ferroce_device_fuzz::world::World;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Anything, anywhere.
    Write {
        ring: Ring,
        at: u16,
        value: u64,
    },
    /// A send request that is right, or nearly, in the next slot.
    Send {
        qp: bool,
        wr_id: u8,
        opcode: u8,
        flags: u8,
        addr: Addr,
        key: Key,
        other_key: Key,
        operand: u64,
        sge: Sge,
        odd: Option<Odd>,
    },
    /// A receive that is nearly right, in the next slot.
    Receive {
        qp: bool,
        wr_id: u8,
        sges: [Sge; 2],
        odd: Option<u64>,
    },
    /// Moves the index that the poster writes, often by one.
    Publish {
        ring: Ring,
        count: Count,
    },
    /// Executes what there is; before that, with `reset`, what has failed begins anew.
    Run {
        qp: bool,
        reset: bool,
    },
    Flush(bool),
    Wait(u32),
    /// Both, which are connected again.
    Reset,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Ring {
    qp: bool,
    receives: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Count {
    One,
    Some(i8),
    Any(u32),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Sge {
    addr: Addr,
    length: u16,
    key: Key,
}

/// A place in the memory, mostly.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Addr {
    at: u16,
    other: Option<u64>,
}

/// One of the keys, mostly.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Key {
    which: u8,
    other: Option<u32>,
}

/// What is wrong with a request.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Odd {
    flags: u8,
    num_sge: u8,
    inline_length: u32,
    reserved: u8,
}

/// How many entries can be executed before the process writes again: those up to the index that the
/// executor knows, and as many more by the index that it looks at then.
const MOST: u32 = 2 * DEPTH;

/// Bytes of the memory that belong to no region, before the first one and after the last.
const OUTSIDE: [std::ops::Range<usize>; 2] = [0..64, 900..MEMORY];
/// The region that nobody may write to.
const READ_ONLY: std::ops::Range<usize> = 512..900;

const OWNER: Owner = Owner { host: 0, number: 0 };

/// Connects two queue pairs to each other, with nothing posted.
fn connect(world: &World, qps: &[Rc<Qp>; 2]) {
    for qp in qps {
        world.modify_to(qp, QpState::Reset);
    }
    world.connect(&qps[0], &qps[1], (0, 0));
    world.connect(&qps[1], &qps[0], (0, 0));
    assert!(qps.iter().all(|qp| qp.state() == QpState::Rts));
}

/// What the process knows: its keys, and where it is in each ring.
struct Process {
    world: World,
    qps: [Rc<Qp>; 2],
    keys: Vec<u32>,
    published: [[u32; 2]; 2],
}

impl Process {
    fn new() -> Self {
        // Between queue pairs of one host no packets are sent.
        let conditions = Conditions {
            drop: 0,
            duplicate: 0,
            reorder: 0,
            keep: 0,
        };
        let world = World::new(Network::new(conditions, fastrand::Rng::with_seed(0)));
        let qps = [100, 101].map(|number| world.create(OWNER, number, QpType::Rc, false));
        connect(&world, &qps);
        let read = AccessFlags::REMOTE_READ.union(AccessFlags::MW_BIND);
        let all = read
            .union(AccessFlags::LOCAL_WRITE)
            .union(AccessFlags::REMOTE_WRITE)
            .union(AccessFlags::REMOTE_ATOMIC);
        let size = |range: std::ops::Range<usize>| (range.start as u64, range.len() as u64);
        let (start, length) = size(READ_ONLY);
        let mut keys = vec![
            world.hosts[0].register(OWNER, 64, start - 64, all),
            world.hosts[0].register(OWNER, start, length, read),
        ];
        for kind in [Kind::Type1, Kind::Type2] {
            keys.push(world.hosts[0].allocate_window(OWNER, kind));
        }
        for (at, byte) in world.hosts[0].memory.borrow_mut().iter_mut().enumerate() {
            *byte = at as u8;
        }
        Self {
            world,
            qps,
            keys,
            published: [[0; 2]; 2],
        }
    }

    fn addr(&self, addr: Addr) -> u64 {
        let place = u64::from(addr.at) % (MEMORY as u64 + 8);
        addr.other.filter(|_| addr.at % 16 == 0).unwrap_or(place)
    }

    /// Of windows there are two variants: the one that they had first, and the one that they are bound with.
    fn key(&self, key: Key) -> u64 {
        let named = self.keys[usize::from(key.which) % self.keys.len()] | u32::from(key.which >> 7);
        let other = key.other.filter(|_| key.which % 32 == 31);
        other.unwrap_or(named).into()
    }

    fn sge(&self, sge: Sge) -> [u64; 2] {
        let length = match sge.length {
            0xff00.. => u64::from(sge.length) << 16,
            length => u64::from(length) % 64,
        };
        [self.addr(sge.addr), length | self.key(sge.key) << 32]
    }

    /// Writes to the next slot of a ring, and publishes it.
    fn post(&mut self, ring: Ring, words: &[u64]) {
        let memory = &self.qps[usize::from(ring.qp)].rings[usize::from(ring.receives)];
        let stride = (memory.len() - HEADER_LEN) / DEPTH as usize;
        let slot = self.published[usize::from(ring.qp)][usize::from(ring.receives)] % DEPTH;
        for (number, word) in words.iter().enumerate().take(stride / 8) {
            memory.write(HEADER_LEN + slot as usize * stride + 8 * number, *word);
        }
        self.publish(ring, Count::One);
    }

    fn publish(&mut self, ring: Ring, count: Count) {
        let published = &mut self.published[usize::from(ring.qp)][usize::from(ring.receives)];
        *published = match count {
            Count::One => published.wrapping_add(1),
            Count::Some(count) => published.wrapping_add_signed(count.into()),
            Count::Any(index) => index,
        };
        let memory = &self.qps[usize::from(ring.qp)].rings[usize::from(ring.receives)];
        memory.write(0, (*published).into());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { ring, at, value } => {
                let memory = &self.qps[usize::from(ring.qp)].rings[usize::from(ring.receives)];
                memory.write(usize::from(*at) % memory.len(), *value);
            }
            Step::Send {
                qp,
                wr_id,
                opcode,
                flags,
                addr,
                key,
                other_key,
                operand,
                sge,
                odd,
            } => {
                let opcode = opcode % 20;
                let known = SendOpcode::try_from(u32::from(opcode)).ok();
                let num_sge = u8::from(!known.is_some_and(SendOpcode::has_no_data));
                // SIGNALED, SOLICITED, FENCE.
                let mut bytes = [opcode, flags & 7, num_sge, 0];
                let mut inline_length = 0;
                if let Some(odd) = odd {
                    bytes = [opcode, odd.flags, odd.num_sge % 8, odd.reserved % 2];
                    inline_length = odd.inline_length;
                }
                let arguments = match known {
                    Some(SendOpcode::BindMw) => [
                        self.addr(*addr),
                        operand >> 32 & 0x1ff,
                        self.key(*other_key) | self.key(*key) << 32,
                        // A variant of zero or one, and rights.
                        operand & 1 | (operand >> 1 & 0x1f) << 32,
                    ],
                    _ => [self.addr(*addr), self.key(*key), *operand, self.key(*key)],
                };
                let mut words = vec![
                    (*wr_id).into(),
                    u64::from(u32::from_ne_bytes(bytes)) | self.key(*other_key) << 32,
                    inline_length.into(),
                ];
                match known {
                    // The key is where that of an atomic is.
                    Some(SendOpcode::CompareSwap | SendOpcode::FetchAdd) => {
                        let [addr, key, operand, _] = arguments;
                        words.extend([addr, operand, operand, key]);
                    }
                    _ => words.extend(arguments),
                }
                words.resize(SEND_HEADER_LEN / 8, 0);
                words.extend(self.sge(*sge));
                let ring = Ring {
                    qp: *qp,
                    receives: false,
                };
                self.post(ring, &words);
            }
            Step::Receive {
                qp,
                wr_id,
                sges,
                odd,
            } => {
                // One or two, and nothing in the reserved field.
                let num_sge = 1 + u64::from(wr_id % 2);
                let mut words = vec![(*wr_id).into(), odd.unwrap_or(num_sge)];
                words.resize(RECV_HEADER_LEN / 8, 0);
                words.extend(sges.iter().flat_map(|sge| self.sge(*sge)));
                let ring = Ring {
                    qp: *qp,
                    receives: true,
                };
                self.post(ring, &words);
            }
            Step::Publish { ring, count } => self.publish(*ring, *count),
            Step::Run { qp, reset } => {
                if *reset {
                    let failed = |qp: &Rc<Qp>| qp.state() == QpState::Err;
                    if self.qps.iter().any(failed) {
                        connect(&self.world, &self.qps);
                    }
                }
                let qp = &self.qps[usize::from(*qp)];
                let mut executed = 0;
                while self.world.step(qp) {
                    executed += 1;
                    assert!(executed <= MOST, "more is executed than can be posted");
                }
            }
            Step::Flush(qp) => self.qps[usize::from(*qp)].flush_receives(),
            Step::Wait(nanos) => self.world.wait((*nanos).into()),
            Step::Reset => connect(&self.world, &self.qps),
        }
    }

    fn judge(&self) {
        for qp in &self.qps {
            let sent = qp.sent.borrow_mut().drain(..).count();
            assert!(sent <= MOST as usize);
            // Each request can take one, and then the others are flushed.
            let received = qp.received.borrow_mut().drain(..).count();
            assert!(received <= 2 * MOST as usize + 1, "{received}");
            qp.events.borrow_mut().clear();
        }
        let memory = self.world.hosts[0].memory.borrow();
        for range in OUTSIDE.into_iter().chain([READ_ONLY]) {
            for (at, byte) in memory[range.clone()].iter().enumerate() {
                assert_eq!(*byte, (range.start + at) as u8, "at {}", range.start + at);
            }
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut process = Process::new();
    for step in &steps {
        process.step(step);
        process.judge();
    }
});
