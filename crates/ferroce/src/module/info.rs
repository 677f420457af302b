// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module info`.

use anyhow::Result;
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::info::{Info, Role};
use ferroce_kmod::linkage::{Export, Versions};
use ferroce_kmod::signature;

use super::args;
use super::text::{bytes, paragraph, plain, rows, show, show_json, table};

/// How many of the imports are shown to a person.
const IMPORTS: usize = 40;

pub fn run(args: &args::Info) -> Result<i32> {
    let tree = super::running_modules();
    let mut infos = Vec::new();
    for module in &args.modules {
        let path = super::find_file(&tree, module)?;
        infos.push(Info::of(&ModuleFile::read(path)?)?);
    }
    match (args.json, &infos[..]) {
        (true, [info]) => show_json(info)?,
        (true, infos) => show_json(&infos)?,
        (false, infos) => {
            let texts: Vec<String> = infos.iter().map(report).collect();
            show(&texts.join("\n"))?;
        }
    }
    Ok(0)
}

fn report(info: &Info) -> String {
    let mut out = fields(info);
    out += &properties(info);
    out += &memory(info);
    out += &sections(info);
    out += &params(info);
    out += &relocations(info);
    out += &imports(info);
    out += &exports(info);
    out
}

/// What modinfo(8) shows, but the signature, which has a line of its own.
fn fields(info: &Info) -> String {
    const SIGNATURE: [&str; 6] = [
        "sig_id",
        "signer",
        "sig_key",
        "sig_hashalgo",
        "signature",
        "parm",
    ];
    let mut out = String::new();
    for (name, value) in info.fields() {
        if !SIGNATURE.contains(&name) {
            let label = format!("{:<16}", format!("{}:", plain(name)));
            out += &paragraph(&label, 16, &value);
        }
    }
    out
}

fn properties(info: &Info) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        out += &paragraph(&format!("{:<16}", format!("{name}:")), 16, value);
    };
    let compression = info
        .compression
        .map(|c| format!(", compressed by {}", c.name()));
    line(
        "file",
        &format!(
            "{} for {}{}",
            bytes(info.size),
            info.machine.name(),
            compression.unwrap_or_default()
        ),
    );
    let language = if info.rust { "Rust" } else { "C" };
    let compilers = match info.compilers.is_empty() {
        true => String::new(),
        false => format!(" ({})", info.compilers.join("; ")),
    };
    line("written in", &format!("{language}{compilers}"));
    let hardening: Vec<&str> = info.hardening.iter().map(|h| h.name()).collect();
    let hardening = match hardening.is_empty() {
        true => "nothing that the file tells".to_owned(),
        false => hardening.join(", "),
    };
    line("hardened with", &hardening);
    line(
        "checksums",
        match info.linkage.versions {
            Versions::None => "none of what it imports",
            Versions::Basic => "of what it imports (modversions)",
            Versions::Extended => "of what it imports (extended modversions)",
        },
    );
    match (&info.signature, &info.signature_error) {
        (Some(signature), _) => {
            let what = if signature.key_is_serial {
                "serial number"
            } else {
                "key"
            };
            line(
                "signed by",
                &format!(
                    "{}, {what} {}, {} with {}",
                    signature.signer.as_deref().unwrap_or("an unnamed key"),
                    signature::hex(&signature.key),
                    signature.algorithm,
                    signature.hash
                ),
            );
        }
        (None, Some(error)) => line("signed by", &format!("a broken signature: {error}")),
        (None, None) => line("signed by", "nobody"),
    }
    if let Some(id) = &info.build_id {
        line("build id", id);
    }
    if !info.linkage.namespaces.is_empty() {
        line("namespaces", &info.linkage.namespaces.join(", "));
    }
    out
}

fn memory(info: &Info) -> String {
    let mut all = table(&["memory", "bytes", "pages", ""]);
    for memory in info.memory.iter().filter(|m| m.bytes > 0) {
        all.add_row([
            memory.class.name().to_owned(),
            memory.bytes.to_string(),
            memory.pages.to_string(),
            if memory.class.is_init() {
                "freed after init"
            } else {
                ""
            }
            .to_owned(),
        ]);
    }
    if info.per_cpu > 0 {
        let each = "for each processor";
        all.add_row(["per-CPU data", &info.per_cpu.to_string(), "", each]);
    }
    format!("\n{}", rows(&all))
}

fn sections(info: &Info) -> String {
    let mut roles: Vec<Role> = info.sections.iter().map(|s| s.role).collect();
    roles.sort();
    roles.dedup();
    let mut all = table(&["sections", "bytes", ""]);
    for role in roles {
        let of_role = info.sections.iter().filter(|s| s.role == role);
        let sections: Vec<_> = of_role.filter(|s| s.size > 0).collect();
        if sections.is_empty() {
            continue;
        }
        let size: u64 = sections.iter().map(|s| s.size).sum();
        let names: Vec<_> = sections.iter().map(|s| plain(&s.name)).collect();
        all.add_row([role.name().to_owned(), size.to_string(), names.join(" ")]);
    }
    format!("\n{}", rows(&all))
}

fn params(info: &Info) -> String {
    if info.params.is_empty() {
        return String::new();
    }
    let mut all = table(&["parameter", "type", "takes", ""]);
    for param in &info.params {
        all.add_row([
            plain(&param.name).into_owned(),
            plain(param.type_name.as_deref().unwrap_or("-")).into_owned(),
            param.kind.describe(),
            plain(param.description.as_deref().unwrap_or_default()).into_owned(),
        ]);
    }
    format!("\n{}", rows(&all))
}

fn relocations(info: &Info) -> String {
    if info.relocations.is_empty() {
        return String::new();
    }
    let mut all = table(&["relocations", "count", ""]);
    for kind in &info.relocations {
        let refused = match kind.supported {
            true => "",
            false => "no loader can apply these",
        };
        all.add_row([&*kind.name, &kind.count.to_string(), refused]);
    }
    format!("\n{}", rows(&all))
}

fn imports(info: &Info) -> String {
    let imports = &info.linkage.imports;
    if imports.is_empty() {
        return String::new();
    }
    // Names from Rust as Rust has them.
    let shown = |name| format!("{:#}", rustc_demangle::demangle(name));
    let names = imports.iter().map(|i| shown(&i.name));
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(IMPORTS);
    names.truncate(IMPORTS);
    let mut text = names.join(", ");
    if more > 0 {
        text += &format!(" and {more} more (--json has all)");
    }
    format!(
        "\n{}",
        paragraph(&format!("imports {}: ", imports.len()), 2, &text)
    )
}

fn exports(info: &Info) -> String {
    let exports = &info.linkage.exports;
    if exports.is_empty() {
        return String::new();
    }
    let mut all = table(&["exports", "for", "namespace", "checksum"]);
    let row = |export: &Export| {
        [
            plain(&export.name).into_owned(),
            match export.gpl_only {
                Some(true) => "GPL".to_owned(),
                _ => "all".to_owned(),
            },
            export.namespace.clone().unwrap_or_default(),
            export
                .crc
                .map(|crc| format!("{crc:#010x}"))
                .unwrap_or_default(),
        ]
    };
    all.add_rows(exports.iter().map(row));
    format!("\n{}", rows(&all))
}
