// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example modules in a guest, and the kernel's reports of broken ones.

use std::fs;
use std::path::PathBuf;

use crate::support::{ferroce, ran, Flavor, Ran, Test, UML};

pub const TESTS: &[Test] = &[
    ("hello greets by name on load and on unload", hello),
    (
        "hello greets the world by default and shows its parameter",
        hello_default,
    ),
    ("hello refuses a name that is empty or too long", hello_bad),
    ("a module calls the function that another exports", pair),
    (
        "importing first is refused with Unknown symbol",
        pair_in_wrong_order,
    ),
    (
        "the exporter cannot go while the importer is there",
        pair_in_use,
    ),
    (
        "the RDMA stack is loaded, and rdma_rxe on demand",
        rdma_stack,
    ),
    ("an oops fails the run with 99 and is shown", oops),
    (
        "a warning fails the run with 99, whatever the command says",
        warn,
    ),
    ("--module takes the module's parameters", parameters),
    (
        "--module DIR loads a folder's modules in the order that they need",
        folder,
    ),
    (
        "a --module that is refused is told with what module check says",
        refused,
    ),
    (
        "in the guest a classic Makefile builds modules in C and in Rust",
        classic_makefile,
    ),
    ("a panic fails the run with 99", bug),
    ("a crash that nobody knows is refused", crash_unknown),
];

pub const DEBUG_TESTS: &[Test] = &[
    (
        "debug: the examples load and unload with nothing to report",
        examples_are_clean,
    ),
    (
        "debug: a module for the other kernel is refused",
        for_uml_without_debug,
    ),
    ("debug: KASAN finds a use after free", use_after_free),
    ("debug: KASAN finds an access out of bounds", out_of_bounds),
    ("debug: kmemleak finds a leak", leak),
];

pub const QEMU_DEBUG_TESTS: &[Test] = &[
    (
        "qemu debug: lockdep finds a lock order that can deadlock",
        lock_order,
    ),
    (
        "qemu debug: sleeping in atomic context is found",
        sleep_in_atomic,
    ),
    ("qemu debug: KASAN finds a use after free", use_after_free),
    (
        "qemu debug: hello greets by name on load and on unload",
        hello,
    ),
];

pub const QEMU_TESTS: &[Test] = &[
    (
        "qemu: a module for User-Mode Linux is said to be for another kernel",
        for_uml,
    ),
    ("qemu: hello greets by name on load and on unload", hello),
    (
        "qemu: importing first is refused with Unknown symbol",
        pair_in_wrong_order,
    ),
    ("qemu: an oops fails the run with 99 and is shown", oops),
    (
        "qemu: a warning fails the run with 99, whatever the command says",
        warn,
    ),
];

/// Where modprobe finds them; insmod needs the file.
const UPDATES: &str = "/lib/modules/$(uname -r)/updates";

fn hello(flavor: &Flavor) {
    let ran = flavor
        .sh(
            "set -e; modprobe hello name=Ada; grep -q '^hello ' /proc/modules; modprobe -r hello; \
             ! grep -q '^hello ' /proc/modules; dmesg | grep -E 'hello: (hello|goodbye)'",
        )
        .ends_with(0);
    let lines: Vec<&str> = ran
        .stdout
        .lines()
        .map(|l| l.split_once("] ").unwrap().1)
        .collect();
    assert_eq!(lines, ["hello: hello, Ada", "hello: goodbye, Ada"]);
}

/// The folder with the modules that the lab has built for a kernel.
fn built_for(flavor: &Flavor) -> PathBuf {
    let built = ran(ferroce().args(["lab", "build"]).args(flavor.args)).ends_with(0);
    let mut lines = built.stderr.lines().map(str::trim_start);
    let folder = lines.find_map(|line| line.strip_prefix("Modules "));
    folder.expect("it names the folder").into()
}

/// Copies of some of them in a folder of their own.
fn copies(flavor: &Flavor, names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(built_for(flavor).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn parameters(flavor: &Flavor) {
    let dir = copies(flavor, &["hello.ko"]);
    let ko = dir.path().join("hello.ko");
    let (ko, dir) = (ko.to_str().unwrap(), dir.path().to_str().unwrap());
    for module in [ko, dir] {
        ran(flavor
            .lab(&["--module", module, "name=Ada Lovelace"])
            .arg("dmesg"))
        .ends_with(0)
        .prints("hello: hello, Ada Lovelace\n");
    }
    // The kernel does not refuse what it does not know.
    ran(flavor.lab(&["--module", ko, "height=3"]).arg("dmesg"))
        .ends_with(0)
        .prints("hello: unknown parameter 'height' ignored");
}

fn folder(flavor: &Flavor) {
    // Not in the order of the names.
    let dir = copies(flavor, &["greeter.ko", "hello.ko", "visitor.ko"]);
    fs::rename(dir.path().join("visitor.ko"), dir.path().join("a.ko")).unwrap();
    let dir_name = dir.path().to_str().unwrap();
    ran(flavor
        .lab(&["--module", dir_name, "hello.name=Ada"])
        .arg("dmesg"))
    .ends_with(0)
    .prints("hello: hello, Ada")
    .prints("visitor: I am visitor number 1");
    ran(flavor.lab(&["--module", dir_name, "name=Ada"]).arg("dmesg"))
        .ends_with(125)
        .says("MODULE.name=Ada");
    let empty = tempfile::tempdir().unwrap();
    ran(flavor
        .lab(&["--module", empty.path().to_str().unwrap()])
        .arg("dmesg"))
    .ends_with(125)
    .says("there is no module (*.ko)");
}

fn refused(flavor: &Flavor) {
    let dir = copies(flavor, &["hello.ko", "visitor.ko"]);
    let hello = dir.path().join("hello.ko");
    let hello = hello.to_str().unwrap();
    ran(flavor.lab(&["--module", hello, "name="]).arg("true"))
        .ends_with(125)
        .says("hello: `name` is empty")
        .says("finds nothing to refuse: its own init did");
    let long = format!("name={}", "a".repeat(40));
    ran(flavor.lab(&["--module", hello, &long]).arg("true"))
        .ends_with(125)
        .says("`ferroce module check` says why:")
        .says("  - init: ");
    let visitor = dir.path().join("visitor.ko");
    ran(flavor
        .lab(&["--module", visitor.to_str().unwrap()])
        .arg("true"))
    .ends_with(125)
    .says("It needs greeter. Load first")
    .says("updates/greeter.ko");
    // The kernel's own reason is that of a module for another processor.
    let mut bytes = fs::read(hello).unwrap();
    bytes[18] = 183; // e_machine: EM_AARCH64
    fs::write(hello, bytes).unwrap();
    let ran = ran(flavor.lab(&["--module", hello]).arg("true"))
        .ends_with(125)
        .says("built for another kernel (this is Linux 7.")
        .says("copy and check: ")
        .says("arm64");
    let ours = ran.stderr.split_once("`ferroce module check`").unwrap().1;
    assert!(ours.lines().all(|line| line.len() <= 80), "{ours}");
}

/// A module for User-Mode Linux without debugging, on another kernel: `why` is what that has against it.
fn for_other(flavor: &Flavor, why: &str) {
    let dir = copies(&UML, &["hello.ko"]);
    let hello = dir.path().join("hello.ko");
    ran(flavor
        .lab(&["--module", hello.to_str().unwrap()])
        .arg("true"))
    .ends_with(125)
    .says("built for another kernel (this is Linux 7.")
    .says(why);
}

fn for_uml(flavor: &Flavor) {
    for_other(flavor, "struct module");
}

fn for_uml_without_debug(flavor: &Flavor) {
    for_other(flavor, "-ferroce-uml ");
}

fn classic_makefile(flavor: &Flavor) {
    let script = r#"set -e
mkdir /tmp/m; cd /tmp/m
cat > Makefile <<'END'
obj-m := mine.o minr.o
KDIR ?= /lib/modules/$(shell uname -r)/build
all:
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules
END
cat > mine.c <<'END'
#include <linux/module.h>
static int __init mine_init(void) { pr_info("mine: in C\n"); return 0; }
module_init(mine_init);
MODULE_DESCRIPTION("Mine");
MODULE_LICENSE("GPL");
END
cat > minr.rs <<'END'
//! Mine, in Rust.
use kernel::prelude::*;
module! { type: Minr, name: "minr", authors: ["Ada"], description: "Mine", license: "GPL", }
struct Minr;
impl kernel::Module for Minr {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("in Rust\n");
        Ok(Minr)
    }
}
END
make
insmod mine.ko
insmod minr.ko
dmesg
"#;
    flavor
        .sh(script)
        .ends_with(0)
        .prints("mine: in C\n")
        .prints("minr: in Rust\n");
}

fn hello_default(flavor: &Flavor) {
    flavor
        .sh("set -e; modprobe hello; cat /sys/module/hello/parameters/name; dmesg | grep hello:; modinfo -p hello")
        .ends_with(0)
        .prints("world\n")
        .prints("hello: hello, world")
        .prints("name:");
}

fn hello_bad(flavor: &Flavor) {
    flavor
        .sh("modprobe hello name=")
        .ends_with(1)
        .says("Invalid argument");
    flavor
        .sh("modprobe hello name=$(printf %032d 0); status=$?; dmesg | grep hello; exit $status")
        .ends_with(1)
        .prints("too large for parameter");
}

fn pair(flavor: &Flavor) {
    flavor
        .sh("set -e; modprobe visitor; modinfo -F depends visitor; dmesg | grep -E 'greeter:|visitor:'; \
             modprobe -r visitor")
        .ends_with(0)
        .prints("greeter\n")
        .prints("visitor: I am visitor number 1");
}

fn pair_in_wrong_order(flavor: &Flavor) {
    flavor
        .sh(&format!(
            "insmod {UPDATES}/visitor.ko; status=$?; dmesg | grep visitor: >&2; exit $status"
        ))
        .ends_with(1)
        .says("Unknown symbol in module")
        .says("visitor: Unknown symbol greeter_greet (err -2)");
    // And in the right order, by hand.
    flavor
        .sh(&format!(
            "insmod {UPDATES}/greeter.ko && insmod {UPDATES}/visitor.ko"
        ))
        .ends_with(0);
}

fn pair_in_use(flavor: &Flavor) {
    flavor
        .sh("modprobe visitor && rmmod greeter")
        .ends_with(1)
        .says("in use by: visitor");
}

fn rdma_stack(flavor: &Flavor) {
    flavor
        .sh("set -e; ls /sys/class/infiniband_verbs/abi_version; test -e /dev/infiniband/rdma_cm; \
             ip link add d0 type dummy; ip link set d0 up; rdma link add rxe0 type rxe netdev d0; rdma link")
        .ends_with(0)
        .prints("link rxe0/1 state ACTIVE");
}

fn oops(flavor: &Flavor) {
    let ran = flavor
        .sh("modprobe crash how=oops; true")
        .ends_with(99)
        .says("ferroce: the guest's kernel reported");
    // The report itself: where it happened.
    assert!(ran.stderr.contains("crash"), "{ran:#?}");
}

fn warn(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=warn; echo survived; exit 0")
        .ends_with(99)
        .prints("survived")
        .says("WARNING: ")
        .says("end trace");
}

fn bug(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=bug")
        .ends_with(99)
        .says("rust_kernel: panicked");
}

fn crash_unknown(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=gently; status=$?; dmesg | grep crash: >&2; exit $status")
        .ends_with(1)
        .says("is none of: oops");
}

/// What tells when the first look for leaks has ended.
const CLEARED: &str = "first look ended, jiffies";

/// A script between two looks for leaks; what is leaked in between is printed.
///
/// kmemleak spares objects that are younger than five seconds, or that changed
/// since the scan before: hence the waiting, and each scan twice. What the
/// first look finds the kernel left behind as it booted. What the second finds
/// is looked for again: a pointer that is moved during a scan is missed, but
/// what is leaked stays so.
pub fn leaks_of(script: &str) -> String {
    let look = "sleep 6; echo scan > $K; echo scan > $K";
    format!(
        "set -e; K=/sys/kernel/debug/kmemleak; {look}; echo clear > $K; \
         sed -n 's/^jiffies:/{CLEARED}/p' /proc/timer_list; {script}; \
         for look in 1 2 3; do {look}; grep -q unreferenced $K || break; done; cat $K"
    )
}

/// What kmemleak said in a run of such a script.
///
/// What is older than the script is none of it, and User-Mode Linux's interrupts have nothing of ours: kmemleak
/// loses sight of what they have now and then.
fn leaks(ran: &Ran) -> Vec<&str> {
    let cleared = ran.stdout.split(CLEARED).nth(1).and_then(number);
    let is_older = |object: &str| {
        let made = object.split("jiffies ").nth(1).and_then(number);
        made.zip(cleared)
            .is_some_and(|(made, cleared)| made < cleared)
    };
    let objects = ran.stdout.split("unreferenced object").skip(1);
    // Pointers of the kernel's own that lie in a section which kmemleak does not scan, `init_net` among them: it
    // loses sight of addresses and routes then, which are made by ip.
    let is_blind = objects
        .clone()
        .any(|object| object.contains("comm \"swapper/0\", pid 1,"));
    let is_linuxs_own = |object: &str| {
        is_older(object)
            || object.contains("comm \"hardirq\", pid 0,")
            || (is_blind && object.contains("comm \"ip\""))
            || is_forgotten_process(object)
    };
    objects.filter(|object| !is_linuxs_own(object)).collect()
}

/// The number that a text begins with.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

/// Whether an object belongs to a process of a test's that Linux itself (7.2) has forgotten.
///
/// That comes of an open that fails half-way, in the driver's `alloc_ucontext`: `UVERBS_METHOD_GET_CONTEXT`
/// frees the context without `rdma_restrack_put()`, which has a reference to the process. The driver has
/// references to threads of its own only (`rdma::thread`), and those are not of Python.
fn is_forgotten_process(object: &str) -> bool {
    object.contains("comm \"python3\"") && object.contains(" copy_process+")
}

/// Of such a run kmemleak has nothing to say.
pub fn leaks_nothing(ran: &Ran) {
    let leaks = leaks(ran);
    // With what was left out: an object that kmemleak loses sight of takes along what only it points to.
    assert!(
        leaks.is_empty(),
        "{} objects leaked, of these: {}",
        leaks.len(),
        ran.stdout
    );
}

fn examples_are_clean(flavor: &Flavor) {
    // The kernel keeps what it allocates when a network device gets an RDMA device for the first time.
    let tiny = "for n in 1 2 3; do modprobe tiny$n; rdma link add t type tiny$n netdev eth0; \
         ibv_devinfo -d t >/dev/null 2>&1 || :; rdma link delete t; modprobe -r tiny$n; done";
    let script = format!(
        "for i in 1 2 3; do modprobe hello; modprobe visitor; modprobe -r visitor hello; {tiny}; done"
    );
    let script = format!(
        "ip link add eth0 type dummy && ip link set eth0 up && {tiny}; {}",
        leaks_of(&script)
    );
    let ran = flavor.sh(&script).ends_with(0);
    leaks_nothing(&ran);
}

fn leak(flavor: &Flavor) {
    let ran = flavor.sh(&leaks_of("modprobe crash how=leak")).ends_with(0);
    assert!(
        leaks(&ran).len() >= 10,
        "16 objects were leaked, kmemleak says: {ran:#?}"
    );
}

fn use_after_free(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=use_after_free")
        .ends_with(99)
        .says("KASAN: slab-use-after-free");
}

fn out_of_bounds(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=out_of_bounds")
        .ends_with(99)
        .says("KASAN: slab-out-of-bounds");
    // A kernel that does not look for it lets it pass, which is why there are two.
    ran(UML
        .lab(&[])
        .args(["modprobe", "crash", "how=out_of_bounds"]))
    .ends_with(0);
}

fn lock_order(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=lock_order")
        .ends_with(99)
        .says("possible circular locking dependency");
}

fn sleep_in_atomic(flavor: &Flavor) {
    flavor
        .sh("modprobe crash how=sleep_in_atomic")
        .ends_with(99)
        .says("sleeping function called from invalid context");
}
