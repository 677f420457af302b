// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module with one thing changed in its file, many times over: what is said of
//! each is what the kernel does with it. Nobody foretells what a module's own code
//! does: a mutant whose code comes from elsewhere in the file may kill the kernel
//! when it runs (mutant 362 of lib1, seed 1: `.exit.text` 598 bytes into the file).

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use ferroce_kmod::elf::{Elf, Symbol};

use crate::loader::{cases_of, said_of, Built};
use crate::support::{ran, Flavor, Test};
use crate::sweep::{agrees, Agreement, Sweep};

pub const TESTS: &[Test] = &[
    (
        "of modules with a field mangled, what is said is what the kernel does",
        known_mutants,
    ),
    (
        "common symbols, two parameters of a name and module namespaces are judged as by the kernel",
        small_modules,
    ),
];

/// Without an init: all that loading can trip over is the file.
const LIB0: &str = r#"
#include <linux/module.h>
#include <linux/slab.h>
static int number = 3; module_param(number, int, 0444);
static char *word = "w"; module_param(word, charp, 0644);
static int table[4] __ro_after_init = { 1, 2, 3, 4 };
void *lib0_get(int n);
void *lib0_get(int n) { pr_info("%d %s\n", n, word); return kzalloc(table[n & 3] + number, GFP_KERNEL); }
EXPORT_SYMBOL_GPL(lib0_get);
int lib0_value = 7; EXPORT_SYMBOL(lib0_value);
MODULE_LICENSE("GPL"); MODULE_DESCRIPTION("a library"); MODULE_VERSION("1.0");
"#;

/// With all that the loader has more to do for: functions that it calls, and
/// which do nothing, per-CPU data, and parameters of more kinds.
const LIB1: &str = r#"
#include <linux/module.h>
#include <linux/percpu.h>
static int many[3] = { 1, 2, 3 }; static int count;
module_param_array(many, int, &count, 0444);
static char *words[2] = { "a", "b" }; module_param_array(words, charp, NULL, 0644);
static char text[16] = "t"; module_param_string(text, text, sizeof(text), 0644);
static int own_set(const char *value, const struct kernel_param *kp) { return 0; }
static int own_get(char *buffer, const struct kernel_param *kp) { return 0; }
static const struct kernel_param_ops own_ops = { .set = own_set, .get = own_get };
module_param_cb(own, &own_ops, NULL, 0644);
DEFINE_PER_CPU(long, lib1_counter) = 4; DEFINE_PER_CPU(int *, lib1_pointer) = many;
int *lib1_get(int n);
int *lib1_get(int n) { return WARN_ON(n < 0) ? NULL : this_cpu_read(lib1_pointer); }
EXPORT_SYMBOL(lib1_get);
static int __init lib1_init(void) { return 0; }
static void __exit lib1_exit(void) {}
module_init(lib1_init); module_exit(lib1_exit);
MODULE_LICENSE("GPL"); MODULE_DESCRIPTION("with an init"); MODULE_SOFTDEP("pre: nothing");
"#;

/// A field of a section's header, by its place there and its size.
const FIELDS: [(&str, Range<usize>); 10] = [
    ("name", 0..4),
    ("type", 4..8),
    ("flags", 8..16),
    ("addr", 16..24),
    ("offset", 24..32),
    ("size", 32..40),
    ("link", 40..44),
    ("info", 44..48),
    ("addralign", 48..56),
    ("entsize", 56..64),
];

/// What is changed.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// A byte of the ELF header.
    Header(usize, u8),
    /// A field of a section's header.
    Section(String, &'static str, u64),
    /// A byte of a section.
    Byte(&'static str, usize, u8),
    /// `st_shndx` of a symbol, by its number.
    Place(usize, u16),
    /// `st_name`.
    Name(usize, u32),
    /// `st_info`.
    Info(usize, u8),
    /// The kind of a relocation, by section and number.
    Kind(String, usize, u32),
    /// Only so many bytes are left.
    Cut(usize),
    /// Bytes are appended.
    Append(Vec<u8>),
}

const MARKER: &[u8] = b"~Module signature appended~\n";

/// `struct module_signature` for a signature of so many bytes, and the marker.
fn trailer(length: u32) -> Vec<u8> {
    [&[0, 0, 2, 0, 0, 0, 0, 0][..], &length.to_be_bytes(), MARKER].concat()
}

impl Mutation {
    /// The module with that changed.
    pub fn of(&self, base: &[u8]) -> Vec<u8> {
        let mut bytes = base.to_vec();
        let elf = Elf::parse(base).unwrap();
        let section = |name: &str| elf.section(name).unwrap();
        let symbol = |index: usize| elf.symtab().offset() as usize + index * 24;
        match self {
            Self::Header(at, byte) => bytes[*at] = *byte,
            Self::Section(name, field, value) => {
                let (_, range) = FIELDS.iter().find(|(f, _)| f == field).unwrap();
                let start = section_header(base, section(name).index);
                let size = range.len();
                bytes[start..][range.clone()].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            Self::Byte(name, at, byte) => bytes[section(name).offset() as usize + at] = *byte,
            Self::Place(index, shndx) => {
                bytes[symbol(*index)..][6..8].copy_from_slice(&shndx.to_le_bytes());
            }
            Self::Name(index, name) => {
                bytes[symbol(*index)..][..4].copy_from_slice(&name.to_le_bytes());
            }
            Self::Info(index, info) => bytes[symbol(*index) + 4] = *info,
            Self::Kind(name, index, kind) => {
                let start = section(name).offset() as usize + index * 24 + 8;
                bytes[start..][..4].copy_from_slice(&kind.to_le_bytes());
            }
            Self::Cut(length) => bytes.truncate(*length),
            Self::Append(more) => bytes.extend(more),
        }
        bytes
    }
}

/// Where a section's header is.
fn section_header(base: &[u8], index: usize) -> usize {
    let table = u64::from_le_bytes(*base[40..].first_chunk().unwrap());
    table as usize + index * 64
}

/// Those that were once judged wrongly.
fn known(base: &[u8]) -> Vec<Mutation> {
    let elf = Elf::parse(base).unwrap();
    let count = elf.sections.len() as u16;
    let symbol = |name: &str| elf.symbols().find(|s| s.name() == name).unwrap().index;
    let section = |name: &str| elf.section(name).unwrap();
    let change = |name: &str, field, value| Mutation::Section(name.to_owned(), field, value);
    let of_section = |name: &str| {
        let index = section(name).index;
        let is = |s: &Symbol| s.is_section() && usize::from(s.shndx()) == index;
        elf.symbols().find(is).unwrap().index
    };
    let kind = |name: &str, index, kind| Mutation::Kind(name.to_owned(), index, kind);
    let params = section("__param").size();
    let info = section(".modinfo").data();
    let text = |text: &[u8]| info.windows(text.len()).position(|t| t == text).unwrap();
    let (vermagic, depends) = (text(b"vermagic="), text(b"depends="));
    let header = section_header(base, section(".symtab").index);
    let symtab = u32::from_le_bytes(*base[header..].first_chunk().unwrap());
    vec![
        change("__ksymtab", "addralign", 3),
        change(".data", "addralign", 9),
        change(".gnu.linkonce.this_module", "addralign", 3),
        Mutation::Place(symbol("__kstrtab_lib0_get"), 0xffff),
        Mutation::Place(symbol("lib0_value"), 0xfff2),
        Mutation::Place(symbol("lib0_value"), 0xff20),
        Mutation::Place(symbol("lib0_value"), 0xfff1),
        Mutation::Place(symbol("param_ops_charp"), count),
        Mutation::Place(symbol("param_ops_charp"), 0xfff2),
        Mutation::Append(MARKER.to_vec()),
        Mutation::Append([&[0; 12], MARKER].concat()),
        Mutation::Append(trailer(100)),
        Mutation::Append(trailer(u32::MAX)),
        Mutation::Append([vec![b'x'; 40], trailer(40)].concat()),
        Mutation::Append(vec![0; 3000]),
        change("__param", "size", params - 1),
        change("__param", "type", 0),
        // Code is there already.
        change(".rela.data", "info", section(".text").index as u64),
        change(".bss", "size", 0xffff_ffff),
        // e_ident: the magic, the class, the order of bytes, and what has no meaning.
        Mutation::Header(0, 255),
        Mutation::Header(4, 1),
        Mutation::Header(5, 2),
        Mutation::Header(9, 255),
        Mutation::Header(16, 2),
        Mutation::Header(58, 40),
        // Of the line that is logged a byte is escaped; a text ends behind its section.
        Mutation::Byte(".modinfo", vermagic + 12, 255),
        Mutation::Byte(".modinfo", vermagic + 12, b'\n'),
        change(".modinfo", "size", vermagic as u64 + 12),
        change(".note.Linux", "name", symtab.into()),
        change("__kflagstab", "flags", 0),
        change(".gnu.linkonce.this_module", "offset", 2),
        // What the loader follows to nowhere, and dies of.
        change(".rela__param", "size", 8),
        kind(".rela__ksymtab", 4, 0),
        Mutation::Place(symbol("param_ops_charp"), 0xff20),
        Mutation::Place(symbol("param_ops_charp"), 0xfff1),
        Mutation::Place(symbol("param_ops_charp"), section(".symtab").index as u16),
        Mutation::Place(symbol("param_ops_int"), section(".rodata").index as u16),
        Mutation::Place(of_section(".data"), 0xff20),
        Mutation::Place(of_section(".data"), 0xfff1),
        kind(".rela__param", 3, 2),
        change(".rela__param", "flags", u64::MAX),
        // A relocation of a symbol that is nowhere.
        change(".rela.data", "offset", 2),
        change(".rela.eh_frame", "offset", 3),
        // What the loader has written to struct module is there.
        change(".gnu.linkonce.this_module", "addralign", 0xffff_ffff),
        change(".rela.text", "info", section(".bss").index as u64),
        // To the kernel a module has no name, then needs one that there is not.
        change(
            ".gnu.linkonce.this_module",
            "offset",
            section(".gnu.linkonce.this_module").offset() - 1,
        ),
        Mutation::Byte(".modinfo", depends + 8, 255),
        Mutation::Byte(".modinfo", depends + 8, b'\n'),
        // Numbers are logged with and without their sign.
        change(".symtab", "link", u64::MAX),
        change(".strtab", "type", u64::MAX),
        // Both parameters have no name then.
        change(".rodata", "type", 8),
    ]
    .into_iter()
    .filter(|mutation| match mutation {
        Mutation::Section(name, ..) => elf.section(name).is_some(),
        _ => true,
    })
    .collect()
}

/// The same of the other module.
fn known_of_lib1() -> Vec<Mutation> {
    vec![
        Mutation::Kind(".rela.data..percpu".to_owned(), 0, 11),
        Mutation::Kind(".rela.gnu.linkonce.this_module".to_owned(), 0, 2),
        Mutation::Section(".exit.text".to_owned(), "flags", 3),
        // No code is left there.
        Mutation::Section(".exit.text".to_owned(), "size", 0),
        Mutation::Section(".init.text".to_owned(), "type", 8),
        Mutation::Section(".data..percpu".to_owned(), "addralign", 5),
        // The kernel adds to sizes that are in its struct module.
        Mutation::Section(".gnu.linkonce.this_module".to_owned(), "offset", 8),
    ]
}

/// Numbers from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn of<T: Clone>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len())].clone()
    }
}

/// Any change.
pub fn random(base: &[u8], random: &mut Random) -> Mutation {
    let elf = Elf::parse(base).unwrap();
    let symbols = elf.symtab().data().len() / 24;
    let count = elf.sections.len();
    match random.below(12) {
        0 => {
            let byte = random.next() as u8;
            Mutation::Header(random.below(64), random.of(&[0, 1, 255, byte]))
        }
        1..=4 => {
            let section = &elf.sections[1 + random.below(count - 1)];
            let (field, range) = random.of(&FIELDS);
            let start = section_header(base, section.index);
            let mut value = [0; 8];
            value[..range.len()].copy_from_slice(&base[start..][range]);
            let value = u64::from_le_bytes(value);
            let length = base.len() as u64;
            let other = random.below(count) as u64;
            let bit = value ^ (1 << random.below(12));
            let choice = [
                0,
                1,
                2,
                3,
                8,
                value.wrapping_add(1),
                value.saturating_sub(1),
                value.wrapping_mul(2),
                bit,
                length,
                length - 1,
                0xffff_ffff,
                i64::MAX as u64,
                u64::MAX,
                other,
            ];
            Mutation::Section(section.name().into_owned(), field, random.of(&choice))
        }
        5 | 6 => {
            let size = elf.section(".modinfo").unwrap().data().len();
            let byte = random.next() as u8;
            let byte = random.of(&[0, b'=', b'x', 255, b'\n', byte]);
            Mutation::Byte(".modinfo", random.below(size), byte)
        }
        7 | 8 => {
            let index = random.below(symbols);
            match random.below(3) {
                0 => {
                    let name = random.below(2000) as u32;
                    Mutation::Name(index, random.of(&[0, 1, name, u32::MAX]))
                }
                1 => Mutation::Info(index, random.next() as u8),
                _ => {
                    let (last, other) = (count as u16, random.below(count) as u16);
                    let choice = [0, 0xfff1, 0xfff2, 0xffff, 0xff20, last, last - 1, other];
                    Mutation::Place(index, random.of(&choice))
                }
            }
        }
        9 => {
            let sections: Vec<_> = elf.relocations().collect();
            let section = random.of(&sections);
            let kinds = [0, 1, 2, 4, 9, 10, 11, 24, 42, 41, 38, 255];
            let index = random.below(section.iter().len());
            Mutation::Kind(
                section.section.name().into_owned(),
                index,
                random.of(&kinds),
            )
        }
        10 => {
            let length = base.len();
            let any = random.below(length);
            Mutation::Cut(random.of(&[0, 1, 63, 64, 65, any, length - 1, length - 64]))
        }
        _ => {
            let length = base.len() as u32 + 1;
            let length = random.of(&[0, 1, 100, length, u32::MAX]);
            match random.below(4) {
                0 => Mutation::Append(MARKER.to_vec()),
                1 => Mutation::Append([&[0; 12], MARKER].concat()),
                2 => Mutation::Append(trailer(length)),
                _ => Mutation::Append(vec![0; 1 + random.below(5000)]),
            }
        }
    }
}

/// Builds modules of C sources in a folder, and of more flags for the compiler.
fn build(built: &Built, folder: &Path, sources: &[(&str, &str)], kbuild: &str) {
    for (name, text) in sources {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::write(folder.join("Kbuild"), kbuild).unwrap();
    ran(Command::new("make")
        .arg("-C")
        .arg(&built.kernel)
        .arg(format!("M={}", folder.display()))
        .arg("modules"))
    .ends_with(0);
}

/// The module that is changed.
pub fn lib0(built: &Built, folder: &Path) -> Vec<u8> {
    build(built, folder, &[("lib0.c", LIB0)], "obj-m := lib0.o\n");
    fs::read(folder.join("lib0.ko")).unwrap()
}

/// Another.
pub fn lib1(built: &Built, folder: &Path) -> Vec<u8> {
    build(built, folder, &[("lib1.c", LIB1)], "obj-m := lib1.o\n");
    fs::read(folder.join("lib1.ko")).unwrap()
}

fn known_mutants(flavor: &Flavor) {
    let built = Built::of(flavor);
    let dir = tempfile::tempdir().unwrap();
    let base = lib0(&built, dir.path());
    let mutants = known(&base)
        .into_iter()
        .map(|m| (format!("{m:?}"), m.of(&base)));
    let other = lib1(&built, dir.path());
    let others = known_of_lib1()
        .into_iter()
        .map(|m| (format!("lib1, {m:?}"), m.of(&other)));
    let mutants = mutants.chain(others).collect();
    let tried = Sweep::new(flavor, &built, dir.path(), mutants).run();
    tried.agree();
    tried.deaths_are_foretold();
}

/// Modules built in ways that were once judged wrongly.
fn small_modules(flavor: &Flavor) {
    const END: &str = "MODULE_LICENSE(\"GPL\"); MODULE_DESCRIPTION(\"test\");\n";
    let source = |text: &str| format!("#include <linux/module.h>\n{text}\n{END}");
    let built = Built::of(flavor);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let sources = [
        (
            "giver.c",
            source(
                "int giver_gives(void); int giver_gives(void) { return 5; }\n\
                            EXPORT_SYMBOL_FOR_MODULES(giver_gives, \"foo-bar,baz-*\");",
            ),
        ),
        (
            "foo-bar.c",
            source(
                "int giver_gives(void);\n\
                              static int __init start(void) { return giver_gives() - 5; }\n\
                              module_init(start);",
            ),
        ),
        (
            "baz-2.c",
            source(
                "int giver_gives(void);\n\
                            static int __init start(void) { return giver_gives() - 5; }\n\
                            module_init(start);",
            ),
        ),
        (
            "common.c",
            source(
                "int spare[8];\n\
                             static int __init start(void) { return spare[0]; }\n\
                             module_init(start);",
            ),
        ),
        (
            "two-a.c",
            source(
                "static int debug; module_param(debug, int, 0644);\n\
                            int two_b(void);\n\
                            static int __init start(void) { return two_b() + debug; }\n\
                            module_init(start);",
            ),
        ),
        (
            "two-b.c",
            "#include <linux/module.h>\n\
                     static int debug; module_param(debug, int, 0644);\n\
                     int two_b(void); int two_b(void) { return debug; }\n"
                .to_owned(),
        ),
    ];
    let sources: Vec<(&str, &str)> = sources.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let kbuild = "obj-m := giver.o foo-bar.o baz-2.o common.o two.o\n\
                  two-y := two-a.o two-b.o\nCFLAGS_common.o := -fcommon\n";
    build(&built, folder, &sources, kbuild);
    let kernel = built.kernel();
    let mut script = String::new();
    let mut reports = Vec::new();
    for name in ["foo-bar", "baz-2", "common", "two"] {
        let path = folder.join(format!("{name}.ko"));
        script += &format!(
            "echo; echo 'case {name}'; {} module load {} 2>&1 | grep -v '^loaded giver'\n",
            env!("CARGO_BIN_EXE_ferroce"),
            path.display()
        );
        // giver is beside those that need it.
        reports.push((name, said_of(&kernel, &path, &[])));
    }
    let ran = flavor.sh(&format!("{script}true")).ends_with(0);
    let said = cases_of(&ran);
    for (name, report) in &reports {
        agrees(report, &said[*name]).unwrap_or_else(|what| panic!("{name}: {what}: {ran:#?}"));
    }
    let errnos: Vec<_> = reports
        .iter()
        .map(|(_, r)| r.refusal()?.1.errno.clone())
        .collect();
    let of = |errno: &str| Some(errno.to_owned());
    assert_eq!(errnos, [None, None, of("ENOEXEC"), of("EEXIST")]);
    let exec = ran_exec(&folder.join("common.ko"));
    assert!(exec.contains("compile with -fno-common"), "{exec}");
}

/// What `module exec` says of a module that it does not run.
fn ran_exec(path: &Path) -> String {
    let mut command = crate::support::ferroce();
    ran(command.args(["module", "exec"]).arg(path))
        .ends_with(1)
        .stderr
}
