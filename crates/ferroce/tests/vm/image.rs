// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image as Debian's cloud images are, made of Debian's packages without root: a disk that a BIOS boots, with
//! the kernel of the backports, cloud-init and sshd. It is made once, in some minutes, and kept in the cache.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use ferroce_lab::cache::{hex, Cache};
use ferroce_lab::prerequisites::{ensure, find_program, Purpose};
use ferroce_lab::progress::{note, time};
use ferroce_lab::Mirror;
use sha2::{Digest, Sha256};

use crate::{install, run};

const PACKAGES: &str = "\
    linux-image-amd64/trixie-backports,systemd-sysv,udev,dbus,kmod,initramfs-tools,\
    cloud-init,cloud-guest-utils,fdisk,e2fsprogs,netplan.io,openssh-server,sudo,login,iproute2,procps,\
    ibverbs-utils,grub-common,grub-pc-bin";

/// Before the kernel is installed: an initramfs with what finds the disk, and no more.
const INITRAMFS: &str = "\
    mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
    echo MODULES=list > \"$1/etc/initramfs-tools/conf.d/modules\" && \
    printf '%s\\n' virtio_pci virtio_blk ext4 > \"$1/etc/initramfs-tools/modules\"";

/// In the system that was installed: the boot loader, and what an image has not, which many machines are to have.
const SETUP: &str = "set -e
grub-mkimage -O i386-pc -o /boot/core.img -p '(hd0,msdos1)/boot/grub' \\
    biosdisk part_msdos ext2 normal linux configfile serial terminal
release=$(ls /lib/modules)
mkdir -p /boot/grub
cat > /boot/grub/grub.cfg <<END
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry Debian {
    linux /boot/vmlinuz-$release root=LABEL=root ro console=ttyS0,115200
    initrd /boot/initrd.img-$release
}
END
echo 'LABEL=root / ext4 defaults,errors=remount-ro 0 1' > /etc/fstab
: > /etc/machine-id
rm -f /etc/ssh/ssh_host_*
";

/// The size of the disk.
const SIZE: u64 = 3 << 30;
const SECTOR: u64 = 512;
/// Where the partition begins. GRUB is in the gap before it.
const PARTITION: u64 = 2048 * SECTOR;

/// The image, from the cache, or newly made.
pub fn ensure_image() -> PathBuf {
    let cache = Cache::open().unwrap();
    let recipe = [PACKAGES, INITRAMFS, SETUP].concat();
    let key = &hex(&Sha256::digest(recipe))[..12];
    let all = cache.path("vm-image");
    let place = all.join(format!("debian-{key}.img"));
    let _lock = cache
        .lock("vm-image", "making an image with Debian")
        .unwrap();
    if !place.exists() {
        ensure(&cache, &[Purpose::DebianImage], install()).unwrap();
        fs::create_dir_all(&all).unwrap();
        let staging = tempfile::tempdir_in(&all).unwrap();
        let begun = Instant::now();
        let image = make(staging.path());
        fs::rename(image, &place).unwrap();
        note(
            "Made",
            &format!("an image with Debian in {}", time(begun.elapsed())),
        );
    }
    place
}

/// The same without a cloud-init that does anything.
pub fn without_cloud_init(image: &Path, dir: &Path) -> PathBuf {
    let copy = dir.join("without-cloud-init.img");
    run(Command::new("cp")
        .arg("--sparse=always")
        .args([image, &copy]));
    let partition = format!("{}?offset={PARTITION}", copy.display());
    let script = dir.join("disable");
    fs::write(
        &script,
        "cd /etc/cloud\nwrite /dev/null cloud-init.disabled\n",
    )
    .unwrap();
    let debugfs = find_program("debugfs").unwrap();
    run(Command::new(debugfs)
        .args(["-w", "-f"])
        .arg(script)
        .arg(partition));
    copy
}

fn make(dir: &Path) -> PathBuf {
    note("Installing", "Debian into a folder, by mmdebstrap");
    let mirror = Mirror::find().unwrap();
    let source = |suite: &str| {
        let (keyring, uri) = (mirror.keyring(), mirror.uri());
        format!("deb [signed-by={keyring}] {uri} {suite} main")
    };
    let setup = format!("chroot \"$1\" sh -c {}", shell_words::quote(SETUP));
    let archive = dir.join("root.tar");
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .args(["doc", "man", "locale"].map(|x| format!("--dpkgopt=path-exclude=/usr/share/{x}/*")))
        .arg(format!("--essential-hook={INITRAMFS}"))
        .arg(format!("--customize-hook={setup}"))
        .arg("trixie")
        .arg(&archive)
        .args(["trixie", "trixie-backports"].map(source)));

    note("Writing", "it onto a disk");
    let image = dir.join("disk.img");
    File::create(&image).unwrap().set_len(SIZE).unwrap();
    let kib = (SIZE - PARTITION) >> 10;
    // fakeroot remembers whose the files are, and mke2fs believes it.
    let script = format!(
        "mkdir root && tar -C root --exclude './dev/*' -xf root.tar && \
         {} -q -t ext4 -L root -E offset={PARTITION} -d root disk.img {kib}k",
        find_program("mke2fs").unwrap().display()
    );
    run(Command::new("fakeroot")
        .args(["sh", "-c", &script])
        .current_dir(dir));
    let root = dir.join("root");
    let first = fs::read(root.join("usr/lib/grub/i386-pc/boot.img")).unwrap();
    let core = fs::read(root.join("boot/core.img")).unwrap();
    put_boot_loader(&image, &first, &core);
    image
}

/// Writes GRUB's first sector, and right behind it the rest, where the first looks for it; and the table of the
/// one partition (the classic MBR).
fn put_boot_loader(image: &Path, first: &[u8], core: &[u8]) {
    assert!(core.len() as u64 <= PARTITION - SECTOR);
    let mut sector = [0; SECTOR as usize];
    sector[..440].copy_from_slice(&first[..440]);
    // Active, of Linux, and too large to be told in cylinders.
    let far = [0xfe, 0xff, 0xff];
    let entry = &mut sector[446..462];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&far);
    entry[4] = 0x83;
    entry[5..8].copy_from_slice(&far);
    let count = (SIZE - PARTITION) / SECTOR;
    for (place, number) in [(8, PARTITION / SECTOR), (12, count)] {
        let number = u32::try_from(number).unwrap();
        entry[place..place + 4].copy_from_slice(&number.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = File::options().write(true).open(image).unwrap();
    disk.write_all(&sector).unwrap();
    disk.write_all(core).unwrap();
}
