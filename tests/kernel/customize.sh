#!/bin/sh
# Run by mmdebstrap with the new tree as $1, once all packages are in it.
set -eu
root=$1

# The kernel, unpacked and not installed: no initramfs is generated. All its modules stay, as udev asks for them.
kernel=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
download=$(mktemp -d)
(cd "$download" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -qq -o APT::Sandbox::User=root "$kernel")
mkdir "$download/unpacked"
dpkg-deb --fsys-tarfile "$download"/*.deb | tar --extract --directory "$download/unpacked" --wildcards \
    './boot/vmlinuz-*' './lib/modules/*'
cp -r "$download/unpacked/lib/modules" "$root/usr/lib/modules"
mkdir "$root/kernel"
mv "$download"/unpacked/boot/vmlinuz-* "$root/kernel/vmlinuz"
rm -r "$download"
version=$(ls "$root/usr/lib/modules")
chroot "$root" depmod "$version"

# The initramfs: what it takes to mount the root, in the order of loading.
initramfs=$(mktemp -d)
mkdir "$initramfs/bin" "$initramfs/dev" "$initramfs/root" "$initramfs/modules"
cp "$root/usr/bin/busybox" "$initramfs/bin/busybox"
mknod "$initramfs/dev/console" c 5 1
number=10
# What is built in has no file; what two need comes once.
chroot "$root" modprobe --set-version "$version" --show-depends --all virtio_pci virtio_blk ext4 |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
    cp "$root$module" "$initramfs/modules/$number-${module##*/}"
    number=$((number + 1))
done
cat >"$initramfs/init" <<'END'
#!/bin/busybox sh
for module in /modules/*; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/mnt
exec /bin/busybox switch_root /root /mnt/init.sh
END
chmod 755 "$initramfs/init"
(cd "$initramfs" && "$root/usr/bin/busybox" find . | "$root/usr/bin/busybox" cpio -o -H newc) >"$root/kernel/initramfs"
rm -r "$initramfs"

# Of what the packages start by themselves, only what a hypervisor under test needs.
rm -r "$root"/etc/systemd/system/*.wants
wants=$root/etc/systemd/system/sockets.target.wants
mkdir "$wants"
for socket in libvirtd libvirtd-ro virtlogd iscsid; do
    ln -s "/lib/systemd/system/$socket.socket" "$wants/$socket.socket"
done
for unit in serial-getty@ttyS0.service getty.target systemd-logind.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-pstore.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount systemd-random-seed.service ldconfig.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
# libvirt asks every QEMU that it finds what it can do.
rm -f "$root"/usr/bin/qemu-system-i386 "$root"/usr/bin/qemu-system-x86_64-microvm
# libvirt's NAT network wants dnsmasq.
rm -f "$root"/etc/libvirt/qemu/networks/autostart/default.xml "$root"/etc/libvirt/qemu/networks/default.xml
# Each machine has its own.
rm -f "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf"
