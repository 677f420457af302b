// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest is told to do: the session, as its first process understands it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::hosts::Member;
use super::{ModuleFile, Session};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::guest;
use crate::image::Image;
use crate::job::{self, Job, Plugin, Text};
use crate::provider::Provider;
use crate::terminal;

impl Session {
    /// The job, with what else it needs in a folder of this run's own.
    pub(super) fn job(
        &self,
        image: &Image,
        provider: Option<&Provider>,
        folder: &Path,
        member: Option<&Member>,
    ) -> Result<Job> {
        let absolute = |path: &PathBuf| path.canonicalize().map_err(Error::file("find", path));
        let writable = self.writable.iter().map(|dir| {
            let dir = absolute(dir)?;
            if !dir.is_dir() {
                return Err(Error::Usage(format!("{} is not a folder", dir.display())));
            }
            Ok(Text::from(dir))
        });
        let module_files = self.module_files.iter().map(|module| {
            Ok(job::ModuleFile {
                path: Text::from(absolute(&module.path)?),
                parameters: Text::from(module.parameters()),
            })
        });
        let program =
            std::env::current_exe().map_err(Error::file("find", "the running program"))?;
        let current = std::env::current_dir().map_err(Error::file("find", "the current folder"))?;
        // The host's, where the guest's kernel does not say enough.
        let processors = folder.join("cpuinfo");
        let copied = image.backend == Backend::Uml
            && std::fs::read_to_string("/proc/cpuinfo")
                .and_then(|text| std::fs::write(&processors, cpuinfo(&text, self.cpus)))
                .is_ok();
        Ok(Job {
            backend: image.backend,
            command: self.command.iter().map(Text::from).collect(),
            folder: Text::from(current),
            environment: environment(image, member),
            host: member.map(|member| member.host),
            cards: self.cards,
            terminal: self.terminal.then(terminal::size),
            writable: writable.collect::<Result<_>>()?,
            program: Text::from(program),
            processors: copied.then(|| Text::from(processors)),
            modules_folder: Text::from(&image.modules),
            provider: provider.map(Plugin::from),
            modules: image.stack.clone(),
            module_files: module_files.collect::<Result<_>>()?,
        })
    }
}

impl ModuleFile {
    /// The parameters as one text for the kernel, which takes a value with
    /// spaces between quotation marks (`next_arg()` in lib/cmdline.c).
    fn parameters(&self) -> OsString {
        let mut text = Vec::new();
        for parameter in &self.parameters {
            let bytes = parameter.as_encoded_bytes();
            let equals = bytes.iter().position(|b| *b == b'=');
            let (name, value) = bytes.split_at(equals.map_or(bytes.len(), |at| at + 1));
            let quote: &[u8] = match value.iter().any(u8::is_ascii_whitespace) {
                true => b"\"",
                false => b"",
            };
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend([name, quote, value, quote].concat());
        }
        OsString::from_vec(text)
    }
}

/// The host's /proc/cpuinfo for a guest with `count` processors: as many blocks. Where the host has
/// fewer, its last one is there again, with other numbers.
fn cpuinfo(host: &str, count: u32) -> String {
    let blocks: Vec<&str> = host
        .split("\n\n")
        .filter(|block| block.starts_with("processor"))
        .collect();
    let mut text = String::new();
    for number in 0..count {
        let block = blocks.get(number as usize).or(blocks.last());
        let Some(block) = block else { break };
        for line in block.lines() {
            let name = line.split(':').next().unwrap_or_default();
            match name.trim_end() {
                "processor" => text += &format!("{name}: {number}"),
                "siblings" | "cpu cores" => text += &format!("{name}: {count}"),
                _ => text += line,
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// Our environment, for the guest's root.
fn environment(image: &Image, member: Option<&Member>) -> Vec<(Text, Text)> {
    let mut all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let mut set = |name: &str, value: OsString| {
        all.retain(|(n, _)| n != name);
        all.push((name.into(), value));
    };
    set("USER", "root".into());
    set("LOGNAME", "root".into());
    set("FERROCE_GUEST", image.name.clone().into());
    if let Some(member) = member {
        set("HOST", member.host.number.to_string().into());
        set("HOSTS", member.host.count.to_string().into());
    }
    let mut path = OsString::from(guest::PROGRAMS);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // Administrators' programs, which an ordinary user's PATH leaves out.
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    set("PATH", path);
    all.iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_as_many_processors_in_cpuinfo_as_it_has() {
        let host = "processor\t: 0\ncpu MHz\t\t: 2596.1\nsiblings\t: 2\n\n\
                    processor\t: 1\ncpu MHz\t\t: 2100.0\nsiblings\t: 2\n\n";
        assert_eq!(
            cpuinfo(host, 1),
            "processor\t: 0\ncpu MHz\t\t: 2596.1\nsiblings\t: 1\n\n"
        );
        assert_eq!(cpuinfo(host, 2), host);
        let three = cpuinfo(host, 3);
        assert_eq!(three.matches("cpu MHz\t\t: 2100.0").count(), 2);
        assert!(three.contains("processor\t: 2\n"), "{three}");
    }

    #[test]
    fn a_parameter_with_spaces_is_quoted_for_the_kernel() {
        let module = ModuleFile {
            path: "hello.ko".into(),
            parameters: ["name=Ada Lovelace".into(), "poll=0".into()].to_vec(),
        };
        assert_eq!(module.parameters(), "name=\"Ada Lovelace\" poll=0");
    }
}
