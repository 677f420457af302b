# SPDX-License-Identifier: MIT OR Apache-2.0
"""What `ferroce top` tells of queue pairs that move, that wait, and that have failed.

    top.py FERROCE DEVICE [rxe]
"""

import json
import os
import subprocess
import sys
import threading

from rig import *

LENGTH = 64


def rows(*arguments):
    """This process, in the report of a moment."""
    command = [FERROCE, "top", "--once", "--json", "--interval", "0.3", *arguments]
    report = json.loads(subprocess.check_output(command))
    (device,) = (row for row in report if row["name"] == DEVICE)
    (program,) = (row for row in device["programs"] if row["pid"] == os.getpid())
    return device, program, {qp["number"]: qp for qp in program["qps"]}


FERROCE, DEVICE = sys.argv[1:3]
IS_RXE = sys.argv[3:] == ["rxe"]
device = Device(DEVICE)
memory = Memory(PAGE)
region = memory.region(device.pd)
sges = [(memory.address, LENGTH, region.lkey)]
sender, receiver = Qp(device, RC), Qp(device, RC)
connect(sender, receiver, rnr_timer=20)

if not IS_RXE:
    # It has no receive, so it waits.
    sender.qp.post_send(send_wr(e.IBV_WR_SEND, sges))

    def waits():
        _, _, qps = rows(DEVICE)
        return qps[sender.number]["waits_for"] == "no receive at peer"

    until("a queue pair that waits", waits)
    _, program, qps = rows(DEVICE)
    found = qps[sender.number]
    assert found["send_pending"] == 1 and found["rnr_tries"] > 0, found
    assert (found["type"], found["state"], found["peer"]) == ("RC", "RTS", receiver.number), found
    assert qps[receiver.number]["receives"] == 0, qps
    receiver.post_recv([(1, sges)])
    sender.sent(), receiver.received()

# Messages, for as long as somebody looks.
is_over = threading.Event()


def talk():
    while not is_over.is_set():
        receiver.post_recv([(1, sges)])
        sender.qp.post_send(send_wr(e.IBV_WR_SEND, sges))
        sender.sent(), receiver.received()


def moves():
    """A look at the two while they talk. Of a queue that is executed at that moment nothing is told."""
    found, _, qps = rows(DEVICE)
    sent = qps[sender.number]["packets" if IS_RXE else "messages"]
    return sent and (found, qps)


thread = threading.Thread(target=talk)
thread.start()
try:
    found, qps = until("messages", moves)
finally:
    is_over.set()
    thread.join()
if IS_RXE:
    # Of a queue pair it tells no more than PSNs.
    assert found["sent"] > 0, found
    assert qps[sender.number]["messages"] is None, qps
    print("rdma_rxe's devices are told")
    sys.exit()
assert found["messages"] > 0, found
# A device in user space has no counters.
assert NO_KERNEL or found["unit"] == "bytes" and found["sent"] > 0, found
assert qps[receiver.number]["received"] > 0, qps
assert qps[sender.number]["waits_for"] is None, qps

# A completion that nobody polls.
receiver.post_recv([(1, sges)])
sender.qp.post_send(send_wr(e.IBV_WR_SEND, sges))
until("a completion", lambda: rows(DEVICE)[1]["completions"] == 2)
sender.sent(), receiver.received()

sender.to(ERR)
_, _, qps = rows("--sort", "waiting")
assert qps[sender.number]["waits_for"] == "reset: it has failed", qps

text = subprocess.check_output([FERROCE, "top", "--once", "--interval", "0.1"], text=True)
assert f"{os.getpid()} python3" in text and "reset: it has failed" in text, text
assert all(len(line) <= 80 for line in text.splitlines()), text
print(text)
print("all of it is told")
