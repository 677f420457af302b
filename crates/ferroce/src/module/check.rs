// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module check`, and `deps`, which is one of its by-products.

use std::collections::BTreeMap;

use anyhow::Result;
use ferroce_kmod::check::{self, Finding, ModuleReport, Report, Request, Severity, Verdict};
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::info::Info;
use ferroce_kmod::kernel::{Kernel, Owner};
use ferroce_kmod::linkage::name_of_path;
use ferroce_kmod::Error;

use super::args;
use super::text::{painted, paragraph, plain, show, show_json, Color};

pub fn run(args: &args::Check) -> Result<i32> {
    let requests = requests(args)?;
    let kernel = super::kernel(args.kernel.as_deref())?;
    let report = check::check(&kernel, &requests);
    match args.json {
        true => show_json(&report)?,
        false => show(&text(&report))?,
    }
    Ok(match report.verdict() {
        Verdict::Loads => 0,
        Verdict::Refused => 1,
        Verdict::Undecided => 2,
    })
}

fn requests(args: &args::Check) -> Result<Vec<Request>> {
    let mut requests: Vec<Request> = args.files.iter().map(Request::new).collect();
    for param in &args.param {
        let (name, value) = super::parameter(param);
        let (request, name) = match (name.split_once('.'), &mut requests[..]) {
            (None, [request]) => (request, name),
            (Some((module, name)), requests) => {
                let module = module.replace('-', "_");
                let mut all = requests.iter_mut();
                let request = all.find(|r| name_of_path(&r.path) == module);
                let request = request.ok_or_else(|| {
                    Error::Usage(format!("--param {param}: {module} is none of the FILEs"))
                })?;
                (request, name.to_owned())
            }
            (None, _) => {
                return Err(Error::Usage(format!(
                    "--param {param}: say for which of the FILEs, as in MODULE.{name}=VALUE"
                ))
                .into())
            }
        };
        request.params.push((name, value));
    }
    Ok(requests)
}

fn text(report: &Report) -> String {
    let mut out = paragraph("kernel: ", 8, &report.kernel);
    let (asked, needed): (Vec<_>, Vec<_>) = report.modules.iter().partition(|m| m.asked_for);
    // A page for each of a few modules; of many, those that matter.
    let brief = asked.len() > 8;
    for module in &asked {
        if !brief || module.verdict() != Verdict::Loads {
            out += &module_text(module);
        }
    }
    for module in &needed {
        if module.verdict() != Verdict::Loads {
            out += &module_text(module);
        }
    }
    let order: Vec<&str> = report.modules.iter().map(|m| m.name.as_str()).collect();
    if order.len() > 1 && !brief {
        out += &paragraph("\nto be loaded in this order: ", 2, &order.join(", "));
    }
    if brief {
        let count = |verdict| asked.iter().filter(|m| m.verdict() == verdict).count();
        out += &format!(
            "\n{} modules: {} would load, {} would not, {} cannot be known\n",
            asked.len(),
            count(Verdict::Loads),
            count(Verdict::Refused),
            count(Verdict::Undecided)
        );
    }
    out
}

fn module_text(module: &ModuleReport) -> String {
    let (color, verdict) = match (module.verdict(), module.refusal()) {
        (Verdict::Loads, _) => (Color::Green, "would load".to_owned()),
        (Verdict::Undecided, _) => (Color::Yellow, "cannot be known".to_owned()),
        (Verdict::Refused, refusal) => {
            let (stage, errno) = match refusal {
                Some((stage, finding)) => (stage.name(), finding.errno.as_deref()),
                None => ("", None),
            };
            let before = match module.may_stop_before() {
                true => ", or before",
                false => "",
            };
            let text = format!("refused at {stage}, {}{before}", errno.unwrap_or_default());
            (Color::Red, text)
        }
    };
    let name = painted(Color::Bold, &plain(&module.name));
    let file = plain(&module.path.to_string_lossy()).into_owned();
    let mut out = format!("\n{name}: {}\n  {file}\n", painted(color, &verdict));
    for stage in &module.stages {
        let worst = stage.findings.iter().map(|f| f.severity).max();
        let mark = match worst {
            Some(Severity::Refused) => painted(Color::Red, "NO"),
            Some(Severity::Undecided) => painted(Color::Yellow, "??"),
            Some(Severity::Warning) => painted(Color::Yellow, "ok"),
            _ => painted(Color::Green, "ok"),
        };
        let label = format!("  {mark}  {:<15} ", stage.stage.name());
        out += &paragraph(&label, 22, &stage.summary);
        for finding in &stage.findings {
            out += &finding_text(finding);
        }
    }
    out
}

fn finding_text(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Refused => "      - ",
        Severity::Undecided => "      ? ",
        Severity::Warning => "      ! ",
        Severity::Note => "        ",
    };
    let mut out = paragraph(mark, 8, &finding.what);
    if let Some(line) = &finding.kernel_says {
        out += &paragraph("        the kernel logs: ", 10, line);
    }
    if let Some(help) = &finding.help {
        out += &paragraph("        > ", 10, help);
    }
    out
}

/// The modules that one needs, and for which symbols.
pub fn deps(args: &args::Deps) -> Result<i32> {
    let kernel = super::kernel(args.kernel.as_deref())?;
    let path = super::find_file(&kernel.modules, &args.module)?;
    let info = Info::of(&ModuleFile::read(&path)?)?;
    let mut needs = BTreeMap::<String, Vec<String>>::new();
    let mut missing = Vec::new();
    for import in &info.linkage.imports {
        match owner(&kernel, &import.name) {
            Some(Some(module)) => needs.entry(module).or_default().push(import.name.clone()),
            Some(None) => {}
            None if import.weak => {}
            None => missing.push(import.name.clone()),
        }
    }
    // A module may need one without taking a symbol of it.
    for module in info.modinfo.iter().filter(|(name, _)| name == "depends") {
        for name in module.1.split(',').filter(|name| !name.is_empty()) {
            needs.entry(name.to_owned()).or_default();
        }
    }
    if args.json {
        show_json(&serde_json::json!({
            "name": info.linkage.name,
            "needs": needs,
            "unknown": missing,
        }))?;
        return Ok(0);
    }
    let mut out = match needs.is_empty() {
        true => format!("{} needs no other module\n", plain(&info.linkage.name)),
        false => String::new(),
    };
    for (module, symbols) in &needs {
        let what = match symbols.is_empty() {
            true => "no symbol of it".to_owned(),
            false => demangled(symbols),
        };
        out += &paragraph(&format!("{}: ", plain(module)), 2, &what);
    }
    if !missing.is_empty() {
        out += &paragraph("nobody that is known here has: ", 2, &demangled(&missing));
    }
    show(&out)?;
    Ok(0)
}

/// Symbols for a person: those of Rust by their paths, which may have spaces.
fn demangled(symbols: &[String]) -> String {
    let shown = |name: &String| format!("{:#}", rustc_demangle::demangle(name));
    let separator = match symbols.iter().any(|name| name.starts_with("_R")) {
        true => ", ",
        false => " ",
    };
    let names: Vec<String> = symbols.iter().map(shown).collect();
    names.join(separator)
}

/// The module that has a symbol; none for the kernel's own.
fn owner(kernel: &Kernel, symbol: &str) -> Option<Option<String>> {
    match kernel.export(symbol) {
        Some((_, Owner::Vmlinux)) => Some(None),
        Some((_, Owner::Module(name))) => Some(Some(name.clone())),
        None => kernel
            .modules
            .owner(symbol)
            .map(|name| Some(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_rust_are_shown_by_their_paths() {
        let symbols = ["_RNvCsj1_7greeter5greet", "ib_unregister_device"].map(str::to_owned);
        assert_eq!(demangled(&symbols), "greeter::greet, ib_unregister_device");
        assert_eq!(demangled(&symbols[1..]), "ib_unregister_device");
    }
}
