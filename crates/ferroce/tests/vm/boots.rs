// SPDX-License-Identifier: MIT OR Apache-2.0
//! From an image to a prompt, a share, and a device.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use ferroce_lab::progress::time;

use crate::image::{ensure_image, without_cloud_init};
use crate::{Ran, User};

impl User {
    /// Runs a command of `ferroce vm`, whose progress is to be seen, and says how long it took.
    fn timed(&self, arguments: &[&str]) {
        let begun = Instant::now();
        let status = self.command(arguments).status().unwrap();
        let took = time(begun.elapsed());
        println!("{took}: ferroce vm {}", arguments.join(" "));
        assert!(status.success());
    }

    fn ssh(&self, command: &str) -> String {
        let begun = Instant::now();
        let Ran { stdout, .. } = self.ferroce(&["ssh", "lesson", command]).ends_with(0);
        println!("{}: {command}\n{stdout}", time(begun.elapsed()));
        stdout
    }
}

#[test]
#[ignore = "it makes an image and boots it twice"]
fn a_machine_boots_with_its_share_and_ferroce_works_on_debians_kernel() {
    let image = ensure_image();
    let user = User::new();
    let share = user.folder.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::write(share.join("greeting"), "hello\n").unwrap();
    let (image, shared) = (image.to_str().unwrap(), share.to_str().unwrap());
    user.timed(&[
        "create",
        "lesson",
        "--image",
        image,
        "--disk",
        "8G",
        "--mem",
        "2G",
        "--share",
        shared,
        "--install",
    ]);

    let system = user.ssh("hostname; whoami; uname -r; sudo -n id -u; cat /mnt/share/greeting");
    let lines: Vec<&str> = system.lines().collect();
    assert_eq!(lines[..2], ["lesson", "ferroce"]);
    assert!(lines[2].contains("+deb13-amd64"), "{system}");
    assert_eq!(lines[3..], ["0", "hello"]);
    user.ssh("echo back | sudo tee /mnt/share/answer");
    assert_eq!(fs::read_to_string(share.join("answer")).unwrap(), "back\n");
    // The disk's size, not the image's.
    let size: u64 = user
        .ssh("df --output=size -B1 / | tail -1")
        .trim()
        .parse()
        .unwrap();
    assert!(size > 7 << 30, "{size}");

    let devices = user.ssh("sudo ferroce link add fr0 eth0 && ibv_devinfo");
    assert!(
        devices.contains("fr0") && devices.contains("PORT_ACTIVE"),
        "{devices}"
    );
    let pingpong =
        "ibv_rc_pingpong -d fr0 -g 1 > /dev/null & until ss -ltn | grep -q :18515; do sleep 0.1; done; ibv_rc_pingpong -d fr0 -g 1 localhost";
    assert!(user.ssh(pingpong).contains("1000 iters in"));

    the_console_asks_for_a_name(&user);
    assert_eq!(user.list()[0]["running"], true);
    user.timed(&["stop", "lesson", "--timeout", "600"]);
    assert_eq!(user.list()[0]["running"], false);
    let log = fs::read_to_string(user.vm("lesson").join("console.log")).unwrap();
    assert!(log.contains("Power down"), "{log}");

    user.timed(&["start", "lesson"]);
    assert!(user.ssh("cat /mnt/share/greeting").contains("hello"));
    user.ssh("sudo modprobe ferroce && sudo ferroce link add fr0 eth0 && ibv_devices");
}

fn the_console_asks_for_a_name(user: &User) {
    let mut console = user
        .command(&["console", "lesson"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = console.stdin.take().unwrap();
    let mut out = console.stdout.take().unwrap();
    keys.write_all(b"\r").unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("login:") {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    // Ctrl-].
    keys.write_all(b"\x1d").unwrap();
    assert!(console.wait().unwrap().success());
}

#[test]
#[ignore = "it makes an image and waits for what does not come"]
fn an_image_without_cloud_init_is_told() {
    let image = ensure_image();
    let user = User::new();
    let image = without_cloud_init(&image, user.folder.path());
    let begun = Instant::now();
    user.ferroce(&[
        "create",
        "lesson",
        "--image",
        image.to_str().unwrap(),
        "--mem",
        "2G",
    ])
    .ends_with(1)
    .says("seems to have no cloud-init")
    .says("login:");
    println!("{}: without cloud-init", time(begun.elapsed()));
}
