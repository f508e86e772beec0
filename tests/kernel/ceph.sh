#!/bin/bash
# The smallest Ceph cluster: a monitor, and an OSD that keeps everything in memory. Its only pool is "volumes".
set -e
directory=/tmp/ceph fsid=4a158d27-f750-41d5-9e7f-26ce4c9d2d45 osd=11111111-1111-4111-8111-111111111111
mkdir -p $directory/osd /etc/ceph
cd $directory
cat >/etc/ceph/ceph.conf <<END
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:3300,v1:127.0.0.1:6789]
public_network = 127.0.0.0/8
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 268435456
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
log_to_file = false
END
keyring() {
    ceph-authtool --create-keyring "$1" --gen-key --name "$2" "${@:3}"
    [ "$1" = mon.keyring ] || ceph-authtool mon.keyring --import-keyring "$1"
}
keyring mon.keyring mon. --cap mon 'allow *'
keyring /etc/ceph/ceph.client.admin.keyring client.admin --cap mon 'allow *' --cap osd 'allow *'
keyring osd/keyring osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
keyring ferry.keyring client.ferry --cap mon 'profile rbd' --cap osd 'profile rbd'
ceph-authtool --print-key --name client.ferry ferry.keyring >ferry.key
monmaptool --create --fsid $fsid --addv a '[v2:127.0.0.1:3300,v1:127.0.0.1:6789]' monmap
ceph-mon --mkfs -i a --monmap monmap --keyring mon.keyring --mon-data $directory/mon
ceph-mon -i a --mon-data $directory/mon
timeout 120 ceph osd new $osd 0
ceph-osd -i 0 --osd-data $directory/osd --osd-uuid $osd --mkfs
ceph-osd -i 0 --osd-data $directory/osd
timeout 120 ceph osd pool create volumes 1
timeout 120 rbd create volumes/web --size 64M
timeout 120 rbd snap create volumes/web@monday
