// SPDX-License-Identifier: MIT OR Apache-2.0
//! What differs between architectures: which relocations a kernel's loader
//! applies, and why a module has others.

use object::elf;
use serde::Serialize;

/// The processor that a module is for, as its ELF header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// `EM_X86_64`.
    #[serde(rename = "x86-64")]
    X86_64,
    /// `EM_AARCH64`.
    Arm64,
}

/// The architecture that a kernel was built for (`ARCH=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    #[serde(rename = "x86-64")]
    X86_64,
    /// User-Mode Linux on x86-64.
    Uml,
    /// arm64.
    Arm64,
}

impl Machine {
    /// The machine of an ELF header's `e_machine`.
    pub fn from_elf(machine: elf::Machine) -> Option<Self> {
        match machine {
            elf::EM_X86_64 => Some(Self::X86_64),
            elf::EM_AARCH64 => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Its number in an ELF header.
    pub fn e_machine(self) -> u16 {
        match self {
            Self::X86_64 => elf::EM_X86_64.0,
            Self::Arm64 => elf::EM_AARCH64.0,
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name of a relocation kind, such as `R_X86_64_PC32`.
    pub fn relocation_name(self, kind: u32) -> String {
        let names = match self {
            Self::X86_64 => &elf::NAMES_R_X86_64,
            Self::Arm64 => &elf::NAMES_R_AARCH64,
        };
        match names.name(elf::RelocationType(kind)) {
            Some(name) => name.to_owned(),
            None => format!("kind {kind}"),
        }
    }

    /// What the kernel's loader does with a relocation kind.
    pub fn handling(self, kind: u32) -> Handling {
        match self {
            Self::X86_64 => x86_64(kind),
            Self::Arm64 => arm64(kind),
        }
    }
}

impl Arch {
    /// The processor of its modules.
    pub fn machine(self) -> Machine {
        match self {
            Self::X86_64 | Self::Uml => Machine::X86_64,
            Self::Arm64 => Machine::Arm64,
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Uml => "User-Mode Linux",
            Self::Arm64 => "arm64",
        }
    }

    /// An address at which its modules may be loaded.
    pub fn module_base(self) -> u64 {
        match self {
            // MODULES_VADDR of a kernel with KASLR (asm/pgtable_64_types.h).
            Self::X86_64 => 0xffff_ffff_c000_0000,
            // Above physical memory, which begins at 0x60000000 (TASK_SIZE in
            // arch/um/Kconfig, VMALLOC_START in its asm/pgtable.h): here 1 GiB.
            Self::Uml => 0xa080_0000,
            // MODULES_VADDR for 48 bits of virtual address (asm/memory.h).
            Self::Arm64 => 0xffff_8000_0000_0000,
        }
    }

    /// The line that its loader logs on a relocation kind it cannot apply.
    pub fn unknown_relocation(self, module: &str, kind: u32) -> String {
        match self {
            Self::X86_64 | Self::Uml => format!("{module}: Unknown rela relocation: {kind}"),
            Self::Arm64 => format!("module {module}: unsupported RELA relocation: {kind}"),
        }
    }

    /// Why a module has relocations that the loader cannot apply, and what
    /// makes the compiler do without.
    pub fn why_unsupported(self, kind: u32) -> (&'static str, String) {
        let name = self.machine().relocation_name(kind);
        let has = |part: &str| name.contains(part);
        if has("TLS") || has("TPOFF") || has("DTP") {
            return (
                "it belongs to a thread-local variable, which a kernel has none of",
                "use a per-CPU variable, or pass the value along".to_owned(),
            );
        }
        if has("GOT") || has("PLT") {
            let flags = match self {
                Self::Uml => {
                    "for Rust rustflags-y += -Crelocation-model=static -Ccode-model=large, \
                     for C ccflags-y += -fno-pic -mcmodel=large"
                }
                Self::X86_64 => {
                    "for Rust rustflags-y += -Crelocation-model=static -Ccode-model=kernel, \
                     for C ccflags-y += -fno-pic -mcmodel=kernel"
                }
                Self::Arm64 => {
                    "for Rust rustflags-y += -Crelocation-model=static, for C ccflags-y += -fno-pic"
                }
            };
            return (
                "it comes of position-independent code, which finds symbols by way of a global \
                 offset table that the kernel's loader does not make",
                format!("compile without: in the module's Kbuild file, {flags}"),
            );
        }
        (
            "no code that a kernel's build makes has it",
            "build the module with the kernel's build system, and its flags".to_owned(),
        )
    }
}

/// What a loader does with a relocation of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It refuses the module.
    Unsupported,
    /// There is nothing to do.
    Nothing,
    /// It writes a number of this many bytes.
    Data(Value, Fit, u8),
    /// It changes an instruction, with room for any value that a module of the
    /// kernel's build can ask for, or with a detour where there is none.
    Instruction,
}

/// The number that a relocation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// S + A.
    Absolute,
    /// S + A - P.
    Relative,
}

/// What happens to a number that is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// All fit.
    Any,
    /// The loader refuses what does not fit without its sign.
    Unsigned,
    /// The loader refuses what does not fit with its sign.
    Signed,
    /// The loader does not look, and writes what is left of it.
    Unchecked,
}

impl Handling {
    /// The number to write, and whether it fits.
    pub fn compute(self, symbol: u64, addend: i64, place: u64) -> Option<(u64, bool)> {
        let Self::Data(value, fit, size) = self else {
            return None;
        };
        let absolute = symbol.wrapping_add_signed(addend);
        let number = match value {
            Value::Absolute => absolute,
            Value::Relative => absolute.wrapping_sub(place),
        };
        let lost = 64 - u32::from(size) * 8;
        let fits = match fit {
            Fit::Any => true,
            Fit::Unsigned => number << lost >> lost == number,
            Fit::Signed | Fit::Unchecked => ((number << lost) as i64 >> lost) as u64 == number,
        };
        Some((number, fits))
    }
}

/// `__write_relocate_add()` in arch/x86/kernel/module.c, which User-Mode Linux
/// uses as well (arch/x86/um/Makefile).
fn x86_64(kind: u32) -> Handling {
    match elf::RelocationType(kind) {
        elf::R_X86_64_NONE => Handling::Nothing,
        elf::R_X86_64_64 => Handling::Data(Value::Absolute, Fit::Any, 8),
        elf::R_X86_64_32 => Handling::Data(Value::Absolute, Fit::Unsigned, 4),
        elf::R_X86_64_32S => Handling::Data(Value::Absolute, Fit::Signed, 4),
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => {
            Handling::Data(Value::Relative, Fit::Unchecked, 4)
        }
        elf::R_X86_64_PC64 => Handling::Data(Value::Relative, Fit::Any, 8),
        _ => Handling::Unsupported,
    }
}

/// `apply_relocate_add()` in arch/arm64/kernel/module.c.
fn arm64(kind: u32) -> Handling {
    use Handling::{Data, Instruction};
    match elf::RelocationType(kind) {
        elf::R_AARCH64_NONE => Handling::Nothing,
        elf::R_AARCH64_ABS64 => Data(Value::Absolute, Fit::Any, 8),
        elf::R_AARCH64_ABS32 => Data(Value::Absolute, Fit::Unsigned, 4),
        elf::R_AARCH64_ABS16 => Data(Value::Absolute, Fit::Unsigned, 2),
        elf::R_AARCH64_PREL64 => Data(Value::Relative, Fit::Any, 8),
        elf::R_AARCH64_PREL32 => Data(Value::Relative, Fit::Signed, 4),
        elf::R_AARCH64_PREL16 => Data(Value::Relative, Fit::Signed, 2),
        elf::R_AARCH64_MOVW_UABS_G0
        | elf::R_AARCH64_MOVW_UABS_G0_NC
        | elf::R_AARCH64_MOVW_UABS_G1
        | elf::R_AARCH64_MOVW_UABS_G1_NC
        | elf::R_AARCH64_MOVW_UABS_G2
        | elf::R_AARCH64_MOVW_UABS_G2_NC
        | elf::R_AARCH64_MOVW_UABS_G3
        | elf::R_AARCH64_MOVW_SABS_G0
        | elf::R_AARCH64_MOVW_SABS_G1
        | elf::R_AARCH64_MOVW_SABS_G2
        | elf::R_AARCH64_MOVW_PREL_G0
        | elf::R_AARCH64_MOVW_PREL_G0_NC
        | elf::R_AARCH64_MOVW_PREL_G1
        | elf::R_AARCH64_MOVW_PREL_G1_NC
        | elf::R_AARCH64_MOVW_PREL_G2
        | elf::R_AARCH64_MOVW_PREL_G2_NC
        | elf::R_AARCH64_MOVW_PREL_G3
        | elf::R_AARCH64_LD_PREL_LO19
        | elf::R_AARCH64_ADR_PREL_LO21
        | elf::R_AARCH64_ADR_PREL_PG_HI21
        | elf::R_AARCH64_ADR_PREL_PG_HI21_NC
        | elf::R_AARCH64_ADD_ABS_LO12_NC
        | elf::R_AARCH64_LDST8_ABS_LO12_NC
        | elf::R_AARCH64_LDST16_ABS_LO12_NC
        | elf::R_AARCH64_LDST32_ABS_LO12_NC
        | elf::R_AARCH64_LDST64_ABS_LO12_NC
        | elf::R_AARCH64_LDST128_ABS_LO12_NC
        | elf::R_AARCH64_TSTBR14
        | elf::R_AARCH64_CONDBR19
        | elf::R_AARCH64_JUMP26
        | elf::R_AARCH64_CALL26 => Instruction,
        _ => Handling::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_seen() {
        let of = |kind: elf::RelocationType| Machine::X86_64.handling(kind.0);
        let fits = |kind, symbol| of(kind).compute(symbol, 0, 0).unwrap().1;
        assert!(fits(elf::R_X86_64_32, 0xa080_0000));
        assert!(!fits(elf::R_X86_64_32S, 0xa080_0000));
        assert!(fits(elf::R_X86_64_32S, 0xffff_ffff_c000_0000));
        assert!(!fits(elf::R_X86_64_32, 0xffff_ffff_c000_0000));
        assert!(fits(elf::R_X86_64_64, u64::MAX));
        assert_eq!(
            of(elf::R_X86_64_PC32).compute(0x1000, -4, 0x2000),
            Some((0xffff_ffff_ffff_effc, true))
        );
    }

    #[test]
    fn the_reason_names_the_flags_of_the_architecture() {
        let (_, help) = Arch::Uml.why_unsupported(elf::R_X86_64_GOTPCREL.0);
        assert!(help.contains("-Ccode-model=large"), "{help}");
        let (_, help) = Arch::X86_64.why_unsupported(elf::R_X86_64_REX_GOTPCRELX.0);
        assert!(help.contains("-Ccode-model=kernel"), "{help}");
    }
}
