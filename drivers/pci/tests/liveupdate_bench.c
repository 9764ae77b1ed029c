// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * How long the table of PCI live update takes, a part of liveupdate.c.
 *
 * Runs with pci_liveupdate_bench.run=1 only, as it takes a minute and half a gigabyte.
 *
 * What is reported is nanoseconds for each operation. In QEMU with "-icount shift=0" these
 * are instructions.
 */

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pci_liveupdate_bench."

static bool run_bench;
module_param_named(run, run_bench, bool, 0444);
MODULE_PARM_DESC(run, "Measure how long the table takes");

/* Devices that nobody enumerates */

#define BENCH_MAX	65536
/* Of a small number of devices so many operations, over and over */
#define BENCH_MIN_OPS	4096

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

/* What is measured */

struct bench_result {
	u64 ns;
	u64 ops;
};

static void bench_take(struct bench_result *result, unsigned int first,
		       unsigned int end)
{
	u64 start = ktime_get_ns();

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
static void bench_reuse(struct bench_result *result, unsigned int nr)
{
	u64 start = ktime_get_ns();

	for (unsigned int i = 0; i < nr; i++) {
		bench_unpreserve(i, i + 1);
		bench_preserve(i, i + 1);
	}
	result->ns += ktime_get_ns() - start;
	result->ops += nr;
}

/* An outgoing table of @nr devices becomes the incoming one, and is looked up in. */
static void bench_incoming(struct kunit *test, struct bench_result *index,
			   struct bench_result *find, unsigned int nr)
{
	struct fake_table *table = fake_handover(test);
	unsigned int found = 0;
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

	KUNIT_EXPECT_EQ(test, nr, found);
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
			   unsigned int nr)
{
	unsigned int most = nr - nr / 10;
	struct bench_result ignored = {};

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		bench_shuffle(nr);
		bench_take(&bench->preserve, 0, nr);
		bench_shuffle(nr);
		bench_reuse(&bench->reuse, nr);
		/* 90 percent leave, and come back in another order */
		bench_shuffle(nr);
		bench_leave(&bench->unpreserve, most);
		bench_reorder(most);
		bench_take(&bench->refill, 0, most);
		bench_shuffle(nr);
		bench_leave(&ignored, nr);
	}

	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
}

static void bench_report(struct kunit *test, const char *what, unsigned int nr,
			 struct bench_result *result)
{
	kunit_info(test, "bench %s %u %llu\n", what, nr,
		   div64_u64(result->ns, result->ops));
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
	kunit_info(test, "bench pages %u %d\n", nr, full);
	kunit_info(test, "bench rest %u %d\n", nr, rest);
	scoped_guard(mutex, &pci_liveupdate_mutex)
		bench_unpreserve(nr - nr / 10, nr);
}

static void bench_size(struct kunit *test, unsigned int nr)
{
	struct bench_result index = {}, find = {};
	struct bench bench = {};

	for (unsigned int ops = 0; ops < BENCH_MIN_OPS; ops += nr) {
		bench_outgoing(test, &bench, nr);
		scoped_guard(mutex, &pci_liveupdate_mutex) {
			bench_shuffle(nr);
			bench_preserve(0, nr);
		}
		bench_incoming(test, &index, &find, nr);
		scoped_guard(mutex, &pci_liveupdate_mutex)
			bench_unpreserve(0, nr);
	}

	bench_report(test, "preserve", nr, &bench.preserve);
	bench_report(test, "unpreserve", nr, &bench.unpreserve);
	bench_report(test, "reuse", nr, &bench.reuse);
	bench_report(test, "refill", nr, &bench.refill);
	bench_report(test, "index", nr, &index);
	bench_report(test, "look-up", nr, &find);
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
