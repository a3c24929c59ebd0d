#!/bin/sh
# The first process of a second kernel whose power is cut: one disk, on which a store is judged and worked with.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs none /run
busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
mkdir /run/disk
mount -t "$LAYERSTORE_DISK" /dev/ubda /run/disk
cd "$LAYERSTORE_ROOT" && PYTHONPATH=$LAYERSTORE_ROOT PYTHONDONTWRITEBYTECODE=1 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$LAYERSTORE_PYTHON" -m tests.second_kernel.cutwork /run/disk/home /dev/ubdb 2>&1
umount /run/disk
busybox poweroff -f
