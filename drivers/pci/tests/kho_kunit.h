/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Pages as a kernel finds them that the previous kernel has preserved: for tests of what is
 * in them.
 */

#ifndef _KHO_KUNIT_H
#define _KHO_KUNIT_H

#include <kunit/test.h>
#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/gfp.h>
#include <linux/mm.h>

/* As kexec_handover.c has it in page->private: magic, references, order */
#define KUNIT_KHO_PRIVATE	(0x4b484f50UL << 32)
#define KUNIT_KHO_REFS		GENMASK(31, 8)

/**
 * kunit_kho_set_preserved - Make pages what the next kernel finds
 * @page:  pages that were allocated, whose number is a power of two
 * @order: that power
 */
static inline void kunit_kho_set_preserved(struct page *page, unsigned int order)
{
	set_page_private(page, KUNIT_KHO_PRIVATE | order);
	adjust_managed_page_count(page, -(1L << order));
}

/**
 * kunit_kho_nr_refs - Count the references on what wasn't restored yet
 * @page: the first of its pages
 *
 * Return: how often it was got and not put.
 */
static inline unsigned int kunit_kho_nr_refs(struct page *page)
{
	return FIELD_GET(KUNIT_KHO_REFS, page_private(page));
}

/**
 * kunit_kho_is_preserved - Check whether a page was given back yet
 * @page: what kunit_kho_page() returned
 *
 * Return: true until somebody restores the page.
 */
static inline bool kunit_kho_is_preserved(struct page *page)
{
	return page_private(page) == KUNIT_KHO_PRIVATE;
}

/**
 * kunit_kho_page - Allocate a page as the next kernel finds it
 * @test: the test, which fails if there is no memory
 *
 * Context: may sleep.
 * Return: a page of zeros, which is freed like any memory that KHO has preserved.
 */
static inline struct page *kunit_kho_page(struct kunit *test)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);

	KUNIT_ASSERT_NOT_NULL(test, page);
	kunit_kho_set_preserved(page, 0);
	return page;
}

#endif /* _KHO_KUNIT_H */
