// SPDX-License-Identifier: MIT OR Apache-2.0
//! The modules that `--module` names: which files, in which order, and why the
//! guest's kernel refused one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferroce_kmod::check::{self, Finding, Reason, Request, Severity, Stage, Verdict};
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::info::Info;
use ferroce_kmod::kernel::Kernel;
use ferroce_kmod::linkage::name_of_path;
use ferroce_lab::session;

use super::args::ModuleArg;
use super::Ready;
use crate::module::text::paragraph;

/// What the driver is called.
const DRIVER: &str = "ferroce";

/// The names of the modules that one needs.
fn depends(path: &Path) -> Result<Vec<String>> {
    let info = Info::of(&ModuleFile::read(path)?)?;
    let mut fields = info.modinfo.iter();
    let depends = fields.find_map(|(name, value)| (name == "depends").then_some(value.as_str()));
    let names = depends.unwrap_or_default().split(',');
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

impl Ready {
    /// The files that a command line asks for, in the order to load them in.
    ///
    /// `ferroce` is the driver, and what that needs is loaded as well.
    pub fn module_files(
        &mut self,
        wanted: &[ModuleArg],
        kernel_dir: &Path,
    ) -> Result<Vec<session::ModuleFile>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let kernel = self.as_checked()?;
        let mut files = Vec::new();
        for module in wanted {
            let mut path = module.path.clone();
            if path.is_dir() {
                files.extend(files_of_folder(&kernel, module)?);
                continue;
            }
            if path == Path::new(DRIVER) && !path.exists() {
                path = self.driver(kernel_dir)?;
                self.image.stack.extend(depends(&path)?);
            }
            files.push(session::ModuleFile {
                path,
                parameters: module.parameters.clone(),
            });
        }
        Ok(files)
    }

    /// Why the guest's kernel refused a module, as `ferroce module check` has it. `said` is what the
    /// kernel said.
    pub fn why_refused(&self, file: &session::ModuleFile, said: &str) -> String {
        let Ok(kernel) = self.as_checked() else {
            return String::new();
        };
        let mut request = Request::new(&file.path);
        for parameter in &file.parameters {
            let text = parameter.to_string_lossy();
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            let value = Some(value.to_owned());
            request.params.push((name.to_owned(), value));
        }
        let report = check::check(&kernel, &[request]);
        let asked = report.modules.iter().find(|module| module.asked_for);
        let Some(module) = asked else {
            return String::new();
        };
        match module.verdict() {
            Verdict::Loads if said.contains("Unknown symbol") && !module.needs.is_empty() => {
                let needed = report.modules.iter().filter(|m| !m.asked_for);
                let needed = needed.map(|m| format!("\n  --module {}", m.path.display()));
                return format!(
                    "It needs {}. Load first what is not loaded yet of:{}",
                    module.needs.join(", "),
                    needed.collect::<String>()
                );
            }
            Verdict::Loads => {
                return "`ferroce module check` finds nothing to refuse: its own init did"
                    .to_owned();
            }
            Verdict::Undecided => return String::new(),
            Verdict::Refused => {}
        }
        let refusals = module.findings();
        let refusals = refusals.filter(|(_, f)| f.severity == Severity::Refused);
        let refusals: Vec<(Stage, &Finding)> = refusals.collect();
        let foreign = [Reason::Machine, Reason::StructModule, Reason::Vermagic];
        let mut out = String::new();
        if refusals.iter().any(|(_, f)| foreign.contains(&f.reason)) {
            out += &format!(
                "It was built for another kernel (this is {}).\n",
                self.image
            );
        }
        out += "`ferroce module check` says why:\n";
        for (stage, finding) in refusals {
            let what = format!("{}: {}", stage.name(), finding.what);
            out += &paragraph("  - ", 4, &what);
            if let Some(help) = &finding.help {
                out += &paragraph("    > ", 6, help);
            }
        }
        out.truncate(out.trim_end().len());
        out
    }

    /// The kernel, as the module tools know one.
    fn as_checked(&self) -> Result<Kernel> {
        Ok(Kernel::installed(&self.image.modules)?)
    }
}

/// The modules in a folder, those that others of them need first.
fn files_of_folder(kernel: &Kernel, wanted: &ModuleArg) -> Result<Vec<session::ModuleFile>> {
    let dir = &wanted.path;
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|x| x == "ko"));
    paths.sort();
    anyhow::ensure!(
        !paths.is_empty(),
        "--module {0}: there is no module (*.ko) in {0}; is it built?",
        dir.display()
    );
    let requests: Vec<Request> = paths.iter().map(Request::new).collect();
    let report = check::check(kernel, &requests);
    let place = |path: &PathBuf| report.modules.iter().position(|m| m.path == *path);
    paths.sort_by_key(place);
    let mut files: Vec<session::ModuleFile> = paths
        .into_iter()
        .map(|path| session::ModuleFile {
            path,
            parameters: Vec::new(),
        })
        .collect();
    for parameter in &wanted.parameters {
        let (file, parameter) = recipient(&mut files, parameter, dir)?;
        file.parameters.push(parameter);
    }
    Ok(files)
}

/// Which of a folder's modules a parameter is for: MODULE.NAME=VALUE, or NAME=VALUE of the only one.
fn recipient<'a>(
    files: &'a mut [session::ModuleFile],
    parameter: &OsString,
    dir: &Path,
) -> Result<(&'a mut session::ModuleFile, OsString)> {
    let text = parameter.to_string_lossy();
    if let [file] = files {
        return Ok((file, parameter.clone()));
    }
    let name = text.split('=').next().unwrap_or_default();
    let module = name.split_once('.').map(|(module, _)| module);
    let module = module.with_context(|| {
        format!(
            "--module {} {text}: say for which of its modules, as in MODULE.{text}",
            dir.display()
        )
    })?;
    let of = module.replace('-', "_");
    let file = files.iter_mut().find(|f| name_of_path(&f.path) == of);
    let file = file.with_context(|| {
        format!(
            "--module {0} {text}: there is no {module}.ko in {0}",
            dir.display()
        )
    })?;
    Ok((file, text[module.len() + 1..].into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_for_a_folder_says_for_which_module() {
        let file = |name: &str| session::ModuleFile {
            path: name.into(),
            parameters: Vec::new(),
        };
        let dir = Path::new("modules");
        let mut two = [file("a.ko"), file("b-c.ko")];
        let (found, parameter) = recipient(&mut two, &"b_c.n=1.5".into(), dir).unwrap();
        assert_eq!(
            (found.path.to_str(), parameter),
            (Some("b-c.ko"), "n=1.5".into())
        );
        let error = recipient(&mut two, &"n=1".into(), dir).unwrap_err();
        assert!(error.to_string().contains("MODULE.n=1"), "{error}");
        assert!(recipient(&mut two, &"d.n=1".into(), dir).is_err());
    }
}
