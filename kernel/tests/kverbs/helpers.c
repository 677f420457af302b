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
