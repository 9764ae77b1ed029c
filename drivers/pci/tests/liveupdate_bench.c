// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * How long the table of PCI live update takes, a part of liveupdate.c.
 *
 * Runs with pci_liveupdate_bench.run=1 only, as it takes a minute and half a gigabyte.
 * The yardstick is a straightforward table on the same blocks: it is searched for a free
 * slot, and for a record. pci_liveupdate_kunit.yardstick=1 has the tests of
 * liveupdate_kunit.c run on it.
 *
 * What is reported is nanoseconds for each operation. In QEMU with "-icount shift=0" these
 * are instructions.
 */

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pci_liveupdate_bench."

static bool run_bench;
module_param_named(run, run_bench, bool, 0444);
MODULE_PARM_DESC(run, "Measure how long the table takes");

/* The yardstick */

/* The next free slot behind @it. */
static struct pci_dev_ser *yardstick_next(struct kho_block_set_it *it)
{
	struct pci_outgoing *out = &pci_outgoing;
	struct pci_dev_ser *rec;
	int err;

	do {
		rec = kho_block_set_it_read_entry(it);
	} while (rec && rec->refcount);

	if (!rec)
		rec = kho_block_set_it_reserve_entry(it);
	if (!rec) {
		err = kho_block_set_grow(&out->blocks, out->blocks.nblocks *
					 out->blocks.count_per_block + 1);
		if (err)
			return ERR_PTR(err);
		if (!it->block)
			kho_block_set_it_init(it, &out->blocks);
		rec = kho_block_set_it_reserve_entry(it);
	}

	out->ser->devices = kho_block_set_head_pa(&out->blocks);
	out->ser->nr_devices++;
	return rec;
}

static struct pci_dev_ser *yardstick_alloc(void)
{
	struct kho_block_set_it it;

	kho_block_set_it_init(&it, &pci_outgoing.blocks);
	return yardstick_next(&it);
}

static void yardstick_free(struct pci_dev *dev)
{
	memset(dev->liveupdate.outgoing, 0, sizeof(*dev->liveupdate.outgoing));
	pci_outgoing.ser->nr_devices--;
}

static struct pci_dev_ser *yardstick_find(struct pci_dev *dev)
{
	struct kho_block_set_it it;
	struct pci_dev_ser *rec;

	kho_block_set_it_init(&it, &pci_incoming.blocks);
	do {
		rec = kho_block_set_it_read_entry(&it);
	} while (rec && (!rec->refcount || rec->bdf != pci_dev_id(dev) ||
			 rec->domain != pci_domain_nr(dev->bus)));

	return rec;
}

static void use_yardstick(struct kunit *test)
{
	kunit_activate_static_stub(test, pci_outgoing_alloc, yardstick_alloc);
	kunit_activate_static_stub(test, pci_outgoing_free, yardstick_free);
}

static void use_table(struct kunit *test)
{
	kunit_deactivate_static_stub(test, pci_outgoing_alloc);
	kunit_deactivate_static_stub(test, pci_outgoing_free);
}

/* Devices that nobody enumerates */

#define BENCH_MAX	65536
/* Of a small number of devices so many operations, over and over */
#define BENCH_MIN_OPS	4096
/* What scans the table does so many */
#define BENCH_SCANS	64

static struct pci_sysdata bench_sysdata = { .domain = FAKE_DOMAIN };
static struct pci_bus *bench_buses;
static struct pci_dev *bench_devs;
/* The devices in random order */
static u32 *bench_order;
static struct rnd_state bench_rnd;

/* Only the first @nr of the order. */
static void bench_reorder(unsigned int nr)
{
	for (unsigned int i = nr; i > 1; i--) {
		unsigned int j = prandom_u32_state(&bench_rnd) % i;

		swap(bench_order[i - 1], bench_order[j]);
	}
}

static void bench_shuffle(unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		bench_order[i] = i;
	bench_reorder(nr);
}

static struct pci_dev *bench_dev(unsigned int i)
{
	return &bench_devs[bench_order[i]];
}

static void bench_preserve(unsigned int first, unsigned int end)
{
	for (unsigned int i = first; i < end; i++)
		pci_outgoing_get_path(bench_dev(i));
}

static void bench_unpreserve(unsigned int first, unsigned int end)
{
	for (unsigned int i = first; i < end; i++)
		pci_outgoing_put_path(bench_dev(i), NULL);
}

/* As the yardstick would, but not from the beginning for each. */
static void bench_fill(unsigned int first, unsigned int end)
{
	struct kho_block_set_it it;

	kho_block_set_it_init(&it, &pci_outgoing.blocks);
	for (unsigned int i = first; i < end; i++) {
		struct pci_dev_ser *rec = yardstick_next(&it);
		struct pci_dev *dev = bench_dev(i);

		pci_record_fill(dev, rec);
		rec->refcount = 1;
		pci_dev_get(dev);
		pm_runtime_get_noresume(&dev->dev);
		list_add_tail(&dev->liveupdate.node, &pci_outgoing.devices);
		dev->liveupdate.outgoing = rec;
	}
}

/* What is measured */

struct bench_result {
	u64 ns;
	u64 ops;
};

/* In the middle of filling @nr slots of the yardstick, as many as can be afforded. */
static void bench_scan_slots(struct bench_result *result, unsigned int first,
			     unsigned int end)
{
	unsigned int scans = min(end - first, BENCH_SCANS);
	unsigned int middle = first + (end - first - scans) / 2;
	u64 start;

	bench_fill(first, middle);
	start = ktime_get_ns();
	bench_preserve(middle, middle + scans);
	result->ns += ktime_get_ns() - start;
	result->ops += scans;
	bench_fill(middle + scans, end);
}

/* Preserve the devices from @first on, by the table or by the yardstick. */
static void bench_take(struct bench_result *result, unsigned int first,
		       unsigned int end, bool scan)
{
	u64 start;

	if (scan) {
		bench_scan_slots(result, first, end);
		return;
	}

	start = ktime_get_ns();
	bench_preserve(first, end);
	result->ns += ktime_get_ns() - start;
	result->ops += end - first;
}

static void bench_leave(struct bench_result *result, unsigned int end)
{
	u64 start = ktime_get_ns();

	bench_unpreserve(0, end);
	result->ns += ktime_get_ns() - start;
	result->ops += end;
}

/* In a full table, one device after the other leaves and comes back. */
static void bench_reuse(struct bench_result *result, unsigned int nr, bool scan)
{
	unsigned int ops = scan ? min(nr, BENCH_SCANS) : nr;
	u64 start = ktime_get_ns();

	for (unsigned int i = 0; i < ops; i++) {
		bench_unpreserve(i, i + 1);
		bench_preserve(i, i + 1);
	}
	result->ns += ktime_get_ns() - start;
	result->ops += ops;
}

/* An outgoing table of @nr devices becomes the incoming one, and is looked up in. */
static void bench_incoming(struct kunit *test, struct bench_result *index,
			   struct bench_result *find, struct bench_result *scan,
			   unsigned int nr)
{
	unsigned int scans = min(nr, BENCH_SCANS), found = 0;
	struct fake_table *table = fake_handover(test);
	u64 start;

	start = ktime_get_ns();
	fake_retrieve(fake_table_pa(table));
	index->ns += ktime_get_ns() - start;
	index->ops += nr;

	bench_shuffle(nr);
	start = ktime_get_ns();
	for (unsigned int i = 0; i < nr; i++)
		found += !!pci_incoming_find(&pci_incoming, bench_dev(i));
	find->ns += ktime_get_ns() - start;
	find->ops += nr;

	start = ktime_get_ns();
	for (unsigned int i = 0; i < scans; i++)
		found += !!yardstick_find(bench_dev(i));
	scan->ns += ktime_get_ns() - start;
	scan->ops += scans;

	KUNIT_EXPECT_EQ(test, nr + scans, found);
	fake_finish();
	kunit_release_action(test, fake_table_free, table);
}

struct bench {
	struct bench_result preserve;
	struct bench_result unpreserve;
	struct bench_result reuse;
	struct bench_result refill;
};

static void bench_outgoing(struct kunit *test, struct bench *bench,
			   unsigned int nr, bool scan)
{
	unsigned int most = nr - nr / 10;
	struct bench_result ignored = {};

	/* To look for stubs is no part of what is measured */
	if (scan)
		use_yardstick(test);
	else
		current->kunit_test = NULL;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		bench_shuffle(nr);
		bench_take(&bench->preserve, 0, nr, scan);
		bench_shuffle(nr);
		bench_reuse(&bench->reuse, nr, scan);
		/* 90 percent leave, and come back in another order */
		bench_shuffle(nr);
		bench_leave(&bench->unpreserve, most);
		bench_reorder(most);
		bench_take(&bench->refill, 0, most, scan);
		bench_shuffle(nr);
		bench_leave(&ignored, nr);
	}

	current->kunit_test = test;
	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
	if (scan) {
		use_table(test);
		/* It doesn't give anything back */
		kho_block_set_destroy(&pci_outgoing.blocks);
	}
}

static void bench_report(struct kunit *test, const char *what, unsigned int nr,
			 struct bench_result *table,
			 struct bench_result *yardstick)
{
	kunit_info(test, "bench %s %u %llu %llu\n", what, nr,
		   div64_u64(table->ns, table->ops),
		   yardstick ? div64_u64(yardstick->ns, yardstick->ops) : 0);
}

/* Pages of the table with all devices, and when 90 percent have left. */
static void bench_memory(struct kunit *test, unsigned int nr)
{
	int full, rest;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		bench_shuffle(nr);
		bench_preserve(0, nr);
	}
	full = nr_preserved() - nr_preserved_before;
	scoped_guard(mutex, &pci_liveupdate_mutex)
		bench_unpreserve(0, nr - nr / 10);
	rest = nr_preserved() - nr_preserved_before;
	kunit_info(test, "bench memory %u %d %d\n", nr, full, rest);
	scoped_guard(mutex, &pci_liveupdate_mutex)
		bench_unpreserve(nr - nr / 10, nr);
}

static void bench_size(struct kunit *test, unsigned int nr)
{
	struct bench_result index = {}, find = {}, scan = {};
	struct bench table = {}, yardstick = {};

	for (unsigned int ops = 0; ops < BENCH_MIN_OPS; ops += nr) {
		bench_outgoing(test, &table, nr, false);
		bench_outgoing(test, &yardstick, nr, true);
		scoped_guard(mutex, &pci_liveupdate_mutex) {
			bench_shuffle(nr);
			bench_preserve(0, nr);
		}
		bench_incoming(test, &index, &find, &scan, nr);
		scoped_guard(mutex, &pci_liveupdate_mutex)
			bench_unpreserve(0, nr);
	}

	bench_report(test, "preserve", nr, &table.preserve, &yardstick.preserve);
	bench_report(test, "unpreserve", nr, &table.unpreserve, &yardstick.unpreserve);
	bench_report(test, "reuse", nr, &table.reuse, &yardstick.reuse);
	bench_report(test, "refill", nr, &table.refill, &yardstick.refill);
	bench_report(test, "index", nr, &index, NULL);
	bench_report(test, "look-up", nr, &find, &scan);
}

static void bench_free(void *data)
{
	kvfree(bench_devs);
	kvfree(bench_buses);
	kvfree(bench_order);
}

static void bench_table(struct kunit *test)
{
	static const unsigned int sizes[] = { 16, 256, 4096, BENCH_MAX };

	if (!run_bench)
		kunit_skip(test, "needs pci_liveupdate_bench.run=1");

	bench_devs = kvzalloc_objs(*bench_devs, BENCH_MAX);
	bench_buses = kvzalloc_objs(*bench_buses, BENCH_MAX / 256);
	bench_order = kvzalloc_objs(*bench_order, BENCH_MAX);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, bench_free, NULL));
	KUNIT_ASSERT_NOT_NULL(test, bench_devs);
	KUNIT_ASSERT_NOT_NULL(test, bench_buses);
	KUNIT_ASSERT_NOT_NULL(test, bench_order);

	prandom_seed_state(&bench_rnd, 1);
	for (unsigned int i = 0; i < BENCH_MAX; i++) {
		struct pci_bus *bus = &bench_buses[i / 256];

		bus->number = i / 256;
		bus->sysdata = &bench_sysdata;
		device_initialize(&bench_devs[i].dev);
		bench_devs[i].bus = bus;
		bench_devs[i].devfn = i % 256;
		bench_devs[i].vendor = FAKE_VENDOR;
		bench_devs[i].device = FAKE_DEVICE;
	}

	file_preserve(test);
	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		bench_size(test, sizes[i]);
		bench_memory(test, sizes[i]);
	}
}

static struct kunit_case bench_cases[] = {
	KUNIT_CASE_SLOW(bench_table),
	{}
};

static struct kunit_suite bench_suite = {
	.name = "pci_liveupdate_bench",
	.suite_init = liveupdate_suite_init,
	.suite_exit = liveupdate_suite_exit,
	.init = liveupdate_test_init,
	.exit = liveupdate_test_exit,
	.test_cases = bench_cases,
};

kunit_test_suite(bench_suite);
