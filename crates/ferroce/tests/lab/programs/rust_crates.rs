// SPDX-License-Identifier: MIT OR Apache-2.0
//! The public crates ibverbs and sideway: their own tests and examples, fetched from crates.io, built on this
//! machine, and run in a guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{does, Route};
use crate::support::{ran, Flavor, Ran};

/// ibverbs 0.9.2: its unit tests need no device; its example sends to itself.
pub fn ibverbs(flavor: &Flavor) {
    let built = build("ibverbs", "0.9.2");
    for route in [Route::Local, Route::LocalByWire] {
        let script = format!("{}{}", built.run_tests(), built.run_example("loopback"));
        does(flavor, route, &script, built.tests.len() + 1);
    }
}

/// sideway 0.4.3: of its tests, one is of the compiler only (`compiletest`), and not run. On rdma_rxe its tests
/// pass; its ping-pong fails with ENOSPC and "queue full" in the kernel's log.
pub fn sideway(flavor: &Flavor) {
    let built = build("sideway", "0.4.3");
    let examples = ["ibv_devinfo", "show_gids"].map(|name| built.run_example(name));
    let mut pingpongs = String::new();
    let mut count = 0;
    for example in ["rc_pingpong", "rc_pingpong_split"] {
        for options in ["", "-s 65536 -m 4096 -n 200", "-r 16 -n 300"] {
            for gid in [1, 2] {
                let program = built.examples.join(example);
                pingpongs += &format!(
                    "server 18515 {program} -d $FA -g {gid} {options}
                     client {program} -d $FB -g {gid} {options} 10.0.0.1
                     grep -q iters /tmp/client || failed {example} {options}
                     gone; echo 'done: {example} -g {gid} {options}'\n",
                    program = program.display()
                );
                count += 1;
            }
        }
    }
    let cmtime = built.examples.join("cmtime");
    let connections = format!(
        "server 18515 {cmtime} -b 10.0.0.1 -c 20
         client {cmtime} -s 10.0.0.1 -c 20
         gone; echo done: cmtime\n",
        cmtime = cmtime.display()
    );
    for route in [Route::Local, Route::LocalByWire] {
        let script = format!(
            "{}{}{pingpongs}{connections}",
            built.run_tests(),
            examples.concat()
        );
        does(
            flavor,
            route,
            &script,
            built.tests.len() + examples.len() + count + 1,
        );
    }
    does(
        flavor,
        Route::Hosts,
        &format!("{pingpongs}{connections}"),
        count + 1,
    );
}

/// A crate's tests and examples.
struct Built {
    tests: Vec<PathBuf>,
    /// The folder of its examples.
    examples: PathBuf,
}

impl Built {
    /// Runs its tests, all of them even if one fails.
    fn run_tests(&self) -> String {
        let each = self.tests.iter().map(|test| {
            let (path, name) = (test.display(), file_name(test));
            format!(
                "timeout 900 {path} >/tmp/test 2>&1 && echo done: {name} || \
                 {{ cat /tmp/test; dmesg | tail -n 5; bad=$bad' {name}'; }}\n"
            )
        });
        format!(
            "bad=; {}[ -z \"$bad\" ] || {{ echo failed: $bad; exit 1; }}\n",
            each.collect::<String>()
        )
    }

    /// Runs an example that takes no arguments.
    fn run_example(&self, name: &str) -> String {
        let path = self.examples.join(name);
        format!("client {}; echo done: {name}\n", path.display())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Fetches and builds a crate with the versions of others that it was published with. All stays in the folder
/// that cargo has for what tests make.
fn build(name: &str, version: &str) -> Built {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crates");
    let source = folder.join(format!("{name}-{version}"));
    if !source.join("Cargo.toml").exists() {
        fetch(name, version, &folder, &source);
    }
    let target = folder.join("target");
    let build = |arguments: &[&str]| {
        cargo(&source)
            .args(arguments)
            .args(["--release", "--locked"])
            .arg("--target-dir")
            .arg(&target)
            .output_or(&format!("the crate {name} does not build"))
    };
    build(&["build", "--examples"]);
    // "  Executable tests/test_qp.rs (/folder/target/release/deps/test_qp-0123456789abcdef)"
    let tests = build(&["test", "--no-run", "--lib", "--tests"])
        .stderr
        .lines()
        .filter(|line| line.trim_start().starts_with("Executable"))
        .filter_map(|line| Some(line.rsplit_once('(')?.1.trim_end_matches(')')))
        .map(|path| source.join(path))
        .filter(|path| !file_name(path).starts_with("compiletest"))
        .collect();
    Built {
        tests,
        examples: target.join("release/examples"),
    }
}

/// Copies a crate's source to `source`. cargo fetches a crate's tests and examples with it, for a package that
/// depends on the crate.
fn fetch(name: &str, version: &str, folder: &Path, source: &Path) {
    let package = folder.join(format!("fetch-{name}"));
    fs::create_dir_all(package.join("src")).expect("there is room");
    fs::write(package.join("src/lib.rs"), "").expect("there is room");
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [dependencies]\n{name} = \"={version}\"\n[workspace]\n"
    );
    fs::write(package.join("Cargo.toml"), manifest).expect("there is room");
    let metadata = cargo(&package)
        .args(["metadata", "--format-version", "1"])
        .output_or(&format!(
            "the crate {name} {version} cannot be had from crates.io, and this test is of that crate. \
             Without FERROCE_LONG it is left out"
        ))
        .stdout;
    let manifest = format!("/{name}-{version}/Cargo.toml\"");
    let end = metadata.find(&manifest).expect("cargo fetched it");
    let start = metadata[..end].rfind('"').expect("it is a string") + 1;
    let fetched = format!("{}/{name}-{version}", &metadata[start..end]);
    let partial = folder.join(format!("partial-{name}"));
    let _ = fs::remove_dir_all(&partial);
    ran(Command::new("cp").arg("-r").arg(&fetched).arg(&partial)).ends_with(0);
    // It is below ferroce's folder, and not a part of ferroce's workspace.
    let path = partial.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).expect("a crate has a manifest");
    fs::write(&path, format!("{manifest}\n[workspace]\n")).expect("there is room");
    fs::rename(&partial, source).expect("it was not there");
}

/// cargo in a folder, without what ferroce's own build was told.
fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(folder)
        .env("CARGO_TERM_COLOR", "never")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTFLAGS");
    cargo
}

trait OutputOr {
    /// What it prints, or a failure that begins with `otherwise`.
    fn output_or(&mut self, otherwise: &str) -> Ran;
}

impl OutputOr for Command {
    #[track_caller]
    fn output_or(&mut self, otherwise: &str) -> Ran {
        let ran = ran(self);
        assert!(ran.status == Some(0), "{otherwise}:\n{}", ran.stderr);
        ran
    }
}
