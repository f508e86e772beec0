#!/bin/sh
# Run by mmdebstrap with the new tree as $1, once all packages are in it.
set -eu
root=$1

# The guests' kernel, unpacked and not installed: no initramfs is generated, and of its modules only a few are kept.
kernel=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
download=$(mktemp -d)
(cd "$download" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -qq -o APT::Sandbox::User=root "$kernel")
mkdir "$download/unpacked" "$root/usr/lib/vmferry-testbed"
dpkg-deb --fsys-tarfile "$download"/*.deb | tar --extract --directory "$download/unpacked" --wildcards \
    './boot/vmlinuz-*' '*/virtio*.ko*' '*/failover.ko*' '*/net_failover.ko*'
mv "$download"/unpacked/boot/vmlinuz-* "$root/usr/lib/vmferry-testbed/vmlinuz"
find "$download/unpacked" -name '*.ko' -exec mv -t "$root/usr/lib/vmferry-testbed" {} +
rm -r "$download"

# Nothing that a hypervisor under test does not need: it should boot in a second and be silent when idle.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer logrotate.timer \
    systemd-tmpfiles-clean.timer libvirt-guests.service console-getty.service getty.target systemd-pstore.service \
    systemd-update-utmp.service systemd-modules-load.service dev-hugepages.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount; do
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
rm -f "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf"
touch "$root/etc/machine-id" "$root/etc/resolv.conf"
mkdir -p "$root/srv/shared" "$root/srv/local"
