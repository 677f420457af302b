# SPDX-License-Identifier: MIT OR Apache-2.0
"""What each call answers to arguments that are wrong.

    errnos.py DEVICE

A table: a call, and the errno. The manual pages say little more than that there is one; where they are
silent it is what rdma_rxe, libibverbs and the RDMA core answer: EINVAL to what makes no sense or is
beyond a limit, EOPNOTSUPP to what a device does not have, ENOMEM to a full queue, EBUSY to the end of
what is in use, EFAULT to memory that is not there.
"""

import ctypes
import errno
import fcntl
import struct
import sys

import pyverbs.enums as e
from pyverbs.cq import CqInitAttrEx, CQEX
from pyverbs.device import DM, AllocDmAttr
from pyverbs.mr import DMMR, MR, MW, MWBind, MWBindInfo
from pyverbs.pd import PD
from pyverbs.pyverbs_error import PyverbsRDMAError
from pyverbs.qp import QP, QPInitAttr
from pyverbs.srq import SrqAttr

from hostile import VERBS_IOCTL
from rig import *

EINVAL, ENOMEM, EBUSY = errno.EINVAL, errno.ENOMEM, errno.EBUSY
EFAULT, EOPNOTSUPP = errno.EFAULT, errno.EOPNOTSUPP

ROWS = []

# Who refuses it too: functions of Linux 7.2 (drivers/infiniband), for all devices or of rdma_rxe or mlx5, and
# of rdma-core 65 ("providers/"; libibverbs). What neither rdma_rxe nor a ConnectX refuses is accepted, unless
# the kernel or the process would be hurt. A name stands for all rows that begin with it. For ibv_modify_qp
# the table is in ferroce-core, qp/tests/modify.rs.
REFUSED_BY = {
    "ibv_reg_mr: remote ": "ib_check_mr_access()",
    "ibv_reg_mr: rights that there are not": "ib_check_mr_access()",
    "ibv_reg_mr: to be flushed to persistence": "ib_check_mr_access()",
    "ibv_reg_mr: no bytes": "core/umem.c __ib_umem_get_va()",
    "ibv_reg_mr: around the end": "core/umem.c __ib_umem_get_va()",
    "ibv_reg_mr: nothing is there": "core/umem.c __ib_umem_get_va(), by pin_user_pages_fast()",
    "ibv_reg_mr: to write what cannot be": "core/umem.c __ib_umem_get_va(), by pin_user_pages_fast()",
    "ibv_alloc_dm: an attribute": "providers/mlx5/verbs.c mlx5_alloc_dm()",
    "ibv_alloc_dm: ": "hw/mlx5/dm.c mlx5_cmd_alloc_memic()",
    "ibv_reg_dm_mr: on demand": "hw/mlx5/mr.c mlx5_ib_reg_dm_mr()",
    "ibv_reg_dm_mr: ": "core/uverbs_std_types_mr.c",
    "ibv_memcpy_to_dm: ": "providers/mlx5/verbs.c, for memory on board",
    "ibv_bind_mw: ": "libibverbs/verbs.h ibv_bind_mw()",
    "ibv_alloc_mw: ": "core/uverbs_cmd.c ib_uverbs_alloc_mw()",
    "ibv_create_qp: max_": "sw/rxe/rxe_qp.c rxe_qp_chk_cap(), providers/mlx5/verbs.c mlx5_calc_wq_size()",
    "ibv_create_qp: ": "sw/rxe/rxe_qp.c rxe_qp_chk_init()",
    "ibv_create_qp_ex: ": "providers/rxe/rxe.c check_qp_init_attr()",
    "ibv_create_cq: above the limit": "sw/rxe/rxe_verbs.c rxe_create_cq(), hw/mlx5/cq.c mlx5_ib_create_cq()",
    "ibv_create_cq: no entries": "core/uverbs_cmd.c create_cq()",
    "ibv_create_cq: a vector": "core/uverbs_cmd.c create_cq()",
    "ibv_create_cq_ex: VLAN numbers": "providers/rxe/rxe.c rxe_create_cq_ex()",
    "ibv_create_cq_ex: flags": "providers/mlx5/verbs.c create_cq(), sw/rxe/rxe_verbs.c rxe_create_cq()",
    "ibv_resize_cq: above the limit": "sw/rxe/rxe_verbs.c rxe_resize_cq(), hw/mlx5/cq.c mlx5_ib_resize_cq()",
    "ibv_resize_cq: ": "sw/rxe/rxe_queue.c resize_finish()",
    "ibv_create_srq: ": "sw/rxe/rxe_srq.c rxe_srq_chk_init(), hw/mlx5/srq.c mlx5_ib_create_srq()",
    "ibv_modify_srq: below what is in it": "sw/rxe/rxe_queue.c resize_finish()",
    "ibv_modify_srq: ": "sw/rxe/rxe_srq.c rxe_srq_chk_attr()",
    "ibv_query_port: ": "core/device.c ib_query_port()",
    "the speed of a port that there is not": "core/uverbs_std_types_device.c",
    "ibv_query_pkey: ": "libibverbs/verbs.c ibv_query_pkey()",
    "ibv_create_ah: a port": "core/uverbs_cmd.c ib_uverbs_create_ah()",
    "ibv_create_ah: no GID": "core/verbs.c rdma_fill_sgid_attr()",
    "ibv_create_ah: no GRH": "core/verbs.c rdma_check_ah_attr()",
    "ibv_post_send: in state": "sw/rxe/rxe_verbs.c rxe_post_send(), providers/mlx5/qp.c _mlx5_post_send()",
    "ibv_post_recv: in RESET": "sw/rxe/rxe_verbs.c rxe_post_recv(), providers/mlx5/qp.c mlx5_post_recv()",
    "ibv_post_send: more SGEs": "providers/rxe/rxe.c validate_send_wr(), providers/mlx5/qp.c _mlx5_post_send()",
    "ibv_post_recv: more SGEs": "providers/rxe/rxe.c rxe_post_one_recv(), providers/mlx5/qp.c mlx5_post_recv()",
    "ibv_post_send: fewer SGEs than none": "providers/rxe/rxe.c validate_send_wr()",
    "ibv_post_send: opcode ": "sw/rxe/rxe_verbs.c validate_send_wr(), providers/mlx5/qp.c _mlx5_post_send()",
    "ibv_post_send: more inline": "providers/rxe/rxe.c validate_send_wr(), providers/mlx5/qp.c set_data_inl_seg()",
    # The rest of the operations that a transport does not have.
    "ibv_post_send: ": "sw/rxe/rxe_verbs.c validate_send_wr(), of kernel users",
    "ibv_post_send: a datagram to no address": "nobody: they follow a null pointer",
    "ibv_post_send: full": "providers/rxe/rxe.c post_one_send(), providers/mlx5/qp.c _mlx5_post_send()",
    "ibv_wr_complete: data of nothing": "nobody: they write to another request",
    "ibv_wr_complete: a datagram to no address": "nobody: they follow a null pointer",
    "ibv_wr_complete: in RESET": "providers/mlx5/qp.c mlx5_send_wr_complete_error()",
    "ibv_wr_complete: full": "providers/mlx5/qp.c _common_wqe_init_op()",
    "ibv_wr_complete: ": "providers/rxe/rxe.c wr_set_sge_list(), wr_set_inline_data()",
    "ibv_post_recv: the QP has an SRQ": "providers/rxe/rxe.c rxe_post_recv()",
    "ibv_post_recv: full": "providers/rxe/rxe.c rxe_post_one_recv(), providers/mlx5/qp.c mlx5_post_recv()",
    "ibv_post_srq_recv: ": "providers/rxe/rxe.c rxe_post_one_recv(), providers/mlx5/srq.c mlx5_post_srq_recv()",
    "ibv_dealloc_pd: ": "core/uverbs_std_types.c uverbs_free_pd()",
    "ibv_destroy_cq: ": "core/verbs.c ib_destroy_cq_user()",
    "ibv_destroy_srq: ": "core/verbs.c ib_destroy_srq_user()",
    "ibv_destroy_comp_channel: ": "libibverbs/verbs.c ibv_destroy_comp_channel()",
    "ibv_attach_mcast: ": "core/verbs.c ib_attach_mcast()",
    "ibv_detach_mcast: ": "core/uverbs_cmd.c ib_uverbs_detach_mcast()",
}


def row(name, code, function, *args, **kwargs):
    ROWS.append((name, code, function, args, kwargs))


def errno_of(function, *args, **kwargs):
    try:
        result = function(*args, **kwargs)
    except PyverbsRDMAError as err:
        # Some of pyverbs' errors say it in words only.
        said = str(err).rpartition("Errno: ")[2].split(",")[0]
        return err.error_code or (int(said) if said.isdigit() else None)
    # Calls by ctypes return it.
    return result if isinstance(result, int) else 0


def memory(device):
    one, read_only = Memory(4 * PAGE), Memory(PAGE, prot=READ)
    reg = one.region
    row("ibv_reg_mr: remote write without local write", EINVAL, reg, device.pd, REMOTE_WRITE)
    row("ibv_reg_mr: remote atomic without local write", EINVAL, reg, device.pd, REMOTE_ATOMIC)
    row("ibv_reg_mr: rights that there are not", EINVAL, reg, device.pd, LOCAL_WRITE | 1 << 14)
    # IBV_ACCESS_FLUSH_GLOBAL, and IBV_ACCESS_FLUSH_PERSISTENT, which no memory here is known to be.
    row("ibv_reg_mr: to be flushed to global visibility", 0, lambda: reg(device.pd, 1 << 8).close())
    row("ibv_reg_mr: to be flushed to persistence", EOPNOTSUPP, reg, device.pd, 1 << 9)
    row("ibv_reg_mr: no bytes", EINVAL, MR, device.pd, 0, LOCAL_WRITE, address=one.address)
    row("ibv_reg_mr: around the end", EINVAL, MR, device.pd, (1 << 64) - 8, 0, address=one.address)
    row("ibv_reg_mr: nothing is there", EFAULT, MR, device.pd, PAGE, LOCAL_WRITE, address=PAGE)
    row("ibv_reg_mr: to write what cannot be", EFAULT, read_only.region, device.pd, LOCAL_WRITE)

    mr = one.region(device.pd)
    mw = MW(device.pd, e.IBV_MW_TYPE_2)
    bind = lambda mw, mr: MWBind(MWBindInfo(mr, mr.buf, PAGE, REMOTE_READ), e.IBV_SEND_SIGNALED)
    qp = Qp(device, RC)
    connect(qp, qp)
    # By libibverbs itself.
    row("ibv_bind_mw: of type 2", EINVAL, qp.qp.bind_mw, mw, bind(mw, mr))
    other = PD(device.context)
    theirs = one.region(other)
    row("ibv_bind_mw: a region of another PD", errno.EPERM, qp.qp.bind_mw, MW(device.pd, 1), bind(mw, theirs))
    row("ibv_alloc_mw: a type that there is not", EINVAL, MW, device.pd, 3)


def device_memory(device):
    most = device.context.query_device_ex().max_dm_size
    alloc = lambda length, **attributes: DM(device.context, AllocDmAttr(length=length, **attributes))
    row("ibv_alloc_dm: the largest", 0, alloc, most)
    row("ibv_alloc_dm: above the limit", EINVAL, alloc, most + 1)
    row("ibv_alloc_dm: far above the limit", EINVAL, alloc, (1 << 64) - 1)
    row("ibv_alloc_dm: no bytes", EINVAL, alloc, 0)
    row("ibv_alloc_dm: at a page", 0, alloc, 100, log_align_req=12)
    row("ibv_alloc_dm: at two pages", EINVAL, alloc, 100, log_align_req=13)
    row("ibv_alloc_dm: at what no number counts", EINVAL, alloc, 100, log_align_req=(1 << 32) - 1)
    row("ibv_alloc_dm: an attribute that there is not", EINVAL, alloc, 100, comp_mask=1)

    dm = alloc(100)
    reg = lambda offset, length, access=LOCAL_WRITE | ZERO_BASED: DMMR(device.pd, length, access, dm, offset)
    row("ibv_reg_dm_mr: all of it", 0, reg, 0, 100)
    row("ibv_reg_dm_mr: nothing, at the end", 0, reg, 100, 0)
    row("ibv_reg_dm_mr: beyond the end", EINVAL, reg, 96, 8)
    row("ibv_reg_dm_mr: around the end", EINVAL, reg, (1 << 64) - 4, 8)
    row("ibv_reg_dm_mr: by its address", EINVAL, reg, 0, 100, LOCAL_WRITE)
    row("ibv_reg_dm_mr: on demand", EINVAL, reg, 0, 100, LOCAL_WRITE | ZERO_BASED | e.IBV_ACCESS_ON_DEMAND)

    copy = lambda offset, length: dm.copy_to_dm(offset, bytes(length), length)
    row("ibv_memcpy_to_dm: all of it", 0, copy, 0, 100)
    row("ibv_memcpy_to_dm: an offset of 2", EINVAL, copy, 2, 4)
    row("ibv_memcpy_to_dm: a length of 2", EINVAL, copy, 4, 2)
    row("ibv_memcpy_to_dm: beyond the end", EFAULT, copy, 96, 8)
    row("ibv_memcpy_to_dm: around the end", EFAULT, copy, (1 << 64) - 4, 8)


def port_speed(device, port):
    """UVERBS_METHOD_QUERY_PORT_SPEED, for which ibv_query_port_speed is too new. An errno is negative."""
    speed = ctypes.c_uint64()
    attributes = struct.pack("HHHHQ", 0, 8, 1, 0, port)
    attributes += struct.pack("HHHHQ", 1, 8, 1, 0, ctypes.addressof(speed))
    call = struct.pack("HHHHQII", 24 + len(attributes), 0, 7, 2, 0, 0x46455252, 0) + attributes
    try:
        fcntl.ioctl(device.file, VERBS_IOCTL, bytearray(call))
    except OSError as err:
        return -err.errno
    return speed.value


def queue_pairs(device):
    info = device.context.query_device()

    def create(qp_type=RC, comp_mask=0, create_flags=0, send_ops=0, **caps):
        cq = device.cq(16)
        defaults = {"max_send_wr": 1, "max_recv_wr": 1, "max_send_sge": 1, "max_recv_sge": 1}
        attr = QPInitAttrEx(
            qp_type=qp_type,
            scq=cq,
            rcq=cq,
            cap=QPCap(**{**defaults, **caps}),
            pd=device.pd,
            comp_mask=e.IBV_QP_INIT_ATTR_PD | comp_mask,
            create_flags=create_flags,
            send_ops_flags=send_ops,
        )
        return QPEx(device.context, attr)

    for cap, most in (
        ("max_send_wr", info.max_qp_wr),
        ("max_recv_wr", info.max_qp_wr),
        ("max_send_sge", info.max_sge),
        ("max_recv_sge", info.max_sge),
        ("max_inline_data", MAX_INLINE),
    ):
        row(f"ibv_create_qp: the largest {cap}", 0, create, **{cap: most})
        row(f"ibv_create_qp: {cap} above the limit", EINVAL, create, **{cap: most + 1})
        row(f"ibv_create_qp: {cap} far above the limit", EINVAL, create, **{cap: (1 << 32) - 1})
    for name in ("RAW_PACKET", "XRC_SEND", "XRC_RECV", "DRIVER"):
        row(f"ibv_create_qp: {name}", EOPNOTSUPP, create, getattr(e, f"IBV_QPT_{name}"))
    flags = e.IBV_QP_INIT_ATTR_CREATE_FLAGS
    row("ibv_create_qp_ex: scatter FCS", EOPNOTSUPP, create, comp_mask=flags, create_flags=1 << 8)
    operations = e.IBV_QP_INIT_ATTR_SEND_OPS_FLAGS
    row(
        "ibv_create_qp_ex: RDMA WRITE on UD",
        EOPNOTSUPP,
        create,
        UD,
        comp_mask=operations,
        send_ops=e.IBV_QP_EX_WITH_RDMA_WRITE,
    )
    row(
        "ibv_create_qp_ex: TSO",
        EOPNOTSUPP,
        create,
        comp_mask=operations,
        send_ops=e.IBV_QP_EX_WITH_TSO,
    )


def other_queues(device):
    info = device.context.query_device()
    row("ibv_create_cq: the largest", 0, device.cq, info.max_cqe)
    row("ibv_create_cq: above the limit", EINVAL, device.cq, info.max_cqe + 1)
    row("ibv_create_cq: no entries", EINVAL, device.cq, 0)
    row("ibv_create_cq: a vector that there is not", EINVAL, CQ, device.context, 1, comp_vector=1 << 16)

    def create_ex(**attributes):
        return CQEX(device.context, CqInitAttrEx(**{"cqe": 1, **attributes}))

    row("ibv_create_cq_ex: VLAN numbers", EOPNOTSUPP, create_ex, wc_flags=e.IBV_WC_EX_WITH_CVLAN)
    row("ibv_create_cq_ex: flags that there are not", EOPNOTSUPP, create_ex, comp_mask=1, flags=1 << 5)

    qp = Qp(device, RC, max_send_wr=200)
    connect(qp, qp)
    for _ in range(4):
        qp.qp.post_send(chain([rdma_write() for _ in range(50)]))

    def resize(entries):
        qp.send_cq.resize(entries)

    row("ibv_resize_cq: below what is in it", EINVAL, resize, 4)
    row("ibv_resize_cq: no entries", EINVAL, resize, 0)
    row("ibv_resize_cq: above the limit", EINVAL, resize, info.max_cqe + 1)
    row("ibv_resize_cq: larger", 0, resize, 1000)

    row("ibv_create_srq: the largest", 0, device.srq, info.max_srq_wr)
    row("ibv_create_srq: above the limit", EINVAL, device.srq, info.max_srq_wr + 1)
    row("ibv_create_srq: too many SGEs", EINVAL, device.srq, 1, info.max_srq_sge + 1)
    srq = device.srq(16)
    row("ibv_modify_srq: a limit above the size", EINVAL, srq.modify, SrqAttr(srq_limit=17), e.IBV_SRQ_LIMIT)
    srq.post_recv(chain([recv_wr(number, []) for number in range(3)]))

    def resize_srq(max_wr, limit=None):
        mask = e.IBV_SRQ_MAX_WR if limit is None else e.IBV_SRQ_MAX_WR | e.IBV_SRQ_LIMIT
        srq.modify(SrqAttr(max_wr=max_wr, srq_limit=limit or 0), mask)

    row("ibv_modify_srq: below what is in it", EINVAL, resize_srq, 2)
    row("ibv_modify_srq: no entries", EINVAL, resize_srq, 0)
    row("ibv_modify_srq: above the limit", EINVAL, resize_srq, info.max_srq_wr + 1)
    row("ibv_modify_srq: a new size, and a limit above it", EINVAL, resize_srq, 32, 33)
    row("ibv_modify_srq: larger, with a limit", 0, resize_srq, 32, 3)

    row("ibv_query_port: one that there is not", EINVAL, device.context.query_port, 2)
    if NO_KERNEL:
        # These are calls of the kernel's.
        del REFUSED_BY["the speed of a port that there is not"]
    else:
        row("the speed of port 1: 4x EDR, in 100 Mbit/s", 1000, port_speed, device, 1)
        row("the speed of a port that there is not", -EINVAL, port_speed, device, 2)
    # ibv_query_pkey(3): "0 on success, and -1 on error".
    row("ibv_query_pkey: one that there is not", -1, device.context.query_pkey, 1, 1)

    def address(pd=device.pd, **attributes):
        route = GlobalRoute(dgid=device.gid, sgid_index=attributes.pop("sgid_index", device.gid_index))
        return AH(pd, attr=AHAttr(**{"port_num": 1, "is_global": 1, "gr": route, **attributes}))

    row("ibv_create_ah: a port that there is not", EINVAL, address, port_num=2)
    row("ibv_create_ah: no GID at the index", errno.ENODATA, address, sgid_index=100)
    row("ibv_create_ah: no GRH (IBTA A17.4.4)", EINVAL, address, is_global=0)


STATE, CUR_STATE = e.IBV_QP_STATE, e.IBV_QP_CUR_STATE

# IBTA table 91 (ib_modify_qp_is_ok): what a transition needs, with what it needs of this QP.
INIT_NEEDS = {RC: ("PKEY_INDEX", "PORT", "ACCESS_FLAGS"), UD: ("PKEY_INDEX", "PORT", "QKEY")}
INIT_NEEDS[UC] = INIT_NEEDS[RC]
RTR_NEEDS = {RC: ("AV", "PATH_MTU", "DEST_QPN", "RQ_PSN", "MAX_DEST_RD_ATOMIC", "MIN_RNR_TIMER"), UD: ()}
RTR_NEEDS[UC] = RTR_NEEDS[RC][:4]
RTS_NEEDS = {RC: ("SQ_PSN", "TIMEOUT", "RETRY_CNT", "RNR_RETRY", "MAX_QP_RD_ATOMIC"), UD: ("SQ_PSN",)}
RTS_NEEDS[UC] = RTS_NEEDS[UD]


def mask_of(names):
    return sum(int(getattr(e, f"IBV_QP_{n}")) for n in names)


def transitions(device):
    def modify(qp_type, before, names, **attributes):
        """From a state with these attributes, where all others are right."""
        qp = Qp(device, qp_type)
        if before in (INIT, RTR, RTS):
            qp.to_init()
        if before in (RTR, RTS):
            qp.to_rtr(device, qp.number)
        if before == RTS:
            qp.to_rts()
        attr = QPAttr(port_num=1)
        attr.path_mtu, attr.dest_qp_num, attr.min_rnr_timer = e.IBV_MTU_1024, qp.number, 1
        attr.max_rd_atomic = attr.max_dest_rd_atomic = 1
        attr.timeout, attr.retry_cnt, attr.rnr_retry, attr.qkey = 14, 7, 7, QKEY
        attr.ah_attr = attributes.pop("av", None) or device.address(device)
        for name, value in attributes.items():
            setattr(attr, name, value)
        state_before = qp.state()
        try:
            qp.qp.modify(attr, mask_of(names))
        except PyverbsRDMAError:
            assert qp.state() == state_before
            raise
        finally:
            qp.close()

    for qp_type, transport in TRANSPORTS.items():
        for before, after, needs in (
            (RESET, INIT, INIT_NEEDS[qp_type]),
            (INIT, RTR, RTR_NEEDS[qp_type]),
            (RTR, RTS, RTS_NEEDS[qp_type]),
        ):
            named = f"ibv_modify_qp: {transport}, {before} to {after}"
            go = lambda names, qp_type=qp_type, before=before, after=after, **attributes: modify(
                qp_type, before, ("STATE", *names), qp_state=after, **attributes
            )
            row(named, 0, go, needs)
            for name in needs:
                row(f"{named} without {name}", EINVAL, go, [n for n in needs if n != name])
            row(f"{named}, to a wrong state before", EINVAL, go, [*needs, "CUR_STATE"], cur_qp_state=SQE)
            row(f"{named} with an alternate path", EINVAL, go, [*needs, "ALT_PATH"])
            row(f"{named} with a rate limit", EOPNOTSUPP, go, [*needs, "RATE_LIMIT"])
            row(f"{named} with capabilities", EINVAL, go, [*needs, "CAP"])
            wrong = "QKEY" if qp_type != UD else "ACCESS_FLAGS"
            row(f"{named} with {wrong}", EINVAL, go, [*needs, wrong])
        for before, after in ((RESET, RTR), (RESET, RTS), (INIT, RTS), (INIT, SQD), (RTR, SQD), (RTS, INIT), (RTS, RTR)):
            row(
                f"ibv_modify_qp: {transport}, {before} to {after}",
                EINVAL,
                modify,
                qp_type,
                before,
                ("STATE",),
                qp_state=after,
            )
        row(f"ibv_modify_qp: {transport}, to a state that there is not", EINVAL, modify, qp_type, RTS, ("STATE",), qp_state=7)

    def init(**attributes):
        modify(RC, RESET, ("STATE", *INIT_NEEDS[RC]), qp_state=INIT, **attributes)

    def rtr(**attributes):
        modify(RC, INIT, ("STATE", *RTR_NEEDS[RC]), qp_state=RTR, **attributes)

    def rts(**attributes):
        modify(RC, RTR, ("STATE", *RTS_NEEDS[RC]), qp_state=RTS, **attributes)

    info = device.context.query_device()
    # What is accepted though it is beyond the range: rdma_rxe or a ConnectX accepts it (the table of
    # what they refuse is in ferroce-core, qp/tests/modify.rs).
    for name, function, good, bad in (
        ("port_num", init, (1,), (0, 2, 255)),
        ("pkey_index", init, (0,), (1, 65535)),
        ("qp_access_flags", init, (REMOTE, 1 << 13), ()),
        ("path_mtu", rtr, (e.IBV_MTU_256, e.IBV_MTU_2048, e.IBV_MTU_4096), (0, 6)),
        ("max_dest_rd_atomic", rtr, (info.max_qp_rd_atom,), (info.max_qp_rd_atom + 1, 255)),
        ("min_rnr_timer", rtr, (31, 32, 255), ()),
        ("dest_qp_num", rtr, (1 << 24,), ()),
        ("max_rd_atomic", rts, (info.max_qp_init_rd_atom,), (info.max_qp_init_rd_atom + 1, 255)),
        ("timeout", rts, (31, 32, 255), ()),
        ("retry_cnt", rts, (0, 8, 255), ()),
        ("rnr_retry", rts, (0, 8, 255), ()),
    ):
        for value in (*good, *bad):
            code = EINVAL if value in bad else 0
            row(f"ibv_modify_qp: {name} {int(value)}", code, function, **{name: value})

    def av(**attributes):
        route = GlobalRoute(dgid=device.gid, sgid_index=attributes.pop("sgid_index", device.gid_index))
        attributes.setdefault("gr", route)
        rtr(av=AHAttr(**{"port_num": 1, "is_global": 1, **attributes}))

    # UCX passes 32 bits.
    all_ones = GlobalRoute(dgid=device.gid, sgid_index=device.gid_index, flow_label=0xFFFFFFFF)
    row("ibv_modify_qp: a flow label of 32 bits", 0, av, gr=all_ones)
    row("ibv_modify_qp: an address of another port", EINVAL, av, port_num=2)
    row("ibv_modify_qp: no GID at the index", errno.ENODATA, av, sgid_index=100)
    row("ibv_modify_qp: no GRH (IBTA A17.4.4)", EINVAL, av, is_global=0)


def rdma_write(sges=(), **kwargs):
    wr = send_wr(e.IBV_WR_RDMA_WRITE, sges, **kwargs)
    wr.set_wr_rdma(0, 0)
    return wr


def posting(device):
    states = {}
    for state in (RESET, INIT, RTR):
        qp = states[state] = Qp(device, RC)
        if state != RESET:
            qp.to_init()
        if state == RTR:
            qp.to_rtr(device, qp.number)
        row(f"ibv_post_send: in state {state}", EINVAL, qp.qp.post_send, rdma_write())
    row("ibv_post_recv: in RESET (IBTA C10-97.2.1)", EINVAL, states[RESET].qp.post_recv, recv_wr(1, []))
    row("ibv_post_recv: in INIT", 0, states[INIT].qp.post_recv, recv_wr(1, []))

    mr = Memory(PAGE).region(device.pd)
    sge = (mr.buf, 1, mr.lkey)
    small = Qp(device, RC, max_send_wr=4, max_recv_wr=4, max_send_sge=2, max_recv_sge=2, max_inline_data=64)
    connect(small, small)
    caps = small.qp.query(e.IBV_QP_CAP)[0].cap
    post, post_recv = small.qp.post_send, small.qp.post_recv
    row("ibv_post_send: more SGEs than the QP has", EINVAL, post, rdma_write([sge] * (caps.max_send_sge + 1)))
    row("ibv_post_send: more SGEs than any QP has", EINVAL, post, rdma_write([sge] * 33))
    row("ibv_post_recv: more SGEs than the QP has", EINVAL, post_recv, recv_wr(1, [sge] * (caps.max_recv_sge + 1)))
    row("ibv_post_recv: more SGEs than any QP has", EINVAL, post_recv, recv_wr(1, [sge] * 33))

    def odd(**fields):
        wr = rdma_write([sge])
        for name, value in fields.items():
            setattr(wr, name, value)
        return wr

    row("ibv_post_send: fewer SGEs than none", EINVAL, post, odd(num_sge=-1))
    for opcode in (10, 11, 12, 13, 14, 32, 99):
        row(f"ibv_post_send: opcode {opcode}", EINVAL, post, odd(opcode=opcode))
    flagged = Qp(device, RC)
    connect(flagged, flagged)
    row("ibv_post_send: flags that there are not", 0, flagged.qp.post_send, rdma_write(flags=0xFFFFFFF2))
    inline = e.IBV_SEND_INLINE
    long = [(mr.buf, caps.max_inline_data + 1, 0)]
    row("ibv_post_send: more inline data than the QP has", EINVAL, post, rdma_write(long, flags=inline))
    row("ibv_post_send: a read with inline data", EINVAL, post, odd(opcode=e.IBV_WR_RDMA_READ, send_flags=inline))
    ud, uc = Qp(device, UD), Qp(device, UC)
    for qp in (ud, uc):
        connect(qp, qp)
    for opcode in ("RDMA_WRITE", "RDMA_READ", "ATOMIC_FETCH_AND_ADD", "SEND_WITH_INV", "LOCAL_INV"):
        wr = send_wr(getattr(e, f"IBV_WR_{opcode}"), [sge])
        wr.set_wr_ud(ud.ah, ud.number, QKEY)
        row(f"ibv_post_send: {opcode} on UD", EINVAL, ud.qp.post_send, wr)
    for opcode in ("RDMA_READ", "ATOMIC_CMP_AND_SWP", "SEND_WITH_INV"):
        row(f"ibv_post_send: {opcode} on UC", EINVAL, uc.qp.post_send, send_wr(getattr(e, f"IBV_WR_{opcode}"), [sge]))
    row("ibv_post_send: a datagram to no address", EINVAL, ud.qp.post_send, send_wr(e.IBV_WR_SEND, [sge]))

    def batch(qp, fill):
        qp.wr_start()
        qp.wr_id = qp.wr_flags = 0
        fill(qp)
        qp.wr_complete()

    def data(set_data):
        return lambda qp: (qp.wr_rdma_write(0, 0), set_data(qp))

    row("ibv_wr_complete: nothing was begun", 0, batch, small.qp, lambda qp: None)
    row("ibv_wr_complete: data of nothing", EINVAL, batch, small.qp, lambda qp: qp.wr_set_sge(SGE(*sge)))
    for count in (caps.max_send_sge + 1, 33):
        too_many = data(lambda qp, count=count: qp.wr_set_sge_list(count, [SGE(*sge)] * count))
        row(f"ibv_wr_complete: {count} SGEs", EINVAL, batch, small.qp, too_many)
    for length in (caps.max_inline_data + 1, MAX_INLINE + 1):
        too_long = data(lambda qp, length=length: qp.wr_set_inline_data(mr.buf, length))
        row(f"ibv_wr_complete: {length} bytes inline", EINVAL, batch, small.qp, too_long)
    row("ibv_wr_complete: a datagram to no address", EINVAL, batch, ud.qp, lambda qp: qp.wr_send())
    row("ibv_wr_complete: in RESET", EINVAL, batch, states[RESET].qp, lambda qp: qp.wr_send())

    # Queues that are full: SQD holds what is posted, and receives wait for messages.
    def full(post, wr, count):
        for _ in range(count):
            post(wr)
        post(wr)

    for shared, requests in ((False, caps.max_recv_wr), (True, 16)):
        srq = device.srq(16)
        to = srq if shared else Qp(device, RC, max_recv_wr=4)
        if not shared:
            to.to_init()
            to = to.qp
        row(f"ibv_post{'_srq' * shared}_recv: full", ENOMEM, full, to.post_recv, recv_wr(1, []), requests)
        if shared:
            row("ibv_post_srq_recv: too many SGEs", EINVAL, device.srq(4, 2).post_recv, recv_wr(1, [sge] * 33))
            member = Qp(device, RC, srq=srq)
            member.to_init()
            row("ibv_post_recv: the QP has an SRQ", EINVAL, member.qp.post_recv, recv_wr(1, []))

    waiting = Qp(device, RC, max_send_wr=4)
    connect(waiting, waiting)
    room = waiting.qp.query(e.IBV_QP_CAP)[0].cap.max_send_wr
    waiting.to(SQD)
    row("ibv_post_send: full", ENOMEM, full, waiting.qp.post_send, rdma_write(), room)
    row("ibv_wr_complete: full", ENOMEM, batch, waiting.qp, lambda qp: qp.wr_rdma_write(0, 0))


class Verbs:
    """libibverbs without pyverbs, which will not destroy what is in use."""

    class InitAttr(ctypes.Structure):
        _fields_ = [(n, ctypes.c_void_p) for n in ("context", "send_cq", "recv_cq", "srq")]
        _fields_ += [("cap", ctypes.c_uint32 * 5), ("qp_type", ctypes.c_int), ("sq_sig_all", ctypes.c_int)]

    class SrqInitAttr(ctypes.Structure):
        _fields_ = [("context", ctypes.c_void_p), ("attr", ctypes.c_uint32 * 3)]

    def __init__(self):
        self.library = ctypes.CDLL("libibverbs.so.1", use_errno=True)

    def make(self, name, *args):
        function = self.library[name]
        function.restype = ctypes.c_void_p
        result = function(*(ctypes.c_void_p(a) if isinstance(a, int) and a > 1 << 16 else a for a in args))
        assert result, f"{name}: {errno.errorcode[ctypes.get_errno()]}"
        return result

    def call(self, name, *args):
        return self.library[name](*(ctypes.c_void_p(a) if isinstance(a, int) and a > 1 << 16 else a for a in args))


def in_use(name):
    """Each object with one that needs it: EBUSY as long as that is there, and then it can go."""
    verbs = Verbs()
    verbs.library.ibv_get_device_name.restype = ctypes.c_char_p
    devices = ctypes.cast(verbs.make("ibv_get_device_list", None), ctypes.POINTER(ctypes.c_void_p))
    device = next(d for d in devices if verbs.library.ibv_get_device_name(ctypes.c_void_p(d)) == name.encode())
    context = verbs.make("ibv_open_device", device)
    memory = Memory(PAGE)

    def pd():
        return verbs.make("ibv_alloc_pd", context)

    def cq(channel=None):
        return verbs.make("ibv_create_cq", context, 1, None, channel, 0)

    def srq(pd):
        attr = verbs.SrqInitAttr(attr=(1, 1, 0))
        return verbs.make("ibv_create_srq", pd, ctypes.byref(attr))

    def qp(pd, send_cq, srq=None, qp_type=RC):
        attr = verbs.InitAttr(send_cq=send_cq, recv_cq=send_cq, srq=srq, cap=(1, 1, 1, 1, 0), qp_type=qp_type)
        return verbs.make("ibv_create_qp", pd, ctypes.byref(attr))

    def mr(pd):
        return verbs.make("ibv_reg_mr", pd, memory.address, ctypes.c_size_t(PAGE), 1)

    def busy(destroy, thing, release, user):
        assert verbs.call(destroy, thing) == EBUSY
        assert verbs.call(release, user) == 0
        return verbs.call(destroy, thing) or EBUSY

    domain = pd()
    row("ibv_dealloc_pd: has a region", EBUSY, busy, "ibv_dealloc_pd", domain, "ibv_dereg_mr", mr(domain))
    domain = pd()
    row("ibv_dealloc_pd: has an SRQ", EBUSY, busy, "ibv_dealloc_pd", domain, "ibv_destroy_srq", srq(domain))
    domain, queue = pd(), cq()
    pair = qp(domain, queue)
    row("ibv_dealloc_pd: has a QP", EBUSY, busy, "ibv_dealloc_pd", domain, "ibv_destroy_qp", pair)
    domain, queue = pd(), cq()
    row("ibv_destroy_cq: has a QP", EBUSY, busy, "ibv_destroy_cq", queue, "ibv_destroy_qp", qp(domain, queue))
    shared = srq(domain)
    pair = qp(domain, cq(), shared)
    row("ibv_destroy_srq: has a QP", EBUSY, busy, "ibv_destroy_srq", shared, "ibv_destroy_qp", pair)
    channel = verbs.make("ibv_create_comp_channel", context)
    queue = cq(channel)
    row("ibv_destroy_comp_channel: has a CQ", EBUSY, busy, "ibv_destroy_comp_channel", channel, "ibv_destroy_cq", queue)
    # Multicast (ibv_attach_mcast(3)): UD alone; IBTA 10.5.
    group = (ctypes.c_uint8 * 16)(0xFF, 0x0E, *[0] * 13, 1)
    nobody = (ctypes.c_uint8 * 16)(0xFE, 0x80, *[0] * 13, 1)
    connected, datagrams = qp(domain, cq()), qp(domain, cq(), qp_type=UD)
    row("ibv_attach_mcast: RC", EINVAL, verbs.call, "ibv_attach_mcast", connected, group, 0)
    row("ibv_attach_mcast: no group", EINVAL, verbs.call, "ibv_attach_mcast", datagrams, nobody, 0)
    row("ibv_detach_mcast: not attached", EINVAL, verbs.call, "ibv_detach_mcast", datagrams, group, 0)

    # On Ethernet a LID means nothing, but `ib_core` tells attachments apart by it.
    def twice(pair):
        for lid in 0, 1:
            assert verbs.call("ibv_attach_mcast", pair, group, lid) == 0
        assert verbs.call("ibv_detach_mcast", pair, group, 0) == 0
        assert verbs.call("ibv_destroy_qp", pair) == EBUSY
        assert verbs.call("ibv_detach_mcast", pair, group, 1) == 0
        return verbs.call("ibv_destroy_qp", pair)

    row("ibv_attach_mcast: twice, by two LIDs", 0, twice, qp(domain, cq(), qp_type=UD))


def refused_by(name):
    """What the longest name says that this one begins with; None if there is none."""
    names = [known for known in REFUSED_BY if name.startswith(known)]
    return max(names, key=len, default=None)


def main():
    device = Device(sys.argv[1])
    for group in (memory, device_memory, queue_pairs, other_queues, transitions, posting):
        group(device)
    in_use(sys.argv[1])
    failed, used = 0, set()
    for name, code, function, args, kwargs in ROWS:
        found = errno_of(function, *args, **kwargs)
        named = lambda number: errno.errorcode.get(number, number)
        if found == code:
            by = refused_by(name)
            used.add(by)
            refused = code != 0 and not name.startswith(("ibv_modify_qp", "the speed of port 1"))
            assert not refused or by, f"who else refuses it? {name}"
            print(f"ok {name}: {named(code)}{f' ({REFUSED_BY[by]})' * refused if by else ''}")
        else:
            failed += 1
            print(f"FAILED {name}: {named(found)}, not {named(code)}")
    assert used >= REFUSED_BY.keys(), REFUSED_BY.keys() - used
    print(f"{len(ROWS)} rows, {failed} failed")
    sys.exit(failed > 0)


main()
