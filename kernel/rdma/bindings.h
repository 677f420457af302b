/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What `bindgen` reads to make the bindings of this folder, see Kbuild.include and bindings.rs.
 *
 * helpers.c includes it as well, so the compiler checks the helpers against their prototypes.
 */
#ifndef RDMA_BINDINGS_H
#define RDMA_BINDINGS_H

#include <linux/cpumask.h>
#include <linux/hmm.h>
#include <linux/if_vlan.h>
#include <linux/igmp.h>
#include <linux/inetdevice.h>
#include <linux/kobject.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/sched/isolation.h>
#include <linux/sched/mm.h>
#include <linux/sched/stat.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/vmalloc.h>
#include <net/addrconf.h>
#include <net/netlink.h>
#include <rdma/ib_addr.h>
#include <rdma/ib_cache.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_umem_odp.h>
#include <rdma/ib_verbs.h>
#include <rdma/restrack.h>
#include <rdma/rdma_netlink.h>
#include <rdma/uverbs_ioctl.h>

/* What memory begins with that is freed after a grace period of RCU. */
struct rdma_rcu_memory {
	struct rcu_head rcu;
};

/* Attributes of methods that are a driver's own, beside those of ib_core. */
enum {
	/* Out: the offset to map device memory with, a u64. */
	RDMA_ATTR_ALLOC_DM_OFFSET = 1U << UVERBS_ID_NS_SHIFT,
};

/* helpers.c */
extern const struct uapi_definition rdma_helper_uapi[];
void rdma_helper_kfree_rcu(struct rdma_rcu_memory *memory);
bool rdma_helper_ib_device_try_get(struct ib_device *dev);
void rdma_helper_mark_name_assigned_by_user(struct ib_device *dev);
bool rdma_helper_try_module_get(struct module *module);
void rdma_helper_module_put(struct module *module);
bool rdma_helper_is_killed(void);
void rdma_helper_cond_resched(void);
const struct cpumask *rdma_helper_cpumask_of(unsigned int cpu);
unsigned int rdma_helper_next_active_cpu(unsigned int cpu);
bool rdma_helper_current_may_run_on(unsigned int cpu);
bool rdma_helper_housekeeping_domain(unsigned int cpu);
bool rdma_helper_housekeeping_kernel_noise(unsigned int cpu);
void rdma_helper_preempt_disable(void);
void rdma_helper_preempt_enable(void);
void rdma_helper_local_bh_disable(void);
void rdma_helper_local_bh_enable(void);
bool rdma_helper_in_softirq(void);
struct mem_cgroup *rdma_helper_get_current_mem_cgroup(void);
void rdma_helper_mem_cgroup_put(struct mem_cgroup *memcg);
struct mem_cgroup *rdma_helper_set_active_mem_cgroup(struct mem_cgroup *memcg);
unsigned long rdma_helper_spin_lock_irqsave(spinlock_t *lock);
bool rdma_helper_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags);
void rdma_helper_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags);
struct ib_ucontext *rdma_helper_udata_ucontext(struct ib_udata *udata);

struct nlattr *rdma_helper_nla_nest_start(struct sk_buff *msg, int type);
void rdma_helper_nla_nest_end(struct sk_buff *msg, struct nlattr *start);
void rdma_helper_nla_nest_cancel(struct sk_buff *msg, struct nlattr *start);

struct page *rdma_helper_sg_page_iter_page(struct sg_page_iter *iter);
void *rdma_helper_vmap_user(struct page **pages, unsigned int count);
bool rdma_helper_virt_addr_valid(unsigned long address);
struct page *rdma_helper_virt_to_page(unsigned long address);
void rdma_helper_mmu_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq);
struct page *rdma_helper_hmm_pfn_to_page(unsigned long pfn);

struct net_device *rdma_helper_notifier_to_dev(const void *info);
struct net *rdma_helper_dev_get_net(const struct net_device *dev);
void rdma_helper_put_net(struct net *net);
bool rdma_helper_netif_running(const struct net_device *dev);
bool rdma_helper_netif_carrier_ok(const struct net_device *dev);
bool rdma_helper_is_vlan_dev(const struct net_device *dev);
void rdma_helper_dev_hold(struct net_device *dev);
void rdma_helper_dev_put(struct net_device *dev);

struct in_device *rdma_helper_in_dev(const struct net_device *dev);
struct inet6_dev *rdma_helper_in6_dev(const struct net_device *dev);
void rdma_helper_ip_mc_dec_group(struct in_device *in_dev, __be32 addr);
void rdma_helper_warn(const struct ib_device *device, const struct rdma_restrack_entry *res,
		      const void *text);

#endif
