/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What `bindgen` reads for this folder on top of what ../rdma has it read, see Kbuild.include.
 */
#ifndef NET_BINDINGS_H
#define NET_BINDINGS_H

#include "../rdma/bindings.h"
#include <linux/crc32.h>
#include <linux/skbuff.h>
#include <linux/udp.h>
#include <net/dst.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ip6_fib.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/route.h>
#include <net/sock.h>
#include <net/udp.h>
#include <net/udp_tunnel.h>

/* helpers.c */
void net_helper_spin_lock_bh(spinlock_t *lock);
bool net_helper_spin_trylock_bh(spinlock_t *lock);
void net_helper_spin_unlock_bh(spinlock_t *lock);

struct sk_buff *net_helper_alloc_skb(unsigned int size);
void net_helper_kfree_skb(struct sk_buff *skb);
void net_helper_skb_reserve(struct sk_buff *skb, unsigned int len);
int net_helper_skb_linearize(struct sk_buff *skb);
struct skb_shared_info *net_helper_skb_shinfo(const struct sk_buff *skb);
void net_helper_skb_set_dst(struct sk_buff *skb, struct dst_entry *dst);

void net_helper_sock_no_mc6_loop(struct sock *sk);
int net_helper_sk_wmem_alloc_get(const struct sock *sk);
unsigned long net_helper_sock_wspace(struct sock *sk);
void net_helper_udp_accept_l4(struct sock *sk);
void net_helper_sock_use_write_queue(struct sock *sk);
u32 net_helper_rt6_get_cookie(const struct dst_entry *dst);
bool net_helper_dst_check(struct dst_entry *dst, u32 cookie);

#endif
