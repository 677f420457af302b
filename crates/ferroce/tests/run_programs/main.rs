// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs with no kernel module, on this machine: those of others, and the ones that the lab's guests run.
//!
//! Each has a group of its own, so that none finds another's broker. Those that are missing are installed, as
//! for the lab's tests.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::Once;
use std::time::{Duration, Instant};

use ferroce_lab::prerequisites::{ensure, Install, Purpose};
use tempfile::TempDir;

mod filter;
mod kinds;
mod rdma_cm;
#[path = "../common/rdma_core.rs"]
mod rdma_core;

const PYTHON: &str = "/usr/bin/python3";

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Programs that know of each other, and of no others.
struct Group {
    name: String,
    folder: TempDir,
    /// The port by which the two of a pair find each other.
    port: u16,
}

/// What has become of a program.
#[derive(Debug)]
struct Ran {
    words: Vec<String>,
    success: bool,
    output: String,
}

struct Running {
    child: Child,
    words: Vec<String>,
    output: PathBuf,
}

/// Installs what is missing.
fn install(purposes: &[Purpose]) {
    let wanted = std::env::var_os("FERROCE_NO_INSTALL").is_none_or(|value| value == "0");
    let install = if wanted { Install::Yes } else { Install::No };
    let cache = ferroce_lab::cache::Cache::open().unwrap();
    ensure(&cache, purposes, install).unwrap();
}

impl Group {
    fn new(name: &str) -> Self {
        static INSTALLED: Once = Once::new();
        static PORT: AtomicU16 = AtomicU16::new(0);
        INSTALLED.call_once(|| install(&[Purpose::Verbs, Purpose::Programs]));
        let own = (std::process::id() % 1000) as u16;
        Self {
            name: format!("{name}-{}", std::process::id()),
            folder: tempfile::tempdir().unwrap(),
            port: 20_000 + own * 20 + PORT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Starts a program, by `ferroce run` with these options.
    fn start(&self, options: &[&str], words: &[&str]) -> Running {
        self.start_after(|| Ok(()), options, words)
    }

    /// As [`start`](Self::start), in a process that has called this, which makes system calls and allocates.
    fn start_after(
        &self,
        first: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
        options: &[&str],
        words: &[&str],
    ) -> Running {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let output = self.folder.path().join(number.to_string());
        let file = fs::File::create(&output).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .arg("run")
            .args(options)
            .arg("--")
            .args(words)
            .env("FERROCE_GROUP", &self.name)
            .env("LC_ALL", "C")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        // SAFETY: What it allocates, glibc has it allocate in a child of a program with threads too.
        unsafe { command.pre_exec(first) };
        let child = command.spawn().unwrap();
        Running {
            child,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            output,
        }
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Ran {
        self.start(options, words).end()
    }

    /// Runs a program twice, as a server and as its client, which are told the port by this option. Returns what
    /// the client says.
    fn pair(&self, port: &str, words: &[&str], server: &[&str]) -> Ran {
        let number = self.port.to_string();
        let words = [words, &[port, &number]].concat();
        let serving = self.start(&[], &words);
        self.wait_for_port();
        let ran = self.run(&[], &[&words, server].concat()).succeeds();
        serving.end().succeeds();
        ran
    }

    /// Waits until somebody listens, in either IP.
    fn wait_for_port(&self) {
        let begin = Instant::now();
        let wanted = format!(":{:04X} ", self.port);
        loop {
            let listens = |name: &str| {
                let sockets = fs::read_to_string(name).unwrap_or_default();
                // The fourth field is the state, 0A that of listening.
                sockets.lines().any(|line| {
                    let mut fields = line.split_whitespace();
                    let local = fields.nth(1).map(|local| format!("{local} "));
                    local.is_some_and(|local| local.ends_with(&wanted))
                        && fields.nth(1) == Some("0A")
                })
            };
            if listens("/proc/net/tcp") || listens("/proc/net/tcp6") {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "nobody listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Running {
    fn end(mut self) -> Ran {
        let begin = Instant::now();
        let success = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.success();
            }
            if begin.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                break false;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.ran(success)
    }

    fn kill(mut self) -> Ran {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.ran(false)
    }

    fn ran(self, success: bool) -> Ran {
        Ran {
            words: self.words,
            success,
            output: fs::read_to_string(&self.output).unwrap(),
        }
    }
}

impl Ran {
    #[track_caller]
    fn succeeds(self) -> Self {
        assert!(self.success, "{:?}\n{}", self.words, self.output);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(
            self.output.contains(text),
            "{:?}\n{}",
            self.words,
            self.output
        );
        self
    }
}

/// A program of the lab's guests.
fn guest(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn ping_pongs() {
    let group = Group::new("ping-pongs");
    for kind in ["rc", "uc", "ud", "srq"] {
        let program = format!("ibv_{kind}_pingpong");
        // The first IPv4 address, and events.
        for options in [&["-g", "1"][..], &["-g", "1", "-e"]] {
            let words = [&[&*program, "-n", "200"], options].concat();
            group.pair("-p", &words, &["localhost"]).says("200 iters");
        }
    }
}

#[test]
fn link_show_tells_who_uses_the_devices() {
    let group = Group::new("link");
    let port = group.port.to_string();
    let mut server = group.start(&[], &["ibv_rc_pingpong", "-g", "1", "-p", &port]);
    group.wait_for_port();
    let ferroce = env!("CARGO_BIN_EXE_ferroce");
    let shown = group.run(&[], &[ferroce, "link", "show"]).succeeds();
    let shown = shown.says("ferroce0/1  ACTIVE").says("ibv_rc_pingpong  ");
    let shown = shown.says(&server.child.id().to_string());
    drop(shown);
    let shown = group
        .run(&[], &[ferroce, "link", "show", "--json", "ferroce0"])
        .succeeds();
    shown
        .says("\"comm\": \"ibv_rc_pingpong\"")
        .says("\"state\": \"INIT\"");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
}

#[test]
fn perftest() {
    let group = Group::new("perftest");
    for words in [
        &["ib_send_lat", "-n", "1000", "-s", "8"][..],
        &["ib_send_lat", "-n", "100", "-e"],
        &["ib_write_lat", "-n", "1000", "-s", "8"],
        &["ib_write_bw", "-n", "1000", "-q", "16"],
        &["ib_write_bw", "-n", "10000", "-s", "8"],
        &["ib_write_bw", "-n", "1600", "-s", "8", "-l", "16"],
        &["ib_read_bw", "-n", "10000", "-s", "8"],
        &["ib_read_bw", "-n", "1000"],
        &["ib_atomic_bw", "-n", "1000"],
        &["ib_send_bw", "-n", "1000", "-b", "-e", "-q", "16"],
        &["ib_send_bw", "-n", "1000", "-s", "4096", "-l", "8"],
        &["ib_send_bw", "-n", "1000", "-c", "UD", "-s", "2048"],
        &["ib_send_bw", "-n", "1000", "-c", "UC"],
        &["ib_write_bw", "-D", "1"],
    ] {
        let words = [words, &["-d", "ferroce0", "-x", "1", "-F"]].concat();
        group.pair("-p", &words, &["127.0.0.1"]).says("#bytes");
    }
}

#[test]
fn every_byte_is_where_it_should_be() {
    let group = Group::new("every-byte");
    let words = [
        PYTHON,
        &guest("guest/every_byte.py"),
        "ferroce0",
        "ferroce1",
        "200",
    ];
    let ran = group.run(&["--devices", "2"], &words).succeeds();
    ran.says("23 kinds of work requests");
}

#[test]
fn errnos_and_statuses_are_those_of_the_driver() {
    let group = Group::new("statuses");
    for name in ["guest/errnos.py", "guest/statuses.py"] {
        let words = [PYTHON, &guest(name), "ferroce0"];
        group.run(&[], &words).succeeds().says(" rows, 0 failed");
    }
    let words = [PYTHON, &guest("guest/resize_srq.py"), "ferroce0", "2000"];
    group
        .run(&[], &words)
        .succeeds()
        .says("all that was posted was taken once");
    let words = [PYTHON, &guest("guest/reuse.py"), "ferroce0"];
    group
        .run(&[], &words)
        .succeeds()
        .says("queue pairs: 3000 numbers");
}

#[test]
fn top_tells_what_queue_pairs_do_and_wait_for() {
    let group = Group::new("top");
    let ferroce = env!("CARGO_BIN_EXE_ferroce");
    let words = [PYTHON, &guest("guest/top.py"), ferroce, "ferroce0"];
    let ran = group.run(&[], &words).succeeds();
    ran.says("all of it is told");
}

#[test]
fn what_is_posted_arrives_though_nobody_looks() {
    let group = Group::new("left");
    let words = [PYTHON, &guest("guest/left.py"), "ferroce0"];
    let ran = group.run(&[], &words).succeeds();
    ran.says("all that was posted has arrived");
}

#[test]
fn memory_on_demand() {
    let group = Group::new("on-demand");
    let ran = group
        .run(&[], &[PYTHON, &guest("odp.py"), "ferroce0", "1"])
        .succeeds();
    assert_eq!(ran.output.matches("ok: ").count(), 12, "{ran:#?}");
}

/// Tests of rdma-core's that pass with the kernel's driver and are not for this.
const NOT_HERE: [(&str, &str); 4] = [
    (
        "test_device.DMTest.test_multi_process_alloc_dm",
        "after a fork the objects are the parent's",
    ),
    (
        "test_shared_pd.",
        "there is no device file to import a context by",
    ),
    (
        "test_fork.ForkAPITest.test_is_fork_initialized",
        "it asks the kernel by netlink",
    ),
    (
        "test_device.DeviceTest.test_query_gid_ex_bad_flow",
        "it asks the kernel by ioctl",
    ),
];

#[test]
fn rdma_cores_own_tests() {
    let group = Group::new("rdma-core");
    let tests = rdma_core::run(group.folder.path(), "ferroce0");
    let ran = group.run(&[], &["sh", "-c", &tests]);
    rdma_core::check(&ran.output, &NOT_HERE);
}

#[test]
fn ucx() {
    let group = Group::new("ucx");
    for transport in ["rc_verbs,ud_verbs,self", "ud_verbs,self"] {
        for (test, size) in [
            ("tag_lat", "4096"),
            ("ucp_am_bw", "4096"),
            ("ucp_put_lat", "4096"),
            ("ucp_get", "4096"),
            ("ucp_fadd", "8"),
        ] {
            let variables = [
                format!("UCX_TLS={transport}"),
                "UCX_NET_DEVICES=ferroce0:1".to_owned(),
                "UCX_IB_GID_INDEX=1".to_owned(),
            ];
            let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
            let words = [&["env"], &variables[..], &["ucx_perftest"]].concat();
            let client = ["127.0.0.1", "-t", test, "-s", size, "-n", "100"];
            group.pair("-p", &words, &client).says("Final:");
        }
    }
}

#[test]
fn openmpi() {
    let group = Group::new("openmpi");
    let program = group.folder.path().join("mpi");
    let compiled = Command::new("mpicc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(guest("programs/mpi.c"))
        .status();
    assert!(compiled.unwrap().success());
    for (ranks, gid) in [("2", "1"), ("4", "2")] {
        let gid = format!("UCX_IB_GID_INDEX={gid}");
        let words = [
            "mpirun",
            "--allow-run-as-root",
            "--oversubscribe",
            "-n",
            ranks,
            "--mca",
            "pml",
            "ucx",
            "--mca",
            "osc",
            "ucx",
            "-x",
            "UCX_NET_DEVICES=ferroce0:1",
            "-x",
            "UCX_TLS=rc_verbs,ud_verbs,self",
            "-x",
            &gid,
            program.to_str().unwrap(),
            "3",
        ];
        let said = format!("{ranks} ranks, every byte right");
        group.run(&[], &words).succeeds().says(&said);
    }
}

#[test]
fn an_unprivileged_user_with_a_copied_binary_and_few_system_calls() {
    use std::os::unix::fs::PermissionsExt;
    let group = Group::new("unprivileged");
    let folder = group.folder.path();
    let binary = folder.join("ferroce");
    fs::copy(env!("CARGO_BIN_EXE_ferroce"), &binary).unwrap();
    for path in [folder, &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let home = folder.join("home");
    fs::create_dir(&home).unwrap();
    // SAFETY: It has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    if is_root {
        std::os::unix::fs::chown(&home, Some(65_534), Some(65_534)).unwrap();
    }
    let script = format!(
        "set -e; P='ibv_rc_pingpong -g 1 -p {} -n 200'; \
         {binary} run -- $P >server & sleep 0.5; {binary} run -- $P localhost; wait $!; \
         {binary} run -- ibv_devinfo >/dev/null",
        group.port,
        binary = binary.display(),
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script])
        .current_dir(&home)
        .env("HOME", &home)
        .env("FERROCE_GROUP", &group.name)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("FERROCE_CACHE");
    if is_root {
        command.uid(65_534).gid(65_534);
    }
    // SAFETY: It makes system calls, and allocates a list while this is the child's only thread.
    unsafe { command.pre_exec(|| filter::refuse(&filter::REFUSED)) };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("200 iters"),
        "{output:#?}"
    );
}
