#!/bin/sh
# The first process of the second kernel: its file systems, then the checks, then off.
# Its root is this machine's, read-only; what it writes is on the two disks and in memory.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs none /run
modules=/usr/lib/uml/modules/$(uname -r)/kernel/fs
for module in quota/quota_tree quota/quota_v2 overlayfs/overlay; do
    busybox insmod "$modules/$module.ko"
done
mkdir /run/xfs /run/ext4
mount -t xfs -o pquota /dev/ubda /run/xfs
mount -t ext4 -o prjquota /dev/ubdb /run/ext4
cd "$LAYERSTORE_ROOT" && PYTHONPATH=$LAYERSTORE_ROOT PYTHONDONTWRITEBYTECODE=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$LAYERSTORE_PYTHON" -m $LAYERSTORE_RUN 2>&1
busybox poweroff -f
