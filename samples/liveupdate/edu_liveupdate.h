/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What programs need to use /dev/edu-<address of the device>:
 *
 * write(2) of a __u32 n starts the computation of n!, modulo 2^32. read(2) of a
 * __u32 waits for the result. mmap(2) maps a buffer of EDU_BUFFER_SIZE bytes. The
 * ioctls copy this buffer to, or from, a buffer in the device.
 */

#ifndef _EDU_LIVEUPDATE_H
#define _EDU_LIVEUPDATE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define EDU_BUFFER_SIZE		4096

#define EDU_DMA_TO_DEVICE	_IO('E', 0)
#define EDU_DMA_FROM_DEVICE	_IO('E', 1)
/* The random number that the driver wrote to a register when it set the device up. */
#define EDU_GET_LIVENESS	_IOR('E', 2, __u32)

#endif /* _EDU_LIVEUPDATE_H */
