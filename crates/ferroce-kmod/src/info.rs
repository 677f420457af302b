// SPDX-License-Identifier: MIT OR Apache-2.0
//! All that a module's file tells.

use std::collections::BTreeMap;

use object::elf as abi;
use object::endian::LittleEndian as LE;
use serde::Serialize;

use crate::arch::{Handling, Machine};
use crate::elf::{self, Elf, Section};
use crate::error::{Error, Malformed, Result};
use crate::file::{Compression, ModuleFile};
use crate::layout::{Class, Layout, Options};
use crate::linkage::Linkage;
use crate::modinfo::Modinfo;
use crate::params::{self, Param};
use crate::signature::{self, Signature};

/// What a module's file tells, all of it; serializes as the `--json` of
/// `ferroce module info`.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// The file.
    pub path: String,
    /// How it is compressed.
    pub compression: Option<Compression>,
    /// Its size when it is not, in bytes, with the signature.
    pub size: u64,
    /// The processor that it is for.
    pub machine: Machine,
    /// Its texts in `.modinfo`, in the file's order.
    pub modinfo: Vec<(String, String)>,
    /// Its sections.
    pub sections: Vec<SectionInfo>,
    /// The memory that it takes.
    pub memory: Vec<Memory>,
    /// The per-CPU memory that it takes, in bytes for each processor.
    pub per_cpu: u64,
    /// Its name, imports, exports and namespaces.
    #[serde(flatten)]
    pub linkage: Linkage,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Its relocations by kind.
    pub relocations: Vec<RelocationCount>,
    /// Who signed it, if somebody did.
    pub signature: Option<Signature>,
    /// What is wrong with a signature that is there, but is none.
    pub signature_error: Option<Malformed>,
    /// What it was hardened with.
    pub hardening: Vec<Hardening>,
    /// Whether it was written in Rust.
    pub rust: bool,
    /// What compiled it.
    pub compilers: Vec<String>,
    /// The identifier that the linker gave it, in hexadecimal digits.
    pub build_id: Option<String>,
}

/// A section.
#[derive(Debug, Clone, Serialize)]
pub struct SectionInfo {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its size in bytes.
    pub size: u64,
}

/// What a section is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// In memory for as long as the module is, or until init is done.
    Memory(Class),
    /// Data that each processor has a copy of.
    PerCpu,
    /// `.modinfo` and the checksums of imports: read, and left behind.
    Metadata,
    /// Symbols and names.
    Symbols,
    /// Relocations, applied and left behind.
    Relocations,
    /// For debuggers.
    Debug,
    /// For nobody that the kernel knows.
    Other,
}

impl Role {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory(class) => class.name(),
            Self::PerCpu => "per-CPU data",
            Self::Metadata => "metadata",
            Self::Symbols => "symbols",
            Self::Relocations => "relocations",
            Self::Debug => "debugging",
            Self::Other => "other",
        }
    }
}

/// Memory of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Which.
    pub class: Class,
    /// Bytes used.
    pub bytes: u64,
    /// Pages taken.
    pub pages: u64,
}

/// How often a module has a kind of relocation.
#[derive(Debug, Clone, Serialize)]
pub struct RelocationCount {
    /// Its number.
    pub kind: u32,
    /// Its name.
    pub name: String,
    /// How often.
    pub count: u64,
    /// Whether the kernel's loader can apply it.
    pub supported: bool,
}

/// A protection that a module was compiled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardening {
    /// Indirect branches by way of retpolines (Spectre v2).
    Retpoline,
    /// Returns that the kernel can replace (Retbleed).
    ReturnThunks,
    /// ENDBR at the targets of indirect branches (Intel IBT).
    Ibt,
    /// Indirect calls checked by type (kCFI).
    Kcfi,
    /// Calls with room for depth tracking.
    CallDepthTracking,
}

impl Hardening {
    /// The section by which each is known, where there is one.
    const SECTIONS: [(Self, &'static str); 5] = [
        (Self::Retpoline, ".retpoline_sites"),
        (Self::ReturnThunks, ".return_sites"),
        (Self::Ibt, ".ibt_endbr_seal"),
        (Self::Kcfi, ".cfi_sites"),
        (Self::CallDepthTracking, ".call_sites"),
    ];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retpoline => "retpoline",
            Self::ReturnThunks => "return thunks",
            Self::Ibt => "IBT",
            Self::Kcfi => "kCFI",
            Self::CallDepthTracking => "call depth tracking",
        }
    }
}

impl Info {
    /// Reads all of it.
    pub fn of(file: &ModuleFile) -> Result<Self> {
        let (module, signature) = signature::split(&file.bytes);
        let elf = Elf::parse(module).map_err(Error::malformed(&file.path))?;
        let modinfo = Modinfo::of(&elf);
        let options = Options::default();
        let layout = Layout::of(&elf, options);
        let memory = Class::ALL.iter().map(|class| Memory {
            class: *class,
            bytes: layout.size(*class),
            pages: layout.pages(*class),
        });
        let sections = elf.sections.iter().skip(1).map(|section| SectionInfo {
            name: section.name().into_owned(),
            role: role(section, &layout),
            size: section.size(),
        });
        let (signature, signature_error) = match signature {
            Ok(signature) => (signature, None),
            Err(error) => (None, Some(error)),
        };
        let pairs = modinfo.iter();
        Ok(Self {
            path: file.path.display().to_string(),
            compression: file.compression,
            size: file.bytes.len() as u64,
            machine: elf.machine,
            modinfo: pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            sections: sections.collect(),
            memory: memory.collect(),
            per_cpu: layout.per_cpu(),
            linkage: Linkage::of(&elf, &modinfo, &file.path),
            params: params::of(&elf, &modinfo),
            relocations: relocations(&elf),
            signature,
            signature_error,
            hardening: hardening(&elf, &modinfo),
            rust: elf
                .symbols()
                .any(|s| s.name_bytes().ends_with(b"__IS_RUST_MODULE")),
            compilers: compilers(&elf),
            build_id: build_id(&elf),
        })
    }

    /// The fields as `modinfo` prints them, name and value, in its order:
    /// `.modinfo` but for the parameters, the signature, the parameters.
    pub fn fields(&self) -> Vec<(&str, String)> {
        let mut fields = vec![("filename", self.path.clone())];
        let texts = self.modinfo.iter();
        let texts = texts.filter(|(name, _)| name != "parm" && name != "parmtype");
        fields.extend(texts.map(|(name, value)| (name.as_str(), value.clone())));
        if let Some(signature) = &self.signature {
            let signer = signature.signer.clone().unwrap_or_default();
            fields.push(("sig_id", signature.id.to_owned()));
            fields.push(("signer", signer));
            fields.push(("sig_key", signature::hex(&signature.key)));
            fields.push(("sig_hashalgo", signature.hash.clone()));
            fields.push(("signature", signature::hex(&signature.value)));
        }
        fields.extend(self.modinfo_params().into_iter().map(|text| ("parm", text)));
        fields
    }

    /// The parameters as `modinfo` prints them, which reads `.modinfo` alone:
    /// `NAME:DESCRIPTION (TYPE)`, what was said last of a parameter first.
    fn modinfo_params(&self) -> Vec<String> {
        let mut params: Vec<(&str, Option<&str>, Option<&str>)> = Vec::new();
        for (key, value) in &self.modinfo {
            let is_type = match key.as_str() {
                "parm" => false,
                "parmtype" => true,
                _ => continue,
            };
            let Some((name, text)) = value.split_once(':') else {
                continue;
            };
            let index = match params.iter().position(|(n, ..)| *n == name) {
                Some(index) => index,
                None => {
                    params.push((name, None, None));
                    params.len() - 1
                }
            };
            let (_, description, type_name) = &mut params[index];
            *if is_type { type_name } else { description } = Some(text);
        }
        let params = params.into_iter().map(|(name, description, type_name)| {
            match (description, type_name) {
                (Some(description), Some(t)) => format!("{name}:{description} ({t})"),
                (Some(description), None) => format!("{name}:{description}"),
                (None, Some(t)) => format!("{name}:{t}"),
                (None, None) => name.to_owned(),
            }
        });
        params.collect()
    }
}

fn role(section: &Section, layout: &Layout) -> Role {
    if let Some(place) = layout.place(section.index)
        && section.has(abi::SHF_ALLOC)
    {
        return Role::Memory(place.class);
    }
    match section.kind() {
        abi::SHT_SYMTAB | abi::SHT_STRTAB => Role::Symbols,
        abi::SHT_RELA | abi::SHT_REL => Role::Relocations,
        _ if section.is(elf::PER_CPU) => Role::PerCpu,
        _ if section.has(abi::SHF_ALLOC) => Role::Metadata,
        _ if section.starts_with(".debug") || section.starts_with(".BTF") => Role::Debug,
        _ => Role::Other,
    }
}

fn relocations(elf: &Elf) -> Vec<RelocationCount> {
    let mut counts = BTreeMap::<u32, u64>::new();
    for section in elf.relocations() {
        for relocation in section.iter() {
            *counts.entry(relocation.kind).or_default() += 1;
        }
    }
    let counts = counts.into_iter().map(|(kind, count)| RelocationCount {
        kind,
        name: elf.machine.relocation_name(kind),
        count,
        supported: elf.machine.handling(kind) != Handling::Unsupported,
    });
    counts.collect()
}

fn hardening(elf: &Elf, modinfo: &Modinfo) -> Vec<Hardening> {
    let has = |(kind, section): &(Hardening, &str)| {
        elf.section(section).is_some()
            || (*kind == Hardening::Retpoline && modinfo.get("retpoline").is_some())
    };
    let found = Hardening::SECTIONS.iter().filter(|known| has(known));
    found.map(|(kind, _)| *kind).collect()
}

/// What the compilers left of themselves in `.comment`.
fn compilers(elf: &Elf) -> Vec<String> {
    let mut compilers: Vec<String> = Vec::new();
    for text in elf.contents(".comment").split(|b| *b == 0) {
        let text = elf::text(text);
        if !text.is_empty() && !compilers.iter().any(|c| *c == text) {
            compilers.push(text.into_owned());
        }
    }
    compilers
}

/// The description of `.note.gnu.build-id`: name "GNU", type NT_GNU_BUILD_ID.
fn build_id(elf: &Elf) -> Option<String> {
    use object::read::ReadRef;
    let data = elf.contents(".note.gnu.build-id");
    let header: &abi::NoteHeader64<LE> = data.read_at(0).ok()?;
    let name = u64::from(header.n_namesz.get(LE));
    let start = size_of::<abi::NoteHeader64<LE>>() as u64 + name.next_multiple_of(4);
    let id = data
        .read_bytes_at(start, header.n_descsz.get(LE).into())
        .ok()?;
    Some(id.iter().map(|b| format!("{b:02x}")).collect())
}
