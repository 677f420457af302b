// SPDX-License-Identifier: MIT OR Apache-2.0
// Put before libibverbs' functions, adds what qperf leaves out of addresses: the GRH. qperf names its peer by
// LID, which RoCE has none of (IBTA A17.4.4). PEER_ADDRESS is the peer's, as IPv6.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <stdlib.h>

static void *libibverbs(const char *name)
{
	return dlvsym(RTLD_NEXT, name, "IBVERBS_1.1");
}

static void add_grh(struct ibv_ah_attr *attr)
{
	attr->is_global = 1;
	attr->grh.sgid_index = 1;
	attr->grh.hop_limit = 1;
	if (inet_pton(AF_INET6, getenv("PEER_ADDRESS"), &attr->grh.dgid) != 1)
		abort();
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	int (*next)(struct ibv_qp *, struct ibv_qp_attr *, int) = libibverbs("ibv_modify_qp");

	if (mask & IBV_QP_AV)
		add_grh(&attr->ah_attr);
	return next(qp, attr, mask);
}

struct ibv_ah *ibv_create_ah(struct ibv_pd *pd, struct ibv_ah_attr *attr)
{
	struct ibv_ah *(*next)(struct ibv_pd *, struct ibv_ah_attr *) = libibverbs("ibv_create_ah");

	add_grh(attr);
	return next(pd, attr);
}
