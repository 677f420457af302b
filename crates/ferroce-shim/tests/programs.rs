// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shim in real programs: it is loaded by LD_PRELOAD, with a folder of devices made here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

/// The library. Cargo builds none for a package's tests that they cannot be linked to.
fn shim() -> &'static Path {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--lib"])
            .arg("--target-dir")
            .arg(&folder)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.unwrap().success());
        folder.join("debug/libferroce_shim.so")
    });
    &BUILT
}

/// A folder with one device, number 3.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("dev/infiniband/uverbs3", "");
    write("devices/ferroce/x.0/infiniband/x/node_type", "1: CA\n");
    write("class/infiniband_verbs/abi_version", "6\n");
    fs::create_dir_all(dir.path().join("class/infiniband")).unwrap();
    symlink(
        "../../devices/ferroce/x.0/infiniband/x",
        dir.path().join("class/infiniband/x"),
    )
    .unwrap();
    dir
}

fn command(tree: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LD_PRELOAD", shim())
        .env("FERROCE_DEVICES", tree)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// What a program prints, which has to succeed and say nothing else.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(
        status.success() && stderr.is_empty(),
        "{command:?}: {status}, {stderr}"
    );
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn shell(script: &str) -> String {
    let tree = tree();
    printed(command(tree.path(), "bash").args(["-c", script]))
}

#[test]
fn files_of_devices_are_read() {
    assert_eq!(shell("cat /sys/class/infiniband/x/node_type"), "1: CA\n");
    assert_eq!(
        shell("read -r a < /sys/class/infiniband_verbs/abi_version; echo $a"),
        "6\n"
    );
    assert_eq!(
        shell("cd /sys/class/infiniband/x && cat node_type"),
        "1: CA\n"
    );
}

#[test]
fn folders_of_devices_are_listed() {
    assert_eq!(
        shell("ls /sys/class/infiniband /dev/infiniband"),
        "/dev/infiniband:\nuverbs3\n\n/sys/class/infiniband:\nx\n"
    );
    assert_eq!(
        shell("echo /sys/class/infiniband/*"),
        "/sys/class/infiniband/x\n"
    );
    let listed = shell("ls -l /dev/infiniband");
    assert!(
        listed.contains("crw-rw-rw-") && listed.contains("231, 195"),
        "{listed}"
    );
    let found = shell("find -L /sys/class/infiniband -name node_type");
    assert_eq!(found, "/sys/class/infiniband/x/node_type\n");
}

#[test]
fn a_device_file_is_a_character_device() {
    let script = "stat -c '%F %t:%T %a' /dev/infiniband/uverbs3; test -c /dev/infiniband/uverbs3";
    assert_eq!(shell(script), "character special file e7:c3 666\n");
    // By its descriptor.
    let script = "stat -L -c %F /dev/stdin < /dev/infiniband/uverbs3; stat -c %F - < /dev/infiniband/uverbs3";
    assert!(shell(script).ends_with("character special file\n"));
}

#[test]
fn links_are_resolved() {
    let link = shell("readlink /sys/class/infiniband/x");
    assert_eq!(link, "../../devices/ferroce/x.0/infiniband/x\n");
    // By the program itself.
    let path = shell("realpath /sys/class/infiniband/x/node_type");
    assert_eq!(path, "/sys/devices/ferroce/x.0/infiniband/x/node_type\n");
    assert_eq!(
        shell("cat $(realpath /sys/class/infiniband/x/node_type)"),
        "1: CA\n"
    );
}

#[test]
fn what_is_not_there_is_not_found() {
    for path in [
        "/dev/infiniband/uverbs0",
        "/dev/infiniband/rdma_cm",
        "/sys/class/infiniband/y",
        "/sys/class/infiniband_mad",
        "/sys/devices/ferroce/y",
    ] {
        let script = format!("test -e {path} || cat {path} 2>&1 | grep -c 'No such file'");
        assert_eq!(shell(&script), "1\n", "{path}");
    }
}

#[test]
fn other_paths_and_programs_are_as_ever() {
    let tree = tree();
    let plain =
        |script: &str| printed(Command::new("bash").args(["-c", script]).env("LC_ALL", "C"));
    for script in [
        "ls -l /usr/bin | head -50",
        "stat -c '%F %a' /dev/null /etc/passwd /usr/bin /proc/self/exe",
        "cat /etc/passwd",
        "readlink -f /proc/self/../version",
        "for i in $(seq 200); do echo $i; done | sort -rn | tail -1",
        "cd /usr && pwd && ls -d .",
    ] {
        assert_eq!(shell(script), plain(script), "{script}");
    }
    // A program that has no use for it, without a folder or with one that is not there.
    for folder in ["", "relative", "/nowhere", "/"] {
        let text =
            printed(command(Path::new(folder), "bash").args(["-c", "ls -d /usr; cat /dev/null"]));
        assert_eq!(text, "/usr\n");
    }
    drop(tree);
}

/// A system's Python, which comes with Debian; one of a version manager is a script.
fn python(tree: &Path, script: &str) -> String {
    printed(command(tree, "/usr/bin/python3").args(["-c", script]))
}

#[test]
fn python_sees_devices() {
    let tree = tree();
    let text = python(
        tree.path(),
        "import os, stat, glob
print(os.listdir('/sys/class/infiniband'), glob.glob('/dev/infiniband/*'))
s = os.stat('/dev/infiniband/uverbs3')
print(stat.S_ISCHR(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev))
print(open('/sys/class/infiniband/x/node_type').read().strip())
print(os.access('/dev/infiniband/uverbs3', os.R_OK | os.W_OK), os.access('/dev/infiniband/rdma_cm', os.F_OK))
print(os.path.realpath('/sys/class/infiniband/x'))",
    );
    let expected = "['x'] ['/dev/infiniband/uverbs3']
True 231 195
1: CA
True False
/sys/devices/ferroce/x.0/infiniband/x
";
    assert_eq!(text, expected);
}

#[test]
fn commands_on_a_device_make_channels() {
    let tree = tree();
    let text = python(
        tree.path(),
        "import os, ctypes, struct, errno, fcntl, select, socket
libc = ctypes.CDLL(None)
fd = os.open('/dev/infiniband/uverbs3', os.O_RDWR)
def channel(fd):
    answer = ctypes.c_uint32()
    command = struct.pack('=IHHQ', 17, 4, 1, ctypes.addressof(answer))
    assert os.write(fd, command) == 16
    return answer.value
# By the descriptor, a duplicate that fstat has seen, and one that came over a socket.
copy = os.dup(fd)
os.fstat(copy)
a, b = socket.socketpair()
socket.send_fds(a, [b'x'], [fd])
other = socket.recv_fds(b, 1, 1)[1][0]
os.fstat(other)
for device in fd, copy, other:
    read = channel(device)
    write = libc.ferroce_shim_channel(read)
    assert write >= 0 and not os.get_inheritable(read) and not os.get_inheritable(write)
    assert select.select([read], [], [], 0)[0] == []
    os.write(write, b'01234567')
    assert select.select([read], [], [], 1)[0] == [read]
    assert os.read(read, 100) == b'01234567'
    os.close(read)
assert libc.ferroce_shim_channel(0) == -1
def fails(number, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(call)
fails(errno.ENOTTY, fcntl.ioctl, fd, 0xc0181b01, b'')
fails(errno.EOPNOTSUPP, os.write, fd, struct.pack('=IHHQ', 3, 4, 1, 0))
fails(errno.EINVAL, os.write, fd, b'')
fails(errno.EPROTONOSUPPORT, socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 20)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
# Another file at the device's descriptor is itself.
null = os.open('/dev/null', os.O_RDWR)
os.dup2(null, fd)
assert os.write(fd, b'anything') == 8
# Many channels, of which few are there at once, take few descriptors.
fd = os.open('/dev/infiniband/uverbs3', os.O_RDWR)
before = len(os.listdir('/proc/self/fd'))
for i in range(3000):
    os.close(channel(fd))
assert len(os.listdir('/proc/self/fd')) <= before + 1
print('done')",
    );
    assert_eq!(text, "done\n");
}

#[test]
fn a_childs_channels_are_its_parents() {
    let tree = tree();
    let text = python(
        tree.path(),
        "import os, ctypes, struct
libc = ctypes.CDLL(None)
fd = os.open('/dev/infiniband/uverbs3', os.O_RDWR)
answer = ctypes.c_uint32()
os.write(fd, struct.pack('=IHHQ', 17, 4, 1, ctypes.addressof(answer)))
read = answer.value
if os.fork() == 0:
    write = libc.ferroce_shim_channel(read)
    os.write(write, b'of child')
    os.close(read)
    # It closes what it can in its own process alone.
    os.write(fd, struct.pack('=IHHQ', 17, 4, 1, ctypes.addressof(answer)))
    os._exit(0)
os.wait()
assert os.read(read, 100) == b'of child'
os.write(libc.ferroce_shim_channel(read), b'mine')
print(os.read(read, 100))",
    );
    assert_eq!(text, "b'mine'\n");
}

#[test]
fn a_thread_that_waits_in_libc_can_be_cancelled() {
    let tree = tree();
    let text = python(
        tree.path(),
        "import os, ctypes, threading, time
libc = ctypes.CDLL(None)
libc.pthread_cancel.argtypes = [ctypes.c_ulong]
fifo = os.path.join(os.environ['FERROCE_DEVICES'], 'fifo')
os.mkfifo(fifo)
# To open a FIFO waits until somebody else does.
thread = threading.Thread(target=libc.open, args=(fifo.encode(), os.O_RDONLY), daemon=True)
thread.start()
task = f'/proc/self/task/{thread.native_id}'
while 'wait_for_partner' not in open(task + '/wchan').read() and 'S (sleeping)' not in open(task + '/status').read():
    time.sleep(0.01)
assert libc.pthread_cancel(thread.ident) == 0
while os.path.exists(task):
    time.sleep(0.01)
print('cancelled', flush=True)
os._exit(0)",
    );
    assert_eq!(text, "cancelled\n");
}

#[test]
fn a_program_may_change_its_environment() {
    let script = "unset FERROCE_DEVICES; ls /sys/class/infiniband";
    // The shell's children do not see devices; it does itself.
    let tree = tree();
    let output = command(tree.path(), "bash")
        .args(["-c", script])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let script = "unset FERROCE_DEVICES; echo /sys/class/infiniband/*";
    assert_eq!(shell(script), "/sys/class/infiniband/x\n");
}
