#!/bin/busybox sh
# All that a Linux guest does, from its initramfs or from its boot volume.
read -r sectors </sys/block/vda/size && echo "DISK $sectors"
# A pipe that nobody writes to: waiting for it is a sleep that starts no process.
/bin/busybox mkfifo /dev/never
exec 3<>/dev/never

# A block of its own for each number, so that no later write makes up for a lost one.
write() {
    if printf '%-4095d\n' $1 | /bin/busybox dd of=$2 bs=4096 seek=$1 conv=notrunc,fsync 2>/dev/null; then
        echo "ACK $1"
    fi
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
n=0
while :; do
    n=$((n + 1))
    read -r uptime _ </proc/uptime
    echo "HB $n $uptime"
    if [ -b /dev/vda1 ] || [ -b /dev/vdb1 ]; then
        [ $((n % 10)) = 0 ] && report $n
    elif [ -b /dev/vdb ]; then
        write $n /dev/vdb
    fi
    read -r -t 0.1 _ <&3
done
