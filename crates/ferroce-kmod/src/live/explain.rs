// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a refusal of the kernel's means: from an errno, which says little, and
//! the lines that the kernel logged.

use rustix::io::Errno;
use serde::Serialize;

use crate::check::Stage;

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The stage at which the loader stopped.
    pub stage: Stage,
    /// Why, in words.
    pub reason: &'static str,
}

/// What the loader logs at each stage, in Linux 7.2 and before, and what it
/// means. The first that is in a line counts.
const LINES: [(&str, Stage, &str); 41] = {
    use Stage::{CopyAndCheck, Init, Layout, Relocations, Symbols};
    [
        (
            "is rejected",
            CopyAndCheck,
            "its signature does not satisfy the kernel",
        ),
        ("PKCS#7", CopyAndCheck, "its signature is broken"),
        (
            "is blacklisted",
            CopyAndCheck,
            "the kernel's command line forbids it",
        ),
        (
            "Invalid architecture",
            CopyAndCheck,
            "it is for another processor",
        ),
        (
            "Invalid module architecture",
            CopyAndCheck,
            "it is for another processor",
        ),
        (
            "Invalid ELF section header overflow",
            CopyAndCheck,
            "the file is cut off",
        ),
        (
            "Invalid ELF section in module",
            CopyAndCheck,
            "the file is cut off",
        ),
        (
            "Invalid ELF",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "ELF Spec violation",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "Only one .modinfo",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "section size must match",
            CopyAndCheck,
            "it was built with another configuration",
        ),
        (
            ".gnu.linkonce.this_module",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "module has no symbols",
            CopyAndCheck,
            "its symbols were stripped",
        ),
        (
            "symbol string table",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "symbol name out of bounds",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "section name table",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "extended version crc",
            CopyAndCheck,
            "the file is no module, or a broken one",
        ),
        (
            "version magic",
            CopyAndCheck,
            "it was built for another kernel",
        ),
        (
            "version of symbol module_layout",
            CopyAndCheck,
            "it was built for a kernel whose structures are other ones",
        ),
        (
            "symbol version for module_layout",
            CopyAndCheck,
            "it has no checksum of the kernel's structures",
        ),
        (
            "livepatch support is disabled",
            CopyAndCheck,
            "it is a live patch, and the kernel takes none",
        ),
        (
            "invalid WRITE|EXEC",
            Layout,
            "a section is to be both written and executed",
        ),
        (
            "PLT section(s) missing",
            Layout,
            "it was not linked as modules of arm64 are",
        ),
        (
            "disagrees about version of symbol",
            Symbols,
            "it was built for another version of a function",
        ),
        (
            "no symbol version for",
            Symbols,
            "it has no checksum of a symbol",
        ),
        (
            "from namespace",
            Symbols,
            "it does not import a symbol's namespace",
        ),
        (
            "import module namespace",
            Symbols,
            "it imports a namespace that no module can",
        ),
        (
            "from proprietary module",
            Symbols,
            "it mixes symbols for the GPL with those of a module that is not",
        ),
        (
            "Unknown symbol",
            Symbols,
            "a symbol is nowhere, or not for this module",
        ),
        (
            "please compile with -fno-common",
            Symbols,
            "a symbol is common: compile with -fno-common",
        ),
        (
            "has an invalid section index",
            Symbols,
            "a symbol is in a section that is not there",
        ),
        (
            "exports duplicate symbol",
            Symbols,
            "it exports a symbol that is there already",
        ),
        (
            "Unknown rela relocation",
            Relocations,
            "the loader cannot apply a relocation",
        ),
        (
            "unsupported RELA relocation",
            Relocations,
            "the loader cannot apply a relocation",
        ),
        (
            "overflow in relocation",
            Relocations,
            "an address does not fit where it is to go",
        ),
        (
            "Invalid relocation target",
            Relocations,
            "a relocation is where something is already",
        ),
        (
            "REL relocation unsupported",
            Relocations,
            "the loader cannot apply a relocation",
        ),
        (
            "cannot create duplicate filename",
            Init,
            "two of its parameters have one name",
        ),
        (
            "invalid for parameter",
            Init,
            "a parameter does not take its value",
        ),
        (
            "too large for parameter",
            Init,
            "a parameter's value is too large",
        ),
        ("Unknown parameter", Init, "it has no such parameter"),
    ]
};

/// What a refusal means.
pub fn explain(errno: Errno, lines: &[String]) -> Explanation {
    // The last line tells the stage: one without an end, of an earlier refusal,
    // can come before it. The first of that stage tells the most.
    let known = |line: &String| LINES.iter().find(|(part, ..)| line.contains(part));
    let known: Vec<_> = lines.iter().filter_map(known).collect();
    if let Some((_, stage, _)) = known.last()
        && let Some((_, _, reason)) = known.iter().find(|(_, s, _)| s == stage)
    {
        return Explanation {
            stage: *stage,
            reason,
        };
    }
    let (stage, reason) = match errno {
        Errno::EXIST => (
            Stage::CopyAndCheck,
            "a module of this name is loaded already",
        ),
        Errno::PERM | Errno::ACCESS => (
            Stage::CopyAndCheck,
            "loading modules is for root, and for nobody where it was switched off",
        ),
        Errno::KEYREJECTED | Errno::NOKEY => (
            Stage::CopyAndCheck,
            "its signature is not by a key that the kernel trusts",
        ),
        Errno::BADMSG => (Stage::CopyAndCheck, "its signature is broken"),
        Errno::NOSYS => (Stage::CopyAndCheck, "the kernel was built without modules"),
        Errno::NOEXEC => (
            Stage::CopyAndCheck,
            "the kernel does not take the file for a module, or it has no checksums of symbols",
        ),
        Errno::NOMEM => (Stage::Layout, "there is no memory for it"),
        _ => (Stage::Init, "its own init function refused"),
    };
    Explanation { stage, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_more_than_an_errno() {
        let line = "hello: Unknown rela relocation: 9".to_owned();
        let explanation = explain(Errno::NOEXEC, &[line]);
        assert_eq!(explanation.stage, Stage::Relocations);
        let line = "hello: disagrees about version of symbol module_layout".to_owned();
        assert_eq!(explain(Errno::NOEXEC, &[line]).stage, Stage::CopyAndCheck);
        let line = "hello: disagrees about version of symbol _printk".to_owned();
        assert_eq!(explain(Errno::INVAL, &[line]).stage, Stage::Symbols);
        assert_eq!(explain(Errno::INVAL, &[]).stage, Stage::Init);
    }
}
