// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module in memory: laid out, resolved, relocated.
//!
//! All of it is in the first two gigabytes of the address space, where both
//! the 32-bit addresses of x86-64's code model `kernel` and the 64-bit ones of
//! User-Mode Linux's `large` reach: what is below 2^31 is the same number with
//! and without a sign.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ptr::NonNull;

use object::elf as abi;

use super::standins::{self, StandIn};
use super::{malformed, ExecError};
use crate::arch::{Arch, Handling};
use crate::elf::Elf;
use crate::layout::{Class, Layout, Options, PAGE};

/// What a module may allocate.
const ARENA: usize = 16 << 20;
/// The code that leads to one stand-in.
const STUB: usize = 32;

/// A module that is being put together, in memory that is written only.
pub struct Image {
    memory: Memory,
    layout: Layout,
    addresses: Vec<u64>,
    init: Option<u64>,
    exit: Option<u64>,
    code: Vec<(usize, usize)>,
    arena: usize,
}

/// A module that can run.
pub struct Sealed {
    /// Unmapped when this goes.
    _memory: Memory,
    pub init: Option<u64>,
    pub exit: Option<u64>,
}

/// A mapping of ours.
struct Memory {
    start: NonNull<u8>,
    size: usize,
}

impl Memory {
    fn new(size: usize) -> Result<Self, ExecError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: A new mapping, at a place that the kernel chooses, touches
        // nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(address) if start != libc::MAP_FAILED => Ok(Self {
                start: address,
                size,
            }),
            _ => Err(ExecError::System(
                "get memory in the first two gigabytes",
                std::io::Error::last_os_error(),
            )),
        }
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: The mapping is ours, of this size, readable and writable until
        // `Image::seal` consumes the image, and borrowed through `self` only.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    /// Takes whole pages for code.
    fn make_code(&self, offset: usize, size: usize) -> Result<(), ExecError> {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        assert!(offset.checked_add(size).is_some_and(|end| end <= self.size));
        // SAFETY: In bounds of the mapping, as just asserted, and no slice of
        // it is alive: `Image::seal` has the only way to them.
        let result =
            unsafe { libc::mprotect(self.start.as_ptr().add(offset).cast(), size, protection) };
        match result {
            0 => Ok(()),
            _ => Err(ExecError::System(
                "make memory executable",
                std::io::Error::last_os_error(),
            )),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and its address is used through `self` alone.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

impl Image {
    /// All stages up to init.
    pub fn load(elf: &Elf) -> Result<Self, ExecError> {
        // Nothing of what the kernel keeps for itself; one processor, whose
        // data is where the module's file has it.
        let options = Options {
            kallsyms: false,
            smp: false,
            ..Options::default()
        };
        let layout = Layout::of(elf, options);
        if let Some(symbol) = crate::linkage::misplaced(elf).first() {
            return Err(malformed(match symbol.is_common() {
                true => format!(
                    "its symbol {} is common, which the kernel refuses: compile with -fno-common",
                    symbol.name
                ),
                false => format!(
                    "its symbol {} is in section {}, and the last one is {}",
                    symbol.name, symbol.section, symbol.last
                ),
            }));
        }
        let standins = stand_ins(elf)?;

        let module =
            (layout.base(Class::InitRodata) + layout.pages(Class::InitRodata) * PAGE) as usize;
        let pages = |bytes: usize| bytes.next_multiple_of(PAGE as usize);
        let stubs = pages(standins.len() * STUB);
        let cells: usize = standins.values().map(|s| s.cell_size()).sum();
        let memory = Memory::new(module + stubs + pages(cells) + ARENA)?;
        let code = [Class::Text, Class::InitText].map(|class| {
            (
                layout.base(class) as usize,
                (layout.pages(class) * PAGE) as usize,
            )
        });
        let mut image = Self {
            addresses: Vec::new(),
            init: None,
            exit: None,
            code: code.into_iter().chain([(module, stubs)]).collect(),
            arena: module + stubs + pages(cells),
            memory,
            layout,
        };
        image.copy(elf)?;
        let resolved = image.lay_stubs(&standins, module, module + stubs)?;
        image.resolve(elf, &resolved);
        image.relocate(elf)?;
        let base = image.memory.address() + image.arena as u64;
        standins::give_arena(base as usize, ARENA);
        Ok(image)
    }

    /// Ends the writing: code becomes executable.
    pub fn seal(self) -> Result<Sealed, ExecError> {
        for (offset, size) in self.code.iter().filter(|(_, size)| *size > 0) {
            self.memory.make_code(*offset, *size)?;
        }
        Ok(Sealed {
            init: self.init,
            exit: self.exit,
            _memory: self.memory,
        })
    }

    /// Memory of the module's, by section and offset.
    pub fn data(&mut self, section: usize, offset: u64, size: usize) -> Option<&mut [u8]> {
        let start = self.layout.address(section)?.checked_add(offset)?;
        let start = usize::try_from(start).ok()?;
        self.memory.bytes().get_mut(start..)?.get_mut(..size)
    }

    /// Puts a text where it stays, for a parameter to point to.
    pub fn keep_text(&mut self, text: &str) -> u64 {
        let base = self.memory.address();
        let start = standins::allocate(text.len() + 1) as u64;
        let room = self
            .memory
            .bytes()
            .get_mut((start.saturating_sub(base)) as usize..);
        if let Some(room) = room.and_then(|r| r.get_mut(..text.len())) {
            room.copy_from_slice(text.as_bytes());
        }
        start
    }

    /// `move_module()`.
    fn copy(&mut self, elf: &Elf) -> Result<(), ExecError> {
        for section in &elf.sections {
            let data = section.data();
            if self.layout.place(section.index).is_none() || data.is_empty() {
                continue;
            }
            let room = self.data(section.index, 0, data.len());
            let room = room.ok_or_else(|| malformed("a section has no room"))?;
            room.copy_from_slice(data);
        }
        Ok(())
    }

    /// Writes the code and the data that stand in for the kernel's.
    fn lay_stubs(
        &mut self,
        standins: &HashMap<String, StandIn>,
        stubs: usize,
        cells: usize,
    ) -> Result<HashMap<String, u64>, ExecError> {
        let base = self.memory.address();
        let (mut stub, mut cell) = (stubs, cells);
        let mut resolved = HashMap::new();
        let bytes = self.memory.bytes();
        for (name, standin) in standins {
            let at = match standin {
                StandIn::Function(address) => {
                    bytes[stub..stub + STUB].copy_from_slice(&call(*address));
                    stub += STUB;
                    stub - STUB
                }
                StandIn::Code(code) => {
                    bytes[stub..stub + code.len()].copy_from_slice(code);
                    stub += STUB;
                    stub - STUB
                }
                StandIn::Data(data, size) => {
                    bytes[cell..cell + data.len()].copy_from_slice(data);
                    cell += standin.cell_size().max(*size);
                    cell - standin.cell_size().max(*size)
                }
            };
            resolved.insert(name.clone(), base + at as u64);
        }
        Ok(resolved)
    }

    /// `simplify_symbols()`.
    fn resolve(&mut self, elf: &Elf, resolved: &HashMap<String, u64>) {
        let base = self.memory.address();
        let address = |symbol: &crate::elf::Symbol| match symbol.shndx() {
            0 => resolved.get(&*symbol.name()).copied().unwrap_or(0),
            index if index == abi::SHN_ABS.0 => symbol.value(),
            index => {
                let section = self.layout.address(index.into());
                section.map_or(0, |s| (base + s).wrapping_add(symbol.value()))
            }
        };
        self.addresses = elf.symbols().map(|s| address(&s)).collect();
        let text = |address: &u64| {
            let code = self.code.iter().take(2);
            let mut ranges =
                code.map(|(start, size)| base + *start as u64..base + (start + size) as u64);
            ranges.any(|range| range.contains(address))
        };
        let function = |name: &str| {
            let symbol = elf
                .symbols()
                .find(|s| s.name() == name && !s.is_undefined());
            symbol.map(|s| self.addresses[s.index]).filter(text)
        };
        (self.init, self.exit) = (function("init_module"), function("cleanup_module"));
    }

    /// `apply_relocations()`.
    fn relocate(&mut self, elf: &Elf) -> Result<(), ExecError> {
        let base = self.memory.address();
        for section in elf.relocations() {
            let target = section.target;
            let Some(start) = self.layout.address(target.index) else {
                continue;
            };
            for relocation in section.iter() {
                let handling = elf.machine.handling(relocation.kind);
                let name = || elf.machine.relocation_name(relocation.kind);
                let width = match handling {
                    Handling::Nothing => continue,
                    Handling::Data(_, _, width) => usize::from(width),
                    Handling::Unsupported | Handling::Instruction => {
                        let (why, _) = Arch::X86_64.why_unsupported(relocation.kind);
                        let what = format!("{} cannot be applied: {why}", name());
                        return Err(ExecError::NotSimple(what));
                    }
                };
                let symbol = self.addresses.get(relocation.symbol).copied();
                let symbol = symbol.ok_or_else(|| malformed("a relocation has no symbol"))?;
                let place = (base + start).wrapping_add(relocation.offset);
                let (number, fits) = handling
                    .compute(symbol, relocation.addend, place)
                    .unwrap_or((0, false));
                if !fits {
                    let what = format!("{} has no room for {number:#x}", name());
                    return Err(ExecError::NotSimple(what));
                }
                let end = relocation.offset.checked_add(width as u64);
                let inside = end.is_some_and(|end| end <= target.size());
                let room = self.data(target.index, relocation.offset, width);
                let room = room.filter(|_| inside);
                let room = room.ok_or_else(|| malformed("a relocation is out of its section"))?;
                room.copy_from_slice(&number.to_le_bytes()[..width]);
            }
        }
        Ok(())
    }
}

/// The stand-ins for all imports of a module, by name.
fn stand_ins(elf: &Elf) -> Result<HashMap<String, StandIn>, ExecError> {
    let mut found = HashMap::new();
    let mut missing = Vec::new();
    for symbol in elf.symbols().filter(|s| s.is_undefined()) {
        let name = symbol.name();
        match standins::find(&name) {
            Some(standin) => {
                found.insert(name.into_owned(), standin);
            }
            None if symbol.is_weak() => {}
            None => missing.push(format!("{:#}", rustc_demangle::demangle(&name))),
        }
    }
    match missing.is_empty() {
        true => Ok(found),
        false => Err(ExecError::NoStandIn(missing)),
    }
}

/// Code that calls a function of this program's, with the stack aligned as it
/// expects: the kernel's code keeps it to 8 bytes, user space's to 16.
fn call(function: usize) -> [u8; STUB] {
    const BEFORE: [u8; 10] = [
        0x55, // push rbp
        0x48, 0x89, 0xe5, // mov rbp, rsp
        0x48, 0x83, 0xe4, 0xf0, // and rsp, -16
        0x48, 0xb8, // mov rax, ...
    ];
    const AFTER: [u8; 4] = [
        0xff, 0xd0, // call rax
        0xc9, // leave
        0xc3, // ret
    ];
    let mut code = [0xcc; STUB];
    code[..10].copy_from_slice(&BEFORE);
    code[10..18].copy_from_slice(&function.to_le_bytes());
    code[18..22].copy_from_slice(&AFTER);
    code
}
