#!/bin/busybox sh
# All that a Linux guest does, from its initramfs or from its boot volume.
read -r sectors </sys/block/vda/size && echo "DISK $sectors"
# A pipe that nobody writes to: waiting for it is a sleep that starts no process.
/bin/busybox mkfifo /dev/never
exec 3<>/dev/never

# The power button.
for event in /sys/class/input/event*; do
    if read -r name <$event/device/name && [ "$name" = 'Power Button' ]; then
        {
            # One event is a whole struct input_event.
            /bin/busybox head -c 24 /dev/input/${event##*/} >/dev/null && echo OFF
            /bin/busybox sync
            /bin/busybox poweroff -f
        } &
    fi
done

# A block of its own for each number, so that no later write makes up for a lost one; on every target.
write() {
    written=$1
    shift
    for target; do
        printf '%-4095d\n' $written |
            /bin/busybox dd of=$target bs=4096 seek=$written conv=notrunc,fsync 2>/dev/null || return
    done
    echo "ACK $written"
}

# What is attached and mounted, as of heartbeat $1.
report() {
    for device in /sys/block/vd? /sys/block/vd?/vd??; do
        [ -e $device/size ] && read -r sectors <$device/size && echo "BLOCK $1 ${device##*/} $sectors"
    done
    while read -r source target type _; do
        case $source in
            /dev/*)
                echo "MOUNT $1 $source $target $type"
                # A line of headings first.
                set -- $1 $(/bin/busybox df -k $target)
                shift 8 && echo "DF $n $*"
                set -- $n
                ;;
        esac
    done </proc/mounts
    echo "REPORT $1"
}

# In a process of its own: heartbeats go on while the volume does not answer.
if [ -b /dev/vdb1 ] && /bin/busybox mount -t ext4 /dev/vdb1 /mnt/vol01; then
    (
        number=0
        while :; do
            number=$((number + 1))
            write $number /mnt/vol01/sequence
            read -r -t 0.1 _ <&3
        done
    ) &
fi
# Further disks, and media that can only be read.
disks= media=
for device in vdb vdc vdd vde; do
    if [ -b /dev/$device ] && read -r read_only </sys/block/$device/ro; then
        [ "$read_only" = 1 ] && media="$media $device" || disks="$disks /dev/$device"
    fi
done
n=0
while :; do
    n=$((n + 1))
    read -r uptime _ </proc/uptime
    echo "HB $n $uptime"
    if [ -b /dev/vda1 ] || [ -b /dev/vdb1 ]; then
        [ $((n % 10)) = 0 ] && report $n
    else
        [ -n "$disks" ] && write $n $disks
        # Past the guest's own cache: what the host has.
        [ $((n % 5)) = 0 ] && for device in $media; do
            sum=$(/bin/busybox dd if=/dev/$device bs=65536 iflag=direct 2>/dev/null | /bin/busybox md5sum)
            echo "MEDIUM $n $device ${sum%% *}"
        done
    fi
    read -r -t 0.1 _ <&3
done
