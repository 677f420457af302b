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

struct ib_pd *rdma_helper_ib_alloc_pd(struct ib_device *device, unsigned int flags);
void rdma_helper_ib_dealloc_pd(struct ib_pd *pd);
struct ib_cq *rdma_helper_ib_create_cq(struct ib_device *device, ib_comp_handler handler,
				       void (*event_handler)(struct ib_event *, void *),
				       void *context, const struct ib_cq_init_attr *attr);
void rdma_helper_ib_destroy_cq(struct ib_cq *cq);
struct ib_cq *rdma_helper_ib_alloc_cq(struct ib_device *device, int entries,
				      enum ib_poll_context context);
struct ib_qp *rdma_helper_ib_create_qp(struct ib_pd *pd, struct ib_qp_init_attr *attr);
void rdma_helper_ib_destroy_qp(struct ib_qp *qp);
struct ib_srq *rdma_helper_ib_create_srq(struct ib_pd *pd, struct ib_srq_init_attr *attr);
void rdma_helper_ib_destroy_srq(struct ib_srq *srq);
int rdma_helper_ib_dereg_mr(struct ib_mr *mr);
struct ib_ah *rdma_helper_create_ah(struct ib_pd *pd, struct rdma_ah_attr *attr, u32 flags);
void rdma_helper_destroy_ah(struct ib_ah *ah, u32 flags);
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
