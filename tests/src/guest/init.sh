#!/bin/busybox sh
# The whole of a Linux guest. Kernel parameters that the kernel does not know (address=) are in the environment.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover \
    virtio_net virtio_blk; do
    /bin/busybox insmod /modules/$module.ko
done
if [ -n "$address" ]; then
    /bin/busybox ip address add "$address" dev eth0
    /bin/busybox ip link set eth0 up
fi
/bin/busybox ip link set lo up
read -r sectors </sys/block/vda/size && echo "DISK $sectors"
# A pipe that nobody writes to: waiting for it is a sleep that starts no process.
/bin/busybox mkfifo /never
exec 3<>/never
n=0
while :; do
    n=$((n + 1))
    read -r uptime _ </proc/uptime
    echo "HB $n $uptime"
    # A block of its own for each number, so that no later write makes up for a lost one.
    if [ -b /dev/vdb ] && printf '%-4095d\n' $n | /bin/busybox dd of=/dev/vdb bs=4096 seek=$n conv=fsync 2>/dev/null; then
        echo "ACK $n"
    fi
    read -r -t 0.1 _ <&3
done
