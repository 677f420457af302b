/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A queue pair that is connected to itself, by functions of libibverbs' that the program has found. */
#include <infiniband/verbs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef ibv_query_port
#undef ibv_reg_mr

/* The functions, and the versions that NCCL asks for. */
#define VERBS(V) \
	V(struct ibv_device **, ibv_get_device_list, (int *), "IBVERBS_1.1") \
	V(const char *, ibv_get_device_name, (struct ibv_device *), "IBVERBS_1.1") \
	V(struct ibv_context *, ibv_open_device, (struct ibv_device *), "IBVERBS_1.1") \
	V(int, ibv_close_device, (struct ibv_context *), "IBVERBS_1.1") \
	V(int, ibv_query_gid, (struct ibv_context *, uint8_t, int, union ibv_gid *), "IBVERBS_1.1") \
	V(struct ibv_pd *, ibv_alloc_pd, (struct ibv_context *), "IBVERBS_1.1") \
	V(struct ibv_mr *, ibv_reg_mr, (struct ibv_pd *, void *, size_t, int), "IBVERBS_1.1") \
	V(struct ibv_mr *, ibv_reg_mr_iova2, (struct ibv_pd *, void *, size_t, uint64_t, unsigned int), "IBVERBS_1.8") \
	V(int, ibv_dereg_mr, (struct ibv_mr *), "IBVERBS_1.1") \
	V(struct ibv_cq *, ibv_create_cq, (struct ibv_context *, int, void *, struct ibv_comp_channel *, int), "IBVERBS_1.1") \
	V(struct ibv_qp *, ibv_create_qp, (struct ibv_pd *, struct ibv_qp_init_attr *), "IBVERBS_1.1") \
	V(int, ibv_modify_qp, (struct ibv_qp *, struct ibv_qp_attr *, int), "IBVERBS_1.1") \
	V(int, ibv_destroy_qp, (struct ibv_qp *), "IBVERBS_1.1") \
	V(int, ibv_destroy_cq, (struct ibv_cq *), "IBVERBS_1.1") \
	V(int, ibv_dealloc_pd, (struct ibv_pd *), "IBVERBS_1.1") \
	V(const char *, ibv_event_type_str, (enum ibv_event_type), "IBVERBS_1.1")

#define FIELD(result, name, arguments, version) result (*name) arguments;
struct verbs {
	VERBS(FIELD)
};

struct loopback {
	const struct verbs *verbs;
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	uint8_t *memory;
	uint32_t half;
};

/* Returns what has failed, or NULL. The memory has two halves: what is sent from, and what is received to. */
static inline const char *loopback_open(struct loopback *l, const struct verbs *v, uint32_t half)
{
	struct ibv_device **devices = v->ibv_get_device_list(NULL);
	if (!devices || !devices[0])
		return "no device";
	l->verbs = v;
	l->half = half;
	l->memory = calloc(2, half);
	l->context = v->ibv_open_device(devices[0]);
	if (!l->context)
		return "ibv_open_device";
	l->pd = v->ibv_alloc_pd(l->context);
	l->mr = v->ibv_reg_mr_iova2(l->pd, l->memory, 2 * half, (uintptr_t)l->memory, IBV_ACCESS_LOCAL_WRITE);
	if (!l->mr)
		return "ibv_reg_mr_iova2";
	l->cq = v->ibv_create_cq(l->context, 16, NULL, NULL, 0);
	struct ibv_qp_init_attr init = {
		.send_cq = l->cq, .recv_cq = l->cq, .qp_type = IBV_QPT_RC, .sq_sig_all = 1,
		.cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	l->qp = v->ibv_create_qp(l->pd, &init);
	if (!l->qp)
		return "ibv_create_qp";
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1 };
	if (v->ibv_modify_qp(l->qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS))
		return "INIT";
	attr.qp_state = IBV_QPS_RTR;
	attr.path_mtu = IBV_MTU_1024;
	attr.dest_qp_num = l->qp->qp_num;
	attr.ah_attr.is_global = 1;
	attr.ah_attr.port_num = 1;
	attr.ah_attr.grh.sgid_index = 1;
	attr.ah_attr.grh.hop_limit = 1;
	if (v->ibv_query_gid(l->context, 1, 1, &attr.ah_attr.grh.dgid))
		return "ibv_query_gid";
	if (v->ibv_modify_qp(l->qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			     IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER))
		return "RTR";
	attr.qp_state = IBV_QPS_RTS;
	attr.timeout = 14;
	if (v->ibv_modify_qp(l->qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
			     IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC))
		return "RTS";
	return NULL;
}

/* Sends the first half to the second one. */
static inline const char *loopback_send(struct loopback *l)
{
	struct ibv_sge to = { (uintptr_t)l->memory + l->half, l->half, l->mr->lkey };
	struct ibv_sge from = { (uintptr_t)l->memory, l->half, l->mr->lkey };
	struct ibv_recv_wr recv = { .wr_id = 1, .sg_list = &to, .num_sge = 1 }, *bad_recv;
	struct ibv_send_wr send = { .wr_id = 2, .sg_list = &from, .num_sge = 1, .opcode = IBV_WR_SEND }, *bad_send;
	if (ibv_post_recv(l->qp, &recv, &bad_recv) || ibv_post_send(l->qp, &send, &bad_send))
		return "posting";
	for (int done = 0; done < 2;) {
		struct ibv_wc wc;
		int count = ibv_poll_cq(l->cq, 1, &wc);
		if (count < 0 || (count && wc.status != IBV_WC_SUCCESS))
			return "a completion";
		done += count;
	}
	return NULL;
}

static inline const char *loopback_close(struct loopback *l)
{
	const struct verbs *v = l->verbs;
	if (v->ibv_destroy_qp(l->qp) || v->ibv_destroy_cq(l->cq) || v->ibv_dereg_mr(l->mr) ||
	    v->ibv_dealloc_pd(l->pd) || v->ibv_close_device(l->context))
		return "closing";
	free(l->memory);
	return NULL;
}
