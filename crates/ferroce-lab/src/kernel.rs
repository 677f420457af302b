// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configures and builds a kernel, once for each source, configuration and
//! toolchain.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::backend::Flavor;
use crate::cache::{hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::fetch::{self, Source};
use crate::prerequisites::Toolchain;
use crate::process;
use crate::progress::{self, note, Task, Unit};

/// A kernel that is built and whole.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What kind it is.
    pub flavor: Flavor,
    /// Its source.
    pub source: Source,
    /// The folder it was built in, which out-of-tree modules are built against.
    pub dir: PathBuf,
    /// What `uname -r` says in it.
    pub release: String,
    /// What it was built with.
    pub toolchain: Toolchain,
    /// Whether this call had to build it.
    pub built_now: bool,
}

/// The file in the build folder with all of the build's output.
const LOG: &str = "ferroce-build.log";
/// The file in the build folder that `make` reads there, before the kernel's `Makefile`.
const MAKEFILE: &str = "GNUmakefile";
/// The file beside the build folders with the steps of the last full build.
const STEPS: &str = "steps";

impl Kernel {
    /// Finds the kernel in the cache, or makes it: fetches, configures, builds.
    ///
    /// `project` is the folder with `config/` in it. The compilers must be there
    /// ([`crate::prerequisites::ensure`]).
    pub fn ensure(cache: &Cache, project: &Path, flavor: Flavor) -> Result<Self> {
        let source = fetch::ensure(cache, flavor.series)?;
        let (kernel, fragment) = Self::locate(cache, project, flavor, source)?;
        if let Some(release) = kernel.whole() {
            return Ok(Self { release, ..kernel });
        }
        let _lock = cache.lock(&kernel.name(), &format!("building the kernel for {flavor}"))?;
        if let Some(release) = kernel.whole() {
            return Ok(Self { release, ..kernel });
        }
        let release = kernel.build(cache, &fragment)?;
        Ok(Self {
            release,
            built_now: true,
            ..kernel
        })
    }

    /// The same kernel, if it is in the cache already: nothing is built.
    pub fn find(cache: &Cache, project: &Path, flavor: Flavor) -> Result<Option<Self>> {
        let Some(source) = fetch::find(cache, flavor.series) else {
            return Ok(None);
        };
        let (kernel, _) = Self::locate(cache, project, flavor, source)?;
        let release = kernel.whole();
        Ok(release.map(|release| Self { release, ..kernel }))
    }

    /// Where the kernel is in the cache, or is to be, and its configuration.
    fn locate(
        cache: &Cache,
        project: &Path,
        flavor: Flavor,
        source: Source,
    ) -> Result<(Self, String)> {
        let toolchain = Toolchain::find(cache, flavor)?;
        let fragment = fragment(project, flavor, &source.version)?;
        let mut hasher = Sha256::new();
        for part in [
            flavor.backend.arch(),
            &source.version,
            &toolchain.identity,
            &fragment,
        ] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let key = &hex(&hasher.finalize())[..12];
        let dir = cache
            .path("kernel")
            .join(format!("{}-{key}", flavor.name()));
        let kernel = Self {
            flavor,
            source,
            dir,
            release: String::new(),
            toolchain,
            built_now: false,
        };

        Ok((kernel, fragment))
    }

    /// The kernel image.
    pub fn image(&self) -> PathBuf {
        self.dir.join(self.flavor.backend.image())
    }

    /// What tells it from others: the name of its folder.
    pub fn name(&self) -> String {
        self.dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// `make` for this kernel.
    pub fn make(&self) -> Command {
        self.toolchain.make(self.flavor)
    }

    /// The release, if all that a guest is made of is as it was built.
    fn whole(&self) -> Option<String> {
        let boots = |path: &Path| !path.starts_with("rust");
        match Seal::check(&self.dir, boots) {
            Found::Whole => Some(self.read_release()?),
            Found::Nothing => None,
            Found::Damaged(products) => {
                for product in &products {
                    note("Damaged", &self.dir.join(product).display().to_string());
                }
                None
            }
        }
    }

    fn read_release(&self) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("include/config/kernel.release")).ok()?;
        Some(text.trim().to_owned())
    }

    fn build(&self, cache: &Cache, fragment: &str) -> Result<String> {
        let started = Instant::now();
        let resumed = self.dir.join(".config").exists();
        if let Found::Damaged(products) = Seal::check(&self.dir, |_| true) {
            // Only what make would believe to be up to date needs to go.
            for product in products {
                let _ = fs::remove_file(self.dir.join(product));
            }
        }
        Seal::remove(&self.dir)?;
        fs::create_dir_all(&self.dir).map_err(Error::file("create", &self.dir))?;

        let what = format!(
            "Linux {} for {}{}",
            self.source.version,
            self.flavor,
            if resumed {
                ", resuming an unfinished build"
            } else {
                ""
            }
        );
        if !resumed {
            note(
                "Remaining",
                &format!(
                    "about {} minutes on two cores",
                    self.flavor.expected_minutes()
                ),
            );
        }
        self.configure(fragment)?;
        let steps = cache
            .path("kernel")
            .join(format!("{STEPS}-{}", self.flavor.name()));
        match self.compile(&what, &steps, !resumed) {
            Err(Error::Failed { .. }) if resumed => {
                note(
                    "Starting",
                    "again from nothing, because what was left could not be completed",
                );
                fs::remove_dir_all(&self.dir).map_err(Error::file("remove", &self.dir))?;
                fs::create_dir_all(&self.dir).map_err(Error::file("create", &self.dir))?;
                self.configure(fragment)?;
                self.compile(&what, &steps, true)?;
            }
            result => result?,
        }
        let release = self.read_release().ok_or_else(|| {
            Error::file("read", self.dir.join("include/config/kernel.release"))(
                std::io::ErrorKind::NotFound.into(),
            )
        })?;
        let makefile = self.dir.join(MAKEFILE);
        fs::write(&makefile, self.toolchain.makefile(self.flavor))
            .map_err(Error::file("write", &makefile))?;
        Seal::write(&self.dir, self.products()?)?;
        note(
            "Built",
            &format!(
                "Linux {release} for {} in {}",
                self.flavor,
                progress::time(started.elapsed())
            ),
        );
        Ok(release)
    }

    /// Writes the configuration, and checks that it kept all that was asked for:
    /// Kconfig drops an option whose dependencies are not met without a word.
    fn configure(&self, fragment: &str) -> Result<()> {
        let wanted = self.dir.join("ferroce.config");
        fs::write(&wanted, fragment).map_err(Error::file("write", &wanted))?;
        let output = self
            .make()
            .current_dir(&self.source.dir)
            .env("KCONFIG_ALLCONFIG", &wanted)
            .arg(format!("O={}", self.dir.display()))
            .arg("allnoconfig")
            .output()
            .map_err(|source| Error::Start {
                program: "make".to_owned(),
                source,
            })?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            return Err(Error::Failed {
                what: "configuring the kernel".to_owned(),
                status: output.status,
                output: complaints(&String::from_utf8_lossy(&text)),
            });
        }
        let path = self.dir.join(".config");
        let config = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let options = dropped(fragment, &config);
        if options.is_empty() {
            return Ok(());
        }
        // Nothing has been built of it.
        let _ = fs::remove_dir_all(&self.dir);
        let hint = match options.iter().any(|o| o == "CONFIG_RUST=y") {
            true => self.why_no_rust(),
            false => "their dependencies are not met: look in kernel/config".to_owned(),
        };
        Err(Error::Config { options, hint })
    }

    fn why_no_rust(&self) -> String {
        let output = self
            .make()
            .current_dir(&self.source.dir)
            .arg(format!("O={}", self.dir.display()))
            .arg("rustavailable")
            .output();
        let text = output
            .map(|o| String::from_utf8_lossy(&o.stderr).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("***")).collect();
        format!("`make rustavailable` says:\n{}", lines.join("\n"))
    }

    fn compile(&self, what: &str, steps: &Path, whole: bool) -> Result<()> {
        let expected = fs::read_to_string(steps)
            .ok()
            .and_then(|t| t.trim().parse().ok());
        let expected = expected.unwrap_or_else(|| self.flavor.expected_steps());
        let mut make = self.make();
        make.current_dir(&self.source.dir)
            .arg(format!("O={}", self.dir.display()))
            .arg(format!("-j{}", jobs()))
            .args([self.flavor.backend.image(), "modules"]);
        let mut task = Task::start("Building", what, Unit::Steps, expected);
        follow(make, what, &self.dir.join(LOG), |step| task.step(step))?;
        if whole {
            // An estimate for the next build; nothing depends on it.
            let _ = fs::write(steps, task.done().to_string());
        }
        Ok(())
    }

    /// What a guest, or a module's build, takes from the build folder.
    fn products(&self) -> Result<Vec<PathBuf>> {
        let mut products: Vec<PathBuf> = [
            self.flavor.backend.image(),
            ".config",
            MAKEFILE,
            "Module.symvers",
            "System.map",
            "modules.order",
            "include/config/kernel.release",
        ]
        .iter()
        .map(PathBuf::from)
        .collect();
        let order = self.dir.join("modules.order");
        let modules = fs::read_to_string(&order).map_err(Error::file("read", &order))?;
        products.extend(
            modules
                .lines()
                .map(|l| PathBuf::from(l).with_extension("ko")),
        );
        let rust = self.dir.join("rust");
        for entry in fs::read_dir(&rust)
            .map_err(Error::file("read", &rust))?
            .flatten()
        {
            let name = PathBuf::from(entry.file_name());
            if name.extension().is_some_and(|x| x == "rmeta" || x == "so") {
                products.push(Path::new("rust").join(name));
            }
        }
        Ok(products)
    }
}

/// How many compilers run at once.
pub(crate) fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn fragment(project: &Path, flavor: Flavor, version: &str) -> Result<String> {
    let file = |name: &str| project.join(format!("config/{name}.config"));
    let mut text = String::new();
    for name in flavor.fragments() {
        let path = file(name);
        text += &fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    }
    // 7.3 of 7.3.4-1~bpo13+1.
    let series: Vec<&str> = version.split(['.', '-']).take(2).collect();
    let path = file(&format!("linux-{}", series.join(".")));
    if path.exists() {
        let more = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        text = overridden(&text, &more);
    }
    // Its name is part of what the loader compares: a module of one kind is not for another.
    writeln!(text, "CONFIG_LOCALVERSION=\"-ferroce-{}\"", flavor.name())
        .expect("a String takes all");
    Ok(text)
}

/// A fragment with what another has, and without the options that this unsets.
fn overridden(fragment: &str, more: &str) -> String {
    let unset: Vec<String> = more
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.strip_suffix(" is not set"))
        .map(|option| format!("{option}="))
        .collect();
    let kept = fragment
        .lines()
        .filter(|line| !unset.iter().any(|option| line.starts_with(option)));
    kept.chain(more.lines())
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The lines of the fragment that are not so in the configuration.
fn dropped(fragment: &str, config: &str) -> Vec<String> {
    let has: std::collections::HashSet<&str> = config.lines().collect();
    fragment
        .lines()
        .filter(|l| l.starts_with("CONFIG_") && !has.contains(l))
        .map(str::to_owned)
        .collect()
}

/// Runs make, all of its output to `log`, and calls `step` for each line that
/// says what is being made.
pub(crate) fn follow(
    mut make: Command,
    what: &str,
    log: &Path,
    mut step: impl FnMut(&str),
) -> Result<()> {
    let start = |source| Error::Start {
        program: "make".to_owned(),
        source,
    };
    let mut file = File::create(log).map_err(Error::file("create", log))?;
    let (reader, writer) = std::io::pipe().map_err(start)?;
    // make(1) ends its compilers and removes what they have half-made.
    process::die_with_parent(&mut make, rustix::process::Signal::TERM);
    let mut child = make
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(start)?)
        .stderr(writer)
        .spawn()
        .map_err(start)?;
    // The builder holds the pipe's writing ends: without it the reader ends.
    drop(make);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(start)?;
        let text = String::from_utf8_lossy(&line);
        writeln!(file, "{text}").map_err(Error::file("write", log))?;
        if let Some(made) = made(&text) {
            step(made);
        }
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    let output = format!("{}\nAll of it is in {}", complaints(&text), log.display());
    Err(Error::Failed {
        what: what.to_owned(),
        status,
        output,
    })
}

/// What a line of make's output says is made: "  CC      init/main.o".
fn made(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("  ")?;
    let (verb, object) = rest.split_once(' ')?;
    let is_verb = !verb.is_empty()
        && verb
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    is_verb.then(|| object.trim_start())
}

/// The lines of a build's output that say what went wrong: the first complaint
/// with what follows it, for compilers quote the place; or the end.
fn complaints(text: &str) -> String {
    const LINES: usize = 16;
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("make")).collect();
    let complains = |l: &&str| ["error", "***", "No space"].iter().any(|c| l.contains(c));
    let first = lines
        .iter()
        .position(complains)
        .unwrap_or(lines.len().saturating_sub(LINES));
    lines[first..lines.len().min(first + LINES)].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_lines_name_what_is_made() {
        assert_eq!(made("  CC      init/main.o"), Some("init/main.o"));
        assert_eq!(made("  RUSTC L rust/core.o"), Some("L rust/core.o"));
        assert_eq!(made("make[1]: Entering directory"), None);
        assert_eq!(made("  warning: unused"), None);
    }

    #[test]
    fn what_a_release_has_no_more_is_left_out() {
        let more = "# why\n# CONFIG_OLD is not set\nCONFIG_NEW=y\n";
        assert_eq!(
            overridden("CONFIG_OLD=y\nCONFIG_OLDER=y\n", more),
            format!("CONFIG_OLDER=y\n{more}")
        );
    }

    #[test]
    fn an_option_that_the_configuration_lost_is_named() {
        let fragment = "# a comment\nCONFIG_RUST=y\nCONFIG_SMP=y\n";
        assert_eq!(
            dropped(fragment, "CONFIG_SMP=y\n# CONFIG_RUST is not set\n"),
            ["CONFIG_RUST=y"]
        );
    }
}
