// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that is well-formed, with one thing in it that the loader takes as it
//! is: what comes of it is said before. The tests of the lab have the kernel's
//! word for each.

mod sample;

use std::ops::Range;

use ferroce_kmod::arch::Arch;
use ferroce_kmod::check::{check_bytes, Finding, ModuleReport, Reason, Severity, Stage};
use ferroce_kmod::elf::{Elf, Section};
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::kernel::{Config, Kernel};
use ferroce_kmod::modinfo::Modinfo;
use ferroce_kmod::params;

/// Fields of a section's header.
const TYPE: Range<usize> = 4..8;
const FLAGS: Range<usize> = 8..16;
const SIZE: Range<usize> = 32..40;
const LINK: Range<usize> = 40..44;
const INFO: Range<usize> = 44..48;
const ALIGN: Range<usize> = 48..56;
/// Fields of a relocation.
const OFFSET: Range<usize> = 0..8;
const KIND: Range<usize> = 8..12;
const SYMBOL: Range<usize> = 12..16;

/// What is said of a module, by a kernel with some options.
fn said_of(module: &[u8], options: &str) -> ModuleReport {
    let mut kernel = Kernel::default();
    kernel.arch = Some(Arch::Uml);
    let options = format!("CONFIG_SMP=y\nCONFIG_SYSFS=y\nCONFIG_KALLSYMS=y\n{options}");
    kernel.config = Some(Config::parse(&options));
    let file = ModuleFile::from_bytes("sample.ko", module.to_vec()).unwrap();
    check_bytes(&kernel, file).modules.remove(0)
}

/// What is found while relocations are applied.
fn found(module: &[u8]) -> Vec<Finding> {
    let report = said_of(module, "");
    let findings = report.findings();
    let relocations = findings.filter(|(stage, _)| *stage == Stage::Relocations);
    relocations.map(|(_, finding)| finding.clone()).collect()
}

/// That something is found, of that severity and with these words.
#[track_caller]
fn assert_found(module: &[u8], severity: Severity, words: &str) -> Finding {
    let found = found(module);
    let finding = found.iter().find(|f| f.what.contains(words));
    let finding = finding.unwrap_or_else(|| panic!("no {words:?} in {found:#?}"));
    assert_eq!(finding.severity, severity, "{finding:#?}");
    finding.clone()
}

fn put(module: &mut [u8], start: usize, field: Range<usize>, value: u64) {
    let size = field.len();
    module[start..][field].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn section<'a>(module: &'a [u8], name: &str) -> Section<'a> {
    Elf::parse(module).unwrap().section(name).unwrap()
}

/// Changes a section's header.
fn set_header(module: &mut [u8], name: &str, field: Range<usize>, value: u64) {
    let table = u64::from_le_bytes(*module[40..].first_chunk().unwrap());
    let index = match name {
        "" => 0,
        _ => section(module, name).index,
    };
    let start = table as usize + index * 64;
    put(module, start, field, value);
}

/// Changes the first relocation of a section that is at an offset there.
fn set_relocation(module: &mut [u8], of: &str, at: u64, field: Range<usize>, value: u64) {
    let relocations = section(module, &format!(".rela{of}"));
    let mut entries = relocations.data().chunks(24);
    let index = entries.position(|entry| entry[OFFSET] == at.to_le_bytes());
    let start = relocations.offset() as usize + index.unwrap() * 24;
    put(module, start, field, value);
}

#[test]
fn the_sample_has_nothing_of_this() {
    assert_eq!(found(&sample::module()), []);
}

#[test]
fn what_the_loader_has_written_to_struct_module_is_met_by_relocations() {
    // ALIGN(128, 0xffffffff) is 0: both begin in one place.
    let mut module = sample::module();
    set_header(&mut module, ".data", ALIGN, 0xffff_ffff);
    let finding = assert_found(&module, Severity::Refused, "is written already");
    let line = finding.kernel_says.unwrap();
    assert_eq!(line, "Invalid relocation target, existing value is nonzero");
    // Behind the name, what is there hangs on the kernel's configuration.
    set_relocation(&mut module, ".data", 8, OFFSET, 112);
    assert_found(&module, Severity::Undecided, "into its struct module");
    // To `list`.
    let mut module = sample::module();
    let index = section(&module, ".gnu.linkonce.this_module").index;
    set_header(&mut module, ".rela.data", INFO, index as u64);
    assert_found(&module, Severity::Refused, "is written already");
}

#[test]
fn addresses_of_symbols_are_met_by_relocations() {
    let mut module = sample::module();
    let index = section(&module, ".symtab").index;
    set_header(&mut module, ".rela.data", INFO, index as u64);
    // The value of the first symbol, which stays zero, and that of the second.
    assert_found(&module, Severity::Warning, "its table of symbols");
    set_relocation(&mut module, ".data", 8, OFFSET, 32);
    assert_found(&module, Severity::Refused, "is written already");
}

#[test]
fn a_symbol_is_read_before_the_kind_is_looked_at() {
    for kind in [0, 1, 255] {
        let mut module = sample::module();
        set_relocation(&mut module, ".data", 8, SYMBOL, 0x1_0000);
        set_relocation(&mut module, ".data", 8, KIND, kind);
        assert_found(
            &module,
            Severity::Undecided,
            "would be outside of the module",
        );
    }
}

#[test]
fn relocations_for_live_patches_are_not_applied() {
    let mut module = sample::module();
    set_header(&mut module, ".rela__param", FLAGS, 0x0010_0000);
    assert_found(&module, Severity::Warning, "has no relocation");
    let report = said_of(&module, "CONFIG_LIVEPATCH=y");
    let (stage, finding) = report.refusal().unwrap();
    assert_eq!(
        (stage, finding.reason),
        (Stage::Relocations, Reason::Livepatch)
    );
    assert_eq!(finding.errno.as_deref(), Some("EINVAL"));
    assert_eq!(
        finding.kernel_says.as_deref(),
        Some("livepatch: section .rela__param has an incorrectly formatted name")
    );
}

#[test]
fn what_frees_a_parameter_follows_its_pointers() {
    const PC32: u64 = 2;
    for (at, field) in [(0, "name"), (16, "ops"), (32, "arg")] {
        let mut module = sample::module();
        set_relocation(&mut module, "__param", at, KIND, PC32);
        let words = format!("the field {field} of entry 0 in __param has a relocation");
        assert_found(&module, Severity::Warning, &words);
    }
}

#[test]
fn a_pointer_is_of_no_absolute_symbol() {
    let mut module = sample::module();
    sample::set_shndx(&mut module, b"level", 0xfff1);
    assert_found(
        &module,
        Severity::Warning,
        "arg of entry 0 in __param is of an absolute",
    );
}

#[test]
fn operations_of_a_parameter_are_some() {
    let mut module = sample::module();
    let index = section(&module, "__ksymtab_strings").index as u16;
    sample::set_shndx(&mut module, b"param_ops_byte", index);
    assert_found(
        &module,
        Severity::Warning,
        "ops of entry 0 in __param points to what is too small",
    );
    // Where functions are to be is text.
    let index = section(&module, ".modinfo").index as u16;
    sample::set_shndx(&mut module, b"param_ops_byte", index);
    assert_found(
        &module,
        Severity::Warning,
        "ops of entry 0 in __param points to what is not in",
    );
    let index = section(&module, "__param").index as u16;
    sample::set_shndx(&mut module, b"param_ops_byte", index);
    assert_eq!(found(&module), []);
    let free = section(&module, "__param").offset() as usize + 24;
    module[free] = 1;
    assert_found(&module, Severity::Warning, "ops->free");
}

#[test]
fn from_layout_on_a_module_has_the_name_of_its_struct_module() {
    let mut module = sample::module();
    let name = section(&module, ".gnu.linkonce.this_module").offset() as usize + 24;
    module[name] = b'S';
    set_relocation(&mut module, ".data", 8, KIND, 255);
    let report = said_of(&module, "");
    let lines = report
        .findings()
        .filter_map(|(_, f)| f.kernel_says.as_deref());
    assert!(
        lines.eq(["Sample: Unknown rela relocation: 255"]),
        "{report:#?}"
    );
    // sysfs has a folder of that name.
    module[name] = 0;
    let report = said_of(&module, "");
    let init = report.findings().find(|(stage, _)| *stage == Stage::Init);
    let (_, finding) = init.unwrap();
    assert_eq!(finding.errno.as_deref(), Some("EINVAL"), "{finding:#?}");
}

#[test]
fn numbers_have_the_sign_that_the_kernel_logs_them_with() {
    let line = |name: &str, field| {
        let mut module = sample::module();
        set_header(&mut module, name, field, u64::MAX);
        let report = said_of(&module, "");
        let (_, finding) = report.refusal().unwrap();
        finding.kernel_says.clone().unwrap()
    };
    assert!(line(".symtab", LINK).contains("(sh_link(-1) >= "));
    assert!(line("", TYPE).contains("section 0 type(-1)"));
    let line = line(".shstrtab", TYPE);
    assert_eq!(line, "Invalid ELF section name table type: 4294967295");
}

#[test]
fn a_text_in_a_section_without_contents_is_empty() {
    const NOBITS: u64 = 8;
    let mut module = sample::module();
    set_header(&mut module, "__ksymtab_strings", TYPE, NOBITS);
    let elf = Elf::parse(&module).unwrap();
    let params = params::of(&elf, &Modinfo::of(&elf));
    assert_eq!(params[0].name, "");
}

#[test]
fn init_and_exit_are_functions() {
    let of = |section_name: &str| {
        let mut module = sample::module();
        let index = section(&module, section_name).index as u16;
        sample::set_shndx(&mut module, b"init_module", index);
        module
    };
    assert_found(
        &of(".data"),
        Severity::Warning,
        "init_module in its struct module points to what is no code",
    );
    assert_found(
        &of(".modinfo"),
        Severity::Warning,
        "points to what is not in memory",
    );
    assert_eq!(found(&of(".text")), []);
    // Without contents, and cut off.
    const NOBITS: u64 = 8;
    for (field, value) in [(TYPE, NOBITS), (SIZE, 0)] {
        let mut module = of(".text");
        set_header(&mut module, ".text", field, value);
        assert_found(
            &module,
            Severity::Warning,
            "init_module in its struct module points to where its section has no code",
        );
    }
}

#[test]
fn per_cpu_data_is_aligned_to_a_power_of_two() {
    let aligned_to = |align: u64| {
        let mut module = sample::module();
        set_header(&mut module, ".data..percpu", ALIGN, align);
        said_of(&module, "")
    };
    assert!(aligned_to(2).refusal().is_none());
    let report = aligned_to(5);
    let (stage, finding) = report.refusal().unwrap();
    assert_eq!(stage, Stage::Layout);
    assert_eq!(finding.errno.as_deref(), Some("ENOMEM"));
    let line = finding.kernel_says.as_deref().unwrap();
    assert!(
        line.contains("Could not allocate 8 bytes percpu data"),
        "{line}"
    );
}

#[test]
fn an_address_may_not_fit_into_per_cpu_data_either() {
    let mut module = sample::module();
    set_relocation(&mut module, ".data..percpu", 0, KIND, 11);
    let finding = assert_found(&module, Severity::Refused, "at .data..percpu+0x0");
    assert_eq!(finding.reason, Reason::Overflow);
}
