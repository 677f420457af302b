#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# The kernel's own users of RDMA, between two hosts (`lab run --hosts 2`): host1 serves, host2 uses, and
# compares what it reads back with what it has written. Without HOST one host is both.
#
#     kernel_users.sh SERVER CLIENT nvme|nfs|iser|rds [LOSS [MIB]]
#
# SERVER and CLIENT are the drivers that the two have, ferroce or rxe, and LOSS is how much of what is sent is
# lost, such as 1%. The client prints a line for each user: its name, and how many MiB a second were written and
# read, or messages exchanged. It takes no tools of these users' own, as the kernel's interfaces do, but iscsid(8)
# and iscsiadm(8) from a folder TOOLS, which open-iscsi and what that needs were unpacked in, and fio(1).
set -eu
serving=$1 using=$2 user=$3 loss=${4:-0} mib=${5:-16}
here=$(dirname "$0")
server=10.0.0.1
device=r${HOST:-1}

rdma_device() {
    # The driver is loaded by --module.
    [ -d "/sys/module/$1" ] || modprobe "$1"
    rdma link add "$device" type "$2" netdev eth0
    [ "$loss" = 0 ] || tc qdisc add dev eth0 root netem loss "$loss"
}

# Tries a command until it does it, for the server may not be ready yet.
until_done() {
    for _ in $(seq 60); do
        "$@" 2>/tmp/why && return
        sleep 0.5
    done
    cat /tmp/why >&2
    echo "$user: the server was not ready in time: $*" >&2
    exit 1
}

# A disk in memory, which keeps what is written to it.
disk() {
    modprobe null_blk nr_devices=1 memory_backed=1 gb=1
}

# Writes a file or a disk past all caches and reads it back, by the MiB and then by pieces of many lengths, from
# four programs at once, each with a part of it. fio(1) compares the checksums.
verify() {
    common="--filename=$1 --direct=1 --verify=crc32c --verify_fatal=1 --minimal --group_reporting"
    fio --name=mib $common --rw=write --bs=1M --size="${mib}M" > /tmp/mib
    quarter=$((mib / 4))M
    fio --name=pieces $common --rw=randwrite --bsrange=4k-64k --numjobs=4 --size=$quarter \
        --offset_increment=$quarter > /tmp/pieces
    # fio(1), "Terse output": KiB a second of reads, and those of writes.
    for name in mib pieces; do
        tail -n 1 /tmp/$name | awk -F ';' -v name=$name -v user="$user" '{
            printf "%s: %s verified, written at %.1f MiB/s, read at %.1f MiB/s\n", user, name, $48 / 1024, $7 / 1024
        }'
    done
}

nvme_server() {
    disk
    modprobe nvmet-rdma
    cd /sys/kernel/config/nvmet
    mkdir subsystems/disk
    echo 1 > subsystems/disk/attr_allow_any_host
    mkdir subsystems/disk/namespaces/1
    echo /dev/nullb0 > subsystems/disk/namespaces/1/device_path
    echo 1 > subsystems/disk/namespaces/1/enable
    mkdir ports/1
    echo rdma > ports/1/addr_trtype
    echo ipv4 > ports/1/addr_adrfam
    echo $server > ports/1/addr_traddr
    echo 4420 > ports/1/addr_trsvcid
    ln -s "$PWD/subsystems/disk" ports/1/subsystems/disk
}

nvme_connect() {
    printf 'transport=rdma,traddr=%s,trsvcid=4420,nqn=disk,hostnqn=host2,hostid=%s' \
        $server 00000000-0000-4000-8000-000000000002 > /dev/nvme-fabrics
}

nvme_client() {
    modprobe nvme-rdma
    until_done nvme_connect
    until_done test -b /dev/nvme0n1
    verify /dev/nvme0n1
    echo 1 > /sys/class/nvme/nvme0/delete_controller
}

# What mountd(8) tells the kernel: who may have what.
nfs_server() {
    modprobe nfsd
    modprobe rpcrdma
    mkdir -p /tmp/export
    mount -t tmpfs -o size=512M tmpfs /tmp/export
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    # Version 3 needs rpcbind(8), and the shortest time in which clients may reclaim locks is 10 s.
    echo -3 > /proc/fs/nfsd/versions
    echo 10 > /proc/fs/nfsd/nfsv4gracetime
    never=2147483647
    # NFSEXP_INSECURE_PORT, _NOSUBTREECHECK, _FSID (include/uapi/linux/nfsd/export.h)
    flags=$((0x0002 | 0x0400 | 0x2000))
    echo "nfsd $client $never all" > /proc/net/rpc/auth.unix.ip/channel
    echo "all /tmp/export $never $flags 65534 65534 0" > /proc/net/rpc/nfsd.export/channel
    # FSID_NUM, fsid 0: the root of NFSv4.
    echo "all 1 \\x00000000 $never /tmp/export" > /proc/net/rpc/nfsd.fh/channel
    echo "rdma 20049" > /proc/fs/nfsd/portlist
    echo 4 > /proc/fs/nfsd/threads
}

nfs_mount() {
    mount -i -t nfs4 -o "addr=$server,clientaddr=$client,proto=rdma,port=20049,$1" $server:/ /mnt
}

nfs_client() {
    modprobe nfsv4
    modprobe rpcrdma
    until_done nfs_mount vers=4.2,nconnect=2
    truncate -s "${mib}M" /mnt/bytes
    verify /mnt/bytes
    # A tree of files.
    cp -r "$here" /mnt/tree
    umount /mnt
    nfs_mount vers=4.2
    diff -r "$here" /mnt/tree
    echo "nfs: a tree of $(find /mnt/tree -type f | wc -l) files is the same"
    umount /mnt
}

iser_server() {
    disk
    modprobe target_core_iblock
    modprobe iscsi_target_mod
    modprobe ib_isert
    cd /sys/kernel/config/target
    mkdir -p core/iblock_0/disk
    echo udev_path=/dev/nullb0 > core/iblock_0/disk/control
    echo 1 > core/iblock_0/disk/enable
    mkdir -p iscsi/iqn.2026-11.test:disk/tpgt_1/lun/lun_0
    ln -s "$PWD/core/iblock_0/disk" iscsi/iqn.2026-11.test:disk/tpgt_1/lun/lun_0/disk
    cd iscsi/iqn.2026-11.test:disk/tpgt_1
    for setting in authentication=0 demo_mode_write_protect=0 generate_node_acls=1 cache_dynamic_acls=1; do
        echo "${setting#*=}" > "attrib/${setting%=*}"
    done
    mkdir "np/$server:3260"
    echo 1 > "np/$server:3260/iser"
    echo 1 > enable
}

iser_client() {
    modprobe ib_iser
    # There is no udev(7) to load it when the disk comes.
    modprobe sd_mod
    export PATH="$TOOLS/usr/sbin:$TOOLS/sbin:$TOOLS/usr/bin:$TOOLS/bin:$PATH"
    export LD_LIBRARY_PATH="$TOOLS/usr/lib/$(uname -m)-linux-gnu"
    mkdir -p /run/lock/iscsi /etc/iscsi
    echo InitiatorName=iqn.2026-11.test:host2 > /etc/iscsi/initiatorname.iscsi
    [ -e /etc/iscsi/iscsid.conf ] || : > /etc/iscsi/iscsid.conf
    iscsid
    portal="-T iqn.2026-11.test:disk -p $server:3260"
    until_done iscsiadm -m node $portal -I iser -o new
    until_done iscsiadm -m node $portal -I iser --login
    until_done test -e /sys/class/block/sda
    verify /dev/sda
    iscsiadm -m node $portal --logout > /dev/null
    iscsiadm -k 0
}

rds_server() {
    modprobe rds_rdma
    python3 "$here/rds.py" serve $server
}

rds_client() {
    modprobe rds_rdma
    python3 "$here/rds.py" use $server "$client"
}

driver() {
    case $1 in
    ferroce) rdma_device ferroce ferroce ;;
    rxe) rdma_device rdma_rxe rxe ;;
    esac
}

client=10.0.0.2
case ${HOST:-} in
1) driver "$serving" && "${user}_server" ;;
2) driver "$using" && "${user}_client" ;;
*)
    client=$server
    ip link add eth0 type dummy
    ip addr add $server/24 dev eth0
    ip link set eth0 up
    driver "$using"
    # RDS' server is a process; the others' are the kernel.
    "${user}_server" &
    "${user}_client"
    ;;
esac
