// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: LUO Images
 *
 * Data that describes running hardware must not get into a kernel that can't read it: the
 * hardware would go on under a kernel that doesn't know of it. So LUO reads what an image says
 * of itself (&struct liveupdate_image) and its command line when kexec_file_load() loads it, and
 * keeps that with the image. Before anything is frozen for the kexec, LUO compares it with what
 * is preserved. As long as no FLB with a &liveupdate_flb.version is preserved, any image will do.
 * Of data that no image knows, as that of drivers from elsewhere, it can say nothing.
 *
 * The kexec is refused if the image reads too little. An administrator who wants it nevertheless
 * sets liveupdate.force. Then LUO unpreserves all files first, so that the kexec is one without
 * a live update: devices are shut down, and what was preserved is lost.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cleanup.h>
#include <linux/errno.h>
#include <linux/kexec.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/image.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/kho/abi/luo.h>
#include <linux/kstrtox.h>
#include <linux/liveupdate.h>
#include <linux/minmax.h>
#include <linux/moduleparam.h>
#include <linux/overflow.h>
#include <linux/printk.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include <asm/setup.h>

#include "../kexec_internal.h"
#include "luo_internal.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "liveupdate."

static bool luo_force;
module_param_named(force, luo_force, bool, 0644);
MODULE_PARM_DESC(force, "Kexec into a kernel that can't read what is preserved, which is lost");

/* Room for some abis and a built-in command line; what is larger isn't one of ours */
#define LUO_IMAGE_MAX_SIZE	(SZ_2K + COMMAND_LINE_SIZE)

/* The image is loaded */

static const struct liveupdate_image_abi *luo_image_abis(const struct liveupdate_image *info)
{
	return (const void *)(info + 1);
}

static bool luo_image_ok(const struct liveupdate_image *info, size_t size)
{
	const struct liveupdate_image_abi *abis = luo_image_abis(info);
	size_t need;

	if (size < sizeof(*info) || size > LUO_IMAGE_MAX_SIZE ||
	    info->magic != LIVEUPDATE_IMAGE_MAGIC || info->size != size)
		return false;

	need = size_add(sizeof(*info), array_size(info->nr_abis, sizeof(*abis)));
	if (size <= need || !memchr((const void *)info + need, '\0', size - need))
		return false;

	for (u32 i = 0; i < info->nr_abis; i++) {
		if (strnlen(abis[i].name, sizeof(abis[i].name)) == sizeof(abis[i].name) ||
		    abis[i].oldest > abis[i].newest)
			return false;
	}

	return true;
}

/**
 * luo_fill_kimage - Keep what an image says of itself with the image
 * @image: what kexec_file_load() loads; &kimage.kernel_buf and &kimage.cmdline_buf are there
 *
 * An image that says nothing, or nothing that makes sense, can be loaded.
 *
 * Context: kexec_file_load(), with the kexec lock held. May sleep.
 * Return: 0; -ENOMEM, after which the caller still calls luo_free_kimage().
 */
int luo_fill_kimage(struct kimage *image)
{
	const struct liveupdate_image *info;
	const char *builtin, *given = "";
	size_t size;

	if (!liveupdate_enabled() || image->type == KEXEC_TYPE_CRASH || !image->fops->liveupdate)
		return 0;

	info = image->fops->liveupdate(image->kernel_buf, image->kernel_buf_len, &size);
	if (!info)
		return 0;
	if (!luo_image_ok(info, size)) {
		pr_warn("what the loaded image says of live update is damaged\n");
		return 0;
	}

	builtin = (const void *)(luo_image_abis(info) + info->nr_abis);
	if (image->cmdline_buf && !(info->flags & LIVEUPDATE_IMAGE_CMDLINE))
		given = image->cmdline_buf;
	image->kho.info = kmemdup(info, size, GFP_KERNEL);
	image->kho.cmdline = kasprintf(GFP_KERNEL, "%s%s%s", builtin, *builtin ? " " : "", given);
	if (!image->kho.info || !image->kho.cmdline)
		return -ENOMEM;

	/* The next kernel cuts it off */
	image->kho.cmdline[min(strlen(image->kho.cmdline), COMMAND_LINE_SIZE - 1)] = '\0';
	return 0;
}

/**
 * luo_free_kimage - Free what luo_fill_kimage() has allocated
 * @image: the image, which may be of any kind, and is about to be freed
 *
 * Context: Any that can free memory.
 */
void luo_free_kimage(struct kimage *image)
{
	kfree(image->kho.info);
	kfree(image->kho.cmdline);
}

/* The kexec begins */

static __printf(1, 2) int luo_image_refuse(const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list args;

	va_start(args, fmt);
	vaf.va = &args;
	pr_warn("the loaded kernel can't follow: it %pV; load another, or close the sessions\n",
		&vaf);
	va_end(args);

	return -EOPNOTSUPP;
}

/*
 * Choose the newest version of one kind of data, whose name has this length, from *@version and
 * older ones down to @oldest. Drivers may have data that no image knows.
 */
static int luo_image_choose(const char *name, size_t len, u32 oldest, u32 *version, bool known)
{
	const struct liveupdate_image *info = kexec_image->kho.info;
	const struct liveupdate_image_abi *abi = luo_image_abis(info);
	const struct liveupdate_image_abi *end = abi + info->nr_abis;

	while (abi < end && (strlen(abi->name) != len || strncmp(abi->name, name, len)))
		abi++;

	if (abi == end && !known)
		return 0;
	if (abi == end || !abi->newest)
		return luo_image_refuse("doesn't read '%.*s'", (int)len, name);
	if (*version < abi->oldest || oldest > abi->newest)
		return luo_image_refuse("reads versions %u to %u of '%s', not %u",
					abi->oldest, abi->newest, abi->name, *version);

	*version = min(*version, abi->newest);
	return 0;
}

/**
 * luo_image_reads - Check whether the loaded kernel reads the data of a compatible string
 * @compatible: the string: a name, "-v" and a version
 * @known:      each image knows the name, even if it doesn't read the data
 *
 * Context: after luo_image_check(), with the kexec lock held.
 * Return: 0, also for a string without a version and for a name that the image doesn't know
 * and needn't; -EOPNOTSUPP after a message that says why not.
 */
int luo_image_reads(const char *compatible, bool known)
{
	const char *dash = strrchr(compatible, '-');
	u32 version;

	if (!dash || dash[1] != 'v' || kstrtou32(dash + 2, 10, &version))
		return 0;

	return luo_image_choose(compatible, dash - compatible, version, &version, known);
}

/**
 * luo_image_reads_flb - Choose the version of an FLB's data that the loaded kernel reads
 * @flb:     an FLB that is preserved
 * @version: [OUT] the newest version that this kernel can write; &liveupdate_flb.version if
 *           that is 0
 *
 * Context: after luo_image_check(), with the kexec lock held.
 * Return: 0; -EOPNOTSUPP after a message that says why there is none.
 */
int luo_image_reads_flb(const struct liveupdate_flb *flb, u32 *version)
{
	u32 oldest = flb->oldest ?: flb->version;

	*version = flb->version;
	if (!flb->version)
		return 0;

	return luo_image_choose(flb->compatible, strlen(flb->compatible), oldest, version, true);
}

/**
 * liveupdate_image_flags - Get what is on in the loaded kernel without any parameter
 *
 * Context: called from &liveupdate_flb_ops.prepare.
 * Return: LIVEUPDATE_IMAGE_*.
 */
u32 liveupdate_image_flags(void)
{
	return kexec_image->kho.info->flags;
}

/**
 * liveupdate_image_params - Look at the command line of the loaded kernel
 * @param: called for each parameter, as by parse_args()
 * @arg:   for @param
 *
 * Context: called from &liveupdate_flb_ops.prepare. May sleep.
 * Return: 0; -ENOMEM.
 */
int liveupdate_image_params(int (*param)(char *param, char *val, const char *doing, void *arg),
			    void *arg)
{
	char *cmdline __free(kfree) = kstrdup(kexec_image->kho.cmdline, GFP_KERNEL);

	if (!cmdline)
		return -ENOMEM;

	parse_args("loaded image", cmdline, NULL, 0, 0, 0, arg, param);
	return 0;
}

/* Whether each of these parameters is on */
struct luo_image_params {
	bool kho;
	bool liveupdate;
};

/* As early_param() handlers do: what isn't a boolean changes nothing */
static int luo_image_param(char *param, char *val, const char *doing, void *arg)
{
	struct luo_image_params *params = arg;
	int err = 0;

	if (parameq(param, "kho"))
		err = kstrtobool(val, &params->kho);
	else if (parameq(param, "liveupdate"))
		err = kstrtobool(val, &params->liveupdate);
	if (err)
		pr_debug("%s: '%s' has no value that counts\n", doing, param);

	return 0;
}

static int luo_image_check_params(void)
{
	struct luo_image_params params = { .kho = liveupdate_image_flags() & LIVEUPDATE_IMAGE_KHO };
	int err = liveupdate_image_params(luo_image_param, &params);

	if (err)
		return err;
	if (!params.kho || !params.liveupdate)
		return luo_image_refuse("hasn't '%s=on' on its command line",
					params.kho ? "liveupdate" : "kho");

	return 0;
}

/**
 * luo_image_check - Check whether the loaded kernel takes part in a live update
 *
 * Context: with the kexec lock held. May sleep.
 * Return: 0; -EOPNOTSUPP after a message that says why not; -ENOMEM.
 */
int luo_image_check(void)
{
	int err;

	if (!kexec_image->kho.fdt)
		return luo_image_refuse("wasn't loaded with kexec_file_load()");
	if (!kexec_image->kho.info)
		return luo_image_refuse("doesn't say that it can do live updates");

	err = luo_image_check_params();
	if (!err)
		err = luo_image_reads(KHO_FDT_COMPATIBLE, true);
	if (!err)
		err = luo_image_reads(LUO_ABI_COMPATIBLE, true);

	return err;
}

/**
 * luo_image_forced - Check whether to kexec although the loaded kernel can't follow
 *
 * Context: Any, after a check that has failed.
 * Return: true, after a message, if the administrator wants what is preserved to be lost.
 */
bool luo_image_forced(void)
{
	if (!READ_ONCE(luo_force))
		return false;

	pr_warn("forced to kexec: all that was preserved is lost\n");
	return true;
}
