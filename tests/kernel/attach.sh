#!/bin/bash
# Process 1 of the kernel tests' machine. Everything is in one machine: the initiator under test, and the storage.
export PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
$busybox mount -t sysfs sys /sys
$busybox mount -t tmpfs run /run
$busybox mount -t tmpfs tmp /tmp
exec >/dev/ttyS1 2>&1 </dev/null

finish() {
    echo "RESULT $1 after $(cut -d ' ' -f 1 /proc/uptime) s"
    sync
    # The last line has to leave the serial port.
    sleep 0.5
    echo o >/proc/sysrq-trigger
    sleep 60
}
trap 'finish 99' EXIT

hostname kernel-tests
ip link set lo up
# The two portals.
ip address add 10.9.0.1/32 dev lo
ip address add 10.9.0.2/32 dev lo
mkdir -p /run/lock/iscsi /run/bin /run/ceph
/lib/systemd/systemd-udevd --daemon 2>/dev/null
udevadm trigger --action=add --subsystem-match=block
for module in iscsi_tcp sd_mod dm_multipath rbd; do modprobe "$module"; done

# What the programs that get secrets were called with.
for program in iscsiadm rbd; do
    printf '#!/bin/sh\necho "%s $*" >>/run/arguments\nexec /usr/%s "$@"\n' \
        "$program" "$([ $program = rbd ] && echo bin/rbd || echo sbin/iscsiadm)" >"/run/bin/$program"
    chmod 755 "/run/bin/$program"
done

/mnt/agent-tests --ignored --test-threads=1 --color=never network::kernel_tests
network=$?
# They make what they need in namespaces of their own. Few at a time: they wait for packets no longer than on any machine.
modprobe -a bridge veth nf_tables
ln -s /bin/busybox /run/bin/ping
/mnt/firewall-tests --test-threads=2 --color=never
firewall=$?

iscsid
tgtd
until tgtadm --op show --mode target >/dev/null 2>&1; do sleep 0.2; done
tgtadm --op new --mode target --tid 1 -T iqn.2026-01.example:disks
for lun in 1 2; do
    truncate -s 64M /tmp/lun$lun
    tgtadm --op new --mode logicalunit --tid 1 --lun $lun --backing-store /tmp/lun$lun
done
tgtadm --op bind --mode target --tid 1 --initiator-address ALL
tgtadm --op new --mode account --user ferry --password swordfish-1234
tgtadm --op bind --mode account --tid 1 --user ferry

# It takes a minute, most of it without the processors.
bash /mnt/ceph.sh >/run/ceph.log 2>&1 &
ceph=$!
/mnt/agent-tests --ignored --test-threads=1 --color=never storage::by_host::kernel_tests::iscsi
iscsi=$?
if ! wait $ceph; then
    grep -v rocksdb /run/ceph.log | tail -n 40
    echo "the Ceph cluster did not come up"
    finish 98
fi
/mnt/agent-tests --ignored --test-threads=1 --color=never storage::by_host::kernel_tests::rbd
rbd=$?
trap - EXIT
finish $((iscsi | rbd | network | firewall))
