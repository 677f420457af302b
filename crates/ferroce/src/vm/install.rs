// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce vm start --install`: program, plug-in and driver in a machine. The driver is built here, where
//! instructions are not emulated, and where what Debian's archive has is in the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{anyhow, bail, Context, Result};
use ferroce_lab::cache::Cache;
use ferroce_lab::driver::is_debians;
use ferroce_lab::progress::note;
use ferroce_lab::vm::Vm;

use crate::install::driver_files;

/// Where the program is there.
const PROGRAM: &str = "usr/local/bin/ferroce";

/// What is to be there for the plug-in to be a part of, with programs to try it with.
const PACKAGE: &str = "ibverbs-utils";

pub fn install(vm: &Vm, cache: &Cache) -> Result<()> {
    let release = vm.output("finding the kernel's release", "uname -r")?;
    let release = release.trim();
    let folder = cache.path("");
    let tree = tempfile::tempdir_in(&folder)
        .with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    put_program(&tree.path().join(PROGRAM))?;
    let has_driver = match is_debians(release) {
        true => driver_files(release, tree.path()),
        false => Err(anyhow!(
            "it is built here for Debian 13's kernels only, of which Linux {release} is none. Whether that can \
             have it: ferroce vm ssh {} ferroce install --check",
            vm.name
        )),
    };
    let has_driver = has_driver
        .inspect_err(|error| note("Warning", &format!("without the driver: {error:#}")))
        .is_ok();
    note("Copying", &format!("ferroce into {}", vm.name));
    vm.put(tree.path())?;
    if vm.run("/usr/local/bin/ferroce --version > /dev/null")? != 0 {
        bail!(
            "ferroce does not run in {}: its C library is older than that which ferroce was built with. Take a \
             newer image, or build ferroce on an older distribution",
            vm.name
        );
    }
    if vm.run("/sbin/ldconfig -p | grep -q libibverbs.so.1")? != 0 {
        note("Installing", &format!("{PACKAGE} in {}, by apt", vm.name));
        let apt = format!("sudo apt-get update -q && sudo apt-get install -q -y {PACKAGE}");
        if vm.run(&format!(
            "{{ {apt}; }} > /tmp/apt.log 2>&1 || {{ tail -3 /tmp/apt.log; false; }}"
        ))? != 0
        {
            bail!(
                "{PACKAGE}, of which the plug-in would be a part, cannot be installed in {0}. Install it there by \
                 other means, and then: ferroce vm start {0} --install",
                vm.name
            );
        }
    }
    if has_driver {
        let load = "sudo depmod && sudo udevadm control --reload && sudo modprobe ferroce";
        if vm.run(load)? != 0 {
            bail!(
                "the driver is in {0}, but its kernel, Linux {release}, does not load it: ferroce vm ssh {0} \
                 'sudo dmesg | tail' may say why",
                vm.name
            );
        }
    }
    if vm.run("sudo ferroce install")? != 0 {
        bail!("the plug-in cannot be installed in {}: see above", vm.name);
    }
    note("Installed", &format!("ferroce in {}", vm.name));
    if has_driver {
        note("There", "sudo ferroce link add fr0 eth0; ibv_devinfo");
    }
    Ok(())
}

/// Copies this program.
fn put_program(place: &Path) -> Result<()> {
    let program = std::env::current_exe()?;
    let bytes =
        fs::read("/proc/self/exe").with_context(|| format!("cannot read {}", program.display()))?;
    ferroce_lab::provider::write(place, &bytes)?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot write {}", place.display()))?;
    Ok(())
}
