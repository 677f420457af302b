// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce run` on this machine: programs find the devices, and are themselves as without.
//!
//! The programs are Debian's. Those that are missing are installed, as for the lab's tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Folders for this test alone.
struct Place(TempDir);

/// How a program ended.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Has what these tests run be installed, as the lab has.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use ferroce_lab::prerequisites::{ensure, Install, Purpose};
        let wanted = std::env::var_os("FERROCE_NO_INSTALL").is_none_or(|value| value == "0");
        let install = if wanted { Install::Yes } else { Install::No };
        let cache = ferroce_lab::cache::Cache::open().unwrap();
        ensure(&cache, &[Purpose::Verbs], install).unwrap();
    });
}

impl Place {
    fn new() -> Self {
        install();
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("runtime")).unwrap();
        fs::set_permissions(place.path("runtime"), fs::Permissions::from_mode(0o700)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `ferroce run`, up to its options.
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .arg("run")
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .env("FERROCE_CACHE", self.path("cache"))
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        for name in ["FERROCE_RUN", "FERROCE_DEVICES", "LD_PRELOAD"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        ran(self.command().args(words))
    }

    fn sh(&self, script: &str) -> Ran {
        self.run(&["--", "bash", "-c", script])
    }
}

fn ran(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ran {
        status: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Ran {
    /// It has succeeded, and said nothing.
    #[track_caller]
    fn quietly(self) -> String {
        assert!(
            self.status == Some(0) && self.stderr.is_empty(),
            "{self:#?}"
        );
        self.stdout
    }
}

/// The devices that `ibv_devices` lists, sorted.
fn devices(listed: &str) -> Vec<&str> {
    let lines = listed.lines().skip(2);
    let mut names: Vec<_> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn ibv_devices_lists_the_devices() {
    let place = Place::new();
    let listed = place.run(&["--", "ibv_devices"]).quietly();
    assert_eq!(devices(&listed), ["ferroce0"]);
    let listed = place.run(&["--devices", "2", "ibv_devices"]).quietly();
    assert_eq!(devices(&listed), ["ferroce0", "ferroce1"]);
    let listed = place
        .run(&["--device=mlx5_7", "--devices=3", "--", "ibv_devices"])
        .quietly();
    assert_eq!(devices(&listed), ["mlx5_7", "mlx5_8", "mlx5_9"]);
    // A device's GUID stays what it is, and another has another.
    let again = place
        .run(&["--device=mlx5_7", "--devices=3", "--", "ibv_devices"])
        .quietly();
    assert_eq!(listed, again);
}

#[test]
fn a_program_that_loads_libibverbs_finds_them() {
    // As NCCL does.
    let script = "import ctypes, os
lib = ctypes.CDLL('libibverbs.so.1', mode=os.RTLD_LOCAL | os.RTLD_NOW)
lib.ibv_get_device_list.restype = ctypes.POINTER(ctypes.c_void_p)
lib.ibv_get_device_name.restype = ctypes.c_char_p
lib.ibv_get_device_name.argtypes = [ctypes.c_void_p]
n = ctypes.c_int()
devices = lib.ibv_get_device_list(ctypes.byref(n))
print(n.value, sorted(lib.ibv_get_device_name(devices[i]) for i in range(n.value)))
print(os.path.exists(os.path.realpath('/sys/class/infiniband/ferroce0/device') + '/numa_node'))";
    let place = Place::new();
    let text = place
        .run(&["--devices", "2", "--", "/usr/bin/python3", "-c", script])
        .quietly();
    assert_eq!(text, "2 [b'ferroce0', b'ferroce1']\nTrue\n");
}

#[test]
fn sysfs_shows_a_roce_device() {
    let place = Place::new();
    let listed = place
        .sh("ls /sys/class/infiniband /dev/infiniband")
        .quietly();
    assert_eq!(
        listed,
        "/dev/infiniband:\nrdma_cm\nuverbs0\n\n/sys/class/infiniband:\nferroce0\n"
    );
    let script = "cd /sys/class/infiniband/ferroce0/ports/1 && cat state link_layer rate \
                  gid_attrs/types/0 && test $(ls gids | wc -l) = $(ls gid_attrs/ndevs | wc -l)";
    let text = place.sh(script).quietly();
    assert_eq!(text, "4: ACTIVE\nEthernet\n100 Gb/sec (4X EDR)\nRoCE v2\n");
    let gids = place
        .sh("cat /sys/class/infiniband/ferroce0/ports/1/gids/*")
        .quietly();
    let gids: Vec<_> = gids.lines().collect();
    assert!(gids[0].starts_with("fe80:"), "{gids:?}");
    assert!(
        gids[1].starts_with("0000:0000:0000:0000:0000:ffff:"),
        "{gids:?}"
    );
    assert!(
        gids.contains(&"0000:0000:0000:0000:0000:0000:0000:0001"),
        "{gids:?}"
    );
}

#[test]
fn without_a_network_there_are_loopbacks_addresses() {
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "true"]);
    if !command.status().is_ok_and(|status| status.success()) {
        eprintln!("not checked: this machine has no user namespaces");
        return;
    }
    let run = place.command();
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--net"])
        .arg(run.get_program());
    command.args(["run", "--", "sh", "-c"]);
    command
        .arg("cat /sys/class/infiniband/ferroce0/ports/1/gids/*; ibv_devices | grep -c ferroce0");
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let text = ran(&mut command).quietly();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[1], "0000:0000:0000:0000:0000:ffff:7f00:0001");
    assert_eq!(lines[2], "0000:0000:0000:0000:0000:0000:0000:0001");
    assert_eq!(lines[3], "1");
}

#[test]
fn the_programs_end_is_its_own() {
    let place = Place::new();
    assert_eq!(place.sh("exit 7").status, Some(7));
    // The program has this process' number, and gets its signals.
    let mut child = place.command().args(["--", "sleep", "60"]).spawn().unwrap();
    let comm = PathBuf::from(format!("/proc/{}/comm", child.id()));
    let start = Instant::now();
    while fs::read_to_string(&comm).unwrap() != "sleep\n" {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "it never started"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(10)
    );
    // A closed pipe ends it as ever.
    assert_eq!(
        place.sh("yes | head -1; echo ${PIPESTATUS[0]}").quietly(),
        "y\n141\n"
    );
}

#[test]
fn its_arguments_and_environment_are_its_own() {
    let place = Place::new();
    let text = place
        .run(&[
            "--", "printf", "%s,", "--device", "x", "--", "--module", "a=1",
        ])
        .quietly();
    assert_eq!(text, "--device,x,--,--module,a=1,");
    let mut command = place.command();
    command.args(["sh", "-c", "echo $LD_PRELOAD; echo $RDMAV_DRIVERS"]);
    command
        .env("LD_PRELOAD", "libc.so.6")
        .env("RDMAV_DRIVERS", "mlx5");
    let text = ran(&mut command).quietly();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].ends_with("/libferroce_shim.so:libc.so.6"),
        "{text}"
    );
    assert!(lines[1].ends_with("/libferroce:mlx5"), "{text}");
}

#[test]
fn one_runs_in_another() {
    let place = Place::new();
    let ferroce = env!("CARGO_BIN_EXE_ferroce");
    let inner = |rest: &str| place.sh(&format!("{ferroce} run {rest}")).quietly();
    assert_eq!(devices(&inner("--device x0 -- ibv_devices")), ["x0"]);
    let both = inner("--keep --device x0 -- ibv_devices");
    assert_eq!(devices(&both), ["ferroce0", "x0"]);
    let preload = inner("-- sh -c 'echo $LD_PRELOAD'");
    assert_eq!(
        preload.matches("libferroce_shim.so").count(),
        1,
        "{preload}"
    );
}

#[test]
fn a_program_that_cannot_be_run_is_told() {
    let place = Place::new();
    let ran = place.run(&["--", "no-such-program"]);
    assert_eq!(ran.status, Some(127));
    assert_eq!(ran.stderr, "ferroce: there is no program no-such-program\n");
    let ran = place.run(&["--", "/etc/passwd"]);
    assert_eq!(ran.status, Some(126));
    assert!(
        ran.stderr
            .contains("cannot run /etc/passwd: Permission denied"),
        "{ran:?}"
    );
    let script = place.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = place.run(&[script.to_str().unwrap()]);
    assert_eq!(ran.status, Some(126));
    assert!(ran.stderr.contains("interpreter"), "{ran:?}");
    let ran = place.run(&["--device", "a/b", "--", "true"]);
    assert_eq!(ran.status, Some(2));
}

/// A program of nothing but a system call, exit(42), and what more its headers are to say.
fn elf(interpreter: Option<&str>) -> Vec<u8> {
    let mut code = vec![0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let interpreter = interpreter.map(|path| [path.as_bytes(), b"\0"].concat());
    let segments = 1 + usize::from(interpreter.is_some());
    let start = 64 + 56 * segments;
    let base = 0x40_0000_u64;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [base + start as u64, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, segments as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut segment = |kind: u32, offset: usize, size: usize| {
        file.extend(kind.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        let (offset, size) = (offset as u64, size as u64);
        for long in [offset, base + offset, base + offset, size, size, 0x1000] {
            file.extend(long.to_le_bytes());
        }
    };
    if let Some(path) = &interpreter {
        segment(3, start + code.len(), path.len());
        code.extend(path);
    }
    segment(1, 0, start + code.len());
    file.extend(code);
    file
}

fn program(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> String {
    let file = folder.join(name);
    fs::write(&file, bytes).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_program_that_will_see_nothing_is_told_and_run() {
    let place = Place::new();
    let file = program(place.0.path(), "static", &elf(None), 0o755);
    let ran = place.run(&["--", &file]);
    assert_eq!(ran.status, Some(42), "{ran:?}");
    assert!(ran.stderr.contains("it is statically linked"), "{ran:?}");

    // And once, not again by what it starts.
    let ferroce = env!("CARGO_BIN_EXE_ferroce");
    let ran = place.sh(&format!("{ferroce} run -- {file}"));
    assert_eq!((ran.status, ran.stderr.as_str()), (Some(42), ""));

    let musl = elf(Some("/lib/ld-musl-x86_64.so.1"));
    let file = program(place.0.path(), "musl", &musl, 0o755);
    let ran = place.run(&["--", &file]);
    assert!(
        ran.stderr
            .contains("it is linked to musl (/lib/ld-musl-x86_64.so.1)"),
        "{ran:?}"
    );
}

#[test]
fn the_doctor_measures() {
    let place = Place::new();
    let ran = place.run(&["--doctor"]);
    assert!(ran.stdout.contains("memfd_create      works"), "{ran:#?}");
    assert!(ran.stdout.contains("private interface"), "{ran:#?}");
    assert!(ran.stdout.contains("memory is reached by"), "{ran:#?}");
    assert!(ran.stdout.contains("127.0.0.1"), "{ran:#?}");
    assert_eq!(ran.status, Some(0), "{ran:#?}");
}

#[test]
fn it_leaves_nothing_behind_but_shared_files() {
    let place = Place::new();
    for _ in 0..3 {
        place.run(&["--", "true"]).quietly();
    }
    let devices = fs::read_dir(place.path("runtime/ferroce/devices")).unwrap();
    assert_eq!(devices.count(), 1);
    let libraries = fs::read_dir(place.path("cache/provider")).unwrap();
    assert_eq!(libraries.count(), 1);
    // At once, too: each finds all or nothing.
    let place = Place::new();
    let many: Vec<_> = (0..20)
        .map(|_| {
            let mut command = place.command();
            command
                .args(["--", "ibv_devices"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in many {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("ferroce0"), "{text}");
    }
    let devices = fs::read_dir(place.path("runtime/ferroce/devices")).unwrap();
    assert_eq!(devices.count(), 1);
}
