#!/bin/busybox sh
# A Linux guest begins here. Kernel parameters that the kernel does not know (address=) are in the environment.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover \
    virtio_net virtio_blk button evdev; do
    /bin/busybox insmod /modules/$module.ko
done
# A boot volume has the same parameters for all guests: the guest's own are where cloud-init looks for them too.
if [ -z "$address" ] && read -r serial </sys/class/dmi/id/product_serial; then
    case $serial in address=*) address=${serial#address=} ;; esac
fi
if [ -n "$address" ]; then
    /bin/busybox ip address add "$address" dev eth0
    /bin/busybox ip link set eth0 up
fi
/bin/busybox ip link set lo up
if [ -b /dev/vda1 ]; then
    /bin/busybox mount -t ext4 /dev/vda1 /volume
    for directory in proc sys dev; do
        /bin/busybox mount --move /$directory /volume/$directory
    done
    exec /bin/busybox switch_root /volume /sbin/init
fi
for part in ${tool//,/ }; do
    /bin/guest-tool $part &
done
if [ -n "$ping" ]; then
    while true; do
        if /bin/busybox ping -c 1 -W 2 "$ping" >/dev/null 2>&1; then echo "PING yes"; else echo "PING no"; fi
        /bin/busybox usleep 200000
    done &
fi
exec /bin/busybox sh /heartbeat.sh
