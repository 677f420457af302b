// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call by itself: inline functions and macros. No logic here.
 */
#include "bindings.h"

void net_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

bool net_helper_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

void net_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

struct sk_buff *net_helper_alloc_skb(unsigned int size)
{
	return alloc_skb(size, GFP_ATOMIC | __GFP_NOWARN);
}

void net_helper_kfree_skb(struct sk_buff *skb)
{
	kfree_skb(skb);
}

void net_helper_skb_reserve(struct sk_buff *skb, unsigned int len)
{
	skb_reserve(skb, len);
}

int net_helper_skb_linearize(struct sk_buff *skb)
{
	return skb_linearize(skb);
}

struct skb_shared_info *net_helper_skb_shinfo(const struct sk_buff *skb)
{
	return skb_shinfo(skb);
}

void net_helper_skb_set_dst(struct sk_buff *skb, struct dst_entry *dst)
{
	skb_dst_set_noref(skb, dst);
}

int net_helper_sk_wmem_alloc_get(const struct sock *sk)
{
	return sk_wmem_alloc_get(sk);
}

unsigned long net_helper_sock_wspace(struct sock *sk)
{
	return sock_wspace(sk);
}

void net_helper_udp_accept_l4(struct sock *sk)
{
	udp_set_bit(ACCEPT_L4, sk);
}

void net_helper_sock_use_write_queue(struct sock *sk)
{
	sock_set_flag(sk, SOCK_USE_WRITE_QUEUE);
}

void net_helper_sock_no_mc6_loop(struct sock *sk)
{
	inet6_clear_bit(MC6_LOOP, sk);
}

u32 net_helper_rt6_get_cookie(const struct dst_entry *dst)
{
	return rt6_get_cookie(dst_rt6_info(dst));
}

bool net_helper_dst_check(struct dst_entry *dst, u32 cookie)
{
	return dst_check(dst, cookie);
}
