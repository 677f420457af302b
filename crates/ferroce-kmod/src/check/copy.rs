// SPDX-License-Identifier: MIT OR Apache-2.0
//! Copy and check: `module_sig_check()`, what of `elf_validity_cache_copy()`
//! needs the kernel, and `early_mod_check()`.

use rustix::io::Errno;

use super::{Finding, Reason, Severity};
use crate::elf::{self, Elf};
use crate::error::Malformed;
use crate::kernel::Kernel;
use crate::linkage::{Linkage, Versions};
use crate::modinfo::Modinfo;
use crate::signature::Signature;

/// What the module is made for, in a line.
pub fn summary(modinfo: &Modinfo) -> String {
    match modinfo.get("vermagic") {
        Some(vermagic) => format!("made for {}", vermagic.trim_end()),
        None => "made for an unknown kernel".to_owned(),
    }
}

/// Whether a kernel has `module_sig_check()`, if that is known.
pub fn looks_at_signatures(kernel: &Kernel) -> Option<bool> {
    match kernel.running.as_ref() {
        Some(running) => Some(running.sig_enforce.is_some()),
        None => kernel.is_set("CONFIG_MODULE_SIG"),
    }
}

/// `module_sig_check()`.
pub fn signature(
    kernel: &Kernel,
    signature: &Result<Option<Signature>, Malformed>,
    findings: &mut Vec<Finding>,
) {
    let running = kernel.running.as_ref();
    if running.is_some_and(|r| r.modules_disabled) {
        let what = "this kernel loads no more modules until it boots again";
        findings.push(
            Finding::refused(Reason::Forbidden, Errno::PERM, what)
                .help("kernel.modules_disabled (sysctl) was set, and cannot be taken back"),
        );
    }
    if looks_at_signatures(kernel) != Some(true) {
        return;
    }
    let enforced = kernel.is_set("CONFIG_MODULE_SIG_FORCE").unwrap_or(false)
        || running.is_some_and(|r| r.sig_enforce == Some(true));
    let locked_down = running.is_some_and(|r| r.locked_down);
    let demand = match (enforced, locked_down) {
        (true, _) => Some(Errno::KEYREJECTED),
        // security_locked_down(LOCKDOWN_MODULE_SIGNATURE).
        (false, true) => Some(Errno::PERM),
        (false, false) => None,
    };
    match signature {
        Err(error) => {
            let what = format!("the signature is broken: {error}");
            let mut finding = Finding::refused(Reason::Signature, Errno::BADMSG, what);
            finding.kernel_says = error.kernel_says.clone();
            findings.push(finding.help(SIGN));
        }
        Ok(None) => findings.push(match demand {
            Some(errno) => Finding::refused(
                Reason::Signature,
                errno,
                "it is not signed, and this kernel loads what a key that it trusts has signed",
            )
            .says("Loading of unsigned module is rejected")
            .help(SIGN),
            None => Finding::note(
                Reason::Taint,
                "it is not signed, which this kernel looks at but does not demand: it taints \
                 the kernel",
            ),
        }),
        Ok(Some(signature)) => signed(kernel, signature, demand, findings),
    }
}

const SIGN: &str = "sign it with the kernel's key (scripts/sign-file in the kernel's sources), or \
                    with one that the machine's owner has enrolled (mokutil --import)";

/// A signature that is one: by whom?
fn signed(
    kernel: &Kernel,
    signature: &Signature,
    demand: Option<Errno>,
    findings: &mut Vec<Finding>,
) {
    let signer = signature.signer.as_deref().unwrap_or("an unnamed key");
    if kernel.keys.trusted.iter().any(|key| key.signed(signature)) {
        findings.push(Finding::note(
            Reason::Signature,
            format!("{signer} signed it, whom this kernel trusts; that nobody changed it since was not checked"),
        ));
        return;
    }
    match (demand, kernel.keys.complete) {
        (Some(errno), true) => findings.push(
            Finding::refused(
                Reason::Signature,
                errno,
                format!("{signer} signed it, whom this kernel does not trust"),
            )
            .says("Loading of module with unavailable key is rejected")
            .help(SIGN),
        ),
        (Some(_), false) => findings.push(
            Finding::undecided(
                Reason::Signature,
                format!(
                    "{signer} signed it, and whether this kernel trusts that key cannot be known \
                     from here: its keys are in no file"
                ),
            )
            .help("look for the key in /proc/keys of the running kernel, as root"),
        ),
        (None, complete) => {
            let what = match complete {
                true => "whom this kernel does not trust: it loads, and taints the kernel",
                false => {
                    "and whether this kernel trusts that key cannot be known from here: it \
                          loads either way"
                }
            };
            findings.push(Finding::note(
                Reason::Signature,
                format!("{signer} signed it, {what}"),
            ));
        }
    }
}

/// All but the signature.
pub fn check(
    kernel: &Kernel,
    elf: &Elf,
    modinfo: &Modinfo,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) {
    let name = linkage.name.as_str();
    if let Some(arch) = kernel.arch
        && arch.machine() != elf.machine
    {
        let what = format!(
            "it is for {}, and this kernel for {}",
            elf.machine.name(),
            arch.name()
        );
        let line = format!(
            "Invalid architecture in ELF header: {}",
            elf.machine.e_machine()
        );
        findings.push(Finding::refused(Reason::Machine, Errno::NOEXEC, what).says(line));
    }
    struct_module(kernel, elf, modinfo, findings);
    let running = kernel.running.as_ref();
    if running.is_some_and(|r| r.blacklist.iter().any(|n| n == name)) {
        let what = "the kernel's command line forbids it (module_blacklist=)";
        findings.push(
            Finding::refused(Reason::Forbidden, Errno::PERM, what)
                .says(format!("Module {name} is blacklisted")),
        );
    }
    layout_version(kernel, linkage, findings);
    vermagic(kernel, modinfo, linkage, findings);
    if modinfo.get("livepatch").is_some() && kernel.is_set("CONFIG_LIVEPATCH") == Some(false) {
        // What the kernel logs of it has no line end, and comes with the next line.
        findings.push(Finding::refused(
            Reason::Livepatch,
            Errno::NOEXEC,
            "it is a live patch, and this kernel takes none (CONFIG_LIVEPATCH)",
        ));
    }
    if running.is_some_and(|r| r.module(&linkage.struct_name).is_some()) {
        let what = "a module of this name is loaded already";
        findings.push(
            Finding::refused(Reason::Loaded, Errno::EXIST, what)
                .help(format!("unload it first: ferroce module unload {name}")),
        );
    }
    taints(modinfo, findings);
}

/// `elf_validity_cache_index_mod()`.
fn struct_module(kernel: &Kernel, elf: &Elf, modinfo: &Modinfo, findings: &mut Vec<Finding>) {
    let name = modinfo.get("name").unwrap_or(elf::NAMELESS);
    let size = elf.section(elf::THIS_MODULE).map_or(0, |s| s.size());
    match kernel.module_struct {
        Some(wanted) if wanted != size => findings.push(
            Finding::refused(
                Reason::StructModule,
                Errno::NOEXEC,
                format!(
                    "its struct module has {size} bytes, and this kernel's {wanted}: it was built \
                     with another configuration"
                ),
            )
            .says(format!(
                "module {name}: .gnu.linkonce.this_module section size must match the kernel's \
                 built struct module size at run time"
            ))
            .help("build it against this kernel's own tree"),
        ),
        Some(_) => {}
        None => findings.push(Finding::note(
            Reason::Unknown,
            format!(
                "whether this kernel's struct module has {size} bytes as well cannot be known: no \
                 module of its own is here to compare"
            ),
        )),
    }
}

/// `check_modstruct_version()`.
fn layout_version(kernel: &Kernel, linkage: &Linkage, findings: &mut Vec<Finding>) {
    if !kernel.modversions() {
        return;
    }
    let wanted = kernel.export("module_layout").and_then(|(e, _)| e.crc);
    let name = &linkage.name;
    let force = kernel.is_set("CONFIG_MODULE_FORCE_LOAD") == Some(true);
    match (wanted, linkage.layout_crc, linkage.versions) {
        (_, _, Versions::None) if force => findings.push(Finding::warning(
            Reason::NoVersion,
            "it has no checksums of symbols: this kernel loads it, and is tainted as if forced",
        )),
        (_, _, Versions::None) => findings.push(
            Finding::refused(
                Reason::NoVersion,
                Errno::NOEXEC,
                "it has no checksums of the symbols that it imports, and this kernel compares them \
                 (CONFIG_MODVERSIONS); the kernel's log says nothing of this",
            )
            .help("build it against this kernel's tree, with its Module.symvers there"),
        ),
        (None, _, _) => findings.push(Finding::undecided(
            Reason::Unknown,
            "this kernel compares checksums of symbols, and there is no Module.symvers here to \
             know them by",
        )),
        (Some(_), None, Versions::Basic) => findings.push(
            Finding::refused(
                Reason::NoVersion,
                Errno::NOEXEC,
                "it has no checksum of module_layout, which stands for the kernel's structures",
            )
            .says(format!("{name}: no symbol version for module_layout")),
        ),
        (Some(wanted), Some(crc), _) if wanted != crc => findings.push(
            Finding::refused(
                Reason::Version,
                Errno::NOEXEC,
                format!(
                    "it was built for a kernel whose structures are other ones: its checksum of \
                     module_layout is {crc:#010x}, this kernel's {wanted:#010x}"
                ),
            )
            .says(format!("{name}: disagrees about version of symbol module_layout"))
            .help("build it against this kernel's tree"),
        ),
        _ => {}
    }
}

/// `check_modinfo()`.
fn vermagic(kernel: &Kernel, modinfo: &Modinfo, linkage: &Linkage, findings: &mut Vec<Finding>) {
    let name = &linkage.name;
    let Some(own) = modinfo.get("vermagic") else {
        let what = "it does not say for which kernel it was built (vermagic)";
        findings.push(match kernel.is_set("CONFIG_MODULE_FORCE_LOAD") {
            Some(true) => Finding::warning(Reason::Vermagic, what),
            _ => Finding::refused(Reason::Vermagic, Errno::NOEXEC, what),
        });
        return;
    };
    let Some(wanted) = kernel.vermagic.as_deref() else {
        findings.push(Finding::undecided(
            Reason::Unknown,
            format!(
                "whether `{own}' is this kernel's vermagic cannot be known: neither its \
                     configuration nor a module of its own is here"
            ),
        ));
        return;
    };
    // same_magic(): the release does not count with checksums of symbols.
    let skip_release = linkage.versions == Versions::Basic;
    let differences = differences(own, wanted, skip_release);
    if !differences.is_empty() {
        findings.push(
            Finding::refused(
                Reason::Vermagic,
                Errno::NOEXEC,
                format!(
                    "it was built for another kernel: {}",
                    differences.join("; ")
                ),
            )
            .says(format!(
                "{name}: version magic '{own}' should be '{wanted}'"
            ))
            .help("build it against this kernel's tree"),
        );
    }
}

/// How one `vermagic` differs from the kernel's, each word.
fn differences(own: &str, wanted: &str, skip_release: bool) -> Vec<String> {
    let split = |text: &'_ str| -> (String, String) {
        let (release, rest) = text.split_once(' ').unwrap_or((text, ""));
        (release.to_owned(), rest.to_owned())
    };
    let (own_release, own_rest) = split(own);
    let (wanted_release, wanted_rest) = split(wanted);
    let mut differences = Vec::new();
    if !skip_release && own_release != wanted_release {
        differences.push(format!(
            "for release {own_release}, this is {wanted_release}"
        ));
    }
    if own_rest != wanted_rest {
        let own: Vec<&str> = own_rest.split_ascii_whitespace().collect();
        let wanted: Vec<&str> = wanted_rest.split_ascii_whitespace().collect();
        let without = |a: &[&str], b: &[&str]| -> Vec<String> {
            let words = a.iter().filter(|word| !b.contains(word));
            words.map(|word| (*word).to_owned()).collect()
        };
        let more = without(&own, &wanted);
        let less = without(&wanted, &own);
        if !more.is_empty() {
            differences.push(format!("with {}, this is without", more.join(" ")));
        }
        if !less.is_empty() {
            differences.push(format!("without {}, this is with", less.join(" ")));
        }
        if more.is_empty() && less.is_empty() {
            differences.push("the same words, but not in this order and spacing".to_owned());
        }
    }
    differences
}

/// `module_augment_kernel_taints()`, but for the signature.
fn taints(modinfo: &Modinfo, findings: &mut Vec<Finding>) {
    let mut reasons = Vec::new();
    if modinfo.get("intree").is_none() {
        reasons.push("it was built out of the kernel's tree (O)");
    }
    if !modinfo.is_gpl_compatible() {
        reasons.push("its licence is not the GPL (P)");
    }
    if modinfo.get("staging").is_some() {
        reasons.push("it is of unknown quality (staging, C)");
    }
    if modinfo.get("test").is_some() {
        reasons.push("it is a test (N)");
    }
    if !reasons.is_empty() {
        findings.push(Finding::new(
            Severity::Note,
            Reason::Taint,
            format!("it taints the kernel: {}", reasons.join(", ")),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_differing_word_of_vermagic_is_named() {
        let own = "7.2.11 SMP preempt mod_unload ";
        let wanted = "7.2.12 SMP mod_unload modversions ";
        let found = differences(own, wanted, false);
        assert_eq!(
            found,
            [
                "for release 7.2.11, this is 7.2.12",
                "with preempt, this is without",
                "without modversions, this is with",
            ]
        );
        assert!(differences("a SMP ", "b SMP ", true).is_empty());
        assert_eq!(differences("a SMP", "a SMP ", false).len(), 1);
    }
}
