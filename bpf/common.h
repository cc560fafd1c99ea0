/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Helpers of the programs. Fields of kernel structures are read at offsets that
 * the loader takes from the kernel's BTF (OFF_…), so no kernel header is needed.
 */

/*
 * By names of our own: BCC makes bpf_probe_read(), which these programs may not call, of
 * bpf_probe_read_kernel() and the like where /proc/kallsyms hides addresses from it, that is
 * without CAP_SYSLOG (kernel.kptr_restrict 1) or from everybody (2).
 */
static long (*read_kernel)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_string)(void *, u32,
				  const void *) = (void *)BPF_FUNC_probe_read_kernel_str;
static long (*read_user)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user;

#define read_field(dst, base, offset) \
	read_kernel((dst), sizeof(*(dst)), (void *)((base) + (offset)))

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
