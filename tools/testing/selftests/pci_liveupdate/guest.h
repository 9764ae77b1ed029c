/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs that replace the kernel under their devices have in common.
 */
#ifndef GUEST_H
#define GUEST_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/types.h>

/* For programs, see vmtest.py */
#define say(fmt, ...) printf("VMM: " fmt "\n", ##__VA_ARGS__)

#define die(fmt, ...) do { \
	say("FAIL " fmt, ##__VA_ARGS__); \
	exit(1); \
} while (0)

#define die_errno(err, fmt, ...) die(fmt ": %s", ##__VA_ARGS__, strerror(err))

int check(int ret, const char *what, const char *where);
int check_luo(int ret, const char *what, const char *where);
void expect(int err, int expected, const char *what, const char *where);

__u64 now_us(void);
__u64 now_ms(void);

/* Call until() every millisecond until it is true. */
#define wait_for(limit_ms, until, fmt, ...) do { \
	__u64 end = now_ms() + (limit_ms); \
	while (!(until)) { \
		if (now_ms() > end) \
			die("gave up waiting for " fmt, ##__VA_ARGS__); \
		usleep(1000); \
	} \
} while (0)

int try_write(const char *path, const char *text);
void write_text(const char *path, const char *text);
ssize_t read_config(const char *dir, __u8 *config, size_t size);
void find_path(const char *bdf, char path[PATH_MAX]);
void visit_path(const char *bdf, void (*visit)(const char *dir, const char *bdf));
bool find_cdev(const char *bdf, char path[PATH_MAX]);
void get_cdev(const char *bdf, char path[PATH_MAX]);
int open_cdev(const char *bdf);
int try_to_bind(int fd, int iommufd);
void bind_device(int fd, int iommufd, const char *bdf);
__u32 alloc_ioas(int iommufd);
int try_to_attach(int fd, __u32 ioas_id);
void attach_device(int fd, __u32 ioas_id, const char *bdf);
void prevent_freeze(int fd, bool on, const char *bdf);
void set_irqs(int fd, __u32 index, __u32 flags, __u32 count, int event, const char *bdf);
int watch_irq(int fd, __u32 index, const char *bdf);

void show_path(const char *bdf);
void mark_trace(void);

int try_to_load(const char *kernel, const char *initrd, const char *cmdline, int flags);
void load_kernel(const char *kernel, const char *initrd, const char *append);
void load_crash_kernel(const char *kernel, const char *initrd, const char *append);
int unload_module(const char *name);
void allow_sriov(void);
void run(const char *program);
void start_kernel(void);

#endif /* GUEST_H */
