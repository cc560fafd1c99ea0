/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_skb: does nothing, by being there. With a stream_verdict program on the map
 * the kernel moves bytes that arrive by TCP into the queue that holds redirected
 * ones: one FIFO, so that order, FIONREAD and edge-triggered readers come right.
 */
int sk_skb(struct __sk_buff *skb)
{
	return SK_PASS;
}
