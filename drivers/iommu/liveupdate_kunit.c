// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * KUnit tests of the page tables that one kernel hands to the next: of what KHO says about
 * preserved memory, and of tables that are damaged.
 */

#include <kunit/test.h>
#include <linux/generic_pt/iommu.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/block.h>
#include <linux/kho/abi/iommu.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "liveupdate.h"
#include "../pci/tests/kho_kunit.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "iommu_liveupdate_kunit."

static unsigned int nr_tables = 1000;
module_param_named(tables, nr_tables, uint, 0644);
MODULE_PARM_DESC(tables, "Number of damaged tables to try");

static unsigned int first_seed;
module_param_named(seed, first_seed, uint, 0644);
MODULE_PARM_DESC(seed, "Seed of the first of them; that of the next is one more");

/* What KHO says in the old kernel */

static void is_preserved(struct kunit *test)
{
	void *mem = kho_alloc_preserve(4 * PAGE_SIZE);
	unsigned long before = kho_nr_unpreserved();
	phys_addr_t phys;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, mem);
	phys = virt_to_phys(mem);
	KUNIT_EXPECT_TRUE(test, kho_is_preserved(phys, 4 * PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, kho_is_preserved(phys + PAGE_SIZE, PAGE_SIZE));
	KUNIT_EXPECT_TRUE(test, kho_is_preserved(phys + PAGE_SIZE + 1, 2 * PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, kho_is_preserved(phys, 5 * PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, kho_is_preserved(phys - 1, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, before, kho_nr_unpreserved());

	kho_unpreserve_free(mem);
	KUNIT_EXPECT_FALSE(test, kho_is_preserved(phys, PAGE_SIZE));
	KUNIT_EXPECT_NE(test, before, kho_nr_unpreserved());
}

/* Pages that are preserved one by one make one piece of memory, whatever their sizes. */
static void is_preserved_in_pieces(struct kunit *test)
{
	struct page *page = alloc_pages(GFP_KERNEL, 3);
	phys_addr_t phys;

	KUNIT_ASSERT_NOT_NULL(test, page);
	split_page(page, 3);
	phys = page_to_phys(page);
	KUNIT_EXPECT_EQ(test, 0, kho_preserve_pages(page, 2));
	KUNIT_EXPECT_EQ(test, 0, kho_preserve_pages(page + 3, 5));
	KUNIT_EXPECT_FALSE(test, kho_is_preserved(phys, 8 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, kho_preserve_pages(page + 2, 1));
	KUNIT_EXPECT_TRUE(test, kho_is_preserved(phys, 8 * PAGE_SIZE));

	kho_unpreserve_pages(page + 3, 5);
	KUNIT_EXPECT_TRUE(test, kho_is_preserved(phys, 3 * PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, kho_is_preserved(phys, 4 * PAGE_SIZE));
	kho_unpreserve_pages(page, 2);
	kho_unpreserve_pages(page + 2, 1);
	for (int i = 0; i < 8; i++)
		__free_page(page + i);
}

/* What KHO says in the new kernel */

/* References become those of the folio; what was put before isn't there. */
static void get_preserved(struct kunit *test)
{
	struct page *page = kunit_kho_page(test);
	phys_addr_t phys = page_to_phys(page);
	struct folio *folio;

	for (int i = 0; i < 3; i++)
		KUNIT_EXPECT_EQ(test, 0, kho_get_preserved(phys + i, 1));
	kho_put_preserved(phys, 1);
	KUNIT_EXPECT_EQ(test, 2, kunit_kho_nr_refs(page));
	KUNIT_EXPECT_EQ(test, PAGE_SIZE, kho_preserved_size(phys));

	folio = kho_restore_folio(phys);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_EXPECT_EQ(test, 3, folio_ref_count(folio));
	KUNIT_EXPECT_EQ(test, -ENOENT, kho_get_preserved(phys, 1));
	folio_put(folio);
	kho_put_preserved(phys, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, 1, folio_ref_count(folio));
	kho_put_preserved(phys, PAGE_SIZE);
}

/* Two pieces of four pages; each part of a piece holds all of it. */
static void get_preserved_in_pieces(struct kunit *test)
{
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, 3);
	struct page *next = page + 4;
	phys_addr_t phys;

	KUNIT_ASSERT_NOT_NULL(test, page);
	split_page(page, 3);
	kunit_kho_set_preserved(page, 2);
	kunit_kho_set_preserved(next, 2);
	phys = page_to_phys(page);

	KUNIT_EXPECT_EQ(test, 0, kho_get_preserved(phys + 3 * PAGE_SIZE, 2 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 0, kho_get_preserved(phys + 5 * PAGE_SIZE, PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, kunit_kho_nr_refs(page));
	KUNIT_EXPECT_EQ(test, 2, kunit_kho_nr_refs(next));

	/* None is taken if that isn't possible for all */
	folio_put(kho_restore_folio(phys + 4 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, -ENOENT, kho_get_preserved(phys, 8 * PAGE_SIZE));
	KUNIT_EXPECT_EQ(test, 1, kunit_kho_nr_refs(page));

	KUNIT_EXPECT_EQ(test, 2, page_ref_count(next));
	kho_put_preserved(phys + 3 * PAGE_SIZE, 2 * PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, 0, kunit_kho_nr_refs(page));
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(next));
	kho_put_preserved(phys + 5 * PAGE_SIZE, PAGE_SIZE);
	folio_put(kho_restore_folio(phys));
}

/* Page tables */

struct visited {
	struct pt_iommu_visitor visitor;
	unsigned int tables;
	unsigned int leaves;
	phys_addr_t phys;
	size_t size;
};

static int visit_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	struct visited *visited = container_of(visitor, struct visited, visitor);

	visited->tables++;
	return 0;
}

static int visit_leaf(struct pt_iommu_visitor *visitor, phys_addr_t paddr, size_t size)
{
	struct visited *visited = container_of(visitor, struct visited, visitor);

	visited->leaves++;
	visited->phys += paddr;
	visited->size += size;
	return visited->phys == SZ_1T ? -ECANCELED : 0;
}

static int map(struct pt_iommu *pt, dma_addr_t iova, phys_addr_t paddr, size_t size)
{
	size_t mapped = 0;

	return pt->ops->map_range(pt, iova, paddr, size, IOMMU_READ | IOMMU_WRITE,
				  GFP_KERNEL, &mapped);
}

/* Of three levels, with pages of two sizes */
static void visit_page_tables(struct kunit *test)
{
	struct visited visited = {
		.visitor = { .table = visit_table, .leaf = visit_leaf },
	};
	struct pt_iommu_vtdss_cfg cfg = {
		.common = { .hw_max_vasz_lg2 = 39, .hw_max_oasz_lg2 = 52 },
		.top_level = 2,
	};
	struct pt_iommu_vtdss_hw_info info;
	struct pt_iommu_vtdss *table;
	struct pt_iommu *pt;

	table = kunit_kzalloc(test, sizeof(*table), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, table);
	table->iommu.nid = NUMA_NO_NODE;
	KUNIT_ASSERT_EQ(test, 0, pt_iommu_vtdss_init(table, &cfg, GFP_KERNEL));
	pt = &table->iommu;

	KUNIT_EXPECT_EQ(test, 0, pt->ops->visit(pt, &visited.visitor));
	KUNIT_EXPECT_EQ(test, 1, visited.tables);
	KUNIT_EXPECT_EQ(test, 0, visited.leaves);

	visited.tables = 0;
	KUNIT_EXPECT_EQ(test, 0, map(pt, SZ_4K, SZ_1G, 2 * SZ_4K));
	KUNIT_EXPECT_EQ(test, 0, map(pt, SZ_1G, SZ_2G, SZ_2M));
	KUNIT_EXPECT_EQ(test, 0, pt->ops->visit(pt, &visited.visitor));
	/* The top; one for each gigabyte; one for 4 KiB pages */
	KUNIT_EXPECT_EQ(test, 4, visited.tables);
	KUNIT_EXPECT_EQ(test, 3, visited.leaves);
	KUNIT_EXPECT_EQ(test, 2ULL * SZ_1G + SZ_4K + SZ_2G, visited.phys);
	KUNIT_EXPECT_EQ(test, SZ_4K + SZ_4K + SZ_2M, visited.size);

	/* The same if only the top is known */
	pt_iommu_vtdss_hw_info(table, &info);
	visited = (struct visited){ .visitor = visited.visitor };
	KUNIT_EXPECT_EQ(test, 0, pt_iommu_vtdss_visit_top(info.ssptptr, cfg.top_level,
							  &visited.visitor));
	KUNIT_EXPECT_EQ(test, 4, visited.tables);
	KUNIT_EXPECT_EQ(test, 3, visited.leaves);
	KUNIT_EXPECT_EQ(test, 2ULL * SZ_1G + SZ_4K + SZ_2G, visited.phys);

	/* What a visitor returns ends the visit */
	visited.phys = SZ_1T - SZ_1G;
	visited.leaves = 0;
	KUNIT_EXPECT_EQ(test, -ECANCELED, pt->ops->visit(pt, &visited.visitor));
	KUNIT_EXPECT_EQ(test, 1, visited.leaves);
	pt_iommu_deinit(pt);
}

/*
 * The table in the new kernel: two domains with 3 and 2 page tables, a root table, three
 * requester IDs. Page tables have three levels. Those of the first domain map the first page
 * of memory twice, and then the others; those of the second domain map nothing.
 */

enum {
	SER, DOMAINS, RIDS, PAGES_1, PAGES_2, PAGES, TABLE_1, TABLE_2 = TABLE_1 + 3,
	ROOT = TABLE_2 + 2, MEMORY, NR_PAGES = MEMORY + 3,
};

#define NR_TABLE_PAGES	MEMORY

struct fake_table {
	struct page *pages[NR_PAGES];
};

static void *fake_page(struct fake_table *table, int i)
{
	return page_address(table->pages[i]);
}

static u64 fake_pa(struct fake_table *table, int i)
{
	return page_to_phys(table->pages[i]);
}

static void *fake_rec(struct fake_table *table, int page, size_t size, int i)
{
	return fake_page(table, page) + sizeof(struct kho_block_header_ser) + i * size;
}

#define fake_domain(table, i)						\
	((struct iommu_domain_ser *)fake_rec(table, DOMAINS,		\
					     sizeof(struct iommu_domain_ser), i))
#define fake_rid(table, i)						\
	((struct iommu_rid_ser *)fake_rec(table, RIDS,			\
					  sizeof(struct iommu_rid_ser), i))
#define fake_table_page(table, page, i)					\
	((struct iommu_page_ser *)fake_rec(table, page,			\
					   sizeof(struct iommu_page_ser), i))

static unsigned int fake_nr_preserved(struct fake_table *table)
{
	unsigned int nr = 0;

	for (int i = 0; i < NR_TABLE_PAGES; i++)
		nr += kunit_kho_is_preserved(table->pages[i]);
	return nr;
}

static void fake_set_entry(struct fake_table *table, int page, int i, u64 pa)
{
	/* Read and Write */
	((u64 *)fake_page(table, page))[i] = pa | 3;
}

static void fake_fill_tables(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1, 0, fake_pa(table, TABLE_1 + 1));
	fake_set_entry(table, TABLE_1 + 1, 2, fake_pa(table, TABLE_1 + 2));
	fake_set_entry(table, TABLE_1 + 2, 1, fake_pa(table, MEMORY));
	for (int i = 0; i < 3; i++)
		fake_set_entry(table, TABLE_1 + 2, 2 + i, fake_pa(table, MEMORY + i));
	fake_set_entry(table, TABLE_2, 0, fake_pa(table, TABLE_2 + 1));
}

/* Give back what wasn't. */
static void fake_free(struct fake_table *table)
{
	for (int i = 0; i < NR_PAGES; i++) {
		if (kunit_kho_is_preserved(table->pages[i]))
			kho_restore_free(page_address(table->pages[i]));
	}
}

static void fake_block(struct fake_table *table, int page, u64 count)
{
	struct kho_block_header_ser *block = fake_page(table, page);

	block->count = count;
}

static void fake_fill_domain(struct fake_table *table, int i, int block, int first, int nr)
{
	*fake_domain(table, i) = (struct iommu_domain_ser){
		.id = i + 1,
		.top = fake_pa(table, first),
		.pages = fake_pa(table, block),
		.nr_pages = nr,
	};
	fake_block(table, block, nr);
	for (int j = 0; j < nr; j++)
		fake_table_page(table, block, j)->phys = fake_pa(table, first + j);
}

/* As the old kernel has left it; with a free slot in each block that may have one. */
static void fake_fill(struct kunit *test, struct fake_table *table)
{
	for (int i = 0; i < NR_PAGES; i++)
		table->pages[i] = kunit_kho_page(test);

	*(struct iommu_ser *)fake_page(table, SER) = (struct iommu_ser){
		.version = IOMMU_SER_VERSION,
		.domains = fake_pa(table, DOMAINS),
		.rids = fake_pa(table, RIDS),
		.pages = fake_pa(table, PAGES),
	};
	fake_block(table, PAGES, 1);
	fake_table_page(table, PAGES, 0)->phys = fake_pa(table, ROOT);
	fake_block(table, DOMAINS, 3);
	fake_fill_domain(table, 0, PAGES_1, TABLE_1, TABLE_2 - TABLE_1);
	fake_fill_domain(table, 1, PAGES_2, TABLE_2, ROOT - TABLE_2);

	fake_fill_tables(table);

	fake_block(table, RIDS, 4);
	for (int i = 0; i < 3; i++) {
		*fake_rid(table, i) = (struct iommu_rid_ser){
			.domain = i ? 2 : 1,
			.refcount = 1,
			.rid = 0x100 + i,
			.driver = IOMMU_SER_INTEL,
		};
	}
}

static struct iommu_ser *fake_load(struct fake_table *table)
{
	return iommu_incoming_load(fake_pa(table, SER));
}

static void load_and_free(struct kunit *test)
{
	struct fake_table table;
	struct iommu_ser *ser;

	fake_fill(test, &table);
	ser = fake_load(&table);
	KUNIT_ASSERT_PTR_EQ(test, ser, fake_page(&table, SER));
	KUNIT_EXPECT_EQ(test, NR_TABLE_PAGES, fake_nr_preserved(&table));
	iommu_incoming_free(ser);
	KUNIT_EXPECT_EQ(test, 0, fake_nr_preserved(&table));
	fake_free(&table);
}

/* A table without devices, as after a session that was closed */
static void load_empty(struct kunit *test)
{
	struct fake_table table;
	struct iommu_ser *ser;

	fake_fill(test, &table);
	ser = fake_page(&table, SER);
	ser->domains = 0;
	ser->rids = 0;
	ser->pages = 0;
	KUNIT_ASSERT_PTR_EQ(test, ser, fake_load(&table));
	iommu_incoming_free(ser);
	KUNIT_EXPECT_EQ(test, NR_TABLE_PAGES - 1, fake_nr_preserved(&table));
	fake_free(&table);
}

static void damage_version(struct fake_table *table)
{
	((struct iommu_ser *)fake_page(table, SER))->version++;
}

static void damage_chain(struct fake_table *table)
{
	((struct iommu_ser *)fake_page(table, SER))->domains += 8;
}

static void damage_loop(struct fake_table *table)
{
	((struct kho_block_header_ser *)fake_page(table, RIDS))->next = fake_pa(table, RIDS);
}

static void damage_shared_chain(struct fake_table *table)
{
	fake_domain(table, 1)->pages = fake_domain(table, 0)->pages;
	fake_domain(table, 1)->nr_pages = fake_domain(table, 0)->nr_pages;
	fake_domain(table, 1)->top = fake_domain(table, 0)->top;
}

static void damage_same_domain(struct fake_table *table)
{
	fake_domain(table, 1)->id = 1;
}

static void damage_page(struct fake_table *table)
{
	fake_table_page(table, PAGES_1, 1)->phys += SZ_4K * 3 / 4;
}

static void damage_page_is_block(struct fake_table *table)
{
	fake_table_page(table, PAGES_1, 1)->phys = fake_pa(table, PAGES_2);
}

static void damage_page_is_head(struct fake_table *table)
{
	fake_table_page(table, PAGES_1, 1)->phys = fake_pa(table, SER);
}

static void damage_other_page(struct fake_table *table)
{
	fake_table_page(table, PAGES, 0)->phys = fake_pa(table, DOMAINS);
}

static void damage_nr_pages(struct fake_table *table)
{
	fake_domain(table, 0)->nr_pages--;
}

static void damage_top(struct fake_table *table)
{
	fake_domain(table, 0)->top = fake_domain(table, 1)->top;
}

static void damage_page_of_two_domains(struct fake_table *table)
{
	fake_table_page(table, PAGES_2, 1)->phys = fake_pa(table, TABLE_1 + 1);
}

static void damage_same_rid(struct fake_table *table)
{
	fake_rid(table, 2)->rid = fake_rid(table, 1)->rid;
}

static void damage_rid_domain(struct fake_table *table)
{
	fake_rid(table, 2)->domain = 3;
}

static void damage_rid_refcount(struct fake_table *table)
{
	fake_rid(table, 2)->refcount = 0;
}

static void damage_rid_driver(struct fake_table *table)
{
	fake_rid(table, 2)->driver = 0;
}

static void damage_reserved(struct fake_table *table)
{
	((struct iommu_ser *)fake_page(table, SER))->reserved = 1;
}

static void damage_domain_reserved(struct fake_table *table)
{
	fake_domain(table, 1)->reserved = 1;
}

static void (*const damages[])(struct fake_table *table) = {
	damage_version, damage_chain, damage_loop, damage_shared_chain,
	damage_same_domain, damage_page, damage_page_is_block, damage_page_is_head,
	damage_other_page, damage_nr_pages, damage_top, damage_page_of_two_domains,
	damage_same_rid, damage_rid_domain, damage_rid_refcount,
	damage_rid_driver, damage_reserved, damage_domain_reserved,
};

/* Each is refused, and nothing is given away. */
static void load_damaged(struct kunit *test)
{
	struct fake_table table;

	for (int i = 0; i < ARRAY_SIZE(damages); i++) {
		fake_fill(test, &table);
		damages[i](&table);
		KUNIT_EXPECT_NULL_MSG(test, fake_load(&table), "%ps", damages[i]);
		KUNIT_EXPECT_EQ(test, NR_TABLE_PAGES, fake_nr_preserved(&table));
		fake_free(&table);
	}
}

/* What the page tables map */

static int fake_visit(u64 top, u32 format, struct pt_iommu_visitor *visitor)
{
	return pt_iommu_vtdss_visit_top(top, format, visitor);
}

static int fake_hold_as(struct fake_table *table, int rid, u32 format)
{
	const struct iommu_rid_ser *rec = fake_rid(table, rid);

	return iommu_liveupdate_hold_memory(rec, fake_domain(table, rec->domain - 1), format,
					    fake_visit);
}

static int fake_hold(struct fake_table *table, int rid)
{
	return fake_hold_as(table, rid, 2);
}

/* And wait until the references are put. */
static void fake_put(struct fake_table *table, int rid)
{
	iommu_liveupdate_put_memory(0, fake_rid(table, rid)->rid);
	iommu_held_flush();
}

static void expect_held(struct kunit *test, struct fake_table *table, unsigned int first,
			unsigned int others)
{
	KUNIT_EXPECT_EQ(test, first, kunit_kho_nr_refs(table->pages[MEMORY]));
	KUNIT_EXPECT_EQ(test, others, kunit_kho_nr_refs(table->pages[MEMORY + 1]));
	KUNIT_EXPECT_EQ(test, others, kunit_kho_nr_refs(table->pages[MEMORY + 2]));
}

/* As long as one of the requester IDs needs it, and as often as it is mapped */
static void hold_memory(struct kunit *test)
{
	struct fake_table table;

	fake_fill(test, &table);
	fake_rid(&table, 1)->domain = 1;
	KUNIT_ASSERT_NOT_NULL(test, fake_load(&table));
	KUNIT_EXPECT_EQ(test, 0, fake_hold(&table, 0));
	KUNIT_EXPECT_EQ(test, -EINVAL, fake_hold_as(&table, 1, 3));
	KUNIT_EXPECT_EQ(test, 0, fake_hold(&table, 1));
	KUNIT_EXPECT_EQ(test, 0, fake_hold(&table, 2));
	expect_held(test, &table, 2, 1);

	/* Its owner takes a page back, and frees it */
	folio_put(kho_restore_folio(fake_pa(&table, MEMORY)));
	KUNIT_EXPECT_EQ(test, 2, page_ref_count(table.pages[MEMORY]));
	get_page(table.pages[MEMORY]);

	fake_put(&table, 0);
	fake_put(&table, 0);
	fake_put(&table, 2);
	KUNIT_EXPECT_EQ(test, 3, page_ref_count(table.pages[MEMORY]));
	fake_put(&table, 1);
	KUNIT_EXPECT_EQ(test, 1, page_ref_count(table.pages[MEMORY]));
	put_page(table.pages[MEMORY]);
	KUNIT_EXPECT_EQ(test, 0, kunit_kho_nr_refs(table.pages[MEMORY + 1]));
	fake_free(&table);
}

static void damage_leaf(struct fake_table *table)
{
	kho_restore_free(fake_page(table, MEMORY + 1));
}

static void damage_leaf_size(struct fake_table *table)
{
	/* Page Size */
	fake_set_entry(table, TABLE_1 + 1, 3, BIT(7));
}

static void damage_loop_of_tables(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 1, 3, fake_pa(table, TABLE_1));
}

static void damage_table_twice(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 1, 3, fake_pa(table, TABLE_1 + 2));
}

static void damage_table_of_other(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 1, 3, fake_pa(table, TABLE_2 + 1));
}

static void damage_fan(struct fake_table *table)
{
	for (int i = 0; i < PAGE_SIZE / sizeof(u64); i++)
		fake_set_entry(table, TABLE_1, i, fake_pa(table, TABLE_1 + 1));
}

/* What is mapped is a page table, a block, the root table */
static void damage_leaf_is_table(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 2, 9, fake_pa(table, TABLE_1 + 2));
}

static void damage_leaf_is_block(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 2, 9, fake_pa(table, RIDS));
}

static void damage_leaf_is_root(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 2, 9, fake_pa(table, ROOT));
}

static void damage_table_nowhere(struct fake_table *table)
{
	fake_set_entry(table, TABLE_1 + 1, 3, GENMASK_ULL(51, 12));
}

static void (*const table_damages[])(struct fake_table *table) = {
	damage_leaf, damage_leaf_size, damage_loop_of_tables, damage_table_twice,
	damage_table_of_other, damage_fan, damage_leaf_is_table, damage_leaf_is_block,
	damage_leaf_is_root, damage_table_nowhere,
};

/* Each is refused, and nothing stays held. */
static void hold_damaged(struct kunit *test)
{
	struct fake_table table;

	for (int i = 0; i < ARRAY_SIZE(table_damages); i++) {
		fake_fill(test, &table);
		KUNIT_ASSERT_NOT_NULL(test, fake_load(&table));
		table_damages[i](&table);
		KUNIT_EXPECT_NE_MSG(test, 0, fake_hold(&table, 0), "%ps", table_damages[i]);
		KUNIT_EXPECT_EQ(test, 0, kunit_kho_nr_refs(table.pages[MEMORY]));
		KUNIT_EXPECT_EQ(test, 0, kunit_kho_nr_refs(table.pages[MEMORY + 2]));
		fake_put(&table, 0);
		fake_free(&table);
	}
}

/* Write something that is likely to mean something, or anything, to where it may matter. */
static void fake_damage(struct rnd_state *rnd, struct fake_table *table)
{
	const u64 values[] = {
		0, 1, 2, 3, U64_MAX, prandom_u32_state(rnd),
		fake_pa(table, prandom_u32_state(rnd) % NR_PAGES),
		fake_pa(table, prandom_u32_state(rnd) % NR_PAGES) + 8,
		fake_pa(table, prandom_u32_state(rnd) % NR_PAGES) | 3,
	};
	void *page = fake_page(table, prandom_u32_state(rnd) % ROOT);
	u64 value = values[prandom_u32_state(rnd) % ARRAY_SIZE(values)];
	unsigned int size = 1 << prandom_u32_state(rnd) % 4;

	memcpy(page + prandom_u32_state(rnd) % (144 / size) * size, &value, size);
}

static int hold_rid(const struct iommu_rid_ser *rec, const struct iommu_domain_ser *domain,
		    void *data)
{
	unsigned int *nr_held = data;

	if (!iommu_liveupdate_hold_memory(rec, domain, 2, fake_visit))
		++*nr_held;
	return 0;
}

static int put_rid(const struct iommu_rid_ser *rec, const struct iommu_domain_ser *domain,
		   void *data)
{
	iommu_liveupdate_put_memory(rec->segment, rec->rid);
	return 0;
}

/* As drivers do with a table that is consistent; what it maps may be anything. */
static void hold_and_put(struct iommu_ser *ser, unsigned int *nr_held)
{
	iommu_incoming_walk_rids(ser, hold_rid, nr_held);
	iommu_incoming_walk_rids(ser, put_rid, NULL);
	iommu_held_flush();
}

static void load_random(struct kunit *test)
{
	unsigned int nr_good = 0, nr_held = 0;

	for (unsigned int i = 0; i < nr_tables; i++) {
		struct fake_table table;
		struct iommu_ser *ser;
		struct rnd_state rnd;

		prandom_seed_state(&rnd, first_seed + i);
		fake_fill(test, &table);
		for (int j = prandom_u32_state(&rnd) % 4; j >= 0; j--)
			fake_damage(&rnd, &table);

		ser = fake_load(&table);
		if (ser) {
			nr_good++;
			hold_and_put(ser, &nr_held);
			iommu_incoming_free(ser);
			KUNIT_EXPECT_FALSE_MSG(test, kunit_kho_is_preserved(table.pages[SER]),
					       "seed %u", first_seed + i);
		} else {
			KUNIT_EXPECT_EQ_MSG(test, NR_TABLE_PAGES, fake_nr_preserved(&table),
					    "seed %u", first_seed + i);
		}
		fake_free(&table);
		cond_resched();
	}

	kunit_info(test, "tables tried: %u, %u of them consistent; memory held %u times",
		   nr_tables, nr_good, nr_held);
}

static struct kunit_case iommu_liveupdate_cases[] = {
	KUNIT_CASE(is_preserved),
	KUNIT_CASE(is_preserved_in_pieces),
	KUNIT_CASE(get_preserved),
	KUNIT_CASE(get_preserved_in_pieces),
	KUNIT_CASE(visit_page_tables),
	KUNIT_CASE(load_and_free),
	KUNIT_CASE(load_empty),
	KUNIT_CASE(load_damaged),
	KUNIT_CASE(hold_memory),
	KUNIT_CASE(hold_damaged),
	KUNIT_CASE(load_random),
	{}
};

static struct kunit_suite iommu_liveupdate_suite = {
	.name = "iommu_liveupdate",
	.test_cases = iommu_liveupdate_cases,
};

kunit_test_suite(iommu_liveupdate_suite);
