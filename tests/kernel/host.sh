#!/bin/sh
# Process 1 of a machine that is a hypervisor, until systemd is.
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
# udev would load them too, later.
modprobe --all virtio_net virtio_console rbd iscsi_tcp sd_mod
cp -r /mnt/etc/. /etc
hostname -F /etc/hostname
ip link set lo up
ip address add "$(cat /mnt/address)/24" dev eth0
ip link set eth0 up
ln -s /mnt/vmferry-agent /usr/sbin/vmferry-agent
ln -s /mnt/guest-tool /usr/bin/guest-tool
# libvirt changes the owner of what a guest boots from.
cp -r /mnt/shared /srv/shared
exec /lib/systemd/systemd
