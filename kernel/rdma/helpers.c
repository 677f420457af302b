// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call by itself: inline functions and macros. No logic here.
 *
 * The names have a prefix of their own, since `rust_helper_` is the kernel's.
 */
#include "bindings.h"

#define UVERBS_MODULE_NAME rdma_helper
#include <rdma/uverbs_named_ioctl.h>

ADD_UVERBS_ATTRIBUTES_SIMPLE(rdma_helper_dm, UVERBS_OBJECT_DM, UVERBS_METHOD_DM_ALLOC,
			     UVERBS_ATTR_PTR_OUT(RDMA_ATTR_ALLOC_DM_OFFSET, UVERBS_ATTR_TYPE(u64),
						 UA_MANDATORY));

const struct uapi_definition rdma_helper_uapi[] = {
	UAPI_DEF_CHAIN_OBJ_TREE(UVERBS_OBJECT_DM, &rdma_helper_dm),
	{}
};

bool rdma_helper_ib_device_try_get(struct ib_device *dev)
{
	return ib_device_try_get(dev);
}

void rdma_helper_mark_name_assigned_by_user(struct ib_device *dev)
{
	ib_mark_name_assigned_by_user(dev);
}

bool rdma_helper_try_module_get(struct module *module)
{
	return try_module_get(module);
}

void rdma_helper_module_put(struct module *module)
{
	module_put(module);
}

void rdma_helper_cond_resched(void)
{
	cond_resched();
	/* With preemption that does nothing, and User-Mode Linux preempts at preempt_enable() alone. */
	preempt_disable();
	preempt_enable();
}

void rdma_helper_kfree_rcu(struct rdma_rcu_memory *memory)
{
	kfree_rcu(memory, rcu);
}

bool rdma_helper_is_killed(void)
{
	return fatal_signal_pending(current);
}

void rdma_helper_preempt_disable(void)
{
	preempt_disable();
}

void rdma_helper_preempt_enable(void)
{
	preempt_enable();
}

void rdma_helper_local_bh_disable(void)
{
	local_bh_disable();
}

void rdma_helper_local_bh_enable(void)
{
	local_bh_enable();
}

bool rdma_helper_in_softirq(void)
{
	return in_softirq();
}

struct mem_cgroup *rdma_helper_get_current_mem_cgroup(void)
{
	return get_mem_cgroup_from_mm(current->mm);
}

void rdma_helper_mem_cgroup_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

struct mem_cgroup *rdma_helper_set_active_mem_cgroup(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

unsigned long rdma_helper_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

bool rdma_helper_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	return spin_trylock_irqsave(lock, *flags);
}

void rdma_helper_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

const struct cpumask *rdma_helper_cpumask_of(unsigned int cpu)
{
	return cpumask_of(cpu);
}

unsigned int rdma_helper_next_active_cpu(unsigned int cpu)
{
	return cpumask_next_wrap(cpu, cpu_active_mask);
}

bool rdma_helper_current_may_run_on(unsigned int cpu)
{
	return cpumask_test_cpu(cpu, current->cpus_ptr);
}

bool rdma_helper_housekeeping_domain(unsigned int cpu)
{
	return housekeeping_cpu(cpu, HK_TYPE_DOMAIN);
}

bool rdma_helper_housekeeping_kernel_noise(unsigned int cpu)
{
	return housekeeping_cpu(cpu, HK_TYPE_KERNEL_NOISE);
}

struct ib_ucontext *rdma_helper_udata_ucontext(struct ib_udata *udata)
{
	return rdma_udata_to_uverbs_attr_bundle(udata)->context;
}

struct nlattr *rdma_helper_nla_nest_start(struct sk_buff *msg, int type)
{
	return nla_nest_start(msg, type);
}

void rdma_helper_nla_nest_end(struct sk_buff *msg, struct nlattr *start)
{
	nla_nest_end(msg, start);
}

void rdma_helper_nla_nest_cancel(struct sk_buff *msg, struct nlattr *start)
{
	nla_nest_cancel(msg, start);
}

struct page *rdma_helper_sg_page_iter_page(struct sg_page_iter *iter)
{
	return sg_page_iter_page(iter);
}

void *rdma_helper_vmap_user(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP | VM_USERMAP, PAGE_KERNEL);
}

bool rdma_helper_virt_addr_valid(unsigned long address)
{
	return virt_addr_valid((void *)address);
}

struct page *rdma_helper_virt_to_page(unsigned long address)
{
	return virt_to_page((void *)address);
}

void rdma_helper_mmu_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
}

struct page *rdma_helper_hmm_pfn_to_page(unsigned long pfn)
{
	return hmm_pfn_to_page(pfn);
}

struct net *rdma_helper_dev_get_net(const struct net_device *dev)
{
	return maybe_get_net(dev_net_rcu(dev));
}

void rdma_helper_put_net(struct net *net)
{
	put_net(net);
}

struct net_device *rdma_helper_notifier_to_dev(const void *info)
{
	return netdev_notifier_info_to_dev(info);
}

bool rdma_helper_netif_running(const struct net_device *dev)
{
	return netif_running(dev);
}

bool rdma_helper_netif_carrier_ok(const struct net_device *dev)
{
	return netif_carrier_ok(dev);
}

bool rdma_helper_is_vlan_dev(const struct net_device *dev)
{
	return is_vlan_dev(dev);
}

void rdma_helper_dev_hold(struct net_device *dev)
{
	dev_hold(dev);
}

void rdma_helper_dev_put(struct net_device *dev)
{
	dev_put(dev);
}

struct in_device *rdma_helper_in_dev(const struct net_device *dev)
{
	return __in_dev_get_rtnl(dev);
}

struct inet6_dev *rdma_helper_in6_dev(const struct net_device *dev)
{
	return __in6_dev_get(dev);
}

void rdma_helper_ip_mc_dec_group(struct in_device *in_dev, __be32 addr)
{
	ip_mc_dec_group(in_dev, addr);
}

void rdma_helper_warn(const struct ib_device *device, const struct rdma_restrack_entry *res,
		      const void *text)
{
	ibdev_warn_ratelimited(device, "%s[%d]: %pA\n",
			       res->task ? res->task->comm : res->kern_name,
			       res->task ? task_pid_nr(res->task) : 0, text);
}
