#!/bin/sh
# Run by mmdebstrap with the new tree as $1, once all packages are in it.
set -eu
root=$1

ours=$root/usr/lib/vmferry-testbed
mkdir "$ours"
download=$(mktemp -d)

# Prints where the contents of a package are that is not installed.
unpacked() {
    (
        mkdir "$download/$1"
        cd "$download/$1"
        APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -qq -o APT::Sandbox::User=root "$1"
        dpkg-deb --extract ./*.deb .
    ) >&2
    echo "$download/$1"
}

# The guests' kernel, and of its modules only a few: ext4 is built in.
kernel=$(unpacked "$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)")
mv "$kernel"/boot/vmlinuz-* "$ours/vmlinuz"
find "$kernel" \( -name 'virtio*.ko' -o -name failover.ko -o -name net_failover.ko -o -name button.ko -o -name evdev.ko \) \
    -exec mv -t "$ours" {} +

# A boot loader that fits before a volume's first partition, and finds everything else on that.
boot=$(unpacked grub-pc-bin)/usr/lib/grub/i386-pc
mv "$(unpacked grub-common)/usr/bin/grub-mkimage" "$root/tmp/grub-mkimage"
cp "$boot/boot.img" "$ours/boot.img"
mv "$boot" "$root/tmp/grub"
cat >"$root/tmp/grub.cfg" <<'END'
set root=(hd0,msdos1)
linux /boot/vmlinuz console=ttyS0 quiet loglevel=1 panic=0 nokaslr mitigations=off
initrd /boot/initramfs
boot
END
chroot "$root" /tmp/grub-mkimage --directory=/tmp/grub --format=i386-pc '--prefix=(hd0,msdos1)/boot' \
    --config=/tmp/grub.cfg --output=/usr/lib/vmferry-testbed/core.img biosdisk part_msdos ext2 linux
rm -r "$root"/tmp/grub*

# The storage node's daemons, without the forty packages that look after real disks. What an RBD image needs of the
# OSD's plugins, and the one that the monitor's default profile names.
plugins=usr/lib/x86_64-linux-gnu
mkdir -p "$root/$plugins/rados-classes" "$root/$plugins/ceph/erasure-code"
monitor=$(unpacked ceph-mon) osd=$(unpacked ceph-osd) base=$(unpacked ceph-base) target=$(unpacked tgt)
mv "$monitor/usr/bin/ceph-mon" "$osd/usr/bin/ceph-osd" "$target/usr/sbin/tgtd" "$target/usr/sbin/tgtadm" "$root/usr/bin"
mv "$base/$plugins"/rados-classes/libcls_rbd.so* "$base/$plugins"/rados-classes/libcls_lock.so* "$root/$plugins/rados-classes"
mv "$base/$plugins"/ceph/erasure-code/libec_jerasure*.so "$root/$plugins/ceph/erasure-code"
rm -r "$download"

# Made from what is excluded, and nobody looks anything up in it.
rm -f "$root/usr/lib/udev/hwdb.bin" "$root/lib/udev/hwdb.bin"

# Its daemons are for tests that ask: `systemctl start openvswitch-switch`.
chroot "$root" systemctl disable --quiet openvswitch-switch.service

# Nothing that a hypervisor under test does not need: it should boot in a second and be silent when idle.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer logrotate.timer \
    systemd-tmpfiles-clean.timer libvirt-guests.service console-getty.service getty.target systemd-pstore.service \
    systemd-update-utmp.service systemd-modules-load.service dev-hugepages.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount rbdmap.service ceph.target iscsid.socket iscsid.service open-iscsi.service \
    systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service \
    systemd-udev-settle.service e2scrub_all.timer e2scrub_reap.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
# By its socket only.
rm -f "$root/etc/systemd/system/multi-user.target.wants/libvirtd.service"
# libvirt's NAT network wants dnsmasq, and is not ours to have.
rm -f "$root"/etc/libvirt/qemu/networks/autostart/default.xml "$root"/etc/libvirt/qemu/networks/default.xml

mkdir -p "$root/etc/systemd/journald.conf.d"
cat >"$root/etc/systemd/journald.conf.d/testbed.conf" <<'END'
[Journal]
Storage=volatile
RateLimitIntervalSec=0
END

# QEMU stays Debian's libvirt-qemu. What a container can't give is switched off: device cgroups, mount namespaces per
# guest, AppArmor. Hosts share a directory, so none remembers a file's former owner for the other.
cat >>"$root/etc/libvirt/qemu.conf" <<'END'

# Testbed.
cgroup_controllers = []
namespaces = []
security_driver = "none"
remember_owner = 0
END
# Hosts with the machine's own UUID would be one host to libvirt, and a migration refused.
cat >>"$root/etc/libvirt/libvirtd.conf" <<'END'

# Testbed.
host_uuid_source = "machine-id"
END
# A console is one file for the whole life of a guest.
cat >>"$root/etc/libvirt/virtlogd.conf" <<'END'

# Testbed.
max_size = 0
END

# Each host writes its own.
rm -f "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf" "$root/etc/iscsi/initiatorname.iscsi"
touch "$root/etc/machine-id" "$root/etc/resolv.conf"
mkdir -p "$root/srv/shared" "$root/srv/local"
