// SPDX-License-Identifier: GPL-2.0
/*
 * As ../../rdma/helpers.c, for what a user of ib_core calls.
 */
#include "bindings.h"

unsigned long rdma_helper_local_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void rdma_helper_local_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

void rdma_helper_sg_set_buf(struct scatterlist *sg, const void *buf, unsigned int len)
{
	sg_set_buf(sg, buf, len);
}

struct ib_pd *rdma_helper_ib_alloc_pd(struct ib_device *device, unsigned int flags)
{
	return ib_alloc_pd(device, flags);
}

void rdma_helper_ib_dealloc_pd(struct ib_pd *pd)
{
	ib_dealloc_pd(pd);
}

struct ib_cq *rdma_helper_ib_create_cq(struct ib_device *device, ib_comp_handler handler,
				       void (*event_handler)(struct ib_event *, void *),
				       void *context, const struct ib_cq_init_attr *attr)
{
	return ib_create_cq(device, handler, event_handler, context, attr);
}

void rdma_helper_ib_destroy_cq(struct ib_cq *cq)
{
	ib_destroy_cq(cq);
}

struct ib_cq *rdma_helper_ib_alloc_cq(struct ib_device *device, int entries,
				      enum ib_poll_context context)
{
	return ib_alloc_cq(device, NULL, entries, 0, context);
}

struct ib_qp *rdma_helper_ib_create_qp(struct ib_pd *pd, struct ib_qp_init_attr *attr)
{
	return ib_create_qp(pd, attr);
}

void rdma_helper_ib_destroy_qp(struct ib_qp *qp)
{
	ib_destroy_qp(qp);
}

struct ib_srq *rdma_helper_ib_create_srq(struct ib_pd *pd, struct ib_srq_init_attr *attr)
{
	return ib_create_srq(pd, attr);
}

void rdma_helper_ib_destroy_srq(struct ib_srq *srq)
{
	ib_destroy_srq(srq);
}

int rdma_helper_ib_dereg_mr(struct ib_mr *mr)
{
	return ib_dereg_mr(mr);
}

struct ib_ah *rdma_helper_create_ah(struct ib_pd *pd, struct rdma_ah_attr *attr, u32 flags)
{
	return rdma_create_ah(pd, attr, flags);
}

void rdma_helper_destroy_ah(struct ib_ah *ah, u32 flags)
{
	rdma_destroy_ah(ah, flags);
}

u64 rdma_helper_ib_dma_map(struct ib_device *device, void *address, size_t size)
{
	return ib_dma_map_single(device, address, size, DMA_BIDIRECTIONAL);
}

void rdma_helper_ib_dma_unmap(struct ib_device *device, u64 address, size_t size)
{
	ib_dma_unmap_single(device, address, size, DMA_BIDIRECTIONAL);
}

int rdma_helper_ib_dma_map_sg(struct ib_device *device, struct scatterlist *sg, int count)
{
	return ib_dma_map_sg(device, sg, count, DMA_BIDIRECTIONAL);
}

void rdma_helper_ib_dma_unmap_sg(struct ib_device *device, struct scatterlist *sg, int count)
{
	ib_dma_unmap_sg(device, sg, count, DMA_BIDIRECTIONAL);
}

void rdma_helper_ib_update_fast_reg_key(struct ib_mr *mr, u8 key)
{
	ib_update_fast_reg_key(mr, key);
}

int rdma_helper_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			     const struct ib_send_wr **bad)
{
	return ib_post_send(qp, wr, bad);
}

int rdma_helper_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
			     const struct ib_recv_wr **bad)
{
	return ib_post_recv(qp, wr, bad);
}

int rdma_helper_ib_post_srq_recv(struct ib_srq *srq, const struct ib_recv_wr *wr,
				 const struct ib_recv_wr **bad)
{
	return ib_post_srq_recv(srq, wr, bad);
}

int rdma_helper_ib_poll_cq(struct ib_cq *cq, int count, struct ib_wc *wc)
{
	return ib_poll_cq(cq, count, wc);
}

int rdma_helper_ib_req_notify_cq(struct ib_cq *cq, enum ib_cq_notify_flags flags)
{
	return ib_req_notify_cq(cq, flags);
}
