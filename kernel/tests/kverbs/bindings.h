/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for this module: ib_core, and what of its interface for users is inline.
 */
#ifndef KVERBS_BINDINGS_H
#define KVERBS_BINDINGS_H

#include "../../rdma/bindings.h"
#include <linux/scatterlist.h>

/* helpers.c */
unsigned long rdma_helper_local_irq_save(void);
void rdma_helper_local_irq_restore(unsigned long flags);
void rdma_helper_sg_set_buf(struct scatterlist *sg, const void *buf, unsigned int len);

u64 rdma_helper_ib_dma_map(struct ib_device *device, void *address, size_t size);
void rdma_helper_ib_dma_unmap(struct ib_device *device, u64 address, size_t size);
int rdma_helper_ib_dma_map_sg(struct ib_device *device, struct scatterlist *sg, int count);
void rdma_helper_ib_dma_unmap_sg(struct ib_device *device, struct scatterlist *sg, int count);
void rdma_helper_ib_update_fast_reg_key(struct ib_mr *mr, u8 key);

int rdma_helper_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			     const struct ib_send_wr **bad);
int rdma_helper_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
			     const struct ib_recv_wr **bad);
int rdma_helper_ib_post_srq_recv(struct ib_srq *srq, const struct ib_recv_wr *wr,
				 const struct ib_recv_wr **bad);
int rdma_helper_ib_poll_cq(struct ib_cq *cq, int count, struct ib_wc *wc);
int rdma_helper_ib_req_notify_cq(struct ib_cq *cq, enum ib_cq_notify_flags flags);

#endif
