/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Helpers of the programs. Fields of kernel structures are read at offsets that
 * the loader takes from the kernel's BTF (OFF_…), so no kernel header is needed.
 */
#define read_field(dst, base, offset) \
	bpf_probe_read_kernel((dst), sizeof(*(dst)), (void *)((base) + (offset)))

static __always_inline struct config *get_config(void)
{
	int zero = 0;

	return config.lookup(&zero);
}

/* Atomic: a softirq may count on this CPU in the middle of a process's count. */
static __always_inline void count(u32 index, u64 amount)
{
	u64 *value = counters.lookup(&index);

	if (value)
		__sync_fetch_and_add(value, amount);
}

static __always_inline int netns_in_scope(struct config *cfg, u64 netns)
{
	return (cfg->flags & CONFIG_SCOPE_ALL) || scope.lookup(&netns);
}
