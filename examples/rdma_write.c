// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Two reliable connected queue pairs of one device, and an RDMA WRITE from one to the other.
 *
 *     gcc -Wall -o rdma_write rdma_write.c -libverbs
 *     ./rdma_write fr0 1              # the device, and the index of one of its GIDs
 *
 * Between two hosts it is the same, but each end has one of the queue pairs, and they tell each
 * other number, GID, address and rkey, usually over TCP.
 */
#include <infiniband/verbs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Verbs return a pointer, or NULL with errno; or 0, or an errno (or -1). */
#define CHECK(ok)                                          \
	do {                                               \
		if (!(ok)) {                               \
			perror(#ok);                       \
			exit(1);                           \
		}                                          \
	} while (0)

static struct ibv_context *open_device(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = NULL;

	CHECK(list);
	for (int i = 0; list[i]; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			CHECK(context = ibv_open_device(list[i]));
	ibv_free_device_list(list);
	if (!context) {
		fprintf(stderr, "there is no device %s; ibv_devices lists them\n", name);
		exit(1);
	}
	return context;
}

static struct ibv_qp *make_qp(struct ibv_pd *pd, struct ibv_cq *cq)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq,
		.recv_cq = cq,
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = 16, .max_recv_wr = 16, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct ibv_qp *qp = ibv_create_qp(pd, &init);

	CHECK(qp);
	return qp;
}

/* Takes a queue pair by way of INIT and RTR to RTS, connected to another (IBTA 10.3.1). */
static void connect_qp(struct ibv_qp *qp, uint32_t peer, union ibv_gid gid, int gid_index)
{
	struct ibv_qp_attr init = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};
	struct ibv_qp_attr rtr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = IBV_MTU_1024,
		.dest_qp_num = peer,
		.rq_psn = 0,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = 12, /* 0.64 ms */
		.ah_attr = {
			.is_global = 1, /* RoCE has no other addresses than GIDs. */
			.grh = { .dgid = gid, .sgid_index = gid_index, .hop_limit = 64 },
			.port_num = 1,
		},
	};
	struct ibv_qp_attr rts = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = 0,
		.timeout = 14, /* 4.096 us * 2^14 = 67 ms */
		.retry_cnt = 7,
		.rnr_retry = 7, /* without end */
		.max_rd_atomic = 1,
	};

	CHECK(!ibv_modify_qp(qp, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
	CHECK(!ibv_modify_qp(qp, &rtr,
			     IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	CHECK(!ibv_modify_qp(qp, &rts,
			     IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
				     IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC));
}

int main(int argc, char **argv)
{
	static char from[4096] = "written by RDMA", to[4096];
	int gid_index = argc > 2 ? atoi(argv[2]) : 1;
	union ibv_gid gid;

	if (argc < 2) {
		fprintf(stderr, "usage: %s DEVICE [GID-INDEX]\n", argv[0]);
		return 2;
	}
	struct ibv_context *context = open_device(argv[1]);
	CHECK(!ibv_query_gid(context, 1, gid_index, &gid));

	struct ibv_pd *pd = ibv_alloc_pd(context);
	CHECK(pd);
	struct ibv_cq *cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	CHECK(cq);
	struct ibv_mr *source = ibv_reg_mr(pd, from, sizeof(from), 0);
	CHECK(source);
	struct ibv_mr *target = ibv_reg_mr(pd, to, sizeof(to), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	CHECK(target);
	struct ibv_qp *one = make_qp(pd, cq), *other = make_qp(pd, cq);
	connect_qp(one, other->qp_num, gid, gid_index);
	connect_qp(other, one->qp_num, gid, gid_index);

/* ANCHOR: post */
	struct ibv_sge sge = { .addr = (uintptr_t)from, .length = sizeof(from), .lkey = source->lkey };
	struct ibv_send_wr *bad, write = {
		.wr_id = 1,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = (uintptr_t)to, .rkey = target->rkey },
	};
	CHECK(!ibv_post_send(one, &write, &bad));

	/* The target's side sees no completion; ours comes when all has been written there. */
	struct ibv_wc wc;
	int count;
	do
		count = ibv_poll_cq(cq, 1, &wc);
	while (!count);
/* ANCHOR_END: post */
	if (count < 0 || wc.status != IBV_WC_SUCCESS) {
		fprintf(stderr, "the write failed: %s\n", count < 0 ? "no completion" : ibv_wc_status_str(wc.status));
		return 1;
	}
	if (memcmp(from, to, sizeof(to))) {
		fprintf(stderr, "what arrived is not what was sent\n");
		return 1;
	}
	printf("%s: %zu bytes %s\n", argv[1], sizeof(to), to);

	ibv_destroy_qp(one);
	ibv_destroy_qp(other);
	ibv_dereg_mr(source);
	ibv_dereg_mr(target);
	ibv_destroy_cq(cq);
	ibv_dealloc_pd(pd);
	return ibv_close_device(context);
}
