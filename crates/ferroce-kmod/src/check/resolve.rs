// SPDX-License-Identifier: MIT OR Apache-2.0
//! Symbols: `simplify_symbols()` with `resolve_symbol()`, and what
//! `setup_modinfo()` and `complete_formation()` have to say of symbols.

use std::collections::{BTreeSet, HashMap, HashSet};

use rustix::io::Errno;

use super::order::{order, Order};
use super::set::{Examined, Set};
use super::{Finding, ModuleReport, Reason, Severity, Stage, Verdict};
use crate::kernel::{Kernel, Owner};
use crate::linkage::{Export, Import, Linkage, Misplaced, Versions};

/// For how many missing symbols similar ones are looked for: each is compared
/// with all that the kernel exports.
const SUGGESTIONS: usize = 16;

/// Where a symbol is.
#[derive(Clone, Copy)]
enum Found<'a> {
    Kernel(&'a Export),
    /// In a module that is looked at, by its place in the set.
    Module(usize, &'a Export),
    /// In a module that is not here, but known to have it.
    Elsewhere(&'a str, &'a Export),
    Nowhere,
}

/// Resolves the symbols of all modules, and puts them in order.
pub fn resolve(kernel: &Kernel, set: Set) -> Vec<ModuleReport> {
    let Set { modules } = set;
    let (mut reports, linkages): (Vec<_>, Vec<_>) = modules
        .into_iter()
        .map(
            |Examined {
                 report,
                 linkage,
                 loaded,
             }| ((report, loaded), linkage),
        )
        .unzip();
    let mut exporters = HashMap::<&str, (usize, &Export)>::new();
    for (index, linkage) in linkages.iter().enumerate() {
        for export in linkage.iter().flat_map(|l| &l.exports) {
            exporters.entry(&export.name).or_insert((index, export));
        }
    }
    let resolver = Resolver {
        kernel,
        exporters,
        names: linkages.iter().flatten().map(|l| l.name.as_str()).collect(),
    };
    let needs: Vec<Vec<usize>> = linkages
        .iter()
        .map(|linkage| resolver.needs(linkage.as_ref()))
        .collect();
    let Order { order, circular } = order(&needs);

    let mut state = State {
        proprietary: vec![false; linkages.len()],
        refused: HashSet::new(),
        suggestions: SUGGESTIONS,
        unknown: Vec::new(),
    };
    for &index in &order {
        let (report, loaded) = &mut reports[index];
        let Some(linkage) = &linkages[index] else {
            state.refused.insert(index);
            continue;
        };
        if *loaded {
            continue;
        }
        report.needs = needs[index]
            .iter()
            .filter_map(|n| Some(linkages[*n].as_ref()?.name.clone()))
            .collect();
        state.proprietary[index] = !linkage.gpl_compatible;
        let mut findings = Vec::new();
        if circular[index] {
            let what = "it needs modules that need it: none of them can be the first";
            findings.push(Finding::refused(Reason::Cycle, Errno::NOENT, what));
        }
        let summary = resolver.module(index, linkage, &mut state, &mut findings);
        *report.stage(Stage::Symbols, summary) = findings;
        if report.verdict() == Verdict::Refused {
            state.refused.insert(index);
        }
    }
    let mut place = vec![0; order.len()];
    for (position, index) in order.iter().enumerate() {
        place[*index] = position;
    }
    let mut reports: Vec<_> = reports.into_iter().zip(place).collect();
    reports.sort_by_key(|(_, place)| *place);
    let kept = reports.into_iter().filter(|((_, loaded), _)| !loaded);
    kept.map(|((report, _), _)| report).collect()
}

/// What is known of the modules that come before.
struct State {
    proprietary: Vec<bool>,
    refused: HashSet<usize>,
    suggestions: usize,
    /// The symbols of the module that is looked at of which nothing is known.
    unknown: Vec<String>,
}

struct Resolver<'a> {
    kernel: &'a Kernel,
    exporters: HashMap<&'a str, (usize, &'a Export)>,
    names: HashSet<&'a str>,
}

impl Resolver<'_> {
    /// `find_symbol()`: the kernel comes before the modules.
    fn find(&self, name: &str) -> Found<'_> {
        let known = self.kernel.export(name);
        if let Some((export, Owner::Vmlinux)) = known {
            return Found::Kernel(export);
        }
        if let Some((index, export)) = self.exporters.get(name) {
            return Found::Module(*index, export);
        }
        match known {
            // A module that is looked at does not have what it once had.
            Some((_, Owner::Module(owner))) if self.names.contains(owner.as_str()) => {
                Found::Nowhere
            }
            Some((export, Owner::Module(owner))) => Found::Elsewhere(owner, export),
            _ => Found::Nowhere,
        }
    }

    /// The modules of the set that one takes symbols from.
    fn needs(&self, linkage: Option<&Linkage>) -> Vec<usize> {
        let imports = linkage.iter().flat_map(|l| &l.imports);
        let needs: BTreeSet<usize> = imports
            .filter_map(|import| match self.find(&import.name) {
                Found::Module(index, _) => Some(index),
                _ => None,
            })
            .collect();
        needs.into_iter().collect()
    }

    /// All symbols of a module, in the order of its table, as it matters for
    /// what symbols for the GPL only entail.
    fn module(
        &self,
        index: usize,
        linkage: &Linkage,
        state: &mut State,
        findings: &mut Vec<Finding>,
    ) -> String {
        let mut gpl_used = false;
        let mut gpl_unknown = Vec::new();
        let (mut of_kernel, mut of_modules) = (0, BTreeSet::<&str>::new());
        let mut elsewhere = BTreeSet::<&str>::new();
        let mut blockers = BTreeSet::<&str>::new();
        let module = &linkage.struct_name;
        if let Some(namespace) = linkage.namespaces.iter().find(|n| n.starts_with("module:")) {
            findings.push(
                Finding::refused(
                    Reason::Namespace,
                    Errno::PERM,
                    format!("it imports the namespace {namespace}, which no module can"),
                )
                .says(format!(
                    "{module}: module tries to import module namespace: {namespace}"
                )),
            );
        }
        let mut misplaced = linkage.misplaced.iter().peekable();
        for import in &linkage.imports {
            while let Some(symbol) = misplaced.next_if(|m| m.symbol < import.symbol) {
                findings.push(no_address(module, symbol));
            }
            let found = self.find(&import.name);
            let (export, owner) = match found {
                Found::Kernel(export) => {
                    of_kernel += 1;
                    (export, None)
                }
                Found::Module(owner, export) => {
                    if let Some((name, _)) = self.exporters.get_key_value(import.name.as_str())
                        && state.refused.contains(&owner)
                        && !import.weak
                    {
                        blockers.insert(name);
                    }
                    of_modules.insert(&import.name);
                    (export, Some(owner))
                }
                Found::Elsewhere(owner, export) => {
                    let running = self.kernel.running.as_ref();
                    if running.is_none_or(|r| r.module(owner).is_none()) {
                        elsewhere.insert(owner);
                    }
                    of_modules.insert(&import.name);
                    (export, None)
                }
                Found::Nowhere => {
                    findings.extend(self.missing(linkage, import, state));
                    continue;
                }
            };
            let proprietary = state.proprietary[index];
            if export.gpl_only == Some(true) && proprietary {
                findings.push(gpl_only(linkage, import));
                continue;
            }
            if export.gpl_only.is_none() && proprietary {
                gpl_unknown.push(import.name.clone());
            }
            gpl_used |= export.gpl_only == Some(true);
            // inherit_taint().
            if let Some(owner) = owner
                && state.proprietary[owner]
            {
                if gpl_used {
                    findings.push(unknown_symbol(
                        linkage,
                        import,
                        Reason::GplOnly,
                        Errno::NOENT,
                        format!(
                            "it takes {} from a module that is not under the GPL, and takes \
                             symbols that are for the GPL only as well",
                            import.name
                        ),
                    ));
                    continue;
                }
                state.proprietary[index] = true;
            }
            if let Some(finding) = self.version(linkage, import, export) {
                findings.push(finding);
                continue;
            }
            findings.extend(self.namespace(linkage, import, export));
        }
        let unknown = std::mem::take(&mut state.unknown);
        findings.extend(in_one(&unknown).map(|symbols| {
            let what = format!(
                "whether this kernel has {symbols} cannot be known: its symbols are in no file \
                 here (Module.symvers, System.map)"
            );
            Finding::undecided(Reason::Unknown, what)
        }));
        findings.extend(in_one(&gpl_unknown).map(|symbols| {
            let what = format!(
                "whether {symbols} may be used by a module that is not under the GPL, as this \
                 one, cannot be known: there is no Module.symvers here"
            );
            Finding::undecided(Reason::Unknown, what)
        }));
        findings.extend(misplaced.map(|symbol| no_address(module, symbol)));
        for name in blockers {
            findings.push(Finding::refused(
                Reason::Dependency,
                Errno::NOENT,
                format!("the module that has {name} does not load itself"),
            ));
        }
        if !elsewhere.is_empty() {
            let names: Vec<&str> = elsewhere.into_iter().collect();
            findings.push(Finding::note(
                Reason::Dependency,
                format!(
                    "to be loaded first, and not here to be checked: {}",
                    names.join(", ")
                ),
            ));
        }
        self.duplicates(index, linkage, findings);
        conclude(findings);
        match (of_kernel, of_modules.len()) {
            (0, 0) => "takes none".to_owned(),
            (kernel, 0) => format!("takes {kernel} of the kernel's"),
            (kernel, modules) => format!("takes {kernel} of the kernel's, {modules} of modules'"),
        }
    }

    /// A symbol that nobody has.
    fn missing(&self, linkage: &Linkage, import: &Import, state: &mut State) -> Option<Finding> {
        // ignore_undef_symbol().
        if import.weak || import.name == "_GLOBAL_OFFSET_TABLE_" {
            return None;
        }
        let name = &import.name;
        if !self.kernel.knows_exports() {
            // Said of all of them at once.
            state.unknown.push(name.clone());
            return None;
        }
        let shown = rustc_demangle::demangle(name);
        let what = format!("neither the kernel nor any module that is here exports {shown:#}");
        let mut finding =
            unknown_symbol(linkage, import, Reason::UnknownSymbol, Errno::NOENT, what);
        if state.suggestions > 0 {
            state.suggestions -= 1;
            let similar = self.similar(name);
            if !similar.is_empty() {
                finding.help = Some(format!("there is {}", similar.join(", ")));
            }
        }
        Some(finding)
    }

    /// Exported symbols with a name much like one, the most similar first.
    fn similar(&self, name: &str) -> Vec<String> {
        const LIKE: f64 = 0.8;
        const MOST: usize = 3;
        let names = self
            .kernel
            .export_names()
            .chain(self.exporters.keys().copied());
        let mut similar: Vec<(f64, &str)> = names
            .filter(|other| other.len().abs_diff(name.len()) <= name.len() / 4 + 1)
            .map(|other| (strsim::normalized_damerau_levenshtein(name, other), other))
            .filter(|(likeness, _)| *likeness >= LIKE)
            .collect();
        similar.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        similar.dedup();
        let names = similar.into_iter().take(MOST);
        names.map(|(_, name)| name.to_owned()).collect()
    }

    /// `check_version()`.
    fn version(&self, linkage: &Linkage, import: &Import, export: &Export) -> Option<Finding> {
        if !self.kernel.modversions() {
            return None;
        }
        let (module, name) = (&linkage.struct_name, &import.name);
        let refused = |reason, what: String, line: String| {
            let finding = unknown_symbol(linkage, import, reason, Errno::INVAL, what);
            Some(finding.says(line))
        };
        match (export.crc?, import.crc, linkage.versions) {
            // Said of the module as a whole.
            (_, _, Versions::None) => None,
            (wanted, Some(crc), _) if crc != wanted => refused(
                Reason::Version,
                format!(
                    "its checksum of {name} is {crc:#010x}, and that of the kernel's is \
                     {wanted:#010x}: the declarations differ"
                ),
                format!("{module}: disagrees about version of symbol {name}"),
            ),
            (_, None, Versions::Basic) => refused(
                Reason::NoVersion,
                format!("it has no checksum of {name}"),
                format!("{module}: no symbol version for {name}"),
            ),
            _ => None,
        }
    }

    /// `verify_namespace_is_imported()`.
    fn namespace(&self, linkage: &Linkage, import: &Import, export: &Export) -> Option<Finding> {
        let namespace = export.namespace.as_ref()?;
        let (module, name) = (&linkage.struct_name, &import.name);
        let for_module = namespace.strip_prefix("module:");
        if for_module.is_some_and(|names| is_for(names, module))
            || linkage.namespaces.contains(namespace)
        {
            return None;
        }
        let what = format!("{name} is in the namespace {namespace}, which it does not import");
        let line = format!(
            "{module}: module uses symbol ({name}) from namespace {namespace}, but does not import it."
        );
        let lenient = "CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS";
        let finding = match self.kernel.is_set(lenient) {
            Some(true) => Finding::warning(Reason::Namespace, what),
            _ => unknown_symbol(linkage, import, Reason::Namespace, Errno::INVAL, what),
        };
        let help = match for_module {
            Some(names) => format!("it is for {names} alone"),
            None => format!("say MODULE_IMPORT_NS(\"{namespace}\") in it"),
        };
        Some(finding.says(line).help(help))
    }

    /// `verify_exported_symbols()`.
    fn duplicates(&self, index: usize, linkage: &Linkage, findings: &mut Vec<Finding>) {
        for export in &linkage.exports {
            let name = export.name.as_str();
            let owner = match self.kernel.export(name) {
                Some((_, Owner::Vmlinux)) => Some("kernel"),
                Some((_, Owner::Module(owner))) if *owner != linkage.struct_name => {
                    let running = self.kernel.running.as_ref();
                    running
                        .is_some_and(|r| r.module(owner).is_some())
                        .then_some(owner.as_str())
                }
                _ => None,
            };
            let other = self.exporters.get(name).filter(|(i, _)| *i != index);
            let says = |owner: &str| {
                let module = &linkage.struct_name;
                format!("{module}: exports duplicate symbol {name} (owned by {owner})")
            };
            if let Some(owner) = owner {
                findings.push(
                    Finding::refused(
                        Reason::DuplicateSymbol,
                        Errno::NOEXEC,
                        format!("it exports {name}, which is there already"),
                    )
                    .says(says(owner)),
                );
            } else if other.is_some() {
                findings.push(Finding::refused(
                    Reason::DuplicateSymbol,
                    Errno::NOEXEC,
                    format!("it exports {name}, as another of these modules does"),
                ));
            }
        }
    }
}

/// `verify_module_namespace()`: names, separated by commas, each of which may
/// end with an asterisk. Dashes are as good as underscores (`mod_strncmp()`).
fn is_for(names: &str, module: &str) -> bool {
    let module = module.replace('-', "_");
    let names = names.replace('-', "_");
    names.split(',').any(|name| match name.strip_suffix('*') {
        Some(prefix) => module.starts_with(prefix),
        None => module == name,
    })
}

/// Several symbols in a few words; nothing for none.
fn in_one(symbols: &[String]) -> Option<String> {
    let shown = |name: &String| format!("{:#}", rustc_demangle::demangle(name));
    match symbols {
        [] => None,
        [one] => Some(shown(one)),
        [first, ..] => Some(format!(
            "{} of the symbols that it takes (the first is {})",
            symbols.len(),
            shown(first)
        )),
    }
}

/// A symbol that the loader can give no address.
fn no_address(module: &str, symbol: &Misplaced) -> Finding {
    let Misplaced {
        name,
        section,
        last,
        ..
    } = symbol;
    if symbol.is_common() {
        let what = format!("its symbol {name} is common: the loader gives such symbols no memory");
        return Finding::refused(Reason::CommonSymbol, Errno::NOEXEC, what)
            .says(format!("{module}: please compile with -fno-common"))
            .help("compile with -fno-common, and define each variable once");
    }
    let what = format!("its symbol {name} is in section {section}, and the last one is {last}");
    Finding::refused(Reason::SymbolSection, Errno::NOEXEC, what).says(format!(
        "{module}: Symbol {name} has an invalid section index {section} (max {last})"
    ))
}

fn gpl_only(linkage: &Linkage, import: &Import) -> Finding {
    let what = format!(
        "{} is for modules under the GPL only, and this one's licence is not one of those \
         (MODULE_LICENSE)",
        import.name
    );
    unknown_symbol(linkage, import, Reason::GplOnly, Errno::NOENT, what)
        .help("to the kernel's loader it is as if the symbol were not there")
}

/// A symbol that the loader does not resolve, with the line that it logs.
fn unknown_symbol(
    linkage: &Linkage,
    import: &Import,
    reason: Reason,
    errno: Errno,
    what: String,
) -> Finding {
    let (module, name, number) = (&linkage.struct_name, &import.name, errno.raw_os_error());
    Finding::refused(reason, errno, what)
        .says(format!("{module}: Unknown symbol {name} (err -{number})"))
}

/// The loader goes on after a symbol that it cannot resolve, and the last one
/// tells what the system call returns.
fn conclude(findings: &mut [Finding]) {
    let symbols = |f: &&mut Finding| {
        f.severity == Severity::Refused
            && !matches!(f.reason, Reason::DuplicateSymbol | Reason::Cycle)
    };
    let last = findings.iter_mut().rfind(symbols);
    let Some(errno) = last.and_then(|f| f.errno.clone()) else {
        return;
    };
    for finding in findings.iter_mut().filter(|f| symbols(f)) {
        finding.errno = Some(errno.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_namespace_names_modules_or_their_beginnings() {
        assert!(is_for("kvm,kvm-intel", "kvm"));
        assert!(is_for("kvm*", "kvm_amd"));
        assert!(!is_for("kvm", "kvm_amd"));
        assert!(!is_for("", "kvm"));
    }

    #[test]
    fn a_module_namespace_takes_dashes_for_underscores() {
        assert!(is_for("kvm-intel,kvm-amd", "kvm_amd"));
        assert!(is_for("kvm_intel", "kvm-intel"));
        assert!(is_for("baz-*", "baz_2"));
        assert!(!is_for("kvm-intel", "kvm"));
    }
}
