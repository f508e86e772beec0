# A Ceph cluster of one monitor and one OSD, on the storage node. $1: its address. All keys are in one file.
set -eu
address=$1
data=/var/lib/ceph
mkdir -p $data/mon $data/osd /etc/ceph
cat >/etc/ceph/ceph.conf <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:$address:3300,v1:$address:6789]
public_addr = $address
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
# One copy of everything.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
# Each change of a map would wait for a second, and a start is ten changes.
paxos_propose_interval = 0.02
# Only these plugins are there.
osd_erasure_code_plugins = jerasure
osd_class_load_list = rbd lock
osd_class_default_list = rbd lock
log_to_stderr = true
err_to_stderr = true
debug_rocksdb = 0
debug_memstore = -1
[mon]
mon_data = $data/mon
mon_cluster_log_file = /dev/null
[osd]
osd_data = $data/osd
osd_objectstore = memstore
memstore_device_bytes = 4G
# The quick way out would forget what memory holds; the slow one writes it to osd_data.
osd_fast_shutdown = false
END

key() { ceph-authtool "$data/keyring" --gen-key -n "$@"; }
key mon. --create-keyring --cap mon 'allow *'
key client.admin --cap mon 'allow *' --cap osd 'allow *'
key client.libvirt --cap mon 'profile rbd' --cap osd 'profile rbd pool=volumes'
key osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
give() { ceph-authtool --create-keyring "$2" -n "$1" -a "$(ceph-authtool -p -n "$1" $data/keyring)"; }
give client.admin /etc/ceph/ceph.client.admin.keyring
give osd.0 $data/osd/keyring

ceph-mon --mkfs -i a --keyring $data/keyring 2>/dev/null
systemd-run --quiet --unit=ceph-mon ceph-mon -f -i a
osd=$(cat /proc/sys/kernel/random/uuid)
# In one go: each start of `ceph` costs half a second.
printf '%s\n' "osd new $osd" "osd pool create volumes 4 4" "osd pool application enable volumes rbd" |
    timeout 30 ceph >/dev/null
ceph-osd --mkfs -i 0 --osd-uuid "$osd" 2>/dev/null
systemd-run --quiet --unit=ceph-osd ceph-osd -f -i 0
